/*
 * mongo.c - MongoDB, and servers that speak as it does: the table of what is said to them.
 *
 * No command tells such a server to accept fewer connections, so that the relay refuses them,
 * also before a private one.
 */
#include "mongo_soak.h"

static void library(void)
{
    weir_error err;

    mongoc_init();
    mongoc_log_set_handler(weir_mongo_log, NULL);
    /* Opens for good what it needs, before anything is counted. */
    if (weir_mongo_selfcheck(&err) != WEIR_OK)
        target_die("weir::mongo: %s", err.message);
}

/* Of src/mongo/base/error_codes.yml: internal error (FerretDB's for what its SQLite says, which may
   differ from one query to the next), lock timeout, maxTimeMS, shutting down, write conflict,
   stepped down, interrupted, starting up, no primary; and the driver's "no server". */
static bool passes(int native)
{
    static const int codes[] = { 1,     24,    50,    91,    112,   189,  262,
                                 10107, 11600, 11602, 13053, 13435, 13436 };

    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
        if (native == codes[i])
            return true;
    return false;
}

extern const struct dialect dialect_mongo;
const struct dialect dialect_mongo = {
    .name = "mongo",
    .title = "MongoDB",
    .server = "mongo",
    .by_relay = true,
    .crowd = 4,
    .of_twenty = { [SELECT_ONE] = 8, [INSERT_ONE] = 9, [STREAM] = 3 },
    .knows = { [FORGET] = true, [CANCEL_WAIT] = true, [CANCEL_CONNECT] = true,
               [CANCEL_QUERY] = true, [TIMEOUT_WAIT] = true, [TIMEOUT_QUERY] = true,
               [OPEN_TRANSACTION] = true, [HALF_READ] = true, [NESTED] = true,
               [NESTED_LOCAL] = true, [OUTLIVE] = true, [MISUSE] = true },
    .library = library,
    .find = mongo_find,
    .prepare = mongo_prepare,
    .clean = mongo_clean,
    .connections = mongo_connections,
    .rows = mongo_rows,
    .connect = mongo_connect_plainly,
    .hang_up = mongo_hang_up,
    .pool = mongo_pool,
    .deed = mongo_deed,
    .slow = mongo_slow,
    .begin = mongo_begin,
    .misdeed = mongo_misdeed,
    .passes = passes,
};
