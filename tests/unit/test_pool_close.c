/*
 * Closing a pool in whatever state it is, and freeing it.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdlib.h>
#include <string.h>
#include <weir/log.h>

/* Somebody else who closes the scene's pool. */
struct closer {
    struct scene *stage;
    int64_t       patience_ms; /* 0: no limit */
    bool          done;
    weir_status   status;
    int64_t       at_ms;
};

static weir_status close_pool(void *arg)
{
    struct closer *me = arg;

    me->status = weir_pool_close(me->stage->pool,
                                 me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_FOREVER);
    me->at_ms = world_now_ms();
    me->done = true;
    return WEIR_OK;
}

static void expect_drained(const struct scene *stage)
{
    EXPECT_INT(stage->fake.descriptors, 0);
    EXPECT_INT(stage->fake.handles, 0);
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(pool_total(stage->pool), 0);
}

SCENE(closing_an_empty_pool_is_done_at_once, .max_size = 3)
{
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_NOW), WEIR_OK);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_NOW), WEIR_OK); /* twice is fine */
}

SCENE(idle_connections_are_closed_politely_and_waited_for, .max_size = 3)
{
    stage->fake.close.ms = 100;
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_wait(stage, 50);
    int64_t start = world_now_ms();
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms() - start, 100); /* all at the same time */
    EXPECT_INT(stage->fake.closed, 3);
    EXPECT_INT(stage->fake.abrupt, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_POOL), 3);
    expect_drained(stage);
}

SCENE(a_connection_in_use_is_closed_when_it_is_given_back, .max_size = 2)
{
    struct closer closer = { .stage = stage };

    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    scene_spawn(stage, close_pool, &closer);
    world_advance_ms(99);
    EXPECT(!closer.done && !holder->done);
    world_advance_ms(1);
    EXPECT_STATUS(holder->held, WEIR_OK); /* nobody's work was cut */
    EXPECT(closer.done);
    EXPECT_STATUS(closer.status, WEIR_OK);
    EXPECT_INT(closer.at_ms, 100);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_POOL), 1);
    expect_drained(stage);
}

static weir_status let_go_later(void *arg)
{
    struct scene *stage = arg;

    (void)weir_sleep(weir_in_ms(70));
    weir_pool_let_go(stage->pool);
    return WEIR_OK;
}

SCENE(what_a_driver_is_at_is_waited_for, .max_size = 2)
{
    scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 50);
    int64_t start = world_now_ms();
    weir_pool_hold(stage->pool);
    scene_spawn(stage, let_go_later, stage);
    EXPECT_STATUS(weir_pool_close(stage->pool, weir_in_ms(30)), WEIR_TIMEOUT);
    EXPECT_INT(stage->fake.closed, 1);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms() - start, 70);
    expect_drained(stage);
}

SCENE(a_pool_is_freed_when_its_driver_has_let_go, .max_size = 2)
{
    struct fake fake = { 0 };

    fake_init(&fake);
    weir_pool *pool = scene_pool(&fake, (weir_pool_opts){ 0 });
    struct scene other = { .pool = pool };
    int64_t start = world_now_ms();
    weir_pool_hold(pool);
    scene_spawn(stage, let_go_later, &other);
    weir_pool_free(pool);
    EXPECT_INT(world_now_ms() - start, 70);
    EXPECT_INT(fake.configs_freed, 1);
}

SCENE(a_close_that_runs_out_of_time_goes_on_and_can_be_waited_for_again, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_pool_close(stage->pool, weir_in_ms(30)), WEIR_TIMEOUT);
    EXPECT_INT(world_now_ms(), 30);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    EXPECT_INT(stage->fake.closed, 1);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 100);
    expect_drained(stage);
}

SCENE(waiters_are_told_that_the_pool_closed, .max_size = 1)
{
    struct closer  closer = { .stage = stage };
    struct caller *crowd[5];

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    for (int i = 0; i < 5; i++)
        crowd[i] = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    scene_spawn(stage, close_pool, &closer);
    world_settle();
    for (int i = 0; i < 5; i++) {
        EXPECT(crowd[i]->done);
        EXPECT_STATUS(crowd[i]->status, WEIR_CLOSED);
        EXPECT_TEXT(crowd[i]->err.message, "was closed");
        EXPECT_INT(crowd[i]->err.outcome, WEIR_OUTCOME_NOT_SENT);
    }
    scene_wait(stage, 200);
    expect_drained(stage);
}

SCENE(a_connect_under_way_is_cut, .max_size = 4)
{
    stage->fake.open.ms = FAKE_FOREVER;
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).connecting, 2);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 10);
    EXPECT_STATUS(waits->status, WEIR_CLOSED);
    EXPECT_INT(scene_stats(stage->pool).connect_failures, 0);
    expect_drained(stage);
}

SCENE(a_connect_deaf_to_the_cut_is_closed_as_soon_as_it_is_open, .max_size = 1)
{
    stage->fake.open = (struct fake_step){ .ms = 500, .deaf = true };
    stage->fake.close.ms = 100;
    scene_call(stage, (struct caller){ .patience_ms = 50 });
    world_advance_ms(100);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 600); /* and politely, though its keeper was cancelled */
    EXPECT_INT(stage->fake.opened, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_POOL), 1);
    expect_drained(stage);
}

SCENE(a_reset_under_way_is_cut, .max_size = 1)
{
    stage->fake.reset.ms = FAKE_FOREVER;
    scene_call(stage, (struct caller){ .leaves = WEIR_DIRTY });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).resetting, 1);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 10);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_POOL), 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_RESET_FAILED), 0);
    expect_drained(stage);
}

SCENE(nothing_is_reset_for_a_closed_pool, .max_size = 1)
{
    stage->fake.reset.ms = 4000;
    scene_call(stage, (struct caller){ .hold_ms = 100, .leaves = WEIR_DIRTY });
    world_settle();
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 100);
    EXPECT_INT(stage->fake.resets, 0);
}

SCENE(an_attempt_that_waits_for_descriptors_is_cut, .max_size = 2)
{
    weir_budget_token token;

    EXPECT_STATUS(weir_budget_take(SCENE_DESCRIPTORS - 1, WEIR_NOW, &token, NULL), WEIR_OK);
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).reserved, 1);
    EXPECT_INT(scene_budget().waiting, 1);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 50);
    EXPECT_INT(scene_budget().waiting, 0);
    weir_budget_give(&token);
    expect_drained(stage);
}

SCENE(an_attempt_parked_for_want_of_descriptors_is_cut, .max_size = 2)
{
    stage->fake.open = (struct fake_step){ WEIR_BUSY, 0, false, "EMFILE", 24 };
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 10);
    expect_drained(stage);
}

SCENE(a_close_that_stalls_is_waited_for_up_to_its_limit, .max_size = 1, .close_timeout_ms = 2000)
{
    stage->fake.close.ms = FAKE_FOREVER;
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(world_now_ms(), 2000);
    expect_drained(stage);
}

SCENE(min_idle_is_not_filled_in_a_closed_pool, .max_size = 3, .min_idle = 3)
{
    world_settle();
    EXPECT_INT(stage->fake.opened, 3);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    world_advance_ms(1000);
    EXPECT_INT(stage->fake.attempts, 3);
    expect_drained(stage);
}

SCENE(a_cancelled_closer_leaves_the_pool_closing, .max_size = 1)
{
    struct closer closer = { .stage = stage };

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    weir_task *task = scene_spawn(stage, close_pool, &closer);
    world_advance_ms(10);
    weir_cancel(task);
    world_settle();
    EXPECT_STATUS(closer.status, WEIR_CANCELED);
    struct caller *late = scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_STATUS(late->status, WEIR_CLOSED);
    scene_wait(stage, 200);
    world_settle();
    expect_drained(stage);
}

SCENE(all_who_close_are_told_when_it_is_done, .max_size = 1)
{
    struct closer closers[3];

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    for (int i = 0; i < 3; i++) {
        closers[i] = (struct closer){ .stage = stage, .patience_ms = i == 1 ? 50 : 0 };
        scene_spawn(stage, close_pool, &closers[i]);
    }
    scene_wait(stage, 500);
    EXPECT_STATUS(closers[0].status, WEIR_OK);
    EXPECT_STATUS(closers[1].status, WEIR_TIMEOUT);
    EXPECT_STATUS(closers[2].status, WEIR_OK);
    EXPECT_INT(closers[0].at_ms, 100);
    EXPECT_INT(closers[2].at_ms, 100);
}

/* ---- freeing ----------------------------------------------------------------------------- */

SCENE(freeing_null_is_fine, .max_size = 1)
{
    weir_pool_free(NULL);
}

SCENE(a_pool_is_freed_with_its_scope, .max_size = 1)
{
    static struct fake other;

    other = (struct fake){ 0 };
    {
        weir_autoptr(weir_pool) pool = scene_pool(&other, (weir_pool_opts){ .min_idle = 1 });
        world_settle();
        EXPECT_INT(other.opened, 1);
        (void)pool;
    }
    EXPECT_INT(other.configs_freed, 1);
    EXPECT_INT(other.handles, 0);
}

SCENE(a_lease_outlives_its_pool, .max_size = 2)
{
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 100, .queries = true });
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    weir_pool_free(stage->pool); /* does not wait: the holder may be waiting for us */
    stage->pool = NULL;
    EXPECT_INT(world_now_ms(), 10);
    EXPECT(scene_logged("was freed while connection 1, taken at"));
    EXPECT_INT(stage->fake.configs_freed, 0);
    scene_wait(stage, 200);
    world_settle();
    EXPECT_STATUS(holder->held, WEIR_OK);
    EXPECT_INT(stage->fake.configs_freed, 1);
    EXPECT_INT(stage->fake.handles, 0);
}

SCENE(a_lease_forgotten_after_its_pool_was_freed_is_closed_too, .max_size = 2)
{
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .hold_ms = 50, .parting = i ? FORGET : HAVE_CLOSED });
    world_advance_ms(10);
    weir_pool_free(stage->pool);
    stage->pool = NULL;
    scene_wait(stage, 200);
    world_settle();
    EXPECT_INT(stage->fake.handles, 0);
    EXPECT_INT(stage->fake.configs_freed, 1);
}

SCENE(freeing_is_shielded_and_waits_for_what_can_be_closed, .max_size = 2)
{
    stage->fake.close.ms = 300;
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    WEIR_DEADLINE(weir_in_ms(10));
    weir_pool_free(stage->pool);
    stage->pool = NULL;
    EXPECT_INT(world_now_ms(), 300);
    EXPECT_INT(stage->fake.handles, 0);
}

SCENE(a_pool_freed_while_somebody_waits_for_its_end_is_freed_by_the_last, .max_size = 1)
{
    struct closer closer = { .stage = stage };

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    scene_spawn(stage, close_pool, &closer);
    world_advance_ms(10);
    weir_pool_free(stage->pool);
    scene_wait(stage, 500);
    EXPECT_STATUS(closer.status, WEIR_OK);
    EXPECT_INT(closer.at_ms, 100);
    EXPECT_INT(stage->fake.configs_freed, 1);
    if (stage->fake.configs_freed)
        stage->pool = NULL;
}

SCENE(a_waiter_outlives_the_pool_that_was_freed_before_he_ran, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 50, .leaves = WEIR_GONE });
    world_settle();
    stage->fake.open = (struct fake_step){ .status = WEIR_CONNECT, .words = "refused" };
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(49);
    stage->pool->retry_ns = weir_now() + 5000 * INT64_C(1000000);
    world_advance_ms(10);
    /* No connection, none on its way, and he waits for the next attempt. */
    EXPECT_INT(scene_stats(stage->pool).waiting, 1);
    EXPECT_INT(pool_total(stage->pool), 0);
    weir_pool_free(stage->pool);
    stage->pool = NULL;
    EXPECT(!waits->done);
    world_settle();
    EXPECT_STATUS(waits->status, WEIR_CLOSED);
}

/* ---- left open --------------------------------------------------------------------------- */

static bool told_of_the_pool;

static void listen(weir_log_level level, const char *line, void *arg)
{
    (void)level, (void)arg;
    told_of_the_pool |= strstr(line, "was not freed before its hub ended") != NULL;
}

static weir_status leave_a_pool_open(void *arg)
{
    weir_pool  *pool;
    weir_lease *lease;

    if (weir_pool_new(&fake_driver, arg, &(weir_pool_opts){ .min_idle = 2 }, &pool, NULL))
        return WEIR_FAILED;
    return weir_acquire(pool, WEIR_SCOPE, &lease, NULL); /* and forgets that too */
}

static void a_pool_left_open_is_closed_with_its_hub(void **state)
{
    struct fake *fake = calloc(1, sizeof *fake);

    (void)state;
    fake_init(fake);
    fake->close.ms = 100;
    weir_log_set(listen, NULL, WEIR_LOG_WARN);
    weir_status status = world_run(leave_a_pool_open, fake);
    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    assert_int_equal(status, WEIR_OK);
    assert_true(told_of_the_pool);
    assert_null(fake->fault);
    assert_int_equal(fake->handles, 0);
    assert_int_equal(fake->configs_freed, 1);
    assert_int_equal(scene_budget().used, 0);
    assert_int_equal(scene_budget().floors, 0);
    free(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closing_an_empty_pool_is_done_at_once),
        cmocka_unit_test(idle_connections_are_closed_politely_and_waited_for),
        cmocka_unit_test(a_connection_in_use_is_closed_when_it_is_given_back),
        cmocka_unit_test(what_a_driver_is_at_is_waited_for),
        cmocka_unit_test(a_pool_is_freed_when_its_driver_has_let_go),
        cmocka_unit_test(a_close_that_runs_out_of_time_goes_on_and_can_be_waited_for_again),
        cmocka_unit_test(waiters_are_told_that_the_pool_closed),
        cmocka_unit_test(a_connect_under_way_is_cut),
        cmocka_unit_test(a_connect_deaf_to_the_cut_is_closed_as_soon_as_it_is_open),
        cmocka_unit_test(a_reset_under_way_is_cut),
        cmocka_unit_test(nothing_is_reset_for_a_closed_pool),
        cmocka_unit_test(an_attempt_that_waits_for_descriptors_is_cut),
        cmocka_unit_test(an_attempt_parked_for_want_of_descriptors_is_cut),
        cmocka_unit_test(a_close_that_stalls_is_waited_for_up_to_its_limit),
        cmocka_unit_test(min_idle_is_not_filled_in_a_closed_pool),
        cmocka_unit_test(a_cancelled_closer_leaves_the_pool_closing),
        cmocka_unit_test(all_who_close_are_told_when_it_is_done),
        cmocka_unit_test(freeing_null_is_fine),
        cmocka_unit_test(a_pool_is_freed_with_its_scope),
        cmocka_unit_test(a_lease_outlives_its_pool),
        cmocka_unit_test(a_lease_forgotten_after_its_pool_was_freed_is_closed_too),
        cmocka_unit_test(freeing_is_shielded_and_waits_for_what_can_be_closed),
        cmocka_unit_test(a_pool_freed_while_somebody_waits_for_its_end_is_freed_by_the_last),
        cmocka_unit_test(a_waiter_outlives_the_pool_that_was_freed_before_he_ran),
        cmocka_unit_test(a_pool_left_open_is_closed_with_its_hub),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
