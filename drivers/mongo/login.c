/*
 * login.c - saslStart, saslContinue.
 *
 * Knows:   MongoDB's messages (OP_MSG), the commands that carry SCRAM, the server's refusals.
 * Ignores: the stream below, and what SCRAM says (scram.c).
 *
 * The client library authenticates on its own, and derives the keys for each connection on the
 * hub's thread. So it is given no credentials, and the stream logs in with this, just before
 * the first command that is no hello: then the server has seen the library's hello and nothing
 * else, and only those members of a replica set that are really used are asked. There is no
 * hello of ours: a server takes the client's metadata once, and refuses the library's after it.
 *
 * That leaves which mechanisms a user has, which a server tells in its answer to a hello
 * (saslSupportedMechs). The specification of drivers says SHA-256 where it is among them, else
 * SHA-1. It comes to the same to try SHA-256 and see it refused at saslStart, where nothing but
 * the user's name was sent; a wrong password is refused later. A user for whom SHA-1 has worked
 * before is not put to that again.
 *
 * The exchange lives on the heap, in one piece that is wiped at its end.
 */
#include "login.h"

#include "keys.h"

#include <bson/bson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

/* The wire protocol's numbers: MongoDB's manual, "MongoDB Wire Protocol". */
enum {
    HEAD_SIZE = 21,     /* header, flags, and the kind of the first section */
    CHECKSUM_SIZE = 4,
    OP_MSG = 2013,
    FLAG_CHECKSUM = 1,  /* a checksum follows, which TCP and TLS make needless */
    FLAGS_BINDING = 0xffff, /* the flags that whoever does not know one must refuse */
    REQUEST_SIZE = 2048,
    REPLY_SIZE = 16384, /* a real one has some hundred bytes */
    FIRST_REQUEST = 0x57454952 /* apart from the client library's, which count from 1 */
};

/* The server's numbers for what a mechanism that it does not have leads to. */
enum {
    BAD_VALUE = 2,
    USER_NOT_FOUND = 11,
    AUTHENTICATION_FAILED = 18,
    MECHANISM_UNAVAILABLE = 334
};

struct login {
    const struct mo_login_io *io;
    const struct mo_user     *user;
    weir_deadline             deadline;
    int32_t                   request;      /* number of the last message sent */
    int32_t                   conversation; /* the server's number of this exchange */
    bool                      started;      /* the server agreed to the mechanism */
    struct mo_scram           scram;
    struct mo_keys            keys;
    uint8_t                   sent[REQUEST_SIZE];
    uint8_t                   got[REPLY_SIZE];
    size_t                    document_size; /* of what is behind the head in it */
};

struct reply {
    bool        ok, done, has_conversation;
    int32_t     conversation;
    int64_t     code;
    const char *words;
    const char *payload;
    size_t      payload_size;
};

static const char *source_of(const struct mo_user *user)
{
    return user->source && *user->source ? user->source : "admin";
}

/* ---- one command out ------------------------------------------------------------------ */

static void put_int32(uint8_t *at, int32_t number)
{
    uint32_t little = BSON_UINT32_TO_LE((uint32_t)number);

    memcpy(at, &little, sizeof little);
}

static int32_t get_int32(const uint8_t *at)
{
    uint32_t little;

    memcpy(&little, at, sizeof little);
    return (int32_t)BSON_UINT32_FROM_LE(little);
}

/* What the server wants on every command of a client that declares its API's version. */
static bool add_common(bson_t *command, const struct mo_user *user)
{
    if (!BSON_APPEND_UTF8(command, "$db", source_of(user)))
        return false;
    if (!user->api_version)
        return true;
    return BSON_APPEND_UTF8(command, "apiVersion", user->api_version) &&
           (!user->api_strict || BSON_APPEND_BOOL(command, "apiStrict", true)) &&
           (!user->api_deprecation_errors ||
            BSON_APPEND_BOOL(command, "apiDeprecationErrors", true));
}

static bool add_start(bson_t *command, const struct mo_scram *scram)
{
    bson_t options;

    /* Without that option the server ends with an exchange of nothing. */
    return BSON_APPEND_INT32(command, "saslStart", 1) &&
           BSON_APPEND_UTF8(command, "mechanism", mo_mechanism_name(scram->mechanism)) &&
           BSON_APPEND_BINARY(command, "payload", BSON_SUBTYPE_BINARY,
                              (const uint8_t *)scram->text, (uint32_t)scram->size) &&
           BSON_APPEND_DOCUMENT_BEGIN(command, "options", &options) &&
           BSON_APPEND_BOOL(&options, "skipEmptyExchange", true) &&
           bson_append_document_end(command, &options);
}

static bool add_continue(bson_t *command, int32_t conversation, const char *text, size_t size)
{
    return BSON_APPEND_INT32(command, "saslContinue", 1) &&
           BSON_APPEND_INT32(command, "conversationId", conversation) &&
           BSON_APPEND_BINARY(command, "payload", BSON_SUBTYPE_BINARY, (const uint8_t *)text,
                              (uint32_t)size);
}

/* Written where it is sent from, so that there is one place to wipe. A NULL text starts. */
static size_t write_command(struct login *login, const char *text, size_t text_size)
{
    uint8_t       *buffer = login->sent;
    size_t         room = sizeof login->sent;
    bson_writer_t *writer = bson_writer_new(&buffer, &room, HEAD_SIZE, NULL, NULL);
    bson_t        *command;
    size_t         size = 0;

    if (bson_writer_begin(writer, &command)) {
        bool whole = (text ? add_continue(command, login->conversation, text, text_size)
                           : add_start(command, &login->scram)) &&
                     add_common(command, login->user);
        size = whole ? HEAD_SIZE + command->len : 0;
        bson_writer_end(writer);
    }
    bson_writer_destroy(writer);
    put_int32(login->sent, (int32_t)size);
    put_int32(login->sent + 4, ++login->request);
    put_int32(login->sent + 8, 0); /* answers nothing */
    put_int32(login->sent + 12, OP_MSG);
    put_int32(login->sent + 16, 0); /* flags */
    login->sent[20] = 0;            /* a section that is a document */
    return size;
}

/* ---- one reply in --------------------------------------------------------------------- */

static weir_status broken_off(weir_status status, weir_error *err)
{
    return weir_error_set(err, status, "authentication: %s",
                          status == WEIR_TIMEOUT    ? "the server did not answer in time"
                          : status == WEIR_CANCELED ? "cancelled"
                                                    : "the connection was lost");
}

static weir_status malformed(weir_error *err, const char *what)
{
    return weir_error_set(err, WEIR_CONNECT, "authentication: not an answer to our command: %s",
                          what);
}

/* The document of the reply; its head has been looked at before the rest is waited for. */
static weir_status receive(struct login *login, weir_error *err)
{
    weir_status status = login->io->recv(login->io->arg, login->got, HEAD_SIZE, login->deadline);

    if (status != WEIR_OK)
        return broken_off(status, err);
    int32_t  length = get_int32(login->got);
    uint32_t flags = (uint32_t)get_int32(login->got + 16);
    size_t   tail = flags & FLAG_CHECKSUM ? CHECKSUM_SIZE : 0;
    if (length < HEAD_SIZE + 5 + (int32_t)tail || length > REPLY_SIZE)
        return malformed(err, "its size is absurd");
    if (get_int32(login->got + 8) != login->request)
        return malformed(err, "it answers another one");
    if (get_int32(login->got + 12) != OP_MSG || (flags & FLAGS_BINDING & ~FLAG_CHECKSUM) ||
        login->got[20] != 0)
        return malformed(err, "it is of another kind");

    size_t rest = (size_t)length - HEAD_SIZE;
    status = login->io->recv(login->io->arg, login->got + HEAD_SIZE, rest, login->deadline);
    if (status != WEIR_OK)
        return broken_off(status, err);
    login->document_size = rest - tail;
    return WEIR_OK;
}

/* One field of a reply. False where it is there in a way that no server sends it. */
static bool take_field(struct reply *reply, const bson_iter_t *at)
{
    const char     *key = bson_iter_key(at);
    bson_subtype_t  subtype;
    uint32_t        size;
    const uint8_t  *data;

    if (strcmp(key, "ok") == 0) {
        reply->ok = bson_iter_as_bool(at);
    } else if (strcmp(key, "code") == 0) {
        reply->code = bson_iter_as_int64(at);
    } else if (strcmp(key, "errmsg") == 0) {
        reply->words = BSON_ITER_HOLDS_UTF8(at) ? bson_iter_utf8(at, NULL) : NULL;
    } else if (strcmp(key, "done") == 0) {
        reply->done = bson_iter_as_bool(at);
    } else if (strcmp(key, "conversationId") == 0) {
        if (!BSON_ITER_HOLDS_INT32(at) || reply->has_conversation)
            return false;
        reply->has_conversation = true;
        reply->conversation = bson_iter_int32(at);
    } else if (strcmp(key, "payload") == 0) {
        if (!BSON_ITER_HOLDS_BINARY(at) || reply->payload)
            return false;
        bson_iter_binary(at, &subtype, &size, &data);
        reply->payload = (const char *)data;
        reply->payload_size = size;
    }
    return true;
}

static bool parse(const uint8_t *document, size_t size, struct reply *reply)
{
    bson_t      bson;
    bson_iter_t at;

    *reply = (struct reply){ 0 };
    if (!bson_init_static(&bson, document, size) || !bson_iter_init(&at, &bson))
        return false;
    while (bson_iter_next(&at))
        if (!take_field(reply, &at))
            return false;
    return at.err_off == 0;
}

/* A server's words end up in logs, where a line break would make two lines of one. */
static weir_status refused(const struct login *login, const struct reply *reply, weir_error *err)
{
    char words[120];

    snprintf(words, sizeof words, "%s", reply->words ? reply->words : "no reason is given");
    for (char *c = words; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    weir_error_set(err, WEIR_CONNECT, "authentication of '%.40s' in '%.30s': %s",
                   login->user->name, source_of(login->user), words);
    err->native = (int)reply->code;
    return WEIR_CONNECT;
}

static weir_status ask(struct login *login, const char *text, size_t text_size,
                       struct reply *reply, weir_error *err)
{
    size_t size = write_command(login, text, text_size);

    if (!size)
        return weir_error_set(err, WEIR_USAGE,
                              "authentication: the user's name, database or API version is too "
                              "long");
    weir_status status = login->io->send(login->io->arg, login->sent, size, login->deadline);
    if (status != WEIR_OK)
        return broken_off(status, err);
    status = receive(login, err);
    if (status != WEIR_OK)
        return status;
    if (!parse(login->got + HEAD_SIZE, login->document_size, reply))
        return malformed(err, "it cannot be read");
    if (!reply->ok)
        return refused(login, reply, err);
    if (!reply->payload || !reply->has_conversation)
        return malformed(err, "it has no payload, or no conversationId");
    return WEIR_OK;
}

/* ---- the exchange --------------------------------------------------------------------- */

static weir_status start(struct login *login, enum mo_mechanism mechanism, weir_error *err)
{
    char         nonce[MO_NONCE_SIZE + 1];
    struct reply reply;
    weir_status  status = mo_scram_nonce(nonce, err);

    if (status == WEIR_OK)
        status = mo_scram_begin(&login->scram, mechanism, login->user->name, nonce, err);
    if (status == WEIR_OK)
        status = ask(login, NULL, 0, &reply, err);
    if (status != WEIR_OK)
        return status;
    login->started = true;
    login->conversation = reply.conversation;
    if (reply.done)
        return malformed(err, "it says done before it has proven anything");
    return mo_scram_challenge(&login->scram, reply.payload, reply.payload_size, err);
}

static weir_status go_on(struct login *login, const char *text, size_t size, struct reply *reply,
                         weir_error *err)
{
    weir_status status = ask(login, text, size, reply, err);

    if (status == WEIR_OK && reply->conversation != login->conversation)
        return malformed(err, "it is of another conversation");
    return status;
}

/* A server older than 4.4 does not know skipEmptyExchange. */
static weir_status finish(struct login *login, weir_error *err)
{
    struct reply reply;
    weir_status  status = go_on(login, "", 0, &reply, err);

    if (status == WEIR_OK && (!reply.done || reply.payload_size))
        return malformed(err, "it does not come to an end");
    return status;
}

static weir_status converse(struct login *login, enum mo_mechanism mechanism, weir_error *err)
{
    const struct mo_user *user = login->user;
    struct mo_scram      *scram = &login->scram;
    struct reply          reply;
    weir_status           status = start(login, mechanism, err);

    if (status != WEIR_OK)
        return status;
    struct mo_keys_of of = { .mechanism = mechanism,
                             .user = user->name,
                             .password = user->password,
                             .salt = scram->salt,
                             .salt_size = scram->salt_size,
                             .rounds = scram->rounds };
    status = mo_keys_get(&of, login->deadline, &login->keys, err);
    if (status == WEIR_OK)
        status = mo_scram_answer(scram, &login->keys, err);
    if (status == WEIR_OK)
        status = go_on(login, scram->text, scram->size, &reply, err);
    if (status == WEIR_OK)
        status = mo_scram_verify(scram, &login->keys, reply.payload, reply.payload_size, err);
    if (status != WEIR_OK)
        return status;
    mo_keys_prove(&of);
    return reply.done ? WEIR_OK : finish(login, err);
}

/* ---- which mechanism ------------------------------------------------------------------ */

static enum mo_mechanism first_choice(const struct mo_user *user)
{
    if (user->mechanism != MO_MECHANISM_ANY)
        return user->mechanism;
    if (mo_keys_proven(MO_SCRAM_SHA_1, user->name, user->password) &&
        !mo_keys_proven(MO_SCRAM_SHA_256, user->name, user->password))
        return MO_SCRAM_SHA_1;
    return MO_SCRAM_SHA_256;
}

static bool may_be_the_mechanism(const struct login *login, const weir_error *err)
{
    return login->user->mechanism == MO_MECHANISM_ANY && !login->started &&
           err->status == WEIR_CONNECT &&
           (err->native == AUTHENTICATION_FAILED || err->native == MECHANISM_UNAVAILABLE ||
            err->native == USER_NOT_FOUND || err->native == BAD_VALUE);
}

static weir_status try_both(struct login *login, weir_error *err)
{
    enum mo_mechanism first = first_choice(login->user);
    weir_error        second;
    weir_status       status = converse(login, first, err);

    if (status == WEIR_OK || !may_be_the_mechanism(login, err))
        return status;
    status = converse(login, first == MO_SCRAM_SHA_1 ? MO_SCRAM_SHA_256 : MO_SCRAM_SHA_1, &second);
    /* Neither of them: what the server said of the better one is said. */
    if (status != WEIR_OK && !may_be_the_mechanism(login, &second))
        *err = second;
    return status == WEIR_OK ? WEIR_OK : err->status;
}

static weir_status check_user(const struct mo_user *user, weir_error *err)
{
    if (!user->name || !user->password)
        return weir_error_set(err, WEIR_USAGE, "authentication: the user's name or password is "
                                               "missing");
    if (user->mechanism != MO_SCRAM_SHA_1 && !mo_password_is_plain(user->password))
        return weir_error_set(err, WEIR_USAGE,
                              "authentication: the password has letters that must be prepared "
                              "(SASLprep): use ASCII alone, or leave this user to "
                              "libmongoc");
    return WEIR_OK;
}

weir_status mo_login(const struct mo_login_io *io, const struct mo_user *user,
                     weir_deadline deadline, weir_error *err)
{
    weir_error  error;
    weir_status status = check_user(user, err);

    if (status != WEIR_OK)
        return status;
    struct login *login = OPENSSL_zalloc(sizeof *login);
    if (!login)
        return weir_error_set(err, WEIR_NOMEM, "authentication: no memory");
    login->io = io;
    login->user = user;
    login->deadline = deadline;
    login->request = FIRST_REQUEST;
    status = try_both(login, &error);
    if (status != WEIR_OK && err)
        *err = error;
    OPENSSL_clear_free(login, sizeof *login);
    return status;
}
