/*
 * group.c - tasks that are waited for together.
 *
 * A member is on exactly one list: running, or ended (in the order of ending). What the group
 * does not keep, it forgets when the member ends, unless somebody joins it. Of those that
 * ended the first ones have been told by weir_group_next(), the others not yet; a mark is
 * where that changes. Who asks while there is none is told the next one as it ends.
 *
 * A place in a bounded group passes from the member that ends to the spawner that has waited
 * longest in the same step: the count never dips, so nobody can slip in between.
 */
#include "group.h"
#include "log.h"
#include "waitq.h"

#include <stdlib.h>

/* A spawn that failed: a member that never was. */
struct missing {
    struct list link;
    weir_status status;
    const char *site;
};

/* Somebody in weir_group_next(). */
struct asker {
    struct weir_waiter_ waiter;
    weir_member        *out;
};

struct spawner {
    struct list link;
    weir_waker  waker;
    bool        granted;
};

weir_task *spawner_of(const struct list *node)
{
    return LIST_OF(node, struct spawner, link)->waker.task;
}

/* ---- who has ended ------------------------------------------------------------------ */

static void roll_init(struct roll *roll)
{
    list_init(&roll->members);
    roll->told = &roll->members;
}

static void roll_append(struct roll *roll, struct list *node, bool told)
{
    list_append(&roll->members, node);
    if (told)
        roll->told = node; /* all before it are: nobody waits to be told while one is not */
}

/* The first that was not told yet: from here on it is. */
static struct list *roll_call(struct roll *roll)
{
    struct list *node = roll->told->next;

    if (node == &roll->members)
        return NULL;
    roll->told = node;
    return node;
}

/* One that was told last goes. */
static void roll_forget(struct roll *roll, struct list *node)
{
    roll->told = node->prev;
    list_unlink(node);
}

static weir_member describe(weir_task *task)
{
    return (weir_member){ .task = task,
                          .id = task->id,
                          .name = weir_task_name(task),
                          .site = task->site,
                          .done = task->state == TASK_DONE,
                          .status = task->status,
                          .value = weir_task_value(task) };
}

static weir_member describe_missing(const struct missing *missing)
{
    return (weir_member){ .name = "coroutine", .site = missing->site, .done = true,
                          .status = missing->status };
}

/* Tell whoever has waited longest to hear of one; false when nobody does. */
static bool tell_asker(weir_group *group, const weir_member *member)
{
    struct weir_waiter_ *waiter = waitq_take(&group->askers, WEIR_OK);

    if (!waiter)
        return false;
    *LIST_OF(waiter, struct asker, waiter)->out = *member;
    weir_wake(waiter->waker);
    return true;
}

static bool keeps(const weir_group *group, weir_status status, bool told)
{
    switch (group->opts.keep) {
    case WEIR_KEEP_ALL:
        return true;
    case WEIR_KEEP_FAILURES:
        return status != WEIR_OK;
    case WEIR_KEEP_COUNTS:
        return false;
    case WEIR_KEEP_UNTOLD:
        return !told;
    }
    return false;
}

/* ---- making ------------------------------------------------------------------------- */

weir_group *group_make(weir_hub *hub, const weir_group_opts *opts)
{
    weir_group *group = calloc(1, sizeof *group);
    if (!group)
        return NULL;

    if (opts)
        group->opts = *opts;
    group->hub = hub;
    group->limit_ns = hub->running ? hub->running->limit_ns : INT64_MAX;
    if (group->opts.deadline.at_ns && group->opts.deadline.at_ns < group->limit_ns)
        group->limit_ns = group->opts.deadline.at_ns;
    if (hub->running) {
        group->maker = hub->running->id;
        hub->running->has_groups = true;
    }
    list_append(&hub->groups, &group->link);
    list_init(&group->running);
    roll_init(&group->ended);
    roll_init(&group->missing);
    list_init(&group->waiters);
    list_init(&group->spawners);
    return group;
}

weir_status weir_group_new(const weir_group_opts *opts, weir_group **out, weir_error *err)
{
    if (!out)
        return weir_error_set(err, WEIR_USAGE, "out is missing: where shall the group go?");
    *out = NULL;
    if (!hub_here_)
        return weir_error_set(err, WEIR_USAGE,
                              "this thread has no hub: make groups inside weir_run(), or after "
                              "weir_attach()");
    if (opts && (unsigned)opts->keep > WEIR_KEEP_UNTOLD)
        return weir_error_set(err, WEIR_USAGE, "weir_group_opts.keep is no weir_keep");
    *out = group_make(hub_here_, opts);
    if (!*out)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a group");
    return WEIR_OK;
}

/* ---- members ------------------------------------------------------------------------ */

void group_heed(weir_group *group)
{
    group->heeded = true;
}

static bool is_member(const weir_group *group, const weir_task *task)
{
    return task && task->group == group && task->state != TASK_DONE;
}

static void count_failure(weir_group *group, weir_status status, uint64_t id, const char *site)
{
    if (group->failures++ > 0)
        return;
    group->first = status;
    group->first_id = id;
    group->first_site = site;
}

/* Remember a spawn that failed. Where even that fails, its status still counts. */
static void *miss(weir_group *group, weir_status status, const char *site)
{
    struct missing never = { .status = status, .site = site };
    weir_member    member = describe_missing(&never);

    count_failure(group, status, 0, site);
    if (group == group->hub->root)
        LOG(WEIR_LOG_ERROR, "%s: the coroutine could not be started: %s", site,
            weir_status_name(status));

    bool            told = tell_asker(group, &member);
    struct missing *missing = keeps(group, status, told) ? malloc(sizeof *missing) : NULL;
    if (missing) {
        *missing = never;
        roll_append(&group->missing, &missing->link, told);
    }
    return NULL;
}

static void drop_place(weir_group *group)
{
    struct list *first = list_first(&group->spawners);

    if (first && !group->canceled) {
        struct spawner *spawner = LIST_OF(first, struct spawner, link);
        list_unlink(first);
        spawner->granted = true;
        weir_wake(spawner->waker);
        return; /* the place is his: the count stays */
    }
    if (--group->count > 0)
        return;
    if (!list_empty(&group->waiters))
        wake_all(&group->waiters);
    waitq_tell_all(&group->askers, WEIR_CLOSED);
}

/*
 * Wait for a place. When every member that runs is itself waiting here for one, or for somebody
 * who is (full.c), none will ever end: the newcomer is told, and the others go on when he gives
 * up.
 */
static weir_status wait_for_place(weir_group *group)
{
    weir_task *self = task_here();
    bool       own = is_member(group, self);

    if (!self)
        return WEIR_FULL; /* outside of a coroutine nobody can wait */
    if ((own && group->own_spawners + 1 >= group->count) || group_is_stuck(group, self))
        return WEIR_DEADLOCK;

    struct spawner me = { .waker = weir_waker_new() };
    list_append(&group->spawners, &me.link);
    group->own_spawners += own;
    weir_status status = weir_park(WEIR_SCOPE, "a place in a group");
    group->own_spawners -= own;
    if (me.granted && group->canceled) { /* since the place was granted */
        drop_place(group);
        return WEIR_CANCELED;
    }
    if (me.granted)
        return WEIR_OK; /* also when cancelled in the same turn: the spawn itself doesn't wait */
    list_unlink(&me.link);
    return group->canceled ? WEIR_CANCELED : status;
}

static weir_status take_place(weir_group *group)
{
    if (group->canceled)
        return WEIR_CANCELED;
    if (!group->opts.max_running || group->count < group->opts.max_running) {
        group->count++;
        return WEIR_OK;
    }
    return wait_for_place(group);
}

/* Parked until then before it has run at all: it ends by itself where it is cancelled first. */
static void begin_at(weir_task *task, int64_t at_ns)
{
    if (at_ns > task->limit_ns)
        at_ns = task->limit_ns;
    task->state = TASK_PARKED;
    task->why = "its time to begin";
    task->wake_at_ns = at_ns;
    if (at_ns != INT64_MAX)
        weir_alarm_set(&task->alarm, at_ns, task_alarm_rang);
}

weir_task *weir_spawn_at(weir_group *group, const weir_spawn_opts *opts, weir_fn fn, void *arg,
                         const char *site)
{
    weir_hub *hub = hub_here_;

    if (!hub || (group && group->hub != hub)) {
        LOG(WEIR_LOG_ERROR, "%s: weir_spawn() on a thread %s", site,
            hub ? "other than the group's" : "without a hub: call weir_run() first");
        return NULL;
    }
    if (!group)
        group = hub->root;

    weir_status status = take_place(group);
    if (status != WEIR_OK)
        return miss(group, status, site);
    weir_error err;
    weir_task *task = task_new(hub, opts, fn, arg, site, &err);
    if (!task) {
        LOG(WEIR_LOG_ERROR, "%s: %s", site, err.message); /* its status says not how to mend it */
        miss(group, WEIR_NOMEM, site);
        drop_place(group);
        return NULL;
    }

    task->group = group;
    task->limit_ns = group->limit_ns;
    list_append(&group->running, &task->link);
    group->spawned++;
    hub->live++;
    task_make_context(task);
    if (opts && opts->start.at_ns > hub->now_ns)
        begin_at(task, opts->start.at_ns);
    else
        task_make_ready(task);
    return task;
}

void group_member_done(weir_group *group, weir_task *task)
{
    bool        failed = task->status != WEIR_OK;
    bool        told = false;
    weir_member member;

    if (failed)
        count_failure(group, task->status, task->id, task->site);
    if (failed && group == group->hub->root)
        LOG(WEIR_LOG_WARN, "detached %s %llu, spawned at %s, ended with %s", weir_task_name(task),
            (unsigned long long)task->id, task->site, weir_status_name(task->status));
    list_drop(&task->link);
    if (group->askers.first_) {
        member = describe(task);
        if (!keeps(group, task->status, true))
            member.task = NULL;
        told = tell_asker(group, &member);
    }
    if (keeps(group, task->status, told))
        roll_append(&group->ended, &task->link, told);
    else
        task_recycle(task);
    drop_place(group);
}

/* ---- waiting for them --------------------------------------------------------------- */

weir_status weir_group_wait(weir_group *group, weir_deadline deadline)
{
    if (is_member(group, task_here()))
        return WEIR_USAGE; /* it would wait for itself */

    if (!group->count) {
        weir_spend(1);
    } else {
        weir_status status = wait_in(&group->waiters, deadline, "a group to end");
        if (status != WEIR_OK)
            return status;
    }
    group->heeded = true;
    return group->first;
}

/* One that ended and was not told yet; spawns that failed first, since they ended at once. */
static bool next_untold(weir_group *group, weir_member *out)
{
    struct list *missing = roll_call(&group->missing);
    struct list *ended = missing ? NULL : roll_call(&group->ended);
    bool         forget = group->opts.keep == WEIR_KEEP_UNTOLD;

    if (missing) {
        *out = describe_missing(LIST_OF(missing, struct missing, link));
        if (forget) {
            roll_forget(&group->missing, missing);
            free(LIST_OF(missing, struct missing, link));
        }
    } else if (ended) {
        *out = describe(LIST_OF(ended, weir_task, link));
        if (forget) {
            roll_forget(&group->ended, ended);
            task_recycle(out->task);
            out->task = NULL;
        }
    }
    return missing || ended;
}

weir_status weir_group_next(weir_group *group, weir_deadline deadline, weir_member *out)
{
    weir_status status = is_member(group, task_here()) ? WEIR_USAGE : hot_pending();

    *out = (weir_member){ .name = "" };
    group->heeded = true;
    if (status != WEIR_OK)
        return waitq_fail(status);
    if (next_untold(group, out))
        return waitq_succeed();
    if (!group->count)
        return waitq_fail(WEIR_CLOSED);

    struct asker me = { .out = out };
    return waitq_sleep(&group->askers, &me.waiter, deadline, "the next of a group to end");
}

void weir_group_cancel(weir_group *group)
{
    group->canceled = true;
    LIST_EACH(node, &group->running)
        weir_cancel(LIST_OF(node, weir_task, link));
    while (!list_empty(&group->spawners)) {
        struct spawner *spawner = LIST_OF(list_first(&group->spawners), struct spawner, link);
        list_unlink(&spawner->link);
        weir_wake(spawner->waker); /* not granted: it sees that the group is cancelled */
    }
}

weir_status weir_group_stop(weir_group *group, weir_deadline deadline)
{
    if (is_member(group, task_here()))
        return WEIR_USAGE;

    WEIR_SHIELD(deadline);
    weir_group_cancel(group);
    return weir_group_wait(group, WEIR_SCOPE);
}

/*
 * A failure that nobody was told of is said once, before it is forgotten. That of one who was
 * cancelled is not: whoever cancelled knows.
 */
static void say_what_went_unheard(const weir_group *group)
{
    if (!group->failures || group->heeded || group->first == WEIR_CANCELED)
        return;
    LOG(WEIR_LOG_WARN,
        "group %s: %llu of %llu coroutines failed and nobody asked; the first was %llu, spawned at "
        "%s, with %s", group->opts.name ? group->opts.name : "without a name",
        (unsigned long long)group->failures, (unsigned long long)group->spawned,
        (unsigned long long)group->first_id, group->first_site, weir_status_name(group->first));
}

static void group_destroy(weir_group *group)
{
    list_unlink(&group->link);
    LIST_EACH(node, &group->ended.members)
        task_forget(LIST_OF(node, weir_task, link));
    LIST_EACH(node, &group->missing.members)
        free(LIST_OF(node, struct missing, link));
    free(group);
}

void groups_destroy(weir_hub *hub)
{
    LIST_EACH(node, &hub->groups)
        group_destroy(LIST_OF(node, weir_group, link));
}

void weir_group_free(weir_group *group)
{
    if (!group)
        return;
    weir_task *self = task_here();
    if (is_member(group, self) || (group->count && (!self || self->no_yield))) {
        LOG(WEIR_LOG_ERROR, "weir_group_free() %s: the group is left alone",
            !self            ? "outside of a coroutine, while members run"
            : self->no_yield ? "in an exit hook or a destructor, while members run"
                             : "by a member");
        return;
    }
    if (group->count) {
        bool heeded = group->heeded;
        WEIR_SHIELD(WEIR_FOREVER);
        weir_group_cancel(group);
        (void)weir_group_wait(group, WEIR_FOREVER);
        group->heeded = heeded;
    }
    say_what_went_unheard(group);
    group_destroy(group);
}

/* ---- after a fork --------------------------------------------------------------------- */

/*
 * In the child those that do not run there count as cancelled, so that nobody waits for them.
 * Their records stay theirs: somebody may ask about one.
 */
static void drop_members(weir_group *group, weir_task *survivor)
{
    LIST_EACH(node, &group->running) {
        weir_task *task = LIST_OF(node, weir_task, link);
        if (task == survivor)
            continue;
        task->status = WEIR_CANCELED;
        count_failure(group, WEIR_CANCELED, task->id, task->site);
        list_unlink(&task->link);
        if (keeps(group, WEIR_CANCELED, false))
            roll_append(&group->ended, &task->link, false);
    }
}

void groups_forked(weir_hub *hub, weir_task *survivor)
{
    LIST_EACH(node, &hub->groups) {
        weir_group *group = LIST_OF(node, weir_group, link);
        drop_members(group, survivor);
        group->count = !list_empty(&group->running);
        group->own_spawners = 0;
        list_init(&group->waiters); /* whoever waited was dropped */
        list_init(&group->spawners);
        group->askers = (weir_waitq){ 0 };
    }
}

/* ---- numbers ------------------------------------------------------------------------ */

unsigned weir_group_running(const weir_group *group)
{
    return group->count;
}

uint64_t weir_group_spawned(const weir_group *group)
{
    return group->spawned;
}

uint64_t weir_group_failed(const weir_group *group)
{
    ((weir_group *)group)->heeded = true;
    return group->failures;
}

enum { RUNNING, FAILED, SUCCEEDED };

static void tell(struct list *tasks, int which, void (*fn)(const weir_member *, void *), void *arg)
{
    LIST_EACH(node, tasks) {
        weir_member member = describe(LIST_OF(node, weir_task, link));
        if (which == RUNNING || (which == FAILED) == (member.status != WEIR_OK))
            fn(&member, arg);
    }
}

void weir_group_each(weir_group *group, void (*fn)(const weir_member *member, void *arg),
                     void *arg)
{
    group->heeded = true;
    tell(&group->ended.members, FAILED, fn, arg);
    LIST_EACH(node, &group->missing.members) {
        weir_member member = describe_missing(LIST_OF(node, struct missing, link));
        fn(&member, arg);
    }
    tell(&group->ended.members, SUCCEEDED, fn, arg);
    tell(&group->running, RUNNING, fn, arg);
}
