/*
 * patch_connect.c - opening and closing connections, by libraries that believe they block.
 *
 * connect(2) and accept(2) have no flag like MSG_DONTWAIT, so the descriptor gets O_NONBLOCK for
 * the length of that one system call. (To wait for a listening socket and accept then would not
 * do: the connection may be gone again by then, and accept(2) blocks.)
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- connect ------------------------------------------------------------------------ */

static int connect_now(int fd, const struct sockaddr *address, socklen_t length, int *flags)
{
    *flags = patch_flags_begin(fd);
    if (*flags < 0)
        return -1;
    int result = connect(fd, address, length);
    patch_flags_end(fd, *flags);
    return result;
}

/*
 * Who was told to come back asks again: it is that second call that tells how it ended, and that
 * leaves the socket as a blocking one would (connect(2) on it says EISCONN then).
 */
static int connect_in(struct call *call, int fd, const struct sockaddr *address, socklen_t length)
{
    int flags;

    if (!call_may_go_on())
        return -1;
    while (connect_now(fd, address, length, &flags) != 0) {
        if (flags < 0 || (flags & O_NONBLOCK))
            return -1;
        if (errno == EINPROGRESS || errno == EALREADY) {
            call->late = EINPROGRESS; /* socket(7), SO_SNDTIMEO */
            if (!call_wait_fd(call, fd, WEIR_WRITE))
                return -1;
            continue;
        }
        /* A Unix socket whose queue of connections is full has nothing to wait for: connect(2). */
        if (errno != EAGAIN || address->sa_family != AF_UNIX)
            return -1;
        call->in_vain = 2;
        if (!call_wait_fd(call, fd, WEIR_WRITE))
            return -1;
    }
    return 0;
}

int patched_connect(struct seat *seat, int fd, const struct sockaddr *address, socklen_t length)
{
    struct call call;

    if (!call_begin(&call, seat, "connect"))
        return connect(fd, address, length);
    int result = connect_in(&call, fd, address, length);
    call_end(&call);
    return result;
}

/* ---- accept ------------------------------------------------------------------------- */

static int accept_in(struct call *call, int fd, struct sockaddr *address, socklen_t *length,
                     int how)
{
    if (!call_may_go_on())
        return -1;
    for (;;) {
        int flags = patch_flags_begin(fd);
        if (flags < 0)
            return -1;
        int accepted = accept4(fd, address, length, how);
        patch_flags_end(fd, flags);
        if (accepted >= 0 || errno != EAGAIN || (flags & O_NONBLOCK) ||
            !call_wait_fd(call, fd, WEIR_READ))
            return accepted;
    }
}

int patched_accept4(struct seat *seat, int fd, struct sockaddr *address, socklen_t *length,
                    int flags)
{
    struct call call;

    if (!call_begin(&call, seat, "accept"))
        return accept4(fd, address, length, flags);
    int accepted = accept_in(&call, fd, address, length, flags);
    call_end(&call);
    return accepted;
}

int patched_accept(struct seat *seat, int fd, struct sockaddr *address, socklen_t *length)
{
    return patched_accept4(seat, fd, address, length, 0);
}

/* ---- close -------------------------------------------------------------------------- */

/* Whoever waits for it hears of it, and so does the reactor, before the number is another's. */
int patched_close(struct seat *seat, int fd)
{
    (void)seat;
    return weir_close(fd);
}
