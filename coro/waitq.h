/*
 * waitq.h - those who wait for the same thing, and how it is handed to them.
 *
 * Knows:   the order in which they came, who was served.
 * Ignores: what they wait for.
 *
 * A waiter stands on the stack of the one who sleeps. Whoever serves him takes him out of the
 * queue and writes into him what he is to be told; what the park said does not matter then.
 * So a deadline or a cancel in the same turn loses nothing, and one who was served never
 * looks at the queue again: it may be gone, with whatever it was part of.
 *
 * A queue of zeroes is an empty one, so that primitives can be static or part of anything.
 */
#ifndef WAITQ_H
#define WAITQ_H

#include "park.h"

#include <weir/sync.h>

/* What a call that fails at once, or finds all it wants, is charged: see weir_spend(). */
enum { WAITQ_FAILED_UNITS = 64, WAITQ_SERVED_UNITS = 1 };

struct weir_waiter_ {
    struct weir_waiter_ *prev, *next;
    weir_waker           waker;
    bool                 served;
    weir_status          told; /* once served */
};

static inline void waitq_append(weir_waitq *queue, struct weir_waiter_ *waiter)
{
    waiter->next = NULL;
    waiter->prev = queue->last_;
    if (queue->last_)
        queue->last_->next = waiter;
    else
        queue->first_ = waiter;
    queue->last_ = waiter;
}

static inline void waitq_remove(weir_waitq *queue, struct weir_waiter_ *waiter)
{
    if (waiter->prev)
        waiter->prev->next = waiter->next;
    else
        queue->first_ = waiter->next;
    if (waiter->next)
        waiter->next->prev = waiter->prev;
    else
        queue->last_ = waiter->prev;
}

/* The one who has waited longest, served, but not woken yet; NULL where nobody waits. */
static inline struct weir_waiter_ *waitq_take(weir_waitq *queue, weir_status told)
{
    struct weir_waiter_ *waiter = queue->first_;

    if (!waiter)
        return NULL;
    waitq_remove(queue, waiter);
    waiter->served = true;
    waiter->told = told;
    return waiter;
}

static inline bool waitq_tell_first(weir_waitq *queue, weir_status told)
{
    struct weir_waiter_ *waiter = waitq_take(queue, told);

    if (!waiter)
        return false;
    weir_wake(waiter->waker);
    return true;
}

static inline void waitq_tell_all(weir_waitq *queue, weir_status told)
{
    while (waitq_tell_first(queue, told))
        continue;
}

/*
 * Sleep in the queue until served. `me` is zero but for what its owner's kind needs. Inlined
 * into each that sleeps, for the reason given in park.h.
 */
PARK_INLINE weir_status waitq_sleep(weir_waitq *queue, struct weir_waiter_ *me,
                                    weir_deadline deadline, const char *why)
{
    weir_task *self = task_here();

    if (!self)
        return weir_park(deadline, why); /* refused */
    park_begin(self);
    me->waker = (weir_waker){ self, self->token };
    waitq_append(queue, me);
    weir_status status = park_until(self, deadline, why);
    if (me->served)
        return me->told;
    waitq_remove(queue, me);
    return status;
}

/* For a call that need not sleep but may yield: what it returns, and what it costs. */
static inline weir_status waitq_fail(weir_status status)
{
    hot_spend(WAITQ_FAILED_UNITS);
    return status;
}

static inline weir_status waitq_succeed(void)
{
    hot_spend(WAITQ_SERVED_UNITS);
    return WEIR_OK;
}

#endif
