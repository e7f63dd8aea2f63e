/*
 * test_mongo_failure.c - servers that cannot be reached, do not let us in, or are not who they
 * say: one clear error each, in time, without the password, and nothing is left behind.
 *
 * (A wrong password, a black hole, an unknown name and a certificate of another name against the
 * private server are in test_mongo_api.c.)
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <relay.h>
#include <stdio.h>
#include <string.h>

#define PASSWORD "pencil-and-paper"

/* What a caller must hear. */
struct verdict {
    const char *words;
    int         native; /* 0: whatever it is */
    double      within_ms;
    unsigned    proofs; /* of the password that the server got */
};

/* One caller gets the error from the attempt, and the next, at once, the same. */
static weir_status expect_refusal(struct mongo_scene *me)
{
    const struct verdict *v = me->arg;
    weir_lease           *lease = NULL;
    weir_error            err = { 0 };

    double start = lab_now_ms();
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_took(lab_now_ms() - start, 0, v->within_ms);
    lab_tell("%s", err.message);
    lab_says(err.message, v->words);
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    if (v->native)
        lab_equal(err.native, v->native);

    err.message[0] = '\0';
    start = lab_now_ms();
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_took(lab_now_ms() - start, 0, 80);
    lab_says(err.message, v->words);

    /* No storm of attempts: on a busy machine the next one has become due, after 0.1 s. */
    lab_between(lab_stats(me->pool).connect_failures, 1, 2);
    lab_equal(lab_stats(me->pool).opened, 0);
    lab_between(mongo_mock_counts(me->mock, MOCK_EVERY).proofs, v->proofs, 2 * v->proofs);
    return WEIR_OK;
}

static void refused(struct mongo_scene me, struct verdict verdict)
{
    me.body = expect_refusal;
    me.arg = &verdict;
    lab_secret(PASSWORD);
    mongo_scene_run(&me);
    lab_secret("");
}

/* ---- signs of life ----------------------------------------------------------------- */

static weir_status rest_and_be_pinged(struct mongo_scene *me)
{
    bson_error_t error;

    lab_equal(mongo_lease(me), WEIR_OK);
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    unsigned before = mongo_mock_seen(me->mock, MOCK_EVERY, "ping");
    (void)weir_sleep(weir_in_ms(500));
    lab_check(lab_settle(me->pool, 1, 1000));
    lab_check(lab_stats(me->pool).pings >= 5);
    lab_check(mongo_mock_seen(me->mock, MOCK_EVERY, "ping") - before >= 5);

    /* It is as good as before, and knows of no transaction or failure. */
    lab_equal(mongo_lease(me), WEIR_OK);
    need_mongo(mongo_insert(weir_mongo(me->lease), "shop", 1, &error), error);
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_equal(lab_stats(me->pool).opened, 1);
    lab_equal(lab_stats(me->pool).resets, 0);

    /* And then the server says nothing any more. */
    mongo_mock_rule(me->mock, MOCK_EVERY, &(struct mock_rule){ .command = "ping",
                                                               .deed = MOCK_SILENT });
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_PING_FAILED], 1);
    mongo_mock_forget(me->mock);
    lab_equal(mongo_lease(me), WEIR_OK);
    return WEIR_OK;
}

static void be_pinged(unsigned members)
{
    struct mongo_scene me = { .server = { .members = members }, .body = rest_and_be_pinged };

    me.opts.pool.max_size = 1;
    me.opts.pool.keepalive_ms = 50;
    me.opts.pool.reset_timeout_ms = 300;
    mongo_scene_run(&me);
}

static void an_idle_client_is_pinged_and_one_that_is_silent_replaced(void **state)
{
    (void)state;
    be_pinged(1);
}

static void so_is_one_of_a_replica_set(void **state)
{
    (void)state;
    be_pinged(3);
}

/* ---- who we are -------------------------------------------------------------------- */

static const struct mongo_mock_opts guarded = { .user = "weir", .password = PASSWORD,
                                                .strict = true };

static void a_wrong_password_is_refused_by_the_server(void **state)
{
    struct mongo_mock_opts other = guarded;

    (void)state;
    other.password = "something else";
    refused((struct mongo_scene){ .server = other, .user = "weir", .password = PASSWORD },
            (struct verdict){ "uthentication", .native = 18, .within_ms = 500, .proofs = 1 });
}

static void an_unknown_user_is_refused_by_the_server(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = guarded, .user = "nobody", .password = PASSWORD },
            (struct verdict){ "authentication of 'nobody'", .native = 18, .within_ms = 500 });
}

static weir_status make_no_pool(void *arg)
{
    weir_mongo_opts opts = { .uri = arg };
    weir_error      err;
    weir_pool      *pool;

    lab_equal(weir_mongo_pool_new(&opts, &pool, &err), WEIR_USAGE);
    lab_says(err.message, "300 bytes");
    lab_says(err.message, "create a user with a shorter name");
    return WEIR_OK;
}

static void a_users_name_that_is_too_long_is_refused_when_the_pool_is_made(void **state)
{
    char uri[400], name[301];

    (void)state;
    memset(name, 'n', 300);
    name[300] = '\0';
    snprintf(uri, sizeof uri, "mongodb://%s:" PASSWORD "@127.0.0.1:1/", name);
    lab_secret(PASSWORD);
    lab_run(make_no_pool, uri);
    lab_secret("");
}

/* ---- who the server is ------------------------------------------------------------- */

static void tricked(enum mock_trick trick, const char *words, unsigned proofs)
{
    struct mongo_mock_opts server = guarded;

    server.trick = trick;
    refused((struct mongo_scene){ .server = server },
            (struct verdict){ words, .within_ms = 500, .proofs = proofs });
}

static void a_server_that_does_not_know_the_password_is_not_believed(void **state)
{
    (void)state;
    tricked(MOCK_BAD_SIGNATURE, "signature", 1);
    tricked(MOCK_NO_SIGNATURE, "authentication", 1);
    tricked(MOCK_DONE_EARLY, "done before it has proven", 0);
    tricked(MOCK_SASL_ERROR, "other-error", 1);
}

static void a_nonce_that_is_not_ours_gets_no_proof(void **state)
{
    (void)state;
    tricked(MOCK_OTHER_NONCE, "nonce", 0);
    tricked(MOCK_EXTENSION, "authentication", 0);
}

static void rounds(unsigned number)
{
    struct mongo_mock_opts server = guarded;
    char                   words[20];

    server.rounds = number;
    snprintf(words, sizeof words, "%u", number);
    refused((struct mongo_scene){ .server = server },
            (struct verdict){ words, .within_ms = 200, .proofs = 0 });
}

static void too_few_rounds_and_too_many_get_no_proof(void **state)
{
    (void)state;
    rounds(1);
    rounds(1000000000);
}

static void a_server_that_falls_silent_in_a_login_is_left_in_time(void **state)
{
    struct mongo_mock_opts server = guarded;

    (void)state;
    server.trick = MOCK_FALLS_SILENT;
    refused((struct mongo_scene){ .server = server, .options = "connectTimeoutMS=400" },
            (struct verdict){ "connectTimeoutMS", .within_ms = 700, .proofs = 1 });
}

static void encrypted(struct mongo_scene me, const char *ca, const char *words)
{
    const struct mongo_certs *certs = mongo_certs(0);

    me.server = guarded;
    me.server.tls_cert = certs->cert;
    me.server.tls_key = certs->key;
    me.opts.tls_ca = ca;
    refused(me, (struct verdict){ words, .within_ms = 700, .proofs = 0 });
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
    (void)state;
    encrypted((struct mongo_scene){ 0 }, mongo_certs(0)->stranger, "certificate verify failed");
}

static void a_certificate_of_another_name_is_refused(void **state)
{
    (void)state;
    encrypted((struct mongo_scene){ .host = "other.weir.test" }, mongo_certs(0)->ca,
              "hostname mismatch");
}

static void a_server_without_tls_gets_no_password(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = guarded, .opts.tls_ca = mongo_certs(0)->ca,
                                  .options = "connectTimeoutMS=400" },
            (struct verdict){ "does it speak TLS", .within_ms = 700, .proofs = 0 });
}

/*
 * A seed on this machine, and a set that says it is elsewhere: libmongoc goes where it says. It
 * lets go of the other seeds then, which are none of the set's names, and have not answered yet:
 * they are not to blame.
 */
static void a_member_elsewhere_gets_no_plain_text_that_nobody_asked_for(void **state)
{
    struct verdict     verdict = { "say tls=true, or tls=false, in the URI", .within_ms = 700 };
    struct mongo_scene me = { .server = guarded, .body = expect_refusal, .arg = &verdict };

    (void)state;
    me.server.members = 3;
    me.server.known_as = "db.weir.test";
    mongo_scene_start(&me);
    mongo_mock_rule(me.mock, 0, &(struct mock_rule){ .command = "hello", .delay_ms = 40 });
    mongo_mock_rule(me.mock, 2, &(struct mock_rule){ .command = "hello", .delay_ms = 120 });
    mongo_scene_play(&me);
}

static weir_status finds(struct mongo_scene *me)
{
    bson_error_t error = { 0 };

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static void a_member_elsewhere_gets_plain_text_where_the_uri_says_so(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .server = { .members = 3, .known_as = "db.weir.test" },
                                           .options = "tls=false", .body = finds });
}

static void a_set_of_another_name_is_told_with_the_name_that_was_asked_for(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = { .members = 3, .set_name = "rs7" },
                                  .host = "127.0.0.1" }, /* the lab asks for the set "weir" */
            (struct verdict){ "can be used with replicaSet=weir and readPreference=primary",
                              .within_ms = 700 });
}

/* ---- nobody there ------------------------------------------------------------------ */

static void a_port_where_nobody_listens_is_told_at_once(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = guarded, .port = port_refused() },
            (struct verdict){ "Connection refused", .within_ms = 300 });
}

static void a_server_that_says_nothing_is_left_in_time(void **state)
{
    struct listener silent;

    (void)state;
    assert_true(listener_silent(&silent));
    refused((struct mongo_scene){ .server = guarded, .port = silent.port,
                                  .options = "connectTimeoutMS=400" },
            (struct verdict){ "did not answer a hello within connectTimeoutMS (400)",
                              .within_ms = 600 });
    listener_close(&silent);
}

static void a_host_that_nobody_knows_is_told_by_its_name(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = guarded, .host = "nowhere.test",
                                  .options = "tls=false" },
            (struct verdict){ "nowhere.test", .within_ms = 300 });
}

static void a_resolver_that_hangs_is_left_in_time(void **state)
{
    (void)state;
    refused((struct mongo_scene){ .server = guarded, .host = "a.hang.test",
                                  .options = "tls=false&connectTimeoutMS=400" },
            (struct verdict){ "a.hang.test", .within_ms = 600 });
}

/* ---- main -------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(an_idle_client_is_pinged_and_one_that_is_silent_replaced),
        LAB_TCP(so_is_one_of_a_replica_set),
        LAB_TCP(a_wrong_password_is_refused_by_the_server),
        LAB_TCP(an_unknown_user_is_refused_by_the_server),
        LAB_TCP(a_users_name_that_is_too_long_is_refused_when_the_pool_is_made),
        LAB_TCP(a_server_that_does_not_know_the_password_is_not_believed),
        LAB_TCP(a_nonce_that_is_not_ours_gets_no_proof),
        LAB_TCP(too_few_rounds_and_too_many_get_no_proof),
        LAB_TCP(a_server_that_falls_silent_in_a_login_is_left_in_time),
        LAB_TCP(a_certificate_of_another_authority_is_refused),
        LAB_TCP(a_certificate_of_another_name_is_refused),
        LAB_TCP(a_server_without_tls_gets_no_password),
        LAB_TCP(a_member_elsewhere_gets_no_plain_text_that_nobody_asked_for),
        LAB_TCP(a_member_elsewhere_gets_plain_text_where_the_uri_says_so),
        LAB_TCP(a_set_of_another_name_is_told_with_the_name_that_was_asked_for),
        LAB_TCP(a_port_where_nobody_listens_is_told_at_once),
        LAB_TCP(a_server_that_says_nothing_is_left_in_time),
        LAB_TCP(a_host_that_nobody_knows_is_told_by_its_name),
        LAB_TCP(a_resolver_that_hangs_is_left_in_time),
    };
    return mongo_main(argc, argv, tests);
}
