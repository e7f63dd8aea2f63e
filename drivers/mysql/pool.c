/*
 * pool.c - the two calls a program makes itself: a pool of MySQL connections, and the handle
 * behind a lease.
 */
#include "mysql_internal.h"

weir_status weir_mysql_pool_new(const weir_mysql_opts *opts, weir_pool **out, weir_error *err)
{
    struct my_config *config;

    *out = NULL;
    if (!my_library_start(err))
        return WEIR_USAGE;
    weir_status status = my_config_new(opts, &config, err);
    if (status != WEIR_OK)
        return status;
    return weir_pool_new(&my_driver, config, &opts->pool, out, err);
}

MYSQL *weir_mysql(weir_lease *lease)
{
    struct my_conn *conn = (struct my_conn *)weir_lease_conn(lease, &my_driver);

    return conn ? &conn->my : NULL;
}
