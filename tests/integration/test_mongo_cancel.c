/*
 * test_mongo_cancel.c - a cancel, a deadline and the end of the pool at every single point where
 * libmongoc, or a login, reads, writes or polls; and a storm of cancels on the real server.
 *
 * A "point" is a call of a stream by the library (readv, writev, poll, check_closed), and each
 * transfer below it: a login makes several inside of one writev. The linker puts ours in the
 * place of those functions (--wrap), so they are the driver's own code, called one step later. A
 * plain life counts its points; then there is a life for each of them, in which the blow falls
 * there.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <mongo_internal.h>
#include <private_mongo.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <under_valgrind.h>
#include <unistd.h>

enum { DOCUMENTS = 7, BATCH = 2, SLOWLY_MS = 3, STORM = 1500 };

/* ---- blows ------------------------------------------------------------------------- */

enum blow { SPARED, CANCELED_BEFORE, CANCELED_DURING, LATE_BEFORE, LATE_DURING, POOL_CLOSED };

static struct {
    enum blow     blow;
    unsigned      points, at; /* until now; the one at which it falls */
    uint64_t      client;     /* that was hit */
    weir_deadline limit;      /* its calls from then on */
    double        struck_ms;  /* 0: it has not fallen */
    weir_pool    *pool;
    weir_group   *helpers;
    weir_task    *user;       /* while he lives */
    bool          opened;     /* he has got his lease */
    unsigned      of_user;    /* points until his lease ended */
} plan;

static weir_status cancel_user(void *arg)
{
    (void)arg;
    if (plan.user)
        weir_cancel(plan.user);
    return WEIR_OK;
}

static weir_status close_pool(void *arg)
{
    (void)arg;
    lab_equal(weir_pool_close(plan.pool, lab_patience(5000)), WEIR_OK);
    return WEIR_OK;
}

static void strike(const struct mo_client *client)
{
    plan.struck_ms = lab_now_ms();
    plan.client = client->id;
    switch (plan.blow) {
    case CANCELED_BEFORE:
        (void)cancel_user(NULL);
        break;
    case CANCELED_DURING:
        weir_spawn_after(plan.helpers, weir_in_ms(1), cancel_user, NULL);
        break;
    case LATE_BEFORE:
        plan.limit = WEIR_NOW;
        break;
    case LATE_DURING:
        plan.limit = weir_in_ms(1);
        break;
    case POOL_CLOSED:
        weir_spawn(plan.helpers, close_pool, NULL);
        break;
    default:
        break;
    }
}

/* A point is reached: until when may it last? */
static weir_deadline reach(const struct mo_stream *stream)
{
    const struct mo_client *client = stream->client;

    if (++plan.points == plan.at)
        strike(client);
    bool late = plan.blow == LATE_BEFORE || plan.blow == LATE_DURING;
    return late && plan.struck_ms > 0 && plan.client == client->id ? plan.limit : WEIR_FOREVER;
}

static mongoc_stream_t real; /* what the driver has in its streams */

static ssize_t point_readv(mongoc_stream_t *s, mongoc_iovec_t *iov, size_t n, size_t min,
                           int32_t ms)
{
    WEIR_DEADLINE(reach((struct mo_stream *)s));
    return real.readv(s, iov, n, min, ms);
}

static ssize_t point_writev(mongoc_stream_t *s, mongoc_iovec_t *iov, size_t n, int32_t ms)
{
    WEIR_DEADLINE(reach((struct mo_stream *)s));
    return real.writev(s, iov, n, ms);
}

static ssize_t point_poll(mongoc_stream_poll_t *polled, size_t n, int32_t ms)
{
    WEIR_DEADLINE(reach((struct mo_stream *)polled[0].stream));
    return real.poll(polled, n, ms);
}

static bool point_check_closed(mongoc_stream_t *s)
{
    WEIR_DEADLINE(reach((struct mo_stream *)s));
    return real.check_closed(s);
}

struct mo_stream *__real_mo_stream_new(struct mo_client *client);
struct mo_stream *__wrap_mo_stream_new(struct mo_client *client);
ssize_t __real_mo_receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                          weir_deadline until);
ssize_t __wrap_mo_receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                          weir_deadline until);
ssize_t __real_mo_transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
                           bool may_wait, weir_deadline until);
ssize_t __wrap_mo_transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
                           bool may_wait, weir_deadline until);

struct mo_stream *__wrap_mo_stream_new(struct mo_client *client)
{
    struct mo_stream *stream = __real_mo_stream_new(client);

    real = stream->vt;
    stream->vt.readv = point_readv;
    stream->vt.writev = point_writev;
    stream->vt.poll = point_poll;
    stream->vt.check_closed = point_check_closed;
    return stream;
}

ssize_t __wrap_mo_receive(struct mo_stream *stream, void *to, size_t size, bool may_wait,
                          weir_deadline until)
{
    WEIR_DEADLINE(reach(stream));
    return __real_mo_receive(stream, to, size, may_wait, until);
}

ssize_t __wrap_mo_transmit(struct mo_stream *stream, const struct iovec *iov, size_t count,
                           bool may_wait, weir_deadline until)
{
    WEIR_DEADLINE(reach(stream));
    return __real_mo_transmit(stream, iov, count, may_wait, until);
}

/* ---- a life ------------------------------------------------------------------------ */

static bool write_some(mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t     *c = mongoc_client_get_collection(client, "db", "lab");
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(c, NULL);
    bson_t                   document = BSON_INITIALIZER, change = BSON_INITIALIZER, set;

    BSON_APPEND_INT32(&document, "_id", 1);
    BSON_APPEND_DOCUMENT_BEGIN(&change, "$set", &set);
    BSON_APPEND_INT32(&set, "v", 2);
    bson_append_document_end(&change, &set);
    mongoc_bulk_operation_insert(bulk, &document);
    mongoc_bulk_operation_update_one(bulk, &document, &change, false);
    mongoc_bulk_operation_remove_one(bulk, &document);
    bool ok = mongoc_bulk_operation_execute(bulk, NULL, error);
    mongoc_bulk_operation_destroy(bulk);
    mongoc_collection_destroy(c);
    bson_destroy(&document);
    bson_destroy(&change);
    return ok;
}

/* A cursor that is given up after its first document: the server is told. */
static bool look_at_one(mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t *c = mongoc_client_get_collection(client, "db", "lab");
    bson_t               all = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    const bson_t        *document;

    BSON_APPEND_INT32(&opts, "batchSize", BATCH);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &all, &opts, NULL);
    bool             ok = mongoc_cursor_next(cursor, &document);
    (void)mongoc_cursor_error(cursor, error);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    bson_destroy(&opts);
    return ok;
}

static weir_status use_client(weir_lease *lease, weir_error *err)
{
    mongoc_client_t *client = weir_mongo(lease);
    bson_error_t     error = { 0 };

    long n = mongo_find(client, "db", BATCH, &error);
    if (n == DOCUMENTS && write_some(client, &error) && look_at_one(client, &error))
        return WEIR_OK;
    lab_check(n == DOCUMENTS || n < 0); /* never fewer without an error */
    return weir_mongo_error(lease, &error, err);
}

static weir_status live(void *arg)
{
    weir_lease *lease;
    weir_error  err;

    (void)arg;
    weir_status status = weir_acquire(plan.pool, lab_patience(5000), &lease, &err);
    if (status == WEIR_OK) {
        plan.opened = true;
        status = use_client(lease, &err);
        plan.of_user = plan.points;
        lab_equal(weir_lease_close(lease), WEIR_OK); /* politely, where it is well */
    }
    plan.user = NULL;
    if (plan.struck_ms > 0)
        lab_took(lab_now_ms() - plan.struck_ms, 0, 500); /* a forbidden wait takes longer */
    return status;
}

static bool is_expected(weir_status status)
{
    switch (plan.blow) {
    case CANCELED_BEFORE:
    case CANCELED_DURING:
        return status == WEIR_CANCELED || status == WEIR_OK;
    case LATE_BEFORE:
    case LATE_DURING:
        return status == (plan.opened ? WEIR_TIMEOUT : WEIR_CONNECT) || status == WEIR_OK;
    case POOL_CLOSED:
        return status == (plan.opened ? WEIR_OK : WEIR_CLOSED);
    default:
        return status == WEIR_OK;
    }
}

/* ---- a round ----------------------------------------------------------------------- */

struct tour {
    enum blow blow;
    unsigned  members; /* of the server */
    unsigned  points;  /* of a life */
    unsigned  of_user; /* until its lease ended */
    unsigned  spared;  /* lives that had fewer points than the first */
    unsigned  ended[WEIR_FAILED + 1];
};

/* Nothing is under way any more, and the server sees what the pool has. */
static void expect_rest(weir_pool *pool, struct mongo_mock *mock, unsigned members)
{
    double          until = lab_now_ms() + 2000 * detect_slowness();
    weir_pool_stats s = lab_stats(pool);

    while (lab_now_ms() < until) {
        s = lab_stats(pool);
        if (!s.reserved && !s.connecting && !s.resetting && !s.closing && !s.in_use &&
            mongo_mock_counts(mock, MOCK_EVERY).open == s.idle * members)
            break;
        (void)weir_sleep(weir_in_ms(1));
    }
    lab_equal(s.reserved + s.connecting + s.resetting + s.closing + s.in_use + s.waiting, 0);
    lab_equal(mongo_mock_counts(mock, MOCK_EVERY).open, s.idle * members);
}

/* After a connect that failed the pool waits a little before it tries again, and says so. */
static weir_status lease_again(weir_pool *pool)
{
    double       until = lab_now_ms() + 3000 * detect_slowness();
    weir_error   err;
    bson_error_t error = { 0 };
    weir_lease  *lease = NULL;

    while (weir_acquire(pool, lab_patience(3000), &lease, &err) != WEIR_OK) {
        lab_need(err.status == WEIR_CONNECT && lab_now_ms() < until);
        (void)weir_sleep(weir_in_ms(5));
    }
    need_mongo(mongo_find(weir_mongo(lease), "db", BATCH, &error) == DOCUMENTS, error);
    lab_equal(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

static weir_status one_round(struct mongo_scene *me, struct tour *tour, unsigned at)
{
    weir_status result = WEIR_OK;
    weir_error  err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;
    weir_autoptr(weir_group) helpers = NULL;

    lab_need_ok(weir_mongo_pool_new(&me->opts, &pool, &err), &err);
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_group_new(NULL, &helpers, &err), &err);
    memset(&plan, 0, sizeof plan);
    plan.blow = tour->blow;
    plan.at = at;
    plan.pool = pool;
    plan.helpers = helpers;
    plan.user = weir_spawn(group, live, NULL);
    lab_need(plan.user);
    lab_check(weir_join(plan.user, lab_patience(5000), &result) == WEIR_OK);
    expect_rest(pool, me->mock, tour->members);
    lab_equal(weir_group_wait(helpers, lab_patience(5000)), WEIR_OK);
    (void)weir_group_wait(group, lab_patience(5000));
    if (!is_expected(result))
        lab_record(WEIR_HERE, "blow %d at point %u: %s (opened %d)", tour->blow, at,
                   weir_status_name(result), plan.opened);
    tour->ended[result]++;
    tour->spared += plan.struck_ms <= 0;
    if (!at) {
        tour->points = plan.points;
        tour->of_user = plan.of_user;
    }
    plan.blow = SPARED;
    if (tour->blow != POOL_CLOSED && lease_again(pool) != WEIR_OK)
        return WEIR_FAILED;
    lab_pool_end(&pool);
    return WEIR_OK;
}

static weir_status all_rounds(struct mongo_scene *me)
{
    struct tour    *tour = me->arg;
    const enum blow blow = tour->blow;
    unsigned        stride = under_valgrind() ? 4 : 1;

    mongo_mock_data(me->mock, DOCUMENTS, 40);
    tour->blow = SPARED;
    if (one_round(me, tour, 0) != WEIR_OK || one_round(me, tour, 0) != WEIR_OK)
        return WEIR_FAILED; /* the second has the key of its login already */
    memset(tour->ended, 0, sizeof tour->ended);
    tour->spared = 0;
    tour->blow = blow;
    if (blow == CANCELED_DURING || blow == LATE_DURING) /* so that there is something to wait for */
        mongo_mock_rule(me->mock, MOCK_EVERY,
                        &(struct mock_rule){ .delay_ms = SLOWLY_MS });
    unsigned last = blow == CANCELED_BEFORE || blow == CANCELED_DURING ? tour->of_user
                                                                        : tour->points;
    for (unsigned at = 1; at <= last; at += stride)
        if (one_round(me, tour, at) != WEIR_OK)
            return WEIR_FAILED;
    lab_tell("%u points (%u before the lease ended): %u well, %u late, %u cancelled, %u not "
             "connected, %u closed",
             tour->points, tour->of_user, tour->ended[WEIR_OK], tour->ended[WEIR_TIMEOUT],
             tour->ended[WEIR_CANCELED], tour->ended[WEIR_CONNECT], tour->ended[WEIR_CLOSED]);
    lab_between(tour->spared, 0, tour->points / 6); /* TLS reads now in one piece, now in two */
    lab_between(tour->points, 60, 200); /* all there is: connect, login, reads, writes, farewell */
    return WEIR_OK;
}

static struct tour tour_of(const struct lab_way *way, unsigned members, enum blow blow)
{
    struct tour        tour = { .blow = blow, .members = members };
    struct mongo_scene me = {
        .server = { .members = members, .user = "weir", .password = "pencil", .strict = true },
        .opts = { .end_sessions = true },
        .body = all_rounds,
        .arg = &tour,
    };

    if (way->tls) {
        const struct mongo_certs *certs = mongo_certs(0);
        me.server.tls_cert = certs->cert;
        me.server.tls_key = certs->key;
        me.opts.tls_ca = certs->ca;
    }
    mongo_scene_run(&me);
    return tour;
}

/* Most blows fall where they are felt; those that are not fall into the last steps of all. */
static void expect_felt(const struct tour *tour, weir_status how)
{
    if (!under_valgrind())
        assert_in_range(tour->ended[how], 20, 200);
    assert_in_range(tour->ended[WEIR_OK], 0, tour->points / 2);
}

static void a_cancel_before_any_point_is_felt_and_leaves_nothing(void **state)
{
    struct tour tour = tour_of(*state, 1, CANCELED_BEFORE);
    expect_felt(&tour, WEIR_CANCELED);
}

static void a_cancel_at_any_point_is_felt_and_leaves_nothing(void **state)
{
    struct tour tour = tour_of(*state, 1, CANCELED_DURING);
    expect_felt(&tour, WEIR_CANCELED);
}

static void a_deadline_that_has_passed_at_any_point_is_felt_and_leaves_nothing(void **state)
{
    struct tour tour = tour_of(*state, 1, LATE_BEFORE);
    expect_felt(&tour, WEIR_TIMEOUT);
}

static void a_deadline_at_any_point_is_felt_and_leaves_nothing(void **state)
{
    struct tour tour = tour_of(*state, 1, LATE_DURING);
    expect_felt(&tour, WEIR_TIMEOUT);
}

static void a_pool_that_is_closed_at_any_point_leaves_nothing(void **state)
{
    struct tour tour = tour_of(*state, 1, POOL_CLOSED);
    if (!under_valgrind())
        assert_in_range(tour.ended[WEIR_CLOSED], 5, 100);
}

/* Where several servers are asked at once. */
static void a_replica_set_makes_no_difference(void **state)
{
    struct tour tour = tour_of(*state, 3, CANCELED_DURING);
    expect_felt(&tour, WEIR_CANCELED);
    tour = tour_of(*state, 3, LATE_BEFORE);
    expect_felt(&tour, WEIR_TIMEOUT);
    tour = tour_of(*state, 3, LATE_DURING);
    expect_felt(&tour, WEIR_TIMEOUT);
}

/* ---- a handshake on another thread -------------------------------------------------- */

static atomic_int step_ms; /* that each step of a handshake takes longer */
static atomic_int steps, steps_over;

void __real_mo_tls_step(void *tls);
void __wrap_mo_tls_step(void *tls);

void __wrap_mo_tls_step(void *tls)
{
    atomic_fetch_add(&steps, 1);
    if (step_ms)
        usleep((unsigned)step_ms * 1000);
    __real_mo_tls_step(tls);
    atomic_fetch_add(&steps_over, 1);
}

static weir_status asks_in_vain(void *arg)
{
    weir_lease *lease;
    weir_error  err;

    lab_equal(weir_acquire(arg, lab_patience(5000), &lease, &err), WEIR_CLOSED);
    return WEIR_OK;
}

/* The pool is closed while a thread is in the middle of OpenSSL: at once, and with all that is the
   connection's but what that thread holds. */
static weir_status is_given_up_in_a_step(struct mongo_scene *me)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    steps = steps_over = 0;
    step_ms = 60;
    lab_need(weir_spawn(group, asks_in_vain, me->pool));
    while (!steps)
        lab_need(weir_sleep(weir_in_ms(1)) == WEIR_OK);
    double start = lab_now_ms();
    lab_equal(weir_pool_close(me->pool, lab_patience(2000)), WEIR_OK);
    lab_equal(steps_over, 0); /* else it was not in the middle of it */
    lab_took(lab_now_ms() - start, 0, 50);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).logins, 0);
    step_ms = 0;
    return weir_group_wait(group, lab_patience(2000));
}

static void one_that_is_given_up_in_a_threads_hands_leaves_nothing(void **state)
{
    const struct mongo_certs *certs = mongo_certs(0);
    struct mongo_scene        me = { .server = { .tls_cert = certs->cert, .tls_key = certs->key },
                                     .opts.tls_ca = certs->ca,
                                     .body = is_given_up_in_a_step };

    (void)state;
    mongo_scene_run(&me);
    assert_int_equal(steps_over, steps); /* the hub has not ended before them */
}

/* ---- the storm --------------------------------------------------------------------- */

struct storm {
    struct mongo_scene *scene;
    weir_pool *pools[2];
    unsigned   lives, abreast, size;
    int64_t    pace; /* how much longer everything takes */
    weir_task *task[STORM];
    unsigned   spawned;
    unsigned   by_status[WEIR_FAILED + 1];
    unsigned   answers, mixed;
    uint64_t   random;
    char       strange[200];
};

struct life {
    struct storm *storm;
    uint64_t      random;
};

/* xorshift: each life has its own, so that a run can be repeated. */
static unsigned draw(uint64_t *state, unsigned below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (unsigned)(*state >> 33) % below;
}

/* One document by its number, which must be in the answer. */
static bool ask_for_one(struct life *me, mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t *c =
        mongoc_client_get_collection(client, private_mongo()->database, "storm");
    int           id = (int)draw(&me->random, 100);
    bson_t        which = BSON_INITIALIZER;
    const bson_t *document;
    bson_iter_t   at;

    BSON_APPEND_INT32(&which, "_id", id);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &which, NULL, NULL);
    bool             ok = mongoc_cursor_next(cursor, &document);
    if (ok) {
        me->storm->answers++;
        me->storm->mixed += !bson_iter_init_find(&at, document, "v") ||
                            bson_iter_as_int64(&at) != id * 3;
    }
    ok = !mongoc_cursor_error(cursor, error) && ok;
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&which);
    return ok;
}

/* All of them in batches, now and then not to the end. */
static bool ask_for_all(struct life *me, mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t *c =
        mongoc_client_get_collection(client, private_mongo()->database, "storm");
    bson_t        all = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    const bson_t *document;
    bson_iter_t   id, v;
    unsigned      enough = draw(&me->random, 3) ? 100 : 40, n = 0;

    BSON_APPEND_INT32(&opts, "batchSize", 30);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &all, &opts, NULL);
    while (n < enough && mongoc_cursor_next(cursor, &document)) {
        n++;
        me->storm->mixed += !bson_iter_init_find(&id, document, "_id") ||
                            !bson_iter_init_find(&v, document, "v") ||
                            bson_iter_as_int64(&v) != bson_iter_as_int64(&id) * 3;
    }
    bool ok = !mongoc_cursor_error(cursor, error);
    me->storm->mixed += ok && n != enough;
    me->storm->answers += ok;
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    bson_destroy(&opts);
    return ok;
}

static weir_status fare(struct life *me, weir_lease **lease)
{
    struct storm *s = me->storm;
    weir_error    err;
    bson_error_t  error = { 0 };
    weir_status   st = weir_acquire(s->pools[draw(&me->random, 2)], WEIR_SCOPE, lease, &err);

    for (unsigned i = 0; st == WEIR_OK && i < 3; i++)
        if (!(draw(&me->random, 3) ? ask_for_one : ask_for_all)(me, weir_mongo(*lease), &error))
            st = weir_mongo_error(*lease, &error, &err);
    if (st != WEIR_OK && st != WEIR_TIMEOUT && st != WEIR_CANCELED)
        snprintf(s->strange, sizeof s->strange, "%s: %.150s", weir_status_name(st), err.message);
    return st;
}

static weir_status one_life(void *arg)
{
    struct life  *me = arg;
    struct storm *s = me->storm;
    bool          hurried = draw(&me->random, 4) == 0;
    weir_lease   *lease = NULL;
    weir_status   st;

    {
        WEIR_DEADLINE(hurried ? weir_in_ms((1 + draw(&me->random, 60)) * s->pace)
                              : lab_patience(20000));
        st = fare(me, &lease);
    }
    if (lease && draw(&me->random, 10)) /* one in ten forgets it */
        lab_equal(weir_release(lease), WEIR_OK);
    s->by_status[st]++;
    for (unsigned i = 0; i < s->spawned; i++)
        if (s->task[i] == weir_self())
            s->task[i] = NULL;
    return WEIR_OK;
}

static weir_status cancel_at_random(void *arg)
{
    struct storm *s = arg;

    while (weir_sleep(weir_in_ms(4 * s->pace)) == WEIR_OK) {
        unsigned from = s->spawned > s->abreast ? s->spawned - s->abreast : 0;
        for (unsigned i = 0; s->spawned && i < 2; i++) {
            weir_task *task = s->task[from + draw(&s->random, s->spawned - from)];
            if (task)
                weir_cancel(task);
        }
    }
    return WEIR_OK;
}

static weir_status fill_collection(weir_pool *pool)
{
    bson_error_t error = { 0 };
    weir_error   err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    mongoc_collection_t *c =
        mongoc_client_get_collection(weir_mongo(lease), private_mongo()->database, "storm");
    bson_t all = BSON_INITIALIZER;
    need_mongo(mongoc_collection_delete_many(c, &all, NULL, NULL, &error), error);
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(c, NULL);
    for (int i = 0; i < 100; i++) {
        bson_t document = BSON_INITIALIZER;
        BSON_APPEND_INT32(&document, "_id", i);
        BSON_APPEND_INT32(&document, "v", i * 3);
        mongoc_bulk_operation_insert(bulk, &document);
        bson_destroy(&document);
    }
    need_mongo(mongoc_bulk_operation_execute(bulk, NULL, &error), error);
    mongoc_bulk_operation_destroy(bulk);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    return WEIR_OK;
}

static weir_status open_pool(struct storm *s, bool tls, weir_pool **out)
{
    const struct private_mongo *p = private_mongo();
    char                        uri[400];
    weir_error                  err;
    weir_mongo_opts             opts = { .uri = uri, .tls_ca = tls ? p->ca : NULL };

    opts.pool.max_size = s->size;
    opts.pool.max_connecting = 8;
    snprintf(uri, sizeof uri,
             "mongodb://%s:%s@%s:%u/%s?authSource=%s&retryReads=true&connectTimeoutMS=%d", p->user,
             p->password, tls ? p->tls_name : p->host, tls ? p->tls_port : p->port, p->database,
             p->auth_source, (int)(5000 * detect_slowness()));
    lab_need_ok(weir_mongo_pool_new(&opts, out, &err), &err);
    return WEIR_OK;
}

static void expect_fair_weather(const struct storm *s)
{
    weir_pool_stats a = lab_stats(s->pools[0]), b = lab_stats(s->pools[1]);

    lab_tell("%u well, %u cancelled, %u late; %u answers, %u mixed up; %llu + %llu clients",
             s->by_status[WEIR_OK], s->by_status[WEIR_CANCELED], s->by_status[WEIR_TIMEOUT],
             s->answers, s->mixed, (unsigned long long)a.opened, (unsigned long long)b.opened);
    lab_equal(s->by_status[WEIR_OK] + s->by_status[WEIR_CANCELED] + s->by_status[WEIR_TIMEOUT],
              s->lives);
    lab_says(s->strange[0] ? s->strange : "as expected", "as expected");
    lab_equal(s->mixed, 0);
    lab_between(s->by_status[WEIR_CANCELED], s->lives / 50, s->lives);
    lab_between(s->by_status[WEIR_TIMEOUT], s->lives / 50, s->lives);
    lab_between(s->by_status[WEIR_OK], s->lives / 10, s->lives);
    lab_between(a.in_use_peak, 1, s->size);
    lab_between(b.in_use_peak, 1, s->size);
}

static weir_status storm(void *arg)
{
    static struct life lives[STORM];
    struct storm      *s = arg;
    weir_error         err;
    weir_autoptr(weir_group) group = NULL;
    weir_autoptr(weir_group) spoilers = NULL;

    if (open_pool(s, false, &s->pools[0]) || open_pool(s, true, &s->pools[1]) ||
        fill_collection(s->pools[0]))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(&(weir_group_opts){ .max_running = s->abreast }, &group, &err),
                &err);
    lab_need_ok(weir_group_new(NULL, &spoilers, &err), &err);
    weir_spawn(spoilers, cancel_at_random, s);
    for (unsigned i = 0; i < s->lives; i++) {
        lives[i] = (struct life){ .storm = s, .random = 88172645463325252u + i * 7919u };
        s->task[i] = weir_spawn(group, one_life, &lives[i]);
        s->spawned = i + 1;
    }
    /* One that was cancelled before it began has never run; it counts all the same. */
    weir_status st = weir_group_wait(group, lab_patience(40000));
    lab_check(st == WEIR_OK || st == WEIR_CANCELED);
    unsigned ran = 0;
    for (unsigned i = 0; i <= WEIR_FAILED; i++)
        ran += s->by_status[i];
    s->by_status[WEIR_CANCELED] += s->lives - ran;
    weir_group_cancel(spoilers);
    (void)weir_group_wait(spoilers, weir_in_ms(1000));
    expect_fair_weather(s);
    lab_pool_end(&s->pools[0]);
    lab_pool_end(&s->pools[1]);
    return WEIR_OK;
}

static void a_storm_of_cancels_and_deadlines_mixes_nothing_up(void **state)
{
    static struct storm s;

    (void)state;
    if (!private_mongo()) {
        lab_tell("skipped: no private server");
        skip();
    }
    memset(&plan, 0, sizeof plan);
    memset(&s, 0, sizeof s);
    s.random = 2463534242u;
    s.lives = under_valgrind() ? STORM / 10 : STORM;
    s.abreast = under_valgrind() ? 24 : 100;
    s.size = under_valgrind() ? 6 : 25;
    s.pace = under_valgrind() ? 10 : 1;
    lab_run(storm, &s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_PLAIN_AND_TLS(a_cancel_before_any_point_is_felt_and_leaves_nothing),
        LAB_PLAIN_AND_TLS(a_cancel_at_any_point_is_felt_and_leaves_nothing),
        LAB_PLAIN_AND_TLS(a_deadline_that_has_passed_at_any_point_is_felt_and_leaves_nothing),
        LAB_PLAIN_AND_TLS(a_deadline_at_any_point_is_felt_and_leaves_nothing),
        LAB_PLAIN_AND_TLS(a_pool_that_is_closed_at_any_point_leaves_nothing),
        LAB_TCP(a_replica_set_makes_no_difference),
        LAB_TCP(one_that_is_given_up_in_a_threads_hands_leaves_nothing),
        LAB_TCP(a_storm_of_cancels_and_deadlines_mixes_nothing_up),
    };
    return mongo_main(argc, argv, tests);
}
