/*
 * deed.c - good work: five ways to use a connection, each answer checked.
 *
 * Knows:   the SQL, what the answer must be, and which rows the ledger may count on.
 * Ignores: where the lease came from, and what happens after a failure.
 *
 * A row's note follows from its id, so an answer that belongs to somebody else's question is
 * noticed: that is what a connection lent on in the middle of a reply would give.
 */
#include "soak.h"

#include <string.h>

enum deed deed_draw(struct life *life)
{
    static const uint8_t of_twenty[] = { 9, 5, 2, 2, 2 };
    uint32_t             draw = life_random(life, 20);
    unsigned             deed = 0;

    while (draw >= of_twenty[deed])
        draw -= of_twenty[deed++];
    return (enum deed)deed;
}

static weir_status wrong(weir_error *err, const char *what, const char *got)
{
    struct tally *t = &soak.tally;

    if (!t->wrong_answers++)
        snprintf(t->first_wrong, sizeof t->first_wrong, "%s; the answer was '%.80s'", what, got);
    return weir_error_set(err, WEIR_FAILED, "%s; the answer was '%.80s'", what, got);
}

weir_status deed_query(weir_lease *lease, const char *sql, weir_status expected, weir_error *err)
{
    int64_t began = watch_clock_ns();

    if (mysql_query(weir_mysql(lease), sql))
        return life_call_failed(lease, expected, err);
    watch_query_answered(watch_clock_ns() - began);
    return WEIR_OK;
}

static weir_status check_row(MYSQL_ROW row, uint64_t id, weir_error *err)
{
    char note[NOTE_SIZE];

    row_note(note, sizeof note, id);
    if (!row)
        return wrong(err, "a row that is there was not found", note);
    if (!row[0] || strcmp(row[0], note))
        return wrong(err, "the wrong row came", row[0] ? row[0] : "NULL");
    return WEIR_OK;
}

static weir_status select_one(weir_lease *lease, uint64_t id, weir_error *err)
{
    char        sql[128];
    weir_status status;
    MYSQL_RES  *res;

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id = %llu", soak.target.table,
             (unsigned long long)id);
    status = deed_query(lease, sql, WEIR_OK, err);
    if (status != WEIR_OK)
        return status;
    res = mysql_store_result(weir_mysql(lease));
    if (!res)
        return life_call_failed(lease, WEIR_OK, err);
    status = check_row(mysql_fetch_row(res), id, err);
    mysql_free_result(res);
    return status;
}

/* ---- writing ------------------------------------------------------------------------ */

weir_status deed_insert(weir_lease *lease, uint64_t id, weir_error *err)
{
    char sql[192];
    char note[NOTE_SIZE];

    row_note(note, sizeof note, id);
    snprintf(sql, sizeof sql, "INSERT INTO %s (id, note) VALUES (%llu, '%s')",
             soak.target.table, (unsigned long long)id, note);
    return deed_query(lease, sql, WEIR_OK, err);
}

/* What a statement that failed leaves behind: nothing, or nobody knows. */
static void enter_failed_write(uint64_t id, const weir_error *err)
{
    if (err->outcome == WEIR_OUTCOME_NOT_SENT || err->status == WEIR_SERVER)
        ledger_denied(id);
}

static weir_status insert_one(weir_lease *lease, uint64_t id, weir_error *err)
{
    weir_status status = deed_insert(lease, id, err);

    if (status == WEIR_OK)
        ledger_acknowledged(id);
    else
        enter_failed_write(id, err);
    return status;
}

static weir_status transaction(weir_lease *lease, uint64_t id, weir_error *err)
{
    weir_status status = deed_query(lease, "START TRANSACTION", WEIR_OK, err);

    if (status == WEIR_OK)
        status = deed_insert(lease, id, err);
    if (status == WEIR_OK)
        status = select_one(lease, id, err);
    if (status != WEIR_OK) {
        ledger_denied(id); /* no COMMIT was sent, and none must be by anybody else */
        return status;
    }
    status = deed_query(lease, "COMMIT", WEIR_OK, err);
    if (status == WEIR_OK)
        ledger_acknowledged(id);
    else if (err->outcome == WEIR_OUTCOME_NOT_SENT)
        ledger_denied(id);
    return status;
}

/* ---- prepared ----------------------------------------------------------------------- */

static weir_status fetch_prepared(weir_lease *lease, MYSQL_STMT *stmt, uint64_t id,
                                  weir_error *err)
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
        return life_call_failed(lease, WEIR_OK, err);
    fetched = mysql_stmt_fetch(stmt);
    if (fetched == 1)
        return life_call_failed(lease, WEIR_OK, err);
    if (fetched)
        return check_row(NULL, id, err);
    note[length < sizeof note ? length : sizeof note - 1] = 0;
    return check_row(row, id, err);
}

static weir_status run_prepared(weir_lease *lease, MYSQL_STMT *stmt, uint64_t id, weir_error *err)
{
    unsigned long long key = id;
    MYSQL_BIND         param = { .buffer_type = MYSQL_TYPE_LONGLONG,
                                 .buffer = &key,
                                 .is_unsigned = 1 };
    char               sql[128];
    int64_t            began = watch_clock_ns();

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id = ?", soak.target.table);
    if (mysql_stmt_prepare(stmt, sql, strlen(sql)) || mysql_stmt_bind_param(stmt, &param) ||
        mysql_stmt_execute(stmt))
        return life_call_failed(lease, WEIR_OK, err);
    watch_query_answered(watch_clock_ns() - began);
    return fetch_prepared(lease, stmt, id, err);
}

static weir_status prepared(weir_lease *lease, uint64_t id, weir_error *err)
{
    MYSQL_STMT *stmt = mysql_stmt_init(weir_mysql(lease));
    weir_status status;

    if (!stmt)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a statement");
    status = run_prepared(lease, stmt, id, err);
    mysql_stmt_close(stmt);
    return status;
}

/* ---- streaming ---------------------------------------------------------------------- */

static weir_status stream(weir_lease *lease, uint64_t rows, weir_error *err)
{
    MYSQL      *my = weir_mysql(lease);
    MYSQL_RES  *res;
    MYSQL_ROW   row;
    uint64_t    id = 0;
    char        sql[128];
    weir_status status;

    snprintf(sql, sizeof sql, "SELECT note FROM %s WHERE id <= %llu ORDER BY id",
             soak.target.table, (unsigned long long)rows);
    status = deed_query(lease, sql, WEIR_OK, err);
    if (status != WEIR_OK)
        return status;
    res = mysql_use_result(my);
    if (!res)
        return life_call_failed(lease, WEIR_OK, err);
    row = mysql_fetch_row(res);
    while (row && status == WEIR_OK) {
        status = check_row(row, ++id, err);
        row = mysql_fetch_row(res);
    }
    if (status == WEIR_OK && mysql_errno(my))
        status = life_call_failed(lease, WEIR_OK, err);
    else if (status == WEIR_OK && id != rows)
        status = wrong(err, "an answer ended early", "fewer rows");
    mysql_free_result(res);
    return status;
}

/* ---- all of them -------------------------------------------------------------------- */

weir_status deed_do(struct life *life, weir_lease *lease, enum deed deed, weir_error *err)
{
    uint64_t some_row = 1 + life_random(life, FIRST_ROWS);
    uint64_t id = deed == INSERT_ONE || deed == TRANSACTION ? ledger_new_id() : 0;

    if (deed == INSERT_ONE && id)
        return insert_one(lease, id, err);
    if (deed == TRANSACTION && id)
        return transaction(lease, id, err);
    if (deed == PREPARED)
        return prepared(lease, some_row, err);
    if (deed == STREAM)
        return stream(lease, 50 + life_random(life, 250), err);
    return select_one(lease, some_row, err);
}
