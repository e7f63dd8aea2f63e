/*
 * life.c - one life: which kind it is, how patient it is, and the books it keeps.
 *
 * Knows:   the plan that follows from the seed; that a call which fails by no fault of the
 *          life is worth another attempt, later each time; what every failure is booked as.
 * Ignores: what is asked of the server (deed.c), and the ways to go wrong (misdeed.c).
 *
 * A life's only argument is its database, number and kind, packed into a pointer; everything else
 * is on its own stack. So lives cost no memory that could be mistaken for a leak.
 */
#include "soak.h"

#include <errno.h>
#include <string.h>

static const struct {
    const char *name;
    const char *words;
} kinds[KINDS] = {
    [WELL_BEHAVED] = { "well_behaved", "behaves" },
    [FORGET] = { "forget", "ends without giving its lease back" },
    [CANCEL_WAIT] = { "cancel_wait", "is cancelled while it waits for a connection" },
    [CANCEL_CONNECT] = { "cancel_connect", "is cancelled while the pool connects for it" },
    [CANCEL_QUERY] = { "cancel_query", "is cancelled in the middle of a query" },
    [TIMEOUT_WAIT] = { "timeout_wait", "runs out of time while it waits for a connection" },
    [TIMEOUT_QUERY] = { "timeout_query", "runs out of time in the middle of a query" },
    [OPEN_TRANSACTION] = { "open_transaction", "leaves a transaction open" },
    [HALF_READ] = { "half_read", "leaves an answer half read" },
    [NESTED] = { "nested", "wants a second connection while it holds one" },
    [NESTED_LOCAL] = { "nested_local", "takes its coroutine's lease twice" },
    [OUTLIVE] = { "outlive", "goes on with an answer after it gave its lease back" },
    [MISUSE] = { "misuse", "destroys its client, or lets another coroutine speak on it" },
};

const char *kind_name(enum kind kind)
{
    return kinds[kind].name;
}

const char *kind_words(enum kind kind)
{
    return kinds[kind].words;
}

/* ---- chance, the same for the same seed --------------------------------------------- */

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t life_random(struct life *life, uint32_t below)
{
    return (uint32_t)((splitmix(&life->random) >> 32) * below >> 32);
}

/* Each kind has exactly its share in every block, in an order of the seed's. */
void life_plan_block(const struct database *db, uint64_t first, uint8_t plan[PLAN_BLOCK])
{
    struct life chance = { .random = soak.options.seed * UINT64_C(0xd1342543de82ef95) + first };
    unsigned    at = 0;

    for (unsigned kind = 0; kind < KINDS; kind++)
        for (unsigned i = 0; i < db->share[kind]; i++)
            plan[at++] = (uint8_t)kind;
    for (unsigned i = PLAN_BLOCK - 1; i > 0; i--) {
        unsigned other = life_random(&chance, i + 1);
        uint8_t  kind = plan[i];
        plan[i] = plan[other];
        plan[other] = kind;
    }
}

void *life_pack(const struct database *db, uint64_t number, enum kind kind)
{
    return (void *)(uintptr_t)(number << 8 | (uintptr_t)(db - soak.database) << 7 | kind);
}

/* ---- the books ---------------------------------------------------------------------- */

static bool is_emfile(const weir_error *err)
{
    if (err->status == WEIR_SERVER)
        return false; /* the server's own descriptors are its own affair */
    return ((err->native == EMFILE || err->native == ENFILE) && err->status == WEIR_CONNECT) ||
           strstr(err->message, "Too many open files") || strstr(err->message, "(24)");
}

void life_note_failure(struct database *db, const weir_error *err, weir_status expected)
{
    struct tally *t = &db->tally;

    if (err->status > WEIR_FAILED)
        return;
    t->failures[err->status]++;
    if (err->status != expected)
        t->unexpected[err->status]++;
    if (is_emfile(err) && !t->emfile_surfaced++)
        snprintf(t->first_emfile, sizeof t->first_emfile, "%s", err->message);
}

/* Of those that no accident touched. The time off is as of the last tick: less than there was, at
   the beginning. */
static void note_wait(struct database *db, int64_t began, int64_t off, unsigned behind)
{
    struct tally *t = &db->tally;
    int64_t       now = watch_clock_ns(), took_us = (now - began) / 1000;

    if (began < db->calm_since_ns || took_us <= (int64_t)t->calm_wait_max_us)
        return;
    took_us -= (watch_off_now_ns() - off) / 1000;
    if (took_us <= (int64_t)t->calm_wait_max_us)
        return;
    t->calm_wait_max_us = (uint64_t)took_us;
    t->calm_wait_behind = behind;
    t->calm_wait_at_s = watch_seconds();
}

weir_status life_acquire_at(struct database *db, weir_deadline deadline, weir_lease **out,
                            weir_error *err, const char *site)
{
    int64_t     began = watch_clock_ns(), off = watch_off_ns();
    unsigned    behind = db->now.waiting;
    weir_status status = weir_acquire_at(db->pool, deadline, out, err, site);

    if (status == WEIR_OK)
        spread_add(&db->tally.wait, watch_clock_ns() - began);
    note_wait(db, began, off, behind);
    return status;
}

weir_status life_lease_at(struct database *db, weir_lease **out, weir_error *err,
                          const char *site)
{
    weir_status status = life_acquire_at(db, WEIR_FOREVER, out, err, site);

    if (status != WEIR_OK)
        life_note_failure(db, err, WEIR_OK);
    return status;
}

/* ---- patience ----------------------------------------------------------------------- */

bool life_tries_again(struct life *life, unsigned attempt, const weir_error *err)
{
    int64_t pause_ms = attempt < 6 ? INT64_C(25) << attempt : 1500;

    switch (err->status) {
    case WEIR_LOST:
    case WEIR_CONNECT:
    case WEIR_TIMEOUT:
    case WEIR_DEADLOCK:
        break;
    case WEIR_SERVER:
        if (life->db->dialect->passes(err->native))
            break;
        return false;
    default:
        return false;
    }
    if (attempt >= PATIENCE)
        return false;
    life->db->tally.retries++;
    /* Half of it by chance, so that those who failed together do not come back together. */
    pause_ms = pause_ms / 2 + life_random(life, (uint32_t)pause_ms);
    return weir_sleep(weir_in_ms(pause_ms)) == WEIR_OK;
}

/* ---- a life ------------------------------------------------------------------------- */

/* One lease, and on it what is still to be done. */
static weir_status work(struct life *life, unsigned wanted, unsigned *done, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(life->db, &lease, err);

    if (status != WEIR_OK)
        return status;
    while (*done < wanted) {
        status = life->db->dialect->deed(life, lease, deed_draw(life), err);
        if (status != WEIR_OK)
            return status;
        ++*done;
    }
    return WEIR_OK;
}

static bool behave(struct life *life)
{
    unsigned   wanted = 1 + life_random(life, 3);
    unsigned   done = 0;
    unsigned   attempt = 1;
    weir_error err = { 0 };

    while (work(life, wanted, &done, &err) != WEIR_OK) {
        if (life_tries_again(life, attempt++, &err))
            continue;
        struct tally *t = &life->db->tally;
        if (!t->first_failure[0] && err.status != WEIR_CANCELED)
            snprintf(t->first_failure, sizeof t->first_failure,
                     "life %llu, attempt %u: %s: %s", (unsigned long long)life->number,
                     attempt - 1, weir_status_name(err.status), err.message);
        return false;
    }
    return true;
}

static void misbehave(struct life *life)
{
    unsigned   attempt = 1;
    weir_error err = { 0 };

    /* Where it did not come to it (an accident, or it was served too quickly), once more. */
    for (;;) {
        weir_status status = misdeed_do(life, &err);
        if (life->happened)
            break;
        if (status == WEIR_OK ? attempt >= PATIENCE : !life_tries_again(life, attempt, &err))
            break;
        attempt++;
    }
    life->db->tally.happened[life->kind] += life->happened;
}

weir_status life_run(void *packed)
{
    uintptr_t   word = (uintptr_t)packed;
    struct life life = { .db = &soak.database[word >> 7 & 1],
                         .number = word >> 8,
                         .kind = (enum kind)(word & 0x7f) };
    struct tally *tally = &life.db->tally;
    bool          well = true;

    life.random = soak.options.seed ^ life.number * UINT64_C(0xff51afd7ed558ccd);
    if (life.kind == WELL_BEHAVED) {
        well = behave(&life);
        tally->well_ended += well;
        tally->well_failed += !well && weir_check() != WEIR_CANCELED;
    } else {
        misbehave(&life); /* may end with a lease in its hands: not a wait from here on */
    }
    tally->lives++;
    soak.lives++;
    return well ? WEIR_OK : WEIR_FAILED;
}
