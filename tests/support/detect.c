/*
 * detect.c - the ticker, and the interposed calls.
 *
 * The ticker is an alarm of the hub, set anew every 10 ms. What it measures is the time in
 * which the loop's thread did not come round, whoever kept it. Time in which the thread was
 * ready to run but the kernel ran somebody else is no fault of ours: the kernel counts it in
 * the second field of /proc/thread-self/schedstat, and it is taken off. (The file is opened
 * once for the process, by the first test, before any descriptor is counted.)
 *
 * The interposed calls are defined here, in the executable, so that the dynamic linker binds
 * every library's use of them to ours. Each asks one question: could this block the thread,
 * and is a coroutine running on it? The hub's own epoll_wait, weir's resolver and offload
 * threads, and the tests' own threads run no coroutine, so they pass.
 *
 * getaddrinfo() is also the tests' name server, since a build machine may have none: names
 * that end in .hang.test take three seconds and fail, those that end in .weir.test are
 * 127.0.0.1, and any other name under .test does not exist.
 */
#define _GNU_SOURCE
#include "detect.h"

#include "under_valgrind.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <weir/hub.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN 0
#endif

enum { TICK_MS = 10, HANG_MS = 3000 };

static struct {
    weir_alarm alarm;
    int        schedstat;  /* descriptor, kept for the process's life */
    pid_t      thread;     /* the schedstat file is that of one thread */
    int64_t    started_ns;
    int64_t    last_ns;    /* the last tick */
    int64_t    last_off_ns; /* time spent ready but not running, until then */
    bool       watching;

    struct detect_findings found;
} detector = { .schedstat = -1 };

/* ---- the ticker --------------------------------------------------------------------- */

static int64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Nanoseconds this thread was ready and not run, since it began. */
static int64_t off_cpu_ns(void)
{
    char      text[96];
    long long ran, waited = 0;
    ssize_t   n = pread(detector.schedstat, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0; /* a kernel without schedstat: nothing is taken off */
    text[n] = 0;
    if (sscanf(text, "%lld %lld", &ran, &waited) != 2)
        return 0;
    return waited;
}

double detect_off_cpu_ms(void)
{
    return (double)off_cpu_ns() / 1e6;
}

static void note_gap(void)
{
    int64_t now = clock_ns();
    int64_t off = off_cpu_ns();
    double  gap_ms = (double)(now - detector.last_ns - (off - detector.last_off_ns)) / 1e6;

    if (gap_ms > detector.found.gap_ms) {
        detector.found.gap_ms = gap_ms;
        detector.found.gap_at_ms = (double)(now - detector.started_ns) / 1e6;
    }
    detector.last_ns = now;
    detector.last_off_ns = off;
}

static void tick(weir_alarm *alarm)
{
    note_gap();
    weir_alarm_set(alarm, detector.last_ns + TICK_MS * INT64_C(1000000), tick);
}

void detect_start(void)
{
    if (detector.schedstat < 0 || detector.thread != gettid()) {
        if (detector.schedstat >= 0)
            close(detector.schedstat);
        detector.schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        detector.thread = gettid();
    }
    memset(&detector.found, 0, sizeof detector.found);
    detector.started_ns = detector.last_ns = clock_ns();
    detector.last_off_ns = off_cpu_ns();
    if (weir_alarm_reserve(1) != WEIR_OK)
        abort();
    weir_alarm_set(&detector.alarm, detector.last_ns + TICK_MS * INT64_C(1000000), tick);
    detector.watching = true;
}

void detect_stop(struct detect_findings *out)
{
    note_gap(); /* a silence that has lasted until now */
    detector.watching = false;
    weir_alarm_stop(&detector.alarm);
    (void)weir_alarm_reserve(-1);
    *out = detector.found;
}

double detect_gap_limit_ms(void)
{
    if (under_valgrind())
        return 0;
    /*
     * AddressSanitizer checks and marks every byte that passes through memcpy, malloc and free,
     * and hands out no block twice, so that 64 MiB are 64 MiB of fresh pages each time: up to
     * 190 ms in one turn of the hub, where a plain build takes 20. Blocking calls are found by
     * the interposers all the same.
     */
    return WITH_ASAN ? 400 : 50;
}

double detect_slowness(void)
{
    return under_valgrind() ? 20 : WITH_ASAN ? 3 : 1;
}

/* ---- the interposed calls ----------------------------------------------------------- */

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* A coroutine is about to do something that may block its thread. */
static void blocks(const char *call, long detail)
{
    weir_task *self = weir_self();
    if (!self || !detector.watching)
        return;
    if (detector.found.blocked++ == 0)
        snprintf(detector.found.first_call, sizeof detector.found.first_call,
                 "%s (%ld) in coroutine %llu, spawned at %s", call, detail,
                 (unsigned long long)weir_task_id(self), weir_task_site(self));
}

static void may_block_on(const char *call, int fd)
{
    if (!weir_self())
        return;

    int       saved = errno;
    int       type;
    socklen_t size = sizeof type;
    int       flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK) &&
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0)
        blocks(call, fd);
    errno = saved;
}

int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    REAL(poll);
    if (timeout_ms != 0)
        blocks("poll", timeout_ms);
    return real(fds, n, timeout_ms);
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    REAL(ppoll);
    if (!timeout || timeout->tv_sec || timeout->tv_nsec)
        blocks("ppoll", timeout ? (long)timeout->tv_sec : -1);
    return real(fds, n, timeout, mask);
}

int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout)
{
    REAL(select);
    if (!timeout || timeout->tv_sec || timeout->tv_usec)
        blocks("select", timeout ? (long)timeout->tv_sec : -1);
    return real(n, r, w, e, timeout);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms)
{
    REAL(epoll_wait);
    if (timeout_ms != 0)
        blocks("epoll_wait", timeout_ms);
    return real(fd, events, n, timeout_ms);
}

unsigned sleep(unsigned seconds)
{
    REAL(sleep);
    blocks("sleep", (long)seconds);
    return real(seconds);
}

/* weir::mongo's, which a program that defines usleep() must call; where it is linked. */
extern int weir_mongo_usleep(unsigned us) __attribute__((weak));

int usleep(useconds_t us)
{
    if (weir_mongo_usleep)
        return weir_mongo_usleep(us);
    REAL(usleep);
    blocks("usleep", (long)us);
    return real(us);
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    REAL(nanosleep);
    blocks("nanosleep", time->tv_nsec);
    return real(time, left);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time,
                    struct timespec *left)
{
    REAL(clock_nanosleep);
    blocks("clock_nanosleep", time->tv_nsec);
    return real(clock, flags, time, left);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    REAL(connect);
    may_block_on("connect", fd);
    return real(fd, address, size);
}

int accept(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(accept);
    may_block_on("accept", fd);
    return real(fd, address, size);
}

ssize_t recv(int fd, void *buf, size_t size, int flags)
{
    REAL(recv);
    if (!(flags & MSG_DONTWAIT))
        may_block_on("recv", fd);
    return real(fd, buf, size, flags);
}

ssize_t send(int fd, const void *buf, size_t size, int flags)
{
    REAL(send);
    if (!(flags & MSG_DONTWAIT))
        may_block_on("send", fd);
    return real(fd, buf, size, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(recvmsg);
    if (!(flags & MSG_DONTWAIT))
        may_block_on("recvmsg", fd);
    return real(fd, message, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    if (!(flags & MSG_DONTWAIT))
        may_block_on("sendmsg", fd);
    return real(fd, message, flags);
}

ssize_t read(int fd, void *buf, size_t size)
{
    REAL(read);
    may_block_on("read", fd);
    return real(fd, buf, size);
}

ssize_t write(int fd, const void *buf, size_t size)
{
    REAL(write);
    may_block_on("write", fd);
    return real(fd, buf, size);
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static bool is_address(const char *node)
{
    struct in6_addr address;
    return inet_pton(AF_INET, node, &address) == 1 || inet_pton(AF_INET6, node, &address) == 1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    REAL(getaddrinfo);
    if (!node || is_address(node) || (hints && (hints->ai_flags & AI_NUMERICHOST)))
        return real(node, service, hints, out); /* looks at no file and asks nobody */

    blocks("getaddrinfo", 0);
    if (ends_in(node, ".hang.test")) {
        poll(NULL, 0, HANG_MS);
        return EAI_AGAIN;
    }
    if (ends_in(node, ".weir.test"))
        return real("127.0.0.1", service, hints, out);
    if (ends_in(node, ".test"))
        return EAI_NONAME;
    return real(node, service, hints, out);
}
