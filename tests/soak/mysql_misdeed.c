/*
 * mysql_misdeed.c - how applications go wrong with MySQL in particular: a query that takes its
 * time, a transaction that nobody ends, an answer that nobody reads to its end.
 */
#include "mysql_soak.h"

weir_status mysql_slow(struct database *db, weir_lease *lease, weir_status expected,
                       weir_error *err)
{
    return mysql_ask(db, lease, "SELECT SLEEP(0.2)", expected, err);
}

weir_status mysql_begin(struct database *db, weir_lease *lease, weir_error *err)
{
    uint64_t    id = ledger_new_id(&db->ledger);
    weir_status status = mysql_ask(db, lease, "START TRANSACTION", WEIR_OK, err);

    if (!id)
        return status;
    ledger_denied(&db->ledger, id); /* nobody will commit it */
    return status == WEIR_OK ? mysql_insert(db, lease, id, err) : status;
}

/*
 * The memory of a result is its user's, but libmariadb reads what is left from the connection
 * when one is freed. After the lease that connection is not ours to read from, so the result
 * is told to forget it.
 */
static weir_status half_read_stream(struct life *life, weir_error *err)
{
    struct database *db = life->db;
    weir_lease *lease = NULL;
    MYSQL_RES  *res = NULL;
    char        sql[96];
    weir_status status = life_lease(db, &lease, err);

    if (status != WEIR_OK)
        return status;
    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id <= %u", db->target.table,
             FIRST_ROWS);
    status = mysql_ask(db, lease, sql, WEIR_OK, err);
    if (status == WEIR_OK) {
        res = mysql_use_result(weir_mysql(lease));
        life->happened = res && mysql_fetch_row(res) && mysql_fetch_row(res);
        if (!life->happened)
            status = mysql_failed(db, lease, WEIR_OK, err);
        if (res)
            res->handle = NULL;
    }
    weir_release(lease);
    mysql_free_result(res);
    return status;
}

/* The statement is left open as well; weir closes it with the lease. */
static weir_status half_read_statement(struct life *life, weir_error *err)
{
    struct database *db = life->db;
    static const char sql[] = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3";
    int               number = 0;
    MYSQL_BIND        result = { .buffer_type = MYSQL_TYPE_LONG, .buffer = &number };
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(db, &lease, err);

    if (status != WEIR_OK)
        return status;
    MYSQL_STMT *stmt = mysql_stmt_init(weir_mysql(lease));
    if (!stmt)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a statement");
    if (mysql_stmt_prepare(stmt, sql, sizeof sql - 1) || mysql_stmt_execute(stmt) ||
        mysql_stmt_bind_result(stmt, &result) || mysql_stmt_fetch(stmt)) {
        status = mysql_failed(db, lease, WEIR_OK, err);
        mysql_stmt_close(stmt);
        return status;
    }
    life->happened = true;
    return WEIR_OK;
}

weir_status mysql_misdeed(struct life *life, weir_error *err)
{
    return life_random(life, 2) ? half_read_stream(life, err) : half_read_statement(life, err);
}
