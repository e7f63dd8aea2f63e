/*
 * mongo_mock_server.c - the process: who gets in, and what goes wrong.
 *
 * Knows:   listeners that refuse or swallow, a thread for each connection, and the deeds that a
 *          test may order instead of an answer.
 * Ignores: what the answers say.
 *
 * A connection that the server has "closed" is half closed: it has sent its FIN, and goes on
 * reading until the client closes too. So it can tell how much a client still sends on a
 * connection that is over, which should be nothing.
 *
 * The port of a member is kept while its door is shut, by a socket that is bound to it and does
 * not listen; so nobody else can get it, and a client is refused.
 */
#define _GNU_SOURCE
#include "mongo_mock_inside.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 1024, FILLERS = 4, PIECES = 3, PIECE_MS = 20, STACK = 256 * 1024 };

struct conn {
    struct mock_session session;
    int                 fd;
    SSL                *tls;
    atomic_bool         over;    /* nothing is sent any more, and what comes is late */
    atomic_bool         counted; /* among the open ones */
    struct conn        *next, **link;
};

struct door {
    int             fd; /* the same number in every state */
    int             now;
    int             filler[FILLERS];
    unsigned        fillers;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
};

static struct mock_shared *shared;
static SSL_CTX            *tls_context;
static struct door         doors[MOCK_MEMBERS];
static struct conn        *conns;
static pthread_mutex_t     conns_lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what, const char *detail)
{
    snprintf(shared->why, sizeof shared->why, "%s: %s", what, detail);
    atomic_store(&shared->state, MOCK_FAILED);
    _exit(1);
}

static void sleep_ms(unsigned ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

unsigned mock_name(struct mock_shared *in, const char *name)
{
    unsigned i = 0;

    pthread_mutex_lock(&in->lock);
    while (i < in->names && strcmp(in->name[i], name) != 0)
        i++;
    if (i == in->names && i < MOCK_NAMES)
        snprintf(in->name[in->names++], MOCK_NAME, "%s", name);
    pthread_mutex_unlock(&in->lock);
    return i;
}

void mock_count_command(struct mock_member *m, unsigned name)
{
    if (name < MOCK_NAMES)
        atomic_fetch_add(&m->seen[name], 1);
    atomic_fetch_add(&m->commands, 1);
}

/* ---- bytes of a connection ---------------------------------------------------------- */

static struct mock_member *member_of(const struct conn *c)
{
    return &shared->member[c->session.member];
}

/* `size` bytes; false at the end of the connection, or when it is over meanwhile. */
static bool take(struct conn *c, void *out, size_t size)
{
    uint8_t *to = out;
    while (size) {
        ssize_t n = c->tls ? SSL_read(c->tls, to, size > INT32_MAX ? INT32_MAX : (int)size)
                           : recv(c->fd, to, size, 0);
        if (n <= 0)
            return false;
        if (atomic_load(&c->over)) {
            atomic_fetch_add(&member_of(c)->late_bytes, (unsigned long long)n);
            return false;
        }
        to += n;
        size -= (size_t)n;
    }
    return true;
}

static bool give(struct conn *c, const uint8_t *data, size_t size)
{
    while (size) {
        if (atomic_load(&c->over))
            return false;
        ssize_t n = c->tls ? SSL_write(c->tls, data, size > INT32_MAX ? INT32_MAX : (int)size)
                           : send(c->fd, data, size, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

static void count_as_closed(struct conn *c)
{
    if (atomic_exchange(&c->counted, false))
        atomic_fetch_sub(&member_of(c)->open, 1);
}

static void close_our_side(struct conn *c)
{
    atomic_store(&c->over, true);
    shutdown(c->fd, SHUT_WR);
    count_as_closed(c);
}

/* What still comes, until the client closes. */
static void drain(struct conn *c)
{
    char    rest[4096];
    ssize_t n;
    while ((n = recv(c->fd, rest, sizeof rest, 0)) > 0)
        atomic_fetch_add(&member_of(c)->late_bytes, (unsigned long long)n);
}

/* ---- deeds -------------------------------------------------------------------------- */

/* The rule for this command, as it stands now. */
static struct mock_shared_rule rule_for(const struct conn *c, const char *command)
{
    struct mock_member     *m = member_of(c);
    struct mock_shared_rule found = { .deed = MOCK_ANSWER };

    pthread_mutex_lock(&shared->lock);
    for (unsigned i = 0; i < m->rules; i++) {
        struct mock_shared_rule *r = &m->rule[i];
        if (r->command[0] && strcmp(r->command, command) != 0)
            continue;
        unsigned met = r->met++;
        if (met < r->skip || (r->times && met >= r->skip + r->times))
            continue;
        found = *r;
        break;
    }
    pthread_mutex_unlock(&shared->lock);
    return found;
}

/* After a reset there is nothing to listen to any more. */
static void close_as_told(struct conn *c, const struct mock_shared_rule *rule)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };
    if (rule->reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    else
        close_our_side(c);
}

static bool give_in_pieces(struct conn *c, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < PIECES; i++) {
        size_t from = size * i / PIECES, to = size * (i + 1) / PIECES;
        if (i)
            sleep_ms(PIECE_MS);
        if (!give(c, data + from, to - from))
            return false;
    }
    return true;
}

/* Answer one command, or do what is done instead. False: no more of this connection. */
static bool deal_with(struct conn *c, const struct mock_message *m)
{
    struct mock_shared_rule rule = rule_for(c, m->name);
    bson_t                  reply = BSON_INITIALIZER;
    size_t                  size;

    if (rule.deed == MOCK_FAIL)
        mock_fail(&reply, rule.code, rule.code_name, "as the test ordered");
    else if (rule.deed != MOCK_SILENT && rule.deed != MOCK_CLOSE)
        mock_reply(&c->session, m, &reply);
    if (rule.delay_ms)
        sleep_ms(rule.delay_ms);

    uint8_t *data = mock_pack(m, &reply, &size);
    bool     on = false;
    if (rule.deed == MOCK_SILENT || c->session.mute) {
        atomic_store(&c->over, true);
    } else if (rule.deed == MOCK_CLOSE) {
        close_as_told(c, &rule);
    } else if (rule.deed == MOCK_HALF) {
        (void)give(c, data, size / 2);
        close_as_told(c, &rule);
    } else if (m->flags & MORE_TO_COME) {
        on = true; /* no answer is wanted */
    } else if (rule.deed == MOCK_PIECES) {
        on = give_in_pieces(c, data, size);
    } else {
        if (rule.deed == MOCK_STRAY)
            mock_number(data + 8, m->id + 1);
        on = give(c, data, size);
    }
    free(data);
    bson_destroy(&reply);
    return on;
}

static void serve(struct conn *c)
{
    uint8_t *data = NULL;
    bool     on = true;

    while (on) {
        struct mock_message m;
        uint8_t             head[4];
        if (!take(c, head, sizeof head))
            break;
        int32_t size = mock_read_number(head);
        if (size < 16 || size > MOCK_MESSAGE_MAX + 16384)
            goto broken;
        data = realloc(data, (size_t)size);
        if (!data)
            abort();
        memcpy(data, head, sizeof head);
        if (!take(c, data + 4, (size_t)size - 4))
            break;
        if (!mock_parse(&m, data, (size_t)size))
            goto broken;
        mock_count_command(member_of(c), mock_name(shared, m.name));
        on = deal_with(c, &m);
    }
    if (atomic_load(&c->over))
        drain(c);
    free(data);
    return;

broken:
    atomic_fetch_add(&member_of(c)->broken, 1);
    free(data);
}

/* ---- connections -------------------------------------------------------------------- */

static void conns_add(struct conn *c)
{
    pthread_mutex_lock(&conns_lock);
    c->next = conns;
    c->link = &conns;
    if (conns)
        conns->link = &c->next;
    conns = c;
    pthread_mutex_unlock(&conns_lock);
}

static void conns_remove(struct conn *c)
{
    pthread_mutex_lock(&conns_lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    pthread_mutex_unlock(&conns_lock);
}

static void note_peer(struct conn *c)
{
    X509 *cert = c->tls ? SSL_get1_peer_certificate(c->tls) : NULL;
    BIO  *text = cert ? BIO_new(BIO_s_mem()) : NULL;

    if (text && X509_NAME_print_ex(text, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) > 0)
        c->session.peer[BIO_read(text, c->session.peer, sizeof c->session.peer - 1)] = 0;
    BIO_free(text);
    X509_free(cert);
}

/* A refusal is read to the end by whom it is for: closing a socket with a request unread would be a
   reset, with which the kernel drops the alert. */
static void part_gently(struct conn *c)
{
    struct timeval second = { 1, 0 };
    char           rest[512];

    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    shutdown(c->fd, SHUT_WR);
    while (recv(c->fd, rest, sizeof rest, 0) > 0)
        continue;
}

static void *conn_main(void *arg)
{
    struct conn *c = arg;

    if (tls_context) {
        c->tls = SSL_new(tls_context);
        SSL_set_fd(c->tls, c->fd);
    }
    if (!c->tls || SSL_accept(c->tls) == 1) {
        note_peer(c);
        serve(c);
    } else if (atomic_load(&c->over)) {
        drain(c);
    } else {
        part_gently(c);
    }
    conns_remove(c);
    count_as_closed(c);
    SSL_free(c->tls); /* sends nothing */
    close(c->fd);
    free(c);
    return NULL;
}

static void conn_begin(int member, int fd)
{
    struct conn   *c = calloc(1, sizeof *c);
    pthread_attr_t attr;
    pthread_t      thread;
    int            one = 1;

    if (!c)
        abort();
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on a Unix socket */
    c->fd = fd;
    c->session.shared = shared;
    c->session.member = member;
    c->counted = true;
    atomic_fetch_add(&shared->member[member].accepted, 1);
    atomic_fetch_add(&shared->member[member].open, 1);
    conns_add(c);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK);
    if (pthread_create(&thread, &attr, conn_main, c))
        abort();
    pthread_attr_destroy(&attr);
}

static void cut(int member)
{
    pthread_mutex_lock(&conns_lock);
    for (struct conn *c = conns; c; c = c->next)
        if (c->session.member == member)
            close_our_side(c);
    pthread_mutex_unlock(&conns_lock);
}

/* ---- doors -------------------------------------------------------------------------- */

static socklen_t address_of(int member, unsigned port, struct sockaddr_storage *out)
{
    struct sockaddr_un *un = (struct sockaddr_un *)out;
    struct sockaddr_in *in = (struct sockaddr_in *)out;

    memset(out, 0, sizeof *out);
    if (member == 0 && shared->unix_path[0]) {
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", shared->unix_path);
        return sizeof *un;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)port);
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *in;
}

static int bound_socket(int member, unsigned port)
{
    struct sockaddr_storage a;
    socklen_t               size = address_of(member, port, &a);
    int                     one = 1, fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        give_up("socket", strerror(errno));
    if (a.ss_family == AF_UNIX)
        unlink(shared->unix_path);
    else
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, size))
        give_up("bind", strerror(errno));
    return fd;
}

/* The kernel may give away a port it chose itself as soon as nobody listens; one that was asked
   for by number stays taken while a socket is bound to it. */
static int bound_for_good(int member, unsigned *port)
{
    struct sockaddr_in a;
    socklen_t          size = sizeof a;
    int                drawn = bound_socket(member, 0);

    if (member == 0 && shared->unix_path[0])
        return drawn;
    if (getsockname(drawn, (struct sockaddr *)&a, &size))
        give_up("getsockname", strerror(errno));
    *port = ntohs(a.sin_port);
    int fd = bound_socket(member, *port);
    close(drawn);
    return fd;
}

/* Knock until the queue takes no more. */
static void fill_queue(int member, struct door *d)
{
    struct sockaddr_storage a;
    socklen_t               size = address_of(member, shared->member[member].port, &a);

    while (d->fillers < FILLERS) {
        int fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            give_up("socket", strerror(errno));
        if (connect(fd, (struct sockaddr *)&a, size) && errno != EINPROGRESS) {
            close(fd);
            return;
        }
        d->filler[d->fillers++] = fd;
    }
}

/*
 * Whoever is accepting is sent away from the old listener by shutting it down; then another is
 * put in its place, under the same number, unless nobody is to listen.
 */
static void set_door(int member, int wanted)
{
    struct door *d = &doors[member];

    pthread_mutex_lock(&d->lock);
    d->now = MOCK_REFUSES;
    pthread_mutex_unlock(&d->lock);
    shutdown(d->fd, SHUT_RDWR);
    while (d->fillers)
        close(d->filler[--d->fillers]);
    if (wanted == MOCK_REFUSES)
        return;

    int fresh = bound_socket(member, shared->member[member].port);
    dup3(fresh, d->fd, O_CLOEXEC);
    close(fresh);
    if (listen(d->fd, wanted == MOCK_BLACK_HOLE ? 0 : BACKLOG))
        give_up("listen", strerror(errno));
    if (wanted == MOCK_BLACK_HOLE)
        fill_queue(member, d);
    pthread_mutex_lock(&d->lock);
    d->now = wanted;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static void *accept_main(void *arg)
{
    struct door *d = arg;
    int          member = (int)(d - doors);

    for (;;) {
        pthread_mutex_lock(&d->lock);
        while (d->now != MOCK_OPEN)
            pthread_cond_wait(&d->changed, &d->lock);
        pthread_mutex_unlock(&d->lock);
        int fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            conn_begin(member, fd);
        else if (errno == EMFILE || errno == ENFILE)
            sleep_ms(1);
    }
    return NULL;
}

static void open_door(int member)
{
    struct door *d = &doors[member];
    pthread_t    thread;

    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->fd = bound_for_good(member, &shared->member[member].port);
    if (listen(d->fd, BACKLOG))
        give_up("listen", strerror(errno));
    d->now = MOCK_OPEN;
    if (!shared->ready_answers && pthread_create(&thread, NULL, accept_main, d))
        give_up("pthread_create", strerror(errno));
}

/* ---- the process -------------------------------------------------------------------- */

static void prepare_tls(void)
{
    if (!shared->tls_cert[0])
        return;
    tls_context = SSL_CTX_new(TLS_server_method());
    if (!tls_context ||
        SSL_CTX_use_certificate_chain_file(tls_context, shared->tls_cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls_context, shared->tls_key, SSL_FILETYPE_PEM) != 1)
        give_up("TLS certificate or key", shared->tls_cert);
    if (!shared->tls_clients[0])
        return;
    if (SSL_CTX_load_verify_file(tls_context, shared->tls_clients) != 1)
        give_up("TLS authority of clients", shared->tls_clients);
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_PEER, NULL);
}

/* A test may run with few descriptors; its server shall not. */
static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void *ready_main(void *arg)
{
    mock_serve_ready(shared, doors[0].fd);
    return arg;
}

/* Cuts come after doors: whoever is cut and comes again meets the door as it should be. */
static void carry_out_orders(void)
{
    static unsigned cuts[MOCK_MEMBERS];

    for (unsigned i = 0; i < shared->members; i++) {
        int door = atomic_load(&shared->member[i].door);
        if (door != doors[i].now)
            set_door((int)i, door);
    }
    for (unsigned i = 0; i < shared->members; i++) {
        unsigned wanted = atomic_load(&shared->member[i].cuts);
        if (wanted != cuts[i])
            cut((int)i);
        cuts[i] = wanted;
    }
}

static void futex_wait(atomic_uint *word, unsigned value)
{
    struct timespec second = { .tv_sec = 1 };
    syscall(SYS_futex, word, FUTEX_WAIT, value, &second, NULL, 0);
}

int main(void)
{
    pthread_t thread;

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, MOCK_SHARED_FD, 0);
    if (shared == MAP_FAILED) {
        fputs("weir-mongo-mock: it is started by tests, by mongo_mock_start()\n", stderr);
        return 2;
    }
    close(MOCK_SHARED_FD);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NAME, "weir-mongo-mock");
    raise_limit();
    prepare_tls();
    mock_scram_prepare();
    for (unsigned i = 0; i < shared->members; i++)
        open_door((int)i);
    if (shared->ready_answers && pthread_create(&thread, NULL, ready_main, NULL))
        give_up("pthread_create", strerror(errno));
    atomic_store(&shared->state, MOCK_UP);

    /* Once a second it looks whether the test still lives. */
    while (getppid() == shared->parent) {
        unsigned orders = atomic_load(&shared->orders);
        carry_out_orders();
        atomic_store(&shared->done, orders);
        futex_wait(&shared->orders, orders);
    }
    return 0;
}
