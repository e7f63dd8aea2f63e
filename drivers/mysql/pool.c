/*
 * pool.c - the two calls a program makes itself: a pool of MySQL connections, and the handle
 * behind a lease.
 */
#include "mysql_internal.h"

weir_status weir_mysql_pool_new(const weir_mysql_opts *opts, weir_pool **out, weir_error *err)
{
    struct my_config *config;

    if (!out)
        return weir_error_set(err, WEIR_USAGE, "out is missing: where shall the pool go?");
    *out = NULL;
    if (!my_library_start(err))
        return WEIR_USAGE;
    weir_status status = my_config_new(opts, &config, err);
    if (status != WEIR_OK)
        return status;
    status = my_tls_check_files(config, err);
    if (status != WEIR_OK) {
        my_config_free(config);
        return status;
    }
    return weir_pool_new(&my_driver, config, &opts->pool, out, err);
}

MYSQL *weir_mysql(weir_lease *lease)
{
    struct my_conn *conn = (struct my_conn *)weir_lease_conn(lease, &my_driver);

    return conn ? &conn->my : NULL;
}
