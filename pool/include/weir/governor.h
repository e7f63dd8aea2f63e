/*
 * weir/governor.h - how many connections the whole process may be opening, and how fast.
 *
 * Knows:   that somebody wants to connect, and how many are at it.
 * Ignores: to what, and how many connections there are (weir/pool.h, weir/budget.h).
 * Threads: one governor for the process; waiting happens on each pool's own hub.
 *
 * Each pool has its own max_connecting and its own pause after failures. A process with many pools
 * still meets a server that comes back, or its proxy, with the sum of them. The governor limits
 * that sum. It is off until it is set.
 */
#ifndef WEIR_GOVERNOR_H
#define WEIR_GOVERNOR_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

/* Zero in a field: no such limit. */
typedef struct weir_governor_opts {
    unsigned max_connecting; /* attempts under way at once, of all pools */
    unsigned per_second;     /* attempts begun, of all pools; evenly spaced, but for: */
    unsigned burst;          /* attempts that may begin at once after a rest (1) */
} weir_governor_opts;

typedef struct weir_governor_stats {
    unsigned connecting; /* attempts under way that it let through */
    unsigned waiting;    /* attempts it holds back now */
    uint64_t begun;      /* let through, since the process began */
    uint64_t held_back;  /* of those, had to wait */
} weir_governor_stats;

/**
 * Limit the connects of all pools; NULL, or all zero, lifts the limits. Attempts under way are not
 * touched, and those begun while there was no limit not counted.
 *
 * Pools take turns, in the order in which they came; within a pool it is first come, first served.
 * An attempt waits here last, when it has its place under max_size, its pool's connecting permit
 * and its descriptors; who was let through waits for none of those any more. So it cannot come to
 * a standstill with them. The time counts neither for connect_timeout_ms nor against the server;
 * callers wait as they do for any connect.
 *
 * Yields:  no.
 * Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE for a burst without per_second, or above a million per second.
 */
WEIR_API weir_status weir_governor_set(const weir_governor_opts *opts, weir_error *err)
    WEIR_MUST_CHECK;

/** What it does now. Any thread; does not yield. */
WEIR_API void weir_governor_read(weir_governor_stats *out);

WEIR_END_DECLS

#endif
