/*
 * test_coro_run.c - a hub from its beginning to its end: weir_run() and weir_attach().
 */
#include "coro_unit.h"

#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <sys/resource.h>

/* ---- weir_run ----------------------------------------------------------------------- */

static weir_status return_what_i_am_told(void *arg)
{
    return *(weir_status *)arg;
}

static void weir_run_returns_what_app_returns(void **state)
{
    weir_status well = WEIR_OK, badly = WEIR_FAILED;

    (void)state;
    assert_int_equal(weir_run(return_what_i_am_told, &well), WEIR_OK);
    assert_int_equal(weir_run(return_what_i_am_told, &badly), WEIR_FAILED);
    assert_null(weir_hub_here());
}

static int ended;

static weir_status end_later(void *arg)
{
    (void)arg;
    sleep_ms(50);
    ended++;
    return WEIR_OK;
}

static weir_status spawn_one_more(void *arg)
{
    sleep_ms(20);
    HOLDS(weir_spawn(NULL, end_later, arg) != NULL);
    ended++;
    return WEIR_OK;
}

static weir_status leave_two_behind(void *arg)
{
    HOLDS(weir_spawn(NULL, end_later, arg) != NULL);
    HOLDS(weir_spawn(NULL, spawn_one_more, arg) != NULL);
    return WEIR_OK;
}

static void weir_run_waits_for_everything_spawned(void **state)
{
    (void)state;
    ended = 0;
    run_world(leave_two_behind, NULL);
    assert_int_equal(ended, 3);
    ended = 0;
    run_real(leave_two_behind, NULL);
    assert_int_equal(ended, 3);
}

static weir_status end_badly(void *arg)
{
    (void)arg;
    return WEIR_LOST;
}

static weir_status spawn_a_failure(void *arg)
{
    weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "loser" }, end_badly, arg);
    return WEIR_OK;
}

static void a_detached_failure_is_logged_once(void **state)
{
    (void)state;
    run_world(spawn_a_failure, NULL); /* and is not what weir_run() returns */
    assert_int_equal(log_says("detached loser 2, spawned at "), 1);
    assert_int_equal(log_says("test_coro_run.c:"), 1);
    assert_int_equal(log_took("ended with LOST"), 1);
}

static weir_status run_another(void *arg)
{
    weir_status well = WEIR_OK;

    (void)arg;
    HOLDS_EQ(weir_run(return_what_i_am_told, &well), WEIR_USAGE);
    HOLDS_EQ(weir_run_with(&(weir_run_opts){ .cancel_on_signals = true }, return_what_i_am_told,
                           &well),
             WEIR_USAGE);
    HOLDS_EQ(sleep_ms(1), WEIR_OK); /* our own hub is as it was */
    return WEIR_OK;
}

/* It takes three: an epoll set, a timer, a bell. */
static void a_hub_without_descriptors_is_refused(void **state)
{
    struct rlimit before, none;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    for (rlim_t spare = 0; spare < 3; spare++) {
        int next = dup(STDERR_FILENO); /* the lowest free number */
        close(next);
        none.rlim_cur = (rlim_t)next + spare;
        setrlimit(RLIMIT_NOFILE, &none);
        weir_status status = weir_run(run_another, NULL);
        setrlimit(RLIMIT_NOFILE, &before);
        assert_int_equal(status, WEIR_NOMEM);
        assert_int_equal(log_took("file descriptors, for a hub"), 1);
    }
}

static void a_second_weir_run_on_the_thread_is_refused(void **state)
{
    (void)state;
    run_real(run_another, NULL);
    assert_int_equal(log_took("has a hub already"), 2);
    assert_int_equal(weir_run_with(&(weir_run_opts){ .cancel_on_signals = true }, run_another,
                                   NULL),
                     WEIR_OK);
    assert_int_equal(log_took("has a hub already"), 2);
}

static void there_must_be_something_to_run(void **state)
{
    (void)state;
    assert_int_equal(weir_run(NULL, NULL), WEIR_USAGE);
    assert_int_equal(log_took("without a function to run"), 1);
}

static weir_status mind_my_errno(void *arg)
{
    int mine = (int)(intptr_t)arg;

    errno = mine;
    for (int i = 0; i < 10; i++) {
        if (i % 2)
            weir_yield();
        else
            sleep_ms(1);
        HOLDS_EQ(errno, mine);
    }
    return WEIR_OK;
}

static weir_status spawn_minders(void *arg)
{
    (void)arg;
    errno = EPIPE;
    for (intptr_t i = 1; i <= 20; i++)
        weir_spawn(NULL, mind_my_errno, (void *)i);
    sleep_ms(5);
    HOLDS_EQ(errno, EPIPE);
    return WEIR_OK;
}

static void errno_is_each_coroutines_own(void **state)
{
    (void)state;
    run_world(spawn_minders, NULL);
    run_real(spawn_minders, NULL);
}

static weir_status introduce_myself(void *arg)
{
    weir_task *self = weir_self();

    HOLDS_EQ(weir_task_id(self), 3);
    HOLDS(strcmp(weir_task_name(self), "clerk") == 0);
    HOLDS(weir_task_hub(self) == weir_hub_here());
    HOLDS(!weir_task_done(self));
    *(bool *)arg = true;
    return WEIR_OK;
}

static weir_status introduce(void *arg)
{
    weir_group *group = NULL;
    bool        nameless_ran = false, clerk_ran = false;

    (void)arg;
    HOLDS_EQ(weir_task_id(weir_self()), 1);
    HOLDS(strcmp(weir_task_name(weir_self()), "main") == 0);
    HOLDS(strcmp(weir_task_site(weir_self()), "weir_run()") == 0);
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_status well = WEIR_OK;
    weir_task  *nameless = weir_spawn(group, return_what_i_am_told, &well);
    weir_task  *clerk = weir_spawn_with(group, &(weir_spawn_opts){ .name = "clerk" },
                                       introduce_myself, &clerk_ran);
    HOLDS_EQ(weir_task_id(nameless), 2);
    HOLDS(weir_task_name(nameless) != NULL);
    HOLDS(strstr(weir_task_site(nameless), "test_coro_run.c:") != NULL);
    HOLDS(strcmp(weir_task_site(nameless), weir_task_site(clerk)) != 0);
    HOLDS(!weir_task_done(clerk)); /* it runs when we yield, never at once */
    HOLDS(!clerk_ran && !nameless_ran);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS(clerk_ran && weir_task_done(clerk) && weir_task_done(nameless));
    weir_group_free(group);
    return WEIR_OK;
}

static void a_coroutine_has_a_number_a_name_and_a_place(void **state)
{
    (void)state;
    assert_null(weir_self());
    run_world(introduce, NULL);
}

/* ---- what is left open when the hub ends -------------------------------------------- */

static char hooks_ran[8];

static void first_hook(weir_exit_hook *hook)
{
    (void)hook;
    HOLDS_EQ(ended, 3); /* after app and all it spawned */
    HOLDS(weir_self() != NULL);
    HOLDS_EQ(sleep_ms(5), WEIR_OK); /* it may wait, although app was cancelled */
    strcat(hooks_ran, "1");
}

static void second_hook(weir_exit_hook *hook)
{
    (void)hook;
    HOLDS_EQ(weir_yield(), WEIR_OK);
    strcat(hooks_ran, "2");
}

static weir_status leave_two_hooks(void *arg)
{
    static weir_exit_hook first = { .fn = first_hook }, second = { .fn = second_hook };

    weir_hub_end_hook_add(&first);
    weir_hub_end_hook_add(&second);
    weir_cancel(weir_self());
    return leave_two_behind(arg);
}

static void end_hooks_run_last_and_latest_first(void **state)
{
    (void)state;
    ended = 0;
    hooks_ran[0] = '\0';
    run_world(leave_two_hooks, NULL);
    assert_string_equal(hooks_ran, "21");
}

/* ---- signals ------------------------------------------------------------------------ */

static weir_status not_meant(void *arg)
{
    *(weir_status *)arg = sleep_ms(20);
    return WEIR_OK;
}

static weir_status wait_for_a_signal(void *arg)
{
    weir_spawn(NULL, not_meant, arg);
    raise(SIGTERM);
    return weir_sleep(WEIR_FOREVER);
}

static void a_signal_cancels_app_and_nobody_else(void **state)
{
    weir_run_opts    opts = { .cancel_on_signals = true };
    weir_status      other = WEIR_FAILED;
    struct sigaction now;

    (void)state;
    assert_int_equal(weir_run_with(&opts, wait_for_a_signal, &other), WEIR_CANCELED);
    assert_int_equal(other, WEIR_OK);
    assert_notes();
    assert_int_equal(sigaction(SIGTERM, NULL, &now), 0);
    assert_true(now.sa_handler == SIG_DFL);
}

static weir_status end_at_a_signal(void *arg)
{
    weir_task *other = weir_spawn(NULL, not_meant, arg);

    (void)other;
    raise(SIGINT);
    return weir_sleep(WEIR_FOREVER);
}

static void an_interrupt_does_the_same(void **state)
{
    weir_run_opts opts = { .cancel_on_signals = true };
    weir_status   other = WEIR_FAILED;

    (void)state;
    assert_int_equal(weir_run_with(&opts, end_at_a_signal, &other), WEIR_CANCELED);
    assert_int_equal(other, WEIR_OK);
}

/* ---- several hubs ------------------------------------------------------------------- */

static weir_status count_here(void *arg)
{
    int *count = arg;

    sleep_ms(1);
    ++*count;
    return WEIR_OK;
}

static weir_status spawn_counters(void *arg)
{
    for (int i = 0; i < 50; i++)
        weir_spawn(NULL, count_here, arg);
    return WEIR_OK;
}

static void *have_a_hub(void *arg)
{
    for (int round = 0; round < 5; round++)
        HOLDS_EQ(weir_run(spawn_counters, arg), WEIR_OK);
    HOLDS(weir_hub_here() == NULL);
    return NULL;
}

static void each_thread_may_have_a_hub(void **state)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    int       counts[THREADS] = { 0 };

    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, have_a_hub, &counts[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(counts[i], 250);
    }
    assert_notes();
}

static weir_status have_a_thousand(void *arg)
{
    for (int i = 0; i < 1000; i++)
        weir_spawn(NULL, count_here, arg);
    return WEIR_OK;
}

static void hubs_come_and_go_and_leave_nothing_behind(void **state)
{
    int count = 0;

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(world_run(have_a_thousand, &count), WEIR_OK);
    assert_int_equal(count, 2000);
}

/* ---- a loop of the application's ---------------------------------------------------- */

static void spawn_from_a_callback(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    HOLDS(weir_self() == NULL);
    HOLDS(weir_spawn(NULL, end_later, timer->data) != NULL);
}

static void an_application_may_keep_its_own_loop(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    weir_error      err;
    ev_timer        timer;

    (void)state;
    ended = 0;
    assert_int_equal(weir_attach(loop, NULL, &err), WEIR_OK);
    assert_int_equal(weir_attach(loop, NULL, &err), WEIR_USAGE);
    assert_non_null(weir_hub_here());

    ev_run(loop, 0); /* nothing to do: our watchers alone do not keep it */

    assert_non_null(weir_spawn(NULL, end_later, NULL));
    assert_int_equal(weir_detach(&err), WEIR_BUSY);
    assert_non_null(strstr(err.message, "1 coroutines are alive"));
    ev_run(loop, 0);
    assert_int_equal(ended, 1);

    ev_timer_init(&timer, spawn_from_a_callback, 0.005, 0.);
    timer.data = NULL;
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
    assert_int_equal(ended, 2); /* although the loop had nothing left but our coroutine */

    assert_int_equal(weir_detach(&err), WEIR_OK);
    assert_int_equal(weir_detach(&err), WEIR_USAGE);
    assert_null(weir_hub_here());

    ev_run(loop, 0); /* as if we had never been there: nothing keeps it, nothing of ours rings */
    assert_int_equal(weir_attach(loop, NULL, NULL), WEIR_OK);
    assert_non_null(weir_spawn(NULL, end_later, NULL));
    ev_run(loop, 0);
    assert_int_equal(weir_detach(NULL), WEIR_OK);
    assert_int_equal(ended, 3);
    ev_loop_destroy(loop);
    assert_notes();
}

static void work_in_a_callback(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    if (++*(int *)timer->data == 5)
        ev_timer_stop(loop, timer);
}

static weir_status be_parked(void *arg)
{
    *(weir_waker *)arg = weir_waker_new();
    return weir_park(WEIR_FOREVER, "a callback of the loop");
}

static void wake_from_a_callback(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    weir_wake(*(weir_waker *)timer->data);
}

static void coroutines_and_callbacks_share_the_loop(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    ev_timer        ticks, wake;
    weir_waker      waker = { 0 };
    int             ticked = 0;

    (void)state;
    ended = 0;
    assert_int_equal(weir_attach(loop, NULL, NULL), WEIR_OK);
    ev_timer_init(&ticks, work_in_a_callback, 0.002, 0.002);
    ticks.data = &ticked;
    ev_timer_start(loop, &ticks);
    ev_timer_init(&wake, wake_from_a_callback, 0.02, 0.);
    wake.data = &waker;
    ev_timer_start(loop, &wake);
    weir_spawn(NULL, be_parked, &waker);
    weir_spawn(NULL, end_later, NULL);
    ev_run(loop, 0);
    assert_int_equal(ticked, 5);
    assert_int_equal(ended, 1);
    assert_int_equal(weir_detach(NULL), WEIR_OK);
    ev_loop_destroy(loop);
}

static weir_status detach_from_inside(void *arg)
{
    weir_error err;

    (void)arg;
    HOLDS_EQ(weir_detach(&err), WEIR_USAGE);
    return WEIR_OK;
}

static void attaching_and_detaching_wrongly_is_refused(void **state)
{
    weir_error err;

    (void)state;
    assert_int_equal(weir_attach(NULL, NULL, &err), WEIR_USAGE);
    assert_int_equal(weir_detach(&err), WEIR_USAGE);
    assert_int_equal(weir_detach(NULL), WEIR_USAGE);

    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    assert_int_equal(weir_attach(loop, &(weir_run_opts){ .cancel_on_signals = true }, &err),
                     WEIR_USAGE);
    assert_int_equal(weir_attach(loop, NULL, &err), WEIR_OK);
    assert_non_null(weir_spawn(NULL, detach_from_inside, NULL));
    ev_run(loop, 0);
    assert_int_equal(weir_detach(&err), WEIR_OK);
    ev_loop_destroy(loop);
    run_real(detach_from_inside, NULL);
}

static void break_off(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)timer;
    (void)events;
    ev_break(loop, EVBREAK_ALL);
}

static void a_loop_cannot_be_left_while_somebody_lives_on_it(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    weir_waker      waker = { 0 };
    ev_timer        timer;
    weir_error      err;

    (void)state;
    assert_int_equal(weir_attach(loop, NULL, &err), WEIR_OK);
    weir_spawn_at(NULL, &(weir_spawn_opts){ .name = "lingerer" }, be_parked, &waker, "bar.c:5");
    ev_timer_init(&timer, break_off, 0.01, 0.);
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
    assert_int_equal(weir_detach(&err), WEIR_BUSY);
    assert_non_null(strstr(err.message, "the oldest is lingerer 1, spawned at bar.c:5, and waits "
                                        "for a callback of the loop"));
    weir_wake(waker); /* nothing has changed: he goes on */
    ev_run(loop, 0);
    assert_int_equal(weir_detach(&err), WEIR_OK);
    ev_loop_destroy(loop);
}

/* ---- outside of any hub ------------------------------------------------------------- */

static void without_a_hub_calls_block_or_are_refused(void **state)
{
    weir_group *group;
    weir_task  *reserve;
    weir_error  err;
    int64_t     before = real_ms();

    (void)state;
    assert_int_equal(weir_sleep(weir_in_ms(20)), WEIR_OK);
    assert_true(real_ms() - before >= 19);
    assert_int_equal(weir_yield(), WEIR_OK);
    assert_int_equal(weir_check(), WEIR_OK);
    assert_int_equal(weir_group_new(NULL, &group, &err), WEIR_USAGE);
    assert_null(group);
    assert_int_equal(weir_reserve_new("nobody", &reserve, &err), WEIR_USAGE);
    assert_null(reserve);
    assert_null(weir_spawn(NULL, end_badly, NULL));
    assert_int_equal(log_took("without a hub"), 1);
    assert_int_equal(weir_park(WEIR_NOW, "nothing"), WEIR_USAGE);
    assert_int_equal(log_took("outside of a coroutine"), 1);
    weir_wake(weir_waker_new());
    weir_cancel(NULL);
    {
        WEIR_DEADLINE(WEIR_NOW); /* says nothing here, but does no harm */
        assert_int_equal(weir_check(), WEIR_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(weir_run_returns_what_app_returns),
        TEST(weir_run_waits_for_everything_spawned),
        TEST(a_detached_failure_is_logged_once),
        TEST(a_hub_without_descriptors_is_refused),
        TEST(a_second_weir_run_on_the_thread_is_refused),
        TEST(there_must_be_something_to_run),
        TEST(errno_is_each_coroutines_own),
        TEST(a_coroutine_has_a_number_a_name_and_a_place),
        TEST(end_hooks_run_last_and_latest_first),
        TEST(a_signal_cancels_app_and_nobody_else),
        TEST(an_interrupt_does_the_same),
        TEST(each_thread_may_have_a_hub),
        TEST(hubs_come_and_go_and_leave_nothing_behind),
        TEST(an_application_may_keep_its_own_loop),
        TEST(coroutines_and_callbacks_share_the_loop),
        TEST(attaching_and_detaching_wrongly_is_refused),
        TEST(a_loop_cannot_be_left_while_somebody_lives_on_it),
        TEST(without_a_hub_calls_block_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
