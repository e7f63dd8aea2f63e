/*
 * test_coro_channel.c - values passed on in order: on a clock that jumps.
 */
#include "everywhere.h"

#include <stdlib.h>
#include <weir/sync.h>

static uint64_t seed;

static unsigned chance(unsigned below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(seed >> 33) % below;
}

static weir_chan *new_chan(size_t size, size_t capacity)
{
    weir_chan *chan = NULL;
    weir_error err;

    HOLDS_EQ(weir_chan_new(size, capacity, &chan, &err), WEIR_OK);
    return chan;
}

/* Somebody who sends or receives one number. */
struct party {
    weir_chan  *chan;
    int         value;
    int64_t     patience_ms; /* 0: none */
    weir_task  *task;
    bool        done;
    weir_status status, next;
    unsigned    turn;
};

static unsigned turns;

static weir_deadline patience(const struct party *me)
{
    return me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_FOREVER;
}

static weir_status leave(struct party *me, weir_status status)
{
    me->status = status;
    me->turn = ++turns;
    me->next = weir_sleep(weir_in_ms(1));
    me->done = true;
    return WEIR_OK;
}

static weir_status send_one(void *arg)
{
    struct party *me = arg;

    return leave(me, weir_chan_send(me->chan, &me->value, patience(me)));
}

static weir_status recv_one(void *arg)
{
    struct party *me = arg;

    return leave(me, weir_chan_recv(me->chan, &me->value, patience(me)));
}

static void start(weir_fn fn, struct party *party, weir_chan *chan, int value)
{
    party->chan = chan;
    party->value = value;
    party->task = weir_spawn(NULL, fn, party);
}

static int recv_now(weir_chan *chan)
{
    int value = -1;

    HOLDS_EQ(weir_chan_try_recv(chan, &value), WEIR_OK);
    return value;
}

static weir_status send_now(weir_chan *chan, int value)
{
    return weir_chan_try_send(chan, &value);
}

/* ---- in order ----------------------------------------------------------------------- */

static weir_status fill_and_empty(void *arg)
{
    (void)arg;
    for (size_t capacity = 1; capacity <= 4; capacity++) {
        weir_chan *chan = new_chan(sizeof(int), capacity);
        int        in = 0, out = 0, none = 77;
        for (int round = 0; round < 10; round++) { /* so that it goes round its ring */
            while (send_now(chan, in) == WEIR_OK)
                in++;
            HOLDS_EQ(weir_chan_count(chan), capacity);
            HOLDS_EQ(weir_chan_send(chan, &in, WEIR_NOW), WEIR_TIMEOUT);
            HOLDS_EQ(send_now(chan, in), WEIR_FULL);
            for (size_t i = 0; i < capacity - (size_t)(round % 2); i++)
                HOLDS_EQ(recv_now(chan), out++);
        }
        while (out < in)
            HOLDS_EQ(recv_now(chan), out++);
        HOLDS_EQ(weir_chan_try_recv(chan, &none), WEIR_TIMEOUT);
        HOLDS_EQ(weir_chan_recv(chan, &none, WEIR_NOW), WEIR_TIMEOUT);
        HOLDS_EQ(none, 77);
        weir_chan_free(chan);
    }
    HOLDS_EQ(world_now_ns(), 0);
    weir_chan_free(NULL);
    return WEIR_OK;
}

static void elements_come_out_as_they_went_in(void **state)
{
    (void)state;
    run_world(fill_and_empty, NULL);
}

static weir_status send_what_size(void *arg)
{
    static const size_t sizes[] = { 1, 3, 8, 24, 1000 };

    (void)arg;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        weir_chan    *chan = new_chan(sizes[i], 3);
        unsigned char in[1001], out[1001];
        for (int round = 0; round < 6; round++) {
            memset(in, round + 1, sizeof in);
            memset(out, 0, sizeof out);
            HOLDS_EQ(weir_chan_try_send(chan, in), WEIR_OK);
            if (round % 3)
                continue;
            HOLDS_EQ(weir_chan_try_recv(chan, out), WEIR_OK);
            HOLDS_EQ(out[sizes[i] - 1], out[0]);
            HOLDS_EQ(out[sizes[i]], 0); /* not a byte more */
            (void)weir_chan_try_recv(chan, out);
        }
        weir_chan_free(chan);
    }

    weir_chan *news = new_chan(0, 2); /* that something happened, no more */
    HOLDS_EQ(weir_chan_try_send(news, NULL), WEIR_OK);
    HOLDS_EQ(weir_chan_try_send(news, NULL), WEIR_OK);
    HOLDS_EQ(weir_chan_try_send(news, NULL), WEIR_FULL);
    HOLDS_EQ(weir_chan_recv(news, NULL, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_chan_count(news), 1);
    weir_chan_free(news);

    weir_chan *none = NULL;
    weir_error err;
    HOLDS_EQ(weir_chan_new(SIZE_MAX / 2, 3, &none, &err), WEIR_NOMEM);
    HOLDS(none == NULL && strstr(err.message, "3 elements") != NULL);
    HOLDS_EQ(weir_chan_new(1, SIZE_MAX, &none, NULL), WEIR_NOMEM);
    HOLDS_EQ(weir_chan_new(1, 1, NULL, &err), WEIR_USAGE);
    return WEIR_OK;
}

static void elements_may_have_any_size(void **state)
{
    (void)state;
    run_world(send_what_size, NULL);
}

static weir_status queue_senders(void *arg)
{
    (void)arg;
    for (size_t capacity = 0; capacity <= 2; capacity++) {
        weir_chan   *chan = new_chan(sizeof(int), capacity);
        struct party senders[5] = { 0 };
        turns = 0;
        for (int i = 0; i < 5; i++)
            start(send_one, &senders[i], chan, i);
        world_advance_ms(5);
        for (int i = 0; i < 5; i++)
            HOLDS_EQ(senders[i].done, i < (int)capacity);
        HOLDS_EQ(weir_chan_count(chan), capacity);
        for (int i = 0; i < 5; i++) {
            HOLDS_EQ(recv_now(chan), i);
            world_advance_ms(2);
            HOLDS_EQ(turns, i + 1 + (int)capacity < 5 ? i + 1 + (int)capacity : 5);
        }
        for (int i = 0; i < 5; i++) {
            HOLDS_EQ(senders[i].status, WEIR_OK);
            HOLDS_EQ(senders[i].turn, i + 1);
        }
        HOLDS_EQ(weir_chan_count(chan), 0);
        weir_chan_free(chan);
    }
    return WEIR_OK;
}

static void senders_wait_in_order_for_room(void **state)
{
    (void)state;
    run_world(queue_senders, NULL);
}

static weir_status queue_receivers(void *arg)
{
    (void)arg;
    for (size_t capacity = 0; capacity <= 2; capacity++) {
        weir_chan   *chan = new_chan(sizeof(int), capacity);
        struct party receivers[3] = { 0 };
        int          stolen = 77;
        turns = 0;
        for (int i = 0; i < 3; i++)
            start(recv_one, &receivers[i], chan, -1);
        world_settle();
        for (int i = 0; i < 3; i++)
            HOLDS_EQ(send_now(chan, 10 + i), WEIR_OK); /* to each, though none has run yet */
        HOLDS_EQ(weir_chan_count(chan), 0);
        HOLDS_EQ(weir_chan_try_recv(chan, &stolen), WEIR_TIMEOUT); /* nobody slips in between */
        HOLDS_EQ(turns, 0);
        world_advance_ms(2);
        for (int i = 0; i < 3; i++) {
            HOLDS_EQ(receivers[i].status, WEIR_OK);
            HOLDS_EQ(receivers[i].value, 10 + i);
            HOLDS_EQ(receivers[i].turn, i + 1);
        }
        HOLDS_EQ(send_now(chan, 1), capacity ? WEIR_OK : WEIR_FULL);
        weir_chan_free(chan);
    }
    return WEIR_OK;
}

static void receivers_are_served_in_order_and_directly(void **state)
{
    (void)state;
    run_world(queue_receivers, NULL);
}

/* ---- in one turn -------------------------------------------------------------------- */

/* Cancelled and served in one turn, in both orders: it was passed on, and both sides say so. */
static weir_status cancel_and_serve(void *arg)
{
    (void)arg;
    for (int order = 0; order < 2; order++) {
        weir_chan   *chan = new_chan(sizeof(int), 0);
        struct party receiver = { 0 }, sender = { 0 }, behind = { 0 };

        start(recv_one, &receiver, chan, -1);
        world_settle();
        if (order)
            weir_cancel(receiver.task);
        HOLDS_EQ(send_now(chan, 7), WEIR_OK);
        if (!order)
            weir_cancel(receiver.task);
        world_settle();
        HOLDS(receiver.done);
        HOLDS_EQ(receiver.status, WEIR_OK);
        HOLDS_EQ(receiver.value, 7);
        HOLDS_EQ(receiver.next, WEIR_CANCELED);

        start(send_one, &sender, chan, 8);
        start(send_one, &behind, chan, 9);
        world_settle();
        if (order)
            weir_cancel(sender.task);
        HOLDS_EQ(recv_now(chan), 8);
        if (!order)
            weir_cancel(sender.task);
        world_settle();
        HOLDS(sender.done && !behind.done);
        HOLDS_EQ(sender.status, WEIR_OK);
        HOLDS_EQ(recv_now(chan), 9);
        world_advance_ms(2);
        weir_chan_free(chan);
    }
    return WEIR_OK;
}

static void an_element_passed_on_in_the_turn_of_a_cancel_is_not_lost(void **state)
{
    (void)state;
    run_world(cancel_and_serve, NULL);
}

struct late {
    weir_chan *chan;
    int64_t    at_ns;
    bool       sends;
    int        value;
    weir_status status;
};

static weir_status meet_at_the_deadline(void *arg)
{
    struct late *me = arg;

    weir_sleep(weir_deadline_at(me->at_ns));
    me->status = me->sends ? weir_chan_try_send(me->chan, &me->value)
                           : weir_chan_try_recv(me->chan, &me->value);
    return WEIR_OK;
}

/* The other side comes in the turn of the deadline, before the waiter runs or after. */
static weir_status serve_at_the_deadline(void *arg)
{
    (void)arg;
    for (int sends = 0; sends < 2; sends++) {
        for (int waiter_first = 0; waiter_first < 2; waiter_first++) {
            weir_chan   *chan = new_chan(sizeof(int), 0);
            struct party waiter = { .patience_ms = 20 };
            struct late  other = { .chan = chan, .sends = !sends, .value = 5,
                                   .at_ns = weir_in_ms(20).at_ns };

            if (!waiter_first)
                weir_spawn(NULL, meet_at_the_deadline, &other);
            start(sends ? send_one : recv_one, &waiter, chan, 5);
            if (waiter_first)
                weir_spawn(NULL, meet_at_the_deadline, &other);
            world_advance_ms(25);
            HOLDS(waiter.done);
            HOLDS_EQ(waiter.status, waiter_first ? WEIR_TIMEOUT : WEIR_OK);
            HOLDS_EQ(other.status, !waiter_first ? WEIR_OK : sends ? WEIR_TIMEOUT : WEIR_FULL);
            HOLDS_EQ(waiter.value, 5);
            weir_chan_free(chan);
        }
    }
    return WEIR_OK;
}

static void in_the_turn_of_the_deadline_both_sides_say_the_same(void **state)
{
    (void)state;
    run_world(serve_at_the_deadline, NULL);
}

static weir_status give_up(void *arg)
{
    weir_chan   *chan = new_chan(sizeof(int), 1);
    struct party sender = { .patience_ms = 5 }, behind = { 0 };

    (void)arg;
    HOLDS_EQ(send_now(chan, 1), WEIR_OK);
    start(send_one, &sender, chan, 2);
    start(send_one, &behind, chan, 3);
    world_advance_ms(10);
    HOLDS_EQ(sender.status, WEIR_TIMEOUT);
    HOLDS_EQ(recv_now(chan), 1);
    HOLDS_EQ(recv_now(chan), 3); /* what he did not send nobody sees */
    HOLDS_EQ(weir_chan_count(chan), 0);
    world_advance_ms(5);
    weir_chan_free(chan);
    return WEIR_OK;
}

static void what_was_not_sent_in_time_is_never_seen(void **state)
{
    (void)state;
    run_world(give_up, NULL);
}

/* ---- the end ------------------------------------------------------------------------ */

static weir_status close_it(void *arg)
{
    weir_chan   *chan = new_chan(sizeof(int), 2);
    struct party sender = { 0 }, receivers[2] = { 0 };
    int          value = 77;

    (void)arg;
    HOLDS_EQ(send_now(chan, 1), WEIR_OK);
    HOLDS_EQ(send_now(chan, 2), WEIR_OK);
    start(send_one, &sender, chan, 3);
    world_settle();
    weir_chan_close(chan);
    weir_chan_close(chan);
    world_settle();
    HOLDS_EQ(sender.status, WEIR_CLOSED); /* it is still his */
    HOLDS_EQ(send_now(chan, 4), WEIR_CLOSED);
    HOLDS_EQ(weir_chan_send(chan, &value, WEIR_FOREVER), WEIR_CLOSED);
    HOLDS_EQ(weir_chan_recv(chan, &value, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(value, 1);
    HOLDS_EQ(recv_now(chan), 2);
    HOLDS_EQ(weir_chan_try_recv(chan, &value), WEIR_CLOSED);
    HOLDS_EQ(weir_chan_recv(chan, &value, WEIR_FOREVER), WEIR_CLOSED);
    HOLDS_EQ(value, 1);
    weir_chan_free(chan);

    chan = new_chan(sizeof(int), 2);
    for (int i = 0; i < 2; i++)
        start(recv_one, &receivers[i], chan, -1);
    world_settle();
    weir_chan_close(chan);
    world_advance_ms(2);
    for (int i = 0; i < 2; i++)
        HOLDS_EQ(receivers[i].status, WEIR_CLOSED);
    weir_chan_free(chan);
    return WEIR_OK;
}

static void a_closed_channel_gives_what_is_in_it_and_takes_nothing(void **state)
{
    (void)state;
    run_world(close_it, NULL);
}

static weir_status drain_it(void *arg)
{
    struct party *me = arg;

    return leave(me, weir_chan_drain(me->chan, patience(me)));
}

static weir_status drain(void *arg)
{
    weir_chan   *chan = new_chan(sizeof(int), 1);
    struct party drainer = { 0 }, hasty = { .patience_ms = 5 }, sender = { .patience_ms = 20 };

    (void)arg;
    HOLDS_EQ(weir_chan_drain(chan, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(send_now(chan, 1), WEIR_OK);
    start(send_one, &sender, chan, 2);
    start(drain_it, &drainer, chan, 0);
    start(drain_it, &hasty, chan, 0);
    world_advance_ms(10);
    HOLDS_EQ(hasty.status, WEIR_TIMEOUT);
    HOLDS_EQ(recv_now(chan), 1);
    world_settle();
    HOLDS(!drainer.done); /* the sender's is in it now */
    HOLDS_EQ(recv_now(chan), 2);
    world_advance_ms(2);
    HOLDS(drainer.done);
    HOLDS_EQ(drainer.status, WEIR_OK);

    /* One that waits only for a sender who gives up, and one for what nobody will receive. */
    weir_chan   *meet = new_chan(sizeof(int), 0);
    struct party leaver = { .patience_ms = 5 }, waits = { 0 }, freed = { 0 };
    start(send_one, &leaver, meet, 3);
    world_settle();
    start(drain_it, &waits, meet, 0);
    world_advance_ms(10);
    HOLDS(waits.done);
    HOLDS_EQ(waits.status, WEIR_OK);
    weir_chan_free(meet);

    HOLDS_EQ(send_now(chan, 4), WEIR_OK);
    start(drain_it, &freed, chan, 0);
    world_settle();
    weir_chan_free(chan);
    world_advance_ms(2);
    HOLDS_EQ(freed.status, WEIR_CLOSED);
    return WEIR_OK;
}

static void draining_waits_until_all_that_was_sent_is_received(void **state)
{
    (void)state;
    run_world(drain, NULL);
}

static weir_status free_it(void *arg)
{
    (void)arg;
    for (int sends = 0; sends < 2; sends++) {
        weir_chan   *chan = new_chan(sizeof(int), 0);
        struct party parties[3] = { 0 };
        for (int i = 0; i < 3; i++)
            start(sends ? send_one : recv_one, &parties[i], chan, i);
        world_settle();
        weir_chan_free(chan); /* gone before they run */
        world_advance_ms(2);
        for (int i = 0; i < 3; i++)
            HOLDS_EQ(parties[i].status, WEIR_CLOSED);
    }
    weir_autoptr(weir_chan) chan = new_chan(sizeof(int), 3);
    HOLDS_EQ(send_now(chan, 1), WEIR_OK); /* a leak checker sees that it goes */
    return WEIR_OK;
}

static void freeing_a_channel_tells_who_waits(void **state)
{
    (void)state;
    run_world(free_it, NULL);
}

static weir_status be_late_or_cancelled(void *arg)
{
    weir_chan *chan = arg;
    int        value = 77;

    {
        WEIR_DEADLINE(WEIR_NOW);
        HOLDS_EQ(weir_chan_recv(chan, &value, WEIR_FOREVER), WEIR_TIMEOUT);
        HOLDS_EQ(weir_chan_send(chan, &value, WEIR_FOREVER), WEIR_TIMEOUT);
        HOLDS_EQ(weir_chan_drain(chan, WEIR_FOREVER), WEIR_TIMEOUT);
    }
    weir_cancel(weir_self());
    HOLDS_EQ(weir_chan_recv(chan, &value, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(weir_chan_send(chan, &value, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(value, 77);
    HOLDS_EQ(weir_chan_count(chan), 1);
    HOLDS_EQ(weir_chan_try_recv(chan, &value), WEIR_OK); /* those see no cancel */
    HOLDS_EQ(value, 5);
    return WEIR_OK;
}

static weir_status try_late_or_cancelled(void *arg)
{
    weir_chan *chan = new_chan(sizeof(int), 2);

    (void)arg;
    HOLDS_EQ(send_now(chan, 5), WEIR_OK);
    weir_spawn(NULL, be_late_or_cancelled, chan);
    world_settle();
    weir_chan_free(chan);
    return WEIR_OK;
}

static void who_is_late_or_cancelled_neither_sends_nor_receives(void **state)
{
    (void)state;
    run_world(try_late_or_cancelled, NULL);
}

struct pump {
    weir_chan *chan;
    bool       over;
    long       passed;
};

/* Sends to itself and never has to wait. */
static weir_status pump(void *arg)
{
    struct pump *me = arg;
    int          value = 0;

    while (!me->over) {
        HOLDS_EQ(weir_chan_send(me->chan, &value, WEIR_FOREVER), WEIR_OK);
        HOLDS_EQ(weir_chan_recv(me->chan, &value, WEIR_FOREVER), WEIR_OK);
        me->passed++;
    }
    return WEIR_OK;
}

static weir_status let_it_pump(void *arg)
{
    struct pump me = { .chan = new_chan(sizeof(int), 1) };

    (void)arg;
    weir_task *task = weir_spawn(NULL, pump, &me);
    weir_yield();
    HOLDS(me.passed > 100); /* a good while, but not for ever */
    me.over = true;
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, NULL), WEIR_OK);
    weir_chan_free(me.chan);
    return WEIR_OK;
}

static void who_never_has_to_wait_gives_way(void **state)
{
    (void)state;
    run_world(let_it_pump, NULL);
}

/* ---- everywhere --------------------------------------------------------------------- */

enum { EACH = 3, NUMBERS = 64 };

static struct {
    weir_chan *chan;
    size_t     capacity;
    bool       sent[NUMBERS], received[NUMBERS];
    unsigned   finished[CAST_MAX];
} stage;

static weir_status send_some(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;

    PART_OF(me);
    for (int i = 0; i < EACH; i++) {
        int value = (int)me * EACH + i;
        point();
        if (weir_chan_send(stage.chan, &value, WEIR_FOREVER) != WEIR_OK)
            return WEIR_OK;
        stage.sent[value] = true;
        point();
        if (sleep_ms(i) != WEIR_OK)
            return WEIR_OK;
        stage.finished[me]++;
    }
    return WEIR_OK;
}

static weir_status receive_all(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    int      value;

    PART_OF(me);
    for (;;) {
        point();
        if (weir_chan_recv(stage.chan, &value, WEIR_FOREVER) != WEIR_OK)
            return WEIR_OK;
        HOLDS(value >= 0 && value < NUMBERS && !stage.received[value]);
        stage.received[value] = true;
        point();
        if (sleep_ms(1) != WEIR_OK)
            return WEIR_OK;
    }
}

static void begin_chan(void)
{
    size_t capacity = stage.capacity;

    memset(&stage, 0, sizeof stage);
    stage.capacity = capacity;
    stage.chan = new_chan(sizeof(int), capacity);
    for (uintptr_t i = 0; i < 2; i++)
        enter(send_some, (void *)i);
    for (uintptr_t i = 2; i < 4; i++)
        enter(receive_all, (void *)i);
}

static void close_chan(void)
{
    sleep_ms(15);
    HOLDS_EQ(weir_chan_drain(stage.chan, weir_in_ms(50)), WEIR_OK);
    weir_chan_close(stage.chan);
}

static void end_chan(void)
{
    for (int i = 0; i < NUMBERS; i++)
        HOLDS_EQ(stage.sent[i], stage.received[i]);
    for (unsigned i = 0; i < 2; i++) {
        if (!am_victim(i))
            HOLDS_EQ(stage.finished[i], EACH);
    }
    HOLDS_EQ(weir_chan_count(stage.chan), 0);
    weir_chan_free(stage.chan);
}

static void no_element_is_lost_or_doubled_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    for (stage.capacity = 0; stage.capacity <= 2; stage.capacity++)
        play_everywhere(&(struct scene){ begin_chan, close_chan, end_chan }, 16);
}

/* ---- by chance ---------------------------------------------------------------------- */

/*
 * Many senders and receivers, who give up and are cancelled by chance. Whatever happens, each
 * element whose send said WEIR_OK is received exactly once, and none else is. Where there is one
 * receiver, who sees in which order they come, a sender's elements come in his order.
 */
enum { CROWD = 8, SENDS = 200 };

static struct {
    weir_chan *chan;
    weir_task *tasks[2 * CROWD];
    int        senders, receivers;
    bool       sent[CROWD * SENDS], received[CROWD * SENDS];
    int        last[CROWD];
    unsigned   gave_up, passed;
} fair;

static weir_deadline some_patience(void)
{
    return chance(3) ? weir_in_ms(chance(4)) : WEIR_FOREVER;
}

static weir_status sell(void *arg)
{
    int me = (int)(intptr_t)arg;

    for (int i = 0; i < SENDS; i++) {
        int         value = me * SENDS + i;
        weir_status status = chance(5) ? weir_chan_send(fair.chan, &value, some_patience())
                                       : weir_chan_try_send(fair.chan, &value);
        fair.sent[value] = status == WEIR_OK;
        fair.gave_up += status == WEIR_TIMEOUT;
        if (status == WEIR_CANCELED)
            break;
        if (chance(4) == 0 && weir_sleep(weir_in_ms(chance(3))) != WEIR_OK)
            break;
    }
    fair.senders--;
    return WEIR_OK;
}

static weir_status buy(void *arg)
{
    (void)arg;
    for (;;) {
        int         value = -1;
        weir_status status = chance(5) ? weir_chan_recv(fair.chan, &value, some_patience())
                                       : weir_chan_try_recv(fair.chan, &value);
        if (status == WEIR_CLOSED || status == WEIR_CANCELED)
            return WEIR_OK;
        if (status == WEIR_OK) {
            HOLDS(!fair.received[value]);
            fair.received[value] = true;
            HOLDS(fair.receivers > 1 || fair.last[value / SENDS] < value);
            fair.last[value / SENDS] = value;
            fair.passed++;
        }
        if (chance(4) == 0 && weir_sleep(weir_in_ms(chance(3))) != WEIR_OK)
            return WEIR_OK;
        if (status == WEIR_TIMEOUT)
            weir_yield();
    }
}

static weir_status hold_a_fair(void *arg)
{
    weir_group *group = NULL;

    (void)arg;
    memset(&fair, 0, sizeof fair);
    memset(fair.last, -1, sizeof fair.last);
    fair.chan = new_chan(sizeof(int), chance(4));
    fair.senders = CROWD;
    fair.receivers = chance(3) ? CROWD : 1;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (intptr_t i = 0; i < CROWD; i++)
        fair.tasks[i] = weir_spawn(group, sell, (void *)i);
    for (int i = 0; i < fair.receivers; i++)
        fair.tasks[CROWD + i] = weir_spawn(group, buy, NULL);
    for (int i = 0; i < 6; i++) {
        sleep_ms(chance(40));
        weir_cancel(fair.tasks[chance((unsigned)(CROWD + fair.receivers - 1))]); /* one stays */
    }
    while (fair.senders)
        sleep_ms(1);
    HOLDS_EQ(weir_chan_drain(fair.chan, weir_in_ms(1000)), WEIR_OK);
    weir_chan_close(fair.chan);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(1000)), WEIR_OK);
    for (int i = 0; i < CROWD * SENDS; i++)
        HOLDS_EQ(fair.sent[i], fair.received[i]);
    HOLDS(fair.passed > SENDS / 2);
    weir_group_free(group);
    weir_chan_free(fair.chan);
    return WEIR_OK;
}

static void no_element_is_lost_or_doubled_in_a_crowd(void **state)
{
    unsigned gave_up = 0;

    (void)state;
    for (uint64_t i = 1; i <= (uint64_t)as_many_as(60, 10); i++) {
        seed = i;
        run_world(hold_a_fair, NULL);
        gave_up += fair.gave_up;
    }
    assert_true(gave_up > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(elements_come_out_as_they_went_in),
        TEST(elements_may_have_any_size),
        TEST(senders_wait_in_order_for_room),
        TEST(receivers_are_served_in_order_and_directly),
        TEST(an_element_passed_on_in_the_turn_of_a_cancel_is_not_lost),
        TEST(in_the_turn_of_the_deadline_both_sides_say_the_same),
        TEST(what_was_not_sent_in_time_is_never_seen),
        TEST(a_closed_channel_gives_what_is_in_it_and_takes_nothing),
        TEST(draining_waits_until_all_that_was_sent_is_received),
        TEST(freeing_a_channel_tells_who_waits),
        TEST(who_is_late_or_cancelled_neither_sends_nor_receives),
        TEST(who_never_has_to_wait_gives_way),
        TEST(no_element_is_lost_or_doubled_wherever_anybody_is_cut_off),
        TEST(no_element_is_lost_or_doubled_in_a_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
