/*
 * task.c - a coroutine's life: made, run, ended, kept in reserve.
 *
 * A task's record is apart from its stack, because others may ask about it after it has
 * ended. Records and stacks are both reused last in, first out, and never leave their hub.
 * A record that is used again keeps its token: an old ticket for it stays stale.
 */
#include "hub.h"
#include "log.h"
#include "park.h"

#include <stdlib.h>
#include <string.h>

enum { TASKS_PER_BLOCK = 64 };

struct task_block {
    struct task_block *next;
    weir_task          tasks[TASKS_PER_BLOCK];
};

/* ---- records ------------------------------------------------------------------------ */

static weir_task *record_take(weir_hub *hub)
{
    if (!hub->free_tasks) {
        struct task_block *block = calloc(1, sizeof *block);
        if (!block)
            return NULL;
        block->next = hub->task_blocks;
        hub->task_blocks = block;
        for (int i = TASKS_PER_BLOCK - 1; i >= 0; i--) {
            block->tasks[i].next_ready = hub->free_tasks;
            hub->free_tasks = &block->tasks[i];
        }
    }
    weir_task *task = hub->free_tasks;
    hub->free_tasks = task->next_ready;
    return task;
}

static void record_give(weir_hub *hub, weir_task *task)
{
    task->next_ready = hub->free_tasks;
    hub->free_tasks = task;
}

void tasks_free(weir_hub *hub)
{
    for (struct task_block *block = hub->task_blocks, *next; block; block = next) {
        next = block->next;
        for (int i = 0; i < TASKS_PER_BLOCK; i++)
            context_forget(&block->tasks[i].context);
        free(block);
    }
}

static bool is_alive(const weir_task *task)
{
    return task->hub && task->state != TASK_DONE && task->state != TASK_RESERVED;
}

void tasks_each(weir_hub *hub, void (*fn)(weir_task *task, void *arg), void *arg)
{
    for (struct task_block *block = hub->task_blocks; block; block = block->next)
        for (int i = 0; i < TASKS_PER_BLOCK; i++)
            if (is_alive(&block->tasks[i]))
                fn(&block->tasks[i], arg);
}

/* ---- stacks ------------------------------------------------------------------------- */

static struct depot *depot_of(weir_hub *hub, const weir_spawn_opts *opts)
{
    struct depot *depot = &hub->depot;

    if (!opts || !opts->stack_size)
        return depot;
    size_t size = stack_round(opts->stack_size);
    while (depot->size != size) {
        if (!depot->next) {
            depot->next = malloc(sizeof *depot);
            if (!depot->next)
                return NULL;
            depot_init(depot->next, size);
        }
        depot = depot->next;
    }
    return depot;
}

static void give_stack_back(weir_task *task)
{
    if (task->stack)
        stack_give(task->depot, task->stack);
    task->stack = NULL;
}

/* ---- joining ------------------------------------------------------------------------ */

/* The result is handed over at the end: by the time it is read the record may be another's. */
struct joiner {
    struct list link;
    weir_waker  waker;
    bool        ended;
    weir_status result;
    void       *value;
};

void task_joiners(weir_task *task, void (*fn)(weir_task *joiner, void *arg), void *arg)
{
    LIST_EACH(node, &task->joiners)
        fn(LIST_OF(node, struct joiner, link)->waker.task, arg);
}

static void tell_joiners(weir_task *task)
{
    while (!list_empty(&task->joiners)) {
        struct joiner *joiner = LIST_OF(list_first(&task->joiners), struct joiner, link);
        list_unlink(&joiner->link);
        joiner->ended = true;
        joiner->result = task->status;
        joiner->value = task->value;
        weir_wake(joiner->waker);
    }
}

/* Inlined into each that joins, for the reason given in park.h. */
PARK_INLINE weir_status join(weir_task *task, weir_deadline deadline, weir_status *result,
                             void **value)
{
    weir_task *self = task_here();

    if (!task || task == self)
        return WEIR_USAGE; /* a spawn that failed; or it would wait for itself */
    if (task->group)
        group_heed(task->group);

    struct joiner me = { .ended = task->state == TASK_DONE, .result = task->status,
                         .value = task->value };
    if (me.ended) {
        weir_spend(1);
    } else if (!self) {
        return weir_park(deadline, "a coroutine to end"); /* refused */
    } else {
        park_begin(self);
        me.waker = (weir_waker){ self, self->token };
        list_append(&task->joiners, &me.link);
        weir_status status = park_until(self, deadline, "a coroutine to end");
        list_drop(&me.link);
        if (!me.ended)
            return status;
    }
    if (result)
        *result = me.result;
    if (value)
        *value = me.value;
    return WEIR_OK;
}

weir_status weir_join_value(weir_task *task, weir_deadline deadline, weir_status *result,
                            void **value)
{
    return join(task, deadline, result, value);
}

weir_status weir_join(weir_task *task, weir_deadline deadline, weir_status *result)
{
    return join(task, deadline, result, NULL);
}

weir_status weir_stop(weir_task *task, weir_deadline deadline, weir_status *result)
{
    if (!task || task == task_here())
        return WEIR_USAGE;

    WEIR_SHIELD(deadline);
    weir_cancel(task);
    return weir_join(task, WEIR_SCOPE, result);
}

/* ---- the body ----------------------------------------------------------------------- */

static void run_exit_hooks(weir_task *task)
{
    task->no_yield = true;
    while (task->hooks.next != &task->hooks) {
        weir_exit_hook *hook = task->hooks.next;
        weir_exit_hook_remove(hook);
        hook->fn(hook);
    }
    if (task->locals)
        locals_destroy(task);
}

static void leave(weir_hub *hub, weir_task *task)
{
    weir_task *next = hub_pick(hub);

    hub->spent = 0;
    hub->running = next;
    if (next)
        next->state = TASK_RUNNING;
    context_leave(&task->context, next ? &next->context : &hub->context);
}

static void retire(weir_task *task)
{
    task->state = TASK_DONE;
    task->hub->reserve--;
    weir_alarm_stop(&task->alarm);
    alarm_give_back(task->hub);
    give_stack_back(task);
    task_forget(task);
}

static void end_reserved(weir_hub *hub, weir_task *task)
{
    task->state = TASK_RESERVED;
    hub->busy_reserve--;
    if (task->retiring)
        retire(task);
}

static void end_spawned(weir_hub *hub, weir_task *task)
{
    task->state = TASK_DONE;
    if (--hub->live <= 1 && hub->last_one_waits.task)
        weir_wake(hub->last_one_waits);
    tell_joiners(task);
    /* Nobody spawns between this and the switch away, so the stack we stand on stays ours. */
    give_stack_back(task);
    if (task->alarm.slot)
        weir_alarm_stop(&task->alarm);
    alarm_give_back(hub);
    group_member_done(task->group, task);
}

/* One that was to begin later waited for that before it ran for the first time. */
static bool too_late_to_begin(weir_task *task, weir_status *why_not)
{
    if (!task->why)
        return false;
    task->why = NULL;
    *why_not = task->canceled ? WEIR_CANCELED : WEIR_TIMEOUT;
    return task->canceled || task->limit_ns <= task->hub->now_ns;
}

static void run(weir_task *task)
{
    if (!too_late_to_begin(task, &task->status))
        task->status = task->fn(task->arg);
}

void weir_set_value(void *value)
{
    weir_task *task = task_here();

    if (task)
        task->value = value;
}

static void body(void *arg)
{
    weir_task *task = arg;
    weir_hub  *hub = task->hub;

    if (hub->cxx_at)
        *hub->cxx_at = (struct cxx_state){ 0 };
    run(task);
    if (__builtin_expect(task == hub->adopted, 0))
        hub_end_adopted(task);
    run_exit_hooks(task);
    if (task->reserved)
        end_reserved(hub, task);
    else
        end_spawned(hub, task);
    leave(hub, task);
}

/* ---- making ------------------------------------------------------------------------- */

void task_make_context(weir_task *task)
{
    context_make(&task->context, task->stack->low, task->depot->size, body, task);
}

weir_task *task_new(weir_hub *hub, const weir_spawn_opts *opts, weir_fn fn, void *arg,
                    const char *site, weir_error *err)
{
    struct depot *depot = depot_of(hub, opts);
    weir_task    *task = depot ? record_take(hub) : NULL;
    if (!task || !alarm_reserve(hub)) {
        if (task)
            record_give(hub, task);
        weir_error_set(err, WEIR_NOMEM, "no memory for a coroutine");
        return NULL;
    }
    struct stack *stack = stack_take(depot, err);
    if (!stack) {
        alarm_give_back(hub);
        record_give(hub, task);
        return NULL;
    }

    task->state = TASK_DONE;
    task->token++;
    task->woken = task->canceled = task->shielded = task->no_yield = false;
    task->reserved = task->retiring = false;
    task->limit_ns = INT64_MAX;
    task->wake_at_ns = INT64_MAX;
    task->why = NULL;
    task->hub = hub;
    task->scope = NULL;
    task->fn = fn;
    task->arg = arg;
    task->value = NULL;
    task->stack = stack;
    task->depot = depot;
    task->group = NULL;
    list_init(&task->link);
    list_init(&task->joiners);
    task->hooks.prev = task->hooks.next = &task->hooks;
    task->status = WEIR_OK;
    task->id = ++hub->last_id;
    task->parent = hub->running ? hub->running->id : 0;
    task->name = opts && opts->name ? opts->name : NULL;
    task->site = site;
    task->born_ns = hub->now_ns;
    task->switched = 0;
    task->ran_ns = 0;
    task->has_groups = false;
    return task;
}

void task_recycle(weir_task *task)
{
    record_give(task->hub, task);
}

void task_forget(weir_task *task)
{
    list_drop(&task->link);
    record_give(task->hub, task);
}

/* ---- in reserve --------------------------------------------------------------------- */

weir_status weir_reserve_new(const char *name, weir_task **out, weir_error *err)
{
    weir_hub  *hub = hub_here_;
    weir_task *task;

    *out = NULL;
    if (!hub)
        return weir_error_set(err, WEIR_USAGE, "this thread has no hub: call weir_run() first");
    task = task_new(hub, &(weir_spawn_opts){ .name = name }, NULL, NULL, "weir", err);
    if (!task)
        return WEIR_NOMEM;
    task->state = TASK_RESERVED;
    task->reserved = true;
    hub->reserve++;
    *out = task;
    return WEIR_OK;
}

void weir_reserve_start(weir_task *task, weir_fn fn, void *arg)
{
    weir_hub *hub = task->hub;

    if (task->state != TASK_RESERVED) {
        LOG(WEIR_LOG_ERROR, "a coroutine in reserve was started while it works");
        return;
    }
    task->fn = fn;
    task->arg = arg;
    task->canceled = task->shielded = task->no_yield = false;
    task->limit_ns = INT64_MAX;
    task->scope = NULL;
    task->woken = false;
    task->token++;
    hub->busy_reserve++;
    task_make_context(task);
    task_make_ready(task);
}

bool weir_reserve_busy(const weir_task *task)
{
    return task->state != TASK_RESERVED;
}

void weir_reserve_free(weir_task *task)
{
    if (!task)
        return;
    if (task->state == TASK_RESERVED)
        retire(task);
    else if (task == task_here())
        task->retiring = true;
    else
        LOG(WEIR_LOG_ERROR, "a coroutine in reserve was freed while it works");
}

/* ---- asking about one --------------------------------------------------------------- */

weir_task *weir_self(void)
{
    return task_here();
}

weir_hub *weir_task_hub(const weir_task *task)
{
    return task->hub;
}

uint64_t weir_task_id(const weir_task *task)
{
    return task->id;
}

uint64_t weir_task_parent(const weir_task *task)
{
    return task->parent;
}

const char *weir_task_name(const weir_task *task)
{
    return task->name ? task->name : "coroutine";
}

const char *weir_task_site(const weir_task *task)
{
    return task->site;
}

bool weir_task_done(const weir_task *task)
{
    return task->state == TASK_DONE;
}

/* Before its exit hooks run it has neither. */
static bool has_given_back(const weir_task *task)
{
    return task->state == TASK_DONE || task->no_yield;
}

weir_status weir_task_status(const weir_task *task)
{
    return has_given_back(task) ? task->status : WEIR_OK;
}

void *weir_task_value(const weir_task *task)
{
    return has_given_back(task) ? task->value : NULL;
}

/* ---- exit hooks --------------------------------------------------------------------- */

void weir_exit_hook_add(weir_task *task, weir_exit_hook *hook)
{
    hook->prev = &task->hooks;
    hook->next = task->hooks.next;
    hook->prev->next = hook;
    hook->next->prev = hook;
}

void weir_exit_hook_remove(weir_exit_hook *hook)
{
    hook->prev->next = hook->next;
    hook->next->prev = hook->prev;
}

unsigned weir_exit_hook_count(const weir_task *task, void (*fn)(weir_exit_hook *),
                              bool (*which)(const weir_exit_hook *hook, void *arg), void *arg)
{
    unsigned count = 0;

    for (const weir_exit_hook *hook = task->hooks.next; hook != &task->hooks; hook = hook->next)
        count += hook->fn == fn && (!which || which(hook, arg));
    return count;
}
