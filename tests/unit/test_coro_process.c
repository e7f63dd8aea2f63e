/*
 * test_coro_process.c - children and signals, waited for by coroutines. On the real hub: the
 * kernel makes the descriptors.
 */
#include "coro_unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <weir/process.h>

/* ---- children ----------------------------------------------------------------------- */

/* A child that ends with `code` once the other end of its pipe is closed. */
struct child {
    pid_t pid;
    int   gate;
};

static struct child child_new(int code)
{
    struct child child = { -1, -1 };
    int          ends[2];

    if (pipe(ends) != 0)
        return child;
    child.pid = fork();
    if (child.pid == 0) {
        char byte;
        close(ends[1]);
        while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
            continue;
        _exit(code);
    }
    close(ends[0]);
    child.gate = ends[1];
    return child;
}

static void child_let_go(struct child *child)
{
    close(child->gate);
}

/* It runs meanwhile. */
static int ticks;

static void tick(void)
{
    for (int i = 0; i < 5; i++) {
        sleep_ms(2);
        ticks++;
    }
}

static weir_status let_go_later(void *arg)
{
    tick();
    child_let_go(arg);
    return WEIR_OK;
}

static weir_status wait_for_child(void *arg)
{
    struct child child = child_new(7);
    int          status = -1;
    weir_error   err;

    (void)arg;
    ticks = 0;
    weir_spawn(NULL, let_go_later, &child);
    HOLDS_EQ(weir_waitpid(child.pid, weir_in_ms(5000), &status, &err), WEIR_OK);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    HOLDS_EQ(ticks, 5); /* the hub went on meanwhile */

    /* It was reaped, so it is nobody's any more. */
    HOLDS_EQ(weir_waitpid(child.pid, WEIR_FOREVER, &status, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "no child") != NULL);
    HOLDS_EQ(weir_waitpid(0, WEIR_FOREVER, NULL, NULL), WEIR_USAGE);
    HOLDS_EQ(weir_waitpid(getppid(), WEIR_FOREVER, NULL, NULL), WEIR_USAGE);
    return WEIR_OK;
}

static void a_child_is_waited_for_while_the_hub_goes_on(void **state)
{
    (void)state;
    run_real(wait_for_child, NULL);
}

static weir_status wait_at_once(void *arg)
{
    struct child child = child_new(3);
    int          status = -1;

    (void)arg;
    child_let_go(&child);
    sleep_ms(30); /* mostly it has ended by now; either way it is told */
    HOLDS_EQ(weir_waitpid(child.pid, weir_in_ms(5000), &status, NULL), WEIR_OK);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    return WEIR_OK;
}

static void one_that_has_ended_is_told_at_once(void **state)
{
    (void)state;
    run_real(wait_at_once, NULL);
}

static weir_status wait_till_cancelled(void *arg)
{
    weir_error  err;
    weir_status status = weir_waitpid(*(pid_t *)arg, WEIR_FOREVER, NULL, &err);

    HOLDS_EQ(err.status, status);
    return status;
}

static weir_status give_up_on_child(void *arg)
{
    struct child child = child_new(0);
    weir_error   err;
    weir_status  result = WEIR_OK;
    int          status = -1;

    (void)arg;
    HOLDS_EQ(weir_waitpid(child.pid, weir_in_ms(10), &status, &err), WEIR_TIMEOUT);
    HOLDS(strstr(err.message, "gave up waiting for process") != NULL);
    HOLDS_EQ(weir_waitpid(child.pid, WEIR_NOW, &status, &err), WEIR_TIMEOUT);

    weir_group *group = NULL;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *task = weir_spawn(group, wait_till_cancelled, &child.pid);
    sleep_ms(5);
    HOLDS_EQ(weir_stop(task, weir_in_ms(5000), &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_CANCELED);
    weir_group_free(group);

    /* It went on, and can be waited for again. */
    child_let_go(&child);
    HOLDS_EQ(weir_waitpid(child.pid, weir_in_ms(5000), &status, NULL), WEIR_OK);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return WEIR_OK;
}

static void a_wait_given_up_leaves_the_child(void **state)
{
    (void)state;
    run_real(give_up_on_child, NULL);
}

static void outside_of_a_coroutine_it_blocks(void **state)
{
    struct child child = child_new(9);
    int          status = -1;

    (void)state;
    assert_int_equal(weir_waitpid(child.pid, weir_in_ms(5), &status, NULL), WEIR_TIMEOUT);
    child_let_go(&child);
    assert_int_equal(weir_waitpid(child.pid, weir_in_ms(5000), &status, NULL), WEIR_OK);
    assert_int_equal(WEXITSTATUS(status), 9);
}

/* ---- signals ------------------------------------------------------------------------ */

static const int users[] = { SIGUSR1, SIGUSR2 };

static weir_status kill_later(void *arg)
{
    tick();
    kill(getpid(), *(int *)arg);
    return WEIR_OK;
}

static weir_status wait_for_signals(void *arg)
{
    weir_signal got = { 0 };
    weir_error  err;
    int         number = SIGUSR2;

    (void)arg;
    /* One that comes while it is waited for. */
    ticks = 0;
    weir_spawn(NULL, kill_later, &number);
    HOLDS_EQ(weir_signal_wait(users, 2, weir_in_ms(5000), &got, &err), WEIR_OK);
    HOLDS_EQ(got.number, SIGUSR2);
    HOLDS_EQ(got.pid, getpid());
    HOLDS_EQ(ticks, 5);

    /* Those that came while nobody waited were kept. */
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
    HOLDS_EQ(weir_signal_wait(users, 2, WEIR_NOW, &got, &err), WEIR_OK);
    HOLDS_EQ(got.number, SIGUSR1);
    HOLDS_EQ(weir_signal_wait(users, 2, weir_in_ms(5000), NULL, &err), WEIR_OK);

    HOLDS_EQ(weir_signal_wait(users, 2, weir_in_ms(5), &got, &err), WEIR_TIMEOUT);
    HOLDS(strstr(err.message, "gave up waiting for a signal") != NULL);
    return WEIR_OK;
}

static void a_signal_is_taken_by_the_coroutine_that_waits(void **state)
{
    sigset_t before;

    (void)state;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(weir_signal_block(users, 2, NULL), WEIR_OK);
    run_real(wait_for_signals, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int taken;

static weir_status take_one(void *arg)
{
    (void)arg;
    weir_status status = weir_signal_wait(users, 1, weir_in_ms(100), NULL, NULL);
    taken += status == WEIR_OK;
    return WEIR_OK;
}

static weir_status share_a_signal(void *arg)
{
    int number = SIGUSR1;

    taken = 0;
    for (int i = 0; i < 3; i++)
        weir_spawn(NULL, take_one, arg);
    weir_spawn(NULL, kill_later, &number);
    sleep_ms(150);
    HOLDS_EQ(taken, 1);
    return WEIR_OK;
}

static void one_signal_is_taken_once(void **state)
{
    sigset_t before;

    (void)state;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(weir_signal_block(users, 1, NULL), WEIR_OK);
    run_real(share_a_signal, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static weir_status wait_for_what_is_not_blocked(void *arg)
{
    int        wrong[] = { SIGUSR1, SIGKILL };
    weir_error err;

    (void)arg;
    HOLDS_EQ(weir_signal_wait(wrong, 2, WEIR_FOREVER, NULL, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "9 is no signal that can be") != NULL);
    HOLDS_EQ(weir_signal_block(wrong, 2, NULL), WEIR_USAGE);
    HOLDS_EQ(weir_signal_wait(users, 0, WEIR_FOREVER, NULL, NULL), WEIR_USAGE);
    HOLDS_EQ(weir_signal_wait(users, 2, WEIR_FOREVER, NULL, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "is not blocked") != NULL);
    HOLDS(strstr(err.message, "weir_signal_block()") != NULL);
    return WEIR_OK;
}

static void a_signal_that_is_not_blocked_is_refused(void **state)
{
    (void)state;
    run_real(wait_for_what_is_not_blocked, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_child_is_waited_for_while_the_hub_goes_on),
        TEST(one_that_has_ended_is_told_at_once),
        TEST(a_wait_given_up_leaves_the_child),
        TEST(outside_of_a_coroutine_it_blocks),
        TEST(a_signal_is_taken_by_the_coroutine_that_waits),
        TEST(one_signal_is_taken_once),
        TEST(a_signal_that_is_not_blocked_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
