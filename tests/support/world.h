/*
 * world.h - a hub on a clock that jumps.
 *
 * A world runs a test's main coroutine on a reactor of its own: when nobody is ready its
 * clock jumps to the next alarm. So half an hour passes in microseconds, always in the same
 * order, and nothing in a unit test sleeps. Descriptors are made ready by the test.
 *
 * Coroutines record, the test function asserts after the world has ended: a failing cmocka
 * assertion inside a coroutine would jump off its stack.
 */
#ifndef WORLD_H
#define WORLD_H

#include <weir/coro.h>
#include <weir/hub.h>

/* Run `app` in a world; returns its result. When nobody could ever run again the process is
   aborted: a hang would tell less. */
weir_status world_run(weir_fn app, void *arg);

/* Is there one on this thread? Else it has a real hub, or none. */
bool world_is_here(void);

/* The world's clock, in nanoseconds and milliseconds since it began. */
int64_t world_now_ns(void);
int64_t world_now_ms(void);

/* Let everybody who is ready, now or because of it, run; then let time pass. In a coroutine. */
void world_settle(void);
void world_advance_ms(int64_t ms);

/* Make a descriptor (any number; no file is behind it) ready for whoever watches it. */
void world_fd_ready(int fd, int events);
int  world_fd_watched(int fd); /* WEIR_READ | WEIR_WRITE */

#endif
