/*
 * reactor_ev.c - time and readiness by libev: the loop of an application that a hub is
 * attached to. The only file that knows it.
 *
 * The hub turns in a prepare watcher, just before the loop would block. While more are ready
 * an idle watcher keeps the loop from blocking; otherwise one timer stands for all of the
 * hub's alarms.
 *
 * libev aborts when a watcher is touched after its descriptor was closed, and never reports
 * a descriptor whose number was closed and used again meanwhile, unless it is told: a watcher
 * that is started is first asked for, and set, as if its descriptor were a new one.
 */
#include "hub.h"
#include "log.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct watcher {
    ev_io io;
    bool  once;
};

struct ev_reactor {
    struct reactor  base;
    struct ev_loop *loop;
    bool            holds_loop;  /* it goes on while a coroutine is alive */
    int64_t         timer_at_ns; /* what the timer is set to; INT64_MAX: it is stopped */
    ev_prepare      prepare;
    ev_check        check;
    ev_idle         idle;
    ev_timer        timer;
    ev_async        async;
    struct watcher *watchers[FD_CHUNKS]; /* they must not move while they are started */
};

static struct ev_reactor *of(struct reactor *reactor)
{
    return (struct ev_reactor *)reactor;
}

/* ---- time --------------------------------------------------------------------------- */

static int64_t read_clock(struct reactor *reactor)
{
    struct timespec now;

    (void)reactor;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void set_timer(struct ev_reactor *r, int64_t at_ns)
{
    if (at_ns == r->timer_at_ns)
        return;
    r->timer_at_ns = at_ns;
    ev_timer_stop(r->loop, &r->timer);
    if (at_ns == INT64_MAX)
        return;
    int64_t left = at_ns - read_clock(&r->base);
    ev_now_update(r->loop); /* a timer counts from the loop's idea of now, which may be old */
    ev_timer_set(&r->timer, left > 0 ? (double)left / 1e9 : 0., 0.);
    ev_timer_start(r->loop, &r->timer);
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
    struct ev_reactor *r = timer->data;

    (void)loop;
    (void)events;
    r->timer_at_ns = INT64_MAX; /* it has stopped itself; the coming turn sets it anew */
}

/* ---- turning ------------------------------------------------------------------------ */

/* Our watchers alone shall not keep an application's ev_run() from returning; somebody who
   waits for another thread, with no watcher of his own, shall. */
static void hold_loop(struct ev_reactor *r, bool hold)
{
    if (hold == r->holds_loop)
        return;
    r->holds_loop = hold;
    if (hold)
        ev_ref(r->loop);
    else
        ev_unref(r->loop);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int events)
{
    struct ev_reactor *r = prepare->data;

    (void)events;
    switch (hub_turn(r->base.hub)) {
    case HUB_AGAIN:
        if (!ev_is_active(&r->idle))
            ev_idle_start(loop, &r->idle);
        break;
    case HUB_WAIT:
        if (ev_is_active(&r->idle))
            ev_idle_stop(loop, &r->idle);
        set_timer(r, hub_next_alarm(r->base.hub));
        break;
    case HUB_DONE: /* never: only a hub with a main coroutine ends by itself */
        break;
    }
    hold_loop(r, hub_is_busy(r->base.hub));
}

/* Last of all callbacks: those of the application may have spawned a coroutine, and the loop
   would return before its next turn if nothing else were left in it. */
static void on_check(struct ev_loop *loop, ev_check *check, int events)
{
    struct ev_reactor *r = check->data;

    (void)loop;
    (void)events;
    hold_loop(r, hub_is_busy(r->base.hub));
}

static void on_idle(struct ev_loop *loop, ev_idle *idle, int events)
{
    (void)loop; /* it is enough that the loop did not block */
    (void)idle;
    (void)events;
}

static void on_async(struct ev_loop *loop, ev_async *async, int events)
{
    (void)loop; /* the coming turn takes in what other threads said */
    (void)async;
    (void)events;
}

static void poke(struct reactor *reactor)
{
    ev_async_send(of(reactor)->loop, &of(reactor)->async);
}

/* ---- descriptors -------------------------------------------------------------------- */

static void on_io(struct ev_loop *loop, ev_io *io, int events)
{
    struct ev_reactor *r = io->data;
    int                ready = 0;

    if (((struct watcher *)io)->once)
        ev_io_stop(loop, io);
    if (events & EV_ERROR) {
        hub_fd_invalid(r->base.hub, io->fd); /* libev has stopped the watcher */
        return;
    }
    if (events & EV_READ)
        ready |= WEIR_READ;
    if (events & EV_WRITE)
        ready |= WEIR_WRITE;
    hub_fd_ready(r->base.hub, io->fd, ready);
}

static struct watcher *watcher_of(struct ev_reactor *r, int fd)
{
    struct watcher **chunk = &r->watchers[fd / FD_CHUNK];

    if (!*chunk) {
        *chunk = calloc(FD_CHUNK, sizeof **chunk);
        if (!*chunk)
            return NULL;
        for (int i = 0; i < FD_CHUNK; i++) {
            ev_init(&(*chunk)[i].io, on_io);
            (*chunk)[i].io.data = r;
        }
    }
    return &(*chunk)[fd % FD_CHUNK];
}

static int watch(struct reactor *reactor, int fd, int events, enum watch_mode mode)
{
    struct ev_reactor *r = of(reactor);
    struct watcher    *watcher = watcher_of(r, fd);
    int                wanted = (events & WEIR_READ ? EV_READ : 0) |
                 (events & WEIR_WRITE ? EV_WRITE : 0);

    if (!watcher)
        return ENOMEM;
    /* libev knows levels only, which will do for edges. */
    if (mode == WATCH_EDGE && !watcher->once && ev_is_active(&watcher->io) &&
        (watcher->io.events & (EV_READ | EV_WRITE)) == wanted)
        return 0;
    bool fresh = watcher->once || !ev_is_active(&watcher->io);
    if (wanted && fresh && fcntl(fd, F_GETFD) < 0)
        return errno; /* libev would abort the process */
    ev_io_stop(r->loop, &watcher->io);
    watcher->once = mode == WATCH_ONCE;
    if (!wanted)
        return 0;
    if (fresh)
        ev_io_set(&watcher->io, fd, wanted);
    else
        ev_io_modify(&watcher->io, wanted);
    ev_io_start(r->loop, &watcher->io);
    return 0;
}

/* ---- made and freed ----------------------------------------------------------------- */

static void free_reactor(struct reactor *reactor)
{
    struct ev_reactor *r = of(reactor);

    for (int chunk = 0; chunk < FD_CHUNKS; chunk++) {
        for (int i = 0; r->watchers[chunk] && i < FD_CHUNK; i++)
            ev_io_stop(r->loop, &r->watchers[chunk][i].io);
        free(r->watchers[chunk]);
    }
    hold_loop(r, false);
    ev_ref(r->loop); /* undo the unreferencing below, then stop */
    ev_ref(r->loop);
    ev_ref(r->loop);
    ev_check_stop(r->loop, &r->check);
    ev_prepare_stop(r->loop, &r->prepare);
    ev_idle_stop(r->loop, &r->idle);
    ev_timer_stop(r->loop, &r->timer);
    ev_async_stop(r->loop, &r->async);
    free(r);
}

/* The descriptors are open here too, so their watchers may be touched. The loop makes itself a
   new epoll set when it next turns. */
static bool forked(struct reactor *reactor, bool thread_is_here)
{
    struct ev_reactor *r = of(reactor);

    if (!thread_is_here)
        return true;
    for (int chunk = 0; chunk < FD_CHUNKS; chunk++)
        for (int i = 0; r->watchers[chunk] && i < FD_CHUNK; i++)
            ev_io_stop(r->loop, &r->watchers[chunk][i].io);
    set_timer(r, INT64_MAX);
    ev_loop_fork(r->loop);
    return true;
}

static const struct reactor_ops ops = {
    .clock = read_clock,
    .watch = watch,
    .poke = poke,
    .free = free_reactor,
    .forked = forked,
};

/* libev aborts the process where it gets no descriptor for its wake-ups. */
static bool descriptor_left(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    return fd >= 0 && close(fd) == 0;
}

struct reactor *reactor_ev_new(struct ev_loop *loop)
{
    struct ev_reactor *r = descriptor_left() ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return NULL;

    r->base.ops = &ops;
    r->loop = loop;
    r->timer_at_ns = INT64_MAX;
    ev_prepare_init(&r->prepare, on_prepare);
    ev_idle_init(&r->idle, on_idle);
    ev_timer_init(&r->timer, on_timer, 0., 0.);
    ev_check_init(&r->check, on_check);
    ev_set_priority(&r->check, EV_MINPRI);
    ev_async_init(&r->async, on_async);
    r->prepare.data = r->timer.data = r->check.data = r;
    ev_prepare_start(r->loop, &r->prepare);
    ev_async_start(r->loop, &r->async);
    ev_check_start(r->loop, &r->check);
    ev_unref(r->loop); /* these three alone shall not keep the loop running */
    ev_unref(r->loop);
    ev_unref(r->loop);
    return &r->base;
}

weir_status reactor_ev_check(weir_error *err)
{
    if (ev_version_major() == EV_VERSION_MAJOR && ev_version_minor() >= EV_VERSION_MINOR)
        return WEIR_OK;
    return weir_error_set(err, WEIR_USAGE,
                          "built with libev %d.%d, but running with %d.%d: install the one it was "
                          "built with, or a later one of the same major version",
                          EV_VERSION_MAJOR, EV_VERSION_MINOR, ev_version_major(),
                          ev_version_minor());
}
