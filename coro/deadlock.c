/*
 * deadlock.c - when nothing can ever wake anybody again.
 *
 * A coroutine is woken by another one, by time, by a descriptor, by a signal that cancels the
 * main one, or from another thread. The first four are known for certain. As for threads: with
 * none but the hub's own, nobody can call weir_wake_remote(), and those of weir's crews that are
 * idle do not count. A crew's thread at work may be at work for another hub, and what it runs
 * is the application's: it counts. So nothing is ever reported that could still have gone on.
 *
 * The count of threads is the kernel's, and those of ours to leave out are counted before and
 * after: of one that comes or goes meanwhile it is then assumed that it is the application's.
 */
#include "hub.h"
#include "log.h"
#include "offload.h"

#include <dirent.h>

enum {
    SHOWN = 100,      /* coroutines logged at most */
    PATIENCE = 100    /* broken in a row; then the hub waits like any other: somebody who ignores
                         the status must not make it spin */
};

bool hub_seems_stuck(const weir_hub *hub)
{
    return !hub->alarm_count && !hub->watched && !hub->abroad && !hub->heeds_signals &&
           !atomic_load(&hub->remote_pending);
}

/* ---- who else is there -------------------------------------------------------------- */

static unsigned threads_of_ours(void)
{
    return crews_idle() + watchdog_threads();
}

/* 0: nobody can say. */
static unsigned threads_of_process(void)
{
    DIR     *dir = opendir("/proc/self/task");
    unsigned count = 0;

    if (!dir)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

bool hub_is_alone(void)
{
    unsigned before = threads_of_ours();
    unsigned all = threads_of_process();
    unsigned after = threads_of_ours();

    return all && all - (before < after ? before : after) == 1;
}

/* ---- telling ------------------------------------------------------------------------ */

static void count_one(weir_task *task, void *arg)
{
    (void)task;
    ++*(unsigned *)arg;
}

static void say_one(weir_task *task, void *arg)
{
    struct log_site site = { 0 }; /* each is a site of its own: none is held back */

    if (++*(unsigned *)arg <= SHOWN)
        weir_log_say(&site, WEIR_LOG_ERROR, "  %s %llu, spawned at %s, waits for %s",
                     weir_task_name(task), (unsigned long long)task->id, task->site,
                     task->why ? task->why : "nothing it has a name for");
}

static void wake_one(weir_task *task, void *arg)
{
    unsigned *woken = arg;

    if (task->state != TASK_PARKED || task->shielded)
        return;
    task_wake(task, WEIR_DEADLOCK);
    ++*woken;
}

enum deadlock hub_break_deadlock(weir_hub *hub)
{
    unsigned alive = 0, shown = 0, woken = 0;

    if (!hub_seems_stuck(hub))
        return DEADLOCK_NONE;
    if (hub->stuck >= PATIENCE || (!hub->no_remote_wakes && !hub_is_alone()))
        return DEADLOCK_POSSIBLE;

    weir_task *main_task = hub->main_task && !hub->main_task->shielded ? hub->main_task : NULL;
    tasks_each(hub, count_one, &alive);
    LOG(WEIR_LOG_ERROR, "deadlock: %u coroutines wait, and nothing can ever wake one of them",
        alive);
    tasks_each(hub, say_one, &shown);
    /* The main one first; where nothing has happened since it was told, the others too. */
    if (main_task && !hub->stuck)
        wake_one(main_task, &woken);
    else
        tasks_each(hub, wake_one, &woken);
    hub->stuck = woken ? hub->stuck + 1 : PATIENCE;
    return woken ? DEADLOCK_BROKEN : DEADLOCK_POSSIBLE;
}
