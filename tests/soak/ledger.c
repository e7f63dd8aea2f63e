/*
 * ledger.c - which rows must be in the table, and which must not.
 *
 * Knows:   three states of a row that a life tried to write: acknowledged (must be there,
 *          once), denied (was never sent, refused or rolled back: must not be there), and
 *          neither, where no answer came and nobody can know.
 * Ignores: tables.
 *
 * A third bit tells which of them verify.c has found. Three bits a row, resident from the start,
 * so that it does not look like a leak later. When it is full lives read instead of writing.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <stdlib.h>
#include <sys/mman.h>

static uint64_t *bits(uint64_t count)
{
    size_t size = (size_t)(count / 64 + 1) * sizeof(uint64_t);
    void  *words = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (words == MAP_FAILED) {
        fputs("weir-soak: no memory for the ledger of rows\n", stderr);
        exit(2);
    }
    return words;
}

void ledger_make(struct ledger *l, uint64_t capacity)
{
    l->capacity = capacity;
    l->last_id = FIRST_ROWS;
    l->acknowledged = bits(capacity);
    l->denied = bits(capacity);
    l->seen = bits(capacity);
}

bool ledger_is_known(const struct ledger *l, uint64_t id)
{
    return id > FIRST_ROWS && id <= l->last_id;
}

static bool get(const uint64_t *words, uint64_t id)
{
    id -= FIRST_ROWS + 1;
    return words[id / 64] >> (id % 64) & 1;
}

static void set(uint64_t *words, uint64_t id)
{
    id -= FIRST_ROWS + 1;
    words[id / 64] |= UINT64_C(1) << (id % 64);
}

uint64_t ledger_new_id(struct ledger *l)
{
    if (l->last_id - FIRST_ROWS >= l->capacity)
        return 0;
    return ++l->last_id;
}

void ledger_acknowledged(struct ledger *l, uint64_t id)
{
    set(l->acknowledged, id);
    l->acknowledged_count++;
}

void ledger_denied(struct ledger *l, uint64_t id)
{
    set(l->denied, id);
    l->denied_count++;
}

bool ledger_is_acknowledged(const struct ledger *l, uint64_t id)
{
    return ledger_is_known(l, id) && get(l->acknowledged, id);
}

bool ledger_is_denied(const struct ledger *l, uint64_t id)
{
    return ledger_is_known(l, id) && get(l->denied, id);
}

bool ledger_see(struct ledger *l, uint64_t id)
{
    bool first = ledger_is_known(l, id) && !get(l->seen, id);

    if (first)
        set(l->seen, id);
    return first;
}
