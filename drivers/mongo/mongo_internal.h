/*
 * mongo_internal.h - a pool's settings, its clients and their streams, as the files of mongo/
 * share them.
 *
 * The way of an operation, from the top:
 *
 *     mongoc_collection_find...   the library: which server, commands, cursors, sessions
 *     stream.c                    what it writes to and reads from: whose turn it is, what
 *                                 became of the command
 *     transfer.c                  bytes to and from the socket, waiting in the hub
 *     login.c                     before the first command of a stream: who we are
 *     tls.c                       below that, where the connection is encrypted
 *
 * The library gets a stream for each server from dial.c, which connects it in a coroutine of
 * its own. client.c makes a client and throws it away.
 *
 * The library's single-threaded clients are used: they start no thread and take no lock that
 * is held while one of our functions waits.
 */
#ifndef MONGO_INTERNAL_H
#define MONGO_INTERNAL_H

#include "hot.h"
#include "list.h"
#include "login.h"
#include "tls.h"

#include <weir/driver.h>
#include <weir/mongo.h>

enum {
    MO_BUFFER = 16 * 1024, /* a stream's own: a small reply is there after one system call */
    MO_TOMBSTONES = 8      /* of a pool: see client.c */
};

/* What a pool connects with: merged from the options and the URI, checked, nothing missing. */
struct mo_config {
    weir_mongo_opts opts;        /* the strings in it are ours */
    mongoc_uri_t   *given;       /* with the defaults filled in */
    mongoc_uri_t   *uri;         /* clients are made from this: see config.c. NULL: its SRV record
                                    was not looked up yet */
    bool            own_login;   /* our streams authenticate, and `uri` knows no user */
    struct mo_user  user;        /* for that; borrowed from `given`. Where a callback is asked, it
                                    has no password, and maybe no name */
    char           *source_found; /* authSource of an SRV name's TXT record; or NULL */
    struct mo_tls_context *tls;  /* NULL: plain text */
    bool            plain_anywhere; /* without that: also to other machines, as the URI says */
    uint64_t        tls_generation; /* of the pool, when its files were read */
    int32_t         connect_ms;  /* connectTimeoutMS */
    unsigned        members;     /* that the last client has met */
    char            target[128]; /* the hosts, for messages */
    struct mo_client *tombstones[MO_TOMBSTONES];
    unsigned        next_tombstone;
};

/* What went wrong; status OK: nothing did. */
struct mo_note {
    weir_status status;
    int         native;
    char        text[200];
};

struct mo_stream;

/* One that was begun on the server and not ended: transaction.c. */
struct mo_transaction {
    struct mo_stream *stream;  /* it was last heard of there; NULL: none is open */
    int64_t           number;  /* txnNumber */
    uint8_t           lsid[64]; /* its session, a document; the library's has 32 bytes */
    uint32_t          lsid_size;
    bool              ending;  /* a commit or an abort was sent */
    bool              several; /* another one was begun meanwhile */
};

/* A client of the library's, with our side of it. It may outlive its connection: client.c. */
struct mo_client {
    weir_conn        *conn;   /* NULL: discarded */
    struct mo_config *config; /* NULL then, too */
    mongoc_client_t  *mongoc; /* NULL: its user has destroyed it */
    struct list       streams; /* that the library has */
    struct list       buried;  /* that it has given up: freed with the client, since a call of
                                  another coroutine may be inside of one */
    struct mo_stream *stillborn; /* what the library gets where there is no memory */

    bool       opening;   /* the driver talks, not a user */
    bool       closing;   /* ... and says goodbye */
    bool       polling;   /* somebody is parked in poll, with: */
    weir_waker poller;
    unsigned   inside;    /* calls parked in our waits */
    bool       flawed;    /* a stream was lost: close it after this lease */
    bool       destroyed; /* its user has called mongoc_client_destroy() */
    size_t     burst;     /* bytes moved since we last gave way */
    unsigned   tokens;    /* descriptors paid for in advance, and not in use */
    unsigned   unpaid;    /* members for which there was none */

    struct mo_note cut;     /* why we ended it: nothing works any more */
    struct mo_note trouble; /* why a stream was lost, or could not be had, since a command began */
    struct mo_note answer;  /* an error that the server has answered with */
    int            shortage; /* errno: this process, or this machine, has no more of something */
    bool           unsure;   /* a byte of a command left, and the server did not say what
                                became of it */
    bool           answered; /* it said so of the last one */
    struct mo_transaction transaction;

    uint64_t    id;              /* for messages, when the connection is gone */
    const char *site;
    char        intrusion[300];  /* what another coroutine than its user was told */
};

struct mo_conn {
    weir_conn         base;
    struct mo_client *client; /* NULL: not made, or not any more */
};

enum mo_state {
    MO_UNPAID,   /* waits for a descriptor of the budget, then for its dialler */
    MO_DIALLING, /* its dialler is at work */
    MO_READY,
    MO_DEAD      /* no socket, and never again */
};

struct mo_stream {
    mongoc_stream_t   vt; /* must be first */
    struct mo_client *client;
    struct list       link;
    unsigned          refs;   /* the library's or the client's, and the dialler's */
    enum mo_state     state;
    weir_task        *dialler;
    int               fd;     /* -1: none */
    bool              paid;   /* for its descriptor */
    struct mo_tls    *tls;
    int               errnum; /* of the last call; 0: it succeeded */

    bool drained; /* the last read left nothing in the socket; of no meaning with TLS */
    bool asked;  /* a request was sent since we last waited: no reply can be there */
    bool stirred; /* the hub does not watch it any more: something came, or may have */
    bool full;   /* the kernel took no more */
    unsigned waiting; /* calls parked on it */

    /* what passes: message.c */
    size_t        out_left;  /* bytes of the present request that are still to come */
    bool          hello;     /* it is one that needs no login */
    bool          greeted;   /* one was sent before */
    int64_t       since_ns;  /* it is waited for; the first one, and the connection for it */
    bool          no_reply;  /* ... none will come */
    bool          due;       /* a reply is, or a part of it */
    bool          perhaps;   /* ... nobody can tell */
    bool          logged_in;
    int32_t       request;   /* its id */
    unsigned char head[20];  /* of the reply: message header and flags */
    size_t        head_size;
    size_t        in_left;   /* bytes of the reply that follow */

    char  *buffer; /* MO_BUFFER bytes, once it is connected */
    size_t begin, end; /* what is in it */

    int      family;
    uint16_t port;
    char     host[BSON_HOST_NAME_MAX + 1];
};

extern const weir_driver mo_driver; /* driver.c */

/* ---- config.c ------------------------------------------------------------------------- */

weir_status mo_config_new(const weir_mongo_opts *opts, struct mo_config **out, weir_error *err);
/* Before a client is made: look up what must be looked up, and read again what may have changed
   since the pool was cleared. Yields. */
weir_status mo_config_settle(struct mo_config *config, uint64_t generation,
                             weir_deadline deadline, weir_error *err);
void        mo_config_free(void *config);
bool        mo_is_local(int family, const char *host); /* it is on this machine */

/* ---- refuse.c ------------------------------------------------------------------------- */

weir_status mo_refuse(const mongoc_uri_t *uri, const char *text, weir_error *err);

/* ---- selfcheck.c, usleep.c ------------------------------------------------------------ */

void mo_library_start(void);     /* once for the process */
void mo_quieten_log(void);       /* where its handler is the library's own */
bool mo_sleep_cooperates(void);  /* the library's sleeping does not block the thread */
void mo_sleep_hook(mongoc_client_t *mongoc); /* where the library has a hook for it */

/* ---- client.c ------------------------------------------------------------------------- */

weir_status mo_open(weir_conn *base, const void *config, weir_deadline deadline, weir_error *err);
weir_status mo_ping(weir_conn *base, weir_deadline deadline, weir_error *err);
void        mo_close(weir_conn *base, weir_farewell how, weir_deadline deadline);
void        mo_interrupt(weir_conn *base);
void        mo_client_watch(struct mo_client *client);    /* when nobody uses it from now on */
void        mo_client_settings(struct mo_client *client); /* put back what a user has set */
void        mo_client_free(struct mo_client *client);

/* ---- dial.c --------------------------------------------------------------------------- */

/* The library's wish for a stream; never NULL. */
mongoc_stream_t *mo_initiate(const mongoc_uri_t *uri, const mongoc_host_list_t *host, void *client,
                             bson_error_t *error);
void mo_dial(struct mo_stream *stream); /* a paid one */

/* ---- stream.c ------------------------------------------------------------------------- */

struct mo_stream *mo_stream_new(struct mo_client *client);
void mo_stream_hang_up(struct mo_stream *stream, int errnum); /* its socket is closed then */
void mo_stream_free(struct mo_stream *stream); /* when the last of its refs goes */
void mo_stream_stirred(int fd, void *stream);  /* the hub's news of it */
void mo_stream_refund(struct mo_stream *stream); /* its descriptor, where it was paid for */

/* ---- transfer.c ------------------------------------------------------------------------ */

int     mo_fail(struct mo_stream *stream, int errnum); /* -1, with errno, the stream's own too */
weir_status mo_stream_watch(struct mo_stream *stream);     /* have the hub tell again */
/* Some bytes; 0 at the end; -1 with errno. */
ssize_t mo_receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                   weir_deadline until);
/* Some of it; -1 with errno. */
ssize_t mo_transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
                    bool may_wait, weir_deadline until);

/* The library's milliseconds: negative for ever. By the turn's clock. */
static inline weir_deadline mo_patience(int32_t ms)
{
    return ms < 0 ? WEIR_FOREVER : weir_deadline_at(hot_now() + (int64_t)ms * 1000000);
}

/* ---- poll.c ---------------------------------------------------------------------------- */

ssize_t mo_stream_poll(mongoc_stream_poll_t *polled, size_t count, int32_t ms);
void    mo_wake_poller(struct mo_client *client);

/* ---- message.c: what requests and replies tell ----------------------------------------- */

void mo_message_begin(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count);
bool mo_message_read(struct mo_stream *stream, const void *data, size_t size); /* false: nonsense */
bool mo_message_owed(const struct mo_stream *stream); /* it is in the middle of something */

/* ---- transaction.c ---------------------------------------------------------------------- */

void mo_transaction_see(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count);
void mo_transaction_answered(struct mo_client *client);
bool mo_transaction_abort(struct mo_client *client); /* false: it could not be. Yields */

/* ---- blame.c -------------------------------------------------------------------------- */

/* May the caller talk on it? If not, the refusal is in client->intrusion, and logged. */
bool mo_may_talk_at_all(struct mo_client *client);

static inline bool mo_may_talk(struct mo_client *client)
{
    const weir_task *self = hot_self();

    return (self && client->conn && self == client->conn->user) || mo_may_talk_at_all(client);
}

void mo_client_goes(struct mo_client *client); /* the library destroys it: is that our doing? */
void mo_cut(struct mo_client *client, weir_status status, const char *fmt, ...) WEIR_PRINTF(3, 4);
void mo_cut_by(struct mo_client *client, weir_status status, const char *what); /* its user */
void mo_trouble(struct mo_client *client, const char *fmt, ...) WEIR_PRINTF(2, 3);
void mo_watch_prepare(void); /* once for the process */
void mo_watch_commands(struct mo_client *client); /* to hear of errors the server answers with */
bool mo_is_shortage(int errnum);
weir_status mo_blame(struct mo_client *client, weir_error *err); /* describe() */
weir_status mo_blame_connect(struct mo_client *client, const bson_error_t *error, weir_error *err);

#endif
