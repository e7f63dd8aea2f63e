/*
 * mongo_lab.c - see mongo_lab.h.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <private_mongo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a scene ----------------------------------------------------------------------- */

static void name_host(struct mongo_scene *me, const char *options)
{
    const struct mongo_mock_opts *s = &me->server;
    const char *user = me->user ? me->user : s->user;
    const char *password = me->password ? me->password : s->password;

    user = user ? user : "";
    password = *user && password ? password : "";
    snprintf(me->uri, sizeof me->uri, "mongodb://%s%s%s%s%s:%u/?%s%s", user,
             *password ? ":" : "", password, *user ? "@" : "",
             me->host ? me->host : "127.0.0.1",
             me->port ? me->port : mongo_mock_port(me->mock, 0), options,
             s->members > 1 ? "&replicaSet=weir" : "");
}

void mongo_scene_start(struct mongo_scene *me)
{
    const char *own = me->options ? me->options : "";
    int         ms = (int)(2000 * detect_slowness());
    char        options[300];
    weir_error  err;

    assert_int_equal(weir_budget_set(NULL, &err), WEIR_OK);
    if (strstr(own, "connectTimeoutMS"))
        snprintf(options, sizeof options, "%s", own);
    else
        snprintf(options, sizeof options, "connectTimeoutMS=%d%s%s", ms, *own ? "&" : "", own);
    if (!me->opts.pool.connect_timeout_ms)
        me->opts.pool.connect_timeout_ms = 10 * ms;
    me->mock = mongo_mock_start(&me->server);
    assert_non_null(me->mock);
    if (me->host || me->user || me->password || me->port)
        name_host(me, options);
    else
        mongo_mock_uri(me->mock, me->uri, sizeof me->uri, options);
    me->opts.uri = me->uri;
}

void mongo_scene_name(struct mongo_scene *me, unsigned port)
{
    char *options = strchr(me->uri, '?'), copy[300];

    assert_non_null(options);
    snprintf(copy, sizeof copy, "%s", options + 1);
    me->port = port;
    name_host(me, copy);
}

static weir_status play(void *arg)
{
    struct mongo_scene *me = arg;
    weir_error          err;
    weir_autoptr(weir_pool) pool = NULL;

    lab_need_ok(weir_mongo_pool_new(&me->opts, &pool, &err), &err);
    me->pool = pool;
    weir_status st = me->body(me);
    if (me->lease)
        lab_equal(weir_release(me->lease), WEIR_OK);
    lab_pool_end(&pool);
    double until = lab_now_ms() + 2000 * detect_slowness();
    while (mongo_mock_counts(me->mock, MOCK_EVERY).open && lab_now_ms() < until)
        (void)weir_sleep(weir_in_ms(2));
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).open, 0);
    return st;
}

void mongo_scene_play(struct mongo_scene *me)
{
    lab_run(play, me);
    mongo_mock_stop(me->mock);
}

void mongo_scene_run(struct mongo_scene *me)
{
    mongo_scene_start(me);
    mongo_scene_play(me);
}

weir_status mongo_lease(struct mongo_scene *me)
{
    weir_error err;

    if (me->lease)
        lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), &err);
    return WEIR_OK;
}

/* ---- operations -------------------------------------------------------------------- */

long mongo_find(mongoc_client_t *client, const char *database, int batch, bson_error_t *error)
{
    mongoc_collection_t *c = mongoc_client_get_collection(client, database, "lab");
    bson_t               all = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    const bson_t        *document;
    long                 n = 0;

    if (batch)
        BSON_APPEND_INT32(&opts, "batchSize", batch);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, &all, &opts, NULL);
    while (mongoc_cursor_next(cursor, &document))
        n++;
    if (mongoc_cursor_error(cursor, error))
        n = -1;
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(&all);
    bson_destroy(&opts);
    return n;
}

bool mongo_insert(mongoc_client_t *client, const char *database, int id, bson_error_t *error)
{
    mongoc_collection_t *c = mongoc_client_get_collection(client, database, "lab");
    bson_t               document = BSON_INITIALIZER;

    BSON_APPEND_INT32(&document, "_id", id);
    BSON_APPEND_INT32(&document, "v", id);
    bool ok = mongoc_collection_insert_one(c, &document, NULL, NULL, error);
    bson_destroy(&document);
    mongoc_collection_destroy(c);
    return ok;
}

bool mongo_ping(mongoc_client_t *client, bson_error_t *error)
{
    bson_t command = BSON_INITIALIZER;

    BSON_APPEND_INT32(&command, "ping", 1);
    bool ok = mongoc_client_command_simple(client, "admin", &command, NULL, NULL, error);
    bson_destroy(&command);
    return ok;
}

/* ---- certificates ------------------------------------------------------------------ */

struct pair {
    X509     *cert;
    EVP_PKEY *key;
};

static struct mongo_certs made;
static char               folder[] = "/tmp/weir-mongo-XXXXXX";

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
                             const char *names, const char *ocsp)
{
    struct pair p = { X509_new(), EVP_EC_gen("P-256") };
    X509_NAME  *subject = X509_get_subject_name(p.cert);

    X509_set_version(p.cert, 2);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    ASN1_INTEGER_set(X509_get_serialNumber(p.cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(p.cert), -7200);
    X509_gmtime_adj(X509_getm_notAfter(p.cert), 7200);
    X509_set_issuer_name(p.cert, issuer ? X509_get_subject_name(issuer->cert) : subject);
    X509_set_pubkey(p.cert, p.key);
    if (!issuer)
        add_extension(p.cert, NID_basic_constraints, "critical,CA:TRUE");
    if (names)
        add_extension(p.cert, NID_subject_alt_name, names);
    if (ocsp)
        add_extension(p.cert, NID_info_access, ocsp);
    assert_true(X509_sign(p.cert, issuer ? issuer->key : p.key, EVP_sha256()) > 0);
    return p;
}

static void write_cert(const char *path, const X509 *cert)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, cert), 1);
    fclose(file);
}

static void write_key(const char *path, const EVP_PKEY *key)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
}

static void forget_pair(struct pair *p)
{
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
}

/* Both in one file, as MongoDB wants them. */
static void write_client(const char *path, const struct pair *issuer)
{
    struct pair p = make_pair(issuer, "client", 4, NULL, NULL);
    FILE       *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, p.cert), 1);
    assert_int_equal(PEM_write_PrivateKey(file, p.key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    forget_pair(&p);
}

static void remove_certs(void)
{
    unlink(made.ca);
    unlink(made.cert);
    unlink(made.key);
    unlink(made.stranger);
    unlink(made.client);
    unlink(made.impostor);
    rmdir(folder);
}

static void make_certs(unsigned ocsp_port)
{
    char        ocsp[80];
    struct pair ca = make_pair(NULL, "weir test authority", 1, NULL, NULL);
    struct pair stranger = make_pair(NULL, "a stranger", 2, NULL, NULL);

    snprintf(ocsp, sizeof ocsp, "OCSP;URI:http://127.0.0.1:%u/", ocsp_port);
    struct pair server = make_pair(&ca, "server", 3,
                                   "DNS:localhost,DNS:db.weir.test,IP:127.0.0.1",
                                   ocsp_port ? ocsp : NULL);
    write_cert(made.ca, ca.cert);
    write_cert(made.stranger, stranger.cert);
    write_cert(made.cert, server.cert);
    write_key(made.key, server.key);
    write_client(made.client, &ca);
    write_client(made.impostor, &stranger);
    forget_pair(&ca);
    forget_pair(&stranger);
    forget_pair(&server);
}

const struct mongo_certs *mongo_certs(unsigned ocsp_port)
{
    if (made.ca[0])
        return &made;
    assert_non_null(mkdtemp(folder));
    snprintf(made.ca, sizeof made.ca, "%s/ca.pem", folder);
    snprintf(made.cert, sizeof made.cert, "%s/cert.pem", folder);
    snprintf(made.key, sizeof made.key, "%s/key.pem", folder);
    snprintf(made.stranger, sizeof made.stranger, "%s/stranger.pem", folder);
    snprintf(made.client, sizeof made.client, "%s/client.pem", folder);
    snprintf(made.impostor, sizeof made.impostor, "%s/impostor.pem", folder);
    atexit(remove_certs);
    make_certs(ocsp_port);
    return &made;
}

/* ---- main -------------------------------------------------------------------------- */

int mongo_prepare(void)
{
    mongoc_log_set_handler(weir_mongo_log, NULL);
    return weir_mongo_selfcheck(NULL) == WEIR_OK ? 0 : 2;
}

int mongo_prepare_private(void)
{
    if (!private_mongo()) {
        printf("skipped: no private server (WEIR_MONGO_URI is not set; script/test sets it)\n");
        return LAB_SKIPPED;
    }
    if (!private_mongo_revive())
        return 2;
    return mongo_prepare();
}
