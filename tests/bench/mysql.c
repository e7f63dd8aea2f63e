/*
 * mysql.c - what a point SELECT through weir costs the client.
 *
 * Knows:   weir/mysql.h, the work in server.h.
 * Ignores: how its baselines do the same.
 *
 * A thousand tasks share eight connections. Either each query takes a lease of its own, as a
 * request handler does, or each task holds one for all its queries, which shows what is left
 * when the pool has nothing to do. Options are the defaults; client and server share a CPU.
 */
#include "base.h"
#include "server.h"

#include <string.h>
#include <weir/coro.h>
#include <weir/mysql.h>

struct crowd {
    struct lap *lap;
    weir_pool  *pool;
    enum way    way;
    long        each;  /* queries of one task */
    unsigned    tasks; /* begun so far */
};

static weir_status select_one(struct crowd *crowd, weir_lease *lease, unsigned id)
{
    char   text[POINT_SELECT];
    MYSQL *my = weir_mysql(lease);

    point_select(text, id);
    if (mysql_query(my, text))
        return weir_lease_fail(lease);
    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return weir_lease_fail(lease);
    if (!point_select_fetch(result, id))
        return WEIR_FAILED;
    lap_tick(crowd->lap);
    return WEIR_OK;
}

static weir_status lease_per_query(void *arg)
{
    struct crowd *crowd = arg;
    unsigned      ids = crowd->tasks++ * 7919u;
    weir_error    err;
    weir_status   status = WEIR_OK;

    for (long i = 0; i < crowd->each && status == WEIR_OK; i++) {
        weir_autoptr(weir_lease) lease = NULL;
        if (weir_acquire(crowd->pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
            return weir_fail(&err);
        status = select_one(crowd, lease, next_id(&ids));
    }
    return status;
}

static weir_status lease_per_task(void *arg)
{
    struct crowd *crowd = arg;
    unsigned      ids = crowd->tasks++ * 7919u;
    weir_error    err;
    weir_status   status = WEIR_OK;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(crowd->pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
        return weir_fail(&err);
    for (long i = 0; i < crowd->each && status == WEIR_OK; i++)
        status = select_one(crowd, lease, next_id(&ids));
    return status;
}

static weir_status make_pool(enum way way, weir_pool **pool, weir_error *err)
{
    const struct server *server = server_here();
    weir_mysql_opts      opts = {
             .user = server->user,
             .password = server->password,
             .database = server->database,
             .pool.max_size = CONNECTIONS,
    };

    if (way == BY_TCP) {
        opts.host = server->host;
        opts.port = server->port;
    } else {
        opts.socket = server->socket;
    }
    return weir_mysql_pool_new(&opts, pool, err);
}

static weir_status run_crowd(struct crowd *crowd, weir_fn task)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (make_pool(crowd->way, &pool, &err) != WEIR_OK ||
        weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    crowd->pool = pool;
    for (int i = 0; i < TASKS; i++)
        weir_spawn(group, task, crowd);
    return weir_group_wait(group, WEIR_FOREVER);
}

static weir_status query_app(void *arg)
{
    return run_crowd(arg, lease_per_query);
}

static weir_status held_app(void *arg)
{
    return run_crowd(arg, lease_per_task);
}

static bool run(weir_fn app, struct lap *lap, enum way way)
{
    struct crowd crowd = {
        .lap = lap,
        .way = way,
        .each = (lap->warm + lap->count) / TASKS + 1, /* some go on after the lap's end */
    };
    weir_status status = weir_run(app, &crowd);

    return status == WEIR_OK || bench_fail("weir_run: %s", weir_status_name(status));
}

static bool query_round(struct lap *lap, int way)
{
    return run(query_app, lap, (enum way)way);
}

static bool held_round(struct lap *lap, int way)
{
    return run(held_app, lap, (enum way)way);
}

#define QUERY "a point SELECT, a lease for each (one CPU with the server)"
#define HELD "a point SELECT, a lease for all of a task's (one CPU with the server)"
#define EPOLL(way) \
    { "libmariadb's non-blocking calls, epoll, 8 connections", base_mysql_epoll, way }
#define THREADS(way) { "libmariadb in 8 threads, a connection each", base_mysql_threads, way }

#define TIMED .measure = CPU_US, .warm = 2000, .count = 20000, SERVED
#define COUNTED .measure = CALLS, .warm = 2000, .count = 8000, SERVED
#define SERVED .set_up = server_prepare, .tear_down = server_leave

const struct entry mysql_entries[] = {
    { "mysql/select-unix", QUERY, TIMED, .ours = { "weir", query_round, BY_UNIX_SOCKET },
      .baseline = EPOLL(BY_UNIX_SOCKET) },
    { "mysql/select-tcp", QUERY, TIMED, .ours = { "weir", query_round, BY_TCP },
      .baseline = EPOLL(BY_TCP) },
    { "mysql/select-unix-held", HELD, TIMED, .ours = { "weir", held_round, BY_UNIX_SOCKET },
      .baseline = EPOLL(BY_UNIX_SOCKET) },
    { "mysql/select-tcp-held", HELD, TIMED, .ours = { "weir", held_round, BY_TCP },
      .baseline = EPOLL(BY_TCP) },
    { "mysql/select-unix-vs-threads", QUERY, TIMED,
      .ours = { "weir", query_round, BY_UNIX_SOCKET }, .baseline = THREADS(BY_UNIX_SOCKET) },
    { "mysql/select-tcp-vs-threads", QUERY, TIMED, .ours = { "weir", query_round, BY_TCP },
      .baseline = THREADS(BY_TCP) },
    { "mysql/select-unix-syscalls", QUERY, COUNTED,
      .ours = { "weir", query_round, BY_UNIX_SOCKET }, .baseline = EPOLL(BY_UNIX_SOCKET) },
    { "mysql/select-tcp-syscalls", QUERY, COUNTED, .ours = { "weir", query_round, BY_TCP },
      .baseline = EPOLL(BY_TCP) },
    { "mysql/select-unix-held-syscalls", HELD, COUNTED,
      .ours = { "weir", held_round, BY_UNIX_SOCKET }, .baseline = EPOLL(BY_UNIX_SOCKET) },
    { "mysql/select-tcp-held-syscalls", HELD, COUNTED, .ours = { "weir", held_round, BY_TCP },
      .baseline = EPOLL(BY_TCP) },
    { .name = NULL },
};
