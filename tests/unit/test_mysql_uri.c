/*
 * What a mysql:// URI says, and what is wrong with one. No server: only the parser and the
 * checks that weir_mysql_pool_new() makes of its settings.
 */
#include "mysql_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void assert_text(const char *uri, const char *got, const char *expected)
{
    if (!got != !expected || (got && strcmp(got, expected) != 0))
        fail_msg("%s: got '%s', expected '%s'", uri, got ? got : "(nothing)",
                 expected ? expected : "(nothing)");
}

/* ---- what is in it -------------------------------------------------------------------- */

static const struct {
    const char     *uri;
    weir_mysql_opts expected;
} readable[] = {
    { "mysql://", { 0 } },
    { "mysql://host", { .host = "host" } },
    { "mariadb://host/", { .host = "host" } },
    { "mysql://host:3307", { .host = "host", .port = 3307 } },
    { "mysql://host/db", { .host = "host", .database = "db" } },
    { "mysql:///db", { .database = "db" } },
    { "mysql://u@host", { .host = "host", .user = "u" } },
    { "mysql://u@/db", { .user = "u", .database = "db" } },
    { "mysql://u:p@host:1/db",
      { .host = "host", .port = 1, .user = "u", .password = "p", .database = "db" } },
    { "mysql://u:@host", { .host = "host", .user = "u", .password = "" } },
    { "mysql://u:a%40b%2Fc%3fd%3A%25@host",
      { .host = "host", .user = "u", .password = "a@b/c?d:%" } },
    { "mysql://%C3%BC@h/%C3%A4", { .host = "h", .user = "\xc3\xbc", .database = "\xc3\xa4" } },
    { "mysql://[::1]", { .host = "::1" } },
    { "mysql://[::1]:3310/db", { .host = "::1", .port = 3310, .database = "db" } },
    { "mysql://u:p@[fe80::1%25eth0]:65535",
      { .host = "fe80::1%eth0", .port = 65535, .user = "u", .password = "p" } },
    { "mysql://h?charset=latin1", { .host = "h", .charset = "latin1" } },
    { "mysql://h/?charset=latin1", { .host = "h", .charset = "latin1" } },
    { "mysql://u@localhost/db?socket=/run/x.sock",
      { .host = "localhost", .user = "u", .database = "db", .socket = "/run/x.sock" } },
    { "mysql://u@localhost?socket=%2Frun%2fx%20y",
      { .host = "localhost", .user = "u", .socket = "/run/x y" } },
    { "mysql://h?tls=off", { .host = "h", .tls = WEIR_TLS_OFF } },
    { "mysql://h?tls=encrypt", { .host = "h", .tls = WEIR_TLS_ENCRYPT } },
    { "mysql://h?tls=verify&tls_ca=/ca&tls_cert=/c&tls_key=/k&tls_name=n",
      { .host = "h", .tls = WEIR_TLS_VERIFY, .tls_ca = "/ca", .tls_cert = "/c", .tls_key = "/k",
        .tls_name = "n" } },
    { "mysql://h?local_infile=1&multi_statements=1",
      { .host = "h", .local_infile = true, .multi_statements = true } },
    { "mysql://h?local_infile=0&multi_statements=0", { .host = "h" } },
    { "mysql://h?kill_cut=1", { .host = "h", .kill_cut = true } },
    { "mysql://h?charset=a=b", { .host = "h", .charset = "a=b" } },
    { "mysql://h?", { .host = "h" } },
};

static void compare(const char *uri, const weir_mysql_opts *got, const weir_mysql_opts *expected)
{
    assert_text(uri, got->host, expected->host);
    assert_text(uri, got->socket, expected->socket);
    assert_text(uri, got->user, expected->user);
    assert_text(uri, got->password, expected->password);
    assert_text(uri, got->database, expected->database);
    assert_text(uri, got->charset, expected->charset);
    assert_text(uri, got->tls_ca, expected->tls_ca);
    assert_text(uri, got->tls_cert, expected->tls_cert);
    assert_text(uri, got->tls_key, expected->tls_key);
    assert_text(uri, got->tls_name, expected->tls_name);
    assert_int_equal(got->port, expected->port);
    assert_int_equal(got->tls, expected->tls);
    assert_int_equal(got->local_infile, expected->local_infile);
    assert_int_equal(got->multi_statements, expected->multi_statements);
    assert_int_equal(got->kill_cut, expected->kill_cut);
}

static void a_uri_says_what_it_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(readable); i++) {
        weir_mysql_opts got = { 0 };
        weir_error      err;

        if (my_uri_parse(readable[i].uri, &got, &err) != WEIR_OK)
            fail_msg("%s: %s", readable[i].uri, err.message);
        compare(readable[i].uri, &got, &readable[i].expected);
        my_opts_free(&got);
    }
}

static void a_field_that_is_set_wins_over_the_uri(void **state)
{
    (void)state;
    weir_mysql_opts got = { .host = strdup("mine"), .password = strdup("secret"), .port = 7,
                            .tls = WEIR_TLS_OFF, .multi_statements = true };
    weir_mysql_opts expected = { .host = "mine", .password = "secret", .port = 7, .user = "u",
                                 .tls = WEIR_TLS_OFF, .multi_statements = true };
    const char     *uri = "mysql://u:p@h:9?tls=verify&multi_statements=0";

    assert_int_equal(my_uri_parse(uri, &got, NULL), WEIR_OK);
    compare(uri, &got, &expected);
    my_opts_free(&got);
}

/* ---- what is wrong with it ------------------------------------------------------------ */

static const struct {
    const char *uri;
    const char *complaint; /* a part of it */
} unreadable[] = {
    { "", "must begin with mysql://" },
    { "host", "must begin with mysql://" },
    { "postgres://u:hush@h", "must begin with mysql://" },
    { "MYSQL://h", "must begin with mysql://" },
    { "mysql://u:hu/sh@h", "%40, %2F, %3F and %23" },
    { "mysql://u:hu?sh@h", "%40, %2F, %3F and %23" },
    { "mysql://u:hu#sh@h", "%40, %2F, %3F and %23" },
    { "mysql://u:hu@sh@h", "%40, %2F, %3F and %23" },
    { "mysql://u:hu:sh@h", "%3A" },
    { "mysql://:hush@h", "user is empty" },
    { "mysql://u:hush%@h", "password has a '%'" },
    { "mysql://u:hush%4@h", "password has a '%'" },
    { "mysql://u:hush%zz@h", "password has a '%'" },
    { "mysql://u:hush%00@h", "password has a '%'" },
    { "mysql://h%2/db", "host has a '%'" },
    { "mysql://h/d%b", "database has a '%'" },
    { "mysql://h:0", "port must be" },
    { "mysql://h:65536", "port must be" },
    { "mysql://h:99999999999999999999", "port must be" },
    { "mysql://h:", "port must be" },
    { "mysql://h:x", "port must be" },
    { "mysql://h: 1", "port must be" },
    { "mysql://[::1]:", "port must be" },
    { "mysql://::1", "brackets" },
    { "mysql://[::1", "'['" },
    { "mysql://[]", "'['" },
    { "mysql://[::1]x", "']'" },
    { "mysql://h/a/b", "%2F" },
    { "mysql://h/db#x", "'#'" },
    { "mysql://h?charset", "charset is empty" },
    { "mysql://h?charset=", "charset is empty" },
    { "mysql://h?tls=yes", "off, encrypt or verify" },
    { "mysql://h?tls", "off, encrypt or verify" },
    { "mysql://h?local_infile=yes", "local_infile must be 0 or 1" },
    { "mysql://h?multi_statements=", "multi_statements must be 0 or 1" },
    { "mysql://h?timeout=5", "unknown option 'timeout'" },
    { "mysql://h?Charset=x", "unknown option 'Charset'" },
    { "mysql://h?hush", "not option=value" },
    { "mysql://h?&", "not option=value" },
};

static void a_wrong_uri_is_refused_with_the_reason_and_without_its_password(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(unreadable); i++) {
        weir_mysql_opts got = { 0 };
        weir_error      err = { 0 };
        weir_status     status = my_uri_parse(unreadable[i].uri, &got, &err);

        if (status != WEIR_USAGE || !strstr(err.message, unreadable[i].complaint))
            fail_msg("%s: %s: '%s', expected '%s'", unreadable[i].uri, weir_status_name(status),
                     err.message, unreadable[i].complaint);
        assert_null(strstr(err.message, "hush"));
        my_opts_free(&got);
    }
}

/* Never asked: only settings are looked at. */
static weir_status nobody(weir_credentials *credentials, void *arg, weir_error *err)
{
    (void)credentials;
    (void)arg;
    return weir_error_set(err, WEIR_FAILED, "not to be asked");
}

/* ---- settings as a whole -------------------------------------------------------------- */

static const struct {
    weir_mysql_opts opts;
    const char     *complaint; /* NULL: fine */
    weir_tls        tls;
    const char     *target;
} settings[] = {
    { { .uri = "mysql://u@127.0.0.1" }, NULL, WEIR_TLS_OFF, "127.0.0.1:3306" },
    { { .uri = "mysql://u@[::1]:1" }, NULL, WEIR_TLS_OFF, "[::1]:1" },
    { { .uri = "mysql://u@localhost" }, NULL, WEIR_TLS_OFF, "the default socket" },
    { { .uri = "mysql://u@localhost:3307" }, NULL, WEIR_TLS_OFF,
      "the default socket (a port needs 127.0.0.1, not localhost)" },
    { { .uri = "mysql://u@localhost:3307?socket=/s" }, NULL, WEIR_TLS_OFF, "/s" },
    { { .uri = "mysql://u@localhost?socket=/s" }, NULL, WEIR_TLS_OFF, "/s" },
    { { .user = "u", .host = "", .socket = "/s" }, NULL, WEIR_TLS_OFF, "/s" },
    { { .uri = "mysql://u@db.example?tls=off" }, NULL, WEIR_TLS_OFF, "db.example:3306" },
    { { .uri = "mysql://u@db.example?tls=encrypt" }, NULL, WEIR_TLS_ENCRYPT, "db.example:3306" },
    { { .uri = "mysql://u@db.example?tls_ca=/dev/null" }, NULL, WEIR_TLS_VERIFY,
      "db.example:3306" },
    { { .uri = "mysql://u@127.0.0.1?tls_ca=/dev/null" }, NULL, WEIR_TLS_VERIFY, "127.0.0.1:3306" },
    { { .uri = "mysql://u@db.example" }, "tls_ca is missing", 0, NULL },
    { { .uri = "mysql://u@127.db.example" }, "tls_ca is missing", 0, NULL }, /* a name, elsewhere */
    { { .uri = "mysql://u@db.example?tls_ca=/no/such/file" }, "tls_ca: cannot read", 0, NULL },
    { { .uri = "mysql://u@localhost?tls_ca=/dev/null" }, "tls_name is missing", 0, NULL },
    { { .uri = "mysql://u@h?tls=encrypt&tls_cert=/dev/null" }, "tls_cert and tls_key", 0, NULL },
    { { .uri = "mysql://u@127.0.0.1?tls_key=/dev/null" }, "tls_ca is missing", 0, NULL },
    { { .uri = "mysql://127.0.0.1" }, "user is missing", 0, NULL },
    { { .uri = "mysql://u@h?tls=off&socket=/s" }, "both a host and a socket", 0, NULL },
    { { .uri = "mysql://u@a%2Cb?tls=off" }, "one name or address", 0, NULL },
    { { .uri = "mysql://u@127.0.0.1?charset=utf8%27" }, "charset must be", 0, NULL },
    { { .uri = "mysql://u@127.0.0.1?charset=klingon" }, "knows no 'klingon'", 0, NULL },
    { { .uri = "mysql://u@127.0.0.1?charset=utf8mb4_general_ci" }, "not of a collation", 0, NULL },
    { { .user = "u", .host = "127.0.0.1", .port = 70000 }, "port must be", 0, NULL },
    { { .user = "u", .host = "127.0.0.1", .tls = (weir_tls)9 }, "WEIR_TLS_", 0, NULL },
    { { .uri = "mysql://127.0.0.1", .credentials = nobody }, NULL, WEIR_TLS_OFF,
      "127.0.0.1:3306" },
    { { .uri = "mysql://u:p@127.0.0.1", .credentials = nobody }, "both a password and credentials",
      0, NULL },
    { { .uri = "mysql://u:@127.0.0.1", .credentials = nobody }, "both a password and credentials",
      0, NULL },
    { { .uri = "mysql://u@127.0.0.1", .credentials_arg = "x" }, "credentials_arg is given", 0,
      NULL },
};

static void settings_are_checked_before_anybody_needs_a_connection(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(settings); i++) {
        struct my_config *config;
        weir_error        err = { 0 };
        weir_status       status = my_config_new(&settings[i].opts, &config, &err);

        if (status != (settings[i].complaint ? WEIR_USAGE : WEIR_OK) ||
            (settings[i].complaint && !strstr(err.message, settings[i].complaint)))
            fail_msg("row %zu: %s '%s'", i, weir_status_name(status), err.message);
        if (status != WEIR_OK) {
            assert_null(config);
            continue;
        }
        assert_int_equal(config->tls, settings[i].tls);
        assert_text("target", config->target, settings[i].target);
        assert_text("charset", config->opts.charset, "utf8mb4");
        my_config_free(config);
    }
}

static void a_socket_path_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    char              path[200];
    struct my_config *config;
    weir_error        err;

    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    weir_mysql_opts   opts = { .user = "u", .socket = path };
    assert_int_equal(my_config_new(&opts, &config, &err), WEIR_USAGE);
    assert_non_null(strstr(err.message, "socket is longer"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_uri_says_what_it_says),
        cmocka_unit_test(a_field_that_is_set_wins_over_the_uri),
        cmocka_unit_test(a_wrong_uri_is_refused_with_the_reason_and_without_its_password),
        cmocka_unit_test(settings_are_checked_before_anybody_needs_a_connection),
        cmocka_unit_test(a_socket_path_that_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
