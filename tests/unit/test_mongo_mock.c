/*
 * The scripted MongoDB server itself: that it answers as a server does where it is told
 * nothing, and that each way of going wrong is seen by a client as what it is meant to be.
 *
 * The client is stock libmongoc where that shows it, and a bare socket where libmongoc would
 * hide it. The server is another process, so these tests take real time, though little.
 */
#define _GNU_SOURCE
#include "mongo_mock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <mongoc/mongoc.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* ---- a client ------------------------------------------------------------------------- */

struct scene {
    struct mongo_mock *mock;
    mongoc_client_t   *client;
    bson_error_t       err;
};

#define OPTIONS "retryReads=false&retryWrites=false&socketTimeoutMS=300&connectTimeoutMS=300"

static void connect_with(struct scene *s, const char *options)
{
    char uri[600];
    if (s->client)
        mongoc_client_destroy(s->client);
    s->client = mongoc_client_new(mongo_mock_uri(s->mock, uri, sizeof uri, options));
    assert_non_null(s->client);
    mongoc_client_set_error_api(s->client, MONGOC_ERROR_API_VERSION_2);
}

static struct scene begin(const struct mongo_mock_opts *opts, const char *options)
{
    struct scene s = { .mock = mongo_mock_start(opts) };
    assert_non_null(s.mock);
    connect_with(&s, options);
    return s;
}

static void end(struct scene *s)
{
    mongoc_client_destroy(s->client);
    mongo_mock_stop(s->mock);
}

static bool ping(struct scene *s)
{
    bson_t command = BSON_INITIALIZER;
    memset(&s->err, 0, sizeof s->err);
    BSON_APPEND_INT32(&command, "ping", 1);
    bool ok = mongoc_client_command_simple(s->client, "admin", &command, NULL, NULL, &s->err);
    bson_destroy(&command);
    return ok;
}

static bool insert(struct scene *s)
{
    mongoc_collection_t *c = mongoc_client_get_collection(s->client, "db", "things");
    bson_t               document = BSON_INITIALIZER;
    memset(&s->err, 0, sizeof s->err);
    BSON_APPEND_INT32(&document, "a", 1);
    bool ok = mongoc_collection_insert_one(c, &document, NULL, NULL, &s->err);
    bson_destroy(&document);
    mongoc_collection_destroy(c);
    return ok;
}

/* Documents found, each with the _id expected, and text of `bytes`; -1 on an error. */
static int find(struct scene *s, const bson_t *filter, int first_id, unsigned bytes)
{
    mongoc_collection_t *c = mongoc_client_get_collection(s->client, "db", "things");
    mongoc_cursor_t     *cursor = mongoc_collection_find_with_opts(c, filter, NULL, NULL);
    const bson_t        *document;
    bson_iter_t          it;
    uint32_t             length;
    int                  n = 0;

    memset(&s->err, 0, sizeof s->err);
    while (mongoc_cursor_next(cursor, &document)) {
        assert_true(bson_iter_init_find(&it, document, "_id"));
        assert_int_equal(bson_iter_int32(&it), first_id + n);
        assert_true(bson_iter_init_find(&it, document, "text"));
        (void)bson_iter_utf8(&it, &length);
        assert_int_equal(length, bytes);
        n++;
    }
    if (mongoc_cursor_error(cursor, &s->err))
        n = -1;
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    return n;
}

static int find_all(struct scene *s)
{
    bson_t nothing = BSON_INITIALIZER;
    return find(s, &nothing, 0, 40);
}

static unsigned seen(const struct scene *s, const char *command)
{
    return mongo_mock_seen(s->mock, MOCK_EVERY, command);
}

static struct mock_counts counts(const struct scene *s)
{
    return mongo_mock_counts(s->mock, MOCK_EVERY);
}

/* ---- a bare socket -------------------------------------------------------------------- */

static int knock(const struct scene *s, int member)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_port = htons((uint16_t)mongo_mock_port(s->mock, member)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval     patience = { .tv_usec = 200000 };
    int                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* {ping: 1, $db: "admin"} with the number 7, by OP_MSG. */
static void send_ping(int fd)
{
    static const char message[] = "\x33\0\0\0" "\x07\0\0\0" "\0\0\0\0" "\xdd\x07\0\0" "\0\0\0\0"
                                  "\0" "\x1e\0\0\0" "\x10" "ping\0" "\x01\0\0\0" "\x02" "$db\0"
                                  "\x06\0\0\0" "admin\0";
    assert_int_equal(sizeof message, 0x33);
    assert_int_equal(send(fd, message, 0x33, MSG_NOSIGNAL), 0x33);
}

/* All that comes, for at most 0.2 s of silence: its size; the status of the end in *ended, 0
   where the server closed, else the errno. */
static size_t hear(int fd, uint8_t *data, size_t size, int *ended)
{
    size_t  used = 0;
    ssize_t n;
    while ((n = recv(fd, data + used, size - used, 0)) > 0)
        used += (size_t)n;
    *ended = n == 0 ? 0 : errno;
    return used;
}

/* ---- as any server -------------------------------------------------------------------- */

static void it_answers_what_libmongoc_asks(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    assert_true(ping(&s));
    assert_true(insert(&s));
    assert_int_equal(find_all(&s), 3);
    assert_int_equal(seen(&s, "hello"), 1);
    assert_int_equal(seen(&s, "ping"), 1);
    assert_int_equal(seen(&s, "insert"), 1);
    assert_int_equal(seen(&s, "find"), 1);
    assert_int_equal(seen(&s, "drop"), 0);
    assert_int_equal(counts(&s).commands, 4);
    assert_int_equal(counts(&s).accepted, 1);
    assert_int_equal(counts(&s).open, 1);
    end(&s);
}

static void writes_tell_how_many(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    mongoc_collection_t *c = mongoc_client_get_collection(s.client, "db", "things");
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(c, NULL);
    bson_t document = BSON_INITIALIZER, set = BSON_INITIALIZER, inner, reply;
    bson_iter_t it;
    (void)state;

    BSON_APPEND_DOCUMENT_BEGIN(&set, "$set", &inner);
    BSON_APPEND_INT32(&inner, "a", 1);
    bson_append_document_end(&set, &inner);
    for (int i = 0; i < 5; i++)
        mongoc_bulk_operation_insert(bulk, &document);
    assert_true(mongoc_bulk_operation_update_one_with_opts(bulk, &document, &set, NULL, &s.err));
    assert_true(mongoc_bulk_operation_remove_one_with_opts(bulk, &document, NULL, &s.err));
    assert_true(mongoc_bulk_operation_execute(bulk, &reply, &s.err));
    assert_true(bson_iter_init_find(&it, &reply, "nInserted"));
    assert_int_equal(bson_iter_int32(&it), 5);
    assert_true(bson_iter_init_find(&it, &reply, "nModified"));
    assert_int_equal(bson_iter_int32(&it), 1);
    assert_true(bson_iter_init_find(&it, &reply, "nRemoved"));
    assert_int_equal(bson_iter_int32(&it), 1);
    bson_destroy(&reply);
    bson_destroy(&document);
    bson_destroy(&set);
    mongoc_bulk_operation_destroy(bulk);
    mongoc_collection_destroy(c);
    end(&s);
}

static void a_cursor_gives_every_document_once(void **state)
{
    struct scene s = begin(NULL, "socketTimeoutMS=20000");
    bson_t       nothing = BSON_INITIALIZER, seven = BSON_INITIALIZER;
    (void)state;

    mongo_mock_data(s.mock, 1000, 40);
    assert_int_equal(find(&s, &nothing, 0, 40), 1000);
    assert_int_equal(seen(&s, "getMore"), 1); /* 101, and the rest */

    mongo_mock_data(s.mock, 40, 1 << 20); /* 40 MiB, 16 at a time */
    assert_int_equal(find(&s, &nothing, 0, 1 << 20), 40);
    assert_int_equal(seen(&s, "getMore"), 3);

    BSON_APPEND_INT32(&seven, "_id", 7);
    assert_int_equal(find(&s, &seven, 7, 1 << 20), 1);
    bson_destroy(&seven);
    end(&s);
}

static void an_abandoned_cursor_is_killed(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    mongoc_collection_t *c = mongoc_client_get_collection(s.client, "db", "things");
    bson_t nothing = BSON_INITIALIZER;
    const bson_t *document;
    (void)state;

    mongo_mock_data(s.mock, 200, 40);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &nothing, NULL, NULL);
    assert_true(mongoc_cursor_next(cursor, &document));
    mongoc_cursor_destroy(cursor);
    assert_int_equal(seen(&s, "killCursors"), 1);
    mongoc_collection_destroy(c);
    end(&s);
}

static void it_listens_on_a_unix_socket(void **state)
{
    char path[64];
    (void)state;

    snprintf(path, sizeof path, "/tmp/weir-mock-%d.sock", (int)getpid());
    struct scene s = begin(&(struct mongo_mock_opts){ .unix_path = path }, OPTIONS);
    assert_true(ping(&s));
    mongo_mock_door(s.mock, 0, MOCK_REFUSES);
    mongo_mock_cut(s.mock, 0);
    connect_with(&s, OPTIONS);
    assert_false(ping(&s));
    mongo_mock_door(s.mock, 0, MOCK_OPEN);
    connect_with(&s, OPTIONS);
    assert_true(ping(&s));
    end(&s);
    assert_int_equal(access(path, F_OK), -1);
}

/* ---- going wrong ---------------------------------------------------------------------- */

static void each_deed_is_what_it_says(void **state)
{
    static const struct {
        struct mock_rule rule;
        size_t           size;     /* of what comes */
        int              ended;    /* 0, or the errno */
        int              whom;     /* the answer says so */
    } deeds[] = {
        { { .deed = MOCK_ANSWER }, 38, EAGAIN, 7 },
        { { .deed = MOCK_SILENT }, 0, EAGAIN, 0 },
        { { .deed = MOCK_CLOSE }, 0, 0, 0 },
        { { .deed = MOCK_CLOSE, .reset = true }, 0, ECONNRESET, 0 },
        { { .deed = MOCK_HALF }, 19, 0, 7 },
        { { .deed = MOCK_STRAY }, 38, EAGAIN, 8 },
        { { .deed = MOCK_PIECES }, 38, EAGAIN, 7 },
    };
    struct scene s = begin(NULL, OPTIONS);
    uint8_t      data[1000];
    (void)state;

    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        int ended, whom;
        mongo_mock_forget(s.mock);
        mongo_mock_rule(s.mock, 0, &deeds[i].rule);
        int fd = knock(&s, 0);
        send_ping(fd);
        assert_int_equal(hear(fd, data, sizeof data, &ended), deeds[i].size);
        assert_int_equal(ended, deeds[i].ended);
        memcpy(&whom, data + 8, sizeof whom);
        if (deeds[i].whom)
            assert_int_equal(whom, deeds[i].whom);
        close(fd);
    }
    assert_int_equal(seen(&s, "ping"), 7);
    end(&s);
}

static void libmongoc_sees_a_failed_command(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "insert", .deed = MOCK_FAIL,
                                                    .code = 50, .code_name = "MaxTimeMSExpired" });
    assert_false(insert(&s));
    assert_int_equal(s.err.domain, MONGOC_ERROR_SERVER);
    assert_int_equal(s.err.code, 50);
    assert_true(ping(&s));
    mongo_mock_forget(s.mock);
    assert_true(insert(&s));
    end(&s);
}

static void libmongoc_times_out_on_silence(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "find", .deed = MOCK_SILENT });
    assert_true(ping(&s));
    double before = now_ms();
    assert_int_equal(find_all(&s), -1);
    assert_in_range((uintmax_t)(now_ms() - before), 290, 3000);
    assert_int_equal(s.err.domain, MONGOC_ERROR_STREAM);
    end(&s);
}

static void a_rule_counts_what_it_skips_and_does(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    mongo_mock_rule(s.mock, 0,
                    &(struct mock_rule){ .command = "insert", .deed = MOCK_FAIL, .code = 50,
                                         .code_name = "X", .skip = 2, .times = 1 });
    assert_true(insert(&s));
    assert_true(insert(&s));
    assert_false(insert(&s));
    assert_true(insert(&s));
    end(&s);
}

static void an_answer_can_be_late(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "hello", .delay_ms = 60 });
    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "ping", .delay_ms = 60 });
    double before = now_ms();
    assert_true(ping(&s));
    assert_in_range((uintmax_t)(now_ms() - before), 120, 3000);
    end(&s);
}

static void doors_refuse_swallow_and_open_again(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    for (int round = 0; round < 3; round++) {
        unsigned port = mongo_mock_port(s.mock, 0);
        mongo_mock_door(s.mock, 0, MOCK_REFUSES);
        assert_int_equal(knock(&s, 0), -1);
        assert_int_equal(errno, ECONNREFUSED);

        mongo_mock_door(s.mock, 0, MOCK_BLACK_HOLE);
        assert_int_equal(knock(&s, 0), -1);
        assert_int_equal(errno, EINPROGRESS); /* of a connect that timed out */

        mongo_mock_door(s.mock, 0, MOCK_OPEN);
        assert_int_equal(mongo_mock_port(s.mock, 0), port);
        connect_with(&s, OPTIONS);
        assert_true(ping(&s));
    }
    end(&s);
}

/* Closing a door is no accident to those who are in. */
static void a_shut_door_leaves_connections_alone(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    (void)state;

    assert_true(ping(&s));
    mongo_mock_door(s.mock, 0, MOCK_REFUSES);
    assert_true(ping(&s));
    assert_int_equal(counts(&s).open, 1);
    mongo_mock_cut(s.mock, 0);
    assert_int_equal(counts(&s).open, 0);
    assert_false(ping(&s));
    end(&s);
}

static void wait_for_late_bytes(const struct scene *s, unsigned bytes)
{
    for (int i = 0; i < 2000 && counts(s).late_bytes < bytes; i++)
        usleep(1000);
    assert_int_equal(counts(s).late_bytes, bytes);
}

static void bytes_that_come_too_late_are_counted(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    uint8_t      data[100];
    int          ended, fd = knock(&s, 0);
    (void)state;

    send_ping(fd);
    assert_int_equal(hear(fd, data, sizeof data, &ended), 38);
    assert_int_equal(counts(&s).late_bytes, 0);
    mongo_mock_cut(s.mock, 0);
    assert_int_equal(hear(fd, data, sizeof data, &ended), 0);
    assert_int_equal(ended, 0);
    send_ping(fd);
    wait_for_late_bytes(&s, 0x33);
    close(fd);

    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "ping", .deed = MOCK_SILENT });
    fd = knock(&s, 0);
    send_ping(fd);
    send_ping(fd);
    wait_for_late_bytes(&s, 2 * 0x33);
    close(fd);
    end(&s);
}

static void what_is_no_message_ends_the_connection(void **state)
{
    struct scene s = begin(NULL, OPTIONS);
    uint8_t      data[100];
    int          ended, fd = knock(&s, 0);
    (void)state;

    assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
    assert_int_equal(hear(fd, data, sizeof data, &ended), 0);
    assert_int_not_equal(ended, EAGAIN);
    assert_int_equal(counts(&s).broken, 1);
    close(fd);
    end(&s);
}

/* ---- a set ---------------------------------------------------------------------------- */

static void a_set_has_one_primary_and_can_have_another(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .members = 3 }, OPTIONS);
    (void)state;

    assert_true(insert(&s));
    assert_int_equal(counts(&s).accepted, 3);
    assert_int_equal(mongo_mock_seen(s.mock, 0, "insert"), 1);

    mongo_mock_elect(s.mock, 2);
    assert_false(insert(&s));
    assert_int_equal(s.err.code, 10107);
    assert_true(insert(&s));
    assert_int_equal(mongo_mock_seen(s.mock, 2, "insert"), 1);
    assert_int_equal(mongo_mock_seen(s.mock, 1, "insert"), 0);

    mongo_mock_elect(s.mock, MOCK_NOBODY);
    assert_false(insert(&s));
    assert_false(insert(&s));
    assert_int_equal(s.err.domain, MONGOC_ERROR_SERVER_SELECTION);
    end(&s);
}

static void a_secondary_reads_for_those_who_ask(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .members = 3 },
                           OPTIONS "&readPreference=secondary");
    (void)state;

    assert_int_equal(find_all(&s), 3);
    assert_int_equal(mongo_mock_seen(s.mock, 0, "find"), 0);
    mongo_mock_door(s.mock, 1, MOCK_REFUSES);
    mongo_mock_cut(s.mock, 1);
    connect_with(&s, OPTIONS "&readPreference=secondary");
    unsigned before = mongo_mock_seen(s.mock, 2, "find");
    assert_int_equal(find_all(&s), 3);
    assert_int_equal(mongo_mock_seen(s.mock, 2, "find"), before + 1);
    end(&s);
}

/* The word of a client that asks a secondary without saying that it may. */
static void a_secondary_reads_for_nobody_else(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .members = 3 }, OPTIONS);
    bson_t       command = BSON_INITIALIZER;
    mongoc_server_description_t **all;
    size_t                        n, secondaries = 0;
    (void)state;

    assert_true(insert(&s)); /* so that it knows the set */
    BSON_APPEND_UTF8(&command, "find", "things");
    all = mongoc_client_get_server_descriptions(s.client, &n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(mongoc_server_description_type(all[i]), "RSSecondary") != 0)
            continue;
        secondaries++;
        assert_false(mongoc_client_command_simple_with_server_id(
            s.client, "db", &command, NULL, mongoc_server_description_id(all[i]), NULL, &s.err));
        assert_int_equal(s.err.code, 13435);
    }
    assert_int_equal(secondaries, 2);
    mongoc_server_descriptions_destroy_all(all, n);
    bson_destroy(&command);
    end(&s);
}

static void an_arbiter_is_none_of_the_hosts(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .members = 3, .arbiter = true,
                                                      .user = "u", .password = "p" },
                           OPTIONS "&authSource=admin");
    mongoc_server_description_t **all;
    size_t                        n, arbiters = 0;
    (void)state;

    assert_true(insert(&s));
    all = mongoc_client_get_server_descriptions(s.client, &n);
    for (size_t i = 0; i < n; i++)
        arbiters += strcmp(mongoc_server_description_type(all[i]), "RSArbiter") == 0;
    assert_int_equal(n, 3);
    assert_int_equal(arbiters, 1);
    mongoc_server_descriptions_destroy_all(all, n);
    end(&s);
}

static void the_client_may_introduce_itself_once(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .strict = true }, OPTIONS);
    bson_t hello = BSON_INITIALIZER, client;
    (void)state;

    assert_true(ping(&s)); /* has said hello, as every client does */
    assert_int_equal(counts(&s).metadata_again, 0);
    BSON_APPEND_INT32(&hello, "hello", 1);
    assert_true(mongoc_client_command_simple(s.client, "admin", &hello, NULL, NULL, &s.err));
    BSON_APPEND_DOCUMENT_BEGIN(&hello, "client", &client);
    bson_append_document_end(&hello, &client);
    assert_false(mongoc_client_command_simple(s.client, "admin", &hello, NULL, NULL, &s.err));
    assert_int_equal(s.err.code, 186);
    assert_int_equal(counts(&s).metadata_again, 1);
    bson_destroy(&hello);
    end(&s);
}

/* ---- logins --------------------------------------------------------------------------- */

#define LOGIN .user = "a,b=c", .password = "pen cil/:@"

static void libmongoc_logs_in_by_each_mechanism(void **state)
{
    static const struct {
        unsigned    offered;
        bool        no_speculation;
        const char *options;
    } ways[] = {
        { MOCK_SHA_256 | MOCK_SHA_1, false, OPTIONS "&authSource=admin" },
        { MOCK_SHA_256 | MOCK_SHA_1, true, OPTIONS "&authSource=admin" },
        { MOCK_SHA_1, false, OPTIONS "&authSource=admin" },
        { MOCK_SHA_256, false, OPTIONS "&authMechanism=SCRAM-SHA-256" },
        { MOCK_SHA_1, true, OPTIONS "&authMechanism=SCRAM-SHA-1" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct scene s = begin(&(struct mongo_mock_opts){ LOGIN, .mechanisms = ways[i].offered,
                                                          .no_speculation =
                                                              ways[i].no_speculation },
                               ways[i].options);
        if (!insert(&s))
            fail_msg("way %zu: %s", i, s.err.message);
        assert_int_equal(counts(&s).logins, 1);
        assert_int_equal(counts(&s).proofs, 1);
        assert_int_equal(counts(&s).denied, 0);
        end(&s);
    }
}

static void who_is_not_logged_in_is_denied(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ LOGIN }, OPTIONS);
    char         uri[200];
    (void)state;

    mongoc_client_destroy(s.client);
    snprintf(uri, sizeof uri, "mongodb://127.0.0.1:%u/?" OPTIONS, mongo_mock_port(s.mock, 0));
    s.client = mongoc_client_new(uri);
    assert_true(ping(&s));
    assert_false(insert(&s));
    assert_int_equal(s.err.code, 13);
    assert_int_equal(counts(&s).denied, 1);

    mongoc_client_destroy(s.client);
    snprintf(uri, sizeof uri, "mongodb://a%%2Cb%%3Dc:wrong@127.0.0.1:%u/?" OPTIONS
             "&authMechanism=SCRAM-SHA-256", mongo_mock_port(s.mock, 0));
    s.client = mongoc_client_new(uri);
    assert_false(insert(&s));
    assert_int_equal(s.err.domain, MONGOC_ERROR_CLIENT);
    assert_int_equal(s.err.code, MONGOC_ERROR_CLIENT_AUTHENTICATE);
    assert_int_equal(counts(&s).logins, 0);
    assert_true(counts(&s).proofs > 0);
    end(&s);
}

/* Tricks that libmongoc sees through; the others are below. (That the nonce is another's it
   notices, and goes on.) */
static void a_false_server_is_as_false_as_told(void **state)
{
    static const struct {
        const char     *name;
        enum mock_trick trick;
        unsigned        rounds;
        bool            believed;
        bool            sends_proof;
    } tricks[] = {
        { "honest", MOCK_HONEST, 0, true, true },
        { "bad signature", MOCK_BAD_SIGNATURE, 0, false, true },
        { "no signature", MOCK_NO_SIGNATURE, 0, false, true },
        { "an error for a signature", MOCK_SASL_ERROR, 0, false, true },
        { "silent", MOCK_FALLS_SILENT, 0, false, true },
        { "one round", MOCK_HONEST, 1, false, false },
    };
    (void)state;

    for (size_t i = 0; i < sizeof tricks / sizeof *tricks; i++) {
        struct scene s = begin(&(struct mongo_mock_opts){ LOGIN, .trick = tricks[i].trick,
                                                          .rounds = tricks[i].rounds },
                               OPTIONS "&authMechanism=SCRAM-SHA-256");
        if (insert(&s) != tricks[i].believed || !counts(&s).proofs == tricks[i].sends_proof)
            fail_msg("%s: %s (%u proofs)", tricks[i].name, s.err.message, counts(&s).proofs);
        end(&s);
    }
}

/* The answer to a first message of SCRAM, as sent; "" where there is none. */
static void first_answer(const struct mongo_mock_opts *opts, char *out, size_t size, bool *done)
{
    static const char first[] = "n,,n=a=2Cb=3Dc,r=clientnonce";
    struct scene      s = begin(opts, OPTIONS);
    char              uri[200];
    bson_t            command = BSON_INITIALIZER, reply;
    bson_iter_t       it;
    bson_subtype_t    type;
    uint32_t          length;
    const uint8_t    *data;

    mongoc_client_destroy(s.client);
    snprintf(uri, sizeof uri, "mongodb://127.0.0.1:%u/?" OPTIONS, mongo_mock_port(s.mock, 0));
    s.client = mongoc_client_new(uri);
    BSON_APPEND_INT32(&command, "saslStart", 1);
    BSON_APPEND_UTF8(&command, "mechanism", "SCRAM-SHA-256");
    BSON_APPEND_BINARY(&command, "payload", BSON_SUBTYPE_BINARY, (const uint8_t *)first,
                       sizeof first - 1);
    assert_true(mongoc_client_command_simple(s.client, "admin", &command, NULL, &reply, &s.err));
    assert_true(bson_iter_init_find(&it, &reply, "payload"));
    bson_iter_binary(&it, &type, &length, &data);
    assert_true(length < size);
    memcpy(out, data, length);
    out[length] = 0;
    assert_true(bson_iter_init_find(&it, &reply, "done"));
    *done = bson_iter_bool(&it);
    bson_destroy(&command);
    bson_destroy(&reply);
    end(&s);
}

static void first_answers_can_be_false_too(void **state)
{
    char text[500];
    bool done;
    (void)state;

    first_answer(&(struct mongo_mock_opts){ LOGIN }, text, sizeof text, &done);
    assert_true(strncmp(text, "r=clientnonce", 13) == 0 && strstr(text, ",i=4096") && !done);
    first_answer(&(struct mongo_mock_opts){ LOGIN, .rounds = 1000000000 }, text, sizeof text,
                 &done);
    assert_true(strstr(text, ",i=1000000000") && !done);
    first_answer(&(struct mongo_mock_opts){ LOGIN, .trick = MOCK_OTHER_NONCE }, text, sizeof text,
                 &done);
    assert_true(strncmp(text, "r=", 2) == 0 && !strstr(text, "clientnonce") && !done);
    first_answer(&(struct mongo_mock_opts){ LOGIN, .trick = MOCK_EXTENSION }, text, sizeof text,
                 &done);
    assert_true(strncmp(text, "m=unheard-of,r=clientnonce", 26) == 0 && !done);
    first_answer(&(struct mongo_mock_opts){ LOGIN, .trick = MOCK_DONE_EARLY }, text, sizeof text,
                 &done);
    assert_true(done);
}

/* ---- TLS ------------------------------------------------------------------------------ */

/* A certificate for 127.0.0.1, its own authority, in the two files. */
static void write_certificate(const char *cert, const char *key)
{
    EVP_PKEY       *pair = EVP_RSA_gen(2048);
    X509           *x = X509_new();
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
    FILE           *f;

    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const uint8_t *)"mock", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_set_pubkey(x, pair);
    X509_add_ext(x, names, -1);
    assert_true(X509_sign(x, pair, EVP_sha256()) > 0);
    f = fopen(cert, "w");
    assert_true(f && PEM_write_X509(f, x) && fclose(f) == 0);
    f = fopen(key, "w");
    assert_true(f && PEM_write_PrivateKey(f, pair, NULL, NULL, 0, NULL, NULL) && fclose(f) == 0);
    X509_EXTENSION_free(names);
    X509_free(x);
    EVP_PKEY_free(pair);
}

static void it_speaks_tls(void **state)
{
    char cert[64], key[64], options[300];
    (void)state;

    snprintf(cert, sizeof cert, "/tmp/weir-mock-%d.pem", (int)getpid());
    snprintf(key, sizeof key, "/tmp/weir-mock-%d.key", (int)getpid());
    write_certificate(cert, key);
    snprintf(options, sizeof options, OPTIONS "&tls=true&tlsCAFile=%s", cert);
    struct scene s = begin(&(struct mongo_mock_opts){ .tls_cert = cert, .tls_key = key }, options);
    mongo_mock_data(s.mock, 20, 100000);
    bson_t nothing = BSON_INITIALIZER;
    assert_true(ping(&s));
    assert_int_equal(find(&s, &nothing, 0, 100000), 20);
    mongo_mock_rule(s.mock, 0, &(struct mock_rule){ .command = "ping", .deed = MOCK_HALF });
    assert_false(ping(&s));
    connect_with(&s, OPTIONS);
    assert_false(ping(&s)); /* without TLS */
    end(&s);
    unlink(cert);
    unlink(key);
}

/* ---- ready answers, and its end ------------------------------------------------------- */

static void ready_answers_are_answers(void **state)
{
    struct scene s = begin(&(struct mongo_mock_opts){ .ready_answers = true, LOGIN },
                           OPTIONS "&authSource=admin");
    bson_t       nothing = BSON_INITIALIZER;
    (void)state;

    for (int i = 0; i < 200; i++) {
        assert_int_equal(find(&s, &nothing, 0, 40), 1);
        assert_true(insert(&s));
    }
    assert_true(ping(&s));
    assert_int_equal(seen(&s, "find"), 200);
    assert_int_equal(seen(&s, "insert"), 200);
    assert_int_equal(counts(&s).logins, 1);
    assert_int_equal(counts(&s).broken, 0);
    end(&s);
}

static void impossible_options_are_refused(void **state)
{
    (void)state;
    assert_null(mongo_mock_start(&(struct mongo_mock_opts){ .members = 4 }));
    assert_null(mongo_mock_start(&(struct mongo_mock_opts){ .user = "u" }));
    assert_null(mongo_mock_start(&(struct mongo_mock_opts){ .tls_cert = "/nowhere/c",
                                                            .tls_key = "/nowhere/k" }));
}

/* A test that crashes leaves no server behind. */
static void it_ends_with_its_test(void **state)
{
    int pipes[2], mock_pid = 0;
    (void)state;

    assert_int_equal(pipe(pipes), 0);
    pid_t test = fork();
    if (test == 0) {
        struct mongo_mock *mock = mongo_mock_start(NULL);
        int                pid = mock ? mongo_mock_pid(mock) : 0;
        _exit(write(pipes[1], &pid, sizeof pid) != sizeof pid);
    }
    assert_int_equal(waitpid(test, NULL, 0), test);
    assert_int_equal(read(pipes[0], &mock_pid, sizeof mock_pid), sizeof mock_pid);
    assert_true(mock_pid > 0);
    close(pipes[0]);
    close(pipes[1]);
    for (int i = 0; i < 500 && kill(mock_pid, 0) == 0; i++)
        usleep(10000);
    assert_int_equal(kill(mock_pid, 0), -1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_answers_what_libmongoc_asks),
        cmocka_unit_test(writes_tell_how_many),
        cmocka_unit_test(a_cursor_gives_every_document_once),
        cmocka_unit_test(an_abandoned_cursor_is_killed),
        cmocka_unit_test(it_listens_on_a_unix_socket),
        cmocka_unit_test(each_deed_is_what_it_says),
        cmocka_unit_test(libmongoc_sees_a_failed_command),
        cmocka_unit_test(libmongoc_times_out_on_silence),
        cmocka_unit_test(a_rule_counts_what_it_skips_and_does),
        cmocka_unit_test(an_answer_can_be_late),
        cmocka_unit_test(doors_refuse_swallow_and_open_again),
        cmocka_unit_test(a_shut_door_leaves_connections_alone),
        cmocka_unit_test(bytes_that_come_too_late_are_counted),
        cmocka_unit_test(what_is_no_message_ends_the_connection),
        cmocka_unit_test(a_set_has_one_primary_and_can_have_another),
        cmocka_unit_test(a_secondary_reads_for_those_who_ask),
        cmocka_unit_test(a_secondary_reads_for_nobody_else),
        cmocka_unit_test(an_arbiter_is_none_of_the_hosts),
        cmocka_unit_test(the_client_may_introduce_itself_once),
        cmocka_unit_test(libmongoc_logs_in_by_each_mechanism),
        cmocka_unit_test(who_is_not_logged_in_is_denied),
        cmocka_unit_test(a_false_server_is_as_false_as_told),
        cmocka_unit_test(first_answers_can_be_false_too),
        cmocka_unit_test(it_speaks_tls),
        cmocka_unit_test(ready_answers_are_answers),
        cmocka_unit_test(impossible_options_are_refused),
        cmocka_unit_test(it_ends_with_its_test),
    };
    mongoc_init();
    mongoc_log_set_handler(NULL, NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mongoc_cleanup();
    return failed;
}
