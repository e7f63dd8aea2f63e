/*
 * blocking.h - a stranger's library, built as a shared one, that knows nothing of coroutines.
 */
#ifndef BLOCKING_H
#define BLOCKING_H

#include <sys/types.h>

/* Sleeps, and returns ms + 1, so that its result can be told from none. */
int blocking_sleep_ms(int ms);

/* For helper processes. */
ssize_t blocking_upper_case(const void *in, size_t in_size, void *out, size_t out_room);

#endif
