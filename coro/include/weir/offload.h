/*
 * weir/offload.h - blocking work on threads of its own pools, and how names are kept.
 *
 * Knows:   pools of threads beside the one of weir_offload(), jobs handed in and joined later,
 *          the cache behind weir_resolve().
 * Ignores: what the work is. Work in another process: weir/process.h.
 * Threads: pools are the process's: any thread's coroutines may use one. A job belongs to the
 *          hub that handed it in.
 *
 * A thread at work cannot be interrupted. Whoever gives up on a job that has begun either waits
 * for it all the same, since what `arg` points to is still in use (weir_offload_in,
 * weir_job_free), or leaves it to the thread, with a function that disposes of `arg`
 * (weir_job_leave). Work that must be stopped belongs into a process: weir_offload_process().
 *
 * An offloaded function may offload: it is on a thread of its own already, so the inner call
 * runs at once, where it is, whatever pool it names.
 */
#ifndef WEIR_OFFLOAD_H
#define WEIR_OFFLOAD_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

/* ---- pools ------------------------------------------------------------------------------ */

typedef struct weir_offload_pool weir_offload_pool; /* NULL: the one of weir_offload() */

typedef struct weir_offload_opts { /* zero in a field means its default */
    const char *name;        /* in metrics ("pool"); copied */
    unsigned    max_threads; /* at once (10) */
    unsigned    min_threads; /* that stay though idle; they too are made when needed (0) */
    int64_t     idle_ms;     /* one that is idle for longer ends (5 s; WEIR_NEVER: it stays) */
    unsigned    max_queued;  /* jobs in line for a thread; whoever hands in another one waits
                                until there is a place (64) */
} weir_offload_opts;

/**
 * Make a pool. No thread is made yet.
 *
 * Yields:  no.  Context: any thread.
 * Owner:   *out is yours, until weir_offload_pool_free().
 * Returns: WEIR_OK; WEIR_USAGE where min_threads is above max_threads, or idle_ms is below
 *          WEIR_NEVER; WEIR_NOMEM.
 */
WEIR_API weir_status weir_offload_pool_new(const weir_offload_opts *opts, weir_offload_pool **out,
                                           weir_error *err) WEIR_MUST_CHECK;

/**
 * Change how many threads there may be, and how many stay, from now on. Those too many end once
 * they are done with what they do; where there are more now, jobs in line begin at once.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE where max_threads is 0 or below min_threads.
 */
WEIR_API weir_status weir_offload_pool_resize(weir_offload_pool *pool, unsigned max_threads,
                                              unsigned min_threads, weir_error *err);

typedef struct weir_offload_stats {
    unsigned threads, idle, max_threads, min_threads; /* now; idle ones are among threads */
    unsigned queued;       /* jobs in line, */
    unsigned waiting;      /* and those for which the line had no place */
    uint64_t done;         /* jobs, since the pool was made */
    uint64_t left;         /* of those, or still at work: left by their callers */
    uint64_t threads_made;
} weir_offload_stats;

/** Yields: no.  Context: any thread. */
WEIR_API void weir_offload_pool_stats(weir_offload_pool *pool, weir_offload_stats *out);

/**
 * Let go of a pool, which must not be named again. It waits for nothing: what was handed in is
 * still done, and its callers are told; then its threads end. NULL is fine.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API void weir_offload_pool_free(weir_offload_pool *pool);

static inline void weir_offload_pool_cleanup_(weir_offload_pool **pool)
{
    weir_offload_pool_free(*pool);
}

/** weir_offload() on a pool of your own. */
WEIR_API weir_status weir_offload_in(weir_offload_pool *pool, void (*fn)(void *arg), void *arg,
                                     weir_deadline deadline);

/* ---- jobs ------------------------------------------------------------------------------- */

typedef struct weir_job weir_job;

/**
 * Hand in fn(arg), and go on: join it later. Where max_queued jobs are in line already the
 * caller waits, in order, until there is a place; so a fast producer cannot outrun the threads.
 *
 * `deadline` is for the place, not for the job; a job that got none never begins.
 *
 * Yields:  only for a full line. On a thread of a pool, or outside a coroutine, fn runs at once.
 * Owner:   *out is yours, until weir_job_free() or weir_job_leave(); NULL on failure. `arg` must
 *          be there until then, or until the job is done.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED; WEIR_NOMEM (memory, or not one thread).
 */
WEIR_API weir_status weir_offload_spawn(weir_offload_pool *pool, void (*fn)(void *arg), void *arg,
                                        weir_deadline deadline, weir_job **out,
                                        weir_error *err) WEIR_MUST_CHECK;

/**
 * Wait until the job is done. It stays yours.
 *
 * Yields:  unless it is done. Outside a coroutine it blocks.
 * Returns: WEIR_OK when fn has returned; WEIR_TIMEOUT, WEIR_CANCELED of this wait: the job goes on,
 *          and can be joined again; WEIR_BUSY where another coroutine is joining it; WEIR_CLOSED
 *          in the child of a fork, where its thread is not.
 */
WEIR_API weir_status weir_job_join(weir_job *job, weir_deadline deadline);
WEIR_API bool        weir_job_done(weir_job *job);

/**
 * Free the job. One that has not begun never will; one at work is waited for, shielded: neither a
 * cancel nor a deadline cuts it short, for `arg` is in use. NULL is fine.
 *
 * Yields:  only for one at work.
 */
WEIR_API void weir_job_free(weir_job *job);

/**
 * Give the job up, without waiting: drop(arg) (NULL: nothing) is called once fn has returned, on
 * its thread; at once, here, where it has returned already or never began. The result is lost.
 *
 * Yields:  no.  Owner: the job and `arg` are not the caller's any more.
 */
WEIR_API void weir_job_leave(weir_job *job, void (*drop)(void *arg));

static inline void weir_job_cleanup_(weir_job **job)
{
    weir_job_free(*job);
}

/* ---- names ------------------------------------------------------------------------------ */

/*
 * weir_resolve() keeps what it was told, for the whole process. getaddrinfo(3) does not say how
 * long an answer holds, so none is kept for longer than 30 s.
 */
typedef struct weir_resolve_opts { /* zero in a field means its default */
    int64_t  keep_ms;        /* an answer (30 s, which is the most) */
    int64_t  keep_failed_ms; /* that there is no such name (1 s). Other failures are never kept */
    unsigned max_names;      /* kept at most; the one asked for longest ago goes (256) */
    unsigned max_threads;    /* lookups at once (2) */
    bool     keep_nothing;   /* ask each time; askers of the same moment still share a lookup */
} weir_resolve_opts;

/**
 * Set how names are kept, from now on; what was kept is forgotten. NULL: the defaults.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE where a time is negative or above 30 s.
 */
WEIR_API weir_status weir_resolve_set(const weir_resolve_opts *opts, weir_error *err);

/**
 * Forget what is kept of a host (as it was written; NULL: of all): it is looked up anew when it is
 * asked for next. Lookups that are under way are told to who waits, and not kept.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API void weir_resolve_forget(const char *host);

typedef struct weir_resolve_stats {
    unsigned known, asking; /* names kept; names being looked up */
    uint64_t asked;         /* lookups done, */
    uint64_t kept;          /* askers who were told what was kept, */
    uint64_t shared;        /* and who joined somebody else's lookup */
} weir_resolve_stats;

/** Yields: no.  Context: any thread. */
WEIR_API void weir_resolve_stats_read(weir_resolve_stats *out);

WEIR_END_DECLS

#endif
