/*
 * A pool's life at run time: paused, ready, cleared, resized, drained; and the wrong calls.
 */
#include "pool_scene.h"

#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static weir_pool_stats stats_of(const struct scene *stage)
{
    return scene_stats(stage->pool);
}

/* Let `count` callers come and go at the same time, so that as many are idle. */
static void fill(struct scene *stage, int count)
{
    for (int i = 0; i < count; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_wait(stage, 100);
    EXPECT_INT(stats_of(stage).idle, count);
}

/* ---- paused and ready ----------------------------------------------------------------- */

SCENE(a_pool_may_start_paused, .min_idle = 2, .start_paused = true)
{
    struct caller *early = scene_call(stage, (struct caller){ 0 });

    world_advance_ms(1000);
    EXPECT_INT(stage->fake.attempts, 0);
    EXPECT_STATUS(early->status, WEIR_CONNECT);
    EXPECT_INT(early->err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_INT(early->served_ms, early->asked_ms);
    EXPECT_TEXT(early->err.message, "weir_pool_ready()");
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(stats_of(stage).idle, 2);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_READY);
}

SCENE(a_pause_tells_the_waiters_at_once_and_keeps_the_connections, .max_size = 1)
{
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK); /* twice is fine */
    world_settle();
    EXPECT(waits->done);
    EXPECT_STATUS(waits->status, WEIR_CONNECT);
    EXPECT_TEXT(waits->err.message, "is paused");
    EXPECT_INT(waits->served_ms, 10);
    scene_wait(stage, 1000);
    EXPECT_STATUS(holder->held, WEIR_OK);
    EXPECT_INT(stats_of(stage).idle, 1);
    EXPECT_INT(stage->fake.closed, 0);

    struct caller *refused = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(refused->status, WEIR_CONNECT); /* though one is idle */
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    struct caller *again = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_INT(again->conn, holder->conn);
}

SCENE(a_connect_under_way_when_a_pause_comes_is_kept_for_later, .max_size = 2)
{
    stage->fake.open.ms = 50;
    struct caller *asks = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    world_advance_ms(100);
    EXPECT_STATUS(asks->status, WEIR_CONNECT);
    EXPECT_INT(stats_of(stage).idle, 1);
    EXPECT_INT(stats_of(stage).connect_failures, 0);
}

SCENE(an_attempt_that_waits_for_descriptors_ends_with_a_pause, .max_size = 4)
{
    scene_set_budget(1);
    fill(stage, 1);
    scene_call(stage, (struct caller){ .hold_ms = 500 });
    world_settle();
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_INT(stats_of(stage).reserved, 1);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(stats_of(stage).reserved, 0);
    EXPECT_INT(scene_budget().waiting, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(pause_and_ready_in_one_step_lose_no_attempt, .max_size = 1, .min_idle = 1)
{
    /* Its first attempt has not even begun. */
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    world_advance_ms(1000);
    EXPECT_INT(stats_of(stage).idle, 1);
    EXPECT_INT(stats_of(stage).connect_failures, 0);
}

SCENE(ready_forgets_that_the_server_was_down, .max_size = 1)
{
    fake_script(&stage->fake, (struct fake_step){ .status = WEIR_CONNECT });
    struct caller *first = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(first->status, WEIR_CONNECT);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_READY); /* that pauses nothing */
    EXPECT_INT(stats_of(stage).generation, 0);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    struct caller *second = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(second->status, WEIR_OK);
    EXPECT_INT(second->served_ms, 0);
}

SCENE(a_connect_that_fails_leaves_the_connections_there_are, .max_size = 3)
{
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    stage->fake.open.status = WEIR_CONNECT;
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(waits->status, WEIR_OK); /* with the one that came back */
    EXPECT(stats_of(stage).connect_failures > 0);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_READY);
    EXPECT_INT(stage->fake.closed, 0);
}

/* ---- cleared -------------------------------------------------------------------------- */

SCENE(a_clear_ends_idle_connections_now_and_used_ones_when_they_come_back, .max_size = 3)
{
    const weir_error why = { .message = "not primary any more", .native = 10107 };

    fill(stage, 3);
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 100, .queries = true });
    world_settle();
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, &why, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(stats_of(stage).generation, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 2);
    EXPECT(holder->holding);
    struct caller *refused = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(refused->status, WEIR_CONNECT);
    EXPECT_TEXT(refused->err.message, "was cleared: not primary any more");
    EXPECT_INT(refused->err.native, 10107);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    struct caller *next = scene_call(stage, (struct caller){ .hold_ms = 1000 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(holder->held, WEIR_OK);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 3);
    EXPECT_INT(next->conn, 4);
    EXPECT_INT(stage->fake.interrupts, 0);
}

SCENE(a_stale_connection_is_not_reset_first, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 10, .leaves = WEIR_DIRTY });
    world_settle();
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    scene_wait(stage, 100);
    EXPECT_INT(stage->fake.resets, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 1);
}

SCENE(a_reset_under_way_is_given_up_by_a_clear, .max_size = 1)
{
    stage->fake.reset.ms = FAKE_FOREVER;
    scene_call(stage, (struct caller){ .leaves = WEIR_DIRTY });
    world_advance_ms(10);
    EXPECT_INT(stats_of(stage).resetting, 1);
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 1);
    EXPECT_INT(world_now_ms(), 10);
}

SCENE(a_connect_begun_before_a_clear_is_closed_when_it_is_there, .max_size = 1)
{
    stage->fake.open.ms = 50;
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    world_advance_ms(10);
    struct caller *next = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_INT(next->conn, 2);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 1);
    EXPECT_INT(stage->fake.opened, 2);
}

SCENE(an_interrupting_clear_cuts_users_and_connects, .max_size = 2)
{
    struct caller *user = scene_call(stage, (struct caller){ .hold_ms = 1000, .queries = true });
    world_settle();
    stage->fake.open.ms = FAKE_FOREVER;
    struct caller *asks = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(world_now_ms(), 10);
    EXPECT(user->done && asks->done);
    EXPECT_STATUS(user->held, WEIR_LOST);
    EXPECT_STATUS(asks->status, WEIR_CONNECT);
    EXPECT_INT(stage->fake.interrupts, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 1);
    EXPECT_INT(stats_of(stage).connect_failures, 0); /* nobody's fault */
    EXPECT_INT(stage->fake.descriptors, 0);
}

/* ---- very many at once ----------------------------------------------------------------- */

enum { MANY = 600, GOODBYES_A_TURN = 16 };

/* Until all but `left` have gone: how many goodbyes did somebody who only yields ever wait for? */
static unsigned most_in_a_turn(struct scene *stage, unsigned left)
{
    unsigned most = 0, before = stage->fake.closed;

    for (int i = 0; i < 100 * MANY && stage->fake.closed < MANY - left; i++) {
        (void)weir_yield();
        if (stage->fake.closed - before > most)
            most = stage->fake.closed - before;
        before = stage->fake.closed;
    }
    EXPECT_INT(stage->fake.closed, MANY - left);
    EXPECT_INT(stats_of(stage).closing, 0);
    return most;
}

SCENE(very_many_that_were_cleared_go_a_few_a_turn, .max_size = MANY, .max_connecting = MANY)
{
    fill(stage, MANY);
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    EXPECT_INT(most_in_a_turn(stage, 0), GOODBYES_A_TURN);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), MANY);
}

SCENE(who_comes_right_after_a_clear_waits_for_none_of_its_goodbyes, .max_size = MANY,
      .max_connecting = MANY)
{
    fill(stage, MANY);
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    struct caller *next = scene_call(stage, (struct caller){ .hold_ms = 1 });
    for (int turn = 0; turn < 4; turn++)
        (void)weir_yield();
    EXPECT(next->holding);
    EXPECT_INT(next->conn, MANY + 1);
    EXPECT(stage->fake.closed < MANY / 2);
    EXPECT_INT(most_in_a_turn(stage, 0), GOODBYES_A_TURN);
}

SCENE(very_many_too_many_go_a_few_a_turn, .max_size = MANY, .max_connecting = MANY)
{
    fill(stage, MANY);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, NULL), WEIR_OK);
    EXPECT_INT(stats_of(stage).closing, MANY - 1);
    EXPECT_INT(most_in_a_turn(stage, 1), GOODBYES_A_TURN);
}

SCENE(very_many_of_a_closed_pool_go_a_few_a_turn, .max_size = MANY, .max_connecting = MANY)
{
    fill(stage, MANY);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_NOW), WEIR_TIMEOUT);
    EXPECT_INT(stats_of(stage).idle, 0);
    EXPECT_INT(most_in_a_turn(stage, 0), GOODBYES_A_TURN);
}

SCENE(goodbyes_that_stall_hold_up_no_others, .max_size = MANY, .max_connecting = MANY,
      .close_timeout_ms = 1000)
{
    fill(stage, MANY);
    stage->fake.close.ms = FAKE_FOREVER;
    EXPECT_STATUS(weir_pool_close(stage->pool, weir_in_ms(1100)), WEIR_OK);
}

/* ---- its size -------------------------------------------------------------------------- */

SCENE(a_larger_pool_serves_those_who_wait, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    struct caller *waits = scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_advance_ms(10);
    EXPECT(!waits->holding);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 2, NULL), WEIR_OK);
    world_settle();
    EXPECT(waits->holding);
    EXPECT_INT(stage->fake.alive_peak, 2);
}

SCENE(a_smaller_pool_closes_idle_ones_now_and_others_as_they_come_back, .max_size = 4)
{
    fill(stage, 4);
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 100 + 100 * i });
    world_settle();
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, NULL), WEIR_OK);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_RESIZED) + stats_of(stage).closing, 1);
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(150);
    EXPECT_INT(stats_of(stage).in_use, 2);
    EXPECT(!waits->done);
    world_advance_ms(100);
    EXPECT_INT(stats_of(stage).in_use, 1);
    EXPECT(!waits->done); /* still one too many until now */
    scene_wait(stage, 1000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 301); /* the last of the three is handed over */
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_RESIZED), 3);
    EXPECT_INT(stats_of(stage).idle, 1);
    EXPECT(!stage->pool->choosy);
}

struct nester {
    weir_pool  *pool;
    weir_status status;
};

static weir_status take_two(void *arg)
{
    struct nester *me = arg;
    weir_lease    *one, *two = NULL;

    EXPECT_STATUS(weir_acquire(me->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    (void)weir_sleep(weir_in_ms(10));
    me->status = weir_acquire(me->pool, weir_in_ms(5000), &two, NULL);
    EXPECT_STATUS(weir_release(one), WEIR_OK);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    return WEIR_OK;
}

SCENE(a_pool_made_so_small_that_its_holders_are_stuck_tells_one_of_them, .max_size = 3)
{
    struct nester nesters[2] = { { .pool = stage->pool }, { .pool = stage->pool } };

    for (int i = 0; i < 2; i++)
        scene_spawn(stage, take_two, &nesters[i]);
    world_advance_ms(5);
    stage->fake.open.ms = 500; /* of the third, which they wait for */
    world_advance_ms(15);
    EXPECT_INT(stats_of(stage).waiting, 2);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 2, NULL), WEIR_OK);
    world_settle();
    EXPECT_STATUS(nesters[1].status, WEIR_DEADLOCK);
    EXPECT_STATUS(nesters[0].status, WEIR_OK);
    scene_wait(stage, 1000);
    EXPECT_INT(stats_of(stage).refused, 1);
}

/* He and another hold two of what shall be one; the other's goes, and then all there is is his. */
SCENE(a_pool_that_shrinks_later_to_its_stuck_holders_tells_one_too, .max_size = 2)
{
    struct nester nester = { .pool = stage->pool };

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    scene_spawn(stage, take_two, &nester);
    world_advance_ms(20);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(stats_of(stage).refused, 0);
    scene_wait(stage, 1000);
    EXPECT_STATUS(nester.status, WEIR_DEADLOCK);
    EXPECT_INT(stats_of(stage).refused, 1);
}

SCENE(a_size_that_cannot_be_is_refused, .max_size = 4, .min_idle = 2)
{
    weir_error err;

    EXPECT_STATUS(weir_pool_resize(stage->pool, 0, &err), WEIR_USAGE);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "min_idle (2)");
    EXPECT_INT(stats_of(stage).max_size, 4);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 2, &err), WEIR_OK);
}

SCENE(min_size_counts_those_in_use_too, .max_size = 4, .min_size = 2, .idle_timeout_ms = 100)
{
    world_settle();
    EXPECT_INT(stats_of(stage).idle, 2);
    scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_settle();
    EXPECT_INT(stage->fake.opened, 2);
    scene_wait(stage, 10);
    world_advance_ms(1000);
    EXPECT_INT(stats_of(stage).idle, 2); /* not closed, though unused */
    EXPECT_INT(stage->fake.closed, 0);
}

/* ---- drained --------------------------------------------------------------------------- */

SCENE(a_drained_pool_is_empty_and_starts_afresh, .max_size = 3, .min_idle = 1)
{
    weir_error err;

    stage->fake.close.ms = 20;
    fill(stage, 3);
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    int64_t start = world_now_ms();
    EXPECT_STATUS(weir_pool_drain(stage->pool, weir_in_ms(50), &err), WEIR_TIMEOUT);
    EXPECT_TEXT(err.message, "1 connections in use");
    EXPECT_STATUS(weir_pool_drain(stage->pool, WEIR_FOREVER, &err), WEIR_OK);
    EXPECT_INT(world_now_ms() - start, 120);
    EXPECT_INT(stage->fake.descriptors, 0);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_PAUSED);
    EXPECT_STATUS(weir_pool_ready(stage->pool, &err), WEIR_OK);
    world_settle();
    EXPECT_INT(stats_of(stage).idle, 1);
}

SCENE(a_pool_is_not_drained_by_its_own_holder, .max_size = 1)
{
    weir_lease *lease;
    weir_error  err;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, &err), WEIR_OK);
    EXPECT_STATUS(weir_pool_drain(stage->pool, WEIR_FOREVER, &err), WEIR_DEADLOCK);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_READY);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

SCENE(a_closed_pool_refuses_every_verb, .max_size = 1)
{
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_CLOSED);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_CLOSED);
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_CLOSED);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 2, NULL), WEIR_CLOSED);
    EXPECT_STATUS(weir_pool_drain(stage->pool, WEIR_FOREVER, NULL), WEIR_CLOSED);
}

/* ---- wrong calls ----------------------------------------------------------------------- */

static void *call_from_elsewhere(void *arg)
{
    weir_pool *pool = arg;
    weir_status *results = calloc(5, sizeof *results);

    if (!results)
        return NULL;
    results[0] = weir_pool_close(pool, WEIR_FOREVER);
    results[1] = weir_pool_pause(pool, NULL);
    results[2] = weir_pool_clear(pool, true, NULL, NULL);
    results[3] = weir_pool_resize(pool, 5, NULL);
    results[4] = weir_pool_drain(pool, WEIR_FOREVER, NULL);
    weir_pool_free(pool);
    return results;
}

SCENE(another_thread_is_refused_and_changes_nothing, .max_size = 2)
{
    pthread_t thread;
    void     *results = NULL;

    fill(stage, 2);
    EXPECT_INT(pthread_create(&thread, NULL, call_from_elsewhere, stage->pool), 0);
    EXPECT_INT(pthread_join(thread, &results), 0);
    for (int i = 0; results && i < 5; i++)
        EXPECT_STATUS(((weir_status *)results)[i], WEIR_USAGE);
    EXPECT(results != NULL);
    free(results);
    EXPECT(scene_logged("weir_pool_close() of pool fake by another thread"));
    EXPECT(scene_logged("weir_pool_free() of pool fake by another thread"));
    EXPECT_INT(stats_of(stage).idle, 2);
    EXPECT_INT(weir_pool_state_of(stage->pool), WEIR_POOL_READY);
}

SCENE(limits_at_the_end_of_their_range_do_not_overflow, .max_size = UINT32_MAX,
      .max_age_ms = INT64_MAX - 1, .idle_timeout_ms = INT64_MAX - 1)
{
    fill(stage, 16); /* the age of about half of them is lengthened */
    world_advance_ms(1000LL * 3600 * 24 * 365);
    EXPECT_INT(stats_of(stage).idle, 16);
    EXPECT_INT(stage->fake.closed, 0);
}

SCENE(a_minimum_at_the_end_of_its_range_does_not_overflow, .max_size = UINT32_MAX,
      .min_idle = UINT32_MAX, .start_paused = true)
{
    /* One waiter more than UINT_MAX wanted: as many as there may be, and not none. */
    stage->pool->waiting++;
    EXPECT(dial_is_wanted(stage->pool, 7));
    stage->pool->waiting--;
}

SCENE(a_minimum_above_max_size_is_refused_with_words, .max_size = 1)
{
    static struct fake other;
    weir_error         err;
    weir_pool         *pool;

    other = (struct fake){ 0 };
    fake_init(&other);
    EXPECT_STATUS(weir_pool_new(&fake_driver, &other,
                                &(weir_pool_opts){ .max_size = 2, .min_idle = 3 }, &pool, &err),
                  WEIR_USAGE);
    EXPECT_TEXT(err.message, "min_idle (3) is above max_size (2)");
    EXPECT_STATUS(weir_pool_new(&fake_driver, &other,
                                &(weir_pool_opts){ .max_size = 2, .min_size = 3 }, &pool, &err),
                  WEIR_USAGE);
    EXPECT_TEXT(err.message, "min_size (3) is above max_size (2)");
}

SCENE(an_acquire_without_a_place_for_the_lease_is_told_so, .max_size = 1)
{
    weir_error err;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, NULL, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "without a place for the lease");
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, NULL, &err), WEIR_USAGE);
    EXPECT_INT(stage->fake.attempts, 0);
}

static weir_status nothing(void *arg)
{
    (void)arg;
    return WEIR_OK;
}

SCENE(giving_away_what_cannot_be_given_says_why, .max_size = 2)
{
    weir_group *group;
    weir_lease *local, *lease;

    EXPECT_STATUS(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *ended = weir_spawn(group, nothing, NULL);
    EXPECT_STATUS(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &local, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_give(local, weir_self()), WEIR_USAGE);
    EXPECT(scene_logged("a lease of weir_local_lease() cannot be given away"));
    EXPECT_STATUS(weir_lease_give(lease, ended), WEIR_USAGE);
    EXPECT(scene_logged("cannot be given to a coroutine that has ended"));
    EXPECT_STATUS(weir_lease_give(NULL, weir_self()), WEIR_USAGE);
    EXPECT(scene_logged("giving away no lease"));
    EXPECT_STATUS(weir_lease_give(lease, NULL), WEIR_USAGE);
    EXPECT(scene_logged("giving away to no task"));
    EXPECT(!scene_logged("holds it")); /* the caller does */
    EXPECT_STATUS(weir_release(local), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    weir_group_free(group);
}

SCENE(who_holds_all_that_the_budget_allows_deadlocks_at_once, .max_size = 10)
{
    weir_lease *leases[2], *none;
    weir_error  err;

    scene_set_budget(2);
    for (int i = 0; i < 2; i++)
        EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &leases[i], &err), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &none, &err), WEIR_DEADLOCK);
    EXPECT_TEXT(err.message, "all 2 connections that the process has descriptors for");
    EXPECT_INT(world_now_ms(), 0);
    EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &leases[0], &err), WEIR_OK);
    for (int i = 0; i < 2; i++)
        EXPECT_STATUS(weir_release(leases[i]), WEIR_OK);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(what_somebody_else_holds_of_the_budget_may_come_back, .max_size = 10)
{
    weir_budget_token token;
    weir_lease       *lease, *none;

    scene_set_budget(2);
    EXPECT_STATUS(weir_budget_take(1, WEIR_SCOPE, &token, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, weir_in_ms(20), &none, NULL), WEIR_TIMEOUT);
    weir_budget_give(&token);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    scene_set_budget(SCENE_DESCRIPTORS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_may_start_paused),
        cmocka_unit_test(a_pause_tells_the_waiters_at_once_and_keeps_the_connections),
        cmocka_unit_test(a_connect_under_way_when_a_pause_comes_is_kept_for_later),
        cmocka_unit_test(an_attempt_that_waits_for_descriptors_ends_with_a_pause),
        cmocka_unit_test(pause_and_ready_in_one_step_lose_no_attempt),
        cmocka_unit_test(ready_forgets_that_the_server_was_down),
        cmocka_unit_test(a_connect_that_fails_leaves_the_connections_there_are),
        cmocka_unit_test(a_clear_ends_idle_connections_now_and_used_ones_when_they_come_back),
        cmocka_unit_test(a_stale_connection_is_not_reset_first),
        cmocka_unit_test(a_reset_under_way_is_given_up_by_a_clear),
        cmocka_unit_test(a_connect_begun_before_a_clear_is_closed_when_it_is_there),
        cmocka_unit_test(an_interrupting_clear_cuts_users_and_connects),
        cmocka_unit_test(very_many_that_were_cleared_go_a_few_a_turn),
        cmocka_unit_test(who_comes_right_after_a_clear_waits_for_none_of_its_goodbyes),
        cmocka_unit_test(very_many_too_many_go_a_few_a_turn),
        cmocka_unit_test(very_many_of_a_closed_pool_go_a_few_a_turn),
        cmocka_unit_test(goodbyes_that_stall_hold_up_no_others),
        cmocka_unit_test(a_larger_pool_serves_those_who_wait),
        cmocka_unit_test(a_smaller_pool_closes_idle_ones_now_and_others_as_they_come_back),
        cmocka_unit_test(a_pool_made_so_small_that_its_holders_are_stuck_tells_one_of_them),
        cmocka_unit_test(a_pool_that_shrinks_later_to_its_stuck_holders_tells_one_too),
        cmocka_unit_test(a_size_that_cannot_be_is_refused),
        cmocka_unit_test(min_size_counts_those_in_use_too),
        cmocka_unit_test(a_drained_pool_is_empty_and_starts_afresh),
        cmocka_unit_test(a_pool_is_not_drained_by_its_own_holder),
        cmocka_unit_test(a_closed_pool_refuses_every_verb),
        cmocka_unit_test(another_thread_is_refused_and_changes_nothing),
        cmocka_unit_test(limits_at_the_end_of_their_range_do_not_overflow),
        cmocka_unit_test(a_minimum_at_the_end_of_its_range_does_not_overflow),
        cmocka_unit_test(a_minimum_above_max_size_is_refused_with_words),
        cmocka_unit_test(an_acquire_without_a_place_for_the_lease_is_told_so),
        cmocka_unit_test(giving_away_what_cannot_be_given_says_why),
        cmocka_unit_test(who_holds_all_that_the_budget_allows_deadlocks_at_once),
        cmocka_unit_test(what_somebody_else_holds_of_the_budget_may_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
