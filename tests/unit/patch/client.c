/*
 * client.c - see client.h.
 */
#define _GNU_SOURCE
#include "client.h"

#include <pthread.h>
#include <string.h>

extern const struct client client;
ssize_t (*client_reader)(int fd, void *buf, size_t size) = read;

/* weir has no substitute for these, and says so. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int slow_square(int number, unsigned ms)
{
    struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };

    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    if (nanosleep(&time, NULL) != 0)
        return -1;
    return number * number;
}

static ssize_t my_read(int fd, void *buf, size_t size)
{
    return read(fd, buf, size);
}

static ssize_t my_readv(int fd, const struct iovec *iov, int count)
{
    return readv(fd, iov, count);
}

static ssize_t my_recv(int fd, void *buf, size_t size, int flags)
{
    return recv(fd, buf, size, flags);
}

static ssize_t my_recvfrom(int fd, void *buf, size_t size, int flags, struct sockaddr *from,
                           socklen_t *length)
{
    return recvfrom(fd, buf, size, flags, from, length);
}

static ssize_t my_recvmsg(int fd, struct msghdr *msg, int flags)
{
    return recvmsg(fd, msg, flags);
}

static ssize_t my_write(int fd, const void *buf, size_t size)
{
    return write(fd, buf, size);
}

static ssize_t my_writev(int fd, const struct iovec *iov, int count)
{
    return writev(fd, iov, count);
}

static ssize_t my_send(int fd, const void *buf, size_t size, int flags)
{
    return send(fd, buf, size, flags);
}

static ssize_t my_sendto(int fd, const void *buf, size_t size, int flags,
                         const struct sockaddr *to, socklen_t length)
{
    return sendto(fd, buf, size, flags, to, length);
}

static ssize_t my_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    return sendmsg(fd, msg, flags);
}

static int my_connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return connect(fd, address, length);
}

static int my_accept(int fd, struct sockaddr *address, socklen_t *length)
{
    return accept(fd, address, length);
}

static int my_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return accept4(fd, address, length, flags);
}

static int my_close(int fd)
{
    return close(fd);
}

static int my_poll(struct pollfd *fds, nfds_t count, int ms)
{
    return poll(fds, count, ms);
}

static int my_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *limit,
                    const sigset_t *mask)
{
    return ppoll(fds, count, limit, mask);
}

static int my_select(int count, fd_set *r, fd_set *w, fd_set *e, struct timeval *limit)
{
    return select(count, r, w, e, limit);
}

static int my_pselect(int count, fd_set *r, fd_set *w, fd_set *e, const struct timespec *limit,
                      const sigset_t *mask)
{
    return pselect(count, r, w, e, limit, mask);
}

static unsigned my_sleep(unsigned seconds)
{
    return sleep(seconds);
}

static int my_usleep(useconds_t microseconds)
{
    return usleep(microseconds);
}

static int my_nanosleep(const struct timespec *time, struct timespec *rest)
{
    return nanosleep(time, rest);
}

static int my_clock_nanosleep(clockid_t clock, int flags, const struct timespec *time,
                              struct timespec *rest)
{
    return clock_nanosleep(clock, flags, time, rest);
}

static int my_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                          struct addrinfo **out)
{
    return getaddrinfo(host, service, hints, out);
}

static int sum_of(const unsigned char *bytes, ssize_t count)
{
    int sum = 0;

    for (ssize_t i = 0; i < count; i++)
        sum += bytes[i];
    return count < 0 ? -1 : sum;
}

static int sum_read(int fd, size_t size)
{
    unsigned char buf[64];

    return sum_of(buf, read(fd, buf, size));
}

static int sum_recv(int fd, size_t size)
{
    unsigned char buf[64];

    return sum_of(buf, recv(fd, buf, size, 0));
}

static int sum_recvfrom(int fd, size_t size)
{
    unsigned char buf[64];

    return sum_of(buf, recvfrom(fd, buf, size, 0, NULL, NULL));
}

static int poll_four(const struct pollfd *fds, nfds_t count, int ms)
{
    struct pollfd mine[4];

    memcpy(mine, fds, sizeof mine);
    return poll(mine, count, ms);
}

static int ppoll_four(const struct pollfd *fds, nfds_t count, const struct timespec *limit)
{
    struct pollfd mine[4];

    memcpy(mine, fds, sizeof mine);
    return ppoll(mine, count, limit, NULL);
}

static ssize_t read_by_pointer(int fd, void *buf, size_t size)
{
    return client_reader(fd, buf, size);
}

static void set_pointer(ssize_t (*fn)(int fd, void *buf, size_t size))
{
    client_reader = fn;
}

const struct client client = {
    slow_square, my_read, my_readv, my_recv, my_recvfrom, my_recvmsg, my_write, my_writev, my_send,
    my_sendto, my_sendmsg, my_connect, my_accept, my_accept4, my_close, my_poll, my_ppoll,
    my_select, my_pselect, my_sleep, my_usleep, my_nanosleep, my_clock_nanosleep, my_getaddrinfo,
    sum_read, sum_recv, sum_recvfrom, poll_four, ppoll_four, read_by_pointer, set_pointer,
};
