/*
 * mongo_target.c - a MongoDB server, seen plainly.
 *
 * Knows:   where it is (a URI, or the environment's private server), the two collections, and how
 *          to count this soak's connections. All with plain libmongoc on clients of its own: what
 *          judges weir does not stand on weir.
 * Ignores: lives.
 *
 * Counting. The kernel's table of sockets says how many clients a private server has; the
 * server cannot, where it is stopped or does not know. Elsewhere the pool's clients go by a name
 * of this soak alone (appName), and the server is asked for its connections of that name; if it
 * does not know that question, those of the relay are counted.
 */
#define _GNU_SOURCE
#include "mongo_soak.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { URI_TEXT = 1600, TCP_IS_ESTABLISHED = 1 /* as /proc/net/tcp has it */ };

/* ---- a URI -------------------------------------------------------------------------- */

static void unescape(char *text, const char *what)
{
    if (!target_unescape(text))
        target_die("--mongo: %s has a '%%' that is not followed by two digits", what);
}

static void take_host(struct target *t, char *host)
{
    char *colon = strrchr(host, ':');
    char *bracket = strchr(host, ']');

    if (strchr(host, ',') || !*host)
        target_die("--mongo wants one host, the primary, since all goes through one relay");
    t->port = 27017;
    if (!strncmp(host, "%2F", 3) || !strncmp(host, "%2f", 3)) {
        target_put(t->socket, "the socket", host, strlen(host));
        unescape(t->socket, "the socket");
        return;
    }
    if (colon && (!bracket || colon > bracket)) {
        *colon = 0;
        t->port = target_port("--mongo", colon + 1);
    }
    if (*host == '[' && bracket) {
        *bracket = 0;
        host++;
    }
    target_put(t->host, "the host", host, strlen(host));
    unescape(t->host, "the host");
}

/* User and password stay as the URI has them: escaped. */
static void take_user(struct target *t, char *user)
{
    char *colon = strchr(user, ':');

    if (colon) {
        *colon++ = 0;
        target_put(t->password, "the password", colon, strlen(colon));
    }
    target_put(t->user, "the user", user, strlen(user));
}

static void parse_uri(struct target *t, const char *uri)
{
    static const char scheme[] = "mongodb://";
    char             *copy = strdup(uri);
    char             *rest = copy + sizeof scheme - 1;

    if (!copy)
        target_die("out of memory");
    if (strncmp(copy, scheme, sizeof scheme - 1))
        target_die("--mongo wants mongodb://user@host:port/database (and no +srv: one host)");
    char *settings = strchr(rest, '?');
    if (settings) {
        *settings++ = 0;
        target_put(t->settings, "what is behind the '?'", settings, strlen(settings));
    }
    char *database = strchr(rest, '/');
    if (database) {
        *database++ = 0;
        target_put(t->database, "the database", database, strlen(database));
    }
    char *at = strrchr(rest, '@');
    if (at) {
        *at = 0;
        take_user(t, rest);
    }
    take_host(t, at ? at + 1 : rest);
    explicit_bzero(copy, strlen(uri));
    free(copy);
    if (!t->database[0])
        target_die("--mongo has to name a database, as in mongodb://user@host/database");
    if (strcasestr(t->settings, "appname="))
        target_die("--mongo: leave appName out; the soak counts its connections by one of its own");
}

/* What stands in a URI for itself; everything else is escaped. */
static void escape(char *text)
{
    char  raw[TARGET_TEXT];
    char *to = text;

    snprintf(raw, sizeof raw, "%s", text);
    for (const char *from = raw; *from; from++) {
        if (to + 4 > text + TARGET_TEXT)
            target_die("the password is too long");
        to += snprintf(to, 4, isalnum((unsigned char)*from) ? "%c" : "%%%02X",
                       (unsigned)(unsigned char)*from);
    }
    *to = 0;
    explicit_bzero(raw, sizeof raw);
}

/* What weir would do by itself for this address, since the relay hides it. */
static void settle_tls(struct target *t)
{
    bool is_near = t->socket[0] || target_is_loopback(t->host);

    if (strcasestr(t->settings, "tls=true") || strcasestr(t->settings, "ssl=true"))
        t->tls = TLS_VERIFY;
    else if (strcasestr(t->settings, "tls=false") || strcasestr(t->settings, "ssl=false"))
        t->tls = TLS_OFF;
    else
        t->tls = soak.options.tls || !is_near ? TLS_VERIFY : TLS_OFF;
}

static void find_private(struct target *t)
{
    char source[TARGET_TEXT];

    t->is_private = true;
    t->admin_port = target_port_from_environment("WEIR_MONGO_PORT");
    t->port = soak.options.tls ? target_port_from_environment("WEIR_MONGO_TLS_PORT")
                               : t->admin_port;
    target_from_environment(t->host, "WEIR_MONGO_HOST");
    target_from_environment(t->user, "WEIR_MONGO_USER");
    target_from_environment(t->password, "WEIR_MONGO_PASSWORD");
    target_from_environment(t->database, "WEIR_MONGO_DATABASE");
    target_from_environment(t->pid_file, "WEIR_MONGO_PID_FILE");
    target_from_environment(t->directory, "WEIR_MONGO_DIR");
    target_from_environment(t->script, "WEIR_PRIVATE_SERVER");
    target_from_environment(source, "WEIR_MONGO_AUTH_SOURCE");
    snprintf(t->settings, sizeof t->settings, "authSource=%.200s", source);
    t->tls = soak.options.tls ? TLS_VERIFY : TLS_OFF;
    if (soak.options.tls)
        target_from_environment(t->tls_ca, "WEIR_MONGO_CA");
    escape(t->user);
    escape(t->password);
}

void mongo_find(struct database *db)
{
    struct target *t = &db->target;
    const char    *uri = soak.options.uri[db->place];
    bool           given;

    if (!uri) {
        find_private(t);
        return;
    }
    parse_uri(t, uri);
    settle_tls(t);
    given = t->password[0] != 0;
    if (t->user[0])
        target_password(t);
    if (!given || soak.options.password_file)
        escape(t->password);
}

/* ---- ways to it --------------------------------------------------------------------- */

/* `place` is host:port; `more` begins with '&'. */
static void compose(const struct target *t, const char *place, bool tls, const char *more,
                    char *out)
{
    bool says_tls = strcasestr(t->settings, "tls=") || strcasestr(t->settings, "ssl=");

    snprintf(out, URI_TEXT, "mongodb://%s%s%s%s%s/%s?%s%s%s%s", t->user, t->password[0] ? ":" : "",
             t->password, t->user[0] ? "@" : "", place, t->database, t->settings,
             t->settings[0] ? "&" : "",
             says_tls ? "directConnection=true"
             : tls    ? "directConnection=true&tls=true"
                      : "directConnection=true&tls=false",
             more);
}

/*
 * A write is acknowledged when it would survive the server's end, which is what is done to it
 * here; a server's default may be less.
 */
static void compose_for_pool(const struct database *db, char *out)
{
    const struct target *t = &db->target;
    char                 place[64], more[300];

    snprintf(place, sizeof place, "127.0.0.1:%u", relay_port(db->relay));
    snprintf(more, sizeof more, "&appName=%s%s%s", t->table,
             strcasestr(t->settings, "w=") ? "" : "&w=majority&journal=true",
             t->tls == TLS_VERIFY && !t->is_private ? "&tlsAllowInvalidHostnames=true" : "");
    compose(t, place, t->tls == TLS_VERIFY, more, out);
}

weir_status mongo_pool(struct database *db, const weir_pool_opts *pool, weir_error *err)
{
    char            uri[URI_TEXT];
    weir_mongo_opts opts = { .uri = uri, .pool = *pool };

    compose_for_pool(db, uri);
    if (db->target.tls_ca[0])
        opts.tls_ca = db->target.tls_ca;
    return weir_mongo_pool_new(&opts, &db->pool, err);
}

static mongoc_client_t *open_plainly(const struct target *t, char *why, size_t size)
{
    char place[TARGET_TEXT * 3], uri[URI_TEXT];

    if (t->socket[0]) {
        snprintf(place, TARGET_TEXT, "%s", t->socket);
        escape(place);
    } else {
        snprintf(place, sizeof place, strchr(t->host, ':') ? "[%s]:%u" : "%s:%u", t->host,
                 t->is_private ? t->admin_port : t->port);
    }
    compose(t, place, t->tls == TLS_VERIFY && !t->is_private,
            "&appName=weir-soak&serverSelectionTimeoutMS=10000&connectTimeoutMS=10000"
            "&socketTimeoutMS=60000", uri);
    mongoc_client_t *client = mongoc_client_new(uri);
    explicit_bzero(uri, sizeof uri);
    if (client)
        mongoc_client_set_error_api(client, MONGOC_ERROR_API_VERSION_2);
    else
        snprintf(why, size, "the URI cannot be used");
    return client;
}

static bool ask(mongoc_client_t *client, const char *database, bson_t *command, bson_t *reply,
                char *why, size_t size)
{
    bson_error_t error = { 0 };
    bool         ok = mongoc_client_command_simple(client, database, command, NULL, reply, &error);

    bson_destroy(command);
    if (!ok)
        bson_strncpy(why, error.message, size);
    return ok;
}

void *mongo_connect_plainly(struct database *db, char *why, size_t size)
{
    mongoc_client_t *client = open_plainly(&db->target, why, size);

    if (client && !ask(client, "admin", BCON_NEW("ping", BCON_INT32(1)), NULL, why, size)) {
        mongoc_client_destroy(client);
        return NULL;
    }
    return client;
}

void mongo_hang_up(void *connection)
{
    mongoc_client_destroy(connection);
}

/* ---- the collections ---------------------------------------------------------------- */

mongoc_collection_t *mongo_written(const struct database *db, mongoc_client_t *client)
{
    return mongoc_client_get_collection(client, db->target.database, db->target.table);
}

static void name_of_read(const struct database *db, char *out, size_t size)
{
    snprintf(out, size, "%s_read", db->target.table);
}

mongoc_collection_t *mongo_read(const struct database *db, mongoc_client_t *client)
{
    char name[64];

    name_of_read(db, name, sizeof name);
    return mongoc_client_get_collection(client, db->target.database, name);
}

static bool insert_first_rows(struct database *db, mongoc_client_t *client, bson_error_t *error)
{
    mongoc_collection_t     *read = mongo_read(db, client);
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(read, NULL);

    for (unsigned id = 1; id <= MONGO_FIRST_ROWS; id++) {
        bson_t row = BSON_INITIALIZER;
        mongo_fill_row(&row, "_id", id);
        mongoc_bulk_operation_insert(bulk, &row);
        bson_destroy(&row);
    }
    bool ok = mongoc_bulk_operation_execute(bulk, NULL, error) != 0;
    mongoc_bulk_operation_destroy(bulk);
    mongoc_collection_destroy(read);
    return ok;
}

/* Capped, since only there a cursor can wait for what is not there yet (mongo_slow). */
static bool make_collections(struct database *db, mongoc_client_t *client, bson_error_t *error)
{
    mongoc_database_t   *database = mongoc_client_get_database(client, db->target.database);
    bson_t              *capped = BCON_NEW("capped", BCON_BOOL(true), "size", BCON_INT64(1 << 20));
    char                 name[64];
    mongoc_collection_t *written, *read;

    name_of_read(db, name, sizeof name);
    written = mongoc_database_create_collection(database, db->target.table, NULL, error);
    read = written ? mongoc_database_create_collection(database, name, capped, error) : NULL;
    bool ok = read && insert_first_rows(db, client, error);
    mongoc_collection_destroy(read);
    mongoc_collection_destroy(written);
    bson_destroy(capped);
    mongoc_database_destroy(database);
    return ok;
}

/* In the only way to find out: one is begun, and given up. */
static bool has_transactions(struct database *db, mongoc_client_t *client)
{
    bson_t                   row = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    mongoc_collection_t     *written = mongo_written(db, client);
    mongoc_client_session_t *session = mongoc_client_start_session(client, NULL, NULL);
    bool                     ok;

    mongo_fill_row(&row, "id", 0);
    ok = session && mongoc_client_session_start_transaction(session, NULL, NULL) &&
         mongoc_client_session_append(session, &opts, NULL) &&
         mongoc_collection_insert_one(written, &row, &opts, NULL, NULL);
    if (session)
        mongoc_client_session_destroy(session); /* aborts it */
    mongoc_collection_destroy(written);
    bson_destroy(&row);
    bson_destroy(&opts);
    return ok;
}

static void read_version(struct target *t, mongoc_client_t *client)
{
    char        why[200];
    bson_t      reply;
    bson_iter_t at;
    const char *version = "?", *ferretdb = NULL;

    if (ask(client, "admin", BCON_NEW("buildInfo", BCON_INT32(1)), &reply, why, sizeof why)) {
        if (bson_iter_init_find(&at, &reply, "version"))
            version = bson_iter_utf8(&at, NULL);
        if (bson_iter_init_find(&at, &reply, "ferretdbVersion"))
            ferretdb = bson_iter_utf8(&at, NULL);
        snprintf(t->version, sizeof t->version, "%s %s", ferretdb ? "FerretDB" : "MongoDB",
                 ferretdb ? ferretdb : version);
    }
    bson_destroy(&reply);
}

bool mongo_prepare(struct database *db, char *why, size_t size)
{
    bson_error_t     error = { 0 };
    mongoc_client_t *client = mongo_connect_plainly(db, why, size);
    bool             ok;

    if (!client)
        return false;
    read_version(&db->target, client);
    ok = make_collections(db, client, &error);
    if (ok)
        db->transactions = has_transactions(db, client);
    else
        snprintf(why, size, "could not make the collection %s: %s", db->target.table,
                 error.message);
    mongoc_client_destroy(client);
    return ok;
}

static bool drop(mongoc_collection_t *collection, char *why, size_t size)
{
    bson_error_t error = { 0 };
    bool         ok = mongoc_collection_drop(collection, &error);

    if (!ok)
        bson_strncpy(why, error.message, size);
    mongoc_collection_destroy(collection);
    return ok;
}

void mongo_clean(struct database *db)
{
    char             why[256] = "";
    mongoc_client_t *client = open_plainly(&db->target, why, sizeof why);

    if (client) {
        (void)drop(mongo_written(db, client), why, sizeof why);
        (void)drop(mongo_read(db, client), why, sizeof why);
        mongoc_client_destroy(client);
    }
    if (why[0])
        fprintf(stderr, "weir-soak: the collections %s, %s_read are left behind: %s\n",
                db->target.table, db->target.table, why);
}

/* ---- rows --------------------------------------------------------------------------- */

/* One cursor over all of them: finding each by itself would take hours on some servers. */
bool mongo_rows(struct database *db, char *why, size_t size)
{
    mongoc_client_t *client = open_plainly(&db->target, why, size);
    bson_t           all = BSON_INITIALIZER;
    bson_error_t     error = { 0 };
    const bson_t    *row;
    bson_iter_t      at;
    bool             whole;

    if (!client)
        return false;
    mongoc_collection_t *written = mongo_written(db, client);
    mongoc_cursor_t     *cursor = mongoc_collection_find_with_opts(written, &all, NULL, NULL);
    while (mongoc_cursor_next(cursor, &row))
        verify_row(db, bson_iter_init_find(&at, row, "id") ? (uint64_t)bson_iter_as_int64(&at) : 0);
    whole = !mongoc_cursor_error(cursor, &error);
    if (!whole)
        bson_strncpy(why, error.message, size);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(written);
    mongoc_client_destroy(client);
    bson_destroy(&all);
    return whole;
}

/* ---- counting connections ----------------------------------------------------------- */

/* Of the two ends that loopback shows, the one whose own port is the server's. */
static long sockets_of(unsigned port)
{
    long     count = 0;
    char     line[512];
    unsigned own, state;
    FILE    *f = fopen("/proc/net/tcp", "re");

    if (!f)
        return -1;
    while (fgets(line, sizeof line, f))
        count += sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x", &own, &state) == 2 &&
                 state == TCP_IS_ESTABLISHED && own == port;
    fclose(f);
    return count;
}

static bson_t *question(const char *name)
{
    return BCON_NEW("aggregate", BCON_INT32(1), "pipeline", "[", "{", "$currentOp", "{",
                    "idleConnections", BCON_BOOL(true), "}", "}", "{", "$match", "{", "appName",
                    BCON_UTF8(name), "}", "}", "{", "$count", BCON_UTF8("n"), "}", "]", "cursor",
                    "{", "}");
}

static long connections_by_name(struct database *db)
{
    char             why[256];
    mongoc_client_t *client = mongo_connect_plainly(db, why, sizeof why);
    bson_t           reply;
    bson_iter_t      at, n;
    long             count = -1;

    if (!client)
        return -1;
    if (!ask(client, "admin", question(db->target.table), &reply, why, sizeof why))
        count = (long)relay_links(db->relay);
    else if (bson_iter_init(&at, &reply))
        count = bson_iter_find_descendant(&at, "cursor.firstBatch.0.n", &n)
                    ? (long)bson_iter_as_int64(&n)
                    : 0; /* nothing to count is no document */
    bson_destroy(&reply);
    mongoc_client_destroy(client);
    return count;
}

long mongo_connections(struct database *db)
{
    return db->target.is_private ? sockets_of(db->target.port) : connections_by_name(db);
}
