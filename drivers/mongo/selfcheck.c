/*
 * selfcheck.c - is this process one in which libmongoc can be made to cooperate?
 *
 * Two things that a build cannot know: which libmongoc is loaded, and whose usleep(3) it calls.
 *
 * And one to be settled once: a client that is told to use our streams says so in a line of
 * debugging, on standard output where nobody has set a log handler. Some libmongocs let others ask
 * for the handler (1.23 of Debian 12 does). If it is the library's own, ours goes before it and
 * keeps that line to itself; one that the application sets, earlier or later, is not touched.
 */
#include "mongo_internal.h"

#include "log.h"

#include <pthread.h>
#include <string.h>

__attribute__((weak)) extern void _mongoc_log_get_handler(mongoc_log_func_t *handler, void **data);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static weir_error     found;

static void all_but_one_line(mongoc_log_level_t level, const char *domain, const char *message,
                             void *data)
{
    if (level != MONGOC_LOG_LEVEL_DEBUG || !strstr(message, "custom stream initiator"))
        mongoc_log_default_handler(level, domain, message, data);
}

void mo_quieten_log(void)
{
    mongoc_log_func_t handler = NULL;
    void             *data;

    if (_mongoc_log_get_handler)
        _mongoc_log_get_handler(&handler, &data);
    if (handler == mongoc_log_default_handler)
        mongoc_log_set_handler(all_but_one_line, NULL);
}

static void check(void)
{
    mongoc_init();
    mo_quieten_log();
    mo_watch_prepare();
    if (!mongoc_check_version(1, 23, 0))
        weir_error_set(&found, WEIR_USAGE, "libmongoc %s is older than 1.23",
                       mongoc_get_version());
    else if (!mo_sleep_cooperates())
        weir_error_set(&found, WEIR_USAGE,
                       "libmongoc's usleep() is not weir's: the hub may stand still for half a "
                       "second when a server goes away. Link weir into the program (not by "
                       "dlopen), or call weir_mongo_usleep() from the usleep() of your own");
    if (found.status != WEIR_OK)
        LOG(WEIR_LOG_WARN, "%s", found.message);
}

void mo_library_start(void)
{
    pthread_once(&once, check);
}

weir_status weir_mongo_selfcheck(weir_error *err)
{
    mo_library_start();
    if (err)
        *err = found;
    return found.status;
}
