/*
 * watch.c - what is measured on the way.
 *
 * Knows:   descriptors, memory, the pool's gauges, latency, and how late the hub comes round;
 *          all of it from one alarm every 10 ms, into arrays that never grow.
 * Ignores: what is good or bad about it.
 *
 * The alarm is late by the time in which nobody let the hub turn. Time in which its thread was
 * ready and the kernel ran somebody else is no fault of the hub: the kernel counts it in the
 * second field of /proc/thread-self/schedstat, and it is taken off. So it is with the longest
 * waits for a turn.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 10 * 1000 * 1000, FIRST_STRETCH_NS = 50 * 1000 * 1000 };
static const int64_t SETTLED_NS = INT64_C(3000000000); /* the first connections are open */

static struct {
    weir_alarm    alarm;
    int           statm;
    int           schedstat;
    int64_t       last_ns;     /* the last tick */
    int64_t       last_off_ns; /* time ready but not running, until then */
    int64_t       looked_ns;   /* at the pools */
    int64_t       stretch_ns;  /* length of a sample now */
    int64_t       sample_ns;   /* when the next one is due */
    struct sample now;         /* the one that is being made */
    struct spread latency;     /* in it */
    uint64_t      rate_queries;
    int64_t       rate_ns;
} watch = { .statm = -1, .schedstat = -1 };

int64_t watch_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

double watch_seconds(void)
{
    return (double)(watch_clock_ns() - soak.watch.began_ns) / 1e9;
}

double watch_done_part(void)
{
    double part = (double)soak.lives / (double)soak.options.coroutines;

    if (soak.options.duration_s)
        part = watch_seconds() / soak.options.duration_s;
    return part < 1 ? part : 1;
}

/* ---- spreads of times --------------------------------------------------------------- */

static unsigned bucket_of(uint64_t us)
{
    if (us < 32)
        return (unsigned)us;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(us);
    unsigned bucket = 32 + (exponent - 5) * 16 + (unsigned)(us >> (exponent - 4) & 15);
    return bucket < SPREAD_BUCKETS ? bucket : SPREAD_BUCKETS - 1;
}

/* The upper edge of it. */
static uint64_t bucket_us(unsigned bucket)
{
    if (bucket < 32)
        return bucket;
    unsigned exponent = 5 + (bucket - 32) / 16;
    return ((UINT64_C(16) + (bucket - 32) % 16 + 1) << (exponent - 4)) - 1;
}

void spread_add(struct spread *spread, int64_t ns)
{
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;

    spread->count++;
    spread->bucket[bucket_of(us)]++;
    if (us > spread->max_us)
        spread->max_us = us;
}

void spread_join(struct spread *spread, const struct spread *other)
{
    spread->count += other->count;
    for (unsigned i = 0; i < SPREAD_BUCKETS; i++)
        spread->bucket[i] += other->bucket[i];
    if (other->max_us > spread->max_us)
        spread->max_us = other->max_us;
}

uint64_t spread_us(const struct spread *spread, double percent)
{
    uint64_t wanted = (uint64_t)((double)spread->count * percent / 100);
    uint64_t seen = 0;

    for (unsigned i = 0; i < SPREAD_BUCKETS; i++) {
        seen += spread->bucket[i];
        if (seen > wanted)
            return bucket_us(i) < spread->max_us ? bucket_us(i) : spread->max_us;
    }
    return spread->max_us;
}

void watch_query_answered(struct database *db, int64_t took_ns)
{
    soak.queries++;
    db->tally.queries++;
    db->tally.last_answer_ns = watch_clock_ns();
    spread_add(&db->tally.query, took_ns);
    spread_add(&watch.latency, took_ns);
    watch.now.queries++;
}

/* ---- what the kernel says ----------------------------------------------------------- */

static long second_number(int fd)
{
    char    text[128];
    char   *end;
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);

    if (n <= 0)
        return 0; /* a kernel that does not tell */
    text[n] = 0;
    (void)strtol(text, &end, 10);
    return strtol(end, NULL, 10);
}

int64_t watch_off_ns(void)
{
    return watch.last_off_ns;
}

int64_t watch_off_now_ns(void)
{
    return second_number(watch.schedstat);
}

static uint64_t rss_kb(void)
{
    return (uint64_t)second_number(watch.statm) * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}

/* Newer kernels tell the number as the directory's size; else it is counted. */
unsigned fds_open_now(void)
{
    struct stat    st;
    unsigned       count = 0;
    DIR           *dir;
    struct dirent *entry;

    if (!stat("/proc/self/fd", &st) && st.st_size > 0)
        return (unsigned)st.st_size;
    dir = opendir("/proc/self/fd");
    if (!dir)
        return soak.watch.fds;
    for (entry = readdir(dir); entry; entry = readdir(dir))
        count += isdigit((unsigned char)entry->d_name[0]) != 0;
    closedir(dir);
    return count - 1; /* without the one we read it with */
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

void fd_table_read(struct fd_table *out)
{
    int            fd[FD_TABLE_MAX];
    DIR           *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    memset(out, 0, sizeof *out);
    if (!dir)
        return;
    for (entry = readdir(dir); entry; entry = readdir(dir)) {
        int number = atoi(entry->d_name);
        if (!isdigit((unsigned char)entry->d_name[0]) || number == dirfd(dir))
            continue;
        out->count++;
        if (out->kept < FD_TABLE_MAX)
            fd[out->kept++] = number;
    }
    closedir(dir);
    qsort(fd, out->kept, sizeof *fd, by_number);
    for (unsigned i = 0; i < out->kept; i++) {
        char    path[40];
        ssize_t n;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd[i]);
        out->entry[i].fd = fd[i];
        n = readlink(path, out->entry[i].what, sizeof out->entry[i].what - 1);
        out->entry[i].what[n > 0 ? n : 0] = 0;
    }
}

/* ---- samples ------------------------------------------------------------------------ */

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static struct sample merged(const struct sample *a, const struct sample *b)
{
    struct sample both = *b;
    uint32_t      all = a->queries + b->queries;

    both.fds = larger(a->fds, b->fds);
    both.in_use = larger(a->in_use, b->in_use);
    both.waiting = larger(a->waiting, b->waiting);
    both.queries = all;
    for (unsigned i = 0; i < DATABASES_MAX; i++)
        both.held[i] = larger(a->held[i], b->held[i]);
    both.p99_us = larger(a->p99_us, b->p99_us);
    both.rss_kb = larger(a->rss_kb, b->rss_kb);
    if (all)
        both.p50_us = (uint32_t)(((uint64_t)a->p50_us * a->queries +
                                  (uint64_t)b->p50_us * b->queries) / all);
    return both;
}

static void finish_sample(int64_t now)
{
    struct watch *w = &soak.watch;

    if (w->count == SAMPLES_MAX) {
        for (unsigned i = 0; i < SAMPLES_MAX / 2; i++)
            w->sample[i] = merged(&w->sample[2 * i], &w->sample[2 * i + 1]);
        w->count = SAMPLES_MAX / 2;
        watch.stretch_ns *= 2;
    }
    watch.now.at_s = (float)((double)(now - w->began_ns) / 1e9);
    watch.now.p50_us = (uint32_t)spread_us(&watch.latency, 50);
    watch.now.p99_us = (uint32_t)spread_us(&watch.latency, 99);
    w->sample[w->count++] = watch.now;
    memset(&watch.now, 0, sizeof watch.now);
    memset(&watch.latency, 0, sizeof watch.latency);
    watch.sample_ns = now + watch.stretch_ns;
}

/* ---- the tick ----------------------------------------------------------------------- */

static void note_stall(int64_t now)
{
    int64_t off = watch_off_now_ns();
    double  late_ms = (double)(now - watch.last_ns - TICK_NS - (off - watch.last_off_ns)) / 1e6;

    if (late_ms > soak.watch.stall_max_ms) {
        soak.watch.stall_max_ms = late_ms;
        soak.watch.stall_at_s = watch_seconds();
    }
    watch.last_ns = now;
    watch.last_off_ns = off;
}

/* The level around the middle, against the level at the end: most in a window each. */
static void note_memory(void)
{
    struct watch *w = &soak.watch;
    double        part = watch_done_part();
    uint64_t      kb = rss_kb();

    watch.now.rss_kb = larger(watch.now.rss_kb, (uint32_t)kb);
    if (part >= 0.45 && (part <= 0.55 || !w->rss_mid_kb) && kb > w->rss_mid_kb)
        w->rss_mid_kb = kb;
    if (part >= 0.95 && kb > w->rss_end_kb)
        w->rss_end_kb = kb;
}

static void note_rate(int64_t now)
{
    if (now - watch.rate_ns < INT64_C(500000000))
        return;
    soak.watch.queries_per_s = (double)(soak.queries - watch.rate_queries) * 1e9 /
                               (double)(now - watch.rate_ns);
    watch.rate_queries = soak.queries;
    watch.rate_ns = now;
}

/* Does the pool get its share, and its callers their turn, while nothing is done to it? */
static void note_turns(struct database *db, uint64_t acquired_before, uint32_t held, int64_t now)
{
    const weir_pool_stats *s = &db->now;
    struct tally          *t = &db->tally;
    bool                   is_calm = now >= db->calm_since_ns;

    if (!s->waiting || s->acquired != acquired_before || t->last_lease_ns < db->calm_since_ns) {
        t->last_lease_ns = now;
        t->last_lease_off_ns = watch.last_off_ns;
    }
    int64_t gap_ns = now - t->last_lease_ns - (watch.last_off_ns - t->last_lease_off_ns);
    if (is_calm && gap_ns / 1000 > (int64_t)t->calm_gap_max_us)
        t->calm_gap_max_us = (uint64_t)gap_ns / 1000;
    if (is_calm && s->waiting && now - soak.watch.began_ns > SETTLED_NS &&
        (!t->calm_held_min || held < t->calm_held_min))
        t->calm_held_min = held;
}

static void look_at_pools(int64_t now)
{
    uint32_t in_use = 0, waiting = 0;

    EACH_DATABASE(db) {
        weir_pool_stats *s = &db->now;
        uint32_t        *most = &watch.now.held[db - soak.database];
        uint64_t         acquired = s->acquired;
        if (db->pool)
            weir_pool_stats_read(db->pool, s);
        uint32_t held = s->connecting + s->idle + s->in_use + s->resetting + s->closing;
        *most = larger(*most, held);
        note_turns(db, acquired, held, now);
        crowd_look(db, s->acquired - acquired, now - watch.looked_ns);
        in_use += s->in_use;
        waiting += s->waiting;
    }
    watch.looked_ns = now;
    watch.now.in_use = larger(watch.now.in_use, in_use);
    watch.now.waiting = larger(watch.now.waiting, waiting);
}

static void look(int64_t now)
{
    struct watch *w = &soak.watch;

    w->fds = fds_open_now();
    w->fds_peak = larger(w->fds_peak, w->fds);
    watch.now.fds = larger(watch.now.fds, w->fds);
    look_at_pools(now);
    note_memory();
    note_rate(now);
    if (now >= watch.sample_ns)
        finish_sample(now);
}

static void tick(weir_alarm *alarm)
{
    int64_t now = watch_clock_ns();

    note_stall(now);
    look(now);
    weir_alarm_set(alarm, now + TICK_NS, tick);
}

void watch_mark(void)
{
    int64_t now = watch_clock_ns();

    look(now);
    finish_sample(now);
}

void watch_open(void)
{
    watch.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    watch.schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    memset(soak.watch.sample, 0xff, sizeof soak.watch.sample); /* resident from the start */
    memset(&soak.watch, 0, sizeof soak.watch);
}

void watch_start(void)
{
    soak.watch.fds_base = fds_open_now();
    soak.watch.began_ns = watch.last_ns = watch.rate_ns = watch.looked_ns = watch_clock_ns();
    watch.last_off_ns = watch_off_now_ns();
    watch.stretch_ns = FIRST_STRETCH_NS;
    watch.sample_ns = watch.last_ns + watch.stretch_ns;
    if (weir_alarm_reserve(1) != WEIR_OK) {
        fputs("weir-soak: no memory for an alarm\n", stderr);
        exit(2);
    }
    weir_alarm_set(&watch.alarm, watch.last_ns + TICK_NS, tick);
    watch_mark();
}

void watch_stop(void)
{
    int64_t now = watch_clock_ns();

    weir_alarm_stop(&watch.alarm);
    (void)weir_alarm_reserve(-1);
    note_stall(now);
    watch_mark();
}
