/*
 * stack.c - slabs of stacks, and the guard below each.
 *
 * Sixty-four stacks share one mapping. Where the kernel has lightweight guards
 * (MADV_GUARD_INSTALL, Linux 6.13) they do not split it, and a process may have as many
 * coroutines as it has memory for. Elsewhere each guard is an mprotect that makes two more
 * mappings, and vm.max_map_count (65,530) ends that at about 32,750 coroutines: then we
 * refuse and say why. Nothing ever runs without a guard.
 *
 * A stack's memory is given back to the kernel only when it was used deep: that costs a
 * system call and page faults later, so a shallow user's pages are kept for the next one.
 */
#include "stack.h"

#include "context.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* include/uapi/asm-generic/mman-common.h, Linux 6.13 */
#endif

enum {
    PER_SLAB = 64,
    GUARD = 16384,        /* bytes: more than one page, so that a big frame cannot step over */
    SMALLEST = 16384,
    KEEP = 32768,         /* bytes at the top that stay resident when a stack is reused */
    SAMPLE = 64,          /* bytes looked at below KEEP, for deeper use */
    SAMPLES = 8,          /* places looked at, a page apart: the first always, the others in turn */
    SAMPLE_STEP = 4096,
    SAMPLE_OTHERS = 16    /* ... once in so many times, for each look costs a cache miss or two */
};

struct slab {
    struct slab         *next;          /* in its depot */
    _Atomic(struct slab *) next_known;  /* in the process's list, which only grows */
    _Atomic(char *)      base;          /* NULL once unmapped */
    size_t               stride;        /* guard and stack */
    struct stack         stacks[PER_SLAB];
};

/* Every slab there ever was, for the fault handler. A slab record is never freed, only used
   again, so that a handler can walk the list at any moment. */
static _Atomic(struct slab *) known;

size_t stack_round(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (size < SMALLEST)
        size = SMALLEST;
    return (size + page - 1) / page * page;
}

void depot_init(struct depot *depot, size_t size)
{
    *depot = (struct depot){ .size = size };
    depot->sampled = size >= KEEP + SAMPLES * SAMPLE_STEP && !context_is_watched();
}

/* Take over a record whose mapping is gone, or make one. */
static struct slab *slab_record(void)
{
    static char claimed; /* marks a record as taken until its mapping is there */

    for (struct slab *slab = atomic_load(&known); slab; slab = atomic_load(&slab->next_known)) {
        char *gone = NULL;
        if (atomic_compare_exchange_strong(&slab->base, &gone, &claimed))
            return slab;
    }

    struct slab *slab = calloc(1, sizeof *slab);
    if (!slab)
        return NULL;
    atomic_store(&slab->base, &claimed);
    struct slab *head = atomic_load(&known);
    do {
        atomic_store(&slab->next_known, head);
    } while (!atomic_compare_exchange_weak(&known, &head, slab));
    return slab;
}

static bool install_guard(char *at)
{
    static atomic_int lightweight = 1; /* until the kernel says it has none */

    if (atomic_load(&lightweight)) {
        if (madvise(at, GUARD, MADV_GUARD_INSTALL) == 0)
            return true;
        if (errno != EINVAL)
            return false;
        atomic_store(&lightweight, 0);
    }
    return mprotect(at, GUARD, PROT_NONE) == 0;
}

static weir_status no_stack(weir_error *err, size_t size, int errnum)
{
    weir_error_set(err, WEIR_NOMEM,
                   "no memory for a coroutine stack of %zu KiB (%s). Bound the group by "
                   "max_running, or raise vm.max_map_count (Linux 6.13 and later do without)",
                   size / 1024, strerror(errnum));
    if (err)
        err->native = errnum;
    return WEIR_NOMEM;
}

static weir_status add_slab(struct depot *depot, weir_error *err)
{
    size_t stride = GUARD + depot->size;
    char  *base = mmap(NULL, stride * PER_SLAB, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED)
        return no_stack(err, depot->size, errno);

    /* A huge page would make the first touched byte of a stack cost two megabytes. */
    (void)madvise(base, stride * PER_SLAB, MADV_NOHUGEPAGE);

    for (int i = 0; i < PER_SLAB; i++) {
        if (!install_guard(base + (size_t)i * stride)) {
            int errnum = errno;
            munmap(base, stride * PER_SLAB);
            return no_stack(err, depot->size, errnum);
        }
    }

    struct slab *slab = slab_record();
    if (!slab) {
        munmap(base, stride * PER_SLAB);
        return no_stack(err, depot->size, ENOMEM);
    }
    slab->stride = stride;
    slab->next = depot->slabs;
    depot->slabs = slab;

    for (int i = PER_SLAB - 1; i >= 0; i--) {
        struct stack *stack = &slab->stacks[i];
        stack->slab = slab;
        stack->low = base + (size_t)i * stride + GUARD;
        stack->number = context_stack_register(stack->low, (char *)stack->low + depot->size - 1);
        stack->next = depot->free;
        depot->free = stack;
    }
    atomic_store(&slab->base, base);
    return WEIR_OK;
}

struct stack *stack_take(struct depot *depot, weir_error *err)
{
    if (!depot->free && add_slab(depot, err) != WEIR_OK)
        return NULL;

    struct stack *stack = depot->free;
    depot->free = stack->next;
    depot->in_use++;
    return stack;
}

static bool is_used(const struct depot *depot, const struct stack *stack, unsigned place)
{
    static const char zeros[SAMPLE];
    const char *at = (const char *)stack->low + depot->size - KEEP - place * SAMPLE_STEP;

    return memcmp(at - SAMPLE, zeros, SAMPLE) != 0;
}

/*
 * Was it used below the part that stays resident? Reading memory nobody wrote maps the
 * kernel's page of zeros and makes nothing resident. A frame that left just these bytes zero
 * is missed, and its pages stay until the next look elsewhere or the next deep user: no harm.
 */
static bool used_deep(struct depot *depot, const struct stack *stack)
{
    if (!depot->sampled)
        return false;
    if (is_used(depot, stack, 0))
        return true;
    unsigned turn = depot->given_back++;
    return turn % SAMPLE_OTHERS == 0 &&
           is_used(depot, stack, 1 + turn / SAMPLE_OTHERS % (SAMPLES - 1));
}

void stack_give(struct depot *depot, struct stack *stack)
{
    if (used_deep(depot, stack))
        (void)madvise(stack->low, depot->size - KEEP, MADV_DONTNEED);
    stack->next = depot->free;
    depot->free = stack;
    depot->in_use--;
}

void depot_free(struct depot *depot)
{
    for (struct slab *slab = depot->slabs, *next; slab; slab = next) {
        next = slab->next;
        for (int i = 0; i < PER_SLAB; i++)
            context_stack_forget(slab->stacks[i].number);
        char *base = atomic_load(&slab->base);
        munmap(base, slab->stride * PER_SLAB);
        atomic_store(&slab->base, NULL); /* the record may be used again */
    }
    depot->slabs = NULL;
    depot->free = NULL;
}

bool stack_guard_hit(uintptr_t address, size_t *size)
{
    for (struct slab *slab = atomic_load(&known); slab; slab = atomic_load(&slab->next_known)) {
        uintptr_t base = (uintptr_t)atomic_load(&slab->base);
        if (!base || address < base || address >= base + slab->stride * PER_SLAB)
            continue;
        *size = slab->stride - GUARD;
        return (address - base) % slab->stride < GUARD;
    }
    return false;
}
