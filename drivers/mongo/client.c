/*
 * client.c - one client of the library's: made, looked after, thrown away.
 *
 * Knows:   how a client is made to use our streams, which settings of it a user may change.
 * Ignores: what its streams do.
 *
 * A client costs 12 us and the connecting; one that has failed is of no use for five seconds,
 * since the library leaves a server alone for that long after a failure. So a client is replaced,
 * never repaired.
 *
 * Throwing one away must cost no packet and no wait: the client is told to forget its sessions
 * and cursors (mongoc_client_reset), every stream fails, and then it is destroyed. The exception
 * is a transaction that was left open, which a polite farewell aborts.
 *
 * Whatever a user has made from the client and kept points into it. The last few clients of a
 * pool are therefore not destroyed at once but kept as tombstones, without sockets and buffers,
 * some 25 KiB each: a call on one is refused, with the place of the lease it came from, instead
 * of meeting freed memory.
 */
#include "mongo_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- making one -------------------------------------------------------------------- */

/* The version was checked when the pool was made. */
static bool set_api(mongoc_client_t *mongoc, const weir_mongo_opts *opts)
{
    const char                 *text = opts->api_version;
    mongoc_server_api_version_t version;
    bson_error_t                error;

    if (!text || !mongoc_server_api_version_from_string(text, &version))
        return true;
    mongoc_server_api_t *api = mongoc_server_api_new(version);
    if (opts->api_strict)
        mongoc_server_api_strict(api, true);
    if (opts->api_deprecation_errors)
        mongoc_server_api_deprecation_errors(api, true);
    bool set = mongoc_client_set_server_api(mongoc, api, &error);
    mongoc_server_api_destroy(api);
    return set;
}

static struct mo_client *client_new(weir_conn *conn, struct mo_config *config)
{
    struct mo_client *client = calloc(1, sizeof *client);

    if (!client)
        return NULL;
    client->conn = conn;
    client->config = config;
    client->id = weir_conn_id(conn);
    list_init(&client->streams);
    list_init(&client->buried);
    client->stillborn = mo_stream_new(client);
    if (client->stillborn)
        mo_stream_hang_up(client->stillborn, ENOMEM);
    client->mongoc = client->stillborn ? mongoc_client_new_from_uri(config->uri) : NULL;
    if (!client->mongoc || !set_api(client->mongoc, &config->opts)) {
        mo_client_free(client);
        return NULL;
    }
    mongoc_client_set_error_api(client->mongoc, MONGOC_ERROR_API_VERSION_2);
    mongoc_client_set_stream_initiator(client->mongoc, mo_initiate, client);
    mo_sleep_hook(client->mongoc);
    mo_watch_commands(client);
    return client;
}

/* What the next client is paid for in advance: members that were reached, or would have been. One
   that is down is paid for when it is back. */
static void count_members(struct mo_client *client)
{
    unsigned count = client->unpaid;

    LIST_EACH(node, &client->streams)
        count += LIST_OF(node, struct mo_stream, link)->state == MO_READY;
    client->config->members = count;
}

/* What is connected is paid for; what was paid for beyond that goes back. */
static void settle_account(struct mo_client *client)
{
    weir_conn_refund(client->conn, client->tokens);
    client->tokens = 0;
}

/* Streams that nobody waits for: a member that goes is noticed, whichever it is. */
void mo_client_watch(struct mo_client *client)
{
    LIST_EACH(node, &client->streams) {
        struct mo_stream *stream = LIST_OF(node, struct mo_stream, link);
        if (stream->state == MO_READY && stream->stirred)
            (void)mo_stream_watch(stream);
    }
}

static bool ping(struct mo_client *client, bson_error_t *error)
{
    const mongoc_read_prefs_t *prefs = mongoc_client_get_read_prefs(client->mongoc);
    bson_t                     ping = BSON_INITIALIZER;

    BSON_APPEND_INT32(&ping, "ping", 1);
    bool well = mongoc_client_command_simple(client->mongoc, "admin", &ping, prefs, NULL, error);
    bson_destroy(&ping);
    return well;
}

static weir_status first_words(struct mo_client *client, weir_error *err)
{
    bson_error_t error = { 0 };

    return ping(client, &error) ? WEIR_OK : mo_blame_connect(client, &error, err);
}

weir_status mo_open(weir_conn *base, const void *arg, weir_deadline deadline, weir_error *err)
{
    struct mo_conn   *conn = (struct mo_conn *)base;
    struct mo_config *config = (struct mo_config *)arg; /* it learns who the members are */
    weir_status       status = mo_config_settle(config, weir_conn_generation(base), deadline, err);

    if (status != WEIR_OK)
        return status;
    struct mo_client *client = conn->client = client_new(base, config);
    if (!client)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a client");
    client->tokens = weir_conn_paid(base);
    client->opening = true;
    status = first_words(client, err);
    client->opening = false;
    if (status != WEIR_OK)
        return status;
    client->flawed = false; /* of what was lost on the way here nothing is left */
    client->trouble.status = WEIR_OK;
    client->answered = client->unsure = false;
    count_members(client);
    settle_account(client);
    mo_client_watch(client);
    return WEIR_OK;
}

/* ---- a sign of life ----------------------------------------------------------------- */

/*
 * By the member that reads go to. The others of a set are watched for their end, as ever; and once
 * in heartbeatFrequencyMS the library says hello to all of them before a command such as this.
 */
weir_status mo_ping(weir_conn *base, weir_deadline deadline, weir_error *err)
{
    struct mo_client *client = ((struct mo_conn *)base)->client;
    bson_error_t      error = { 0 };

    (void)deadline; /* it is the scope's, which the streams obey */
    if (!ping(client, &error))
        return mo_blame(client, err) ? WEIR_LOST
                                     : weir_error_set(err, WEIR_LOST, "%s", error.message);
    if (client->flawed)
        return weir_error_set(err, WEIR_LOST, "a member was lost meanwhile: %s",
                              client->trouble.text);
    client->trouble.status = client->answer.status = WEIR_OK;
    client->answered = client->unsure = false;
    mo_client_watch(client);
    return WEIR_OK;
}

/* ---- between leases ---------------------------------------------------------------- */

static bool same_prefs(const mongoc_read_prefs_t *a, const mongoc_read_prefs_t *b)
{
    return mongoc_read_prefs_get_mode(a) == mongoc_read_prefs_get_mode(b) &&
           mongoc_read_prefs_get_max_staleness_seconds(a) ==
               mongoc_read_prefs_get_max_staleness_seconds(b) &&
           bson_equal(mongoc_read_prefs_get_tags(a), mongoc_read_prefs_get_tags(b));
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static bool same_write_concern(const mongoc_write_concern_t *a, const mongoc_write_concern_t *b)
{
    return mongoc_write_concern_get_w(a) == mongoc_write_concern_get_w(b) &&
           mongoc_write_concern_get_wtimeout_int64(a) ==
               mongoc_write_concern_get_wtimeout_int64(b) &&
           mongoc_write_concern_get_journal(a) == mongoc_write_concern_get_journal(b) &&
           same_text(mongoc_write_concern_get_wtag(a), mongoc_write_concern_get_wtag(b));
}

void mo_client_settings(struct mo_client *client)
{
    mongoc_client_t              *mongoc = client->mongoc;
    const mongoc_uri_t           *uri = client->config->uri;
    const mongoc_read_prefs_t    *prefs = mongoc_uri_get_read_prefs_t(uri);
    const mongoc_read_concern_t  *reads = mongoc_uri_get_read_concern(uri);
    const mongoc_write_concern_t *writes = mongoc_uri_get_write_concern(uri);

    if (!same_prefs(mongoc_client_get_read_prefs(mongoc), prefs))
        mongoc_client_set_read_prefs(mongoc, prefs);
    if (!same_text(mongoc_read_concern_get_level(mongoc_client_get_read_concern(mongoc)),
                   mongoc_read_concern_get_level(reads)))
        mongoc_client_set_read_concern(mongoc, reads);
    if (!same_write_concern(mongoc_client_get_write_concern(mongoc), writes))
        mongoc_client_set_write_concern(mongoc, writes);
    mo_watch_commands(client);
}

/* ---- cut under its user ------------------------------------------------------------ */

/* Its streams stay, since a call may be in the middle of one: what is parked there wakes, and
   finds the client cut. Only the library's own sleep between two looks for a server, of up to half
   a second, goes on. */
void mo_interrupt(weir_conn *base)
{
    struct mo_client *client = ((struct mo_conn *)base)->client;

    mo_cut(client, WEIR_LOST, "the connection was cut, since its pool was cleared");
    LIST_EACH(node, &client->streams) {
        const struct mo_stream *stream = LIST_OF(node, struct mo_stream, link);
        if (stream->fd >= 0)
            shutdown(stream->fd, SHUT_RDWR);
    }
    mo_wake_poller(client);
}

/* ---- throwing it away -------------------------------------------------------------- */

void mo_client_free(struct mo_client *client)
{
    if (!client)
        return;
    client->closing = true;
    if (client->mongoc)
        mongoc_client_destroy(client->mongoc);
    LIST_EACH(node, &client->buried) {
        list_unlink(node);
        mo_stream_free(LIST_OF(node, struct mo_stream, link));
    }
    if (client->stillborn)
        mo_stream_free(client->stillborn);
    free(client);
}

static void hang_up(struct mo_client *client)
{
    mo_cut(client, WEIR_CLOSED, "closed");
    if (client->mongoc)
        mongoc_client_reset(client->mongoc);
    LIST_EACH(node, &client->streams)
        mo_stream_hang_up(LIST_OF(node, struct mo_stream, link), ECANCELED);
}

/* Unless somebody is parked in one of them, and will look into it when he wakes. */
static void shed_buffers(const struct mo_client *client, struct list *streams)
{
    LIST_EACH(node, streams) {
        struct mo_stream *stream = LIST_OF(node, struct mo_stream, link);
        if (client->inside)
            continue;
        free(stream->buffer);
        stream->buffer = NULL;
    }
}

static void entomb(struct mo_client *client)
{
    struct mo_config  *config = client->config;
    struct mo_client **place = &config->tombstones[config->next_tombstone++ % MO_TOMBSTONES];

    mo_client_free(*place);
    shed_buffers(client, &client->streams);
    shed_buffers(client, &client->buried);
    client->site = weir_conn_site(client->conn);
    client->conn = NULL;
    client->config = NULL;
    client->closing = false;
    *place = client;
}

static bool can_be_polite(const struct mo_client *client)
{
    return !client->cut.status && !client->flawed && !client->destroyed;
}

void mo_close(weir_conn *base, weir_farewell how, weir_deadline deadline)
{
    struct mo_conn   *conn = (struct mo_conn *)base;
    struct mo_client *client = conn->client;

    (void)deadline; /* it is the scope's, which the streams obey */
    if (!client)
        return;
    conn->client = NULL;
    if (how == WEIR_POLITE && client->transaction.stream && can_be_polite(client))
        (void)mo_transaction_abort(client);
    client->closing = true;
    if (how == WEIR_POLITE && client->config->opts.end_sessions && can_be_polite(client)) {
        mo_client_free(client); /* the library says endSessions then */
        return;
    }
    hang_up(client);
    entomb(client);
}
