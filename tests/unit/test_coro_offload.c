/*
 * test_coro_offload.c - blocking work and name lookups on threads. Worth most under a race
 * detector.
 *
 * getaddrinfo(3) is ours here. A name that ends in ".test" has an address, one in ".slow.test"
 * after a second, ".none.test" is unknown and ".ill.test" fails by errno.
 */
#include "coro_unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- a name server of our own ------------------------------------------------------- */

static atomic_int asked, answers_made, answers_freed;

static bool ends_in(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);

    return n >= t && strcmp(name + n - t, tail) == 0;
}

static int make_answer(const char *address, struct addrinfo **out)
{
    struct {
        struct addrinfo    info;
        struct sockaddr_in in;
    } *made = calloc(1, sizeof *made);

    if (inet_pton(AF_INET, address, &made->in.sin_addr) != 1) {
        free(made);
        return EAI_NONAME;
    }
    made->in.sin_family = AF_INET;
    made->info.ai_family = AF_INET;
    made->info.ai_addr = (struct sockaddr *)&made->in;
    made->info.ai_addrlen = sizeof made->in;
    *out = &made->info;
    atomic_fetch_add(&answers_made, 1);
    return 0;
}

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict out)
{
    (void)service;
    if (hints && hints->ai_flags & AI_NUMERICHOST)
        return name ? make_answer(name, out) : EAI_NONAME;
    atomic_fetch_add(&asked, 1);
    if (ends_in(name, ".slow.test"))
        usleep(1000000);
    if (ends_in(name, ".none.test"))
        return EAI_NONAME;
    if (ends_in(name, ".ill.test")) {
        errno = EIO;
        return EAI_SYSTEM;
    }
    return make_answer("192.0.2.7", out);
}

void freeaddrinfo(struct addrinfo *info)
{
    atomic_fetch_add(&answers_freed, 1);
    free(info);
}

static bool is_answer(const struct addrinfo *info, const char *address)
{
    char text[INET_ADDRSTRLEN] = "";

    if (info && info->ai_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)info->ai_addr)->sin_addr, text, sizeof text);
    return strcmp(text, address) == 0;
}

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
    reset(8);
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

static void a_hundred_jobs_share_eight_threads(void **state)
{
    (void)state;
    reset(8);
    run_real(hundred_jobs, NULL);
    assert_int_equal(begun_so_far, 100);
    assert_in_range(most, 2, 8);
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
    reset(8);
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
    reset(8);
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

/* ---- names -------------------------------------------------------------------------- */

static weir_status look_up_some(void *arg)
{
    struct addrinfo *info = NULL;
    weir_error       err = { .status = WEIR_FAILED };
    int              before = asked;

    (void)arg;
    HOLDS_EQ(weir_resolve("127.0.0.1", "3306", NULL, WEIR_NOW, &info, &err), WEIR_OK);
    HOLDS(is_answer(info, "127.0.0.1"));
    HOLDS_EQ(asked, before); /* no name server, hence no thread, and no wait */
    freeaddrinfo(info);

    HOLDS_EQ(weir_resolve("db.test", "3306", NULL, WEIR_FOREVER, &info, &err), WEIR_OK);
    HOLDS(is_answer(info, "192.0.2.7"));
    HOLDS_EQ(asked, before + 1);
    freeaddrinfo(info);

    HOLDS_EQ(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, &err), WEIR_CONNECT);
    HOLDS(info == NULL);
    HOLDS_EQ(err.status, WEIR_CONNECT);
    HOLDS_EQ(err.native, EAI_NONAME);
    HOLDS(strstr(err.message, "'db.none.test'") != NULL);
    HOLDS(strstr(err.message, gai_strerror(EAI_NONAME)) != NULL);

    HOLDS_EQ(weir_resolve("db.ill.test", NULL, NULL, WEIR_FOREVER, &info, &err), WEIR_CONNECT);
    HOLDS_EQ(err.native, EIO);
    HOLDS(strstr(err.message, strerror(EIO)) != NULL);
    HOLDS_EQ(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, NULL), WEIR_CONNECT);
    return WEIR_OK;
}

static void names_are_looked_up_and_failures_told_in_the_resolvers_words(void **state)
{
    struct addrinfo *info;
    weir_error       err;

    (void)state;
    run_real(look_up_some, NULL);

    /* Outside of a coroutine it blocks. */
    assert_int_equal(weir_resolve("db.test", NULL, NULL, WEIR_FOREVER, &info, &err), WEIR_OK);
    assert_true(is_answer(info, "192.0.2.7"));
    freeaddrinfo(info);
    assert_int_equal(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, &err),
                     WEIR_CONNECT);
    assert_int_equal(answers_made, answers_freed);
}

static weir_status look_up_slowly(void *arg)
{
    struct addrinfo *info = (void *)1;
    weir_error       err;

    weir_status status =
        weir_resolve("db.slow.test", NULL, NULL, *(weir_deadline *)arg, &info, &err);
    HOLDS(info == NULL);
    HOLDS_EQ(err.status, status);
    HOLDS(strstr(err.message, "'db.slow.test'") != NULL);
    return status;
}

static weir_status abandon_lookups(void *arg)
{
    weir_group        *group = new_group();
    struct job_of_ours job = { .ms = 1 };
    struct addrinfo   *info = NULL;
    int64_t            before = real_ms();
    int                asked_before = asked;
    weir_deadline      soon = weir_in_ms(50), never = WEIR_FOREVER;
    weir_status        result = WEIR_OK;

    (void)arg;
    /* Two begin, the others wait in line; one is cancelled, the rest are late. */
    for (int i = 0; i < 4; i++)
        weir_spawn(group, look_up_slowly, &soon);
    weir_task *task = weir_spawn(group, look_up_slowly, &never);
    sleep_ms(10);
    HOLDS_EQ(weir_offload(work, &job, weir_in_ms(500)), WEIR_OK); /* not held up by names */
    weir_cancel(task);
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_CANCELED);
    (void)weir_group_wait(group, WEIR_FOREVER);
    HOLDS_EQ(weir_group_failed(group), 5);
    HOLDS(real_ms() - before < 900); /* nobody waited for the answer */
    weir_group_free(group);

    /* The next one does have to wait for a thread, and gets it. */
    HOLDS_EQ(weir_resolve("db.test", NULL, NULL, weir_in_ms(5000), &info, NULL), WEIR_OK);
    freeaddrinfo(info);
    HOLDS(asked - asked_before <= 3); /* those in line were never asked for */
    return WEIR_OK;
}

static void a_lookup_that_is_late_or_cancelled_is_left_to_its_thread(void **state)
{
    (void)state;
    reset(8);
    run_real(abandon_lookups, NULL);
    for (int i = 0; i < 3000 && answers_made != answers_freed; i++)
        usleep(1000);
    assert_int_equal(answers_made, answers_freed); /* the thread freed what nobody wanted */
    usleep(20000);                                 /* and its own record */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(work_is_done_on_a_thread_while_the_hub_goes_on),
        TEST(a_hundred_jobs_share_eight_threads),
        TEST(jobs_begin_in_the_order_they_came),
        TEST(an_idle_thread_does_not_keep_two_jobs_in_line),
        TEST(a_nested_call_runs_where_it_is),
        TEST(a_job_given_up_before_it_began_never_begins),
        TEST(a_job_that_began_is_waited_for_whatever_happens),
        TEST(giving_up_at_any_moment_is_never_half_done),
        TEST(the_threads_serve_all_hubs),
        TEST(names_are_looked_up_and_failures_told_in_the_resolvers_words),
        TEST(a_lookup_that_is_late_or_cancelled_is_left_to_its_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
