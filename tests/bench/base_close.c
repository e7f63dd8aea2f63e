/*
 * base_close.c - closing everything at once: how long that holds a thread.
 *
 * Knows:   eventfd, epoll, close.
 * Ignores: who else may want to run meanwhile.
 */
#include "base.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAX_FDS = 10000 };

static int open_all(int epoll, int *fds, int count)
{
    for (int i = 0; i < count; i++) {
        struct epoll_event event = { .events = EPOLLIN };
        fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fds[i] < 0)
            return i;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event);
    }
    return count;
}

bool base_close_all(struct lap *lap, int count)
{
    static int fds[MAX_FDS];
    int        epoll = epoll_create1(EPOLL_CLOEXEC);
    int        opened = count <= MAX_FDS ? open_all(epoll, fds, count) : 0;
    int        errnum = errno;

    lap_begin(lap);
    for (int i = 0; i < opened; i++) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, fds[i], NULL);
        close(fds[i]);
    }
    lap_end(lap);
    close(epoll);
    return opened == count ||
           bench_fail("only %d of %d descriptors: %s", opened, count, strerror(errnum));
}
