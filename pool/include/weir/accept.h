/*
 * weir/accept.h - accepting clients, out of the same account of descriptors as connections.
 *
 * Knows:   that a client's socket is paid for before it exists (weir/budget.h).
 * Ignores: what is said on it.
 * Threads: the hub's own thread.
 *
 * A service that is out of descriptors leaves its clients in the kernel's queue, where they wait
 * at no cost, and serves those it has: it fails nobody, and does not spin on EMFILE.
 */
#ifndef WEIR_ACCEPT_H
#define WEIR_ACCEPT_H

#include <sys/socket.h>
#include <weir/budget.h>

WEIR_BEGIN_DECLS

typedef struct weir_accepted {
    int                     fd;    /* non-blocking, closed on exec; -1: none */
    weir_budget_token       token; /* what pays for it */
    socklen_t               peer_size;
    struct sockaddr_storage peer;  /* who it is, as from accept(2) */
} weir_accepted;

/**
 * Wait for a client of a listening socket and accept it. One descriptor of the budget is taken
 * first, in its one queue; while no client comes none is held. Where the kernel has no descriptor
 * in spite of that (EMFILE, ENFILE, ENOBUFS, ENOMEM) it waits until one was closed, or
 * 100 ms, and tries again. Errors that concern one client only (ECONNABORTED, and those of
 * the network that Linux passes on, see accept(2)) are passed over.
 *
 * `listener` must be non-blocking, since other threads or processes may be faster to the client;
 * one coroutine of a thread may wait for it. Close it with weir_close().
 *
 * Yields:  unless client and descriptor are there.
 * Context: a coroutine.
 * Owner:   *out is yours until weir_accepted_close(); its fd is -1 after a failure.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED: nobody was accepted, and nothing is held;
 *          WEIR_CLOSED where it was closed by weir_close() meanwhile; WEIR_BUSY where another
 *          coroutine waits for it; WEIR_USAGE where it does not listen, or blocks, or the budget
 *          could never have one more; err->native is the errno, if there is one.
 */
WEIR_API weir_status weir_accept(int listener, weir_deadline deadline, weir_accepted *out,
                                 weir_error *err) WEIR_MUST_CHECK;

/** Close it and give its descriptor back to the budget. Twice is harmless; does not yield. */
WEIR_API void weir_accepted_close(weir_accepted *accepted);

WEIR_END_DECLS

#endif
