/*
 * stream.c - what the library reads from and writes to: one server, as mongoc_stream_t.
 *
 * Knows:   the contract of mongoc_stream_t, whose turn it is, when to log in.
 * Ignores: how the socket came about (dial.c), waiting for it (transfer.c), several streams at
 *          once (poll.c), what passes (message.c).
 *
 * The library's contract, as its scanner and its commands use it:
 *
 *   - a call has milliseconds to end; 0 asks not to wait, a negative number to wait for ever.
 *     EAGAIN says that waiting would have been needed, and nothing else;
 *   - readv returns no less than min_bytes, or -1; with a min_bytes of 0 what there is, and 0
 *     at the end. writev sends everything;
 *   - poll asks about several streams at once: poll.c;
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
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    STREAM_TYPE = 0x77656972, /* "weir": the library's own are small numbers */
    PIECES = 16               /* of a request at once; a command has some ten */
};

/* ---- may it go on? -------------------------------------------------------------------- */

/* What keeps a stream from being used at all, as an errno; 0: nothing does. */
static int obstacle(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;

    if (!mo_may_talk(client))
        return EPERM;
    weir_status status = client->cut.status ? WEIR_OK : hot_pending();
    if (status != WEIR_OK)
        mo_cut_by(client, status, "before the server was asked");
    if (client->cut.status)
        return client->cut.status == WEIR_TIMEOUT ? ETIMEDOUT : ECANCELED;
    if (stream->state == MO_DEAD)
        return stream->errnum && stream->errnum != EAGAIN ? stream->errnum : ECONNRESET;
    return stream->state == MO_READY ? 0 : ENOTCONN;
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
        n = mo_receive(stream, stream->buffer, MO_BUFFER, ms != 0, mo_patience(ms));
        if (n <= 0)
            return n;
        stream->end = (size_t)n;
    }
    if (stream->begin < stream->end)
        n = (ssize_t)take(stream, to, size);
    else
        n = mo_receive(stream, to, size, ms != 0, mo_patience(ms));
    if (n > 0 && !mo_message_read(stream, to, (size_t)n)) {
        stream->client->flawed = true;
        mo_stream_hang_up(stream, EPROTO);
        return mo_fail(stream, EPROTO);
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
        return mo_fail(stream, errnum);
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
            return mo_fail(stream, ECONNRESET);
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
        ssize_t      n = mo_transmit(stream, &iov, 1, true, deadline);
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
            ssize_t n = mo_receive(stream, stream->buffer, MO_BUFFER, true, deadline);
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

/* Whom a callback names is asked for now, and forgotten with this login. */
static weir_status identify(struct mo_stream *stream, weir_error *err)
{
    struct mo_login_io     io = { .arg = stream, .send = login_send, .recv = login_recv };
    struct mo_config      *config = stream->client->config;
    const weir_mongo_opts *opts = &config->opts;
    const weir_pool_opts  *pool = weir_pool_options(weir_conn_pool(stream->client->conn));
    struct mo_user         user = config->user;
    weir_credentials      *asked = NULL;
    weir_status            status = WEIR_OK;

    if (opts->credentials)
        status = weir_credentials_ask(opts->credentials, opts->credentials_arg, user.name,
                                      weir_in_ms(pool->connect_timeout_ms), &asked, err);
    if (asked) {
        user.name = asked->user;
        user.password = asked->password;
    }
    if (status == WEIR_OK)
        status = mo_login(&io, &user, weir_in_ms(config->connect_ms), err);
    weir_credentials_forget(asked);
    return status;
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
    struct mo_client *client = stream->client;
    weir_error        err;

    if (stream->logged_in)
        return true;
    if (!client->config->own_login) {
        stream->logged_in = true;
        return true;
    }
    client->inside++;
    stream->waiting++;
    weir_status status = identify(stream, &err);
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
    (void)mo_fail(stream, EACCES);
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
        (void)mo_fail(stream, EPROTO);
        return false;
    }
    mo_message_begin(stream, iov, count);
    if (stream->hello) {
        if (stream->greeted)
            stream->since_ns = hot_now();
        stream->greeted = true;
        return true;
    }
    client->trouble.status = client->answer.status = WEIR_OK;
    client->answered = false;
    if (!stream->perhaps)
        mo_transaction_see(stream, iov, count);
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
        ssize_t n = mo_transmit(stream, mine + at, count - at, ms != 0, mo_patience(ms));
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
        return mo_fail(stream, errnum);
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

void mo_stream_refund(struct mo_stream *stream)
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
    mo_stream_refund(stream);
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

/* The library has given it up, before it was of use: out of patience, which it tells nobody. Or
   because it is none of the set's members, by another that was heard first. */
static void say_who_was_slow(struct mo_stream *stream)
{
    int64_t     patience_ns = (int64_t)stream->client->config->connect_ms * 1000000;
    bool        unheard = stream->errnum == 0 || stream->errnum == EAGAIN;
    const char *what = NULL;

    if (hot_now() - stream->since_ns < patience_ns / 4 * 3)
        return;
    if (stream->state == MO_DIALLING)
        what = stream->tls ? "did not end the TLS handshake (does it speak TLS at that port?)"
                           : "did not answer";
    else if (stream->state == MO_READY && stream->hello && stream->due && unheard)
        what = "was connected and did not answer a hello";
    if (what)
        mo_trouble(stream->client, "%s:%u %s within connectTimeoutMS (%d)", stream->host,
                   stream->port, what, stream->client->config->connect_ms);
}

static void let_go(struct mo_stream *stream)
{
    struct mo_client *client = stream->client;
    weir_conn        *conn = client->conn;
    bool              lost = stream->state == MO_READY;

    if (stream == client->stillborn)
        return;
    if (!client->closing && !client->cut.status && conn)
        say_who_was_slow(stream);
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

    mo_client_goes(stream->client);
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
                                    .poll = mo_stream_poll,
                                    .failed = own_failed,
                                    .timed_out = own_timed_out,
                                    .should_retry = own_should_retry };
    stream->client = client;
    stream->since_ns = hot_now();
    stream->refs = 1;
    stream->fd = -1;
    list_init(&stream->link);
    return stream;
}
