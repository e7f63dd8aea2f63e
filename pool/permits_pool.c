/*
 * permits_pool.c - a pool's side of the permits it shares with other processes.
 *
 * Knows:   which permits its connections have, which of them wait for one, how to reach the
 *          pools of other processes and how they reach us.
 * Ignores: how permits change hands (permits.c).
 *
 * Two descriptors a pool, kept out of the account like a hub's own:
 *
 *   - its bell, a datagram socket with a random name that is written into the table. Whoever
 *     hands us a permit, or wants us to give one up, sends a byte there; the hub hears of it as
 *     of any descriptor. An eventfd would reach only those who inherited it, a FIFO would leave
 *     a name behind, and to sleep on a futex takes a thread;
 *   - a pidfd of the next process in the ring of members, so that each is watched by one. When
 *     it ends, its watcher buries it, hands its permits to those who wait and watches the
 *     one after. A watcher may be stopped, or busy for long: so a pool in which somebody waits
 *     looks at everybody itself, every 80 ms (every 5 ms for each pool, beyond 16 of them).
 *
 * Idle connections beyond the pool's part, an equal one of all there is, are closed when a pool
 * below its part waits for a permit on behalf of a caller; where none is idle, the next ones
 * that are given back (conn_put() asks, once `owes` is set). So a pool that is busy without end
 * starves nobody, and min_idle takes from nobody.
 *
 * Descriptors are paid for before a permit is waited for. Everybody keeps this order, so no two
 * can wait for each other; and what is held meanwhile is scarce in this process only.
 */
#define _GNU_SOURCE
#include "pool.h"

#include "lives.h"
#include "permits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    LOOK_AFTER_MS = 80, /* from one look whether everybody is alive to the next, ... */
    LOOK_EACH_MS = 5    /* ... or this for each pool: it costs four system calls each */
};

struct shared {
    weir_permits *permits;
    weir_pool    *pool;
    int           member; /* PERMITS_NOBODY: a forked child, which has not used the pool yet */
    uint64_t      word;   /* what we write on a permit of ours */
    int           bell;   /* -1: none */
    int           pidfd;  /* of the process we watch; -1: of nobody */
    int           watched;
    uint64_t      watched_tag;
    bool         *mine;   /* permits that connections have, by number */
    unsigned      held;   /* of those */
    bool          rung;   /* by ourselves: we have been handed one of our own */
    int64_t       look_ns; /* whoever waits then looks whether everybody is alive */
    struct list   queue;  /* connections that wait for one */
    unsigned      queued;
};

/* A connection that waits, on its keeper's stack. */
struct applicant {
    struct list  link;
    struct conn *conn;
    weir_waker   waker;
    int64_t      since_ns;
};

/* ---- bells -------------------------------------------------------------------------- */

static socklen_t bell_address(uint64_t name, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){ .sun_family = AF_UNIX }; /* sun_path[0] stays 0: no file */
    int length = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "weir-permits-%016llx",
                          (unsigned long long)name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/* One that is full has been rung, and one that nobody holds is a dead process's. */
static void ring(const struct permits_member *member, void *arg)
{
    struct shared     *side = arg;
    struct sockaddr_un address;
    uint64_t           name = atomic_load(&member->bell);

    if (side->member != PERMITS_NOBODY && member == &side->permits->table->members[side->member]) {
        side->rung = true;
        return;
    }
    if (!name)
        return;
    socklen_t length = bell_address(name, &address);
    (void)!sendto(side->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
                  length);
}

static struct permits_bell bell_of(struct shared *side)
{
    return (struct permits_bell){ ring, side };
}

static struct permits_member *self(const struct shared *side)
{
    return &side->permits->table->members[side->member];
}

static void ring_previous(struct shared *side)
{
    int previous = permits_previous(side->permits, side->member);

    if (previous != PERMITS_NOBODY)
        ring(&side->permits->table->members[previous], side);
}

/* ---- what we say -------------------------------------------------------------------- */

static void say(struct shared *side)
{
    struct list *first = list_first(&side->queue);

    atomic_store(&self(side)->used, side->held);
    atomic_store(&self(side)->urgent, side->pool->waiting > 0);
    if (first)
        atomic_store(&self(side)->since_ns, LIST_OF(first, struct applicant, link)->since_ns);
    atomic_store(&self(side)->wants, side->queued);
}

/* ---- permits that come and go ------------------------------------------------------- */

static void have(struct shared *side, struct conn *conn, unsigned index)
{
    side->mine[index] = true;
    side->held++;
    conn->ticket = index + 1;
}

static void leave_queue(struct shared *side, struct applicant *me)
{
    list_unlink(&me->link);
    side->queued--;
}

/* To whoever of us waits longest. */
static void serve_first(struct shared *side, unsigned index)
{
    struct applicant *first = LIST_OF(list_first(&side->queue), struct applicant, link);

    leave_queue(side, first);
    have(side, first->conn, index);
    weir_wake(first->waker);
}

/* What was written to us by others. More than we need goes on. */
static void collect(struct shared *side)
{
    struct permits_bell bell = bell_of(side);
    uint64_t            word = side->word;

    do {
        side->rung = false;
        for (unsigned i = 0; i < side->permits->count; i++) {
            if (side->mine[i] || atomic_load(&side->permits->words[i]) != word)
                continue;
            if (!list_empty(&side->queue)) {
                serve_first(side, i);
                continue;
            }
            say(side); /* or it would come back */
            permits_pass(side->permits, i, word, &bell);
        }
        say(side);
    } while (side->rung);
}

static void take_free_ones(struct shared *side)
{
    int index;

    while (!list_empty(&side->queue) &&
           (index = permits_take(side->permits, side->word)) != PERMITS_NOBODY)
        serve_first(side, (unsigned)index);
    say(side);
}

void shared_return(struct conn *conn)
{
    struct shared      *side = conn->pool->shared;
    struct permits_bell bell = bell_of(side);
    unsigned            index = conn->ticket - 1;

    conn->ticket = 0;
    side->mine[index] = false;
    side->held--;
    say(side);
    permits_pass(side->permits, index, side->word, &bell);
    if (side->rung)
        collect(side);
}

/* ---- giving up for others ----------------------------------------------------------- */

/* Connections more than those that are closing already. */
static unsigned owed(const weir_pool *pool)
{
    unsigned due = permits_owed(pool->shared->permits, pool->shared->member);
    unsigned closing = pool->count[CONN_CLOSING];

    return due > closing ? due - closing : 0;
}

static void give_up_idle_ones(weir_pool *pool)
{
    struct list *unused_longest;
    unsigned     due = owed(pool);

    for (; due && (unused_longest = list_last(&pool->conns[CONN_IDLE])) != NULL; due--)
        conn_close(LIST_OF(unused_longest, struct conn, link), WEIR_CLOSE_EVICTED, WEIR_POLITE);
    pool->owes = due > 0;
}

bool shared_claims(weir_pool *pool)
{
    pool->owes = pool->shared->member != PERMITS_NOBODY && owed(pool) > 0;
    return pool->owes;
}

/* Those who have more than their part hear of it while we have less than ours. */
static void ask_others(struct shared *side)
{
    unsigned part = permits_part(side->permits);

    if (!side->pool->waiting || side->held >= part)
        return;
    for (unsigned i = 0; i < side->permits->count; i++) {
        const struct permits_member *other = &side->permits->table->members[i];
        if ((int)i != side->member && permits_pid(atomic_load(&other->tag)) &&
            atomic_load(&other->used) > part)
            ring(other, side);
    }
}

/* ---- the process we watch ----------------------------------------------------------- */

static void stop_watching(struct shared *side)
{
    if (side->pidfd >= 0)
        weir_close(side->pidfd);
    side->pidfd = -1;
}

static void watch_next(struct shared *side);

static void it_ended(int fd, void *arg)
{
    struct shared      *side = arg;
    struct permits_bell bell = bell_of(side);

    if (!life_has_ended(fd)) { /* the news was of another file that had this number before */
        (void)weir_fd_watch(fd, it_ended, side);
        return;
    }
    stop_watching(side);
    permits_bury(side->permits, side->watched, side->watched_tag, &bell);
    watch_next(side);
    collect(side);
}

static void begin_to_watch(struct shared *side, int fd, int member, uint64_t tag)
{
    side->watched = member;
    side->watched_tag = tag;
    if (fd >= 0 && weir_fd_watch(fd, it_ended, side) != WEIR_OK) {
        close(fd);
        fd = LIFE_UNKNOWN;
    }
    side->pidfd = fd >= 0 ? fd : -1; /* without it, who waits will look */
}

static void watch_next(struct shared *side)
{
    struct permits_bell bell = bell_of(side);
    int                 next;

    while ((next = permits_next(side->permits, side->member)) != PERMITS_NOBODY) {
        uint64_t tag = atomic_load(&side->permits->table->members[next].tag);
        if (side->pidfd >= 0 && side->watched == next && side->watched_tag == tag)
            return;
        stop_watching(side);
        if (!permits_pid(tag))
            continue; /* gone meanwhile */
        int fd = life_watch(permits_pid(tag), permits_birth(side->permits, next, tag));
        if (fd != LIFE_OVER) {
            begin_to_watch(side, fd, next, tag);
            return;
        }
        permits_bury(side->permits, next, tag, &bell);
    }
    stop_watching(side);
}

static void look_at_everybody(struct shared *side)
{
    struct permits_bell bell = bell_of(side);
    unsigned            ms = permits_pools(side->permits) * LOOK_EACH_MS;

    side->look_ns = ns_after(hot_now(), ms > LOOK_AFTER_MS ? ms : LOOK_AFTER_MS);
    permits_bury_all(side->permits, &bell);
    watch_next(side);
    collect(side);
}

/* ---- our bell has rung -------------------------------------------------------------- */

static void heard(int fd, void *arg)
{
    struct shared *side = arg;
    char           bytes[16];

    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) >= 0)
        continue;
    (void)weir_fd_watch(fd, heard, side); /* for the next time */
    collect(side);
    watch_next(side);
    give_up_idle_ones(side->pool);
}

/* ---- waiting for one ---------------------------------------------------------------- */

static bool is_over(weir_status status)
{
    return status == WEIR_CANCELED || (status == WEIR_TIMEOUT && hot_pending() != WEIR_OK);
}

/* The connection has its ticket, or will not get one. */
static weir_status wait_in_line(struct shared *side, struct applicant *me)
{
    while (!me->conn->ticket) {
        me->waker = weir_waker_new();
        say(side); /* first: whoever frees one later will see it */
        take_free_ones(side);
        if (!me->conn->ticket && side->look_ns <= hot_now())
            look_at_everybody(side);
        if (me->conn->ticket)
            break;
        ask_others(side);
        weir_status status =
            weir_park(weir_deadline_at(side->look_ns), "a permit shared with other processes");
        if (is_over(status) && !me->conn->ticket)
            return status;
    }
    return WEIR_OK; /* its keeper finds out whether it is still needed */
}

static weir_status enter(struct shared *side, weir_error *err);

weir_status shared_wait(struct conn *conn, weir_error *err)
{
    struct shared   *side = conn->pool->shared;
    struct applicant me = { .conn = conn, .since_ns = hot_now() };

    if (side->member == PERMITS_NOBODY) {
        weir_status status = enter(side, err);
        if (status != WEIR_OK)
            return status;
    }
    list_append(&side->queue, &me.link);
    side->queued++;
    weir_status status = wait_in_line(side, &me);
    if (status != WEIR_OK) {
        leave_queue(side, &me);
        say(side);
    }
    return status;
}

/* Somebody waits now for whom min_idle was filling up. */
void shared_hurry(weir_pool *pool)
{
    struct shared *side = pool->shared;

    if (side->member == PERMITS_NOBODY || list_empty(&side->queue) ||
        atomic_load(&self(side)->urgent) || !pool->waiting)
        return;
    say(side);
    ask_others(side);
}

/* For whoever asks why there was no connection. */
void shared_tell(const weir_pool *pool, char *text, size_t size)
{
    weir_permits_stats stats;

    text[0] = '\0';
    if (!pool->shared)
        return;
    weir_permits_read(pool->shared->permits, &stats);
    snprintf(text, size, " or permits (%u of %u used by %u pools)", stats.used, stats.count,
             stats.pools);
}

/* ---- coming and going --------------------------------------------------------------- */

static weir_status no_bell(int errnum, weir_error *err)
{
    weir_error_set(err, WEIR_NOMEM, "no socket to hear of the permits of other processes: %s",
                   strerror(errnum));
    if (err)
        err->native = errnum;
    return WEIR_NOMEM;
}

static weir_status hang_bell(struct shared *side, uint64_t *name, weir_error *err)
{
    struct sockaddr_un address;

    side->bell = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (side->bell < 0)
        return no_bell(errno, err);
    if (getrandom(name, sizeof *name, GRND_NONBLOCK) != (ssize_t)sizeof *name)
        *name = (uint64_t)getpid() << 32 ^ (uint64_t)weir_in_ms(0).at_ns;
    *name |= 1; /* 0 is none */
    socklen_t length = bell_address(*name, &address);
    if (bind(side->bell, (struct sockaddr *)&address, length) != 0)
        return no_bell(errno, err);
    return weir_fd_watch(side->bell, heard, side) == WEIR_OK ? WEIR_OK : no_bell(ENOMEM, err);
}

static void take_down_bell(struct shared *side)
{
    if (side->bell >= 0)
        weir_close(side->bell);
    side->bell = -1;
}

static weir_status enter(struct shared *side, weir_error *err)
{
    struct permits_bell bell = bell_of(side);
    uint64_t            name;
    weir_status         status = hang_bell(side, &name, err);

    if (status == WEIR_OK) {
        side->member = permits_enter(side->permits, &bell);
        if (side->member == PERMITS_NOBODY)
            status = weir_error_set(err, WEIR_FULL,
                                    "all %u permits are promised to %u pools, one each: make more "
                                    "permits, or run fewer processes",
                                    side->permits->count, side->permits->count);
    }
    if (status != WEIR_OK) {
        take_down_bell(side);
        return status;
    }
    side->word = permits_word(side->permits, side->member);
    say(side);
    atomic_store(&self(side)->bell, name);
    collect(side); /* what was meant for somebody who had this place before */
    ring_previous(side); /* who shall watch us from now on */
    watch_next(side);
    return WEIR_OK;
}

static void leave(struct shared *side)
{
    struct permits_bell bell = bell_of(side);
    int                 member = side->member;

    if (member == PERMITS_NOBODY)
        return;
    collect(side);
    stop_watching(side);
    side->member = PERMITS_NOBODY;
    permits_leave(side->permits, member, &bell);
    side->member = member;
    ring_previous(side);
    side->member = PERMITS_NOBODY;
    take_down_bell(side);
}

weir_status shared_join(weir_pool *pool, weir_permits *permits, weir_error *err)
{
    struct shared *side = calloc(1, sizeof *side);
    bool          *mine = calloc(permits->count, sizeof *mine);

    if (!side || !mine) {
        free(side);
        free(mine);
        return weir_error_set(err, WEIR_NOMEM, "no memory for a pool's permits");
    }
    *side = (struct shared){ .permits = permits, .pool = pool, .member = PERMITS_NOBODY,
                             .bell = -1, .pidfd = -1, .mine = mine };
    list_init(&side->queue);
    weir_status status = enter(side, err);
    if (status != WEIR_OK) {
        free(mine);
        free(side);
        return status;
    }
    permits_keep(permits);
    pool->shared = side;
    return WEIR_OK;
}

void shared_leave(weir_pool *pool)
{
    struct shared *side = pool->shared;

    if (!side)
        return;
    leave(side);
    weir_permits_free(side->permits);
    free(side->mine);
    free(side);
    pool->shared = NULL;
}

/* The place in the table, and all the permits, are the parent's. */
void shared_forked(weir_pool *pool)
{
    struct shared *side = pool->shared;

    if (!side)
        return;
    stop_watching(side);
    take_down_bell(side);
    side->member = PERMITS_NOBODY;
    memset(side->mine, 0, side->permits->count * sizeof *side->mine);
    side->held = side->queued = 0;
    list_init(&side->queue);
    pool->owes = false;
}
