/*
 * What makers of pools promise, with the numbers that their own tests have.
 *
 * Those of the promises that need the virtual clock and had no test elsewhere are here. The whole
 * list, each with where it is kept (t: tests/unit/test_pool_..., i: tests/integration/test_...):
 *
 *   the cap holds under failure and cancel     t cancel: every gate in every state (1,024 pools),
 *                                              cancels at every yield; t model
 *   no lost wake-up in a long queue            here: 100,000 waiters, half of them cancelled
 *   first come, first served                   t acquire: 10,000 waiters; t model; t schedules
 *   creations follow demand                    t dial: 50,000 jobs, a burst of 5,000
 *   a spike is served by what is there         t dial: 50 at once, 150 ms to connect, 2 ms a query
 *   recovery from saturation                   t dial: a saturated pool recovers; here: at twice
 *                                              the load
 *   the timeout is a contract                  t dial: the network cut; i mysql_vanished: packets
 *                                              dropped, reset, server stopped, TLS that stalls
 *   timeouts are precise                       t dial: refused for 300 ms; given back at 800 ms
 *   ramp up and down                           t time: 5, 60, 5
 *   evicting and borrowing race                here: a million borrows; t time
 *   the place comes back when connects fail    t dial: 1,000 waiters, six attempts on two places
 *   cancel in wait, connect and check-in       t cancel; here: the numbers of PyMongo's tests
 *   listeners do no harm                       t events; here: one that cancels, and re-enters
 *   all connections dead                       t time: idle ones; here: those that are held
 *   a storm after a restart                    t dial: 1,000 waiters come back
 *   limits hold at the server                  i mysql_vanished: counted in its process list
 *   linearizable                               t schedules: every order of small plays
 *   the hot path stays what it is              t hot: no allocation, no system call
 *   a close never blocks a borrower            t return: closes that stall for 60 s
 *   descriptors, restarts, bad networks        script/soak; i mysql_failure; fork: t coro_fork
 */
#include "pool_scene.h"

#include "pool.h"
#include "under_valgrind.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Fewer where a tool makes each of them ten times as heavy. */
static unsigned many(unsigned count)
{
    return SANITIZED || under_valgrind() ? count / 20 : count;
}

/* ---- a long queue ------------------------------------------------------------------------- */

struct member {
    struct queue_play *play;
    weir_task         *task;
    weir_status        status;
    unsigned           turn;
};

struct queue_play {
    struct scene  *stage;
    struct member *members;
    unsigned       count, gone, turns;
};

/* In the step in which his turn comes: with three connections he is the third after us. Those of
   an even number in the second half are there for that. */
static void cancel_who_is_next(const struct member *me)
{
    unsigned next = (unsigned)(me - me->play->members) + 3;

    if (next % 2 == 0 && next >= me->play->count / 2 && next < me->play->count &&
        me->play->members[next].task)
        weir_cancel(me->play->members[next].task);
}

static weir_status wait_in_line(void *arg)
{
    struct member *me = arg;
    weir_lease    *lease = NULL;

    me->status = weir_acquire(me->play->stage->pool, WEIR_FOREVER, &lease, NULL);
    if (me->status == WEIR_OK)
        me->turn = ++me->play->turns;
    if (me->turn % 64 == 1)
        (void)weir_sleep(weir_in_ms(1)); /* or all would be over in one turn of the hub */
    if (me->status == WEIR_OK) {
        cancel_who_is_next(me);
        EXPECT_STATUS(weir_release(lease), WEIR_OK);
    }
    me->play->gone++;
    me->task = NULL;
    return WEIR_OK;
}

/* Some are cancelled while they wait, some in the very step in which they are served. */
SCENE(a_hundred_thousand_waiters_half_of_them_cancelled_lose_no_turn, .max_size = 3,
      .acquire_timeout_ms = WEIR_NEVER)
{
    struct queue_play play = { .stage = stage, .count = many(100000) };
    unsigned          astray = 0, last = 0;

    stage->fake.open.ms = 10;
    play.members = calloc(play.count, sizeof *play.members);
    for (unsigned i = 0; i < play.count; i++) {
        play.members[i].play = &play;
        play.members[i].task = weir_spawn(NULL, wait_in_line, &play.members[i]);
        EXPECT(play.members[i].task != NULL);
    }
    world_settle();
    EXPECT_INT(scene_stats(stage->pool).waiting, play.count);
    for (unsigned i = 0; i < play.count / 2; i += 2)
        weir_cancel(play.members[i].task);
    world_advance_ms(5);
    for (int round = 0; round < 1000 && play.gone < play.count; round++)
        world_advance_ms(10);
    EXPECT_INT(play.gone, play.count);
    for (unsigned i = 0; i < play.count; i++) {
        const struct member *member = &play.members[i];
        bool                 served = member->status == WEIR_OK;
        astray += i % 2 ? !served : i < play.count / 2 && served;
        astray += served && member->turn <= last;
        last = served ? member->turn : last;
    }
    EXPECT_INT(astray, 0);
    EXPECT(scene_stats(stage->pool).canceled >= play.count / 4);
    EXPECT_INT(stage->fake.opened, 3);
    free(play.members);
}

/* ---- saturation --------------------------------------------------------------------------- */

/* Twenty requests a second for a minute, where ten can be served: those that are served are as
   many as ever, and when it is over all are again. Without a deadline of the caller's around
   his query, and with one that leaves him half a second for waiting. */
static void overload(struct scene *stage, int64_t scope_ms)
{
    enum { RUSH = 1200, CALM = 180 };
    static struct caller *rush[RUSH], *calm[CALM];
    unsigned              served = 0, failed = 0;
    struct caller part = { .patience_ms = 1000, .hold_ms = 1000, .queries = true,
                           .scope_ms = scope_ms };

    for (int i = 0; i < RUSH; i++, world_advance_ms(50))
        rush[i] = scene_call(stage, part);
    for (int i = 0; i < CALM; i++, world_advance_ms(111))
        calm[i] = scene_call(stage, part);
    scene_wait(stage, 10000);
    for (int i = 0; i < RUSH; i++) {
        served += rush[i]->status == WEIR_OK;
        EXPECT(rush[i]->served_ms - rush[i]->asked_ms <= 1000);
    }
    for (int i = 20; i < CALM; i++) /* 2.2 s after it was over */
        failed += calm[i]->status != WEIR_OK || calm[i]->held != WEIR_OK;
    EXPECT(served >= 590); /* ten a second */
    EXPECT_INT(failed, 0);
}

SCENE(twice_the_load_is_served_as_far_as_it_goes_and_leaves_no_trace, .max_size = 10,
      .max_connecting = 10)
{
    overload(stage, 0);
    EXPECT_INT(stage->fake.opened, 10);
}

SCENE(a_pool_whose_callers_give_up_in_their_queries_recovers_too, .max_size = 10,
      .max_connecting = 10)
{
    stage->fake.open.ms = 20;
    overload(stage, 1500);
}

/* ---- evicting and borrowing ----------------------------------------------------------------- */

struct race {
    struct scene *stage;
    uint64_t      chance;
    unsigned      borrows, wrong;
    unsigned      left;
};

static unsigned draw(struct race *race, unsigned limit)
{
    race->chance = race->chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(race->chance >> 33) % limit;
}

static weir_status borrow(void *arg)
{
    struct race *race = arg;

    while (race->left) {
        weir_lease *lease = NULL;
        race->left--;
        if (weir_acquire(race->stage->pool, WEIR_SCOPE, &lease, NULL) != WEIR_OK) {
            race->wrong++;
            continue;
        }
        unsigned what = draw(race, 16);
        race->wrong += fake_condition(lease) != WEIR_CLEAN;
        if (what == 0)
            race->wrong += fake_query(lease, 1) != WEIR_OK;
        else if (what < 4)
            (void)weir_yield();
        (void)weir_release(lease);
        race->borrows++;
        if (what > 12)
            (void)weir_yield();
    }
    return WEIR_OK;
}

/* As a driver whose loop tells of a connection that was lent a moment before. */
static void stir_everybody(weir_pool *pool)
{
    for (int state = CONN_IDLE; state < CONN_STATES; state++)
        LIST_EACH(node, &pool->conns[state])
            weir_conn_stirred(LIST_OF(node, struct conn, link)->driver_side);
}

static weir_status evict(void *arg)
{
    struct race *race = arg;

    while (race->left) {
        if (draw(race, 2))
            stir_everybody(race->stage->pool);
        else
            upkeep_evict(&race->stage->pool->share);
        if (draw(race, 3))
            (void)weir_yield();
        else
            (void)weir_sleep(weir_in_ms(1));
    }
    return WEIR_OK;
}

SCENE(a_million_borrows_never_meet_what_is_evicted_meanwhile, .max_size = 10, .max_connecting = 10)
{
    stage->fake.open.ms = 1;
    struct race race = { .stage = stage, .chance = 1, .left = many(1000000) };
    unsigned    wanted = race.left;

    for (int i = 0; i < 12; i++)
        scene_spawn(stage, borrow, &race);
    for (int i = 0; i < 2; i++)
        scene_spawn(stage, evict, &race);
    scene_wait(stage, 24 * 60 * 60 * 1000);
    EXPECT_INT(race.borrows, wanted);
    EXPECT_INT(race.wrong, 0);
    EXPECT(scene_closed(stage->pool, WEIR_CLOSE_LOST) > wanted / 200);
    EXPECT(scene_closed(stage->pool, WEIR_CLOSE_EVICTED) > wanted / 1000);
}

/* ---- cancelled ------------------------------------------------------------------------------ */

SCENE(who_gives_up_after_half_a_second_of_a_second_leaves_nothing, .max_size = 1)
{
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 1000 });

    world_settle();
    struct caller *hasty = scene_call(stage, (struct caller){ .scope_ms = 500 });
    world_advance_ms(500);
    EXPECT_STATUS(hasty->status, WEIR_TIMEOUT);
    EXPECT_INT(hasty->served_ms - hasty->asked_ms, 500);
    scene_wait(stage, 1000);
    EXPECT_STATUS(holder->held, WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(stage->fake.opened, 1);
}

SCENE(who_gives_up_one_second_into_a_connect_of_three_leaves_nothing_in_use, .max_size = 1)
{
    stage->fake.open.ms = 3000;
    struct caller *hasty = scene_call(stage, (struct caller){ .scope_ms = 1000 });
    scene_wait(stage, 1500);
    EXPECT_STATUS(hasty->status, WEIR_TIMEOUT);
    EXPECT_INT(hasty->served_ms, 1000);
    EXPECT_INT(scene_stats(stage->pool).in_use, 0);
    world_advance_ms(2000);
    EXPECT_INT(scene_stats(stage->pool).idle, 1); /* the connect was kept */
}

/* ---- listeners ------------------------------------------------------------------------------ */

/* One that cancels somebody at the nth event it hears, and at every event asks and tells the pool
   what it must not in a callback. */
static struct {
    struct scene  *stage;
    struct caller *crowd[6];
    unsigned       heard, strike_at, victim, refused;
} ear;

static void meddle(const weir_pool_event *event, void *arg)
{
    weir_lease *lease = NULL;
    weir_error  err;

    (void)arg;
    ear.heard++;
    if (ear.heard == ear.strike_at && ear.crowd[ear.victim] && ear.crowd[ear.victim]->task)
        weir_cancel(ear.crowd[ear.victim]->task);
    weir_pool_stats stats = scene_stats(event->pool);
    EXPECT(stats.in_use <= 2);
    ear.refused += weir_pool_pause(event->pool, NULL) == WEIR_USAGE;
    if (!weir_self())
        return;
    EXPECT_STATUS(weir_acquire(event->pool, WEIR_NOW, &lease, &err), WEIR_USAGE);
    EXPECT_TEXT(err.message, "in the callback of one of its events");
}

static void listen_and_strike(struct scene *stage)
{
    ear.stage = stage;
    stage->fake.open.ms = 3;
    stage->fake.reset.ms = 2;
    for (int i = 0; i < 6; i++)
        ear.crowd[i] = scene_call(stage, (struct caller){ .patience_ms = 1000,
                                                          .hold_ms = i,
                                                          .queries = i == 4,
                                                          .leaves = i == 2 ? WEIR_DIRTY
                                                                           : WEIR_CLEAN,
                                                          .parting = i == 3 ? FORGET
                                                                            : GIVE_BACK });
    scene_wait(stage, 2000);
    for (unsigned i = 0; i < 6; i++)
        if (i != ear.victim || !ear.strike_at)
            EXPECT_STATUS(ear.crowd[i]->status, WEIR_OK);
    memset(ear.crowd, 0, sizeof ear.crowd);
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });
    scene_wait(stage, 200);
    EXPECT_STATUS(late->status, WEIR_OK);
}

static void a_listener_that_cancels_anybody_at_any_event_does_no_harm(void **state)
{
    static const weir_pool_opts opts = { .max_size = 2, .on_event = meddle };
    unsigned                    events;

    (void)state;
    memset(&ear, 0, sizeof ear);
    scene_play("listening only", listen_and_strike, &opts);
    events = ear.heard;
    assert_true(events > 20);
    assert_int_equal(ear.refused, events);
    for (unsigned victim = 0; victim < 6; victim++)
        for (unsigned at = 1; at <= events; at++) {
            memset(&ear, 0, sizeof ear);
            ear.victim = victim;
            ear.strike_at = at;
            scene_play("cancelled by a listener", listen_and_strike, &opts);
        }
}

/* ---- all dead ------------------------------------------------------------------------------- */

struct client {
    struct scene *stage;
    unsigned      errors, served, refused;
};

/* As callers do: what is lost is reported, given back and asked for again. */
static weir_status keep_working(void *arg)
{
    struct client *me = arg;

    while (world_now_ms() < 2000) {
        weir_lease *lease = NULL;
        if (weir_acquire(me->stage->pool, WEIR_SCOPE, &lease, NULL) != WEIR_OK) {
            me->refused++;
            continue;
        }
        weir_status status = fake_query(lease, 10);
        me->errors += status != WEIR_OK;
        me->served += status == WEIR_OK;
        (void)weir_release(lease);
    }
    return WEIR_OK;
}

/* Ten at work, ten idle, ten callers waiting: the server restarts, and every connection dies. */
SCENE(a_restart_costs_each_holder_one_error_and_nobody_else_any, .max_size = 20,
      .max_connecting = 20)
{
    struct client clients[30];
    unsigned      errors = 0;

    stage->fake.open.ms = 5;
    for (int i = 0; i < 20; i++)
        scene_call(stage, (struct caller){ .hold_ms = 20 });
    scene_wait(stage, 100);
    for (int i = 0; i < 10; i++) {
        clients[i] = (struct client){ .stage = stage };
        scene_spawn(stage, keep_working, &clients[i]);
    }
    world_advance_ms(505);
    EXPECT_INT(scene_stats(stage->pool).idle, 10);
    LIST_EACH(node, &stage->pool->conns[CONN_IN_USE])
        fake_driver.interrupt(LIST_OF(node, struct conn, link)->driver_side);
    EXPECT_INT(fake_stir(&stage->fake), 10);
    for (int i = 10; i < 30; i++) {
        clients[i] = (struct client){ .stage = stage };
        scene_spawn(stage, keep_working, &clients[i]);
    }
    scene_wait(stage, 5000);
    for (int i = 0; i < 30; i++) {
        EXPECT(clients[i].errors <= (i < 10));
        EXPECT_INT(clients[i].refused, 0);
        EXPECT(clients[i].served > 50);
        errors += clients[i].errors;
    }
    EXPECT_INT(errors, 10);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_LOST), 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hundred_thousand_waiters_half_of_them_cancelled_lose_no_turn),
        cmocka_unit_test(twice_the_load_is_served_as_far_as_it_goes_and_leaves_no_trace),
        cmocka_unit_test(a_pool_whose_callers_give_up_in_their_queries_recovers_too),
        cmocka_unit_test(a_million_borrows_never_meet_what_is_evicted_meanwhile),
        cmocka_unit_test(who_gives_up_after_half_a_second_of_a_second_leaves_nothing),
        cmocka_unit_test(who_gives_up_one_second_into_a_connect_of_three_leaves_nothing_in_use),
        cmocka_unit_test(a_listener_that_cancels_anybody_at_any_event_does_no_harm),
        cmocka_unit_test(a_restart_costs_each_holder_one_error_and_nobody_else_any),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
