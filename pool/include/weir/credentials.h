/*
 * weir/credentials.h - who to log in as, asked anew for each connection.
 *
 * Knows:   a user's name and a password, for the moment in which they are needed.
 * Ignores: where they come from: a file, a vault, a token that lives for a quarter of an hour.
 *
 * A password in a pool's options is that pool's for ever. Where passwords change while a service
 * runs, give the options a function instead: it is asked whenever a connection logs in, so the
 * new password is used from the next connection on, and weir_pool_clear() has all of them opened
 * anew.
 */
#ifndef WEIR_CREDENTIALS_H
#define WEIR_CREDENTIALS_H

#include <weir/coro.h>

WEIR_BEGIN_DECLS

/* Room, the ending NUL included. A text that fills its room to the end is taken for one that was
   cut short, and refused. (A token of a cloud's database service has up to 2 KiB.) */
enum { WEIR_CREDENTIALS_USER = 512, WEIR_CREDENTIALS_PASSWORD = 8192 };

typedef struct weir_credentials {
    char user[WEIR_CREDENTIALS_USER];         /* the pool's own to begin with, or "" */
    char password[WEIR_CREDENTIALS_PASSWORD]; /* "" to begin with */
} weir_credentials;

/**
 * Fill in *credentials. They are wiped as soon as the login is over, whatever came of it; keep
 * no pointer into them.
 *
 * It runs in the connection's own coroutine, never in a caller's of weir_acquire() (but see
 * weir_mongo_opts). It may yield, and must not block the thread: what cannot but block belongs
 * into weir_offload(). What is left of the pool's connect_timeout_ms is its WEIR_DEADLINE, and
 * the pool's end cancels it. It must not use the pool it is asked for.
 *
 * `arg` is used until weir_pool_free() has returned.
 *
 * Returns: WEIR_OK; WEIR_BUSY where this process is out of descriptors: it is asked again once
 *          one is free. Anything else fails the attempt to connect: callers of weir_acquire() get
 *          WEIR_CONNECT with the words of *err, so put no password there. The pool tries again
 *          as after any failure.
 */
typedef weir_status (*weir_credentials_fn)(weir_credentials *credentials, void *arg,
                                           weir_error *err);

WEIR_END_DECLS

#endif
