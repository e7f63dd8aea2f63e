/*
 * scarce.c - memory that runs out, at a place of the test's choosing.
 */
#include "scarce.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static __thread struct {
    bool          counting, struck;
    enum scarcity how;
    unsigned      count, nth;
} scarce;

void scarce_begin(unsigned nth, enum scarcity how)
{
    scarce.count = 0;
    scarce.nth = nth;
    scarce.how = how;
    scarce.struck = false;
    scarce.counting = true;
}

unsigned scarce_end(void)
{
    scarce.counting = false;
    return scarce.count;
}

bool scarce_struck(void)
{
    return scarce.struck;
}

static bool fails(void)
{
    if (!scarce.counting)
        return false;
    scarce.count++;
    bool now = (scarce.how == ONE_FAILS && scarce.count == scarce.nth) ||
               (scarce.how == ALL_FAIL && scarce.count >= scarce.nth);
    if (now) {
        scarce.struck = true;
        errno = ENOMEM;
    }
    return now;
}

/* The names are the linker's: --wrap=malloc sends a call of malloc() to __wrap_malloc(). */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return fails() ? NULL : __real_realloc(memory, size);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return fails() ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}
