/*
 * play.c - plays a CMAP file.
 *
 * A thread of the file is a coroutine that does its operations one after the other; the main
 * thread is the world's main coroutine. After each of its operations everybody who can run does,
 * as threads would that are not delayed: so a file is played the same way each time.
 *
 * Connections are held by a coroutine of their own, the desk: in a file one thread may take a
 * connection and another give it back, or nobody, and a thread's end must not end its leases.
 *
 * The monitoring that a driver has beside its pool is played too: a connect that the server
 * refuses with an error code has the pool cleared before the connection is closed. One that the
 * network cut does not, since CMAP's amendment on back-pressure; but in a file from before that,
 * which expects a clear that none of its operations makes, it does.
 */
#include "play.h"

#include "match.h"
#include "pool.h"
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For what takes for ever unless it is broken; in virtual time. */
enum { EVENT_MS = 10 * 1000, PATIENCE_MS = 60 * 1000 };

struct checked_out {
    const char *label;
    weir_lease *lease;
};

struct thread {
    const char *name;
    weir_task  *task;
    weir_waker  waker;
    const struct op **todo; /* in order; it has done `done` of `given` */
    unsigned    given, done;
    bool        waits, stop;
    weir_error  error; /* of the operation that failed: the last it did */
};

struct stage {
    const struct spec  *spec;
    struct fake         fake;
    int64_t             attempts; /* to open a connection */
    weir_pool          *pool;
    bson_t            **events;
    unsigned            event_count, event_room;
    struct thread      *threads;
    unsigned            thread_count;
    struct checked_out *held;
    unsigned            held_count;
    weir_task          *desk;
    weir_waker          desk_waker;
    weir_lease         *giving_back; /* what the desk is to give back */
    bool                desk_closes;
    weir_error          error; /* of the main thread */
    const char         *broken; /* the file itself cannot be played on */
    char               *why;
    bool                passed;
};

static void *must_have(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* ---- events -------------------------------------------------------------------------- */

static void append_options(bson_t *doc, const weir_pool_opts *opts)
{
    bson_t options;

    BSON_APPEND_DOCUMENT_BEGIN(doc, "options", &options);
    BSON_APPEND_INT64(&options, "maxPoolSize", opts->max_size == UINT32_MAX ? 0 : opts->max_size);
    BSON_APPEND_INT64(&options, "minPoolSize", opts->min_size);
    BSON_APPEND_INT64(&options, "maxConnecting", opts->max_connecting);
    if (opts->idle_timeout_ms != INT64_MAX)
        BSON_APPEND_INT64(&options, "maxIdleTimeMS", opts->idle_timeout_ms);
    if (opts->acquire_timeout_ms != INT64_MAX)
        BSON_APPEND_INT64(&options, "waitQueueTimeoutMS", opts->acquire_timeout_ms);
    bson_append_document_end(doc, &options);
}

/* As CMAP writes it. */
static bson_t *as_document(const weir_pool_event *event)
{
    bson_t *doc = must_have(bson_new());
    bool    of_check_out = event->type == WEIR_EVENT_CHECKED_OUT ||
                        event->type == WEIR_EVENT_CHECK_OUT_FAILED;

    BSON_APPEND_UTF8(doc, "type", weir_pool_event_name(event->type));
    BSON_APPEND_UTF8(doc, "address", "fake:27017");
    if (event->conn_id)
        BSON_APPEND_INT64(doc, "connectionId", (int64_t)event->conn_id);
    if (of_check_out || event->type == WEIR_EVENT_CONN_READY)
        BSON_APPEND_DOUBLE(doc, "duration", (double)event->duration_ns / 1e6);
    if (event->type == WEIR_EVENT_CONN_CLOSED)
        BSON_APPEND_UTF8(doc, "reason", weir_close_reason_cmap(event->reason));
    if (event->type == WEIR_EVENT_CHECK_OUT_FAILED)
        BSON_APPEND_UTF8(doc, "reason", weir_check_out_reason_cmap(event->status));
    if (event->type == WEIR_EVENT_POOL_CLEARED)
        BSON_APPEND_BOOL(doc, "interruptInUseConnections", event->interrupt);
    if (event->type == WEIR_EVENT_POOL_CREATED)
        append_options(doc, weir_pool_options(event->pool));
    return doc;
}

static void hear(const weir_pool_event *event, void *arg)
{
    struct stage *stage = arg;

    if (stage->event_count == stage->event_room) {
        stage->event_room = stage->event_room ? 2 * stage->event_room : 64;
        stage->events =
            must_have(realloc(stage->events, stage->event_room * sizeof *stage->events));
    }
    stage->events[stage->event_count++] = as_document(event);
}

static unsigned happened(const struct stage *stage, const char *type)
{
    unsigned    count = 0;
    bson_iter_t iter;

    for (unsigned i = 0; i < stage->event_count; i++)
        count += bson_iter_init_find(&iter, stage->events[i], "type") &&
                 strcmp(bson_iter_utf8(&iter, NULL), type) == 0;
    return count;
}

/* ---- the driver, with a monitor beside it -------------------------------------------- */

static weir_status open_watched(weir_conn *conn, const void *config, weir_deadline deadline,
                                weir_error *err)
{
    char         *fake = (char *)(uintptr_t)config; /* it is ours, and not constant */
    struct stage *stage = (struct stage *)(fake - offsetof(struct stage, fake));
    int64_t       attempt = stage->attempts++ - stage->spec->failing_skips;
    bool          fails = attempt >= 0 && (stage->spec->failing_times == SPEC_ALWAYS ||
                                  attempt < stage->spec->failing_times);

    stage->fake.open = fails ? stage->spec->failing : (struct fake_step){ 0 }; /* of this one */
    weir_status status = fake_driver.open(conn, config, deadline, err);

    if (status == WEIR_CONNECT && (err->native || stage->spec->expects_clear))
        (void)weir_pool_clear(weir_conn_pool(conn), false, err, NULL);
    return status;
}

/* ---- the desk ------------------------------------------------------------------------ */

static weir_status keep_desk(void *arg)
{
    struct stage *stage = arg;

    while (!stage->desk_closes) {
        stage->desk_waker = weir_waker_new();
        if (!stage->giving_back)
            (void)weir_park(WEIR_FOREVER, "somebody to come to the desk");
        if (stage->giving_back)
            (void)weir_release(stage->giving_back);
        stage->giving_back = NULL;
    }
    for (unsigned i = 0; i < stage->held_count; i++)
        if (stage->held[i].lease)
            (void)weir_release(stage->held[i].lease);
    return WEIR_OK;
}

static void check_out(struct stage *stage, const struct op *op, weir_error *err)
{
    weir_lease *lease;

    err->status = weir_acquire(stage->pool, weir_in_ms(PATIENCE_MS), &lease, err);
    if (err->status != WEIR_OK)
        return;
    if (weir_lease_give(lease, stage->desk) != WEIR_OK)
        abort();
    stage->held[stage->held_count++] = (struct checked_out){ op->label, lease };
}

static void give_back(struct stage *stage, struct checked_out *held)
{
    while (stage->giving_back)
        world_settle();
    stage->giving_back = held->lease;
    held->lease = NULL;
    weir_wake(stage->desk_waker);
    while (stage->giving_back)
        world_settle();
}

static void check_in(struct stage *stage, const struct op *op)
{
    struct checked_out *found = NULL;

    for (unsigned i = 0; i < stage->held_count; i++)
        if (stage->held[i].lease && stage->held[i].label &&
            strcmp(stage->held[i].label, op->connection) == 0)
            found = &stage->held[i];
    if (!found) {
        stage->broken = "checkIn of a connection that is not checked out";
        return;
    }
    give_back(stage, found);
}

/* Will the file itself give it back? */
static bool comes_back(const struct stage *stage, const struct checked_out *held)
{
    for (unsigned i = 0; held->label && i < stage->spec->op_count; i++)
        if (stage->spec->ops[i].verb == OP_CHECK_IN &&
            strcmp(stage->spec->ops[i].connection, held->label) == 0)
            return true;
    return false;
}

/* A holder who is interrupted notices, and gives back what is of no use to him any more; where
   the file has him do that at a time of its own, then. */
static void give_back_interrupted(struct stage *stage)
{
    for (unsigned i = 0; i < stage->held_count; i++)
        if (stage->held[i].lease && !comes_back(stage, &stage->held[i]))
            give_back(stage, &stage->held[i]);
}

static void clear(struct stage *stage, const struct op *op, weir_error *err)
{
    (void)weir_pool_clear(stage->pool, op->interrupt, NULL, err);
    if (stage->spec->lets_stale_lie)
        weir_alarm_stop(&stage->pool->sweep);
    if (op->interrupt)
        give_back_interrupted(stage);
}

/* ---- operations ---------------------------------------------------------------------- */

static void do_op(struct stage *stage, const struct op *op, weir_error *err);

static weir_status live(void *arg);

struct life {
    struct stage  *stage;
    struct thread *thread;
};

static struct thread *find_thread(struct stage *stage, const char *name)
{
    for (unsigned i = 0; i < stage->thread_count; i++)
        if (strcmp(stage->threads[i].name, name) == 0)
            return &stage->threads[i];
    stage->broken = "an operation of a thread that was not started";
    return NULL;
}

static bool is_started(const struct stage *stage, const char *name)
{
    for (unsigned i = 0; i < stage->thread_count; i++)
        if (strcmp(stage->threads[i].name, name) == 0)
            return true;
    return false;
}

static void start(struct stage *stage, const char *name)
{
    struct thread *thread = &stage->threads[stage->thread_count++];
    struct life   *life = must_have(malloc(sizeof *life));

    thread->name = name;
    thread->todo = must_have(calloc(stage->spec->op_count, sizeof *thread->todo));
    *life = (struct life){ stage, thread };
    thread->task = must_have(weir_spawn(NULL, live, life));
}

static void give(struct thread *thread, const struct op *op)
{
    thread->todo[thread->given++] = op;
    if (thread->waits)
        weir_wake(thread->waker);
}

static weir_status live(void *arg)
{
    struct life    life = *(struct life *)arg;
    struct thread *me = life.thread;

    free(arg);
    while (!me->stop || me->done < me->given) {
        if (me->done < me->given) {
            if (me->error.status == WEIR_OK)
                do_op(life.stage, me->todo[me->done], &me->error);
            me->done++;
            continue;
        }
        me->waker = weir_waker_new();
        me->waits = true;
        (void)weir_park(WEIR_FOREVER, "an operation");
        me->waits = false;
    }
    me->task = NULL;
    return WEIR_OK;
}

static void wait_for_event(struct stage *stage, const struct op *op)
{
    int64_t until = world_now_ms() + (op->timeout ? op->timeout : EVENT_MS);

    while (happened(stage, op->event) < op->count && world_now_ms() < until)
        (void)weir_sleep(weir_in_ms(1));
    if (happened(stage, op->event) >= op->count || stage->broken)
        return;
    snprintf(stage->why, SPEC_WORDS, "waited in vain for %lld of %s: %u came", (long long)op->count,
             op->event, happened(stage, op->event));
    stage->broken = stage->why;
}

static void wait_for_thread(struct stage *stage, const char *name, weir_error *err)
{
    struct thread *thread = find_thread(stage, name);
    int64_t        until = world_now_ms() + PATIENCE_MS + 1;

    if (!thread)
        return;
    while (thread->done < thread->given && world_now_ms() < until)
        (void)weir_sleep(weir_in_ms(1));
    if (thread->done < thread->given)
        stage->broken = "waited in vain for a thread";
    else
        *err = thread->error;
}

static void do_op(struct stage *stage, const struct op *op, weir_error *err)
{
    switch (op->verb) {
    case OP_START:
        if (is_started(stage, op->target))
            stage->broken = "a thread is started twice";
        else
            start(stage, op->target);
        break;
    case OP_WAIT:
        (void)weir_sleep(weir_in_ms(op->ms));
        break;
    case OP_WAIT_FOR_THREAD:
        wait_for_thread(stage, op->target, err);
        break;
    case OP_WAIT_FOR_EVENT:
        wait_for_event(stage, op);
        break;
    case OP_CHECK_OUT:
        check_out(stage, op, err);
        break;
    case OP_CHECK_IN:
        check_in(stage, op);
        break;
    case OP_CLEAR:
        clear(stage, op, err);
        break;
    case OP_CLOSE:
        (void)weir_pool_close(stage->pool, WEIR_NOW); /* CMAP's does not wait for those in use */
        break;
    case OP_READY:
        (void)weir_pool_ready(stage->pool, err);
        break;
    case OP_VERBS:
        abort();
    }
}

/* ---- a file from beginning to end ---------------------------------------------------- */

static void play_main(struct stage *stage)
{
    for (unsigned i = 0; i < stage->spec->op_count && !stage->broken; i++) {
        const struct op *op = &stage->spec->ops[i];
        if (op->thread) {
            struct thread *thread = find_thread(stage, op->thread);
            if (thread)
                give(thread, op);
        } else {
            do_op(stage, op, &stage->error);
        }
        if (stage->error.status != WEIR_OK)
            return;
        world_settle();
    }
}

/* Everybody leaves; what a file leaves behind must go too. */
static void curtain(struct stage *stage)
{
    for (unsigned i = 0; i < stage->thread_count; i++) {
        struct thread *thread = &stage->threads[i];
        thread->stop = true;
        weir_cancel(thread->task);
        if (thread->waits)
            weir_wake(thread->waker);
        while (thread->task)
            (void)weir_sleep(weir_in_ms(1));
    }
    stage->desk_closes = true;
    weir_wake(stage->desk_waker);
    world_settle();
    weir_pool_free(stage->pool);
}

static bool judge(struct stage *stage)
{
    if (stage->broken) {
        if (stage->broken != stage->why)
            snprintf(stage->why, SPEC_WORDS, "%s", stage->broken);
        return false;
    }
    return match_error(stage->spec, &stage->error, stage->why) &&
           match_events(stage->spec, stage->events, stage->event_count, stage->why);
}

static bool is_clean(struct stage *stage)
{
    const struct fake *fake = &stage->fake;

    if (!fake->fault && !fake->handles && !fake->alive && fake->configs_freed == 1)
        return true;
    snprintf(stage->why, SPEC_WORDS, "left behind: %u handles, %u connections; %s", fake->handles,
             fake->alive, fake->fault ? fake->fault : "no fault");
    return false;
}

static weir_status run(void *arg)
{
    struct stage  *stage = arg;
    weir_driver    driver = fake_driver;
    weir_pool_opts opts = stage->spec->opts;
    weir_error     err;

    driver.open = open_watched;
    opts.on_event = hear;
    opts.on_event_arg = stage;
    fake_init(&stage->fake);
    if (weir_pool_new(&driver, &stage->fake, &opts, &stage->pool, &err) != WEIR_OK) {
        snprintf(stage->why, SPEC_WORDS, "no pool: %s", err.message);
        return WEIR_OK;
    }
    stage->desk = must_have(weir_spawn(NULL, keep_desk, stage));
    world_settle();
    play_main(stage);
    stage->passed = judge(stage);
    curtain(stage);
    stage->passed = stage->passed && is_clean(stage);
    return WEIR_OK;
}

bool play(const struct spec *spec, char why[SPEC_WORDS])
{
    struct stage *stage = must_have(calloc(1, sizeof *stage));

    stage->spec = spec;
    stage->why = why;
    stage->held = must_have(calloc(spec->op_count + 1, sizeof *stage->held));
    stage->threads = must_have(calloc(spec->op_count + 1, sizeof *stage->threads));
    bool passed = world_run(run, stage) == WEIR_OK && stage->passed;
    for (unsigned i = 0; i < stage->event_count; i++)
        bson_destroy(stage->events[i]);
    for (unsigned i = 0; i < stage->thread_count; i++)
        free(stage->threads[i].todo);
    free(stage->events);
    free(stage->threads);
    free(stage->held);
    free(stage);
    return passed;
}
