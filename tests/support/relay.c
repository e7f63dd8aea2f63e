/*
 * relay.c - see relay.h.
 *
 * One process, one poll loop, fixed arrays. A link is a pair of sockets with one buffer in
 * each direction; a buffer is read into only when it is empty, so "a chunk" keeps its shape,
 * can be held for a time, and a slow reader slows the sender down as a network would. The
 * loop comes round every 2 ms even when nothing moves, because orders arrive in memory.
 *
 * The parent may have threads when it forks, so the child calls nothing that takes a lock of
 * theirs: no stdio, no malloc.
 */
#define _GNU_SOURCE
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINKS = 256, CHUNK = 64 * 1024, ROUND_MS = 2 };

struct relay {
    pid_t    pid;
    unsigned port;
    unsigned target;

    /* orders */
    atomic_uint delay_ms, stall_after, half_after, bytes_per_s;
    atomic_bool reset, strip_tls;
    atomic_uint cuts; /* counts up: end all links */

    /* news */
    atomic_uint accepted, chunks;
};

struct flow { /* one direction of a link */
    char    data[CHUNK];
    size_t  size;   /* bytes in data */
    size_t  sent;   /* of those, passed on */
    int64_t due_ns; /* not before */
    bool    ended;  /* the sender has closed its side */
};

struct link {
    bool        used;
    int         client, server;
    unsigned    chunks; /* of the server, so far */
    struct flow down;   /* server to client */
    struct flow up;
};

/* In the child only; in the parent these pages are never touched. */
static struct link links[LINKS];

static int64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct sockaddr_in loopback(unsigned port)
{
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons((uint16_t)port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* ---- in the child ------------------------------------------------------------------- */

static void cut(struct relay *r, struct link *l)
{
    if (atomic_load(&r->reset)) {
        struct linger now = { .l_onoff = 1, .l_linger = 0 };
        setsockopt(l->client, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(l->client);
    close(l->server);
    l->used = false;
}

static void accept_one(struct relay *r, int listener)
{
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;

    struct sockaddr_in to = loopback(r->target);
    int                server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned           i = 0;
    while (i < LINKS && links[i].used)
        i++;
    if (i == LINKS || server < 0 || connect(server, (struct sockaddr *)&to, sizeof to)) {
        close(client);
        if (server >= 0)
            close(server);
        return;
    }

    int one = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(server, F_SETFL, O_NONBLOCK);

    struct link *l = &links[i];
    l->used = true;
    l->client = client;
    l->server = server;
    l->chunks = 0;
    l->down.size = l->down.sent = l->up.size = l->up.sent = 0;
    l->down.due_ns = l->up.due_ns = 0;
    l->down.ended = l->up.ended = false;
    atomic_fetch_add(&r->accepted, 1);
}

/* False when the link is at its end. */
static bool take_in(int from, struct flow *f)
{
    if (f->size || f->ended)
        return true;
    ssize_t n = recv(from, f->data, sizeof f->data, MSG_DONTWAIT);
    if (n > 0) {
        f->size = (size_t)n;
        f->sent = 0;
        return true;
    }
    if (n == 0) {
        f->ended = true;
        return true;
    }
    return errno == EAGAIN || errno == EINTR;
}

static bool pass_on(int to, struct flow *f)
{
    if (!f->size || clock_ns() < f->due_ns)
        return true;
    ssize_t n = send(to, f->data + f->sent, f->size - f->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    f->sent += (size_t)n;
    if (f->sent == f->size)
        f->size = 0;
    return true;
}

/* Protocol 10: the capability flags' lower half follows the version, id and first salt. */
static void strip_tls_flag(struct flow *f)
{
    char  *end = memchr(f->data + 5, 0, f->size > 5 ? f->size - 5 : 0);
    size_t flags = end ? (size_t)(end - f->data) + 1 + 4 + 8 + 1 : f->size;
    if (flags + 1 < f->size)
        f->data[flags + 1] &= (char)~0x08; /* CLIENT_SSL is 0x0800 */
}

/* A chunk of the server has come in: what becomes of it? False: the link is cut. */
static bool judge(struct relay *r, struct link *l)
{
    struct flow *f = &l->down;
    unsigned     rate = atomic_load(&r->bytes_per_s);
    unsigned     half = atomic_load(&r->half_after);

    l->chunks++;
    atomic_fetch_add(&r->chunks, 1);
    f->due_ns = clock_ns() + atomic_load(&r->delay_ms) * INT64_C(1000000);
    if (rate)
        f->due_ns += (int64_t)f->size * 1000000000 / rate;
    if (l->chunks == 1 && atomic_load(&r->strip_tls))
        strip_tls_flag(f);
    if (half && l->chunks > half) {
        send(l->client, f->data, f->size / 2, MSG_DONTWAIT | MSG_NOSIGNAL);
        return false;
    }
    return true;
}

static bool stalled(struct relay *r, const struct link *l)
{
    unsigned after = atomic_load(&r->stall_after);
    return after && l->chunks >= after && !l->down.size;
}

static bool move(struct relay *r, struct link *l)
{
    if (stalled(r, l))
        return true;

    bool fresh = !l->down.size;
    if (!take_in(l->server, &l->down) || !take_in(l->client, &l->up))
        return false;
    if (fresh && l->down.size && !judge(r, l))
        return false;
    if (!pass_on(l->client, &l->down) || !pass_on(l->server, &l->up))
        return false;
    /* Whoever closes ends both directions, once what was under way has arrived. */
    return !((l->down.ended && !l->down.size) || (l->up.ended && !l->up.size));
}

static void wait_for_news(struct relay *r, int listener)
{
    static struct pollfd fds[1 + 2 * LINKS];
    nfds_t               n = 0;

    fds[n++] = (struct pollfd){ .fd = listener, .events = POLLIN };
    for (unsigned i = 0; i < LINKS; i++) {
        struct link *l = &links[i];
        if (!l->used || stalled(r, l))
            continue;
        short down = l->down.size ? 0 : POLLIN;
        short up = l->up.size ? 0 : POLLIN;
        if (l->down.size && clock_ns() < l->down.due_ns)
            fds[n++] = (struct pollfd){ .fd = l->server, .events = 0 };
        else
            fds[n++] = (struct pollfd){ .fd = l->server, .events = down };
        fds[n++] = (struct pollfd){ .fd = l->client, .events = up };
    }
    poll(fds, n, ROUND_MS);
}

static void serve(struct relay *r, int listener)
{
    unsigned cuts = 0;
    for (;;) {
        wait_for_news(r, listener);
        accept_one(r, listener);
        bool cut_now = atomic_load(&r->cuts) != cuts;
        cuts = atomic_load(&r->cuts);
        for (unsigned i = 0; i < LINKS; i++)
            if (links[i].used && (cut_now || !move(r, &links[i])))
                cut(r, &links[i]);
    }
}

/* ---- in the test -------------------------------------------------------------------- */

static int listen_on_loopback(unsigned *port, int backlog)
{
    struct sockaddr_in a = loopback(0);
    socklen_t          size = sizeof a;
    int                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || (backlog >= 0 && listen(fd, backlog)) ||
        getsockname(fd, (struct sockaddr *)&a, &size)) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

void relay_set(struct relay *relay, const struct relay_faults *faults)
{
    atomic_store(&relay->delay_ms, faults->delay_ms);
    atomic_store(&relay->half_after, faults->half_after);
    atomic_store(&relay->bytes_per_s, faults->bytes_per_s);
    atomic_store(&relay->reset, faults->reset);
    atomic_store(&relay->strip_tls, faults->strip_tls);
    atomic_store(&relay->stall_after, faults->stall_after);
}

struct relay *relay_start(unsigned port, const struct relay_faults *faults)
{
    static const struct relay_faults none;
    struct relay *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED)
        return NULL;

    int   listener = listen_on_loopback(&r->port, 128);
    pid_t parent = getpid();
    r->target = port;
    relay_set(r, faults ? faults : &none);

    /* Not straight into r->pid: that is shared, and the child would write its 0 there. */
    pid_t pid = listener < 0 ? -1 : fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) {
            /* Whatever the test had open must not be held open by us. */
            int kept = dup2(listener, 0);
            fcntl(kept, F_SETFL, O_NONBLOCK);
            close_range(3, ~0U, 0);
            serve(r, kept);
        }
        _exit(0);
    }
    if (listener >= 0)
        close(listener);
    if (pid < 0) {
        munmap(r, sizeof *r);
        return NULL;
    }
    r->pid = pid;
    return r;
}

void relay_stop(struct relay *relay)
{
    if (!relay)
        return;
    kill(relay->pid, SIGKILL);
    waitpid(relay->pid, NULL, 0);
    munmap(relay, sizeof *relay);
}

unsigned relay_port(const struct relay *relay)
{
    return relay->port;
}

void relay_cut(struct relay *relay)
{
    atomic_fetch_add(&relay->cuts, 1);
}

unsigned relay_accepted(const struct relay *relay)
{
    return atomic_load(&relay->accepted);
}

unsigned relay_chunks(const struct relay *relay)
{
    return atomic_load(&relay->chunks);
}

/* ---- listeners ---------------------------------------------------------------------- */

bool listener_silent(struct listener *out)
{
    memset(out, 0, sizeof *out);
    out->fd = listen_on_loopback(&out->port, 64);
    return out->fd >= 0;
}

/* Connect without waiting: 0 when it is under way or done, else the errno. */
static int knock(struct listener *l, int family, const void *address, socklen_t size)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    if (connect(fd, address, size) && errno != EINPROGRESS) {
        int saved = errno;
        close(fd);
        return saved;
    }
    l->extra[l->extras++] = fd;
    return 0;
}

bool listener_full_tcp(struct listener *out)
{
    memset(out, 0, sizeof *out);
    out->fd = listen_on_loopback(&out->port, 0);
    if (out->fd < 0)
        return false;

    /* A queue of 0 takes one; from then on the kernel drops whatever knocks. */
    struct sockaddr_in a = loopback(out->port);
    for (unsigned i = 0; i < 3; i++)
        if (knock(out, AF_INET, &a, sizeof a))
            return false;
    return true;
}

static int bind_unix(struct sockaddr_un *a, const char *path)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof a->sun_path)
        return -1;
    strcpy(a->sun_path, path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)a, sizeof *a)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool listener_full_unix(struct listener *out, const char *path)
{
    struct sockaddr_un a;

    memset(out, 0, sizeof *out);
    out->fd = bind_unix(&a, path);
    if (out->fd < 0 || listen(out->fd, 0))
        return false;
    while (out->extras < 4)
        if (knock(out, AF_UNIX, &a, sizeof a) == EAGAIN)
            return true;
    return false;
}

void listener_close(struct listener *listener)
{
    for (unsigned i = 0; i < listener->extras; i++)
        close(listener->extra[i]);
    if (listener->fd > 0)
        close(listener->fd);
    memset(listener, 0, sizeof *listener);
}

unsigned port_refused(void)
{
    /* Bound and closed again, never listened on. */
    unsigned port = 0;
    int      fd = listen_on_loopback(&port, -1);
    if (fd >= 0)
        close(fd);
    return port;
}

bool socket_refused(const char *path)
{
    struct sockaddr_un a;
    int                fd = bind_unix(&a, path);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}
