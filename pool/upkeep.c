/*
 * upkeep.c - what time does to connections that nobody uses.
 *
 * One alarm a pool. Like all alarms here it is lazy: it is set for the first connection that
 * comes to rest, and when it rings it looks who is really due and sets itself anew.
 * Paused pools are looked after too, but not filled up.
 *
 * An idle connection ends when it is too old, when nobody has used it for too long, and before its
 * server would end it. With keepalive_ms it is asked for a sign of life instead of the last, and
 * once in a while. Who is asked is not idle meanwhile, so only a few are at a time; and he grows
 * idle as before, so he goes back to his place in the list, which is in the order of last use.
 *
 * Ten thousand connections may be due together, so a turn closes a few, and the rest follow in
 * those after it. Of those that a clear made stale it closes all: they take places that a server
 * which is back has a use for, and to close is quick (their goodbyes are spread: conn.c). A look at
 * very many is not made so often that it counts, so that they end a little late.
 */
#include "pool.h"

/* ---- when ---------------------------------------------------------------------------- */

static int64_t earlier(int64_t a_ns, int64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

static bool keeps_alive(const weir_pool *pool)
{
    return pool->opts.keepalive_ms != INT64_MAX;
}

/* Each connection has an interval of its own, up to a tenth shorter, so that those that came to
   rest together are not all away at once. (37 and 101 are coprime: numbers in a row fall apart.) */
static int64_t ping_at(const weir_pool *pool, const struct conn *conn)
{
    if (!keeps_alive(pool))
        return INT64_MAX;
    double  factor = 1.0 - (double)(conn->id * 37 % 101) / 1000.0;
    int64_t interval = (int64_t)((double)pool->opts.keepalive_ms * factor);
    return earlier(ns_after(conn->since_ns, interval), conn->driver_side->quiet_until_ns);
}

static int64_t end_at(const weir_pool *pool, const struct conn *conn, bool spare)
{
    int64_t end = conn->expires_ns;

    if (spare)
        end = earlier(end, conn->unused_ns + pool->idle_ns);
    return keeps_alive(pool) ? end : earlier(end, conn->driver_side->quiet_until_ns);
}

/* ---- looking ------------------------------------------------------------------------- */

enum {
    DONE_AT_ONCE = 16, /* closed or pinged in a turn: some microseconds each, mostly the kernel's */
    SHORT_LOOK = 256,  /* connections; a look at no more than these is not worth putting off */
    PAUSE_NS = 10000   /* for each one looked at: a look at 10,000 is made ten times a second */
};

static bool is_spare(const weir_pool *pool)
{
    return pool->count[CONN_IDLE] > pool->opts.min_idle && pool_live(pool) > pool->opts.min_size;
}

static bool may_ping(const weir_pool *pool)
{
    return pool->pings < pool->opts.max_connecting;
}

static weir_close_reason why_due(const struct conn *conn, int64_t now)
{
    if (conn_is_stale(conn))
        return WEIR_CLOSE_STALE;
    return conn->expires_ns <= now ? WEIR_CLOSE_AGE : WEIR_CLOSE_IDLE;
}

/* From the one unused longest. What min_idle and min_size keep open still ends of age. */
static void sweep(weir_alarm *alarm)
{
    weir_pool   *pool = LIST_OF(alarm, weir_pool, sweep);
    struct list *idle = &pool->conns[CONN_IDLE];
    int64_t      now = hot_now(), next = INT64_MAX;
    unsigned     looked = 0, done = 0;
    uint64_t     generation = pool->generation;

    for (struct list *node = idle->prev, *newer; node != idle; node = newer) {
        newer = node->prev;
        struct conn *conn = LIST_OF(node, struct conn, link);
        int64_t      end = end_at(pool, conn, is_spare(pool)), ping = ping_at(pool, conn);

        looked++;
        if (end > now && ping > now) {
            next = earlier(next, earlier(end, ping));
        } else if (end > now && !may_ping(pool)) {
            next = earlier(next, end); /* looked at again when a ping has ended */
        } else if (!conn_is_stale(conn) && done++ == DONE_AT_ONCE) {
            next = now; /* that is, in the next turn */
            break;
        } else if (end > now) {
            conn_ping(conn);
        } else {
            conn_close(conn, why_due(conn, now), WEIR_POLITE);
            if (pool->generation != generation)
                return; /* its listener forked, and none is idle any more */
        }
    }
    if (looked > SHORT_LOOK && next < now + looked * PAUSE_NS)
        next = now + looked * PAUSE_NS;
    if (next < NEVER_NS)
        weir_alarm_set(&pool->sweep, next, sweep);
    dial_if_wanted(pool);
}

static void expect(weir_pool *pool, int64_t at_ns)
{
    if (at_ns < NEVER_NS && (!pool->sweep.slot || pool->sweep.at_ns > at_ns))
        weir_alarm_set(&pool->sweep, at_ns, sweep);
}

void upkeep_again(weir_pool *pool)
{
    if (pool->state != WEIR_POOL_CLOSED)
        expect(pool, hot_now());
}

void upkeep_begin(weir_pool *pool)
{
    pool->idle_ns = earlier(ns_after(0, pool->opts.idle_timeout_ms), NEVER_NS);
    pool->rest_ns = pool->idle_ns;
    if (keeps_alive(pool)) /* see ping_at() */
        pool->rest_ns = earlier(pool->rest_ns, ns_after(0, pool->opts.keepalive_ms) / 10 * 9);
}

/* ---- coming to rest ------------------------------------------------------------------ */

/* Most often it is the one unused longest. */
static void back_into_place(struct conn *conn)
{
    struct list *idle = &conn->pool->conns[CONN_IDLE], *after;

    list_unlink(&conn->link);
    for (after = idle->prev; after != idle; after = after->prev)
        if (LIST_OF(after, struct conn, link)->unused_ns >= conn->unused_ns)
            break;
    list_prepend(after, &conn->link);
}

void upkeep_expect(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    if (conn->pinged)
        back_into_place(conn);
    else
        conn->unused_ns = conn->since_ns;
    /* The earliest of all that may be due: on the way of each lease's end nobody asks which. */
    int64_t due = earlier(earlier(conn->unused_ns + pool->idle_ns, conn->expires_ns),
                          conn->driver_side->quiet_until_ns);
    if (keeps_alive(pool))
        due = earlier(due, ping_at(pool, conn));
    expect(pool, due);
}

/* The one unused longest. */
static struct conn *oldest_idle(const weir_pool *pool)
{
    struct list *last = list_last(&pool->conns[CONN_IDLE]);

    return last ? LIST_OF(last, struct conn, link) : NULL;
}

bool upkeep_has_rested(const struct budget_share *share, int64_t min_idle_ns)
{
    const struct conn *conn = oldest_idle(LIST_OF(share, weir_pool, share));

    return conn && hot_now() - conn->unused_ns >= min_idle_ns;
}

void upkeep_evict(struct budget_share *share)
{
    struct conn *conn = oldest_idle(LIST_OF(share, weir_pool, share));

    if (conn)
        conn_close(conn, WEIR_CLOSE_EVICTED, WEIR_POLITE);
}
