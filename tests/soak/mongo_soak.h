/*
 * mongo_soak.h - what the rooms that speak with MongoDB share; their dialect is in mongo.c.
 */
#ifndef MONGO_SOAK_H
#define MONGO_SOAK_H

#include "soak.h"

#include <weir/mongo.h>

/*
 * Documents to read, numbered from 1. They are few, and apart from those that are written: there
 * are servers of this protocol that look at every document to find one.
 */
enum { MONGO_FIRST_ROWS = 50 };

/* mongo_target.c */
void        mongo_find(struct database *db);
bool        mongo_prepare(struct database *db, char *why, size_t size);
void        mongo_clean(struct database *db);
long        mongo_connections(struct database *db);
bool        mongo_rows(struct database *db, char *why, size_t size);
void       *mongo_connect_plainly(struct database *db, char *why, size_t size);
void        mongo_hang_up(void *connection);
weir_status mongo_pool(struct database *db, const weir_pool_opts *pool, weir_error *err);

/* Where it is written to; where it is read from, which is capped. */
mongoc_collection_t *mongo_written(const struct database *db, mongoc_client_t *client);
mongoc_collection_t *mongo_read(const struct database *db, mongoc_client_t *client);

/* mongo_deed.c */
weir_status mongo_deed(struct life *life, weir_lease *lease, enum deed deed, weir_error *err);
weir_status mongo_failed(struct database *db, weir_lease *lease, const bson_error_t *error,
                         weir_status expected, weir_error *err);
void        mongo_fill_row(bson_t *row, const char *key, uint64_t id); /* its id goes by `key` */

/* mongo_misdeed.c */
weir_status mongo_slow(struct database *db, weir_lease *lease, weir_status expected,
                       weir_error *err);
weir_status mongo_begin(struct database *db, weir_lease *lease, weir_error *err);
weir_status mongo_misdeed(struct life *life, weir_error *err);

#endif
