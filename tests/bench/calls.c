/*
 * calls.c - how many system calls a stretch of work makes.
 *
 * A traced process (ptrace) is slowed so much that a server on the same CPU has always
 * answered before its client looks: measured, a client that makes four calls a query then
 * makes two and a half. So no tracer: Linux can hand each system call of a thread back to the
 * thread itself as a SIGSYS (syscall user dispatch, since 5.11; no privilege needed). Our
 * handler counts it and makes it. That costs a signal and no switch to anybody, so that who
 * waits for whom stays as it is: the same client is seen to make its four.
 *
 * The way out of a handler is a system call too. It comes from a function of libc whose
 * address is where the handler returns to, so one signal for practice tells it, and calls
 * from there are let through.
 */
#define _GNU_SOURCE 1 /* REG_RAX */
#include "calls.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(PR_SET_SYSCALL_USER_DISPATCH)

static volatile char     selector = SYSCALL_DISPATCH_FILTER_ALLOW;
static volatile long     made;
static volatile bool     met_clone;
static volatile uintptr_t way_out;
static struct sigaction  before;

static long make_call(const greg_t *regs)
{
    long result = syscall(regs[REG_RAX], regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                          regs[REG_R10], regs[REG_R8], regs[REG_R9]);

    return result == -1 ? -errno : result;
}

static void on_call(int signal, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    int     error = errno;

    (void)signal;
    way_out = (uintptr_t)__builtin_return_address(0);
    if (info->si_code == SI_TKILL) /* for practice */
        return;
    selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    long number = regs[REG_RAX];
    if (number == SYS_clone || number == SYS_clone3 || number == SYS_vfork) {
        /* A new thread cannot begin in here. It is refused, and so is the figure. */
        met_clone = true;
        regs[REG_RAX] = -EAGAIN;
    } else {
        regs[REG_RAX] = make_call(regs);
    }
    made++;
    errno = error;
    selector = SYSCALL_DISPATCH_FILTER_BLOCK;
}

bool calls_begin(void)
{
    enum { WAY_OUT_SIZE = 16 }; /* two instructions */
    struct sigaction action = { .sa_sigaction = on_call, .sa_flags = SA_SIGINFO };

    if (sigaction(SIGSYS, &action, &before) || raise(SIGSYS) ||
        prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, (unsigned long)way_out,
              (unsigned long)WAY_OUT_SIZE, &selector))
        return false;
    made = 0;
    met_clone = false;
    selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    return true;
}

long calls_end(void)
{
    selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0UL, 0UL, 0UL);
    sigaction(SIGSYS, &before, NULL);
    return met_clone ? -1 : made;
}

#else

bool calls_begin(void)
{
    return false; /* the handler knows where one machine keeps the arguments of a call */
}

long calls_end(void)
{
    return -1;
}

#endif

bool calls_countable(void)
{
    return calls_begin() && calls_end() >= 0;
}
