/*
 * event.c - something has happened, and who waits for it.
 */
#include "waitq.h"

void weir_event_set(weir_event *event)
{
    event->set_ = true;
    waitq_tell_all(&event->waiters_, WEIR_OK);
}

void weir_event_clear(weir_event *event)
{
    event->set_ = false;
}

bool weir_event_is_set(const weir_event *event)
{
    return event->set_;
}

weir_status weir_event_wait(weir_event *event, weir_deadline deadline)
{
    weir_status status = event->closed_ ? WEIR_CLOSED : hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (event->set_)
        return waitq_succeed();

    struct weir_waiter_ me = { 0 };
    return waitq_sleep(&event->waiters_, &me, deadline, "an event");
}

void weir_event_finish(weir_event *event)
{
    event->closed_ = true;
    waitq_tell_all(&event->waiters_, WEIR_CLOSED);
}
