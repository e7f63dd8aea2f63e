/*
 * client.h - a library that blocks: what test_coro_patch.c has made cooperative.
 *
 * Built several times, each time with other relocations, and found by dlsym("client"). It knows
 * nothing of weir: every function is a plain call of libc, some of them through a pointer in data.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <netdb.h>
#include <poll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct client {
    int (*slow_square)(int number, unsigned ms); /* sleeps first */

    ssize_t (*read)(int fd, void *buf, size_t size);
    ssize_t (*readv)(int fd, const struct iovec *iov, int count);
    ssize_t (*recv)(int fd, void *buf, size_t size, int flags);
    ssize_t (*recvfrom)(int fd, void *buf, size_t size, int flags, struct sockaddr *from,
                        socklen_t *length);
    ssize_t (*recvmsg)(int fd, struct msghdr *msg, int flags);
    ssize_t (*write)(int fd, const void *buf, size_t size);
    ssize_t (*writev)(int fd, const struct iovec *iov, int count);
    ssize_t (*send)(int fd, const void *buf, size_t size, int flags);
    ssize_t (*sendto)(int fd, const void *buf, size_t size, int flags, const struct sockaddr *to,
                      socklen_t length);
    ssize_t (*sendmsg)(int fd, const struct msghdr *msg, int flags);

    int (*connect)(int fd, const struct sockaddr *address, socklen_t length);
    int (*accept)(int fd, struct sockaddr *address, socklen_t *length);
    int (*accept4)(int fd, struct sockaddr *address, socklen_t *length, int flags);
    int (*close)(int fd);

    int (*poll)(struct pollfd *fds, nfds_t count, int ms);
    int (*ppoll)(struct pollfd *fds, nfds_t count, const struct timespec *limit,
                 const sigset_t *mask);
    int (*select)(int count, fd_set *r, fd_set *w, fd_set *e, struct timeval *limit);
    int (*pselect)(int count, fd_set *r, fd_set *w, fd_set *e, const struct timespec *limit,
                   const sigset_t *mask);

    unsigned (*sleep)(unsigned seconds);
    int (*usleep)(useconds_t microseconds);
    int (*nanosleep)(const struct timespec *time, struct timespec *rest);
    int (*clock_nanosleep)(clockid_t clock, int flags, const struct timespec *time,
                           struct timespec *rest);
    int (*getaddrinfo)(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);

    /* Into 64 bytes of their own, so that _FORTIFY_SOURCE checks the size; sum up what came. */
    int (*sum_read)(int fd, size_t size);
    int (*sum_recv)(int fd, size_t size);
    int (*sum_recvfrom)(int fd, size_t size);
    int (*poll_four)(const struct pollfd *fds, nfds_t count, int ms);
    int (*ppoll_four)(const struct pollfd *fds, nfds_t count, const struct timespec *limit);

    /* By a pointer in the library's data, which it may change. */
    ssize_t (*read_by_pointer)(int fd, void *buf, size_t size);
    void (*set_pointer)(ssize_t (*fn)(int fd, void *buf, size_t size));
};

#endif
