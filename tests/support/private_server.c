/*
 * private_server.c - see private_server.h.
 *
 * A server left stopped would hang whatever comes after, so an exit handler lets it go on.
 * The administrator comes in by the Unix socket with a blocking connection of plain
 * libmariadb, on a thread where no coroutine runs.
 */
#define _GNU_SOURCE
#include "private_server.h"

#include <errno.h>
#include <mysql.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/coro.h>

static pid_t stopped; /* the server we sent SIGSTOP to, 0 for none */

static const char *required(const char *name)
{
    const char *value = getenv(name);
    if (!value || !*value) {
        fprintf(stderr, "private_server: WEIR_MYSQL_PORT is set, but %s is not\n", name);
        exit(2);
    }
    return value;
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
        server.pid_file = required("WEIR_MYSQL_PID_FILE");
        server.dir = required("WEIR_MYSQL_DIR");
        server.script = required("WEIR_PRIVATE_SERVER");
    }
    return &server;
}

/* Blocking work of ours, off the hub where there is one; nothing cuts it short. */
static void off_the_hub(void (*fn)(void *arg), void *arg)
{
    if (!weir_self()) {
        fn(arg);
        return;
    }
    WEIR_SHIELD(WEIR_FOREVER);
    if (weir_offload(fn, arg, WEIR_FOREVER) != WEIR_OK) {
        fprintf(stderr, "private_server: weir_offload failed\n");
        abort();
    }
}

/* ---- the process -------------------------------------------------------------------- */

pid_t private_server_pid(void)
{
    int   pid = 0;
    FILE *f = fopen(private_server()->pid_file, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%d", &pid) != 1)
        pid = 0;
    fclose(f);
    return pid;
}

/*
 * A process killed with many threads is a zombie as soon as its first one has ended, while the
 * others still hold its sockets open: it is gone when none of them is left.
 */
static bool alive(pid_t pid)
{
    char  path[64], state = 'X';
    int   threads = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (fscanf(f, "%*d (%*[^)]) %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                  "%*d %d", &state, &threads) != 2)
        state = 'X';
    fclose(f);
    return (state != 'Z' && state != 'X') || threads > 1;
}

static void kill_it(void *arg)
{
    pid_t pid = private_server_pid();
    (void)arg;
    if (pid <= 0 || kill(pid, SIGKILL))
        return;
    for (int i = 0; i < 5000 && alive(pid); i++)
        usleep(1000);
}

void private_server_kill(void)
{
    off_the_hub(kill_it, NULL);
}

static void let_go(void)
{
    if (stopped > 0)
        kill(stopped, SIGCONT);
    stopped = 0;
}

void private_server_stop(void)
{
    static bool registered;
    pid_t       pid = private_server_pid();

    if (!registered)
        registered = atexit(let_go) == 0;
    if (pid > 0 && kill(pid, SIGSTOP) == 0)
        stopped = pid;
}

void private_server_go_on(void)
{
    let_go();
}

static void restart_it(void *arg)
{
    const struct private_server *s = private_server();
    bool                        *ok = arg;
    int                          status = 0;
    pid_t                        pid;
    char *argv[] = { (char *)s->script, (char *)"mariadb", (char *)"restart",
                     (char *)s->dir, NULL };
    posix_spawn_file_actions_t actions;

    /* A server that inherits our sockets would keep them open for us. */
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    *ok = posix_spawn(&pid, s->script, &actions, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    if (!*ok)
        return;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool private_server_restart(void)
{
    bool ok = false;
    off_the_hub(restart_it, &ok);
    return ok;
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

bool private_server_revive(void)
{
    pid_t pid = private_server_pid();

    if (pid > 0 && alive(pid))
        return kill(pid, SIGCONT) == 0;
    return private_server_restart();
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
