/*
 * test_mysql_vanished.c - what a pool promises when its database is gone, and what the server
 * itself sees of a pool's limits.
 *
 * The database vanishes in four ways, plain and under TLS, while callers come all the time:
 * packets are dropped, a login or handshake stalls, lines are reset, the server is stopped. Nobody
 * waits longer than he said by more than 50 ms, whether for a connection or for an answer.
 */
#include <detect.h>
#include <lab.h>
#include <relay.h>

#include <stdio.h>
#include <string.h>

enum {
    PLACES = 4,
    PATIENCE_MS = 300,
    OVERSHOOT_MS = 50,
    CALLERS = 60,
    EVERY_MS = 25,   /* one comes */
    VANISHES_MS = 300,
    AT_LEAST = 20    /* of them must have met it */
};

/* ---- the contract ------------------------------------------------------------------------ */

struct vanishing {
    const struct lab_way *way;
    struct relay         *relay;
    struct relay_faults   faults;
    bool                  stops; /* the server, instead of the network */
    weir_pool            *pool;
    unsigned              answered, unanswered;
    double                longest_ms;
};

static weir_status ask_for_an_answer(struct vanishing *me)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    WEIR_DEADLINE(weir_in_ms(PATIENCE_MS));
    weir_status status = weir_acquire(me->pool, WEIR_SCOPE, &lease, &err);
    if (status != WEIR_OK)
        return status;
    return sql_do(weir_mysql(lease), "DO SLEEP(0.02)") ? WEIR_LOST : WEIR_OK;
}

/* Measured from outside, with everything that giving back takes, less what other processes took
   of the CPU meanwhile. */
static weir_status come_and_ask(void *arg)
{
    struct vanishing *me = arg;
    double            start = lab_now_ms() - detect_off_cpu_ms();
    weir_status       status = ask_for_an_answer(me);
    double            took_ms = lab_now_ms() - detect_off_cpu_ms() - start;

    if (took_ms > me->longest_ms)
        me->longest_ms = took_ms;
    me->answered += status == WEIR_OK;
    me->unanswered += status != WEIR_OK;
    return WEIR_OK;
}

static void vanish(struct vanishing *me)
{
    if (me->stops) {
        private_server_stop();
        return;
    }
    relay_set(me->relay, &me->faults);
    if (me->faults.reset)
        relay_cut(me->relay);
}

static void come_back(struct vanishing *me)
{
    if (me->stops) {
        private_server_go_on();
        return;
    }
    relay_set(me->relay, &(struct relay_faults){ 0 });
    relay_cut(me->relay); /* what was stalled stays so else */
}

static weir_status served_again(struct vanishing *me)
{
    double until = lab_now_ms() + 5000;

    while (lab_now_ms() < until) {
        if (ask_for_an_answer(me) == WEIR_OK)
            return WEIR_OK;
        (void)weir_sleep(weir_in_ms(20));
    }
    lab_record(WEIR_HERE, "never well again");
    return WEIR_FAILED;
}

static weir_status live_through_it(void *arg)
{
    struct vanishing *me = arg;
    weir_mysql_opts   opts = lab_opts(me->way);
    weir_error        err;
    bool              vanished = false;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.port = relay_port(me->relay);
    opts.pool.max_size = PLACES;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, PLACES))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < CALLERS; i++) {
        if (i * EVERY_MS >= VANISHES_MS && !vanished) {
            vanished = true;
            vanish(me);
        }
        weir_spawn(group, come_and_ask, me);
        (void)weir_sleep(weir_in_ms(EVERY_MS));
    }
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    lab_tell("%u answered, %u not, the longest took %.0f ms", me->answered, me->unanswered,
             me->longest_ms);
    lab_equal(me->answered + me->unanswered, CALLERS);
    lab_check(me->answered > 0 && me->unanswered >= AT_LEAST);
    lab_took(me->longest_ms, 0, PATIENCE_MS + OVERSHOOT_MS);
    come_back(me);
    if (served_again(me) != WEIR_OK)
        return WEIR_FAILED;
    weir_group_free(group);
    group = NULL;
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void vanish_in_this_way(void **state, struct relay_faults faults, bool stops)
{
    struct vanishing me = { .way = *state,
                            .relay = relay_start(private_server()->port, NULL),
                            .faults = faults,
                            .stops = stops };

    assert_non_null(me.relay);
    lab_run(live_through_it, &me);
    private_server_go_on();
    relay_stop(me.relay);
}

/* Of what the server says one chunk passes, which is its greeting. */
static void nobody_waits_longer_than_he_said_where_packets_are_dropped(void **state)
{
    vanish_in_this_way(state, (struct relay_faults){ .stall_after = 1 }, false);
}

/* Two: its greeting, and the first part of its handshake. */
static void nobody_waits_longer_than_he_said_where_the_login_stalls(void **state)
{
    vanish_in_this_way(state, (struct relay_faults){ .stall_after = 2 }, false);
}

static void nobody_waits_longer_than_he_said_where_lines_are_reset(void **state)
{
    vanish_in_this_way(state, (struct relay_faults){ .half_after = 1, .reset = true }, false);
}

static void nobody_waits_longer_than_he_said_where_the_server_is_stopped(void **state)
{
    vanish_in_this_way(state, (struct relay_faults){ 0 }, true);
}

/* ---- limits, as the server counts them ---------------------------------------------------- */

struct crowd {
    weir_pool *pool;
    bool       over;
    unsigned   served;
};

static weir_status work_on(void *arg)
{
    struct crowd *crowd = arg;

    while (!crowd->over) {
        lab_equal(pool_do(crowd->pool, "DO SLEEP(0.01)"), 0);
        crowd->served++;
    }
    return WEIR_OK;
}

/* The most there are within a while, and how many there are after it. */
static long most_connections(int64_t ms)
{
    long   most = 0;
    double until = lab_now_ms() + (double)ms;

    while (lab_now_ms() < until) {
        long now = private_server_connections();
        most = now > most ? now : most;
        (void)weir_sleep(weir_in_ms(10));
    }
    return most;
}

static weir_status count_at_the_server(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct crowd    crowd = { 0 };
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = 5;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    crowd.pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < 40; i++)
        weir_spawn(group, work_on, &crowd);
    lab_equal(most_connections(500), 5);
    lab_need_ok(weir_pool_resize(pool, 8, &err), &err);
    lab_equal(most_connections(500), 8);
    lab_need_ok(weir_pool_resize(pool, 3, &err), &err);
    (void)weir_sleep(lab_patience(300)); /* as they come back */
    lab_equal(most_connections(300), 3);
    crowd.over = true;
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    lab_check(crowd.served > 100);
    weir_group_free(group);
    group = NULL;
    lab_pool_end(&pool);
    lab_equal(most_connections(100), 0);
    return WEIR_OK;
}

static void the_server_counts_no_more_connections_than_the_pool_may_have(void **state)
{
    lab_run(count_at_the_server, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_PLAIN_AND_TLS(nobody_waits_longer_than_he_said_where_packets_are_dropped),
        LAB_PLAIN_AND_TLS(nobody_waits_longer_than_he_said_where_the_login_stalls),
        LAB_PLAIN_AND_TLS(nobody_waits_longer_than_he_said_where_lines_are_reset),
        LAB_PLAIN_AND_TLS(nobody_waits_longer_than_he_said_where_the_server_is_stopped),
        LAB_EVERY_WAY(the_server_counts_no_more_connections_than_the_pool_may_have),
    };
    return lab_main(argc, argv, tests);
}
