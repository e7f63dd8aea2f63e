/*
 * upkeep.c - what time does to connections that nobody uses.
 *
 * One alarm a pool. Like all alarms here it is lazy: it is set for the first connection that
 * comes to rest, and when it rings it looks who is really due and sets itself anew.
 * Paused pools are looked after too, but not filled up.
 */
#include "pool.h"

static int64_t due_at(const weir_pool *pool, const struct conn *conn)
{
    int64_t unused = ns_after(conn->since_ns, pool->opts.idle_timeout_ms);

    return unused < conn->expires_ns ? unused : conn->expires_ns;
}

/* From the one unused longest. What min_idle and min_size keep open still ends of age. */
static void sweep(weir_alarm *alarm)
{
    weir_pool   *pool = LIST_OF(alarm, weir_pool, sweep);
    struct list *idle = &pool->conns[CONN_IDLE];
    int64_t      now = hot_now(), next = INT64_MAX;

    for (struct list *node = idle->prev, *newer; node != idle; node = newer) {
        newer = node->prev;
        struct conn *conn = LIST_OF(node, struct conn, link);
        bool         spare = pool->count[CONN_IDLE] > pool->opts.min_idle &&
                             pool_live(pool) > pool->opts.min_size;
        int64_t      due = spare ? due_at(pool, conn) : conn->expires_ns;

        if (conn->expires_ns <= now)
            conn_close(conn, WEIR_CLOSE_AGE, WEIR_POLITE);
        else if (due <= now)
            conn_close(conn, WEIR_CLOSE_IDLE, WEIR_POLITE);
        else if (due < next)
            next = due;
    }
    if (next != INT64_MAX)
        weir_alarm_set(&pool->sweep, next, sweep);
    dial_if_wanted(pool);
}

void upkeep_expect(weir_pool *pool, const struct conn *idle)
{
    int64_t due = due_at(pool, idle);

    if (due != INT64_MAX && (!pool->sweep.slot || pool->sweep.at_ns > due))
        weir_alarm_set(&pool->sweep, due, sweep);
}

bool upkeep_evict(struct budget_share *share, int64_t min_idle_ns)
{
    weir_pool   *pool = LIST_OF(share, weir_pool, share);
    struct list *last = list_last(&pool->conns[CONN_IDLE]);

    if (!last)
        return false;
    struct conn *conn = LIST_OF(last, struct conn, link);
    if (hot_now() - conn->since_ns < min_idle_ns)
        return false;
    conn_close(conn, WEIR_CLOSE_EVICTED, WEIR_POLITE);
    return true;
}
