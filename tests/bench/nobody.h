/*
 * nobody.h - drivers whose connections speak to nobody.
 *
 * Knows:   weir/driver.h.
 * Ignores: what a pool does with them.
 */
#ifndef NOBODY_H
#define NOBODY_H

#include <weir/driver.h>

/* Counted as a socket each, without having one. */
extern const weir_driver nobody_driver;

/* The same, and not counted either: for more than there can be descriptors. */
extern const weir_driver nothing_driver;

/* A socket pair each, watched while idle, as a real connection is. */
extern const weir_driver pair_driver;

/* An eventfd each, watched in the same way: for very many. */
extern const weir_driver eventfd_driver;

#endif
