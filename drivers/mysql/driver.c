/*
 * driver.c - what the pool asks of a MySQL connection.
 *
 * Each function is the pool's question (see weir/driver.h), put to the file that knows.
 */
#include "mysql_internal.h"

#include <stdlib.h>

static unsigned sockets(const void *config)
{
    (void)config;
    return 1;
}

/* ---- closing -------------------------------------------------------------------------- */

static void free_statements(LIST *left)
{
    while (left) {
        LIST *next = left->next;
        mysql_stmt_close(left->data);
        left = next;
    }
}

/* A statement was sent whose answer has not been read to its end. */
static bool is_at_work(const struct my_conn *conn)
{
    return conn->due || conn->my.status != MYSQL_STATUS_READY;
}

static bool can_be_polite(const struct my_conn *conn)
{
    return !conn->cut.status && !conn->lost && !conn->closed && conn->my.net.pvio &&
           !is_at_work(conn);
}

/* The connection first, its statements then: they are detached by that, and cost no packet. */
static void close_conn(weir_conn *base, weir_farewell how, weir_deadline deadline)
{
    struct my_conn *conn = (struct my_conn *)base;
    LIST           *left = conn->made && !conn->closed ? conn->my.stmts : NULL;

    if (!conn->made)
        return;
    if (how == WEIR_ABRUPT && !conn->lost && !conn->cut.status && is_at_work(conn))
        (void)my_kill_order(conn); /* what a lease leaves unread may be far from its end */
    conn->ours = true;
    conn->limit = deadline;
    if (how == WEIR_POLITE && can_be_polite(conn)) {
        if (!conn->own_io)
            my_io_end(conn);
        mysql_close(&conn->my);
        conn->made = false;
    } else {
        my_hang_up(conn);
    }
    free_statements(left);
    free(conn->base_db);
    conn->base_db = NULL;
}

/* The library may write and shut down what it likes then. */
static bool disown(weir_conn *base)
{
    struct my_conn *conn = (struct my_conn *)base;
    int             fd = -1;

    my_cut(conn, WEIR_LOST, "the connection is the parent process': this one was forked from it");
    if (conn->made) {
        fd = conn->own_io ? conn->fd : mysql_get_socket(&conn->my);
        my_io_end(conn);
    }
    weir_fd_dead_end(fd);
    return !conn->dialling && !conn->inside;
}

/* ---- between leases ------------------------------------------------------------------- */

static weir_condition check(weir_conn *base, weir_reset how)
{
    struct my_conn *conn = (struct my_conn *)base;
    MYSQL          *my = &conn->my;

    if (conn->cut.status || conn->closed)
        return WEIR_BROKEN;
    if (conn->lost || !my->net.pvio || my_was_last_word(conn))
        return WEIR_GONE;
    if (my->status != MYSQL_STATUS_READY || mysql_more_results(my) || !my_io_is_quiet(conn))
        return WEIR_BROKEN;
    my_io_watch(conn);
    return my_session_condition(conn, how);
}

static weir_status reset(weir_conn *base, weir_reset how, weir_deadline deadline, weir_error *err)
{
    struct my_conn *conn = (struct my_conn *)base;

    conn->ours = true;
    conn->limit = deadline;
    weir_status status = my_session_reset(conn, how, err);
    conn->limit = WEIR_FOREVER;
    conn->ours = false;
    return status;
}

static weir_status ping(weir_conn *base, weir_deadline deadline, weir_error *err)
{
    struct my_conn *conn = (struct my_conn *)base;

    conn->ours = true;
    conn->limit = deadline;
    weir_status status = my_session_ping(conn, err);
    conn->limit = WEIR_FOREVER;
    conn->ours = false;
    if (status == WEIR_OK)
        my_io_watch(conn);
    return status;
}

static weir_status describe(weir_conn *base, weir_error *err)
{
    return my_blame((struct my_conn *)base, err);
}

static void interrupt(weir_conn *base)
{
    my_io_interrupt((struct my_conn *)base);
}

const weir_driver my_driver = {
    .name = "mysql",
    .conn_size = sizeof(struct my_conn),
    .sockets = sockets,
    .open = my_open,
    .close = close_conn,
    .check = check,
    .reset = reset,
    .describe = describe,
    .interrupt = interrupt,
    .forked = my_kill_forked,
    .disown = disown,
    .ping = ping,
    .last_words = my_last_words,
    .free_config = my_config_free,
};
