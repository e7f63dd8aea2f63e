/*
 * patch_stub.c - the substitutes, one of each for every seat, and what has none.
 *
 * A slot holds nothing but an address, so the address must say whose slot it is. The functions
 * made here do nothing else: each hands its seat on.
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <string.h>

/* CALL(seat, result, name, parameters, arguments) for each function that has a substitute. */
#define EACH_CALL(CALL, s)                                                                     \
    CALL(s, ssize_t, read, (int fd, void *b, size_t n), (SEAT(s), fd, b, n))                   \
    CALL(s, ssize_t, readv, (int fd, const struct iovec *v, int n), (SEAT(s), fd, v, n))       \
    CALL(s, ssize_t, recv, (int fd, void *b, size_t n, int f), (SEAT(s), fd, b, n, f))         \
    CALL(s, ssize_t, recvfrom,                                                                 \
         (int fd, void *b, size_t n, int f, struct sockaddr *a, socklen_t *l),                 \
         (SEAT(s), fd, b, n, f, a, l))                                                         \
    CALL(s, ssize_t, recvmsg, (int fd, struct msghdr *m, int f), (SEAT(s), fd, m, f))          \
    CALL(s, ssize_t, write, (int fd, const void *b, size_t n), (SEAT(s), fd, b, n))            \
    CALL(s, ssize_t, writev, (int fd, const struct iovec *v, int n), (SEAT(s), fd, v, n))      \
    CALL(s, ssize_t, send, (int fd, const void *b, size_t n, int f), (SEAT(s), fd, b, n, f))   \
    CALL(s, ssize_t, sendto,                                                                   \
         (int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l),      \
         (SEAT(s), fd, b, n, f, a, l))                                                         \
    CALL(s, ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (SEAT(s), fd, m, f))    \
    CALL(s, ssize_t, read_chk, (int fd, void *b, size_t n, size_t r), (SEAT(s), fd, b, n, r))  \
    CALL(s, ssize_t, recv_chk, (int fd, void *b, size_t n, size_t r, int f),                   \
         (SEAT(s), fd, b, n, r, f))                                                            \
    CALL(s, ssize_t, recvfrom_chk,                                                             \
         (int fd, void *b, size_t n, size_t r, int f, struct sockaddr *a, socklen_t *l),       \
         (SEAT(s), fd, b, n, r, f, a, l))                                                      \
    CALL(s, int, connect, (int fd, const struct sockaddr *a, socklen_t l),                     \
         (SEAT(s), fd, a, l))                                                                  \
    CALL(s, int, accept, (int fd, struct sockaddr *a, socklen_t *l), (SEAT(s), fd, a, l))      \
    CALL(s, int, accept4, (int fd, struct sockaddr *a, socklen_t *l, int f),                   \
         (SEAT(s), fd, a, l, f))                                                               \
    CALL(s, int, close, (int fd), (SEAT(s), fd))                                               \
    CALL(s, int, poll, (struct pollfd *p, nfds_t n, int ms), (SEAT(s), p, n, ms))              \
    CALL(s, int, ppoll,                                                                        \
         (struct pollfd *p, nfds_t n, const struct timespec *t, const sigset_t *m),            \
         (SEAT(s), p, n, t, m))                                                                \
    CALL(s, int, poll_chk, (struct pollfd *p, nfds_t n, int ms, size_t r),                     \
         (SEAT(s), p, n, ms, r))                                                               \
    CALL(s, int, ppoll_chk,                                                                    \
         (struct pollfd *p, nfds_t n, const struct timespec *t, const sigset_t *m, size_t r),  \
         (SEAT(s), p, n, t, m, r))                                                             \
    CALL(s, int, select, (int n, fd_set *r, fd_set *w, fd_set *o, struct timeval *t),          \
         (SEAT(s), n, r, w, o, t))                                                             \
    CALL(s, int, pselect,                                                                      \
         (int n, fd_set *r, fd_set *w, fd_set *o, const struct timespec *t, const sigset_t *m),\
         (SEAT(s), n, r, w, o, t, m))                                                          \
    CALL(s, unsigned, sleep, (unsigned t), (SEAT(s), t))                                       \
    CALL(s, int, usleep, (useconds_t t), (SEAT(s), t))                                         \
    CALL(s, int, nanosleep, (const struct timespec *t, struct timespec *r), (SEAT(s), t, r))   \
    CALL(s, int, clock_nanosleep,                                                              \
         (clockid_t c, int f, const struct timespec *t, struct timespec *r),                   \
         (SEAT(s), c, f, t, r))                                                                \
    CALL(s, int, getaddrinfo,                                                                  \
         (const char *h, const char *v, const struct addrinfo *i, struct addrinfo **o),        \
         (SEAT(s), h, v, i, o))

#define SEAT(s) &patch_seats[s]

#define DEFINE(s, result, name, parameters, arguments)                                         \
    static result stub_##s##_##name parameters                                                 \
    {                                                                                          \
        return patched_##name arguments;                                                       \
    }
#define NUMBER(s, result, name, parameters, arguments) CALL_##name,
#define ADDRESS(s, result, name, parameters, arguments) (void (*)(void))stub_##s##_##name,

enum { EACH_CALL(NUMBER, 0) CALLS };

#define STUBS(s) EACH_CALL(DEFINE, s)
#define STUBS_OF(s) { EACH_CALL(ADDRESS, s) }

/* clang-format off */
STUBS(0)  STUBS(1)  STUBS(2)  STUBS(3)  STUBS(4)  STUBS(5)  STUBS(6)  STUBS(7)
STUBS(8)  STUBS(9)  STUBS(10) STUBS(11) STUBS(12) STUBS(13) STUBS(14) STUBS(15)

static void (*const stubs[WEIR_PATCH_MAX][CALLS])(void) = {
    STUBS_OF(0),  STUBS_OF(1),  STUBS_OF(2),  STUBS_OF(3),
    STUBS_OF(4),  STUBS_OF(5),  STUBS_OF(6),  STUBS_OF(7),
    STUBS_OF(8),  STUBS_OF(9),  STUBS_OF(10), STUBS_OF(11),
    STUBS_OF(12), STUBS_OF(13), STUBS_OF(14), STUBS_OF(15),
};
/* clang-format on */

/* ---- by name ------------------------------------------------------------------------ */

/* What libraries import: POSIX's names, glibc's own second names, and those of fortified calls. */
static const struct {
    const char *symbol;
    unsigned    call;
} names[] = {
    { "read", CALL_read },          { "__read", CALL_read },
    { "readv", CALL_readv },        { "recv", CALL_recv },
    { "recvfrom", CALL_recvfrom },  { "recvmsg", CALL_recvmsg },
    { "write", CALL_write },        { "__write", CALL_write },
    { "writev", CALL_writev },      { "send", CALL_send },
    { "__send", CALL_send },        { "sendto", CALL_sendto },
    { "sendmsg", CALL_sendmsg },    { "__read_chk", CALL_read_chk },
    { "__recv_chk", CALL_recv_chk },{ "__recvfrom_chk", CALL_recvfrom_chk },
    { "connect", CALL_connect },    { "__connect", CALL_connect },
    { "accept", CALL_accept },      { "accept4", CALL_accept4 },
    { "close", CALL_close },        { "__close", CALL_close },
    { "poll", CALL_poll },          { "__poll", CALL_poll },
    { "ppoll", CALL_ppoll },        { "__poll_chk", CALL_poll_chk },
    { "__ppoll_chk", CALL_ppoll_chk }, { "select", CALL_select },
    { "__select", CALL_select },    { "pselect", CALL_pselect },
    { "sleep", CALL_sleep },        { "usleep", CALL_usleep },
    { "nanosleep", CALL_nanosleep },{ "__nanosleep", CALL_nanosleep },
    { "clock_nanosleep", CALL_clock_nanosleep },
    { "getaddrinfo", CALL_getaddrinfo },
};

void *patch_substitute(const char *symbol, size_t seat)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].symbol, symbol) == 0)
            return (void *)stubs[seat][names[i].call];
    return NULL;
}

/* ---- what has none ------------------------------------------------------------------ */

#define RESOLVER "a name lookup other than getaddrinfo: it blocks; use weir_offload()"
#define LOCK "it stops the thread when a coroutine waits while it holds the lock"
#define CHILD "waiting for a child blocks; use weir_waitpid()"
#define MANY "several messages in one call: it blocks"
#define STDIO "stdio calls libc's own read and write: it blocks on sockets and pipes"
#define EVENTS "it waits in an epoll set of its own: it blocks"
#define FILES "it blocks while another process holds the lock, or the disk is slow"
#define SIGNALS "waiting for signals blocks; use weir_signal_wait()"
#define QUEUES "a queue or a semaphore between processes: it blocks"
#define COPIES "data moved inside the kernel: it blocks"

static const struct {
    const char *symbol, *why;
} left[] = {
    { "gethostbyname", RESOLVER }, { "gethostbyname2", RESOLVER }, { "gethostbyaddr", RESOLVER },
    { "gethostbyname_r", RESOLVER }, { "gethostbyname2_r", RESOLVER },
    { "gethostbyaddr_r", RESOLVER }, { "getnameinfo", RESOLVER }, { "res_query", RESOLVER },
    { "__res_query", RESOLVER }, { "res_nquery", RESOLVER }, { "__res_nquery", RESOLVER },
    { "res_search", RESOLVER }, { "__res_search", RESOLVER }, { "res_nsearch", RESOLVER },
    { "__res_nsearch", RESOLVER }, { "gai_suspend", RESOLVER },
    { "pthread_mutex_lock", LOCK }, { "pthread_mutex_timedlock", LOCK },
    { "pthread_rwlock_rdlock", LOCK }, { "pthread_rwlock_wrlock", LOCK },
    { "pthread_cond_wait", LOCK }, { "pthread_cond_timedwait", LOCK },
    { "pthread_cond_clockwait", LOCK }, { "pthread_spin_lock", LOCK },
    { "pthread_barrier_wait", LOCK }, { "mtx_lock", LOCK }, { "cnd_wait", LOCK },
    { "cnd_timedwait", LOCK },
    { "pthread_join", "it stops this thread until another one has ended" },
    { "thrd_join", "it stops this thread until another one has ended" },
    { "thrd_sleep", "it blocks; nanosleep would not" },
    { "wait", CHILD }, { "waitpid", CHILD }, { "waitid", CHILD }, { "wait3", CHILD },
    { "wait4", CHILD }, { "system", CHILD }, { "pclose", CHILD },
    { "recvmmsg", MANY }, { "sendmmsg", MANY },
    { "fread", STDIO }, { "fgets", STDIO }, { "getline", STDIO }, { "fgetc", STDIO },
    { "__fread_chk", STDIO }, { "__fgets_chk", STDIO }, { "fwrite", STDIO }, { "fflush", STDIO },
    { "epoll_wait", EVENTS }, { "epoll_pwait", EVENTS }, { "epoll_pwait2", EVENTS },
    { "flock", FILES }, { "lockf", FILES }, { "lockf64", FILES }, { "fsync", FILES },
    { "fdatasync", FILES }, { "sync", FILES },
    { "sigwait", SIGNALS }, { "sigwaitinfo", SIGNALS }, { "sigtimedwait", SIGNALS },
    { "sigsuspend", SIGNALS }, { "pause", SIGNALS },
    { "msgrcv", QUEUES }, { "msgsnd", QUEUES }, { "semop", QUEUES }, { "semtimedop", QUEUES },
    { "mq_receive", QUEUES }, { "mq_timedreceive", QUEUES }, { "mq_send", QUEUES },
    { "sem_wait", QUEUES }, { "sem_timedwait", QUEUES }, { "sem_clockwait", QUEUES },
    { "sendfile", COPIES }, { "sendfile64", COPIES }, { "splice", COPIES }, { "tee", COPIES },
    { "vmsplice", COPIES }, { "copy_file_range", COPIES },
    { "preadv2", "it blocks" }, { "pwritev2", "it blocks" },
    { "syscall", "a system call of its own choosing, which may block" },
    { "dlsym", "what it finds is not looked through here" },
};

const char *patch_left_because(const char *symbol)
{
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        if (strcmp(left[i].symbol, symbol) == 0)
            return left[i].why;
    return NULL;
}
