/*
 * session.c - what a user's statements do to a session, and putting it right again.
 *
 * Knows:   the library's table of commands, the server's reports about a session's state.
 * Ignores: sockets, connecting, the pool.
 *
 * Every command and every read of a reply goes through a table of functions that each MYSQL
 * points to. Ours looks at what passes:
 *
 *   - whose turn it is. A coroutine that does not hold the connection is refused here, before
 *     it can touch the socket or disturb the holder's call;
 *   - whether its coroutine could still wait for an answer. A statement of one that was
 *     cancelled or is late is withheld, so that nobody has to guess what became of it, and the
 *     connection is as good as before;
 *   - whether the statement left, and whether it was answered: a failed call's outcome;
 *   - how many replies are still to come. The library itself does not know that a query was
 *     sent with mysql_send_query() and never read;
 *   - what the server says about the session. The library keeps what the last reply said, so
 *     it is collected before each next one.
 *
 * What the server says: each OK carries the transaction's state, and what else of the session
 * has changed, if it was asked to track that (session_track_state_change). The end of a result
 * set says only that something has, and an error says nothing at all, though its statement may
 * have called a procedure that did much before it failed. The server keeps such changes and
 * reports them with the next OK that has something to report, which can be made to happen.
 * And some changes no server reports: those are known by how their statement begins, which is
 * all that is ever read of one (see goes_unreported() below).
 *
 * Not seen by any of this: GET_LOCK(), user variables assigned inside of a SELECT, and what
 * goes unreported where it is done by a procedure or after a ';'.
 */
#include "mysql_internal.h"

#include "log.h"

#include <errmsg.h>
#include <mysqld_error.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TRACKING "session_track_state_change=1, session_track_transaction_info='CHARACTERISTICS'"

static struct st_mariadb_methods        ours, theirs;
static const struct st_mariadb_methods *theirs_at; /* the table that was copied */
static pthread_mutex_t                  table_lock = PTHREAD_MUTEX_INITIALIZER;

static void clear_error(MYSQL *my)
{
    my->net.last_errno = 0;
    my->net.last_error[0] = '\0';
    strcpy(my->net.sqlstate, "00000");
}

bool my_is_server_error(unsigned code)
{
    return code && !(code >= CR_MIN_ERROR && code <= CR_MAX_ERROR) &&
           !(code >= CER_MIN_ERROR && code <= CER_MAX_ERROR);
}

/* ---- what the last reply told --------------------------------------------------------- */

static bool told(MYSQL *my, enum enum_session_state_type type, const char **data, size_t *size)
{
    return mysql_session_track_get_first(my, type, data, size) == 0;
}

static void look_at_changes(struct my_conn *conn)
{
    MYSQL      *my = &conn->my;
    const char *data;
    size_t      size;

    if (told(my, SESSION_TRACK_SYSTEM_VARIABLES, &data, &size) ||
        told(my, SESSION_TRACK_SCHEMA, &data, &size) ||
        told(my, SESSION_TRACK_STATE_CHANGE, &data, &size))
        conn->changed = true;
    /* Eight letters, the last of them for locked tables. */
    if (told(my, SESSION_TRACK_TRANSACTION_STATE, &data, &size))
        conn->locked = size >= 8 && data[7] == 'L';
    /* The statements that would begin such a transaction elsewhere; none for a plain one. */
    if (told(my, SESSION_TRACK_TRANSACTION_CHARACTERISTICS, &data, &size))
        conn->primed = size > 0;
}

static void keep_error(struct my_conn *conn)
{
    if (my_is_server_error(conn->my.net.last_errno))
        conn->blind = conn->hinted = true;
}

static void collect(struct my_conn *conn)
{
    MYSQL *my = &conn->my;

    keep_error(conn);
    if (!conn->fresh)
        return;
    conn->fresh = false;
    conn->blind = false;
    if (!(my->server_status & SERVER_SESSION_STATE_CHANGED))
        return;
    conn->hinted = my->field_count; /* the end of a result set: its lists are of an OK before */
    if (!conn->hinted)
        look_at_changes(conn);
}

/* Not left to the next collect(): the library forgets errors where no command passes by, as
   in mysql_stmt_close(), and an intruder's takes the place of the holder's. */
static void note_failure(struct my_conn *conn)
{
    collect(conn);
    keep_error(conn); /* it is newer than what was collected */
}

/* ---- whose turn it is ----------------------------------------------------------------- */

static void set_error(MYSQL *my, unsigned code, const char *text)
{
    my->net.last_errno = code;
    strcpy(my->net.sqlstate, "HY000");
    snprintf(my->net.last_error, sizeof my->net.last_error, "%s", text);
}

static bool refused(struct my_conn *conn)
{
    if (my_may_talk(conn))
        return false;
    set_error(&conn->my, CR_COMMANDS_OUT_OF_SYNC, conn->intrusion);
    conn->intruded = true;
    return true;
}

/* The holder's call succeeded, while somebody else was refused in the middle of it. */
static void wipe_intrusion(struct my_conn *conn)
{
    if (conn->intruded && conn->my.net.last_errno == CR_COMMANDS_OUT_OF_SYNC)
        clear_error(&conn->my);
    conn->intruded = false;
}

/*
 * Preparing a statement anew, and preparing and executing in one call: the library collects
 * the commands and sends them together. One that fails in between leaves it collecting for
 * ever, and the next call waiting for the answer to what was never sent.
 */
static bool is_collected(enum enum_server_command command, const MYSQL_STMT *stmt)
{
    if (command == COM_STMT_PREPARE)
        return stmt->state > MYSQL_STMT_INITTED || stmt->stmt_id == (unsigned long)-1;
    return (command == COM_STMT_EXECUTE || command == COM_STMT_BULK_EXECUTE) &&
           stmt->stmt_id == (unsigned long)-1;
}

/* An intruder's commands fail without a trace, but for those that take a statement away from
   the holder: COM_STMT_CLOSE, which may also be the first of several collected. */
static bool refused_command(struct my_conn *conn, enum enum_server_command command,
                            const MYSQL_STMT *stmt)
{
    if (!refused(conn))
        return false;
    if (command == COM_STMT_CLOSE || is_collected(command, stmt))
        my_cut(conn, WEIR_LOST, "its statement was closed by somebody else: %s", conn->intrusion);
    return true;
}

/* ---- what is withheld ----------------------------------------------------------------- */

/* What belongs to a statement that was begun in time is not: an end is always let through, and
   that no more rows come does not make it unsent. */
static bool begins_something(enum enum_server_command command)
{
    return command != COM_QUIT && command != COM_STMT_CLOSE && command != COM_STMT_RESET &&
           command != COM_STMT_FETCH;
}

static bool withheld(struct my_conn *conn, enum enum_server_command command,
                     const MYSQL_STMT *stmt)
{
    /* By the clock and not the turn's: he may have computed for long. It is read, for 27 ns,
       only where there is a deadline. */
    weir_status status = weir_check();

    if (!status || conn->cut.status || !begins_something(command))
        return false;
    const char *why = status == WEIR_CANCELED ? "cancelled before it was sent"
                                              : "the deadline passed before it was sent";
    if (is_collected(command, stmt)) {
        my_cut(conn, status, "%s", why); /* nothing of the collection leaves either */
        return false;
    }
    set_error(&conn->my, CR_UNKNOWN_ERROR, why);
    conn->withheld = status;
    return true;
}

/* ---- our table ------------------------------------------------------------------------ */

static bool has_reply(enum enum_server_command command)
{
    return command == COM_QUERY || command == COM_STMT_PREPARE || command == COM_STMT_EXECUTE ||
           command == COM_STMT_BULK_EXECUTE;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool next_word_is(const char *word, const char **at, const char *end)
{
    const char *p = *at;
    size_t      size = strlen(word);

    while (p < end && is_space(*p))
        p++;
    if ((size_t)(end - p) <= size || strncasecmp(p, word, size) != 0 ||
        (!is_space(p[size]) && p[size] != '@'))
        return false;
    *at = p + size;
    return true;
}

/*
 * Tried on MariaDB 10.11: it does not report a temporary table made of a SELECT, a read lock on
 * everything, BACKUP, HANDLER, nor such variables as insert_id and those of the tracking
 * itself. A SET that is reported anyway costs no more by being noted twice; SET TRANSACTION is
 * left out, since it does well with less than a full reset.
 */
static bool goes_unreported(const char *sql, size_t size)
{
    const char *end = sql + size;

    while (sql < end && is_space(*sql))
        sql++;
    switch (sql < end ? *sql | 0x20 : 0) { /* by its letter first: this is asked for every one */
    case 's':
        return next_word_is("SET", &sql, end) && !next_word_is("TRANSACTION", &sql, end);
    case 'f':
        return next_word_is("FLUSH", &sql, end);
    case 'b':
        return next_word_is("BACKUP", &sql, end);
    case 'h':
        return next_word_is("HANDLER", &sql, end);
    case 'c':
        return next_word_is("CREATE", &sql, end) &&
               (!next_word_is("OR", &sql, end) || next_word_is("REPLACE", &sql, end)) &&
               next_word_is("TEMPORARY", &sql, end);
    default:
        return false;
    }
}

static void note_command(struct my_conn *conn, enum enum_server_command command, const char *arg,
                         size_t size)
{
    conn->used = true;
    switch ((int)command) {
    case COM_QUERY:
    case COM_STMT_PREPARE:
        if (goes_unreported(arg, size))
            conn->changed = true;
        break;
    case COM_CHANGE_USER:
        conn->new_user = true;
        break;
    case COM_SET_OPTION:
        conn->new_option = true;
        break;
    case COM_RESET_CONNECTION:
        conn->changed = true; /* to the server's defaults, not to ours */
        break;
    case COM_BINLOG_DUMP:
        conn->due++; /* never-ending */
        break;
    default:
        break;
    }
}

static int own_command(MYSQL *my, enum enum_server_command command, const char *arg, size_t size,
                       my_bool no_reply_yet, void *opt)
{
    struct my_conn *conn = my_conn_of(my);

    if (refused_command(conn, command, opt))
        return 1;
    if (command == COM_QUIT && conn->cut.status)
        return 1; /* not a byte more */
    collect(conn);
    if (!conn->ours) {
        /* Also of one that is withheld: the library's own side of it, such as the statements
           it has let go of, happens. */
        note_command(conn, command, arg, size);
        if (withheld(conn, command, opt))
            return 1;
    }
    my->options.reconnect = 0; /* a session must not be exchanged under its user */
    conn->sent = conn->answered = false;
    conn->withheld = WEIR_OK;

    bool asked = conn->asked;
    int  rc = theirs.db_command(my, command, arg, size, no_reply_yet, opt);
    if (rc) {
        note_failure(conn);
        return rc;
    }
    wipe_intrusion(conn);
    if (command == COM_STMT_CLOSE || command == COM_STMT_SEND_LONG_DATA)
        conn->asked = asked; /* no reply will come of this one */
    else if (no_reply_yet)
        conn->due += has_reply(command);
    else
        conn->answered = true;
    return 0;
}

/* A reply is about to be read: one that is due, or the next result of the one before. */
static void begin_reply(struct my_conn *conn)
{
    collect(conn);
    if (conn->due && !(conn->my.server_status & SERVER_MORE_RESULTS_EXIST))
        conn->due--;
}

static int end_reply(struct my_conn *conn, int rc)
{
    if (rc) {
        note_failure(conn);
        return rc;
    }
    wipe_intrusion(conn);
    conn->answered = true;
    conn->fresh = true;
    return rc;
}

static int own_read_query_result(MYSQL *my)
{
    struct my_conn *conn = my_conn_of(my);

    if (refused(conn))
        return 1;
    begin_reply(conn);
    return end_reply(conn, theirs.db_read_query_result(my));
}

/* The same for a prepared statement; the library reaches it through an entry of its own. */
static int own_read_stmt_result(MYSQL *my)
{
    struct my_conn *conn = my_conn_of(my);

    if (refused(conn))
        return 1;
    begin_reply(conn);
    return end_reply(conn, theirs.db_read_stmt_result(my));
}

static my_bool own_read_prepare_response(MYSQL_STMT *stmt)
{
    struct my_conn *conn = my_conn_of(stmt->mysql);

    if (refused(conn))
        return 1;
    conn->due -= conn->due > 0;
    my_bool rc = theirs.db_read_prepare_response(stmt);
    conn->answered = !rc;
    if (rc)
        note_failure(conn);
    return rc;
}

/*
 * Rows: nothing to learn from, but an intruder must not read them. To the library, one who
 * failed to read rows has ended the result all the same, and the holder would take the rows
 * for the answer to his next query. So he gets nothing any more.
 */
static bool refused_rows(MYSQL *my)
{
    struct my_conn *conn = my_conn_of(my);

    if (!refused(conn))
        return false;
    my_cut(conn, WEIR_LOST, "its result was ended by somebody else: %s", conn->intrusion);
    return true;
}

static MYSQL_DATA *own_read_rows(MYSQL *my, MYSQL_FIELD *fields, unsigned count)
{
    return refused_rows(my) ? NULL : theirs.db_read_rows(my, fields, count);
}

static int own_read_one_row(MYSQL *my, unsigned count, MYSQL_ROW row, unsigned long *lengths)
{
    return refused_rows(my) ? -1 : theirs.db_read_one_row(my, count, row, lengths);
}

static void own_skip_result(MYSQL *my)
{
    if (!refused_rows(my))
        theirs.db_skip_result(my);
}

static void own_stmt_flush(MYSQL_STMT *stmt)
{
    if (!refused_rows(stmt->mysql))
        theirs.db_stmt_flush_unbuffered(stmt);
}

static int own_stmt_read_all_rows(MYSQL_STMT *stmt)
{
    return refused_rows(stmt->mysql) ? 1 : theirs.db_stmt_read_all_rows(stmt);
}

/* Releases of Connector/C 3.3 differ in this one. */
#ifdef WEIR_HAVE_STMT_FETCH_LENGTH
static int own_stmt_fetch(MYSQL_STMT *stmt, unsigned char **row, unsigned long *length)
{
    return refused_rows(stmt->mysql) ? 1 : theirs.db_stmt_fetch(stmt, row, length);
}
#else
static int own_stmt_fetch(MYSQL_STMT *stmt, unsigned char **row)
{
    return refused_rows(stmt->mysql) ? 1 : theirs.db_stmt_fetch(stmt, row);
}
#endif

/*
 * mysql_close() by a user ends the connection; the pool sees it when the lease ends. There is
 * no refusing it: the library frees the handle's memory next. So an intruder makes the holder's
 * call fail, and lets him get out of it, first.
 */
static void own_close(MYSQL *my)
{
    struct my_conn *conn = my_conn_of(my);

    if (!conn->ours) {
        conn->closed = true;
        if (!my_may_talk(conn)) {
            LOG(WEIR_LOG_ERROR, "mysql_close(): %s", conn->intrusion);
            my_cut(conn, WEIR_LOST, "somebody else closed it: %s", conn->intrusion);
            weir_fd_forget(conn->fd);
            while (conn->inside && hot_self())
                (void)weir_yield();
        }
    }
    theirs.db_close(my);
}

static void table_make(const struct st_mariadb_methods *table)
{
    theirs = ours = *table;
    ours.db_command = own_command;
    ours.db_close = own_close;
    ours.db_skip_result = own_skip_result;
    ours.db_read_query_result = own_read_query_result;
    ours.db_read_rows = own_read_rows;
    ours.db_read_one_row = own_read_one_row;
    ours.db_read_prepare_response = own_read_prepare_response;
    ours.db_read_stmt_result = own_read_stmt_result;
    ours.db_stmt_fetch = own_stmt_fetch;
    ours.db_stmt_read_all_rows = own_stmt_read_all_rows;
    ours.db_stmt_flush_unbuffered = own_stmt_flush;
    theirs_at = table;
}

static void hook(struct my_conn *conn)
{
    if (!conn->own_io)
        return;
    pthread_mutex_lock(&table_lock);
    if (!theirs_at)
        table_make(conn->my.methods);
    if (theirs_at == conn->my.methods)
        conn->my.methods = &ours;
    pthread_mutex_unlock(&table_lock);
}

/* ---- statements of our own ------------------------------------------------------------ */

static void forget_lease(struct my_conn *conn)
{
    collect(conn);
    conn->used = conn->blind = conn->hinted = conn->changed = conn->locked = false;
    conn->primed = false;
    conn->new_user = conn->new_option = conn->intruded = false;
    conn->withheld = WEIR_OK;
    conn->intrusion[0] = '\0';
    clear_error(&conn->my); /* or the next holder's weir_lease_error() would tell of it */
}

/* In one go: none depends on what another one answers. */
static bool send_all(struct my_conn *conn, const char *const *sql, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (mysql_send_query(&conn->my, sql[i], strlen(sql[i])))
            return false;
    return true;
}

/* Of statements without results. */
static bool read_answers(struct my_conn *conn, unsigned count)
{
    while (count--)
        if (mysql_read_query_result(&conn->my))
            return false;
    return true;
}

static bool statements(struct my_conn *conn, const char *const *sql, unsigned count)
{
    return send_all(conn, sql, count) && read_answers(conn, count);
}

/* ---- how long it may say nothing ------------------------------------------------------ */

/*
 * The session's own wait_timeout, which is what the server counts with: it is a copy of
 * interactive_timeout where a client calls itself interactive, which ours do not. Asked in one go
 * with what is sent anyway, and before it: the last reply must be an OK, which tells of the
 * session's state.
 */
#define ASK_FOR_REST "SELECT @@wait_timeout"

/* The server counts from when it has answered, we from when we heard, and a statement takes its
   time to arrive: a tenth, but for short ones a quarter of a second and for long ones five. */
static int64_t rest_of(long long timeout_s)
{
    const int64_t ms = 1000000;
    int64_t       timeout = (int64_t)timeout_s * 1000 * ms, margin = timeout / 10;

    if (margin < 250 * ms)
        margin = 250 * ms;
    if (margin > 5000 * ms)
        margin = 5000 * ms;
    return timeout - margin;
}

/* A server that does not know the variable answers with an error, and nobody knows then. */
static bool read_rest(struct my_conn *conn)
{
    enum { LONGEST_S = 31536000 }; /* of MySQL and MariaDB: a year */
    MYSQL *my = &conn->my;

    conn->rest_ns = 0;
    conn->base.quiet_until_ns = INT64_MAX;
    if (mysql_read_query_result(my))
        return my_is_server_error(mysql_errno(my));
    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return false;
    MYSQL_ROW row = mysql_fetch_row(result);
    long long timeout_s = row && row[0] ? atoll(row[0]) : 0;
    mysql_free_result(result);
    if (timeout_s >= 1 && timeout_s <= LONGEST_S) {
        conn->rest_ns = rest_of(timeout_s);
        conn->base.quiet_until_ns = hot_now() + conn->rest_ns;
    }
    return true;
}

/* ---- a session as it is lent ---------------------------------------------------------- */

weir_status my_session_begin(struct my_conn *conn, weir_reset how, weir_error *err)
{
    MYSQL *my = &conn->my;

    hook(conn);
    if (conn->config->opts.local_infile)
        mysql_set_local_infile_default(my);
    bool track = how == WEIR_RESET_DIRTY && my->methods == &ours;
    bool told_rest = send_all(conn, (const char *[]){ ASK_FOR_REST, "SET " TRACKING }, 1 + track) &&
                     read_rest(conn);
    conn->tracks = told_rest && track && read_answers(conn, 1);
    if (conn->config->opts.kill_cut && !my_kill_meet(conn))
        LOG(WEIR_LOG_WARN, "%s does not say which server it is: statements that are cut go on "
            "there, in spite of kill_cut: %s", conn->config->target, mysql_error(my));
    /* A server that does not know the variables is reset after each lease instead. */
    if (mysql_errno(my) && !my_is_server_error(mysql_errno(my)))
        return my_blame_connect(conn, err);
    clear_error(my);
    conn->base_status = my->server_status;
    conn->base_charset = my->charset;
    conn->base_db = my->db ? strdup(my->db) : NULL;
    if (my->db && !conn->base_db)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a connection");
    forget_lease(conn);
    return WEIR_OK;
}

/* ---- when a lease ends ---------------------------------------------------------------- */

static bool same_name(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static bool in_transaction(const struct my_conn *conn)
{
    return conn->blind || (conn->my.server_status & SERVER_STATUS_IN_TRANS);
}

static bool must_ask(const struct my_conn *conn, weir_reset how)
{
    return conn->hinted && how == WEIR_RESET_DIRTY;
}

/* Beyond what a rollback puts right. */
static bool session_changed(const struct my_conn *conn)
{
    const MYSQL *my = &conn->my;

    return conn->changed || conn->locked || conn->new_option ||
           (conn->primed && !in_transaction(conn)) ||
           my->charset != conn->base_charset || !same_name(my->db, conn->base_db) ||
           ((my->server_status ^ conn->base_status) & SERVER_STATUS_AUTOCOMMIT);
}

static bool needs_full_reset(const struct my_conn *conn, weir_reset how)
{
    if (conn->new_user)
        return true; /* nobody may inherit another identity */
    if (how == WEIR_RESET_FULL || (how == WEIR_RESET_DIRTY && !conn->tracks))
        return conn->used || conn->my.methods != &ours;
    return how == WEIR_RESET_DIRTY && session_changed(conn);
}

static bool own_infile_handler(const struct my_conn *conn)
{
    MYSQL plain;

    if (!conn->config->opts.local_infile)
        return false;
    memset(&plain.options, 0, sizeof plain.options);
    mysql_set_local_infile_default(&plain);
    return conn->my.options.local_infile_init != plain.options.local_infile_init;
}

weir_condition my_session_condition(struct my_conn *conn, weir_reset how)
{
    collect(conn);
    if (conn->due)
        return WEIR_BROKEN;
    if (in_transaction(conn) || must_ask(conn, how) || conn->my.stmts ||
        own_infile_handler(conn) || needs_full_reset(conn, how))
        return WEIR_DIRTY;
    forget_lease(conn);
    return WEIR_CLEAN;
}

/* ---- putting it right ----------------------------------------------------------------- */

static void close_statements(MYSQL *my)
{
    while (my->stmts)
        mysql_stmt_close(my->stmts->data); /* takes itself off the list */
}

/* A database name as it stands between backticks. */
static bool quote(const char *name, char *out, size_t size)
{
    size_t at = 0;

    for (; *name; name++) {
        if (at + 3 > size)
            return false;
        if (*name == '`')
            out[at++] = '`';
        out[at++] = *name;
    }
    out[at] = '\0';
    return true;
}

/* The server has its own defaults now, which are not those we connected with. */
static bool apply_settings(struct my_conn *conn)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    MYSQL                 *my = &conn->my;
    char                   set[200], name[400], use[416];
    bool                   database = opts->database && quote(opts->database, name, sizeof name);
    const char            *sql[] = { ASK_FOR_REST, set, use };

    snprintf(set, sizeof set, "SET NAMES %s%s", opts->charset, conn->tracks ? ", " TRACKING : "");
    snprintf(use, sizeof use, "USE `%s`", database ? name : "");
    if (!send_all(conn, sql, database ? 3 : 2) || !read_rest(conn) ||
        !read_answers(conn, database ? 2 : 1))
        return false;
    return my->charset == conn->base_charset ||
           mysql_set_character_set(my, opts->charset) == 0;
}

static bool log_in_again(struct my_conn *conn)
{
    weir_error err;

    if (my_login_begin(conn, &err) != WEIR_OK) {
        my_cut(conn, WEIR_LOST, "%s", err.message);
        return false;
    }
    bool done = !mysql_change_user(&conn->my, my_login_user(conn), my_login_password(conn),
                                   conn->config->opts.database);
    my_login_end(conn);
    return done;
}

/*
 * mysql_reset_connection() leaves the database and the user as they are. Logging in anew
 * restores both, also "no database", which cannot be selected.
 */
static bool reset_session(struct my_conn *conn)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    MYSQL                 *my = &conn->my;
    LIST                  *left = my->stmts;
    bool                   login = conn->new_user || (my->db && my->db[0] && !opts->database);

    if (login ? !log_in_again(conn) : mysql_reset_connection(my))
        return false;
    /* They are detached now, and the server has forgotten them. */
    while (left) {
        LIST *next = left->next;
        mysql_stmt_close(left->data);
        left = next;
    }
    if (conn->new_option &&
        mysql_set_server_option(my, opts->multi_statements ? MYSQL_OPTION_MULTI_STATEMENTS_ON
                                                           : MYSQL_OPTION_MULTI_STATEMENTS_OFF))
        return false;
    return apply_settings(conn);
}

/*
 * Where the server may have kept back what it has to report, an empty transaction makes it
 * speak: that is a change it reports, and the rest comes with it.
 */
static bool end_transaction(struct my_conn *conn, weir_reset how)
{
    static const char *const sql[] = { "ROLLBACK", "BEGIN", "ROLLBACK" };

    bool done = must_ask(conn, how)    ? statements(conn, sql, 3)
                : in_transaction(conn) ? statements(conn, sql, 1)
                                       : true;
    collect(conn);
    return done;
}

static bool put_right(struct my_conn *conn, weir_reset how)
{
    if (conn->config->opts.local_infile)
        mysql_set_local_infile_default(&conn->my);
    if (needs_full_reset(conn, how))
        return reset_session(conn);
    close_statements(&conn->my);
    return end_transaction(conn, how) && (!needs_full_reset(conn, how) || reset_session(conn));
}

weir_status my_session_reset(struct my_conn *conn, weir_reset how, weir_error *err)
{
    clear_error(&conn->my); /* an old error must not be taken for one of the reset's */
    if (!put_right(conn, how))
        return my_blame(conn, err) ? WEIR_LOST
                                   : weir_error_set(err, WEIR_LOST, "%s", mysql_error(&conn->my));
    forget_lease(conn);
    return WEIR_OK;
}

weir_status my_session_ping(struct my_conn *conn, weir_error *err)
{
    clear_error(&conn->my); /* an old error must not be taken for this one's */
    if (mysql_ping(&conn->my))
        return my_blame(conn, err) ? WEIR_LOST
                                   : weir_error_set(err, WEIR_LOST, "the ping failed");
    if (!my_io_is_quiet(conn))
        return weir_error_set(err, WEIR_LOST, "it answers more than it is asked");
    return WEIR_OK;
}
