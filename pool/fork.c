/*
 * fork.c - what a fork leaves of a pool.
 *
 * The child has copies of all descriptors, and the server knows nothing of that: a byte from the
 * child, a COM_QUIT, the end of a TLS session, a shutdown(2), would end the parent's session.
 * So each socket is let go first (disown()): its number leads nowhere from then on, whatever the
 * library believes it holds, and closing is harmless.
 *
 * Then the pool is empty and as good as new, for the child may want a connection too: CMAP, too,
 * has a pool that finds itself in a new process cleared. Nothing is opened before somebody asks;
 * the parent's connections end without an event and are not counted. Who forked while he held a
 * lease still holds it: his calls on it fail as lost, and he gives it back as ever.
 *
 * A listener of events may fork too, in the middle of a step of ours. In the child that step goes
 * on with whatever we leave of the pool: so a connection is told to be closed as the last thing,
 * and who goes on after telling looks whether the generation is still what it was.
 *
 * All other coroutines are gone. A connection that one of them was in the middle of using cannot
 * be freed, since its library was interrupted in mid-call; its memory stays.
 */
#define _GNU_SOURCE
#include "pool.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A socket that is connected to nothing: to write to it is an error and no signal. */
void weir_fd_dead_end(int fd)
{
    if (fd < 0)
        return;
    weir_close(fd); /* first: there may be no other number left */
    int nowhere = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (nowhere < 0 || nowhere == fd)
        return;
    dup3(nowhere, fd, O_CLOEXEC);
    close(nowhere);
}

/* ---- one connection ----------------------------------------------------------------- */

/* The driver has not seen it yet, or has closed it again after an attempt that failed. */
static bool is_blank(const struct conn *conn)
{
    return conn->state == CONN_RESERVED ||
           (conn->state == CONN_CONNECTING && !conn->driver_side->user);
}

/* No coroutine is in the middle of anything on it. */
static bool let_go(struct conn *conn)
{
    const weir_driver *driver = conn->pool->driver;

    if (is_blank(conn) || !driver->disown)
        return false;
    bool at_rest = driver->disown(conn->driver_side);
    return at_rest && (conn->state == CONN_IDLE || conn->state == CONN_IN_USE || conn->unsaid);
}

/* Its record serves again; what the library has behind it does not. */
static void abandon(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    pool->count[conn->state]--;
    conn->unsaid = false;
    list_unlink(&conn->link);
    weir_reserve_free(conn->keeper);
    list_append(&pool->spare, &conn->link);
}

/* Its holder is no more, and his exit hooks will not run. */
static void end_lease_of_the_gone(struct conn *conn)
{
    weir_lease *lease = lease_current(conn);

    weir_exit_hook_remove(&lease->at_exit);
    lease->holder = NULL;
    lease->nested = 0;
    conn->driver_side->user = NULL;
}

/* Of a connection that stays in the pool until it is closed. */
static void pay_anew(struct conn *conn)
{
    budget_inherit(&conn->pool->share, conn->paid);
    governor_inherit(conn->governed);
    conn->pool->permits += conn->permit;
    conn->pool->pings += conn->state == CONN_RESETTING && conn->pinged;
    if (conn->state == CONN_CLOSING)
        conn->pool->share.leaving += conn->paid;
}

static void inherit(struct conn *conn, const weir_task *survivor)
{
    weir_pool *pool = conn->pool;
    bool       at_rest = let_go(conn);

    conn->opened = conn->announced = false;
    conn->ticket = 0;
    conn->expires_ns = INT64_MIN;
    if (conn->keeper == survivor) { /* in an event's callback: it goes on, and will find it stale */
        pay_anew(conn);
        list_unlink(&conn->link);
        list_prepend(&pool->conns[conn->state], &conn->link); /* the unsaid ones are the last */
        if (conn->state == CONN_IN_USE) { /* just handed over, to somebody who is gone */
            end_lease_of_the_gone(conn);
            conn_close(conn, WEIR_CLOSE_STALE, WEIR_ABRUPT);
        }
        return;
    }
    if (conn->state == CONN_IN_USE && lease_current(conn)->holder == survivor) {
        pay_anew(conn);
        return;
    }
    if (conn->state == CONN_IN_USE)
        end_lease_of_the_gone(conn);
    if (!at_rest) {
        abandon(conn);
        return;
    }
    pay_anew(conn);
    conn->farewell = WEIR_ABRUPT;
    if (conn->unsaid)
        pool->unsaid++; /* it is on its list already */
    else
        conn_close(conn, WEIR_CLOSE_STALE, WEIR_ABRUPT);
}

/* ---- all of it ---------------------------------------------------------------------- */

static void nobody_waits(weir_pool *pool)
{
    list_init(&pool->waiters);
    list_init(&pool->closers);
    pool->waiting = pool->stuck = 0;
}

/* What is closed joins those that are closing: these are looked at first. */
static void inherit_all(weir_pool *pool)
{
    for (int state = CONN_CLOSING; state >= CONN_RESERVED; state--)
        LIST_EACH(node, &pool->conns[state])
            inherit(LIST_OF(node, struct conn, link), hot_self());
}

void pool_forked(weir_exit_hook *hook)
{
    weir_pool *pool = LIST_OF(hook, weir_pool, at_fork);

    budget_forked();
    governor_forked();
    governor_line_init(&pool->line);
    shared_forked(pool);
    nobody_waits(pool);
    pool->inherited = true;
    pool->minimum = false; /* until it is used: see conn_new() */
    pool->generation++;
    pool->permits = pool->parked = pool->pings = 0;
    pool->unsaid = pool->parting = 0;
    pool->failures_in_row = 0;
    pool->retry_ns = 0;
    memset(&pool->stats, 0, sizeof pool->stats);
    pool->held = 0;
    if (pool->driver->forked)
        pool->driver->forked(pool->config);
    inherit_all(pool);
    conn_begin_goodbyes(pool); /* of those that nobody had begun */
    pool->stats.acquired = pool->count[CONN_IN_USE];
    weir_hub_end_hook_add(&pool->at_hub_end);
    pool_ceiling_lower(pool);
    pool_verify(pool);
    pool_gone_check(pool); /* it may have been freed already, but for its last connections */
}
