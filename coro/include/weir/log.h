/*
 * weir/log.h - where weir's own messages go.
 *
 * Standard error at WARN and above, unless told otherwise. A call site that repeats itself
 * is held to ten messages a second, and says how many it dropped. Credentials never appear.
 */
#ifndef WEIR_LOG_H
#define WEIR_LOG_H

#include <weir/api.h>

WEIR_BEGIN_DECLS

typedef enum weir_log_level {
    WEIR_LOG_DEBUG = 0,
    WEIR_LOG_INFO,
    WEIR_LOG_WARN,
    WEIR_LOG_ERROR,
    WEIR_LOG_OFF
} weir_log_level;

/* Receives one line without a newline. It must not yield, and may be called on any thread. */
typedef void (*weir_log_fn)(weir_log_level level, const char *line, void *arg);

/**
 * Send messages of `level` and above to `fn`; a NULL fn is standard error again.
 *
 * Yields:  no.  Context: any thread, best before the first weir_run().
 */
WEIR_API void weir_log_set(weir_log_fn fn, void *arg, weir_log_level level);

WEIR_END_DECLS

#endif
