/*
 * mysql_deed.c - good work with MySQL: five ways to use a connection, each answer checked.
 *
 * Knows:   the SQL, what the answer must be, and which rows the ledger may count on.
 * Ignores: where the lease came from, and what happens after a failure.
 *
 * A row's note follows from its id, so an answer that belongs to somebody else's question is
 * noticed: that is what a connection lent on in the middle of a reply would give.
 */
#include "mysql_soak.h"

#include <string.h>

weir_status mysql_failed(struct database *db, weir_lease *lease, weir_status expected,
                         weir_error *err)
{
    weir_status status = weir_lease_error(lease, err);

    if (status == WEIR_OK)
        status = weir_error_set(err, WEIR_FAILED, "a call failed, and weir knows of no failure");
    life_note_failure(db, err, expected);
    return status;
}

weir_status mysql_ask(struct database *db, weir_lease *lease, const char *sql,
                      weir_status expected, weir_error *err)
{
    int64_t began = watch_clock_ns();

    if (mysql_query(weir_mysql(lease), sql))
        return mysql_failed(db, lease, expected, err);
    watch_query_answered(db, watch_clock_ns() - began);
    return WEIR_OK;
}

static weir_status check_row(struct database *db, MYSQL_ROW row, uint64_t id, weir_error *err)
{
    char note[NOTE_SIZE];

    row_note(note, sizeof note, id);
    if (!row)
        return deed_wrong(db, err, "a row that is there was not found", note);
    if (!row[0] || strcmp(row[0], note))
        return deed_wrong(db, err, "the wrong row came", row[0] ? row[0] : "NULL");
    return WEIR_OK;
}

static weir_status select_one(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    char        sql[128];
    weir_status status;
    MYSQL_RES  *res;

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id = %llu", db->target.table,
             (unsigned long long)id);
    status = mysql_ask(db, lease, sql, WEIR_OK, err);
    if (status != WEIR_OK)
        return status;
    res = mysql_store_result(weir_mysql(lease));
    if (!res)
        return mysql_failed(db, lease, WEIR_OK, err);
    status = check_row(db, mysql_fetch_row(res), id, err);
    mysql_free_result(res);
    return status;
}

/* ---- writing ------------------------------------------------------------------------ */

weir_status mysql_insert(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    char sql[192];
    char note[NOTE_SIZE];

    row_note(note, sizeof note, id);
    snprintf(sql, sizeof sql, "INSERT INTO %s (id, note) VALUES (%llu, '%s')",
             db->target.table, (unsigned long long)id, note);
    return mysql_ask(db, lease, sql, WEIR_OK, err);
}

static weir_status insert_one(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    weir_status status = mysql_insert(db, lease, id, err);

    if (status == WEIR_OK)
        ledger_acknowledged(&db->ledger, id);
    else
        deed_write_failed(db, id, err->status == WEIR_SERVER, err);
    return status;
}

static weir_status transaction(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    weir_status status = mysql_ask(db, lease, "START TRANSACTION", WEIR_OK, err);

    if (status == WEIR_OK)
        status = mysql_insert(db, lease, id, err);
    if (status == WEIR_OK)
        status = select_one(db, lease, id, err);
    if (status != WEIR_OK) {
        ledger_denied(&db->ledger, id); /* no COMMIT was sent, and none must be by anybody else */
        return status;
    }
    status = mysql_ask(db, lease, "COMMIT", WEIR_OK, err);
    if (status == WEIR_OK)
        ledger_acknowledged(&db->ledger, id);
    else if (err->outcome == WEIR_OUTCOME_NOT_SENT)
        ledger_denied(&db->ledger, id);
    return status;
}

/* ---- prepared ----------------------------------------------------------------------- */

static weir_status fetch_prepared(struct database *db, weir_lease *lease, MYSQL_STMT *stmt,
                                  uint64_t id, weir_error *err)
{
    char          note[NOTE_SIZE] = "";
    unsigned long length = 0;
    char         *row[1] = { note };
    MYSQL_BIND    result = { .buffer_type = MYSQL_TYPE_STRING,
                             .buffer = note,
                             .buffer_length = sizeof note - 1,
                             .length = &length };
    int           fetched;

    if (mysql_stmt_bind_result(stmt, &result) || mysql_stmt_store_result(stmt))
        return mysql_failed(db, lease, WEIR_OK, err);
    fetched = mysql_stmt_fetch(stmt);
    if (fetched == 1)
        return mysql_failed(db, lease, WEIR_OK, err);
    if (fetched)
        return check_row(db, NULL, id, err);
    note[length < sizeof note ? length : sizeof note - 1] = 0;
    return check_row(db, row, id, err);
}

static weir_status run_prepared(struct database *db, weir_lease *lease, MYSQL_STMT *stmt,
                                uint64_t id, weir_error *err)
{
    unsigned long long key = id;
    MYSQL_BIND         param = { .buffer_type = MYSQL_TYPE_LONGLONG,
                                 .buffer = &key,
                                 .is_unsigned = 1 };
    char               sql[128];
    int64_t            began = watch_clock_ns();

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id = ?", db->target.table);
    if (mysql_stmt_prepare(stmt, sql, strlen(sql)) || mysql_stmt_bind_param(stmt, &param) ||
        mysql_stmt_execute(stmt))
        return mysql_failed(db, lease, WEIR_OK, err);
    watch_query_answered(db, watch_clock_ns() - began);
    return fetch_prepared(db, lease, stmt, id, err);
}

static weir_status prepared(struct database *db, weir_lease *lease, uint64_t id, weir_error *err)
{
    MYSQL_STMT *stmt = mysql_stmt_init(weir_mysql(lease));
    weir_status status;

    if (!stmt)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a statement");
    status = run_prepared(db, lease, stmt, id, err);
    mysql_stmt_close(stmt);
    return status;
}

/* ---- streaming ---------------------------------------------------------------------- */

static weir_status stream(struct database *db, weir_lease *lease, uint64_t rows, weir_error *err)
{
    MYSQL      *my = weir_mysql(lease);
    MYSQL_RES  *res;
    MYSQL_ROW   row;
    uint64_t    id = 0;
    char        sql[128];
    weir_status status;

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id <= %llu ORDER BY id",
             db->target.table, (unsigned long long)rows);
    status = mysql_ask(db, lease, sql, WEIR_OK, err);
    if (status != WEIR_OK)
        return status;
    res = mysql_use_result(my);
    if (!res)
        return mysql_failed(db, lease, WEIR_OK, err);
    row = mysql_fetch_row(res);
    while (row && status == WEIR_OK) {
        status = check_row(db, row, ++id, err);
        row = mysql_fetch_row(res);
    }
    if (status == WEIR_OK && mysql_errno(my))
        status = mysql_failed(db, lease, WEIR_OK, err);
    else if (status == WEIR_OK && id != rows)
        status = deed_wrong(db, err, "an answer ended early", "fewer rows");
    mysql_free_result(res);
    return status;
}

/* ---- all of them -------------------------------------------------------------------- */

weir_status mysql_deed(struct life *life, weir_lease *lease, enum deed deed, weir_error *err)
{
    struct database *db = life->db;
    uint64_t some_row = 1 + life_random(life, FIRST_ROWS);
    uint64_t id = deed == INSERT_ONE || deed == TRANSACTION ? ledger_new_id(&db->ledger) : 0;

    if (deed == INSERT_ONE && id)
        return insert_one(db, lease, id, err);
    if (deed == TRANSACTION && id)
        return transaction(db, lease, id, err);
    if (deed == PREPARED)
        return prepared(db, lease, some_row, err);
    if (deed == STREAM)
        return stream(db, lease, 50 + life_random(life, 250), err);
    return select_one(db, lease, some_row, err);
}
