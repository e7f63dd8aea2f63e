/*
 * transaction.c - transactions that a user has begun on the server and not ended.
 *
 * Knows:   how a command says that it is part of one, and how one is aborted.
 * Ignores: sessions, which are the library's objects and their user's to end.
 *
 * A command of a transaction names its session (lsid), the transaction's number in it (txnNumber)
 * and says autocommit: false (MongoDB's specification of transactions for drivers). It is over
 * once commitTransaction or abortTransaction was answered, whatever the answer. The server does
 * not end one with the connection it came by: its locks would be held until
 * transactionLifetimeLimitSeconds (60) have passed. So one that is open when its lease ends is
 * aborted, on the stream it was last heard of, as if the library said so.
 *
 * One is remembered. A user who leaves two of them open has a client that nobody gets any more,
 * and the second runs into the server's limit. The same goes for one of which the client was
 * lost, or cut by a deadline. Commands that are compressed cannot be looked into.
 */
#define _GNU_SOURCE
#include "mongo_internal.h"

#include <string.h>

enum {
    OP_MSG = 2013,
    SECTION_AT = 21,       /* the document begins there: header, flags, kind of section */
    ABORT_ID = 0x77656174, /* of our request; the library counts its own from 1 */
    ABORT_SIZE = 512
};

/* The document of the command, which the library hands over in one piece. */
static bool find_document(const mongoc_iovec_t *iov, size_t count, bson_t *out)
{
    size_t at = 0;

    for (size_t i = 0; i < count; at += iov[i++].iov_len)
        if (SECTION_AT >= at && SECTION_AT < at + iov[i].iov_len) {
            const uint8_t *data = (const uint8_t *)iov[i].iov_base + (SECTION_AT - at);
            size_t         room = iov[i].iov_len - (SECTION_AT - at);
            uint32_t       size;
            if (room < sizeof size)
                return false;
            memcpy(&size, data, sizeof size);
            size = BSON_UINT32_FROM_LE(size);
            return size <= room && bson_init_static(out, data, size);
        }
    return false;
}

/* Most are not, and reading a command field by field takes ten times as long as looking for the one
   that shows it. */
static bool may_be_of_one(const bson_t *command)
{
    static const char sign[] = "\x08" "autocommit"; /* a boolean of that name, with its zero */

    return memmem(bson_get_data(command), command->len, sign, sizeof sign);
}

/* What a command says of its transaction; false: it is part of none. */
static bool read_command(const bson_t *command, struct mo_transaction *out, bool *ends)
{
    bool        first = true, within = false;
    bson_iter_t at;

    *ends = false;
    if (!bson_iter_init(&at, command))
        return false;
    while (bson_iter_next(&at)) {
        const char *key = bson_iter_key(&at);
        if (first)
            *ends = strcmp(key, "commitTransaction") == 0 || strcmp(key, "abortTransaction") == 0;
        first = false;
        if (strcmp(key, "autocommit") == 0)
            within = BSON_ITER_HOLDS_BOOL(&at) && !bson_iter_bool(&at);
        else if (strcmp(key, "txnNumber") == 0)
            out->number = bson_iter_as_int64(&at);
        else if (strcmp(key, "lsid") == 0 && BSON_ITER_HOLDS_DOCUMENT(&at)) {
            const uint8_t *data;
            bson_iter_document(&at, &out->lsid_size, &data);
            if (out->lsid_size > sizeof out->lsid)
                return false;
            memcpy(out->lsid, data, out->lsid_size);
        }
    }
    return within && out->lsid_size;
}

/* A session has one at a time: its next one ends the one before. */
static bool same_session(const struct mo_transaction *a, const struct mo_transaction *b)
{
    return a->lsid_size == b->lsid_size && memcmp(a->lsid, b->lsid, a->lsid_size) == 0;
}

void mo_transaction_see(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count)
{
    struct mo_transaction *open = &stream->client->transaction, seen = { .stream = stream };
    bson_t                 command;
    bool                   ends;

    if (!find_document(iov, count, &command) || !may_be_of_one(&command) ||
        !read_command(&command, &seen, &ends))
        return;
    if (open->stream && !same_session(open, &seen)) {
        open->several = open->several || !ends;
        return;
    }
    seen.ending = ends;
    seen.several = open->several;
    if (open->stream || !ends)
        *open = seen;
}

/* A command was answered. */
void mo_transaction_answered(struct mo_client *client)
{
    struct mo_transaction *open = &client->transaction;

    if (open->ending)
        *open = (struct mo_transaction){ .several = open->several };
}

/* ---- aborting ---------------------------------------------------------------------- */

static void put_number(uint8_t *at, int32_t number)
{
    uint32_t little = BSON_UINT32_TO_LE((uint32_t)number);

    memcpy(at, &little, sizeof little);
}

static size_t write_abort(const struct mo_client *client, uint8_t *message)
{
    const struct mo_transaction *open = &client->transaction;
    const weir_mongo_opts       *opts = &client->config->opts;
    bson_t                       lsid, command = BSON_INITIALIZER;

    if (!bson_init_static(&lsid, open->lsid, open->lsid_size))
        return 0;
    BSON_APPEND_INT32(&command, "abortTransaction", 1);
    BSON_APPEND_DOCUMENT(&command, "lsid", &lsid);
    BSON_APPEND_INT64(&command, "txnNumber", open->number);
    BSON_APPEND_BOOL(&command, "autocommit", false);
    BSON_APPEND_UTF8(&command, "$db", "admin");
    if (opts->api_version)
        BSON_APPEND_UTF8(&command, "apiVersion", opts->api_version);
    if (opts->api_strict)
        BSON_APPEND_BOOL(&command, "apiStrict", true);
    if (opts->api_deprecation_errors)
        BSON_APPEND_BOOL(&command, "apiDeprecationErrors", true);
    size_t size = SECTION_AT + command.len;
    memset(message, 0, SECTION_AT); /* flags, and the kind of a section that is a document */
    put_number(message, (int32_t)size);
    put_number(message + 4, ABORT_ID);
    put_number(message + 12, OP_MSG);
    if (size <= ABORT_SIZE)
        memcpy(message + SECTION_AT, bson_get_data(&command), command.len);
    bson_destroy(&command);
    return size <= ABORT_SIZE ? size : 0;
}

static bool read_reply(struct mo_stream *stream)
{
    char           bytes[ABORT_SIZE];
    mongoc_iovec_t iov = { .iov_base = bytes, .iov_len = sizeof bytes };

    while (mo_message_owed(stream)) {
        iov.iov_base = bytes; /* the contract lets a stream move it */
        iov.iov_len = sizeof bytes;
        if (stream->vt.readv(&stream->vt, &iov, 1, 1, -1) <= 0)
            return false;
    }
    return true;
}

bool mo_transaction_abort(struct mo_client *client)
{
    struct mo_stream *stream = client->transaction.stream;
    uint8_t           message[ABORT_SIZE];
    size_t            size = write_abort(client, message);
    mongoc_iovec_t    iov = { .iov_base = message, .iov_len = size };

    if (!size || stream->state != MO_READY)
        return false;
    if (stream->vt.writev(&stream->vt, &iov, 1, -1) != (ssize_t)size || !read_reply(stream))
        return false;
    return !client->transaction.stream;
}
