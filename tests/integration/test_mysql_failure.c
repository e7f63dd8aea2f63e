/*
 * test_mysql_failure.c - connections that end or fall silent while they are used: the server
 * dies, stops, is told to kill them; the network cuts or starves them. The holder hears what
 * became of its statement, at once or at the limit it set, and nobody gets a dead connection.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <relay.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT_MS = 400, SILENCE_MS = 400 };

/* ---- the server dies ----------------------------------------------------------------- */

struct victim {
    const struct lab_way *way;
    weir_pool            *pool;
    const char           *sql;
    void (*blow)(struct victim *me);
    struct relay         *relay;
    unsigned long         server_id;
    double                at_ms;
};

/* Strike while the main coroutine is in its query. */
static weir_status strike_later(void *arg)
{
    struct victim *me = arg;
    (void)weir_sleep(weir_in_ms(200));
    me->at_ms = lab_now_ms();
    me->blow(me);
    return WEIR_OK;
}

/* Run me->sql while the blow falls; tells what the lease says about it. Keeps the lease. */
static weir_status query_under_blow(struct victim *me, weir_lease **lease, weir_error *err,
                                    double *felt_ms)
{
    weir_error e;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_acquire(me->pool, weir_in_ms(5000), lease, &e), &e);
    me->server_id = mysql_thread_id(weir_mysql(*lease));
    lab_need_ok(weir_group_new(NULL, &group, &e), &e);
    weir_spawn(group, strike_later, me);
    int code = mysql_query(weir_mysql(*lease), me->sql);
    if (!code)
        mysql_free_result(mysql_store_result(weir_mysql(*lease)));
    *felt_ms = lab_now_ms() - me->at_ms;
    weir_status st = weir_lease_error(*lease, err);
    lab_tell("%.0f ms after: %s %d [%s] %s", *felt_ms, weir_status_name(st), err->native,
             err->sqlstate, err->message);
    lab_equal(weir_group_wait(group, weir_in_ms(20000)), WEIR_OK);
    return st;
}

/* Acquire until it works: a server that starts again is not there at once. */
static weir_status acquire_at_last(weir_pool *pool, weir_lease **lease)
{
    weir_error err;
    double     until = lab_now_ms() + 10000;

    for (;;) {
        weir_status st = weir_acquire(pool, weir_in_ms(5000), lease, &err);
        if (st == WEIR_OK)
            return st;
        if (lab_now_ms() > until) {
            lab_record(WEIR_HERE, "never well again: %s", err.message);
            return st;
        }
        (void)weir_sleep(weir_in_ms(20));
    }
}

static void kill_server(struct victim *me)
{
    (void)me;
    private_server_kill();
}

static weir_status die_in_query(void *arg)
{
    struct victim  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_lease     *lease = NULL;
    weir_error      err;
    double          felt_ms;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 4;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 4))
        return WEIR_FAILED;
    me->pool = pool;
    lab_equal(query_under_blow(me, &lease, &err, &felt_ms), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_took(felt_ms, 0, 300);

    /* The lease's handle fails on, without a byte sent. */
    lab_check(sql_do(weir_mysql(lease), "SELECT 1") != 0);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    lab_equal(weir_release(lease), WEIR_OK);

    /* The idle ones have gone by themselves. */
    lab_check(lab_settle(pool, 0, 1000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 4);

    lease = NULL;
    lab_equal(weir_acquire(pool, weir_in_ms(2000), &lease, &err), WEIR_CONNECT);
    lab_check(private_server_restart());
    if (acquire_at_last(pool, &lease) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 13"), 13);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_killed_server_ends_queries_and_idle_connections_at_once(void **state)
{
    struct victim me = { .way = *state, .sql = "SELECT SLEEP(5)", .blow = kill_server };
    lab_run(die_in_query, &me);
}

/* The server dies while a lease is held, but between two statements. */
static weir_status die_between(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 1"), 1);
    private_server_kill();
    (void)weir_sleep(weir_in_ms(50));
    lab_check(sql_do(weir_mysql(lease), "SELECT 1") != 0);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_tell("outcome %s: %s", err.outcome == WEIR_OUTCOME_NOT_SENT ? "not sent" : "unknown",
             err.message);
    /* A Unix socket refuses the bytes; TCP takes them before it learns that nobody is there. */
    if (((const struct lab_way *)arg)->is_unix)
        lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    else
        lab_check(err.outcome != WEIR_OUTCOME_DONE);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(private_server_restart());
    lab_check(lab_settle(pool, 0, 1000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_server_that_died_between_two_statements_is_noticed(void **state)
{
    lab_run(die_between, *state);
}

/* ---- the server stops ---------------------------------------------------------------- */

static void stop_server(struct victim *me)
{
    (void)me;
    private_server_stop();
}

static weir_status stop_in_query(void *arg)
{
    struct victim  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_lease     *lease = NULL;
    weir_error      err;
    double          felt_ms;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.query_timeout_ms = SILENCE_MS;
    opts.pool.connect_timeout_ms = CONNECT_MS;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    me->pool = pool;
    double start = lab_now_ms();
    lab_equal(query_under_blow(me, &lease, &err, &felt_ms), WEIR_TIMEOUT);
    lab_took(lab_now_ms() - start, SILENCE_MS - 10, SILENCE_MS + 100);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(lab_settle(pool, 0, 100)); /* closed without waiting for anybody */
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_BROKEN], 1);

    /* The kernel takes connections for a process that is stopped; a greeting never comes. */
    lease = NULL;
    start = lab_now_ms();
    lab_equal(weir_acquire(pool, weir_in_ms(5000), &lease, &err), WEIR_CONNECT);
    lab_took(lab_now_ms() - start, CONNECT_MS - 10, CONNECT_MS + 150);
    private_server_go_on();
    if (acquire_at_last(pool, &lease) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 14"), 14);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_stopped_server_ends_a_query_at_the_query_timeout(void **state)
{
    struct victim me = { .way = *state, .sql = "SELECT SLEEP(5)", .blow = stop_server };
    lab_run(stop_in_query, &me);
    private_server_go_on();
}

struct big_write {
    const struct lab_way *way;
    char                 *sql;
    size_t                size;
};

static weir_status stop_in_write(void *arg)
{
    struct big_write *big = arg;
    weir_mysql_opts   opts = lab_opts(big->way);
    weir_lease       *lease = NULL;
    weir_error        err;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.query_timeout_ms = SILENCE_MS;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    private_server_stop();
    double start = lab_now_ms();
    lab_check(mysql_real_query(weir_mysql(lease), big->sql, big->size) != 0);
    double took = lab_now_ms() - start;
    lab_equal(weir_lease_error(lease, &err), WEIR_TIMEOUT);
    lab_tell("%.0f ms: %d %s", took, err.native, err.message);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_took(took, SILENCE_MS - 10, SILENCE_MS + 300);
    start = lab_now_ms();
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(lab_settle(pool, 0, 100));
    lab_pool_end(&pool);
    lab_took(lab_now_ms() - start, 0, 150); /* no goodbye into full buffers */
    private_server_go_on();
    return WEIR_OK;
}

static void a_stopped_server_ends_a_write_of_32_mebibytes(void **state)
{
    struct big_write big = { .way = *state, .size = (size_t)32 << 20 };
    big.sql = malloc(big.size);
    assert_non_null(big.sql);
    memset(big.sql, 'x', big.size);
    memcpy(big.sql, "SELECT '", 8);
    big.sql[big.size - 1] = '\'';
    lab_run(stop_in_write, &big);
    private_server_go_on();
    free(big.sql);
}

/* Idle connections of a stopped server look well: closing the pool must not wait for it. */
static weir_status close_while_stopped(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.close_timeout_ms = 300;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 5))
        return WEIR_FAILED;
    private_server_stop();
    double start = lab_now_ms();
    lab_pool_end(&pool);
    lab_took(lab_now_ms() - start, 0, 450);
    private_server_go_on();
    return WEIR_OK;
}

static void a_pool_closes_in_time_while_the_server_is_stopped(void **state)
{
    lab_run(close_while_stopped, *state);
    private_server_go_on();
}

/* ---- KILL ---------------------------------------------------------------------------- */

static void kill_query(struct victim *me)
{
    char sql[64];
    snprintf(sql, sizeof sql, "KILL QUERY %lu", me->server_id);
    lab_equal(admin_do(sql), 0);
}

static void kill_connection(struct victim *me)
{
    char sql[64];
    snprintf(sql, sizeof sql, "KILL CONNECTION %lu", me->server_id);
    lab_equal(admin_do(sql), 0);
}

/* Whoever asks the library to reconnect by itself asks for a session silently exchanged. */
static void ask_for_reconnects(MYSQL *my)
{
    my_bool yes = 1;
    lab_equal(mysql_options(my, MYSQL_OPT_RECONNECT, &yes), 0);
}

static weir_status killed_by_statement(void *arg)
{
    struct victim  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_lease     *lease = NULL;
    weir_error      err;
    double          felt_ms;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    me->blow = kill_query;
    lab_equal(query_under_blow(me, &lease, &err, &felt_ms), WEIR_SERVER);
    lab_equal(err.native, 1317);
    lab_says(err.sqlstate, "70100");
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);
    lab_took(felt_ms, 0, 300);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 15"), 15);
    lab_equal(weir_lease_error(lease, &err), WEIR_OK);
    ask_for_reconnects(weir_mysql(lease));
    lab_equal(weir_release(lease), WEIR_OK);

    me->blow = kill_connection;
    lab_equal(query_under_blow(me, &lease, &err, &felt_ms), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_took(felt_ms, 0, 300);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 15"), -1);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(lab_settle(pool, 0, 1000));

    /* Killed while idle: gone before anyone gets it. */
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    me->server_id = mysql_thread_id(weir_mysql(lease));
    lab_equal(weir_release(lease), WEIR_OK);
    kill_connection(me);
    lab_check(lab_settle(pool, 0, 1000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 2);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void kill_query_spares_the_connection_and_kill_connection_does_not(void **state)
{
    struct victim me = { .way = *state, .sql = "SELECT SUM(seq & 7) FROM seq_1_to_2000000000" };
    lab_run(killed_by_statement, &me);
}

/* ---- wait_timeout -------------------------------------------------------------------- */

/* One of which the pool does not know: a user set it, and nothing is put right after him. (What it
   knows it respects: test_mysql_idle.c.) */
static weir_status idle_too_long(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *leases[3];
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.reset = WEIR_RESET_NONE;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    for (int i = 0; i < 3; i++) {
        lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &leases[i], &err), &err);
        lab_equal(sql_do(weir_mysql(leases[i]), "SET wait_timeout = 1"), 0);
    }
    for (int i = 0; i < 3; i++)
        lab_equal(weir_release(leases[i]), WEIR_OK);
    lab_check(lab_settle(pool, 0, 2500));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 3);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_equal(lab_stats(pool).opened, 4);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_connection_the_server_gave_up_is_never_lent(void **state)
{
    lab_run(idle_too_long, *state);
}

/* ---- a bad network ------------------------------------------------------------------- */

static void cut_relay(struct victim *me)
{
    relay_cut(me->relay);
}

static weir_status cut_in_query(void *arg)
{
    struct victim  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_lease     *lease = NULL;
    weir_error      err;
    double          felt_ms;
    weir_autoptr(weir_pool) pool = NULL;

    opts.port = relay_port(me->relay);
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    for (int reset = 0; reset < 2; reset++) {
        relay_set(me->relay, &(struct relay_faults){ .reset = reset });
        lab_equal(query_under_blow(me, &lease, &err, &felt_ms), WEIR_LOST);
        lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
        lab_took(felt_ms, 0, 100);
        lab_equal(weir_release(lease), WEIR_OK);
    }

    /* Half a reply, then the end. */
    relay_set(me->relay, &(struct relay_faults){ 0 });
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    relay_set(me->relay, &(struct relay_faults){ .half_after = 1 });
    lab_check(sql_do(weir_mysql(lease), "SELECT REPEAT('x', 1000)") != 0);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_equal(err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_equal(weir_release(lease), WEIR_OK);

    relay_set(me->relay, &(struct relay_faults){ 0 });
    if (acquire_at_last(pool, &lease) != WEIR_OK)
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 16"), 16);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_cut_line_is_felt_at_once(void **state)
{
    struct victim me = { .way = *state, .sql = "SELECT SLEEP(1)", .blow = cut_relay,
                         .relay = relay_start(private_server()->port, NULL) };
    assert_non_null(me.relay);
    lab_run(cut_in_query, &me);
    relay_stop(me.relay);
}

static weir_status slow_reply(void *arg)
{
    struct victim  *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_lease     *lease = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    opts.port = relay_port(me->relay);
    opts.pool.query_timeout_ms = SILENCE_MS;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    relay_set(me->relay, &(struct relay_faults){ .bytes_per_s = 400000 });
    double start = lab_now_ms();
    lab_equal(sql_do(weir_mysql(lease), "SELECT REPEAT('x', 500000)"), 0);
    lab_took(lab_now_ms() - start, 2 * SILENCE_MS, 5000);

    /* And with silence in the middle of it. */
    relay_set(me->relay, &(struct relay_faults){ .stall_after = 1 });
    start = lab_now_ms();
    lab_check(sql_do(weir_mysql(lease), "SELECT REPEAT('x', 500000)") != 0);
    lab_took(lab_now_ms() - start, SILENCE_MS - 10, SILENCE_MS + 100);
    lab_equal(weir_lease_error(lease, &err), WEIR_TIMEOUT);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_slow_reply_is_no_silence(void **state)
{
    struct victim me = { .way = *state, .relay = relay_start(private_server()->port, NULL) };
    assert_non_null(me.relay);
    lab_run(slow_reply, &me);
    relay_stop(me.relay);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_killed_server_ends_queries_and_idle_connections_at_once),
        LAB_EVERY_WAY(a_server_that_died_between_two_statements_is_noticed),
        LAB_EVERY_WAY(a_stopped_server_ends_a_query_at_the_query_timeout),
        LAB_EVERY_WAY(a_stopped_server_ends_a_write_of_32_mebibytes),
        LAB_EVERY_WAY(a_pool_closes_in_time_while_the_server_is_stopped),
        LAB_EVERY_WAY(kill_query_spares_the_connection_and_kill_connection_does_not),
        LAB_EVERY_WAY(a_connection_the_server_gave_up_is_never_lent),
        LAB_PLAIN_AND_TLS(a_cut_line_is_felt_at_once),
        LAB_PLAIN_AND_TLS(a_slow_reply_is_no_silence),
    };
    return lab_main(argc, argv, tests);
}
