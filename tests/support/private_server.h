/*
 * private_server.h - the database server that a test run started for itself.
 *
 * Knows:   where it is (from the environment), and how to hurt it: kill, stop, restart, and
 *          statements of an administrator.
 * Ignores: weir's pools. Everything here works while a pool is stuck.
 *
 * In a coroutine these calls yield: blocking work goes to weir's offload threads.
 */
#ifndef PRIVATE_SERVER_H
#define PRIVATE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct private_server {
    const char *socket;
    const char *host;
    unsigned    port;
    const char *user;
    const char *password;
    const char *database;
    const char *ca;
    const char *tls_name;
    const char *pid_file;
    const char *dir;
    const char *script;
};

/* NULL where the environment names none. */
const struct private_server *private_server(void);

pid_t private_server_pid(void);

void private_server_kill(void);    /* SIGKILL; returns when the process is gone */
void private_server_stop(void);    /* SIGSTOP, until private_server_go_on() or our exit */
void private_server_go_on(void);   /* SIGCONT */
bool private_server_revive(void);  /* whatever a test that crashed has left: true when it answers */
bool private_server_restart(void); /* after it died: same port, socket and data */

/* Statements over a connection of their own, made for each. */
int  admin_do(const char *sql);     /* 0, or the client library's or the server's code */
long admin_number(const char *sql); /* the first value of the answer; -1 on failure */

/* Connections the server counts for our users, without the one that asks. */
long private_server_connections(void);

/* End every one of them, and put back the global settings that tests change. */
void private_server_tidy(void);

#endif
