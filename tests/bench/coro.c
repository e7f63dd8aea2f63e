/*
 * coro.c - what a yield, a task and a wait cost.
 *
 * Knows:   weir/coro.h.
 * Ignores: pools, databases.
 */
#include "base.h"
#include "memory.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <weir/coro.h>
#include <weir/hub.h>
#include <weir/sync.h>

/* Run app(lap) on a hub of its own. */
static bool run(weir_fn app, void *arg)
{
    weir_status status = weir_run(app, arg);

    return status == WEIR_OK || bench_fail("weir_run: %s", weir_status_name(status));
}

/* ---- yield -------------------------------------------------------------------------- */

static weir_status yield_back(void *arg)
{
    struct lap *lap = arg;

    while (!lap->over) {
        if (weir_yield() != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

/* Each of our yields lets the other one run, and his brings us back: two each time round. */
static weir_status yield_times(long times)
{
    for (long i = 0; i < times; i += 2) {
        if (weir_yield() != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status yield_in_turn(void *arg)
{
    struct lap *lap = arg;
    weir_task  *other = weir_spawn(NULL, yield_back, lap);

    if (!other || yield_times(lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lap_begin(lap);
    weir_status status = yield_times(lap->count);
    lap_end(lap);
    return status;
}

static bool yield_round(struct lap *lap, int how)
{
    (void)how;
    return run(yield_in_turn, lap);
}

/* ---- hand-overs --------------------------------------------------------------------- */

/*
 * Two coroutines, each of which waits for what only the other one gives. So every hand-over is
 * the whole of it: a wait that sleeps, what ends it, and the switch between.
 */
struct rally {
    struct lap *lap;
    weir_sem    there, back;
    weir_chan  *out, *home;
};

static weir_status give_back(void *arg)
{
    struct rally *rally = arg;

    while (weir_sem_take(&rally->there, WEIR_FOREVER) == WEIR_OK)
        weir_sem_give(&rally->back);
    return WEIR_OK;
}

/* Two hand-overs each time round. */
static weir_status give_times(struct rally *rally, long times)
{
    for (long i = 0; i < times; i += 2) {
        weir_sem_give(&rally->there);
        if (weir_sem_take(&rally->back, WEIR_FOREVER) != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status hand_permits_over(void *arg)
{
    struct rally *rally = arg;
    weir_task    *other = weir_spawn(NULL, give_back, rally);

    if (!other || give_times(rally, rally->lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lap_begin(rally->lap);
    weir_status status = give_times(rally, rally->lap->count);
    lap_end(rally->lap);
    weir_sem_finish(&rally->there);
    return status == WEIR_OK ? weir_join(other, WEIR_FOREVER, NULL) : status;
}

static bool sem_round(struct lap *lap, int how)
{
    struct rally rally = { .lap = lap };

    (void)how;
    return run(hand_permits_over, &rally);
}

static weir_status send_back(void *arg)
{
    struct rally *rally = arg;
    void         *ball;

    while (weir_chan_recv(rally->out, &ball, WEIR_FOREVER) == WEIR_OK) {
        if (weir_chan_send(rally->home, &ball, WEIR_FOREVER) != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status send_times(struct rally *rally, long times)
{
    void *ball = rally;

    for (long i = 0; i < times; i += 2) {
        if (weir_chan_send(rally->out, &ball, WEIR_FOREVER) != WEIR_OK ||
            weir_chan_recv(rally->home, &ball, WEIR_FOREVER) != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static weir_status hand_elements_over(void *arg)
{
    struct rally *rally = arg;
    weir_error    err;
    weir_autoptr(weir_chan) out = NULL;
    weir_autoptr(weir_chan) home = NULL;

    if (weir_chan_new(sizeof(void *), 1, &out, &err) ||
        weir_chan_new(sizeof(void *), 1, &home, &err))
        return weir_fail(&err);
    rally->out = out;
    rally->home = home;
    weir_task *other = weir_spawn(NULL, send_back, rally);
    if (!other || send_times(rally, rally->lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lap_begin(rally->lap);
    weir_status status = send_times(rally, rally->lap->count);
    lap_end(rally->lap);
    weir_chan_close(out);
    return status == WEIR_OK ? weir_join(other, WEIR_FOREVER, NULL) : status;
}

static bool chan_round(struct lap *lap, int how)
{
    struct rally rally = { .lap = lap };

    (void)how;
    return run(hand_elements_over, &rally);
}

/* ---- spawn and join ----------------------------------------------------------------- */

static weir_status do_nothing(void *arg)
{
    (void)arg;
    return WEIR_OK;
}

static weir_status spawn_times(weir_group *group, long times)
{
    for (long i = 0; i < times; i++) {
        weir_task *task = weir_spawn(group, do_nothing, NULL);
        if (!task || weir_join(task, WEIR_FOREVER, NULL) != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

/* One after the other in one group that forgets them, as a service runs its requests. */
static weir_status spawn_and_join(void *arg)
{
    struct lap *lap = arg;
    weir_error  err;
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    if (spawn_times(group, lap->warm) != WEIR_OK)
        return WEIR_FAILED;
    lap_begin(lap);
    weir_status status = spawn_times(group, lap->count);
    lap_end(lap);
    return status;
}

static bool spawn_round(struct lap *lap, int how)
{
    (void)how;
    return run(spawn_and_join, lap);
}

/* ---- a byte over a socket pair, and back -------------------------------------------- */

/*
 * A descriptor nobody promised anything about is looked at anew in each wait, since its number
 * may stand for another file by then; one that is announced (weir_fd_watch_edge), as the drivers do
 * with theirs, stays with the loop.
 */
enum { UNANNOUNCED, ANNOUNCED };

struct echo {
    struct lap *lap;
    bool        announced;
    int         near, far;
};

static bool send_byte(int fd)
{
    char byte = 'w';

    return write(fd, &byte, 1) == 1;
}

/* Waits before it reads, as the baseline does: the byte cannot be there yet. And the one that was
   read was the only one. */
static bool receive_byte(int fd)
{
    char byte;

    return weir_wait_fd(fd, WEIR_READ | WEIR_DRAINED, WEIR_FOREVER, NULL) == WEIR_OK &&
           read(fd, &byte, 1) == 1;
}

static weir_status answer(void *arg)
{
    struct echo *echo = arg;

    while (receive_byte(echo->far) && send_byte(echo->far))
        continue;
    weir_close(echo->far); /* the other end was closed */
    return WEIR_OK;
}

static void stirred(int fd, void *arg)
{
    (void)fd;
    (void)arg;
}

static weir_status ask(void *arg)
{
    struct echo *echo = arg;

    if (echo->announced && (weir_fd_watch_edge(echo->near, stirred, NULL) != WEIR_OK ||
                            weir_fd_watch_edge(echo->far, stirred, NULL) != WEIR_OK))
        return WEIR_FAILED;
    if (!weir_spawn(NULL, answer, echo))
        return WEIR_FAILED;
    while (!echo->lap->over && send_byte(echo->near) && receive_byte(echo->near))
        lap_tick(echo->lap);
    weir_close(echo->near);
    return WEIR_OK;
}

static bool echo_round(struct lap *lap, int how)
{
    struct echo echo = { .lap = lap, .announced = how == ANNOUNCED };
    int         pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return bench_fail("socketpair: %s", strerror(errno));
    echo.near = pair[0];
    echo.far = pair[1];
    return run(ask, &echo);
}

/* ---- a million parked --------------------------------------------------------------- */

struct parking {
    struct lap *lap;
    enum memory what;
    weir_event  gate; /* all of them wait for it */
    long        parked;
};

static weir_status wait_at_the_gate(void *arg)
{
    struct parking *parking = arg;

    parking->parked++;
    return weir_event_wait(&parking->gate, WEIR_FOREVER);
}

static weir_status park_them(void *arg)
{
    struct parking *parking = arg;
    weir_error      err;
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    long before = memory_bytes(parking->what);
    for (long i = 0; i < parking->lap->count; i++) {
        if (!weir_spawn(group, wait_at_the_gate, parking))
            break;
    }
    while (parking->parked < (long)weir_group_running(group))
        weir_yield();
    lap_end_at(parking->lap, (double)(memory_bytes(parking->what) - before));
    weir_event_set(&parking->gate);
    return weir_group_wait(group, WEIR_FOREVER);
}

static bool parked_round(struct lap *lap, int what)
{
    struct parking parking = { .lap = lap, .what = (enum memory)what };

    return run(park_them, &parking);
}

const struct entry coro_entries[] = {
    {
        .name = "coro/yield",
        .operation = "a weir_yield(), after which the other one of two coroutines runs",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 2000000,
        .ours = { "weir_yield", yield_round, 0 },
        .baseline = { "fcontext, there and back", base_round_trip, 0 },
    },
    {
        .name = "coro/handover-sem",
        .operation = "a permit given to the coroutine that sleeps for it, which then runs",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 2000000,
        .ours = { "weir_sem_give + weir_sem_take", sem_round, 0 },
        .baseline = { "fcontext, there and back", base_round_trip, 0 },
    },
    {
        .name = "coro/handover-chan",
        .operation = "a pointer sent to the coroutine that sleeps for it, which then runs",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 2000000,
        .ours = { "weir_chan_send + weir_chan_recv", chan_round, 0 },
        .baseline = { "fcontext, there and back", base_round_trip, 0 },
    },
    {
        .name = "coro/spawn-join",
        .operation = "weir_spawn(), its run on a used stack, weir_join()",
        .measure = CPU_NS,
        .warm = 10000,
        .count = 500000,
        .ours = { "weir_spawn + weir_join", spawn_round, 0 },
        .baseline = { "fcontext, there and back", base_round_trip, 0 },
    },
    {
        .name = "coro/socketpair",
        .operation = "a byte there and back: two writes, two waits, two reads",
        .measure = CPU_NS,
        .warm = 1000,
        .count = 20000,
        .ours = { "weir_wait_fd", echo_round, UNANNOUNCED },
        .baseline = { "libev + fcontext, a watcher per wait", base_echo, 0 },
    },
    {
        .name = "coro/socketpair-watched",
        .operation = "a byte there and back: two writes, two waits, two reads",
        .measure = CPU_NS,
        .warm = 1000,
        .count = 20000,
        .ours = { "weir_wait_fd after weir_fd_watch_edge", echo_round, ANNOUNCED },
        .baseline = { "libev + fcontext, a watcher per wait", base_echo, 0 },
    },
    {
        .name = "coro/socketpair-syscalls",
        .operation = "a byte there and back: two writes, two waits, two reads",
        .measure = CALLS,
        .warm = 1000,
        .count = 5000,
        .ours = { "weir_wait_fd", echo_round, UNANNOUNCED },
        .baseline = { "libev + fcontext, a watcher per wait", base_echo, 0 },
    },
    {
        .name = "coro/socketpair-watched-syscalls",
        .operation = "a byte there and back: two writes, two waits, two reads",
        .measure = CALLS,
        .warm = 1000,
        .count = 5000,
        .ours = { "weir_wait_fd after weir_fd_watch_edge", echo_round, ANNOUNCED },
        .baseline = { "libev + fcontext, a watcher per wait", base_echo, 0 },
    },
    {
        .name = "coro/parked-1m",
        .operation = "a coroutine parked, of a million: memory resident",
        .measure = BYTES,
        .count = 1000000,
        .once = true,
        .ours = { "weir_event_wait", parked_round, RESIDENT },
        .baseline = { "fcontext, stacks mapped alike", base_parked, RESIDENT },
        .set_up = memory_for_a_million,
    },
    {
        .name = "coro/parked-1m-tables",
        .operation = "a coroutine parked, of a million: the kernel's page tables",
        .measure = BYTES,
        .count = 1000000,
        .once = true,
        .ours = { "weir_event_wait", parked_round, PAGE_TABLES },
        .baseline = { "fcontext, stacks mapped alike", base_parked, PAGE_TABLES },
        .set_up = memory_for_a_million,
    },
    { .name = NULL },
};
