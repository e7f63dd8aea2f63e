/*
 * mysql_internal.h - a pool's settings and its connections, as the files of mysql/ share them.
 *
 * The way of a statement, from the top:
 *
 *     mysql_query()     the library: packets, results, statements
 *     session.c         its command table: whose turn it is, what became of the statement,
 *                       what the session is like afterwards
 *     io.c              its socket table: waiting in the hub instead of in the kernel
 *     tls.c             the same below OpenSSL, where the connection is encrypted
 *
 * Both tables are copies with some entries of our own, one pair for the process. They rely on
 * declarations in the library's installed headers, and selfcheck.c says whether these hold;
 * if they do not, connections use the library's documented hooks alone ("plainly", below).
 */
#ifndef MYSQL_INTERNAL_H
#define MYSQL_INTERNAL_H

#include "hot.h"
#include "list.h"

#include <mysql.h>

#include <ma_pvio.h>

#include <stddef.h>
#include <weir/driver.h>
#include <weir/mysql.h>

enum { MY_ADDRESS = 72 }; /* room for a numeric one, with the name of an interface */

/* What a pool connects with: merged from the options and the URI, checked, nothing missing. */
struct my_config {
    weir_mysql_opts opts;      /* the strings in it are ours */
    weir_tls        tls;       /* never WEIR_TLS_DEFAULT */
    char            target[128]; /* "host:port" or the socket's path, for messages */

    /* connections that the server shall end: kill.c */
    struct list kills;
    unsigned    kill_count;
    weir_pool  *killing;       /* the killer is at it, and holds this pool; else NULL */
};

/* Why we ended a connection ourselves; OK: we did not. */
struct my_cut {
    weir_status status;
    char        text[200];
};

struct my_conn {
    weir_conn               base;
    MYSQL                   my; /* the user's handle; embedded: mysql_close() does not free it */
    const struct my_config *config;
    weir_credentials       *identity; /* of a callback, while it logs in: login.c */
    char                    address[MY_ADDRESS]; /* the server's; "" by a Unix socket */

    /* its socket: io.c */
    int           fd;         /* -1: none, or the library holds it plainly */
    bool          made;       /* mysql_init() was made */
    bool          dialling;   /* until the session is open */
    bool          own_io;     /* our tables are in place */
    bool          drained;    /* the last read left nothing in the socket */
    bool          asked;      /* something was sent since we last waited: no reply can be there */
    bool          inside;     /* its user is parked in one of our waits */
    bool          muted;      /* the hub does not watch it any more: see io.c */
    bool          hooked_tls; /* OpenSSL was told to tell us of the handshake */
    bool          tls;        /* our BIO is under its SSL */
    bool          lost;       /* the server or the network ended it */
    bool          ending;     /* nothing waits for it any more: its last bytes are read */
    size_t        burst;      /* bytes moved since we last gave way */
    weir_deadline limit;      /* of what the pool asked for: open, reset, close */
    int64_t       silence_ns; /* longest wait inside a call */
    int64_t       rest_ns;    /* silence of ours that the server bears; 0: nobody knows */
    struct my_cut cut;
    struct my_conn *next;     /* on this thread, that dial or are held plainly: see io.c */

    /* the statement at hand, and the session: session.c */
    bool          ours;        /* the driver talks, not a user */
    bool          closed;      /* its user called mysql_close() */
    bool          used;        /* a command was sent since it was last put right */
    bool          sent;        /* a byte of the last command left the process */
    bool          answered;    /* ... and the server said what became of it */
    bool          fresh;       /* a reply brought a status that was not looked at yet */
    bool          blind;       /* an error came last: nobody knows of a transaction */
    bool          hinted;      /* something may have changed that was not reported: session.c */
    bool          changed;     /* session state that a rollback does not put right */
    bool          locked;      /* LOCK TABLES is in force */
    bool          primed;      /* SET TRANSACTION is in force for the next one */
    bool          new_user;    /* mysql_change_user() was called */
    bool          new_option;  /* mysql_set_server_option() was called */
    bool          tracks;      /* the server reports changes of the session's state */
    bool          intruded;    /* an intruder's error stands in the handle */
    bool          doomed;      /* the server is told to end it: kill.c */
    uint64_t      server;      /* which server it is, for that; 0: it does not say */
    weir_status   withheld;    /* why the last command was not even tried to be sent; OK: it was */
    unsigned      due;         /* replies asked for and not read */
    unsigned      base_status; /* server_status of a session as it is lent */
    const void   *base_charset;
    char         *base_db;     /* as the server spells it */
    char          intrusion[300]; /* what another coroutine than its user was told */
};

static inline struct my_conn *my_conn_of(MYSQL *my)
{
    return (struct my_conn *)((char *)my - offsetof(struct my_conn, my));
}

extern const weir_driver my_driver; /* driver.c */

/* ---- uri.c, config.c ------------------------------------------------------------------ */

/* Fill in what is not set in *opts from the URI. Strings go to the heap. */
weir_status my_uri_parse(const char *uri, weir_mysql_opts *into, weir_error *err);
weir_status my_config_new(const weir_mysql_opts *opts, struct my_config **out, weir_error *err);
void        my_config_free(void *config);
void        my_opts_free(weir_mysql_opts *opts); /* its strings */

/* ---- selfcheck.c ---------------------------------------------------------------------- */

/* How far the library in this process can be trusted to be the one we know. */
bool my_library_start(weir_error *err); /* once for the process; false: not at all */
bool my_library_is_known(void);         /* our own tables may be used */
void my_library_doubt(const char *why); /* from now on they may not; says so once */

/* ---- connect.c ------------------------------------------------------------------------ */

weir_status my_open(weir_conn *base, const void *config, weir_deadline deadline, weir_error *err);
/* Connect and log in, no more; to this one of its host's addresses, or NULL. */
weir_status my_dial(struct my_conn *conn, const char *address, weir_error *err);
void        my_hang_up(struct my_conn *conn); /* close it without a byte */

/* ---- login.c -------------------------------------------------------------------------- */

weir_status my_login_begin(struct my_conn *conn, weir_error *err); /* may ask, and yield */
const char *my_login_user(const struct my_conn *conn);
const char *my_login_password(const struct my_conn *conn);
void        my_login_forget(struct my_conn *conn); /* the library's copy of the password */
void        my_login_end(struct my_conn *conn);

/* ---- io.c ----------------------------------------------------------------------------- */

void        my_io_begin(struct my_conn *conn); /* before it connects */
weir_status my_io_settle(struct my_conn *conn, weir_error *err); /* once it is connected */
weir_status my_io_refuse_tls(weir_error *err); /* for a library that is not known */
void        my_io_end(struct my_conn *conn); /* before the library closes it for good */
void        my_io_watch(struct my_conn *conn); /* at the end of a lease */
void        my_io_interrupt(struct my_conn *conn); /* cut it under its user */
bool        my_io_is_quiet(struct my_conn *conn); /* no byte has come that was not read */
void        my_io_library_hook(void);          /* once for the process */

/* May the caller talk on it? If not, the refusal is in conn->intrusion. */
bool my_may_talk_at_all(struct my_conn *conn) WEIR_COLD;

/* Asked some ten times a query, and nearly always by its holder. */
static inline bool my_may_talk(struct my_conn *conn)
{
    const weir_task *self = hot_self();

    return (self && self == conn->base.user) || my_may_talk_at_all(conn);
}

/* True when it is ready; false with errno, and conn->cut says why. */
bool    my_wait(struct my_conn *conn, int events);
ssize_t my_recv(struct my_conn *conn, void *buffer, size_t size);
ssize_t my_send(struct my_conn *conn, const void *data, size_t size);
void    my_cut(struct my_conn *conn, weir_status status, const char *fmt, ...) WEIR_PRINTF(3, 4)
    WEIR_COLD;

/* ---- tls.c ---------------------------------------------------------------------------- */

weir_status my_tls_check_files(const struct my_config *config, weir_error *err); /* readable? */

void my_tls_begins(struct my_conn *conn);        /* just before the handshake */
bool my_tls_take_over(struct my_conn *conn);     /* put our BIO under its SSL */
bool my_tls_has_bytes(const struct my_conn *conn); /* received and not read */
/* What came unasked, as far as it is there. Nothing else is read after it. Never waits. */
ssize_t my_tls_read_rest(struct my_conn *conn, void *buffer, size_t size);
void my_tls_forget_errors(void);

/* ---- session.c ------------------------------------------------------------------------ */

weir_status my_session_begin(struct my_conn *conn, weir_reset how, weir_error *err);
weir_condition my_session_condition(struct my_conn *conn, weir_reset how);
weir_status my_session_reset(struct my_conn *conn, weir_reset how, weir_error *err);
weir_status my_session_ping(struct my_conn *conn, weir_error *err);

/* ---- farewell.c ----------------------------------------------------------------------- */

bool my_last_words(weir_conn *base, weir_error *err);

/* ---- kill.c --------------------------------------------------------------------------- */

bool my_kill_meet(struct my_conn *conn);  /* ask the server who it is; false: it does not say */
void my_kill_forked(void *config);        /* the killer is the parent's */
bool my_kill_order(struct my_conn *conn); /* have it end there, where the pool wants that */

/* ---- blame.c -------------------------------------------------------------------------- */

weir_status my_blame(struct my_conn *conn, weir_error *err);         /* describe() */
weir_status my_blame_connect(struct my_conn *conn, weir_error *err); /* why open() failed */
bool        my_out_of_descriptors(int *errnum); /* could this process open one now? */
bool        my_was_last_word(const struct my_conn *conn); /* the error in its handle */
bool        my_is_server_error(unsigned code); /* not one of the library itself */
int         my_errno_in(const char *text); /* which the library wrote into its words, or 0 */

#endif
