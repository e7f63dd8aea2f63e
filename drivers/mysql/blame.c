/*
 * blame.c - why something failed, in terms of what to do next.
 *
 * Knows:   our own reasons for ending a connection, the library's and the servers' codes.
 * Ignores: how any of it came about.
 *
 * Our own reasons come first: the library only knows that its socket failed, and calls a
 * deadline, a cancel and a dead server the same.
 */
#include "mysql_internal.h"

#include <errmsg.h>
#include <errno.h>
#include <mysqld_error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- codes ---------------------------------------------------------------------------- */

/* Before it closed a connection that was idle for too long: MySQL since 8.0.24. Where it stands in
   the place of an answer, the server has not seen the question. (MariaDB's 4031 is another one.) */
static bool was_idle_too_long(const MYSQL *my, unsigned code)
{
    enum { ER_OF_MYSQL_CLIENT_INTERACTION_TIMEOUT = 4031 };

    return code == ER_OF_MYSQL_CLIENT_INTERACTION_TIMEOUT && !mariadb_connection((MYSQL *)my);
}

/* Errors that the server sends as its last words. */
static bool is_last_word(const MYSQL *my, unsigned code)
{
    return code == ER_SERVER_SHUTDOWN || code == ER_CONNECTION_KILLED ||
           code == ER_NORMAL_SHUTDOWN || code == ER_NEW_ABORTING_CONNECTION ||
           was_idle_too_long(my, code);
}

bool my_was_last_word(const struct my_conn *conn)
{
    return conn->my.net.last_errno && is_last_word(&conn->my, conn->my.net.last_errno);
}

static bool is_broken_line(unsigned code)
{
    switch (code) {
    case CR_SERVER_GONE_ERROR:
    case CR_SERVER_LOST:
    case CR_SERVER_LOST_EXTENDED:
    case CR_SSL_CONNECTION_ERROR:
    case CR_MALFORMED_PACKET:
    case CR_ERR_NET_READ:
    case CR_ERR_NET_WRITE:
    case CR_ERR_NET_UNCOMPRESS:
        return true;
    default:
        return false;
    }
}

static weir_status status_of(const MYSQL *my, unsigned code)
{
    if (is_last_word(my, code) || is_broken_line(code))
        return WEIR_LOST;
    if (my_is_server_error(code))
        return WEIR_SERVER;
    return code == CR_OUT_OF_MEMORY ? WEIR_NOMEM : WEIR_USAGE;
}

/* The settings are wrong, and will be wrong the next time too. */
static bool is_settings(unsigned code)
{
    switch (code) {
    case ER_ACCESS_DENIED_ERROR:
    case ER_ACCESS_DENIED_NO_PASSWORD_ERROR:
    case ER_DBACCESS_DENIED_ERROR:
    case ER_BAD_DB_ERROR:
    case ER_HOST_NOT_PRIVILEGED:
    case ER_UNKNOWN_CHARACTER_SET:
    case ER_NOT_SUPPORTED_AUTH_MODE:
    case CR_CANT_READ_CHARSET:
    case CR_AUTH_PLUGIN_CANNOT_LOAD:
    case CR_AUTH_PLUGIN_ERR:
    case CR_PLUGIN_NOT_ALLOWED:
    case CR_SECURE_AUTH:
    case CR_VERSION_ERROR:
        return true;
    default:
        return false;
    }
}

/* ---- a call that failed --------------------------------------------------------------- */

/* Some errors of prepared statements stand in the statement alone. The newest is first. */
static const MYSQL_STMT *failed_statement(const MYSQL *my)
{
    for (const LIST *at = my->stmts; at; at = at->next) {
        const MYSQL_STMT *stmt = at->data;
        if (stmt->last_errno)
            return stmt;
    }
    return NULL;
}

/* Its error, which is no other's: nothing of what was withheld has reached the library. */
static bool was_withheld(const struct my_conn *conn, unsigned code)
{
    return conn->withheld && code == CR_UNKNOWN_ERROR;
}

static weir_outcome outcome(const struct my_conn *conn, unsigned code)
{
    if (was_idle_too_long(&conn->my, code))
        return WEIR_OUTCOME_NOT_SENT;
    if (my_is_server_error(code))
        return WEIR_OUTCOME_DONE;
    if (was_withheld(conn, code) || (conn->own_io && !conn->sent))
        return WEIR_OUTCOME_NOT_SENT;
    return conn->answered && !is_broken_line(code) && !conn->cut.status ? WEIR_OUTCOME_DONE
                                                                        : WEIR_OUTCOME_UNKNOWN;
}

static weir_status fill_in(weir_error *err, weir_status status, unsigned code, const char *state,
                           const char *text)
{
    weir_error_set(err, status, "%s", text);
    if (err) {
        err->native = (int)code;
        if (code && state)
            memcpy(err->sqlstate, state, 5);
    }
    return status;
}

static weir_status blame_code(struct my_conn *conn, weir_error *err)
{
    MYSQL            *my = &conn->my;
    const MYSQL_STMT *stmt = my->net.last_errno ? NULL : failed_statement(my);
    unsigned          code = stmt ? stmt->last_errno : my->net.last_errno;

    if (!code)
        return WEIR_OK;
    weir_status status = was_withheld(conn, code) ? conn->withheld : status_of(my, code);
    fill_in(err, status, code, stmt ? stmt->sqlstate : my->net.sqlstate,
            stmt ? stmt->last_error : my->net.last_error);
    if (err)
        err->outcome = outcome(conn, code);
    return status;
}

weir_status my_blame(struct my_conn *conn, weir_error *err)
{
    const weir_task *self = hot_self();

    if (conn->intrusion[0] && self && self != conn->base.user) {
        fill_in(err, WEIR_USAGE, 0, NULL, conn->intrusion);
        if (err)
            err->outcome = WEIR_OUTCOME_NOT_SENT;
        return WEIR_USAGE;
    }
    if (conn->cut.status) {
        fill_in(err, conn->cut.status, mysql_errno(&conn->my), mysql_sqlstate(&conn->my),
                conn->cut.text);
        if (err)
            err->outcome = outcome(conn, CR_SERVER_LOST);
        return conn->cut.status;
    }
    if (conn->closed) {
        fill_in(err, WEIR_USAGE, 0, NULL, "mysql_close() was called on the connection");
        if (err)
            err->outcome = WEIR_OUTCOME_NOT_SENT;
        return WEIR_USAGE;
    }
    return blame_code(conn, err);
}

/* ---- a connection that could not be opened -------------------------------------------- */

bool my_out_of_descriptors(int *errnum)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *errnum = errno;
    if (fd >= 0)
        close(fd);
    return fd < 0 && (*errnum == EMFILE || *errnum == ENFILE || *errnum == ENOBUFS);
}

/* As in "(24)" or "(110 "Connection timed out")". */
int my_errno_in(const char *text)
{
    const char *open = strrchr(text, '(');

    return open ? atoi(open + 1) : 0;
}

/* Nobody's failure: this process, or this machine, has no more of something just now. */
static bool is_shortage(const MYSQL *my)
{
    unsigned code = my->net.last_errno;
    int      errnum = my_errno_in(my->net.last_error);
    bool     said = errnum == EMFILE || errnum == ENFILE || errnum == ENOBUFS;

    switch (code) {
    case CR_SOCKET_CREATE_ERROR:
    case CR_IPSOCK_ERROR:
    case CR_CONNECTION_ERROR:
    case CR_CONN_HOST_ERROR:
        return said || errnum == EADDRNOTAVAIL;
    case CR_SSL_CONNECTION_ERROR:
        if (said)
            return true; /* of the certificates' file, when its own socket was still open */
        return my_out_of_descriptors(&errnum);
    case CR_UNKNOWN_HOST:
    case CR_FILE_NOT_FOUND:
    case CR_AUTH_PLUGIN_CANNOT_LOAD:
        return my_out_of_descriptors(&errnum); /* a file could not be read for want of one */
    default:
        return false;
    }
}

/* What the library says by number only, in words: "(111)", and the full queue of a Unix
   socket, which it takes for something else. */
static const char *in_words(const MYSQL *my)
{
    unsigned code = my->net.last_errno;

    if (code == CR_SERVER_LOST && strstr(my->net.last_error, "system error: 22"))
        return ": the queue of the server's socket is full";
    if (code == CR_CONNECTION_ERROR || code == CR_CONN_HOST_ERROR) {
        switch (my_errno_in(my->net.last_error)) {
        case ECONNREFUSED:
            return ": connection refused";
        case ENOENT:
            return ": no such file";
        case EACCES:
            return ": permission denied";
        case EAGAIN:
            return ": the queue of the server's socket is full";
        case EHOSTUNREACH:
        case ENETUNREACH:
            return ": unreachable";
        default:
            break;
        }
    }
    return "";
}

weir_status my_blame_connect(struct my_conn *conn, weir_error *err)
{
    MYSQL      *my = &conn->my;
    unsigned    code = my->net.last_errno;
    weir_status status = WEIR_CONNECT;
    const char *text = my->net.last_error;

    if (conn->cut.status)
        text = conn->cut.text;
    else if (is_shortage(my))
        status = WEIR_BUSY;
    else if (is_settings(code))
        status = WEIR_USAGE;
    weir_error_set(err, status, "cannot connect to %s: %s%s", conn->config->target, text,
                   conn->cut.status ? "" : in_words(my));
    if (err) {
        err->native = (int)code;
        err->outcome = WEIR_OUTCOME_NOT_SENT;
        memcpy(err->sqlstate, my->net.sqlstate, 5);
    }
    return status;
}
