/*
 * private_server.c - see private_server.h.
 *
 * The administrator comes in by the Unix socket with a blocking connection of plain
 * libmariadb, on a thread where no coroutine runs.
 */
#define _GNU_SOURCE
#include "private_server.h"

#include "private_process.h"

#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct private_process process = { .kind = "mariadb" };

static const char *required(const char *name)
{
    return private_setting(name, "WEIR_MYSQL_PORT");
}

const struct private_server *private_server(void)
{
    static struct private_server server;
    const char                  *port = getenv("WEIR_MYSQL_PORT");

    if (!port || !*port)
        return NULL;
    if (!server.port) {
        server.port = (unsigned)atoi(port);
        server.socket = required("WEIR_MYSQL_SOCKET");
        server.host = required("WEIR_MYSQL_HOST");
        server.user = required("WEIR_MYSQL_USER");
        server.password = required("WEIR_MYSQL_PASSWORD");
        server.database = required("WEIR_MYSQL_DATABASE");
        server.ca = required("WEIR_MYSQL_CA");
        server.tls_name = required("WEIR_MYSQL_TLS_NAME");
        server.pid_file = process.pid_file = required("WEIR_MYSQL_PID_FILE");
        server.dir = process.dir = required("WEIR_MYSQL_DIR");
        server.script = process.script = required("WEIR_PRIVATE_SERVER");
    }
    return &server;
}

/* ---- the process -------------------------------------------------------------------- */

static const struct private_process *its_process(void)
{
    (void)private_server(); /* which fills it */
    return &process;
}

pid_t private_server_pid(void)
{
    return private_process_pid(its_process());
}

void private_server_kill(void)
{
    private_process_kill(its_process());
}

void private_server_stop(void)
{
    private_process_stop(its_process());
}

void private_server_go_on(void)
{
    private_process_go_on();
}

bool private_server_restart(void)
{
    return private_process_restart(its_process());
}

bool private_server_revive(void)
{
    return private_process_revive(its_process());
}

/* ---- the administrator -------------------------------------------------------------- */

struct order {
    const char *sql;
    int         code;
    long        answer;
};

static void carry_out(void *arg)
{
    const struct private_server *s = private_server();
    struct order                *order = arg;
    unsigned                     patience = 5;
    MYSQL                       *my = mysql_init(NULL);

    mysql_options(my, MYSQL_OPT_CONNECT_TIMEOUT, &patience);
    mysql_options(my, MYSQL_OPT_READ_TIMEOUT, &patience);
    order->answer = -1;
    if (!mysql_real_connect(my, NULL, s->user, s->password, NULL, 0, s->socket, 0) ||
        mysql_query(my, order->sql)) {
        order->code = (int)mysql_errno(my);
        fprintf(stderr, "administrator: %s (%d)\n", mysql_error(my), order->code);
    } else {
        MYSQL_RES *res = mysql_store_result(my);
        MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
        order->code = (int)mysql_errno(my);
        if (row && row[0])
            order->answer = atol(row[0]);
        mysql_free_result(res);
    }
    mysql_close(my);
}

int admin_do(const char *sql)
{
    struct order order = { .sql = sql };
    off_the_hub(carry_out, &order);
    return order.code;
}

long admin_number(const char *sql)
{
    struct order order = { .sql = sql };
    off_the_hub(carry_out, &order);
    return order.code ? -1 : order.answer;
}

long private_server_connections(void)
{
    return admin_number("SELECT COUNT(*) FROM information_schema.processlist "
                        "WHERE user LIKE 'weir%' AND id <> CONNECTION_ID()");
}

static void wait_until_alone(void *arg)
{
    (void)arg;
    for (int i = 0; i < 200 && private_server_connections() > 0; i++)
        usleep(5000);
}

void private_server_tidy(void)
{
    /* 1094: it has ended by itself meanwhile. */
    (void)admin_do("BEGIN NOT ATOMIC"
                   " DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;"
                   " FOR c IN (SELECT id FROM information_schema.processlist"
                   "           WHERE user LIKE 'weir%' AND id <> CONNECTION_ID())"
                   " DO KILL c.id; END FOR; END");
    off_the_hub(wait_until_alone, NULL);
    (void)admin_do("SET GLOBAL wait_timeout = 28800, max_connections = 400");
}
