/*
 * deployment.c - starting the scripted server, and the two things asked of it.
 *
 * Knows:   mongo_mock.h, the shape of its ready answers.
 * Ignores: what is measured.
 *
 * The server is a child of this process, and so begins on the CPU that this process is pinned
 * to: client and server share it, as in the mysql entries.
 */
#include "deployment.h"

#include "bench.h"
#include "mongo_mock.h"

#include <stdio.h>

static struct mongo_mock *mock;
static char               uri[400];

static bool start(const struct mongo_mock_opts *opts, char *why, size_t size)
{
    mongoc_init();
    mongoc_log_set_handler(NULL, NULL); /* a line for each client that is made */
    mock = mongo_mock_start(opts);
    if (!mock) {
        snprintf(why, size, "the scripted MongoDB server could not be started");
        return false;
    }
    mongo_mock_uri(mock, uri, sizeof uri, "retryReads=false&retryWrites=false");
    return true;
}

bool deployment_start(char *why, size_t size)
{
    return start(&(struct mongo_mock_opts){ .ready_answers = true }, why, size);
}

/* 15,000 rounds are what mongod asks for with SCRAM-SHA-256. */
bool deployment_start_with_login(char *why, size_t size)
{
    return start(&(struct mongo_mock_opts){ .ready_answers = true,
                                            .user = "bench",
                                            .password = "a password of some length",
                                            .mechanisms = MOCK_SHA_256,
                                            .rounds = 15000 },
                 why, size);
}

void deployment_stop(void)
{
    mongo_mock_stop(mock);
    mock = NULL;
}

const char *deployment_uri(void)
{
    return uri;
}

/* ---- the work ----------------------------------------------------------------------- */

static bool find_one(mongoc_collection_t *collection)
{
    bson_t           filter = BSON_INITIALIZER, options = BSON_INITIALIZER;
    const bson_t    *found;
    bson_iter_t      it;
    bson_error_t     error;
    bool             right = false;

    BSON_APPEND_INT32(&filter, "_id", 0);
    BSON_APPEND_INT64(&options, "limit", 1);
    BSON_APPEND_BOOL(&options, "singleBatch", true);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(collection, &filter, &options, NULL);
    if (mongoc_cursor_next(cursor, &found))
        right = bson_iter_init_find(&it, found, "_id") && bson_iter_int32(&it) == 0;
    if (mongoc_cursor_error(cursor, &error))
        right = bench_fail("find: %s", error.message);
    else if (!right)
        bench_fail("find: the answer is not the document asked for");
    mongoc_cursor_destroy(cursor);
    bson_destroy(&options);
    bson_destroy(&filter);
    return right;
}

static bool insert_one(mongoc_collection_t *collection)
{
    bson_t       document = BSON_INITIALIZER;
    bson_error_t error;

    BSON_APPEND_UTF8(&document, "text", "forty bytes of text, give or take a few.");
    bool done = mongoc_collection_insert_one(collection, &document, NULL, NULL, &error);
    bson_destroy(&document);
    return done ? true : bench_fail("insert: %s", error.message);
}

bool mongo_do(mongoc_client_t *client, enum mongo_work work)
{
    mongoc_collection_t *collection = mongoc_client_get_collection(client, "bench", "things");
    bool                 done = work == FIND_ONE ? find_one(collection) : insert_one(collection);

    mongoc_collection_destroy(collection);
    return done;
}
