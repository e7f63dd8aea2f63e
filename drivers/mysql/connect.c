/*
 * connect.c - from a pool's settings to a session that can be lent.
 *
 * Knows:   the library's options, its non-blocking way to connect, addresses.
 * Ignores: how a socket waits (io.c), what a session is like (session.c).
 *
 * Connecting is the one thing for which the library's _start/_cont functions are used: its
 * blocking way sleeps in the thread where a Unix socket's queue is full. They run on a stack
 * that the library keeps for each connection. It stays as large as it is afterwards: a user is
 * told not to call such functions, but one who does shall not overflow it.
 *
 * Names are looked up by weir_resolve(), and the library is given one numeric address after
 * the other, all under one deadline; the library's own lookup blocks, and its timeout counts
 * anew for each step.
 */
#include "mysql_internal.h"

#include <errmsg.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What a server may ask us to log in with. Not among them: plugins that send the password as
   it is, or ask at the terminal for one. */
static const char safe_logins[] =
    "mysql_native_password,caching_sha2_password,sha256_password,client_ed25519";

/* ---- options -------------------------------------------------------------------------- */

static void set_tls(MYSQL *my, const struct my_config *config)
{
    const weir_mysql_opts *opts = &config->opts;
    my_bool                yes = 1, verify = config->tls == WEIR_TLS_VERIFY;

    if (config->tls == WEIR_TLS_OFF)
        return;
    mysql_optionsv(my, MYSQL_OPT_SSL_ENFORCE, &yes);
    mysql_optionsv(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
    /* With neither of these the library reads the system's whole bundle, for 20 ms. A path
       without certificates costs nothing, and is taken back in my_tls_begins(). */
    mysql_optionsv(my, verify ? MYSQL_OPT_SSL_CA : MYSQL_OPT_SSL_CAPATH,
                   verify ? opts->tls_ca : "/dev/null");
    if (opts->tls_cert)
        mysql_optionsv(my, MYSQL_OPT_SSL_CERT, opts->tls_cert);
    if (opts->tls_key)
        mysql_optionsv(my, MYSQL_OPT_SSL_KEY, opts->tls_key);
}

/* The deadline is ours; this only keeps a wait that escaped it from lasting for ever. */
static unsigned backstop_seconds(weir_deadline deadline)
{
    int64_t left = deadline.at_ns - hot_now();

    return left > INT64_C(3600000000000) ? 3600 : left < 0 ? 2 : (unsigned)(left / 1000000000) + 2;
}

static bool set_options(struct my_conn *conn)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    MYSQL                 *my = &conn->my;
    unsigned               seconds = backstop_seconds(conn->limit);
    unsigned               infile = opts->local_infile;
    my_bool                no = 0;
    size_t                 gigabyte = (size_t)1 << 30;

    if (mysql_optionsv(my, MYSQL_OPT_NONBLOCK, NULL))
        return false; /* no memory for its stack */
    mysql_optionsv(my, MYSQL_OPT_RECONNECT, &no);
    mysql_optionsv(my, MYSQL_OPT_LOCAL_INFILE, &infile);
    mysql_optionsv(my, MYSQL_OPT_CONNECT_TIMEOUT, &seconds);
    mysql_optionsv(my, MYSQL_OPT_MAX_ALLOWED_PACKET, &gigabyte);
    mysql_optionsv(my, MYSQL_SET_CHARSET_NAME, opts->charset);
    mysql_optionsv(my, MARIADB_OPT_RESTRICTED_AUTH, safe_logins);
    set_tls(my, conn->config);
    return true;
}

/* ---- one attempt ---------------------------------------------------------------------- */

static bool begin_attempt(struct my_conn *conn)
{
    memset(&conn->cut, 0, sizeof conn->cut);
    conn->own_io = conn->hooked_tls = conn->tls = conn->lost = conn->closed = false;
    conn->asked = conn->sent = conn->answered = conn->fresh = false;
    conn->due = 0;
    if (!mysql_init(&conn->my))
        return false;
    conn->made = true;
    conn->dialling = true;
    my_io_begin(conn);
    return set_options(conn);
}

void my_hang_up(struct my_conn *conn)
{
    if (!conn->made)
        return;
    conn->made = false;
    my_cut(conn, WEIR_CLOSED, "closed");
    if (!conn->own_io)
        mariadb_cancel(&conn->my); /* so that the library's farewell fails */
    my_io_end(conn);
    if (!conn->closed || conn->my.net.pvio)
        mysql_close(&conn->my);
}

/* The library waits for something: wait for it. Returns what it wants to hear of that. */
static int wait_as_told(struct my_conn *conn, int wanted)
{
    int events = 0;

    if (!conn->own_io) {
        conn->fd = mysql_get_socket(&conn->my);
        fcntl(conn->fd, F_SETFD, FD_CLOEXEC);
    }
    if (wanted & (MYSQL_WAIT_READ | MYSQL_WAIT_EXCEPT))
        events |= WEIR_READ;
    if (wanted & MYSQL_WAIT_WRITE)
        events |= WEIR_WRITE;
    bool ready = my_wait(conn, events);
    weir_fd_forget(conn->fd); /* it may be closed in what follows */
    if (ready)
        return wanted & ~MYSQL_WAIT_TIMEOUT;
    mariadb_cancel(&conn->my); /* under TLS the library does not listen to a timeout */
    return MYSQL_WAIT_TIMEOUT;
}

static weir_status attempt(struct my_conn *conn, const char *address, weir_error *err)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    unsigned long flags = CLIENT_REMEMBER_OPTIONS;
    MYSQL        *done = NULL;

    if (!begin_attempt(conn))
        return weir_error_set(err, WEIR_NOMEM, "no memory for a connection");
    snprintf(conn->address, sizeof conn->address, "%s", address ? address : "");
    if (opts->multi_statements)
        flags |= CLIENT_MULTI_STATEMENTS;
    int wait = mysql_real_connect_start(&done, &conn->my, address, my_login_user(conn),
                                        my_login_password(conn), opts->database, opts->port,
                                        opts->socket, flags);
    while (wait)
        wait = mysql_real_connect_cont(&done, &conn->my, wait_as_told(conn, wait));
    conn->dialling = false;
    if (!done)
        return my_blame_connect(conn, err);
    return my_io_settle(conn, err);
}

/* ---- a Unix socket -------------------------------------------------------------------- */

/* The kernel refuses at once where the server's queue is full, and the library takes that
   for "in progress": it is told by the errno in its words. */
static bool queue_is_full(const struct my_conn *conn)
{
    unsigned    code = mysql_errno((MYSQL *)&conn->my);
    const char *text = mysql_error((MYSQL *)&conn->my);

    return (code == CR_SERVER_LOST && strstr(text, "system error: 22")) ||
           (code == CR_CONNECTION_ERROR && my_errno_in(text) == EAGAIN);
}

static weir_status dial_socket(struct my_conn *conn, weir_error *err)
{
    for (int64_t pause_ms = 1;; pause_ms = pause_ms < 64 ? pause_ms * 2 : 100) {
        weir_status   status = attempt(conn, NULL, err);
        weir_deadline next = weir_in_ms(pause_ms);

        if (status == WEIR_OK || !queue_is_full(conn) || next.at_ns >= conn->limit.at_ns)
            return status;
        my_hang_up(conn);
        if (weir_sleep(next) != WEIR_OK)
            return status;
    }
}

/* ---- a host --------------------------------------------------------------------------- */

static weir_status look_up(struct my_conn *conn, struct addrinfo **found, weir_error *err)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    int                   errnum;
    weir_status           status = weir_resolve(conn->config->opts.host, NULL, &hints,
                                                conn->limit, found, err);

    if (status == WEIR_OK || status == WEIR_NOMEM)
        return status;
    if (status != WEIR_CONNECT)
        return weir_error_set(err, WEIR_CONNECT, "the lookup of host '%s' did not end in time",
                              conn->config->opts.host);
    if (my_out_of_descriptors(&errnum))
        return weir_error_set(err, WEIR_BUSY, "no descriptor to look up host '%s': %s",
                              conn->config->opts.host, strerror(errnum));
    return status;
}

/* Another address of the same host may do better, unless the server itself has answered. */
static bool next_may_help(const struct my_conn *conn, weir_status status)
{
    unsigned code = mysql_errno((MYSQL *)&conn->my);

    return status == WEIR_CONNECT && !my_is_server_error(code) &&
           conn->cut.status != WEIR_CANCELED && conn->cut.status != WEIR_TIMEOUT;
}

static weir_status dial_host(struct my_conn *conn, weir_error *err)
{
    struct addrinfo *found, *at;
    char             address[NI_MAXHOST];
    weir_status      status = look_up(conn, &found, err);

    if (status != WEIR_OK)
        return status;
    for (at = found; at; at = at->ai_next) {
        if (getnameinfo(at->ai_addr, at->ai_addrlen, address, sizeof address, NULL, 0,
                        NI_NUMERICHOST) != 0)
            continue;
        my_hang_up(conn);
        status = attempt(conn, address, err);
        if (!next_may_help(conn, status))
            break;
    }
    freeaddrinfo(found);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------ */

weir_status my_dial(struct my_conn *conn, const char *address, weir_error *err)
{
    if (conn->config->tls != WEIR_TLS_OFF && !my_library_is_known())
        return my_io_refuse_tls(err);
    weir_status status = my_login_begin(conn, err);
    if (status != WEIR_OK)
        return status;
    status = !conn->config->opts.host ? dial_socket(conn, err)
             : address                ? attempt(conn, address, err)
                                      : dial_host(conn, err);
    my_login_end(conn);
    return status;
}

weir_status my_open(weir_conn *base, const void *config, weir_deadline deadline, weir_error *err)
{
    struct my_conn       *conn = (struct my_conn *)base;
    const weir_pool_opts *pool = weir_pool_options(weir_conn_pool(base));

    conn->config = config;
    conn->fd = -1;
    conn->limit = deadline;
    conn->silence_ns = INT64_MAX;
    conn->ours = true;

    weir_status status = my_dial(conn, NULL, err);
    if (status == WEIR_OK)
        status = my_session_begin(conn, pool->reset, err);

    conn->ours = false;
    conn->limit = WEIR_FOREVER;
    if (pool->query_timeout_ms <= INT64_MAX / 1000000)
        conn->silence_ns = pool->query_timeout_ms * 1000000;
    return status;
}
