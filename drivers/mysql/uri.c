/*
 * uri.c - mysql://user:password@host:port/database?option=value
 *
 * Knows:   the grammar, percent-escapes, which options there are.
 * Ignores: whether the settings make sense together (config.c).
 *
 * No message repeats a piece of the URI other than an option's name: a password with a
 * forgotten escape may stand anywhere.
 */
#include "mysql_internal.h"

#include <stdlib.h>
#include <string.h>

/* A piece of the text. */
struct span {
    const char *at;
    size_t      size;
};

static struct span span_to(const char *from, const char *to)
{
    return (struct span){ from, (size_t)(to - from) };
}

static const char *find(struct span s, char wanted)
{
    return s.size ? memchr(s.at, wanted, s.size) : NULL;
}

static bool is(struct span s, const char *word)
{
    return s.size == strlen(word) && memcmp(s.at, word, s.size) == 0;
}

/* Cut s at the first `mark`: returns what was before it, leaves in *s what is behind. */
static struct span cut(struct span *s, char mark)
{
    const char *found = find(*s, mark);
    struct span before = found ? span_to(s->at, found) : *s;
    const char *end = s->at + s->size;

    *s = found ? span_to(found + 1, end) : span_to(end, end);
    return before;
}

/* ---- values --------------------------------------------------------------------------- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A byte of the text, or -1 for an escape that is none or stands for the end of a string. */
static int decoded(const char **at, const char *end)
{
    const char *p = (*at)++;

    if (*p != '%')
        return (unsigned char)*p;
    if (end - p < 3 || hex(p[1]) < 0 || hex(p[2]) < 0)
        return -1;
    *at = p + 3;
    int byte = hex(p[1]) * 16 + hex(p[2]);
    return byte ? byte : -1;
}

/* Put the decoded text into *field, unless that is set already. */
static weir_status set(const char **field, struct span s, const char *what, weir_error *err)
{
    const char *p = s.at, *end = s.at + s.size;
    char       *text, *out;

    text = out = malloc(s.size + 1);
    if (!text)
        return weir_error_set(err, WEIR_NOMEM, "no memory for the URI");
    while (p < end) {
        int byte = decoded(&p, end);
        if (byte < 0) {
            free(text);
            return weir_error_set(err, WEIR_USAGE,
                                  "the URI's %s has a '%%' that is not followed by two digits "
                                  "other than 00 (write %%25 for itself)", what);
        }
        *out++ = (char)byte;
    }
    *out = '\0';
    if (*field)
        free(text);
    else
        *field = text;
    return WEIR_OK;
}

static weir_status set_port(weir_mysql_opts *into, struct span s, weir_error *err)
{
    unsigned port = 0;

    for (size_t i = 0; i < s.size && port <= 65535; i++)
        port = s.at[i] >= '0' && s.at[i] <= '9' ? port * 10 + (unsigned)(s.at[i] - '0') : 65536;
    if (port == 0 || port > 65535)
        return weir_error_set(err, WEIR_USAGE, "the URI's port must be a number from 1 to 65535");
    if (!into->port)
        into->port = port;
    return WEIR_OK;
}

static weir_status set_flag(bool *flag, struct span s, const char *what, weir_error *err)
{
    if (!is(s, "0") && !is(s, "1"))
        return weir_error_set(err, WEIR_USAGE, "the URI's %s must be 0 or 1", what);
    *flag = *flag || is(s, "1");
    return WEIR_OK;
}

static weir_status set_tls(weir_mysql_opts *into, struct span s, weir_error *err)
{
    weir_tls tls;

    if (is(s, "off"))
        tls = WEIR_TLS_OFF;
    else if (is(s, "encrypt"))
        tls = WEIR_TLS_ENCRYPT;
    else if (is(s, "verify"))
        tls = WEIR_TLS_VERIFY;
    else
        return weir_error_set(err, WEIR_USAGE, "the URI's tls must be off, encrypt or verify");
    if (into->tls == WEIR_TLS_DEFAULT)
        into->tls = tls;
    return WEIR_OK;
}

/* ---- options -------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t      field;
} texts[] = {
    { "socket", offsetof(weir_mysql_opts, socket) },
    { "charset", offsetof(weir_mysql_opts, charset) },
    { "tls_ca", offsetof(weir_mysql_opts, tls_ca) },
    { "tls_cert", offsetof(weir_mysql_opts, tls_cert) },
    { "tls_key", offsetof(weir_mysql_opts, tls_key) },
    { "tls_name", offsetof(weir_mysql_opts, tls_name) },
};

enum { TEXTS = sizeof texts / sizeof *texts, NAME_SHOWN = 32 };

static weir_status set_option(weir_mysql_opts *into, struct span pair, weir_error *err)
{
    bool        has_value = find(pair, '=');
    struct span name = cut(&pair, '=');

    for (size_t i = 0; i < TEXTS; i++)
        if (is(name, texts[i].name))
            return pair.size
                       ? set((const char **)((char *)into + texts[i].field), pair,
                             texts[i].name, err)
                       : weir_error_set(err, WEIR_USAGE, "the URI's %s is empty", texts[i].name);
    if (is(name, "tls"))
        return set_tls(into, pair, err);
    if (is(name, "local_infile"))
        return set_flag(&into->local_infile, pair, "local_infile", err);
    if (is(name, "multi_statements"))
        return set_flag(&into->multi_statements, pair, "multi_statements", err);
    if (is(name, "kill_cut"))
        return set_flag(&into->kill_cut, pair, "kill_cut", err);
    if (!has_value)
        return weir_error_set(err, WEIR_USAGE,
                              "after '?' the URI has something that is not option=value");
    return weir_error_set(err, WEIR_USAGE,
                          "the URI has an unknown option '%.*s'; there are socket, tls, tls_ca, "
                          "tls_cert, tls_key, tls_name, charset, local_infile, "
                          "multi_statements, kill_cut",
                          (int)(name.size < NAME_SHOWN ? name.size : NAME_SHOWN), name.at);
}

static weir_status set_options(weir_mysql_opts *into, struct span query, weir_error *err)
{
    while (query.size) {
        weir_status status = set_option(into, cut(&query, '&'), err);
        if (status != WEIR_OK)
            return status;
    }
    return WEIR_OK;
}

/* ---- the rest, from left to right ----------------------------------------------------- */

static weir_status set_user(weir_mysql_opts *into, struct span login, weir_error *err)
{
    bool        has_password = find(login, ':');
    struct span user = cut(&login, ':');

    if (!user.size)
        return weir_error_set(err, WEIR_USAGE, "the URI's user is empty");
    if (find(login, ':'))
        return weir_error_set(err, WEIR_USAGE,
                              "a ':' in the URI's user or password must be written %%3A");
    weir_status status = set(&into->user, user, "user", err);
    if (status == WEIR_OK && has_password)
        status = set(&into->password, login, "password", err);
    return status;
}

static weir_status set_address(weir_mysql_opts *into, struct span place, weir_error *err)
{
    bool        bracket = place.size && *place.at == '[';
    struct span host;

    if (bracket) {
        const char *close = find(place, ']');
        if (!close || close == place.at + 1)
            return weir_error_set(err, WEIR_USAGE,
                                  "the URI's '[' must be followed by an address and a ']'");
        host = span_to(place.at + 1, close);
        place = span_to(close + 1, place.at + place.size);
        if (place.size && *place.at != ':')
            return weir_error_set(err, WEIR_USAGE,
                                  "after the URI's ']' there can be a port, or the end");
        cut(&place, ':');
        bracket = place.at > close + 1; /* a colon was there */
    } else {
        bracket = find(place, ':');
        host = cut(&place, ':');
        if (find(place, ':'))
            return weir_error_set(err, WEIR_USAGE,
                                  "an IPv6 address stands in brackets in a URI: [::1]");
    }
    weir_status status = host.size ? set(&into->host, host, "host", err) : WEIR_OK;
    return status == WEIR_OK && bracket ? set_port(into, place, err) : status;
}

static weir_status set_authority(weir_mysql_opts *into, struct span authority, weir_error *err)
{
    if (!find(authority, '@'))
        return set_address(into, authority, err);

    weir_status status = set_user(into, cut(&authority, '@'), err);
    return status == WEIR_OK ? set_address(into, authority, err) : status;
}

static weir_status check_escapes(struct span authority, struct span rest, weir_error *err)
{
    const char *at = find(authority, '@');

    if (find(rest, '@') ||
        (at && find(span_to(at + 1, authority.at + authority.size), '@')))
        return weir_error_set(err, WEIR_USAGE,
                              "'@', '/', '?' and '#' in the URI's user, password or any other "
                              "part must be written %%40, %%2F, %%3F and %%23");
    if (find(rest, '#'))
        return weir_error_set(err, WEIR_USAGE, "the URI has a '#' (write %%23 for itself)");
    return WEIR_OK;
}

static const char *behind_scheme(const char *uri)
{
    static const char *const schemes[] = { "mysql://", "mariadb://" };

    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (strncmp(uri, schemes[i], strlen(schemes[i])) == 0)
            return uri + strlen(schemes[i]);
    return NULL;
}

weir_status my_uri_parse(const char *uri, weir_mysql_opts *into, weir_error *err)
{
    const char *begin = behind_scheme(uri);

    if (!begin)
        return weir_error_set(err, WEIR_USAGE, "the URI must begin with mysql://");
    const char *authority_end = begin + strcspn(begin, "/?#");
    struct span authority = span_to(begin, authority_end);
    struct span query = span_to(authority_end, authority_end + strlen(authority_end));

    weir_status status = check_escapes(authority, query, err);
    struct span path = cut(&query, '?');
    if (status == WEIR_OK)
        status = set_authority(into, authority, err);
    if (status == WEIR_OK && path.size > 1)
        status = find(span_to(path.at + 1, path.at + path.size), '/')
                     ? weir_error_set(err, WEIR_USAGE,
                                      "a '/' in the URI's database must be written %%2F")
                     : set(&into->database, span_to(path.at + 1, path.at + path.size),
                           "database", err);
    return status == WEIR_OK ? set_options(into, query, err) : status;
}
