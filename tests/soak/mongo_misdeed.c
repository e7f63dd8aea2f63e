/*
 * mongo_misdeed.c - how applications go wrong with MongoDB in particular: cursors and clients
 * are objects, and objects can be used when it is no longer, or not, one's turn.
 */
#include "mongo_soak.h"

/* ---- a query that takes its time ---------------------------------------------------- */

/*
 * There is no SLEEP(). But a cursor on a capped collection may be told to wait at its end for
 * documents that are yet to come, and here none ever does. Also half an answer (HALF_READ):
 * whoever is cut in the wait leaves the cursor on the server.
 */
static mongoc_cursor_t *wait_at_the_end(mongoc_collection_t *read)
{
    bson_t          *last = BCON_NEW("_id", BCON_INT64(MONGO_FIRST_ROWS));
    bson_t          *opts = BCON_NEW("tailable", BCON_BOOL(true), "awaitData", BCON_BOOL(true),
                                     "maxAwaitTimeMS", BCON_INT64(200), "batchSize", BCON_INT32(1));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(read, last, opts, NULL);

    bson_destroy(opts);
    bson_destroy(last);
    return cursor;
}

weir_status mongo_slow(struct database *db, weir_lease *lease, weir_status expected,
                       weir_error *err)
{
    mongoc_collection_t *read = mongo_read(db, weir_mongo(lease));
    mongoc_cursor_t     *cursor = wait_at_the_end(read);
    bson_error_t         error = { 0 };
    const bson_t        *row;
    weir_status          status = WEIR_OK;
    int64_t              began = watch_clock_ns();

    while (mongoc_cursor_next(cursor, &row))
        continue;
    if (mongoc_cursor_error(cursor, &error))
        status = mongo_failed(db, lease, &error, expected, err);
    else
        watch_query_answered(db, watch_clock_ns() - began);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(read);
    return status;
}

/* ---- a transaction that nobody commits ---------------------------------------------- */

/* weir/mongo.h asks for sessions to be ended with the lease: it is, with nothing committed. */
weir_status mongo_begin(struct database *db, weir_lease *lease, weir_error *err)
{
    mongoc_client_t         *client = weir_mongo(lease);
    mongoc_collection_t     *written = mongo_written(db, client);
    bson_t                   row = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    bson_error_t             error = { 0 };
    uint64_t                 id = ledger_new_id(&db->ledger);
    weir_status              status = WEIR_OK;
    mongoc_client_session_t *session = mongoc_client_start_session(client, NULL, &error);

    if (id)
        ledger_denied(&db->ledger, id); /* nobody will commit it */
    mongo_fill_row(&row, "id", id);
    if (!session || !mongoc_client_session_start_transaction(session, NULL, &error) ||
        !mongoc_client_session_append(session, &opts, &error) ||
        !mongoc_collection_insert_one(written, &row, &opts, NULL, &error))
        status = mongo_failed(db, lease, &error, WEIR_OK, err);
    if (session)
        mongoc_client_session_destroy(session);
    bson_destroy(&opts);
    bson_destroy(&row);
    mongoc_collection_destroy(written);
    return status;
}

/* ---- half an answer ----------------------------------------------------------------- */

/* A cursor in small batches, two documents read from it; NULL with *err. */
static mongoc_cursor_t *begin_to_read(struct database *db, weir_lease *lease, weir_error *err)
{
    mongoc_collection_t *read = mongo_read(db, weir_mongo(lease));
    bson_t               all = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    bson_error_t         error = { 0 };
    const bson_t        *row;
    mongoc_cursor_t     *cursor;

    BSON_APPEND_INT32(&opts, "batchSize", 2);
    cursor = mongoc_collection_find_with_opts(read, &all, &opts, NULL);
    bson_destroy(&opts);
    bson_destroy(&all);
    mongoc_collection_destroy(read); /* the cursor has its own */
    if (mongoc_cursor_next(cursor, &row) && mongoc_cursor_next(cursor, &row))
        return cursor;
    (void)mongoc_cursor_error(cursor, &error);
    (void)mongo_failed(db, lease, &error, WEIR_OK, err);
    mongoc_cursor_destroy(cursor);
    return NULL;
}

static weir_status half_read(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(life->db, &lease, err);

    if (status != WEIR_OK)
        return status;
    mongoc_cursor_t *cursor = begin_to_read(life->db, lease, err);
    if (!cursor)
        return err->status;
    mongoc_cursor_destroy(cursor);
    life->happened = true;
    return WEIR_OK;
}

/* Its third document is still on the server, and the client is somebody else's by then. */
static weir_status outlive(struct life *life, weir_error *err)
{
    struct database *db = life->db;
    weir_lease      *lease = NULL;
    const bson_t    *row;
    weir_status      status = life_lease(db, &lease, err);

    if (status != WEIR_OK)
        return status;
    mongoc_cursor_t *cursor = begin_to_read(db, lease, err);
    weir_release(lease);
    if (!cursor)
        return err->status;
    if (mongoc_cursor_next(cursor, &row) && !db->tally.wrong_answers++)
        snprintf(db->tally.first_wrong, sizeof db->tally.first_wrong,
                 "a cursor went on after its lease had ended");
    life->happened = true;
    mongoc_cursor_destroy(cursor);
    return WEIR_OK;
}

/* ---- misused clients ---------------------------------------------------------------- */

struct intruder {
    mongoc_client_t *client; /* which somebody else holds */
    bool             was_served;
};

static weir_status intrude(void *arg)
{
    struct intruder *me = arg;
    bson_t           ping = BSON_INITIALIZER;
    bson_error_t     error;

    if (weir_sleep(weir_in_ms(10)) != WEIR_OK) /* the holder waits for an answer by then */
        return WEIR_CANCELED;
    BSON_APPEND_INT32(&ping, "ping", 1);
    me->was_served = mongoc_client_command_simple(me->client, "admin", &ping, NULL, NULL, &error);
    bson_destroy(&ping);
    return WEIR_OK;
}

/* Both calls fail: the intruder's is refused, and with it libmongoc ends the connection. */
static weir_status let_another_speak(struct life *life, weir_lease *lease, weir_error *err)
{
    struct intruder intruder = { .client = weir_mongo(lease) };
    struct tally   *t = &life->db->tally;
    weir_autoptr(weir_group) group = NULL; /* joined before the intruder goes */
    weir_status status = weir_group_new(NULL, &group, err);

    if (status != WEIR_OK)
        return status;
    if (!weir_spawn(group, intrude, &intruder))
        return weir_error_set(err, WEIR_NOMEM, "no memory for a coroutine");
    status = mongo_slow(life->db, lease, WEIR_LOST, err);
    (void)weir_group_wait(group, WEIR_FOREVER);
    if (intruder.was_served && !t->wrong_answers++)
        snprintf(t->first_wrong, sizeof t->first_wrong,
                 "a client answered a coroutine that did not hold it");
    life->happened = status == WEIR_LOST;
    return status;
}

static weir_status misuse(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(life->db, &lease, err);

    if (status != WEIR_OK)
        return status;
    if (life_random(life, 2))
        return let_another_speak(life, lease, err);
    status = mongo_deed(life, lease, SELECT_ONE, err); /* on a client that is well */
    if (status != WEIR_OK)
        return status;
    mongoc_client_destroy(weir_mongo(lease));
    life->happened = true;
    return WEIR_OK;
}

weir_status mongo_misdeed(struct life *life, weir_error *err)
{
    switch (life->kind) {
    case OUTLIVE:
        return outlive(life, err);
    case MISUSE:
        return misuse(life, err);
    default:
        return half_read(life, err);
    }
}
