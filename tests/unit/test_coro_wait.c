/*
 * test_coro_wait.c - parking and waking, time, deadlines, cancelling: on a clock that jumps.
 */
#include "coro_unit.h"

#include <errno.h>
#include <stdlib.h>

/* A number generator of our own, so that a seed means the same everywhere. */
static uint64_t seed;

static unsigned chance(unsigned below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(seed >> 33) % below;
}

/* ---- park and wake ------------------------------------------------------------------ */

/* Somebody who takes a ticket, shows it, and parks. */
struct sleeper {
    int64_t     patience_ms; /* 0: none */
    weir_waker  waker;
    weir_task  *task;
    bool        done;
    weir_status status;      /* of the park */
    weir_status next;        /* of a wait right after it */
    int64_t     woke_ms;
};

static weir_status park_once(void *arg)
{
    struct sleeper *me = arg;

    me->waker = weir_waker_new();
    me->status = weir_park(me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_FOREVER, "a test");
    me->woke_ms = world_now_ms();
    me->next = weir_sleep(weir_in_ms(1));
    me->done = true;
    return WEIR_OK;
}

static void start(struct sleeper *sleeper)
{
    sleeper->task = weir_spawn(NULL, park_once, sleeper);
    HOLDS(sleeper->task != NULL);
}

static weir_status wake_by_ticket(void *arg)
{
    struct sleeper him = { 0 };

    (void)arg;
    start(&him);
    world_advance_ms(10);
    HOLDS(!him.done);
    weir_wake(him.waker);
    HOLDS(!him.done); /* a wake makes ready, it does not switch */
    weir_wake(him.waker); /* twice is harmless */
    world_advance_ms(10);
    HOLDS(him.done);
    HOLDS_EQ(him.status, WEIR_OK);
    HOLDS_EQ(him.woke_ms, 10);
    return WEIR_OK;
}

static void a_parked_coroutine_sleeps_until_it_is_woken(void **state)
{
    (void)state;
    run_world(wake_by_ticket, NULL);
}

static weir_status be_woken_early(void *arg)
{
    int64_t    before = world_now_ns();
    weir_waker first = weir_waker_new();

    (void)arg;
    weir_wake(first);
    HOLDS_EQ(weir_park(WEIR_FOREVER, "what came already"), WEIR_OK);
    HOLDS_EQ(world_now_ns(), before);

    /* It counted once. */
    HOLDS_EQ(weir_park(weir_in_ms(5), "nothing"), WEIR_TIMEOUT);

    /* One that is over says nothing about the next. */
    weir_waker second = weir_waker_new();
    weir_wake(first);
    HOLDS_EQ(weir_park(weir_in_ms(5), "nothing"), WEIR_TIMEOUT);

    /* Nor does one that was replaced. */
    second = weir_waker_new();
    weir_waker third = weir_waker_new();
    weir_wake(second);
    HOLDS_EQ(weir_park(weir_in_ms(5), "nothing"), WEIR_TIMEOUT);
    (void)third;

    /* A wait for something else drops a wake that nobody waited for. */
    weir_wake(weir_waker_new());
    before = world_now_ms();
    HOLDS_EQ(sleep_ms(5), WEIR_OK);
    HOLDS_EQ(world_now_ms(), before + 5);
    return WEIR_OK;
}

static void an_early_wake_is_kept_and_a_stale_one_does_nothing(void **state)
{
    (void)state;
    run_world(be_woken_early, NULL);
}

static weir_status wake_whom_i_am_shown(void *arg)
{
    weir_wake(*(weir_waker *)arg);
    return WEIR_OK;
}

static weir_status yield_between_ticket_and_park(void *arg)
{
    weir_waker mine = weir_waker_new();

    (void)arg;
    weir_spawn(NULL, wake_whom_i_am_shown, &mine);
    HOLDS_EQ(weir_yield(), WEIR_OK); /* the wake comes while we are in line */
    HOLDS_EQ(weir_park(weir_in_ms(5), "what came while I gave way"), WEIR_OK);

    /* That one is used up. */
    HOLDS_EQ(weir_park(weir_in_ms(5), "nothing"), WEIR_TIMEOUT);
    return WEIR_OK;
}

static void a_wake_while_its_owner_gives_way_is_not_lost(void **state)
{
    (void)state;
    run_world(yield_between_ticket_and_park, NULL);
}

static weir_status wake_one_who_has_ended(void *arg)
{
    struct sleeper him = { .patience_ms = 1 }, other = { 0 };

    (void)arg;
    start(&him);
    world_advance_ms(10);
    HOLDS(him.done);
    start(&other); /* in the same record */
    world_settle();
    HOLDS(other.task == him.task);
    weir_wake(him.waker);
    world_advance_ms(10);
    HOLDS(!other.done);
    weir_wake(other.waker);
    world_advance_ms(10);
    HOLDS(other.done);
    return WEIR_OK;
}

static void a_ticket_of_one_who_has_ended_wakes_nobody_else(void **state)
{
    (void)state;
    run_world(wake_one_who_has_ended, NULL);
}

/* ---- who is first in one turn ------------------------------------------------------- */

static weir_status wake_at_his_deadline(void *arg)
{
    struct sleeper *him = arg;

    HOLDS_EQ(weir_sleep(weir_deadline_at(weir_now() + 20 * 1000000)), WEIR_OK);
    weir_wake(him->waker);
    return WEIR_OK;
}

static weir_status let_a_wake_meet_a_deadline(void *arg)
{
    struct sleeper him = { .patience_ms = 20 };

    (void)arg;
    weir_spawn(NULL, wake_at_his_deadline, &him); /* his alarm rings first, so he runs first */
    start(&him);
    world_advance_ms(50);
    HOLDS(him.done);
    HOLDS_EQ(him.status, WEIR_OK);
    HOLDS_EQ(him.woke_ms, 20);
    return WEIR_OK;
}

static void a_wake_in_the_turn_of_the_deadline_wins(void **state)
{
    (void)state;
    run_world(let_a_wake_meet_a_deadline, NULL);
}

static weir_status let_wakes_meet_cancels(void *arg)
{
    struct sleeper first = { 0 }, second = { 0 };

    (void)arg;
    start(&first);
    start(&second);
    world_settle();
    weir_cancel(first.task);
    weir_wake(first.waker);
    weir_wake(second.waker);
    weir_cancel(second.task);
    world_settle();
    HOLDS(first.done && second.done);
    HOLDS_EQ(first.status, WEIR_OK);
    HOLDS_EQ(second.status, WEIR_OK);
    HOLDS_EQ(first.next, WEIR_CANCELED); /* and the cancel is not forgotten */
    HOLDS_EQ(second.next, WEIR_CANCELED);
    return WEIR_OK;
}

static void a_wake_in_the_turn_of_a_cancel_wins_and_the_cancel_stays(void **state)
{
    (void)state;
    run_world(let_wakes_meet_cancels, NULL);
}

static weir_status cancel_at_his_deadline(void *arg)
{
    struct sleeper *him = arg;

    weir_sleep(weir_deadline_at(weir_now() + 20 * 1000000));
    weir_cancel(him->task);
    return WEIR_OK;
}

static weir_status let_a_cancel_meet_a_deadline(void *arg)
{
    struct sleeper him = { .patience_ms = 20 };

    (void)arg;
    weir_spawn(NULL, cancel_at_his_deadline, &him);
    start(&him);
    world_advance_ms(50);
    HOLDS(him.done);
    HOLDS_EQ(him.status, WEIR_TIMEOUT); /* it was first */
    HOLDS_EQ(him.next, WEIR_CANCELED);
    return WEIR_OK;
}

static void a_cancel_in_the_turn_of_the_deadline_comes_after_it(void **state)
{
    (void)state;
    run_world(let_a_cancel_meet_a_deadline, NULL);
}

/* ---- wakes from other threads ------------------------------------------------------- */

/* A coroutine hands its ticket to a thread, which wakes it, at least once. */
struct pen_friend {
    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    weir_waker      waker;
    bool            waiting, over;
    int             wakes; /* tickets the thread has answered */
};

enum { FRIENDS = 8, LETTERS = 500 };

static void *answer_letters(void *arg)
{
    struct pen_friend *me = arg;

    pthread_mutex_lock(&me->lock);
    while (!me->over || me->waiting) {
        if (!me->waiting) {
            pthread_cond_wait(&me->changed, &me->lock);
            continue;
        }
        me->waiting = false;
        me->wakes++;
        weir_waker waker = me->waker;
        weir_wake_remote(waker);
        if (me->wakes % 3 == 0)
            weir_wake_remote(waker); /* may well be stale by the time it is read */
    }
    pthread_mutex_unlock(&me->lock);
    return NULL;
}

static void hand_over(struct pen_friend *friend, bool over)
{
    pthread_mutex_lock(&friend->lock);
    friend->waker = weir_waker_new();
    friend->waiting = !over;
    friend->over = over;
    pthread_cond_signal(&friend->changed);
    pthread_mutex_unlock(&friend->lock);
}

static int wakes_of(struct pen_friend *friend)
{
    pthread_mutex_lock(&friend->lock);
    int wakes = friend->wakes;
    pthread_mutex_unlock(&friend->lock);
    return wakes;
}

static weir_status write_letters(void *arg)
{
    struct pen_friend *friend = arg;

    for (int i = 1; i <= LETTERS; i++) {
        hand_over(friend, false);
        if (i % 5 == 0)
            weir_yield(); /* the answer may come first */
        HOLDS_EQ(weir_park(WEIR_FOREVER, "a letter"), WEIR_OK);
        HOLDS_EQ(wakes_of(friend), i); /* an answer to this one, not to an earlier one */
    }
    hand_over(friend, true);
    return WEIR_OK;
}

static weir_status have_friends(void *arg)
{
    struct pen_friend *friends = arg;

    for (int i = 0; i < FRIENDS; i++)
        weir_spawn(NULL, write_letters, &friends[i]);
    return WEIR_OK;
}

static void correspond(weir_status (*run)(weir_fn app, void *arg))
{
    struct pen_friend friends[FRIENDS] = { 0 };

    for (int i = 0; i < FRIENDS; i++) {
        pthread_mutex_init(&friends[i].lock, NULL);
        pthread_cond_init(&friends[i].changed, NULL);
        assert_int_equal(pthread_create(&friends[i].thread, NULL, answer_letters, &friends[i]), 0);
    }
    assert_int_equal(run(have_friends, friends), WEIR_OK);
    for (int i = 0; i < FRIENDS; i++) {
        pthread_join(friends[i].thread, NULL);
        assert_int_equal(friends[i].wakes, LETTERS);
        pthread_mutex_destroy(&friends[i].lock);
        pthread_cond_destroy(&friends[i].changed);
    }
    assert_notes();
}

static void other_threads_can_wake(void **state)
{
    (void)state;
    correspond(world_run);
    correspond(weir_run);
}

static weir_status wake_as_from_afar(void *arg)
{
    (void)arg;
    weir_waker first = weir_waker_new();
    weir_wake_remote(first);
    weir_waker second = weir_waker_new();
    weir_wake_remote(second);
    weir_wake_remote(first); /* all in one turn: the latest ticket counts, in whatever order */
    HOLDS_EQ(weir_park(weir_in_ms(5), "the second"), WEIR_OK);

    weir_wake_remote(second);
    HOLDS_EQ(weir_park(weir_in_ms(5), "nothing"), WEIR_TIMEOUT);
    weir_wake_remote((weir_waker){ 0 }); /* a ticket taken outside of a coroutine */
    return WEIR_OK;
}

static void of_several_wakes_from_afar_the_latest_ticket_counts(void **state)
{
    (void)state;
    run_world(wake_as_from_afar, NULL);
    run_real(wake_as_from_afar, NULL);
}

/* ---- who runs when ------------------------------------------------------------------ */

static char order[64];

static weir_status say_thrice(void *arg)
{
    for (int i = 0; i < 3; i++) {
        strcat(order, arg);
        HOLDS_EQ(weir_yield(), WEIR_OK);
    }
    return WEIR_OK;
}

static weir_status start_three(void *arg)
{
    static char a[] = "a", b[] = "b", c[] = "c";

    (void)arg;
    order[0] = '\0';
    weir_spawn(NULL, say_thrice, a);
    weir_spawn(NULL, say_thrice, b);
    weir_spawn(NULL, say_thrice, c);
    return WEIR_OK;
}

static void who_gives_way_goes_to_the_back(void **state)
{
    (void)state;
    run_world(start_three, NULL);
    assert_string_equal(order, "abcabcabc");
}

struct nap {
    int64_t  until_ns;
    int64_t  woke_ns;
    unsigned turn;
};

static unsigned turns;

static weir_status nap(void *arg)
{
    struct nap *me = arg;

    HOLDS_EQ(weir_sleep(weir_deadline_at(me->until_ns)), WEIR_OK);
    me->woke_ns = weir_now();
    me->turn = turns++;
    return WEIR_OK;
}

static weir_status start_naps(void *arg)
{
    struct nap *naps = arg;

    turns = 0;
    for (int i = 0; i < 1000; i++) {
        naps[i].until_ns = weir_now() + 1 + chance(400) * 12345;
        weir_spawn(NULL, nap, &naps[i]);
    }
    return WEIR_OK;
}

static void a_sleep_ends_at_its_time_to_the_nanosecond(void **state)
{
    struct nap *naps = calloc(1000, sizeof *naps);

    (void)state;
    seed = 7;
    run_world(start_naps, naps);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(naps[i].woke_ns, naps[i].until_ns);
        for (int j = 0; j < i; j++) /* the earlier first; at the same time, who slept first */
            assert_int_equal(naps[j].turn < naps[i].turn, naps[j].until_ns <= naps[i].until_ns);
    }
    free(naps);
}

static weir_status wake_after(void *arg)
{
    struct sleeper *him = arg;

    sleep_ms(him->woke_ms);
    weir_wake(him->waker);
    return WEIR_OK;
}

/* The alarm of a wait that was satisfied stays behind; it must never be taken for the next's. */
static weir_status wait_again_and_again(void *arg)
{
    for (int i = 0; i < 2000; i++) {
        int64_t        now = world_now_ms(), patience = 1 + chance(100), wake = 1 + chance(100);
        struct sleeper me = { .waker = weir_waker_new(), .woke_ms = wake };

        (void)arg;
        weir_task *task = weir_spawn(NULL, wake_after, &me);
        weir_status status = weir_park(weir_in_ms(patience), "one of us two");
        if (wake < patience)
            HOLDS(status == WEIR_OK && world_now_ms() == now + wake);
        else if (patience < wake)
            HOLDS(status == WEIR_TIMEOUT && world_now_ms() == now + patience);
        if (status != WEIR_OK) /* `me` is his until he has ended */
            HOLDS_EQ(weir_join(task, WEIR_FOREVER, NULL), WEIR_OK);
    }
    return WEIR_OK;
}

static void a_deadline_is_exact_whatever_was_waited_for_before(void **state)
{
    (void)state;
    seed = 11;
    run_world(wait_again_and_again, NULL);
}

/* ---- deadlines ---------------------------------------------------------------------- */

static weir_status nest_deadlines(void *arg)
{
    (void)arg;
    {
        WEIR_DEADLINE(weir_in_ms(100));
        {
            WEIR_DEADLINE(weir_in_ms(300)); /* cannot lengthen the outer one */
            HOLDS_EQ(sleep_ms(50), WEIR_OK);
            HOLDS_EQ(sleep_ms(200), WEIR_TIMEOUT);
            HOLDS_EQ(world_now_ms(), 100);
        }
        HOLDS_EQ(weir_check(), WEIR_TIMEOUT);
        HOLDS_EQ(weir_yield(), WEIR_TIMEOUT);
        HOLDS_EQ(weir_pending(WEIR_FOREVER), WEIR_TIMEOUT);
    }
    HOLDS_EQ(weir_check(), WEIR_OK);
    {
        WEIR_DEADLINE(weir_in_ms(300));
        {
            WEIR_DEADLINE(weir_in_ms(100));
            HOLDS_EQ(weir_sleep(WEIR_SCOPE), WEIR_TIMEOUT);
            HOLDS_EQ(world_now_ms(), 200);
        }
        HOLDS_EQ(weir_check(), WEIR_OK); /* the inner one is gone with its braces */
        HOLDS_EQ(weir_park(weir_in_ms(50), "the argument's, which is earlier"), WEIR_TIMEOUT);
        HOLDS_EQ(world_now_ms(), 250);
        HOLDS_EQ(weir_park(WEIR_SCOPE, "the scope's"), WEIR_TIMEOUT);
        HOLDS_EQ(world_now_ms(), 400);
    }
    HOLDS_EQ(sleep_ms(1000), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 1400);
    return WEIR_OK;
}

static void deadlines_nest_and_the_earliest_wins(void **state)
{
    (void)state;
    run_world(nest_deadlines, NULL);
}

static weir_status do_not_wait(void *arg)
{
    int64_t before = world_now_ns();

    (void)arg;
    HOLDS_EQ(weir_park(WEIR_NOW, "nothing"), WEIR_TIMEOUT);
    HOLDS_EQ(weir_pending(WEIR_NOW), WEIR_TIMEOUT);
    HOLDS_EQ(weir_pending(WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(weir_sleep(WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_sleep(weir_in_ms(-5)), WEIR_OK);
    {
        WEIR_DEADLINE(WEIR_NOW);
        HOLDS_EQ(weir_check(), WEIR_TIMEOUT);
        HOLDS_EQ(sleep_ms(5), WEIR_TIMEOUT);
        HOLDS_EQ(weir_park(WEIR_FOREVER, "nothing"), WEIR_TIMEOUT);
        weir_wake(weir_waker_new());
        HOLDS_EQ(weir_park(WEIR_FOREVER, "what is here already"), WEIR_OK);
    }
    HOLDS_EQ(world_now_ns(), before);
    HOLDS(weir_in_ms(INT64_MAX).at_ns == WEIR_FOREVER.at_ns);
    return WEIR_OK;
}

static void a_deadline_of_now_does_not_wait(void **state)
{
    (void)state;
    run_world(do_not_wait, NULL);
}

/* ---- cancelling, and being shielded from it ----------------------------------------- */

static weir_status wait_in_every_way(void *arg)
{
    bool *cancelled = arg;

    HOLDS_EQ(weir_sleep(WEIR_FOREVER), WEIR_CANCELED);
    int64_t then = world_now_ns();
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(weir_sleep(WEIR_FOREVER), WEIR_CANCELED);
        HOLDS_EQ(weir_yield(), WEIR_CANCELED);
        HOLDS_EQ(weir_park(WEIR_FOREVER, "nothing"), WEIR_CANCELED);
        HOLDS_EQ(weir_wait_fd(0, WEIR_READ, WEIR_FOREVER, NULL), WEIR_CANCELED);
        HOLDS_EQ(weir_pending(WEIR_FOREVER), WEIR_CANCELED);
        HOLDS_EQ(weir_check(), WEIR_CANCELED);
        WEIR_DEADLINE(WEIR_NOW);
        HOLDS_EQ(weir_check(), WEIR_CANCELED); /* it is told before a deadline is */
    }
    HOLDS_EQ(world_now_ns(), then);
    *cancelled = true;
    return WEIR_CANCELED;
}

static weir_status cancel_somebody(void *arg)
{
    bool        cancelled = false;
    weir_group *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *task = weir_spawn(group, wait_in_every_way, &cancelled);
    world_advance_ms(10);
    weir_cancel(task);
    weir_cancel(task);
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS(cancelled);
    HOLDS_EQ(world_now_ms(), 10);
    weir_cancel(task); /* one that has ended */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_cancel_is_seen_by_every_later_wait(void **state)
{
    (void)state;
    run_world(cancel_somebody, NULL);
}

static weir_status note_check(void *arg)
{
    *(weir_status *)arg = weir_check();
    return WEIR_OK;
}

static weir_status cancel_before_the_start(void *arg)
{
    weir_status saw = WEIR_OK;

    (void)arg;
    weir_cancel(weir_spawn(NULL, note_check, &saw));
    world_settle();
    HOLDS_EQ(saw, WEIR_CANCELED);

    saw = WEIR_FAILED;
    weir_spawn(NULL, note_check, &saw); /* the record is used again, the cancel is not */
    world_settle();
    HOLDS_EQ(saw, WEIR_OK);
    return WEIR_OK;
}

static void one_cancelled_before_it_began_still_runs(void **state)
{
    (void)state;
    run_world(cancel_before_the_start, NULL);
}

static weir_status finish_what_must_be(void *arg)
{
    bool *finished = arg;

    WEIR_DEADLINE(weir_in_ms(20));
    HOLDS_EQ(sleep_ms(5), WEIR_OK);
    {
        WEIR_SHIELD(weir_in_ms(100));
        HOLDS_EQ(sleep_ms(50), WEIR_OK); /* past the outer deadline, and cancelled at 10 */
        HOLDS_EQ(world_now_ms(), 55);
        HOLDS_EQ(weir_check(), WEIR_OK);
        HOLDS_EQ(weir_yield(), WEIR_OK);
        {
            WEIR_DEADLINE(weir_in_ms(10)); /* scopes inside count */
            HOLDS_EQ(sleep_ms(20), WEIR_TIMEOUT);
            HOLDS_EQ(world_now_ms(), 65);
            {
                WEIR_SHIELD(weir_in_ms(15)); /* and can be shielded from, too */
                HOLDS_EQ(sleep_ms(12), WEIR_OK);
                HOLDS_EQ(world_now_ms(), 77);
            }
            HOLDS_EQ(weir_check(), WEIR_TIMEOUT);
        }
        HOLDS_EQ(weir_sleep(WEIR_FOREVER), WEIR_TIMEOUT); /* the shield's own */
        HOLDS_EQ(world_now_ms(), 105);
        HOLDS_EQ(weir_check(), WEIR_TIMEOUT);
    }
    HOLDS_EQ(weir_check(), WEIR_CANCELED);
    HOLDS_EQ(sleep_ms(1), WEIR_CANCELED);
    *finished = true;
    return WEIR_OK;
}

static weir_status cancel_the_shielded(void *arg)
{
    bool       finished = false;
    weir_task *task = weir_spawn(NULL, finish_what_must_be, &finished);

    (void)arg;
    sleep_ms(10);
    weir_cancel(task);
    sleep_ms(200);
    HOLDS(finished);
    return WEIR_OK;
}

static void a_shield_holds_off_the_cancel_and_outer_deadlines_but_not_its_own(void **state)
{
    (void)state;
    run_world(cancel_the_shielded, NULL);
}

/* ---- giving way --------------------------------------------------------------------- */

struct rivals {
    long greedy;  /* rounds of the one whose waits are satisfied at once */
    long modest;  /* turns that the other one had meanwhile */
    bool over;
    void (*wait)(void);
};

static void be_served_at_once(void)
{
    weir_wake(weir_waker_new());
    HOLDS_EQ(weir_park(WEIR_FOREVER, "what is here"), WEIR_OK);
    weir_spend(WEIR_IO_UNITS);
}

static void be_late_at_once(void)
{
    HOLDS_EQ(weir_park(WEIR_NOW, "nothing"), WEIR_TIMEOUT);
}

static void look_at_a_descriptor(void)
{
    (void)weir_wait_fd(-1, WEIR_READ, WEIR_NOW, NULL);
    (void)weir_wait_fd(STDERR_FILENO, WEIR_WRITE, WEIR_NOW, NULL);
}

static weir_status be_greedy(void *arg)
{
    struct rivals *rivals = arg;

    for (rivals->greedy = 0; rivals->greedy < 64 * 100; rivals->greedy++)
        rivals->wait();
    rivals->over = true;
    return WEIR_OK;
}

static weir_status be_modest(void *arg)
{
    struct rivals *rivals = arg;

    for (; !rivals->over; rivals->modest++)
        weir_yield();
    return WEIR_OK;
}

static weir_status compete(void *arg)
{
    static void (*const ways[])(void) = { be_served_at_once, be_late_at_once,
                                          look_at_a_descriptor };

    (void)arg;
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct rivals rivals = { .wait = ways[i] };
        weir_group   *group = NULL;
        HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
        weir_spawn(group, be_greedy, &rivals);
        weir_spawn(group, be_modest, &rivals);
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
        HOLDS(rivals.modest >= 90); /* once for every 64 of the other's, at least */
        weir_group_free(group);
    }
    return WEIR_OK;
}

static void who_never_has_to_wait_gives_way_all_the_same(void **state)
{
    (void)state;
    run_world(compete, NULL);
}

static bool stop_spinning;

static weir_status spin(void *arg)
{
    (void)arg;
    while (!stop_spinning)
        weir_yield();
    return WEIR_OK;
}

static weir_status sleep_beside_spinners(void *arg)
{
    int64_t before = real_ms();

    (void)arg;
    stop_spinning = false;
    for (int i = 0; i < 3; i++)
        weir_spawn(NULL, spin, NULL);
    HOLDS_EQ(sleep_ms(20), WEIR_OK);
    int64_t took = real_ms() - before;
    HOLDS(took >= 20 && took < 1000);
    stop_spinning = true;
    return WEIR_OK;
}

static void those_who_always_can_run_do_not_stop_the_clock(void **state)
{
    (void)state;
    run_real(sleep_beside_spinners, NULL);
}

static weir_status compute_for_long(void *arg)
{
    int64_t turn = weir_now(), until = real_ms() + 5;

    (void)arg;
    while (real_ms() < until)
        continue;
    HOLDS_EQ(weir_now(), turn);                       /* the turn's clock stands still */
    HOLDS(weir_in_ms(0).at_ns - turn >= 4 * 1000000); /* a deadline is counted from now */
    {
        WEIR_DEADLINE(weir_deadline_at(turn + 1000000));
        HOLDS_EQ(weir_check(), WEIR_TIMEOUT);
    }
    return WEIR_OK;
}

static void a_deadline_counts_from_now_also_after_long_work(void **state)
{
    (void)state;
    run_real(compute_for_long, NULL);
}

/* ---- alarms ------------------------------------------------------------------------- */

enum { ALARMS = 300, OPERATIONS = 10000 };

/* What the heap should be, kept simply: when each rings, and the number of its setting. */
struct clockwork {
    weir_alarm alarm;
    int64_t    at_ns; /* 0: not set */
    int        order;
};

static struct clockwork works[ALARMS];
static int              settings, rung;

static int earliest(int64_t until_ns)
{
    int best = -1;

    for (int i = 0; i < ALARMS; i++) {
        if (!works[i].at_ns || works[i].at_ns > until_ns)
            continue;
        if (best < 0 || works[i].at_ns < works[best].at_ns ||
            (works[i].at_ns == works[best].at_ns && works[i].order < works[best].order))
            best = i;
    }
    return best;
}

static void ring(weir_alarm *alarm)
{
    int expected = earliest(weir_now());

    rung++;
    HOLDS(expected >= 0 && alarm == &works[expected].alarm);
    HOLDS_EQ(alarm->at_ns, weir_now()); /* neither early nor late */
    HOLDS_EQ(alarm->slot, 0);
    if (expected >= 0)
        works[expected].at_ns = 0;
}

static weir_status wind_up(void *arg)
{
    (void)arg;
    memset(works, 0, sizeof works);
    settings = rung = 0;
    HOLDS_EQ(weir_alarm_reserve(ALARMS), WEIR_OK);
    for (int i = 0; i < OPERATIONS; i++) {
        struct clockwork *work = &works[chance(ALARMS)];
        if (chance(4)) { /* a coarse grid: many ring at the same time */
            work->at_ns = weir_now() + 1000000 * (1 + chance(50));
            work->order = settings++;
            weir_alarm_set(&work->alarm, work->at_ns, ring);
        } else {
            work->at_ns = 0;
            weir_alarm_stop(&work->alarm);
        }
        HOLDS_EQ(work->alarm.slot != 0, work->at_ns != 0);
        if (!chance(20)) {
            HOLDS_EQ(sleep_ms(chance(12)), WEIR_OK);
            HOLDS(earliest(weir_now() - 1) < 0); /* none was left out */
        }
    }
    sleep_ms(100);
    HOLDS(earliest(INT64_MAX) < 0);
    HOLDS(rung > OPERATIONS / 10);
    HOLDS_EQ(weir_alarm_reserve(-ALARMS), WEIR_OK);
    return WEIR_OK;
}

static void alarms_ring_in_order_however_they_are_set_stopped_and_moved(void **state)
{
    (void)state;
    for (seed = 1; seed <= 3; seed++) {
        uint64_t again = seed;
        run_world(wind_up, NULL);
        seed = again;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_parked_coroutine_sleeps_until_it_is_woken),
        TEST(an_early_wake_is_kept_and_a_stale_one_does_nothing),
        TEST(a_wake_while_its_owner_gives_way_is_not_lost),
        TEST(a_ticket_of_one_who_has_ended_wakes_nobody_else),
        TEST(a_wake_in_the_turn_of_the_deadline_wins),
        TEST(a_wake_in_the_turn_of_a_cancel_wins_and_the_cancel_stays),
        TEST(a_cancel_in_the_turn_of_the_deadline_comes_after_it),
        TEST(other_threads_can_wake),
        TEST(of_several_wakes_from_afar_the_latest_ticket_counts),
        TEST(who_gives_way_goes_to_the_back),
        TEST(a_sleep_ends_at_its_time_to_the_nanosecond),
        TEST(a_deadline_is_exact_whatever_was_waited_for_before),
        TEST(deadlines_nest_and_the_earliest_wins),
        TEST(a_deadline_of_now_does_not_wait),
        TEST(a_cancel_is_seen_by_every_later_wait),
        TEST(one_cancelled_before_it_began_still_runs),
        TEST(a_shield_holds_off_the_cancel_and_outer_deadlines_but_not_its_own),
        TEST(who_never_has_to_wait_gives_way_all_the_same),
        TEST(those_who_always_can_run_do_not_stop_the_clock),
        TEST(a_deadline_counts_from_now_also_after_long_work),
        TEST(alarms_ring_in_order_however_they_are_set_stopped_and_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
