/*
 * Giving back: what a connection goes through between one user and the next.
 */
#include "pool_scene.h"

#include "pool.h"

#include <string.h>

/* ---- clean and changed ------------------------------------------------------------------- */

SCENE(a_clean_connection_is_lent_again_as_it_is, .max_size = 2)
{
    for (int i = 0; i < 100; i++) {
        struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 1 });
        scene_wait(stage, 10);
        EXPECT_INT(caller->conn, 1);
    }
    EXPECT_INT(stage->fake.attempts, 1);
    EXPECT_INT(stage->fake.resets, 0);
    EXPECT_INT(stage->fake.checks, 100);
    EXPECT_INT(scene_stats(stage->pool).acquired, 100);
    EXPECT_INT(scene_stats(stage->pool).released, 100);
    EXPECT_INT(scene_stats(stage->pool).hold.count, 100);
}

SCENE(a_changed_connection_is_reset_while_its_waiter_waits, .max_size = 1)
{
    stage->fake.reset.ms = 20;
    struct caller *holder =
        scene_call(stage, (struct caller){ .hold_ms = 10, .leaves = WEIR_DIRTY });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    EXPECT(holder->done); /* he does not wait for the reset */
    EXPECT_INT(scene_stats(stage->pool).resetting, 1);
    world_advance_ms(19);
    EXPECT(!waits->done);
    world_advance_ms(1);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 30);
    EXPECT_INT(waits->conn, holder->conn);
    EXPECT_INT(stage->fake.attempts, 1);
    EXPECT_INT(scene_stats(stage->pool).resets, 1);
}

SCENE(nothing_is_opened_for_a_waiter_whose_connection_is_being_reset, .max_size = 5)
{
    stage->fake.reset.ms = 20;
    scene_call(stage, (struct caller){ .leaves = WEIR_DIRTY });
    world_settle();
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->conn, 1);
    EXPECT_INT(stage->fake.attempts, 1);
}

SCENE(with_full_reset_every_lease_is_followed_by_one, .max_size = 1, .reset = WEIR_RESET_FULL)
{
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_wait(stage, 1000);
    EXPECT_INT(stage->fake.resets, 5);
    EXPECT_INT(stage->fake.attempts, 1);
}

SCENE(a_reset_that_fails_closes_and_the_waiter_gets_another, .max_size = 1)
{
    stage->fake.reset = (struct fake_step){ .ms = 20, .status = WEIR_SERVER };
    scene_call(stage, (struct caller){ .hold_ms = 10, .leaves = WEIR_DIRTY });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 30);
    EXPECT_INT(waits->conn, 2);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_RESET_FAILED), 1);
}

SCENE(a_reset_that_stalls_ends_at_its_timeout, .max_size = 1, .reset_timeout_ms = 300)
{
    stage->fake.reset.ms = FAKE_FOREVER;
    scene_call(stage, (struct caller){ .leaves = WEIR_DIRTY });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 300);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_RESET_FAILED), 1);
    EXPECT_INT(stage->fake.abrupt, 1);
}

SCENE(a_reset_that_outlives_the_age_limit_makes_room_for_a_new_one, .max_size = 1,
      .max_age_ms = 1000, .close_timeout_ms = 60000, .reset_timeout_ms = 5000)
{
    stage->fake.reset.ms = 2000;
    stage->fake.close.ms = 30000;
    scene_call(stage, (struct caller){ .leaves = WEIR_DIRTY });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 60000);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 2000); /* and not only when the old one's close is over */
    EXPECT_INT(waits->conn, 2);
}

/* ---- lost -------------------------------------------------------------------------------- */

SCENE(each_end_of_a_lease_has_its_reason, .max_size = 5)
{
    static const struct {
        weir_condition    leaves;
        enum parting      parting;
        weir_close_reason reason;
        weir_farewell     how;
    } rows[] = {
        { WEIR_BROKEN, GIVE_BACK, WEIR_CLOSE_BROKEN, WEIR_ABRUPT },
        { WEIR_GONE, GIVE_BACK, WEIR_CLOSE_LOST, WEIR_ABRUPT },
        { WEIR_CLEAN, HAVE_CLOSED, WEIR_CLOSE_REQUESTED, WEIR_POLITE },
        { WEIR_DIRTY, HAVE_CLOSED, WEIR_CLOSE_REQUESTED, WEIR_POLITE },
        { WEIR_BROKEN, HAVE_CLOSED, WEIR_CLOSE_BROKEN, WEIR_ABRUPT },
        { WEIR_CLEAN, FORGET, WEIR_CLOSE_LEAKED, WEIR_POLITE },
        { WEIR_DIRTY, FORGET, WEIR_CLOSE_LEAKED, WEIR_POLITE },
        { WEIR_BROKEN, FORGET, WEIR_CLOSE_LEAKED, WEIR_ABRUPT },
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned before = scene_closed(stage->pool, rows[i].reason);
        unsigned abrupt = stage->fake.abrupt;
        scene_call(stage, (struct caller){ .leaves = rows[i].leaves, .parting = rows[i].parting });
        scene_wait(stage, 100);
        world_settle();
        if (scene_closed(stage->pool, rows[i].reason) != before + 1 ||
            stage->fake.abrupt - abrupt != (rows[i].how == WEIR_ABRUPT))
            EXPECT_INT(i, -1);
        EXPECT_INT(scene_stats(stage->pool).closing, 0);
    }
}

SCENE(a_statement_cut_by_a_deadline_breaks_its_connection, .max_size = 1)
{
    struct caller *cut =
        scene_call(stage, (struct caller){ .hold_ms = 1000, .scope_ms = 100, .queries = true });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(cut->held, WEIR_TIMEOUT);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_BROKEN), 1);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 100);
    EXPECT_INT(waits->conn, 2);
}

SCENE(a_close_that_stalls_holds_up_nobody, .max_size = 1, .close_timeout_ms = 60000)
{
    stage->fake.close.ms = 60000;
    scene_call(stage, (struct caller){ .hold_ms = 10, .parting = HAVE_CLOSED });
    struct caller *waits = scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_advance_ms(10);
    EXPECT(waits->holding);
    EXPECT_INT(scene_stats(stage->pool).closing, 1);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    world_advance_ms(59999);
    EXPECT_INT(scene_stats(stage->pool).closing, 1);
    EXPECT_INT(scene_budget().used, 2); /* kept until close() has returned */
    world_advance_ms(1);
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_INT(scene_budget().used, 1);
}

SCENE(even_a_close_deaf_to_its_deadline_holds_up_nobody, .max_size = 2, .close_timeout_ms = 100)
{
    stage->fake.close = (struct fake_step){ .ms = 60000, .deaf = true };
    for (int i = 0; i < 10; i++) {
        struct caller *caller =
            scene_call(stage, (struct caller){ .hold_ms = 1, .leaves = WEIR_BROKEN });
        scene_wait(stage, 10);
        EXPECT_STATUS(caller->status, WEIR_OK);
    }
    EXPECT_INT(scene_stats(stage->pool).closing, 10);
    EXPECT_INT(scene_budget().used, 10);
    world_advance_ms(60000);
    EXPECT_INT(scene_budget().used, 0);
}

/* ---- forgotten --------------------------------------------------------------------------- */

SCENE(a_forgotten_lease_is_closed_with_its_coroutine, .max_size = 1)
{
    scene_call(stage, (struct caller){ .hold_ms = 10, .parting = FORGET });
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100);
    EXPECT_INT(scene_stats(stage->pool).forgotten, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LEAKED), 1);
    EXPECT_STATUS(waits->status, WEIR_OK);
    EXPECT_INT(waits->served_ms, 10);
    EXPECT(scene_logged("was still held when"));
}

SCENE(a_forgotten_lease_is_closed_however_its_coroutine_ended, .max_size = 3)
{
    struct caller *canceled =
        scene_call(stage, (struct caller){ .hold_ms = 1000, .parting = FORGET });
    struct caller *late = scene_call(
        stage, (struct caller){ .hold_ms = 1000, .scope_ms = 50, .parting = FORGET });
    scene_call(stage, (struct caller){ .parting = FORGET });
    world_advance_ms(10);
    weir_cancel(canceled->task);
    scene_wait(stage, 60);
    EXPECT_STATUS(canceled->held, WEIR_CANCELED);
    EXPECT_STATUS(late->held, WEIR_TIMEOUT);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LEAKED), 3);
}

static weir_status forget_three(void *arg)
{
    struct caller *me = arg;
    weir_lease    *lease;

    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(weir_acquire(me->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    return WEIR_OK;
}

SCENE(all_that_a_coroutine_forgot_is_closed, .max_size = 3, .close_timeout_ms = 60000)
{
    struct caller me = { .pool = stage->pool };

    stage->fake.close.ms = 30000; /* one stopped server does not hold up the next clean-up */
    scene_spawn(stage, forget_three, &me);
    world_advance_ms(1);
    EXPECT_INT(scene_stats(stage->pool).closing, 3);
    world_advance_ms(30000);
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LEAKED), 3);
}

SCENE(recycling_takes_a_forgotten_lease_as_given_back, .max_size = 1,
      .on_exit = WEIR_ON_EXIT_RECYCLE)
{
    scene_call(stage, (struct caller){ .parting = FORGET });
    scene_call(stage, (struct caller){ .parting = FORGET, .leaves = WEIR_DIRTY });
    struct caller *third = scene_call(stage, (struct caller){ .parting = FORGET });
    scene_wait(stage, 100);
    EXPECT_INT(third->conn, 1);
    EXPECT_INT(scene_stats(stage->pool).forgotten, 3);
    EXPECT_INT(stage->fake.resets, 1);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    scene_call(stage, (struct caller){ .parting = FORGET, .leaves = WEIR_BROKEN });
    scene_wait(stage, 100);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_BROKEN), 1);
}

/* ---- the wrong hands --------------------------------------------------------------------- */

static weir_status release_another_ones(void *arg)
{
    weir_lease *lease = arg;

    EXPECT_STATUS(weir_release(lease), WEIR_USAGE);
    EXPECT_STATUS(weir_lease_close(lease), WEIR_USAGE);
    EXPECT_STATUS(weir_lease_give(lease, weir_self()), WEIR_USAGE);
    return WEIR_OK;
}

SCENE(only_the_holder_can_give_back, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    scene_spawn(stage, release_another_ones, lease);
    world_settle();
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    EXPECT_INT(scene_stats(stage->pool).released, 0);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

SCENE(a_lease_given_back_twice_is_an_error_that_changes_nothing, .max_size = 1)
{
    weir_lease *lease, *next;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_USAGE);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);

    /* Nor does a stale handle touch the next lease of the same connection. */
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &next, NULL), WEIR_OK);
    EXPECT_INT(weir_lease_conn_id(next), 1);
    EXPECT_STATUS(weir_release(lease), WEIR_USAGE);
    EXPECT_STATUS(weir_lease_close(lease), WEIR_USAGE);
    EXPECT_STATUS(weir_lease_error(lease, NULL), WEIR_USAGE);
    EXPECT(weir_lease_conn(lease, &fake_driver) == NULL);
    EXPECT(weir_lease_conn(next, &fake_driver) != NULL);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    EXPECT_STATUS(weir_release(next), WEIR_OK);
    EXPECT_STATUS(weir_release(NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_close(NULL), WEIR_OK);
}

SCENE(a_lease_is_known_to_be_over_also_when_its_connection_has_gone, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_close(lease), WEIR_OK);
    world_advance_ms(10); /* closed, and its keeper has gone */
    EXPECT_INT(stage->fake.handles, 0);
    EXPECT_STATUS(weir_release(lease), WEIR_USAGE);
    EXPECT_STATUS(weir_lease_close(lease), WEIR_USAGE);
}

/* ---- from hand to hand ------------------------------------------------------------------- */

static weir_status use_what_was_given(void *arg)
{
    weir_lease *lease = arg;

    EXPECT_STATUS(fake_query(lease, 10), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

static weir_status forget_what_was_given(void *arg)
{
    (void)arg;
    weir_sleep(weir_in_ms(10));
    return WEIR_OK;
}

SCENE(a_lease_given_to_another_coroutine_is_his, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    weir_task *task = scene_spawn(stage, use_what_was_given, lease);
    EXPECT_STATUS(weir_lease_give(lease, task), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_USAGE);
    scene_wait(stage, 100);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(scene_stats(stage->pool).forgotten, 0);
}

SCENE(a_lease_given_away_ends_with_its_new_holder, .max_size = 1)
{
    weir_lease *lease;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    weir_task *task = scene_spawn(stage, forget_what_was_given, lease);
    EXPECT_STATUS(weir_lease_give(lease, task), WEIR_OK);
    scene_wait(stage, 100);
    EXPECT_INT(scene_stats(stage->pool).forgotten, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LEAKED), 1);
}

/* ---- the same one in one coroutine ------------------------------------------------------- */

SCENE(a_local_lease_is_the_same_one_until_its_last_release, .max_size = 2)
{
    weir_lease *one, *two, *three;

    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &two, NULL), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &three, NULL), WEIR_OK);
    EXPECT(one == two);
    EXPECT(three != one); /* weir_acquire's are independent */
    EXPECT_STATUS(weir_lease_give(one, weir_self()), WEIR_USAGE);
    EXPECT_STATUS(weir_release(three), WEIR_OK);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).in_use, 1);
    EXPECT_STATUS(weir_release(one), WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).in_use, 0);
    EXPECT_STATUS(weir_release(one), WEIR_USAGE);
    EXPECT_INT(scene_stats(stage->pool).acquired, 2);

    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_close(one), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &two, NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
}

SCENE(local_leases_of_two_pools_do_not_meet, .max_size = 2)
{
    static struct fake other_fake;
    weir_lease        *one, *two, *again;

    other_fake = (struct fake){ 0 };
    weir_pool *other = scene_pool(&other_fake, (weir_pool_opts){ .max_size = 1 });
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &one, NULL), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(other, WEIR_SCOPE, &two, NULL), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &again, NULL), WEIR_OK);
    EXPECT(one == again && one != two);
    EXPECT_STATUS(weir_release(again), WEIR_OK);
    EXPECT_STATUS(weir_release(one), WEIR_OK);
    EXPECT_STATUS(weir_local_lease(other, WEIR_SCOPE, &again, NULL), WEIR_OK);
    EXPECT(two == again);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    EXPECT_STATUS(weir_release(two), WEIR_OK);
    weir_pool_free(other);
    EXPECT_INT(other_fake.handles, 0);
}

static weir_status forget_a_local_one(void *arg)
{
    struct caller *me = arg;
    weir_lease    *lease;

    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(weir_local_lease(me->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

SCENE(a_forgotten_local_lease_is_closed_too, .max_size = 1)
{
    struct caller me = { .pool = stage->pool };

    for (int i = 0; i < 2; i++) {
        scene_spawn(stage, forget_a_local_one, &me);
        scene_wait(stage, 100);
    }
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LEAKED), 2);
}

SCENE(a_local_lease_that_could_not_be_had_leaves_nothing, .max_size = 1)
{
    weir_lease *lease;

    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    EXPECT_STATUS(weir_local_lease(stage->pool, weir_in_ms(10), &lease, NULL), WEIR_TIMEOUT);
    EXPECT(lease == NULL);
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

/* ---- why it failed ----------------------------------------------------------------------- */

SCENE(the_holder_can_ask_why_a_call_failed, .max_size = 1)
{
    weir_lease *lease;
    weir_error  err;

    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_error(lease, &err), WEIR_OK);
    EXPECT_STATUS(weir_lease_fail(lease), WEIR_FAILED); /* never OK */
    fake_leave(lease, WEIR_GONE);
    EXPECT_STATUS(weir_lease_error(lease, &err), WEIR_LOST);
    EXPECT_TEXT(err.message, "lost");
    EXPECT_STATUS(weir_lease_fail(lease), WEIR_LOST);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clean_connection_is_lent_again_as_it_is),
        cmocka_unit_test(a_changed_connection_is_reset_while_its_waiter_waits),
        cmocka_unit_test(nothing_is_opened_for_a_waiter_whose_connection_is_being_reset),
        cmocka_unit_test(with_full_reset_every_lease_is_followed_by_one),
        cmocka_unit_test(a_reset_that_fails_closes_and_the_waiter_gets_another),
        cmocka_unit_test(a_reset_that_stalls_ends_at_its_timeout),
        cmocka_unit_test(a_reset_that_outlives_the_age_limit_makes_room_for_a_new_one),
        cmocka_unit_test(each_end_of_a_lease_has_its_reason),
        cmocka_unit_test(a_statement_cut_by_a_deadline_breaks_its_connection),
        cmocka_unit_test(a_close_that_stalls_holds_up_nobody),
        cmocka_unit_test(even_a_close_deaf_to_its_deadline_holds_up_nobody),
        cmocka_unit_test(a_forgotten_lease_is_closed_with_its_coroutine),
        cmocka_unit_test(a_forgotten_lease_is_closed_however_its_coroutine_ended),
        cmocka_unit_test(all_that_a_coroutine_forgot_is_closed),
        cmocka_unit_test(recycling_takes_a_forgotten_lease_as_given_back),
        cmocka_unit_test(only_the_holder_can_give_back),
        cmocka_unit_test(a_lease_given_back_twice_is_an_error_that_changes_nothing),
        cmocka_unit_test(a_lease_is_known_to_be_over_also_when_its_connection_has_gone),
        cmocka_unit_test(a_lease_given_to_another_coroutine_is_his),
        cmocka_unit_test(a_lease_given_away_ends_with_its_new_holder),
        cmocka_unit_test(a_local_lease_is_the_same_one_until_its_last_release),
        cmocka_unit_test(local_leases_of_two_pools_do_not_meet),
        cmocka_unit_test(a_forgotten_local_lease_is_closed_too),
        cmocka_unit_test(a_local_lease_that_could_not_be_had_leaves_nothing),
        cmocka_unit_test(the_holder_can_ask_why_a_call_failed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
