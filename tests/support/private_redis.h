/*
 * private_redis.h - a redis-server for one test program: on a Unix socket and a port of loopback,
 * without files, and gone with the program.
 */
#ifndef PRIVATE_REDIS_H
#define PRIVATE_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct private_redis {
    pid_t pid;
    int   port;
    char  dir[32];
    char  socket[64];
};

/* False, and why in `why`: there is none, or it does not come up within ten seconds. */
bool private_redis_start(struct private_redis *redis, char *why, size_t size);
void private_redis_stop(struct private_redis *redis);

#endif
