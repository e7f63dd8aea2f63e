/*
 * allocs_bson.c - what libbson and libmongoc ask for: libbson has a table for its memory functions.
 */
#include "allocs.h"

#include <mongoc/mongoc.h>
#include <stdlib.h>

/* Not ours to count: see allocs.c. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);

static void *library_malloc(size_t size)
{
    allocs_note(BY_LIBMONGOC);
    return __real_malloc(size);
}

static void *library_calloc(size_t count, size_t size)
{
    allocs_note(BY_LIBMONGOC);
    return __real_calloc(count, size);
}

static void *library_realloc(void *old, size_t size)
{
    allocs_note(BY_LIBMONGOC);
    return __real_realloc(old, size);
}

void allocs_prepare(void)
{
    bson_mem_vtable_t table = { .malloc = library_malloc,
                                .calloc = library_calloc,
                                .realloc = library_realloc,
                                .free = free };

    bson_mem_set_vtable(&table);
}
