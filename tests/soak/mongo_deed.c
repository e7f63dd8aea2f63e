/*
 * mongo_deed.c - good work with MongoDB: ways to use a client, each answer checked.
 *
 * Knows:   the commands, what the answer must be, and which rows the ledger may count on.
 * Ignores: where the lease came from, and what happens after a failure.
 *
 * A written row's number is no _id, which would refuse a second one: that a row is there twice
 * is what we want to be able to see.
 */
#include "mongo_soak.h"

#include <string.h>

weir_status mongo_failed(struct database *db, weir_lease *lease, const bson_error_t *error,
                         weir_status expected, weir_error *err)
{
    weir_status status = weir_mongo_error(lease, error, err);

    life_note_failure(db, err, expected);
    return status;
}

void mongo_fill_row(bson_t *row, const char *key, uint64_t id)
{
    char note[NOTE_SIZE];

    row_note(note, sizeof note, id);
    BSON_APPEND_INT64(row, key, (int64_t)id);
    BSON_APPEND_UTF8(row, "note", note);
}

/* ---- writing ------------------------------------------------------------------------ */

/*
 * An error of the server's is no proof that nothing was written: it may be about the replicas
 * alone.
 */
static weir_status insert_one(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    mongoc_collection_t *written = mongo_written(db, weir_mongo(lease));
    bson_t               row = BSON_INITIALIZER;
    bson_error_t         error = { 0 };
    weir_status          status = WEIR_OK;
    int64_t              began = watch_clock_ns();

    mongo_fill_row(&row, "id", id);
    if (mongoc_collection_insert_one(written, &row, NULL, NULL, &error)) {
        watch_query_answered(db, watch_clock_ns() - began);
        ledger_acknowledged(&db->ledger, id);
    } else {
        status = mongo_failed(db, lease, &error, WEIR_OK, err);
        deed_write_failed(db, id, false, err);
    }
    bson_destroy(&row);
    mongoc_collection_destroy(written);
    return status;
}

/* ---- reading ------------------------------------------------------------------------ */

static weir_status check_row(struct database *db, const bson_t *row, uint64_t *id, weir_error *err)
{
    char        note[NOTE_SIZE];
    bson_iter_t at;

    if (!bson_iter_init_find(&at, row, "_id"))
        return deed_wrong(db, err, "a document without its _id came", "nothing");
    *id = (uint64_t)bson_iter_as_int64(&at);
    row_note(note, sizeof note, *id);
    if (!bson_iter_init_find(&at, row, "note") || !BSON_ITER_HOLDS_UTF8(&at))
        return deed_wrong(db, err, "a document without its note came", "nothing");
    if (strcmp(bson_iter_utf8(&at, NULL), note))
        return deed_wrong(db, err, "the wrong document came", bson_iter_utf8(&at, NULL));
    return WEIR_OK;
}

/* Ends the cursor. All documents of it must be different ones, and their sum that of the ids. */
static weir_status read_all(struct database *db, weir_lease *lease, mongoc_cursor_t *cursor,
                            unsigned count, uint64_t sum, weir_error *err)
{
    bson_error_t  error = { 0 };
    const bson_t *row;
    weir_status   status = WEIR_OK;
    int64_t       began = watch_clock_ns();
    unsigned      came = 0;
    uint64_t      id = 0;

    while (status == WEIR_OK && mongoc_cursor_next(cursor, &row)) {
        if (came++ == 0)
            watch_query_answered(db, watch_clock_ns() - began);
        status = check_row(db, row, &id, err);
        sum -= id;
    }
    if (status == WEIR_OK && mongoc_cursor_error(cursor, &error))
        status = mongo_failed(db, lease, &error, WEIR_OK, err);
    else if (status == WEIR_OK && (came != count || sum))
        status = deed_wrong(db, err, "other documents came than were asked for",
                            came < count ? "fewer of them" : "as many, or more");
    mongoc_cursor_destroy(cursor);
    return status;
}

static weir_status select_one(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    mongoc_collection_t *read = mongo_read(db, weir_mongo(lease));
    bson_t               filter = BSON_INITIALIZER;
    mongoc_cursor_t     *cursor;
    weir_status          status;

    BSON_APPEND_INT64(&filter, "_id", (int64_t)id);
    cursor = mongoc_collection_find_with_opts(read, &filter, NULL, NULL);
    status = read_all(db, lease, cursor, 1, id, err);
    bson_destroy(&filter);
    mongoc_collection_destroy(read);
    return status;
}

/* In several batches. */
static weir_status stream(struct database *db, weir_lease *lease, weir_error *err)
{
    mongoc_collection_t *read = mongo_read(db, weir_mongo(lease));
    bson_t               all = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    mongoc_cursor_t     *cursor;
    weir_status          status;

    BSON_APPEND_INT32(&opts, "batchSize", MONGO_FIRST_ROWS / 3);
    cursor = mongoc_collection_find_with_opts(read, &all, &opts, NULL);
    status = read_all(db, lease, cursor, MONGO_FIRST_ROWS,
                      MONGO_FIRST_ROWS * (MONGO_FIRST_ROWS + 1) / 2, err);
    bson_destroy(&opts);
    bson_destroy(&all);
    mongoc_collection_destroy(read);
    return status;
}

/* ---- all of them -------------------------------------------------------------------- */

weir_status mongo_deed(struct life *life, weir_lease *lease, enum deed deed, weir_error *err)
{
    struct database *db = life->db;
    uint64_t         id = deed == INSERT_ONE ? ledger_new_id(&db->ledger) : 0;

    if (id)
        return insert_one(db, lease, id, err);
    if (deed == STREAM)
        return stream(db, lease, err);
    return select_one(db, lease, 1 + life_random(life, MONGO_FIRST_ROWS), err);
}
