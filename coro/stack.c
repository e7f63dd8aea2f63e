/*
 * stack.c - slabs of stacks, and the guard below each.
 *
 * Sixty-four stacks share one mapping. Where the kernel has lightweight guards
 * (MADV_GUARD_INSTALL, Linux 6.13) they do not split it, and a process may have as many
 * coroutines as it has memory for. Elsewhere each guard is an mprotect that makes two more
 * mappings, and vm.max_map_count (65,530) ends that at about 32,750 coroutines: then we
 * refuse and say why. Nothing ever runs without a guard.
 *
 * A stack's memory is given back to the kernel in two ways. One that was used deep is cut back
 * to what most need: that costs a system call and page faults later, so a shallow user's pages
 * are kept for the next one. And where many are free, a slab with nobody on it is unmapped, and
 * its page tables go with it (half a KiB a stack): after a crowd has left, KEEP_FREE stacks
 * stay, and those in slabs that somebody still stands on. What stays until the hub ends are
 * the records, some 50 bytes a stack here and those of task.c.
 */
#include "stack.h"

#include "context.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
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
    SAMPLE_OTHERS = 16,   /* ... once in so many times, for each look costs a cache miss or two */
    KEEP_FREE = 4096,     /* stacks; with this many free, no slab is kept for its own sake */
    RECORDS = 16          /* slab records are made so many at a time */
};

struct slab {
    struct list          link;          /* in its depot */
    struct slab         *next_record;   /* among those that have no mapping */
    _Atomic(struct slab *) next_known;  /* in the process's list, which only grows */
    _Atomic(char *)      base;          /* NULL once unmapped */
    size_t               stride;        /* guard and stack */
    unsigned             in_use;
    struct stack         stacks[PER_SLAB];
};

/* Every slab there ever was, for the fault handler. A slab record is never freed, only used
   again, so that a handler can walk the list at any moment. */
static _Atomic(struct slab *) known;

/* Records of hubs that have ended. Whoever needs one takes them all: no pop that another thread
   could come between. */
static _Atomic(struct slab *) orphans;

/* More than any machine has, and the size of a slab is still a number: mmap() refuses it. */
static const size_t LARGEST = SIZE_MAX / 2 / PER_SLAB / GUARD * GUARD - GUARD;

size_t stack_round(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (size < SMALLEST)
        size = SMALLEST;
    if (size > LARGEST)
        size = LARGEST;
    return (size + page - 1) / page * page;
}

void depot_init(struct depot *depot, size_t size)
{
    *depot = (struct depot){ .size = size };
    list_init(&depot->free);
    list_init(&depot->slabs);
    depot->sampled = size >= KEEP + SAMPLES * SAMPLE_STEP && !context_is_watched();
}

/* ---- records ------------------------------------------------------------------------ */

/* Apart from the heap: since they stay, one among task records would keep all those from going
   back to the kernel. */
static bool make_records(struct depot *depot)
{
    struct slab *made = mmap(NULL, RECORDS * sizeof *made, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return false;

    for (int i = 0; i < RECORDS; i++) {
        made[i].next_record = i + 1 < RECORDS ? &made[i + 1] : NULL;
        struct slab *head = atomic_load(&known);
        do {
            atomic_store(&made[i].next_known, head);
        } while (!atomic_compare_exchange_weak(&known, &head, &made[i]));
    }
    depot->records = made;
    return true;
}

static struct slab *record_take(struct depot *depot)
{
    if (!depot->records)
        depot->records = atomic_exchange(&orphans, NULL);
    if (!depot->records && !make_records(depot))
        return NULL;
    struct slab *slab = depot->records;
    depot->records = slab->next_record;
    return slab;
}

static void record_give(struct depot *depot, struct slab *slab)
{
    slab->next_record = depot->records;
    depot->records = slab;
}

static void leave_records(struct depot *depot)
{
    struct slab *first = depot->records, *last = first, *head = atomic_load(&orphans);

    if (!first)
        return;
    while (last->next_record)
        last = last->next_record;
    do {
        last->next_record = head;
    } while (!atomic_compare_exchange_weak(&orphans, &head, first));
    depot->records = NULL;
}

/* ---- slabs -------------------------------------------------------------------------- */

static atomic_bool no_light_guards; /* the kernel has said so */

static bool install_guard(char *at)
{
    if (!atomic_load(&no_light_guards)) {
        if (madvise(at, GUARD, MADV_GUARD_INSTALL) == 0)
            return true;
        if (errno != EINVAL)
            return false;
        atomic_store(&no_light_guards, true);
    }
    return mprotect(at, GUARD, PROT_NONE) == 0;
}

static weir_status no_stack(weir_error *err, size_t size, int errnum)
{
    weir_error_set(err, WEIR_NOMEM, "no memory for a coroutine stack of %zu KiB (%s). %s",
                   size / 1024, strerror(errnum),
                   errnum == ENOMEM && atomic_load(&no_light_guards)
                       ? "Before Linux 6.13 its guard takes two mappings of the process, and "
                         "vm.max_map_count limits those: raise it, or bound the group by "
                         "max_running"
                       : "Bound the group by max_running, or give the process more memory");
    if (err)
        err->native = errnum;
    return WEIR_NOMEM;
}

/* Sixty-four stacks with their guards; MAP_FAILED and errno where that cannot be. */
static char *map_slab(size_t stride)
{
    char *base = mmap(NULL, stride * PER_SLAB, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED)
        return base;

    /* A huge page would make the first touched byte of a stack cost two megabytes. A kernel
       without them says EINVAL, and all is well. */
    (void)madvise(base, stride * PER_SLAB, MADV_NOHUGEPAGE);

    for (int i = 0; i < PER_SLAB; i++) {
        if (!install_guard(base + (size_t)i * stride)) {
            int errnum = errno;
            munmap(base, stride * PER_SLAB);
            errno = errnum;
            return MAP_FAILED;
        }
    }
    return base;
}

weir_status depot_grow(struct depot *depot, weir_error *err)
{
    struct slab *slab = record_take(depot);
    if (!slab)
        return no_stack(err, depot->size, errno);
    size_t stride = GUARD + depot->size;
    char  *base = map_slab(stride);
    if (base == MAP_FAILED) {
        int errnum = errno;
        record_give(depot, slab);
        return no_stack(err, depot->size, errnum);
    }

    slab->stride = stride;
    slab->in_use = 0;
    list_prepend(&depot->slabs, &slab->link);
    for (int i = PER_SLAB - 1; i >= 0; i--) {
        struct stack *stack = &slab->stacks[i];
        stack->slab = slab;
        stack->in_use = &slab->in_use;
        stack->low = base + (size_t)i * stride + GUARD;
        stack->number = context_stack_register(stack->low, (char *)stack->low + depot->size - 1);
        list_prepend(&depot->free, &stack->link);
    }
    depot->free_count += PER_SLAB;
    atomic_store(&slab->base, base);
    return WEIR_OK;
}

static void unmap_slab(struct depot *depot, struct slab *slab)
{
    char *base = atomic_load(&slab->base);

    for (int i = 0; i < PER_SLAB; i++) {
        struct stack *stack = &slab->stacks[i];
        context_stack_forget(stack->number, stack->low, depot->size);
    }
    list_drop(&slab->link);
    munmap(base, slab->stride * PER_SLAB);
    atomic_store(&slab->base, NULL);
    record_give(depot, slab);
}

/* It waits here, for whoever ends gives his stack back while he still stands on it; by the time
   another one does, he has gone. */
static void retire_slab(struct depot *depot, struct slab *slab)
{
    struct slab *gone = depot->leaving;

    depot->leaving = slab;
    if (!gone || gone == slab || gone->in_use)
        return;
    for (int i = 0; i < PER_SLAB; i++)
        list_drop(&gone->stacks[i].link);
    depot->free_count -= PER_SLAB;
    unmap_slab(depot, gone);
}

/* ---- taken and given back ------------------------------------------------------------- */

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
    list_prepend(&depot->free, &stack->link);
    depot->free_count++;
    depot->in_use--;
    if (--stack->slab->in_use == 0 && depot->free_count > KEEP_FREE)
        retire_slab(depot, stack->slab);
}

void depot_free(struct depot *depot)
{
    LIST_EACH(node, &depot->slabs)
        unmap_slab(depot, LIST_OF(node, struct slab, link));
    leave_records(depot);
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
