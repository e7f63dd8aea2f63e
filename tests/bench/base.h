/*
 * base.h - the baselines: the least that could do the same job without weir.
 *
 * Each has the shape of struct side's `round`.
 */
#ifndef BASE_H
#define BASE_H

#include "bench.h"

/* base_fcontext.c: one operation is a jump to another stack and back. */
bool base_round_trip(struct lap *lap, int how);
bool base_round_robin(struct lap *lap, int stacks); /* over so many stacks, in order */
bool base_parked(struct lap *lap, int what);        /* enum memory of memory.h */

/* base_ev.c: a byte over a socket pair and back, between two contexts over libev. */
bool base_echo(struct lap *lap, int how);

/* base_free_list.c: take one from a list of idle things, and put it back. */
bool base_free_list(struct lap *lap, int how);

/* base_close.c: as many descriptors, watched by epoll, closed in one go; the lap counts it as
   one operation. */
bool base_close_all(struct lap *lap, int count);

/* base_mysql.c: point SELECTs over 8 connections; `how` is enum way of server.h. */
bool base_mysql_epoll(struct lap *lap, int how);
bool base_mysql_threads(struct lap *lap, int how);

/* base_mongo.c: libmongoc, blocking; `how` is enum mongo_work of deployment.h. */
bool base_mongo_threads(struct lap *lap, int how); /* in 8 threads, a client each */
bool base_mongo_alone(struct lap *lap, int how);   /* one client */
bool base_mongo_allocs(struct lap *lap, int how);  /* one client: its requests for memory */

#endif
