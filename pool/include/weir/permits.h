/*
 * weir/permits.h - one limit on connections for several processes.
 *
 * Knows:   how many connections all pools that share it may have, which process has which.
 * Ignores: what they are connected to; descriptors (weir/budget.h).
 * Threads: any thread; the pools that use it stay on theirs.
 *
 * A server's max_connections is common to all its clients, but max_size is each pool's own.
 * Workers of one service, forked or started apart, share `count` permits through a file that
 * each of them maps: a connection has one from before its connect(2) until its last socket is
 * closed. What a killed process had, SIGKILL included, the others have within milliseconds.
 *
 *     weir_permits *permits = NULL;
 *     weir_permits_open(&(weir_permits_opts){ .count = 20 }, &permits, &err); before forking
 *     ...
 *     opts.pool.permits = permits;                                            in each worker
 */
#ifndef WEIR_PERMITS_H
#define WEIR_PERMITS_H

#include <weir/error.h>

WEIR_BEGIN_DECLS

typedef struct weir_permits weir_permits;

typedef struct weir_permits_opts {
    const char *path;  /* of the file they share, best in /run or /dev/shm; made where there is
                          none, mode 0600 (NULL: no file; for processes forked from this one) */
    unsigned    count; /* connections at most, of all pools together; a client of MongoDB is one,
                          whatever its sockets (as the file says, where there is one). At most
                          65,536 */
} weir_permits_opts;

/**
 * Get at the permits in a file, or make some.
 *
 * All who share them must be in one PID namespace, since a process is known by its number and
 * the time of its start; in one network namespace they hear of each other at once, else within
 * 0.1 s. Each pool is promised one permit, so there can be as many pools as permits.
 *
 * What counts as closed is the socket, as this process has it. A child of a fork has a copy of
 * it for the moment until it has let go (weir/pool.h); one that is closed without a farewell in
 * that very moment ends with that. So does one whose descriptor somebody else was given.
 *
 * The file stays when the last process has gone, and serves again, also after a reboot. To
 * change the count remove it while nobody uses it: who still does would count apart.
 *
 * Yields:  no.
 * Owner:   *out is yours until weir_permits_free(); NULL on failure.
 * Returns: WEIR_OK; WEIR_USAGE where the file cannot be opened, is no such file, has another
 *          count or belongs to another PID namespace, or where the kernel has no pidfd_open(2)
 *          (Linux 5.3); err->native is the errno, if there is one; WEIR_NOMEM.
 */
WEIR_API weir_status weir_permits_open(const weir_permits_opts *opts, weir_permits **out,
                                       weir_error *err) WEIR_MUST_CHECK;

/** Give up the handle; pools made with it keep what they need. NULL is fine. */
WEIR_API void weir_permits_free(weir_permits *permits);

typedef struct weir_permits_stats {
    unsigned count;   /* permits there are */
    unsigned used;    /* held by pools of living processes */
    unsigned pools;   /* that share them now */
    unsigned waiting; /* connections that wait for one, in all processes */
} weir_permits_stats;

/** The numbers of all processes, each by itself right, together those of nearly one moment. */
WEIR_API void weir_permits_read(const weir_permits *permits, weir_permits_stats *out);

WEIR_END_DECLS

#endif
