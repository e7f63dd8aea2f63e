/*
 * resolve.c - names, without blocking the hub.
 *
 * getaddrinfo(3) takes as long as a silent name server likes, and nothing can stop it. So it
 * runs on two threads that do nothing else (slow names must not hold up offloaded work), and
 * a caller who gives up leaves the lookup to its thread.
 */
#include "hub.h"
#include "offload.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

struct crew crew_of_resolvers = CREW_INIT(crew_of_resolvers, "resolver", 2);

struct lookup {
    struct job       job;
    char            *host, *service;
    struct addrinfo  hints;
    struct addrinfo *found;
    int              code;   /* getaddrinfo's */
    int              errnum; /* for EAI_SYSTEM */
};

static void look_up(void *arg)
{
    struct lookup *lookup = arg;

    lookup->code = getaddrinfo(lookup->host, lookup->service, &lookup->hints, &lookup->found);
    lookup->errnum = errno;
}

static void lookup_free(void *arg)
{
    struct lookup *lookup = arg;

    if (lookup->found)
        freeaddrinfo(lookup->found);
    free(lookup->host);
    free(lookup->service);
    free(lookup);
}

static struct lookup *lookup_new(const char *host, const char *service,
                                 const struct addrinfo *hints)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (!lookup)
        return NULL;

    lookup->job = (struct job){ .run = look_up, .abandon = lookup_free, .arg = lookup };
    lookup->host = host ? strdup(host) : NULL;
    lookup->service = service ? strdup(service) : NULL;
    if (hints)
        lookup->hints = *hints;
    if ((host && !lookup->host) || (service && !lookup->service)) {
        lookup_free(lookup);
        return NULL;
    }
    return lookup;
}

static weir_status answer(int code, int errnum, const char *host, weir_error *err)
{
    if (code == 0)
        return WEIR_OK;
    weir_error_set(err, WEIR_CONNECT, "cannot look up host '%s': %s", host ? host : "",
                   code == EAI_SYSTEM ? strerror(errnum) : gai_strerror(code));
    if (err)
        err->native = code == EAI_SYSTEM ? errnum : code;
    return WEIR_CONNECT;
}

/* A numeric host needs no file and no network: no thread either. */
static bool numeric(const char *host, const char *service, const struct addrinfo *hints,
                    struct addrinfo **out)
{
    struct addrinfo only = { 0 };

    if (hints)
        only = *hints;
    only.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    return host && getaddrinfo(host, service, &only, out) == 0;
}

weir_status weir_resolve(const char *host, const char *service, const struct addrinfo *hints,
                         weir_deadline deadline, struct addrinfo **out, weir_error *err)
{
    *out = NULL;
    if (numeric(host, service, hints, out))
        return WEIR_OK;
    if (!task_here()) {
        int code = getaddrinfo(host, service, hints, out);
        return answer(code, errno, host, err);
    }

    struct lookup *lookup = lookup_new(host, service, hints);
    if (!lookup)
        return weir_error_set(err, WEIR_NOMEM, "no memory to look up a host");
    weir_status status = crew_do(&crew_of_resolvers, &lookup->job, deadline);
    if (status == WEIR_NOMEM) {
        lookup_free(lookup);
        return weir_error_set(err, status, "no thread to look up host '%s'", host ? host : "");
    }
    if (status != WEIR_OK)
        return weir_error_set(err, status, "gave up looking up host '%s': %s", host ? host : "",
                              status == WEIR_TIMEOUT ? "the name server did not answer in time"
                                                     : weir_status_name(status));
    status = answer(lookup->code, lookup->errnum, host, err);
    *out = lookup->found;
    lookup->found = NULL;
    lookup_free(lookup);
    return status;
}
