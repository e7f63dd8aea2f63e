/*
 * report.c - a pool as text: a line for the log, a page for people, numbers for Prometheus.
 *
 * Everything is written piece by piece through the caller's function, so that no report is too
 * long and nothing is allocated: a process that is short of memory is one that is looked at.
 */
#include "pool.h"

#include "log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 512 };

struct out {
    weir_write_fn write;
    void         *arg;
};

static void print(const struct out *out, const char *fmt, ...) WEIR_PRINTF(2, 3);

static void print(const struct out *out, const char *fmt, ...)
{
    char    piece[PIECE];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(piece, sizeof piece, fmt, args);
    va_end(args);
    if (length > 0)
        out->write(piece, (size_t)length < sizeof piece ? (size_t)length : sizeof piece - 1,
                   out->arg);
}

/* ---- for people ---------------------------------------------------------------------- */

static const char *const state_names[CONN_STATES] = {
    [CONN_RESERVED] = "reserved", [CONN_CONNECTING] = "connecting", [CONN_IDLE] = "idle",
    [CONN_IN_USE] = "in use",     [CONN_RESETTING] = "resetting",   [CONN_CLOSING] = "closing",
};

static long long ms_since(int64_t since_ns)
{
    return (hot_now() - since_ns) / 1000000;
}

/* "2 connecting, 1 short of descriptors (96 of 96 taken)", and who else keeps them waiting. */
void report_opening(const weir_pool *pool, char text[OPENING])
{
    unsigned governed = governor_waiting(&pool->line);
    unsigned short_of = pool->count[CONN_RESERVED] - governed + pool->parked;
    unsigned connecting = pool->count[CONN_CONNECTING] - pool->parked;
    char     account[64] = "", permits[60], held_back[48] = "";
    weir_budget_stats budget;

    weir_budget_read(&budget);
    if (!budget.waiting && !pool->parked && !pool->opts.permits) {
        connecting += short_of; /* there is no want: their keepers are to run in this turn */
        short_of = 0;
    }
    if (short_of) {
        snprintf(account, sizeof account, " (%u of %u taken%s)", budget.used, budget.limit,
                 pool->parked ? "; the kernel has none" : "");
    }
    shared_tell(pool, permits, sizeof permits);
    if (governed)
        snprintf(held_back, sizeof held_back, ", %u held back by the governor", governed);
    snprintf(text, OPENING, "%u connecting, %u short of descriptors%s%s%s",
             connecting, short_of, account, permits, held_back);
}

int weir_pool_summary(const weir_pool *pool, char *buf, size_t size)
{
    bool failing = pool->failures_in_row > 0;
    char opening[OPENING];

    report_opening(pool, opening);
    return snprintf(buf, size,
                    "pool %s: %s%s, %u of %u: %u in use, %u idle, %s, %u resetting; %u closing, "
                    "%u waiting%s%s",
                    pool->name, weir_pool_state_name(pool->state),
                    pool->overloaded && pool->waiting ? " (overloaded)" : "", pool_total(pool),
                    pool->opts.max_size, pool->count[CONN_IN_USE], pool->count[CONN_IDLE], opening,
                    pool->count[CONN_RESETTING], pool->count[CONN_CLOSING], pool->waiting,
                    failing ? "; last failure: " : "", failing ? pool->last_failure.message : "");
}

void report_timeout(weir_pool *pool)
{
    char line[PIECE];

    if (pool->stats.timeouts > 1 && hot_now() - pool->reported_ns < 1000000000)
        return;
    pool->reported_ns = hot_now();
    weir_pool_summary(pool, line, sizeof line);
    LOG(WEIR_LOG_INFO, "a caller gave up: %s", line);
}

static void dump_conn(const struct out *out, const struct conn *conn)
{
    const weir_lease *lease = lease_current(conn);

    print(out, "  connection %" PRIu64 ": %s for %lld ms", conn->id,
          conn->pinged ? "pinged" : state_names[conn->state],
          ms_since(conn->state == CONN_IDLE ? conn->unused_ns : conn->since_ns));
    if (conn->state == CONN_IN_USE)
        print(out, " by %s %" PRIu64 " (spawned at %s), taken at %s", weir_task_name(lease->holder),
              weir_task_id(lease->holder), weir_task_site(lease->holder), lease->site);
    else if (conn->state == CONN_CLOSING)
        print(out, " (%s)", weir_close_reason_name(conn->reason));
    print(out, "%s\n", conn_is_stale(conn) && conn->state != CONN_CLOSING ? ", stale" : "");
}

static void dump_waiter(const struct out *out, const struct waiter *waiter, unsigned place)
{
    print(out, "  waiter %u: %s %" PRIu64 " (spawned at %s) for %lld ms at %s", place,
          weir_task_name(waiter->task), weir_task_id(waiter->task), weir_task_site(waiter->task),
          ms_since(waiter->since_ns), waiter->site);
    if (waiter->held)
        print(out, ", holds %u connections of this pool", waiter->held);
    print(out, "\n");
}

void weir_pool_dump(const weir_pool *pool, weir_write_fn write, void *arg)
{
    /* Those that something may be wrong with first. */
    static const enum conn_state order[] = { CONN_IN_USE, CONN_RESETTING, CONN_CONNECTING,
                                             CONN_RESERVED, CONN_CLOSING, CONN_IDLE };
    struct out out = { write, arg };
    char       line[PIECE];
    unsigned   place = 0;

    weir_pool_summary(pool, line, sizeof line);
    print(&out, "%s\n", line);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const struct list *conns = &pool->conns[order[i]];
        for (const struct list *node = conns->prev; node != conns; node = node->prev)
            dump_conn(&out, LIST_OF(node, struct conn, link));
    }
    if (pool->farewell.message[0])
        print(&out, "  a server's last words on an idle connection: %s\n", pool->farewell.message);
    LIST_EACH(node, &pool->waiters)
        dump_waiter(&out, LIST_OF(node, struct waiter, link), ++place);
}

/* ---- for Prometheus ------------------------------------------------------------------ */

struct metric {
    const char *name, *type, *help;
    const char *label; /* besides the pool's, or "" */
    size_t      offset; /* in weir_pool_stats */
    bool        wide;   /* a uint64_t; else an unsigned */
};

#define NOW(name, label, field, help) \
    { name, "gauge", help, label, offsetof(weir_pool_stats, field), false }
#define TOTAL(name, label, field, help) \
    { name "_total", "counter", help, label, offsetof(weir_pool_stats, field), true }
#define CONNS(field) \
    NOW("weir_pool_connections", ",state=\"" #field "\"", field, "Connections by what they do.")
#define CALLERS(outcome, field)                                                       \
    TOTAL("weir_pool_check_outs_ended", ",outcome=\"" outcome "\"", field,                 \
          "Callers by what they got.")

/* Those of one name stand together: the format wants it so. */
static const struct metric metrics[] = {
    NOW("weir_pool_max_connections", "", max_size, "Connections at most."),
    CONNS(reserved), CONNS(connecting), CONNS(idle), CONNS(in_use), CONNS(resetting),
    CONNS(closing),
    NOW("weir_pool_waiting", "", waiting, "Callers queued for a connection."),
    NOW("weir_pool_in_use_peak", "", in_use_peak, "Most connections ever in use at once."),
    NOW("weir_pool_waiting_peak", "", waiting_peak, "Most callers ever queued at once."),
    { "weir_pool_generation", "gauge", "How often the pool was cleared.", "",
      offsetof(weir_pool_stats, generation), true },
    CALLERS("connection", acquired), CALLERS("timeout", timeouts), CALLERS("canceled", canceled),
    CALLERS("refused", refused), CALLERS("shed", shed),
    TOTAL("weir_pool_acquired_at_once", "", acquired_at_once, "Leases given without waiting."),
    TOTAL("weir_pool_released", "", released, "Leases that ended."),
    TOTAL("weir_pool_forgotten", "", forgotten, "Leases that ended with their holder."),
    TOTAL("weir_pool_opened", "", opened, "Connections opened."),
    TOTAL("weir_pool_connect_failures", "", connect_failures, "Attempts to connect that failed."),
    TOTAL("weir_pool_connect_parked", "", connect_parked,
          "Attempts put off because the kernel had no descriptor."),
    TOTAL("weir_pool_resets", "", resets, "Connections put right for the next user."),
    TOTAL("weir_pool_pings", "", pings, "Idle connections asked for a sign of life."),
    TOTAL("weir_pool_farewells", "", farewells,
          "Idle connections whose server said why it ended them."),
};

struct pools {
    weir_pool *const *all;
    size_t            count;
};

static void head(const struct out *out, const char *name, const char *type, const char *help)
{
    print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* As the format wants a label's value: backslash, quote and line end are escaped. */
static void label_of(const weir_pool *pool, char *label, size_t size)
{
    size_t used = 0;

    for (const char *c = pool->name; *c && used + 3 < size; c++) {
        if (*c == '\\' || *c == '"' || *c == '\n')
            label[used++] = '\\';
        label[used++] = *c == '\n' ? 'n' : *c;
    }
    label[used] = '\0';
}

static void sample(const struct out *out, const weir_pool *pool, const struct metric *metric)
{
    char            label[2 * sizeof pool->name];
    weir_pool_stats stats;

    label_of(pool, label, sizeof label);
    weir_pool_stats_read(pool, &stats);
    const char *field = (const char *)&stats + metric->offset;
    uint64_t    value = metric->wide ? *(const uint64_t *)field : *(const unsigned *)field;
    print(out, "%s{pool=\"%s\"%s} %" PRIu64 "\n", metric->name, label, metric->label, value);
}

static void write_values(const struct out *out, const struct pools *pools)
{
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        if (!i || strcmp(metrics[i - 1].name, metrics[i].name) != 0)
            head(out, metrics[i].name, metrics[i].type, metrics[i].help);
        for (size_t p = 0; p < pools->count; p++)
            sample(out, pools->all[p], &metrics[i]);
    }
}

static void write_states(const struct out *out, const struct pools *pools)
{
    char label[2 * sizeof pools->all[0]->name];

    head(out, "weir_pool_state", "gauge", "1 for the state that the pool is in.");
    for (size_t p = 0; p < pools->count; p++)
        for (int state = WEIR_POOL_READY; state <= WEIR_POOL_CLOSED; state++) {
            label_of(pools->all[p], label, sizeof label);
            print(out, "weir_pool_state{pool=\"%s\",state=\"%s\"} %d\n", label,
                  weir_pool_state_name((weir_pool_state)state),
                  pools->all[p]->state == (weir_pool_state)state);
        }
}

static void write_closed(const struct out *out, const struct pools *pools)
{
    char label[2 * sizeof pools->all[0]->name];

    head(out, "weir_pool_closed_total", "counter", "Connections closed, by reason.");
    for (size_t p = 0; p < pools->count; p++)
        for (int reason = 0; reason < WEIR_CLOSE_UNOPENED; reason++) {
            label_of(pools->all[p], label, sizeof label);
            print(out, "weir_pool_closed_total{pool=\"%s\",reason=\"%s\"} %" PRIu64 "\n", label,
                  weir_close_reason_name((weir_close_reason)reason),
                  pools->all[p]->stats.closed[reason]);
        }
}

/* Every second bucket, 1 us to 18 minutes: finer than that is nobody's alarm. */
static void write_histogram(const struct out *out, const struct pools *pools, const char *name,
                            const char *help, size_t offset)
{
    char label[2 * sizeof pools->all[0]->name];

    head(out, name, "histogram", help);
    for (size_t p = 0; p < pools->count; p++) {
        const weir_histogram *histogram =
            (const weir_histogram *)((const char *)&pools->all[p]->stats + offset);
        uint64_t below = 0;
        label_of(pools->all[p], label, sizeof label);
        for (int i = 0; i < 32; i++) {
            below += histogram->bucket[i];
            if (i % 2 == 0)
                print(out, "%s_bucket{pool=\"%s\",le=\"%.9g\"} %" PRIu64 "\n", name, label,
                      (double)(UINT64_C(1) << i) / 1e6, below);
        }
        print(out, "%s_bucket{pool=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, label,
              histogram->count);
        print(out, "%s_sum{pool=\"%s\"} %.9g\n", name, label, (double)histogram->sum_us / 1e6);
        print(out, "%s_count{pool=\"%s\"} %" PRIu64 "\n", name, label, histogram->count);
    }
}

void weir_pools_metrics(weir_pool *const *all, size_t count, weir_write_fn write, void *arg)
{
    struct out   out = { write, arg };
    struct pools pools = { all, count };

    write_states(&out, &pools);
    write_values(&out, &pools);
    write_closed(&out, &pools);
    write_histogram(&out, &pools, "weir_pool_wait_seconds",
                    "From asking for a connection to the answer.",
                    offsetof(weir_pool_stats, wait));
    write_histogram(&out, &pools, "weir_pool_connect_seconds", "Opening a connection.",
                    offsetof(weir_pool_stats, connect));
    write_histogram(&out, &pools, "weir_pool_hold_seconds", "Leases, from taken to given back.",
                    offsetof(weir_pool_stats, hold));
}

void weir_pool_metrics(const weir_pool *pool, weir_write_fn write, void *arg)
{
    weir_pool *const alone = (weir_pool *)pool;

    weir_pools_metrics(&alone, 1, write, arg);
}
