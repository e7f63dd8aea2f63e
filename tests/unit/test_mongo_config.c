/*
 * Settings of a MongoDB pool: what is refused, by which name, and what clients are made from.
 * No server, no hub.
 */
#define _GNU_SOURCE
#include "mongo_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static struct mo_config *accepted_with(weir_mongo_opts opts, const char *uri)
{
    struct mo_config *config;
    weir_error        err = { 0 };

    opts.uri = uri;
    if (mo_config_new(&opts, &config, &err) != WEIR_OK)
        fail_msg("%s: %s", uri, err.message);
    return config;
}

static struct mo_config *accepted(const char *uri)
{
    return accepted_with((weir_mongo_opts){ 0 }, uri);
}

static void refused_with(weir_mongo_opts opts, const char *uri, const char *words)
{
    struct mo_config *config;
    weir_error        err = { 0 };

    opts.uri = uri;
    assert_int_equal(mo_config_new(&opts, &config, &err), WEIR_USAGE);
    assert_null(config);
    if (!strstr(err.message, words))
        fail_msg("%s: \"%s\" does not say \"%s\"", uri, err.message, words);
    if (strstr(err.message, "s3cret"))
        fail_msg("a secret shows in \"%s\"", err.message);
}

static void refused(const char *uri, const char *words)
{
    refused_with((weir_mongo_opts){ 0 }, uri, words);
}

/* ---- refused ----------------------------------------------------------------------- */

static void what_would_block_is_refused_by_name(void **state)
{
    (void)state;
    refused("mongodb://u@h/?tls=false&authMechanism=GSSAPI", "GSSAPI");
    refused("mongodb://h/?tls=false&authMechanism=MONGODB-AWS", "MONGODB-AWS");
    refused("mongodb://h/?tls=false&loadBalanced=true", "loadBalanced");
    refused("mongodb://h/?tls=false&socketTimeoutMS=-1", "sockettimeoutms must not be negative");
    refused("mongodb://h/?tls=false&connectTimeoutMS=-5", "connecttimeoutms");
    refused("mongodb://h/?tls=false&serverSelectionTryOnce=false", "serverSelectionTryOnce");
    refused("mongodb://u:p@127.0.0.1/?authMechanism=MONGODB-OIDC", "MONGODB-OIDC is not known");
}

/* The library would say a word about it in its log, and go on without. */
static void an_option_of_tls_that_cannot_be_honoured_is_refused_by_name(void **state)
{
    (void)state;
    refused("mongodb://h/?tls=true&tlsCRLFile=/crl.pem", "set tls_crl");
    refused("mongodb://h/?tlsCertificateFile=/ca.pem&w=1", "tlsCertificateFile is not known");
    refused("mongodb://h/?w=1&ssl_ca_certs=/ca.pem", "ssl_ca_certs is not known");
    refused("mongodb://h/?tlsDisableOCSPEndpointCheck=false", "tlsdisableocspendpointcheck=false");
    refused("mongodb://h/?tlsDisableCertificateRevocationCheck=false",
            "tlsdisablecertificaterevocationcheck=false");
    mo_config_free(accepted("mongodb://h/?tlsDisableOCSPEndpointCheck=true"));
    mo_config_free(accepted("mongodb://h/?tlsDisableCertificateRevocationCheck=true"));
    mo_config_free(accepted("mongodb://h/?SSL=true&sslAllowInvalidHostnames=true"));
    refused("mongodb://h/?ssl=true&sslCertificateAuthorityFile=/nowhere/ca.pem", "tlsCAFile");
}

static void numbers_that_mean_nothing_are_refused_by_name(void **state)
{
    (void)state;
    refused("mongodb://127.0.0.1/?maxPoolSize=-1", "maxPoolSize must be 1 or more");
    refused("mongodb://127.0.0.1/?maxPoolSize=0", "maxPoolSize must be 1 or more");
    refused("mongodb://127.0.0.1/?minPoolSize=-1", "minpoolsize must not be negative");
    refused("mongodb://127.0.0.1/?maxIdleTimeMS=-7", "maxidletimems must not be negative");
    refused("mongodb://127.0.0.1/?waitQueueTimeoutMS=-1", "waitqueuetimeoutms");
}

static void a_path_that_is_no_socket_is_refused(void **state)
{
    char uri[200] = "mongodb://%2Ftmp%2F";

    (void)state;
    refused("mongodb://%2Ftmp%2Fmongodb/", "must end in .sock: /tmp/mongodb");
    memset(uri + strlen(uri), 'a', 120);
    strcat(uri, ".sock/");
    refused(uri, "longer than 107 bytes");
}

static void what_is_missing_or_malformed_is_told(void **state)
{
    weir_error err = { 0 };

    (void)state;
    assert_int_equal(weir_mongo_pool_new(&(weir_mongo_opts){ .uri = "mongodb://127.0.0.1/" }, NULL,
                                         &err),
                     WEIR_USAGE);
    assert_non_null(strstr(err.message, "out is missing"));
    refused(NULL, "uri is missing");
    refused("mysql://h/", "must begin with mongodb://");
    refused("mongodb://", "the URI is wrong");
    refused("mongodb://h/?tls=true&tlsCAFile=/nowhere/ca.pem", "tlsCAFile");
    refused("mongodb://u@127.0.0.1/?authMechanism=MONGODB-X509", "tls=true");
    refused("mongodb://h/?authMechanism=MONGODB-X509", "needs a certificate");
    refused("mongodb://u@127.0.0.1/", "a user without a password");
    refused("mongodb://u@127.0.0.1/?authMechanism=PLAIN", "a user without a password");
    refused_with((weir_mongo_opts){ .direct = true }, "mongodb://127.0.0.1,127.0.0.2/",
                 "names one server");
    refused_with((weir_mongo_opts){ .api_version = "7" }, "mongodb://127.0.0.1/", "api_version");
    refused_with((weir_mongo_opts){ .api_strict = true }, "mongodb://127.0.0.1/", "api_version");
    refused_with((weir_mongo_opts){ .api_deprecation_errors = true }, "mongodb://127.0.0.1/",
                 "api_version");
}

/* Never asked: only settings are looked at. */
static weir_status nobody(weir_credentials *credentials, void *arg, weir_error *err)
{
    (void)credentials;
    (void)arg;
    return weir_error_set(err, WEIR_FAILED, "not to be asked");
}

static void credentials_go_with_scram_alone_and_with_no_other_password(void **state)
{
    const weir_mongo_opts asked = { .credentials = nobody };

    (void)state;
    refused_with(asked, "mongodb://u:p@127.0.0.1/", "both a password");
    refused_with(asked, "mongodb://u@127.0.0.1/?authMechanism=PLAIN", "authMechanism=PLAIN");
    refused_with((weir_mongo_opts){ .credentials = nobody, .library_scram = true },
                 "mongodb://u@127.0.0.1/", "library_scram");
    refused_with((weir_mongo_opts){ .credentials_arg = "x" }, "mongodb://u:p@127.0.0.1/",
                 "credentials_arg is given");

    struct mo_config *config =
        accepted_with(asked, "mongodb://u@127.0.0.1/?authMechanism=SCRAM-SHA-1&authSource=people");
    assert_true(config->own_login);
    assert_string_equal(config->user.name, "u");
    assert_string_equal(config->user.source, "people");
    assert_int_equal(config->user.mechanism, MO_SCRAM_SHA_1);
    assert_null(mongoc_uri_get_username(config->uri)); /* or the library would log in, too */
    mo_config_free(config);
}

static void a_password_shows_in_no_message(void **state)
{
    (void)state;
    refused("mongodb://u:s3cret@x@h/", "%40");
    refused("mongodb://u:s3cret/x@h/", "%2F");
    refused("mongodb://u:s3cret?x=1@h/", "%3F");
    refused("mongodb://u:s3cret:x@h/", "%3A");
    refused("mongodb://u:s3cret%zz@h/", "user or password is malformed");
    refused("mongodb://u:s3cret@h:99999/", "the URI is wrong");
}

/* ---- accepted ---------------------------------------------------------------------- */

static void defaults_are_filled_in(void **state)
{
    struct mo_config *config = accepted("mongodb://127.0.0.1/");

    (void)state;
    assert_false(mongoc_uri_get_option_as_bool(config->uri, MONGOC_URI_RETRYREADS, true));
    assert_false(mongoc_uri_get_option_as_bool(config->uri, MONGOC_URI_RETRYWRITES, true));
    assert_int_equal(mongoc_uri_get_option_as_int32(config->uri, MONGOC_URI_CONNECTTIMEOUTMS, 0),
                     2000);
    assert_int_equal(mongoc_uri_get_option_as_int32(config->uri, MONGOC_URI_SOCKETTIMEOUTMS, 0),
                     300000);
    assert_string_equal(config->target, "127.0.0.1:27017");
    assert_int_equal(config->members, 1);
    assert_null(config->tls);
    mo_config_free(config);
}

static void the_pools_options_and_the_uris_meet(void **state)
{
    weir_mongo_opts opts = { .pool = { .query_timeout_ms = 700, .connect_timeout_ms = 900 } };
    struct mo_config *config = accepted_with(
        opts, "mongodb://127.0.0.1/?maxPoolSize=7&minPoolSize=2&maxIdleTimeMS=5000&"
              "waitQueueTimeoutMS=250&retryReads=true");

    (void)state;
    assert_int_equal(config->opts.pool.max_size, 7);
    assert_int_equal(config->opts.pool.min_size, 2);
    assert_int_equal(config->opts.pool.idle_timeout_ms, 5000);
    assert_int_equal(config->opts.pool.acquire_timeout_ms, 250);
    assert_int_equal(config->connect_ms, 900);
    assert_int_equal(mongoc_uri_get_option_as_int32(config->uri, MONGOC_URI_SOCKETTIMEOUTMS, 0),
                     700);
    assert_true(mongoc_uri_get_option_as_bool(config->uri, MONGOC_URI_RETRYREADS, false));
    mo_config_free(config);
}

static void tls_is_on_for_other_machines(void **state)
{
    static const char *const plain[] = { "mongodb://localhost/", "mongodb://127.1.2.3,[::1]/",
                                         "mongodb://%2Ftmp%2Fmongodb.sock/",
                                         "mongodb://db.example.com/?tls=false" };
    static const char *const secret[] = { "mongodb://db.example.com/",
                                          "mongodb://127.example.com/",
                                          "mongodb://127.0.0.1.example.com/",
                                          "mongodb://localhost,db.example.com/",
                                          "mongodb://localhost/?tls=true",
                                          "mongodb://localhost/?tlsInsecure=true",
                                          "mongodb+srv://db.example.com/" };

    (void)state;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        struct mo_config *config = accepted(plain[i]);
        assert_null(config->tls);
        mo_config_free(config);
    }
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) {
        struct mo_config *config = accepted(secret[i]);
        assert_non_null(config->tls);
        mo_config_free(config);
    }
}

/* ---- what clients are made from ---------------------------------------------------- */

static void a_client_knows_no_user_where_our_streams_log_in(void **state)
{
    struct mo_config *config = accepted("mongodb://u:s3cret@127.0.0.1/db?authSource=other");

    (void)state;
    assert_true(config->own_login);
    assert_string_equal(config->user.name, "u");
    assert_string_equal(config->user.password, "s3cret");
    assert_string_equal(config->user.source, "other");
    assert_null(mongoc_uri_get_username(config->uri));
    assert_null(mongoc_uri_get_password(config->uri));
    assert_null(strstr(mongoc_uri_get_string(config->uri), "s3cret"));
    mo_config_free(config);
}

static void other_ways_to_log_in_are_left_to_the_library(void **state)
{
    static const char *const uris[] = {
        "mongodb://u:p@127.0.0.1/?authMechanism=PLAIN&authSource=$external",
        "mongodb://u:p%C3%A9ncil@127.0.0.1/?authSource=other", /* needs SASLprep */
    };

    (void)state;
    for (size_t i = 0; i < sizeof uris / sizeof *uris; i++) {
        struct mo_config *config = accepted(uris[i]);
        assert_false(config->own_login);
        assert_string_equal(mongoc_uri_get_username(config->uri), "u");
        assert_string_equal(mongoc_uri_get_password(config->uri),
                            mongoc_uri_get_password(config->given));
        assert_string_equal(mongoc_uri_get_auth_source(config->uri),
                            mongoc_uri_get_auth_source(config->given));
        mo_config_free(config);
    }
    struct mo_config *config =
        accepted_with((weir_mongo_opts){ .library_scram = true }, "mongodb://u:p@127.0.0.1/");
    assert_false(config->own_login);
    mo_config_free(config);
}

static void everything_else_in_the_uri_arrives(void **state)
{
    struct mo_config *config = accepted(
        "mongodb://127.0.0.1:1,[::1]:2/base?replicaSet=r&appName=me&w=majority&journal=true&"
        "wTimeoutMS=123&readConcernLevel=local&readPreference=secondary&"
        "readPreferenceTags=dc:ny&maxStalenessSeconds=120&compressors=zlib&"
        "zlibCompressionLevel=3&heartbeatFrequencyMS=700&localThresholdMS=9");
    const mongoc_uri_t           *uri = config->uri;
    const mongoc_write_concern_t *writes = mongoc_uri_get_write_concern(uri);
    const mongoc_read_prefs_t    *prefs = mongoc_uri_get_read_prefs_t(uri);
    const mongoc_host_list_t     *hosts = mongoc_uri_get_hosts(uri);

    (void)state;
    assert_string_equal(hosts->host_and_port, "127.0.0.1:1");
    assert_string_equal(hosts->next->host_and_port, "[::1]:2");
    assert_null(hosts->next->next);
    assert_string_equal(mongoc_uri_get_database(uri), "base");
    assert_string_equal(mongoc_uri_get_replica_set(uri), "r");
    assert_string_equal(mongoc_uri_get_appname(uri), "me");
    assert_int_equal(mongoc_write_concern_get_wmajority(writes), true);
    assert_int_equal(mongoc_write_concern_get_journal(writes), true);
    assert_int_equal(mongoc_write_concern_get_wtimeout_int64(writes), 123);
    assert_string_equal(mongoc_read_concern_get_level(mongoc_uri_get_read_concern(uri)), "local");
    assert_int_equal(mongoc_read_prefs_get_mode(prefs), MONGOC_READ_SECONDARY);
    assert_int_equal(mongoc_read_prefs_get_max_staleness_seconds(prefs), 120);
    assert_int_equal(bson_count_keys(mongoc_read_prefs_get_tags(prefs)), 1);
    assert_true(bson_has_field(mongoc_uri_get_compressors(uri), "zlib"));
    assert_int_equal(mongoc_uri_get_option_as_int32(uri, MONGOC_URI_ZLIBCOMPRESSIONLEVEL, 0), 3);
    assert_int_equal(mongoc_uri_get_option_as_int32(uri, MONGOC_URI_HEARTBEATFREQUENCYMS, 0), 700);
    assert_int_equal(mongoc_uri_get_option_as_int32(uri, MONGOC_URI_LOCALTHRESHOLDMS, 0), 9);
    assert_int_equal(config->members, 2);
    mo_config_free(config);
}

static void a_unix_socket_stays_one(void **state)
{
    struct mo_config *config = accepted("mongodb://%2Ftmp%2Fa%20b-c.sock/");

    (void)state;
    assert_int_equal(mongoc_uri_get_hosts(config->uri)->family, AF_UNIX);
    assert_string_equal(mongoc_uri_get_hosts(config->uri)->host, "/tmp/a b-c.sock");
    assert_string_equal(config->target, "/tmp/a b-c.sock");
    mo_config_free(config);
}

static void the_zone_of_an_address_arrives(void **state)
{
    struct mo_config *config = accepted("mongodb://[fe80::1%25lo]:7/?tls=false");

    (void)state;
    assert_string_equal(mongoc_uri_get_hosts(config->uri)->host, "fe80::1%lo");
    mo_config_free(config);
}

static void a_srv_name_is_looked_up_later(void **state)
{
    struct mo_config *config = accepted("mongodb+srv://u:p@db.example.com/");

    (void)state;
    assert_null(config->uri);
    assert_string_equal(config->target, "db.example.com");
    assert_int_equal(config->members, 1);
    mo_config_free(config);
}

/* ---- the library's log -------------------------------------------------------------- */

static mongoc_stream_t *no_stream(const mongoc_uri_t *uri, const mongoc_host_list_t *host,
                                  void *data, bson_error_t *error)
{
    (void)uri;
    (void)host;
    (void)data;
    (void)error;
    return NULL;
}

/* What stands on standard output after a client was made and one other thing was said. */
static void log_of_a_client(char *out, size_t size)
{
    int              file = memfd_create("log", MFD_CLOEXEC), before = dup(STDOUT_FILENO);
    mongoc_client_t *client = mongoc_client_new("mongodb://127.0.0.1/");

    assert_true(file >= 0 && before >= 0 && client);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    mongoc_client_set_stream_initiator(client, no_stream, NULL);
    mongoc_log(MONGOC_LOG_LEVEL_DEBUG, "test", "something else");
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    ssize_t n = pread(file, out, size - 1, 0);
    out[n > 0 ? n : 0] = '\0';
    close(file);
    close(before);
    mongoc_client_destroy(client);
}

static void a_line_for_each_client_is_left_out_of_the_librarys_log(void **state)
{
    char log[600];

    (void)state;
    mongoc_log_set_handler(mongoc_log_default_handler, NULL);
    log_of_a_client(log, sizeof log);
    assert_non_null(strstr(log, "custom stream initiator")); /* else there is nothing to do */
    mo_quieten_log();
    log_of_a_client(log, sizeof log);
    assert_null(strstr(log, "custom stream initiator"));
    assert_non_null(strstr(log, "something else"));
}

static unsigned heard;

static void hear(mongoc_log_level_t level, const char *domain, const char *message, void *data)
{
    (void)level;
    (void)domain;
    (void)message;
    (void)data;
    heard++;
}

static void a_log_handler_of_the_applications_stays(void **state)
{
    char log[600];

    (void)state;
    mongoc_log_set_handler(hear, NULL);
    mo_quieten_log();
    log_of_a_client(log, sizeof log);
    assert_int_equal(heard, 2);
    assert_string_equal(log, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_would_block_is_refused_by_name),
        cmocka_unit_test(an_option_of_tls_that_cannot_be_honoured_is_refused_by_name),
        cmocka_unit_test(numbers_that_mean_nothing_are_refused_by_name),
        cmocka_unit_test(a_path_that_is_no_socket_is_refused),
        cmocka_unit_test(what_is_missing_or_malformed_is_told),
        cmocka_unit_test(credentials_go_with_scram_alone_and_with_no_other_password),
        cmocka_unit_test(a_password_shows_in_no_message),
        cmocka_unit_test(defaults_are_filled_in),
        cmocka_unit_test(the_pools_options_and_the_uris_meet),
        cmocka_unit_test(tls_is_on_for_other_machines),
        cmocka_unit_test(a_client_knows_no_user_where_our_streams_log_in),
        cmocka_unit_test(other_ways_to_log_in_are_left_to_the_library),
        cmocka_unit_test(everything_else_in_the_uri_arrives),
        cmocka_unit_test(a_unix_socket_stays_one),
        cmocka_unit_test(the_zone_of_an_address_arrives),
        cmocka_unit_test(a_srv_name_is_looked_up_later),
        cmocka_unit_test(a_line_for_each_client_is_left_out_of_the_librarys_log),
        cmocka_unit_test(a_log_handler_of_the_applications_stays),
    };

    mo_library_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
