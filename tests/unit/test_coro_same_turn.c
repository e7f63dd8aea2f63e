/*
 * test_coro_same_turn.c - each wait there is, when what it waits for, a cancel and its deadline
 * fall into the same turn.
 *
 * One table of waits, one of coincidences, and each is played with each. Whatever is told must be
 * true: who hears WEIR_OK has what he waited for, who does not has left it for others, and a
 * cancel that was overtaken is seen by the next wait.
 *
 * Some things are given by whoever gives them, in one step; others come of a coroutine's end, so
 * that somebody who is ready already runs first.
 */
#include "coro_unit.h"

#include "group.h"
#include "hub.h"

#include <weir/sync.h>

enum { FD = 77 };

/* Everything that is waited for in one play, and who waits. */
struct play {
    weir_deadline      deadline;
    weir_event         event, gate;
    weir_remote_event  remote;
    weir_future        future;
    weir_sem           sem;
    weir_mutex         mutex;
    weir_cond          cond;
    weir_chan         *chan;
    weir_group        *group;
    weir_task         *member;
    weir_waker         waker;
    bool               late; /* the waiter begins to wait after the giver set his alarm */
    const struct wait *wait;

    weir_task  *waiter;
    weir_status told, after;
    int         element; /* what a receiver got */
};

struct wait {
    const char *name;
    weir_status (*wait)(struct play *play);
    void        (*give)(struct play *play);
    bool        (*was_taken)(struct play *play); /* NULL: there is nothing to take away */
    bool        by_an_end; /* what is waited for is a coroutine's end */
};

/* ---- the waits ---------------------------------------------------------------------- */

static weir_status on_event(struct play *p)
{
    return weir_event_wait(&p->event, p->deadline);
}

static void set_event(struct play *p)
{
    weir_event_set(&p->event);
}

static weir_status on_remote(struct play *p)
{
    return weir_remote_event_wait(&p->remote, p->deadline);
}

static weir_status on_future(struct play *p)
{
    void       *value = NULL;
    weir_status status = weir_future_get(&p->future, p->deadline, &value, NULL);

    HOLDS((value == p) == (status == WEIR_OK));
    return status;
}

static void set_future(struct play *p)
{
    HOLDS(weir_future_set(&p->future, p));
}

static weir_status on_sem(struct play *p)
{
    return weir_sem_take(&p->sem, p->deadline);
}

static void give_sem(struct play *p)
{
    weir_sem_give(&p->sem);
}

static bool sem_taken(struct play *p)
{
    return !weir_sem_try(&p->sem);
}

static weir_status on_mutex(struct play *p)
{
    weir_status status = weir_mutex_lock(&p->mutex, p->deadline);

    HOLDS((weir_mutex_owner(&p->mutex) == weir_self()) == (status == WEIR_OK));
    return status == WEIR_OK ? weir_mutex_unlock(&p->mutex) : status;
}

static void unlock_mutex(struct play *p)
{
    HOLDS_EQ(weir_mutex_unlock(&p->mutex), WEIR_OK);
}

static weir_status on_cond(struct play *p)
{
    HOLDS_EQ(weir_mutex_lock(&p->mutex, WEIR_FOREVER), WEIR_OK);
    weir_status status = weir_cond_wait(&p->cond, &p->mutex, p->deadline);
    HOLDS(weir_mutex_owner(&p->mutex) == weir_self()); /* whatever it returns */
    HOLDS_EQ(weir_mutex_unlock(&p->mutex), WEIR_OK);
    return status;
}

static void signal_cond(struct play *p)
{
    weir_cond_signal(&p->cond);
}

static weir_status on_recv(struct play *p)
{
    return weir_chan_recv(p->chan, &p->element, p->deadline);
}

static void send_one(struct play *p)
{
    HOLDS_EQ(weir_chan_try_send(p->chan, &(int){ 42 }), WEIR_OK);
}

static bool was_received(struct play *p)
{
    HOLDS(p->element == 0 || p->element == 42);
    return weir_chan_count(p->chan) == 0 && p->element == 42;
}

/* The channel is full of a 1: who sends a 42 waits until that is received. */
static weir_status on_send(struct play *p)
{
    return weir_chan_send(p->chan, &(int){ 42 }, p->deadline);
}

static void receive_one(struct play *p)
{
    int first = 0;

    HOLDS_EQ(weir_chan_try_recv(p->chan, &first), WEIR_OK);
    HOLDS_EQ(first, 1);
}

static bool was_sent(struct play *p)
{
    int second = 0;

    return weir_chan_try_recv(p->chan, &second) == WEIR_OK && second == 42;
}

static weir_status on_drain(struct play *p)
{
    return weir_chan_drain(p->chan, p->deadline);
}

static void end_member(struct play *p)
{
    weir_event_set(&p->gate);
    weir_yield(); /* he ends; whoever that wakes comes after us */
}

static weir_status on_group(struct play *p)
{
    return weir_group_wait(p->group, p->deadline);
}

static weir_status on_next(struct play *p)
{
    weir_member member;
    weir_status status = weir_group_next(p->group, p->deadline, &member);

    HOLDS(member.done == (status == WEIR_OK));
    return status;
}

static bool was_told(struct play *p)
{
    weir_member member;

    return weir_group_next(p->group, WEIR_FOREVER, &member) == WEIR_CLOSED;
}

static weir_status on_join(struct play *p)
{
    return weir_join(p->member, p->deadline, NULL);
}

static weir_status come_and_go(void *arg)
{
    ++*(int *)arg;
    return WEIR_OK;
}

static weir_status on_place(struct play *p)
{
    WEIR_DEADLINE(p->deadline);
    return weir_spawn(p->group, come_and_go, &p->element) ? WEIR_OK : p->group->first;
}

static bool has_spawned(struct play *p)
{
    HOLDS_EQ(weir_group_running(p->group), p->element == 0 && p->told == WEIR_OK ? 1 : 0);
    return p->told == WEIR_OK;
}

static weir_status on_fd(struct play *p)
{
    return weir_wait_fd(FD, WEIR_READ, p->deadline, NULL);
}

static void ready_fd(struct play *p)
{
    (void)p;
    hub_fd_ready(weir_hub_here(), FD, WEIR_READ);
}

static weir_status on_park(struct play *p)
{
    p->waker = weir_waker_new();
    return weir_park(p->deadline, "a test");
}

static void wake(struct play *p)
{
    weir_wake(p->waker);
}

static weir_status on_sleep(struct play *p)
{
    return weir_sleep(p->deadline);
}

static void set_remote(struct play *p)
{
    weir_remote_event_set(&p->remote);
}

static const struct wait waits[] = {
    { "an event", on_event, set_event, NULL, false },
    { "a future", on_future, set_future, NULL, false },
    { "a semaphore", on_sem, give_sem, sem_taken, false },
    { "a mutex", on_mutex, unlock_mutex, NULL, false },
    { "a condition", on_cond, signal_cond, NULL, false },
    { "an element of a channel", on_recv, send_one, was_received, false },
    { "room in a channel", on_send, receive_one, was_sent, false },
    { "a channel to be drained", on_drain, receive_one, NULL, false },
    { "a descriptor", on_fd, ready_fd, NULL, false },
    { "a wake", on_park, wake, NULL, false },
    { "a group", on_group, end_member, NULL, true },
    { "the next of a group", on_next, end_member, was_told, true },
    { "a place in a full group", on_place, end_member, has_spawned, true },
    { "a task", on_join, end_member, NULL, true },
};

/* ---- a play --------------------------------------------------------------------------- */

static weir_status wait_and_say(void *arg)
{
    struct play *play = arg;

    if (play->late)
        weir_yield();
    play->told = play->wait->wait(play);
    play->after = weir_check();
    return WEIR_OK;
}

static weir_status stay_until_the_gate_opens(void *arg)
{
    struct play *play = arg;
    return weir_event_wait(&play->gate, WEIR_FOREVER);
}

static void set_up(struct play *play, const struct wait *wait)
{
    weir_group_opts full = { .max_running = 1 };

    *play = (struct play){ .wait = wait, .deadline = weir_in_ms(10) };
    HOLDS_EQ(weir_chan_new(sizeof(int), 1, &play->chan, NULL), WEIR_OK);
    HOLDS_EQ(weir_group_new(&full, &play->group, NULL), WEIR_OK);
    play->member = weir_spawn(play->group, stay_until_the_gate_opens, play);
    if (wait->give == receive_one)
        HOLDS_EQ(weir_chan_try_send(play->chan, &(int){ 1 }), WEIR_OK);
    if (wait->give == unlock_mutex)
        HOLDS_EQ(weir_mutex_lock(&play->mutex, WEIR_FOREVER), WEIR_OK);
}

static void tear_down(struct play *play)
{
    weir_event_set(&play->gate);
    HOLDS_EQ(weir_mutex_owner(&play->mutex) == NULL, true);
    (void)weir_group_wait(play->group, WEIR_FOREVER);
    weir_group_free(play->group);
    weir_chan_free(play->chan);
    weir_future_finish(&play->future);
    weir_event_finish(&play->event);
    weir_event_finish(&play->gate);
    weir_fd_forget(FD);
}

/* What a coincidence makes of a wait; in a coroutine of its own, which gives and cancels. */
enum coincidence {
    GIVEN_THEN_CANCELED,
    CANCELED_THEN_GIVEN,
    GIVEN_AT_THE_DEADLINE,        /* by one whose alarm rings before the waiter's */
    GIVEN_JUST_AFTER_THE_DEADLINE, /* ... after it */
    CANCELED_AT_THE_DEADLINE,
    CANCELED_JUST_AFTER_THE_DEADLINE,
    COINCIDENCES
};

/* The giver's alarm is set before the waiter's, or after it. */
static void meet_at_the_deadline(struct play *play, bool first)
{
    if (!first)
        weir_yield();
    HOLDS_EQ(weir_sleep(play->deadline), WEIR_OK);
}

static void coincide(struct play *play, enum coincidence what)
{
    if (what >= GIVEN_AT_THE_DEADLINE)
        meet_at_the_deadline(play, play->late);
    else
        world_settle();
    if (what == CANCELED_THEN_GIVEN || what >= CANCELED_AT_THE_DEADLINE)
        weir_cancel(play->waiter);
    if (what < CANCELED_AT_THE_DEADLINE)
        play->wait->give(play);
    if (what == GIVEN_THEN_CANCELED)
        weir_cancel(play->waiter);
}

static weir_status expected(const struct wait *wait, enum coincidence what)
{
    switch (what) {
    case GIVEN_THEN_CANCELED:
        return WEIR_OK;
    case CANCELED_THEN_GIVEN:
        return wait->by_an_end ? WEIR_CANCELED : WEIR_OK;
    case GIVEN_AT_THE_DEADLINE:
        return wait->by_an_end ? WEIR_TIMEOUT : WEIR_OK;
    default:
        return WEIR_TIMEOUT; /* a cancel comes too late to be told */
    }
}

static void play_one(const struct wait *wait, enum coincidence what)
{
    struct play play;
    bool        canceled = what != GIVEN_AT_THE_DEADLINE && what != GIVEN_JUST_AFTER_THE_DEADLINE &&
                    what != CANCELED_JUST_AFTER_THE_DEADLINE; /* he has run by then */
    weir_group *group = NULL;
    unsigned    broken = unit_notes.broken;

    set_up(&play, wait);
    play.late = what == GIVEN_AT_THE_DEADLINE || what == CANCELED_AT_THE_DEADLINE;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    play.waiter = weir_spawn(group, wait_and_say, &play);
    coincide(&play, what);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);

    HOLDS_EQ(play.told, expected(wait, what));
    HOLDS_EQ(play.after, canceled ? WEIR_CANCELED : WEIR_OK);
    if (wait->was_taken && what < CANCELED_AT_THE_DEADLINE)
        HOLDS_EQ(wait->was_taken(&play), play.told == WEIR_OK);
    if (wait->give == unlock_mutex && what >= CANCELED_AT_THE_DEADLINE)
        unlock_mutex(&play);
    tear_down(&play);
    if (unit_notes.broken != broken)
        print_error("%s, coincidence %d: told %s, then %s\n", wait->name, what,
                    weir_status_name(play.told), weir_status_name(play.after));
}

static weir_status play_all(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++)
        for (int what = 0; what < COINCIDENCES; what++)
            play_one(&waits[i], (enum coincidence)what);
    return WEIR_OK;
}

static void every_wait_tells_the_truth_whatever_falls_into_its_turn(void **state)
{
    (void)state;
    run_world(play_all, NULL);
}

/* ---- those that are different --------------------------------------------------------- */

/* Its deadline is what it waits for. */
static weir_status play_sleeps(void *arg)
{
    static const struct wait sleep = { "a time", on_sleep, NULL, NULL, false };

    (void)arg;
    for (int late = 0; late < 2; late++) {
        struct play play;
        set_up(&play, &sleep);
        play.late = late;
        play.waiter = weir_spawn(NULL, wait_and_say, &play);
        meet_at_the_deadline(&play, late);
        weir_cancel(play.waiter);
        world_settle();
        HOLDS_EQ(play.told, WEIR_OK);
        HOLDS_EQ(play.after, late ? WEIR_CANCELED : WEIR_OK); /* else he has run by then */
        tear_down(&play);
    }
    return WEIR_OK;
}

static void a_sleep_that_is_over_is_over_though_it_is_cancelled_then(void **state)
{
    (void)state;
    run_world(play_sleeps, NULL);
}

/* A wake from afar is taken in when the next turn begins: a cancel of this one comes first. */
static weir_status play_remote(void *arg)
{
    static const struct wait remote = { "a remote event", on_remote, set_remote, NULL, false };

    (void)arg;
    for (int cancel_first = 0; cancel_first < 2; cancel_first++) {
        struct play play;
        set_up(&play, &remote);
        play.waiter = weir_spawn(NULL, wait_and_say, &play);
        world_settle();
        if (cancel_first)
            weir_cancel(play.waiter);
        weir_remote_event_set(&play.remote);
        if (!cancel_first)
            weir_cancel(play.waiter);
        world_settle();
        HOLDS(play.told == WEIR_OK || play.told == WEIR_CANCELED);
        HOLDS_EQ(play.after, WEIR_CANCELED);
        HOLDS(weir_remote_event_is_set(&play.remote)); /* for others, either way */
        tear_down(&play);

        set_up(&play, &remote);
        play.waiter = weir_spawn(NULL, wait_and_say, &play);
        meet_at_the_deadline(&play, cancel_first);
        weir_remote_event_set(&play.remote);
        world_settle();
        HOLDS(play.told == WEIR_OK || play.told == WEIR_TIMEOUT);
        HOLDS_EQ(play.after, WEIR_OK);
        HOLDS(weir_remote_event_is_set(&play.remote));
        tear_down(&play);
    }
    return WEIR_OK;
}

static void an_event_set_from_afar_is_not_lost_on_one_who_is_cancelled_or_late(void **state)
{
    (void)state;
    run_world(play_remote, NULL);
}

static void work(void *arg)
{
    atomic_store((atomic_bool *)arg, true);
}

static weir_status offload_it(void *arg)
{
    struct play *play = arg;
    atomic_bool  worked = false;

    play->told = weir_offload(work, &worked, play->deadline);
    HOLDS_EQ(atomic_load(&worked), play->told == WEIR_OK);
    play->after = weir_check();
    return WEIR_OK;
}

/* The result is in the hub's list of wakes already when the cancel comes: it has been done. */
static weir_status play_offload(void *arg)
{
    struct play play = { .deadline = WEIR_FOREVER };
    int64_t     give_up = real_ms() + 10000;

    (void)arg;
    weir_task *task = weir_spawn(NULL, offload_it, &play);
    weir_yield(); /* it is under way */
    while (!atomic_load(&weir_hub_here()->remote_pending) && real_ms() < give_up)
        continue; /* on purpose: nobody runs, so all this is one turn */
    weir_cancel(task);
    world_settle();
    HOLDS_EQ(play.told, WEIR_OK);
    HOLDS_EQ(play.after, WEIR_CANCELED);
    return WEIR_OK;
}

static void what_a_thread_has_done_is_told_though_it_is_cancelled_then(void **state)
{
    (void)state;
    run_world(play_offload, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_wait_tells_the_truth_whatever_falls_into_its_turn),
        TEST(a_sleep_that_is_over_is_over_though_it_is_cancelled_then),
        TEST(an_event_set_from_afar_is_not_lost_on_one_who_is_cancelled_or_late),
        TEST(what_a_thread_has_done_is_told_though_it_is_cancelled_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
