/*
 * permits_file.c - where the memory comes from that processes share permits in.
 *
 * A file is filled in under a name of its own and then linked to the one that was asked for,
 * which succeeds for one process only. So nobody ever sees one that is half made, and nobody
 * waits for a lock. It stays mapped, not open: it costs no descriptor.
 */
#define _GNU_SOURCE
#include "permits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const char magic[8] = { 'w', 'e', 'i', 'r', 'p', 'm', 't', '\n' };

static weir_status blame(weir_error *err, const char *path, const char *what, int errnum)
{
    weir_error_set(err, WEIR_USAGE, "permits in '%.100s': %s: %s", path, what, strerror(errnum));
    if (err)
        err->native = errnum;
    return WEIR_USAGE;
}

static uint64_t pid_space(void)
{
    struct stat about;

    return stat("/proc/self/ns/pid", &about) == 0 ? (uint64_t)about.st_ino : 0;
}

static void write_head(struct permits_table *table, unsigned count)
{
    memcpy(table->magic, magic, sizeof magic);
    table->version = PERMITS_VERSION;
    table->count = count;
    table->pid_space = pid_space();
}

/* ---- the handle --------------------------------------------------------------------- */

static weir_status handle(struct permits_table *table, weir_permits **out, weir_error *err)
{
    weir_permits *permits = calloc(1, sizeof *permits);

    if (!permits) {
        munmap(table, permits_size(table->count));
        return weir_error_set(err, WEIR_NOMEM, "no memory for permits");
    }
    permits->table = table;
    permits->count = table->count;
    permits->words = (_Atomic uint64_t *)(table->members + table->count);
    atomic_store(&permits->refs, 1);
    *out = permits;
    return WEIR_OK;
}

void permits_keep(weir_permits *permits)
{
    atomic_fetch_add(&permits->refs, 1);
}

void weir_permits_free(weir_permits *permits)
{
    if (!permits || atomic_fetch_sub(&permits->refs, 1) != 1)
        return;
    munmap(permits->table, permits_size(permits->count));
    free(permits);
}

/* ---- a file that is there ----------------------------------------------------------- */

static weir_status check_head(const char *path, const struct permits_table *head, off_t size,
                              unsigned count, weir_error *err)
{
    if (memcmp(head->magic, magic, sizeof magic) != 0)
        return weir_error_set(err, WEIR_USAGE,
                              "permits in '%.100s': that is another kind of file: name one that "
                              "does not exist yet",
                              path);
    if (head->version != PERMITS_VERSION)
        return weir_error_set(err, WEIR_USAGE,
                              "permits in '%.100s': the file has version %u, this weir knows %d: "
                              "remove it when nobody uses it any more",
                              path, head->version, PERMITS_VERSION);
    if (!head->count || head->count > PERMITS_MAX || size != (off_t)permits_size(head->count))
        return weir_error_set(err, WEIR_USAGE,
                              "permits in '%.100s': the file is damaged (%lld bytes for %u "
                              "permits): remove it when nobody uses it any more",
                              path, (long long)size, head->count);
    if (count && count != head->count)
        return weir_error_set(err, WEIR_USAGE,
                              "permits in '%.100s': the file has %u, and %u are asked for: all "
                              "processes must say the same; to change it, remove the file when "
                              "nobody uses it",
                              path, head->count, count);
    if (head->pid_space != pid_space())
        return weir_error_set(err, WEIR_USAGE,
                              "permits in '%.100s': the file was made in another PID namespace, "
                              "whose processes cannot be seen from here: use one file for each, "
                              "or remove one that is left over",
                              path);
    return WEIR_OK;
}

static weir_status map(int fd, const char *path, unsigned count, weir_permits **out,
                       weir_error *err)
{
    struct permits_table head = { 0 };
    struct stat          about;

    if (fstat(fd, &about) != 0)
        return blame(err, path, "the file cannot be looked at", errno);
    if (!S_ISREG(about.st_mode))
        return weir_error_set(err, WEIR_USAGE, "permits in '%.100s': that is no regular file",
                              path);
    if (pread(fd, &head, sizeof head, 0) < 0)
        return blame(err, path, "the file cannot be read", errno);
    weir_status status = check_head(path, &head, about.st_size, count, err);
    if (status != WEIR_OK)
        return status;
    void *table =
        mmap(NULL, permits_size(head.count), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table == MAP_FAILED)
        return blame(err, path, "the file cannot be mapped", errno);
    return handle(table, out, err);
}

/* ---- a new one ---------------------------------------------------------------------- */

static int fill_in(int fd, unsigned count)
{
    struct permits_table head = { 0 };
    int                  errnum = posix_fallocate(fd, 0, (off_t)permits_size(count));

    if (errnum)
        return errnum; /* now, and not by a signal when it is written to */
    write_head(&head, count);
    return pwrite(fd, &head, sizeof head, 0) == (ssize_t)sizeof head ? 0 : errno;
}

/* 0, also where somebody else was faster; an errno. */
static int make_file(const char *path, unsigned count)
{
    size_t size = strlen(path) + sizeof ".XXXXXX";
    char  *unnamed = malloc(size);

    if (!unnamed)
        return ENOMEM;
    snprintf(unnamed, size, "%s.XXXXXX", path);
    int fd = mkostemp(unnamed, O_CLOEXEC); /* mode 0600 */
    int errnum = fd < 0 ? errno : fill_in(fd, count);
    if (!errnum && link(unnamed, path) != 0 && errno != EEXIST)
        errnum = errno;
    if (fd >= 0) {
        unlink(unnamed);
        close(fd);
    }
    free(unnamed);
    return errnum;
}

static weir_status open_file(const char *path, unsigned count, weir_permits **out,
                             weir_error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0 && errno == ENOENT && count) {
        int errnum = make_file(path, count);
        if (errnum)
            return blame(err, path, "the file cannot be made", errnum);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    }
    if (fd < 0)
        return blame(err, path, "the file cannot be opened", errno);
    weir_status status = map(fd, path, count, out, err);
    close(fd);
    return status;
}

static weir_status make_anonymous(unsigned count, weir_permits **out, weir_error *err)
{
    void *table = mmap(NULL, permits_size(count), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (table == MAP_FAILED)
        return weir_error_set(err, WEIR_NOMEM, "no memory for %u permits", count);
    write_head(table, count);
    return handle(table, out, err);
}

/* ---- the public face ---------------------------------------------------------------- */

/* Without it nobody could know when a dead process' sockets are closed. */
static bool deaths_can_be_known(void)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0 || errno != ENOSYS;
}

weir_status weir_permits_open(const weir_permits_opts *opts, weir_permits **out, weir_error *err)
{
    const char *path = opts ? opts->path : NULL;
    unsigned    count = opts ? opts->count : 0;

    if (!out)
        return weir_error_set(err, WEIR_USAGE, "weir_permits_open() without a place for them");
    *out = NULL;
    if (count > PERMITS_MAX)
        return weir_error_set(err, WEIR_USAGE, "%u permits are too many: at most %d", count,
                              PERMITS_MAX);
    if (!path && !count)
        return weir_error_set(err, WEIR_USAGE, "how many permits? Give a count, or the path of a "
                                               "file that has some");
    if (!deaths_can_be_known())
        return weir_error_set(err, WEIR_USAGE, "permits need pidfd_open(2), which this kernel does "
                                               "not have: Linux 5.3 does");
    return path ? open_file(path, count, out, err) : make_anonymous(count, out, err);
}
