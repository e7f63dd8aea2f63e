/*
 * pool_scene.h - a pool on stage: a world, a fake server, and callers who play their parts.
 *
 * A scene is the body of a test, run as the world's main coroutine. It records what it
 * EXPECTs; the test asserts when the world has ended. Before that every scene is put to the
 * same questions: is everybody gone, is everything given back, do the numbers add up?
 */
#ifndef POOL_SCENE_H
#define POOL_SCENE_H

#include "fake_driver.h"
#include "world.h"

#include <weir/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { NOT_AT_ALL = -1, SCENE_DESCRIPTORS = 1000 };

enum parting { GIVE_BACK, HAVE_CLOSED, FORGET };

/* Somebody who takes a connection, holds it and lets go. */
struct caller {
    /* his part */
    int64_t        patience_ms; /* of his acquire; 0: no limit of his own, NOT_AT_ALL: WEIR_NOW */
    int64_t        scope_ms;    /* a WEIR_DEADLINE around everything (none) */
    int64_t        scope_at_ns; /* the same as a point in time (none) */
    int64_t        hold_ms;     /* 0: lets go at once */
    bool           queries;     /* holds it in the middle of a statement */
    weir_condition leaves;      /* how he leaves the connection */
    enum parting   parting;
    weir_pool     *pool;        /* (the scene's) */

    /* what became of him */
    struct scene  *scene;
    weir_task     *task;
    bool           done, holding;
    weir_status    status;      /* of his acquire */
    weir_status    held;        /* of his holding: not WEIR_OK where he was interrupted */
    weir_error     err;
    uint64_t       conn;        /* whose number he got */
    unsigned       turn;        /* 1 for who was served first */
    int64_t        asked_ms, served_ms;
    weir_lease    *lease;       /* while he holds it */
};

struct scene {
    struct fake    fake;
    weir_pool     *pool;
    unsigned       turns;   /* callers served */
    unsigned       playing; /* callers on stage */
    struct caller **cast;   /* all there were */
    unsigned       caller_count, caller_room;
};

/* ---- a scene ------------------------------------------------------------------------- */

/*
 * SCENE(sentence, options...) { body } is a cmocka test. `stage` is the struct scene; a pool
 * with those options stands on it already.
 */
#define SCENE(sentence, ...)                                                              \
    static void sentence##_plays(struct scene *stage);                                    \
    static void sentence(void **state)                                                    \
    {                                                                                     \
        (void)state;                                                                      \
        scene_play(#sentence, sentence##_plays, &(weir_pool_opts){ __VA_ARGS__ });        \
    }                                                                                     \
    static void sentence##_plays(struct scene *stage __attribute__((unused)))

void scene_play(const char *name, void (*body)(struct scene *stage), const weir_pool_opts *opts);

/* Have somebody play his part, as soon as the caller of this yields. He is valid until the
   scene has ended. */
struct caller *scene_call(struct scene *stage, struct caller part);

/* Run fn(arg) in a coroutine that the scene waits for. */
weir_task *scene_spawn(struct scene *stage, weir_fn fn, void *arg);

/* Wait until every caller has gone, `ms` at most. */
void scene_wait(struct scene *stage, int64_t ms);

/* Another pool on a server of its own; the scene frees neither. */
weir_pool *scene_pool(struct fake *fake, weir_pool_opts opts);

/* Walk everything and compare with the counts; EXPECTs that they agree. */
void scene_recount(const weir_pool *pool);

weir_pool_stats scene_stats(const weir_pool *pool);
unsigned        scene_closed(const weir_pool *pool, weir_close_reason reason);
weir_budget_stats scene_budget(void);
void              scene_set_budget(unsigned descriptors);

/* What weir logged since the scene began: how often does it contain this? From WARN on, or: */
unsigned scene_logged(const char *text);
void     scene_log_from(weir_log_level level);

/* ---- what is expected ---------------------------------------------------------------- */

#define EXPECT(condition) expect_at((condition), WEIR_HERE, #condition)
#define EXPECT_INT(actual, wanted) \
    expect_int_at((long long)(actual), (long long)(wanted), WEIR_HERE, #actual)
#define EXPECT_STATUS(actual, wanted) expect_status_at((actual), (wanted), WEIR_HERE, #actual)
#define EXPECT_TEXT(text, part) expect_text_at((text), (part), WEIR_HERE)

void expect_at(bool holds, const char *site, const char *what);
void expect_int_at(long long actual, long long wanted, const char *site, const char *what);
void expect_status_at(weir_status actual, weir_status wanted, const char *site, const char *what);
void expect_text_at(const char *text, const char *part, const char *site);

/* How many expectations failed in this scene; and one line that says which, for a scene that
   is played many times over. */
unsigned    expect_failures(void);
const char *expect_words(void); /* all of them so far: for a program that is no cmocka test */
void        expect_note(const char *fmt, ...) WEIR_PRINTF(1, 2);

#endif
