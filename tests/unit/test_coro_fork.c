/*
 * test_coro_fork.c - a fork with coroutines parked, in the child and in the parent. On the real
 * hub: the kernel's objects are what must not be shared.
 *
 * A child notes what does not hold like everybody else; how it ends tells its parent.
 */
#include "coro_unit.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <weir/process.h>
#include <weir/sync.h>

enum { WELL = 40, NOTED = 41 }; /* how a child ends */

static pid_t parent;

static bool in_child(void)
{
    return getpid() != parent;
}

/* A child never returns into the test. */
static _Noreturn void end_child(void)
{
    if (unit_notes.broken)
        fprintf(stderr, "noted in the child: %s\n", unit_notes.first);
    if (unit_notes.logged)
        fprintf(stderr, "logged in the child: %s", unit_notes.log);
    _exit(unit_notes.broken || unit_notes.logged ? NOTED : WELL);
}

/* In the parent, in a coroutine: the child ended well. */
static void wait_for(pid_t child)
{
    int status = -1;

    HOLDS(child > 0);
    HOLDS_EQ(weir_waitpid(child, weir_in_ms(20000), &status, NULL), WEIR_OK);
    HOLDS(WIFEXITED(status));
    HOLDS_EQ(WEXITSTATUS(status), WELL);
}

/* Run it here; weir_run() returns in the child, too. */
static void run_both(weir_fn app, void *arg)
{
    parent = getpid();
    weir_status status = weir_run(app, arg);
    if (in_child()) {
        HOLDS_EQ(status, WEIR_LOST); /* what whoever forked returned there */
        HOLDS(weir_hub_here() == NULL);
        end_child();
    }
    assert_int_equal(status, WEIR_OK);
    assert_notes();
}

/* ---- the child ---------------------------------------------------------------------- */

static int passers;

static weir_status pass_by(void *arg)
{
    (void)arg;
    sleep_ms(20);
    passers++;
    return WEIR_OK;
}

static weir_status stand_ready(void *arg)
{
    (void)arg;
    weir_yield();
    passers++;
    return WEIR_OK;
}

static void add_one(void *arg)
{
    ++*(int *)arg;
}

static weir_status echo(void *arg)
{
    int *ends = arg;

    sleep_ms(1);
    HOLDS_EQ(write(ends[1], "x", 1), 1);
    return WEIR_OK;
}

/* All a hub can do, it can do in the child. */
static void use_the_hub(void)
{
    int ends[2], added = 0;

    HOLDS_EQ(pipe(ends), 0);
    weir_group *group = NULL;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    HOLDS(weir_spawn(group, echo, ends) != NULL);
    HOLDS_EQ(weir_wait_fd(ends[0], WEIR_READ, weir_in_ms(5000), NULL), WEIR_OK);
    HOLDS_EQ(weir_offload(add_one, &added, weir_in_ms(5000)), WEIR_OK);
    HOLDS_EQ(added, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    weir_group_free(group);
    HOLDS_EQ(sleep_ms(40), WEIR_OK);
    weir_close(ends[0]);
    weir_close(ends[1]);
}

static weir_status fork_one(void *arg)
{
    pid_t child = weir_fork();

    (void)arg;
    if (child) {
        wait_for(child);
        return WEIR_OK;
    }
    int before = passers;
    use_the_hub();
    HOLDS_EQ(passers, before); /* nobody else has run */
    return WEIR_LOST;
}

static weir_status fork_from_beside(void *arg)
{
    int added = 0;

    (void)arg;
    passers = 0;
    HOLDS_EQ(weir_offload(add_one, &added, WEIR_FOREVER), WEIR_OK); /* so there are threads */
    for (int i = 0; i < 10; i++)
        weir_spawn(NULL, pass_by, NULL);
    weir_spawn(NULL, stand_ready, NULL);
    weir_task *task = weir_spawn(NULL, fork_one, NULL);
    weir_spawn(NULL, stand_ready, NULL);
    HOLDS_EQ(weir_join(task, weir_in_ms(20000), NULL), WEIR_OK);
    HOLDS(!in_child());
    HOLDS_EQ(passers, 12); /* here everybody has */
    return WEIR_OK;
}

static void the_child_goes_on_in_the_coroutine_that_forked(void **state)
{
    (void)state;
    run_both(fork_from_beside, NULL);
}

static weir_status fork_in_main(void *arg)
{
    for (int i = 0; i < 3; i++)
        weir_spawn(NULL, pass_by, NULL);
    sleep_ms(1);
    return fork_one(arg);
}

static void so_does_the_main_one(void **state)
{
    (void)state;
    passers = 0;
    run_both(fork_in_main, NULL);
    assert_int_equal(passers, 3);
}

static weir_status fork_again(void *arg)
{
    pid_t child = weir_fork();

    (void)arg;
    if (child) {
        wait_for(child);
        return WEIR_OK;
    }
    weir_spawn(NULL, pass_by, NULL);
    pid_t grandchild = fork(); /* a plain one does as well */
    if (grandchild == 0)
        use_the_hub();
    else
        wait_for(grandchild);
    return WEIR_LOST;
}

static weir_status fork_from_beside_again(void *arg)
{
    (void)arg;
    return weir_join(weir_spawn(NULL, fork_again, NULL), weir_in_ms(20000), NULL);
}

static void a_child_may_fork_too(void **state)
{
    (void)state;
    run_both(fork_from_beside_again, NULL);
}

static weir_status fail_late(void *arg)
{
    (void)arg;
    sleep_ms(10);
    return WEIR_OK;
}

static weir_status fork_with_a_group(void *arg)
{
    weir_group *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .max_running = 4 }, &group, NULL), WEIR_OK);
    for (int i = 0; i < 3; i++)
        weir_spawn(group, fail_late, NULL);
    sleep_ms(1);
    pid_t child = weir_fork();
    if (child == 0) {
        HOLDS_EQ(weir_group_running(group), 0);
        HOLDS_EQ(weir_group_wait(group, weir_in_ms(1000)), WEIR_CANCELED);
        HOLDS_EQ(weir_group_failed(group), 3);
        HOLDS(weir_spawn(group, fail_late, NULL) != NULL); /* it can be used on */
        (void)weir_group_wait(group, weir_in_ms(1000));
        HOLDS_EQ(weir_group_running(group), 0);
        weir_group_free(group);
        return WEIR_LOST;
    }
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    wait_for(child);
    weir_group_free(group);
    return WEIR_OK;
}

static void groups_count_the_dropped_ones_as_cancelled(void **state)
{
    (void)state;
    run_both(fork_with_a_group, NULL);
}

/* ---- the parent --------------------------------------------------------------------- */

struct line {
    int  ends[2];
    int  heard;
};

static weir_status hear(void *arg)
{
    struct line *line = arg;
    char         byte;

    while (line->heard < 3) {
        HOLDS_EQ(weir_wait_fd(line->ends[0], WEIR_READ, weir_in_ms(10000), NULL), WEIR_OK);
        if (read(line->ends[0], &byte, 1) != 1)
            return WEIR_FAILED;
        line->heard++;
    }
    return WEIR_OK;
}

static weir_status fork_and_talk_on(void *arg)
{
    struct line line = { .heard = 0 };

    (void)arg;
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, line.ends), 0);
    weir_task *listener = weir_spawn(NULL, hear, &line);
    HOLDS_EQ(write(line.ends[1], "1", 1), 1);
    sleep_ms(2);

    pid_t child = weir_fork();
    if (child == 0) {
        /* Its own set: what it watches, forgets and closes is not what the parent watches. */
        HOLDS_EQ(weir_wait_fd(line.ends[0], WEIR_READ, weir_in_ms(10), NULL), WEIR_TIMEOUT);
        weir_close(line.ends[0]);
        weir_close(line.ends[1]);
                return WEIR_LOST;
    }
    wait_for(child);
    HOLDS_EQ(write(line.ends[1], "2", 1), 1);
    sleep_ms(2);
    HOLDS_EQ(write(line.ends[1], "3", 1), 1);
    HOLDS_EQ(weir_join(listener, weir_in_ms(5000), NULL), WEIR_OK);
    HOLDS_EQ(line.heard, 3);
    weir_close(line.ends[0]);
    weir_close(line.ends[1]);
    return WEIR_OK;
}

static void the_parent_is_not_disturbed(void **state)
{
    (void)state;
    run_both(fork_and_talk_on, NULL);
}

/* ---- hooks and alarms --------------------------------------------------------------- */

static struct hooks {
    weir_exit_hook forked, end;
    weir_alarm     alarm;
    int            told, ended, rang;
    pid_t          told_in;
} hooks;

static void ring(weir_alarm *alarm)
{
    (void)alarm;
    hooks.rang++;
}

static void on_fork(weir_exit_hook *hook)
{
    HOLDS(hook == &hooks.forked);
    hooks.told++;
    hooks.told_in = getpid();
    HOLDS_EQ(hooks.alarm.slot, 0);
    weir_alarm_set(&hooks.alarm, weir_now(), ring);
}

static void on_end(weir_exit_hook *hook)
{
    (void)hook;
    hooks.ended++;
}

static weir_status fork_with_hooks(void *arg)
{
    (void)arg;
    hooks = (struct hooks){ .forked.fn = on_fork, .end.fn = on_end };
    weir_fork_hook_add(&hooks.forked);
    weir_hub_end_hook_add(&hooks.end);
    HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
    weir_alarm_set(&hooks.alarm, weir_in_ms(60000).at_ns, ring);
    pid_t child = weir_fork();
    if (child == 0) {
        HOLDS_EQ(hooks.told, 1);
        HOLDS_EQ(hooks.told_in, getpid());
        sleep_ms(5);
        HOLDS_EQ(hooks.rang, 1);
        weir_alarm_stop(&hooks.alarm);
        weir_exit_hook_remove(&hooks.end); /* dropped already: no harm */
        weir_exit_hook_remove(&hooks.forked);
        return WEIR_LOST;
    }
    wait_for(child);
    HOLDS_EQ(hooks.told, 0);
    HOLDS_EQ(hooks.rang, 0);
    weir_alarm_stop(&hooks.alarm);
    weir_exit_hook_remove(&hooks.forked);
    return WEIR_OK;
}

static void fork_hooks_are_told_and_end_hooks_are_the_parents(void **state)
{
    (void)state;
    run_both(fork_with_hooks, NULL);
    assert_int_equal(hooks.ended, 1);
}

static weir_status leave_an_end_hook(void *arg)
{
    (void)arg;
    hooks = (struct hooks){ .end.fn = on_end };
    weir_hub_end_hook_add(&hooks.end);
    pid_t child = weir_fork();
    if (child == 0)
        return WEIR_LOST;
    wait_for(child);
    return WEIR_OK;
}

static void what_the_parent_left_open_the_child_does_not_close(void **state)
{
    (void)state;
    parent = getpid();
    weir_status status = weir_run(leave_an_end_hook, NULL);
    if (in_child()) {
        HOLDS_EQ(status, WEIR_LOST);
        HOLDS_EQ(hooks.ended, 0);
        end_child();
    }
    assert_int_equal(status, WEIR_OK);
    assert_int_equal(hooks.ended, 1);
    assert_notes();
}

static int errno_of_fork;

static void fork_on_the_hubs_stack(weir_alarm *alarm)
{
    (void)alarm;
    errno = 0;
    HOLDS_EQ(weir_fork(), -1);
    errno_of_fork = errno;
}

static weir_status fork_by_alarm(void *arg)
{
    weir_alarm alarm = { 0 };

    (void)arg;
    HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
    weir_alarm_set(&alarm, weir_now(), fork_on_the_hubs_stack);
    sleep_ms(5);
    HOLDS_EQ(errno_of_fork, EPERM);
    HOLDS_EQ(weir_alarm_reserve(-1), WEIR_OK);
    return WEIR_OK;
}

static void where_no_coroutine_could_go_on_it_is_refused(void **state)
{
    (void)state;
    run_both(fork_by_alarm, NULL);
}

/* ---- other threads, other loops ----------------------------------------------------- */

static weir_status sleep_a_little(void *arg)
{
    (void)arg;
    return sleep_ms(2);
}

static void fork_on_a_thread(void *arg)
{
    pid_t child = fork();

    if (child == 0) {
        /* No hub here: one can be had. */
        HOLDS(weir_hub_here() == NULL);
        HOLDS_EQ(weir_run(sleep_a_little, NULL), WEIR_OK);
        end_child();
    }
    *(pid_t *)arg = child;
}

static weir_status fork_while_others_run(void *arg)
{
    pid_t child = -1;

    (void)arg;
    HOLDS_EQ(weir_offload(fork_on_a_thread, &child, WEIR_FOREVER), WEIR_OK);
    wait_for(child);
    use_the_hub();
    return WEIR_OK;
}

static void a_fork_on_another_thread_leaves_no_hub(void **state)
{
    (void)state;
    run_both(fork_while_others_run, NULL);
}

static weir_status fork_attached(void *arg)
{
    pid_t child = weir_fork();

    if (child == 0) {
        use_the_hub();
        *(bool *)arg = true;
        return WEIR_OK;
    }
    wait_for(child);
    return WEIR_OK;
}

static void an_attached_hub_goes_on_in_the_childs_loop(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL);
    bool            done_in_child = false;

    (void)state;
    parent = getpid();
    assert_int_equal(weir_attach(loop, NULL, NULL), WEIR_OK);
    weir_spawn(NULL, pass_by, NULL);
    weir_spawn(NULL, fork_attached, &done_in_child);
    ev_run(loop, 0);
    if (in_child()) {
        HOLDS(done_in_child);
        HOLDS_EQ(weir_detach(NULL), WEIR_OK);
        end_child();
    }
    assert_int_equal(weir_detach(NULL), WEIR_OK);
    ev_loop_destroy(loop);
    assert_notes();
}

int main(void)
{
#ifdef CONTEXT_TSAN
    /* It stops looking, on the fiber that forked only, in the child of one with threads; then
       each switch to another is a race to it. */
    printf("skipped: ThreadSanitizer does not follow fibers into the child of a fork\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        TEST(the_child_goes_on_in_the_coroutine_that_forked),
        TEST(so_does_the_main_one),
        TEST(a_child_may_fork_too),
        TEST(groups_count_the_dropped_ones_as_cancelled),
        TEST(the_parent_is_not_disturbed),
        TEST(fork_hooks_are_told_and_end_hooks_are_the_parents),
        TEST(what_the_parent_left_open_the_child_does_not_close),
        TEST(where_no_coroutine_could_go_on_it_is_refused),
        TEST(a_fork_on_another_thread_leaves_no_hub),
        TEST(an_attached_hub_goes_on_in_the_childs_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
