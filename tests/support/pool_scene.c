/*
 * pool_scene.c - sets the stage of a pool's test, and sees that it is left clean.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weir/log.h>

enum { WORDS = 4096, LOGGED = 16384, LAST_CURTAIN_MS = 24 * 60 * 60 * 1000 };

/* ---- what is expected ---------------------------------------------------------------- */

static struct {
    unsigned failures;
    size_t   used;
    char     words[WORDS];
} record;

static void say(const char *fmt, ...) WEIR_PRINTF(1, 2);

static void say(const char *fmt, ...)
{
    va_list args;

    if (record.used >= WORDS - 1)
        return;
    va_start(args, fmt);
    int length = vsnprintf(record.words + record.used, WORDS - record.used, fmt, args);
    va_end(args);
    record.used += length > 0 ? (size_t)length : 0;
}

void expect_at(bool holds, const char *site, const char *what)
{
    if (holds)
        return;
    record.failures++;
    say("\n    %s: at %lld ms: not so: %s", site, (long long)world_now_ms(), what);
}

void expect_int_at(long long actual, long long wanted, const char *site, const char *what)
{
    if (actual == wanted)
        return;
    record.failures++;
    say("\n    %s: at %lld ms: %s is %lld, not %lld", site, (long long)world_now_ms(), what,
        actual, wanted);
}

void expect_status_at(weir_status actual, weir_status wanted, const char *site, const char *what)
{
    if (actual == wanted)
        return;
    record.failures++;
    say("\n    %s: at %lld ms: %s is %s, not %s", site, (long long)world_now_ms(), what,
        weir_status_name(actual), weir_status_name(wanted));
}

void expect_text_at(const char *text, const char *part, const char *site)
{
    if (strstr(text, part))
        return;
    record.failures++;
    say("\n    %s: at %lld ms: \"%s\" does not say \"%s\"", site, (long long)world_now_ms(), text,
        part);
}

unsigned expect_failures(void)
{
    return record.failures;
}

const char *expect_words(void)
{
    return record.words;
}

void expect_note(const char *fmt, ...)
{
    char    line[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    say("\n    %s", line);
}

/* ---- what weir logs ------------------------------------------------------------------- */

static struct {
    size_t used;
    char   text[LOGGED];
} logged;

static void hear(weir_log_level level, const char *line, void *arg)
{
    (void)level, (void)arg;
    size_t length = strlen(line);
    if (logged.used + length + 2 > LOGGED)
        return;
    memcpy(logged.text + logged.used, line, length);
    logged.used += length;
    logged.text[logged.used++] = '\n';
    logged.text[logged.used] = '\0';
}

unsigned scene_logged(const char *text)
{
    unsigned    count = 0;
    const char *at = logged.text;

    while ((at = strstr(at, text)) != NULL) {
        at++;
        count++;
    }
    return count;
}

void scene_log_from(weir_log_level level)
{
    weir_log_set(hear, NULL, level);
}

/* ---- callers -------------------------------------------------------------------------- */

static weir_deadline patience(const struct caller *me)
{
    if (me->patience_ms == NOT_AT_ALL)
        return WEIR_NOW;
    return me->patience_ms ? weir_in_ms(me->patience_ms) : WEIR_SCOPE;
}

static void part_with(struct caller *me)
{
    if (me->leaves != WEIR_CLEAN)
        fake_leave(me->lease, me->leaves);
    me->holding = false;
    if (me->parting == FORGET)
        return;
    EXPECT_STATUS(me->parting == GIVE_BACK ? weir_release(me->lease) : weir_lease_close(me->lease),
                  WEIR_OK);
    me->lease = NULL;
}

static void take_and_hold(struct caller *me)
{
    me->asked_ms = world_now_ms();
    me->status = weir_acquire(me->pool, patience(me), &me->lease, &me->err);
    me->served_ms = world_now_ms();
    EXPECT((me->status == WEIR_OK) == (me->lease != NULL));
    if (me->status != WEIR_OK)
        return;

    me->turn = ++me->scene->turns;
    me->conn = weir_lease_conn_id(me->lease);
    me->holding = true;
    if (me->queries)
        me->held = fake_query(me->lease, me->hold_ms);
    else if (me->hold_ms)
        me->held = weir_sleep(weir_in_ms(me->hold_ms));
    part_with(me);
}

static weir_status play_part(void *arg)
{
    struct caller *me = arg;

    WEIR_DEADLINE(me->scope_ms ? weir_in_ms(me->scope_ms) : WEIR_FOREVER);
    WEIR_DEADLINE(me->scope_at_ns ? weir_deadline_at(me->scope_at_ns) : WEIR_FOREVER);
    take_and_hold(me);
    me->done = true;
    me->task = NULL;
    me->scene->playing--;
    return WEIR_OK;
}

static void *must_have(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

struct caller *scene_call(struct scene *stage, struct caller part)
{
    if (stage->caller_count == stage->caller_room) {
        stage->caller_room = stage->caller_room ? stage->caller_room * 2 : 64;
        stage->cast =
            must_have(realloc(stage->cast, stage->caller_room * sizeof *stage->cast));
    }
    struct caller *caller = must_have(malloc(sizeof *caller));
    stage->cast[stage->caller_count++] = caller;
    *caller = part;
    caller->scene = stage;
    caller->pool = part.pool ? part.pool : stage->pool;
    stage->playing++;
    caller->task = must_have(weir_spawn(NULL, play_part, caller));
    return caller;
}

struct extra {
    struct scene *stage;
    weir_fn       fn;
    void         *arg;
};

static weir_status play_extra(void *arg)
{
    struct extra extra = *(struct extra *)arg;

    free(arg);
    (void)extra.fn(extra.arg);
    extra.stage->playing--;
    return WEIR_OK;
}

weir_task *scene_spawn(struct scene *stage, weir_fn fn, void *arg)
{
    struct extra *extra = must_have(malloc(sizeof *extra));

    *extra = (struct extra){ stage, fn, arg };
    stage->playing++;
    return must_have(weir_spawn(NULL, play_extra, extra));
}

void scene_wait(struct scene *stage, int64_t ms)
{
    int64_t until = world_now_ms() + ms;

    world_settle();
    while (stage->playing && world_now_ms() < until)
        world_advance_ms(1 + (until - world_now_ms()) / 1000);
    EXPECT_INT(stage->playing, 0);
}

/* ---- numbers -------------------------------------------------------------------------- */

weir_pool_stats scene_stats(const weir_pool *pool)
{
    weir_pool_stats stats;

    weir_pool_stats_read(pool, &stats);
    return stats;
}

unsigned scene_closed(const weir_pool *pool, weir_close_reason reason)
{
    return (unsigned)scene_stats(pool).closed[reason];
}

weir_budget_stats scene_budget(void)
{
    weir_budget_stats stats;

    weir_budget_read(&stats);
    return stats;
}

void scene_set_budget(unsigned descriptors)
{
    weir_error err = { 0 };

    EXPECT_STATUS(weir_budget_set(&(weir_budget_opts){ .limit = descriptors }, &err), WEIR_OK);
}

/* The pool's own check in debug builds says the same; this one also runs in the others. */
void scene_recount(const weir_pool *pool)
{
    unsigned counted[CONN_STATES] = { 0 }, permits = 0, paid = 0, waiting = 0, stuck = 0;
    uint64_t alive = 0, closed = 0;

    for (int state = 0; state < CONN_STATES; state++)
        LIST_EACH(node, &pool->conns[state]) {
            const struct conn *conn = LIST_OF(node, struct conn, link);
            EXPECT_INT(conn->state, state);
            EXPECT((state == CONN_IN_USE) == (lease_current(conn)->holder != NULL));
            permits += conn->permit;
            paid += conn->paid;
            alive += conn->opened;
            counted[state]++;
        }
    for (int state = 0; state < CONN_STATES; state++)
        EXPECT_INT(counted[state], pool->count[state]);
    LIST_EACH(node, &pool->waiters) {
        waiting++;
        stuck += LIST_OF(node, struct waiter, link)->held;
    }
    for (int reason = 0; reason < WEIR_CLOSE_REASONS; reason++)
        closed += pool->stats.closed[reason];
    EXPECT_INT(permits, pool->permits);
    EXPECT_INT(waiting, pool->waiting);
    EXPECT_INT(stuck, pool->stuck);
    EXPECT(paid <= pool->share.used);
    EXPECT(permits <= pool->opts.max_connecting);
    EXPECT(pool_total(pool) <= pool->ceiling);
    EXPECT(!waiting || !counted[CONN_IDLE]);
    EXPECT_INT(pool->stats.opened - closed, alive);
    EXPECT_INT(pool->stats.acquired - pool->stats.released, counted[CONN_IN_USE]);
}

/* ---- the stage ------------------------------------------------------------------------ */

weir_pool *scene_pool(struct fake *fake, weir_pool_opts opts)
{
    weir_pool *pool = NULL;
    weir_error err = { 0 };

    fake_init(fake);
    EXPECT_STATUS(weir_pool_new(&fake_driver, fake, &opts, &pool, &err), WEIR_OK);
    if (pool)
        pool->random = 1; /* a test is played the same way each time */
    else
        expect_note("%s", err.message);
    return pool;
}

struct play {
    struct scene          stage;
    void                (*body)(struct scene *stage);
    const weir_pool_opts *opts;
};

static weir_status curtain_up(void *arg)
{
    struct play  *play = arg;
    struct scene *stage = &play->stage;

    stage->pool = scene_pool(&stage->fake, *play->opts);
    if (stage->pool)
        play->body(stage);
    scene_wait(stage, LAST_CURTAIN_MS);
    if (!stage->pool)
        return WEIR_OK; /* the scene has freed it */
    scene_recount(stage->pool);
    EXPECT_INT(scene_stats(stage->pool).in_use, 0);
    EXPECT_INT(scene_stats(stage->pool).waiting, 0);
    weir_pool_free(stage->pool);
    return WEIR_OK;
}

static void look_around(struct play *play, const weir_budget_stats *before)
{
    const struct fake *fake = &play->stage.fake;
    weir_budget_stats  after;

    weir_budget_read(&after);
    if (fake->fault) {
        record.failures++;
        say("\n    the pool broke the driver's contract: %s", fake->fault);
    }
    if (fake->handles || fake->descriptors || fake->configs_freed != 1 ||
        after.used != before->used || after.floors != before->floors || after.waiting) {
        record.failures++;
        say("\n    left behind: %u handles, %u descriptors, %u of 1 configs freed, %u paid, "
            "%u promised, %u requests for descriptors",
            fake->handles, fake->descriptors, fake->configs_freed, after.used, after.floors,
            after.waiting);
    }
    if (scene_logged("still in reserve") || scene_logged("was not freed before its hub")) {
        record.failures++;
        say("\n    it was logged: %s", logged.text);
    }
}

void scene_play(const char *name, void (*body)(struct scene *stage), const weir_pool_opts *opts)
{
    struct play      *play = must_have(calloc(1, sizeof *play));
    weir_budget_stats before;

    play->body = body;
    play->opts = opts;
    memset(&record, 0, sizeof record);
    memset(&logged, 0, sizeof logged);
    weir_log_set(hear, NULL, WEIR_LOG_WARN);
    if (weir_budget_set(&(weir_budget_opts){ .limit = SCENE_DESCRIPTORS }, NULL) != WEIR_OK)
        fail_msg("the budget cannot be set");
    weir_budget_read(&before);
    weir_status status = world_run(curtain_up, play);
    look_around(play, &before);
    for (unsigned i = 0; i < play->stage.caller_count; i++)
        free(play->stage.cast[i]);
    free(play->stage.cast);
    free(play);
    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    if (status != WEIR_OK || record.failures)
        fail_msg("%s: %u expectations failed (%s)%s", name, record.failures,
                 weir_status_name(status), record.words);
}
