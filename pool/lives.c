/*
 * lives.c - is a process still the one it was?
 *
 * A process is known by its number and by when it was started (/proc/PID/stat, field 22, in
 * ticks since the boot), with the boot's own id mixed in. A number is given to a new process
 * long after the tick in which the old one was started.
 *
 * The end is read off a pidfd, which polls as readable once the last thread of the process has
 * left exit_notify(). Before that the kernel has left exit_files() and exit_task_work() for the
 * same thread (kernel/exit.c, do_exit()), which is where the last reference to a socket is
 * dropped and the socket closed. So what a pidfd calls ended has no socket any more, unless
 * somebody else has a copy of its descriptor. That is not so of anything that goes earlier:
 * robust mutexes are let go in exit_mm(), before the files; POSIX locks go when their own file
 * is closed, in the order of the descriptors; locks of an open file (F_OFD_SETLK, flock(2)) go
 * with its last reference, in no order that is promised, and live on in a forked child.
 */
#include "lives.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* the same everywhere; Linux 5.3 */
#endif

/* The start of a small file, as a text; false: it cannot be read. */
static bool read_start(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static uint32_t boot;

static void know_boot(void)
{
    char text[64];

    boot = 2166136261u; /* FNV-1a */
    if (!read_start("/proc/sys/kernel/random/boot_id", text, sizeof text))
        return;
    for (const char *at = text; *at; at++)
        boot = (boot ^ (unsigned char)*at) * 16777619u;
}

uint32_t life_birth(pid_t pid)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char                  path[32], text[512];

    pthread_once(&once, know_boot);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (!read_start(path, text, sizeof text))
        return 0;
    const char *at = strrchr(text, ')'); /* the end of field 2, which may have anything in it */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return 0;
    uint32_t birth = (uint32_t)strtoull(at + 1, NULL, 10) ^ boot;
    return birth ? birth : 1;
}

bool life_has_ended(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, 0) == 1;
}

int life_watch(pid_t pid, uint32_t birth)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (fd < 0) /* the last two: by now it is the number of some process' thread */
        return errno == ESRCH || errno == EINVAL || errno == ENOENT ? LIFE_OVER : LIFE_UNKNOWN;
    /* Asked after opening: were the number given away in between, it would not be the same. */
    uint32_t now = birth ? life_birth(pid) : 0;
    if ((birth && now && now != birth) || life_has_ended(fd)) {
        close(fd);
        return LIFE_OVER;
    }
    return fd;
}

bool life_is_over(pid_t pid, uint32_t birth)
{
    int fd = life_watch(pid, birth);

    if (fd >= 0)
        close(fd);
    return fd == LIFE_OVER;
}
