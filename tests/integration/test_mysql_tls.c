/*
 * test_mysql_tls.c - what is special about TLS: who is on the other side, handshakes that
 * take long or never end, and OpenSSL's per-thread memory of other people's errors.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <relay.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CONNECT_MS = 500 };

/* One attempt to lease from a pool with these options, and what came of it. */
struct attempt {
    weir_mysql_opts opts;
    int64_t         patience_ms; /* the caller's own; 0: as long as the pool's */
    weir_status     created, status;
    weir_error      err;
    double          took_ms;
    bool            encrypted;
    long            answer;
};

static weir_status try_it(void *arg)
{
    struct attempt *a = arg;
    weir_autoptr(weir_pool) pool = NULL;

    a->status = WEIR_FAILED;
    a->created = weir_mysql_pool_new(&a->opts, &pool, &a->err);
    if (a->created != WEIR_OK)
        return WEIR_OK;

    weir_lease *lease = NULL;
    double      start = lab_now_ms();
    a->status = weir_acquire(pool, a->patience_ms ? weir_in_ms(a->patience_ms) : WEIR_FOREVER,
                             &lease, &a->err);
    a->took_ms = lab_now_ms() - start;
    if (a->status == WEIR_OK) {
        WEIR_DEADLINE(weir_in_ms(2000));
        a->encrypted = mysql_get_ssl_cipher(weir_mysql(lease)) != NULL;
        a->answer = sql_number(weir_mysql(lease), "SELECT 17");
        lab_equal(weir_release(lease), WEIR_OK);
    }
    lab_pool_end(&pool);
    return WEIR_OK;
}

/* ---- who is there ------------------------------------------------------------------- */

static void expect_welcome(struct attempt *a, bool encrypted)
{
    lab_run(try_it, a);
    if (a->created != WEIR_OK || a->status != WEIR_OK)
        print_error("%s\n", a->err.message);
    assert_int_equal(a->created, WEIR_OK);
    assert_int_equal(a->status, WEIR_OK);
    assert_int_equal(a->answer, 17);
    assert_int_equal(a->encrypted, encrypted);
}

static void expect_refusal(struct attempt *a, const char *word)
{
    lab_run(try_it, a);
    assert_int_equal(a->created, WEIR_OK);
    lab_tell("%s: %s (%.0f ms)", weir_status_name(a->status), a->err.message, a->took_ms);
    assert_int_equal(a->status, WEIR_CONNECT);
    assert_true(lab_in_time(a->took_ms, 0, 1000));
    if (!strcasestr(a->err.message, word))
        print_error("\"%s\" does not say \"%s\"\n", a->err.message, word);
    assert_non_null(strcasestr(a->err.message, word));
}

static void the_right_name_is_welcome(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    expect_welcome(&a, true);
}

static void an_address_is_welcome_when_the_name_is_given_apart(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.host = private_server()->host;
    a.opts.tls_name = private_server()->tls_name;
    expect_welcome(&a, true);
}

static void a_wrong_name_is_refused(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.host = "other.weir.test";
    expect_refusal(&a, "certificate");
}

static void a_wrong_name_given_apart_is_refused(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.tls_name = "other.weir.test";
    expect_refusal(&a, "certificate");
}

static void an_address_that_the_certificate_does_not_name_is_refused(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.host = private_server()->host;
    expect_refusal(&a, "certificate");
}

/* An authority that has signed nothing but itself. */
static bool write_stranger(const char *path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509     *cert = X509_new();
    FILE     *f = fopen(path, "we");
    bool      ok = key && cert && f;

    if (ok) {
        X509_NAME *name = X509_get_subject_name(cert);
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"stranger",
                                   -1, -1, 0);
        ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
        X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
        X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
        X509_set_issuer_name(cert, name);
        X509_set_pubkey(cert, key);
        ok = X509_sign(cert, key, EVP_sha256()) && PEM_write_X509(f, cert);
    }
    if (f)
        fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
    return ok;
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    char           path[300];

    snprintf(path, sizeof path, "%s/stranger.%d.pem", private_server()->dir, getpid());
    assert_true(write_stranger(path));
    a.opts.tls_ca = path;
    expect_refusal(&a, "certificate");
    unlink(path);
}

static void encryption_without_verification_takes_any_name(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.tls = WEIR_TLS_ENCRYPT;
    a.opts.tls_ca = NULL;
    a.opts.host = "other.weir.test";
    expect_welcome(&a, true);
}

static void a_server_without_tls_is_refused_in_clear_words(void **state)
{
    struct relay *relay =
        relay_start(private_server()->port, &(struct relay_faults){ .strip_tls = true });
    struct attempt a = { .opts = lab_opts(*state) };

    assert_non_null(relay);
    a.opts.port = relay_port(relay);
    lab_run(try_it, &a);
    relay_stop(relay);
    lab_tell("%s: %s", weir_status_name(a.status), a.err.message);
    assert_int_equal(a.status, WEIR_CONNECT);
    assert_true(strstr(a.err.message, "TLS") || strstr(a.err.message, "SSL"));
}

/* ---- defaults ----------------------------------------------------------------------- */

static void plain_text_is_the_default_for_loopback_and_unix_socket(void **state)
{
    struct attempt a = { .opts = lab_opts(&lab_tcp) };
    (void)state;
    expect_welcome(&a, false);
    a = (struct attempt){ .opts = lab_opts(&lab_unix) };
    expect_welcome(&a, false);
}

static void another_host_without_an_authority_is_refused_at_creation(void **state)
{
    static const char *const hosts[] = { "192.0.2.1", "db.weir.test", "2001:db8::1" };
    (void)state;
    for (unsigned i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct attempt a = { .opts = { .host = hosts[i], .user = "nobody" } };
        lab_run(try_it, &a);
        lab_tell("%s", a.err.message);
        assert_int_equal(a.created, WEIR_USAGE);
        assert_non_null(strstr(a.err.message, "tls_ca"));
        assert_true(strstr(a.err.message, "WEIR_TLS_OFF") || strstr(a.err.message, "tls=off"));
    }
}

static void an_authority_file_that_is_not_there_is_named(void **state)
{
    struct attempt a = { .opts = lab_opts(*state) };
    a.opts.tls_ca = "/nonexistent/authority.pem";
    lab_run(try_it, &a);
    assert_true(a.created != WEIR_OK || a.status != WEIR_OK);
    lab_tell("%s", a.err.message);
    assert_non_null(strstr(a.err.message, "/nonexistent/authority.pem"));
}

/* ---- files that are no use ---------------------------------------------------------- */

static void write_garbage(const char *path)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    fputs("-----BEGIN CERTIFICATE-----\nthis is none\n-----END CERTIFICATE-----\n", f);
    assert_int_equal(fclose(f), 0);
}

/* One that only a passphrase opens makes OpenSSL ask for it at the terminal. */
static void write_key(const char *path, bool locked)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE     *f = fopen(path, "we");

    assert_true(key && f);
    assert_int_equal(PEM_write_PrivateKey(f, key, locked ? EVP_aes_128_cbc() : NULL,
                                          (const unsigned char *)"secret", 6, NULL, NULL), 1);
    assert_int_equal(fclose(f), 0);
    EVP_PKEY_free(key);
}

static void expect_named(struct attempt *a, const char *option, const char *path)
{
    lab_run(try_it, a);
    lab_tell("%s", a->err.message);
    assert_int_equal(a->created, WEIR_USAGE);
    assert_non_null(strstr(a->err.message, option));
    assert_non_null(strstr(a->err.message, path));
    assert_int_equal(ERR_peek_error(), 0);
}

static void a_file_that_is_no_use_is_named_when_the_pool_is_made(void **state)
{
    struct attempt a;
    char           bad[300], good[300];

    snprintf(bad, sizeof bad, "%s/bad.%d.pem", private_server()->dir, getpid());
    snprintf(good, sizeof good, "%s/good.%d.pem", private_server()->dir, getpid());
    write_garbage(bad);
    a = (struct attempt){ .opts = lab_opts(*state) };
    a.opts.tls_ca = bad;
    expect_named(&a, "tls_ca", bad);
    a = (struct attempt){ .opts = lab_opts(*state) };
    a.opts.tls_ca = "/dev/null";
    expect_named(&a, "tls_ca", "/dev/null");

    assert_true(write_stranger(good));
    a = (struct attempt){ .opts = lab_opts(*state) };
    a.opts.tls_cert = bad;
    a.opts.tls_key = bad;
    expect_named(&a, "tls_cert", bad);
    a.opts.tls_cert = good;
    expect_named(&a, "tls_key", bad);
    write_key(bad, true);
    expect_named(&a, "tls_key", bad);
    assert_non_null(strstr(a.err.message, "passphrase"));
    write_key(bad, false);
    expect_named(&a, "tls_key", bad);
    assert_non_null(strstr(a.err.message, "mismatch"));
    unlink(bad);
    unlink(good);
}

/* ---- slow links --------------------------------------------------------------------- */

struct slow {
    const struct lab_way *way;
    unsigned              port;
    double                connect_ms, query_ms;
};

static weir_status ask_slowly(void *arg)
{
    struct slow    *slow = arg;
    weir_mysql_opts opts = lab_opts(slow->way);
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.port = slow->port;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    double start = lab_now_ms();
    lab_need_ok(weir_acquire(pool, weir_in_ms(8000), &lease, &err), &err);
    slow->connect_ms = lab_now_ms() - start;
    start = lab_now_ms();
    lab_equal(sql_number(weir_mysql(lease), "SELECT SLEEP(0.2)"), 0);
    slow->query_ms = lab_now_ms() - start;
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_link_of_100_ms_slows_but_does_not_stop(void **state)
{
    struct relay *relay =
        relay_start(private_server()->port, &(struct relay_faults){ .delay_ms = 100 });
    struct slow slow = { .way = *state };

    assert_non_null(relay);
    slow.port = relay_port(relay);
    lab_run(ask_slowly, &slow);
    relay_stop(relay);
    lab_tell("connect %.0f ms, SLEEP(0.2) %.0f ms", slow.connect_ms, slow.query_ms);
    assert_true(lab_in_time(slow.connect_ms, 200, 1500));
    assert_true(lab_in_time(slow.query_ms, 300, 400));
}

/* ---- handshakes that never end ------------------------------------------------------- */

static void stall_after(void **state, unsigned chunks)
{
    struct relay *relay =
        relay_start(private_server()->port, &(struct relay_faults){ .stall_after = chunks });
    struct attempt a = { .opts = lab_opts(*state) };

    assert_non_null(relay);
    a.opts.port = relay_port(relay);
    a.opts.pool.connect_timeout_ms = CONNECT_MS;
    lab_run(try_it, &a);
    relay_stop(relay);
    lab_tell("%.0f ms: %s: %s", a.took_ms, weir_status_name(a.status), a.err.message);
    assert_int_equal(a.status, WEIR_CONNECT);
    assert_true(lab_in_time(a.took_ms, CONNECT_MS - 10, CONNECT_MS + 300));
}

static void a_stall_after_the_greeting_ends_at_the_connect_deadline(void **state)
{
    stall_after(state, 1);
}

static void a_stall_after_the_second_chunk_ends_at_the_connect_deadline(void **state)
{
    stall_after(state, 2);
}

static void a_stall_after_the_third_chunk_ends_at_the_connect_deadline(void **state)
{
    stall_after(state, 3);
}

static void a_handshake_cut_in_the_middle_is_an_error_at_once(void **state)
{
    for (int reset = 0; reset < 2; reset++) {
        struct relay *relay =
            relay_start(private_server()->port,
                        &(struct relay_faults){ .half_after = 1, .reset = reset });
        struct attempt a = { .opts = lab_opts(*state) };

        assert_non_null(relay);
        a.opts.port = relay_port(relay);
        lab_run(try_it, &a);
        relay_stop(relay);
        lab_tell("%.0f ms: %s: %s", a.took_ms, weir_status_name(a.status), a.err.message);
        assert_int_equal(a.status, WEIR_CONNECT);
        assert_true(lab_in_time(a.took_ms, 0, 500));
    }
}

static void a_caller_with_less_patience_gives_up_before_the_handshake_does(void **state)
{
    struct relay *relay =
        relay_start(private_server()->port, &(struct relay_faults){ .stall_after = 1 });
    struct attempt a = { .opts = lab_opts(*state), .patience_ms = 150 };

    assert_non_null(relay);
    a.opts.port = relay_port(relay);
    a.opts.pool.connect_timeout_ms = CONNECT_MS;
    lab_run(try_it, &a);
    relay_stop(relay);
    assert_int_equal(a.status, WEIR_TIMEOUT);
    assert_true(lab_in_time(a.took_ms, 149, 200));
}

/* ---- OpenSSL's queue of errors ------------------------------------------------------- */

/* Somebody else on this thread, whose connections keep failing, also while others wait. */
static weir_status raise_errors(void *arg)
{
    (void)arg;
    while (weir_sleep(weir_in_ms(1)) == WEIR_OK)
        ERR_raise(ERR_LIB_SSL, 267);
    return WEIR_OK;
}

static weir_status query_with_stale_errors(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_task      *spoiler = weir_spawn(NULL, raise_errors, NULL);
    weir_error      err;
    weir_lease     *lease = NULL, *other = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;

    ERR_raise(ERR_LIB_SSL, 267); /* "wrong version number", of somebody else's connection */
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    ERR_raise(ERR_LIB_SSL, 267);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 21"), 21);
    ERR_raise(ERR_LIB_SSL, 267);
    lab_equal(sql_number(weir_mysql(lease), "SELECT SLEEP(0.05)"), 0);
    ERR_raise(ERR_LIB_SSL, 267);
    lab_equal(sql_do(weir_mysql(lease), "SET @x = 1"), 0);
    ERR_raise(ERR_LIB_SSL, 267);
    lab_equal(weir_release(lease), WEIR_OK); /* the reset that follows must not suffer */
    lab_check(lab_settle(pool, 1, 2000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_RESET_FAILED], 0);

    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    ERR_raise(ERR_LIB_SSL, 267);
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &other, &err), &err);
    lab_equal(sql_number(weir_mysql(other), "SELECT 22"), 22);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 23"), 23);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(weir_release(other), WEIR_OK);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 0);
    lab_pool_end(&pool);
    weir_cancel(spoiler);
    ERR_clear_error();
    return WEIR_OK;
}

static void a_stale_error_of_the_thread_hurts_no_healthy_query(void **state)
{
    lab_run(query_with_stale_errors, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TLS(the_right_name_is_welcome),
        LAB_TLS(an_address_is_welcome_when_the_name_is_given_apart),
        LAB_TLS(a_wrong_name_is_refused),
        LAB_TLS(a_wrong_name_given_apart_is_refused),
        LAB_TLS(an_address_that_the_certificate_does_not_name_is_refused),
        LAB_TLS(a_certificate_of_another_authority_is_refused),
        LAB_TLS(encryption_without_verification_takes_any_name),
        LAB_TLS(a_server_without_tls_is_refused_in_clear_words),
        LAB_TLS(plain_text_is_the_default_for_loopback_and_unix_socket),
        LAB_TLS(another_host_without_an_authority_is_refused_at_creation),
        LAB_TLS(an_authority_file_that_is_not_there_is_named),
        LAB_TLS(a_file_that_is_no_use_is_named_when_the_pool_is_made),
        LAB_PLAIN_AND_TLS(a_link_of_100_ms_slows_but_does_not_stop),
        LAB_PLAIN_AND_TLS(a_stall_after_the_greeting_ends_at_the_connect_deadline),
        LAB_TLS(a_stall_after_the_second_chunk_ends_at_the_connect_deadline),
        LAB_TLS(a_stall_after_the_third_chunk_ends_at_the_connect_deadline),
        LAB_TLS(a_handshake_cut_in_the_middle_is_an_error_at_once),
        LAB_TLS(a_caller_with_less_patience_gives_up_before_the_handshake_does),
        LAB_TLS(a_stale_error_of_the_thread_hurts_no_healthy_query),
    };
    return lab_main(argc, argv, tests);
}
