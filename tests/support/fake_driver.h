/*
 * fake_driver.h - a driver that connects, stalls, breaks and answers on command.
 *
 * Knows:   what weir/driver.h asks of a driver; its server is a struct that the test fills in.
 * Ignores: pools, and what a test expects of them. Everything takes time of the hub's clock,
 *          which in a world is virtual.
 *
 * It watches its caller too: whatever the contract of weir/driver.h forbids the pool (closing
 * twice, using a connection that is not open, two at once on one) ends up in fake.fault.
 */
#ifndef FAKE_DRIVER_H
#define FAKE_DRIVER_H

#include "list.h"

#include <weir/driver.h>

enum { FAKE_FOREVER = -1, FAKE_SCRIPT = 64, FAKE_EVENTS = 512 };

/* What one call does. All zero: it succeeds at once, without yielding. */
struct fake_step {
    weir_status status; /* what comes of it, when nothing interrupts it */
    int64_t     ms;     /* how long it takes; FAKE_FOREVER: until it is interrupted */
    bool        deaf;   /* hears neither its deadline nor a cancel */
    const char *words;  /* the server's, when it fails */
    int         native; /* the server's code, when it fails */
};

enum fake_verb { FAKE_OPENING, FAKE_OPENED, FAKE_FAILED, FAKE_RESET, FAKE_PING, FAKE_CLOSING,
                 FAKE_CLOSED };

struct fake_event {
    enum fake_verb verb;
    int64_t        at_ms;
    uint64_t       conn;
    weir_farewell  how; /* of a close */
};

/* The server, as the test sees and commands it. */
struct fake {
    /* commands; all zero is a server that does everything at once */
    unsigned         sockets;                  /* a connection's; 0 means 1 */
    struct fake_step script[FAKE_SCRIPT];      /* the first attempts to open, one each ... */
    unsigned         scripted;
    struct fake_step open, reset, ping, close; /* ... and what it does else */
    int64_t          rest_ms;                  /* its idle timeout; 0: none */
    const char      *last_words;               /* before it ends a connection; NULL: none */
    weir_condition   condition;                /* of a connection whose user said nothing */

    /* what happened */
    const char       *fault;                   /* the first thing that a pool must not do */
    struct list       conns;                   /* those open now */
    unsigned          attempts, opened, resets, resets_failed, pings, checks, closed, abrupt;
    unsigned          interrupts, disowned;    /* ... in the child of a fork */
    unsigned          opening, opening_peak, pinging, pinging_peak;
    unsigned          alive, alive_peak;       /* open, and not told to close */
    unsigned          descriptors, descriptors_peak;
    unsigned          handles;                 /* allocations of open() that are not freed */
    unsigned          configs_freed;
    struct fake_event events[FAKE_EVENTS];
    unsigned          event_count;
};

extern const weir_driver fake_driver;

void fake_init(struct fake *fake); /* keeps the commands */

/* Have the next attempt that is not scripted yet do this. */
void fake_script(struct fake *fake, struct fake_step step);

/* A statement that takes `ms`, by the lease's holder. Interrupted, it leaves the connection
   in the middle of a reply. */
weir_status fake_query(weir_lease *lease, int64_t ms);

/* What check() will say of the connection, until it is reset. */
void fake_leave(weir_lease *lease, weir_condition condition);

/* What it would say now. */
weir_condition fake_condition(weir_lease *lease);

/* Let the server say something on each connection that nobody uses; returns how many. */
unsigned fake_stir(struct fake *fake);

/* When did it happen for the nth time (from 1)? In milliseconds of the world; -1: never. */
int64_t fake_when(const struct fake *fake, enum fake_verb verb, unsigned nth);

#endif
