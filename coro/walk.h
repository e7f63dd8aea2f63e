/*
 * walk.h - where a coroutine that does not run has got to.
 *
 * Knows:   how to begin a backtrace at saved registers.
 * Ignores: coroutines, and what is done with the frames.
 */
#ifndef WALK_H
#define WALK_H

#include "context.h"

enum { WALK_FRAMES = 32 };

/* Frames of one that is switched out, innermost first: at most `max`, and WALK_FRAMES. 0 where it
   has not begun yet, or they cannot be found on this machine. Not for signal handlers. */
int walk_parked(const struct context *context, void **frames, int max);

#endif
