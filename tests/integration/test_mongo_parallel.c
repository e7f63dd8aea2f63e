/*
 * test_mongo_parallel.c - many coroutines, one thread: what waits together takes the time of
 * one, and nobody is left behind where nobody ever has to wait for long.
 */
#include "mongo_lab.h"

#include <relay.h>

enum { CROWD = 100, LATE_MS = 200, RUNNERS = 40, LAPS = 300 };

/* ---- a hundred at once ------------------------------------------------------------- */

struct crowd {
    weir_pool *pool;
    unsigned   well;
};

static weir_status find_once(void *arg)
{
    struct crowd *crowd = arg;
    bson_error_t  error = { 0 };
    weir_error    err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(crowd->pool, lab_patience(5000), &lease, &err), &err);
    need_mongo(mongo_find(weir_mongo(lease), "db", 0, &error) == 3, error);
    crowd->well++;
    return WEIR_OK;
}

static weir_status find_together(struct mongo_scene *me)
{
    struct crowd crowd = { .pool = me->pool };
    weir_error   err;
    weir_autoptr(weir_group) group = NULL;

    if (lab_warm(me->pool, CROWD) != WEIR_OK)
        return WEIR_FAILED;
    relay_set(me->arg, &(struct relay_faults){ .delay_ms = LATE_MS });
    (void)weir_sleep(weir_in_ms(20));
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    double start = lab_now_ms();
    for (int i = 0; i < CROWD; i++)
        weir_spawn(group, find_once, &crowd);
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    double took_ms = lab_now_ms() - start;

    lab_tell("100 finds that take 200 ms each: %.0f ms", took_ms);
    lab_took(took_ms, LATE_MS, 300);
    lab_equal(crowd.well, CROWD);
    lab_equal(lab_stats(me->pool).opened, CROWD);
    lab_equal(lab_stats(me->pool).in_use_peak, CROWD);
    relay_set(me->arg, &(struct relay_faults){ 0 });
    return WEIR_OK;
}

static void a_hundred_finds_of_200_ms_end_within_300(void **state)
{
    const struct lab_way *way = *state;
    struct mongo_scene    me = { .body = find_together,
                                 .opts.pool = { .max_size = CROWD, .max_connecting = 8 } };
    struct relay         *relay;

    if (way->tls) {
        const struct mongo_certs *certs = mongo_certs(0);
        me.server.tls_cert = certs->cert;
        me.server.tls_key = certs->key;
        me.opts.tls_ca = certs->ca;
    }
    mongo_scene_start(&me);
    relay = relay_start(mongo_mock_port(me.mock, 0), &(struct relay_faults){ 0 });
    assert_non_null(relay);
    mongo_scene_name(&me, relay_port(relay));
    me.arg = relay;
    mongo_scene_play(&me);
    relay_stop(relay);
}

/* ---- a race ------------------------------------------------------------------------ */

struct race {
    weir_pool *pool;
    unsigned   left;          /* laps, of all together; then it is over */
    unsigned   there;         /* runners who have their client */
    unsigned   laps[RUNNERS];
    unsigned   began;
};

static weir_status run_laps(void *arg)
{
    struct race *race = arg;
    unsigned     me = race->began++;
    bson_error_t error = { 0 };
    weir_error   err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(race->pool, lab_patience(10000), &lease, &err), &err);
    race->there++;
    while (race->there < RUNNERS)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            return WEIR_FAILED;
    while (race->left) {
        race->left--;
        need_mongo(mongo_insert(weir_mongo(lease), "db", 1, &error), error);
        race->laps[me]++;
    }
    return WEIR_OK;
}

static weir_status hold_race(struct mongo_scene *me)
{
    struct race race = { .pool = me->pool, .left = RUNNERS * LAPS };
    unsigned    fewest = UINT32_MAX, most = 0;
    weir_error  err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < RUNNERS; i++)
        weir_spawn(group, run_laps, &race);
    lab_equal(weir_group_wait(group, lab_patience(40000)), WEIR_OK);
    for (int i = 0; i < RUNNERS; i++) {
        fewest = race.laps[i] < fewest ? race.laps[i] : fewest;
        most = race.laps[i] > most ? race.laps[i] : most;
    }
    lab_tell("%d coroutines, each with a client: %u laps at least, %u at most", RUNNERS, fewest,
             most);
    lab_between(fewest, most / 2.0, most);
    return WEIR_OK;
}

static void those_whose_replies_come_at_once_share_the_thread(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){
        .server.ready_answers = true, .body = hold_race,
        .opts.pool = { .max_size = RUNNERS, .max_connecting = 8 } });
}

/* Writes that nobody answers: the kernel takes one after the other, and nothing is waited for. */
static void those_who_never_wait_share_the_thread(void **state)
{
    (void)state;
    mongo_scene_run(&(struct mongo_scene){
        .body = hold_race, .options = "w=0",
        .opts.pool = { .max_size = RUNNERS, .max_connecting = 8 } });
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_PLAIN_AND_TLS(a_hundred_finds_of_200_ms_end_within_300),
        LAB_TCP(those_whose_replies_come_at_once_share_the_thread),
        LAB_TCP(those_who_never_wait_share_the_thread),
    };
    return mongo_main(argc, argv, tests);
}
