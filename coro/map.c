/*
 * map.c - the same function for each of many items, several at once.
 *
 * A few coroutines take the items in turn, each the next one nobody has begun: a thousand items
 * need no thousand stacks, and nothing is queued.
 *
 * Telling them in order needs no memory for results either. Whoever has ended an item waits
 * for the turn of its index before he takes another. So the items that are begun and not yet
 * told lie within as many indexes as there are coroutines, and each has a place of its own, index
 * modulo that number, for the one who waits.
 */
#include "hub.h"

#include <stdlib.h>

enum { AT_ONCE = 10 };

struct map {
    weir_map_opts opts;
    size_t        count;
    weir_status (*fn)(size_t index, void *arg);
    void         *arg;
    weir_group   *group;
    size_t        next;   /* index nobody has begun */
    size_t        ended;
    weir_status   failed; /* the first */
    size_t        turn;   /* index to be told next */
    weir_waker   *turns;  /* opts.max_running of them; NULL where nobody is told */
};

/* Shielded: whoever is before us ends some time, cancelled like us if need be, and hands on. */
static void wait_for_turn(struct map *map, size_t index)
{
    WEIR_SHIELD(WEIR_FOREVER);
    while (map->turn != index) {
        map->turns[index % map->opts.max_running] = weir_waker_new();
        (void)weir_park(WEIR_FOREVER, "its turn in a map");
    }
}

static void tell_in_order(struct map *map, size_t index, weir_status status)
{
    wait_for_turn(map, index);
    map->opts.each(index, status, map->arg);
    map->turn++;
    weir_wake(map->turns[map->turn % map->opts.max_running]);
}

static void item_ended(struct map *map, size_t index, weir_status status)
{
    map->ended++;
    if (status != WEIR_OK && map->failed == WEIR_OK) {
        map->failed = status;
        if (!map->opts.keep_going)
            weir_group_cancel(map->group);
    }
    if (map->turns)
        tell_in_order(map, index, status);
}

static weir_status work(void *arg)
{
    struct map *map = arg;

    while (map->next < map->count) {
        weir_status status = hot_pending();
        if (status != WEIR_OK)
            return status;
        size_t index = map->next++;
        item_ended(map, index, map->fn(index, map->arg));
        hot_spend(1);
    }
    return WEIR_OK;
}

/* Fewer will do as well where memory is short, but one. */
static weir_status work_together(struct map *map, weir_deadline deadline, const char *site)
{
    weir_spawn_opts opts = { .name = map->opts.name ? map->opts.name : "map" };
    unsigned        workers = 0;

    while (workers < map->opts.max_running &&
           weir_spawn_at(map->group, &opts, work, map, site) != NULL)
        workers++;
    weir_status status = weir_group_wait(map->group, deadline);
    weir_group_free(map->group); /* whatever still runs is cancelled and joined */
    if (map->failed != WEIR_OK)
        return map->failed;
    return map->ended == map->count ? WEIR_OK : status;
}

weir_status weir_map_at(const weir_map_opts *opts, size_t count,
                        weir_status (*fn)(size_t index, void *arg), void *arg,
                        weir_deadline deadline, const char *site)
{
    struct map  map = { .count = count, .fn = fn, .arg = arg };
    weir_task  *self = task_here();
    weir_status status = hot_pending();

    if (!self || self->no_yield)
        return WEIR_USAGE; /* nobody could wait for them here */
    if (status != WEIR_OK || !count)
        return status;
    if (opts)
        map.opts = *opts;
    if (!map.opts.max_running)
        map.opts.max_running = AT_ONCE;
    if (map.opts.max_running > count)
        map.opts.max_running = (unsigned)count;
    if (map.opts.each) {
        map.turns = calloc(map.opts.max_running, sizeof *map.turns);
        if (!map.turns)
            return WEIR_NOMEM;
    }
    weir_group_opts group = { .name = map.opts.name, .keep = WEIR_KEEP_COUNTS,
                              .deadline = deadline };
    status = weir_group_new(&group, &map.group, NULL);
    if (status == WEIR_OK)
        status = work_together(&map, deadline, site);
    free(map.turns);
    return status;
}
