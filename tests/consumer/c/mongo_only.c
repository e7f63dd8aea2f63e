/* mongo_only.c - the MongoDB driver without MySQL's: a server that is not there says so. */
#include <stdio.h>
#include <string.h>

#include <weir/mongo.h>

static weir_status ask(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_lease) lease = NULL;

    (void)arg;
    /* Port 1 is nobody's. */
    if (weir_mongo_pool_new(&(weir_mongo_opts){ .uri = "mongodb://127.0.0.1:1/shop" }, &pool,
                            &err) != WEIR_OK)
        return weir_fail(&err);
    if (weir_acquire(pool, weir_in_ms(5000), &lease, &err) != WEIR_CONNECT)
        return weir_fail(&err);
    puts(err.message);
    return strstr(err.message, "127.0.0.1:1") ? WEIR_OK : WEIR_FAILED;
}

int main(void)
{
    return weir_run(ask, NULL) == WEIR_OK ? 0 : 1;
}
