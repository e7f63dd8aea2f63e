/*
 * Waiting for a connection: in which order, for how long, and what one is told.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- how many ---------------------------------------------------------------------------- */

SCENE(the_cap_holds_also_while_connects_yield, .max_size = 4, .max_connecting = 10)
{
    stage->fake.open.ms = 50;
    for (int i = 0; i < 40; i++)
        scene_call(stage, (struct caller){ .hold_ms = 30 });
    while (stage->playing) {
        scene_recount(stage->pool);
        world_advance_ms(1);
    }
    EXPECT_INT(stage->fake.alive_peak, 4);
    EXPECT_INT(stage->fake.opened, 4);
    EXPECT_INT(scene_stats(stage->pool).in_use_peak, 4);
    EXPECT_INT(scene_stats(stage->pool).acquired, 40);
}

SCENE(a_pool_opens_nothing_before_it_is_asked, .max_size = 4)
{
    world_advance_ms(60 * 1000);
    EXPECT_INT(stage->fake.attempts, 0);
}

SCENE(two_leases_of_one_coroutine_are_two_connections, .max_size = 2)
{
    weir_lease *one, *two;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &two, NULL), WEIR_OK);
    EXPECT_INT(weir_lease_conn_id(one), 1);
    EXPECT_INT(weir_lease_conn_id(two), 2);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    EXPECT_STATUS(weir_release(one), WEIR_OK);
}

/* ---- who is next ------------------------------------------------------------------------- */

enum { CROWD = 10000 };

SCENE(ten_thousand_waiters_are_served_in_the_order_they_came, .max_size = 3)
{
    struct caller **crowd = malloc(CROWD * sizeof *crowd);
    unsigned        astray = 0;

    stage->fake.open.ms = 5;
    for (int i = 0; i < CROWD; i++)
        crowd[i] = scene_call(stage, (struct caller){ .hold_ms = 1 + i % 3 });
    scene_wait(stage, 29000);
    for (unsigned i = 0; i < CROWD; i++)
        astray += crowd[i]->turn != i + 1;
    EXPECT_INT(astray, 0);
    EXPECT_INT(scene_stats(stage->pool).waiting_peak, CROWD);
    EXPECT_INT(stage->fake.opened, 3);
    free(crowd);
}

SCENE(the_queue_closes_ranks_when_waiters_leave, .max_size = 1)
{
    struct caller *crowd[1000];
    unsigned       astray = 0, turn = 1;

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    for (int i = 0; i < 1000; i++)
        crowd[i] =
            scene_call(stage, (struct caller){ .hold_ms = 1, .patience_ms = i % 4 ? 0 : 50 });
    world_advance_ms(20);
    for (int i = 1; i < 1000; i += 4)
        weir_cancel(crowd[i]->task);
    scene_wait(stage, 20000);
    for (int i = 0; i < 1000; i++) {
        weir_status wanted = i % 4 == 0 ? WEIR_TIMEOUT : i % 4 == 1 ? WEIR_CANCELED : WEIR_OK;
        astray += crowd[i]->status != wanted;
        astray += wanted == WEIR_OK && crowd[i]->turn != ++turn;
    }
    EXPECT_INT(astray, 0);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 250);
    EXPECT_INT(scene_stats(stage->pool).canceled, 250);
}

struct greedy {
    struct scene *stage;
    weir_status   again;
};

static weir_status release_and_ask_again(void *arg)
{
    struct greedy *me = arg;
    weir_lease    *lease;

    EXPECT_STATUS(weir_acquire(me->stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    weir_sleep(weir_in_ms(10));
    weir_release(lease);
    me->again = weir_acquire(me->stage->pool, WEIR_NOW, &lease, NULL);
    if (me->again == WEIR_OK)
        weir_release(lease);
    return WEIR_OK;
}

SCENE(who_gives_back_and_asks_again_does_not_overtake_a_waiter, .max_size = 1)
{
    struct greedy greedy = { .stage = stage };

    scene_spawn(stage, release_and_ask_again, &greedy);
    world_settle();
    struct caller *patient = scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 100);
    EXPECT_STATUS(greedy.again, WEIR_TIMEOUT);
    EXPECT_STATUS(patient->status, WEIR_OK);
    EXPECT_INT(patient->served_ms, 10);
}

SCENE(idle_connections_are_lent_last_in_first_out, .max_size = 3)
{
    struct caller *first[3];

    for (int i = 0; i < 3; i++)
        first[i] = scene_call(stage, (struct caller){ .hold_ms = 10 + i });
    scene_wait(stage, 100);
    for (int i = 0; i < 5; i++) {
        struct caller *later = scene_call(stage, (struct caller){ .hold_ms = 1 });
        scene_wait(stage, 100);
        EXPECT_INT(later->conn, first[2]->conn);
    }
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    EXPECT_INT(scene_stats(stage->pool).acquired_at_once, 5);
}

/* ---- how long ---------------------------------------------------------------------------- */

SCENE(a_waiter_gives_up_at_its_deadline, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });

    world_advance_ms(99);
    EXPECT(!late->done);
    EXPECT_INT(scene_stats(stage->pool).waiting, 1);
    world_advance_ms(1);
    EXPECT(late->done);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
    EXPECT_INT(late->served_ms - late->asked_ms, 100);
    EXPECT_INT(scene_stats(stage->pool).waiting, 0);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 1);
}

SCENE(a_waiter_obeys_the_scope_around_it, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *late =
        scene_call(stage, (struct caller){ .patience_ms = 500, .scope_ms = 100 });

    world_advance_ms(99);
    EXPECT(!late->done);
    world_advance_ms(1);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
}

SCENE(a_waiter_obeys_the_pools_own_limit, .max_size = 1, .acquire_timeout_ms = 100)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 500 });
    struct caller *endless = scene_call(stage, (struct caller){ 0 });

    world_advance_ms(99);
    EXPECT(!late->done && !endless->done);
    world_advance_ms(1);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
    EXPECT_STATUS(endless->status, WEIR_TIMEOUT);
}

SCENE(nobody_waits_longer_than_thirty_seconds_by_default, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 60000 });
    world_settle();
    struct caller *late = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100000);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
    EXPECT_INT(late->served_ms - late->asked_ms, 30000);
}

SCENE(never_waits_for_ever, .max_size = 1, .acquire_timeout_ms = WEIR_NEVER)
{
    const int64_t day = 24 * 60 * 60 * 1000;

    scene_call(stage, (struct caller){ .hold_ms = day });
    world_settle();
    struct caller *late = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(day - 1);
    EXPECT(!late->done);
    world_advance_ms(1);
    EXPECT_STATUS(late->status, WEIR_OK);
}

SCENE(now_takes_what_is_idle_and_waits_for_nothing, .max_size = 2)
{
    struct caller *early = scene_call(stage, (struct caller){ .patience_ms = NOT_AT_ALL });
    world_settle();
    EXPECT_STATUS(early->status, WEIR_TIMEOUT);
    EXPECT_TEXT(early->err.message, "1 connecting, 0 short of descriptors");
    EXPECT_INT(early->served_ms, early->asked_ms);
    EXPECT_INT(stage->fake.attempts, 0); /* it did not wait, so nothing was opened for it */

    scene_call(stage, (struct caller){ 0 });
    world_settle();
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = NOT_AT_ALL });
    world_settle();
    EXPECT_STATUS(late->status, WEIR_OK);
}

/* ---- in the same turn -------------------------------------------------------------------- */

SCENE(the_connection_wins_when_deadline_and_hand_over_coincide, .max_size = 1)
{
    scene_call(stage, (struct caller){ 0 }); /* opens it, so that the next has it at once */
    world_settle();

    /* Both alarms ring in one turn; the holder runs first, and the waiter is late already. */
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });
    world_advance_ms(99);
    EXPECT(!late->done);
    world_advance_ms(1);
    EXPECT(late->done);
    EXPECT_STATUS(late->status, WEIR_OK);
    EXPECT_INT(late->served_ms - late->asked_ms, 100);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 0);
}

SCENE(a_hand_over_is_passed_on_by_a_waiter_cancelled_in_the_same_turn, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    struct caller *doomed = scene_call(stage, (struct caller){ 0 });
    struct caller *next = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    weir_cancel(doomed->task);
    world_settle();
    EXPECT_STATUS(doomed->status, WEIR_CANCELED);
    EXPECT_STATUS(next->status, WEIR_OK);
    EXPECT_INT(stage->fake.opened, 1);
    EXPECT_INT(stage->fake.closed, 0);
}

SCENE(a_waiter_cancelled_before_the_hand_over_of_the_same_turn_passes_it_on_too, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    struct caller *doomed = scene_call(stage, (struct caller){ 0 });
    struct caller *next = scene_call(stage, (struct caller){ 0 });
    world_settle();
    weir_cancel(doomed->task);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    world_settle();
    EXPECT_STATUS(doomed->status, WEIR_CANCELED);
    EXPECT_STATUS(next->status, WEIR_OK);
    EXPECT_INT(stage->fake.closed, 0);
}

SCENE(a_hand_over_that_nobody_wants_becomes_idle, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    struct caller *doomed = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    weir_cancel(doomed->task);
    world_settle();
    EXPECT_STATUS(doomed->status, WEIR_CANCELED);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
}

SCENE(a_cancelled_coroutine_gets_nothing_even_where_some_is_idle, .max_size = 1)
{
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    struct caller *doomed = scene_call(stage, (struct caller){ 0 });
    weir_cancel(doomed->task);
    world_settle();
    EXPECT_STATUS(doomed->status, WEIR_CANCELED);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
}

static weir_status ask_under_a_shield(void *arg)
{
    struct caller *me = arg;

    WEIR_SHIELD(WEIR_FOREVER);
    me->status = weir_acquire(me->pool, weir_in_ms(me->patience_ms), &me->lease, &me->err);
    (void)weir_release(me->lease);
    return WEIR_OK;
}

SCENE(a_shield_holds_a_cancel_off_while_one_waits, .max_size = 1)
{
    struct caller shielded = { .pool = stage->pool, .patience_ms = 100, .status = WEIR_FAILED };

    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    weir_task *task = scene_spawn(stage, ask_under_a_shield, &shielded);
    world_advance_ms(10);
    weir_cancel(task);
    world_advance_ms(10);
    EXPECT_STATUS(shielded.status, WEIR_FAILED);
    scene_wait(stage, 100);
    EXPECT_STATUS(shielded.status, WEIR_OK);
}

/* ---- what one is told -------------------------------------------------------------------- */

SCENE(a_timeout_tells_who_holds_what_since_when, .max_size = 2, .name = "orders")
{
    weir_lease *lease;
    weir_error  err;

    EXPECT_STATUS(weir_acquire_at(stage->pool, WEIR_SCOPE, &lease, NULL, "report.c:42"), WEIR_OK);
    world_advance_ms(500);
    scene_call(stage, (struct caller){ .hold_ms = 10000 });
    world_settle();
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_acquire(stage->pool, weir_in_ms(250), &(weir_lease *){ NULL }, &err),
                  WEIR_TIMEOUT);
    EXPECT_STATUS(err.status, WEIR_TIMEOUT);
    EXPECT_INT(err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_TEXT(err.message, "pool orders: no connection after 250 ms");
    EXPECT_TEXT(err.message, "2 of 2 in use by report.c:42 (750 ms), ");
    EXPECT_TEXT(err.message, "pool_scene.c:");
    EXPECT_TEXT(err.message, "0 connecting, 0 short of descriptors, 1 waiting");
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

SCENE(a_timeout_tells_the_last_failure, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 }); /* a live one: nobody fails fast */
    world_settle();
    stage->fake.open = (struct fake_step){ WEIR_CONNECT, 1, false, "Too many connections", 1040 };
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
    EXPECT_TEXT(late->err.message, "last failure: Too many connections");
    EXPECT_INT(late->err.native, 1040);
}

SCENE(a_long_site_is_cut_and_never_overflows, .max_size = 3)
{
    char        site[1000];
    weir_lease *leases[3];
    weir_error  err;

    memset(site, 'x', sizeof site - 1);
    site[sizeof site - 1] = '\0';
    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(weir_acquire_at(stage->pool, WEIR_SCOPE, &leases[i], NULL, site), WEIR_OK);
    /* All three are ours: that would be a deadlock, told with the sites. */
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &(weir_lease *){ NULL }, &err),
                  WEIR_DEADLOCK);
    EXPECT(strlen(err.message) < sizeof err.message);
    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(weir_release(leases[i]), WEIR_OK);
}

SCENE(a_full_queue_refuses_at_once, .max_size = 1, .max_waiters = 2)
{
    struct caller *crowd[4];

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    for (int i = 0; i < 4; i++)
        crowd[i] = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT(!crowd[0]->done && !crowd[1]->done);
    EXPECT_STATUS(crowd[2]->status, WEIR_FULL);
    EXPECT_STATUS(crowd[3]->status, WEIR_FULL);
    EXPECT_INT(crowd[3]->served_ms, crowd[3]->asked_ms);
    EXPECT_TEXT(crowd[3]->err.message, "2 waiting");
    EXPECT_INT(scene_stats(stage->pool).refused, 2);
    scene_wait(stage, 1000);
    EXPECT_STATUS(crowd[0]->status, WEIR_OK);
    EXPECT_STATUS(crowd[1]->status, WEIR_OK);
}

SCENE(a_closed_pool_says_so, .max_size = 1)
{
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    struct caller *late = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(late->status, WEIR_CLOSED);
    EXPECT_TEXT(late->err.message, "is closed");
}

static weir_pool  *outside_pool;
static weir_status outside_status;
static weir_error  outside_err;
static weir_lease *outside_lease;

static void ask_on_the_hubs_stack(weir_alarm *alarm)
{
    (void)alarm;
    outside_lease = (weir_lease *)1;
    outside_status = weir_acquire(outside_pool, WEIR_SCOPE, &outside_lease, &outside_err);
}

SCENE(outside_of_a_coroutine_nobody_can_wait, .max_size = 1)
{
    weir_alarm alarm = { 0 };

    EXPECT_STATUS(weir_alarm_reserve(1), WEIR_OK);
    outside_pool = stage->pool;
    weir_alarm_set(&alarm, weir_now(), ask_on_the_hubs_stack);
    world_settle();
    (void)weir_alarm_reserve(-1);
    EXPECT_STATUS(outside_status, WEIR_USAGE);
    EXPECT(outside_lease == NULL);
    EXPECT_TEXT(outside_err.message, "outside of a coroutine");
}

/* ---- deadlock ---------------------------------------------------------------------------- */

struct nester {
    weir_pool  *pool;
    unsigned    wants;
    weir_status status;
    int64_t     at_ms;
    weir_error  err;
};

/* One more each millisecond, and all of them back at the end. */
static weir_status nest(void *arg)
{
    struct nester *me = arg;
    weir_lease    *leases[8] = { NULL };

    for (unsigned i = 0; i < me->wants && me->status == WEIR_OK; i++) {
        me->status = weir_acquire(me->pool, WEIR_SCOPE, &leases[i], &me->err);
        me->at_ms = world_now_ms();
        weir_sleep(weir_in_ms(1));
    }
    for (unsigned i = 0; i < me->wants; i++)
        (void)weir_release(leases[i]);
    return WEIR_OK;
}

SCENE(a_deadlock_of_nested_acquires_is_told_at_once, .max_size = 2)
{
    struct nester one = { .pool = stage->pool, .wants = 2 };
    struct nester two = { .pool = stage->pool, .wants = 2 };

    scene_spawn(stage, nest, &one);
    scene_spawn(stage, nest, &two);
    world_advance_ms(10);
    EXPECT_INT(stage->playing, 0);
    EXPECT_STATUS(one.status, WEIR_OK); /* he goes on with what the other gave back */
    EXPECT_STATUS(two.status, WEIR_DEADLOCK);
    EXPECT_INT(two.at_ms, 1);
    EXPECT_TEXT(two.err.message, "test_pool_acquire.c:");
    EXPECT_TEXT(two.err.message, "Give one back first");
    EXPECT_INT(scene_stats(stage->pool).refused, 1);
}

SCENE(who_holds_all_and_wants_one_more_deadlocks_with_himself, .max_size = 3)
{
    struct nester one = { .pool = stage->pool, .wants = 4 };

    scene_spawn(stage, nest, &one);
    scene_wait(stage, 100);
    EXPECT_STATUS(one.status, WEIR_DEADLOCK);
    EXPECT_INT(one.at_ms, 3);
}

SCENE(a_crowd_that_nests_with_one_holder_at_work_is_no_deadlock, .max_size = 3)
{
    struct nester nesters[2] = { { .pool = stage->pool, .wants = 2 },
                                 { .pool = stage->pool, .wants = 2 } };

    scene_call(stage, (struct caller){ .hold_ms = 50 });
    for (int i = 0; i < 2; i++)
        scene_spawn(stage, nest, &nesters[i]);
    scene_wait(stage, 1000);
    EXPECT_STATUS(nesters[0].status, WEIR_OK);
    EXPECT_STATUS(nesters[1].status, WEIR_OK);
}

SCENE(nesting_over_two_pools_is_no_deadlock_of_one, .max_size = 1)
{
    static struct fake other_fake;
    weir_lease        *one, *two;

    other_fake = (struct fake){ 0 };
    weir_pool *other = scene_pool(&other_fake, (weir_pool_opts){ .max_size = 1 });
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(other, WEIR_SCOPE, &two, NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(one), WEIR_OK);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    weir_pool_free(other);
}

SCENE(a_lease_given_to_somebody_who_waits_counts_for_the_deadlock, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_settle();
    /* He waits for the only connection, and now he holds it: nobody could ever end that. */
    EXPECT_STATUS(weir_lease_give(lease, waits->task), WEIR_OK);
    world_settle();
    EXPECT(waits->done);
    EXPECT_STATUS(waits->status, WEIR_DEADLOCK);
    EXPECT_TEXT(waits->err.message, "all 1 connections are held");
    world_settle();
    EXPECT_INT(scene_stats(stage->pool).forgotten, 1); /* he did not know that he had it */
}

/* ---- options ----------------------------------------------------------------------------- */

static weir_error refused(struct fake *fake, weir_pool_opts opts)
{
    weir_pool *pool = (weir_pool *)1;
    weir_error err = { 0 };
    unsigned   freed = fake->configs_freed;

    EXPECT_STATUS(weir_pool_new(&fake_driver, fake, &opts, &pool, &err), WEIR_USAGE);
    EXPECT(pool == NULL);
    EXPECT_INT(fake->configs_freed, freed + 1); /* the config is the pool's also then */
    return err;
}

SCENE(each_bad_option_is_a_clear_error, .max_size = 1)
{
    static struct fake fake;

    fake = (struct fake){ .sockets = 1 };
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .acquire_timeout_ms = -2 }).message,
                "acquire_timeout_ms is -2");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .connect_timeout_ms = -5 }).message,
                "connect_timeout_ms is -5");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .query_timeout_ms = INT64_MIN }).message,
                "query_timeout_ms");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .reset_timeout_ms = -2 }).message,
                "reset_timeout_ms");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .close_timeout_ms = -2 }).message,
                "close_timeout_ms");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .idle_timeout_ms = -2 }).message,
                "idle_timeout_ms");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .max_age_ms = -2 }).message, "max_age_ms");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .min_idle = 3, .max_size = 2 }).message,
                "min_idle (3) is above max_size (2)");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .min_idle = 11 }).message,
                "min_idle (11) is above max_size (10)");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .on_exit = (weir_on_exit)7 }).message, "on_exit");
    EXPECT_TEXT(refused(&fake, (weir_pool_opts){ .reset = (weir_reset)7 }).message, "reset");
}

SCENE(describe_prints_what_is_in_force, .max_size = 7, .max_age_ms = WEIR_NEVER,
      .idle_timeout_ms = 1500, .reset = WEIR_RESET_FULL, .name = "shop")
{
    char text[1024];
    int  length = weir_pool_describe(stage->pool, text, sizeof text);

    EXPECT_INT(length, strlen(text));
    EXPECT_TEXT(text, "name = shop\n");
    EXPECT_TEXT(text, "driver = fake\n");
    EXPECT_TEXT(text, "max_size = 7\n");
    EXPECT_TEXT(text, "max_connecting = 2\n");
    EXPECT_TEXT(text, "acquire_timeout_ms = 30000\n");
    EXPECT_TEXT(text, "connect_timeout_ms = 10000\n");
    EXPECT_TEXT(text, "query_timeout_ms = 300000\n");
    EXPECT_TEXT(text, "reset_timeout_ms = 5000\n");
    EXPECT_TEXT(text, "close_timeout_ms = 1000\n");
    EXPECT_TEXT(text, "idle_timeout_ms = 1500\n");
    EXPECT_TEXT(text, "max_age_ms = never\n");
    EXPECT_TEXT(text, "on_exit = close\n");
    EXPECT_TEXT(text, "reset = full\n");
    EXPECT_INT(weir_pool_describe(stage->pool, text, 10), length); /* as snprintf(3) */
    EXPECT_INT(strlen(text), 9);
    EXPECT_INT(weir_pool_options(stage->pool)->max_age_ms, INT64_MAX);
}

SCENE(the_largest_limits_do_not_overflow, .max_size = 1, .acquire_timeout_ms = INT64_MAX,
      .connect_timeout_ms = INT64_MAX, .close_timeout_ms = INT64_MAX - 1,
      .idle_timeout_ms = INT64_MAX / 2, .max_age_ms = INT64_MAX - 1)
{
    struct caller *one = scene_call(stage, (struct caller){ .hold_ms = 10 });
    struct caller *two = scene_call(stage, (struct caller){ .hold_ms = 10 });

    scene_wait(stage, 1000);
    EXPECT_STATUS(one->status, WEIR_OK);
    EXPECT_STATUS(two->status, WEIR_OK);
    EXPECT_INT(one->conn, two->conn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cap_holds_also_while_connects_yield),
        cmocka_unit_test(a_pool_opens_nothing_before_it_is_asked),
        cmocka_unit_test(two_leases_of_one_coroutine_are_two_connections),
        cmocka_unit_test(ten_thousand_waiters_are_served_in_the_order_they_came),
        cmocka_unit_test(the_queue_closes_ranks_when_waiters_leave),
        cmocka_unit_test(who_gives_back_and_asks_again_does_not_overtake_a_waiter),
        cmocka_unit_test(idle_connections_are_lent_last_in_first_out),
        cmocka_unit_test(a_waiter_gives_up_at_its_deadline),
        cmocka_unit_test(a_waiter_obeys_the_scope_around_it),
        cmocka_unit_test(a_waiter_obeys_the_pools_own_limit),
        cmocka_unit_test(nobody_waits_longer_than_thirty_seconds_by_default),
        cmocka_unit_test(never_waits_for_ever),
        cmocka_unit_test(now_takes_what_is_idle_and_waits_for_nothing),
        cmocka_unit_test(the_connection_wins_when_deadline_and_hand_over_coincide),
        cmocka_unit_test(a_hand_over_is_passed_on_by_a_waiter_cancelled_in_the_same_turn),
        cmocka_unit_test(a_waiter_cancelled_before_the_hand_over_of_the_same_turn_passes_it_on_too),
        cmocka_unit_test(a_hand_over_that_nobody_wants_becomes_idle),
        cmocka_unit_test(a_cancelled_coroutine_gets_nothing_even_where_some_is_idle),
        cmocka_unit_test(a_shield_holds_a_cancel_off_while_one_waits),
        cmocka_unit_test(a_timeout_tells_who_holds_what_since_when),
        cmocka_unit_test(a_timeout_tells_the_last_failure),
        cmocka_unit_test(a_long_site_is_cut_and_never_overflows),
        cmocka_unit_test(a_full_queue_refuses_at_once),
        cmocka_unit_test(a_closed_pool_says_so),
        cmocka_unit_test(outside_of_a_coroutine_nobody_can_wait),
        cmocka_unit_test(a_deadlock_of_nested_acquires_is_told_at_once),
        cmocka_unit_test(who_holds_all_and_wants_one_more_deadlocks_with_himself),
        cmocka_unit_test(a_crowd_that_nests_with_one_holder_at_work_is_no_deadlock),
        cmocka_unit_test(nesting_over_two_pools_is_no_deadlock_of_one),
        cmocka_unit_test(a_lease_given_to_somebody_who_waits_counts_for_the_deadlock),
        cmocka_unit_test(each_bad_option_is_a_clear_error),
        cmocka_unit_test(describe_prints_what_is_in_force),
        cmocka_unit_test(the_largest_limits_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
