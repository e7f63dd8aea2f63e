/*
 * channel.c - values passed on in order.
 *
 * Receivers wait only while there is nothing: no element, no sender. Senders wait only while there
 * is no room and no receiver. So whoever comes either is served by what he finds, or joins a
 * queue of his own kind, and an element never overtakes another.
 *
 * Whoever runs does the copying: a sender puts his element where a waiting receiver wants it, a
 * receiver takes it from where a waiting sender has it. The one who slept wakes up to a thing
 * done.
 */
#include "waitq.h"

#include <stdlib.h>
#include <string.h>

struct weir_chan {
    weir_waitq     senders, receivers, drainers;
    size_t         size, capacity;
    size_t         count; /* elements in the ring, the oldest at head */
    size_t         head;
    bool           closed;
    unsigned char *ring;
};

/* A sender or receiver who waits. */
struct party {
    struct weir_waiter_ waiter;
    const void         *from;
    void               *to;
};

weir_status weir_chan_new(size_t size, size_t capacity, weir_chan **out, weir_error *err)
{
    size_t bytes;

    if (!out)
        return weir_error_set(err, WEIR_USAGE, "out is missing: where shall the channel go?");
    *out = NULL;
    weir_chan *chan = __builtin_mul_overflow(size, capacity, &bytes) ||
                              __builtin_add_overflow(bytes, sizeof *chan, &bytes)
                          ? NULL
                          : calloc(1, bytes);
    if (!chan)
        return weir_error_set(err, WEIR_NOMEM,
                              "no memory for a channel of %zu elements of %zu bytes", capacity,
                              size);
    chan->size = size;
    chan->capacity = capacity;
    chan->ring = (unsigned char *)(chan + 1);
    *out = chan;
    return WEIR_OK;
}

/* ---- the ring ----------------------------------------------------------------------- */

static void copy(const weir_chan *chan, void *to, const void *from)
{
    if (chan->size == sizeof(void *))
        memcpy(to, from, sizeof(void *)); /* most carry a pointer: one move, no call */
    else if (chan->size)
        memcpy(to, from, chan->size);
}

static void *slot(const weir_chan *chan, size_t index)
{
    if (index >= chan->capacity)
        index -= chan->capacity;
    return chan->ring + index * chan->size;
}

static void put_last(weir_chan *chan, const void *element)
{
    copy(chan, slot(chan, chan->head + chan->count), element);
    chan->count++;
}

static void take_first(weir_chan *chan, void *element)
{
    copy(chan, element, slot(chan, chan->head));
    chan->head = chan->head + 1 < chan->capacity ? chan->head + 1 : 0;
    chan->count--;
}

static bool nothing_left(const weir_chan *chan)
{
    return !chan->count && !chan->senders.first_;
}

static void tell_drainers(weir_chan *chan)
{
    if (chan->drainers.first_ && nothing_left(chan))
        waitq_tell_all(&chan->drainers, WEIR_OK);
}

/* ---- passing on --------------------------------------------------------------------- */

static bool send_now(weir_chan *chan, const void *element)
{
    struct weir_waiter_ *receiver = waitq_take(&chan->receivers, WEIR_OK);

    if (receiver) {
        copy(chan, LIST_OF(receiver, struct party, waiter)->to, element);
        weir_wake(receiver->waker);
        return true;
    }
    if (chan->count == chan->capacity)
        return false;
    put_last(chan, element);
    return true;
}

/* What the oldest waiting sender has goes to the end of the ring; without one, straight to `to`. */
static void serve_sender(weir_chan *chan, void *to)
{
    struct weir_waiter_ *sender = waitq_take(&chan->senders, WEIR_OK);

    if (!sender)
        return;
    const void *element = LIST_OF(sender, struct party, waiter)->from;
    if (chan->capacity)
        put_last(chan, element);
    else
        copy(chan, to, element);
    weir_wake(sender->waker);
}

static bool recv_now(weir_chan *chan, void *element)
{
    if (nothing_left(chan))
        return false;
    if (chan->count)
        take_first(chan, element);
    serve_sender(chan, element); /* without a ring, his is the one */
    tell_drainers(chan);
    return true;
}

weir_status weir_chan_send(weir_chan *chan, const void *element, weir_deadline deadline)
{
    weir_status status = chan->closed ? WEIR_CLOSED : hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (send_now(chan, element))
        return waitq_succeed();

    struct party me = { .from = element };
    status = waitq_sleep(&chan->senders, &me.waiter, deadline, "room in a channel");
    if (!me.waiter.served)
        tell_drainers(chan); /* ours may have been the last one they waited for */
    return status;
}

weir_status weir_chan_recv(weir_chan *chan, void *element, weir_deadline deadline)
{
    weir_status status = hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (recv_now(chan, element))
        return waitq_succeed();
    if (chan->closed)
        return waitq_fail(WEIR_CLOSED);

    struct party me = { .to = element };
    return waitq_sleep(&chan->receivers, &me.waiter, deadline, "an element of a channel");
}

weir_status weir_chan_try_send(weir_chan *chan, const void *element)
{
    if (chan->closed)
        return WEIR_CLOSED;
    return send_now(chan, element) ? WEIR_OK : WEIR_FULL;
}

weir_status weir_chan_try_recv(weir_chan *chan, void *element)
{
    if (recv_now(chan, element))
        return WEIR_OK;
    return chan->closed ? WEIR_CLOSED : WEIR_TIMEOUT;
}

size_t weir_chan_count(const weir_chan *chan)
{
    return chan->count;
}

/* ---- the end ------------------------------------------------------------------------ */

void weir_chan_close(weir_chan *chan)
{
    chan->closed = true;
    waitq_tell_all(&chan->senders, WEIR_CLOSED);
    waitq_tell_all(&chan->receivers, WEIR_CLOSED);
    tell_drainers(chan);
}

weir_status weir_chan_drain(weir_chan *chan, weir_deadline deadline)
{
    weir_status status = hot_pending();

    if (status != WEIR_OK)
        return waitq_fail(status);
    if (nothing_left(chan))
        return waitq_succeed();

    struct weir_waiter_ me = { 0 };
    return waitq_sleep(&chan->drainers, &me, deadline, "a channel to be drained");
}

void weir_chan_free(weir_chan *chan)
{
    if (!chan)
        return;
    waitq_tell_all(&chan->drainers, WEIR_CLOSED);
    weir_chan_close(chan);
    free(chan);
}
