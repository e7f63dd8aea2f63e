/*
 * report_json.c - all numbers, for programs.
 *
 * Knows:   JSON. Outside of "databases" a number is the sum of theirs (or the time of the slowest,
 *          or the most), and what has no sum, such as the server's version, is the first one's.
 * Ignores: what is worth reading to a person.
 */
#include "soak.h"

#include <string.h>

static void text(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

static void number(FILE *f, const char *name, uint64_t value)
{
    fprintf(f, "  \"%s\": %llu,\n", name, (unsigned long long)value);
}

static void decimal(FILE *f, const char *name, double value)
{
    fprintf(f, "  \"%s\": %.3f,\n", name, value);
}

static void statuses(FILE *f, const char *name, const uint64_t *count)
{
    const char *comma = "";

    fprintf(f, "  \"%s\": {", name);
    for (unsigned i = 1; i <= WEIR_FAILED; i++) {
        fprintf(f, "%s\"%s\": %llu", comma, weir_status_name(i), (unsigned long long)count[i]);
        comma = ", ";
    }
    fputs("},\n", f);
}

static void kinds(FILE *f, const char *name, const uint64_t *count)
{
    fprintf(f, "  \"%s\": {", name);
    for (unsigned kind = 1; kind < KINDS; kind++)
        fprintf(f, "%s\"%s\": %llu", kind > 1 ? ", " : "", kind_name(kind),
                (unsigned long long)count[kind]);
    fputs("},\n", f);
}

/* Of one database, or of all. */
static void closings(FILE *f, const struct database *only)
{
    fputs("  \"closed_by_reason\": {", f);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++) {
        uint64_t count = 0;
        EACH_DATABASE(db)
            count += !only || db == only ? db->end.closed[i] : 0;
        fprintf(f, "%s\"%s\": %llu", i ? ", " : "", weir_close_reason_name(i),
                (unsigned long long)count);
    }
    fputs("},\n", f);
}

static void accidents(FILE *f)
{
    fputs("  \"accidents\": [", f);
    for (unsigned i = 0; i < soak.accidents.count; i++) {
        const struct accident *a = &soak.accidents.one[i];
        fprintf(f, "%s\n    {\"kind\": \"%s\", \"database\": \"%s\", \"at_s\": %.3f, "
                "\"until_s\": %.3f, \"answered_s\": %.3f, \"failed_connects\": %llu, "
                "\"failed_calls\": %llu}", i ? "," : "", accident_name(a),
                a->db ? a->db->dialect->name : "", a->at_s, a->until_s, a->answered_s,
                (unsigned long long)a->failed_connects, (unsigned long long)a->failed_calls);
    }
    fputs(soak.accidents.count ? "\n  ],\n" : "],\n", f);
}

static void checks(FILE *f)
{
    const struct verdict *v = &soak.verdict;

    fputs("  \"checks\": [", f);
    for (unsigned i = 0; i < v->count; i++) {
        fprintf(f, "%s\n    {\"ok\": %s, \"name\": ", i ? "," : "",
                v->check[i].ok ? "true" : "false");
        text(f, v->check[i].name);
        fputs(", \"found\": ", f);
        text(f, v->check[i].found);
        fputc('}', f);
    }
    fputs(v->count ? "\n  ],\n" : "],\n", f);
}

static void asked_for(FILE *f)
{
    const struct options *o = &soak.options;

    fprintf(f, "  \"mode\": \"%s\",\n  \"version\": \"" WEIR_VERSION "\",\n", soak.mode);
    fputs("  \"server\": ", f);
    text(f, soak.database[0].target.version);
    fprintf(f, ",\n  \"private_server\": %s,\n  \"tls\": %s,\n",
            soak.database[0].target.is_private ? "true" : "false",
            soak.database[0].target.tls > TLS_OFF ? "true" : "false");
    number(f, "seed", o->seed);
    number(f, "nofile", o->nofile);
    number(f, "cap", o->cap);
    number(f, "concurrency", o->concurrency);
    number(f, "coroutines", o->coroutines);
    number(f, "idle_timeout_ms", (uint64_t)o->idle_timeout_ms);
}

static void what_lives_did(FILE *f, const struct tally *t)
{
    number(f, "lives", t->lives);
    number(f, "well_ended", t->well_ended);
    number(f, "well_failed", t->well_failed);
    kinds(f, "misbehaved", t->happened);
    kinds(f, "planned", t->planned);
    number(f, "queries", t->queries);
    number(f, "retries", t->retries);
    number(f, "wrong_answers", t->wrong_answers);
    number(f, "nested_served", t->nested_served);
    statuses(f, "failures", t->failures);
    statuses(f, "failures_by_accident", t->unexpected);
}

/* A sum over the databases of something that a database has. */
#define SUM_OF(what) \
    __extension__({ \
        uint64_t sum_ = 0; \
        EACH_DATABASE(db_) \
            sum_ += (uint64_t)db_->what; \
        sum_; \
    })

static void what_was_used(FILE *f)
{
    const struct watch   *w = &soak.watch;
    const struct verdict *v = &soak.verdict;
    weir_budget_stats     budget;

    weir_budget_read(&budget);
    number(f, "emfile_surfaced", tally_sum()->emfile_surfaced);
    number(f, "emfile_kernel", budget.exhausted);
    number(f, "connects_parked", SUM_OF(end.connect_parked));
    number(f, "fds_start", soak.fds_start.count);
    number(f, "fds_base", w->fds_base);
    number(f, "fds_end", v->fds_end);
    number(f, "fds_peak", w->fds_peak);
    number(f, "budget_limit", budget.limit);
    number(f, "budget_peak", budget.peak);
    number(f, "budget_waited", budget.waited);
    number(f, "budget_evictions", budget.evictions);
    number(f, "rss_mid_kb", w->rss_mid_kb);
    number(f, "rss_end_kb", w->rss_end_kb);
    decimal(f, "hub_stall_max_ms", w->stall_max_ms);
    decimal(f, "hub_stall_max_at_s", w->stall_at_s);
    number(f, "opened", SUM_OF(end.opened));
    number(f, "connect_failures", SUM_OF(end.connect_failures));
    number(f, "resets", SUM_OF(end.resets));
    number(f, "forgotten", SUM_OF(end.forgotten));
    closings(f, NULL);
}

static void connections(FILE *f, long start, long end, double seconds)
{
    fprintf(f, "  \"server_connections_start\": %ld,\n  \"server_connections_end\": %ld,\n",
            start, end);
    decimal(f, "server_connections_gone_s", seconds);
}

static void what_remains(FILE *f)
{
    bool   checked = true;
    double slowest = 0;

    EACH_DATABASE(db) {
        checked = checked && db->rows_checked;
        slowest = db->connections_s > slowest ? db->connections_s : slowest;
    }
    connections(f, (long)SUM_OF(connections_start), (long)SUM_OF(connections_end), slowest);
    number(f, "acknowledged", SUM_OF(ledger.acknowledged_count));
    number(f, "acknowledged_missing", SUM_OF(missing));
    number(f, "duplicated", SUM_OF(duplicated));
    number(f, "denied", SUM_OF(ledger.denied_count));
    number(f, "uncommitted_present", SUM_OF(uncommitted));
    number(f, "unknown_present", SUM_OF(unknown_present));
    fprintf(f, "  \"rows_checked\": %s,\n", checked ? "true" : "false");
}

static void times(FILE *f, const struct tally *t)
{
    decimal(f, "duration_s", soak.seconds);
    decimal(f, "queries_per_s", soak.seconds > 0 ? (double)t->queries / soak.seconds : 0);
    number(f, "wait_p50_us", spread_us(&t->wait, 50));
    number(f, "wait_p99_us", spread_us(&t->wait, 99));
    number(f, "wait_max_us", t->wait.max_us);
    number(f, "query_p50_us", spread_us(&t->query, 50));
    number(f, "query_p99_us", spread_us(&t->query, 99));
    number(f, "query_max_us", t->query.max_us);
}

static unsigned most_held(const struct database *db)
{
    unsigned most = 0;

    for (unsigned i = 0; i < soak.watch.count; i++)
        if (soak.watch.sample[i].held[db - soak.database] > most)
            most = soak.watch.sample[i].held[db - soak.database];
    return most;
}

static void database(FILE *f, const struct database *db)
{
    fprintf(f, "  \"%s\": {\n  \"server\": ", db->dialect->name);
    text(f, db->target.version);
    fprintf(f, ",\n  \"private_server\": %s,\n  \"tls\": %s,\n",
            db->target.is_private ? "true" : "false", db->target.tls > TLS_OFF ? "true" : "false");
    number(f, "concurrency", db->concurrency);
    times(f, &db->tally);
    what_lives_did(f, &db->tally);
    number(f, "emfile_surfaced", db->tally.emfile_surfaced);
    number(f, "calm_wait_max_us", db->tally.calm_wait_max_us);
    number(f, "calm_wait_behind", db->tally.calm_wait_behind);
    number(f, "calm_gap_max_us", db->tally.calm_gap_max_us);
    number(f, "calm_connections_min", db->tally.calm_held_min);
    number(f, "connections_peak", most_held(db));
    number(f, "connects_parked", db->end.connect_parked);
    number(f, "opened", db->end.opened);
    number(f, "connect_failures", db->end.connect_failures);
    number(f, "resets", db->end.resets);
    number(f, "forgotten", db->end.forgotten);
    closings(f, db);
    connections(f, db->connections_start, db->connections_end, db->connections_s);
    number(f, "acknowledged", db->ledger.acknowledged_count);
    number(f, "acknowledged_missing", db->missing);
    number(f, "duplicated", db->duplicated);
    number(f, "denied", db->ledger.denied_count);
    number(f, "uncommitted_present", db->uncommitted);
    number(f, "unknown_present", db->unknown_present);
    fprintf(f, "  \"rows_checked\": %s\n  }", db->rows_checked ? "true" : "false");
}

static void databases(FILE *f)
{
    fputs("  \"databases\": {\n", f);
    EACH_DATABASE(db) {
        fputs(db > soak.database ? ",\n" : "", f);
        database(f, db);
    }
    fputs("\n  },\n", f);
}

bool report_json(const char *path)
{
    FILE *f = fopen(path, "we");

    if (!f)
        return false;
    fputs("{\n", f);
    asked_for(f);
    times(f, tally_sum());
    what_lives_did(f, tally_sum());
    accidents(f);
    what_was_used(f);
    what_remains(f);
    databases(f);
    checks(f);
    if (soak.ended_by[0]) {
        number(f, "ended_after_coroutines", soak.ended_after);
        fputs("  \"ended_by\": ", f);
        text(f, soak.ended_by);
        fputs(",\n", f);
    }
    fprintf(f, "  \"verdict\": \"%s\"\n}\n", soak.verdict.pass ? "PASS" : "FAIL");
    if (ferror(f)) {
        fclose(f);
        return false;
    }
    return fclose(f) == 0;
}
