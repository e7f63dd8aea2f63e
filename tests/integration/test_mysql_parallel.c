/*
 * test_mysql_parallel.c - many coroutines, one thread: what waits together takes the time of
 * one, over each way to the server.
 */
#include <lab.h>
#include <weir/hub.h>

enum {
    CROWD = 100,
    CALLS = 30,
    FEW = 4,
    MANY = 200,
    VOLLEY = 150 /* statements that the kernel takes without anybody reading */
};

/* ---- 100 at once -------------------------------------------------------------------- */

static weir_status sleep_a_fifth(void *arg)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(arg, WEIR_SCOPE, &lease, &err), &err);
    lab_equal(sql_number(weir_mysql(lease), "SELECT SLEEP(0.2)"), 0);
    return WEIR_OK;
}

static weir_status sleep_together(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = CROWD;
    opts.pool.max_connecting = 8;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, CROWD))
        return WEIR_FAILED;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    double start = lab_now_ms();
    for (int i = 0; i < CROWD; i++)
        weir_spawn(group, sleep_a_fifth, pool);
    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    double took_ms = lab_now_ms() - start;

    lab_tell("100 x SLEEP(0.2): %.0f ms", took_ms);
    lab_took(took_ms, 200, 300);
    lab_equal(lab_stats(pool).opened, CROWD);
    lab_equal(lab_stats(pool).in_use_peak, CROWD);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_hundred_sleeps_of_200_ms_end_within_300(void **state)
{
    lab_run(sleep_together, *state);
}

/* ---- 30 in a group ------------------------------------------------------------------ */

static weir_status sleep_a_tenth(void *arg)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(arg, WEIR_SCOPE, &lease, &err), &err);
    lab_equal(sql_number(weir_mysql(lease), "SELECT SLEEP(0.1)"), 0);
    return WEIR_OK;
}

static double group_takes_ms(weir_pool *pool, int calls)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(NULL, &group, &err) != WEIR_OK)
        return -1;
    double start = lab_now_ms();
    for (int i = 0; i < calls; i++)
        weir_spawn(group, sleep_a_tenth, pool);
    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    return lab_now_ms() - start;
}

static weir_status thirty_calls(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = CALLS;
    opts.pool.max_connecting = 8;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, CALLS))
        return WEIR_FAILED;

    double one = group_takes_ms(pool, 1);
    double all = group_takes_ms(pool, CALLS);
    lab_tell("one call %.1f ms, thirty %.1f ms", one, all);
    lab_took(one, 100, 150);
    lab_took(all, 100, one + 20);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void thirty_calls_take_what_one_takes(void **state)
{
    lab_run(thirty_calls, *state);
}

/* ---- errors of single members ------------------------------------------------------- */

struct member {
    weir_pool  *pool;
    int         number;
    weir_error  err;
    weir_status status;
};

static bool is_faulty(int number)
{
    return number == 3 || number == 7;
}

static weir_status query_or_fail(void *arg)
{
    struct member *me = arg;
    weir_autoptr(weir_lease) lease = NULL;

    me->status = weir_acquire(me->pool, WEIR_SCOPE, &lease, &me->err);
    if (me->status != WEIR_OK)
        return me->status;
    if (sql_do(weir_mysql(lease), is_faulty(me->number) ? "SELECT * FROM no_such_%d"
                                                        : "SELECT %d", me->number))
        me->status = weir_lease_error(lease, &me->err);
    return me->status;
}

struct census {
    int listed, failed, failed_later; /* a failure listed after a success */
};

static void count_member(const weir_member *member, void *arg)
{
    struct census *c = arg;
    c->listed++;
    if (!member->done)
        lab_record(WEIR_HERE, "member %llu is not done", (unsigned long long)member->id);
    if (member->status != WEIR_OK) {
        c->failed++;
        c->failed_later += c->failed != c->listed;
    }
}

static weir_status some_fail(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct member   member[10];
    struct census   census = { 0 };
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < 10; i++) {
        member[i] = (struct member){ .pool = pool, .number = i };
        weir_spawn(group, query_or_fail, &member[i]);
    }
    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_SERVER);

    lab_equal(weir_group_failed(group), 2);
    weir_group_each(group, count_member, &census);
    lab_equal(census.listed, 10);
    lab_equal(census.failed, 2);
    lab_equal(census.failed_later, 0);
    for (int i = 0; i < 10; i++) {
        lab_equal(member[i].status, is_faulty(i) ? WEIR_SERVER : WEIR_OK);
        if (!is_faulty(i))
            continue;
        lab_equal(member[i].err.native, 1146);
        lab_equal(member[i].err.outcome, WEIR_OUTCOME_DONE);
        lab_says(member[i].err.sqlstate, "42S02");
        lab_says(member[i].err.message, i == 3 ? "no_such_3" : "no_such_7");
    }
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_member_that_fails_is_told_apart_from_the_rest(void **state)
{
    lab_run(some_fail, *state);
}

/* ---- deadlines ---------------------------------------------------------------------- */

static weir_status sleep_long(void *arg)
{
    struct member *me = arg;
    weir_autoptr(weir_lease) lease = NULL;

    me->status = weir_acquire(me->pool, WEIR_SCOPE, &lease, &me->err);
    if (me->status == WEIR_OK && sql_do(weir_mysql(lease), "SELECT SLEEP(1)"))
        me->status = weir_lease_error(lease, &me->err);
    return me->status;
}

static weir_status group_runs_late(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct member   member[8];
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = 4; /* so that some are late in a query and some in the queue */
    opts.pool.max_connecting = 4;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 4))
        return WEIR_FAILED;
    double start = lab_now_ms();
    lab_need_ok(weir_group_new(&(weir_group_opts){ .deadline = weir_in_ms(150) }, &group, &err),
                &err);
    for (int i = 0; i < 8; i++) {
        member[i] = (struct member){ .pool = pool };
        weir_spawn(group, sleep_long, &member[i]);
    }
    lab_equal(weir_group_wait(group, WEIR_FOREVER), WEIR_TIMEOUT);
    lab_took(lab_now_ms() - start, 149, 200);

    lab_equal(weir_group_failed(group), 8);
    for (int i = 0; i < 8; i++) {
        lab_equal(member[i].status, WEIR_TIMEOUT);
        if (i < 4)
            lab_equal(member[i].err.outcome, WEIR_OUTCOME_UNKNOWN);
    }
    lab_check(lab_settle(pool, 0, 2000));
    lab_equal(lab_stats(pool).timeouts, 4);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_BROKEN], 4);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_group_deadline_ends_queries_and_queues_alike(void **state)
{
    lab_run(group_runs_late, *state);
}

/* ---- sharing ------------------------------------------------------------------------ */

static weir_status ask_five_times(void *arg)
{
    struct member *me = arg;
    for (int i = 0; i < 5; i++) {
        weir_autoptr(weir_lease) lease = NULL;
        lab_need_ok(weir_acquire(me->pool, weir_in_ms(10000), &lease, &me->err), &me->err);
        lab_equal(sql_number(weir_mysql(lease), "SELECT %d", me->number * 5 + i),
                  me->number * 5 + i);
    }
    return WEIR_OK;
}

static weir_status share(void *arg)
{
    static struct member member[MANY];
    weir_mysql_opts      opts = lab_opts(arg);
    weir_error           err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    opts.pool.max_size = FEW;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (int i = 0; i < MANY; i++) {
        member[i] = (struct member){ .pool = pool, .number = i };
        weir_spawn(group, ask_five_times, &member[i]);
    }
    lab_equal(weir_group_wait(group, weir_in_ms(20000)), WEIR_OK);
    weir_pool_stats s = lab_stats(pool);
    lab_equal(s.acquired, MANY * 5);
    lab_between(s.opened, 1, FEW);
    lab_between(s.in_use_peak, 1, FEW);
    lab_between(s.waiting_peak, MANY - FEW, MANY);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void two_hundred_share_four_connections(void **state)
{
    lab_run(share, *state);
}

/* ---- giving way ---------------------------------------------------------------------- */

/* One sends many small statements, each of which the kernel takes at once; the other only
   counts its turns. */
struct duet {
    weir_pool *pool;
    unsigned   turns; /* of the other */
    unsigned   longest; /* statements sent between two of them, at most */
    bool       over;
};

static weir_status count_turns(void *arg)
{
    struct duet *d = arg;

    while (!d->over) {
        d->turns++;
        if (weir_yield() != WEIR_OK)
            return WEIR_FAILED;
    }
    return WEIR_OK;
}

static void send_volley(struct duet *d, MYSQL *my)
{
    unsigned turns = d->turns, run = 0;

    for (unsigned i = 0; i < VOLLEY; i++) {
        lab_equal(mysql_send_query(my, "SELECT 7", 8), 0);
        run = d->turns == turns ? run + 1 : 1;
        turns = d->turns;
        d->longest = run > d->longest ? run : d->longest;
    }
}

static weir_status fire(void *arg)
{
    struct duet *d = arg;
    weir_error   err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(d->pool, WEIR_SCOPE, &lease, &err), &err);
    MYSQL *my = weir_mysql(lease);
    (void)weir_yield(); /* so that the other is under way */
    send_volley(d, my);
    for (unsigned i = 0; i < VOLLEY; i++) {
        lab_equal(mysql_read_query_result(my), 0);
        MYSQL_RES *res = mysql_store_result(my);
        MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
        lab_check(row && row[0][0] == '7');
        mysql_free_result(res);
    }
    d->over = true;
    return WEIR_OK;
}

static weir_status share_the_thread(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct duet     d = { 0 };
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    d.pool = pool;
    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, fire, &d);
    weir_spawn(group, count_turns, &d);
    lab_equal(weir_group_wait(group, weir_in_ms(5000)), WEIR_OK);
    lab_tell("%u statements in one go", d.longest);
    lab_between(d.longest, 1, WEIR_UNITS / WEIR_IO_UNITS);
    lab_equal(lab_stats(pool).opened, 1);
    lab_check(lab_settle(pool, 1, 1000)); /* every reply was read */
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void one_who_never_has_to_wait_gives_way_all_the_same(void **state)
{
    lab_run(share_the_thread, *state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_hundred_sleeps_of_200_ms_end_within_300),
        LAB_EVERY_WAY(thirty_calls_take_what_one_takes),
        LAB_EVERY_WAY(a_member_that_fails_is_told_apart_from_the_rest),
        LAB_EVERY_WAY(a_group_deadline_ends_queries_and_queues_alike),
        LAB_EVERY_WAY(two_hundred_share_four_connections),
        LAB_EVERY_WAY(one_who_never_has_to_wait_gives_way_all_the_same),
    };
    return lab_main(argc, argv, tests);
}
