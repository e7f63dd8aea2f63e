/*
 * match.c - CMAP's rules of matching, over two documents.
 */
#include "match.h"

#include <stdio.h>
#include <string.h>

/* ---- values -------------------------------------------------------------------------- */

static bool is_number(const bson_iter_t *value)
{
    return BSON_ITER_HOLDS_NUMBER(value);
}

/* 42 or "42": there must be something, whatever it is. */
static bool is_wildcard(const bson_iter_t *wanted)
{
    if (BSON_ITER_HOLDS_UTF8(wanted))
        return strcmp(bson_iter_utf8(wanted, NULL), "42") == 0;
    return BSON_ITER_HOLDS_INT(wanted) && bson_iter_as_int64(wanted) == 42;
}

static bool match_fields(bson_iter_t wanted, bson_iter_t actual, char path[SPEC_WORDS]);

static bool match_value(const bson_iter_t *wanted, const bson_iter_t *actual,
                        char path[SPEC_WORDS])
{
    bson_iter_t inside_wanted, inside_actual;

    if (is_wildcard(wanted))
        return !BSON_ITER_HOLDS_NULL(actual);
    if (is_number(wanted) && is_number(actual))
        return bson_iter_as_double(wanted) == bson_iter_as_double(actual);
    if (bson_iter_type(wanted) != bson_iter_type(actual))
        return false;
    switch (bson_iter_type(wanted)) {
    case BSON_TYPE_UTF8:
        return strcmp(bson_iter_utf8(wanted, NULL), bson_iter_utf8(actual, NULL)) == 0;
    case BSON_TYPE_BOOL:
        return bson_iter_bool(wanted) == bson_iter_bool(actual);
    case BSON_TYPE_NULL:
        return true;
    case BSON_TYPE_DOCUMENT:
    case BSON_TYPE_ARRAY:
        return bson_iter_recurse(wanted, &inside_wanted) &&
               bson_iter_recurse(actual, &inside_actual) &&
               match_fields(inside_wanted, inside_actual, path);
    default:
        return false;
    }
}

/* What is more in `actual` does not matter. `path` is where they differ. */
static bool match_fields(bson_iter_t wanted, bson_iter_t actual, char path[SPEC_WORDS])
{
    while (bson_iter_next(&wanted)) {
        bson_iter_t found = actual;
        char        inner[SPEC_WORDS] = "";
        const char *key = bson_iter_key(&wanted);
        if (bson_iter_find(&found, key) && match_value(&wanted, &found, inner))
            continue;
        snprintf(path, SPEC_WORDS, "%.100s%s%.300s", key, *inner ? "." : "", inner);
        return false;
    }
    return true;
}

/* ---- events -------------------------------------------------------------------------- */

static const char *type_of(const bson_t *event)
{
    bson_iter_t type;

    return bson_iter_init_find(&type, event, "type") ? bson_iter_utf8(&type, NULL) : "";
}

static bool is_ignored(const struct spec *spec, const char *type)
{
    bson_iter_t one;

    if (!spec->ignored.raw || !bson_iter_recurse(&spec->ignored, &one))
        return false;
    while (bson_iter_next(&one))
        if (strcmp(bson_iter_utf8(&one, NULL), type) == 0)
            return true;
    return false;
}

static bool differs(const bson_iter_t *wanted, const bson_t *actual, unsigned place,
                    const char *path, char why[SPEC_WORDS])
{
    uint32_t       size;
    const uint8_t *data;
    bson_t         doc;

    bson_iter_document(wanted, &size, &data);
    bson_init_static(&doc, data, size);
    char *want = bson_as_relaxed_extended_json(&doc, NULL);
    char *got = actual ? bson_as_relaxed_extended_json(actual, NULL) : NULL;
    snprintf(why, SPEC_WORDS, "event %u (%.60s): wanted %.180s, got %.180s", place,
             actual ? path : "none came", want, got ? got : "nothing");
    bson_free(want);
    bson_free(got);
    return false;
}

bool match_events(const struct spec *spec, bson_t *const *happened, unsigned count,
                  char why[SPEC_WORDS])
{
    bson_iter_t wanted, inside, actual;
    unsigned    next = 0, place = 0;

    if (!spec->events.raw || !bson_iter_recurse(&spec->events, &wanted))
        return true;
    while (bson_iter_next(&wanted)) {
        char path[SPEC_WORDS] = "";
        place++;
        while (next < count && is_ignored(spec, type_of(happened[next])))
            next++;
        if (next == count)
            return differs(&wanted, NULL, place, path, why);
        if (!bson_iter_recurse(&wanted, &inside) || !bson_iter_init(&actual, happened[next]) ||
            !match_fields(inside, actual, path))
            return differs(&wanted, happened[next], place, path, why);
        next++;
    }
    return true;
}

/* ---- the error ----------------------------------------------------------------------- */

/*
 * What CMAP calls them, and the words it has for them. Our own messages say more, and say it in
 * other words; so the status is what is compared, and CMAP's words stand for it.
 */
static const struct {
    weir_status status;
    const char *type, *message;
} errors[] = {
    { WEIR_CLOSED, "PoolClosedError",
      "Attempted to check out a connection from closed connection pool" },
    { WEIR_TIMEOUT, "WaitQueueTimeoutError",
      "Timed out while checking out a connection from connection pool" },
    { WEIR_CONNECT, "PoolClearedError",
      "Connection pool was cleared because another operation failed" },
};

/* "Pool" or "pool" in the middle: the files do not agree. */
static bool contains(const char *text, const char *part)
{
    for (; *text; text++)
        if (strncasecmp(text, part, strlen(part)) == 0)
            return true;
    return !*part;
}

static bool match_words(const struct wanted_error *wanted, weir_status status,
                        char why[SPEC_WORDS])
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        if (wanted->type && strcmp(errors[i].type, wanted->type) != 0)
            continue;
        if (errors[i].status == status &&
            (!wanted->message || contains(errors[i].message, wanted->message)))
            return true;
        if (wanted->type) {
            snprintf(why, SPEC_WORDS, "wanted %.60s \"%.150s\", got %s", wanted->type,
                     wanted->message ? wanted->message : "", weir_status_name(status));
            return false;
        }
    }
    snprintf(why, SPEC_WORDS, "unknown error type \"%.60s\", message \"%.150s\"",
             wanted->type ? wanted->type : "", wanted->message ? wanted->message : "");
    return false;
}

bool match_error(const struct spec *spec, const weir_error *error, char why[SPEC_WORDS])
{
    if (!spec->wants_error && error->status == WEIR_OK)
        return true;
    if (spec->wants_error && error->status != WEIR_OK)
        return match_words(&spec->error, error->status, why);
    if (spec->wants_error)
        snprintf(why, SPEC_WORDS, "wanted %.60s, but nothing failed",
                 spec->error.type ? spec->error.type : "an error");
    else
        snprintf(why, SPEC_WORDS, "it failed: %s", error->message);
    return false;
}
