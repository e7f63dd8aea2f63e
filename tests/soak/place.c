/*
 * place.c - an address in this process, in words.
 *
 * Knows:   which file an address belongs to, and addr2line(1), which reads its debug information.
 * Ignores: why anybody asks.
 *
 * An address to return to is one past its call, so the byte before it is looked up.
 */
#define _GNU_SOURCE
#include "opened.h"

#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The address as addr2line wants it: as if the file were loaded where it says. */
static uintptr_t within(const Dl_info *info, const char *address)
{
    const ElfW(Ehdr) *head = info->dli_fbase;

    return (uintptr_t)address - (head->e_type == ET_DYN ? (uintptr_t)info->dli_fbase : 0);
}

/* dladdr() has the program's name as it was called, which says nothing after a chdir(). */
static const char *file_of(const Dl_info *info, char *buf, size_t size)
{
    ssize_t n;

    if (strchr(info->dli_fname, '/') && access(info->dli_fname, R_OK) == 0)
        return info->dli_fname;
    n = readlink("/proc/self/exe", buf, size - 1);
    buf[n > 0 ? n : 0] = '\0';
    return buf;
}

static bool ask_addr2line(const char *file, uintptr_t at, char *buf, size_t size)
{
    char  command[700];
    FILE *answer;
    bool  told;

    int length = snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2>/dev/null", file,
                          (unsigned long)at);
    if (strchr(file, '\'') || length >= (int)sizeof command)
        return false;
    answer = popen(command, "r");
    if (!answer)
        return false;
    told = fgets(buf, (int)size, answer) != NULL && buf[0] != '?';
    pclose(answer);
    if (told)
        buf[strcspn(buf, " \n")] = '\0'; /* "(discriminator 2)" may follow */
    return told && !strstr(buf, ":?");
}

void place_of(const void *address, char *buf, size_t size)
{
    const char *before = (const char *)address - 1;
    Dl_info     info;
    char        path[512];

    if (!address || !dladdr(before, &info)) {
        snprintf(buf, size, "a place that was not seen");
        return;
    }
    const char *file = file_of(&info, path, sizeof path);
    uintptr_t   at = within(&info, before);
    if (ask_addr2line(file, at, buf, size))
        return;
    const char *name = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    if (info.dli_sname)
        snprintf(buf, size, "%s() in %s", info.dli_sname, name);
    else
        snprintf(buf, size, "%s+0x%lx (build it with -g for the line)", name, (unsigned long)at);
}
