/*
 * model_book.c - the reference model: what a pool owes its callers, and whether they got it.
 *
 * Knows:   who asked in which order and until when, who holds, who was cancelled; how often the
 *          pool was paused, cleared, resized; which ends of leases must close a connection.
 * Ignores: keepers, permits, alarms; when exactly a connection is there.
 *
 * So it does not foretell everything, but nothing may happen that it cannot explain: somebody
 * served before his elders, told of a failure that was none, waiting past his deadline, or
 * waiting while the pool has a place and no reason not to use it; a connection closed for a
 * reason that is not so; a number that is not what was counted here.
 */
#include "model.h"

#include "pool.h"
#include "pool_scene.h"

#define MS INT64_C(1000000)

/* Idle connections are taken after 100 ms of rest, looked for every 100 ms, and may take some
   time to close. */
enum { STARVED_MS = 300 };

void book_open(struct book *book, const weir_pool_opts *opts)
{
    list_init(&book->queue);
    book->opts = *opts;
    book->size = opts->max_size;
    book->state = opts->start_paused ? WEIR_POOL_PAUSED : WEIR_POOL_READY;
}

/* ---- callers ----------------------------------------------------------------------------- */

void book_asks(struct book *book, struct asker *asker)
{
    asker->asked_ns = weir_now();
    asker->queued = book->waiting;
    asker->quiet = book->quiet;
    asker->failures = scene_stats(book->pool).connect_failures;
    list_append(&book->queue, &asker->link);
    book->waiting++;
    book->asked++;
}

/* Is there a failure that he may have been told of? */
static bool may_be_refused(const struct book *book, const struct asker *asker)
{
    if (book->state != WEIR_POOL_READY || book->quiet != asker->quiet)
        return true;
    return scene_stats(book->pool).connect_failures > asker->failures ||
           (book->pool->failures_in_row && !pool_live(book->pool));
}

static void told_why_not(struct book *book, const struct asker *asker, weir_status status,
                         const weir_error *err)
{
    int64_t late_ns = weir_now() - asker->until_ns;

    EXPECT(err->message[0] != '\0');
    if (status == WEIR_TIMEOUT) {
        EXPECT(late_ns >= 0 && late_ns < MS);
        book->timeouts++;
    } else if (status == WEIR_CANCELED) {
        EXPECT(asker->canceled || asker->doomed);
        book->canceled += !asker->doomed;
    } else if (status == WEIR_FULL) {
        EXPECT(book->opts.max_waiters && asker->queued >= book->opts.max_waiters);
        book->refused++;
    } else if (status == WEIR_DEADLOCK) {
        EXPECT(asker->held > 0);
        book->refused++;
    } else if (status == WEIR_CONNECT) {
        EXPECT(may_be_refused(book, asker));
    } else {
        EXPECT_STATUS(status, WEIR_CLOSED);
        EXPECT(book->state == WEIR_POOL_CLOSED);
    }
}

/* Does somebody who came before him wait still? Not so whoever was handed a connection and has
   not run since: before he does, a newcomer may take an idle one. */
static bool is_overtaking(const struct book *book, const struct asker *asker)
{
    for (const struct list *node = asker->link.prev; node != &book->queue; node = node->prev) {
        const struct asker *elder = LIST_OF(node, struct asker, link);
        if (!book->pool)
            return false;
        LIST_EACH(waiting, &book->pool->waiters)
            if (LIST_OF(waiting, struct waiter, link)->task == elder->task)
                return true;
    }
    return false;
}

void book_told(struct book *book, struct asker *asker, weir_status status, weir_lease *lease,
               const weir_error *err)
{
    bool overtaking = is_overtaking(book, asker);

    list_unlink(&asker->link);
    book->waiting--;
    EXPECT((status == WEIR_OK) == (lease != NULL));
    if (status != WEIR_OK) {
        told_why_not(book, asker, status, err);
        return;
    }
    EXPECT(!overtaking);
    EXPECT(!asker->canceled && !asker->doomed);
    weir_condition condition = fake_condition(lease);
    EXPECT(condition == WEIR_CLEAN || condition == WEIR_GONE);
    book->acquired++;
    book->held++;
}

/* Before it is done: which reason must be counted for it, where that is certain? */
void book_lease_ends(struct book *book, weir_lease *lease, bool forgotten, bool close)
{
    const struct conn *conn = lease->conn;
    weir_condition     condition = fake_condition(lease);

    book->held--;
    book->forgotten += forgotten;
    if (condition == WEIR_CLEAN && book->opts.reset == WEIR_RESET_FULL)
        condition = WEIR_DIRTY;
    if (forgotten && book->opts.on_exit == WEIR_ON_EXIT_CLOSE)
        book->closed[WEIR_CLOSE_LEAKED]++;
    else if (condition != WEIR_CLEAN && conn->generation < book->generation &&
             book->state != WEIR_POOL_CLOSED)
        return; /* stale: counted when it was cleared */
    else if (condition == WEIR_GONE)
        book->closed[WEIR_CLOSE_LOST]++;
    else if (condition == WEIR_BROKEN)
        book->closed[WEIR_CLOSE_BROKEN]++;
    else if (close)
        book->closed[WEIR_CLOSE_REQUESTED]++;
}

/* ---- verbs ------------------------------------------------------------------------------- */

void book_pauses(struct book *book)
{
    book->quiet += book->state == WEIR_POOL_READY;
    book->state = WEIR_POOL_PAUSED;
}

void book_readies(struct book *book)
{
    book->state = WEIR_POOL_READY;
}

void book_clears(struct book *book)
{
    book_pauses(book);
    book->generation++;
    book->closed[WEIR_CLOSE_STALE] += pool_total(book->pool);
}

void book_closes(struct book *book)
{
    if (book->state == WEIR_POOL_CLOSED)
        return;
    book->state = WEIR_POOL_CLOSED;
    book->quiet++;
    book->closed[WEIR_CLOSE_POOL] = pool_total(book->pool);
}

void book_resizes(struct book *book, unsigned size)
{
    unsigned total = pool_total(book->pool);

    book->size = size;
    book->closed[WEIR_CLOSE_RESIZED] += total > size ? total - size : 0;
}

void book_loses_idle(struct book *book)
{
    book->closed[WEIR_CLOSE_LOST] += scene_stats(book->pool).idle;
}

/* ---- what is told of connections ---------------------------------------------------------- */

static void told_closed(struct book *book, const weir_pool_event *event)
{
    enum life life = book->lives[event->conn_id].life;
    int64_t   now = weir_now();
    int64_t   rested = now - book->lives[event->conn_id].since_ns;
    int64_t   age = now - book->lives[event->conn_id].born_ns;

    EXPECT(life != UNKNOWN && life != GONE && life != LENT);
    if (event->reason == WEIR_CLOSE_IDLE)
        EXPECT(life == RESTS && rested >= book->opts.idle_timeout_ms * MS);
    if (event->reason == WEIR_CLOSE_AGE)
        EXPECT(life == RESTS && age >= book->opts.max_age_ms * MS * 9 / 10);
    if (event->reason == WEIR_CLOSE_STALE)
        EXPECT(book->lives[event->conn_id].generation < book->generation);
    if (event->reason == WEIR_CLOSE_UNOPENED)
        EXPECT(life == CREATED);
}

static void live_on(struct book *book, const weir_pool_event *event, enum life from, enum life to)
{
    EXPECT_INT(book->lives[event->conn_id].life, from);
    book->lives[event->conn_id].life = to;
    book->lives[event->conn_id].since_ns = weir_now();
}

/* A connection that is lent is one that rests, of a pool that lends, and of its generation. */
static void told_lent(struct book *book, const weir_pool_event *event)
{
    book->ended++;
    live_on(book, event, RESTS, LENT);
    EXPECT_INT(book->state, WEIR_POOL_READY);
    EXPECT_INT(book->lives[event->conn_id].generation, book->generation);
}

void book_listen(const weir_pool_event *event, void *arg)
{
    struct book *book = arg;

    if (event->conn_id >= LIVES)
        return;
    if (event->type == WEIR_EVENT_CHECK_OUT_STARTED) {
        book->started++;
    } else if (event->type == WEIR_EVENT_CHECK_OUT_FAILED) {
        book->ended++;
    } else if (event->type == WEIR_EVENT_CHECKED_OUT) {
        told_lent(book, event);
    } else if (event->type == WEIR_EVENT_CHECKED_IN) {
        live_on(book, event, LENT, RESTS);
    } else if (event->type == WEIR_EVENT_CONN_CREATED) {
        live_on(book, event, UNKNOWN, CREATED);
        book->lives[event->conn_id].generation = book->generation;
    } else if (event->type == WEIR_EVENT_CONN_READY) {
        live_on(book, event, CREATED, RESTS);
        book->lives[event->conn_id].born_ns = weir_now();
    } else if (event->type == WEIR_EVENT_CONN_CLOSED) {
        told_closed(book, event);
        book->lives[event->conn_id].life = GONE;
    }
}

/* ---- now that nobody has anything to do ---------------------------------------------------- */

static void compare_numbers(const struct book *book, const weir_pool_stats *stats)
{
    EXPECT_INT(stats->state, book->state);
    EXPECT_INT(stats->max_size, book->size);
    EXPECT_INT(stats->generation, book->generation);
    EXPECT_INT(stats->waiting, book->waiting);
    EXPECT_INT(stats->in_use, book->held);
    EXPECT_INT(stats->acquired - stats->released, book->held);
    EXPECT_INT(stats->timeouts, book->timeouts);
    EXPECT_INT(stats->canceled, book->canceled);
    EXPECT_INT(stats->refused, book->refused);
    EXPECT_INT(stats->forgotten, book->forgotten);
    /* One handed to somebody cancelled in that very turn was lent and given back too. */
    EXPECT(stats->acquired >= book->acquired &&
           stats->acquired <= book->acquired + book->canceled);
}

static void compare_server(const struct book *book, const weir_pool_stats *stats)
{
    const struct fake *fake = &book->fake;

    if (fake->fault)
        expect_note("the driver's contract is broken: %s", fake->fault);
    EXPECT(!fake->fault);
    EXPECT_INT(fake->alive, stats->idle + stats->in_use + stats->resetting);
    EXPECT(!stats->idle || pool_total(book->pool) <= book->size);
    EXPECT(fake->opening <= book->opts.max_connecting);
}

/* How many were closed for each reason, those that are at it included. */
static void compare_closed(const struct book *book, const weir_pool_stats *stats)
{
    static const bool exact[WEIR_CLOSE_REASONS] = { [WEIR_CLOSE_REQUESTED] = true,
                                                    [WEIR_CLOSE_LEAKED] = true,
                                                    [WEIR_CLOSE_BROKEN] = true,
                                                    [WEIR_CLOSE_LOST] = true };
    uint64_t count[WEIR_CLOSE_REASONS], most[WEIR_CLOSE_REASONS];

    for (int reason = 0; reason < WEIR_CLOSE_REASONS; reason++) {
        count[reason] = stats->closed[reason];
        most[reason] = book->closed[reason];
    }
    LIST_EACH(node, &book->pool->conns[CONN_CLOSING]) {
        const struct conn *conn = LIST_OF(node, struct conn, link);
        count[conn->reason] += conn->opened;
    }
    most[WEIR_CLOSE_RESET_FAILED] = book->fake.resets_failed;
    most[WEIR_CLOSE_IDLE] = book->opts.idle_timeout_ms == WEIR_NEVER ? 0 : UINT64_MAX;
    most[WEIR_CLOSE_AGE] = book->opts.max_age_ms == WEIR_NEVER ? 0 : UINT64_MAX;
    most[WEIR_CLOSE_EVICTED] = book->hard_up ? UINT64_MAX : 0;
    for (int reason = 0; reason < WEIR_CLOSE_REASONS; reason++) {
        bool well = exact[reason] ? count[reason] == most[reason] : count[reason] <= most[reason];
        if (!well)
            expect_note("closed as \"%s\"", weir_close_reason_name((weir_close_reason)reason));
        if (exact[reason])
            EXPECT_INT(count[reason], most[reason]);
        else
            EXPECT(count[reason] <= most[reason]);
    }
}

/* Nobody waits past his deadline, nor cancelled; nor where all who hold wait here themselves, and
   no connection is on its way from one state to another. */
static void compare_askers(const struct book *book, const weir_pool_stats *stats)
{
    unsigned held = 0;

    LIST_EACH(node, &book->queue) {
        const struct asker *asker = LIST_OF(node, struct asker, link);
        if (asker->canceled || asker->until_ns < weir_now())
            expect_note("player %u", asker->player);
        EXPECT(!asker->canceled);
        EXPECT(asker->until_ns >= weir_now());
        held += asker->held;
    }
    if (stats->resetting + stats->connecting + stats->reserved == 0)
        EXPECT(!held || held < book->held || book->held < book->size);
}

/* Whoever waits has one coming, or there is a reason; likewise what is missing in a minimum,
   which need not be opened anew before those have gone that were evicted from it. */
static void compare_demand(const struct book *book, const weir_pool_stats *stats)
{
    unsigned opening = stats->reserved + stats->connecting;
    unsigned live = stats->idle + stats->in_use + stats->resetting;
    unsigned coming = stats->resetting + opening;
    bool     failing = book->pool->failures_in_row > 0;
    bool     hindered = live + opening >= book->size || opening >= book->opts.max_connecting ||
                    (failing && (opening || book->pool->retry_ns > weir_now()));
    bool     missing = stats->idle + coming < stats->waiting + book->opts.min_idle ||
                   live + opening < book->opts.min_size;

    EXPECT(!stats->waiting || !stats->idle);
    EXPECT(!book->opts.max_waiters || stats->waiting <= book->opts.max_waiters);
    EXPECT(stats->waiting <= coming || hindered);
    EXPECT(!missing || hindered || (book->hard_up && stats->closing));
}

void book_compare(struct book *book)
{
    if (!book->pool)
        return;
    weir_pool_stats stats = scene_stats(book->pool);

    compare_numbers(book, &stats);
    compare_server(book, &stats);
    compare_closed(book, &stats);
    compare_askers(book, &stats);
    scene_recount(book->pool);
    if (book->opts.on_event)
        EXPECT_INT(book->started, book->ended + book->waiting);
    if (book->state == WEIR_POOL_READY)
        compare_demand(book, &stats);
    else
        EXPECT_INT(stats.waiting + stats.reserved, 0);
    if (book->state == WEIR_POOL_CLOSED)
        EXPECT_INT(stats.idle, 0);
}

/* Is there room for `count` more, though somebody waits for no more than that? */
static bool room_for(const struct book *book, unsigned count, const weir_budget_stats *budget)
{
    const struct budget_share *share = book ? &book->pool->share : NULL;
    unsigned                   promised = 0;

    if (share && share->used < share->floor)
        promised = share->floor - share->used;
    if (count <= promised)
        return budget->used + count <= budget->limit;
    return budget->used + budget->floors + count - promised <= budget->limit;
}

void book_compare_budget(const struct list *books, unsigned tokens, unsigned asked_for)
{
    weir_budget_stats  budget = scene_budget();
    const struct book *in_line = NULL;
    unsigned           descriptors = tokens, lined_up = asked_for ? 1 : 0;

    LIST_EACH(node, books) {
        const struct book *book = LIST_OF(node, struct book, link);
        descriptors += book->fake.descriptors;
        if (!book->pool || !book->pool->count[CONN_RESERVED])
            continue;
        lined_up += book->pool->count[CONN_RESERVED];
        in_line = book;
    }
    EXPECT(budget.used >= descriptors);
    EXPECT(budget.used <= budget.limit);
    if (budget.waiting != 1 || lined_up != 1)
        return; /* who waits behind somebody who needs more waits rightly */
    unsigned count = in_line ? in_line->fake.sockets : asked_for;
    EXPECT(!room_for(in_line, count, &budget));
}

/* Has another pool one to spare that has done nothing for so long? */
static bool somebody_idles(const struct list *books, const struct book *but)
{
    LIST_EACH(node, books) {
        const struct book *book = LIST_OF(node, struct book, link);
        if (book == but || !book->pool)
            continue;
        const struct budget_share *share = &book->pool->share;
        const struct list         *last = list_last(&book->pool->conns[CONN_IDLE]);
        if (last && share->used - share->leaving > share->floor &&
            weir_now() - LIST_OF(last, struct conn, link)->since_ns > STARVED_MS * MS)
            return true;
    }
    return false;
}

static bool asked_before(const struct book *book, int64_t time_ns)
{
    const struct list *first = list_first(&book->queue);

    return first && LIST_OF(first, struct asker, link)->asked_ns < time_ns;
}

void book_compare_idleness(const struct list *books, int64_t token_ns)
{
    int64_t too_long = weir_now() - STARVED_MS * MS;

    if (token_ns && token_ns < too_long)
        EXPECT(!somebody_idles(books, NULL));
    LIST_EACH(node, books) {
        struct book *book = LIST_OF(node, struct book, link);
        bool         is_short = book->pool && book->waiting && book->pool->count[CONN_RESERVED];
        if (!is_short || book->short_opened != book->pool->stats.opened) {
            book->short_ns = is_short ? weir_now() : 0;
            book->short_opened = is_short ? book->pool->stats.opened : 0;
        }
        if (book->short_ns && book->short_ns < too_long && asked_before(book, too_long))
            EXPECT(!somebody_idles(books, book));
    }
}
