/*
 * spec.h - one file of MongoDB's "Connection Monitoring and Pooling" tests (CMAP), read.
 *
 * Knows:   the format, version 1, of style "unit" and "integration", and every name in it.
 * Ignores: how it is played (play.h), and which servers it is for: ours is a fake.
 *
 * A file that says something we do not know is refused with its name, never half played.
 */
#ifndef SPEC_H
#define SPEC_H

#include "fake_driver.h"

#include <bson/bson.h>

enum { SPEC_WORDS = 512, SPEC_ALWAYS = -1 };

enum verb {
    OP_START,
    OP_WAIT,
    OP_WAIT_FOR_THREAD,
    OP_WAIT_FOR_EVENT,
    OP_CHECK_OUT,
    OP_CHECK_IN,
    OP_CLEAR,
    OP_CLOSE,
    OP_READY,
    OP_VERBS
};

struct op {
    enum verb   verb;
    const char *name;
    const char *thread; /* who does it; NULL: the main one */
    const char *target; /* of start and waitForThread */
    const char *event;
    const char *label;      /* of checkOut */
    const char *connection; /* of checkIn: a label */
    int64_t     ms, count, timeout;
    bool        interrupt;
};

/* What the file wants the main thread to fail with. */
struct wanted_error {
    const char *type, *message, *address;
};

struct spec {
    bson_t             *doc; /* what everything below points into */
    const char         *description;
    weir_pool_opts      opts;
    struct fake_step    failing;       /* what a connect does while the fail point is on */
    int64_t             failing_skips; /* how many do it first that are not failed */
    int64_t             failing_times; /* for how many; SPEC_ALWAYS; 0: there is no fail point */
    /* Nobody looks after the pool in the background (an interval below 0): what a clear made
       stale lies there until somebody comes upon it. Of any other interval there is nothing to
       play: ours looks the moment something is due, which is no later. */
    bool                lets_stale_lie;
    struct op          *ops;
    unsigned            op_count;
    bool                wants_error;
    struct wanted_error error;
    bool                expects_clear; /* that no operation of it makes: the monitor's */
    bson_iter_t         events, ignored; /* lists; zeroed where the file has none */
};

/** Read a file. False, with the reason in `why`, where it cannot be played as it is meant. */
bool spec_read(const char *path, struct spec *out, char why[SPEC_WORDS]);
void spec_free(struct spec *spec);

/** Is it the name of one of the eleven events? */
bool spec_is_event(const char *name);

#endif
