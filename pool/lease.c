/*
 * lease.c - the handle by which a coroutine holds a connection.
 *
 * A lease ends once: given back, closed, or with the coroutine that holds it. The handle is
 * part of its connection, which turns through several, so that for a while a handle used
 * after its end is recognised and not mistaken for somebody else's.
 */
#include "pool.h"

#include "log.h"

#include <pthread.h>

/* ---- the leases of one coroutine ------------------------------------------------------ */

/* One key for all pools: the first of the coroutine's local leases. */
static weir_local      locals;
static pthread_once_t  locals_once = PTHREAD_ONCE_INIT;
static bool            locals_ready;

static void make_locals(void)
{
    locals_ready = weir_local_new(NULL, &locals) == WEIR_OK;
}

static weir_lease *local_of(weir_pool *pool)
{
    pthread_once(&locals_once, make_locals);
    weir_lease *lease = weir_local_get(locals);
    while (lease && lease->conn->pool != pool)
        lease = lease->next_local;
    return lease;
}

static void local_forget(weir_lease *lease)
{
    weir_lease *first = weir_local_get(locals);

    if (first == lease) {
        (void)!weir_local_set(locals, lease->next_local);
        return;
    }
    while (first && first->next_local != lease)
        first = first->next_local;
    if (first)
        first->next_local = lease->next_local;
}

static bool is_of_pool(const weir_exit_hook *hook, void *pool)
{
    return LIST_OF(hook, weir_lease, at_exit)->conn->pool == pool;
}

unsigned leases_held(const weir_task *task, weir_pool *pool)
{
    return weir_exit_hook_count(task, lease_holder_ended, is_of_pool, pool);
}

/* ---- the end -------------------------------------------------------------------------- */

__attribute__((always_inline)) static inline void end(weir_lease *lease, bool forgotten,
                                                      bool close)
{
    struct conn *conn = lease->conn;
    weir_pool   *pool = conn->pool;

    if (lease->nested)
        local_forget(lease);
    lease->nested = 0;
    lease->holder = NULL;
    conn->driver_side->user = NULL;
    pool->stats.released++;
    histogram_add(&pool->stats.hold, pool_now(pool) - conn->since_ns);
    weir_condition found = pool->driver->check(conn->driver_side, pool->opts.reset);
    if (found == WEIR_CLEAN && !forgotten && !close && !pool->opts.refuse_hopeless &&
        pool_is_at_peace(pool) && conn_is_fresh(conn))
        rest_idle(conn);
    else
        conn_end_lease(conn, found, forgotten, close);
}

/* In its exit hook, where nothing may yield: the connection's keeper does the rest. */
void lease_holder_ended(weir_exit_hook *hook)
{
    weir_lease *lease = LIST_OF(hook, weir_lease, at_exit);
    weir_pool  *pool = lease->conn->pool;

    pool->stats.forgotten++;
    LOG(WEIR_LOG_WARN,
        "pool %s: connection %llu, taken at %s, was still held when %s %llu (spawned at %s) ended",
        pool->name, (unsigned long long)lease->conn->id, lease->site,
        weir_task_name(lease->holder), (unsigned long long)weir_task_id(lease->holder),
        weir_task_site(lease->holder));
    end(lease, true, false);
}

WEIR_COLD static weir_status misuse(const weir_lease *lease, const char *verb)
{
    const weir_task *self = hot_self();

    if (!lease->holder)
        LOG(WEIR_LOG_ERROR, "%s of a lease that is over (it was taken at %s)", verb, lease->site);
    else if (lease->holder == self)
        LOG(WEIR_LOG_ERROR, "%s (the lease was taken at %s)", verb, lease->site);
    else
        LOG(WEIR_LOG_ERROR, "%s of a lease by %s, but %s %llu holds it (it was taken at %s)", verb,
            self ? weir_task_site(self) : "nobody's coroutine", weir_task_name(lease->holder),
            (unsigned long long)weir_task_id(lease->holder), lease->site);
    return WEIR_USAGE;
}

weir_status weir_release(weir_lease *lease)
{
    if (!lease)
        return WEIR_OK;
    if (!lease->holder || lease->holder != hot_self())
        return misuse(lease, "release");
    if (lease->nested > 1) {
        lease->nested--;
        return WEIR_OK;
    }
    hot_exit_hook_remove(&lease->at_exit);
    end(lease, false, false);
    return WEIR_OK;
}

weir_status weir_lease_close(weir_lease *lease)
{
    if (!lease)
        return WEIR_OK;
    if (!lease->holder || lease->holder != hot_self())
        return misuse(lease, "close");
    hot_exit_hook_remove(&lease->at_exit);
    end(lease, false, true);
    return WEIR_OK;
}

weir_status weir_lease_give(weir_lease *lease, weir_task *task)
{
    if (!lease || !task) {
        LOG(WEIR_LOG_ERROR, "giving away %s", lease ? "to no task: it is NULL"
                                                    : "no lease: it is NULL");
        return WEIR_USAGE;
    }
    if (!lease->holder || lease->holder != hot_self())
        return misuse(lease, "giving away");
    if (lease->nested)
        return misuse(lease, "a lease of weir_local_lease() cannot be given away: take one with "
                             "weir_acquire()");
    if (weir_task_done(task))
        return misuse(lease, "a lease cannot be given to a coroutine that has ended");
    if (weir_task_hub(task) != lease->conn->pool->hub)
        return misuse(lease, "a lease cannot be given to a coroutine of another thread");
    hot_exit_hook_remove(&lease->at_exit);
    lease->holder = task;
    hot_exit_hook_add(task, &lease->at_exit);
    lease->conn->driver_side->user = task;
    queue_lease_given(lease->conn->pool, task);
    return WEIR_OK;
}

/* ---- taking --------------------------------------------------------------------------- */

WEIR_COLD static weir_status refuse_place(weir_pool *pool, weir_lease **out, weir_error *err)
{
    if (!out)
        return weir_error_set(err, WEIR_USAGE, "weir_acquire() without a place for the lease: "
                                               "its third argument is NULL");
    *out = NULL;
    if (!pool)
        return weir_error_set(err, WEIR_USAGE, "weir_acquire() without a pool");
    if (!hot_self())
        return weir_error_set(err, WEIR_USAGE, "weir_acquire() outside of a coroutine");
    return weir_error_set(err, WEIR_USAGE,
                          "pool %s belongs to another thread: make one pool per thread",
                          pool->name);
}

/* In a coroutine of the pool's thread, with a place for the lease? */
static inline bool is_in_place(const weir_pool *pool, weir_lease **out)
{
    return out && pool && pool_hub(pool) == weir_hot_hub_ && weir_hot_hub_->running;
}

weir_status weir_acquire_at(weir_pool *pool, weir_deadline deadline, weir_lease **out,
                            weir_error *err, const char *site)
{
    bool in_place = is_in_place(pool, out);

    if (in_place && pool_is_at_peace(pool) && !list_empty(&pool->conns[CONN_IDLE]) &&
        hot_pending_in(pool_hub(pool)) == WEIR_OK) {
        struct conn *conn = LIST_OF(pool->conns[CONN_IDLE].next, struct conn, link);
        if (conn_is_fresh(conn)) {
            *out = lend_idle(conn, pool_hub(pool)->running, site);
            return WEIR_OK;
        }
    }
    weir_status status = in_place ? queue_acquire(pool, deadline, site, out, err)
                                  : refuse_place(pool, out, err);
    if (status != WEIR_OK && err)
        err->outcome = WEIR_OUTCOME_NOT_SENT; /* nothing was: there is no connection */
    return status;
}

weir_status weir_local_lease_at(weir_pool *pool, weir_deadline deadline, weir_lease **out,
                                weir_error *err, const char *site)
{
    if (!is_in_place(pool, out))
        return refuse_place(pool, out, err);
    *out = NULL;
    weir_lease *lease = local_of(pool);
    if (lease) {
        lease->nested++;
        *out = lease;
        return WEIR_OK;
    }

    weir_status status = locals_ready ? weir_local_set(locals, weir_local_get(locals)) : WEIR_FULL;
    if (status != WEIR_OK)
        return weir_error_set(err, WEIR_NOMEM, "no room for a coroutine-local lease");
    status = weir_acquire_at(pool, deadline, &lease, err, site);
    if (status != WEIR_OK)
        return status;
    lease->nested = 1;
    lease->next_local = weir_local_get(locals);
    (void)!weir_local_set(locals, lease); /* there is room: we tried above */
    *out = lease;
    return WEIR_OK;
}

/* ---- asking --------------------------------------------------------------------------- */

weir_status weir_lease_error(weir_lease *lease, weir_error *err)
{
    if (!lease)
        return weir_error_set(err, WEIR_USAGE, "there is no lease to ask: it is NULL");
    if (!lease->holder)
        return weir_error_set(err, WEIR_USAGE, "this lease is over (it was taken at %s)",
                              lease->site);
    struct conn *conn = lease->conn;
    weir_error   found = { 0 };
    weir_status  status = conn->pool->driver->describe(conn->driver_side, &found);
    if (err)
        *err = found;
    return status;
}

weir_status weir_lease_fail_at(weir_lease *lease, const char *site)
{
    weir_error  err = { 0 };
    weir_status status = weir_lease_error(lease, &err);

    if (status == WEIR_OK)
        weir_error_set(&err, WEIR_FAILED, "the last call on the connection did not fail");
    return weir_fail_at(&err, site);
}

uint64_t weir_lease_conn_id(const weir_lease *lease)
{
    return lease->conn->id;
}

weir_conn *weir_lease_conn(weir_lease *lease, const weir_driver *driver)
{
    if (lease && lease->holder && lease->conn->pool->driver == driver)
        return lease->conn->driver_side;
    LOG(WEIR_LOG_ERROR, "a %s handle was asked of %s", driver->name,
        !lease ? "no lease" : lease->holder ? "another driver's lease" : "a lease that is over");
    return NULL;
}
