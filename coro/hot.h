/*
 * hot.h - what hot paths read of their hub and task without a call.
 *
 * Knows:   the first fields of both, which never change their places.
 * Ignores: the rest, which is coro's own (hub.h).
 *
 * For the pool and the drivers of this tree: taking a lease and giving it back asks some ten
 * times who is running and what time it is. Each function here does what its namesake of the
 * public headers does.
 */
#ifndef HOT_H
#define HOT_H

#include <weir/hub.h>

struct hot_hub {
    weir_task *running;
    int64_t    now_ns;
    unsigned   spent;
};

struct hot_task {
    weir_exit_hook hooks;
    int64_t        limit_ns;
    bool           canceled, shielded, no_yield;
};

/* This thread's hub; NULL without one. */
extern WEIR_API __thread struct hot_hub *weir_hot_hub_
    __attribute__((tls_model("initial-exec")));

static inline weir_task *hot_self(void)
{
    return weir_hot_hub_ ? weir_hot_hub_->running : NULL;
}

static inline int64_t hot_now(void)
{
    return weir_hot_hub_ ? weir_hot_hub_->now_ns : weir_now();
}

/* weir_pending(WEIR_FOREVER), in a coroutine of this thread's hub. */
static inline weir_status hot_pending_in(const struct hot_hub *hub)
{
    const struct hot_task *task = (const struct hot_task *)hub->running;

    if (task->canceled && !task->shielded)
        return WEIR_CANCELED;
    return task->limit_ns <= hub->now_ns ? WEIR_TIMEOUT : WEIR_OK;
}

static inline weir_status hot_pending(void)
{
    return hot_self() ? hot_pending_in(weir_hot_hub_) : WEIR_OK;
}

static inline void hot_spend_in(struct hot_hub *hub, unsigned units)
{
    if (hub->spent + units < WEIR_UNITS)
        hub->spent += units;
    else
        weir_spend(units);
}

static inline void hot_spend(unsigned units)
{
    if (weir_hot_hub_)
        hot_spend_in(weir_hot_hub_, units);
}

static inline void hot_exit_hook_add(weir_task *task, weir_exit_hook *hook)
{
    weir_exit_hook *head = &((struct hot_task *)task)->hooks;

    hook->prev = head;
    hook->next = head->next;
    hook->prev->next = hook;
    hook->next->prev = hook;
}

static inline void hot_exit_hook_remove(weir_exit_hook *hook)
{
    hook->prev->next = hook->next;
    hook->next->prev = hook->prev;
}

#endif
