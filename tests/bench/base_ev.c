/*
 * base_ev.c - waiting for a descriptor with libev and fcontext and nothing in between.
 *
 * Knows:   one loop, two contexts, a watcher started for each wait and stopped by the event.
 * Ignores: deadlines, cancelling, errors, more than one waiter.
 *
 * libev puts a stop and a start of one descriptor in the same turn together, so a watcher
 * per wait costs no epoll_ctl. Both sides wait before they read: right after a byte was sent
 * no answer can be there yet, and a read that fails is a system call for nothing.
 */
#include "base.h"
#include "fcontext.h"

#include <errno.h>
#include <ev.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STACK_SIZE = 64 * 1024 };

struct echo;

struct party {
    struct echo *echo;
    ev_io        readable;
    fcontext_t   at;  /* where it left off */
    int          fd;
};

struct echo {
    struct ev_loop *loop;
    struct lap     *lap;
    fcontext_t      hub; /* where the loop left off, while a party runs */
    struct party    asker, answerer;
};

static void resume(struct party *party)
{
    party->at = jump_fcontext(party->at, party).from;
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)events;
    ev_io_stop(loop, watcher);
    resume(watcher->data);
}

static void wait_readable(struct party *self)
{
    ev_io_start(self->echo->loop, &self->readable);
    self->echo->hub = jump_fcontext(self->echo->hub, NULL).from;
}

static bool send_byte(int fd)
{
    char byte = 'w';

    return write(fd, &byte, 1) == 1;
}

static bool receive_byte(struct party *self)
{
    char byte;

    wait_readable(self);
    return read(self->fd, &byte, 1) == 1;
}

/* A party that has nothing more to do leaves, and does not come back. */
static void leave(struct party *self)
{
    ev_break(self->echo->loop, EVBREAK_ALL);
    for (;;)
        self->echo->hub = jump_fcontext(self->echo->hub, NULL).from;
}

static void ask(transfer_t came)
{
    struct party *self = came.data;
    struct lap   *lap = self->echo->lap;

    self->echo->hub = came.from;
    while (!lap->over && send_byte(self->fd) && receive_byte(self))
        lap_tick(lap);
    leave(self);
}

static void answer(transfer_t came)
{
    struct party *self = came.data;

    self->echo->hub = came.from;
    while (receive_byte(self) && send_byte(self->fd))
        continue;
    leave(self);
}

static void prepare(struct echo *echo, struct party *party, int fd, char *stack,
                    void (*entry)(transfer_t))
{
    *party = (struct party){ .echo = echo, .fd = fd };
    party->at = make_fcontext(stack + STACK_SIZE, STACK_SIZE, entry);
    ev_io_init(&party->readable, on_readable, fd, EV_READ);
    party->readable.data = party;
}

bool base_echo(struct lap *lap, int how)
{
    struct echo echo = { .lap = lap };
    int         pair[2];

    (void)how;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return bench_fail("socketpair: %s", strerror(errno));
    char *stacks = mmap(NULL, 2 * STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    echo.loop = ev_loop_new(EVFLAG_AUTO);
    if (stacks == MAP_FAILED || !echo.loop)
        return bench_fail("no memory for a loop and two stacks");

    prepare(&echo, &echo.answerer, pair[1], stacks, answer);
    prepare(&echo, &echo.asker, pair[0], stacks + STACK_SIZE, ask);
    resume(&echo.answerer);
    resume(&echo.asker);
    if (!lap->over)
        ev_run(echo.loop, 0);

    ev_io_stop(echo.loop, &echo.answerer.readable);
    ev_io_stop(echo.loop, &echo.asker.readable);
    ev_loop_destroy(echo.loop);
    munmap(stacks, 2 * STACK_SIZE);
    close(pair[0]);
    close(pair[1]);
    return true;
}
