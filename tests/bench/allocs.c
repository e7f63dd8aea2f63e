/*
 * allocs.c - counting calls of malloc() and its kin.
 *
 * Our code and the bench's are told from the client library's by the linker: it is asked (--wrap)
 * to put the functions below in the place of malloc() wherever objects of this program call it,
 * and does nothing to shared libraries.
 */
#include "allocs.h"

#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

static long asked[2];

void allocs_note(enum asker asker)
{
    __atomic_fetch_add(&asked[asker], 1, __ATOMIC_RELAXED);
}

void *__wrap_malloc(size_t size)
{
    allocs_note(BY_WEIR);
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    allocs_note(BY_WEIR);
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    allocs_note(BY_WEIR);
    return __real_realloc(old, size);
}

bool allocs_countable(void)
{
#if WEIR_IS_SHARED
    return false;
#else
    return true;
#endif
}

long allocs_by(enum asker asker)
{
    return __atomic_load_n(&asked[asker], __ATOMIC_RELAXED);
}
