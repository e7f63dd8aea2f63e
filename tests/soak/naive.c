/*
 * naive.c - the same without weir's care: what becomes of a process.
 *
 * Knows:   two ways to run out of descriptors. --naive: every coroutine opens a connection
 *          with plain libmariadb, and nobody closes one. --unbounded: a weir pool with no
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
    MYSQL  **kept; /* what nobody closes */
    unsigned count;
    bool     emfile;
} naive;

static void ended(uint64_t connected, bool emfile, const char *what, const char *why)
{
    if (soak.ended_by[0])
        return;
    soak.ended_after = connected;
    naive.emfile = emfile;
    soak.tally.emfile_surfaced += emfile;
    snprintf(soak.ended_by, sizeof soak.ended_by, "%s: %s", what, why);
    weir_group_cancel(soak.lives);
}

/* What a handler does besides: here it is the first to find that nothing is left. */
static void read_a_file(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    else
        ended(soak.tally.wait.count, errno == EMFILE || errno == ENFILE,
              "nobody can open a file any more", strerror(errno));
}

/* ---- a connection each -------------------------------------------------------------- */

/* Past the relay: what is shown is this process's end, not the network's. */
static weir_status connect_and_keep(void *unused)
{
    char   why[256];
    MYSQL *my = target_connect(&soak.target, why, sizeof why);

    (void)unused;
    if (!my) {
        /* libmariadb tells the kernel's errno in its words only. */
        ended(naive.count, strstr(why, "(24)") || strstr(why, "Too many open files"),
              "the next one could not connect", why);
        return WEIR_FAILED;
    }
    naive.kept[naive.count++] = my;
    if (!mysql_query(my, "SELECT 1")) {
        mysql_free_result(mysql_store_result(my));
        soak.tally.queries++;
    }
    soak.tally.lives++;
    watch_mark();
    return WEIR_OK;
}

static weir_status naive_app(void *unused)
{
    weir_group_opts opts = { .keep = WEIR_KEEP_COUNTS };
    weir_error      err;

    (void)unused;
    if (weir_group_new(&opts, &soak.lives, &err) != WEIR_OK)
        return weir_fail(&err);
    watch_start();
    for (uint64_t i = 1; i <= soak.options.coroutines && !soak.ended_by[0]; i++) {
        if (naive.count >= soak.options.nofile ||
            !weir_spawn(soak.lives, connect_and_keep, NULL) ||
            weir_yield() != WEIR_OK)
            break;
        soak.tally.started++;
    }
    (void)weir_group_wait(soak.lives, WEIR_FOREVER);
    soak.seconds = watch_seconds();
    watch_stop();
    weir_group_free(soak.lives);
    return WEIR_OK;
}

/* ---- a pool without a limit --------------------------------------------------------- */

/* With room for more descriptors than the server has for connections, it is the server. */
static void ask_the_pool(void)
{
    weir_pool_stats stats;

    weir_pool_stats_read(soak.pool, &stats);
    if (stats.connect_failures)
        ended(soak.tally.wait.count, false, "the server", "it accepts no more connections");
}

static weir_status query_and_read(void *unused)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    (void)unused;
    if (life_acquire(WEIR_FOREVER, &lease, &err) != WEIR_OK) {
        if (err.status != WEIR_CANCELED)
            life_note_failure(&err, WEIR_OK);
        return err.status;
    }
    if (deed_query(lease, "DO SLEEP(0.3)", WEIR_CANCELED, &err) == WEIR_OK) {
        read_a_file();
        ask_the_pool();
    }
    soak.tally.lives++;
    return WEIR_OK;
}

static weir_status unbounded_app(void *unused)
{
    weir_error       err;
    weir_group_opts  opts = { .keep = WEIR_KEEP_COUNTS, .max_running = soak.options.concurrency };
    weir_budget_opts lifted = { .limit = 1000000 };
    weir_mysql_opts  way = { .pool = { .name = "unbounded",
                                       .max_size = 1000000,
                                       .max_connecting = 16 } };

    (void)unused;
    if (opts.max_running < 2 * soak.options.nofile)
        opts.max_running = 2 * soak.options.nofile;
    target_pool(&soak.target, &way);
    if (weir_budget_set(&lifted, &err) || weir_mysql_pool_new(&way, &soak.pool, &err) ||
        weir_group_new(&opts, &soak.lives, &err))
        return weir_fail(&err);
    watch_start();
    for (uint64_t i = 1; i <= soak.options.coroutines && !soak.ended_by[0]; i++) {
        if (!weir_spawn(soak.lives, query_and_read, NULL))
            break;
        soak.tally.started++;
    }
    (void)weir_group_wait(soak.lives, WEIR_FOREVER);
    soak.seconds = watch_seconds();
    weir_pool_stats_read(soak.pool, &soak.pool_end);
    watch_stop();
    weir_group_free(soak.lives);
    weir_pool_free(soak.pool);
    soak.pool = NULL;
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
               grouped(soak.tally.lives, a), soak.tally.lives ? "" : " (see the messages above)");
    else
        printf("%s when %s of %s coroutines had got a connection: %s\n",
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
    soak.verdict.connections_end = (long)naive.count; /* asking would take a descriptor */
    for (unsigned i = 0; i < naive.count; i++)
        mysql_close(naive.kept[i]);
    free(naive.kept);
    tell("A connection for each coroutine, closed by nobody");
    return 1;
}

int unbounded_main(void)
{
    soak.mode = "unbounded";
    weir_run(unbounded_app, NULL);
    soak.verdict.fds_end = fds_open_now();
    soak.verdict.connections_end = target_connections(&soak.target);
    tell("A pool without a limit");
    return 1;
}
