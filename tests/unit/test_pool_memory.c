/*
 * Memory that runs out in the middle of everything a pool does.
 *
 * Each deed is done once for each allocation in it: the first time the first one fails, the
 * second time the second, until one goes by without a failure. Twice: that one alone fails, and
 * all after it as well. Every time there must be a clear error or none, nothing may be lost, and
 * who comes later, when there is memory again, is served.
 */
#include "pool_scene.h"
#include "scarce.h"

#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef TEST_MYSQL
#include <weir/mysql.h>
#endif
#ifdef TEST_MONGO
#include <weir/mongo.h>
#endif

/* ---- deeds ------------------------------------------------------------------------------- */

/* Enough that keepers need a new slab of stacks and a new block of records. */
enum { CROWD = 150 };

struct deed {
    const char    *name;
    weir_pool_opts opts;
    void         (*prepare)(struct scene *stage);
    weir_status  (*done)(struct scene *stage, weir_error *err);
    unsigned       at_least; /* so many allocations are in it; it would say nothing otherwise */
    bool           none;     /* none may be in it: a clean-up cannot fail */
};

/* What a few deeds work on. */
static weir_lease *leases[4];

static void nothing(struct scene *stage)
{
    (void)stage;
}

static void one_idle(struct scene *stage)
{
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &leases[0], NULL), WEIR_OK);
    EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
}

static void one_held(struct scene *stage)
{
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &leases[0], NULL), WEIR_OK);
}

/* One is held by the caller, three are idle. */
static void some_of_each(struct scene *stage)
{
    for (int i = 0; i < 4; i++)
        EXPECT_STATUS(weir_acquire(stage->pool, WEIR_SCOPE, &leases[i], NULL), WEIR_OK);
    for (int i = 1; i < 4; i++)
        EXPECT_STATUS(weir_release(leases[i]), WEIR_OK);
}

static weir_status take(struct scene *stage, weir_error *err)
{
    weir_lease *lease;
    weir_status status = weir_acquire(stage->pool, weir_in_ms(50), &lease, err);

    if (status == WEIR_OK)
        EXPECT_STATUS(weir_release(lease), WEIR_OK);
    return status;
}

static weir_status take_local(struct scene *stage, weir_error *err)
{
    weir_lease *lease, *again;
    weir_status status = weir_local_lease(stage->pool, weir_in_ms(50), &lease, err);

    if (status != WEIR_OK)
        return status;
    EXPECT_STATUS(weir_local_lease(stage->pool, WEIR_NOW, &again, err), WEIR_OK);
    EXPECT_STATUS(weir_release(again), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

/* The callers are there before; only what the pool does for them may fail. */
static weir_status open_for_a_crowd(struct scene *stage, weir_error *err)
{
    weir_status status = WEIR_OK;

    world_advance_ms(60);
    for (unsigned i = 0; i < stage->caller_count; i++) {
        const struct caller *caller = stage->cast[i];
        if (!caller->done || caller->status == WEIR_OK)
            continue;
        status = caller->status;
        *err = caller->err;
    }
    return status;
}

static void a_crowd(struct scene *stage)
{
    for (int i = 0; i < CROWD; i++)
        scene_call(stage, (struct caller){ .patience_ms = 40, .hold_ms = 30 });
}

static weir_status give_back_clean(struct scene *stage, weir_error *err)
{
    (void)stage, (void)err;
    weir_status status = weir_release(leases[0]);
    world_settle();
    return status;
}

static weir_status give_back_dirty(struct scene *stage, weir_error *err)
{
    fake_leave(leases[0], WEIR_DIRTY);
    return give_back_clean(stage, err);
}

static weir_status have_it_closed(struct scene *stage, weir_error *err)
{
    (void)stage, (void)err;
    weir_status status = weir_lease_close(leases[0]);
    world_settle();
    return status;
}

static void somebody_forgets(struct scene *stage)
{
    scene_call(stage, (struct caller){ .hold_ms = 5, .parting = FORGET });
    world_settle();
}

static void somebody_holds(struct scene *stage)
{
    scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
}

static void somebody_queues(struct scene *stage)
{
    one_held(stage);
    scene_call(stage, (struct caller){ .patience_ms = 20 });
    world_settle();
}

static weir_status pass_time(struct scene *stage, weir_error *err)
{
    (void)stage, (void)err;
    world_advance_ms(30);
    return WEIR_OK;
}

static weir_status cancel_him(struct scene *stage, weir_error *err)
{
    (void)err;
    weir_cancel(stage->cast[0]->task);
    world_settle();
    return weir_release(leases[0]);
}

/* Whoever's server died has a place dialled anew for the one who waits. */
static weir_status replace_a_dead_one(struct scene *stage, weir_error *err)
{
    fake_leave(leases[0], WEIR_GONE);
    EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
    world_advance_ms(30);
    *err = stage->cast[0]->err;
    return stage->cast[0]->status;
}

static weir_status pause_and_go_on(struct scene *stage, weir_error *err)
{
    weir_status status = weir_pool_pause(stage->pool, err);

    return status == WEIR_OK ? weir_pool_ready(stage->pool, err) : status;
}

static weir_status clear_all(struct scene *stage, weir_error *err)
{
    weir_status status = weir_pool_clear(stage->pool, true, NULL, err);

    world_settle();
    EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
    return status == WEIR_OK ? weir_pool_ready(stage->pool, err) : status;
}

static weir_status grow_and_shrink(struct scene *stage, weir_error *err)
{
    weir_status status = weir_pool_resize(stage->pool, 100, err);

    world_settle();
    if (status == WEIR_OK)
        status = weir_pool_resize(stage->pool, 1, err);
    EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
    return status;
}

static weir_status drain_it(struct scene *stage, weir_error *err)
{
    weir_status status = weir_pool_drain(stage->pool, weir_in_ms(1000), err);

    return status == WEIR_OK ? weir_pool_ready(stage->pool, err) : status;
}

/* So that the next who reserves an alarm needs more room for it. */
static int alarms;

static void use_up_alarms(struct scene *stage)
{
    (void)stage;
    alarms = 0;
    scarce_begin(1, ALL_FAIL);
    while (weir_alarm_reserve(1) == WEIR_OK)
        alarms++;
    (void)scarce_end();
}

static weir_status make_others(struct scene *stage, weir_error *err)
{
    enum { OTHERS = 4 };
    static struct fake fakes[OTHERS];
    weir_pool         *pools[OTHERS] = { NULL };
    weir_status        status = WEIR_OK;
    int                made = 0;

    (void)stage;
    memset(fakes, 0, sizeof fakes);
    while (made < OTHERS && status == WEIR_OK) {
        fake_init(&fakes[made]);
        status = weir_pool_new(&fake_driver, &fakes[made],
                               &(weir_pool_opts){ .max_size = 2, .min_idle = 2 }, &pools[made],
                               err);
        EXPECT((status == WEIR_OK) == (pools[made] != NULL));
        made++;
    }
    world_settle();
    for (int i = 0; i < made; i++) {
        weir_pool_free(pools[i]);
        EXPECT_INT(fakes[i].configs_freed, 1);
        EXPECT_INT(fakes[i].handles + fakes[i].descriptors, 0);
    }
    (void)weir_alarm_reserve(-alarms);
    return status;
}

static weir_status take_descriptors(struct scene *stage, weir_error *err)
{
    weir_budget_token token;

    (void)stage;
    weir_status status = weir_budget_take(2, weir_in_ms(10), &token, err);
    weir_budget_give(&token);
    return status;
}

static void swallow(const char *text, size_t length, void *arg)
{
    (void)text;
    *(size_t *)arg += length;
}

static weir_status look_at_it(struct scene *stage, weir_error *err)
{
    size_t length = 0;
    char   line[400];

    (void)err;
    weir_pool_metrics(stage->pool, swallow, &length);
    weir_pool_dump(stage->pool, swallow, &length);
    EXPECT(length > 1000);
    EXPECT(weir_pool_summary(stage->pool, line, sizeof line) > 0);
    EXPECT(weir_pool_describe(stage->pool, line, sizeof line) > 0);
    return WEIR_OK;
}

/* These are made and freed; connecting is what their integration tests have. */
#ifdef TEST_MYSQL
static weir_status make_a_mysql_pool(struct scene *stage, weir_error *err)
{
    weir_pool  *pool;
    weir_status status = weir_mysql_pool_new(
        &(weir_mysql_opts){ .uri = "mysql://shop:secret@localhost/shop?charset=utf8mb4" }, &pool,
        err);

    (void)stage;
    EXPECT((status == WEIR_OK) == (pool != NULL));
    EXPECT(!strstr(err->message, "secret"));
    weir_pool_free(pool);
    return status;
}
#endif

#ifdef TEST_MONGO
static weir_status make_a_mongo_pool(struct scene *stage, weir_error *err)
{
    weir_pool  *pool;
    weir_status status = weir_mongo_pool_new(
        &(weir_mongo_opts){ .uri = "mongodb://shop:secret@localhost/shop" }, &pool, err);

    (void)stage;
    EXPECT((status == WEIR_OK) == (pool != NULL));
    EXPECT(!strstr(err->message, "secret"));
    weir_pool_free(pool);
    return status;
}
#endif

static const struct deed deeds[] = {
    { "acquire, opening", { .max_size = 2 }, nothing, take, 2, false },
    { "acquire of an idle one", { .max_size = 2 }, one_idle, take, 0, true },
    { "a local lease", { .max_size = 2 }, nothing, take_local, 3, false },
    { "opening for a crowd", { .max_size = CROWD, .max_connecting = CROWD }, a_crowd,
      open_for_a_crowd, 100, false },
    { "release", { .max_size = 1 }, one_held, give_back_clean, 0, true },
    { "release and reset", { .max_size = 1 }, one_held, give_back_dirty, 0, true },
    { "close", { .max_size = 1 }, one_held, have_it_closed, 0, true },
    { "forgetting", { .max_size = 1 }, somebody_forgets, pass_time, 0, true },
    { "a timeout", { .max_size = 1 }, somebody_holds, take, 0, true },
    { "a cancel", { .max_size = 1 }, somebody_queues, cancel_him, 0, true },
    { "a dead one replaced", { .max_size = 1 }, somebody_queues, replace_a_dead_one, 1, false },
    { "pause and ready", { .max_size = 4, .min_size = 4 }, nothing, pause_and_go_on, 0, false },
    { "clear", { .max_size = 4 }, some_of_each, clear_all, 0, true },
    { "clear, and filled up again", { .max_size = 4, .min_size = 4 }, some_of_each, clear_all, 0,
      true }, /* records of connections that have gone are used again */
    { "resize", { .max_size = 4 }, some_of_each, grow_and_shrink, 0, true },
    { "drain", { .max_size = 4 }, one_idle, drain_it, 0, true },
    { "more pools", { .max_size = 1 }, use_up_alarms, make_others, 10, false },
    { "descriptors", { .max_size = 1 }, nothing, take_descriptors, 0, true },
    { "metrics and dumps", { .max_size = 4 }, one_idle, look_at_it, 0, true },
#ifdef TEST_MYSQL
    { "a pool for MySQL", { .max_size = 1 }, nothing, make_a_mysql_pool, 2, false },
#endif
#ifdef TEST_MONGO
    { "a pool for MongoDB", { .max_size = 1 }, nothing, make_a_mongo_pool, 2, false },
#endif
};

enum { DEEDS = sizeof deeds / sizeof *deeds };

/* ---- one time ---------------------------------------------------------------------------- */

static struct {
    const struct deed *deed;
    unsigned           nth, allocations;
    enum scarcity      how;
    bool               struck;
} now;

static bool says_why(const weir_error *err)
{
    return strstr(err->message, "memory") || strstr(err->message, "room") ||
           strstr(err->message, "no connection after");
}

static void do_it(struct scene *stage)
{
    weir_error err = { 0 };

    now.deed->prepare(stage);
    scarce_begin(now.nth, now.how);
    weir_status status = now.deed->done(stage, &err);
    now.allocations = scarce_end();
    now.struck = scarce_struck();
    if (stage->playing)
        scene_wait(stage, 1000);

    if (status == WEIR_NOMEM || status == WEIR_CONNECT || status == WEIR_TIMEOUT) {
        EXPECT(now.struck || status == WEIR_TIMEOUT);
        if (!says_why(&err))
            expect_note("it says: %s", err.message);
        EXPECT(says_why(&err));
    } else {
        EXPECT_STATUS(status, WEIR_OK);
    }
    if (scene_stats(stage->pool).in_use) /* by ourselves, where the deed was not to give it back */
        EXPECT_STATUS(weir_release(leases[0]), WEIR_OK);
    scene_recount(stage->pool);
    world_advance_ms(2100); /* longer than any pause after failures */
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });
    scene_wait(stage, 200);
    EXPECT_STATUS(late->status, WEIR_OK);
}

static void fail_each_in_turn(const struct deed *deed, enum scarcity how)
{
    now.deed = deed;
    now.how = how;
    now.struck = true;
    for (now.nth = 1; now.struck; now.nth++) {
        char name[160];
        snprintf(name, sizeof name, "%s, where allocation %u %s", deed->name, now.nth,
                 how == ONE_FAILS ? "fails" : "and all after it fail");
        scene_play(name, do_it, &deed->opts);
        if (deed->none && now.allocations)
            fail_msg("%s: %u allocations", deed->name, now.allocations);
    }
    if (now.allocations < deed->at_least)
        fail_msg("%s: only %u allocations", deed->name, now.allocations);
}

static void each_allocation_may_fail_and_nothing_is_lost(void **state)
{
    (void)state;
    for (int i = 0; i < DEEDS; i++) {
        fail_each_in_turn(&deeds[i], ONE_FAILS);
        fail_each_in_turn(&deeds[i], ALL_FAIL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_may_fail_and_nothing_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
