/*
 * test_coro_watch.c - the watchdog, deadlocks, dumps, counts and traces.
 *
 * What is shown of a hub is tested in a world. Deadlocks and the watchdog need the real hub, and
 * real time: a hub is blocked for some tenths of a second, in all.
 */
#define _GNU_SOURCE /* sched_setaffinity() */

#include "coro_unit.h"

#include <execinfo.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <weir/sync.h>
#include <weir/watch.h>

#if defined(CONTEXT_ASAN) || defined(CONTEXT_TSAN)
enum { HAS_TOOL_THREADS = 1 }; /* ThreadSanitizer has one of its own */
#else
enum { HAS_TOOL_THREADS = 0 };
#endif

/* Not usleep(): where libmongoc is linked that gives way. */
static void block_ms(int ms)
{
    struct timespec left = { ms / 1000, ms % 1000 * 1000000L };

    while (nanosleep(&left, &left) != 0)
        continue; /* the watchdog's signal */
}

/* ---- text --------------------------------------------------------------------------- */

static struct text {
    char   words[65536];
    size_t length;
} text;

static void collect(const char *words, size_t size, void *arg)
{
    struct text *to = arg;

    if (size > sizeof to->words - 1 - to->length)
        size = sizeof to->words - 1 - to->length;
    memcpy(to->words + to->length, words, size);
    to->length += size;
    to->words[to->length] = '\0';
}

static void text_forget(void)
{
    text.length = 0;
    text.words[0] = '\0';
}

static bool text_says(const char *words)
{
    return strstr(text.words, words) != NULL;
}

/* The line that says `words`; "" where none does. */
static const char *line_of(const char *words)
{
    static char line[1024];
    const char *at = strstr(text.words, words), *from = at;

    line[0] = '\0';
    if (!at)
        return line;
    while (from > text.words && from[-1] != '\n')
        from--;
    size_t length = strcspn(from, "\n");
    if (length > sizeof line - 1)
        length = sizeof line - 1;
    memcpy(line, from, length);
    line[length] = '\0';
    return line;
}

static size_t indent_of(const char *words)
{
    return strspn(line_of(words), " ");
}

static double value_of(const char *metric)
{
    const char *line = line_of(metric), *space = strrchr(line, ' ');

    return space ? strtod(space + 1, NULL) : -1;
}

/* ---- dumps -------------------------------------------------------------------------- */

static weir_status wait_for_event(void *arg)
{
    return weir_event_wait(arg, WEIR_FOREVER);
}

/* Exported by the test's program, so that they have names in a backtrace. */
weir_status wait_at_the_bottom(void *arg);
weir_status wait_three_calls_down(void *arg);

__attribute__((noinline)) weir_status wait_at_the_bottom(void *arg)
{
    weir_status status = weir_event_wait(arg, WEIR_FOREVER);

    HOLDS_EQ(status, WEIR_OK); /* no tail call: it would leave no frame */
    return status;
}

__attribute__((noinline)) weir_status wait_three_calls_down(void *arg)
{
    weir_status status = wait_at_the_bottom(arg);

    HOLDS_EQ(status, WEIR_OK);
    return status;
}

__attribute__((noinline)) static int touch_deep(void)
{
    volatile char bytes[100 * 1024];

    for (size_t i = 0; i < sizeof bytes; i += 1024)
        bytes[i] = 1;
    return bytes[0];
}

static weir_status go_deep_and_wait(void *arg)
{
    HOLDS_EQ(touch_deep(), 1);
    return weir_event_wait(arg, WEIR_FOREVER);
}

static weir_status make_children(void *arg)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .name = "inner" }, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "grandchild" }, wait_for_event, arg);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    weir_group_free(group);
    return status;
}

static weir_status dump_a_tree(void *arg)
{
    static weir_event event;
    weir_group       *group = NULL;
    unsigned long     used = 0, touched = 0, size = 0;

    (void)arg;
    event = (weir_event){ 0 };
    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .name = "outer" }, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "child" }, make_children, &event);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "deep" }, go_deep_and_wait, &event);
    weir_task *doomed =
        weir_spawn_with(group, &(weir_spawn_opts){ .name = "doomed" }, wait_for_event, &event);
    sleep_ms(1500);
    weir_cancel(doomed); /* ready by now, not yet run */
    text_forget();
    weir_dump(collect, &text);

    HOLDS(strncmp(text.words, "hub ", 4) == 0);
    HOLDS(text_says(": 5 coroutines, 0 of 0 in reserve at work\n"));
    HOLDS(text_says("outer: 3 running, 3 spawned, 0 failed\n"));
    HOLDS(strstr(line_of(" main: "), ": running; ") != NULL);
    HOLDS(strstr(line_of(" child: "), "waits for a group to end; 1.500 s old") != NULL);
    HOLDS(strstr(line_of(" grandchild: "), "waits for an event; ") != NULL);
    HOLDS(strstr(line_of(" doomed: "), ": ready, cancelled; ") != NULL);
    HOLDS(strstr(line_of(" child: "), "spawned at tests/unit/test_coro_watch.c:") != NULL);

    /* Each below who made it. */
    HOLDS(indent_of(" main: ") < indent_of("outer: "));
    HOLDS(indent_of("outer: ") < indent_of(" child: "));
    HOLDS(indent_of(" child: ") < indent_of("inner: "));
    HOLDS(indent_of("inner: ") < indent_of(" grandchild: "));
    HOLDS_EQ(indent_of(" deep: "), indent_of(" child: "));

    const char *stack = strstr(line_of(" deep: "), "stack: ");
    HOLDS(stack &&
          sscanf(stack, "stack: %lu bytes in use, %lu of %lu", &used, &touched, &size) == 3);
    HOLDS_EQ(size, 256);
    HOLDS(touched >= 100 && touched < 180); /* KiB */
    HOLDS(used > 100 && used < 20000);      /* it is back from the depths */

    weir_event_set(&event);
    (void)weir_group_wait(group, WEIR_FOREVER);
    weir_group_free(group);
    return WEIR_OK;
}

/* The lines of `name`, and of nobody else, mention these one below the other. */
static bool is_walked(const char *name, const char *first, const char *second)
{
    const char *at = strstr(text.words, name), *inner, *outer;
    const char *end = at ? strstr(at, "spawned at ") : NULL;

    end = end ? strstr(end + 1, "spawned at ") : NULL; /* of the next one */
    inner = at ? strstr(at, first) : NULL;
    outer = inner ? strstr(inner, second) : NULL;
    return outer && (!end || outer < end);
}

static weir_status dump_frames(void *arg)
{
    static weir_event event;
    weir_group       *group = NULL;

    event = (weir_event){ 0 };
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "deep" }, wait_three_calls_down, &event);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "next" }, wait_for_event, &event);
    weir_yield();
    weir_task *unborn =
        weir_spawn_with(group, &(weir_spawn_opts){ .name = "unborn" }, wait_for_event, &event);
    text_forget();
    weir_dump(collect, &text);
    HOLDS(is_walked(" deep: ", "wait_at_the_bottom", "wait_three_calls_down") == *(bool *)arg);
    const char *last = strstr(text.words, " unborn: ");
    HOLDS(last && !strstr(last, "  in ")); /* it has been nowhere */
    weir_event_set(&event);
    HOLDS_EQ(weir_join(unborn, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_dump_shows_where_each_coroutine_has_got_to(void **state)
{
#if defined(__x86_64__)
    bool can = true;
#else
    bool can = false;
#endif

    (void)state;
    run_world(dump_frames, &can);
    run_real(dump_frames, &can);
}

static void count_the_walked(const char *words, size_t size, void *arg)
{
    *(int *)arg += memmem(words, size, "  in ", 5) && memmem(words, size, "wait_at_the_bottom", 18);
}

static weir_status dump_a_crowd(void *arg)
{
    static weir_event event;
    weir_group       *group = NULL;
    int               walked = 0;

    (void)arg;
    event = (weir_event){ 0 };
    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, NULL), WEIR_OK);
    for (int i = 0; i < 1500; i++)
        weir_spawn(group, wait_at_the_bottom, &event);
    weir_yield();
    weir_dump(count_the_walked, &walked);
    HOLDS_EQ(walked, 1000);
    weir_event_set(&event);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void of_a_crowd_the_first_thousand_are_walked(void **state)
{
    (void)state;
#if !defined(__x86_64__)
    skip();
#endif
    run_world(dump_a_crowd, NULL);
}

static void a_dump_shows_every_coroutine_below_its_maker(void **state)
{
    (void)state;
    run_world(dump_a_tree, NULL);
}

static weir_status be_the_maker(void *arg)
{
    weir_group **out = arg;

    return weir_group_new(&(weir_group_opts){ .name = "orphan" }, out, NULL);
}

static weir_status dump_orphans(void *arg)
{
    static weir_event event;
    weir_group       *group = NULL;

    (void)arg;
    event = (weir_event){ 0 };
    HOLDS_EQ(weir_join(weir_spawn(NULL, be_the_maker, &group), WEIR_FOREVER, NULL), WEIR_OK);
    for (int i = 0; i < 50; i++)
        weir_spawn_with(group, &(weir_spawn_opts){ .name = "forlorn" }, wait_for_event, &event);
    weir_yield();
    text_forget();
    weir_dump(collect, &text);
    int lines = 0;
    for (const char *at = text.words; (at = strstr(at, " forlorn: waits for")) != NULL; at++)
        lines++;
    HOLDS_EQ(lines, 50);
    HOLDS(text_says("  orphan: 50 running"));
    weir_event_set(&event);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_group_whose_maker_is_gone_is_shown_too(void **state)
{
    (void)state;
    run_world(dump_orphans, NULL);
    text_forget();
    weir_dump(collect, &text); /* no hub here */
    assert_int_equal(text.length, 0);
}

static int chained;

static void count_chained(int number)
{
    (void)number;
    chained++;
}

static weir_status dump_by_signal(void *arg)
{
    weir_error err;

    (void)arg;
    text_forget();
    signal(SIGUSR1, count_chained);
    HOLDS_EQ(weir_dump_on_signal(SIGUSR1, collect, &text, &err), WEIR_OK);
    kill(getpid(), SIGUSR1);
    HOLDS_EQ(text.length, 0); /* nothing is written in the handler */
    sleep_ms(5);
    HOLDS(text_says(": 1 coroutines"));
    HOLDS(strstr(line_of(" main: "), "waits for ") != NULL);
    HOLDS_EQ(chained, 1);

    HOLDS_EQ(weir_dump_on_signal(SIGKILL, NULL, NULL, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "cannot be caught") != NULL);
    HOLDS_EQ(weir_dump_on_signal(0, NULL, NULL, NULL), WEIR_OK);
    text_forget();
    kill(getpid(), SIGUSR1);
    sleep_ms(5);
    HOLDS_EQ(text.length, 0);
    HOLDS_EQ(chained, 2);
    signal(SIGUSR1, SIG_DFL);
    return WEIR_OK;
}

static void a_signal_has_the_hub_dump_itself_in_its_next_turn(void **state)
{
    (void)state;
    chained = 0;
    run_real(dump_by_signal, NULL);
}

/* Hubs of three threads; each line but the first says which hub it is of. */
static struct mixed {
    atomic_int ready, dumped;
    char       last; /* whose line was written last */
    int        changes;
} mixed;

static weir_status wait_to_be_over(void *arg)
{
    int64_t until = real_ms() + 10000;

    (void)arg;
    while (atomic_load(&mixed.dumped) < 3 && real_ms() < until)
        (void)sleep_ms(2);
    return WEIR_OK;
}

static void note_whose_line(const char *words, size_t size, void *arg)
{
    struct mixed *m = arg;
    const char   *name = memmem(words, size, " of-hub-", 8);

    if (!name)
        return;
    m->changes += m->last != name[8];
    m->last = name[8];
    if (memmem(words, size, "-last:", 6))
        atomic_fetch_add(&m->dumped, 1);
    sched_yield();
}

static weir_status wait_until_all_are_dumped(void *arg)
{
    char     names[2][32];
    unsigned many = 100;

    snprintf(names[0], sizeof names[0], "of-hub-%c", *(char *)arg);
    snprintf(names[1], sizeof names[1], "of-hub-%c-last", *(char *)arg);
    for (unsigned i = 0; i < many; i++)
        weir_spawn_with(NULL, &(weir_spawn_opts){ .name = names[i + 1 == many] }, wait_to_be_over,
                        NULL);
    weir_yield();
    atomic_fetch_add(&mixed.ready, 1);
    return wait_to_be_over(NULL);
}

static void *run_until_all_are_dumped(void *arg)
{
    HOLDS_EQ(weir_run(wait_until_all_are_dumped, arg), WEIR_OK);
    return NULL;
}

static void several_hubs_are_dumped_one_after_the_other(void **state)
{
    static char names[] = "abc";
    pthread_t   threads[3];
    int64_t     until = real_ms() + 10000;

    (void)state;
    mixed = (struct mixed){ .last = 0 };
    assert_int_equal(weir_dump_on_signal(SIGUSR1, note_whose_line, &mixed, NULL), WEIR_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, run_until_all_are_dumped, &names[i]), 0);
    while (atomic_load(&mixed.ready) < 3 && real_ms() < until)
        block_ms(1);
    kill(getpid(), SIGUSR1);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(weir_dump_on_signal(0, NULL, NULL, NULL), WEIR_OK);
    assert_int_equal(atomic_load(&mixed.dumped), 3);
    assert_int_equal(mixed.changes, 3);
}

/* ---- counts ------------------------------------------------------------------------- */

static weir_status yield_often(void *arg)
{
    for (int i = 0; i < *(int *)arg; i++)
        weir_yield();
    return WEIR_OK;
}

static weir_status count_switches(void *arg)
{
    static weir_event event;
    int               times = 5000;

    (void)arg;
    event = (weir_event){ 0 };
    for (int i = 0; i < 7; i++)
        weir_spawn(NULL, wait_for_event, &event);
    weir_yield();
    text_forget();
    weir_coro_metrics(collect, &text);
    HOLDS_EQ(value_of("state=\"ready\"}"), 0);
    HOLDS_EQ(value_of("state=\"running\"}"), 1);
    HOLDS_EQ(value_of("state=\"parked\"}"), 7);
    HOLDS_EQ(value_of("weir_coroutines_made_total{"), 8);
    double before = value_of("weir_hub_switches_total{");
    HOLDS_EQ(before, 9); /* main, seven, main */

    /* Through several batches, and as somebody who spends without waiting. */
    weir_task *task = weir_spawn(NULL, yield_often, &times);
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, NULL), WEIR_OK);
    weir_spend(WEIR_UNITS);
    weir_event_set(&event);
    text_forget();
    weir_coro_metrics(collect, &text);
    /* He began, yielded 5,000 times, we were woken; and came back once. */
    HOLDS_EQ(value_of("weir_hub_switches_total{"), before + 1 + 5000 + 1 + 1);
    HOLDS_EQ(value_of("state=\"ready\"}"), 7);
    HOLDS(text_says("# TYPE weir_hub_switches_total counter\n"));
    HOLDS(text_says("weir_threads{crew=\"resolver\",state=\"idle\"} "));
    HOLDS_EQ(value_of("weir_threads_max{crew=\"offload\"}"), 10);
    return WEIR_OK;
}

static void counts_are_told_as_text(void **state)
{
    (void)state;
    run_world(count_switches, NULL);
}

/* ---- traces ------------------------------------------------------------------------- */

static struct trace {
    int      switches, to_hub;
    uint64_t last;
} trace;

static void on_switch(const weir_task *from, const weir_task *to, int64_t now_ns, void *arg)
{
    struct trace *t = arg;

    HOLDS(from != to);
    HOLDS(now_ns > 0);
    t->switches++;
    t->to_hub += to == NULL;
    t->last = to ? weir_task_id(to) : 0;
}

static weir_status burn(void *arg)
{
    int64_t until = real_ms() + *(int *)arg;

    while (real_ms() < until)
        continue;
    weir_yield();
    return WEIR_OK;
}

static weir_status trace_two(void *arg)
{
    weir_group *group = NULL;
    int         ms = 20, times = 10;

    (void)arg;
    trace = (struct trace){ 0 };
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    HOLDS_EQ(weir_trace_start(on_switch, &trace), WEIR_OK);
    weir_task *burner = weir_spawn(group, burn, &ms);
    weir_task *idler = weir_spawn(group, yield_often, &times);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(weir_task_switches(burner), 2);
    HOLDS_EQ(weir_task_switches(idler), 11);
    HOLDS(weir_task_run_ns(burner) >= 19000000);
    HOLDS(weir_task_run_ns(idler) < weir_task_run_ns(burner));
    HOLDS_EQ(trace.last, weir_task_id(weir_self()));
    HOLDS(weir_task_run_ns(weir_self()) > 0);
    int seen = trace.switches, to_hub = trace.to_hub;
    HOLDS(seen >= 4);
    sleep_ms(1);
    HOLDS(trace.to_hub > to_hub); /* nobody ran meanwhile */
    weir_trace_stop();
    seen = trace.switches;
    uint64_t mine = weir_task_switches(weir_self());
    sleep_ms(1);
    HOLDS_EQ(trace.switches, seen);
    HOLDS_EQ(weir_task_switches(weir_self()), mine);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_trace_counts_switches_and_time_of_each(void **state)
{
    (void)state;
    run_real(trace_two, NULL);
    assert_int_equal(weir_trace_start(NULL, NULL), WEIR_USAGE); /* no hub here */
}

/* ---- deadlocks ---------------------------------------------------------------------- */

/* These are of hubs without other threads, or which say that none of theirs wakes them. */
static weir_status run_alone(weir_fn app, void *arg)
{
    return weir_run_with(&(weir_run_opts){ .no_remote_wakes = HAS_TOOL_THREADS }, app, arg);
}

static weir_status lock_two(void *arg)
{
    weir_mutex **both = arg;

    HOLDS_EQ(weir_mutex_lock(both[0], WEIR_FOREVER), WEIR_OK);
    weir_yield();
    weir_status status = weir_mutex_lock(both[1], WEIR_FOREVER);
    if (status == WEIR_OK)
        (void)weir_mutex_unlock(both[1]);
    (void)weir_mutex_unlock(both[0]);
    return status;
}

static weir_status lock_crosswise(void *arg)
{
    static weir_mutex a, b;
    weir_mutex       *one[] = { &a, &b }, *other[] = { &b, &a };
    weir_group       *group = NULL;

    (void)arg;
    a = b = (weir_mutex){ 0 };
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "left" }, lock_two, one);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "right" }, lock_two, other);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    HOLDS_EQ(status, WEIR_DEADLOCK);
    HOLDS_EQ(sleep_ms(1), WEIR_OK);
    HOLDS_EQ(weir_group_running(group), 2); /* only the main one was told */
    weir_group_free(group);
    return status;
}

static void a_deadlock_is_told_to_the_main_one_with_everybody_in_it(void **state)
{
    (void)state;
    assert_int_equal(run_alone(lock_crosswise, NULL), WEIR_DEADLOCK);
    assert_notes();
    assert_int_equal(log_says("deadlock: 3 coroutines wait"), 1);
    assert_int_equal(log_says("left 2, spawned at tests/unit/test_coro_watch.c:"), 1);
    assert_int_equal(log_says("right 3, "), 1);
    assert_int_equal(log_says("waits for a mutex"), 2);
    assert_int_equal(log_took("waits for a group to end"), 1);
}

static weir_status told;

static weir_status wait_and_tell(void *arg)
{
    told = weir_event_wait(arg, WEIR_FOREVER);
    return WEIR_OK;
}

static weir_status leave_one_behind(void *arg)
{
    weir_spawn(NULL, wait_and_tell, arg);
    return WEIR_OK;
}

static void one_left_behind_for_ever_does_not_keep_the_hub(void **state)
{
    weir_event event = { 0 };

    (void)state;
    told = WEIR_OK;
    assert_int_equal(run_alone(leave_one_behind, &event), WEIR_OK);
    assert_int_equal(told, WEIR_DEADLOCK);
    assert_int_equal(log_took("waits for an event"), 1);
}

static weir_status wait_stubbornly(void *arg)
{
    while (weir_event_wait(arg, WEIR_FOREVER) != WEIR_OK) {
        if (told != WEIR_OK)
            return WEIR_OK;
    }
    return WEIR_OK;
}

static weir_status leave_one_and_be_stubborn(void *arg)
{
    weir_spawn(NULL, wait_and_tell, arg);
    return wait_stubbornly(arg);
}

static void the_others_are_told_where_the_main_one_only_waits_again(void **state)
{
    weir_event event = { 0 };

    (void)state;
    told = WEIR_OK;
    assert_int_equal(run_alone(leave_one_and_be_stubborn, &event), WEIR_OK);
    assert_int_equal(told, WEIR_DEADLOCK);
    assert_true(log_says("deadlock: ") >= 2); /* the stubborn one alone, then everybody */
    assert_true(log_took("waits for an event") >= 4);
}

/* Whatever could still wake somebody. */
static weir_status write_later(void *arg)
{
    block_ms(250);
    HOLDS_EQ(write(*(int *)arg, "x", 1), 1);
    return WEIR_OK;
}

static void *write_later_on_thread(void *arg)
{
    (void)write_later(arg);
    return NULL;
}

static void work_long(void *arg)
{
    (void)arg;
    block_ms(250);
}

static weir_status wait_for_each(void *arg)
{
    int       ends[2];
    pthread_t thread;

    (void)arg;
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pid_t child = fork(); /* a process, not a thread: we are alone */
    if (child == 0) {
        (void)write_later(&ends[1]);
        _exit(0);
    }
    HOLDS_EQ(weir_wait_fd(ends[0], WEIR_READ, WEIR_FOREVER, NULL), WEIR_OK);
    char byte;
    HOLDS_EQ(read(ends[0], &byte, 1), 1);
    HOLDS_EQ(pthread_create(&thread, NULL, write_later_on_thread, &ends[1]), 0);
    HOLDS_EQ(weir_wait_fd(ends[0], WEIR_READ, WEIR_FOREVER, NULL), WEIR_OK);
    pthread_join(thread, NULL);
    HOLDS_EQ(weir_offload(work_long, NULL, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(sleep_ms(250), WEIR_OK);
    weir_close(ends[0]);
    weir_close(ends[1]);
    return WEIR_OK;
}

static void descriptors_offloads_and_time_are_not_a_deadlock(void **state)
{
    weir_run_opts opts = { .no_remote_wakes = true };

    (void)state;
    assert_int_equal(weir_run_with(&opts, wait_for_each, NULL), WEIR_OK);
    assert_notes();
}

static void *set_later(void *arg)
{
    block_ms(350);
    weir_remote_event_set(arg);
    return NULL;
}

static weir_status wait_for_thread(void *arg)
{
    static weir_remote_event event;
    pthread_t                thread;

    (void)arg;
    event = (weir_remote_event){ 0 };
    HOLDS_EQ(pthread_create(&thread, NULL, set_later, &event), 0);
    HOLDS_EQ(weir_remote_event_wait(&event, WEIR_FOREVER), WEIR_OK);
    pthread_join(thread, NULL);
    return WEIR_OK;
}

static void nor_is_what_another_thread_may_do(void **state)
{
    (void)state;
    run_real(wait_for_thread, NULL);
}

static void *terminate_later(void *arg)
{
    (void)arg;
    block_ms(300);
    kill(getpid(), SIGTERM);
    return NULL;
}

static weir_status wait_to_be_cancelled(void *arg)
{
    (void)arg;
    return weir_sleep(WEIR_FOREVER);
}

static void nor_is_waiting_for_sigterm(void **state)
{
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, terminate_later, NULL), 0);
    assert_int_equal(weir_run_with(&(weir_run_opts){ .cancel_on_signals = true,
                                                     .no_remote_wakes = true },
                                   wait_to_be_cancelled, NULL),
                     WEIR_CANCELED);
    pthread_join(thread, NULL);
}

/* ---- the watchdog ------------------------------------------------------------------- */

static struct report {
    atomic_int count;
    int64_t    blocked_ns;
    uint64_t   id;
    char       name[64], site[128], where[8192];
} report;

static void on_blocked(const weir_blocked *blocked, void *arg)
{
    struct report *r = arg;
    size_t         length = 0;

    r->blocked_ns = blocked->blocked_ns;
    r->id = blocked->id;
    snprintf(r->name, sizeof r->name, "%s", blocked->name);
    snprintf(r->site, sizeof r->site, "%s", blocked->site);
    char **words = backtrace_symbols(blocked->frames, blocked->frame_count);
    r->where[0] = '\0';
    for (int i = 0; i < blocked->frame_count && length < sizeof r->where - 300; i++)
        length += (size_t)snprintf(r->where + length, 300, "%s\n", words[i]);
    free(words);
    atomic_fetch_add(&r->count, 1);
}

static bool is_reported(void)
{
    return atomic_load(&report.count) || log_says("has not turned for ");
}

/* Until that is noticed, and a little longer. Exported by the test's program, so that it has a name
   in a backtrace. */
void block_the_hub(void);

__attribute__((noinline)) void block_the_hub(void)
{
    int64_t until = real_ms() + 10000; /* a busy machine takes its time */

    while (!is_reported() && real_ms() < until)
        block_ms(20);
    block_ms(150);
}

static weir_status block(void *arg)
{
    (void)arg;
    block_the_hub();
    return WEIR_OK;
}

static weir_status be_blocked(void *arg)
{
    weir_task *task = weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "blocker" }, block, arg);

    return weir_join(task, WEIR_FOREVER, NULL);
}

static void start_watchdog(int limit_ms, weir_blocked_fn fn)
{
    weir_watch_opts opts = { .limit_ms = limit_ms, .fn = fn, .arg = &report };
    weir_error      err;

    report.id = 0;
    atomic_store(&report.count, 0);
    assert_int_equal(weir_watch_start(&opts, &err), WEIR_OK);
}

static void a_blocked_hub_is_reported_with_who_and_where(void **state)
{
    uint64_t before = weir_watch_blocked();

    (void)state;
    start_watchdog(100, on_blocked);
    run_real(be_blocked, NULL);
    weir_watch_stop();
    assert_int_equal(atomic_load(&report.count), 1); /* once for the one turn */
    assert_int_equal(report.id, 2);
    assert_string_equal(report.name, "blocker");
    assert_non_null(strstr(report.site, "tests/unit/test_coro_watch.c:"));
    assert_true(report.blocked_ns >= 100000000 && report.blocked_ns < 200000000);
    assert_non_null(strstr(report.where, "block_the_hub"));
    assert_int_equal(weir_watch_blocked(), before + 1);
}

static void without_a_callback_it_is_logged(void **state)
{
    (void)state;
    start_watchdog(50, NULL);
    run_real(be_blocked, NULL);
    weir_watch_stop();
    assert_int_equal(log_says("has not turned for "), 1);
    assert_true(log_says("blocker 2, spawned at tests/unit/test_coro_watch.c:") == 1);
    assert_true(log_took("block_the_hub") >= 1);
}

static weir_status work_in_pieces(void *arg)
{
    int64_t until = real_ms() + *(int *)arg;

    while (real_ms() < until) {
        block_ms(5);
        sleep_ms(1);
    }
    return sleep_ms(*(int *)arg);
}

static void one_that_gives_way_or_waits_is_not_reported(void **state)
{
    int ms = 250;

    (void)state;
    start_watchdog(60, on_blocked);
    run_real(work_in_pieces, &ms);
    weir_watch_stop();
    assert_int_equal(atomic_load(&report.count), 0);
}

/* On one processor with somebody who always goes first. */
static atomic_bool hog_on;

static bool stay_on_one_processor(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(0, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

static void *hog(void *arg)
{
    int64_t until = real_ms() + 2000;

    (void)arg;
    while (atomic_load(&hog_on) && real_ms() < until)
        continue;
    return NULL;
}

struct starved {
    bool    could;
    int64_t wall_ms;
};

static int64_t own_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static weir_status compute_for_30_ms(void *arg)
{
    struct starved *starved = arg;
    int64_t         until = own_ms() + 30, began = real_ms();

    while (own_ms() < until && real_ms() < began + 1500)
        continue;
    starved->wall_ms = real_ms() - began;
    return WEIR_OK;
}

static void *be_starved(void *arg)
{
    struct starved    *starved = arg;
    struct sched_param none = { 0 };
    pthread_t          other;

    starved->could = stay_on_one_processor();
    atomic_store(&hog_on, true);
    if (pthread_create(&other, NULL, hog, NULL) != 0)
        return NULL;
    starved->could &= sched_setscheduler(0, SCHED_IDLE, &none) == 0;
    (void)weir_run(compute_for_30_ms, starved);
    atomic_store(&hog_on, false);
    pthread_join(other, NULL);
    return NULL;
}

static void a_thread_that_is_merely_not_scheduled_is_not_blocked(void **state)
{
    struct starved starved = { 0 };
    pthread_t      thread;

    (void)state;
    start_watchdog(100, on_blocked);
    assert_int_equal(pthread_create(&thread, NULL, be_starved, &starved), 0);
    pthread_join(thread, NULL);
    weir_watch_stop();
    if (!starved.could || starved.wall_ms < 300)
        skip(); /* it cannot be starved here */
    assert_int_equal(atomic_load(&report.count), 0);
}

static void there_is_one_watchdog(void **state)
{
    weir_error err;

    (void)state;
    assert_int_equal(weir_watch_start(&(weir_watch_opts){ .limit_ms = -3 }, &err), WEIR_USAGE);
    assert_non_null(strstr(err.message, "limit_ms is -3"));
    assert_int_equal(weir_watch_start(&(weir_watch_opts){ .signal = SIGKILL }, &err), WEIR_USAGE);
    assert_int_equal(weir_watch_start(NULL, &err), WEIR_OK);
    assert_int_equal(weir_watch_start(NULL, &err), WEIR_BUSY);
    weir_watch_stop();
    weir_watch_stop(); /* no harm */
    assert_int_equal(weir_watch_start(NULL, NULL), WEIR_OK);
    weir_watch_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* The deadlocks first: offloaded work leaves threads behind for a while. */
        TEST(a_deadlock_is_told_to_the_main_one_with_everybody_in_it),
        TEST(one_left_behind_for_ever_does_not_keep_the_hub),
        TEST(the_others_are_told_where_the_main_one_only_waits_again),
        TEST(descriptors_offloads_and_time_are_not_a_deadlock),
        TEST(nor_is_what_another_thread_may_do),
        TEST(nor_is_waiting_for_sigterm),
        TEST(a_dump_shows_every_coroutine_below_its_maker),
        TEST(a_dump_shows_where_each_coroutine_has_got_to),
        TEST(of_a_crowd_the_first_thousand_are_walked),
        TEST(a_group_whose_maker_is_gone_is_shown_too),
        TEST(a_signal_has_the_hub_dump_itself_in_its_next_turn),
        TEST(several_hubs_are_dumped_one_after_the_other),
        TEST(counts_are_told_as_text),
        TEST(a_trace_counts_switches_and_time_of_each),
        TEST(a_blocked_hub_is_reported_with_who_and_where),
        TEST(without_a_callback_it_is_logged),
        TEST(one_that_gives_way_or_waits_is_not_reported),
        TEST(a_thread_that_is_merely_not_scheduled_is_not_blocked),
        TEST(there_is_one_watchdog),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
