/*
 * log.c - where messages go, and how a site that repeats itself is held back.
 *
 * Messages are rare, so one lock around everything is enough; the sink is called outside
 * of it, because a sink may take locks of its own.
 */
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

enum { PER_SECOND = 10, LINE = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static weir_log_fn     sink;
static void           *sink_arg;
static weir_log_level  threshold = WEIR_LOG_WARN;
static int             told;       /* the program has said what it wants */

static void to_stderr(weir_log_level level, const char *line, void *arg)
{
    static const char *const names[] = { "debug", "info", "warning", "error" };

    (void)arg;
    fprintf(stderr, "weir: %s: %s\n", names[level], line);
}

void weir_log_set(weir_log_fn fn, void *arg, weir_log_level level)
{
    pthread_mutex_lock(&lock);
    sink = fn;
    sink_arg = arg;
    threshold = level;
    told = 1;
    pthread_mutex_unlock(&lock);
}

void log_default(weir_log_level level)
{
    pthread_mutex_lock(&lock);
    if (!told)
        threshold = level;
    pthread_mutex_unlock(&lock);
}

/* Under the lock. How many were dropped before this one, or -1 to drop it as well. */
static int admit(struct log_site *site)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (site->second != now.tv_sec) {
        int dropped = (int)site->dropped;
        *site = (struct log_site){ .second = now.tv_sec, .said = 1 };
        return dropped;
    }
    if (site->said < PER_SECOND) {
        site->said++;
        return 0;
    }
    site->dropped++;
    return -1;
}

void weir_log_say(struct log_site *site, weir_log_level level, const char *fmt, ...)
{
    int         saved_errno = errno;
    char        line[LINE];
    weir_log_fn fn;
    void       *arg;

    pthread_mutex_lock(&lock);
    int dropped = level < threshold ? -1 : admit(site);
    fn = sink ? sink : to_stderr;
    arg = sink_arg;
    pthread_mutex_unlock(&lock);
    if (dropped < 0)
        return;

    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (dropped > 0 && length >= 0 && length < LINE)
        snprintf(line + length, sizeof line - (size_t)length, " (%d more like this not shown)",
                 dropped);
    fn(level, line, arg);
    errno = saved_errno;
}

void log_hold(void)
{
    pthread_mutex_lock(&lock);
}

void log_let_go(void)
{
    pthread_mutex_unlock(&lock);
}
