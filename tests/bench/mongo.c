/*
 * mongo.c - what a find, an insert and a login through weir cost the client.
 *
 * Knows:   weir/mongo.h, the work in deployment.h.
 * Ignores: how its baselines do the same.
 *
 * A thousand tasks share eight clients and take a lease for each operation, as a request
 * handler does. Options are the defaults; client and server share a CPU. Since the server
 * answers at once, nobody is held up by it: whether the tasks come round equally often is
 * measured, too, and a round in which one had less than half as much as another has failed.
 */
#include "base.h"
#include "deployment.h"

#include "allocs.h"

#include <stdio.h>
#include <weir/coro.h>
#include <weir/mongo.h>

struct crowd {
    struct lap     *lap;
    weir_pool      *pool;
    enum mongo_work work;
    unsigned        tasks; /* begun so far */
    long            done[MONGO_TASKS]; /* by each, within the lap */
    long            asked; /* for memory, by us, when the lap began; then within it */
};

static weir_status lease_and_do(struct crowd *crowd)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(crowd->pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
        return weir_fail(&err);
    return mongo_do(weir_mongo(lease), crowd->work) ? WEIR_OK : WEIR_FAILED;
}

/* The lap's own counting asks for no memory. */
static void tick(struct crowd *crowd, unsigned self)
{
    struct lap *lap = crowd->lap;

    if (lap->over)
        return;
    lap_tick(lap);
    if (lap->done == lap->warm)
        crowd->asked = allocs_by(BY_WEIR);
    else if (lap->over)
        crowd->asked = allocs_by(BY_WEIR) - crowd->asked;
    crowd->done[self] += lap->done > lap->warm;
}

static weir_status task(void *arg)
{
    struct crowd *crowd = arg;
    unsigned      self = crowd->tasks++;
    weir_status   status = WEIR_OK;

    while (!crowd->lap->over && status == WEIR_OK) {
        status = lease_and_do(crowd);
        tick(crowd, self);
    }
    return status;
}

static weir_status make_pool(bool library_scram, weir_pool **pool, weir_error *err)
{
    weir_mongo_opts opts = { .uri = deployment_uri(),
                             .library_scram = library_scram,
                             .pool.max_size = MONGO_CONNECTIONS };

    return weir_mongo_pool_new(&opts, pool, err);
}

static weir_status crowd_app(void *arg)
{
    struct crowd *crowd = arg;
    weir_error    err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) group = NULL;

    if (make_pool(false, &pool, &err) != WEIR_OK ||
        weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    crowd->pool = pool;
    for (int i = 0; i < MONGO_TASKS; i++)
        weir_spawn(group, task, crowd);
    return weir_group_wait(group, WEIR_FOREVER);
}

static bool run_app(weir_fn app, void *arg)
{
    weir_status status = weir_run(app, arg);

    return status == WEIR_OK || bench_fail("weir_run: %s", weir_status_name(status));
}

static bool crowd_round(struct lap *lap, int how)
{
    struct crowd crowd = { .lap = lap, .work = (enum mongo_work)how };

    return run_app(crowd_app, &crowd);
}

static bool allocs_round(struct lap *lap, int how)
{
    struct crowd crowd = { .lap = lap, .work = (enum mongo_work)how };
    bool         well = run_app(crowd_app, &crowd);

    lap_end_at(lap, (double)crowd.asked);
    return well;
}

/* ---- fairness ------------------------------------------------------------------------- */

static bool fairness_round(struct lap *lap, int how)
{
    struct crowd crowd = { .lap = lap, .work = (enum mongo_work)how };
    bool         well = run_app(crowd_app, &crowd);
    long         fewest = crowd.done[0], most = crowd.done[0];

    for (int i = 1; i < MONGO_TASKS; i++) {
        fewest = crowd.done[i] < fewest ? crowd.done[i] : fewest;
        most = crowd.done[i] > most ? crowd.done[i] : most;
    }
    if (well && fewest * 2 < most)
        well = bench_fail("unfair: one task did %ld operations while another did %ld", most,
                          fewest);
    lap_end_at(lap, (double)lap->count * (double)most / (double)(fewest ? fewest : 1));
    return well;
}

/* What perfect fairness is; there is nothing that could be measured. */
static bool perfectly_fair(struct lap *lap, int how)
{
    (void)how;
    lap_end_at(lap, (double)lap->count);
    return true;
}

/* ---- logging in ----------------------------------------------------------------------- */

enum { OUR_SCRAM, LIBRARY_SCRAM };

struct visitor {
    struct lap *lap;
    bool        library_scram;
};

static weir_status connect_app(void *arg)
{
    struct visitor *visitor = arg;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    if (make_pool(visitor->library_scram, &pool, &err) != WEIR_OK)
        return weir_fail(&err);
    while (!visitor->lap->over) {
        weir_lease *lease;
        if (weir_acquire(pool, WEIR_SCOPE, &lease, &err) != WEIR_OK)
            return weir_fail(&err);
        weir_lease_close(lease);
        lap_tick(visitor->lap);
    }
    return WEIR_OK;
}

static bool connect_round(struct lap *lap, int how)
{
    struct visitor visitor = { .lap = lap, .library_scram = how == LIBRARY_SCRAM };

    return run_app(connect_app, &visitor);
}

/* ---- the table ------------------------------------------------------------------------ */

static bool start_counting_memory(char *why, size_t size)
{
    if (!allocs_countable()) {
        snprintf(why, size, "weir is a shared library here: its calls of malloc() cannot be told "
                            "from libmongoc's");
        return false;
    }
    allocs_prepare();
    return deployment_start(why, size);
}

static void stop_counting_memory(void)
{
    deployment_stop();
    bson_mem_restore_vtable();
}

#define EACH ", a lease for each (one CPU with the server)"
#define SERVED .set_up = deployment_start, .tear_down = deployment_stop
#define WEIR(round, how) .ours = { "weir", round, how }
#define THREADS(how) \
    .baseline = { "libmongoc in 8 threads, a client each", base_mongo_threads, how }

const struct entry mongo_entries[] = {
    { "mongo/find", "a find by _id" EACH, CPU_US, 2000, 20000, WEIR(crowd_round, FIND_ONE),
      THREADS(FIND_ONE), SERVED },
    { "mongo/insert", "an insert" EACH, CPU_US, 2000, 20000, WEIR(crowd_round, INSERT_ONE),
      THREADS(INSERT_ONE), SERVED },
    { "mongo/find-syscalls", "a find by _id" EACH, CALLS, 2000, 8000, WEIR(crowd_round, FIND_ONE),
      .baseline = { "libmongoc, blocking, one client", base_mongo_alone, FIND_ONE }, SERVED },
    { "mongo/find-allocs", "a find by _id" EACH, ALLOCS, 2000, 8000, WEIR(allocs_round, FIND_ONE),
      .baseline = { "libmongoc and libbson, for the same", base_mongo_allocs, FIND_ONE },
      .set_up = start_counting_memory, .tear_down = stop_counting_memory },
    { "mongo/find-fairness", "1,000 tasks, answers always there: most finds over fewest", TIMES,
      2000, 50000, WEIR(fairness_round, FIND_ONE),
      .baseline = { "perfect fairness", perfectly_fair, 0 }, SERVED },
    { "mongo/connect-scram", "a client made, connected and logged in by SCRAM-SHA-256", CPU_US,
      10, 60, WEIR(connect_round, OUR_SCRAM),
      .baseline = { "libmongoc's own SCRAM (.library_scram)", connect_round, LIBRARY_SCRAM },
      .set_up = deployment_start_with_login, .tear_down = deployment_stop },
    { .name = NULL },
};
