/*
 * trace.c - who runs when, and for how long.
 *
 * Off, it costs nothing: a hub reads the clock after so many switches, and a traced one is
 * told to do so after each, which leads here (hub_batch_over()).
 */
#include "hub.h"

void hub_trace(weir_hub *hub, weir_task *to)
{
    int64_t    now = to ? hub->now_ns : hub->reactor->ops->clock(hub->reactor);
    weir_task *from = hub->slice_of;

    if (from)
        from->ran_ns += now - hub->slice_from_ns;
    hub->slice_of = to;
    hub->slice_from_ns = now;
    if (to)
        to->switched++;
    if (hub->on_switch && from != to)
        hub->on_switch(from, to, now, hub->on_switch_arg);
}

weir_status weir_trace_start(weir_switch_fn fn, void *arg)
{
    weir_hub *hub = hub_here_;

    if (!hub)
        return WEIR_USAGE;
    hub->on_switch = fn;
    hub->on_switch_arg = arg;
    if (hub->traced)
        return WEIR_OK;
    hub->traced = true;
    hub->slice_of = hub->running;
    hub->slice_from_ns = hub->reactor->ops->clock(hub->reactor);
    if (hub->until_clock > 1)
        hub_set_until_clock(hub, 1);
    return WEIR_OK;
}

void weir_trace_stop(void)
{
    weir_hub *hub = hub_here_;

    if (!hub || !hub->traced)
        return;
    hub->on_switch = NULL;
    hub_trace(hub, NULL);
    hub->traced = false;
}

uint64_t weir_task_switches(const weir_task *task)
{
    return task->switched;
}

int64_t weir_task_run_ns(const weir_task *task)
{
    weir_hub *hub = task->hub;

    if (hub->slice_of != task)
        return task->ran_ns;
    return task->ran_ns + hub->reactor->ops->clock(hub->reactor) - hub->slice_from_ns;
}
