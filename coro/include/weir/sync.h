/*
 * weir/sync.h - what coroutines of one hub tell each other, and take turns by.
 *
 * Knows:   events, futures, semaphores, mutexes, conditions, channels.
 * Ignores: what is told, and what is guarded.
 * Threads: the hub's own thread, for everything but weir_remote_event. Coroutines of a hub
 *          never run at the same time and only change at calls that yield: what is read and
 *          written between two of those needs no mutex.
 *
 * All of it is first come, first served, and handed over directly: what is given goes to the
 * one who has waited longest in the same step, and a newcomer cannot slip in between. What
 * was handed over is his, also where his deadline or a cancel fell into the same turn of the
 * hub: the call returns WEIR_OK, and a cancel is seen by his next wait. So nothing is lost
 * between the one who gives and the one who takes.
 *
 * Whoever waits does so on his own stack: no call but weir_chan_new() takes memory. What is
 * embedded needs no making: zero is an event, a future, a mutex, a condition nobody uses yet.
 * Finishing one that coroutines wait for is fine: each gets WEIR_CLOSED, and so does whoever
 * comes later. Its memory may go at once; nobody who waited looks at it again.
 *
 * Every wait here returns WEIR_OK; WEIR_TIMEOUT or WEIR_CANCELED as all of weir's waits do,
 * also where what it wants is at hand, once a scope's deadline has passed or the coroutine was
 * cancelled; WEIR_CLOSED; and, outside of a coroutine or in an exit hook, WEIR_USAGE (logged)
 * if it would have to sleep. With WEIR_NOW it does not sleep: what is not there is a TIMEOUT.
 */
#ifndef WEIR_SYNC_H
#define WEIR_SYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <weir/api.h>
#include <weir/coro.h>
#include <weir/error.h>
#include <weir/hub.h>

WEIR_BEGIN_DECLS

/* Those who wait, in the order they came; zero is nobody. Part of everything below. */
struct weir_waiter_;
typedef struct weir_waitq {
    struct weir_waiter_ *first_, *last_;
} weir_waitq;

/* ---- event: something has happened -------------------------------------------------- */

typedef struct weir_event {
    weir_waitq waiters_;
    bool       set_, closed_;
} weir_event;

/**
 * Say that it has happened. Wakes everybody who waits, in the order they came; whoever comes
 * later does not wait, until weir_event_clear(). Those who were woken go on even if it is
 * cleared before they run.
 *
 * Yields:  no.  Context: the hub's thread, in a coroutine or not.
 */
WEIR_API void weir_event_set(weir_event *event);
WEIR_API void weir_event_clear(weir_event *event);
WEIR_API bool weir_event_is_set(const weir_event *event);

/** Wait until it has happened.  Yields: unless it has. */
WEIR_API weir_status weir_event_wait(weir_event *event, weir_deadline deadline);

/** No more of it: who waits gets WEIR_CLOSED.  Yields: no. */
WEIR_API void weir_event_finish(weir_event *event);

/* ---- remote event: something has happened on another thread ------------------------- */

/*
 * As an event, but of any thread: threads without a hub set it, coroutines of any hub wait for
 * it. Each call takes a lock, which plain events spare. This is how a thread hands a result to
 * a coroutine: write the result, then set.
 */
typedef struct weir_remote_event {
    weir_waitq waiters_;
    bool       set_, closed_;
} weir_remote_event;

/**
 * As weir_event_set() and its fellows.
 *
 * Yields:  no.  Context: any thread, with a hub or without; not a signal handler.
 * Memory:  what was written before weir_remote_event_set() is seen by whom it wakes. Once the
 *          wait has returned the event may be freed, though the setter's call may not have.
 */
WEIR_API void weir_remote_event_set(weir_remote_event *event);
WEIR_API void weir_remote_event_clear(weir_remote_event *event);
WEIR_API bool weir_remote_event_is_set(weir_remote_event *event);
WEIR_API void weir_remote_event_finish(weir_remote_event *event);

/** As weir_event_wait().  Context: a coroutine of any hub. */
WEIR_API weir_status weir_remote_event_wait(weir_remote_event *event, weir_deadline deadline);

/* ---- future: a result that is not there yet ----------------------------------------- */

typedef struct weir_future {
    weir_waitq waiters_;
    bool       settled_, closed_;
    void      *value_;
    weir_error error_; /* status WEIR_OK: none */
} weir_future;

/**
 * Settle a future, once: with a value, or with an error (copied; one whose status is WEIR_OK
 * counts as WEIR_FAILED). It is kept until weir_future_finish(), for as many as ask.
 *
 * Yields:  no.  Context: the hub's thread, in a coroutine or not.
 * Owner:   the value stays whose it is; weir only hands the pointer on.
 * Returns: true when this call settled it; false when it was settled or finished before, and
 *          nothing has changed.
 */
WEIR_API bool weir_future_set(weir_future *future, void *value);
WEIR_API bool weir_future_fail(weir_future *future, const weir_error *error);
WEIR_API bool weir_future_is_settled(const weir_future *future);

/**
 * Wait for the result. *value (may be NULL) is the value, or NULL; *err (may be NULL) is filled
 * in whenever this does not return WEIR_OK.
 *
 * Yields:  unless it is settled.
 * Returns: WEIR_OK with the value; the status of the error it was settled with; WEIR_TIMEOUT,
 *          WEIR_CANCELED, WEIR_CLOSED, WEIR_USAGE of this wait. Where the error may have such a
 *          status too, weir_future_is_settled() tells them apart.
 */
WEIR_API weir_status weir_future_get(weir_future *future, weir_deadline deadline, void **value,
                                     weir_error *err);

/** Who waits gets WEIR_CLOSED, and so does who comes later unless it was settled. */
WEIR_API void weir_future_finish(weir_future *future);

/* A task whose end settles a future. Embed it; it must outlive the task, or be cut. */
typedef struct weir_link {
    weir_exit_hook hook_;
    weir_task     *task_; /* NULL: cut, or over */
    weir_future   *future_;
} weir_link;

/**
 * Settle `future` when `task` ends: with its value where it returned WEIR_OK (weir_set_value()),
 * else with its status. A future that is settled already stays as it is; of several tasks linked
 * to one future the first to end counts. A NULL task, a spawn that failed, is WEIR_USAGE.
 *
 * Yields:  no.  Context: the hub's thread; a task that has ended settles it at once.
 * Owner:   the link is yours, on a stack or in a struct, until the task has ended or
 *          weir_link_cut() (which may be called at any time) has undone it.
 */
WEIR_API void weir_link_to(weir_link *link, weir_task *task, weir_future *future);
WEIR_API void weir_link_cut(weir_link *link);

/* ---- semaphore: so many at a time --------------------------------------------------- */

typedef struct weir_sem {
    weir_waitq waiters_;
    unsigned   permits_;
    bool       closed_;
} weir_sem;

/* One with `permits` to begin with: weir_sem limit = WEIR_SEM_INIT(8); zeroes have none. */
#define WEIR_SEM_INIT(permits) { { NULL, NULL }, (permits), false }

/** Take a permit, waiting for one.  Yields: unless one is free. */
WEIR_API weir_status weir_sem_take(weir_sem *sem, weir_deadline deadline);

/** Take one if it is free. For any place on the hub's thread; sees no cancel.  Yields: no. */
WEIR_API bool weir_sem_try(weir_sem *sem);

/**
 * Give a permit: to the one who has waited longest, else it is free. It need not have been taken
 * by the one who gives it, nor by anybody.
 *
 * Yields:  no.  Context: the hub's thread, in a coroutine or not.
 */
WEIR_API void weir_sem_give(weir_sem *sem);

WEIR_API unsigned weir_sem_free_permits(const weir_sem *sem);
WEIR_API void     weir_sem_finish(weir_sem *sem); /* who waits gets WEIR_CLOSED */

/* ---- mutex: one at a time, across calls that yield ---------------------------------- */

typedef struct weir_mutex {
    weir_waitq     waiters_;
    weir_task     *owner_;
    const char    *site_; /* where it was locked */
    weir_exit_hook hook_; /* of its owner */
    bool           closed_;
} weir_mutex;

/**
 * Lock it, waiting for one's turn.
 *
 * A coroutine that ends while it holds the mutex is reported (logged with the place where it
 * locked), and the next one has it: look at what it guards, which may be half done.
 *
 * Yields:  unless nobody holds it.
 * Context: a coroutine.
 * Returns: as every wait here; WEIR_DEADLOCK where the caller holds it already, with both
 *          places in the log.
 */
#define weir_mutex_lock(mutex, deadline) weir_mutex_lock_at((mutex), (deadline), WEIR_HERE)
WEIR_API weir_status weir_mutex_lock_at(weir_mutex *mutex, weir_deadline deadline,
                                        const char *site);

/**
 * Unlock it: the one who has waited longest holds it from here on.
 *
 * Yields:  no.
 * Returns: WEIR_OK; WEIR_USAGE where the caller does not hold it, with the owner and his place
 *          in the log, and nothing has changed.
 */
#define weir_mutex_unlock(mutex) weir_mutex_unlock_at((mutex), WEIR_HERE)
WEIR_API weir_status weir_mutex_unlock_at(weir_mutex *mutex, const char *site);

WEIR_API weir_task  *weir_mutex_owner(const weir_mutex *mutex); /* NULL: nobody */
WEIR_API const char *weir_mutex_site(const weir_mutex *mutex);  /* NULL: nobody */

/** Who waits gets WEIR_CLOSED. Somebody else who holds it loses it, and that is logged. */
WEIR_API void weir_mutex_finish(weir_mutex *mutex);

/* ---- condition: what a mutex guards has changed ------------------------------------- */

typedef struct weir_cond {
    weir_waitq waiters_;
    bool       closed_;
} weir_cond;

/**
 * Let go of the mutex, wait until somebody signals, and lock it again.
 *
 *     while (!there_is_work && status == WEIR_OK)
 *         status = weir_cond_wait(&cond, &mutex, deadline);
 *
 * The caller holds the mutex again whatever this returns, unless the mutex itself was finished
 * meanwhile. Locking it again is shielded: neither the deadline nor a cancel cuts that short.
 * Nobody wakes without cause, but others may have run since the signal: ask again.
 *
 * Yields:  yes.
 * Context: the coroutine that holds the mutex.
 * Returns: as every wait here; WEIR_CLOSED where the condition, or the mutex, was finished;
 *          WEIR_USAGE (logged) where the caller does not hold the mutex.
 */
#define weir_cond_wait(cond, mutex, deadline) \
    weir_cond_wait_at((cond), (mutex), (deadline), WEIR_HERE)
WEIR_API weir_status weir_cond_wait_at(weir_cond *cond, weir_mutex *mutex, weir_deadline deadline,
                                       const char *site);

/** Wake the one who has waited longest, or everybody. With the mutex held or not; no yield. */
WEIR_API void weir_cond_signal(weir_cond *cond);
WEIR_API void weir_cond_broadcast(weir_cond *cond);
WEIR_API void weir_cond_finish(weir_cond *cond); /* who waits gets WEIR_CLOSED */

/* ---- channel: values passed on in order --------------------------------------------- */

typedef struct weir_chan weir_chan;

/**
 * Make a channel for `capacity` elements of `size` bytes each, copied in and out. A capacity of 0
 * is a rendezvous: a send returns when a receiver has the element. A size of 0 passes on
 * nothing but the news; elements may be NULL then.
 *
 * Owner:   *out is yours, until weir_chan_free().
 * Returns: WEIR_OK, WEIR_NOMEM.
 */
WEIR_API weir_status weir_chan_new(size_t size, size_t capacity, weir_chan **out,
                                   weir_error *err) WEIR_MUST_CHECK;

/**
 * Send *element: to the receiver who has waited longest, else into the channel, else wait for
 * room. WEIR_OK: it was passed on. Anything else: nobody will ever see it, it is still yours.
 *
 * Yields:  unless there is a receiver, or room.
 * Returns: as every wait here; WEIR_CLOSED after weir_chan_close(), also while it waits.
 */
WEIR_API weir_status weir_chan_send(weir_chan *chan, const void *element, weir_deadline deadline);

/**
 * Receive the oldest element into *element; WEIR_OK: it is yours. Anything else: *element is
 * as it was, and the channel too.
 *
 * Yields:  unless there is an element.
 * Returns: as every wait here; WEIR_CLOSED after weir_chan_close(), once all has been received.
 */
WEIR_API weir_status weir_chan_recv(weir_chan *chan, void *element, weir_deadline deadline);

/**
 * The same without waiting, for any place on the hub's thread; they see no cancel.
 *
 * Yields:  no.
 * Returns: WEIR_OK, WEIR_CLOSED; WEIR_FULL where a send found neither receiver nor room;
 *          WEIR_TIMEOUT where there was nothing to receive.
 */
WEIR_API weir_status weir_chan_try_send(weir_chan *chan, const void *element);
WEIR_API weir_status weir_chan_try_recv(weir_chan *chan, void *element);

/** How many elements are in the channel; those of senders who wait do not count. */
WEIR_API size_t weir_chan_count(const weir_chan *chan);

/**
 * No more sending: who waits to send, and who tries to later, gets WEIR_CLOSED. What is in the
 * channel can be received; then receivers get WEIR_CLOSED too.  Yields: no.
 */
WEIR_API void weir_chan_close(weir_chan *chan);

/**
 * Wait until all that was sent has been received, also what senders wait to send. Closes
 * nothing: to end a channel in order, close it and drain it.
 *
 * Yields:  unless it is empty.
 * Returns: as every wait here; WEIR_CLOSED where it was freed instead.
 */
WEIR_API weir_status weir_chan_drain(weir_chan *chan, weir_deadline deadline);

/** Free it: who waits gets WEIR_CLOSED, what is in it is dropped. NULL is fine. */
WEIR_API void weir_chan_free(weir_chan *chan);

static inline void weir_chan_cleanup_(weir_chan **chan)
{
    weir_chan_free(*chan);
}

WEIR_END_DECLS

#endif
