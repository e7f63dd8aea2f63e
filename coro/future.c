/*
 * future.c - a result that is not there yet.
 *
 * Whoever waits is given the result the moment it is there, on his own stack: the future may
 * be gone by the time he runs.
 */
#include "waitq.h"

struct getter {
    struct weir_waiter_ waiter;
    void              **value;
    weir_error         *err;
};

/* What this future tells whoever asks, now that it is settled. */
static weir_status tell(const weir_future *future, void **value, weir_error *err)
{
    if (value)
        *value = future->value_;
    if (err && future->error_.status != WEIR_OK)
        *err = future->error_;
    return future->error_.status;
}

static void settle(weir_future *future)
{
    struct weir_waiter_ *waiter;

    future->settled_ = true;
    while ((waiter = waitq_take(&future->waiters_, future->error_.status)) != NULL) {
        struct getter *getter = LIST_OF(waiter, struct getter, waiter);
        tell(future, getter->value, getter->err);
        weir_wake(waiter->waker);
    }
}

bool weir_future_set(weir_future *future, void *value)
{
    if (future->settled_ || future->closed_)
        return false;
    future->value_ = value;
    settle(future);
    return true;
}

bool weir_future_fail(weir_future *future, const weir_error *error)
{
    if (future->settled_ || future->closed_)
        return false;
    future->error_ = *error;
    if (future->error_.status == WEIR_OK)
        future->error_.status = WEIR_FAILED;
    settle(future);
    return true;
}

bool weir_future_is_settled(const weir_future *future)
{
    return future->settled_;
}

/* This wait failed, not what was waited for. */
static weir_status give_up(weir_status status, weir_error *err)
{
    return weir_error_set(err, status, "a future was not settled: %s",
                          status == WEIR_CLOSED     ? "it was finished first"
                          : status == WEIR_CANCELED ? "this coroutine was cancelled first"
                          : status == WEIR_TIMEOUT  ? "the deadline came first"
                                                    : "nothing may wait here");
}

weir_status weir_future_get(weir_future *future, weir_deadline deadline, void **value,
                            weir_error *err)
{
    weir_status status = hot_pending();

    if (value)
        *value = NULL;
    if (status == WEIR_OK && !future->settled_ && future->closed_)
        status = WEIR_CLOSED;
    if (status != WEIR_OK)
        return waitq_fail(give_up(status, err));
    if (future->settled_) {
        status = tell(future, value, err);
        hot_spend(WAITQ_SERVED_UNITS);
        return status;
    }

    struct getter me = { .value = value, .err = err };
    status = waitq_sleep(&future->waiters_, &me.waiter, deadline, "a result");
    return me.waiter.served ? status : give_up(status, err);
}

void weir_future_finish(weir_future *future)
{
    struct weir_waiter_ *waiter;

    future->closed_ = true;
    while ((waiter = waitq_take(&future->waiters_, WEIR_CLOSED)) != NULL) {
        give_up(WEIR_CLOSED, LIST_OF(waiter, struct getter, waiter)->err);
        weir_wake(waiter->waker);
    }
}

/* ---- the end of a task ----------------------------------------------------------------- */

static void settle_by(weir_future *future, const weir_task *task)
{
    weir_error  error;
    weir_status status = weir_task_status(task);

    if (status == WEIR_OK) {
        weir_future_set(future, weir_task_value(task));
        return;
    }
    weir_error_set(&error, status, "%s %llu, spawned at %s, ended with %s", weir_task_name(task),
                   (unsigned long long)weir_task_id(task), weir_task_site(task),
                   weir_status_name(status));
    weir_future_fail(future, &error);
}

static void linked_task_ended(weir_exit_hook *hook)
{
    weir_link *link = LIST_OF(hook, weir_link, hook_);
    weir_task *task = link->task_;

    link->task_ = NULL;
    settle_by(link->future_, task);
}

void weir_link_to(weir_link *link, weir_task *task, weir_future *future)
{
    *link = (weir_link){ .hook_.fn = linked_task_ended, .task_ = task, .future_ = future };
    if (!task) {
        weir_error error;
        weir_error_set(&error, WEIR_USAGE,
                       "the linked task was not started: the wait for its group tells why");
        weir_future_fail(future, &error);
        return;
    }
    if (!weir_task_done(task)) {
        weir_exit_hook_add(task, &link->hook_);
        return;
    }
    link->task_ = NULL;
    settle_by(future, task);
}

void weir_link_cut(weir_link *link)
{
    if (link->task_)
        weir_exit_hook_remove(&link->hook_);
    link->task_ = NULL;
}
