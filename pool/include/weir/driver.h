/*
 * weir/driver.h - what a pool asks of whoever speaks a database's protocol.
 *
 * Knows:   a driver is a table of functions; a connection begins with a weir_conn.
 * Ignores: queues and limits (the driver's side), bytes and sockets (the pool's side).
 * Threads: everything happens on the pool's thread.
 *
 * Functions that may yield run in a coroutine that belongs to the connection, never in a
 * user's, under a shield with the deadline they are given.
 */
#ifndef WEIR_DRIVER_H
#define WEIR_DRIVER_H

#include <weir/credentials.h>
#include <weir/hub.h>
#include <weir/pool.h>

WEIR_BEGIN_DECLS

/* The head of every connection; the driver's own fields follow it in its struct. */
typedef struct weir_conn {
    weir_task *user;        /* who may talk on it now: a holder, or its own coroutine; else NULL */
    void      *pool_side_;  /* the pool's half of this connection */
    int64_t    quiet_until_ns; /* the driver's: if nothing is said before then, by weir_now(), the
                                  server may end it. The pool lends it no more, and closes or pings
                                  it. INT64_MAX, as it begins: never */
} weir_conn;

/* What a connection is like when its lease ends. */
typedef enum weir_condition {
    WEIR_CLEAN,  /* may be lent again as it is */
    WEIR_DIRTY,  /* must be reset first */
    WEIR_BROKEN, /* cut in the middle of something by us: close */
    WEIR_GONE    /* ended by the server or the network: close */
} weir_condition;

typedef enum weir_farewell {
    WEIR_POLITE, /* say goodbye first, within the deadline */
    WEIR_ABRUPT  /* not a byte more */
} weir_farewell;

typedef struct weir_driver {
    const char *name;
    size_t      conn_size; /* of the driver's struct, which begins with weir_conn */

    /** Descriptors that the next connection will need, as far as is known: paid for before it
        is opened. Asked anew for each; one at least. The largest answer is what the budget
        promises the pool; the first one comes when the pool is made, which fails where it
        cannot be promised. For those that find out later: weir_conn_pay(). */
    unsigned (*sockets)(const void *config);

    /**
     * Open *conn (zeroed but for its head), which close() will always follow, also after a
     * failure. May yield.
     * Returns: WEIR_OK; WEIR_BUSY when this process is out of descriptors, ports or buffers
     *          (EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL), which is nobody's failure: it is
     *          tried again; WEIR_USAGE where trying again cannot help (bad credentials, no
     *          such database); else WEIR_CONNECT. *err has the server's own words.
     */
    weir_status (*open)(weir_conn *conn, const void *config, weir_deadline deadline,
                        weir_error *err);

    /** Close it and free what open() made; its descriptors are gone on return. May yield
        until the deadline if polite; must not if abrupt. */
    void (*close)(weir_conn *conn, weir_farewell how, weir_deadline deadline);

    /** What is it like? Asked when a lease ends. Must not yield or make a system call. */
    weir_condition (*check)(weir_conn *conn, weir_reset how);

    /** Put it right for the next user. May yield. Anything but WEIR_OK closes it. */
    weir_status (*reset)(weir_conn *conn, weir_reset how, weir_deadline deadline,
                         weir_error *err);

    /** Why did the last call fail? For weir_lease_error(). Must not yield. */
    weir_status (*describe)(weir_conn *conn, weir_error *err);

    /** Ask the server for a sign of life, for keepalive_ms: one round trip on a connection that
        nobody uses. May yield. Anything but WEIR_OK closes it. NULL where the driver cannot:
        then the pool refuses that option. */
    weir_status (*ping)(weir_conn *conn, weir_deadline deadline, weir_error *err);

    /** What did the server say last, unasked, on a connection that is ended (weir_conn_stirred())?
        Read what is there; the connection is closed next, and used no more. May run on the hub's
        own stack, so it must not yield. False where nothing was said, or nothing that makes sense.
        NULL where servers say nothing. */
    bool (*last_words)(weir_conn *conn, weir_error *err);

    /**
     * Cut the call that its user may be in: that one, and each later one, fails as lost. Asked
     * of a connection in use when its pool is cleared with `interrupt`; must not yield, and must
     * leave everything that close() frees. A shutdown(2) of its sockets does. NULL where the
     * driver cannot: then its user goes on until the lease is given back.
     */
    void (*interrupt)(weir_conn *conn);

    /**
     * In the child of a fork, for one that open() was called for and close() not yet: let go of its
     * sockets without a byte, not even a shutdown(2), by weir_fd_dead_end() of each; they are the
     * parent's. Each call on it fails as lost from then on, saying that the process has forked.
     * Must not yield. NULL where the driver cannot: then children keep the sockets open, unused,
     * until they end or exec.
     * Returns: whether it is at rest, so that close() may follow; false in the middle of a call,
     *          whose coroutine is no more: then it is left as it is.
     */
    bool (*disown)(weir_conn *conn);

    /** In the child of a fork, before its connections are disowned: the driver's own coroutines
        are no more, and whatever they held the pool for (weir_pool_hold()) is forgotten. Must not
        yield. NULL where there is nothing to forget. */
    void (*forked)(void *config);

    /** Free the config, once the last connection is gone. Must not yield. */
    void (*free_config)(void *config);
} weir_driver;

/**
 * Make a pool over a driver. The config becomes the pool's, also when this fails.
 *
 * Context: a coroutine, or the thread of an attached hub.
 * Returns: WEIR_OK; WEIR_USAGE with the option that is wrong; WEIR_FULL where the budget
 *          cannot promise the pool one connection; WEIR_NOMEM.
 */
WEIR_API weir_status weir_pool_new(const weir_driver *driver, void *config,
                                   const weir_pool_opts *opts, weir_pool **out,
                                   weir_error *err) WEIR_MUST_CHECK;

/** The options in force: no zero is left in them, and WEIR_NEVER is INT64_MAX. */
WEIR_API const weir_pool_opts *weir_pool_options(const weir_pool *pool);

WEIR_API const weir_driver *weir_pool_driver(const weir_pool *pool);
WEIR_API weir_pool         *weir_conn_pool(const weir_conn *conn);

/** The connection behind a lease; NULL (and logged) for one that is over. */
WEIR_API weir_conn *weir_lease_conn(weir_lease *lease, const weir_driver *driver);

/**
 * Say that a connection nobody uses was heard of: bytes nobody asked for, or its end. An
 * idle one is closed as lost, abruptly. Must be called from the hub's own stack or a
 * coroutine; does not yield.
 */
WEIR_API void weir_conn_stirred(weir_conn *conn);

/**
 * Pay for `count` more descriptors of this connection: all of them or none. For a driver whose
 * connections find out how many they need when they are open; what they keep is given back with
 * them, by the pool. Must be called by whoever may talk on it (conn->user).
 *
 * Yields:  unless they are there.
 * Context: a coroutine.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED: nothing was paid. A driver that holds some
 *          while it waits for more must not wait for long, since others may do the same.
 */
WEIR_API weir_status weir_conn_pay(weir_conn *conn, unsigned count, weir_deadline deadline)
    WEIR_MUST_CHECK;

/** Give `count` of them back, whose descriptors are closed; not in close(), after which the pool
    gives back what is left. Does not yield. */
WEIR_API void     weir_conn_refund(weir_conn *conn, unsigned count);
WEIR_API unsigned weir_conn_paid(const weir_conn *conn); /* how many it has */

/**
 * Have the pool live on, and whoever closes or frees it wait, until weir_pool_let_go(): for what a
 * driver does beside the connections, in a coroutine of its own, with its config. It must come
 * to an end by itself. Counted; does not yield.
 */
WEIR_API void weir_pool_hold(weir_pool *pool);
WEIR_API void weir_pool_let_go(weir_pool *pool); /* the pool may be gone on return */

/** How often its pool had been cleared when the connection was begun: what a driver has read from
    files for an earlier generation it reads again. */
WEIR_API uint64_t weir_conn_generation(const weir_conn *conn);

/**
 * For disown(): put a descriptor that leads nowhere in the place of `fd` (-1 is fine), so that
 * whatever a library still writes to that number, or shuts down, does not reach the parent's
 * socket. It is closed like any other. Does not yield.
 */
WEIR_API void weir_fd_dead_end(int fd);

/** Where its present or last lease was taken, for messages; never NULL. */
WEIR_API const char *weir_conn_site(const weir_conn *conn);
WEIR_API uint64_t    weir_conn_id(const weir_conn *conn);

/**
 * Ask a callback for credentials (weir/credentials.h); `user`, which may be NULL, is what it finds
 * in them.
 *
 * Yields:  as the callback does.
 * Owner:   *out is yours, until weir_credentials_forget(); NULL after a failure.
 * Returns: WEIR_OK, and there is a user's name; WEIR_CONNECT with the callback's words, or what is
 *          wrong with its answer; WEIR_BUSY; WEIR_NOMEM.
 */
WEIR_API weir_status weir_credentials_ask(weir_credentials_fn fn, void *arg, const char *user,
                                          weir_deadline deadline, weir_credentials **out,
                                          weir_error *err) WEIR_MUST_CHECK;
WEIR_API void weir_credentials_forget(weir_credentials *credentials); /* wiped; NULL is fine */

WEIR_END_DECLS

#endif
