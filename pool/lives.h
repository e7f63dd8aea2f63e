/*
 * lives.h - is a process still the one it was?
 */
#ifndef LIVES_H
#define LIVES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { LIFE_OVER = -1, LIFE_UNKNOWN = -2 };

/* What tells this holder of the number `pid` from those before and after; 0: cannot be known. */
uint32_t life_birth(pid_t pid);

/* A pidfd of the process born so (0: whoever has the number), which is readable once it has
   ended; LIFE_OVER; LIFE_UNKNOWN where there is no descriptor to be had. */
int life_watch(pid_t pid, uint32_t birth);

bool life_has_ended(int fd);               /* that of a pidfd */
bool life_is_over(pid_t pid, uint32_t birth); /* in doubt it is not */

#endif
