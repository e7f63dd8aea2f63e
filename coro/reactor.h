/*
 * reactor.h - time and readiness, as the hub sees them.
 *
 * Knows:   a clock, interest in descriptors, waiting for either.
 * Ignores: coroutines. reactor_ev.c is the one on libev; the tests have one whose clock jumps.
 *
 * The reactor drives: it calls hub_turn() whenever something may have become ready, and
 * does what the answer says.
 */
#ifndef REACTOR_H
#define REACTOR_H

#include <stdint.h>
#include <weir/hub.h>

struct reactor;

struct reactor_ops {
    /* Nanoseconds, monotonic. */
    int64_t (*clock)(struct reactor *reactor);

    /* From now on report exactly these events of fd (WEIR_READ, WEIR_WRITE, 0 for none).
       `fresh` says that the number may stand for another file than last time.
       Returns 0, or an errno where the descriptor cannot be watched. */
    int (*watch)(struct reactor *reactor, int fd, int events, bool fresh);

    /* Any thread: make a turn happen soon. */
    void (*poke)(struct reactor *reactor);

    /* Turn until the hub says HUB_DONE. Only for a reactor that owns its loop. */
    void (*run)(struct reactor *reactor);

    void (*free)(struct reactor *reactor);
};

struct reactor {
    const struct reactor_ops *ops;
    weir_hub                 *hub; /* set by hub_new() */
};

enum hub_wish {
    HUB_AGAIN, /* more are ready: look for readiness without waiting, then turn again */
    HUB_WAIT,  /* nobody is: wait, but not past hub_next_alarm() */
    HUB_DONE   /* nobody is left */
};

enum hub_wish hub_turn(weir_hub *hub);
bool          hub_is_busy(const weir_hub *hub);    /* somebody is alive, if only parked */
int64_t       hub_next_alarm(const weir_hub *hub); /* INT64_MAX: none */
void          hub_fd_ready(weir_hub *hub, int fd, int events);
void          hub_fd_invalid(weir_hub *hub, int fd); /* it turned out to be no open file */
void          hub_cancel_main(weir_hub *hub);

/* On libev: a loop of its own (NULL), or the application's. NULL when out of
   memory or descriptors. */
struct reactor *reactor_ev_new(struct ev_loop *loop, bool cancel_on_signals);

/* Is the libev we run with one we can work with? */
weir_status reactor_ev_check(weir_error *err);

/* Run `app` on any reactor, as weir_run() does on libev. Takes the reactor. */
weir_status hub_run_on(struct reactor *reactor, const weir_run_opts *opts, weir_fn app, void *arg);

#endif
