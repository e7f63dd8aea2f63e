/*
 * pool.c - a pool made and described, and its last memory freed.
 */
#include "pool.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <weir/process.h>

/* ---- options ----------------------------------------------------------------------------- */

struct limit {
    const char *name;
    size_t      offset;
    int64_t     usual;
};

#define LIMIT(field, ms) { #field, offsetof(weir_pool_opts, field), (ms) }

/* Every option in milliseconds, with its default. */
static const struct limit limits[] = {
    LIMIT(acquire_timeout_ms, 30 * 1000),
    LIMIT(connect_timeout_ms, 10 * 1000),
    LIMIT(query_timeout_ms, 5 * 60 * 1000),
    LIMIT(reset_timeout_ms, 5 * 1000),
    LIMIT(close_timeout_ms, 1000),
    LIMIT(idle_timeout_ms, 10 * 60 * 1000),
    LIMIT(max_age_ms, 30 * 60 * 1000),
    LIMIT(keepalive_ms, WEIR_NEVER),
    LIMIT(shed_target_ms, WEIR_NEVER),
    LIMIT(shed_interval_ms, 100),
};

enum { DAY_MS = 24 * 60 * 60 * 1000 };
enum { LIMITS = sizeof limits / sizeof *limits };

static int64_t *limit_of(weir_pool_opts *opts, const struct limit *limit)
{
    return (int64_t *)((char *)opts + limit->offset);
}

static weir_status complete_limits(weir_pool_opts *opts, weir_error *err)
{
    for (int i = 0; i < LIMITS; i++) {
        int64_t *value = limit_of(opts, &limits[i]);
        if (*value < WEIR_NEVER)
            return weir_error_set(err, WEIR_USAGE,
                                  "%s is %lld: give milliseconds, 0 for the default of %lld%s, or "
                                  "WEIR_NEVER",
                                  limits[i].name, (long long)*value, (long long)limits[i].usual,
                                  limits[i].usual == WEIR_NEVER ? " (WEIR_NEVER)" : "");
        if (*value == 0)
            *value = limits[i].usual;
        if (*value == WEIR_NEVER)
            *value = INT64_MAX;
    }
    return WEIR_OK;
}

/* From here on no code meets a zero. */
static weir_status complete(weir_pool_opts *opts, weir_error *err)
{
    weir_status status = complete_limits(opts, err);

    if (status != WEIR_OK)
        return status;
    if (!opts->max_size)
        opts->max_size = 10;
    if (!opts->max_connecting)
        opts->max_connecting = 2;
    if (opts->min_idle > opts->max_size)
        return weir_error_set(err, WEIR_USAGE, "min_idle (%u) is above max_size (%u)",
                              opts->min_idle, opts->max_size);
    if (opts->min_size > opts->max_size)
        return weir_error_set(err, WEIR_USAGE, "min_size (%u) is above max_size (%u)",
                              opts->min_size, opts->max_size);
    if (opts->shed_target_ms != INT64_MAX &&
        (opts->shed_target_ms > DAY_MS || opts->shed_interval_ms > DAY_MS))
        return weir_error_set(err, WEIR_USAGE,
                              "shed_target_ms and shed_interval_ms are to be a day at most: to "
                              "shed nothing, leave shed_target_ms at 0");
    if ((unsigned)opts->on_exit > WEIR_ON_EXIT_RECYCLE)
        return weir_error_set(err, WEIR_USAGE, "on_exit is no weir_on_exit");
    if ((unsigned)opts->reset > WEIR_RESET_NONE)
        return weir_error_set(err, WEIR_USAGE, "reset is no weir_reset");
    return WEIR_OK;
}

const weir_pool_opts *weir_pool_options(const weir_pool *pool)
{
    return &pool->opts;
}

int weir_pool_describe(const weir_pool *pool, char *buf, size_t size)
{
    static const char *const resets[] = { "dirty", "full", "none" };
    char limits_text[512];
    int  used = 0;

    for (int i = 0; i < LIMITS; i++) {
        int64_t value = *limit_of((weir_pool_opts *)&pool->opts, &limits[i]);
        char    number[24] = "never";
        if (value != INT64_MAX)
            snprintf(number, sizeof number, "%lld", (long long)value);
        used += snprintf(limits_text + used, sizeof limits_text - (size_t)used, "%s = %s\n",
                         limits[i].name, number);
    }
    return snprintf(buf, size,
                    "name = %s\ndriver = %s\nmax_size = %u\nmin_idle = %u\nmin_size = %u\n"
                    "max_connecting = %u\nmax_waiters = %u\n%srefuse_hopeless = %s\n"
                    "on_exit = %s\nreset = %s\n",
                    pool->name, pool->driver->name, pool->opts.max_size, pool->opts.min_idle,
                    pool->opts.min_size, pool->opts.max_connecting, pool->opts.max_waiters,
                    limits_text, pool->opts.refuse_hopeless ? "yes" : "no",
                    pool->opts.on_exit == WEIR_ON_EXIT_CLOSE ? "close" : "recycle",
                    resets[pool->opts.reset]);
}

const char *weir_pool_name(const weir_pool *pool)
{
    return pool->name;
}

const weir_driver *weir_pool_driver(const weir_pool *pool)
{
    return pool->driver;
}

/* ---- making ------------------------------------------------------------------------------ */

enum { ALARMS = 3 }; /* sweep, redial, shed */

void pool_free_for_good(weir_pool *pool)
{
    weir_alarm_stop(&pool->sweep);
    weir_alarm_stop(&pool->redial);
    weir_alarm_stop(&pool->shed);
    weir_alarm_reserve(-ALARMS);
    weir_exit_hook_remove(&pool->at_hub_end);
    weir_exit_hook_remove(&pool->at_fork);
    shared_leave(pool);
    budget_leave(&pool->share);
    pool->driver->free_config(pool->config);
    LIST_EACH(node, &pool->spare)
        free(LIST_OF(node, struct conn, link));
    free(pool);
}

static void hub_ends(weir_exit_hook *hook)
{
    weir_pool *pool = LIST_OF(hook, weir_pool, at_hub_end);

    /* Else it is only its last connection that still says goodbye; or another process' affair. */
    if (!pool->freed && !pool->inherited)
        LOG(WEIR_LOG_WARN, "pool %s was not freed before its hub ended", pool->name);
    hook->prev = hook->next = hook; /* it is off the hub's list: removing it again does nothing */
    weir_pool_free(pool);
}

static weir_status make(const weir_driver *driver, void *config, const weir_pool_opts *opts,
                        weir_pool **out, weir_error *err)
{
    weir_pool_opts complete_opts = { 0 };
    if (opts)
        complete_opts = *opts;
    weir_status status = complete(&complete_opts, err);
    if (status != WEIR_OK)
        return status;
    if (complete_opts.keepalive_ms != INT64_MAX && !driver->ping)
        return weir_error_set(err, WEIR_USAGE,
                              "keepalive_ms: the driver %s cannot ask for a sign of life",
                              driver->name);
    if (!weir_hub_here())
        return weir_error_set(err, WEIR_USAGE,
                              "this thread has no hub: make pools inside weir_run(), or after "
                              "weir_attach()");

    weir_pool *pool = calloc(1, sizeof *pool);
    if (!pool || weir_alarm_reserve(ALARMS) != WEIR_OK) {
        free(pool);
        return weir_error_set(err, WEIR_NOMEM, "no memory for a pool");
    }
    pool->share.has_rested = upkeep_has_rested;
    pool->share.evict = upkeep_evict;
    status = budget_join(&pool->share, driver->sockets(config), err);
    if (status != WEIR_OK) {
        weir_alarm_reserve(-ALARMS);
        free(pool);
        return status;
    }

    pool->driver = driver;
    pool->config = config;
    pool->hub = weir_hub_here();
    pool->opts = complete_opts;
    pool->ceiling = complete_opts.max_size;
    upkeep_begin(pool);
    pool->minimum = complete_opts.min_idle || complete_opts.min_size;
    pool->on_event = complete_opts.on_event;
    pool->on_event_arg = complete_opts.on_event_arg;
    snprintf(pool->name, sizeof pool->name, "%s", complete_opts.name ? complete_opts.name
                                                                     : driver->name);
    pool->opts.name = pool->name;
    for (int state = 0; state < CONN_STATES; state++)
        list_init(&pool->conns[state]);
    list_init(&pool->waiters);
    list_init(&pool->closers);
    list_init(&pool->spare);
    governor_line_init(&pool->line);
    pool->random = (uint64_t)hot_now() ^ (uint64_t)(uintptr_t)pool;
    if (complete_opts.permits) {
        status = shared_join(pool, complete_opts.permits, err);
        if (status != WEIR_OK) {
            weir_alarm_reserve(-ALARMS);
            budget_leave(&pool->share);
            free(pool);
            return status;
        }
    }
    pool->at_hub_end.fn = hub_ends;
    weir_hub_end_hook_add(&pool->at_hub_end);
    pool->at_fork.fn = pool_forked;
    weir_fork_hook_add(&pool->at_fork);
    *out = pool;
    return WEIR_OK;
}

weir_status weir_pool_new(const weir_driver *driver, void *config, const weir_pool_opts *opts,
                          weir_pool **out, weir_error *err)
{
    weir_pool  *pool = NULL;
    weir_status status = make(driver, config, opts, &pool, err);

    *out = pool;
    if (status != WEIR_OK) {
        driver->free_config(config);
        return status;
    }
    if (pool->on_event)
        tell_pool(pool, WEIR_EVENT_POOL_CREATED, false);
    pool->state = WEIR_POOL_PAUSED;
    weir_error_set(&pool->why_paused, WEIR_CONNECT,
                   "pool %s was made with start_paused: see weir_pool_ready()", pool->name);
    pool->why_paused.outcome = WEIR_OUTCOME_NOT_SENT;
    return pool->opts.start_paused ? WEIR_OK : weir_pool_ready(pool, err);
}
