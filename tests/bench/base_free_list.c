/*
 * base_free_list.c - the least that lending and taking back can be: a list of idle things.
 *
 * Knows:   push and pop.
 * Ignores: limits, waiters, ages, deadlines, what came of the thing while it was lent.
 */
#include "base.h"

struct thing {
    struct thing *next;
};

/* Calls, as those of any library are; inlined, all of it would happen in registers. */
__attribute__((noinline)) static struct thing *take(struct thing **idle)
{
    struct thing *thing = *idle;

    *idle = thing->next;
    __asm__ volatile("" : : : "memory");
    return thing;
}

__attribute__((noinline)) static void give(struct thing **idle, struct thing *thing)
{
    thing->next = *idle;
    *idle = thing;
    __asm__ volatile("" : : : "memory");
}

static void take_and_give(struct thing **idle, long times)
{
    for (long i = 0; i < times; i++)
        give(idle, take(idle));
}

bool base_free_list(struct lap *lap, int how)
{
    enum { THINGS = 8 };
    struct thing  things[THINGS];
    struct thing *idle = NULL;

    (void)how;
    for (int i = 0; i < THINGS; i++) {
        things[i].next = idle;
        idle = &things[i];
    }
    take_and_give(&idle, lap->warm);
    lap_begin(lap);
    take_and_give(&idle, lap->count);
    lap_end(lap);
    return true;
}
