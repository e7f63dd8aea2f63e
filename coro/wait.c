/*
 * wait.c - parking, waking, and who runs next.
 *
 * Everything that waits is a park; everything that ends a wait is a wake. A coroutine that
 * parks picks the next ready one and switches to it directly; the hub's own stack is entered
 * only when nobody is ready or the loop's turn has come.
 *
 * Deadlines are lazy. A task has one alarm, which stays where it is when a wait ends: the
 * next wait mostly ends later than the alarm, which then rings once for nothing and moves
 * itself. So a wait that is satisfied in time costs no work on the heap at all.
 */
#include "hub.h"
#include "log.h"
#include "park.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum { FAILED_UNITS = 64 }; /* price of a wait that fails at once, see weir_spend() */

/* ---- who runs next ------------------------------------------------------------------ */

static void ready_append(weir_hub *hub, weir_task *task)
{
    task->state = TASK_READY;
    task->next_ready = NULL;
    *hub->ready_last = task;
    hub->ready_last = &task->next_ready;
}

void task_make_ready(weir_task *task)
{
    ready_append(task->hub, task);
}

/*
 * How often is the clock read within a turn? Reading it costs several switches, but a turn of
 * tasks that each compute for a millisecond must not go on for a thousand of them. So the
 * stride from one reading to the next follows what the last one took.
 */
enum { STRIDE_MAX = 64, STRIDE_NS = 250000 };

void hub_batch_begin(weir_hub *hub)
{
    hub->read_ns = hub->now_ns;
    hub->batch_end_ns = hub->now_ns + HUB_BATCH_NS;
    hub->batch_left = HUB_BATCH;
    if (!hub->stride)
        hub->stride = STRIDE_MAX;
    hub_set_until_clock(hub, hub->traced ? 1 : hub->stride);
}

__attribute__((noinline)) bool hub_batch_over(weir_hub *hub)
{
    if (hub->batch_left <= 0) {
        hub->until_clock++; /* nobody was picked */
        return true;
    }

    hub->now_ns = hub->reactor->ops->clock(hub->reactor);
    if (hub->now_ns - hub->read_ns > STRIDE_NS)
        hub->stride = hub->stride > 8 ? hub->stride / 8 : 1;
    else if (hub->stride < STRIDE_MAX)
        hub->stride *= 2;
    hub->read_ns = hub->now_ns;
    hub->batch_left -= hub->traced ? 1 : hub->stride;
    if (hub->now_ns >= hub->batch_end_ns) {
        hub->until_clock++;
        hub_batch_end(hub);
        return true;
    }
    hub_set_until_clock(hub, hub->traced ? 1 : hub->stride);
    if (hub->traced)
        hub_trace(hub, hub->ready_first);
    return false;
}

/* Run a task, and everybody it hands over to, until somebody comes back to the hub. */
void hub_start(weir_task *task)
{
    weir_hub *hub = task->hub;

    park_save(hub, &hub->saved_errno, &hub->cxx);
    hub->running = task;
    task->state = TASK_RUNNING;
    context_switch(&hub->context, &task->context);
    park_restore(hub, hub->saved_errno, &hub->cxx);
}

/* ---- park and wake ------------------------------------------------------------------ */

void task_alarm_rang(weir_alarm *alarm)
{
    weir_task *task = LIST_OF(alarm, weir_task, alarm);

    if (task->state != TASK_PARKED || task->wake_at_ns == INT64_MAX)
        return; /* the wait it was set for is long over */
    if (task->wake_at_ns > task->hub->now_ns)
        weir_alarm_set(alarm, task->wake_at_ns, task_alarm_rang);
    else
        task_wake(task, WEIR_TIMEOUT);
}

void task_wake(weir_task *task, weir_status with)
{
    task->woken_by = with;
    if (task->state == TASK_PARKED)
        ready_append(task->hub, task);
}

weir_waker weir_waker_new(void)
{
    weir_task *task = task_here();

    if (!task)
        return (weir_waker){ 0 };
    task->woken = false;
    return (weir_waker){ task, ++task->token };
}

void weir_wake(weir_waker waker)
{
    weir_task *task = waker.task;

    if (!task || task->token != waker.token)
        return;
    if (task->state != TASK_PARKED)
        task->woken = true; /* before its park, also while it gives way; weir_park() clears it */
    task_wake(task, WEIR_OK); /* also one whom a cancel or deadline made ready: it had it in time */
}

static weir_status refuse_park(const char *why)
{
    LOG(WEIR_LOG_ERROR, "waiting for %s where nothing may wait: %s", why,
        task_here() ? "in an exit hook, a destructor or a callback" : "outside of a coroutine");
    return WEIR_USAGE;
}

/* A wait that is over before it begins: nobody may go round a loop of those for ever. */
static weir_status fail_at_once(weir_task *task, weir_status status)
{
    task->token++;
    weir_spend(FAILED_UNITS);
    return status;
}

bool task_must_park(weir_task *task, int64_t until_ns, const char *why, weir_status *status)
{
    *status = WEIR_OK;
    if (task->no_yield) {
        *status = refuse_park(why);
    } else if (task->woken) {
        task->woken = false;
        task->token++;
    } else if (task->canceled && !task->shielded) {
        *status = fail_at_once(task, WEIR_CANCELED);
    } else if (until_ns <= task->hub->now_ns) {
        *status = fail_at_once(task, WEIR_TIMEOUT);
    } else {
        return true;
    }
    return false;
}

weir_status weir_pending(weir_deadline deadline)
{
    weir_task *task = task_here();

    if (!task)
        return WEIR_OK;
    if (task->canceled && !task->shielded)
        return WEIR_CANCELED;
    if (deadline.at_ns <= task->hub->now_ns || task->limit_ns <= task->hub->now_ns)
        return WEIR_TIMEOUT;
    return WEIR_OK;
}

weir_status weir_park(weir_deadline deadline, const char *why)
{
    weir_task *task = task_here();

    return task ? park_until(task, deadline, why) : refuse_park(why);
}

void weir_cancel(weir_task *task)
{
    if (!task || task->state == TASK_DONE || task->state == TASK_RESERVED)
        return;
    task->canceled = true;
    if (task->state == TASK_PARKED && !task->shielded)
        task_wake(task, WEIR_CANCELED);
}

/* ---- giving way --------------------------------------------------------------------- */

/* Behind everybody who is ready now. */
__attribute__((always_inline)) static inline void go_to_the_back(weir_hub *hub, weir_task *task)
{
    ready_append(hub, task);
    park_switch_away(hub, task);
}

weir_status weir_yield(void)
{
    weir_task *task = task_here();

    if (!task || task->no_yield)
        return WEIR_OK;
    go_to_the_back(task->hub, task);
    if (task->canceled && !task->shielded)
        return WEIR_CANCELED;
    return task->limit_ns <= task->hub->now_ns ? WEIR_TIMEOUT : WEIR_OK;
}

void weir_spend(unsigned units)
{
    weir_task *task = task_here();

    if (!task)
        return;
    weir_hub *hub = task->hub;
    hub->spent += units;
    if (hub->spent < WEIR_UNITS || task->no_yield)
        return;
    hub_batch_end(hub); /* for the loop to look too, or a busy reader starves all descriptors */
    go_to_the_back(hub, task);
}

static weir_status block_until(weir_deadline deadline)
{
    struct timespec until = { deadline.at_ns / 1000000000, deadline.at_ns % 1000000000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
    return WEIR_OK;
}

weir_status weir_sleep(weir_deadline deadline)
{
    weir_task *task = task_here();

    if (!task)
        return block_until(deadline);

    bool ours = deadline.at_ns <= task->limit_ns;
    park_begin(task);
    weir_status status = park_until(task, deadline, "a time");
    return status == WEIR_TIMEOUT && ours ? WEIR_OK : status;
}

/* ---- queues of waiters -------------------------------------------------------------- */

weir_status wait_in(struct list *waiters, weir_deadline deadline, const char *why)
{
    struct waiter me = { .waker = weir_waker_new() };

    list_append(waiters, &me.link);
    weir_status status = weir_park(deadline, why);
    list_unlink(&me.link);
    return status;
}

static bool wake_first(struct list *waiters)
{
    struct list *first = list_first(waiters);

    if (!first)
        return false;
    list_unlink(first);
    weir_wake(LIST_OF(first, struct waiter, link)->waker);
    return true;
}

void wake_all(struct list *waiters)
{
    while (wake_first(waiters))
        continue;
}

/* ---- from other threads ------------------------------------------------------------- */

/*
 * A task is in the hub's list at most once, with the latest token that was said. The hub
 * clears the mark before it reads the token, under the same lock, so no wake is lost.
 */
void weir_wake_remote(weir_waker waker)
{
    weir_task *task = waker.task;

    if (!task)
        return;
    weir_hub *hub = task->hub;
    pthread_mutex_lock(&hub->lock);
    if (!task->remote_queued) {
        task->remote_queued = true;
        task->remote_next = NULL;
        task->remote_token = waker.token;
        *hub->remote_last = task;
        hub->remote_last = &task->remote_next;
    } else if (waker.token > task->remote_token) {
        task->remote_token = waker.token;
    }
    /* Who was here before us has poked it, or is about to: many wakes cost one write. Under the
       lock: once the hub has taken this wake it may end, and the reactor with it. */
    if (!atomic_exchange(&hub->remote_pending, true))
        hub->reactor->ops->poke(hub->reactor);
    pthread_mutex_unlock(&hub->lock);
}

void hub_take_remote_wakes(weir_hub *hub)
{
    if (!atomic_load_explicit(&hub->remote_pending, memory_order_relaxed))
        return;

    pthread_mutex_lock(&hub->lock);
    atomic_store(&hub->remote_pending, false);
    weir_task *task = hub->remote_first;
    hub->remote_first = NULL;
    hub->remote_last = &hub->remote_first;
    while (task) {
        weir_task *next = task->remote_next;
        task->remote_queued = false;
        weir_wake((weir_waker){ task, task->remote_token });
        task = next;
    }
    pthread_mutex_unlock(&hub->lock);
    if (atomic_exchange(&hub->dump_asked, false))
        hub_answer_dump(hub);
}
