/*
 * under_valgrind.h - is this program run by valgrind, where everything takes twenty times as
 * long?
 *
 * False too where the build found no header of valgrind's to ask with.
 */
#ifndef UNDER_VALGRIND_H
#define UNDER_VALGRIND_H

#include <stdbool.h>

#ifdef WEIR_HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

static inline bool under_valgrind(void)
{
#ifdef WEIR_HAVE_VALGRIND
    return RUNNING_ON_VALGRIND != 0;
#else
    return false;
#endif
}

#endif
