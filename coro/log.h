/*
 * log.h - saying something from inside weir.
 */
#ifndef LOG_H
#define LOG_H

#include <stdint.h>
#include <weir/log.h>

/* One place in our code that speaks: what it said lately, so that it cannot flood. */
struct log_site {
    int64_t  second;
    unsigned said, dropped;
};

/* errno and the caller's coroutine stay as they are; never yields. */
WEIR_API void weir_log_say(struct log_site *site, weir_log_level level, const char *fmt, ...)
    WEIR_PRINTF(3, 4) WEIR_COLD;

#define LOG(level, ...)                                                                   \
    do {                                                                                  \
        static struct log_site site_;                                                     \
        weir_log_say(&site_, (level), __VA_ARGS__);                                       \
    } while (0)

/* What is logged, unless the program has said so itself. */
void log_default(weir_log_level level);

/* Around a fork: nobody is inside meanwhile. */
void log_hold(void);
void log_let_go(void);

#endif
