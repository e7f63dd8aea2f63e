/*
 * message.c - what the messages that pass tell, without reading what is in them.
 *
 * Knows:   the head of a message, MongoDB's wire protocol: length, ids, opcode, flags, and the
 *          name of a request's command.
 * Ignores: who waits, where the bytes come from.
 *
 * Every message begins with four little-endian numbers of four bytes: its length, its id, the
 * id of the request it answers, its opcode. OP_MSG goes on with flags (bit 1: more messages, or
 * no reply, will follow), a byte of 0 and a document whose first key is the command. The
 * library says its first hello by OP_QUERY, and uses that for nothing else.
 *
 * Two things come of it. A request must not be sent on a stream that still owes a reply: the
 * library would take that for the answer, since it never looks which request a reply is for.
 * And what became of a failed command can be told.
 *
 * In a compressed message the flags cannot be seen, so neither whether a request wants a reply
 * nor whether a reply is the last: then one is due "perhaps", and not missed.
 */
#include "mongo_internal.h"

#include <string.h>
#include <strings.h>

enum {
    OP_QUERY = 2004,
    OP_COMPRESSED = 2012,
    OP_MSG = 2013,
    MORE_TO_COME = 2,
    COMMAND_AT = 26,
    PEEK = 48
};

static uint32_t number(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static size_t gather(const mongoc_iovec_t *iov, size_t count, unsigned char *to, size_t size)
{
    size_t have = 0;

    for (size_t i = 0; i < count && have < size; i++) {
        size_t n = iov[i].iov_len < size - have ? iov[i].iov_len : size - have;
        memcpy(to + have, iov[i].iov_base, n);
        have += n;
    }
    return have;
}

static size_t size_of(const mongoc_iovec_t *iov, size_t count)
{
    size_t size = 0;

    for (size_t i = 0; i < count; i++)
        size += iov[i].iov_len;
    return size;
}

/* The library writes a message in one call, or, when it says hello without waiting, in several
   of which the first has all that is to come. */
void mo_message_begin(struct mo_stream *stream, const mongoc_iovec_t *iov, size_t count)
{
    unsigned char head[PEEK + 1] = { 0 };
    size_t        have = gather(iov, count, head, PEEK);
    uint32_t      opcode = have >= 16 ? number(head + 12) : 0;
    const char   *command = (const char *)head + COMMAND_AT;

    stream->out_left = size_of(iov, count);
    stream->request = (int32_t)number(head + 4);
    stream->perhaps = opcode == OP_COMPRESSED;
    stream->no_reply = opcode == OP_MSG && (number(head + 16) & MORE_TO_COME);
    stream->hello = opcode == OP_QUERY ||
                    (opcode == OP_MSG && (strcmp(command, "hello") == 0 ||
                                          strcasecmp(command, "ismaster") == 0));
}

static bool head_is_sane(struct mo_stream *stream)
{
    uint32_t size = number(stream->head);
    int32_t  answers = (int32_t)number(stream->head + 8);

    if (size <= sizeof stream->head || size > INT32_MAX || !stream->due) {
        mo_trouble(stream->client, "%s:%u has sent what is no reply", stream->host, stream->port);
        return false;
    }
    if (answers != stream->request) {
        mo_trouble(stream->client, "%s:%u has answered another request than was asked",
                   stream->host, stream->port);
        return false;
    }
    return true;
}

static void reply_ends(struct mo_stream *stream)
{
    uint32_t opcode = number(stream->head + 12);
    bool     more = opcode == OP_MSG && (number(stream->head + 16) & MORE_TO_COME);

    stream->head_size = 0;
    stream->perhaps = opcode == OP_COMPRESSED;
    stream->due = more || stream->perhaps;
    /* Each further one answers the one before. */
    stream->request = (int32_t)number(stream->head + 4);
    if (stream->hello)
        return;
    stream->client->unsure = false;
    stream->client->answered = true;
    mo_transaction_answered(stream->client);
}

bool mo_message_owed(const struct mo_stream *stream)
{
    return (stream->due && !stream->perhaps) || stream->head_size || stream->out_left;
}

bool mo_message_read(struct mo_stream *stream, const void *data, size_t size)
{
    const char *at = data;

    while (size) {
        size_t n = stream->in_left;
        if (stream->head_size < sizeof stream->head) {
            n = sizeof stream->head - stream->head_size;
            n = n < size ? n : size;
            memcpy(stream->head + stream->head_size, at, n);
            stream->head_size += n;
            if (stream->head_size == sizeof stream->head) {
                if (!head_is_sane(stream))
                    return false;
                stream->in_left = number(stream->head) - sizeof stream->head;
            }
        } else {
            n = n < size ? n : size;
            stream->in_left -= n;
            if (!stream->in_left)
                reply_ends(stream);
        }
        at += n;
        size -= n;
    }
    return true;
}
