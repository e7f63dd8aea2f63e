/*
 * The private MongoDB server as the tests use it: the ways in that the environment names, what
 * is done to its process, and the count of its clients. By stock libmongoc and outside of any
 * hub: what judges weir does not stand on weir.
 */
#define _GNU_SOURCE
#include "private_mongo.h"

#include <mongoc/mongoc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SKIPPED = 77, WAYS = 3 };

/* A URI for the way: TCP, TLS by address, Unix socket. */
static void uri_by(int way, char *out, size_t size)
{
    const struct private_mongo *s = private_mongo();
    char                        path[256] = "";

    for (const char *c = s->socket; *c; c++)
        snprintf(path + strlen(path), sizeof path - strlen(path), *c == '/' ? "%%2F" : "%c", *c);
    if (way == 0)
        snprintf(out, size, "%s", s->uri);
    else if (way == 1)
        snprintf(out, size, "mongodb://%s:%s@%s:%u/?authSource=%s&tls=true&tlsCAFile=%s", s->user,
                 s->password, s->host, s->tls_port, s->auth_source, s->ca);
    else
        snprintf(out, size, "mongodb://%s:%s@%s/?authSource=%s", s->user, s->password, path,
                 s->auth_source);
}

static mongoc_client_t *client_by(int way)
{
    char uri[600];
    uri_by(way, uri, sizeof uri);
    mongoc_client_t *client = mongoc_client_new(uri);
    assert_non_null(client);
    return client;
}

static mongoc_collection_t *runs_of(mongoc_client_t *client)
{
    return mongoc_client_get_collection(client, private_mongo()->database, "runs");
}

/* Documents { run: getpid() } there are, or -1. */
static long count(mongoc_client_t *client)
{
    mongoc_collection_t *c = runs_of(client);
    bson_t               filter = BSON_INITIALIZER;
    bson_error_t         err;

    BSON_APPEND_INT32(&filter, "run", getpid());
    long n = (long)mongoc_collection_count_documents(c, &filter, NULL, NULL, NULL, &err);
    bson_destroy(&filter);
    mongoc_collection_destroy(c);
    return n;
}

static void insert(mongoc_client_t *client)
{
    mongoc_collection_t *c = runs_of(client);
    bson_t               document = BSON_INITIALIZER;
    bson_error_t         err;

    BSON_APPEND_INT32(&document, "run", getpid());
    if (!mongoc_collection_insert_one(c, &document, NULL, NULL, &err))
        fail_msg("insert: %s", err.message);
    bson_destroy(&document);
    mongoc_collection_destroy(c);
}

static long settled_connections(long wanted)
{
    for (int i = 0; i < 2000 && private_mongo_connections() != wanted; i++)
        usleep(1000);
    return private_mongo_connections();
}

static void every_way_in_leads_to_the_same_server(void **state)
{
    (void)state;
    for (int way = 0; way < WAYS; way++) {
        mongoc_client_t *client = client_by(way);
        insert(client);
        assert_int_equal(count(client), way + 1);
        mongoc_client_destroy(client);
    }
}

static void clients_are_counted_whatever_way_they_came(void **state)
{
    mongoc_client_t *client[WAYS];
    long             before = settled_connections(0);
    (void)state;

    for (int way = 0; way < WAYS; way++) {
        client[way] = client_by(way);
        assert_true(count(client[way]) >= 0);
        assert_int_equal(private_mongo_connections(), before + way + 1);
    }
    for (int way = 0; way < WAYS; way++) {
        mongoc_client_destroy(client[way]);
        assert_int_equal(settled_connections(before + WAYS - way - 1), before + WAYS - way - 1);
    }
}

static void it_comes_back_with_its_data_after_a_kill(void **state)
{
    mongoc_client_t *client = client_by(0);
    pid_t            pid = private_mongo_pid();
    (void)state;

    insert(client);
    long before = count(client);
    mongoc_client_destroy(client);

    private_mongo_kill();
    client = client_by(0);
    assert_int_equal(count(client), -1);
    mongoc_client_destroy(client);
    assert_int_equal(private_mongo_connections(), 0);

    assert_true(private_mongo_restart());
    assert_int_not_equal(private_mongo_pid(), pid);
    client = client_by(0);
    assert_int_equal(count(client), before);
    mongoc_client_destroy(client);
}

static void it_can_be_stopped_for_a_while(void **state)
{
    char uri[700];
    (void)state;

    uri_by(0, uri, sizeof uri);
    strcat(uri, "&connectTimeoutMS=300&socketTimeoutMS=300");
    private_mongo_stop();
    mongoc_client_t *client = mongoc_client_new(uri);
    assert_int_equal(count(client), -1);
    mongoc_client_destroy(client);
    private_mongo_go_on();
    client = client_by(0);
    assert_true(count(client) >= 0);
    mongoc_client_destroy(client);
    assert_true(private_mongo_revive());
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_in_leads_to_the_same_server),
        cmocka_unit_test(clients_are_counted_whatever_way_they_came),
        cmocka_unit_test(it_comes_back_with_its_data_after_a_kill),
        cmocka_unit_test(it_can_be_stopped_for_a_while),
    };

    if (!private_mongo()) {
        printf("skipped: no private MongoDB server (WEIR_MONGO_PORT is not set; script/test sets"
               " it)\n");
        return SKIPPED;
    }
    if (!private_mongo_revive())
        return 2;
    mongoc_init();
    mongoc_log_set_handler(NULL, NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mongoc_cleanup();
    return failed;
}
