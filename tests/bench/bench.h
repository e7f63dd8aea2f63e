/*
 * bench.h - measuring a thing beside its baseline.
 *
 * Knows:   laps, rounds, entries, and how a result is told.
 * Ignores: what is measured.
 *
 * An absolute figure says little: the clock speed, the neighbours and the hypervisor move it
 * from run to run. So every entry stands beside a baseline, the least that could do the same
 * job. The two are measured in turn, round after round, on one CPU, and what lasts is the
 * ratio of their medians. Time is the process's CPU time, user and system: what a neighbour
 * takes is not counted, and neither is waiting for a server.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>

/*
 * One measured stretch. Whoever runs a round does `warm` operations first, so that stacks
 * are touched, connections open and caches filled, and then `count` that are measured.
 */
struct lap {
    long   warm;
    long   count;
    long   done;     /* operations so far, where lap_tick() counts them */
    bool   counting; /* system calls, not time */
    double begun_s;
    double cpu_s;    /* the result: CPU time of the `count` operations */
    long   calls;    /* or how many system calls they made; negative: not known */
    double told;     /* or what lap_end_at() said */
    bool   over;
};

void lap_begin(struct lap *lap);
void lap_end(struct lap *lap);

/* For threads that each measure their own time: the sum counts as the lap's. */
double lap_thread_cpu_s(void);
void   lap_end_with(struct lap *lap, double cpu_s);

/* For what is neither time nor calls: the sum over the lap's `count` operations. */
void lap_end_at(struct lap *lap, double told);

/* After each operation, where many workers share a lap: begins and ends it at its counts. */
static inline void lap_tick(struct lap *lap)
{
    long done = ++lap->done;

    if (done == lap->warm)
        lap_begin(lap);
    else if (done == lap->warm + lap->count)
        lap_end(lap);
}

enum measure {
    CPU_NS, /* CPU time per operation, nanoseconds */
    CPU_US, /* the same, microseconds */
    CALLS,  /* system calls per operation */
    ALLOCS, /* requests for memory per operation; as lap_end_at() says, like those below */
    BYTES,  /* of memory */
    TIMES   /* how many times as much as something else */
};

struct side {
    const char *label; /* what it is, in a few words */
    bool (*round)(struct lap *lap, int how); /* false: it failed, and has said so */
    int how;
};

struct entry {
    const char  *name;
    const char  *operation; /* what is counted as one */
    enum measure measure;
    long         warm;
    long         count;     /* operations a round */
    struct side  ours;
    struct side  baseline;
    bool         once;      /* it is the same in each round: one of each side, and no warm-up */
    /* Around all rounds of the entry; both may be NULL. False: cannot be measured here, and
       `why` says what is missing; then tear_down() is not called. */
    bool (*set_up)(char *why, size_t size);
    void (*tear_down)(void);
};

/* A table of entries, ended by one without a name. */
extern const struct entry coro_entries[], pool_entries[], pool_crowd_entries[], mysql_entries[],
    mongo_entries[];

enum outcome { MEASURED, SKIPPED, FAILED, INTERRUPTED };

struct figures {
    double median, min, max;
};

struct result {
    const struct entry *entry;
    enum outcome        outcome;
    int                 rounds;
    struct figures      ours, baseline;
    char                why[200]; /* of SKIPPED */
};

/* Measure an entry: a warm-up round of each side, then `rounds` of both in turn; see `once`. */
void bench_measure(const struct entry *entry, int rounds, struct result *result);

/* Pin this process to the first CPU it may use; returns its number, -1 if that failed. */
int bench_pin(void);

/* SIGINT and SIGTERM end the run after the current round, so that everything is put back. */
void bench_catch_signals(void);

double      bench_ratio(const struct result *result); /* NAN where the baseline is 0 */
const char *bench_unit(enum measure measure);
void        bench_print_head(void);
void        bench_print(const struct result *result);
bool        bench_write_json(const char *path, const struct result *results, size_t count);

/* Say on standard error what went wrong; returns false. */
bool bench_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
