/*
 * test_mongo_operate.c - what an operator does to a pool while it serves: changes a password or a
 * certificate, cuts everybody off. On a server that does what it is told; a password is changed
 * on the private one, too, where there is one.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <detect.h>
#include <memory_search.h>
#include <private_mongo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <under_valgrind.h>
#include <unistd.h>
#include <vault.h>

#define USER "weir"
#define PASSWORD "the-second-one"

/* ---- credentials ------------------------------------------------------------------- */

/* Have the URI name the user, or nobody, and `vault` know the rest. */
static void ask_instead(struct mongo_scene *me, const char *user, struct vault *vault)
{
    explicit_bzero(me->uri, sizeof me->uri);
    snprintf(me->uri, sizeof me->uri, "mongodb://%s%s127.0.0.1:%u/?connectTimeoutMS=%d%s",
             user ? user : "", user ? "@" : "", mongo_mock_port(me->mock, 0),
             (int)(2000 * detect_slowness()), me->server.members > 1 ? "&replicaSet=weir" : "");
    me->opts.credentials = vault_ask;
    me->opts.credentials_arg = vault;
}

static weir_status acquire_at_last(struct mongo_scene *me, weir_error *err)
{
    double until = lab_now_ms() + 3000 * detect_slowness();

    for (;;) {
        weir_status st = weir_acquire(me->pool, lab_patience(5000), &me->lease, err);
        if (st != WEIR_CONNECT || lab_now_ms() > until)
            return st;
        (void)weir_sleep(weir_in_ms(20)); /* the pause after a failure */
    }
}

static weir_status begin_anew(struct mongo_scene *me)
{
    weir_error err;

    lab_need_ok(weir_pool_clear(me->pool, false, NULL, &err), &err);
    lab_need_ok(weir_pool_ready(me->pool, &err), &err);
    return WEIR_OK;
}

static weir_status rotate(struct mongo_scene *me)
{
    struct vault *vault = me->arg;
    weir_error    err;
    bson_error_t  error;

    /* Nobody has told the vault yet. */
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    lab_equal(err.native, 18);
    lab_equal(strcmp(vault->found, USER), 0);
    unsigned before = vault->asked;

    vault->password = PASSWORD;
    lab_need_ok(weir_pool_ready(me->pool, &err), &err);
    lab_need_ok(acquire_at_last(me, &err), &err);
    lab_check(vault->asked > before);
    lab_check(vault->last != weir_self());
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);
    before = vault->asked;
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);
    lab_equal(vault->asked, before);

    if (begin_anew(me) || mongo_lease(me))
        return WEIR_FAILED;
    lab_equal(vault->asked, before + 1);
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);
    return WEIR_OK;
}

static const struct mongo_mock_opts guarded = { .user = USER, .password = PASSWORD,
                                                .strict = true };

static void a_new_password_is_used_from_the_next_client_on(void **state)
{
    struct vault       vault = { .password = "the-first-one", .takes_ms = 2 };
    struct mongo_scene me = { .server = guarded, .body = rotate, .arg = &vault };

    (void)state;
    lab_secret(PASSWORD);
    mongo_scene_start(&me);
    ask_instead(&me, USER, &vault);
    mongo_scene_play(&me);
    lab_secret("");
}

struct hearing {
    struct vault vault;
    const char  *user; /* in the URI */
    weir_status  wanted;
    const char  *words;
    double       from_ms, to_ms;
    unsigned     asked;
};

static weir_status hear(struct mongo_scene *me)
{
    struct hearing *heard = me->arg;
    weir_error      err = { 0 };

    double start = lab_now_ms();
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), heard->wanted);
    if (heard->to_ms > 0)
        lab_took(lab_now_ms() - start, heard->from_ms, heard->to_ms);
    if (heard->words) {
        lab_tell("%s", err.message);
        lab_says(err.message, heard->words);
        lab_says(err.message, "cannot connect to ");
        lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    }
    lab_equal(heard->vault.asked, heard->asked);
    return WEIR_OK;
}

static void hear_of(struct hearing heard, weir_pool_opts pool)
{
    struct mongo_scene me = { .server = guarded, .opts.pool = pool, .body = hear, .arg = &heard };

    mongo_scene_start(&me);
    ask_instead(&me, heard.user, &heard.vault);
    mongo_scene_play(&me);
}

static void a_callback_that_fails_is_told_in_its_own_words(void **state)
{
    (void)state;
    hear_of((struct hearing){ .vault = { .refusal = WEIR_FAILED, .refusals = 1,
                                         .words = "the vault is sealed" },
                              .user = USER, .wanted = WEIR_CONNECT, .asked = 1, .to_ms = 1000,
                              .words = "the credentials callback failed: the vault is sealed" },
            (weir_pool_opts){ 0 });
}

static void a_callback_that_takes_too_long_ends_with_the_connect_timeout(void **state)
{
    (void)state;
    hear_of((struct hearing){ .vault = { .takes_ms = 60000 }, .user = USER,
                              .wanted = WEIR_CONNECT, .asked = 1, .from_ms = 299, .to_ms = 420,
                              .words = "the credentials callback failed: TIMEOUT" },
            (weir_pool_opts){ .connect_timeout_ms = 300 });
}

static void a_callback_without_descriptors_is_asked_again(void **state)
{
    (void)state;
    hear_of((struct hearing){ .vault = { .refusal = WEIR_BUSY, .refusals = 1,
                                         .password = PASSWORD },
                              .user = USER, .wanted = WEIR_OK, .asked = 2 },
            (weir_pool_opts){ 0 });
}

static void a_callback_names_the_user_where_the_uri_does_not(void **state)
{
    (void)state;
    hear_of((struct hearing){ .vault = { .user = USER, .password = PASSWORD },
                              .wanted = WEIR_OK, .asked = 1 }, (weir_pool_opts){ 0 });
    hear_of((struct hearing){ .vault = { .password = PASSWORD }, .wanted = WEIR_CONNECT,
                              .asked = 1, .words = "gave no user's name" },
            (weir_pool_opts){ 0 });
}

static void a_password_that_weir_cannot_prepare_is_told(void **state)
{
    (void)state;
    hear_of((struct hearing){ .vault = { .password = "p\xc3\xa4sswort" }, .user = USER,
                              .wanted = WEIR_CONNECT, .asked = 1, .words = "use ASCII alone" },
            (weir_pool_opts){ 0 });
}

/* A member that was of no use until now is logged in to when it is: by its user, for it is his call
   that waits for it. */
static weir_status follow_the_primary(struct mongo_scene *me)
{
    struct vault *vault = me->arg;
    bson_error_t  error;

    if (mongo_lease(me))
        return WEIR_FAILED;
    lab_equal(vault->asked, 1);
    lab_check(vault->last != weir_self());
    need_mongo(mongo_insert(weir_mongo(me->lease), "lab", 1, &error), error);
    mongo_mock_elect(me->mock, 1);
    lab_check(!mongo_insert(weir_mongo(me->lease), "lab", 2, &error)); /* no primary any more */
    need_mongo(mongo_insert(weir_mongo(me->lease), "lab", 3, &error), error);
    lab_equal(vault->asked, 2);
    lab_check(vault->last == weir_self());
    lab_equal(mongo_mock_counts(me->mock, 1).logins, 1);
    return WEIR_OK;
}

static void a_member_needed_later_is_logged_in_to_with_what_is_valid_then(void **state)
{
    struct vault       vault = { .password = PASSWORD };
    struct mongo_scene me = { .server = guarded, .body = follow_the_primary, .arg = &vault };

    (void)state;
    me.server.members = 3;
    mongo_scene_start(&me);
    ask_instead(&me, USER, &vault);
    mongo_scene_play(&me);
}

/* ---- nothing of it stays in memory ------------------------------------------------- */

/* The end of the password, under the mask. Of a piece of memory that was freed the first bytes are
   overwritten. */
static const unsigned char masked[] = {
    'w' ^ MEMORY_MASK, 'e' ^ MEMORY_MASK, 'i' ^ MEMORY_MASK, 'r' ^ MEMORY_MASK, '-' ^ MEMORY_MASK,
    's' ^ MEMORY_MASK, 'e' ^ MEMORY_MASK, 'c' ^ MEMORY_MASK, 'r' ^ MEMORY_MASK, '-' ^ MEMORY_MASK,
    '0' ^ MEMORY_MASK, '8' ^ MEMORY_MASK, '1' ^ MEMORY_MASK, '5' ^ MEMORY_MASK, '4' ^ MEMORY_MASK,
    '7' ^ MEMORY_MASK, '1' ^ MEMORY_MASK, '1' ^ MEMORY_MASK
};
#define BEGINNING "a-long-beginning-of-no-interest-"

struct search {
    bool  wrong; /* the server refuses it */
    bool  keep;  /* the callback keeps a copy: the search must see it */
    char *kept;
    long  found;
};

static void write_password(char *out)
{
    strcpy(out, BEGINNING);
    memory_unmask(masked, sizeof masked, out + strlen(BEGINNING));
}

static weir_status unmask_it(weir_credentials *credentials, void *arg, weir_error *err)
{
    struct search *me = arg;

    (void)err;
    write_password(credentials->password);
    if (me->keep)
        me->kept = strdup(credentials->password);
    return WEIR_OK;
}

static void search(void *arg)
{
    ((struct search *)arg)->found = memory_search(masked, sizeof masked);
}

static weir_status look_for_it(struct mongo_scene *me)
{
    struct search *searched = me->arg;
    weir_error     err;

    lab_equal(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err),
              searched->wrong ? WEIR_CONNECT : WEIR_OK);
    lab_equal(weir_offload(search, searched, WEIR_SCOPE), WEIR_OK);
    return WEIR_OK;
}

static void look_for_password(bool wrong, bool keep)
{
    char               password[80] = "something else";
    struct search      searched = { .wrong = wrong, .keep = keep };
    struct mongo_scene me = { .server = { .user = USER, .password = password },
                              .host = "127.0.0.1", .body = look_for_it, .arg = &searched };

    if (under_valgrind())
        skip(); /* its own memory is this process's, and there is much of it */
    if (!wrong)
        write_password(password);
    mongo_scene_start(&me);
    explicit_bzero(password, sizeof password);
    ask_instead(&me, USER, NULL);
    me.opts.credentials = unmask_it;
    me.opts.credentials_arg = &searched;
    mongo_scene_play(&me);
    if (searched.kept)
        explicit_bzero(searched.kept, strlen(searched.kept));
    free(searched.kept);
    assert_int_equal(searched.found, keep ? 1 : 0);
}

static void a_password_is_nowhere_in_memory_once_it_was_used(void **state)
{
    (void)state;
    look_for_password(false, true); /* or the search could not fail */
    look_for_password(false, false);
}

static void a_password_that_was_refused_is_nowhere_in_memory(void **state)
{
    (void)state;
    look_for_password(true, false);
}

/* ---- on the private server --------------------------------------------------------- */

struct order {
    const char *verb, *password;
    bool        done;
    char        why[600];
};

static void carry_out(void *arg)
{
    const struct private_mongo *s = private_mongo();
    struct order               *order = arg;
    mongoc_client_t            *client = mongoc_client_new(s->uri);
    bson_error_t                error = { 0 };
    bson_t                     *command = BCON_NEW(order->verb, "weir_rotated");

    if (order->password)
        BSON_APPEND_UTF8(command, "pwd", order->password);
    if (strcmp(order->verb, "createUser") == 0) {
        bson_t roles;
        BSON_APPEND_ARRAY_BEGIN(command, "roles", &roles);
        if (s->is_mongod) {
            bson_t role;
            BSON_APPEND_DOCUMENT_BEGIN(&roles, "0", &role);
            BSON_APPEND_UTF8(&role, "role", "readWrite");
            BSON_APPEND_UTF8(&role, "db", s->database);
            bson_append_document_end(&roles, &role);
        }
        bson_append_array_end(command, &roles);
    }
    order->done = mongoc_client_command_simple(client, s->auth_source, command, NULL, NULL, &error);
    snprintf(order->why, sizeof order->why, "%s", error.message);
    bson_destroy(command);
    mongoc_client_destroy(client);
}

static weir_status have_it_done(const char *verb, const char *password)
{
    struct order order = { .verb = verb, .password = password };

    lab_equal(weir_offload(carry_out, &order, WEIR_SCOPE), WEIR_OK);
    if (!order.done)
        lab_record(WEIR_HERE, "%s: %s", verb, order.why);
    return order.done ? WEIR_OK : WEIR_FAILED;
}

static weir_status rotate_for_real(void *arg)
{
    const struct private_mongo *s = private_mongo();
    struct vault               *vault = arg;
    char                        uri[300];
    weir_mongo_opts             opts = { .uri = uri, .credentials = vault_ask,
                                         .credentials_arg = vault };
    struct mongo_scene          me = { 0 };
    struct order                forget = { .verb = "dropUser" };
    bson_error_t                error;
    weir_error                  err;
    weir_autoptr(weir_pool) pool = NULL;

    lab_equal(weir_offload(carry_out, &forget, WEIR_SCOPE), WEIR_OK); /* of a run that was killed */
    if (have_it_done("createUser", "the-first-one"))
        return WEIR_FAILED;
    vault->password = "the-first-one";
    snprintf(uri, sizeof uri, "mongodb://weir_rotated@%s:%u/%s?authSource=%s", s->host, s->port,
             s->database, s->auth_source);
    lab_need_ok(weir_mongo_pool_new(&opts, &pool, &err), &err);
    me.pool = pool;
    if (mongo_lease(&me))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me.lease), s->database, 0, &error) >= 0, error);

    /* Who is in stays in; who comes new must know. */
    if (have_it_done("updateUser", PASSWORD))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me.lease), s->database, 0, &error) >= 0, error);
    lab_equal(weir_release(me.lease), WEIR_OK);
    me.lease = NULL;
    if (begin_anew(&me))
        return WEIR_FAILED;
    lab_equal(weir_acquire(pool, lab_patience(5000), &me.lease, &err), WEIR_CONNECT);
    lab_equal(err.native, 18);

    vault->password = PASSWORD;
    lab_need_ok(weir_pool_ready(pool, &err), &err);
    lab_need_ok(acquire_at_last(&me, &err), &err);
    need_mongo(mongo_find(weir_mongo(me.lease), s->database, 0, &error) >= 0, error);
    lab_equal(weir_release(me.lease), WEIR_OK);
    lab_pool_end(&pool);
    return have_it_done("dropUser", NULL);
}

static void a_password_changed_on_the_private_server_is_no_restart(void **state)
{
    struct vault vault = { 0 };

    (void)state;
    if (!private_mongo() || !private_mongo_revive()) {
        printf("             skipped: no private server (WEIR_MONGO_URI is not set)\n");
        skip();
    }
    lab_secret(PASSWORD);
    lab_run(rotate_for_real, &vault);
    lab_secret("");
}

/* ---- cut off ----------------------------------------------------------------------- */

struct holder {
    struct mongo_scene *scene;
    bool                rests; /* in no call */
    bool                at_it;
    weir_status         status, again;
    weir_error          err;
    double              felt_ms;
};

static weir_status hold(void *arg)
{
    struct holder *me = arg;
    bson_error_t   error;
    weir_lease    *lease = NULL;

    lab_need_ok(weir_acquire(me->scene->pool, lab_patience(5000), &lease, &me->err), &me->err);
    if (me->rests)
        (void)weir_sleep(lab_patience(150));
    lab_equal(mongo_find(weir_mongo(lease), "lab", 0, &error), -1);
    me->felt_ms = lab_now_ms();
    me->status = weir_mongo_error(lease, &error, &me->err);
    lab_check(!mongo_ping(weir_mongo(lease), &error));
    me->again = weir_lease_error(lease, NULL);
    lab_equal(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

static weir_status cut_off(struct mongo_scene *me)
{
    struct holder *holder = me->arg;
    weir_error     err;
    bson_error_t   error;
    weir_autoptr(weir_group) group = NULL;

    holder->scene = me;
    if (!holder->rests)
        mongo_mock_rule(me->mock, MOCK_EVERY, &(struct mock_rule){ .command = "find",
                                                                   .deed = MOCK_SILENT });
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, hold, holder);
    (void)weir_sleep(lab_patience(100));
    double start = lab_now_ms();
    lab_equal(weir_pool_clear(me->pool, true, NULL, NULL), WEIR_OK);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    lab_tell("%.0f ms: %s %d %s", holder->felt_ms - start, weir_status_name(holder->status),
             holder->err.outcome, holder->err.message);
    if (!holder->rests)
        lab_took(holder->felt_ms - start, 0, 50);
    lab_check(lab_settle(me->pool, 0, 1000));
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_STALE], 1);

    mongo_mock_forget(me->mock);
    lab_equal(weir_pool_ready(me->pool, NULL), WEIR_OK);
    if (mongo_lease(me))
        return WEIR_FAILED;
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);
    return WEIR_OK;
}

static void cut_off_and_expect(const struct lab_way *way, bool rests, weir_outcome outcome)
{
    const struct mongo_certs *certs = mongo_certs(0);
    struct holder             holder = { .rests = rests };
    struct mongo_scene        me = { .body = cut_off, .arg = &holder };

    if (way->tls) {
        me.server.tls_cert = certs->cert;
        me.server.tls_key = certs->key;
        me.opts.tls_ca = certs->ca;
    }
    mongo_scene_run(&me);
    assert_int_equal(holder.status, WEIR_LOST);
    assert_int_equal(holder.again, WEIR_LOST);
    assert_int_equal(holder.err.outcome, outcome);
    assert_non_null(strstr(holder.err.message, "cleared"));
}

static void a_command_that_is_cut_off_fails_at_once_as_lost(void **state)
{
    cut_off_and_expect(*state, false, WEIR_OUTCOME_UNKNOWN);
}

static void a_holder_who_is_cut_off_between_calls_hears_it_in_the_next(void **state)
{
    cut_off_and_expect(*state, true, WEIR_OUTCOME_NOT_SENT);
}

/* The primary is one no more, and no member says who is: the library polls them all. */
static weir_status search_for_primary(void *arg)
{
    struct holder *me = arg;
    bson_error_t   error;
    weir_lease    *lease = NULL;

    lab_need_ok(weir_acquire(me->scene->pool, lab_patience(5000), &lease, &me->err), &me->err);
    mongo_mock_rule(me->scene->mock, MOCK_EVERY, &(struct mock_rule){ .command = "hello",
                                                                      .deed = MOCK_SILENT });
    mongo_mock_elect(me->scene->mock, 1);
    lab_check(!mongo_insert(weir_mongo(lease), "lab", 1, &error));
    me->at_it = true;
    lab_check(!mongo_insert(weir_mongo(lease), "lab", 2, &error));
    me->felt_ms = lab_now_ms();
    me->status = weir_mongo_error(lease, &error, &me->err);
    lab_equal(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

static weir_status cut_off_in_search(struct mongo_scene *me)
{
    struct holder *holder = me->arg;
    weir_error     err;
    weir_autoptr(weir_group) group = NULL;

    holder->scene = me;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, search_for_primary, holder);
    (void)weir_sleep(weir_in_ms(900)); /* it sleeps for half a second before it polls */
    double start = lab_now_ms();
    lab_check(holder->at_it && holder->felt_ms == 0.0);
    lab_equal(weir_pool_clear(me->pool, true, NULL, NULL), WEIR_OK);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    lab_tell("%.0f ms: %s %s", holder->felt_ms - start, weir_status_name(holder->status),
             holder->err.message);
    lab_took(holder->felt_ms - start, 0, 50);
    lab_equal(holder->status, WEIR_LOST);
    lab_says(holder->err.message, "cleared");
    return WEIR_OK;
}

static void a_search_for_a_server_is_cut_off_at_once_too(void **state)
{
    struct holder      holder = { 0 };
    struct mongo_scene me = { .server.members = 3, .body = cut_off_in_search, .arg = &holder };

    (void)state;
    mongo_scene_run(&me);
}

/* ---- certificates ------------------------------------------------------------------ */

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

static weir_status renew_certificates(struct mongo_scene *me)
{
    const struct mongo_certs *certs = mongo_certs(0);
    const char               *ca = me->opts.tls_ca;
    weir_lease               *other = NULL;
    weir_error                err;
    bson_error_t              error;

    if (mongo_lease(me))
        return WEIR_FAILED;
    lab_check(copy_file(certs->stranger, ca));
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);

    /* Until the pool is cleared it believes what it has read. */
    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &other, &err), &err);
    lab_equal(weir_release(other), WEIR_OK);
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    if (begin_anew(me))
        return WEIR_FAILED;
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    lab_says(err.message, "certificate verify failed");

    /* A file that is of no use is named, and tried again when the next client is opened. */
    lab_equal(unlink(ca), 0);
    if (begin_anew(me))
        return WEIR_FAILED;
    lab_equal(weir_acquire(me->pool, lab_patience(5000), &me->lease, &err), WEIR_CONNECT);
    lab_tell("%s", err.message);
    lab_says(err.message, "cannot connect to 127.0.0.1");
    lab_says(err.message, ca);
    lab_check(copy_file(certs->ca, ca));
    lab_need_ok(acquire_at_last(me, &err), &err);
    need_mongo(mongo_find(weir_mongo(me->lease), "lab", 0, &error) >= 0, error);
    return WEIR_OK;
}

static void certificates_are_read_again_after_a_clear(void **state)
{
    const struct mongo_certs *certs = mongo_certs(0);
    char                      ca[160];
    struct mongo_scene        me = { .server = { .tls_cert = certs->cert, .tls_key = certs->key },
                                     .opts.tls_ca = ca, .body = renew_certificates };

    (void)state;
    snprintf(ca, sizeof ca, "%s.now", certs->ca);
    assert_true(copy_file(certs->ca, ca));
    mongo_scene_run(&me);
    unlink(ca);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(a_new_password_is_used_from_the_next_client_on),
        LAB_TCP(a_callback_that_fails_is_told_in_its_own_words),
        LAB_TCP(a_callback_that_takes_too_long_ends_with_the_connect_timeout),
        LAB_TCP(a_callback_without_descriptors_is_asked_again),
        LAB_TCP(a_callback_names_the_user_where_the_uri_does_not),
        LAB_TCP(a_password_that_weir_cannot_prepare_is_told),
        LAB_TCP(a_member_needed_later_is_logged_in_to_with_what_is_valid_then),
        LAB_TCP(a_password_is_nowhere_in_memory_once_it_was_used),
        LAB_TCP(a_password_that_was_refused_is_nowhere_in_memory),
        LAB_TCP(a_password_changed_on_the_private_server_is_no_restart),
        LAB_PLAIN_AND_TLS(a_command_that_is_cut_off_fails_at_once_as_lost),
        LAB_PLAIN_AND_TLS(a_holder_who_is_cut_off_between_calls_hears_it_in_the_next),
        LAB_TCP(a_search_for_a_server_is_cut_off_at_once_too),
        LAB_TLS(certificates_are_read_again_after_a_clear),
    };
    return mongo_main(argc, argv, tests);
}
