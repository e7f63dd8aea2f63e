/*
 * test_mysql_kill.c - statements that were cut, as the server sees them: with kill_cut they end
 * there too, and nothing else does.
 *
 * The administrator looks for them in the server's list of what it is at. Each test has a word of
 * its own in its statements, so that it does not find another's.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <mysql_internal.h>
#include <relay.h>
#include <vault.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SOON_MS = 1000, STORM = 60 };

/* How many statements with this word the server is at. */
static long at_work(const char *word)
{
    char sql[200];

    snprintf(sql, sizeof sql,
             "SELECT COUNT(*) FROM information_schema.processlist "
             "WHERE info LIKE '%%%s%%' AND id <> CONNECTION_ID()", word);
    return admin_number(sql);
}

/* Has it ended, within so many milliseconds? */
static bool ends_within(const char *word, double ms)
{
    double until = lab_now_ms() + ms;

    while (at_work(word) != 0)
        if (lab_now_ms() > until)
            return false;
    return true;
}

/* ---- one at a time ------------------------------------------------------------------- */

enum how { CANCELED, LATE, SILENT };

struct victim {
    const struct lab_way *way;
    weir_mysql_opts       opts;
    weir_pool            *pool;
    struct relay         *relay; /* in between, where there is one */
    enum how              how;
    const char           *word, *sql;
    weir_status           status;
    weir_error            err;
    bool                  lingers;   /* keeps his lease for a while */
    long                  meanwhile; /* at_work() then */
};

static weir_status be_cut(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
    WEIR_DEADLINE(me->how == LATE ? weir_in_ms(200) : WEIR_FOREVER);
    lab_check(sql_do(weir_mysql(lease), "%s", me->sql) != 0);
    me->status = weir_lease_error(lease, &me->err);
    if (me->lingers) {
        WEIR_SHIELD(WEIR_FOREVER);
        lab_equal(weir_sleep(weir_in_ms(200)), WEIR_OK);
        me->meanwhile = at_work(me->word);
    }
    return WEIR_OK;
}

/* Cut it, and come back when its coroutine has. */
static weir_status cut(struct victim *me)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, be_cut, me);
    (void)weir_sleep(weir_in_ms(150));
    lab_equal(at_work(me->word), 1);
    if (me->how == CANCELED)
        weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    return WEIR_OK;
}

static weir_status cut_and_look(void *arg)
{
    struct victim *me = arg;
    weir_autoptr(weir_pool) pool = NULL;

    if (me->how == SILENT)
        me->opts.pool.query_timeout_ms = 300;
    if (lab_pool_new(&me->opts, &pool) || lab_warm(pool, 2))
        return WEIR_FAILED;
    me->pool = pool;
    if (cut(me))
        return WEIR_FAILED;
    lab_equal(me->status, me->how == CANCELED ? WEIR_CANCELED : WEIR_TIMEOUT);
    lab_equal(me->err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_tell("%s", me->err.message);
    if (me->opts.kill_cut) {
        double start = lab_now_ms();
        lab_says(me->err.message, "the server is told to end it");
        lab_check(ends_within(me->word, SOON_MS));
        lab_tell("gone after %.0f ms", lab_now_ms() - start);
    } else {
        (void)weir_sleep(lab_patience(300));
        lab_equal(at_work(me->word), 1);
        lab_check(!strstr(me->err.message, "told to end it"));
    }
    /* The other connection was not meant. */
    lab_check(lab_settle(pool, 1, 1000));
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_equal(lab_stats(pool).opened, 2);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_BROKEN], 1);
    lab_pool_end(&pool);
    lab_equal(lab_logged("may go on"), 0);
    return WEIR_OK;
}

static void cut_and_expect_it_gone(const struct lab_way *way, enum how how, bool kill_cut)
{
    struct victim me = { .way = way, .how = how, .opts = lab_opts(way) };
    char          sql[80], word[40];

    snprintf(word, sizeof word, "cut_%s_%d_%d", way->name, how, kill_cut);
    snprintf(sql, sizeof sql, "SELECT SLEEP(3) /* %s */", word);
    me.word = word;
    me.sql = sql;
    me.opts.kill_cut = kill_cut;
    lab_run(cut_and_look, &me);
}

static void a_statement_that_is_cancelled_ends_on_the_server(void **state)
{
    cut_and_expect_it_gone(*state, CANCELED, true);
}

static void a_statement_that_is_late_ends_on_the_server(void **state)
{
    cut_and_expect_it_gone(*state, LATE, true);
}

static void a_statement_that_is_silent_for_too_long_ends_on_the_server(void **state)
{
    cut_and_expect_it_gone(*state, SILENT, true);
}

/* With a library that is not quite the one we know. There is no way back: it comes last. */
static void a_statement_on_a_connection_held_plainly_ends_too(void **state)
{
    my_library_doubt("a test says so");
    cut_and_expect_it_gone(*state, CANCELED, true);
}

static void without_the_option_it_goes_on(void **state)
{
    cut_and_expect_it_gone(*state, CANCELED, false);
}

/* ---- what it held -------------------------------------------------------------------- */

static weir_status free_its_locks(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_lease    *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_equal(pool_do(pool, "CREATE OR REPLACE TABLE lab_kill (a INT PRIMARY KEY, b INT) "
                            "ENGINE=InnoDB"), 0);
    lab_equal(pool_do(pool, "INSERT INTO lab_kill VALUES (1, 0)"), 0);
    if (cut(me))
        return WEIR_FAILED;

    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    double start = lab_now_ms();
    lab_equal(sql_do(weir_mysql(lease), "UPDATE lab_kill SET b = b + 10 WHERE a = 1"), 0);
    lab_took(lab_now_ms() - start, 0, SOON_MS);
    lab_equal(sql_number(weir_mysql(lease), "SELECT b FROM lab_kill"), 10); /* and it is undone */
    lab_equal(sql_do(weir_mysql(lease), "DROP TABLE lab_kill"), 0);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void its_locks_are_free_and_its_changes_undone(void **state)
{
    struct victim me = { .way = *state, .how = CANCELED, .opts = lab_opts(*state),
                         .word = "cut_locks",
                         .sql = "UPDATE lab_kill SET b = b + 1 + SLEEP(4) /* cut_locks */" };

    me.opts.kill_cut = true;
    lab_run(free_its_locks, &me);
}

/* ---- given back unread --------------------------------------------------------------- */

static weir_status leave_unread(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_lease    *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    lab_equal(mysql_send_query(weir_mysql(lease), me->sql, strlen(me->sql)), 0);
    (void)weir_sleep(lab_patience(50));
    lab_equal(at_work(me->word), 1);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(ends_within(me->word, SOON_MS));
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void what_a_lease_leaves_unread_ends_too(void **state)
{
    struct victim me = { .opts = lab_opts(*state), .word = "cut_unread",
                         .sql = "SELECT SLEEP(3) /* cut_unread */" };

    me.opts.kill_cut = true;
    lab_run(leave_unread, &me);
}

/* ---- when the pool goes at once ------------------------------------------------------ */

/* Nothing of it may be used after weir_pool_free(): the vault, here, has forgotten everything. */
static weir_status close_at_once(void *arg)
{
    struct victim *me = arg;
    struct vault   vault = { .password = private_server()->password, .takes_ms = 30 };
    weir_autoptr(weir_pool) pool = NULL;

    me->opts.password = NULL;
    me->opts.credentials = vault_ask;
    me->opts.credentials_arg = &vault;
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    if (cut(me))
        return WEIR_FAILED;
    weir_pool_free(pool);
    pool = NULL;
    lab_equal(vault.asked, 2); /* for the statement, and for its end */
    lab_equal(at_work(me->word), 0);
    return WEIR_OK;
}

static void a_pool_that_is_freed_lets_it_be_done_first(void **state)
{
    struct victim me = { .how = CANCELED, .opts = lab_opts(*state), .word = "cut_freed",
                         .sql = "SELECT SLEEP(3) /* cut_freed */" };

    me.opts.kill_cut = true;
    lab_run(close_at_once, &me);
}

/* ---- many ---------------------------------------------------------------------------- */

struct storm {
    weir_mysql_opts opts;
    weir_pool      *pool;
    unsigned        cut;
    unsigned        by_killers, now, peak; /* logins */
};

static weir_status count_killers(weir_credentials *credentials, void *arg, weir_error *err)
{
    struct storm *storm = arg;
    bool          killer = strcmp(weir_task_name(weir_self()), "mysql killer") == 0;

    (void)err;
    storm->by_killers += killer;
    storm->now += killer;
    if (storm->now > storm->peak)
        storm->peak = storm->now;
    weir_status st = weir_sleep(weir_in_ms(5));
    storm->now -= killer;
    snprintf(credentials->password, sizeof credentials->password, "%s",
             private_server()->password);
    return st;
}

static weir_status be_late_in_storm(void *arg)
{
    struct storm *storm = arg;
    weir_error    err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(storm->pool, lab_patience(20000), &lease, &err), &err);
    WEIR_DEADLINE(weir_in_ms(100));
    lab_check(sql_do(weir_mysql(lease), "SELECT SLEEP(20) /* cut_storm */") != 0);
    storm->cut += weir_lease_error(lease, &err) == WEIR_TIMEOUT;
    return WEIR_OK;
}

static weir_status cut_many(void *arg)
{
    struct storm *storm = arg;
    weir_error    err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    storm->opts.pool.max_size = 15;
    if (lab_pool_new(&storm->opts, &pool))
        return WEIR_FAILED;
    storm->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < STORM; i++)
        weir_spawn(group, be_late_in_storm, storm);
    lab_equal(weir_group_wait(group, lab_patience(20000)), WEIR_OK);
    lab_check(ends_within("cut_storm", 2 * SOON_MS));
    lab_tell("%u were cut, %u logins to have them killed", storm->cut, storm->by_killers);
    lab_equal(storm->cut, STORM);
    lab_between(storm->by_killers, 1, STORM / 2);
    lab_equal(storm->peak, 1);
    lab_pool_end(&pool);
    lab_equal(lab_logged("may go on"), 0);
    return WEIR_OK;
}

static void many_are_ended_over_one_connection_at_a_time(void **state)
{
    struct storm storm = { .opts = lab_opts(*state) };

    storm.opts.kill_cut = true;
    storm.opts.password = NULL;
    storm.opts.credentials = count_killers;
    storm.opts.credentials_arg = &storm;
    lab_run(cut_many, &storm);
}

/* ---- short of descriptors ------------------------------------------------------------ */

/* While the one that was cut is still held there is no descriptor for the killer's. */
static weir_status cut_without_descriptors(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_lease    *other = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    lab_need_ok(weir_budget_set(&(weir_budget_opts){ .limit = 2 }, &err), &err);
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &other, &err), &err);
    if (cut(me))
        return WEIR_FAILED;
    lab_equal(me->meanwhile, 1);
    lab_check(ends_within(me->word, SOON_MS));
    lab_equal(weir_release(other), WEIR_OK);
    lab_pool_end(&pool);
    lab_need_ok(weir_budget_set(NULL, &err), &err);
    return WEIR_OK;
}

static void it_is_paid_for_in_the_budget(void **state)
{
    struct victim me = { .how = CANCELED, .opts = lab_opts(*state), .lingers = true,
                         .word = "cut_budget",
                         .sql = "SELECT SLEEP(3) /* cut_budget */" };

    me.opts.kill_cut = true;
    me.opts.pool.max_size = 2;
    lab_run(cut_without_descriptors, &me);
}

/* ---- another server ------------------------------------------------------------------ */

/* It answers at the same address, and says that it is another: nothing is killed there. */
static weir_status cut_behind_a_balancer(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, be_cut, me);
    (void)weir_sleep(lab_patience(100));
    lab_equal(admin_do("SET GLOBAL server_id = 4711"), 0);
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    (void)weir_sleep(lab_patience(300));
    lab_equal(at_work(me->word), 1);

    /* And then, at another attempt, it is the right one. */
    lab_equal(admin_do("SET GLOBAL server_id = 1"), 0);
    lab_check(ends_within(me->word, SOON_MS));

    lab_equal(lab_logged("may go on"), 0);
    (void)weir_sleep(lab_patience(200));
    task = weir_spawn(group, be_cut, me);
    (void)weir_sleep(lab_patience(100));
    lab_equal(admin_do("SET GLOBAL server_id = 4711"), 0);
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    (void)weir_sleep(weir_in_ms(3300));
    lab_equal(lab_logged("may go on"), 1);
    lab_equal(lab_logged("another server answers there now"), 1);
    lab_equal(at_work(me->word), 1);
    lab_equal(admin_do("SET GLOBAL server_id = 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static int put_server_back(void **state)
{
    (void)state;
    return admin_do("SET GLOBAL server_id = 1");
}

static void another_server_at_the_same_address_is_left_alone(void **state)
{
    struct victim me = { .how = CANCELED, .opts = lab_opts(*state), .word = "cut_balanced",
                         .sql = "SELECT SLEEP(6) /* cut_balanced */" };

    me.opts.kill_cut = true;
    lab_run(cut_behind_a_balancer, &me);
}

/* ---- a server that was restarted ----------------------------------------------------- */

enum { CHUNKS = 40 };

/* It is the same one, and counts its connections from the beginning: whoever has the number of
   the one that was cut is not meant. The client does not hear of its end, since the relay sleeps on
   that connection, which has seen many chunks. */
static weir_status cut_before_restart(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_lease    *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    for (int i = 0; i < CHUNKS; i++) /* so that its number is a high one */
        lab_equal(admin_do("DO 1"), 0);
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    for (int i = 0; i < CHUNKS; i++)
        lab_equal(sql_do(weir_mysql(lease), "DO 1"), 0);
    lab_equal(weir_release(lease), WEIR_OK);

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, be_cut, me);
    (void)weir_sleep(lab_patience(150));
    relay_set(me->relay, &(struct relay_faults){ .stall_after = CHUNKS });
    (void)weir_sleep(lab_patience(20));
    private_server_kill();
    lab_need(private_server_restart());
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(3000)), WEIR_OK);
    lab_equal(me->status, WEIR_CANCELED);
    lab_pool_end(&pool);
    lab_equal(lab_logged("may go on"), 1);
    lab_equal(lab_logged("the server was restarted since"), 1);
    return WEIR_OK;
}

static void nothing_is_killed_on_a_server_that_was_restarted_since(void **state)
{
    struct victim me = { .how = CANCELED, .opts = lab_opts(*state), .word = "cut_restart",
                         .sql = "SELECT SLEEP(30) /* cut_restart */" };

    me.relay = relay_start(private_server()->port, &(struct relay_faults){ 0 });
    assert_non_null(me.relay);
    me.opts.port = relay_port(me.relay);
    me.opts.kill_cut = true;
    me.opts.pool.max_size = 1;
    lab_run(cut_before_restart, &me);
    relay_stop(me.relay);
}

/* ---- a server that lets nobody in ---------------------------------------------------- */

static weir_status cut_at_a_full_server(void *arg)
{
    struct victim *me = arg;
    weir_error     err;
    weir_lease    *others[9] = { 0 };
    weir_autoptr(weir_pool) pool = NULL;

    lab_equal(admin_do("SET GLOBAL max_connections = 10"), 0);
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    for (int i = 0; i < 9; i++)
        lab_need_ok(weir_acquire(pool, lab_patience(5000), &others[i], &err), &err);
    if (cut(me))
        return WEIR_FAILED;
    /* To the server the one that was cut is still there, and nobody else gets in. */
    (void)weir_sleep(lab_patience(300));
    lab_equal(at_work(me->word), 1);
    lab_equal(weir_lease_close(others[0]), WEIR_OK);
    lab_check(ends_within(me->word, SOON_MS));
    for (int i = 1; i < 9; i++)
        lab_equal(weir_release(others[i]), WEIR_OK);
    lab_pool_end(&pool);
    lab_equal(lab_logged("may go on"), 0);
    lab_equal(admin_do("SET GLOBAL max_connections = 400"), 0);
    return WEIR_OK;
}

static int open_server_again(void **state)
{
    (void)state;
    return admin_do("SET GLOBAL max_connections = 400");
}

static void a_server_that_is_full_is_asked_again_until_it_lets_us_in(void **state)
{
    struct victim me = { .how = CANCELED, .opts = lab_opts(*state), .word = "cut_full",
                         .sql = "SELECT SLEEP(4) /* cut_full */" };

    private_server_tidy();
    me.opts.user = "weir_limited"; /* others may use the one place that is kept for them */
    me.opts.kill_cut = true;
    me.opts.pool.max_size = 10;
    lab_run(cut_at_a_full_server, &me);
}

#define LAB_TCP_THEN(test, after) { #test " (tcp)", test, lab_setup, after, (void *)&lab_tcp }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_statement_that_is_cancelled_ends_on_the_server),
        LAB_EVERY_WAY(a_statement_that_is_late_ends_on_the_server),
        LAB_TCP(a_statement_that_is_silent_for_too_long_ends_on_the_server),
        LAB_EVERY_WAY(without_the_option_it_goes_on),
        LAB_TCP(its_locks_are_free_and_its_changes_undone),
        LAB_PLAIN_AND_TLS(what_a_lease_leaves_unread_ends_too),
        LAB_TCP(a_pool_that_is_freed_lets_it_be_done_first),
        LAB_PLAIN_AND_TLS(many_are_ended_over_one_connection_at_a_time),
        LAB_TCP(it_is_paid_for_in_the_budget),
        LAB_TCP_THEN(another_server_at_the_same_address_is_left_alone, put_server_back),
        LAB_TCP(nothing_is_killed_on_a_server_that_was_restarted_since),
        LAB_TCP_THEN(a_server_that_is_full_is_asked_again_until_it_lets_us_in, open_server_again),
        LAB_TCP(a_statement_on_a_connection_held_plainly_ends_too),
    };
    return lab_main(argc, argv, tests);
}
