/*
 * process.c - waiting for children and signals.
 *
 * The kernel makes a descriptor of either, which is readable when there is something to take;
 * each wait has its own, and gives it back. So nothing of the process is changed: no handler
 * of SIGCHLD, which belongs to the application.
 */
#include "hub.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/process.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* the same everywhere; Linux 5.3 */
#endif

/* ---- children ----------------------------------------------------------------------- */

/* 1: reaped, 0: it runs, -1: errno. */
static int reap(pid_t pid, int *status)
{
    pid_t got;

    do
        got = waitpid(pid, status, WNOHANG);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -1 : got == pid;
}

static weir_status no_child(pid_t pid, weir_error *err)
{
    return weir_error_set(err, WEIR_USAGE,
                          "process %d is no child of this one, or was reaped already (a SIGCHLD "
                          "that is ignored, or another wait, does that)",
                          (int)pid);
}

static weir_status no_descriptor(const char *what, int errnum, weir_error *err)
{
    weir_error_set(err, WEIR_NOMEM, "no descriptor to wait for %s: %s", what, strerror(errnum));
    if (err)
        err->native = errnum;
    return WEIR_NOMEM;
}

weir_status weir_waitpid(pid_t pid, weir_deadline deadline, int *status, weir_error *err)
{
    int unwanted;

    if (!status)
        status = &unwanted;
    int got = pid > 0 ? reap(pid, status) : -1;
    if (got < 0)
        return no_child(pid, err);
    if (got) {
        weir_spend(WEIR_IO_UNITS);
        return WEIR_OK;
    }

    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return no_descriptor("a child", errno, err);
    weir_status waited = weir_wait_fd(fd, WEIR_READ, deadline, NULL);
    weir_close(fd);
    if (waited != WEIR_OK)
        return weir_error_set(err, waited, "gave up waiting for process %d: %s", (int)pid,
                              weir_status_name(waited));
    return reap(pid, status) == 1 ? WEIR_OK : no_child(pid, err);
}

/* ---- signals ------------------------------------------------------------------------ */

static weir_status no_signal(int number, weir_error *err)
{
    return weir_error_set(err, WEIR_USAGE, "%d is no signal that can be blocked and waited for",
                          number);
}

static weir_status collect(const int *signals, unsigned count, sigset_t *set, weir_error *err)
{
    sigemptyset(set);
    for (unsigned i = 0; i < count; i++)
        if (signals[i] == SIGKILL || signals[i] == SIGSTOP || sigaddset(set, signals[i]) != 0)
            return no_signal(signals[i], err);
    return count ? WEIR_OK : no_signal(0, err);
}

weir_status weir_signal_block(const int *signals, unsigned count, weir_error *err)
{
    sigset_t    set;
    weir_status status = collect(signals, count, &set, err);

    if (status == WEIR_OK)
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    return status;
}

/* The first that this thread lets through; 0: none. */
static int first_unblocked(const int *signals, unsigned count)
{
    sigset_t blocked;

    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    for (unsigned i = 0; i < count; i++)
        if (sigismember(&blocked, signals[i]) != 1)
            return signals[i];
    return 0;
}

/* Another coroutine, or thread, may take it between our waking and our reading. */
static weir_status take(int fd, weir_deadline deadline, weir_signal *out)
{
    struct signalfd_siginfo got;

    for (;;) {
        if (read(fd, &got, sizeof got) == (ssize_t)sizeof got) {
            if (out)
                *out = (weir_signal){ (int)got.ssi_signo, (pid_t)got.ssi_pid, got.ssi_status };
            weir_spend(WEIR_IO_UNITS);
            return WEIR_OK;
        }
        weir_status status = weir_wait_fd(fd, WEIR_READ, deadline, NULL);
        if (status != WEIR_OK)
            return status;
    }
}

weir_status weir_signal_wait(const int *signals, unsigned count, weir_deadline deadline,
                             weir_signal *out, weir_error *err)
{
    sigset_t    set;
    weir_status status = collect(signals, count, &set, err);

    if (status != WEIR_OK)
        return status;
    int open = first_unblocked(signals, count);
    if (open)
        return weir_error_set(err, WEIR_USAGE,
                              "signal %d (%s) is not blocked: call weir_signal_block() before any "
                              "thread is made, or it does what it does by default",
                              open, strsignal(open));
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return no_descriptor("a signal", errno, err);
    status = take(fd, deadline, out);
    weir_close(fd);
    return status == WEIR_OK ? WEIR_OK
                             : weir_error_set(err, status, "gave up waiting for a signal: %s",
                                              weir_status_name(status));
}
