/*
 * test_pool_accept.c - clients are accepted out of the account of descriptors, and wait in the
 * kernel's queue while there is none. On the real hub, with real sockets.
 *
 * accept4(2) is wrapped, so that it can fail in the ways that a test cannot bring about.
 */
#define _GNU_SOURCE
#include "coro_unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <weir/accept.h>
#include <weir/process.h>

/* ---- an accept4 that fails on command ----------------------------------------------- */

static struct {
    int      errnum[16]; /* of the next calls; 0: as the kernel has it */
    unsigned count, at, calls, refused;
} script;

int __real_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    script.calls++;
    if (script.at < script.count && script.errnum[script.at++]) {
        errno = script.errnum[script.at - 1];
        return -1;
    }
    int got = __real_accept4(fd, address, size, flags);
    script.refused += got < 0 && errno == EMFILE;
    return got;
}

static void fail_with(int errnum)
{
    script.errnum[script.count++] = errnum;
}

/* ---- sockets ------------------------------------------------------------------------ */

static struct sockaddr_in place;

static int listen_here(int flags)
{
    int       fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    socklen_t size = sizeof place;

    place = (struct sockaddr_in){ .sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    HOLDS_EQ(bind(fd, (struct sockaddr *)&place, sizeof place), 0);
    HOLDS_EQ(getsockname(fd, (struct sockaddr *)&place, &size), 0);
    HOLDS_EQ(listen(fd, 512), 0);
    memset(&script, 0, sizeof script);
    return fd;
}

static int call_in(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    HOLDS(fd >= 0);
    HOLDS_EQ(connect(fd, (struct sockaddr *)&place, sizeof place), 0);
    return fd;
}

static weir_budget_stats budget(void)
{
    weir_budget_stats stats;

    weir_budget_read(&stats);
    return stats;
}

static void set_budget(unsigned limit)
{
    HOLDS_EQ(weir_budget_set(&(weir_budget_opts){ .limit = limit }, NULL), WEIR_OK);
}

/* Somebody who accepts one. */
struct host {
    int           listener;
    weir_deadline deadline;
    weir_status   status;
    weir_error    err;
    weir_accepted guest;
    bool          done;
};

static weir_status receive(void *arg)
{
    struct host *me = arg;

    me->status = weir_accept(me->listener, me->deadline, &me->guest, &me->err);
    me->done = true;
    return WEIR_OK;
}

static weir_task *start(struct host *host, int listener, weir_deadline deadline)
{
    *host = (struct host){ .listener = listener, .deadline = deadline };
    weir_task *task = weir_spawn(NULL, receive, host);
    HOLDS(task != NULL);
    weir_yield();
    return task;
}

/* ---- one client --------------------------------------------------------------------- */

static weir_status accept_one(void *arg)
{
    weir_accepted guest;
    weir_error    err;
    int           listener = listen_here(SOCK_NONBLOCK), caller = call_in();

    (void)arg;
    set_budget(5);
    HOLDS_EQ(weir_accept(listener, weir_in_ms(5000), &guest, &err), WEIR_OK);
    HOLDS(fcntl(guest.fd, F_GETFL) & O_NONBLOCK);
    HOLDS(fcntl(guest.fd, F_GETFD) & FD_CLOEXEC);
    HOLDS_EQ(guest.peer.ss_family, AF_INET);
    HOLDS_EQ(guest.peer_size, sizeof(struct sockaddr_in));
    HOLDS_EQ(budget().used, 1);
    weir_accepted_close(&guest);
    HOLDS_EQ(guest.fd, -1);
    HOLDS_EQ(budget().used, 0);
    weir_accepted_close(&guest); /* twice is harmless */
    HOLDS_EQ(budget().used, 0);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void a_client_is_paid_for_until_he_is_closed(void **state)
{
    (void)state;
    run_real(accept_one, NULL);
}

static weir_status wait_idly(void *arg)
{
    struct host host;
    int         listener = listen_here(SOCK_NONBLOCK);

    (void)arg;
    set_budget(5);
    start(&host, listener, WEIR_FOREVER);
    sleep_ms(5);
    HOLDS(!host.done);
    HOLDS_EQ(budget().used, 0); /* while no client comes none is held */
    int caller = call_in();
    while (!host.done)
        sleep_ms(1);
    HOLDS_EQ(host.status, WEIR_OK);
    HOLDS_EQ(budget().used, 1);
    weir_accepted_close(&host.guest);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void an_idle_listener_holds_nothing(void **state)
{
    (void)state;
    run_real(wait_idly, NULL);
}

/* ---- waiting for a descriptor ------------------------------------------------------- */

static weir_status run_short(void *arg)
{
    struct host       host;
    weir_budget_token token;
    int               listener = listen_here(SOCK_NONBLOCK), caller = call_in();

    (void)arg;
    set_budget(2);
    HOLDS_EQ(weir_budget_take(2, WEIR_NOW, &token, NULL), WEIR_OK);
    start(&host, listener, WEIR_FOREVER);
    sleep_ms(20);
    HOLDS(!host.done);
    HOLDS_EQ(script.calls, 0); /* the client is left in the kernel's queue */
    HOLDS_EQ(budget().waiting, 1);
    weir_budget_give(&token);
    sleep_ms(5);
    HOLDS(host.done);
    HOLDS_EQ(host.status, WEIR_OK);
    weir_accepted_close(&host.guest);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void a_client_waits_while_the_budget_is_spent(void **state)
{
    (void)state;
    run_real(run_short, NULL);
}

static weir_status give_up(void *arg)
{
    struct host       host;
    weir_budget_token token;
    int               listener = listen_here(SOCK_NONBLOCK);

    (void)arg;
    set_budget(2);
    /* at its deadline, for a client, and for a descriptor */
    HOLDS_EQ(weir_accept(listener, weir_in_ms(10), &host.guest, &host.err), WEIR_TIMEOUT);
    HOLDS_EQ(host.guest.fd, -1);
    HOLDS_EQ(weir_accept(listener, WEIR_NOW, &host.guest, &host.err), WEIR_TIMEOUT);
    HOLDS_EQ(weir_budget_take(2, WEIR_NOW, &token, NULL), WEIR_OK);
    int caller = call_in();
    HOLDS_EQ(weir_accept(listener, weir_in_ms(10), &host.guest, &host.err), WEIR_TIMEOUT);
    /* cancelled, in both */
    weir_task *task = start(&host, listener, WEIR_FOREVER);
    weir_cancel(task);
    sleep_ms(2);
    HOLDS_EQ(host.status, WEIR_CANCELED);
    HOLDS_EQ(budget().waiting, 0);
    weir_budget_give(&token);
    HOLDS_EQ(weir_accept(listener, WEIR_NOW, &host.guest, &host.err), WEIR_OK); /* he is there */
    weir_accepted_close(&host.guest);
    task = start(&host, listener, WEIR_FOREVER);
    weir_cancel(task);
    sleep_ms(2);
    HOLDS_EQ(host.status, WEIR_CANCELED);
    HOLDS_EQ(budget().used, 0);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void deadlines_and_cancels_leave_nothing_behind(void **state)
{
    (void)state;
    run_real(give_up, NULL);
}

/* ---- the kernel's errors ------------------------------------------------------------ */

static weir_status meet_errors(void *arg)
{
    static const int passing[] = { ECONNABORTED, EINTR, EPROTO, EPERM, ENETDOWN, EHOSTUNREACH };
    weir_accepted    guest;
    int              listener = listen_here(SOCK_NONBLOCK), caller = call_in();

    (void)arg;
    set_budget(5);
    for (unsigned i = 0; i < sizeof passing / sizeof *passing; i++)
        fail_with(passing[i]);
    HOLDS_EQ(weir_accept(listener, weir_in_ms(5000), &guest, NULL), WEIR_OK);
    HOLDS_EQ(script.calls, 7);
    HOLDS_EQ(budget().used, 1);
    weir_accepted_close(&guest);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void errors_of_one_client_are_passed_over(void **state)
{
    (void)state;
    run_real(meet_errors, NULL);
}

static weir_status run_out(void *arg)
{
    struct host       host;
    weir_budget_token token;
    int               listener = listen_here(SOCK_NONBLOCK), caller = call_in();

    (void)arg;
    set_budget(5);
    uint64_t exhausted = budget().exhausted;
    fail_with(EMFILE);
    fail_with(ENFILE);
    HOLDS_EQ(weir_budget_take(1, WEIR_NOW, &token, NULL), WEIR_OK);
    int64_t began = real_ms();
    start(&host, listener, WEIR_FOREVER);
    sleep_ms(5);
    HOLDS_EQ(script.calls, 1); /* parked, not spinning */
    weir_budget_give(&token);  /* something was closed: asked again at once */
    sleep_ms(5);
    HOLDS_EQ(script.calls, 2);
    while (!host.done)
        sleep_ms(1); /* nothing more is closed: after 100 ms */
    HOLDS(real_ms() - began >= 100);
    HOLDS_EQ(script.calls, 3);
    HOLDS_EQ(host.status, WEIR_OK);
    HOLDS_EQ(budget().exhausted - exhausted, 2);
    weir_accepted_close(&host.guest);
    fail_with(EMFILE); /* and a deadline is kept there too */
    HOLDS_EQ(weir_accept(listener, weir_in_ms(10), &host.guest, &host.err), WEIR_TIMEOUT);
    HOLDS_EQ(budget().used, 0);
    close(caller);
    weir_close(listener);
    return WEIR_OK;
}

static void without_a_descriptor_of_the_kernels_it_waits_for_a_close(void **state)
{
    (void)state;
    run_real(run_out, NULL);
}

/* ---- misuse ------------------------------------------------------------------------- */

static weir_status misuse(void *arg)
{
    weir_accepted guest;
    weir_error    err;
    int           blocking = listen_here(0), mute = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int           ends[2];

    (void)arg;
    set_budget(5);
    HOLDS_EQ(weir_accept(blocking, WEIR_FOREVER, &guest, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "SOCK_NONBLOCK"));
    HOLDS_EQ(weir_accept(mute, WEIR_FOREVER, &guest, &err), WEIR_USAGE);
    HOLDS_EQ(err.native, EINVAL);
    HOLDS_EQ(pipe2(ends, O_NONBLOCK), 0);
    HOLDS_EQ(weir_accept(ends[0], WEIR_FOREVER, &guest, &err), WEIR_USAGE);
    HOLDS_EQ(err.native, ENOTSOCK);
    close(ends[0]);
    close(ends[1]);
    HOLDS_EQ(weir_accept(ends[0], WEIR_FOREVER, &guest, &err), WEIR_USAGE);
    HOLDS_EQ(err.native, EBADF);
    HOLDS_EQ(guest.fd, -1);
    HOLDS_EQ(weir_accept(blocking, WEIR_FOREVER, NULL, &err), WEIR_USAGE);
    HOLDS_EQ(budget().used, 0);
    close(mute);
    close(blocking);
    return WEIR_OK;
}

static void misuse_is_said_and_holds_nothing(void **state)
{
    weir_accepted guest;

    (void)state;
    run_real(misuse, NULL);
    assert_int_equal(weir_accept(0, WEIR_NOW, &guest, NULL), WEIR_USAGE); /* no coroutine */
}

static weir_status two_at_once(void *arg)
{
    struct host first, second;
    int         listener = listen_here(SOCK_NONBLOCK);

    (void)arg;
    set_budget(5);
    start(&first, listener, WEIR_FOREVER);
    start(&second, listener, WEIR_FOREVER);
    HOLDS_EQ(second.status, WEIR_BUSY);
    HOLDS_EQ(log_took("two coroutines must not share one"), 1);
    weir_close(listener);
    sleep_ms(1);
    HOLDS(first.done);
    HOLDS_EQ(first.status, WEIR_CLOSED);
    HOLDS_EQ(budget().used, 0);
    return WEIR_OK;
}

static void a_second_coroutine_is_refused_and_a_close_is_told(void **state)
{
    (void)state;
    run_real(two_at_once, NULL);
}

/* ---- many clients, few descriptors -------------------------------------------------- */

enum { CLIENTS = 300, DESCRIPTORS = 40 };

/* All connect first, and then each wants its letter back. */
static _Noreturn void be_the_clients(void)
{
    static int fds[CLIENTS];
    int        well = 0;

    for (int i = 0; i < CLIENTS; i++)
        fds[i] = call_in();
    for (int i = 0; i < CLIENTS; i++) {
        char letter = (char)('a' + i % 26), back = 0;
        well += write(fds[i], &letter, 1) == 1;
        well += read(fds[i], &back, 1) == 1 && back == letter;
    }
    _exit(well == 2 * CLIENTS && !unit_notes.broken ? 0 : 1);
}

static weir_status echo(void *arg)
{
    weir_accepted *guest = arg;
    char           letter;

    /* The client that is served last sends last, and may be a while: no deadline of ours. */
    HOLDS_EQ(weir_wait_fd(guest->fd, WEIR_READ, weir_in_ms(20000), NULL), WEIR_OK);
    HOLDS_EQ(read(guest->fd, &letter, 1), 1);
    HOLDS_EQ(write(guest->fd, &letter, 1), 1);
    weir_accepted_close(guest);
    free(guest);
    return WEIR_OK;
}

static weir_status serve_many(void *arg)
{
    int         listener = *(int *)arg;
    weir_group *group = NULL;
    weir_error  err;

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < CLIENTS; i++) {
        weir_accepted *guest = malloc(sizeof *guest);
        weir_status    status = weir_accept(listener, weir_in_ms(20000), guest, &err);
        HOLDS_EQ(status, WEIR_OK);
        if (status != WEIR_OK) {
            free(guest);
            break;
        }
        HOLDS(guest->fd < DESCRIPTORS);
        weir_spawn(group, echo, guest);
    }
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(20000)), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void many_clients_are_served_with_few_descriptors(void **state)
{
    struct rlimit before, low;
    int           status = -1;

    (void)state;
    int   listener = listen_here(SOCK_NONBLOCK);
    pid_t clients = fork();
    if (clients == 0) {
        alarm(60);
        be_the_clients();
    }
    getrlimit(RLIMIT_NOFILE, &before);
    low = before;
    low.rlim_cur = DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &low);
    assert_int_equal(weir_budget_set(&(weir_budget_opts){ .reserve = 8 }, NULL), WEIR_OK);
    run_real(serve_many, &listener);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(waitpid(clients, &status, 0), clients);
    assert_int_equal(status, 0);
    assert_int_equal(script.refused, 0); /* EMFILE was never even met */
    assert_true(budget().peak < DESCRIPTORS && budget().waited > 0);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_client_is_paid_for_until_he_is_closed),
        TEST(an_idle_listener_holds_nothing),
        TEST(a_client_waits_while_the_budget_is_spent),
        TEST(deadlines_and_cancels_leave_nothing_behind),
        TEST(errors_of_one_client_are_passed_over),
        TEST(without_a_descriptor_of_the_kernels_it_waits_for_a_close),
        TEST(misuse_is_said_and_holds_nothing),
        TEST(a_second_coroutine_is_refused_and_a_close_is_told),
        TEST(many_clients_are_served_with_few_descriptors),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
