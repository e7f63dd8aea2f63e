/*
 * weir/settings.h - what can be set from outside of a program.
 *
 * Knows:   environment variables, read once, before the first hub of the process.
 * Ignores: pools: their options are the program's, and the databases' URIs.
 *
 * What the program says itself goes before what the environment says, and that before the
 * default. A value that cannot be understood is logged and left aside. In a set-user-ID program
 * the environment is not read.
 *
 *     WEIR_LOG              debug, info, warn, error or off: what is logged (warn)
 *     WEIR_STACK_KIB        size of each coroutine's stack (256)
 *     WEIR_OFFLOAD_THREADS  threads for blocking work at most (10)
 *     WEIR_WATCH_MS         start the watchdog with this limit, see weir/watch.h (it is not); one
 *                           that the program starts takes its place
 *     WEIR_DUMP_SIGNAL      number of a signal that has all coroutines written to standard
 *                           error; see weir_dump_on_signal() (none)
 *     WEIR_SETTINGS         1: write this table, with the values in force, to standard error
 */
#ifndef WEIR_SETTINGS_H
#define WEIR_SETTINGS_H

#include <weir/watch.h>

WEIR_BEGIN_DECLS

/**
 * Write a line for each setting: its name, the value in force, where that comes from, and what
 * it is.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API void weir_settings_print(weir_write_fn write, void *arg);

WEIR_END_DECLS

#endif
