/*
 * test_permits_workers.c - processes that share permits: never more connections than permits,
 * each gets its part, and what one had that was killed under full load the others have at once.
 *
 * usage: test_permits_workers [--kills N] [--seed N]    (200 kills; before a release 1,000)
 *
 * Connections are counted where nobody can be wrong about them: at the server, which is this
 * process, on a Unix socket. It accepts whatever has connected and then asks of each connection
 * whether its other end is closed. What is not closed by then was open at the moment of the
 * last accept(2), all of them together; the kernel tells the end of a Unix socket in the
 * very call that closes it, also when it closes it for a process that is no more.
 *
 * The time a take-over takes runs from the kill(2) to the moment when the survivors alone have
 * all permits in use. It may be longer by the time for which they, the victim and the server
 * were ready to run and other programs had the processors (/proc/PID/schedstat).
 */
#define _GNU_SOURCE
#include "lives.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <weir/driver.h>
#include <weir/log.h>
#include <weir/permits.h>
#include <weir/process.h>

#include "under_valgrind.h"

enum {
    CAP = 20,
    WORKERS = 4,
    NEARLY_A_PART = CAP / WORKERS - 2,
    CALLERS = 30, /* in each */
    CONNS = 256,
    TAKE_OVER_MS = 100,
    PATIENCE_MS = 20000
};

static unsigned kills = 200, seed = 1;

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The server: connections, whose they are, and how many there were. */
static struct {
    int           listener;
    struct pollfd conns[CONNS];
    pid_t         owners[CONNS];
    unsigned      count, most, accepted;
} server;

/* ---- a driver whose connections are sockets, and say nothing ------------------------ */

static struct sockaddr_un address;
static socklen_t          address_size;

struct line {
    weir_conn base;
    int       fd; /* 1 + it; 0: none */
};

static unsigned one_socket(const void *config)
{
    (void)config;
    return 1;
}

static weir_status line_open(weir_conn *base, const void *config, weir_deadline deadline,
                             weir_error *err)
{
    struct line *line = (struct line *)base;
    int          fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)config, (void)deadline;
    if (fd < 0)
        return weir_error_set(err, WEIR_BUSY, "no socket");
    line->fd = fd + 1;
    if (connect(fd, (struct sockaddr *)&address, address_size) != 0)
        return weir_error_set(err, WEIR_CONNECT, "connect: %s", strerror(errno));
    return WEIR_OK;
}

static void line_close(weir_conn *base, weir_farewell how, weir_deadline deadline)
{
    struct line *line = (struct line *)base;

    (void)how, (void)deadline;
    if (!line->fd)
        return;
    /* Like a farewell, it also ends what a child that is just being forked has a copy of. */
    shutdown(line->fd - 1, SHUT_RDWR);
    weir_close(line->fd - 1);
    line->fd = 0;
}

static weir_condition line_check(weir_conn *base, weir_reset how)
{
    (void)base, (void)how;
    return WEIR_CLEAN;
}

static weir_status line_reset(weir_conn *base, weir_reset how, weir_deadline deadline,
                              weir_error *err)
{
    (void)base, (void)how, (void)deadline, (void)err;
    return WEIR_OK;
}

static bool line_disown(weir_conn *base)
{
    weir_fd_dead_end(((struct line *)base)->fd - 1);
    return true;
}

static weir_status line_describe(weir_conn *base, weir_error *err)
{
    (void)base, (void)err;
    return WEIR_OK;
}

static void keep_config(void *config)
{
    (void)config;
}

static const weir_driver line_driver = { .name = "line",
                                         .conn_size = sizeof(struct line),
                                         .sockets = one_socket,
                                         .open = line_open,
                                         .close = line_close,
                                         .check = line_check,
                                         .reset = line_reset,
                                         .describe = line_describe,
                                         .disown = line_disown,
                                         .free_config = keep_config };

/* ---- a worker ----------------------------------------------------------------------- */

static weir_permits *permits;

/* How workers behave that are started from now on. */
static unsigned connecting = 4; /* at the same time, in each */
static bool     clings;         /* gives back, and closes nothing by itself */
static bool     rests;          /* uses each connection once */
static bool     forks;          /* has a child, which outlives it */

static weir_status call_on(void *pool)
{
    for (;;) {
        weir_error  err;
        weir_lease *lease = NULL;
        if (weir_acquire(pool, weir_in_ms(PATIENCE_MS), &lease, &err) != WEIR_OK) {
            fprintf(stderr, "worker %d: %s\n", (int)getpid(), err.message);
            _exit(3);
        }
        (void)weir_sleep(weir_in_ms(1 + rand() % 4));
        if (rests)
            (void)weir_sleep(weir_in_ms(100)); /* so that each caller has one of his own */
        if (rests || clings || rand() % 8)
            (void)weir_release(lease);
        else
            (void)weir_lease_close(lease);
        if (rests)
            return WEIR_OK;
    }
}

static weir_status work(void *arg)
{
    weir_pool *pool = NULL;
    weir_error err;

    (void)arg;
    weir_pool_opts opts = { .max_size = CAP, .max_connecting = connecting, .permits = permits };
    if (weir_pool_new(&line_driver, NULL, &opts, &pool, &err) != WEIR_OK) {
        fprintf(stderr, "worker %d: %s\n", (int)getpid(), err.message);
        _exit(2);
    }
    for (int i = 0; i < CALLERS; i++)
        weir_spawn(NULL, call_on, pool);
    (void)weir_sleep(weir_in_ms(20));
    if (forks && weir_fork() == 0) {
        alarm(10);
        for (;;)
            pause();
    }
    return weir_sleep(WEIR_FOREVER);
}

static pid_t start_worker(void)
{
    pid_t parent = getpid(), pid = fork();

    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    close(server.listener); /* the server's are not ours */
    for (unsigned i = 0; i < server.count; i++)
        close(server.conns[i].fd);
    srand((unsigned)getpid() ^ seed);
    _exit(weir_run(work, NULL) == WEIR_OK ? 0 : 1);
}

/* ---- the server --------------------------------------------------------------------- */

static void listen_here(void)
{
    socklen_t size = sizeof address;

    memset(&server, 0, sizeof server);
    server.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(server.listener >= 0);
    sa_family_t any = AF_UNIX; /* the kernel finds a name that is no file's */
    assert_int_equal(bind(server.listener, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(getsockname(server.listener, (struct sockaddr *)&address, &size), 0);
    address_size = size;
    assert_int_equal(listen(server.listener, 512), 0);
}

static void accept_all(void)
{
    int fd;

    while ((fd = accept4(server.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct ucred who;
        socklen_t    size = sizeof who;
        assert_true(server.count < CONNS);
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size), 0);
        server.owners[server.count] = who.pid;
        server.conns[server.count++] = (struct pollfd){ .fd = fd, .events = POLLRDHUP };
        server.accepted++;
    }
}

static void drop_closed_ones(void)
{
    poll(server.conns, server.count, 0);
    for (unsigned i = 0; i < server.count;) {
        if (!(server.conns[i].revents & (POLLHUP | POLLRDHUP | POLLERR))) {
            i++;
            continue;
        }
        close(server.conns[i].fd);
        server.conns[i] = server.conns[--server.count];
        server.owners[i] = server.owners[server.count];
    }
}

/* One look: how many were open at once just now. */
static unsigned look(void)
{
    accept_all();
    drop_closed_ones();
    if (server.count > server.most)
        server.most = server.count;
    return server.count;
}

static unsigned owned_by(pid_t pid)
{
    unsigned count = 0;

    for (unsigned i = 0; i < server.count; i++)
        count += server.owners[i] == pid;
    return count;
}

/* Until somebody connects, and a millisecond at most. */
static void wait_a_little(void)
{
    struct pollfd p = { .fd = server.listener, .events = POLLIN };

    poll(&p, 1, 1);
}

static void stop(const pid_t *workers)
{
    for (int i = 0; i < WORKERS; i++) {
        kill(workers[i], SIGKILL);
        waitpid(workers[i], NULL, 0);
    }
}

static void stop_listening(void)
{
    for (unsigned i = 0; i < server.count; i++)
        close(server.conns[i].fd);
    close(server.listener);
}

/* ---- time that was not ours --------------------------------------------------------- */

static double delayed_ms(pid_t pid)
{
    char               path[40];
    unsigned long long ran = 0, waited = 0;

    snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &ran, &waited) != 2)
        waited = 0;
    fclose(file);
    return (double)waited / 1e6;
}

static double delays(const pid_t *workers)
{
    double sum = delayed_ms(getpid());

    for (int i = 0; i < WORKERS; i++)
        sum += delayed_ms(workers[i]);
    return sum;
}

static void open_permits(void)
{
    weir_error err = { 0 };

    if (weir_permits_open(&(weir_permits_opts){ .count = CAP }, &permits, &err) != WEIR_OK)
        fail_msg("%s", err.message);
}

/* ---- killing ------------------------------------------------------------------------ */

static void alive_or_fail(const pid_t *workers, int but)
{
    for (int i = 0; i < WORKERS; i++) {
        int status;
        if (i != but && waitpid(workers[i], &status, WNOHANG) == workers[i])
            fail_msg("worker %d ended by itself: status 0x%x", (int)workers[i], status);
    }
}

/* Everybody has nearly his part, and all are in use. */
static bool balanced(const pid_t *workers)
{
    if (look() != CAP)
        return false;
    for (int i = 0; i < WORKERS; i++)
        if (owned_by(workers[i]) < NEARLY_A_PART)
            return false;
    return true;
}

static double wait_for_balance(const pid_t *workers)
{
    double began = now_ms();

    while (!balanced(workers)) {
        wait_a_little();
        alive_or_fail(workers, -1);
        if (now_ms() - began > PATIENCE_MS)
            fail_msg("after %d s %u connections are open; the workers have %u, %u, %u, %u",
                     PATIENCE_MS / 1000, server.count, owned_by(workers[0]),
                     owned_by(workers[1]), owned_by(workers[2]), owned_by(workers[3]));
    }
    return now_ms() - began;
}

struct take_over {
    double   ms, delayed;
    unsigned inherited; /* connections that the dead one had */
};

/* Until the survivors have `least` open. */
static struct take_over kill_one(pid_t *workers, int victim, unsigned least)
{
    double until = now_ms() + (double)(rand() % 10000) / 1000;

    while (now_ms() < until || owned_by(workers[victim]) < 2) /* there must be something to leave */
        look();
    struct take_over it = { .inherited = owned_by(workers[victim]) };
    double           before = delays(workers), began = now_ms();
    assert_int_equal(kill(workers[victim], SIGKILL), 0);
    while (look() < least || owned_by(workers[victim])) {
        wait_a_little();
        if (now_ms() - began > PATIENCE_MS)
            fail_msg("%u of %d permits are in use %d s after worker %d was killed",
                     server.count, CAP, PATIENCE_MS / 1000, (int)workers[victim]);
    }
    it.ms = now_ms() - began;
    it.delayed = delays(workers) - before;
    assert_int_equal(waitpid(workers[victim], NULL, 0), workers[victim]);
    alive_or_fail(workers, victim);
    return it;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report(double *took, double *joined, unsigned late)
{
    qsort(took, kills, sizeof *took, by_size);
    qsort(joined, kills, sizeof *joined, by_size);
    print_message("%u kills, %u connections, at most %u of %d open at once; take-over: median "
                  "%.1f ms, 99 %% %.1f ms, longest %.1f ms (%u above %d ms); a new worker has "
                  "nearly its part after: median %.1f ms, longest %.1f ms\n",
                  kills, server.accepted, server.most, CAP, took[kills / 2],
                  took[(kills - 1) * 99 / 100], took[kills - 1], late, TAKE_OVER_MS,
                  joined[kills / 2], joined[kills - 1]);
}

static void kill_at_random(void)
{
    pid_t    workers[WORKERS];
    double  *took = calloc(kills, sizeof *took), *joined = calloc(kills, sizeof *joined);
    unsigned late = 0;

    listen_here();
    srand(seed);
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start_worker();
    wait_for_balance(workers);
    for (unsigned i = 0; i < kills; i++) {
        int              victim = rand() % WORKERS;
        struct take_over it = kill_one(workers, victim, CAP);
        took[i] = it.ms;
        late += it.ms > TAKE_OVER_MS;
        if (it.ms - it.delayed > TAKE_OVER_MS)
            fail_msg("kill %u: it took the survivors %.1f ms, %.1f of them without a processor, "
                     "to have the %u connections of the dead one",
                     i + 1, it.ms, it.delayed, it.inherited);
        workers[victim] = start_worker();
        joined[i] = wait_for_balance(workers);
    }
    report(took, joined, late);
    stop(workers);
    assert_true(server.most <= CAP);
    stop_listening();
    free(took);
    free(joined);
}

/* ---- where the one who should notice is stopped ------------------------------------- */

/* Whoever watched the victim may be the stopped one. He keeps what he has, and at worst as many
   more as he had asked for: one. */
static void kill_beside_a_stopped_one(void)
{
    pid_t  workers[WORKERS];
    double longest = 0;

    listen_here();
    connecting = 1;
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start_worker();
    wait_for_balance(workers);
    for (int stopped = 0; stopped < WORKERS; stopped++) {
        int victim = (stopped + 1 + rand() % (WORKERS - 1)) % WORKERS;
        kill(workers[stopped], SIGSTOP);
        struct take_over it = kill_one(workers, victim, CAP - 1);
        longest = it.ms > longest ? it.ms : longest;
        if (it.ms - it.delayed > TAKE_OVER_MS)
            fail_msg("beside a stopped worker it took %.1f ms, %.1f without a processor", it.ms,
                     it.delayed);
        kill(workers[stopped], SIGCONT);
        workers[victim] = start_worker();
        wait_for_balance(workers);
    }
    print_message("beside a stopped worker: longest take-over %.1f ms\n", longest);
    stop(workers);
    assert_true(server.most <= CAP);
    stop_listening();
}

static void a_stopped_worker_does_not_keep_a_dead_ones_permits_from_the_others(void **state)
{
    (void)state;
    open_permits();
    kill_beside_a_stopped_one();
    weir_permits_free(permits);
}

static void killed_workers_leave_their_permits_to_the_others(void **state)
{
    weir_permits_stats stats;

    (void)state;
    open_permits();
    kill_at_random();
    weir_permits_read(permits, &stats);
    assert_int_equal(stats.count, CAP);
    weir_permits_free(permits);
}

/* ---- where the dead one has left a child ---------------------------------------------- */

/* It has copies of all descriptors, and must have let go of them. */
static void kill_parents(void)
{
    pid_t workers[WORKERS];

    listen_here();
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start_worker();
    for (int victim = 0; victim < WORKERS; victim++) {
        wait_for_balance(workers);
        usleep(50000); /* all have forked */
        struct take_over it = kill_one(workers, victim, CAP);
        if (it.ms - it.delayed > TAKE_OVER_MS)
            fail_msg("of a worker with a child: %.1f ms, %.1f without a processor", it.ms,
                     it.delayed);
        workers[victim] = start_worker();
    }
    stop(workers);
    assert_true(server.most <= CAP);
    stop_listening();
}

static void a_child_does_not_keep_its_dead_parents_connections(void **state)
{
    (void)state;
    open_permits();
    forks = true;
    kill_parents();
    forks = false;
    weir_permits_free(permits);
}

/* ---- parts -------------------------------------------------------------------------- */

/* One has them all, and the others come. */
static void come_late(void)
{
    pid_t  workers[WORKERS];
    double began = now_ms();

    listen_here();
    workers[0] = start_worker();
    while (look() < CAP && now_ms() - began < PATIENCE_MS)
        wait_a_little();
    assert_int_equal(owned_by(workers[0]), CAP);
    if (rests)
        usleep(300000); /* they are all idle by now */
    rests = false;
    for (int i = 1; i < WORKERS; i++)
        workers[i] = start_worker();
    print_message("everybody has nearly his part after %.1f ms\n", wait_for_balance(workers));
    stop(workers);
    assert_true(server.most <= CAP);
    stop_listening();
}

static void who_is_busy_without_end_gives_up_what_is_beyond_his_part(void **state)
{
    (void)state;
    open_permits();
    clings = true;
    come_late();
    clings = false;
    weir_permits_free(permits);
}

static void idle_connections_beyond_a_part_are_given_up(void **state)
{
    (void)state;
    open_permits();
    clings = rests = true;
    come_late();
    clings = false;
    weir_permits_free(permits);
}

/* ---- what all of this rests on ------------------------------------------------------ */

enum { SOCKETS = 50, DEATHS = 50 };

static pid_t start_with_sockets(void)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < SOCKETS; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_size) != 0)
            _exit(1);
    }
    for (;;)
        pause();
}

static void when_a_pidfd_says_ended_the_sockets_are_closed(void **state)
{
    (void)state;
    listen_here();
    for (int death = 0; death < DEATHS; death++) {
        pid_t  pid = start_with_sockets();
        double began = now_ms();
        while (look() < SOCKETS && now_ms() - began < PATIENCE_MS)
            wait_a_little();
        assert_int_equal(server.count, SOCKETS);
        struct pollfd p = { .fd = life_watch(pid, life_birth(pid)), .events = POLLIN };
        assert_true(p.fd >= 0);
        assert_int_equal(poll(&p, 1, 0), 0);
        kill(pid, SIGKILL);
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        drop_closed_ones(); /* it is not reaped yet: the pidfd alone has told */
        assert_int_equal(server.count, 0);
        close(p.fd);
        waitpid(pid, NULL, 0);
    }
    stop_listening();
}

static void know_processes_apart(void **state)
{
    uint32_t born = life_birth(getpid());

    (void)state;
    assert_int_not_equal(born, 0);
    assert_false(life_is_over(getpid(), born));
    assert_true(life_is_over(getpid(), born + 1)); /* somebody else had this number before */
    assert_false(life_is_over(getpid(), 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    int fd = life_watch(pid, 0);
    if (fd >= 0) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        poll(&p, 1, PATIENCE_MS);
        close(fd);
    }
    assert_true(life_is_over(pid, 0)); /* not reaped, but over */
    waitpid(pid, NULL, 0);
    assert_true(life_is_over(pid, 0)); /* nobody's number */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(know_processes_apart),
        cmocka_unit_test(when_a_pidfd_says_ended_the_sockets_are_closed),
        cmocka_unit_test(who_is_busy_without_end_gives_up_what_is_beyond_his_part),
        cmocka_unit_test(idle_connections_beyond_a_part_are_given_up),
        cmocka_unit_test(killed_workers_leave_their_permits_to_the_others),
        cmocka_unit_test(a_child_does_not_keep_its_dead_parents_connections),
        cmocka_unit_test(a_stopped_worker_does_not_keep_a_dead_ones_permits_from_the_others),
    };

    if (under_valgrind()) {
        printf("skipped: valgrind has no pidfd_open(2)\n");
        return 77;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0)
            kills = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = (unsigned)atoi(argv[i + 1]);
    }
    if (!kills)
        kills = 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
