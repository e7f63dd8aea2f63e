/*
 * deployment.h - the MongoDB server the mongo entries talk to, and the work they ask of it.
 *
 * Knows:   the scripted server of tests/support, with answers made beforehand.
 * Ignores: pools, coroutines, who asks.
 *
 * No real server: what is measured is the client, and a server that answers out of a drawer
 * leaves it most of the CPU that both share.
 */
#ifndef DEPLOYMENT_H
#define DEPLOYMENT_H

#include <mongoc/mongoc.h>
#include <stdbool.h>
#include <stddef.h>

enum { MONGO_CONNECTIONS = 8, MONGO_TASKS = 1000 };

/* What a mongo entry asks for; an entry's `how`. */
enum mongo_work { FIND_ONE, INSERT_ONE };

/* Start it, with or without a login; for an entry's set_up and tear_down. */
bool deployment_start(char *why, size_t size);
bool deployment_start_with_login(char *why, size_t size);
void deployment_stop(void);

/* Where it is; the string lives as long as the server. Repeats nothing behind one's back, as
   weir does by default. */
const char *deployment_uri(void);

/* Do the work once, from mongoc_client_get_collection() to the answer checked. False, and says
   why, if it failed. */
bool mongo_do(mongoc_client_t *client, enum mongo_work work);

#endif
