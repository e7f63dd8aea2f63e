/*
 * calls.h - how many system calls a stretch of work makes.
 *
 * Knows:   the calls of the thread that asks, from begin to end.
 * Ignores: what the work is; calls of other threads.
 */
#ifndef CALLS_H
#define CALLS_H

#include <stdbool.h>

/* Has this machine a way to count them? */
bool calls_countable(void);

bool calls_begin(void);

/* The calls since then; negative where one was met that cannot be counted. */
long calls_end(void);

#endif
