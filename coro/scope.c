/*
 * scope.c - deadlines, and the scopes that impose them.
 *
 * A coroutine's scopes are a stack on its own stack. What counts for its waits is one number
 * and one flag, kept up to date as scopes open and close.
 */
#include "hub.h"

#include <time.h>

static int64_t read_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

weir_deadline weir_in_ms(int64_t ms)
{
    weir_hub *hub = hub_here_;
    int64_t   now = hub ? hub->reactor->ops->clock(hub->reactor) : read_clock();

    if (ms < 0)
        ms = 0;
    if (ms > (INT64_MAX - now) / 1000000)
        return WEIR_FOREVER;
    return weir_deadline_at(now + ms * 1000000);
}

int64_t weir_now(void)
{
    return hub_here_ ? hub_here_->now_ns : read_clock();
}

void weir_scope_enter(weir_scope *scope, weir_deadline deadline, bool shield)
{
    weir_task *task = task_here();

    *scope = (weir_scope){ 0 };
    if (!task)
        return;
    scope->outer_ = task->scope;
    scope->limit_ns_ = task->limit_ns; /* what to go back to */
    scope->shielded_ = task->shielded;
    task->scope = scope;
    if (shield) {
        task->shielded = true;
        task->limit_ns = deadline.at_ns;
    } else if (deadline.at_ns < task->limit_ns) {
        task->limit_ns = deadline.at_ns;
    }
}

void weir_scope_leave(weir_scope *scope)
{
    weir_task *task = task_here();

    if (!task || task->scope != scope)
        return; /* opened outside of a coroutine */
    task->scope = scope->outer_;
    task->limit_ns = scope->limit_ns_;
    task->shielded = scope->shielded_;
}

weir_status weir_check(void)
{
    weir_task *task = task_here();

    if (!task)
        return WEIR_OK;
    if (task->canceled && !task->shielded)
        return WEIR_CANCELED;
    if (task->limit_ns != INT64_MAX && task->limit_ns <= weir_in_ms(0).at_ns)
        return WEIR_TIMEOUT;
    return WEIR_OK;
}
