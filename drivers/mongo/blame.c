/*
 * blame.c - who may talk, and why something failed, in terms of what to do next.
 *
 * Knows:   our own reasons for ending a client, the library's and the servers' codes.
 * Ignores: how any of it came about.
 *
 * The library writes what it has to say into its caller's bson_error_t, which we do not see.
 * What we know ourselves comes first anyway: a deadline, a cancel and a dead server are the same
 * to the library. Errors that a server answers with are heard through its command monitoring,
 * of failed commands alone: that costs a command that succeeds nothing.
 */
#include "mongo_internal.h"

#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- whose turn it is -------------------------------------------------------------- */

/* A place in the source without its directories: three of them must fit into a message. */
static const char *place(const char *site)
{
    const char *slash = strrchr(site, '/');

    return slash ? slash + 1 : site;
}

/* As snprintf(3); a name that is too long is cut off, and so is what follows. */
WEIR_PRINTF(3, 4) static void say(char *out, size_t size, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(out, size, fmt, args);
    va_end(args);
}

static void name_task(const weir_task *task, char *out, size_t size)
{
    if (task)
        say(out, size, "%s %llu (spawned at %s)", weir_task_name(task),
            (unsigned long long)weir_task_id(task), place(weir_task_site(task)));
    else
        say(out, size, "code outside of a coroutine");
}

static bool refuse(struct mo_client *client, const weir_task *self)
{
    const weir_conn *conn = client->conn;
    const weir_task *user = conn ? conn->user : NULL;
    char             intruder[120], holder[120];

    name_task(self, intruder, sizeof intruder);
    name_task(user, holder, sizeof holder);
    say(client->intrusion, sizeof client->intrusion,
        "%s must not use client %llu, %s %s%s%s (is it by a cursor, session or collection that "
        "outlived its lease?)",
        intruder, (unsigned long long)client->id,
        user ? "leased at"
             : conn ? "which nobody holds: last leased at" : "which was discarded: last leased at",
        place(conn ? weir_conn_site(conn) : client->site), user ? " by " : "", user ? holder : "");
    LOG(WEIR_LOG_ERROR, "%s", client->intrusion);
    return false;
}

/* Code outside of any coroutine may borrow the holder's turn, where he is not in a call. */
bool mo_may_talk_at_all(struct mo_client *client)
{
    const weir_task *self = hot_self();
    const weir_task *user = client->conn ? client->conn->user : NULL;

    if (client->closing || (user && (self ? self == user : !client->inside)))
        return true;
    return refuse(client, self);
}

/* The library destroys it. If that is not our doing, its user has asked for it: from here on nobody
   may touch what he has freed, and he is not to get it from weir_mongo() again. */
void mo_client_goes(struct mo_client *client)
{
    const weir_conn *conn = client->conn;

    if (client->closing || client->destroyed)
        return;
    client->destroyed = true;
    client->mongoc = NULL;
    LOG(WEIR_LOG_ERROR, "mongoc_client_destroy() was called on client %llu, leased at %s: it is "
        "the pool's, which closes it when its lease ends", (unsigned long long)client->id,
        place(conn ? weir_conn_site(conn) : client->site));
}

/* ---- what went wrong --------------------------------------------------------------- */

static void note(struct mo_note *note, weir_status status, const char *fmt, va_list args)
{
    note->status = status;
    note->native = 0;
    vsnprintf(note->text, sizeof note->text, fmt, args);
}

void mo_cut(struct mo_client *client, weir_status status, const char *fmt, ...)
{
    va_list args;

    if (client->cut.status)
        return; /* the first reason is the one */
    va_start(args, fmt);
    note(&client->cut, status, fmt, args);
    va_end(args);
}

void mo_cut_by(struct mo_client *client, weir_status status, const char *what)
{
    if (status == WEIR_CANCELED)
        mo_cut(client, status, "cancelled %s", what);
    else
        mo_cut(client, status, "the deadline passed %s", what);
}

void mo_trouble(struct mo_client *client, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    note(&client->trouble, WEIR_LOST, fmt, args);
    va_end(args);
}

bool mo_is_shortage(int errnum)
{
    return errnum == EMFILE || errnum == ENFILE || errnum == ENOBUFS || errnum == EADDRNOTAVAIL;
}

/* ---- what the server answered ------------------------------------------------------ */

/* Errors that a server sends as its last words (MongoDB's error_codes.yml). */
static bool is_last_word(uint32_t code)
{
    return code == 91 /* ShutdownInProgress */ || code == 11600 /* InterruptedAtShutdown */;
}

static void command_failed(const mongoc_apm_command_failed_t *event)
{
    struct mo_client *client = mongoc_apm_command_failed_get_context(event);
    bson_error_t      error;

    mongoc_apm_command_failed_get_error(event, &error);
    if (error.domain == MONGOC_ERROR_STREAM || !client->answered)
        return; /* that is ours to know */
    client->answer.status = is_last_word(error.code) ? WEIR_LOST : WEIR_SERVER;
    client->answer.native = (int)error.code;
    say(client->answer.text, sizeof client->answer.text, "%s", error.message);
}

/* A client that is destroyed says so even where no stream of ours is left to be told. */
static void topology_closed(const mongoc_apm_topology_closed_t *event)
{
    mo_client_goes(mongoc_apm_topology_closed_get_context(event));
}

static mongoc_apm_callbacks_t *callbacks; /* one set for the process */

void mo_watch_prepare(void)
{
    callbacks = mongoc_apm_callbacks_new();
    mongoc_apm_set_command_failed_cb(callbacks, command_failed);
    mongoc_apm_set_topology_closed_cb(callbacks, topology_closed);
}

/* Done for each lease, since a user may have set callbacks of his own: a copy, no allocation. */
void mo_watch_commands(struct mo_client *client)
{
    mongoc_client_set_apm_callbacks(client->mongoc, callbacks, client);
}

/* ---- a call that failed ------------------------------------------------------------ */

static weir_status fill_in(weir_error *err, weir_status status, weir_outcome outcome, int native,
                           const char *text)
{
    weir_error_set(err, status, "%s", text);
    if (err) {
        err->outcome = outcome;
        err->native = native;
    }
    return status;
}

/* Of a call that was cut, or has met trouble; what was answered is done. */
static weir_outcome outcome(const struct mo_client *client)
{
    return client->unsure ? WEIR_OUTCOME_UNKNOWN : WEIR_OUTCOME_NOT_SENT;
}

static weir_status blame_note(const struct mo_note *note, weir_outcome became, weir_error *err)
{
    return fill_in(err, note->status, became, note->native, note->text);
}

weir_status mo_blame(struct mo_client *client, weir_error *err)
{
    const weir_task *self = hot_self();

    if (client->intrusion[0] && self && self != client->conn->user)
        return fill_in(err, WEIR_USAGE, WEIR_OUTCOME_NOT_SENT, 0, client->intrusion);
    if (client->destroyed)
        return fill_in(err, WEIR_USAGE, WEIR_OUTCOME_NOT_SENT, 0,
                       "mongoc_client_destroy() was called on a lease's client, which is the "
                       "pool's: end the lease instead");
    if (client->cut.status)
        return blame_note(&client->cut, outcome(client), err);
    if (client->trouble.status)
        return blame_note(&client->trouble, outcome(client), err);
    return client->answer.status ? blame_note(&client->answer, WEIR_OUTCOME_DONE, err) : WEIR_OK;
}

static bool came_from_a_server(const bson_error_t *error)
{
    switch (error->domain) {
    case MONGOC_ERROR_SERVER:
    case MONGOC_ERROR_WRITE_CONCERN:
    case MONGOC_ERROR_QUERY:
        return true;
    case MONGOC_ERROR_COMMAND:
    case MONGOC_ERROR_COLLECTION:
        return error->code == MONGOC_ERROR_DUPLICATE_KEY;
    default:
        return false;
    }
}

/* The domains whose reason we know better, if it is a passing one. */
static bool is_about_the_way(const bson_error_t *error)
{
    switch (error->domain) {
    case MONGOC_ERROR_STREAM:
    case MONGOC_ERROR_SERVER_SELECTION:
        return true;
    default:
        return error->domain == MONGOC_ERROR_CLIENT &&
               error->code == MONGOC_ERROR_CLIENT_AUTHENTICATE;
    }
}

weir_status weir_mongo_error(weir_lease *lease, const bson_error_t *error, weir_error *err)
{
    struct mo_conn   *conn = (struct mo_conn *)weir_lease_conn(lease, &mo_driver);
    struct mo_client *client = conn ? conn->client : NULL;

    if (!client)
        return weir_error_set(err, WEIR_USAGE, "the lease is over, or not one of a MongoDB client");
    if (came_from_a_server(error))
        return fill_in(err, is_last_word(error->code) ? WEIR_LOST : WEIR_SERVER,
                       WEIR_OUTCOME_DONE, (int)error->code, error->message);
    if (is_about_the_way(error) || client->cut.status) {
        weir_status status = mo_blame(client, err);
        if (status != WEIR_OK)
            return status;
        return fill_in(err, error->domain == MONGOC_ERROR_SERVER_SELECTION ? WEIR_CONNECT
                                                                           : WEIR_LOST,
                       outcome(client), (int)error->code, error->message);
    }
    return fill_in(err, WEIR_USAGE, WEIR_OUTCOME_NOT_SENT, (int)error->code, error->message);
}

/* ---- a client that could not be opened --------------------------------------------- */

/* Servers have answered, since nothing is known of any trouble, and the library does not say what
   it had against them. So say what was asked for. */
static void say_choice(const struct mo_client *client, const char *words, char *out, size_t size)
{
    static const struct {
        mongoc_read_mode_t mode;
        const char        *name;
    } modes[] = { { MONGOC_READ_PRIMARY, "primary" },
                  { MONGOC_READ_PRIMARY_PREFERRED, "primaryPreferred" },
                  { MONGOC_READ_SECONDARY, "secondary" },
                  { MONGOC_READ_SECONDARY_PREFERRED, "secondaryPreferred" },
                  { MONGOC_READ_NEAREST, "nearest" } };
    const mongoc_uri_t *uri = client->config->uri;
    mongoc_read_mode_t  mode = mongoc_read_prefs_get_mode(mongoc_uri_get_read_prefs_t(uri));
    const char         *set = mongoc_uri_get_replica_set(uri), *name = "";

    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (modes[i].mode == mode)
            name = modes[i].name;
    say(out, size, "%.80s: none that answered can be used with %s%.60s%sreadPreference=%s", words,
        set ? "replicaSet=" : "", set ? set : "", set ? " and " : "", name);
}

/* Some servers tell in several lines, and this goes into a log. */
static void on_one_line(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
}

weir_status mo_blame_connect(struct mo_client *client, const bson_error_t *error, weir_error *err)
{
    weir_status status = WEIR_CONNECT;
    char        words[sizeof error->message];
    const char *text = words;
    int         native = (int)error->code;

    say(words, sizeof words, "%s", error->message);
    on_one_line(words);
    if (client->cut.status) {
        text = client->cut.text;
        native = client->cut.native;
        if (client->cut.status == WEIR_USAGE || native == 18)
            status = WEIR_USAGE;
        else if (client->cut.status == WEIR_BUSY)
            status = WEIR_BUSY; /* of credentials that could not be read for want of descriptors */
    } else if (client->trouble.status) {
        text = client->trouble.text;
        status = client->shortage ? WEIR_BUSY : WEIR_CONNECT;
        native = client->shortage;
    } else if (error->domain == MONGOC_ERROR_CLIENT &&
               error->code == MONGOC_ERROR_CLIENT_AUTHENTICATE) {
        status = WEIR_USAGE;
    } else if (error->domain == MONGOC_ERROR_SERVER_SELECTION) {
        say_choice(client, error->message, words, sizeof words);
    }
    weir_error_set(err, status, "cannot connect to %s: %s", client->config->target, text);
    if (err) {
        err->native = native;
        err->outcome = WEIR_OUTCOME_NOT_SENT;
    }
    return status;
}
