/*
 * reactor_epoll.c - time and readiness by Linux's epoll: the loop of weir_run().
 *
 * Knows:   an epoll set, a timer and a bell in it, the hub's turns.
 * Ignores: coroutines, and loops of others (reactor_ev.c).
 *
 * A loop that serves nobody but the hub can do with less than libev, and a point SELECT that
 * wakes it once shows by how much: about a seventh of the client's CPU. libev never sleeps
 * without a timeout, so each sleep starts and cancels a timer in the kernel; here one timerfd
 * stands for all alarms and is touched only when an alarm is earlier than it. And a wait on a
 * plain descriptor is one epoll_ctl: EPOLL_CTL_MOD says by itself whether the number is still
 * the file it was, and EPOLLONESHOT ends the interest with the event.
 *
 * Timer and bell are edge-triggered, so nobody has to read them empty.
 */
#include "hub.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 128,        /* taken in at most before the hub turns */
    QUIET_MS = 100,      /* without a sign of life, before a deadlock is thought of; and at most, */
    QUIET_MAX_MS = 10000 /* while it cannot be told from waiting for another thread */
};

/*
 * What was last asked for of a descriptor. The kernel's reports carry its number, for one may be
 * of a file that had the descriptor before: a registration outlives its descriptor where the file
 * has another one (after a fork), and of the reports taken in at once an earlier one may have its
 * reader close the file of a later one and open another. A report that is thrown away so is made
 * anew where it still holds: each registration has the kernel look.
 */
struct interest {
    uint32_t number; /* 0: there was none */
    bool     added;  /* to the set, if it is still the file it was */
};

struct epoll_reactor {
    struct reactor   base;
    int              set, timer, bell;
    int64_t          timer_at_ns; /* it rings then or has rung; INT64_MAX: it is not set */
    bool             catches_signals;
    struct sigaction term_before, interrupt_before;
    struct interest *interests[FD_CHUNKS];
};

static struct epoll_reactor *of(struct reactor *reactor)
{
    return (struct epoll_reactor *)reactor;
}

/* ---- time --------------------------------------------------------------------------- */

static int64_t read_clock(struct reactor *reactor)
{
    struct timespec now;

    (void)reactor;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* One that is set to something earlier rings for nothing, once, and is then set anew. */
static void set_timer(struct epoll_reactor *r, int64_t at_ns)
{
    if (at_ns >= r->timer_at_ns)
        return;
    struct itimerspec at = { .it_value = { at_ns / 1000000000, at_ns % 1000000000 } };
    r->timer_at_ns = at_ns;
    timerfd_settime(r->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* ---- descriptors -------------------------------------------------------------------- */

/* What an event carries: the descriptor, and the number of the interest; 0 for our own two. */
static uint64_t tag(int fd, uint32_t number)
{
    return (uint64_t)number << 32 | (uint32_t)fd;
}

static struct interest *interest_of(struct epoll_reactor *r, int fd)
{
    struct interest **chunk = &r->interests[fd / FD_CHUNK];

    if (!*chunk)
        *chunk = calloc(FD_CHUNK, sizeof **chunk);
    return *chunk ? &(*chunk)[fd % FD_CHUNK] : NULL;
}

/* Returns an errno. Whether the number is in the set already only the kernel knows. */
static int put_into(struct epoll_reactor *r, int fd, bool added, struct epoll_event *event)
{
    if (!epoll_ctl(r->set, added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, event))
        return 0;
    if (errno != (added ? ENOENT : EEXIST))
        return errno;
    return epoll_ctl(r->set, added ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, event) ? errno : 0;
}

static int watch(struct reactor *reactor, int fd, int events, enum watch_mode mode)
{
    struct epoll_reactor *r = of(reactor);
    struct interest      *interest = interest_of(r, fd);
    struct epoll_event    event = { 0 };

    if (!interest)
        return ENOMEM;
    if (!++interest->number)
        interest->number = 1;
    if (!events) { /* its file may be closed, and the entry gone with it */
        epoll_ctl(r->set, EPOLL_CTL_DEL, fd, &event);
        interest->added = false;
        return 0;
    }
    event.events = (events & WEIR_READ ? EPOLLIN : 0) | (events & WEIR_WRITE ? EPOLLOUT : 0) |
                   (mode == WATCH_ONCE ? EPOLLONESHOT : 0) |
                   (mode == WATCH_EDGE ? EPOLLET | EPOLLRDHUP : 0);
    event.data.u64 = tag(fd, interest->number);
    int errnum = put_into(r, fd, interest->added, &event);
    interest->added = errnum == 0;
    return errnum;
}

static void report(struct epoll_reactor *r, const struct epoll_event *event)
{
    int      fd = (int)(uint32_t)event->data.u64;
    uint32_t number = (uint32_t)(event->data.u64 >> 32);
    int      ready = 0;

    if (number != r->interests[fd / FD_CHUNK][fd % FD_CHUNK].number)
        return;
    /* Whoever reads or writes now gets the error, or the end. */
    if (event->events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        ready |= WEIR_READ;
    if (event->events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        ready |= WEIR_WRITE;
    if (event->events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP))
        ready |= FD_ENDED;
    hub_fd_ready(r->base.hub, fd, ready);
}

/* ---- turning ------------------------------------------------------------------------ */

/* How many things happened, if only a signal. */
static int look(struct epoll_reactor *r, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int                count = epoll_wait(r->set, events, EVENTS, timeout_ms);

    if (count > 0)
        r->base.hub->stuck = 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == tag(r->timer, 0))
            r->timer_at_ns = INT64_MAX;
        else if (events[i].data.u64 != tag(r->bell, 0)) /* which has done its work already */
            report(r, &events[i]);
    }
    return count;
}

/* ---- from other threads, and from signals ------------------------------------------- */

static void ring(int bell)
{
    uint64_t one = 1;

    if (write(bell, &one, sizeof one) < 0) {
        /* The counter is full: it has rung, and nobody reads it. */
    }
}

static void poke(struct reactor *reactor)
{
    ring(of(reactor)->bell);
}

/* There is at most one reactor that catches signals: see weir_run_with(). */
static volatile sig_atomic_t signalled, signal_bell;

static void on_signal(int number)
{
    int saved = errno;

    (void)number;
    signalled = 1;
    ring(signal_bell);
    errno = saved;
}

static void catch_signals(struct epoll_reactor *r)
{
    struct sigaction ours = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

    signalled = 0;
    signal_bell = r->bell;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGTERM, &ours, &r->term_before);
    sigaction(SIGINT, &ours, &r->interrupt_before);
    r->catches_signals = true;
}

static void heed_signals(struct epoll_reactor *r)
{
    if (!r->catches_signals || !signalled)
        return;
    signalled = 0;
    hub_cancel_main(r->base.hub);
}

/*
 * Only another thread could still wake somebody, if there is one. The answer is looked for when
 * none has for a while: so threads that do pay nothing for it.
 */
static void wait_or_break_deadlock(struct epoll_reactor *r)
{
    for (int ms = QUIET_MS; look(r, ms) == 0; ms = ms < QUIET_MAX_MS ? ms * 2 : ms) {
        if (r->catches_signals && signalled)
            return;
        if (hub_break_deadlock(r->base.hub) == DEADLOCK_BROKEN)
            return;
    }
}

static void run(struct reactor *reactor)
{
    struct epoll_reactor *r = of(reactor);
    enum hub_wish         wish;

    while ((wish = hub_turn(reactor->hub)) != HUB_DONE) {
        if (wish == HUB_WAIT)
            set_timer(r, hub_next_alarm(reactor->hub));
        if (wish == HUB_WAIT && hub_seems_stuck(reactor->hub))
            wait_or_break_deadlock(r);
        else
            look(r, wish == HUB_WAIT ? -1 : 0);
        heed_signals(r);
    }
}

/* ---- made and freed ----------------------------------------------------------------- */

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void close_all(struct epoll_reactor *r)
{
    close_if_open(r->bell);
    close_if_open(r->timer);
    close_if_open(r->set);
    r->bell = r->timer = r->set = -1;
}

static void free_reactor(struct reactor *reactor)
{
    struct epoll_reactor *r = of(reactor);

    if (r->catches_signals) {
        sigaction(SIGTERM, &r->term_before, NULL);
        sigaction(SIGINT, &r->interrupt_before, NULL);
    }
    close_all(r);
    for (int chunk = 0; chunk < FD_CHUNKS; chunk++)
        free(r->interests[chunk]);
    free(r);
}

static bool add_edge(struct epoll_reactor *r, int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = tag(fd, 0) };

    return fd >= 0 && !epoll_ctl(r->set, EPOLL_CTL_ADD, fd, &event);
}

static bool open_all(struct epoll_reactor *r)
{
    r->timer_at_ns = INT64_MAX;
    r->set = epoll_create1(EPOLL_CLOEXEC);
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    r->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return r->set >= 0 && add_edge(r, r->timer) && add_edge(r, r->bell);
}

/* The three are shared with the parent: what is done to them here would be done to its hub. */
static bool forked(struct reactor *reactor, bool thread_is_here)
{
    struct epoll_reactor *r = of(reactor);

    close_all(r);
    for (int chunk = 0; chunk < FD_CHUNKS; chunk++)
        for (int i = 0; r->interests[chunk] && i < FD_CHUNK; i++)
            r->interests[chunk][i].added = false;
    if (!thread_is_here)
        return true;
    if (!open_all(r))
        return false;
    if (r->catches_signals)
        signal_bell = r->bell;
    return true;
}

static const struct reactor_ops ops = {
    .clock = read_clock,
    .watch = watch,
    .poke = poke,
    .run = run,
    .free = free_reactor,
    .forked = forked,
};

struct reactor *reactor_epoll_new(bool cancel_on_signals)
{
    struct epoll_reactor *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->base.ops = &ops;
    if (!open_all(r)) {
        free_reactor(&r->base);
        return NULL;
    }
    if (cancel_on_signals)
        catch_signals(r);
    return &r->base;
}
