/*
 * test_mongo_tls.c - the TLS of the MongoDB driver against a real OpenSSL on a socketpair, with
 * certificates made here.
 *
 * The peer's SSL works in memory, and what goes between it and the socket passes through this
 * test: as fast as it goes, or a byte at a time, so that every step there is meets an EAGAIN.
 * SIGPIPE is left as it is: a write that raises it ends the test.
 */
#define _GNU_SOURCE
#include "tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_PASSWORD "open sesame"

/* ---- certificates --------------------------------------------------------------------- */

struct pair {
    X509     *cert;
    EVP_PKEY *key;
};

static char dir[] = "/tmp/weir-tls-XXXXXX";

static struct pair ca, stranger;                       /* authorities */
static struct pair server, expired, revoked, by_stranger, client; /* what they signed */

/* A file of that name in our folder; the string lives until the fifth next call. */
static const char *in_dir(const char *name)
{
    static char paths[5][128];
    static int  next;
    char       *path = paths[next++ % 5];

    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static void add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;

    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* Signed by itself where there is no issuer. */
static struct pair make_pair(const struct pair *issuer, const char *name, long serial,
                             const char *names, long ends_in_s)
{
    struct pair made = { X509_new(), EVP_EC_gen("P-256") };
    X509_NAME  *subject = X509_get_subject_name(made.cert);

    X509_set_version(made.cert, 2);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    ASN1_INTEGER_set(X509_get_serialNumber(made.cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(made.cert), -7200);
    X509_gmtime_adj(X509_getm_notAfter(made.cert), ends_in_s);
    X509_set_issuer_name(made.cert, issuer ? X509_get_subject_name(issuer->cert) : subject);
    X509_set_pubkey(made.cert, made.key);
    if (!issuer)
        add_extension(made.cert, NID_basic_constraints, "critical,CA:TRUE");
    if (names)
        add_extension(made.cert, NID_subject_alt_name, names);
    assert_true(X509_sign(made.cert, issuer ? issuer->key : made.key, EVP_sha256()) > 0);
    return made;
}

static void write_pair(const char *name, const struct pair *pair, const char *password)
{
    FILE *file = fopen(in_dir(name), "we");

    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, pair->cert), 1);
    if (password)
        PEM_write_PrivateKey(file, pair->key, EVP_aes_128_cbc(), (const unsigned char *)password,
                             (int)strlen(password), NULL, NULL);
    else
        PEM_write_PrivateKey(file, pair->key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
}

static void write_cert(const char *name, const X509 *cert)
{
    FILE *file = fopen(in_dir(name), "we");

    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, cert), 1);
    fclose(file);
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(in_dir(name), "we");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void write_crl(const char *name, const struct pair *victim)
{
    X509_CRL     *crl = X509_CRL_new();
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_TIME    *now = X509_gmtime_adj(NULL, -60), *later = X509_gmtime_adj(NULL, 3600);
    FILE         *file = fopen(in_dir(name), "we");

    assert_non_null(file);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca.cert));
    X509_CRL_set1_lastUpdate(crl, now);
    X509_CRL_set1_nextUpdate(crl, later);
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(victim->cert));
    X509_REVOKED_set_revocationDate(entry, now);
    X509_CRL_add0_revoked(crl, entry);
    assert_true(X509_CRL_sign(crl, ca.key, EVP_sha256()) > 0);
    assert_int_equal(PEM_write_X509_CRL(file, crl), 1);
    fclose(file);
    ASN1_TIME_free(now);
    ASN1_TIME_free(later);
    X509_CRL_free(crl);
}

static const char names[] = "DNS:db.weir.test,DNS:*.wild.test,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1";

static int make_files(void **state)
{
    char hashed[32];

    (void)state;
    if (!mkdtemp(dir))
        return -1;
    ca = make_pair(NULL, "weir test authority", 1, NULL, 3600);
    stranger = make_pair(NULL, "a stranger", 2, NULL, 3600);
    server = make_pair(&ca, "server", 3, names, 3600);
    expired = make_pair(&ca, "expired", 4, names, -3600);
    revoked = make_pair(&ca, "revoked", 5, names, 3600);
    by_stranger = make_pair(&stranger, "by a stranger", 6, names, 3600);
    client = make_pair(&ca, "client", 7, NULL, 3600);
    write_cert("ca.pem", ca.cert);
    write_cert("stranger.pem", stranger.cert);
    write_pair("client.pem", &client, NULL);
    write_pair("locked.pem", &client, KEY_PASSWORD);
    write_cert("keyless.pem", client.cert);
    write_pair("other-key.pem", &(struct pair){ client.cert, server.key }, NULL);
    write_crl("crl.pem", &revoked);
    write_text("text.pem", "nothing that is PEM\n");
    mkdir(in_dir("folder"), 0700);
    mkdir(in_dir("empty"), 0700);
    snprintf(hashed, sizeof hashed, "folder/%08lx.0",
             X509_NAME_hash_ex(X509_get_subject_name(ca.cert), NULL, NULL, NULL));
    write_cert(hashed, ca.cert);
    assert_int_equal(symlink("nowhere", in_dir("folder/01234567.0")), 0);
    write_cert("folder/not-by-its-hash.pem", stranger.cert);
    return 0;
}

static void remove_all(const char *path)
{
    DIR *folder = opendir(path);

    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        char name[600];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (entry->d_type == DT_DIR)
            remove_all(name);
        else
            unlink(name);
    }
    if (folder)
        closedir(folder);
    rmdir(path);
}

static int remove_files(void **state)
{
    struct pair *all[] = { &ca, &stranger, &server, &expired, &revoked, &by_stranger, &client };

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        X509_free(all[i]->cert);
        EVP_PKEY_free(all[i]->key);
    }
    remove_all(dir);
    return 0;
}

/* ---- the other side ------------------------------------------------------------------- */

struct peer {
    const struct pair *shows;     /* (server) */
    int                version;   /* the newest it speaks (TLS 1.3) */
    int                oldest;
    bool               demands;   /* a client certificate, signed by our authority */
    bool               mute;      /* reads and says nothing */
    size_t             drip;      /* bytes that pass at a time (all) */
    size_t             passes;    /* bytes that it sends in all (no limit) */

    SSL_CTX *ctx;
    SSL     *ssl;
    BIO     *in, *out;
    int      fd;
    size_t   passed;
    char     sni[64];
};

/* A connection under test, with the other side of it. */
struct scene {
    struct mo_tls_opts opts; /* (believes our authority) */
    const char        *host; /* (db.weir.test) */
    struct peer        peer;

    struct mo_tls_context *context;
    struct mo_tls         *tls;
    int                    fd;
    unsigned               waits; /* steps of the handshake that could not go on */
};

static void peer_begin(struct peer *peer)
{
    const struct pair *shows = peer->shows ? peer->shows : &server;

    peer->ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(peer->ctx, shows->cert);
    SSL_CTX_use_PrivateKey(peer->ctx, shows->key);
    SSL_CTX_set_security_level(peer->ctx, 0);
    SSL_CTX_set_min_proto_version(peer->ctx, peer->oldest ? peer->oldest : TLS1_2_VERSION);
    if (peer->version)
        SSL_CTX_set_max_proto_version(peer->ctx, peer->version);
    if (peer->demands) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(peer->ctx), ca.cert);
        SSL_CTX_set_verify(peer->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    peer->ssl = SSL_new(peer->ctx);
    peer->in = BIO_new(BIO_s_mem());
    peer->out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(peer->in, -1);
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    SSL_set_accept_state(peer->ssl);
    if (!peer->drip)
        peer->drip = 1 << 20;
}

/* Between the socket and the peer's memory, `drip` bytes at most each way. */
static void pump_in(struct peer *peer)
{
    char    bytes[4096];
    size_t  room = peer->drip < sizeof bytes ? peer->drip : sizeof bytes;
    ssize_t n = recv(peer->fd, bytes, room, MSG_DONTWAIT);

    if (n > 0)
        BIO_write(peer->in, bytes, (int)n);
}

static void pump_out(struct peer *peer)
{
    char  *bytes;
    size_t size = (size_t)BIO_get_mem_data(peer->out, &bytes);
    char   gone[4096];

    size = size < peer->drip ? size : peer->drip;
    size = size < sizeof gone ? size : sizeof gone;
    if (peer->passes && size > peer->passes - peer->passed)
        size = peer->passes - peer->passed;
    ssize_t n = size ? send(peer->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n > 0) {
        peer->passed += (size_t)n;
        BIO_read(peer->out, gone, (int)n);
    }
}

static void peer_turn(struct peer *peer)
{
    pump_in(peer);
    if (peer->mute)
        return;
    if (!SSL_is_init_finished(peer->ssl))
        SSL_do_handshake(peer->ssl);
    const char *name = SSL_get_servername(peer->ssl, TLSEXT_NAMETYPE_host_name);
    if (name)
        snprintf(peer->sni, sizeof peer->sni, "%s", name);
    ERR_clear_error();
    pump_out(peer);
}

static void scene_begin(struct scene *s)
{
    int        fds[2];
    weir_error err;

    if (!s->opts.ca_file && !s->opts.ca_dir)
        s->opts.ca_file = in_dir("ca.pem");
    weir_status status = mo_tls_context_new(&s->opts, &s->context, &err);
    if (status != WEIR_OK)
        fail_msg("no context: %s", err.message);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    s->fd = fds[0];
    s->peer.fd = fds[1];
    peer_begin(&s->peer);
    s->tls = mo_tls_new(s->context, s->fd, s->host ? s->host : "db.weir.test");
    assert_non_null(s->tls);
}

static void peer_hang_up(struct peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    peer->fd = -1;
}

static void scene_end(struct scene *s)
{
    mo_tls_free(s->tls);
    mo_tls_context_free(s->context);
    close(s->fd);
    peer_hang_up(&s->peer);
    SSL_free(s->peer.ssl);
    SSL_CTX_free(s->peer.ctx);
    assert_int_equal(ERR_peek_error(), 0);
}

/* Somebody else's error, left behind on this thread. */
static void leave_error(void)
{
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_SIGNATURE);
}

static enum mo_tls_want shake(struct scene *s)
{
    for (int turns = 0; turns < 20000; turns++) {
        leave_error();
        enum mo_tls_want want = mo_tls_handshake(s->tls);
        assert_int_equal(ERR_peek_error(), 0);
        if (want == MO_TLS_DONE || want == MO_TLS_FAILED)
            return want;
        assert_int_equal(mo_tls_wants(s->tls), want == MO_TLS_READ ? WEIR_READ : WEIR_WRITE);
        s->waits++;
        peer_turn(&s->peer);
    }
    return MO_TLS_READ; /* still not done */
}

/* One byte there and back. */
static void expect_talk(struct scene *s)
{
    char byte = 'x', got = 0;

    assert_int_equal(mo_tls_write(s->tls, &byte, 1), 1);
    for (int i = 0; i < 1000 && SSL_read(s->peer.ssl, &got, 1) != 1; i++)
        peer_turn(&s->peer);
    assert_int_equal(got, 'x');
    assert_int_equal(SSL_write(s->peer.ssl, "y", 1), 1);
    ssize_t n = -1;
    for (int i = 0; i < 1000 && n < 0; i++) {
        peer_turn(&s->peer);
        n = mo_tls_read(s->tls, &got, 1);
        assert_true(n == 1 || errno == EAGAIN);
    }
    assert_int_equal(got, 'y');
}

static void expect_welcome(struct scene s)
{
    scene_begin(&s);
    enum mo_tls_want want = shake(&s);
    if (want != MO_TLS_DONE)
        fail_msg("%s", mo_tls_why(s.tls));
    assert_string_equal(mo_tls_why(s.tls), "");
    expect_talk(&s);
    scene_end(&s);
}

static void expect_refusal(struct scene s, const char *words)
{
    char byte;

    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_FAILED);
    if (!strstr(mo_tls_why(s.tls), words))
        fail_msg("\"%s\" does not say \"%s\"", mo_tls_why(s.tls), words);
    /* for good, and without a word to whoever it is */
    assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
    errno = 0;
    assert_int_equal(mo_tls_write(s.tls, "secret", 6), -1);
    assert_int_not_equal(errno, EAGAIN);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), -1);
    assert_int_not_equal(errno, EAGAIN);
    assert_non_null(strstr(mo_tls_why(s.tls), words));
    scene_end(&s);
}

/* ---- who is there --------------------------------------------------------------------- */

static void a_name_in_the_certificate_is_welcome(void **state)
{
    (void)state;
    expect_welcome((struct scene){ .host = "db.weir.test" });
    expect_welcome((struct scene){ .host = "DB.Weir.Test" });
    expect_welcome((struct scene){ .host = "a.wild.test" });
}

static void an_address_in_the_certificate_is_welcome(void **state)
{
    (void)state;
    expect_welcome((struct scene){ .host = "127.0.0.1" });
    expect_welcome((struct scene){ .host = "::1" });
}

static void a_name_that_is_not_in_it_is_refused(void **state)
{
    (void)state;
    expect_refusal((struct scene){ .host = "other.weir.test" },
                   "certificate verify failed (hostname mismatch)");
    expect_refusal((struct scene){ .host = "b.a.wild.test" }, "hostname mismatch");
    expect_refusal((struct scene){ .host = "weir.test" }, "hostname mismatch");
}

static void an_address_that_is_not_in_it_is_refused(void **state)
{
    (void)state;
    expect_refusal((struct scene){ .host = "127.0.0.2" },
                   "certificate verify failed (IP address mismatch)");
    expect_refusal((struct scene){ .host = "::2" }, "IP address mismatch");
}

static void no_host_at_all_is_refused(void **state)
{
    struct scene s = { .host = "" };

    (void)state;
    scene_begin(&s);
    assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
    assert_string_equal(mo_tls_why(s.tls), "no certificate can be for the host ''");
    assert_int_equal(mo_tls_write(s.tls, "secret", 6), -1);
    assert_int_equal(errno, EPROTO);
    scene_end(&s);
}

static void the_name_is_told_to_the_server_and_an_address_is_not(void **state)
{
    struct scene s = { .host = "db.weir.test" }, t = { .host = "127.0.0.1" };

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    assert_string_equal(s.peer.sni, "db.weir.test");
    scene_end(&s);
    scene_begin(&t);
    assert_int_equal(shake(&t), MO_TLS_DONE);
    assert_string_equal(t.peer.sni, "");
    scene_end(&t);
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
    (void)state;
    expect_refusal((struct scene){ .peer.shows = &by_stranger }, "certificate verify failed");
}

static void an_expired_certificate_is_refused(void **state)
{
    (void)state;
    expect_refusal((struct scene){ .peer.shows = &expired },
                   "certificate verify failed (certificate has expired)");
}

static void a_revoked_certificate_is_refused_where_there_is_a_list(void **state)
{
    struct mo_tls_opts opts = { .crl_file = in_dir("crl.pem") };

    (void)state;
    expect_refusal((struct scene){ .opts = opts, .peer.shows = &revoked },
                   "certificate verify failed (certificate revoked)");
    opts.crl_file = in_dir("crl.pem");
    expect_welcome((struct scene){ .opts = opts });
    expect_welcome((struct scene){ .peer.shows = &revoked });
}

static void invalid_certificates_are_believed_on_request_but_not_wrong_names(void **state)
{
    struct mo_tls_opts opts = { .allow_invalid_certificates = true };

    (void)state;
    expect_welcome((struct scene){ .opts = opts, .peer.shows = &by_stranger });
    expect_welcome((struct scene){ .opts = opts, .peer.shows = &expired });
    expect_refusal((struct scene){ .opts = opts, .host = "other", .peer.shows = &by_stranger },
                   "hostname mismatch");
    expect_refusal((struct scene){ .opts = opts, .host = "127.0.0.9", .peer.shows = &by_stranger },
                   "IP address mismatch");
}

static void wrong_names_are_believed_on_request_but_not_invalid_certificates(void **state)
{
    struct mo_tls_opts opts = { .allow_invalid_names = true };

    (void)state;
    expect_welcome((struct scene){ .opts = opts, .host = "other" });
    expect_welcome((struct scene){ .opts = opts, .host = "127.0.0.9" });
    expect_welcome((struct scene){ .opts = opts, .host = "" });
    expect_refusal((struct scene){ .opts = opts, .host = "other", .peer.shows = &by_stranger },
                   "certificate verify failed");
}

static void a_server_that_speaks_nothing_newer_than_tls_1_1_is_refused(void **state)
{
    (void)state;
    expect_welcome((struct scene){ .peer.version = TLS1_2_VERSION });
    expect_refusal((struct scene){ .peer = { .oldest = TLS1_VERSION, .version = TLS1_1_VERSION } },
                   "alert protocol version");
}

static void a_folder_of_authorities_is_read_by_hash(void **state)
{
    struct mo_tls_opts opts = { .ca_dir = in_dir("folder") };

    (void)state;
    expect_welcome((struct scene){ .opts = opts });
    opts.ca_dir = in_dir("folder");
    expect_refusal((struct scene){ .opts = opts, .peer.shows = &by_stranger },
                   "certificate verify failed");
}

/* ---- our own certificate -------------------------------------------------------------- */

static void a_client_certificate_is_shown_where_it_is_demanded(void **state)
{
    struct mo_tls_opts plain = { .cert_key_file = in_dir("client.pem") };
    struct mo_tls_opts locked = { .cert_key_file = in_dir("locked.pem"),
                                  .cert_key_password = KEY_PASSWORD };

    (void)state;
    expect_welcome((struct scene){ .opts = plain, .peer.demands = true });
    expect_welcome((struct scene){ .opts = locked, .peer.demands = true });
}

static void a_missing_client_certificate_is_told_by_the_handshake_of_tls_1_2(void **state)
{
    (void)state;
    expect_refusal((struct scene){ .peer = { .demands = true, .version = TLS1_2_VERSION } },
                   "alert handshake failure");
}

static void a_missing_client_certificate_is_told_by_the_first_read_of_tls_1_3(void **state)
{
    struct scene s = { .peer.demands = true };
    char         byte;

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    for (int i = 0; i < 10; i++)
        peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), -1);
    assert_int_equal(errno, EPROTO);
    assert_non_null(strstr(mo_tls_why(s.tls), "alert certificate required"));
    assert_int_equal(mo_tls_pending(s.tls), 1); /* a poll must not wait for it */
    scene_end(&s);
}

/* ---- the way there -------------------------------------------------------------------- */

static void a_handshake_goes_on_a_byte_at_a_time(void **state)
{
    struct scene s = { .peer.drip = 1 };

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    assert_true(s.waits > 500); /* each byte of the server's was waited for */
    expect_talk(&s);
    scene_end(&s);
}

static void *do_step(void *tls)
{
    mo_tls_step(tls);
    return NULL;
}

/* On another thread, and with the descriptor out of the way: it must not be looked for. */
static enum mo_tls_want step_elsewhere(struct scene *s)
{
    pthread_t thread;
    int       away = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);

    assert_true(away >= 0);
    close(s->fd);
    assert_int_equal(pthread_create(&thread, NULL, do_step, s->tls), 0);
    pthread_join(thread, NULL);
    assert_int_equal(dup2(away, s->fd), s->fd);
    close(away);
    return mo_tls_step_end(s->tls);
}

static enum mo_tls_want shake_elsewhere(struct scene *s)
{
    enum mo_tls_want want = MO_TLS_READ;

    for (int turns = 0; turns < 20000 && want != MO_TLS_DONE && want != MO_TLS_FAILED; turns++) {
        want = mo_tls_step_begin(s->tls);
        for (; want == MO_TLS_STEP; s->waits++)
            want = step_elsewhere(s);
        peer_turn(&s->peer);
    }
    return want;
}

static void a_handshake_can_be_done_in_steps_by_other_threads(void **state)
{
    struct scene s = { 0 }, drips = { .peer.drip = 100 };
    struct scene wrong = { .host = "other.weir.test" };

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake_elsewhere(&s), MO_TLS_DONE);
    assert_int_equal(s.waits, 2); /* the hello, and all the rest */
    expect_talk(&s);
    scene_end(&s);

    scene_begin(&drips);
    assert_int_equal(shake_elsewhere(&drips), MO_TLS_DONE);
    expect_talk(&drips);
    scene_end(&drips);

    scene_begin(&wrong);
    assert_int_equal(shake_elsewhere(&wrong), MO_TLS_FAILED);
    assert_non_null(strstr(mo_tls_why(wrong.tls), "hostname mismatch"));
    scene_end(&wrong);
}

/* With TLS 1.2 the server has the last word, and says more in the same breath. */
static void what_comes_with_the_end_of_a_handshake_is_not_lost(void **state)
{
    struct scene s = { .peer.version = TLS1_2_VERSION };
    bool         said = false;
    char         got = 0;

    (void)state;
    scene_begin(&s);
    enum mo_tls_want want = mo_tls_handshake(s.tls);
    for (int turns = 0; turns < 100 && want != MO_TLS_DONE; turns++) {
        pump_in(&s.peer);
        SSL_do_handshake(s.peer.ssl);
        if (SSL_is_init_finished(s.peer.ssl) && !said)
            said = SSL_write(s.peer.ssl, "z", 1) == 1;
        pump_out(&s.peer);
        want = mo_tls_handshake(s.tls);
    }
    assert_true(said && want == MO_TLS_DONE);
    assert_int_equal(recv(s.fd, &got, 1, MSG_DONTWAIT | MSG_PEEK), -1); /* all of it was fetched */
    assert_int_equal(mo_tls_pending(s.tls), 1);
    assert_int_equal(mo_tls_read(s.tls, &got, 1), 1);
    assert_int_equal(got, 'z');
    expect_talk(&s);
    scene_end(&s);
}

static void one_that_is_given_up_in_a_step_is_freed_at_its_end(void **state)
{
    struct scene s = { 0 };
    char         byte;

    (void)state;
    scene_begin(&s);
    assert_int_equal(mo_tls_step_begin(s.tls), MO_TLS_STEP);
    mo_tls_free(s.tls);
    assert_int_equal(step_elsewhere(&s), MO_TLS_FAILED);
    s.tls = NULL;
    assert_int_equal(recv(s.peer.fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    scene_end(&s);
}

static void a_peer_that_falls_silent_is_waited_for(void **state)
{
    struct scene s = { .peer.mute = true };

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_READ);
    assert_string_equal(mo_tls_why(s.tls), "");
    scene_end(&s);
}

static void a_peer_that_closes_in_the_middle_of_a_handshake_is_told(void **state)
{
    (void)state;
    for (size_t passes = 1; passes < 600; passes += 99) {
        struct scene s = { .peer.passes = passes };
        scene_begin(&s);
        for (int i = 0; i < 10; i++) {
            assert_int_not_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
            peer_turn(&s.peer);
        }
        assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_READ);
        peer_hang_up(&s.peer);
        assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
        assert_string_equal(mo_tls_why(s.tls),
                            "the server closed the connection during the handshake");
        scene_end(&s);
    }
}

static void a_peer_that_is_gone_before_the_first_byte_is_told_without_a_signal(void **state)
{
    struct scene s = { 0 };

    (void)state;
    scene_begin(&s);
    peer_hang_up(&s.peer);
    assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
    assert_string_equal(mo_tls_why(s.tls), "Broken pipe");
    scene_end(&s);
}

static void a_peer_that_does_not_speak_tls_is_told(void **state)
{
    struct scene s = { .peer.mute = true };

    (void)state;
    scene_begin(&s);
    assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_READ);
    assert_int_equal(send(s.peer.fd, "this is no TLS at all\n", 22, 0), 22);
    assert_int_equal(mo_tls_handshake(s.tls), MO_TLS_FAILED);
    assert_string_equal(mo_tls_why(s.tls), "wrong version number");
    scene_end(&s);
}

/* ---- data ----------------------------------------------------------------------------- */

enum { MUCH = 1 << 20 };

static unsigned char byte_at(size_t place, unsigned salt)
{
    return (unsigned char)((place * 31 + (place >> 8) * 7 + salt) & 0xff);
}

/* Counts of one direction or the other. */
struct flow {
    size_t   sent, got;
    unsigned again;
};

/* Write some of our million bytes, each time from a new place in memory. */
static void push(struct scene *s, struct flow *flow)
{
    size_t         size = MUCH - flow->sent < 40000 ? MUCH - flow->sent : 40000;
    unsigned char *bytes = malloc(size + 1);

    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at(flow->sent + i, 1);
    leave_error();
    ssize_t n = size ? mo_tls_write(s->tls, bytes, size) : 0;
    if (n >= 0) {
        flow->sent += (size_t)n;
    } else {
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(mo_tls_wants(s->tls), WEIR_WRITE);
        flow->again++;
    }
    assert_true(n <= 16384);
    memset(bytes, 0xee, size);
    free(bytes);
}

static void pull(struct scene *s, struct flow *flow)
{
    unsigned char bytes[5000];

    leave_error();
    ssize_t n = mo_tls_read(s->tls, bytes, sizeof bytes);
    if (n < 0) {
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(mo_tls_wants(s->tls), WEIR_READ);
        assert_int_equal(mo_tls_pending(s->tls), 0);
        flow->again++;
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(bytes[i], byte_at(flow->got + (size_t)i, 2));
    flow->got += (size_t)n;
}

static void peer_talks(struct peer *peer, struct flow *up, struct flow *down)
{
    unsigned char bytes[3000];

    int n = SSL_read(peer->ssl, bytes, sizeof bytes);
    for (int i = 0; i < n; i++)
        assert_int_equal(bytes[i], byte_at(up->got + (size_t)i, 1));
    up->got += n > 0 ? (size_t)n : 0;

    size_t size = MUCH - down->sent < sizeof bytes ? MUCH - down->sent : sizeof bytes;
    if (size && BIO_ctrl_pending(peer->out) < 50000) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = byte_at(down->sent + i, 2);
        n = SSL_write(peer->ssl, bytes, (int)size);
        down->sent += n > 0 ? (size_t)n : 0;
    }
    ERR_clear_error();
}

static void a_mebibyte_goes_both_ways_through_a_narrow_socket(void **state)
{
    struct scene s = { .peer.drip = 700 };
    struct flow  up = { 0 }, down = { 0 };
    int          small = 4096;

    (void)state;
    scene_begin(&s);
    setsockopt(s.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    setsockopt(s.peer.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    for (int turns = 0; turns < 200000 && (up.got < MUCH || down.got < MUCH); turns++) {
        push(&s, &up);
        pull(&s, &down);
        peer_turn(&s.peer);
        peer_talks(&s.peer, &up, &down);
    }
    assert_int_equal(up.got, MUCH);
    assert_int_equal(down.got, MUCH);
    assert_true(up.again > 500);
    assert_true(down.again > 500);
    scene_end(&s);
}

/* The second record is in OpenSSL's buffer, and the socket has nothing more to tell of. */
static void bytes_read_ahead_are_pending(void **state)
{
    struct scene s = { 0 };
    char         bytes[64];

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s); /* the tickets of TLS 1.3 are out of the way */
    assert_int_equal(mo_tls_pending(s.tls), 0);
    SSL_write(s.peer.ssl, "first", 5);
    SSL_write(s.peer.ssl, "second", 6);
    peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, bytes, 2), 2);
    assert_int_equal(mo_tls_pending(s.tls), 3);
    assert_int_equal(mo_tls_read(s.tls, bytes, sizeof bytes), 3);
    assert_int_equal(recv(s.fd, bytes, 1, MSG_PEEK | MSG_DONTWAIT), -1);
    assert_int_equal(mo_tls_pending(s.tls), 6);
    assert_int_equal(mo_tls_read(s.tls, bytes, sizeof bytes), 6);
    assert_memory_equal(bytes, "second", 6);
    assert_int_equal(mo_tls_pending(s.tls), 0);
    scene_end(&s);
}

static void half_a_record_is_not_pending(void **state)
{
    struct scene s = { 0 };
    char         bytes[64];

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    SSL_write(s.peer.ssl, "whole", 5);
    s.peer.passes = s.peer.passed + 12;
    peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, bytes, sizeof bytes), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(mo_tls_pending(s.tls), 0);
    s.peer.passes = 0;
    peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, bytes, sizeof bytes), 5);
    scene_end(&s);
}

static void a_goodbye_is_the_end(void **state)
{
    struct scene s = { 0 };
    char         byte;

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    SSL_write(s.peer.ssl, "z", 1);
    SSL_shutdown(s.peer.ssl);
    peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), 1);
    assert_int_equal(mo_tls_pending(s.tls), 1); /* the end can be read */
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), 0);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), 0);
    assert_int_equal(ERR_peek_error(), 0);
    scene_end(&s);
}

static void a_peer_that_hangs_up_without_a_goodbye_is_the_end_too(void **state)
{
    struct scene s = { 0 };
    char         byte;

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    peer_hang_up(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), 0);
    assert_int_equal(mo_tls_read(s.tls, &byte, 1), 0);
    assert_int_equal(mo_tls_write(s.tls, "x", 1), -1); /* no SIGPIPE */
    assert_int_equal(errno, EPIPE);
    assert_string_equal(mo_tls_why(s.tls), "Broken pipe");
    assert_int_equal(ERR_peek_error(), 0);
    scene_end(&s);
}

static void a_record_that_was_tampered_with_ends_it(void **state)
{
    struct scene s = { 0 };
    char         bytes[64], *record;

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    SSL_write(s.peer.ssl, "whole", 5);
    BIO_get_mem_data(s.peer.out, &record);
    record[8] ^= 1;
    peer_turn(&s.peer);
    assert_int_equal(mo_tls_read(s.tls, bytes, sizeof bytes), -1);
    assert_int_equal(errno, EPROTO);
    assert_string_equal(mo_tls_why(s.tls), "decryption failed or bad record mac");
    assert_int_equal(ERR_peek_error(), 0);
    scene_end(&s);
}

static void freeing_sends_nothing(void **state)
{
    struct scene s = { 0 };
    char         byte;

    (void)state;
    scene_begin(&s);
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    assert_int_equal(recv(s.peer.fd, &byte, 1, MSG_DONTWAIT), -1);
    mo_tls_free(s.tls);
    s.tls = NULL;
    assert_int_equal(recv(s.peer.fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    scene_end(&s);
}

static void a_connection_outlives_its_context(void **state)
{
    struct scene s = { 0 };

    (void)state;
    scene_begin(&s);
    mo_tls_context_free(s.context);
    s.context = NULL;
    assert_int_equal(shake(&s), MO_TLS_DONE);
    expect_talk(&s);
    scene_end(&s);
}

/* ---- files ---------------------------------------------------------------------------- */

static void expect_no_context(const struct mo_tls_opts *opts, const char *option,
                              const char *words)
{
    struct mo_tls_context *context = (struct mo_tls_context *)opts;
    weir_error             err;

    leave_error();
    assert_int_equal(mo_tls_context_new(opts, &context, &err), WEIR_USAGE);
    assert_null(context);
    assert_int_equal(ERR_peek_error(), 0);
    if (!strstr(err.message, option) || !strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", err.message, option, words);
    assert_null(strstr(err.message, KEY_PASSWORD));
    assert_null(strstr(err.message, "guess"));
}

static void a_file_that_is_wrong_is_named_with_its_option(void **state)
{
    (void)state;
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("missing.pem") },
                      "tlsCAFile: cannot read '", "missing.pem': No such file or directory");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = dir }, "tlsCAFile: '", "is not a file");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("text.pem") },
                      "tlsCAFile: no certificate in '", "text.pem' (");
    expect_no_context(&(struct mo_tls_opts){ .ca_dir = in_dir("missing") },
                      "missing' has no certificate by its hash", "openssl rehash");
    expect_no_context(&(struct mo_tls_opts){ .ca_dir = in_dir("empty") },
                      "empty' has no certificate by its hash", "openssl rehash");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .crl_file = in_dir("missing.crl") },
                      "tlsCRLFile: cannot read '", "missing.crl': No such file or directory");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .crl_file = in_dir("ca.pem") },
                      "tlsCRLFile: no revocation list in '", "ca.pem' (");
}

static void a_key_that_is_wrong_is_told_without_its_password(void **state)
{
    (void)state;
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("missing.pem") },
                      "tlsCertificateKeyFile: cannot read '", "missing.pem': No such file");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("text.pem") },
                      "tlsCertificateKeyFile: no certificate in '", "text.pem' (");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("keyless.pem") },
                      "tlsCertificateKeyFile: no private key", "keyless.pem' (");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("other-key.pem") },
                      "tlsCertificateKeyFile: no private key", "key values mismatch");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("locked.pem") },
                      "locked.pem' is encrypted", "give tlsCertificateKeyFilePassword");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_file = in_dir("locked.pem"),
                                             .cert_key_password = "a guess" },
                      "tlsCertificateKeyFilePassword does not open", "locked.pem'");
    expect_no_context(&(struct mo_tls_opts){ .ca_file = in_dir("ca.pem"),
                                             .cert_key_password = KEY_PASSWORD },
                      "tlsCertificateKeyFilePassword is given", "tlsCertificateKeyFile is not");
}

/* Asked for in the places that OpenSSL knows, which two variables move. */
static void without_a_file_the_authorities_are_the_systems(void **state)
{
    struct mo_tls_context *context;
    weir_error             err;

    (void)state;
    setenv("SSL_CERT_FILE", in_dir("missing.pem"), 1);
    setenv("SSL_CERT_DIR", in_dir("empty"), 1);
    expect_no_context(&(struct mo_tls_opts){ 0 }, "no certificate authorities in", "tlsCAFile");
    assert_int_equal(mo_tls_context_new(&(struct mo_tls_opts){ .allow_invalid_certificates = true },
                                        &context, &err), WEIR_OK);
    mo_tls_context_free(context);

    char both[300];
    snprintf(both, sizeof both, "%s:%s", in_dir("empty"), in_dir("folder"));
    setenv("SSL_CERT_DIR", both, 1);
    expect_welcome((struct scene){ .opts.ca_file = "", .opts.ca_dir = "" });
    setenv("SSL_CERT_DIR", in_dir("empty"), 1);
    setenv("SSL_CERT_FILE", in_dir("ca.pem"), 1);
    expect_welcome((struct scene){ .opts.ca_file = "", .opts.ca_dir = "" });
    unsetenv("SSL_CERT_FILE");
    unsetenv("SSL_CERT_DIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_in_the_certificate_is_welcome),
        cmocka_unit_test(an_address_in_the_certificate_is_welcome),
        cmocka_unit_test(a_name_that_is_not_in_it_is_refused),
        cmocka_unit_test(an_address_that_is_not_in_it_is_refused),
        cmocka_unit_test(no_host_at_all_is_refused),
        cmocka_unit_test(the_name_is_told_to_the_server_and_an_address_is_not),
        cmocka_unit_test(a_certificate_of_another_authority_is_refused),
        cmocka_unit_test(an_expired_certificate_is_refused),
        cmocka_unit_test(a_revoked_certificate_is_refused_where_there_is_a_list),
        cmocka_unit_test(invalid_certificates_are_believed_on_request_but_not_wrong_names),
        cmocka_unit_test(wrong_names_are_believed_on_request_but_not_invalid_certificates),
        cmocka_unit_test(a_server_that_speaks_nothing_newer_than_tls_1_1_is_refused),
        cmocka_unit_test(a_folder_of_authorities_is_read_by_hash),
        cmocka_unit_test(a_client_certificate_is_shown_where_it_is_demanded),
        cmocka_unit_test(a_missing_client_certificate_is_told_by_the_handshake_of_tls_1_2),
        cmocka_unit_test(a_missing_client_certificate_is_told_by_the_first_read_of_tls_1_3),
        cmocka_unit_test(a_handshake_goes_on_a_byte_at_a_time),
        cmocka_unit_test(a_handshake_can_be_done_in_steps_by_other_threads),
        cmocka_unit_test(what_comes_with_the_end_of_a_handshake_is_not_lost),
        cmocka_unit_test(one_that_is_given_up_in_a_step_is_freed_at_its_end),
        cmocka_unit_test(a_peer_that_falls_silent_is_waited_for),
        cmocka_unit_test(a_peer_that_closes_in_the_middle_of_a_handshake_is_told),
        cmocka_unit_test(a_peer_that_is_gone_before_the_first_byte_is_told_without_a_signal),
        cmocka_unit_test(a_peer_that_does_not_speak_tls_is_told),
        cmocka_unit_test(a_mebibyte_goes_both_ways_through_a_narrow_socket),
        cmocka_unit_test(bytes_read_ahead_are_pending),
        cmocka_unit_test(half_a_record_is_not_pending),
        cmocka_unit_test(a_goodbye_is_the_end),
        cmocka_unit_test(a_peer_that_hangs_up_without_a_goodbye_is_the_end_too),
        cmocka_unit_test(a_record_that_was_tampered_with_ends_it),
        cmocka_unit_test(freeing_sends_nothing),
        cmocka_unit_test(a_connection_outlives_its_context),
        cmocka_unit_test(a_file_that_is_wrong_is_named_with_its_option),
        cmocka_unit_test(a_key_that_is_wrong_is_told_without_its_password),
        cmocka_unit_test(without_a_file_the_authorities_are_the_systems),
    };

    return cmocka_run_group_tests(tests, make_files, remove_files);
}
