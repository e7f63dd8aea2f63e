/*
 * test_coro_stack.c - what coroutines run on: guards, overflow, memory taken and given back.
 *
 * What must die, or be short of memory, does so in a child process.
 */
#include "coro_unit.h"

#include "hub.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>

static weir_group *new_group(const weir_group_opts *opts)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(opts, &group, NULL), WEIR_OK);
    return group;
}

/* Pages that are resident, in KiB. */
static long resident_kib(void)
{
    long  size = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    if (!statm)
        return 0;
    if (fscanf(statm, "%ld %ld", &size, &resident) != 2)
        resident = 0;
    fclose(statm);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* ---- a child process ---------------------------------------------------------------- */

struct child {
    int  status; /* as waitpid(2) has it */
    char said[8192];
};

/* Run `body` in a child and hear what it says on standard error. */
static void run_child(struct child *child, void (*body)(void))
{
    int    ends[2];
    size_t length = 0;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGSEGV, SIG_DFL); /* cmocka has a handler of its own */
        alarm(60);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        weir_log_set(NULL, NULL, WEIR_LOG_WARN);
        body();
        if (unit_notes.broken)
            fprintf(stderr, "noted: %s\n", unit_notes.first);
        _exit(unit_notes.broken ? 1 : 0);
    }
    close(ends[1]);
    for (;;) {
        char    block[512];
        ssize_t n = read(ends[0], block, sizeof block);
        if (n <= 0)
            break;
        size_t room = sizeof child->said - 1 - length;
        size_t taken = (size_t)n < room ? (size_t)n : room;
        memcpy(child->said + length, block, taken);
        length += taken;
    }
    child->said[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, &child->status, 0), pid);
}

/* ---- the context -------------------------------------------------------------------- */

static void the_context_is_the_one_that_was_configured(void **state)
{
    (void)state;
#ifdef WEIR_CONTEXT_UCONTEXT
    assert_string_equal(context_backend(), "ucontext");
#else
    assert_string_equal(context_backend(), "fcontext");
#endif
}

static weir_status use_the_registers(void *arg)
{
    _Alignas(64) char aligned[64];
    double            x = 1.0 + *(int *)arg, product = 1;
    char              text[64];

    HOLDS_EQ((uintptr_t)aligned % 64, 0);
    for (int i = 0; i < 10; i++) {
        product *= x;
        weir_yield(); /* everybody else computes with the same registers */
    }
    for (int i = 0; i < 10; i++)
        product /= x;
    snprintf(text, sizeof text, "%.3f", product); /* wants a stack aligned to 16 */
    HOLDS(strcmp(text, "1.000") == 0);
    return WEIR_OK;
}

static weir_status compute_side_by_side(void *arg)
{
    static int numbers[20];

    (void)arg;
    for (int i = 0; i < 20; i++) {
        numbers[i] = i;
        weir_spawn(NULL, use_the_registers, &numbers[i]);
    }
    return WEIR_OK;
}

static void a_switch_keeps_floating_point_and_alignment(void **state)
{
    (void)state;
    run_world(compute_side_by_side, NULL);
}

/* ---- guards --------------------------------------------------------------------------- */

/* The kernel says without a signal where we may not write. */
static bool out_of_bounds(char *at)
{
    return getrandom(at, 1, GRND_NONBLOCK) < 0 && errno == EFAULT;
}

static unsigned guarded, parked;

static weir_status park_above_a_guard(void *arg)
{
    char *low = weir_self()->stack->low;

    (void)arg;
    guarded += *(volatile char *)low == 0 && out_of_bounds(low - 1) && out_of_bounds(low - 4096);
    parked++;
    return weir_sleep(WEIR_FOREVER);
}

/* ---- overflow ----------------------------------------------------------------------- */

static weir_status well(void *arg)
{
    (void)arg;
    return weir_sleep(weir_in_ms(1));
}

/* A page a call, so that nothing is stepped over. */
static __attribute__((noinline)) int dive(volatile char *above, int depth)
{
    volatile char page[4096];

    page[0] = above[0];
    page[4095] = (char)depth;
    if (depth == 1000000)
        return page[0];
    return dive(page, depth + 1) + page[4095];
}

static weir_status dive_too_deep(void *arg)
{
    volatile char top[1] = { 0 };

    (void)arg;
    weir_yield();
    return dive(top, 0) ? WEIR_OK : WEIR_FAILED;
}

static weir_status send_a_diver(void *arg)
{
    weir_spawn_opts opts = { .name = "diver", .stack_size = 65536 };

    weir_spawn(NULL, well, arg);
    weir_spawn_at(NULL, &opts, dive_too_deep, arg, "pier.c:17");
    return well(arg);
}

static void overflow(void)
{
    (void)weir_run(send_a_diver, NULL);
}

static void *overflow_there(void *arg)
{
    overflow();
    return arg;
}

static void overflow_on_a_thread(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, overflow_there, NULL);
    pthread_join(thread, NULL);
}

static void check_report(const struct child *child)
{
    static const char line[] =
        "weir: a coroutine ran off its stack of 64 KiB: diver 3, spawned at pier.c:17.";

    if (!strstr(child->said, line))
        fail_msg("no line \"%s\" in \"%s\"", line, child->said);
    assert_true(WIFSIGNALED(child->status));
    assert_int_equal(WTERMSIG(child->status), SIGSEGV);
}

static void an_overflow_says_whose_stack_it_was_and_ends_the_process(void **state)
{
    struct child child;

    (void)state;
    run_child(&child, overflow);
    check_report(&child);
    run_child(&child, overflow_on_a_thread);
    check_report(&child);
}

static void handle_it_myself(int number)
{
    static const char mine[] = "the application's own handler\n";
    ssize_t           ignored = write(STDERR_FILENO, mine, sizeof mine - 1);

    (void)ignored;
    (void)number;
    _exit(7);
}

/* On a stack of its own, as a handler for overflows must be. */
static void handle_first(void)
{
    static char      memory[65536];
    struct sigaction action = { .sa_flags = SA_ONSTACK };

    action.sa_handler = handle_it_myself;
    sigaltstack(&(stack_t){ .ss_sp = memory, .ss_size = sizeof memory }, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

static void overflow_under_a_handler(void)
{
    handle_first();
    overflow();
}

static void the_applications_handler_is_called_after_ours(void **state)
{
    struct child child;

    (void)state;
    run_child(&child, overflow_under_a_handler);
    assert_non_null(strstr(child.said, "ran off its stack"));
    assert_non_null(strstr(child.said, "the application's own handler"));
    assert_true(WIFEXITED(child.status));
    assert_int_equal(WEXITSTATUS(child.status), 7);
}

static weir_status touch_nowhere(void *arg)
{
    volatile int *volatile nowhere = arg;

    weir_yield();
    return *nowhere ? WEIR_OK : WEIR_FAILED;
}

static void fault_elsewhere(void)
{
    (void)weir_run(touch_nowhere, (void *)64);
}

static void another_fault_is_passed_on_unseen(void **state)
{
    struct child child;

    (void)state;
    run_child(&child, fault_elsewhere);
    assert_null(strstr(child.said, "ran off its stack"));
    assert_true(WIFSIGNALED(child.status));
    assert_int_equal(WTERMSIG(child.status), SIGSEGV);
}

/* ---- sizes -------------------------------------------------------------------------- */

static __attribute__((noinline)) char touch_down_to(size_t bytes)
{
    volatile char here[2048];

    for (size_t i = 0; i < sizeof here; i++)
        here[i] = 1;
    return (char)(bytes > sizeof here ? touch_down_to(bytes - sizeof here) + here[0] : here[2047]);
}

struct room {
    size_t asked, touched, got;
};

static weir_status use_room(void *arg)
{
    struct room *room = arg;

    room->got = weir_self()->depot->size;
    (void)touch_down_to(room->touched);
    weir_yield();
    return WEIR_OK;
}

static weir_status spawn_with_sizes(void *arg)
{
    struct room rooms[] = {
        { 0, 4096, 0 },       { 1, 0, 0 },           { 1 << 20, 600 << 10, 0 },
        { 100000, 8192, 0 },  { 4 << 20, 3 << 20, 0 }, { 1 << 20, 600 << 10, 0 },
    };
    size_t default_size = *(size_t *)arg;

    for (int round = 0; round < 3; round++) {
        weir_group *group = new_group(NULL);
        for (int i = 0; i < 6; i++)
            weir_spawn_with(group, &(weir_spawn_opts){ .stack_size = rooms[i].asked }, use_room,
                            &rooms[i]);
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
        weir_group_free(group);
    }
    HOLDS_EQ(rooms[0].got, default_size);
    HOLDS_EQ(rooms[1].got, 16384); /* less would not do */
    HOLDS_EQ(rooms[2].got, 1 << 20);
    HOLDS_EQ(rooms[3].got, 102400); /* whole pages */
    HOLDS_EQ(rooms[4].got, 4 << 20);
    return WEIR_OK;
}

static void a_stack_is_as_large_as_asked_for(void **state)
{
    size_t usual = 256 << 10, other = 512 << 10;

    (void)state;
    run_world(spawn_with_sizes, &usual);
    assert_int_equal(weir_run_with(&(weir_run_opts){ .stack_size = other }, spawn_with_sizes,
                                   &other),
                     WEIR_OK);
}

static weir_status spawn_with_no_size(void *arg)
{
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 64, SIZE_MAX / 2 + 1 };
    weir_group         *group = new_group(NULL);

    (void)arg;
    for (int i = 0; i < 4; i++)
        HOLDS(!weir_spawn_with(group, &(weir_spawn_opts){ .stack_size = sizes[i] }, well, NULL));
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_NOMEM);
    HOLDS_EQ(weir_group_failed(group), 4);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_stack_larger_than_any_memory_is_refused(void **state)
{
    (void)state;
    run_world(spawn_with_no_size, NULL);
    assert_int_equal(log_took("no memory for a coroutine stack of"), 4);
    assert_int_equal(weir_run_with(&(weir_run_opts){ .stack_size = SIZE_MAX }, well, NULL),
                     WEIR_NOMEM);
    assert_int_equal(log_took("no memory for a coroutine stack of"), 1);
}

/* ---- memory ------------------------------------------------------------------------- */

static weir_status go_deep(void *arg)
{
    (void)touch_down_to(200 << 10);
    return weir_sleep(*(weir_deadline *)arg);
}

static weir_status go_deep_together(void *arg)
{
    enum { DIVERS = 128 };
    weir_deadline together = weir_in_ms(10);
    weir_group   *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    long          before = resident_kib();

    (void)arg;
    for (int i = 0; i < DIVERS; i++)
        weir_spawn(group, go_deep, &together);
    world_settle();
    long deep = resident_kib() - before;
    HOLDS(deep > DIVERS * 180); /* KiB */
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    long left = resident_kib() - before;
    HOLDS(left < DIVERS * 60); /* 32 each are kept for the next user */
    weir_group_free(group);
    return WEIR_OK;
}

static void what_was_used_deep_is_given_back(void **state)
{
    (void)state;
    if (context_is_watched()) {
        print_message("skipped: under a checking tool nothing is given back\n");
        skip();
    }
    run_world(go_deep_together, NULL);
}

static weir_status note_my_stack(void *arg)
{
    *(void **)arg = weir_self()->stack;
    return WEIR_OK;
}

static weir_status come_and_go(void *arg)
{
    void *first = NULL;

    (void)arg;
    for (int i = 0; i < 200; i++) {
        void *now = NULL;
        weir_spawn(NULL, note_my_stack, &now);
        weir_yield();
        if (!first)
            first = now;
        HOLDS(now != NULL && now == first); /* the warmest one is used first */
    }
    return WEIR_OK;
}

static void a_stack_given_back_is_the_next_to_be_taken(void **state)
{
    (void)state;
    run_world(come_and_go, NULL);
}

static weir_status spawn_until_refused(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    unsigned    spawned = 0;

    (void)arg;
    while (spawned < 100000 && weir_spawn(group, park_above_a_guard, NULL))
        spawned++;
    HOLDS(spawned > 0 && spawned < 100000);
    HOLDS(weir_spawn(group, well, NULL) == NULL);
    weir_yield();
    HOLDS_EQ(parked, spawned); /* those that were started are well */
    HOLDS_EQ(weir_group_running(group), spawned);
    weir_group_cancel(group);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_NOMEM); /* the first failure */
    weir_group_free(group);

    group = new_group(NULL); /* and when they have gone there is room again */
    HOLDS(weir_spawn(group, well, NULL) != NULL);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void run_out_of_memory(void)
{
    long          pages = 0;
    FILE         *statm = fopen("/proc/self/statm", "r");
    struct rlimit limit;

    HOLDS(statm && fscanf(statm, "%ld", &pages) == 1);
    fclose(statm);
    limit.rlim_cur = limit.rlim_max = (rlim_t)(pages * sysconf(_SC_PAGESIZE)) + (128 << 20);
    HOLDS_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    parked = guarded = 0;
    HOLDS_EQ(weir_run(spawn_until_refused, NULL), WEIR_OK);
}

static void when_memory_runs_out_a_spawn_is_refused_and_the_cure_is_told(void **state)
{
    struct child child;

    (void)state;
    if (context_is_watched()) {
        print_message("skipped: a checking tool does not live within RLIMIT_AS\n");
        skip();
    }
    run_child(&child, run_out_of_memory);
    if (child.status != 0)
        fail_msg("status %d: %s", child.status, child.said);
    assert_non_null(strstr(child.said, "test_coro_stack.c:"));
    assert_non_null(strstr(child.said, "no memory for a coroutine stack of 256 KiB"));
    assert_non_null(strstr(child.said, "Bound the group by max_running"));
}

int main(void)
{
    /* The library's handler is installed once, before the first hub of a process: the children
       of the first three tests must not inherit it, so no hub runs before them. */
    const struct CMUnitTest tests[] = {
        TEST(the_applications_handler_is_called_after_ours),
        TEST(an_overflow_says_whose_stack_it_was_and_ends_the_process),
        TEST(another_fault_is_passed_on_unseen),
        TEST(the_context_is_the_one_that_was_configured),
        TEST(a_switch_keeps_floating_point_and_alignment),
        TEST(a_stack_is_as_large_as_asked_for),
        TEST(a_stack_larger_than_any_memory_is_refused),
        TEST(what_was_used_deep_is_given_back),
        TEST(a_stack_given_back_is_the_next_to_be_taken),
        TEST(when_memory_runs_out_a_spawn_is_refused_and_the_cure_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
