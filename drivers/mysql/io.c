/*
 * io.c - a connection's socket: reading, writing, waiting in the hub.
 *
 * Knows:   the library's table of socket functions, when to wait, when to give way.
 * Ignores: packets (the library), TLS records (tls.c), statements (session.c).
 *
 * The library reaches its socket through a table of functions that each connection points
 * to. We point it to a copy in which reading, writing, waiting and closing are ours. Three
 * things come of that which its documented hook (MARIADB_OPT_IO_WAIT) cannot give:
 *
 *   - after a request was sent we wait first and receive then. The library receives first,
 *     fails with EAGAIN, waits and receives again: a system call more for each query;
 *   - we hear of the descriptor before it is closed, so it can stay watched: no epoll_ctl for
 *     a wait, and an idle connection is known to be dead when it dies;
 *   - we know which connection it is, hence whose turn it is to talk.
 *
 * The table is taken over when the first packet of the server has come: the library calls
 * every function registered with ma_pvio_register_callback() after each read and write, and
 * this is the first moment in which the socket is known to be final.
 *
 * A connection of which we are in doubt is held plainly: the library's own functions, its
 * hook for waiting, no watching, no TLS.
 */
#define _GNU_SOURCE
#include "mysql_internal.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Exported by the library for its plugins, and declared in none of its headers. */
extern int ma_pvio_register_callback(my_bool add, void (*fn)(int mode, MYSQL *my,
                                                             const unsigned char *data,
                                                             size_t length));

enum {
    BURST = 256 * 1024 /* bytes after which we give way, and at most in one system call: the
                          copying of as many takes the kernel some 50 us */
};

/* Connections of this thread whose sockets the library still looks after itself. */
static __thread struct my_conn *listed;

/* ---- whose turn it is ----------------------------------------------------------------- */

/* A place in the source without its directories: three of them must fit into a message. */
static const char *place(const char *site)
{
    const char *slash = strrchr(site, '/');

    return slash ? slash + 1 : site;
}

/* As snprintf(3); a name that is too long is cut off, and so is what follows. */
WEIR_PRINTF(3, 4) static void say(char *out, size_t size, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(out, size, fmt, args);
    va_end(args);
}

static void name_task(const weir_task *task, char *out, size_t size)
{
    if (task)
        say(out, size, "%s %llu (spawned at %s)", weir_task_name(task),
            (unsigned long long)weir_task_id(task), place(weir_task_site(task)));
    else
        say(out, size, weir_hub_here() ? "code outside of a coroutine" : "a thread without a hub");
}

static bool same_thread(const weir_task *user)
{
    return weir_task_hub(user) == weir_hub_here();
}

WEIR_COLD static bool refuse(struct my_conn *conn, const weir_task *self)
{
    const weir_task *user = conn->base.user;
    char             intruder[120], holder[120];

    name_task(self, intruder, sizeof intruder);
    name_task(user, holder, sizeof holder);
    say(conn->intrusion, sizeof conn->intrusion, "%s%s must not use connection %llu, %s %s%s%s",
        intruder, user && self && !same_thread(user) ? " of another thread" : "",
        (unsigned long long)weir_conn_id(&conn->base),
        user ? "leased at" : "which nobody holds: last leased at",
        place(weir_conn_site(&conn->base)), user ? " by " : "", user ? holder : "");
    errno = EPERM;
    return false;
}

/* Code outside of any coroutine may borrow the holder's turn, where he is not in a call and it
   runs on his thread: on another one, nothing keeps the two apart. */
bool my_may_talk_at_all(struct my_conn *conn)
{
    const weir_task *self = hot_self(), *user = conn->base.user;

    if (user && (self ? self == user : same_thread(user) && !conn->inside))
        return true;
    return refuse(conn, self);
}

/* ---- why it ended --------------------------------------------------------------------- */

void my_cut(struct my_conn *conn, weir_status status, const char *fmt, ...)
{
    va_list args;

    if (conn->cut.status)
        return; /* the first reason is the one */
    conn->cut.status = status;
    va_start(args, fmt);
    vsnprintf(conn->cut.text, sizeof conn->cut.text, fmt, args);
    va_end(args);
}

WEIR_COLD static void cut_by_wait(struct my_conn *conn, weir_status status, const char *what)
{
    bool        late = status == WEIR_CANCELED || status == WEIR_TIMEOUT;
    const char *also = late && !conn->cut.status && my_kill_order(conn)
                           ? "; the server is told to end it" : "";

    switch (status) {
    case WEIR_CANCELED:
        my_cut(conn, status, "cancelled while %s%s", what, also);
        break;
    case WEIR_TIMEOUT:
        if (weir_check() == WEIR_TIMEOUT || weir_in_ms(0).at_ns >= conn->limit.at_ns)
            my_cut(conn, status, "the deadline passed while %s%s", what, also);
        else
            my_cut(conn, status, "the server was silent for query_timeout_ms (%lld) while %s%s",
                   (long long)(conn->silence_ns / 1000000), what, also);
        break;
    default:
        my_cut(conn, WEIR_LOST, "%s while %s", weir_status_name(status), what);
    }
}

/* Not closed: the library may be in the middle of a call on it. What is parked in a wait wakes. */
void my_io_interrupt(struct my_conn *conn)
{
    int fd = conn->own_io ? conn->fd : mysql_get_socket(&conn->my);

    my_cut(conn, WEIR_LOST, "the connection was cut, since its pool was cleared");
    if (fd >= 0)
        shutdown(fd, SHUT_RDWR);
}

static int errno_of(weir_status status)
{
    return status == WEIR_TIMEOUT ? ETIMEDOUT : status == WEIR_CANCELED ? ECANCELED : EIO;
}

/* ---- waiting -------------------------------------------------------------------------- */

static weir_deadline patience(const struct my_conn *conn)
{
    int64_t now = hot_now();

    if (conn->silence_ns >= INT64_MAX - now || now + conn->silence_ns >= conn->limit.at_ns)
        return conn->limit;
    return weir_deadline_at(now + conn->silence_ns);
}

/* Expanded into own_read(), where each query waits: the processor mispredicts the return from
   every function that lies between the switch to a coroutine and the library (see park.h). */
#define WAIT_INLINE __attribute__((always_inline)) static inline

WAIT_INLINE bool wait_for(struct my_conn *conn, int events)
{
    weir_status status = conn->cut.status;

    if (!status) {
        conn->burst = 0;
        conn->asked = false;
        if (events & WEIR_READ)
            conn->muted = false; /* a wait to read makes the hub watch again */
        conn->inside = true;
        status = weir_wait_fd(conn->fd, events | (conn->drained ? WEIR_DRAINED : 0),
                              patience(conn), NULL);
        conn->inside = false;
        if (!status)
            status = conn->cut.status; /* by somebody else, meanwhile */
    }
    if (!status) {
        if (conn->rest_ns && (events & WEIR_READ))
            conn->base.quiet_until_ns = hot_now() + conn->rest_ns;
        return true;
    }
    cut_by_wait(conn, status,
                events & WEIR_READ ? "waiting for the server's reply"
                                   : "waiting for the server to take what is sent");
    errno = errno_of(status);
    return false;
}

bool my_wait(struct my_conn *conn, int events)
{
    return wait_for(conn, events);
}

/* Big transfers never have to wait: the network is as fast as we are. */
static bool give_way(struct my_conn *conn)
{
    weir_status status = conn->cut.status;

    if (!status) {
        conn->inside = true;
        if (conn->burst < BURST) {
            hot_spend(WEIR_IO_UNITS);
        } else {
            conn->burst = 0;
            weir_spend(WEIR_UNITS); /* that much makes it the loop's turn, not only the others' */
            status = conn->cut.status ? conn->cut.status : weir_check();
        }
        conn->inside = false;
    }
    if (!status)
        return true;
    cut_by_wait(conn, status, "data was transferred");
    errno = errno_of(status);
    return false;
}

/* ---- reading, writing ----------------------------------------------------------------- */

WAIT_INLINE ssize_t receive(struct my_conn *conn, void *buffer, size_t size)
{
    if (conn->asked ? !wait_for(conn, WEIR_READ) : !give_way(conn))
        return -1;
    for (;;) {
        size_t  room = size < BURST ? size : BURST;
        ssize_t n = recv(conn->fd, buffer, room, MSG_DONTWAIT);
        conn->drained = n < (ssize_t)room;
        if (n > 0) {
            conn->burst += (size_t)n;
            return n;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 || errno != EAGAIN) {
            conn->lost = true;
            return n;
        }
        if (!my_wait(conn, WEIR_READ))
            return -1;
    }
}

ssize_t my_recv(struct my_conn *conn, void *buffer, size_t size)
{
    return receive(conn, buffer, size);
}

ssize_t my_send(struct my_conn *conn, const void *data, size_t size)
{
    if (!give_way(conn))
        return -1;
    for (;;) {
        ssize_t n = send(conn->fd, data, size < BURST ? size : BURST,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            conn->burst += (size_t)n;
            conn->sent = true;
            conn->asked = true;
            return n;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            conn->lost = true;
            return n;
        }
        if (!my_wait(conn, WEIR_WRITE))
            return -1;
    }
}

/* ---- our table ------------------------------------------------------------------------ */

static struct st_ma_pvio_methods ours, theirs;
static const struct st_ma_pvio_methods *theirs_at; /* the table that was copied */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t own_read(MARIADB_PVIO *pvio, uchar *buffer, size_t size)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    return my_may_talk(conn) ? receive(conn, buffer, size) : -1;
}

static ssize_t own_write(MARIADB_PVIO *pvio, const uchar *data, size_t size)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    return my_may_talk(conn) ? my_send(conn, data, size) : -1;
}

/* Where TLS is wanted, nothing that tells of the user may leave in plain text. The library
   itself falls back to plain text unless a certificate is to be verified. */
static ssize_t own_async_write(MARIADB_PVIO *pvio, const uchar *data, size_t size)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    if (conn->dialling && conn->config->tls != WEIR_TLS_OFF && !pvio->ctls &&
        !(conn->my.server_capabilities & CLIENT_SSL)) {
        my_cut(conn, WEIR_CONNECT,
               "the server does not offer TLS (to allow plain text, say tls=off)");
        errno = EPROTO;
        return -1;
    }
    ssize_t n = theirs.async_write(pvio, data, size);
    conn->sent = conn->sent || n > 0;
    return n;
}

/* Called by the library for the TLS handshake alone, and only where our BIO is not in place
   yet: its own number of milliseconds is meant as seconds, and is not looked at. */
static int own_wait(MARIADB_PVIO *pvio, my_bool is_read, int timeout_ms)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    (void)timeout_ms;
    if (!my_may_talk(conn))
        return -1;
    if (my_wait(conn, is_read ? WEIR_READ : WEIR_WRITE))
        return 1;
    return errno == ETIMEDOUT ? 0 : -1;
}

/* It stays non-blocking, whatever the library believes. */
static int own_blocking(MARIADB_PVIO *pvio, my_bool block, my_bool *previous)
{
    (void)pvio;
    (void)block;
    if (previous)
        *previous = 1;
    return 0;
}

/* The first thing the library asks when it begins with TLS. */
static my_bool own_is_blocking(MARIADB_PVIO *pvio)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    if (pvio->ctls && conn->dialling)
        my_tls_begins(conn);
    return 1;
}

static my_bool own_close(MARIADB_PVIO *pvio)
{
    struct my_conn *conn = my_conn_of(pvio->mysql);

    weir_fd_forget(conn->fd);
    conn->fd = -1;
    if (conn->dialling)
        my_login_forget(conn); /* it has failed, and the library frees its copy next */
    return theirs.close(pvio);
}

/* One copy for the process: every connection of the library has the same table. */
static bool table_ready(const struct st_ma_pvio_methods *table)
{
    pthread_mutex_lock(&table_lock);
    if (!theirs_at && table->read && table->write && table->async_write && table->close &&
        table->wait_io_or_timeout && table->blocking && table->is_blocking && table->get_handle) {
        theirs = ours = *table;
        ours.read = own_read;
        ours.write = own_write;
        ours.async_write = own_async_write;
        ours.wait_io_or_timeout = own_wait;
        ours.blocking = own_blocking;
        ours.is_blocking = own_is_blocking;
        ours.close = own_close;
        theirs_at = table;
    }
    bool ready = theirs_at == table;
    pthread_mutex_unlock(&table_lock);
    return ready;
}

/* What is said in the header must be what stands in memory, before a pointer in it is trusted. */
static bool looks_right(MYSQL *my)
{
    const MARIADB_PVIO *pvio = my->net.pvio;
    int                 fd = -1;

    return pvio && pvio->mysql == my && pvio->methods &&
           (pvio->type == PVIO_TYPE_UNIXSOCKET || pvio->type == PVIO_TYPE_SOCKET) &&
           !pvio->ctls && pvio->cache && pvio->cache_pos >= pvio->cache &&
           pvio->cache_pos <= pvio->cache + PVIO_READ_AHEAD_CACHE_SIZE &&
           table_ready(pvio->methods) && !theirs.get_handle(my->net.pvio, &fd) && fd >= 0 &&
           fd == mysql_get_socket(my);
}

/* ---- taking over ---------------------------------------------------------------------- */

static void adopt(struct my_conn *conn)
{
    MYSQL *my = &conn->my;

    if (!looks_right(my)) {
        my_library_doubt("a connection in memory is not what its header says");
        if (conn->config->tls != WEIR_TLS_OFF)
            mariadb_cancel(my); /* its handshake would block the thread */
        return;
    }
    conn->fd = mysql_get_socket(my);
    fcntl(conn->fd, F_SETFL, fcntl(conn->fd, F_GETFL) | O_NONBLOCK);
    fcntl(conn->fd, F_SETFD, FD_CLOEXEC);
    my->net.pvio->methods = &ours;
    conn->own_io = true;
    if (conn->config->tls != WEIR_TLS_OFF)
        my_tls_forget_errors(); /* of others: the library would report them as its own */
}

/* Runs after every read and write of the library, of any connection in the process. */
static void something_moved(int mode, MYSQL *my, const unsigned char *data, size_t length)
{
    (void)mode;
    (void)data;
    (void)length;
    for (struct my_conn *conn = listed; conn; conn = conn->next)
        if (&conn->my == my && conn->dialling && !conn->own_io && my_library_is_known())
            adopt(conn);
}

void my_io_library_hook(void)
{
    ma_pvio_register_callback(1, something_moved);
}

/* ---- connections held plainly --------------------------------------------------------- */

/* MARIADB_OPT_IO_WAIT: only a descriptor tells which connection it is. */
static int wait_plainly(my_socket fd, my_bool is_read, int timeout_ms)
{
    struct my_conn *conn = listed;

    (void)timeout_ms; /* ours is counted in patience() */
    while (conn && mysql_get_socket(&conn->my) != fd)
        conn = conn->next;
    if (!conn) {
        errno = EBADF;
        return -1;
    }
    conn->fd = fd;
    if (!my_may_talk(conn))
        return -1;
    if (my_wait(conn, is_read ? WEIR_READ : WEIR_WRITE))
        return 1;
    int errnum = errno;
    weir_fd_forget(fd); /* the library closes it now */
    conn->fd = -1;
    errno = errnum;
    return errnum == ETIMEDOUT ? 0 : -1;
}

static void unlist(struct my_conn *conn)
{
    struct my_conn **at = &listed;

    while (*at && *at != conn)
        at = &(*at)->next;
    if (*at)
        *at = conn->next;
}

/* ---- a connection's life -------------------------------------------------------------- */

void my_io_begin(struct my_conn *conn)
{
    conn->fd = -1;
    conn->next = listed;
    listed = conn;
    mysql_optionsv(&conn->my, MARIADB_OPT_IO_WAIT, (void *)wait_plainly);
}

static void stirred(int fd, void *arg);

/* OpenSSL reads by the byte what belongs to a record, and cannot tell whether that was all. */
static weir_status watch(struct my_conn *conn)
{
    conn->drained = false;
    return (conn->my.net.pvio->ctls ? weir_fd_watch : weir_fd_watch_edge)(conn->fd, stirred, conn);
}

static void stirred(int fd, void *arg)
{
    struct my_conn *conn = arg;

    (void)fd;
    conn->muted = true;
    if (!conn->base.user)
        weir_conn_stirred(&conn->base);
}

void my_io_watch(struct my_conn *conn)
{
    if (!conn->muted || conn->fd < 0)
        return;
    conn->muted = false;
    if (watch(conn) != WEIR_OK)
        conn->muted = true;
}

weir_status my_io_refuse_tls(weir_error *err)
{
    return weir_error_set(err, WEIR_USAGE,
                          "TLS would block the hub with this libmariadb (%s), of which weir does "
                          "not know enough", mysql_get_client_info());
}

weir_status my_io_settle(struct my_conn *conn, weir_error *err)
{
    if (!conn->own_io)
        return conn->config->tls == WEIR_TLS_OFF ? WEIR_OK : my_io_refuse_tls(err);
    unlist(conn);
    if (conn->my.net.pvio->ctls && !my_tls_take_over(conn))
        return weir_error_set(err, WEIR_NOMEM, "no memory for the TLS connection");
    if (watch(conn) != WEIR_OK)
        return weir_error_set(err, WEIR_NOMEM, "the new connection cannot be watched");
    return WEIR_OK;
}

void my_io_end(struct my_conn *conn)
{
    int fd = mysql_get_socket(&conn->my);

    unlist(conn);
    if (fd >= 0)
        weir_fd_forget(fd);
}

bool my_io_is_quiet(struct my_conn *conn)
{
    const MARIADB_PVIO *pvio = conn->my.net.pvio;

    if (!conn->own_io)
        return true; /* nobody can tell */
    return pvio->cache_pos >= pvio->cache + pvio->cache_size && !my_tls_has_bytes(conn);
}
