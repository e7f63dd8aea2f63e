/*
 * hubs.c - every hub of the process.
 *
 * A list under a lock. A signal handler walks it too, without the lock: it says so before it
 * begins, and a hub that was taken off the list waits until no handler is on its way.
 */
#include "hub.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* script/gdb/weir-gdb.py begins here. */
extern _Atomic(weir_hub *) weir_hubs_;
_Atomic(weir_hub *) weir_hubs_;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned        last_number;
static atomic_int      handlers; /* that walk the list */

void hubs_lock(void)
{
    pthread_mutex_lock(&lock);
}

void hubs_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

weir_hub *hubs_first(void)
{
    return atomic_load(&weir_hubs_);
}

static void stamp(weir_hub *hub)
{
    hub->pid = getpid();
    hub->tid = (pid_t)syscall(SYS_gettid);
    hub->thread = pthread_self();
}

void hubs_add(weir_hub *hub)
{
    stamp(hub);
    hubs_lock();
    hub->number = ++last_number;
    atomic_store(&hub->next_hub, atomic_load(&weir_hubs_));
    atomic_store(&weir_hubs_, hub);
    hubs_unlock();
}

void hubs_remove(weir_hub *hub)
{
    if (!hub->number)
        return; /* it was never added */
    hubs_lock();
    _Atomic(weir_hub *) *link = &weir_hubs_;
    while (atomic_load(link) && atomic_load(link) != hub)
        link = &atomic_load(link)->next_hub;
    if (atomic_load(link))
        atomic_store(link, atomic_load(&hub->next_hub));
    hubs_unlock();
    while (atomic_load(&handlers))
        sched_yield();
}

/* A wake from another thread would take a lock; its mark alone makes the hub look. */
void hubs_ask_for_dump(void)
{
    atomic_fetch_add(&handlers, 1);
    for (weir_hub *hub = hubs_first(); hub; hub = atomic_load(&hub->next_hub)) {
        atomic_store(&hub->dump_asked, true);
        atomic_store(&hub->remote_pending, true);
        hub->reactor->ops->poke(hub->reactor);
    }
    atomic_fetch_sub(&handlers, 1);
}

/* In the child, where their threads are not: their memory stays, for nobody knows its state. */
void hubs_forked(weir_hub *mine)
{
    pthread_mutex_init(&lock, NULL);
    atomic_store(&handlers, 0);
    for (weir_hub *hub = hubs_first(); hub; hub = atomic_load(&hub->next_hub))
        if (hub != mine && hub->reactor->ops->forked)
            (void)hub->reactor->ops->forked(hub->reactor, false);
    atomic_store(&weir_hubs_, mine);
    if (!mine)
        return;
    atomic_store(&mine->next_hub, NULL);
    stamp(mine);
}
