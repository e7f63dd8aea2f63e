/*
 * pool.c - what lending a connection costs, where one is idle.
 *
 * Knows:   weir/pool.h.
 * Ignores: waiters (pool_crowd.c), databases.
 */
#include "allocs.h"
#include "base.h"
#include "nobody.h"

#include <stdio.h>
#include <weir/coro.h>
#include <weir/pool.h>

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

struct lending {
    struct lap *lap;
    long        asked; /* for memory, meanwhile */
};

static weir_status lend_idle(void *arg)
{
    struct lending *lending = arg;
    struct lap     *lap = lending->lap;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_pool_new(&nobody_driver, NULL, NULL, &pool, &err) != WEIR_OK)
        return weir_fail(&err);
    if (take_and_give(pool, lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lending->asked = allocs_by(BY_WEIR);
    lap_begin(lap);
    weir_status status = take_and_give(pool, lap->count);
    lap_end(lap);
    lending->asked = allocs_by(BY_WEIR) - lending->asked;
    return status;
}

static bool lend_round(struct lap *lap, int how)
{
    (void)how;
    return run(lend_idle, &(struct lending){ .lap = lap });
}

static bool allocs_round(struct lap *lap, int how)
{
    struct lending lending = { .lap = lap };
    bool           well = run(lend_idle, &lending);

    (void)how;
    lap_end_at(lap, (double)lending.asked);
    return well;
}

static bool can_count_memory(char *why, size_t size)
{
    if (allocs_countable())
        return true;
    snprintf(why, size, "weir is a shared library here: its calls of malloc() are not seen");
    return false;
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
        .name = "pool/acquire-release-allocs",
        .operation = "weir_acquire() of an idle connection, weir_release()",
        .measure = ALLOCS,
        .warm = 10000,
        .count = 100000,
        .ours = { "weir_acquire + weir_release", allocs_round, 0 },
        .baseline = { "a free list: pop, push", base_free_list, 0 },
        .set_up = can_count_memory,
    },
    { .name = NULL },
};
