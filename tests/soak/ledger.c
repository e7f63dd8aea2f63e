/*
 * ledger.c - which rows must be in the table, and which must not.
 *
 * Knows:   three states of a row that a life tried to write: acknowledged (must be there,
 *          once), denied (was never sent, refused or rolled back: must not be there), and
 *          neither, where no answer came and nobody can know.
 * Ignores: tables.
 *
 * Two bits a row, resident from the start, so that it does not look like a leak later. When
 * it is full lives read instead of writing.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <stdlib.h>
#include <sys/mman.h>

static struct {
    uint64_t  capacity;
    uint64_t  last_id;
    uint64_t  acknowledged_count;
    uint64_t  denied_count;
    uint64_t *acknowledged;
    uint64_t *denied;
} ledger;

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

void ledger_make(uint64_t capacity)
{
    ledger.capacity = capacity;
    ledger.last_id = FIRST_ROWS;
    ledger.acknowledged = bits(capacity);
    ledger.denied = bits(capacity);
}

static bool get(const uint64_t *words, uint64_t id)
{
    if (id <= FIRST_ROWS || id > ledger.last_id)
        return false;
    id -= FIRST_ROWS + 1;
    return words[id / 64] >> (id % 64) & 1;
}

static void set(uint64_t *words, uint64_t id)
{
    id -= FIRST_ROWS + 1;
    words[id / 64] |= UINT64_C(1) << (id % 64);
}

uint64_t ledger_new_id(void)
{
    if (ledger.last_id - FIRST_ROWS >= ledger.capacity)
        return 0;
    return ++ledger.last_id;
}

void ledger_acknowledged(uint64_t id)
{
    set(ledger.acknowledged, id);
    ledger.acknowledged_count++;
}

void ledger_denied(uint64_t id)
{
    set(ledger.denied, id);
    ledger.denied_count++;
}

bool ledger_is_acknowledged(uint64_t id)
{
    return get(ledger.acknowledged, id);
}

bool ledger_is_denied(uint64_t id)
{
    return get(ledger.denied, id);
}

uint64_t ledger_last_id(void)
{
    return ledger.last_id;
}

uint64_t ledger_acknowledged_count(void)
{
    return ledger.acknowledged_count;
}

uint64_t ledger_denied_count(void)
{
    return ledger.denied_count;
}
