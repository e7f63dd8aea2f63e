/*
 * weir/error.h - what went wrong, and what to do about it.
 *
 * A status says what the caller does next; the words, the server's own code and its
 * SQLSTATE go into a weir_error that the caller owns. There is no "last error" of the
 * thread: any wait would let another coroutine overwrite it.
 */
#ifndef WEIR_ERROR_H
#define WEIR_ERROR_H

#include <stdarg.h>
#include <weir/api.h>

WEIR_BEGIN_DECLS

typedef enum weir_status {
    WEIR_OK = 0,
    WEIR_TIMEOUT,   /* a deadline passed: the argument's, a scope's or a limit of the pool */
    WEIR_CANCELED,  /* this coroutine was cancelled: clean up and return */
    WEIR_CLOSED,    /* the pool, group or descriptor is closed: stop using it */
    WEIR_FULL,      /* a queue is at its limit: shed load or try later */
    WEIR_BUSY,      /* someone else is using it: the message names both */
    WEIR_DEADLOCK,  /* waiting could never end: the message names the holders */
    WEIR_CONNECT,   /* no connection could be opened: the message has the server's words */
    WEIR_LOST,      /* the connection broke or was cut: look at the outcome, then retry */
    WEIR_SERVER,    /* the server answered with an error; the connection is well */
    WEIR_USAGE,     /* the call was wrong: the message says how to mend it */
    WEIR_NOMEM,     /* memory, a stack or a thread could not be had */
    WEIR_FAILED     /* for a task's own failures; weir_lease_fail() says it where none is known */
} weir_status;

/* What became of the last statement of a lease that failed. */
typedef enum weir_outcome {
    WEIR_OUTCOME_UNKNOWN = 0,  /* sent, and no answer came: it may or may not have been done */
    WEIR_OUTCOME_NOT_SENT,     /* the server never saw it: safe to repeat */
    WEIR_OUTCOME_DONE          /* the server answered: done, or refused with the error given */
} weir_outcome;

enum { WEIR_ERROR_TEXT = 234 };

/* 256 bytes, so that it fits on any coroutine's stack. */
typedef struct weir_error {
    weir_status  status;
    weir_outcome outcome;
    int          native;      /* the client library's or the kernel's own code, else 0 */
    char         sqlstate[6]; /* "" where there is none */
    char         message[WEIR_ERROR_TEXT];
} weir_error;

/** The status as a word, "TIMEOUT" for WEIR_TIMEOUT. Any thread; never NULL. */
WEIR_API const char *weir_status_name(weir_status status);

/**
 * Fill in *err and return its status, so that a function can end with
 * `return weir_error_set(err, WEIR_USAGE, "...")`. A NULL err is fine.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API weir_status weir_error_set(weir_error *err, weir_status status, const char *fmt, ...)
    WEIR_PRINTF(3, 4) WEIR_COLD;
WEIR_API weir_status weir_error_vset(weir_error *err, weir_status status, const char *fmt,
                                     va_list args) WEIR_PRINTF(3, 0) WEIR_COLD;

/**
 * Log *err at ERROR level with the caller's place, and return its status: the short way
 * out of a task that has nothing better to do with an error.
 *
 * Yields:  no.  Context: any thread.
 */
#define weir_fail(err) weir_fail_at((err), WEIR_HERE)
WEIR_API weir_status weir_fail_at(const weir_error *err, const char *site) WEIR_COLD;

WEIR_END_DECLS

#endif
