/*
 * crew.c - a bounded crew of threads, and the line of jobs before it.
 *
 * A crew is the process's, not a hub's: threads are made when a job finds none idle, and end
 * when they have been idle for a while. A result wakes its coroutine through the hub's list of
 * wakes from other threads, so many results at once cost one wake-up of the loop.
 *
 * A job stands in the line, or outside of it while the line is full; both are left in the order
 * in which jobs came. Whoever waits for a job to be done does not care where it stands. Whoever
 * only hands one in, and goes on, waits for it to get into the line: that is the back-pressure.
 *
 * A thread at work cannot be interrupted. A job whose caller gives up is therefore either taken
 * out of the line, or waited for, or, where it says how (`abandon`), left to its thread.
 */
#define _GNU_SOURCE /* pthread_cond_clockwait */
#include "offload.h"

#include "hub.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static __thread bool on_crew_thread;

bool crew_is_here(void)
{
    return on_crew_thread;
}

/* ---- all of them ------------------------------------------------------------------------ */

/* Before a crew's own lock, for both may be wanted at once. */
static pthread_mutex_t crews_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list     crews_made = { &crews_made, &crews_made };

static void each_crew(void (*fn)(struct crew *crew, void *arg), void *arg)
{
    fn(&crew_of_offloads, arg);
    fn(&crew_of_resolvers, arg);
    LIST_EACH(node, &crews_made)
        fn(LIST_OF(node, struct crew, link), arg);
}

/* ---- a job's states: under the crew's lock, as all of these ----------------------------- */

static void set_state(struct job *job, enum job_state state)
{
    job->state = state;
    if (job->state > job->past)
        weir_wake_remote(job->waker);
}

static void put_in_line(struct crew *crew, struct job *job)
{
    if (crew->queued >= crew->room) {
        job->state = JOB_OUTSIDE;
        list_append(&crew->outside, &job->link);
        crew->waiting++;
        return;
    }
    job->state = JOB_QUEUED;
    list_append(&crew->line, &job->link);
    crew->queued++;
}

static void let_next_in(struct crew *crew)
{
    if (list_empty(&crew->outside) || crew->queued >= crew->room)
        return;
    struct job *next = LIST_OF(list_first(&crew->outside), struct job, link);
    list_unlink(&next->link);
    crew->waiting--;
    list_append(&crew->line, &next->link);
    crew->queued++;
    set_state(next, JOB_QUEUED);
}

static void take_out_of_line(struct crew *crew, struct job *job)
{
    list_unlink(&job->link);
    if (job->state == JOB_OUTSIDE) {
        crew->waiting--;
        return;
    }
    crew->queued--;
    let_next_in(crew);
}

/* ---- the threads -------------------------------------------------------------------- */

static void unref_and_unlock(struct crew *crew)
{
    bool last = --crew->refs == 0;

    pthread_mutex_unlock(&crew->lock);
    if (!last)
        return;
    pthread_mutex_lock(&crews_lock); /* nobody who walks the list looks at it any more */
    list_unlink(&crew->link);
    pthread_mutex_unlock(&crews_lock);
    pthread_mutex_destroy(&crew->lock);
    pthread_cond_destroy(&crew->work);
    free((char *)crew->name);
    free(crew);
}

static bool may_stay(const struct crew *crew)
{
    return crew->threads <= crew->limit && !(crew->closed && list_empty(&crew->line));
}

/* Under the lock, which is let go meanwhile. True: nobody had work for so long. */
static bool idle_until(struct crew *crew, const struct timespec *until)
{
    bool stays = crew->linger_ms < 0 || crew->threads <= crew->keep;
    int  late = 0;

    crew->idle++;
    if (stays)
        pthread_cond_wait(&crew->work, &crew->lock);
    else
        late = pthread_cond_clockwait(&crew->work, &crew->lock, CLOCK_MONOTONIC, until);
    crew->idle--;
    return late && crew->threads > crew->keep;
}

/* Under the lock. False when the thread should end. */
static bool wait_for_work(struct crew *crew)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += crew->linger_ms / 1000;
    until.tv_nsec += crew->linger_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (may_stay(crew) && list_empty(&crew->line))
        if (idle_until(crew, &until) && list_empty(&crew->line))
            return false;
    return may_stay(crew);
}

static void finish(struct crew *crew, struct job *job)
{
    crew->done++;
    list_unlink(&job->link);
    if (job->state != JOB_ABANDONED) {
        set_state(job, JOB_DONE); /* the job is its owner's from here on */
        return;
    }
    pthread_mutex_unlock(&crew->lock);
    job->abandon(job->arg);
    pthread_mutex_lock(&crew->lock);
}

static void do_one(struct crew *crew, struct job *job)
{
    bool detached = job->detached;

    take_out_of_line(crew, job);
    set_state(job, JOB_RUNNING);
    if (!detached)
        list_append(&crew->running, &job->link);
    pthread_mutex_unlock(&crew->lock);

    job->run(job->arg);

    pthread_mutex_lock(&crew->lock);
    if (detached)
        crew->done++;
    else
        finish(crew, job);
}

static void *work(void *arg)
{
    struct crew *crew = arg;

    on_crew_thread = true;
    pthread_mutex_lock(&crew->lock);
    while (wait_for_work(crew))
        do_one(crew, LIST_OF(list_first(&crew->line), struct job, link));
    crew->threads--;
    unref_and_unlock(crew);
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
    if (made) {
        crew->threads++;
        crew->refs++;
        crew->made++;
    }
    return made;
}

/* ---- handing in --------------------------------------------------------------------- */

/* Under the lock. */
static weir_status join_the_line(struct crew *crew, struct job *job)
{
    put_in_line(crew, job);
    /* An idle thread that was signalled stays idle until it has the lock: the jobs that wait
       for one are counted too, or several would be left to a single thread. */
    if (crew->idle >= crew->queued)
        pthread_cond_signal(&crew->work);
    else if (crew->threads < crew->limit && !add_thread(crew) && !crew->threads) {
        take_out_of_line(crew, job);
        return WEIR_NOMEM;
    }
    return WEIR_OK;
}

weir_status crew_post(struct crew *crew, struct job *job)
{
    job->detached = true;
    job->waker = (weir_waker){ 0 };
    job->past = JOB_ABANDONED;
    pthread_mutex_lock(&crew->lock);
    weir_status status = join_the_line(crew, job);
    pthread_mutex_unlock(&crew->lock);
    return status;
}

bool crew_withdraw(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    bool in_line = job->state <= JOB_QUEUED;
    if (in_line)
        take_out_of_line(crew, job);
    pthread_mutex_unlock(&crew->lock);
    return in_line;
}

/* The wait ended early. What was the job doing? One that is abandoned here must not be
   touched any more: its thread frees it. */
static enum job_state take_back(struct crew *crew, struct job *job)
{
    enum job_state state = job->state;

    if (state <= JOB_QUEUED) {
        take_out_of_line(crew, job);
    } else if (state == JOB_RUNNING && job->abandon) {
        state = job->state = JOB_ABANDONED;
        crew->abandoned++;
    }
    return state;
}

enum job_state crew_state_of(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    enum job_state state = job->state;
    pthread_mutex_unlock(&crew->lock);
    return state;
}

/* Whether the job is past `state`; else the holder of `mine` is woken once it is. A ticket that is
   not needed any more is not kept: its coroutine may be gone when the job is done. */
static bool is_past(struct crew *crew, struct job *job, enum job_state state, weir_waker mine)
{
    pthread_mutex_lock(&crew->lock);
    bool past = job->state > state;
    job->waker = mine;
    job->past = past || !mine.task ? JOB_ABANDONED : state;
    pthread_mutex_unlock(&crew->lock);
    return past;
}

static weir_status wait_past(struct crew *crew, struct job *job, enum job_state state,
                             weir_deadline deadline)
{
    weir_hub   *hub = hub_here_;
    weir_status status = WEIR_OK;

    while (!is_past(crew, job, state, weir_waker_new())) {
        hub->abroad++;
        status = weir_park(deadline, state == JOB_OUTSIDE ? "a place in the line for a thread"
                                                          : "a thread's work");
        hub->abroad--;
        if (status != WEIR_OK)
            return is_past(crew, job, state, (weir_waker){ 0 }) ? WEIR_OK : status;
    }
    return WEIR_OK;
}

/* ---- a job from its beginning to its end ------------------------------------------------ */

static weir_status ref_and_join(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    weir_status status = join_the_line(crew, job);
    if (status == WEIR_OK)
        crew->refs++;
    pthread_mutex_unlock(&crew->lock);
    return status;
}

weir_status crew_hand_in(struct crew *crew, struct job *job, weir_deadline deadline)
{
    job->past = JOB_ABANDONED;
    weir_status status = ref_and_join(crew, job);
    if (status != WEIR_OK)
        return status;
    status = wait_past(crew, job, JOB_OUTSIDE, deadline);
    if (status == WEIR_OK)
        return WEIR_OK;

    pthread_mutex_lock(&crew->lock);
    if (job->state != JOB_OUTSIDE) { /* it got in after all, and is its caller's to wait for */
        pthread_mutex_unlock(&crew->lock);
        return WEIR_OK;
    }
    take_out_of_line(crew, job);
    unref_and_unlock(crew);
    return status;
}

weir_status crew_wait(struct crew *crew, struct job *job, weir_deadline deadline)
{
    return wait_past(crew, job, JOB_RUNNING, deadline);
}

/* Nothing can stop it, and its memory is its caller's. */
static void wait_it_out(struct crew *crew, struct job *job)
{
    WEIR_SHIELD(WEIR_FOREVER);
    if (task_here())
        (void)wait_past(crew, job, JOB_RUNNING, WEIR_FOREVER);
    while (crew_state_of(crew, job) == JOB_RUNNING)
        (void)weir_sleep(weir_in_ms(1)); /* outside of a coroutine it blocks */
}

enum job_state crew_end(struct crew *crew, struct job *job)
{
    pthread_mutex_lock(&crew->lock);
    enum job_state state = take_back(crew, job);
    pthread_mutex_unlock(&crew->lock);
    if (state == JOB_RUNNING) {
        wait_it_out(crew, job);
        state = JOB_DONE;
    }
    pthread_mutex_lock(&crew->lock);
    unref_and_unlock(crew);
    return state;
}

weir_status crew_do(struct crew *crew, struct job *job, weir_deadline deadline)
{
    weir_hub *hub = hub_here_;

    job->waker = weir_waker_new();
    job->past = JOB_RUNNING;
    if (ref_and_join(crew, job) != WEIR_OK)
        return WEIR_NOMEM;
    hub->abroad++;
    weir_status status = weir_park(deadline, "a thread's work");
    hub->abroad--;
    return crew_end(crew, job) == JOB_DONE ? WEIR_OK : status;
}

/* ---- a crew's life ------------------------------------------------------------------ */

struct crew *crew_new(const char *name, unsigned limit, unsigned keep, unsigned room,
                      int64_t linger_ms)
{
    struct crew *crew = calloc(1, sizeof *crew);
    char        *copy = strdup(name);

    if (!crew || !copy) {
        free(crew);
        free(copy);
        return NULL;
    }
    *crew = (struct crew)CREW_INIT(*crew, copy, limit);
    crew->keep = keep;
    crew->room = room;
    crew->linger_ms = linger_ms;
    pthread_mutex_lock(&crews_lock);
    list_append(&crews_made, &crew->link);
    pthread_mutex_unlock(&crews_lock);
    return crew;
}

void crew_let_go(struct crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    crew->closed = true;
    pthread_cond_broadcast(&crew->work);
    unref_and_unlock(crew);
}

void crew_resize(struct crew *crew, unsigned limit, unsigned keep)
{
    pthread_mutex_lock(&crew->lock);
    crew->limit = limit;
    crew->keep = keep;
    /* Those at work come back to the line themselves; there is room for more beside them. */
    for (unsigned wanted = crew->queued; wanted > crew->idle && crew->threads < limit; wanted--)
        if (!add_thread(crew))
            break;
    pthread_cond_broadcast(&crew->work); /* those too many end */
    pthread_mutex_unlock(&crew->lock);
}

/* ---- what is told of them ------------------------------------------------------------- */

static struct crew_count count_of(struct crew *crew)
{
    return (struct crew_count){ crew->name,    crew->threads, crew->idle, crew->queued,
                                crew->waiting, crew->limit,   crew->keep, crew->done,
                                crew->abandoned, crew->made };
}

struct crew_count crew_count(struct crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    struct crew_count count = count_of(crew);
    pthread_mutex_unlock(&crew->lock);
    return count;
}

struct telling {
    void (*fn)(const struct crew_count *count, void *arg);
    void *arg;
};

static void tell(struct crew *crew, void *arg)
{
    const struct telling *telling = arg;
    struct crew_count     count = crew_count(crew);

    telling->fn(&count, telling->arg);
}

void crews_each(void (*fn)(const struct crew_count *count, void *arg), void *arg)
{
    struct telling telling = { fn, arg };

    pthread_mutex_lock(&crews_lock);
    each_crew(tell, &telling);
    pthread_mutex_unlock(&crews_lock);
}

static void add_idle(const struct crew_count *count, void *arg)
{
    *(unsigned *)arg += count->idle;
}

unsigned crews_idle(void)
{
    unsigned idle = 0;

    crews_each(add_idle, &idle);
    return idle;
}

/* ---- around a fork ------------------------------------------------------------------ */

static void hold(struct crew *crew, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&crew->lock);
}

static void let_go(struct crew *crew, void *arg)
{
    (void)arg;
    pthread_mutex_unlock(&crew->lock);
}

void crews_hold(void)
{
    pthread_mutex_lock(&crews_lock);
    each_crew(hold, NULL);
}

void crews_let_go(void)
{
    each_crew(let_go, NULL);
    pthread_mutex_unlock(&crews_lock);
}

static void lose_all(struct list *jobs)
{
    LIST_EACH(node, jobs) {
        list_unlink(node);
        LIST_OF(node, struct job, link)->state = JOB_LOST;
    }
}

/* The condition too: glibc's counts who waits on it, and they are not here. */
static void make_anew(struct crew *crew, void *arg)
{
    (void)arg;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    lose_all(&crew->line);
    lose_all(&crew->outside);
    lose_all(&crew->running);
    crew->refs -= crew->threads;
    crew->threads = crew->idle = crew->queued = crew->waiting = 0;
}

void crews_forked(void)
{
    pthread_mutex_init(&crews_lock, NULL);
    each_crew(make_anew, NULL);
    on_crew_thread = false;
}
