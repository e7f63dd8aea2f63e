/*
 * permits.c - who has which permit, among processes any of which may die or stand still at any
 * instruction.
 *
 * So there is no lock: a process that is stopped (SIGSTOP, a debugger) must not stop the others,
 * and one that is killed must leave nothing half done. Each permit is one word that says whose
 * it is, and changes hands by one compare-and-swap: there is no step in which it is nobody's and
 * not free. Each pool is a member, whose tag says which process it belongs to. A word names a
 * member and the tag's generation; when the tag moves on, every word with the old generation
 * is void at once, and anybody may take it. So a dead process' permits are all taken back by
 * one compare-and-swap too, and a process that dies while it does that has either done it or not.
 *
 * When may a dead process' permits be used? Not before its sockets are closed, or there would be
 * more connections than permits for a moment: see lives.c.
 *
 * A permit given back is handed to the member that should have it next, and not just made free:
 * a newcomer would take it before the one who waits has heard of it. A member stands still at
 * worst with as many as it asked for, a few. First come those below their part (an equal one of
 * all there is) for whom somebody waits, then others for whom somebody waits, then those who
 * fill up; among equals whoever began to wait first.
 *
 * No wake-up is lost: who wants one says so and then looks for a free one; who makes one free
 * then looks whether somebody wants one. Counts of what is wanted may be wrong by a crash or a
 * race, and are said anew by their owner, who passes on what he gets too much.
 */
#include "permits.h"

#include "lives.h"

#include <unistd.h>

static uint64_t pack(uint32_t generation, uint32_t low)
{
    return (uint64_t)generation << 32 | low;
}

static uint32_t generation_of(uint64_t packed)
{
    return (uint32_t)(packed >> 32);
}

pid_t permits_pid(uint64_t tag)
{
    return (pid_t)(uint32_t)tag;
}

static struct permits_member *member_at(const weir_permits *permits, int member)
{
    return &permits->table->members[member];
}

static uint64_t word_of(uint64_t tag, int member)
{
    return pack(generation_of(tag), (uint32_t)member + 1);
}

uint64_t permits_word(const weir_permits *permits, int member)
{
    return word_of(atomic_load(&member_at(permits, member)->tag), member);
}

/* Is it held by a pool that is there? */
static bool is_held(const weir_permits *permits, uint64_t word)
{
    uint32_t number = (uint32_t)word;

    if (!number || number > permits->count)
        return false;
    uint64_t tag = atomic_load(&member_at(permits, (int)number - 1)->tag);
    return permits_pid(tag) && generation_of(tag) == generation_of(word);
}

/* ---- parts -------------------------------------------------------------------------- */

unsigned permits_pools(const weir_permits *permits)
{
    unsigned there = 0;

    for (unsigned i = 0; i < permits->count; i++)
        there += permits_pid(atomic_load(&permits->table->members[i].tag)) != 0;
    return there;
}

unsigned permits_part(const weir_permits *permits)
{
    unsigned there = permits_pools(permits);

    return permits->count / (there ? there : 1);
}

unsigned permits_owed(const weir_permits *permits, int member)
{
    unsigned part = permits_part(permits), wanted = 0;
    unsigned mine = atomic_load(&member_at(permits, member)->used);

    if (mine <= part)
        return 0;
    for (unsigned i = 0; i < permits->count; i++) {
        const struct permits_member *other = &permits->table->members[i];
        unsigned wants = atomic_load(&other->wants), used = atomic_load(&other->used);
        if (wants && (int)i != member && permits_pid(atomic_load(&other->tag)) &&
            atomic_load(&other->urgent) && used < part)
            wanted += wants < part - used ? wants : part - used;
    }
    return wanted < mine - part ? wanted : mine - part;
}

/* ---- handing over ------------------------------------------------------------------- */

static int rank(const struct permits_member *member, unsigned part)
{
    if (!atomic_load(&member->urgent))
        return 2;
    return atomic_load(&member->used) < part ? 0 : 1;
}

/* Whose turn it is, with his tag; PERMITS_NOBODY wants any. */
static int next_in_line(const weir_permits *permits, uint64_t *tag)
{
    int      best = PERMITS_NOBODY, best_rank = 0;
    int64_t  best_since = 0;
    unsigned part = permits_part(permits);

    for (unsigned i = 0; i < permits->count; i++) {
        const struct permits_member *member = &permits->table->members[i];
        uint64_t                     now = atomic_load(&member->tag);
        if (!permits_pid(now) || !atomic_load(&member->wants))
            continue;
        int     its_rank = rank(member, part);
        int64_t since = atomic_load(&member->since_ns);
        if (best != PERMITS_NOBODY &&
            (its_rank > best_rank || (its_rank == best_rank && since >= best_since)))
            continue;
        best = (int)i;
        best_rank = its_rank;
        best_since = since;
        *tag = now;
    }
    return best;
}

/* One of what it wants is about to be met; false: nothing is wanted any more. */
static bool promise_one(struct permits_member *member)
{
    uint32_t wants = atomic_load(&member->wants);

    while (wants)
        if (atomic_compare_exchange_weak(&member->wants, &wants, wants - 1))
            return true;
    return false;
}

void permits_pass(weir_permits *permits, unsigned index, uint64_t now,
                  const struct permits_bell *bell)
{
    for (;;) {
        uint64_t tag = 0;
        int      next = next_in_line(permits, &tag);
        if (next == PERMITS_NOBODY && !now)
            return; /* free, and nobody wants it */
        struct permits_member *member = next == PERMITS_NOBODY ? NULL : member_at(permits, next);
        if (member && !promise_one(member))
            continue;
        uint64_t word = member ? word_of(tag, next) : 0;
        if (!atomic_compare_exchange_strong(&permits->words[index], &now, word)) {
            if (member)
                atomic_fetch_add(&member->wants, 1);
            return; /* somebody else has taken it, who looks after it */
        }
        if (member) {
            bell->ring(member, bell->arg);
            if (is_held(permits, word))
                return;
        }
        now = word; /* free, and perhaps wanted since; or handed to one who has gone meanwhile */
    }
}

int permits_take(weir_permits *permits, uint64_t mine)
{
    for (unsigned i = 0; i < permits->count && is_held(permits, mine); i++) {
        uint64_t word = atomic_load(&permits->words[i]);
        if (!is_held(permits, word) &&
            atomic_compare_exchange_strong(&permits->words[i], &word, mine))
            return (int)i;
    }
    return PERMITS_NOBODY;
}

/* ---- coming and going --------------------------------------------------------------- */

static bool claim(struct permits_member *member, uint64_t tag)
{
    uint64_t mine = pack(generation_of(tag) + 1, (uint32_t)getpid());

    if (!atomic_compare_exchange_strong(&member->tag, &tag, mine))
        return false;
    atomic_store(&member->wants, 0);
    atomic_store(&member->used, 0);
    atomic_store(&member->urgent, 0);
    atomic_store(&member->bell, 0);
    atomic_store(&member->birth, pack(generation_of(mine), life_birth(getpid())));
    return true;
}

static int enter(weir_permits *permits)
{
    for (unsigned i = 0; i < permits->count; i++) {
        uint64_t tag = atomic_load(&permits->table->members[i].tag);
        if (!permits_pid(tag) && claim(member_at(permits, (int)i), tag))
            return (int)i;
    }
    return PERMITS_NOBODY;
}

int permits_enter(weir_permits *permits, const struct permits_bell *bell)
{
    int member = enter(permits);

    if (member == PERMITS_NOBODY) {
        permits_bury_all(permits, bell);
        member = enter(permits);
    }
    return member;
}

/* What bears a void name goes on to others. */
static void pass_on_void_ones(weir_permits *permits, const struct permits_bell *bell)
{
    for (unsigned i = 0; i < permits->count; i++) {
        uint64_t word = atomic_load(&permits->words[i]);
        if (word && !is_held(permits, word))
            permits_pass(permits, i, word, bell);
    }
}

void permits_bury(weir_permits *permits, int member, uint64_t tag,
                  const struct permits_bell *bell)
{
    struct permits_member *gone = member_at(permits, member);

    if (atomic_compare_exchange_strong(&gone->tag, &tag, pack(generation_of(tag), 0)))
        pass_on_void_ones(permits, bell);
}

void permits_leave(weir_permits *permits, int member, const struct permits_bell *bell)
{
    atomic_store(&member_at(permits, member)->wants, 0);
    permits_bury(permits, member, atomic_load(&member_at(permits, member)->tag), bell);
}

uint32_t permits_birth(const weir_permits *permits, int member, uint64_t tag)
{
    uint64_t birth = atomic_load(&member_at(permits, member)->birth);

    return generation_of(birth) == generation_of(tag) ? (uint32_t)birth : 0;
}

void permits_bury_all(weir_permits *permits, const struct permits_bell *bell)
{
    for (unsigned i = 0; i < permits->count; i++) {
        uint64_t tag = atomic_load(&permits->table->members[i].tag);
        if (permits_pid(tag) &&
            life_is_over(permits_pid(tag), permits_birth(permits, (int)i, tag)))
            permits_bury(permits, (int)i, tag, bell);
    }
}

/* ---- the ring ----------------------------------------------------------------------- */

static bool is_elsewhere(const weir_permits *permits, unsigned index)
{
    pid_t pid = permits_pid(atomic_load(&permits->table->members[index].tag));

    return pid && pid != getpid();
}

int permits_next(const weir_permits *permits, int member)
{
    for (unsigned i = 1; i < permits->count; i++) {
        unsigned index = ((unsigned)member + i) % permits->count;
        if (is_elsewhere(permits, index))
            return (int)index;
    }
    return PERMITS_NOBODY;
}

int permits_previous(const weir_permits *permits, int member)
{
    for (unsigned i = 1; i < permits->count; i++) {
        unsigned index = ((unsigned)member + permits->count - i) % permits->count;
        if (is_elsewhere(permits, index))
            return (int)index;
    }
    return PERMITS_NOBODY;
}

/* ---- numbers ------------------------------------------------------------------------ */

void weir_permits_read(const weir_permits *permits, weir_permits_stats *out)
{
    *out = (weir_permits_stats){ .count = permits->count, .pools = permits_pools(permits) };
    for (unsigned i = 0; i < permits->count; i++) {
        const struct permits_member *member = &permits->table->members[i];
        out->used += is_held(permits, atomic_load(&permits->words[i]));
        if (permits_pid(atomic_load(&member->tag)))
            out->waiting += atomic_load(&member->wants);
    }
}
