/*
 * everywhere.h - a small scene, played again and again, each time with one blow elsewhere.
 *
 * Knows:   a cast of coroutines, the points their parts pass, who is struck at which one.
 * Ignores: what they play, and what must hold afterwards: that is the scene's.
 *
 * A part calls point() before each thing it does. A scene is played once to count the points,
 * and then once for each of them, each of the cast and each moment: at once, once everybody who
 * is ready has run (so that whoever is about to sleep sleeps), and in the next turn of the hub;
 * then once for each of the cast and each instant, at which his deadline falls.
 */
#ifndef EVERYWHERE_H
#define EVERYWHERE_H

#include "coro_unit.h"

enum { CAST_MAX = 8 };
enum moment { AT_ONCE, WHEN_PARKED, NEXT_TURN, MOMENTS };

static struct play {
    unsigned    at;     /* the point of the blow, from 1; 0: nobody is struck */
    unsigned    victim; /* of the cast; CAST_MAX: nobody */
    enum moment moment;
    int64_t     limit_ms; /* the victim's deadline, since the world began; negative: none */

    unsigned    points;
    unsigned    size;
    weir_task  *cast[CAST_MAX];
    weir_group *group;
    bool        begun, struck;
    weir_waker  assassin;
    weir_alarm  alarm;
} play;

static inline void strike(void)
{
    play.struck = true;
    if (play.victim < play.size)
        weir_cancel(play.cast[play.victim]);
}

static inline void strike_by_alarm(weir_alarm *alarm)
{
    (void)alarm;
    strike();
}

/* Runs behind everybody who was ready when it was woken. */
static weir_status strike_when_parked(void *arg)
{
    (void)arg;
    play.assassin = weir_waker_new();
    if (weir_park(WEIR_FOREVER, "the moment") == WEIR_OK)
        strike();
    return WEIR_OK;
}

static inline void point(void)
{
    if (!play.begun || ++play.points != play.at)
        return;
    if (play.moment == AT_ONCE)
        strike();
    else if (play.moment == WHEN_PARKED)
        weir_wake(play.assassin);
    else
        weir_alarm_set(&play.alarm, weir_now(), strike_by_alarm);
}

/* Who is cut off does not get all he came for. */
static inline bool am_victim(unsigned number)
{
    return (play.at || play.limit_ms >= 0) && play.victim == number;
}

/* Everything a part does until the closing brace obeys the victim's deadline. */
#define PART_OF(number)                                                                   \
    WEIR_DEADLINE(am_victim(number) && play.limit_ms >= 0                                 \
                      ? weir_deadline_at(weir_now() - world_now_ns() + play.limit_ms * 1000000) \
                      : WEIR_FOREVER)

static inline void enter(weir_fn part, void *arg)
{
    play.cast[play.size++] = weir_spawn(play.group, part, arg);
}

/* The scene: enter() everybody, and once they have all left see to what must hold. */
struct scene {
    void (*begin)(void);
    void (*middle)(void); /* while they play, in a coroutine of its own; may be NULL */
    void (*end)(void);
};

static inline weir_status play_scene(void *arg)
{
    const struct scene *scene = arg;
    weir_task          *assassin;

    play.points = play.size = 0;
    play.struck = false;
    play.alarm = (weir_alarm){ 0 };
    HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
    HOLDS_EQ(weir_group_new(NULL, &play.group, NULL), WEIR_OK);
    assassin = weir_spawn(NULL, strike_when_parked, NULL);
    weir_yield();
    play.begun = true;
    scene->begin();
    if (scene->middle)
        scene->middle();
    (void)weir_group_wait(play.group, weir_in_ms(10000));
    HOLDS_EQ(weir_group_running(play.group), 0); /* nobody waits for what never comes */
    world_settle();                              /* a blow at the very end falls too */
    scene->end();
    play.begun = false;
    weir_group_free(play.group);
    weir_cancel(assassin);
    weir_alarm_stop(&play.alarm);
    HOLDS_EQ(weir_alarm_reserve(-1), WEIR_OK);
    return WEIR_OK;
}

static inline void play_once(const struct scene *scene)
{
    run_world(play_scene, (void *)scene);
}

static inline void play_everywhere(const struct scene *scene, int64_t lasts_ms)
{
    play = (struct play){ .victim = CAST_MAX, .limit_ms = -1 };
    play_once(scene);
    unsigned points = play.points, size = play.size;
    assert_true(points > size);

    unsigned struck = 0;
    for (unsigned at = 1; at <= points; at++) {
        for (unsigned victim = 0; victim < size; victim++) {
            for (enum moment moment = AT_ONCE; moment < MOMENTS; moment++) {
                play = (struct play){ .at = at, .victim = victim, .moment = moment,
                                      .limit_ms = -1 };
                play_once(scene);
                struck += play.struck;
            }
        }
    }
    assert_int_equal(struck, points * size * MOMENTS);
    for (unsigned victim = 0; victim < size; victim++) {
        for (int64_t ms = 0; ms <= lasts_ms; ms++) {
            play = (struct play){ .victim = victim, .limit_ms = ms };
            play_once(scene);
        }
    }
}

#endif
