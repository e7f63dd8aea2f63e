/*
 * test_coro_settings.c - what the environment sets, and the small reports: blocks that should have
 * given way, failures nobody asked about, coroutines that are left.
 *
 * The environment is read once a process, so each of those tests is a process of its own; no hub
 * runs in this one before them.
 */
#include "coro_unit.h"

#include "hub.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <weir/settings.h>
#include <weir/sync.h>
#include <weir/watch.h>

/* ---- the environment ------------------------------------------------------------------ */

/* Run `body` in a process with this setting; what it says on standard error goes to `said`. */
static int in_child(const char *name, const char *value, int (*body)(void), char *said, size_t size)
{
    int    ends[2], status = -1;
    size_t length = 0;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setenv(name, value, 1);
        if (unit_notes.descriptors) /* begun by TEST(), which took the log over */
            weir_log_set(NULL, NULL, WEIR_LOG_WARN);
        dup2(ends[1], STDERR_FILENO);
        alarm(30);
        int broken = body();
        if (unit_notes.broken)
            fprintf(stderr, "noted: %s\n", unit_notes.first);
        _exit(broken || unit_notes.broken);
    }
    close(ends[1]);
    for (ssize_t n; length < size - 1 && (n = read(ends[0], said + length, size - 1 - length)) > 0;)
        length += (size_t)n;
    said[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("%s=%s: status %d: %s", name, value, status, said);
    return status;
}

static weir_status go_wrong(void *arg)
{
    (void)arg;
    return WEIR_SERVER;
}

static weir_status look_at_my_stack(void *arg)
{
    *(size_t *)arg = weir_self()->depot->size;
    return WEIR_OK;
}

static int stacks_of_512(void)
{
    size_t size = 0, own = 0;

    HOLDS_EQ(weir_run(look_at_my_stack, &size), WEIR_OK);
    HOLDS_EQ(size, 512 * 1024);
    HOLDS_EQ(weir_run_with(&(weir_run_opts){ .stack_size = 65536 }, look_at_my_stack, &own), 0);
    HOLDS_EQ(own, 65536); /* what the program says goes before */
    return 0;
}

static int stacks_as_ever(void)
{
    size_t size = 0;

    HOLDS_EQ(weir_run(look_at_my_stack, &size), WEIR_OK);
    HOLDS_EQ(size, 256 * 1024);
    return 0;
}

static void write_to_stderr(const char *text, size_t size, void *arg)
{
    (void)arg;
    HOLDS(fwrite(text, 1, size, stderr) == size);
}

static int print_only(void)
{
    weir_settings_print(write_to_stderr, NULL);
    return 0;
}

static weir_status ask_for_a_dump(void *arg)
{
    (void)arg;
    raise(SIGUSR1);
    weir_yield();
    return weir_sleep(weir_in_ms(20));
}

static int dump_by_signal(void)
{
    return (int)weir_run(ask_for_a_dump, NULL);
}

static weir_status block_the_hub(void *arg)
{
    struct timespec ran; /* a neighbour's time does not count */
    int64_t         from, now;

    (void)arg;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran);
    from = now = ran.tv_sec * INT64_C(1000) + ran.tv_nsec / 1000000;
    while (now < from + 200) {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran);
        now = ran.tv_sec * INT64_C(1000) + ran.tv_nsec / 1000000;
    }
    return WEIR_OK;
}

static int block(void)
{
    weir_status status = weir_run(block_the_hub, NULL);

    HOLDS(weir_watch_blocked() > 0);
    weir_watch_stop();
    return (int)status;
}

/* A watchdog and a signal of the program's own, before its first hub and in it. */
static atomic_int blocked_told;

static void count_blocked(const weir_blocked *blocked, void *arg)
{
    (void)blocked;
    (void)arg;
    atomic_fetch_add(&blocked_told, 1);
}

static void watch_myself(void)
{
    weir_watch_opts opts = { .limit_ms = 20, .fn = count_blocked }, wrong = { .limit_ms = -1 };
    weir_error      err;

    HOLDS_EQ(weir_watch_start(&wrong, &err), WEIR_USAGE);
    HOLDS_EQ(weir_watch_start(&opts, &err), WEIR_OK);
    HOLDS_EQ(weir_watch_start(&opts, &err), WEIR_BUSY);
}

static weir_status watch_and_block(void *arg)
{
    if (arg)
        watch_myself();
    return block_the_hub(NULL);
}

static int watch_in_a_hub(void)
{
    HOLDS_EQ(weir_run(watch_and_block, &blocked_told), WEIR_OK);
    HOLDS(atomic_load(&blocked_told) > 0);
    weir_watch_stop();
    return 0;
}

static int watch_before_the_first_hub(void)
{
    watch_myself();
    HOLDS_EQ(weir_run(watch_and_block, NULL), WEIR_OK);
    HOLDS(atomic_load(&blocked_told) > 0);
    weir_watch_stop();
    return 0;
}

static int watch_only_wrongly(void)
{
    weir_error err;

    HOLDS_EQ(weir_watch_start(&(weir_watch_opts){ .limit_ms = -1 }, &err), WEIR_USAGE);
    return block(); /* what the environment asked for is still there */
}

static void dump_to_nowhere(const char *dump, size_t size, void *arg)
{
    (void)dump;
    *(size_t *)arg += size;
}

static int dump_by_a_signal_of_my_own(void)
{
    size_t     dumped = 0;
    weir_error err;

    HOLDS_EQ(weir_dump_on_signal(SIGUSR1, dump_to_nowhere, &dumped, &err), WEIR_OK);
    HOLDS_EQ(weir_run(ask_for_a_dump, NULL), WEIR_OK);
    HOLDS(dumped > 0);
    return 0;
}

static void the_programs_own_watchdog_and_signal_replace_those_of_the_environment(void **state)
{
    char said[8192];

    (void)state;
    in_child("WEIR_WATCH_MS", "50", watch_in_a_hub, said, sizeof said);
    assert_string_equal(said, "");
    in_child("WEIR_WATCH_MS", "50", watch_before_the_first_hub, said, sizeof said);
    assert_string_equal(said, "");
    in_child("WEIR_WATCH_MS", "50", watch_only_wrongly, said, sizeof said);
    assert_non_null(strstr(said, "warning"));
    in_child("WEIR_DUMP_SIGNAL", "12", dump_by_a_signal_of_my_own, said, sizeof said);
    assert_string_equal(said, "");
}

static void a_setting_of_the_environment_is_in_force_unless_the_program_says_otherwise(void **state)
{
    char said[8192];

    (void)state;
    in_child("WEIR_STACK_KIB", "512", stacks_of_512, said, sizeof said);
    assert_string_equal(said, "");
    in_child("WEIR_DUMP_SIGNAL", "10", dump_by_signal, said, sizeof said);
    assert_non_null(strstr(said, "main"));
    in_child("WEIR_WATCH_MS", "50", block, said, sizeof said);
    assert_non_null(strstr(said, "warning"));
}

static weir_status fail_detached(void *arg)
{
    (void)arg;
    weir_spawn(NULL, go_wrong, NULL); /* which is logged as a warning */
    return WEIR_OK;
}

static int log_a_failure(void)
{
    return (int)weir_run(fail_detached, NULL);
}

static void a_level_of_the_environment_is_in_force_unless_the_program_says_otherwise(void **state)
{
    char said[8192];

    (void)state;
    in_child("WEIR_LOG", "warn", log_a_failure, said, sizeof said);
    assert_non_null(strstr(said, "ended with"));
    in_child("WEIR_LOG", "off", log_a_failure, said, sizeof said);
    assert_string_equal(said, "");
}

static void what_cannot_be_understood_is_told_and_left_aside(void **state)
{
    char said[8192];

    (void)state;
    in_child("WEIR_STACK_KIB", "4 MiB", stacks_as_ever, said, sizeof said);
    assert_non_null(strstr(said, "WEIR_STACK_KIB=4 MiB is no number from 16 to 1048576"));
    in_child("WEIR_STACK_KIB", "3", stacks_as_ever, said, sizeof said);
    assert_non_null(strstr(said, "left aside"));
    in_child("WEIR_LOG", "loud", stacks_as_ever, said, sizeof said);
    assert_non_null(strstr(said, "WEIR_LOG=loud is not debug, info, warn, error or off"));
}

static void the_settings_are_printed_with_where_they_come_from(void **state)
{
    char said[8192];

    (void)state;
    in_child("WEIR_OFFLOAD_THREADS", "3", print_only, said, sizeof said);
    assert_non_null(strstr(said, "WEIR_OFFLOAD_THREADS  3        environment"));
    assert_non_null(strstr(said, "WEIR_STACK_KIB        256      default"));
    assert_non_null(strstr(said, "WEIR_LOG              warn     default"));
    in_child("WEIR_SETTINGS", "1", stacks_as_ever, said, sizeof said);
    assert_non_null(strstr(said, "WEIR_STACK_KIB        256      default"));
}

/* ---- who gives way -------------------------------------------------------------------- */

static weir_status blocks(void *arg)
{
    uint64_t before = weir_must_yield_broken();

    (void)arg;
    {
        WEIR_MUST_YIELD(0);
        weir_yield(); /* nobody else is ready; the hub itself had its turn */
        weir_sleep(weir_in_ms(1));
    }
    {
        WEIR_MUST_YIELD(60000); /* quick enough */
    }
    HOLDS_EQ(weir_must_yield_broken(), before);
    {
        WEIR_MUST_YIELD(0);
        (void)weir_check();
    }
    HOLDS_EQ(weir_must_yield_broken(), before + 1);
    {
        WEIR_MUST_YIELD(0);
        weir_spawn(NULL, block_the_hub, NULL); /* spawning is no yielding */
        HOLDS_EQ(weir_must_yield_broken(), before + 1);
    }
    HOLDS_EQ(weir_must_yield_broken(), before + 2);
    {
        WEIR_MUST_YIELD(1);
        (void)block_the_hub(NULL);
    }
    HOLDS_EQ(weir_must_yield_broken(), before + 3);
    return WEIR_OK;
}

static void a_block_that_lets_nobody_run_is_reported_with_its_place(void **state)
{
    (void)state;
    {
        WEIR_MUST_YIELD(0); /* outside of a coroutine nobody could */
    }
    run_real(blocks, NULL);
    assert_int_equal(log_says("nobody else could run in this block"), 3);
    assert_int_equal(log_took("tests/unit/test_coro_settings.c:"), 3);
}

/* ---- failures --------------------------------------------------------------------------- */

static weir_group *failing_group(weir_keep keep)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .name = "g", .keep = keep }, &group, NULL), 0);
    weir_spawn_at(group, NULL, go_wrong, NULL, "unheard.c:7");
    weir_spawn_at(group, NULL, go_wrong, NULL, "unheard.c:8");
    weir_yield();
    return group;
}

static weir_status nobody_asks(void *arg)
{
    (void)arg;
    weir_group_free(failing_group(WEIR_KEEP_ALL));
    return WEIR_OK;
}

static void count_member(const weir_member *member, void *arg)
{
    *(int *)arg += member->status == WEIR_SERVER;
}

static weir_status somebody_asks(void *arg)
{
    weir_group *group = failing_group(WEIR_KEEP_ALL);
    weir_member member;
    int         failed = 0;

    (void)arg;
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_SERVER);
    weir_group_free(group);
    group = failing_group(WEIR_KEEP_ALL);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    weir_group_free(group);
    group = failing_group(WEIR_KEEP_COUNTS);
    HOLDS_EQ(weir_group_failed(group), 2);
    weir_group_free(group);
    group = failing_group(WEIR_KEEP_ALL);
    weir_group_each(group, count_member, &failed);
    HOLDS_EQ(failed, 2);
    weir_group_free(group);

    weir_status result = WEIR_OK;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    HOLDS_EQ(weir_join(weir_spawn(group, go_wrong, NULL), WEIR_FOREVER, &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_SERVER);
    weir_group_free(group);
    return WEIR_OK;
}

static weir_status sleep_for_ever(void *arg)
{
    (void)arg;
    return weir_sleep(WEIR_FOREVER);
}

static weir_status somebody_cancels(void *arg)
{
    weir_group *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn(group, sleep_for_ever, NULL);
    weir_yield();
    weir_group_free(group);
    return WEIR_OK;
}

static void a_failure_nobody_asked_about_is_logged_once(void **state)
{
    (void)state;
    run_world(nobody_asks, NULL);
    assert_int_equal(log_says("group g: 2 of 2 coroutines failed and nobody asked"), 1);
    assert_int_equal(log_took("spawned at unheard.c:7, with"), 1);
}

static void a_failure_somebody_heard_of_or_caused_is_not_logged(void **state)
{
    (void)state;
    run_world(somebody_asks, NULL);
    run_world(somebody_cancels, NULL);
}

/* ---- who is left, who spawned whom ------------------------------------------------------- */

static weir_status drain_it(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_drain(WEIR_NOW), WEIR_OK); /* alone already */
    weir_task *left = weir_spawn_at(NULL, NULL, sleep_for_ever, NULL, "left.c:3");
    HOLDS_EQ(weir_drain(weir_in_ms(100)), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 100);
    weir_cancel(left);
    HOLDS_EQ(weir_drain(weir_in_ms(100)), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 100);
    return WEIR_OK;
}

static void a_drain_says_who_is_left(void **state)
{
    (void)state;
    HOLDS_EQ(weir_drain(WEIR_FOREVER), WEIR_USAGE); /* no hub here */
    run_world(drain_it, NULL);
    assert_int_equal(log_says("and 1 coroutines have not ended"), 1);
    assert_int_equal(log_says("spawned at left.c:3, waits for a time"), 1);
    log_forget();
}

static weir_status drain_elsewhere(void *arg)
{
    (void)arg;
    return weir_drain(WEIR_FOREVER);
}

static weir_status spawn_them(void *arg)
{
    weir_group *group = NULL;
    weir_status told = WEIR_OK;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *child = weir_spawn(group, drain_elsewhere, NULL);
    HOLDS_EQ(weir_task_parent(child), weir_task_id(weir_self()));
    HOLDS_EQ(weir_task_parent(weir_self()), 0);
    HOLDS_EQ(weir_join(child, WEIR_FOREVER, &told), WEIR_OK);
    HOLDS_EQ(told, WEIR_USAGE); /* only the main one can */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_task_knows_who_spawned_it(void **state)
{
    (void)state;
    run_world(spawn_them, NULL);
}

/* ---- links ----------------------------------------------------------------------------------- */

static weir_status give_a_value(void *arg)
{
    weir_set_value(arg);
    weir_yield();
    return WEIR_OK;
}

static weir_status link_them(void *arg)
{
    weir_future good = { 0 }, bad = { 0 }, first = { 0 }, cut = { 0 }, late = { 0 };
    weir_future never = { 0 };
    weir_link   links[7];
    weir_group *group = NULL;
    weir_error  err;
    void       *value = NULL;

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *giver = weir_spawn(group, give_a_value, arg);
    weir_link_to(&links[0], giver, &good);
    weir_link_to(&links[1], weir_spawn(group, go_wrong, NULL), &bad);
    weir_link_to(&links[2], weir_spawn(group, go_wrong, NULL), &first);
    weir_link_to(&links[3], giver, &first);
    weir_link_to(&links[4], giver, &cut);
    weir_link_cut(&links[4]);
    HOLDS_EQ(weir_future_get(&good, weir_in_ms(1), &value, &err), WEIR_OK);
    HOLDS(value == arg);
    HOLDS_EQ(weir_future_get(&bad, weir_in_ms(1), NULL, &err), WEIR_SERVER);
    HOLDS(strstr(err.message, "test_coro_settings.c:") != NULL);
    HOLDS_EQ(weir_future_get(&first, weir_in_ms(1), NULL, &err), WEIR_SERVER);
    HOLDS(!weir_future_is_settled(&cut));
    (void)weir_group_wait(group, WEIR_FOREVER);
    weir_link_to(&links[5], giver, &late); /* it has ended: the group remembers it */
    HOLDS_EQ(weir_future_get(&late, weir_in_ms(1), &value, &err), WEIR_OK);
    HOLDS(value == arg);
    weir_link_to(&links[6], NULL, &never); /* a spawn that failed */
    HOLDS_EQ(weir_future_get(&never, weir_in_ms(1), &value, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "was not started") != NULL);
    for (int i = 0; i < 7; i++)
        weir_link_cut(&links[i]); /* over or cut: harmless */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_link_settles_a_future_when_its_task_ends(void **state)
{
    int thing;

    (void)state;
    run_world(link_them, &thing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* Before anybody has said what is to be logged. */
        cmocka_unit_test(a_level_of_the_environment_is_in_force_unless_the_program_says_otherwise),
        TEST(a_setting_of_the_environment_is_in_force_unless_the_program_says_otherwise),
        TEST(the_programs_own_watchdog_and_signal_replace_those_of_the_environment),
        TEST(what_cannot_be_understood_is_told_and_left_aside),
        TEST(the_settings_are_printed_with_where_they_come_from),
        TEST(a_block_that_lets_nobody_run_is_reported_with_its_place),
        TEST(a_failure_nobody_asked_about_is_logged_once),
        TEST(a_failure_somebody_heard_of_or_caused_is_not_logged),
        TEST(a_drain_says_who_is_left),
        TEST(a_task_knows_who_spawned_it),
        TEST(a_link_settles_a_future_when_its_task_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
