/*
 * tls.c - OpenSSL as a machine that turns bytes into bytes.
 *
 * Knows:   names to verify, handshakes, records, OpenSSL's queue of errors.
 * Ignores: waiting, which is the stream's; files (certs.c); threads (dial.c).
 *
 * The client library can do TLS by itself, above a stream of ours. It would read the files of
 * authorities for every connection (16 ms of the hub with those of a system), ask OCSP servers
 * through blocking sockets, and keep its words to itself. So OpenSSL is below the library here:
 * one SSL_CTX a pool, with everything from files in it, and an SSL for each connection.
 *
 * What makes OpenSSL safe between coroutines of one thread:
 *
 *   - Nothing inside of it waits. The BIO below it makes one send or recv that cannot block and
 *     cannot raise SIGPIPE, so no coroutine is ever switched in the middle of OpenSSL.
 *   - Its errors stand in a queue of the thread, and a call that fails blames whatever stands
 *     there first. The queue is emptied before each call, whoever filled it, and after each
 *     that failed.
 *
 * A handshake costs some 5 million instructions, of which three in four are for verifying: OpenSSL
 * 3.0 reads the server's key with a new decoder each time, and then there are two signatures. So
 * a handshake is cut into steps that touch memory alone: what the socket has is taken before one,
 * and what is to be sent goes after it. Each can be done on another thread, while the hub goes
 * on, and a connection that is given up meanwhile can be closed at once: nobody but the hub's
 * thread knows its descriptor.
 *
 * Sessions are not resumed: a resumed one is not verified again, and would outlive a certificate
 * that has expired or was revoked meanwhile. OCSP is not asked; tlsCRLFile is what there is for
 * revocation.
 */
#define _GNU_SOURCE
#include "certs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORD_MAX = 16384, /* bytes of data: RFC 8446, section 5.1 */
    FLIGHT = 16384      /* of a handshake at a time; a server's first is some 1 to 5 KiB */
};

struct mo_tls_context {
    SSL_CTX *ctx;
    bool     any_name;
};

/* Of a handshake: what has come and OpenSSL has not read, what it has written and is not sent. */
struct flight {
    char  *data;
    size_t begin, end, room;
};

struct mo_tls {
    SSL *ssl;
    struct flight in, out;
    bool working;  /* a step is under way, perhaps on another thread */
    bool orphaned; /* ... and nobody wants its result any more */
    bool hungry;   /* the last step has read all there was */
    bool shaken;   /* nothing is left of the handshake but what is to be sent */
    int  fd;
    int  wants;  /* of the last call that could not go on */
    int  errnum; /* what the socket failed with last; 0: it did not */
    int  failed; /* errno of every call from now on; 0: it works */
    bool done;   /* the handshake */
    bool ended;  /* the server will send nothing more */
    char why[160];
};

static BIO_METHOD    *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

/* ---- the context ---------------------------------------------------------------------- */

/* For allow_invalid_certificates, which does not allow names that are wrong. */
static int forgive_all_but_names(int ok, X509_STORE_CTX *store)
{
    int error = X509_STORE_CTX_get_error(store);

    return ok || (error != X509_V_ERR_HOSTNAME_MISMATCH && error != X509_V_ERR_IP_ADDRESS_MISMATCH);
}

static bool settle(SSL_CTX *ctx, const struct mo_tls_opts *opts)
{
    /* A record that went out in part, and a buffer that moved, are how streams write. With read
       ahead a record costs one recv, instead of one for its head and one for its body. */
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER,
                       opts->allow_invalid_certificates ? forgive_all_but_names : NULL);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1;
}

weir_status mo_tls_context_new(const struct mo_tls_opts *opts, struct mo_tls_context **out,
                               weir_error *err)
{
    struct mo_tls_context *context = calloc(1, sizeof *context);

    *out = NULL;
    ERR_clear_error();
    if (context)
        context->ctx = SSL_CTX_new(TLS_client_method());
    weir_status status = context && context->ctx && settle(context->ctx, opts)
                             ? mo_certs_load(context->ctx, opts, err)
                             : weir_error_set(err, WEIR_NOMEM, "no memory for TLS");
    ERR_clear_error();
    if (status != WEIR_OK) {
        mo_tls_context_free(context);
        return status;
    }
    context->any_name = opts->allow_invalid_names;
    *out = context;
    return WEIR_OK;
}

void mo_tls_context_free(struct mo_tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->ctx);
    free(context);
}

/* ---- the BIO -------------------------------------------------------------------------- */

static bool would_block(int errnum)
{
    return errnum == EAGAIN || errnum == EWOULDBLOCK;
}

/* As recv(2), with what became of it in the connection. */
static ssize_t receive(struct mo_tls *tls, char *buffer, size_t size)
{
    ssize_t n;

    do
        n = recv(tls->fd, buffer, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        tls->ended = true;
    else if (n < 0 && !would_block(errno))
        tls->errnum = errno;
    return n;
}

static ssize_t transmit(struct mo_tls *tls, const char *data, size_t size)
{
    ssize_t n;

    do
        n = send(tls->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && !would_block(errno))
        tls->errnum = errno;
    return n;
}

static void land(struct flight *flight)
{
    free(flight->data);
    *flight = (struct flight){ .data = NULL };
}

static size_t left_in(const struct flight *flight)
{
    return flight->end - flight->begin;
}

/* A step has only what was fetched for it; later that is first, and then the socket's. */
static int bio_read(BIO *bio, char *buffer, int size)
{
    struct mo_tls *tls = BIO_get_data(bio);
    size_t         left = left_in(&tls->in);
    ssize_t        n = left < (size_t)size ? (ssize_t)left : size;

    BIO_clear_retry_flags(bio);
    if (left) {
        memcpy(buffer, tls->in.data + tls->in.begin, (size_t)n);
        tls->in.begin += (size_t)n;
        if (!tls->working && !left_in(&tls->in))
            land(&tls->in);
        return (int)n;
    }
    if (!tls->working) {
        n = receive(tls, buffer, (size_t)size);
    } else {
        n = tls->ended ? 0 : -1;
        tls->hungry = !tls->ended;
    }
    if (n < 0 && !tls->errnum)
        BIO_set_retry_read(bio);
    return (int)n;
}

static bool make_room(struct flight *flight, size_t size)
{
    size_t room = flight->end + size;
    char  *data;

    if (room <= flight->room)
        return true;
    room = room < FLIGHT ? FLIGHT : 2 * room;
    data = realloc(flight->data, room);
    if (!data)
        return false;
    flight->data = data;
    flight->room = room;
    return true;
}

static int bio_write(BIO *bio, const char *data, int size)
{
    struct mo_tls *tls = BIO_get_data(bio);
    ssize_t        n = size;

    BIO_clear_retry_flags(bio);
    if (!tls->working) {
        n = transmit(tls, data, (size_t)size);
    } else if (make_room(&tls->out, (size_t)size)) {
        memcpy(tls->out.data + tls->out.end, data, (size_t)size);
        tls->out.end += (size_t)size;
    } else {
        tls->errnum = ENOMEM;
        n = -1;
    }
    if (n < 0 && !tls->errnum)
        BIO_set_retry_write(bio);
    return (int)n;
}

/* It says nothing of the end (BIO_CTRL_EOF): OpenSSL would take it for a crime of the server's
   and answer it with an alert. */
static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static void make_method(void)
{
    BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weir");

    if (!made)
        return;
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_ctrl(made, bio_ctrl);
    method = made;
}

static bool put_on_socket(struct mo_tls *tls)
{
    pthread_once(&method_once, make_method);
    BIO *bio = method ? BIO_new(method) : NULL;
    if (!bio)
        return false;
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    return true;
}

/* ---- a connection --------------------------------------------------------------------- */

static bool given(const char *text)
{
    return text && *text;
}

static bool is_address(const char *host)
{
    struct in6_addr address;

    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

/* False where nothing could be verified, which must never end in nothing being verified. */
static bool expect_host(struct mo_tls *tls, const char *host, bool any_name)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);

    if (!given(host))
        return any_name;
    if (is_address(host))
        return any_name || X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(tls->ssl, host) == 1 &&
           (any_name || X509_VERIFY_PARAM_set1_host(param, host, 0) == 1);
}

struct mo_tls *mo_tls_new(struct mo_tls_context *context, int fd, const char *host)
{
    struct mo_tls *tls = calloc(1, sizeof *tls);

    if (!tls)
        return NULL;
    ERR_clear_error();
    tls->fd = fd;
    tls->wants = WEIR_WRITE;
    tls->ssl = SSL_new(context->ctx);
    if (!tls->ssl || !put_on_socket(tls)) {
        mo_tls_free(tls);
        return NULL;
    }
    SSL_set_connect_state(tls->ssl);
    if (!expect_host(tls, host, context->any_name)) {
        tls->failed = EPROTO;
        snprintf(tls->why, sizeof tls->why, "no certificate can be for the host '%.80s'",
                 given(host) ? host : "");
    }
    ERR_clear_error();
    return tls;
}

void mo_tls_free(struct mo_tls *tls)
{
    if (!tls)
        return;
    if (tls->working) {
        tls->orphaned = true; /* mo_tls_step_end() frees it */
        return;
    }
    SSL_free(tls->ssl);
    ERR_clear_error();
    land(&tls->in);
    land(&tls->out);
    free(tls);
}

/* ---- what came of a call -------------------------------------------------------------- */

static void say_why(struct mo_tls *tls)
{
    unsigned long error = ERR_peek_error();
    const char   *words = error ? ERR_reason_error_string(error) : NULL;

    if (ERR_GET_LIB(error) == ERR_LIB_SSL &&
        ERR_GET_REASON(error) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        snprintf(tls->why, sizeof tls->why, "%s (%s)", words,
                 X509_verify_cert_error_string(SSL_get_verify_result(tls->ssl)));
    else if (words)
        snprintf(tls->why, sizeof tls->why, "%s", words);
    else if (tls->errnum) {
        errno = tls->errnum;
        snprintf(tls->why, sizeof tls->why, "%m");
    } else {
        snprintf(tls->why, sizeof tls->why, "the server closed the connection%s",
                 tls->done ? "" : " during the handshake");
    }
}

/*
 * A call of OpenSSL's did not succeed: 0 where the server has ended, else -1 with errno. The
 * end of the socket counts as the server's own word for it: MongoDB's messages tell how long
 * they are, so nothing can be cut off unseen.
 */
static int settle_call(struct mo_tls *tls, int result)
{
    int  error = SSL_get_error(tls->ssl, result);
    bool quiet = error == SSL_ERROR_SYSCALL && !tls->errnum;

    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        tls->wants = error == SSL_ERROR_WANT_READ ? WEIR_READ : WEIR_WRITE;
        ERR_clear_error();
        errno = EAGAIN;
        return -1;
    }
    if (tls->done && (error == SSL_ERROR_ZERO_RETURN || (quiet && tls->ended))) {
        tls->ended = true;
        ERR_clear_error();
        return 0;
    }
    say_why(tls);
    tls->failed = tls->errnum ? tls->errnum : quiet ? ECONNRESET : EPROTO;
    ERR_clear_error();
    errno = tls->failed;
    return -1;
}

/* ---- the handshake -------------------------------------------------------------------- */

static enum mo_tls_want waits(struct mo_tls *tls, int wants)
{
    tls->wants = wants;
    return wants == WEIR_READ ? MO_TLS_READ : MO_TLS_WRITE;
}

/* False: the socket takes no more just now. One that is broken takes everything. */
static bool send_all(struct mo_tls *tls)
{
    struct flight *out = &tls->out;

    while (left_in(out)) {
        ssize_t n = transmit(tls, out->data + out->begin, left_in(out));
        if (n < 0 && !tls->errnum)
            return false;
        if (n < 0)
            break;
        out->begin += (size_t)n;
    }
    out->begin = out->end = 0;
    return true;
}

/* False: nothing has come. The end, or that the socket is broken, is something. */
static bool fetch(struct mo_tls *tls)
{
    struct flight *in = &tls->in;

    in->begin = in->end = 0;
    if (!make_room(in, FLIGHT)) {
        tls->errnum = ENOMEM;
        return true;
    }
    ssize_t n = receive(tls, in->data, in->room);
    in->end = n > 0 ? (size_t)n : 0;
    return n >= 0 || tls->errnum;
}

enum mo_tls_want mo_tls_step_begin(struct mo_tls *tls)
{
    if (tls->failed)
        return MO_TLS_FAILED;
    if (tls->done)
        return MO_TLS_DONE;
    ERR_clear_error();
    if (!send_all(tls))
        return waits(tls, WEIR_WRITE);
    if (tls->shaken && !tls->errnum) {
        tls->done = true;
        land(&tls->out);
        if (!left_in(&tls->in))
            land(&tls->in);
        return MO_TLS_DONE;
    }
    if (tls->hungry && !tls->errnum && !fetch(tls))
        return waits(tls, WEIR_READ);
    tls->working = true;
    return MO_TLS_STEP;
}

void mo_tls_step(void *arg)
{
    struct mo_tls *tls = arg;

    tls->hungry = false;
    ERR_clear_error();
    int result = SSL_do_handshake(tls->ssl);
    tls->shaken = result == 1;
    if (!tls->shaken || tls->errnum)
        (void)settle_call(tls, result == 1 ? -1 : result);
    ERR_clear_error(); /* what was forgiven stands there, too */
}

enum mo_tls_want mo_tls_step_end(struct mo_tls *tls)
{
    tls->working = false;
    if (tls->orphaned) {
        mo_tls_free(tls);
        return MO_TLS_FAILED;
    }
    if (tls->failed)
        (void)send_all(tls); /* it may be an alert that tells the server why */
    return mo_tls_step_begin(tls);
}

enum mo_tls_want mo_tls_handshake(struct mo_tls *tls)
{
    enum mo_tls_want want = mo_tls_step_begin(tls);

    while (want == MO_TLS_STEP) {
        mo_tls_step(tls);
        want = mo_tls_step_end(tls);
    }
    return want;
}

/* ---- data ----------------------------------------------------------------------------- */

/* May data flow? If not, errno says why. */
static bool is_open(struct mo_tls *tls)
{
    enum mo_tls_want want = mo_tls_handshake(tls);

    if (want != MO_TLS_DONE)
        errno = want == MO_TLS_FAILED ? tls->failed : EAGAIN;
    return want == MO_TLS_DONE;
}

ssize_t mo_tls_read(struct mo_tls *tls, void *data, size_t size)
{
    size_t n = 0;

    if (!is_open(tls))
        return -1;
    if (tls->ended)
        return 0;
    ERR_clear_error();
    int result = SSL_read_ex(tls->ssl, data, size, &n);
    return result == 1 ? (ssize_t)n : settle_call(tls, result);
}

/* A record at a time: of several, OpenSSL would keep to itself which ones are gone already. */
ssize_t mo_tls_write(struct mo_tls *tls, const void *data, size_t size)
{
    size_t part = size < RECORD_MAX ? size : RECORD_MAX, n = 0;

    if (!is_open(tls))
        return -1;
    if (!part)
        return 0;
    ERR_clear_error();
    int result = SSL_write_ex(tls->ssl, data, part, &n);
    if (result == 1)
        return (ssize_t)n;
    if (settle_call(tls, result) < 0)
        return -1;
    errno = EPIPE;
    return -1;
}

int mo_tls_wants(const struct mo_tls *tls)
{
    return tls->wants;
}

/*
 * Read ahead may have left a record, or half of one, in OpenSSL's own buffer, and only looking
 * into it tells which. "Some bytes are there" alone would make a poll return at once, for ever,
 * for a record whose other half has not come.
 */
size_t mo_tls_pending(struct mo_tls *tls)
{
    char   byte;
    size_t n;

    if (tls->failed)
        return 1;
    int ready = SSL_pending(tls->ssl);
    if (ready > 0 || !tls->done || !(SSL_has_pending(tls->ssl) || left_in(&tls->in)))
        return (size_t)ready;
    ERR_clear_error();
    int result = SSL_peek_ex(tls->ssl, &byte, 1, &n);
    if (result == 1)
        return (size_t)SSL_pending(tls->ssl);
    return settle_call(tls, result) < 0 && !tls->failed ? 0 : 1;
}

const char *mo_tls_why(const struct mo_tls *tls)
{
    return tls->why;
}
