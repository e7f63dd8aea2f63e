/*
 * weir/mongo.h - pools of MongoDB clients, used through plain libmongoc.
 *
 * Knows:   how to reach a deployment, and with which settings a client is made.
 * Ignores: BSON. Once you hold a lease you call mongoc_client_get_collection(),
 *          mongoc_collection_find_with_opts(), mongoc_cursor_next() ... as ever; each of them
 *          yields instead of blocking.
 * Threads: a pool and its clients stay on the thread that made the pool.
 *
 * Needs libmongoc 1.23. What it changes in a process: usleep(3) called by a coroutine lets the
 * others run (see weir_mongo_usleep); mongoc_init() is called, mongoc_cleanup() is not. The
 * library's log handler stays the application's; where it is still the library's own, one is put
 * before it that leaves out a line for each client that is made ("Using custom stream initiator").
 */
#ifndef WEIR_MONGO_H
#define WEIR_MONGO_H

#include <mongoc/mongoc.h>
#include <weir/credentials.h>
#include <weir/pool.h>

WEIR_BEGIN_DECLS

/*
 * Zero in a field means its default. Strings are copied. A field that is set wins over the same
 * thing in the URI.
 *
 *     mongodb://user:password@host:27017,other:27017/database?replicaSet=rs0
 *     mongodb+srv://user:password@cluster.example.com/database
 *     mongodb://%2Ftmp%2Fmongodb-27017.sock/database
 *
 * The URI is MongoDB's own. These differ from libmongoc's defaults unless it names them:
 *
 *     retryReads, retryWrites    false: nothing is repeated behind the caller's back
 *     serverSelectionTryOnce     true, also with a value of "false" refused: whoever waits
 *                                for a primary does so in a loop of his own
 *     connectTimeoutMS           2000, or the pool's connect_timeout_ms where that is shorter
 *     socketTimeoutMS            the pool's query_timeout_ms
 *     tls                        false for Unix sockets and loopback addresses, else true. Where
 *                                it is false by default, a set's member on another machine is
 *                                not connected to, and the error says so
 *
 * maxPoolSize, minPoolSize, maxIdleTimeMS and waitQueueTimeoutMS are taken for the fields of
 * .pool that mean the same. Refused, each with what to do instead: GSSAPI and MONGODB-AWS,
 * whose libraries block the thread; loadBalanced; negative times and sizes, and maxPoolSize=0; a
 * user without a password or credentials; options of TLS that are not known, tlsCRLFile among
 * them (.tls_crl), and those that ask for OCSP (tlsDisableOCSPEndpointCheck=false), which blocks.
 * Other options that libmongoc does not know get a line in its log, as ever.
 *
 * Client-side encryption (mongoc_client_enable_auto_encryption(), mongoc_client_encryption_t) is no
 * option, and cannot be refused: it asks key services by sockets that block the thread. Don't use
 * it with a pool's clients.
 *
 * Credentials are asked for when a server is first used: for most clients in the connection's own
 * coroutine, before it is lent; for a member that a client has met before and needs only later, as
 * after a fail-over, in that of its holder, whose deadline counts then too.
 *
 * The files for TLS are read when the pool is made, and again after weir_pool_clear(), when the
 * next client is opened. A host's name is looked up for each connection, a name of mongodb+srv
 * once, for the first client.
 *
 * A client has a socket to every member of its replica set. Each is paid for in the budget
 * (weir/budget.h), while max_size counts clients. It counts as open once a server that the URI's
 * readPreference allows has answered a ping: by default there must be a primary. .pool.keepalive_ms
 * pings that server too; the client says hello to all others then, once in heartbeatFrequencyMS.
 */
typedef struct weir_mongo_opts {
    const char *uri;           /* (none: must be given) */

    weir_credentials_fn credentials; /* asked at every login by SCRAM, instead of a password in
                                        the URI, which may name the user: weir/credentials.h
                                        (none) */
    void       *credentials_arg;     /* what it gets */

    const char *tls_ca;        /* PEM file with the authorities to believe (the system's) */
    const char *tls_cert_key;  /* PEM file: our own certificate and its key, where asked for */
    const char *tls_cert_key_password; /* of that key; never in a log or an error */
    const char *tls_crl;       /* PEM file: certificates that were revoked (none) */

    const char *api_version;   /* "1": every command names this version of MongoDB's stable API;
                                  a URI cannot say so (none) */

    bool api_strict;             /* with api_version: refuse what that version does not have */
    bool api_deprecation_errors; /* with api_version: refuse what is deprecated in it */

    bool direct;        /* directConnection=true: talk to the one server named, in whatever role it
                           is. One socket for a client */
    bool library_scram; /* let libmongoc authenticate where SCRAM is used: it derives the key on
                           the hub, 25 ms for each client (we do, once, on another thread) */
    bool end_sessions;  /* tell the server of sessions that end with a client, when it is closed
                           politely: a round trip (it forgets them by itself in half an hour).
                           Such a client is freed at once: see weir_mongo() */

    weir_pool_opts pool; /* reset: see weir_mongo() */
} weir_mongo_opts;

/**
 * Make a pool. Nothing is opened yet (but see min_idle): a server that is down is reported by
 * the first weir_acquire(). Names, SRV records too, are not looked up before that.
 *
 * Yields:  with TLS, while a thread reads the authorities' files (some 50 ms for the system's);
 *          outside of a coroutine it blocks for that long.
 * Context: a coroutine, or the thread of an attached hub.
 * Owner:   *out is yours, until weir_pool_free().
 * Returns: WEIR_OK; WEIR_USAGE with the option that is wrong and how to mend it; WEIR_FULL
 *          (see weir_pool_new); WEIR_NOMEM; WEIR_TIMEOUT, WEIR_CANCELED where a thread could not
 *          begin to read those files in time.
 */
WEIR_API weir_status weir_mongo_pool_new(const weir_mongo_opts *opts, weir_pool **out,
                                         weir_error *err) WEIR_MUST_CHECK;

/**
 * The client behind a lease, for plain libmongoc calls by the coroutine that holds it. It talks
 * error API version 2.
 *
 * Databases, collections, cursors, sessions, bulk operations and GridFS objects made from it
 * must be destroyed before the lease ends, since they speak through it. What comes later is
 * refused and logged, where the client still lives, or is among the last eight that its pool
 * has discarded; later than that it meets freed memory.
 *
 * A lease that ends puts back what mongoc_client_set_read_prefs(), _set_read_concern(),
 * _set_write_concern() and _set_apm_callbacks() have changed (not with WEIR_RESET_NONE), and
 * aborts a transaction that was left open. It cannot where compressors are in use, or the client
 * was lost or cut by a deadline: such a transaction stays open on the server until its
 * transactionLifetimeLimitSeconds (60) have passed. Sessions must be ended with the lease as
 * everything that was made from its client.
 *
 * A client is replaced, not repaired: after a deadline or a cancel in the middle of a call every
 * further call on it fails, and after a lost connection it is closed when the lease ends.
 *
 * Owner:   borrowed; valid as long as the lease. It is not yours to mongoc_client_destroy(): if
 *          you do, that is logged, weir_lease_error() says WEIR_USAGE, and the lease's end closes
 *          what is left. (It goes unnoticed, and ends in a crash, where you have set callbacks of
 *          your own and the connection was lost before.)
 * Returns: NULL, and logs, for a lease that is over or of another driver; NULL where you have
 *          destroyed the client.
 */
WEIR_API mongoc_client_t *weir_mongo(weir_lease *lease);

/**
 * What a call on the lease's client has failed with, in weir's terms: as weir_lease_error(),
 * but with what libmongoc said in `error`, which weir_lease_error() cannot see for errors that
 * come inside of a successful reply (a duplicate key, a write concern).
 *
 * An operation of several commands (a large bulk write, GridFS) has the outcome of its last.
 *
 * Yields:  no.  Context: the holder.
 * Returns: WEIR_TIMEOUT, WEIR_CANCELED, WEIR_LOST, WEIR_CONNECT (no server to talk to),
 *          WEIR_SERVER, WEIR_USAGE; never WEIR_OK.
 */
WEIR_API weir_status weir_mongo_error(weir_lease *lease, const bson_error_t *error,
                                      weir_error *err);

/**
 * Append maxTimeMS to a command's or an operation's opts: what is left of the coroutine's
 * WEIR_DEADLINE, so that the server gives up when we do (closing a socket does not stop it).
 * Without a deadline nothing is appended. Where opts has a maxTimeMS the shorter of the two stays;
 * so begin each operation with fresh opts.
 *
 * Yields:  no.  Context: a coroutine (elsewhere there is no deadline).
 * Returns: WEIR_OK; WEIR_TIMEOUT where nothing is left; WEIR_CANCELED; WEIR_USAGE where `opts`
 *          cannot grow, or has a maxTimeMS that is no number.
 */
WEIR_API weir_status weir_mongo_max_time(bson_t *opts, weir_error *err) WEIR_MUST_CHECK;

/**
 * usleep(3), letting others run when a coroutine calls it.
 *
 * libmongoc before 1.26 sleeps with usleep(3), for up to half a second while it looks for a
 * server, and has no hook for it. So weir defines usleep as this function (unless it was built
 * with WEIR_MONGO_USLEEP=OFF). A program that defines a usleep of its own must call this from
 * it.
 *
 * Yields:  in a coroutine. Elsewhere it blocks the thread.
 * Returns: 0, or -1 with errno EINTR where the coroutine was cancelled or its time is up.
 */
WEIR_API int weir_mongo_usleep(unsigned microseconds);

/** libmongoc's messages into weir's log: mongoc_log_set_handler(weir_mongo_log, NULL). */
WEIR_API void weir_mongo_log(mongoc_log_level_t level, const char *domain, const char *message,
                             void *unused);

/**
 * Check what weir relies on in this process: libmongoc's version, and that its sleeping lets
 * others run. Made by itself before the first pool.
 *
 * Returns: WEIR_OK; WEIR_USAGE with what is missing. Pools work all the same, but never retry,
 *          and a hub may stand still for half a second when a server goes away.
 */
WEIR_API weir_status weir_mongo_selfcheck(weir_error *err) WEIR_MUST_CHECK;

WEIR_END_DECLS

#endif
