/*
 * queue.c - who waits for a connection, and who gets the next one.
 *
 * Strictly first come, first served: a connection that is given back goes to the oldest
 * waiter in the same step, and a newcomer never overtakes the queue. A waiter stands on his
 * own stack; being served is a field in it, so a hand-over allocates nothing and cannot fail.
 *
 * When a hand-over and the waiter's deadline fall into the same turn the connection wins:
 * whoever gave it up counts on it to be used. When a cancel does, he passes it on.
 */
#include "pool.h"

#include <stdio.h>
#include <string.h>

/* ---- handing over -------------------------------------------------------------------- */

/* From here on he must not look at the pool any more, unless a connection of it holds it:
   it may be freed before he runs. */
static void take_out(weir_pool *pool, struct waiter *waiter)
{
    list_unlink(&waiter->link);
    pool->waiting--;
    pool->stuck -= waiter->held;
    histogram_add(&pool->stats.wait, hot_now() - waiter->since_ns);
}

static struct waiter *take_first(weir_pool *pool)
{
    struct list *first = list_first(&pool->waiters);

    if (!first)
        return NULL;
    struct waiter *waiter = LIST_OF(first, struct waiter, link);
    take_out(pool, waiter);
    waiter->served = true;
    return waiter;
}

static bool usable(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    if (pool->closed) {
        conn_close(conn, WEIR_CLOSE_POOL, WEIR_POLITE);
        return false;
    }
    if (conn->expires_ns <= hot_now()) {
        conn_close(conn, WEIR_CLOSE_AGE, WEIR_POLITE);
        return false;
    }
    return true;
}

/* The one exception to the order: descriptors that another pool has waited for longer. */
static bool owed_to_others(struct conn *conn)
{
    weir_pool   *pool = conn->pool;
    struct list *first = list_first(&pool->waiters);
    int64_t      ours = first ? LIST_OF(first, struct waiter, link)->since_ns : INT64_MAX;

    if (!budget_claims(&pool->share, ours))
        return false;
    conn_close(conn, WEIR_CLOSE_EVICTED, WEIR_POLITE);
    return true;
}

void conn_put(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    if (!usable(conn) || owed_to_others(conn))
        return;

    struct waiter *waiter = take_first(pool);
    if (waiter) {
        conn_move(conn, CONN_IN_USE);
        lease_begin(conn, waiter->task, waiter->site);
        waiter->conn = conn;
        weir_wake(waiter->waker);
        return;
    }
    conn_move(conn, CONN_IDLE);
    upkeep_expect(pool, conn);
}

bool queue_tell_first(weir_pool *pool, const weir_error *error)
{
    struct waiter *waiter = take_first(pool);

    if (!waiter)
        return false;
    *waiter->error = *error;
    weir_wake(waiter->waker);
    return true;
}

void queue_tell_all(weir_pool *pool, const weir_error *error)
{
    while (queue_tell_first(pool, error))
        continue;
}

/* ---- why there was none -------------------------------------------------------------- */

/* A place without its folders: three of them shall fit a message. */
static const char *file_and_line(const char *site)
{
    const char *slash = strrchr(site, '/');

    return slash ? slash + 1 : site;
}

/* Up to three holders, the longest first. */
static void name_holders(const weir_pool *pool, char *text, size_t size)
{
    size_t used = 0;
    int    named = 0;

    text[0] = '\0';
    for (struct list *node = pool->conns[CONN_IN_USE].prev;
         node != &pool->conns[CONN_IN_USE] && named < 3; node = node->prev, named++) {
        const struct conn *conn = LIST_OF(node, struct conn, link);
        int length = snprintf(text + used, size - used, "%s%s (%lld ms)", named ? ", " : "",
                              file_and_line(lease_current(conn)->site),
                              (long long)((hot_now() - conn->since_ns) / 1000000));
        if (length < 0 || (size_t)length >= size - used)
            break;
        used += (size_t)length;
    }
}

WEIR_COLD static weir_status explain(const weir_pool *pool, weir_status status, int64_t since_ns,
                           weir_error *err)
{
    char holders[120];

    if (!err)
        return status;
    name_holders(pool, holders, sizeof holders);
    weir_error_set(err, status,
                   "pool %s: no connection after %lld ms: %u of %u in use%s%s, %u connecting, %u "
                   "short of descriptors, %u waiting%s%s",
                   pool->name, (long long)((hot_now() - since_ns) / 1000000),
                   pool->count[CONN_IN_USE], pool->opts.max_size, holders[0] ? " by " : "",
                   holders, pool->count[CONN_CONNECTING], pool->count[CONN_RESERVED],
                   pool->waiting, pool->failures_in_row ? "; last failure: " : "",
                   pool->failures_in_row ? pool->last_failure.message : "");
    err->native = pool->failures_in_row ? pool->last_failure.native : 0;
    err->outcome = WEIR_OUTCOME_NOT_SENT;
    return status;
}

WEIR_COLD static weir_status say_deadlock(const weir_pool *pool, weir_error *err)
{
    char holders[120];

    name_holders(pool, holders, sizeof holders);
    return weir_error_set(err, WEIR_DEADLOCK,
                          "pool %s: all %u connections are held by coroutines that wait for one "
                          "more of them: taken at %s. Give one back first, or use "
                          "weir_local_lease()",
                          pool->name, pool->opts.max_size, holders);
}

void queue_lease_given(weir_pool *pool, const weir_task *task)
{
    LIST_EACH(node, &pool->waiters) {
        struct waiter *waiter = LIST_OF(node, struct waiter, link);
        if (waiter->task != task)
            continue;
        waiter->held++;
        if (++pool->stuck < pool->opts.max_size)
            return;
        pool->stats.refused++;
        say_deadlock(pool, waiter->error);
        take_out(pool, waiter);
        waiter->served = true;
        weir_wake(waiter->waker);
        return;
    }
}

/* ---- acquiring ----------------------------------------------------------------------- */

/* An idle one that may still be lent. */
static struct conn *take_idle(weir_pool *pool)
{
    struct list *first;

    while ((first = list_first(&pool->conns[CONN_IDLE])) != NULL) {
        struct conn *conn = LIST_OF(first, struct conn, link);
        if (usable(conn)) {
            conn_move(conn, CONN_IN_USE);
            return conn;
        }
    }
    return NULL;
}

/* With me in the queue, would every connection's holder be waiting here? */
static bool would_deadlock(const weir_pool *pool, unsigned held)
{
    return held && pool->count[CONN_IN_USE] == pool->opts.max_size &&
           pool->stuck + held == pool->opts.max_size;
}

static int64_t give_up_at(const weir_pool *pool, weir_deadline deadline)
{
    int64_t ms = pool->opts.acquire_timeout_ms;
    /* The turn's clock may be some milliseconds old: too much for a short limit. */
    int64_t limit = ms < 1000 ? weir_in_ms(ms).at_ns : ns_after(hot_now(), ms);

    return deadline.at_ns < limit ? deadline.at_ns : limit;
}

/* Woken, late or cancelled: what came of it. */
static weir_status outcome(weir_pool *pool, struct waiter *me, weir_status status,
                           struct conn **out, weir_error *err)
{
    if (me->conn && hot_pending() == WEIR_CANCELED) {
        weir_lease *lease = lease_current(me->conn);
        pool->stats.canceled++;
        weir_release(lease); /* to the next in the queue */
        return weir_error_set(err, WEIR_CANCELED, "pool %s: cancelled while waiting", pool->name);
    }
    if (me->conn) {
        *out = me->conn;
        return WEIR_OK;
    }
    if (me->served) {
        if (err)
            *err = *me->error;
        return me->error->status;
    }

    take_out(pool, me);
    if (status == WEIR_CANCELED) {
        pool->stats.canceled++;
        return weir_error_set(err, WEIR_CANCELED, "pool %s: cancelled while waiting", pool->name);
    }
    pool->stats.timeouts++;
    return explain(pool, WEIR_TIMEOUT, me->since_ns, err);
}

static weir_status wait_for_turn(weir_pool *pool, weir_deadline deadline, const char *site,
                                 struct conn **out, weir_error *err)
{
    weir_task    *self = hot_self();
    weir_error    told;
    struct waiter me = { .task = self,
                         .site = site,
                         .since_ns = hot_now(),
                         .held = leases_held(self, pool),
                         .error = &told };

    if (would_deadlock(pool, me.held)) {
        pool->stats.refused++;
        return say_deadlock(pool, err);
    }
    me.waker = weir_waker_new();
    list_append(&pool->waiters, &me.link);
    pool->stuck += me.held;
    if (++pool->waiting > pool->stats.waiting_peak)
        pool->stats.waiting_peak = pool->waiting;
    dial_if_wanted(pool);

    weir_status status =
        weir_park(weir_deadline_at(give_up_at(pool, deadline)), "a connection of a pool");
    return outcome(pool, &me, status, out, err);
}

weir_status queue_acquire(weir_pool *pool, weir_deadline deadline, const char *site,
                          struct conn **out, weir_error *err)
{
    weir_status status = hot_pending();

    if (pool->closed)
        return weir_error_set(err, WEIR_CLOSED, "pool %s is closed", pool->name);
    if (status == WEIR_CANCELED)
        return weir_error_set(err, status, "pool %s: this coroutine was cancelled", pool->name);
    if (status == WEIR_OK && !pool->waiting) {
        struct conn *conn = take_idle(pool);
        if (conn) {
            lease_begin(conn, hot_self(), site);
            if (pool->count[CONN_IDLE] < pool->opts.min_idle)
                dial_if_wanted(pool);
            pool->stats.acquired_at_once++;
            pool->stats.wait.count++;
            pool->stats.wait.bucket[0]++;
            hot_spend(1);
            *out = conn;
            return WEIR_OK;
        }
    }
    if (dial_known_down(pool)) {
        if (err)
            *err = pool->last_failure;
        hot_spend(WEIR_IO_UNITS);
        return WEIR_CONNECT;
    }
    if (pool->opts.max_waiters && pool->waiting >= pool->opts.max_waiters) {
        pool->stats.refused++;
        explain(pool, WEIR_FULL, hot_now(), err);
        hot_spend(WEIR_IO_UNITS);
        return WEIR_FULL;
    }
    return wait_for_turn(pool, deadline, site, out, err);
}
