/*
 * dial.c - a stream's way to its server: name, socket, connect, TLS.
 *
 * Knows:   addresses, non-blocking connects, the order of the steps.
 * Ignores: who waits for it (stream.c), what is said afterwards.
 *
 * The library asks for a stream to each member of a replica set, one after the other, with a
 * lock held, and then polls them all. So the answer is given at once, and each stream is
 * connected by a coroutine of its own, its dialler: a member that is a black hole holds up
 * nobody, and no name is looked up on the hub. The answer is never NULL, which would hang this
 * thread with libmongoc before 1.24.3: it takes that lock a second time then.
 *
 * A dialler whose stream is given up meanwhile finds it dead whenever it wakes, and must touch
 * nothing but the stream then: client, pool and settings may be gone.
 */
#include "mongo_internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STEP_WAIT_MS = 20 }; /* for a thread to be free */

/* ---- one address ------------------------------------------------------------------- */

static bool alive(const struct mo_stream *stream)
{
    return stream->state == MO_DIALLING;
}

static void set_options(int fd, int family)
{
    int yes = 1;

    if (family == AF_UNIX)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
}

static int outcome_of(int fd)
{
    int       errnum = 0;
    socklen_t size = sizeof errnum;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &size);
    return errnum;
}

static void drop_socket(struct mo_stream *stream)
{
    if (stream->fd >= 0)
        weir_close(stream->fd);
    stream->fd = -1;
}

/* The queue of a Unix socket is full: the kernel refuses instead of waiting. */
static int connect_when_possible(struct mo_stream *stream, const struct sockaddr *address,
                                 socklen_t size, weir_deadline until)
{
    for (int64_t pause_ms = 1;; pause_ms = pause_ms < 64 ? pause_ms * 2 : 100) {
        if (connect(stream->fd, address, size) == 0)
            return 0;
        weir_deadline next = weir_in_ms(pause_ms);
        if (errno != EAGAIN || next.at_ns >= until.at_ns)
            return errno;
        if (weir_sleep(next) != WEIR_OK || !alive(stream))
            return ECANCELED;
    }
}

/* Returns an errno. */
static int connect_to(struct mo_stream *stream, const struct sockaddr *address, socklen_t size,
                      weir_deadline until)
{
    stream->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (stream->fd < 0)
        return errno;
    set_options(stream->fd, address->sa_family);
    int errnum = connect_when_possible(stream, address, size, until);
    if (errnum == EINPROGRESS) {
        weir_status status = weir_wait_fd(stream->fd, WEIR_WRITE, until, NULL);
        if (!alive(stream))
            return ECANCELED;
        errnum = status == WEIR_OK ? outcome_of(stream->fd) : ETIMEDOUT;
    }
    if (errnum && alive(stream))
        drop_socket(stream);
    return errnum;
}

/* ---- a host ------------------------------------------------------------------------ */

/* False: the words are in *err. */
static bool say(weir_error *err, int errnum)
{
    weir_error_set(err, WEIR_CONNECT, "%s", strerror(errnum));
    err->native = errnum;
    return errnum == 0;
}

static bool connect_unix(struct mo_stream *stream, weir_deadline until, weir_error *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(stream->host) >= sizeof address.sun_path)
        return say(err, ENAMETOOLONG);
    strcpy(address.sun_path, stream->host);
    return say(err, connect_to(stream, (struct sockaddr *)&address, sizeof address, until));
}

/* No address gets all the time there is, while another is left that may do better. */
static weir_deadline part_of(weir_deadline until, const struct addrinfo *at)
{
    int64_t addresses = 0, now = weir_in_ms(0).at_ns;

    for (; at; at = at->ai_next)
        addresses++;
    return weir_deadline_at(now + (until.at_ns - now) / addresses);
}

static bool connect_host(struct mo_stream *stream, weir_deadline until, weir_error *err)
{
    const struct addrinfo hints = { .ai_family = stream->family, .ai_socktype = SOCK_STREAM };
    struct addrinfo      *found;
    char                  port[8];
    int                   errnum = EHOSTUNREACH;

    snprintf(port, sizeof port, "%u", stream->port);
    if (weir_resolve(stream->host, port, &hints, until, &found, err) != WEIR_OK)
        return false;
    for (struct addrinfo *at = found; at && alive(stream); at = at->ai_next) {
        errnum = connect_to(stream, at->ai_addr, at->ai_addrlen, part_of(until, at));
        if (errnum == 0 || mo_is_shortage(errnum))
            break;
    }
    freeaddrinfo(found);
    return say(err, errnum);
}

/* ---- TLS --------------------------------------------------------------------------- */

/*
 * On another thread, since it takes a millisecond. Where those are all busy with what blocks, it
 * is no worse to do it here than not to be connected.
 *
 * False: the stream was given up meanwhile, and its tls is gone.
 */
static bool step(struct mo_stream *stream, enum mo_tls_want *want)
{
    struct mo_tls *tls = stream->tls;
    weir_status    status = weir_offload(mo_tls_step, tls, weir_in_ms(STEP_WAIT_MS));

    if (status != WEIR_OK && alive(stream))
        mo_tls_step(tls);
    *want = mo_tls_step_end(tls);
    return alive(stream);
}

static bool shake_hands(struct mo_stream *stream, struct mo_tls_context *context,
                        weir_deadline until, weir_error *err)
{
    stream->tls = mo_tls_new(context, stream->fd, stream->host);
    if (!stream->tls)
        return say(err, ENOMEM);
    for (;;) {
        enum mo_tls_want want = mo_tls_step_begin(stream->tls);
        while (want == MO_TLS_STEP)
            if (!step(stream, &want))
                return false;
        if (want == MO_TLS_DONE)
            return true;
        if (want == MO_TLS_FAILED) {
            weir_error_set(err, WEIR_CONNECT, "TLS: %s", mo_tls_why(stream->tls));
            return false;
        }
        weir_status status = weir_wait_fd(
            stream->fd, want == MO_TLS_READ ? WEIR_READ : WEIR_WRITE, until, NULL);
        if (!alive(stream))
            return false;
        if (status != WEIR_OK) {
            weir_error_set(err, WEIR_CONNECT, "the TLS handshake did not end in time");
            return false;
        }
    }
}

/* What is plain text by default stays on this machine; the members of a set tell where they are. */
static bool may_be_plain(const struct mo_stream *stream, weir_error *err)
{
    const struct mo_config *config = stream->client->config;

    if (config->tls || config->plain_anywhere || mo_is_local(stream->family, stream->host))
        return true;
    weir_error_set(err, WEIR_CONNECT, "this member is on another machine, to which nothing goes in "
                   "plain text unless asked for: say tls=true, or tls=false, in the URI");
    return false;
}

/* ---- the whole --------------------------------------------------------------------- */

/* Nobody's failure: this process, or this machine, has no more of something just now. */
static int shortage_in(const weir_error *err)
{
    if (mo_is_shortage(err->native))
        return err->native;
    if (strncmp(err->message, "cannot look up", 14) != 0)
        return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* a lookup needs descriptors, too */
    int errnum = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return mo_is_shortage(errnum) ? errnum : 0;
}

static void give_up(struct mo_stream *stream, const weir_error *err)
{
    struct mo_client *client = stream->client;
    int               shortage = shortage_in(err);

    if (shortage)
        client->shortage = shortage;
    if (stream->family == AF_UNIX)
        mo_trouble(client, "%s: %s", stream->host, err->message);
    else
        mo_trouble(client, "%s:%u: %s", stream->host, stream->port, err->message);
    mo_stream_hang_up(stream, err->native ? err->native : ECONNREFUSED);
}

static bool dial(struct mo_stream *stream, weir_error *err)
{
    struct mo_config *config = stream->client->config;
    weir_deadline     until = weir_in_ms(config->connect_ms);

    if (!may_be_plain(stream, err))
        return false;
    if (!(stream->family == AF_UNIX ? connect_unix(stream, until, err)
                                    : connect_host(stream, until, err)))
        return false;
    if (!alive(stream) || (config->tls && !shake_hands(stream, config->tls, until, err)))
        return false;
    stream->buffer = malloc(MO_BUFFER);
    if (!stream->buffer || mo_stream_watch(stream) != WEIR_OK)
        return say(err, ENOMEM);
    return true;
}

static weir_status dialler(void *arg)
{
    struct mo_stream *stream = arg;
    weir_error        err = { 0 };

    bool connected = alive(stream) && dial(stream, &err);
    stream->dialler = NULL;
    if (alive(stream) && connected) {
        stream->state = MO_READY;
        mo_wake_poller(stream->client);
    } else if (alive(stream)) {
        give_up(stream, &err);
    }
    mo_stream_free(stream);
    return WEIR_OK;
}

void mo_dial(struct mo_stream *stream)
{
    const weir_spawn_opts opts = { .name = "mongo dialler" };

    stream->state = MO_DIALLING;
    stream->refs++;
    stream->dialler = weir_spawn_with(NULL, &opts, dialler, stream);
    if (stream->dialler)
        return;
    stream->refs--;
    mo_trouble(stream->client, "no memory to connect to %s:%u", stream->host, stream->port);
    mo_stream_hang_up(stream, ENOMEM);
}

/* ---- the library's wish ------------------------------------------------------------ */

/* With the client at its end, or without a descriptor to be had, it gets one that fails. */
static void begin(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;

    if (!client->conn || client->cut.status || client->closing || !mo_may_talk(client)) {
        mo_stream_hang_up(stream, ECANCELED);
    } else if (client->tokens) {
        client->tokens--;
        stream->paid = true;
        mo_dial(stream);
    }
}

mongoc_stream_t *mo_initiate(const mongoc_uri_t *uri, const mongoc_host_list_t *host, void *arg,
                             bson_error_t *error)
{
    struct mo_client *client = arg;
    struct mo_stream *stream = mo_stream_new(client);

    (void)uri;
    (void)error;
    if (!stream) {
        mo_trouble(client, "no memory to connect to %s", host->host_and_port);
        return &client->stillborn->vt;
    }
    list_append(&client->streams, &stream->link);
    stream->family = host->family;
    stream->port = host->port;
    snprintf(stream->host, sizeof stream->host, "%s", host->host);
    begin(stream);
    return &stream->vt;
}
