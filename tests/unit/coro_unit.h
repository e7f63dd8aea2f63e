/*
 * coro_unit.h - what the unit tests of coro/ share.
 *
 * Knows:   what a coroutine under test noticed, what the library logged, which descriptors
 *          are open.
 * Ignores: which hub runs it: world_run() or weir_run().
 *
 * A failing cmocka assertion inside a coroutine would jump off its stack. So coroutines, and
 * threads, say HOLDS() and HOLDS_EQ(), which only take a note; the test function reads the
 * notes with run_world() or run_real(), or when it ends.
 *
 * A test declared by TEST() also fails when it leaves a descriptor open or a hub behind, or
 * when a warning was logged that it did not take with log_took().
 */
#ifndef CORO_UNIT_H
#define CORO_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <weir/coro.h>
#include <weir/hub.h>
#include <weir/log.h>

#include "context.h"
#include "world.h"

/* How many of something: tools pay for each coroutine, and TSan has room for 8,000. */
static inline int as_many_as(int plain, int watched)
{
    return context_is_watched() ? watched : plain;
}

/* ---- notes -------------------------------------------------------------------------- */

static struct unit_notes {
    pthread_mutex_t lock;
    unsigned        broken;
    char            first[512];
    size_t          logged;
    char            log[65536]; /* one line after the other */
    int             descriptors;
} unit_notes = { .lock = PTHREAD_MUTEX_INITIALIZER };

static inline void unit_note(const char *where, const char *what, long long got, long long wanted,
                             bool numbers)
{
    pthread_mutex_lock(&unit_notes.lock);
    if (unit_notes.broken++ == 0) {
        if (numbers)
            snprintf(unit_notes.first, sizeof unit_notes.first, "%s: %s: %lld, not %lld", where,
                     what, got, wanted);
        else
            snprintf(unit_notes.first, sizeof unit_notes.first, "%s: %s", where, what);
    }
    pthread_mutex_unlock(&unit_notes.lock);
}

static inline void unit_equal(long long got, long long wanted, const char *what, const char *where)
{
    if (got != wanted)
        unit_note(where, what, got, wanted, true);
}

#define HOLDS(expr) ((expr) ? (void)0 : unit_note(WEIR_HERE, #expr, 0, 0, false))
#define HOLDS_EQ(got, wanted)                                                             \
    unit_equal((long long)(got), (long long)(wanted), #got " == " #wanted, WEIR_HERE)

static inline void assert_notes(void)
{
    if (unit_notes.broken)
        fail_msg("%u notes, the first: %s", unit_notes.broken, unit_notes.first);
}

/* Run a main coroutine that returns WEIR_OK, and read what was noted. */
static inline void run_world(weir_fn app, void *arg)
{
    assert_int_equal(world_run(app, arg), WEIR_OK);
    assert_notes();
}

static inline void run_real(weir_fn app, void *arg)
{
    assert_int_equal(weir_run(app, arg), WEIR_OK);
    assert_notes();
}

/* ---- the log ------------------------------------------------------------------------ */

static inline void unit_log(weir_log_level level, const char *line, void *arg)
{
    (void)level;
    (void)arg;
    pthread_mutex_lock(&unit_notes.lock);
    size_t room = sizeof unit_notes.log - unit_notes.logged;
    int    n = snprintf(unit_notes.log + unit_notes.logged, room, "%s\n", line);
    if (n > 0)
        unit_notes.logged += (size_t)n < room ? (size_t)n : room - 1;
    pthread_mutex_unlock(&unit_notes.lock);
}

/* How many times the log says `words`. */
static inline int log_says(const char *words)
{
    int count = 0;

    pthread_mutex_lock(&unit_notes.lock);
    for (const char *at = unit_notes.log; (at = strstr(at, words)) != NULL; at++)
        count++;
    pthread_mutex_unlock(&unit_notes.lock);
    return count;
}

static inline void log_forget(void)
{
    pthread_mutex_lock(&unit_notes.lock);
    unit_notes.log[0] = '\0';
    unit_notes.logged = 0;
    pthread_mutex_unlock(&unit_notes.lock);
}

/* As log_says(), and the log is empty again: everything in it was expected. */
static inline int log_took(const char *words)
{
    int count = log_says(words);

    log_forget();
    return count;
}

/* ---- before and after each test ----------------------------------------------------- */

static inline int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int  count = -3; /* ".", ".." and the one of the directory itself */

    if (!dir)
        return -1;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static inline int unit_begin(void **state)
{
    (void)state;
    log_forget();
    unit_notes.broken = 0;
    unit_notes.descriptors = open_descriptors();
    weir_log_set(unit_log, NULL, WEIR_LOG_WARN);
    return 0;
}

static inline int unit_end(void **state)
{
    int bad = 0;

    (void)state;
    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    if (unit_notes.broken)
        bad += fprintf(stderr, "noted: %s\n", unit_notes.first);
    if (open_descriptors() != unit_notes.descriptors)
        bad += fprintf(stderr, "%d descriptors were open before, %d after\n",
                       unit_notes.descriptors, open_descriptors());
    if (weir_hub_here())
        bad += fprintf(stderr, "the thread still has a hub\n");
    if (unit_notes.logged)
        bad += fprintf(stderr, "logged, and not expected:\n%s", unit_notes.log);
    return bad ? -1 : 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, unit_begin, unit_end)

/* ---- small things ------------------------------------------------------------------- */

static inline int64_t real_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static inline weir_status sleep_ms(int64_t ms)
{
    return weir_sleep(weir_in_ms(ms));
}

#endif
