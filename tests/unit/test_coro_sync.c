/*
 * test_coro_sync.c - events, futures, semaphores, mutexes, conditions: on a clock that jumps.
 */
#include "everywhere.h"

#include <weir/sync.h>

/* ---- who came in which order -------------------------------------------------------- */

/* Somebody who waits for a thing, once, and says what became of it. */
struct client {
    void       *thing;
    weir_status (*wait)(void *thing, weir_deadline deadline);
    int64_t     patience_ms; /* 0: none */
    weir_task  *task;
    bool        done;
    weir_status status, next;
    unsigned    turn;
    int64_t     at_ms;
};

static unsigned turns;

static weir_status be_served(void *arg)
{
    struct client *me = arg;

    me->status = me->wait(me->thing, me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_FOREVER);
    me->turn = ++turns;
    me->at_ms = world_now_ms();
    me->next = weir_sleep(weir_in_ms(1));
    me->done = true;
    return WEIR_OK;
}

static void come(struct client *client)
{
    client->task = weir_spawn(NULL, be_served, client);
    HOLDS(client->task != NULL);
}

static weir_status wait_event(void *thing, weir_deadline deadline)
{
    return weir_event_wait(thing, deadline);
}

static weir_status wait_remote(void *thing, weir_deadline deadline)
{
    return weir_remote_event_wait(thing, deadline);
}

static weir_status wait_future(void *thing, weir_deadline deadline)
{
    return weir_future_get(thing, deadline, NULL, NULL);
}

static weir_status wait_sem(void *thing, weir_deadline deadline)
{
    return weir_sem_take(thing, deadline);
}

/* Unlocks too, so that the next one is served. */
static weir_status wait_mutex(void *thing, weir_deadline deadline)
{
    weir_status status = weir_mutex_lock(thing, deadline);

    if (status == WEIR_OK)
        HOLDS_EQ(weir_mutex_unlock(thing), WEIR_OK);
    return status;
}

struct guarded {
    weir_mutex mutex;
    weir_cond  cond;
};

static weir_status wait_cond(void *thing, weir_deadline deadline)
{
    struct guarded *guarded = thing;

    if (weir_mutex_lock(&guarded->mutex, WEIR_FOREVER) != WEIR_OK)
        return WEIR_FAILED;
    weir_status status = weir_cond_wait(&guarded->cond, &guarded->mutex, deadline);
    HOLDS(weir_mutex_owner(&guarded->mutex) == weir_self());
    HOLDS_EQ(weir_mutex_unlock(&guarded->mutex), WEIR_OK);
    return status;
}

static void give_event(void *thing)
{
    weir_event_set(thing);
}

static void give_remote(void *thing)
{
    weir_remote_event_set(thing);
}

static void give_future(void *thing)
{
    weir_future_set(thing, NULL);
}

static void give_sem(void *thing)
{
    weir_sem_give(thing);
}

static void give_mutex(void *thing)
{
    HOLDS_EQ(weir_mutex_unlock(thing), WEIR_OK);
}

static void give_cond(void *thing)
{
    weir_cond_signal(&((struct guarded *)thing)->cond);
}

static void finish_event(void *thing)
{
    weir_event_finish(thing);
}

static void finish_remote(void *thing)
{
    weir_remote_event_finish(thing);
}

static void finish_future(void *thing)
{
    weir_future_finish(thing);
}

static void finish_sem(void *thing)
{
    weir_sem_finish(thing);
}

static void finish_mutex(void *thing)
{
    weir_mutex_finish(thing);
}

static void finish_cond(void *thing)
{
    weir_cond_finish(&((struct guarded *)thing)->cond);
}

static void hold_mutex(void *thing)
{
    HOLDS_EQ(weir_mutex_lock(thing, WEIR_NOW), WEIR_OK);
}

/* What holds for all of them alike; each test plays every row. A mutex is held by the one who
   gives: by unlocking it. */
static const struct kind {
    const char *name;
    weir_status (*wait)(void *thing, weir_deadline deadline);
    void (*give)(void *thing);
    void (*finish)(void *thing);
    void (*begin)(void *thing);
    bool all; /* one give serves everybody */
    bool kept; /* what is given is still there when nobody took it */
} kinds[] = {
    { "event", wait_event, give_event, finish_event, NULL, true, true },
    { "remote event", wait_remote, give_remote, finish_remote, NULL, true, true },
    { "future", wait_future, give_future, finish_future, NULL, true, true },
    { "semaphore", wait_sem, give_sem, finish_sem, NULL, false, true },
    { "mutex", wait_mutex, give_mutex, finish_mutex, hold_mutex, true, true },
    { "condition", wait_cond, give_cond, finish_cond, NULL, false, false },
};

union thing {
    weir_event        event;
    weir_remote_event remote;
    weir_future       future;
    weir_sem          sem;
    weir_mutex        mutex;
    struct guarded    guarded;
};

static union thing thing; /* static, so that zero is shown to be enough */

typedef void (*trial)(const struct kind *kind);

static void let_go(const struct kind *kind)
{
    if (kind->begin && weir_mutex_owner(&thing.mutex) == weir_self())
        HOLDS_EQ(weir_mutex_unlock(&thing.mutex), WEIR_OK);
}

/* A fresh one; a mutex is held by the caller, so that there is something to wait for. */
static void renew(const struct kind *kind)
{
    static const union thing zero;

    let_go(kind);
    thing = zero;
    if (kind->begin)
        kind->begin(&thing);
}

static weir_status try_kind(void *arg)
{
    trial *what = arg;

    memset(&thing, 0, sizeof thing);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        renew(&kinds[i]);
        turns = 0;
        unsigned before = unit_notes.broken;
        (*what)(&kinds[i]);
        if (unit_notes.broken > before)
            fprintf(stderr, "(with the %s)\n", kinds[i].name);
        let_go(&kinds[i]);
    }
    return WEIR_OK;
}

static void try_all(trial what)
{
    run_world(try_kind, &what);
}

#define CLIENT(kind_, ...) \
    (struct client){ .thing = &thing, .wait = (kind_)->wait, ##__VA_ARGS__ }

static void three_wait(const struct kind *kind)
{
    struct client clients[3] = { CLIENT(kind), CLIENT(kind), CLIENT(kind) };
    int64_t       began = world_now_ms();

    for (int i = 0; i < 3; i++)
        come(&clients[i]);
    world_advance_ms(10);
    HOLDS(!clients[0].done && !clients[1].done && !clients[2].done);
    for (int i = 0; i < (kind->all ? 1 : 3); i++)
        kind->give(&thing);
    world_advance_ms(10);
    for (int i = 0; i < 3; i++) {
        HOLDS(clients[i].done);
        HOLDS_EQ(clients[i].status, WEIR_OK);
        HOLDS_EQ(clients[i].turn, i + 1);
        HOLDS_EQ(clients[i].at_ms, began + 10);
    }
}

static void who_came_first_is_served_first(void **state)
{
    (void)state;
    try_all(three_wait);
}

static void one_gives_up(const struct kind *kind)
{
    struct client clients[3] = { CLIENT(kind), CLIENT(kind), CLIENT(kind) };
    int64_t       began = world_now_ms();

    clients[1].patience_ms = 10;
    for (int i = 0; i < 3; i++)
        come(&clients[i]);
    world_advance_ms(9);
    HOLDS(!clients[1].done);
    world_advance_ms(5);
    HOLDS(clients[1].done && !clients[0].done && !clients[2].done);
    HOLDS_EQ(clients[1].status, WEIR_TIMEOUT);
    HOLDS_EQ(clients[1].at_ms, began + 10);
    for (int i = 0; i < (kind->all ? 1 : 2); i++)
        kind->give(&thing); /* his place in the queue is gone */
    world_advance_ms(5);
    HOLDS(clients[0].done && clients[2].done);
    HOLDS_EQ(clients[0].status, WEIR_OK);
    HOLDS_EQ(clients[2].status, WEIR_OK);
}

static void who_gives_up_leaves_the_queue(void **state)
{
    (void)state;
    try_all(one_gives_up);
}

static void one_is_cancelled(const struct kind *kind)
{
    struct client clients[3] = { CLIENT(kind), CLIENT(kind), CLIENT(kind) };

    for (int i = 0; i < 3; i++)
        come(&clients[i]);
    world_settle();
    weir_cancel(clients[0].task);
    world_settle();
    HOLDS(clients[0].done && !clients[1].done && !clients[2].done);
    HOLDS_EQ(clients[0].status, WEIR_CANCELED);
    for (int i = 0; i < (kind->all ? 1 : 2); i++)
        kind->give(&thing);
    world_advance_ms(5);
    HOLDS(clients[1].done && clients[2].done);
    HOLDS_EQ(clients[1].status, WEIR_OK);
    HOLDS_EQ(clients[2].status, WEIR_OK);
}

static void who_is_cancelled_leaves_the_queue(void **state)
{
    (void)state;
    try_all(one_is_cancelled);
}

/* Both in one turn. Given first or cancelled first: it was given, so he has it, and the one
   behind him is not served in his place. */
static void given_and_cancelled(const struct kind *kind)
{
    for (int cancelled_first = 0; cancelled_first < 2; cancelled_first++) {
        struct client first = CLIENT(kind), second = CLIENT(kind);

        renew(kind);
        come(&first);
        come(&second);
        world_settle();
        if (cancelled_first)
            weir_cancel(first.task);
        kind->give(&thing);
        if (!cancelled_first)
            weir_cancel(first.task);
        world_settle();
        HOLDS(first.done);
        HOLDS_EQ(first.status, WEIR_OK);
        HOLDS_EQ(first.next, WEIR_CANCELED); /* seen by the wait after that */
        if (!kind->all) {
            HOLDS(!second.done);
            kind->give(&thing);
            world_settle();
        }
        world_advance_ms(2);
        HOLDS(second.done);
        HOLDS_EQ(second.status, WEIR_OK);
    }
}

static void what_is_given_in_the_turn_of_a_cancel_is_his(void **state)
{
    (void)state;
    try_all(given_and_cancelled);
}

static const struct kind *given_kind;

static weir_status give_at_his_deadline(void *arg)
{
    weir_status status = weir_sleep(weir_deadline_at(*(int64_t *)arg));

    if (given_kind->begin)
        HOLDS(weir_mutex_owner(&thing.mutex) == weir_self());
    given_kind->give(&thing);
    return status;
}

/* Who gives holds the mutex. */
static weir_status hold_and_give(void *arg)
{
    if (given_kind->begin)
        given_kind->begin(&thing);
    return give_at_his_deadline(arg);
}

/*
 * The one who gives runs in the turn of the deadline, before the waiter or after him. Before:
 * the waiter's deadline has made him ready, but he is still in the queue, and is served. After: he
 * has left it, and the next one is served.
 */
static void given_at_the_deadline(const struct kind *kind)
{
    for (int waiter_first = 0; waiter_first < 2; waiter_first++) {
        struct client first = CLIENT(kind), second = CLIENT(kind);
        int64_t       at_ns = weir_in_ms(20).at_ns;

        renew(kind);
        let_go(kind); /* the one who gives will hold it */
        given_kind = kind;
        first.patience_ms = 20;
        if (waiter_first && !kind->begin) /* a mutex must be held before anybody waits for it */
            come(&first);
        weir_spawn(NULL, hold_and_give, &at_ns);
        if (!waiter_first || kind->begin)
            come(&first);
        come(&second);
        world_advance_ms(25);
        HOLDS(first.done);
        if (waiter_first && !kind->begin) {
            /* He ran before it was given: then it is not his, and not lost. */
            HOLDS_EQ(first.status, WEIR_TIMEOUT);
            HOLDS(second.done);
        } else {
            HOLDS_EQ(first.status, WEIR_OK);
            HOLDS_EQ(second.done, kind->all);
            kind->give == give_mutex ? (void)0 : kind->give(&thing);
        }
        world_advance_ms(5);
        HOLDS(second.done);
        HOLDS_EQ(second.status, WEIR_OK);
    }
}

static void what_is_given_in_the_turn_of_the_deadline_is_his_or_the_next_ones(void **state)
{
    (void)state;
    try_all(given_at_the_deadline);
}

static void give_by_alarm(weir_alarm *alarm)
{
    (void)alarm;
    given_kind->give(&thing);
}

/* Given on the hub's own stack, before anybody runs in that turn: whichever alarm rings first,
   he has it. (A mutex is unlocked by a coroutine, so not here.) */
static void given_by_the_hub_at_the_deadline(const struct kind *kind)
{
    if (kind->begin)
        return;
    for (int waiter_first = 0; waiter_first < 2; waiter_first++) {
        struct client first = CLIENT(kind), second = CLIENT(kind);
        weir_alarm    alarm = { 0 };

        renew(kind);
        given_kind = kind;
        first.patience_ms = 20;
        HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
        int64_t at_ns = weir_in_ms(20).at_ns;
        if (!waiter_first)
            weir_alarm_set(&alarm, at_ns, give_by_alarm);
        come(&first);
        come(&second);
        weir_yield();
        if (waiter_first)
            weir_alarm_set(&alarm, at_ns, give_by_alarm);
        world_advance_ms(25);
        HOLDS(first.done);
        HOLDS_EQ(first.status, WEIR_OK);
        HOLDS_EQ(second.done, kind->all);
        kind->give(&thing);
        world_advance_ms(5);
        HOLDS(second.done);
        HOLDS_EQ(weir_alarm_reserve(-1), WEIR_OK);
    }
}

static void what_is_given_before_he_runs_is_his_whichever_alarm_rang_first(void **state)
{
    (void)state;
    try_all(given_by_the_hub_at_the_deadline);
}

/* The memory is gone before those who waited run: nobody may look at it again. */
static void finished_under_them(const struct kind *kind)
{
    union thing  *gone = calloc(1, sizeof *gone);
    struct client clients[3] = { CLIENT(kind), CLIENT(kind), CLIENT(kind) };

    if (kind->wait == wait_cond) { /* it is the condition that goes; the mutex stays */
        free(gone);
        gone = NULL;
    }
    if (kind->begin)
        kind->begin(gone);
    for (int i = 0; i < 3; i++) {
        if (gone)
            clients[i].thing = gone;
        come(&clients[i]);
    }
    world_settle();
    kind->finish(gone ? gone : &thing);
    if (gone) {
        memset(gone, 0xa5, sizeof *gone);
        free(gone);
    }
    world_advance_ms(5);
    for (int i = 0; i < 3; i++) {
        HOLDS(clients[i].done);
        HOLDS_EQ(clients[i].status, WEIR_CLOSED);
    }
}

static void finishing_what_somebody_waits_for_tells_him(void **state)
{
    (void)state;
    try_all(finished_under_them);
}

static void finished_before(const struct kind *kind)
{
    kind->finish(&thing);
    HOLDS_EQ(kind->wait(&thing, WEIR_FOREVER), WEIR_CLOSED);
    HOLDS_EQ(kind->wait(&thing, WEIR_NOW), WEIR_CLOSED);
}

static void what_is_finished_stays_closed(void **state)
{
    (void)state;
    try_all(finished_before);
}

static void not_waiting(const struct kind *kind)
{
    int64_t before = world_now_ns();

    if (kind->begin) /* held by ourselves; by somebody else is another test */
        HOLDS_EQ(weir_mutex_unlock(&thing.mutex), WEIR_OK);
    else
        HOLDS_EQ(kind->wait(&thing, WEIR_NOW), WEIR_TIMEOUT);
    if (kind->kept) {
        kind->begin ? (void)0 : kind->give(&thing);
        HOLDS_EQ(kind->wait(&thing, WEIR_NOW), WEIR_OK);
    }
    HOLDS_EQ(world_now_ns(), before);
}

static void a_deadline_of_now_takes_what_is_there(void **state)
{
    (void)state;
    try_all(not_waiting);
}

static weir_status be_late_or_cancelled(void *arg)
{
    const struct kind *kind = arg;

    {
        WEIR_DEADLINE(WEIR_NOW);
        HOLDS_EQ(kind->wait(&thing, WEIR_FOREVER),
                 kind->wait == wait_cond ? WEIR_FAILED : WEIR_TIMEOUT);
    }
    weir_cancel(weir_self());
    HOLDS_EQ(kind->wait(&thing, WEIR_FOREVER),
             kind->wait == wait_cond ? WEIR_FAILED : WEIR_CANCELED);
    WEIR_SHIELD(weir_in_ms(5));
    if (kind->kept)
        HOLDS_EQ(kind->wait(&thing, WEIR_FOREVER), WEIR_OK); /* nothing was taken by those */
    else
        HOLDS_EQ(kind->wait(&thing, WEIR_FOREVER), WEIR_TIMEOUT);
    return WEIR_OK;
}

static void at_hand(const struct kind *kind)
{
    kind->give(&thing);
    weir_spawn(NULL, be_late_or_cancelled, (void *)kind);
    world_advance_ms(10);
}

static void who_is_late_or_cancelled_is_told_even_where_it_is_at_hand(void **state)
{
    (void)state;
    try_all(at_hand);
}

static void wait_where_nobody_can(weir_alarm *alarm)
{
    (void)alarm;
    HOLDS_EQ(given_kind->wait(&thing, WEIR_FOREVER),
             given_kind->wait == wait_cond ? WEIR_FAILED : WEIR_USAGE);
}

static void outside(const struct kind *kind)
{
    weir_alarm alarm = { 0 };

    given_kind = kind;
    HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
    weir_alarm_set(&alarm, weir_now(), wait_where_nobody_can);
    sleep_ms(1);
    HOLDS_EQ(weir_alarm_reserve(-1), WEIR_OK);
    HOLDS_EQ(log_took(kind->begin || kind->wait == wait_cond ? "a mutex is locked by a coroutine"
                                                             : "where nothing may wait"),
             1);
    kind->finish(&thing);
}

static void waiting_outside_of_a_coroutine_is_refused(void **state)
{
    (void)state;
    try_all(outside);
}

static weir_status be_served_for_ever(void *arg)
{
    while (!*(bool *)arg)
        HOLDS_EQ(weir_sem_take(&thing.sem, WEIR_FOREVER), WEIR_OK), weir_sem_give(&thing.sem);
    return WEIR_OK;
}

static weir_status let_him(void *arg)
{
    bool over = false;

    (void)arg;
    thing.sem = (weir_sem)WEIR_SEM_INIT(1);
    weir_task *task = weir_spawn(NULL, be_served_for_ever, &over);
    weir_yield();
    weir_yield(); /* we run again although he never has to wait */
    over = true;
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, NULL), WEIR_OK);
    return WEIR_OK;
}

static void who_is_always_served_at_once_gives_way(void **state)
{
    (void)state;
    run_world(let_him, NULL);
}

/* ---- event -------------------------------------------------------------------------- */

static weir_status set_and_clear(void *arg)
{
    weir_event    event = { 0 };
    struct client early = { .thing = &event, .wait = wait_event };
    struct client late = { .thing = &event, .wait = wait_event };

    (void)arg;
    HOLDS(!weir_event_is_set(&event));
    come(&early);
    world_settle();
    weir_event_set(&event);
    weir_event_clear(&event); /* before he ran */
    HOLDS(!weir_event_is_set(&event));
    come(&late);
    world_settle();
    HOLDS_EQ(early.status, WEIR_OK);
    HOLDS(early.turn && !late.turn);
    weir_event_set(&event);
    HOLDS_EQ(weir_event_wait(&event, WEIR_FOREVER), WEIR_OK); /* set stays set */
    HOLDS_EQ(weir_event_wait(&event, WEIR_FOREVER), WEIR_OK);
    world_advance_ms(5);
    HOLDS(late.done);
    return WEIR_OK;
}

static void those_an_event_woke_go_on_though_it_is_cleared(void **state)
{
    (void)state;
    turns = 0;
    run_world(set_and_clear, NULL);
}

/* ---- remote event ------------------------------------------------------------------- */

enum { LETTERS = 300, THREADS = 4 };

struct letter {
    weir_remote_event event;
    int               text;
};

/* The letter is the waiter's, on his stack: it goes as soon as he has it. */
struct post_box {
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    struct letter  *letter;
    bool            over;
};

static void *answer_letters(void *arg)
{
    struct post_box *box = arg;
    int              answers = 0;

    pthread_mutex_lock(&box->lock);
    while (!box->over) {
        struct letter *letter = box->letter;
        if (!letter) {
            pthread_cond_wait(&box->changed, &box->lock);
            continue;
        }
        box->letter = NULL;
        pthread_mutex_unlock(&box->lock);
        letter->text = ++answers;
        weir_remote_event_set(&letter->event);
        pthread_mutex_lock(&box->lock);
    }
    pthread_mutex_unlock(&box->lock);
    return NULL;
}

static weir_status write_letters(void *arg)
{
    struct post_box *box = arg;

    for (int i = 1; i <= LETTERS; i++) {
        struct letter letter = { .text = 0 };
        pthread_mutex_lock(&box->lock);
        box->letter = &letter;
        pthread_cond_signal(&box->changed);
        pthread_mutex_unlock(&box->lock);
        if (i % 4 == 0)
            weir_yield(); /* the answer may be there before we wait */
        HOLDS_EQ(weir_remote_event_wait(&letter.event, WEIR_FOREVER), WEIR_OK);
        HOLDS_EQ(letter.text, i);
        memset(&letter, 0xa5, sizeof letter); /* its setter must be done with it */
    }
    pthread_mutex_lock(&box->lock);
    box->over = true;
    pthread_cond_signal(&box->changed);
    pthread_mutex_unlock(&box->lock);
    return WEIR_OK;
}

static weir_status correspond(void *arg)
{
    struct post_box *boxes = arg;

    for (int i = 0; i < THREADS; i++)
        weir_spawn(NULL, write_letters, &boxes[i]);
    return WEIR_OK;
}

static void another_thread_can_hand_a_result_over(void **state)
{
    struct post_box boxes[THREADS] = { 0 };
    pthread_t       threads[THREADS];

    (void)state;
    for (int i = 0; i < THREADS; i++) {
        pthread_mutex_init(&boxes[i].lock, NULL);
        pthread_cond_init(&boxes[i].changed, NULL);
        assert_int_equal(pthread_create(&threads[i], NULL, answer_letters, &boxes[i]), 0);
    }
    assert_int_equal(weir_run(correspond, boxes), WEIR_OK);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        pthread_mutex_destroy(&boxes[i].lock);
        pthread_cond_destroy(&boxes[i].changed);
    }
    assert_notes();
}

/* Two hubs, one event: each of a few coroutines in both is woken by one set. */
struct meeting {
    weir_remote_event begins;
    pthread_barrier_t waiting;
    int               came; /* under the lock below */
    pthread_mutex_t   lock;
};

static weir_status attend(void *arg)
{
    struct meeting *meeting = arg;

    HOLDS_EQ(weir_remote_event_wait(&meeting->begins, WEIR_FOREVER), WEIR_OK);
    pthread_mutex_lock(&meeting->lock);
    meeting->came++;
    pthread_mutex_unlock(&meeting->lock);
    return WEIR_OK;
}

static weir_status send_three(void *arg)
{
    struct meeting *meeting = arg;

    for (int i = 0; i < 3; i++)
        weir_spawn(NULL, attend, meeting);
    weir_yield();
    pthread_barrier_wait(&meeting->waiting);
    return WEIR_OK;
}

static void *have_a_hub(void *arg)
{
    HOLDS_EQ(weir_run(send_three, arg), WEIR_OK);
    return NULL;
}

static void coroutines_of_several_hubs_can_wait_for_one_event(void **state)
{
    struct meeting meeting = { .lock = PTHREAD_MUTEX_INITIALIZER };
    pthread_t      threads[2];

    (void)state;
    pthread_barrier_init(&meeting.waiting, NULL, 3);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, have_a_hub, &meeting), 0);
    pthread_barrier_wait(&meeting.waiting);
    assert_false(weir_remote_event_is_set(&meeting.begins));
    weir_remote_event_set(&meeting.begins); /* from a thread without a hub */
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(meeting.came, 6);
    assert_true(weir_remote_event_is_set(&meeting.begins));
    weir_remote_event_clear(&meeting.begins);
    assert_false(weir_remote_event_is_set(&meeting.begins));
    pthread_barrier_destroy(&meeting.waiting);
    assert_notes();
}

/* ---- future ------------------------------------------------------------------------- */

struct reader {
    weir_future *future;
    weir_status  status;
    void        *value;
    weir_error   err;
};

static weir_status read_it(void *arg)
{
    struct reader *me = arg;

    me->status = weir_future_get(me->future, WEIR_FOREVER, &me->value, &me->err);
    return WEIR_OK;
}

static weir_status settle_well(void *arg)
{
    weir_future  *future = calloc(1, sizeof *future);
    struct reader readers[3];
    void         *value = NULL;
    int           result;

    (void)arg;
    for (int i = 0; i < 3; i++) {
        readers[i] = (struct reader){ .future = future };
        weir_spawn(NULL, read_it, &readers[i]);
    }
    world_settle();
    HOLDS(!weir_future_is_settled(future));
    HOLDS(weir_future_set(future, &result));
    HOLDS(weir_future_is_settled(future));
    HOLDS(!weir_future_set(future, NULL)); /* once */
    HOLDS(!weir_future_fail(future, &(weir_error){ .status = WEIR_LOST }));
    HOLDS_EQ(weir_future_get(future, WEIR_NOW, &value, NULL), WEIR_OK);
    HOLDS(value == &result);
    weir_future_finish(future);
    HOLDS_EQ(weir_future_get(future, WEIR_FOREVER, &value, NULL), WEIR_OK); /* kept */
    free(future); /* before those who waited have run */
    world_settle();
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(readers[i].status, WEIR_OK);
        HOLDS(readers[i].value == &result);
    }
    return WEIR_OK;
}

static void a_result_is_handed_to_everybody_and_kept(void **state)
{
    (void)state;
    run_world(settle_well, NULL);
}

static weir_status settle_badly(void *arg)
{
    weir_future   future = { 0 }, vague = { 0 };
    struct reader reader = { .future = &future };
    weir_error    err;
    int           junk;
    void         *value = &junk;

    (void)arg;
    weir_spawn(NULL, read_it, &reader);
    world_settle();
    weir_error_set(&err, WEIR_SERVER, "the shop is shut");
    HOLDS(weir_future_fail(&future, &err));
    weir_error_set(&err, WEIR_OK, "overwritten");
    world_settle();
    HOLDS_EQ(reader.status, WEIR_SERVER);
    HOLDS_EQ(reader.err.status, WEIR_SERVER);
    HOLDS(strcmp(reader.err.message, "the shop is shut") == 0);
    HOLDS_EQ(weir_future_get(&future, WEIR_FOREVER, &value, &err), WEIR_SERVER);
    HOLDS(value == NULL);
    HOLDS(strcmp(err.message, "the shop is shut") == 0);

    HOLDS(weir_future_fail(&vague, &(weir_error){ .status = WEIR_OK }));
    HOLDS_EQ(weir_future_get(&vague, WEIR_FOREVER, NULL, NULL), WEIR_FAILED);
    return WEIR_OK;
}

static void an_error_is_handed_to_everybody_in_its_own_words(void **state)
{
    (void)state;
    run_world(settle_badly, NULL);
}

static weir_status finish_a_future(void *arg)
{
    weir_future *future = arg;

    weir_future_finish(future);
    return WEIR_OK;
}

static weir_status tell_why_not(void *arg)
{
    weir_future future = { 0 };
    weir_error  err;

    (void)arg;
    HOLDS_EQ(weir_future_get(&future, weir_in_ms(5), NULL, &err), WEIR_TIMEOUT);
    HOLDS_EQ(err.status, WEIR_TIMEOUT);
    HOLDS(strstr(err.message, "the deadline came first") != NULL);
    weir_spawn(NULL, finish_a_future, &future);
    HOLDS_EQ(weir_future_get(&future, weir_in_ms(5), NULL, &err), WEIR_CLOSED);
    HOLDS(strstr(err.message, "finished first") != NULL);
    HOLDS(!weir_future_set(&future, NULL));
    HOLDS_EQ(weir_future_get(&future, weir_in_ms(5), NULL, &err), WEIR_CLOSED);
    weir_cancel(weir_self());
    HOLDS_EQ(weir_future_get(&future, weir_in_ms(5), NULL, &err), WEIR_CANCELED);
    HOLDS(strstr(err.message, "was cancelled first") != NULL);
    return WEIR_OK;
}

static void who_gets_no_result_is_told_why(void **state)
{
    (void)state;
    run_world(tell_why_not, NULL);
}

/* ---- semaphore ---------------------------------------------------------------------- */

static weir_status count_permits(void *arg)
{
    static weir_sem sem = WEIR_SEM_INIT(2);
    struct client   waits = { .thing = &sem, .wait = wait_sem };

    (void)arg;
    HOLDS_EQ(weir_sem_free_permits(&sem), 2);
    HOLDS(weir_sem_try(&sem));
    HOLDS_EQ(weir_sem_take(&sem, WEIR_NOW), WEIR_OK);
    HOLDS(!weir_sem_try(&sem));
    HOLDS_EQ(weir_sem_take(&sem, WEIR_NOW), WEIR_TIMEOUT);
    come(&waits);
    world_settle();
    weir_sem_give(&sem);
    HOLDS_EQ(weir_sem_free_permits(&sem), 0); /* it is his already */
    HOLDS(!weir_sem_try(&sem));               /* nobody slips in between */
    HOLDS_EQ(weir_sem_take(&sem, WEIR_NOW), WEIR_TIMEOUT);
    world_advance_ms(5);
    HOLDS(waits.done);
    weir_sem_give(&sem);
    weir_sem_give(&sem);
    weir_sem_give(&sem); /* more than there were: that is for its user to know */
    HOLDS_EQ(weir_sem_free_permits(&sem), 3);
    weir_sem_finish(&sem);
    HOLDS(!weir_sem_try(&sem));
    return WEIR_OK;
}

static void a_permit_goes_to_the_one_who_waits_and_not_to_a_newcomer(void **state)
{
    (void)state;
    run_world(count_permits, NULL);
}

/*
 * A take that may not wait stands in the queue for a moment; one in so many of those gives way
 * to others there. What they give him meanwhile is his, although his park had failed already.
 */
static weir_status take_in_haste(void *arg)
{
    bool *over = arg;
    int   taken = 0;

    while (!*over)
        taken += weir_sem_take(&thing.sem, WEIR_NOW) == WEIR_OK;
    HOLDS_EQ(taken + weir_sem_free_permits(&thing.sem), 20);
    HOLDS(taken > 0);
    return WEIR_OK;
}

static weir_status give_to_the_hasty(void *arg)
{
    bool over = false;

    (void)arg;
    memset(&thing, 0, sizeof thing);
    weir_task *hasty = weir_spawn(NULL, take_in_haste, &over);
    for (int i = 0; i < 20; i++) {
        weir_yield();
        weir_sem_give(&thing.sem);
    }
    over = true;
    HOLDS_EQ(weir_join(hasty, WEIR_FOREVER, NULL), WEIR_OK);
    return WEIR_OK;
}

static void a_permit_given_to_one_who_gives_way_is_not_lost(void **state)
{
    (void)state;
    run_world(give_to_the_hasty, NULL);
}

/* ---- mutex -------------------------------------------------------------------------- */

static weir_status lock_and_sleep(void *arg)
{
    HOLDS_EQ(weir_mutex_lock(arg, WEIR_FOREVER), WEIR_OK);
    sleep_ms(10);
    HOLDS_EQ(weir_mutex_unlock(arg), WEIR_OK);
    return WEIR_OK;
}

static weir_status misuse_a_mutex(void *arg)
{
    weir_mutex mutex = { 0 };

    (void)arg;
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_USAGE);
    HOLDS_EQ(log_took("the mutex is not locked"), 1);

    HOLDS_EQ(weir_mutex_lock(&mutex, WEIR_FOREVER), WEIR_OK);
    HOLDS(weir_mutex_owner(&mutex) == weir_self());
    HOLDS(strstr(weir_mutex_site(&mutex), "test_coro_sync.c:") != NULL);
    HOLDS_EQ(weir_mutex_lock(&mutex, WEIR_FOREVER), WEIR_DEADLOCK);
    HOLDS_EQ(log_says("test_coro_sync.c:"), 2); /* both places, in one line */
    HOLDS_EQ(log_took("would wait for itself"), 1);
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_OK);
    HOLDS(weir_mutex_owner(&mutex) == NULL && weir_mutex_site(&mutex) == NULL);

    weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "clerk" }, lock_and_sleep, &mutex);
    sleep_ms(5);
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_USAGE);
    HOLDS(log_says("clerk 2 locked it at") == 1);
    HOLDS_EQ(log_took("not this one's to unlock"), 1);
    HOLDS_EQ(weir_mutex_lock(&mutex, weir_in_ms(1)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_mutex_lock(&mutex, WEIR_FOREVER), WEIR_OK); /* he still has it until then */
    HOLDS_EQ(world_now_ms(), 10);
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_OK);
    return WEIR_OK;
}

static void a_mutex_knows_its_owner(void **state)
{
    (void)state;
    run_world(misuse_a_mutex, NULL);
}

static weir_status end_with_it(void *arg)
{
    HOLDS_EQ(weir_mutex_lock(arg, WEIR_FOREVER), WEIR_OK);
    sleep_ms(10);
    return WEIR_OK;
}

static weir_status have_forgetful_owners(void *arg)
{
    weir_mutex    mutex = { 0 };
    struct client next = { .thing = &mutex, .wait = wait_mutex };

    (void)arg;
    weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "oaf" }, end_with_it, &mutex);
    weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "oaf" }, end_with_it, &mutex);
    come(&next);
    world_advance_ms(30);
    HOLDS(next.done);
    HOLDS_EQ(next.status, WEIR_OK);
    HOLDS_EQ(next.at_ms, 20);
    HOLDS_EQ(log_says("oaf 2, spawned at "), 1);
    HOLDS_EQ(log_took("ended while it held the mutex it locked at"), 2);
    HOLDS_EQ(weir_mutex_lock(&mutex, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_OK);
    return WEIR_OK;
}

static void an_owner_that_ends_is_reported_and_the_next_one_has_it(void **state)
{
    (void)state;
    turns = 0;
    run_world(have_forgetful_owners, NULL);
}

static weir_status find_it_finished(void *arg)
{
    HOLDS_EQ(weir_mutex_lock(arg, WEIR_FOREVER), WEIR_OK);
    sleep_ms(10);
    HOLDS_EQ(weir_mutex_unlock(arg), WEIR_USAGE);
    return WEIR_OK;
}

static weir_status finish_while_held(void *arg)
{
    weir_mutex mutex = { 0 };

    (void)arg;
    weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "owner" }, find_it_finished, &mutex);
    sleep_ms(5);
    weir_mutex_finish(&mutex);
    HOLDS_EQ(log_took("was finished while owner 2 held it"), 1);
    sleep_ms(10); /* and when he ends nobody looks at it */
    HOLDS_EQ(log_took("the mutex is not locked"), 1);
    return WEIR_OK;
}

static void finishing_a_mutex_somebody_holds_is_reported(void **state)
{
    (void)state;
    run_world(finish_while_held, NULL);
}

/* ---- condition ---------------------------------------------------------------------- */

static weir_status misuse_a_condition(void *arg)
{
    struct guarded mine = { 0 };

    (void)arg;
    HOLDS_EQ(weir_cond_wait(&mine.cond, &mine.mutex, WEIR_NOW), WEIR_USAGE);
    HOLDS_EQ(log_took("holds it not: it is not locked"), 1);
    weir_spawn(NULL, lock_and_sleep, &mine.mutex);
    sleep_ms(5);
    HOLDS_EQ(weir_cond_wait(&mine.cond, &mine.mutex, WEIR_NOW), WEIR_USAGE);
    HOLDS_EQ(log_took("locked by another one at"), 1);
    weir_cond_signal(&mine.cond); /* nobody waits: it is not kept */
    sleep_ms(10);
    HOLDS_EQ(weir_mutex_lock(&mine.mutex, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_cond_wait(&mine.cond, &mine.mutex, weir_in_ms(5)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_mutex_unlock(&mine.mutex), WEIR_OK);
    return WEIR_OK;
}

static void a_condition_is_waited_for_with_the_mutex_held(void **state)
{
    (void)state;
    run_world(misuse_a_condition, NULL);
}

/* The deadline passes, and the mutex is another one's for long: it is waited for all the same. */
static weir_status time_out_while_it_is_locked(void *arg)
{
    struct guarded *guarded = arg;

    HOLDS_EQ(weir_mutex_lock(&guarded->mutex, WEIR_FOREVER), WEIR_OK);
    WEIR_DEADLINE(weir_in_ms(5));
    weir_status status = weir_cond_wait(&guarded->cond, &guarded->mutex, WEIR_FOREVER);
    HOLDS_EQ(world_now_ms(), 12);
    HOLDS(weir_mutex_owner(&guarded->mutex) == weir_self());
    HOLDS_EQ(weir_mutex_unlock(&guarded->mutex), WEIR_OK);
    return status;
}

static weir_status broadcast_and_lock(void *arg)
{
    struct guarded mine = { 0 };
    struct client  clients[3];
    weir_status    late = WEIR_OK;

    (void)arg;
    weir_task *slow = weir_spawn(NULL, time_out_while_it_is_locked, &mine);
    weir_task *cancelled = weir_spawn(NULL, time_out_while_it_is_locked, &mine);
    weir_yield();
    sleep_ms(2);
    weir_spawn(NULL, lock_and_sleep, &mine.mutex); /* from 2 to 12 ms */
    weir_yield();
    weir_cancel(cancelled);
    /* Their records last until they are joined: nobody else ends before that. */
    HOLDS_EQ(weir_join(slow, WEIR_FOREVER, &late), WEIR_OK);
    HOLDS_EQ(late, WEIR_TIMEOUT);
    HOLDS_EQ(log_took("ended with CANCELED"), 1);

    for (int i = 0; i < 3; i++) {
        clients[i] = (struct client){ .thing = &mine, .wait = wait_cond };
        come(&clients[i]);
    }
    world_settle();
    weir_cond_broadcast(&mine.cond);
    world_advance_ms(2);
    for (int i = 0; i < 3; i++) {
        HOLDS_EQ(clients[i].status, WEIR_OK);
        HOLDS_EQ(clients[i].turn, i + 1);
    }
    return WEIR_OK;
}

static void the_mutex_is_held_again_whatever_a_condition_returns(void **state)
{
    (void)state;
    turns = 0;
    run_world(broadcast_and_lock, NULL);
    log_forget();
}

static weir_status wait_and_lose_the_mutex(void *arg)
{
    struct guarded *guarded = arg;

    HOLDS_EQ(weir_mutex_lock(&guarded->mutex, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(weir_cond_wait(&guarded->cond, &guarded->mutex, WEIR_FOREVER), WEIR_CLOSED);
    HOLDS(weir_mutex_owner(&guarded->mutex) == NULL);
    return WEIR_OK;
}

static weir_status finish_both(void *arg)
{
    struct guarded mine = { 0 };

    (void)arg;
    weir_spawn(NULL, wait_and_lose_the_mutex, &mine);
    world_settle();
    weir_mutex_finish(&mine.mutex);
    weir_cond_finish(&mine.cond);
    world_settle();
    return WEIR_OK;
}

static void a_condition_whose_mutex_is_finished_is_closed(void **state)
{
    (void)state;
    run_world(finish_both, NULL);
}

/* ---- everywhere --------------------------------------------------------------------- */

enum { PLAYERS = 4, ROUNDS = 3 };

static struct {
    weir_sem       sem;
    weir_mutex     mutex;
    weir_cond      cond;
    weir_event     event;
    weir_future    future;
    int            inside, most;
    int            stock, made, used;
    unsigned       finished[PLAYERS];
    bool           closed;
} stage;

static void *number(unsigned n)
{
    return (void *)(uintptr_t)n;
}

static unsigned number_of(void *arg)
{
    return (unsigned)(uintptr_t)arg;
}

static void be_inside(void)
{
    if (++stage.inside > stage.most)
        stage.most = stage.inside;
    point();
    (void)sleep_ms(1);
    point();
    stage.inside--;
}

static void everybody_finished(unsigned rounds)
{
    for (unsigned i = 0; i < play.size; i++) {
        if (!am_victim(i))
            HOLDS_EQ(stage.finished[i], rounds);
    }
}

static weir_status take_turns_by_sem(void *arg)
{
    unsigned me = number_of(arg);

    PART_OF(me);
    for (int i = 0; i < ROUNDS; i++) {
        point();
        if (weir_sem_take(&stage.sem, WEIR_FOREVER) != WEIR_OK)
            return WEIR_OK;
        be_inside();
        weir_sem_give(&stage.sem);
        stage.finished[me]++;
    }
    return WEIR_OK;
}

static void begin_sem(void)
{
    memset(&stage, 0, sizeof stage);
    stage.sem = (weir_sem)WEIR_SEM_INIT(2);
    for (unsigned i = 0; i < PLAYERS; i++)
        enter(take_turns_by_sem, number(i));
}

static void end_sem(void)
{
    HOLDS_EQ(stage.most, 2);
    HOLDS_EQ(weir_sem_free_permits(&stage.sem), 2); /* none was lost, none was made */
    HOLDS(!stage.sem.waiters_.first_);
    everybody_finished(ROUNDS);
}

static void no_permit_is_lost_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_sem, NULL, end_sem }, 8);
}

static weir_status take_turns_by_mutex(void *arg)
{
    unsigned me = number_of(arg);

    PART_OF(me);
    for (int i = 0; i < ROUNDS; i++) {
        point();
        if (weir_mutex_lock(&stage.mutex, WEIR_FOREVER) != WEIR_OK)
            return WEIR_OK;
        HOLDS(weir_mutex_owner(&stage.mutex) == weir_self());
        be_inside();
        HOLDS_EQ(weir_mutex_unlock(&stage.mutex), WEIR_OK);
        stage.finished[me]++;
    }
    return WEIR_OK;
}

static void begin_mutex(void)
{
    memset(&stage, 0, sizeof stage);
    for (unsigned i = 0; i < PLAYERS; i++)
        enter(take_turns_by_mutex, number(i));
}

static void end_mutex(void)
{
    HOLDS_EQ(stage.most, 1);
    HOLDS(weir_mutex_owner(&stage.mutex) == NULL);
    HOLDS(!stage.mutex.waiters_.first_);
    everybody_finished(ROUNDS);
}

static void no_mutex_is_left_locked_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_mutex, NULL, end_mutex }, 14);
}

static weir_status make(void *arg)
{
    unsigned me = number_of(arg);

    PART_OF(me);
    for (int i = 0; i < ROUNDS; i++) {
        point();
        if (weir_mutex_lock(&stage.mutex, WEIR_FOREVER) != WEIR_OK)
            return WEIR_OK;
        point();
        stage.stock++;
        stage.made++;
        weir_cond_signal(&stage.cond);
        HOLDS_EQ(weir_mutex_unlock(&stage.mutex), WEIR_OK);
        point();
        if (sleep_ms(1) != WEIR_OK)
            return WEIR_OK;
        stage.finished[me]++;
    }
    return WEIR_OK;
}

static weir_status use(void *arg)
{
    unsigned    me = number_of(arg);
    weir_status status = WEIR_OK;

    PART_OF(me);
    point();
    if (weir_mutex_lock(&stage.mutex, WEIR_FOREVER) != WEIR_OK)
        return WEIR_OK;
    while (status == WEIR_OK) {
        while (status == WEIR_OK && !stage.stock && !stage.closed) {
            point();
            status = weir_cond_wait(&stage.cond, &stage.mutex, WEIR_FOREVER);
            HOLDS(weir_mutex_owner(&stage.mutex) == weir_self());
        }
        point();
        if (!stage.stock && stage.closed)
            break;
        if (status == WEIR_OK && stage.stock > 0) {
            stage.stock--;
            stage.used++;
        }
    }
    HOLDS_EQ(weir_mutex_unlock(&stage.mutex), WEIR_OK);
    return WEIR_OK;
}

static void begin_cond(void)
{
    memset(&stage, 0, sizeof stage);
    enter(use, number(0));
    enter(use, number(1));
    enter(make, number(2));
    enter(make, number(3));
}

static void close_the_shop(void)
{
    sleep_ms(20);
    HOLDS_EQ(stage.stock, 0); /* no signal was lost: somebody used all there was */
    stage.closed = true;
    weir_cond_broadcast(&stage.cond);
}

static void end_cond(void)
{
    HOLDS_EQ(stage.made, stage.used);
    if (!am_victim(2) && !am_victim(3))
        HOLDS_EQ(stage.made, 2 * ROUNDS);
    HOLDS(weir_mutex_owner(&stage.mutex) == NULL);
    HOLDS(!stage.cond.waiters_.first_);
}

static void no_signal_is_lost_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_cond, close_the_shop, end_cond }, 6);
}

static weir_status wait_for_both(void *arg)
{
    unsigned me = number_of(arg);

    PART_OF(me);
    point();
    if (weir_event_wait(&stage.event, WEIR_FOREVER) != WEIR_OK)
        return WEIR_OK;
    point();
    if (weir_future_get(&stage.future, WEIR_FOREVER, NULL, NULL) != WEIR_OK)
        return WEIR_OK;
    point();
    stage.finished[me]++;
    return WEIR_OK;
}

static void begin_both(void)
{
    memset(&stage, 0, sizeof stage);
    for (unsigned i = 0; i < 3; i++)
        enter(wait_for_both, number(i));
}

static void bring_both(void)
{
    sleep_ms(1);
    point();
    weir_event_set(&stage.event);
    point();
    weir_event_clear(&stage.event);
    sleep_ms(1);
    point();
    HOLDS(weir_future_set(&stage.future, NULL));
    point();
}

static void end_both(void)
{
    everybody_finished(1);
    HOLDS(!stage.event.waiters_.first_ && !stage.future.waiters_.first_);
}

static void no_event_or_result_is_lost_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_both, bring_both, end_both }, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_came_first_is_served_first),
        TEST(who_gives_up_leaves_the_queue),
        TEST(who_is_cancelled_leaves_the_queue),
        TEST(what_is_given_in_the_turn_of_a_cancel_is_his),
        TEST(what_is_given_in_the_turn_of_the_deadline_is_his_or_the_next_ones),
        TEST(what_is_given_before_he_runs_is_his_whichever_alarm_rang_first),
        TEST(finishing_what_somebody_waits_for_tells_him),
        TEST(what_is_finished_stays_closed),
        TEST(a_deadline_of_now_takes_what_is_there),
        TEST(who_is_late_or_cancelled_is_told_even_where_it_is_at_hand),
        TEST(waiting_outside_of_a_coroutine_is_refused),
        TEST(who_is_always_served_at_once_gives_way),
        TEST(those_an_event_woke_go_on_though_it_is_cleared),
        TEST(another_thread_can_hand_a_result_over),
        TEST(coroutines_of_several_hubs_can_wait_for_one_event),
        TEST(a_result_is_handed_to_everybody_and_kept),
        TEST(an_error_is_handed_to_everybody_in_its_own_words),
        TEST(who_gets_no_result_is_told_why),
        TEST(a_permit_goes_to_the_one_who_waits_and_not_to_a_newcomer),
        TEST(a_permit_given_to_one_who_gives_way_is_not_lost),
        TEST(a_mutex_knows_its_owner),
        TEST(an_owner_that_ends_is_reported_and_the_next_one_has_it),
        TEST(finishing_a_mutex_somebody_holds_is_reported),
        TEST(a_condition_is_waited_for_with_the_mutex_held),
        TEST(the_mutex_is_held_again_whatever_a_condition_returns),
        TEST(a_condition_whose_mutex_is_finished_is_closed),
        TEST(no_permit_is_lost_wherever_anybody_is_cut_off),
        TEST(no_mutex_is_left_locked_wherever_anybody_is_cut_off),
        TEST(no_signal_is_lost_wherever_anybody_is_cut_off),
        TEST(no_event_or_result_is_lost_wherever_anybody_is_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
