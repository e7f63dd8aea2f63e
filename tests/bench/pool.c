/*
 * pool.c - what lending a connection costs, and handing it over to one who waits.
 *
 * Knows:   weir/pool.h, and two drivers of its own whose connections speak to nobody.
 * Ignores: databases.
 *
 * The hand-over is measured the way it happens in a service: real descriptors, watched while
 * they are idle, all options at their defaults, so every wait has a deadline (the pool's
 * acquire_timeout_ms) and every lease its times taken.
 */
#include "base.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <weir/coro.h>
#include <weir/driver.h>
#include <weir/pool.h>

/* ---- connections to nobody ---------------------------------------------------------- */

static unsigned one_socket(const void *config)
{
    (void)config;
    return 1;
}

static unsigned two_sockets(const void *config)
{
    (void)config;
    return 2;
}

static weir_status open_nothing(weir_conn *conn, const void *config, weir_deadline deadline,
                                weir_error *err)
{
    (void)conn;
    (void)config;
    (void)deadline;
    (void)err;
    return WEIR_OK;
}

static void close_nothing(weir_conn *conn, weir_farewell how, weir_deadline deadline)
{
    (void)conn;
    (void)how;
    (void)deadline;
}

static weir_condition always_clean(weir_conn *conn, weir_reset how)
{
    (void)conn;
    (void)how;
    return WEIR_CLEAN;
}

static weir_status nothing_to_reset(weir_conn *conn, weir_reset how, weir_deadline deadline,
                                    weir_error *err)
{
    (void)conn;
    (void)how;
    (void)deadline;
    (void)err;
    return WEIR_OK;
}

static weir_status nothing_failed(weir_conn *conn, weir_error *err)
{
    (void)conn;
    return weir_error_set(err, WEIR_OK, "nothing failed");
}

static void no_config(void *config)
{
    (void)config;
}

/* ---- the same with a socket pair each ------------------------------------------------ */

struct pair_conn {
    weir_conn conn;
    int       near, far; /* -1 until open */
};

static void stirred(int fd, void *arg)
{
    (void)fd;
    weir_conn_stirred(arg);
}

static weir_status open_pair(weir_conn *conn, const void *config, weir_deadline deadline,
                             weir_error *err)
{
    struct pair_conn *self = (struct pair_conn *)conn;
    int               pair[2];

    (void)config;
    (void)deadline;
    self->near = self->far = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return weir_error_set(err, WEIR_CONNECT, "socketpair: %s", strerror(errno));
    self->near = pair[0];
    self->far = pair[1];
    return weir_fd_watch(self->near, stirred, conn);
}

static void close_pair(weir_conn *conn, weir_farewell how, weir_deadline deadline)
{
    struct pair_conn *self = (struct pair_conn *)conn;

    (void)how;
    (void)deadline;
    if (self->near < 0)
        return;
    weir_close(self->near);
    close(self->far);
}

static const weir_driver nobody_driver = {
    .name = "nobody",
    .conn_size = sizeof(weir_conn),
    .sockets = one_socket,
    .open = open_nothing,
    .close = close_nothing,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};

static const weir_driver pair_driver = {
    .name = "pair",
    .conn_size = sizeof(struct pair_conn),
    .sockets = two_sockets,
    .open = open_pair,
    .close = close_pair,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};

static bool run(weir_fn app, void *arg)
{
    weir_status status = weir_run(app, arg);

    return status == WEIR_OK || bench_fail("weir_run: %s", weir_status_name(status));
}

/* ---- acquire and release, nobody waiting -------------------------------------------- */

static weir_status take_and_give(weir_pool *pool, long times)
{
    weir_error err;

    for (long i = 0; i < times; i++) {
        weir_lease *lease;
        if (weir_acquire(pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
            return weir_fail(&err);
        if (weir_release(lease) != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status lend_idle(void *arg)
{
    struct lap *lap = arg;
    weir_error  err;
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_pool_new(&nobody_driver, NULL, NULL, &pool, &err) != WEIR_OK)
        return weir_fail(&err);
    if (take_and_give(pool, lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lap_begin(lap);
    weir_status status = take_and_give(pool, lap->count);
    lap_end(lap);
    return status;
}

static bool lend_round(struct lap *lap, int how)
{
    (void)how;
    return run(lend_idle, lap);
}

/* ---- handing over ------------------------------------------------------------------- */

enum { CALLERS = 1000, PLACES = 8 };

struct contest {
    struct lap *lap;
    weir_pool  *pool;
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
    if (stats.opened != PLACES || stats.acquired_at_once * 100 > stats.acquired) {
        bench_fail("no hand-overs: %llu of %llu leases were given at once, %llu connections",
                   (unsigned long long)stats.acquired_at_once,
                   (unsigned long long)stats.acquired, (unsigned long long)stats.opened);
        return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status hand_over(void *arg)
{
    struct contest contest = { .lap = arg };
    weir_error     err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (weir_pool_new(&pair_driver, NULL, &(weir_pool_opts){ .max_size = PLACES }, &pool,
                      &err) != WEIR_OK ||
        weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    contest.pool = pool;
    for (int i = 0; i < CALLERS; i++)
        weir_spawn(group, contend, &contest);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    return status == WEIR_OK ? check_contest(&contest) : status;
}

static bool hand_over_round(struct lap *lap, int how)
{
    (void)how;
    return run(hand_over, lap);
}

const struct entry pool_entries[] = {
    {
        .name = "pool/acquire-release",
        .operation = "weir_acquire() of an idle connection, weir_release()",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 1000000,
        .ours = { "weir_acquire + weir_release", lend_round, 0 },
        .baseline = { "a free list: pop, push", base_free_list, 0 },
    },
    {
        .name = "pool/acquire-release-syscalls",
        .operation = "weir_acquire() of an idle connection, weir_release()",
        .measure = CALLS,
        .warm = 10000,
        .count = 100000,
        .ours = { "weir_acquire + weir_release", lend_round, 0 },
        .baseline = { "a free list: pop, push", base_free_list, 0 },
    },
    {
        .name = "pool/handover-1000x8",
        .operation = "a connection handed over: acquire (waits), yield, release",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 300000,
        .ours = { "1,000 coroutines, 8 connections", hand_over_round, 0 },
        .baseline = { "fcontext, there and back, 1,000 stacks in turn", base_round_robin,
                      CALLERS },
    },
    {
        .name = "pool/handover-1000x8-syscalls",
        .operation = "a connection handed over: acquire (waits), yield, release",
        .measure = CALLS,
        .warm = 10000,
        .count = 100000,
        .ours = { "1,000 coroutines, 8 connections", hand_over_round, 0 },
        .baseline = { "fcontext, there and back, 1,000 stacks in turn", base_round_robin,
                      CALLERS },
    },
    { .name = NULL },
};
