/*
 * 06_soak_your_handler - does a handler of yours leave anything behind?
 *
 * weir_soak() runs it a few thousand times, cancels some of them in the middle, lets others run
 * out of time, closes connections under them, and compares what is open before and after. Take
 * the weir_autoptr() away, and it names the line below that takes the lease.
 *
 * usage: 06_soak_your_handler mysql://user:password@host/database
 */
#include <stdio.h>
#include <weir/mysql.h>
#include <weir/soak.h>

/* The handler, as it is in the service. */
static weir_status handle(void *pool)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, WEIR_SCOPE, &lease, &err))
        return err.status;
    MYSQL *my = weir_mysql(lease);
    if (mysql_query(my, "SELECT 'an answer', SLEEP(0.002)"))
        return weir_lease_error(lease, &err);
    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return weir_lease_error(lease, &err);
    mysql_free_result(result);
    return WEIR_OK;
}

static weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_mysql_pool_new(arg, &pool, &err))
        return weir_fail(&err);
    weir_soak_opts opts = {
        .arg = pool,
        .pools = &pool, /* compared before and after */
        .pool_count = 1,
        .lives = 2000,
    };
    return weir_soak(handle, &opts, &err); /* prints what it finds */
}

int main(int argc, char **argv)
{
    weir_mysql_opts opts = { .uri = argc > 1 ? argv[1] : "mysql://root@localhost" };

    return weir_run(app, &opts);
}
