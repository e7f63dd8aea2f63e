/*
 * test_mongo_api.c - the ordinary calls of libmongoc, each inside a coroutine, over each way to
 * the server: they do what its manual says, the hub goes on while they do, and what goes wrong
 * is told in weir's terms.
 *
 * Everything big is prepared before the hub runs, so that a gap the ticker finds is not the
 * test's own arithmetic.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <private_mongo.h>
#include <relay.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <weir/hub.h>

enum { DOCUMENTS = 300, BULK = 5000, CROWD = 200 };

static const size_t BLOB = (size_t)8 << 20;

/* One pool, one lease, one body: what most of these tests need. */
struct solo {
    weir_mongo_opts opts;
    char            uri[400];
    weir_status (*body)(mongoc_client_t *client, struct solo *me);
    weir_lease   *lease; /* of the body's client */
    weir_pool    *pool;
    struct relay *relay;
    char         *data;
};

/* ---- ways to the server ------------------------------------------------------------ */

static void escape(const char *path, char *out)
{
    for (; *path; path++)
        out += sprintf(out, *path == '/' ? "%%2F" : "%c", *path);
}

static void name_server(struct solo *me, const struct lab_way *way, unsigned port,
                        const char *options)
{
    const struct private_mongo *s = private_mongo();
    char                        place[200];

    if (way->is_unix)
        escape(s->socket, place);
    else
        snprintf(place, sizeof place, "%s:%u", way->tls ? s->tls_name : s->host,
                 port ? port : way->tls ? s->tls_port : s->port);
    snprintf(me->uri, sizeof me->uri,
             "mongodb://%s:%s@%s/%s?authSource=%s&connectTimeoutMS=%d%s", s->user, s->password,
             place, s->database, s->auth_source, (int)(2000 * detect_slowness()), options);
    me->opts.uri = me->uri;
    me->opts.tls_ca = way->tls ? s->ca : NULL;
}

/* `options` are for the URI: "&a=b". */
static struct solo solo(void **state, weir_status (*body)(mongoc_client_t *, struct solo *),
                        const char *options)
{
    struct solo me = { .body = body };

    name_server(&me, *state, 0, options);
    return me;
}

static struct solo solo_by_relay(weir_status (*body)(mongoc_client_t *, struct solo *),
                                 const char *options)
{
    struct solo me = { .body = body };

    me.relay = relay_start(private_mongo()->port, &(struct relay_faults){ 0 });
    assert_non_null(me.relay);
    name_server(&me, &lab_tcp, relay_port(me.relay), options);
    return me;
}

static weir_status run_solo(void *arg)
{
    struct solo *me = arg;
    weir_error   err;
    weir_autoptr(weir_pool) pool = NULL;

    me->opts.uri = me->uri;
    lab_need_ok(weir_mongo_pool_new(&me->opts, &pool, &err), &err);
    me->pool = pool;
    lab_need_ok(weir_acquire(pool, lab_patience(10000), &me->lease, &err), &err);
    weir_status st = me->body(weir_mongo(me->lease), me);
    if (me->lease)
        lab_equal(weir_release(me->lease), WEIR_OK);
    lab_pool_end(&pool);
    return st;
}

static void run(struct solo *me)
{
    lab_run(run_solo, me);
    relay_stop(me->relay);
}

/* ---- what the bodies do again and again -------------------------------------------- */

static mongoc_collection_t *table(mongoc_client_t *client)
{
    return mongoc_client_get_collection(client, private_mongo()->database, "lab");
}

static bool empty(mongoc_client_t *client)
{
    mongoc_collection_t *c = table(client);
    bson_t               all = BSON_INITIALIZER;
    bool                 ok = mongoc_collection_delete_many(c, &all, NULL, NULL, NULL);

    bson_destroy(&all);
    mongoc_collection_destroy(c);
    return ok;
}

/* How many documents match; -1 with *error. */
static long found(mongoc_client_t *client, const bson_t *filter, const bson_t *opts,
                  bson_error_t *error)
{
    mongoc_collection_t *c = table(client);
    bson_t               all = BSON_INITIALIZER;
    mongoc_cursor_t     *cursor =
        mongoc_collection_find_with_opts(c, filter ? filter : &all, opts, NULL);
    const bson_t *document;
    long          n = 0;

    while (mongoc_cursor_next(cursor, &document))
        n++;
    if (mongoc_cursor_error(cursor, error))
        n = -1;
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    return n;
}

static bool insert_one(mongoc_client_t *client, int id, bson_error_t *error)
{
    mongoc_collection_t *c = table(client);
    bson_t              *document = BCON_NEW("_id", BCON_INT32(id), "v", BCON_INT32(id % 7));
    bool                 ok = mongoc_collection_insert_one(c, document, NULL, NULL, error);

    bson_destroy(document);
    mongoc_collection_destroy(c);
    return ok;
}

static bool insert_many(mongoc_client_t *client, int count, bson_error_t *error)
{
    mongoc_collection_t     *c = table(client);
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(c, NULL);

    for (int i = 0; i < count; i++) {
        bson_t document = BSON_INITIALIZER;
        BSON_APPEND_INT32(&document, "_id", i);
        BSON_APPEND_INT32(&document, "v", i % 7);
        mongoc_bulk_operation_insert(bulk, &document);
        bson_destroy(&document);
    }
    bool ok = mongoc_bulk_operation_execute(bulk, NULL, error);
    mongoc_bulk_operation_destroy(bulk);
    mongoc_collection_destroy(c);
    return ok;
}

/* ---- the library's calls ----------------------------------------------------------- */

static weir_status change_one(mongoc_collection_t *c, bson_error_t *error)
{
    bson_t *which = BCON_NEW("_id", BCON_INT32(5));
    bson_t *change = BCON_NEW("$set", "{", "v", BCON_INT32(100), "}");
    bson_t  reply;

    need_mongo(mongoc_collection_update_one(c, which, change, NULL, NULL, error), *error);

    mongoc_find_and_modify_opts_t *opts = mongoc_find_and_modify_opts_new();
    bson_t                        *again = BCON_NEW("$inc", "{", "v", BCON_INT32(1), "}");
    bson_iter_t                    at, value;
    mongoc_find_and_modify_opts_set_update(opts, again);
    mongoc_find_and_modify_opts_set_flags(opts, MONGOC_FIND_AND_MODIFY_RETURN_NEW);
    need_mongo(mongoc_collection_find_and_modify_with_opts(c, which, opts, &reply, error), *error);
    lab_check(bson_iter_init(&at, &reply) && bson_iter_find_descendant(&at, "value.v", &value) &&
              bson_iter_as_int64(&value) == 101);
    bson_destroy(&reply);
    mongoc_find_and_modify_opts_destroy(opts);
    need_mongo(mongoc_collection_delete_one(c, which, NULL, NULL, error), *error);
    bson_destroy(again);
    bson_destroy(change);
    bson_destroy(which);
    return WEIR_OK;
}

static long aggregated(mongoc_collection_t *c, bson_error_t *error)
{
    bson_t *pipeline = BCON_NEW("pipeline", "[", "{", "$match", "{", "v", BCON_INT32(3), "}", "}",
                                "{", "$count", BCON_UTF8("n"), "}", "]");
    mongoc_cursor_t *cursor =
        mongoc_collection_aggregate(c, MONGOC_QUERY_NONE, pipeline, NULL, NULL);
    const bson_t *document;
    bson_iter_t   at;
    long          n = -1;

    if (mongoc_cursor_next(cursor, &document) && bson_iter_init_find(&at, document, "n"))
        n = (long)bson_iter_as_int64(&at);
    (void)mongoc_cursor_error(cursor, error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(pipeline);
    return n;
}

static weir_status documents(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    bson_t      *small = BCON_NEW("batchSize", BCON_INT32(50));
    bson_t      *odd = BCON_NEW("v", BCON_INT32(3));

    need_mongo(empty(client), error);
    need_mongo(insert_many(client, DOCUMENTS, &error), error);
    lab_equal(found(client, NULL, small, &error), DOCUMENTS); /* six batches */
    lab_equal(found(client, odd, NULL, &error), 43);

    mongoc_collection_t *c = table(client);
    weir_status          st = change_one(c, &error);
    lab_equal(mongoc_collection_estimated_document_count(c, NULL, NULL, NULL, &error),
              DOCUMENTS - 1);
    lab_equal(aggregated(c, &error), 43);
    mongoc_collection_destroy(c);
    bson_destroy(small);
    bson_destroy(odd);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_OK);
    return st;
}

static void documents_are_written_found_changed_and_deleted(void **state)
{
    struct solo me = solo(state, documents, "");
    run(&me);
}

static weir_status bulk(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };

    (void)me;
    need_mongo(empty(client), error);
    need_mongo(insert_many(client, BULK, &error), error);
    lab_equal(found(client, NULL, NULL, &error), BULK);
    need_mongo(empty(client), error);
    return WEIR_OK;
}

static void a_bulk_write_of_thousands_works(void **state)
{
    struct solo me = solo(state, bulk, "");
    run(&me);
}

static weir_status blob(mongoc_client_t *client, struct solo *me)
{
    mongoc_collection_t *c = table(client);
    bson_error_t         error = { 0 };
    bson_t               document = BSON_INITIALIZER, all = BSON_INITIALIZER;
    const bson_t        *back;
    bson_iter_t          at;
    uint32_t             size = 0;
    const uint8_t       *bytes = NULL;

    need_mongo(empty(client), error);
    BSON_APPEND_INT32(&document, "_id", 1);
    BSON_APPEND_BINARY(&document, "d", BSON_SUBTYPE_BINARY, (uint8_t *)me->data, (uint32_t)BLOB);
    double start = lab_now_ms();
    need_mongo(mongoc_collection_insert_one(c, &document, NULL, NULL, &error), error);
    double           up = lab_now_ms();
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &all, NULL, NULL);
    lab_need(mongoc_cursor_next(cursor, &back) && bson_iter_init_find(&at, back, "d"));
    lab_tell("8 MiB up %.0f ms, down %.0f ms", up - start, lab_now_ms() - up);
    bson_iter_binary(&at, NULL, &size, &bytes);
    lab_check(size == BLOB && memcmp(bytes, me->data, BLOB) == 0);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&document);
    bson_destroy(&all);
    need_mongo(empty(client), error);
    return WEIR_OK;
}

static void eight_mebibytes_go_up_and_come_back(void **state)
{
    struct solo me = solo(state, blob, "");
    me.data = malloc(BLOB);
    assert_non_null(me.data);
    for (size_t i = 0; i < BLOB; i++)
        me.data[i] = (char)(i * 2654435761u >> 13);
    run(&me);
    free(me.data);
}

/* ---- many coroutines, few clients -------------------------------------------------- */

struct crowd {
    weir_pool *pool;
    int        well;
};

static weir_status one_of_many(void *arg)
{
    struct crowd *crowd = arg;
    bson_error_t  error = { 0 };
    weir_error    err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(crowd->pool, lab_patience(20000), &lease, &err), &err);
    need_mongo(mongo_ping(weir_mongo(lease), &error), error);
    need_mongo(found(weir_mongo(lease), NULL, NULL, &error) == 20, error);
    crowd->well++;
    return WEIR_OK;
}

static weir_status share(mongoc_client_t *client, struct solo *me)
{
    struct crowd crowd = { .pool = me->pool };
    bson_error_t error = { 0 };
    weir_error   err;
    weir_autoptr(weir_group) group = NULL;

    need_mongo(empty(client) && insert_many(client, 20, &error), error);
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < CROWD; i++)
        weir_spawn(group, one_of_many, &crowd);
    lab_equal(weir_group_wait(group, lab_patience(20000)), WEIR_OK);
    lab_equal(crowd.well, CROWD);
    lab_equal(lab_stats(me->pool).opened, 4);
    lab_check(private_mongo_connections() == 4 || private_mongo_connections() < 0);
    return WEIR_OK;
}

static void two_hundred_coroutines_share_four_clients(void **state)
{
    struct solo me = solo(state, share, "&maxPoolSize=4");
    run(&me);
}

/* ---- errors ------------------------------------------------------------------------ */

static weir_status errors(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    bson_t      *nonsense = BCON_NEW("noSuchCommand", BCON_INT32(1));

    need_mongo(empty(client) && insert_one(client, 1, &error), error);
    lab_check(!insert_one(client, 1, &error));
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_SERVER);
    lab_equal(err.native, 11000);
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);

    lab_check(!mongoc_client_command_simple(client, "admin", nonsense, NULL, NULL, &error));
    lab_equal(weir_lease_error(me->lease, &err), WEIR_SERVER);
    lab_equal(err.native, 59);
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);
    lab_says(err.message, "noSuchCommand");
    need_mongo(mongo_ping(client, &error), error); /* the client is well */
    lab_equal(weir_lease_error(me->lease, &err), WEIR_OK);
    bson_destroy(nonsense);

    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_equal(lab_stats(me->pool).idle, 1);
    return WEIR_OK;
}

static void errors_of_the_server_are_told_and_leave_the_client_well(void **state)
{
    struct solo me = solo(state, errors, "");
    run(&me);
}

/* ---- what cuts a call -------------------------------------------------------------- */

static const struct relay_faults stalled = { .stall_after = 1 };

/* The lease's end closes the client, and the next one is as new. */
static weir_status next_is_well(struct solo *me, weir_close_reason reason)
{
    bson_error_t error = { 0 };
    weir_error   err;

    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_equal(lab_stats(me->pool).closed[reason], 1);
    relay_set(me->relay, &(struct relay_faults){ 0 });
    (void)weir_sleep(weir_in_ms(20));
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    need_mongo(mongo_ping(weir_mongo(me->lease), &error), error);
    return WEIR_OK;
}

static weir_status by_deadline(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    double       start;

    relay_set(me->relay, &stalled);
    (void)weir_sleep(weir_in_ms(20));
    {
        WEIR_DEADLINE(weir_in_ms(100));
        start = lab_now_ms();
        lab_check(!mongo_ping(client, &error));
    }
    lab_took(lab_now_ms() - start, 95, 160);
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_TIMEOUT);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_says(err.message, "deadline");

    start = lab_now_ms(); /* nothing more is tried on it, nor waited for */
    lab_check(!mongo_ping(client, &error));
    lab_took(lab_now_ms() - start, 0, 20);
    return next_is_well(me, WEIR_CLOSE_BROKEN);
}

static void a_deadline_cuts_a_call_and_the_client_is_replaced(void **state)
{
    struct solo me = solo_by_relay(by_deadline, "&retryReads=true");
    (void)state;
    run(&me);
}

static weir_status before_the_call(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    {
        WEIR_DEADLINE(weir_deadline_at(weir_now() - 1));
        lab_check(!insert_one(client, 1, &error));
        lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_TIMEOUT);
    }
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    return next_is_well(me, WEIR_CLOSE_BROKEN);
}

static void after_a_deadline_nothing_is_sent(void **state)
{
    struct solo me = solo_by_relay(before_the_call, "");
    (void)state;
    run(&me);
}

struct victim {
    mongoc_client_t *client;
    struct solo     *me;
    double           took;
    weir_status      told;
};

static weir_status waits_for_ever(void *arg)
{
    struct victim *v = arg;
    bson_error_t   error = { 0 };
    weir_error     err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(v->me->pool, WEIR_SCOPE, &lease, &err), &err);
    relay_set(v->me->relay, &stalled);
    (void)weir_sleep(weir_in_ms(20));
    double start = lab_now_ms();
    lab_check(found(weir_mongo(lease), NULL, NULL, &error) < 0);
    v->took = lab_now_ms() - start;
    v->told = weir_lease_error(lease, &err);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    return WEIR_OK;
}

static weir_status by_cancel(mongoc_client_t *client, struct solo *me)
{
    struct victim v = { .me = me };
    weir_error    err;
    weir_autoptr(weir_group) group = NULL;

    (void)client;
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, waits_for_ever, &v);
    (void)weir_sleep(weir_in_ms(150));
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_took(v.took, 100, 160);
    lab_equal(v.told, WEIR_CANCELED);
    relay_set(me->relay, &(struct relay_faults){ 0 });
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_BROKEN], 1);
    return WEIR_OK;
}

static void a_cancel_cuts_a_call(void **state)
{
    struct solo me = solo_by_relay(by_cancel, "&retryReads=true");
    (void)state;
    run(&me);
}

static weir_status by_silence(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    relay_set(me->relay, &stalled);
    (void)weir_sleep(weir_in_ms(20));
    double start = lab_now_ms();
    lab_check(!mongo_ping(client, &error));
    lab_took(lab_now_ms() - start, 195, 260);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_TIMEOUT);
    lab_says(err.message, "socketTimeoutMS");
    return next_is_well(me, WEIR_CLOSE_BROKEN);
}

static void a_server_that_is_silent_is_left_after_socketTimeoutMS(void **state)
{
    struct solo me = solo_by_relay(by_silence, "&socketTimeoutMS=200");
    (void)state;
    run(&me);
}

static weir_status by_loss(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    relay_set(me->relay, &(struct relay_faults){ .half_after = 1 });
    (void)weir_sleep(weir_in_ms(20));
    lab_check(!mongo_ping(client, &error) || !mongo_ping(client, &error));
    lab_equal(weir_lease_error(me->lease, &err), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_says(err.message, "closed the connection");
    return next_is_well(me, WEIR_CLOSE_LOST);
}

static void half_a_reply_is_a_lost_connection(void **state)
{
    struct solo me = solo_by_relay(by_loss, "");
    (void)state;
    run(&me);
}

static weir_status while_idle(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    (void)client;
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    relay_cut(me->relay);
    lab_check(lab_settle(me->pool, 0, 2000)); /* noticed without a call */
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_LOST], 1);
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    need_mongo(mongo_ping(weir_mongo(me->lease), &error), error);
    return WEIR_OK;
}

static void an_idle_client_whose_server_goes_is_closed(void **state)
{
    struct solo me = solo_by_relay(while_idle, "");
    (void)state;
    run(&me);
}

/* The library sleeps before it tries again: half a second that must be nobody else's. */
static weir_status retry(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };

    relay_cut(me->relay);
    (void)weir_sleep(weir_in_ms(20));
    double start = lab_now_ms();
    (void)mongo_ping(client, &error);
    lab_check(found(client, NULL, NULL, &error) >= 0);
    lab_took(lab_now_ms() - start, 0, 1200);
    lab_tell("reconnected by the library after %.0f ms", lab_now_ms() - start);
    lab_equal(lab_stats(me->pool).in_use, 1);
    return WEIR_OK;
}

static void the_librarys_sleep_holds_up_nobody(void **state)
{
    struct solo me = solo_by_relay(retry, "&retryReads=true");
    (void)state;
    run(&me);
}

/* ---- whose turn it is -------------------------------------------------------------- */

static weir_status intrude(void *arg)
{
    bson_error_t error = { 0 };

    (void)weir_sleep(weir_in_ms(40)); /* the holder waits for an answer by then */
    lab_check(!mongo_ping(arg, &error));
    return WEIR_OK;
}

static weir_status another_coroutine(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, intrude, client);
    relay_set(me->relay, &(struct relay_faults){ .delay_ms = 100 });
    (void)weir_sleep(weir_in_ms(10));
    /* The library ends the connection of a call that fails. */
    lab_check(!mongo_ping(client, &error));
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_LOST);
    lab_says(err.message, "must not use client");
    lab_says(err.message, "test_mongo_api.c");
    return WEIR_OK;
}

static void a_client_in_two_coroutines_is_an_error_that_names_both(void **state)
{
    struct solo me = solo_by_relay(another_coroutine, "");
    (void)state;
    run(&me);
}

static weir_status cursor_left(mongoc_client_t *client, struct solo *me)
{
    mongoc_collection_t *c = table(client);
    bson_error_t         error = { 0 };
    weir_error           err;
    bson_t               all = BSON_INITIALIZER;
    bson_t              *small = BCON_NEW("batchSize", BCON_INT32(2));
    const bson_t        *document;

    need_mongo(empty(client) && insert_many(client, 20, &error), error);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &all, small, NULL);
    lab_check(mongoc_cursor_next(cursor, &document));
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_equal(lab_stats(me->pool).idle, 1);
    while (mongoc_cursor_next(cursor, &document))
        continue;
    lab_check(mongoc_cursor_error(cursor, &error)); /* its third document is on the server */
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(small);
    bson_destroy(&all);
    lab_check(lab_settle(me->pool, 0, 2000)); /* what it did to the client nobody knows */
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    need_mongo(mongo_ping(weir_mongo(me->lease), &error), error);
    return WEIR_OK;
}

static void a_cursor_that_outlived_its_lease_is_refused(void **state)
{
    struct solo me = solo(state, cursor_left, "");
    run(&me);
}

static weir_status settings(mongoc_client_t *client, struct solo *me)
{
    mongoc_read_prefs_t    *prefs = mongoc_read_prefs_new(MONGOC_READ_SECONDARY_PREFERRED);
    mongoc_write_concern_t *concern = mongoc_write_concern_new();
    weir_error              err;

    mongoc_client_set_read_prefs(client, prefs);
    mongoc_write_concern_set_w(concern, 0);
    mongoc_client_set_write_concern(client, concern);
    mongoc_read_prefs_destroy(prefs);
    mongoc_write_concern_destroy(concern);
    lab_equal(weir_release(me->lease), WEIR_OK);
    lab_need_ok(weir_acquire(me->pool, weir_in_ms(5000), &me->lease, &err), &err);
    lab_check(weir_mongo(me->lease) == client);
    lab_equal(mongoc_read_prefs_get_mode(mongoc_client_get_read_prefs(client)),
              MONGOC_READ_PRIMARY);
    lab_equal(mongoc_write_concern_get_w(mongoc_client_get_write_concern(client)), 1);
    return WEIR_OK;
}

static void what_a_lease_has_set_ends_with_it(void **state)
{
    struct solo me = solo(state, settings, "&w=1");
    run(&me);
}

static weir_status destroyed(mongoc_client_t *client, struct solo *me)
{
    weir_error err;

    mongoc_client_destroy(client);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_USAGE);
    lab_says(err.message, "mongoc_client_destroy");
    lab_equal(weir_release(me->lease), WEIR_OK);
    lab_need_ok(weir_acquire(me->pool, weir_in_ms(5000), &me->lease, &err), &err);
    return WEIR_OK;
}

static void a_client_that_its_user_destroys_is_noticed(void **state)
{
    struct solo me = solo(state, destroyed, "");
    run(&me);
}

/* ---- time for the server ----------------------------------------------------------- */

/* What is there, of whichever type, and how often. */
static void expect_max_time(bson_t *opts, int64_t low, int64_t high)
{
    weir_error  err;
    bson_iter_t at;

    WEIR_DEADLINE(weir_in_ms(4000));
    lab_equal(weir_mongo_max_time(opts, &err), WEIR_OK);
    lab_equal(bson_count_keys(opts), 1);
    lab_check(bson_iter_init_find(&at, opts, "maxTimeMS"));
    lab_between(bson_iter_as_int64(&at), low, high);
    bson_destroy(opts);
}

static weir_status max_time_twice(mongoc_client_t *client, struct solo *me)
{
    weir_error err;
    bson_t    *words = BCON_NEW("maxTimeMS", BCON_UTF8("soon"));

    (void)client;
    (void)me;
    expect_max_time(BCON_NEW("maxTimeMS", BCON_INT32(100)), 100, 100);
    expect_max_time(BCON_NEW("maxTimeMS", BCON_INT32(60000)), 3900, 4000);
    expect_max_time(BCON_NEW("maxTimeMS", BCON_INT64(60000)), 3900, 4000);
    expect_max_time(BCON_NEW("maxTimeMS", BCON_DOUBLE(60000)), 3900, 4000);
    expect_max_time(BCON_NEW("maxTimeMS", BCON_INT32(0)), 3900, 4000); /* for ever */
    {
        WEIR_DEADLINE(weir_in_ms(4000));
        lab_equal(weir_mongo_max_time(words, &err), WEIR_USAGE);
    }
    bson_destroy(words);
    return WEIR_OK;
}

static weir_status max_time(mongoc_client_t *client, struct solo *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    bson_iter_t  at;
    bson_t       none = BSON_INITIALIZER, opts = BSON_INITIALIZER;

    (void)me;
    lab_need_ok(weir_mongo_max_time(&none, &err), &err);
    lab_equal(bson_count_keys(&none), 0);
    {
        WEIR_DEADLINE(weir_in_ms(4000));
        lab_need_ok(weir_mongo_max_time(&opts, &err), &err);
        need_mongo(found(client, NULL, &opts, &error) >= 0, error);
    }
    lab_check(bson_iter_init_find(&at, &opts, "maxTimeMS"));
    lab_between(bson_iter_as_int64(&at), 3900, 4000);
    {
        WEIR_DEADLINE(weir_in_ms(0));
        (void)weir_yield();
        lab_equal(weir_mongo_max_time(&none, &err), WEIR_TIMEOUT);
    }
    bson_destroy(&none);
    bson_destroy(&opts);
    return WEIR_OK;
}

static void the_deadline_becomes_the_servers(void **state)
{
    struct solo me = solo(state, max_time, "");
    run(&me);
}

static void of_two_limits_the_shorter_becomes_the_servers(void **state)
{
    struct solo me = solo(state, max_time_twice, "");
    run(&me);
}

/* ---- no client --------------------------------------------------------------------- */

static weir_status no_client(void *arg)
{
    struct solo *me = arg;
    weir_error   err;
    weir_lease  *lease;
    weir_autoptr(weir_pool) pool = NULL;

    lab_need_ok(weir_mongo_pool_new(&me->opts, &pool, &err), &err);
    double start = lab_now_ms();
    lab_equal(weir_acquire(pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_took(lab_now_ms() - start, 0, 700);
    lab_says(err.message, me->data);
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_wrong_password_is_told_and_not_shown(void **state)
{
    struct solo me = { .data = (char *)"uthentication" };
    const struct private_mongo *s = private_mongo();

    (void)state;
    lab_secret("not-the-password");
    snprintf(me.uri, sizeof me.uri, "mongodb://%s:not-the-password@%s:%u/?authSource=%s", s->user,
             s->host, s->port, s->auth_source);
    me.opts.uri = me.uri;
    lab_run(no_client, &me);
    lab_secret("");
}

static void a_server_that_is_not_there_is_told_at_once(void **state)
{
    struct solo me = { .data = (char *)"Connection refused" };

    (void)state;
    snprintf(me.uri, sizeof me.uri, "mongodb://127.0.0.1:%u/", port_refused());
    me.opts.uri = me.uri;
    lab_run(no_client, &me);
}

static void a_black_hole_is_given_up_after_connectTimeoutMS(void **state)
{
    struct solo     me = { .data = (char *)"did not answer within connectTimeoutMS (400)" };
    struct listener hole;

    (void)state;
    assert_true(listener_full_tcp(&hole));
    snprintf(me.uri, sizeof me.uri, "mongodb://127.0.0.1:%u/?connectTimeoutMS=400", hole.port);
    me.opts.uri = me.uri;
    lab_run(no_client, &me);
    listener_close(&hole);
}

static void a_name_that_nobody_knows_is_told(void **state)
{
    struct solo me = { .data = (char *)"nowhere.test" };

    (void)state;
    me.opts.uri = "mongodb://nowhere.test:27017/?tls=false";
    lab_run(no_client, &me);
}

static void a_certificate_for_another_name_is_refused(void **state)
{
    struct solo me = { .data = (char *)"TLS" };
    const struct private_mongo *s = private_mongo();

    (void)state;
    snprintf(me.uri, sizeof me.uri, "mongodb://other.weir.test:%u/", s->tls_port);
    me.opts.uri = me.uri;
    me.opts.tls_ca = s->ca;
    lab_run(no_client, &me);
}

/* ---- main -------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(documents_are_written_found_changed_and_deleted),
        LAB_EVERY_WAY(a_bulk_write_of_thousands_works),
        LAB_EVERY_WAY(eight_mebibytes_go_up_and_come_back),
        LAB_EVERY_WAY(two_hundred_coroutines_share_four_clients),
        LAB_EVERY_WAY(errors_of_the_server_are_told_and_leave_the_client_well),
        LAB_TCP(a_deadline_cuts_a_call_and_the_client_is_replaced),
        LAB_TCP(after_a_deadline_nothing_is_sent),
        LAB_TCP(a_cancel_cuts_a_call),
        LAB_TCP(a_server_that_is_silent_is_left_after_socketTimeoutMS),
        LAB_TCP(half_a_reply_is_a_lost_connection),
        LAB_TCP(an_idle_client_whose_server_goes_is_closed),
        LAB_TCP(the_librarys_sleep_holds_up_nobody),
        LAB_TCP(a_client_in_two_coroutines_is_an_error_that_names_both),
        LAB_PLAIN_AND_TLS(a_cursor_that_outlived_its_lease_is_refused),
        LAB_TCP(what_a_lease_has_set_ends_with_it),
        LAB_TCP(a_client_that_its_user_destroys_is_noticed),
        LAB_TCP(the_deadline_becomes_the_servers),
        LAB_TCP(of_two_limits_the_shorter_becomes_the_servers),
        LAB_TCP(a_wrong_password_is_told_and_not_shown),
        LAB_TCP(a_server_that_is_not_there_is_told_at_once),
        LAB_TCP(a_black_hole_is_given_up_after_connectTimeoutMS),
        LAB_TCP(a_name_that_nobody_knows_is_told),
        LAB_TCP(a_certificate_for_another_name_is_refused),
    };

    return mongo_main_private(argc, argv, tests);
}
