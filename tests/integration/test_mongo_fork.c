/*
 * test_mongo_fork.c - whatever the child of a fork does with the pool it inherited, the parent's
 * clients do not hear of it: the server sees no command and no end of a connection. Plain, over
 * TLS, and with a set of three, each of whose members every client is connected to.
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/process.h>

enum { WELL = 40, SLOW_MS = 300 };

#define IN_CHILD(holds)                                                            \
    do {                                                                           \
        if (!(holds)) {                                                            \
            fprintf(stderr, "%s: in the child: not so: %s\n", WEIR_HERE, #holds);  \
            _exit(1);                                                              \
        }                                                                          \
    } while (0)

typedef void (*child_fn)(struct mongo_scene *me);

/* ---- children ----------------------------------------------------------------------- */

static void does_nothing(struct mongo_scene *me)
{
    (void)me;
}

static void frees_the_pool(struct mongo_scene *me)
{
    IN_CHILD(weir_release(me->lease) == WEIR_OK);
    weir_pool_free(me->pool);
}

static void uses_the_lease(struct mongo_scene *me)
{
    bson_error_t     error;
    weir_error       err;
    mongoc_client_t *client = weir_mongo(me->lease);

    IN_CHILD(client != NULL);
    IN_CHILD(!mongo_ping(client, &error));
    IN_CHILD(weir_lease_error(me->lease, &err) == WEIR_LOST);
    IN_CHILD(strstr(err.message, "forked"));
    IN_CHILD(weir_release(me->lease) == WEIR_OK);
    (void)weir_sleep(weir_in_ms(20));
}

static void makes_its_own_connections(struct mongo_scene *me)
{
    bson_error_t error;
    weir_error   err;
    weir_lease  *lease = NULL;

    IN_CHILD(weir_release(me->lease) == WEIR_OK);
    IN_CHILD(weir_acquire(me->pool, lab_patience(5000), &lease, &err) == WEIR_OK);
    IN_CHILD(mongo_find(weir_mongo(lease), "db", 0, &error) == 3);
    IN_CHILD(weir_release(lease) == WEIR_OK);
    IN_CHILD(lab_stats(me->pool).opened == 1);
    weir_pool_free(me->pool);
}

/* ---- the parent --------------------------------------------------------------------- */

static weir_status find_slowly(void *arg)
{
    struct mongo_scene *me = arg;
    bson_error_t        error = { 0 };
    weir_error          err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
    need_mongo(mongo_find(weir_mongo(lease), "db", 0, &error) == 3, error);
    return WEIR_OK;
}

static weir_status fork_one(struct mongo_scene *me, child_fn child)
{
    int        status = -1;
    weir_error err;
    pid_t      pid = weir_fork();

    if (pid == 0) {
        child(me);
        _exit(WELL);
    }
    lab_need_ok(weir_waitpid(pid, lab_patience(10000), &status, &err), &err);
    lab_check(WIFEXITED(status));
    lab_equal(WEXITSTATUS(status), WELL);
    return WEIR_OK;
}

/* One client in our hands, one in the middle of a find, one idle. */
static weir_status have_a_child(struct mongo_scene *me)
{
    child_fn     child = *(child_fn *)me->arg;
    bson_error_t error = { 0 };
    weir_status  found = WEIR_FAILED;

    if (lab_warm(me->pool, 3) != WEIR_OK || mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    mongo_mock_rule(me->mock, MOCK_EVERY,
                    &(struct mock_rule){ .command = "find", .delay_ms = SLOW_MS, .times = 1 });
    weir_task *slow = weir_spawn(NULL, find_slowly, me);
    (void)weir_sleep(weir_in_ms(50));
    struct mock_counts before = mongo_mock_counts(me->mock, MOCK_EVERY);

    weir_status status = fork_one(me, child);
    lab_equal(weir_join(slow, lab_patience(5000), &found), WEIR_OK);
    lab_equal(found, WEIR_OK);
    struct mock_counts after = mongo_mock_counts(me->mock, MOCK_EVERY);
    if (child != makes_its_own_connections) {
        lab_equal(after.accepted, before.accepted);
        lab_equal(after.open, before.open);
        lab_equal(after.commands, before.commands);
    }
    lab_equal(after.broken, 0);
    lab_equal(mongo_mock_seen(me->mock, MOCK_EVERY, "endSessions"), 0);
    need_mongo(mongo_ping(weir_mongo(me->lease), &error), error);
    lab_equal(weir_release(me->lease), WEIR_OK);
    me->lease = NULL;
    for (int i = 0; i < 3; i++) { /* each of them */
        weir_lease *lease = NULL;
        weir_error  err;
        lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &lease, &err), &err);
        need_mongo(mongo_find(weir_mongo(lease), "db", 0, &error) == 3, error);
        lab_equal(weir_release(lease), WEIR_OK);
    }
    lab_equal(lab_stats(me->pool).opened, 3);
    return status;
}

static void run(void **state, child_fn child, unsigned members)
{
    const struct lab_way *way = *state;
    struct mongo_scene    me = { .body = have_a_child,
                                 .arg = &child,
                                 .server.members = members,
                                 .opts.pool = { .max_size = 3 } };

    if (way->tls) {
        const struct mongo_certs *certs = mongo_certs(0);
        me.server.tls_cert = certs->cert;
        me.server.tls_key = certs->key;
        me.opts.tls_ca = certs->ca;
    }
    mongo_scene_run(&me);
}

static void a_child_that_does_nothing(void **state)
{
    run(state, does_nothing, 1);
}

static void a_child_that_frees_the_pool(void **state)
{
    run(state, frees_the_pool, 1);
}

static void a_child_that_uses_an_inherited_lease_is_told(void **state)
{
    run(state, uses_the_lease, 1);
}

static void a_child_that_goes_on_with_clients_of_its_own(void **state)
{
    run(state, makes_its_own_connections, 1);
}

static void a_child_that_frees_a_pool_on_a_set(void **state)
{
    run(state, frees_the_pool, 3);
}

int main(int argc, char **argv)
{
#ifdef __SANITIZE_THREAD__
    printf("skipped: ThreadSanitizer does not follow fibers into the child of a fork\n");
    return LAB_SKIPPED;
#endif
    const struct CMUnitTest tests[] = {
        LAB_PLAIN_AND_TLS(a_child_that_does_nothing),
        LAB_PLAIN_AND_TLS(a_child_that_frees_the_pool),
        LAB_PLAIN_AND_TLS(a_child_that_uses_an_inherited_lease_is_told),
        LAB_PLAIN_AND_TLS(a_child_that_goes_on_with_clients_of_its_own),
        LAB_PLAIN_AND_TLS(a_child_that_frees_a_pool_on_a_set),
    };

    return mongo_main(argc, argv, tests);
}
