/*
 * main.c - a C program outside of weir's tree: runs coroutines and makes a pool with the
 * installed headers and libraries. Needs no server, as a pool opens nothing before its first
 * lease.
 */
#include <stdio.h>
#include <string.h>

#include <weir/mysql.h>

static weir_status count_up(void *arg)
{
    int *count = arg;

    for (int i = 0; i < 10; i++) {
        if (weir_yield() != WEIR_OK)
            return WEIR_FAILED;
        ++*count;
    }
    return WEIR_OK;
}

static weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;
    weir_mysql_opts opts = { .uri = "mysql://nobody@localhost/nothing", .pool.name = "shop" };

    if (weir_mysql_pool_new(&opts, &pool, &err) != WEIR_OK ||
        weir_group_new(NULL, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    if (strcmp(weir_pool_name(pool), "shop") != 0)
        return WEIR_FAILED;
    for (int i = 0; i < 10; i++)
        weir_spawn(group, count_up, arg);
    return weir_group_wait(group, weir_in_ms(5000));
}

int main(void)
{
    int         count = 0;
    weir_status status = weir_run(app, &count);

    printf("weir " WEIR_VERSION ": %s, %d yields\n", weir_status_name(status), count);
    return status == WEIR_OK && count == 100 ? 0 : 1;
}
