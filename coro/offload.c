/*
 * offload.c - weir_offload(), pools of threads, and jobs that are handed in and joined later.
 *
 * What a job is to a thread is crew.c's matter. Here is who owns one: a call's job stands on the
 * caller's stack, for the call does not return before the thread is done with it; one that
 * is handed in has memory of its own, which its owner frees, or leaves to the thread.
 */
#include "offload.h"

#include "hub.h"
#include "settings.h"

#include <stdlib.h>
#include <weir/offload.h>

struct crew crew_of_offloads = CREW_INIT(crew_of_offloads, "offload", CREW_LIMIT);

/* A pool is a crew, under the name that applications know. */
static struct crew *crew_of(weir_offload_pool *pool)
{
    return pool ? (struct crew *)pool : &crew_of_offloads;
}

/* ---- a call ----------------------------------------------------------------------------- */

weir_status weir_offload_in(weir_offload_pool *pool, void (*fn)(void *arg), void *arg,
                            weir_deadline deadline)
{
    if (!task_here() || crew_is_here()) {
        fn(arg);
        return WEIR_OK;
    }
    struct job job = { .run = fn, .arg = arg };
    return crew_do(crew_of(pool), &job, deadline);
}

weir_status weir_offload(void (*fn)(void *arg), void *arg, weir_deadline deadline)
{
    return weir_offload_in(NULL, fn, arg, deadline);
}

void weir_offload_limit(unsigned max_threads)
{
    settings_apply(); /* what the environment says comes first, and what the program says counts */
    crew_resize(&crew_of_offloads, max_threads ? max_threads : 1,
                crew_count(&crew_of_offloads).keep);
}

/* ---- a job ------------------------------------------------------------------------------ */

struct weir_job {
    struct job   job;
    struct crew *crew; /* NULL once it has nothing to do with it */
    bool         joined; /* somebody waits for it */
    bool         lost;   /* to a fork */
    void (*fn)(void *arg);
    void (*drop)(void *arg);
    void *arg;
};

static void run_job(void *arg)
{
    weir_job *job = arg;

    job->fn(job->arg);
}

static void drop_job(void *arg)
{
    weir_job *job = arg;

    if (job->drop)
        job->drop(job->arg);
    free(job);
}

weir_status weir_offload_spawn(weir_offload_pool *pool, void (*fn)(void *arg), void *arg,
                               weir_deadline deadline, weir_job **out, weir_error *err)
{
    weir_job   *job = calloc(1, sizeof *job);
    weir_status status;

    *out = NULL;
    if (!job)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a job");
    job->fn = fn;
    job->arg = arg;
    if (!task_here() || crew_is_here()) {
        fn(arg);
        *out = job;
        return WEIR_OK;
    }
    job->job.run = run_job;
    job->job.arg = job;
    job->crew = crew_of(pool);
    status = weir_check();
    if (status == WEIR_OK)
        status = crew_hand_in(job->crew, &job->job, deadline);
    if (status == WEIR_OK) {
        *out = job;
        return WEIR_OK;
    }
    free(job);
    if (status == WEIR_NOMEM)
        return weir_error_set(err, status, "no thread could be made for a job");
    return weir_error_set(err, status, "gave up waiting for a place in the line of jobs: %s",
                          weir_status_name(status));
}

/* Where no coroutine can wait. */
static weir_status block_a_while(weir_deadline deadline)
{
    weir_deadline now = weir_in_ms(0), soon = weir_in_ms(1);

    if (deadline.at_ns <= now.at_ns)
        return WEIR_TIMEOUT;
    return weir_sleep(soon.at_ns < deadline.at_ns ? soon : deadline);
}

/* The crew's part in it is over. */
static weir_status part(weir_job *job)
{
    if (job->crew && crew_end(job->crew, &job->job) == JOB_LOST)
        job->lost = true;
    job->crew = NULL;
    return job->lost ? WEIR_CLOSED : WEIR_OK;
}

weir_status weir_job_join(weir_job *job, weir_deadline deadline)
{
    weir_status status = WEIR_OK;

    if (!job->crew)
        return part(job);
    if (job->joined)
        return WEIR_BUSY;
    job->joined = true;
    if (task_here())
        status = crew_wait(job->crew, &job->job, deadline);
    while (!task_here() && !weir_job_done(job) && status == WEIR_OK)
        status = block_a_while(deadline);
    job->joined = false;
    return status == WEIR_OK ? part(job) : status;
}

bool weir_job_done(weir_job *job)
{
    return !job->crew || crew_state_of(job->crew, &job->job) > JOB_RUNNING;
}

void weir_job_free(weir_job *job)
{
    if (!job)
        return;
    (void)part(job);
    free(job);
}

void weir_job_leave(weir_job *job, void (*drop)(void *arg))
{
    if (!job)
        return;
    job->drop = drop;
    job->job.abandon = drop_job; /* its thread reads it only once the job is ABANDONED */
    if (!job->crew || crew_end(job->crew, &job->job) != JOB_ABANDONED)
        drop_job(job);
}

/* ---- a pool ----------------------------------------------------------------------------- */

weir_status weir_offload_pool_new(const weir_offload_opts *opts, weir_offload_pool **out,
                                  weir_error *err)
{
    weir_offload_opts o = opts ? *opts : (weir_offload_opts){ 0 };

    if (!out)
        return weir_error_set(err, WEIR_USAGE, "out is missing: where shall the pool go?");
    *out = NULL;
    o.max_threads = o.max_threads ? o.max_threads : CREW_LIMIT;
    o.max_queued = o.max_queued ? o.max_queued : CREW_ROOM;
    o.idle_ms = o.idle_ms ? o.idle_ms : CREW_LINGER_MS;
    if (o.min_threads > o.max_threads)
        return weir_error_set(err, WEIR_USAGE, "min_threads (%u) is more than max_threads (%u)",
                              o.min_threads, o.max_threads);
    if (o.idle_ms < WEIR_NEVER)
        return weir_error_set(err, WEIR_USAGE, "idle_ms is %lld; it can be 1 or more, 0 for %d, or "
                                               "WEIR_NEVER", (long long)o.idle_ms, CREW_LINGER_MS);
    *out = (weir_offload_pool *)crew_new(o.name ? o.name : "pool", o.max_threads, o.min_threads,
                                         o.max_queued, o.idle_ms);
    return *out ? WEIR_OK : weir_error_set(err, WEIR_NOMEM, "no memory for a pool of threads");
}

weir_status weir_offload_pool_resize(weir_offload_pool *pool, unsigned max_threads,
                                     unsigned min_threads, weir_error *err)
{
    if (!max_threads)
        return weir_error_set(err, WEIR_USAGE, "max_threads is 0: a pool has one thread at least");
    if (min_threads > max_threads)
        return weir_error_set(err, WEIR_USAGE, "min_threads (%u) is more than max_threads (%u)",
                              min_threads, max_threads);
    crew_resize(crew_of(pool), max_threads, min_threads);
    return WEIR_OK;
}

void weir_offload_pool_stats(weir_offload_pool *pool, weir_offload_stats *out)
{
    struct crew_count count = crew_count(crew_of(pool));

    *out = (weir_offload_stats){ .threads = count.threads,
                                 .idle = count.idle,
                                 .max_threads = count.limit,
                                 .min_threads = count.keep,
                                 .queued = count.queued,
                                 .waiting = count.waiting,
                                 .done = count.done,
                                 .left = count.abandoned,
                                 .threads_made = count.made };
}

void weir_offload_pool_free(weir_offload_pool *pool)
{
    if (pool)
        crew_let_go(crew_of(pool));
}
