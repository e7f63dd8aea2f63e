/*
 * keys.h - SCRAM's salted keys: derived once, on a thread, and kept for the next connection.
 */
#ifndef MO_KEYS_H
#define MO_KEYS_H

#include "scram.h"

#include <weir/coro.h>

enum { MO_KEYS_KEPT = 64 }; /* keys that are kept; those being derived come on top */

/* Which keys: all of it decides. Borrowed for the call. */
struct mo_keys_of {
    enum mo_mechanism    mechanism; /* not MO_MECHANISM_ANY */
    const char          *user, *password;
    const unsigned char *salt;
    size_t               salt_size; /* bytes, MO_SALT_MAX at most */
    unsigned             rounds;
};

/**
 * The keys of *of: those kept, or derived on one of weir_offload()'s threads. However many ask
 * for the same keys, in whatever hubs, they are derived once; a caller who gives up meanwhile
 * takes nothing from the others.
 *
 * Yields:  unless the keys are kept. Outside of a coroutine it derives them where it is.
 * Context: any thread.
 * Owner:   *keys is a copy; wipe it (OPENSSL_cleanse) when you are done.
 * Returns: WEIR_OK; WEIR_TIMEOUT, WEIR_CANCELED; WEIR_NOMEM; WEIR_USAGE where this OpenSSL does
 *          not do what the mechanism needs. *err is filled in by all of them.
 */
weir_status mo_keys_get(const struct mo_keys_of *of, weir_deadline deadline, struct mo_keys *keys,
                        weir_error *err) WEIR_MUST_CHECK;

/**
 * A server has shown that it has these keys. Any server can make us derive keys by sending a
 * salt; those that none has proven go first when room is needed.
 */
void mo_keys_prove(const struct mo_keys_of *of);

/** Does any proven key of this user and password belong to the mechanism? No wait. */
bool mo_keys_proven(enum mo_mechanism mechanism, const char *user, const char *password);

/** Wipe every key that is kept. Those being derived come in later all the same. */
void mo_keys_forget(void);

struct mo_keys_stats {
    unsigned      kept, proven; /* now */
    unsigned      deriving;     /* now: asked for, and not there yet */
    unsigned      at_work;      /* of those, on a thread */
    unsigned long derived;      /* since the process began */
    unsigned long dropped;      /* not derived, since nobody waited any more */
};

void mo_keys_stats(struct mo_keys_stats *out); /* any thread */

#endif
