/*
 * patch_time.c - sleeping, by libraries that believe they block.
 */
#define _GNU_SOURCE
#include "patch_calls.h"

#include <errno.h>
#include <unistd.h>

/* False, and errno: it was cut short. What is left goes to *rest, which may be NULL. */
static bool sleep_in(struct call *call, const struct timespec *time, struct timespec *rest)
{
    weir_deadline until = patch_after(time->tv_sec, time->tv_nsec);
    weir_status   status;

    call_wait_begin(call);
    status = weir_sleep(until);
    call_wait_end(call);
    if (call_waited(call, status))
        return true;
    int64_t left = until.at_ns - weir_in_ms(0).at_ns;
    if (rest)
        *rest = left <= 0 ? (struct timespec){ 0 }
                          : (struct timespec){ left / 1000000000, left % 1000000000 };
    return false;
}

int patched_nanosleep(struct seat *seat, const struct timespec *time, struct timespec *rest)
{
    struct call call;

    if (!patch_is_time(time) || !call_begin(&call, seat, "nanosleep"))
        return nanosleep(time, rest);
    int result = sleep_in(&call, time, rest) ? 0 : -1;
    call_end(&call);
    return result;
}

/* `while (left) left = sleep(left)` must come to an end: so nothing is ever left. */
unsigned patched_sleep(struct seat *seat, unsigned seconds)
{
    struct call call;

    if (!call_begin(&call, seat, "sleep"))
        return sleep(seconds);
    (void)sleep_in(&call, &(struct timespec){ .tv_sec = seconds }, NULL);
    call_end(&call);
    return 0;
}

int patched_usleep(struct seat *seat, useconds_t microseconds)
{
    struct timespec time = { microseconds / 1000000, (long)(microseconds % 1000000) * 1000 };
    struct call     call;

    if (!call_begin(&call, seat, "usleep"))
        return usleep(microseconds);
    int result = sleep_in(&call, &time, NULL) ? 0 : -1;
    call_end(&call);
    return result;
}

/* ---- by a clock --------------------------------------------------------------------- */

static int64_t ns_of(const struct timespec *time)
{
    return time->tv_sec >= INT64_MAX / 1000000000 - 1
               ? INT64_MAX
               : time->tv_sec * INT64_C(1000000000) + time->tv_nsec;
}

/* The clock may be set back meanwhile. (That it is set forward goes unnoticed.) */
static bool sleep_until(struct call *call, clockid_t clock, const struct timespec *time)
{
    for (;;) {
        struct timespec now;
        clock_gettime(clock, &now);
        int64_t left = ns_of(time) - ns_of(&now);
        if (left <= 0)
            return true;
        struct timespec rest = { left / 1000000000, left % 1000000000 };
        if (!sleep_in(call, &rest, NULL))
            return false;
    }
}

/* It returns its error and leaves errno alone. Of other clocks (of processor time) a hub knows
   nothing: those sleeps block. */
int patched_clock_nanosleep(struct seat *seat, clockid_t clock, int flags,
                            const struct timespec *time, struct timespec *rest)
{
    int         kept = errno;
    bool        known = clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME ||
                        clock == CLOCK_BOOTTIME;
    struct call call;

    if (!known || !patch_is_time(time) || !call_begin(&call, seat, "clock_nanosleep"))
        return clock_nanosleep(clock, flags, time, rest);
    bool slept = flags & TIMER_ABSTIME ? sleep_until(&call, clock, time)
                                       : sleep_in(&call, time, rest);
    call_end(&call);
    int error = slept ? 0 : errno;
    errno = kept;
    return error;
}
