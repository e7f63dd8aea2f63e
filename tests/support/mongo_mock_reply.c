/*
 * mongo_mock_reply.c - from a command to its answer.
 *
 * Knows:   how messages are laid out, and what a server of version 6 says to some commands.
 * Ignores: connections, and rules about going wrong: here everything is answered at once.
 *
 * A cursor's number is its whole state, how many documents there are and how many were given,
 * so the server has nothing to remember or to clean up.
 */
#include "mongo_mock_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FIRST_BATCH = 101, REPLY_MAX = 16 << 20, CURSOR_SHIFT = 31, HEADER = 16 };

/* ---- messages ----------------------------------------------------------------------- */

void mock_number(uint8_t *at, int32_t value)
{
    uint32_t v = BSON_UINT32_TO_LE((uint32_t)value);
    memcpy(at, &v, sizeof v);
}

int32_t mock_read_number(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return (int32_t)BSON_UINT32_FROM_LE(v);
}

static bool parse_document(bson_t *out, const uint8_t *data, size_t size, size_t *used)
{
    if (size < 5)
        return false;
    int32_t length = mock_read_number(data);
    if (length < 5 || (size_t)length > size || !bson_init_static(out, data, (size_t)length))
        return false;
    *used = (size_t)length;
    return bson_validate(out, BSON_VALIDATE_NONE, NULL);
}

/* A section of the kind 1: its length, a name, documents up to its end. */
static bool count_sequence(struct mock_message *m, const uint8_t *data, size_t size, size_t *used)
{
    int32_t length = size < 5 ? 0 : mock_read_number(data);
    if (length < 5 || (size_t)length > size)
        return false;

    const uint8_t *end = memchr(data + 4, 0, (size_t)length - 4);
    size_t         at = end ? (size_t)(end - data) + 1 : (size_t)length + 1;
    while (at < (size_t)length) {
        bson_t document;
        size_t step;
        if (!parse_document(&document, data + at, (size_t)length - at, &step))
            return false;
        at += step;
        m->documents++;
    }
    *used = (size_t)length;
    return at == (size_t)length;
}

static bool parse_msg(struct mock_message *m, const uint8_t *data, size_t size)
{
    bool   has_body = false;
    size_t at = HEADER + 4, used;

    if (size < at)
        return false;
    m->flags = (uint32_t)mock_read_number(data + HEADER);
    if (m->flags & 1) /* a checksum, which libmongoc never sends */
        return false;
    while (at < size) {
        uint8_t kind = data[at++];
        if (kind == 0 && !has_body && parse_document(&m->body, data + at, size - at, &used))
            has_body = true;
        else if (kind != 1 || !count_sequence(m, data + at, size - at, &used))
            return false;
        at += used;
    }
    return has_body;
}

/* Flags, the name of a collection, two numbers, the command. */
static bool parse_query(struct mock_message *m, const uint8_t *data, size_t size)
{
    size_t at = HEADER + 4, used;
    if (size < at)
        return false;
    const uint8_t *end = memchr(data + at, 0, size - at);
    if (!end)
        return false;
    at = (size_t)(end - data) + 1 + 8;
    return at < size && parse_document(&m->body, data + at, size - at, &used) &&
           at + used == size;
}

bool mock_parse(struct mock_message *m, const uint8_t *data, size_t size)
{
    bson_iter_t it;

    memset(m, 0, sizeof *m);
    if (size < HEADER)
        return false;
    m->id = mock_read_number(data + 4);
    m->opcode = mock_read_number(data + 12);
    if (!(m->opcode == OP_MSG ? parse_msg(m, data, size)
                              : m->opcode == OP_QUERY && parse_query(m, data, size)))
        return false;
    if (!bson_iter_init(&it, &m->body) || !bson_iter_next(&it))
        return false;
    snprintf(m->name, sizeof m->name, "%s", bson_iter_key(&it));
    if (strcasecmp(m->name, "ismaster") == 0)
        strcpy(m->name, "hello");
    return true;
}

uint8_t *mock_pack(const struct mock_message *asked, const bson_t *reply, size_t *size)
{
    bool     old = asked->opcode == OP_QUERY;
    size_t   before = HEADER + (old ? 20 : 5);
    uint8_t *data = calloc(1, before + reply->len);

    if (!data)
        abort();
    *size = before + reply->len;
    mock_number(data, (int32_t)*size);
    mock_number(data + 4, asked->id); /* a number of its own; any will do */
    mock_number(data + 8, asked->id);
    mock_number(data + 12, old ? OP_REPLY : OP_MSG);
    if (old) {
        mock_number(data + HEADER, 8);      /* flag: can wait for data; then no cursor, */
        mock_number(data + HEADER + 16, 1); /* and one document */
    }
    memcpy(data + before, bson_get_data(reply), reply->len);
    return data;
}

void mock_fail(bson_t *reply, int code, const char *name, const char *fmt, ...)
{
    char    text[MOCK_TEXT];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    BSON_APPEND_DOUBLE(reply, "ok", 0);
    BSON_APPEND_UTF8(reply, "errmsg", text);
    BSON_APPEND_INT32(reply, "code", code);
    BSON_APPEND_UTF8(reply, "codeName", name);
}

/* ---- reading commands --------------------------------------------------------------- */

static int64_t number_in(const bson_t *command, const char *key, int64_t otherwise)
{
    bson_iter_t it;
    if (!bson_iter_init_find(&it, command, key) || !BSON_ITER_HOLDS_NUMBER(&it))
        return otherwise;
    return bson_iter_as_int64(&it);
}

static const char *text_in(const bson_t *command, const char *key, const char *otherwise)
{
    bson_iter_t it;
    if (!bson_iter_init_find(&it, command, key) || !BSON_ITER_HOLDS_UTF8(&it))
        return otherwise;
    return bson_iter_utf8(&it, NULL);
}

/* Elements of an array in the command, or -1: there is none. */
static int elements_in(const bson_t *command, const char *key)
{
    bson_iter_t it, inner;
    int         count = 0;
    if (!bson_iter_init_find(&it, command, key) || !BSON_ITER_HOLDS_ARRAY(&it) ||
        !bson_iter_recurse(&it, &inner))
        return -1;
    while (bson_iter_next(&inner))
        count++;
    return count;
}

/* Does it ask for nothing but the primary? */
static bool wants_primary(const bson_t *command)
{
    bson_iter_t it, mode;
    return !(bson_iter_init(&it, command) &&
             bson_iter_find_descendant(&it, "$readPreference.mode", &mode) &&
             BSON_ITER_HOLDS_UTF8(&mode) && strcmp(bson_iter_utf8(&mode, NULL), "primary") != 0);
}

/* ---- hello -------------------------------------------------------------------------- */

static void append_oid(bson_t *reply, const char *key, unsigned front, unsigned back)
{
    uint8_t    bytes[12] = { 0 };
    bson_oid_t oid;

    for (int i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(front >> (24 - 8 * i));
        bytes[8 + i] = (uint8_t)(back >> (24 - 8 * i));
    }
    bson_oid_init_from_data(&oid, bytes);
    BSON_APPEND_OID(reply, key, &oid);
}

/* Newer than what the client may have seen before an election, older than after the next. */
static void append_topology_version(const struct mock_session *s, bson_t *reply, unsigned term)
{
    bson_t version;
    BSON_APPEND_DOCUMENT_BEGIN(reply, "topologyVersion", &version);
    append_oid(&version, "processId", (unsigned)s->shared->parent, (unsigned)s->member + 1);
    BSON_APPEND_INT64(&version, "counter", term);
    bson_append_document_end(reply, &version);
}

static void name_of(const struct mock_shared *shared, unsigned member, char *out, size_t size)
{
    snprintf(out, size, "%s:%u", shared->known_as, shared->member[member].port);
}

static void append_hosts(const struct mock_shared *shared, bson_t *reply, const char *key,
                         unsigned from, unsigned to)
{
    bson_t list;
    char   host[MOCK_NAME + 8], index[12];

    BSON_APPEND_ARRAY_BEGIN(reply, key, &list);
    for (unsigned i = from; i < to; i++) {
        name_of(shared, i, host, sizeof host);
        snprintf(index, sizeof index, "%u", i - from);
        BSON_APPEND_UTF8(&list, index, host);
    }
    bson_append_array_end(reply, &list);
}

static void append_set(const struct mock_session *s, bson_t *reply, int primary, unsigned term)
{
    const struct mock_shared *shared = s->shared;
    bool     arbiter = shared->arbiter && s->member == (int)shared->members - 1;
    unsigned with_data = shared->members - shared->arbiter;
    char     host[MOCK_NAME + 8];
    bson_t   last, op_time;

    BSON_APPEND_UTF8(reply, "setName", shared->set_name);
    BSON_APPEND_INT32(reply, "setVersion", 1);
    BSON_APPEND_BOOL(reply, "secondary", s->member != primary && !arbiter);
    if (arbiter)
        BSON_APPEND_BOOL(reply, "arbiterOnly", true);
    append_hosts(shared, reply, "hosts", 0, with_data);
    if (shared->arbiter)
        append_hosts(shared, reply, "arbiters", with_data, shared->members);
    name_of(shared, (unsigned)s->member, host, sizeof host);
    BSON_APPEND_UTF8(reply, "me", host);
    if (primary >= 0) {
        name_of(shared, (unsigned)primary, host, sizeof host);
        BSON_APPEND_UTF8(reply, "primary", host);
    }
    if (s->member == primary)
        append_oid(reply, "electionId", 0x7fffffff, term);
    BSON_APPEND_DOCUMENT_BEGIN(reply, "lastWrite", &last);
    BSON_APPEND_DOCUMENT_BEGIN(&last, "opTime", &op_time);
    BSON_APPEND_TIMESTAMP(&op_time, "ts", (uint32_t)time(NULL), 1);
    BSON_APPEND_INT64(&op_time, "t", term);
    bson_append_document_end(&last, &op_time);
    BSON_APPEND_DATE_TIME(&last, "lastWriteDate", (int64_t)time(NULL) * 1000);
    bson_append_document_end(reply, &last);
    append_topology_version(s, reply, term);
}

static void append_mechanisms(const struct mock_shared *shared, bson_t *reply)
{
    bson_t list;
    bool   both = !(~shared->mechanisms & (MOCK_SHA_1 | MOCK_SHA_256));
    BSON_APPEND_ARRAY_BEGIN(reply, "saslSupportedMechs", &list);
    if (shared->mechanisms & MOCK_SHA_1)
        BSON_APPEND_UTF8(&list, "0", "SCRAM-SHA-1");
    if (shared->mechanisms & MOCK_SHA_256)
        BSON_APPEND_UTF8(&list, both ? "1" : "0", "SCRAM-SHA-256");
    bson_append_array_end(reply, &list);
}

/* The first step of a login inside of hello. If it fails, hello says nothing of it. */
static void speculate(struct mock_session *s, const bson_t *command, bson_t *reply)
{
    bson_t         inner, answer = BSON_INITIALIZER;
    bson_iter_t    it;
    const uint8_t *data;
    uint32_t       size;

    if (!s->shared->with_login || s->shared->no_speculation ||
        !bson_iter_init_find(&it, command, "speculativeAuthenticate") ||
        !BSON_ITER_HOLDS_DOCUMENT(&it))
        return;
    bson_iter_document(&it, &size, &data);
    if (bson_init_static(&inner, data, size))
        mock_login(s, &inner, &answer);
    if (bson_iter_init_find(&it, &answer, "ok") && bson_iter_as_bool(&it))
        BSON_APPEND_DOCUMENT(reply, "speculativeAuthenticate", &answer);
    bson_destroy(&answer);
}

static void hello(struct mock_session *s, const struct mock_message *m, bson_t *reply)
{
    struct mock_shared *shared = s->shared;
    bool                again = s->hello_seen;

    s->hello_seen = true;
    if (shared->strict && again && bson_has_field(&m->body, "client")) {
        atomic_fetch_add(&shared->member[s->member].metadata_again, 1);
        mock_fail(reply, 186, "ClientMetadataCannotBeMutated",
                  "The client metadata document may only be sent in the first hello");
        return;
    }

    pthread_mutex_lock(&shared->lock);
    int      primary = shared->primary;
    unsigned term = shared->term;
    pthread_mutex_unlock(&shared->lock);

    BSON_APPEND_BOOL(reply, "helloOk", true);
    BSON_APPEND_BOOL(reply, "ismaster", s->member == primary);
    BSON_APPEND_BOOL(reply, "isWritablePrimary", s->member == primary);
    if (shared->members > 1)
        append_set(s, reply, primary, term);
    BSON_APPEND_INT32(reply, "maxBsonObjectSize", 16 << 20);
    BSON_APPEND_INT32(reply, "maxMessageSizeBytes", MOCK_MESSAGE_MAX);
    BSON_APPEND_INT32(reply, "maxWriteBatchSize", 100000);
    BSON_APPEND_DATE_TIME(reply, "localTime", (int64_t)time(NULL) * 1000);
    BSON_APPEND_INT32(reply, "logicalSessionTimeoutMinutes", 30);
    BSON_APPEND_INT32(reply, "minWireVersion", 0);
    BSON_APPEND_INT32(reply, "maxWireVersion", 17);
    BSON_APPEND_BOOL(reply, "readOnly", false);
    if (bson_has_field(&m->body, "saslSupportedMechs"))
        append_mechanisms(shared, reply);
    speculate(s, &m->body, reply);
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

/* ---- reading and writing ------------------------------------------------------------ */

static void append_documents(const struct mock_session *s, const struct mock_message *m,
                             bson_t *cursor, const char *key, int64_t *position, int64_t end,
                             int64_t batch)
{
    unsigned bytes = atomic_load(&s->shared->text_bytes);
    char    *text = malloc(bytes + 1), index[12];
    bson_t   list, document;
    size_t   used = 0;

    if (!text)
        abort();
    memset(text, 'x', bytes);
    text[bytes] = 0;
    BSON_APPEND_ARRAY_BEGIN(cursor, key, &list);
    for (unsigned i = 0; i < batch && *position < end; i++) {
        if (i && used + bytes >= REPLY_MAX)
            break;
        snprintf(index, sizeof index, "%u", i);
        BSON_APPEND_DOCUMENT_BEGIN(&list, index, &document);
        BSON_APPEND_INT32(&document, "_id", (int32_t)(*position)++);
        BSON_APPEND_INT32(&document, "request", m->id);
        bson_append_utf8(&document, "text", 4, text, (int)bytes);
        bson_append_document_end(&list, &document);
        used += bytes + 64;
    }
    bson_append_array_end(cursor, &list);
    free(text);
}

static void answer_cursor(const struct mock_session *s, const struct mock_message *m,
                          bson_t *reply, const char *key, const char *collection,
                          int64_t position, int64_t end, int64_t batch)
{
    bson_t cursor;
    char   ns[160];

    snprintf(ns, sizeof ns, "%s.%s", text_in(&m->body, "$db", "test"), collection);
    BSON_APPEND_DOCUMENT_BEGIN(reply, "cursor", &cursor);
    append_documents(s, m, &cursor, key, &position, end, batch);
    BSON_APPEND_INT64(&cursor, "id", position < end ? end << CURSOR_SHIFT | position : 0);
    BSON_APPEND_UTF8(&cursor, "ns", ns);
    bson_append_document_end(reply, &cursor);
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

static void find(const struct mock_session *s, const struct mock_message *m, bson_t *reply)
{
    bson_iter_t it, inner;
    int64_t     from = 0, end = atomic_load(&s->shared->documents);
    int64_t     limit = number_in(&m->body, "limit", 0);
    int64_t     batch = number_in(&m->body, "batchSize", FIRST_BATCH);

    if (bson_iter_init(&it, &m->body) &&
        bson_iter_find_descendant(&it, "cursor.batchSize", &inner)) /* of aggregate */
        batch = bson_iter_as_int64(&inner);
    if (limit > 0 && limit < end)
        end = limit;
    if (bson_iter_init(&it, &m->body) && bson_iter_find_descendant(&it, "filter._id", &inner) &&
        BSON_ITER_HOLDS_NUMBER(&inner)) {
        from = bson_iter_as_int64(&inner);
        end = from + 1;
    }
    answer_cursor(s, m, reply, "firstBatch", text_in(&m->body, m->name, "nothing"), from, end,
                  batch);
}

static void get_more(const struct mock_session *s, const struct mock_message *m, bson_t *reply)
{
    int64_t id = number_in(&m->body, "getMore", 0);
    int64_t end = id >> CURSOR_SHIFT, position = id & ((INT64_C(1) << CURSOR_SHIFT) - 1);
    int64_t batch = number_in(&m->body, "batchSize", INT32_MAX);

    if (position <= 0 || position >= end) {
        mock_fail(reply, 43, "CursorNotFound", "cursor id %lld not found", (long long)id);
        return;
    }
    answer_cursor(s, m, reply, "nextBatch", text_in(&m->body, "collection", "nothing"), position,
                  end, batch);
}

static void write_command(const struct mock_message *m, bson_t *reply, const char *list)
{
    int n = elements_in(&m->body, list);
    n = (n < 0 ? 0 : n) + (int)m->documents;
    BSON_APPEND_INT32(reply, "n", n);
    if (strcmp(m->name, "update") == 0)
        BSON_APPEND_INT32(reply, "nModified", n);
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

static void kill_cursors(const struct mock_message *m, bson_t *reply)
{
    bson_iter_t    it;
    bson_t         list;
    const uint8_t *data;
    uint32_t       size;

    if (bson_iter_init_find(&it, &m->body, "cursors") && BSON_ITER_HOLDS_ARRAY(&it)) {
        bson_iter_array(&it, &size, &data);
        if (bson_init_static(&list, data, size))
            BSON_APPEND_ARRAY(reply, "cursorsKilled", &list);
    }
    BSON_APPEND_DOUBLE(reply, "ok", 1);
}

/* ---- any command -------------------------------------------------------------------- */

/* Only the primary writes, and only it answers who does not say that others may. */
static bool refused_by_member(const struct mock_session *s, const struct mock_message *m,
                              bool writes, bson_t *reply)
{
    pthread_mutex_lock(&s->shared->lock);
    int      primary = s->shared->primary;
    unsigned term = s->shared->term;
    pthread_mutex_unlock(&s->shared->lock);

    if (s->member == primary || (!writes && !wants_primary(&m->body)))
        return false;
    if (writes)
        mock_fail(reply, 10107, "NotWritablePrimary", "not primary");
    else
        mock_fail(reply, 13435, "NotPrimaryNoSecondaryOk", "not primary and secondaryOk=false");
    if (s->shared->members > 1)
        append_topology_version(s, reply, term);
    return true;
}

static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static void answer(struct mock_session *s, const struct mock_message *m, bson_t *reply)
{
    static const char *const plain[] = { "ping", "endSessions", "commitTransaction",
                                         "abortTransaction", "logout", NULL };
    static const char *const writing[] = { "insert", "update", "delete", "commitTransaction",
                                           "abortTransaction", NULL };
    static const char *const reading[] = { "find", "aggregate", "getMore", NULL };
    bool writes = is_one_of(m->name, writing);

    if ((writes || (is_one_of(m->name, reading) && strcmp(m->name, "getMore") != 0)) &&
        refused_by_member(s, m, writes, reply))
        return;
    if (is_one_of(m->name, plain))
        BSON_APPEND_DOUBLE(reply, "ok", 1);
    else if (strcmp(m->name, "find") == 0 || strcmp(m->name, "aggregate") == 0)
        find(s, m, reply);
    else if (strcmp(m->name, "getMore") == 0)
        get_more(s, m, reply);
    else if (strcmp(m->name, "insert") == 0)
        write_command(m, reply, "documents");
    else if (strcmp(m->name, "update") == 0)
        write_command(m, reply, "updates");
    else if (strcmp(m->name, "delete") == 0)
        write_command(m, reply, "deletes");
    else if (strcmp(m->name, "killCursors") == 0)
        kill_cursors(m, reply);
    else
        mock_fail(reply, 59, "CommandNotFound", "no such command: '%s'", m->name);
}

static bool is_true(const bson_t *command, const char *field)
{
    bson_iter_t it;

    return bson_iter_init_find(&it, command, field) && bson_iter_as_bool(&it);
}

static bool names_api(const bson_t *command)
{
    bson_iter_t it;

    return bson_iter_init_find(&it, command, "apiVersion") && BSON_ITER_HOLDS_UTF8(&it) &&
           strcmp(bson_iter_utf8(&it, NULL), "1") == 0 && is_true(command, "apiStrict") &&
           is_true(command, "apiDeprecationErrors");
}

void mock_reply(struct mock_session *s, const struct mock_message *m, bson_t *reply)
{
    if (s->shared->with_api && !names_api(&m->body)) {
        mock_fail(reply, 322, "APIVersionError", "%s does not name the API's version", m->name);
    } else if (strcmp(m->name, "hello") == 0) {
        hello(s, m, reply);
    } else if (strcmp(m->name, "saslStart") == 0 || strcmp(m->name, "authenticate") == 0) {
        mock_login(s, &m->body, reply);
    } else if (strcmp(m->name, "saslContinue") == 0) {
        mock_scram_continue(s, &m->body, reply);
    } else if (s->shared->with_login && !s->logged_in && strcmp(m->name, "ping") != 0) {
        atomic_fetch_add(&s->shared->member[s->member].denied, 1);
        mock_fail(reply, 13, "Unauthorized", "Command %s requires authentication", m->name);
    } else {
        answer(s, m, reply);
    }
}
