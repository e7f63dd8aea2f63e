/*
 * verify.c - the verdict.
 *
 * Knows:   what must be true when everybody has gone, and how to look: the descriptor table,
 *          the server's process list, the table, the pool's last numbers, the books.
 * Ignores: how it came to be.
 *
 * It runs after the hub has ended, with plain blocking calls. A check that could not be made
 * is a failed one.
 */
#include "soak.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__)
#define FREED_MEMORY_IS_KEPT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FREED_MEMORY_IS_KEPT 1
#endif
#endif
#ifndef FREED_MEMORY_IS_KEPT
#define FREED_MEMORY_IS_KEPT 0
#endif

static void check(bool ok, const char *name, const char *fmt, ...) WEIR_PRINTF(3, 4);
static void check(bool ok, const char *name, const char *fmt, ...)
{
    struct verdict *v = &soak.verdict;
    struct check   *c = &v->check[v->count];
    va_list         args;

    if (v->count == CHECKS_MAX)
        abort();
    v->count++;
    c->ok = ok;
    c->name = name;
    va_start(args, fmt);
    vsnprintf(c->found, sizeof c->found, fmt, args);
    va_end(args);
    v->pass = v->pass && ok;
}

static void check_lives(void)
{
    const struct tally *t = &soak.tally;
    char                a[28], b[28];
    bool                enough = soak.options.duration_s || t->lives >= soak.options.coroutines;

    check(enough && !soak.verdict.interrupted && !soak.trouble[0], "the soak ran to its end",
          "%s lives, %s queries answered%s%s%s", grouped(t->lives, a), grouped(t->queries, b),
          soak.verdict.interrupted ? "; it was interrupted" : "", soak.trouble[0] ? "; " : "",
          soak.trouble);
    check(t->well_failed == 0 && t->well_ended > 0, "every well-behaved life got its answers",
          "%s did, %llu gave up%s%s", grouped(t->well_ended, a),
          (unsigned long long)t->well_failed, t->first_failure[0] ? "; first: " : "",
          t->first_failure);
    check(t->wrong_answers == 0, "each answer belonged to its question", "%llu did not%s%s",
          (unsigned long long)t->wrong_answers, t->first_wrong[0] ? "; first: " : "",
          t->first_wrong);
}

/* ---- descriptors -------------------------------------------------------------------- */

static void check_emfile(void)
{
    weir_budget_stats budget;

    weir_budget_read(&budget);
    check(soak.tally.emfile_surfaced == 0, "no caller ever saw EMFILE",
          "%llu did; the kernel was out of descriptors %llu times, %llu connects waited for it%s%s",
          (unsigned long long)soak.tally.emfile_surfaced, (unsigned long long)budget.exhausted,
          (unsigned long long)soak.pool_end.connect_parked,
          soak.tally.first_emfile[0] ? "; first: " : "", soak.tally.first_emfile);
}

static bool same_entry(const struct fd_table *a, const struct fd_table *b, unsigned i)
{
    return i < a->kept && i < b->kept && a->entry[i].fd == b->entry[i].fd &&
           !strcmp(a->entry[i].what, b->entry[i].what);
}

/* The first place where they differ, in words. Both are in order of their numbers. */
static bool same_table(const struct fd_table *a, const struct fd_table *b, char *buf, size_t size)
{
    unsigned i = 0;

    while (same_entry(a, b, i))
        i++;
    if (i == a->kept && i == b->kept)
        return a->count == b->count;
    if (i == b->kept || (i < a->kept && a->entry[i].fd < b->entry[i].fd))
        snprintf(buf, size, "; %d, %.60s, was closed", a->entry[i].fd, a->entry[i].what);
    else if (i == a->kept || b->entry[i].fd < a->entry[i].fd)
        snprintf(buf, size, "; %d, %.60s, is new", b->entry[i].fd, b->entry[i].what);
    else
        snprintf(buf, size, "; %d is %.50s, was %.50s", b->entry[i].fd, b->entry[i].what,
                 a->entry[i].what);
    return false;
}

static void check_table(void)
{
    struct fd_table *a = &soak.fds_start, *b = &soak.fds_end;
    char             difference[140] = "";
    bool             same;

    fd_table_read(b);
    same = same_table(a, b, difference, sizeof difference);
    soak.verdict.fds_start = a->count;
    soak.verdict.fds_end = b->count;
    check(same, "the descriptor table is as it was", "%u open at the start, %u at the end, "
          "%u at most, %u allowed%s", a->count, b->count, soak.watch.fds_peak,
          soak.options.nofile, difference);
}

/* ---- connections -------------------------------------------------------------------- */

static void check_leaks(void)
{
    const weir_pool_stats *p = &soak.pool_end;
    uint64_t               forgotten = soak.tally.happened[FORGET];
    uint64_t               closed = p->closed[WEIR_CLOSE_LEAKED];
    char                   a[28], b[28];

    check(forgotten == closed && forgotten == p->forgotten,
          "every forgotten connection was closed", "%s forgotten, %s closed for it",
          grouped(forgotten, a), grouped(closed, b));
}

static void check_nobody_left(void)
{
    const weir_pool_stats *p = &soak.pool_end;
    weir_budget_stats      budget;
    uint64_t               closed = 0;
    unsigned left = p->reserved + p->connecting + p->idle + p->in_use + p->resetting + p->closing;

    weir_budget_read(&budget);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        closed += p->closed[i];
    check(!left && !p->waiting && !soak.lives_left && soak.pool_closed && !budget.used &&
              closed == p->opened,
          "no coroutine, lease or connection is left",
          "%u lives, %u leases, %u connections, %u waiters, %u descriptors in the budget; "
          "%llu connections opened, %llu closed", soak.lives_left, p->in_use, left, p->waiting,
          budget.used, (unsigned long long)p->opened, (unsigned long long)closed);
}

static void check_server(void)
{
    struct verdict *v = &soak.verdict;
    int64_t         began = watch_clock_ns();
    struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };

    do {
        v->connections_end = target_connections(&soak.target);
        v->connections_s = (double)(watch_clock_ns() - began) / 1e9;
        if (v->connections_end >= 0 && v->connections_end <= v->connections_start)
            break;
        nanosleep(&pause, NULL);
    } while (v->connections_s < 5);
    check(v->connections_end >= 0 && v->connections_end <= v->connections_start,
          "the server's connections are gone", "%ld at the start, %ld at the end%s, after %.2f s",
          v->connections_start, v->connections_end,
          v->connections_end < 0 ? " (the server does not answer)" : "", v->connections_s);
}

/* ---- rows --------------------------------------------------------------------------- */

static void count_row(uint64_t id, uint64_t times, uint64_t *seen)
{
    struct verdict *v = &soak.verdict;

    v->duplicated += times > 1;
    if (ledger_is_acknowledged(id))
        ++*seen;
    else if (ledger_is_denied(id) || id > ledger_last_id())
        v->uncommitted++;
    else
        v->unknown_present++;
}

static bool read_rows(MYSQL *my, uint64_t *seen)
{
    char       sql[160];
    MYSQL_RES *res;
    bool       whole;

    snprintf(sql, sizeof sql, "SELECT id, COUNT(*) FROM %s WHERE id > %u GROUP BY id ORDER BY id",
             soak.target.table, FIRST_ROWS);
    res = mysql_query(my, sql) ? NULL : mysql_use_result(my);
    if (!res)
        return false;
    for (MYSQL_ROW row = mysql_fetch_row(res); row; row = mysql_fetch_row(res))
        count_row(strtoull(row[0], NULL, 10), strtoull(row[1], NULL, 10), seen);
    whole = mysql_errno(my) == 0;
    mysql_free_result(res);
    return whole;
}

static void check_rows(void)
{
    struct verdict *v = &soak.verdict;
    char            why[160] = "", a[28];
    uint64_t        seen = 0;
    MYSQL          *my = target_connect(&soak.target, why, sizeof why);

    if (my) {
        v->rows_checked = read_rows(my, &seen);
        if (!v->rows_checked)
            snprintf(why, sizeof why, "%s", mysql_error(my));
        mysql_close(my);
    }
    v->missing = ledger_acknowledged_count() - seen;
    check(v->rows_checked && !v->missing && !v->duplicated,
          "every acknowledged row is there, once", "%s acknowledged, %llu missing, %llu twice%s%s",
          grouped(ledger_acknowledged_count(), a), (unsigned long long)v->missing,
          (unsigned long long)v->duplicated, why[0] ? "; " : "", why);
    check(v->rows_checked && !v->uncommitted, "nothing is there that was not committed",
          "%s rows were left in open transactions, refused or never sent, %llu of them are there; "
          "%llu of unknown outcome are", grouped(ledger_denied_count(), a),
          (unsigned long long)v->uncommitted, (unsigned long long)v->unknown_present);
}

/* ---- the rest ----------------------------------------------------------------------- */

static void check_memory(void)
{
    const struct watch *w = &soak.watch;
    uint64_t            allowed = w->rss_mid_kb / 50 > 1024 ? w->rss_mid_kb / 50 : 1024;
    bool                measured = w->rss_mid_kb && w->rss_end_kb;

    check(measured && (FREED_MEMORY_IS_KEPT || w->rss_end_kb <= w->rss_mid_kb + allowed),
          "memory stayed level in the second half", "%.1f MiB around the middle, %.1f MiB at the "
          "end%s", (double)w->rss_mid_kb / 1024, (double)w->rss_end_kb / 1024,
          !measured              ? " (it did not come to a measurement)"
          : FREED_MEMORY_IS_KEPT ? " (not judged: the address sanitizer keeps freed memory)"
                                 : "");
}

/* At least 0.5 % of all lives, or half of what the mix asked for where that is less. */
static uint64_t at_least(enum kind kind)
{
    uint64_t half_per_cent = soak.tally.lives / 200;
    uint64_t half = soak.tally.planned[kind] / 2;

    return half < half_per_cent ? half : half_per_cent;
}

static void check_kinds(void)
{
    const struct tally *t = &soak.tally;
    unsigned            rarest = 1;
    bool                enough = true;
    uint64_t            all = 0;
    char                a[28];

    for (unsigned kind = 1; kind < KINDS; kind++) {
        all += t->happened[kind];
        if (t->happened[kind] < t->happened[rarest])
            rarest = kind;
        enough = enough && t->happened[kind] >= at_least(kind);
    }
    check(enough, "each misbehaviour really happened", "%s lives misbehaved; the rarest kind, %s, "
          "%llu times of %llu (%.2f %% of all lives)", grouped(all, a), kind_name(rarest),
          (unsigned long long)t->happened[rarest], (unsigned long long)t->planned[rarest],
          t->lives ? 100.0 * (double)t->happened[rarest] / (double)t->lives : 0.0);
}

static void check_accidents(void)
{
    const struct accidents *a = &soak.accidents;

    check(a->count == a->planned && !a->trouble[0], "the accidents happened, and life went on",
          "%u of %u%s%s", a->count, a->planned, a->trouble[0] ? "; " : "", a->trouble);
}

void verify(void)
{
    soak.verdict.pass = true;
    check_emfile();
    check_table();
    check_leaks();
    check_nobody_left();
    check_server();
    check_rows();
    check_memory();
    check_lives();
    check_kinds();
    check_accidents();
}
