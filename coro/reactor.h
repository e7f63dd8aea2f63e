/*
 * reactor.h - time and readiness, as the hub sees them.
 *
 * Knows:   a clock, interest in descriptors, waiting for either.
 * Ignores: coroutines.
 *
 * Three of them: reactor_epoll.c under weir_run(), reactor_ev.c on the libev loop that an
 * application runs already, and in the tests one whose clock jumps.
 *
 * The reactor drives: it calls hub_turn() whenever something may have become ready, and
 * does what the answer says.
 */
#ifndef REACTOR_H
#define REACTOR_H

#include <stdint.h>
#include <weir/hub.h>

struct reactor;

/* How long an interest in a descriptor lasts, and what is news of it. */
enum watch_mode {
    WATCH_ONCE,  /* until one event was reported; the number may be another file's than last time */
    WATCH_LEVEL, /* for good: its closing is announced. Reported as long as there is something */
    WATCH_EDGE   /* for good; may be reported only once, until there is more or it is asked for
                    anew: the kernel need not look again and again at what was read long ago */
};

struct reactor_ops {
    /* Nanoseconds, monotonic. */
    int64_t (*clock)(struct reactor *reactor);

    /* From now on report exactly these events of fd (WEIR_READ, WEIR_WRITE, 0 for none); those
       that there are already, too. Returns 0, or an errno: EPERM where the file is always
       ready, EBADF where there is none. */
    int (*watch)(struct reactor *reactor, int fd, int events, enum watch_mode mode);

    /* Any thread: make a turn happen soon. */
    void (*poke)(struct reactor *reactor);

    /* Turn until the hub says HUB_DONE. Only for a reactor that owns its loop. */
    void (*run)(struct reactor *reactor);

    void (*free)(struct reactor *reactor);

    /* In the child of a fork, where nothing is watched any more: be one of its own; where the
       hub's thread is not there, only let go of what the parent's kernel objects are. False
       when that cannot be. */
    bool (*forked)(struct reactor *reactor, bool thread_is_here);
};

struct reactor {
    const struct reactor_ops *ops;
    weir_hub                 *hub; /* set by hub_new() */
};

enum { FD_ENDED = 8 }; /* beside the others: no more will come, and nothing tells of that again */

enum hub_wish {
    HUB_AGAIN, /* more are ready: look for readiness without waiting, then turn again */
    HUB_WAIT,  /* nobody is: wait, but not past hub_next_alarm() */
    HUB_DONE   /* nobody is left */
};

enum hub_wish hub_turn(weir_hub *hub);
bool          hub_is_busy(const weir_hub *hub);    /* somebody is alive, if only parked */
int64_t       hub_next_alarm(const weir_hub *hub); /* INT64_MAX: none */
void          hub_fd_ready(weir_hub *hub, int fd, int events); /* WEIR_READ, WEIR_WRITE, FD_ENDED */
void          hub_fd_invalid(weir_hub *hub, int fd); /* it turned out to be no open file */
void          hub_cancel_main(weir_hub *hub);

/* Each of them returns NULL when out of memory or descriptors. */
struct reactor *reactor_epoll_new(bool cancel_on_signals); /* a loop of its own */
struct reactor *reactor_ev_new(struct ev_loop *loop);      /* the application's */

/* Is the libev we run with one we can work with? */
weir_status reactor_ev_check(weir_error *err);

/* Run `app` on any reactor that owns its loop. Takes the reactor. */
weir_status hub_run_on(struct reactor *reactor, const weir_run_opts *opts, weir_fn app, void *arg);

#endif
