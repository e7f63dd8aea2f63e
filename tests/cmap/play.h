/*
 * play.h - a CMAP file played on a pool over the fake driver, in the virtual world.
 */
#ifndef PLAY_H
#define PLAY_H

#include "spec.h"

/** Play it from the first operation to the last, and match what happened. False, with the reason
    in `why`, where it did not happen as the file expects. */
bool play(const struct spec *spec, char why[SPEC_WORDS]);

#endif
