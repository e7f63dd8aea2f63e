/*
 * queue.c - who waits for a connection, and who gets the next one.
 *
 * Strictly first come, first served: a connection that is given back goes to the oldest
 * waiter in the same step, and a newcomer never overtakes the queue. A waiter stands on his
 * own stack; being served is a field in it, so a hand-over allocates nothing and cannot fail.
 *
 * When a hand-over and the waiter's deadline fall into the same turn the connection wins:
 * whoever gave it up counts on it to be used. When a cancel does, he passes it on.
 *
 * A pool that is not ready has no queue: whoever waited is told at once, and so is a newcomer.
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

/* One that its pool has no use for any more. What is stale has expired: see weir_pool_clear(). */
WEIR_COLD static bool turned_away(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    if (pool->state == WEIR_POOL_CLOSED)
        conn_close(conn, WEIR_CLOSE_POOL, WEIR_POLITE);
    else if (conn_is_stale(conn))
        conn_close(conn, WEIR_CLOSE_STALE, WEIR_POLITE);
    else if (conn->expires_ns <= hot_now())
        conn_close(conn, WEIR_CLOSE_AGE, WEIR_POLITE);
    else if (conn->driver_side->quiet_until_ns <= hot_now()) /* it may end in mid-statement */
        conn_close(conn, WEIR_CLOSE_IDLE, WEIR_POLITE);
    else if (pool_total(pool) > pool->opts.max_size)
        conn_close(conn, WEIR_CLOSE_RESIZED, WEIR_POLITE);
    else
        return false;
    return true;
}

static inline bool usable(struct conn *conn)
{
    return conn_is_fresh(conn) || !turned_away(conn);
}

/* The one exception to the order: descriptors that another pool has waited for longer, or a
   permit that is another process' by right. */
static bool owed_to_others(struct conn *conn)
{
    weir_pool   *pool = conn->pool;
    struct list *first = list_first(&pool->waiters);
    int64_t      ours = first ? LIST_OF(first, struct waiter, link)->since_ns : INT64_MAX;

    if (!(pool->owes && shared_claims(pool)) && !budget_claims(&pool->share, ours))
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
        if (pool_sheds(pool))
            shed_served(pool, hot_now() - waiter->since_ns);
        if (pool->on_event)
            tell_conn(conn, WEIR_EVENT_CHECKED_OUT, hot_now() - waiter->since_ns);
        return;
    }
    conn_move(conn, CONN_IDLE);
    upkeep_rests(conn);
}

bool queue_tell_first(weir_pool *pool, const weir_error *error)
{
    struct waiter *waiter = take_first(pool);

    if (!waiter)
        return false;
    *waiter->error = *error;
    weir_wake(waiter->waker);
    if (pool->on_event)
        tell_check_out_failed(pool, error->status, error, waiter->since_ns);
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

enum { HOLDERS = 120 };

/* The longest first. */
static void name_holders(const weir_pool *pool, int most, char text[HOLDERS])
{
    const size_t size = HOLDERS;
    size_t       used = 0;
    int          named = 0;

    text[0] = '\0';
    for (struct list *node = pool->conns[CONN_IN_USE].prev;
         node != &pool->conns[CONN_IN_USE] && named < most; node = node->prev, named++) {
        const struct conn *conn = LIST_OF(node, struct conn, link);
        int length = snprintf(text + used, size - used, "%s%s (%lld ms)", named ? ", " : "",
                              file_and_line(lease_current(conn)->site),
                              (long long)((hot_now() - conn->since_ns) / 1000000));
        if (length < 0 || (size_t)length >= size - used)
            break;
        used += (size_t)length;
    }
}

weir_status queue_explain(const weir_pool *pool, weir_status status, const char *what,
                          weir_error *err)
{
    bool failing = pool->failures_in_row > 0;
    char holders[HOLDERS], opening[OPENING];

    if (!err)
        return status;
    /* A failure's words are long, and tell more than a second and a third holder. */
    name_holders(pool, failing ? 1 : 3, holders);
    report_opening(pool, opening);
    weir_error_set(err, status, "pool %s: %s: %u of %u in use%s%s, %s, %u waiting%s%s", pool->name,
                   what, pool->count[CONN_IN_USE], pool->opts.max_size, holders[0] ? " by " : "",
                   holders, opening, pool->waiting, failing ? "; last failure: " : "",
                   failing ? pool->last_failure.message : "");
    err->native = failing ? pool->last_failure.native : 0;
    err->outcome = WEIR_OUTCOME_NOT_SENT;
    return status;
}

WEIR_COLD static weir_status explain(const weir_pool *pool, weir_status status, int64_t since_ns,
                                     weir_error *err)
{
    char what[48];

    snprintf(what, sizeof what, "no connection after %lld ms",
             (long long)((hot_now() - since_ns) / 1000000));
    return queue_explain(pool, status, what, err);
}

WEIR_COLD static weir_status say_deadlock(const weir_pool *pool, weir_error *err)
{
    char holders[HOLDERS];

    name_holders(pool, 3, holders);
    return weir_error_set(err, WEIR_DEADLOCK,
                          "pool %s: all %u connections%s are held by coroutines that wait for "
                          "one more of them: taken at %s. Give one back first, or use "
                          "weir_local_lease()",
                          pool->name, pool->count[CONN_IN_USE],
                          pool->count[CONN_IN_USE] < pool->opts.max_size
                              ? " that the process has descriptors for" : "",
                          holders);
}

/* Would every connection's holder be waiting here, `held` connections more counted as such,
   with no hope of another connection? */
static bool all_are_stuck(const weir_pool *pool, unsigned held)
{
    unsigned in_use = pool->count[CONN_IN_USE];

    if (!in_use || pool->stuck + held < in_use)
        return false;
    if (in_use >= pool->opts.max_size)
        return true;
    return pool_total(pool) == in_use + pool->count[CONN_RESERVED] &&
           !pool->count[CONN_CLOSING] &&
           budget_is_all_ours(&pool->share, pool->driver->sockets(pool->config));
}

/* Somebody must give way; it is he. */
WEIR_COLD static void tell_stuck(weir_pool *pool, struct waiter *waiter)
{
    pool->stats.refused++;
    say_deadlock(pool, waiter->error);
    take_out(pool, waiter);
    waiter->served = true;
    weir_wake(waiter->waker);
    if (pool->on_event)
        tell_check_out_failed(pool, WEIR_DEADLOCK, waiter->error, waiter->since_ns);
}

/* The one who came last, as when the last to come closes the circle. */
void queue_check_stuck(weir_pool *pool)
{
    if (!pool->stuck || !all_are_stuck(pool, 0))
        return;
    for (struct list *node = pool->waiters.prev; node != &pool->waiters; node = node->prev) {
        struct waiter *waiter = LIST_OF(node, struct waiter, link);
        if (waiter->held) {
            tell_stuck(pool, waiter);
            return;
        }
    }
}

void queue_lease_given(weir_pool *pool, const weir_task *task)
{
    LIST_EACH(node, &pool->waiters) {
        struct waiter *waiter = LIST_OF(node, struct waiter, link);
        if (waiter->task != task)
            continue;
        waiter->held++;
        pool->stuck++;
        if (all_are_stuck(pool, 0))
            tell_stuck(pool, waiter);
        return;
    }
}

/* ---- acquiring ----------------------------------------------------------------------- */

/* An idle one that may still be lent. */
/* The first idle one that is good for something; the others are closed. */
static struct conn *find_idle(weir_pool *pool)
{
    struct list *first;

    while ((first = list_first(&pool->conns[CONN_IDLE])) != NULL) {
        struct conn *conn = LIST_OF(first, struct conn, link);
        if (usable(conn))
            return conn;
    }
    return NULL;
}

static int64_t give_up_at(const weir_pool *pool, weir_deadline deadline)
{
    int64_t ms = pool->opts.acquire_timeout_ms;
    /* The turn's clock may be some milliseconds old: too much for a short limit. */
    int64_t limit = ms < 1000 ? weir_in_ms(ms).at_ns : ns_after(hot_now(), ms);

    return deadline.at_ns < limit ? deadline.at_ns : limit;
}

/* The end of a check-out without a connection. */
WEIR_COLD static weir_status refuse(weir_pool *pool, weir_status status, const weir_error *err,
                                    int64_t since_ns)
{
    if (pool->on_event)
        tell_check_out_failed(pool, status, err, since_ns);
    return status;
}

/* Woken, late or cancelled: what came of it. */
static weir_status outcome(weir_pool *pool, struct waiter *me, weir_status status,
                           weir_lease **out, weir_error *err)
{
    if (me->conn && hot_pending() == WEIR_CANCELED) {
        weir_lease *lease = lease_current(me->conn);
        pool->stats.canceled++;
        weir_release(lease); /* to the next in the queue */
        return weir_error_set(err, WEIR_CANCELED, "pool %s: cancelled while waiting", pool->name);
    }
    if (me->conn) {
        *out = lease_current(me->conn);
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
        weir_error_set(err, WEIR_CANCELED, "pool %s: cancelled while waiting", pool->name);
    } else {
        pool->stats.timeouts++;
        status = explain(pool, WEIR_TIMEOUT, me->since_ns, err);
        report_timeout(pool);
    }
    return refuse(pool, status, err, me->since_ns);
}

static weir_status wait_for_turn(weir_pool *pool, weir_deadline deadline, const char *site,
                                 weir_lease **out, weir_error *err)
{
    weir_task    *self = hot_self();
    weir_error    told;
    struct waiter me = { .task = self,
                         .site = site,
                         .since_ns = hot_now(),
                         .held = leases_held(self, pool),
                         .error = &told };

    if (me.held && all_are_stuck(pool, me.held)) {
        pool->stats.refused++;
        return refuse(pool, say_deadlock(pool, err), err, me.since_ns);
    }
    me.waker = weir_waker_new();
    list_append(&pool->waiters, &me.link);
    pool->stuck += me.held;
    if (++pool->waiting > pool->stats.waiting_peak)
        pool->stats.waiting_peak = pool->waiting;
    if (pool->waiting == 1 && pool->count[CONN_RESERVED])
        budget_wanted(&pool->share); /* for a minimum, until now */
    if (pool->waiting == 1 && pool_sheds(pool))
        shed_expect(pool);
    dial_if_wanted(pool);

    weir_status status =
        weir_park(weir_deadline_at(give_up_at(pool, deadline)), "a connection of a pool");
    return outcome(pool, &me, status, out, err);
}

/* Not to be served before he gives up? For those who asked to be told so. */
WEIR_COLD static bool is_hopeless(weir_pool *pool, weir_deadline deadline, weir_error *err)
{
    int64_t at = give_up_at(pool, deadline);
    int64_t scope = ((const struct hot_task *)hot_self())->limit_ns;
    int64_t expected;
    char    what[80];

    if (!shed_hopeless(pool, scope < at ? scope : at, &expected))
        return false;
    pool->stats.shed++;
    snprintf(what, sizeof what, "shed: a connection is expected in %lld ms only",
             (long long)(expected / 1000000));
    queue_explain(pool, WEIR_FULL, what, err);
    return true;
}

/* No caller gets one now, whether there are idle ones or not. */
WEIR_COLD static weir_status refuse_all(weir_pool *pool, weir_status pending, weir_error *err)
{
    weir_status status = WEIR_CONNECT;

    if (pool->state == WEIR_POOL_CLOSED)
        status = weir_error_set(err, WEIR_CLOSED, "pool %s is closed", pool->name);
    else if (pending == WEIR_CANCELED)
        status = weir_error_set(err, WEIR_CANCELED, "pool %s: this coroutine was cancelled",
                                pool->name);
    else if (err)
        *err = pool->why_paused;
    if (status == WEIR_CONNECT)
        hot_spend(WEIR_IO_UNITS); /* whoever tries again at once shall not hold up the rest */
    return refuse(pool, status, err, hot_now());
}

weir_status queue_acquire(weir_pool *pool, weir_deadline deadline, const char *site,
                          weir_lease **out, weir_error *err)
{
    struct hot_hub *hub = pool_hub(pool);
    weir_status     status = hot_pending_in(hub);

    *out = NULL;
    if (pool->on_event) {
        if (pool->telling)
            return pool_check_verb(pool, "weir_acquire", err);
        tell_pool(pool, WEIR_EVENT_CHECK_OUT_STARTED, false);
    }
    if (pool->state != WEIR_POOL_READY || status == WEIR_CANCELED)
        return refuse_all(pool, status, err);
    if (status == WEIR_OK && !pool->waiting) {
        struct conn *conn = find_idle(pool);
        if (conn) {
            *out = lend_idle(conn, hub->running, site);
            if (pool->on_event)
                tell_conn(conn, WEIR_EVENT_CHECKED_OUT, 0);
            return WEIR_OK;
        }
    }
    if (dial_known_down(pool)) {
        if (err)
            *err = pool->last_failure;
        hot_spend(WEIR_IO_UNITS);
        return refuse(pool, WEIR_CONNECT, &pool->last_failure, hot_now());
    }
    if (pool->opts.max_waiters && pool->waiting >= pool->opts.max_waiters) {
        pool->stats.refused++;
        explain(pool, WEIR_FULL, hot_now(), err);
        hot_spend(WEIR_IO_UNITS);
        return refuse(pool, WEIR_FULL, err, hot_now());
    }
    if (pool->opts.refuse_hopeless && is_hopeless(pool, deadline, err)) {
        hot_spend(WEIR_IO_UNITS);
        return refuse(pool, WEIR_FULL, err, hot_now());
    }
    return wait_for_turn(pool, deadline, site, out, err);
}
