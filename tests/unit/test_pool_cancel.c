/*
 * Interrupting everybody at every point where anything yields or is woken.
 *
 * The linker lets every park, sleep and wake of the pool, the driver and the callers pass
 * through here (--wrap), where it is counted. A scenario is played once to learn how many
 * there are, and then once for each of them, each caller and each way of interrupting: the
 * blow falls before the park, as soon as it is parked, or in the next turn of the hub. After
 * each play nothing may be left, everybody else must have got what he came for, and whoever
 * comes later is served.
 */
#include "pool_scene.h"

#include "pool.h"
#include "under_valgrind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/governor.h>

enum { CAST = 8, TIMES = 512, SPARSE = 3 };

/* ---- scenarios --------------------------------------------------------------------------- */

struct scenario {
    const char    *name;
    weir_pool_opts opts;
    unsigned       budget; /* (plenty) */
    struct fake    server; /* its commands */
    struct caller  cast[CAST];
    unsigned       callers;
    bool           refuses; /* others may be told that the server refused */
    weir_governor_opts governor; /* (none) */
};

#define DESCRIPTORLESS { WEIR_BUSY, 0, false, "EMFILE", 24 }
#define REFUSED(ms) { WEIR_CONNECT, (ms), false, "refused", 2002 }

static const struct scenario scenarios[] = {
    { "connect", { .max_size = 1 }, 0, { .open = { .ms = 10 } },
      { { .hold_ms = 1 }, { .hold_ms = 1 }, { 0 } }, 3, false, { 0 } },
    { "two connects", { .max_size = 2, .max_connecting = 1 }, 0, { .open = { .ms = 10 } },
      { { .hold_ms = 30 }, { .hold_ms = 1 }, { 0 } }, 3, false, { 0 } },
    { "connect in no time", { .max_size = 1 }, 0, { .sockets = 1 },
      { { .hold_ms = 1 }, { 0 }, { 0 } }, 3, false, { 0 } },
    { "refused", { .max_size = 2 }, 0,
      { .script = { REFUSED(5), REFUSED(7), REFUSED(0) }, .scripted = 3 },
      { { .hold_ms = 1 }, { .hold_ms = 1 }, { 0 } }, 3, true, { 0 } },
    { "stalled connect", { .max_size = 1, .connect_timeout_ms = 20 }, 0,
      { .script = { { .ms = FAKE_FOREVER } }, .scripted = 1 },
      { { .hold_ms = 1 }, { .hold_ms = 1 } }, 2, true, { 0 } },
    { "queue", { .max_size = 1 }, 0, { .sockets = 1 },
      { { .hold_ms = 20 }, { .hold_ms = 20 }, { .hold_ms = 20 }, { 0 } }, 4, false, { 0 } },
    { "query", { .max_size = 1 }, 0, { .open = { .ms = 5 } },
      { { .hold_ms = 20, .queries = true }, { .hold_ms = 20, .queries = true }, { 0 } }, 3,
      false, { 0 } },
    { "reset", { .max_size = 1 }, 0, { .reset = { .ms = 10 } },
      { { .hold_ms = 5, .leaves = WEIR_DIRTY }, { .hold_ms = 5, .leaves = WEIR_DIRTY }, { 0 } }, 3,
      false, { 0 } },
    { "reset fails", { .max_size = 2 }, 0, { .reset = { .ms = 10, .status = WEIR_SERVER } },
      { { .hold_ms = 5, .leaves = WEIR_DIRTY }, { .leaves = WEIR_DIRTY }, { 0 } }, 3, false,
      { 0 } },
    { "reset stalls", { .max_size = 1, .reset_timeout_ms = 15 }, 0,
      { .reset = { .ms = FAKE_FOREVER } },
      { { .leaves = WEIR_DIRTY }, { .hold_ms = 1 } }, 2, false, { 0 } },
    { "close", { .max_size = 1, .close_timeout_ms = 30 }, 0,
      { .open = { .ms = 3 }, .close = { .ms = 10 } },
      { { .hold_ms = 5, .parting = HAVE_CLOSED }, { .parting = HAVE_CLOSED }, { .hold_ms = 1 } },
      3, false, { 0 } },
    { "close stalls", { .max_size = 1, .close_timeout_ms = 30 }, 0,
      { .close = { .ms = FAKE_FOREVER } },
      { { .hold_ms = 5, .parting = HAVE_CLOSED }, { .hold_ms = 5, .leaves = WEIR_BROKEN }, { 0 } },
      3, false, { 0 } },
    { "forget", { .max_size = 2 }, 0, { .close = { .ms = 5 } },
      { { .hold_ms = 5, .parting = FORGET },
        { .hold_ms = 7, .parting = FORGET },
        { .hold_ms = 1 } }, 3, false, { 0 } },
    { "recycle", { .max_size = 1, .on_exit = WEIR_ON_EXIT_RECYCLE }, 0, { .reset = { .ms = 5 } },
      { { .hold_ms = 5, .parting = FORGET, .leaves = WEIR_DIRTY }, { .parting = FORGET }, { 0 } },
      3, false, { 0 } },
    { "few descriptors", { .max_size = 3 }, 2, { .close = { .ms = 5 } },
      { { .hold_ms = 10, .parting = HAVE_CLOSED }, { .hold_ms = 10 }, { .hold_ms = 10 } }, 3,
      false, { 0 } },
    { "no descriptors", { .max_size = 1 }, 0,
      { .script = { DESCRIPTORLESS, DESCRIPTORLESS }, .scripted = 2 },
      { { .hold_ms = 1 }, { 0 } }, 2, false, { 0 } },
    { "min_idle", { .max_size = 3, .min_idle = 2, .idle_timeout_ms = 10 }, 0,
      { .open = { .ms = 4 } },
      { { .hold_ms = 15 }, { .hold_ms = 5, .leaves = WEIR_GONE }, { .hold_ms = 5 } }, 3, false,
      { 0 } },
    { "old age", { .max_size = 1, .max_age_ms = 10 }, 0,
      { .open = { .ms = 1 }, .close = { .ms = 2 } },
      { { .hold_ms = 20 }, { .hold_ms = 20 }, { 0 } }, 3, false, { 0 } },
    { "pings", { .max_size = 2, .keepalive_ms = 5, .idle_timeout_ms = 40 }, 0,
      { .ping = { .ms = 3 } },
      { { .hold_ms = 20 }, { .hold_ms = 30 }, { .hold_ms = 15 }, { .hold_ms = 1 } }, 4,
      false, { 0 } },
    { "ping stalls", { .max_size = 2, .keepalive_ms = 5, .idle_timeout_ms = 40,
                       .reset_timeout_ms = 4 }, 0,
      { .ping = { .ms = FAKE_FOREVER }, .close = { .ms = 2 } },
      { { .hold_ms = 10 }, { .hold_ms = 30 }, { .hold_ms = 25 } }, 3, false, { 0 } },
    { "impatient server", { .max_size = 2, .min_idle = 1 }, 0,
      { .rest_ms = 8, .open = { .ms = 1 }, .close = { .ms = 2 } },
      { { .hold_ms = 5 }, { .hold_ms = 20 }, { .hold_ms = 7 } }, 3, false, { 0 } },
    { "governed", { .max_size = 3, .max_connecting = 3 }, 0,
      { .open = { .ms = 5 }, .close = { .ms = 2 } },
      { { .hold_ms = 10, .parting = HAVE_CLOSED }, { .hold_ms = 3, .parting = HAVE_CLOSED },
        { .parting = HAVE_CLOSED }, { .hold_ms = 1 } }, 4, false,
      { .max_connecting = 1, .per_second = 200 } },
    { "governed without descriptors", { .max_size = 2 }, 2,
      { .script = { DESCRIPTORLESS, { .ms = 4 }, DESCRIPTORLESS }, .scripted = 3 },
      { { .hold_ms = 10, .parting = HAVE_CLOSED }, { .hold_ms = 3 }, { 0 } }, 3, false,
      { .max_connecting = 1 } },
    { "crowd", { .max_size = 2, .max_connecting = 1 }, 0,
      { .open = { .ms = 5 }, .reset = { .ms = 3 }, .close = { .ms = 4 } },
      { { .hold_ms = 10 }, { .hold_ms = 3, .leaves = WEIR_DIRTY }, { .parting = HAVE_CLOSED },
        { .hold_ms = 4, .queries = true }, { .parting = FORGET }, { .leaves = WEIR_BROKEN },
        { .hold_ms = 2 }, { 0 } }, 8, false, { 0 } },
};

enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* ---- the blow ---------------------------------------------------------------------------- */

enum moment { AT_ONCE, WHEN_PARKED, NEXT_TURN, MOMENTS };
enum blow { NO_BLOW, CANCEL, STIR, EVICT, PAUSE, CLEAR, SHRINK, DRAIN, CLOSE, FREE };

static const char *const moments[] = { "at once", "when parked", "in the next turn" };
static const char *const blows[] = { "nothing", "cancel", "stir",  "evict", "pause",
                                     "clear",   "shrink", "drain", "close", "free" };

/* One play. */
static struct {
    const struct scenario *scenario;
    enum blow              blow;
    enum moment            moment;
    unsigned               at_step;   /* from 1 */
    unsigned               victim;    /* number of the caller */
    int64_t                limit_ns;  /* his deadline (none) */

    bool           counting, struck, over;
    unsigned       steps;
    int64_t        times[TIMES]; /* when anything happened */
    unsigned       time_count;
    struct scene  *stage;
    struct caller *cast[CAST];
    weir_waker     assassin;
    weir_alarm     alarm;
} play;

weir_status __real_weir_park(weir_deadline deadline, const char *why);
weir_status __wrap_weir_park(weir_deadline deadline, const char *why);
weir_status __real_weir_sleep(weir_deadline deadline);
weir_status __wrap_weir_sleep(weir_deadline deadline);
void        __real_weir_wake(weir_waker waker);
void        __wrap_weir_wake(weir_waker waker);

static void free_the_pool(void)
{
    weir_pool *pool = play.stage->pool;

    play.stage->pool = NULL;
    weir_pool_free(pool);
}

/* Those that a pool goes on after; waiters may have been told. */
static bool pool_goes_on(void)
{
    return play.blow >= PAUSE && play.blow <= DRAIN;
}

static void strike_the_pool(weir_pool *pool)
{
    unsigned least = pool->opts.min_idle ? pool->opts.min_idle : 1;

    if (play.blow == PAUSE)
        EXPECT_STATUS(weir_pool_pause(pool, NULL), WEIR_OK);
    else if (play.blow == CLEAR)
        EXPECT_STATUS(weir_pool_clear(pool, true, NULL, NULL), WEIR_OK);
    else if (play.blow == SHRINK)
        EXPECT_STATUS(weir_pool_resize(pool, least, NULL), WEIR_OK);
    else
        EXPECT_STATUS(weir_pool_drain(pool, weir_in_ms(20000), NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_ready(pool, NULL), WEIR_OK);
}

static void strike(void)
{
    play.struck = true;
    if (play.blow == CANCEL)
        weir_cancel(play.cast[play.victim]->task);
    else if (play.blow == STIR)
        fake_stir(&play.stage->fake);
    else if (play.blow == EVICT)
        upkeep_evict(&play.stage->pool->share);
    else if (play.blow == CLOSE)
        (void)weir_pool_close(play.stage->pool, WEIR_NOW);
    else if (play.blow == FREE)
        free_the_pool();
    else if (pool_goes_on())
        strike_the_pool(play.stage->pool);
}

static void strike_from_the_hub(weir_alarm *alarm)
{
    (void)alarm;
    strike();
}

static weir_status lie_in_wait(void *arg)
{
    (void)arg;
    play.assassin = weir_waker_new();
    (void)__real_weir_park(WEIR_FOREVER, "the moment");
    if (play.over)
        return WEIR_OK;
    play.counting = false; /* what closing does on our own stack is no step of the scenario */
    strike();
    play.counting = true;
    return WEIR_OK;
}

static void step(void)
{
    if (!play.counting)
        return;
    play.steps++;
    if (play.time_count < TIMES &&
        (!play.time_count || play.times[play.time_count - 1] != weir_now()))
        play.times[play.time_count++] = weir_now();
    if (!play.blow || play.steps != play.at_step)
        return;
    if (play.moment == AT_ONCE)
        strike();
    else if (play.moment == WHEN_PARKED)
        __real_weir_wake(play.assassin);
    else
        weir_alarm_set(&play.alarm, weir_now(), strike_from_the_hub);
}

weir_status __wrap_weir_park(weir_deadline deadline, const char *why)
{
    step();
    return __real_weir_park(deadline, why);
}

weir_status __wrap_weir_sleep(weir_deadline deadline)
{
    step();
    return __real_weir_sleep(deadline);
}

/* Before the wake, and after it: both orders of a wake and a blow in one turn. */
void __wrap_weir_wake(weir_waker waker)
{
    step();
    __real_weir_wake(waker);
    step();
}

/* ---- one play ---------------------------------------------------------------------------- */

static void judge(const struct caller *caller, bool victim)
{
    weir_status status = caller->status;

    EXPECT(caller->done && (victim || caller->held == WEIR_OK ||
                            (play.blow == CLEAR && caller->held == WEIR_LOST)));
    if (status == WEIR_OK)
        return;
    if ((play.scenario->refuses || pool_goes_on()) && status == WEIR_CONNECT)
        return;
    if (play.blow >= CLOSE && status == WEIR_CLOSED)
        return;
    if (victim && play.blow == CANCEL && status == WEIR_CANCELED)
        return;
    if (victim && play.limit_ns && status == WEIR_TIMEOUT)
        return;
    EXPECT_STATUS(status, WEIR_OK);
}

static bool all_have_gone(void)
{
    for (unsigned i = 0; i < play.scenario->callers; i++)
        if (!play.cast[i]->done)
            return false;
    return true;
}

static void serve_a_late_comer(struct scene *stage)
{
    stage->fake.open = stage->fake.reset = stage->fake.close = (struct fake_step){ 0 };
    stage->fake.ping = (struct fake_step){ 0 };
    stage->fake.rest_ms = 0;
    stage->fake.scripted = 0;
    world_advance_ms(11000); /* longer than any pause after failures */
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 1000 });
    scene_wait(stage, 2000);
    EXPECT_STATUS(late->status, play.blow == CLOSE && play.struck ? WEIR_CLOSED : WEIR_OK);
}

static void act(struct scene *stage)
{
    const struct scenario *scenario = play.scenario;

    EXPECT_STATUS(weir_governor_set(&scenario->governor, NULL), WEIR_OK);
    if (scenario->budget)
        scene_set_budget(scenario->budget);
    EXPECT_STATUS(weir_alarm_reserve(1), WEIR_OK);
    play.stage = stage;
    scene_spawn(stage, lie_in_wait, NULL);
    __real_weir_sleep(weir_in_ms(0));
    world_settle();

    play.counting = true;
    for (unsigned i = 0; i < scenario->callers; i++) {
        struct caller part = scenario->cast[i];
        part.patience_ms = 20000;
        part.scope_at_ns = i == play.victim ? play.limit_ns : 0;
        play.cast[i] = scene_call(stage, part);
    }
    while (!all_have_gone()) {
        __real_weir_sleep(weir_deadline_at(weir_now() + 500000));
        if (stage->pool)
            scene_recount(stage->pool);
    }
    play.counting = false;
    play.over = true;
    __real_weir_wake(play.assassin); /* where he still waits: then the step never came */
    world_settle();
    for (unsigned i = 0; i < scenario->callers; i++)
        judge(play.cast[i], i == play.victim);
    if (stage->pool)
        serve_a_late_comer(stage);
    weir_alarm_stop(&play.alarm);
    (void)weir_alarm_reserve(-1);
}

static void act_on(struct scene *stage)
{
    const struct fake *server = &play.scenario->server;

    /* The pool was made on a server that had no commands yet: min_idle opens at once there. */
    stage->fake.open = server->open;
    stage->fake.reset = server->reset;
    stage->fake.ping = server->ping;
    stage->fake.rest_ms = server->rest_ms;
    stage->fake.close = server->close;
    memcpy(stage->fake.script, server->script, sizeof server->script);
    stage->fake.scripted = server->scripted;
    act(stage);
}

static void play_once(void)
{
    char name[160];

    snprintf(name, sizeof name, "scenario \"%s\", caller %u, deadline %lld: %s at step %u, %s",
             play.scenario->name, play.victim, (long long)play.limit_ns, blows[play.blow],
             play.at_step, moments[play.moment]);
    scene_play(name, act_on, &play.scenario->opts);

    weir_governor_stats governor;
    weir_governor_read(&governor);
    if (governor.connecting || governor.waiting)
        fail_msg("%s: %u still have leave to connect, %u wait for it", name, governor.connecting,
                 governor.waiting);
}

/* ---- all plays --------------------------------------------------------------------------- */

/* Under valgrind one play in so many: there it is memory that is looked at, which neighbouring
   plays use alike. The first differs from series to series, so that no point is always left out. */
static unsigned stride(void)
{
    return under_valgrind() ? SPARSE : 1;
}

static unsigned first_of_series(void)
{
    static unsigned series;

    return series++ % stride();
}

static unsigned rehearse(const struct scenario *scenario)
{
    memset(&play, 0, sizeof play);
    play.scenario = scenario;
    play_once();
    return play.steps;
}

/* Interrupting makes a play longer or shorter: go on until the step is never reached. */
static unsigned interrupt_everywhere(const struct scenario *scenario, enum blow blow,
                                     enum moment moment, unsigned victim)
{
    unsigned plays = 0;

    for (unsigned at = 1 + first_of_series();; at += stride()) {
        memset(&play, 0, sizeof play);
        play.scenario = scenario;
        play.blow = blow;
        play.moment = moment;
        play.victim = victim;
        play.at_step = at;
        play_once();
        if (play.steps < at)
            return plays;
        plays++;
    }
}

static void cancelling_anybody_at_any_point_loses_nothing(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++) {
        assert_true(rehearse(&scenarios[i]) > 4);
        for (unsigned victim = 0; victim < scenarios[i].callers; victim++)
            for (enum moment moment = AT_ONCE; moment < MOMENTS; moment++)
                plays += interrupt_everywhere(&scenarios[i], CANCEL, moment, victim);
    }
    assert_true(plays > 2000 / stride());
    print_message("%u plays\n", plays);
}

static void a_deadline_at_any_instant_loses_nothing(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++) {
        int64_t  times[TIMES];
        unsigned count;

        rehearse(&scenarios[i]);
        count = play.time_count;
        memcpy(times, play.times, sizeof times);
        for (unsigned k = first_of_series(); k < count; k += stride())
            for (unsigned victim = 0; victim < scenarios[i].callers; victim++)
                for (int shift = -1; shift <= 1; shift++, plays++) {
                    memset(&play, 0, sizeof play);
                    play.scenario = &scenarios[i];
                    play.victim = victim;
                    play.limit_ns = times[k] + shift;
                    play_once();
                }
    }
    assert_true(plays > 500 / stride());
    print_message("%u plays\n", plays);
}

static void idle_connections_may_be_lost_or_evicted_at_any_point(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++)
        for (enum blow blow = STIR; blow <= EVICT; blow++)
            for (enum moment moment = AT_ONCE; moment < MOMENTS; moment++)
                plays += interrupt_everywhere(&scenarios[i], blow, moment, 0);
    assert_true(plays > 500 / stride());
    print_message("%u plays\n", plays);
}

static void the_pool_may_be_paused_cleared_resized_or_drained_at_any_point(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++)
        for (enum blow blow = PAUSE; blow <= DRAIN; blow++) {
            plays += interrupt_everywhere(&scenarios[i], blow, WHEN_PARKED, 0);
            if (blow != DRAIN) /* which waits */
                plays += interrupt_everywhere(&scenarios[i], blow, NEXT_TURN, 0);
        }
    assert_true(plays > 1000 / stride());
    print_message("%u plays\n", plays);
}

static void the_pool_may_be_closed_at_any_point(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++)
        plays += interrupt_everywhere(&scenarios[i], CLOSE, WHEN_PARKED, 0);
    assert_true(plays > 200 / stride());
    print_message("%u plays\n", plays);
}

static void the_pool_may_be_freed_at_any_point(void **state)
{
    unsigned plays = 0;

    (void)state;
    for (unsigned i = 0; i < SCENARIOS; i++)
        plays += interrupt_everywhere(&scenarios[i], FREE, WHEN_PARKED, 0);
    assert_true(plays > 200 / stride());
    print_message("%u plays\n", plays);
}

/* ---- every gate in every state ----------------------------------------------------------- */

enum gate { FINE, FAILS, SLOW, NEVER_ENDS, GATES };

static struct {
    enum gate open, reset, check, close, hold;
} gates;

static struct fake_step step_of(enum gate gate)
{
    return gate == FINE    ? (struct fake_step){ 0 }
           : gate == FAILS ? (struct fake_step){ .status = WEIR_CONNECT, .words = "no" }
           : gate == SLOW  ? (struct fake_step){ .ms = 5 }
                           : (struct fake_step){ .ms = FAKE_FOREVER };
}

static void pass_the_gates(struct scene *stage)
{
    static const weir_condition conditions[] = { WEIR_CLEAN, WEIR_GONE, WEIR_DIRTY, WEIR_BROKEN };
    struct caller              *crowd[8];

    stage->fake.open = step_of(gates.open);
    stage->fake.reset = step_of(gates.reset);
    stage->fake.close = step_of(gates.close);
    for (int i = 0; i < 8; i++)
        crowd[i] = scene_call(stage, (struct caller){
                                         .patience_ms = 100,
                                         .scope_ms = i ? 4 * i : 0,
                                         .hold_ms = gates.hold == SLOW         ? 5
                                                    : gates.hold == NEVER_ENDS ? 60000
                                                                               : 0,
                                         .leaves = conditions[gates.check],
                                         .parting = gates.hold == FAILS ? FORGET : GIVE_BACK,
                                     });
    for (int ms = 0; ms < 40; ms++) {
        world_advance_ms(1);
        scene_recount(stage->pool);
        if (ms == 13 || ms == 14)
            weir_cancel(crowd[ms - 7]->task);
    }
    weir_cancel(crowd[0]->task);
    scene_wait(stage, 200);
    EXPECT(stage->fake.alive_peak <= 2);
    EXPECT(stage->fake.opening_peak <= 2);

    stage->fake.open = stage->fake.reset = stage->fake.close = (struct fake_step){ 0 };
    world_advance_ms(11000);
    for (int i = 0; i < 4; i++)
        crowd[i] = scene_call(stage, (struct caller){ .patience_ms = 100, .hold_ms = 1 });
    scene_wait(stage, 200);
    for (int i = 0; i < 4; i++)
        EXPECT_STATUS(crowd[i]->status, WEIR_OK);
}

static void every_gate_in_every_state_leaves_a_pool_that_works(void **state)
{
    static const weir_pool_opts opts = {
        .max_size = 2, .connect_timeout_ms = 20, .reset_timeout_ms = 20, .close_timeout_ms = 20
    };

    (void)state;
    for (unsigned i = 0; i < GATES * GATES * GATES * GATES * GATES; i += stride()) {
        char name[100];
        gates.open = i % 4;
        gates.reset = i / 4 % 4;
        gates.check = i / 16 % 4;
        gates.close = i / 64 % 4;
        gates.hold = i / 256;
        snprintf(name, sizeof name, "gates: open %d, reset %d, check %d, close %d, hold %d",
                 (int)gates.open, (int)gates.reset, (int)gates.check, (int)gates.close,
                 (int)gates.hold);
        scene_play(name, pass_the_gates, &opts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelling_anybody_at_any_point_loses_nothing),
        cmocka_unit_test(a_deadline_at_any_instant_loses_nothing),
        cmocka_unit_test(idle_connections_may_be_lost_or_evicted_at_any_point),
        cmocka_unit_test(the_pool_may_be_paused_cleared_resized_or_drained_at_any_point),
        cmocka_unit_test(the_pool_may_be_closed_at_any_point),
        cmocka_unit_test(the_pool_may_be_freed_at_any_point),
        cmocka_unit_test(every_gate_in_every_state_leaves_a_pool_that_works),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
