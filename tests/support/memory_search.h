/*
 * memory_search.h - is a secret still somewhere in this process?
 *
 * Knows:   reading all memory of this process alone that can be written.
 * Ignores: whose it is.
 *
 * The secret is given masked, each byte XORed with MASK, so that the search does not find its own
 * question. Whoever needs it in clear unmasks it where it is needed, and wipes it there.
 */
#ifndef MEMORY_SEARCH_H
#define MEMORY_SEARCH_H

#include <stddef.h>

enum { MEMORY_MASK = 0x5a };

/* Write the secret in clear to `out`, with a NUL. */
void memory_unmask(const unsigned char *masked, size_t size, char *out);

/* How often it is there; -1 where memory cannot be read. Blocks: for weir_offload(). */
long memory_search(const unsigned char *masked, size_t size);

#endif
