/*
 * naive.c - the same without weir's care: what becomes of a process.
 *
 * Knows:   two ways to run out of descriptors. --naive: every coroutine opens a connection
 *          with the plain client library, and nobody closes one. --unbounded: a weir pool with no
 *          limit, its account of descriptors lifted; weir then still waits when the kernel
 *          says no, but everything else in the process finds no descriptor left either, such
 *          as a handler that opens a file.
 * Ignores: misbehaviour; here everybody behaves.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    struct {
        const struct dialect *dialect;
        void                 *connection;
    } *kept; /* what nobody closes */
    unsigned    count;
    unsigned    begun;  /* with those that are at it: another may begin while one is refused by a
                           full queue, and each has its descriptor */
    uint64_t    served; /* leases, of a pool without a limit */
    bool        emfile;
    weir_group *lives;
} naive;

static void ended(uint64_t connected, bool emfile, const char *what, const char *why)
{
    if (soak.ended_by[0])
        return;
    soak.ended_after = connected;
    naive.emfile = emfile;
    soak.database[0].tally.emfile_surfaced += emfile;
    snprintf(soak.ended_by, sizeof soak.ended_by, "%s: %s", what, why);
    weir_group_cancel(naive.lives);
}

bool naive_is_at_the_limit(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == EMFILE || errno == ENFILE;
    close(fd);
    return false;
}

/* What a handler does besides: here it is the first to find that nothing is left. */
static void read_a_file(void)
{
    if (naive_is_at_the_limit())
        ended(naive.served, true, "nobody can open a file any more", strerror(EMFILE));
}

/* ---- a connection each -------------------------------------------------------------- */

/* Past the relay: what is shown is this process's end, not the network's. */
static weir_status connect_and_keep(void *arg)
{
    struct database *db = arg;
    char             why[256] = "";
    unsigned         before = naive.begun++;
    void            *connection = db->dialect->connect(db, why, sizeof why);

    if (!connection) {
        /* The libraries tell the kernel's errno in their words, or not at all. */
        ended(before, strstr(why, "(24)") || strstr(why, "Too many open files") ||
              naive_is_at_the_limit(), "the next one could not connect", why);
        return WEIR_FAILED;
    }
    naive.kept[naive.count].dialect = db->dialect;
    naive.kept[naive.count++].connection = connection;
    db->tally.queries++;
    db->tally.lives++;
    soak.lives++;
    watch_mark();
    return WEIR_OK;
}

static weir_status naive_app(void *unused)
{
    weir_group_opts opts = { .keep = WEIR_KEEP_COUNTS };
    weir_error      err;

    (void)unused;
    if (weir_group_new(&opts, &naive.lives, &err) != WEIR_OK)
        return weir_fail(&err);
    watch_start();
    for (uint64_t i = 1; i <= soak.options.coroutines && !soak.ended_by[0]; i++) {
        if (naive.count >= soak.options.nofile ||
            !weir_spawn(naive.lives, connect_and_keep, &soak.database[i % soak.databases]) ||
            weir_yield() != WEIR_OK)
            break;
        soak.started++;
    }
    (void)weir_group_wait(naive.lives, WEIR_FOREVER);
    soak.seconds = watch_seconds();
    watch_stop();
    weir_group_free(naive.lives);
    return WEIR_OK;
}

/* ---- a pool without a limit --------------------------------------------------------- */

/* With room for more descriptors than the server has for connections, it is the server. */
static void ask_the_pool(struct database *db)
{
    weir_pool_stats stats;

    weir_pool_stats_read(db->pool, &stats);
    if (stats.connect_failures)
        ended(naive.served, false, "the server", "it accepts no more connections");
}

static weir_status query_and_read(void *arg)
{
    struct database *db = arg;
    weir_error       err;
    weir_autoptr(weir_lease) lease = NULL;

    if (life_acquire(db, WEIR_FOREVER, &lease, &err) != WEIR_OK) {
        if (err.status != WEIR_CANCELED)
            life_note_failure(db, &err, WEIR_OK);
        return err.status;
    }
    naive.served++;
    if (db->dialect->slow(db, lease, WEIR_CANCELED, &err) == WEIR_OK) {
        read_a_file();
        ask_the_pool(db);
    }
    db->tally.lives++;
    soak.lives++;
    return WEIR_OK;
}

static weir_status open_without_a_limit(weir_error *err)
{
    weir_budget_opts lifted = { .limit = 1000000 };
    weir_pool_opts   way = { .name = "unbounded", .max_size = 1000000, .max_connecting = 16 };
    weir_status      status = weir_budget_set(&lifted, err);

    for (unsigned i = 0; i < soak.databases && status == WEIR_OK; i++)
        status = soak.database[i].dialect->pool(&soak.database[i], &way, err);
    return status;
}

static weir_status unbounded_app(void *unused)
{
    weir_error      err;
    weir_group_opts opts = { .keep = WEIR_KEEP_COUNTS, .max_running = soak.options.concurrency };

    (void)unused;
    if (opts.max_running < 2 * soak.options.nofile)
        opts.max_running = 2 * soak.options.nofile;
    if (open_without_a_limit(&err) || weir_group_new(&opts, &naive.lives, &err))
        return weir_fail(&err);
    watch_start();
    for (uint64_t i = 1; i <= soak.options.coroutines && !soak.ended_by[0]; i++) {
        if (!weir_spawn(naive.lives, query_and_read, &soak.database[i % soak.databases]))
            break;
        soak.started++;
    }
    (void)weir_group_wait(naive.lives, WEIR_FOREVER);
    soak.seconds = watch_seconds();
    EACH_DATABASE(db)
        weir_pool_stats_read(db->pool, &db->end);
    watch_stop();
    weir_group_free(naive.lives);
    EACH_DATABASE(db) {
        weir_pool_free(db->pool);
        db->pool = NULL;
    }
    return WEIR_OK;
}

/* ---- how it ended ------------------------------------------------------------------- */

static void tell(const char *mode)
{
    weir_budget_stats budget;
    char              a[28], b[28];

    weir_budget_read(&budget);
    printf("\n%s, %u descriptors allowed, %u used at most\n", mode, soak.options.nofile,
           soak.watch.fds_peak);
    if (!soak.ended_by[0])
        printf("It did not come to an end by itself: %s coroutines ran%s.\n",
               grouped(soak.lives, a), soak.lives ? "" : " (see the messages above)");
    else
        printf("%s when %s of %s coroutines had taken descriptors for a connection: %s\n",
               naive.emfile ? "EMFILE" : "The end", grouped(soak.ended_after, a),
               grouped(soak.options.coroutines, b), soak.ended_by);
    if (budget.exhausted)
        printf("weir itself asked the kernel in vain %llu times, and waited; nobody else could.\n",
               (unsigned long long)budget.exhausted);
    if (soak.ended_by[0] && !naive.emfile)
        printf("That was not the kernel's limit; a lower --nofile comes to it first.\n");
    puts("\nFAIL, as it must be. Without this option weir-soak shows the same load under a cap.");
}

int naive_main(void)
{
    soak.mode = "naive";
    naive.kept = calloc(soak.options.nofile, sizeof *naive.kept);
    if (naive.kept)
        weir_run(naive_app, NULL);
    soak.verdict.fds_end = fds_open_now();
    soak.database[0].connections_end = (long)naive.count; /* asking would take a descriptor */
    for (unsigned i = 0; i < naive.count; i++)
        naive.kept[i].dialect->hang_up(naive.kept[i].connection);
    free(naive.kept);
    tell("A connection for each coroutine, closed by nobody");
    return 1;
}

int unbounded_main(void)
{
    soak.mode = "unbounded";
    weir_run(unbounded_app, NULL);
    soak.verdict.fds_end = fds_open_now();
    EACH_DATABASE(db)
        db->connections_end = db->dialect->connections(db);
    tell("A pool without a limit");
    return 1;
}
