/*
 * login.h - authenticating one connection, in MongoDB's own commands.
 */
#ifndef MO_LOGIN_H
#define MO_LOGIN_H

#include "scram.h"

#include <weir/coro.h>

/* How bytes go to the server and come back: all `size` of them, or a status that says why not
   (WEIR_TIMEOUT, WEIR_CANCELED, WEIR_LOST ...). Both may yield. */
struct mo_login_io {
    void *arg;
    weir_status (*send)(void *arg, const void *data, size_t size, weir_deadline deadline);
    weir_status (*recv)(void *arg, void *data, size_t size, weir_deadline deadline);
};

/* Who logs in. Borrowed for the call. */
struct mo_user {
    const char       *name;
    const char       *password; /* never in a log or an error */
    const char       *source;   /* the database that knows the user (admin) */
    enum mo_mechanism mechanism;
    const char       *api_version; /* apiVersion, on our commands as on the user's (none) */
    bool              api_strict, api_deprecation_errors; /* sent where true */
};

/**
 * Log in on a connection over which nothing else goes meanwhile. The server sees the client
 * library's hello before this: see login.c. Two round trips; three with MongoDB before 4.4.
 *
 * Where no mechanism is named, SHA-256 is tried first, and SHA-1 where the server refuses that
 * before it has seen a proof: such a user has only that.
 *
 * After anything but WEIR_OK the connection must be closed: a reply may be outstanding.
 *
 * Yields:  yes.
 * Context: as send and recv like it; on the stack it needs some 3 KiB.
 * Returns: WEIR_OK; WEIR_CONNECT where the server refuses (err->native is its code: 18 is
 *          AuthenticationFailed) or is not to be believed (native is 0); WEIR_USAGE for a user
 *          who cannot log in this way; WEIR_NOMEM; WEIR_TIMEOUT, WEIR_CANCELED, and what send
 *          and recv return.
 */
weir_status mo_login(const struct mo_login_io *io, const struct mo_user *user,
                     weir_deadline deadline, weir_error *err) WEIR_MUST_CHECK;

#endif
