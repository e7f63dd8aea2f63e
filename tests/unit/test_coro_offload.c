/*
 * test_coro_offload.c - blocking work on threads. Worth most under a race detector.
 */
#include "coro_unit.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <weir/offload.h>

/* ---- work --------------------------------------------------------------------------- */

/* A job that says when it begins, and may be told when to end. */
struct job_of_ours {
    int64_t    ms;
    atomic_int begun, ended;
    atomic_int *gate; /* it ends when this is set */
    pthread_t  thread;
    int        place; /* the how-manieth to begin */
};

static atomic_int working, most, begun_so_far;

static void work(void *arg)
{
    struct job_of_ours *job = arg;

    job->thread = pthread_self();
    int now = atomic_fetch_add(&working, 1) + 1, seen = atomic_load(&most);
    while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
        continue;
    job->place = atomic_fetch_add(&begun_so_far, 1);
    atomic_store(&job->begun, 1);
    if (job->ms)
        usleep((useconds_t)job->ms * 1000);
    for (int i = 0; job->gate && !atomic_load(job->gate) && i < 5000; i++)
        usleep(1000);
    atomic_fetch_sub(&working, 1);
    atomic_store(&job->ended, 1);
}

static weir_status offload_it(void *arg)
{
    return weir_offload(work, arg, WEIR_FOREVER);
}

static void reset(unsigned limit)
{
    weir_offload_limit(limit);
    atomic_store(&working, 0);
    atomic_store(&most, 0);
    atomic_store(&begun_so_far, 0);
}

static void await(atomic_int *flag)
{
    for (int i = 0; i < 2000 && !atomic_load(flag); i++)
        weir_sleep(weir_in_ms(1));
    HOLDS(atomic_load(flag));
}

static weir_group *new_group(void)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    return group;
}

static weir_status open_the_gate(void *arg)
{
    for (int i = 0; i < 10; i++)
        HOLDS_EQ(sleep_ms(1), WEIR_OK);
    atomic_store((atomic_int *)arg, 1);
    return WEIR_OK;
}

/* The job ends when a coroutine lets it, so the hub must go on meanwhile. */
static weir_status work_beside_a_coroutine(void *arg)
{
    static atomic_int  gate;
    struct job_of_ours job = { .gate = &gate };
    int64_t            before = real_ms();

    (void)arg;
    atomic_store(&gate, 0);
    weir_spawn(NULL, open_the_gate, &gate);
    errno = EPIPE;
    HOLDS_EQ(weir_offload(work, &job, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(errno, EPIPE);
    HOLDS(job.ended);
    HOLDS(!pthread_equal(job.thread, pthread_self()));
    HOLDS(real_ms() - before < 4000);
    return WEIR_OK;
}

static void work_is_done_on_a_thread_while_the_hub_goes_on(void **state)
{
    (void)state;
    reset(10);
    run_real(work_beside_a_coroutine, NULL);
}

static weir_status hundred_jobs(void *arg)
{
    struct job_of_ours *jobs = calloc(100, sizeof *jobs);
    weir_group         *group = new_group();

    (void)arg;
    for (int i = 0; i < 100; i++) {
        jobs[i].ms = 1 + i % 3;
        weir_spawn(group, offload_it, &jobs[i]);
    }
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    for (int i = 0; i < 100; i++)
        HOLDS(jobs[i].ended);
    weir_group_free(group);
    free(jobs);
    return WEIR_OK;
}

static void a_hundred_jobs_share_ten_threads(void **state)
{
    (void)state;
    reset(10);
    run_real(hundred_jobs, NULL);
    assert_int_equal(begun_so_far, 100);
    assert_in_range(most, 2, 10);
}

static weir_status jobs_in_line(void *arg)
{
    struct job_of_ours jobs[10] = { { .ms = 0 } };
    weir_group        *group = new_group();

    (void)arg;
    for (int i = 0; i < 10; i++)
        weir_spawn(group, offload_it, &jobs[i]);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    for (int i = 0; i < 10; i++)
        HOLDS_EQ(jobs[i].place, i);
    weir_group_free(group);
    return WEIR_OK;
}

static void jobs_begin_in_the_order_they_came(void **state)
{
    (void)state;
    reset(1);
    usleep(50000); /* the threads of before end */
    run_real(jobs_in_line, NULL);
    assert_int_equal(most, 1);
}

/* Each of the two ends only when the other has begun. */
static void meet(void *arg)
{
    atomic_int *met = arg;

    atomic_fetch_add(met, 1);
    for (int i = 0; i < 1000 && atomic_load(met) < 2; i++)
        usleep(1000);
}

static weir_status meet_there(void *arg)
{
    return weir_offload(meet, arg, WEIR_FOREVER);
}

static weir_status two_at_once(void *arg)
{
    struct job_of_ours warm = { .ms = 1 };
    weir_group        *group = new_group();
    atomic_int         met = 0;

    (void)arg;
    HOLDS_EQ(weir_offload(work, &warm, WEIR_FOREVER), WEIR_OK);
    sleep_ms(20); /* now one thread is idle, and there is none besides */
    int64_t before = real_ms();
    weir_spawn(group, meet_there, &met);
    weir_spawn(group, meet_there, &met);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS(real_ms() - before < 900); /* they met */
    weir_group_free(group);
    return WEIR_OK;
}

static void an_idle_thread_does_not_keep_two_jobs_in_line(void **state)
{
    (void)state;
    reset(1);
    usleep(50000);
    reset(10);
    run_real(two_at_once, NULL);
}

static void nested(void *arg)
{
    struct job_of_ours *job = arg;

    HOLDS(weir_self() == NULL);
    HOLDS_EQ(weir_offload(work, job, WEIR_NOW), WEIR_OK);
    HOLDS(pthread_equal(job->thread, pthread_self()));
}

static weir_status offload_in_an_offload(void *arg)
{
    HOLDS_EQ(weir_offload(nested, arg, WEIR_FOREVER), WEIR_OK);
    return WEIR_OK;
}

static void a_nested_call_runs_where_it_is(void **state)
{
    struct job_of_ours job = { .ms = 0 }, outside = { .ms = 0 };

    (void)state;
    reset(1); /* with another thread's help it would wait for itself */
    run_real(offload_in_an_offload, &job);
    assert_true(job.ended);
    assert_int_equal(weir_offload(work, &outside, WEIR_FOREVER), WEIR_OK);
    assert_true(pthread_equal(outside.thread, pthread_self()));
}

/* ---- giving up ---------------------------------------------------------------------- */

static weir_status give_up_in_line(void *arg)
{
    atomic_int         gate = 0;
    struct job_of_ours first = { .gate = &gate }, second = { .ms = 0 }, third = { .ms = 0 };
    weir_group        *group = new_group();

    (void)arg;
    weir_spawn(group, offload_it, &first);
    await(&first.begun);
    int64_t before = real_ms();
    HOLDS_EQ(weir_offload(work, &second, weir_in_ms(20)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_offload(work, &second, WEIR_NOW), WEIR_TIMEOUT);
    HOLDS(real_ms() - before < 1000);
    weir_task *task = weir_spawn(group, offload_it, &third);
    sleep_ms(2);
    weir_cancel(task);
    sleep_ms(2);
    HOLDS(weir_task_done(task));
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_CANCELED);
    struct job_of_ours last = { .ms = 0 };
    HOLDS_EQ(weir_offload(work, &last, WEIR_FOREVER), WEIR_OK);
    HOLDS(!second.begun && !third.begun); /* those never began */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_job_given_up_before_it_began_never_begins(void **state)
{
    (void)state;
    reset(1);
    usleep(50000);
    run_real(give_up_in_line, NULL);
}

struct late {
    struct job_of_ours job;
    weir_deadline      deadline;
    weir_status        status, then;
};

static weir_status offload_late(void *arg)
{
    struct late *late = arg;

    late->status = weir_offload(work, &late->job, late->deadline);
    late->then = weir_check();
    return WEIR_OK;
}

static weir_status give_up_too_late(void *arg)
{
    atomic_int  gate = 0; /* both end when it opens */
    struct late timed = { .job = { .gate = &gate }, .deadline = weir_in_ms(300) };
    struct late cancelled = { .job = { .gate = &gate }, .deadline = WEIR_FOREVER };
    weir_group *group = new_group();

    (void)arg;
    weir_spawn(group, offload_late, &timed);
    weir_task *task = weir_spawn(group, offload_late, &cancelled);
    await(&cancelled.job.begun);
    await(&timed.job.begun);
    weir_cancel(task);
    weir_sleep(weir_deadline_at(timed.deadline.at_ns + 20 * 1000000));
    HOLDS_EQ(weir_group_running(group), 2);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS(timed.job.ended && cancelled.job.ended); /* `arg` was ours until then */
    HOLDS_EQ(timed.status, WEIR_OK);
    HOLDS_EQ(cancelled.status, WEIR_OK);
    HOLDS_EQ(timed.then, WEIR_OK);
    HOLDS_EQ(cancelled.then, WEIR_CANCELED); /* the cancel is not forgotten */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_job_that_began_is_waited_for_whatever_happens(void **state)
{
    (void)state;
    reset(10);
    run_real(give_up_too_late, NULL);
}

static weir_status give_up_anywhere(void *arg)
{
    weir_group *group = new_group();
    static struct late lates[200];

    (void)arg;
    memset(lates, 0, sizeof lates);
    for (int i = 0; i < 200; i++) {
        lates[i].job.ms = i % 2;
        lates[i].deadline = weir_deadline_at(weir_in_ms(0).at_ns + i * 100000);
        weir_task *task = weir_spawn(group, offload_late, &lates[i]);
        if (i % 7 == 0) {
            weir_yield();
            weir_cancel(task);
        }
    }
    (void)weir_group_wait(group, WEIR_FOREVER);
    for (int i = 0; i < 200; i++) /* either it never began, or it is over */
        HOLDS_EQ(lates[i].status == WEIR_OK, lates[i].job.ended);
    weir_group_free(group);
    return WEIR_OK;
}

static void giving_up_at_any_moment_is_never_half_done(void **state)
{
    (void)state;
    reset(2);
    run_real(give_up_anywhere, NULL);
}

/* ---- several hubs ------------------------------------------------------------------- */

static void *have_a_hub_that_offloads(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_run(hundred_jobs, NULL), WEIR_OK);
    return NULL;
}

static void the_threads_serve_all_hubs(void **state)
{
    pthread_t threads[3];

    (void)state;
    reset(4);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, have_a_hub_that_offloads, NULL), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(begun_so_far, 300);
    assert_in_range(most, 1, 4);
    assert_notes();
}

/* ---- names ------------------------------------------------------------------------------ */

/* By libc's own getaddrinfo(3), and freed by its own freeaddrinfo(3): what is kept is handed out
   as a copy, which must be made as libc makes them. Others: test_coro_names.c. */
static weir_status look_up_twice(void *arg)
{
    const struct addrinfo hints = { .ai_flags = AI_CANONNAME, .ai_socktype = SOCK_STREAM };
    struct addrinfo      *first = NULL, *second = NULL;
    weir_resolve_stats    before, after;

    (void)arg;
    HOLDS_EQ(weir_resolve("localhost", "3306", &hints, WEIR_FOREVER, &first, NULL), WEIR_OK);
    weir_resolve_stats_read(&before);
    HOLDS_EQ(weir_resolve("localhost", "3306", &hints, WEIR_FOREVER, &second, NULL), WEIR_OK);
    weir_resolve_stats_read(&after);
    HOLDS_EQ(after.kept, before.kept + 1);
    HOLDS(first && second && first != second && first->ai_addr != second->ai_addr);
    HOLDS(strcmp(first->ai_canonname, second->ai_canonname) == 0);
    for (struct addrinfo *a = first, *b = second; a || b; a = a->ai_next, b = b->ai_next) {
        HOLDS(a && b && a->ai_addrlen == b->ai_addrlen);
        if (!a || !b)
            break;
        HOLDS(memcmp(a->ai_addr, b->ai_addr, a->ai_addrlen) == 0);
    }
    freeaddrinfo(first);
    freeaddrinfo(second);
    weir_resolve_forget("localhost");
    return WEIR_OK;
}

static void a_kept_answer_is_freed_like_one_of_libcs(void **state)
{
    (void)state;
    run_real(look_up_twice, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(work_is_done_on_a_thread_while_the_hub_goes_on),
        TEST(a_hundred_jobs_share_ten_threads),
        TEST(jobs_begin_in_the_order_they_came),
        TEST(an_idle_thread_does_not_keep_two_jobs_in_line),
        TEST(a_nested_call_runs_where_it_is),
        TEST(a_job_given_up_before_it_began_never_begins),
        TEST(a_job_that_began_is_waited_for_whatever_happens),
        TEST(giving_up_at_any_moment_is_never_half_done),
        TEST(the_threads_serve_all_hubs),
        TEST(a_kept_answer_is_freed_like_one_of_libcs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
