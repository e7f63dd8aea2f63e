/*
 * Several pools and one small account of descriptors: nobody starves, nobody overdraws.
 */
#include "pool_scene.h"

#include "pool.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { POOLS = 3 };

static struct fake fakes[POOLS];

/* A pool more, on a server of its own. The scene's body frees it. */
static weir_pool *another(int i, unsigned sockets, weir_pool_opts opts)
{
    fakes[i] = (struct fake){ .sockets = sockets };
    return scene_pool(&fakes[i], opts);
}

static void free_another(weir_pool *pool, int i)
{
    weir_pool_free(pool);
    EXPECT_INT(fakes[i].handles, 0);
    EXPECT_INT(fakes[i].descriptors, 0);
    EXPECT_INT(fakes[i].configs_freed, 1);
    EXPECT(!fakes[i].fault);
}

static unsigned in_all(const struct scene *stage)
{
    unsigned sum = stage->fake.descriptors;

    for (int i = 0; i < POOLS; i++)
        sum += fakes[i].descriptors;
    return sum;
}

/* Somebody who takes descriptors for a purpose of his own. */
struct taker {
    unsigned    wants;
    int64_t     patience_ms, hold_ms;
    weir_status status;
    weir_error  err;
    int64_t     at_ms;
};

static weir_status take_token(void *arg)
{
    struct taker     *me = arg;
    weir_budget_token token;

    me->status = weir_budget_take(me->wants, me->patience_ms ? weir_in_ms(me->patience_ms)
                                                             : WEIR_FOREVER, &token, &me->err);
    me->at_ms = world_now_ms();
    if (me->status == WEIR_OK)
        weir_sleep(weir_in_ms(me->hold_ms));
    weir_budget_give(&token);
    weir_budget_give(&token); /* twice is harmless */
    weir_budget_give(NULL);
    return WEIR_OK;
}

/* ---- the account ------------------------------------------------------------------------- */

SCENE(every_descriptor_is_paid_for_before_it_is_opened, .max_size = 20, .max_connecting = 20)
{
    scene_set_budget(5);
    stage->fake.open.ms = 10;
    stage->fake.close.ms = 50;
    for (int i = 0; i < 40; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10,
                                           .parting = i % 3 ? GIVE_BACK : HAVE_CLOSED });
    while (stage->playing) {
        EXPECT(stage->fake.descriptors <= scene_budget().used);
        EXPECT(scene_budget().used <= 5);
        world_advance_ms(1);
    }
    EXPECT_INT(stage->fake.descriptors_peak, 5);
    EXPECT_INT(scene_budget().limit, 5);
    EXPECT(scene_budget().waited > 0);
    world_advance_ms(100);
    weir_pool_free(stage->pool);
    stage->pool = NULL;
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_budget_below_what_is_used_or_promised_is_refused, .max_size = 10)
{
    weir_error err;

    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 50);
    EXPECT_INT(scene_budget().used, 4);
    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .limit = 3 }, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "3 descriptors");
    EXPECT_INT(scene_budget().limit, SCENE_DESCRIPTORS);
    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .limit = 4 }, &err), WEIR_OK);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(numbers_that_are_too_large_do_not_wrap_around, .max_size = 1)
{
    weir_budget_token one, rest;
    weir_error        err;

    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .reserve = UINT_MAX }, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "a budget of 0 descriptors");
    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .limit = UINT_MAX }, &err), WEIR_OK);
    EXPECT_STATUS(weir_budget_take(1, WEIR_NOW, &one, &err), WEIR_OK);
    EXPECT_STATUS(weir_budget_take(UINT_MAX - 5, WEIR_NOW, &rest, &err), WEIR_USAGE);
    EXPECT_STATUS(weir_budget_take(INT_MAX - 1, WEIR_NOW, &rest, &err), WEIR_TIMEOUT);
    weir_budget_give(&one);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* The soft limit is what a shell or service manager happened to give; the hard one is the law. */
SCENE(the_soft_limit_is_raised_when_asked_for_and_only_then, .max_size = 1)
{
    struct rlimit before, now;
    weir_error    err;

    EXPECT_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
    now = (struct rlimit){ .rlim_cur = 150, .rlim_max = before.rlim_max };
    EXPECT_INT(setrlimit(RLIMIT_NOFILE, &now), 0);
    EXPECT_STATUS(weir_budget_set(NULL, &err), WEIR_OK);
    EXPECT_INT(getrlimit(RLIMIT_NOFILE, &now), 0);
    EXPECT_INT(now.rlim_cur, 150);
    EXPECT(scene_budget().limit < 150);

    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .raise = true, .reserve = 20 }, &err),
                  WEIR_OK);
    EXPECT_INT(getrlimit(RLIMIT_NOFILE, &now), 0);
    EXPECT(now.rlim_cur == before.rlim_max);
    EXPECT(scene_budget().limit > 150);
    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .raise = true, .limit = 77 }, &err),
                  WEIR_OK); /* there is nothing left to raise */
    EXPECT_INT(scene_budget().limit, 77);
    EXPECT_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* What a caller reads who got no connection for want of descriptors: ours, and the kernel's. */
SCENE(a_timeout_says_how_the_account_stands, .name = "orders", .max_size = 10, .max_connecting = 3)
{
    scene_set_budget(4);
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    struct caller *caller = scene_call(stage, (struct caller){ .patience_ms = 100 });
    scene_wait(stage, 5000);
    EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    EXPECT_TEXT(caller->err.message, "4 of 10 in use by ");
    EXPECT_TEXT(caller->err.message, "0 connecting, 1 short of descriptors (4 of 4 taken)");
    scene_set_budget(SCENE_DESCRIPTORS);

    stage->fake.open = (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 };
    for (int i = 0; i < 5; i++)
        caller = scene_call(stage, (struct caller){ .patience_ms = 250, .hold_ms = 1000 });
    scene_wait(stage, 5000);
    EXPECT_STATUS(caller->status, WEIR_TIMEOUT);
    EXPECT_TEXT(caller->err.message, "0 connecting, 1 short of descriptors (5 of 1000 taken; the "
                                     "kernel has none)");
    stage->fake.open = (struct fake_step){ 0 };
}

SCENE(the_log_has_the_pools_state_once_a_second_when_callers_give_up, .name = "orders",
      .max_size = 1)
{
    scene_log_from(WEIR_LOG_INFO);
    scene_call(stage, (struct caller){ .hold_ms = 3000 });
    world_settle();
    for (int i = 0; i < 20; i++) {
        scene_call(stage, (struct caller){ .patience_ms = 50 });
        world_advance_ms(100);
    }
    scene_wait(stage, 5000);
    EXPECT_INT(scene_stats(stage->pool).timeouts, 20);
    EXPECT_INT(scene_logged("a caller gave up: pool orders: ready, 1 of 1: 1 in use, 0 idle"), 2);
}

SCENE(floors_that_do_not_fit_are_refused_at_creation, .max_size = 10)
{
    weir_pool *pool = (weir_pool *)1;
    weir_error err;

    scene_set_budget(4);
    weir_pool *second = another(0, 3, (weir_pool_opts){ 0 });
    EXPECT(second != NULL);
    fakes[1] = (struct fake){ .sockets = 1 };
    EXPECT_STATUS(weir_pool_new(&fake_driver, &fakes[1], NULL, &pool, &err), WEIR_FULL);
    EXPECT(pool == NULL);
    EXPECT_TEXT(err.message, "RLIMIT_NOFILE");
    EXPECT_INT(fakes[1].configs_freed, 1);
    free_another(second, 0);
    weir_pool *third = another(1, 3, (weir_pool_opts){ 0 });
    EXPECT(third != NULL); /* the promise went with the pool it was made to */
    free_another(third, 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_floor_fits_where_others_have_grown_above_theirs, .max_size = 10)
{
    struct taker taker = { .wants = 2 };
    weir_pool   *second = NULL;
    weir_error   err = { 0 };

    scene_set_budget(4);
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = i ? 1000 : 300 });
    world_settle();
    scene_spawn(stage, take_token, &taker); /* asks first, and for more than will be free */
    world_advance_ms(10);
    EXPECT_INT(scene_budget().used, 4);
    fakes[0] = (struct fake){ .sockets = 1 };
    fake_init(&fakes[0]);
    /* Only floors are promised, and two of them fit into four. */
    EXPECT_STATUS(weir_pool_new(&fake_driver, &fakes[0], NULL, &second, &err), WEIR_OK);
    if (second) {
        struct caller *caller = scene_call(stage, (struct caller){ .pool = second });
        world_advance_ms(100);
        EXPECT(!caller->done);
        EXPECT(in_all(stage) <= 4);
        scene_wait(stage, 2000);
        EXPECT_STATUS(caller->status, WEIR_OK);
        EXPECT(caller->served_ms <= 310); /* the first that is free: what is promised goes first */
        EXPECT(taker.at_ms >= 1000);
        free_another(second, 0);
    }
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- between pools ----------------------------------------------------------------------- */

SCENE(below_its_floor_a_pool_is_served_at_once_whoever_hogs_the_rest, .max_size = 10)
{
    scene_set_budget(5);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).in_use, 4); /* all but the other's floor */
    struct caller *caller = scene_call(stage, (struct caller){ .pool = second });
    world_settle();
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->served_ms, 10);
    scene_wait(stage, 20000);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(an_idle_connection_elsewhere_is_evicted_after_a_rest_of_100_ms, .max_size = 10)
{
    scene_set_budget(4);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 15);
    int64_t idle_since = 10;
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    scene_call(stage, (struct caller){ .pool = second, .hold_ms = 1000 });
    struct caller *caller = scene_call(stage, (struct caller){ .pool = second, .hold_ms = 1 });
    world_advance_ms(60);
    EXPECT(!caller->done); /* a shorter rest is a pause between two requests */
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    world_advance_ms(150);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT(caller->served_ms >= idle_since + 100 && caller->served_ms <= idle_since + 200);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 1);
    EXPECT(scene_budget().evictions >= 1);
    scene_wait(stage, 2000);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

static unsigned seen_used; /* of the account, when an eviction was told of */

static void look_at_the_account(const weir_pool_event *event, void *arg)
{
    weir_pool *asker = *(weir_pool **)arg;
    char       line[512];

    if (event->type != WEIR_EVENT_CONN_CLOSED || event->reason != WEIR_CLOSE_EVICTED)
        return;
    seen_used = scene_budget().used;
    (void)weir_pool_summary(asker, line, sizeof line);
    EXPECT_TEXT(line, "1 short of descriptors (4 of 4 taken)");
}

SCENE(who_is_told_of_an_eviction_may_ask_how_the_account_stands, .max_size = 10)
{
    scene_set_budget(4);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    weir_pool_on_event(stage->pool, look_at_the_account, &second);
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 15);
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .pool = second, .hold_ms = 300 });
    seen_used = 0;
    world_advance_ms(250);
    EXPECT_INT(seen_used, 4);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 1);
    scene_wait(stage, 2000);
    weir_pool_on_event(stage->pool, NULL, NULL);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(nothing_at_or_below_its_floor_is_evicted, .max_size = 10)
{
    scene_set_budget(3);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .pool = second, .hold_ms = 500 });
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 0);
    scene_wait(stage, 5000);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(min_idle_never_evicts, .max_size = 10)
{
    scene_set_budget(4);
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 15);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10, .min_idle = 3 });
    world_advance_ms(5000);
    EXPECT_INT(scene_stats(second).idle, 1);
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 0);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_caller_evicts_though_min_idle_asked_first, .max_size = 10)
{
    scene_set_budget(4);
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 15);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 2, .min_idle = 1 });
    world_advance_ms(1000);
    scene_call(stage, (struct caller){ .pool = second, .hold_ms = 5000 });
    world_advance_ms(1000); /* now min_idle waits, patiently, for the last place of its pool */
    EXPECT_INT(scene_stats(second).reserved, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 0);
    struct caller *caller = scene_call(stage, (struct caller){ .pool = second });
    world_advance_ms(300);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT(caller->done && caller->served_ms == caller->asked_ms);
    scene_wait(stage, 10000);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

struct stream {
    struct scene *stage;
    weir_pool    *pool;
    int64_t       until_ms;
    unsigned      served, failed;
    int64_t       longest_ms;
};

static weir_status stream_on(void *arg)
{
    struct stream *me = arg;

    while (world_now_ms() < me->until_ms) {
        weir_lease *lease;
        int64_t     asked = world_now_ms();
        if (weir_acquire(me->pool, WEIR_SCOPE, &lease, NULL) != WEIR_OK) {
            me->failed++;
            continue;
        }
        int64_t waited = world_now_ms() - asked;
        me->longest_ms = waited > me->longest_ms ? waited : me->longest_ms;
        (void)weir_sleep(weir_in_ms(5));
        (void)weir_release(lease);
        me->served++;
    }
    return WEIR_OK;
}

/* A pool that is never idle still gives up what is more than its part. */
SCENE(a_pool_above_its_share_gives_up_to_an_older_request, .max_size = 10)
{
    struct stream streams[40];

    scene_set_budget(6);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    for (int i = 0; i < 40; i++)
        streams[i] = (struct stream){ stage, i < 20 ? stage->pool : second, 3000, 0, 0, 0 };
    for (int i = 0; i < 20; i++)
        scene_spawn(stage, stream_on, &streams[i]);
    world_advance_ms(1000);
    EXPECT_INT(stage->fake.descriptors, 5); /* all but what is promised to the other */
    for (int i = 20; i < 40; i++)
        scene_spawn(stage, stream_on, &streams[i]);
    world_advance_ms(1000);
    EXPECT_INT(stage->fake.descriptors, 3);
    EXPECT_INT(fakes[0].descriptors, 3);
    scene_wait(stage, 5000);
    for (int i = 0; i < 40; i++)
        EXPECT_INT(streams[i].failed, 0);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(three_busy_pools_on_six_descriptors_all_get_their_part, .max_size = 10)
{
    struct stream streams[60];
    unsigned      served[3] = { 0 };

    scene_set_budget(6);
    weir_pool *pools[3] = { stage->pool, another(0, 1, (weir_pool_opts){ .max_size = 10 }),
                            another(1, 1, (weir_pool_opts){ .max_size = 10 }) };
    for (int i = 0; i < 60; i++) {
        streams[i] = (struct stream){ stage, pools[i % 3], 20000, 0, 0, 0 };
        scene_spawn(stage, stream_on, &streams[i]);
    }
    while (world_now_ms() < 20000) {
        EXPECT(in_all(stage) <= 6);
        world_advance_ms(50);
    }
    scene_wait(stage, 1000);
    for (int i = 0; i < 60; i++) {
        EXPECT_INT(streams[i].failed, 0);
        EXPECT(streams[i].longest_ms < 1500);
        served[i % 3] += streams[i].served;
    }
    /* 20 s of 5 ms on six: 24,000 in all. Nobody less than half of his third. */
    for (int i = 0; i < 3; i++)
        EXPECT(served[i] > 4000);
    free_another(pools[1], 0);
    free_another(pools[2], 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* Each is too large for the other's: one connection given back must not set off closing and
   opening in turns, for ever and in no time. */
SCENE(two_minimums_that_do_not_fit_leave_each_other_alone, .max_size = 4, .min_size = 4)
{
    world_settle();
    scene_set_budget(7);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 4, .min_size = 4 });
    scene_call(stage, (struct caller){ .pool = second });
    world_settle();
    EXPECT_INT(scene_stats(second).idle, 3);
    EXPECT_INT(scene_stats(second).reserved, 1);
    scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    world_advance_ms(1000);
    EXPECT_INT(stage->fake.attempts, 4);
    EXPECT_INT(fakes[0].attempts, 3);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 0);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* One pool saturated, one that is short of its minimum, and a third one's callers, who come
   before that minimum though it asked first. */
SCENE(a_minimum_that_is_waited_for_holds_up_no_caller, .max_size = 10)
{
    struct stream streams[20];
    struct caller *callers[2];

    scene_set_budget(6);
    weir_pool *minimal = another(0, 1, (weir_pool_opts){ .max_size = 4, .min_idle = 3 });
    weir_pool *third = another(1, 1, (weir_pool_opts){ .max_size = 4 });
    for (int i = 0; i < 20; i++) {
        streams[i] = (struct stream){ stage, stage->pool, 3000, 0, 0, 0 };
        scene_spawn(stage, stream_on, &streams[i]);
    }
    world_advance_ms(1000);
    EXPECT(scene_stats(minimal).reserved > 0);
    unsigned minimum = scene_stats(minimal).idle;
    EXPECT(minimum < 3);
    for (int i = 0; i < 2; i++)
        callers[i] = scene_call(stage, (struct caller){ .pool = third, .hold_ms = 500 });
    world_advance_ms(200);
    for (int i = 0; i < 2; i++)
        EXPECT(callers[i]->holding && callers[i]->served_ms - callers[i]->asked_ms <= 150);
    EXPECT_INT(scene_stats(minimal).idle, minimum);
    world_advance_ms(6000);
    scene_wait(stage, 1000);
    for (int i = 0; i < 20; i++)
        EXPECT_INT(streams[i].failed, 0);
    free_another(minimal, 0);
    free_another(third, 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

struct acceptor {
    int64_t  until_ms, longest_ms;
    unsigned served, failed;
};

/* As a loop around accept(2) that pays for each descriptor, whose client stays for a while. */
static weir_status accept_on(void *arg)
{
    struct acceptor *me = arg;

    while (world_now_ms() < me->until_ms) {
        weir_budget_token token;
        int64_t           asked = world_now_ms();
        me->failed += weir_budget_take(1, weir_in_ms(5000), &token, NULL) != WEIR_OK;
        int64_t waited = world_now_ms() - asked;
        me->longest_ms = waited > me->longest_ms ? waited : me->longest_ms;
        (void)weir_sleep(weir_in_ms(20));
        me->served += token.descriptors > 0;
        weir_budget_give(&token);
    }
    return WEIR_OK;
}

/* Two saturated pools, one that keeps a minimum and has a caller now and then, and accepts. */
SCENE(saturated_pools_accepts_and_a_minimum_at_once_starve_nobody, .max_size = 10)
{
    struct stream   streams[40];
    struct acceptor acceptors[4];
    struct caller  *rare[40];
    unsigned        served[2] = { 0 };

    scene_set_budget(8);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    weir_pool *minimal = another(1, 1, (weir_pool_opts){ .max_size = 5, .min_idle = 3 });
    for (int i = 0; i < 40; i++) {
        streams[i] = (struct stream){ stage, i % 2 ? second : stage->pool, 20000, 0, 0, 0 };
        scene_spawn(stage, stream_on, &streams[i]);
    }
    world_advance_ms(1000); /* everything is taken that is not promised */
    for (int i = 0; i < 4; i++) {
        acceptors[i] = (struct acceptor){ .until_ms = 20000 };
        scene_spawn(stage, accept_on, &acceptors[i]);
    }
    for (int i = 0; i < 40; i++) {
        rare[i] = scene_call(stage, (struct caller){ .pool = minimal, .hold_ms = 30 });
        world_advance_ms(450);
        EXPECT(in_all(stage) <= 8);
    }
    scene_wait(stage, 5000);
    for (int i = 0; i < 40; i++) {
        EXPECT_INT(streams[i].failed, 0);
        EXPECT(streams[i].longest_ms < 1500);
        served[i % 2] += streams[i].served;
        EXPECT_STATUS(rare[i]->status, WEIR_OK);
        EXPECT(rare[i]->served_ms - rare[i]->asked_ms < 500);
    }
    for (int i = 0; i < 4; i++) {
        EXPECT_INT(acceptors[i].failed, 0);
        EXPECT(acceptors[i].longest_ms < 1000);
        EXPECT(acceptors[i].served > 50);
    }
    EXPECT(served[0] > 2000 && served[1] > 2000);
    free_another(second, 0);
    free_another(minimal, 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- several sockets at a time ----------------------------------------------------------- */

SCENE(a_connection_of_several_sockets_gets_all_of_them_or_none, .max_size = 10)
{
    scene_set_budget(7);
    weir_pool *second = another(0, 3, (weir_pool_opts){ .max_size = 10 });
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 500 });
    world_settle();
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .pool = second, .hold_ms = 50 });
    world_advance_ms(10);
    EXPECT_INT(fakes[0].descriptors, 3);
    EXPECT_INT(scene_budget().used, 6); /* one is left, and not taken in advance */
    while (stage->playing) {
        EXPECT_INT(fakes[0].descriptors % 3, 0);
        EXPECT(in_all(stage) <= 7);
        world_advance_ms(5);
    }
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(who_needs_many_is_not_overtaken_for_ever_by_those_who_need_one, .max_size = 10)
{
    struct stream streams[20];

    scene_set_budget(8);
    weir_pool *second = another(0, 3, (weir_pool_opts){ .max_size = 2 });
    for (int i = 0; i < 20; i++) {
        streams[i] = (struct stream){ stage, stage->pool, 10000, 0, 0, 0 };
        scene_spawn(stage, stream_on, &streams[i]);
    }
    world_advance_ms(100);
    EXPECT_INT(stage->fake.descriptors, 5);
    scene_call(stage, (struct caller){ .pool = second, .hold_ms = 100 });
    struct caller *big = scene_call(stage, (struct caller){ .pool = second, .hold_ms = 100 });
    world_advance_ms(1000);
    /* Above its floor: part of the crowd's five must go. Its part of eight is four. */
    EXPECT_STATUS(big->status, WEIR_OK);
    scene_wait(stage, 20000);
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- needs that turn out later -------------------------------------------------------------- */

/* A holder who finds that his connection needs more, and after a while that it needs less. */
struct grower {
    weir_pool  *pool;
    unsigned    wants, gives_up;
    int64_t     patience_ms;
    weir_status status;
    int64_t     at_ms;
    unsigned    paid, left;
};

static weir_status grow(void *arg)
{
    struct grower *me = arg;
    weir_error     err;
    weir_lease    *lease;

    EXPECT_STATUS(weir_acquire(me->pool, WEIR_FOREVER, &lease, &err), WEIR_OK);
    weir_conn *conn = weir_lease_conn(lease, &fake_driver);
    me->status = weir_conn_pay(conn, me->wants, weir_in_ms(me->patience_ms));
    me->at_ms = world_now_ms();
    me->paid = weir_conn_paid(conn);
    weir_sleep(weir_in_ms(100));
    weir_conn_refund(conn, me->gives_up);
    me->left = scene_budget().used;
    weir_lease_close(lease);
    return WEIR_OK;
}

SCENE(a_connection_that_needs_more_pays_for_it_and_gives_all_of_it_back, .max_size = 10)
{
    struct grower me = { .pool = stage->pool, .wants = 3, .gives_up = 2, .patience_ms = 50 };

    scene_set_budget(6);
    scene_spawn(stage, grow, &me);
    world_advance_ms(50);
    EXPECT_STATUS(me.status, WEIR_OK);
    EXPECT_INT(me.paid, 4);
    EXPECT_INT(scene_budget().used, 4);
    world_advance_ms(200);
    EXPECT_INT(me.left, 2);
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(it_waits_for_more_no_longer_than_it_says_and_keeps_what_it_has, .max_size = 10)
{
    struct grower late = { .pool = stage->pool, .wants = 2, .patience_ms = 50 };
    struct grower lucky = { .pool = stage->pool, .wants = 1, .patience_ms = 50 };
    struct taker  other = { .wants = 2, .hold_ms = 140 };

    scene_set_budget(3);
    scene_spawn(stage, take_token, &other);
    scene_spawn(stage, grow, &late);
    world_advance_ms(105);
    EXPECT_STATUS(late.status, WEIR_TIMEOUT);
    EXPECT_INT(late.at_ms, 50);
    EXPECT_INT(late.paid, 1);
    EXPECT_INT(scene_budget().waiting, 0);
    scene_spawn(stage, grow, &lucky);
    world_advance_ms(50);
    EXPECT_STATUS(lucky.status, WEIR_OK);
    EXPECT_INT(lucky.at_ms, 140); /* when the token came back */
    world_advance_ms(200);
    EXPECT_INT(late.left, 3); /* its own one, and the two of the other */
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* Two connections, that wait for each other's descriptors, do not do so for ever. */
SCENE(two_that_hold_some_and_want_more_get_out_of_each_others_way, .max_size = 10)
{
    struct grower one = { .pool = stage->pool, .wants = 2, .patience_ms = 50 };
    struct grower two = { .pool = stage->pool, .wants = 2, .patience_ms = 80 };

    scene_set_budget(3);
    scene_spawn(stage, grow, &one);
    scene_spawn(stage, grow, &two);
    world_advance_ms(1000);
    EXPECT_STATUS(one.status, WEIR_TIMEOUT);
    EXPECT_STATUS(two.status, WEIR_TIMEOUT);
    EXPECT_INT(scene_budget().used, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_pool_whose_connections_have_grown_is_promised_as_much, .max_size = 10)
{
    scene_set_budget(8);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    scene_call(stage, (struct caller){ .pool = second, .hold_ms = 50 });
    world_advance_ms(10);
    EXPECT_INT(scene_budget().used, 1);
    EXPECT_INT(scene_budget().floors, 1); /* the scene's own */
    fakes[0].sockets = 3;
    scene_call(stage, (struct caller){ .pool = second, .hold_ms = 10, .parting = HAVE_CLOSED });
    world_advance_ms(1);
    EXPECT_INT(scene_budget().used, 4);
    world_advance_ms(100);
    EXPECT_INT(scene_budget().used, 1);
    EXPECT_INT(scene_budget().floors, 3); /* the scene's own, and what it could need at once */
    free_another(second, 0);
    EXPECT_INT(scene_budget().floors, 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(what_could_never_be_paid_for_fails_at_once_and_says_so, .max_size = 10)
{
    scene_set_budget(3);
    weir_pool *second = another(0, 1, (weir_pool_opts){ .max_size = 10 });
    fakes[0].sockets = 3; /* and one is promised to the scene's own pool */
    struct caller *me = scene_call(stage, (struct caller){ .pool = second, .patience_ms = 5000 });
    world_advance_ms(1);
    EXPECT(me->done);
    EXPECT_STATUS(me->status, WEIR_CONNECT);
    EXPECT_TEXT(me->err.message, "no descriptors left to promise this pool 3: 1 of 3");
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_stats(second).connecting + scene_stats(second).reserved, 0);
    fakes[0].sockets = 1;
    free_another(second, 0);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- tokens ------------------------------------------------------------------------------ */

SCENE(tokens_and_pools_stand_in_one_queue, .max_size = 10)
{
    struct taker takers[4] = { { .wants = 2, .hold_ms = 100 }, { .wants = 1, .hold_ms = 50 },
                               { .wants = 3, .hold_ms = 100 }, { .wants = 1, .hold_ms = 100 } };

    scene_set_budget(5);
    for (int i = 0; i < 4; i++)
        scene_spawn(stage, take_token, &takers[i]);
    world_settle();
    struct caller *own = scene_call(stage, (struct caller){ .hold_ms = 1000 });
    struct caller *more = scene_call(stage, (struct caller){ .hold_ms = 10 });
    world_settle();
    EXPECT_STATUS(own->status, WEIR_OK); /* its floor is its own */
    EXPECT_INT(own->served_ms, 0);
    EXPECT_INT(scene_budget().waiting, 3);
    scene_wait(stage, 2000);
    EXPECT_INT(takers[0].at_ms, 0);
    EXPECT_INT(takers[1].at_ms, 0);
    EXPECT_INT(takers[2].at_ms, 100); /* two were there at 50 ms, but he asked for three */
    EXPECT_INT(takers[3].at_ms, 100); /* one would have done for him, but he came later */
    EXPECT_INT(more->served_ms, 200);
    EXPECT_INT(scene_budget().used, 2);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_token_that_could_never_be_had_is_refused_at_once, .max_size = 1)
{
    struct taker taker = { .wants = 5 };

    scene_set_budget(5); /* one is promised to the pool */
    scene_spawn(stage, take_token, &taker);
    world_settle();
    EXPECT_STATUS(taker.status, WEIR_USAGE);
    EXPECT_TEXT(taker.err.message, "5 descriptors could never be had: the budget leaves 4");
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_token_is_waited_for_until_the_deadline_or_a_cancel, .max_size = 1)
{
    struct taker holder = { .wants = 4, .hold_ms = 1000 };
    struct taker late = { .wants = 1, .patience_ms = 150 };
    struct taker doomed = { .wants = 4 };
    struct taker last = { .wants = 2 };

    scene_set_budget(5);
    scene_spawn(stage, take_token, &holder);
    world_settle();
    scene_spawn(stage, take_token, &late);
    weir_task *task = scene_spawn(stage, take_token, &doomed);
    scene_spawn(stage, take_token, &last);
    world_advance_ms(149);
    EXPECT_STATUS(late.status, WEIR_OK); /* nothing yet */
    EXPECT_INT(scene_budget().waiting, 3);
    world_advance_ms(1);
    EXPECT_STATUS(late.status, WEIR_TIMEOUT);
    EXPECT_INT(late.at_ms, 150);
    weir_cancel(task);
    world_settle();
    EXPECT_STATUS(doomed.status, WEIR_CANCELED);
    scene_wait(stage, 2000);
    EXPECT_INT(last.at_ms, 1000);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(who_leaves_the_queue_lets_those_behind_him_pass, .max_size = 1)
{
    struct taker holder = { .wants = 3, .hold_ms = 1000 };
    struct taker big = { .wants = 4, .patience_ms = 100 };
    struct taker small = { .wants = 1 };

    scene_set_budget(5);
    scene_spawn(stage, take_token, &holder);
    scene_spawn(stage, take_token, &big);
    scene_spawn(stage, take_token, &small);
    scene_wait(stage, 2000);
    EXPECT_STATUS(big.status, WEIR_TIMEOUT);
    EXPECT_STATUS(small.status, WEIR_OK);
    EXPECT_INT(small.at_ms, 100);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_token_evicts_idle_connections_too, .max_size = 10)
{
    struct taker taker = { .wants = 3, .hold_ms = 10 };

    scene_set_budget(5);
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 20);
    EXPECT_INT(scene_stats(stage->pool).idle, 5);
    world_advance_ms(1000);
    int64_t asked = world_now_ms();
    scene_spawn(stage, take_token, &taker);
    scene_wait(stage, 2000);
    EXPECT_STATUS(taker.status, WEIR_OK);
    EXPECT(taker.at_ms - asked <= 300);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 3);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(who_does_not_wait_evicts_nobody, .max_size = 10)
{
    weir_budget_token token;

    scene_set_budget(5);
    for (int i = 0; i < 5; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 20);
    world_advance_ms(1000);
    EXPECT_STATUS(weir_budget_take(2, WEIR_NOW, &token, NULL), WEIR_TIMEOUT);
    world_settle();
    EXPECT_INT(scene_stats(stage->pool).idle, 5);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(a_close_that_takes_long_is_not_answered_by_more_evictions, .max_size = 10,
      .close_timeout_ms = 10000)
{
    struct taker taker = { .wants = 1, .hold_ms = 10 };

    scene_set_budget(8);
    stage->fake.close.ms = 600;
    for (int i = 0; i < 8; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 20);
    EXPECT_INT(scene_stats(stage->pool).idle, 8);
    world_advance_ms(1000);
    scene_spawn(stage, take_token, &taker);
    scene_wait(stage, 2000);
    EXPECT_STATUS(taker.status, WEIR_OK);
    EXPECT(taker.hold_ms + 600 >= taker.at_ms - 1010);
    world_advance_ms(2000);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED), 1);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- the kernel's want ------------------------------------------------------------------- */

SCENE(want_of_descriptors_is_back_pressure_and_no_storm, .max_size = 20, .max_connecting = 4)
{
    struct caller *crowd[100];

    stage->fake.open = (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 };
    for (int i = 0; i < 100; i++)
        crowd[i] = scene_call(stage, (struct caller){ .hold_ms = 5 });
    world_advance_ms(2000);
    EXPECT(stage->fake.attempts <= 4 * 21); /* each looks every 100 ms */
    for (int i = 0; i < 100; i++)
        EXPECT(!crowd[i]->done);
    EXPECT_INT(scene_stats(stage->pool).connect_failures, 0);
    stage->fake.open = (struct fake_step){ 0 };
    scene_wait(stage, 5000);
    for (int i = 0; i < 100; i++)
        EXPECT_STATUS(crowd[i]->status, WEIR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_descriptor_is_paid_for_before_it_is_opened),
        cmocka_unit_test(a_budget_below_what_is_used_or_promised_is_refused),
        cmocka_unit_test(numbers_that_are_too_large_do_not_wrap_around),
        cmocka_unit_test(the_soft_limit_is_raised_when_asked_for_and_only_then),
        cmocka_unit_test(a_timeout_says_how_the_account_stands),
        cmocka_unit_test(the_log_has_the_pools_state_once_a_second_when_callers_give_up),
        cmocka_unit_test(floors_that_do_not_fit_are_refused_at_creation),
        cmocka_unit_test(a_floor_fits_where_others_have_grown_above_theirs),
        cmocka_unit_test(below_its_floor_a_pool_is_served_at_once_whoever_hogs_the_rest),
        cmocka_unit_test(an_idle_connection_elsewhere_is_evicted_after_a_rest_of_100_ms),
        cmocka_unit_test(who_is_told_of_an_eviction_may_ask_how_the_account_stands),
        cmocka_unit_test(nothing_at_or_below_its_floor_is_evicted),
        cmocka_unit_test(min_idle_never_evicts),
        cmocka_unit_test(a_caller_evicts_though_min_idle_asked_first),
        cmocka_unit_test(a_pool_above_its_share_gives_up_to_an_older_request),
        cmocka_unit_test(three_busy_pools_on_six_descriptors_all_get_their_part),
        cmocka_unit_test(two_minimums_that_do_not_fit_leave_each_other_alone),
        cmocka_unit_test(a_minimum_that_is_waited_for_holds_up_no_caller),
        cmocka_unit_test(saturated_pools_accepts_and_a_minimum_at_once_starve_nobody),
        cmocka_unit_test(a_connection_of_several_sockets_gets_all_of_them_or_none),
        cmocka_unit_test(a_connection_that_needs_more_pays_for_it_and_gives_all_of_it_back),
        cmocka_unit_test(it_waits_for_more_no_longer_than_it_says_and_keeps_what_it_has),
        cmocka_unit_test(two_that_hold_some_and_want_more_get_out_of_each_others_way),
        cmocka_unit_test(a_pool_whose_connections_have_grown_is_promised_as_much),
        cmocka_unit_test(what_could_never_be_paid_for_fails_at_once_and_says_so),
        cmocka_unit_test(who_needs_many_is_not_overtaken_for_ever_by_those_who_need_one),
        cmocka_unit_test(tokens_and_pools_stand_in_one_queue),
        cmocka_unit_test(a_token_that_could_never_be_had_is_refused_at_once),
        cmocka_unit_test(a_token_is_waited_for_until_the_deadline_or_a_cancel),
        cmocka_unit_test(who_leaves_the_queue_lets_those_behind_him_pass),
        cmocka_unit_test(a_token_evicts_idle_connections_too),
        cmocka_unit_test(who_does_not_wait_evicts_nobody),
        cmocka_unit_test(a_close_that_takes_long_is_not_answered_by_more_evictions),
        cmocka_unit_test(want_of_descriptors_is_back_pressure_and_no_storm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
