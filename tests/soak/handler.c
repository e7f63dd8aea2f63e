/*
 * handler.c - the soak of a user's own handler.
 *
 * Knows:   when lives begin, are cancelled and run out of time; what was there before and what
 *          is there after; how findings are put.
 * Ignores: what the handler does; how descriptors are seen (opened.c), what addresses mean
 *          (place.c).
 *
 * When is a life to be cut? A moment that is drawn from the time that undisturbed lives take, and
 * a little more, meets each of its waits about as often as it waits there.
 *
 * Connections of pools stay open between lives, and that is right. So what counts is what the
 * handler opened itself. Where a lease was taken is only in weir's warning about it, and those
 * are held to ten a second: leases that we forget on purpose must not use them up, and are
 * forgotten in silence.
 */
#define _GNU_SOURCE
#include "opened.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <weir/hub.h>
#include <weir/log.h>
#include <weir/soak.h>

enum { PLACES = 8, PLACE_TEXT = 160, SETTLE_MS = 5 };

/* Things of one origin that were left behind. */
struct places {
    unsigned count;
    struct {
        char     text[PLACE_TEXT];
        uint64_t times;
        char     what[64]; /* an example */
    } one[PLACES];
};

/* A life that forgets a lease, for its exit hooks. */
struct forgetter {
    weir_exit_hook mute, loud;
    struct run    *run;
    struct forgetter *next;
};

struct totals {
    unsigned in_use;    /* leases */
    unsigned alive;     /* connections */
    unsigned moving;    /* connections on their way in or out, and who waits for one */
    uint64_t forgotten;
    unsigned tokens;    /* descriptors of the budget that no connection has */
};

struct run {
    weir_fn        fn;
    weir_soak_opts opts; /* no zero is left in it */
    weir_error    *err;
    uint64_t       random;
    int64_t        usual_ns; /* that an undisturbed life takes */
    uint64_t       ended, well, failed, cancelled, late, forgotten;
    weir_status    first_failure;
    bool           warming; /* nobody is disturbed yet */
    struct forgetter *forgetters, *spare;
    struct places  leases;
    uint64_t       mistakes;      /* that weir has logged as errors */
    char           mistake[300];  /* the first */
    struct totals  before, after;
    uint64_t      *open_before; /* for each number, its order and 1; 0: closed */
    unsigned       findings;
};

/* ---- lives ---------------------------------------------------------------------------- */

struct victim {
    weir_alarm alarm; /* must be first */
    weir_task *task;
    bool       hit;
};

static uint64_t draw(struct run *run)
{
    run->random = run->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return run->random >> 33;
}

/* A draw has 31 bits, and of nanoseconds those are two seconds: a life may take longer. */
static int64_t some_moment(struct run *run)
{
    uint64_t wide = draw(run) << 31;

    wide |= draw(run);
    return weir_now() + (int64_t)(wide % (uint64_t)(run->usual_ns * 5 / 4 + 1));
}

static void strike(weir_alarm *alarm)
{
    struct victim *victim = (struct victim *)alarm;

    victim->hit = true;
    weir_cancel(victim->task);
}

static weir_status be_cancelled(struct run *run)
{
    struct victim victim = { .task = weir_self() };

    weir_alarm_set(&victim.alarm, some_moment(run), strike);
    weir_status status = run->fn(run->opts.arg);
    weir_alarm_stop(&victim.alarm);
    run->cancelled += victim.hit;
    return status;
}

static weir_status be_late(struct run *run)
{
    WEIR_DEADLINE(weir_deadline_at(some_moment(run)));
    weir_status status = run->fn(run->opts.arg);

    run->late += weir_check() == WEIR_TIMEOUT;
    return status;
}

static weir_status be_left_alone(struct run *run)
{
    int64_t     began = weir_now();
    weir_status status = run->fn(run->opts.arg);
    int64_t     took = weir_now() - began;

    if (weir_check() == WEIR_CANCELED)
        return status; /* it was disturbed after all: the soak is being ended */
    run->usual_ns += (took - run->usual_ns) / 8;
    run->well += status == WEIR_OK;
    if (status != WEIR_OK && !run->failed++)
        run->first_failure = status;
    return status;
}

/* ---- forgetting on purpose ------------------------------------------------------------ */

static void hear(weir_log_level level, const char *line, void *arg);

/* Exit hooks run in the opposite order of their adding; the lease's comes between these two. */
static void fall_silent(weir_exit_hook *hook)
{
    (void)hook;
    weir_log_set(hear, NULL, WEIR_LOG_OFF);
}

static void speak_again(weir_exit_hook *hook)
{
    struct forgetter *self = (struct forgetter *)((char *)hook - offsetof(struct forgetter, loud));

    weir_log_set(hear, self->run, WEIR_LOG_WARN);
    self->next = self->run->spare;
    self->run->spare = self;
}

static weir_status forget(struct run *run)
{
    struct forgetter *self = run->spare;
    weir_lease       *lease = NULL;
    weir_pool        *pool = run->opts.pools[draw(run) % run->opts.pool_count];

    run->spare = self->next;
    self->loud.fn = speak_again;
    self->mute.fn = fall_silent;
    weir_exit_hook_add(weir_self(), &self->loud);
    weir_status status = weir_acquire(pool, weir_in_ms(run->opts.patience_ms), &lease, NULL);
    run->forgotten += status == WEIR_OK;
    weir_exit_hook_add(weir_self(), &self->mute);
    return status;
}

static weir_status live(void *arg)
{
    struct run *run = arg;
    int         kind = run->warming ? 100 : (int)(draw(run) % 100);
    weir_status status;

    if (kind < run->opts.cancels)
        status = be_cancelled(run);
    else if (kind < run->opts.cancels + run->opts.deadlines)
        status = be_late(run);
    else if (kind < run->opts.cancels + run->opts.deadlines + run->opts.forgets)
        status = forget(run);
    else
        status = be_left_alone(run);
    run->ended++;
    return status;
}

/* ---- telling -------------------------------------------------------------------------- */

static void tell(const struct run *run, const char *line)
{
    if (run->opts.tell)
        run->opts.tell(line, run->opts.tell_arg);
    else
        fprintf(stderr, "weir_soak: %s\n", line);
}

static void find(struct run *run, const char *fmt, ...) WEIR_PRINTF(2, 3);
static void find(struct run *run, const char *fmt, ...)
{
    char    line[400];
    va_list args;

    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (!run->findings++)
        weir_error_set(run->err, WEIR_FAILED, "%s", line);
    tell(run, line);
}

static void add_place(struct places *places, const char *text, const char *what)
{
    unsigned i = 0;

    while (i < places->count && strcmp(places->one[i].text, text) != 0)
        i++;
    if (i == PLACES)
        return; /* so many are enough to begin with */
    if (i == places->count) {
        places->count++;
        snprintf(places->one[i].text, PLACE_TEXT, "%s", text);
        snprintf(places->one[i].what, sizeof places->one[i].what, "%s", what);
    }
    places->one[i].times++;
}

/* What weir logs as an error is a mistake of its caller's: a lease that is given back twice, a
   client used without its lease. What libmongoc has to say may be about a server. */
static void hear_mistake(struct run *run, const char *line)
{
    if (strncmp(line, "libmongoc:", 10) != 0 && !run->mistakes++)
        snprintf(run->mistake, sizeof run->mistake, "%s", line);
}

/* "pool P: connection 7, taken at PLACE, was still held when NAME 9 (spawned at PLACE) ended" */
static void hear(weir_log_level level, const char *line, void *arg)
{
    struct run *run = arg;
    const char *taken = strstr(line, ", taken at "), *end = strstr(line, ", was still held when ");
    char        place[PLACE_TEXT];

    if (level == WEIR_LOG_ERROR)
        hear_mistake(run, line);
    if (!taken || !end || end < taken)
        return;
    taken += strlen(", taken at ");
    snprintf(place, sizeof place, "%.*s", (int)(end - taken), taken);
    add_place(&run->leases, place, "");
}

/* ---- before and after ----------------------------------------------------------------- */

static int numbers(void)
{
    long max = sysconf(_SC_OPEN_MAX);

    return max < 0 || max > OPENED_MAX ? OPENED_MAX : (int)max;
}

static unsigned held_by_pools(void)
{
    struct opened opened;
    unsigned      count = 0;

    for (int fd = 0; fd < numbers(); fd++)
        count += opened_look(fd, &opened) && opened_by_pool(&opened);
    return count;
}

static void count_up(const struct run *run, struct totals *out)
{
    weir_pool_stats   stats;
    weir_budget_stats budget;

    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < run->opts.pool_count; i++) {
        weir_pool_stats_read(run->opts.pools[i], &stats);
        out->in_use += stats.in_use;
        out->moving += stats.reserved + stats.connecting + stats.resetting + stats.closing +
                       stats.waiting;
        out->alive += stats.in_use + stats.idle;
        out->forgotten += stats.forgotten;
    }
    /* A client of a replica set has several; a test's driver has none that could be seen. */
    unsigned held = held_by_pools();
    held = held > out->alive ? held : out->alive;
    weir_budget_read(&budget);
    out->tokens = budget.used > held ? budget.used - held : 0;
}

/* Until nothing moves and no more leases are out than were at first. */
static void settle(struct run *run, struct totals *now, unsigned leases)
{
    WEIR_DEADLINE(weir_in_ms(run->opts.patience_ms));
    count_up(run, now);
    while (now->moving || now->in_use > leases) {
        if (weir_sleep(weir_in_ms(SETTLE_MS)) != WEIR_OK)
            return;
        count_up(run, now);
    }
}

static void look_before(struct run *run)
{
    struct opened opened;

    settle(run, &run->before, 0);
    for (int fd = 0; fd < numbers(); fd++)
        run->open_before[fd] = opened_look(fd, &opened) ? opened.order + 1 : 0;
}

/* ---- the verdict ---------------------------------------------------------------------- */

static void judge_descriptors(struct run *run)
{
    struct places places = { .count = 0 };
    struct opened opened;

    for (int fd = 0; fd < numbers(); fd++) {
        char place[PLACE_TEXT], path[40], what[64];
        if (!opened_look(fd, &opened) || opened_by_pool(&opened) ||
            run->open_before[fd] == opened.order + 1)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, what, sizeof what - 1);
        what[n > 0 ? n : 0] = '\0';
        snprintf(place, sizeof place, "%p", opened.from);
        add_place(&places, place, what);
    }
    for (unsigned i = 0; i < places.count; i++) {
        void *from = NULL;
        char  words[PLACE_TEXT];
        (void)sscanf(places.one[i].text, "%p", &from);
        place_of(from, words, sizeof words);
        find(run, "descriptors that were not closed, opened at %s (%s): %llu", words,
             places.one[i].what, (unsigned long long)places.one[i].times);
    }
}

static void judge_leases(struct run *run)
{
    uint64_t forgotten = run->after.forgotten - run->before.forgotten - run->forgotten;

    for (unsigned i = 0; forgotten && i < run->leases.count; i++)
        find(run, "a lease is not given back on every path, taken at %s", run->leases.one[i].text);
    if (forgotten)
        find(run, "leases that were not given back when their coroutine ended, and so were "
             "closed: %llu", (unsigned long long)forgotten);
    if (run->after.in_use > run->before.in_use)
        find(run, "leases that are still held, by coroutines that go on: %u",
             run->after.in_use - run->before.in_use);
    if (run->after.moving)
        find(run, "connections that are still being opened, reset, closed or waited for: %u",
             run->after.moving);
    if (run->after.tokens > run->before.tokens)
        find(run, "weir_budget_give() is missing: %u descriptors of the budget are still taken",
             run->after.tokens - run->before.tokens);
}

static void judge_lives(struct run *run)
{
    if (run->mistakes)
        find(run, "mistakes that weir has told of: %llu, the first: %s",
             (unsigned long long)run->mistakes, run->mistake);
    if (run->failed && !run->opts.may_fail)
        find(run, "lives that failed though nobody disturbed them: %llu, the first with %s (if "
             "that is meant: .may_fail)", (unsigned long long)run->failed,
             weir_status_name(run->first_failure));
    if (!run->well)
        find(run, "not one undisturbed life succeeded, so nothing is known");
}

static void sum_up(const struct run *run)
{
    char line[300];

    snprintf(line, sizeof line, "%llu lives: %llu undisturbed succeeded, %llu failed; %llu were "
             "cancelled, %llu ran out of time, %llu forgot a lease on purpose; %s",
             (unsigned long long)run->ended, (unsigned long long)run->well,
             (unsigned long long)run->failed, (unsigned long long)run->cancelled,
             (unsigned long long)run->late, (unsigned long long)run->forgotten,
             run->findings ? "FAIL" : "nothing was left behind");
    tell(run, line);
}

/* ---- the soak ------------------------------------------------------------------------- */

static bool spawn(struct run *run, weir_group *group)
{
    WEIR_DEADLINE(weir_in_ms(run->opts.patience_ms));

    return weir_spawn(group, live, run) != NULL;
}

/* False: some did not end. */
static bool wait_for_all(struct run *run, weir_group *group)
{
    uint64_t seen = UINT64_MAX;

    while (weir_group_running(group) && seen != run->ended) {
        seen = run->ended;
        (void)weir_group_wait(group, weir_in_ms(run->opts.patience_ms));
        if (weir_check() != WEIR_OK)
            return false;
    }
    return !weir_group_running(group);
}

/* So many lives, one after the other or side by side. Those that hang are cancelled; where that
   does not help either their group, and all they refer to, stays for ever. */
static bool live_all(struct run *run, uint64_t lives)
{
    weir_group     *group;
    weir_group_opts opts = { .name = "soaked",
                             .max_running = run->opts.concurrency,
                             .keep = WEIR_KEEP_COUNTS };

    if (weir_group_new(&opts, &group, run->err) != WEIR_OK) {
        find(run, "a group could not be made");
        return true;
    }
    uint64_t begun = 0;
    while (begun < lives && spawn(run, group))
        begun++;
    bool hung = !wait_for_all(run, group) || begun < lives;
    if (hung && weir_check() == WEIR_OK)
        find(run, "lives that did not end within patience_ms (%lld): %u; could not begin: %llu",
             (long long)run->opts.patience_ms, weir_group_running(group),
             (unsigned long long)(lives - begun));
    (void)weir_group_stop(group, weir_in_ms(run->opts.patience_ms));
    if (weir_group_running(group)) {
        find(run, "lives that don't end when they are cancelled either: %u",
             weir_group_running(group));
        return false;
    }
    weir_group_free(group);
    return true;
}

static int per_cent(int given, int usual)
{
    return given == WEIR_NEVER ? 0 : given ? given : usual;
}

static weir_status complete(weir_soak_opts *opts, weir_error *err)
{
    opts->lives = opts->lives ? opts->lives : 10000;
    opts->concurrency = opts->concurrency ? opts->concurrency : 100;
    opts->seed = opts->seed ? opts->seed : 1;
    opts->patience_ms = opts->patience_ms ? opts->patience_ms : 10000;
    opts->cancels = per_cent(opts->cancels, 10);
    opts->deadlines = per_cent(opts->deadlines, 10);
    opts->forgets = opts->pool_count ? per_cent(opts->forgets, 2) : 0;
    if (opts->cancels < 0 || opts->deadlines < 0 || opts->forgets < 0 ||
        (int64_t)opts->cancels + opts->deadlines + opts->forgets > 90)
        return weir_error_set(err, WEIR_USAGE, "cancels, deadlines and forgets are of 100 lives, "
                              "and 10 at least must be left alone");
    if (opts->patience_ms < 0)
        return weir_error_set(err, WEIR_USAGE, "patience_ms must have an end");
    if (opts->pool_count && !opts->pools)
        return weir_error_set(err, WEIR_USAGE, "pool_count is %zu, but pools is NULL",
                              opts->pool_count);
    for (size_t i = 0; i < opts->pool_count; i++)
        if (!opts->pools[i])
            return weir_error_set(err, WEIR_USAGE, "pools[%zu] is NULL: make the pool first", i);
    return WEIR_OK;
}

static void run_free(struct run *run)
{
    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    free(run->open_before);
    free(run->forgetters);
    free(run);
}

static struct run *run_new(weir_fn fn, const weir_soak_opts *opts, weir_error *err)
{
    struct run *run = calloc(1, sizeof *run);

    if (!run)
        return NULL;
    *run = (struct run){ .fn = fn, .opts = *opts, .err = err, .random = opts->seed };
    run->open_before = calloc(OPENED_MAX, sizeof *run->open_before);
    run->forgetters = calloc(opts->concurrency, sizeof *run->forgetters);
    if (!run->open_before || !run->forgetters) {
        free(run->open_before);
        free(run->forgetters);
        free(run);
        return NULL;
    }
    for (unsigned i = 0; i < opts->concurrency; i++) {
        run->forgetters[i] = (struct forgetter){ .run = run, .next = run->spare };
        run->spare = &run->forgetters[i];
    }
    return run;
}

static void reset_counts(struct run *run)
{
    run->ended = run->well = run->failed = run->cancelled = run->late = run->forgotten = 0;
    run->leases.count = 0;
    run->mistakes = 0;
}

/* All of it, between run_new() and run_free(). False: somebody still refers to it. */
static bool soak(struct run *run)
{
    uint64_t first = run->opts.lives < run->opts.concurrency ? run->opts.lives
                                                             : run->opts.concurrency;

    weir_log_set(hear, run, WEIR_LOG_WARN);
    run->warming = true;
    bool ended = live_all(run, first);
    run->warming = false;
    if (!ended || run->findings || weir_check() != WEIR_OK)
        return ended;
    reset_counts(run);
    look_before(run);
    ended = live_all(run, run->opts.lives);
    if (!ended || weir_check() != WEIR_OK)
        return ended;
    settle(run, &run->after, run->before.in_use);
    judge_leases(run);
    judge_descriptors(run);
    judge_lives(run);
    sum_up(run);
    return true;
}

/* What is open is the process': two at once would blame each other. */
static bool running;

weir_status weir_soak(weir_fn fn, const weir_soak_opts *given, weir_error *err)
{
    weir_soak_opts opts = given ? *given : (weir_soak_opts){ .arg = NULL };
    weir_error     own;

    err = err ? err : &own;
    if (!fn || !weir_self())
        return weir_error_set(err, WEIR_USAGE, "weir_soak() needs a function, and a coroutine to "
                              "run it from: weir_run()");
    weir_status status = complete(&opts, err);
    if (status != WEIR_OK)
        return status;
    if (__atomic_test_and_set(&running, __ATOMIC_SEQ_CST))
        return weir_error_set(err, WEIR_USAGE, "another weir_soak() runs in this process: one "
                              "after the other");
    struct run *run = run_new(fn, &opts, err);
    if (!run || weir_alarm_reserve((int)opts.concurrency) != WEIR_OK) {
        if (run)
            run_free(run);
        __atomic_clear(&running, __ATOMIC_SEQ_CST);
        return weir_error_set(err, WEIR_NOMEM, "no memory for %u lives at once", opts.concurrency);
    }
    bool     ended = soak(run);
    unsigned findings = run->findings;
    if (ended) {
        run_free(run);
        (void)weir_alarm_reserve(-(int)opts.concurrency);
    } else {
        weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    }
    __atomic_clear(&running, __ATOMIC_SEQ_CST);
    status = weir_check();
    if (status != WEIR_OK)
        return weir_error_set(err, status, "the soak was interrupted");
    return findings ? WEIR_FAILED : WEIR_OK;
}
