/*
 * target.c - the server, seen plainly.
 *
 * Knows:   where it is (a URI, or the environment's private server), the table, and how to
 *          count this soak's connections. All with plain libmariadb on connections of its
 *          own: what judges weir does not stand on weir.
 * Ignores: lives.
 *
 * Counting. On the private server whoever logs in as our user is ours. Elsewhere others may
 * use the same account, so there the relay reads each connection's number in the server's
 * greeting, and the process list is searched for these.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static void die(const char *fmt, ...) WEIR_PRINTF(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("weir-soak: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

static void put(char *out, const char *what, const char *text, size_t length)
{
    if (length >= TARGET_TEXT)
        die("%s is too long", what);
    memcpy(out, text, length);
    out[length] = 0;
}

/* ---- a URI -------------------------------------------------------------------------- */

/* Undo percent-escapes, in place. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++) {
        unsigned byte;
        if (*from == '%' && isxdigit((unsigned char)from[1]) && isxdigit((unsigned char)from[2]) &&
            sscanf(from + 1, "%2x", &byte) == 1) {
            *to++ = (char)byte;
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

static void put_unescaped(char *out, const char *what, const char *text, size_t length)
{
    put(out, what, text, length);
    unescape(out);
}

static weir_tls tls_mode(const char *text)
{
    if (!strcmp(text, "off"))
        return WEIR_TLS_OFF;
    if (!strcmp(text, "encrypt"))
        return WEIR_TLS_ENCRYPT;
    if (strcmp(text, "verify"))
        die("--mysql: tls is off, encrypt or verify, not '%s'", text);
    return WEIR_TLS_VERIFY;
}

static void parse_setting(struct target *t, char *item)
{
    char *value = strchr(item, '=');

    if (!value)
        die("--mysql: '%s' after the '?' lacks a value", item);
    *value++ = 0;
    unescape(value);
    if (!strcmp(item, "socket"))
        put(t->socket, item, value, strlen(value));
    else if (!strcmp(item, "tls"))
        t->tls = tls_mode(value);
    else if (!strcmp(item, "tls_ca"))
        put(t->tls_ca, item, value, strlen(value));
    else if (!strcmp(item, "tls_cert"))
        put(t->tls_cert, item, value, strlen(value));
    else if (!strcmp(item, "tls_key"))
        put(t->tls_key, item, value, strlen(value));
    else
        die("--mysql: weir-soak does not know '%s' after the '?'", item);
}

static void parse_host(struct target *t, const char *text, size_t length)
{
    const char *port = NULL;

    if (length && *text == '[') {
        const char *end = memchr(text, ']', length);
        if (!end)
            die("--mysql: the '[' before the host is not closed");
        put(t->host, "the host", text + 1, (size_t)(end - text - 1));
        if (end + 1 < text + length && end[1] == ':')
            port = end + 2;
    } else {
        const char *colon = memchr(text, ':', length);
        put_unescaped(t->host, "the host", text, colon ? (size_t)(colon - text) : length);
        port = colon ? colon + 1 : NULL;
    }
    t->port = 3306;
    if (port && port < text + length) {
        t->port = (unsigned)strtoul(port, NULL, 10);
        if (!t->port || t->port > 65535)
            die("--mysql: the port is no number from 1 to 65535");
    }
}

static void parse_uri(struct target *t, const char *uri)
{
    static const char *const schemes[] = { "mysql://", "mariadb://" };
    char                    *copy = strdup(uri);
    char                    *rest = copy;

    if (!copy)
        die("out of memory");
    for (unsigned i = 0; i < 2; i++)
        if (!strncmp(copy, schemes[i], strlen(schemes[i])))
            rest = copy + strlen(schemes[i]);
    if (rest == copy)
        die("--mysql wants mysql://user@host:port/database");

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
    parse_host(t, host, strlen(host));
    explicit_bzero(copy, strlen(uri));
    free(copy);
    if (!t->user[0] || !t->database[0] || !(t->host[0] || t->socket[0]))
        die("--mysql has to name a user, a host and a database, as in mysql://user@host/database");
    if (!strcmp(t->host, "localhost") && !t->socket[0])
        die("--mysql: 'localhost' means a Unix socket: add ?socket=PATH, or write 127.0.0.1");
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return !strcmp(host, "::1") || !strcmp(host, "localhost");
}

/* What weir would do by itself for this address, since the relay hides it. */
static void settle_tls(struct target *t, bool asked)
{
    if (t->tls == WEIR_TLS_DEFAULT)
        t->tls = asked || !(t->socket[0] || is_loopback(t->host)) ? WEIR_TLS_VERIFY
                                                                  : WEIR_TLS_OFF;
    if (t->tls == WEIR_TLS_VERIFY && !t->tls_ca[0])
        die("TLS with verification needs the authority's certificate: add tls_ca=FILE to the "
            "URI (or tls=off for plain text)");
    snprintf(t->tls_name, sizeof t->tls_name, "%s", t->host);
}

static void find_password(struct target *t, const struct options *o)
{
    const char *from_environment = getenv("WEIR_SOAK_PASSWORD");

    if (o->password_file) {
        FILE *f = fopen(o->password_file, "re");
        if (!f || !fgets(t->password, sizeof t->password, f))
            die("--password-file: %s could not be read", o->password_file);
        t->password[strcspn(t->password, "\r\n")] = 0;
        fclose(f);
    } else if (!t->password[0] && from_environment) {
        put(t->password, "WEIR_SOAK_PASSWORD", from_environment, strlen(from_environment));
    }
}

/* ---- the environment ---------------------------------------------------------------- */

static void from_environment(char *out, const char *name)
{
    const char *value = getenv(name);

    if (!value)
        die("no --mysql URI was given, and the environment describes no private server (%s is "
            "not set); script/soak starts one", name);
    put(out, name, value, strlen(value));
}

static void find_private(struct target *t, const struct options *o)
{
    char port[TARGET_TEXT];

    t->is_private = true;
    from_environment(port, "WEIR_MYSQL_PORT");
    t->port = (unsigned)atoi(port);
    from_environment(t->host, "WEIR_MYSQL_HOST");
    from_environment(t->admin_socket, "WEIR_MYSQL_SOCKET");
    from_environment(t->user, "WEIR_MYSQL_USER");
    from_environment(t->password, "WEIR_MYSQL_PASSWORD");
    from_environment(t->database, "WEIR_MYSQL_DATABASE");
    from_environment(t->pid_file, "WEIR_MYSQL_PID_FILE");
    from_environment(t->directory, "WEIR_MYSQL_DIR");
    from_environment(t->script, "WEIR_PRIVATE_SERVER");
    t->tls = o->tls ? WEIR_TLS_VERIFY : WEIR_TLS_OFF;
    if (o->tls) {
        from_environment(t->tls_ca, "WEIR_MYSQL_CA");
        from_environment(t->tls_name, "WEIR_MYSQL_TLS_NAME");
    }
}

void target_find(struct target *out, const struct options *options)
{
    uint64_t suffix = 0;

    memset(out, 0, sizeof *out);
    if (options->uri) {
        parse_uri(out, options->uri);
        settle_tls(out, options->tls);
        find_password(out, options);
    } else {
        find_private(out, options);
    }
    if (getrandom(&suffix, sizeof suffix, 0) != sizeof suffix)
        suffix = options->seed ^ (uint64_t)getpid();
    snprintf(out->table, sizeof out->table, "weir_soak_%012llx",
             (unsigned long long)(suffix >> 16));
}

/* ---- ways to it --------------------------------------------------------------------- */

void target_pool(const struct target *t, weir_mysql_opts *out)
{
    out->user = t->user;
    out->password = t->password;
    out->database = t->database;
    out->tls = t->tls;
    if (soak.relay) {
        out->host = "127.0.0.1";
        out->port = relay_port(soak.relay);
    } else if (t->socket[0]) {
        out->socket = t->socket;
    } else {
        out->host = t->host;
        out->port = t->port;
    }
    if (t->tls == WEIR_TLS_VERIFY || t->tls == WEIR_TLS_ENCRYPT) {
        out->tls_ca = t->tls_ca[0] ? t->tls_ca : NULL;
        out->tls_cert = t->tls_cert[0] ? t->tls_cert : NULL;
        out->tls_key = t->tls_key[0] ? t->tls_key : NULL;
        out->tls_name = t->tls == WEIR_TLS_VERIFY ? t->tls_name : NULL;
    }
}

void target_words(const struct target *t, char *buf, size_t size)
{
    if (t->is_private)
        snprintf(buf, size, "private server %s, %s:%u%s", t->version, t->host, t->port,
                 t->tls == WEIR_TLS_VERIFY ? ", TLS verified" : "");
    else
        snprintf(buf, size, "%s, %s%s%.0u%s", t->version, t->socket[0] ? t->socket : t->host,
                 t->socket[0] ? "" : " port ", t->socket[0] ? 0 : t->port,
                 t->tls == WEIR_TLS_VERIFY    ? ", TLS verified, through a relay"
                 : t->tls == WEIR_TLS_ENCRYPT ? ", TLS, through a relay"
                                              : ", through a relay");
}

MYSQL *target_connect(const struct target *t, char *why, size_t size)
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
    if (!t->is_private && t->tls != WEIR_TLS_OFF) {
        my_bool on = 1;
        mysql_ssl_set(my, t->tls_key[0] ? t->tls_key : NULL, t->tls_cert[0] ? t->tls_cert : NULL,
                      t->tls_ca[0] ? t->tls_ca : NULL, NULL, NULL);
        mysql_options(my, MYSQL_OPT_SSL_ENFORCE, &on);
        if (t->tls == WEIR_TLS_VERIFY)
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

/* ---- the table ---------------------------------------------------------------------- */

void row_note(char *buf, size_t size, uint64_t id)
{
    uint64_t x = id * UINT64_C(0x9e3779b97f4a7c15);

    snprintf(buf, size, "row %llu, %016llx", (unsigned long long)id,
             (unsigned long long)(x ^ x >> 29));
}

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
bool target_prepare(struct target *t, char *why, size_t size)
{
    char   sql[256];
    MYSQL *my = target_connect(t, why, size);
    bool   ok;

    if (!my)
        return false;
    snprintf(t->version, sizeof t->version, "%s", mysql_get_server_info(my));
    snprintf(sql, sizeof sql,
             "CREATE TABLE %s (id BIGINT UNSIGNED NOT NULL, note VARCHAR(64) NOT NULL, KEY (id)) "
             "ENGINE=InnoDB CHARACTER SET utf8mb4", t->table);
    ok = mysql_query(my, sql) == 0 && insert_first_rows(my, t->table);
    if (!ok)
        snprintf(why, size, "could not make the table %s: %s", t->table, mysql_error(my));
    mysql_close(my);
    return ok;
}

void target_clean(const struct target *t)
{
    char   text[256];
    MYSQL *my = target_connect(t, text, sizeof text);

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

/* ---- counting connections ----------------------------------------------------------- */

static bool is_ours(const struct target *t, MYSQL *me, MYSQL_ROW row)
{
    unsigned long id = row[0] ? strtoul(row[0], NULL, 10) : 0;

    if (id == mysql_thread_id(me))
        return false;
    if (soak.relay)
        return relay_knows(soak.relay, (uint32_t)id);
    return row[1] && !strcmp(row[1], t->user);
}

long target_connections(const struct target *t)
{
    char       why[256];
    long       count = -1;
    MYSQL     *my = target_connect(t, why, sizeof why);
    MYSQL_RES *res;

    if (!my)
        return -1;
    if (!mysql_query(my, "SHOW PROCESSLIST")) {
        res = mysql_store_result(my);
        if (res) {
            count = 0;
            for (MYSQL_ROW row = mysql_fetch_row(res); row; row = mysql_fetch_row(res))
                count += is_ours(t, my, row);
            mysql_free_result(res);
        }
    }
    mysql_close(my);
    return count;
}
