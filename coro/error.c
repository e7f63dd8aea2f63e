/*
 * error.c - statuses as words, and filling in an error.
 */
#include "log.h"

#include <stdio.h>
#include <string.h>
#include <weir/error.h>

const char *weir_status_name(weir_status status)
{
    static const char *const names[] = {
        [WEIR_OK] = "OK",           [WEIR_TIMEOUT] = "TIMEOUT", [WEIR_CANCELED] = "CANCELED",
        [WEIR_CLOSED] = "CLOSED",   [WEIR_FULL] = "FULL",       [WEIR_BUSY] = "BUSY",
        [WEIR_DEADLOCK] = "DEADLOCK", [WEIR_CONNECT] = "CONNECT", [WEIR_LOST] = "LOST",
        [WEIR_SERVER] = "SERVER",   [WEIR_USAGE] = "USAGE",     [WEIR_NOMEM] = "NOMEM",
        [WEIR_FAILED] = "FAILED",
    };

    if ((unsigned)status >= sizeof names / sizeof *names)
        return "(no weir_status)";
    return names[status];
}

weir_status weir_error_vset(weir_error *err, weir_status status, const char *fmt, va_list args)
{
    if (!err)
        return status;

    /* The arguments may point into *err itself: a message that quotes an earlier one. */
    weir_error made = { .status = status };
    vsnprintf(made.message, sizeof made.message, fmt, args);
    *err = made;
    return status;
}

weir_status weir_error_set(weir_error *err, weir_status status, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    weir_error_vset(err, status, fmt, args);
    va_end(args);
    return status;
}

weir_status weir_fail_at(const weir_error *err, const char *site)
{
    /* Each caller's place is held back for itself; places that share an entry, together. */
    static struct log_site sites[64];

    weir_log_say(&sites[((uintptr_t)site >> 3) % 64], WEIR_LOG_ERROR, "%s: %s: %s", site,
                 weir_status_name(err->status), err->message);
    return err->status;
}
