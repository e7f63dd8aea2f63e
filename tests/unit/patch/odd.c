/*
 * odd.c - libraries that weir must refuse, or leave a place of, each by another switch.
 */
#include <stddef.h>
#include <unistd.h>

int odd_sleep(unsigned microseconds);

#if defined(ODD_BESIDE) /* an address some bytes beside the beginning of a function */
extern const char *const odd_beside;
const char *const odd_beside = (const char *)read + 8;
#elif defined(ODD_KIND) /* R_X86_64_SIZE64, which is neither an address nor a slot */
__asm__(".data\n.globl odd_size\n.balign 8\nodd_size: .quad read@SIZE\n.text\n");
#elif defined(ODD_OWN) /* a function of its own under a name of libc's */
ssize_t read(int fd, void *buf, size_t size)
{
    (void)fd;
    (void)buf;
    return (ssize_t)size;
}
ssize_t odd_read(size_t size);
ssize_t odd_read(size_t size)
{
    return read(-1, NULL, size);
}
#elif defined(ODD_USLEEP) /* stands between others and libc */
int usleep(useconds_t microseconds)
{
    return (int)microseconds;
}
#endif

#ifndef ODD_QUIET
int odd_sleep(unsigned microseconds)
{
    return usleep(microseconds);
}
#else /* nothing to patch */
int odd_sleep(unsigned microseconds)
{
    return (int)microseconds;
}
#endif
