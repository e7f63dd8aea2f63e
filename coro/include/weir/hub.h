/*
 * weir/hub.h - what the pool and the drivers are built from, and your own primitives can be.
 *
 * Knows:   parking and waking, the turn's clock, alarms, exit hooks, coroutines kept in
 *          reserve, descriptors that stay watched.
 * Ignores: what any of it is for.
 * Threads: the hub's own thread, unless a comment says otherwise.
 *
 * A hub runs in turns: it runs everybody who is ready, then asks the loop who became ready.
 * The clock is read once a turn; weir_now() is that reading.
 */
#ifndef WEIR_HUB_H
#define WEIR_HUB_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

typedef struct weir_hub weir_hub;

/** This thread's hub, NULL where there is none. Any thread. */
WEIR_API weir_hub *weir_hub_here(void);
WEIR_API weir_hub *weir_task_hub(const weir_task *task);

/** Nanoseconds of the monotonic clock at the start of this turn (read anew without a hub). */
WEIR_API int64_t weir_now(void);

/* ---- park and wake ------------------------------------------------------------------ */

/* A ticket for one park of one coroutine. A wake with an old one does nothing. */
typedef struct weir_waker {
    weir_task *task;
    uint64_t   token;
} weir_waker;

/** A ticket for the caller's next park. A wake between the two is not lost. */
WEIR_API weir_waker weir_waker_new(void);

/**
 * Sleep until woken with the latest ticket. `why` says what for, in reports; it must live
 * for ever.
 *
 * Yields:  unless woken already, late or cancelled.
 * Context: a coroutine that may yield (not an exit hook or a local's destructor).
 * Returns: WEIR_OK when woken; WEIR_TIMEOUT; WEIR_CANCELED. When a wake and a cancel or
 *          deadline fall into the same turn, the wake is told.
 */
WEIR_API weir_status weir_park(weir_deadline deadline, const char *why);
WEIR_API void        weir_wake(weir_waker waker);

/** What a park with this deadline would say before it slept, by the turn's clock. */
WEIR_API weir_status weir_pending(weir_deadline deadline);

/** The same from any thread, for as long as the hub runs. */
WEIR_API void weir_wake_remote(weir_waker waker);

/**
 * Report work that did not need to wait. After 2,048 units without a real wait the caller
 * gives way to the loop, so that nobody starves behind someone who is always served at once.
 *
 * Yields:  now and then; at once does nothing outside a coroutine.
 */
enum { WEIR_UNITS = 2048, WEIR_IO_UNITS = 32 };
WEIR_API void weir_spend(unsigned units);

/* ---- alarms ------------------------------------------------------------------------- */

/* Calls fn on the hub's own stack, where nothing may yield. Embed it; zero is "not set". */
typedef struct weir_alarm {
    int64_t  at_ns;
    unsigned slot; /* place in the hub's heap, counted from 1; 0: not set */
    unsigned order;
    void (*fn)(struct weir_alarm *alarm);
} weir_alarm;

WEIR_API void weir_alarm_set(weir_alarm *alarm, int64_t at_ns,
                             void (*fn)(weir_alarm *alarm)); /* again: moves it */
WEIR_API void weir_alarm_stop(weir_alarm *alarm);

/**
 * Make sure that `count` more alarms can be set without memory: an object that embeds one
 * reserves it when it is made and gives it back when it ends (count of -1).
 */
WEIR_API weir_status weir_alarm_reserve(int count);

/* ---- exit hooks --------------------------------------------------------------------- */

/* Runs when its coroutine ends, however that is, and must not yield. Embed it. */
typedef struct weir_exit_hook {
    struct weir_exit_hook *prev, *next;
    void (*fn)(struct weir_exit_hook *hook);
} weir_exit_hook;

WEIR_API void weir_exit_hook_add(weir_task *task, weir_exit_hook *hook);
WEIR_API void weir_exit_hook_remove(weir_exit_hook *hook); /* before it has run */

/** How many of a task's hooks that call `fn` also satisfy `which` (NULL: all of them do). */
WEIR_API unsigned weir_exit_hook_count(const weir_task *task, void (*fn)(weir_exit_hook *),
                                       bool (*which)(const weir_exit_hook *hook, void *arg),
                                       void *arg);

/**
 * Run the hook when the hub ends: in a coroutine that may yield, after `app` and everything
 * spawned have ended, latest first. For what must not be left open, such as a pool.
 */
WEIR_API void weir_hub_end_hook_add(weir_exit_hook *hook);

/* ---- coroutines in reserve ---------------------------------------------------------- */

/**
 * A coroutine whose memory is taken now, so that starting it later cannot fail: for clean-up
 * that must not depend on anything. When its function returns it is in reserve again.
 *
 * weir_run() does not wait for one that is started; whoever owns it does.
 */
WEIR_API weir_status weir_reserve_new(const char *name, weir_task **out,
                                      weir_error *err) WEIR_MUST_CHECK;
WEIR_API void        weir_reserve_start(weir_task *task, weir_fn fn, void *arg);
WEIR_API bool        weir_reserve_busy(const weir_task *task);
WEIR_API void        weir_reserve_free(weir_task *task); /* idle, or by itself: then it goes when
                                                            its function returns; NULL is fine */

/* ---- descriptors -------------------------------------------------------------------- */

/**
 * Keep `fd` watched for reading and call fn(fd, arg) on the hub's own stack whenever it is
 * readable (or at its end) and no coroutine waits for it; a NULL fn ends that. The watch
 * survives waits, so that a connection costs no system call to watch between them.
 *
 * fn gets one call; unless it, or a wait, comes back for more, the descriptor is quiet.
 */
WEIR_API weir_status weir_fd_watch(int fd, void (*fn)(int fd, void *arg), void *arg);

/**
 * The same for a stream whose reader knows when he has read all that came: after a read(2) that
 * gave less than it was asked for, or failed with EAGAIN. Where he says so, by waiting for
 * WEIR_READ | WEIR_DRAINED, the wait costs no system call, and the kernel is spared looking once
 * more at what was read already: some 3 % of its work for a short query. A wait without the flag
 * looks first, for one system call, and so must the next one of a reader who was told of
 * something and did not read. The other side's end is told to fn too, also where a reader was told
 * of it together with bytes.
 */
WEIR_API weir_status weir_fd_watch_edge(int fd, void (*fn)(int fd, void *arg), void *arg);
enum { WEIR_DRAINED = 4 };

/** Stop everything about `fd`, before someone else closes it. Waiters get WEIR_CLOSED. */
WEIR_API void weir_fd_forget(int fd);

WEIR_END_DECLS

#endif
