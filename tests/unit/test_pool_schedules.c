/*
 * Every order of a small play, on one pool: a schedule explorer over the hub.
 *
 * A play is a handful of operations of two or three callers, the server and the clock. All
 * orders in which they can happen are played, those of one player in his own order; and for each
 * order all ways in which neighbours fall into one turn of the hub or into several. Each is
 * judged by the reference model (model.h), which knows what may not be: a place lost, somebody
 * overtaken, a connection lent twice, a number that is wrong.
 */
#include "model.h"

#include "under_valgrind.h"
#include "world.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 8, WAYS = 3 };

/* Few enough to be read, and with everything in them that can fall into one turn. */
static const struct small_play {
    const char    *name;
    weir_pool_opts opts;
    struct op      before[4]; /* done first, in this order */
    unsigned       befores;
    struct op      ops[LONGEST];
    unsigned       count;
} plays[] = {
    /* A hand-over, a cancel, a deadline and a newcomer meet. */
    { "a hand-over meets a cancel, a deadline and a newcomer", { .max_size = 1 },
      { { ASK, 0, 0, SETTLE, 1000, 0 } }, 1,
      { { ASK, 1, 0, 0, 5, 0 }, { GIVE_BACK_IT, 0, 0, 0, 0, 0 }, { CANCEL, 1, 0, 0, 0, 0 },
        { ASK, 2, 0, 0, 100, 0 }, { PASS_TIME, 0, 0, 0, 5, 0 } }, 5 },
    /* A connect is under way while its asker leaves and the pool changes. */
    { "a connect meets a pause, a clear and a cancel", { .max_size = 1 },
      { { CONNECTS, 0, 0, SETTLE, SLOWLY, 0 } }, 1,
      { { ASK, 0, 0, 0, 100, 0 }, { PAUSE, 0, 0, 0, 0, 0 }, { READY, 0, 0, 0, 0, 0 },
        { CANCEL, 0, 0, 0, 0, 0 }, { PASS_TIME, 0, 0, 0, 7, 0 } }, 5 },
    { "a clear meets a release, a waiter and a connect", { .max_size = 2 },
      { { ASK, 0, 0, SETTLE, 100, 0 } }, 1,
      { { CLEAR, 0, 0, 0, 1, 0 }, { GIVE_BACK_IT, 0, 0, 0, WEIR_DIRTY, 0 },
        { ASK, 1, 0, 0, 100, 0 }, { READY, 0, 0, 0, 0, 0 }, { ASK, 2, 0, 0, 100, 0 } }, 5 },
    /* Resets and closes that take time, and somebody who ends without a word. */
    { "a reset meets a resize and a server's end", { .max_size = 2 },
      { { RESETS, 0, 0, SETTLE, SLOWLY, 0 }, { ASK, 0, 0, SETTLE, 100, 0 },
        { ASK, 1, 0, SETTLE, 100, 0 } }, 3,
      { { GIVE_BACK_IT, 0, 0, 0, WEIR_DIRTY, 0 }, { RESIZE, 0, 0, 0, 1, 0 },
        { FORGET_IT, 1, 0, 0, 0, 0 }, { STIR, 0, 0, 0, 0, 0 }, { ASK, 2, 0, 0, 100, 0 } }, 5 },
    { "giving away meets the heir's end and his waiting", { .max_size = 1 },
      { { ASK, 0, 0, SETTLE, 100, 0 }, { ASK, 1, 1, SETTLE, 100, 0 } }, 2,
      { { GIVE_AWAY, 0, 0, 0, 1, 0 }, { ASK, 1, 0, 0, 50, 0 }, { CANCEL, 1, 0, 0, 1, 0 },
        { ASK, 2, 0, 0, 100, 0 }, { PASS_TIME, 0, 0, 0, 50, 0 } }, 5 },
    { "a pool's end meets whoever there is", { .max_size = 1 },
      { { ASK, 0, 0, SETTLE, 100, 0 }, { ASK, 1, 0, SETTLE, 100, 0 } }, 2,
      { { CLOSE_POOL, 0, 0, 0, 50, 0 }, { GIVE_BACK_IT, 0, 0, 0, 0, 0 },
        { CANCEL, 1, 0, 0, 0, 0 }, { REPLACE_POOL, 0, 0, 0, 0, 0 }, { ASK, 2, 0, 0, 20, 0 } }, 5 },
    { "refusals meet a server that comes back", { .max_size = 2 },
      { { CONNECTS, 0, 0, SETTLE, SLOWLY_BADLY, 0 } }, 1,
      { { ASK, 0, 0, 0, 500, 0 }, { ASK, 1, 0, 0, 10, 0 }, { CONNECTS, 0, 0, 0, AT_ONCE, 0 },
        { PASS_TIME, 0, 0, 0, 13, 0 }, { ASK, 2, 0, 0, 500, 0 } }, 5 },
};

enum { PLAYS = sizeof plays / sizeof *plays };

/* ---- one schedule ------------------------------------------------------------------------- */

static struct verdict   verdict;
static struct op        schedule[LONGEST + 4];
static struct plan      plan = { .sockets = { 1, 1 }, .budget = 1000, .ops = schedule };
static unsigned long    played, stride = 1;

static void begin(const struct small_play *small)
{
    for (int i = 0; i < POOLS; i++) {
        plan.opts[i] = small->opts;
        plan.opts[i].max_connecting = 1;
        plan.opts[i].acquire_timeout_ms = 5000;
        plan.opts[i].connect_timeout_ms = 50;
        plan.opts[i].reset_timeout_ms = 40;
        plan.opts[i].close_timeout_ms = 30;
        plan.opts[i].idle_timeout_ms = plan.opts[i].max_age_ms = WEIR_NEVER;
    }
    memcpy(schedule, small->before, small->befores * sizeof *schedule);
    plan.count = small->befores + small->count;
    plan.listens = true;
}

/* The program ends where one fails, having said what was played. */
static void tell_what_failed(void)
{
    fprintf(stderr, "this schedule fails:%s\n", verdict.words);
    tell_plan(&plan);
}

static void tell_before_abort(int signal_number)
{
    (void)signal_number; /* an assertion of the pool's: what it is called from ends anyway */
    tell_what_failed();
}

/* ---- all of them --------------------------------------------------------------------------- */

static void play_all_ways(const struct small_play *small, unsigned from)
{
    unsigned long ways = 1;

    for (unsigned i = 0; i + 1 < small->count; i++)
        ways *= WAYS;
    for (unsigned long way = 0; way < ways; way++) {
        unsigned long rest = way;
        for (unsigned i = 0; i < small->count; i++, rest /= WAYS)
            schedule[from + i].then = (uint8_t)(rest % WAYS);
        schedule[from + small->count - 1].then = SETTLE;
        if (++played % stride)
            continue;
        play_plan_here(&plan, &verdict);
    }
}

/* What one player does keeps its order. */
static bool may_be_next(const struct small_play *small, unsigned taken, unsigned next)
{
    if (taken & (1u << next))
        return false;
    for (unsigned i = 0; i < next; i++)
        if (!(taken & (1u << i)) && small->ops[i].verb < PLAYERS_DO &&
            small->ops[next].verb < PLAYERS_DO && small->ops[i].who == small->ops[next].who)
            return false;
    return true;
}

static void play_all_orders(const struct small_play *small, unsigned taken, unsigned count)
{
    if (count == small->count) {
        play_all_ways(small, small->befores);
        return;
    }
    for (unsigned next = 0; next < small->count; next++) {
        if (!may_be_next(small, taken, next))
            continue;
        schedule[small->befores + count] = small->ops[next];
        play_all_orders(small, taken | (1u << next), count + 1);
    }
}

/* All in one world: to make one takes longer than to play. */
static weir_status play_everything(void *arg)
{
    (void)arg;
    for (int i = 0; i < PLAYS; i++) {
        unsigned long before = played;
        begin(&plays[i]);
        play_all_orders(&plays[i], 0, 0);
        printf("%s: %lu schedules\n", plays[i].name, played - before);
        if (played - before < 4000)
            return WEIR_FAILED;
    }
    return verdict.asked > played / stride ? WEIR_OK : WEIR_FAILED; /* or nobody ever asked */
}

int main(void)
{
    plan.failed = tell_what_failed;
    signal(SIGABRT, tell_before_abort);
    if (under_valgrind())
        stride = 97;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    stride = 3;
#endif
    return world_run(play_everything, NULL) == WEIR_OK ? 0 : 1;
}
