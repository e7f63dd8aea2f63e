/*
 * config.c - a pool's settings: merged, checked, nothing missing.
 *
 * Knows:   the defaults, and which settings contradict each other.
 * Ignores: how they reach the library (connect.c).
 *
 * What can be found out about a setting without a server is found out here, in the call that
 * makes the pool, and not by the first coroutine that wants a connection.
 */
#include "mysql_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static const size_t texts[] = {
    offsetof(weir_mysql_opts, uri),      offsetof(weir_mysql_opts, host),
    offsetof(weir_mysql_opts, socket),   offsetof(weir_mysql_opts, user),
    offsetof(weir_mysql_opts, password), offsetof(weir_mysql_opts, database),
    offsetof(weir_mysql_opts, charset),  offsetof(weir_mysql_opts, tls_ca),
    offsetof(weir_mysql_opts, tls_cert), offsetof(weir_mysql_opts, tls_key),
    offsetof(weir_mysql_opts, tls_name),
};

enum { TEXTS = sizeof texts / sizeof *texts };

static const char **text(weir_mysql_opts *opts, size_t i)
{
    return (const char **)((char *)opts + texts[i]);
}

/* ---- memory --------------------------------------------------------------------------- */

/* Through volatile, so that it is done although nobody reads it any more. */
static void wipe(const char *secret)
{
    volatile char *p = (volatile char *)secret;

    while (p && *p)
        *p++ = '\0';
}

void my_opts_free(weir_mysql_opts *opts)
{
    wipe(opts->password);
    wipe(opts->uri);
    for (size_t i = 0; i < TEXTS; i++) {
        free((char *)*text(opts, i));
        *text(opts, i) = NULL;
    }
}

void my_config_free(void *config)
{
    if (!config)
        return;
    my_opts_free(&((struct my_config *)config)->opts);
    free(config);
}

/* An empty string is as good as none, but for a password, which may well be empty. */
static bool copy_texts(const weir_mysql_opts *from, weir_mysql_opts *to)
{
    bool complete = true;

    *to = *from;
    for (size_t i = 0; i < TEXTS; i++) {
        const char *given = *text((weir_mysql_opts *)from, i);
        bool        none = !given || (!*given && text(to, i) != &to->password);

        *text(to, i) = none ? NULL : strdup(given);
        complete = complete && (none || *text(to, i));
    }
    return complete;
}

static bool default_text(const char **field, const char *value)
{
    if (!*field)
        *field = strdup(value);
    return *field;
}

/* ---- checks --------------------------------------------------------------------------- */

static weir_status check_place(weir_mysql_opts *opts, weir_error *err)
{
    if (opts->host && strcmp(opts->host, "localhost") == 0) {
        free((char *)opts->host);
        opts->host = NULL;
    }
    if (opts->host && opts->socket)
        return weir_error_set(err, WEIR_USAGE,
                              "both a host and a socket are given: which of them is it?");
    if (opts->host && strpbrk(opts->host, ",;/ "))
        return weir_error_set(err, WEIR_USAGE, "host must be one name or address");
    if (opts->socket && strlen(opts->socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return weir_error_set(err, WEIR_USAGE, "socket is longer than a path of a socket can be");
    if (opts->port > 65535)
        return weir_error_set(err, WEIR_USAGE, "port must be a number from 1 to 65535");
    return WEIR_OK;
}

static weir_status check_words(const weir_mysql_opts *opts, weir_error *err)
{
    if (!opts->user && !opts->credentials)
        return weir_error_set(err, WEIR_USAGE, "user is missing: give .user, or one in the URI");
    if (strspn(opts->charset, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") !=
            strlen(opts->charset) ||
        strlen(opts->charset) > 31)
        return weir_error_set(err, WEIR_USAGE, "charset must be a name such as utf8mb4");
    if (!mariadb_get_charset_by_name(opts->charset))
        return weir_error_set(err, WEIR_USAGE,
                              "charset: libmariadb knows no '%s'; give the name of a character "
                              "set, such as utf8mb4, not of a collation", opts->charset);
    if (opts->database && strlen(opts->database) > 64 * 3)
        return weir_error_set(err, WEIR_USAGE, "database is longer than a name can be");
    if ((unsigned)opts->tls > WEIR_TLS_VERIFY)
        return weir_error_set(err, WEIR_USAGE, "tls is none of WEIR_TLS_*");
    return WEIR_OK;
}

/* Before a password that is missing becomes an empty one. */
static weir_status check_credentials(const weir_mysql_opts *opts, weir_error *err)
{
    if (opts->credentials && opts->password)
        return weir_error_set(err, WEIR_USAGE,
                              "both a password and credentials are given: which of them is it?");
    if (opts->credentials_arg && !opts->credentials)
        return weir_error_set(err, WEIR_USAGE,
                              "credentials_arg is given, and the function that gets it is not: set "
                              "credentials, too");
    return WEIR_OK;
}

static weir_status check_file(const char *path, const char *what, weir_error *err)
{
    if (path && access(path, R_OK) != 0)
        return weir_error_set(err, WEIR_USAGE, "%s: cannot read '%.120s': %m", what, path);
    return WEIR_OK;
}

/* ---- TLS ------------------------------------------------------------------------------ */

/* An address, and no name that looks like one: 127.example.com is somebody's domain. */
static bool is_loopback(const char *host)
{
    struct in_addr address;

    return !host || strcmp(host, "::1") == 0 ||
           (inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

/* An authority or a name to verify is given by those who want them verified. */
static weir_tls tls_of(const weir_mysql_opts *opts)
{
    if (opts->tls != WEIR_TLS_DEFAULT)
        return opts->tls;
    if (opts->tls_ca || opts->tls_name || opts->tls_cert || opts->tls_key)
        return WEIR_TLS_VERIFY;
    return is_loopback(opts->host) ? WEIR_TLS_OFF : WEIR_TLS_VERIFY;
}

static weir_status check_tls(const struct my_config *config, weir_error *err)
{
    const weir_mysql_opts *opts = &config->opts;

    if (config->tls == WEIR_TLS_OFF)
        return WEIR_OK;
    if (config->tls == WEIR_TLS_VERIFY && !opts->tls_ca)
        return weir_error_set(err, WEIR_USAGE,
                              "tls_ca is missing: name the file of the authority that signed the "
                              "server's certificate (or allow plain text with WEIR_TLS_OFF, "
                              "tls=off in a URI)");
    if (config->tls == WEIR_TLS_VERIFY && !opts->host && !opts->tls_name)
        return weir_error_set(err, WEIR_USAGE,
                              "tls_name is missing: a Unix socket has no name to verify");
    if (!opts->tls_cert != !opts->tls_key)
        return weir_error_set(err, WEIR_USAGE, "tls_cert and tls_key go together");
    weir_status status = check_file(opts->tls_ca, "tls_ca", err);
    if (status == WEIR_OK)
        status = check_file(opts->tls_cert, "tls_cert", err);
    return status == WEIR_OK ? check_file(opts->tls_key, "tls_key", err) : status;
}

/* ---- the whole ------------------------------------------------------------------------ */

/* Who gave a port beside "localhost" meant TCP: the name says it wherever it is shown. */
static void name_target(struct my_config *config, bool has_port)
{
    const weir_mysql_opts *opts = &config->opts;

    if (opts->host)
        snprintf(config->target, sizeof config->target,
                 strchr(opts->host, ':') ? "[%s]:%u" : "%s:%u", opts->host, opts->port);
    else
        snprintf(config->target, sizeof config->target, "%s",
                 opts->socket ? opts->socket
                 : has_port   ? "the default socket (a port needs 127.0.0.1, not localhost)"
                              : "the default socket");
}

static weir_status fill_and_check(struct my_config *config, weir_error *err)
{
    weir_mysql_opts *opts = &config->opts;
    weir_status      status = opts->uri ? my_uri_parse(opts->uri, opts, err) : WEIR_OK;

    if (status == WEIR_OK)
        status = check_credentials(opts, err);
    if (status == WEIR_OK &&
        (!default_text(&opts->charset, "utf8mb4") || !default_text(&opts->password, "")))
        status = weir_error_set(err, WEIR_NOMEM, "no memory for the pool's settings");
    if (status == WEIR_OK)
        status = check_place(opts, err);
    if (status == WEIR_OK)
        status = check_words(opts, err);
    if (status != WEIR_OK)
        return status;
    config->tls = tls_of(opts);
    bool has_port = opts->port;
    if (!has_port)
        opts->port = 3306;
    name_target(config, has_port);
    return check_tls(config, err);
}

weir_status my_config_new(const weir_mysql_opts *opts, struct my_config **out, weir_error *err)
{
    struct my_config *config;
    weir_status       status;

    *out = NULL;
    if (!opts)
        return weir_error_set(err, WEIR_USAGE, "options are missing: at least a user is needed");
    config = calloc(1, sizeof *config);
    if (!config)
        return weir_error_set(err, WEIR_NOMEM, "no memory for the pool's settings");
    list_init(&config->kills);
    status = copy_texts(opts, &config->opts)
                 ? fill_and_check(config, err)
                 : weir_error_set(err, WEIR_NOMEM, "no memory for the pool's settings");
    if (status == WEIR_OK)
        *out = config;
    else
        my_config_free(config);
    return status;
}
