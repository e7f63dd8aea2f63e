/*
 * hub.h - a hub and its tasks, as the files of coro/ share them.
 *
 * Knows:   every field of both. Nobody outside of coro/ (and its tests) includes this.
 *
 * A task is in exactly one state; the functions of task.c and wait.c move it.
 */
#ifndef HUB_H
#define HUB_H

#include "context.h"
#include "hot.h"
#include "list.h"
#include "reactor.h"
#include "stack.h"

#include <weir/watch.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

enum task_state {
    TASK_READY,    /* in the ready queue */
    TASK_RUNNING,
    TASK_PARKED,   /* waits for a wake */
    TASK_RESERVED, /* has nothing to do; only weir_reserve_* tasks */
    TASK_DONE
};

/* What C++ keeps per thread about exceptions (__cxa_eh_globals): ours is per coroutine. */
struct cxx_state {
    void        *caught;
    unsigned int uncaught;
};

struct weir_task {
    /* what hot.h reads: these first, in this order */
    weir_exit_hook   hooks;    /* head of the list */
    int64_t          limit_ns; /* the earliest deadline of its scopes */
    bool             canceled;
    bool             shielded;
    bool             no_yield; /* in an exit hook, a destructor, an event's callback */

    /* what a switch touches */
    bool             woken;    /* between its ticket and its park */
    weir_task       *next_ready;
    uint64_t         token;   /* of the latest ticket; a wake with another one is stale */
    enum task_state  state;
    weir_status      woken_by; /* what the park will return */
    int              saved_errno;
    struct cxx_state cxx;
    int64_t          wake_at_ns;
    const char      *why;      /* what it waits for */
    weir_hub        *hub;
    struct context   context;

    /* what its life needs */
    weir_alarm      alarm;     /* at wake_at_ns or earlier: see wait.c */
    weir_scope     *scope;
    weir_fn         fn;
    void           *arg;
    void           *value;     /* weir_set_value() */
    struct stack   *stack;
    struct depot   *depot;
    weir_group     *group;
    struct list     link;      /* in its group: running or ended */
    struct list     joiners;   /* who waits for its end: see task.c */
    void          **locals;    /* WEIR_LOCAL_MAX of them once one is set */
    weir_status     status;    /* its result */
    bool            reserved;  /* made by weir_reserve_new */
    bool            retiring;  /* a reserved one that goes when its function returns */
    bool            remote_queued;    /* under the hub's lock */
    uint64_t        remote_token;     /* under the hub's lock */
    weir_task      *remote_next;      /* under the hub's lock */
    uint64_t        id;
    uint64_t        parent;    /* the coroutine that spawned it; 0: none did */
    const char     *name;
    const char     *site;

    /* what watch.h tells of it */
    int64_t  born_ns;
    uint64_t switched;  /* so often it was given the thread, while that is traced */
    int64_t  ran_ns;    /* for so long */
    bool     has_groups; /* it made one, which may be there still */
    unsigned searched;   /* full.c's mark */
};

/* Somebody who waits for something, on his own stack. */
struct waiter {
    struct list link;
    weir_waker  waker;
};

struct alarm_entry {
    int64_t     at_ns;
    weir_alarm *alarm;
};

struct fd_slot;

/* What weir_run() runs; on its thread's stack. */
struct program {
    weir_fn     app;
    void       *arg;
    weir_status result;
};

/* What the watchdog saw of a hub when it last looked. */
struct hub_seen {
    unsigned long long beat;
    int64_t            blocked_ns, ran_ns, waited_ns;
    bool               told;
};

enum { FD_CHUNK = 256, FD_CHUNKS = 4096 }; /* a million descriptors */

/* How long a turn may keep the loop from looking for readiness: switches, and nanoseconds
   (the time gevent gives one turn). */
enum { HUB_BATCH = 1024, HUB_BATCH_NS = 5000000 };

struct weir_hub {
    /* what hot.h reads: these first, in this order */
    weir_task       *running;
    int64_t          now_ns;
    unsigned         spent;       /* units of work without a wait: weir_spend() */

    /* what a switch touches */
    int              batch_left;  /* switches until the loop is asked again */
    int              until_clock; /* switches until the clock is read */
    int              stride;      /* of those, from one reading to the next */
    int64_t          read_ns;     /* when it was read last */
    weir_task       *ready_first, **ready_last;
    int             *errno_at;    /* this thread's; coroutines never leave it */
    struct cxx_state *cxx_at;     /* NULL without a C++ runtime */
    struct context   context;
    int              saved_errno;
    struct cxx_state cxx;
    int64_t          batch_end_ns;

    struct reactor  *reactor;
    atomic_bool      remote_pending;
    pthread_mutex_t  lock;         /* guards the list of wakes from other threads */
    weir_task       *remote_first, **remote_last;

    struct alarm_entry *alarms;    /* a heap of four children each, counted from 1 */
    unsigned            alarm_count, alarm_room, alarm_reserved, alarm_order;
    bool                ringing;

    struct fd_slot  *fds[FD_CHUNKS];

    struct depot     depot;        /* stacks of the usual size; others hang behind it */
    weir_task       *free_tasks;
    void            *task_blocks;
    weir_group      *root;         /* of detached tasks */
    struct list      groups;
    weir_exit_hook   end_hooks;    /* what is to be closed when the hub ends */
    weir_exit_hook   fork_hooks;   /* who is told in the child of a fork */
    uint64_t         last_id;
    unsigned         live;         /* tasks that weir_run() waits for */
    unsigned         busy_reserve; /* tasks in reserve that are at work */
    unsigned         reserve;
    bool             attached;     /* to the application's loop: never done */
    bool             ended;        /* app, and all that was spawned, and what was left open */
    weir_task       *main_task;    /* while `app` runs */
    weir_waker       last_one_waits; /* for everybody else to end */
    struct program  *program;        /* weir_run()'s; NULL when attached */
    weir_task       *adopted;        /* after a fork: whoever forked ends the hub, not main_body */

    /* what could still wake somebody: see deadlock.c */
    unsigned searches;        /* of full.c */
    unsigned watched;         /* descriptors the reactor watches */
    unsigned abroad;          /* coroutines that wait for a crew's thread */
    unsigned stuck;           /* deadlocks broken since anything happened */
    bool     no_remote_wakes; /* weir_run_opts */
    bool     heeds_signals;   /* one of which may cancel the main coroutine */

    /* what watch.h tells of it; other threads read the atomic ones */
    _Atomic(weir_hub *) next_hub; /* hubs.c */
    unsigned            number;   /* 1, 2, 3 ... in the process */
    pid_t               pid, tid; /* whose it is: a fork makes it another's */
    pthread_t           thread;
    atomic_ullong       beat;     /* odd: in a turn */
    struct hub_seen     seen;     /* watchdog.c's alone */
    atomic_uint         blocked;  /* turns that the watchdog found to take too long */
    atomic_bool         dump_asked;
    uint64_t            switches; /* without those since the clock was read last */
    int                 counted_from; /* what until_clock was then */
    int64_t             lag_ns, max_lag_ns; /* how late alarms rang: the last time, at most */

    bool            traced;
    weir_switch_fn  on_switch;
    void           *on_switch_arg;
    weir_task      *slice_of; /* who has the thread, NULL for the hub, since then: */
    int64_t         slice_from_ns;
};

_Static_assert(offsetof(struct weir_hub, running) == offsetof(struct hot_hub, running) &&
                   offsetof(struct weir_hub, now_ns) == offsetof(struct hot_hub, now_ns) &&
                   offsetof(struct weir_hub, spent) == offsetof(struct hot_hub, spent),
               "hot.h knows a hub");
_Static_assert(offsetof(struct weir_task, hooks) == offsetof(struct hot_task, hooks) &&
                   offsetof(struct weir_task, limit_ns) == offsetof(struct hot_task, limit_ns) &&
                   offsetof(struct weir_task, canceled) == offsetof(struct hot_task, canceled) &&
                   offsetof(struct weir_task, shielded) == offsetof(struct hot_task, shielded) &&
                   offsetof(struct weir_task, no_yield) == offsetof(struct hot_task, no_yield),
               "hot.h knows a task");

/* This thread's hub, NULL without one. */
#define hub_here_ ((weir_hub *)weir_hot_hub_)

static inline weir_task *task_here(void)
{
    return hot_self();
}

/* hub.c */
weir_hub *hub_new(struct reactor *reactor, const weir_run_opts *opts, weir_error *err);
void      hub_free(weir_hub *hub);

/* wait.c */
void task_make_ready(weir_task *task);
void task_wake(weir_task *task, weir_status with); /* one that is parked, or ready since */
/* What park.h leaves to it; false: its park is over before it begins, with *status. */
bool task_must_park(weir_task *task, int64_t until_ns, const char *why, weir_status *status);
void hub_batch_begin(weir_hub *hub);
bool hub_batch_over(weir_hub *hub);
void hub_start(weir_task *task); /* from the hub's own stack */
void hub_take_remote_wakes(weir_hub *hub);
void task_alarm_rang(weir_alarm *alarm);
weir_status wait_in(struct list *waiters, weir_deadline deadline, const char *why);
void wake_all(struct list *waiters);

/* Switches are counted by how far until_clock came, each time it is set: hub_pick() need not. */
static inline void hub_set_until_clock(weir_hub *hub, int picks)
{
    hub->switches += (uint64_t)((int64_t)hub->counted_from - hub->until_clock);
    hub->until_clock = hub->counted_from = picks;
}

static inline void hub_batch_end(weir_hub *hub)
{
    hub_set_until_clock(hub, 0);
    hub->batch_left = 0;
}

/* Who is next, or NULL when it is the loop's turn. */
static inline weir_task *hub_pick(weir_hub *hub)
{
    weir_task *task = hub->ready_first;

    if (!task)
        return NULL;
    if (--hub->until_clock <= 0 && hub_batch_over(hub))
        return NULL;
    hub->ready_first = task->next_ready;
    if (!hub->ready_first)
        hub->ready_last = &hub->ready_first;
    return task;
}

/* task.c */
weir_task *task_new(weir_hub *hub, const weir_spawn_opts *opts, weir_fn fn, void *arg,
                    const char *site, weir_error *err);
void task_forget(weir_task *task);  /* a done task's record, which is on its group's list */
void task_recycle(weir_task *task); /* ... or on none */
void task_make_context(weir_task *task);
void task_joiners(weir_task *task, void (*fn)(weir_task *joiner, void *arg), void *arg);
void tasks_free(weir_hub *hub);

/* group.c */
weir_group *group_make(weir_hub *hub, const weir_group_opts *opts);
void        group_member_done(weir_group *group, weir_task *task);
void        group_heed(weir_group *group); /* somebody hears of how its members end */
void        groups_destroy(weir_hub *hub);

/* alarm.c */
void alarms_ring(weir_hub *hub);

/* weir_alarm_reserve() for one. */
static inline bool alarm_reserve(weir_hub *hub)
{
    if (hub->alarm_reserved == hub->alarm_room)
        return weir_alarm_reserve(1) == WEIR_OK;
    hub->alarm_reserved++;
    return true;
}

static inline void alarm_give_back(weir_hub *hub)
{
    hub->alarm_reserved--;
}

/* fd.c */
void fds_free(weir_hub *hub);

/* local.c */
void locals_destroy(weir_task *task);

/* fault.c */
void fault_watch_thread(void);

/* hub.c */
void hub_end_adopted(weir_task *task); /* in its own coroutine */

/* hubs.c: every hub of the process */
void      hubs_add(weir_hub *hub);
void      hubs_remove(weir_hub *hub);
void      hubs_lock(void); /* none is freed until hubs_unlock() */
void      hubs_unlock(void);
weir_hub *hubs_first(void);
void      hubs_ask_for_dump(void); /* of each; async-signal-safe */
void      hubs_forked(weir_hub *mine); /* the others' threads are gone */

/* deadlock.c */
enum deadlock { DEADLOCK_NONE, DEADLOCK_POSSIBLE, DEADLOCK_BROKEN };
bool          hub_seems_stuck(const weir_hub *hub); /* cheap; false: it is not */
enum deadlock hub_break_deadlock(weir_hub *hub);
bool          hub_is_alone(void); /* no thread but this one, and idle ones of weir's own */

/* dump.c */
void hub_answer_dump(weir_hub *hub);
void dump_forked(void);
void tasks_each(weir_hub *hub, void (*fn)(weir_task *task, void *arg), void *arg); /* alive ones */

/* trace.c */
void hub_trace(weir_hub *hub, weir_task *to); /* who gets the thread now */

/* watchdog.c */
unsigned    watchdog_threads(void);
void        watchdog_forked(void);
weir_status watchdog_start_by_environment(int limit_ms, weir_error *err);

/* fork.c */
void fork_mind(void);

/* helper.c: around a fork */
void helpers_hold(void);
void helpers_let_go(void);
void helpers_forked(void);

/* remote_event.c: around a fork */
void remote_events_hold(void);
void remote_events_let_go(void);

/* group.c */
void groups_forked(weir_hub *hub, weir_task *survivor);

/* fd.c */
void fds_forked(weir_hub *hub);

/* alarm.c */
void alarms_forked(weir_hub *hub);

#endif
