/*
 * pool_crowd.c - a pool with very many callers, or connections.
 *
 * Knows:   weir/pool.h, nobody's connections.
 * Ignores: databases.
 *
 * The hand-over is measured the way it happens in a service: real descriptors, watched while
 * they are idle, all options at their defaults, so every wait has a deadline (the pool's
 * acquire_timeout_ms) and every lease its times taken. The baseline switches to as many stacks
 * in the same order.
 */
#include "base.h"
#include "nobody.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <weir/budget.h>
#include <weir/coro.h>
#include <weir/hub.h>
#include <weir/pool.h>

static bool run(weir_fn app, void *arg)
{
    weir_status status = weir_run(app, arg);

    return status == WEIR_OK || bench_fail("weir_run: %s", weir_status_name(status));
}

/* ---- so many descriptors ---------------------------------------------------------------- */

enum { SPARE_FDS = 128 }; /* beside the connections': the budget's reserve, the hub, stdio */

/* May we have so many, all told? Raises the soft limit where that is enough. */
static bool allow_descriptors(unsigned count)
{
    struct rlimit limit;
    rlim_t        wanted = count + SPARE_FDS;

    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_max < wanted)
        return false;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted;
        if (setrlimit(RLIMIT_NOFILE, &limit))
            return false;
    }
    return weir_budget_set(&(weir_budget_opts){ 0 }, NULL) == WEIR_OK;
}

/* Few have a socket pair each, very many an eventfd, and more than RLIMIT_NOFILE allows none. */
static const weir_driver *driver_for(unsigned places)
{
    static bool told;

    if (places <= 8)
        return &pair_driver;
    if (allow_descriptors(places))
        return &eventfd_driver;
    if (!told)
        bench_fail("RLIMIT_NOFILE does not allow %u descriptors: connections without any", places);
    told = true;
    return &nothing_driver;
}

/* ---- handing over ------------------------------------------------------------------- */

/* Who is there; an entry's `how` is its place in this table. */
static const struct crowd {
    unsigned callers, places;
} crowds[] = {
    { 1000, 8 },                                                     /* the usual one */
    { 10, 8 },    { 100, 8 },   { 10000, 8 },    { 100000, 8 },      /* waiters */
    { 16, 8 },    { 200, 100 }, { 2000, 1000 },  { 20000, 10000 },   /* connections */
};

enum {
    USUAL,
    WAITERS_10, WAITERS_100, WAITERS_10K, WAITERS_100K,
    CONNS_8, CONNS_100, CONNS_1000, CONNS_10K
};

struct contest {
    struct lap         *lap;
    const struct crowd *crowd;
    weir_pool          *pool;
};

/* Whoever holds a connection lets the others run, so each release finds a waiter. */
static weir_status contend(void *arg)
{
    struct contest *contest = arg;
    weir_error      err;

    while (!contest->lap->over) {
        weir_lease *lease;
        if (weir_acquire(contest->pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
            return weir_fail(&err);
        weir_status status = weir_yield();
        if (weir_release(lease) != WEIR_OK || status != WEIR_OK)
            return WEIR_FAILED;
        lap_tick(contest->lap);
    }
    return WEIR_OK;
}

/* What is claimed must have happened: nearly every lease was waited for. */
static weir_status check_contest(const struct contest *contest)
{
    weir_pool_stats stats;

    weir_pool_stats_read(contest->pool, &stats);
    if (stats.opened != contest->crowd->places || stats.acquired_at_once * 100 > stats.acquired) {
        bench_fail("no hand-overs: %llu of %llu leases were given at once, %llu connections",
                   (unsigned long long)stats.acquired_at_once,
                   (unsigned long long)stats.acquired, (unsigned long long)stats.opened);
        return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status hand_over(void *arg)
{
    struct contest *contest = arg;
    weir_error      err;
    weir_pool_opts  opts = { .max_size = contest->crowd->places,
                             .max_connecting = contest->crowd->places > 8 ? 64 : 0 };
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (weir_pool_new(driver_for(opts.max_size), NULL, &opts, &pool, &err) != WEIR_OK ||
        weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    contest->pool = pool;
    for (unsigned i = 0; i < contest->crowd->callers; i++)
        weir_spawn(group, contend, contest);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    return status == WEIR_OK ? check_contest(contest) : status;
}

static bool hand_over_round(struct lap *lap, int who)
{
    struct contest contest = { .lap = lap, .crowd = &crowds[who] };

    return run(hand_over, &contest);
}

/* ---- cancelling a waiter in the middle ------------------------------------------------ */

/*
 * Half of the queue stays for ever; the other half is a ring. Cancelling its oldest, who stands in
 * the middle of the queue, and queueing another at the end leaves everything as it was, but for
 * the place in the ring.
 */
struct midst {
    struct lap *lap;
    weir_pool  *pool;
    weir_group *group;
    weir_task **ring;
    long        waiters, next;
};

static weir_status queue_up(void *arg)
{
    struct midst *midst = arg;
    weir_lease   *lease;

    return weir_acquire(midst->pool, WEIR_SCOPE, &lease, NULL);
}

static weir_status cancel_times(struct midst *midst, long times)
{
    long size = midst->waiters - midst->waiters / 2;

    for (long i = 0; i < times; i++) {
        weir_task **middle = &midst->ring[midst->next];
        weir_cancel(*middle);
        weir_yield(); /* he leaves */
        *middle = weir_spawn(midst->group, queue_up, midst);
        weir_yield(); /* this one joins the queue */
        midst->next = midst->next + 1 < size ? midst->next + 1 : 0;
    }
    return WEIR_OK;
}

static weir_status cancel_amid(struct midst *midst)
{
    weir_pool_stats stats;

    for (long i = 0; i < midst->waiters; i++) {
        weir_task *task = weir_spawn(midst->group, queue_up, midst);
        if (i >= midst->waiters / 2)
            midst->ring[i - midst->waiters / 2] = task;
    }
    weir_yield();
    cancel_times(midst, midst->lap->warm);
    lap_begin(midst->lap);
    cancel_times(midst, midst->lap->count);
    lap_end(midst->lap);
    weir_pool_stats_read(midst->pool, &stats);
    if (stats.waiting == midst->waiters &&
        stats.canceled == (unsigned long long)(midst->lap->warm + midst->lap->count))
        return WEIR_OK;
    bench_fail("%u wait and %llu were cancelled", stats.waiting,
               (unsigned long long)stats.canceled);
    return WEIR_FAILED;
}

static weir_status cancel_in_the_middle(void *arg)
{
    struct midst *midst = arg;
    weir_error    err;
    weir_lease   *lease; /* the only one, so that everybody else waits */
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_pool_new(&nobody_driver, NULL, &(weir_pool_opts){ .max_size = 1 }, &pool, &err) ||
        weir_acquire(pool, WEIR_SCOPE, &lease, &err) ||
        weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &midst->group, &err))
        return weir_fail(&err);
    midst->pool = pool;
    weir_status status = cancel_amid(midst);
    weir_group_free(midst->group);
    weir_release(lease);
    return status;
}

static bool cancel_round(struct lap *lap, int waiters)
{
    struct midst midst = { .lap = lap, .waiters = waiters };

    midst.ring = calloc((size_t)waiters, sizeof *midst.ring);
    bool well = midst.ring && run(cancel_in_the_middle, &midst);
    free(midst.ring);
    return well;
}

/* ---- sweeping --------------------------------------------------------------------------- */

enum { SWEPT = 10000, REST_MS = 200 };

struct sweep {
    struct lap *lap;
    weir_pool  *pool;
};

static double thread_cpu_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static weir_status hold_until(void *arg)
{
    struct sweep *sweep = arg;
    weir_lease   *lease;
    weir_error    err;

    if (weir_acquire(sweep->pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
        return weir_fail(&err);
    while (!weir_check() && !sweep->lap->done) /* until all of them are out */
        weir_sleep(weir_in_ms(10));
    return weir_release(lease);
}

static weir_status fill(struct sweep *sweep)
{
    weir_error      err;
    weir_pool_stats stats;
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err))
        return weir_fail(&err);
    for (int i = 0; i < SWEPT; i++)
        weir_spawn(group, hold_until, sweep);
    do {
        weir_sleep(weir_in_ms(5));
        weir_pool_stats_read(sweep->pool, &stats);
    } while (stats.in_use < SWEPT && !weir_group_failed(group));
    sweep->lap->done = 1;
    return weir_group_wait(group, WEIR_FOREVER);
}

/* Run as often as may be, and see how long it takes until we run again. */
static weir_status watch_them_go(struct sweep *sweep)
{
    weir_pool_stats stats;
    double          longest = 0, before = thread_cpu_s();

    WEIR_DEADLINE(weir_in_ms(30000));
    do {
        weir_status status = weir_yield();
        double      now = thread_cpu_s();
        if (now - before > longest)
            longest = now - before;
        before = now;
        if (status != WEIR_OK)
            return status;
        weir_pool_stats_read(sweep->pool, &stats);
    } while (stats.closed[WEIR_CLOSE_IDLE] < SWEPT);
    lap_end_with(sweep->lap, longest);
    return WEIR_OK;
}

static weir_status sweep_all(void *arg)
{
    struct sweep  *sweep = arg;
    weir_error     err;
    weir_pool_opts opts = { .max_size = SWEPT, .max_connecting = 64, .idle_timeout_ms = REST_MS };
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_pool_new(&eventfd_driver, NULL, &opts, &pool, &err) != WEIR_OK)
        return weir_fail(&err);
    sweep->pool = pool;
    weir_status status = fill(sweep);
    return status == WEIR_OK ? watch_them_go(sweep) : status;
}

static bool sweep_round(struct lap *lap, int how)
{
    struct sweep sweep = { .lap = lap };

    (void)how;
    return run(sweep_all, &sweep);
}

static bool can_sweep(char *why, size_t size)
{
    if (allow_descriptors(SWEPT))
        return true;
    snprintf(why, size, "RLIMIT_NOFILE does not allow %d descriptors", SWEPT);
    return false;
}

/* ---- the table ---------------------------------------------------------------------------- */

#define HANDED_OVER "a connection handed over: acquire (waits), yield, release"
#define IN_TURN "fcontext, there and back, as many stacks in turn"

/* Each side switches to `stacks` stacks. */
#define HANDOVER(title, of, whom, stacks, warm_up, counted) \
    { .name = title, .operation = HANDED_OVER, .measure = of, .warm = warm_up, .count = counted, \
      .ours = { #stacks " coroutines", hand_over_round, whom }, \
      .baseline = { IN_TURN, base_round_robin, stacks } }

#define CANCEL(title, size) \
    { .name = title, .operation = "the waiter in the middle cancelled, another one queued", \
      .measure = CPU_NS, .warm = size, .count = 200000, \
      .ours = { "weir_cancel, weir_spawn, weir_acquire", cancel_round, size }, \
      .baseline = { "fcontext, there and back, half as many stacks in turn", base_round_robin, \
                    size / 2 } }

const struct entry pool_crowd_entries[] = {
    HANDOVER("pool/handover-1000x8", CPU_NS, USUAL, 1000, 10000, 300000),
    HANDOVER("pool/handover-1000x8-syscalls", CALLS, USUAL, 1000, 10000, 100000),
    HANDOVER("pool/handover-waiters-10", CPU_NS, WAITERS_10, 10, 10000, 300000),
    HANDOVER("pool/handover-waiters-100", CPU_NS, WAITERS_100, 100, 10000, 300000),
    HANDOVER("pool/handover-waiters-1000", CPU_NS, USUAL, 1000, 10000, 300000),
    HANDOVER("pool/handover-waiters-10000", CPU_NS, WAITERS_10K, 10000, 20000, 300000),
    HANDOVER("pool/handover-waiters-100000", CPU_NS, WAITERS_100K, 100000, 200000, 400000),
    HANDOVER("pool/handover-conns-8", CPU_NS, CONNS_8, 16, 10000, 300000),
    HANDOVER("pool/handover-conns-100", CPU_NS, CONNS_100, 200, 10000, 300000),
    HANDOVER("pool/handover-conns-1000", CPU_NS, CONNS_1000, 2000, 20000, 300000),
    HANDOVER("pool/handover-conns-10000", CPU_NS, CONNS_10K, 20000, 100000, 400000),
    CANCEL("pool/cancel-middle-10", 10),
    CANCEL("pool/cancel-middle-1000", 1000),
    CANCEL("pool/cancel-middle-100000", 100000),
    {
        .name = "pool/sweep-10000",
        .operation = "10,000 connections idle for too long: the longest anybody had to wait",
        .measure = CPU_US,
        .count = 1,
        .ours = { "the pool's sweep", sweep_round, 0 },
        .baseline = { "10,000 descriptors closed in one go", base_close_all, SWEPT },
        .set_up = can_sweep,
    },
    { .name = NULL },
};
