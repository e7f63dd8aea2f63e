/*
 * must_yield.c - blocks of code that promise to let others run.
 *
 * Whether somebody gave way is read from counts that are kept anyway: how often the hub has picked
 * the next coroutine, and how often it turned. Either has changed if he did.
 */
#include "hub.h"
#include "log.h"

static atomic_ullong broken;

static uint64_t turns(const weir_hub *hub)
{
    uint64_t picks = hub->switches + (uint64_t)((int64_t)hub->counted_from - hub->until_clock);

    return picks + atomic_load_explicit(&hub->beat, memory_order_relaxed);
}

void weir_must_yield_enter_(weir_must_yield *block, int64_t ms, const char *site)
{
    weir_task *task = task_here();

    *block = (weir_must_yield){ .task_ = task, .site_ = site };
    if (!task)
        return;
    block->turns_ = turns(task->hub);
    block->begun_ns_ = weir_in_ms(0).at_ns;
    block->limit_ns_ = ms * 1000000;
}

void weir_must_yield_leave_(weir_must_yield *block)
{
    if (!block->task_ || turns(block->task_->hub) != block->turns_)
        return;
    int64_t took_ns = weir_in_ms(0).at_ns - block->begun_ns_;
    if (block->limit_ns_ && took_ns <= block->limit_ns_)
        return;
    atomic_fetch_add(&broken, 1);
    LOG(WEIR_LOG_ERROR, "%s: nobody else could run in this block, for %lld us: %s %llu",
        block->site_, (long long)(took_ns / 1000), weir_task_name(block->task_),
        (unsigned long long)weir_task_id(block->task_));
}

uint64_t weir_must_yield_broken(void)
{
    return atomic_load(&broken);
}
