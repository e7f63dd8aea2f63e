/*
 * patch_calls.h - the substitutes: each is the function of its name, called for a seat.
 */
#ifndef PATCH_CALLS_H
#define PATCH_CALLS_H

#include "patch.h"

#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* What _FORTIFY_SOURCE calls when a buffer is too small for what is asked; it ends the process. */
void __chk_fail(void) __attribute__((noreturn));

/* patch_io.c */
ssize_t patched_read(struct seat *seat, int fd, void *buf, size_t size);
ssize_t patched_readv(struct seat *seat, int fd, const struct iovec *iov, int count);
ssize_t patched_recv(struct seat *seat, int fd, void *buf, size_t size, int flags);
ssize_t patched_recvfrom(struct seat *seat, int fd, void *buf, size_t size, int flags,
                         struct sockaddr *address, socklen_t *length);
ssize_t patched_recvmsg(struct seat *seat, int fd, struct msghdr *msg, int flags);
ssize_t patched_write(struct seat *seat, int fd, const void *buf, size_t size);
ssize_t patched_writev(struct seat *seat, int fd, const struct iovec *iov, int count);
ssize_t patched_send(struct seat *seat, int fd, const void *buf, size_t size, int flags);
ssize_t patched_sendto(struct seat *seat, int fd, const void *buf, size_t size, int flags,
                       const struct sockaddr *address, socklen_t length);
ssize_t patched_sendmsg(struct seat *seat, int fd, const struct msghdr *msg, int flags);
ssize_t patched_read_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room);
ssize_t patched_recv_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room, int flags);
ssize_t patched_recvfrom_chk(struct seat *seat, int fd, void *buf, size_t size, size_t room,
                             int flags, struct sockaddr *address, socklen_t *length);

/* patch_connect.c */
int patched_connect(struct seat *seat, int fd, const struct sockaddr *address, socklen_t length);
int patched_accept(struct seat *seat, int fd, struct sockaddr *address, socklen_t *length);
int patched_accept4(struct seat *seat, int fd, struct sockaddr *address, socklen_t *length,
                    int flags);
int patched_close(struct seat *seat, int fd);

/* patch_poll.c */
int patched_poll(struct seat *seat, struct pollfd *fds, nfds_t count, int ms);
int patched_ppoll(struct seat *seat, struct pollfd *fds, nfds_t count, const struct timespec *limit,
                  const sigset_t *mask);
int patched_select(struct seat *seat, int count, fd_set *readable, fd_set *writable, fd_set *odd,
                   struct timeval *limit);
int patched_pselect(struct seat *seat, int count, fd_set *readable, fd_set *writable, fd_set *odd,
                    const struct timespec *limit, const sigset_t *mask);
int patched_poll_chk(struct seat *seat, struct pollfd *fds, nfds_t count, int ms, size_t room);
int patched_ppoll_chk(struct seat *seat, struct pollfd *fds, nfds_t count,
                      const struct timespec *limit, const sigset_t *mask, size_t room);

/* patch_time.c */
unsigned patched_sleep(struct seat *seat, unsigned seconds);
int      patched_usleep(struct seat *seat, useconds_t microseconds);
int      patched_nanosleep(struct seat *seat, const struct timespec *time, struct timespec *rest);
int      patched_clock_nanosleep(struct seat *seat, clockid_t clock, int flags,
                                 const struct timespec *time, struct timespec *rest);

/* patch_name.c */
int patched_getaddrinfo(struct seat *seat, const char *host, const char *service,
                        const struct addrinfo *hints, struct addrinfo **out);

#endif
