/*
 * mongo_mock_scram.c - the server's side of a login.
 *
 * Knows:   SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677; MongoDB's first has the MD5 of
 *          "user:mongo:password" for a password), and how to do each step wrong.
 * Ignores: connections, and what is allowed after it.
 *
 * The keys are derived once for a mechanism. The salt is this server's own, drawn at its start,
 * so a client that keeps derived keys cannot use those of another test.
 */
#include "mongo_mock_inside.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGEST_MAX = 32, NONCE = 24, SALT_MAX = 28 };

static struct {
    bool    have[3]; /* by mechanism */
    uint8_t salt[3][SALT_MAX];
    uint8_t stored[3][DIGEST_MAX]; /* H(ClientKey) */
    uint8_t server[3][DIGEST_MAX]; /* ServerKey */
    pthread_mutex_t lock;
} keys = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const EVP_MD *digest(enum mock_mechanism mechanism)
{
    return mechanism == MOCK_SHA_1 ? EVP_sha1() : EVP_sha256();
}

static int digest_size(enum mock_mechanism mechanism)
{
    return mechanism == MOCK_SHA_1 ? 20 : 32;
}

/* As long as MongoDB's: with the block number after it, it fills one block of the digest. */
static int salt_size(enum mock_mechanism mechanism)
{
    return digest_size(mechanism) - 4;
}

void mock_scram_prepare(void)
{
    if (RAND_bytes((uint8_t *)keys.salt, sizeof keys.salt) != 1)
        abort();
}

static void mac(enum mock_mechanism mechanism, const uint8_t *key, const char *text, uint8_t *out)
{
    unsigned size;
    HMAC(digest(mechanism), key, digest_size(mechanism), (const uint8_t *)text, strlen(text), out,
         &size);
}

static void derive(const struct mock_shared *shared, enum mock_mechanism mechanism)
{
    char     text[2 * MOCK_TEXT + 8], password[MOCK_TEXT];
    uint8_t  salted[DIGEST_MAX], client[DIGEST_MAX], md5[16];
    unsigned size;

    snprintf(password, sizeof password, "%s", shared->password);
    if (mechanism == MOCK_SHA_1) {
        int n = snprintf(text, sizeof text, "%s:mongo:%s", shared->user, shared->password);
        EVP_Digest(text, (size_t)n, md5, &size, EVP_md5(), NULL);
        for (int i = 0; i < 16; i++)
            snprintf(password + 2 * i, 3, "%02x", md5[i]);
    }
    PKCS5_PBKDF2_HMAC(password, -1, keys.salt[mechanism], salt_size(mechanism),
                      (int)shared->rounds, digest(mechanism), digest_size(mechanism), salted);
    mac(mechanism, salted, "Client Key", client);
    mac(mechanism, salted, "Server Key", keys.server[mechanism]);
    EVP_Digest(client, (size_t)digest_size(mechanism), keys.stored[mechanism], &size,
               digest(mechanism), NULL);
    keys.have[mechanism] = true;
}

static bool have_keys(const struct mock_shared *shared, enum mock_mechanism mechanism)
{
    if (shared->rounds > MOCK_ROUNDS_MAX)
        return false;
    pthread_mutex_lock(&keys.lock);
    if (!keys.have[mechanism])
        derive(shared, mechanism);
    pthread_mutex_unlock(&keys.lock);
    return true;
}

/* ---- reading and writing messages --------------------------------------------------- */

static bool payload_of(const bson_t *command, char *out, size_t size)
{
    bson_iter_t    it;
    bson_subtype_t type;
    uint32_t       length;
    const uint8_t *data;

    if (!bson_iter_init_find(&it, command, "payload") || !BSON_ITER_HOLDS_BINARY(&it))
        return false;
    bson_iter_binary(&it, &type, &length, &data);
    if (length >= size || memchr(data, 0, length))
        return false;
    memcpy(out, data, length);
    out[length] = 0;
    return true;
}

/* The value of the attribute `letter` in a comma-separated message. */
static bool attribute(const char *text, char letter, char *out, size_t size)
{
    while (text && !(text[0] == letter && text[1] == '=')) {
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    if (!text)
        return false;
    size_t length = strcspn(text + 2, ",");
    if (length >= size)
        return false;
    memcpy(out, text + 2, length);
    out[length] = 0;
    return true;
}

/* In user names a comma is written =2C, and an equals sign =3D. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        bool escaped = !strncmp(from, "=2C", 3) || !strncmp(from, "=3D", 3);
        *to++ = (char)(!escaped ? *from : from[2] == 'C' ? ',' : '=');
        from += escaped ? 2 : 0;
    }
    *to = 0;
}

static void base64(char *out, const uint8_t *data, int size)
{
    EVP_EncodeBlock((uint8_t *)out, data, size);
}

static void step(bson_t *reply, bool done, const char *payload)
{
    BSON_APPEND_INT32(reply, "conversationId", 1);
    BSON_APPEND_BOOL(reply, "done", done);
    BSON_APPEND_BINARY(reply, "payload", BSON_SUBTYPE_BINARY, (const uint8_t *)payload,
                       (uint32_t)strlen(payload));
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

static void refuse(struct mock_session *s, bson_t *reply)
{
    s->scram.mechanism = 0;
    mock_fail(reply, 18, "AuthenticationFailed", "Authentication failed.");
}

static void believe(struct mock_session *s)
{
    s->logged_in = true;
    atomic_fetch_add(&s->shared->member[s->member].logins, 1);
}

/* ---- the exchange ------------------------------------------------------------------- */

static enum mock_mechanism mechanism_of(const struct mock_shared *shared, const bson_t *command)
{
    bson_iter_t         it;
    enum mock_mechanism found = 0;

    if (!bson_iter_init_find(&it, command, "mechanism") || !BSON_ITER_HOLDS_UTF8(&it))
        return 0;
    if (strcmp(bson_iter_utf8(&it, NULL), "SCRAM-SHA-1") == 0)
        found = MOCK_SHA_1;
    else if (strcmp(bson_iter_utf8(&it, NULL), "SCRAM-SHA-256") == 0)
        found = MOCK_SHA_256;
    return found & shared->mechanisms;
}

static void write_server_first(struct mock_session *s, const char *client_nonce)
{
    const struct mock_shared *shared = s->shared;
    uint8_t                   random[NONCE];
    char                      nonce[2 * NONCE], salt[2 * SALT_MAX];

    if (RAND_bytes(random, sizeof random) != 1)
        abort();
    base64(nonce, random, sizeof random);
    base64(salt, keys.salt[s->scram.mechanism], salt_size(s->scram.mechanism));
    snprintf(s->scram.server_first, sizeof s->scram.server_first, "%sr=%s%s,s=%s,i=%u",
             shared->trick == MOCK_EXTENSION ? "m=unheard-of," : "",
             shared->trick == MOCK_OTHER_NONCE ? "" : client_nonce, nonce, salt, shared->rounds);
}

void mock_scram_start(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    const struct mock_shared *shared = s->shared;
    bool        arbiter = shared->arbiter && s->member == (int)shared->members - 1;
    char        payload[512], user[MOCK_TEXT], nonce[200];
    bson_iter_t it, inner;

    memset(&s->scram, 0, sizeof s->scram);
    s->scram.mechanism = mechanism_of(shared, command);
    if (!s->scram.mechanism) {
        mock_fail(reply, 334, "MechanismUnavailable", "this mechanism is not offered");
        return;
    }
    if (!payload_of(command, payload, sizeof payload) || strncmp(payload, "n,,", 3) != 0 ||
        !attribute(payload + 3, 'n', user, sizeof user) ||
        !attribute(payload + 3, 'r', nonce, sizeof nonce)) {
        mock_fail(reply, 17, "ProtocolError", "this is no first message of SCRAM");
        return;
    }
    unescape(user);
    if (!shared->with_login || arbiter || strcmp(user, shared->user) != 0) {
        refuse(s, reply);
        return;
    }
    s->scram.skip_empty = bson_iter_init(&it, command) &&
                          bson_iter_find_descendant(&it, "options.skipEmptyExchange", &inner) &&
                          bson_iter_as_bool(&inner);
    snprintf(s->scram.client_first, sizeof s->scram.client_first, "%s", payload + 3);
    write_server_first(s, nonce);
    if (shared->trick == MOCK_DONE_EARLY)
        believe(s);
    step(reply, shared->trick == MOCK_DONE_EARLY, s->scram.server_first);
}

/* Is this the proof of who knows the password? Gives the server's signature if so. */
static bool check_proof(struct mock_session *s, const char *payload, char *signature)
{
    enum mock_mechanism mechanism = s->scram.mechanism;
    int     size = digest_size(mechanism);
    char    proof[64], expected_nonce[256], nonce[256], text[1600];
    uint8_t raw[48], mine[DIGEST_MAX], again[DIGEST_MAX];
    const char *end = strstr(payload, ",p=");

    if (!end || !attribute(end + 1, 'p', proof, sizeof proof) || strlen(proof) % 4 ||
        EVP_DecodeBlock(raw, (const uint8_t *)proof, (int)strlen(proof)) < size ||
        !attribute(payload, 'r', nonce, sizeof nonce) ||
        !attribute(s->scram.server_first, 'r', expected_nonce, sizeof expected_nonce) ||
        strcmp(nonce, expected_nonce) != 0 || !have_keys(s->shared, mechanism))
        return false;

    snprintf(text, sizeof text, "%s,%s,%.*s", s->scram.client_first, s->scram.server_first,
             (int)(end - payload), payload);
    mac(mechanism, keys.stored[mechanism], text, mine);
    for (int i = 0; i < size; i++)
        raw[i] ^= mine[i];
    EVP_Digest(raw, (size_t)size, again, NULL, digest(mechanism), NULL);
    if (CRYPTO_memcmp(again, keys.stored[mechanism], (size_t)size) != 0)
        return false;
    mac(mechanism, keys.server[mechanism], text, mine);
    if (s->shared->trick == MOCK_BAD_SIGNATURE)
        mine[size - 1] ^= 1;
    base64(signature, mine, size);
    return true;
}

static void answer_proof(struct mock_session *s, const char *payload, bson_t *reply)
{
    char signature[64], text[80];

    atomic_fetch_add(&s->shared->member[s->member].proofs, 1);
    if (s->shared->trick == MOCK_FALLS_SILENT) {
        s->mute = true;
        return;
    }
    if (!check_proof(s, payload, signature)) {
        refuse(s, reply);
        return;
    }
    believe(s);
    s->scram.proven = true;
    snprintf(text, sizeof text, "v=%s", signature);
    if (s->shared->trick == MOCK_NO_SIGNATURE)
        text[0] = 0;
    else if (s->shared->trick == MOCK_SASL_ERROR)
        strcpy(text, "e=other-error");
    step(reply, s->scram.skip_empty, text);
}

void mock_scram_continue(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    char payload[1024];

    if (!s->scram.mechanism || !payload_of(command, payload, sizeof payload))
        mock_fail(reply, 17, "ProtocolError", "no login is under way");
    else if (!s->scram.proven)
        answer_proof(s, payload, reply);
    else
        step(reply, true, "");
}
