/*
 * weir/watch.h - seeing what the hubs of a process do.
 *
 * Knows:   who blocks a hub, who waits for what, counts, who runs when.
 * Ignores: pools and their leases (weir/pool.h has numbers of its own).
 * Threads: each comment says which.
 *
 * A deadlock is seen without being asked for. Under weir_run(), when nobody is ready, no
 * deadline or alarm is set, no descriptor is watched, no offloaded work is under way and no
 * other thread could wake anybody, then nothing ever will. After a tenth of a second of that
 * every parked coroutine is logged with what it waits for, and the wait of the main one
 * returns WEIR_DEADLOCK; where that changes nothing, or the main one has ended, the waits of
 * the others do. A shield holds it off, as it does a cancel. Where the application has other
 * threads, or SIGTERM may cancel the main one (weir_run_opts.cancel_on_signals), weir cannot
 * know and says nothing; weir_run_opts.no_remote_wakes tells it about the threads. Attached
 * hubs are not looked at: their loop is the application's.
 */
#ifndef WEIR_WATCH_H
#define WEIR_WATCH_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

/* Takes text as it comes, in pieces; it must not yield. */
typedef void (*weir_write_fn)(const char *text, size_t size, void *arg);

/* ---- who blocks a hub --------------------------------------------------------------- */

/* One turn that takes too long. Everything is borrowed until the callback returns. */
typedef struct weir_blocked {
    unsigned     hub;        /* its number, as in weir_dump() */
    int64_t      blocked_ns; /* so far; without the time its thread was ready but not scheduled */
    uint64_t     id;         /* of the coroutine that has the thread; 0: the hub itself has it, or
                                the thread did not answer */
    const char  *name, *site; /* at most 63 and 127 bytes of them; "" where id is 0 */
    void *const *frames;     /* where it is, innermost first, as backtrace(3) gives them */
    int          frame_count; /* 0 where the thread did not answer within 50 ms */
} weir_blocked;

typedef void (*weir_blocked_fn)(const weir_blocked *blocked, void *arg);

typedef struct weir_watch_opts { /* zero in a field means its default */
    int             limit_ms; /* a turn that takes longer is reported (100) */
    int             signal;   /* sent to the thread that blocks, for its backtrace (SIGURG, which
                                 is ignored elsewhere); WEIR_NEVER: none, and so no name either */
    weir_blocked_fn fn;       /* told once for each such turn, on the watchdog's thread (NULL: it is
                                 logged as a warning) */
    void           *arg;
} weir_watch_opts;

/**
 * Start the watchdog, a thread that looks at all hubs of the process four times in each
 * limit. It sees coroutines, alarms and callbacks of weir that keep a hub from turning; in
 * an attached hub it does not see callbacks of the application itself.
 *
 * What blocks is interrupted by the signal once: system calls that SA_RESTART does not
 * restart (poll, nanosleep; see signal(7)) fail with EINTR, as they may at any time.
 *
 * One that was started by the environment (WEIR_WATCH_MS, see weir/settings.h) gives place to this.
 * In the child of a fork it does not run, whoever started it, and may be started again.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_BUSY when the program has started it already; WEIR_USAGE for a limit below
 *          zero or a signal that cannot be caught; WEIR_NOMEM where no thread could be made.
 */
WEIR_API weir_status weir_watch_start(const weir_watch_opts *opts, weir_error *err) WEIR_MUST_CHECK;

/** End it, once a callback under way has returned. Not from the callback; any other thread. */
WEIR_API void weir_watch_stop(void);

/** Turns found blocked in all hubs since the process began. Any thread. */
WEIR_API uint64_t weir_watch_blocked(void);

/* One block that shall give way; use WEIR_MUST_YIELD. */
typedef struct weir_must_yield {
    weir_task  *task_;
    const char *site_;
    uint64_t    turns_;
    int64_t     begun_ns_, limit_ns_;
} weir_must_yield;

WEIR_API void weir_must_yield_enter_(weir_must_yield *block, int64_t ms, const char *site);
WEIR_API void weir_must_yield_leave_(weir_must_yield *block);

/*
 * From here to the closing brace this coroutine must let others run at least once, or be done
 * within `ms` milliseconds (0: it must let others run in any case). A block that does not is
 * logged as an error with its place, and counted: for tests, and for code whose author thought
 * that a call in it cooperates. Outside a coroutine it does nothing.
 */
#define WEIR_MUST_YIELD(ms) \
    __attribute__((cleanup(weir_must_yield_leave_))) weir_must_yield WEIR_JOIN(weir_must_, \
                                                                               __LINE__); \
    weir_must_yield_enter_(&WEIR_JOIN(weir_must_, __LINE__), (ms), WEIR_HERE)

/** Blocks of the process that did not. Any thread. */
WEIR_API uint64_t weir_must_yield_broken(void);

/* ---- who waits for what ------------------------------------------------------------- */

/**
 * Write all coroutines of this thread's hub as a tree: groups, their members, the groups those
 * made. Each with its number, name, state, what it waits for, for how long it has been there,
 * how much of its stack is in use and was touched (by it, or whoever had that stack before),
 * where it was spawned, and, for the first 1,000, its innermost 12 frames as
 * backtrace_symbols(3) has them (x86-64; `addr2line -e PROGRAM 0x...` names the line).
 * script/gdb/weir-gdb.py shows all frames of all.
 *
 * Yields:  no; some 2 us for each coroutine, and 10 us where its frames are shown.
 * Context: the hub's thread, in a coroutine or not; elsewhere nothing is written.
 */
WEIR_API void weir_dump(weir_write_fn write, void *arg);

/**
 * Have each hub of the process do that in its next turn whenever the process gets `signal`;
 * a NULL `write` is standard error. It is called on each hub's thread, in none of its
 * coroutines, for one hub after the other. A hub that does not turn cannot answer: see
 * weir_watch_start().
 *
 * The handler that was there before is called too. A signal of 0 undoes it.
 *
 * Yields:  no.  Context: any thread, one at a time.
 * Returns: WEIR_OK; WEIR_USAGE for a signal that cannot be caught.
 */
WEIR_API weir_status weir_dump_on_signal(int signal, weir_write_fn write, void *arg,
                                         weir_error *err) WEIR_MUST_CHECK;

/**
 * Write the counts of this thread's hub, and of the process's threads for offloaded work and
 * names, as Prometheus text (exposition format 0.0.4).
 *
 * Yields:  no.  Context: a hub's thread; elsewhere only what is the process's is written.
 */
WEIR_API void weir_coro_metrics(weir_write_fn write, void *arg);

/* ---- who runs when ------------------------------------------------------------------ */

/*
 * Called whenever this hub's thread passes from one coroutine to another; NULL is the hub
 * itself, and `from` may just have ended. On the stack of whoever leaves: it must be brief, and
 * neither yield nor wake anybody.
 */
typedef void (*weir_switch_fn)(const weir_task *from, const weir_task *to, int64_t now_ns,
                               void *arg);

/**
 * From now on count the switches and run times of this hub's coroutines, and call `fn` (may
 * be NULL) at each switch. That is a reading of the clock (27 ns) a switch; without it
 * nothing is counted and it costs nothing.
 *
 * Yields:  no.  Context: the hub's thread.
 * Returns: WEIR_OK; WEIR_USAGE on a thread without a hub.
 */
WEIR_API weir_status weir_trace_start(weir_switch_fn fn, void *arg);
WEIR_API void        weir_trace_stop(void);

/** How often it was given the thread, and for how many nanoseconds, while that was counted. */
WEIR_API uint64_t weir_task_switches(const weir_task *task);
WEIR_API int64_t  weir_task_run_ns(const weir_task *task);

WEIR_END_DECLS

#endif
