/*
 * mongo_mock_login.c - logins: which mechanism is asked for, and the two that are one step.
 *
 * Knows:   PLAIN (RFC 4616; libmongoc sends its message as text, in base64), MONGODB-X509 (who
 *          shows a certificate over TLS is whom it names), the first step inside of a hello.
 * Ignores: SCRAM (mongo_mock_scram.c), and what is allowed after a login.
 */
#include "mongo_mock_inside.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

static bool is_mechanism(const bson_t *command, const char *name)
{
    bson_iter_t it;

    return bson_iter_init_find(&it, command, "mechanism") && BSON_ITER_HOLDS_UTF8(&it) &&
           strcmp(bson_iter_utf8(&it, NULL), name) == 0;
}

static void refuse(bson_t *reply)
{
    mock_fail(reply, 18, "AuthenticationFailed", "Authentication failed.");
}

static void believe(struct mock_session *s)
{
    s->logged_in = true;
    atomic_fetch_add(&s->shared->member[s->member].logins, 1);
}

/* An empty name to act for, the user, the password, with a zero before each of the last two. */
static bool is_right(const struct mock_shared *shared, const uint8_t *text, int size)
{
    uint8_t right[2 * MOCK_TEXT + 2];
    int     length = snprintf((char *)right, sizeof right, "%c%s%c%s", 0, shared->user, 0,
                              shared->password);

    return size >= length && memcmp(text, right, (size_t)length) == 0;
}

static void plain(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    bson_iter_t it;
    uint8_t     text[1024];
    uint32_t    length = 0;
    const char *payload = NULL;

    if (bson_iter_init_find(&it, command, "payload") && BSON_ITER_HOLDS_UTF8(&it))
        payload = bson_iter_utf8(&it, &length);
    if (!payload || length % 4 || length > sizeof text) {
        mock_fail(reply, 17, "ProtocolError", "this is no message of PLAIN");
        return;
    }
    atomic_fetch_add(&s->shared->member[s->member].proofs, 1);
    if (!is_right(s->shared, text, EVP_DecodeBlock(text, (const uint8_t *)payload, (int)length))) {
        refuse(reply);
        return;
    }
    believe(s);
    BSON_APPEND_INT32(reply, "conversationId", 1);
    BSON_APPEND_BOOL(reply, "done", true);
    BSON_APPEND_UTF8(reply, "payload", "");
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

/* Who says a name says the one of his certificate. */
static void x509(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    bson_iter_t it;
    const char *name = s->peer;

    if (bson_iter_init_find(&it, command, "user") && BSON_ITER_HOLDS_UTF8(&it))
        name = bson_iter_utf8(&it, NULL);
    if (!s->peer[0] || strcmp(name, s->peer) != 0 || strcmp(name, s->shared->user) != 0) {
        refuse(reply);
        return;
    }
    believe(s);
    BSON_APPEND_UTF8(reply, "dbname", "$external");
    BSON_APPEND_UTF8(reply, "user", name);
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

/* Of a first step inside of a hello "db" says it. */
static bool is_asked_of_the_right(const char *source, const bson_t *command)
{
    bson_iter_t it;
    bool        named = bson_iter_init_find(&it, command, "db") ||
                 bson_iter_init_find(&it, command, "$db");

    return !*source || (named && BSON_ITER_HOLDS_UTF8(&it) &&
                        strcmp(bson_iter_utf8(&it, NULL), source) == 0);
}

void mock_login(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    unsigned offered = s->shared->with_login ? s->shared->mechanisms : 0;

    if (!is_asked_of_the_right(s->shared->source, command))
        refuse(reply);
    else if ((offered & MOCK_PLAIN) && is_mechanism(command, "PLAIN"))
        plain(s, command, reply);
    else if ((offered & MOCK_X509) && is_mechanism(command, "MONGODB-X509"))
        x509(s, command, reply);
    else
        mock_scram_start(s, command, reply);
}
