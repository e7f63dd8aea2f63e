/*
 * test_mysql_api.c - the ordinary calls of libmariadb, each inside a coroutine, over each way
 * to the server: they do what its manual says, and the hub goes on while they do.
 *
 * Everything big is prepared before the hub runs, so that a gap the ticker finds is not the
 * test's own arithmetic.
 */
#define _GNU_SOURCE
#include <lab.h>

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARRAY = 1000, PIPELINE = 1000, LINES = 200000 };

static const size_t BLOB = (size_t)64 << 20;

/* One pool, one lease, one body: what most of these tests need. */
struct solo {
    const struct lab_way *way;
    weir_mysql_opts       opts;
    weir_status (*body)(MYSQL *my, struct solo *me);
    weir_lease *lease; /* of the body's connection */
    weir_pool  *pool;
    char       *data;  /* what the test prepared */
    char        path[200];
};

static weir_status run_solo(void *arg)
{
    struct solo *me = arg;
    weir_error   err;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    me->pool = pool;
    lab_need_ok(weir_acquire(pool, weir_in_ms(10000), &me->lease, &err), &err);
    weir_status st = me->body(weir_mysql(me->lease), me);
    if (st == WEIR_OK && weir_lease_error(me->lease, &err) != WEIR_OK)
        lab_record("lease", "%s", err.message);
    lab_equal(weir_release(me->lease), WEIR_OK);
    lab_pool_end(&pool);
    return st;
}

static struct solo solo(void **state, weir_status (*body)(MYSQL *, struct solo *))
{
    struct solo me = { .way = *state, .body = body };
    me.opts = lab_opts(me.way);
    return me;
}

/* ---- prepared statements ------------------------------------------------------------ */

static void bind_long(MYSQL_BIND *bind, int *value)
{
    memset(bind, 0, sizeof *bind);
    bind->buffer_type = MYSQL_TYPE_LONG;
    bind->buffer = value;
}

static weir_status fetch_squares(MYSQL_STMT *stmt, int base)
{
    int        from = base, n = 0, square = 0, seq = 0;
    MYSQL_BIND in[1], out[2];

    bind_long(&in[0], &from);
    bind_long(&out[0], &seq);
    bind_long(&out[1], &square);
    lab_equal(mysql_stmt_bind_param(stmt, in), 0);
    lab_need(mysql_stmt_execute(stmt) == 0);
    lab_equal(mysql_stmt_bind_result(stmt, out), 0);
    while (mysql_stmt_fetch(stmt) == 0) {
        lab_equal(seq, base + n);
        lab_equal(square, seq * seq);
        n++;
    }
    lab_equal(n, 1000 - base + 1);
    return WEIR_OK;
}

static weir_status prepare_and_execute(MYSQL *my, struct solo *me)
{
    static const char sql[] = "SELECT seq, seq * seq FROM seq_1_to_1000 WHERE seq >= ?";
    MYSQL_STMT       *stmt = mysql_stmt_init(my);
    unsigned long     cursor = CURSOR_TYPE_READ_ONLY, rows = 100;

    (void)me;
    lab_need(stmt && mysql_stmt_prepare(stmt, sql, sizeof sql - 1) == 0);
    for (int base = 1; base < 1000; base += 333)
        if (fetch_squares(stmt, base))
            return WEIR_FAILED;
    lab_equal(mysql_stmt_reset(stmt), 0);

    /* With a cursor each 100 rows are a round trip of their own. */
    lab_equal(mysql_stmt_attr_set(stmt, STMT_ATTR_CURSOR_TYPE, &cursor), 0);
    lab_equal(mysql_stmt_attr_set(stmt, STMT_ATTR_PREFETCH_ROWS, &rows), 0);
    if (fetch_squares(stmt, 1))
        return WEIR_FAILED;
    lab_equal(mysql_stmt_close(stmt), 0);

    /* One without a _start form of its own in the library. */
    stmt = mysql_stmt_init(my);
    lab_equal(mariadb_stmt_execute_direct(stmt, "DO SLEEP(0.05)", 14), 0);
    lab_equal(mysql_stmt_close(stmt), 0);
    return WEIR_OK;
}

static void prepared_statements_and_cursors_work(void **state)
{
    struct solo me = solo(state, prepare_and_execute);
    lab_run(run_solo, &me);
}

static weir_status insert_an_array(MYSQL *my, struct solo *me)
{
    static const char sql[] = "INSERT INTO lab_array VALUES (?)";
    static int        ids[ARRAY];
    unsigned          size = ARRAY;
    MYSQL_BIND        in;
    MYSQL_STMT       *stmt = mysql_stmt_init(my);

    (void)me;
    for (int i = 0; i < ARRAY; i++)
        ids[i] = i;
    lab_equal(sql_do(my, "CREATE TEMPORARY TABLE lab_array (id INT PRIMARY KEY)"), 0);
    lab_need(mysql_stmt_prepare(stmt, sql, sizeof sql - 1) == 0);
    lab_equal(mysql_stmt_attr_set(stmt, STMT_ATTR_ARRAY_SIZE, &size), 0);
    bind_long(&in, ids);
    lab_equal(mysql_stmt_bind_param(stmt, &in), 0);
    lab_equal(mysql_stmt_execute(stmt), 0);
    lab_equal(mysql_stmt_affected_rows(stmt), ARRAY);
    lab_equal(mysql_stmt_close(stmt), 0);
    lab_equal(sql_number(my, "SELECT SUM(id) FROM lab_array"), ARRAY * (ARRAY - 1) / 2);
    return WEIR_OK;
}

static void an_array_of_1000_rows_is_one_execute(void **state)
{
    struct solo me = solo(state, insert_an_array);
    lab_run(run_solo, &me);
}

static weir_status fail_in_a_statement(MYSQL *my, struct solo *me)
{
    static const char sql[] = "INSERT INTO lab_twice VALUES (?)";
    int               id = 7;
    MYSQL_BIND        in;
    weir_error        err;
    MYSQL_STMT       *stmt = mysql_stmt_init(my);

    lab_equal(sql_do(my, "CREATE TEMPORARY TABLE lab_twice (id INT PRIMARY KEY)"), 0);
    lab_need(mysql_stmt_prepare(stmt, sql, sizeof sql - 1) == 0);
    bind_long(&in, &id);
    lab_equal(mysql_stmt_bind_param(stmt, &in), 0);
    lab_equal(mysql_stmt_execute(stmt), 0);
    lab_check(mysql_stmt_execute(stmt) != 0);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_SERVER);
    lab_equal(err.native, 1062);
    lab_says(err.sqlstate, "23000");
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);
    id = 8;
    lab_equal(mysql_stmt_execute(stmt), 0);
    lab_equal(mysql_stmt_close(stmt), 0);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_twice"), 2);
    return WEIR_OK;
}

static void an_error_of_a_statement_is_told_and_leaves_it_usable(void **state)
{
    struct solo me = solo(state, fail_in_a_statement);
    lab_run(run_solo, &me);
}

/* ---- streaming ---------------------------------------------------------------------- */

struct neighbour {
    weir_pool *pool;
    bool       stop;
    unsigned   answers;
    double     slowest_ms;
};

/* Somebody else on the same hub, whose short queries must not wait for the big one. */
static weir_status ask_now_and_then(void *arg)
{
    struct neighbour *n = arg;
    weir_error        err;

    while (!n->stop) {
        weir_autoptr(weir_lease) lease = NULL;
        double start = lab_now_ms();
        lab_need_ok(weir_acquire(n->pool, weir_in_ms(5000), &lease, &err), &err);
        lab_equal(sql_number(weir_mysql(lease), "SELECT 7"), 7);
        double took = lab_now_ms() - start;
        n->slowest_ms = took > n->slowest_ms ? took : n->slowest_ms;
        n->answers++;
        (void)weir_sleep(weir_in_ms(5));
    }
    return WEIR_OK;
}

static weir_status read_a_million_rows(MYSQL *my)
{
    long       n = 0, wrong = 0;
    MYSQL_ROW  row;
    MYSQL_RES *res;

    lab_need(mysql_query(my, "SELECT seq, REPEAT('x', 50) FROM seq_1_to_1000000") == 0);
    res = mysql_use_result(my);
    lab_need(res);
    while ((row = mysql_fetch_row(res)) != NULL) {
        n++;
        wrong += atol(row[0]) != n;
    }
    lab_equal(mysql_errno(my), 0);
    mysql_free_result(res);
    lab_equal(n, 1000000);
    lab_equal(wrong, 0);
    return WEIR_OK;
}

static weir_status stream(MYSQL *my, struct solo *me)
{
    struct neighbour next = { .pool = me->pool };
    weir_error       err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    weir_spawn(group, ask_now_and_then, &next);
    lab_check(weir_sleep(weir_in_ms(30)) == WEIR_OK); /* its connection is open now */
    unsigned before = next.answers;
    next.slowest_ms = 0;
    double start = lab_now_ms();
    weir_status st = read_a_million_rows(my);
    double      took = lab_now_ms() - start;
    unsigned    answers = next.answers - before;
    next.stop = true;
    lab_equal(weir_group_wait(group, weir_in_ms(2000)), WEIR_OK);
    lab_tell("1,000,000 rows in %.0f ms; meanwhile %u short queries, slowest %.1f ms", took,
             answers, next.slowest_ms);
    /* One asks at most every 5 ms plus its own answer; a fifth of that is fair enough for a
       machine whose two CPUs are the client's and the server's. */
    lab_between(answers, took / 50, 1e9);
    return st;
}

static void a_million_rows_stream_and_the_hub_stays_fair(void **state)
{
    struct solo me = solo(state, stream);
    lab_run(run_solo, &me);
}

/* ---- several statements, several results -------------------------------------------- */

static weir_status two_statements(MYSQL *my, struct solo *me)
{
    (void)me;
    lab_need(mysql_query(my, "SELECT 1; SELECT 2; DO 0; SELECT 3") == 0);
    int seen = 0, sum = 0;
    do {
        MYSQL_RES *res = mysql_store_result(my);
        MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
        sum += row ? atoi(row[0]) : 0;
        seen++;
        mysql_free_result(res);
    } while (mysql_next_result(my) == 0);
    lab_equal(seen, 4);
    lab_equal(sum, 6);
    return WEIR_OK;
}

static void several_statements_in_one_query_work_when_allowed(void **state)
{
    struct solo me = solo(state, two_statements);
    me.opts.multi_statements = true;
    lab_run(run_solo, &me);
}

static weir_status refused_statements(MYSQL *my, struct solo *me)
{
    weir_error err;
    lab_equal(sql_do(my, "SELECT 1; SELECT 2"), 1064);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_SERVER);
    lab_equal(sql_number(my, "SELECT 3"), 3); /* the connection is well */
    return WEIR_OK;
}

static void several_statements_in_one_query_are_refused_by_default(void **state)
{
    struct solo me = solo(state, refused_statements);
    lab_run(run_solo, &me);
}

/*
 * Whoever sends on without reading lives off the sockets' buffers. A Unix socket counts its
 * overhead for each small packet and is full at some 270 of them in each direction: then the
 * server waits for us and we for it, with any client library. Hence the smaller batches.
 */
static weir_status pipeline(MYSQL *my, struct solo *me)
{
    int    batch = me->way->is_unix ? PIPELINE / 10 : PIPELINE;
    double start = lab_now_ms();

    for (int done = 0; done < PIPELINE; done += batch) {
        for (int i = 0; i < batch; i++)
            lab_need(mysql_send_query(my, "DO 1", 4) == 0);
        for (int i = 0; i < batch; i++)
            lab_need(mysql_read_query_result(my) == 0);
    }
    lab_tell("1000 statements, %d at once: %.1f ms", batch, lab_now_ms() - start);
    lab_equal(sql_number(my, "SELECT 11"), 11);
    return WEIR_OK;
}

static void many_statements_may_be_under_way_at_once(void **state)
{
    struct solo me = solo(state, pipeline);
    lab_run(run_solo, &me);
}

/* ---- LOAD DATA LOCAL ---------------------------------------------------------------- */

static void write_lines(struct solo *me)
{
    snprintf(me->path, sizeof me->path, "%s/lab_infile.%d", private_server()->dir, getpid());
    FILE *f = fopen(me->path, "we");
    assert_non_null(f);
    for (int i = 0; i < LINES; i++)
        fprintf(f, "%d\tsome words that make the line about a hundred characters long, as lines "
                   "in such files tend to be\n", i);
    assert_int_equal(fclose(f), 0);
}

static weir_status load(MYSQL *my, struct solo *me)
{
    lab_equal(sql_do(my, "CREATE TEMPORARY TABLE lab_lines (id INT, v VARCHAR(200))"), 0);
    lab_equal(sql_do(my, "LOAD DATA LOCAL INFILE '%s' INTO TABLE lab_lines", me->path), 0);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_lines"), LINES);
    return WEIR_OK;
}

static void load_data_local_works_when_switched_on(void **state)
{
    struct solo me = solo(state, load);
    write_lines(&me);
    me.opts.local_infile = true;
    lab_run(run_solo, &me);
    unlink(me.path);
}

static weir_status load_refused(MYSQL *my, struct solo *me)
{
    lab_equal(sql_do(my, "CREATE TEMPORARY TABLE lab_lines (id INT, v VARCHAR(200))"), 0);
    int code = sql_do(my, "LOAD DATA LOCAL INFILE '%s' INTO TABLE lab_lines", me->path);
    /* 4166, 1148: the server sees that the client does not offer it; 2068: the client says no. */
    lab_check(code == 4166 || code == 1148 || code == 2068);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_lines"), 0);
    return WEIR_OK;
}

static void load_data_local_is_off_by_default(void **state)
{
    struct solo me = solo(state, load_refused);
    write_lines(&me);
    lab_run(run_solo, &me);
    unlink(me.path);
}

/* ---- big values --------------------------------------------------------------------- */

static weir_status send_blob(MYSQL *my, struct solo *me, bool in_pieces)
{
    static const char sql[] = "REPLACE INTO lab_blob VALUES (1, ?)";
    unsigned long     size = BLOB;
    MYSQL_BIND        in;
    MYSQL_STMT       *stmt = mysql_stmt_init(my);

    memset(&in, 0, sizeof in);
    in.buffer_type = MYSQL_TYPE_LONG_BLOB;
    in.buffer = me->data;
    in.buffer_length = size;
    in.length = &size;
    lab_need(mysql_stmt_prepare(stmt, sql, sizeof sql - 1) == 0);
    lab_equal(mysql_stmt_bind_param(stmt, &in), 0);
    for (size_t at = 0; in_pieces && at < BLOB; at += 256 * 1024)
        lab_need(mysql_stmt_send_long_data(stmt, 0, me->data + at, 256 * 1024) == 0);
    int rc = mysql_stmt_execute(stmt);
    if (rc)
        lab_record(WEIR_HERE, "execute: %u %s", mysql_stmt_errno(stmt), mysql_stmt_error(stmt));
    lab_equal(mysql_stmt_close(stmt), 0);
    return rc ? WEIR_FAILED : WEIR_OK;
}

/* Compare in steps: this is the test's own work on the hub's thread. */
static bool same(const char *a, const char *b, size_t size)
{
    for (size_t at = 0; at < size; at += 1 << 20) {
        if (memcmp(a + at, b + at, 1 << 20) != 0)
            return false;
        (void)weir_yield();
    }
    return true;
}

static weir_status blob_there_and_back(MYSQL *my, struct solo *me)
{
    double start = lab_now_ms();
    lab_equal(sql_do(my, "CREATE TEMPORARY TABLE lab_blob (id INT PRIMARY KEY, d LONGBLOB)"), 0);
    if (send_blob(my, me, false))
        return WEIR_FAILED;
    double one = lab_now_ms();
    lab_equal(sql_number(my, "SELECT LENGTH(d) FROM lab_blob"), BLOB);
    lab_equal(sql_do(my, "DELETE FROM lab_blob"), 0);
    double two = lab_now_ms();
    if (send_blob(my, me, true))
        return WEIR_FAILED;
    double three = lab_now_ms();

    lab_need(mysql_query(my, "SELECT d FROM lab_blob WHERE id = 1") == 0);
    MYSQL_RES *res = mysql_store_result(my);
    if (!res)
        lab_record(WEIR_HERE, "%u %s", mysql_errno(my), mysql_error(my));
    lab_need(res);
    double    four = lab_now_ms();
    MYSQL_ROW row = mysql_fetch_row(res);
    lab_need(row && mysql_fetch_lengths(res)[0] == BLOB);
    lab_check(same(row[0], me->data, BLOB));
    mysql_free_result(res);
    lab_tell("64 MiB up in one execute %.0f ms, in pieces %.0f ms, down %.0f ms", one - start,
             three - two, four - three);
    return WEIR_OK;
}

/*
 * libmariadb copies a value into its packet, and a packet into its row, in one go on the hub's
 * thread; nothing above it can break that up. What can be kept out of the picture is the
 * kernel, which takes several times as long as the copying to find 64 MiB of zeroed pages.
 */
static void keep_memory_warm(void)
{
    void *block[4];

    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    for (int i = 0; i < 4; i++) {
        block[i] = malloc(BLOB);
        assert_non_null(block[i]);
        memset(block[i], 1, BLOB);
    }
    for (int i = 0; i < 4; i++)
        free(block[i]);
}

static void sixty_four_mebibytes_go_up_and_come_back(void **state)
{
    struct solo me = solo(state, blob_there_and_back);
    keep_memory_warm();
    me.data = malloc(BLOB);
    assert_non_null(me.data);
    for (size_t i = 0; i < BLOB; i++)
        me.data[i] = (char)(i * 2654435761u >> 13);
    lab_run(run_solo, &me);
    free(me.data);
}

/* ---- the session -------------------------------------------------------------------- */

static weir_status change_user(MYSQL *my, struct solo *me)
{
    const struct private_server *s = private_server();
    char                         text[100];

    (void)me;
    lab_equal(sql_do(my, "SET @left = 5"), 0);
    lab_equal(mysql_change_user(my, "weir_limited", s->password, s->database), 0);
    lab_says(sql_text(my, text, sizeof text, "SELECT CURRENT_USER()"), "weir_limited@");
    lab_says(sql_text(my, text, sizeof text, "SELECT IFNULL(@left, 'gone')"), "gone");
    return WEIR_OK;
}

/* Whoever comes next must be who the pool logs in as, or on another connection. */
static weir_status change_user_and_see(void *arg)
{
    struct solo *me = arg;
    char         text[100];
    weir_error   err;
    weir_autoptr(weir_pool) pool = NULL;

    me->opts.pool.max_size = 1;
    if (lab_pool_new(&me->opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &me->lease, &err), &err);
    weir_status st = change_user(weir_mysql(me->lease), me);
    lab_equal(weir_release(me->lease), WEIR_OK);
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &me->lease, &err), &err);
    lab_says(sql_text(weir_mysql(me->lease), text, sizeof text, "SELECT CURRENT_USER()"),
             "weir@");
    lab_equal(weir_release(me->lease), WEIR_OK);
    lab_pool_end(&pool);
    return st;
}

static void a_change_of_user_works_and_ends_with_the_lease(void **state)
{
    struct solo me = solo(state, NULL);
    lab_run(change_user_and_see, &me);
}

static weir_status transactions(MYSQL *my, struct solo *me)
{
    weir_error  err;
    weir_lease *other = NULL;

    lab_equal(sql_do(my, "CREATE OR REPLACE TABLE lab_tx (id INT PRIMARY KEY)"), 0);
    lab_need_ok(weir_acquire(me->pool, weir_in_ms(5000), &other, &err), &err);

    lab_equal(sql_do(my, "BEGIN"), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_tx VALUES (1)"), 0);
    lab_equal(sql_number(weir_mysql(other), "SELECT COUNT(*) FROM lab_tx"), 0);
    lab_equal(mysql_commit(my), 0);
    lab_equal(sql_number(weir_mysql(other), "SELECT COUNT(*) FROM lab_tx"), 1);

    lab_equal(mysql_autocommit(my, 0), 0);
    lab_equal(sql_do(my, "INSERT INTO lab_tx VALUES (2)"), 0);
    lab_equal(mysql_rollback(my), 0);
    lab_equal(mysql_autocommit(my, 1), 0);
    lab_equal(sql_number(my, "SELECT COUNT(*) FROM lab_tx"), 1);
    lab_equal(weir_release(other), WEIR_OK);

    lab_equal(mysql_ping(my), 0);
    lab_equal(mysql_select_db(my, "information_schema"), 0);
    lab_equal(mysql_set_character_set(my, "latin1"), 0);
    lab_check(mysql_stat(my) != NULL);
    lab_equal(mysql_reset_connection(my), 0);
    lab_equal(mysql_select_db(my, private_server()->database), 0);
    lab_equal(sql_do(my, "DROP TABLE lab_tx"), 0);
    return WEIR_OK;
}

static void transactions_and_session_calls_work(void **state)
{
    struct solo me = solo(state, transactions);
    lab_run(run_solo, &me);
}

static weir_status ask_who(MYSQL *my, struct solo *me)
{
    char text[100];
    int  flags = fcntl(mysql_get_socket(my), F_GETFD);

    (void)me;
    lab_says(sql_text(my, text, sizeof text, "SELECT CURRENT_USER()"), "weir_ed25519@");
    lab_check(flags >= 0 && (flags & FD_CLOEXEC)); /* no program we start inherits it */
    return WEIR_OK;
}

static void a_login_by_ed25519_loads_its_plugin_and_works(void **state)
{
    struct solo me = solo(state, ask_who);
    me.opts.user = "weir_ed25519";
    lab_run(run_solo, &me);
}

/* ---- limits on the server ----------------------------------------------------------- */

static weir_status statement_time(MYSQL *my, struct solo *me)
{
    weir_error err;
    double     start = lab_now_ms();
    lab_equal(sql_do(my, "SET STATEMENT max_statement_time = 0.2 FOR "
                         "SELECT SUM(seq & 7) FROM seq_1_to_2000000000"),
              1969);
    lab_took(lab_now_ms() - start, 190, 400);
    lab_equal(weir_lease_error(me->lease, &err), WEIR_SERVER);
    lab_equal(err.outcome, WEIR_OUTCOME_DONE);
    lab_says(err.sqlstate, "70100");
    lab_equal(sql_number(my, "SELECT 4"), 4);
    return WEIR_OK;
}

static void a_statement_time_of_the_server_leaves_the_connection_well(void **state)
{
    struct solo me = solo(state, statement_time);
    lab_run(run_solo, &me);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(prepared_statements_and_cursors_work),
        LAB_EVERY_WAY(an_array_of_1000_rows_is_one_execute),
        LAB_EVERY_WAY(an_error_of_a_statement_is_told_and_leaves_it_usable),
        LAB_EVERY_WAY(a_million_rows_stream_and_the_hub_stays_fair),
        LAB_EVERY_WAY(several_statements_in_one_query_work_when_allowed),
        LAB_UNIX(several_statements_in_one_query_are_refused_by_default),
        LAB_EVERY_WAY(many_statements_may_be_under_way_at_once),
        LAB_EVERY_WAY(load_data_local_works_when_switched_on),
        LAB_UNIX(load_data_local_is_off_by_default),
        LAB_EVERY_WAY(sixty_four_mebibytes_go_up_and_come_back),
        LAB_EVERY_WAY(a_change_of_user_works_and_ends_with_the_lease),
        LAB_EVERY_WAY(transactions_and_session_calls_work),
        LAB_EVERY_WAY(a_login_by_ed25519_loads_its_plugin_and_works),
        LAB_UNIX(a_statement_time_of_the_server_leaves_the_connection_well),
    };
    return lab_main(argc, argv, tests);
}
