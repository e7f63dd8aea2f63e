/*
 * mutex.c - one coroutine at a time, by name.
 *
 * A mutex always has an owner or nobody waits for it: it passes from one to the next in the step
 * that unlocks it. It hangs an exit hook on its owner, so that one who ends without unlocking
 * is found out, and nobody waits for him.
 */
#include "log.h"
#include "waitq.h"

struct locker {
    struct weir_waiter_ waiter;
    const char         *site;
};

static void owner_ended(weir_exit_hook *hook);

static void own(weir_mutex *mutex, weir_task *task, const char *site)
{
    mutex->owner_ = task;
    mutex->site_ = site;
    mutex->hook_.fn = owner_ended;
    hot_exit_hook_add(task, &mutex->hook_);
}

/* Its owner, if any, has his hook taken off already. */
static void pass_on(weir_mutex *mutex)
{
    struct weir_waiter_ *next = waitq_take(&mutex->waiters_, WEIR_OK);

    mutex->owner_ = NULL;
    mutex->site_ = NULL;
    if (!next)
        return;
    own(mutex, next->waker.task, LIST_OF(next, struct locker, waiter)->site);
    weir_wake(next->waker);
}

static void owner_ended(weir_exit_hook *hook)
{
    weir_mutex *mutex = LIST_OF(hook, weir_mutex, hook_);

    LOG(WEIR_LOG_ERROR, "%s %llu, spawned at %s, ended while it held the mutex it locked at %s: "
                        "unlock it on every path. The next one has it now",
        weir_task_name(mutex->owner_), (unsigned long long)weir_task_id(mutex->owner_),
        weir_task_site(mutex->owner_), mutex->site_);
    pass_on(mutex);
}

static weir_status refuse_again(const weir_mutex *mutex, const char *site)
{
    LOG(WEIR_LOG_ERROR, "%s: this coroutine holds the mutex already, locked at %s, and would wait "
                        "for itself", site, mutex->site_);
    return waitq_fail(WEIR_DEADLOCK);
}

static weir_status refuse_nobody(const char *site)
{
    LOG(WEIR_LOG_ERROR, "%s: a mutex is locked by a coroutine, and there is none here", site);
    return WEIR_USAGE;
}

weir_status weir_mutex_lock_at(weir_mutex *mutex, weir_deadline deadline, const char *site)
{
    weir_task  *self = hot_self();
    weir_status status = mutex->closed_ ? WEIR_CLOSED : hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (!self)
        return refuse_nobody(site);
    if (mutex->owner_ == self)
        return refuse_again(mutex, site);
    if (!mutex->owner_) {
        own(mutex, self, site);
        return waitq_succeed();
    }

    struct locker me = { .site = site };
    return waitq_sleep(&mutex->waiters_, &me.waiter, deadline, "a mutex");
}

static weir_status refuse_unlock(const weir_mutex *mutex, const char *site)
{
    if (mutex->owner_)
        LOG(WEIR_LOG_ERROR, "%s: the mutex is not this one's to unlock: %s %llu locked it at %s",
            site, weir_task_name(mutex->owner_),
            (unsigned long long)weir_task_id(mutex->owner_), mutex->site_);
    else
        LOG(WEIR_LOG_ERROR, "%s: the mutex is not locked", site);
    return WEIR_USAGE;
}

weir_status weir_mutex_unlock_at(weir_mutex *mutex, const char *site)
{
    if (!mutex->owner_ || mutex->owner_ != hot_self())
        return refuse_unlock(mutex, site);
    hot_exit_hook_remove(&mutex->hook_);
    pass_on(mutex);
    return WEIR_OK;
}

weir_task *weir_mutex_owner(const weir_mutex *mutex)
{
    return mutex->owner_;
}

const char *weir_mutex_site(const weir_mutex *mutex)
{
    return mutex->site_;
}

void weir_mutex_finish(weir_mutex *mutex)
{
    if (mutex->owner_) {
        if (mutex->owner_ != hot_self())
            LOG(WEIR_LOG_ERROR, "a mutex was finished while %s %llu held it, locked at %s",
                weir_task_name(mutex->owner_),
                (unsigned long long)weir_task_id(mutex->owner_), mutex->site_);
        hot_exit_hook_remove(&mutex->hook_);
    }
    mutex->owner_ = NULL;
    mutex->site_ = NULL;
    mutex->closed_ = true;
    waitq_tell_all(&mutex->waiters_, WEIR_CLOSED);
}
