/*
 * stream.c - what the library reads from and writes to: waiting in the hub, whose turn it is.
 *
 * Knows:   the contract of mongoc_stream_t, when to wait, when to give way.
 * Ignores: how the socket came about (dial.c), what passes (message.c), TLS records (tls.c).
 *
 * The library's contract, as its scanner and its commands use it:
 *
 *   - a call has milliseconds to end; 0 asks not to wait, a negative number to wait for ever.
 *     EAGAIN says that waiting would have been needed, and nothing else;
 *   - readv returns no less than min_bytes, or -1; with a min_bytes of 0 what there is, and 0
 *     at the end. writev sends everything;
 *   - poll asks about several streams at once, while the library says hello to all members of a
 *     replica set. A poll that fails (-1) makes the library try again without end: what is
 *     wrong with a stream is said in its revents;
 *   - failed and destroy end a stream: the socket is closed, and the library forgets it. The
 *     memory stays, since another coroutine, which should not be there, may be parked in it;
 *   - timed_out decides whether the library believes a server to be down after an error. A
 *     deadline or a cancel of ours says nothing about the server.
 *
 * Each call returns what is wrong with the whole client first: one whose call was cut by a
 * deadline, or by a cancel, unwinds through all that the library still tries to do, and without
 * another wait.
 *
 * errno is set last, since a wait may have changed it.
 */
#include "mongo_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    STREAM_TYPE = 0x77656972, /* "weir": the library's own are small numbers */
    BURST = 256 * 1024,       /* bytes after which we give way: the kernel copies them in 50 us */
    PIECES = 16,              /* of a request at once; a command has some ten */
    RECORD = 2048             /* pieces of a request are put together for TLS up to this size */
};

static int fail(struct mo_stream *stream, int errnum)
{
    stream->errnum = errnum;
    errno = errnum;
    return -1;
}

/* ---- may it go on? -------------------------------------------------------------------- */

static void cut_by(struct mo_client *client, weir_status status, const char *what)
{
    if (status == WEIR_CANCELED)
        mo_cut(client, status, "cancelled %s", what);
    else
        mo_cut(client, status, "the deadline passed %s", what);
}

/* What keeps a stream from being used at all, as an errno; 0: nothing does. */
static int obstacle(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;

    if (!mo_may_talk(client))
        return EPERM;
    weir_status status = client->cut.status ? WEIR_OK : hot_pending();
    if (status != WEIR_OK)
        cut_by(client, status, "before the server was asked");
    if (client->cut.status)
        return client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED;
    if (stream->state == MO_DEAD)
        return stream->errnum && stream->errnum != EAGAIN ? stream->errnum : ECONNRESET;
    return stream->state == MO_READY ? 0 : ENOTCONN;
}

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
    return fail(stream, errnum ? errnum : ECONNRESET);
}

/* ---- waiting -------------------------------------------------------------------------- */

static weir_deadline patience(int32_t ms)
{
    return ms < 0 ? WEIR_FOREVER : weir_deadline_at(hot_now() + (int64_t)ms * 1000000);
}

static void cut_by_wait(struct mo_stream *stream, weir_status status, const char *what)
{
    struct mo_client *client = stream->client;

    if (status == WEIR_TIMEOUT && weir_check() != WEIR_TIMEOUT)
        mo_cut(client, status, "%s:%u was silent for as long as is allowed (%s) %s", stream->host,
               stream->port, stream->logged_in ? "socketTimeoutMS" : "connectTimeoutMS", what);
    else if (status == WEIR_TIMEOUT || status == WEIR_CANCELED)
        cut_by(client, status, what);
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
    weir_status status = weir_wait_fd(stream->fd, events, until, NULL);
    stream->waiting--;
    client->inside--;
    if (status == WEIR_OK && !client->cut.status && stream->state == MO_READY)
        return true;
    if (!client->cut.status)
        cut_by_wait(stream, status,
                    events & WEIR_READ ? "while it was waited for the server's reply"
                                       : "while the server did not take what is sent");
    (void)fail(stream, client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED);
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
        cut_by(client, status, "while data was transferred");
    if (!client->cut.status && stream->state == MO_READY)
        return true;
    (void)fail(stream, client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED);
    return false;
}

/* ---- bytes, from the socket ------------------------------------------------------------ */

void mo_stream_watch(struct mo_stream *stream)
{
    stream->stirred = false;
    if (weir_fd_watch(stream->fd, mo_stream_stirred, stream) != WEIR_OK)
        stream->stirred = true;
}

static int readiness(const struct mo_stream *stream, int plainly)
{
    return stream->tls ? mo_tls_wants(stream->tls) : plainly;
}

/* Some bytes; 0 at the end; -1 with errno. */
static ssize_t receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                       weir_deadline until)
{
    if (stream->asked && may_wait ? !wait_for(stream, WEIR_READ, until) : !give_way(stream))
        return -1;
    for (;;) {
        size_t  room = size < BURST ? size : BURST;
        ssize_t n = stream->tls ? mo_tls_read(stream->tls, to, room)
                                : recv(stream->fd, to, room, MSG_DONTWAIT);
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
            mo_stream_watch(stream);
            return fail(stream, EAGAIN);
        }
        if (!wait_for(stream, readiness(stream, WEIR_READ), until))
            return -1;
    }
}

static ssize_t transmit_once(struct mo_stream *stream, const struct iovec *iov, size_t count)
{
    char   record[RECORD];
    size_t have = 0;

    if (!stream->tls) {
        struct msghdr message = { .msg_iov = (struct iovec *)iov, .msg_iovlen = count };
        return sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (count == 1 || iov[0].iov_len >= sizeof record)
        return mo_tls_write(stream->tls, iov[0].iov_base, iov[0].iov_len);
    for (size_t i = 0; i < count && have < sizeof record; i++) {
        size_t room = sizeof record - have;
        size_t n = iov[i].iov_len < room ? iov[i].iov_len : room;
        memcpy(record + have, iov[i].iov_base, n);
        have += n;
    }
    return mo_tls_write(stream->tls, record, have);
}

/* Some of it; -1 with errno. */
static ssize_t transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
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
            return fail(stream, EAGAIN);
        if (!wait_for(stream, readiness(stream, WEIR_WRITE), until))
            return -1;
    }
}

/* ---- readv ---------------------------------------------------------------------------- */

static size_t take(struct mo_stream *stream, char *to, size_t size)
{
    size_t there = stream->end - stream->begin;
    size_t n = there < size ? there : size;

    memcpy(to, stream->buffer + stream->begin, n);
    stream->begin += n;
    if (stream->begin == stream->end)
        stream->begin = stream->end = 0;
    return n;
}

/* One piece: from our buffer, or, where much is wanted, straight into its place. */
static ssize_t read_some(struct mo_stream *stream, char *to, size_t size, int32_t ms)
{
    ssize_t n;

    if (stream->begin == stream->end && size < MO_BUFFER) {
        n = receive(stream, stream->buffer, MO_BUFFER, ms != 0, patience(ms));
        if (n <= 0)
            return n;
        stream->end = (size_t)n;
    }
    if (stream->begin < stream->end)
        n = (ssize_t)take(stream, to, size);
    else
        n = receive(stream, to, size, ms != 0, patience(ms));
    if (n > 0 && !mo_message_read(stream, to, (size_t)n)) {
        stream->client->flawed = true;
        mo_stream_hang_up(stream, EPROTO);
        return fail(stream, EPROTO);
    }
    return n;
}

static ssize_t own_readv(mongoc_stream_t *base, mongoc_iovec_t *iov, size_t count, size_t min,
                         int32_t ms)
{
    struct mo_stream *stream = (struct mo_stream *)base;
    size_t            got = 0, at = 0, off = 0;
    int               errnum = obstacle(stream);

    if (errnum)
        return fail(stream, errnum);
    while (at < count) {
        if (off == iov[at].iov_len) {
            at++;
            off = 0;
            continue;
        }
        if (got && got >= min && stream->begin == stream->end)
            break;
        ssize_t n = read_some(stream, (char *)iov[at].iov_base + off, iov[at].iov_len - off, ms);
        if (n < 0)
            return -1;
        if (n == 0 && min > 0)
            return fail(stream, ECONNRESET);
        if (n == 0)
            break;
        off += (size_t)n;
        got += (size_t)n;
    }
    stream->errnum = errno = 0;
    return (ssize_t)got;
}

/* ---- logging in ------------------------------------------------------------------------ */

static weir_status say_cut(const struct mo_client *client)
{
    return client->cut.status ? client->cut.status : WEIR_LOST;
}

static weir_status login_send(void *arg, const void *data, size_t size, weir_deadline deadline)
{
    struct mo_stream *stream = arg;
    const char       *at = data;

    while (size) {
        struct iovec iov = { .iov_base = (void *)at, .iov_len = size };
        ssize_t      n = transmit(stream, &iov, 1, true, deadline);
        if (n < 0)
            return say_cut(stream->client);
        at += n;
        size -= (size_t)n;
    }
    stream->asked = true;
    return WEIR_OK;
}

static weir_status login_recv(void *arg, void *data, size_t size, weir_deadline deadline)
{
    struct mo_stream *stream = arg;
    char             *at = data;

    while (size) {
        if (stream->begin == stream->end) {
            ssize_t n = receive(stream, stream->buffer, MO_BUFFER, true, deadline);
            if (n <= 0)
                return say_cut(stream->client);
            stream->end = (size_t)n;
        }
        size_t n = take(stream, at, size);
        at += n;
        size -= n;
    }
    return WEIR_OK;
}

/*
 * Just before the first command that is no hello: the moment in which the library would log in
 * itself. So only servers that are used are bothered, never an arbiter, and the library's hello,
 * with its description of the client, is the first that the server hears.
 *
 * A refusal ends the client: what the library tries again must not send the password again.
 */
static bool log_in(struct mo_stream *stream)
{
    struct mo_client  *client = stream->client;
    struct mo_config  *config = client->config;
    struct mo_login_io io = { .arg = stream, .send = login_send, .recv = login_recv };
    weir_error         err;

    if (stream->logged_in)
        return true;
    if (!config->own_login) {
        stream->logged_in = true;
        return true;
    }
    client->inside++;
    stream->waiting++;
    weir_status status = mo_login(&io, &config->user, weir_in_ms(config->connect_ms), &err);
    stream->waiting--;
    client->inside--;
    if (status == WEIR_OK && !client->cut.status && stream->state == MO_READY) {
        stream->logged_in = true;
        return true;
    }
    if (status != WEIR_OK && !client->trouble.status) {
        mo_cut(client, status, "%s", err.message);
        client->cut.native = client->cut.native ? client->cut.native : err.native;
    }
    client->flawed = true;
    mo_stream_hang_up(stream, EACCES);
    (void)fail(stream, EACCES);
    return false;
}

/* ---- writev --------------------------------------------------------------------------- */

static bool begin_request(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count)
{
    struct mo_client *client = stream->client;

    if (mo_message_owed(stream) || stream->begin < stream->end) {
        mo_trouble(client, "a reply of %s:%u was not read before the next command", stream->host,
                   stream->port);
        client->flawed = true;
        mo_stream_hang_up(stream, EPROTO);
        (void)fail(stream, EPROTO);
        return false;
    }
    mo_message_begin(stream, iov, count);
    if (stream->hello)
        return true;
    client->trouble.status = client->answer.status = WEIR_OK;
    client->answered = false;
    if (log_in(stream))
        return true;
    stream->out_left = 0;
    return false;
}

static void note_sent(struct mo_stream *stream, size_t n)
{
    if (n && !stream->hello)
        stream->client->unsure = true;
    stream->out_left -= n < stream->out_left ? n : stream->out_left;
    if (stream->out_left)
        return;
    stream->asked = true;
    stream->due = !stream->no_reply;
    if (stream->no_reply)
        stream->client->unsure = false; /* its user did not want to know */
}

/* Leave out what was sent: returns where the rest begins. */
static size_t advance(struct iovec *iov, size_t count, size_t sent)
{
    size_t at = 0;

    while (at < count && sent >= iov[at].iov_len)
        sent -= iov[at++].iov_len;
    if (at < count) {
        iov[at].iov_base = (char *)iov[at].iov_base + sent;
        iov[at].iov_len -= sent;
    }
    return at;
}

/* The pieces are copied first: the library's list of them is its client's, and somebody who
   should not be there may make another one while we wait. */
static ssize_t send_pieces(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count,
                           int32_t ms)
{
    struct iovec mine[PIECES];
    size_t       at = 0, sent = 0;

    memcpy(mine, iov, count * sizeof *mine);
    while (at < count) {
        ssize_t n = transmit(stream, mine + at, count - at, ms != 0, patience(ms));
        if (n < 0)
            return sent ? (ssize_t)sent : -1;
        note_sent(stream, (size_t)n);
        sent += (size_t)n;
        at += advance(mine + at, count - at, (size_t)n);
    }
    return (ssize_t)sent;
}

static ssize_t own_writev(mongoc_stream_t *base, mongoc_iovec_t *iov, size_t count, int32_t ms)
{
    struct mo_stream *stream = (struct mo_stream *)base;
    size_t            sent = 0;
    int               errnum = obstacle(stream);

    if (errnum)
        return fail(stream, errnum);
    if (!stream->out_left && !begin_request(stream, iov, count))
        return -1;
    for (size_t at = 0; at < count; at += PIECES) {
        size_t  some = count - at < PIECES ? count - at : PIECES, whole = 0;
        ssize_t n = send_pieces(stream, iov + at, some, ms);
        for (size_t i = at; i < at + some; i++)
            whole += iov[i].iov_len;
        if (n < 0 && !sent)
            return -1;
        sent += n > 0 ? (size_t)n : 0;
        if (n < 0 || (size_t)n < whole)
            return (ssize_t)sent; /* the library takes a short count for what it is */
    }
    stream->errnum = errno = 0;
    return (ssize_t)sent;
}

/* ---- poll ----------------------------------------------------------------------------- */

void mo_wake_poller(struct mo_client *client)
{
    if (client->polling)
        weir_wake(client->poller);
}

static int events_of(struct mo_stream *stream, int wanted)
{
    struct mo_client *client = stream->client;
    int               events = 0;

    if (stream->state == MO_DEAD || client->cut.status)
        return POLLERR;
    if (stream->state != MO_READY)
        return 0;
    if ((wanted & POLLOUT) && !stream->full)
        events |= POLLOUT;
    if ((wanted & POLLIN) && (stream->begin < stream->end || stream->stirred ||
                              (stream->tls && mo_tls_pending(stream->tls))))
        events |= POLLIN;
    return events;
}

static ssize_t look(mongoc_stream_poll_t *polled, size_t count)
{
    ssize_t ready = 0;

    for (size_t i = 0; i < count; i++) {
        polled[i].revents = events_of((struct mo_stream *)polled[i].stream, polled[i].events);
        ready += polled[i].revents != 0;
    }
    return ready;
}

static ssize_t all_fail(mongoc_stream_poll_t *polled, size_t count)
{
    for (size_t i = 0; i < count; i++)
        polled[i].revents = POLLERR;
    return (ssize_t)count;
}

/*
 * Somebody polls who does not hold the client. While its holder is parked in a poll of his own,
 * the library's list of who is polled is his, and is gone by the time he is done: only to find
 * nothing ready is safe then.
 */
static ssize_t poll_refused(struct mo_client *client, mongoc_stream_poll_t *polled, size_t count)
{
    if (!client->polling || !hot_self())
        return all_fail(polled, count);
    while (client->polling)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            (void)weir_yield();
    for (size_t i = 0; i < count; i++)
        polled[i].revents = 0;
    return 0;
}

static void give_descriptor_back(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;

    if (!stream->paid)
        return;
    stream->paid = false;
    if (client->opening)
        client->tokens++; /* the library often meets a server again under another name */
    else if (client->conn && !client->closing)
        weir_conn_refund(client->conn, 1);
}

/* A member that nobody has paid for: its descriptor must be had first. We don't wait long, since
   the others' time runs, too. */
static void pay_and_dial(mongoc_stream_poll_t *polled, size_t count, int32_t ms)
{
    for (size_t i = 0; i < count; i++) {
        struct mo_stream *stream = (struct mo_stream *)polled[i].stream;
        struct mo_client *client = stream->client;
        if (stream->state != MO_UNPAID || client->cut.status)
            continue;
        client->inside++;
        weir_status status = weir_conn_pay(client->conn, 1, patience(ms / 4));
        client->inside--;
        stream->paid = status == WEIR_OK;
        if (stream->state != MO_UNPAID) { /* somebody has ended it meanwhile */
            give_descriptor_back(stream);
            continue;
        }
        if (stream->paid) {
            mo_dial(stream);
            continue;
        }
        client->shortage = EMFILE;
        client->unpaid++;
        mo_trouble(client, "no descriptor left in the budget for %s:%u", stream->host,
                   stream->port);
        mo_stream_hang_up(stream, EMFILE);
    }
}

/* Until something about one of them changes. */
static weir_status park(struct mo_client *client, mongoc_stream_poll_t *polled, size_t count,
                        weir_deadline until)
{
    for (size_t i = 0; i < count; i++) {
        struct mo_stream *stream = (struct mo_stream *)polled[i].stream;
        if (stream->state == MO_READY && stream->full) {
            stream->full = false; /* nobody tells us when to try again; a hello is small, and */
            until = weir_in_ms(1); /* hardly ever meets a full socket */
        }
    }
    client->poller = weir_waker_new();
    client->polling = true;
    client->inside++;
    weir_status status = weir_park(until, "MongoDB servers to say hello");
    client->inside--;
    client->polling = false;
    return status;
}

static ssize_t own_poll(mongoc_stream_poll_t *polled, size_t count, int32_t ms)
{
    struct mo_client *client = ((struct mo_stream *)polled[0].stream)->client;
    weir_deadline     until = ms < 0 ? WEIR_FOREVER : weir_in_ms(ms);
    weir_status       status = WEIR_OK;

    if (!mo_may_talk(client))
        return poll_refused(client, polled, count);
    if (!hot_self()) {
        mo_trouble(client, "outside of a coroutine no connection can be made");
        return all_fail(polled, count);
    }
    pay_and_dial(polled, count, ms);
    hot_spend(WEIR_IO_UNITS); /* near the end of its time the library asks again and again */
    for (;;) {
        ssize_t ready = look(polled, count);
        if (ready || ms == 0)
            return ready;
        if (status == WEIR_TIMEOUT)
            return 0;
        status = park(client, polled, count, until);
        if (status == WEIR_OK || client->cut.status)
            continue;
        if (status == WEIR_CANCELED || weir_check() != WEIR_OK)
            cut_by(client, status, "while it was waited for a server to be found");
    }
}

/* ---- the hub's news -------------------------------------------------------------------- */

/* Bytes, or the end, while nobody waits for it in particular. */
void mo_stream_stirred(int fd, void *arg)
{
    struct mo_stream *stream = arg;
    struct mo_client *client = stream->client;

    (void)fd;
    stream->stirred = true;
    if (client->polling)
        weir_wake(client->poller);
    else if (client->conn && !client->conn->user)
        weir_conn_stirred(client->conn);
}

/* ---- the rest of the contract ---------------------------------------------------------- */

/* Asked before a stream is used that was idle for a second. */
static bool own_check_closed(mongoc_stream_t *base)
{
    struct mo_stream *stream = (struct mo_stream *)base;
    char              byte;

    if (stream->state != MO_READY || stream->client->cut.status)
        return true;
    if (stream->begin < stream->end || mo_message_owed(stream))
        return true;
    ssize_t n = recv(stream->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* True: the library must not believe that the server is down. */
static bool own_timed_out(mongoc_stream_t *base)
{
    struct mo_stream *stream = (struct mo_stream *)base;

    return stream->errnum == ETIMEDOUT || stream->errnum == EPERM || stream->client->cut.status;
}

static bool own_should_retry(mongoc_stream_t *base)
{
    return ((struct mo_stream *)base)->errnum == EAGAIN;
}

static int own_flush(mongoc_stream_t *base)
{
    (void)base;
    return 0;
}

static int own_setsockopt(mongoc_stream_t *base, int level, int name, void *value,
                          mongoc_socklen_t size)
{
    return setsockopt(((struct mo_stream *)base)->fd, level, name, value, size);
}

/* ---- the end --------------------------------------------------------------------------- */

void mo_stream_hang_up(struct mo_stream *stream, int errnum)
{
    if (stream->state == MO_DEAD)
        return;
    stream->state = MO_DEAD;
    stream->errnum = errnum;
    if (stream->dialler)
        weir_cancel(stream->dialler);
    mo_tls_free(stream->tls);
    stream->tls = NULL;
    if (stream->fd >= 0)
        weir_close(stream->fd);
    stream->fd = -1;
    stream->begin = stream->end = 0;
    give_descriptor_back(stream);
    mo_wake_poller(stream->client);
}

void mo_stream_free(struct mo_stream *stream)
{
    if (--stream->refs)
        return;
    free(stream->buffer);
    free(stream);
}

static int own_close(mongoc_stream_t *base)
{
    mo_stream_hang_up((struct mo_stream *)base, ECONNRESET);
    return 0;
}

static void let_go(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;
    weir_conn        *conn = client->conn;
    bool              lost = stream->state == MO_READY;

    if (stream == client->stillborn)
        return;
    if (stream->state == MO_DIALLING && !client->closing && !client->cut.status)
        mo_trouble(client, "%s:%u did not answer within connectTimeoutMS (%d)", stream->host,
                   stream->port, client->config->connect_ms);
    if (stream->waiting)
        mo_cut(client, WEIR_LOST, "its connection was ended by somebody else: %s",
               client->intrusion);
    mo_stream_hang_up(stream, ECONNRESET);
    list_unlink(&stream->link);
    list_append(&client->buried, &stream->link);
    if (client->closing || !conn)
        return;
    client->flawed = client->flawed || lost;
    if (lost && !conn->user)
        weir_conn_stirred(conn); /* an intruder's call has failed on it */
}

static void own_failed(mongoc_stream_t *base)
{
    let_go((struct mo_stream *)base);
}

/* What the library calls in the end of a client, and only there. */
static void own_destroy(mongoc_stream_t *base)
{
    struct mo_stream *stream = (struct mo_stream *)base;

    if (!stream->client->closing)
        stream->client->destroyed = true;
    let_go(stream);
}

struct mo_stream *mo_stream_new(struct mo_client *client)
{
    struct mo_stream *stream = calloc(1, sizeof *stream);

    if (!stream)
        return NULL;
    stream->vt = (mongoc_stream_t){ .type = STREAM_TYPE,
                                    .destroy = own_destroy,
                                    .close = own_close,
                                    .flush = own_flush,
                                    .writev = own_writev,
                                    .readv = own_readv,
                                    .setsockopt = own_setsockopt,
                                    .check_closed = own_check_closed,
                                    .poll = own_poll,
                                    .failed = own_failed,
                                    .timed_out = own_timed_out,
                                    .should_retry = own_should_retry };
    stream->client = client;
    stream->refs = 1;
    stream->fd = -1;
    list_init(&stream->link);
    return stream;
}
