/*
 * private_mongo.c - see private_mongo.h.
 *
 * Clients are counted by the kernel's tables and not by asking the server, which may be stopped,
 * may be too old to tell, and would count the one who asks. Of the two ends of a connection over
 * loopback the server's is counted: the one whose own port is the server's.
 */
#define _GNU_SOURCE
#include "private_mongo.h"

#include "private_process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of include/net/tcp_states.h and include/uapi/linux/net.h, as /proc/net prints them. */
enum { TCP_IS_ESTABLISHED = 1, UNIX_IS_CONNECTED = 3 };

static struct private_process process = { .kind = "mongo" };

static const char *setting(const char *name)
{
    return private_setting(name, "WEIR_MONGO_PORT");
}

const struct private_mongo *private_mongo(void)
{
    static struct private_mongo server;
    const char                 *port = getenv("WEIR_MONGO_PORT");

    if (!port || !*port)
        return NULL;
    if (!server.port) {
        server.port = (unsigned)atoi(port);
        server.kind = setting("WEIR_MONGO_KIND");
        server.is_mongod = strcmp(server.kind, "mongod") == 0;
        server.uri = setting("WEIR_MONGO_URI");
        server.host = setting("WEIR_MONGO_HOST");
        server.tls_port = (unsigned)atoi(setting("WEIR_MONGO_TLS_PORT"));
        server.socket = setting("WEIR_MONGO_SOCKET");
        server.user = setting("WEIR_MONGO_USER");
        server.password = setting("WEIR_MONGO_PASSWORD");
        server.database = setting("WEIR_MONGO_DATABASE");
        server.auth_source = setting("WEIR_MONGO_AUTH_SOURCE");
        server.ca = setting("WEIR_MONGO_CA");
        server.tls_name = setting("WEIR_MONGO_TLS_NAME");
        process.pid_file = setting("WEIR_MONGO_PID_FILE");
        process.dir = setting("WEIR_MONGO_DIR");
        process.script = setting("WEIR_PRIVATE_SERVER");
    }
    return &server;
}

/* ---- the process -------------------------------------------------------------------- */

static const struct private_process *its_process(void)
{
    if (!private_mongo()) {
        fprintf(stderr, "private_mongo: there is no server (WEIR_MONGO_PORT is not set)\n");
        exit(2);
    }
    return &process;
}

pid_t private_mongo_pid(void)
{
    return private_process_pid(its_process());
}

void private_mongo_kill(void)
{
    private_process_kill(its_process());
}

void private_mongo_stop(void)
{
    private_process_stop(its_process());
}

void private_mongo_go_on(void)
{
    private_process_go_on();
}

bool private_mongo_revive(void)
{
    return private_process_revive(its_process());
}

bool private_mongo_restart(void)
{
    return private_process_restart(its_process());
}

/* ---- its clients -------------------------------------------------------------------- */

static bool is_tcp_client(const char *line, const struct private_mongo *s)
{
    unsigned port, state;
    return sscanf(line, " %*u: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x", &port, &state) == 2 &&
           state == TCP_IS_ESTABLISHED && (port == s->port || port == s->tls_port);
}

/* The server's ends have its path; its listener has it too, and is not connected. */
static bool is_unix_client(const char *line, const struct private_mongo *s)
{
    unsigned state;
    char     path[128];
    return sscanf(line, "%*[^:]: %*x %*x %*x %*x %x %*u %127[^\n]", &state, path) == 2 &&
           state == UNIX_IS_CONNECTED && strcmp(path, s->socket) == 0;
}

static bool count_in(const char *file, bool (*matches)(const char *, const struct private_mongo *),
                     long *count)
{
    char  line[512];
    FILE *f = fopen(file, "re");
    if (!f)
        return false;
    while (fgets(line, sizeof line, f))
        *count += matches(line, private_mongo());
    fclose(f);
    return true;
}

static void count_clients(void *arg)
{
    long *count = arg;
    *count = 0;
    if (!count_in("/proc/net/tcp", is_tcp_client, count) ||
        !count_in("/proc/net/unix", is_unix_client, count))
        *count = -1;
    else
        (void)count_in("/proc/net/tcp6", is_tcp_client, count); /* absent without IPv6 */
}

long private_mongo_connections(void)
{
    long count;
    (void)its_process();
    off_the_hub(count_clients, &count);
    return count;
}
