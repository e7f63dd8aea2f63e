/*
 * state.c - what a pool may do now: ready, paused or closed, and how large it may be.
 *
 * Ready, it lends and opens. Paused, it does neither, and has no queue: whoever waited is told
 * at once, since nobody knows how long a pause lasts, and a caller who is told can go elsewhere.
 * Closed is for good. These are CMAP's states, and CMAP's "clear" is here: it pauses, and begins
 * a new generation, in which every connection that was there before is stale.
 *
 * A stale connection has expired. So taking and giving back, which look at the age anyway, need
 * no second look for it; likewise for a pool that became smaller there is one flag, "choosy",
 * for everything that makes it turn connections away.
 */
#include "pool.h"

#include "log.h"

#include <string.h>

/* ---- from where ---------------------------------------------------------------------- */

weir_status pool_check_verb(const weir_pool *pool, const char *verb, weir_error *err)
{
    weir_error own;

    if (!err)
        err = &own;
    if (!pool)
        weir_error_set(err, WEIR_USAGE, "%s() without a pool", verb);
    else if (weir_hub_here() != pool->hub)
        weir_error_set(err, WEIR_USAGE,
                       "%s() of pool %s by another thread than the one that made it: have a "
                       "coroutine there do it",
                       verb, pool->name);
    else if (pool->telling)
        weir_error_set(err, WEIR_USAGE,
                       "%s() of pool %s in the callback of one of its events: do it in a coroutine",
                       verb, pool->name);
    else
        return WEIR_OK;
    LOG(WEIR_LOG_ERROR, "%s", err->message);
    return WEIR_USAGE;
}

/* The same for those that a closed pool refuses. */
static weir_status check(const weir_pool *pool, const char *verb, weir_error *err)
{
    weir_status status = pool_check_verb(pool, verb, err);

    if (status == WEIR_OK && pool->state == WEIR_POOL_CLOSED)
        return weir_error_set(err, WEIR_CLOSED, "pool %s is closed", pool->name);
    return status;
}

weir_pool_state weir_pool_state_of(const weir_pool *pool)
{
    return pool->state;
}

const char *weir_pool_state_name(weir_pool_state state)
{
    static const char *const names[] = { "ready", "paused", "closed" };

    return (unsigned)state <= WEIR_POOL_CLOSED ? names[state] : "(no weir_pool_state)";
}

/* ---- ready and paused ---------------------------------------------------------------- */

/* Those that wait for descriptors have nothing to lose. */
static void cut_off(weir_pool *pool, enum conn_state state)
{
    LIST_EACH(node, &pool->conns[state])
        conn_cut(LIST_OF(node, struct conn, link));
}

static void stop_dialling(weir_pool *pool)
{
    weir_alarm_stop(&pool->redial);
    cut_off(pool, CONN_RESERVED);
}

static void say_why(weir_pool *pool, const char *what, const weir_error *why)
{
    weir_error_set(&pool->why_paused, WEIR_CONNECT, "pool %s %s%s%s", pool->name, what,
                   why ? ": " : "", why ? why->message : "");
    pool->why_paused.native = why ? why->native : 0;
    pool->why_paused.outcome = WEIR_OUTCOME_NOT_SENT;
}

weir_status weir_pool_pause(weir_pool *pool, weir_error *err)
{
    weir_status status = check(pool, "weir_pool_pause", err);

    if (status != WEIR_OK || pool->state == WEIR_POOL_PAUSED)
        return status;
    pool->state = WEIR_POOL_PAUSED;
    say_why(pool, "is paused", NULL);
    stop_dialling(pool);
    queue_tell_all(pool, &pool->why_paused);
    return WEIR_OK;
}

weir_status weir_pool_ready(weir_pool *pool, weir_error *err)
{
    weir_status status = check(pool, "weir_pool_ready", err);

    if (status != WEIR_OK || pool->state == WEIR_POOL_READY)
        return status;
    pool->state = WEIR_POOL_READY;
    pool->failures_in_row = 0; /* whoever says "ready" knows better than our last attempt */
    pool->retry_ns = 0;
    if (pool->on_event)
        tell_pool(pool, WEIR_EVENT_POOL_READY, false);
    dial_if_wanted(pool);
    return WEIR_OK;
}

/* ---- a new generation ---------------------------------------------------------------- */

static void close_idle(weir_pool *pool, weir_close_reason reason)
{
    struct list *first;

    while ((first = list_first(&pool->conns[CONN_IDLE])) != NULL)
        conn_close(LIST_OF(first, struct conn, link), reason, WEIR_POLITE);
}

/* Given up before it was open. Told now: CMAP has a pending connection closed before the
   check-out that waited for it fails. */
static void give_up_opening(weir_pool *pool)
{
    uint64_t generation = pool->generation;

    LIST_EACH(node, &pool->conns[CONN_CONNECTING]) {
        struct conn *conn = LIST_OF(node, struct conn, link);
        conn->reason = WEIR_CLOSE_STALE;
        if (pool->on_event)
            tell_conn_closed(conn, NULL);
        if (pool->generation != generation)
            return; /* the listener forked, and there are none any more */
        conn_cut(conn);
    }
}

static void interrupt_users(weir_pool *pool)
{
    if (!pool->driver->interrupt)
        return;
    LIST_EACH(node, &pool->conns[CONN_IN_USE])
        pool->driver->interrupt(LIST_OF(node, struct conn, link)->driver_side);
}

static void expire(weir_pool *pool, enum conn_state state)
{
    LIST_EACH(node, &pool->conns[state])
        LIST_OF(node, struct conn, link)->expires_ns = INT64_MIN;
}

/* Idle ones are the sweep's, as in CMAP: there may be very many, and callers who come before it
   turn them away by their age. */
static void make_stale(weir_pool *pool, bool interrupt)
{
    pool->generation++;
    expire(pool, CONN_IDLE);
    expire(pool, CONN_IN_USE);
    expire(pool, CONN_RESETTING);
    if (pool->count[CONN_IDLE])
        upkeep_again(pool);
    cut_off(pool, CONN_RESETTING);
    if (interrupt) {
        give_up_opening(pool);
        interrupt_users(pool);
    }
}

weir_status weir_pool_clear(weir_pool *pool, bool interrupt, const weir_error *why,
                            weir_error *err)
{
    weir_status status = check(pool, "weir_pool_clear", err);

    if (status != WEIR_OK)
        return status;
    bool was_ready = pool->state == WEIR_POOL_READY;
    pool->state = WEIR_POOL_PAUSED;
    say_why(pool, "was cleared", why);
    stop_dialling(pool);
    if (was_ready && pool->on_event) /* clearing a paused pool is no event: CMAP */
        tell_pool(pool, WEIR_EVENT_POOL_CLEARED, interrupt);
    make_stale(pool, interrupt);
    queue_tell_all(pool, &pool->why_paused);
    pool_verify(pool);
    return WEIR_OK;
}

/* ---- its size ------------------------------------------------------------------------ */

static void set_ceiling(weir_pool *pool)
{
    unsigned total = pool_total(pool);

    pool->ceiling = total > pool->opts.max_size ? total : pool->opts.max_size;
    pool->choosy = pool->state == WEIR_POOL_CLOSED || pool->ceiling > pool->opts.max_size;
}

void pool_ceiling_lower(weir_pool *pool)
{
    if (pool->ceiling <= pool->opts.max_size)
        return;
    set_ceiling(pool);
    queue_check_stuck(pool); /* those left may all be held by who waits for one more */
}

weir_status weir_pool_resize(weir_pool *pool, unsigned max_size, weir_error *err)
{
    weir_status status = check(pool, "weir_pool_resize", err);

    if (status != WEIR_OK)
        return status;
    if (!max_size || max_size < pool->opts.min_idle || max_size < pool->opts.min_size)
        return weir_error_set(err, WEIR_USAGE,
                              "pool %s cannot have a max_size of %u: give at least 1, min_idle "
                              "(%u) and min_size (%u)",
                              pool->name, max_size, pool->opts.min_idle, pool->opts.min_size);
    pool->opts.max_size = max_size;
    set_ceiling(pool);
    struct list *unused_longest;
    while (pool_total(pool) > max_size &&
           (unused_longest = list_last(&pool->conns[CONN_IDLE])) != NULL)
        conn_close(LIST_OF(unused_longest, struct conn, link), WEIR_CLOSE_RESIZED, WEIR_POLITE);
    queue_check_stuck(pool);
    dial_if_wanted(pool);
    pool_verify(pool);
    return WEIR_OK;
}

/* ---- waiting for connections to go --------------------------------------------------- */

static bool is_empty(const weir_pool *pool)
{
    return !pool_total(pool) && !pool->count[CONN_CLOSING] && !pool->held;
}

/* Somebody who waits for the last connection to go. */
struct closer {
    struct list link;
    weir_waker  waker;
};

void pool_gone_check(weir_pool *pool)
{
    LIST_EACH(node, &pool->closers)
        weir_wake(LIST_OF(node, struct closer, link)->waker);
    if (pool->freed && is_empty(pool) && list_empty(&pool->closers))
        pool_free_for_good(pool);
}

void weir_pool_hold(weir_pool *pool)
{
    pool->held++;
}

void weir_pool_let_go(weir_pool *pool)
{
    pool->held--;
    pool_gone_check(pool);
}

/* Until another connection has gone. */
static weir_status wait_for_one_less(weir_pool *pool, weir_deadline deadline)
{
    struct closer me = { .waker = weir_waker_new() };

    list_append(&pool->closers, &me.link);
    weir_status status = weir_park(deadline, "the connections of a pool to go");
    list_unlink(&me.link);
    return status;
}

/* Is one left that was there before `generation` began? */
static bool has_older(const weir_pool *pool, uint64_t generation)
{
    for (int state = 0; state < CONN_STATES; state++)
        LIST_EACH(node, &pool->conns[state])
            if (LIST_OF(node, struct conn, link)->generation < generation)
                return true;
    return false;
}

weir_status weir_pool_drain(weir_pool *pool, weir_deadline deadline, weir_error *err)
{
    weir_status status = check(pool, "weir_pool_drain", err);

    if (status != WEIR_OK)
        return status;
    if (!hot_self())
        return weir_error_set(err, WEIR_USAGE, "weir_pool_drain() outside of a coroutine");
    unsigned held = leases_held(hot_self(), pool);
    if (held)
        return weir_error_set(err, WEIR_DEADLOCK,
                              "pool %s cannot be drained by a coroutine that holds %u of its "
                              "connections: give back first",
                              pool->name, held);
    status = weir_pool_clear(pool, false, NULL, err);
    uint64_t generation = pool->generation;
    while (status == WEIR_OK && has_older(pool, generation))
        status = wait_for_one_less(pool, deadline);
    if (status != WEIR_OK)
        weir_error_set(err, status, "pool %s: %u connections in use, %u being closed are left",
                       pool->name, pool->count[CONN_IN_USE], pool->count[CONN_CLOSING]);
    pool_gone_check(pool); /* somebody may have freed it while we waited */
    return status;
}

/* ---- closed -------------------------------------------------------------------------- */

static void begin_to_close(weir_pool *pool)
{
    weir_error closed;

    pool->state = WEIR_POOL_CLOSED;
    pool->choosy = true;
    weir_alarm_stop(&pool->sweep);
    weir_alarm_stop(&pool->shed);
    stop_dialling(pool);
    close_idle(pool, WEIR_CLOSE_POOL);
    cut_off(pool, CONN_CONNECTING);
    cut_off(pool, CONN_RESETTING);
    if (pool->on_event)
        tell_pool(pool, WEIR_EVENT_POOL_CLOSED, false);
    weir_error_set(&closed, WEIR_CLOSED, "pool %s was closed", pool->name);
    closed.outcome = WEIR_OUTCOME_NOT_SENT;
    queue_tell_all(pool, &closed);
}

weir_status weir_pool_close(weir_pool *pool, weir_deadline deadline)
{
    weir_status status = pool_check_verb(pool, "weir_pool_close", NULL);

    if (status != WEIR_OK)
        return status;
    if (!hot_self()) {
        LOG(WEIR_LOG_ERROR, "weir_pool_close() of pool %s outside of a coroutine, where nothing "
                            "can wait: weir_pool_free() does not",
            pool->name);
        return WEIR_USAGE;
    }
    if (pool->state != WEIR_POOL_CLOSED)
        begin_to_close(pool);
    while (status == WEIR_OK && !is_empty(pool))
        status = wait_for_one_less(pool, deadline);
    pool_gone_check(pool); /* somebody may have freed it while we waited */
    return status;
}

static void name_those_left(const weir_pool *pool)
{
    LIST_EACH(node, &pool->conns[CONN_IN_USE]) {
        const struct conn *conn = LIST_OF(node, struct conn, link);
        LOG(WEIR_LOG_WARN, "pool %s was freed while connection %llu, taken at %s, is in use",
            pool->name, (unsigned long long)conn->id, lease_current(conn)->site);
    }
}

/* Those in use are not waited for: their holders may be waiting for us. */
static void wait_for_the_rest(weir_pool *pool)
{
    weir_status status = WEIR_OK; /* refused where nothing may wait, as in an exit hook */

    WEIR_SHIELD(WEIR_FOREVER);
    while (status == WEIR_OK &&
           pool_total(pool) + pool->count[CONN_CLOSING] + pool->held > pool->count[CONN_IN_USE])
        status = wait_for_one_less(pool, WEIR_FOREVER);
}

void weir_pool_free(weir_pool *pool)
{
    if (!pool || pool_check_verb(pool, "weir_pool_free", NULL) != WEIR_OK)
        return;
    if (pool->state != WEIR_POOL_CLOSED)
        begin_to_close(pool);
    name_those_left(pool);
    if (hot_self())
        wait_for_the_rest(pool);
    pool->freed = true;
    pool_gone_check(pool);
}
