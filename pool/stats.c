/*
 * stats.c - the numbers a pool keeps, and the check that they add up.
 */
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- histograms ------------------------------------------------------------------------ */

uint64_t weir_histogram_us(const weir_histogram *histogram, double percent)
{
    double   wanted = (double)histogram->count * percent / 100.0;
    uint64_t seen = 0;

    for (unsigned i = 0; i < 32; i++) {
        seen += histogram->bucket[i];
        if (seen && (double)seen >= wanted) {
            uint64_t upper = i ? UINT64_C(1) << i : 0;
            return upper < histogram->max_us ? upper : histogram->max_us;
        }
    }
    return histogram->max_us;
}

/* ---- the pool's ------------------------------------------------------------------------ */

const char *weir_close_reason_name(weir_close_reason reason)
{
    static const char *const names[] = {
        [WEIR_CLOSE_REQUESTED] = "requested", [WEIR_CLOSE_LEAKED] = "leaked",
        [WEIR_CLOSE_BROKEN] = "broken",       [WEIR_CLOSE_LOST] = "lost",
        [WEIR_CLOSE_RESET_FAILED] = "reset_failed", [WEIR_CLOSE_IDLE] = "idle",
        [WEIR_CLOSE_AGE] = "age",             [WEIR_CLOSE_EVICTED] = "evicted",
        [WEIR_CLOSE_POOL] = "pool",           [WEIR_CLOSE_STALE] = "stale",
        [WEIR_CLOSE_RESIZED] = "resized",     [WEIR_CLOSE_PING_FAILED] = "ping_failed",
        [WEIR_CLOSE_UNOPENED] = "unopened",
    };

    return (unsigned)reason < WEIR_CLOSE_REASONS ? names[reason] : "(no weir_close_reason)";
}

void weir_pool_stats_read(const weir_pool *pool, weir_pool_stats *out)
{
    *out = pool->stats;
    out->state = pool->state;
    out->generation = pool->generation;
    out->max_size = pool->opts.max_size;
    out->reserved = pool->count[CONN_RESERVED];
    out->connecting = pool->count[CONN_CONNECTING];
    out->idle = pool->count[CONN_IDLE];
    out->in_use = pool->count[CONN_IN_USE];
    out->resetting = pool->count[CONN_RESETTING];
    out->closing = pool->count[CONN_CLOSING];
    out->waiting = pool->waiting;
}

/* ---- do they add up? -------------------------------------------------------------------- */

#ifdef WEIR_DEBUG

static void must(bool holds, const weir_pool *pool, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "weir: pool %s: broken invariant: %s\n", pool->name, what);
    abort();
}

/* Walk everything. Only in debug builds, and only while that is cheap. */
void pool_verify(const weir_pool *pool)
{
    uint64_t closed = 0, alive = 0;
    unsigned permits = 0, unsaid = 0, pings = 0, waiting = 0, stuck = 0;

    if (pool_total(pool) > 64 || pool->waiting > 128)
        return;
    for (int state = 0; state < CONN_STATES; state++) {
        unsigned counted = 0;
        LIST_EACH(node, &pool->conns[state]) {
            const struct conn *conn = LIST_OF(node, struct conn, link);
            must(conn->state == (enum conn_state)state, pool,
                 "a connection's state names its list");
            must((conn->state == CONN_IN_USE) == (lease_current(conn)->holder != NULL), pool,
                 "a connection in use, and no other, has a holder");
            must(conn->state != CONN_IDLE || !conn_is_stale(conn) || conn->expires_ns == INT64_MIN,
                 pool, "no connection older than the last clear can be lent");
            must(!pool->shared || conn->ticket || conn_is_stale(conn) ||
                     state == CONN_RESERVED || state == CONN_CLOSING, pool,
                 "a connection has one of the permits shared with other processes");
            permits += conn->permit;
            unsaid += conn->unsaid;
            pings += state == CONN_RESETTING && conn->pinged;
            alive += conn->opened;
            counted++;
        }
        must(counted == pool->count[state], pool, "the lists are as long as their counts say");
    }
    LIST_EACH(node, &pool->waiters) {
        waiting++;
        stuck += LIST_OF(node, struct waiter, link)->held;
    }
    for (int i = 0; i < WEIR_CLOSE_REASONS; i++)
        closed += pool->stats.closed[i];
    must(pool_total(pool) <= pool->ceiling, pool, "at most max_size connections");
    must(pool->ceiling == pool->opts.max_size ||
             (pool->choosy && pool->ceiling == pool_total(pool)), pool,
         "a pool that was made smaller never grows until it fits");
    must(!waiting || pool->state == WEIR_POOL_READY, pool, "only a ready pool has a queue");
    must(permits == pool->permits && permits <= pool->opts.max_connecting, pool,
         "connecting permits belong to connections, at most max_connecting");
    must(unsaid == pool->unsaid + pool->parting, pool,
         "those who have not begun to say goodbye are as counted");
    must(pings == pool->pings, pool, "those asked for a sign of life are as counted");
    must(waiting == pool->waiting && stuck == pool->stuck, pool, "the queue is as counted");
    must(!waiting || !pool->count[CONN_IDLE], pool, "nobody waits while a connection is idle");
    must(pool->stats.opened - closed == alive, pool, "opened - closed == alive");
    must(pool->stats.acquired - pool->stats.released == pool->count[CONN_IN_USE], pool,
         "acquired - released == in use");
}

#endif
