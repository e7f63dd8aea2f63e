/*
 * patch_io.c - reading and writing, by libraries that believe they block.
 *
 * A socket is tried first, with MSG_DONTWAIT: one system call where data is there, as without us.
 * All ways to read one are recvmsg(2) with less said, and all ways to write sendmsg(2), so there is
 * one of each here. What is no socket refuses that with ENOTSOCK, and is waited for first:
 * nothing else keeps a read from blocking without changing the flags of the open file.
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what is left of a row of buffers ----------------------------------------------- */

struct span {
    const struct iovec *next;  /* behind what msg_iov says, which is `part` or from here on */
    size_t              count;
    struct iovec        part;  /* the rest of one that was begun */
};

static struct span span_of(const struct msghdr *msg)
{
    return (struct span){ .next = msg->msg_iov, .count = msg->msg_iovlen };
}

/* `size` bytes of it are done. False: all are. */
static bool span_advance(struct span *span, struct msghdr *rest, size_t size)
{
    if (rest->msg_iov == &span->part) {
        span->part.iov_base = (char *)span->part.iov_base + size;
        span->part.iov_len -= size;
        if (span->part.iov_len)
            return true;
        size = 0;
    }
    for (; span->count && size >= span->next->iov_len; span->next++, span->count--)
        size -= span->next->iov_len;
    rest->msg_iov = (struct iovec *)span->next;
    rest->msg_iovlen = span->count;
    if (span->count && size) {
        span->part.iov_base = (char *)span->next->iov_base + size;
        span->part.iov_len = span->next->iov_len - size;
        span->next++;
        span->count--;
        rest->msg_iov = &span->part;
        rest->msg_iovlen = 1;
    }
    return span->count || rest->msg_iov == &span->part;
}

static size_t size_of(const struct iovec *iov, size_t count)
{
    size_t size = 0;

    for (size_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

/* ---- sockets ------------------------------------------------------------------------ */

static bool is_stream(int fd)
{
    int       type = 0;
    socklen_t size = sizeof type;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/* Does a blocking socket return although nothing is there? recv(2), MSG_ERRQUEUE; tcp(7). */
static bool never_waits(int flags)
{
    return flags & (MSG_DONTWAIT | MSG_ERRQUEUE | MSG_OOB);
}

static ssize_t receive(struct call *call, int fd, struct msghdr *msg, int flags)
{
    bool          all = (flags & (MSG_WAITALL | MSG_PEEK)) == MSG_WAITALL && !never_waits(flags);
    struct msghdr rest = *msg;
    struct span   span = span_of(msg);
    size_t        control = msg->msg_controllen;
    ssize_t       done = 0;

    if (!call_may_go_on())
        return -1;
    for (;;) {
        ssize_t n = recvmsg(fd, &rest, flags | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN && !never_waits(flags) && call_wait_fd(call, fd, WEIR_READ))
                continue;
            return done ? done : -1;
        }
        call->in_vain = 0;
        msg->msg_namelen = rest.msg_namelen;
        msg->msg_controllen = rest.msg_controllen;
        msg->msg_flags = rest.msg_flags;
        done += n;
        /* A message that carries descriptors ends MSG_WAITALL (unix(7)), as the end does. */
        if (!all || n == 0 || rest.msg_controllen || !span_advance(&span, &rest, (size_t)n) ||
            !is_stream(fd))
            return done;
        rest.msg_controllen = control;
    }
}

/* A blocking send ends when all is sent. */
static ssize_t transmit(struct call *call, int fd, const struct msghdr *msg, int flags)
{
    struct msghdr rest = *msg;
    struct span   span = span_of(msg);
    ssize_t       done = 0;

    if (!call_may_go_on())
        return -1;
    for (;;) {
        ssize_t n = sendmsg(fd, &rest, flags | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN && !(flags & MSG_DONTWAIT) && call_wait_fd(call, fd, WEIR_WRITE))
                continue;
            return done ? done : -1;
        }
        call->in_vain = 0;
        done += n;
        if ((flags & MSG_DONTWAIT) || !span_advance(&span, &rest, (size_t)n))
            return done;
        rest.msg_control = NULL; /* it went with the first byte */
        rest.msg_controllen = 0;
    }
}

/* ---- pipes, terminals, files -------------------------------------------------------- */

/* False: the wait failed. Errors of the descriptor are for the call itself to tell. */
static bool wait_for_file(struct call *call, int fd, int events)
{
    struct pollfd now = { .fd = fd, .events = events == WEIR_READ ? POLLIN : POLLOUT };

    return poll(&now, 1, 0) != 0 || call_wait_fd(call, fd, events) || errno == EAGAIN;
}

static ssize_t read_file(struct call *call, int fd, const struct msghdr *msg)
{
    if (!wait_for_file(call, fd, WEIR_READ))
        return -1;
    return readv(fd, msg->msg_iov, (int)msg->msg_iovlen);
}

/* Is a write taken whole or not at all, so that one that is ready may yet wait for room? */
static bool takes_pieces(int fd)
{
    struct stat file;
    int         flags = fcntl(fd, F_GETFL);

    return flags >= 0 && !(flags & O_NONBLOCK) && fstat(fd, &file) == 0 &&
           (S_ISFIFO(file.st_mode) || S_ISCHR(file.st_mode));
}

static ssize_t write_pieces(struct call *call, int fd, const struct msghdr *msg)
{
    struct msghdr rest = *msg;
    struct span   span = span_of(msg);
    ssize_t       done = 0, n = 0;

    while (span_advance(&span, &rest, (size_t)n)) {
        size_t size = rest.msg_iov->iov_len < PIPE_BUF ? rest.msg_iov->iov_len : PIPE_BUF;
        if (!wait_for_file(call, fd, WEIR_WRITE))
            return done ? done : -1;
        n = write(fd, rest.msg_iov->iov_base, size);
        if (n < 0)
            return done ? done : -1;
        call->in_vain = 0;
        done += n;
    }
    return done;
}

static ssize_t write_file(struct call *call, int fd, const struct msghdr *msg)
{
    /* Up to PIPE_BUF bytes a pipe that is ready takes at once (pipe(7)), and in one piece. */
    if (size_of(msg->msg_iov, msg->msg_iovlen) > PIPE_BUF && takes_pieces(fd))
        return write_pieces(call, fd, msg);
    if (!wait_for_file(call, fd, WEIR_WRITE))
        return -1;
    return writev(fd, msg->msg_iov, (int)msg->msg_iovlen);
}

/* ---- the calls ---------------------------------------------------------------------- */

static struct msghdr message(const struct iovec *iov, size_t count)
{
    return (struct msghdr){ .msg_iov = (struct iovec *)iov, .msg_iovlen = count };
}

/* What the real one refuses or need not wait for. (An empty recvmsg would wait.) */
static bool trivial(const struct iovec *iov, int count)
{
    return count <= 0 || count > IOV_MAX || size_of(iov, (size_t)count) == 0;
}

ssize_t patched_readv(struct seat *seat, int fd, const struct iovec *iov, int count)
{
    struct call call;

    if (trivial(iov, count) || !call_begin(&call, seat, "readv"))
        return readv(fd, iov, count);
    struct msghdr msg = message(iov, (size_t)count);
    ssize_t       n = receive(&call, fd, &msg, 0);
    if (n < 0 && errno == ENOTSOCK) {
        msg = message(iov, (size_t)count);
        n = read_file(&call, fd, &msg);
    }
    call_end(&call);
    return n;
}

ssize_t patched_writev(struct seat *seat, int fd, const struct iovec *iov, int count)
{
    struct call call;

    if (trivial(iov, count) || !call_begin(&call, seat, "writev"))
        return writev(fd, iov, count);
    struct msghdr msg = message(iov, (size_t)count);
    ssize_t       n = transmit(&call, fd, &msg, 0);
    if (n < 0 && errno == ENOTSOCK)
        n = write_file(&call, fd, &msg);
    call_end(&call);
    return n;
}

ssize_t patched_read(struct seat *seat, int fd, void *buf, size_t size)
{
    struct call call;

    if (size == 0 || !call_begin(&call, seat, "read"))
        return read(fd, buf, size);
    struct iovec  whole = { buf, size };
    struct msghdr msg = message(&whole, 1);
    ssize_t       n = receive(&call, fd, &msg, 0);
    if (n < 0 && errno == ENOTSOCK)
        n = read_file(&call, fd, &msg);
    call_end(&call);
    return n;
}

ssize_t patched_write(struct seat *seat, int fd, const void *buf, size_t size)
{
    struct call call;

    if (!call_begin(&call, seat, "write"))
        return write(fd, buf, size);
    struct iovec  whole = { (void *)buf, size };
    struct msghdr msg = message(&whole, 1);
    ssize_t       n = transmit(&call, fd, &msg, 0);
    if (n < 0 && errno == ENOTSOCK)
        n = write_file(&call, fd, &msg);
    call_end(&call);
    return n;
}

ssize_t patched_recv(struct seat *seat, int fd, void *buf, size_t size, int flags)
{
    struct call call;

    if (!call_begin(&call, seat, "recv"))
        return recv(fd, buf, size, flags);
    struct iovec  whole = { buf, size };
    struct msghdr msg = message(&whole, 1);
    ssize_t       n = receive(&call, fd, &msg, flags);
    call_end(&call);
    return n;
}

ssize_t patched_recvfrom(struct seat *seat, int fd, void *buf, size_t size, int flags,
                         struct sockaddr *address, socklen_t *length)
{
    struct call call;

    if (!call_begin(&call, seat, "recvfrom"))
        return recvfrom(fd, buf, size, flags, address, length);
    struct iovec  whole = { buf, size };
    struct msghdr msg = message(&whole, 1);
    msg.msg_name = address;
    msg.msg_namelen = address && length ? *length : 0;
    ssize_t n = receive(&call, fd, &msg, flags);
    if (n >= 0 && address && length)
        *length = msg.msg_namelen;
    call_end(&call);
    return n;
}

ssize_t patched_recvmsg(struct seat *seat, int fd, struct msghdr *msg, int flags)
{
    struct call call;

    if (!call_begin(&call, seat, "recvmsg"))
        return recvmsg(fd, msg, flags);
    ssize_t n = receive(&call, fd, msg, flags);
    call_end(&call);
    return n;
}

ssize_t patched_send(struct seat *seat, int fd, const void *buf, size_t size, int flags)
{
    struct call call;

    if (!call_begin(&call, seat, "send"))
        return send(fd, buf, size, flags);
    struct iovec  whole = { (void *)buf, size };
    struct msghdr msg = message(&whole, 1);
    ssize_t       n = transmit(&call, fd, &msg, flags);
    call_end(&call);
    return n;
}

ssize_t patched_sendto(struct seat *seat, int fd, const void *buf, size_t size, int flags,
                       const struct sockaddr *address, socklen_t length)
{
    struct call call;

    if (!call_begin(&call, seat, "sendto"))
        return sendto(fd, buf, size, flags, address, length);
    struct iovec  whole = { (void *)buf, size };
    struct msghdr msg = message(&whole, 1);
    msg.msg_name = (void *)address;
    msg.msg_namelen = length;
    ssize_t n = transmit(&call, fd, &msg, flags);
    call_end(&call);
    return n;
}

ssize_t patched_sendmsg(struct seat *seat, int fd, const struct msghdr *msg, int flags)
{
    struct call call;

    if (!call_begin(&call, seat, "sendmsg"))
        return sendmsg(fd, msg, flags);
    ssize_t n = transmit(&call, fd, msg, flags);
    call_end(&call);
    return n;
}

/* ---- as _FORTIFY_SOURCE calls them -------------------------------------------------- */

ssize_t patched_read_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room)
{
    if (size > room)
        __chk_fail();
    return patched_read(seat, fd, buf, size);
}

ssize_t patched_recv_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room, int flags)
{
    if (size > room)
        __chk_fail();
    return patched_recv(seat, fd, buf, size, flags);
}

ssize_t patched_recvfrom_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room,
                             int flags, struct sockaddr *address, socklen_t *length)
{
    if (size > room)
        __chk_fail();
    return patched_recvfrom(seat, fd, buf, size, flags, address, length);
}
