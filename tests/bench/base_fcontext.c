/*
 * base_fcontext.c - the bare context switch: what no scheduler on fcontext can do without.
 *
 * Knows:   fcontext, stacks in one mapping.
 * Ignores: who should run next, and why.
 *
 * A round trip is two switches: to the other stack, and back.
 *
 * Jumping over a thousand stacks in turn costs more than jumping to and fro between two: the
 * saved registers of each lie on a page of their own, and pages at equal distances crowd into
 * a few sets of the caches and of the TLB (how much depends on that distance). Anything that
 * keeps a thousand coroutines busy pays for it, so the baseline for such an entry has as many
 * stacks, as large and as far apart as weir's.
 */
#include "base.h"
#include "fcontext.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { STACK_SIZE = 256 * 1024, GUARD_SIZE = 16 * 1024, MAX_STACKS = 1024 };

/* Bounce every jump back to where it came from. */
static void bounce(transfer_t came)
{
    for (;;)
        came = jump_fcontext(came.from, NULL);
}

static char *map_stacks(int count, size_t *size)
{
    size_t stride = STACK_SIZE + GUARD_SIZE;

    *size = (size_t)count * stride;
    char *low = mmap(NULL, *size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (low == MAP_FAILED) {
        bench_fail("mmap: %s", strerror(errno));
        return NULL;
    }
    /* A guard is part of the layout; that it cannot be crossed matters to nobody here. */
    return low;
}

bool base_round_robin(struct lap *lap, int stacks)
{
    static fcontext_t at[MAX_STACKS];
    size_t            size;
    char             *low = map_stacks(stacks, &size);

    if (!low)
        return false;
    for (int i = 0; i < stacks; i++) {
        char *top = low + (size_t)(i + 1) * (STACK_SIZE + GUARD_SIZE);
        at[i] = make_fcontext(top, STACK_SIZE, bounce);
    }
    for (int i = 0; !lap->over; i = i + 1 < stacks ? i + 1 : 0) {
        at[i] = jump_fcontext(at[i], NULL).from;
        lap_tick(lap);
    }
    munmap(low, size);
    return true;
}

static fcontext_t there_and_back(fcontext_t at, long times)
{
    for (long i = 0; i < times; i++)
        at = jump_fcontext(at, NULL).from;
    return at;
}

bool base_round_trip(struct lap *lap, int how)
{
    size_t size;
    char  *low = map_stacks(1, &size);

    (void)how;
    if (!low)
        return false;

    fcontext_t at = make_fcontext(low + STACK_SIZE, STACK_SIZE, bounce);
    at = there_and_back(at, lap->warm);
    lap_begin(lap);
    there_and_back(at, lap->count);
    lap_end(lap);
    munmap(low, size);
    return true;
}
