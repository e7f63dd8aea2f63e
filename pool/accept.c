/*
 * accept.c - a client, paid for before it is accepted.
 *
 * First the descriptor, then the client: in the other order there would be a client and nothing
 * to hold him by. But who has a descriptor and no client gives it back before he waits,
 * so that an idle listener takes nothing from anybody.
 */
#define _GNU_SOURCE
#include <weir/accept.h>

#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum outcome { GOT_ONE, NOBODY_THERE, TRY_AGAIN, NO_DESCRIPTOR, HOPELESS };

static enum outcome meaning_of(int errnum)
{
    switch (errnum) {
    case EAGAIN:
        return NOBODY_THERE;
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM: /* a firewall's */
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ETIMEDOUT:
        return TRY_AGAIN;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        return NO_DESCRIPTOR;
    default:
        return HOPELESS;
    }
}

static enum outcome try_once(int listener, weir_accepted *out)
{
    out->peer_size = sizeof out->peer;
    out->fd = accept4(listener, (struct sockaddr *)&out->peer, &out->peer_size,
                      SOCK_NONBLOCK | SOCK_CLOEXEC);
    return out->fd >= 0 ? GOT_ONE : meaning_of(errno);
}

static weir_status say_why(weir_status status, int listener, weir_error *err)
{
    switch (status) {
    case WEIR_CLOSED:
        return weir_error_set(err, status, "the listening socket %d was closed", listener);
    case WEIR_BUSY:
        return weir_error_set(err, status,
                              "another coroutine waits for clients of socket %d: have one accept, "
                              "and others serve",
                              listener);
    default:
        return weir_error_set(err, status, "no client of socket %d: %s", listener,
                              weir_status_name(status));
    }
}

static weir_status refuse(int listener, const char *why, int errnum, weir_error *err)
{
    weir_error_set(err, WEIR_USAGE, "weir_accept() of descriptor %d: %s", listener, why);
    if (err)
        err->native = errnum;
    return WEIR_USAGE;
}

static weir_status check(int listener, weir_accepted *out, weir_error *err)
{
    if (!out)
        return refuse(listener, "no place for the client", 0, err);
    *out = (weir_accepted){ .fd = -1 };
    if (!hot_self())
        return refuse(listener, "outside of a coroutine", 0, err);
    int flags = fcntl(listener, F_GETFL);
    if (flags < 0)
        return refuse(listener, strerror(errno), errno, err);
    if (!(flags & O_NONBLOCK))
        return refuse(listener, "it would block the hub: make it with SOCK_NONBLOCK", 0, err);
    return WEIR_OK;
}

/* With a descriptor in hand. WEIR_OK also where there is no client. */
static weir_status accept_paid(int listener, weir_accepted *out, weir_error *err)
{
    for (;;) {
        weir_status status = WEIR_OK;
        switch (try_once(listener, out)) {
        case GOT_ONE:
        case NOBODY_THERE:
            hot_spend(WEIR_IO_UNITS);
            return WEIR_OK;
        case TRY_AGAIN:
            weir_spend(WEIR_IO_UNITS);
            status = hot_pending();
            break;
        case NO_DESCRIPTOR:
            status = budget_wait_for_kernel();
            break;
        case HOPELESS:
            return refuse(listener, strerror(errno), errno, err);
        }
        if (status != WEIR_OK)
            return say_why(status, listener, err);
    }
}

/* WEIR_OK also where there was no client, for whom it has waited then. */
static weir_status accept_or_wait(int listener, weir_accepted *out, weir_error *err)
{
    weir_status status = weir_budget_take(1, WEIR_SCOPE, &out->token, err);

    if (status != WEIR_OK)
        return status;
    status = accept_paid(listener, out, err);
    if (out->fd >= 0)
        return WEIR_OK;
    weir_budget_give(&out->token);
    if (status != WEIR_OK)
        return status;
    status = weir_wait_fd(listener, WEIR_READ, WEIR_SCOPE, NULL);
    return status == WEIR_OK ? WEIR_OK : say_why(status, listener, err);
}

weir_status weir_accept(int listener, weir_deadline deadline, weir_accepted *out, weir_error *err)
{
    weir_status status = check(listener, out, err);

    if (status != WEIR_OK)
        return status;
    WEIR_DEADLINE(deadline); /* of each wait below */
    while (status == WEIR_OK && out->fd < 0)
        status = accept_or_wait(listener, out, err);
    return status;
}

void weir_accepted_close(weir_accepted *accepted)
{
    if (accepted->fd >= 0)
        weir_close(accepted->fd);
    accepted->fd = -1;
    weir_budget_give(&accepted->token);
}
