/*
 * relay.c - a network that can fail, in front of a server that must not be touched.
 *
 * Knows:   forwarding TCP, three faults and a delay, and the first packet of a MySQL connection:
 *          in it the server tells the connection's number, always in plain text, and by these
 *          numbers this soak's connections can be found among others of the same account.
 * Ignores: everything after that packet; with other protocols these numbers mean nothing.
 *
 * It is a process of its own, steered through shared memory, because its descriptors (two a
 * connection) must not count against the soak's few. It ends with the soak in any case. The
 * loop comes round every few milliseconds even when nothing moves: orders arrive in memory.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINKS = 1024, CHUNK = 16 * 1024, ROUND_MS = 5, NUMBERS = 65536 };

struct relay {
    pid_t                   pid;
    unsigned                port;
    struct sockaddr_storage to;
    socklen_t               to_size;

    /* orders */
    atomic_uint cuts; /* counts up: end all links */
    atomic_bool stalled, refusing;
    atomic_uint delay_ms; /* of what comes from the server */

    /* news */
    atomic_uint      links; /* there are now */
    atomic_uint      heard; /* numbers of connections, the last NUMBERS of them kept */
    _Atomic uint32_t number[NUMBERS];
};

struct flow { /* one direction of a link */
    size_t  size; /* bytes in data */
    size_t  sent; /* of those, passed on */
    bool    ended;
    int64_t due_ns; /* not passed on before */
    char    data[CHUNK];
};

struct link {
    bool        used;
    bool        greeted;
    int         client, server;
    struct flow down, up; /* down: from the server */
};

/* In the child only; in the parent these pages are never touched. */
static struct link   links[LINKS];
static struct pollfd polled[1 + 2 * LINKS];

/* ---- in the child ------------------------------------------------------------------- */

static void reset_and_close(int fd)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void end_link(struct relay *r, struct link *l, bool rudely)
{
    if (rudely) {
        reset_and_close(l->client);
        reset_and_close(l->server);
    } else {
        close(l->client);
        close(l->server);
    }
    l->used = false;
    atomic_fetch_sub(&r->links, 1);
}

static void link_up(struct relay *r, int client)
{
    unsigned i = 0;
    int      one = 1;
    int      server;

    while (i < LINKS && links[i].used)
        i++;
    server = i < LINKS ? socket(r->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
                       : -1;
    /* A connect under way is no hurry: sending says EAGAIN until it is there. */
    if (server < 0 || (connect(server, (struct sockaddr *)&r->to, r->to_size) &&
                       errno != EINPROGRESS)) {
        reset_and_close(client);
        if (server >= 0)
            close(server);
        return;
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (r->to.ss_family != AF_UNIX)
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

    struct link *l = &links[i];
    l->used = true;
    atomic_fetch_add(&r->links, 1);
    l->greeted = false;
    l->client = client;
    l->server = server;
    l->down.size = l->down.sent = l->up.size = l->up.sent = 0;
    l->down.ended = l->up.ended = false;
    l->down.due_ns = l->up.due_ns = 0;
}

static void accept_all(struct relay *r, int listener)
{
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
            return;
        if (atomic_load(&r->refusing))
            reset_and_close(client);
        else
            link_up(r, client);
    }
}

/* Length (3 bytes), sequence, 10, the version's text and its zero, the number. */
static void hear_greeting(struct relay *r, struct link *l)
{
    const unsigned char *p = (const unsigned char *)l->down.data;
    const unsigned char *end = p + l->down.size;
    const unsigned char *zero;

    if (l->greeted)
        return;
    l->greeted = true;
    if (l->down.size < 10 || p[4] != 10)
        return; /* an error instead of a greeting: this connection never was one */
    zero = memchr(p + 5, 0, l->down.size - 5);
    if (!zero || end - zero < 5)
        return;

    uint32_t number = zero[1] | (uint32_t)zero[2] << 8 | (uint32_t)zero[3] << 16 |
                      (uint32_t)zero[4] << 24;
    unsigned slot = atomic_fetch_add(&r->heard, 1);
    atomic_store(&r->number[slot % NUMBERS], number);
}

/* False when the link is broken. */
static bool take_in(int from, struct flow *f)
{
    if (f->size || f->ended)
        return true;
    ssize_t n = recv(from, f->data, sizeof f->data, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    f->size = (size_t)n;
    f->sent = 0;
    f->ended = n == 0;
    return true;
}

static bool is_due(const struct flow *f)
{
    return !f->due_ns || watch_clock_ns() >= f->due_ns;
}

static bool pass_on(int to, struct flow *f)
{
    if (!f->size || !is_due(f))
        return true;
    ssize_t n = send(to, f->data + f->sent, f->size - f->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
    f->sent += (size_t)n;
    if (f->sent == f->size)
        f->size = 0;
    return true;
}

static void move(struct relay *r, struct link *l)
{
    bool     was_empty = !l->down.size;
    unsigned delay_ms = atomic_load(&r->delay_ms);
    bool     well = take_in(l->client, &l->up) && pass_on(l->server, &l->up) &&
                take_in(l->server, &l->down);

    if (was_empty && l->down.size && delay_ms)
        l->down.due_ns = watch_clock_ns() + INT64_C(1000000) * delay_ms;
    if (well && l->down.size)
        hear_greeting(r, l);
    well = well && pass_on(l->client, &l->down);
    /* Nobody here shuts down only one side: the end of either, once delivered, is the end. */
    if (!well || (l->up.ended && !l->up.size) || (l->down.ended && !l->down.size))
        end_link(r, l, !well);
}

static short wanted(const struct flow *in, const struct flow *out)
{
    return (short)((in->size || in->ended ? 0 : POLLIN) | (out->size && is_due(out) ? POLLOUT : 0));
}

static nfds_t fill_polled(const struct relay *r, int listener)
{
    nfds_t n = 0;

    if (atomic_load(&r->stalled))
        return 0;
    polled[n++] = (struct pollfd){ .fd = listener, .events = POLLIN };
    for (unsigned i = 0; i < LINKS; i++) {
        struct link *l = &links[i];
        if (!l->used)
            continue;
        polled[n++] = (struct pollfd){ .fd = l->client, .events = wanted(&l->up, &l->down) };
        polled[n++] = (struct pollfd){ .fd = l->server, .events = wanted(&l->down, &l->up) };
    }
    return n;
}

static void serve(struct relay *r, int listener)
{
    unsigned cuts_seen = 0;

    for (;;) {
        poll(polled, fill_polled(r, listener), ROUND_MS);
        unsigned cuts = atomic_load(&r->cuts);
        for (unsigned i = 0; i < LINKS; i++) {
            if (!links[i].used)
                continue;
            if (cuts != cuts_seen)
                end_link(r, &links[i], true);
            else if (!atomic_load(&r->stalled))
                move(r, &links[i]);
        }
        cuts_seen = cuts;
        if (!atomic_load(&r->stalled))
            accept_all(r, listener);
    }
}

static void be_the_relay(struct relay *r, int listener, pid_t parent)
{
    struct rlimit files;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    setpgid(0, 0); /* an interrupt at the terminal is for the soak, which then ends us */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    dup2(listener, 3);
    close_range(4, ~0U, 0);
    serve(r, 3);
}

/* ---- in the soak -------------------------------------------------------------------- */

static bool find_address(const struct target *t, struct relay *r, char *why, size_t size)
{
    struct addrinfo  hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    char             port[12];
    int              status;

    if (t->socket[0]) {
        struct sockaddr_un *un = (struct sockaddr_un *)&r->to;
        if (strlen(t->socket) >= sizeof un->sun_path) {
            snprintf(why, size, "the path of the Unix socket is too long");
            return false;
        }
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, t->socket);
        r->to_size = sizeof *un;
        return true;
    }
    snprintf(port, sizeof port, "%u", t->port);
    status = getaddrinfo(t->host, port, &hints, &found);
    if (status) {
        snprintf(why, size, "%s: %s", t->host, gai_strerror(status));
        return false;
    }
    memcpy(&r->to, found->ai_addr, found->ai_addrlen);
    r->to_size = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static int listen_on_loopback(unsigned *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t          size = sizeof a;
    int                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 512) ||
        getsockname(fd, (struct sockaddr *)&a, &size)) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

struct relay *relay_start(const struct target *target, char *why, size_t size)
{
    struct relay *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                           -1, 0);
    if (r == MAP_FAILED) {
        snprintf(why, size, "no memory for the relay");
        return NULL;
    }
    if (!find_address(target, r, why, size)) {
        munmap(r, sizeof *r);
        return NULL;
    }

    pid_t parent = getpid();
    int   listener = listen_on_loopback(&r->port);
    pid_t child = listener < 0 ? -1 : fork();
    if (child == 0)
        be_the_relay(r, listener, parent);
    if (listener >= 0)
        close(listener);
    r->pid = child; /* by the parent alone: the memory is shared */
    if (child < 0) {
        snprintf(why, size, "the relay could not be started: %s", strerror(errno));
        munmap(r, sizeof *r);
        return NULL;
    }
    return r;
}

void relay_stop(struct relay *relay)
{
    if (!relay || relay->pid <= 0)
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

void relay_stall(struct relay *relay, bool on)
{
    atomic_store(&relay->stalled, on);
}

void relay_refuse(struct relay *relay, bool on)
{
    atomic_store(&relay->refusing, on);
}

void relay_delay(struct relay *relay, unsigned ms)
{
    atomic_store(&relay->delay_ms, ms);
}

unsigned relay_links(const struct relay *relay)
{
    return atomic_load(&relay->links);
}

bool relay_knows(const struct relay *relay, uint32_t connection_id)
{
    unsigned heard = atomic_load(&relay->heard);

    for (unsigned i = 0; i < heard && i < NUMBERS; i++)
        if (atomic_load(&relay->number[i]) == connection_id)
            return true;
    return false;
}
