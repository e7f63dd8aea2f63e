/*
 * test_mongo_traps.c - what libmongoc 1.23 does to a program with one thread for everything, each
 * trap by name, and that nobody falls into it.
 *
 * Those that have their test elsewhere:
 *
 *   the thread that hangs itself where an initiator returns NULL
 *       test_mongo_set.c   a_server_that_goes_while_its_heartbeat_is_due_hangs_nobody
 *   the library's usleep()
 *       test_mongo_api.c   the_librarys_sleep_holds_up_nobody
 *       test_mongo_set.c   an_election_is_followed_by_the_same_client
 *   replies that are not matched with requests
 *       test_mongo_set.c   an_answer_to_another_request_is_not_believed
 *   as many sockets as there are members
 *       test_mongo_set.c   a_client_pays_for_a_socket_to_every_member and those after it
 *
 * lab_run() fails each of them where the hub stood still for 50 ms, or a coroutine made a call
 * that blocks.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <keys.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 100 };

/* Of this thread. */
static double cpu_ms(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec * 1e3 + (double)used.tv_nsec / 1e6;
}

/* ---- the five seconds in which a failed client is of no use ------------------------- */

static weir_status comes_back(struct mongo_scene *me)
{
    bson_error_t error = { 0 };

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    mongo_mock_door(me->mock, 0, MOCK_REFUSES);
    mongo_mock_cut(me->mock, 0);
    (void)weir_sleep(weir_in_ms(20));
    lab_check(mongo_find(weir_mongo(me->lease), "db", 0, &error) < 0);
    lab_check(mongo_find(weir_mongo(me->lease), "db", 0, &error) < 0); /* it looks for a server */
    mongo_mock_door(me->mock, 0, MOCK_OPEN);

    double start = lab_now_ms();
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    lab_took(lab_now_ms() - start, 0, 1000);
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_LOST], 1);
    lab_equal(lab_stats(me->pool).opened, 2);
    return WEIR_OK;
}

static void a_client_in_its_cooldown_is_not_lent_again(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .body = comes_back });
}

/* ---- a reply that comes after its reader has gone ----------------------------------- */

/* The number of the request that this answer was made for; -1: there was none. */
static int64_t asked_as(mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t *c = mongoc_client_get_collection(client, "db", "lab");
    bson_t               all = BSON_INITIALIZER;
    mongoc_cursor_t     *cursor = mongoc_collection_find_with_opts(c, &all, NULL, NULL);
    const bson_t        *document;
    bson_iter_t          at;
    int64_t              number = -1;

    if (mongoc_cursor_next(cursor, &document) && bson_iter_init_find(&at, document, "request"))
        number = bson_iter_as_int64(&at);
    (void)mongoc_cursor_error(cursor, error);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    return number;
}

static weir_status gives_up_reading(struct mongo_scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    mongoc_client_t *client = weir_mongo(me->lease);
    int64_t          before = asked_as(client, &error);
    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "find", .delay_ms = 60,
                                                      .times = 1 });
    {
        WEIR_DEADLINE(weir_in_ms(30));
        lab_equal(asked_as(client, &error), -1);
    }
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_TIMEOUT);
    (void)weir_sleep(weir_in_ms(60)); /* the answer is there by now */
    lab_equal(asked_as(client, &error), -1);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_TIMEOUT);
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    lab_check(asked_as(weir_mongo(me->lease), &error) > 0 && before > 0);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).accepted, 2);
    return WEIR_OK;
}

static void a_reply_nobody_waited_for_is_read_by_nobody(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .body = gives_up_reading });
}

/* ---- a retry of what was cancelled -------------------------------------------------- */

static weir_status is_cancelled(void *arg)
{
    struct mongo_scene *me = arg;
    bson_error_t        error = { 0 };
    weir_error          err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(me->pool, WEIR_SCOPE, &lease, &err), &err);
    double start = lab_now_ms();
    lab_check(mongo_find(weir_mongo(lease), "db", 0, &error) < 0);
    lab_took(lab_now_ms() - start, 0, 200); /* the cancel comes after 100 */
    lab_equal(weir_mongo_error(lease, &error, &err), WEIR_CANCELED);
    return WEIR_OK;
}

static weir_status cancels(struct mongo_scene *me)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    if (lab_warm(me->pool, 1) != WEIR_OK)
        return WEIR_FAILED;
    unsigned greetings = mongo_mock_seen(me->mock, 0, "hello");
    mongo_mock_rule(me->mock, 0, &(struct mock_rule){ .command = "find", .deed = MOCK_SILENT });
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, is_cancelled, me);
    (void)weir_sleep(weir_in_ms(100));
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_equal(mongo_mock_seen(me->mock, 0, "find"), 1);
    lab_equal(mongo_mock_seen(me->mock, 0, "hello"), greetings);
    lab_check(lab_settle(me->pool, 0, 1000));
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_BROKEN], 1);
    return WEIR_OK;
}

static void what_was_cancelled_is_not_tried_again(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .body = cancels, .options = "retryReads=true" });
}

/* ---- a poll that fails, again and again --------------------------------------------- */

static weir_status is_cut_in_a_scan(struct mongo_scene *me)
{
    bson_error_t error = { 0 };
    weir_error   err;

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    (void)weir_sleep(weir_in_ms(600)); /* the heartbeat is due: the next call says hello first */
    mongo_mock_rule(me->mock, MOCK_EVERY, &(struct mock_rule){ .command = "hello",
                                                               .deed = MOCK_SILENT });
    double cpu = cpu_ms(), start = lab_now_ms();
    {
        WEIR_DEADLINE(weir_in_ms(100));
        lab_check(mongo_find(weir_mongo(me->lease), "db", 0, &error) < 0);
    }
    lab_took(lab_now_ms() - start, 95, 250);
    lab_took(cpu_ms() - cpu, 0, 30);
    lab_equal(weir_mongo_error(me->lease, &error, &err), WEIR_TIMEOUT);
    return WEIR_OK;
}

static void a_scan_that_is_cut_ends_and_does_not_spin(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .server.members = 3, .body = is_cut_in_a_scan,
                                           .options = "heartbeatFrequencyMS=500" });
}

/* ---- OCSP, over sockets that block --------------------------------------------------- */

static weir_status meets_responder(struct mongo_scene *me)
{
    bson_error_t error = { 0 };

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);
    int knock = accept4(*(int *)me->arg, NULL, NULL, SOCK_NONBLOCK);
    lab_check(knock < 0);
    if (knock >= 0)
        close(knock);
    return WEIR_OK;
}

/* A socket of 127.0.0.1 that can be knocked at, and never answers. */
static int responder(unsigned *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t          size = sizeof address;
    int                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* Turns away who knocks within three seconds; *arg is a descriptor, and -1 if somebody did. */
static void *turn_away(void *arg)
{
    struct pollfd door = { .fd = *(int *)arg, .events = POLLIN };

    if (poll(&door, 1, 3000) == 1) {
        close(accept(door.fd, NULL, NULL));
        *(int *)arg = -1;
    }
    return NULL;
}

/* The certificate is one for which libmongoc's own TLS asks: else the test would show nothing. */
static void expect_stock_to_ask(const struct mongo_scene *me, int fd)
{
    char         uri[300];
    pthread_t    thread;
    bson_error_t error = { 0 };

    snprintf(uri, sizeof uri, "mongodb://localhost:%u/?tls=true&tlsCAFile=%s",
             mongo_mock_port(me->mock, 0), me->opts.tls_ca);
    mongoc_client_t *stock = mongoc_client_new(uri);
    assert_non_null(stock);
    assert_int_equal(pthread_create(&thread, NULL, turn_away, &fd), 0);
    (void)mongo_ping(stock, &error);
    pthread_join(thread, NULL);
    mongoc_client_destroy(stock);
    assert_int_equal(fd, -1);
}

static void nobody_is_asked_by_ocsp(void **state)
{
    unsigned                  port;
    int                       fd = responder(&port);
    const struct mongo_certs *certs = mongo_certs(port);
    struct mongo_scene        me = { .server = { .tls_cert = certs->cert, .tls_key = certs->key },
                                     .opts.tls_ca = certs->ca,
                                     .body = meets_responder,
                                     .arg = &fd };

    (void)state;
    mongo_scene_start(&me);
    expect_stock_to_ask(&me, fd);
    mongo_scene_play(&me);
    close(fd);
}

/* ---- the hub's time ------------------------------------------------------------------ */

static weir_status log_in_by_the_hundred(struct mongo_scene *me)
{
    struct mo_keys_stats before, after;

    mo_keys_forget(); /* so that the first derivation is in it */
    mo_keys_stats(&before);
    double cpu = cpu_ms(), start = lab_now_ms();
    if (lab_warm(me->pool, CLIENTS) != WEIR_OK)
        return WEIR_FAILED;
    double each = (cpu_ms() - cpu) / CLIENTS;
    lab_tell("%d clients logged in: %.0f ms; of the hub's CPU %.2f ms for each", CLIENTS,
             lab_now_ms() - start, each);
    lab_took(each, 0, me->server.tls_cert ? 1.2 : 0.6); /* by the library: 25. It is 0.3 without
                                                            TLS, in a build to debug */
    mo_keys_stats(&after);
    lab_equal(after.derived - before.derived, 1);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).logins, CLIENTS);
    return WEIR_OK;
}

static void a_hundred_logins_do_not_stop_the_hub(void **state)
{
    const struct lab_way *way = *state;
    struct mongo_scene    me = {
        .server = { .user = "weir", .password = "pencil", .rounds = 15000, .strict = true },
        .opts.pool = { .max_size = CLIENTS, .max_connecting = 8 },
        .body = log_in_by_the_hundred,
    };

    if (way->tls) {
        const struct mongo_certs *certs = mongo_certs(0);
        me.server.tls_cert = certs->cert;
        me.server.tls_key = certs->key;
        me.opts.tls_ca = certs->ca;
    }
    mongo_scene_run(&me);
}

/* The handshake is then the hub's own work: late by a few milliseconds, and done. */
static void block(void *unused)
{
    (void)unused;
    usleep(1400 * 1000);
}

static weir_status keeps_a_thread(void *unused)
{
    (void)unused;
    return weir_offload(block, NULL, WEIR_FOREVER);
}

static weir_status connects_without_threads(struct mongo_scene *me)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_offload_limit(1);
    lab_need(weir_spawn(group, keeps_a_thread, NULL));
    (void)weir_sleep(weir_in_ms(20));
    double start = lab_now_ms();
    if (mongo_lease(me) == WEIR_OK)
        lab_took(lab_now_ms() - start, 0, 400);
    weir_offload_limit(8);
    return weir_group_wait(group, lab_patience(5000));
}

static void threads_that_are_all_busy_keep_nobody_from_connecting(void **state)
{
    const struct mongo_certs *certs = mongo_certs(0);

    (void)state;
    mongo_scene_run(&(struct mongo_scene){
        .server = { .tls_cert = certs->cert, .tls_key = certs->key }, .opts.tls_ca = certs->ca,
        .body = connects_without_threads });
}

struct bystander {
    unsigned turns;
    bool     over;
};

static weir_status take_turns(void *arg)
{
    struct bystander *b = arg;

    while (!b->over && weir_sleep(weir_in_ms(1)) == WEIR_OK)
        b->turns++;
    return WEIR_OK;
}

static weir_status read_authorities(void *arg)
{
    struct bystander b = { 0 };
    weir_error       err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    (void)arg;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, take_turns, &b);
    double start = lab_now_ms();
    lab_need_ok(weir_mongo_pool_new(&(weir_mongo_opts){ .uri = "mongodb://db.weir.test/" }, &pool,
                                    &err), &err);
    lab_tell("the system's authorities: %.0f ms, in which another had %u turns",
             lab_now_ms() - start, b.turns);
    lab_check(b.turns >= 1);
    b.over = true;
    lab_equal(weir_group_wait(group, lab_patience(1000)), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void reading_the_systems_authorities_does_not_stop_the_hub(void **state)
{
    (void)state;
    if (access("/etc/ssl/certs/ca-certificates.crt", R_OK) != 0) {
        lab_tell("skipped: the system has no authorities (package ca-certificates)");
        skip();
    }
    lab_run(read_authorities, NULL);
}

/* ---- transactions that nobody ends --------------------------------------------------- */

/* They outlive their clients and cannot be destroyed then. Volatile, so that a checker of leaks
   finds them here. */
static mongoc_client_session_t *volatile orphans[4];

/* Begin one and insert; the session stays as it is. */
static mongoc_client_session_t *begin_transaction(mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t     *c = mongoc_client_get_collection(client, "db", "lab");
    mongoc_client_session_t *session = mongoc_client_start_session(client, NULL, error);
    bson_t                   document = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    bool ok = session && mongoc_client_session_start_transaction(session, NULL, error) &&
              mongoc_client_session_append(session, &opts, error) &&
              mongoc_collection_insert_one(c, &document, &opts, NULL, error);

    mongoc_collection_destroy(c);
    bson_destroy(&document);
    bson_destroy(&opts);
    if (!ok && session)
        mongoc_client_session_destroy(session);
    return ok ? session : NULL;
}

static unsigned aborts(const struct mongo_scene *me)
{
    return mongo_mock_seen(me->mock, MOCK_EVERY, "abortTransaction");
}

static weir_status leaves_transactions(struct mongo_scene *me)
{
    mongoc_client_session_t *left;
    bson_error_t             error = { 0 };

    /* One that is committed, one that its session's end aborts: nothing is left to us. */
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo((left = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    need_mongo(mongoc_client_session_commit_transaction(left, NULL, &error), error);
    mongoc_client_session_destroy(left);
    need_mongo((left = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    mongoc_client_session_destroy(left);
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(aborts(me), 1);

    /* One that is left: aborted, and the client is lent again. */
    need_mongo((left = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(aborts(me), 2);
    lab_equal(lab_stats(me->pool).opened, 1);
    lab_equal(lab_stats(me->pool).resets, 1);
    need_mongo(mongo_find(weir_mongo(me->lease), "db", 0, &error) == 3, error);

    /* One whose lease is closed: aborted before that. */
    need_mongo((orphans[0] = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    mongoc_client_session_destroy(left); /* while its client lives; it speaks of a transaction
                                               that is over, on the server */
    lab_equal(weir_lease_close(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_equal(aborts(me), 4);
    return WEIR_OK;
}

static void a_transaction_that_is_left_open_is_aborted(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .server.members = 3, .body = leaves_transactions,
                                           .opts.api_version = "1" });
}

/* Which of them the server would have to be told of is more than is remembered. */
static weir_status leaves_two(struct mongo_scene *me)
{
    bson_error_t error = { 0 };

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo((orphans[1] = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    need_mongo((orphans[2] = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_BROKEN], 1);
    lab_equal(lab_stats(me->pool).opened, 2);
    return WEIR_OK;
}

static void a_client_with_two_open_transactions_is_not_lent_again(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .server.members = 3, .body = leaves_two });
}

static weir_status leaves_one_to_a_mute(struct mongo_scene *me)
{
    bson_error_t error = { 0 };

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo((orphans[3] = begin_transaction(weir_mongo(me->lease), &error)) != NULL, error);
    mongo_mock_rule(me->mock, MOCK_EVERY, &(struct mock_rule){ .command = "abortTransaction",
                                                               .deed = MOCK_SILENT });
    double start = lab_now_ms();
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_check(lab_settle(me->pool, 0, 2000));
    lab_took(lab_now_ms() - start, 95, 400);
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_RESET_FAILED], 1);
    return WEIR_OK;
}

static void one_that_cannot_be_aborted_in_time_costs_the_client(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){ .server.members = 3, .body = leaves_one_to_a_mute,
                                           .opts.pool.reset_timeout_ms = 100 });
}

/* ---- main ---------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(nobody_is_asked_by_ocsp), /* first: it makes the certificates as it needs them */
        LAB_TCP(a_client_in_its_cooldown_is_not_lent_again),
        LAB_TCP(a_reply_nobody_waited_for_is_read_by_nobody),
        LAB_TCP(what_was_cancelled_is_not_tried_again),
        LAB_TCP(a_scan_that_is_cut_ends_and_does_not_spin),
        LAB_PLAIN_AND_TLS(a_hundred_logins_do_not_stop_the_hub),
        LAB_TCP(threads_that_are_all_busy_keep_nobody_from_connecting),
        LAB_TCP(reading_the_systems_authorities_does_not_stop_the_hub),
        LAB_TCP(a_transaction_that_is_left_open_is_aborted),
        LAB_TCP(a_client_with_two_open_transactions_is_not_lent_again),
        LAB_TCP(one_that_cannot_be_aborted_in_time_costs_the_client),
    };
    return mongo_main(argc, argv, tests);
}
