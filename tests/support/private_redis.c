/*
 * private_redis.c - see private_redis.h.
 *
 * The server is told by the kernel when we die (PR_SET_PDEATHSIG), however that happens, and is
 * ended and waited for by private_redis_stop().
 */
#define _GNU_SOURCE
#include "private_redis.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NO_PROGRAM = 127, READY_MS = 10000, STEP_MS = 20 };

/* One that is free now. Somebody may take it before the server does; then it does not come up. */
static int free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t          length = sizeof address;
    int                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;

    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &length) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

static void become_server(const struct private_redis *redis, pid_t parent)
{
    char port[16];
    int  null = open("/dev/null", O_RDWR);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    snprintf(port, sizeof port, "%d", redis->port);
    execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--unixsocket",
           redis->socket, "--dir", redis->dir, "--save", "", "--appendonly", "no", "--daemonize",
           "no", "--maxclients", "200", (char *)NULL);
    _exit(NO_PROGRAM);
}

static bool answers(const struct private_redis *redis)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char               pong[7] = "";
    int                fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, redis->socket, sizeof redis->socket);
    bool there = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                 write(fd, "PING\r\n", 6) == 6 &&
                 recv(fd, pong, sizeof pong, MSG_WAITALL) == (ssize_t)sizeof pong &&
                 memcmp(pong, "+PONG\r\n", sizeof pong) == 0;
    close(fd);
    return there;
}

static bool wait_until_ready(struct private_redis *redis, char *why, size_t size)
{
    const struct timespec step = { 0, STEP_MS * 1000000 };

    for (int ms = 0; ms < READY_MS; ms += STEP_MS) {
        int status;
        if (answers(redis))
            return true;
        if (waitpid(redis->pid, &status, WNOHANG) == redis->pid) {
            redis->pid = 0;
            snprintf(why, size, "%s", WIFEXITED(status) && WEXITSTATUS(status) == NO_PROGRAM
                                          ? "there is no redis-server (Debian: redis-server)"
                                          : "redis-server ended at once");
            return false;
        }
        nanosleep(&step, NULL);
    }
    snprintf(why, size, "redis-server did not answer within %d s", READY_MS / 1000);
    return false;
}

bool private_redis_start(struct private_redis *redis, char *why, size_t size)
{
    pid_t parent = getpid();

    *redis = (struct private_redis){ .dir = "/tmp/weir_redis_XXXXXX" };
    if (!mkdtemp(redis->dir)) {
        snprintf(why, size, "no directory for it: %s", strerror(errno));
        return false;
    }
    snprintf(redis->socket, sizeof redis->socket, "%s/socket", redis->dir);
    redis->port = free_port();
    redis->pid = fork();
    if (redis->pid == 0)
        become_server(redis, parent);
    if (redis->pid > 0 && wait_until_ready(redis, why, size))
        return true;
    private_redis_stop(redis);
    return false;
}

void private_redis_stop(struct private_redis *redis)
{
    if (redis->pid > 0) {
        kill(redis->pid, SIGKILL); /* it has nothing to save */
        waitpid(redis->pid, NULL, 0);
    }
    redis->pid = 0;
    unlink(redis->socket);
    rmdir(redis->dir);
}
