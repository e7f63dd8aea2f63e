/*
 * credentials.c - asking for a user's name and password, and forgetting them.
 *
 * Knows:   what may go wrong with a callback of somebody else's.
 * Ignores: how they are used (the drivers).
 *
 * What it says is a fact about this attempt to connect, and nothing else: so a cancel, a deadline
 * or whatever status it makes up all become WEIR_CONNECT, with its words where it has any.
 */
#include <weir/driver.h>

#include <stdlib.h>
#include <string.h>

static weir_status call(weir_credentials_fn fn, void *arg, weir_deadline deadline,
                        weir_credentials *credentials, weir_error *words)
{
    WEIR_DEADLINE(deadline);
    weir_status status = fn(credentials, arg, words);

    if (status == WEIR_OK && weir_check() != WEIR_OK)
        return weir_error_set(words, weir_check(), "they came too late");
    return status;
}

static bool is_whole(const char *text, size_t room)
{
    return strnlen(text, room) < room - 1;
}

static weir_status check(const weir_credentials *credentials, weir_error *err)
{
    if (!is_whole(credentials->user, sizeof credentials->user))
        return weir_error_set(err, WEIR_CONNECT,
                              "the credentials callback gave a user's name that fills all its "
                              "room: it may have been cut short");
    if (!is_whole(credentials->password, sizeof credentials->password))
        return weir_error_set(err, WEIR_CONNECT,
                              "the credentials callback gave a password that fills all its room: "
                              "it may have been cut short");
    if (!credentials->user[0])
        return weir_error_set(err, WEIR_CONNECT, "the credentials callback gave no user's name");
    return WEIR_OK;
}

weir_status weir_credentials_ask(weir_credentials_fn fn, void *arg, const char *user,
                                 weir_deadline deadline, weir_credentials **out, weir_error *err)
{
    weir_credentials *credentials = calloc(1, sizeof *credentials);
    weir_error        words = { 0 };

    *out = NULL;
    if (!credentials)
        return weir_error_set(err, WEIR_NOMEM, "no memory for credentials");
    if (user)
        strncpy(credentials->user, user, sizeof credentials->user - 1);
    weir_status said = call(fn, arg, deadline, credentials, &words);
    weir_status status = said == WEIR_OK ? check(credentials, err)
                         : said == WEIR_BUSY ? WEIR_BUSY
                                             : WEIR_CONNECT;
    if (said != WEIR_OK)
        weir_error_set(err, status, "the credentials callback failed: %s",
                       words.message[0] ? words.message : weir_status_name(said));
    if (status == WEIR_OK)
        *out = credentials;
    else
        weir_credentials_forget(credentials);
    return status;
}

void weir_credentials_forget(weir_credentials *credentials)
{
    if (!credentials)
        return;
    explicit_bzero(credentials, sizeof *credentials);
    free(credentials);
}
