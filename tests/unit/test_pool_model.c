/*
 * A long random play against a small model of what a pool promises.
 *
 * The model is a queue, a number of idle connections and who holds one; it knows nothing of
 * keepers, permits or budgets. After each step everybody on stage must be in the state that
 * the model says, which also means: in its order. WEIR_TEST_SEED sets the seed.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLAYERS = 24, PLACES = 5, STEPS = 100000 };

/* ---- chance ------------------------------------------------------------------------------ */

static uint64_t seed, chance;

/* xorshift64 (Marsaglia). */
static unsigned upto(unsigned limit)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (unsigned)(chance >> 33) % limit;
}

/* ---- players ----------------------------------------------------------------------------- */

enum state { FREE, WAITS, HOLDS };
enum order { NOTHING, ASK, LET_GO, LEAVE };

struct player {
    struct scene  *stage;
    weir_task     *task;
    weir_waker     waker;
    enum order     order;
    int64_t        patience_ms;
    weir_condition leaves;
    enum parting   parting;
    enum state     state;   /* as it is */
    weir_status    outcome; /* of the last acquire */
    weir_lease    *lease;
};

static void ask(struct player *me)
{
    me->state = WAITS;
    me->outcome = weir_acquire(me->stage->pool, weir_in_ms(me->patience_ms), &me->lease, NULL);
    me->state = me->outcome == WEIR_OK ? HOLDS : FREE;
}

static void let_go(struct player *me)
{
    fake_leave(me->lease, me->leaves);
    EXPECT_STATUS(me->parting == GIVE_BACK ? weir_release(me->lease) : weir_lease_close(me->lease),
                  WEIR_OK);
    me->state = FREE;
}

/* A cancel is for life, so a player who was cancelled is replaced. */
static weir_status play_along(void *arg)
{
    struct player *me = arg;

    while (me->order != LEAVE && weir_check() == WEIR_OK) {
        if (me->order == ASK)
            ask(me);
        else if (me->order == LET_GO)
            let_go(me);
        me->order = NOTHING;
        if (weir_check() != WEIR_OK)
            break;
        me->waker = weir_waker_new();
        (void)weir_park(WEIR_FOREVER, "an order");
    }
    me->task = NULL;
    return WEIR_OK;
}

static void order(struct player *player, enum order what)
{
    player->order = what;
    if (player->task)
        weir_wake(player->waker);
    else
        player->task = scene_spawn(player->stage, play_along, player);
}

/* ---- the model --------------------------------------------------------------------------- */

static struct {
    enum state  state[PLAYERS];
    weir_status outcome[PLAYERS];
    int64_t     until_ms[PLAYERS];
    unsigned    queue[PLAYERS], waiting;
    unsigned    idle, held;
    unsigned    size;
    bool        paused;
    bool        stale[PLAYERS]; /* what he holds is from before a clear */
} model;

static void model_serve(unsigned who)
{
    model.state[who] = HOLDS;
    model.outcome[who] = WEIR_OK;
    model.stale[who] = false;
    model.held++;
}

static void model_leave_queue(unsigned place)
{
    model.waiting--;
    memmove(&model.queue[place], &model.queue[place + 1],
            (model.waiting - place) * sizeof *model.queue);
}

static void model_ask(unsigned who, int64_t until_ms)
{
    if (model.paused) {
        model.outcome[who] = WEIR_CONNECT;
    } else if (model.idle) {
        model.idle--;
        model_serve(who);
    } else if (model.held < model.size) {
        model_serve(who);
    } else {
        model.state[who] = WAITS;
        model.until_ms[who] = until_ms;
        model.queue[model.waiting++] = who;
    }
}

static void model_serve_first(void)
{
    unsigned next = model.queue[0];

    model_leave_queue(0);
    model_serve(next);
}

/* Whether it is lent on or closed and another opened: the oldest waiter has one at once, if the
   pool is not too large as it is. */
static void model_let_go(unsigned who, bool usable)
{
    usable = usable && !model.stale[who] && model.held + model.idle <= model.size;
    model.state[who] = FREE;
    model.held--;
    if (model.waiting && model.held < model.size)
        model_serve_first();
    else
        model.idle += usable;
}

static void model_give_up(unsigned place, weir_status why)
{
    unsigned who = model.queue[place];

    model_leave_queue(place);
    model.state[who] = FREE;
    model.outcome[who] = why;
}

static void model_pass_time(int64_t now_ms)
{
    for (unsigned place = model.waiting; place-- > 0;)
        if (model.until_ms[model.queue[place]] <= now_ms)
            model_give_up(place, WEIR_TIMEOUT);
}

static void model_pause(void)
{
    model.paused = true;
    while (model.waiting)
        model_give_up(0, WEIR_CONNECT);
}

static void model_clear(void)
{
    model_pause();
    model.idle = 0;
    for (unsigned i = 0; i < PLAYERS; i++)
        model.stale[i] = true;
}

static void model_resize(unsigned size)
{
    model.size = size;
    while (model.idle && model.held + model.idle > size)
        model.idle--;
    while (model.waiting && model.held < size)
        model_serve_first();
}

/* ---- steps ------------------------------------------------------------------------------- */

static struct player players[PLAYERS];

static void ask_or_let_go(unsigned who)
{
    struct player *player = &players[who];

    if (player->order != NOTHING && player->task)
        return; /* he has something to do already in this turn */
    if (model.state[who] == FREE && player->state == FREE) {
        player->patience_ms = 1 + upto(200);
        model_ask(who, world_now_ms() + player->patience_ms);
        order(player, ASK);
    } else if (model.state[who] == HOLDS && player->state == HOLDS) {
        static const weir_condition conditions[] = { WEIR_CLEAN,  WEIR_CLEAN, WEIR_DIRTY,
                                                     WEIR_BROKEN, WEIR_GONE };
        player->leaves = conditions[upto(5)];
        player->parting = upto(8) ? GIVE_BACK : HAVE_CLOSED;
        model_let_go(who, player->parting == GIVE_BACK && player->leaves != WEIR_BROKEN &&
                              player->leaves != WEIR_GONE);
        order(player, LET_GO);
    }
}

static void cancel_a_waiter(void)
{
    if (!model.waiting)
        return;
    unsigned place = upto(model.waiting);
    weir_cancel(players[model.queue[place]].task);
    model_give_up(place, WEIR_CANCELED);
}

static void let_time_pass(void)
{
    world_advance_ms(1 + upto(20));
    model_pass_time(world_now_ms());
}

static void lose_the_idle(struct scene *stage)
{
    EXPECT_INT(fake_stir(&stage->fake), model.idle);
    model.idle = 0;
}

/* Several at once: whoever asks and finds a connection given back in the same turn takes that
   one, and nothing is opened for him. So the model may count too many idle ones. */
static void several_at_once(struct scene *stage)
{
    for (unsigned count = 2 + upto(6); count > 0; count--)
        ask_or_let_go(upto(PLAYERS));
    world_settle();
    EXPECT(scene_stats(stage->pool).idle <= model.idle);
    model.idle = scene_stats(stage->pool).idle;
}

/* Mostly it is ready and of full size, or there would be no play. */
static void change_the_pool(weir_pool *pool)
{
    unsigned what = upto(4), size = upto(2) ? PLACES : 1 + upto(PLACES);

    if (model.paused) {
        model.paused = false;
        EXPECT_STATUS(weir_pool_ready(pool, NULL), WEIR_OK);
    } else if (what == 0) {
        model_pause();
        EXPECT_STATUS(weir_pool_pause(pool, NULL), WEIR_OK);
    } else if (what == 1) {
        model_clear();
        EXPECT_STATUS(weir_pool_clear(pool, upto(2) != 0, NULL, NULL), WEIR_OK);
    } else {
        model_resize(size);
        EXPECT_STATUS(weir_pool_resize(pool, size, NULL), WEIR_OK);
    }
}

static void one_step(struct scene *stage)
{
    unsigned what = upto(model.paused ? 104 : 101);

    if (what >= 100)
        change_the_pool(stage->pool);
    else if (what < 60)
        ask_or_let_go(upto(PLAYERS));
    else if (what < 70)
        several_at_once(stage);
    else if (what < 80)
        cancel_a_waiter();
    else if (what < 98)
        let_time_pass();
    else
        lose_the_idle(stage);
    world_settle();
    model_pass_time(world_now_ms());
}

static void compare(const struct scene *stage)
{
    weir_pool_stats stats = scene_stats(stage->pool);

    for (unsigned i = 0; i < PLAYERS; i++) {
        if (players[i].state != model.state[i] ||
            (model.state[i] != WAITS && players[i].outcome != model.outcome[i]))
            expect_note("player %u", i);
        EXPECT_INT(players[i].state, model.state[i]);
        if (model.state[i] != WAITS)
            EXPECT_STATUS(players[i].outcome, model.outcome[i]);
    }
    EXPECT_INT(stats.waiting, model.waiting);
    EXPECT_INT(stats.in_use, model.held);
    EXPECT_INT(stats.idle, model.idle);
    EXPECT_INT(stats.connecting + stats.reserved + stats.resetting + stats.closing, 0);
    EXPECT(stage->fake.alive_peak <= PLACES);
    EXPECT_INT(stage->fake.alive, model.idle + model.held);
    scene_recount(stage->pool);
}

static void everybody_leaves(void)
{
    for (unsigned i = 0; i < PLAYERS; i++)
        if (players[i].task && players[i].state == HOLDS)
            order(&players[i], LET_GO);
    world_advance_ms(1000);
    for (unsigned i = 0; i < PLAYERS; i++)
        if (players[i].task && players[i].state == HOLDS)
            order(&players[i], LET_GO);
    world_settle();
    for (unsigned i = 0; i < PLAYERS; i++)
        if (players[i].task)
            order(&players[i], LEAVE);
}

static void play_at_random(struct scene *stage)
{
    memset(&model, 0, sizeof model);
    model.size = PLACES;
    memset(players, 0, sizeof players);
    for (unsigned i = 0; i < PLAYERS; i++)
        players[i].stage = stage;
    for (unsigned i = 1; i <= STEPS; i++) {
        one_step(stage);
        compare(stage);
        if (expect_failures()) {
            expect_note("at step %u", i);
            break;
        }
    }
    weir_pool_stats stats = scene_stats(stage->pool);
    EXPECT(stats.acquired > STEPS / 10); /* or it was not much of a play */
    EXPECT(stats.timeouts > STEPS / 100);
    EXPECT(stats.canceled > STEPS / 100);
    EXPECT(stats.resets > STEPS / 100);
    EXPECT(stats.opened > STEPS / 100);
    EXPECT(stats.closed[WEIR_CLOSE_LOST] > STEPS / 100);
    EXPECT(stats.closed[WEIR_CLOSE_STALE] > STEPS / 1000);
    EXPECT(stats.closed[WEIR_CLOSE_RESIZED] > STEPS / 1000);
    everybody_leaves();
}

static void a_pool_does_what_its_model_says(void **state)
{
    const char *given = getenv("WEIR_TEST_SEED");
    char        name[100];

    (void)state;
    seed = given ? strtoull(given, NULL, 0) : 1;
    chance = seed * UINT64_C(0x9E3779B97F4A7C15) + 1; /* small seeds are spread; never zero here */
    snprintf(name, sizeof name, "WEIR_TEST_SEED=%llu", (unsigned long long)seed);
    scene_play(name, play_at_random,
               &(weir_pool_opts){ .max_size = PLACES, .idle_timeout_ms = WEIR_NEVER,
                                  .max_age_ms = WEIR_NEVER });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_does_what_its_model_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
