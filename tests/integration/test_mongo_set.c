/*
 * test_mongo_set.c - weir::mongo against a server that does what it is told: replica sets,
 * elections, logins, members that are gone or mute, answers that are wrong.
 *
 * The server is the tests' own (support/mongo_mock.h), so none needs to be installed.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENTS = 50 };

/* A mock, a pool on it, one lease, one body. */
struct scene {
    struct mongo_mock_opts server;
    const char            *options; /* of the URI */
    weir_mongo_opts        opts;
    bool                   one_seed; /* the URI names member 0 only */
    weir_status (*body)(mongoc_client_t *client, struct scene *me);
    weir_status (*before)(struct scene *me); /* instead: it leases for itself */
    char               uri[400];
    struct mongo_mock *mock;
    weir_pool         *pool;
    weir_lease        *lease;
};

static weir_status play(void *arg)
{
    struct scene *me = arg;
    weir_error    err;
    weir_status   st = WEIR_OK;
    weir_autoptr(weir_pool) pool = NULL;

    lab_need_ok(weir_mongo_pool_new(&me->opts, &pool, &err), &err);
    me->pool = pool;
    if (me->before) {
        st = me->before(me);
    } else {
        lab_need_ok(weir_acquire(pool, lab_patience(10000), &me->lease, &err), &err);
        st = me->body(weir_mongo(me->lease), me);
    }
    if (me->lease)
        lab_equal(weir_release(me->lease), WEIR_OK);
    lab_pool_end(&pool);
    return st;
}

/* Under a tool everything takes longer, and the keys of a login most of all. */
static void start(struct scene *me)
{
    const char *own = me->options ? me->options : "";
    int         ms = (int)(2000 * detect_slowness());
    char        options[200];
    weir_error  err;

    assert_int_equal(weir_budget_set(NULL, &err), WEIR_OK);
    if (strstr(own, "connectTimeoutMS"))
        snprintf(options, sizeof options, "%s", own);
    else
        snprintf(options, sizeof options, "connectTimeoutMS=%d%s%s", ms, *own ? "&" : "", own);
    me->opts.pool.connect_timeout_ms = 10 * ms;
    me->mock = mongo_mock_start(&me->server);
    assert_non_null(me->mock);
    if (me->one_seed)
        snprintf(me->uri, sizeof me->uri, "mongodb://127.0.0.1:%u/?replicaSet=weir&%s",
                 mongo_mock_port(me->mock, 0), options);
    else
        mongo_mock_uri(me->mock, me->uri, sizeof me->uri, options);
    me->opts.uri = me->uri;
}

static void run(struct scene *me)
{
    start(me);
    lab_run(play, me);
    mongo_mock_stop(me->mock);
}

/* ---- what the bodies do again and again -------------------------------------------- */

static weir_budget_stats budget(void)
{
    weir_budget_stats stats;

    weir_budget_read(&stats);
    return stats;
}

static weir_status lease_another(struct scene *me)
{
    weir_error err;

    if (me->lease)
        lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    return WEIR_OK;
}

/* ---- descriptors ------------------------------------------------------------------- */

static weir_status members(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    weir_lease  *other;

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(budget().used, 3);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).open, 3);
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &other, &err), &err);
    lab_equal(budget().used, 6);
    lab_equal(weir_lease_close(other), WEIR_OK);
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_equal(budget().used, 3);
    return WEIR_OK;
}

static void a_client_pays_for_a_socket_to_every_member(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .body = members });
}

static void members_that_are_found_later_are_paid_for_too(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .one_seed = true, .body = members });
}

static weir_status direct(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(budget().used, 1);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).open, 1);
    return WEIR_OK;
}

static void a_direct_client_has_one_socket(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .one_seed = true, .opts.direct = true,
                         .body = direct });
}

/* In a coroutine that holds none: one that held some would be told of a deadlock. */
static weir_status waits_in_vain(void *arg)
{
    struct scene *me = arg;
    weir_lease   *lease;
    weir_error    err;

    lab_equal(weir_acquire(me->pool, lab_patience(500), &lease, &err), WEIR_TIMEOUT);
    lab_check(lab_logged("no descriptors left to promise this pool 3") ||
              strstr(err.message, "no descriptors left to promise this pool 3"));
    return WEIR_OK;
}

static weir_status too_few(struct scene *me)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_budget_set(&(weir_budget_opts){ .limit = 2 }, &err), &err);
    /* One seed, one promised; the second member is paid for, the third cannot be. The client
       works without it, and now it is known that three are needed. */
    double began = lab_now_ms();
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    lab_took(lab_now_ms() - began, 0, 900);
    lab_equal(budget().used, 2);
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, waits_in_vain, me);
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_equal(budget().used, 2);
    return WEIR_OK;
}

static void too_few_descriptors_are_no_storm(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .one_seed = true, .before = too_few,
                         .options = "connectTimeoutMS=800" });
}

/* ---- members that are gone, and elections ------------------------------------------ */

static weir_status with_a_hole(struct scene *me)
{
    bson_error_t error = { 0 };
    double       began = lab_now_ms();

    mongo_mock_door(me->mock, 1, MOCK_BLACK_HOLE);
    mongo_mock_door(me->mock, 2, MOCK_BLACK_HOLE);
    if (lease_another(me))
        return WEIR_FAILED;
    lab_took(lab_now_ms() - began, 290, 450); /* both at once, not one after the other */
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    lab_equal(budget().used, 1);
    return WEIR_OK;
}

static void two_members_that_are_black_holes_cost_one_time_out(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .before = with_a_hole,
                         .options = "connectTimeoutMS=300" });
}

static weir_status never_used(struct scene *me)
{
    double until = lab_now_ms() + 2000 * detect_slowness();

    lab_check(lab_settle(me->pool, 1, 3000));
    mongo_mock_cut(me->mock, 2);
    while (!lab_stats(me->pool).closed[WEIR_CLOSE_LOST] && lab_now_ms() < until)
        (void)weir_sleep(weir_in_ms(2));
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_LOST], 1);
    lab_check(lab_settle(me->pool, 1, 3000)); /* another one, in its place */
    return WEIR_OK;
}

static void a_member_that_goes_is_noticed_before_the_first_lease(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .before = never_used, .opts.pool.min_idle = 1 });
}

static weir_status election(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    need_mongo(mongo_insert(client, "db", 1, &error), error);
    mongo_mock_elect(me->mock, 1);
    lab_check(!mongo_insert(client, "db", 1, &error));
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_SERVER);
    lab_equal(err.native, 10107);
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);
    double began = lab_now_ms();
    /* The library sleeps before it looks again. */
    need_mongo(mongo_insert(client, "db", 1, &error), error);
    lab_took(lab_now_ms() - began, 0, 700);
    return WEIR_OK;
}

static void an_election_is_followed_by_the_same_client(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .body = election });
}

static weir_status loses_a_member(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(budget().used, 3);
    mongo_mock_door(me->mock, 2, MOCK_REFUSES);
    mongo_mock_cut(me->mock, 2);
    (void)weir_sleep(weir_in_ms(600)); /* the heartbeat is due: the next call says hello first */
    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(budget().used, 2); /* while the lease goes on */
    lab_equal(lab_stats(me->pool).opened, 1);
    return WEIR_OK;
}

static void a_member_that_is_gone_is_not_paid_for_any_more(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .body = loses_a_member,
                         .options = "heartbeatFrequencyMS=500" });
}

/* libmongoc before 1.24.3 hangs its thread where it finds a server gone while its heartbeat is
   due, and its initiator returns NULL. */
static weir_status gone(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    mongo_mock_door(me->mock, 0, MOCK_REFUSES);
    mongo_mock_cut(me->mock, 0);
    (void)weir_sleep(weir_in_ms(600));
    double began = lab_now_ms();
    lab_check(mongo_find(client, "db", 0, &error) < 0);
    lab_took(lab_now_ms() - began, 0, 700);
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_LOST);
    mongo_mock_door(me->mock, 0, MOCK_OPEN);
    if (lease_another(me))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static void a_server_that_goes_while_its_heartbeat_is_due_hangs_nobody(void **state)
{
    (void)state;
    run(&(struct scene){ .body = gone, .options = "heartbeatFrequencyMS=500" });
}

static weir_status rests(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    (void)weir_sleep(weir_in_ms(1200)); /* the library asks whether it was closed */
    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).accepted, 1);
    mongo_mock_cut(me->mock, 0);
    (void)weir_sleep(weir_in_ms(1200));
    need_mongo(mongo_find(client, "db", 0, &error) == 3, error); /* and connects again if so */
    return WEIR_OK;
}

static void a_lease_may_rest_between_its_calls(void **state)
{
    (void)state;
    run(&(struct scene){ .body = rests });
}

/* ---- answers that are wrong -------------------------------------------------------- */

static weir_status wrong_answer(mongoc_client_t *client, struct scene *me, enum mock_deed deed,
                                const char *words)
{
    bson_error_t error = { 0 };
    weir_error   err;

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "insert", .deed = deed,
                                                      .times = 1 });
    lab_check(!mongo_insert(client, "db", 1, &error));
    lab_equal(weir_lease_error(me->lease, &err), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_says(err.message, words);
    if (lease_another(me))
        return WEIR_FAILED;
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_LOST], 1);
    need_mongo(mongo_insert(weir_mongo(me->lease), "db", 1, &error), error);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_OK);
    return WEIR_OK;
}

static weir_status stray(mongoc_client_t *client, struct scene *me)
{
    return wrong_answer(client, me, MOCK_STRAY, "answered another request");
}

static void an_answer_to_another_request_is_not_believed(void **state)
{
    (void)state;
    run(&(struct scene){ .body = stray });
}

static weir_status half(mongoc_client_t *client, struct scene *me)
{
    return wrong_answer(client, me, MOCK_HALF, "closed the connection");
}

static void half_an_answer_leaves_the_outcome_unknown(void **state)
{
    (void)state;
    run(&(struct scene){ .body = half });
}

static weir_status close_instead(mongoc_client_t *client, struct scene *me)
{
    return wrong_answer(client, me, MOCK_CLOSE, "closed the connection");
}

static void a_connection_closed_instead_leaves_the_outcome_unknown(void **state)
{
    (void)state;
    run(&(struct scene){ .body = close_instead });
}

static weir_status pieces(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .deed = MOCK_PIECES });
    for (int i = 0; i < 5; i++)
        need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static void an_answer_in_pieces_is_put_together(void **state)
{
    (void)state;
    run(&(struct scene){ .body = pieces, .opts.api_version = "1" });
}

static weir_status silence(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "find", .deed = MOCK_SILENT });
    double began = lab_now_ms();
    lab_check(mongo_find(client, "db", 0, &error) < 0);
    lab_took(lab_now_ms() - began, 195, 260);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_TIMEOUT);
    return WEIR_OK;
}

static void query_timeout_ms_is_the_librarys_socketTimeoutMS(void **state)
{
    (void)state;
    run(&(struct scene){ .body = silence, .opts.pool.query_timeout_ms = 200,
                         .options = "retryReads=true" });
}

static weir_status big(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    mongo_mock_data(me->mock, 4000, 16000);
    double began = lab_now_ms();
    /* 64 MB; the ticker looks at the hub. */
    need_mongo(mongo_find(client, "db", 0, &error) == 4000, error);
    lab_tell("64 MB in %.0f ms", lab_now_ms() - began);
    return WEIR_OK;
}

/* libmongoc copies a reply in one go, and nothing above it can break that up. What can be kept
   out of the picture is the kernel, which takes longer to find 16 MiB of zeroed pages. */
static void keep_memory_warm(void)
{
    void *block[4];

    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    for (int i = 0; i < 4; i++) {
        block[i] = malloc((size_t)20 << 20);
        assert_non_null(block[i]);
        memset(block[i], 1, (size_t)20 << 20);
    }
    for (int i = 0; i < 4; i++)
        free(block[i]);
}

static void big_replies_leave_the_hub_to_others(void **state)
{
    (void)state;
    keep_memory_warm();
    run(&(struct scene){ .body = big });
}

/* ---- logging in -------------------------------------------------------------------- */

struct crowd {
    struct scene *scene;
    unsigned      have;
};

static weir_status one_of_many(void *arg)
{
    struct crowd *crowd = arg;
    bson_error_t  error = { 0 };
    weir_error    err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(crowd->scene->pool, lab_patience(20000), &lease, &err), &err);
    crowd->have++;
    while (crowd->have < CLIENTS)
        if (weir_sleep(weir_in_ms(2)) != WEIR_OK)
            return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(lease), "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static weir_status many(struct scene *me)
{
    struct crowd crowd = { .scene = me };
    weir_error   err;
    double       began = lab_now_ms();
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < CLIENTS; i++)
        weir_spawn(group, one_of_many, &crowd);
    lab_equal(weir_group_wait(group, lab_patience(20000)), WEIR_OK);
    lab_tell("%d clients logged in and used: %.0f ms", CLIENTS, lab_now_ms() - began);

    struct mock_counts seen = mongo_mock_counts(me->mock, MOCK_EVERY);
    lab_equal(seen.logins, CLIENTS); /* at the primary alone: an arbiter knows nobody */
    lab_equal(mongo_mock_counts(me->mock, 0).logins, CLIENTS);
    lab_equal(seen.denied, 0);
    lab_equal(seen.metadata_again, 0);
    return WEIR_OK;
}

static void many_clients_log_in_once_each_and_only_where_they_are_used(void **state)
{
    (void)state;
    run(&(struct scene){ .server = { .members = 3, .arbiter = true, .user = "weir",
                                     .password = "pencil", .rounds = 15000, .strict = true },
                         .opts.pool = { .max_size = CLIENTS, .max_connecting = 8 },
                         .before = many });
}

static weir_status refused(struct scene *me)
{
    weir_error  err;
    weir_lease *lease;

    lab_equal(weir_acquire(me->pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_equal(err.native, 18);
    lab_says(err.message, "uthentication");
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).proofs, 1); /* not again and again */
    return WEIR_OK;
}

static void a_wrong_password_is_sent_once(void **state)
{
    struct scene me = { .server = { .user = "weir", .password = "pencil", .strict = true },
                        .before = refused, .options = "retryReads=true" };
    char *at;

    (void)state;
    start(&me);
    at = strstr(me.uri, "pencil");
    assert_non_null(at);
    memcpy(at, "crayon", 6);
    lab_secret("crayon");
    lab_run(play, &me);
    lab_secret("");
    mongo_mock_stop(me.mock);
}

static void libmongoc_can_log_in_itself(void **state)
{
    (void)state;
    lab_accept_stillness(); /* it derives its key on the hub, which that option accepts */
    run(&(struct scene){ .server = { .user = "weir", .password = "pencil", .strict = true },
                         .opts.library_scram = true, .body = rests });
}

/* ---- sessions, and clients that are over ------------------------------------------- */

static weir_status uses_a_session(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    (void)me;
    /* In a session of the library's own. */
    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static void count_farewells(bool asked, unsigned expected)
{
    struct scene me = { .opts.end_sessions = asked, .body = uses_a_session };

    start(&me);
    lab_run(play, &me);
    assert_int_equal(mongo_mock_seen(me.mock, MOCK_EVERY, "endSessions"), expected);
    mongo_mock_stop(me.mock);
}

static void sessions_are_ended_on_request_only(void **state)
{
    (void)state;
    count_farewells(false, 0);
    count_farewells(true, 1);
}

static weir_status mute_farewell(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "endSessions",
                                                      .deed = MOCK_SILENT });
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    double began = lab_now_ms();
    lab_equal(weir_pool_close(me->pool, lab_patience(5000)), WEIR_OK);
    lab_took(lab_now_ms() - began, 90, 200);
    return WEIR_OK;
}

static void a_farewell_that_nobody_answers_ends_in_time(void **state)
{
    (void)state;
    run(&(struct scene){ .opts = { .end_sessions = true, .pool.close_timeout_ms = 100 },
                         .body = mute_farewell });
}

static weir_status after_its_end(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    lab_equal(weir_lease_close(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    unsigned before = mongo_mock_counts(me->mock, MOCK_EVERY).commands;
    lab_check(mongo_find(client, "db", 0, &error) < 0);
    lab_check(!mongo_insert(client, "db", 1, &error));
    lab_check(lab_logged("which was discarded: last leased at test_mongo_set.c") >= 1);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).commands, before);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).open, 0);
    return WEIR_OK;
}

static void a_client_that_was_discarded_is_refused(void **state)
{
    (void)state;
    run(&(struct scene){ .body = after_its_end });
}

/* Its stream went before it, so that no stream can tell. */
static weir_status destroyed_when_lost(mongoc_client_t *client, struct scene *me)
{
    unsigned     logged = lab_logged("leased at test_mongo_set.c");
    bson_error_t error = { 0 };
    weir_error   err;

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "find", .deed = MOCK_CLOSE,
                                                      .times = 1 });
    lab_check(mongo_find(client, "db", 0, &error) < 0);
    lab_says(error.message, "Failed to read"); /* its stream is gone, and no other is there */
    mongoc_client_destroy(client);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_USAGE);
    lab_says(err.message, "mongoc_client_destroy() was called on a lease's client");
    lab_equal(lab_logged("leased at test_mongo_set.c"), logged + 1);
    lab_check(!weir_mongo(me->lease));
    if (lease_another(me))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_BROKEN], 1);
    return WEIR_OK;
}

/* Its farewell to the server fails meanwhile, and takes the stream with it. */
static weir_status destroyed_in_a_silence(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    need_mongo(mongo_find(client, "db", 0, &error) == 3, error);
    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "endSessions",
                                                      .deed = MOCK_CLOSE });
    mongoc_client_destroy(client);
    lab_equal(mongo_mock_seen(me->mock, 0, "endSessions"), 1);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_USAGE);
    lab_equal(weir_lease_close(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    return WEIR_OK;
}

/* A tombstone: the lease is over, the client was discarded, and only then is it destroyed. */
static weir_status destroyed_after_its_end(mongoc_client_t *client, struct scene *me)
{
    unsigned logged = lab_logged("leased at test_mongo_set.c");

    lab_equal(weir_lease_close(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    mongoc_client_destroy(client);
    lab_equal(lab_logged("leased at test_mongo_set.c"), logged + 1);
    return WEIR_OK;
}

static void a_client_that_its_user_destroys_is_noticed_without_a_stream(void **state)
{
    (void)state;
    run(&(struct scene){ .body = destroyed_when_lost });
    run(&(struct scene){ .body = destroyed_in_a_silence });
    run(&(struct scene){ .body = destroyed_after_its_end });
}

/* ---- two in one client ------------------------------------------------------------- */

static weir_status intrude(void *arg)
{
    bson_error_t error = { 0 };

    (void)weir_sleep(weir_in_ms(40));
    lab_check(mongo_find(arg, "db", 0, &error) < 0);
    return WEIR_OK;
}

static weir_status during_a_scan(mongoc_client_t *client, struct scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    mongo_mock_rule(me->mock, MOCK_EVERY, &(struct mock_rule){ .command = "hello",
                                                               .delay_ms = 150 });
    (void)weir_sleep(weir_in_ms(600)); /* the heartbeat is due: the next call says hello first */
    weir_spawn(group, intrude, client);
    weir_spawn(group, intrude, client);
    /* Whatever comes of it: nobody hangs, and nothing is overrun. */
    (void)mongo_find(client, "db", 0, &error);
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    if (lease_another(me))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static void intruders_in_the_middle_of_a_scan_are_refused(void **state)
{
    (void)state;
    run(&(struct scene){ .server.members = 3, .body = during_a_scan,
                         .options = "heartbeatFrequencyMS=500" });
}

/* ---- cancelled while it connects --------------------------------------------------- */

static weir_status impatient(struct scene *me)
{
    weir_error  err;
    weir_lease *lease;

    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "hello", .deed = MOCK_SILENT });
    lab_equal(weir_acquire(me->pool, weir_in_ms(50), &lease, &err), WEIR_TIMEOUT);
    double began = lab_now_ms();
    lab_equal(weir_pool_close(me->pool, lab_patience(2000)), WEIR_OK); /* while it connects */
    lab_took(lab_now_ms() - began, 0, 60);
    return WEIR_OK;
}

static void a_pool_is_closed_while_a_client_connects(void **state)
{
    (void)state;
    run(&(struct scene){ .before = impatient, .options = "connectTimeoutMS=5000" });
}

/* ---- main -------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(a_client_pays_for_a_socket_to_every_member),
        LAB_TCP(members_that_are_found_later_are_paid_for_too),
        LAB_TCP(a_direct_client_has_one_socket),
        LAB_TCP(too_few_descriptors_are_no_storm),
        LAB_TCP(two_members_that_are_black_holes_cost_one_time_out),
        LAB_TCP(a_member_that_goes_is_noticed_before_the_first_lease),
        LAB_TCP(an_election_is_followed_by_the_same_client),
        LAB_TCP(a_member_that_is_gone_is_not_paid_for_any_more),
        LAB_TCP(a_server_that_goes_while_its_heartbeat_is_due_hangs_nobody),
        LAB_TCP(a_lease_may_rest_between_its_calls),
        LAB_TCP(an_answer_to_another_request_is_not_believed),
        LAB_TCP(half_an_answer_leaves_the_outcome_unknown),
        LAB_TCP(a_connection_closed_instead_leaves_the_outcome_unknown),
        LAB_TCP(an_answer_in_pieces_is_put_together),
        LAB_TCP(query_timeout_ms_is_the_librarys_socketTimeoutMS),
        LAB_TCP(big_replies_leave_the_hub_to_others),
        LAB_TCP(many_clients_log_in_once_each_and_only_where_they_are_used),
        LAB_TCP(a_wrong_password_is_sent_once),
        LAB_TCP(libmongoc_can_log_in_itself),
        LAB_TCP(sessions_are_ended_on_request_only),
        LAB_TCP(a_farewell_that_nobody_answers_ends_in_time),
        LAB_TCP(a_client_that_was_discarded_is_refused),
        LAB_TCP(a_client_that_its_user_destroys_is_noticed_without_a_stream),
        LAB_TCP(intruders_in_the_middle_of_a_scan_are_refused),
        LAB_TCP(a_pool_is_closed_while_a_client_connects),
    };

    return mongo_main(argc, argv, tests);
}
