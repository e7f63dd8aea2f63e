/*
 * bench.c - laps, rounds, medians, and how they are told.
 *
 * Knows:   getrusage, the order of rounds, the table and the JSON file.
 * Ignores: what is measured.
 */
#define _GNU_SOURCE 1 /* RUSAGE_THREAD, sched_setaffinity */
#include "bench.h"

#include "calls.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

bool bench_fail(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("weir-bench: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return false;
}

/* ---- laps --------------------------------------------------------------------------- */

static double cpu_s(int who)
{
    struct rusage use;

    getrusage(who, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

void lap_begin(struct lap *lap)
{
    if (lap->counting)
        lap->counting = calls_begin();
    else
        lap->begun_s = cpu_s(RUSAGE_SELF);
}

void lap_end(struct lap *lap)
{
    if (lap->counting)
        lap->calls = calls_end();
    lap_end_with(lap, cpu_s(RUSAGE_SELF) - lap->begun_s);
}

double lap_thread_cpu_s(void)
{
    return cpu_s(RUSAGE_THREAD);
}

void lap_end_with(struct lap *lap, double cpu)
{
    lap->cpu_s = cpu;
    lap->over = true;
}

void lap_end_at(struct lap *lap, double told)
{
    lap->told = told;
    lap->over = true;
}

/* ---- rounds ------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void note_signal(int signal)
{
    (void)signal;
    interrupted = 1;
}

void bench_catch_signals(void)
{
    struct sigaction action = { .sa_handler = note_signal, .sa_flags = SA_RESTART };

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int bench_pin(void)
{
    cpu_set_t allowed, one;

    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        return sched_setaffinity(0, sizeof one, &one) ? -1 : cpu;
    }
    return -1;
}

/* Over all operations of a lap. */
static double whole_of(const struct lap *lap, enum measure measure)
{
    switch (measure) {
    case CPU_NS:
        return lap->cpu_s * 1e9;
    case CPU_US:
        return lap->cpu_s * 1e6;
    case CALLS:
        return (double)lap->calls;
    default:
        return lap->told;
    }
}

/* One round of one side: the figure per operation. */
static bool measure_side(const struct entry *entry, const struct side *side, double *figure)
{
    struct lap lap = {
        .warm = entry->warm,
        .count = entry->count,
        .counting = entry->measure == CALLS,
        .calls = -1,
    };

    if (!side->round(&lap, side->how))
        return bench_fail("%s: \"%s\" failed", entry->name, side->label);
    if (!lap.over || (entry->measure == CALLS && lap.calls < 0))
        return bench_fail("%s: \"%s\" ended without a figure", entry->name, side->label);

    *figure = whole_of(&lap, entry->measure) / (double)entry->count;
    return true;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static struct figures summarise(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return (struct figures){
        .median = (values[(count - 1) / 2] + values[count / 2]) / 2,
        .min = values[0],
        .max = values[count - 1],
    };
}

static enum outcome run_rounds(const struct entry *entry, int rounds, double *ours,
                               double *baseline)
{
    for (int i = entry->once ? 0 : -1; i < rounds; i++) {
        int at = i < 0 ? 0 : i; /* the warm-up's figures are overwritten */

        if (interrupted)
            return INTERRUPTED;
        if (!measure_side(entry, &entry->ours, &ours[at]) ||
            !measure_side(entry, &entry->baseline, &baseline[at]))
            return FAILED;
    }
    return MEASURED;
}

void bench_measure(const struct entry *entry, int rounds, struct result *result)
{
    if (entry->once)
        rounds = 1;
    *result = (struct result){ .entry = entry, .rounds = rounds, .outcome = SKIPPED };
    if (entry->measure == CALLS && !calls_countable()) {
        snprintf(result->why, sizeof result->why,
                 "counting needs syscall user dispatch (Linux 5.11, x86-64)");
        return;
    }
    if (entry->set_up && !entry->set_up(result->why, sizeof result->why))
        return;

    double *ours = calloc((size_t)rounds, sizeof *ours);
    double *baseline = calloc((size_t)rounds, sizeof *baseline);
    result->outcome = FAILED;
    if (ours && baseline)
        result->outcome = run_rounds(entry, rounds, ours, baseline);
    if (result->outcome == MEASURED) {
        result->ours = summarise(ours, rounds);
        result->baseline = summarise(baseline, rounds);
    }
    free(ours);
    free(baseline);
    if (entry->tear_down)
        entry->tear_down();
}

/* ---- telling ------------------------------------------------------------------------ */

const char *bench_unit(enum measure measure)
{
    static const char *const units[] = {
        [CPU_NS] = "ns", [CPU_US] = "us", [CALLS] = "calls", [ALLOCS] = "mem",
        [BYTES] = "bytes", [TIMES] = "times",
    };

    return units[measure];
}

double bench_ratio(const struct result *result)
{
    return result->baseline.median > 0 ? result->ours.median / result->baseline.median : NAN;
}

void bench_print_head(void)
{
    printf("%-32s %-5s %9s %9s %9s %9s %7s  %s\n", "", "unit", "median", "min", "max",
           "baseline", "ratio", "what the baseline is");
}

void bench_print(const struct result *result)
{
    const struct entry *entry = result->entry;
    double              ratio = bench_ratio(result);
    char                text[16] = "-";

    switch (result->outcome) {
    case SKIPPED:
        printf("%-32s skipped: %s\n", entry->name, result->why);
        break;
    case FAILED:
    case INTERRUPTED:
        printf("%-32s %s\n", entry->name, result->outcome == FAILED ? "FAILED" : "interrupted");
        break;
    case MEASURED:
        if (!isnan(ratio))
            snprintf(text, sizeof text, "%.2f", ratio);
        printf("%-32s %-5s %9.2f %9.2f %9.2f %9.2f %7s  %s\n", entry->name,
               bench_unit(entry->measure), result->ours.median, result->ours.min,
               result->ours.max, result->baseline.median, text, entry->baseline.label);
        break;
    }
    fflush(stdout);
}

/* Labels and names are our own literals, without a character that JSON would escape. */
static void write_object(FILE *file, const struct result *result)
{
    double ratio = bench_ratio(result);

    fprintf(file,
            "  {\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.4f, \"min\": %.4f, "
            "\"max\": %.4f, \"rounds\": %d, \"baseline\": \"%s\", \"baseline_median\": %.4f, "
            "\"ratio\": ",
            result->entry->name, bench_unit(result->entry->measure), result->ours.median,
            result->ours.min, result->ours.max, result->rounds, result->entry->baseline.label,
            result->baseline.median);
    if (isnan(ratio))
        fputs("null}", file);
    else
        fprintf(file, "%.4f}", ratio);
}

bool bench_write_json(const char *path, const struct result *results, size_t count)
{
    FILE       *file = fopen(path, "w");
    const char *between = "\n";

    if (!file)
        return bench_fail("%s: %s", path, strerror(errno));
    fputc('[', file);
    for (size_t i = 0; i < count; i++) {
        if (results[i].outcome != MEASURED)
            continue;
        fputs(between, file);
        write_object(file, &results[i]);
        between = ",\n";
    }
    fputs("\n]\n", file);
    if (fclose(file))
        return bench_fail("%s: %s", path, strerror(errno));
    return true;
}
