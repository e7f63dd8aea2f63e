/*
 * mysql_target.c - a MySQL or MariaDB server, seen plainly.
 *
 * Knows:   where it is (a URI, or the environment's private server), the table, how to count
 *          this soak's connections, and how to fill a server up. All with plain libmariadb on
 *          connections of its own: what judges weir does not stand on weir.
 * Ignores: lives.
 *
 * Counting. On the private server whoever logs in as our user is ours. Elsewhere others may
 * use the same account, so there the relay reads each connection's number in the server's
 * greeting, and the process list is searched for these.
 */
#define _GNU_SOURCE
#include "mysql_soak.h"

#include <stdlib.h>
#include <string.h>

enum { FEW = 10 }; /* connections that a full server allows */

/* ---- a URI -------------------------------------------------------------------------- */

/*
 * As strict as weir's own, which gets the pieces: what weir would refuse must not be soaked as
 * something else. No message repeats a value: a password with a forgotten escape may stand
 * anywhere.
 */

static void put_unescaped(char *out, const char *what, const char *text, size_t length)
{
    target_put(out, what, text, length);
    if (!target_unescape(out))
        target_die("--mysql: %s has a '%%' that is not followed by two digits (write %%25 for "
                   "itself)", what);
}

static enum target_tls tls_mode(const char *text)
{
    if (!strcmp(text, "off"))
        return TLS_OFF;
    if (!strcmp(text, "encrypt"))
        return TLS_ENCRYPT;
    if (strcmp(text, "verify"))
        target_die("--mysql: tls is off, encrypt or verify");
    return TLS_VERIFY;
}

static void parse_setting(struct target *t, char *item)
{
    char *value = strchr(item, '=');

    if (!value)
        target_die("--mysql: after the '?' there is something that is not option=value");
    *value++ = 0;
    if (!target_unescape(value))
        target_die("--mysql: '%.20s' has a '%%' that is not followed by two digits", item);
    if (!strcmp(item, "socket"))
        target_put(t->socket, item, value, strlen(value));
    else if (!strcmp(item, "tls"))
        t->tls = tls_mode(value);
    else if (!strcmp(item, "tls_ca"))
        target_put(t->tls_ca, item, value, strlen(value));
    else if (!strcmp(item, "tls_cert"))
        target_put(t->tls_cert, item, value, strlen(value));
    else if (!strcmp(item, "tls_key"))
        target_put(t->tls_key, item, value, strlen(value));
    else
        target_die("--mysql: weir-soak does not know '%.20s' after the '?'; there are socket, tls, "
                   "tls_ca, tls_cert and tls_key", item);
}

static void parse_host(struct target *t, const char *text)
{
    const char *end = strchr(text, ':');

    if (*text == '[') {
        end = strchr(text, ']');
        if (!end)
            target_die("--mysql: the '[' before the host is not closed");
        put_unescaped(t->host, "the host", text + 1, (size_t)(end - text - 1));
        end++;
        if (*end && *end != ':')
            target_die("--mysql: after the ']' there can be a port, or the end");
    } else {
        if (end && strchr(end + 1, ':'))
            target_die("--mysql: an IPv6 address stands in brackets: [::1]");
        put_unescaped(t->host, "the host", text, end ? (size_t)(end - text) : strlen(text));
    }
    t->port = end && *end ? target_port("--mysql", end + 1) : 3306;
}

static void parse_uri(struct target *t, const char *uri)
{
    static const char *const schemes[] = { "mysql://", "mariadb://" };
    char                    *copy = strdup(uri);
    char                    *rest = copy;

    if (!copy)
        target_die("out of memory");
    for (unsigned i = 0; i < 2; i++)
        if (!strncmp(copy, schemes[i], strlen(schemes[i])))
            rest = copy + strlen(schemes[i]);
    if (rest == copy)
        target_die("--mysql wants mysql://user@host:port/database");

    if (strchr(rest + strcspn(rest, "/?#"), '@') || strchr(rest, '#'))
        target_die("--mysql: '@', '/', '?' and '#' in the user or password must be written %%40, "
                   "%%2F, %%3F and %%23");
    char *settings = strchr(rest, '?');
    if (settings) {
        *settings++ = 0;
        for (char *item = strtok(settings, "&"); item; item = strtok(NULL, "&"))
            parse_setting(t, item);
    }
    char *database = strchr(rest, '/');
    if (database) {
        *database++ = 0;
        put_unescaped(t->database, "the database", database, strlen(database));
    }
    char *at = strrchr(rest, '@');
    char *host = at ? at + 1 : rest;
    if (at) {
        *at = 0;
        char *colon = strchr(rest, ':');
        if (colon) {
            *colon++ = 0;
            put_unescaped(t->password, "the password", colon, strlen(colon));
        }
        put_unescaped(t->user, "the user", rest, strlen(rest));
    }
    parse_host(t, host);
    explicit_bzero(copy, strlen(uri));
    free(copy);
    if (!t->user[0] || !t->database[0] || !(t->host[0] || t->socket[0]))
        target_die("--mysql has to name a user, a host and a database, as in "
                   "mysql://user@host/database");
    if (!strcmp(t->host, "localhost") && !t->socket[0])
        target_die("--mysql: 'localhost' means a Unix socket: add ?socket=PATH, or write "
                   "127.0.0.1");
}

/* What weir would do by itself for this address, since the relay hides it. */
static void settle_tls(struct target *t, bool asked)
{
    if (t->tls == TLS_UNSAID)
        t->tls = asked || !(t->socket[0] || target_is_loopback(t->host)) ? TLS_VERIFY : TLS_OFF;
    if (t->tls == TLS_VERIFY && !t->tls_ca[0])
        target_die("TLS with verification needs the authority's certificate: add tls_ca=FILE to "
                   "the URI (or tls=off for plain text)");
    snprintf(t->tls_name, sizeof t->tls_name, "%s", t->host);
}

/* ---- the environment ---------------------------------------------------------------- */

static void find_private(struct target *t)
{
    t->is_private = true;
    t->port = target_port_from_environment("WEIR_MYSQL_PORT");
    target_from_environment(t->host, "WEIR_MYSQL_HOST");
    target_from_environment(t->admin_socket, "WEIR_MYSQL_SOCKET");
    target_from_environment(t->user, "WEIR_MYSQL_USER");
    target_from_environment(t->password, "WEIR_MYSQL_PASSWORD");
    target_from_environment(t->database, "WEIR_MYSQL_DATABASE");
    target_from_environment(t->pid_file, "WEIR_MYSQL_PID_FILE");
    target_from_environment(t->directory, "WEIR_MYSQL_DIR");
    target_from_environment(t->script, "WEIR_PRIVATE_SERVER");
    t->tls = soak.options.tls ? TLS_VERIFY : TLS_OFF;
    if (soak.options.tls) {
        target_from_environment(t->tls_ca, "WEIR_MYSQL_CA");
        target_from_environment(t->tls_name, "WEIR_MYSQL_TLS_NAME");
    }
}

void mysql_find(struct database *db)
{
    const char *uri = soak.options.uri[db->place];

    if (!uri) {
        find_private(&db->target);
        return;
    }
    parse_uri(&db->target, uri);
    settle_tls(&db->target, soak.options.tls);
    target_password(&db->target);
}

/* ---- ways to it --------------------------------------------------------------------- */

static weir_tls tls_of_the_pool(enum target_tls tls)
{
    return tls == TLS_VERIFY    ? WEIR_TLS_VERIFY
           : tls == TLS_ENCRYPT ? WEIR_TLS_ENCRYPT
                                : WEIR_TLS_OFF;
}

weir_status mysql_pool(struct database *db, const weir_pool_opts *pool, weir_error *err)
{
    const struct target *t = &db->target;
    weir_mysql_opts      opts = { .pool = *pool };

    opts.user = t->user;
    opts.password = t->password;
    opts.database = t->database;
    opts.tls = tls_of_the_pool(t->tls);
    if (db->relay) {
        opts.host = "127.0.0.1";
        opts.port = relay_port(db->relay);
    } else if (t->socket[0]) {
        opts.socket = t->socket;
    } else {
        opts.host = t->host;
        opts.port = t->port;
    }
    if (t->tls == TLS_VERIFY || t->tls == TLS_ENCRYPT) {
        opts.tls_ca = t->tls_ca[0] ? t->tls_ca : NULL;
        opts.tls_cert = t->tls_cert[0] ? t->tls_cert : NULL;
        opts.tls_key = t->tls_key[0] ? t->tls_key : NULL;
        opts.tls_name = t->tls == TLS_VERIFY ? t->tls_name : NULL;
    }
    return weir_mysql_pool_new(&opts, &db->pool, err);
}

static MYSQL *open_plainly(const struct target *t, char *why, size_t size)
{
    const char *socket = t->is_private ? t->admin_socket : t->socket[0] ? t->socket : NULL;
    unsigned    seconds = 10;
    MYSQL      *my = mysql_init(NULL);

    if (!my) {
        snprintf(why, size, "out of memory");
        return NULL;
    }
    mysql_options(my, MYSQL_OPT_CONNECT_TIMEOUT, &seconds);
    mysql_options(my, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    if (!t->is_private && t->tls != TLS_OFF) {
        my_bool on = 1;
        mysql_ssl_set(my, t->tls_key[0] ? t->tls_key : NULL, t->tls_cert[0] ? t->tls_cert : NULL,
                      t->tls_ca[0] ? t->tls_ca : NULL, NULL, NULL);
        mysql_options(my, MYSQL_OPT_SSL_ENFORCE, &on);
        if (t->tls == TLS_VERIFY)
            mysql_options(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &on);
    }
    if (!mysql_real_connect(my, socket ? NULL : t->host, t->user, t->password, t->database,
                            t->port, socket, 0)) {
        snprintf(why, size, "%s (%u)", mysql_error(my), mysql_errno(my));
        mysql_close(my);
        return NULL;
    }
    return my;
}

void *mysql_connect_plainly(struct database *db, char *why, size_t size)
{
    MYSQL *my = open_plainly(&db->target, why, size);

    if (my && !mysql_query(my, "SELECT 1"))
        mysql_free_result(mysql_store_result(my));
    return my;
}

void mysql_hang_up(void *connection)
{
    mysql_close(connection);
}

/* ---- the table ---------------------------------------------------------------------- */

static bool insert_first_rows(MYSQL *my, const char *table)
{
    size_t size = 128 + (size_t)FIRST_ROWS * (NOTE_SIZE + 32);
    char  *sql = malloc(size);
    size_t used;
    bool   ok;

    if (!sql)
        return false;
    used = (size_t)snprintf(sql, size, "INSERT INTO %s (id, note) VALUES ", table);
    for (unsigned id = 1; id <= FIRST_ROWS; id++) {
        char note[NOTE_SIZE];
        row_note(note, sizeof note, id);
        used += (size_t)snprintf(sql + used, size - used, "%s(%u, '%s')", id > 1 ? "," : "", id,
                                 note);
    }
    ok = mysql_real_query(my, sql, used) == 0;
    free(sql);
    return ok;
}

/*
 * The id is no key that refuses a second row: that a row is there twice is what we want to
 * be able to see.
 */
bool mysql_prepare(struct database *db, char *why, size_t size)
{
    struct target *t = &db->target;
    char   sql[256];
    MYSQL *my = open_plainly(t, why, size);
    bool   ok;

    if (!my)
        return false;
    snprintf(t->version, sizeof t->version, "%s", mysql_get_server_info(my));
    snprintf(sql, sizeof sql,
             "CREATE TABLE %s (id BIGINT UNSIGNED NOT NULL, note VARCHAR(64) NOT NULL, KEY (id)) "
             "ENGINE=InnoDB CHARACTER SET utf8mb4", t->table);
    db->transactions = true; /* the engine that the table asks for has them */
    ok = mysql_query(my, sql) == 0 && insert_first_rows(my, t->table);
    if (!ok)
        snprintf(why, size, "could not make the table %s: %s", t->table, mysql_error(my));
    mysql_close(my);
    return ok;
}

void mysql_clean(struct database *db)
{
    const struct target *t = &db->target;
    char   text[256];
    MYSQL *my = open_plainly(t, text, sizeof text);

    if (my) {
        snprintf(text, sizeof text, "DROP TABLE IF EXISTS %s", t->table);
        if (mysql_query(my, text))
            snprintf(text, sizeof text, "%s", mysql_error(my));
        else
            text[0] = 0;
        mysql_close(my);
    }
    if (text[0])
        fprintf(stderr, "weir-soak: the table %s is left behind: %s\n", t->table, text);
}

/* ---- rows --------------------------------------------------------------------------- */

bool mysql_rows(struct database *db, char *why, size_t size)
{
    MYSQL     *my = open_plainly(&db->target, why, size);
    char       sql[160];
    MYSQL_RES *res;
    bool       whole;

    if (!my)
        return false;
    snprintf(sql, sizeof sql, "SELECT id FROM %s WHERE id > %u", db->target.table, FIRST_ROWS);
    res = mysql_query(my, sql) ? NULL : mysql_use_result(my);
    if (res)
        for (MYSQL_ROW row = mysql_fetch_row(res); row; row = mysql_fetch_row(res))
            verify_row(db, strtoull(row[0], NULL, 10));
    whole = mysql_errno(my) == 0;
    if (!whole)
        snprintf(why, size, "%s", mysql_error(my));
    mysql_free_result(res);
    mysql_close(my);
    return whole;
}

/* ---- counting connections ----------------------------------------------------------- */

static bool is_ours(const struct database *db, MYSQL *me, MYSQL_ROW row)
{
    unsigned long id = row[0] ? strtoul(row[0], NULL, 10) : 0;

    if (id == mysql_thread_id(me))
        return false;
    if (db->relay)
        return relay_knows(db->relay, (uint32_t)id);
    return row[1] && !strcmp(row[1], db->target.user);
}

long mysql_connections(struct database *db)
{
    char       why[256];
    long       count = -1;
    MYSQL     *my = open_plainly(&db->target, why, sizeof why);
    MYSQL_RES *res;

    if (!my)
        return -1;
    if (!mysql_query(my, "SHOW PROCESSLIST")) {
        res = mysql_store_result(my);
        if (res) {
            count = 0;
            for (MYSQL_ROW row = mysql_fetch_row(res); row; row = mysql_fetch_row(res))
                count += is_ours(db, my, row);
            mysql_free_result(res);
        }
    }
    mysql_close(my);
    return count;
}

/* ---- a full server ------------------------------------------------------------------ */

struct filling {
    MYSQL *admin; /* kept: one that could not get in could not undo it */
    long   before;
};

static struct filling filling;

static long ask_number(MYSQL *my, const char *sql)
{
    MYSQL_RES *res = mysql_query(my, sql) ? NULL : mysql_store_result(my);
    MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
    long       number = row && row[0] ? atol(row[0]) : -1;

    mysql_free_result(res);
    return number;
}

static bool allow(long connections, char *why, size_t size)
{
    char sql[64];

    snprintf(sql, sizeof sql, "SET GLOBAL max_connections = %ld", connections);
    if (mysql_query(filling.admin, sql) == 0)
        return true;
    snprintf(why, size, "%s", mysql_error(filling.admin));
    return false;
}

bool mysql_limit(struct database *db, char *why, size_t size)
{
    filling.admin = open_plainly(&db->target, why, size);
    if (!filling.admin)
        return false;
    filling.before = ask_number(filling.admin, "SELECT @@GLOBAL.max_connections");
    if (filling.before >= FEW)
        return allow(FEW, why, size);
    snprintf(why, size, "it allows %ld already", filling.before);
    return false;
}

bool mysql_unlimit(struct database *db, char *why, size_t size)
{
    bool ok = true;

    (void)db;
    if (!filling.admin)
        return true;
    if (filling.before >= FEW)
        ok = allow(filling.before, why, size);
    mysql_close(filling.admin);
    filling.admin = NULL;
    return ok;
}
