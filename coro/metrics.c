/*
 * metrics.c - counts of a hub, and of the process's threads, as Prometheus text.
 */
#include "hub.h"
#include "offload.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <weir/offload.h>

struct out {
    weir_write_fn write;
    void         *arg;
};

__attribute__((format(printf, 2, 3))) static void say(const struct out *out, const char *fmt, ...)
{
    char    text[512];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (length > 0)
        out->write(text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1, out->arg);
}

static void head(const struct out *out, const char *name, const char *type, const char *help)
{
    say(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* ---- a hub -------------------------------------------------------------------------- */

static void count_state(weir_task *task, void *arg)
{
    ((unsigned *)arg)[task->state]++;
}

static void number(const struct out *out, const weir_hub *hub, const char *name, const char *type,
                   const char *help, uint64_t value)
{
    head(out, name, type, help);
    say(out, "%s{hub=\"%u\"} %" PRIu64 "\n", name, hub->number, value);
}

static void seconds(const struct out *out, const weir_hub *hub, const char *name, const char *help,
                    int64_t ns)
{
    head(out, name, "gauge", help);
    say(out, "%s{hub=\"%u\"} %" PRId64 ".%09" PRId64 "\n", name, hub->number, ns / 1000000000,
        ns % 1000000000);
}

static void show_states(const struct out *out, weir_hub *hub)
{
    static const char *const names[] = { "ready", "running", "parked" };
    unsigned                 counts[TASK_DONE + 1] = { 0 };

    tasks_each(hub, count_state, counts);
    head(out, "weir_coroutines", "gauge",
         "Coroutines by state; ready: in the queue for the thread.");
    for (int state = TASK_READY; state <= TASK_PARKED; state++)
        say(out, "weir_coroutines{hub=\"%u\",state=\"%s\"} %u\n", hub->number, names[state],
            counts[state]);
    say(out, "weir_coroutines{hub=\"%u\",state=\"reserve\"} %u\n", hub->number,
        hub->reserve - hub->busy_reserve);
}

static void show_hub(const struct out *out, weir_hub *hub)
{
    show_states(out, hub);
    number(out, hub, "weir_coroutines_made_total", "counter", "Coroutines made.", hub->last_id);
    number(out, hub, "weir_hub_switches_total", "counter",
           "Times a coroutine was given the thread.",
           hub->switches + (uint64_t)((int64_t)hub->counted_from - hub->until_clock));
    number(out, hub, "weir_hub_turns_total", "counter", "Turns begun.",
           (atomic_load(&hub->beat) + 1) / 2);
    number(out, hub, "weir_hub_blocked_turns_total", "counter",
           "Turns that the watchdog found to take too long.", atomic_load(&hub->blocked));
    number(out, hub, "weir_hub_alarms", "gauge", "Alarms set.", hub->alarm_count);
    number(out, hub, "weir_hub_descriptors_watched", "gauge", "Descriptors watched.",
           hub->watched);
    seconds(out, hub, "weir_hub_lag_seconds", "How late alarms rang the last time.", hub->lag_ns);
    seconds(out, hub, "weir_hub_max_lag_seconds", "How late alarms ever rang.", hub->max_lag_ns);
}

/* ---- the process -------------------------------------------------------------------- */

static void show_threads(const struct crew_count *crew, void *arg)
{
    say(arg,
        "weir_threads{crew=\"%s\",state=\"working\"} %u\n"
        "weir_threads{crew=\"%s\",state=\"idle\"} %u\n",
        crew->name, crew->threads - crew->idle, crew->name, crew->idle);
}

static void show_most(const struct crew_count *crew, void *arg)
{
    say(arg, "weir_threads_max{crew=\"%s\"} %u\n", crew->name, crew->limit);
}

static void show_queue(const struct crew_count *crew, void *arg)
{
    say(arg, "weir_threads_queue{crew=\"%s\"} %u\n", crew->name, crew->queued + crew->waiting);
}

static void show_done(const struct crew_count *crew, void *arg)
{
    say(arg, "weir_threads_jobs_total{crew=\"%s\"} %" PRIu64 "\n", crew->name, crew->done);
}

static void show_crews(struct out *out)
{
    head(out, "weir_threads", "gauge", "Threads for offloaded work and for names.");
    crews_each(show_threads, out);
    head(out, "weir_threads_max", "gauge", "Threads there may be at once.");
    crews_each(show_most, out);
    head(out, "weir_threads_queue", "gauge", "Jobs that wait for a thread.");
    crews_each(show_queue, out);
    head(out, "weir_threads_jobs_total", "counter", "Jobs done by threads.");
    crews_each(show_done, out);
}

static void show_names(const struct out *out)
{
    weir_resolve_stats names;

    weir_resolve_stats_read(&names);
    head(out, "weir_names", "gauge", "Names known, and being looked up.");
    say(out, "weir_names{state=\"known\"} %u\nweir_names{state=\"asking\"} %u\n", names.known,
        names.asking);
    head(out, "weir_names_asked_total", "counter",
         "Questions for a name, by what answered: a lookup, another's lookup, what was kept.");
    say(out,
        "weir_names_asked_total{by=\"lookup\"} %" PRIu64 "\n"
        "weir_names_asked_total{by=\"shared\"} %" PRIu64 "\n"
        "weir_names_asked_total{by=\"kept\"} %" PRIu64 "\n",
        names.asked, names.shared, names.kept);
}

void weir_coro_metrics(weir_write_fn write, void *arg)
{
    struct out out = { write, arg };

    if (hub_here_)
        show_hub(&out, hub_here_);
    show_crews(&out);
    show_names(&out);
}
