/*
 * helper.c - weir_offload_process(): a function in a process of its own, waited for.
 *
 * Who calls waits for one of a few places first, in the order of coming, whatever hub he is on.
 * Then he shares a piece of memory with the helper, in which the one leaves bytes for the other,
 * and a socket with the fork server, at which he hears of the helper's end. Nothing is copied by
 * way of a pipe, so nothing can be half sent, and an answer never waits for its reader.
 */
#define _GNU_SOURCE /* memfd_create, dladdr, sigabbrev_np */
#include "forkserver.h"
#include "hub.h"
#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLACES = 10, KILL_MS = 5000 };

/* For all that follows; let go while anybody waits, and while the server is made. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned        places = PLACES, running, waiting;
static struct list     waiters = { &waiters, &waiters };
static struct {
    int   control; /* while pid is not 0 */
    pid_t pid;
} server;
static struct {
    uint64_t done, failed, killed;
} counts;

/* ---- places ----------------------------------------------------------------------------- */

struct place_waiter {
    struct list link;
    weir_waker  waker;
    bool        served;
};

/* Under the lock. */
static void serve_waiters(void)
{
    while (running < places && !list_empty(&waiters)) {
        struct place_waiter *next = LIST_OF(list_first(&waiters), struct place_waiter, link);
        list_unlink(&next->link);
        waiting--;
        running++;
        next->served = true;
        weir_wake_remote(next->waker);
    }
}

/* Where no coroutine can wait. */
static weir_status wait_blocking(weir_deadline deadline)
{
    while (running >= places) {
        pthread_mutex_unlock(&lock);
        bool late = deadline.at_ns <= weir_in_ms(0).at_ns;
        if (!late)
            (void)weir_sleep(weir_in_ms(1));
        pthread_mutex_lock(&lock);
        if (late)
            return WEIR_TIMEOUT;
    }
    running++;
    return WEIR_OK;
}

static weir_status wait_in_line(weir_deadline deadline)
{
    struct place_waiter me = { .waker = weir_waker_new() };
    weir_hub           *hub = hub_here_;

    list_append(&waiters, &me.link);
    waiting++;
    pthread_mutex_unlock(&lock);
    hub->abroad++;
    weir_status status = weir_park(deadline, "a place among the helper processes");
    hub->abroad--;
    pthread_mutex_lock(&lock);
    if (status == WEIR_OK)
        return WEIR_OK;
    if (me.served) { /* too late: it is the next one's */
        running--;
        serve_waiters();
        return status;
    }
    list_unlink(&me.link);
    waiting--;
    return status;
}

static weir_status take_place(weir_deadline deadline)
{
    weir_status status = WEIR_OK;

    pthread_mutex_lock(&lock);
    if (running < places && list_empty(&waiters))
        running++;
    else
        status = task_here() ? wait_in_line(deadline) : wait_blocking(deadline);
    pthread_mutex_unlock(&lock);
    return status;
}

static void give_place(void)
{
    pthread_mutex_lock(&lock);
    running--;
    serve_waiters();
    pthread_mutex_unlock(&lock);
}

/* ---- the server ------------------------------------------------------------------------- */

struct start {
    int   errnum, control;
    pid_t pid;
};

static void *start_on_a_thread(void *arg)
{
    struct start *start = arg;

    start->errnum = forkserver_start(&start->control, &start->pid);
    return NULL;
}

/*
 * From a hub it is forked by a thread that is made for it, while the hub waits: so the server has
 * a stack as large as threads have, not a coroutine's, and nothing else moves meanwhile.
 */
static void start_server(struct start *start)
{
    pthread_t thread;

    if (!hub_here_) {
        start_on_a_thread(start);
        return;
    }
    int errnum = pthread_create(&thread, NULL, start_on_a_thread, start);
    if (errnum == 0)
        pthread_join(thread, NULL);
    else
        start->errnum = errnum;
}

static weir_status start_locked(weir_error *err)
{
    struct start start = { 0 };

    pthread_mutex_unlock(&lock); /* which the fork's handlers take */
    start_server(&start);
    pthread_mutex_lock(&lock);
    if (start.errnum) {
        weir_error_set(err, WEIR_NOMEM, "no fork server for helper processes: %s",
                       strerror(start.errnum));
        if (err)
            err->native = start.errnum;
        return WEIR_NOMEM;
    }
    if (server.pid) { /* another thread's hub was quicker */
        close(start.control);
        return WEIR_OK;
    }
    server.control = start.control;
    server.pid = start.pid;
    return WEIR_OK;
}

weir_status weir_process_start(weir_error *err)
{
    fork_mind();
    pthread_mutex_lock(&lock);
    weir_status status = server.pid ? WEIR_OK : start_locked(err);
    pthread_mutex_unlock(&lock);
    return status;
}

/* Under the lock. */
static weir_status need_server(weir_error *err)
{
    if (server.pid)
        return WEIR_OK;
    if (!hub_is_alone())
        return weir_error_set(err, WEIR_USAGE,
                              "the process has threads by now, whose locks a fork would leave held "
                              "for ever: call weir_process_start() in main(), before any thread "
                              "is made");
    return start_locked(err);
}

/* Under the lock. It has ended: somebody killed it. */
static void forget_server(pid_t pid)
{
    if (server.pid != pid)
        return;
    close(server.control);
    server.pid = 0;
}

/* ---- a call ----------------------------------------------------------------------------- */

struct helper_call {
    weir_process_call    *of;
    size_t                size;
    struct helper_memory *memory;
    int                   fd;     /* the call's socket */
    pid_t                 server;
};

static weir_status no_resource(const char *what, int errnum, weir_error *err)
{
    weir_error_set(err, WEIR_NOMEM, "no %s for a helper process: %s", what, strerror(errnum));
    if (err)
        err->native = errnum;
    return WEIR_NOMEM;
}

/* Returns the memory's descriptor, or -1 and errno. Its size is sealed: a helper that cut it short
   would have us killed when we read. */
static int share_memory(struct helper_call *call)
{
    int fd = memfd_create("weir-helper", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -1;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, (off_t)call->size) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        memory = mmap(NULL, call->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int errnum = errno;
        close(fd);
        errno = errnum;
        return -1;
    }
    call->memory = memory;
    if (call->of->in_size)
        memcpy((char *)memory + helper_in_at(), call->of->in, call->of->in_size);
    return fd;
}

static void write_order(const weir_process_call *call, struct helper_order *order)
{
    Dl_info info;

    memset(order, 0, sizeof *order);
    order->fn = call->fn;
    order->in_size = call->in_size;
    order->out_room = call->out_room;
    if (!dladdr((void *)call->fn, &info) || !info.dli_fname ||
        strlen(info.dli_fname) >= sizeof order->file)
        return;
    strcpy(order->file, info.dli_fname);
    order->base = info.dli_fbase;
}

/* Returns an errno. */
static int send_order(int control, const struct helper_order *order, int call_fd, int memory_fd)
{
    int fds[2] = { call_fd, memory_fd };
    union {
        struct cmsghdr header;
        char           bytes[CMSG_SPACE(sizeof fds)];
    } room = { .bytes = { 0 } };
    struct iovec  part = { (void *)order, helper_order_size(order) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room.bytes,
                              .msg_controllen = sizeof room.bytes };

    struct cmsghdr *carried = CMSG_FIRSTHDR(&message);
    carried->cmsg_level = SOL_SOCKET;
    carried->cmsg_type = SCM_RIGHTS;
    carried->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(carried), fds, sizeof fds);
    return sendmsg(control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

/* Under the lock. One that has ended meanwhile is replaced, once. */
static weir_status place_order_locked(struct helper_call *call, int theirs, int memory_fd,
                                      weir_error *err)
{
    struct helper_order order;
    int                 errnum = EPIPE;

    write_order(call->of, &order);
    for (int tries = 0; tries < 2 && (errnum == EPIPE || errnum == ECONNRESET); tries++) {
        weir_status status = need_server(err);
        if (status != WEIR_OK)
            return status;
        call->server = server.pid;
        errnum = send_order(server.control, &order, theirs, memory_fd);
        if (errnum == EPIPE || errnum == ECONNRESET)
            forget_server(server.pid);
    }
    return errnum ? no_resource("way to ask", errnum, err) : WEIR_OK;
}

static weir_status place_order(struct helper_call *call, int memory_fd, weir_error *err)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return no_resource("descriptor", errno, err);
    pthread_mutex_lock(&lock);
    weir_status status = place_order_locked(call, ends[1], memory_fd, err);
    pthread_mutex_unlock(&lock);
    close(ends[1]);
    if (status == WEIR_OK)
        call->fd = ends[0];
    else
        close(ends[0]);
    return status;
}

/* ---- its end ---------------------------------------------------------------------------- */

static const char *signal_name(int number, char *room, size_t size)
{
    const char *name = sigabbrev_np(number);

    if (name)
        snprintf(room, size, "SIG%s", name);
    else
        snprintf(room, size, "SIGRTMIN%+d", number - SIGRTMIN);
    return room;
}

static weir_status failed(int native, weir_error *err)
{
    if (err)
        err->native = native;
    return WEIR_FAILED;
}

static weir_status tell_death(const struct helper_end *end, weir_error *err)
{
    char name[24];

    if (WIFSIGNALED(end->wait_status)) {
        int number = WTERMSIG(end->wait_status);
        weir_error_set(err, WEIR_FAILED, "helper process %d was ended by signal %d (%s)%s",
                       (int)end->pid, number, signal_name(number, name, sizeof name),
                       WCOREDUMP(end->wait_status) ? ", and left a core" : "");
        return failed(number, err);
    }
    weir_error_set(err, WEIR_FAILED,
                   "helper process %d exited with status %d before its function had returned",
                   (int)end->pid, WEXITSTATUS(end->wait_status));
    return failed(WEXITSTATUS(end->wait_status), err);
}

static weir_status take_result(struct helper_call *call, const struct helper_end *end,
                               weir_error *err)
{
    struct helper_memory said = *call->memory;
    weir_process_call   *of = call->of;

    of->pid = end->pid;
    of->wait_status = end->wait_status;
    if (end->errnum)
        return no_resource("process", end->errnum, err);
    if (said.not_found)
        return weir_error_set(err, WEIR_USAGE,
                              "the function is in a library that was loaded after "
                              "weir_process_start(), and helpers cannot load: see stderr");
    if (!said.returned)
        return tell_death(end, err);
    if (said.result < 0) {
        weir_error_set(err, WEIR_FAILED, "the function returned %lld in helper process %d",
                       (long long)said.result, (int)end->pid);
        return failed((int)-said.result, err);
    }
    if ((size_t)said.result > of->out_room)
        return weir_error_set(err, WEIR_FAILED,
                              "the function says it wrote %lld bytes, and had room for %zu",
                              (long long)said.result, of->out_room);
    of->out_size = (size_t)said.result;
    if (of->out_size)
        memcpy(of->out, (char *)call->memory + helper_out_at(of->in_size), of->out_size);
    return WEIR_OK;
}

/* Its socket was closed, and nobody has answered. */
static weir_status lost(struct helper_call *call, weir_error *err)
{
    pthread_mutex_lock(&lock);
    forget_server(call->server);
    pthread_mutex_unlock(&lock);
    return weir_error_set(err, WEIR_LOST, "the fork server, process %d, has ended, and all helper "
                                          "processes with it: somebody killed it",
                          (int)call->server);
}

/* Killed, and reaped by the server, before we go on: what it did, it has done. */
static weir_status have_it_killed(struct helper_call *call)
{
    shutdown(call->fd, SHUT_WR);
    WEIR_SHIELD(WEIR_FOREVER);
    return weir_wait_fd(call->fd, WEIR_READ, weir_in_ms(KILL_MS), NULL);
}

static weir_status tell_given_up(weir_status why, const struct helper_end *end, weir_error *err)
{
    if (!end)
        return weir_error_set(err, why, "gave up on a helper process (%s), which does not die: the "
                                        "kernel will let it go when what it waits for has come",
                              weir_status_name(why));
    return weir_error_set(err, why, "gave up on helper process %d (%s), and had it killed",
                          (int)end->pid, weir_status_name(why));
}

static weir_status await_end(struct helper_call *call, weir_deadline deadline, weir_error *err)
{
    struct helper_end end;
    weir_status       status = weir_wait_fd(call->fd, WEIR_READ, deadline, NULL);

    if (status == WEIR_OK || have_it_killed(call) == WEIR_OK) {
        if (recv(call->fd, &end, sizeof end, MSG_DONTWAIT) != (ssize_t)sizeof end)
            return lost(call, err);
        if (status == WEIR_OK || call->memory->returned)
            return take_result(call, &end, err); /* the result wins over who gives up on it */
        call->of->pid = end.pid;
        call->of->wait_status = end.wait_status;
        return tell_given_up(status, &end, err);
    }
    return tell_given_up(status, NULL, err);
}

static weir_status call_helper(weir_process_call *of, weir_deadline deadline, weir_error *err)
{
    struct helper_call call = { .of = of,
                                .size = helper_memory_size(of->in_size, of->out_room) };

    int memory_fd = share_memory(&call);
    if (memory_fd < 0)
        return no_resource("memory to share", errno, err);
    weir_status status = place_order(&call, memory_fd, err);
    close(memory_fd);
    if (status == WEIR_OK) {
        status = await_end(&call, deadline, err);
        weir_close(call.fd);
    }
    munmap(call.memory, call.size);
    return status;
}

static void count(weir_status status)
{
    pthread_mutex_lock(&lock);
    counts.done += status == WEIR_OK;
    counts.killed += status == WEIR_TIMEOUT || status == WEIR_CANCELED;
    counts.failed += status != WEIR_OK && status != WEIR_TIMEOUT && status != WEIR_CANCELED;
    pthread_mutex_unlock(&lock);
}

/* ---- the public face -------------------------------------------------------------------- */

/* We are in a helper: one is enough. */
static weir_status call_here(weir_process_call *call, weir_error *err)
{
    ssize_t result = call->fn(call->in, call->in_size, call->out, call->out_room);

    call->pid = getpid();
    if (result >= 0 && (size_t)result <= call->out_room) {
        call->out_size = (size_t)result;
        return WEIR_OK;
    }
    weir_error_set(err, WEIR_FAILED, "the function returned %lld in helper process %d",
                   (long long)result, (int)call->pid);
    return failed((int)-result, err);
}

weir_status weir_offload_process(weir_process_call *call, weir_deadline deadline, weir_error *err)
{
    enum { MOST = 1 << 30 };

    call->out_size = 0;
    call->pid = 0;
    call->wait_status = 0;
    if (!call->fn || (call->in_size && !call->in) || (call->out_room && !call->out))
        return weir_error_set(err, WEIR_USAGE, "a call needs fn, and in and out where they have "
                                               "a size");
    if (call->in_size > MOST || call->out_room > MOST)
        return weir_error_set(err, WEIR_USAGE, "a call takes 1 GiB each way at most: hand over the "
                                               "name of a file instead");
    if (forkserver_is_helper())
        return call_here(call, err);
    weir_status status = weir_check();
    if (status == WEIR_OK)
        status = take_place(deadline);
    if (status != WEIR_OK)
        return weir_error_set(err, status, "gave up waiting for a place among the helper "
                                           "processes: %s", weir_status_name(status));
    status = call_helper(call, deadline, err);
    give_place();
    count(status);
    return status;
}

void weir_process_limit(unsigned max_at_once)
{
    pthread_mutex_lock(&lock);
    places = max_at_once ? max_at_once : 1;
    places = places < HELPERS_MAX ? places : HELPERS_MAX;
    serve_waiters();
    pthread_mutex_unlock(&lock);
}

void weir_process_stats_read(weir_process_stats *out)
{
    pthread_mutex_lock(&lock);
    *out = (weir_process_stats){ server.pid,  running,       waiting,      places,
                                 counts.done, counts.failed, counts.killed };
    pthread_mutex_unlock(&lock);
}

/* ---- around a fork ------------------------------------------------------------------ */

void helpers_hold(void)
{
    pthread_mutex_lock(&lock);
}

void helpers_let_go(void)
{
    pthread_mutex_unlock(&lock);
}

/* The server is the parent's: the child gets one of its own when it asks. */
void helpers_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    if (server.pid)
        close(server.control);
    server.pid = 0;
    list_init(&waiters);
    running = waiting = 0;
}
