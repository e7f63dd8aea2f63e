/*
 * test_coro_jobs.c - pools of threads, and jobs that are handed in and joined later. On the real
 * hub, with real threads: they meet at gates, and nothing is decided by how long something took.
 *
 * write(2) is ours here: it counts how often a hub is rung for.
 */
#define _GNU_SOURCE
#include "coro_unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <weir/offload.h>
#include <weir/process.h>
#include <weir/watch.h>

static atomic_int rung;

/* A hub's bell gets eight bytes; nothing else here writes so few to a descriptor. */
ssize_t write(int fd, const void *bytes, size_t size)
{
    if (size == sizeof(uint64_t))
        atomic_fetch_add(&rung, 1);
    return syscall(SYS_write, fd, bytes, size);
}

/* ---- work ------------------------------------------------------------------------------- */

/* It says that it began, and ends when its gate is open. */
struct piece {
    atomic_int *gate;
    atomic_int  begun, ended, dropped;
    int         place; /* the how-manieth to begin */
    pthread_t   thread;
};

static atomic_int begun_so_far;

static void do_piece(void *arg)
{
    struct piece *piece = arg;

    piece->place = atomic_fetch_add(&begun_so_far, 1);
    piece->thread = pthread_self();
    atomic_store(&piece->begun, 1);
    for (int i = 0; piece->gate && !atomic_load(piece->gate) && i < 10000; i++)
        usleep(1000);
    atomic_store(&piece->ended, 1);
}

static void drop_piece(void *arg)
{
    struct piece *piece = arg;

    piece->thread = pthread_self();
    atomic_store(&piece->dropped, 1);
}

static void await(atomic_int *flag)
{
    for (int i = 0; i < 10000 && !atomic_load(flag); i++)
        sleep_ms(1);
    HOLDS(atomic_load(flag));
}

static weir_offload_pool *new_pool(weir_offload_opts opts)
{
    weir_offload_pool *pool = NULL;
    weir_error         err;

    HOLDS_EQ(weir_offload_pool_new(&opts, &pool, &err), WEIR_OK);
    atomic_store(&begun_so_far, 0);
    return pool;
}

static weir_offload_stats stats_of(weir_offload_pool *pool)
{
    weir_offload_stats stats;

    weir_offload_pool_stats(pool, &stats);
    return stats;
}

static void await_threads(weir_offload_pool *pool, unsigned wanted)
{
    for (int i = 0; i < 10000 && stats_of(pool).threads != wanted; i++)
        sleep_ms(1);
    HOLDS_EQ(stats_of(pool).threads, wanted);
}

static void await_idle(weir_offload_pool *pool, unsigned wanted)
{
    for (int i = 0; i < 10000 && stats_of(pool).idle != wanted; i++)
        sleep_ms(1);
    HOLDS_EQ(stats_of(pool).idle, wanted);
}

static weir_job *hand_in(weir_offload_pool *pool, struct piece *piece)
{
    weir_job *job = NULL;

    HOLDS_EQ(weir_offload_spawn(pool, do_piece, piece, WEIR_FOREVER, &job, NULL), WEIR_OK);
    return job;
}

/* ---- pools ------------------------------------------------------------------------------ */

static void inner(void *arg)
{
    struct piece *piece = arg;

    HOLDS_EQ(weir_offload(do_piece, piece, WEIR_NOW), WEIR_OK);
    HOLDS(pthread_equal(piece->thread, pthread_self()));
    weir_job *job = NULL;
    HOLDS_EQ(weir_offload_spawn(NULL, do_piece, piece, WEIR_NOW, &job, NULL), WEIR_OK);
    HOLDS(pthread_equal(piece->thread, pthread_self()));
    HOLDS(weir_job_done(job));
    HOLDS_EQ(weir_job_join(job, WEIR_NOW), WEIR_OK);
    weir_job_free(job);
}

static weir_status use_a_pool(void *arg)
{
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .max_threads = 1 });
    atomic_int         gate = 0;
    struct piece       held = { .gate = &gate }, piece = { 0 };

    (void)arg;
    weir_job *job = hand_in(NULL, &held); /* the default pool is at work meanwhile */
    HOLDS_EQ(weir_offload_in(pool, do_piece, &piece, weir_in_ms(10000)), WEIR_OK);
    HOLDS(piece.ended && !pthread_equal(piece.thread, pthread_self()));
    HOLDS_EQ(weir_offload_in(pool, inner, &piece, weir_in_ms(10000)), WEIR_OK);
    weir_offload_stats stats = stats_of(pool);
    HOLDS_EQ(stats.max_threads, 1);
    HOLDS_EQ(stats.threads_made, 1);
    HOLDS_EQ(stats.done, 2);
    HOLDS(!held.ended);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_job_join(job, WEIR_FOREVER), WEIR_OK);
    weir_job_free(job);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_pool_of_ones_own_has_its_own_threads(void **state)
{
    (void)state;
    run_real(use_a_pool, NULL);
}

static void what_no_pool_can_be_is_refused(void **state)
{
    weir_offload_pool *pool = (void *)1;
    weir_error         err;

    (void)state;
    assert_int_equal(weir_offload_pool_new(
                         &(weir_offload_opts){ .max_threads = 2, .min_threads = 3 }, &pool, &err),
                     WEIR_USAGE);
    assert_null(pool);
    assert_string_equal(err.message, "min_threads (3) is more than max_threads (2)");
    assert_int_equal(weir_offload_pool_new(&(weir_offload_opts){ .idle_ms = -5 }, &pool, &err),
                     WEIR_USAGE);
    assert_non_null(strstr(err.message, "idle_ms is -5"));
    assert_int_equal(weir_offload_pool_new(NULL, NULL, &err), WEIR_USAGE);
    assert_int_equal(weir_offload_pool_new(NULL, &pool, &err), WEIR_OK);
    assert_int_equal(weir_offload_pool_resize(pool, 0, 0, &err), WEIR_USAGE);
    assert_int_equal(weir_offload_pool_resize(pool, 1, 2, &err), WEIR_USAGE);
    weir_offload_pool_free(pool);
    weir_offload_pool_free(NULL);
}

static int64_t cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static weir_status let_threads_idle(void *arg)
{
    weir_offload_pool *pool = new_pool(
        (weir_offload_opts){ .max_threads = 4, .min_threads = 1, .idle_ms = 30 });
    atomic_int   gate = 0;
    struct piece pieces[4];
    weir_job    *jobs[4];

    (void)arg;
    HOLDS_EQ(stats_of(pool).threads, 0); /* none is made before it is needed */
    for (int i = 0; i < 4; i++) {
        pieces[i] = (struct piece){ .gate = &gate };
        jobs[i] = hand_in(pool, &pieces[i]);
    }
    for (int i = 0; i < 4; i++)
        await(&pieces[i].begun);
    HOLDS_EQ(stats_of(pool).threads, 4);
    atomic_store(&gate, 1);
    for (int i = 0; i < 4; i++)
        weir_job_free(jobs[i]);
    await_threads(pool, 1);
    int64_t used = cpu_ms();
    sleep_ms(200);
    HOLDS_EQ(stats_of(pool).threads, 1); /* the one that stays, */
    HOLDS(cpu_ms() - used < 40);         /* and sleeps */
    HOLDS_EQ(weir_offload_pool_resize(pool, 4, 0, NULL), WEIR_OK);
    await_threads(pool, 0);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void idle_threads_end_but_for_those_that_stay(void **state)
{
    (void)state;
    run_real(let_threads_idle, NULL);
}

static weir_status resize_a_pool(void *arg)
{
    weir_offload_pool *pool = new_pool(
        (weir_offload_opts){ .max_threads = 1, .idle_ms = WEIR_NEVER });
    atomic_int   gate = 0;
    struct piece pieces[3];
    weir_job    *jobs[3];

    (void)arg;
    for (int i = 0; i < 3; i++) {
        pieces[i] = (struct piece){ .gate = &gate };
        jobs[i] = hand_in(pool, &pieces[i]);
    }
    await(&pieces[0].begun);
    HOLDS_EQ(stats_of(pool).queued, 2);
    HOLDS(!pieces[1].begun);
    /* Those in line begin now, not when the next one is handed in. */
    HOLDS_EQ(weir_offload_pool_resize(pool, 3, 0, NULL), WEIR_OK);
    await(&pieces[1].begun);
    await(&pieces[2].begun);
    HOLDS_EQ(stats_of(pool).threads, 3);
    atomic_store(&gate, 1);
    for (int i = 0; i < 3; i++)
        weir_job_free(jobs[i]);
    await_idle(pool, 3);
    HOLDS_EQ(weir_offload_pool_resize(pool, 1, 1, NULL), WEIR_OK);
    await_threads(pool, 1); /* they never end of idleness, but because they are too many */
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_pool_is_resized_while_it_works(void **state)
{
    (void)state;
    run_real(resize_a_pool, NULL);
}

static void collect(const char *text, size_t length, void *arg)
{
    char *all = arg;

    strncat(all, text, length);
}

static weir_status show_pool(void *arg)
{
    static char        text[32768];
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .name = "images", .max_threads = 3 });
    struct piece       piece = { 0 };

    (void)arg;
    HOLDS_EQ(weir_offload_in(pool, do_piece, &piece, WEIR_FOREVER), WEIR_OK);
    await_idle(pool, 1);
    weir_coro_metrics(collect, text);
    HOLDS(strstr(text, "weir_threads{crew=\"images\",state=\"idle\"} 1\n") != NULL);
    HOLDS(strstr(text, "weir_threads_max{crew=\"images\"} 3\n") != NULL);
    HOLDS(strstr(text, "weir_threads_jobs_total{crew=\"images\"} 1\n") != NULL);
    weir_offload_pool_free(pool);
    text[0] = '\0';
    for (int i = 0; i < 5000; i++) { /* until its thread has ended */
        text[0] = '\0';
        weir_coro_metrics(collect, text);
        if (!strstr(text, "images"))
            break;
        sleep_ms(1);
    }
    HOLDS(strstr(text, "images") == NULL);
    return WEIR_OK;
}

static void a_pool_shows_under_its_name(void **state)
{
    (void)state;
    run_real(show_pool, NULL);
}

static weir_status free_pool_early(void *arg)
{
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .max_threads = 1 });
    atomic_int         gate = 0;
    struct piece       first = { .gate = &gate }, second = { 0 };
    weir_job          *jobs[2];

    (void)arg;
    jobs[0] = hand_in(pool, &first);
    jobs[1] = hand_in(pool, &second);
    await(&first.begun);
    weir_offload_pool_free(pool);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_job_join(jobs[1], weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(weir_job_join(jobs[0], weir_in_ms(10000)), WEIR_OK);
    HOLDS(first.ended && second.ended);
    weir_job_free(jobs[0]);
    weir_job_free(jobs[1]);
    return WEIR_OK;
}

static void a_pool_let_go_still_does_what_it_was_handed(void **state)
{
    (void)state;
    run_real(free_pool_early, NULL);
}

/* ---- back-pressure ---------------------------------------------------------------------- */

struct producer {
    weir_offload_pool *pool;
    struct piece      *pieces;
    weir_job          *jobs[4];
    int                handed_in;
};

static weir_status produce(void *arg)
{
    struct producer *me = arg;

    for (int i = 0; i < 4; i++) {
        me->jobs[i] = hand_in(me->pool, &me->pieces[i]);
        me->handed_in++;
    }
    return WEIR_OK;
}

/* One at work and one in line: the third waits, and the fourth is not even come to. */
static weir_status produce_too_fast(void *arg)
{
    weir_offload_pool *pool = new_pool(
        (weir_offload_opts){ .max_threads = 1, .max_queued = 1 });
    atomic_int      gates[4] = { 0, 0, 0, 0 };
    struct piece    pieces[4];
    struct producer producer = { .pool = pool, .pieces = pieces };

    (void)arg;
    for (int i = 0; i < 4; i++)
        pieces[i] = (struct piece){ .gate = &gates[i] };
    weir_group *group = NULL;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn(group, produce, &producer);
    for (int i = 0; i < 4; i++) {
        int most = i + 2 > 4 ? 4 : i + 2;
        await(&pieces[i].begun);
        for (int j = 0; j < 2000 && producer.handed_in < most; j++)
            sleep_ms(1);
        sleep_ms(5);
        HOLDS_EQ(producer.handed_in, most);
        HOLDS_EQ(stats_of(pool).waiting, i < 2 ? 1 : 0);
        atomic_store(&gates[i], 1);
    }
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    for (int i = 0; i < 4; i++) {
        HOLDS_EQ(weir_job_join(producer.jobs[i], weir_in_ms(10000)), WEIR_OK);
        HOLDS_EQ(pieces[i].place, i);
        weir_job_free(producer.jobs[i]);
    }
    weir_group_free(group);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void who_hands_in_too_fast_waits_for_a_place(void **state)
{
    (void)state;
    run_real(produce_too_fast, NULL);
}

struct hander {
    weir_offload_pool *pool;
    struct piece       piece;
    weir_status        status;
};

static weir_status hand_in_and_be_cancelled(void *arg)
{
    struct hander *me = arg;
    weir_job      *job = (void *)1;
    weir_error     err;

    me->status = weir_offload_spawn(me->pool, do_piece, &me->piece, WEIR_FOREVER, &job, &err);
    HOLDS(job == NULL);
    HOLDS_EQ(err.status, me->status);
    return WEIR_OK;
}

static weir_status give_up_a_place(void *arg)
{
    weir_offload_pool *pool = new_pool(
        (weir_offload_opts){ .max_threads = 1, .max_queued = 1 });
    atomic_int    gate = 0;
    struct piece  first = { .gate = &gate }, second = { .gate = &gate }, late = { 0 };
    struct hander hander = { .pool = pool };
    weir_job     *jobs[3] = { 0 };
    weir_error    err;

    (void)arg;
    jobs[0] = hand_in(pool, &first);
    await(&first.begun);
    jobs[1] = hand_in(pool, &second);
    HOLDS_EQ(weir_offload_spawn(pool, do_piece, &late, WEIR_NOW, &jobs[2], &err), WEIR_TIMEOUT);
    HOLDS_EQ(weir_offload_spawn(pool, do_piece, &late, weir_in_ms(10), &jobs[2], &err),
             WEIR_TIMEOUT);
    HOLDS(jobs[2] == NULL);
    HOLDS(strstr(err.message, "gave up waiting for a place in the line") != NULL);
    weir_task *task = weir_spawn(NULL, hand_in_and_be_cancelled, &hander);
    sleep_ms(5);
    HOLDS_EQ(stats_of(pool).waiting, 1);
    weir_cancel(task);
    sleep_ms(5);
    HOLDS_EQ(hander.status, WEIR_CANCELED);
    HOLDS_EQ(stats_of(pool).waiting, 0);

    /* A place in line that is given up is the next one's. */
    weir_job_free(jobs[1]);
    HOLDS_EQ(stats_of(pool).queued, 0);
    HOLDS_EQ(weir_offload_spawn(pool, do_piece, &late, WEIR_NOW, &jobs[2], &err), WEIR_OK);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_job_join(jobs[2], weir_in_ms(10000)), WEIR_OK);
    weir_job_free(jobs[0]);
    weir_job_free(jobs[2]);
    HOLDS(!second.begun && !hander.piece.begun);
    HOLDS_EQ(begun_so_far, 2);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_place_given_up_is_the_next_ones(void **state)
{
    (void)state;
    run_real(give_up_a_place, NULL);
}

/* ---- jobs ------------------------------------------------------------------------------- */

static weir_status join_too(void *arg)
{
    return weir_job_join(arg, WEIR_FOREVER);
}

static weir_status join_a_job(void *arg)
{
    atomic_int   gate = 0;
    struct piece piece = { .gate = &gate };
    weir_job    *job = hand_in(NULL, &piece);
    weir_group  *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_job_join(job, WEIR_NOW), WEIR_TIMEOUT);
    HOLDS_EQ(weir_job_join(job, weir_in_ms(5)), WEIR_TIMEOUT);
    HOLDS(!weir_job_done(job));
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *other = weir_spawn(group, join_too, job);
    weir_yield();
    HOLDS_EQ(weir_job_join(job, WEIR_FOREVER), WEIR_BUSY);
    weir_cancel(other);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_CANCELED);
    weir_group_free(group);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_job_join(job, weir_in_ms(10000)), WEIR_OK);
    HOLDS(piece.ended && weir_job_done(job));
    HOLDS_EQ(weir_job_join(job, WEIR_NOW), WEIR_OK); /* as often as one likes */
    weir_job_free(job);
    return WEIR_OK;
}

static void a_job_can_be_joined_again_until_it_is_done(void **state)
{
    (void)state;
    run_real(join_a_job, NULL);
}

static weir_status open_later(void *arg)
{
    sleep_ms(20);
    atomic_store((atomic_int *)arg, 1);
    return WEIR_OK;
}

static weir_status free_jobs(void *arg)
{
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .max_threads = 1 });
    atomic_int         gate = 0;
    struct piece       first = { .gate = &gate }, second = { 0 };
    weir_job          *jobs[2];

    (void)arg;
    jobs[0] = hand_in(pool, &first);
    jobs[1] = hand_in(pool, &second);
    await(&first.begun);
    weir_job_free(jobs[1]);
    weir_spawn(NULL, open_later, &gate);
    weir_cancel(weir_self()); /* shielded: `first` is on our stack */
    weir_job_free(jobs[0]);
    HOLDS(first.ended);
    HOLDS(!second.begun);
    weir_job_free(NULL);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_job_that_is_freed_never_begins_or_is_over(void **state)
{
    (void)state;
    run_real(free_jobs, NULL);
}

static weir_status leave_jobs(void *arg)
{
    static struct piece left, never, over; /* whoever leaves a job does not own its argument */
    static atomic_int   gate;
    weir_offload_pool  *pool = new_pool((weir_offload_opts){ .max_threads = 1 });

    (void)arg;
    left.gate = &gate;
    weir_job *job = hand_in(pool, &left);
    await(&left.begun);
    weir_job *in_line = hand_in(pool, &never);
    HOLDS_EQ(weir_job_join(job, weir_in_ms(5)), WEIR_TIMEOUT);
    weir_job_leave(job, drop_piece);
    HOLDS(!left.dropped); /* it is at work with it */
    weir_job_leave(in_line, drop_piece);
    HOLDS(never.dropped && !never.begun);
    HOLDS(pthread_equal(never.thread, pthread_self()));
    HOLDS_EQ(stats_of(pool).left, 1);
    atomic_store(&gate, 1);
    await(&left.dropped);
    HOLDS(left.ended && !pthread_equal(left.thread, pthread_self()));

    job = hand_in(pool, &over);
    HOLDS_EQ(weir_job_join(job, weir_in_ms(10000)), WEIR_OK);
    weir_job_leave(job, drop_piece);
    HOLDS(over.dropped);
    weir_job_leave(hand_in(pool, &over), NULL);
    weir_job_leave(NULL, NULL);
    await_idle(pool, 1);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_job_that_is_left_is_disposed_of_by_its_thread(void **state)
{
    (void)state;
    run_real(leave_jobs, NULL);
}

/* Not by usleep(3), which weir::mongo makes yield. */
static void stand_still(void)
{
    struct timespec ms = { 0, 1000000 };

    nanosleep(&ms, NULL);
}

/* The hub stands still until they are all done: then it is told of them all at once. */
static weir_status collect_results(void *arg)
{
    enum { JOBS = 16 };
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .max_threads = 4 });
    struct piece       pieces[JOBS];
    weir_job          *jobs[JOBS];
    atomic_int         gate = 0;
    weir_group        *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < JOBS; i++) {
        pieces[i] = (struct piece){ .gate = &gate };
        jobs[i] = hand_in(pool, &pieces[i]);
        weir_spawn(group, join_too, jobs[i]);
    }
    sleep_ms(5); /* each joins its job */
    atomic_store(&rung, 0);
    atomic_store(&gate, 1);
    for (int i = 0; i < 10000 && stats_of(pool).done < JOBS; i++)
        stand_still();
    HOLDS_EQ(stats_of(pool).done, JOBS);
    HOLDS_EQ(rung, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(rung, 1);

    /* And it is rung for again the next time. */
    weir_group_free(group);
    for (int i = 0; i < JOBS; i++)
        weir_job_free(jobs[i]);
    struct piece last = { 0 };
    HOLDS_EQ(weir_offload_in(pool, do_piece, &last, weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(rung, 2);
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void many_results_ring_for_the_hub_once(void **state)
{
    (void)state;
    run_real(collect_results, NULL);
}

/* ---- elsewhere -------------------------------------------------------------------------- */

static void outside_of_a_coroutine_it_is_done_at_once(void **state)
{
    struct piece piece = { 0 };
    weir_job    *job;

    (void)state;
    assert_int_equal(weir_offload_spawn(NULL, do_piece, &piece, WEIR_NOW, &job, NULL), WEIR_OK);
    assert_true(piece.ended);
    assert_int_equal(weir_job_join(job, WEIR_NOW), WEIR_OK);
    weir_job_leave(job, drop_piece);
    assert_true(piece.dropped);
}

static weir_job *carried;

static weir_status hand_in_and_go(void *arg)
{
    carried = hand_in(NULL, arg);
    return WEIR_OK;
}

static void a_job_that_outlives_its_hub_is_joined_without_one(void **state)
{
    atomic_int   gate = 0;
    struct piece piece = { .gate = &gate };

    (void)state;
    run_real(hand_in_and_go, &piece);
    assert_int_equal(weir_job_join(carried, weir_in_ms(5)), WEIR_TIMEOUT);
    atomic_store(&gate, 1);
    assert_int_equal(weir_job_join(carried, weir_in_ms(10000)), WEIR_OK);
    assert_true(piece.ended);
    weir_job_free(carried);
}

static weir_status fork_with_jobs(void *arg)
{
    atomic_int         gate = 0;
    weir_offload_pool *pool = new_pool((weir_offload_opts){ .max_threads = 1 });
    struct piece       first = { .gate = &gate }, second = { 0 }, third = { 0 };
    weir_job          *jobs[2] = { hand_in(pool, &first), hand_in(pool, &second) };
    int                status = -1;

    (void)arg;
    await(&first.begun);
    pid_t pid = weir_fork();
    if (pid == 0) {
        /* Their threads are not here; new ones are made. */
        bool good = weir_job_join(jobs[0], weir_in_ms(5000)) == WEIR_CLOSED &&
                    weir_job_join(jobs[1], weir_in_ms(5000)) == WEIR_CLOSED &&
                    stats_of(pool).threads == 0;
        if (!context_is_watched()) /* TSan allows no thread in the child of a threaded process */
            good = good &&
                   weir_offload_in(pool, do_piece, &third, weir_in_ms(5000)) == WEIR_OK &&
                   third.ended;
        weir_job_free(jobs[0]);
        weir_job_free(jobs[1]);
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < 20000 && waitpid(pid, &status, WNOHANG) == 0; i++)
        sleep_ms(1);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    atomic_store(&gate, 1);
    for (int i = 0; i < 2; i++) {
        HOLDS_EQ(weir_job_join(jobs[i], weir_in_ms(10000)), WEIR_OK);
        weir_job_free(jobs[i]);
    }
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void in_the_child_of_a_fork_its_jobs_are_lost_and_its_pools_work(void **state)
{
    (void)state;
    run_real(fork_with_jobs, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_pool_of_ones_own_has_its_own_threads),
        TEST(what_no_pool_can_be_is_refused),
        TEST(idle_threads_end_but_for_those_that_stay),
        TEST(a_pool_is_resized_while_it_works),
        TEST(a_pool_shows_under_its_name),
        TEST(a_pool_let_go_still_does_what_it_was_handed),
        TEST(who_hands_in_too_fast_waits_for_a_place),
        TEST(a_place_given_up_is_the_next_ones),
        TEST(a_job_can_be_joined_again_until_it_is_done),
        TEST(a_job_that_is_freed_never_begins_or_is_over),
        TEST(a_job_that_is_left_is_disposed_of_by_its_thread),
        TEST(many_results_ring_for_the_hub_once),
        TEST(outside_of_a_coroutine_it_is_done_at_once),
        TEST(a_job_that_outlives_its_hub_is_joined_without_one),
        TEST(in_the_child_of_a_fork_its_jobs_are_lost_and_its_pools_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
