/*
 * server.c - the server's address, table and CPU.
 *
 * Knows:   WEIR_MYSQL_* in the environment, /proc/PID/task of the server.
 * Ignores: who asks it what.
 *
 * The mysql entries are measured with client and server on one CPU. On two, the client's
 * figure is mostly the kernel waking a CPU that fell asleep, the same for every client. So
 * each thread of the server is moved to our CPU, and put back afterwards. A thread that the
 * server makes meanwhile inherits our CPU; it is put back where the process's first was.
 */
#define _GNU_SOURCE 1 /* sched_setaffinity */
#include "server.h"

#include "bench.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char  table[48];
static pid_t server_pid;

const struct server *server_here(void)
{
    static struct server server;
    const char          *port = getenv("WEIR_MYSQL_PORT");

    server = (struct server){
        .socket = getenv("WEIR_MYSQL_SOCKET"),
        .host = getenv("WEIR_MYSQL_HOST"),
        .user = getenv("WEIR_MYSQL_USER"),
        .password = getenv("WEIR_MYSQL_PASSWORD"),
        .database = getenv("WEIR_MYSQL_DATABASE"),
        .port = port ? (unsigned)atoi(port) : 0,
    };
    return &server;
}

/* ---- its CPU ------------------------------------------------------------------------ */

static cpu_set_t was_on;

static void move_threads(pid_t pid, const cpu_set_t *to)
{
    char           path[64];
    struct dirent *found;

    snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return;
    for (found = readdir(tasks); found; found = readdir(tasks)) {
        if (found->d_name[0] != '.') /* one that ended meanwhile needs no moving */
            (void)sched_setaffinity((pid_t)atol(found->d_name), sizeof *to, to);
    }
    closedir(tasks);
}

static pid_t read_pid(void)
{
    const char *path = getenv("WEIR_MYSQL_PID_FILE");
    long        pid = 0;
    FILE       *file = path ? fopen(path, "r") : NULL;

    if (!file)
        return 0;
    if (fscanf(file, "%ld", &pid) != 1)
        pid = 0;
    fclose(file);
    return (pid_t)pid;
}

static bool bring_here(char *why, size_t size)
{
    cpu_set_t ours;

    server_pid = read_pid();
    if (server_pid <= 0) {
        snprintf(why, size, "WEIR_MYSQL_PID_FILE names no server to bring to this CPU");
        return false;
    }
    if (sched_getaffinity(0, sizeof ours, &ours) ||
        sched_getaffinity(server_pid, sizeof was_on, &was_on) ||
        sched_setaffinity(server_pid, sizeof ours, &ours)) {
        snprintf(why, size, "the server may not be brought to this CPU");
        return false;
    }
    move_threads(server_pid, &ours);
    return true;
}

/* ---- its table ---------------------------------------------------------------------- */

static bool say(MYSQL *my, const char *text)
{
    if (mysql_query(my, text))
        return bench_fail("%s", mysql_error(my));
    return true;
}

static bool fill_table(MYSQL *my)
{
    enum { BATCH = 1000, ROW_TEXT = 32 };
    static char text[BATCH * ROW_TEXT + 128];

    for (int first = 1; first <= ROWS; first += BATCH) {
        int used = snprintf(text, sizeof text, "INSERT INTO %s VALUES", table);
        for (int id = first; id < first + BATCH; id++)
            used += snprintf(text + used, sizeof text - (size_t)used, "%s(%d,'value-%d')",
                             id == first ? " " : ",", id, id);
        if (!say(my, text))
            return false;
    }
    return true;
}

static bool drop_table(MYSQL *my)
{
    char text[128];

    snprintf(text, sizeof text, "DROP TABLE IF EXISTS %s", table);
    return say(my, text);
}

static bool make_table(MYSQL *my)
{
    char text[160];

    snprintf(table, sizeof table, "weir_bench_%ld", (long)getpid());
    snprintf(text, sizeof text, "CREATE TABLE %s (id INT PRIMARY KEY, v VARCHAR(64))", table);
    return drop_table(my) && say(my, text) && fill_table(my);
}

/* Do one thing on a connection made for it. */
static bool with_connection(bool (*thing)(MYSQL *my))
{
    MYSQL my;

    if (!mysql_init(&my))
        return bench_fail("mysql_init: out of memory");
    bool done = server_connect(&my, BY_TCP) && thing(&my);
    mysql_close(&my);
    return done;
}

bool server_connect(MYSQL *my, enum way way)
{
    const struct server *server = server_here();
    unsigned             protocol = way == BY_TCP ? MYSQL_PROTOCOL_TCP : MYSQL_PROTOCOL_SOCKET;

    mysql_options(my, MYSQL_OPT_PROTOCOL, &protocol);
    if (!mysql_real_connect(my, way == BY_TCP ? server->host : NULL, server->user,
                            server->password, server->database, server->port,
                            way == BY_TCP ? NULL : server->socket, 0))
        return bench_fail("cannot connect: %s", mysql_error(my));
    return true;
}

bool server_prepare(char *why, size_t size)
{
    if (!getenv("WEIR_MYSQL_PORT")) {
        snprintf(why, size, "WEIR_MYSQL_PORT is not set: no server (script/private-server)");
        return false;
    }
    if (!with_connection(make_table)) {
        snprintf(why, size, "the server cannot be reached, or refused to make a table");
        return false;
    }
    if (!bring_here(why, size)) {
        with_connection(drop_table);
        return false;
    }
    return true;
}

void server_leave(void)
{
    move_threads(server_pid, &was_on);
    with_connection(drop_table);
}

/* ---- the work ----------------------------------------------------------------------- */

int point_select(char text[POINT_SELECT], unsigned id)
{
    return snprintf(text, POINT_SELECT, "SELECT v FROM %s WHERE id=%u", table, id);
}

bool point_select_fetch(MYSQL_RES *result, unsigned id)
{
    static const char prefix[] = "value-";
    MYSQL_ROW         row = mysql_fetch_row(result);
    bool              right = row && row[0] &&
                 strncmp(row[0], prefix, sizeof prefix - 1) == 0 &&
                 strtoul(row[0] + sizeof prefix - 1, NULL, 10) == id;

    mysql_free_result(result);
    return right ? true : bench_fail("key %u: the answer is not its row", id);
}

unsigned next_id(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return 1 + (*state >> 8) % ROWS;
}
