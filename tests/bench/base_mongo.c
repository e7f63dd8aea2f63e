/*
 * base_mongo.c - MongoDB without weir: libmongoc as it comes, blocking.
 *
 * Knows:   threads, mongoc_client_t.
 * Ignores: more work than there are connections, deadlines, broken connections, fairness.
 *
 * Each thread has a client of its own, which is the least that can do the job: the library's
 * pool of clients would add a lock for each operation and threads that watch the server.
 */
#include "base.h"
#include "deployment.h"

#include "allocs.h"

#include <pthread.h>

struct worker {
    pthread_t       thread;
    enum mongo_work work;
    long            warm, count;
    double          cpu_s;
    bool            failed;
};

static bool do_times(mongoc_client_t *client, enum mongo_work work, long times)
{
    for (long i = 0; i < times; i++)
        if (!mongo_do(client, work))
            return false;
    return true;
}

/* Threads need no common start: each measures its own time, and all do equally much. */
static void *work(void *arg)
{
    struct worker   *self = arg;
    mongoc_client_t *client = mongoc_client_new(deployment_uri());

    self->failed = !client || !do_times(client, self->work, self->warm);
    double begun_s = lap_thread_cpu_s();
    self->failed = self->failed || !do_times(client, self->work, self->count);
    self->cpu_s = lap_thread_cpu_s() - begun_s;
    mongoc_client_destroy(client);
    return NULL;
}

bool base_mongo_threads(struct lap *lap, int how)
{
    struct worker workers[MONGO_CONNECTIONS];
    double        cpu_s = 0;
    int           started = 0;
    bool          failed = false;

    while (started < MONGO_CONNECTIONS && !failed) {
        struct worker *worker = &workers[started];

        *worker = (struct worker){
            .work = (enum mongo_work)how,
            .warm = lap->warm / MONGO_CONNECTIONS,
            .count = lap->count / MONGO_CONNECTIONS,
        };
        failed = pthread_create(&worker->thread, NULL, work, worker) != 0;
        if (!failed)
            started++;
    }
    if (failed)
        bench_fail("pthread_create failed");
    for (int i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        cpu_s += workers[i].cpu_s;
        failed = failed || workers[i].failed;
    }
    lap_end_with(lap, cpu_s);
    return !failed;
}

/* What can only be counted for one thread is counted for one thread. */
bool base_mongo_alone(struct lap *lap, int how)
{
    mongoc_client_t *client = mongoc_client_new(deployment_uri());
    bool             well = client != NULL;

    while (well && !lap->over) {
        well = mongo_do(client, (enum mongo_work)how);
        lap_tick(lap);
    }
    mongoc_client_destroy(client);
    return well;
}

bool base_mongo_allocs(struct lap *lap, int how)
{
    mongoc_client_t *client = mongoc_client_new(deployment_uri());
    bool             well = client && do_times(client, (enum mongo_work)how, lap->warm);
    long             before = allocs_by(BY_LIBMONGOC);

    well = well && do_times(client, (enum mongo_work)how, lap->count);
    lap_end_at(lap, (double)(allocs_by(BY_LIBMONGOC) - before));
    mongoc_client_destroy(client);
    return well;
}
