/*
 * condition.c - what a mutex guards has changed.
 */
#include "log.h"
#include "waitq.h"

static weir_status refuse(const weir_mutex *mutex, const char *site)
{
    LOG(WEIR_LOG_ERROR, "%s: weir_cond_wait() lets go of a mutex, and this coroutine holds it not: "
                        "%s%s", site, mutex->owner_ ? "it was locked by another one at " : "",
        mutex->owner_ ? mutex->site_ : "it is not locked");
    return WEIR_USAGE;
}

weir_status weir_cond_wait_at(weir_cond *cond, weir_mutex *mutex, weir_deadline deadline,
                              const char *site)
{
    if (!mutex->owner_ || mutex->owner_ != hot_self())
        return refuse(mutex, site);

    /* What would fail at once keeps the mutex: nobody can slip in for nothing. */
    weir_status status = cond->closed_ ? WEIR_CLOSED : weir_pending(deadline);
    if (status != WEIR_OK)
        return waitq_fail(status);

    struct weir_waiter_ me = { 0 };
    (void)weir_mutex_unlock_at(mutex, site);
    status = waitq_sleep(&cond->waiters_, &me, deadline, "a condition");

    WEIR_SHIELD(WEIR_FOREVER);
    weir_status locked = weir_mutex_lock_at(mutex, WEIR_FOREVER, site);
    return locked == WEIR_OK ? status : locked;
}

void weir_cond_signal(weir_cond *cond)
{
    waitq_tell_first(&cond->waiters_, WEIR_OK);
}

void weir_cond_broadcast(weir_cond *cond)
{
    waitq_tell_all(&cond->waiters_, WEIR_OK);
}

void weir_cond_finish(weir_cond *cond)
{
    cond->closed_ = true;
    waitq_tell_all(&cond->waiters_, WEIR_CLOSED);
}
