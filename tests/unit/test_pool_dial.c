/*
 * Opening connections: when, how many, and what becomes of those who wait when it fails.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdlib.h>
#include <string.h>

static const struct fake_step refused = { WEIR_CONNECT, 1, false, "Connection refused", 2002 };
static const struct fake_step stalls = { .ms = FAKE_FOREVER };

/* ---- demand ------------------------------------------------------------------------------ */

SCENE(no_more_than_max_connecting_open_at_once, .max_size = 20, .max_connecting = 3)
{
    stage->fake.open.ms = 50;
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_advance_ms(49);
    EXPECT_INT(scene_stats(stage->pool).connecting, 3);
    EXPECT_INT(stage->fake.attempts, 3);
    world_advance_ms(1);
    EXPECT_INT(scene_stats(stage->pool).in_use, 3);
    EXPECT_INT(stage->fake.attempts, 6);
    scene_wait(stage, 10000);
    EXPECT_INT(stage->fake.opening_peak, 3);
    EXPECT_INT(stage->fake.opened, 20);
}

SCENE(two_is_the_usual_number_of_connects_at_once, .max_size = 20)
{
    stage->fake.open.ms = 50;
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_wait(stage, 10000);
    EXPECT_INT(stage->fake.opening_peak, 2);
}

SCENE(demand_that_vanished_opens_nothing, .max_size = 10, .max_connecting = 1)
{
    stage->fake.open.ms = 100;
    struct caller *first = scene_call(stage, (struct caller){ 0 });
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .patience_ms = 50 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(first->status, WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 5);
    EXPECT_INT(stage->fake.attempts, 1);
}

SCENE(demand_that_vanished_before_the_keeper_ran_opens_nothing, .max_size = 10)
{
    for (int i = 0; i < 10; i++) {
        struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = NOT_AT_ALL });
        world_settle();
        EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    }
    EXPECT_INT(stage->fake.attempts, 0);
    EXPECT_INT(scene_stats(stage->pool).reserved, 0);
    EXPECT_INT(scene_budget().used, 0);
}

SCENE(an_abandoned_connect_is_kept, .max_size = 2)
{
    stage->fake.open.ms = 100;
    struct caller *hasty = scene_call(stage, (struct caller){ .patience_ms = 30 });
    scene_wait(stage, 60);
    EXPECT_STATUS(hasty->status, WEIR_TIMEOUT);
    world_advance_ms(100);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    struct caller *next = scene_call(stage, (struct caller){ .patience_ms = NOT_AT_ALL });
    world_settle();
    EXPECT_STATUS(next->status, WEIR_OK);
    EXPECT_INT(stage->fake.attempts, 1);
}

SCENE(a_connect_serves_the_oldest_waiter_whoever_asked_for_it, .max_size = 1)
{
    stage->fake.open.ms = 100;
    struct caller *hasty = scene_call(stage, (struct caller){ .patience_ms = 30 });
    world_advance_ms(20);
    struct caller *patient = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(hasty->status, WEIR_TIMEOUT);
    EXPECT_STATUS(patient->status, WEIR_OK);
    EXPECT_INT(patient->served_ms, 100);
    EXPECT_INT(stage->fake.attempts, 1);
}

struct worker {
    struct scene *stage;
    int           jobs;
    int64_t       job_ms;
    unsigned      failed;
};

static weir_status work(void *arg)
{
    struct worker *me = arg;

    for (int i = 0; i < me->jobs; i++) {
        weir_lease *lease;
        me->failed += weir_acquire(me->stage->pool, WEIR_SCOPE, &lease, NULL) != WEIR_OK;
        if (lease && me->job_ms)
            (void)weir_sleep(weir_in_ms(me->job_ms));
        (void)weir_release(lease);
    }
    return WEIR_OK;
}

SCENE(fifty_workers_make_fifty_connections, .max_size = 100)
{
    struct worker workers[50];

    stage->fake.open.ms = 20;
    for (int i = 0; i < 50; i++) {
        workers[i] = (struct worker){ stage, 1000, 1, 0 };
        scene_spawn(stage, work, &workers[i]);
    }
    scene_wait(stage, 60000);
    for (int i = 0; i < 50; i++)
        EXPECT_INT(workers[i].failed, 0);
    EXPECT_INT(stage->fake.opened, 50);
    world_advance_ms(1000);
    EXPECT_INT(stage->fake.attempts, 50); /* none is made after the work has ended */
}

SCENE(a_burst_of_five_thousand_empty_jobs_makes_four_connections, .max_size = 100)
{
    stage->fake.open.ms = 250;
    for (int i = 0; i < 5000; i++)
        scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 29000);
    world_advance_ms(1000);
    EXPECT(stage->fake.attempts <= 4);
    EXPECT_INT(scene_stats(stage->pool).acquired, 5000);
}

SCENE(a_spike_is_served_by_what_is_there, .max_size = 50, .min_idle = 5)
{
    struct caller *crowd[50];
    int64_t        start, last = 0;

    stage->fake.open.ms = 150;
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 5);
    start = world_now_ms();
    for (int i = 0; i < 50; i++)
        crowd[i] = scene_call(stage, (struct caller){ .hold_ms = 2 });
    scene_wait(stage, 1000);
    for (int i = 0; i < 50; i++)
        last = crowd[i]->served_ms > last ? crowd[i]->served_ms : last;
    EXPECT_INT(last - start, 18); /* ten rounds of 2 ms, the last begins after nine */
    world_advance_ms(1000);
    EXPECT(stage->fake.opened <= 7); /* those two that were under way when it was over */
}

/* Ten requests a second for ten connections and jobs of a second: just saturated. */
SCENE(a_saturated_pool_recovers, .max_size = 10, .max_connecting = 10)
{
    static struct caller *calls[4000];
    int                   count = 0, good = 0;

    for (int i = 0; i < 50; i++)
        calls[count++] = scene_call(stage, (struct caller){ .patience_ms = 1000, .hold_ms = 1000 });
    for (int pause = 80; pause < 100; pause += 11)
        for (int i = 0; i < 60; i++, world_advance_ms(pause))
            calls[count++] =
                scene_call(stage, (struct caller){ .patience_ms = 1000, .hold_ms = 1000 });
    int calm = count;
    for (int i = 0; i < 300; i++, world_advance_ms(100))
        calls[count++] = scene_call(stage, (struct caller){ .patience_ms = 1000, .hold_ms = 1000 });
    scene_wait(stage, 10000);
    for (int i = calm; i < count && good < 100; i++)
        good = calls[i]->status == WEIR_OK ? good + 1 : 0;
    EXPECT_INT(good, 100);
}

/* ---- failure ----------------------------------------------------------------------------- */

SCENE(a_failed_connect_is_told_in_the_servers_own_words, .max_size = 1)
{
    stage->fake.open =
        (struct fake_step){ WEIR_USAGE, 5, false, "Access denied for user 'shop'@'localhost'",
                            1045 };
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(caller->status, WEIR_CONNECT);
    EXPECT_STATUS(caller->err.status, WEIR_CONNECT);
    EXPECT_TEXT(caller->err.message, "Access denied for user 'shop'@'localhost'");
    EXPECT_INT(caller->err.native, 1045);
    EXPECT_INT(caller->err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_INT(caller->served_ms, 5);
    EXPECT_INT(scene_stats(stage->pool).connect_failures, 1);
    EXPECT_INT(scene_stats(stage->pool).opened, 0);
}

SCENE(the_oldest_waiter_is_told_while_another_attempt_is_under_way, .max_size = 2)
{
    fake_script(&stage->fake, (struct fake_step){ WEIR_CONNECT, 10, false, "first", 1 });
    fake_script(&stage->fake, (struct fake_step){ WEIR_CONNECT, 20, false, "second", 2 });
    struct caller *crowd[3];
    for (int i = 0; i < 3; i++)
        crowd[i] = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT(crowd[0]->done && !crowd[1]->done && !crowd[2]->done);
    EXPECT_TEXT(crowd[0]->err.message, "first");
    world_advance_ms(10);
    /* Nothing is on its way any more: everybody is told. */
    EXPECT(crowd[1]->done && crowd[2]->done);
    EXPECT_TEXT(crowd[1]->err.message, "second");
    EXPECT_TEXT(crowd[2]->err.message, "second");
    EXPECT_INT(crowd[2]->err.native, 2);
}

SCENE(nobody_is_told_while_a_connection_lives_that_will_come_back, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 200 });
    world_settle();
    stage->fake.open = refused;
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 200);
    EXPECT(scene_stats(stage->pool).connect_failures > 0);
}

SCENE(a_server_known_to_be_down_fails_callers_fast_until_the_next_attempt, .max_size = 2)
{
    stage->fake.open = (struct fake_step){ WEIR_CONNECT, 100, false, "Connection refused", 2002 };
    stage->pool->random = 1;
    struct caller *first = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(first->status, WEIR_CONNECT);

    /* Push the pause to a known length. */
    unsigned attempts = stage->fake.attempts;
    stage->pool->retry_ns = weir_now() + 50 * 1000000;
    struct caller *fast = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(fast->status, WEIR_CONNECT);
    EXPECT_INT(fast->served_ms, fast->asked_ms);
    EXPECT_TEXT(fast->err.message, "Connection refused");
    EXPECT_INT(fast->err.native, 2002);
    EXPECT_INT(fast->err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_INT(stage->fake.attempts, attempts);

    world_advance_ms(60);
    stage->fake.open = (struct fake_step){ .ms = 10 };
    struct caller *later = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(later->status, WEIR_OK);
    EXPECT_INT(stage->fake.attempts, attempts + 1);
}

SCENE(after_a_failure_there_is_one_attempt_at_a_time, .max_size = 10, .max_connecting = 5)
{
    fake_script(&stage->fake, refused);
    scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100);
    world_advance_ms(1000);
    stage->fake.open.ms = 50;
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_advance_ms(20);
    EXPECT_INT(stage->fake.opening, 1);
    scene_wait(stage, 1000);
    EXPECT(stage->fake.opening_peak > 1); /* and as ever once one has succeeded */
}

SCENE(the_pause_doubles_up_to_two_seconds_and_ends_with_a_success, .max_size = 1, .min_idle = 1)
{
    int64_t longest_ms = 0;

    stage->fake.open = (struct fake_step){ .status = WEIR_CONNECT };
    for (unsigned n = 1; n <= 30; n++) {
        while (stage->pool->failures_in_row < n)
            world_advance_ms(1);
        n = stage->pool->failures_in_row; /* more than one where a pause was short */
        int64_t allowed = n < 6 ? 100 << (n - 1) : 2000;
        int64_t pause_ms = (stage->pool->retry_ns - weir_now()) / 1000000;
        EXPECT(pause_ms <= allowed);
        longest_ms = pause_ms > longest_ms ? pause_ms : longest_ms;
    }
    EXPECT(longest_ms > 1000);
    stage->fake.open.status = WEIR_OK;
    world_advance_ms(11000);
    EXPECT_INT(stage->pool->failures_in_row, 0);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);

    /* The next failure begins at the beginning. */
    stage->fake.open.status = WEIR_CONNECT;
    fake_stir(&stage->fake);
    while (!stage->pool->failures_in_row)
        world_advance_ms(1);
    EXPECT((stage->pool->retry_ns - weir_now()) / 1000000 <= 100);
}

SCENE(each_pause_has_the_longest_that_its_turn_allows, .max_size = 1)
{
    static const int64_t longest[] = { 100, 200, 400, 800, 1600, 2000, 2000 };
    weir_error           error = { .status = WEIR_CONNECT };

    /* Over many draws the largest comes close to the limit, and none goes beyond it. */
    for (unsigned n = 0; n < sizeof longest / sizeof *longest; n++) {
        int64_t seen = 0;
        for (int draw = 0; draw < 500; draw++) {
            stage->pool->failures_in_row = n;
            dial_failed(stage->pool, &error);
            int64_t ms = (stage->pool->retry_ns - weir_now()) / 1000000;
            seen = ms > seen ? ms : seen;
        }
        EXPECT(seen <= longest[n]);
        EXPECT(seen > longest[n] * 9 / 10);
    }
    dial_succeeded(stage->pool);
}

SCENE(refused_at_first_and_served_within_the_callers_patience, .max_size = 1, .min_idle = 1)
{
    stage->fake.open = refused;
    world_advance_ms(300);
    stage->fake.open = (struct fake_step){ .ms = 1 };
    struct caller *caller = NULL;
    while (!caller || caller->status == WEIR_CONNECT) { /* told, not retried behind his back */
        caller = scene_call(stage, (struct caller){ .patience_ms = 2800 });
        world_advance_ms(20);
    }
    scene_wait(stage, 2800);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT(world_now_ms() < 2800);
}

SCENE(a_connection_given_back_at_800_ms_is_had_at_800_ms, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 800 });
    world_settle();
    stage->fake.open = stalls;
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 2800 });
    scene_wait(stage, 3000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->served_ms, 800);
}

SCENE(the_timeout_is_a_contract_when_the_network_is_cut, .max_size = 10)
{
    struct caller *callers[60];

    stage->fake.open = stalls;
    for (int i = 0; i < 60; i++) {
        callers[i] = scene_call(stage, (struct caller){ .patience_ms = 5000 });
        world_advance_ms(2000);
    }
    scene_wait(stage, 10000);
    for (int i = 0; i < 60; i++) {
        EXPECT(callers[i]->status == WEIR_TIMEOUT || callers[i]->status == WEIR_CONNECT);
        EXPECT(callers[i]->served_ms - callers[i]->asked_ms <= 5000);
    }
}

SCENE(a_connect_that_stalls_ends_at_its_timeout, .max_size = 1, .connect_timeout_ms = 700)
{
    stage->fake.open = stalls;
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(caller->status, WEIR_CONNECT);
    EXPECT_INT(caller->served_ms, 700);
    EXPECT_TEXT(caller->err.message, "TIMEOUT");
    EXPECT_INT(scene_stats(stage->pool).connecting, 0);
}

SCENE(a_driver_deaf_to_its_deadline_blocks_only_its_own_place, .max_size = 2,
      .connect_timeout_ms = 100)
{
    fake_script(&stage->fake, (struct fake_step){ WEIR_OK, 60000, true, NULL, 0 });
    struct caller *one = scene_call(stage, (struct caller){ .hold_ms = 10 });
    struct caller *two = scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_advance_ms(100);
    EXPECT_STATUS(one->status, WEIR_OK);
    EXPECT_STATUS(two->status, WEIR_OK);
    EXPECT_INT(one->conn, two->conn);
}

SCENE(a_thousand_waiters_with_a_dead_server_all_get_an_answer, .max_size = 2)
{
    struct caller *crowd[1000];

    stage->fake.open = (struct fake_step){ WEIR_CONNECT, 20, false, "Connection refused", 2002 };
    for (int i = 0; i < 1000; i++)
        crowd[i] = scene_call(stage, (struct caller){ .patience_ms = 5000 });
    scene_wait(stage, 5000);
    for (int i = 0; i < 1000; i++)
        if (crowd[i]->status != WEIR_CONNECT || crowd[i]->served_ms > 20)
            EXPECT_INT(i, -1);
    EXPECT_INT(stage->fake.attempts, 2);
}

SCENE(a_thousand_waiters_with_a_silent_server_all_get_an_answer, .max_size = 2,
      .connect_timeout_ms = 1000)
{
    struct caller *crowd[1000];

    stage->fake.open = stalls;
    for (int i = 0; i < 1000; i++)
        crowd[i] = scene_call(stage, (struct caller){ .patience_ms = 500 + i });
    scene_wait(stage, 5000);
    for (int i = 0; i < 1000; i++)
        EXPECT(crowd[i]->status != WEIR_OK && crowd[i]->served_ms <= 500 + i);
}

SCENE(six_attempts_on_a_pool_of_two_all_come_back_with_an_error, .max_size = 2)
{
    stage->fake.open = refused;
    for (int i = 0; i < 6; i++) {
        struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 1000 });
        scene_wait(stage, 1000);
        EXPECT_STATUS(caller->status, WEIR_CONNECT);
        scene_recount(stage->pool);
    }
}

SCENE(a_server_that_comes_back_is_not_met_by_everybody_at_once, .max_size = 50)
{
    struct caller *crowd[1000];

    for (int i = 0; i < 50; i++)
        scene_call(stage, (struct caller){ .hold_ms = 100, .leaves = WEIR_GONE });
    scene_wait(stage, 1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    stage->fake.opening_peak = 0;
    stage->fake.open.ms = 20;
    for (int i = 0; i < 1000; i++)
        crowd[i] = scene_call(stage, (struct caller){ .hold_ms = 5 });
    scene_wait(stage, 20000);
    for (int i = 0; i < 1000; i++)
        EXPECT_STATUS(crowd[i]->status, WEIR_OK);
    EXPECT_INT(stage->fake.opening_peak, 2);
}

SCENE(the_place_of_a_broken_connection_is_dialled_anew_for_the_waiter, .max_size = 1)
{
    stage->fake.open.ms = 10;
    stage->fake.close = (struct fake_step){ .ms = 500, .deaf = true };
    scene_call(stage, (struct caller){ .hold_ms = 100, .leaves = WEIR_BROKEN });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 5000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 120);
    EXPECT_INT(waits->conn, 2);
}

/* ---- the kernel's want ------------------------------------------------------------------- */

SCENE(want_of_descriptors_is_nobodys_failure, .max_size = 1)
{
    for (int i = 0; i < 3; i++)
        fake_script(&stage->fake,
                    (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 });
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->served_ms, 300); /* nothing was closed: it looked every 100 ms */
    EXPECT_INT(scene_stats(stage->pool).connect_parked, 3);
    EXPECT_INT(scene_stats(stage->pool).connect_failures, 0);
    EXPECT_INT(scene_budget().exhausted >= 3, 1);
}

SCENE(a_parked_connect_goes_on_when_something_is_closed, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 30, .parting = HAVE_CLOSED });
    world_settle();
    fake_script(&stage->fake, (struct fake_step){ 0 });
    fake_script(&stage->fake, (struct fake_step){ WEIR_BUSY, 0, false, "EMFILE", 24 });
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->served_ms, 30);
}

SCENE(a_parked_connect_whose_waiter_has_gone_gives_up, .max_size = 1)
{
    stage->fake.open = (struct fake_step){ WEIR_BUSY, 0, false, "EMFILE", 24 };
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 250 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).connecting, 0);
    EXPECT_INT(scene_stats(stage->pool).connect_failures, 0);
    EXPECT_INT(scene_budget().used, 0);
}

/* ---- min_idle ---------------------------------------------------------------------------- */

SCENE(min_idle_is_filled_and_filled_again, .max_size = 10, .min_idle = 3)
{
    stage->fake.open.ms = 10;
    world_advance_ms(20);
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    EXPECT_INT(scene_stats(stage->pool).idle, 3); /* another was opened in its stead */
    scene_wait(stage, 1000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).idle, 4);
    EXPECT_INT(fake_stir(&stage->fake), 4);
    world_advance_ms(20);
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LOST), 4);
}

SCENE(min_idle_never_goes_past_max_size, .max_size = 2, .min_idle = 2)
{
    world_settle();
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_advance_ms(50);
    EXPECT_INT(scene_stats(stage->pool).in_use, 2);
    EXPECT_INT(stage->fake.attempts, 2);
}

SCENE(min_idle_comes_back_after_the_server_did, .max_size = 5, .min_idle = 2)
{
    world_settle();
    stage->fake.open = refused;
    EXPECT_INT(fake_stir(&stage->fake), 2);
    world_advance_ms(60000);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    EXPECT(stage->fake.attempts < 120); /* it is not hammered meanwhile: one a second or so */
    EXPECT(stage->fake.attempts > 30);  /* and not forgotten */
    stage->fake.open = (struct fake_step){ 0 };
    world_advance_ms(2001);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_than_max_connecting_open_at_once),
        cmocka_unit_test(two_is_the_usual_number_of_connects_at_once),
        cmocka_unit_test(demand_that_vanished_opens_nothing),
        cmocka_unit_test(demand_that_vanished_before_the_keeper_ran_opens_nothing),
        cmocka_unit_test(an_abandoned_connect_is_kept),
        cmocka_unit_test(a_connect_serves_the_oldest_waiter_whoever_asked_for_it),
        cmocka_unit_test(fifty_workers_make_fifty_connections),
        cmocka_unit_test(a_burst_of_five_thousand_empty_jobs_makes_four_connections),
        cmocka_unit_test(a_spike_is_served_by_what_is_there),
        cmocka_unit_test(a_saturated_pool_recovers),
        cmocka_unit_test(a_failed_connect_is_told_in_the_servers_own_words),
        cmocka_unit_test(the_oldest_waiter_is_told_while_another_attempt_is_under_way),
        cmocka_unit_test(nobody_is_told_while_a_connection_lives_that_will_come_back),
        cmocka_unit_test(a_server_known_to_be_down_fails_callers_fast_until_the_next_attempt),
        cmocka_unit_test(after_a_failure_there_is_one_attempt_at_a_time),
        cmocka_unit_test(the_pause_doubles_up_to_two_seconds_and_ends_with_a_success),
        cmocka_unit_test(each_pause_has_the_longest_that_its_turn_allows),
        cmocka_unit_test(refused_at_first_and_served_within_the_callers_patience),
        cmocka_unit_test(a_connection_given_back_at_800_ms_is_had_at_800_ms),
        cmocka_unit_test(the_timeout_is_a_contract_when_the_network_is_cut),
        cmocka_unit_test(a_connect_that_stalls_ends_at_its_timeout),
        cmocka_unit_test(a_driver_deaf_to_its_deadline_blocks_only_its_own_place),
        cmocka_unit_test(a_thousand_waiters_with_a_dead_server_all_get_an_answer),
        cmocka_unit_test(a_thousand_waiters_with_a_silent_server_all_get_an_answer),
        cmocka_unit_test(six_attempts_on_a_pool_of_two_all_come_back_with_an_error),
        cmocka_unit_test(a_server_that_comes_back_is_not_met_by_everybody_at_once),
        cmocka_unit_test(the_place_of_a_broken_connection_is_dialled_anew_for_the_waiter),
        cmocka_unit_test(want_of_descriptors_is_nobodys_failure),
        cmocka_unit_test(a_parked_connect_goes_on_when_something_is_closed),
        cmocka_unit_test(a_parked_connect_whose_waiter_has_gone_gives_up),
        cmocka_unit_test(min_idle_is_filled_and_filled_again),
        cmocka_unit_test(min_idle_never_goes_past_max_size),
        cmocka_unit_test(min_idle_comes_back_after_the_server_did),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
