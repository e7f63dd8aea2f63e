/*
 * scarce.h - memory that runs out, at a place of the test's choosing.
 *
 * Knows:   each malloc, calloc, realloc, strdup and mmap of our own code in this program: the
 *          linker has them pass through here (see scarce_link() in tests/CMakeLists.txt).
 * Ignores: those of shared libraries; other threads than the one that asked.
 */
#ifndef SCARCE_H
#define SCARCE_H

#include <stdbool.h>

enum scarcity {
    ONE_FAILS,   /* the nth from now on, counted from 1 */
    ALL_FAIL,    /* the nth and all after it */
    NOBODY_FAILS /* they are counted */
};

void     scarce_begin(unsigned nth, enum scarcity how);
unsigned scarce_end(void);    /* how many there were since then */
bool     scarce_struck(void); /* did any fail since scarce_begin()? */

#endif
