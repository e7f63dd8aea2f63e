/*
 * dial.c - when to open a connection, and when not to.
 *
 * Demand opens connections: as many as there are waiters whom nothing is on its way to yet,
 * and what min_idle and min_size ask for, while there are places and connecting permits. Demand
 * that has vanished opens nothing; a connection whose asker has gone is kept.
 *
 * After a failure there is a pause, doubling from 100 ms and multiplied by a random number (as
 * MongoDB's CMAP back-pressure rules have it), so that a server that comes back is not met by
 * everybody at once. It ends at 2 s, not at CMAP's 10: theirs is each caller's, ours is the
 * whole pool's, which tries one connection at a time, and is what callers of a server that is
 * back wait for nothing. While no connection lives and the last attempt failed, the server is
 * known to be down: callers get its last words at once until the pause is over, and the first
 * one after it tries again.
 *
 * A failed attempt never clears or pauses the pool, as CMAP has it since it knows back-pressure:
 * a server that is only short of room must not lose the connections it has.
 */
#include "pool.h"

#include "log.h"

enum { PAUSE_MS = 100, PAUSE_MAX_MS = 2000, PAUSE_DOUBLINGS = 5 };

static unsigned on_their_way(const weir_pool *pool)
{
    return pool->count[CONN_RESERVED] + pool->count[CONN_CONNECTING];
}

/* Does anybody need one more than those that are opening? */
bool dial_is_wanted(const weir_pool *pool, unsigned opening)
{
    /* In 64 bits: a limit of UINT_MAX is one. */
    uint64_t coming = (uint64_t)opening + pool->count[CONN_RESETTING];

    return pool->count[CONN_IDLE] + coming < (uint64_t)pool->waiting + pool->opts.min_idle ||
           (uint64_t)pool_live(pool) + opening < pool->opts.min_size;
}

static void redial(weir_alarm *alarm)
{
    dial_if_wanted(LIST_OF(alarm, weir_pool, redial));
}

static bool may_dial(weir_pool *pool)
{
    if (pool->state != WEIR_POOL_READY || pool_total(pool) >= pool->opts.max_size ||
        pool->permits >= pool->opts.max_connecting)
        return false;
    if (pool->failures_in_row && on_their_way(pool))
        return false; /* after a failure one attempt at a time */
    if (!dial_is_wanted(pool, on_their_way(pool)))
        return false;
    if (pool->retry_ns <= hot_now())
        return true;
    if (!pool->redial.slot)
        weir_alarm_set(&pool->redial, pool->retry_ns, redial);
    return false;
}

void dial_while_wanted(weir_pool *pool)
{
    weir_error err;

    while (may_dial(pool)) {
        if (!conn_new(pool, &err))
            dial_failed(pool, &err);
    }
    if (pool->shared)
        shared_hurry(pool);
}

bool dial_known_down(const weir_pool *pool)
{
    return pool->failures_in_row && !pool_live(pool) && !on_their_way(pool) &&
           pool->retry_ns > hot_now();
}

static int64_t pause_ms(weir_pool *pool)
{
    unsigned doublings =
        pool->failures_in_row <= PAUSE_DOUBLINGS ? pool->failures_in_row - 1 : PAUSE_DOUBLINGS;
    int64_t longest = (int64_t)PAUSE_MS << doublings;

    if (longest > PAUSE_MAX_MS)
        longest = PAUSE_MAX_MS;
    return (int64_t)(pool_random(pool) * (double)longest);
}

/*
 * Who is told? With live connections in the pool, nobody: the queue moves on, and whoever
 * times out reads it then. Without one the oldest waiter hears it, and when no other attempt
 * is under way, everybody: nothing is coming that they could wait for.
 */
void dial_failed(weir_pool *pool, const weir_error *error)
{
    bool first = pool->failures_in_row++ == 0;

    pool->stats.connect_failures++;
    pool->last_failure = *error;
    pool->last_failure.status = WEIR_CONNECT;
    pool->last_failure.outcome = WEIR_OUTCOME_NOT_SENT;
    pool->retry_ns = ns_after(hot_now(), pause_ms(pool));
    if (first)
        LOG(WEIR_LOG_WARN, "pool %s: %s", pool->name, error->message);

    if (!pool_live(pool)) {
        if (on_their_way(pool))
            queue_tell_first(pool, &pool->last_failure);
        else
            queue_tell_all(pool, &pool->last_failure);
    }
}

void dial_succeeded(weir_pool *pool)
{
    if (pool->failures_in_row)
        LOG(WEIR_LOG_WARN, "pool %s: connected again after %u failures", pool->name,
            pool->failures_in_row);
    pool->failures_in_row = 0;
    pool->retry_ns = 0;
    weir_alarm_stop(&pool->redial);
}
