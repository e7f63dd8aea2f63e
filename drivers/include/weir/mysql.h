/*
 * weir/mysql.h - pools of MySQL and MariaDB connections, used through plain libmariadb.
 *
 * Knows:   how to reach a server, and which options a connection is opened with.
 * Ignores: SQL. Once you hold a lease you call mysql_query(), mysql_store_result(),
 *          mysql_stmt_execute() ... as ever; each of them yields instead of blocking.
 * Threads: a pool and its handles stay on the thread that made the pool.
 *
 * Needs MariaDB Connector/C 3.3.
 */
#ifndef WEIR_MYSQL_H
#define WEIR_MYSQL_H

#include <mysql.h>
#include <weir/credentials.h>
#include <weir/pool.h>

WEIR_BEGIN_DECLS

typedef enum weir_tls {
    WEIR_TLS_DEFAULT = 0, /* Unix socket and loopback: off, unless tls_ca, tls_cert, tls_key or
                             tls_name is given. Any other address: WEIR_TLS_VERIFY */
    WEIR_TLS_OFF,         /* plain text */
    WEIR_TLS_ENCRYPT,     /* encrypted, but to whoever answers: no certificate is checked */
    WEIR_TLS_VERIFY       /* the certificate must come from tls_ca and name the host */
} weir_tls;

/*
 * Zero in a field means its default. Strings are copied. A field that is set wins over the
 * same thing in the URI.
 *
 *     mysql://user:password@host:3306/database
 *     mysql://user@localhost/database?socket=/run/mysqld/mysqld.sock
 *
 * Percent-escapes are decoded; an IPv6 address stands in brackets. After '?': socket, tls
 * (off, encrypt, verify), tls_ca, tls_cert, tls_key, tls_name, charset, local_infile (0, 1),
 * multi_statements (0, 1), kill_cut (0, 1). "localhost" means the Unix socket, as everywhere in
 * MySQL; write 127.0.0.1 for TCP.
 *
 * A host's name is looked up, and the files for TLS are read, for each connection that is opened;
 * so what has changed is in force for all of them after weir_pool_clear() and weir_pool_ready().
 *
 * What WEIR_RESET_DIRTY (weir/pool.h) notices: open transactions, statements that failed,
 * variables, database, character set, temporary tables, PREPARE, LOCK TABLES, another user.
 *
 * It does not notice:
 *   - GET_LOCK(), and user variables assigned inside of a SELECT (SELECT @a := 1);
 *   - what MariaDB does not report (tried on 10.11): CREATE TEMPORARY TABLE ... SELECT, FLUSH
 *     TABLES WITH READ LOCK, BACKUP, HANDLER, and SET of insert_id and of the variables of the
 *     tracking itself. Such a statement is known by its first words, so not where a procedure runs
 *     it, where it comes after a ';' (.multi_statements), or after a comment.
 * Where these are used, put right what you did, or choose WEIR_RESET_FULL.
 *
 * wait_timeout, the server's own, is asked for when a connection is opened and reset (in one go
 * with other statements, or else for one round trip). A connection that has said nothing for that
 * long, less a tenth (0.25 s at least, 5 s at most), is not lent any more, and closed, or pinged
 * with .pool.keepalive_ms (COM_PING). After the words of MySQL 8.0.24 and later ("disconnected by
 * the server because of inactivity", 4031) in place of an answer the outcome is NOT_SENT. Where a
 * user changes wait_timeout and the pool resets nothing (WEIR_RESET_NONE) it is not known.
 */
typedef struct weir_mysql_opts {
    const char *uri;
    const char *host;      /* a name is looked up off the hub, and is what TLS verifies */
    const char *socket;    /* path of a Unix socket, instead of a host */
    unsigned    port;      /* (3306) */
    const char *user;      /* (none: must be given, here or by credentials) */
    const char *password;  /* never in a log or an error */
    weir_credentials_fn credentials; /* asked at every login, instead of a password in here:
                                        weir/credentials.h (none) */
    void       *credentials_arg;     /* what it gets */
    const char *database;  /* (none) */
    const char *charset;   /* (utf8mb4) */

    weir_tls    tls;
    const char *tls_ca;    /* PEM file with the authority that signed the server's certificate */
    const char *tls_cert;  /* PEM files: our own certificate and key, where the server asks */
    const char *tls_key;
    const char *tls_name;  /* verify this name instead of the host's */

    bool local_infile;     /* allow LOAD DATA LOCAL: the server may then ask for any file we can
                              read (off) */
    bool multi_statements; /* allow several statements in one mysql_query() (off) */
    bool kill_cut;         /* have the server end what was cut: see weir_mysql() (off) */

    weir_pool_opts pool;
} weir_mysql_opts;

/**
 * Make a pool. Nothing is opened yet (but see min_idle): a server that is down is reported by
 * the first weir_acquire().
 *
 * Yields:  no.
 * Context: a coroutine, or the thread of an attached hub.
 * Owner:   *out is yours, until weir_pool_free().
 * Returns: WEIR_OK; WEIR_USAGE with the option that is wrong and how to mend it; WEIR_FULL
 *          (see weir_pool_new); WEIR_NOMEM.
 */
WEIR_API weir_status weir_mysql_pool_new(const weir_mysql_opts *opts, weir_pool **out,
                                         weir_error *err) WEIR_MUST_CHECK;

/**
 * The handle behind a lease, for plain libmariadb calls by the coroutine that holds it.
 *
 * A statement that is begun when its coroutine is cancelled already, or its WEIR_DEADLINE has
 * passed, is not sent: the call fails, weir_lease_error() says WEIR_CANCELED or WEIR_TIMEOUT with
 * the outcome NOT_SENT, and the connection is as good as before (it is closed where a statement is
 * prepared anew, or prepared and executed in one call, which the library sends as several
 * commands). So a transaction whose COMMIT comes too late is rolled back when the lease ends. A
 * statement that is cut while it waits for its answer has the outcome UNKNOWN, and its connection
 * is closed.
 *
 * The server knows nothing of that, and goes on: with its work, its locks, its memory. With
 * `kill_cut` it is told KILL CONNECTION for what a deadline, a cancel or query_timeout_ms has cut,
 * and for what a lease that ends leaves unread. That is done in the background, over one more
 * connection (at a time, paid for in the budget, made like all others), within 3 s, for which
 * weir_pool_close() waits; a warning is logged where it did not succeed. Each connection asks
 * the server for its name when it is opened: another one behind the same address is not told. The
 * outcome stays UNKNOWN, since the statement may have been done before. A statement with a limit
 * of its own (MariaDB: SET STATEMENT max_statement_time = 0.5 FOR SELECT ...) ends even where no
 * connection can be made any more.
 *
 * Owner:   borrowed; valid as long as the lease. mysql_close() on it ends the connection but
 *          frees nothing. Statements still open when the lease ends are closed and freed with
 *          it: a MYSQL_STMT must not outlive its lease. A stored MYSQL_RES may.
 * Returns: NULL, and logs, for a lease that is over or of another driver.
 */
WEIR_API MYSQL *weir_mysql(weir_lease *lease);

/**
 * Check what weir relies on in this process: that libmariadb is the version and layout it was
 * built for, and that its hooks fire. Made by itself before the first pool.
 *
 * Returns: WEIR_OK; WEIR_USAGE with what is missing.
 */
WEIR_API weir_status weir_mysql_selfcheck(weir_error *err) WEIR_MUST_CHECK;

WEIR_END_DECLS

#endif
