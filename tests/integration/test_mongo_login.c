/*
 * test_mongo_login.c - ways to log in that are libmongoc's own, over our streams: PLAIN and X.509.
 * SCRAM, which is ours, is in test_mongo_failure.c and test_mongo_set.c.
 *
 * Also what must be on every command of ours, as it is on the library's: the version of the API.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <stdio.h>
#include <string.h>

#define PASSWORD "paper-and-pencil"

enum { CLIENTS = 12 };

static void encrypt(struct mongo_scene *me)
{
    const struct mongo_certs *certs = mongo_certs(0);

    me->server.tls_cert = certs->cert;
    me->server.tls_key = certs->key;
    me->server.tls_clients = certs->ca;
    me->opts.tls_ca = certs->ca;
}

/* Several clients are connected at the same time, and each logs in once. */
static weir_status log_in(struct mongo_scene *me)
{
    weir_lease  *leases[CLIENTS] = { NULL };
    bson_error_t error = { 0 };
    weir_error   err;

    for (int i = 0; i < CLIENTS; i++)
        lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &leases[i], &err), &err);
    for (int i = 0; i < CLIENTS; i++) {
        need_mongo(mongo_find(weir_mongo(leases[i]), "db", 0, &error) == 3, error);
        need_mongo(mongo_insert(weir_mongo(leases[i]), "db", i, &error), error);
        lab_equal(weir_release(leases[i]), WEIR_OK);
    }
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).logins, CLIENTS);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).denied, 0);
    return WEIR_OK;
}

struct verdict {
    unsigned proofs; /* of a password that the server got in an attempt */
};

/* One clear error, in time, and no storm of attempts. */
static weir_status is_refused(struct mongo_scene *me)
{
    const struct verdict *verdict = me->arg;
    weir_lease           *lease = NULL;
    weir_error            err = { 0 };

    double start = lab_now_ms();
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_took(lab_now_ms() - start, 0, 500);
    lab_tell("%s", err.message);
    lab_says(err.message, "uthentication failed");
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    lab_equal(lab_stats(me->pool).opened, 0);
    lab_equal(lab_stats(me->pool).connect_failures, 1);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).proofs, verdict->proofs);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).logins, 0);
    return WEIR_OK;
}

static void run(struct mongo_scene *me, const struct lab_way *way)
{
    if (way->tls && !me->opts.tls_ca)
        encrypt(me);
    me->opts.pool.max_size = CLIENTS;
    lab_secret(PASSWORD);
    mongo_scene_run(me);
    lab_secret("");
}

/* ---- PLAIN ------------------------------------------------------------------------- */

#define PLAIN "authMechanism=PLAIN&authSource=$external"

static const struct mongo_mock_opts plain = { .user = "weir", .password = PASSWORD,
                                              .mechanisms = MOCK_PLAIN, .strict = true };

static void a_password_is_sent_as_it_is_where_that_is_asked_for(void **state)
{
    run(&(struct mongo_scene){ .server = plain, .options = PLAIN, .body = log_in }, *state);
}

static void a_wrong_password_in_clear_is_refused(void **state)
{
    struct mongo_mock_opts other = plain;

    other.password = "something else";
    run(&(struct mongo_scene){ .server = other, .options = PLAIN, .user = "weir",
                               .password = PASSWORD, .body = is_refused,
                               .arg = &(struct verdict){ .proofs = 1 } }, *state);
}

static weir_status is_silent(struct mongo_scene *me)
{
    weir_lease *lease = NULL;
    weir_error  err = { 0 };

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "saslStart",
                                                      .deed = MOCK_SILENT });
    double start = lab_now_ms();
    WEIR_DEADLINE(weir_in_ms(300));
    lab_equal(weir_acquire(me->pool, WEIR_SCOPE, &lease, &err), WEIR_TIMEOUT);
    lab_took(lab_now_ms() - start, 295, 500);
    return WEIR_OK;
}

static void a_login_of_the_librarys_that_nobody_answers_is_left_in_time(void **state)
{
    run(&(struct mongo_scene){ .server = plain, .options = PLAIN, .body = is_silent }, *state);
}

/* ---- X.509 ------------------------------------------------------------------------- */

#define X509 "authMechanism=MONGODB-X509&authSource=$external"

static const struct mongo_mock_opts by_certificate = { .user = "CN=client", .strict = true,
                                                       .mechanisms = MOCK_X509 };

static struct mongo_scene x509_scene(weir_status (*body)(struct mongo_scene *))
{
    struct mongo_scene me = { .server = by_certificate, .options = X509, .body = body };

    encrypt(&me);
    me.opts.tls_cert_key = mongo_certs(0)->client;
    return me;
}

/* The user is whom the certificate names, whether or not the URI says so. */
static void a_certificate_logs_in_whom_it_names(void **state)
{
    struct mongo_scene me = x509_scene(log_in);

    run(&me, *state);
    me = x509_scene(log_in);
    me.user = "";
    run(&me, *state);
}

/* So does it where hello says nothing of the login. */
static void a_certificate_logs_in_without_speculation(void **state)
{
    struct mongo_scene me = x509_scene(log_in);

    me.server.no_speculation = true;
    run(&me, *state);
}

static void a_certificate_in_another_name_is_refused(void **state)
{
    struct mongo_scene me = x509_scene(is_refused);

    me.server.user = "CN=somebody else";
    me.arg = &(struct verdict){ .proofs = 0 };
    run(&me, *state);
}

static weir_status handshake_fails(struct mongo_scene *me)
{
    weir_lease *lease = NULL;
    weir_error  err = { 0 };

    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    lab_says(err.message, "unknown ca");
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).logins, 0);
    return WEIR_OK;
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
    struct mongo_scene me = x509_scene(handshake_fails);

    me.opts.tls_cert_key = mongo_certs(0)->impostor;
    run(&me, *state);
}

/* ---- the version of the API -------------------------------------------------------- */

/* Hello, login, and the abort of a transaction are ours, or the library's: all have it. */
static weir_status leave_a_transaction(struct mongo_scene *me)
{
    bson_error_t error = { 0 };
    bson_t       row = BSON_INITIALIZER, opts = BSON_INITIALIZER;

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    mongoc_client_t         *client = weir_mongo(me->lease);
    mongoc_collection_t     *c = mongoc_client_get_collection(client, "db", "lab");
    mongoc_client_session_t *session = mongoc_client_start_session(client, NULL, &error);
    need_mongo(session && mongoc_client_session_start_transaction(session, NULL, &error) &&
                   mongoc_client_session_append(session, &opts, &error) &&
                   mongoc_collection_insert_one(c, &row, &opts, NULL, &error), error);
    mongoc_collection_destroy(c);
    bson_destroy(&row);
    bson_destroy(&opts);
    if (mongo_lease(me) != WEIR_OK) /* which aborts it */
        return WEIR_FAILED;
    lab_equal(mongo_mock_seen(me->mock, MOCK_EVERY, "abortTransaction"), 1);
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_RESET_FAILED], 0);
    lab_equal(lab_stats(me->pool).opened, 1);
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    mongoc_client_session_destroy(session); /* while its client lives */
    return WEIR_OK;
}

static struct mongo_scene api_scene(void)
{
    return (struct mongo_scene){
        .server = { .members = 3, .user = "weir", .password = PASSWORD, .strict = true,
                    .with_api = true },
        .opts = { .api_version = "1", .api_strict = true, .api_deprecation_errors = true },
        .body = leave_a_transaction,
    };
}

static void every_command_names_the_version_of_the_api(void **state)
{
    struct mongo_scene me = api_scene();
    run(&me, *state);
}

static weir_status is_told(struct mongo_scene *me)
{
    weir_lease *lease = NULL;
    weir_error  err = { 0 };

    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    return WEIR_OK;
}

/* The server of the last test would not have had it otherwise. */
static void without_it_such_a_server_talks_to_nobody(void **state)
{
    struct mongo_scene me = api_scene();

    me.opts.api_strict = false;
    me.body = is_told;
    run(&me, *state);
}

/* ---- main -------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_PLAIN_AND_TLS(a_password_is_sent_as_it_is_where_that_is_asked_for),
        LAB_PLAIN_AND_TLS(a_wrong_password_in_clear_is_refused),
        LAB_TCP(a_login_of_the_librarys_that_nobody_answers_is_left_in_time),
        LAB_TCP(a_certificate_logs_in_whom_it_names),
        LAB_TCP(a_certificate_logs_in_without_speculation),
        LAB_TCP(a_certificate_in_another_name_is_refused),
        LAB_TCP(a_certificate_of_another_authority_is_refused),
        LAB_TCP(every_command_names_the_version_of_the_api),
        LAB_TCP(without_it_such_a_server_talks_to_nobody),
    };
    return mongo_main(argc, argv, tests);
}
