/*
 * hub.c - a thread's hub: made, turned, ended.
 *
 * A turn: read the clock, take in what happened (other threads' wakes, alarms), run everybody
 * who is ready, bounded; then the reactor asks the loop who became ready meanwhile.
 */
#include "hub.h"
#include "log.h"
#include "settings.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

__thread struct hot_hub *weir_hot_hub_ __attribute__((tls_model("initial-exec")));

/* libstdc++'s, where the program has it: what a thread knows of exceptions in flight. */
extern void *__cxa_get_globals(void) __attribute__((weak));

weir_hub *weir_hub_here(void)
{
    return hub_here_;
}

bool hub_is_busy(const weir_hub *hub)
{
    return hub->live || hub->busy_reserve;
}

/* ---- a turn ------------------------------------------------------------------------- */

/* Only this thread writes it, so adding needs no lock. */
static inline void beat(weir_hub *hub)
{
    atomic_store_explicit(&hub->beat,
                          atomic_load_explicit(&hub->beat, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

enum hub_wish hub_turn(weir_hub *hub)
{
    weir_task *task;

    beat(hub);
    hub->now_ns = hub->reactor->ops->clock(hub->reactor);
    hub_batch_begin(hub);
    hub_take_remote_wakes(hub);
    alarms_ring(hub);
    while ((task = hub_pick(hub)) != NULL)
        hub_start(task);
    if (hub->traced)
        hub_trace(hub, NULL);
    beat(hub);

    if (hub->ready_first)
        return HUB_AGAIN;
    return hub->ended && !hub_is_busy(hub) ? HUB_DONE : HUB_WAIT;
}

/* ---- made and freed ----------------------------------------------------------------- */

weir_hub *hub_new(struct reactor *reactor, const weir_run_opts *opts, weir_error *err)
{
    settings_apply();
    if (weir_selfcheck(err) != WEIR_OK)
        return NULL;
    weir_hub *hub = calloc(1, sizeof *hub);
    if (!hub) {
        weir_error_set(err, WEIR_NOMEM, "no memory for a hub");
        return NULL;
    }

    hub->reactor = reactor;
    reactor->hub = hub;
    hub->ready_last = &hub->ready_first;
    hub->remote_last = &hub->remote_first;
    hub->errno_at = &errno;
    hub->cxx_at = __cxa_get_globals ? __cxa_get_globals() : NULL;
    hub->now_ns = reactor->ops->clock(reactor);
    hub->end_hooks.prev = hub->end_hooks.next = &hub->end_hooks;
    hub->fork_hooks.prev = hub->fork_hooks.next = &hub->fork_hooks;
    pthread_mutex_init(&hub->lock, NULL);
    context_init_thread(&hub->context);
    depot_init(&hub->depot, stack_round(opts && opts->stack_size ? opts->stack_size
                                                                      : settings_stack_size()));
    list_init(&hub->groups);
    hub->root = group_make(hub, &(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    if (!hub->root) {
        hub_free(hub);
        weir_error_set(err, WEIR_NOMEM, "no memory for a hub");
        return NULL;
    }
    if (opts) {
        hub->no_remote_wakes = opts->no_remote_wakes;
        hub->heeds_signals = opts->cancel_on_signals;
    }
    fault_watch_thread();
    fork_mind();
    hubs_add(hub);
    weir_hot_hub_ = (struct hot_hub *)hub;
    return hub;
}

void hub_free(weir_hub *hub)
{
    hubs_remove(hub);
    groups_destroy(hub);
    if (hub->reserve)
        LOG(WEIR_LOG_WARN, "%u coroutines were still in reserve when their hub ended",
            hub->reserve);
    for (struct depot *depot = &hub->depot, *next; depot; depot = next) {
        next = depot->next;
        depot_free(depot);
        if (depot != &hub->depot)
            free(depot);
    }
    tasks_free(hub);
    fds_free(hub);
    free(hub->alarms);
    pthread_mutex_destroy(&hub->lock);
    weir_hot_hub_ = NULL;
    free(hub);
}

/* ---- weir_run ----------------------------------------------------------------------- */

void weir_hub_end_hook_add(weir_exit_hook *hook)
{
    weir_hub *hub = hub_here_;

    hook->prev = &hub->end_hooks;
    hook->next = hub->end_hooks.next;
    hook->prev->next = hook;
    hook->next->prev = hook;
}

/* The last coroutine: whatever was left open is closed, latest first. */
static weir_status close_what_is_open(void *arg)
{
    weir_hub *hub = arg;

    while (hub->end_hooks.next != &hub->end_hooks) {
        weir_exit_hook *hook = hub->end_hooks.next;
        weir_exit_hook_remove(hook);
        hook->fn(hook);
    }
    hub->ended = true;
    return WEIR_OK;
}

/* Everybody spawned is waited for, whoever spawned them, until `left` is: us, if we count. */
static weir_status outlive_the_others(weir_hub *hub, unsigned left)
{
    WEIR_SHIELD(WEIR_FOREVER);
    hub->main_task = NULL;
    while (hub->live > left) {
        hub->last_one_waits = weir_waker_new();
        (void)weir_park(WEIR_FOREVER, "everybody else to end");
    }
    return close_what_is_open(hub);
}

struct left {
    const weir_task *self;
    unsigned         shown;
};

static void say_who_is_left(weir_task *task, void *arg)
{
    enum { SHOWN = 100 };
    struct log_site site = { 0 }; /* each is a site of its own: none is held back */
    struct left    *left = arg;

    if (task == left->self || task->reserved || ++left->shown > SHOWN)
        return;
    weir_log_say(&site, WEIR_LOG_WARN, "  %s %llu, spawned at %s, %s%s", weir_task_name(task),
                 (unsigned long long)task->id, task->site, task->why ? "waits for " : "can run",
                 task->why ? task->why : "");
}

static weir_status report_the_rest(weir_hub *hub, weir_status status)
{
    struct left left = { .self = hub->running };

    LOG(WEIR_LOG_WARN, "weir_drain: %s, and %u coroutines have not ended",
        weir_status_name(status), hub->live - 1);
    tasks_each(hub, say_who_is_left, &left);
    return status;
}

weir_status weir_drain(weir_deadline deadline)
{
    weir_hub *hub = hub_here_;

    if (!hub || !hub->running || hub->running != hub->main_task)
        return WEIR_USAGE; /* anybody else would wait for the main one, who waits for him */
    while (hub->live > 1) {
        hub->last_one_waits = weir_waker_new();
        weir_status status = weir_park(deadline, "everybody else to end");
        if (status != WEIR_OK && hub->live > 1)
            return report_the_rest(hub, status);
    }
    return WEIR_OK;
}

static weir_status main_body(void *arg)
{
    struct program *program = arg;

    program->result = program->app(program->arg);
    return outlive_the_others(hub_here_, 1);
}

/* In the child of a fork whoever forked is the main one, and main_body() never runs again. */
void hub_end_adopted(weir_task *task)
{
    weir_hub *hub = task->hub;

    hub->adopted = NULL;
    if (hub->attached)
        return;
    hub->program->result = task->status;
    task->status = outlive_the_others(hub, task->reserved ? 0 : 1); /* as main_body()'s is */
}

static weir_status run_to_the_end(weir_hub *hub, struct program *program)
{
    hub->program = program;
    hub->main_task = weir_spawn_at(NULL, &(weir_spawn_opts){ .name = "main" }, main_body, program,
                                   "weir_run()");
    if (!hub->main_task)
        return WEIR_NOMEM;
    hub->reactor->ops->run(hub->reactor);
    return program->result;
}

weir_status hub_run_on(struct reactor *reactor, const weir_run_opts *opts, weir_fn app, void *arg)
{
    struct program program = { .app = app, .arg = arg };
    weir_error     err;

    if (!reactor) {
        LOG(WEIR_LOG_ERROR, "no memory, or no three file descriptors, for a hub");
        return WEIR_NOMEM;
    }
    weir_hub *hub = hub_new(reactor, opts, &err);
    if (!hub) {
        reactor->ops->free(reactor);
        return weir_fail(&err);
    }
    weir_status result = run_to_the_end(hub, &program);
    hub_free(hub);
    reactor->ops->free(reactor);
    return result;
}

weir_status weir_run_with(const weir_run_opts *opts, weir_fn app, void *arg)
{
    static atomic_flag signals_taken = ATOMIC_FLAG_INIT;
    bool               signals = opts && opts->cancel_on_signals;

    if (hub_here_) {
        LOG(WEIR_LOG_ERROR, "weir_run() on a thread that has a hub already");
        return WEIR_USAGE;
    }
    if (!app) {
        LOG(WEIR_LOG_ERROR, "weir_run() without a function to run");
        return WEIR_USAGE;
    }
    if (signals && atomic_flag_test_and_set(&signals_taken)) {
        LOG(WEIR_LOG_ERROR, "cancel_on_signals is in force for another thread's hub already");
        return WEIR_USAGE;
    }
    weir_status result = hub_run_on(reactor_epoll_new(signals), opts, app, arg);
    if (signals)
        atomic_flag_clear(&signals_taken);
    return result;
}

weir_status weir_run(weir_fn app, void *arg)
{
    return weir_run_with(NULL, app, arg);
}

void hub_cancel_main(weir_hub *hub)
{
    weir_cancel(hub->main_task);
}

/* ---- weir_attach -------------------------------------------------------------------- */

weir_status weir_attach(struct ev_loop *loop, const weir_run_opts *opts, weir_error *err)
{
    if (hub_here_)
        return weir_error_set(err, WEIR_USAGE, "this thread has a hub already");
    if (!loop)
        return weir_error_set(err, WEIR_USAGE, "weir_attach() needs a loop; without one, use "
                                               "weir_run()");
    if (opts && opts->cancel_on_signals)
        return weir_error_set(err, WEIR_USAGE,
                              "cancel_on_signals is for weir_run(): an attached hub leaves "
                              "signals to the application");
    struct reactor *reactor = reactor_ev_new(loop);
    if (!reactor)
        return weir_error_set(err, WEIR_NOMEM,
                              "no memory, or no three file descriptors, for a hub");
    weir_error wrong;
    weir_hub  *hub = hub_new(reactor, opts, &wrong);
    if (!hub) {
        reactor->ops->free(reactor);
        return weir_error_set(err, wrong.status, "%s", wrong.message);
    }
    hub->attached = true;
    return WEIR_OK;
}

static void find_oldest(weir_task *task, void *arg)
{
    weir_task **oldest = arg;

    if (!*oldest || task->id < (*oldest)->id)
        *oldest = task;
}

static weir_status refuse_to_detach(weir_hub *hub, weir_error *err)
{
    weir_task *oldest = NULL;

    tasks_each(hub, find_oldest, &oldest);
    return weir_error_set(err, WEIR_BUSY,
                          "%u coroutines are alive, the oldest is %s %llu, spawned at %s, and "
                          "waits for %s: cancel them and let the loop run until they have ended",
                          hub->live + hub->busy_reserve, oldest ? weir_task_name(oldest) : "none",
                          oldest ? (unsigned long long)oldest->id : 0,
                          oldest && oldest->site ? oldest->site : "a place not known",
                          oldest && oldest->why ? oldest->why : "its turn");
}

weir_status weir_detach(weir_error *err)
{
    weir_hub *hub = hub_here_;

    if (!hub || !hub->attached || hub->running)
        return weir_error_set(err, WEIR_USAGE, "weir_detach() undoes weir_attach(), on the same "
                                               "thread and outside of coroutines");
    if (hub->live || hub->busy_reserve)
        return refuse_to_detach(hub, err);
    if (hub->end_hooks.next != &hub->end_hooks)
        return weir_error_set(err, WEIR_BUSY, "a pool is open: free it first");

    struct reactor *reactor = hub->reactor;
    hub_free(hub);
    reactor->ops->free(reactor);
    return WEIR_OK;
}
