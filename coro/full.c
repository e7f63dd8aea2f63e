/*
 * full.c - will anybody in a full group ever end?
 *
 * A member that waits for a place in its own group is plain to see, and group.c counts those. But
 * a member may also wait, without a deadline, for somebody who waits for such a place: for a
 * helper's group it has made, or for a coroutine it joins. When each member is stuck in the one
 * way or the other, whoever asks for a place now must be told, for nobody will make him one.
 *
 * We go from the one who asks to those who wait for him, to those who wait for them, and so on.
 * In most cases nobody does but the main coroutine, and that is all it costs. Only where we
 * come upon a member of the group we look at the others who wait for a place in the same way.
 * A mark on each coroutine that was met keeps us from meeting it twice; beyond a limit
 * we stop and say nothing, as of waits we know nothing of (a mutex, an event): those
 * deadlock.c finds, where nothing else goes on in the hub.
 */
#include "group.h"

enum { DEPTH = 32, MEETINGS = 1000 };

struct search {
    weir_group *full;
    unsigned    round;   /* what marks who was met */
    unsigned    depth, met;
    unsigned    stuck;   /* members among them */
};

static void meet_those_who_wait_for(weir_task *task, struct search *search);

/* Somebody who waits for one that waits for a place. */
static void meet(weir_task *task, void *arg)
{
    struct search *search = arg;

    if (task->searched == search->round || task->state != TASK_PARKED ||
        task->wake_at_ns != INT64_MAX || search->met >= MEETINGS)
        return;
    task->searched = search->round;
    search->met++;
    search->stuck += task->group == search->full;
    meet_those_who_wait_for(task, search);
}

static void meet_those_who_wait_for(weir_task *task, struct search *search)
{
    if (search->depth == DEPTH)
        return;
    search->depth++;
    task_joiners(task, meet, search);
    if (task->group)
        LIST_EACH(node, &task->group->waiters)
            meet(LIST_OF(node, struct waiter, link)->waker.task, search);
    search->depth--;
}

/* One who waits for a place, or is about to: with a deadline or without. */
static void begin_with(weir_task *spawner, struct search *search)
{
    if (spawner->searched != search->round)
        search->stuck += spawner->group == search->full;
    spawner->searched = search->round;
    meet_those_who_wait_for(spawner, search);
}

bool group_is_stuck(weir_group *full, weir_task *newcomer)
{
    struct search search = { .full = full, .round = ++full->hub->searches };

    begin_with(newcomer, &search);
    if (!search.met || !search.stuck)
        return false;
    LIST_EACH(node, &full->spawners)
        begin_with(spawner_of(node), &search);
    return search.stuck >= full->count;
}
