/*
 * settings.c - a table of environment variables, and what each of them sets.
 *
 * They are applied before the first hub, or before the program first says something of the kind
 * itself, so that what it says comes after and goes before them.
 */
#define _GNU_SOURCE /* secure_getenv */
#include "settings.h"

#include "hub.h"
#include "log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct setting {
    const char *name;
    const char *what;
    long        min, max;
    long        initial; /* 0: nothing is done */
    void      (*apply)(long value);
    long        value;   /* of the environment, once read */
    bool        found;
};

static const char *const levels[] = { "debug", "info", "warn", "error", "off" };

static void set_log(long value)
{
    log_default((weir_log_level)value);
}

static void set_offload(long value)
{
    weir_offload_limit((unsigned)value);
}

static void set_watch(long value)
{
    weir_error err;

    if (watchdog_start_by_environment((int)value, &err) != WEIR_OK)
        LOG(WEIR_LOG_WARN, "WEIR_WATCH_MS: %s", err.message);
}

static void set_dump(long value)
{
    weir_error err;

    if (weir_dump_on_signal((int)value, NULL, NULL, &err) != WEIR_OK)
        LOG(WEIR_LOG_WARN, "WEIR_DUMP_SIGNAL: %s", err.message);
}

enum { LOG_LEVEL, STACK_KIB, OFFLOAD_THREADS, WATCH_MS, DUMP_SIGNAL, SETTINGS };

static struct setting table[] = {
    [LOG_LEVEL] = { "WEIR_LOG", "what is logged", WEIR_LOG_DEBUG, WEIR_LOG_OFF, WEIR_LOG_WARN,
                    set_log, 0, false },
    /* BSON needs about 1 KiB a level of nesting. */
    [STACK_KIB] = { "WEIR_STACK_KIB", "KiB of each coroutine's stack", 16, 1 << 20, 256, NULL, 0,
                    false },
    [OFFLOAD_THREADS] = { "WEIR_OFFLOAD_THREADS", "threads for blocking work at most", 1, 1024, 10,
                          set_offload, 0, false },
    [WATCH_MS] = { "WEIR_WATCH_MS", "the watchdog's limit; 0: it is not started", 1, 3600000, 0,
                   set_watch, 0, false },
    [DUMP_SIGNAL] = { "WEIR_DUMP_SIGNAL", "has all coroutines written out; 0: none does", 1, 64, 0,
                      set_dump, 0, false },
    [SETTINGS] = { "WEIR_SETTINGS", "1: this table on standard error", 0, 1, 0, NULL, 0, false },
};

enum { COUNT = sizeof table / sizeof *table };

/* ---- reading -------------------------------------------------------------------------- */

static bool parse(const struct setting *setting, const char *text, long *value)
{
    char *end;

    if (setting == &table[LOG_LEVEL]) {
        for (long i = 0; i <= WEIR_LOG_OFF; i++) {
            if (strcmp(text, levels[i]) == 0) {
                *value = i;
                return true;
            }
        }
        return false;
    }
    *value = strtol(text, &end, 10);
    return *text && !*end && *value >= setting->min && *value <= setting->max;
}

static void read_one(struct setting *setting)
{
    const char *text = secure_getenv(setting->name);

    if (!text)
        return;
    setting->found = parse(setting, text, &setting->value);
    if (setting->found)
        return;
    if (setting == &table[LOG_LEVEL])
        LOG(WEIR_LOG_WARN, "%s=%s is not debug, info, warn, error or off: it is left aside",
            setting->name, text);
    else
        LOG(WEIR_LOG_WARN, "%s=%s is no number from %ld to %ld: it is left aside", setting->name,
            text, setting->min, setting->max);
}

static void to_stderr(const char *text, size_t size, void *arg)
{
    (void)arg;
    fwrite(text, 1, size, stderr);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_all(void)
{
    for (int i = 0; i < COUNT; i++)
        read_one(&table[i]);
}

void settings_apply(void)
{
    static atomic_flag applied = ATOMIC_FLAG_INIT;

    pthread_once(&once, read_all);
    if (atomic_flag_test_and_set(&applied))
        return;
    for (int i = 0; i < COUNT; i++)
        if (table[i].found && table[i].apply)
            table[i].apply(table[i].value);
    if (table[SETTINGS].found && table[SETTINGS].value)
        weir_settings_print(to_stderr, NULL);
}

size_t settings_stack_size(void)
{
    pthread_once(&once, read_all);
    const struct setting *stack = &table[STACK_KIB];

    return (size_t)(stack->found ? stack->value : stack->initial) * 1024;
}

/* ---- telling -------------------------------------------------------------------------- */

void weir_settings_print(weir_write_fn write, void *arg)
{
    char line[256];

    pthread_once(&once, read_all);
    for (int i = 0; i < COUNT; i++) {
        const struct setting *setting = &table[i];
        long value = setting->found ? setting->value : setting->initial;
        int  length;

        if (i == LOG_LEVEL)
            length = snprintf(line, sizeof line, "%-21s %-8s %-12s %s\n", setting->name,
                              levels[value], setting->found ? "environment" : "default",
                              setting->what);
        else
            length = snprintf(line, sizeof line, "%-21s %-8ld %-12s %s\n", setting->name, value,
                              setting->found ? "environment" : "default", setting->what);
        write(line, (size_t)length, arg);
    }
}
