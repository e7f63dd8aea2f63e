/*
 * spec.c - reading a CMAP file with libbson's JSON reader, and refusing what we do not know.
 *
 * Each kind of object is a table of the fields it may have. What is not in the table is refused
 * by its name: a field that is passed over would be a test that passes without being made.
 */
#include "spec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool refuse(char why[SPEC_WORDS], const char *fmt, ...) WEIR_PRINTF(2, 3);

static bool refuse(char why[SPEC_WORDS], const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, SPEC_WORDS, fmt, args);
    va_end(args);
    return false;
}

/* ---- objects by table ---------------------------------------------------------------- */

enum kind { TEXT, NUMBER, FLAG, ANY, UNUSED };

struct field {
    const char *name;
    enum kind   kind;
    size_t      offset; /* of a const char *, int64_t, bool or bson_iter_t */
};

static bool read_value(const bson_iter_t *value, const struct field *field, void *into)
{
    void *place = (char *)into + field->offset;

    switch (field->kind) {
    case TEXT:
        if (!BSON_ITER_HOLDS_UTF8(value))
            return false;
        *(const char **)place = bson_iter_utf8(value, NULL);
        return true;
    case NUMBER:
        if (!BSON_ITER_HOLDS_INT(value))
            return false;
        *(int64_t *)place = bson_iter_as_int64(value);
        return true;
    case FLAG:
        if (!BSON_ITER_HOLDS_BOOL(value))
            return false;
        *(bool *)place = bson_iter_bool(value);
        return true;
    case ANY:
        *(bson_iter_t *)place = *value;
        return true;
    case UNUSED:
        return true;
    }
    return false;
}

/* Read an object's fields into the struct `into`; *seen gets a bit for each that is there. */
static bool read_fields(bson_iter_t object, const char *what, const struct field *fields,
                        void *into, unsigned *seen, char why[SPEC_WORDS])
{
    *seen = 0;
    while (bson_iter_next(&object)) {
        unsigned i = 0;
        while (fields[i].name && strcmp(fields[i].name, bson_iter_key(&object)) != 0)
            i++;
        if (!fields[i].name)
            return refuse(why, "unknown field \"%s\" in %s", bson_iter_key(&object), what);
        if (!read_value(&object, &fields[i], into))
            return refuse(why, "field \"%s\" in %s has the wrong type", fields[i].name, what);
        *seen |= 1u << i;
    }
    return true;
}

/* A part that the file does not have is a zeroed iterator, of which libbson must not be asked. */
static bool is_absent(const bson_iter_t *value)
{
    return !value->raw;
}

static bool is_object(const bson_iter_t *value, bson_iter_t *inside)
{
    return !is_absent(value) && BSON_ITER_HOLDS_DOCUMENT(value) &&
           bson_iter_recurse(value, inside);
}

static bool is_list(const bson_iter_t *value, bson_iter_t *inside)
{
    return !is_absent(value) && BSON_ITER_HOLDS_ARRAY(value) && bson_iter_recurse(value, inside);
}

/* "" for what is no text. */
static const char *text_of(const bson_iter_t *value)
{
    return !is_absent(value) && BSON_ITER_HOLDS_UTF8(value) ? bson_iter_utf8(value, NULL) : "";
}

/* ---- the pool's options -------------------------------------------------------------- */

struct pool_options {
    int64_t max_size, min_size, max_connecting, max_idle_ms, wait_ms, background_ms;
};

static const struct field pool_fields[] = {
    { "maxPoolSize", NUMBER, offsetof(struct pool_options, max_size) },
    { "minPoolSize", NUMBER, offsetof(struct pool_options, min_size) },
    { "maxConnecting", NUMBER, offsetof(struct pool_options, max_connecting) },
    { "maxIdleTimeMS", NUMBER, offsetof(struct pool_options, max_idle_ms) },
    { "waitQueueTimeoutMS", NUMBER, offsetof(struct pool_options, wait_ms) },
    { "appName", UNUSED, 0 },
    { "backgroundThreadIntervalMS", NUMBER, offsetof(struct pool_options, background_ms) },
    { NULL, UNUSED, 0 },
};

/* In a file 0 is "no limit" where it is not the least there can be. */
static int64_t limit_ms(int64_t ms)
{
    return ms ? ms : WEIR_NEVER;
}

static bool read_pool_options(const bson_iter_t *value, struct spec *spec, char why[SPEC_WORDS])
{
    struct pool_options given = { .max_size = 100, .max_connecting = 2 }; /* CMAP's defaults */
    bson_iter_t         inside;
    unsigned            seen;

    if (!is_absent(value) &&
        (!is_object(value, &inside) ||
         !read_fields(inside, "poolOptions", pool_fields, &given, &seen, why)))
        return *why ? false : refuse(why, "poolOptions is no object");
    if (given.max_size < 0 || given.max_size > INT32_MAX || given.min_size < 0 ||
        given.min_size > INT32_MAX || given.max_connecting < 1 ||
        given.max_connecting > INT32_MAX || given.max_idle_ms < 0 || given.wait_ms < 0)
        return refuse(why, "poolOptions has a number that no pool can have");
    spec->lets_stale_lie = given.background_ms < 0;
    spec->opts = (weir_pool_opts){
        .name = "cmap",
        .max_size = given.max_size ? (unsigned)given.max_size : UINT32_MAX,
        .min_size = (unsigned)given.min_size,
        .max_connecting = (unsigned)given.max_connecting,
        .idle_timeout_ms = limit_ms(given.max_idle_ms),
        .acquire_timeout_ms = limit_ms(given.wait_ms),
        .start_paused = true, /* as every pool of CMAP */
    };
    return true;
}

/* ---- the fail point ------------------------------------------------------------------ */

struct fail_point {
    const char *configure;
    bson_iter_t mode, data, commands;
    bool        close, block;
    int64_t     block_ms, code, times, skip;
};

static const struct field fail_fields[] = {
    { "configureFailPoint", TEXT, offsetof(struct fail_point, configure) },
    { "mode", ANY, offsetof(struct fail_point, mode) },
    { "data", ANY, offsetof(struct fail_point, data) },
    { NULL, UNUSED, 0 },
};

static const struct field data_fields[] = {
    { "failCommands", ANY, offsetof(struct fail_point, commands) },
    { "closeConnection", FLAG, offsetof(struct fail_point, close) },
    { "blockConnection", FLAG, offsetof(struct fail_point, block) },
    { "blockTimeMS", NUMBER, offsetof(struct fail_point, block_ms) },
    { "errorCode", NUMBER, offsetof(struct fail_point, code) },
    { "appName", UNUSED, 0 },
    { NULL, UNUSED, 0 },
};

static const struct field mode_fields[] = {
    { "times", NUMBER, offsetof(struct fail_point, times) },
    { "skip", NUMBER, offsetof(struct fail_point, skip) },
    { NULL, UNUSED, 0 },
};

/* Our server answers nothing but the greeting of a new connection. */
static bool fails_greeting(const struct fail_point *point, char why[SPEC_WORDS])
{
    bson_iter_t command;
    bool        greeting = false;

    if (!is_list(&point->commands, &command))
        return refuse(why, "failPoint has no list of failCommands");
    while (bson_iter_next(&command)) {
        const char *name = text_of(&command);
        if (strcasecmp(name, "hello") != 0 && strcasecmp(name, "isMaster") != 0)
            return refuse(why, "unknown command \"%s\" in failPoint", name);
        greeting = true;
    }
    return greeting || refuse(why, "failPoint has an empty list of failCommands");
}

static bool read_mode(struct fail_point *point, struct spec *spec, char why[SPEC_WORDS])
{
    bson_iter_t inside;
    unsigned    seen;

    if (is_object(&point->mode, &inside)) {
        if (!read_fields(inside, "failPoint's mode", mode_fields, point, &seen, why))
            return false;
        bool times = seen & 1u, skip = seen & 2u; /* in the order of the table */
        spec->failing_times = times ? point->times : SPEC_ALWAYS;
        spec->failing_skips = point->skip;
        return (times != skip && point->times >= 0 && point->skip >= 0) ||
               refuse(why, "failPoint's mode wants \"times\" or \"skip\", 0 or more");
    }
    const char *word = text_of(&point->mode);
    if (strcmp(word, "alwaysOn") == 0)
        spec->failing_times = SPEC_ALWAYS;
    else if (strcmp(word, "off") != 0)
        return refuse(why, "unknown mode \"%s\" of failPoint", word);
    return true;
}

static bool read_fail_point(const bson_iter_t *value, struct spec *spec, char why[SPEC_WORDS])
{
    struct fail_point point = { 0 };
    bson_iter_t       inside;
    unsigned          seen;

    if (is_absent(value))
        return true;
    if (!is_object(value, &inside))
        return refuse(why, "failPoint is no object");
    if (!read_fields(inside, "failPoint", fail_fields, &point, &seen, why))
        return false;
    if (!point.configure || strcmp(point.configure, "failCommand") != 0)
        return refuse(why, "unknown fail point \"%s\"", point.configure ? point.configure : "");
    if (!is_object(&point.data, &inside))
        return refuse(why, "failPoint has no data");
    if (!read_fields(inside, "failPoint's data", data_fields, &point, &seen, why) ||
        !read_mode(&point, spec, why) || !fails_greeting(&point, why))
        return false;
    if (point.block_ms < 0)
        return refuse(why, "blockTimeMS of failPoint is negative");

    spec->failing = (struct fake_step){ .ms = point.block ? point.block_ms : 0 };
    if (point.close || point.code) {
        spec->failing.status = WEIR_CONNECT;
        spec->failing.native = point.close ? 0 : (int)point.code;
        spec->failing.words = point.close ? "the server closed the connection" : "refused";
    }
    return true;
}

/* ---- operations ---------------------------------------------------------------------- */

static const struct field op_fields[] = {
    { "name", TEXT, offsetof(struct op, name) },
    { "thread", TEXT, offsetof(struct op, thread) },
    { "target", TEXT, offsetof(struct op, target) },
    { "ms", NUMBER, offsetof(struct op, ms) },
    { "event", TEXT, offsetof(struct op, event) },
    { "count", NUMBER, offsetof(struct op, count) },
    { "timeout", NUMBER, offsetof(struct op, timeout) },
    { "label", TEXT, offsetof(struct op, label) },
    { "connection", TEXT, offsetof(struct op, connection) },
    { "interruptInUseConnections", FLAG, offsetof(struct op, interrupt) },
    { NULL, UNUSED, 0 },
};

/* Bits of the fields above. */
enum {
    NAME = 1 << 0, THREAD = 1 << 1, TARGET = 1 << 2, MS = 1 << 3, EVENT = 1 << 4, COUNT = 1 << 5,
    TIMEOUT = 1 << 6, LABEL = 1 << 7, CONNECTION = 1 << 8, INTERRUPT = 1 << 9,
};

static const struct {
    const char *name;
    unsigned    must, may; /* have, besides a name and a thread */
} verbs[OP_VERBS] = {
    [OP_START] = { "start", TARGET, 0 },
    [OP_WAIT] = { "wait", MS, 0 },
    [OP_WAIT_FOR_THREAD] = { "waitForThread", TARGET, 0 },
    [OP_WAIT_FOR_EVENT] = { "waitForEvent", EVENT | COUNT, TIMEOUT },
    [OP_CHECK_OUT] = { "checkOut", 0, LABEL },
    [OP_CHECK_IN] = { "checkIn", CONNECTION, 0 },
    [OP_CLEAR] = { "clear", 0, INTERRUPT },
    [OP_CLOSE] = { "close", 0, 0 },
    [OP_READY] = { "ready", 0, 0 },
};

static bool check_fields(const struct op *op, unsigned seen, char why[SPEC_WORDS])
{
    for (unsigned i = 0; op_fields[i].name; i++) {
        bool there = seen & (1u << i);
        bool must = verbs[op->verb].must & (1u << i);
        bool may = must || ((NAME | THREAD | verbs[op->verb].may) & (1u << i));
        if (must && !there)
            return refuse(why, "operation \"%s\" without \"%s\"", op->name, op_fields[i].name);
        if (there && !may)
            return refuse(why, "operation \"%s\" with a \"%s\"", op->name, op_fields[i].name);
    }
    if (op->ms < 0 || op->count < 0 || op->timeout < 0)
        return refuse(why, "operation \"%s\" with a negative number", op->name);
    if (op->event && !spec_is_event(op->event))
        return refuse(why, "unknown event \"%s\" in waitForEvent", op->event);
    return true;
}

static bool read_op(const bson_iter_t *value, struct op *op, char why[SPEC_WORDS])
{
    bson_iter_t inside;
    unsigned    seen;

    if (!is_object(value, &inside))
        return refuse(why, "an operation is no object");
    if (!read_fields(inside, "an operation", op_fields, op, &seen, why))
        return false;
    if (!op->name)
        return refuse(why, "an operation without a name");
    while (op->verb < OP_VERBS && strcmp(op->name, verbs[op->verb].name) != 0)
        op->verb++;
    if (op->verb == OP_VERBS)
        return refuse(why, "unknown operation \"%s\"", op->name);
    return check_fields(op, seen, why);
}

static bool read_ops(const bson_iter_t *value, struct spec *spec, char why[SPEC_WORDS])
{
    bson_iter_t all, one;

    if (!is_list(value, &all))
        return refuse(why, "the file has no operations");
    for (one = all; bson_iter_next(&one);)
        spec->op_count++;
    spec->ops = calloc(spec->op_count + 1, sizeof *spec->ops);
    if (!spec->ops)
        return refuse(why, "no memory");
    for (unsigned i = 0; bson_iter_next(&all); i++)
        if (!read_op(&all, &spec->ops[i], why))
            return false;
    return true;
}

/* ---- what is expected ---------------------------------------------------------------- */

bool spec_is_event(const char *name)
{
    for (int type = 0; type < WEIR_EVENTS; type++)
        if (strcmp(name, weir_pool_event_name((weir_pool_event_type)type)) == 0)
            return true;
    return false;
}

static bool check_ignored(const bson_iter_t *value, char why[SPEC_WORDS])
{
    bson_iter_t one;

    if (is_absent(value))
        return true;
    if (!is_list(value, &one))
        return refuse(why, "\"ignore\" is no list");
    while (bson_iter_next(&one)) {
        const char *name = text_of(&one);
        if (!spec_is_event(name))
            return refuse(why, "unknown event \"%s\" in ignore", name);
    }
    return true;
}

static bool read_events(const bson_iter_t *value, struct spec *spec, char why[SPEC_WORDS])
{
    bson_iter_t one, inside;

    if (is_absent(value))
        return true;
    if (!is_list(value, &one))
        return refuse(why, "\"events\" is no list");
    while (bson_iter_next(&one)) {
        const char *name = "";
        if (is_object(&one, &inside) && bson_iter_find(&inside, "type"))
            name = text_of(&inside);
        if (!spec_is_event(name))
            return refuse(why, "unknown event \"%s\" in events", name);
        if (strcmp(name, weir_pool_event_name(WEIR_EVENT_POOL_CLEARED)) == 0)
            spec->expects_clear = true;
    }
    for (unsigned i = 0; i < spec->op_count; i++)
        if (spec->ops[i].verb == OP_CLEAR)
            spec->expects_clear = false;
    return true;
}

static const struct field error_fields[] = {
    { "type", TEXT, offsetof(struct wanted_error, type) },
    { "message", TEXT, offsetof(struct wanted_error, message) },
    { "address", UNUSED, 0 }, /* there is one pool, and one address */
    { NULL, UNUSED, 0 },
};

static bool read_error(const bson_iter_t *value, struct spec *spec, char why[SPEC_WORDS])
{
    bson_iter_t inside;
    unsigned    seen;

    spec->wants_error = !is_absent(value) && !BSON_ITER_HOLDS_NULL(value);
    if (!spec->wants_error)
        return true;
    if (!is_object(value, &inside))
        return refuse(why, "\"error\" is no object");
    return read_fields(inside, "error", error_fields, &spec->error, &seen, why);
}

/* ---- the file ------------------------------------------------------------------------ */

struct parts {
    struct spec *spec;
    int64_t      version;
    const char  *style, *description;
    bson_iter_t  fail_point, pool_options, operations, error, events, ignored;
};

static const struct field parts_fields[] = {
    { "version", NUMBER, offsetof(struct parts, version) },
    { "style", TEXT, offsetof(struct parts, style) },
    { "description", TEXT, offsetof(struct parts, description) },
    { "runOn", UNUSED, 0 }, /* which servers can do it: ours can */
    { "failPoint", ANY, offsetof(struct parts, fail_point) },
    { "poolOptions", ANY, offsetof(struct parts, pool_options) },
    { "operations", ANY, offsetof(struct parts, operations) },
    { "error", ANY, offsetof(struct parts, error) },
    { "events", ANY, offsetof(struct parts, events) },
    { "ignore", ANY, offsetof(struct parts, ignored) },
    { NULL, UNUSED, 0 },
};

static bool read_parts(struct spec *spec, char why[SPEC_WORDS])
{
    struct parts parts = { 0 };
    bson_iter_t  top;
    unsigned     seen;

    if (!bson_iter_init(&top, spec->doc))
        return refuse(why, "no object");
    if (!read_fields(top, "the file", parts_fields, &parts, &seen, why))
        return false;
    if (parts.version != 1)
        return refuse(why, "unknown version %lld", (long long)parts.version);
    if (!parts.style || (strcmp(parts.style, "unit") != 0 &&
                         strcmp(parts.style, "integration") != 0))
        return refuse(why, "unknown style \"%s\"", parts.style ? parts.style : "");
    spec->description = parts.description ? parts.description : "(no description)";
    spec->events = parts.events;
    spec->ignored = parts.ignored;
    return read_pool_options(&parts.pool_options, spec, why) &&
           read_fail_point(&parts.fail_point, spec, why) &&
           read_ops(&parts.operations, spec, why) && read_events(&parts.events, spec, why) &&
           check_ignored(&parts.ignored, why) && read_error(&parts.error, spec, why);
}

static bson_t *parse(const char *path, char why[SPEC_WORDS])
{
    bson_error_t        error = { 0 };
    bson_json_reader_t *reader = bson_json_reader_new_from_file(path, &error);
    bson_t             *doc = bson_new();

    int got = reader ? bson_json_reader_read(reader, doc, &error) : -1;
    if (reader)
        bson_json_reader_destroy(reader);
    if (got == 1)
        return doc;
    bson_destroy(doc);
    refuse(why, "cannot be read as JSON: %s", error.message[0] ? error.message : "it is empty");
    return NULL;
}

bool spec_read(const char *path, struct spec *out, char why[SPEC_WORDS])
{
    *out = (struct spec){ 0 };
    why[0] = '\0';
    out->doc = parse(path, why);
    if (out->doc && read_parts(out, why))
        return true;
    spec_free(out);
    return false;
}

void spec_free(struct spec *spec)
{
    free(spec->ops);
    bson_destroy(spec->doc);
    *spec = (struct spec){ 0 };
}
