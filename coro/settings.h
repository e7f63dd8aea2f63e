/*
 * settings.h - what the environment says, for those whom it concerns.
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <weir/settings.h>

/* Do what the environment asks for; before the first hub, and once. */
void settings_apply(void);

/* Bytes of a coroutine's stack where the program does not say. */
size_t settings_stack_size(void);

#endif
