/*
 * park.h - parking the running coroutine, inlined into whoever waits.
 *
 * Knows:   what a park does, and why one does not begin.
 * Ignores: what is waited for.
 *
 * Each query of a driver parks once, and is resumed by a jump that the processor's stack of
 * return addresses knows nothing of: every function between the jump and the caller costs a
 * mispredicted return. Hence one body, expanded in weir_park(), weir_sleep() and
 * weir_wait_fd().
 */
#ifndef PARK_H
#define PARK_H

#include "hub.h"

#define PARK_INLINE __attribute__((always_inline)) static inline

PARK_INLINE void park_restore(weir_hub *hub, int saved_errno, const struct cxx_state *cxx)
{
    *hub->errno_at = saved_errno;
    if (hub->cxx_at)
        *hub->cxx_at = *cxx;
}

PARK_INLINE void park_save(weir_hub *hub, int *saved_errno, struct cxx_state *cxx)
{
    *saved_errno = *hub->errno_at;
    if (hub->cxx_at)
        *cxx = *hub->cxx_at;
}

/* Its state says already why it leaves. */
PARK_INLINE void park_switch_away(weir_hub *hub, weir_task *self)
{
    weir_task *next = hub_pick(hub);

    hub->spent = 0;
    if (next == self) {
        self->state = TASK_RUNNING;
        return;
    }
    park_save(hub, &self->saved_errno, &self->cxx);
    hub->running = next;
    if (next)
        next->state = TASK_RUNNING;
    context_switch(&self->context, next ? &next->context : &hub->context);
    park_restore(hub, self->saved_errno, &self->cxx);
}

/* Deadlines are lazy: see wait.c. */
PARK_INLINE void park_ring_at(weir_task *task, int64_t at_ns)
{
    task->wake_at_ns = at_ns;
    if (at_ns != INT64_MAX && (!task->alarm.slot || task->alarm.at_ns > at_ns))
        weir_alarm_set(&task->alarm, at_ns, task_alarm_rang);
}

/* weir_waker_new(), for a wait that only time, a cancel or the hub itself ends. */
PARK_INLINE void park_begin(weir_task *task)
{
    task->woken = false;
    task->token++;
}

/* weir_park(), in a coroutine. */
PARK_INLINE weir_status park_until(weir_task *task, weir_deadline deadline, const char *why)
{
    weir_hub *hub = task->hub;
    int64_t   until = deadline.at_ns < task->limit_ns ? deadline.at_ns : task->limit_ns;

    bool      rare = task->no_yield | task->woken | task->canceled | (until <= hub->now_ns);

    if (__builtin_expect(rare, 0)) {
        weir_status status;
        if (!task_must_park(task, until, why, &status))
            return status;
    }
    park_ring_at(task, until);
    task->why = why;
    task->state = TASK_PARKED;
    park_switch_away(hub, task);
    task->token++;
    task->woken = false;
    task->why = NULL;
    return task->woken_by;
}

#endif
