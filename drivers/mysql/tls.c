/*
 * tls.c - OpenSSL on our sockets.
 *
 * Knows:   the BIO below a connection's SSL, OpenSSL's queue of errors.
 * Ignores: certificates and keys, which are the library's; but for a look into their files
 *          when a pool is made, since what the library says of them later names no file.
 *
 * The library lets OpenSSL read and write the socket itself, and waits when OpenSSL asks it to
 * "retry": for the wrong event when it is to write, and counting seconds as milliseconds. Our
 * BIO waits inside itself and never asks for a retry, so none of that is reached.
 *
 * OpenSSL keeps errors in a queue of the thread, and a call that fails blames whatever stands
 * in it. A hub's coroutines share a thread: an error left behind by anybody, in any use of
 * OpenSSL, would end a healthy connection. The library never empties the queue; the BIO does,
 * around each wait and before each failure.
 *
 * It is put in place as the handshake begins. The library makes its own BIO immediately
 * before that, but an info callback runs between the two.
 */
#include "mysql_internal.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static BIO_METHOD    *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

/* The head of the library's MARIADB_TLS, which ma_tls.h declares. */
struct library_tls {
    void         *data;
    MARIADB_PVIO *pvio;
    SSL          *ssl;
};

static SSL *ssl_of(const struct my_conn *conn)
{
    const MARIADB_PVIO *pvio = conn->my.net.pvio;

    return pvio && pvio->ctls ? ((struct library_tls *)pvio->ctls)->ssl : NULL;
}

void my_tls_forget_errors(void)
{
    ERR_clear_error();
}

/* ---- the files, when a pool is made --------------------------------------------------- */

/* In place of OpenSSL's, which asks at the terminal and blocks the thread. */
static int no_passphrase(char *buffer, int size, int writing, void *asked)
{
    (void)writing;
    if (size > 0)
        *buffer = '\0';
    *(bool *)asked = true;
    return -1;
}

/* Says which file it is. Where a descriptor could not be had, nothing is known of the file. */
static weir_status blame_file(const char *what, const char *path, weir_error *err)
{
    unsigned long code = ERR_peek_error(); /* the first: those after it only say who called */
    const char   *reason = ERR_reason_error_string(code);
    int           errnum;

    ERR_clear_error();
    if (my_out_of_descriptors(&errnum))
        return WEIR_OK;
    return weir_error_set(err, WEIR_USAGE, "%s: '%.120s' is of no use: %s", what, path,
                          reason ? reason : "OpenSSL does not say why");
}

static weir_status look_into_files(SSL_CTX *ctx, const struct my_config *config, weir_error *err)
{
    const weir_mysql_opts *opts = &config->opts;
    bool                   locked = false;

    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, &locked);
    if (config->tls == WEIR_TLS_VERIFY && SSL_CTX_load_verify_file(ctx, opts->tls_ca) != 1)
        return blame_file("tls_ca", opts->tls_ca, err);
    if (!opts->tls_cert)
        return WEIR_OK;
    if (SSL_CTX_use_certificate_chain_file(ctx, opts->tls_cert) != 1)
        return blame_file("tls_cert", opts->tls_cert, err);
    if (SSL_CTX_use_PrivateKey_file(ctx, opts->tls_key, SSL_FILETYPE_PEM) == 1)
        return WEIR_OK; /* it also is the certificate's */
    if (!locked)
        return blame_file("tls_key", opts->tls_key, err);
    ERR_clear_error();
    return weir_error_set(err, WEIR_USAGE,
                          "tls_key: '%.120s' wants a passphrase; give a key without one",
                          opts->tls_key);
}

weir_status my_tls_check_files(const struct my_config *config, weir_error *err)
{
    if (config->tls == WEIR_TLS_OFF)
        return WEIR_OK;
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx)
        return weir_error_set(err, WEIR_NOMEM, "no memory to look into the TLS files");
    weir_status status = look_into_files(ctx, config, err);
    SSL_CTX_free(ctx);
    return status;
}

/* ---- the BIO -------------------------------------------------------------------------- */

static int bio_read(BIO *bio, char *buffer, int size)
{
    struct my_conn *conn = BIO_get_data(bio);
    ssize_t         n = conn->ending        ? recv(conn->fd, buffer, (size_t)size, MSG_DONTWAIT)
                        : my_may_talk(conn) ? my_recv(conn, buffer, (size_t)size)
                                            : -1;
    int             errnum = errno;

    ERR_clear_error();
    errno = errnum;
    return (int)n;
}

static int bio_write(BIO *bio, const char *data, int size)
{
    struct my_conn *conn = BIO_get_data(bio);
    ssize_t         n = my_may_talk(conn) ? my_send(conn, data, (size_t)size) : -1;
    int             errnum = errno;

    ERR_clear_error();
    errno = errnum;
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    struct my_conn *conn = BIO_get_data(bio);

    (void)number;
    if (command == BIO_C_GET_FD) {
        if (pointer)
            *(int *)pointer = conn->fd;
        return conn->fd;
    }
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
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

bool my_tls_take_over(struct my_conn *conn)
{
    SSL *ssl = ssl_of(conn);
    BIO *bio;

    if (conn->tls)
        return true;
    pthread_once(&method_once, make_method);
    bio = method && ssl ? BIO_new(method) : NULL;
    if (!bio)
        return false;
    BIO_set_data(bio, conn);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_read_ahead(ssl, 1); /* a record in one recv, instead of its head and its body */
    conn->tls = true;
    return true;
}

/* ---- the handshake -------------------------------------------------------------------- */

static void handshake_news(const SSL *const_ssl, int where, int value)
{
    SSL *ssl = (SSL *)const_ssl; /* OpenSSL hands out its working copy */

    (void)value;
    if (!(where & SSL_CB_HANDSHAKE_START))
        return;
    SSL_set_info_callback(ssl, NULL);
    my_tls_take_over(my_conn_of(SSL_get_app_data(ssl))); /* without memory: after the handshake */
}

/*
 * The library verifies the name it connected to, which is an address: we looked the name up
 * ourselves. What it compares is read only after the handshake.
 */
static void put_name_in_place(struct my_conn *conn)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    const char            *name = opts->tls_name ? opts->tls_name : opts->host;

    if (!name)
        return;
    free(conn->my.host);
    conn->my.host = strdup(name); /* NULL makes the verification fail */
}

/* Encrypted is what was asked for, to whoever answers. See set_tls() in connect.c. */
static void verify_nothing(struct my_conn *conn)
{
    mysql_optionsv(&conn->my, MYSQL_OPT_SSL_CAPATH, NULL);
    SSL_set_verify(ssl_of(conn), SSL_VERIFY_NONE, NULL);
}

void my_tls_begins(struct my_conn *conn)
{
    if (conn->hooked_tls)
        return;
    conn->hooked_tls = true;
    ERR_clear_error();
    SSL_set_info_callback(ssl_of(conn), handshake_news);
    if (conn->config->tls == WEIR_TLS_VERIFY)
        put_name_in_place(conn);
    else
        verify_nothing(conn);
}

/* ---- asked when a lease ends ---------------------------------------------------------- */

bool my_tls_has_bytes(const struct my_conn *conn)
{
    const SSL *ssl = conn->tls ? ssl_of(conn) : NULL;

    return ssl && SSL_has_pending(ssl);
}

/* ---- when nobody uses it any more ----------------------------------------------------- */

ssize_t my_tls_read_rest(struct my_conn *conn, void *buffer, size_t size)
{
    conn->ending = true;
    int n = SSL_read(ssl_of(conn), buffer, (int)size);
    ERR_clear_error();
    return n;
}
