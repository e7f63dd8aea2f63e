/*
 * mysql_soak.h - what the rooms that speak with MySQL share; their dialect is in mysql.c.
 */
#ifndef MYSQL_SOAK_H
#define MYSQL_SOAK_H

#include "soak.h"

#include <weir/mysql.h>

/* mysql_target.c */
void        mysql_find(struct database *db);
bool        mysql_prepare(struct database *db, char *why, size_t size);
void        mysql_clean(struct database *db);
long        mysql_connections(struct database *db);
bool        mysql_rows(struct database *db, char *why, size_t size);
void       *mysql_connect_plainly(struct database *db, char *why, size_t size);
void        mysql_hang_up(void *connection);
bool        mysql_limit(struct database *db, char *why, size_t size);
bool        mysql_unlimit(struct database *db, char *why, size_t size);
weir_status mysql_pool(struct database *db, const weir_pool_opts *pool, weir_error *err);

/* mysql_deed.c */
weir_status mysql_deed(struct life *life, weir_lease *lease, enum deed deed, weir_error *err);
weir_status mysql_ask(struct database *db, weir_lease *lease, const char *sql,
                      weir_status expected, weir_error *err);
weir_status mysql_insert(struct database *db, weir_lease *lease, uint64_t id, weir_error *err);
weir_status mysql_failed(struct database *db, weir_lease *lease, weir_status expected,
                         weir_error *err);

/* mysql_misdeed.c */
weir_status mysql_slow(struct database *db, weir_lease *lease, weir_status expected,
                       weir_error *err);
weir_status mysql_begin(struct database *db, weir_lease *lease, weir_error *err);
weir_status mysql_misdeed(struct life *life, weir_error *err);

#endif
