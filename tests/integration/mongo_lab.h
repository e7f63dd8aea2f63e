/*
 * mongo_lab.h - what the integration tests of weir::mongo share.
 *
 * Knows:   a scene (a server that does what it is told, a pool on it, a body), certificates made
 *          for the run, the few operations that tests do again and again.
 * Ignores: what is tested.
 */
#ifndef MONGO_LAB_H
#define MONGO_LAB_H

#include <lab.h>
#include <mongo_mock.h>
#include <weir/mongo.h>

struct mongo_scene {
    struct mongo_mock_opts server;
    const char            *options;  /* of the URI: "a=b&c=d". connectTimeoutMS is 2000, and more
                                        where everything is slow, unless it is here */
    const char            *user;     /* that the URI has (the server's); "": none */
    const char            *password;
    const char            *host;     /* that the URI names: member 0 alone, by this name */
    unsigned               port;     /* of that host (member 0's) */
    weir_mongo_opts        opts;
    weir_status (*body)(struct mongo_scene *me);
    void                  *arg;

    /* filled in */
    char               uri[600];
    struct mongo_mock *mock;
    weir_pool         *pool;
    weir_lease        *lease; /* a body may keep one here: it is given back at the end */
};

/* Start the server, make the pool in a hub, run the body under both detectors; in the end the
   pool must have nothing left, and the server must see no connection any more. */
void mongo_scene_run(struct mongo_scene *me);

/* The same in two steps, for those who need the port in between. */
void mongo_scene_start(struct mongo_scene *me);
void mongo_scene_play(struct mongo_scene *me);

/* In between: have the pool go to this port of 127.0.0.1 instead of the server's. */
void mongo_scene_name(struct mongo_scene *me, unsigned port);

/* Give back me->lease, where there is one, and take another. */
weir_status mongo_lease(struct mongo_scene *me);

#define need_mongo(ok, error) \
    do { \
        if (!(ok)) { \
            lab_record(WEIR_HERE, "%s: %s", #ok, (error).message); \
            return WEIR_FAILED; \
        } \
    } while (0)

/* How many documents there are in the collection; -1 with *error. `batch` of 0: the server's. */
long mongo_find(mongoc_client_t *client, const char *database, int batch, bson_error_t *error);
bool mongo_insert(mongoc_client_t *client, const char *database, int id, bson_error_t *error);
bool mongo_ping(mongoc_client_t *client, bson_error_t *error);

/*
 * A certificate "server", and the authority that has signed it, made on the first call: for the
 * names localhost and db.weir.test and for 127.0.0.1. It says that 127.0.0.1:`ocsp_port` can be
 * asked by OCSP whether it was revoked, if that is not 0. Removed when the process ends.
 */
struct mongo_certs {
    char ca[120], cert[120], key[120];
    char stranger[120]; /* another authority, which has signed nothing else than: */
    char client[120], impostor[120]; /* certificate and key for CN=client, of the authority and of
                                        the stranger */
};
const struct mongo_certs *mongo_certs(unsigned ocsp_port);

/* main() of tests on servers of their own, and of those that need the private one. */
#define mongo_main(argc, argv, tests) lab_main_for((argc), (argv), (tests), mongo_prepare)
#define mongo_main_private(argc, argv, tests) \
    lab_main_for((argc), (argv), (tests), mongo_prepare_private)
int mongo_prepare(void);
int mongo_prepare_private(void);

#endif
