/*
 * model_play.c - the players who do what an operation says.
 *
 * Knows:   how each operation is done, and where there is nothing to do.
 * Ignores: what ought to come of it: that is told to the book, which judges.
 *
 * The director's coroutine takes one operation after the other. What a pool asks of a coroutine
 * (taking, giving back, ending) is done by the player it names, who is woken for it, and is made
 * anew where he has ended; the rest the director does himself.
 */
#include "model.h"

#include "pool.h"
#include "pool_scene.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/log.h>

enum { PLENTY = 1000, LAST_CURTAIN_MS = 6000 };

/* ---- who plays --------------------------------------------------------------------------- */

struct held {
    weir_lease  *lease;
    struct book *book;
    unsigned     nested; /* of a local lease */
};

struct player {
    unsigned          number;
    weir_task        *task; /* NULL: he has ended */
    weir_waker        waker;
    bool              ordered;
    struct op         order;
    struct asker      asker;
    struct book      *waits_in;
    bool              canceled, wants; /* wants: descriptors, for now in vain */
    int64_t           wants_ns;        /* since then */
    unsigned          last_words;      /* what he does once he is cancelled */
    struct held       slots[SLOTS];
    struct held       locals[POOLS];
    weir_budget_token token;
};

static struct {
    const struct plan *plan;
    struct verdict    *verdict;
    struct list        books; /* all there were, the latest of a place in `place` */
    struct book       *place[POOLS];
    struct player      players[PLAYERS];
    unsigned           others; /* coroutines that drain, close or free */
} play;

static void *must_have(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* ---- what a player does ------------------------------------------------------------------ */

static unsigned free_slots(const struct player *player)
{
    unsigned count = 0;

    for (int i = 0; i < SLOTS; i++)
        count += !player->slots[i].lease;
    return count;
}

static struct held *free_slot(struct player *player)
{
    for (int i = 0; i < SLOTS; i++)
        if (!player->slots[i].lease)
            return &player->slots[i];
    abort(); /* nobody asks without one, nor is given the last one */
}

/* A connection of that pool that he holds. */
static struct held *some_held(struct player *player, const struct op *op)
{
    for (int i = 0; i < SLOTS; i++)
        if (player->slots[i].lease && player->slots[i].book == play.place[op->pool])
            return &player->slots[i];
    for (int i = 0; i < SLOTS; i++) /* or else any, perhaps of a pool that is freed */
        if (player->slots[i].lease)
            return &player->slots[i];
    return NULL;
}

static unsigned holds_of(const struct player *player, const struct book *book)
{
    unsigned count = 0;

    for (int i = 0; i < SLOTS; i++)
        count += player->slots[i].lease && player->slots[i].book == book;
    for (int i = 0; i < POOLS; i++)
        count += player->locals[i].lease && player->locals[i].book == book;
    return count;
}

static int64_t until(const struct book *book, unsigned ms)
{
    int64_t limit = book->opts.acquire_timeout_ms;

    return weir_in_ms(ms < limit ? ms : limit).at_ns;
}

static weir_lease *take(struct player *me, struct book *book, unsigned ms, bool local)
{
    weir_error    err = { 0 };
    weir_lease   *lease = NULL;
    weir_deadline deadline = ms ? weir_in_ms(ms) : WEIR_NOW;

    me->asker = (struct asker){ .player = me->number,
                                .task = weir_self(),
                                .held = holds_of(me, book),
                                .until_ns = ms ? until(book, ms) : weir_now(),
                                .doomed = weir_check() == WEIR_CANCELED };
    me->waits_in = book;
    book_asks(book, &me->asker);
    weir_status status = local ? weir_local_lease(book->pool, deadline, &lease, &err)
                               : weir_acquire(book->pool, deadline, &lease, &err);
    me->waits_in = NULL;
    book_told(book, &me->asker, status, lease, &err);
    return lease;
}

static void ask(struct player *me, const struct op *op)
{
    struct book *book = play.place[op->pool];

    if (!book->pool || free_slots(me) < 2)
        return;
    weir_lease *lease = take(me, book, op->a, false);
    if (lease)
        *free_slot(me) = (struct held){ lease, book, 0 };
}

static void ask_local(struct player *me, const struct op *op)
{
    struct held *local = &me->locals[op->pool];
    struct book *book = play.place[op->pool];
    weir_lease  *again;

    if (!book->pool || (local->lease && local->book != book))
        return; /* one of a pool that is no more: give it back first */
    if (!local->lease) {
        weir_lease *lease = take(me, book, op->a, true);
        if (lease)
            *local = (struct held){ lease, book, 1 };
        return;
    }
    EXPECT_STATUS(weir_local_lease(book->pool, WEIR_NOW, &again, NULL), WEIR_OK);
    EXPECT(again == local->lease);
    local->nested++;
}

/* The condition is changed only by who left it otherwise: a dead one stays dead. */
static void leave_as(weir_lease *lease, weir_condition condition)
{
    if (fake_condition(lease) == WEIR_CLEAN)
        fake_leave(lease, condition);
}

static void part_with(struct held *held, weir_condition condition, bool close)
{
    leave_as(held->lease, condition);
    book_lease_ends(held->book, held->lease, false, close);
    EXPECT_STATUS(close ? weir_lease_close(held->lease) : weir_release(held->lease), WEIR_OK);
    held->lease = NULL;
}

static void give_back_local(struct held *local, weir_condition condition)
{
    if (!local->lease)
        return;
    if (local->nested-- > 1)
        EXPECT_STATUS(weir_release(local->lease), WEIR_OK);
    else
        part_with(local, condition, false);
}

static void give_back_all(struct player *me, weir_condition condition)
{
    for (int i = 0; i < SLOTS; i++)
        if (me->slots[i].lease)
            part_with(&me->slots[i], condition, false);
    for (int i = 0; i < POOLS; i++)
        while (me->locals[i].lease)
            give_back_local(&me->locals[i], condition);
}

static void give_away(struct player *me, struct held *held, struct player *heir)
{
    if (heir == me || !heir->task || weir_task_done(heir->task) || free_slots(heir) < 2)
        return;
    struct held gift = *held;
    held->lease = NULL;
    *free_slot(heir) = gift;
    if (heir->waits_in == gift.book)
        heir->asker.held++;
    EXPECT_STATUS(weir_lease_give(gift.lease, heir->task), WEIR_OK);
}

static void take_descriptors(struct player *me, const struct op *op)
{
    if (me->token.descriptors)
        return;
    me->wants = true;
    me->wants_ns = weir_now();
    weir_status status = weir_budget_take(op->b, weir_in_ms(op->a), &me->token, NULL);
    me->wants = false;
    EXPECT((status == WEIR_OK) == (me->token.descriptors > 0));
    EXPECT(status != WEIR_CANCELED || me->canceled);
    EXPECT(status != WEIR_USAGE || play.plan->budget < PLENTY);
}

static void obey(struct player *me, const struct op *op)
{
    struct held *held = some_held(me, op);

    if (op->verb == ASK)
        ask(me, op);
    else if (op->verb == ASK_LOCAL)
        ask_local(me, op);
    else if (op->verb == GIVE_LOCAL)
        give_back_local(&me->locals[op->pool], (weir_condition)op->a);
    else if (op->verb == TAKE)
        take_descriptors(me, op);
    else if (op->verb == GIVE_TOKEN)
        weir_budget_give(&me->token);
    else if (!held)
        return;
    else if (op->verb == GIVE_BACK_IT || op->verb == CLOSE_IT)
        part_with(held, (weir_condition)op->a, op->verb == CLOSE_IT);
    else if (op->verb == GIVE_AWAY)
        give_away(me, held, &play.players[op->a]);
    else if (op->verb == QUERY && held->book->pool)
        (void)fake_query(held->lease, op->a);
}

/* He ends with what he holds. */
static void forget_all(struct player *me)
{
    for (int i = 0; i < SLOTS; i++)
        if (me->slots[i].lease)
            book_lease_ends(me->slots[i].book, me->slots[i].lease, true, false);
    for (int i = 0; i < POOLS; i++)
        if (me->locals[i].lease)
            book_lease_ends(me->locals[i].book, me->locals[i].lease, true, false);
    memset(me->slots, 0, sizeof me->slots);
    memset(me->locals, 0, sizeof me->locals);
}

static weir_status play_along(void *arg)
{
    struct player *me = arg;
    bool           forgets = false, ends = false;

    while (!ends && weir_check() == WEIR_OK) {
        if (me->ordered) {
            forgets = me->order.verb == FORGET_IT;
            ends = forgets || me->order.verb == LEAVE;
            if (!ends)
                obey(me, &me->order);
            me->ordered = false;
        }
        if (ends || weir_check() != WEIR_OK)
            break;
        me->waker = weir_waker_new();
        (void)weir_park(WEIR_FOREVER, "an order");
    }
    if (me->canceled && me->last_words == 2) /* what he asks for now he cannot have */
        ask(me, &me->order);
    if (forgets || (me->canceled && me->last_words == 1))
        forget_all(me);
    else
        give_back_all(me, WEIR_CLEAN);
    weir_budget_give(&me->token);
    me->ordered = false;
    me->task = NULL;
    return WEIR_OK;
}

/* Whoever has something to do already is left alone. */
static void order(const struct op *op)
{
    struct player *player = &play.players[op->who];

    if (player->ordered)
        return;
    player->ordered = true;
    player->order = *op;
    if (player->task) {
        weir_wake(player->waker);
        return;
    }
    player->canceled = false;
    player->task = must_have(weir_spawn(NULL, play_along, player));
}

static void cancel(struct player *player, unsigned last_words)
{
    if (!player->task || player->canceled)
        return;
    player->canceled = player->asker.canceled = true;
    player->last_words = last_words;
    weir_cancel(player->task);
}

/* ---- what the server does ---------------------------------------------------------------- */

static struct fake_step step_of(unsigned mood)
{
    switch ((enum mood)mood) {
    case AT_ONCE: return (struct fake_step){ 0 };
    case SLOWLY: return (struct fake_step){ .ms = 7 };
    case BADLY: return (struct fake_step){ .status = WEIR_CONNECT, .words = "refused" };
    case SLOWLY_BADLY:
        return (struct fake_step){ .status = WEIR_CONNECT, .ms = 13, .words = "refused" };
    case NO_DESCRIPTORS: return (struct fake_step){ .status = WEIR_BUSY, .words = "EMFILE" };
    default: return (struct fake_step){ .ms = FAKE_FOREVER };
    }
}

static struct fake_step step_of_close(unsigned mood)
{
    if (mood == AT_ONCE || mood == NEVER)
        return step_of(mood);
    return (struct fake_step){ .ms = 11 * mood, .deaf = mood > SLOWLY };
}

static void stir(struct book *book)
{
    if (!book->pool)
        return;
    book_loses_idle(book);
    (void)fake_stir(&book->fake);
}

/* Those handed over in this very turn are as yet nobody's, and live. */
static void die(struct book *book)
{
    for (int i = 0; i < PLAYERS; i++) {
        struct player *player = &play.players[i];
        for (int k = 0; k < SLOTS; k++)
            if (player->slots[k].lease && player->slots[k].book == book)
                fake_leave(player->slots[k].lease, WEIR_GONE);
        for (int k = 0; k < POOLS; k++)
            if (player->locals[k].lease && player->locals[k].book == book)
                fake_leave(player->locals[k].lease, WEIR_GONE);
    }
    book->fake.open = step_of(BADLY);
    stir(book);
}

/* ---- what is done to a pool --------------------------------------------------------------- */

/* The book is told first: what comes of it may be told at once. */
static void pause_or_ready(struct book *book, bool ready)
{
    weir_status wanted = book->state == WEIR_POOL_CLOSED ? WEIR_CLOSED : WEIR_OK;

    if (wanted == WEIR_OK && ready)
        book_readies(book);
    else if (wanted == WEIR_OK)
        book_pauses(book);
    EXPECT_STATUS(ready ? weir_pool_ready(book->pool, NULL) : weir_pool_pause(book->pool, NULL),
                  wanted);
}

static void clear(struct book *book, bool interrupt)
{
    weir_status wanted = book->state == WEIR_POOL_CLOSED ? WEIR_CLOSED : WEIR_OK;

    if (wanted == WEIR_OK)
        book_clears(book);
    EXPECT_STATUS(weir_pool_clear(book->pool, interrupt, NULL, NULL), wanted);
}

static void resize(struct book *book, unsigned size)
{
    bool        allowed = size && size >= book->opts.min_idle && size >= book->opts.min_size;
    weir_status wanted = book->state == WEIR_POOL_CLOSED ? WEIR_CLOSED
                         : allowed                       ? WEIR_OK
                                                         : WEIR_USAGE;

    if (wanted == WEIR_OK)
        book_resizes(book, size);
    EXPECT_STATUS(weir_pool_resize(book->pool, size, NULL), wanted);
}

struct errand {
    struct op    op;
    struct book *book;
};

static weir_status run_errand(void *arg)
{
    struct errand errand = *(struct errand *)arg;
    struct book  *book = errand.book;
    weir_pool    *pool = book->pool;

    free(arg);
    if (errand.op.verb == DRAIN && pool) {
        weir_status refused = book->state == WEIR_POOL_CLOSED ? WEIR_CLOSED : WEIR_OK;
        if (refused == WEIR_OK)
            book_clears(book);
        weir_status status = weir_pool_drain(pool, weir_in_ms(errand.op.a), NULL);
        EXPECT(status == refused || (refused == WEIR_OK && status == WEIR_TIMEOUT));
    } else if (errand.op.verb == CLOSE_POOL && pool) {
        book_closes(book);
        weir_status status = weir_pool_close(pool, weir_in_ms(errand.op.a));
        EXPECT(status == WEIR_OK || status == WEIR_TIMEOUT);
    } else if (errand.op.verb == REPLACE_POOL && pool) {
        book_closes(book);
        book->pool = NULL; /* its memory may go as soon as its last connection does */
        weir_pool_free(pool);
    }
    play.others--;
    return WEIR_OK;
}

static void send_errand(const struct op *op, struct book *book)
{
    struct errand *errand = must_have(malloc(sizeof *errand));

    *errand = (struct errand){ *op, book };
    play.others++;
    must_have(weir_spawn(NULL, run_errand, errand));
}

/* Where descriptors are short there may be none to promise a new pool; then its place is empty
   until somebody tries again. */
static void make_pool(unsigned place)
{
    struct book   *book = must_have(calloc(1, sizeof *book));
    weir_pool_opts opts = play.plan->opts[place];
    weir_error     err = { 0 };

    list_append(&play.books, &book->link);
    play.place[place] = book;
    book->fake.sockets = play.plan->sockets[place];
    book->hard_up = play.plan->budget < PLENTY;
    fake_init(&book->fake);
    if (play.plan->listens) {
        opts.on_event = book_listen;
        opts.on_event_arg = book;
    }
    book_open(book, &opts);
    weir_status status = weir_pool_new(&fake_driver, &book->fake, &opts, &book->pool, &err);
    EXPECT_STATUS(status, status == WEIR_FULL && book->hard_up ? WEIR_FULL : WEIR_OK);
    if (book->pool)
        book->pool->random = 1; /* a play is the same each time */
    else
        book->state = WEIR_POOL_CLOSED;
}

static void set_budget(unsigned limit)
{
    weir_status status = weir_budget_set(&(weir_budget_opts){ .limit = limit }, NULL);

    EXPECT(status == WEIR_OK || status == WEIR_USAGE);
}

static void direct(const struct op *op)
{
    struct book *book = play.place[op->pool];

    if (op->verb < PLAYERS_DO) {
        order(op);
    } else if (op->verb == CANCEL) {
        cancel(&play.players[op->who], op->a);
    } else if (op->verb == PASS_TIME) {
        world_advance_ms(op->a);
    } else if (op->verb == BUDGET) {
        set_budget(op->a);
    } else if (op->verb == REPLACE_POOL) {
        send_errand(op, book);
        world_settle();
        make_pool(op->pool);
    } else if (!book->pool) {
        return;
    } else if (op->verb == STIR) {
        stir(book);
    } else if (op->verb == DIE) {
        die(book);
    } else if (op->verb == CONNECTS) {
        book->fake.open = step_of(op->a);
    } else if (op->verb == RESETS) {
        book->fake.reset = step_of(op->a);
    } else if (op->verb == CLOSES) {
        book->fake.close = step_of_close(op->a);
    } else if (op->verb == PAUSE || op->verb == READY) {
        pause_or_ready(book, op->verb == READY);
    } else if (op->verb == CLEAR) {
        clear(book, op->a);
    } else if (op->verb == RESIZE) {
        resize(book, op->a);
    } else {
        send_errand(op, book);
    }
}

/* ---- a play ------------------------------------------------------------------------------ */

static void compare(void)
{
    unsigned tokens = 0, asked_for = 0, askers = 0;
    int64_t  oldest = 0;

    for (int i = 0; i < PLAYERS; i++) {
        tokens += play.players[i].token.descriptors;
        askers += play.players[i].wants;
        asked_for += play.players[i].wants ? play.players[i].order.b : 0;
        if (play.players[i].wants && (!oldest || play.players[i].wants_ns < oldest))
            oldest = play.players[i].wants_ns;
    }
    LIST_EACH(node, &play.books)
        book_compare(LIST_OF(node, struct book, link));
    book_compare_budget(&play.books, tokens, askers == 1 ? asked_for : 0);
    book_compare_idleness(&play.books, oldest);
}

static void play_operations(void)
{
    for (unsigned i = 0; i < play.plan->count && !expect_failures(); i++) {
        const struct op *op = &play.plan->ops[i];
        play.verdict->at = i;
        direct(op);
        if (op->then == SETTLE) {
            world_settle();
            compare();
        } else if (op->then == YIELD) {
            (void)weir_yield();
        }
    }
}

static void everything_well_again(void)
{
    set_budget(PLENTY);
    LIST_EACH(node, &play.books) {
        struct book *book = LIST_OF(node, struct book, link);
        book->fake.open = book->fake.reset = book->fake.close = (struct fake_step){ 0 };
        if (book->pool && book->state == WEIR_POOL_PAUSED)
            pause_or_ready(book, true);
    }
}

/* Who comes now is served, whatever happened before. */
static void somebody_comes_late(void)
{
    for (uint8_t place = 0; place < POOLS; place++) {
        struct book *book = play.place[place];
        uint64_t     acquired = book->acquired;
        order(&(struct op){ .verb = ASK, .who = 0, .pool = place, .a = 1000 });
        world_advance_ms(10);
        if (book->pool && book->state == WEIR_POOL_READY)
            EXPECT_INT(book->acquired, acquired + 1);
    }
}

static void everybody_leaves(void)
{
    for (int round = 0; round < 2; round++, world_advance_ms(LAST_CURTAIN_MS))
        for (uint8_t i = 0; i < PLAYERS; i++)
            if (play.players[i].task)
                order(&(struct op){ .verb = LEAVE, .who = i });
    for (int i = 0; i < PLAYERS; i++)
        EXPECT(!play.players[i].task);
    EXPECT_INT(play.others, 0);
}

static void clean_up(void)
{
    LIST_EACH(node, &play.books) {
        struct book *book = LIST_OF(node, struct book, link);
        weir_pool_free(book->pool);
        EXPECT(!book->fake.fault);
        EXPECT_INT(book->fake.handles, 0);
        EXPECT_INT(book->fake.descriptors, 0);
        EXPECT_INT(book->fake.configs_freed, 1);
    }
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 0);
    EXPECT_INT(scene_budget().waiting, 0);
}

/* What comes after a failure says nothing any more. */
static void stop_if_failed(void)
{
    if (!expect_failures())
        return;
    snprintf(play.verdict->words, sizeof play.verdict->words, "%s", expect_words());
    if (play.plan->failed)
        play.plan->failed();
    _Exit(1);
}

static void sum_up(void)
{
    LIST_EACH(node, &play.books) {
        struct book *book = LIST_OF(node, struct book, link);
        play.verdict->asked += book->asked;
        play.verdict->served += book->acquired;
        play.verdict->given_up += book->timeouts + book->canceled + book->refused;
        play.verdict->opened += book->fake.opened;
        free(book);
    }
}

static void hear_nothing(weir_log_level level, const char *line, void *arg)
{
    (void)level, (void)line, (void)arg;
}

void play_plan_here(const struct plan *plan, struct verdict *out)
{
    memset(&play, 0, sizeof play);
    play.plan = plan;
    play.verdict = out;
    list_init(&play.books);
    for (unsigned i = 0; i < PLAYERS; i++)
        play.players[i].number = i;
    weir_log_set(hear_nothing, NULL, WEIR_LOG_ERROR);
    set_budget(plan->budget);
    for (unsigned place = 0; place < POOLS; place++)
        make_pool(place);
    play_operations();
    stop_if_failed();
    play.verdict->at = play.plan->count;
    everything_well_again();
    everybody_leaves();
    compare();
    somebody_comes_late();
    everybody_leaves();
    clean_up();
    stop_if_failed();
    sum_up();
}

struct performance {
    const struct plan *plan;
    struct verdict    *out;
};

static weir_status curtain_up(void *arg)
{
    const struct performance *performance = arg;

    play_plan_here(performance->plan, performance->out);
    return WEIR_OK;
}

void play_plan(const struct plan *plan, struct verdict *out)
{
    if (world_run(curtain_up, &(struct performance){ plan, out }) != WEIR_OK)
        abort();
}
