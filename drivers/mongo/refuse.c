/*
 * refuse.c - what a URI asks for and cannot have, by name.
 *
 * Knows:   the options that would block the thread, wait without end, or be passed over.
 * Ignores: what becomes of all the others (config.c).
 *
 * An option that the library does not know gets a line in its log and is passed over, as MongoDB
 * wants it. With TLS that is not good enough: who asks for a list of revoked certificates, or for
 * an authority, by a name that nobody knows, must not believe that he has it.
 */
#include "mongo_internal.h"

#include <string.h>
#include <strings.h>
#include <sys/un.h>

/* ---- who we are -------------------------------------------------------------------- */

static weir_status check_mechanism(const mongoc_uri_t *uri, weir_error *err)
{
    static const char *const known[] = { "SCRAM-SHA-256", "SCRAM-SHA-1", "MONGODB-X509", "PLAIN" };
    const char              *mechanism = mongoc_uri_get_auth_mechanism(uri);

    if (!mechanism)
        return WEIR_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(mechanism, known[i]) == 0)
            return WEIR_OK;
    if (strcasecmp(mechanism, "GSSAPI") == 0)
        return weir_error_set(err, WEIR_USAGE,
                              "authMechanism=GSSAPI blocks the thread while Kerberos asks its "
                              "servers: use SCRAM-SHA-256, MONGODB-X509 or PLAIN");
    if (strcasecmp(mechanism, "MONGODB-AWS") == 0)
        return weir_error_set(err, WEIR_USAGE,
                              "authMechanism=MONGODB-AWS blocks the thread while it asks for "
                              "credentials: use SCRAM-SHA-256, MONGODB-X509 or PLAIN");
    if (strcasecmp(mechanism, "MONGODB-CR") == 0)
        return weir_error_set(err, WEIR_USAGE,
                              "authMechanism=MONGODB-CR is gone since MongoDB 4.0: use "
                              "SCRAM-SHA-256 or SCRAM-SHA-1");
    return weir_error_set(err, WEIR_USAGE,
                          "authMechanism=%.40s is not known: use SCRAM-SHA-256, SCRAM-SHA-1, "
                          "MONGODB-X509 or PLAIN", mechanism);
}

/* ---- numbers ----------------------------------------------------------------------- */

/* A time of zero means its default to the library. */
static weir_status check_times(const mongoc_uri_t *uri, weir_error *err)
{
    static const char *const times[] = { MONGOC_URI_SOCKETTIMEOUTMS, MONGOC_URI_CONNECTTIMEOUTMS,
                                         MONGOC_URI_SERVERSELECTIONTIMEOUTMS };

    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        if (mongoc_uri_get_option_as_int32(uri, times[i], 0) < 0)
            return weir_error_set(err, WEIR_USAGE,
                                  "%s must not be negative: a server that is silent would be "
                                  "waited for without end (leave it out for a default)", times[i]);
    return WEIR_OK;
}

static weir_status check_sizes(const mongoc_uri_t *uri, weir_error *err)
{
    static const char *const sizes[] = { MONGOC_URI_MINPOOLSIZE, MONGOC_URI_MAXIDLETIMEMS,
                                         MONGOC_URI_WAITQUEUETIMEOUTMS };

    if (mongoc_uri_has_option(uri, MONGOC_URI_MAXPOOLSIZE) &&
        mongoc_uri_get_option_as_int32(uri, MONGOC_URI_MAXPOOLSIZE, 0) < 1)
        return weir_error_set(err, WEIR_USAGE,
                              "maxPoolSize must be 1 or more: a pool always has a limit (leave it "
                              "out for a default)");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (mongoc_uri_get_option_as_int32(uri, sizes[i], 0) < 0)
            return weir_error_set(err, WEIR_USAGE,
                                  "%s must not be negative (leave it out for a default)", sizes[i]);
    return WEIR_OK;
}

/* ---- TLS --------------------------------------------------------------------------- */

static bool is_known(const char *option)
{
    return mongoc_uri_option_is_bool(option) || mongoc_uri_option_is_utf8(option);
}

static weir_status check_tls_names(const char *text, weir_error *err)
{
    const char *at = strchr(text, '?');

    while (at) {
        char   name[64] = "";
        size_t length = strcspn(++at, "=&");
        memcpy(name, at, length < sizeof name ? length : sizeof name - 1);
        at = strchr(at, '&');
        if ((strncasecmp(name, "tls", 3) != 0 && strncasecmp(name, "ssl", 3) != 0) ||
            is_known(name))
            continue;
        if (strcasecmp(name, "tlsCRLFile") == 0)
            return weir_error_set(err, WEIR_USAGE,
                                  "tlsCRLFile is no option of a URI here: set tls_crl");
        return weir_error_set(err, WEIR_USAGE,
                              "%s is not known, and one of TLS is not passed over: is it another "
                              "name that is meant?", name);
    }
    return WEIR_OK;
}

/* Certificates are looked up in the list that .tls_crl names, and nowhere else. */
static weir_status check_revocation(const mongoc_uri_t *uri, weir_error *err)
{
    static const char *const checks[] = { MONGOC_URI_TLSDISABLEOCSPENDPOINTCHECK,
                                          MONGOC_URI_TLSDISABLECERTIFICATEREVOCATIONCHECK };

    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (!mongoc_uri_get_option_as_bool(uri, checks[i], true))
            return weir_error_set(err, WEIR_USAGE,
                                  "%s=false is not supported: nobody is asked by OCSP, since that "
                                  "blocks the thread (leave it out; tls_crl names a list of "
                                  "revoked certificates)", checks[i]);
    return WEIR_OK;
}

/* ---- servers ----------------------------------------------------------------------- */

static weir_status check_hosts(const mongoc_uri_t *uri, weir_error *err)
{
    const mongoc_host_list_t *host = mongoc_uri_get_hosts(uri);
    const size_t              room = sizeof ((struct sockaddr_un *)0)->sun_path;

    for (; host; host = host->next) {
        if (strchr(host->host, '/') && host->family != AF_UNIX)
            return weir_error_set(err, WEIR_USAGE,
                                  "the path of a Unix socket must end in .sock: %.100s",
                                  host->host);
        if (host->family == AF_UNIX && strlen(host->host) >= room)
            return weir_error_set(err, WEIR_USAGE,
                                  "the path of a Unix socket is longer than %zu bytes, which is "
                                  "the system's limit", room - 1);
    }
    return WEIR_OK;
}

static weir_status check_choice(const mongoc_uri_t *uri, weir_error *err)
{
    if (mongoc_uri_get_option_as_bool(uri, MONGOC_URI_LOADBALANCED, false))
        return weir_error_set(err, WEIR_USAGE,
                              "loadBalanced=true is not supported: name the mongos servers");
    if (!mongoc_uri_get_option_as_bool(uri, MONGOC_URI_SERVERSELECTIONTRYONCE, true))
        return weir_error_set(err, WEIR_USAGE,
                              "serverSelectionTryOnce=false is not supported, since it holds a "
                              "client for up to 30 s: leave it out, and try again where a server "
                              "may come back");
    return WEIR_OK;
}

/* ---- the whole --------------------------------------------------------------------- */

weir_status mo_refuse(const mongoc_uri_t *uri, const char *text, weir_error *err)
{
    weir_status status = check_choice(uri, err);

    if (status == WEIR_OK)
        status = check_times(uri, err);
    if (status == WEIR_OK)
        status = check_sizes(uri, err);
    if (status == WEIR_OK)
        status = check_tls_names(text, err);
    if (status == WEIR_OK)
        status = check_revocation(uri, err);
    if (status == WEIR_OK)
        status = check_hosts(uri, err);
    return status == WEIR_OK ? check_mechanism(uri, err) : status;
}
