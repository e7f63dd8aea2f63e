/*
 * mysql.c - MySQL and MariaDB: the table of what is said to them.
 */
#include "mysql_soak.h"

static void library(void)
{
    if (mysql_library_init(0, NULL, NULL))
        target_die("libmariadb could not be set up");
}

/* Full, shutting down, killed, lock wait, deadlock, interrupted, limits. */
static bool passes(int native)
{
    static const int codes[] = { 1040, 1053, 1152, 1203, 1205, 1213, 1226, 1317, 1927, 1969 };

    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
        if (native == codes[i])
            return true;
    return false;
}

extern const struct dialect dialect_mysql;
const struct dialect dialect_mysql = {
    .name = "mysql",
    .title = "MySQL",
    .server = "mariadb",
    .of_twenty = { [SELECT_ONE] = 9, [INSERT_ONE] = 5, [TRANSACTION] = 2, [PREPARED] = 2,
                   [STREAM] = 2 },
    .knows = { [FORGET] = true, [CANCEL_WAIT] = true, [CANCEL_CONNECT] = true,
               [CANCEL_QUERY] = true, [TIMEOUT_WAIT] = true, [TIMEOUT_QUERY] = true,
               [OPEN_TRANSACTION] = true, [HALF_READ] = true, [NESTED] = true,
               [NESTED_LOCAL] = true },
    .library = library,
    .find = mysql_find,
    .prepare = mysql_prepare,
    .clean = mysql_clean,
    .connections = mysql_connections,
    .rows = mysql_rows,
    .connect = mysql_connect_plainly,
    .hang_up = mysql_hang_up,
    .limit = mysql_limit,
    .unlimit = mysql_unlimit,
    .pool = mysql_pool,
    .deed = mysql_deed,
    .slow = mysql_slow,
    .begin = mysql_begin,
    .misdeed = mysql_misdeed,
    .passes = passes,
};
