/*
 * opened.h - who opened which descriptor of this process.
 *
 * Knows:   for each number: whether it is open, from where in the code that was asked for, and
 *          the place where the coroutine that asked was spawned.
 * Ignores: who should have closed it.
 */
#ifndef OPENED_H
#define OPENED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPENED_MAX = 65536 }; /* numbers from here on are not watched */

struct opened {
    const void *from;    /* the return address of the call; NULL: nobody saw it */
    const char *spawned; /* where the coroutine was spawned; NULL: none ran */
    uint64_t    order;   /* 1, 2, 3 ... as they were opened */
};

/* What is known of an open descriptor; false where it is closed. */
bool opened_look(int fd, struct opened *out);

/* Descriptors that weir itself opened for a pool. */
bool opened_by_pool(const struct opened *opened);

/* place.c: the address in words, "handler.c:31" at best. Blocks. */
void place_of(const void *address, char *buf, size_t size);

#endif
