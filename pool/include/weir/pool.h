/*
 * weir/pool.h - a bounded set of connections that coroutines take turns with.
 *
 * Knows:   how many may be open, who waits and since when, how old each one is.
 * Ignores: what a connection speaks (weir/driver.h), how sleeping works (weir/coro.h).
 * Threads: a pool lives on the thread that made it; there are no locks.
 *
 * Make one with a driver's own call (weir_mysql_pool_new). Callers are served strictly in the
 * order they came. A connection given back is reused; one forgotten is closed when the
 * coroutine that took it ends.
 *
 * In the child of a fork (weir/process.h) a pool is empty and may be used like a new one, or not
 * at all; the parent's connections are let go without a byte. A lease of the coroutine that
 * forked stays its own: calls on it fail with WEIR_LOST. Pools of other threads are gone.
 *
 * States and events are those of MongoDB's "Connection Monitoring and Pooling" specification
 * (CMAP below), whatever database is behind the pool.
 */
#ifndef WEIR_POOL_H
#define WEIR_POOL_H

#include <weir/budget.h>
#include <weir/coro.h>
#include <weir/permits.h>

WEIR_BEGIN_DECLS

typedef struct weir_pool  weir_pool;
typedef struct weir_lease weir_lease;

struct weir_pool_event;

/* Told of what happens in a pool: see weir_pool_on_event(). */
typedef void (*weir_pool_event_fn)(const struct weir_pool_event *event, void *arg);

/* What happens to a connection whose holder ended without giving it back. */
typedef enum weir_on_exit {
    WEIR_ON_EXIT_CLOSE = 0, /* closed: nobody knows what the holder left undone */
    WEIR_ON_EXIT_RECYCLE    /* as if released: reset where needed, closed where in doubt */
} weir_on_exit;

/* What is put right on a connection before someone else gets it. */
typedef enum weir_reset {
    WEIR_RESET_DIRTY = 0, /* what the protocol reports as changed; nothing changed costs nothing */
    WEIR_RESET_FULL,      /* everything, after each lease: one round trip */
    WEIR_RESET_NONE       /* an open transaction is rolled back, nothing else */
} weir_reset;

/*
 * Zero in a field means its default. WEIR_NEVER in a *_ms switches that limit off.
 *
 * Idle connections. idle_timeout_ms counts from their last use. Where the server ends idle ones
 * earlier, and the driver knows when (MySQL: wait_timeout), the pool closes them before that, with
 * the reason WEIR_CLOSE_IDLE, min_idle or not. With keepalive_ms it pings instead, each connection
 * once in keepalive_ms (less up to a tenth, so that they do not all do it at once) or when its
 * server would end it; max_connecting of them at a time. A ping does not count as use. One without
 * an answer within reset_timeout_ms is closed (WEIR_CLOSE_PING_FAILED): that is what finds peers
 * that a firewall has forgotten.
 *
 * Overload. A queue that is long for a moment is a burst, and is worked off; one in which everybody
 * waits long is overload, and makes each request late without serving one more. With shed_target_ms
 * set a pool is overloaded when for shed_interval_ms each caller that waited had to wait longer
 * than the target (the sojourn time of CoDel, RFC 8289). From then on nobody waits longer than the
 * target: the oldest, who has, gets WEIR_FULL ("shed: ..."), outcome NOT_SENT. It ends when the
 * queue is empty, or somebody is served who waited less than half the target. The order stays first
 * come, first served. While less than half of max_size is open, and more is being opened, there is
 * no judging: callers wait for that. A target is well below what callers allow for the whole
 * request (of 1.5 s with a query of 1 s: 100 ms); an interval is as long as a burst may take to be
 * worked off.
 *
 * refuse_hopeless: a caller who would have to queue gets WEIR_FULL at once where his turn is not
 * to be expected before his deadline. Expected are, for a pool that is at its max_size and opens
 * nothing, (callers before him + 1) * (how long leases took lately) / (connections in use). It is
 * an estimate (the mean over some ten leases), and wrong where leases differ much; so it is off.
 */
typedef struct weir_pool_opts {
    const char  *name;               /* for messages and numbers; copied (the driver's name) */
    unsigned     max_size;           /* connections at most (10) */
    unsigned     min_idle;           /* kept open and idle, while max_size allows (0) */
    unsigned     min_size;           /* kept open, idle or not (0; CMAP's minPoolSize) */
    unsigned     max_connecting;     /* opened at the same time at most (2, as in CMAP) */
    unsigned     max_waiters;        /* callers queued; the next gets WEIR_FULL (no limit) */
    int64_t      acquire_timeout_ms; /* longest wait for a connection (30 s) */
    int64_t      connect_timeout_ms; /* longest attempt to open one, lookup to login (10 s) */
    int64_t      query_timeout_ms;   /* longest silence of the server inside a call (5 min) */
    int64_t      reset_timeout_ms;   /* longest reset or ping; then it is closed (5 s) */
    int64_t      close_timeout_ms;   /* longest polite goodbye; then it is cut (1 s) */
    int64_t      idle_timeout_ms;    /* one unused for longer is closed, above min_idle (10 min) */
    int64_t      max_age_ms;         /* an older one is not lent again (30 min, each +-10 %) */
    int64_t      keepalive_ms;       /* one idle for so long is pinged (off): see above */
    int64_t      shed_target_ms;     /* under overload nobody waits longer (off): see above */
    int64_t      shed_interval_ms;   /* that long above the target is overload (100 ms) */
    bool         refuse_hopeless;    /* refuse who would time out in the queue: see above */
    weir_on_exit on_exit;
    weir_reset   reset;
    weir_permits *permits;           /* shared with other processes: a connection has one from
                                        before it connects until it is closed (no such limit) */
    bool         start_paused;       /* opens and lends nothing until weir_pool_ready() */
    weir_pool_event_fn on_event;     /* as by weir_pool_on_event(), but from the very first on */
    void              *on_event_arg;
} weir_pool_opts;

/* ---- taking and giving back --------------------------------------------------------- */

/**
 * Lease a connection, waiting for one until `deadline` (and never longer than the enclosing
 * WEIR_DEADLINE or the pool's acquire_timeout_ms).
 *
 * Callers are served in the order they came. The pool opens a connection while it has fewer
 * than max_size; past that the caller sleeps until one is given back. Two calls in one
 * coroutine give two connections; see weir_local_lease() for the other way.
 *
 * Yields:  yes, unless an idle connection is at hand (and now and then even so).
 * Context: a coroutine on the pool's thread.
 * Owner:   *out is yours until weir_release() or weir_lease_close(); NULL on failure.
 * Returns: WEIR_OK, WEIR_TIMEOUT, WEIR_CANCELED, WEIR_FULL (max_waiters queue already, or
 *          shed: see weir_pool_opts), WEIR_CLOSED, WEIR_DEADLOCK (every connection is held by a
 *          coroutine that waits for this pool, and there can be no more of them), WEIR_USAGE, or
 *          WEIR_CONNECT with the server's own words in *err, or, where the pool is paused
 *          (weir_pool_pause()), with those that it is. While no connection lives and the last
 *          attempt failed, WEIR_CONNECT comes at once, until the pool tries again: after 0.1 s at
 *          first, after 2 s at most.
 */
#define weir_acquire(pool, deadline, out, err) \
    weir_acquire_at((pool), (deadline), (out), (err), WEIR_HERE)
WEIR_API weir_status weir_acquire_at(weir_pool *pool, weir_deadline deadline, weir_lease **out,
                                     weir_error *err, const char *site) WEIR_MUST_CHECK;

/**
 * The same, but inside one coroutine every call gives the same lease: each is matched by one
 * weir_release(), and the last of them gives the connection back.
 */
#define weir_local_lease(pool, deadline, out, err) \
    weir_local_lease_at((pool), (deadline), (out), (err), WEIR_HERE)
WEIR_API weir_status weir_local_lease_at(weir_pool *pool, weir_deadline deadline,
                                         weir_lease **out, weir_error *err, const char *site)
    WEIR_MUST_CHECK;

/**
 * Give a lease back. Dropping one in the middle of a reply or a transaction is fine: the
 * connection is reset or closed, never lent on as it is.
 *
 * Yields:  no.
 * Context: the coroutine that holds it.
 * Returns: WEIR_OK; WEIR_USAGE (logged too) for a lease given back before or held by another
 *          coroutine, and changes nothing. NULL is fine. A handle is recognised as over
 *          during its connection's next three leases.
 */
WEIR_API weir_status weir_release(weir_lease *lease);

/** Give a lease back and have its connection closed. */
WEIR_API weir_status weir_lease_close(weir_lease *lease);

/**
 * Make `task` the holder: it may use the lease from now on, must give it back, and its end
 * ends the lease.
 *
 * Returns: WEIR_OK; WEIR_USAGE where the caller does not hold it, it is a local lease, or the
 *          task has ended or belongs to another thread.
 */
WEIR_API weir_status weir_lease_give(weir_lease *lease, weir_task *task) WEIR_MUST_CHECK;

/**
 * Why the last call on the connection failed, in terms of what to do next: WEIR_TIMEOUT,
 * WEIR_CANCELED, WEIR_LOST, WEIR_SERVER, WEIR_USAGE; WEIR_OK if it did not fail.
 * err->outcome says what became of the statement, err->native and sqlstate are the server's.
 *
 * Yields:  no.  Context: the holder.
 */
WEIR_API weir_status weir_lease_error(weir_lease *lease, weir_error *err);

/** Log weir_lease_error() with the caller's place and return the status (never WEIR_OK). */
#define weir_lease_fail(lease) weir_lease_fail_at((lease), WEIR_HERE)
WEIR_API weir_status weir_lease_fail_at(weir_lease *lease, const char *site);

WEIR_API uint64_t weir_lease_conn_id(const weir_lease *lease); /* 1, 2, 3 ... in each pool */

static inline void weir_lease_cleanup_(weir_lease **lease)
{
    if (*lease)
        (void)weir_release(*lease);
}

/* ---- the pool itself ---------------------------------------------------------------- */

/**
 * Close the pool: waiters get WEIR_CLOSED, idle connections are closed, those in use when
 * they are given back. Waits until none is left.
 *
 * Yields:  yes.
 * Context: a coroutine on the pool's thread.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED: it goes on closing, call again to wait more;
 *          WEIR_USAGE (logged too) elsewhere, and changes nothing.
 */
WEIR_API weir_status weir_pool_close(weir_pool *pool, weir_deadline deadline);

/**
 * Close the pool, wait for what can be closed now, and free it. Leases still held stay
 * valid: their holders are named in a warning, and the memory goes with the last of them.
 * NULL is fine. From another thread it does nothing but log an error.
 *
 * Yields:  yes (shielded).
 */
WEIR_API void weir_pool_free(weir_pool *pool);

static inline void weir_pool_cleanup_(weir_pool **pool)
{
    weir_pool_free(*pool);
}

WEIR_API const char *weir_pool_name(const weir_pool *pool);

/* ---- at run time -------------------------------------------------------------------- */

/* What a pool may do. It starts ready, unless start_paused. */
typedef enum weir_pool_state {
    WEIR_POOL_READY = 0,
    WEIR_POOL_PAUSED, /* lends and opens nothing; callers get WEIR_CONNECT at once */
    WEIR_POOL_CLOSED  /* for good */
} weir_pool_state;

WEIR_API weir_pool_state weir_pool_state_of(const weir_pool *pool);
WEIR_API const char     *weir_pool_state_name(weir_pool_state state); /* "ready", ... */

/*
 * The next five: Context: the pool's thread (a coroutine, or a loop's callback), unless said
 * otherwise. They return WEIR_OK; WEIR_CLOSED for a pool that is closed; WEIR_USAGE (logged
 * too) from another thread, or inside an event's callback. The error is for the words.
 */

/**
 * Lend and open nothing until weir_pool_ready(). Waiters get WEIR_CONNECT at once, outcome
 * WEIR_OUTCOME_NOT_SENT, as do later callers. Connections stay: idle ones are kept, those in
 * use come back. Pausing twice is fine.
 *
 * Yields:  no.
 */
WEIR_API weir_status weir_pool_pause(weir_pool *pool, weir_error *err);

/** End a pause: the pool forgets failures, fills up to its minimum and lends. Does not yield. */
WEIR_API weir_status weir_pool_ready(weir_pool *pool, weir_error *err);

/**
 * Declare all connections stale, as after a fail-over: pauses the pool and begins a new
 * generation. Idle ones are closed in the next turn of the hub, those being opened when they are
 * there, those in use when they are given back (WEIR_CLOSE_STALE). With `interrupt` those in use
 * are cut in mid-call (their holders get WEIR_LOST; where the driver can, see weir/driver.h) and
 * those being opened given up.
 *
 * The words of `why` (NULL: none) are told to the waiters, and to callers until
 * weir_pool_ready(). Yields:  no.
 */
WEIR_API weir_status weir_pool_clear(weir_pool *pool, bool interrupt, const weir_error *why,
                                     weir_error *err);

/**
 * Change max_size (at least 1). Where the pool is larger, idle connections are closed at once
 * and others as they come back, until it fits (WEIR_CLOSE_RESIZED).
 *
 * Yields:  no.
 * Returns: as above; WEIR_USAGE too where max_size is 0, or below min_idle or min_size.
 */
WEIR_API weir_status weir_pool_resize(weir_pool *pool, unsigned max_size, weir_error *err);

/**
 * weir_pool_clear() without interrupting, and wait until the last connection that was there
 * has gone; then the pool is empty and paused, and weir_pool_ready() starts it afresh.
 *
 * Yields:  unless the pool is empty.
 * Context: a coroutine on the pool's thread that holds none of its connections.
 * Returns: as above; WEIR_TIMEOUT, WEIR_CANCELED: call again to wait more; WEIR_DEADLOCK
 *          where the caller holds a connection of this pool, and changes nothing.
 */
WEIR_API weir_status weir_pool_drain(weir_pool *pool, weir_deadline deadline, weir_error *err);

/** Print the options in force, one per line, into buf; returns as snprintf(3). */
WEIR_API int weir_pool_describe(const weir_pool *pool, char *buf, size_t size);

/* ---- numbers ------------------------------------------------------------------------ */

typedef enum weir_close_reason {
    WEIR_CLOSE_REQUESTED = 0, /* weir_lease_close() */
    WEIR_CLOSE_LEAKED,        /* its holder ended without giving it back */
    WEIR_CLOSE_BROKEN,        /* given back in mid-reply, or cut by a cancel or a deadline */
    WEIR_CLOSE_LOST,          /* the server or the network ended it */
    WEIR_CLOSE_RESET_FAILED,  /* could not be put right in time */
    WEIR_CLOSE_IDLE,          /* unused for idle_timeout_ms, or nearly what its server allows */
    WEIR_CLOSE_AGE,           /* older than max_age_ms */
    WEIR_CLOSE_EVICTED,       /* its descriptors, or its permit, were needed elsewhere */
    WEIR_CLOSE_POOL,          /* the pool was closed */
    WEIR_CLOSE_STALE,         /* the pool was cleared since it was opened, or forked */
    WEIR_CLOSE_RESIZED,       /* above max_size after weir_pool_resize() */
    WEIR_CLOSE_PING_FAILED,   /* gave no sign of life when asked: keepalive_ms */
    WEIR_CLOSE_UNOPENED,      /* the attempt to open it failed: in events only, never counted */
    WEIR_CLOSE_REASONS        /* how many there are */
} weir_close_reason;

WEIR_API const char *weir_close_reason_name(weir_close_reason reason); /* "requested", ... */

/** The same in CMAP's four words: "stale", "idle" (nobody needed it: IDLE, AGE, EVICTED,
    RESIZED), "poolClosed", "error" (all others). */
WEIR_API const char *weir_close_reason_cmap(weir_close_reason reason);

/* bucket[i] counts values below 2^i microseconds (and not below half that). */
typedef struct weir_histogram {
    uint64_t count;
    uint64_t sum_us;
    uint64_t max_us;
    uint64_t bucket[32];
} weir_histogram;

/** The value that `percent` of those recorded did not exceed, within a factor of two. */
WEIR_API uint64_t weir_histogram_us(const weir_histogram *histogram, double percent);

typedef struct weir_pool_stats {
    /* now */
    weir_pool_state state;
    uint64_t generation; /* how often it was cleared */
    unsigned max_size;
    unsigned reserved;   /* waiting for descriptors, or for a permit of all processes */
    unsigned connecting;
    unsigned idle;
    unsigned in_use;
    unsigned resetting;
    unsigned closing;    /* not counted against max_size any more */
    unsigned waiting;    /* callers queued */
    /* since the pool was made */
    unsigned in_use_peak;
    unsigned waiting_peak;
    uint64_t acquired;         /* leases given out */
    uint64_t acquired_at_once; /* of those, without waiting */
    uint64_t released;         /* leases given back, or ended with their holder */
    uint64_t timeouts;         /* callers that gave up at their deadline */
    uint64_t canceled;         /* callers cancelled while they waited */
    uint64_t refused;          /* WEIR_FULL (max_waiters) and WEIR_DEADLOCK */
    uint64_t shed;             /* WEIR_FULL under overload, or since it was hopeless */
    uint64_t forgotten;        /* leases whose holder ended without giving them back */
    uint64_t opened;
    uint64_t connect_failures;
    uint64_t connect_parked;   /* attempts put off because the kernel had no descriptor */
    uint64_t resets;
    uint64_t pings;
    uint64_t farewells;        /* idle connections whose server said why it ended them */
    uint64_t closed[WEIR_CLOSE_REASONS];
    weir_histogram wait;       /* of callers, from weir_acquire() to its return */
    weir_histogram connect;
    weir_histogram hold;       /* of leases */
} weir_pool_stats;

WEIR_API void weir_pool_stats_read(const weir_pool *pool, weir_pool_stats *out);

/* Takes the next piece of a text; must not yield, nor call the pool's functions. */
typedef void (*weir_write_fn)(const char *text, size_t length, void *arg);

/**
 * Write the numbers in Prometheus' text format (version 0.0.4): gauges, counters by close
 * reason, and the histograms of wait, connect and hold in seconds, labelled pool="name".
 * `pools` share one text, since the format wants each metric's name declared once.
 *
 * Yields:  no.  Context: the pools' thread.
 */
WEIR_API void weir_pools_metrics(weir_pool *const *pools, size_t count, weir_write_fn write,
                                 void *arg);
WEIR_API void weir_pool_metrics(const weir_pool *pool, weir_write_fn write, void *arg);

/**
 * Write for people who holds what since when from where, who waits, and what each other
 * connection is doing: a line each, after the line of weir_pool_summary().
 *
 * Yields:  no.  Context: the pool's thread.
 */
WEIR_API void weir_pool_dump(const weir_pool *pool, weir_write_fn write, void *arg);

/** The pool in one line for a log, without a newline; returns as snprintf(3). The pool logs it
    itself (INFO) when a caller gives up, once in a second at most. */
WEIR_API int weir_pool_summary(const weir_pool *pool, char *buf, size_t size);

/* ---- events ------------------------------------------------------------------------- */

/*
 * CMAP's eleven, in its order: a check-out is CHECK_OUT_STARTED and then one of CHECKED_OUT and
 * CHECK_OUT_FAILED; a connection is CONN_CREATED, CONN_READY, and CONN_CLOSED at last, also where
 * it was never ready. CHECKED_OUT is told when the connection is handed over, which is before its
 * waiter runs; where he was cancelled in that very turn, CHECKED_IN follows.
 */
typedef enum weir_pool_event_type {
    WEIR_EVENT_POOL_CREATED = 0,
    WEIR_EVENT_POOL_READY,
    WEIR_EVENT_POOL_CLEARED,
    WEIR_EVENT_POOL_CLOSED,
    WEIR_EVENT_CONN_CREATED,
    WEIR_EVENT_CONN_READY,
    WEIR_EVENT_CONN_CLOSED,
    WEIR_EVENT_CHECK_OUT_STARTED,
    WEIR_EVENT_CHECK_OUT_FAILED,
    WEIR_EVENT_CHECKED_OUT,
    WEIR_EVENT_CHECKED_IN,
    WEIR_EVENTS /* how many there are */
} weir_pool_event_type;

WEIR_API const char *weir_pool_event_name(weir_pool_event_type type); /* "ConnectionReady", ... */

/* What is not said of a field's event is zero there. */
typedef struct weir_pool_event {
    weir_pool_event_type type;
    weir_pool           *pool;
    uint64_t             conn_id;     /* CONN_*, CHECKED_OUT, CHECKED_IN: 1, 2, 3 ... */
    int64_t              duration_ns; /* CONN_READY: of opening; CHECKED_OUT, CHECK_OUT_FAILED:
                                         since it started. By the turn's clock: 0 within one */
    weir_close_reason    reason;      /* CONN_CLOSED */
    weir_status          status;      /* CHECK_OUT_FAILED: what the caller gets */
    const char          *message;     /* CHECK_OUT_FAILED: the words, where there are; CONN_CLOSED
                                         as LOST or PING_FAILED: the server's last ones, if any;
                                         until the callback returns */
    bool                 interrupt;   /* POOL_CLEARED: connections in use were cut as well */
} weir_pool_event;

/** Why a check-out failed in CMAP's three words: "poolClosed" (WEIR_CLOSED), "connectionError"
    (WEIR_CONNECT, WEIR_NOMEM), "timeout" (whoever gave up or was refused: all others). */
WEIR_API const char *weir_check_out_reason_cmap(weir_status status);

/**
 * Have fn(event, arg) called for every event from now on, in place of whoever was told before;
 * a NULL fn ends it. For POOL_CREATED too: weir_pool_opts.on_event. Without it events cost
 * nothing.
 *
 * fn runs in the middle of what it is told of. It must not yield (a wait fails there), and may
 * only read the pool: stats, dump, summary, options (weir_acquire() gives WEIR_USAGE), and the
 * budget and governor. It may fork. `arg` must live until fn is ended or the pool's memory gone,
 * with the last lease.
 *
 * Yields:  no.  Context: the pool's thread.
 */
WEIR_API void weir_pool_on_event(weir_pool *pool, weir_pool_event_fn fn, void *arg);

WEIR_END_DECLS

#endif
