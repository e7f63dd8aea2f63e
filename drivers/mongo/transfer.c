/*
 * transfer.c - bytes between a stream and its socket: waiting, giving way, what a loss means.
 *
 * Knows:   when to wait and when not to, how much may pass before others have a turn, why a
 *          transfer ended.
 * Ignores: the library's contract (stream.c), what the bytes say (message.c), TLS records
 *          (tls.c).
 *
 * A wait that a deadline or a cancel ends cuts the whole client: what was sent cannot be taken
 * back, and a reply that comes late would be read as another's.
 */
#include "mongo_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    BURST = 256 * 1024, /* bytes after which we give way: the kernel copies them in 50 us */
    RECORD = 2048       /* a request up to this size is put together before it is sent */
};

int mo_fail(struct mo_stream *stream, int errnum)
{
    stream->errnum = errnum;
    errno = errnum;
    return -1;
}

/* ---- how it ends ----------------------------------------------------------------------- */

/* The server, or the network, has ended it. An errnum of 0: in order. */
static int lose(struct mo_stream *stream, int errnum)
{
    struct mo_client *client = stream->client;
    const char       *why = stream->tls && errnum == EPROTO ? mo_tls_why(stream->tls) : "";

    client->flawed = true;
    if (errnum)
        mo_trouble(client, "the connection to %s:%u was lost: %s", stream->host, stream->port,
                   *why ? why : strerror(errnum));
    else
        mo_trouble(client, "%s:%u has closed the connection", stream->host, stream->port);
    return mo_fail(stream, errnum ? errnum : ECONNRESET);
}

/* ---- waiting -------------------------------------------------------------------------- */

static void cut_by_wait(struct mo_stream *stream, weir_status status, const char *what)
{
    struct mo_client *client = stream->client;

    if (status == WEIR_TIMEOUT && weir_check() != WEIR_TIMEOUT)
        mo_cut(client, status, "%s:%u was silent for as long as is allowed (%s) %s", stream->host,
               stream->port, stream->logged_in ? "socketTimeoutMS" : "connectTimeoutMS", what);
    else if (status == WEIR_TIMEOUT || status == WEIR_CANCELED)
        mo_cut_by(client, status, what);
    else
        mo_cut(client, WEIR_LOST, "%s %s", weir_status_name(status), what);
}

static bool wait_for(struct mo_stream *stream, int events, weir_deadline until)
{
    struct mo_client *client = stream->client;

    client->burst = 0;
    stream->asked = false;
    if (events & WEIR_READ)
        stream->stirred = false; /* a wait to read makes the hub watch again */
    client->inside++;
    stream->waiting++;
    weir_status status = weir_wait_fd(stream->fd, events | (stream->drained ? WEIR_DRAINED : 0),
                                      until, NULL);
    stream->waiting--;
    client->inside--;
    if (status == WEIR_OK && !client->cut.status && stream->state == MO_READY)
        return true;
    if (!client->cut.status)
        cut_by_wait(stream, status,
                    events & WEIR_READ ? "while it was waited for the server's reply"
                                       : "while the server did not take what is sent");
    (void)mo_fail(stream, client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED);
    return false;
}

/* Big transfers never have to wait: the network is as fast as we are. */
static bool give_way(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;
    weir_status       status = WEIR_OK;

    client->inside++;
    stream->waiting++;
    if (client->burst < BURST) {
        hot_spend(WEIR_IO_UNITS);
    } else {
        client->burst = 0;
        weir_spend(WEIR_UNITS); /* that much makes it the loop's turn, not only the others' */
        status = weir_check();
    }
    stream->waiting--;
    client->inside--;
    if (status != WEIR_OK && !client->cut.status)
        mo_cut_by(client, status, "while data was transferred");
    if (!client->cut.status && stream->state == MO_READY)
        return true;
    (void)mo_fail(stream, client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED);
    return false;
}

/* ---- bytes, from the socket ------------------------------------------------------------ */

/* OpenSSL reads by the byte what belongs to a record, and cannot tell whether that was all. */
weir_status mo_stream_watch(struct mo_stream *stream)
{
    weir_status status =
        (stream->tls ? weir_fd_watch : weir_fd_watch_edge)(stream->fd, mo_stream_stirred, stream);

    stream->drained = false;
    stream->stirred = status != WEIR_OK;
    return status;
}

static int readiness(const struct mo_stream *stream, int plainly)
{
    return stream->tls ? mo_tls_wants(stream->tls) : plainly;
}

/* Is there any use in trying to read before something comes? A request that was just sent has no
   answer yet. But TLS may have the next reply already, where the socket has nothing to tell of. */
static bool must_wait(const struct mo_stream *stream)
{
    return stream->asked && !(stream->tls && mo_tls_pending(stream->tls));
}

/* Some bytes; 0 at the end; -1 with errno. */
ssize_t mo_receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                       weir_deadline until)
{
    if (may_wait && must_wait(stream) ? !wait_for(stream, WEIR_READ, until) : !give_way(stream))
        return -1;
    for (;;) {
        size_t  room = size < BURST ? size : BURST;
        ssize_t n = stream->tls ? mo_tls_read(stream->tls, to, room)
                                : recv(stream->fd, to, room, MSG_DONTWAIT);
        stream->drained = n < (ssize_t)room;
        if (n > 0) {
            stream->client->burst += (size_t)n;
            return n;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 || errno != EAGAIN) {
            (void)lose(stream, n ? errno : 0);
            return n;
        }
        if (!may_wait) {
            (void)mo_stream_watch(stream);
            return mo_fail(stream, EAGAIN);
        }
        if (!wait_for(stream, readiness(stream, WEIR_READ), until))
            return -1;
    }
}

static bool is_short(const struct iovec *iov, size_t count)
{
    size_t size = 0;

    for (size_t i = 0; i < count && size <= RECORD; i++)
        size += iov[i].iov_len;
    return size <= RECORD;
}

/* A short request is put together first: TLS would make a record of each of its pieces, and the
   kernel takes 0.5 us longer for a list of them than we do for the copy. */
static ssize_t transmit_once(struct mo_stream *stream, const struct iovec *iov, size_t count)
{
    char   record[RECORD];
    size_t have = 0;

    if (!stream->tls && !is_short(iov, count)) {
        struct msghdr message = { .msg_iov = (struct iovec *)iov, .msg_iovlen = count };
        return sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (stream->tls && (count == 1 || iov[0].iov_len >= sizeof record))
        return mo_tls_write(stream->tls, iov[0].iov_base, iov[0].iov_len);
    for (size_t i = 0; i < count && have < sizeof record; i++) {
        size_t room = sizeof record - have;
        size_t n = iov[i].iov_len < room ? iov[i].iov_len : room;
        memcpy(record + have, iov[i].iov_base, n);
        have += n;
    }
    if (!stream->tls)
        return send(stream->fd, record, have, MSG_DONTWAIT | MSG_NOSIGNAL);
    return mo_tls_write(stream->tls, record, have);
}

/* Some of it; -1 with errno. */
ssize_t mo_transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
                        bool may_wait, weir_deadline until)
{
    if (!give_way(stream))
        return -1;
    for (;;) {
        ssize_t n = transmit_once(stream, iov, count);
        if (n >= 0) {
            stream->client->burst += (size_t)n;
            stream->full = false;
            return n;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return lose(stream, errno);
        stream->full = true;
        if (!may_wait)
            return mo_fail(stream, EAGAIN);
        if (!wait_for(stream, readiness(stream, WEIR_WRITE), until))
            return -1;
    }
}
