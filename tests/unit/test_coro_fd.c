/*
 * test_coro_fd.c - waiting for descriptors: real sockets, on either of the two real reactors.
 */
#include "coro_unit.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

static bool attached; /* to a loop of libev, for this run of all the tests */

static void run_attached(weir_fn app, void *arg)
{
    struct ev_loop *loop = ev_loop_new(0);
    weir_group     *group;

    assert_non_null(loop);
    assert_int_equal(weir_attach(loop, NULL, NULL), WEIR_OK);
    assert_int_equal(weir_group_new(NULL, &group, NULL), WEIR_OK);
    assert_non_null(weir_spawn(group, app, arg));
    ev_run(loop, 0);
    assert_int_equal(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    assert_int_equal(weir_detach(NULL), WEIR_OK);
    ev_loop_destroy(loop);
    assert_notes();
}

static void run_here(weir_fn app, void *arg)
{
    if (attached)
        run_attached(app, arg);
    else
        run_real(app, arg);
}

static void make_pair(int pair[2])
{
    HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
}

static void say_to(int fd)
{
    HOLDS_EQ(write(fd, "x", 1), 1);
}

static void hear_from(int fd)
{
    char c;

    HOLDS_EQ(read(fd, &c, 1), 1);
}

static void fill(int fd)
{
    static char block[4096];

    while (write(fd, block, sizeof block) > 0)
        continue;
}

static void drain(int fd)
{
    static char block[4096];

    while (read(fd, block, sizeof block) > 0)
        continue;
}

/* Somebody who waits for a descriptor. */
struct watcher {
    int         fd, events;
    int64_t     patience_ms; /* 0: for ever */
    int         ready;
    weir_status status;
    bool        done;
    weir_task  *task;
};

static weir_status wait_once(void *arg)
{
    struct watcher *me = arg;

    me->status = weir_wait_fd(me->fd, me->events,
                              me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_FOREVER,
                              &me->ready);
    me->done = true;
    return WEIR_OK;
}

static void start(struct watcher *watcher, const char *name)
{
    watcher->task = weir_spawn_with(NULL, &(weir_spawn_opts){ .name = name }, wait_once, watcher);
    weir_yield();
}

/* ---- readiness ---------------------------------------------------------------------- */

static weir_status read_and_write(void *arg)
{
    int pair[2], ready = -1;

    (void)arg;
    make_pair(pair);
    struct watcher reader = { .fd = pair[0], .events = WEIR_READ };
    start(&reader, "reader");
    HOLDS_EQ(sleep_ms(5), WEIR_OK);
    HOLDS(!reader.done);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS(reader.done);
    HOLDS_EQ(reader.status, WEIR_OK);
    HOLDS_EQ(reader.ready, WEIR_READ);

    /* Only what was asked for is told. */
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_WRITE, weir_in_ms(100), &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_WRITE);
    hear_from(pair[0]);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ | WEIR_WRITE, weir_in_ms(100), &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_WRITE);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_WRITE, weir_in_ms(100), NULL), WEIR_OK);

    fill(pair[0]);
    struct watcher writer = { .fd = pair[0], .events = WEIR_WRITE };
    start(&writer, "writer");
    sleep_ms(5);
    HOLDS(!writer.done);
    drain(pair[1]);
    sleep_ms(5);
    HOLDS(writer.done);
    HOLDS_EQ(writer.ready, WEIR_WRITE);

    /* A hang-up counts as both. */
    HOLDS_EQ(weir_close(pair[1]), 0);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ | WEIR_WRITE, weir_in_ms(100), &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_READ | WEIR_WRITE);
    HOLDS_EQ(weir_close(pair[0]), 0);
    return WEIR_OK;
}

static void a_wait_ends_when_the_descriptor_is_ready_and_tells_for_what(void **state)
{
    (void)state;
    run_here(read_and_write, NULL);
}

static weir_status read_while_another_writes(void *arg)
{
    int pair[2];

    (void)arg;
    make_pair(pair);
    fill(pair[0]);
    struct watcher reader = { .fd = pair[0], .events = WEIR_READ };
    struct watcher writer = { .fd = pair[0], .events = WEIR_WRITE };
    start(&reader, "reader");
    start(&writer, "writer");
    sleep_ms(5);
    HOLDS(!reader.done && !writer.done);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS(reader.done && !writer.done); /* each hears of his own only */
    drain(pair[1]);
    sleep_ms(5);
    HOLDS(writer.done);
    HOLDS_EQ(reader.ready, WEIR_READ);
    HOLDS_EQ(writer.ready, WEIR_WRITE);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void one_may_read_while_another_writes(void **state)
{
    (void)state;
    run_here(read_while_another_writes, NULL);
}

struct ball {
    int in, out, rounds;
};

static weir_status play_ball(void *arg)
{
    struct ball *ball = arg;
    char         c;

    while (ball->rounds < 50) {
        if (read(ball->in, &c, 1) == 1) {
            ball->rounds++;
            say_to(ball->out);
        } else {
            HOLDS_EQ(errno, EAGAIN);
            HOLDS_EQ(weir_wait_fd(ball->in, WEIR_READ, weir_in_ms(10000), NULL), WEIR_OK);
        }
    }
    return WEIR_OK;
}

static weir_status play_many(void *arg)
{
    enum { PAIRS = 100 };
    static int         pairs[PAIRS][2];
    static struct ball balls[PAIRS][2];
    weir_group        *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < PAIRS; i++) {
        make_pair(pairs[i]);
        say_to(pairs[i][0]);
        for (int side = 0; side < 2; side++) {
            balls[i][side] = (struct ball){ pairs[i][side], pairs[i][side], 0 };
            weir_spawn(group, play_ball, &balls[i][side]);
        }
    }
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    for (int i = 0; i < PAIRS; i++) {
        HOLDS_EQ(balls[i][0].rounds + balls[i][1].rounds, 100);
        weir_close(pairs[i][0]);
        weir_close(pairs[i][1]);
    }
    return WEIR_OK;
}

static void two_hundred_sockets_are_waited_for_at_once(void **state)
{
    (void)state;
    run_here(play_many, NULL);
}

/* ---- waits that end early ----------------------------------------------------------- */

static weir_status give_up(void *arg)
{
    int     pair[2], ready = -1;
    int64_t before = real_ms();

    (void)arg;
    make_pair(pair);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(20), &ready), WEIR_TIMEOUT);
    HOLDS_EQ(ready, 0);
    HOLDS(real_ms() - before >= 20 && real_ms() - before < 1000);
    {
        WEIR_DEADLINE(weir_in_ms(10));
        HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, WEIR_SCOPE, NULL), WEIR_TIMEOUT);
    }
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, WEIR_NOW, NULL), WEIR_TIMEOUT);

    struct watcher reader = { .fd = pair[0], .events = WEIR_READ };
    start(&reader, "reader");
    weir_cancel(reader.task);
    sleep_ms(1);
    HOLDS(reader.done);
    HOLDS_EQ(reader.status, WEIR_CANCELED);

    /* None of that is in the way of the next. */
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, WEIR_NOW, &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_READ);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_READ);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_wait_obeys_deadlines_and_cancels(void **state)
{
    (void)state;
    run_here(give_up, NULL);
}

static weir_status wait_both_for_one(void *arg)
{
    int pair[2];

    (void)arg;
    make_pair(pair);
    fill(pair[0]);
    struct watcher reader = { .fd = pair[0], .events = WEIR_READ };
    struct watcher rival = { .fd = pair[0], .events = WEIR_READ };
    struct watcher writer = { .fd = pair[0], .events = WEIR_WRITE };
    struct watcher greedy = { .fd = pair[0], .events = WEIR_READ | WEIR_WRITE };
    start(&reader, "reader");
    start(&rival, "rival");
    HOLDS(rival.done && !reader.done);
    HOLDS_EQ(rival.status, WEIR_BUSY);
    start(&writer, "writer");
    start(&greedy, "greedy");
    HOLDS_EQ(greedy.status, WEIR_BUSY);
    say_to(pair[1]);
    drain(pair[1]);
    sleep_ms(5);
    HOLDS_EQ(reader.status, WEIR_OK); /* the first ones were not disturbed */
    HOLDS_EQ(writer.status, WEIR_OK);
    HOLDS(reader.done && writer.done);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_second_reader_is_told_who_the_first_one_is(void **state)
{
    (void)state;
    run_here(wait_both_for_one, NULL);
    assert_int_equal(log_says("rival 3 (spawned at "), 1);
    assert_int_equal(log_says("greedy 5 (spawned at "), 1);
    assert_int_equal(log_says("would read it, while reader 2 (spawned at "), 2);
    assert_int_equal(log_took("test_coro_fd.c:"), 4);
}

/* ---- closing ------------------------------------------------------------------------ */

static weir_status close_under_waiters(void *arg)
{
    int pair[2];

    (void)arg;
    make_pair(pair);
    fill(pair[0]);
    struct watcher reader = { .fd = pair[0], .events = WEIR_READ };
    struct watcher writer = { .fd = pair[0], .events = WEIR_WRITE };
    start(&reader, "reader");
    start(&writer, "writer");
    sleep_ms(2);
    HOLDS_EQ(weir_close(pair[0]), 0);
    HOLDS_EQ(fcntl(pair[0], F_GETFD), -1);
    sleep_ms(1);
    HOLDS_EQ(reader.status, WEIR_CLOSED);
    HOLDS_EQ(writer.status, WEIR_CLOSED);
    HOLDS_EQ(weir_close(pair[0]), -1); /* as close(2) */
    HOLDS_EQ(errno, EBADF);
    HOLDS_EQ(weir_close(-1), -1);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void weir_close_wakes_those_who_wait(void **state)
{
    (void)state;
    run_here(close_under_waiters, NULL);
}

/* Another file under the number `fd`, which is free. */
static void make_pair_at(int fd, int pair[2])
{
    make_pair(pair);
    if (pair[0] == fd)
        return;
    HOLDS_EQ(fcntl(fd, F_GETFD), -1);
    HOLDS_EQ(dup2(pair[0], fd), fd);
    close(pair[0]);
    pair[0] = fd;
}

static weir_status use_a_number_again(void *arg)
{
    int pair[2], again[2];

    (void)arg;
    make_pair(pair);
    for (int i = 0; i < 100; i++) {
        bool turn_between = i % 2, behind_our_back = i / 2 % 2, was_ready = i / 4 % 2;
        if (was_ready) {
            say_to(pair[1]);
            HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
        } else {
            HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1), NULL), WEIR_TIMEOUT);
        }
        if (behind_our_back)
            close(pair[0]);
        else
            weir_close(pair[0]);
        if (turn_between)
            sleep_ms(1);
        make_pair_at(pair[0], again);
        struct watcher reader = { .fd = again[0], .events = WEIR_READ, .patience_ms = 2000 };
        start(&reader, "reader");
        sleep_ms(1);
        HOLDS(!reader.done); /* what came for the old file is not the new one's */
        say_to(again[1]);
        HOLDS_EQ(sleep_ms(1), WEIR_OK);
        for (int ms = 0; !reader.done && ms < 2000; ms++)
            sleep_ms(1);
        HOLDS_EQ(reader.status, WEIR_OK);
        hear_from(again[0]);
        weir_close(pair[1]);
        pair[0] = again[0];
        pair[1] = again[1];
    }
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_number_used_again_is_another_file(void **state)
{
    (void)state;
    run_here(use_a_number_again, NULL);
}

static weir_status close_and_reuse_in_one_turn(void *arg)
{
    int pair[2], again[2];

    (void)arg;
    make_pair(pair);
    struct watcher first = { .fd = pair[0], .events = WEIR_READ };
    start(&first, "first");
    sleep_ms(1);
    weir_close(pair[0]);
    make_pair_at(pair[0], again);
    struct watcher second = { .fd = again[0], .events = WEIR_READ, .patience_ms = 2000 };
    start(&second, "second"); /* before the first one has heard of the closing */
    sleep_ms(1);
    HOLDS(first.done);
    HOLDS_EQ(first.status, WEIR_CLOSED);
    HOLDS(!second.done);
    say_to(again[1]);
    sleep_ms(5);
    HOLDS(second.done);
    HOLDS_EQ(second.status, WEIR_OK);
    weir_close(pair[1]);
    weir_close(again[0]);
    weir_close(again[1]);
    return WEIR_OK;
}

static int64_t cpu_ms(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * INT64_C(1000) + used.tv_nsec / 1000000;
}

static weir_status leave_a_byte_unread(void *arg)
{
    int pair[2];

    (void)arg;
    make_pair(pair);
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    int64_t before = cpu_ms();
    sleep_ms(100);
    HOLDS(cpu_ms() - before < 50); /* a loop that is told again and again takes all of it */
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void what_nobody_waits_for_any_more_does_not_keep_the_loop_busy(void **state)
{
    (void)state;
    run_here(leave_a_byte_unread, NULL);
}

/* Closed while it was waited for, and kept alive by another descriptor of the same file. */
static weir_status outlive_a_descriptor(void *arg)
{
    struct watcher first = { .events = WEIR_READ, .patience_ms = 5 };
    int            pair[2], later[2];

    (void)arg;
    make_pair(pair);
    first.fd = pair[0];
    weir_spawn(NULL, wait_once, &first);
    sleep_ms(1);
    int other = dup(pair[0]);
    close(pair[0]);
    sleep_ms(10);
    HOLDS_EQ(first.status, WEIR_TIMEOUT);

    make_pair_at(first.fd, later);
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(first.fd, WEIR_READ, weir_in_ms(5), NULL), WEIR_TIMEOUT);
    say_to(later[1]);
    HOLDS_EQ(weir_wait_fd(first.fd, WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    close(other);
    close(pair[1]);
    weir_close(later[0]);
    weir_close(later[1]);
    return WEIR_OK;
}

static void a_file_that_outlived_its_number_wakes_nobody(void **state)
{
    (void)state;
    run_here(outlive_a_descriptor, NULL);
}

static void a_number_may_be_used_again_before_its_waiters_ran(void **state)
{
    (void)state;
    run_here(close_and_reuse_in_one_turn, NULL);
}

/* ---- what cannot be waited for ------------------------------------------------------ */

static weir_status wait_for_nothing(void *arg)
{
    int pair[2], ready = -1;

    (void)arg;
    make_pair(pair);
    int number = pair[0];
    close(pair[0]);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, weir_in_ms(100), &ready), WEIR_USAGE);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, WEIR_NOW, &ready), WEIR_USAGE);
    HOLDS_EQ(ready, 0);
    HOLDS_EQ(weir_wait_fd(-1, WEIR_READ, weir_in_ms(100), NULL), WEIR_USAGE);
    HOLDS_EQ(weir_wait_fd(INT32_MAX, WEIR_READ, weir_in_ms(100), NULL), WEIR_USAGE);
    HOLDS_EQ(weir_wait_fd(pair[1], 0, weir_in_ms(100), NULL), WEIR_USAGE);
    weir_fd_forget(-1);
    weir_fd_forget(INT32_MAX);
    close(pair[1]);
    make_pair_at(number, pair); /* and nothing of that sticks to the number */
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, weir_in_ms(1000), &ready), WEIR_OK);
    HOLDS_EQ(ready, WEIR_READ);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void what_is_no_descriptor_is_refused(void **state)
{
    (void)state;
    run_here(wait_for_nothing, NULL);
}

static weir_status wait_for_a_file(void *arg)
{
    int fd = fileno(arg), ready = 0, pair[2];

    /* Always ready, as poll(2) has it: reading one does not block in a way one could wait for. */
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(weir_wait_fd(fd, WEIR_READ, weir_in_ms(1000), &ready), WEIR_OK);
        HOLDS_EQ(ready, WEIR_READ);
        HOLDS_EQ(weir_wait_fd(fd, WEIR_WRITE, WEIR_NOW, &ready), WEIR_OK);
        HOLDS_EQ(ready, WEIR_WRITE);
    }
    int number = fcntl(fd, F_DUPFD, 40);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    close(number);
    make_pair_at(number, pair);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, weir_in_ms(5), NULL), WEIR_TIMEOUT);
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(number, WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_regular_file_is_always_ready(void **state)
{
    FILE *file = tmpfile();

    (void)state;
    assert_non_null(file);
    run_here(wait_for_a_file, file);
    fclose(file);
}

/* ---- staying watched ---------------------------------------------------------------- */

struct guard {
    int  calls;
    int  fd;
    bool again; /* come back for more */
};

static void stir(int fd, void *arg)
{
    struct guard *guard = arg;

    HOLDS_EQ(fd, guard->fd);
    HOLDS(weir_self() == NULL); /* on the hub's own stack */
    guard->calls++;
    if (guard->again)
        HOLDS_EQ(weir_fd_watch(fd, stir, guard), WEIR_OK);
}

static weir_status watch_between_waits(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch(pair[0], stir, &guard), WEIR_OK);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 0);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 1);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 1); /* once, then it is quiet */

    /* A wait comes first, and wakes the watch up again. */
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    drain(pair[0]);
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(2), NULL), WEIR_TIMEOUT);
        say_to(pair[1]);
        HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
        hear_from(pair[0]);
    }
    HOLDS_EQ(guard.calls, 1); /* all of that was for whoever waited */
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_WRITE, weir_in_ms(1000), NULL), WEIR_OK);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 2);

    /* Coming back for more, it is called while there is more. */
    guard.again = true;
    HOLDS_EQ(weir_fd_watch(pair[0], stir, &guard), WEIR_OK);
    sleep_ms(5);
    HOLDS(guard.calls > 3);
    drain(pair[0]);
    guard.again = false;
    sleep_ms(2);
    int before = guard.calls;
    close(pair[1]); /* the end is news as well */
    sleep_ms(5);
    HOLDS_EQ(guard.calls, before + 1);
    weir_close(pair[0]);
    return WEIR_OK;
}

static void a_watched_descriptor_tells_once_when_nobody_waits(void **state)
{
    (void)state;
    run_here(watch_between_waits, NULL);
}

static weir_status stop_watching(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2], again[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch(pair[0], stir, &guard), WEIR_OK);
    HOLDS_EQ(weir_fd_watch(pair[0], NULL, NULL), WEIR_OK);
    say_to(pair[1]);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 0);
    HOLDS_EQ(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    drain(pair[0]);

    /* Announced, a closing leaves nothing behind. */
    HOLDS_EQ(weir_fd_watch(pair[0], stir, &guard), WEIR_OK);
    sleep_ms(1);
    weir_fd_forget(pair[0]);
    close(pair[0]);
    make_pair_at(pair[0], again);
    say_to(again[1]);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 0);
    HOLDS_EQ(weir_wait_fd(again[0], WEIR_READ, weir_in_ms(1000), NULL), WEIR_OK);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 0);
    HOLDS_EQ(weir_fd_watch(again[0], stir, &guard), WEIR_OK); /* watched anew: as the first time */
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 1);
    weir_close(again[0]);
    weir_close(again[1]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_watch_ends_when_it_is_told_to(void **state)
{
    (void)state;
    run_here(stop_watching, NULL);
}

static weir_status watch_nothing(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2];

    (void)arg;
    make_pair(pair);
    int number = guard.fd = pair[0];
    close(pair[0]);
    HOLDS_EQ(weir_fd_watch(number, stir, &guard), WEIR_USAGE);
    HOLDS_EQ(weir_fd_watch(-1, stir, &guard), WEIR_USAGE);
    close(pair[1]);
    make_pair_at(number, pair);
    say_to(pair[1]);
    HOLDS_EQ(weir_wait_fd(number, WEIR_WRITE, weir_in_ms(1000), NULL), WEIR_OK);
    sleep_ms(5);
    HOLDS_EQ(guard.calls, 0); /* what failed has not half happened */
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void a_watch_that_was_refused_is_no_watch(void **state)
{
    (void)state;
    run_here(watch_nothing, NULL);
}

/* Whoever is told first closes the other one's file, and makes another of the same number. */
struct rival {
    struct rival *other;
    int           pair[2];
    int           calls;
};

static void told_of_nothing(int fd, void *arg)
{
    (void)fd;
    ++*(int *)arg;
}

static int stale;

static void replace_the_other(int fd, void *arg)
{
    struct rival *me = arg, *other = me->other;

    HOLDS_EQ(fd, me->pair[0]);
    me->calls++;
    weir_close(other->pair[0]);
    close(other->pair[1]);
    make_pair_at(other->pair[0], other->pair);
    HOLDS_EQ(weir_fd_watch(other->pair[0], told_of_nothing, &stale), WEIR_OK);
}

static weir_status report_both_at_once(void *arg)
{
    struct rival one = { 0 }, two = { .other = &one };

    (void)arg;
    one.other = &two;
    stale = 0;
    make_pair(one.pair);
    make_pair(two.pair);
    HOLDS_EQ(weir_fd_watch(one.pair[0], replace_the_other, &one), WEIR_OK);
    HOLDS_EQ(weir_fd_watch(two.pair[0], replace_the_other, &two), WEIR_OK);
    say_to(one.pair[1]);
    say_to(two.pair[1]);
    sleep_ms(5);
    HOLDS_EQ(one.calls + two.calls, 1);
    HOLDS_EQ(stale, 0); /* nobody has written to it */
    struct rival *replaced = one.calls ? &two : &one;
    say_to(replaced->pair[1]);
    sleep_ms(5);
    HOLDS_EQ(stale, 1);
    for (int i = 0; i < 2; i++) {
        weir_close(one.pair[i]);
        weir_close(two.pair[i]);
    }
    return WEIR_OK;
}

static void news_of_a_closed_file_is_not_the_next_ones(void **state)
{
    (void)state;
    run_here(report_both_at_once, NULL);
}

/* ---- watched by edges --------------------------------------------------------------- */

static weir_status wait_for_bytes(int fd, int flags)
{
    return weir_wait_fd(fd, WEIR_READ | flags, weir_in_ms(20), NULL);
}

static weir_status read_by_edges(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch_edge(pair[0], stir, &guard), WEIR_OK);
    say_to(pair[1]);
    say_to(pair[1]);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 1); /* nobody waited */
    HOLDS_EQ(wait_for_bytes(pair[0], 0), WEIR_OK);
    HOLDS_EQ(wait_for_bytes(pair[0], 0), WEIR_OK); /* what is still there is found */
    hear_from(pair[0]);
    HOLDS_EQ(wait_for_bytes(pair[0], 0), WEIR_OK);
    hear_from(pair[0]);
    HOLDS_EQ(wait_for_bytes(pair[0], 0), WEIR_TIMEOUT);
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(wait_for_bytes(pair[0], WEIR_DRAINED), WEIR_TIMEOUT);
        say_to(pair[1]);
        HOLDS_EQ(wait_for_bytes(pair[0], WEIR_DRAINED), WEIR_OK);
        hear_from(pair[0]);
    }
    HOLDS_EQ(guard.calls, 1);
    say_to(pair[1]);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 2); /* whoever reads it all has said nothing of what comes later: */
    HOLDS_EQ(wait_for_bytes(pair[0], WEIR_DRAINED), WEIR_OK);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void bytes_that_an_edge_told_of_are_not_forgotten(void **state)
{
    (void)state;
    run_here(read_by_edges, NULL);
}

static weir_status hear_of_it(void *arg)
{
    int fd = *(int *)arg;

    HOLDS_EQ(weir_wait_fd(fd, WEIR_READ | WEIR_DRAINED, WEIR_FOREVER, NULL), WEIR_OK);
    return WEIR_OK;
}

static weir_status pass_by(void *arg)
{
    (void)arg;
    return WEIR_OK;
}

/*
 * The byte is reported to somebody who was cancelled just before and has not run yet: between the
 * cancel and his turn are so many others that the hub looks for events. If he left as cancelled,
 * nobody would know of the byte.
 */
static weir_status report_to_the_cancelled(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch_edge(pair[0], stir, &guard), WEIR_OK);
    weir_autoptr(weir_group) group = NULL;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *task = weir_spawn(group, hear_of_it, &pair[0]);
    sleep_ms(2);
    for (int i = 0; i < 2000; i++)
        HOLDS(weir_spawn(group, pass_by, NULL));
    say_to(pair[1]);
    weir_cancel(task);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(guard.calls, 0);
    weir_close(pair[0]);
    weir_close(pair[1]);
    return WEIR_OK;
}

static void an_edge_wins_over_a_cancel(void **state)
{
    (void)state;
    run_here(report_to_the_cancelled, NULL);
}

/* Bytes and the end come together: reading the bytes, nobody has seen the end. */
static weir_status read_up_to_the_end(void *arg)
{
    struct guard guard = { 0 };
    char         text[100];
    int          pair[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch_edge(pair[0], stir, &guard), WEIR_OK);
    say_to(pair[1]);
    close(pair[1]);
    HOLDS_EQ(wait_for_bytes(pair[0], WEIR_DRAINED), WEIR_OK);
    HOLDS(read(pair[0], text, sizeof text) < (ssize_t)sizeof text);
    for (int i = 0; i < 3; i++)
        HOLDS_EQ(wait_for_bytes(pair[0], WEIR_DRAINED), WEIR_OK);
    HOLDS_EQ(read(pair[0], text, sizeof text), 0);
    weir_close(pair[0]);
    return WEIR_OK;
}

static void the_end_is_told_again_and_again(void **state)
{
    (void)state;
    run_here(read_up_to_the_end, NULL);
}

/* As when a server answers and hangs up: the answer is read, and nobody asks for more. */
static weir_status leave_the_end_unread(void *arg)
{
    struct guard guard = { 0 };
    int          pair[2];

    (void)arg;
    make_pair(pair);
    guard.fd = pair[0];
    HOLDS_EQ(weir_fd_watch_edge(pair[0], stir, &guard), WEIR_OK);
    struct watcher reader = { .fd = pair[0], .events = WEIR_READ | WEIR_DRAINED };
    start(&reader, "reader");
    say_to(pair[1]);
    close(pair[1]);
    while (!reader.done)
        weir_yield();
    hear_from(pair[0]);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 1);
    sleep_ms(2);
    HOLDS_EQ(guard.calls, 1);
    weir_close(pair[0]);
    return WEIR_OK;
}

static void an_end_that_came_with_bytes_is_told_when_nobody_waits_any_more(void **state)
{
    (void)state;
    run_here(leave_the_end_unread, NULL);
}

/* ---- outside ------------------------------------------------------------------------ */

static void outside_a_coroutine_a_wait_polls(void **state)
{
    int     pair[2], ready;
    int64_t before = real_ms();

    (void)state;
    make_pair(pair);
    assert_int_equal(weir_wait_fd(pair[0], WEIR_READ, weir_in_ms(20), &ready), WEIR_TIMEOUT);
    assert_in_range(real_ms() - before, 20, 1000);
    assert_int_equal(weir_wait_fd(pair[0], WEIR_READ, WEIR_NOW, &ready), WEIR_TIMEOUT);
    assert_int_equal(weir_wait_fd(pair[0], WEIR_READ | WEIR_WRITE, WEIR_FOREVER, &ready), WEIR_OK);
    assert_int_equal(ready, WEIR_WRITE);
    say_to(pair[1]);
    assert_int_equal(weir_wait_fd(pair[0], WEIR_READ, WEIR_FOREVER, &ready), WEIR_OK);
    assert_int_equal(ready, WEIR_READ);
    weir_fd_forget(pair[0]);
    assert_int_equal(weir_fd_watch(pair[0], stir, NULL), WEIR_USAGE);
    assert_int_equal(weir_close(pair[0]), 0);
    assert_int_equal(weir_wait_fd(pair[0], WEIR_READ, WEIR_FOREVER, &ready), WEIR_USAGE);
    assert_int_equal(weir_close(pair[1]), 0);
    assert_notes();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_wait_ends_when_the_descriptor_is_ready_and_tells_for_what),
        TEST(one_may_read_while_another_writes),
        TEST(two_hundred_sockets_are_waited_for_at_once),
        TEST(a_wait_obeys_deadlines_and_cancels),
        TEST(a_second_reader_is_told_who_the_first_one_is),
        TEST(weir_close_wakes_those_who_wait),
        TEST(a_number_used_again_is_another_file),
        TEST(a_number_may_be_used_again_before_its_waiters_ran),
        TEST(a_file_that_outlived_its_number_wakes_nobody),
        TEST(what_nobody_waits_for_any_more_does_not_keep_the_loop_busy),
        TEST(what_is_no_descriptor_is_refused),
        TEST(a_regular_file_is_always_ready),
        TEST(a_watched_descriptor_tells_once_when_nobody_waits),
        TEST(a_watch_ends_when_it_is_told_to),
        TEST(a_watch_that_was_refused_is_no_watch),
        TEST(news_of_a_closed_file_is_not_the_next_ones),
        TEST(bytes_that_an_edge_told_of_are_not_forgotten),
        TEST(an_edge_wins_over_a_cancel),
        TEST(the_end_is_told_again_and_again),
        TEST(an_end_that_came_with_bytes_is_told_when_nobody_waits_any_more),
        TEST(outside_a_coroutine_a_wait_polls),
    };
    int failed = cmocka_run_group_tests_name("on a loop of our own", tests, NULL, NULL);

    attached = true;
    return failed + cmocka_run_group_tests_name("on libev", tests, NULL, NULL);
}
