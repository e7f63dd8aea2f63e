/*
 * vault.c - see vault.h.
 */
#include "vault.h"

#include <stdio.h>
#include <string.h>

weir_status vault_ask(weir_credentials *credentials, void *arg, weir_error *err)
{
    struct vault *vault = arg;

    vault->asked++;
    vault->last = weir_self();
    snprintf(vault->found, sizeof vault->found, "%s", credentials->user);
    weir_status status = weir_sleep(weir_in_ms(vault->takes_ms));
    if (status != WEIR_OK)
        return status;
    if (vault->refusals) {
        vault->refusals--;
        return vault->words ? weir_error_set(err, vault->refusal, "%s", vault->words)
                            : vault->refusal;
    }
    if (vault->user)
        snprintf(credentials->user, sizeof credentials->user, "%s", vault->user);
    if (vault->password)
        snprintf(credentials->password, sizeof credentials->password, "%s", vault->password);
    if (vault->fills)
        memset(credentials->password, 'x', sizeof credentials->password - 1);
    return WEIR_OK;
}
