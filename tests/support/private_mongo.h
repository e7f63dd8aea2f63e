/*
 * private_mongo.h - the MongoDB server that a test run started for itself.
 *
 * Knows:   where it is (from the environment), which one it is, how to hurt it, and how many
 *          clients it has.
 * Ignores: weir's pools, and the protocol. Everything here works while a pool is stuck.
 *
 * In a coroutine these calls yield: blocking work goes to weir's offload threads.
 */
#ifndef PRIVATE_MONGO_H
#define PRIVATE_MONGO_H

#include <stdbool.h>
#include <sys/types.h>

struct private_mongo {
    const char *kind;        /* "mongod" or "ferretdb" */
    bool        is_mongod;   /* a replica set of one: it has transactions and change streams */
    const char *uri;         /* over TCP, without TLS */
    const char *host;
    unsigned    port;
    unsigned    tls_port;
    const char *socket;
    const char *user;
    const char *password;
    const char *database;
    const char *auth_source; /* the database that knows the user */
    const char *ca;
    const char *tls_name;
};

/* NULL where the environment names none. */
const struct private_mongo *private_mongo(void);

pid_t private_mongo_pid(void);

void private_mongo_kill(void);    /* SIGKILL; returns when the process is gone */
void private_mongo_stop(void);    /* SIGSTOP, until private_mongo_go_on() or our exit */
void private_mongo_go_on(void);   /* SIGCONT, to every private server we have stopped */
bool private_mongo_revive(void);  /* whatever a test that crashed has left: true when it answers */
bool private_mongo_restart(void); /* after it died: same ports, socket and data */

/*
 * Established connections of its clients, whoever they are, by TCP, TLS and Unix socket; -1
 * where /proc does not tell. One that the client has closed no longer counts, also while the
 * server has yet to notice.
 */
long private_mongo_connections(void);

#endif
