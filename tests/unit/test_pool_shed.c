/*
 * Overload: who is refused so that the others are served in time, and who never is.
 */
#include "pool_scene.h"

#include "pool.h"

#include <string.h>

/* ---- requests at a steady rate ------------------------------------------------------------- */

/* Ten connections and statements of a second: ten requests a second are all there is to have. */
enum { CAPACITY = 10, QUERY_MS = 1000 };

/* One request: it waits a second at most, and is of use to nobody after a second and a half. */
static const struct caller request = {
    .patience_ms = 1000, .scope_ms = 1500, .hold_ms = QUERY_MS, .queries = true
};

static bool is_good(const struct caller *caller)
{
    return caller->status == WEIR_OK && caller->held == WEIR_OK;
}

/* `count` of them, one each `pause_ms`. */
static void arrive(struct scene *stage, int count, int64_t pause_ms)
{
    for (int i = 0; i < count; i++) {
        scene_call(stage, request);
        if (pause_ms)
            world_advance_ms(pause_ms);
    }
}

static int good_since(const struct scene *stage, unsigned first)
{
    int good = 0;

    for (unsigned i = first; i < stage->caller_count; i++)
        good += is_good(stage->cast[i]);
    return good;
}

static unsigned given(const struct scene *stage, weir_status status)
{
    unsigned count = 0;

    for (unsigned i = 0; i < stage->caller_count; i++)
        count += stage->cast[i]->status == status;
    return count;
}

/* Twenty a second, twice what can be done, for a minute after a crowd of fifty. */
static int goodput_of_a_minute(struct scene *stage)
{
    arrive(stage, 50, 0);
    arrive(stage, 200, 50); /* ten seconds, to come to what then lasts */
    unsigned first = stage->caller_count;
    arrive(stage, 1200, 50);
    scene_wait(stage, 10000);
    return good_since(stage, first);
}

/* What shedding is for: without it the pool is as busy, and all its work is thrown away. */
SCENE(at_twice_the_load_a_pool_that_sheds_nothing_does_nothing_of_use, .max_size = CAPACITY,
      .max_connecting = 10)
{
    EXPECT(goodput_of_a_minute(stage) < 60); /* of 600 */
    EXPECT_INT(scene_stats(stage->pool).shed, 0);
}

SCENE(at_twice_the_load_a_pool_that_sheds_does_all_it_can, .max_size = CAPACITY,
      .max_connecting = 10, .shed_target_ms = 100)
{
    EXPECT(goodput_of_a_minute(stage) >= 590); /* of 600 */
    EXPECT(scene_logged("overload: nobody was served within 100 ms"));
    EXPECT_INT(scene_stats(stage->pool).shed, given(stage, WEIR_FULL));
    EXPECT_INT(scene_stats(stage->pool).refused, 0);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 0);
    for (unsigned i = 50; i < stage->caller_count; i++) {
        const struct caller *caller = stage->cast[i];
        EXPECT(caller->served_ms - caller->asked_ms <= 200); /* the target and the interval */
    }
}

/* A crowd, then ever less, until it is just what can be done. */
SCENE(it_recovers_from_saturation_until_a_hundred_in_a_row_are_served, .max_size = CAPACITY,
      .max_connecting = 10, .shed_target_ms = 100)
{
    int in_a_row = 0, best = 0;

    arrive(stage, 50, 0);
    arrive(stage, 60, 80);
    arrive(stage, 60, 91);
    unsigned calm = stage->caller_count;
    arrive(stage, 300, 100);
    scene_wait(stage, 10000);
    for (unsigned i = calm; i < stage->caller_count; i++) {
        in_a_row = is_good(stage->cast[i]) ? in_a_row + 1 : 0;
        best = in_a_row > best ? in_a_row : best;
    }
    EXPECT(best >= 100);
    EXPECT(in_a_row >= 100); /* and it lasts */
}

/* ---- who is refused, and how --------------------------------------------------------------- */

SCENE(a_burst_that_is_worked_off_is_not_overload, .max_size = 10, .max_connecting = 10,
      .shed_target_ms = 100)
{
    for (int i = 0; i < 60; i++)
        scene_call(stage, (struct caller){ .hold_ms = 30 });
    scene_wait(stage, 1000);
    EXPECT_INT(given(stage, WEIR_OK), 60);
    EXPECT_INT(scene_stats(stage->pool).wait.max_us, 150 * 1000); /* some waited for long */
}

/* One connection, held for a second each time: nobody gets one within 100 ms. */
SCENE(the_oldest_go_first_at_the_target_and_the_words_say_why, .name = "orders", .max_size = 1,
      .shed_target_ms = 300, .shed_interval_ms = 400)
{
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 5000 });
    world_advance_ms(1000);
    struct caller *first = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(50);
    struct caller *second = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(200);
    struct caller *late = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(149);
    EXPECT(!first->done && !second->done); /* 399 ms: the interval is not over */
    world_advance_ms(1);
    EXPECT(first->done && second->done && !late->done); /* overload: both have waited too long */
    world_advance_ms(149);
    EXPECT(!late->done);
    world_advance_ms(1);
    EXPECT_STATUS(first->status, WEIR_FULL);
    EXPECT_INT(first->served_ms - first->asked_ms, 400);
    EXPECT_INT(second->served_ms - second->asked_ms, 350);
    EXPECT_STATUS(late->status, WEIR_FULL);
    EXPECT_INT(late->served_ms - late->asked_ms, 300);
    EXPECT_INT(late->err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_TEXT(late->err.message, "pool orders: shed after 300 ms");
    EXPECT_TEXT(late->err.message, "shed_target_ms");
    EXPECT_TEXT(late->err.message, "1 of 1 in use by ");
    EXPECT_INT(scene_stats(stage->pool).shed, 3);
    scene_wait(stage, 10000);
    EXPECT_STATUS(holder->held, WEIR_OK);
}

SCENE(those_who_are_served_are_so_in_the_order_they_came, .max_size = 2, .shed_target_ms = 50,
      .shed_interval_ms = 60)
{
    unsigned turn = 0;

    for (int i = 0; i < 400; i++) {
        scene_call(stage, (struct caller){ .hold_ms = 20 + i % 7 });
        world_advance_ms(5);
    }
    scene_wait(stage, 10000);
    EXPECT(given(stage, WEIR_FULL) > 100);
    EXPECT(given(stage, WEIR_OK) > 100);
    for (unsigned i = 0; i < stage->caller_count; i++) {
        if (stage->cast[i]->status != WEIR_OK)
            continue;
        EXPECT_INT(stage->cast[i]->turn, turn + 1);
        turn = stage->cast[i]->turn;
    }
}

SCENE(when_it_is_over_callers_are_waited_for_as_ever, .max_size = 1, .shed_target_ms = 100)
{
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 150 });
    scene_wait(stage, 10000);
    EXPECT(scene_stats(stage->pool).shed > 10);

    /* Alone in the queue, and the interval begins with him. */
    scene_call(stage, (struct caller){ .hold_ms = 90 });
    struct caller *next = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(next->status, WEIR_OK);
    EXPECT_INT(next->served_ms - next->asked_ms, 90);
}

/* The queue is not empty between, but moves as it should: nobody is cut short any more. */
SCENE(it_is_over_when_somebody_waits_little, .max_size = 1, .shed_target_ms = 100)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_advance_ms(980);
    scene_call(stage, (struct caller){ .hold_ms = 10 });
    EXPECT_INT(scene_stats(stage->pool).shed, 5);
    world_advance_ms(15);
    stage->pool->overloaded = true; /* as if they had come one by one all the time */
    unsigned first = stage->caller_count;
    for (int i = 0; i < 12; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_advance_ms(6);
    EXPECT(!stage->pool->overloaded);
    scene_wait(stage, 1000);
    for (unsigned i = first; i < stage->caller_count; i++)
        EXPECT_STATUS(stage->cast[i]->status, WEIR_OK);
    EXPECT(stage->cast[first + 11]->served_ms - stage->cast[first + 11]->asked_ms > 100);
}

/* A server that takes half a second to connect is slow, not overloaded. */
SCENE(a_pool_that_grows_is_not_overloaded, .max_size = 20, .shed_target_ms = 50)
{
    stage->fake.open.ms = 500;
    for (int i = 0; i < 10; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 5000);
    EXPECT_INT(given(stage, WEIR_OK), 10);
    EXPECT_INT(scene_stats(stage->pool).shed, 0);
}

/* But one whose connections all break under load opens new ones all the time. */
SCENE(a_pool_that_loses_connections_under_load_is_overloaded_all_the_same, .max_size = 10,
      .max_connecting = 10, .shed_target_ms = 50)
{
    stage->fake.open.ms = 60;
    for (int i = 0; i < 600; i++) {
        scene_call(stage, (struct caller){ .hold_ms = 150 + i % 10 * 9,
                                           .leaves = WEIR_BROKEN });
        world_advance_ms(5);
    }
    scene_wait(stage, 20000);
    EXPECT(scene_stats(stage->pool).shed > 300);
    for (unsigned i = 100; i < stage->caller_count; i++)
        EXPECT(stage->cast[i]->served_ms - stage->cast[i]->asked_ms <= 150);
}

SCENE(one_who_is_cancelled_or_late_by_himself_is_not_counted_as_shed, .max_size = 1,
      .shed_target_ms = 100)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *hasty = scene_call(stage, (struct caller){ .patience_ms = 20 });
    struct caller *canceled = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(50);
    weir_cancel(canceled->task);
    scene_wait(stage, 10000);
    EXPECT_STATUS(hasty->status, WEIR_TIMEOUT);
    EXPECT_STATUS(canceled->status, WEIR_CANCELED);
    EXPECT_INT(scene_stats(stage->pool).shed, 0);
}

SCENE(a_pool_closed_while_it_sheds_leaves_no_alarm_behind, .max_size = 1, .shed_target_ms = 50)
{
    scene_call(stage, (struct caller){ .hold_ms = 400 });
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ 0 });
    world_advance_ms(110);
    EXPECT_INT(scene_stats(stage->pool).shed, 5);
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(given(stage, WEIR_CLOSED), 1);
    EXPECT(!stage->pool->shed.slot);
}

/* ---- hopeless ------------------------------------------------------------------------------ */

/* Two connections, a second each: five before him are three seconds. */
SCENE(one_who_cannot_be_served_in_time_is_told_at_once, .name = "orders", .max_size = 2,
      .refuse_hopeless = true)
{
    for (int i = 0; i < 16; i++) /* it learns how long leases take */
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    scene_wait(stage, 20000);
    for (int i = 0; i < 7; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    EXPECT_INT(scene_stats(stage->pool).waiting, 5);

    struct caller *hopeless = scene_call(stage, (struct caller){ .patience_ms = 2900 });
    struct caller *scoped = scene_call(stage, (struct caller){ .scope_ms = 2900 });
    struct caller *hopeful = scene_call(stage, (struct caller){ .patience_ms = 3100 });
    struct caller *no_wait = scene_call(stage, (struct caller){ .patience_ms = NOT_AT_ALL });
    world_settle();
    EXPECT_STATUS(hopeless->status, WEIR_FULL);
    EXPECT_INT(hopeless->served_ms, hopeless->asked_ms);
    EXPECT_TEXT(hopeless->err.message, "pool orders: shed: a connection is expected in 3000 ms");
    EXPECT_INT(hopeless->err.outcome, WEIR_OUTCOME_NOT_SENT);
    EXPECT_STATUS(scoped->status, WEIR_FULL);
    EXPECT_STATUS(no_wait->status, WEIR_TIMEOUT); /* who does not wait has no wait to be spared */
    EXPECT_INT(scene_stats(stage->pool).shed, 2);
    scene_wait(stage, 20000);
    EXPECT_STATUS(hopeful->status, WEIR_OK);
}

SCENE(nobody_is_called_hopeless_while_the_pool_may_still_grow, .max_size = 3,
      .refuse_hopeless = true)
{
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    scene_wait(stage, 20000);
    stage->fake.open.ms = 50;
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000, .parting = HAVE_CLOSED });
    world_advance_ms(1010);
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 100 });
    scene_wait(stage, 5000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).shed, 0);
}

SCENE(without_the_option_the_hopeless_wait_too, .max_size = 1)
{
    for (int i = 0; i < 10; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 50 });
    scene_wait(stage, 20000);
    EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    EXPECT_INT(caller->served_ms - caller->asked_ms, 50);
}

/* ---- options ------------------------------------------------------------------------------- */

SCENE(the_options_are_checked_and_described, .shed_target_ms = 100, .refuse_hopeless = true)
{
    static struct fake fake;
    weir_pool *pool = NULL;
    weir_error err;
    char       text[1024];

    weir_pool_describe(stage->pool, text, sizeof text);
    EXPECT_TEXT(text, "shed_target_ms = 100\nshed_interval_ms = 100\n");
    EXPECT_TEXT(text, "refuse_hopeless = yes\n");
    fake_init(&fake);
    EXPECT_STATUS(weir_pool_new(&fake_driver, &fake,
                                &(weir_pool_opts){ .shed_target_ms = INT64_MAX / 2 }, &pool, &err),
                  WEIR_USAGE);
    EXPECT_TEXT(err.message, "shed_target_ms");
    EXPECT_STATUS(weir_pool_new(&fake_driver, &fake,
                                &(weir_pool_opts){ .shed_target_ms = 5,
                                                   .shed_interval_ms = WEIR_NEVER }, &pool, &err),
                  WEIR_USAGE);
    EXPECT_STATUS(weir_pool_new(&fake_driver, &fake, &(weir_pool_opts){ .shed_target_ms = -5 },
                                &pool, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "default of -1 (WEIR_NEVER)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_twice_the_load_a_pool_that_sheds_nothing_does_nothing_of_use),
        cmocka_unit_test(at_twice_the_load_a_pool_that_sheds_does_all_it_can),
        cmocka_unit_test(it_recovers_from_saturation_until_a_hundred_in_a_row_are_served),
        cmocka_unit_test(a_burst_that_is_worked_off_is_not_overload),
        cmocka_unit_test(the_oldest_go_first_at_the_target_and_the_words_say_why),
        cmocka_unit_test(those_who_are_served_are_so_in_the_order_they_came),
        cmocka_unit_test(when_it_is_over_callers_are_waited_for_as_ever),
        cmocka_unit_test(it_is_over_when_somebody_waits_little),
        cmocka_unit_test(a_pool_that_grows_is_not_overloaded),
        cmocka_unit_test(a_pool_that_loses_connections_under_load_is_overloaded_all_the_same),
        cmocka_unit_test(one_who_is_cancelled_or_late_by_himself_is_not_counted_as_shed),
        cmocka_unit_test(a_pool_closed_while_it_sheds_leaves_no_alarm_behind),
        cmocka_unit_test(one_who_cannot_be_served_in_time_is_told_at_once),
        cmocka_unit_test(nobody_is_called_hopeless_while_the_pool_may_still_grow),
        cmocka_unit_test(without_the_option_the_hopeless_wait_too),
        cmocka_unit_test(the_options_are_checked_and_described),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
