/*
 * forkserver.c - the process that helper processes are forked from, and what a helper does.
 *
 * Whoever forks a process with threads gets a child in which any lock may be held for ever, by a
 * thread that is not there; and a large process, with thousands of coroutines, stands still
 * while the kernel copies its page tables. So the service forks once, early: a small process
 * with one thread, which does nothing but fork. Every call has a helper of its own, forked from
 * it: nothing a function leaves behind, leaks, corrupts or locks is met by the next one, a function
 * that crashes or never ends takes nobody with it, and killing it needs nobody's consent. It
 * costs a fork of a small process a call; helpers that serve many calls would save that, and
 * lose all of the above.
 *
 * What runs there is the program as it was when the server was forked: the same code at the same
 * addresses, and the same data. What the service did since is not seen.
 *
 * The server has no descriptor of the service's but 0 to 2, a session of its own (a Ctrl-C at the
 * terminal is the service's matter), and blocks all signals. It is no child of the service, which
 * may wait(2) for any of its children. It ends when the service does, however that ends: its
 * socket is at its end then. Helpers are killed by the kernel when the server ends.
 */
#define _GNU_SOURCE /* closefrom, dladdr */
#include "forkserver.h"

#include "hub.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The server's descriptors beside 0 to 2, and a call's socket for each helper. */
enum { CONTROL = 3, ENDED = 4 };

static bool is_helper;

bool forkserver_is_helper(void)
{
    return is_helper;
}

/* ---- the shared memory ------------------------------------------------------------------ */

enum { ALIGNED = 64 };

static size_t align(size_t size)
{
    return (size + ALIGNED - 1) / ALIGNED * ALIGNED;
}

size_t helper_in_at(void)
{
    return align(sizeof(struct helper_memory));
}

size_t helper_out_at(size_t in_size)
{
    return helper_in_at() + align(in_size);
}

size_t helper_memory_size(size_t in_size, size_t out_room)
{
    return helper_out_at(in_size) + align(out_room);
}

/* ---- a helper --------------------------------------------------------------------------- */

/* Where the function is in this process. A library that the service loaded after the server was
   forked is loaded here now, wherever there is room for it. */
static weir_process_fn find(const struct helper_order *order)
{
    Dl_info info;

    if (!order->file[0] || (dladdr((void *)order->fn, &info) && info.dli_fbase == order->base &&
                            strcmp(info.dli_fname, order->file) == 0))
        return order->fn;

    struct link_map *map = dlopen(order->file, RTLD_NOW);
    if (!map)
        fprintf(stderr, "weir: error: a helper process cannot load %s: %s\n", order->file,
                dlerror());
    return map ? (weir_process_fn)(map->l_addr + (size_t)((char *)order->fn - order->base)) : NULL;
}

static void as_by_default(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL); /* those that cannot be set are so already */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void work(const struct helper_order *order, struct helper_memory *memory)
{
    weir_process_fn fn = find(order);

    if (!fn) {
        memory->not_found = true;
        return;
    }
    memory->result = fn((char *)memory + helper_in_at(), order->in_size,
                        (char *)memory + helper_out_at(order->in_size), order->out_room);
    fflush(stdout);
    memory->returned = true;
}

__attribute__((noreturn)) static void be_helper(const struct helper_order *order, int memory_fd,
                                                pid_t server)
{
    size_t size = helper_memory_size(order->in_size, order->out_room);
    void  *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);

    closefrom(CONTROL);
    setpgid(0, 0);
    prctl(PR_SET_NAME, "weir-helper");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (memory == MAP_FAILED || getppid() != server)
        _exit(1);
    is_helper = true;
    as_by_default();
    work(order, memory);
    _exit(0);
}

/* ---- the server: its helpers ------------------------------------------------------------ */

struct helper {
    pid_t pid;
    int   call;  /* to whoever waits for it; readable once he does not */
    bool  killed;
};

static struct helper helpers[HELPERS_MAX];
static unsigned      helper_count;

static void answer(int call, pid_t pid, int wait_status, int errnum)
{
    struct helper_end end = { pid, wait_status, errnum };

    (void)send(call, &end, sizeof end, MSG_NOSIGNAL | MSG_DONTWAIT); /* if he is still there */
    close(call);
}

/* With all that it has started, as far as that did not leave its process group. */
static void kill_helper(struct helper *helper)
{
    kill(-helper->pid, SIGKILL);
    kill(helper->pid, SIGKILL);
    helper->killed = true;
}

static void reap(struct helper *helper)
{
    int status = 0;

    kill(-helper->pid, SIGKILL); /* what it has left behind; its number is not another's yet */
    while (waitpid(helper->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    answer(helper->call, helper->pid, status, 0);
    *helper = helpers[--helper_count];
}

static bool has_ended(const struct helper *helper)
{
    siginfo_t info = { .si_pid = 0 };

    return waitid(P_PID, (id_t)helper->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
           info.si_pid == helper->pid;
}

/* Some of them have; the kernel does not count how many. */
static void reap_those_that_ended(void)
{
    struct signalfd_siginfo told;

    while (read(ENDED, &told, sizeof told) > 0)
        continue;
    for (unsigned i = helper_count; i-- > 0;) /* backwards: the last one fills a gap */
        if (has_ended(&helpers[i]))
            reap(&helpers[i]);
}

/* An order that comes must find room for its descriptors; then one is left for each helper. */
static unsigned helper_room(void)
{
    enum { SPARE = 10 };
    struct rlimit limit = { 0, 0 };

    getrlimit(RLIMIT_NOFILE, &limit);
    rlim_t room = limit.rlim_cur > SPARE ? limit.rlim_cur - SPARE : 0;
    return room < HELPERS_MAX ? (unsigned)room : HELPERS_MAX;
}

static void fork_helper(const struct helper_order *order, int call, int memory_fd)
{
    pid_t server = getpid();

    if (helper_count >= helper_room()) {
        answer(call, 0, 0, EMFILE);
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        be_helper(order, memory_fd, server);
    if (pid < 0) {
        answer(call, 0, 0, errno);
        return;
    }
    setpgid(pid, pid); /* whichever of us comes first */
    helpers[helper_count++] = (struct helper){ pid, call, false };
}

/* ---- the server: its orders ------------------------------------------------------------- */

/* False at the end: there is no service any more. */
static bool take_order(int control)
{
    struct helper_order order = { 0 };
    union {
        struct cmsghdr header;
        char           bytes[CMSG_SPACE(2 * sizeof(int))];
    } room;
    struct iovec  part = { &order, sizeof order };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room.bytes,
                              .msg_controllen = sizeof room.bytes };
    int           fds[2];
    ssize_t       got = recvmsg(control, &message, MSG_CMSG_CLOEXEC);

    if (got <= 0)
        return got < 0 && (errno == EINTR || errno == EAGAIN);
    struct cmsghdr *carried = CMSG_FIRSTHDR(&message);
    if (!carried || carried->cmsg_len != CMSG_LEN(sizeof fds))
        return false; /* there is always room for two: it was not our service that spoke */
    memcpy(fds, CMSG_DATA(carried), sizeof fds);
    fork_helper(&order, fds[0], fds[1]);
    close(fds[1]);
    return true;
}

/* Whose callers have let go of them. */
static void kill_those_given_up(const struct pollfd *calls, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (calls[i].revents)
            kill_helper(&helpers[i]);
}

__attribute__((noreturn)) static void serve(void)
{
    static struct pollfd polled[2 + HELPERS_MAX];

    for (;;) {
        unsigned count = helper_count;
        polled[0] = (struct pollfd){ .fd = CONTROL, .events = POLLIN };
        polled[1] = (struct pollfd){ .fd = ENDED, .events = POLLIN };
        for (unsigned i = 0; i < count; i++)
            polled[2 + i] = (struct pollfd){ .fd = helpers[i].killed ? -1 : helpers[i].call,
                                             .events = POLLIN };
        if (poll(polled, 2 + count, -1) < 0 && errno != EINTR)
            _exit(1);
        kill_those_given_up(polled + 2, count);
        if (polled[1].revents)
            reap_those_that_ended();
        if (polled[0].revents && !take_order(CONTROL)) {
            for (unsigned i = 0; i < helper_count; i++)
                kill_helper(&helpers[i]);
            _exit(0);
        }
    }
}

/* ---- its making ------------------------------------------------------------------------- */

static void stand_on_its_own(void)
{
    sigset_t all;
    int      nothing = open("/dev/null", O_RDONLY);

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would reap helpers before we can */
    setsid();
    prctl(PR_SET_NAME, "weir-forkserver");
    if (nothing >= 0)
        dup2(nothing, STDIN_FILENO);
    __fpurge(stdout); /* what the service has not written yet, it will write itself */
    __fpurge(stderr);
    weir_hot_hub_ = NULL; /* no coroutine goes on here: what would yield blocks */
}

__attribute__((noreturn)) static void be_server(int control)
{
    stand_on_its_own();
    if (control != CONTROL)
        dup2(control, CONTROL);
    closefrom(CONTROL + 1);
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    fcntl(CONTROL, F_SETFL, 0);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pid_t self = getpid();
    if (signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK) != ENDED ||
        send(CONTROL, &self, sizeof self, MSG_NOSIGNAL) != (ssize_t)sizeof self)
        _exit(1);
    serve();
}

/* It says its number; nothing, when it could not be made. */
static int hear(int control, pid_t *pid)
{
    struct pollfd p = { .fd = control, .events = POLLIN };

    while (poll(&p, 1, 5000) < 0 && errno == EINTR)
        continue;
    return recv(control, pid, sizeof *pid, MSG_DONTWAIT) == (ssize_t)sizeof *pid ? 0 : ECHILD;
}

/* The one between ends at once, so that the server is nobody's child. */
static int fork_twice(int ours, int theirs)
{
    pid_t between = fork();

    if (between < 0)
        return errno;
    if (between == 0) {
        close(ours);
        if (fork() == 0)
            be_server(theirs);
        _exit(0);
    }
    while (waitpid(between, NULL, 0) < 0 && errno == EINTR)
        continue; /* or else a handler of SIGCHLD has reaped it */
    return 0;
}

int forkserver_start(int *control, pid_t *pid)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return errno;
    int errnum = fork_twice(ends[0], ends[1]);
    close(ends[1]);
    if (errnum == 0)
        errnum = hear(ends[0], pid);
    if (errnum) {
        close(ends[0]);
        return errnum;
    }
    *control = ends[0];
    return 0;
}
