/*
 * config.c - a pool's settings: merged, checked, nothing missing.
 *
 * Knows:   the options of a MongoDB URI, our defaults, what cannot be done without blocking.
 * Ignores: the grammar of a URI, which is the library's to check.
 *
 * There are two URIs. The one that was given, with defaults filled in, and the one that clients
 * are made from, which differs from it:
 *
 *   - a mongodb+srv name has been looked up, on a thread: the library would do that on the hub,
 *     for every client;
 *   - it has no user, where our streams log in; the library's way to do that takes the hub 25 ms
 *     for each client;
 *   - it does not speak of TLS, which is our streams' business (but for X.509, where the library
 *     takes the user's name from the certificate).
 *
 * What can be found out about a setting without a server is found out in the call that makes the
 * pool. No message repeats what may be a piece of a password.
 */
#include "mongo_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CONNECT_MS = 2000 };

/* ---- memory ------------------------------------------------------------------------ */

static const size_t texts[] = {
    offsetof(weir_mongo_opts, uri),          offsetof(weir_mongo_opts, tls_ca),
    offsetof(weir_mongo_opts, tls_cert_key), offsetof(weir_mongo_opts, tls_cert_key_password),
    offsetof(weir_mongo_opts, tls_crl),      offsetof(weir_mongo_opts, api_version),
};

enum { TEXTS = sizeof texts / sizeof *texts };

static const char **text(weir_mongo_opts *opts, size_t i)
{
    return (const char **)((char *)opts + texts[i]);
}

/* Through volatile, so that it is done although nobody reads it any more. */
static void wipe(const char *secret)
{
    volatile char *p = (volatile char *)secret;

    while (p && *p)
        *p++ = '\0';
}

void mo_config_free(void *arg)
{
    struct mo_config *config = arg;

    if (!config)
        return;
    for (size_t i = 0; i < MO_TOMBSTONES; i++)
        mo_client_free(config->tombstones[i]);
    mo_tls_context_free(config->tls);
    mongoc_uri_destroy(config->uri);
    mongoc_uri_destroy(config->given);
    free(config->source_found);
    wipe(config->opts.uri);
    wipe(config->opts.tls_cert_key_password);
    for (size_t i = 0; i < TEXTS; i++)
        free((char *)*text(&config->opts, i));
    free(config);
}

static bool copy_texts(const weir_mongo_opts *from, weir_mongo_opts *to)
{
    bool complete = true;

    *to = *from;
    for (size_t i = 0; i < TEXTS; i++) {
        const char *given = *text((weir_mongo_opts *)from, i);
        bool        none = !given || !*given;

        *text(to, i) = none ? NULL : strdup(given);
        complete = complete && (none || *text(to, i));
    }
    return complete;
}

/* ---- what is given ----------------------------------------------------------------- */

/*
 * A user or a password with a forgotten escape makes the library take a piece of it for a host,
 * or for an option, and print that. So the URI must be in order as far as that goes before the
 * library sees it.
 */
static weir_status check_escapes(const char *uri, weir_error *err)
{
    const char *begin = strstr(uri, "://");

    if (!begin || (strncmp(uri, "mongodb://", 10) != 0 && strncmp(uri, "mongodb+srv://", 14) != 0))
        return weir_error_set(err, WEIR_USAGE,
                              "the URI must begin with mongodb:// or mongodb+srv://");
    begin += 3;
    const char *end = begin + strcspn(begin, "/?#");
    const char *at = memchr(begin, '@', (size_t)(end - begin));
    if (strchr(at ? at + 1 : end, '@'))
        return weir_error_set(err, WEIR_USAGE,
                              "'@', '/', '?', '#', ':' and '%%' in the URI's user, password or any "
                              "other part must be written %%40, %%2F, %%3F, %%23, %%3A and %%25");
    const char *colon = at ? memchr(begin, ':', (size_t)(at - begin)) : NULL;
    if (colon && memchr(colon + 1, ':', (size_t)(at - colon - 1)))
        return weir_error_set(err, WEIR_USAGE,
                              "a ':' in the URI's user or password must be written %%3A");
    return WEIR_OK;
}

/* The same URI with another user, to see whether it is the user that is wrong with it. */
static bool wrong_without_user(const char *uri, bson_error_t *error)
{
    const char *begin = strstr(uri, "://") + 3;
    const char *at = strchr(begin, '@');
    char       *other = bson_strdup_printf("%.*su:p%s", (int)(begin - uri), uri, at ? at : "");
    mongoc_uri_t *parsed = at ? mongoc_uri_new_with_error(other, error) : NULL;

    bson_free(other);
    mongoc_uri_destroy(parsed);
    return at && !parsed;
}

static weir_status parse(struct mo_config *config, weir_error *err)
{
    const char   *uri = config->opts.uri;
    bson_error_t  error = { 0 };
    weir_status   status;

    if (!uri)
        return weir_error_set(err, WEIR_USAGE, "uri is missing: mongodb://host/database");
    status = check_escapes(uri, err);
    if (status != WEIR_OK)
        return status;
    config->given = mongoc_uri_new_with_error(uri, &error);
    if (config->given)
        return WEIR_OK;
    if (strchr(uri, '@') && !wrong_without_user(uri, &error))
        return weir_error_set(err, WEIR_USAGE,
                              "the URI's user or password is malformed: a '%%' in it must be "
                              "written %%25, and both must be UTF-8");
    return weir_error_set(err, WEIR_USAGE, "the URI is wrong: %s", error.message);
}

/* ---- defaults ---------------------------------------------------------------------- */

static void take_for_pool(const mongoc_uri_t *uri, weir_pool_opts *pool)
{
    if (!pool->max_size)
        pool->max_size = (unsigned)mongoc_uri_get_option_as_int32(uri, MONGOC_URI_MAXPOOLSIZE, 0);
    if (!pool->min_size)
        pool->min_size = (unsigned)mongoc_uri_get_option_as_int32(uri, MONGOC_URI_MINPOOLSIZE, 0);
    if (!pool->idle_timeout_ms)
        pool->idle_timeout_ms = mongoc_uri_get_option_as_int32(uri, MONGOC_URI_MAXIDLETIMEMS, 0);
    if (!pool->acquire_timeout_ms)
        pool->acquire_timeout_ms =
            mongoc_uri_get_option_as_int32(uri, MONGOC_URI_WAITQUEUETIMEOUTMS, 0);
}

/* weir's own default of five minutes is the library's, too. */
static int32_t as_ms(int64_t given, int32_t usual)
{
    if (given == 0)
        return usual;
    return given < 0 || given > INT32_MAX ? INT32_MAX : (int32_t)given;
}

static int32_t time_of(mongoc_uri_t *uri, const char *name, int32_t usual)
{
    int32_t ms = mongoc_uri_get_option_as_int32(uri, name, 0);

    if (!ms)
        mongoc_uri_set_option_as_int32(uri, name, ms = usual);
    return ms;
}

static void default_flag(mongoc_uri_t *uri, const char *name, bool value)
{
    if (!mongoc_uri_has_option(uri, name))
        mongoc_uri_set_option_as_bool(uri, name, value);
}

static void fill_in(struct mo_config *config)
{
    mongoc_uri_t         *uri = config->given;
    const weir_pool_opts *pool = &config->opts.pool;
    int32_t               longest = as_ms(pool->connect_timeout_ms, 10000);

    take_for_pool(uri, &config->opts.pool);
    default_flag(uri, MONGOC_URI_RETRYREADS, false);
    default_flag(uri, MONGOC_URI_RETRYWRITES, false);
    if (!mo_sleep_cooperates()) { /* a retry is what sleeps */
        mongoc_uri_set_option_as_bool(uri, MONGOC_URI_RETRYREADS, false);
        mongoc_uri_set_option_as_bool(uri, MONGOC_URI_RETRYWRITES, false);
    }
    if (config->opts.direct)
        mongoc_uri_set_option_as_bool(uri, MONGOC_URI_DIRECTCONNECTION, true);
    config->connect_ms = time_of(uri, MONGOC_URI_CONNECTTIMEOUTMS,
                                 longest < CONNECT_MS ? longest : CONNECT_MS);
    time_of(uri, MONGOC_URI_SOCKETTIMEOUTMS, as_ms(pool->query_timeout_ms, 300000));
}

static weir_status check_fields(const struct mo_config *config, weir_error *err)
{
    const mongoc_host_list_t   *hosts = mongoc_uri_get_hosts(config->given);
    const char                 *api = config->opts.api_version;
    mongoc_server_api_version_t version;

    if (api && !mongoc_server_api_version_from_string(api, &version))
        return weir_error_set(err, WEIR_USAGE, "api_version must be \"1\", or left out");
    if (!api && (config->opts.api_strict || config->opts.api_deprecation_errors))
        return weir_error_set(err, WEIR_USAGE,
                              "api_strict and api_deprecation_errors need an api_version: \"1\"");
    if (config->opts.direct && (!hosts || hosts->next))
        return weir_error_set(err, WEIR_USAGE, "direct needs a URI that names one server");
    return WEIR_OK;
}

/* ---- TLS --------------------------------------------------------------------------- */

/* By its address, and the one name that is meant for it: 127.example.com is somebody's domain. */
bool mo_is_local(int family, const char *host)
{
    struct in_addr address;

    return family == AF_UNIX || strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

static bool all_local(const mongoc_uri_t *uri)
{
    const mongoc_host_list_t *host = mongoc_uri_get_hosts(uri);
    bool                      local = host;

    for (; host; host = host->next)
        local = local && mo_is_local(host->family, host->host);
    return local;
}

static bool wants_tls(const struct mo_config *config)
{
    const weir_mongo_opts *opts = &config->opts;

    if (mongoc_uri_has_option(config->given, MONGOC_URI_TLS))
        return mongoc_uri_get_option_as_bool(config->given, MONGOC_URI_TLS, true);
    return opts->tls_ca || opts->tls_cert_key || opts->tls_crl ||
           mongoc_uri_get_tls(config->given) || !all_local(config->given);
}

static const char *either(const char *field, const mongoc_uri_t *uri, const char *option)
{
    return field ? field : mongoc_uri_get_option_as_utf8(uri, option, NULL);
}

static bool flag(const mongoc_uri_t *uri, const char *option)
{
    return mongoc_uri_get_option_as_bool(uri, option, false);
}

static bool uses_x509(const mongoc_uri_t *uri)
{
    const char *mechanism = mongoc_uri_get_auth_mechanism(uri);

    return mechanism && strcasecmp(mechanism, "MONGODB-X509") == 0;
}

struct loading {
    const struct mo_tls_opts *opts;
    struct mo_tls_context   **out;
    weir_error               *err;
    weir_status               status;
};

static void load(void *arg)
{
    struct loading *loading = arg;

    loading->status = mo_tls_context_new(loading->opts, loading->out, loading->err);
}

/* Reading the system's authorities takes 40 to 95 ms: too long for the hub to stand still. */
static weir_status load_tls(const struct mo_tls_opts *opts, struct mo_tls_context **out,
                            weir_error *err)
{
    struct loading loading = { .opts = opts, .out = out, .err = err };
    weir_status    status = weir_offload(load, &loading, WEIR_SCOPE);

    if (status != WEIR_OK)
        return weir_error_set(err, status, "the files for TLS were not read: %s",
                              weir_status_name(status));
    return loading.status;
}

static struct mo_tls_opts tls_opts(const struct mo_config *config)
{
    const mongoc_uri_t *uri = config->given;
    bool                lax = flag(uri, MONGOC_URI_TLSINSECURE);

    return (struct mo_tls_opts){
        .ca_file = either(config->opts.tls_ca, uri, MONGOC_URI_TLSCAFILE),
        .cert_key_file = either(config->opts.tls_cert_key, uri, MONGOC_URI_TLSCERTIFICATEKEYFILE),
        .cert_key_password = either(config->opts.tls_cert_key_password, uri,
                                    MONGOC_URI_TLSCERTIFICATEKEYFILEPASSWORD),
        .crl_file = config->opts.tls_crl,
        .allow_invalid_certificates =
            lax || flag(uri, MONGOC_URI_TLSALLOWINVALIDCERTIFICATES),
        .allow_invalid_names = lax || flag(uri, MONGOC_URI_TLSALLOWINVALIDHOSTNAMES),
    };
}

static weir_status make_tls(struct mo_config *config, weir_error *err)
{
    mongoc_uri_t      *uri = config->given;
    struct mo_tls_opts opts = tls_opts(config);

    config->plain_anywhere = mongoc_uri_has_option(uri, MONGOC_URI_TLS); /* then it is false */
    if (!wants_tls(config))
        return uses_x509(uri) ? weir_error_set(err, WEIR_USAGE, "MONGODB-X509 needs tls=true")
                              : WEIR_OK;
    if (uses_x509(uri) && !opts.cert_key_file)
        return weir_error_set(err, WEIR_USAGE,
                              "MONGODB-X509 needs a certificate: tls_cert_key, or "
                              "tlsCertificateKeyFile in the URI");
    if (uses_x509(uri)) /* the library reads the user's name there */
        mongoc_uri_set_option_as_utf8(uri, MONGOC_URI_TLSCERTIFICATEKEYFILE, opts.cert_key_file);
    return load_tls(&opts, &config->tls, err);
}

/* A pool that was cleared may find other certificates in the same files. Those who have one
   begin with it go on with the old ones. */
static weir_status renew_tls(struct mo_config *config, uint64_t generation, weir_error *err)
{
    struct mo_tls_opts     opts = tls_opts(config);
    struct mo_tls_context *fresh;
    weir_error             why;

    if (!config->tls || generation <= config->tls_generation)
        return WEIR_OK;
    weir_status status = load_tls(&opts, &fresh, &why);
    if (status != WEIR_OK)
        return weir_error_set(err, status == WEIR_USAGE ? status : WEIR_CONNECT,
                              "cannot connect to %s: %s", config->target, why.message);
    if (generation > config->tls_generation) { /* else another connection was faster */
        mo_tls_context_free(config->tls);
        config->tls = fresh;
        config->tls_generation = generation;
    } else {
        mo_tls_context_free(fresh);
    }
    return WEIR_OK;
}

/* ---- who logs in ------------------------------------------------------------------- */

static bool scram_of(const char *name, enum mo_mechanism *mechanism)
{
    *mechanism = MO_MECHANISM_ANY;
    if (!name)
        return true;
    *mechanism = strcasecmp(name, "SCRAM-SHA-1") == 0 ? MO_SCRAM_SHA_1 : MO_SCRAM_SHA_256;
    return *mechanism == MO_SCRAM_SHA_1 || strcasecmp(name, "SCRAM-SHA-256") == 0;
}

/* The library would keep what a callback says for as long as a client lives, and asks for it
   before it is needed: so only our own SCRAM takes it. */
static weir_status check_credentials(const struct mo_config *config, bool scram, weir_error *err)
{
    const weir_mongo_opts *opts = &config->opts;

    if (opts->credentials_arg && !opts->credentials)
        return weir_error_set(err, WEIR_USAGE,
                              "credentials_arg is given, and the function that gets it is not: set "
                              "credentials, too");
    if (!opts->credentials)
        return WEIR_OK;
    if (config->user.password)
        return weir_error_set(err, WEIR_USAGE,
                              "both a password, in the URI, and credentials are given: which of "
                              "them is it?");
    if (opts->library_scram)
        return weir_error_set(err, WEIR_USAGE,
                              "credentials are for weir's own SCRAM: leave out library_scram");
    if (!scram)
        return weir_error_set(err, WEIR_USAGE,
                              "credentials are for SCRAM, not for authMechanism=%.40s: leave out "
                              "one of the two", mongoc_uri_get_auth_mechanism(config->given));
    return WEIR_OK;
}

/* A password that is not ASCII must be prepared by SASLprep, and that is the library's. */
static weir_status choose_login(struct mo_config *config, weir_error *err)
{
    const mongoc_uri_t *uri = config->given;
    struct mo_user     *user = &config->user;

    user->name = mongoc_uri_get_username(uri);
    user->password = mongoc_uri_get_password(uri);
    user->source = mongoc_uri_get_auth_source(uri);
    user->api_version = config->opts.api_version;
    user->api_strict = config->opts.api_strict;
    user->api_deprecation_errors = config->opts.api_deprecation_errors;
    bool        scram = scram_of(mongoc_uri_get_auth_mechanism(uri), &user->mechanism);
    weir_status status = check_credentials(config, scram, err);
    if (status != WEIR_OK)
        return status;
    if (user->name && !user->password && !config->opts.credentials && !uses_x509(uri))
        return weir_error_set(err, WEIR_USAGE,
                              "the URI names a user without a password: write user:password@, or "
                              "set credentials");
    config->own_login = config->opts.credentials ||
                        (!config->opts.library_scram && user->name && user->password && scram &&
                         mo_password_is_plain(user->password));
    if (config->own_login && user->name && strlen(user->name) > MO_USER_MAX)
        return weir_error_set(err, WEIR_USAGE,
                              "the user's name has %zu bytes, and SCRAM is done for up to %d: "
                              "create a user with a shorter name", strlen(user->name),
                              MO_USER_MAX);
    return WEIR_OK;
}

/* ---- the URI for clients ----------------------------------------------------------- */

/* A path of a Unix socket must be escaped, and the '%' before the zone of an IPv6 address; letters,
   digits and a few signs need not be. */
static void append_host(bson_string_t *to, const mongoc_host_list_t *host)
{
    bool path = host->family == AF_UNIX;

    for (const char *p = path ? host->host : host->host_and_port; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                     (*p >= '0' && *p <= '9') || *p == '-' || *p == '_' || *p == '.' ||
                     (!path && *p != '%');
        if (plain)
            bson_string_append_c(to, *p);
        else
            bson_string_append_printf(to, "%%%02X", (unsigned char)*p);
    }
}

static mongoc_uri_t *uri_of_hosts(const mongoc_host_list_t *host, bson_error_t *error)
{
    bson_string_t *string = bson_string_new("mongodb://");

    for (; host; host = host->next) {
        append_host(string, host);
        if (host->next)
            bson_string_append_c(string, ',');
    }
    bson_string_append_c(string, '/');
    mongoc_uri_t *uri = mongoc_uri_new_with_error(string->str, error);
    bson_string_free(string, true);
    return uri;
}

static bool left_out(const struct mo_config *config, const char *option)
{
    if (strncmp(option, "srv", 3) == 0)
        return true; /* it is resolved by now */
    return strncmp(option, "tls", 3) == 0 && !uses_x509(config->given);
}

/* Write and read concerns are in the list, too, in forms that cannot be set one by one. */
static void copy_options(const struct mo_config *config, const mongoc_uri_t *from, mongoc_uri_t *to)
{
    bson_iter_t at;

    if (!bson_iter_init(&at, mongoc_uri_get_options(from)))
        return;
    while (bson_iter_next(&at)) {
        const char *name = bson_iter_key(&at);
        if (left_out(config, name))
            continue;
        if (BSON_ITER_HOLDS_INT32(&at) && mongoc_uri_option_is_int32(name))
            mongoc_uri_set_option_as_int32(to, name, bson_iter_int32(&at));
        else if (BSON_ITER_HOLDS_INT64(&at) && mongoc_uri_option_is_int64(name))
            mongoc_uri_set_option_as_int64(to, name, bson_iter_int64(&at));
        else if (BSON_ITER_HOLDS_BOOL(&at) && mongoc_uri_option_is_bool(name))
            mongoc_uri_set_option_as_bool(to, name, bson_iter_bool(&at));
        else if (BSON_ITER_HOLDS_UTF8(&at) && mongoc_uri_option_is_utf8(name))
            mongoc_uri_set_option_as_utf8(to, name, bson_iter_utf8(&at, NULL));
    }
}

static void copy_compressors(const mongoc_uri_t *from, mongoc_uri_t *to)
{
    bson_string_t *names = bson_string_new(NULL);
    bson_iter_t    at;

    if (bson_iter_init(&at, mongoc_uri_get_compressors(from)))
        while (bson_iter_next(&at)) {
            if (names->len)
                bson_string_append_c(names, ',');
            bson_string_append(names, bson_iter_key(&at));
        }
    if (names->len)
        mongoc_uri_set_compressors(to, names->str);
    bson_string_free(names, true);
}

static void copy_login(const mongoc_uri_t *from, mongoc_uri_t *to)
{
    bson_t properties;

    if (mongoc_uri_get_username(from))
        mongoc_uri_set_username(to, mongoc_uri_get_username(from));
    if (mongoc_uri_get_password(from))
        mongoc_uri_set_password(to, mongoc_uri_get_password(from));
    if (mongoc_uri_get_auth_mechanism(from))
        mongoc_uri_set_auth_mechanism(to, mongoc_uri_get_auth_mechanism(from));
    if (mongoc_uri_get_auth_source(from))
        mongoc_uri_set_auth_source(to, mongoc_uri_get_auth_source(from));
    if (mongoc_uri_get_mechanism_properties(from, &properties))
        mongoc_uri_set_mechanism_properties(to, &properties);
}

/* A URI with the same meaning, as far as a client is concerned. `from` has its hosts. */
static weir_status derive(struct mo_config *config, const mongoc_uri_t *from, weir_error *err)
{
    bson_error_t  error;
    mongoc_uri_t *uri = uri_of_hosts(mongoc_uri_get_hosts(from), &error);

    if (!uri)
        return weir_error_set(err, WEIR_CONNECT, "the deployment's hosts are wrong: %s",
                              error.message);
    copy_options(config, from, uri);
    copy_compressors(from, uri);
    if (mongoc_uri_get_database(from))
        mongoc_uri_set_database(uri, mongoc_uri_get_database(from));
    mongoc_uri_set_read_prefs_t(uri, mongoc_uri_get_read_prefs_t(from));
    mongoc_uri_set_read_concern(uri, mongoc_uri_get_read_concern(from));
    mongoc_uri_set_write_concern(uri, mongoc_uri_get_write_concern(from));
    if (!config->own_login)
        copy_login(from, uri);
    config->uri = uri;
    return WEIR_OK;
}

/* ---- mongodb+srv ------------------------------------------------------------------- */

struct lookup {
    mongoc_uri_t    *uri;    /* in */
    mongoc_client_t *client; /* out: one that is never connected, but knows its hosts */
    bson_error_t     error;
};

static void look_up(void *arg)
{
    struct lookup *lookup = arg;

    lookup->client = mongoc_client_new_from_uri_with_error(lookup->uri, &lookup->error);
}

static unsigned count_hosts(const mongoc_uri_t *uri)
{
    unsigned count = 0;

    for (const mongoc_host_list_t *host = mongoc_uri_get_hosts(uri); host; host = host->next)
        count++;
    return count ? count : 1;
}

/* What was found, with the hosts, and the database of users if a TXT record names it. Another
   connection's lookup may be reading `given` on its thread. */
static weir_status take_over(struct mo_config *config, const mongoc_uri_t *found, weir_error *err)
{
    const char *source = mongoc_uri_get_auth_source(found);

    free(config->source_found);
    config->source_found = source ? strdup(source) : NULL;
    if (config->source_found)
        config->user.source = config->source_found;
    else if (source)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a client");
    weir_status status = derive(config, found, err);
    if (status == WEIR_OK)
        config->members = count_hosts(config->uri);
    return status;
}

static weir_status look_up_srv(struct mo_config *config, weir_deadline deadline, weir_error *err)
{
    struct lookup lookup = { .uri = config->given };

    if (config->uri)
        return WEIR_OK;
    weir_status status = weir_offload(look_up, &lookup, deadline);
    if (status != WEIR_OK)
        return weir_error_set(err, WEIR_CONNECT, "%s was not looked up: %s", config->target,
                              weir_status_name(status));
    if (!lookup.client)
        return weir_error_set(err, WEIR_CONNECT, "cannot look up %s: %s", config->target,
                              lookup.error.message);
    if (!config->uri) /* else another connection has done it meanwhile */
        status = take_over(config, mongoc_client_get_uri(lookup.client), err);
    mongoc_client_destroy(lookup.client);
    return status;
}

weir_status mo_config_settle(struct mo_config *config, uint64_t generation,
                             weir_deadline deadline, weir_error *err)
{
    weir_status status = renew_tls(config, generation, err);

    return status == WEIR_OK ? look_up_srv(config, deadline, err) : status;
}

/* ---- the whole --------------------------------------------------------------------- */

static void name_target(struct mo_config *config)
{
    const char               *srv = mongoc_uri_get_srv_hostname(config->given);
    const mongoc_host_list_t *host = mongoc_uri_get_hosts(config->given);
    size_t                    have = 0, room = sizeof config->target;

    if (srv)
        snprintf(config->target, room, "%s", srv);
    for (; host && !srv && have < room; host = host->next)
        have += (size_t)snprintf(config->target + have, room - have, "%s%s", have ? "," : "",
                                 host->family == AF_UNIX ? host->host : host->host_and_port);
}

static weir_status fill_and_check(struct mo_config *config, weir_error *err)
{
    weir_status status = parse(config, err);

    if (status == WEIR_OK)
        status = mo_refuse(config->given, config->opts.uri, err);
    if (status == WEIR_OK)
        status = check_fields(config, err);
    if (status != WEIR_OK)
        return status;
    fill_in(config);
    name_target(config);
    config->members = count_hosts(config->given);
    status = choose_login(config, err);
    if (status == WEIR_OK)
        status = make_tls(config, err);
    if (status != WEIR_OK || mongoc_uri_get_srv_hostname(config->given))
        return status;
    return derive(config, config->given, err);
}

weir_status mo_config_new(const weir_mongo_opts *opts, struct mo_config **out, weir_error *err)
{
    struct mo_config *config;
    weir_status       status;

    *out = NULL;
    if (!opts)
        return weir_error_set(err, WEIR_USAGE, "options are missing: at least a uri is needed");
    config = calloc(1, sizeof *config);
    if (!config)
        return weir_error_set(err, WEIR_NOMEM, "no memory for the pool's settings");
    status = copy_texts(opts, &config->opts)
                 ? fill_and_check(config, err)
                 : weir_error_set(err, WEIR_NOMEM, "no memory for the pool's settings");
    if (status == WEIR_OK)
        *out = config;
    else
        mo_config_free(config);
    return status;
}
