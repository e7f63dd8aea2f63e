/*
 * Many pools that connect at once, and one limit for all of them.
 */
#include "pool_scene.h"

#include "pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <weir/governor.h>

enum { POOLS = 3 };

static struct fake fakes[POOLS];

static weir_pool *another(int i, weir_pool_opts opts)
{
    fakes[i] = (struct fake){ .open = fakes[i].open };
    return scene_pool(&fakes[i], opts);
}

static void free_all(weir_pool *pools[POOLS])
{
    for (int i = 0; i < POOLS; i++) {
        weir_pool_free(pools[i]);
        EXPECT_INT(fakes[i].handles, 0);
        EXPECT(!fakes[i].fault);
        fakes[i] = (struct fake){ 0 };
    }
}

static void govern(weir_governor_opts opts)
{
    EXPECT_STATUS(weir_governor_set(&opts, NULL), WEIR_OK);
}

static weir_governor_stats governed(void)
{
    weir_governor_stats stats;

    weir_governor_read(&stats);
    return stats;
}

/* Whatever a scene leaves behind is the next one's. */
static void end_of_government(void)
{
    EXPECT_INT(governed().connecting, 0);
    EXPECT_INT(governed().waiting, 0);
    EXPECT_STATUS(weir_governor_set(NULL, NULL), WEIR_OK);
}

static void call_many(struct scene *stage, weir_pool *pool, int count, int64_t hold_ms)
{
    for (int i = 0; i < count; i++)
        scene_call(stage, (struct caller){ .pool = pool, .hold_ms = hold_ms });
}

/* ---- the limits -------------------------------------------------------------------------- */

SCENE(without_a_governor_nobody_is_held_back, .max_size = 20, .max_connecting = 20)
{
    uint64_t begun = governed().begun;

    stage->fake.open.ms = 50;
    call_many(stage, NULL, 20, 100);
    world_advance_ms(10);
    EXPECT_INT(stage->fake.opening, 20);
    EXPECT_INT(governed().begun, begun);
    scene_wait(stage, 1000);
}

SCENE(no_more_connect_at_once_than_the_process_may, .max_size = 1)
{
    weir_pool *pools[POOLS];
    unsigned   peak = 0;

    govern((weir_governor_opts){ .max_connecting = 4 });
    for (int i = 0; i < POOLS; i++) {
        pools[i] = another(i, (weir_pool_opts){ .max_size = 10, .max_connecting = 5 });
        fakes[i].open.ms = 50;
        call_many(stage, pools[i], 10, 1000);
    }
    while (stage->playing) {
        unsigned opening = fakes[0].opening + fakes[1].opening + fakes[2].opening;
        EXPECT_INT(opening, governed().connecting);
        peak = opening > peak ? opening : peak;
        world_advance_ms(10);
    }
    EXPECT_INT(peak, 4);
    EXPECT_INT(fakes[0].opened + fakes[1].opened + fakes[2].opened, 30);
    free_all(pools);
    end_of_government();
}

SCENE(connects_begin_evenly_after_a_burst, .max_size = 20, .max_connecting = 20)
{
    govern((weir_governor_opts){ .per_second = 10, .burst = 3 });
    call_many(stage, NULL, 10, 5000);
    scene_wait(stage, 20000);
    for (unsigned i = 1; i <= 10; i++)
        EXPECT_INT(fake_when(&stage->fake, FAKE_OPENING, i), i <= 3 ? 0 : (i - 3) * 100);
    EXPECT_INT(stage->fake.opened, 10);
    end_of_government();
}

SCENE(after_a_rest_a_burst_may_begin_again, .max_size = 20, .max_connecting = 20,
      .idle_timeout_ms = 1000)
{
    govern((weir_governor_opts){ .per_second = 10, .burst = 3 });
    call_many(stage, NULL, 3, 10);
    scene_wait(stage, 500);
    world_advance_ms(5000);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    int64_t start = world_now_ms();
    call_many(stage, NULL, 4, 500);
    scene_wait(stage, 5000);
    EXPECT_INT(fake_when(&stage->fake, FAKE_OPENING, 6), start);
    EXPECT_INT(fake_when(&stage->fake, FAKE_OPENING, 7), start + 100);
    end_of_government();
}

SCENE(both_limits_hold_together, .max_size = 20, .max_connecting = 20)
{
    govern((weir_governor_opts){ .max_connecting = 2, .per_second = 100 });
    stage->fake.open.ms = 35;
    call_many(stage, NULL, 6, 5000);
    scene_wait(stage, 20000);
    EXPECT_INT(stage->fake.opening_peak, 2);
    /* Two begin 10 ms apart, and each makes room 35 ms after it began. */
    static const int64_t begins[] = { 0, 10, 35, 45, 70, 80 };
    for (unsigned i = 0; i < 6; i++)
        EXPECT_INT(fake_when(&stage->fake, FAKE_OPENING, i + 1), begins[i]);
    end_of_government();
}

/* ---- whose turn --------------------------------------------------------------------------- */

SCENE(a_pool_that_wants_many_does_not_keep_another_waiting, .max_size = 50, .max_connecting = 50)
{
    weir_pool *pools[POOLS];

    govern((weir_governor_opts){ .max_connecting = 1 });
    for (int i = 0; i < POOLS; i++)
        pools[i] = another(i, (weir_pool_opts){ .max_size = 2 });
    for (int i = 0; i < POOLS; i++)
        fakes[i].open.ms = 10;
    stage->fake.open.ms = 10;
    call_many(stage, NULL, 50, 5000);
    world_advance_ms(5);
    for (int i = 0; i < POOLS; i++)
        call_many(stage, pools[i], 1, 10);
    world_advance_ms(5 + 10 * (POOLS + 1));
    /* After the first of the many each has had its turn. */
    for (int i = 0; i < POOLS; i++)
        EXPECT_INT(fakes[i].opened, 1);
    scene_wait(stage, 20000);
    EXPECT_INT(stage->fake.opened, 50);
    free_all(pools);
    end_of_government();
}

/* ---- ways out ----------------------------------------------------------------------------- */

SCENE(a_connect_that_fails_gives_its_leave_back, .max_size = 10, .max_connecting = 10)
{
    govern((weir_governor_opts){ .max_connecting = 1 });
    stage->fake.open = (struct fake_step){ WEIR_CONNECT, 10, false, "refused", 2002 };
    call_many(stage, NULL, 10, 10);
    scene_wait(stage, 5000);
    EXPECT_INT(governed().connecting, 0);
    stage->fake.open = (struct fake_step){ 0 };
    world_advance_ms(3000);
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 5000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    end_of_government();
}

SCENE(a_pool_closed_while_it_is_held_back_leaves_nobody_in_the_line, .max_size = 10,
      .max_connecting = 10)
{
    weir_pool *pools[POOLS];

    govern((weir_governor_opts){ .max_connecting = 1 });
    for (int i = 0; i < POOLS; i++)
        pools[i] = another(i, (weir_pool_opts){ .max_size = 2 });
    stage->fake.open.ms = FAKE_FOREVER;
    call_many(stage, NULL, 10, 10);
    world_advance_ms(1);
    call_many(stage, pools[0], 1, 10);
    call_many(stage, pools[1], 1, 10);
    world_advance_ms(1);
    EXPECT_INT(governed().waiting, 11);
    EXPECT_STATUS(weir_pool_close(pools[0], WEIR_FOREVER), WEIR_OK);
    EXPECT_INT(governed().waiting, 10);
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    world_settle();
    EXPECT_INT(fakes[1].opened, 1); /* it was its turn at last */
    scene_wait(stage, 100);
    free_all(pools);
    end_of_government();
}

SCENE(a_connect_that_the_kernel_has_no_descriptor_for_lets_others_go_first, .max_size = 1)
{
    weir_pool *pools[POOLS];

    govern((weir_governor_opts){ .max_connecting = 1 });
    for (int i = 0; i < POOLS; i++)
        pools[i] = another(i, (weir_pool_opts){ .max_size = 2 });
    fakes[0].open = (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 };
    call_many(stage, pools[0], 1, 10);
    world_advance_ms(10);
    EXPECT_INT(governed().connecting, 0);
    struct caller *other = scene_call(stage, (struct caller){ .pool = pools[1] });
    world_advance_ms(1);
    EXPECT_STATUS(other->status, WEIR_OK);
    EXPECT(other->done);
    fakes[0].open = (struct fake_step){ 0 };
    scene_wait(stage, 5000);
    EXPECT_INT(fakes[0].opened, 1);
    free_all(pools);
    end_of_government();
}

SCENE(it_waits_for_leave_anew_when_the_kernel_has_one, .max_size = 1)
{
    weir_pool *pools[POOLS];
    char       line[512];

    govern((weir_governor_opts){ .max_connecting = 1 });
    for (int i = 0; i < POOLS; i++)
        pools[i] = another(i, (weir_pool_opts){ .max_size = 2 });
    fakes[0].open = (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 };
    fakes[1].open.ms = 500;
    call_many(stage, pools[0], 1, 10);
    world_advance_ms(10);
    call_many(stage, pools[1], 1, 10);
    weir_pool_summary(pools[0], line, sizeof line);
    EXPECT_TEXT(line, "0 connecting, 1 short of descriptors (1 of 1000 taken; the kernel has "
                      "none)");
    world_advance_ms(200);
    EXPECT_INT(fakes[0].attempts, 1);
    weir_pool_summary(pools[0], line, sizeof line);
    EXPECT_TEXT(line, "0 connecting, 0 short of descriptors, 1 held back by the governor");
    fakes[0].open = (struct fake_step){ 0 };
    scene_wait(stage, 5000);
    EXPECT_INT(fakes[0].attempts, 2);
    free_all(pools);
    end_of_government();
}

SCENE(lifting_the_limit_lets_all_go, .max_size = 10, .max_connecting = 10)
{
    govern((weir_governor_opts){ .per_second = 1 });
    call_many(stage, NULL, 10, 10);
    world_advance_ms(500);
    EXPECT_INT(stage->fake.opened, 1);
    EXPECT_INT(scene_stats(stage->pool).waiting, 0);
    call_many(stage, NULL, 10, 5000);
    world_advance_ms(100);
    EXPECT_INT(governed().waiting, 9);
    EXPECT_STATUS(weir_governor_set(NULL, NULL), WEIR_OK);
    world_settle();
    EXPECT_INT(stage->fake.opened, 10);
    EXPECT_INT(governed().waiting, 0);
    scene_wait(stage, 10000);
    end_of_government();
}

SCENE(a_tighter_limit_holds_from_now_on, .max_size = 10, .max_connecting = 10)
{
    govern((weir_governor_opts){ .per_second = 1000, .burst = 1 });
    call_many(stage, NULL, 3, 60000);
    world_advance_ms(10);
    EXPECT_INT(stage->fake.opened, 3);
    govern((weir_governor_opts){ .per_second = 1 });
    call_many(stage, NULL, 3, 50000);
    world_advance_ms(1500);
    EXPECT_INT(stage->fake.opened, 5);
    govern((weir_governor_opts){ .per_second = 100 }); /* whoever watched the clock looks anew */
    world_advance_ms(10);
    EXPECT_INT(stage->fake.opened, 6);
    scene_wait(stage, 100000);
    end_of_government();
}

/* The first connection has served everybody before the others may begin. */
SCENE(demand_that_vanished_takes_no_turn_from_others, .max_size = 10, .max_connecting = 10)
{
    weir_pool *pools[POOLS];
    uint64_t   begun = governed().begun;

    govern((weir_governor_opts){ .per_second = 10 });
    for (int i = 0; i < POOLS; i++)
        pools[i] = another(i, (weir_pool_opts){ .max_size = 2 });
    call_many(stage, NULL, 10, 1);
    world_advance_ms(50);
    EXPECT_INT(governed().waiting, 9);
    struct caller *other = scene_call(stage, (struct caller){ .pool = pools[0] });
    world_advance_ms(50);
    EXPECT(other->done);
    EXPECT_INT(other->served_ms, 100); /* and not after nine more of a tenth of a second */
    world_advance_ms(100);
    EXPECT_INT(governed().waiting, 0); /* the rest went all at once, at the next turn */
    EXPECT_INT(stage->fake.opened, 1);
    EXPECT_INT(governed().begun - begun, 2);
    free_all(pools);
    end_of_government();
}

/* ---- with the other limits ----------------------------------------------------------------- */

/* Few descriptors, one leave, three pools whose connections do not last: everybody gets on. */
SCENE(it_does_not_come_to_a_standstill_with_the_budget, .max_size = 1)
{
    weir_pool *pools[POOLS];

    scene_set_budget(5); /* each pool's promise, and one more */
    govern((weir_governor_opts){ .max_connecting = 1, .per_second = 200 });
    for (int i = 0; i < POOLS; i++) {
        pools[i] = another(i, (weir_pool_opts){ .max_size = 10, .max_connecting = 5 });
        fakes[i].open.ms = 3;
        fakes[i].close.ms = 2;
        for (int k = 0; k < 100; k++)
            scene_call(stage, (struct caller){ .pool = pools[i], .hold_ms = 1 + k % 5,
                                               .parting = k % 3 ? HAVE_CLOSED : GIVE_BACK });
    }
    scene_wait(stage, 29000);
    for (unsigned i = 0; i < stage->caller_count; i++)
        EXPECT_STATUS(stage->cast[i]->status, WEIR_OK);
    free_all(pools);
    end_of_government();
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(who_waits_for_it_reads_so, .name = "orders", .max_size = 10, .max_connecting = 5)
{
    char line[512];

    govern((weir_governor_opts){ .max_connecting = 1 });
    stage->fake.open.ms = FAKE_FOREVER;
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 100 });
    call_many(stage, NULL, 4, 10);
    world_advance_ms(50);
    weir_pool_summary(stage->pool, line, sizeof line);
    EXPECT_TEXT(line, "1 connecting, 0 short of descriptors, 4 held back by the governor");
    world_advance_ms(50);
    EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    EXPECT_TEXT(caller->err.message, "1 connecting, 0 short of descriptors, 4 held back by the");
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_OK);
    scene_wait(stage, 100);
    end_of_government();
}

SCENE(wrong_options_are_refused, .max_size = 1)
{
    weir_error err;

    EXPECT_STATUS(weir_governor_set(&(weir_governor_opts){ .burst = 5 }, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "per_second");
    EXPECT_STATUS(weir_governor_set(&(weir_governor_opts){ .per_second = 2000000 }, &err),
                  WEIR_USAGE);
}

/* ---- hubs of several threads ---------------------------------------------------------------- */

enum { ROUNDS = 300 };

/* No alarm is ever set but the server's, or the clock of this world would jump while it waits
   for the other one. */
static const weir_pool_opts timeless = {
    .max_size = 4,
    .max_connecting = 4,
    .acquire_timeout_ms = WEIR_NEVER,
    .idle_timeout_ms = WEIR_NEVER,
    .max_age_ms = WEIR_NEVER,
    .connect_timeout_ms = WEIR_NEVER,
};

static weir_status take_and_close(void *pool)
{
    for (int i = 0; i < ROUNDS; i++) {
        weir_lease *lease;
        weir_status status = weir_acquire(pool, WEIR_FOREVER, &lease, NULL);
        if (status != WEIR_OK)
            return status;
        weir_lease_close(lease);
    }
    return WEIR_OK;
}

static weir_status live(void *arg)
{
    struct fake *fake = arg;
    weir_pool   *pool = NULL;
    weir_group  *group = NULL;

    if (weir_pool_new(&fake_driver, fake, &timeless, &pool, NULL) != WEIR_OK ||
        weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_FAILED;
    for (int i = 0; i < 8; i++)
        weir_spawn(group, take_and_close, pool);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    weir_group_free(group);
    weir_pool_free(pool);
    return status;
}

static void *thread(void *arg)
{
    return (void *)(uintptr_t)world_run(live, arg);
}

static void hubs_of_several_threads_share_one_limit(void **state)
{
    static struct fake servers[4];
    pthread_t          threads[4];
    void              *status;

    (void)state;
    assert_int_equal(weir_governor_set(&(weir_governor_opts){ .max_connecting = 2 }, NULL), 0);
    uint64_t begun = governed().begun;
    for (int i = 0; i < 4; i++) {
        fake_init(&servers[i]);
        servers[i].open.ms = 1;
        assert_int_equal(pthread_create(&threads[i], NULL, thread, &servers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &status);
        assert_null(status);
        assert_null(servers[i].fault);
        assert_in_range(servers[i].opening_peak, 1, 2);
    }
    assert_true(governed().begun - begun >= 4 * 8 * ROUNDS);
    assert_int_equal(governed().connecting, 0);
    assert_int_equal(governed().waiting, 0);
    assert_int_equal(weir_governor_set(NULL, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_governor_nobody_is_held_back),
        cmocka_unit_test(no_more_connect_at_once_than_the_process_may),
        cmocka_unit_test(connects_begin_evenly_after_a_burst),
        cmocka_unit_test(after_a_rest_a_burst_may_begin_again),
        cmocka_unit_test(both_limits_hold_together),
        cmocka_unit_test(a_pool_that_wants_many_does_not_keep_another_waiting),
        cmocka_unit_test(a_connect_that_fails_gives_its_leave_back),
        cmocka_unit_test(a_pool_closed_while_it_is_held_back_leaves_nobody_in_the_line),
        cmocka_unit_test(a_connect_that_the_kernel_has_no_descriptor_for_lets_others_go_first),
        cmocka_unit_test(it_waits_for_leave_anew_when_the_kernel_has_one),
        cmocka_unit_test(lifting_the_limit_lets_all_go),
        cmocka_unit_test(a_tighter_limit_holds_from_now_on),
        cmocka_unit_test(demand_that_vanished_takes_no_turn_from_others),
        cmocka_unit_test(it_does_not_come_to_a_standstill_with_the_budget),
        cmocka_unit_test(who_waits_for_it_reads_so),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(hubs_of_several_threads_share_one_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
