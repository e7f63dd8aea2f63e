/*
 * memory.c - reading /proc.
 */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ENOUGH_MIB = 8192, GUARD_INSTALL = 102 /* MADV_GUARD_INSTALL */ };

static long kib_of(const char *table, const char *line)
{
    char  text[256];
    long  kib = -1;
    FILE *file = fopen(table, "r");

    if (!file)
        return -1;
    while (kib < 0 && fgets(text, sizeof text, file)) {
        if (strncmp(text, line, strlen(line)) == 0)
            kib = strtol(text + strlen(line), NULL, 10);
    }
    fclose(file);
    return kib;
}

long memory_bytes(enum memory what)
{
    return kib_of("/proc/self/status", what == RESIDENT ? "VmRSS:" : "VmPTE:") * 1024;
}

static bool has_light_guards(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool  has = madvise(page, 4096, GUARD_INSTALL) == 0;

    munmap(page, 4096);
    return has;
}

bool memory_for_a_million(char *why, size_t size)
{
    long mib = kib_of("/proc/meminfo", "MemAvailable:") / 1024;

    if (mib < ENOUGH_MIB)
        snprintf(why, size, "it wants %d MiB of memory, and %ld are free", ENOUGH_MIB, mib);
    else if (!has_light_guards())
        snprintf(why, size, "guards for so many need MADV_GUARD_INSTALL (Linux 6.13)");
    else
        return true;
    return false;
}
