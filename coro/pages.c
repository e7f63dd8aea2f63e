/*
 * pages.c - protections of memory, as the kernel has them.
 *
 * What the kernel has is read from /proc/self/maps (proc(5)), and not derived from a library's
 * program headers: somebody else may have changed it since, and what is put back must be what was
 * there. The file is read with plain system calls into memory of our own, since stdio's might
 * be changed while we read.
 */
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uintptr_t page_of(uintptr_t address)
{
    return address & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
}

/* ---- asking ------------------------------------------------------------------------- */

/* One line of maps at a time; lines that are longer than our buffer end in a path we skip. */
struct reader {
    int    fd;
    size_t begin, end;
    char   text[4096];
};

static bool next_line(struct reader *in, char *line, size_t size)
{
    size_t length = 0;

    for (;;) {
        if (in->begin == in->end) {
            ssize_t n = read(in->fd, in->text, sizeof in->text);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return false;
            in->begin = 0;
            in->end = (size_t)n;
        }
        char c = in->text[in->begin++];
        if (c == '\n')
            break;
        if (length + 1 < size)
            line[length++] = c;
    }
    line[length] = '\0';
    return true;
}

/* "55d0c6a00000-55d0c6a21000 r--p ..." */
static void read_mapping(const char *line, struct page *pages, size_t count, size_t *known)
{
    unsigned long begin, end;
    char          mode[5];

    if (sscanf(line, "%lx-%lx %4s", &begin, &end, mode) != 3)
        return;
    for (; *known < count && pages[*known].at < end; (*known)++) {
        if (pages[*known].at < begin)
            return; /* it is on no mapping, and stays unknown */
        pages[*known].protection = (mode[0] == 'r' ? PROT_READ : 0) |
                                   (mode[1] == 'w' ? PROT_WRITE : 0) |
                                   (mode[2] == 'x' ? PROT_EXEC : 0);
    }
}

weir_status pages_ask(struct page *pages, size_t count, weir_error *err)
{
    struct reader in = { .fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC) };
    size_t        known = 0;
    char          line[128];

    if (in.fd < 0) {
        weir_error_set(err, WEIR_FAILED, "cannot read /proc/self/maps, and so not tell which "
                       "pages of memory are protected: %s", strerror(errno));
        if (err)
            err->native = errno;
        return WEIR_FAILED;
    }
    while (known < count && next_line(&in, line, sizeof line))
        read_mapping(line, pages, count, &known);
    close(in.fd);
    if (known < count)
        return weir_error_set(err, WEIR_FAILED, "/proc/self/maps does not know the page at %#lx",
                              (unsigned long)pages[known].at);
    return WEIR_OK;
}

/* ---- changing ----------------------------------------------------------------------- */

static bool protect(const struct page *page, int protection)
{
    return (page->protection & PROT_WRITE) ||
           mprotect((void *)page->at, (size_t)sysconf(_SC_PAGESIZE), protection) == 0;
}

weir_status pages_close(const struct page *pages, size_t count, weir_error *err)
{
    weir_status status = WEIR_OK;

    for (size_t i = 0; i < count; i++)
        if (!protect(&pages[i], pages[i].protection))
            status = weir_error_set(err, WEIR_FAILED,
                                    "cannot protect the page at %#lx again: %s",
                                    (unsigned long)pages[i].at, strerror(errno));
    return status;
}

weir_status pages_open(const struct page *pages, size_t count, weir_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (protect(&pages[i], pages[i].protection | PROT_WRITE))
            continue;
        weir_error_set(err, WEIR_FAILED,
                       "cannot make the page at %#lx writable: %s (ENOMEM: vm.max_map_count is "
                       "reached; EACCES, EPERM: a security module forbids it)",
                       (unsigned long)pages[i].at, strerror(errno));
        pages_close(pages, i, NULL);
        return WEIR_FAILED;
    }
    return WEIR_OK;
}
