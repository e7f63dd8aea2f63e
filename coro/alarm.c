/*
 * alarm.c - points in time that the hub must not miss.
 *
 * One heap, four children to a node: shallower than two, and the four lie in one cache line.
 * Alarms at the same time ring in the order they were set. The room is reserved when their
 * owners are made, so setting one cannot fail.
 */
#include "hub.h"

#include <stdlib.h>

static bool before(const struct alarm_entry *a, const struct alarm_entry *b)
{
    if (a->at_ns != b->at_ns)
        return a->at_ns < b->at_ns;
    return (int)(a->alarm->order - b->alarm->order) < 0;
}

static void put(weir_hub *hub, unsigned slot, struct alarm_entry entry)
{
    hub->alarms[slot] = entry;
    entry.alarm->slot = slot;
}

static void sift_up(weir_hub *hub, unsigned slot, struct alarm_entry entry)
{
    while (slot > 1) {
        unsigned parent = (slot + 2) / 4;
        if (!before(&entry, &hub->alarms[parent]))
            break;
        put(hub, slot, hub->alarms[parent]);
        slot = parent;
    }
    put(hub, slot, entry);
}

static void sift_down(weir_hub *hub, unsigned slot, struct alarm_entry entry)
{
    for (;;) {
        unsigned first = slot * 4 - 2, last = first + 3, best = 0;

        if (last > hub->alarm_count)
            last = hub->alarm_count;
        for (unsigned child = first; child <= last; child++)
            if (!best || before(&hub->alarms[child], &hub->alarms[best]))
                best = child;
        if (!best || !before(&hub->alarms[best], &entry))
            break;
        put(hub, slot, hub->alarms[best]);
        slot = best;
    }
    put(hub, slot, entry);
}

static void take_out(weir_hub *hub, weir_alarm *alarm)
{
    unsigned           slot = alarm->slot;
    struct alarm_entry last = hub->alarms[hub->alarm_count--];

    alarm->slot = 0;
    if (last.alarm == alarm)
        return;
    if (slot > 1 && before(&last, &hub->alarms[(slot + 2) / 4]))
        sift_up(hub, slot, last);
    else
        sift_down(hub, slot, last);
}

weir_status weir_alarm_reserve(int count)
{
    weir_hub *hub = hub_here_;

    if (!hub)
        return WEIR_USAGE;
    if (count > 0 && hub->alarm_reserved + (unsigned)count > hub->alarm_room) {
        unsigned room = hub->alarm_room ? hub->alarm_room * 2 : 256;
        while (room < hub->alarm_reserved + (unsigned)count)
            room *= 2;
        void *grown = realloc(hub->alarms, ((size_t)room + 1) * sizeof *hub->alarms);
        if (!grown)
            return WEIR_NOMEM;
        hub->alarms = grown;
        hub->alarm_room = room;
    }
    hub->alarm_reserved += (unsigned)count; /* a negative count gives back */
    return WEIR_OK;
}

void weir_alarm_set(weir_alarm *alarm, int64_t at_ns, void (*fn)(weir_alarm *))
{
    weir_hub *hub = hub_here_;

    if (alarm->slot)
        take_out(hub, alarm);
    if (hub->ringing && at_ns <= hub->now_ns)
        at_ns = hub->now_ns + 1; /* in the next turn: one that sets itself again must not hang us */
    alarm->at_ns = at_ns;
    alarm->fn = fn;
    alarm->order = hub->alarm_order++;
    sift_up(hub, ++hub->alarm_count, (struct alarm_entry){ at_ns, alarm });
}

void weir_alarm_stop(weir_alarm *alarm)
{
    if (alarm->slot)
        take_out(hub_here_, alarm);
}

int64_t hub_next_alarm(const weir_hub *hub)
{
    return hub->alarm_count ? hub->alarms[1].at_ns : INT64_MAX;
}

void alarms_ring(weir_hub *hub)
{
    hub->ringing = true;
    if (hub->alarm_count && hub->alarms[1].at_ns <= hub->now_ns) {
        hub->lag_ns = hub->now_ns - hub->alarms[1].at_ns;
        if (hub->lag_ns > hub->max_lag_ns)
            hub->max_lag_ns = hub->lag_ns;
    }
    while (hub->alarm_count && hub->alarms[1].at_ns <= hub->now_ns) {
        weir_alarm *alarm = hub->alarms[1].alarm;
        take_out(hub, alarm);
        alarm->fn(alarm);
    }
    hub->ringing = false;
}

/* Whoever set them is gone, or knows by his fork hook that none is set any more. */
void alarms_forked(weir_hub *hub)
{
    for (unsigned slot = 1; slot <= hub->alarm_count; slot++)
        hub->alarms[slot].alarm->slot = 0;
    hub->alarm_count = 0;
    hub->ringing = false;
}
