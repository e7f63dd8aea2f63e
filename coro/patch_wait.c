/*
 * patch_wait.c - how a patched call waits for a descriptor.
 *
 * Knows:   what makes a blocking call return early: O_NONBLOCK, SO_RCVTIMEO, SO_SNDTIMEO.
 * Ignores: what the call transfers.
 *
 * The kernel is asked anew for both, each time a call is about to wait for the first time: two
 * cheap system calls beside two switches and a turn of the loop. What we remembered of a number
 * could be wrong: a library closes descriptors by fclose(3), dup2(2) and exec, and other threads
 * do, too.
 */
#include "patch.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { NAP_MS = 1 };

pthread_mutex_t patch_flag_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- limits of its own -------------------------------------------------------------- */

weir_deadline patch_after(int64_t seconds, int64_t ns)
{
    int64_t now = weir_in_ms(0).at_ns;

    if (seconds >= (INT64_MAX - now) / 1000000000 - 1)
        return WEIR_FOREVER;
    return weir_deadline_at(now + seconds * INT64_C(1000000000) + ns);
}

/* Of a socket; whatever else it is has none. */
static weir_deadline limit_of(int fd, int events)
{
    struct timeval limit = { 0 };
    socklen_t      size = sizeof limit;
    int            option = events == WEIR_READ ? SO_RCVTIMEO : SO_SNDTIMEO;

    if (getsockopt(fd, SOL_SOCKET, option, &limit, &size) != 0 ||
        (limit.tv_sec == 0 && limit.tv_usec == 0))
        return WEIR_FOREVER;
    return patch_after(limit.tv_sec, limit.tv_usec * 1000);
}

static bool learn_limits(struct call *call, int fd, int events)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return false;
    if (flags & O_NONBLOCK) {
        errno = EAGAIN;
        return false;
    }
    call->until = limit_of(fd, events);
    call->timed = true;
    return true;
}

/* ---- waiting ------------------------------------------------------------------------ */

/* A moment, where there is nothing to wait for but time. */
static bool nap(struct call *call)
{
    weir_deadline until = weir_in_ms(NAP_MS);

    if (call->timed && call->until.at_ns < until.at_ns)
        return call_waited(call, WEIR_TIMEOUT);
    call_wait_begin(call);
    weir_status status = weir_sleep(until);
    call_wait_end(call);
    return call_waited(call, status);
}

/*
 * A descriptor that is ready and yet refuses, twice in a row, is not ready for what this call
 * wants (a datagram to a Unix socket whose queue is full: poll(2) does not tell of that, unix(7)).
 * Time must pass, then.
 */
bool call_wait_fd(struct call *call, int fd, int events)
{
    if (!call->timed && !learn_limits(call, fd, events))
        return false;
    if (call->in_vain++ > 1)
        return nap(call);
    call_wait_begin(call);
    weir_status status = weir_wait_fd(fd, events, call->until, NULL);
    call_wait_end(call);
    return call_waited(call, status);
}

/* ---- one call that does not wait ---------------------------------------------------- */

/*
 * The flag belongs to the open file, which other threads and processes may share. They could take
 * it for the user's own; of our own threads the lock keeps that away.
 */
int patch_flags_begin(int fd)
{
    pthread_mutex_lock(&patch_flag_lock);
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        flags = -1;
    if (flags < 0)
        pthread_mutex_unlock(&patch_flag_lock);
    return flags;
}

void patch_flags_end(int fd, int flags)
{
    int kept = errno;

    if (!(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags);
    pthread_mutex_unlock(&patch_flag_lock);
    errno = kept;
}
