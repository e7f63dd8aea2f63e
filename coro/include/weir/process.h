/*
 * weir/process.h - children and signals, for coroutines.
 *
 * Knows:   waiting for a child or a signal without blocking the hub; what a fork leaves of a hub.
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
