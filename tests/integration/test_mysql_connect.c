/*
 * test_mysql_connect.c - what keeps a connection from being opened: wrong settings, a server
 * that refuses or never answers, no descriptor left. One clear error each, in time, or a wait
 * where waiting helps.
 *
 * The password used where a login fails is watched for in every message.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <relay.h>

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CONNECT_MS = 400 };

static const char secret[] = "hunter2-of-the-tests";

/* ---- no way to a connection ---------------------------------------------------------- */

struct refusal {
    weir_mysql_opts opts;
    weir_status     status;
    weir_error      err;
    double          took_ms;
};

static weir_status knock(void *arg)
{
    struct refusal *r = arg;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&r->opts, &pool))
        return WEIR_FAILED;
    double start = lab_now_ms();
    r->status = weir_acquire(pool, weir_in_ms(5000), &lease, &r->err);
    r->took_ms = lab_now_ms() - start;
    if (lease)
        lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).acquired, 0);
    lab_check(lab_stats(pool).connect_failures >= 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void expect_refusal(struct refusal *r, const char *word, int native, double from_ms,
                           double to_ms)
{
    r->opts.pool.connect_timeout_ms = CONNECT_MS;
    lab_secret(secret);
    lab_run(knock, r);
    lab_tell("%.0f ms: %s %d [%s] %s", r->took_ms, weir_status_name(r->status), r->err.native,
             r->err.sqlstate, r->err.message);
    assert_int_equal(r->status, WEIR_CONNECT);
    assert_int_equal(r->err.status, WEIR_CONNECT);
    assert_int_equal(r->err.outcome, WEIR_OUTCOME_NOT_SENT);
    assert_non_null(strstr(r->err.message, word));
    assert_null(strstr(r->err.message, secret));
    if (native)
        assert_int_equal(r->err.native, native);
    assert_true(lab_in_time(r->took_ms, from_ms, to_ms));
}

static void a_wrong_password_is_told_in_the_servers_words(void **state)
{
    struct refusal r = { .opts = lab_opts(*state) };
    r.opts.password = secret;
    expect_refusal(&r, "Access denied", 1045, 0, 200);
    assert_string_equal(r.err.sqlstate, "28000");
}

static void an_unknown_database_is_told_in_the_servers_words(void **state)
{
    struct refusal r = { .opts = lab_opts(*state) };
    r.opts.database = "no_such_database";
    expect_refusal(&r, "no_such_database", 1049, 0, 200);
    assert_string_equal(r.err.sqlstate, "42000");
}

static void an_unknown_host_is_named(void **state)
{
    struct refusal r = { .opts = lab_opts(&lab_tls) };
    (void)state;
    r.opts.host = "nowhere.test";
    expect_refusal(&r, "nowhere.test", 0, 0, 200);
}

static void a_lookup_that_hangs_ends_at_the_connect_deadline(void **state)
{
    struct refusal r = { .opts = lab_opts(&lab_tls) };
    (void)state;
    r.opts.host = "db.hang.test";
    expect_refusal(&r, "db.hang.test", 0, CONNECT_MS - 10, CONNECT_MS + 150);
}

static void a_port_where_nobody_listens_refuses_at_once(void **state)
{
    struct refusal r = { .opts = lab_opts(*state) };
    r.opts.port = port_refused();
    assert_true(r.opts.port > 0);
    expect_refusal(&r, "(111", 2002, 0, 200);
}

static void a_unix_socket_that_is_not_there_refuses_at_once(void **state)
{
    struct refusal r = { .opts = lab_opts(*state) };
    r.opts.socket = "/nonexistent/server.sock";
    expect_refusal(&r, "/nonexistent/server.sock", 0, 0, 200);
}

static void a_unix_socket_that_a_dead_server_left_refuses_at_once(void **state)
{
    struct refusal r = { .opts = lab_opts(*state) };
    char           path[100];

    snprintf(path, sizeof path, "%s/dead.%d.sock", private_server()->dir, getpid());
    assert_true(socket_refused(path));
    r.opts.socket = path;
    expect_refusal(&r, "(111", 2002, 0, 200);
    unlink(path);
}

static void a_silent_server_ends_at_the_connect_deadline(void **state)
{
    struct listener l;
    struct refusal  r = { .opts = lab_opts(*state) };

    assert_true(listener_silent(&l));
    r.opts.port = l.port;
    expect_refusal(&r, "", 0, CONNECT_MS - 10, CONNECT_MS + 150);
    listener_close(&l);
}

static void a_full_tcp_backlog_ends_at_the_connect_deadline(void **state)
{
    struct listener l;
    struct refusal  r = { .opts = lab_opts(*state) };

    assert_true(listener_full_tcp(&l));
    r.opts.port = l.port;
    expect_refusal(&r, "", 0, CONNECT_MS - 10, CONNECT_MS + 150);
    listener_close(&l);
}

static void a_full_unix_backlog_ends_at_the_connect_deadline(void **state)
{
    struct listener l;
    struct refusal  r = { .opts = lab_opts(*state) };
    char            path[100];

    snprintf(path, sizeof path, "%s/full.%d.sock", private_server()->dir, getpid());
    assert_true(listener_full_unix(&l, path));
    r.opts.socket = path;
    /* Tried again and again until the next pause would end after the deadline. */
    expect_refusal(&r, path, 0, CONNECT_MS / 2, CONNECT_MS + 150);
    listener_close(&l);
    unlink(path);
}

/* ---- max_connections ----------------------------------------------------------------- */

static weir_status fill_the_server(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease[10] = { NULL }, *more = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) first = NULL;
    weir_autoptr(weir_pool) second = NULL;

    opts.user = "weir_limited";
    if (lab_pool_new(&opts, &first) || lab_pool_new(&opts, &second))
        return WEIR_FAILED;
    private_server_tidy();
    lab_equal(admin_do("SET GLOBAL max_connections = 10"), 0);
    for (int i = 0; i < 10; i++)
        lab_need_ok(weir_acquire(first, weir_in_ms(5000), &lease[i], &err), &err);

    lab_equal(weir_acquire(second, weir_in_ms(5000), &more, &err), WEIR_CONNECT);
    lab_equal(err.native, 1040);
    lab_says(err.message, "Too many connections");

    /* A place becomes free, and the next try finds it. */
    lab_equal(weir_lease_close(lease[0]), WEIR_OK);
    weir_status st = WEIR_CONNECT;
    double      until = lab_now_ms() + 3000;
    while (st == WEIR_CONNECT && lab_now_ms() < until) {
        st = weir_acquire(second, weir_in_ms(3000), &more, &err);
        (void)weir_sleep(weir_in_ms(10));
    }
    lab_need_ok(st, &err);
    lab_equal(sql_number(weir_mysql(more), "SELECT 12"), 12);
    lab_equal(weir_release(more), WEIR_OK);
    for (int i = 1; i < 10; i++)
        lab_equal(weir_release(lease[i]), WEIR_OK);
    lab_pool_end(&second);
    lab_pool_end(&first);
    return WEIR_OK;
}

static void a_full_server_is_told_and_tried_again(void **state)
{
    lab_run(fill_the_server, *state);
    private_server_tidy();
}

/* ---- out of descriptors --------------------------------------------------------------- */

static rlim_t set_nofile(rlim_t limit)
{
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    rlim_t before = r.rlim_cur;
    r.rlim_cur = limit;
    setrlimit(RLIMIT_NOFILE, &r);
    return before;
}

struct starved {
    weir_pool  *pool;
    weir_status status;
    weir_error  err;
    long        answer;
};

static weir_status ask_one(void *arg)
{
    struct starved *me = arg;
    weir_autoptr(weir_lease) lease = NULL;

    me->status = weir_acquire(me->pool, weir_in_ms(5000), &lease, &me->err);
    if (me->status == WEIR_OK)
        me->answer = sql_number(weir_mysql(lease), "SELECT 18 + SLEEP(0.05)");
    return me->status;
}

static weir_status starve(void *arg)
{
    weir_mysql_opts   opts = lab_opts(arg);
    struct starved    caller[8];
    weir_budget_stats before, after;
    weir_error        err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    /* An account that does not know how few there are: it is the kernel that says no. */
    lab_need_ok(weir_budget_set(&(weir_budget_opts){ .limit = 200 }, &err), &err);
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_budget_read(&before);

    int lowest = dup(STDERR_FILENO); /* everything below is in use */
    close(lowest);
    rlim_t usual = set_nofile((rlim_t)lowest);
    for (int i = 0; i < 8; i++) {
        caller[i] = (struct starved){ .pool = pool };
        weir_spawn(group, ask_one, &caller[i]);
    }
    (void)weir_sleep(weir_in_ms(300));
    weir_pool_stats s = lab_stats(pool);
    set_nofile(usual);
    lab_equal(s.opened, 1);
    lab_equal(s.connect_failures, 0);
    lab_between(s.connect_parked, 1, 50);

    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    for (int i = 0; i < 8; i++) {
        lab_equal(caller[i].status, WEIR_OK);
        lab_equal(caller[i].answer, 18);
    }
    weir_budget_read(&after);
    lab_check(after.exhausted > before.exhausted);
    lab_equal(lab_stats(pool).connect_failures, 0);
    lab_equal(lab_stats(pool).timeouts, 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void without_a_free_descriptor_callers_wait_and_then_go_on(void **state)
{
    lab_run(starve, *state);
}

/* Nobody has a connection at all, and descriptors come back only when one is closed. A login
   under TLS needs a second one for a moment, to read the authority's file. */
static weir_status starve_from_the_start(void *arg)
{
    const struct lab_way *way = arg;
    weir_mysql_opts opts = lab_opts(way);
    struct starved  caller = { .status = WEIR_OK };
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_budget_set(&(weir_budget_opts){ .limit = 200 }, &err), &err);
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    caller.pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    int    spare = dup(STDERR_FILENO), spare_too = dup(STDERR_FILENO);
    rlim_t usual = set_nofile((rlim_t)spare_too + 1); /* the last there is */
    weir_spawn(group, ask_one, &caller);
    (void)weir_sleep(weir_in_ms(250));
    lab_equal(weir_group_running(group), 1);
    close(spare);
    if (way->tls)
        close(spare_too);
    double start = lab_now_ms();
    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    lab_took(lab_now_ms() - start, 0, 500);
    set_nofile(usual);
    if (!way->tls)
        close(spare_too);
    lab_equal(caller.answer, 18);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void the_first_descriptor_that_comes_free_is_enough(void **state)
{
    lab_run(starve_from_the_start, *state);
}

/* ---- options ------------------------------------------------------------------------- */

#define LOCAL "mysql://weir@127.0.0.1/db"

struct bad_option {
    weir_mysql_opts opts;
    const char     *word; /* the message must have it */
};

static weir_status refuse_options(void *arg)
{
    static const struct bad_option bad[] = {
        { { .uri = "postgres://user@127.0.0.1/db" }, "mysql://" },
        { { .uri = "mysql:/user@127.0.0.1/db" }, "mysql://" },
        { { .uri = "" }, "" },
        { { .uri = "mysql://user@127.0.0.1:99999/db" }, "port" },
        { { .uri = "mysql://user@127.0.0.1:0/db" }, "port" },
        { { .uri = "mysql://user@127.0.0.1:33o6/db" }, "port" },
        { { .uri = "mysql://user@[::1/db" }, "]" },
        { { .uri = "mysql://user:hunter2-of-the-tests%zz@127.0.0.1/db" }, "%" },
        { { .uri = "mysql://user:hunter2-of-the-tests%4@127.0.0.1/db" }, "%" },
        { { .uri = "mysql://user:hunter2-of-the-tests@127.0.0.1:port/db" }, "port" },
        { { .uri = "mysql://user:hunter2-of-the-tests@127.0.0.1/db?frobnicate=1" },
          "frobnicate" },
        { { .uri = "mysql://user@127.0.0.1/db?tls=perhaps" }, "tls" },
        { { .uri = "mysql://user@127.0.0.1/db?local_infile=perhaps" }, "local_infile" },
        { { .uri = "mysql://user@127.0.0.1/db?multi_statements=7" }, "multi_statements" },
        { { .uri = "mysql://user@127.0.0.1/db?tls=verify" }, "tls_ca" },
        { { .uri = "mysql://us%00er@127.0.0.1/db" }, "" },
        { { .host = "127.0.0.1", .user = "weir", .port = 70000 }, "port" },
        { { .host = "127.0.0.1", .user = "weir", .tls = WEIR_TLS_VERIFY }, "tls_ca" },
        { { .uri = "mysql://weir@127.0.0.1/?tls=encrypt&tls_cert=/c.pem" }, "tls_key" },
        { { .uri = "mysql://weir@127.0.0.1/?tls=encrypt&tls_key=/k.pem" }, "tls_cert" },
        { { .user = "weir",
            .socket = "/a/path/that/is/longer/than/the/hundred/and/eight/bytes/that/the/address/"
                      "of/a/unix/socket/can/hold/on/any/linux/system.sock" },
          "socket" },
        { { .host = "127.0.0.1" }, "user" },
        { { .uri = LOCAL, .pool.min_idle = 5, .pool.max_size = 2 }, "min_idle" },
        { { .uri = LOCAL, .pool.acquire_timeout_ms = -7 }, "acquire_timeout_ms" },
        { { .uri = LOCAL, .pool.connect_timeout_ms = -7 }, "connect_timeout_ms" },
    };

    (void)arg;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        weir_pool  *pool = (weir_pool *)&i; /* must be cleared */
        weir_error  err = { .message = "" };
        weir_status st = weir_mysql_pool_new(&bad[i].opts, &pool, &err);
        if (st != WEIR_USAGE || pool || !err.message[0]) {
            lab_record(WEIR_HERE, "row %u (%s): %s, %s", i, bad[i].word, weir_status_name(st),
                       st == WEIR_OK ? "accepted" : err.message);
            if (st == WEIR_OK)
                weir_pool_free(pool);
            continue;
        }
        lab_tell("%s", err.message);
        lab_says(err.message, bad[i].word);
    }
    return WEIR_OK;
}

static void wrong_options_are_refused_with_the_option_named(void **state)
{
    (void)state;
    lab_secret(secret);
    lab_run(refuse_options, NULL);
}

static weir_status use_a_uri(void *arg)
{
    const struct private_server *s = private_server();
    char                         uri[600], text[100];
    weir_error                   err;
    (void)arg;

    for (int i = 0; i < 2; i++) {
        weir_lease *lease = NULL;
        weir_autoptr(weir_pool) pool = NULL;
        if (i == 0)
            snprintf(uri, sizeof uri, "mysql://%s:%s@127.0.0.1:%u/%%77eir_test?charset=latin1",
                     s->user, s->password, s->port);
        else
            snprintf(uri, sizeof uri,
                     "mysql://%s:%s@db.weir.test:%u/weir_test?tls=verify&tls_ca=%s", s->user,
                     s->password, s->port, s->ca);
        if (lab_pool_new(&(weir_mysql_opts){ .uri = uri }, &pool))
            return WEIR_FAILED;
        lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
        MYSQL *my = weir_mysql(lease);
        lab_says(sql_text(my, text, sizeof text, "SELECT DATABASE()"), "weir_test");
        lab_says(mysql_character_set_name(my), i == 0 ? "latin1" : "utf8mb4");
        lab_equal(mysql_get_ssl_cipher(my) != NULL, i == 1);
        lab_equal(weir_release(lease), WEIR_OK);
        lab_pool_end(&pool);
    }
    return WEIR_OK;
}

static void a_uri_says_all_that_options_say(void **state)
{
    (void)state;
    lab_run(use_a_uri, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_wrong_password_is_told_in_the_servers_words),
        LAB_EVERY_WAY(an_unknown_database_is_told_in_the_servers_words),
        LAB_TCP(an_unknown_host_is_named),
        LAB_TCP(a_lookup_that_hangs_ends_at_the_connect_deadline),
        LAB_PLAIN_AND_TLS(a_port_where_nobody_listens_refuses_at_once),
        LAB_UNIX(a_unix_socket_that_is_not_there_refuses_at_once),
        LAB_UNIX(a_unix_socket_that_a_dead_server_left_refuses_at_once),
        LAB_PLAIN_AND_TLS(a_silent_server_ends_at_the_connect_deadline),
        LAB_PLAIN_AND_TLS(a_full_tcp_backlog_ends_at_the_connect_deadline),
        LAB_UNIX(a_full_unix_backlog_ends_at_the_connect_deadline),
        LAB_EVERY_WAY(a_full_server_is_told_and_tried_again),
        LAB_EVERY_WAY(without_a_free_descriptor_callers_wait_and_then_go_on),
        LAB_EVERY_WAY(the_first_descriptor_that_comes_free_is_enough),
        LAB_TCP(wrong_options_are_refused_with_the_option_named),
        LAB_TCP(a_uri_says_all_that_options_say),
    };
    return lab_main(argc, argv, tests);
}
