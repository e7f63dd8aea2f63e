/*
 * pool.c - the calls a program makes itself: a pool of MongoDB clients, the client behind a
 * lease, and a deadline in MongoDB's terms.
 */
#include "mongo_internal.h"

#include "log.h"

weir_status weir_mongo_pool_new(const weir_mongo_opts *opts, weir_pool **out, weir_error *err)
{
    struct mo_config *config;

    if (!out)
        return weir_error_set(err, WEIR_USAGE, "out is missing: where shall the pool go?");
    *out = NULL;
    mo_library_start();
    weir_status status = mo_config_new(opts, &config, err);
    if (status != WEIR_OK)
        return status;
    weir_pool_opts pool = config->opts.pool; /* with what the URI has; config is taken over */
    return weir_pool_new(&mo_driver, config, &pool, out, err);
}

mongoc_client_t *weir_mongo(weir_lease *lease)
{
    struct mo_conn *conn = (struct mo_conn *)weir_lease_conn(lease, &mo_driver);

    return conn ? conn->client->mongoc : NULL;
}

/* A server refuses the same field twice. What is there is the caller's own limit: the shorter wins,
   and a number is changed in its place. Zero is no limit. */
static bool put_max_time(bson_t *opts, int32_t ms)
{
    bson_iter_t at;

    if (!bson_iter_init_find(&at, opts, "maxTimeMS"))
        return BSON_APPEND_INT64(opts, "maxTimeMS", ms);
    if (!BSON_ITER_HOLDS_NUMBER(&at) || BSON_ITER_HOLDS_DECIMAL128(&at))
        return false;
    int64_t own = bson_iter_as_int64(&at);
    if (own > 0 && own <= ms)
        return true;
    if (BSON_ITER_HOLDS_INT32(&at))
        bson_iter_overwrite_int32(&at, ms);
    else if (BSON_ITER_HOLDS_INT64(&at))
        bson_iter_overwrite_int64(&at, ms);
    else
        bson_iter_overwrite_double(&at, ms);
    return true;
}

weir_status weir_mongo_max_time(bson_t *opts, weir_error *err)
{
    const struct hot_task *task = (const struct hot_task *)hot_self();
    weir_status            status = weir_check();

    if (status != WEIR_OK)
        return weir_error_set(err, status, "no time is left to ask a server");
    if (!task || task->limit_ns == INT64_MAX)
        return WEIR_OK;

    int64_t ms = (task->limit_ns - weir_in_ms(0).at_ns) / 1000000;
    if (ms < 1)
        ms = 1; /* to a server zero is no limit at all */
    if (ms > INT32_MAX)
        return WEIR_OK; /* more than it takes, and than anybody means */
    if (!put_max_time(opts, (int32_t)ms))
        return weir_error_set(err, WEIR_USAGE, "maxTimeMS does not fit into these options, or is "
                              "there already and no number");
    return WEIR_OK;
}

void weir_mongo_log(mongoc_log_level_t level, const char *domain, const char *message, void *unused)
{
    (void)unused;
    switch (level) {
    case MONGOC_LOG_LEVEL_ERROR:
    case MONGOC_LOG_LEVEL_CRITICAL:
        LOG(WEIR_LOG_ERROR, "libmongoc: %s: %s", domain, message);
        break;
    case MONGOC_LOG_LEVEL_WARNING:
        LOG(WEIR_LOG_WARN, "libmongoc: %s: %s", domain, message);
        break;
    case MONGOC_LOG_LEVEL_MESSAGE:
    case MONGOC_LOG_LEVEL_INFO:
        LOG(WEIR_LOG_INFO, "libmongoc: %s: %s", domain, message);
        break;
    default:
        LOG(WEIR_LOG_DEBUG, "libmongoc: %s: %s", domain, message);
    }
}
