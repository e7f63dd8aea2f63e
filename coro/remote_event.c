/*
 * remote_event.c - something has happened on another thread.
 *
 * One lock guards all remote events of the process. A lock in each would be cheaper to share,
 * but it could not tell when the event may be freed: whoever was woken may free it while
 * its setter is still about to unlock. Here he takes the lock once after he was served; when
 * he has it, the setter is done with the event.
 */
#include "waitq.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock. */
static void tell_all(weir_remote_event *event, weir_status told)
{
    struct weir_waiter_ *waiter;

    while ((waiter = waitq_take(&event->waiters_, told)) != NULL)
        weir_wake_remote(waiter->waker); /* any hub's */
}

void weir_remote_event_set(weir_remote_event *event)
{
    pthread_mutex_lock(&lock);
    event->set_ = true;
    tell_all(event, WEIR_OK);
    pthread_mutex_unlock(&lock);
}

void weir_remote_event_clear(weir_remote_event *event)
{
    pthread_mutex_lock(&lock);
    event->set_ = false;
    pthread_mutex_unlock(&lock);
}

bool weir_remote_event_is_set(weir_remote_event *event)
{
    pthread_mutex_lock(&lock);
    bool set = event->set_;
    pthread_mutex_unlock(&lock);
    return set;
}

void weir_remote_event_finish(weir_remote_event *event)
{
    pthread_mutex_lock(&lock);
    event->closed_ = true;
    tell_all(event, WEIR_CLOSED);
    pthread_mutex_unlock(&lock);
}

/* Served already, or in the queue from here on. */
static bool queue_up(weir_remote_event *event, struct weir_waiter_ *me)
{
    me->waker = weir_waker_new();
    pthread_mutex_lock(&lock);
    bool at_once = event->set_ || event->closed_;
    me->served = at_once;
    me->told = event->closed_ ? WEIR_CLOSED : WEIR_OK;
    if (!at_once)
        waitq_append(&event->waiters_, me);
    pthread_mutex_unlock(&lock);
    return at_once; /* `me` itself may be written to by now */
}

/* Served, or out of the queue from here on. */
static bool leave(weir_remote_event *event, struct weir_waiter_ *me)
{
    pthread_mutex_lock(&lock);
    if (!me->served)
        waitq_remove(&event->waiters_, me);
    pthread_mutex_unlock(&lock);
    return me->served;
}

weir_status weir_remote_event_wait(weir_remote_event *event, weir_deadline deadline)
{
    struct weir_waiter_ me = { 0 };
    weir_status         status = hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (queue_up(event, &me))
        return me.told == WEIR_OK ? waitq_succeed() : waitq_fail(me.told);
    status = weir_park(deadline, "an event of another thread");
    return leave(event, &me) ? me.told : status;
}

void remote_events_hold(void)
{
    pthread_mutex_lock(&lock);
}

void remote_events_let_go(void)
{
    pthread_mutex_unlock(&lock);
}
