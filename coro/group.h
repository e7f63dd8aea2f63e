/*
 * group.h - a group, as group.c keeps it and dump.c shows it.
 */
#ifndef GROUP_H
#define GROUP_H

#include "hub.h"

#include <weir/sync.h>

/* Members that will not change any more, in the order in which they became so. */
struct roll {
    struct list  members;
    struct list *told; /* the last one weir_group_next() has told, or the head */
};

struct weir_group {
    weir_group_opts opts;
    weir_hub       *hub;
    struct list     link;       /* in the hub's groups */
    struct list     running;
    struct roll     ended, missing;
    struct list     waiters;    /* for all to end */
    weir_waitq      askers;     /* for the next one to end: none is untold then */
    struct list     spawners;   /* for a place */
    unsigned        count;      /* running, and places granted to spawners */
    unsigned        own_spawners; /* members that wait to spawn into their own group */
    bool            canceled;
    int64_t         limit_ns;
    uint64_t        spawned, failures;
    weir_status     first;      /* failure */
    uint64_t        first_id;   /* whose; 0: of a spawn that failed */
    const char     *first_site;
    bool            heeded;     /* somebody was told that there was one */
    uint64_t        maker;      /* the coroutine that made it; 0: none did */
};

/* Who waits in a group's list of spawners. (group.c) */
weir_task *spawner_of(const struct list *node);

/* With somebody else who waits for a place in it, will any of its members ever end? (full.c) */
bool group_is_stuck(weir_group *full, weir_task *newcomer);

#endif
