/*
 * pool.h - a pool and its connections, as the files of pool/ share them.
 *
 * A connection is on exactly one list; its state names the list; conn_move() is the only one
 * who moves it. What it occupies (a place under max_size, a connecting permit, descriptors
 * of the budget) belongs to the connection, never to somebody's stack frame: whoever is
 * cancelled at whatever wait, nothing is lost.
 *
 *     RESERVED -> CONNECTING -> IDLE <-> IN_USE -> RESETTING -> IDLE ...
 *          \___________\_________\_________\___________\____-> CLOSING -> gone
 */
#ifndef POOL_H
#define POOL_H

#include "hot.h"
#include "list.h"

#include <stdatomic.h>

#include <weir/driver.h>
#include <weir/hub.h>

enum conn_state {
    CONN_RESERVED,   /* has a place and a connecting permit; waits for descriptors */
    CONN_CONNECTING, /* its keeper opens it */
    CONN_IDLE,       /* nobody's; the one used last is first */
    CONN_IN_USE,     /* a holder's */
    CONN_RESETTING,  /* its keeper puts it right */
    CONN_CLOSING,    /* its keeper closes it; its place is free already, its descriptors not */
    CONN_STATES
};

/* A connection turns through several handles, so that a stale one is noticed. */
enum { LEASES_PER_CONN = 4 };

struct conn;
struct shared; /* permits_pool.c */

struct weir_lease {
    struct conn   *conn;
    weir_task     *holder;     /* NULL: this lease is over */
    const char    *site;       /* where it was taken */
    unsigned       nested;     /* how often weir_local_lease gave it out; 0: weir_acquire did */
    weir_lease    *next_local; /* of the same coroutine */
    weir_exit_hook at_exit;    /* of its holder */
};

/* A part of the process's descriptors: see budget.c. */
struct budget_share {
    struct list link;
    weir_hub   *hub;
    unsigned    floor;   /* promised: one connection's */
    unsigned    used;
    unsigned    leaving; /* of those, held by connections that are being closed */
    /* Under the account's lock: is there an idle connection that was unused for min_idle_ns? */
    bool (*has_rested)(const struct budget_share *share, int64_t min_idle_ns);
    void (*evict)(struct budget_share *share); /* close one; not under the lock */
};

/* A pool's place before the governor of connects: see governor.c. */
struct governor_line {
    struct list link;     /* among the pools that have somebody there */
    struct list requests;
    unsigned    waiting;
};

struct conn {
    struct list       link; /* in the list of its state */
    enum conn_state   state;
    weir_pool        *pool;
    uint64_t          id;
    uint64_t          generation; /* the pool's, when it was begun: else stale */
    int64_t           since_ns;   /* in this state since */
    int64_t           unused_ns;  /* idle since; a ping is no use */
    int64_t           expires_ns; /* not lent after this */
    weir_close_reason reason;     /* why it closes */
    weir_farewell     farewell;
    bool              opened;     /* counted as such */
    bool              announced;  /* CONN_CREATED was told, CONN_CLOSED not yet */
    bool              unsaid;     /* CLOSING, and its keeper has not begun */
    bool              cut;        /* its keeper was cancelled: it ends, whatever comes of it */
    bool              permit;     /* holds one of max_connecting */
    bool              governed;   /* ... and one of the governor's */
    bool              pinged;     /* its keeper asks for a sign of life (RESETTING) */
    unsigned          paid;       /* descriptors taken from the budget */
    unsigned          ticket;     /* 1 + which of the permits that processes share; 0: none */
    unsigned          turn;       /* which handle is next */
    weir_task        *keeper;     /* its own coroutine, in reserve: connects, resets, closes */
    weir_lease        leases[LEASES_PER_CONN];
    weir_conn         driver_side[]; /* the driver's struct begins here */
};

/* Somebody in the queue, on his own stack. */
struct waiter {
    struct list link;
    weir_waker  waker;
    weir_task  *task;
    const char *site;
    int64_t     since_ns;
    unsigned    held;   /* connections of this pool that he holds while he waits */
    bool        served; /* one of: */
    struct conn *conn;  /* a connection was handed to him */
    weir_error  *error; /* the reason why he gets none is here */
};

struct weir_pool {
    const weir_driver *driver;
    void              *config;
    weir_hub          *hub;
    weir_pool_opts     opts; /* complete: no zero, WEIR_NEVER is INT64_MAX */
    char               name[32];
    weir_pool_state    state;
    bool               choosy;  /* closed, or above max_size: not every connection is kept */
    bool               minimum; /* it fills up by itself: min_idle or min_size */
    bool               telling; /* inside an event's callback */
    bool               freed;   /* its memory goes with the last connection */
    bool               inherited; /* by a fork; another process made it */
    bool               owes;    /* a permit to another process, as far as is known */
    unsigned           ceiling; /* max_size, or more while it shrinks: never above this */
    weir_pool_event_fn on_event;
    void              *on_event_arg;
    uint64_t           generation;

    struct list conns[CONN_STATES];
    unsigned    count[CONN_STATES];
    struct list spare;   /* records of connections that have gone: see conn.c */
    unsigned    permits; /* connecting permits taken */
    unsigned    parked;  /* of those connecting, put off since the kernel has no descriptor */
    unsigned    unsaid;  /* of those closing, whose keepers were not started yet: the last ones */
    unsigned    parting; /* ... were, and have not begun */
    unsigned    pings;   /* of those resetting, asked for a sign of life */
    struct list waiters;
    unsigned    waiting;
    unsigned    stuck;   /* connections whose holders wait in our queue */
    struct list closers; /* who waits for the last connection to go */
    unsigned    held;    /* by its driver, which is at something: it goes then, too */

    struct budget_share  share;
    struct shared       *shared; /* with other processes: its permits; NULL: none */
    struct governor_line line;
    weir_alarm          sweep;  /* the next look at idle connections: upkeep.c */
    weir_alarm          redial; /* the next attempt after failures: dial.c */
    weir_alarm          shed;   /* the next look at who waits for too long: shed.c */
    bool                overloaded;
    int64_t             calm_ns; /* when the queue last was as it should be */
    int64_t             hold_ns; /* what leases took lately: for refuse_hopeless */
    int64_t             idle_ns; /* idle_timeout_ms; NEVER_NS at most */
    int64_t             rest_ns; /* nothing is due about an idle one earlier than so long after */
    unsigned            failures_in_row;
    int64_t             retry_ns; /* no attempt before this */
    weir_error          last_failure;
    weir_error          why_paused; /* what callers are told meanwhile */
    int64_t             reported_ns; /* when its state was logged last */
    weir_error          farewell;   /* what a server said last when it ended an idle connection */
    uint64_t            random;
    uint64_t            last_id;
    weir_pool_stats     stats; /* the counters; the gauges are filled in when read */
    weir_exit_hook      at_hub_end;
    weir_exit_hook      at_fork;
};

/* ---- conn.c: one connection's states ------------------------------------------------- */
struct conn *conn_new(weir_pool *pool, weir_error *err); /* RESERVED, its keeper at work */
void         conn_close(struct conn *conn, weir_close_reason reason, weir_farewell how);
void         conn_begin_goodbyes(weir_pool *pool); /* of those closed, some */
void         conn_end_lease(struct conn *conn, weir_condition found, bool forgotten, bool close);
void         conn_cut(struct conn *conn);   /* have its keeper give up what it is at */
void         conn_ping(struct conn *conn);  /* an idle one: have its keeper ask for life */

/* ---- queue.c: who waits, who is next ------------------------------------------------- */
void conn_put(struct conn *conn);     /* usable: to the oldest waiter, or idle */
bool queue_tell_first(weir_pool *pool, const weir_error *error);
void queue_tell_all(weir_pool *pool, const weir_error *error);
/* Fill in *err: what became of his wait, who has the connections, why there are no more. */
weir_status queue_explain(const weir_pool *pool, weir_status status, const char *what,
                          weir_error *err) WEIR_COLD;
void queue_lease_given(weir_pool *pool, const weir_task *task); /* who may be waiting here */
void queue_check_stuck(weir_pool *pool); /* after there may be fewer connections than before */
weir_status queue_acquire(weir_pool *pool, weir_deadline deadline, const char *site,
                          weir_lease **out, weir_error *err);

/* ---- state.c: what the pool may do now ------------------------------------------------ */
void        pool_gone_check(weir_pool *pool);      /* after a connection went: may free the pool */
void        pool_ceiling_lower(weir_pool *pool);   /* after one fewer, while it shrinks */
weir_status pool_check_verb(const weir_pool *pool, const char *verb, weir_error *err);

/* ---- event.c: telling who listens; only for a pool that has an on_event ---------------- */
void tell_pool(weir_pool *pool, weir_pool_event_type type, bool interrupt);
void tell_conn(struct conn *conn, weir_pool_event_type type, int64_t duration_ns);
void tell_conn_closed(struct conn *conn, const char *message);
void tell_check_out_failed(weir_pool *pool, weir_status status, const weir_error *err,
                           int64_t since_ns);

/* ---- dial.c: when to open one --------------------------------------------------------- */
void dial_while_wanted(weir_pool *pool);
bool dial_is_wanted(const weir_pool *pool, unsigned on_their_way);
void dial_failed(weir_pool *pool, const weir_error *error);
void dial_succeeded(weir_pool *pool);
bool dial_known_down(const weir_pool *pool);

/* ---- lease.c -------------------------------------------------------------------------- */
void     lease_holder_ended(weir_exit_hook *hook); /* each lease's, in its holder's list */
unsigned    leases_held(const weir_task *task, weir_pool *pool);

/* ---- fork.c: in the child -------------------------------------------------------------- */
void pool_forked(weir_exit_hook *hook);

/* ---- shed.c: refusing some, so that the others are served in time ----------------------- */
void shed_expect(weir_pool *pool);                   /* the queue begins */
void shed_served(weir_pool *pool, int64_t waited_ns); /* somebody of it got a connection */
bool shed_hopeless(const weir_pool *pool, int64_t give_up_ns, int64_t *expected_ns);
void shed_learn(weir_pool *pool, int64_t hold_ns);

static inline bool pool_sheds(const weir_pool *pool)
{
    return pool->opts.shed_target_ms != INT64_MAX;
}

/* ---- upkeep.c: what time does to idle connections -------------------------------------- */
void upkeep_begin(weir_pool *pool);
void upkeep_expect(struct conn *conn); /* it has become idle */
void upkeep_again(weir_pool *pool);   /* a ping has ended, or some are stale: look at once */
bool upkeep_has_rested(const struct budget_share *share, int64_t min_idle_ns);
void upkeep_evict(struct budget_share *share); /* the one unused longest, if one is idle */

/* ---- budget.c ------------------------------------------------------------------------- */
weir_status budget_join(struct budget_share *share, unsigned floor, weir_error *err);
/* Raise the floor of a share that has joined. WEIR_FULL where the account cannot promise it. */
weir_status budget_promise(struct budget_share *share, unsigned floor, weir_error *err);
void        budget_leave(struct budget_share *share);
/* Could it never have `count` more, since only its own connections hold any? */
bool        budget_is_all_ours(const struct budget_share *share, unsigned count);
/* Yields until `count` are there. While *wanted is zero (NULL: it never is) it evicts nobody
   for them. */
weir_status budget_pay(struct budget_share *share, unsigned count, const unsigned *wanted,
                       weir_deadline deadline);
/* *wanted was zero and is not any more: whoever waits in budget_pay() for it looks again. */
void        budget_wanted(const struct budget_share *share);
void        budget_refund(struct budget_share *share, unsigned count);
/* In the child of a fork: nobody waits, and shares have nothing, but for what is inherited: */
void        budget_forked(void);
void        budget_inherit(struct budget_share *share, unsigned count);
/* The kernel has no descriptor: wait until one was closed, or a while. */
weir_status budget_wait_for_kernel(void);
/* Has somebody waited for descriptors since before `since_ns`, while we have more than our part? */
bool budget_claims_of(const struct budget_share *share, int64_t since_ns);
extern atomic_uint budget_waiting; /* requests in the account's queue */

static inline bool budget_claims(const struct budget_share *share, int64_t since_ns)
{
    return atomic_load_explicit(&budget_waiting, memory_order_relaxed) &&
           budget_claims_of(share, since_ns);
}

/* ---- permits_pool.c: permits shared with other processes; for a pool that has `shared` -- */
weir_status shared_join(weir_pool *pool, weir_permits *permits, weir_error *err);
void        shared_leave(weir_pool *pool); /* NULL is fine, as in the next */
void        shared_forked(weir_pool *pool);
/* Yields until the connection has one. WEIR_CANCELED; WEIR_FULL, WEIR_NOMEM with words. */
weir_status shared_wait(struct conn *conn, weir_error *err);
void        shared_return(struct conn *conn); /* its sockets are closed */
void        shared_hurry(weir_pool *pool);    /* there are callers now */
bool        shared_claims(weir_pool *pool);   /* is one owed to another process now? */
void        shared_tell(const weir_pool *pool, char *text, size_t size); /* "" without any */

/* ---- governor.c ------------------------------------------------------------------------ */
void        governor_line_init(struct governor_line *line);
/* Yields until the process may begin one more connect; then *permit says what to give back. */
weir_status governor_enter(struct governor_line *line, bool *permit);
void        governor_leave(bool *permit);
void        governor_decline(bool *permit); /* ... unused, as if it had not been let through */
/* How many of a line wait there now. */
unsigned    governor_waiting(const struct governor_line *line);
/* In the child of a fork: nobody waits, and nobody was let through, but for who is inherited: */
void        governor_forked(void);
void        governor_inherit(bool permit);

/* ---- report.c -------------------------------------------------------------------------- */
enum { OPENING = 220 };
/* How many are being opened, and what those wait for. */
void report_opening(const weir_pool *pool, char text[OPENING]);
/* Somebody got none in time: the pool in a line for the log, once in a second. */
void report_timeout(weir_pool *pool) WEIR_COLD;

/* ---- stats.c -------------------------------------------------------------------------- */
#ifdef WEIR_DEBUG
void pool_verify(const weir_pool *pool);
#else
static inline void pool_verify(const weir_pool *pool)
{
    (void)pool;
}
#endif

/* pool.c */
void pool_free_for_good(weir_pool *pool);

static inline bool conn_is_stale(const struct conn *conn)
{
    return conn->generation != conn->pool->generation;
}

/* Idle, in use or resetting. */
static inline unsigned pool_live(const weir_pool *pool)
{
    return pool->count[CONN_IDLE] + pool->count[CONN_IN_USE] + pool->count[CONN_RESETTING];
}

/* What counts against max_size. */
static inline unsigned pool_total(const weir_pool *pool)
{
    return pool_live(pool) + pool->count[CONN_RESERVED] + pool->count[CONN_CONNECTING];
}

/* For whoever may have freed a place, or needs one. Mostly nobody waits, or there is none. */
static inline void dial_if_wanted(weir_pool *pool)
{
    if ((pool->waiting || pool->minimum) &&
        (pool_total(pool) < pool->opts.max_size || pool->shared))
        dial_while_wanted(pool);
}

/* ---- what each lease does ---------------------------------------------------------------- */

/*
 * Expanded where it is used: calls, and asking the thread for its hub, were a third of what a
 * lease costs. A pool knows its hub.
 */
static inline struct hot_hub *pool_hub(const weir_pool *pool)
{
    return (struct hot_hub *)pool->hub;
}

static inline int64_t pool_now(const weir_pool *pool)
{
    return pool_hub(pool)->now_ns;
}

static inline void conn_move(struct conn *conn, enum conn_state to)
{
    weir_pool *pool = conn->pool;

    list_drop(&conn->link);
    pool->count[conn->state]--;
    conn->state = to;
    conn->since_ns = pool_now(pool);
    pool->count[to]++;
    if (to == CONN_CLOSING)
        pool->share.leaving += conn->paid;
    list_prepend(&pool->conns[to], &conn->link);
}

static inline weir_lease *lease_current(const struct conn *conn)
{
    return (weir_lease *)&conn->leases[conn->turn % LEASES_PER_CONN];
}

/* The connection is IN_USE already. */
static inline weir_lease *lease_begin(struct conn *conn, weir_task *holder, const char *site)
{
    weir_pool *pool = conn->pool;

    conn->turn++;
    weir_lease *lease = lease_current(conn);
    lease->holder = holder;
    lease->site = site;
    lease->nested = 0;
    lease->at_exit.fn = lease_holder_ended;
    hot_exit_hook_add(holder, &lease->at_exit);
    conn->driver_side->user = holder;
    pool->stats.acquired++;
    if (pool->count[CONN_IN_USE] > pool->stats.in_use_peak)
        pool->stats.in_use_peak = pool->count[CONN_IN_USE];
    return lease;
}

static inline void histogram_add(weir_histogram *histogram, int64_t ns)
{
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    unsigned bucket = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

    histogram->count++;
    histogram->sum_us += us;
    if (us > histogram->max_us)
        histogram->max_us = us;
    histogram->bucket[bucket < 32 ? bucket : 31]++;
}

/* Asked when a connection is given back, and when it is lent: for a look at three numbers. */
static inline bool conn_is_fresh(const struct conn *conn)
{
    int64_t now = pool_now(conn->pool);

    return !conn->pool->choosy && conn->expires_ns > now && conn->driver_side->quiet_until_ns > now;
}

/* It has become idle. Mostly the next look at the idle ones is due before anything about it is. */
static inline void upkeep_rests(struct conn *conn)
{
    const weir_pool *pool = conn->pool;
    int64_t          next = pool->sweep.at_ns;

    if (!conn->pinged && pool->sweep.slot && next <= conn->since_ns + pool->rest_ns &&
        next <= conn->expires_ns && next <= conn->driver_side->quiet_until_ns)
        conn->unused_ns = conn->since_ns;
    else
        upkeep_expect(conn);
}

/* Is there nobody who waits, listens, or is owed anything? Then lending an idle connection, and
   giving one back that is clean, is no more than what follows. */
static inline bool pool_is_at_peace(const weir_pool *pool)
{
    return pool->state == WEIR_POOL_READY && !pool->waiting && !pool->on_event && !pool->owes &&
           !atomic_load_explicit(&budget_waiting, memory_order_relaxed);
}

static inline weir_lease *lend_idle(struct conn *conn, weir_task *holder, const char *site)
{
    weir_pool *pool = conn->pool;

    conn_move(conn, CONN_IN_USE);
    weir_lease *lease = lease_begin(conn, holder, site);
    if (pool->count[CONN_IDLE] < pool->opts.min_idle)
        dial_if_wanted(pool);
    pool->stats.acquired_at_once++;
    pool->stats.wait.count++;
    pool->stats.wait.bucket[0]++;
    hot_spend_in(pool_hub(pool), 1);
    return lease;
}

static inline void rest_idle(struct conn *conn)
{
    weir_pool *pool = conn->pool;

    conn_move(conn, CONN_IDLE);
    upkeep_rests(conn);
    dial_if_wanted(pool);
    pool_verify(pool);
}

/* From 0 to 1, for jitter: a linear congruential generator (Knuth's MMIX constants). */
static inline double pool_random(weir_pool *pool)
{
    pool->random = pool->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(pool->random >> 11) / 9007199254740992.0;
}

/* 146 years: two of them can be added. */
#define NEVER_NS (INT64_MAX / 2)

/* `ms` from now, by the turn's clock; INT64_MAX stays so. */
static inline int64_t ns_after(int64_t now_ns, int64_t ms)
{
    return ms >= (INT64_MAX - now_ns) / 1000000 ? INT64_MAX : now_ns + ms * 1000000;
}

#endif
