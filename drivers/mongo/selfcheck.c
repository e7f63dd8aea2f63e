/*
 * selfcheck.c - is this process one in which libmongoc can be made to cooperate?
 *
 * Two things that a build cannot know: which libmongoc is loaded, and whose usleep(3) it calls.
 */
#include "mongo_internal.h"

#include "log.h"

#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static weir_error     found;

static void check(void)
{
    mongoc_init();
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
