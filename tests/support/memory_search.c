/*
 * memory_search.c - see memory_search.h.
 *
 * A piece at a time is copied into a buffer and compared under the mask. That buffer is memory of
 * this process too: it is left out, or what was found once would be found in it again.
 */
#define _GNU_SOURCE
#include "memory_search.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECE = 1 << 20, SECRET_MAX = 256 };

void memory_unmask(const unsigned char *masked, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (char)(masked[i] ^ MEMORY_MASK);
    out[size] = '\0';
}

static bool is_here(const unsigned char *at, const unsigned char *masked, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((at[i] ^ MEMORY_MASK) != masked[i])
            return false;
    return true;
}

static long count_in(const unsigned char *piece, size_t have, const unsigned char *masked,
                     size_t size)
{
    long found = 0;

    for (size_t i = 0; i + size <= have; i++)
        found += piece[i] == (masked[0] ^ MEMORY_MASK) && is_here(piece + i, masked, size);
    return found;
}

/* Pages that were never touched cannot be read by pread(2) where there is a guard: left out. */
static long search_range(int mem, uintptr_t from, uintptr_t to, unsigned char *buffer,
                         const unsigned char *masked, size_t size)
{
    long found = 0;

    while (from + size <= to) {
        size_t  room = to - from < PIECE ? to - from : PIECE;
        ssize_t have = pread(mem, buffer, room, (off_t)from);
        if (have < (ssize_t)size) {
            from = (from + 4096) & ~(uintptr_t)4095;
            continue;
        }
        found += count_in(buffer, (size_t)have, masked, size);
        if (from + (size_t)have >= to)
            break;
        from += (size_t)have - (size - 1); /* it may lie across two pieces */
    }
    return found;
}

static long search_maps(FILE *maps, int mem, unsigned char *buffer, const unsigned char *masked,
                        size_t size)
{
    char line[600];
    long found = 0;

    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char          rights[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) != 3 || rights[1] != 'w' ||
            rights[0] != 'r' || rights[3] == 's' || /* shared with others, who may know it */
            to - from > (1ul << 32))               /* a sanitizer's shadow */
            continue;
        uintptr_t mine = (uintptr_t)buffer;
        if (mine >= from && mine < to) {
            found += search_range(mem, from, mine, buffer, masked, size);
            from = mine + PIECE;
        }
        found += search_range(mem, from, to, buffer, masked, size);
    }
    return found;
}

long memory_search(const unsigned char *masked, size_t size)
{
    FILE          *maps = fopen("/proc/self/maps", "re");
    int            mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    unsigned char *buffer = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                 -1, 0);
    long           found = -1;

    if (maps && mem >= 0 && buffer != MAP_FAILED && size && size <= SECRET_MAX)
        found = search_maps(maps, mem, buffer, masked, size);
    if (buffer != MAP_FAILED)
        munmap(buffer, PIECE);
    if (mem >= 0)
        close(mem);
    if (maps)
        fclose(maps);
    return found;
}
