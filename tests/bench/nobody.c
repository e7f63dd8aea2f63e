/*
 * nobody.c - connections to nobody: what a pool does is all there is to measure.
 */
#include "nobody.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- no descriptor ------------------------------------------------------------------ */

static unsigned no_socket(const void *config)
{
    (void)config;
    return 0;
}

static unsigned one_socket(const void *config)
{
    (void)config;
    return 1;
}

static unsigned two_sockets(const void *config)
{
    (void)config;
    return 2;
}

static weir_status open_nothing(weir_conn *conn, const void *config, weir_deadline deadline,
                                weir_error *err)
{
    (void)conn;
    (void)config;
    (void)deadline;
    (void)err;
    return WEIR_OK;
}

static void close_nothing(weir_conn *conn, weir_farewell how, weir_deadline deadline)
{
    (void)conn;
    (void)how;
    (void)deadline;
}

static weir_condition always_clean(weir_conn *conn, weir_reset how)
{
    (void)conn;
    (void)how;
    return WEIR_CLEAN;
}

static weir_status nothing_to_reset(weir_conn *conn, weir_reset how, weir_deadline deadline,
                                    weir_error *err)
{
    (void)conn;
    (void)how;
    (void)deadline;
    (void)err;
    return WEIR_OK;
}

static weir_status nothing_failed(weir_conn *conn, weir_error *err)
{
    (void)conn;
    return weir_error_set(err, WEIR_OK, "nothing failed");
}

static void no_config(void *config)
{
    (void)config;
}

/* ---- a socket pair each --------------------------------------------------------------- */

struct pair_conn {
    weir_conn conn;
    int       near, far; /* -1 until open */
};

static void stirred(int fd, void *arg)
{
    (void)fd;
    weir_conn_stirred(arg);
}

static weir_status open_pair(weir_conn *conn, const void *config, weir_deadline deadline,
                             weir_error *err)
{
    struct pair_conn *self = (struct pair_conn *)conn;
    int               pair[2];

    (void)config;
    (void)deadline;
    self->near = self->far = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return weir_error_set(err, WEIR_CONNECT, "socketpair: %s", strerror(errno));
    self->near = pair[0];
    self->far = pair[1];
    return weir_fd_watch(self->near, stirred, conn);
}

static void close_pair(weir_conn *conn, weir_farewell how, weir_deadline deadline)
{
    struct pair_conn *self = (struct pair_conn *)conn;

    (void)how;
    (void)deadline;
    if (self->near < 0)
        return;
    weir_close(self->near);
    close(self->far);
}

/* ---- an eventfd each ------------------------------------------------------------------ */

struct eventfd_conn {
    weir_conn conn;
    int       fd; /* -1 until open */
};

static weir_status open_eventfd(weir_conn *conn, const void *config, weir_deadline deadline,
                                weir_error *err)
{
    struct eventfd_conn *self = (struct eventfd_conn *)conn;

    (void)config;
    (void)deadline;
    self->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->fd < 0)
        return weir_error_set(err, WEIR_CONNECT, "eventfd: %s", strerror(errno));
    return weir_fd_watch(self->fd, stirred, conn);
}

static void close_eventfd(weir_conn *conn, weir_farewell how, weir_deadline deadline)
{
    struct eventfd_conn *self = (struct eventfd_conn *)conn;

    (void)how;
    (void)deadline;
    if (self->fd >= 0)
        weir_close(self->fd);
}

/* ---- the drivers ---------------------------------------------------------------------- */

const weir_driver nobody_driver = {
    .name = "nobody",
    .conn_size = sizeof(weir_conn),
    .sockets = one_socket,
    .open = open_nothing,
    .close = close_nothing,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};

const weir_driver pair_driver = {
    .name = "pair",
    .conn_size = sizeof(struct pair_conn),
    .sockets = two_sockets,
    .open = open_pair,
    .close = close_pair,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};

const weir_driver nothing_driver = {
    .name = "nothing",
    .conn_size = sizeof(weir_conn),
    .sockets = no_socket,
    .open = open_nothing,
    .close = close_nothing,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};

const weir_driver eventfd_driver = {
    .name = "eventfd",
    .conn_size = sizeof(struct eventfd_conn),
    .sockets = one_socket,
    .open = open_eventfd,
    .close = close_eventfd,
    .check = always_clean,
    .reset = nothing_to_reset,
    .describe = nothing_failed,
    .free_config = no_config,
};
