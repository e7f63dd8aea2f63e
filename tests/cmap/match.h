/*
 * match.h - is what happened what a CMAP file expects?
 *
 * Knows:   CMAP's rules of matching.
 * Ignores: pools.
 */
#ifndef MATCH_H
#define MATCH_H

#include "spec.h"

/**
 * Do the events that happened, less those of the types to ignore, begin with those expected, in
 * that order? Each must have at least the fields expected; 42 or "42" stands for any value.
 */
bool match_events(const struct spec *spec, bson_t *const *happened, unsigned count,
                  char why[SPEC_WORDS]);

/** Did the main thread fail as it should, or not at all where it should not? */
bool match_error(const struct spec *spec, const weir_error *error, char why[SPEC_WORDS]);

#endif
