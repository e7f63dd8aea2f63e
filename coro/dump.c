/*
 * dump.c - all coroutines of a hub, as text.
 *
 * A tree: the groups that no living coroutine made, their members, the groups that those
 * made. Groups know only the number of their maker, so they are sorted by it first; where there
 * is no memory for that they are written one after the other.
 *
 * How deep a stack was touched is read from the page tables (mincore(2)). Walking one (walk.c)
 * costs ten times all the rest, so of a crowd only the first are walked: the others mostly
 * stand where those do.
 */
#include "group.h"
#include "log.h"
#include "settings.h"
#include "walk.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    LINE = 512,
    DEPTH_MAX = 40,
    WALKED = 1000, /* coroutines whose frames are shown */
    FRAMES = 12    /* of each */
};

struct shown_group {
    weir_group *group;
    bool        shown;
};

struct dump {
    weir_hub           *hub;
    weir_write_fn       write;
    void               *arg;
    int64_t             now_ns;
    struct shown_group *groups; /* by their makers */
    size_t              group_count;
    unsigned            walked;
};

__attribute__((format(printf, 3, 4))) static void say(struct dump *dump, unsigned depth,
                                                      const char *fmt, ...)
{
    char    line[LINE];
    int     indent = (int)(depth < DEPTH_MAX ? depth : DEPTH_MAX) * 2;
    va_list args;

    memset(line, ' ', (size_t)indent);
    va_start(args, fmt);
    int length = vsnprintf(line + indent, sizeof line - (size_t)indent - 1, fmt, args);
    va_end(args);
    if (length < 0)
        return;
    length += indent;
    if (length > LINE - 2)
        length = LINE - 2;
    line[length] = '\n';
    dump->write(line, (size_t)length + 1, dump->arg);
}

/* ---- one coroutine ------------------------------------------------------------------ */

/* Bytes from the top of the stack to its deepest page that is in memory. */
static size_t touched(const struct stack *stack, size_t size)
{
    enum { PAGES = 64 };
    unsigned char present[PAGES];
    size_t        page = (size_t)sysconf(_SC_PAGESIZE), step = PAGES * page;

    for (size_t at = 0; at < size; at += step) {
        size_t here = size - at < step ? size - at : step;
        if (mincore((char *)stack->low + at, here, present) != 0)
            return 0;
        for (size_t i = 0; i < here / page; i++)
            if (present[i] & 1)
                return size - at - i * page;
    }
    return 0;
}

static size_t in_use(const weir_task *task)
{
    const char *high = (const char *)task->stack->low + task->depot->size;
    const char *at = task->state == TASK_RUNNING ? __builtin_frame_address(0)
                                                 : context_depth(&task->context);

    return at >= (const char *)task->stack->low && at < high ? (size_t)(high - at) : 0;
}

static const char *state_of(const weir_task *task)
{
    switch (task->state) {
    case TASK_READY:
        return "ready";
    case TASK_RUNNING:
        return "running";
    case TASK_PARKED:
        return "waits for ";
    case TASK_RESERVED:
    case TASK_DONE:
        break;
    }
    return "ended";
}

/* The one that runs is whoever asked for this: he knows where he is. */
static void show_frames(struct dump *dump, unsigned depth, const weir_task *task)
{
    void *frames[FRAMES];

    if (task->state == TASK_RUNNING || dump->walked == WALKED)
        return;
    int    count = walk_parked(&task->context, frames, FRAMES);
    char **words = count ? backtrace_symbols(frames, count) : NULL;
    for (int i = 0; words && i < count; i++)
        say(dump, depth, "in %s", words[i]);
    free(words);
    dump->walked += count > 0;
}

static void show_task(struct dump *dump, unsigned depth, const weir_task *task)
{
    int64_t age_ms = (dump->now_ns - task->born_ns) / 1000000;
    bool    parked = task->state == TASK_PARKED;

    say(dump, depth,
        "%llu %s: %s%s%s; %lld.%03lld s old; stack: %zu bytes in use, %zu of %zu KiB touched; "
        "spawned at %s",
        (unsigned long long)task->id, weir_task_name(task), state_of(task),
        parked ? (task->why ? task->why : "something") : "", task->canceled ? ", cancelled" : "",
        (long long)(age_ms / 1000), (long long)(age_ms % 1000), in_use(task),
        touched(task->stack, task->depot->size) / 1024, task->depot->size / 1024, task->site);
    if (task->switched)
        say(dump, depth + 1, "ran %lld us in %llu switches", (long long)(task->ran_ns / 1000),
            (unsigned long long)task->switched);
    show_frames(dump, depth + 1, task);
}

/* ---- groups ------------------------------------------------------------------------- */

static int by_maker(const void *a, const void *b)
{
    uint64_t left = ((const struct shown_group *)a)->group->maker;
    uint64_t right = ((const struct shown_group *)b)->group->maker;

    return (left > right) - (left < right);
}

static void sort_groups(struct dump *dump)
{
    size_t count = 0, at = 0;

    LIST_EACH(node, &dump->hub->groups)
        count++;
    dump->groups = malloc(count * sizeof *dump->groups);
    if (!dump->groups)
        return;
    LIST_EACH(node, &dump->hub->groups)
        dump->groups[at++].group = LIST_OF(node, weir_group, link);
    for (size_t i = 0; i < count; i++)
        dump->groups[i].shown = false;
    dump->group_count = count;
    qsort(dump->groups, count, sizeof *dump->groups, by_maker);
}

/* The first group that this coroutine made; group_count for none. */
static size_t first_of_maker(const struct dump *dump, uint64_t maker)
{
    size_t low = 0, high = dump->group_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (dump->groups[middle].group->maker < maker)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void show_group(struct dump *dump, unsigned depth, const weir_group *group);

static void show_groups_of(struct dump *dump, unsigned depth, uint64_t maker)
{
    for (size_t i = first_of_maker(dump, maker);
         i < dump->group_count && dump->groups[i].group->maker == maker; i++) {
        if (!dump->groups[i].shown) {
            dump->groups[i].shown = true;
            show_group(dump, depth, dump->groups[i].group);
        }
    }
}

static void show_group(struct dump *dump, unsigned depth, const weir_group *group)
{
    const char *name = group == dump->hub->root ? "detached"
                       : group->opts.name       ? group->opts.name
                                                : "group";

    if (group == dump->hub->root && list_empty(&group->running))
        return;
    say(dump, depth, "%s: %u running, %llu spawned, %llu failed%s", name, group->count,
        (unsigned long long)group->spawned, (unsigned long long)group->failures,
        group->canceled ? ", cancelled" : "");
    LIST_EACH(node, &group->running) {
        weir_task *task = LIST_OF(node, weir_task, link);
        show_task(dump, depth + 1, task);
        if (task->has_groups && depth < DEPTH_MAX)
            show_groups_of(dump, depth + 2, task->id);
    }
}

/* Those nobody alive made, then what that left out. */
static void show_groups(struct dump *dump)
{
    sort_groups(dump);
    show_groups_of(dump, 1, 0);
    for (size_t i = 0; i < dump->group_count; i++) {
        if (!dump->groups[i].shown) {
            dump->groups[i].shown = true;
            show_group(dump, 1, dump->groups[i].group);
        }
    }
    if (!dump->groups)
        LIST_EACH(node, &dump->hub->groups)
            show_group(dump, 1, LIST_OF(node, weir_group, link));
    free(dump->groups);
}

/* ---- all of them -------------------------------------------------------------------- */

static void show_reserved(weir_task *task, void *arg)
{
    if (task->reserved)
        show_task(arg, 2, task);
}

static void hub_dump(weir_hub *hub, weir_write_fn write, void *arg)
{
    struct dump dump = { .hub = hub, .write = write, .arg = arg,
                         .now_ns = hub->reactor->ops->clock(hub->reactor) };

    say(&dump, 0, "hub %u, process %d, thread %d: %u coroutines, %u of %u in reserve at work",
        hub->number, (int)hub->pid, (int)hub->tid, hub->live, hub->busy_reserve, hub->reserve);
    show_groups(&dump);
    if (hub->busy_reserve) {
        say(&dump, 1, "in reserve, at work:");
        tasks_each(hub, show_reserved, &dump);
    }
}

void weir_dump(weir_write_fn write, void *arg)
{
    if (hub_here_)
        hub_dump(hub_here_, write, arg);
}

/* ---- on a signal -------------------------------------------------------------------- */

static int              dump_signal; /* 0: none */
static struct sigaction before;
static weir_write_fn    dump_write;
static void            *dump_arg;
static pthread_mutex_t  one_hub_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void to_stderr(const char *text, size_t size, void *arg)
{
    (void)arg;
    fwrite(text, 1, size, stderr);
}

/* All hubs are asked at once, and trees whose lines are mixed tell nobody anything. So this hub may
   stand still while another one writes. */
void hub_answer_dump(weir_hub *hub)
{
    pthread_mutex_lock(&one_hub_at_a_time);
    hub_dump(hub, dump_write ? dump_write : to_stderr, dump_arg);
    pthread_mutex_unlock(&one_hub_at_a_time);
}

/* The hub that was writing is the parent's. */
void dump_forked(void)
{
    pthread_mutex_init(&one_hub_at_a_time, NULL);
}

static void on_signal(int number, siginfo_t *info, void *machine)
{
    int saved_errno = errno;

    hubs_ask_for_dump();
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, machine);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    errno = saved_errno;
}

weir_status weir_dump_on_signal(int number, weir_write_fn write, void *arg, weir_error *err)
{
    struct sigaction ours = { .sa_sigaction = on_signal,
                              .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };

    settings_apply(); /* now, so that what the environment says does not come after us */
    if (dump_signal)
        sigaction(dump_signal, &before, NULL);
    dump_signal = 0;
    if (!number)
        return WEIR_OK;
    dump_write = write;
    dump_arg = arg;
    sigemptyset(&ours.sa_mask);
    if (sigaction(number, &ours, &before) != 0)
        return weir_error_set(err, WEIR_USAGE, "signal %d cannot be caught: choose another one, "
                                               "such as SIGUSR1", number);
    dump_signal = number;
    return WEIR_OK;
}
