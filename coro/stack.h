/*
 * stack.h - memory for coroutines to run on, each with a guard below it.
 *
 * Knows:   slabs, guard pages, reuse.
 * Ignores: what runs on a stack.
 */
#ifndef STACK_H
#define STACK_H

#include "list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <weir/error.h>

struct slab;

/* One stack. It lives beside its slab, not on it: an unused stack touches no memory. */
struct stack {
    struct list  link;   /* in its depot's free list */
    void        *low;    /* the lowest usable byte; the guard is just below */
    struct slab *slab;
    unsigned    *in_use; /* how many of its slab's are */
    unsigned     number; /* the tools' name for it */
};

/* All stacks of one size of one hub; a hub has few sizes. */
struct depot {
    struct depot *next;
    struct list   free;       /* last in, first out: the warmest is reused first */
    size_t        free_count;
    struct list   slabs;
    struct slab  *leaving;    /* to be unmapped when nobody can be standing on it any more */
    struct slab  *records;    /* of slabs that are gone */
    size_t        size;       /* usable bytes of each */
    size_t        in_use;
    bool          sampled;    /* deep use of one that is given back is looked for */
    unsigned      given_back; /* so often: chooses where deep use is looked for */
};

/* Whole pages, at least 16 KiB: less would not hold one snprintf of a double. */
size_t stack_round(size_t size);

void          depot_init(struct depot *depot, size_t size);
void          depot_free(struct depot *depot); /* none may be in use */
weir_status   depot_grow(struct depot *depot, weir_error *err); /* by a slab of free ones */
void          stack_give(struct depot *depot, struct stack *stack); /* may be the caller's own */

static inline struct stack *stack_take(struct depot *depot, weir_error *err)
{
    if (list_empty(&depot->free) && depot_grow(depot, err) != WEIR_OK)
        return NULL;

    struct stack *stack = LIST_OF(depot->free.next, struct stack, link);
    list_drop(&stack->link);
    ++*stack->in_use;
    depot->free_count--;
    depot->in_use++;
    return stack;
}

/* Does this address lie in the guard of any stack of the process? Async-signal-safe. */
bool stack_guard_hit(uintptr_t address, size_t *size);

#endif
