/*
 * weir/coro.h - coroutines that wait without blocking their thread.
 *
 * Knows:   running, spawning, waiting, deadlines, cancelling, blocking work.
 * Ignores: pools and databases (weir/pool.h, weir/mysql.h).
 * Threads: each thread may run a hub of its own; a coroutine never leaves its thread. Unless
 *          a comment says "any thread", call only from the hub's thread. Nothing here may be
 *          called from a signal handler.
 *
 * A call that "yields" lets other coroutines run before it returns. Every such call fails
 * with WEIR_CANCELED once the coroutine was cancelled, and with WEIR_TIMEOUT once its
 * argument's deadline or that of an enclosing WEIR_DEADLINE has passed, whichever is first.
 * errno, deadline scopes, coroutine-locals and C++ exception state are each coroutine's own.
 */
#ifndef WEIR_CORO_H
#define WEIR_CORO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <weir/api.h>
#include <weir/error.h>

WEIR_BEGIN_DECLS

struct ev_loop;
struct addrinfo;
typedef struct weir_task  weir_task;
typedef struct weir_group weir_group;

/* A coroutine's body. What it returns is its result; WEIR_OK means it succeeded. */
typedef weir_status (*weir_fn)(void *arg);

/* In an option of type *_ms: no limit at all. Zero means the default. */
#define WEIR_NEVER (-1)

/* ---- running ------------------------------------------------------------------------ */

typedef struct weir_run_opts {
    bool   cancel_on_signals; /* SIGTERM and SIGINT cancel `app` instead of ending the process;
                                 for one hub of the process at a time */
    size_t stack_size;        /* bytes of each coroutine's stack (256 KiB; virtual, only what is
                                 touched becomes resident) */
    bool   no_remote_wakes;   /* no other thread wakes this hub's coroutines (weir_wake_remote,
                                 weir_remote_event_set, pools on hubs of other threads): a deadlock
                                 is then seen while there are such threads, too; see weir/watch.h */
} weir_run_opts;

/**
 * Run `app` as the main coroutine of this thread, on a loop of its own, until it and
 * everything it spawned have ended.
 *
 * Context: a thread without a hub.
 * Returns: what `app` returned; WEIR_USAGE where this thread has a hub already; WEIR_NOMEM
 *          (logged) where memory is short, or the three descriptors that a hub needs.
 *          Failures of detached tasks (spawned with a NULL group) are logged, not returned.
 */
WEIR_API weir_status weir_run(weir_fn app, void *arg);
WEIR_API weir_status weir_run_with(const weir_run_opts *opts, weir_fn app, void *arg);

/**
 * Make this thread a hub on the libev loop it already runs. Coroutines spawned from then on
 * run from inside ev_run(loop); weir_spawn() may be called from the loop's own callbacks.
 *
 * ev_run(loop) goes on while a coroutine is alive, or a pool has a connection open.
 *
 * Context: a thread without a hub; the loop must outlive the attachment.
 * Returns: WEIR_OK, WEIR_USAGE, WEIR_NOMEM (memory, or descriptors).
 */
WEIR_API weir_status weir_attach(struct ev_loop *loop, const weir_run_opts *opts,
                                 weir_error *err) WEIR_MUST_CHECK;

/**
 * Undo weir_attach().
 *
 * Context: the thread that attached, outside of any coroutine.
 * Returns: WEIR_OK; WEIR_BUSY while a coroutine is alive (the oldest is named, weir_dump() shows
 *          all) or a pool open, and changes nothing.
 */
WEIR_API weir_status weir_detach(weir_error *err) WEIR_MUST_CHECK;

/**
 * Check what weir relies on in this process: the libev it runs with, guards below stacks. Made
 * by itself before the first hub; drivers have checks of their own (weir_mysql_selfcheck).
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE or WEIR_NOMEM with what is wrong and how to mend it.
 */
WEIR_API weir_status weir_selfcheck(weir_error *err) WEIR_MUST_CHECK;

/* ---- time --------------------------------------------------------------------------- */

/* A point on the monotonic clock. A struct, so that a bare 250 does not compile. */
typedef struct weir_deadline {
    int64_t at_ns;
} weir_deadline;

static inline weir_deadline weir_deadline_at(int64_t at_ns)
{
    weir_deadline d;
    d.at_ns = at_ns;
    return d;
}

#define WEIR_FOREVER weir_deadline_at(INT64_MAX) /* no deadline of this call's own */
#define WEIR_SCOPE WEIR_FOREVER                  /* the same, said where a scope is in force */
#define WEIR_NOW weir_deadline_at(0)             /* don't wait: what is not there is a TIMEOUT */

/**
 * The deadline `ms` milliseconds from now. Reads the clock (27 ns), so it is right even in a
 * coroutine that has computed for long. Negative counts as zero.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API weir_deadline weir_in_ms(int64_t ms);

/* One entry of a coroutine's stack of scopes; use WEIR_DEADLINE and WEIR_SHIELD. */
typedef struct weir_scope {
    struct weir_scope *outer_;
    int64_t            limit_ns_;
    bool               shielded_;
} weir_scope;

WEIR_API void weir_scope_enter(weir_scope *scope, weir_deadline deadline, bool shield);
WEIR_API void weir_scope_leave(weir_scope *scope);

/*
 * From here to the closing brace every wait of this coroutine obeys `deadline`: weir's own
 * calls, the pool's, and those inside the client libraries. Scopes nest; the earliest wins.
 */
#define WEIR_DEADLINE(deadline) \
    __attribute__((cleanup(weir_scope_leave))) weir_scope WEIR_JOIN(weir_scope_, __LINE__); \
    weir_scope_enter(&WEIR_JOIN(weir_scope_, __LINE__), (deadline), false)

/*
 * From here to the closing brace a cancel and the outer deadlines are not seen, only
 * `deadline` is: for what must be finished on the way out.
 */
#define WEIR_SHIELD(deadline) \
    __attribute__((cleanup(weir_scope_leave))) weir_scope WEIR_JOIN(weir_scope_, __LINE__); \
    weir_scope_enter(&WEIR_JOIN(weir_scope_, __LINE__), (deadline), true)

/* ---- tasks -------------------------------------------------------------------------- */

typedef struct weir_spawn_opts {
    const char   *name;       /* shown in reports; borrowed, must outlive the task */
    size_t        stack_size; /* bytes (the hub's default) */
    weir_deadline start;      /* it begins then (when the caller next yields); see
                                 weir_spawn_after() */
} weir_spawn_opts;

/**
 * Start `fn(arg)` as a coroutine of `group`. It runs when the caller next yields, never at
 * once. A NULL group makes it detached: nobody joins it and a failure is only logged.
 *
 * Where the group is full (weir_group_opts.max_running) the caller waits for a place. It gets
 * WEIR_DEADLOCK instead where none of the members could ever make one: each waits for a place
 * itself, or, without a deadline, for a group or a coroutine that does (and so on).
 *
 * Yields:  only for a full group.
 * Context: the hub's thread; outside a coroutine a full group refuses instead of waiting.
 * Owner:   the task is borrowed from the group: valid until the group forgets it (see
 *          weir_group_opts.keep), for a detached one until it ends.
 * Returns: NULL when it could not be started. Its group's wait reports the reason
 *          (WEIR_NOMEM, WEIR_CANCELED, WEIR_TIMEOUT, WEIR_CLOSED, WEIR_DEADLOCK), as if it
 *          were a member that failed.
 */
#define weir_spawn(group, fn, arg) weir_spawn_at((group), NULL, (fn), (arg), WEIR_HERE)
#define weir_spawn_with(group, opts, fn, arg) \
    weir_spawn_at((group), (opts), (fn), (arg), WEIR_HERE)
WEIR_API weir_task *weir_spawn_at(weir_group *group, const weir_spawn_opts *opts, weir_fn fn,
                                  void *arg, const char *site);

/**
 * The same, but it begins at `start`. It is a member from now on: it is waited for, and holds
 * a place of a full group. One that is cancelled before it began, or whose group's deadline
 * comes first, never runs; it ends with WEIR_CANCELED or WEIR_TIMEOUT, and its exit hooks run.
 */
#define weir_spawn_after(group, start, fn, arg) \
    weir_spawn_after_at((group), (start), (fn), (arg), WEIR_HERE)
static inline weir_task *weir_spawn_after_at(weir_group *group, weir_deadline start, weir_fn fn,
                                             void *arg, const char *site)
{
    weir_spawn_opts opts = { NULL, 0, start };
    return weir_spawn_at(group, &opts, fn, arg, site);
}

/** The running coroutine, NULL outside of one. Any thread. */
WEIR_API weir_task *weir_self(void);

WEIR_API uint64_t    weir_task_id(const weir_task *task);   /* 1, 2, 3 ... in each hub */
WEIR_API const char *weir_task_name(const weir_task *task); /* never NULL */
WEIR_API const char *weir_task_site(const weir_task *task); /* where it was spawned */
WEIR_API uint64_t    weir_task_parent(const weir_task *task); /* by whom; 0: by no coroutine */
WEIR_API bool        weir_task_done(const weir_task *task);

/**
 * What it gave back: its body's result, and the pointer it said with weir_set_value(). Both are
 * there once it has ended, for as long as its group remembers it, and already for its exit
 * hooks (weir/hub.h), which are how to be told of the end of another one's task. WEIR_OK and
 * NULL before.
 */
WEIR_API weir_status weir_task_status(const weir_task *task);
WEIR_API void       *weir_task_value(const weir_task *task);

/**
 * Give back a pointer beside the status; the last one counts (NULL). weir only hands it on.
 *
 * Yields:  no.  Context: the coroutine whose value it is; outside of one nothing happens.
 * Owner:   what it points to must not be on this coroutine's stack; whoever reads it owns it.
 */
WEIR_API void weir_set_value(void *value);

/**
 * Wait until `task` has ended; its result goes to *result, its value to *value (both may be
 * NULL).
 *
 * Yields:  unless it has ended already.
 * Context: a coroutine other than `task`.
 * Returns: WEIR_OK when it ended; WEIR_TIMEOUT, WEIR_CANCELED of this wait; WEIR_USAGE.
 */
WEIR_API weir_status weir_join(weir_task *task, weir_deadline deadline, weir_status *result);
WEIR_API weir_status weir_join_value(weir_task *task, weir_deadline deadline, weir_status *result,
                                     void **value);

/**
 * Ask `task` to end: its current wait, and each later one, returns WEIR_CANCELED, and it
 * unwinds itself. Sticky; a shield (WEIR_SHIELD) holds it off. Never frees or stops anything
 * by force. NULL and a task that has ended are fine.
 *
 * Yields:  no.
 */
WEIR_API void weir_cancel(weir_task *task);

/**
 * weir_cancel() and weir_join() in one, for the way out: shielded, so that neither a cancel of
 * the caller nor an outer deadline cuts it short, only `deadline`. After a TIMEOUT it still runs.
 */
WEIR_API weir_status weir_stop(weir_task *task, weir_deadline deadline, weir_status *result);

/**
 * What the next wait would say, without waiting: WEIR_CANCELED, WEIR_TIMEOUT or WEIR_OK.
 * For loops that compute for long.
 */
WEIR_API weir_status weir_check(void);

/* ---- groups ------------------------------------------------------------------------- */

typedef enum weir_keep {
    WEIR_KEEP_ALL = 0,   /* every member's record, until the group is freed */
    WEIR_KEEP_FAILURES,  /* those of members that failed; for groups as old as the service */
    WEIR_KEEP_COUNTS,    /* no record: the counts, and the first failure's status */
    WEIR_KEEP_UNTOLD     /* each until weir_group_next() has told it */
} weir_keep;

typedef struct weir_group_opts {
    const char   *name;        /* shown in reports; borrowed */
    unsigned      max_running; /* members alive at once; spawning waits above it (no limit) */
    weir_deadline deadline;    /* obeyed by every member, as a scope around it (none) */
    weir_keep     keep;        /* what is remembered of members that have ended */
} weir_group_opts;

/* What the group knows of one member. */
typedef struct weir_member {
    weir_task  *task;   /* NULL for a spawn that failed, and for one the group has forgotten */
    uint64_t    id;     /* of the task; 0 for a spawn that failed */
    const char *name;
    const char *site;   /* where it was spawned */
    bool        done;
    weir_status status; /* its result, once done */
    void       *value;  /* what it said with weir_set_value(), once done */
} weir_member;

/**
 * Make a group: tasks that are waited for together. Members obey the deadline scopes that
 * surround this call, and the group's own.
 *
 * Context: the hub's thread.
 * Owner:   *out is yours, until weir_group_free().
 * Returns: WEIR_OK, WEIR_NOMEM, WEIR_USAGE (no hub on this thread).
 */
WEIR_API weir_status weir_group_new(const weir_group_opts *opts, weir_group **out,
                                    weir_error *err) WEIR_MUST_CHECK;

/**
 * Wait until every member has ended.
 *
 * Yields:  unless none is running.
 * Context: a coroutine that is no member itself.
 * Returns: WEIR_OK when all succeeded; else the status of the member that failed first.
 *          WEIR_TIMEOUT or WEIR_CANCELED where this wait ended early: members go on, and
 *          weir_group_running() tells how many.
 */
WEIR_API weir_status weir_group_wait(weir_group *group, weir_deadline deadline);

/**
 * Wait for the next member to end. They are told in the order in which they ended, each once,
 * and spawns that failed among them: call it once for any of them, n times for the first n.
 *
 * Only what the group keeps can be told later than it ended: WEIR_KEEP_UNTOLD is made for this
 * (and forgets what was told); WEIR_KEEP_ALL does too. Of several callers the one who came
 * first gets the one that ends first.
 *
 * Yields:  unless one that ended has not been told yet.
 * Context: a coroutine that is no member itself.
 * Returns: WEIR_OK and *out filled in; WEIR_CLOSED when none runs and all have been told;
 *          WEIR_TIMEOUT, WEIR_CANCELED of this wait; WEIR_USAGE for a member.
 */
WEIR_API weir_status weir_group_next(weir_group *group, weir_deadline deadline, weir_member *out);

/** Cancel every member that runs now, and refuse new ones with WEIR_CANCELED. */
WEIR_API void weir_group_cancel(weir_group *group);

/**
 * weir_group_cancel() and weir_group_wait() in one, for the way out: shielded, so that only
 * `deadline` cuts it short.
 *
 * Returns: as weir_group_wait(); weir_group_running() tells whether it has all ended.
 */
WEIR_API weir_status weir_group_stop(weir_group *group, weir_deadline deadline);

WEIR_API unsigned weir_group_running(const weir_group *group);
WEIR_API uint64_t weir_group_spawned(const weir_group *group); /* since it was made */
WEIR_API uint64_t weir_group_failed(const weir_group *group);  /* ended, not with WEIR_OK */

/** Call fn for each member remembered: those that failed, in that order, then spawns that
    failed, those that succeeded, and those that run. */
WEIR_API void weir_group_each(weir_group *group,
                              void (*fn)(const weir_member *member, void *arg), void *arg);

/**
 * Cancel what still runs, wait for it (shielded: nothing cuts this short) and free the
 * group. NULL is fine. A failure of which nobody was told until then (by a wait for the group, or
 * a join of a member, or a question about its members) is logged, unless it is WEIR_CANCELED.
 *
 * Yields:  unless no member runs.
 */
WEIR_API void weir_group_free(weir_group *group);

static inline void weir_group_cleanup_(weir_group **group)
{
    weir_group_free(*group);
}

/**
 * Wait until every other coroutine of this hub has ended, whoever spawned it. Those that are left
 * at the deadline are logged: name, number, where each was spawned and what it waits for.
 * weir_run() waits for them in any case; this is for a main coroutine that wants to hear of it.
 *
 * Yields:  unless it is alone.
 * Context: the main coroutine of weir_run().
 * Returns: WEIR_OK when it is alone; WEIR_TIMEOUT, WEIR_CANCELED of this wait; WEIR_USAGE.
 */
WEIR_API weir_status weir_drain(weir_deadline deadline);

/* ---- the same for each of many ------------------------------------------------------ */

typedef struct weir_map_opts {
    const char *name;        /* of the coroutines at work; borrowed */
    unsigned    max_running; /* of them at once (10, a pool's default max_size) */
    bool        keep_going;  /* after an item failed; else no other is begun, and those at work
                                are cancelled */
    void (*each)(size_t index, weir_status status, void *arg); /* see below */
} weir_map_opts;

/**
 * Call fn(index, arg) for each index below `count`, several at once, and wait for all of them.
 * `opts` may be NULL. Results go where `arg` says: into an array at [index], say.
 *
 * `each`, where it is given, is told of every item that was begun, one after the other in
 * the order of their indexes, as soon as it and all before it have ended. It runs in a coroutine
 * at work, may yield, and holds up no more than that: at most max_running items that have
 * ended wait for their turn. For results in the order of their ending, do it at the end of fn.
 *
 * The deadline counts for what fn waits for as well. All has ended when this returns.
 *
 * Yields:  yes.
 * Context: a coroutine.
 * Returns: WEIR_OK when all succeeded; else the status of the item that failed first; else
 *          WEIR_TIMEOUT, WEIR_CANCELED where not all were begun; WEIR_NOMEM; WEIR_USAGE.
 */
#define weir_map(opts, count, fn, arg, deadline) \
    weir_map_at((opts), (count), (fn), (arg), (deadline), WEIR_HERE)
WEIR_API weir_status weir_map_at(const weir_map_opts *opts, size_t count,
                                 weir_status (*fn)(size_t index, void *arg), void *arg,
                                 weir_deadline deadline, const char *site);

/* ---- waiting ------------------------------------------------------------------------ */

/** Let everybody else who can run do so. Returns WEIR_OK, WEIR_CANCELED, WEIR_TIMEOUT. */
WEIR_API weir_status weir_yield(void);

/**
 * Sleep until `deadline`. Outside a coroutine it blocks the thread.
 * Returns: WEIR_OK at the deadline; WEIR_TIMEOUT where a scope's came first; WEIR_CANCELED.
 */
WEIR_API weir_status weir_sleep(weir_deadline deadline);

enum { WEIR_READ = 1, WEIR_WRITE = 2 };

/**
 * Wait until `fd` is readable and/or writable; *ready (may be NULL) gets what it is.
 * An error or hang-up counts as both. Outside a coroutine it polls, blocking the thread.
 *
 * One coroutine may wait to read and one to write. A second one gets WEIR_BUSY.
 *
 * Yields:  yes.
 * Returns: WEIR_OK, WEIR_TIMEOUT, WEIR_CANCELED, WEIR_CLOSED (weir_close by another
 *          coroutine), WEIR_BUSY, WEIR_USAGE (not a descriptor one can wait for).
 */
WEIR_API weir_status weir_wait_fd(int fd, int events, weir_deadline deadline, int *ready);

/**
 * Close a descriptor that coroutines may have waited for: each waiter gets WEIR_CLOSED.
 * Always close such a descriptor this way, or call weir_fd_forget() (weir/hub.h) just before.
 * Returns: as close(2).
 */
WEIR_API int weir_close(int fd);

/* ---- coroutine-locals --------------------------------------------------------------- */

typedef struct weir_local {
    unsigned index;
} weir_local;

enum { WEIR_LOCAL_MAX = 64 };

/**
 * Make a key under which each coroutine keeps a value of its own, at most WEIR_LOCAL_MAX a
 * process. `destroy` (may be NULL) gets each value that is not NULL when its coroutine ends,
 * in whatever way; it runs in that coroutine and must not yield.
 *
 * Context: any thread.
 * Returns: WEIR_OK, WEIR_FULL.
 */
WEIR_API weir_status weir_local_new(void (*destroy)(void *value), weir_local *out)
    WEIR_MUST_CHECK;
WEIR_API void       *weir_local_get(weir_local key); /* NULL outside a coroutine */
WEIR_API weir_status weir_local_set(weir_local key, void *value) WEIR_MUST_CHECK;

/* ---- blocking work ------------------------------------------------------------------ */

/**
 * Run fn(arg) on a thread and wait for it. At most weir_offload_limit() threads (10) work at
 * once, made when needed and ended after 5 s of idleness; callers beyond that wait in order.
 * Pools of your own, and jobs that are joined later: weir/offload.h.
 * A call made on such a thread, or outside a coroutine, runs fn at once where it is.
 *
 * The deadline and a cancel count until fn has begun. Then nothing can stop it, and since
 * `arg` is the caller's, the call returns only when fn has.
 *
 * Yields:  yes.
 * Returns: WEIR_OK when fn ran; WEIR_TIMEOUT, WEIR_CANCELED when it never began; WEIR_NOMEM.
 */
WEIR_API weir_status weir_offload(void (*fn)(void *arg), void *arg, weir_deadline deadline);
WEIR_API void        weir_offload_limit(unsigned max_threads); /* any thread, at any time */

/**
 * getaddrinfo(3) without blocking the hub, on two threads of its own. A numeric host is
 * answered at once; so is one that was looked up less than 30 s ago (weir_resolve_set() and
 * weir_resolve_forget() in weir/offload.h). Who asks for the same at the same time shares one
 * lookup; one who is cancelled or late leaves it to the others, or to its thread.
 *
 * Yields:  unless it is answered at once. Outside a coroutine it blocks, and asks anew.
 * Owner:   *out is yours, until freeaddrinfo(3).
 * Returns: WEIR_OK; WEIR_CONNECT with the resolver's words (native: its EAI_ code, or an errno);
 *          WEIR_TIMEOUT, WEIR_CANCELED, WEIR_NOMEM.
 */
WEIR_API weir_status weir_resolve(const char *host, const char *service,
                                  const struct addrinfo *hints, weir_deadline deadline,
                                  struct addrinfo **out, weir_error *err) WEIR_MUST_CHECK;

WEIR_END_DECLS

#endif
