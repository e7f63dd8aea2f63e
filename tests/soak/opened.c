/*
 * opened.c - the calls that open and close descriptors, seen on their way to libc.
 *
 * The functions below have libc's names, so the dynamic linker binds every library's use of them
 * to ours. Each does libc's own and notes the result. libc does not call itself by these names:
 * what opendir(), getaddrinfo() and their like open, they mostly close before they return, and
 * what they leave open has no place here. fopen() is seen.
 */
#define _GNU_SOURCE
#include "opened.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <weir/coro.h>

static struct opened table[OPENED_MAX];
static uint64_t      order;

static int note(int fd, const void *from)
{
    weir_task *self = weir_self();

    if (fd >= 0 && fd < OPENED_MAX)
        table[fd] = (struct opened){
            .from = from,
            .spawned = self ? weir_task_site(self) : NULL,
            .order = __atomic_add_fetch(&order, 1, __ATOMIC_RELAXED),
        };
    return fd;
}

static void forget(int fd)
{
    if (fd >= 0 && fd < OPENED_MAX)
        table[fd] = (struct opened){ .from = NULL };
}

bool opened_look(int fd, struct opened *out)
{
    if (fcntl(fd, F_GETFD) < 0)
        return false;
    *out = table[fd];
    return true;
}

/* Keepers of connections are spawned by weir itself, those who dial for libmongoc in our driver,
   whose files have short names. */
bool opened_by_pool(const struct opened *opened)
{
    return opened->spawned && (strcmp(opened->spawned, "weir") == 0 ||
                               strncmp(opened->spawned, "drivers/mongo/", 14) == 0);
}

/* ---- libc's calls ------------------------------------------------------------------- */

/* The next definition of it: libc's, or a sanitizer's. */
#define REAL(name)                                                                        \
    static __typeof__(&name) real;                                                        \
    if (!real)                                                                            \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define FROM __builtin_extract_return_addr(__builtin_return_address(0))

/* The third argument is there where the flags say so. */
#define MODE_OF(flags, last)                                                              \
    mode_t mode = 0;                                                                      \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                               \
        va_list args;                                                                     \
        va_start(args, last);                                                             \
        mode = va_arg(args, mode_t);                                                      \
        va_end(args);                                                                     \
    }

#undef open
#undef open64
#undef openat
#undef openat64
#undef fopen
#undef fopen64
#undef fcntl
#undef fcntl64
#undef mkstemp
#undef mkostemp

WEIR_API int open(const char *path, int flags, ...)
{
    REAL(open);
    MODE_OF(flags, flags)
    return note(real(path, flags, mode), FROM);
}

WEIR_API int open64(const char *path, int flags, ...)
{
    REAL(open64);
    MODE_OF(flags, flags)
    return note(real(path, flags, mode), FROM);
}

WEIR_API int openat(int dir, const char *path, int flags, ...)
{
    REAL(openat);
    MODE_OF(flags, flags)
    return note(real(dir, path, flags, mode), FROM);
}

WEIR_API int openat64(int dir, const char *path, int flags, ...)
{
    REAL(openat64);
    MODE_OF(flags, flags)
    return note(real(dir, path, flags, mode), FROM);
}

WEIR_API FILE *fopen(const char *path, const char *mode)
{
    REAL(fopen);
    FILE *file = real(path, mode);
    if (file)
        (void)note(fileno(file), FROM);
    return file;
}

WEIR_API FILE *fopen64(const char *path, const char *mode)
{
    REAL(fopen64);
    FILE *file = real(path, mode);
    if (file)
        (void)note(fileno(file), FROM);
    return file;
}

WEIR_API int fclose(FILE *file)
{
    REAL(fclose);
    forget(fileno(file));
    return real(file);
}

WEIR_API int socket(int domain, int type, int protocol)
{
    REAL(socket);
    return note(real(domain, type, protocol), FROM);
}

WEIR_API int socketpair(int domain, int type, int protocol, int fds[2])
{
    REAL(socketpair);
    int result = real(domain, type, protocol, fds);
    if (result == 0) {
        (void)note(fds[0], FROM);
        (void)note(fds[1], FROM);
    }
    return result;
}

WEIR_API int accept(int fd, __SOCKADDR_ARG address, socklen_t *size)
{
    REAL(accept);
    return note(real(fd, address, size), FROM);
}

WEIR_API int accept4(int fd, __SOCKADDR_ARG address, socklen_t *size, int flags)
{
    REAL(accept4);
    return note(real(fd, address, size, flags), FROM);
}

WEIR_API int pipe(int fds[2])
{
    REAL(pipe);
    int result = real(fds);
    if (result == 0) {
        (void)note(fds[0], FROM);
        (void)note(fds[1], FROM);
    }
    return result;
}

WEIR_API int pipe2(int fds[2], int flags)
{
    REAL(pipe2);
    int result = real(fds, flags);
    if (result == 0) {
        (void)note(fds[0], FROM);
        (void)note(fds[1], FROM);
    }
    return result;
}

WEIR_API int dup(int fd)
{
    REAL(dup);
    return note(real(fd), FROM);
}

WEIR_API int dup2(int fd, int to)
{
    REAL(dup2);
    return note(real(fd, to), FROM);
}

WEIR_API int dup3(int fd, int to, int flags)
{
    REAL(dup3);
    return note(real(fd, to, flags), FROM);
}

/* Of a call that may have a third argument or not, as libc itself takes it. */
#define LAST_OF(command)                                                                  \
    va_list args;                                                                         \
    va_start(args, command);                                                              \
    void *last = va_arg(args, void *);                                                    \
    va_end(args);

static int note_copy(int result, int command, const void *from)
{
    bool copied = command == F_DUPFD || command == F_DUPFD_CLOEXEC;

    return copied ? note(result, from) : result;
}

WEIR_API int fcntl(int fd, int command, ...)
{
    REAL(fcntl);
    LAST_OF(command)
    return note_copy(real(fd, command, last), command, FROM);
}

WEIR_API int fcntl64(int fd, int command, ...)
{
    REAL(fcntl64);
    LAST_OF(command)
    return note_copy(real(fd, command, last), command, FROM);
}

WEIR_API int mkstemp(char *name)
{
    REAL(mkstemp);
    return note(real(name), FROM);
}

WEIR_API int mkostemp(char *name, int flags)
{
    REAL(mkostemp);
    return note(real(name, flags), FROM);
}

WEIR_API int inotify_init1(int flags)
{
    REAL(inotify_init1);
    return note(real(flags), FROM);
}

WEIR_API int epoll_create1(int flags)
{
    REAL(epoll_create1);
    return note(real(flags), FROM);
}

WEIR_API int eventfd(unsigned value, int flags)
{
    REAL(eventfd);
    return note(real(value, flags), FROM);
}

WEIR_API int timerfd_create(clockid_t clock, int flags)
{
    REAL(timerfd_create);
    return note(real(clock, flags), FROM);
}

WEIR_API int signalfd(int fd, const sigset_t *mask, int flags)
{
    REAL(signalfd);
    return note(real(fd, mask, flags), FROM);
}

WEIR_API int memfd_create(const char *name, unsigned flags)
{
    REAL(memfd_create);
    return note(real(name, flags), FROM);
}

/* Before, not after: by then the number may be somebody else's. */
WEIR_API int close(int fd)
{
    REAL(close);
    forget(fd);
    return real(fd);
}
