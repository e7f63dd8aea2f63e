/*
 * test_mysql_cancel.c - coroutines that are cancelled or late wherever they happen to be, and
 * a storm of them: nobody hangs, nobody hears an answer that was another's.
 */
#define _GNU_SOURCE
#include <lab.h>
#include <relay.h>
#include <under_valgrind.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STORM = 1500, STEPS = 12 };

/* ---- one at a time ------------------------------------------------------------------- */

struct sleeper {
    const struct lab_way *way;
    weir_mysql_opts       opts;
    weir_pool            *pool;
    bool                  by_deadline;
    weir_status           acquired, status;
    weir_error            err;
    double                returned_ms;
};

static weir_status sleep_in_query(void *arg)
{
    struct sleeper *me = arg;
    weir_autoptr(weir_lease) lease = NULL;

    me->acquired = weir_acquire(me->pool, weir_in_ms(20000), &lease, &me->err);
    if (me->acquired == WEIR_OK) {
        WEIR_DEADLINE(me->by_deadline ? weir_in_ms(200) : WEIR_FOREVER);
        if (sql_do(weir_mysql(lease), "SELECT SLEEP(1)"))
            me->status = weir_lease_error(lease, &me->err);
    }
    me->returned_ms = lab_now_ms();
    return me->acquired ? me->acquired : me->status;
}

static weir_status cancel_in_query(void *arg)
{
    struct sleeper *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    double     start = lab_now_ms();
    weir_task *task = weir_spawn(group, sleep_in_query, me);
    (void)weir_sleep(weir_in_ms(200));
    if (!me->by_deadline)
        weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(2000)),
              me->by_deadline ? WEIR_TIMEOUT : WEIR_CANCELED);
    lab_took(me->returned_ms - start, 199, 230);
    lab_equal(me->status, me->by_deadline ? WEIR_TIMEOUT : WEIR_CANCELED);
    lab_equal(me->err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_tell("%s", me->err.message);

    /* Closed at once, without waiting for the server; the next one gets another. */
    lab_check(lab_settle(pool, 0, 100));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_BROKEN], 1);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_cancel_in_a_query_returns_at_once(void **state)
{
    struct sleeper me = { .way = *state };
    lab_run(cancel_in_query, &me);
}

static void a_deadline_in_a_query_returns_in_time(void **state)
{
    struct sleeper me = { .way = *state, .by_deadline = true };
    lab_run(cancel_in_query, &me);
}

/* ---- begun too late ------------------------------------------------------------------ */

struct late {
    const struct lab_way *way;
    weir_pool            *pool;
    bool                  by_deadline;
    bool                  busy;   /* it passes while he computes */
    weir_status           wanted; /* what the deed must hear */
    MYSQL_STMT           *stmt;   /* prepared before, where there is one */

    void (*before)(struct late *me, MYSQL *my); /* while there is time; may be NULL */
    void (*deed)(struct late *me, weir_lease *lease);
    void (*after)(struct late *me, MYSQL *my);  /* when there is time again; may be NULL */
    bool cut;  /* the deed costs the connection */
};

/* It has failed, and weir says why and that the server never saw it. */
static void expect_not_sent(struct late *me, weir_lease *lease)
{
    weir_error err;

    lab_equal(weir_lease_error(lease, &err), me->wanted);
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    lab_says(err.message, me->by_deadline ? "the deadline passed before it was sent"
                                          : "cancelled before it was sent");
}

static void become_late(const struct late *me)
{
    double until = lab_now_ms() + 6;

    if (!me->by_deadline)
        weir_cancel(weir_self());
    else if (!me->busy)
        lab_equal(weir_sleep(weir_in_ms(1000)), WEIR_TIMEOUT);
    else
        while (lab_now_ms() < until)
            continue;
}

static void have_it_done(struct late *me, weir_lease *lease)
{
    WEIR_DEADLINE(me->by_deadline ? weir_in_ms(5) : WEIR_FOREVER);
    become_late(me);
    double start = lab_now_ms();
    me->deed(me, lease);
    lab_took(lab_now_ms() - start, 0, 100); /* without waiting for anything */
}

static weir_status be_late(void *arg)
{
    struct late *me = arg;
    weir_error   err;
    weir_lease  *lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
    if (me->before)
        me->before(me, weir_mysql(lease));
    have_it_done(me, lease);
    if (me->after && me->by_deadline)
        me->after(me, weir_mysql(lease));
    lab_equal(weir_release(lease), WEIR_OK);
    return WEIR_OK;
}

/* The same connection serves the next one, and there is no row of what was not sent. */
static weir_status look_after_it(struct late *me)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
    lab_equal(weir_lease_error(lease, &err), WEIR_OK); /* not the last holder's */
    MYSQL *my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT 58"), 58);
    lab_equal(sql_number(my, "SELECT @@in_transaction"), 0);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_cancel"), 0);
    lab_equal(admin_number("SELECT variable_value FROM information_schema.global_status "
                           "WHERE variable_name = 'Prepared_stmt_count'"), 0);
    lab_equal(lab_stats(me->pool).opened, me->cut ? 2 : 1);
    lab_equal(lab_stats(me->pool).closed[WEIR_CLOSE_BROKEN], me->cut);
    return WEIR_OK;
}

static weir_status late_in_a_coroutine(void *arg)
{
    struct late    *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_equal(pool_do(pool, "CREATE OR REPLACE TABLE lab_cancel (a INT)"), 0);
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, be_late, me);
    lab_equal(weir_group_wait(group, lab_patience(5000)), WEIR_OK);
    if (look_after_it(me))
        return WEIR_FAILED;
    lab_equal(pool_do(pool, "DROP TABLE lab_cancel"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void lab_run_late(struct late me, const struct lab_way *way)
{
    struct late late = me, canceled = me;

    canceled.way = late.way = way;
    canceled.wanted = WEIR_CANCELED;
    lab_run(late_in_a_coroutine, &canceled);
    late.wanted = WEIR_TIMEOUT;
    late.by_deadline = true;
    lab_run(late_in_a_coroutine, &late);
    late.busy = true;
    lab_run(late_in_a_coroutine, &late);
}

static void insert(struct late *me, weir_lease *lease)
{
    lab_check(sql_do(weir_mysql(lease), "INSERT INTO lab_cancel VALUES (1)") != 0);
    expect_not_sent(me, lease);
    lab_check(mysql_ping(weir_mysql(lease)) != 0);
    expect_not_sent(me, lease);
}

static void go_on(struct late *me, MYSQL *my)
{
    (void)me;
    lab_equal(sql_number(my, "SELECT 59"), 59);
}

static void a_statement_begun_too_late_is_not_sent(void **state)
{
    lab_run_late((struct late){ .deed = insert, .after = go_on }, *state);
}

static void begin(struct late *me, MYSQL *my)
{
    (void)me;
    lab_equal(sql_do(my, "BEGIN"), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_cancel VALUES (2)"), 0);
}

static void commit(struct late *me, weir_lease *lease)
{
    lab_check(mysql_commit(weir_mysql(lease)) != 0);
    expect_not_sent(me, lease);
}

static void a_commit_begun_too_late_leaves_a_transaction_that_is_rolled_back(void **state)
{
    lab_run_late((struct late){ .before = begin, .deed = commit }, *state);
}

static void roll_back_shielded(struct late *me, weir_lease *lease)
{
    weir_error err;

    commit(me, lease);
    WEIR_SHIELD(weir_in_ms(5000));
    lab_equal(mysql_rollback(weir_mysql(lease)), 0);
    lab_equal(sql_number(weir_mysql(lease), "SELECT @@in_transaction"), 0);
    lab_equal(weir_lease_error(lease, &err), WEIR_OK);
}

static void under_a_shield_statements_are_sent_all_the_same(void **state)
{
    lab_run_late((struct late){ .before = begin, .deed = roll_back_shielded }, *state);
}

static void prepare(struct late *me, MYSQL *my)
{
    me->stmt = mysql_stmt_init(my);
    lab_equal(mysql_stmt_prepare(me->stmt, "INSERT INTO lab_cancel VALUES (3)", (unsigned long)-1),
              0);
}

static void execute_and_close(struct late *me, weir_lease *lease)
{
    MYSQL_STMT *fresh = mysql_stmt_init(weir_mysql(lease));

    lab_check(mysql_stmt_execute(me->stmt) != 0);
    lab_says(mysql_stmt_error(me->stmt), "before it was sent");
    expect_not_sent(me, lease);
    lab_check(mysql_stmt_prepare(fresh, "SELECT 1", (unsigned long)-1) != 0);
    expect_not_sent(me, lease);
    lab_equal(mysql_stmt_close(fresh), 0);
    lab_equal(mysql_stmt_close(me->stmt), 0); /* the server must hear of this */
}

static void a_prepared_statement_that_comes_too_late_can_still_be_closed(void **state)
{
    lab_run_late((struct late){ .before = prepare, .deed = execute_and_close }, *state);
}

/* The library sends what belongs to these in one go: it cannot be held up in between. */
static void prepare_anew(struct late *me, weir_lease *lease)
{
    lab_check(mysql_stmt_prepare(me->stmt, "SELECT 1", (unsigned long)-1) != 0);
    expect_not_sent(me, lease);
    lab_check(sql_do(weir_mysql(lease), "INSERT INTO lab_cancel VALUES (4)") != 0);
    expect_not_sent(me, lease);
}

static void execute_directly(struct late *me, weir_lease *lease)
{
    me->stmt = mysql_stmt_init(weir_mysql(lease));
    lab_check(mariadb_stmt_execute_direct(me->stmt, "INSERT INTO lab_cancel VALUES (5)",
                                          (size_t)-1) != 0);
    expect_not_sent(me, lease);
}

static void of_commands_that_go_together_none_is_sent_too_late(void **state)
{
    lab_run_late((struct late){ .before = prepare, .deed = prepare_anew, .cut = true }, *state);
    lab_run_late((struct late){ .deed = execute_directly, .cut = true }, *state);
}

static void change_user(struct late *me, weir_lease *lease)
{
    const struct private_server *s = private_server();

    lab_check(mysql_change_user(weir_mysql(lease), s->user, s->password, s->database) != 0);
    expect_not_sent(me, lease);
    lab_equal(mysql_stmt_close(me->stmt), 0); /* the library has forgotten which it was */
}

static void a_login_begun_too_late_leaves_no_statement_on_the_server(void **state)
{
    lab_run_late((struct late){ .before = prepare, .deed = change_user }, *state);
}

static void send_two(struct late *me, MYSQL *my)
{
    (void)me;
    lab_equal(mysql_send_query(my, "DO 0", 4), 0);
    lab_equal(mysql_send_query(my, "DO 1", 4), 0);
}

static void send_a_third(struct late *me, weir_lease *lease)
{
    lab_check(mysql_send_query(weir_mysql(lease), "INSERT INTO lab_cancel VALUES (6)", 33) != 0);
    expect_not_sent(me, lease);
}

static void read_two(struct late *me, MYSQL *my)
{
    (void)me;
    lab_equal(mysql_read_query_result(my), 0);
    lab_equal(mysql_read_query_result(my), 0);
    lab_equal(sql_number(my, "SELECT 60"), 60);
}

/* Only after a deadline can anybody still read them. */
static void replies_to_what_was_sent_in_time_can_be_read_later(void **state)
{
    struct late late = { .way = *state, .by_deadline = true, .wanted = WEIR_TIMEOUT,
                         .before = send_two, .deed = send_a_third, .after = read_two };
    lab_run(late_in_a_coroutine, &late);
}

/* ---- waiting for a connection -------------------------------------------------------- */

/* While it waits: for a connection that is being opened, and in the queue. */
static weir_status cancel_in_wait(void *arg)
{
    struct sleeper *me = arg;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_task *task = weir_spawn(group, sleep_in_query, me);
    (void)weir_sleep(weir_in_ms(100));
    double start = lab_now_ms();
    weir_cancel(task);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_CANCELED);
    lab_took(me->returned_ms - start, 0, 20);
    lab_equal(me->acquired, WEIR_CANCELED);
    lab_equal(lab_stats(pool).canceled, 1);
    lab_pool_end(&pool); /* in time: the connect that nobody wants any more is given up */
    return WEIR_OK;
}

static void a_cancel_while_a_connection_is_opened_returns_at_once(void **state)
{
    struct listener silent;
    struct sleeper  me = { .way = *state };

    assert_true(listener_silent(&silent));
    me.opts = lab_opts(me.way);
    me.opts.port = silent.port;
    lab_run(cancel_in_wait, &me);
    listener_close(&silent);
}

/* ---- the storm ----------------------------------------------------------------------- */

struct storm {
    const struct lab_way *ways[2];
    weir_pool            *pools[2];
    unsigned              lives, abreast;
    unsigned              size; /* of each pool */
    int64_t               pace; /* how much longer everything takes */
    weir_task            *task[STORM];
    unsigned              spawned;
    unsigned              by_status[WEIR_FAILED + 1];
    unsigned              answers, mixed, strange;
    uint64_t              random;
};

struct life {
    struct storm *storm;
    uint64_t      random;
};

/* xorshift: each life has its own, so that a run can be repeated. */
static unsigned draw(uint64_t *state, unsigned below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (unsigned)(*state >> 33) % below;
}

/* Ask for a number in one of several ways; each row of the answer must be that number. */
static bool ask(struct life *me, MYSQL *my)
{
    static const char *const forms[] = {
        "SELECT %u, SLEEP(0.00%u)", "SELECT %u, REPEAT('z', 200000 + %u)",
        "SELECT %u FROM seq_1_to_3000 WHERE seq > %u", "SELECT %u + 0 * %u"
    };
    unsigned   form = draw(&me->random, 4), v = draw(&me->random, 1000000);
    unsigned   half = form == 2 && draw(&me->random, 4) == 0;
    char       sql[120];
    MYSQL_RES *res;
    MYSQL_ROW  row;
    unsigned   rows = 0;

    snprintf(sql, sizeof sql, forms[form], v, draw(&me->random, 10));
    if (mysql_query(my, sql))
        return false;
    res = form == 2 ? mysql_use_result(my) : mysql_store_result(my);
    if (!res)
        return false;
    while ((row = mysql_fetch_row(res)) != NULL) {
        me->storm->mixed += (unsigned)atol(row[0]) != v;
        if (++rows == 1500 && half)
            break;
    }
    bool well = mysql_errno(my) == 0;
    me->storm->answers += rows > 0;
    mysql_free_result(res); /* reads the rest of a half-read one */
    return well && mysql_errno(my) == 0;
}

static weir_status live(struct life *me)
{
    weir_pool *pool = me->storm->pools[draw(&me->random, 2)];
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    bool patient = draw(&me->random, 4) != 0;
    WEIR_DEADLINE(patient ? WEIR_FOREVER
                          : weir_in_ms(me->storm->pace * (1 + draw(&me->random, 150))));
    weir_status st = weir_acquire(pool, WEIR_SCOPE, &lease, &err);
    for (int i = 0; st == WEIR_OK && i < STEPS; i++) {
        if (!ask(me, weir_mysql(lease)))
            st = weir_lease_error(lease, &err);
        else if (draw(&me->random, 3) == 0)
            st = weir_yield();
    }
    if (st != WEIR_OK && st != WEIR_CANCELED && st != WEIR_TIMEOUT && me->storm->strange++ < 3)
        lab_record(WEIR_HERE, "%s: %s", weir_status_name(st), err.message);
    return st;
}

static weir_status one_life(void *arg)
{
    struct life *me = arg;
    weir_status  st = live(me);
    me->storm->by_status[st]++;
    return WEIR_OK;
}

static weir_status cancel_at_random(void *arg)
{
    struct storm *s = arg;
    for (;;) {
        if (weir_sleep(weir_in_ms(3 * s->pace)) != WEIR_OK)
            return WEIR_OK;
        if (s->spawned == 0)
            continue;
        unsigned recent = s->spawned < 2 * s->abreast ? s->spawned : 2 * s->abreast;
        weir_task *task = s->task[s->spawned - 1 - draw(&s->random, recent)];
        if (task && !weir_task_done(task))
            weir_cancel(task);
    }
}

static weir_status storm(void *arg)
{
    static struct life lives[STORM];
    struct storm      *s = arg;
    weir_error         err;
    weir_autoptr(weir_group) group = NULL;
    weir_autoptr(weir_group) spoilers = NULL;

    for (int i = 0; i < 2; i++) {
        weir_mysql_opts opts = lab_opts(s->ways[i]);
        opts.pool.max_size = s->size;
        opts.pool.max_connecting = 4;
        if (lab_pool_new(&opts, &s->pools[i]))
            return WEIR_FAILED;
    }
    lab_need_ok(weir_group_new(&(weir_group_opts){ .max_running = s->abreast }, &group, &err),
                &err);
    lab_need_ok(weir_group_new(NULL, &spoilers, &err), &err);
    weir_spawn(spoilers, cancel_at_random, s);
    double start = lab_now_ms();
    for (unsigned i = 0; i < s->lives; i++) {
        lives[i] = (struct life){ .storm = s, .random = 88172645463325252u + i * 7919u };
        s->task[i] = weir_spawn(group, one_life, &lives[i]);
        s->spawned = i + 1;
    }
    lab_equal(weir_group_wait(group, lab_patience(40000)), WEIR_OK);
    double took = lab_now_ms() - start;
    weir_group_cancel(spoilers);
    (void)weir_group_wait(spoilers, weir_in_ms(1000));

    weir_pool_stats a = lab_stats(s->pools[0]), b = lab_stats(s->pools[1]);
    lab_tell("%.1f s: %u well, %u cancelled, %u late, %u others; %u answers, %u mixed up; "
             "%llu + %llu connections",
             took / 1e3, s->by_status[WEIR_OK], s->by_status[WEIR_CANCELED],
             s->by_status[WEIR_TIMEOUT], s->strange, s->answers, s->mixed,
             (unsigned long long)a.opened, (unsigned long long)b.opened);
    lab_equal(s->by_status[WEIR_OK] + s->by_status[WEIR_CANCELED] + s->by_status[WEIR_TIMEOUT],
              s->lives);
    lab_equal(s->strange, 0);
    lab_equal(s->mixed, 0);
    lab_between(s->by_status[WEIR_CANCELED], s->lives / 50, s->lives);
    lab_between(s->by_status[WEIR_TIMEOUT], s->lives / 50, s->lives);
    lab_between(s->by_status[WEIR_OK], s->lives / 10, s->lives);
    lab_between(a.in_use_peak, 1, s->size);
    lab_between(b.in_use_peak, 1, s->size);
    lab_pool_end(&s->pools[0]);
    lab_pool_end(&s->pools[1]);
    return WEIR_OK;
}

static void a_storm_of_cancels_and_deadlines_mixes_nothing_up(void **state)
{
    static struct storm s;
    memset(&s, 0, sizeof s);
    s.random = 2463534242u;
    s.lives = under_valgrind() ? STORM / 10 : STORM;
    s.abreast = under_valgrind() ? 24 : 100;
    s.size = under_valgrind() ? 6 : 25;
    s.pace = under_valgrind() ? 10 : 1;
    s.ways[0] = *state;
    s.ways[1] = &lab_tls;
    lab_run(storm, &s);
    private_server_tidy();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_cancel_in_a_query_returns_at_once),
        LAB_EVERY_WAY(a_deadline_in_a_query_returns_in_time),
        LAB_EVERY_WAY(a_statement_begun_too_late_is_not_sent),
        LAB_EVERY_WAY(a_commit_begun_too_late_leaves_a_transaction_that_is_rolled_back),
        LAB_UNIX(under_a_shield_statements_are_sent_all_the_same),
        LAB_EVERY_WAY(a_prepared_statement_that_comes_too_late_can_still_be_closed),
        LAB_EVERY_WAY(of_commands_that_go_together_none_is_sent_too_late),
        LAB_UNIX(a_login_begun_too_late_leaves_no_statement_on_the_server),
        LAB_EVERY_WAY(replies_to_what_was_sent_in_time_can_be_read_later),
        LAB_PLAIN_AND_TLS(a_cancel_while_a_connection_is_opened_returns_at_once),
        LAB_UNIX(a_storm_of_cancels_and_deadlines_mixes_nothing_up),
        LAB_TCP(a_storm_of_cancels_and_deadlines_mixes_nothing_up),
    };
    return lab_main(argc, argv, tests);
}
