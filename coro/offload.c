/*
 * offload.c - the crews, and weir_offload().
 *
 * A crew is the process's, not a hub's: threads are made when a job finds none idle, and end
 * when they have been idle for a while. A result wakes its coroutine through the hub's list
 * of wakes from other threads, so many results at once cost one wake-up of the loop.
 */
#include "offload.h"

#include "hub.h"

#include <signal.h>
#include <time.h>

static __thread bool on_crew_thread;

static bool crew_is_here(void)
{
    return on_crew_thread;
}

/* ---- the threads -------------------------------------------------------------------- */

/* Under the lock, which is let go meanwhile. False when the thread should end. */
static bool wait_for_work(struct crew *crew)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += crew->linger_ms / 1000;
    while (list_empty(&crew->queue)) {
        if (crew->threads > crew->limit)
            return false;
        crew->idle++;
        int late = pthread_cond_timedwait(&crew->work, &crew->lock, &until);
        crew->idle--;
        if (late && list_empty(&crew->queue))
            return false;
    }
    return crew->threads <= crew->limit;
}

/* Under the lock, as all of these. */
static void put_in_line(struct crew *crew, struct job *job)
{
    job->state = JOB_QUEUED;
    list_append(&crew->queue, &job->link);
    crew->queued++;
}

static void take_out_of_line(struct crew *crew, struct job *job)
{
    list_unlink(&job->link);
    crew->queued--;
}

static void do_one(struct crew *crew, struct job *job)
{
    take_out_of_line(crew, job);
    job->state = JOB_RUNNING;
    pthread_mutex_unlock(&crew->lock);

    job->run(job->arg);

    pthread_mutex_lock(&crew->lock);
    if (job->state == JOB_ABANDONED) {
        pthread_mutex_unlock(&crew->lock);
        job->abandon(job->arg);
        pthread_mutex_lock(&crew->lock);
        return;
    }
    job->state = JOB_DONE;
    weir_wake_remote(job->waker); /* the job is its owner's from here on */
}

static void *work(void *arg)
{
    struct crew *crew = arg;

    on_crew_thread = true;
    pthread_mutex_lock(&crew->lock);
    while (wait_for_work(crew))
        do_one(crew, LIST_OF(list_first(&crew->queue), struct job, link));
    crew->threads--;
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* Under the lock. Signals are for the application's threads. */
static bool add_thread(struct crew *crew)
{
    pthread_t      thread;
    pthread_attr_t attr;
    sigset_t       all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    bool made = pthread_create(&thread, &attr, work, crew) == 0;
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (made)
        crew->threads++;
    return made;
}

/* ---- a job -------------------------------------------------------------------------- */

static weir_status hand_in(struct crew *crew, struct job *job)
{
    weir_status status = WEIR_OK;

    pthread_mutex_lock(&crew->lock);
    put_in_line(crew, job);
    /* An idle thread that was signalled stays idle until it has the lock: the jobs that wait
       for one are counted too, or several would be left to a single thread. */
    if (crew->idle >= crew->queued)
        pthread_cond_signal(&crew->work);
    else if (crew->threads < crew->limit && !add_thread(crew) && !crew->threads) {
        take_out_of_line(crew, job);
        status = WEIR_NOMEM;
    }
    pthread_mutex_unlock(&crew->lock);
    return status;
}

/* The wait ended early. What was the job doing? One that is abandoned here must not be
   touched any more: its thread frees it. */
static enum job_state take_back(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    enum job_state state = job->state;
    if (state == JOB_QUEUED)
        take_out_of_line(crew, job);
    else if (state == JOB_RUNNING && job->abandon)
        state = job->state = JOB_ABANDONED;
    pthread_mutex_unlock(&crew->lock);
    return state;
}

static bool is_done(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    bool done = job->state == JOB_DONE;
    pthread_mutex_unlock(&crew->lock);
    return done;
}

static weir_status do_and_wait(struct crew *crew, struct job *job, weir_deadline deadline)
{
    job->waker = weir_waker_new();
    if (hand_in(crew, job) != WEIR_OK)
        return WEIR_NOMEM;

    weir_status status = weir_park(deadline, "a thread's work");
    if (status == WEIR_OK)
        return WEIR_OK;
    switch (take_back(crew, job)) {
    case JOB_QUEUED: /* it never began */
        if (job->abandon)
            job->abandon(job->arg);
        return status;
    case JOB_ABANDONED:
        return status;
    case JOB_RUNNING:
    case JOB_DONE:
        break;
    }

    WEIR_SHIELD(WEIR_FOREVER);
    for (;;) {
        weir_waker mine = weir_waker_new();
        pthread_mutex_lock(&crew->lock);
        job->waker = mine;
        pthread_mutex_unlock(&crew->lock);
        if (is_done(crew, job))
            return WEIR_OK;
        (void)weir_park(WEIR_FOREVER, "a thread's work");
    }
}

weir_status crew_do(struct crew *crew, struct job *job, weir_deadline deadline)
{
    weir_hub *hub = hub_here_;

    hub->abroad++;
    weir_status status = do_and_wait(crew, job, deadline);
    hub->abroad--;
    return status;
}

/* ---- all of them ------------------------------------------------------------------------ */

static struct crew *const crews[] = { &crew_of_offloads, &crew_of_resolvers };

enum { CREWS = sizeof crews / sizeof *crews };

struct crew_count crew_count(struct crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    struct crew_count count = { crew->threads, crew->idle, crew->queued, crew->limit };
    pthread_mutex_unlock(&crew->lock);
    return count;
}

void crews_hold(void)
{
    for (int i = 0; i < CREWS; i++)
        pthread_mutex_lock(&crews[i]->lock);
}

void crews_let_go(void)
{
    for (int i = CREWS - 1; i >= 0; i--)
        pthread_mutex_unlock(&crews[i]->lock);
}

/* The condition too: glibc's counts who waits on it, and they are not here. */
void crews_forked(void)
{
    for (int i = 0; i < CREWS; i++) {
        struct crew *crew = crews[i];
        pthread_mutex_init(&crew->lock, NULL);
        pthread_cond_init(&crew->work, NULL);
        list_init(&crew->queue);
        crew->threads = crew->idle = crew->queued = 0;
    }
    on_crew_thread = false;
}

/* ---- weir_offload ------------------------------------------------------------------- */

struct crew crew_of_offloads = CREW_INIT(crew_of_offloads, 8);

weir_status weir_offload(void (*fn)(void *arg), void *arg, weir_deadline deadline)
{
    if (!task_here() || crew_is_here()) {
        fn(arg);
        return WEIR_OK;
    }
    struct job job = { .run = fn, .arg = arg };
    return crew_do(&crew_of_offloads, &job, deadline);
}

void weir_offload_limit(unsigned max_threads)
{
    pthread_mutex_lock(&crew_of_offloads.lock);
    crew_of_offloads.limit = max_threads ? max_threads : 1;
    pthread_cond_broadcast(&crew_of_offloads.work); /* those too many end */
    pthread_mutex_unlock(&crew_of_offloads.lock);
}
