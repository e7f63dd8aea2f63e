/*
 * weir/budget.h - one account of file descriptors for the whole process.
 *
 * Knows:   how many descriptors weir may hold, who holds them, who waits for one.
 * Ignores: what a descriptor is for.
 * Threads: the count is the process's; waiting happens on the caller's hub.
 *
 * Every pool pays for its sockets here before it opens them; a service pays for its own with
 * weir_budget_take(). When the account is empty callers wait their turn, in one queue: that
 * is why writers cannot outrun descriptors. The child of a fork has an account of its own: tokens
 * are counted on, as their descriptors are open there too.
 */
#ifndef WEIR_BUDGET_H
#define WEIR_BUDGET_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

typedef struct weir_budget_opts {
    unsigned limit;   /* descriptors to share out (RLIMIT_NOFILE less what is open, less reserve) */
    unsigned reserve; /* kept back for name lookups, TLS files, logs (a tenth of RLIMIT_NOFILE,
                         at least 8, at most 64) */
    bool     raise;   /* first raise the soft RLIMIT_NOFILE to the hard one, for the whole process
                         and those it starts. Not where select(2) is used: it cannot tell of
                         descriptors above 1,023 (off) */
} weir_budget_opts;

typedef struct weir_budget_stats {
    unsigned limit;      /* descriptors shared out at most */
    unsigned used;       /* held now, by pools and by tokens */
    unsigned floors;     /* promised to pools that do not use them now */
    unsigned waiting;    /* requests queued */
    unsigned peak;       /* most that were ever held */
    uint64_t waited;     /* requests that had to queue */
    uint64_t evictions;  /* idle connections closed to make room */
    uint64_t exhausted;  /* times the kernel itself had no descriptor (EMFILE, ENFILE, ...) */
} weir_budget_stats;

/**
 * Set the account's size. Without this call it is worked out when first needed; an
 * RLIMIT_NOFILE changed later, or descriptors opened elsewhere, are noticed only here.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE where the limit does not cover what is in use or promised;
 *          WEIR_FAILED where the kernel would not raise RLIMIT_NOFILE. Nothing is changed then.
 */
WEIR_API weir_status weir_budget_set(const weir_budget_opts *opts, weir_error *err)
    WEIR_MUST_CHECK;

/* Descriptors taken from the account by weir_budget_take. */
typedef struct weir_budget_token {
    unsigned descriptors;
} weir_budget_token;

/**
 * Take `descriptors` from the account, waiting in the process's one queue when it is short.
 *
 * Yields:  unless they are there.
 * Context: a coroutine.
 * Owner:   give the token back once the descriptors are closed.
 * Returns: WEIR_OK, WEIR_TIMEOUT, WEIR_CANCELED, WEIR_USAGE (more than could ever be had).
 */
WEIR_API weir_status weir_budget_take(unsigned descriptors, weir_deadline deadline,
                                      weir_budget_token *out, weir_error *err)
    WEIR_MUST_CHECK;
WEIR_API void weir_budget_give(weir_budget_token *token); /* empties it; NULL is fine */

WEIR_API void weir_budget_read(weir_budget_stats *out);

WEIR_END_DECLS

#endif
