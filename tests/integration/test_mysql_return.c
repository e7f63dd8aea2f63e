/*
 * test_mysql_return.c - what a lease leaves behind is gone for the next one, and a lease that
 * left nothing costs nothing.
 *
 * The pools here have one connection, so that the next lease meets what the last one did.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <relay.h>

#include <stdio.h>
#include <string.h>

enum { FORGETS = 3 };

struct trace {
    const char *name;
    const char *deed;     /* what the first lease does */
    const char *question; /* what the second one asks */
    const char *answer;   /* and must hear */
    bool        unseen;   /* the protocol reports nothing: only WEIR_RESET_FULL mends it */
};

static const struct trace traces[] = {
    { "a user variable", "SET @left = 5", "SELECT IFNULL(@left, 'gone')", "gone", false },
    { "a session variable", "SET SESSION sql_mode = ''", "SELECT @@sql_mode = @@GLOBAL.sql_mode",
      "1", false },
    { "autocommit", "SET autocommit = 0", "SELECT @@autocommit", "1", false },
    { "the charset", "SET NAMES latin1", "SELECT @@character_set_client", "utf8mb4", false },
    { "the database", "USE information_schema", "SELECT DATABASE()", "weir_test", false },
    { "the isolation level", "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
      "SELECT @@tx_isolation = @@GLOBAL.tx_isolation", "1", false },
    { "a temporary table", "CREATE TEMPORARY TABLE lab_left (a INT)",
      "SELECT 0", "0", false },
    { "a prepared name", "PREPARE lab_left FROM 'SELECT 1'", "SELECT 1", "1", false },
    { "a temporary table made of a SELECT", "CREATE OR REPLACE TEMPORARY TABLE lab_left SELECT 1 a",
      "SELECT 0", "0", false },
    { "a lock on everything", "flush tables with read lock", "SELECT 0", "0", false },
    { "an insert_id", "SET @@insert_id = 77", "SELECT @@insert_id", "0", false },
    { "a named lock", "DO GET_LOCK('lab_left', 0)", "SELECT IS_FREE_LOCK('lab_left')", "1", true },
};

struct reset_case {
    const struct lab_way *way;
    weir_reset            reset;
};

static weir_status lease_one(weir_pool *pool, weir_lease **lease)
{
    weir_error err;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), lease, &err), &err);
    return WEIR_OK;
}

/* Temporary tables, locks and prepared names are seen by trying to use them. */
static void look_for(MYSQL *my, const struct trace *trace)
{
    char text[100];

    sql_text(my, text, sizeof text, trace->question);
    if (strcmp(text, trace->answer) != 0)
        lab_record(WEIR_HERE, "%s was left behind: \"%s\", not \"%s\"", trace->name, text,
                   trace->answer);
    if (strstr(trace->deed, "TEMPORARY"))
        lab_equal(sql_do(my, "SELECT * FROM lab_left"), 1146);
    if (strstr(trace->deed, "read lock")) {
        lab_equal(sql_do(my, "CREATE OR REPLACE TABLE lab_free (a INT)"), 0);
        lab_equal(sql_do(my, "DROP TABLE lab_free"), 0);
    }
    if (strstr(trace->deed, "PREPARE"))
        lab_equal(sql_do(my, "EXECUTE lab_left"), 1243);
}

static weir_status leave_traces(void *arg)
{
    struct reset_case *c = arg;
    weir_mysql_opts    opts = lab_opts(c->way);
    weir_lease        *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    opts.pool.reset = c->reset;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    for (unsigned i = 0; i < sizeof traces / sizeof *traces; i++) {
        if (traces[i].unseen && c->reset != WEIR_RESET_FULL)
            continue;
        if (lease_one(pool, &lease))
            return WEIR_FAILED;
        lab_equal(sql_do(weir_mysql(lease), "%s", traces[i].deed), 0);
        lab_equal(weir_release(lease), WEIR_OK);
        if (lease_one(pool, &lease))
            return WEIR_FAILED;
        look_for(weir_mysql(lease), &traces[i]);
        lab_check(strcmp(mysql_character_set_name(weir_mysql(lease)), "utf8mb4") == 0);
        lab_equal(weir_release(lease), WEIR_OK);
    }
    lab_check(lab_settle(pool, 1, 2000));
    lab_equal(lab_stats(pool).opened, 1); /* put right, not thrown away */
    lab_between(lab_stats(pool).resets, 8, 100);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void what_the_protocol_reports_is_put_right(void **state)
{
    struct reset_case c = { .way = *state, .reset = WEIR_RESET_DIRTY };
    lab_run(leave_traces, &c);
}

static void a_full_reset_puts_all_right(void **state)
{
    struct reset_case c = { .way = *state, .reset = WEIR_RESET_FULL };
    lab_run(leave_traces, &c);
}

/* The library keeps a charset of its own, for escaping: it must follow. */
static weir_status change_charset_by_call(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    char            text[40];
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool) || lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(mysql_set_character_set(weir_mysql(lease), "sjis"), 0);
    lab_equal(mysql_select_db(weir_mysql(lease), "mysql"), 0);
    lab_equal(weir_release(lease), WEIR_OK);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_says(mysql_character_set_name(weir_mysql(lease)), "utf8mb4");
    lab_says(sql_text(weir_mysql(lease), text, sizeof text, "SELECT @@character_set_client"),
             "utf8mb4");
    lab_says(sql_text(weir_mysql(lease), text, sizeof text, "SELECT DATABASE()"), "weir_test");
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void charset_and_database_set_by_call_are_put_back_on_both_sides(void **state)
{
    lab_run(change_charset_by_call, *state);
}

/* ---- transactions ------------------------------------------------------------------- */

static weir_status drop_in_transaction(void *arg)
{
    struct reset_case *c = arg;
    weir_mysql_opts    opts = lab_opts(c->way);
    weir_lease        *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    opts.pool.reset = c->reset;
    if (lab_pool_new(&opts, &pool) || lease_one(pool, &lease))
        return WEIR_FAILED;
    MYSQL *my = weir_mysql(lease);
    lab_equal(sql_do(my, "CREATE OR REPLACE TABLE lab_open (id INT PRIMARY KEY)"), 0);
    lab_equal(sql_do(my, "BEGIN"), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_open VALUES (1)"), 0);
    lab_equal(weir_release(lease), WEIR_OK);

    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT @@in_transaction"), 0);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_open"), 0);

    /* An error comes without the server's status: the transaction is still there. */
    lab_equal(sql_do(my, "BEGIN"), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_open VALUES (2)"), 0);
    lab_equal(sql_do(my, "INSERT INTO no_such_table VALUES (2)"), 1146);
    lab_equal(weir_release(lease), WEIR_OK);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_open"), 0);

    /* The same with autocommit off. */
    lab_equal(mysql_autocommit(my, 0), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_open VALUES (3)"), 0);
    lab_equal(weir_release(lease), WEIR_OK);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_open"), 0);
    lab_equal(sql_do(my, "DROP TABLE lab_open"), 0);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void an_open_transaction_is_rolled_back(void **state)
{
    const weir_reset all[] = { WEIR_RESET_DIRTY, WEIR_RESET_FULL, WEIR_RESET_NONE };
    for (unsigned i = 0; i < 3; i++) {
        /* With RESET_NONE autocommit stays off, as its comment says; the rows are gone. */
        struct reset_case c = { .way = *state, .reset = all[i] };
        lab_run(drop_in_transaction, &c);
    }
}

/*
 * An error tells nothing of the session, and what was done before it came stands. The library
 * forgets the error when a statement is closed; another's takes its place when somebody else
 * uses the handle. The transaction must be ended all the same.
 */
enum forgetting { BY_CLOSING, BY_AN_INTRUDER };

struct failing_case {
    const struct lab_way *way;
    weir_reset            reset;
    enum forgetting       how;
    MYSQL                *my;
};

static weir_status ask_in_passing(void *arg)
{
    struct failing_case *c = arg;
    lab_check(sql_do(c->my, "SELECT 666") != 0);
    return WEIR_OK;
}

static weir_status fail_and_forget(struct failing_case *c)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    if (c->how == BY_AN_INTRUDER) {
        lab_equal(sql_do(c->my, "CALL lab_fails()"), 1644);
        lab_need_ok(weir_group_new(NULL, &group, &err), &err);
        weir_spawn(group, ask_in_passing, c);
        lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
        return WEIR_OK;
    }
    MYSQL_STMT *stmt = mysql_stmt_init(c->my);
    lab_equal(mysql_stmt_prepare(stmt, "CALL lab_fails()", (unsigned long)-1), 0);
    lab_check(mysql_stmt_execute(stmt) != 0);
    lab_equal(mysql_stmt_errno(stmt), 1644);
    lab_equal(mysql_stmt_close(stmt), 0);
    return WEIR_OK;
}

static weir_status drop_after_failure(void *arg)
{
    struct failing_case *c = arg;
    weir_mysql_opts      opts = lab_opts(c->way);
    weir_lease          *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    opts.pool.reset = c->reset;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_equal(pool_do(pool, "CREATE OR REPLACE TABLE lab_open (id INT PRIMARY KEY)"), 0);
    lab_equal(pool_do(pool, "CREATE OR REPLACE PROCEDURE lab_fails() BEGIN START TRANSACTION; "
                            "INSERT INTO lab_open VALUES (4); SIGNAL SQLSTATE '45000'; END"), 0);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    c->my = weir_mysql(lease);
    if (fail_and_forget(c))
        return WEIR_FAILED;
    lab_equal(weir_release(lease), WEIR_OK);

    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT @@in_transaction"), 0);
    lab_equal(sql_number(weir_mysql(lease), "SELECT COUNT(*) FROM lab_open"), 0);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).opened, 1);
    lab_equal(pool_do(pool, "DROP PROCEDURE lab_fails"), 0);
    lab_equal(pool_do(pool, "DROP TABLE lab_open"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_transaction_left_by_a_failure_that_was_forgotten_is_rolled_back(void **state)
{
    const weir_reset all[] = { WEIR_RESET_DIRTY, WEIR_RESET_FULL, WEIR_RESET_NONE };

    for (unsigned i = 0; i < 6; i++) {
        struct failing_case c = { .way = *state, .reset = all[i / 2], .how = i % 2 };
        lab_run(drop_after_failure, &c);
    }
}

/* ---- replies that nobody read -------------------------------------------------------- */

static void leave_half_a_result(MYSQL *my)
{
    /* A result that is not freed is its user's own leak; kept here, so that it is none. */
    static MYSQL_RES *kept[8];
    static unsigned   n;

    lab_equal(mysql_query(my, "SELECT seq FROM seq_1_to_1000000"), 0);
    MYSQL_RES *res = kept[n++ % 8] = mysql_use_result(my);
    for (int i = 0; i < 10; i++)
        lab_check(mysql_fetch_row(res) != NULL);
}

static void leave_an_unread_result(MYSQL *my)
{
    lab_equal(mysql_query(my, "SELECT 1"), 0);
}

static void leave_a_second_result(MYSQL *my)
{
    lab_equal(mysql_query(my, "SELECT 1; SELECT 2; SELECT 3"), 0);
    mysql_free_result(mysql_store_result(my));
}

static void leave_a_sent_query(MYSQL *my)
{
    lab_equal(mysql_send_query(my, "SELECT 1", 8), 0);
}

struct rude {
    const struct lab_way *way;
    void (*deed)(MYSQL *my);
};

static weir_status leave_in_mid_reply(void *arg)
{
    struct rude    *rude = arg;
    weir_mysql_opts opts = lab_opts(rude->way);
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    opts.multi_statements = true;
    if (lab_pool_new(&opts, &pool) || lease_one(pool, &lease))
        return WEIR_FAILED;
    rude->deed(weir_mysql(lease));
    double start = lab_now_ms();
    lab_equal(weir_release(lease), WEIR_OK);
    lab_took(lab_now_ms() - start, 0, 5); /* releasing does not yield, nor drain */
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 33"), 33);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).opened, 2);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_BROKEN], 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_reply_left_unread_closes_the_connection(void **state)
{
    void (*const deeds[])(MYSQL *) = { leave_half_a_result, leave_an_unread_result,
                                       leave_a_second_result, leave_a_sent_query };
    for (unsigned i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        struct rude rude = { .way = *state, .deed = deeds[i] };
        lab_run(leave_in_mid_reply, &rude);
    }
}

/* ---- statements, mysql_close --------------------------------------------------------- */

static weir_status leave_statements(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    long before = admin_number("SELECT variable_value FROM information_schema.global_status "
                               "WHERE variable_name = 'Prepared_stmt_count'");
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    for (int round = 0; round < 5; round++) {
        if (lease_one(pool, &lease))
            return WEIR_FAILED;
        for (int i = 0; i < 5; i++) {
            MYSQL_STMT *stmt = mysql_stmt_init(weir_mysql(lease));
            lab_need(stmt && mysql_stmt_prepare(stmt, "SELECT ?", 8) == 0);
        }
        lab_equal(weir_release(lease), WEIR_OK);
    }
    lab_check(lab_settle(pool, 1, 2000));
    lab_equal(admin_number("SELECT variable_value FROM information_schema.global_status "
                           "WHERE variable_name = 'Prepared_stmt_count'"),
              before);
    lab_equal(lab_stats(pool).opened, 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void statements_left_open_are_closed(void **state)
{
    lab_run(leave_statements, *state);
}

static weir_status close_by_hand(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool) || lease_one(pool, &lease))
        return WEIR_FAILED;
    MYSQL *my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT 1"), 1);
    mysql_close(my);
    lab_check(sql_do(my, "SELECT 1") != 0); /* an error, not a crash */
    lab_check(weir_lease_error(lease, &err) != WEIR_OK);
    lab_equal(weir_release(lease), WEIR_OK);

    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 2"), 2);
    mysql_close(weir_mysql(lease)); /* and released without another call */
    lab_equal(weir_release(lease), WEIR_OK);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT 3"), 3);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).opened, 3);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void mysql_close_by_the_user_ends_that_connection_only(void **state)
{
    lab_run(close_by_hand, *state);
}

/* ---- leases nobody gives back -------------------------------------------------------- */

struct forgetful {
    const struct lab_way *way;
    weir_on_exit          on_exit;
    const char           *last_words; /* what it does before it forgets */
    weir_pool            *pool;
};

static weir_status forget(void *arg)
{
    struct forgetful *me = arg;
    weir_error        err;
    weir_lease       *lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
    lab_equal(sql_do(weir_mysql(lease), "%s", me->last_words), 0);
    return WEIR_OK; /* and no release */
}

static weir_status forget_thrice(void *arg)
{
    struct forgetful *me = arg;
    weir_mysql_opts   opts = lab_opts(me->way);
    bool              recycled = me->on_exit == WEIR_ON_EXIT_RECYCLE;
    weir_error        err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = 1;
    opts.pool.on_exit = me->on_exit;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < FORGETS; i++)
        weir_spawn(group, forget, me);
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    lab_check(lab_settle(pool, recycled ? 1 : 0, 2000));

    weir_pool_stats s = lab_stats(pool);
    lab_equal(s.forgotten, FORGETS);
    lab_equal(s.opened, recycled ? 1 : FORGETS);
    lab_equal(s.closed[WEIR_CLOSE_LEAKED], recycled ? 0 : FORGETS);
    if (!recycled) /* ten messages a second come through: those of the first few tests */
        lab_check(lab_logged("test_mysql_return.c") > 0); /* where it was taken */

    weir_lease *lease = NULL;
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_equal(sql_number(weir_mysql(lease), "SELECT IFNULL(@left, 44)"), 44);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_forgotten_lease_ends_with_its_coroutine_and_is_counted(void **state)
{
    struct forgetful me = { .way = *state, .last_words = "SET @left = 1" };
    lab_run(forget_thrice, &me);
}

static void a_forgotten_lease_is_recycled_where_asked_for(void **state)
{
    struct forgetful me = { .way = *state, .on_exit = WEIR_ON_EXIT_RECYCLE,
                            .last_words = "SET @left = 1" };
    lab_run(forget_thrice, &me);
}

/* ---- what it costs ------------------------------------------------------------------- */

struct bill {
    const struct lab_way *way;
    struct relay         *relay;
};

static unsigned answers_for(weir_pool *pool, struct relay *relay, const char *sql, int code)
{
    /* The relay is another process: what it has not counted yet arrives within its round. */
    (void)weir_sleep(weir_in_ms(30));
    unsigned before = relay_chunks(relay);
    for (int i = 0; i < 10; i++) {
        lab_equal(pool_do(pool, sql), code);
        lab_check(lab_settle(pool, 1, 2000));
    }
    (void)weir_sleep(weir_in_ms(30));
    return relay_chunks(relay) - before;
}

static weir_status count_answers(void *arg)
{
    struct bill    *bill = arg;
    weir_mysql_opts opts = lab_opts(bill->way);
    weir_autoptr(weir_pool) pool = NULL;

    opts.port = relay_port(bill->relay);
    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    lab_equal(answers_for(pool, bill->relay, "SELECT 1", 0), 10);
    lab_equal(answers_for(pool, bill->relay, "SELECT 1 FROM seq_1_to_10", 0), 10);
    lab_equal(lab_stats(pool).resets, 0);

    /* An error tells nothing about the session, which is asked then; a change is put right. */
    unsigned asked = answers_for(pool, bill->relay, "SELECT nonsense", 1054);
    unsigned reset = answers_for(pool, bill->relay, "SET @a = 1", 0);
    lab_tell("answers to ten leases: clean 10, after an error %u, changed %u", asked, reset);
    lab_between(asked, 10, 50);
    lab_between(reset, 20, 50);
    lab_between(lab_stats(pool).resets, 10, 20);
    lab_equal(lab_stats(pool).opened, 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_clean_lease_costs_no_round_trip(void **state)
{
    struct bill bill = { .way = *state,
                         .relay = relay_start(private_server()->port, NULL) };
    assert_non_null(bill.relay);
    lab_run(count_answers, &bill);
    relay_stop(bill.relay);
}

/* ---- closing on request -------------------------------------------------------------- */

static weir_status close_a_lease(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool) || lease_one(pool, &lease))
        return WEIR_FAILED;
    long id = sql_number(weir_mysql(lease), "SELECT CONNECTION_ID()");
    lab_equal(weir_lease_close(lease), WEIR_OK);
    if (lease_one(pool, &lease))
        return WEIR_FAILED;
    lab_check(sql_number(weir_mysql(lease), "SELECT CONNECTION_ID()") != id);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_REQUESTED], 1);

    /* A polite goodbye is no "aborted connection" in the server's books. */
    long aborted = admin_number("SELECT variable_value FROM information_schema.global_status "
                                "WHERE variable_name = 'Aborted_clients'");
    lab_pool_end(&pool);
    /* The server lets go of a connection when it comes to it, also of those that ask here. */
    double until = lab_now_ms() + 2000;
    long   left = private_server_connections();
    while (left > 0 && lab_now_ms() < until) {
        (void)weir_sleep(weir_in_ms(10));
        left = private_server_connections();
    }
    lab_equal(left, 0);
    lab_equal(admin_number("SELECT variable_value FROM information_schema.global_status "
                           "WHERE variable_name = 'Aborted_clients'"),
              aborted);
    return WEIR_OK;
}

static void a_lease_can_be_closed_and_goodbyes_are_polite(void **state)
{
    lab_run(close_a_lease, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(what_the_protocol_reports_is_put_right),
        LAB_EVERY_WAY(a_full_reset_puts_all_right),
        LAB_EVERY_WAY(charset_and_database_set_by_call_are_put_back_on_both_sides),
        LAB_EVERY_WAY(an_open_transaction_is_rolled_back),
        LAB_UNIX(a_transaction_left_by_a_failure_that_was_forgotten_is_rolled_back),
        LAB_EVERY_WAY(a_reply_left_unread_closes_the_connection),
        LAB_EVERY_WAY(statements_left_open_are_closed),
        LAB_EVERY_WAY(mysql_close_by_the_user_ends_that_connection_only),
        LAB_EVERY_WAY(a_forgotten_lease_ends_with_its_coroutine_and_is_counted),
        LAB_EVERY_WAY(a_forgotten_lease_is_recycled_where_asked_for),
        LAB_PLAIN_AND_TLS(a_clean_lease_costs_no_round_trip),
        LAB_EVERY_WAY(a_lease_can_be_closed_and_goodbyes_are_polite),
    };
    return lab_main(argc, argv, tests);
}
