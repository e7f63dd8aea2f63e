/*
 * poll.c - the library asks about several streams at once: its scanner, while it says hello to
 * every member of a replica set.
 *
 * Knows:   the contract of poll in mongoc_stream_t, whose descriptors are still to be paid for.
 * Ignores: how a stream is connected (dial.c), what is read and written (transfer.c).
 *
 * A poll that fails (-1) makes the library try again without end, and without giving way: so what
 * is wrong with a stream is said in its revents, and a poll never fails.
 */
#include "mongo_internal.h"

#include <errno.h>
#include <poll.h>

void mo_wake_poller(struct mo_client *client)
{
    if (client->polling)
        weir_wake(client->poller);
}

static int events_of(struct mo_stream *stream, int wanted)
{
    struct mo_client *client = stream->client;
    int               events = 0;

    if (stream->state == MO_DEAD || client->cut.status)
        return POLLERR;
    if (stream->state != MO_READY)
        return 0;
    if ((wanted & POLLOUT) && !stream->full)
        events |= POLLOUT;
    if ((wanted & POLLIN) && (stream->begin < stream->end || stream->stirred ||
                              (stream->tls && mo_tls_pending(stream->tls))))
        events |= POLLIN;
    return events;
}

static ssize_t look(mongoc_stream_poll_t *polled, size_t count)
{
    ssize_t ready = 0;

    for (size_t i = 0; i < count; i++) {
        polled[i].revents = events_of((struct mo_stream *)polled[i].stream, polled[i].events);
        ready += polled[i].revents != 0;
    }
    return ready;
}

static ssize_t all_fail(mongoc_stream_poll_t *polled, size_t count)
{
    for (size_t i = 0; i < count; i++)
        polled[i].revents = POLLERR;
    return (ssize_t)count;
}

/*
 * Somebody polls who does not hold the client. While its holder is parked in a poll of his own,
 * the library's list of who is polled is his, and is gone by the time he is done: only to find
 * nothing ready is safe then.
 */
static ssize_t poll_refused(struct mo_client *client, mongoc_stream_poll_t *polled, size_t count)
{
    if (!client->polling || !hot_self())
        return all_fail(polled, count);
    while (client->polling)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            (void)weir_yield();
    for (size_t i = 0; i < count; i++)
        polled[i].revents = 0;
    return 0;
}

/* A member that nobody has paid for: its descriptor must be had first. We don't wait long, since
   the others' time runs, too. */
static void pay_and_dial(mongoc_stream_poll_t *polled, size_t count, int32_t ms)
{
    for (size_t i = 0; i < count; i++) {
        struct mo_stream *stream = (struct mo_stream *)polled[i].stream;
        struct mo_client *client = stream->client;
        if (stream->state != MO_UNPAID || client->cut.status)
            continue;
        client->inside++;
        weir_status status = weir_conn_pay(client->conn, 1, mo_patience(ms / 4));
        client->inside--;
        stream->paid = status == WEIR_OK;
        if (stream->state != MO_UNPAID) { /* somebody has ended it meanwhile */
            mo_stream_refund(stream);
            continue;
        }
        if (stream->paid) {
            mo_dial(stream);
            continue;
        }
        client->shortage = EMFILE;
        client->unpaid++;
        mo_trouble(client, "no descriptor left in the budget for %s:%u", stream->host,
                   stream->port);
        mo_stream_hang_up(stream, EMFILE);
    }
}

/* Until something about one of them changes. */
static weir_status park(struct mo_client *client, mongoc_stream_poll_t *polled, size_t count,
                        weir_deadline until)
{
    for (size_t i = 0; i < count; i++) {
        struct mo_stream *stream = (struct mo_stream *)polled[i].stream;
        if (stream->state == MO_READY && stream->full) {
            stream->full = false; /* nobody tells us when to try again; a hello is small, and */
            until = weir_in_ms(1); /* hardly ever meets a full socket */
        }
    }
    client->poller = weir_waker_new();
    client->polling = true;
    client->inside++;
    weir_status status = weir_park(until, "MongoDB servers to say hello");
    client->inside--;
    client->polling = false;
    return status;
}

ssize_t mo_stream_poll(mongoc_stream_poll_t *polled, size_t count, int32_t ms)
{
    struct mo_client *client = ((struct mo_stream *)polled[0].stream)->client;
    weir_deadline     until = ms < 0 ? WEIR_FOREVER : weir_in_ms(ms);
    weir_status       status = WEIR_OK;

    if (!mo_may_talk(client))
        return poll_refused(client, polled, count);
    if (!hot_self()) {
        mo_trouble(client, "outside of a coroutine no connection can be made");
        return all_fail(polled, count);
    }
    pay_and_dial(polled, count, ms);
    hot_spend(WEIR_IO_UNITS); /* near the end of its time the library asks again and again */
    for (;;) {
        ssize_t ready = look(polled, count);
        if (ready || ms == 0)
            return ready;
        if (status == WEIR_TIMEOUT)
            return 0;
        status = park(client, polled, count, until);
        if (status == WEIR_OK || client->cut.status)
            continue;
        if (status == WEIR_CANCELED || weir_check() != WEIR_OK)
            mo_cut_by(client, status, "while it was waited for a server to be found");
    }
}
