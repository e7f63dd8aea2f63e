/*
 * patch.h - patched calls, as the files of patch*.c share them.
 *
 * Knows:   who is inside a patched call of which library, and where the substitutes are.
 * Ignores: ELF (elf_image.h), what a descriptor is (each call's own file).
 *
 * Each patched library has a seat, and each seat its own set of substitutes: all of them do the
 * same, but each knows whose call it is. A return address would not tell: a library that ends a
 * function with `return read(...)` jumps there, and leaves its caller's.
 */
#ifndef PATCH_H
#define PATCH_H

#include "hub.h"

#include <time.h>
#include <weir/patch.h>

struct seat {
    atomic_bool     taken;  /* by a library that is patched */
    atomic_uint     inside; /* coroutines in calls, of all hubs */
    pthread_mutex_t lock;   /* of the list */
    struct list     waits;  /* those of them that wait: struct call */
};

extern struct seat patch_seats[WEIR_PATCH_MAX];

/* One call by a coroutine, on its stack. */
struct call {
    struct list  link;   /* in its seat's list, while it waits */
    struct seat *seat;
    weir_task   *task;
    const char  *name;
    int          late;   /* errno for a wait that SO_RCVTIMEO or SO_SNDTIMEO ended */
    unsigned     in_vain; /* waits since something was transferred */
    bool         timed;  /* its limit is known: */
    weir_deadline until;
};

/* patch_seat.c */

/* False: the call is not for us, for nothing may or need yield here: make the real one. */
bool call_begin(struct call *call, struct seat *seat, const char *name);
void call_end(struct call *call);

/* Has it a right to go on? Else errno says why not. */
bool call_may_go_on(void);

/* What a wait gave, as errno; false where there is one. */
bool call_waited(const struct call *call, weir_status status);

/* Around a wait: it is on its seat's list meanwhile. */
void call_wait_begin(struct call *call);
void call_wait_end(struct call *call);

/* patch_wait.c */

/*
 * Wait until a call on a descriptor can go on, as a blocking one would: false, and EAGAIN, where it
 * is the user's own O_NONBLOCK that made it return, or where the socket's own limit has passed.
 */
bool call_wait_fd(struct call *call, int fd, int events);

/* The point in time so long after now; one that no number tells is never. */
weir_deadline patch_after(int64_t seconds, int64_t ns);

/* Would nanosleep(2) and its kin take it? */
static inline bool patch_is_time(const struct timespec *time)
{
    return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < 1000000000;
}

/*
 * Give a descriptor O_NONBLOCK for one system call, one that has no flag of its own; returns
 * the flags it had, or -1. In between nothing may yield, and others who do so stand in line.
 */
int  patch_flags_begin(int fd);
void patch_flags_end(int fd, int flags); /* errno stays as it is */

extern pthread_mutex_t patch_flag_lock;

/* patch_seat.c: who is inside, as words; "" where nobody is. */
void seat_describe(struct seat *seat, char *out, size_t size);

/* patch.c, patch_seat.c: around a fork, and in its child, where nobody is inside any more. */
void patch_hold(void);
void patch_let_go(void);
void seats_hold(void);
void seats_let_go(void);
void seats_forked(void);

/* fd.c: wait for any of several, poll(2)'s POLLIN and POLLOUT. */
struct pollfd;
weir_status fds_wait(const struct pollfd *fds, size_t count, weir_deadline deadline);

/* patch_stub.c: the substitute of a function in a seat, NULL where there is none. */
void *patch_substitute(const char *symbol, size_t seat);

/* patch_refuse.c: why a library must not be patched; NULL: it may be. */
struct elf_image;
const char *patch_refused_because(const struct elf_image *image);

/* What may block and has no substitute: why not, or what to do instead; NULL: not known to. */
const char *patch_left_because(const char *symbol);

#endif
