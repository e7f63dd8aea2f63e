/*
 * fork.c - what a fork leaves of a hub.
 *
 * Of all threads only the one that forked goes on in the child, and of all coroutines only
 * the one that ran. The hub is made anew in its place, since that coroutine, and weir_run()'s
 * frames below it, know it by its address: nobody is ready, no alarm is set, no descriptor
 * is watched, and the reactor gets kernel objects of its own. Stacks and records of those that
 * were dropped stay as they are: what they embed may still be linked to what the child uses.
 *
 * The kernel copies whatever other threads were in the middle of. So weir's locks are taken
 * before the fork, in the order in which they nest, and the hubs' own are made anew after it.
 */
#include "hub.h"
#include "log.h"
#include "names.h"
#include "offload.h"
#include "patch.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <weir/process.h>

static atomic_bool ignored, held;

/* ---- the hub of whoever forked ------------------------------------------------------ */

/* One in reserve can be started again; its owner knows by his fork hook that it did not end. */
static void drop(weir_task *task, void *survivor)
{
    task->remote_queued = false;
    list_init(&task->joiners);
    if (task == survivor)
        return;
    task->state = task->reserved ? TASK_RESERVED : TASK_DONE;
    task->token++; /* whatever would wake it is stale */
    task->woken = false;
}

static void forget_hooks(weir_exit_hook *head)
{
    while (head->next != head) {
        weir_exit_hook *hook = head->next;
        weir_exit_hook_remove(hook);
        hook->prev = hook->next = hook; /* its owner may remove it once more */
    }
}

static void become_main(weir_hub *hub, weir_task *self)
{
    enum { MAIN_BODY = 1 }; /* the number of the coroutine that weir_run() spawns */

    hub->live = self && !self->reserved;
    hub->busy_reserve = self && self->reserved;
    hub->last_one_waits = (weir_waker){ 0 };
    hub->adopted = NULL;
    if (hub->attached)
        return;
    if (!self) { /* the hub itself forked: it has nothing left to do */
        hub->program->result = WEIR_CANCELED;
        hub->main_task = NULL;
        hub->ended = true;
    } else if (self->id != MAIN_BODY) {
        hub->main_task = hub->adopted = self;
    }
}

static void tell_hooks(weir_hub *hub, weir_task *self)
{
    bool no_yield = self && self->no_yield;

    if (self)
        self->no_yield = true;
    for (weir_exit_hook *hook = hub->fork_hooks.next; hook != &hub->fork_hooks;) {
        weir_exit_hook *next = hook->next;
        hook->fn(hook); /* it may remove itself */
        hook = next;
    }
    if (self)
        self->no_yield = no_yield;
}

static void make_anew(weir_hub *hub)
{
    weir_task *self = hub->running;

    pthread_mutex_init(&hub->lock, NULL);
    hub->remote_first = NULL;
    hub->remote_last = &hub->remote_first;
    atomic_store(&hub->remote_pending, false);
    hub->ready_first = NULL;
    hub->ready_last = &hub->ready_first;
    tasks_each(hub, drop, self);
    groups_forked(hub, self);
    alarms_forked(hub);
    fds_forked(hub);
    hub->abroad = 0;
    forget_hooks(&hub->end_hooks);
    become_main(hub, self);
    if (hub->reactor->ops->forked && !hub->reactor->ops->forked(hub->reactor, true)) {
        LOG(WEIR_LOG_ERROR, "the child of a fork got no epoll set, timer or bell of its own");
        abort(); /* its waits would be the parent's */
    }
    tell_hooks(hub, self);
}

/* ---- around the fork ---------------------------------------------------------------- */

static void before_fork(void)
{
    if (atomic_load(&ignored))
        return;
    hubs_lock();
    helpers_hold();
    names_hold();
    crews_hold();
    remote_events_hold();
    patch_hold();
    log_hold();
    atomic_store(&held, true);
}

static void let_go(void)
{
    log_let_go();
    patch_let_go();
    remote_events_let_go();
    crews_let_go();
    names_let_go();
    helpers_let_go();
    hubs_unlock();
}

static void in_parent(void)
{
    if (atomic_exchange(&held, false))
        let_go();
}

static void in_child(void)
{
    weir_hub *mine = hub_here_;

    if (!atomic_exchange(&held, false))
        return;
    let_go();
    crews_forked();
    names_forked();
    helpers_forked();
    seats_forked();
    watchdog_forked();
    dump_forked();
    hubs_forked(mine);
    if (mine)
        make_anew(mine);
}

static void mind(void)
{
    pthread_atfork(before_fork, in_parent, in_child);
}

void fork_mind(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, mind);
}

/* ---- the public face ---------------------------------------------------------------- */

pid_t weir_fork(void)
{
    weir_hub *hub = hub_here_;

    if (hub && !hub->running && !hub->attached) {
        errno = EPERM;
        return -1;
    }
    return fork();
}

void weir_fork_hook_add(weir_exit_hook *hook)
{
    weir_hub *hub = hub_here_;

    hook->prev = hub->fork_hooks.prev;
    hook->next = &hub->fork_hooks;
    hook->prev->next = hook;
    hook->next->prev = hook;
}

void weir_fork_ignore(void)
{
    atomic_store(&ignored, true);
}
