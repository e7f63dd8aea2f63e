/*
 * patch_seat.c - who is inside a patched call.
 *
 * A library can be un-patched only when no coroutine is inside one of its calls. So each call
 * counts itself, and one that waits stands in a list by which it can be named. The order of a
 * call (count, then look whether the seat is taken) and of an un-patching (give the seat up, then
 * look at the count) sees to it that one of the two sees the other: whoever finds the seat given
 * up makes the real call.
 */
#include "patch.h"

#include <errno.h>
#include <stdio.h>

#define SEAT(n)                                                                           \
    {                                                                                     \
        .lock = PTHREAD_MUTEX_INITIALIZER,                                                \
        .waits = { &patch_seats[n].waits, &patch_seats[n].waits }                         \
    }

struct seat patch_seats[WEIR_PATCH_MAX] = {
    SEAT(0), SEAT(1), SEAT(2),  SEAT(3),  SEAT(4),  SEAT(5),  SEAT(6),  SEAT(7),
    SEAT(8), SEAT(9), SEAT(10), SEAT(11), SEAT(12), SEAT(13), SEAT(14), SEAT(15),
};

/* ---- a call ------------------------------------------------------------------------- */

bool call_begin(struct call *call, struct seat *seat, const char *name)
{
    weir_task *task = task_here();

    if (!task || task->no_yield)
        return false;
    hot_spend(WEIR_IO_UNITS); /* also where nothing is waited for, and where all fails at once */
    atomic_fetch_add(&seat->inside, 1);
    if (!atomic_load(&seat->taken)) {
        atomic_fetch_sub(&seat->inside, 1);
        return false;
    }
    *call = (struct call){ .seat = seat, .task = task, .name = name, .late = EAGAIN };
    return true;
}

void call_end(struct call *call)
{
    atomic_fetch_sub(&call->seat->inside, 1);
}

bool call_may_go_on(void)
{
    weir_status status = hot_pending();

    if (status == WEIR_OK)
        return true;
    errno = status == WEIR_CANCELED ? ECANCELED : ETIMEDOUT;
    return false;
}

bool call_waited(const struct call *call, weir_status status)
{
    if (status == WEIR_TIMEOUT) {
        weir_status why = weir_check(); /* OK: it was this call's own limit */
        errno = why == WEIR_OK ? call->late : why == WEIR_CANCELED ? ECANCELED : ETIMEDOUT;
        return false;
    }
    switch (status) {
    case WEIR_OK:
        return true;
    case WEIR_CANCELED:
        errno = ECANCELED;
        return false;
    case WEIR_BUSY:
        errno = EBUSY;
        return false;
    case WEIR_NOMEM:
        errno = ENOMEM;
        return false;
    case WEIR_DEADLOCK:
        errno = EDEADLK;
        return false;
    default: /* closed by another coroutine, or never a descriptor */
        errno = EBADF;
        return false;
    }
}

void call_wait_begin(struct call *call)
{
    pthread_mutex_lock(&call->seat->lock);
    list_append(&call->seat->waits, &call->link);
    pthread_mutex_unlock(&call->seat->lock);
}

void call_wait_end(struct call *call)
{
    pthread_mutex_lock(&call->seat->lock);
    list_unlink(&call->link);
    pthread_mutex_unlock(&call->seat->lock);
}

/* ---- who is inside ------------------------------------------------------------------ */

void seat_describe(struct seat *seat, char *out, size_t size)
{
    unsigned inside = atomic_load(&seat->inside), named = 0;
    size_t   length = 0;

    out[0] = '\0';
    if (inside == 0)
        return;
    pthread_mutex_lock(&seat->lock);
    LIST_EACH(node, &seat->waits) {
        const struct call *call = LIST_OF(node, struct call, link);
        char               text[128];
        int                n = snprintf(text, sizeof text, "%s%s %llu (spawned at %s) in %s",
                                        named ? ", " : "", weir_task_name(call->task),
                                        (unsigned long long)call->task->id,
                                        call->task->site, call->name);
        if (n < 0 || length + (size_t)n + sizeof " and 1234567890 more" > size)
            break;
        length += (size_t)snprintf(out + length, size - length, "%s", text);
        named++;
    }
    pthread_mutex_unlock(&seat->lock);
    if (named == 0)
        snprintf(out, size, "%u of other threads", inside);
    else if (inside > named)
        snprintf(out + length, size - length, " and %u more", inside - named);
}

/* ---- fork --------------------------------------------------------------------------- */

void seats_hold(void)
{
    pthread_mutex_lock(&patch_flag_lock);
    for (size_t i = 0; i < WEIR_PATCH_MAX; i++)
        pthread_mutex_lock(&patch_seats[i].lock);
}

void seats_let_go(void)
{
    for (size_t i = 0; i < WEIR_PATCH_MAX; i++)
        pthread_mutex_unlock(&patch_seats[i].lock);
    pthread_mutex_unlock(&patch_flag_lock);
}

/* Whoever forked runs, and so is in no call. */
void seats_forked(void)
{
    for (size_t i = 0; i < WEIR_PATCH_MAX; i++) {
        atomic_store(&patch_seats[i].inside, 0);
        list_init(&patch_seats[i].waits);
    }
}
