/*
 * driver.c - what the pool asks of a MongoDB client.
 *
 * Each function is the pool's question (see weir/driver.h), put to the file that knows.
 */
#include "mongo_internal.h"

/* The library connects to every member. Until one client has met them, those named are all we
   know of. */
static unsigned sockets(const void *arg)
{
    return ((const struct mo_config *)arg)->members;
}

/* A stream that owes a reply, or has bytes that nobody asked for, cannot be lent on. */
static bool is_quiet(const struct mo_client *client)
{
    bool quiet = true;

    LIST_EACH(node, &client->streams) {
        const struct mo_stream *stream = LIST_OF(node, struct mo_stream, link);
        if (stream->state == MO_READY &&
            (mo_message_owed(stream) || stream->begin < stream->end))
            quiet = false;
    }
    return quiet;
}

static bool is_connected(const struct mo_client *client)
{
    LIST_EACH(node, &client->streams)
        if (LIST_OF(node, struct mo_stream, link)->state == MO_READY)
            return true;
    return false;
}

static weir_condition check(weir_conn *base, weir_reset how)
{
    struct mo_client *client = ((struct mo_conn *)base)->client;

    if (client->cut.status || client->destroyed || client->inside)
        return WEIR_BROKEN;
    if (client->flawed || !is_connected(client))
        return WEIR_GONE;
    if (!is_quiet(client))
        return WEIR_BROKEN;
    if (client->transaction.several)
        return WEIR_BROKEN;
    mo_client_watch(client);
    if (how != WEIR_RESET_NONE)
        mo_client_settings(client);
    client->trouble.status = client->answer.status = WEIR_OK;
    client->intrusion[0] = '\0';
    return client->transaction.stream ? WEIR_DIRTY : WEIR_CLEAN;
}

/* Sessions and cursors are objects of their own. What has to be put right by the server is a
   transaction that was left open. */
static weir_status reset(weir_conn *base, weir_reset how, weir_deadline deadline, weir_error *err)
{
    struct mo_client *client = ((struct mo_conn *)base)->client;

    (void)how;
    (void)deadline; /* it is the scope's, which the streams obey */
    if (!client->transaction.stream || mo_transaction_abort(client)) {
        mo_client_watch(client);
        return WEIR_OK;
    }
    return weir_error_set(err, WEIR_LOST, "a transaction that was left open could not be aborted");
}

static weir_status describe(weir_conn *base, weir_error *err)
{
    return mo_blame(((struct mo_conn *)base)->client, err);
}

/* The library may do with them what it likes then. */
static bool disown(weir_conn *base)
{
    struct mo_client *client = ((struct mo_conn *)base)->client;

    if (!client)
        return true;
    mo_cut(client, WEIR_LOST, "the client is the parent process': this one was forked from it");
    LIST_EACH(node, &client->streams)
        weir_fd_dead_end(LIST_OF(node, struct mo_stream, link)->fd);
    return !client->opening && !client->inside;
}

const weir_driver mo_driver = {
    .name = "mongo",
    .conn_size = sizeof(struct mo_conn),
    .sockets = sockets,
    .open = mo_open,
    .close = mo_close,
    .check = check,
    .reset = reset,
    .describe = describe,
    .interrupt = mo_interrupt,
    .disown = disown,
    .ping = mo_ping,
    .free_config = mo_config_free,
};
