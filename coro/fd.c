/*
 * fd.c - waiting for descriptors.
 *
 * One slot a descriptor: one coroutine may wait to read and one to write. Interest is for one
 * event and ends with the wait, because a descriptor closed behind our back must not stay
 * watched; only one that its owner promised to announce the closing of (weir_fd_watch) stays
 * watched for reading across waits, so that a connection costs no epoll_ctl for them.
 */
#include "hub.h"
#include "log.h"
#include "park.h"
#include "patch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fd_slot {
    weir_task *reader, *writer; /* who waits */
    void (*quiet)(int fd, void *arg); /* told when it is readable and nobody waits */
    void *arg;
    unsigned char ready;    /* what came, for whoever is woken: see weir_wait_fd() */
    unsigned char interest; /* what the reactor watches */
    bool          muted;    /* was readable with nobody waiting: not watched till someone does */
    bool          edge;     /* what came is reported once: see weir_fd_watch_edge() */
    bool          ended;    /* no more will come, and no edge tells of it again */
};

static inline struct fd_slot *slot_of(weir_hub *hub, int fd)
{
    struct fd_slot **chunk = &hub->fds[fd / FD_CHUNK];

    if (!*chunk)
        *chunk = calloc(FD_CHUNK, sizeof **chunk);
    return *chunk ? &(*chunk)[fd % FD_CHUNK] : NULL;
}

static struct fd_slot *slot_if_any(weir_hub *hub, int fd)
{
    if (fd < 0 || fd >= FD_CHUNK * FD_CHUNKS || !hub->fds[fd / FD_CHUNK])
        return NULL;
    return &hub->fds[fd / FD_CHUNK][fd % FD_CHUNK];
}

void fds_free(weir_hub *hub)
{
    for (int i = 0; i < FD_CHUNKS; i++)
        free(hub->fds[i]);
}

static inline int wanted_of(const struct fd_slot *slot)
{
    return (slot->reader || (slot->quiet && !slot->muted) ? WEIR_READ : 0) |
           (slot->writer ? WEIR_WRITE : 0);
}

static inline void set_interest(weir_hub *hub, struct fd_slot *slot, int interest)
{
    hub->watched += (unsigned)(interest != 0) - (unsigned)(slot->interest != 0);
    slot->interest = (unsigned char)interest;
}

static int watch(weir_hub *hub, int fd, struct fd_slot *slot, int wanted)
{
    enum watch_mode mode = !slot->quiet ? WATCH_ONCE : slot->edge ? WATCH_EDGE : WATCH_LEVEL;
    int             errnum = hub->reactor->ops->watch(hub->reactor, fd, wanted, mode);

    if (errnum == 0)
        set_interest(hub, slot, wanted);
    return errnum;
}

/* Make the reactor watch what the slot's state asks for. Returns an errno. */
static inline int apply(weir_hub *hub, int fd, struct fd_slot *slot)
{
    int wanted = wanted_of(slot);

    return wanted == slot->interest ? 0 : watch(hub, fd, slot, wanted);
}

/* ---- what the reactor tells --------------------------------------------------------- */

void hub_fd_ready(weir_hub *hub, int fd, int events)
{
    struct fd_slot *slot = slot_if_any(hub, fd);

    if (!slot)
        return;
    slot->ready |= events & (WEIR_READ | WEIR_WRITE);
    slot->ended = slot->ended || (events & FD_ENDED);
    if (!slot->quiet)
        set_interest(hub, slot, 0); /* it was watched for this once */
    if ((events & WEIR_WRITE) && slot->writer)
        task_wake(slot->writer, WEIR_OK);
    if (!(events & WEIR_READ))
        return;
    if (slot->reader) {
        task_wake(slot->reader, WEIR_OK);
    } else if (slot->quiet && !slot->muted) {
        slot->muted = true;
        apply(hub, fd, slot);
        slot->quiet(fd, slot->arg);
    }
}

static void end_waits(struct fd_slot *slot, weir_status status)
{
    if (slot->reader)
        task_wake(slot->reader, status);
    if (slot->writer)
        task_wake(slot->writer, status);
}

void hub_fd_invalid(weir_hub *hub, int fd)
{
    struct fd_slot *slot = slot_if_any(hub, fd);

    if (!slot)
        return;
    set_interest(hub, slot, 0);
    end_waits(slot, WEIR_USAGE);
}

/* In the child: nothing is watched, and nobody waits. */
void fds_forked(weir_hub *hub)
{
    for (int i = 0; i < FD_CHUNKS; i++)
        if (hub->fds[i])
            memset(hub->fds[i], 0, FD_CHUNK * sizeof *hub->fds[i]);
    hub->watched = 0;
}

/* ---- waiting ------------------------------------------------------------------------ */

static weir_status poll_blocking(int fd, int events, weir_deadline deadline, int *ready)
{
    struct pollfd p = { .fd = fd };
    int           n;

    p.events = (short)((events & WEIR_READ ? POLLIN : 0) | (events & WEIR_WRITE ? POLLOUT : 0));
    do {
        int64_t left = deadline.at_ns == INT64_MAX ? -1 : deadline.at_ns - weir_in_ms(0).at_ns;
        if (left < 0 && deadline.at_ns != INT64_MAX)
            left = 0;
        int64_t ms = left < 0 ? -1 : (left + 999999) / 1000000;
        n = poll(&p, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);
    } while (n < 0 && errno == EINTR);
    if (n == 0)
        return WEIR_TIMEOUT;
    if (n < 0 || (p.revents & POLLNVAL))
        return WEIR_USAGE;
    if (ready) {
        bool both = p.revents & (POLLERR | POLLHUP);
        *ready = (p.revents & POLLIN || both ? WEIR_READ : 0) |
                 (p.revents & POLLOUT || both ? WEIR_WRITE : 0);
        *ready &= events;
    }
    return WEIR_OK;
}

static weir_status say_busy(int fd, const char *what, const weir_task *first)
{
    weir_task *self = task_here();

    LOG(WEIR_LOG_ERROR,
        "descriptor %d: %s %llu (spawned at %s) would %s it, while %s %llu (spawned at %s) waits "
        "to do so: two coroutines must not share one",
        fd, weir_task_name(self), (unsigned long long)self->id, self->site, what,
        weir_task_name(first), (unsigned long long)first->id, first->site);
    return WEIR_BUSY;
}

/* The wait is over: for whom the slot is watched now. An end that one edge told of together with
   bytes is news still, for he may read those and ask for no more: so the reactor looks anew. */
static inline void stop_waiting(weir_hub *hub, int fd, struct fd_slot *slot, weir_task *task)
{
    bool untold = false;

    if (slot->reader == task) {
        slot->reader = NULL;
        slot->muted = false;
        untold = slot->ended && slot->edge;
    }
    if (slot->writer == task)
        slot->writer = NULL;
    if (__builtin_expect(untold, 0))
        (void)watch(hub, fd, slot, wanted_of(slot));
    else
        apply(hub, fd, slot);
}

static weir_status status_of(int errnum)
{
    return errnum == ENOMEM || errnum == ENOSPC ? WEIR_NOMEM : WEIR_USAGE;
}

/* A regular file: reading one does not block in a way that one could wait for. */
static weir_status always_ready(int events, int *ready)
{
    weir_spend(WEIR_IO_UNITS);
    if (ready)
        *ready = events;
    return WEIR_OK;
}

/* Might there be something of which no edge will tell? Then the reactor has to look anew. (One
   that was told of while a reader waited has ended his wait with WEIR_OK, whatever else had.) */
static inline bool may_be_told_already(const struct fd_slot *slot, int events)
{
    return slot->edge && (events & WEIR_READ) &&
           (slot->ended || !(events & WEIR_DRAINED));
}

static inline int begin_watching(weir_hub *hub, int fd, struct fd_slot *slot, int events)
{
    return may_be_told_already(slot, events) ? watch(hub, fd, slot, wanted_of(slot))
                                             : apply(hub, fd, slot);
}

weir_status weir_wait_fd(int fd, int events, weir_deadline deadline, int *ready)
{
    weir_task *task = task_here();

    if (ready)
        *ready = 0;
    if (!(events & (WEIR_READ | WEIR_WRITE)) || fd < 0 || fd >= FD_CHUNK * FD_CHUNKS)
        return WEIR_USAGE;
    /* A deadline that has passed asks for a look, not for a wait. */
    if (!task || (deadline.at_ns <= task->hub->now_ns && weir_pending(WEIR_FOREVER) == WEIR_OK)) {
        weir_spend(WEIR_IO_UNITS);
        return poll_blocking(fd, events, deadline, ready);
    }

    weir_hub       *hub = task->hub;
    struct fd_slot *slot = slot_of(hub, fd);
    if (!slot)
        return WEIR_NOMEM;
    if ((events & WEIR_READ) && slot->reader)
        return say_busy(fd, "read", slot->reader);
    if ((events & WEIR_WRITE) && slot->writer)
        return say_busy(fd, "write", slot->writer);

    if (events & WEIR_READ)
        slot->reader = task;
    if (events & WEIR_WRITE)
        slot->writer = task;
    slot->ready &= (unsigned char)~events;
    int errnum = begin_watching(hub, fd, slot, events);
    if (errnum) {
        stop_waiting(hub, fd, slot, task);
        return errnum == EPERM ? always_ready(events, ready) : status_of(errnum);
    }

    park_begin(task); /* the slot wakes us, or time, or a cancel */
    weir_status status = park_until(task, deadline, "a descriptor");
    if (ready && status == WEIR_OK)
        *ready = slot->ready & events;
    stop_waiting(hub, fd, slot, task);
    return status;
}

/* ---- waiting for any of several ------------------------------------------------------ */

static int events_of(const struct pollfd *polled)
{
    return polled->fd < 0 ? 0
                          : (polled->events & (POLLIN | POLLRDNORM) ? WEIR_READ : 0) |
                                (polled->events & (POLLOUT | POLLWRNORM) ? WEIR_WRITE : 0);
}

/* *ready: it is a file, for which nobody can wait. One may be there twice. */
static weir_status wait_also(weir_hub *hub, weir_task *task, const struct pollfd *polled,
                             bool *ready)
{
    int events = events_of(polled), fd = polled->fd;

    if (!events)
        return WEIR_OK;
    if (fd >= FD_CHUNK * FD_CHUNKS)
        return WEIR_USAGE;
    struct fd_slot *slot = slot_of(hub, fd);
    if (!slot)
        return WEIR_NOMEM;
    if ((events & WEIR_READ) && slot->reader && slot->reader != task)
        return say_busy(fd, "read", slot->reader);
    if ((events & WEIR_WRITE) && slot->writer && slot->writer != task)
        return say_busy(fd, "write", slot->writer);
    if (events & WEIR_READ)
        slot->reader = task;
    if (events & WEIR_WRITE)
        slot->writer = task;
    int errnum = begin_watching(hub, fd, slot, events);
    *ready |= errnum == EPERM;
    return errnum == 0 || errnum == EPERM ? WEIR_OK : status_of(errnum);
}

/* The task stands in all the slots, and whichever is ready first wakes it. */
weir_status fds_wait(const struct pollfd *fds, size_t count, weir_deadline deadline)
{
    weir_task  *task = task_here();
    weir_hub   *hub = task->hub;
    weir_status status = WEIR_OK;
    bool        ready = false;

    park_begin(task);
    for (size_t i = 0; i < count && status == WEIR_OK && !ready; i++)
        status = wait_also(hub, task, &fds[i], &ready);
    if (status == WEIR_OK && ready)
        weir_spend(WEIR_IO_UNITS);
    else if (status == WEIR_OK)
        status = park_until(task, deadline, "one of several descriptors");
    for (size_t i = 0; i < count; i++) {
        struct fd_slot *slot = slot_if_any(hub, fds[i].fd);
        if (slot)
            stop_waiting(hub, fds[i].fd, slot, task);
    }
    return status;
}

/* ---- staying watched, and closing --------------------------------------------------- */

static weir_status stay_watched(int fd, bool edge, void (*fn)(int fd, void *arg), void *arg)
{
    weir_hub *hub = hub_here_;

    if (!hub || fd < 0 || fd >= FD_CHUNK * FD_CHUNKS)
        return WEIR_USAGE;
    struct fd_slot *slot = slot_of(hub, fd);
    if (!slot)
        return WEIR_NOMEM;
    slot->quiet = fn;
    slot->arg = arg;
    slot->edge = edge && fn;
    slot->muted = slot->ended = false;
    set_interest(hub, slot, 0); /* what there is may be for once */
    int errnum = apply(hub, fd, slot);
    if (errnum == 0)
        return WEIR_OK;
    slot->quiet = NULL; /* the number may soon be another file's */
    slot->edge = false;
    return status_of(errnum);
}

weir_status weir_fd_watch(int fd, void (*fn)(int fd, void *arg), void *arg)
{
    return stay_watched(fd, false, fn, arg);
}

weir_status weir_fd_watch_edge(int fd, void (*fn)(int fd, void *arg), void *arg)
{
    return stay_watched(fd, true, fn, arg);
}

void weir_fd_forget(int fd)
{
    weir_hub       *hub = hub_here_;
    struct fd_slot *slot = hub ? slot_if_any(hub, fd) : NULL;

    if (!slot)
        return;
    end_waits(slot, WEIR_CLOSED);
    slot->reader = slot->writer = NULL;
    slot->quiet = NULL;
    slot->edge = false;
    apply(hub, fd, slot);
}

int weir_close(int fd)
{
    weir_fd_forget(fd);
    return close(fd);
}
