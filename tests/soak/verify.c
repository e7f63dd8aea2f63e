/*
 * verify.c - the verdict.
 *
 * Knows:   what must be true when everybody has gone, and how to look: the descriptor table,
 *          the servers' connections and rows, the pool's last numbers, the books.
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

enum { STARVING_MS = 1000 };

void check(bool ok, const struct database *db, const char *name, const char *fmt, ...)
{
    struct verdict *v = &soak.verdict;
    struct check   *c = &v->check[v->count];
    va_list         args;

    if (v->count == CHECKS_MAX)
        abort();
    v->count++;
    c->ok = ok;
    snprintf(c->name, sizeof c->name, "%s%s%s", db && soak.databases > 1 ? db->dialect->title : "",
             db && soak.databases > 1 ? ": " : "", name);
    va_start(args, fmt);
    vsnprintf(c->found, sizeof c->found, fmt, args);
    va_end(args);
    v->pass = v->pass && ok;
}

static void check_end(void)
{
    char a[28], b[28];
    bool enough = soak.options.duration_s || soak.lives >= soak.options.coroutines;

    check(enough && !soak.verdict.interrupted && !soak.trouble[0], NULL,
          "the soak ran to its end", "%s lives, %s queries answered%s%s%s",
          grouped(soak.lives, a), grouped(soak.queries, b),
          soak.verdict.interrupted ? "; it was interrupted" : "", soak.trouble[0] ? "; " : "",
          soak.trouble);
}

static void check_lives(struct database *db)
{
    const struct tally *t = &db->tally;
    char                a[28];

    check(t->well_failed == 0 && t->well_ended > 0, db, "every well-behaved life got its answers",
          "%s did, %llu gave up%s%s", grouped(t->well_ended, a),
          (unsigned long long)t->well_failed, t->first_failure[0] ? "; first: " : "",
          t->first_failure);
    check(t->wrong_answers == 0, db, "each answer belonged to its question", "%llu did not%s%s",
          (unsigned long long)t->wrong_answers, t->first_wrong[0] ? "; first: " : "",
          t->first_wrong);
}

/*
 * Where two pools share the descriptors, neither may live at the other's expense: with the queues
 * that crowd.c allows, nobody waits for a second. With one database the crowd is what somebody
 * asked for, and the wait follows from that; only that leases are given out is judged then.
 */
static void check_starving(struct database *db)
{
    const struct tally *t = &db->tally;

    bool served = t->calm_gap_max_us <= STARVING_MS * 1000;
    bool soon = soak.databases == 1 || t->calm_wait_max_us <= STARVING_MS * 1000;

    check(served && soon, db, "nobody starved", "with no accident of its own the longest wait was "
          "%.0f ms, behind %u others, until %.1f s%s; for %.0f ms nobody got a connection while "
          "somebody waited (at most %d); at least %u connections were open; time in which the "
          "kernel ran others is not counted", (double)t->calm_wait_max_us / 1000,
          t->calm_wait_behind, t->calm_wait_at_s, soak.databases > 1 ? " (at most 1000 ms)" : "",
          (double)t->calm_gap_max_us / 1000, STARVING_MS, t->calm_held_min);
}

/* ---- descriptors -------------------------------------------------------------------- */

static void check_emfile(void)
{
    const struct tally *t = tally_sum();
    weir_budget_stats   budget;
    uint64_t            parked = 0;

    weir_budget_read(&budget);
    EACH_DATABASE(db)
        parked += db->end.connect_parked;
    check(t->emfile_surfaced == 0, NULL, "no caller ever saw EMFILE",
          "%llu did; the kernel was out of descriptors %llu times, %llu connects waited for it%s%s",
          (unsigned long long)t->emfile_surfaced, (unsigned long long)budget.exhausted,
          (unsigned long long)parked, t->first_emfile[0] ? "; first: " : "", t->first_emfile);
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

bool check_fd_table(void)
{
    struct fd_table *a = &soak.fds_start, *b = &soak.fds_end;
    char             difference[140] = "";
    bool             same;

    fd_table_read(b);
    same = same_table(a, b, difference, sizeof difference);
    soak.verdict.fds_start = a->count;
    soak.verdict.fds_end = b->count;
    check(same, NULL, "the descriptor table is as it was", "%u open at the start, %u at the end, "
          "%u at most, %u allowed%s", a->count, b->count, soak.watch.fds_peak,
          soak.options.nofile, difference);
    return same;
}

/* ---- connections -------------------------------------------------------------------- */

static void check_leaks(struct database *db)
{
    uint64_t forgotten = db->tally.happened[FORGET];
    uint64_t closed = db->end.closed[WEIR_CLOSE_LEAKED];
    char     a[28], b[28];

    check(forgotten == closed && forgotten == db->end.forgotten, db,
          "every forgotten connection was closed", "%s forgotten, %s closed for it",
          grouped(forgotten, a), grouped(closed, b));
}

static void check_nobody_left(struct database *db)
{
    const weir_pool_stats *p = &db->end;
    weir_budget_stats      budget;
    uint64_t               closed = 0;
    unsigned left = p->reserved + p->connecting + p->idle + p->in_use + p->resetting + p->closing;

    weir_budget_read(&budget);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        closed += p->closed[i];
    check(!left && !p->waiting && !db->lives_left && db->pool_closed && !budget.used &&
              closed == p->opened, db,
          "no coroutine, lease or connection is left",
          "%u lives, %u leases, %u connections, %u waiters, %u descriptors in the budget; "
          "%llu connections opened, %llu closed", db->lives_left, p->in_use, left, p->waiting,
          budget.used, (unsigned long long)p->opened, (unsigned long long)closed);
}

static void check_server(struct database *db)
{
    int64_t         began = watch_clock_ns();
    struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
    bool            gone;

    do {
        db->connections_end = db->dialect->connections(db);
        db->connections_s = (double)(watch_clock_ns() - began) / 1e9;
        gone = db->connections_end >= 0 && db->connections_end <= db->connections_start;
        if (!gone)
            nanosleep(&pause, NULL);
    } while (!gone && db->connections_s < 5);
    check(gone, db, "the server's connections are gone",
          "%ld at the start, %ld at the end%s, after %.2f s", db->connections_start,
          db->connections_end, db->connections_end < 0 ? " (the server does not answer)" : "",
          db->connections_s);
}

/* ---- rows --------------------------------------------------------------------------- */

void verify_row(struct database *db, uint64_t id)
{
    struct ledger *l = &db->ledger;

    if (!ledger_is_known(l, id) || ledger_is_denied(l, id))
        db->uncommitted++;
    else if (!ledger_see(l, id))
        db->duplicated++;
    else if (ledger_is_acknowledged(l, id))
        db->rows_seen++;
    else
        db->unknown_present++;
}

void check_rows(struct database *db)
{
    char why[160] = "", a[28];

    db->rows_checked = db->dialect->rows(db, why, sizeof why);
    db->missing = db->ledger.acknowledged_count - db->rows_seen;
    check(db->rows_checked && !db->missing && !db->duplicated, db,
          "every acknowledged row is there, once", "%s acknowledged, %llu missing, %llu twice%s%s",
          grouped(db->ledger.acknowledged_count, a), (unsigned long long)db->missing,
          (unsigned long long)db->duplicated, why[0] ? "; " : "", why);
    check(db->rows_checked && !db->uncommitted, db, "nothing is there that was not committed",
          "%s rows were left in open transactions, refused or never sent, %llu of them are there; "
          "%llu of unknown outcome are", grouped(db->ledger.denied_count, a),
          (unsigned long long)db->uncommitted, (unsigned long long)db->unknown_present);
}

/* ---- the rest ----------------------------------------------------------------------- */

static void check_memory(void)
{
    const struct watch *w = &soak.watch;
    uint64_t            allowed = w->rss_mid_kb / 50 > 1024 ? w->rss_mid_kb / 50 : 1024;
    bool                measured = w->rss_mid_kb && w->rss_end_kb;

    check(measured && (FREED_MEMORY_IS_KEPT || w->rss_end_kb <= w->rss_mid_kb + allowed),
          NULL, "memory stayed level in the second half",
          "%.1f MiB around the middle, %.1f MiB at the end%s",
          (double)w->rss_mid_kb / 1024, (double)w->rss_end_kb / 1024,
          !measured              ? " (it did not come to a measurement)"
          : FREED_MEMORY_IS_KEPT ? " (not judged: the address sanitizer keeps freed memory)"
                                 : "");
}

/* At least 0.5 % of all lives, or half of what the mix asked for where that is less. */
static uint64_t at_least(const struct tally *t, enum kind kind)
{
    uint64_t half_per_cent = t->lives / 200;
    uint64_t half = t->planned[kind] / 2;

    return half < half_per_cent ? half : half_per_cent;
}

static void check_kinds(struct database *db)
{
    const struct tally *t = &db->tally;
    unsigned            rarest = 0;
    bool                enough = true;
    uint64_t            all = 0;
    char                a[28];

    for (unsigned kind = 1; kind < KINDS; kind++) {
        all += t->happened[kind];
        if (db->share[kind] && (!rarest || t->happened[kind] < t->happened[rarest]))
            rarest = kind;
        enough = enough && t->happened[kind] >= at_least(t, (enum kind)kind);
    }
    if (!rarest)
        return; /* everybody was to behave */
    check(enough, db, "each misbehaviour really happened",
          "%s lives misbehaved; the rarest kind, %s, "
          "%llu times of %llu (%.2f %% of all lives)", grouped(all, a), kind_name(rarest),
          (unsigned long long)t->happened[rarest], (unsigned long long)t->planned[rarest],
          t->lives ? 100.0 * (double)t->happened[rarest] / (double)t->lives : 0.0);
}

static void check_accidents(void)
{
    const struct accidents *a = &soak.accidents;

    check(a->count == a->planned && !a->trouble[0], NULL,
          "the accidents happened, and life went on",
          "%u of %u%s%s", a->count, a->planned, a->trouble[0] ? "; " : "", a->trouble);
}

static void verify_database(struct database *db)
{
    check_leaks(db);
    check_nobody_left(db);
    check_server(db);
    check_rows(db);
    check_lives(db);
    check_kinds(db);
    check_starving(db);
}

void verify(void)
{
    soak.verdict.pass = true;
    check_emfile();
    (void)check_fd_table();
    check_memory();
    check_end();
    check_accidents();
    EACH_DATABASE(db)
        verify_database(db);
}
