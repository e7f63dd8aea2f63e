/*
 * target.c - where a server is, as far as all databases agree on it.
 *
 * Knows:   texts and their limits, the environment of a private server, where a password comes
 *          from, the name of a table that is nobody else's, and what a row of it says.
 * Ignores: URIs and protocols (mysql_target.c, mongo_target.c).
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

void target_die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("weir-soak: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

void target_put(char *out, const char *what, const char *text, size_t length)
{
    if (length >= TARGET_TEXT)
        target_die("%s is too long", what);
    memcpy(out, text, length);
    out[length] = 0;
}

bool target_unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++) {
        unsigned byte = (unsigned char)*from;
        if (byte == '%') {
            if (!isxdigit((unsigned char)from[1]) || !isxdigit((unsigned char)from[2]) ||
                sscanf(from + 1, "%2x", &byte) != 1 || !byte)
                return false;
            from += 2;
        }
        *to++ = (char)byte;
    }
    *to = 0;
    return true;
}

unsigned target_port(const char *option, const char *text)
{
    char         *end;
    unsigned long port = strtoul(text, &end, 10);

    if (!isdigit((unsigned char)*text) || *end || !port || port > 65535)
        target_die("%s: the port is no number from 1 to 65535", option);
    return (unsigned)port;
}

bool target_is_loopback(const char *host)
{
    struct in_addr v4;

    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return !strcmp(host, "::1") || !strcmp(host, "localhost");
}

void target_password(struct target *t)
{
    const struct options *o = &soak.options;
    const char *from_environment = getenv("WEIR_SOAK_PASSWORD");

    if (o->password_file) {
        FILE *f = fopen(o->password_file, "re");
        if (!f || !fgets(t->password, sizeof t->password, f))
            target_die("--password-file: %s could not be read", o->password_file);
        t->password[strcspn(t->password, "\r\n")] = 0;
        fclose(f);
    } else if (!t->password[0] && from_environment) {
        target_put(t->password, "WEIR_SOAK_PASSWORD", from_environment, strlen(from_environment));
    }
}

/* ---- the environment ---------------------------------------------------------------- */

void target_from_environment(char *out, const char *name)
{
    const char *value = getenv(name);

    if (!value)
        target_die("no URI was given, and the environment describes no private server (%s is not "
                   "set); script/soak starts one", name);
    target_put(out, name, value, strlen(value));
}

unsigned target_port_from_environment(const char *name)
{
    char text[TARGET_TEXT];

    target_from_environment(text, name);
    return (unsigned)atoi(text);
}

/* ---- tables ------------------------------------------------------------------------- */

void target_name_table(struct target *t)
{
    uint64_t suffix = 0;

    if (getrandom(&suffix, sizeof suffix, 0) != sizeof suffix)
        suffix = soak.options.seed ^ (uint64_t)getpid();
    snprintf(t->table, sizeof t->table, "weir_soak_%012llx", (unsigned long long)(suffix >> 16));
}

void row_note(char *buf, size_t size, uint64_t id)
{
    uint64_t x = id * UINT64_C(0x9e3779b97f4a7c15);

    snprintf(buf, size, "row %llu, %016llx", (unsigned long long)id,
             (unsigned long long)(x ^ x >> 29));
}

/* ---- words -------------------------------------------------------------------------- */

void target_words(const struct database *db, char *buf, size_t size)
{
    const struct target *t = &db->target;
    const char          *tls = t->tls == TLS_VERIFY    ? ", TLS verified"
                               : t->tls == TLS_ENCRYPT ? ", TLS"
                                                       : "";
    const char          *way = db->relay ? ", through a relay" : "";

    if (t->is_private)
        snprintf(buf, size, "private server %s, %s:%u%s%s", t->version, t->host, t->port, tls, way);
    else
        snprintf(buf, size, "%s, %s%s%.0u%s%s", t->version, t->socket[0] ? t->socket : t->host,
                 t->socket[0] ? "" : " port ", t->socket[0] ? 0 : t->port, tls, way);
}
