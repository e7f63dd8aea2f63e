/*
 * scram.c - the messages of SCRAM.
 *
 * Knows:   RFC 5802 and RFC 7677, and what MongoDB made of them: no channel binding, SHA-1 with
 *          a digest in the place of the password, SHA-256 with the password itself.
 * Ignores: commands and connections (login.c), threads (keys.c).
 *
 * The server is not believed until it has signed what both sides said. What it says before
 * that is taken in one form only, byte for byte: no extension, no attribute out of place, no
 * base64 that another reader could take for something else, no number of rounds that would
 * make a stolen proof cheap to guess from, or keep a thread busy for hours.
 */
#define _GNU_SOURCE
#include "scram.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BASE64_DIGEST = 45 }; /* letters of a digest, and a NUL */

/* ---- the mechanisms ------------------------------------------------------------------- */

static const EVP_MD *digest_of(enum mo_mechanism mechanism)
{
    return mechanism == MO_SCRAM_SHA_1 ? EVP_sha1() : EVP_sha256();
}

size_t mo_digest_size(enum mo_mechanism mechanism)
{
    return mechanism == MO_SCRAM_SHA_1 ? 20 : 32;
}

const char *mo_mechanism_name(enum mo_mechanism mechanism)
{
    return mechanism == MO_SCRAM_SHA_1 ? "SCRAM-SHA-1" : "SCRAM-SHA-256";
}

bool mo_password_is_plain(const char *password)
{
    for (const char *c = password; *c; c++)
        if (*c < 0x20 || *c > 0x7e)
            return false;
    return true;
}

/* ---- base64 --------------------------------------------------------------------------- */

/*
 * How many bytes, 0 for anything but the one way to write them. OpenSSL forgives spaces and
 * loose bits at the end, so what it read is written again and compared.
 */
static size_t from_base64(const char *text, size_t size, unsigned char *out, size_t room)
{
    unsigned char again[MO_TEXT_MAX + 1];

    if (!size || size % 4 || size / 4 * 3 > room || size > MO_TEXT_MAX)
        return 0;
    int decoded = EVP_DecodeBlock(out, (const unsigned char *)text, (int)size);
    if (decoded <= 0)
        return 0;
    size_t bytes = (size_t)decoded - (text[size - 1] == '=') - (text[size - 2] == '=');
    size_t written = (size_t)EVP_EncodeBlock(again, out, (int)bytes);
    return written == size && memcmp(again, text, size) == 0 ? bytes : 0;
}

/* ---- our first message ---------------------------------------------------------------- */

weir_status mo_scram_nonce(char nonce[MO_NONCE_SIZE + 1], weir_error *err)
{
    unsigned char random[MO_NONCE_SIZE / 4 * 3];

    if (RAND_bytes(random, sizeof random) != 1) {
        ERR_clear_error();
        return weir_error_set(err, WEIR_NOMEM, "authentication: OpenSSL has no random numbers");
    }
    EVP_EncodeBlock((unsigned char *)nonce, random, sizeof random);
    return WEIR_OK;
}

/* "=" and "," mean something in a message, so they are written differently in a name. */
static void write_name(const char *user, char *out)
{
    for (; *user; user++)
        if (*user == '=' || *user == ',')
            out = stpcpy(out, *user == '=' ? "=3D" : "=2C");
        else
            *out++ = *user;
    *out = '\0';
}

weir_status mo_scram_begin(struct mo_scram *scram, enum mo_mechanism mechanism, const char *user,
                           const char *nonce, weir_error *err)
{
    char name[3 * MO_USER_MAX + 1];

    if (!*user || strlen(user) > MO_USER_MAX)
        return weir_error_set(err, WEIR_USAGE, "authentication: a user's name has 1 to %d bytes",
                              MO_USER_MAX);
    scram->mechanism = mechanism;
    write_name(user, name);
    snprintf(scram->nonce, sizeof scram->nonce, "%s", nonce);
    snprintf(scram->bare, sizeof scram->bare, "n=%s,r=%s", name, scram->nonce);
    scram->size = (size_t)snprintf(scram->text, sizeof scram->text, "n,,%s", scram->bare);
    return WEIR_OK;
}

/* ---- the challenge -------------------------------------------------------------------- */

struct cursor {
    const char *at, *end;
    bool        more; /* another attribute must come */
};

struct span {
    const char *at;
    size_t      size;
};

/* The next attribute, which must be the one of this letter. */
static bool take(struct cursor *cursor, char letter, struct span *out)
{
    size_t left = (size_t)(cursor->end - cursor->at);

    if (!cursor->more || left < 3 || cursor->at[0] != letter || cursor->at[1] != '=')
        return false;
    out->at = cursor->at + 2;
    const char *comma = memchr(out->at, ',', left - 2);
    out->size = comma ? (size_t)(comma - out->at) : left - 2;
    cursor->more = comma;
    cursor->at = comma ? comma + 1 : cursor->end;
    return out->size > 0;
}

static bool is_printable(const char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] < 0x21 || data[i] > 0x7e)
            return false;
    return true;
}

/* 0 for what is not a plain number of at most seven digits. */
static unsigned read_rounds(const struct span *text)
{
    unsigned rounds = 0;

    if (text->size > 7 || text->at[0] == '0')
        return 0;
    for (size_t i = 0; i < text->size; i++) {
        if (text->at[i] < '0' || text->at[i] > '9')
            return 0;
        rounds = rounds * 10 + (unsigned)(text->at[i] - '0');
    }
    return rounds;
}

static weir_status distrust(weir_error *err, const char *what)
{
    return weir_error_set(err, WEIR_CONNECT, "authentication: the server is not to be believed: %s",
                          what);
}

weir_status mo_scram_challenge(struct mo_scram *scram, const char *data, size_t size,
                               weir_error *err)
{
    struct cursor cursor = { .at = data, .end = data + size, .more = true };
    struct span   nonce, salt, rounds;

    if (size >= sizeof scram->theirs || !is_printable(data, size))
        return distrust(err, "its challenge is too long, or not text");
    if (size >= 2 && data[0] == 'm' && data[1] == '=')
        return distrust(err, "it demands an extension of SCRAM, and there is none");
    if (!take(&cursor, 'r', &nonce) || !take(&cursor, 's', &salt) || !take(&cursor, 'i', &rounds) ||
        cursor.more)
        return distrust(err, "its challenge is not of the form r=,s=,i=");
    size_t ours = strlen(scram->nonce);
    if (nonce.size <= ours || memcmp(nonce.at, scram->nonce, ours) != 0)
        return distrust(err, "its nonce does not go on from ours");
    scram->salt_size = from_base64(salt.at, salt.size, scram->salt, sizeof scram->salt);
    if (!scram->salt_size)
        return distrust(err, "its salt is not base64, or too long");
    scram->rounds = read_rounds(&rounds);
    if (scram->rounds < MO_ROUNDS_MIN || scram->rounds > MO_ROUNDS_MAX)
        return weir_error_set(err, WEIR_CONNECT,
                              "authentication: the server asks for %.*s rounds; %d to %d are safe",
                              (int)(rounds.size < 20 ? rounds.size : 20), rounds.at, MO_ROUNDS_MIN,
                              MO_ROUNDS_MAX);

    memcpy(scram->theirs, data, size);
    scram->theirs[size] = '\0';
    /* The proof's place is behind this; "biws" is base64 for our "n,,". */
    scram->size = (size_t)snprintf(scram->text, sizeof scram->text, "c=biws,r=%.*s",
                                   (int)nonce.size, nonce.at);
    return WEIR_OK;
}

/* ---- proofs --------------------------------------------------------------------------- */

static bool keyed(enum mo_mechanism mechanism, const unsigned char *key, const void *data,
                  size_t size, unsigned char *out)
{
    return HMAC(digest_of(mechanism), key, (int)mo_digest_size(mechanism), data, size, out, NULL);
}

static weir_status no_digest(weir_error *err, enum mo_mechanism mechanism)
{
    ERR_clear_error();
    return weir_error_set(err, WEIR_USAGE,
                          "authentication: this OpenSSL does not compute what %s needs%s",
                          mo_mechanism_name(mechanism),
                          mechanism == MO_SCRAM_SHA_1 ? " (MD5 and SHA-1)" : "");
}

weir_status mo_scram_answer(struct mo_scram *scram, const struct mo_keys *keys, weir_error *err)
{
    unsigned char proof[MO_DIGEST_MAX];
    char          letters[BASE64_DIGEST];
    size_t        size = mo_digest_size(scram->mechanism);
    size_t        room = sizeof scram->text - scram->size;

    scram->auth_size = (size_t)snprintf(scram->auth_message, sizeof scram->auth_message,
                                        "%s,%s,%s", scram->bare, scram->theirs, scram->text);
    if (!keyed(scram->mechanism, keys->stored, scram->auth_message, scram->auth_size, proof))
        return no_digest(err, scram->mechanism);
    for (size_t i = 0; i < size; i++)
        proof[i] ^= keys->client[i];
    EVP_EncodeBlock((unsigned char *)letters, proof, (int)size);
    int added = snprintf(scram->text + scram->size, room, ",p=%s", letters);
    OPENSSL_cleanse(proof, sizeof proof);
    OPENSSL_cleanse(letters, sizeof letters);
    if ((size_t)added >= room)
        return distrust(err, "its nonce is too long");
    scram->size += (size_t)added;
    return WEIR_OK;
}

weir_status mo_scram_verify(const struct mo_scram *scram, const struct mo_keys *keys,
                            const char *data, size_t size, weir_error *err)
{
    unsigned char wanted[MO_DIGEST_MAX], got[MO_DIGEST_MAX + 3];
    size_t        digest = mo_digest_size(scram->mechanism);

    if (size > 2 && size < MO_TEXT_MAX && is_printable(data, size) && memcmp(data, "e=", 2) == 0)
        return weir_error_set(err, WEIR_CONNECT, "authentication: the server refuses: %.*s",
                              (int)(size - 2 < 100 ? size - 2 : 100), data + 2);
    if (size <= 2 || size > MO_TEXT_MAX || memcmp(data, "v=", 2) != 0 ||
        from_base64(data + 2, size - 2, got, sizeof got) != digest)
        return distrust(err, "its last message is not of the form v=");
    if (!keyed(scram->mechanism, keys->server, scram->auth_message, scram->auth_size, wanted))
        return no_digest(err, scram->mechanism);
    bool same = CRYPTO_memcmp(wanted, got, digest) == 0;
    OPENSSL_cleanse(wanted, sizeof wanted);
    return same ? WEIR_OK : distrust(err, "its signature is wrong, it does not know the password");
}

/* ---- the keys ------------------------------------------------------------------------- */

/* What MongoDB stores for SHA-1 is made from this instead of the password: its server had such
   digests of all passwords before it had SCRAM. */
static bool digest_password(const char *user, const char *password, char hex[33])
{
    unsigned char md5[EVP_MAX_MD_SIZE];
    EVP_MD_CTX   *ctx = EVP_MD_CTX_new();
    bool          ok = ctx && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) == 1 &&
              EVP_DigestUpdate(ctx, user, strlen(user)) == 1 &&
              EVP_DigestUpdate(ctx, ":mongo:", 7) == 1 &&
              EVP_DigestUpdate(ctx, password, strlen(password)) == 1 &&
              EVP_DigestFinal_ex(ctx, md5, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    for (size_t i = 0; ok && i < 16; i++) {
        hex[2 * i] = "0123456789abcdef"[md5[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[md5[i] & 15];
    }
    hex[32] = '\0';
    OPENSSL_cleanse(md5, sizeof md5);
    return ok;
}

static bool derive(enum mo_mechanism mechanism, const char *secret, const unsigned char *salt,
                   size_t salt_size, unsigned rounds, struct mo_keys *keys)
{
    const EVP_MD *digest = digest_of(mechanism);
    unsigned char salted[MO_DIGEST_MAX];
    size_t        size = mo_digest_size(mechanism);
    bool ok = PKCS5_PBKDF2_HMAC(secret, (int)strlen(secret), salt, (int)salt_size, (int)rounds,
                                digest, (int)size, salted) == 1 &&
              keyed(mechanism, salted, "Client Key", 10, keys->client) &&
              keyed(mechanism, salted, "Server Key", 10, keys->server) &&
              EVP_Digest(keys->client, size, keys->stored, NULL, digest, NULL) == 1;

    OPENSSL_cleanse(salted, sizeof salted);
    return ok;
}

weir_status mo_scram_derive(enum mo_mechanism mechanism, const char *user, const char *password,
                            const unsigned char *salt, size_t salt_size, unsigned rounds,
                            struct mo_keys *keys, weir_error *err)
{
    char hex[33];
    bool ok;

    if (mechanism == MO_SCRAM_SHA_1) {
        ok = digest_password(user, password, hex) &&
             derive(mechanism, hex, salt, salt_size, rounds, keys);
        OPENSSL_cleanse(hex, sizeof hex);
    } else {
        ok = derive(mechanism, password, salt, salt_size, rounds, keys);
    }
    return ok ? WEIR_OK : no_digest(err, mechanism);
}
