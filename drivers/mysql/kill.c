/*
 * kill.c - a statement that was cut ends on the server, too.
 *
 * Knows:   which connections a server shall end, and how to be sure that it is that server.
 * Ignores: why a statement was cut (io.c), how one connects (connect.c).
 *
 * Closing a socket does not stop a statement: the server finds out when it has something to say,
 * which may be in an hour, and until then it works, holds its locks, and occupies one of its
 * connections. So a pool with `kill_cut` says KILL on a connection of its own, made for that.
 * There is one at a time, in a coroutine of its own, the killer, which ends the connections in
 * the queue one after the other and goes when there are none left. So a storm of cancels costs the
 * server one more connection and no storm, and the caller who was cut waits for nothing. It is
 * paid for in the budget, like any other.
 *
 * The whole connection is killed, not the query alone: ours is closed already, or will be, so that
 * there is nobody whose next query could be hit, and whatever was still to come on it is dropped.
 *
 * KILL takes a number, and every server counts for itself. What has the number on another server
 * is somebody else's work. So the killer
 *   - goes to the very address the connection went to, not to its host's name;
 *   - compares what the server says of itself (see WHO) with what it said when the connection was
 *     opened: behind one address there may be many servers. It tries again then, for it may well be
 *     sent to the right one next time;
 *   - kills nothing with a number above its own connection's: servers count upwards, so this one
 *     was restarted since, and the statement went with that.
 */
#include "mysql_internal.h"

#include "log.h"

#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHO "SELECT CONCAT_WS('/', @@hostname, @@port, @@server_id, @@datadir)"

enum {
    KILLS_MAX = 1000, /* in the queue: what does not fit is left to itself */
    KILL_MS = 3000,   /* from the cut: who has not got through to the server by then gives up, and
                         a pool that is closed waits no longer than this */
    AGAIN_MS = 100,   /* before another attempt to reach it */
    BYE_MS = 200
};

struct kill {
    struct list   link;
    weir_deadline until;
    unsigned long number; /* the server's, of the connection */
    uint64_t      server; /* which one that is */
    char          address[MY_ADDRESS];
};

/* The killer's own connection. */
struct side {
    struct my_config *config;
    struct my_conn   *conn; /* NULL: none now */
    weir_budget_token token;
};

/* ---- which server -------------------------------------------------------------------- */

/* FNV-1a, 64 bits: draft-eastlake-fnv. */
static uint64_t digest(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    while (*text)
        hash = (hash ^ (unsigned char)*text++) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

bool my_kill_meet(struct my_conn *conn)
{
    MYSQL *my = &conn->my;

    conn->server = 0;
    MYSQL_RES *result = mysql_real_query(my, WHO, strlen(WHO)) ? NULL : mysql_store_result(my);
    MYSQL_ROW  row = result ? mysql_fetch_row(result) : NULL;
    if (row && row[0])
        conn->server = digest(row[0]);
    mysql_free_result(result);
    return conn->server;
}

/* ---- its connection ------------------------------------------------------------------ */

static void leave(struct side *side, weir_farewell how)
{
    if (!side->conn)
        return;
    WEIR_SHIELD(weir_in_ms(BYE_MS));
    my_driver.close(&side->conn->base, how, weir_in_ms(BYE_MS));
    free(side->conn);
    side->conn = NULL;
}

static weir_status go_there(struct side *side, const struct kill *kill, weir_error *why)
{
    weir_status status = WEIR_OK;

    if (!side->token.descriptors)
        status = weir_budget_take(1, kill->until, &side->token, why);
    if (status != WEIR_OK)
        return status;
    struct my_conn *conn = side->conn = calloc(1, sizeof *conn);
    if (!conn)
        return weir_error_set(why, WEIR_NOMEM, "no memory for a connection");
    conn->base.user = weir_self();
    conn->config = side->config;
    conn->fd = -1;
    conn->ours = true;
    conn->silence_ns = INT64_MAX;
    conn->limit = kill->until;
    status = my_dial(conn, kill->address[0] ? kill->address : NULL, why);
    if (status == WEIR_OK && !my_kill_meet(conn))
        status = weir_error_set(why, WEIR_CONNECT, "the server does not say which one it is: %s",
                                mysql_error(&conn->my));
    if (status != WEIR_OK)
        leave(side, WEIR_ABRUPT);
    return status;
}

/* Until it is the right server that has answered. */
static weir_status be_there(struct side *side, const struct kill *kill, weir_error *why)
{
    if (side->conn && strcmp(side->conn->address, kill->address) != 0)
        leave(side, WEIR_POLITE);
    for (;;) {
        weir_error  now = { 0 };
        weir_status status = side->conn ? WEIR_OK : go_there(side, kill, &now);
        if (status == WEIR_OK && side->conn->server == kill->server)
            return WEIR_OK;
        if (status == WEIR_OK) {
            status = weir_error_set(&now, WEIR_CONNECT, "another server answers there now");
            leave(side, WEIR_POLITE);
        }
        if (!why->message[0] || weir_check() == WEIR_OK)
            *why = now; /* that the time is over tells less than what went wrong before */
        if (status == WEIR_USAGE || status == WEIR_NOMEM ||
            weir_sleep(weir_in_ms(AGAIN_MS)) != WEIR_OK)
            return status;
    }
}

/* ---- killing ------------------------------------------------------------------------- */

static weir_status say_kill(struct side *side, const struct kill *kill, weir_error *why)
{
    MYSQL *my = &side->conn->my;
    char   sql[48];

    if (kill->number >= mysql_thread_id(my))
        return weir_error_set(why, WEIR_CONNECT, "the server was restarted since");
    snprintf(sql, sizeof sql, "KILL CONNECTION %lu", kill->number);
    if (!mysql_real_query(my, sql, strlen(sql)) || mysql_errno(my) == ER_NO_SUCH_THREAD)
        return WEIR_OK; /* or it has ended by itself */
    weir_error_set(why, WEIR_SERVER, "%s", mysql_error(my));
    if (!my_is_server_error(mysql_errno(my)))
        leave(side, WEIR_ABRUPT);
    return WEIR_SERVER;
}

static void carry_out(struct side *side, const struct kill *kill)
{
    weir_error why = { 0 };

    WEIR_DEADLINE(kill->until);
    if (side->conn)
        side->conn->limit = kill->until;
    weir_status status = be_there(side, kill, &why);
    if (status == WEIR_OK)
        status = say_kill(side, kill, &why);
    if (status != WEIR_OK)
        LOG(WEIR_LOG_WARN, "a statement that was cut may go on at %s, connection %lu there: %s",
            side->config->target, kill->number, why.message);
}

static weir_status killer(void *arg)
{
    struct my_config *config = arg;
    struct side       side = { .config = config };

    while (config->kill_count || side.conn) { /* more may come while it leaves */
        struct list *first = list_first(&config->kills);
        if (!first) {
            leave(&side, WEIR_POLITE);
            continue;
        }
        struct kill *kill = LIST_OF(first, struct kill, link);
        list_unlink(first);
        config->kill_count--;
        carry_out(&side, kill);
        free(kill);
    }
    weir_budget_give(&side.token);
    weir_pool *pool = config->killing;
    config->killing = NULL;
    weir_pool_let_go(pool); /* and with it, maybe, of the config */
    return WEIR_OK;
}

/* Its socket stays open in the child, unused, and is counted there. */
void my_kill_forked(void *arg)
{
    struct my_config *config = arg;

    config->killing = NULL;
    config->kill_count = 0;
    LIST_EACH(node, &config->kills) {
        list_unlink(node);
        free(LIST_OF(node, struct kill, link));
    }
}

/* ---- ordering ------------------------------------------------------------------------ */

static bool start_killer(struct my_config *config, weir_pool *pool)
{
    const weir_spawn_opts opts = { .name = "mysql killer" };

    if (config->killing)
        return true;
    if (!weir_spawn_with(NULL, &opts, killer, config))
        return false;
    config->killing = pool;
    weir_pool_hold(pool);
    return true;
}

static bool put_in_line(struct my_config *config, const struct my_conn *conn)
{
    struct kill *kill = config->kill_count < KILLS_MAX ? malloc(sizeof *kill) : NULL;

    if (!kill)
        return false;
    kill->until = weir_in_ms(KILL_MS);
    kill->number = mysql_thread_id((MYSQL *)&conn->my);
    kill->server = conn->server;
    memcpy(kill->address, conn->address, sizeof kill->address);
    list_append(&config->kills, &kill->link);
    config->kill_count++;
    return true;
}

bool my_kill_order(struct my_conn *conn)
{
    struct my_config *config = (struct my_config *)conn->config; /* it keeps the queue */

    if (!config->opts.kill_cut || conn->ours || !conn->server || conn->doomed ||
        (conn->own_io && !conn->sent))
        return false;
    conn->doomed =
        start_killer(config, weir_conn_pool(&conn->base)) && put_in_line(config, conn);
    if (!conn->doomed)
        LOG(WEIR_LOG_WARN, "a statement that was cut may go on at %s, connection %lu there: %s",
            config->target, mysql_thread_id(&conn->my),
            config->kill_count < KILLS_MAX ? "no memory to have it killed"
                                           : "too many others are to be killed first");
    return conn->doomed;
}
