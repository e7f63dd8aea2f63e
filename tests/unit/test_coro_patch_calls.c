/*
 * test_coro_patch_calls.c - what the calls of a patched library do: sockets, pipes, polls,
 * sleeps and names, in coroutines and outside of them.
 *
 * Descriptors are real and so is the hub, but nothing waits for long: whoever waits is woken by
 * another coroutine, or by a limit of a few milliseconds, of which only the lower bound is looked
 * at.
 */
#define _GNU_SOURCE
#include "patch/patch_unit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <weir/watch.h>

static const struct client *client;

static int patch_it(void **state)
{
    (void)state;
    client = client_of(LIBRARY("client_now"));
    return weir_patch(LIBRARY("client_now"), NULL) == WEIR_OK ? 0 : -1;
}

static int unpatch_it(void **state)
{
    (void)state;
    return weir_unpatch(LIBRARY("client_now"), NULL) == WEIR_OK ? 0 : -1;
}

/* ---- two of them -------------------------------------------------------------------- */

static int  pair[2]; /* of a scene: the one's is [0], the other's [1] */
static bool other_ran;

struct two {
    void (*one)(void), (*other)(void);
};

static weir_status run_one(void *arg)
{
    ((struct two *)arg)->one();
    return WEIR_OK;
}

static weir_status run_other(void *arg)
{
    other_ran = true;
    ((struct two *)arg)->other();
    return WEIR_OK;
}

static weir_status play_two(void *arg)
{
    weir_autoptr(weir_group) group = NULL;

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "one" }, run_one, arg);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "other" }, run_other, arg);
    return weir_group_wait(group, WEIR_FOREVER);
}

/* `one` begins; whenever it waits, `other` goes on. */
static void play(void (*one)(void), void (*other)(void))
{
    other_ran = false;
    run_real(play_two, &(struct two){ one, other });
}

static void play_on_pair(int type, void (*one)(void), void (*other)(void))
{
    assert_int_equal(socketpair(AF_UNIX, type, 0, pair), 0);
    play(one, other);
    close(pair[0]);
    close(pair[1]);
}

static void nothing(void)
{
}

static void alone(void (*one)(void))
{
    play(one, nothing);
}

static void say(const char *words)
{
    HOLDS_EQ(write(pair[1], words, strlen(words)), (ssize_t)strlen(words));
}

#define HOLDS_ERRNO(call, errnum)                                                         \
    do {                                                                                  \
        errno = 0;                                                                        \
        HOLDS_EQ((call), -1);                                                             \
        HOLDS_EQ(errno, (errnum));                                                        \
    } while (0)

/* ---- reading ------------------------------------------------------------------------ */

static void reads_in_every_way(void)
{
    char            buf[16] = "", more[16] = "";
    struct iovec    iov[2] = { { buf, 3 }, { more, 16 } };
    struct msghdr   msg = { .msg_iov = iov, .msg_iovlen = 2 };

    HOLDS_EQ(client->read(pair[0], buf, sizeof buf), 5);
    HOLDS(memcmp(buf, "hello", 5) == 0);
    HOLDS(other_ran); /* it was waited for */
    HOLDS_EQ(client->recv(pair[0], buf, 2, MSG_PEEK), 2);
    HOLDS_EQ(client->recv(pair[0], buf, 2, 0), 2);
    HOLDS(memcmp(buf, "ag", 2) == 0);
    HOLDS_EQ(client->recvfrom(pair[0], buf, 16, 0, NULL, NULL), 3);
    HOLDS(memcmp(buf, "ain", 3) == 0);
    HOLDS_EQ(client->readv(pair[0], iov, 2), 6);
    HOLDS(memcmp(buf, "vec", 3) == 0 && memcmp(more, "tor", 3) == 0);
    HOLDS_EQ(client->recvmsg(pair[0], &msg, 0), 4);
    HOLDS(memcmp(buf, "mes", 3) == 0 && more[0] == 's');
    HOLDS_EQ(client->sum_read(pair[0], 2), 'a' + 'b');
    HOLDS_EQ(client->sum_recv(pair[0], 2), 'c' + 'd');
    HOLDS_EQ(client->sum_recvfrom(pair[0], 2), 'e' + 'f');
    HOLDS_EQ(client->read(pair[0], buf, 0), 0); /* without waiting */
    HOLDS_EQ(client->read(pair[0], buf, 16), 0); /* the end */
}

static void says_one_after_the_other(void)
{
    static const char *const words[] = { "hello", "again", "vector", "mess", "abcdef" };

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        say(words[i]);
        HOLDS_EQ(weir_sleep(weir_in_ms(2)), WEIR_OK);
    }
    shutdown(pair[1], SHUT_WR);
}

static void every_way_of_reading_yields(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, reads_in_every_way, says_one_after_the_other);
}

static void reads_all_of_ten(void)
{
    char         buf[10], first[4], second[6];
    struct iovec iov[2] = { { first, 4 }, { second, 6 } };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

    HOLDS_EQ(client->recv(pair[0], buf, sizeof buf, MSG_WAITALL), 10);
    HOLDS(memcmp(buf, "abcdefghij", 10) == 0);
    HOLDS_EQ(client->recvmsg(pair[0], &msg, MSG_WAITALL), 10);
    HOLDS(memcmp(first, "klmn", 4) == 0 && memcmp(second, "opqrst", 6) == 0);
    HOLDS_EQ(client->recv(pair[0], buf, sizeof buf, MSG_WAITALL), 3); /* up to the end */
}

static void says_it_in_pieces(void)
{
    static const char *const words[] = { "abc", "defg", "hijkl", "mno", "p", "qrst", "uvw" };

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        say(words[i]);
        HOLDS_EQ(weir_sleep(weir_in_ms(1)), WEIR_OK);
    }
    shutdown(pair[1], SHUT_WR);
}

static void waitall_waits_for_all(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, reads_all_of_ten, says_it_in_pieces);
}

static void reads_one_datagram(void)
{
    struct sockaddr_in here = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_in from = { 0 }, there = { 0 };
    socklen_t          length = sizeof here, size = sizeof there;
    char               buf[10];
    int                udp[2] = { socket(AF_INET, SOCK_DGRAM, 0), socket(AF_INET, SOCK_DGRAM, 0) };

    HOLDS_EQ(client->recv(pair[0], buf, sizeof buf, MSG_WAITALL), 3); /* of itself, a message */
    HOLDS_EQ(client->recv(pair[0], buf, 2, MSG_TRUNC), 5);

    for (int i = 0; i < 2; i++)
        HOLDS_EQ(bind(udp[i], (struct sockaddr *)&here, sizeof here), 0);
    HOLDS_EQ(getsockname(udp[0], (struct sockaddr *)&here, &length), 0);
    HOLDS_EQ(getsockname(udp[1], (struct sockaddr *)&there, &size), 0);
    HOLDS_EQ(client->sendto(udp[0], "udp", 3, 0, (struct sockaddr *)&there, size), 3);
    length = sizeof from;
    HOLDS_EQ(client->recvfrom(udp[1], buf, 10, 0, (struct sockaddr *)&from, &length), 3);
    HOLDS_EQ(length, sizeof from);
    HOLDS_EQ(from.sin_port, here.sin_port);
    close(udp[0]);
    close(udp[1]);
}

static void says_two_datagrams(void)
{
    say("one");
    HOLDS_EQ(weir_sleep(weir_in_ms(1)), WEIR_OK);
    say("other");
}

static void datagrams_keep_their_ends(void **state)
{
    (void)state;
    play_on_pair(SOCK_DGRAM, reads_one_datagram, says_two_datagrams);
}

/* ---- writing ------------------------------------------------------------------------ */

enum { MUCH = 3 << 20 };

static unsigned char much[MUCH], got[MUCH];
static size_t        got_size;

static void make_much(void)
{
    for (size_t i = 0; i < MUCH; i++)
        much[i] = (unsigned char)(i * 31 + i / 256);
    memset(got, 0, sizeof got);
    got_size = 0;
}

static void takes_it_all(void)
{
    while (got_size < MUCH) {
        ssize_t n = client->read(pair[1], got + got_size, MUCH - got_size);
        HOLDS(n > 0);
        if (n <= 0)
            return;
        got_size += (size_t)n;
    }
}

static void writes_much(void)
{
    HOLDS_EQ(client->write(pair[0], much, MUCH), MUCH);
}

static void sends_much(void)
{
    HOLDS_EQ(client->send(pair[0], much, MUCH, MSG_NOSIGNAL), MUCH);
}

static void sends_much_to_nobody_else(void)
{
    HOLDS_EQ(client->sendto(pair[0], much, MUCH, 0, NULL, 0), MUCH);
}

/* Buffers of many sizes, some of them empty. */
static size_t cut_up(struct iovec *iov, size_t count)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        size_t size = i % 7 == 3 ? 0 : i + 1 == count ? MUCH - at : (i * 4099) % 70000;
        iov[i] = (struct iovec){ much + at, size };
        at += size;
    }
    return at;
}

static void writes_much_in_many_buffers(void)
{
    struct iovec iov[90];

    HOLDS_EQ(cut_up(iov, 90), MUCH);
    HOLDS_EQ(client->writev(pair[0], iov, 90), MUCH);
}

static void sends_much_in_many_buffers(void)
{
    struct iovec  iov[90];
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 90 };

    HOLDS_EQ(cut_up(iov, 90), MUCH);
    struct msghdr before = msg;
    HOLDS_EQ(client->sendmsg(pair[0], &msg, 0), MUCH);
    HOLDS(memcmp(&before, &msg, sizeof msg) == 0);
}

static void a_blocking_write_ends_when_all_is_written(void **state)
{
    static void (*const ways[])(void) = { writes_much, sends_much, sends_much_to_nobody_else,
                                          writes_much_in_many_buffers,
                                          sends_much_in_many_buffers };

    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        make_much();
        play_on_pair(SOCK_STREAM, ways[i], takes_it_all);
        assert_int_equal(got_size, MUCH);
        assert_memory_equal(got, much, MUCH);
    }
}

static void sends_a_descriptor(void)
{
    char          byte = 'x', room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec  iov = { &byte, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
                          .msg_controllen = sizeof room };
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

    HOLDS_EQ(weir_sleep(weir_in_ms(1)), WEIR_OK);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &pair[1], sizeof(int));
    HOLDS_EQ(client->sendmsg(pair[1], &msg, 0), 1);
}

static void takes_a_descriptor(void)
{
    char          byte, room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec  iov = { &byte, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
                          .msg_controllen = sizeof room };
    int           fd = -1;

    HOLDS_EQ(client->recvmsg(pair[0], &msg, 0), 1);
    HOLDS_EQ(msg.msg_controllen, sizeof room);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
    HOLDS(fd > 2);
    HOLDS_EQ(client->close(fd), 0);
}

static void sends_much_with_a_descriptor(void)
{
    char            room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec    iov = { much, MUCH };
    struct msghdr   msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
                            .msg_controllen = sizeof room };
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &pair[0], sizeof(int));
    HOLDS_EQ(client->sendmsg(pair[0], &msg, 0), MUCH);
}

static void takes_it_all_and_one_descriptor(void)
{
    int descriptors = 0;

    while (got_size < MUCH) {
        char          room[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec  iov = { got + got_size, MUCH - got_size };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
                              .msg_controllen = sizeof room };
        ssize_t       n = client->recvmsg(pair[1], &msg, 0);
        HOLDS(n > 0);
        if (n <= 0)
            return;
        got_size += (size_t)n;
        if (msg.msg_controllen) {
            int fd;
            memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
            close(fd);
            descriptors++;
        }
    }
    HOLDS_EQ(descriptors, 1); /* it went with the first piece only */
}

static void descriptors_travel_in_messages(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, takes_a_descriptor, sends_a_descriptor);
    make_much();
    play_on_pair(SOCK_STREAM, sends_much_with_a_descriptor, takes_it_all_and_one_descriptor);
}

/* ---- what makes a blocking call return early ---------------------------------------- */

static void set_nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    HOLDS_EQ(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

static void does_not_wait(void)
{
    char          c = 0;
    struct iovec  iov = { &c, 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    HOLDS_ERRNO(client->recv(pair[0], &c, 1, MSG_DONTWAIT), EAGAIN);
    HOLDS_ERRNO(client->recvmsg(pair[0], &msg, MSG_DONTWAIT), EAGAIN);
    HOLDS_ERRNO(client->recvmsg(pair[0], &msg, MSG_ERRQUEUE), EAGAIN);
    HOLDS(client->send(pair[0], much, MUCH, MSG_DONTWAIT) < MUCH);
    HOLDS_ERRNO(client->send(pair[0], much, MUCH, MSG_DONTWAIT), EAGAIN);
    set_nonblocking(pair[0], true);
    int flags = fcntl(pair[0], F_GETFL);
    HOLDS_ERRNO(client->read(pair[0], &c, 1), EAGAIN);
    HOLDS_ERRNO(client->readv(pair[0], &iov, 1), EAGAIN);
    HOLDS_ERRNO(client->write(pair[0], much, MUCH), EAGAIN);
    HOLDS_ERRNO(client->writev(pair[0], &iov, 1), EAGAIN);
    HOLDS_EQ(fcntl(pair[0], F_GETFL), flags);
    HOLDS(!other_ran);
}

static void the_users_own_nonblocking_mode_is_kept(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, does_not_wait, nothing);
}

/* The same number, once non-blocking, then blocking, then non-blocking: nothing is remembered. */
static void uses_a_number_again(void)
{
    char c;
    int  was = pair[0];

    set_nonblocking(pair[0], true);
    HOLDS_ERRNO(client->read(pair[0], &c, 1), EAGAIN);
    close(pair[0]); /* behind weir's back */
    close(pair[1]);
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    HOLDS_EQ(pair[0], was);
    HOLDS(!other_ran);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1); /* waits */
    HOLDS(other_ran);
    int fresh[2];
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fresh), 0);
    HOLDS_EQ(dup2(fresh[0], pair[0]), pair[0]);
    HOLDS_ERRNO(client->read(pair[0], &c, 1), EAGAIN);
    close(fresh[0]);
    close(fresh[1]);
}

static void says_x(void)
{
    say("x");
}

static void a_number_may_become_another_file(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, uses_a_number_again, says_x);
}

static void set_limit(int fd, int option, int ms)
{
    struct timeval limit = { 0, ms * 1000 };

    HOLDS_EQ(setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit), 0);
}

static void reads_and_sends_for_20_ms(void)
{
    char c;

    set_limit(pair[0], SO_RCVTIMEO, 20);
    int64_t began = real_ms();
    HOLDS_ERRNO(client->recv(pair[0], &c, 1, 0), EAGAIN);
    HOLDS(real_ms() - began >= 19);
    HOLDS(other_ran);
    began = real_ms();
    HOLDS_ERRNO(client->read(pair[0], &c, 1), EAGAIN);
    HOLDS(real_ms() - began >= 19);

    set_limit(pair[0], SO_SNDTIMEO, 20);
    began = real_ms();
    ssize_t sent = client->send(pair[0], much, MUCH, 0); /* a part of it */
    HOLDS(sent > 0 && sent < MUCH);
    HOLDS(real_ms() - began >= 19);
    HOLDS_ERRNO(client->write(pair[0], much, MUCH), EAGAIN);
}

static void the_sockets_own_limits_are_kept(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, reads_and_sends_for_20_ms, nothing);
}

/* ---- cancelled, late ---------------------------------------------------------------- */

static void expect_all_to_fail(int errnum)
{
    char               c = 0;
    struct iovec       iov = { &c, 1 };
    struct msghdr      msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    struct pollfd      polled = { .fd = pair[0], .events = POLLIN };
    struct timespec    minute = { 60, 0 }, rest = { 0, 0 };
    struct sockaddr_in nowhere = { .sin_family = AF_INET };
    fd_set             set;
    struct addrinfo   *found = NULL;

    /* There is something to read, and room to write. */
    HOLDS_EQ(write(pair[1], "abc", 3), 3);
    HOLDS_ERRNO(client->read(pair[0], &c, 1), errnum);
    HOLDS_ERRNO(client->readv(pair[0], &iov, 1), errnum);
    HOLDS_ERRNO(client->recv(pair[0], &c, 1, 0), errnum);
    HOLDS_ERRNO(client->recvfrom(pair[0], &c, 1, 0, NULL, NULL), errnum);
    HOLDS_ERRNO(client->recvmsg(pair[0], &msg, 0), errnum);
    HOLDS_ERRNO(client->write(pair[0], "x", 1), errnum);
    HOLDS_ERRNO(client->writev(pair[0], &iov, 1), errnum);
    HOLDS_ERRNO(client->send(pair[0], "x", 1, 0), errnum);
    HOLDS_ERRNO(client->sendto(pair[0], "x", 1, 0, NULL, 0), errnum);
    HOLDS_ERRNO(client->sendmsg(pair[0], &msg, 0), errnum);
    HOLDS_ERRNO(client->connect(pair[0], (struct sockaddr *)&nowhere, sizeof nowhere), errnum);
    HOLDS_ERRNO(client->accept(pair[0], NULL, NULL), errnum);
    HOLDS_ERRNO(client->accept4(pair[0], NULL, NULL, 0), errnum);
    HOLDS_ERRNO(client->poll(&polled, 1, -1), errnum);
    HOLDS_ERRNO(client->ppoll(&polled, 1, NULL, NULL), errnum);
    FD_ZERO(&set);
    FD_SET(pair[0], &set);
    HOLDS_ERRNO(client->select(pair[0] + 1, &set, NULL, NULL, NULL), errnum);
    HOLDS_ERRNO(client->pselect(pair[0] + 1, &set, NULL, NULL, NULL, NULL), errnum);
    HOLDS_ERRNO(client->usleep(60000000), errnum);
    HOLDS_ERRNO(client->nanosleep(&minute, &rest), errnum);
    HOLDS(rest.tv_sec > 30);
    HOLDS_EQ(client->clock_nanosleep(CLOCK_MONOTONIC, 0, &minute, NULL), errnum);
    errno = 0;
    HOLDS_EQ(client->sleep(60), 0); /* for whoever sleeps the rest in a loop */
    HOLDS_EQ(errno, errnum);
    errno = 0;
    HOLDS_EQ(client->getaddrinfo("localhost", NULL, NULL, &found), EAI_SYSTEM);
    HOLDS_EQ(errno, errnum);
    HOLDS(found == NULL);
    HOLDS_EQ(client->close(pair[0]), 0); /* it unwinds */
}

static weir_task *victim;

static void is_cancelled_while_reading(void)
{
    char c;

    victim = weir_self();
    HOLDS_ERRNO(client->read(pair[0], &c, 1), ECANCELED);
    expect_all_to_fail(ECANCELED);
}

static void cancels(void)
{
    weir_cancel(victim);
}

static void play_and_close_one(void (*one)(void), void (*other)(void))
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    int64_t began = real_ms();
    play(one, other);
    assert_in_range(real_ms() - began, 0, 30000); /* none of the minutes was slept */
    close(pair[1]);                               /* the library closed its own end */
}

static void a_cancelled_coroutine_gets_ecanceled_from_then_on(void **state)
{
    (void)state;
    play_and_close_one(is_cancelled_while_reading, cancels);
}

static void is_late(void)
{
    char c;

    WEIR_DEADLINE(weir_in_ms(10));
    HOLDS_ERRNO(client->read(pair[0], &c, 1), ETIMEDOUT);
    expect_all_to_fail(ETIMEDOUT);
}

static void a_coroutine_that_is_late_gets_etimedout_from_then_on(void **state)
{
    (void)state;
    play_and_close_one(is_late, nothing);
}

static void is_cut_off_in_every_wait(void)
{
    struct timespec minute = { 60, 0 }, rest = { 0, 0 };
    struct pollfd   polled[2] = { { .fd = pair[0], .events = POLLIN },
                                  { .fd = pair[0], .events = POLLPRI } };
    fd_set          set;

    FD_ZERO(&set);
    FD_SET(pair[0], &set);
    {
        WEIR_DEADLINE(weir_in_ms(5));
        HOLDS_ERRNO(client->nanosleep(&minute, &rest), ETIMEDOUT);
        HOLDS(rest.tv_sec > 30 && rest.tv_sec < 60);
    }
    {
        WEIR_DEADLINE(weir_in_ms(5));
        HOLDS_ERRNO(client->poll(polled, 1, -1), ETIMEDOUT);
    }
    {
        WEIR_DEADLINE(weir_in_ms(30)); /* more than one look */
        HOLDS_ERRNO(client->poll(polled, 2, 60000), ETIMEDOUT);
    }
    {
        WEIR_DEADLINE(weir_in_ms(5));
        HOLDS_ERRNO(client->select(pair[0] + 1, &set, NULL, NULL, NULL), ETIMEDOUT);
    }
    { /* what was sent is told first, then the reason */
        WEIR_DEADLINE(weir_in_ms(5));
        ssize_t sent = client->send(pair[0], much, MUCH, 0);
        HOLDS(sent > 0 && sent < MUCH);
        HOLDS_ERRNO(client->send(pair[0], much, MUCH, 0), ETIMEDOUT);
    }
    { /* the socket's own limit comes first */
        WEIR_DEADLINE(weir_in_ms(60000));
        set_limit(pair[0], SO_RCVTIMEO, 5);
        HOLDS_ERRNO(client->read(pair[0], much, 1), EAGAIN);
    }
    WEIR_DEADLINE(weir_in_ms(0));
    {
        WEIR_SHIELD(weir_in_ms(60000)); /* on the way out it may yet talk */
        HOLDS_EQ(write(pair[1], "x", 1), 1);
        HOLDS_EQ(client->read(pair[0], much, 1), 1);
    }
    HOLDS_ERRNO(client->read(pair[0], much, 1), ETIMEDOUT);
}

static void deadlines_cut_every_wait_short(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, is_cut_off_in_every_wait, nothing);
}

static void reads_until_somebody_closes(void)
{
    char c;

    HOLDS_ERRNO(client->read(pair[0], &c, 1), EBADF);
}

static void closes_the_ones(void)
{
    HOLDS_EQ(client->close(pair[0]), 0);
}

static void closing_ends_the_wait_of_another(void **state)
{
    (void)state;
    play_and_close_one(reads_until_somebody_closes, closes_the_ones);
}

static void reads_what_comes(void)
{
    char c;

    HOLDS_EQ(client->read(pair[0], &c, 1), 1);
}

static void reads_it_too(void)
{
    char          c;
    struct pollfd polled = { .fd = pair[0], .events = POLLIN };

    HOLDS_ERRNO(client->read(pair[0], &c, 1), EBUSY);
    HOLDS_ERRNO(client->poll(&polled, 1, -1), EBUSY);
    say("x");
}

static void two_cannot_wait_for_the_same(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, reads_what_comes, reads_it_too);
    assert_int_equal(log_took("two coroutines must not share one"), 2);
}

/* ---- connecting --------------------------------------------------------------------- */

static struct sockaddr_in address;
static int                listener;

static int listen_here(int backlog)
{
    socklen_t length = sizeof address;
    int       fd = socket(AF_INET, SOCK_STREAM, 0);

    address = (struct sockaddr_in){ .sin_family = AF_INET,
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    HOLDS_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    HOLDS_EQ(listen(fd, backlog), 0);
    HOLDS_EQ(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    return fd;
}

static int connect_to_it(int fd)
{
    return client->connect(fd, (struct sockaddr *)&address, sizeof address);
}

static void accepts_and_answers(void)
{
    struct sockaddr_in peer = { 0 };
    socklen_t          length = sizeof peer;

    listener = listen_here(5);
    int flags = fcntl(listener, F_GETFL);
    int fd = client->accept(listener, (struct sockaddr *)&peer, &length);
    HOLDS(other_ran);
    HOLDS(fd >= 0);
    HOLDS_EQ(peer.sin_family, AF_INET);
    HOLDS_EQ(fcntl(listener, F_GETFL), flags);
    HOLDS_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    HOLDS_EQ(client->send(fd, "hi", 2, 0), 2);
    close(fd);
    fd = client->accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    HOLDS_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    HOLDS_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    close(fd);
    set_limit(listener, SO_RCVTIMEO, 5);
    HOLDS_ERRNO(client->accept(listener, NULL, NULL), EAGAIN);
    set_nonblocking(listener, true);
    HOLDS_ERRNO(client->accept(listener, NULL, NULL), EAGAIN);
    HOLDS_EQ(fcntl(listener, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    close(listener);
}

static void connects_and_reads(void)
{
    char buf[4];
    int  fd = socket(AF_INET, SOCK_STREAM, 0), flags = fcntl(fd, F_GETFL);

    HOLDS_EQ(connect_to_it(fd), 0);
    HOLDS_EQ(fcntl(fd, F_GETFL), flags);
    HOLDS_EQ(client->recv(fd, buf, 2, MSG_WAITALL), 2);
    HOLDS_ERRNO(connect_to_it(fd), EISCONN);
    close(fd);
    HOLDS_EQ(weir_sleep(weir_in_ms(2)), WEIR_OK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    HOLDS_EQ(connect_to_it(fd), 0);
    close(fd);
}

static void accept_and_connect_yield(void **state)
{
    (void)state;
    play(accepts_and_answers, connects_and_reads);
}

static void connects_to_nobody(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    close(listen_here(1)); /* nobody listens there now */
    HOLDS_ERRNO(connect_to_it(fd), ECONNREFUSED);
    HOLDS_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    close(fd);
    HOLDS_ERRNO(connect_to_it(-1), EBADF);
    HOLDS_ERRNO(client->accept(-1, NULL, NULL), EBADF);
}

static void a_refused_connection_says_so(void **state)
{
    (void)state;
    alone(connects_to_nobody);
}

/* A listener whose queue is full answers no more SYNs (listen(2), tcp(7)). */
static void connects_in_vain(void)
{
    int full = listen_here(0), fds[8], n = 0;

    for (; n < 8; n++) {
        fds[n] = socket(AF_INET, SOCK_STREAM, 0);
        set_limit(fds[n], SO_SNDTIMEO, 20);
        int64_t began = real_ms();
        if (connect_to_it(fds[n]) == 0)
            continue;
        HOLDS_EQ(errno, EINPROGRESS);
        HOLDS(real_ms() - began >= 19);
        break;
    }
    HOLDS(n < 8);
    {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        WEIR_DEADLINE(weir_in_ms(10));
        HOLDS_ERRNO(connect_to_it(fd), ETIMEDOUT);
        close(fd);
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    HOLDS_ERRNO(connect_to_it(fd), EINPROGRESS);
    close(fd);
    for (int i = 0; i <= n && i < 8; i++)
        close(fds[i]);
    close(full);
    HOLDS(other_ran);
}

static void a_connect_that_is_not_answered_ends_at_its_limits(void **state)
{
    (void)state;
    alone(connects_in_vain);
}

static int             unix_listener, unix_first = -1;
static struct sockaddr_un unix_address;

static void connects_to_a_full_queue(void)
{
    socklen_t length = sizeof unix_address;
    int       late = socket(AF_UNIX, SOCK_STREAM, 0);

    unix_listener = socket(AF_UNIX, SOCK_STREAM, 0);
    unix_address = (struct sockaddr_un){ .sun_family = AF_UNIX }; /* the kernel makes a name */
    HOLDS_EQ(bind(unix_listener, (struct sockaddr *)&unix_address, sizeof(sa_family_t)), 0);
    HOLDS_EQ(getsockname(unix_listener, (struct sockaddr *)&unix_address, &length), 0);
    HOLDS_EQ(listen(unix_listener, 0), 0);
    unix_first = socket(AF_UNIX, SOCK_STREAM, 0);
    HOLDS_EQ(client->connect(unix_first, (struct sockaddr *)&unix_address, length), 0);
    set_limit(late, SO_SNDTIMEO, 5);
    HOLDS_ERRNO(client->connect(late, (struct sockaddr *)&unix_address, length), EAGAIN);
    set_limit(late, SO_SNDTIMEO, 0);
    HOLDS_EQ(client->connect(late, (struct sockaddr *)&unix_address, length), 0);
    close(late);
}

static void empties_the_queue(void)
{
    HOLDS_EQ(weir_sleep(weir_in_ms(15)), WEIR_OK);
    close(client->accept(unix_listener, NULL, NULL));
    close(client->accept(unix_listener, NULL, NULL)); /* waits for the late one */
    close(unix_first);
    close(unix_listener);
}

static void a_full_queue_of_a_unix_socket_is_waited_for(void **state)
{
    (void)state;
    play(connects_to_a_full_queue, empties_the_queue);
}

static void fills_a_unix_datagram_queue(void)
{
    socklen_t length = sizeof unix_address;
    int       to = socket(AF_UNIX, SOCK_DGRAM, 0), from = socket(AF_UNIX, SOCK_DGRAM, 0), n = 0;

    unix_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    HOLDS_EQ(bind(to, (struct sockaddr *)&unix_address, sizeof(sa_family_t)), 0);
    HOLDS_EQ(getsockname(to, (struct sockaddr *)&unix_address, &length), 0);
    set_limit(from, SO_SNDTIMEO, 50);
    while (sendto(from, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&unix_address, length) == 1)
        n++;
    HOLDS(n > 0);
    HOLDS_EQ(weir_trace_start(NULL, NULL), WEIR_OK);
    HOLDS_ERRNO(client->sendto(from, "x", 1, 0, (struct sockaddr *)&unix_address, length), EAGAIN);
    HOLDS(weir_task_switches(weir_self()) >= 1);
    HOLDS(weir_task_switches(weir_self()) < 100);
    weir_trace_stop();
    close(to);
    close(from);
}

/* poll(2) says that it is writable all the time. */
static void what_is_ready_in_vain_does_not_spin(void **state)
{
    (void)state;
    alone(fills_a_unix_datagram_queue);
}

/* ---- polling ------------------------------------------------------------------------ */

static int quiet[2];

static void polls_in_every_way(void)
{
    struct pollfd   fds[4] = { { .fd = quiet[0], .events = POLLIN },
                               { .fd = -1, .events = POLLIN },
                               { .fd = pair[0], .events = POLLIN },
                               { .fd = -1 } };
    struct timespec minute = { 60, 0 }, none = { 0, 0 };
    sigset_t        mask;
    char            c;

    sigemptyset(&mask);
    HOLDS_EQ(client->poll(fds, 3, 0), 0);
    HOLDS(!other_ran);
    HOLDS_EQ(client->poll(fds, 3, -1), 1);
    HOLDS(other_ran);
    HOLDS_EQ(fds[2].revents, POLLIN);
    HOLDS_EQ(fds[0].revents, 0);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1); /* waits: the poll does not wait there any more */
    HOLDS_EQ(client->ppoll(fds, 3, &minute, NULL), 1);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1);
    HOLDS_EQ(client->ppoll(fds, 3, &minute, &mask), 1);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1);
    HOLDS_EQ(client->poll_four(fds, 4, 60000), 1);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1);
    HOLDS_EQ(client->ppoll_four(fds, 4, &none), 0);
    HOLDS_EQ(client->ppoll_four(fds, 4, &minute), 1);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1);

    fds[2].events = POLLRDHUP; /* the hub does not watch for that */
    HOLDS_EQ(client->poll(fds, 3, -1), 1);
    HOLDS_EQ(fds[2].revents & POLLRDHUP, POLLRDHUP);
}

static void says_x_again_and_again(void)
{
    for (int i = 0; i < 6; i++) {
        say("x");
        HOLDS_EQ(weir_sleep(weir_in_ms(25)), WEIR_OK);
    }
    shutdown(pair[1], SHUT_WR);
}

static void with_a_quiet_one(void (*one)(void), void (*other)(void))
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, quiet), 0);
    play_on_pair(SOCK_STREAM, one, other);
    close(quiet[0]);
    close(quiet[1]);
}

static void polls_wait_for_any_of_several(void **state)
{
    (void)state;
    with_a_quiet_one(polls_in_every_way, says_x_again_and_again);
}

static volatile sig_atomic_t signalled;

static void note_signal(int number)
{
    (void)number;
    signalled++;
}

/* That is what the mask is for: the signal comes while it is polled, and at no other time. */
static void polls_with_a_mask(void)
{
    struct pollfd    polled = { .fd = quiet[0], .events = POLLIN };
    struct timespec  second = { 1, 0 };
    struct sigaction action = { .sa_handler = note_signal }, before;
    sigset_t         blocked, old;
    fd_set           set;

    signalled = 0;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    HOLDS_EQ(sigaction(SIGUSR1, &action, &before), 0);
    HOLDS_EQ(pthread_sigmask(SIG_BLOCK, &blocked, &old), 0);
    HOLDS_EQ(raise(SIGUSR1), 0);
    HOLDS_EQ(client->poll(&polled, 1, 0), 0); /* no switch: swapcontext(3) has masks, too */
    HOLDS_EQ(signalled, 0);
    HOLDS_ERRNO(client->ppoll(&polled, 1, &second, &old), EINTR);
    HOLDS_EQ(signalled, 1);
    HOLDS_EQ(raise(SIGUSR1), 0);
    FD_ZERO(&set);
    FD_SET(quiet[0], &set);
    HOLDS_ERRNO(client->pselect(quiet[0] + 1, &set, NULL, NULL, &second, &old), EINTR);
    HOLDS_EQ(signalled, 2);
    HOLDS_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
    HOLDS_EQ(sigaction(SIGUSR1, &before, NULL), 0);
}

static void a_mask_is_in_force_while_it_is_polled(void **state)
{
    (void)state;
    with_a_quiet_one(polls_with_a_mask, nothing);
}

static void polls_for_a_while(void)
{
    struct pollfd twice[2] = { { .fd = pair[0], .events = POLLIN },
                               { .fd = pair[0], .events = POLLOUT } };
    struct pollfd odd = { .fd = pair[0], .events = POLLPRI };

    int64_t began = real_ms();
    HOLDS_EQ(client->poll(twice, 1, 20), 0);
    HOLDS(real_ms() - began >= 19);
    HOLDS_EQ(client->poll(&odd, 1, 30), 0);
    HOLDS(real_ms() - began >= 49);
    HOLDS_EQ(client->poll(NULL, 0, 10), 0);
    HOLDS(real_ms() - began >= 59);
    HOLDS_EQ(client->poll(twice, 2, -1), 1); /* one place is enough for it */
    HOLDS_EQ(twice[1].revents, POLLOUT);

    struct pollfd closed = { .fd = 999, .events = POLLIN };
    HOLDS_EQ(client->poll(&closed, 1, -1), 1);
    HOLDS_EQ(closed.revents, POLLNVAL);
    struct timespec wrong = { 0, 1000000000 };
    HOLDS_ERRNO(client->ppoll(twice, 1, &wrong, NULL), EINVAL);
}

static void polls_end_in_time(void **state)
{
    (void)state;
    with_a_quiet_one(polls_for_a_while, nothing);
}

static void polls_both_ends(void)
{
    struct pollfd p[2] = { { .fd = pair[0], .events = POLLOUT },
                           { .fd = pair[0], .events = POLLIN } };
    static char block[65536];

    while (send(pair[0], block, sizeof block, MSG_DONTWAIT) > 0)
        continue;
    HOLDS_EQ(client->poll(p, 2, -1), 1); /* full: it waits, in both slots, for what comes first */
    HOLDS_EQ(p[0].revents, 0);
    HOLDS_EQ(p[1].revents, POLLIN);
}

static void the_same_may_be_polled_twice_at_once(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, polls_both_ends, says_x);
}

static void selects_in_every_way(void)
{
    fd_set          r, w, e;
    struct timeval  limit = { 60, 0 };
    struct timespec exact = { 60, 0 };
    int             count = (pair[0] > quiet[0] ? pair[0] : quiet[0]) + 1;
    char            c;
    sigset_t        mask;

    sigemptyset(&mask);
    for (int way = 0; way < 4; way++) {
        FD_ZERO(&r);
        FD_ZERO(&e);
        FD_SET(pair[0], &r);
        FD_SET(quiet[0], &r);
        FD_SET(quiet[0], &e);
        int n = way == 0   ? client->select(count, &r, NULL, NULL, &limit)
                : way == 1 ? client->select(count, &r, NULL, &e, NULL)
                : way == 2 ? client->pselect(count, &r, NULL, NULL, &exact, NULL)
                           : client->pselect(count, &r, NULL, NULL, &exact, &mask);
        HOLDS_EQ(n, 1);
        HOLDS(FD_ISSET(pair[0], &r));
        HOLDS(!FD_ISSET(quiet[0], &r));
        HOLDS(way != 1 || !FD_ISSET(quiet[0], &e));
        HOLDS_EQ(client->read(pair[0], &c, 1), 1);
    }
    HOLDS(limit.tv_sec > 30 && limit.tv_sec < 60); /* what is left */
    HOLDS_EQ(exact.tv_sec, 60);

    FD_ZERO(&w);
    FD_SET(pair[0], &w);
    FD_ZERO(&r);
    FD_SET(pair[0], &r);
    HOLDS_EQ(client->select(count, &r, &w, NULL, NULL), 1);
    HOLDS(FD_ISSET(pair[0], &w) && !FD_ISSET(pair[0], &r));

    FD_ZERO(&r);
    FD_SET(quiet[0], &r);
    limit = (struct timeval){ 0, 10000 };
    HOLDS_EQ(client->select(count, &r, NULL, NULL, &limit), 0);
    HOLDS(!FD_ISSET(quiet[0], &r));
    HOLDS(limit.tv_sec == 0 && limit.tv_usec == 0);
    limit = (struct timeval){ 0, 10000 };
    HOLDS_EQ(client->select(0, NULL, NULL, NULL, &limit), 0); /* a sleep, as it once was written */

    FD_ZERO(&r);
    FD_SET(900, &r);
    HOLDS_ERRNO(client->select(901, &r, NULL, NULL, NULL), EBADF);
    HOLDS(FD_ISSET(900, &r)); /* untouched */
    HOLDS_ERRNO(client->select(-1, NULL, NULL, NULL, NULL), EINVAL);
    limit = (struct timeval){ -1, 0 };
    HOLDS_ERRNO(client->select(0, NULL, NULL, NULL, &limit), EINVAL);
}

static void select_is_poll_with_sets(void **state)
{
    (void)state;
    with_a_quiet_one(selects_in_every_way, says_x_again_and_again);
}

static int many[60];

static void selects_many(void)
{
    fd_set r;
    int    highest = 0;

    FD_ZERO(&r);
    for (int i = 0; i < 60; i++) {
        many[i] = dup(quiet[0]);
        FD_SET(many[i], &r);
        highest = many[i] > highest ? many[i] : highest;
    }
    FD_SET(pair[0], &r);
    HOLDS_EQ(client->select(highest + 1, &r, NULL, NULL, NULL), 1);
    HOLDS(FD_ISSET(pair[0], &r) && !FD_ISSET(many[59], &r));
    for (int i = 0; i < 60; i++)
        HOLDS_EQ(client->close(many[i]), 0);
}

static void select_takes_many(void **state)
{
    (void)state;
    with_a_quiet_one(selects_many, says_x);
}

/* ---- pipes and files ---------------------------------------------------------------- */

static void play_on_pipe(void (*one)(void), void (*other)(void))
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    pair[0] = ends[1]; /* `one` writes */
    pair[1] = ends[0];
    play(one, other);
    close(ends[0]);
    close(ends[1]);
}

static void a_pipe_is_waited_for_and_takes_all(void **state)
{
    (void)state;
    static void (*const ways[])(void) = { writes_much, writes_much_in_many_buffers };
    for (int i = 0; i < 2; i++) {
        make_much();
        play_on_pipe(ways[i], takes_it_all);
        assert_int_equal(got_size, MUCH);
        assert_memory_equal(got, much, MUCH);
        make_much(); /* and the reader first */
        play_on_pipe(ways[i], takes_it_all);
    }
}

static void reads_an_empty_pipe(void)
{
    char         c[2];
    struct iovec iov = { c, 2 };

    int reader = pair[1];
    HOLDS_EQ(client->read(reader, c, 2), 1);
    HOLDS(other_ran);
    HOLDS_EQ(client->readv(reader, &iov, 1), 1);
    set_nonblocking(reader, true);
    HOLDS_ERRNO(client->read(reader, c, 1), EAGAIN);
    HOLDS_EQ(fcntl(reader, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    HOLDS_ERRNO(client->recv(reader, c, 1, 0), ENOTSOCK);
    HOLDS_ERRNO(client->send(pair[0], c, 1, 0), ENOTSOCK);
}

static void writes_to_the_pipe(void)
{
    HOLDS_EQ(client->write(pair[0], "a", 1), 1);
    HOLDS_EQ(weir_sleep(weir_in_ms(2)), WEIR_OK);
    HOLDS_EQ(client->write(pair[0], "b", 1), 1);
}

static void an_empty_pipe_is_waited_for(void **state)
{
    (void)state;
    play_on_pipe(reads_an_empty_pipe, writes_to_the_pipe);
}

static void uses_a_file(void)
{
    char  path[] = "/tmp/weir_patch_XXXXXX", back[8];
    int   fd = mkstemp(path);

    HOLDS(fd >= 0);
    HOLDS_EQ(client->write(fd, much, MUCH), MUCH);
    HOLDS_EQ(lseek(fd, 0, SEEK_SET), 0);
    HOLDS_EQ(client->read(fd, back, sizeof back), (ssize_t)sizeof back);
    HOLDS(memcmp(back, much, sizeof back) == 0);
    HOLDS_EQ(client->close(fd), 0);
    HOLDS_ERRNO(client->read(fd, back, 1), EBADF);
    HOLDS_ERRNO(client->write(fd, back, 1), EBADF);
    HOLDS_ERRNO(client->close(fd), EBADF);
    HOLDS(!other_ran);
    unlink(path);
}

static void files_are_read_and_written_in_place(void **state)
{
    (void)state;
    make_much();
    alone(uses_a_file);
}

/* ---- sleeping ----------------------------------------------------------------------- */

static weir_status sleeps_on_a_clock_that_jumps(void *arg)
{
    struct timespec time = { 3, 250000000 }, wrong = { 0, 1000000000 }, now;

    (void)arg;
    HOLDS_EQ(client->sleep(60), 0);
    HOLDS_EQ(world_now_ms(), 60000);
    HOLDS_EQ(client->usleep(1500), 0);
    HOLDS_EQ(world_now_ns(), INT64_C(60001500000));
    HOLDS_EQ(client->nanosleep(&time, NULL), 0);
    HOLDS_EQ(world_now_ns(), INT64_C(63251500000));
    HOLDS_EQ(client->clock_nanosleep(CLOCK_REALTIME, 0, &time, NULL), 0);
    HOLDS_EQ(world_now_ns(), INT64_C(66501500000));
    HOLDS_EQ(client->poll(NULL, 0, 1000), 0);
    HOLDS_EQ(world_now_ns(), INT64_C(67501500000));
    HOLDS_ERRNO(client->nanosleep(&wrong, NULL), EINVAL);
    HOLDS_EQ(client->clock_nanosleep(CLOCK_MONOTONIC, 0, &wrong, NULL), EINVAL);
    HOLDS_EQ(client->clock_nanosleep(999, 0, &time, NULL), EINVAL);
    clock_gettime(CLOCK_MONOTONIC, &now);
    HOLDS_EQ(client->clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &now, NULL), 0);
    HOLDS_EQ(world_now_ns(), INT64_C(67501500000)); /* it is past */
    return WEIR_OK;
}

static void sleeps_take_their_time(void **state)
{
    (void)state;
    run_world(sleeps_on_a_clock_that_jumps, NULL);
}

static void sleeps_until(void)
{
    struct timespec until, now;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 10000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    HOLDS_EQ(client->clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL), 0);
    clock_gettime(CLOCK_REALTIME, &now);
    HOLDS(now.tv_sec > until.tv_sec ||
          (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec));
    HOLDS(other_ran);
}

static void a_time_of_a_clock_can_be_slept_until(void **state)
{
    (void)state;
    alone(sleeps_until);
}

/* ---- names -------------------------------------------------------------------------- */

static void looks_up_names(void)
{
    struct addrinfo  hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found = NULL;
    struct addrinfo  passive = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM,
                                 .ai_flags = AI_PASSIVE };
    struct addrinfo  numeric = { .ai_flags = AI_NUMERICHOST };

    HOLDS_EQ(client->getaddrinfo("127.0.0.1", "80", &hints, &found), 0);
    HOLDS_EQ(((struct sockaddr_in *)(void *)found->ai_addr)->sin_port, htons(80));
    freeaddrinfo(found);
    HOLDS(!other_ran); /* no file, no thread */
    HOLDS_EQ(client->getaddrinfo(NULL, "81", &passive, &found), 0);
    HOLDS_EQ(((struct sockaddr_in *)(void *)found->ai_addr)->sin_port, htons(81));
    freeaddrinfo(found);
    HOLDS(other_ran);
    found = NULL;
    HOLDS_EQ(client->getaddrinfo("no.number", NULL, &numeric, &found), EAI_NONAME);
    HOLDS_EQ(client->getaddrinfo(NULL, NULL, NULL, &found), EAI_NONAME);
    HOLDS(found == NULL);
}

static void names_are_looked_up_off_the_hub(void **state)
{
    (void)state;
    alone(looks_up_names);
}

/* ---- where nothing may yield -------------------------------------------------------- */

static atomic_bool reading;

static void *reads_on_a_thread(void *arg)
{
    char           c = 0;
    struct timeval limit = { 0, 1000 };

    (void)arg;
    HOLDS_EQ(client->usleep(1), 0);
    HOLDS_EQ(client->select(0, NULL, NULL, NULL, &limit), 0);
    atomic_store(&reading, true);
    HOLDS_EQ(client->read(pair[0], &c, 1), 1); /* blocks: this thread has no hub */
    HOLDS_EQ(c, 'x');
    return NULL;
}

static void outside_of_coroutines_they_are_the_real_calls(void **state)
{
    pthread_t thread;
    char      c;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(pthread_create(&thread, NULL, reads_on_a_thread, NULL), 0);
    while (!atomic_load(&reading))
        sched_yield();
    assert_int_equal(client->write(pair[1], "x", 1), 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(client->send(pair[0], "yz", 2, 0), 2);
    assert_int_equal(client->read(pair[1], &c, 1), 1);
    assert_int_equal(client->sum_recv(pair[1], 10), 'z');
    assert_int_equal(client->close(pair[0]), 0);
    assert_int_equal(client->close(pair[1]), 0);
    assert_notes();
}

static void sleeps_in_a_hook(weir_exit_hook *hook)
{
    struct timespec ms = { 0, 1000000 };

    (void)hook;
    HOLDS_EQ(client->nanosleep(&ms, NULL), 0); /* nothing may yield here: it blocks */
    HOLDS_EQ(client->send(pair[0], "bye", 3, 0), 3);
}

static void ends_with_a_hook(void)
{
    static weir_exit_hook hook;

    hook = (weir_exit_hook){ .fn = sleeps_in_a_hook };
    weir_exit_hook_add(weir_self(), &hook);
}

static void in_exit_hooks_they_are_the_real_calls(void **state)
{
    (void)state;
    play_on_pair(SOCK_STREAM, ends_with_a_hook, nothing); /* weir would log a wait there */
}

static int turns_of_the_other;

static void reads_what_is_always_there(void)
{
    char c;

    for (int i = 0; i < 1000; i++) {
        HOLDS_EQ(client->recv(pair[0], &c, 1, MSG_PEEK), 1);
        if (i == 500)
            HOLDS(turns_of_the_other > 2);
    }
    HOLDS(turns_of_the_other > 5);
}

static void takes_turns(void)
{
    turns_of_the_other = 0;
    for (int i = 0; i < 100; i++) {
        turns_of_the_other++;
        HOLDS_EQ(weir_yield(), WEIR_OK);
    }
}

static void who_is_always_served_gives_way(void **state)
{
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(write(pair[1], "x", 1), 1);
    play(reads_what_is_always_there, takes_turns);
    close(pair[0]);
    close(pair[1]);
}

static void reads_beyond_its_buffer(void *arg)
{
    (void)arg;
    client->sum_read(pair[0], 65);
}

static void look_for_fortified(const weir_slot *slot, void *found)
{
    if (strcmp(slot->symbol, "__read_chk") == 0)
        *(bool *)found = true;
}

/* What _FORTIFY_SOURCE promises holds for the substitutes; where the compiler makes such calls. */
static void a_read_beyond_its_buffer_ends_the_process(void **state)
{
    bool fortified = false;

    (void)state;
    assert_int_equal(weir_patch_each(LIBRARY("client_now"), look_for_fortified, &fortified, NULL),
                     WEIR_OK);
    if (!fortified)
        skip();
    pid_t pid = fork();
    int   status = 0;

    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        int devnull = open("/dev/null", O_WRONLY);
        dup2(devnull, 2);
        reads_beyond_its_buffer(NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_way_of_reading_yields),
        TEST(waitall_waits_for_all),
        TEST(datagrams_keep_their_ends),
        TEST(a_blocking_write_ends_when_all_is_written),
        TEST(descriptors_travel_in_messages),
        TEST(the_users_own_nonblocking_mode_is_kept),
        TEST(a_number_may_become_another_file),
        TEST(the_sockets_own_limits_are_kept),
        TEST(a_cancelled_coroutine_gets_ecanceled_from_then_on),
        TEST(a_coroutine_that_is_late_gets_etimedout_from_then_on),
        TEST(deadlines_cut_every_wait_short),
        TEST(closing_ends_the_wait_of_another),
        TEST(two_cannot_wait_for_the_same),
        TEST(accept_and_connect_yield),
        TEST(a_refused_connection_says_so),
        TEST(a_connect_that_is_not_answered_ends_at_its_limits),
        TEST(a_full_queue_of_a_unix_socket_is_waited_for),
        TEST(what_is_ready_in_vain_does_not_spin),
        TEST(polls_wait_for_any_of_several),
        TEST(a_mask_is_in_force_while_it_is_polled),
        TEST(polls_end_in_time),
        TEST(the_same_may_be_polled_twice_at_once),
        TEST(select_is_poll_with_sets),
        TEST(select_takes_many),
        TEST(a_pipe_is_waited_for_and_takes_all),
        TEST(an_empty_pipe_is_waited_for),
        TEST(files_are_read_and_written_in_place),
        TEST(sleeps_take_their_time),
        TEST(a_time_of_a_clock_can_be_slept_until),
        TEST(names_are_looked_up_off_the_hub),
        TEST(outside_of_coroutines_they_are_the_real_calls),
        TEST(in_exit_hooks_they_are_the_real_calls),
        TEST(who_is_always_served_gives_way),
        TEST(a_read_beyond_its_buffer_ends_the_process),
    };

    return cmocka_run_group_tests(tests, patch_it, unpatch_it);
}
