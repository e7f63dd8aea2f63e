/*
 * semaphore.c - permits, and who waits for one.
 *
 * While somebody waits no permit is free: one that is given goes straight to him.
 */
#include "waitq.h"

#include <assert.h>

weir_status weir_sem_take(weir_sem *sem, weir_deadline deadline)
{
    weir_status status = sem->closed_ ? WEIR_CLOSED : hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (sem->permits_) {
        sem->permits_--;
        return waitq_succeed();
    }

    struct weir_waiter_ me = { 0 };
    return waitq_sleep(&sem->waiters_, &me, deadline, "a semaphore");
}

bool weir_sem_try(weir_sem *sem)
{
    if (!sem->permits_ || sem->closed_)
        return false;
    sem->permits_--;
    return true;
}

void weir_sem_give(weir_sem *sem)
{
    if (waitq_tell_first(&sem->waiters_, WEIR_OK))
        return;
    assert(sem->permits_ + 1 && "more permits than an unsigned counts");
    sem->permits_++;
}

unsigned weir_sem_free_permits(const weir_sem *sem)
{
    return sem->permits_;
}

void weir_sem_finish(weir_sem *sem)
{
    sem->closed_ = true;
    waitq_tell_all(&sem->waiters_, WEIR_CLOSED);
}
