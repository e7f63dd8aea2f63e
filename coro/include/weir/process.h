/*
 * weir/process.h - children and signals, for coroutines.
 *
 * Knows:   waiting for a child or a signal without blocking the hub; calling a function in a
 *          process of its own; what a fork leaves of a hub.
 * Ignores: what the child does.
 * Threads: a hub's own thread, unless a comment says otherwise.
 */
#ifndef WEIR_PROCESS_H
#define WEIR_PROCESS_H

#include <sys/types.h>
#include <weir/coro.h>
#include <weir/hub.h>

WEIR_BEGIN_DECLS

/* ---- waiting ------------------------------------------------------------------------ */

/**
 * Wait until the child `pid` has ended and reap it; *status (may be NULL) is as from
 * waitpid(2). It takes a descriptor meanwhile (pidfd_open(2), Linux 5.3).
 *
 * Yields:  unless it has ended already. Outside a coroutine it blocks.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED, where the child goes on and can be waited for
 *          again; WEIR_USAGE where it is no child of this process, or was reaped by another;
 *          WEIR_NOMEM where there is no descriptor left.
 */
WEIR_API weir_status weir_waitpid(pid_t pid, weir_deadline deadline, int *status, weir_error *err);

/**
 * Block signals in this thread and those it will make, so that they can be waited for: call it in
 * main(), before any thread is made (as pthread_sigmask(3) would; a program that is exec'ed
 * inherits it).
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE where one is no signal, or cannot be blocked.
 */
WEIR_API weir_status weir_signal_block(const int *signals, unsigned count, weir_error *err);

/* One that was taken. */
typedef struct weir_signal {
    int   number;
    pid_t pid;    /* who sent it; 0: the kernel; for SIGCHLD the child */
    int   status; /* for SIGCHLD: its exit status, or the signal that ended it */
} weir_signal;

/**
 * Wait for one of `count` signals and take it; *out (may be NULL) says which and from whom.
 *
 * They must be blocked: see weir_signal_block(). Then one that comes while nobody waits is kept by
 * the kernel (once, however many came), and waiting never misses one. Of several coroutines
 * that wait for the same signal one gets it. Don't ask for SIGTERM or SIGINT together with
 * weir_run_opts.cancel_on_signals. It takes a descriptor meanwhile.
 *
 * Yields:  unless one is pending. Outside a coroutine it blocks.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED; WEIR_USAGE where one of them is no signal, or not
 *          blocked in this thread; WEIR_NOMEM where there is no descriptor left.
 */
WEIR_API weir_status weir_signal_wait(const int *signals, unsigned count, weir_deadline deadline,
                                      weir_signal *out, weir_error *err);

/* ---- a function in a process of its own --------------------------------------------- */

/*
 * It writes at most `out_room` bytes to `out`, and returns how many; a negative number says that
 * it failed. `in` is a copy of the caller's bytes.
 */
typedef ssize_t (*weir_process_fn)(const void *in, size_t in_size, void *out, size_t out_room);

typedef struct weir_process_call {
    weir_process_fn fn;
    const void     *in;
    size_t          in_size;
    void           *out;
    size_t          out_room;

    size_t out_size;    /* what came of it: bytes written; */
    pid_t  pid;         /* which process it was (0: there was none), */
    int    wait_status; /* and how it ended, as from waitpid(2) */
} weir_process_call;

/**
 * Call a function in a helper process, and wait for what it writes: for code that may crash, that
 * must be stopped when it takes too long, or that no two threads may run. At most
 * weir_process_limit() helpers (10) run at once; callers beyond that wait in order.
 *
 * The helper is forked for this call alone, from a small fork server that was forked from this
 * process once, by weir_process_start() or by the first call. It is this program as it was
 * then, with the same functions and data at the same addresses; a library loaded since is
 * loaded there too. Of descriptors it has 0 (/dev/null), 1 and 2, so what it says on stderr is
 * seen; no other one is open. It has one thread, no coroutine and all signals by default. exit(3)
 * in it runs the program's handlers; returning from fn does not. A call made in it
 * runs fn at once, where it is.
 *
 * Who gives up, by deadline or cancel, has it killed (SIGKILL, with the processes it started, as
 * far as they stayed in its process group), and is back when it is gone; a result that was there
 * already is told instead. All helpers are killed when this process ends, however that is.
 *
 * It takes three descriptors while it begins, then one; the fork server one more for the process's
 * life. They are not taken from the budget of weir/budget.h, which is a layer above: who calls
 * this often takes them there. The hub stands still while bytes are copied, so 1 GiB each way
 * is the most, and much less is better.
 *
 * Yields:  yes; the first call forks before it does, see weir_process_start(). Outside a
 *          coroutine it blocks.
 * Context: any thread.
 * Owner:   `call`, `in` and `out` are yours; nobody else touches them.
 * Returns: WEIR_OK; WEIR_FAILED where the function returned a negative number (native: the
 *          positive one), or its process ended before it had returned, by a signal (native, named
 *          in the message) or by exit (native: the status); WEIR_TIMEOUT, WEIR_CANCELED;
 *          WEIR_LOST where the fork server was killed; WEIR_NOMEM (a process, memory, a
 *          descriptor; native: the errno); WEIR_USAGE.
 */
WEIR_API weir_status weir_offload_process(weir_process_call *call, weir_deadline deadline,
                                          weir_error *err);

/**
 * Fork the fork server now. Call it in main(), before any thread is made: in the child of a
 * process with threads, a lock that one of them held stays held for ever. Without it the
 * first weir_offload_process() forks it, and refuses (WEIR_USAGE) where there are threads that
 * are not weir's own idle ones.
 *
 * Yields:  no. It blocks for as long as a fork of this process takes.
 * Context: any thread.
 * Returns: WEIR_OK, also where there is one; WEIR_NOMEM (native: the errno).
 */
WEIR_API weir_status weir_process_start(weir_error *err);

/** Set how many helpers may run at once: 1 to 256. Any thread, at any time. */
WEIR_API void weir_process_limit(unsigned max_at_once);

typedef struct weir_process_stats {
    pid_t    server;                       /* the fork server; 0: there is none */
    unsigned running, waiting, max_running; /* helpers; callers that wait for a place */
    uint64_t done, failed, killed;         /* calls: that returned; that did not; given up */
} weir_process_stats;

/** Yields: no.  Context: any thread. */
WEIR_API void weir_process_stats_read(weir_process_stats *out);

/* ---- fork --------------------------------------------------------------------------- */

/**
 * fork(2). What follows holds for a plain fork() too, which weir hears of by pthread_atfork(3).
 *
 * The parent is not touched. In the child only the caller goes on, as the main coroutine of a
 * hub of its own: when it ends, and everything it spawned there, weir_run() returns its result
 * in the child (most will rather end by _exit(2)). All other coroutines are gone without
 * having run on: no exit hook of theirs runs, their groups count them as WEIR_CANCELED, and what
 * they held or queued for (a mutex, a semaphore, a channel) stays as it was: make new ones.
 * No alarm is set and no descriptor watched. Threads for offloaded work are made anew; hubs of
 * other threads are gone, as their threads are. Hooks of weir_hub_end_hook_add() are dropped,
 * for what they would close is the parent's: see weir_fork_hook_add().
 *
 * Inside an attached hub the loop is told (ev_loop_fork). Who forks in an offloaded function must
 * not return from it in the child: nobody waits there. A fork that only execs had better be
 * posix_spawn(3), which calls no handlers.
 *
 * Yields:  no.
 * Context: a coroutine; or where there is no hub.
 * Returns: as fork(2); -1 and errno EPERM on the stack of weir_run()'s hub itself (an alarm, a
 *          callback of weir_fd_watch()), where no coroutine could go on.
 */
WEIR_API pid_t weir_fork(void);

/**
 * Call hook->fn in the child of each fork, on the thread that forked, once its hub is fresh: for
 * a pool to close the sockets it inherited without a byte, and to forget its waiters and alarms. It
 * may set alarms and add end hooks, and must not yield. Not called in children of forks
 * that other threads make. Removed by weir_exit_hook_remove().
 *
 * Context: the hub's thread.
 */
WEIR_API void weir_fork_hook_add(weir_exit_hook *hook);

/**
 * Leave the children of forks alone from now on: they must not use weir, only exec or _exit.
 * For a service that forks often and has very many coroutines, each of which costs the child
 * a few memory writes. Any thread.
 */
WEIR_API void weir_fork_ignore(void);

WEIR_END_DECLS

#endif
