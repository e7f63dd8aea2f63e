/*
 * selfcheck.c - is the library in this process the one we know?
 *
 * What weir does beyond the library's documented functions rests on declarations in its
 * installed headers: three structs and the order of two tables. The compiler checks them
 * against what this code was written for; here the loaded library is compared with the one
 * compiled against. Where it is another one, nothing of that is used (see io.c), which costs
 * speed, TLS, and the watching of idle connections, but not correctness.
 */
#include "mysql_internal.h"

#include "log.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

_Static_assert(MARIADB_PACKAGE_VERSION_ID >= 30300, "needs MariaDB Connector/C 3.3");

#define WORDS(n) ((n) * sizeof(void *))
#define SLOT(field, n) \
    _Static_assert(offsetof(struct st_ma_pvio_methods, field) == WORDS(n), #field " has moved")

SLOT(read, 2);
SLOT(write, 4);
SLOT(async_write, 5);
SLOT(wait_io_or_timeout, 6);
SLOT(blocking, 7);
SLOT(close, 9);
SLOT(get_handle, 12);
SLOT(is_blocking, 13);
SLOT(shutdown, 16);
_Static_assert(sizeof(struct st_ma_pvio_methods) == WORDS(17), "the socket table has grown");

#define COMMAND(field, n) \
    _Static_assert(offsetof(struct st_mariadb_methods, field) == WORDS(n), #field " has moved")

COMMAND(db_close, 1);
COMMAND(db_command, 2);
COMMAND(db_skip_result, 3);
COMMAND(db_read_query_result, 4);
COMMAND(db_read_rows, 5);
COMMAND(db_read_one_row, 6);
COMMAND(db_read_prepare_response, 8);
COMMAND(db_read_stmt_result, 9);
COMMAND(db_stmt_read_all_rows, 12);
COMMAND(db_stmt_fetch, 13);
COMMAND(db_stmt_flush_unbuffered, 15);
_Static_assert(sizeof(struct st_mariadb_methods) == WORDS(21), "the command table has grown");

_Static_assert(offsetof(struct st_ma_pvio, mysql) == offsetof(struct st_ma_pvio, ctls) + WORDS(1) &&
                   offsetof(struct st_ma_pvio, methods) ==
                       offsetof(struct st_ma_pvio, ctls) + WORDS(2) &&
                   offsetof(struct st_ma_pvio, cache) == WORDS(1),
               "a connection's socket is laid out differently");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool           started;
static atomic_bool    known;

/* The library makes the process ignore SIGPIPE. That is the application's to decide: what we
   send never raises it. */
static void start(void)
{
    struct sigaction before;

    sigaction(SIGPIPE, NULL, &before);
    started = mysql_library_init(0, NULL, NULL) == 0;
    sigaction(SIGPIPE, &before, NULL);
    if (!started)
        return;
    my_io_library_hook();
    known = mysql_get_client_version() == MARIADB_PACKAGE_VERSION_ID;
    if (!known)
        my_library_doubt("it is not the version that weir was built with, "
                         MARIADB_PACKAGE_VERSION);
}

bool my_library_start(weir_error *err)
{
    pthread_once(&once, start);
    if (!started)
        weir_error_set(err, WEIR_USAGE, "libmariadb could not be initialised");
    return started;
}

bool my_library_is_known(void)
{
    return known;
}

void my_library_doubt(const char *why)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;

    known = false;
    if (!atomic_flag_test_and_set(&said))
        LOG(WEIR_LOG_WARN,
            "libmariadb %s: %s; connections use its documented hooks only (slower, no TLS, "
            "dead idle ones are noticed late)",
            mysql_get_client_info(), why);
}

weir_status weir_mysql_selfcheck(weir_error *err)
{
    if (!my_library_start(err))
        return WEIR_USAGE;
    if (!my_library_is_known())
        return weir_error_set(err, WEIR_USAGE,
                              "libmariadb %s is not what weir was built with (%s)",
                              mysql_get_client_info(), MARIADB_PACKAGE_VERSION);
    return WEIR_OK;
}
