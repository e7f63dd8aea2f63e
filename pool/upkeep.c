/*
 * upkeep.c - what time does to connections that nobody uses.
 *
 * One alarm a pool. Like all alarms here it is lazy: it is set for the first connection that
 * comes to rest, and when it rings it looks who is really due and sets itself anew.
 * Paused pools are looked after too, but not filled up.
 *
 * Ten thousand connections may be due together. Closing them in one turn would hold the hub for
 * 30 ms and more, so a turn closes a few, and the rest follow in those after it. Nor is everybody
 * looked at each time. The one unused longest is last in the list, so idleness is looked for from
 * there, as far as it goes. Ages have no order: all are looked at, some tenths of a millisecond,
 * but not before the earliest that is known of comes, and never so often that it counts; then
 * they are closed a little late.
 */
#include "pool.h"

enum {
    CLOSED_AT_ONCE = 16, /* a few microseconds each, most of them the kernel's */
    SHORT_LOOK = 256,    /* connections; a look at no more than these is not worth putting off */
    PAUSE_NS = 10000     /* for each one looked at: a look at 10,000 is made ten times a second */
};

static int64_t unused_until(const weir_pool *pool, const struct conn *conn)
{
    return ns_after(conn->since_ns, pool->opts.idle_timeout_ms);
}

static bool is_spare(const weir_pool *pool)
{
    return pool->count[CONN_IDLE] > pool->opts.min_idle && pool_live(pool) > pool->opts.min_size;
}

/* Both close who is due, no more than *left, and say when to look again: at once means in the
   next turn. What min_idle and min_size keep open still ends of age. */

static int64_t close_unused(weir_pool *pool, int64_t now, unsigned *left)
{
    struct list *last;

    while ((last = list_last(&pool->conns[CONN_IDLE])) != NULL && is_spare(pool)) {
        struct conn *conn = LIST_OF(last, struct conn, link);
        int64_t      due = unused_until(pool, conn);

        if (due > now)
            return due;
        if (!*left)
            return now;
        --*left;
        conn_close(conn, WEIR_CLOSE_IDLE, WEIR_POLITE);
    }
    return INT64_MAX;
}

static int64_t close_old(weir_pool *pool, int64_t now, unsigned *left)
{
    struct list *idle = &pool->conns[CONN_IDLE];
    int64_t      next = INT64_MAX, pause = 0;

    if (pool->expires_ns > now)
        return pool->expires_ns;
    if (pool->count[CONN_IDLE] > SHORT_LOOK)
        pause = (int64_t)pool->count[CONN_IDLE] * PAUSE_NS;
    LIST_EACH(node, idle) {
        struct conn *conn = LIST_OF(node, struct conn, link);

        if (conn->expires_ns > now)
            next = conn->expires_ns < next ? conn->expires_ns : next;
        else if (!*left)
            return now;
        else {
            --*left;
            conn_close(conn, WEIR_CLOSE_AGE, WEIR_POLITE);
        }
    }
    pool->expires_ns = next > now + pause ? next : now + pause;
    return pool->expires_ns;
}

static void sweep(weir_alarm *alarm)
{
    weir_pool *pool = LIST_OF(alarm, weir_pool, sweep);
    int64_t    now = hot_now();
    unsigned   left = CLOSED_AT_ONCE;
    int64_t    old = close_old(pool, now, &left);
    int64_t    unused = close_unused(pool, now, &left);

    if (old != INT64_MAX || unused != INT64_MAX)
        weir_alarm_set(&pool->sweep, old < unused ? old : unused, sweep);
    dial_if_wanted(pool);
}

void upkeep_expect(weir_pool *pool, const struct conn *idle)
{
    int64_t due = unused_until(pool, idle);

    if (idle->expires_ns < pool->expires_ns)
        pool->expires_ns = idle->expires_ns;
    if (idle->expires_ns < due)
        due = idle->expires_ns;
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
