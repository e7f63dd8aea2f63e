/*
 * patch_refuse.c - which libraries must not be patched.
 *
 * Knows:   by name what weir itself stands on, and what its drivers steer.
 * Ignores: slots and relocations.
 *
 * The substitutes call libc, so libc and whatever weir is linked into would call themselves for
 * ever. The drivers reach into libmariadb and libmongoc in ways of their own, and count on every
 * library below these to do as it is told: OpenSSL, for one, where it reads and writes for them.
 * In a process without the two nobody minds if OpenSSL is patched.
 */
#include "elf_image.h"
#include "patch.h"

#include <string.h>

/* ---- by name ------------------------------------------------------------------------ */

#define OF_LIBC "it is a part of libc, which weir itself calls"
#define OF_WEIR "it is weir itself"
#define OF_TOOLS "it is a sanitizer's, and in every call"
#define OF_KERNEL "it is the kernel's, and read-only"

static const struct {
    const char *name; /* or how it begins, with a '*' at its end */
    const char *why;
} refused[] = {
    { "libc", OF_LIBC }, { "libpthread", OF_LIBC }, { "librt", OF_LIBC }, { "libdl", OF_LIBC },
    { "libm", OF_LIBC }, { "libresolv", OF_LIBC }, { "libanl", OF_LIBC }, { "libutil", OF_LIBC },
    { "libnss_*", OF_LIBC }, { "ld-*", OF_LIBC }, { "ld64*", OF_LIBC }, { "libc-*", OF_LIBC },
    { "linux-vdso*", OF_KERNEL }, { "linux-gate*", OF_KERNEL },
    { "libweir-*", OF_WEIR },
    { "libasan", OF_TOOLS }, { "liblsan", OF_TOOLS }, { "libtsan", OF_TOOLS },
    { "libubsan", OF_TOOLS }, { "libclang_rt*", OF_TOOLS },
    { "libev", "weir's hubs may live on its loop" },
};

/* Libraries that weir's drivers steer, by means of their own; see weir/mysql.h, weir/mongo.h. */
static const char *const driven[] = { "libmariadb", "libmongoc-*", "libbson-*" };

static bool is_pattern_of(const char *pattern, const char *full)
{
    size_t length = strlen(pattern);

    if (pattern[length - 1] == '*')
        return strncmp(full, pattern, length - 1) == 0;
    return elf_name_fits(full, pattern);
}

static bool is_driven(const char *full)
{
    for (size_t i = 0; i < sizeof driven / sizeof *driven; i++)
        if (is_pattern_of(driven[i], full))
            return true;
    return false;
}

/* ---- what a driver's library needs -------------------------------------------------- */

/* All that the drivers' libraries need, and what that needs: names, each once. */
struct needed {
    const char *names[256];
    size_t      count;
};

static bool add_name(const char *name, void *arg)
{
    struct needed *needed = arg;

    for (size_t i = 0; i < needed->count; i++)
        if (strcmp(needed->names[i], name) == 0)
            return true;
    if (needed->count < sizeof needed->names / sizeof *needed->names)
        needed->names[needed->count++] = name;
    return true;
}

static bool add_driven(const struct elf_image *image, void *arg)
{
    if (is_driven(elf_basename(image->name)) || is_driven(image->soname))
        elf_each_needed(image, add_name, arg);
    return false;
}

static bool is_known_as(const struct elf_image *image, void *name)
{
    return strcmp(image->soname, name) == 0 || strcmp(elf_basename(image->name), name) == 0;
}

static bool a_driver_needs(const struct elf_image *wanted)
{
    struct needed    needed = { .count = 0 };
    struct elf_image image;

    elf_find(add_driven, &needed, &image);
    for (size_t i = 0; i < needed.count; i++) {
        if (is_known_as(wanted, (void *)needed.names[i]))
            return true;
        if (elf_find(is_known_as, (void *)needed.names[i], &image))
            elf_each_needed(&image, add_name, &needed);
    }
    return false;
}

/* ---- the verdict -------------------------------------------------------------------- */

const char *patch_refused_because(const struct elf_image *image)
{
    const char *file = elf_basename(image->name);

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (is_pattern_of(refused[i].name, file) || is_pattern_of(refused[i].name, image->soname))
            return refused[i].why;
    if (elf_contains(image, (uintptr_t)patch_seats))
        return "weir is linked into it";
    if (is_driven(file) || is_driven(image->soname))
        return "weir's drivers make it cooperate in their own way: use weir::mysql or weir::mongo";
    if (a_driver_needs(image))
        return "libmariadb or libmongoc, which weir's drivers steer, need it";
    if (elf_machine() == 0)
        return "of this machine's relocations weir knows nothing (x86-64 and aarch64 it knows)";
    return image->strange;
}
