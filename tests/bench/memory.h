/*
 * memory.h - how much memory this process has, as the kernel counts it.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>

enum memory {
    RESIDENT,   /* pages of ours that are in memory */
    PAGE_TABLES /* what the kernel needs to find them; not part of the former */
};

/* Now; -1 where /proc does not say. */
long memory_bytes(enum memory what);

/* Of a struct entry: is there room for a million stacks, and a kernel that can guard them? */
bool memory_for_a_million(char *why, size_t size);

#endif
