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
    unsigned        count = soak.options.concurrency * 9 / 8 +
                     soak.options.cap * 2 * soak.databases + 16;
    weir_group_opts all_at_once = { .keep = WEIR_KEEP_COUNTS };
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(&all_at_once, &group, NULL) != WEIR_OK)
        return;
    for (unsigned i = 0; i < count; i++)
        (void)weir_spawn(group, use_stack, NULL);
    (void)weir_group_wait(group, WEIR_FOREVER);
}

static bool wants_another(void)
{
    if (soak.options.duration_s)
        return watch_done_part() < 1;
    return soak.started < soak.options.coroutines || !accidents_are_over();
}

/*
 * A coroutine for each database. Who is faster lives more of the lives: so all are at their
 * limits until the end.
 */
static weir_status start_lives(void *arg)
{
    struct database *db = arg;
    uint8_t          plan[PLAN_BLOCK];

    for (uint64_t number = 0; wants_another(); number++) {
        if (number % PLAN_BLOCK == 0)
            life_plan_block(db, number, plan);
        accidents_gate();
        if (!crowd_wait(db))
            return WEIR_FAILED;
        enum kind kind = (enum kind)plan[number % PLAN_BLOCK];
        soak.started++; /* now, since spawning may wait while the others count on */
        if (!weir_spawn(db->lives, life_run, life_pack(db, number, kind))) {
            if (weir_check() == WEIR_OK)
                snprintf(soak.trouble, sizeof soak.trouble, "life %llu could not be started",
                         (unsigned long long)number);
            return WEIR_FAILED;
        }
        db->tally.started++;
        db->tally.planned[kind]++;
    }
    return WEIR_OK;
}

static weir_status live_on(struct database *db)
{
    weir_group_opts crowd = { .name = "lives",
                              .max_running = db->concurrency,
                              .keep = WEIR_KEEP_COUNTS };

    return weir_group_new(&crowd, &db->lives, NULL);
}

static void end_lives(weir_group *starters)
{
    /* Failures of lives are in the books; here only an interrupt is news. */
    (void)weir_group_wait(starters, WEIR_FOREVER);
    EACH_DATABASE(db)
        (void)weir_group_wait(db->lives, WEIR_FOREVER);
    if (weir_check() == WEIR_CANCELED) {
        soak.verdict.interrupted = true;
        weir_group_cancel(starters);
        EACH_DATABASE(db)
            weir_group_cancel(db->lives);
    }
    WEIR_SHIELD(weir_in_ms(60000));
    (void)weir_group_wait(starters, WEIR_SCOPE);
    EACH_DATABASE(db) {
        (void)weir_group_wait(db->lives, WEIR_SCOPE);
        db->lives_left = weir_group_running(db->lives);
    }
}

static void close_pool(struct database *db)
{
    WEIR_SHIELD(weir_in_ms(20000));
    db->pool_closed = weir_pool_close(db->pool, WEIR_SCOPE) == WEIR_OK;
    weir_pool_stats_read(db->pool, &db->end);
}

static weir_status no_go(const weir_error *err)
{
    snprintf(soak.trouble, sizeof soak.trouble, "%s: %s", weir_status_name(err->status),
             err->message);
    return err->status;
}

static weir_status live(void)
{
    weir_error err = { 0 };
    weir_autoptr(weir_group) house = NULL;
    weir_autoptr(weir_group) starters = NULL;

    if (weir_group_new(NULL, &house, &err) || weir_group_new(NULL, &starters, &err))
        return no_go(&err);
    weir_task *accidents = weir_spawn(house, accidents_run, NULL);
    weir_task *progress = weir_spawn(house, progress_run, NULL);
    if (!accidents || !progress) {
        weir_error_set(&err, WEIR_NOMEM, "no memory for two coroutines");
        return no_go(&err);
    }

    warm_stacks();
    watch_start();
    EACH_DATABASE(db)
        (void)weir_spawn(starters, start_lives, db);
    end_lives(starters);
    soak.seconds = watch_seconds();
    if (soak.verdict.interrupted)
        weir_cancel(accidents);
    {
        WEIR_SHIELD(weir_in_ms(180000)); /* one that has begun is undone */
        (void)weir_join(accidents, WEIR_SCOPE, NULL);
    }
    EACH_DATABASE(db)
        close_pool(db);
    watch_stop();
    return WEIR_OK;
}

static weir_status open_pools(weir_error *err)
{
    weir_status status = WEIR_OK;

    for (unsigned i = 0; i < soak.databases && status == WEIR_OK; i++) {
        struct database *db = &soak.database[i];
        weir_pool_opts   opts = {
            .name = db->dialect->name,
            .max_size = soak.options.cap,
            .idle_timeout_ms = soak.options.idle_timeout_ms,
            /* Shorter than the stall, so that it is felt. */
            .query_timeout_ms = 1500,
            .connect_timeout_ms = 2000,
            .reset_timeout_ms = 1500,
        };
        status = db->dialect->pool(db, &opts, err);
        if (status == WEIR_OK && live_on(db) != WEIR_OK)
            status = weir_error_set(err, WEIR_NOMEM, "no memory for a group");
    }
    return status;
}

static weir_status soak_app(void *unused)
{
    weir_error  err = { 0 };
    weir_status status = open_pools(&err);

    (void)unused;
    status = status == WEIR_OK ? live() : no_go(&err);
    EACH_DATABASE(db) {
        weir_group_free(db->lives);
        weir_pool_free(db->pool);
        db->pool = NULL;
        db->lives = NULL;
    }
    return status;
}

/* ---- before ------------------------------------------------------------------------- */

static void give_up(const char *what, const char *why) __attribute__((noreturn));
static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "weir-soak: %s: %s\n", what, why);
    EACH_DATABASE(db) {
        relay_stop(db->relay);
        if (db->target.version[0])
            db->dialect->clean(db);
    }
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

    if (soak.options.progress == PROGRESS_NONE)
        return;
    EACH_DATABASE(db) {
        target_words(db, server, sizeof server);
        fprintf(stderr, "weir-soak: %s: %s%s\n", db->dialect->title, server,
                db->share[OPEN_TRANSACTION] || !soak.options.misbehave
                    ? "" : " (it has no transactions: none is left open)");
    }
    if (soak.options.fetch)
        return; /* it has numbers of its own */
    fprintf(stderr, "weir-soak: %s lives%s, %u at a time, %u connections%s at most, %u descriptors "
            "at most, seed %llu\n",
            soak.options.duration_s ? "as many" : grouped(soak.options.coroutines, lives),
            soak.options.duration_s ? " as there is time for" : "", soak.options.concurrency,
            soak.options.cap, soak.databases > 1 ? " to each" : "", soak.options.nofile,
            (unsigned long long)soak.options.seed);
}

/* Not the one that made the table: the server takes a moment to notice that it has gone. */
static void count_connections(struct database *db)
{
    long *count = &db->connections_start;

    *count = db->dialect->connections(db);
    for (unsigned i = 0; i < 20 && *count > 0; i++) {
        usleep(25000);
        *count = db->dialect->connections(db);
    }
}

/* Which lives it gets. After preparing: not every server has everything. */
static void share_out(struct database *db)
{
    const struct options *o = &soak.options;
    bool                  knows[KINDS] = { false };
    unsigned              kinds = 0, so_far = 0, behave = PLAN_BLOCK;

    for (unsigned kind = 1; kind < KINDS; kind++) {
        knows[kind] = db->dialect->knows[kind] && (kind != OPEN_TRANSACTION || db->transactions);
        kinds += knows[kind];
    }
    for (unsigned kind = 1; kind < KINDS; kind++) {
        if (!knows[kind])
            continue;
        db->share[kind] = o->share[kind];
        db->share[kind] += o->misbehave / kinds + (so_far++ < o->misbehave % kinds);
        behave -= db->share[kind];
    }
    db->share[WELL_BEHAVED] = behave;
}

static void settle_in(struct database *db)
{
    char why[400] = "";

    db->dialect->library();
    db->dialect->find(db);
    target_name_table(&db->target);
    if (!db->dialect->prepare(db, why, sizeof why))
        give_up("the server could not be used", why);
    if (!db->target.is_private || db->dialect->by_relay || soak.options.fetch) {
        db->relay = relay_start(&db->target, why, sizeof why);
        if (!db->relay)
            give_up("no relay", why);
    }
    share_out(db);
    /* A life writes at most three rows, attempts that fail not counted. */
    ledger_make(&db->ledger,
                soak.options.duration_s ? UINT64_C(1) << 25 : soak.options.coroutines * 4);
}

static void prepare(void)
{
    weir_log_set(log_line, NULL, WEIR_LOG_WARN);
    for (unsigned place = 0; dialects[place]; place++)
        if (soak.options.wanted[place])
            soak.database[soak.databases++] = (struct database){ .dialect = dialects[place],
                                                                 .place = place };
    EACH_DATABASE(db)
        settle_in(db);
    crowd_share();
    lower_limit();
    watch_open();
    accidents_plan();
    announce();
    EACH_DATABASE(db)
        count_connections(db);
    fd_table_read(&soak.fds_start);
}

/* ---- after -------------------------------------------------------------------------- */

static void print_kinds(FILE *out)
{
    fputs("\nWhat lives did\n  ", out);
    EACH_DATABASE(db)
        fprintf(out, "%10s  ", db->dialect->title);
    fputc('\n', out);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        uint64_t all = 0;
        EACH_DATABASE(db)
            all += db->share[kind];
        if (!all)
            continue;
        fputs("  ", out);
        EACH_DATABASE(db) {
            char     a[28];
            uint64_t count = kind ? db->tally.happened[kind] : db->tally.well_ended;
            fprintf(out, "%10s  ", db->share[kind] ? grouped(count, a) : "-");
        }
        fprintf(out, "%s\n", kind_words(kind));
    }
}

static void print_accidents(FILE *out)
{
    if (soak.accidents.count)
        fputs("\nAccidents\n", out);
    for (unsigned i = 0; i < soak.accidents.count; i++) {
        const struct accident *a = &soak.accidents.one[i];
        fprintf(out, "  %6.1f s  %s, for %.1f s; answers %.0f ms after it; %llu connects and %llu "
                "calls failed\n", a->at_s, accident_words(a), a->until_s - a->at_s,
                (a->answered_s - a->until_s) * 1000, (unsigned long long)a->failed_connects,
                (unsigned long long)a->failed_calls);
    }
}

static void print_numbers_of(FILE *out, const struct database *db)
{
    const struct tally *t = &db->tally;
    char                a[28], b[28];

    fprintf(out, "  %s: %s lives and %s queries: %.0f queries a second\n", db->dialect->title,
            grouped(t->lives, a), grouped(t->queries, b),
            soak.seconds > 0 ? (double)t->queries / soak.seconds : 0);
    fprintf(out, "    a query took %.2f ms (median), %.1f ms (99 %%); a connection was waited for "
            "%.1f ms, %.1f ms\n", (double)spread_us(&t->query, 50) / 1000,
            (double)spread_us(&t->query, 99) / 1000, (double)spread_us(&t->wait, 50) / 1000,
            (double)spread_us(&t->wait, 99) / 1000);
    fprintf(out, "    connections: %llu opened; closed:", (unsigned long long)db->end.opened);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        if (db->end.closed[i])
            fprintf(out, " %s %llu", weir_close_reason_name(i),
                    (unsigned long long)db->end.closed[i]);
    fputs("\n    calls that failed by accident:", out);
    for (unsigned i = 1; i <= WEIR_FAILED; i++)
        if (t->unexpected[i])
            fprintf(out, " %s %llu", weir_status_name(i),
                    (unsigned long long)t->unexpected[i]);
    fprintf(out, " (tried again %llu times)\n", (unsigned long long)t->retries);
}

static void print_numbers(FILE *out)
{
    weir_budget_stats budget;

    weir_budget_read(&budget);
    fprintf(out, "\nNumbers\n  %.1f s; the hub came round at most %.1f ms late\n", soak.seconds,
            soak.watch.stall_max_ms);
    fprintf(out, "  %u descriptors to share, %u of them taken at most, %llu requests waited, %llu "
            "idle connections made room\n", budget.limit, budget.peak,
            (unsigned long long)budget.waited, (unsigned long long)budget.evictions);
    EACH_DATABASE(db)
        print_numbers_of(out, db);
}

void summary_checks(FILE *out)
{
    const struct verdict *v = &soak.verdict;

    fputs("\nChecks\n", out);
    for (unsigned i = 0; i < v->count; i++)
        fprintf(out, "  %s  %s: %s\n", v->check[i].ok ? "ok  " : "FAIL", v->check[i].name,
                v->check[i].found);
}

void summary_print(FILE *out)
{
    print_kinds(out);
    print_accidents(out);
    print_numbers(out);
    summary_checks(out);
    fprintf(out, "\n%s (seed %llu)\n", soak.verdict.pass ? "PASS" : "FAIL",
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

static int run(void)
{
    if (soak.options.fetch)
        return fetch_main();
    if (soak.options.naive)
        return naive_main();
    return soak.options.unbounded ? unbounded_main() : soak_main();
}

int main(int argc, char **argv)
{
    int status;
    int reports;

    setlocale(LC_CTYPE, "");
    options_read(&soak.options, argc, argv);
    prepare();
    status = run();
    reports = write_reports();
    EACH_DATABASE(db) {
        relay_stop(db->relay);
        db->dialect->clean(db);
    }
    return reports ? reports : status;
}
