/*
 * main.c - the order of it all.
 *
 * Knows:   what comes before, inside and after the hub, and the summary.
 * Ignores: the contents of each step.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <weir/log.h>

struct soak soak = { .mode = "soak" };

/* ---- inside ------------------------------------------------------------------------- */

/*
 * A stack's pages become resident when somebody first uses it that deep, which goes on for
 * long after the start and would look like a leak. So every stack there will be (of lives,
 * of those they cancel, of connections) is used once before.
 */
static weir_status use_stack(void *unused)
{
    char pages[28 * 1024];

    (void)unused;
    memset(pages, 1, sizeof pages);
    __asm__ volatile("" : : "r"(pages) : "memory"); /* it is not for nothing */
    return WEIR_OK;
}

static void warm_stacks(void)
{
    unsigned        count = soak.options.concurrency * 9 / 8 + soak.options.cap * 2 + 16;
    weir_group_opts all_at_once = { .keep = WEIR_KEEP_COUNTS };
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(&all_at_once, &group, NULL) != WEIR_OK)
        return;
    for (unsigned i = 0; i < count; i++)
        (void)weir_spawn(group, use_stack, NULL);
    (void)weir_group_wait(group, WEIR_FOREVER);
}

static bool wants_another(uint64_t number)
{
    if (soak.options.duration_s)
        return watch_done_part() < 1;
    return number < soak.options.coroutines;
}

static void start_lives(weir_group *lives)
{
    uint8_t plan[PLAN_BLOCK];

    for (uint64_t number = 0; wants_another(number); number++) {
        if (number % PLAN_BLOCK == 0)
            life_plan_block(number, plan);
        accidents_gate();
        enum kind kind = (enum kind)plan[number % PLAN_BLOCK];
        if (!weir_spawn(lives, life_run, life_pack(number, kind))) {
            if (weir_check() == WEIR_OK)
                snprintf(soak.trouble, sizeof soak.trouble, "life %llu could not be started",
                         (unsigned long long)number);
            return;
        }
        soak.tally.started++;
        soak.tally.planned[kind]++;
    }
}

static void end_lives(weir_group *lives)
{
    /* Failures of lives are in the books; here only an interrupt is news. */
    (void)weir_group_wait(lives, WEIR_FOREVER);
    if (weir_check() == WEIR_CANCELED) {
        soak.verdict.interrupted = true;
        weir_group_cancel(lives);
    }
    WEIR_SHIELD(weir_in_ms(60000));
    (void)weir_group_wait(lives, WEIR_SCOPE);
    soak.lives_left = weir_group_running(lives);
}

static void close_pool(weir_pool *pool)
{
    WEIR_SHIELD(weir_in_ms(20000));
    soak.pool_closed = weir_pool_close(pool, WEIR_SCOPE) == WEIR_OK;
    weir_pool_stats_read(pool, &soak.pool_end);
    soak.pool = NULL;
}

static weir_status no_go(const weir_error *err)
{
    snprintf(soak.trouble, sizeof soak.trouble, "%s: %s", weir_status_name(err->status),
             err->message);
    return err->status;
}

static weir_status live_in(weir_pool *pool)
{
    weir_error err = { 0 };
    weir_autoptr(weir_group) house = NULL;
    weir_autoptr(weir_group) lives = NULL;
    weir_group_opts crowd = { .name = "lives",
                              .max_running = soak.options.concurrency,
                              .keep = WEIR_KEEP_COUNTS };

    if (weir_group_new(NULL, &house, &err) || weir_group_new(&crowd, &lives, &err))
        return no_go(&err);
    weir_task *accidents = weir_spawn(house, accidents_run, NULL);
    weir_task *progress = weir_spawn(house, progress_run, NULL);
    if (!accidents || !progress) {
        weir_error_set(&err, WEIR_NOMEM, "no memory for two coroutines");
        return no_go(&err);
    }

    warm_stacks();
    watch_start();
    start_lives(lives);
    end_lives(lives);
    soak.seconds = watch_seconds();
    if (soak.verdict.interrupted)
        weir_cancel(accidents);
    {
        WEIR_SHIELD(weir_in_ms(180000)); /* one that has begun is undone */
        (void)weir_join(accidents, WEIR_SCOPE, NULL);
    }
    close_pool(pool);
    watch_stop();
    return WEIR_OK;
}

static weir_status soak_app(void *unused)
{
    weir_error      err = { 0 };
    weir_mysql_opts opts = {
        .pool = {
            .name = "soak",
            .max_size = soak.options.cap,
            .idle_timeout_ms = soak.options.idle_timeout_ms,
            /* Shorter than the stall, so that it is felt. */
            .query_timeout_ms = 1500,
            .connect_timeout_ms = 2000,
            .reset_timeout_ms = 1500,
        },
    };
    weir_autoptr(weir_pool) pool = NULL;

    (void)unused;
    target_pool(&soak.target, &opts);
    if (weir_mysql_pool_new(&opts, &pool, &err) != WEIR_OK)
        return no_go(&err);
    soak.pool = pool;
    return live_in(pool);
}

/* ---- before ------------------------------------------------------------------------- */

static void give_up(const char *what, const char *why) __attribute__((noreturn));
static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "weir-soak: %s: %s\n", what, why);
    relay_stop(soak.relay);
    exit(2);
}

static void log_line(weir_log_level level, const char *line, void *unused)
{
    (void)level;
    (void)unused;
    if (!soak.options.verbose)
        return;
    progress_clear();
    fprintf(stderr, "%s\n", line);
}

static void lower_limit(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files))
        give_up("RLIMIT_NOFILE", strerror(errno));
    if (files.rlim_max < soak.options.nofile)
        give_up("--nofile", "the hard limit of this shell is lower");
    /* Inherited ones above the limit would stay open and make every count look wrong. */
    close_range(soak.options.nofile, ~0U, 0);
    files.rlim_cur = soak.options.nofile; /* the soft one: the server's script raises it again */
    if (setrlimit(RLIMIT_NOFILE, &files))
        give_up("RLIMIT_NOFILE", strerror(errno));
}

static void announce(void)
{
    char server[600], lives[28];

    target_words(&soak.target, server, sizeof server);
    if (soak.options.progress == PROGRESS_NONE)
        return;
    fprintf(stderr, "weir-soak: %s\n", server);
    fprintf(stderr, "weir-soak: %s lives%s, %u at a time, %u connections at most, %u descriptors "
            "at most, seed %llu\n",
            soak.options.duration_s ? "as many" : grouped(soak.options.coroutines, lives),
            soak.options.duration_s ? " as there is time for" : "", soak.options.concurrency,
            soak.options.cap, soak.options.nofile, (unsigned long long)soak.options.seed);
}

/* Not the one that made the table: the server takes a moment to notice that it has gone. */
static void count_connections(void)
{
    long *count = &soak.verdict.connections_start;

    *count = target_connections(&soak.target);
    for (unsigned i = 0; i < 20 && *count > 0; i++) {
        usleep(25000);
        *count = target_connections(&soak.target);
    }
}

static void prepare(void)
{
    char why[400] = "";

    target_find(&soak.target, &soak.options);
    if (!target_prepare(&soak.target, why, sizeof why))
        give_up("the server could not be used", why);
    if (!soak.target.is_private) {
        soak.relay = relay_start(&soak.target, why, sizeof why);
        if (!soak.relay) {
            target_clean(&soak.target);
            give_up("no relay", why);
        }
    }
    /* A life writes at most three rows, attempts that fail not counted. */
    ledger_make(soak.options.duration_s ? UINT64_C(1) << 25 : soak.options.coroutines * 4);
    lower_limit();
    watch_open();
    accidents_plan();
    announce();
    weir_log_set(log_line, NULL, WEIR_LOG_WARN);
    count_connections();
    fd_table_read(&soak.fds_start);
}

/* ---- after -------------------------------------------------------------------------- */

static void print_kinds(FILE *out)
{
    fputs("\nWhat lives did\n", out);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        char     a[28];
        uint64_t count = kind ? soak.tally.happened[kind] : soak.tally.well_ended;
        fprintf(out, "  %10s  %s\n", grouped(count, a), kind_words(kind));
    }
}

static void print_accidents(FILE *out)
{
    if (soak.accidents.count)
        fputs("\nAccidents\n", out);
    for (unsigned i = 0; i < soak.accidents.count; i++) {
        const struct accident *a = &soak.accidents.one[i];
        fprintf(out, "  %6.1f s  %s, for %.1f s; answers %.0f ms after it; %llu connects and %llu "
                "calls failed\n", a->at_s, accident_words(a->kind), a->until_s - a->at_s,
                (a->answered_s - a->until_s) * 1000, (unsigned long long)a->failed_connects,
                (unsigned long long)a->failed_calls);
    }
}

static void print_numbers(FILE *out)
{
    const struct tally *t = &soak.tally;
    char                a[28], b[28];

    fprintf(out, "\nNumbers\n  %s lives and %s queries in %.1f s: %.0f queries a second\n",
            grouped(t->lives, a), grouped(t->queries, b), soak.seconds,
            soak.seconds > 0 ? (double)t->queries / soak.seconds : 0);
    fprintf(out, "  a query took %.2f ms (median), %.1f ms (99 %%); a connection was waited for "
            "%.1f ms, %.1f ms\n", (double)spread_us(&t->query, 50) / 1000,
            (double)spread_us(&t->query, 99) / 1000, (double)spread_us(&t->wait, 50) / 1000,
            (double)spread_us(&t->wait, 99) / 1000);
    fprintf(out, "  the hub came round at most %.1f ms late\n", soak.watch.stall_max_ms);
    fprintf(out, "  connections: %llu opened; closed:",
            (unsigned long long)soak.pool_end.opened);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        if (soak.pool_end.closed[i])
            fprintf(out, " %s %llu", weir_close_reason_name(i),
                    (unsigned long long)soak.pool_end.closed[i]);
    fputs("\n  calls that failed by accident:", out);
    for (unsigned i = 1; i <= WEIR_FAILED; i++)
        if (t->unexpected[i])
            fprintf(out, " %s %llu", weir_status_name(i), (unsigned long long)t->unexpected[i]);
    fprintf(out, " (tried again %llu times)\n", (unsigned long long)t->retries);
}

void summary_print(FILE *out)
{
    const struct verdict *v = &soak.verdict;

    print_kinds(out);
    print_accidents(out);
    print_numbers(out);
    fputs("\nChecks\n", out);
    for (unsigned i = 0; i < v->count; i++)
        fprintf(out, "  %s  %s: %s\n", v->check[i].ok ? "ok  " : "FAIL", v->check[i].name,
                v->check[i].found);
    fprintf(out, "\n%s (seed %llu)\n", v->pass ? "PASS" : "FAIL",
            (unsigned long long)soak.options.seed);
}

static int write_reports(void)
{
    int failed = 0;

    if (soak.options.json && !report_json(soak.options.json)) {
        fprintf(stderr, "weir-soak: %s: %s\n", soak.options.json, strerror(errno));
        failed = 2;
    }
    if (soak.options.html && !report_html(soak.options.html)) {
        fprintf(stderr, "weir-soak: %s: %s\n", soak.options.html, strerror(errno));
        failed = 2;
    }
    return failed;
}

static int soak_main(void)
{
    weir_run_opts opts = { .cancel_on_signals = true };
    weir_status   status = weir_run_with(&opts, soak_app, NULL);

    if (status != WEIR_OK && !soak.trouble[0])
        snprintf(soak.trouble, sizeof soak.trouble, "the hub ended with %s",
                 weir_status_name(status));
    verify();
    summary_print(stdout);
    return soak.verdict.pass ? 0 : 1;
}

int main(int argc, char **argv)
{
    int status;
    int reports;

    setlocale(LC_CTYPE, "");
    options_read(&soak.options, argc, argv);
    if (mysql_library_init(0, NULL, NULL))
        give_up("libmariadb", "could not be set up");
    prepare();
    status = soak.options.naive ? naive_main() : soak.options.unbounded ? unbounded_main()
                                                                        : soak_main();
    reports = write_reports();
    relay_stop(soak.relay);
    target_clean(&soak.target);
    return reports ? reports : status;
}
