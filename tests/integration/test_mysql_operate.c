/*
 * test_mysql_operate.c - what an operator does to a pool while it serves: changes a password or a
 * certificate, cuts everybody off.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <memory_search.h>
#include <mysql_internal.h>
#include <under_valgrind.h>
#include <vault.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define USER "weir_rotated"

/* ---- credentials --------------------------------------------------------------------- */

static weir_mysql_opts opts_with(const struct lab_way *way, struct vault *vault)
{
    weir_mysql_opts opts = lab_opts(way);

    opts.user = USER;
    opts.password = NULL;
    opts.credentials = vault_ask;
    opts.credentials_arg = vault;
    return opts;
}

static void set_password(const char *password)
{
    char sql[200];

    snprintf(sql, sizeof sql, "CREATE OR REPLACE USER " USER "@'%%' IDENTIFIED BY '%s'", password);
    lab_equal(admin_do(sql), 0);
    lab_equal(admin_do("GRANT ALL ON weir_test.* TO " USER "@'%'"), 0);
}

static weir_status lease_or_words(weir_pool *pool, weir_lease **lease, weir_error *err)
{
    err->message[0] = '\0';
    return weir_acquire(pool, lab_patience(5000), lease, err);
}

/* A way to the server, and who is asked on it. */
struct visit {
    const struct lab_way *way;
    struct vault          vault;
};

static weir_status rotate(void *arg)
{
    struct visit   *me = arg;
    struct vault   *vault = &me->vault;
    weir_mysql_opts opts = opts_with(me->way, vault);
    weir_error      err;
    weir_lease     *old = NULL, *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    vault->password = "the-first-one";
    set_password(vault->password);
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_equal(vault->asked, 0);
    lab_need_ok(lease_or_words(pool, &old, &err), &err);
    lab_equal(vault->asked, 1);
    lab_equal(strcmp(vault->found, USER), 0);
    lab_check(vault->last != weir_self());

    /* Those who are in stay in, also when they come back. */
    lab_equal(admin_do("ALTER USER " USER "@'%' IDENTIFIED BY 'the-second-one'"), 0);
    lab_equal(sql_number(weir_mysql(old), "SELECT 31"), 31);
    lab_equal(weir_release(old), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 32"), 0);
    lab_equal(vault->asked, 1);

    /* Nobody has told the vault yet. */
    lab_equal(weir_pool_clear(pool, false, NULL, NULL), WEIR_OK);
    lab_equal(weir_pool_ready(pool, NULL), WEIR_OK);
    lab_equal(lease_or_words(pool, &lease, &err), WEIR_CONNECT);
    lab_equal(err.native, 1045);
    lab_says(err.message, USER);

    vault->password = "the-second-one";
    lab_equal(weir_pool_ready(pool, NULL), WEIR_OK);
    double until = lab_now_ms() + 3000;
    while (lease_or_words(pool, &lease, &err) == WEIR_CONNECT && lab_now_ms() < until)
        (void)weir_sleep(weir_in_ms(20)); /* the pause after a failure */
    lab_need(lease);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 33"), 33);
    lab_between(vault->asked, 3, 6);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_new_password_is_used_from_the_next_connection_on(void **state)
{
    struct visit me = { .way = *state, .vault = { .takes_ms = 2 } };

    lab_secret("the-second-one");
    lab_run(rotate, &me);
    lab_secret("");
}

/* One acquire; what is heard of it is the test's. */
struct hearing {
    const struct lab_way *way;
    struct vault          vault;
    weir_pool_opts        pool;
    weir_status           wanted;
    const char           *words;
    double                from_ms, to_ms;
    unsigned              asked;
};

static weir_status hear(void *arg)
{
    struct hearing *me = arg;
    weir_mysql_opts opts = opts_with(me->way, &me->vault);
    weir_error      err = { 0 };
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    set_password("right");
    opts.pool = me->pool;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    double start = lab_now_ms();
    lab_equal(weir_acquire(pool, lab_patience(5000), &lease, &err), me->wanted);
    if (me->to_ms > 0)
        lab_took(lab_now_ms() - start, me->from_ms, me->to_ms);
    if (me->words) {
        lab_tell("%s", err.message);
        lab_says(err.message, me->words);
        lab_says(err.message, "cannot connect to ");
        lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    }
    lab_equal(me->vault.asked, me->asked);
    if (lease)
        lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_callback_that_fails_is_told_in_its_own_words(void **state)
{
    struct hearing me = { .way = *state, .vault = { .refusal = WEIR_FAILED, .refusals = 1,
                                     .words = "the vault is sealed" },
                          .wanted = WEIR_CONNECT, .asked = 1, .to_ms = 1000,
                          .words = "the credentials callback failed: the vault is sealed" };
    lab_run(hear, &me);
}

static void a_callback_that_takes_too_long_ends_with_the_connect_timeout(void **state)
{
    struct hearing me = { .way = *state, .vault = { .takes_ms = 60000, .password = "right" },
                          .pool.connect_timeout_ms = 300,
                          .wanted = WEIR_CONNECT, .asked = 1, .from_ms = 299, .to_ms = 400,
                          .words = "the credentials callback failed: TIMEOUT" };
    lab_run(hear, &me);
}

static void a_callback_without_descriptors_is_asked_again(void **state)
{
    struct hearing me = { .way = *state, .vault = { .refusal = WEIR_BUSY, .refusals = 1,
                                     .password = "right" },
                          .wanted = WEIR_OK, .asked = 2 };
    lab_run(hear, &me);
}

static void a_password_that_may_have_been_cut_short_is_not_tried(void **state)
{
    struct hearing me = { .way = *state, .vault = { .fills = true },
                          .wanted = WEIR_CONNECT, .asked = 1, .words = "cut short" };
    lab_run(hear, &me);
}

static weir_status close_meanwhile(void *arg)
{
    struct visit   *me = arg;
    weir_mysql_opts opts = opts_with(me->way, &me->vault);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.min_idle = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    (void)weir_sleep(weir_in_ms(50));
    lab_equal(me->vault.asked, 1);
    double start = lab_now_ms();
    lab_pool_end(&pool);
    lab_took(lab_now_ms() - start, 0, 100);
    return WEIR_OK;
}

static void a_pool_that_is_closed_does_not_wait_for_a_callback(void **state)
{
    struct visit me = { .way = *state, .vault.takes_ms = 60000 };
    lab_run(close_meanwhile, &me);
}

/* Another user's name from the callback; and a session that must log in anew asks it, too. */
static weir_status become_another(void *arg)
{
    struct visit                *me = arg;
    struct vault                *vault = &me->vault;
    const struct private_server *s = private_server();
    weir_mysql_opts              opts = opts_with(me->way, vault);
    char                         name[80];
    weir_error                   err;
    weir_lease                  *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    set_password("right");
    vault->user = USER;
    vault->password = "right";
    opts.user = NULL;
    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(lease_or_words(pool, &lease, &err), &err);
    lab_equal(strcmp(vault->found, ""), 0);
    lab_says(sql_text(weir_mysql(lease), name, sizeof name, "SELECT CURRENT_USER()"), USER "@");
    lab_equal(mysql_change_user(weir_mysql(lease), s->user, s->password, NULL), 0);
    lab_equal(weir_release(lease), WEIR_OK);

    lab_need_ok(lease_or_words(pool, &lease, &err), &err);
    lab_equal(vault->asked, 2);
    lab_equal(lab_stats(pool).opened, 1);
    lab_says(sql_text(weir_mysql(lease), name, sizeof name, "SELECT CURRENT_USER()"), USER "@");
    lab_equal(mysql_change_user(weir_mysql(lease), s->user, s->password, NULL), 0);
    vault->refusals = 1;
    vault->refusal = WEIR_FAILED;
    vault->words = "the vault is sealed";
    lab_equal(weir_release(lease), WEIR_OK); /* it cannot be put right, and nobody may inherit it */

    lab_need_ok(lease_or_words(pool, &lease, &err), &err);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_RESET_FAILED], 1);
    lab_equal(lab_logged("the vault is sealed"), 1);
    lab_says(sql_text(weir_mysql(lease), name, sizeof name, "SELECT CURRENT_USER()"), USER "@");
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_callback_names_the_user_and_is_asked_where_he_logs_in_anew(void **state)
{
    struct visit me = { .way = *state };
    lab_run(become_another, &me);
}

/* ---- nothing of it stays in memory --------------------------------------------------- */

/* The end of the password, under the mask; all others get along with its hash. */
static const unsigned char masked[] = {
    'w' ^ MEMORY_MASK, 'e' ^ MEMORY_MASK, 'i' ^ MEMORY_MASK, 'r' ^ MEMORY_MASK, '-' ^ MEMORY_MASK,
    's' ^ MEMORY_MASK, 'e' ^ MEMORY_MASK, 'c' ^ MEMORY_MASK, 'r' ^ MEMORY_MASK, '-' ^ MEMORY_MASK,
    '0' ^ MEMORY_MASK, '8' ^ MEMORY_MASK, '1' ^ MEMORY_MASK, '5' ^ MEMORY_MASK, '4' ^ MEMORY_MASK,
    '7' ^ MEMORY_MASK, '1' ^ MEMORY_MASK, '1' ^ MEMORY_MASK
};

/* Of a piece of memory that was freed the first bytes are overwritten. The server keeps SHA-1 of
   the SHA-1 of both together. */
#define BEGINNING "a-long-beginning-of-no-interest-"
#define HASH "*CFC12078E4D8DB2EB275A7C86CD593CAD984A58B"

struct search {
    bool       wrong; /* the server refuses it */
    bool       keep;  /* the callback keeps a copy: the search must see it */
    char      *kept;
    weir_mysql_opts opts;
    long       found;
};

static weir_status unmask_it(weir_credentials *credentials, void *arg, weir_error *err)
{
    struct search *me = arg;

    (void)err;
    strcpy(credentials->password, BEGINNING);
    memory_unmask(masked, sizeof masked, credentials->password + strlen(BEGINNING));
    if (me->keep)
        me->kept = strdup(credentials->password);
    return WEIR_OK;
}

static void search(void *arg)
{
    ((struct search *)arg)->found = memory_search(masked, sizeof masked);
}

static weir_status look_for_it(void *arg)
{
    struct search *me = arg;
    weir_error     err;
    weir_lease    *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    lab_equal(admin_do("CREATE OR REPLACE USER " USER "@'%' IDENTIFIED BY PASSWORD '" HASH "'"), 0);
    if (me->wrong)
        lab_equal(admin_do("ALTER USER " USER "@'%' IDENTIFIED BY 'something else'"), 0);
    lab_equal(admin_do("GRANT ALL ON weir_test.* TO " USER "@'%'"), 0);
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    lab_equal(weir_acquire(pool, lab_patience(5000), &lease, &err),
              me->wrong ? WEIR_CONNECT : WEIR_OK);
    if (me->wrong)
        lab_equal(err.native, 1045);
    lab_equal(weir_offload(search, me, WEIR_SCOPE), WEIR_OK);
    if (lease)
        lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void look_for_password(const struct lab_way *way, bool wrong, bool keep)
{
    struct search me = { .wrong = wrong, .keep = keep, .opts = lab_opts(way) };

    if (under_valgrind())
        skip(); /* its own memory is this process's, and there is much of it */
    me.opts.user = USER;
    me.opts.password = NULL;
    me.opts.credentials = unmask_it;
    me.opts.credentials_arg = &me;
    lab_run(look_for_it, &me);
    if (me.kept)
        explicit_bzero(me.kept, strlen(me.kept));
    free(me.kept);
    assert_int_equal(me.found, keep ? 1 : 0);
}

static void a_password_is_nowhere_in_memory_once_it_was_used(void **state)
{
    look_for_password(*state, false, true); /* or the search could not fail */
    look_for_password(*state, false, false);
}

static void a_password_that_was_refused_is_nowhere_in_memory(void **state)
{
    look_for_password(*state, true, false);
}

/* ---- cut off ------------------------------------------------------------------------- */

struct holder {
    const struct lab_way *way;
    weir_pool            *pool;
    bool                  fetches; /* in the middle of rows; else in a query */
    bool                  rests;   /* in no call at all */
    bool                  spared;  /* clear without interrupt */
    weir_status           status;
    weir_error            err;
    double                felt_ms; /* 0: he is at it */
};

static void query_or_fetch(struct holder *me, MYSQL *my)
{
    MYSQL_RES *res;

    if (me->rests) {
        (void)weir_sleep(lab_patience(150));
        lab_check(mysql_query(my, "SELECT 1"));
        return;
    }
    if (!me->fetches) {
        lab_equal(!mysql_query(my, "SELECT SLEEP(0.6)"), me->spared);
        if (me->spared)
            mysql_free_result(mysql_store_result(my));
        return;
    }
    /* The second row takes longer than we have. */
    lab_equal(mysql_query(my, "SELECT seq, IF(seq > 1000, SLEEP(2), REPEAT('x', 1000)) "
                              "FROM weir_test.seq_1_to_1010"), 0);
    res = mysql_use_result(my);
    unsigned rows = 0;
    while (res && mysql_fetch_row(res))
        rows++;
    lab_between(rows, 1, 1005);
    lab_equal(mysql_errno(my) != 0, 1);
    mysql_free_result(res);
}

static weir_status hold(void *arg)
{
    struct holder *me = arg;
    weir_lease    *lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &me->err), &me->err);
    query_or_fetch(me, weir_mysql(lease));
    me->felt_ms = lab_now_ms();
    me->status = weir_lease_error(lease, &me->err);
    if (!me->spared) { /* and so does each later call */
        weir_error again;
        lab_check(mysql_query(weir_mysql(lease), "SELECT 2"));
        lab_equal(weir_lease_error(lease, &again), WEIR_LOST);
    }
    lab_equal(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

static weir_status cut_off(void *arg)
{
    struct holder  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, hold, me);
    (void)weir_sleep(weir_in_ms(100));
    double start = lab_now_ms();
    lab_equal(weir_pool_clear(pool, !me->spared, NULL, NULL), WEIR_OK);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    lab_tell("%.0f ms: %s %d %s", me->felt_ms - start, weir_status_name(me->status),
             me->err.outcome, me->err.message);
    if (me->spared)
        lab_check(me->felt_ms - start > 400);
    else if (!me->rests)
        lab_took(me->felt_ms - start, 0, 50);
    lab_check(lab_settle(pool, 0, 1000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_STALE], 1);

    lab_equal(weir_pool_ready(pool, NULL), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 3"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_query_that_is_cut_off_fails_at_once_as_lost(void **state)
{
    struct holder me = { .way = *state };

    lab_run(cut_off, &me);
    assert_int_equal(me.status, WEIR_LOST);
    assert_int_equal(me.err.outcome, WEIR_OUTCOME_UNKNOWN);
    assert_non_null(strstr(me.err.message, "cleared"));
}

/* With a library that is not quite the one we know. There is no way back: it comes last. */
static void a_query_on_a_connection_held_plainly_is_cut_off_too(void **state)
{
    my_library_doubt("a test says so");
    a_query_that_is_cut_off_fails_at_once_as_lost(state);
}

static void rows_that_are_cut_off_fail_at_once_as_lost(void **state)
{
    struct holder me = { .way = *state, .fetches = true };

    lab_run(cut_off, &me);
    assert_int_equal(me.status, WEIR_LOST);
    assert_non_null(strstr(me.err.message, "cleared"));
}

static void a_holder_who_is_cut_off_between_calls_hears_it_in_the_next(void **state)
{
    struct holder me = { .way = *state, .rests = true };

    lab_run(cut_off, &me);
    assert_int_equal(me.status, WEIR_LOST);
    assert_int_equal(me.err.outcome, WEIR_OUTCOME_NOT_SENT);
}

static void without_interrupt_a_holder_goes_on(void **state)
{
    struct holder me = { .way = *state, .spared = true };

    lab_run(cut_off, &me);
    assert_int_equal(me.status, WEIR_OK);
}

/* ---- certificates -------------------------------------------------------------------- */

/* A certificate for db.weir.test that has signed itself, and so is its own authority. */
static bool write_pair(const char *cert_path, const char *key_path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509     *cert = X509_new();
    FILE     *cert_file = fopen(cert_path, "we"), *key_file = fopen(key_path, "we");
    bool      ok = key && cert && cert_file && key_file;

    if (ok) {
        X509_NAME      *name = X509_get_subject_name(cert);
        X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
                                                    "DNS:db.weir.test");
        X509_set_version(cert, 2);
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"rotated", -1,
                                   -1, 0);
        ASN1_INTEGER_set(X509_get_serialNumber(cert), 7);
        X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
        X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
        X509_set_issuer_name(cert, name);
        X509_set_pubkey(cert, key);
        ok = X509_add_ext(cert, names, -1) && X509_sign(cert, key, EVP_sha256()) &&
             PEM_write_X509(cert_file, cert) &&
             PEM_write_PrivateKey(key_file, key, NULL, NULL, 0, NULL, NULL);
        X509_EXTENSION_free(names);
    }
    if (cert_file)
        fclose(cert_file);
    if (key_file)
        fclose(key_file);
    X509_free(cert);
    EVP_PKEY_free(key);
    return ok;
}

static bool copy_file(const char *from, const char *to)
{
    char  buffer[16384];
    FILE *in = fopen(from, "re"), *out = fopen(to, "we");
    bool  ok = in && out;

    if (ok) {
        size_t size = fread(buffer, 1, sizeof buffer, in);
        ok = size && size < sizeof buffer && fwrite(buffer, 1, size, out) == size;
    }
    if (in)
        fclose(in);
    if (out)
        ok = fclose(out) == 0 && ok;
    return ok;
}

/* The server's files, where they were put aside, the new ones, and the pool's. */
static struct {
    char cert[300], key[300], old_cert[300], old_key[300], new_cert[300], new_key[300], ca[300];
} files;

static void name_files(void)
{
    const char *dir = private_server()->dir;

    snprintf(files.cert, sizeof files.cert, "%s/server.pem", dir);
    snprintf(files.key, sizeof files.key, "%s/server.key", dir);
    snprintf(files.old_cert, sizeof files.old_cert, "%s/old.%d.pem", dir, getpid());
    snprintf(files.old_key, sizeof files.old_key, "%s/old.%d.key", dir, getpid());
    snprintf(files.new_cert, sizeof files.new_cert, "%s/new.%d.pem", dir, getpid());
    snprintf(files.new_key, sizeof files.new_key, "%s/new.%d.key", dir, getpid());
    snprintf(files.ca, sizeof files.ca, "%s/ca.%d.pem", dir, getpid());
}

static weir_status renew_certificates(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_error      err;
    weir_lease     *old = NULL, *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.tls_ca = files.ca;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &old, &err), &err);

    lab_check(copy_file(files.new_cert, files.cert) && copy_file(files.new_key, files.key));
    lab_equal(admin_do("FLUSH SSL"), 0);
    lab_equal(sql_number(weir_mysql(old), "SELECT 41"), 41); /* goes on as it began */
    lab_equal(weir_release(old), WEIR_OK);

    /* The server is a stranger's, as far as our file tells. */
    lab_equal(weir_pool_clear(pool, false, NULL, NULL), WEIR_OK);
    lab_equal(weir_pool_ready(pool, NULL), WEIR_OK);
    lab_equal(weir_acquire(pool, lab_patience(5000), &lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    lab_check(strcasestr(err.message, "certificate") != NULL);

    lab_check(copy_file(files.new_cert, files.ca));
    lab_equal(weir_pool_clear(pool, false, NULL, NULL), WEIR_OK);
    lab_equal(weir_pool_ready(pool, NULL), WEIR_OK);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 42"), 42);
    lab_check(mysql_get_ssl_cipher(weir_mysql(lease)) != NULL);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static int put_files_back(void **state)
{
    (void)state;
    if (access(files.old_cert, R_OK) == 0) {
        assert_true(copy_file(files.old_cert, files.cert) && copy_file(files.old_key, files.key));
        assert_int_equal(admin_do("FLUSH SSL"), 0);
    }
    unlink(files.old_cert);
    unlink(files.old_key);
    unlink(files.new_cert);
    unlink(files.new_key);
    unlink(files.ca);
    return 0;
}

static void certificates_are_read_again_after_a_clear(void **state)
{
    name_files();
    assert_true(copy_file(files.cert, files.old_cert) && copy_file(files.key, files.old_key));
    assert_true(write_pair(files.new_cert, files.new_key));
    assert_true(copy_file(private_server()->ca, files.ca));
    lab_run(renew_certificates, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_new_password_is_used_from_the_next_connection_on),
        LAB_UNIX(a_callback_that_fails_is_told_in_its_own_words),
        LAB_TCP(a_callback_that_takes_too_long_ends_with_the_connect_timeout),
        LAB_TCP(a_callback_without_descriptors_is_asked_again),
        LAB_UNIX(a_password_that_may_have_been_cut_short_is_not_tried),
        LAB_TCP(a_pool_that_is_closed_does_not_wait_for_a_callback),
        LAB_PLAIN_AND_TLS(a_callback_names_the_user_and_is_asked_where_he_logs_in_anew),
        LAB_EVERY_WAY(a_password_is_nowhere_in_memory_once_it_was_used),
        LAB_EVERY_WAY(a_password_that_was_refused_is_nowhere_in_memory),
        LAB_EVERY_WAY(a_query_that_is_cut_off_fails_at_once_as_lost),
        LAB_PLAIN_AND_TLS(rows_that_are_cut_off_fail_at_once_as_lost),
        LAB_PLAIN_AND_TLS(a_holder_who_is_cut_off_between_calls_hears_it_in_the_next),
        LAB_TCP(without_interrupt_a_holder_goes_on),
        { "certificates_are_read_again_after_a_clear (tls)",
          certificates_are_read_again_after_a_clear, lab_setup, put_files_back,
          (void *)&lab_tls },
        LAB_TCP(a_query_on_a_connection_held_plainly_is_cut_off_too),
    };
    return lab_main(argc, argv, tests);
}
