/*
 * 03_transaction - returning early is always right.
 *
 * A transfer that fails half way just returns. The lease goes back with its transaction open,
 * and weir rolls that back before anybody else gets the connection.
 *
 * usage: 03_transaction mysql://user:password@host/database
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/mysql.h>

static weir_status transfer(weir_pool *pool, int amount, bool change_of_mind)
{
    weir_error err;
    char       sql[128];
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, weir_in_ms(1000), &lease, &err))
        return weir_fail(&err);
    MYSQL *my = weir_mysql(lease);

    if (mysql_query(my, "START TRANSACTION"))
        return weir_lease_fail(lease);
    snprintf(sql, sizeof sql, "UPDATE weir_accounts SET money = money - %d WHERE id = 1", amount);
    if (mysql_query(my, sql))
        return weir_lease_fail(lease);
    if (change_of_mind)
        return WEIR_FAILED; /* no clean-up to forget: nothing was transferred */
    snprintf(sql, sizeof sql, "UPDATE weir_accounts SET money = money + %d WHERE id = 2", amount);
    if (mysql_query(my, sql) || mysql_query(my, "COMMIT"))
        return weir_lease_fail(lease);
    return WEIR_OK;
}

static weir_status run_all(weir_pool *pool, const char *const *statements)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, weir_in_ms(1000), &lease, &err))
        return weir_fail(&err);
    for (; *statements; statements++)
        if (mysql_query(weir_mysql(lease), *statements))
            return weir_lease_fail(lease);
    return WEIR_OK;
}

static weir_status print_accounts(weir_pool *pool, char *first, size_t size)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, weir_in_ms(1000), &lease, &err))
        return weir_fail(&err);
    MYSQL *my = weir_mysql(lease);
    if (mysql_query(my, "SELECT money FROM weir_accounts ORDER BY id"))
        return weir_lease_fail(lease);
    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return weir_lease_fail(lease);
    snprintf(first, size, "%s", mysql_fetch_row(result)[0]);
    printf("accounts: %s and %s\n", first, mysql_fetch_row(result)[0]);
    mysql_free_result(result);
    return WEIR_OK;
}

static weir_status app(void *arg)
{
    static const char *const before[] = {
        "DROP TABLE IF EXISTS weir_accounts",
        "CREATE TABLE weir_accounts (id INT PRIMARY KEY, money INT) ENGINE=InnoDB",
        "INSERT INTO weir_accounts VALUES (1, 100), (2, 0)", NULL
    };
    static const char *const after[] = { "DROP TABLE weir_accounts", NULL };
    weir_error  err;
    weir_status status;
    char        left[16] = "";
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_mysql_pool_new(arg, &pool, &err))
        return weir_fail(&err);
    status = run_all(pool, before);
    if (status == WEIR_OK)
        status = transfer(pool, 30, false);
    if (status == WEIR_OK && transfer(pool, 50, true) != WEIR_FAILED)
        status = WEIR_FAILED;
    if (status == WEIR_OK)
        status = print_accounts(pool, left, sizeof left); /* 70 and 30 */
    run_all(pool, after);
    return status == WEIR_OK && strcmp(left, "70") != 0 ? WEIR_FAILED : status;
}

int main(int argc, char **argv)
{
    weir_mysql_opts opts = { .uri = argc > 1 ? argv[1] : "mysql://root@localhost/test" };

    return weir_run(app, &opts);
}
