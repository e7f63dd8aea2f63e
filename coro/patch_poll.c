/*
 * patch_poll.c - poll(2), select(2) and their kin, by libraries that believe they block.
 *
 * The kernel is asked without waiting; where nothing is ready the coroutine waits in the slots of
 * all the descriptors, and then the kernel is asked again: it alone says what revents are. The
 * hub watches for reading and writing only; where that would miss something, it is looked for at
 * intervals. select is poll with sets, by the table in select(2) ("Correspondence between
 * select() and poll() notifications").
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum {
    LOOK_MS = 20, /* fifty looks a second cost nothing, and who asks for POLLPRI can wait for one */
    VAIN_MS = 1   /* after the hub said ready and the kernel did not */
};

struct poll_call {
    struct call     call;
    struct pollfd  *fds;
    nfds_t          count;
    weir_deadline   until;
    const sigset_t *mask; /* in force while the kernel is asked */
    bool            by_looks;
};

/* ---- poll --------------------------------------------------------------------------- */

static int look(const struct poll_call *p)
{
    static const struct timespec at_once;

    return p->mask ? ppoll(p->fds, p->count, &at_once, p->mask) : poll(p->fds, p->count, 0);
}

static bool seen_by_the_hub(const struct pollfd *polled)
{
    const int known = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;

    return polled->fd < 0 || ((polled->events & known) &&
                              !(polled->events & ~(known | POLLERR | POLLHUP | POLLNVAL)));
}

static bool needs_looks(const struct poll_call *p)
{
    if (p->mask)
        return true;
    for (nfds_t i = 0; i < p->count; i++)
        if (!seen_by_the_hub(&p->fds[i]))
            return true;
    return false;
}

static weir_deadline earlier(weir_deadline a, weir_deadline b)
{
    return a.at_ns < b.at_ns ? a : b;
}

/* Until it makes sense to look again. */
static weir_status wait_for_change(struct poll_call *p, bool in_vain)
{
    weir_deadline until = p->until;

    if (in_vain)
        until = earlier(until, weir_in_ms(VAIN_MS));
    else if (p->by_looks)
        until = earlier(until, weir_in_ms(LOOK_MS));
    call_wait_begin(&p->call);
    weir_status status = in_vain ? weir_sleep(until) : fds_wait(p->fds, p->count, until);
    call_wait_end(&p->call);
    if (status == WEIR_TIMEOUT && until.at_ns < p->until.at_ns && weir_check() == WEIR_OK)
        return WEIR_OK;
    return status;
}

static int poll_in(struct poll_call *p)
{
    bool in_vain = false, over = false;

    if (!call_may_go_on())
        return -1;
    p->call.late = 0;
    for (;;) {
        int ready = look(p);
        if (ready != 0 || over || p->until.at_ns == 0)
            return ready;
        p->by_looks = needs_looks(p);
        weir_status status = wait_for_change(p, in_vain);
        in_vain = status == WEIR_OK && !p->by_looks && !in_vain;
        if (call_waited(&p->call, status)) {
            over = p->until.at_ns <= weir_in_ms(0).at_ns;
            continue;
        }
        if (errno) /* not our own limit */
            return -1;
        over = true; /* what came in the same instant is told */
    }
}

static weir_deadline deadline_of(const struct timespec *limit)
{
    if (!limit)
        return WEIR_FOREVER;
    if (limit->tv_sec == 0 && limit->tv_nsec == 0)
        return WEIR_NOW;
    return patch_after(limit->tv_sec, limit->tv_nsec);
}

int patched_poll(struct seat *seat, struct pollfd *fds, nfds_t count, int ms)
{
    struct poll_call p = { .fds = fds, .count = count };

    if (!call_begin(&p.call, seat, "poll"))
        return poll(fds, count, ms);
    p.until = ms < 0 ? WEIR_FOREVER : ms == 0 ? WEIR_NOW : weir_in_ms(ms);
    int ready = poll_in(&p);
    call_end(&p.call);
    return ready;
}

int patched_ppoll(struct seat *seat, struct pollfd *fds, nfds_t count, const struct timespec *limit,
                  const sigset_t *mask)
{
    struct poll_call p = { .fds = fds, .count = count, .mask = mask };

    if ((limit && !patch_is_time(limit)) || !call_begin(&p.call, seat, "ppoll"))
        return ppoll(fds, count, limit, mask);
    p.until = deadline_of(limit);
    int ready = poll_in(&p);
    call_end(&p.call);
    return ready;
}

/* ---- select ------------------------------------------------------------------------- */

/* select(2) reads as many bits as it is told, which may be more than an fd_set has: so words of
   them, and not FD_ISSET(). */
enum { WORD_BITS = 8 * sizeof(unsigned long) };

static bool is_in(int fd, const fd_set *set)
{
    return set && ((const unsigned long *)set)[fd / WORD_BITS] >> (fd % WORD_BITS) & 1;
}

static short asked_of(int fd, fd_set *const sets[3])
{
    return (short)((is_in(fd, sets[0]) ? POLLIN : 0) | (is_in(fd, sets[1]) ? POLLOUT : 0) |
                   (is_in(fd, sets[2]) ? POLLPRI : 0));
}

/* Fill in who is asked for, or only count them. */
static nfds_t read_sets(int count, fd_set *const sets[3], struct pollfd *fds)
{
    nfds_t found = 0;

    for (int fd = 0; fd < count; fd++) {
        short events = asked_of(fd, sets);
        if (!events)
            continue;
        if (fds)
            fds[found] = (struct pollfd){ .fd = fd, .events = events };
        found++;
    }
    return found;
}

static int write_sets(int count, fd_set *const sets[3], const struct pollfd *fds, nfds_t polled)
{
    static const short answers[3] = { POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
                                      POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR, POLLPRI };
    size_t             bytes = ((size_t)count + WORD_BITS - 1) / WORD_BITS * sizeof(unsigned long);
    int                bits = 0;

    for (int i = 0; i < 3; i++)
        if (sets[i])
            memset(sets[i], 0, bytes);
    for (nfds_t n = 0; n < polled; n++) {
        static const short asked[3] = { POLLIN, POLLOUT, POLLPRI };
        for (int i = 0; i < 3; i++) {
            if (!(fds[n].events & asked[i]) || !(fds[n].revents & answers[i]))
                continue;
            ((unsigned long *)sets[i])[fds[n].fd / WORD_BITS] |= 1ul << (fds[n].fd % WORD_BITS);
            bits++;
        }
    }
    return bits;
}

static int select_in(struct poll_call *p, int count, fd_set *const sets[3])
{
    struct pollfd few[16], *many = NULL;

    p->count = read_sets(count, sets, NULL);
    p->fds = few;
    if (p->count > sizeof few / sizeof *few) {
        many = malloc(p->count * sizeof *many);
        if (!many) {
            errno = ENOMEM;
            return -1;
        }
        p->fds = many;
    }
    read_sets(count, sets, p->fds);
    int ready = poll_in(p);
    for (nfds_t i = 0; ready > 0 && i < p->count; i++) {
        if (p->fds[i].revents & POLLNVAL) {
            errno = EBADF;
            ready = -1;
        }
    }
    if (ready >= 0)
        ready = write_sets(count, sets, p->fds, p->count);
    free(many);
    return ready;
}

int patched_pselect(struct seat *seat, int count, fd_set *readable, fd_set *writable, fd_set *odd,
                    const struct timespec *limit, const sigset_t *mask)
{
    struct poll_call p = { .mask = mask };

    if (count < 0 || (limit && !patch_is_time(limit)) || !call_begin(&p.call, seat, "select"))
        return pselect(count, readable, writable, odd, limit, mask);
    p.until = deadline_of(limit);
    int ready = select_in(&p, count, (fd_set *const[3]){ readable, writable, odd });
    call_end(&p.call);
    return ready;
}

/* Linux tells in *limit how much of it is left: select(2). */
int patched_select(struct seat *seat, int count, fd_set *readable, fd_set *writable, fd_set *odd,
                   struct timeval *limit)
{
    if (!task_here() || (limit && (limit->tv_sec < 0 || limit->tv_usec < 0)))
        return select(count, readable, writable, odd, limit);
    if (!limit)
        return patched_pselect(seat, count, readable, writable, odd, NULL, NULL);

    struct timespec exact = { limit->tv_sec + limit->tv_usec / 1000000,
                              limit->tv_usec % 1000000 * 1000 };
    weir_deadline   until = deadline_of(&exact);
    int     ready = patched_pselect(seat, count, readable, writable, odd, &exact, NULL);
    int64_t left = until.at_ns == INT64_MAX ? 0 : until.at_ns - weir_in_ms(0).at_ns;
    if (until.at_ns != INT64_MAX) {
        left = left < 0 ? 0 : left;
        *limit = (struct timeval){ left / 1000000000, left % 1000000000 / 1000 };
    }
    return ready;
}

/* ---- as _FORTIFY_SOURCE calls them -------------------------------------------------- */

int patched_poll_chk(struct seat *seat, struct pollfd *fds, nfds_t count, int ms, size_t room)
{
    if (room / sizeof *fds < count)
        __chk_fail();
    return patched_poll(seat, fds, count, ms);
}

int patched_ppoll_chk(struct seat *seat, struct pollfd *fds, nfds_t count,
                      const struct timespec *limit, const sigset_t *mask, size_t room)
{
    if (room / sizeof *fds < count)
        __chk_fail();
    return patched_ppoll(seat, fds, count, limit, mask);
}
