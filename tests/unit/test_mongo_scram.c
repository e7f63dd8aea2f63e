/*
 * test_mongo_scram.c - logging in to MongoDB: the messages of SCRAM, the cache of keys, and the
 * commands that carry them, against a server that is a function of this test.
 *
 * That server computes SCRAM by itself, and can lie in every way we know of. Keys are derived
 * on real threads, so these tests run on the real hub; the waits are some milliseconds. Worth
 * most under a race detector.
 */
#define _GNU_SOURCE
#include "coro_unit.h"

#include "keys.h"
#include "login.h"

#include <bson/bson.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const EVP_MD *md_of(enum mo_mechanism mechanism)
{
    return mechanism == MO_SCRAM_SHA_1 ? EVP_sha1() : EVP_sha256();
}

/* RFC 5802's own words: the keys of a string, whatever it was before. */
static struct mo_keys keys_of(enum mo_mechanism mechanism, const char *secret, const char *salt64,
                              unsigned rounds)
{
    struct mo_keys keys;
    unsigned char  salted[32], salt[256];
    int            size = EVP_MD_get_size(md_of(mechanism));
    int            n = EVP_DecodeBlock(salt, (const unsigned char *)salt64, (int)strlen(salt64));

    for (size_t i = strlen(salt64); salt64[--i] == '=';)
        n--;
    PKCS5_PBKDF2_HMAC(secret, (int)strlen(secret), salt, n, (int)rounds, md_of(mechanism), size,
                      salted);
    HMAC(md_of(mechanism), salted, size, (unsigned char *)"Client Key", 10, keys.client, NULL);
    HMAC(md_of(mechanism), salted, size, (unsigned char *)"Server Key", 10, keys.server, NULL);
    EVP_Digest(keys.client, (size_t)size, keys.stored, NULL, md_of(mechanism), NULL);
    OPENSSL_cleanse(salted, sizeof salted);
    return keys;
}

/* ---- the messages --------------------------------------------------------------------- */

static const struct vector {
    const char       *from;
    enum mo_mechanism mechanism;
    bool              raw; /* the password itself, where MongoDB takes a digest of it */
    const char       *nonce, *challenge, *answer, *signature;
} vectors[] = {
    { "RFC 5802, section 5", MO_SCRAM_SHA_1, true, "fyko+d2lbbFgONRv9qkxdawL",
      "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
      "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
      "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=" },
    { "RFC 7677, section 3", MO_SCRAM_SHA_256, false, "rOprNGfwEbeRWgbNEkqO",
      "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
      "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
      "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
      "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" },
    { "MongoDB's specification of authentication", MO_SCRAM_SHA_1, false,
      "fyko+d2lbbFgONRv9qkxdawL",
      "r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,"
      "i=10000",
      "c=biws,r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,"
      "p=MC2T8BvbmWRckDw8oWl5IVghwCY=",
      "v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0=" },
};

static void the_published_exchanges_are_spoken_word_for_word(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vectors); i++) {
        const struct vector *v = &vectors[i];
        struct mo_scram      scram = { 0 };
        struct mo_keys       keys;
        weir_error           err;
        char                 first[100];

        print_message("%s\n", v->from);
        snprintf(first, sizeof first, "n,,n=user,r=%s", v->nonce);
        assert_int_equal(mo_scram_begin(&scram, v->mechanism, "user", v->nonce, &err), WEIR_OK);
        assert_string_equal(scram.text, first);
        assert_int_equal(mo_scram_challenge(&scram, v->challenge, strlen(v->challenge), &err),
                         WEIR_OK);
        if (v->raw)
            keys = keys_of(v->mechanism, "pencil", "QSXCR+Q6sek8bf92", 4096);
        else
            assert_int_equal(mo_scram_derive(v->mechanism, "user", "pencil", scram.salt,
                                             scram.salt_size, scram.rounds, &keys, &err), WEIR_OK);
        assert_int_equal(mo_scram_answer(&scram, &keys, &err), WEIR_OK);
        assert_string_equal(scram.text, v->answer);
        assert_int_equal(scram.size, strlen(v->answer));
        assert_int_equal(mo_scram_verify(&scram, &keys, v->signature, strlen(v->signature), &err),
                         WEIR_OK);
    }
}

static void what_means_something_in_a_message_is_escaped_in_a_name(void **state)
{
    struct mo_scram scram;
    weir_error      err;
    char            longest[MO_USER_MAX + 2];

    (void)state;
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_1, "a=b,c\xc3\xa4", "N", &err), WEIR_OK);
    assert_string_equal(scram.text, "n,,n=a=3Db=2Cc\xc3\xa4,r=N");
    memset(longest, '=', sizeof longest);
    longest[MO_USER_MAX] = '\0';
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_1, longest, "N", &err), WEIR_OK);
    assert_int_equal(scram.size, 3 + 2 + 3 * MO_USER_MAX + 4);
    longest[MO_USER_MAX] = '=';
    longest[MO_USER_MAX + 1] = '\0';
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_1, longest, "N", &err), WEIR_USAGE);
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_1, "", "N", &err), WEIR_USAGE);
}

static void nonces_are_printable_and_never_the_same(void **state)
{
    char       one[MO_NONCE_SIZE + 1], two[MO_NONCE_SIZE + 1];
    weir_error err;

    (void)state;
    assert_int_equal(mo_scram_nonce(one, &err), WEIR_OK);
    assert_int_equal(mo_scram_nonce(two, &err), WEIR_OK);
    assert_int_equal(strlen(one), MO_NONCE_SIZE);
    assert_null(strchr(one, ','));
    assert_string_not_equal(one, two);
}

/* In answer to "n,,n=user,r=ours". */
static const struct {
    const char *challenge, *words;
} refused_challenges[] = {
    { "", "r=,s=,i=" },
    { "r=oursits", "r=,s=,i=" },
    { "r=oursits,s=c2FsdA==", "r=,s=,i=" },
    { "s=c2FsdA==,i=4096", "r=,s=,i=" },
    { "s=c2FsdA==,r=oursits,i=4096", "r=,s=,i=" },
    { "r=oursits,i=4096,s=c2FsdA==", "r=,s=,i=" },
    { "m=ext,r=oursits,s=c2FsdA==,i=4096", "extension" },
    { "r=oursits,s=c2FsdA==,i=4096,x=more", "r=,s=,i=" },
    { "r=oursits,s=c2FsdA==,i=4096,", "r=,s=,i=" },
    { "r=oursits,,s=c2FsdA==,i=4096", "r=,s=,i=" },
    { "r=oursits,s=,i=4096", "r=,s=,i=" },
    { "r=oursits,s=c2FsdA==,i=", "r=,s=,i=" },
    { "r=ours,s=c2FsdA==,i=4096", "nonce" },
    { "r=our,s=c2FsdA==,i=4096", "nonce" },
    { "r=itsours,s=c2FsdA==,i=4096", "nonce" },
    { "r=Oursits,s=c2FsdA==,i=4096", "nonce" },
    { "r=oursits,s=c2FsdA=,i=4096", "salt" },
    { "r=oursits,s=c2Fsd===,i=4096", "salt" },
    { "r=oursits,s=c2FsdB==,i=4096", "salt" }, /* loose bits at its end */
    { "r=oursits,s=c2F*dA==,i=4096", "salt" },
    { "r=oursits,s====,i=4096", "salt" },
    { "r=oursits,s=c2 FsdA==,i=4096", "text" },
    { "r=oursits\n,s=c2FsdA==,i=4096", "text" },
    { "r=ours\xc3\xa4,s=c2FsdA==,i=4096", "text" },
    { "r=oursits,s=c2FsdA==,i=1", "rounds" },
    { "r=oursits,s=c2FsdA==,i=4095", "rounds" },
    { "r=oursits,s=c2FsdA==,i=1000001", "rounds" },
    { "r=oursits,s=c2FsdA==,i=1000000000", "rounds" },
    { "r=oursits,s=c2FsdA==,i=4294971392", "rounds" }, /* 4096 in 32 bits */
    { "r=oursits,s=c2FsdA==,i=-4096", "rounds" },
    { "r=oursits,s=c2FsdA==,i=+4096", "rounds" },
    { "r=oursits,s=c2FsdA==,i=04096", "rounds" },
    { "r=oursits,s=c2FsdA==,i=4096x", "rounds" },
    { "r=oursits,s=c2FsdA==,i=0x1000", "rounds" },
};

static void a_challenge_is_taken_in_one_form_only(void **state)
{
    struct mo_scram scram;
    weir_error      err;

    (void)state;
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_256, "user", "ours", &err), WEIR_OK);
    const char *good[] = { "r=oursits,s=c2FsdA==,i=4096", "r=oursits,s=c2FsdA==,i=1000000" };
    for (size_t i = 0; i < COUNT(good); i++)
        assert_int_equal(mo_scram_challenge(&scram, good[i], strlen(good[i]), &err), WEIR_OK);
    for (size_t i = 0; i < COUNT(refused_challenges); i++) {
        const char *text = refused_challenges[i].challenge;
        if (mo_scram_challenge(&scram, text, strlen(text), &err) != WEIR_CONNECT)
            fail_msg("\"%s\" was taken", text);
        if (!strstr(err.message, refused_challenges[i].words))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", text, err.message,
                     refused_challenges[i].words);
    }
    /* What follows a NUL is a part of it. */
    assert_int_equal(mo_scram_challenge(&scram, "r=oursits,s=c2FsdA==,i=4096\0x", 29, &err),
                     WEIR_CONNECT);
}

static void a_challenge_that_is_too_long_is_refused(void **state)
{
    struct mo_scram scram;
    weir_error      err;
    struct mo_keys  keys = { { 0 }, { 0 }, { 0 } };
    char            text[5000];

    (void)state;
    assert_int_equal(mo_scram_begin(&scram, MO_SCRAM_SHA_256, "user", "ours", &err), WEIR_OK);
    for (int filler = 900; filler < 4900; filler += filler < 1100 ? 1 : 100) {
        memset(text, 'x', sizeof text);
        memcpy(text, "r=ours", 6);
        size_t size = 6 + (size_t)filler;
        size += (size_t)sprintf(text + size, ",s=c2FsdA==,i=4096");
        weir_status status = mo_scram_challenge(&scram, text, size, &err);
        if (status == WEIR_OK) /* it fits; our answer to it need not */
            status = mo_scram_answer(&scram, &keys, &err);
        assert_true(scram.size < sizeof scram.text);
        assert_int_equal(status, filler < 964 ? WEIR_OK : WEIR_CONNECT);
    }
}

static void only_the_right_signature_is_taken(void **state)
{
    const struct vector *v = &vectors[1];
    struct mo_scram      scram;
    struct mo_keys       keys = keys_of(v->mechanism, "pencil", "W22ZaJ0SNY7soEsUEjb6gQ==", 4096);
    weir_error           err;
    char                 text[200];
    size_t               size = strlen(v->signature);

    (void)state;
    assert_int_equal(mo_scram_begin(&scram, v->mechanism, "user", v->nonce, &err), WEIR_OK);
    assert_int_equal(mo_scram_challenge(&scram, v->challenge, strlen(v->challenge), &err), WEIR_OK);
    assert_int_equal(mo_scram_answer(&scram, &keys, &err), WEIR_OK);
    assert_int_equal(mo_scram_verify(&scram, &keys, v->signature, size, &err), WEIR_OK);

    for (size_t i = 0; i < size; i++) { /* any letter of it changed */
        memcpy(text, v->signature, size);
        text[i] = text[i] == 'A' ? 'B' : 'A';
        assert_int_equal(mo_scram_verify(&scram, &keys, text, size, &err), WEIR_CONNECT);
    }
    for (size_t i = 0; i < size; i++) /* any of it missing */
        assert_int_equal(mo_scram_verify(&scram, &keys, v->signature, i, &err), WEIR_CONNECT);
    snprintf(text, sizeof text, "%s,x=more", v->signature);
    assert_int_equal(mo_scram_verify(&scram, &keys, text, strlen(text), &err), WEIR_CONNECT);
    assert_int_equal(mo_scram_verify(&scram, &keys, "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=", 30, &err),
                     WEIR_CONNECT); /* one of SHA-1's size */
    assert_int_equal(mo_scram_verify(&scram, &keys, "e=invalid-proof", 15, &err), WEIR_CONNECT);
    assert_non_null(strstr(err.message, "the server refuses: invalid-proof"));
}

static void plain_passwords_are_those_of_printable_ascii(void **state)
{
    (void)state;
    assert_true(mo_password_is_plain(""));
    assert_true(mo_password_is_plain(" Azaz09!~"));
    assert_false(mo_password_is_plain("p\xc3\xa4ss"));
    assert_false(mo_password_is_plain("tab\there"));
    assert_false(mo_password_is_plain("del\x7f"));
}

/* ---- a server ------------------------------------------------------------------------- */

enum lie {
    HONEST = 0,
    NEEDS_EMPTY_EXCHANGE, /* as MongoDB before 4.4; no lie */
    CHECKSUM,             /* neither */
    EMPTY_EXCHANGE_FOR_EVER,
    WRONG_SIGNATURE,
    NO_SIGNATURE,
    FOREIGN_NONCE,
    OUR_NONCE_ONLY,
    ONE_ROUND,
    MANY_ROUNDS,
    EXTENSION,
    NO_PAYLOAD,
    TWO_PAYLOADS,
    TEXT_PAYLOAD,
    NO_CONVERSATION,
    CHANGED_CONVERSATION,
    DONE_AT_ONCE,
    DONE_WITHOUT_SIGNATURE,
    ANSWERS_ANOTHER,
    OTHER_OPCODE,
    MORE_TO_COME,
    OTHER_SECTION,
    TOO_LONG,
    TOO_SHORT,
    NEGATIVE,
    LIES_ABOUT_ITS_SIZE,
    BROKEN_BSON,
    HANGS_UP,
    FALLS_SILENT,
};

struct fake {
    enum lie    lie;
    unsigned    offers;   /* mechanisms, as bits (both) */
    int         refusal;  /* code for those not offered (18) */
    const char *words;    /* of a refusal */
    const char *password; /* as the server knows it (pencil) */
    const char *salt64;
    unsigned    rounds;   /* (4096) */

    unsigned          commands, starts;
    char              source[40], mechanism[40], api[40];
    bool              skips, strict, deprecation;
    enum mo_mechanism in_use;
    char              bare[1000], challenge[1100], signature[64];
    bool              over;
    uint8_t           out[40000];
    size_t            out_size, out_read;
};

/* Sends a document in answer to the command that had this number. */
static void reply(struct fake *fake, const bson_t *document, int32_t answers)
{
    bool    sums = fake->lie == CHECKSUM;
    int32_t size = (int32_t)document->len + 21 + (sums ? 4 : 0);
    int32_t head[5] = { size, 99, answers, 2013, sums };

    head[2] += fake->lie == ANSWERS_ANOTHER;
    head[3] += fake->lie == OTHER_OPCODE;
    head[4] |= fake->lie == MORE_TO_COME ? 2 : 0;
    if (fake->lie == TOO_LONG)
        head[0] = 16385;
    if (fake->lie == TOO_SHORT)
        head[0] = 25;
    if (fake->lie == NEGATIVE)
        head[0] = -1;
    if (fake->lie == LIES_ABOUT_ITS_SIZE)
        head[0] += 7;
    memset(fake->out, 0, sizeof fake->out);
    memcpy(fake->out, head, 20);
    fake->out[20] = fake->lie == OTHER_SECTION;
    memcpy(fake->out + 21, bson_get_data(document), document->len);
    if (fake->lie == BROKEN_BSON)
        fake->out[21 + 4] = 0x55; /* the kind of its first field, and there is no such kind */
    fake->out_size = fake->lie == FALLS_SILENT ? 0 : sizeof fake->out;
    fake->out_read = 0;
}

static void refuse(struct fake *fake, int32_t answers, int code)
{
    bson_t *document = BCON_NEW("ok", BCON_DOUBLE(0), "errmsg",
                                BCON_UTF8(fake->words ? fake->words : "Authentication failed."),
                                "code", BCON_INT32(code), "codeName", "AuthenticationFailed");
    reply(fake, document, answers);
    bson_destroy(document);
}

static void say(struct fake *fake, int32_t answers, const char *text, bool done)
{
    bson_t document = BSON_INITIALIZER;

    if (fake->lie != NO_CONVERSATION)
        BSON_APPEND_INT32(&document, "conversationId",
                          fake->lie == CHANGED_CONVERSATION ? (int32_t)fake->commands : 7);
    BSON_APPEND_BOOL(&document, "done", done);
    for (int i = 0; i < (fake->lie == TWO_PAYLOADS ? 2 : fake->lie == NO_PAYLOAD ? 0 : 1); i++)
        if (fake->lie == TEXT_PAYLOAD)
            BSON_APPEND_UTF8(&document, "payload", text);
        else
            BSON_APPEND_BINARY(&document, "payload", BSON_SUBTYPE_BINARY, (const uint8_t *)text,
                               (uint32_t)strlen(text));
    BSON_APPEND_DOUBLE(&document, "ok", 1);
    reply(fake, &document, answers);
    bson_destroy(&document);
}

static const char *text_of(const bson_t *command, const char *key)
{
    bson_iter_t it;

    return bson_iter_init_find(&it, command, key) && BSON_ITER_HOLDS_UTF8(&it)
               ? bson_iter_utf8(&it, NULL)
               : "";
}

static bool flag_of(const bson_t *command, const char *key)
{
    bson_iter_t it, found;

    return bson_iter_init(&it, command) && bson_iter_find_descendant(&it, key, &found) &&
           bson_iter_as_bool(&found);
}

static void hear_payload(const bson_t *command, char *text, size_t room)
{
    bson_iter_t    it;
    uint32_t       size = 0;
    const uint8_t *data = (const uint8_t *)"";

    HOLDS(bson_iter_init_find(&it, command, "payload") && BSON_ITER_HOLDS_BINARY(&it));
    bson_iter_binary(&it, NULL, &size, &data);
    HOLDS(size < room);
    snprintf(text, room, "%.*s", (int)size, (const char *)data);
}

static void serve_start(struct fake *fake, const bson_t *command, int32_t id)
{
    char text[1000];

    snprintf(fake->source, sizeof fake->source, "%s", text_of(command, "$db"));
    snprintf(fake->mechanism, sizeof fake->mechanism, "%s", text_of(command, "mechanism"));
    fake->skips = flag_of(command, "options.skipEmptyExchange");
    fake->starts++;
    fake->in_use = strcmp(fake->mechanism, "SCRAM-SHA-1") == 0 ? MO_SCRAM_SHA_1 : MO_SCRAM_SHA_256;
    if (fake->offers && !(fake->offers & 1u << fake->in_use)) {
        refuse(fake, id, fake->refusal ? fake->refusal : 18);
        return;
    }
    hear_payload(command, text, sizeof text);
    HOLDS(strncmp(text, "n,,n=user,r=", 12) == 0);
    snprintf(fake->bare, sizeof fake->bare, "%s", text + 3);
    const char *nonce = strstr(text, "r=") + 2;
    snprintf(fake->challenge, sizeof fake->challenge, "%sr=%s%s,s=%s,i=%u",
             fake->lie == EXTENSION ? "m=x," : "", fake->lie == FOREIGN_NONCE ? "abc" : nonce,
             fake->lie == OUR_NONCE_ONLY ? "" : "its", fake->salt64 ? fake->salt64 : "c2FsdA==",
             fake->lie == ONE_ROUND     ? 1
             : fake->lie == MANY_ROUNDS ? 1000000000
             : fake->rounds             ? fake->rounds
                                        : 4096);
    say(fake, id, fake->challenge, fake->lie == DONE_AT_ONCE);
}

/* Does the answer prove the password? Then sign, too. */
static bool check_proof(struct fake *fake, const char *answer)
{
    char           secret[100], message[3000], proof64[64];
    unsigned char  md5[16], signature[32], own[32];
    int            size = EVP_MD_get_size(md_of(fake->in_use));
    const char    *password = fake->password ? fake->password : "pencil";
    const char    *end = strstr(answer, ",p=");

    HOLDS(end != NULL);
    snprintf(secret, sizeof secret, "%s", password);
    if (fake->in_use == MO_SCRAM_SHA_1) {
        snprintf(message, sizeof message, "user:mongo:%s", password);
        EVP_Digest(message, strlen(message), md5, NULL, EVP_md5(), NULL);
        for (int i = 0; i < 16; i++)
            sprintf(secret + 2 * i, "%02x", md5[i]);
    }
    struct mo_keys keys = keys_of(fake->in_use, secret, fake->salt64 ? fake->salt64 : "c2FsdA==",
                                  fake->rounds ? fake->rounds : 4096);
    snprintf(message, sizeof message, "%s,%s,%.*s", fake->bare, fake->challenge,
             (int)(end - answer), answer);
    HMAC(md_of(fake->in_use), keys.stored, size, (unsigned char *)message, strlen(message),
         signature, NULL);
    HMAC(md_of(fake->in_use), keys.server, size, (unsigned char *)message, strlen(message), own,
         NULL);
    for (int i = 0; i < size; i++)
        signature[i] ^= keys.client[i];
    EVP_EncodeBlock((unsigned char *)proof64, signature, size);
    own[0] ^= fake->lie == WRONG_SIGNATURE;
    memcpy(fake->signature, "v=", 2);
    EVP_EncodeBlock((unsigned char *)fake->signature + 2, own, size);
    if (fake->lie == NO_SIGNATURE || fake->lie == DONE_WITHOUT_SIGNATURE)
        fake->signature[0] = '\0';
    OPENSSL_cleanse(secret, sizeof secret);
    OPENSSL_cleanse(message, sizeof message);
    OPENSSL_cleanse(&keys, sizeof keys);
    return strcmp(end + 3, proof64) == 0;
}

static void serve_continue(struct fake *fake, const bson_t *command, int32_t id)
{
    char        text[1000];
    bson_iter_t it;

    if (fake->lie != CHANGED_CONVERSATION)
        HOLDS(bson_iter_init_find(&it, command, "conversationId") && bson_iter_int32(&it) == 7);
    hear_payload(command, text, sizeof text);
    if (fake->signature[0] && !*text)
        say(fake, id, "", fake->lie != EMPTY_EXCHANGE_FOR_EVER);
    else if (!check_proof(fake, text))
        refuse(fake, id, 18);
    else
        say(fake, id, fake->signature,
            fake->lie != NEEDS_EMPTY_EXCHANGE && fake->lie != EMPTY_EXCHANGE_FOR_EVER &&
                fake->lie != NO_SIGNATURE);
}

static weir_status fake_send(void *arg, const void *data, size_t size, weir_deadline deadline)
{
    struct fake *fake = arg;
    bson_t       command;
    int32_t      head[5];

    (void)deadline;
    memcpy(head, data, sizeof head);
    HOLDS_EQ(head[0], size);
    HOLDS_EQ(head[3], 2013);
    HOLDS_EQ(head[4], 0);
    HOLDS_EQ(((const uint8_t *)data)[20], 0);
    HOLDS(bson_init_static(&command, (const uint8_t *)data + 21, size - 21));
    HOLDS(bson_validate(&command, BSON_VALIDATE_NONE, NULL));
    fake->commands++;
    snprintf(fake->api, sizeof fake->api, "%s", text_of(&command, "apiVersion"));
    fake->strict = flag_of(&command, "apiStrict");
    fake->deprecation = flag_of(&command, "apiDeprecationErrors");
    if (bson_has_field(&command, "saslStart"))
        serve_start(fake, &command, head[1]);
    else
        serve_continue(fake, &command, head[1]);
    return WEIR_OK;
}

static weir_status fake_recv(void *arg, void *data, size_t size, weir_deadline deadline)
{
    struct fake *fake = arg;

    if (fake->lie == HANGS_UP)
        return WEIR_LOST;
    if (fake->lie == FALLS_SILENT)
        return weir_park(deadline, "a silent server");
    HOLDS(fake->out_read + size <= fake->out_size);
    memcpy(data, fake->out + fake->out_read, size);
    fake->out_read += size;
    return WEIR_OK;
}

/* ---- one login ------------------------------------------------------------------------ */

struct attempt {
    struct fake       fake;
    enum mo_mechanism mechanism;
    const char       *password; /* (pencil) */
    const char       *source, *api_version;
    bool              api_strict, api_deprecation_errors;
    int64_t           patience_ms; /* (a minute) */
    weir_status       status;
    weir_error        err;
};

static weir_status log_in(void *arg)
{
    struct attempt    *a = arg;
    struct mo_login_io io = { .arg = &a->fake, .send = fake_send, .recv = fake_recv };
    struct mo_user     user = { .name = "user",
                                .password = a->password ? a->password : "pencil",
                                .source = a->source,
                                .mechanism = a->mechanism,
                                .api_version = a->api_version,
                                .api_strict = a->api_strict,
                                .api_deprecation_errors = a->api_deprecation_errors };

    memset(&a->err, 0, sizeof a->err);
    a->fake.commands = a->fake.starts = 0;
    a->status = mo_login(&io, &user, weir_in_ms(a->patience_ms ? a->patience_ms : 60000), &a->err);
    return WEIR_OK;
}

static void expect_welcome(struct attempt *a, unsigned commands, const char *mechanism)
{
    run_real(log_in, a);
    if (a->status != WEIR_OK)
        fail_msg("%s: %s", weir_status_name(a->status), a->err.message);
    assert_int_equal(a->fake.commands, commands);
    assert_string_equal(a->fake.mechanism, mechanism);
}

static void expect_refusal(struct attempt *a, weir_status status, int native, const char *words)
{
    run_real(log_in, a);
    if (a->status != status || a->err.status != status || a->err.native != native)
        fail_msg("%s (%d): %s", weir_status_name(a->status), a->err.native, a->err.message);
    if (!strstr(a->err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", a->err.message, words);
}

static struct mo_keys_stats stats_now(void)
{
    struct mo_keys_stats stats;

    mo_keys_stats(&stats);
    return stats;
}

static void a_right_password_is_welcome(void **state)
{
    struct attempt a = { .mechanism = MO_SCRAM_SHA_256 }, b = { .mechanism = MO_SCRAM_SHA_1 };

    (void)state;
    mo_keys_forget();
    expect_welcome(&a, 2, "SCRAM-SHA-256");
    expect_welcome(&b, 2, "SCRAM-SHA-1");
    assert_string_equal(a.fake.source, "admin");
    assert_true(a.fake.skips);
    assert_string_equal(a.fake.api, "");
    assert_int_equal(stats_now().proven, 2);
}

static void a_server_that_ends_with_an_empty_exchange_gets_it(void **state)
{
    struct attempt a = { .fake.lie = NEEDS_EMPTY_EXCHANGE };

    (void)state;
    expect_welcome(&a, 3, "SCRAM-SHA-256");
}

static void a_checksum_is_passed_over(void **state)
{
    struct attempt a = { .fake.lie = CHECKSUM };

    (void)state;
    expect_welcome(&a, 2, "SCRAM-SHA-256");
}

static void the_source_and_the_api_version_are_on_every_command(void **state)
{
    struct attempt a = { .source = "shop", .api_version = "1", .api_strict = true };

    (void)state;
    expect_welcome(&a, 2, "SCRAM-SHA-256");
    assert_string_equal(a.fake.source, "shop");
    assert_string_equal(a.fake.api, "1"); /* of the last command */
    assert_true(a.fake.strict);
    assert_false(a.fake.deprecation);
    a.api_strict = false;
    a.api_deprecation_errors = true;
    expect_welcome(&a, 2, "SCRAM-SHA-256");
    assert_false(a.fake.strict);
    assert_true(a.fake.deprecation);
}

static void a_wrong_password_is_refused_in_the_servers_words(void **state)
{
    struct attempt a = { .password = "pen" };

    (void)state;
    mo_keys_forget();
    expect_refusal(&a, WEIR_CONNECT, 18,
                   "authentication of 'user' in 'admin': Authentication failed.");
    assert_int_equal(a.fake.starts, 1); /* SHA-1 would not help */
    assert_null(strstr(a.err.message, "pen"));
    assert_int_equal(stats_now().proven, 0);
}

static void a_servers_words_stay_on_one_line(void **state)
{
    struct attempt a = { .password = "pen", .fake.words = "no\nERROR: \x1b[31mforged" };

    (void)state;
    expect_refusal(&a, WEIR_CONNECT, 18, "no ERROR:  [31mforged");
}

/* ---- mechanisms ----------------------------------------------------------------------- */

static void a_user_with_sha_1_alone_gets_it_where_no_mechanism_is_named(void **state)
{
    const int codes[] = { 18, 334, 11, 2 };

    (void)state;
    for (size_t i = 0; i < COUNT(codes); i++) {
        struct attempt a = { .fake = { .offers = 1u << MO_SCRAM_SHA_1, .refusal = codes[i] } };
        mo_keys_forget();
        expect_welcome(&a, 3, "SCRAM-SHA-1");
        expect_welcome(&a, 2, "SCRAM-SHA-1"); /* known by now */
    }
}

static void a_user_who_lost_sha_1_gets_sha_256_again(void **state)
{
    struct attempt a = { .fake.offers = 1u << MO_SCRAM_SHA_1 };

    (void)state;
    mo_keys_forget();
    expect_welcome(&a, 3, "SCRAM-SHA-1");
    a.fake.offers = 1u << MO_SCRAM_SHA_256;
    expect_welcome(&a, 3, "SCRAM-SHA-256");
    expect_welcome(&a, 2, "SCRAM-SHA-256");
}

static void a_mechanism_that_is_named_is_the_only_one_tried(void **state)
{
    struct attempt a = { .mechanism = MO_SCRAM_SHA_256, .fake.offers = 1u << MO_SCRAM_SHA_1 };

    (void)state;
    expect_refusal(&a, WEIR_CONNECT, 18, "Authentication failed");
    assert_int_equal(a.fake.commands, 1);
}

static void a_user_whom_nobody_knows_is_refused_after_both(void **state)
{
    struct attempt a = { .fake.offers = 1u << 7 };

    (void)state;
    mo_keys_forget();
    expect_refusal(&a, WEIR_CONNECT, 18, "Authentication failed");
    assert_int_equal(a.fake.commands, 2);
}

static void a_refusal_for_another_reason_is_not_the_mechanisms(void **state)
{
    struct attempt a = { .fake = { .offers = 1u << MO_SCRAM_SHA_1, .refusal = 322 } };

    (void)state;
    mo_keys_forget();
    expect_refusal(&a, WEIR_CONNECT, 322, "Authentication failed");
    assert_int_equal(a.fake.commands, 1);
}

static void a_password_that_must_be_prepared_is_left_to_others(void **state)
{
    struct attempt a = { .password = "p\xc3\xa4ss", .fake.password = "p\xc3\xa4ss" };

    (void)state;
    expect_refusal(&a, WEIR_USAGE, 0, "leave this user to libmongoc");
    assert_int_equal(a.fake.commands, 0);
    a.mechanism = MO_SCRAM_SHA_1; /* which takes it as it is */
    expect_welcome(&a, 2, "SCRAM-SHA-1");
}

/* ---- lies ----------------------------------------------------------------------------- */

static const struct {
    enum lie    lie;
    weir_status status;
    const char *words;
    unsigned    commands;
} lies[] = {
    { EMPTY_EXCHANGE_FOR_EVER, WEIR_CONNECT, "it does not come to an end", 3 },
    { WRONG_SIGNATURE, WEIR_CONNECT, "its signature is wrong", 2 },
    { NO_SIGNATURE, WEIR_CONNECT, "not of the form v=", 2 },
    { DONE_WITHOUT_SIGNATURE, WEIR_CONNECT, "not of the form v=", 2 },
    { DONE_AT_ONCE, WEIR_CONNECT, "done before it has proven", 1 },
    { FOREIGN_NONCE, WEIR_CONNECT, "its nonce", 1 },
    { OUR_NONCE_ONLY, WEIR_CONNECT, "its nonce", 1 },
    { ONE_ROUND, WEIR_CONNECT, "asks for 1 rounds; 4096 to 1000000", 1 },
    { MANY_ROUNDS, WEIR_CONNECT, "asks for 1000000000 rounds", 1 },
    { EXTENSION, WEIR_CONNECT, "extension", 1 },
    { NO_PAYLOAD, WEIR_CONNECT, "no payload", 1 },
    { TWO_PAYLOADS, WEIR_CONNECT, "cannot be read", 1 },
    { TEXT_PAYLOAD, WEIR_CONNECT, "cannot be read", 1 },
    { NO_CONVERSATION, WEIR_CONNECT, "conversationId", 1 },
    { CHANGED_CONVERSATION, WEIR_CONNECT, "another conversation", 2 },
    { ANSWERS_ANOTHER, WEIR_CONNECT, "it answers another one", 1 },
    { OTHER_OPCODE, WEIR_CONNECT, "of another kind", 1 },
    { MORE_TO_COME, WEIR_CONNECT, "of another kind", 1 },
    { OTHER_SECTION, WEIR_CONNECT, "of another kind", 1 },
    { TOO_LONG, WEIR_CONNECT, "its size is absurd", 1 },
    { TOO_SHORT, WEIR_CONNECT, "its size is absurd", 1 },
    { NEGATIVE, WEIR_CONNECT, "its size is absurd", 1 },
    { LIES_ABOUT_ITS_SIZE, WEIR_CONNECT, "cannot be read", 1 },
    { BROKEN_BSON, WEIR_CONNECT, "cannot be read", 1 },
    { HANGS_UP, WEIR_LOST, "the connection was lost", 1 },
    { FALLS_SILENT, WEIR_TIMEOUT, "did not answer in time", 1 },
};

static void a_server_that_lies_is_not_believed(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(lies); i++) {
        struct attempt a = { .fake.lie = lies[i].lie,
                             .patience_ms = lies[i].lie == FALLS_SILENT ? 20 : 0 };
        mo_keys_forget();
        expect_refusal(&a, lies[i].status, 0, lies[i].words);
        if (a.fake.commands != lies[i].commands)
            fail_msg("lie %d: %u commands, not %u", lies[i].lie, a.fake.commands, lies[i].commands);
        assert_int_equal(stats_now().proven, lies[i].lie == EMPTY_EXCHANGE_FOR_EVER);
    }
}

/* ---- the cache ------------------------------------------------------------------------ */

enum { SLOW = 300000 }; /* rounds: 0.1 s of a thread */

struct asker {
    struct mo_keys_of of;
    weir_deadline     deadline;
    weir_status       status;
    struct mo_keys    keys;
    weir_error        err;
};

static struct asker asks_for(unsigned char salt, unsigned rounds)
{
    static unsigned char made[256][4];

    memset(made[salt], salt, sizeof made[salt]);
    return (struct asker){ .of = { .mechanism = MO_SCRAM_SHA_256,
                                   .user = "user",
                                   .password = "pencil",
                                   .salt = made[salt],
                                   .salt_size = 4,
                                   .rounds = rounds },
                           .deadline = WEIR_FOREVER,
                           .status = WEIR_FAILED };
}

static weir_status ask(void *arg)
{
    struct asker *asker = arg;

    asker->status = mo_keys_get(&asker->of, asker->deadline, &asker->keys, &asker->err);
    return WEIR_OK;
}

enum { CROWD = 100 };

static weir_status ask_in_a_crowd(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    struct asker *askers = arg;

    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    for (int i = 0; i < CROWD; i++)
        weir_spawn(group, ask, &askers[i]);
    return weir_group_wait(group, WEIR_FOREVER);
}

static void expect_same_keys(const struct asker *askers, int count)
{
    for (int i = 0; i < count; i++) {
        assert_int_equal(askers[i].status, WEIR_OK);
        assert_memory_equal(&askers[i].keys, &askers[0].keys, sizeof askers[0].keys);
    }
}

static void a_hundred_callers_share_one_derivation(void **state)
{
    struct asker  askers[CROWD];
    unsigned long before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    for (int i = 0; i < CROWD; i++)
        askers[i] = asks_for(1, SLOW);
    run_real(ask_in_a_crowd, askers);
    expect_same_keys(askers, CROWD);
    assert_int_equal(stats_now().derived - before, 1);
    assert_int_equal(stats_now().deriving, 0);

    struct mo_keys right = keys_of(MO_SCRAM_SHA_256, "pencil", "AQEBAQ==", SLOW);
    assert_memory_equal(&askers[0].keys, &right, sizeof right);
}

static void *run_crowd(void *arg)
{
    return weir_run(ask_in_a_crowd, arg) == WEIR_OK ? arg : NULL;
}

static void hubs_of_several_threads_share_one_derivation(void **state)
{
    static struct asker askers[3 * CROWD];
    pthread_t           threads[3];
    unsigned long       before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    for (int i = 0; i < 3 * CROWD; i++)
        askers[i] = asks_for(2, SLOW);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_crowd, askers + i * CROWD), 0);
    for (int i = 0; i < 3; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        assert_non_null(result);
    }
    expect_same_keys(askers, 3 * CROWD);
    assert_int_equal(stats_now().derived - before, 1);
    assert_notes();
}

static void every_part_of_what_they_depend_on_makes_other_keys(void **state)
{
    struct asker  askers[7];
    unsigned long before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    for (int i = 0; i < 7; i++)
        askers[i] = asks_for(3, 4096);
    askers[1].of.password = "pencils";
    askers[2].of.salt = askers[2].of.salt + 1;
    askers[2].of.salt_size = 3;
    askers[3].of.rounds = 4097;
    askers[4].of.mechanism = MO_SCRAM_SHA_1;
    askers[5].of = askers[4].of;
    askers[5].of.user = "usher";
    askers[6].of.user = "use";       /* the same letters, if nothing stood between them */
    askers[6].of.password = "rpencil";
    for (int i = 0; i < 7; i++)
        run_real(ask, &askers[i]);
    assert_int_equal(stats_now().derived - before, 7);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(askers[i].status, WEIR_OK);
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(askers[i].keys.client, askers[j].keys.client, 20);
        run_real(ask, &askers[i]);
    }
    assert_int_equal(stats_now().derived - before, 7); /* kept, each of them */
}

/* A false server's salts must not push out the keys of true ones. */
static void unproven_keys_are_the_first_to_go(void **state)
{
    struct asker  good[4], bad;
    unsigned long before;

    (void)state;
    mo_keys_forget();
    for (unsigned char i = 0; i < 4; i++) {
        good[i] = asks_for((unsigned char)(10 + i), 4096);
        run_real(ask, &good[i]);
        mo_keys_prove(&good[i].of);
    }
    for (unsigned char i = 0; i < 2 * MO_KEYS_KEPT; i++) {
        bad = asks_for((unsigned char)(100 + i), 4096);
        run_real(ask, &bad);
        assert_true(stats_now().kept <= MO_KEYS_KEPT);
    }
    assert_int_equal(stats_now().kept, MO_KEYS_KEPT);
    assert_int_equal(stats_now().proven, 4);
    before = stats_now().derived;
    for (int i = 0; i < 4; i++)
        run_real(ask, &good[i]);
    assert_int_equal(stats_now().derived, before);
    bad = asks_for(100, 4096); /* long gone */
    run_real(ask, &bad);
    assert_int_equal(stats_now().derived, before + 1);
}

static void of_proven_keys_the_one_not_used_for_longest_goes(void **state)
{
    struct asker  asker;
    unsigned long before;

    (void)state;
    mo_keys_forget();
    for (unsigned char i = 0; i < MO_KEYS_KEPT; i++) {
        asker = asks_for(i, 4096);
        run_real(ask, &asker);
        mo_keys_prove(&asker.of);
    }
    asker = asks_for(0, 4096);
    run_real(ask, &asker); /* used again: the second one is the oldest now */
    asker = asks_for(200, 4096);
    run_real(ask, &asker);
    assert_int_equal(stats_now().kept, MO_KEYS_KEPT);
    before = stats_now().derived;
    asker = asks_for(0, 4096);
    run_real(ask, &asker);
    assert_int_equal(stats_now().derived, before);
    asker = asks_for(1, 4096);
    run_real(ask, &asker);
    assert_int_equal(stats_now().derived, before + 1);
}

/* A job that has the only thread until the gate is opened: what is asked for waits in line. */
static struct gate {
    atomic_int reached, open;
} gate;

static void wait_at_gate(void *arg)
{
    (void)arg;
    atomic_store(&gate.reached, 1);
    for (int i = 0; i < 20000 && !atomic_load(&gate.open); i++)
        usleep(1000);
}

static weir_status occupy_thread(void *arg)
{
    return weir_offload(wait_at_gate, arg, WEIR_FOREVER);
}

static void close_gate(weir_group *group)
{
    weir_offload_limit(1);
    atomic_store(&gate.reached, 0);
    atomic_store(&gate.open, 0);
    weir_spawn(group, occupy_thread, NULL);
    while (!atomic_load(&gate.reached) && sleep_ms(1) == WEIR_OK)
        continue;
}

static weir_status open_gate(weir_group *group)
{
    atomic_store(&gate.open, 1);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    weir_offload_limit(8);
    return status;
}

/* Of three who wait, one is cancelled and one has no time. */
static weir_status give_up_meanwhile(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    struct asker *askers = arg;

    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    close_gate(group);
    askers[1].deadline = weir_in_ms(10);
    weir_task *first = weir_spawn(group, ask, &askers[0]);
    weir_spawn(group, ask, &askers[1]);
    weir_spawn(group, ask, &askers[2]);
    HOLDS_EQ(sleep_ms(20), WEIR_OK);
    HOLDS_EQ(askers[1].status, WEIR_TIMEOUT);
    HOLDS_EQ(askers[0].status, WEIR_FAILED); /* still waits */
    weir_cancel(first);
    HOLDS_EQ(sleep_ms(1), WEIR_OK);
    HOLDS_EQ(askers[0].status, WEIR_CANCELED);
    HOLDS_EQ(askers[2].status, WEIR_FAILED);
    return open_gate(group);
}

static void who_gives_up_takes_nothing_from_the_others(void **state)
{
    struct asker  askers[3];
    unsigned long before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    for (int i = 0; i < 3; i++)
        askers[i] = asks_for(4, 4096);
    run_real(give_up_meanwhile, askers);
    assert_int_equal(askers[2].status, WEIR_OK);
    assert_int_equal(stats_now().derived - before, 1);
    assert_non_null(strstr(askers[0].err.message, "cancelled"));
    assert_non_null(strstr(askers[1].err.message, "out of time"));
}

static weir_status give_up_once_it_has_begun(void *arg)
{
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    weir_task *task = weir_spawn(group, ask, arg);
    while (!stats_now().at_work && sleep_ms(1) == WEIR_OK)
        continue;
    weir_cancel(task);
    return weir_group_wait(group, WEIR_FOREVER);
}

/* Who asks next finds it. */
static void a_derivation_that_has_begun_is_finished_and_kept(void **state)
{
    struct asker  asker = asks_for(5, MO_ROUNDS_MAX);
    unsigned long before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    run_real(give_up_once_it_has_begun, &asker);
    assert_int_equal(asker.status, WEIR_CANCELED);
    assert_int_equal(stats_now().derived - before, 1); /* the hub waited for it */
    assert_int_equal(stats_now().at_work, 0);
    asker.deadline = WEIR_NOW;
    run_real(ask, &asker);
    assert_int_equal(asker.status, WEIR_OK);
    assert_int_equal(stats_now().derived - before, 1);
}

static weir_status give_up_before_it_begins(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    struct asker *asker = arg;

    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    close_gate(group);
    asker->deadline = weir_in_ms(10);
    (void)ask(asker);
    return open_gate(group);
}

static void a_derivation_that_nobody_waits_for_is_not_begun(void **state)
{
    struct asker         asker = asks_for(6, MO_ROUNDS_MAX);
    struct mo_keys_stats before = stats_now();

    (void)state;
    mo_keys_forget();
    run_real(give_up_before_it_begins, &asker);
    assert_int_equal(asker.status, WEIR_TIMEOUT);
    assert_int_equal(stats_now().derived - before.derived, 0);
    assert_int_equal(stats_now().dropped - before.dropped, 1);
    assert_int_equal(stats_now().deriving, 0);
    assert_int_equal(stats_now().kept, 0);
}

static void outside_of_a_coroutine_keys_are_derived_at_once(void **state)
{
    struct asker  asker = asks_for(7, 4096);
    unsigned long before = stats_now().derived;

    (void)state;
    mo_keys_forget();
    ask(&asker);
    ask(&asker);
    assert_int_equal(asker.status, WEIR_OK);
    assert_int_equal(stats_now().derived - before, 1);
    assert_int_equal(stats_now().kept, 1);
}

/* The thread that derives is not in the child, who must not wait for it. */
static weir_status fork_meanwhile(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    int           ended = -1;

    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    close_gate(group);
    weir_spawn(group, ask, arg);
    HOLDS_EQ(weir_yield(), WEIR_OK);
    HOLDS_EQ(stats_now().deriving, 1);
    pid_t child = fork();
    if (child == 0)
        _exit(stats_now().deriving == 0 && stats_now().kept == 0 ? 0 : 1);
    HOLDS_EQ(waitpid(child, &ended, 0), child);
    HOLDS_EQ(ended, 0);
    return open_gate(group);
}

static void a_child_forgets_what_its_parent_derives(void **state)
{
    struct asker asker = asks_for(8, 4096);

    (void)state;
    mo_keys_forget();
    run_real(fork_meanwhile, &asker);
    assert_int_equal(asker.status, WEIR_OK);
}

/* ---- secrets -------------------------------------------------------------------------- */

/* What must not be found, in memory that is shared and therefore not looked through itself. */
struct secrets {
    char          password[45];
    char          hex[33];    /* its digest, where SHA-1 takes that */
    unsigned char salted[20]; /* SaltedPassword, or the beginning of it */
    unsigned char client[20]; /* ClientKey, likewise */
};

static void *shared(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static int times_within(const unsigned char *memory, size_t size, const void *what, size_t n)
{
    const unsigned char *at = memory, *end = memory + size;
    int                  found = 0;

    while ((at = memmem(at, (size_t)(end - at), what, n)) != NULL) {
        found++;
        at++;
    }
    return found;
}

/* How often the bytes stand in memory that only we can write to: the heap, what was freed of
   it, and all stacks, those of coroutines too. */
static int times_in_memory(const void *what, size_t n)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    int   mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC), found = 0;
    char  line[400], mode[5];

    assert_non_null(maps);
    assert_true(mem >= 0);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) != 3 || strcmp(mode, "rw-p") != 0)
            continue;
        unsigned char *copy = shared(end - start);
        ssize_t        got = pread(mem, copy, end - start, (off_t)start);
        found += got > 0 ? times_within(copy, (size_t)got, what, n) : 0;
        munmap(copy, end - start);
    }
    close(mem);
    fclose(maps);
    return found;
}

static void make_secrets(struct secrets *secrets, enum mo_mechanism mechanism)
{
    bool          sha_1 = mechanism == MO_SCRAM_SHA_1;
    char          text[100];
    unsigned char md5[16];

    for (size_t i = 0; i < sizeof secrets->password - 1; i++)
        secrets->password[i] = (char)('!' + (i * 7 + (size_t)rand()) % 90);
    snprintf(text, sizeof text, "user:mongo:%s", secrets->password);
    EVP_Digest(text, strlen(text), md5, NULL, EVP_md5(), NULL);
    for (int i = 0; i < 16; i++)
        sprintf(secrets->hex + 2 * i, "%02x", md5[i]);
    const char    *secret = sha_1 ? secrets->hex : secrets->password;
    struct mo_keys keys = keys_of(mechanism, secret, "c2FsdA==", 4096);
    PKCS5_PBKDF2_HMAC(secret, (int)strlen(secret), (const unsigned char *)"salt", 4, 4096,
                      md_of(mechanism), sizeof secrets->salted, secrets->salted);
    memcpy(secrets->client, keys.client, sizeof secrets->client);
    OPENSSL_cleanse(&keys, sizeof keys);
    OPENSSL_cleanse(text, sizeof text);
}

static void no_secret_is_left_in_memory(void **state)
{
    const enum mo_mechanism mechanisms[] = { MO_SCRAM_SHA_256, MO_SCRAM_SHA_1 };
    struct secrets         *secrets;

    (void)state;
    if (context_is_watched()) {
        print_message("skipped: a tool keeps copies of its own\n");
        return;
    }
    secrets = shared(sizeof *secrets);
    for (size_t i = 0; i < COUNT(mechanisms); i++) {
        make_secrets(secrets, mechanisms[i]);
        char          *password = strdup(secrets->password);
        struct attempt a = { .mechanism = mechanisms[i], .password = password,
                             .fake.password = password };
        size_t         size = strlen(password);

        expect_welcome(&a, 2, mo_mechanism_name(mechanisms[i]));
        assert_int_equal(times_in_memory(secrets->password, size), 1); /* our own */
        assert_int_equal(times_in_memory(secrets->client, sizeof secrets->client), 1); /* kept */
        assert_int_equal(times_in_memory(secrets->salted, sizeof secrets->salted), 0);
        assert_int_equal(times_in_memory(secrets->hex, 32), 0);
        OPENSSL_cleanse(password, size);
        mo_keys_forget();
        assert_int_equal(times_in_memory(secrets->password, size), 0);
        assert_int_equal(times_in_memory(secrets->client, sizeof secrets->client), 0);
        free(password);
    }
    munmap(secrets, sizeof *secrets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_published_exchanges_are_spoken_word_for_word),
        TEST(what_means_something_in_a_message_is_escaped_in_a_name),
        TEST(nonces_are_printable_and_never_the_same),
        TEST(a_challenge_is_taken_in_one_form_only),
        TEST(a_challenge_that_is_too_long_is_refused),
        TEST(only_the_right_signature_is_taken),
        TEST(plain_passwords_are_those_of_printable_ascii),
        TEST(a_right_password_is_welcome),
        TEST(a_server_that_ends_with_an_empty_exchange_gets_it),
        TEST(a_checksum_is_passed_over),
        TEST(the_source_and_the_api_version_are_on_every_command),
        TEST(a_wrong_password_is_refused_in_the_servers_words),
        TEST(a_servers_words_stay_on_one_line),
        TEST(a_user_with_sha_1_alone_gets_it_where_no_mechanism_is_named),
        TEST(a_user_who_lost_sha_1_gets_sha_256_again),
        TEST(a_mechanism_that_is_named_is_the_only_one_tried),
        TEST(a_user_whom_nobody_knows_is_refused_after_both),
        TEST(a_refusal_for_another_reason_is_not_the_mechanisms),
        TEST(a_password_that_must_be_prepared_is_left_to_others),
        TEST(a_server_that_lies_is_not_believed),
        TEST(a_hundred_callers_share_one_derivation),
        TEST(hubs_of_several_threads_share_one_derivation),
        TEST(every_part_of_what_they_depend_on_makes_other_keys),
        TEST(unproven_keys_are_the_first_to_go),
        TEST(of_proven_keys_the_one_not_used_for_longest_goes),
        TEST(who_gives_up_takes_nothing_from_the_others),
        TEST(a_derivation_that_has_begun_is_finished_and_kept),
        TEST(a_derivation_that_nobody_waits_for_is_not_begun),
        TEST(outside_of_a_coroutine_keys_are_derived_at_once),
        TEST(a_child_forgets_what_its_parent_derives),
        TEST(no_secret_is_left_in_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
