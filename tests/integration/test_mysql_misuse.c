/*
 * test_mysql_misuse.c - handles and leases used by the wrong coroutine, or too late: an error
 * that says who and where, at once, and never somebody else's answer.
 */
#include <lab.h>

#include <stdio.h>
#include <string.h>

struct intruder {
    MYSQL      *my; /* somebody else's */
    weir_lease *lease;
    unsigned    wait_ms;
    int         code;
    char        words[600];
    double      took_ms;
    weir_status released;
    weir_status given;
};

static weir_status intrude(void *arg)
{
    struct intruder *me = arg;

    if (me->wait_ms)
        (void)weir_sleep(weir_in_ms(me->wait_ms));
    double start = lab_now_ms();
    me->code = sql_do(me->my, "SELECT 666");
    me->took_ms = lab_now_ms() - start;
    snprintf(me->words, sizeof me->words, "%s", mysql_error(me->my));
    return WEIR_OK;
}

static weir_status release_anothers(void *arg)
{
    struct intruder *me = arg;
    me->released = weir_release(me->lease);
    me->given = weir_lease_give(me->lease, weir_self());
    return WEIR_OK;
}

/* ---- another coroutine --------------------------------------------------------------- */

/* Where the lease was taken and where the intruder was spawned. */
static char lease_line[40], spawn_line[40];
#define NOTE_LINE(buf) snprintf((buf), sizeof(buf), "misuse.c:%d", __LINE__)

static weir_status lend_by_accident(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct intruder other = { .code = -1 };
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    NOTE_LINE(lease_line); weir_status st = weir_acquire(pool, lab_patience(5000), &lease, &err);
    lab_need_ok(st, &err);
    other.my = weir_mysql(lease);
    lab_equal(sql_number(other.my, "SELECT 1"), 1);
    NOTE_LINE(spawn_line); weir_spawn(group, intrude, &other);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);

    lab_tell("%d %s", other.code, other.words);
    lab_check(other.code != 0);
    lab_took(other.took_ms, 0, 5);
    lab_says(other.words, lease_line);
    lab_says(other.words, spawn_line);

    /* The holder goes on, or is told that its connection is gone: never a wrong answer. */
    long answer = sql_number(weir_mysql(lease), "SELECT 51");
    if (answer == -1)
        lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    else
        lab_equal(answer, 51);
    lab_tell("the holder's connection %s", answer == -1 ? "is lost" : "lives");
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_handle_used_by_another_coroutine_names_both_places(void **state)
{
    lab_run(lend_by_accident, *state);
}

static weir_status two_at_once(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct intruder other = { .wait_ms = 100, .code = -1 };
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    other.my = weir_mysql(lease);
    weir_spawn(group, intrude, &other);
    double start = lab_now_ms();
    long   answer = sql_number(weir_mysql(lease), "SELECT 52 + SLEEP(0.3)");
    double took = lab_now_ms() - start;
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);

    lab_tell("intruder: %d %s; holder: %ld after %.0f ms", other.code, other.words, answer, took);
    lab_check(other.code != 0);
    lab_took(other.took_ms, 0, 5);
    if (answer == -1)
        lab_took(took, 0, 350);
    else
        lab_equal(answer, 52);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_second_coroutine_fails_while_the_first_is_in_its_query(void **state)
{
    lab_run(two_at_once, *state);
}

/* The one call that cannot be refused: the library frees what it needs for another. */
static weir_status close_anothers(void *arg)
{
    struct intruder *me = arg;
    (void)weir_sleep(weir_in_ms(me->wait_ms));
    double start = lab_now_ms();
    mysql_close(me->my);
    me->took_ms = lab_now_ms() - start;
    return WEIR_OK;
}

static weir_status close_in_query(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct intruder other = { .wait_ms = 100 };
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    other.my = weir_mysql(lease);
    weir_spawn(group, close_anothers, &other);
    double start = lab_now_ms();
    lab_equal(sql_number(weir_mysql(lease), "SELECT 57 + SLEEP(0.5)"), -1);
    lab_took(lab_now_ms() - start, 90, 200);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_tell("%s", err.message);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_took(other.took_ms, 0, 50);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_handle_closed_by_another_coroutine_ends_the_holders_query(void **state)
{
    lab_run(close_in_query, *state);
}

/* ---- another thread ------------------------------------------------------------------ */

static void use_on_a_thread(void *arg)
{
    (void)intrude(arg);
}

static void use_in_another_hub(void *arg)
{
    lab_equal(weir_run(intrude, arg), WEIR_OK);
}

static weir_status use_elsewhere(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct intruder other = { .code = -1 };
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    other.my = weir_mysql(lease);
    lab_equal(weir_offload(use_on_a_thread, &other, WEIR_FOREVER), WEIR_OK);
    lab_check(other.code != 0);
    lab_says(other.words, "a thread without a hub must not use connection 1");
    lab_equal(weir_offload(use_in_another_hub, &other, WEIR_FOREVER), WEIR_OK);
    lab_check(other.code != 0);
    lab_says(other.words, "of another thread must not use connection 1");
    lab_equal(sql_number(weir_mysql(lease), "SELECT 63"), 63);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(lab_stats(pool).opened, 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_handle_used_on_another_thread_is_refused_there(void **state)
{
    lab_run(use_elsewhere, *state);
}

/* ---- another's statements ------------------------------------------------------------ */

/*
 * Statements of the holder. The library sends some commands together, and one that is refused
 * among them leaves it waiting for the others: the holder must not wait with it.
 */
struct thief {
    MYSQL      *my;
    MYSQL_STMT *stmt;
    bool        directly;
    int         rc;
};

static weir_status take_statement(void *arg)
{
    struct thief *me = arg;

    if (me->directly) {
        MYSQL_STMT *own = mysql_stmt_init(me->my);
        me->rc = mariadb_stmt_execute_direct(own, "SELECT 666", (size_t)-1);
    } else {
        me->rc = mysql_stmt_prepare(me->stmt, "SELECT 666", (unsigned long)-1);
    }
    return WEIR_OK;
}

static weir_status lose_statement(weir_pool *pool, bool directly)
{
    struct thief thief = { .directly = directly };
    weir_error   err;
    weir_autoptr(weir_lease) lease = NULL;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    thief.my = weir_mysql(lease);
    thief.stmt = mysql_stmt_init(thief.my);
    lab_equal(mysql_stmt_prepare(thief.stmt, "SELECT 61", (unsigned long)-1), 0);
    weir_spawn(group, take_statement, &thief);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_check(thief.rc != 0);

    double start = lab_now_ms();
    lab_equal(sql_number(thief.my, "SELECT 62"), -1);
    lab_took(lab_now_ms() - start, 0, 20);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_says(err.message, "by somebody else");
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    return WEIR_OK;
}

static weir_status lose_statements(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.query_timeout_ms = 3000;
    if (lab_pool_new(&opts, &pool) || lose_statement(pool, false) || lose_statement(pool, true))
        return WEIR_FAILED;
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_statement_taken_by_another_coroutine_does_not_leave_the_holder_waiting(void **state)
{
    lab_run(lose_statements, *state);
}

/* ---- after the release --------------------------------------------------------------- */

static weir_status use_after_release(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    MYSQL *my = weir_mysql(lease);
    lab_equal(sql_number(my, "SELECT 1"), 1);
    lab_equal(weir_release(lease), WEIR_OK);

    double start = lab_now_ms();
    lab_check(sql_do(my, "SELECT 666") != 0);
    lab_took(lab_now_ms() - start, 0, 5);
    lab_tell("%s", mysql_error(my));

    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 53"), 53);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_handle_used_after_the_release_fails_at_once(void **state)
{
    lab_run(use_after_release, *state);
}

static weir_status release_wrongly(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct intruder other = { .released = WEIR_OK, .given = WEIR_OK };
    weir_error      err;
    weir_lease     *lease = NULL;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &lease, &err), &err);
    other.lease = lease;
    weir_spawn(group, release_anothers, &other);
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_equal(other.released, WEIR_USAGE);
    lab_equal(other.given, WEIR_USAGE);
    lab_equal(sql_number(weir_mysql(lease), "SELECT 54"), 54); /* nothing has changed */

    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(weir_release(lease), WEIR_USAGE);
    lab_check(weir_mysql(lease) == NULL);
    lab_equal(lab_stats(pool).released, 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_lease_is_released_by_its_holder_and_once(void **state)
{
    lab_run(release_wrongly, *state);
}

/* ---- handing one over ---------------------------------------------------------------- */

struct heir {
    weir_lease *lease;
    bool        may_start;
    long        answer;
    weir_status released;
};

static weir_status inherit(void *arg)
{
    struct heir *me = arg;
    while (!me->may_start)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            return WEIR_FAILED;
    me->answer = sql_number(weir_mysql(me->lease), "SELECT 55");
    me->released = weir_release(me->lease);
    return WEIR_OK;
}

static weir_status give_away(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct heir     heir = { .released = WEIR_FAILED };
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    lab_need_ok(weir_acquire(pool, lab_patience(5000), &heir.lease, &err), &err);
    MYSQL     *my = weir_mysql(heir.lease);
    weir_task *task = weir_spawn(group, inherit, &heir);
    lab_need(task);
    lab_equal(weir_lease_give(heir.lease, task), WEIR_OK);
    heir.may_start = true;
    lab_equal(weir_group_wait(group, lab_patience(2000)), WEIR_OK);
    lab_equal(heir.answer, 55);
    lab_equal(heir.released, WEIR_OK);
    lab_check(sql_do(my, "SELECT 666") != 0); /* it is ours no more */
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_lease_can_be_given_to_another_coroutine(void **state)
{
    lab_run(give_away, *state);
}

/* ---- nested leases ------------------------------------------------------------------- */

static weir_status nest(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_error      err;
    weir_lease     *outer = NULL, *inner = NULL, *third = NULL;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_local_lease(pool, lab_patience(5000), &outer, &err), &err);
    lab_need_ok(weir_local_lease(pool, lab_patience(5000), &inner, &err), &err);
    lab_check(weir_mysql(outer) == weir_mysql(inner));
    lab_equal(weir_release(inner), WEIR_OK);
    lab_equal(sql_number(weir_mysql(outer), "SELECT 56"), 56);

    /* The only connection is ours: waiting for another would never end. */
    double start = lab_now_ms();
    lab_equal(weir_acquire(pool, lab_patience(5000), &third, &err), WEIR_DEADLOCK);
    lab_took(lab_now_ms() - start, 0, 50);
    lab_says(err.message, "test_mysql_misuse.c");
    lab_equal(weir_release(outer), WEIR_OK);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void local_leases_nest_and_a_wait_for_oneself_is_a_deadlock(void **state)
{
    lab_run(nest, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_handle_used_by_another_coroutine_names_both_places),
        LAB_EVERY_WAY(a_second_coroutine_fails_while_the_first_is_in_its_query),
        LAB_EVERY_WAY(a_handle_closed_by_another_coroutine_ends_the_holders_query),
        LAB_EVERY_WAY(a_handle_used_on_another_thread_is_refused_there),
        LAB_EVERY_WAY(a_statement_taken_by_another_coroutine_does_not_leave_the_holder_waiting),
        LAB_EVERY_WAY(a_handle_used_after_the_release_fails_at_once),
        LAB_EVERY_WAY(a_lease_is_released_by_its_holder_and_once),
        LAB_EVERY_WAY(a_lease_can_be_given_to_another_coroutine),
        LAB_EVERY_WAY(local_leases_nest_and_a_wait_for_oneself_is_a_deadlock),
    };
    return lab_main(argc, argv, tests);
}
