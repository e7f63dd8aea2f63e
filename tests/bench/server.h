/*
 * server.h - the database server the mysql entries talk to, and the work they ask of it.
 *
 * Knows:   where it is (WEIR_MYSQL_* in the environment), its table, the CPU it runs on.
 * Ignores: pools, coroutines, who asks.
 */
#ifndef SERVER_H
#define SERVER_H

#include <mysql.h>
#include <stdbool.h>
#include <stddef.h>

enum { CONNECTIONS = 8, TASKS = 1000, ROWS = 10000 };

enum way { BY_UNIX_SOCKET, BY_TCP };

struct server {
    const char *socket;
    const char *host;
    const char *user;
    const char *password;
    const char *database;
    unsigned    port;
};

/* Where it is; its strings live as long as the environment. */
const struct server *server_here(void);

/* Make the table, and bring the server to this process's CPU. False: `why` says what is
   missing. server_leave() drops the table and puts the server back where it was. */
bool server_prepare(char *why, size_t size);
void server_leave(void);

/* mysql_real_connect() on an initialised handle; false, having said why. */
bool server_connect(MYSQL *my, enum way way);

/* The statement that fetches one row by its key; returns its length. */
enum { POINT_SELECT = 96 };
int point_select(char text[POINT_SELECT], unsigned id);

/* Fetch the one row, see that it is the one asked for, and free the result. */
bool point_select_fetch(MYSQL_RES *result, unsigned id);

/* The next key: scattered over the table, the same order in every run. */
unsigned next_id(unsigned *state);

#endif
