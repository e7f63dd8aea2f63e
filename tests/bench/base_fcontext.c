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
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    STACK_SIZE = 256 * 1024,
    GUARD_SIZE = 16 * 1024,
    GUARD_INSTALL = 102 /* MADV_GUARD_INSTALL, Linux 6.13 */
};

/* Bounce every jump back to where it came from. */
static void bounce(transfer_t came)
{
    for (;;)
        came = jump_fcontext(came.from, NULL);
}

/* As weir maps them: no huge pages, and guards where they are to be had for nothing. That they
   cannot be crossed matters to nobody here, but their page tables count. */
static char *map_stacks(long count, size_t *size)
{
    size_t stride = STACK_SIZE + GUARD_SIZE;

    *size = (size_t)count * stride;
    char *low = mmap(NULL, *size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (low == MAP_FAILED) {
        bench_fail("mmap: %s", strerror(errno));
        return NULL;
    }
    (void)madvise(low, *size, MADV_NOHUGEPAGE);
    for (long i = 0; i < count; i++) {
        if (madvise(low + (size_t)i * stride, GUARD_SIZE, GUARD_INSTALL))
            break;
    }
    return low;
}

/* So many contexts, in order, each on its stack; at[] is freed by the caller. */
static fcontext_t *make_contexts(char *low, long count)
{
    fcontext_t *at = calloc((size_t)count, sizeof *at);

    if (!at) {
        bench_fail("no memory for %ld contexts", count);
        return NULL;
    }
    for (long i = 0; i < count; i++)
        at[i] = make_fcontext(low + (size_t)(i + 1) * (STACK_SIZE + GUARD_SIZE), STACK_SIZE,
                              bounce);
    return at;
}

bool base_round_robin(struct lap *lap, int stacks)
{
    size_t      size;
    char       *low = map_stacks(stacks, &size);
    fcontext_t *at = low ? make_contexts(low, stacks) : NULL;

    for (int i = 0; at && !lap->over; i = i + 1 < stacks ? i + 1 : 0) {
        at[i] = jump_fcontext(at[i], NULL).from;
        lap_tick(lap);
    }
    if (low)
        munmap(low, size);
    free(at);
    return at != NULL;
}

/* Each has run, and waits to be jumped to again. */
bool base_parked(struct lap *lap, int what)
{
    long        before = memory_bytes((enum memory)what);
    size_t      size;
    char       *low = map_stacks(lap->count, &size);
    fcontext_t *at = low ? make_contexts(low, lap->count) : NULL;

    for (long i = 0; at && i < lap->count; i++)
        at[i] = jump_fcontext(at[i], NULL).from;
    lap_end_at(lap, (double)(memory_bytes((enum memory)what) - before));
    if (low)
        munmap(low, size);
    free(at);
    return at != NULL;
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
