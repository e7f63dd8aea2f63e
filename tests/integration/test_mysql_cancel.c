/*
 * test_mysql_cancel.c - coroutines that are cancelled or late wherever they happen to be, and
 * a storm of them: nobody hangs, nobody hears an answer that was another's.
 */
#define _GNU_SOURCE
#include <detect.h>
#include <lab.h>
#include <relay.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STORM = 1500, ABREAST = 100, STEPS = 12 };

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
    lab_equal(weir_group_wait(group, weir_in_ms(2000)),
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

/* A statement that a cancelled coroutine begins is not sent at all. */
static weir_status begin_when_cancelled(void *arg)
{
    struct sleeper *me = arg;
    weir_lease     *lease = NULL;

    me->acquired = weir_acquire(me->pool, weir_in_ms(5000), &lease, &me->err);
    if (me->acquired != WEIR_OK)
        return me->acquired;
    weir_cancel(weir_self());
    (void)sql_do(weir_mysql(lease), "INSERT INTO lab_cancel VALUES (1)");
    me->status = weir_lease_error(lease, &me->err);
    lab_equal(weir_release(lease), WEIR_OK);
    return me->status;
}

static weir_status cancel_before(void *arg)
{
    struct sleeper *me = arg;
    weir_mysql_opts opts = lab_opts(me->way);
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_equal(pool_do(pool, "CREATE OR REPLACE TABLE lab_cancel (a INT)"), 0);
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, begin_when_cancelled, me);
    (void)weir_group_wait(group, weir_in_ms(2000));
    lab_equal(me->acquired, WEIR_OK);
    lab_tell("%s, outcome %d: %s", weir_status_name(me->status), me->err.outcome,
             me->err.message);
    lab_equal(me->status, WEIR_CANCELED);
    /* Either it never left, or nobody can tell: what counts is that the word is true. */
    long rows = admin_number("SELECT COUNT(*) FROM weir_test.lab_cancel");
    if (me->err.outcome == WEIR_OUTCOME_NOT_SENT)
        lab_equal(rows, 0);
    else
        lab_equal(me->err.outcome, WEIR_OUTCOME_UNKNOWN);
    lab_equal(pool_do(pool, "DROP TABLE lab_cancel"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_statement_begun_after_the_cancel_is_told_truthfully(void **state)
{
    struct sleeper me = { .way = *state };
    lab_run(cancel_before, &me);
}

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
    lab_equal(weir_group_wait(group, weir_in_ms(2000)), WEIR_CANCELED);
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
    weir_task            *task[STORM];
    unsigned              lives, spawned;
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

    WEIR_DEADLINE(draw(&me->random, 4) ? WEIR_FOREVER : weir_in_ms(1 + draw(&me->random, 150)));
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
        if (weir_sleep(weir_in_ms(3)) != WEIR_OK)
            return WEIR_OK;
        if (s->spawned == 0)
            continue;
        unsigned recent = s->spawned < 2 * ABREAST ? s->spawned : 2 * ABREAST;
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
        opts.pool.max_size = 25;
        opts.pool.max_connecting = 4;
        if (lab_pool_new(&opts, &s->pools[i]))
            return WEIR_FAILED;
    }
    lab_need_ok(weir_group_new(&(weir_group_opts){ .max_running = ABREAST }, &group, &err), &err);
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
    lab_between(a.in_use_peak, 1, 25);
    lab_between(b.in_use_peak, 1, 25);
    lab_pool_end(&s->pools[0]);
    lab_pool_end(&s->pools[1]);
    return WEIR_OK;
}

static void a_storm_of_cancels_and_deadlines_mixes_nothing_up(void **state)
{
    static struct storm s;
    memset(&s, 0, sizeof s);
    s.random = 2463534242u;
    s.lives = detect_slowness() > 10 ? STORM / 10 : STORM;
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
        LAB_EVERY_WAY(a_statement_begun_after_the_cancel_is_told_truthfully),
        LAB_PLAIN_AND_TLS(a_cancel_while_a_connection_is_opened_returns_at_once),
        LAB_UNIX(a_storm_of_cancels_and_deadlines_mixes_nothing_up),
        LAB_TCP(a_storm_of_cancels_and_deadlines_mixes_nothing_up),
    };
    return lab_main(argc, argv, tests);
}
