/*
 * patch_unit.h - what the tests of patching share: the libraries of client.c, and who else runs.
 */
#ifndef PATCH_UNIT_H
#define PATCH_UNIT_H

#include "../coro_unit.h"
#include "client.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <weir/patch.h>

/* Loaded once; a library must not go while a test has its addresses. */
static inline void *library_at(const char *file, int flags)
{
    void *handle = dlopen(file, flags);

    if (!handle)
        fail_msg("%s", dlerror());
    return handle;
}

static inline const struct client *client_of(const char *file)
{
    return dlsym(library_at(file, RTLD_LAZY), "client");
}

#define LIBRARY(name) PATCH_LIBRARIES "/lib" name ".so"

#define assert_patched(library)                                                           \
    do {                                                                                  \
        weir_error err_;                                                                  \
        if (weir_patch((library), &err_) != WEIR_OK)                                      \
            fail_msg("weir_patch: %s", err_.message);                                     \
    } while (0)
#define assert_unpatched(library)                                                         \
    do {                                                                                  \
        weir_error err_;                                                                  \
        if (weir_unpatch((library), &err_) != WEIR_OK)                                    \
            fail_msg("weir_unpatch: %s", err_.message);                                   \
    } while (0)

#endif
