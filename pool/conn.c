/*
 * conn.c - one connection, from its place in the pool to its last descriptor.
 *
 * Each connection has a coroutine of its own, its keeper, made together with it: opening,
 * resetting and closing happen there. So no caller ever waits inside somebody's connect, a
 * cancelled caller cannot interrupt one, one stopped server holds up only its own
 * connections, and closing never depends on memory.
 */
#include "pool.h"

#include "log.h"

#include <stdlib.h>
#include <string.h>

/* ---- states ------------------------------------------------------------------------- */

static struct conn *conn_of(const weir_conn *driver_side)
{
    return driver_side->pool_side_;
}

/* ---- gone --------------------------------------------------------------------------- */

static void give_permit_back(struct conn *conn)
{
    conn->pool->permits -= conn->permit;
    conn->permit = false;
}

/* The last step, in the keeper: everything it occupied is free again. */
static void vanish(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    give_permit_back(conn);
    if (conn->state == CONN_CLOSING)
        pool->share.leaving -= conn->paid;
    budget_refund(&pool->share, conn->paid);
    if (conn->ticket)
        shared_return(conn);
    if (conn->opened)
        pool->stats.closed[conn->reason]++;
    list_unlink(&conn->link);
    pool->count[conn->state]--;
    pool_ceiling_lower(pool);
    weir_reserve_free(conn->keeper);
    list_append(&pool->spare, &conn->link);
    pool_verify(pool);
    dial_if_wanted(pool);
    pool_gone_check(pool);
}

/* ---- closing ------------------------------------------------------------------------ */

static void say_goodbye(struct conn *conn)
{
    weir_pool    *pool = conn->pool;
    weir_deadline until = weir_in_ms(pool->opts.close_timeout_ms);

    conn->driver_side->user = conn->keeper;
    WEIR_SHIELD(until);
    pool->driver->close(conn->driver_side, conn->farewell, until);
    conn->driver_side->user = NULL;
}

/* A keeper who finds its connection condemned closes it as the last thing it does. */
static weir_status keeper_ends(struct conn *conn)
{
    if (conn->state == CONN_CLOSING) {
        say_goodbye(conn);
        vanish(conn);
    }
    return WEIR_OK;
}

static weir_status keeper_closes(void *arg)
{
    struct conn *conn = arg;

    conn->unsaid = false;
    conn->pool->parting--;
    conn_begin_goodbyes(conn->pool); /* before ours, which may take long */
    return keeper_ends(conn);
}

/*
 * Ten thousand connections may be closed in one step. Each goodbye is some microseconds of the
 * kernel's, so that all in one turn would hold the hub for 60 ms; a turn begins a few. Those
 * whose keeper was not started yet are the last of their list.
 */
void conn_begin_goodbyes(weir_pool *pool)
{
    enum { AT_ONCE = 16 };

    while (pool->unsaid && pool->parting < AT_ONCE) {
        struct conn *conn = LIST_OF(list_last(&pool->conns[CONN_CLOSING]), struct conn, link);
        list_unlink(&conn->link);
        list_prepend(&pool->conns[CONN_CLOSING], &conn->link);
        pool->unsaid--;
        pool->parting++;
        weir_reserve_start(conn->keeper, keeper_closes, conn);
    }
}

static void part_with(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    list_unlink(&conn->link);
    list_append(&pool->conns[CONN_CLOSING], &conn->link);
    conn->unsaid = true;
    pool->unsaid++;
    conn_begin_goodbyes(pool);
}

static void close_saying(struct conn *conn, weir_close_reason reason, weir_farewell how,
                         const char *message)
{
    conn->reason = reason;
    conn->farewell = how;
    conn_move(conn, CONN_CLOSING);
    pool_ceiling_lower(conn->pool);
    if (hot_self() != conn->keeper)
        part_with(conn);
    if (conn->pool->on_event) /* the last: see fork.c */
        tell_conn_closed(conn, message);
}

void conn_close(struct conn *conn, weir_close_reason reason, weir_farewell how)
{
    close_saying(conn, reason, how, NULL);
}

void conn_cut(struct conn *conn)
{
    conn->cut = true;
    weir_cancel(conn->keeper);
}

/* ---- connecting --------------------------------------------------------------------- */

static weir_status try_to_open(struct conn *conn, weir_error *err)
{
    weir_pool    *pool = conn->pool;
    weir_deadline until = weir_in_ms(pool->opts.connect_timeout_ms);

    WEIR_DEADLINE(until);
    return pool->driver->open(conn->driver_side, pool->config, until, err);
}

/* A failed attempt leaves things that only close() can free. */
static void wipe(struct conn *conn)
{
    conn->farewell = WEIR_ABRUPT;
    say_goodbye(conn);
    memset(conn->driver_side + 1, 0, conn->pool->driver->conn_size - sizeof(weir_conn));
}

/* Or was whoever wanted it served meanwhile, or gave up? */
static bool still_wanted(const struct conn *conn)
{
    const weir_pool *pool = conn->pool;
    unsigned         others = pool->count[CONN_RESERVED] + pool->count[CONN_CONNECTING] - 1;

    return !conn->cut && pool->state == WEIR_POOL_READY &&
           pool_total(pool) <= pool->opts.max_size && dial_is_wanted(pool, others);
}

/* Without its leave to connect, which another pool may have a use for. */
static weir_status wait_for_kernel(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    pool->stats.connect_parked++;
    governor_leave(&conn->governed);
    pool->parked++;
    weir_status status = budget_wait_for_kernel();
    if (status == WEIR_OK)
        status = governor_enter(&pool->line, &conn->governed);
    pool->parked--;
    return status;
}

/* The kernel's want of descriptors is nobody's failure: we wait for one, while we are needed. */
static weir_status open_when_possible(struct conn *conn, weir_error *err)
{
    for (;;) {
        conn->driver_side->user = conn->keeper;
        weir_status status = try_to_open(conn, err);
        conn->driver_side->user = NULL;
        if (status == WEIR_OK)
            return status;
        wipe(conn);
        if (status != WEIR_BUSY || conn->cut)
            return status;
        status = wait_for_kernel(conn);
        if (status != WEIR_OK)
            return weir_error_set(err, status, "gave up waiting for a file descriptor");
        if (!still_wanted(conn))
            return WEIR_BUSY;
    }
}

static int64_t worn_out_at(weir_pool *pool, int64_t now_ns)
{
    if (pool->opts.max_age_ms > INT64_MAX / 1000000)
        return INT64_MAX; /* 292 years and more, WEIR_NEVER among them */

    /* Ten per cent up or down, so that connections opened together do not end together. */
    double factor = 0.9 + 0.2 * pool_random(pool);
    return ns_after(now_ns, (int64_t)((double)pool->opts.max_age_ms * factor));
}

static void opened(struct conn *conn, int64_t began_ns)
{
    weir_pool *pool = conn->pool;
    int64_t    now = hot_now();

    conn->opened = true;
    conn->expires_ns = worn_out_at(pool, now);
    pool->stats.opened++;
    histogram_add(&pool->stats.connect, now - began_ns);
    if (pool->on_event && conn->announced)
        tell_conn(conn, WEIR_EVENT_CONN_READY, now - began_ns);
    if (conn_is_stale(conn))
        conn->expires_ns = now; /* the pool was cleared meanwhile */
    else
        dial_succeeded(pool);
    conn_put(conn);
    /* Only now: whoever waits for the permit must find the connection first, or he would open
       one too many. */
    give_permit_back(conn);
    dial_if_wanted(pool);
}

/* Its place is free; there is nothing left to close. */
static weir_status keeper_gives_up(struct conn *conn, weir_status status, const weir_error *err)
{
    weir_pool *pool = conn->pool;

    conn_move(conn, CONN_CLOSING);
    pool_ceiling_lower(pool);
    give_permit_back(conn);
    conn->reason = WEIR_CLOSE_UNOPENED;
    if (pool->on_event)
        tell_conn_closed(conn, NULL);
    if (!conn->cut && !conn_is_stale(conn) && status != WEIR_BUSY)
        dial_failed(pool, err);
    vanish(conn);
    return WEIR_OK;
}

static weir_status keeper_connects(void *arg)
{
    struct conn *conn = arg;
    weir_pool   *pool = conn->pool;
    unsigned     sockets = pool->driver->sockets(pool->config);
    weir_error   err = { 0 };

    /* Connections may need more than when the pool was made, and more than there can ever be. */
    if (sockets > pool->share.floor && budget_promise(&pool->share, sockets, &err) != WEIR_OK)
        return keeper_gives_up(conn, WEIR_FULL, &err);
    if (budget_pay(&pool->share, sockets, &pool->waiting, WEIR_FOREVER) != WEIR_OK) {
        vanish(conn);
        return WEIR_OK;
    }
    conn->paid = sockets;
    weir_status permitted = pool->shared ? shared_wait(conn, &err) : WEIR_OK;
    if (permitted == WEIR_FULL || permitted == WEIR_NOMEM)
        return keeper_gives_up(conn, permitted, &err);
    if (permitted != WEIR_OK || governor_enter(&pool->line, &conn->governed) != WEIR_OK ||
        !still_wanted(conn)) {
        governor_decline(&conn->governed);
        vanish(conn);
        return WEIR_OK;
    }

    int64_t began = hot_now();
    conn_move(conn, CONN_CONNECTING);
    conn->announced = true;
    if (pool->on_event)
        tell_conn(conn, WEIR_EVENT_CONN_CREATED, 0);
    weir_status status = open_when_possible(conn, &err);
    governor_leave(&conn->governed);
    if (status != WEIR_OK)
        return keeper_gives_up(conn, status, &err);
    opened(conn, began);
    return keeper_ends(conn);
}

/*
 * A record that was a connection's before keeps its handles: who still has one of them, and
 * uses it too late, is told so and does not meet freed memory. The one unused longest is
 * taken first, so that this holds for long.
 */
static struct conn *record_new(weir_pool *pool)
{
    struct list *first = list_first(&pool->spare);

    if (!first)
        return calloc(1, sizeof(struct conn) + pool->driver->conn_size);
    struct conn *conn = LIST_OF(first, struct conn, link);
    list_unlink(first);
    memset(conn->driver_side, 0, pool->driver->conn_size);
    conn->opened = conn->announced = conn->cut = conn->governed = conn->pinged = false;
    conn->paid = 0;
    return conn;
}

struct conn *conn_new(weir_pool *pool, weir_error *err)
{
    struct conn *conn = record_new(pool);
    if (!conn) {
        weir_error_set(err, WEIR_NOMEM, "no memory for a connection");
        return NULL;
    }
    if (weir_reserve_new(pool->name, &conn->keeper, err) != WEIR_OK) {
        list_append(&pool->spare, &conn->link);
        return NULL;
    }

    pool->minimum = pool->opts.min_idle || pool->opts.min_size; /* off in a forked child so far */
    conn->pool = pool;
    conn->id = ++pool->last_id;
    conn->generation = pool->generation;
    conn->state = CONN_RESERVED;
    conn->since_ns = hot_now();
    conn->permit = true;
    pool->permits++;
    pool->count[CONN_RESERVED]++;
    list_append(&pool->conns[CONN_RESERVED], &conn->link);
    conn->driver_side->pool_side_ = conn;
    conn->driver_side->quiet_until_ns = INT64_MAX;
    for (int i = 0; i < LEASES_PER_CONN; i++)
        conn->leases[i].conn = conn;
    weir_reserve_start(conn->keeper, keeper_connects, conn);
    return conn;
}

/* ---- seen to, while nobody uses it -------------------------------------------------- */

/* What its keeper asked of the driver has ended so. */
static void seen_to(struct conn *conn, weir_status status, const weir_error *err)
{
    weir_pool *pool = conn->pool;

    if (status == WEIR_OK) {
        conn_put(conn);
        dial_if_wanted(pool); /* too old by now, or owed to others: its place is free */
    } else if (pool->state == WEIR_POOL_CLOSED) {
        conn_close(conn, WEIR_CLOSE_POOL, WEIR_ABRUPT);
    } else if (conn_is_stale(conn)) {
        conn_close(conn, WEIR_CLOSE_STALE, WEIR_ABRUPT);
    } else {
        LOG(WEIR_LOG_INFO, "pool %s: connection %llu %s and is closed: %s", pool->name,
            (unsigned long long)conn->id,
            conn->pinged ? "gave no sign of life" : "could not be reset", err->message);
        close_saying(conn, conn->pinged ? WEIR_CLOSE_PING_FAILED : WEIR_CLOSE_RESET_FAILED,
                     WEIR_ABRUPT, err->message);
        dial_if_wanted(pool);
    }
}

static weir_status keeper_resets(void *arg)
{
    struct conn  *conn = arg;
    weir_pool    *pool = conn->pool;
    weir_deadline until = weir_in_ms(pool->opts.reset_timeout_ms);
    weir_error    err = { 0 };
    weir_status   status;

    pool->stats.resets++;
    conn->driver_side->user = conn->keeper;
    {
        WEIR_DEADLINE(until);
        status = pool->driver->reset(conn->driver_side, pool->opts.reset, until, &err);
    }
    conn->driver_side->user = NULL;
    seen_to(conn, status, &err);
    return keeper_ends(conn);
}

static weir_status keeper_pings(void *arg)
{
    struct conn  *conn = arg;
    weir_pool    *pool = conn->pool;
    weir_deadline until = weir_in_ms(pool->opts.reset_timeout_ms);
    weir_error    err = { 0 };
    weir_status   status;

    pool->stats.pings++;
    conn->driver_side->user = conn->keeper;
    {
        WEIR_DEADLINE(until);
        status = pool->driver->ping(conn->driver_side, until, &err);
    }
    conn->driver_side->user = NULL;
    pool->pings--;
    seen_to(conn, status, &err);
    conn->pinged = false;
    upkeep_again(pool);
    return keeper_ends(conn);
}

void conn_ping(struct conn *conn)
{
    conn->pinged = true;
    conn->pool->pings++;
    conn_move(conn, CONN_RESETTING);
    weir_reserve_start(conn->keeper, keeper_pings, conn);
}

/* ---- given back --------------------------------------------------------------------- */

/* A lease on it is over: what is the connection good for now? */
void conn_end_lease(struct conn *conn, weir_condition condition, bool forgotten, bool close)
{
    weir_pool    *pool = conn->pool;
    weir_farewell how = condition == WEIR_CLEAN || condition == WEIR_DIRTY ? WEIR_POLITE
                                                                           : WEIR_ABRUPT;

    if (pool->opts.refuse_hopeless)
        shed_learn(pool, pool_now(pool) - conn->since_ns);
    uint64_t generation = pool->generation;
    if (pool->on_event)
        tell_conn(conn, WEIR_EVENT_CHECKED_IN, 0);
    if (pool->generation != generation)
        return; /* the listener forked, and it is closed by now */
    if (forgotten && pool->opts.on_exit == WEIR_ON_EXIT_CLOSE)
        conn_close(conn, WEIR_CLOSE_LEAKED, how);
    else if (condition != WEIR_CLEAN && conn_is_stale(conn) && pool->state != WEIR_POOL_CLOSED)
        conn_close(conn, WEIR_CLOSE_STALE, how); /* nothing to put right, nor to blame */
    else if (condition == WEIR_GONE)
        conn_close(conn, WEIR_CLOSE_LOST, how);
    else if (condition == WEIR_BROKEN)
        conn_close(conn, WEIR_CLOSE_BROKEN, how);
    else if (close)
        conn_close(conn, WEIR_CLOSE_REQUESTED, how);
    else if (condition == WEIR_CLEAN || pool->state == WEIR_POOL_CLOSED)
        conn_put(conn); /* closes it where the pool is closed, or was cleared */
    else {
        conn_move(conn, CONN_RESETTING);
        weir_reserve_start(conn->keeper, keeper_resets, conn);
    }
    dial_if_wanted(pool); /* a place that became free may be wanted */
    pool_verify(pool);
}

/* ---- what the driver hears and asks -------------------------------------------------- */

/* Why its server ended it: some say so before they do. */
static const char *last_words(struct conn *conn)
{
    weir_pool *pool = conn->pool;
    weir_error err = { 0 };

    if (!pool->driver->last_words || !pool->driver->last_words(conn->driver_side, &err))
        return NULL;
    pool->stats.farewells++;
    pool->farewell = err;
    LOG(WEIR_LOG_WARN, "pool %s: idle connection %llu was ended by its server: %s", pool->name,
        (unsigned long long)conn->id, err.message);
    return pool->farewell.message;
}

void weir_conn_stirred(weir_conn *driver_side)
{
    struct conn *conn = conn_of(driver_side);
    weir_pool   *pool = conn->pool;

    if (conn->state != CONN_IDLE)
        return; /* its user will see for himself */
    close_saying(conn, WEIR_CLOSE_LOST, WEIR_ABRUPT, last_words(conn));
    dial_if_wanted(pool);
}

weir_status weir_conn_pay(weir_conn *driver_side, unsigned count, weir_deadline deadline)
{
    struct conn *conn = conn_of(driver_side);
    weir_status  status = budget_pay(&conn->pool->share, count, NULL, deadline);

    if (status == WEIR_OK)
        conn->paid += count;
    return status;
}

void weir_conn_refund(weir_conn *driver_side, unsigned count)
{
    struct conn *conn = conn_of(driver_side);

    conn->paid -= count;
    budget_refund(&conn->pool->share, count);
}

unsigned weir_conn_paid(const weir_conn *driver_side)
{
    return conn_of(driver_side)->paid;
}

weir_pool *weir_conn_pool(const weir_conn *driver_side)
{
    return conn_of(driver_side)->pool;
}

uint64_t weir_conn_id(const weir_conn *driver_side)
{
    return conn_of(driver_side)->id;
}

uint64_t weir_conn_generation(const weir_conn *driver_side)
{
    return conn_of(driver_side)->generation;
}

const char *weir_conn_site(const weir_conn *driver_side)
{
    const weir_lease *lease = lease_current(conn_of(driver_side));

    return lease && lease->site ? lease->site : "nowhere yet";
}
