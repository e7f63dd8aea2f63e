/*
 * patch_name.c - looking up names, by libraries that believe they block.
 *
 * What weir_resolve() gives is libc's own list, so freeaddrinfo(3) stays libc's.
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <errno.h>

/* weir_resolve() tells EAI_ codes, which are negative, and for EAI_SYSTEM errno. */
static int code_of(const struct call *call, weir_status status, const weir_error *err)
{
    if (status == WEIR_OK)
        return 0;
    if (status == WEIR_NOMEM)
        return EAI_MEMORY;
    if (status == WEIR_CONNECT && err->native < 0)
        return err->native;
    if (status == WEIR_CONNECT)
        errno = err->native;
    else
        (void)call_waited(call, status);
    return EAI_SYSTEM;
}

int patched_getaddrinfo(struct seat *seat, const char *host, const char *service,
                        const struct addrinfo *hints, struct addrinfo **out)
{
    weir_error  err = { 0 };
    struct call call;

    if (!call_begin(&call, seat, "getaddrinfo"))
        return getaddrinfo(host, service, hints, out);
    weir_status status = hot_pending();
    if (status == WEIR_OK) {
        struct addrinfo *found; /* *out is not touched by a call that fails */
        call_wait_begin(&call);
        status = weir_resolve(host, service, hints, WEIR_SCOPE, &found, &err);
        call_wait_end(&call);
        if (status == WEIR_OK)
            *out = found;
    }
    int code = code_of(&call, status, &err);
    call_end(&call);
    return code;
}
