/*
 * allocs.h - how often a stretch of work asks for memory.
 *
 * Knows:   two askers apart: our own code, and libbson with libmongoc.
 * Ignores: how much is asked for, who frees it, other libraries.
 */
#ifndef ALLOCS_H
#define ALLOCS_H

#include <stdbool.h>

enum asker { BY_WEIR, BY_LIBMONGOC };

/* Can both be told apart in this build? Only where weir is linked statically. */
bool allocs_countable(void);

/* Count what libbson asks for, too; once, before it makes anything. (allocs_bson.c) */
void allocs_prepare(void);

void allocs_note(enum asker asker);

/* Calls of malloc(), calloc() and realloc() since the program began. */
long allocs_by(enum asker asker);

#endif
