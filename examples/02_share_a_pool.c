/*
 * 02_share_a_pool - ten coroutines take turns with three connections.
 *
 * usage: 02_share_a_pool mysql://user:password@host/database
 */
#include <stdio.h>
#include <weir/mysql.h>

static weir_status ask(void *pool)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL; /* given back when we return */

    WEIR_DEADLINE(weir_in_ms(2000));       /* for everything down to the closing brace */
    if (weir_acquire(pool, WEIR_SCOPE, &lease, &err))
        return weir_fail(&err);

    MYSQL *my = weir_mysql(lease);
    if (mysql_query(my, "SELECT CONNECTION_ID(), SLEEP(0.1)")) /* the plain call; it yields */
        return weir_lease_fail(lease);     /* the server's own words, and what to do */

    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return weir_lease_fail(lease);
    printf("answered on connection %s\n", mysql_fetch_row(result)[0]);
    mysql_free_result(result);
    return WEIR_OK;
}

static weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL; /* declared later, so it ends before the pool */

    if (weir_mysql_pool_new(arg, &pool, &err) || weir_group_new(NULL, &group, &err))
        return weir_fail(&err);
    for (int i = 0; i < 10; i++)
        weir_spawn(group, ask, pool);
    return weir_group_wait(group, WEIR_FOREVER);
}

int main(int argc, char **argv)
{
    weir_mysql_opts opts = { .uri = argc > 1 ? argv[1] : "mysql://root@localhost",
                             .pool.max_size = 3 };

    return weir_run(app, &opts);
}
