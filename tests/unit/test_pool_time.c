/*
 * What time does to connections: idleness, age, and what wakes an idle one.
 */
#include "pool_scene.h"

#include "pool.h"

#include <time.h>

enum { MINUTE = 60 * 1000 };

/* ---- idle -------------------------------------------------------------------------------- */

SCENE(a_connection_unused_for_too_long_is_closed, .max_size = 3, .idle_timeout_ms = 1000)
{
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(999);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    world_advance_ms(1);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 1);
    EXPECT_INT(stage->fake.abrupt, 0);
}

SCENE(use_starts_the_idle_time_anew, .max_size = 3, .idle_timeout_ms = 1000)
{
    for (int i = 0; i < 10; i++) {
        scene_call(stage, (struct caller){ 0 });
        world_advance_ms(900);
    }
    EXPECT_INT(stage->fake.attempts, 1);
    world_advance_ms(100);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
}

SCENE(spare_connections_age_out_and_the_busy_one_stays, .max_size = 5, .idle_timeout_ms = 1000)
{
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 100);
    for (int i = 0; i < 30; i++) {
        scene_call(stage, (struct caller){ .hold_ms = 1 });
        world_advance_ms(100);
    }
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 4);
}

SCENE(min_idle_is_kept, .max_size = 5, .min_idle = 2, .idle_timeout_ms = 1000,
      .max_age_ms = WEIR_NEVER)
{
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 100);
    EXPECT_INT(scene_stats(stage->pool).idle, 5);
    world_advance_ms(60 * MINUTE);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
    EXPECT_INT(stage->fake.attempts, 5);
}

SCENE(never_keeps_idle_connections, .max_size = 2, .idle_timeout_ms = WEIR_NEVER,
      .max_age_ms = WEIR_NEVER)
{
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(24 * 60 * MINUTE);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
}

SCENE(ramp_up_and_down_ends_where_it_began, .max_size = 60, .min_idle = 5, .max_connecting = 60,
      .idle_timeout_ms = 1000)
{
    world_settle();
    EXPECT_INT(scene_budget().used, 5);
    for (int crowd = 5; crowd <= 60; crowd += 5) {
        for (int i = 0; i < crowd; i++)
            scene_call(stage, (struct caller){ .hold_ms = 200 });
        world_advance_ms(250);
    }
    EXPECT_INT(scene_budget().used, 60);
    for (int crowd = 60; crowd >= 5; crowd -= 5) {
        for (int i = 0; i < crowd; i++)
            scene_call(stage, (struct caller){ .hold_ms = 200 });
        world_advance_ms(250);
    }
    world_advance_ms(2500);
    EXPECT_INT(scene_budget().used, 5);
    EXPECT_INT(stage->fake.descriptors, 5);
}

/* ---- very many at once -------------------------------------------------------------------- */

enum { MANY = 600, CLOSED_AT_ONCE = 16 };

static void open_many(struct scene *stage)
{
    for (int i = 0; i < MANY; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_advance_ms(1);
    EXPECT_INT(scene_stats(stage->pool).idle, MANY);
}

/* How many were closed in one turn, at most? Within a turn the clock stands still. */
struct turns {
    int64_t now_ns;
    int     closed, most;
};

static void note_turn(const weir_pool_event *event, void *arg)
{
    struct turns *turns = arg;

    if (event->type != WEIR_EVENT_CONN_CLOSED)
        return;
    turns->closed = weir_now() == turns->now_ns ? turns->closed + 1 : 1;
    turns->now_ns = weir_now();
    if (turns->closed > turns->most)
        turns->most = turns->closed;
}

SCENE(those_unused_together_go_a_few_a_turn, .max_size = MANY, .max_connecting = MANY,
      .idle_timeout_ms = 1000, .max_age_ms = WEIR_NEVER)
{
    struct turns turns = { 0 };

    open_many(stage);
    weir_pool_on_event(stage->pool, note_turn, &turns);
    world_advance_ms(1001); /* and all in the same instant, nearly */
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), MANY);
    EXPECT_INT(turns.most, CLOSED_AT_ONCE);
    weir_pool_on_event(stage->pool, NULL, NULL);
}

SCENE(those_that_grow_old_together_go_a_few_a_turn_and_hardly_late, .max_size = MANY,
      .max_connecting = MANY, .max_age_ms = 10)
{
    struct turns turns = { 0 };

    open_many(stage);
    weir_pool_on_event(stage->pool, note_turn, &turns);
    world_advance_ms(11 + 7); /* ten per cent of jitter, and 10 us for each that is looked at */
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_AGE), MANY);
    EXPECT_INT(turns.most, CLOSED_AT_ONCE);
    weir_pool_on_event(stage->pool, NULL, NULL);
}

SCENE(a_look_at_ages_leaves_the_young_and_the_unused_alone, .max_size = MANY,
      .max_connecting = MANY, .min_idle = MANY, .idle_timeout_ms = 500, .max_age_ms = 60 * MINUTE)
{
    world_advance_ms(10 * MINUTE);
    EXPECT_INT(scene_stats(stage->pool).idle, MANY);
    EXPECT_INT(stage->fake.attempts, MANY);
}

/* ---- age --------------------------------------------------------------------------------- */

SCENE(an_old_connection_is_closed_when_its_lease_ends, .max_size = 1, .max_age_ms = 1000)
{
    scene_call(stage, (struct caller){ .hold_ms = 1200 });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 2000);
    EXPECT_INT(waits->conn, 2);
    EXPECT_INT(waits->served_ms, 1200);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_AGE), 1);
}

SCENE(an_old_connection_is_closed_while_idle, .max_size = 1, .max_age_ms = 1000)
{
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(890);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    world_advance_ms(220);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_AGE), 1);
}

SCENE(age_is_checked_at_checkout_too, .max_size = 1, .max_age_ms = 1000)
{
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    struct conn *conn = LIST_OF(list_first(&stage->pool->conns[CONN_IDLE]), struct conn, link);
    conn->expires_ns = weir_now(); /* as if the sweep had not come by yet */
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100);
    EXPECT_INT(caller->conn, 2);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_AGE), 1);
}

SCENE(min_idle_does_not_save_from_age_but_is_filled_again, .max_size = 2, .min_idle = 2,
      .max_age_ms = 1000)
{
    world_advance_ms(10 * 1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
    unsigned aged = scene_closed(stage->pool, WEIR_CLOSE_AGE);
    EXPECT(aged >= 2 * 9 && aged <= 2 * 11);
}

SCENE(connections_opened_together_do_not_die_together, .max_size = 100, .max_connecting = 100,
      .max_age_ms = 30 * MINUTE, .idle_timeout_ms = WEIR_NEVER)
{
    int64_t first = 0, last = 0;
    int     crowd_peak = 0, in_second = 0;

    for (int i = 0; i < 100; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 100);
    EXPECT_INT(scene_stats(stage->pool).idle, 100);
    world_advance_ms(34 * MINUTE);
    for (unsigned i = 1; i <= stage->fake.closed; i++) {
        int64_t at = fake_when(&stage->fake, FAKE_CLOSED, i);
        first = first ? first : at;
        in_second = at / 1000 == last / 1000 ? in_second + 1 : 1;
        crowd_peak = in_second > crowd_peak ? in_second : crowd_peak;
        last = at;
    }
    EXPECT_INT(stage->fake.closed, 100);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_AGE), 100);
    EXPECT(first >= 27 * MINUTE && first < 28 * MINUTE);
    EXPECT(last <= 33 * MINUTE + 1000 && last > 32 * MINUTE);
    EXPECT(crowd_peak <= 8); /* 100 over six minutes */
}

/* ---- heard of while idle ----------------------------------------------------------------- */

SCENE(an_idle_connection_that_says_something_is_closed_abruptly, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_INT(fake_stir(&stage->fake), 1); /* the other one is in use */
    world_settle();
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LOST), 1);
    EXPECT_INT(stage->fake.abrupt, 1);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
}

SCENE(all_idle_connections_dead_after_a_restart_cost_no_caller_an_error, .max_size = 10)
{
    for (int i = 0; i < 10; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 100);
    EXPECT_INT(fake_stir(&stage->fake), 10);
    for (int i = 0; i < 20; i++) {
        struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 1 });
        scene_wait(stage, 100);
        EXPECT_STATUS(caller->status, WEIR_OK);
    }
}

/* Evicting and borrowing, over and over, in every order that fits into a turn. */
SCENE(a_connection_evicted_is_never_one_that_is_lent, .max_size = 10, .max_connecting = 10)
{
    for (int i = 0; i < 3000; i++) {
        for (int k = 0; k < 1 + i % 5; k++)
            scene_call(stage, (struct caller){ .hold_ms = k % 2, .queries = true });
        if (i % 3 == 0)
            (void)weir_yield();
        fake_stir(&stage->fake);
        if (i % 3 == 1)
            world_settle();
        fake_stir(&stage->fake);
    }
    scene_wait(stage, 10000);
    for (unsigned i = 0; i < stage->caller_count; i++)
        if (stage->cast[i]->status != WEIR_OK || stage->cast[i]->held != WEIR_OK)
            EXPECT_INT(i, -1);
}

/* ---- the clock that jumps ---------------------------------------------------------------- */

static int64_t real_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

SCENE(half_an_hour_passes_at_once, .max_size = 10, .min_idle = 2)
{
    int64_t real = real_ms();

    for (int i = 0; i < 30; i++) {
        scene_call(stage, (struct caller){ .hold_ms = 100 });
        world_advance_ms(MINUTE);
    }
    EXPECT_INT(world_now_ms(), 30 * MINUTE);
    EXPECT(real_ms() - real < 1000); /* generous, for valgrind */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_unused_for_too_long_is_closed),
        cmocka_unit_test(use_starts_the_idle_time_anew),
        cmocka_unit_test(spare_connections_age_out_and_the_busy_one_stays),
        cmocka_unit_test(min_idle_is_kept),
        cmocka_unit_test(never_keeps_idle_connections),
        cmocka_unit_test(ramp_up_and_down_ends_where_it_began),
        cmocka_unit_test(those_unused_together_go_a_few_a_turn),
        cmocka_unit_test(those_that_grow_old_together_go_a_few_a_turn_and_hardly_late),
        cmocka_unit_test(a_look_at_ages_leaves_the_young_and_the_unused_alone),
        cmocka_unit_test(an_old_connection_is_closed_when_its_lease_ends),
        cmocka_unit_test(an_old_connection_is_closed_while_idle),
        cmocka_unit_test(age_is_checked_at_checkout_too),
        cmocka_unit_test(min_idle_does_not_save_from_age_but_is_filled_again),
        cmocka_unit_test(connections_opened_together_do_not_die_together),
        cmocka_unit_test(an_idle_connection_that_says_something_is_closed_abruptly),
        cmocka_unit_test(all_idle_connections_dead_after_a_restart_cost_no_caller_an_error),
        cmocka_unit_test(a_connection_evicted_is_never_one_that_is_lent),
        cmocka_unit_test(half_an_hour_passes_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
