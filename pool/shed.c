/*
 * shed.c - refusing some callers, so that the others are served in time.
 *
 * Knows:   how long callers wait, and since when nobody was served soon.
 * Ignores: the order of the queue, which stays as it is.
 *
 * A pool that gets more work than it can do has a queue that grows until callers give up. It is
 * as busy as ever, and useless: each caller gets his connection when most of his time has passed,
 * and what he does with it is thrown away. That state keeps itself up, also after the load that
 * brought it about has gone. The cure is to keep the queue short, by refusing early.
 *
 * What tells a queue that is too long from a burst is the shortest wait in it, over an interval
 * (CoDel's sojourn time, RFC 8289): a burst is worked off, and somebody waits little. Unlike a
 * router, which drops packets at a rate that grows slowly since their senders answer by slowing
 * down, we have senders who do not: while it lasts, everybody's patience is cut to the target.
 *
 * Nothing is done on the way of those who find an idle connection. The alarm is lazy, as all are
 * here: set when a queue begins, it looks who is really due and sets itself anew.
 */
#include "pool.h"

#include "log.h"

#include <stdio.h>

static int64_t target_ns(const weir_pool *pool)
{
    return pool->opts.shed_target_ms * 1000000;
}

static int64_t interval_ns(const weir_pool *pool)
{
    return pool->opts.shed_interval_ms * 1000000;
}

/* They wait for what is being opened. But a pool that loses connections under load, and opens
   new ones all the time, may be overloaded. */
static bool is_growing(const weir_pool *pool)
{
    return pool->count[CONN_CONNECTING] > pool->parked &&
           (uint64_t)pool_live(pool) * 2 < pool->opts.max_size;
}

static int64_t oldest_since(const weir_pool *pool)
{
    return LIST_OF(list_first(&pool->waiters), struct waiter, link)->since_ns;
}

/* ---- refusing ------------------------------------------------------------------------ */

static void shed_oldest(weir_pool *pool)
{
    weir_error err;
    char       what[120];

    snprintf(what, sizeof what, "shed after %lld ms: too many wait for longer than shed_target_ms",
             (long long)((hot_now() - oldest_since(pool)) / 1000000));
    queue_explain(pool, WEIR_FULL, what, &err);
    pool->stats.shed++;
    queue_tell_first(pool, &err);
}

static void begin(weir_pool *pool)
{
    char line[400];

    pool->overloaded = true;
    weir_pool_summary(pool, line, sizeof line);
    LOG(WEIR_LOG_WARN, "overload: nobody was served within %lld ms for %lld ms: %s",
        (long long)pool->opts.shed_target_ms, (long long)pool->opts.shed_interval_ms, line);
}

/* ---- looking ------------------------------------------------------------------------- */

static void look(weir_alarm *alarm)
{
    weir_pool *pool = LIST_OF(alarm, weir_pool, shed);
    int64_t    now = hot_now();

    if (!pool->waiting)
        return;
    if (is_growing(pool))
        pool->calm_ns = now;
    if (!pool->overloaded && now - pool->calm_ns >= interval_ns(pool))
        begin(pool);
    if (!pool->overloaded || is_growing(pool)) {
        weir_alarm_set(alarm, pool->calm_ns + interval_ns(pool), look);
        return;
    }
    while (pool->waiting && now - oldest_since(pool) >= target_ns(pool))
        shed_oldest(pool);
    if (pool->waiting)
        weir_alarm_set(alarm, oldest_since(pool) + target_ns(pool), look);
}

void shed_expect(weir_pool *pool)
{
    pool->calm_ns = hot_now();
    pool->overloaded = false;
    if (!pool->shed.slot)
        weir_alarm_set(&pool->shed, pool->calm_ns + interval_ns(pool), look);
}

void shed_served(weir_pool *pool, int64_t waited_ns)
{
    if (waited_ns <= target_ns(pool))
        pool->calm_ns = hot_now();
    /* At half the target, so that it does not come and go with each caller. */
    if (waited_ns < target_ns(pool) / 2)
        pool->overloaded = false;
}

/* ---- before it has begun ------------------------------------------------------------- */

void shed_learn(weir_pool *pool, int64_t hold_ns)
{
    enum { LATELY = 8 };

    pool->hold_ns += pool->hold_ns ? (hold_ns - pool->hold_ns) / LATELY : hold_ns;
}

bool shed_hopeless(const weir_pool *pool, int64_t give_up_ns, int64_t *expected_ns)
{
    unsigned in_use = pool->count[CONN_IN_USE];

    if (!in_use || pool_total(pool) < pool->opts.max_size ||
        pool->count[CONN_RESERVED] + pool->count[CONN_CONNECTING] || give_up_ns <= hot_now())
        return false;
    double turns = ((double)pool->waiting + 1) / in_use;
    *expected_ns = (int64_t)(turns * (double)pool->hold_ns);
    return *expected_ns > give_up_ns - hot_now();
}
