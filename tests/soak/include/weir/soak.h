/*
 * weir/soak.h - soak a handler of your own: does it leave anything behind?
 *
 * Knows:   descriptors, leases and connections before and after; who opened or took what is left.
 * Ignores: what the handler does, and whether its answers are right.
 *
 * For test programs. Link weir::soak in front of other libraries: it puts functions of its own
 * in the place of open(), socket(), close() and their kin, in the whole program, to know who has
 * opened what. They do what libc's do.
 */
#ifndef WEIR_SOAK_H
#define WEIR_SOAK_H

#include <weir/pool.h>

WEIR_BEGIN_DECLS

/* Zero in a field means its default, WEIR_NEVER in an `int` none at all. */
typedef struct weir_soak_opts {
    void             *arg;         /* for fn */
    weir_pool *const *pools;       /* that fn uses; borrowed (none) */
    size_t            pool_count;
    uint64_t          lives;       /* how often fn runs (10,000) */
    unsigned          concurrency; /* at once (100) */

    int cancels;   /* of 100 lives so many are cancelled at some moment (10) */
    int deadlines; /* so many get a deadline that passes at some moment (10) */
    int forgets;   /* so many don't run fn, but take a lease and forget it, so that its connection
                      is closed (2; needs a pool) */

    uint64_t seed;        /* of the moments (1) */
    int64_t  patience_ms; /* a life, or the end of everything, may take so long (10 s) */
    bool     may_fail;    /* lives that nobody disturbs may return something else than WEIR_OK */

    void (*tell)(const char *line, void *arg); /* gets each finding, and the sums at the end
                                                  (standard error) */
    void *tell_arg;
} weir_soak_opts;

/**
 * Run fn(opts->arg) in many coroutines, some of which are cancelled or run out of time in the
 * middle, among others that forget a lease; then compare what is open with what was open before.
 * Some lives come first that are not disturbed, so that what a program opens once does not count.
 *
 * A finding names the place: of a lease that was not given back where it was taken; of a
 * descriptor where it was opened, by file and line where the program has debug information and
 * addr2line (Debian: binutils) is there, else by function or address. What only libc itself opens
 * (as opendir does) is told by its kind alone. What weir logs as an error is a finding, too: a lease
 * that is given back twice, a client that is used after its lease.
 *
 * While it runs weir's log is read here and goes nowhere else; afterwards it goes to standard
 * error, at WARN, whatever weir_log_set() had said before.
 *
 * Yields:  yes. Looking up a place blocks the thread, in a soak that has failed.
 * Context: a coroutine. One soak at a time in a process.
 * Returns: WEIR_OK where nothing was left behind; WEIR_FAILED with the first finding in *err;
 *          WEIR_USAGE; WEIR_NOMEM; WEIR_CANCELED, WEIR_TIMEOUT of the caller: nothing is known.
 */
WEIR_API weir_status weir_soak(weir_fn fn, const weir_soak_opts *opts, weir_error *err)
    WEIR_MUST_CHECK;

WEIR_END_DECLS

#endif
