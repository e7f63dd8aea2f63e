/*
 * vault.h - somebody who keeps a password, and what he is told to do when he is asked for it.
 *
 * Knows:   what a weir_credentials_fn is asked for, and ways to disappoint whoever asks.
 * Ignores: databases.
 */
#ifndef VAULT_H
#define VAULT_H

#include <weir/credentials.h>

struct vault {
    const char *user;     /* what he says; NULL: he leaves what he finds */
    const char *password;
    int64_t     takes_ms; /* he thinks about it, and lets others run; 0: he yields all the same */
    unsigned    refusals; /* so many times he says this instead: */
    weir_status refusal;
    const char *words;    /* with it; NULL: none */
    bool        fills;    /* he says as much as there is room for */

    /* what he saw */
    unsigned    asked;
    char        found[WEIR_CREDENTIALS_USER]; /* the user's name, when he was asked */
    weir_task  *last;     /* in which coroutine that was */
};

/* `arg` is the vault. */
weir_status vault_ask(weir_credentials *credentials, void *arg, weir_error *err);

#endif
