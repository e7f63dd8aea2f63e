/*
 * test_coro_helper.c - functions called in a process of their own, which crash, hang, and leave
 * things behind. On the real hub, with real processes.
 *
 * The helpers are forked from a process as it was before the first test. What is to be seen from
 * both sides is in memory that was shared by then, and they say things to a stderr of our own.
 */
#define _GNU_SOURCE
#include "coro_unit.h"
#include "under_valgrind.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <weir/offload.h>
#include <weir/process.h>

#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifndef WITH_TSAN
#define WITH_TSAN 0
#endif

/* ---- what both sides see ---------------------------------------------------------------- */

static struct board {
    atomic_int gate;
    atomic_int begun, now, most;
    atomic_int order[16];
    atomic_int pids[4];
} *board;

static int stderr_of_helpers = -1;

static int begin(void **state)
{
    memset(board, 0, sizeof *board);
    weir_process_limit(10);
    return unit_begin(state);
}

#define HELPERS(function) cmocka_unit_test_setup_teardown(function, begin, unit_end)

static void await(atomic_int *flag, int wanted)
{
    for (int i = 0; i < 10000 && atomic_load(flag) != wanted; i++)
        sleep_ms(1);
    HOLDS_EQ(atomic_load(flag), wanted);
}

/* Nobody runs it any more; who reaps an orphan, and when, is not ours to say. */
static bool is_over(pid_t pid)
{
    char path[64], line[256] = "";

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return true;
    char *got = fgets(line, sizeof line, file);
    fclose(file);
    char *state = got ? strrchr(line, ')') : NULL;
    return !state || state[2] == 'Z' || state[2] == 'X';
}

static void await_over(pid_t pid)
{
    for (int i = 0; i < 10000 && !is_over(pid); i++)
        usleep(1000);
    HOLDS(pid > 0 && is_over(pid));
}

/* ---- what is called --------------------------------------------------------------------- */

static ssize_t reverse(const void *in, size_t in_size, void *out, size_t out_room)
{
    const char *from = in;
    char       *to = out;

    if (in_size > out_room)
        return -ENOSPC;
    for (size_t i = 0; i < in_size; i++)
        to[i] = from[in_size - 1 - i];
    return (ssize_t)in_size;
}

static ssize_t reverse_slowly(const void *in, size_t in_size, void *out, size_t out_room)
{
    for (int i = 0; i < 10000 && !atomic_load(&board->gate); i++)
        usleep(1000);
    return reverse(in, in_size, out, out_room);
}

/* A process of its own that goes on, too. */
static ssize_t hang(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in, (void)in_size, (void)out, (void)out_room;
    pid_t pid = fork();
    if (pid > 0) {
        atomic_store(&board->pids[1], pid);
        atomic_store(&board->pids[0], getpid());
    }
    for (int i = 0; i < 600; i++)
        usleep(100000);
    return 0;
}

static ssize_t be_ended_by(const void *in, size_t in_size, void *out, size_t out_room)
{
    int number = *(const int *)in;

    (void)in_size, (void)out, (void)out_room;
    if (number == SIGSEGV)
        *(volatile int *)16 = 1;
    if (number == SIGABRT)
        abort();
    raise(number);
    return 0;
}

static ssize_t leave_by_exit(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in_size, (void)out, (void)out_room;
    _exit(*(const int *)in);
}

static ssize_t return_it(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in_size, (void)out, (void)out_room;
    return *(const int *)in;
}

static weir_status call(weir_process_fn fn, int in, weir_deadline deadline, weir_error *err)
{
    return weir_offload_process(
        &(weir_process_call){ .fn = fn, .in = &in, .in_size = sizeof in }, deadline, err);
}

/* ---- bytes ------------------------------------------------------------------------------ */

static weir_status open_the_gate(void *arg)
{
    int *ticks = arg;

    for (*ticks = 0; *ticks < 5; ++*ticks)
        sleep_ms(2);
    atomic_store(&board->gate, 1);
    return WEIR_OK;
}

static weir_status exchange_bytes(void *arg)
{
    char              out[16] = "";
    int               ticks = 0;
    weir_process_call call = { .fn = reverse_slowly, .in = "weir", .in_size = 4, .out = out,
                               .out_room = sizeof out };
    weir_error        err = { .status = WEIR_OK };

    (void)arg;
    weir_spawn(NULL, open_the_gate, &ticks);
    errno = EPIPE;
    HOLDS_EQ(weir_offload_process(&call, weir_in_ms(20000), &err), WEIR_OK);
    HOLDS_EQ(call.out_size, 4);
    HOLDS(strcmp(out, "riew") == 0);
    HOLDS_EQ(ticks, 5); /* the hub went on meanwhile */
    HOLDS(call.pid > 0 && call.pid != getpid());
    HOLDS(WIFEXITED(call.wait_status) && WEXITSTATUS(call.wait_status) == 0);

    /* No bytes at all, and many. */
    call = (weir_process_call){ .fn = reverse };
    HOLDS_EQ(weir_offload_process(&call, WEIR_FOREVER, &err), WEIR_OK);
    HOLDS_EQ(call.out_size, 0);
    enum { MANY = 3 << 20 };
    char *many = malloc(MANY), *back = calloc(1, MANY);
    for (int i = 0; i < MANY; i++)
        many[i] = (char)(i * 31 + i / 255);
    call = (weir_process_call){ .fn = reverse, .in = many, .in_size = MANY, .out = back,
                                .out_room = MANY };
    HOLDS_EQ(weir_offload_process(&call, WEIR_FOREVER, &err), WEIR_OK);
    HOLDS_EQ(call.out_size, MANY);
    int wrong = 0;
    for (int i = 0; i < MANY; i++)
        wrong += back[i] != many[MANY - 1 - i];
    HOLDS_EQ(wrong, 0);
    free(many);
    free(back);
    return WEIR_OK;
}

static void bytes_go_in_and_come_out_while_the_hub_goes_on(void **state)
{
    (void)state;
    run_real(exchange_bytes, NULL);
}

static void outside_of_a_coroutine_it_blocks(void **state)
{
    char              out[4];
    weir_process_call call = { .fn = reverse, .in = "abc", .in_size = 3, .out = out,
                               .out_room = sizeof out };

    (void)state;
    assert_int_equal(weir_offload_process(&call, weir_in_ms(20000), NULL), WEIR_OK);
    assert_memory_equal(out, "cba", 3);
}

static int unseen = 1;

static ssize_t change_and_tell(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in, (void)in_size, (void)out_room;
    unseen++;
    memcpy(out, &unseen, sizeof unseen);
    return sizeof unseen;
}

static weir_status call_twice(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2; i++) {
        int               told = 0;
        weir_process_call call = { .fn = change_and_tell, .out = &told, .out_room = sizeof told };
        HOLDS_EQ(weir_offload_process(&call, WEIR_FOREVER, NULL), WEIR_OK);
        HOLDS_EQ(told, 2);
    }
    HOLDS_EQ(unseen, 1);
    return WEIR_OK;
}

static void what_a_helper_changes_nobody_else_sees(void **state)
{
    (void)state;
    run_real(call_twice, NULL);
}

static ssize_t call_from_inside(const void *in, size_t in_size, void *out, size_t out_room)
{
    weir_process_call call = { .fn = change_and_tell, .in = in, .in_size = in_size, .out = out,
                               .out_room = out_room };

    if (weir_offload_process(&call, WEIR_FOREVER, NULL) != WEIR_OK || unseen != 2 ||
        call.pid != getpid())
        return -1;
    return weir_sleep(weir_in_ms(1)) == WEIR_OK ? (ssize_t)call.out_size : -2; /* it blocks */
}

static weir_status call_inside(void *arg)
{
    int               told = 0;
    weir_process_call call = { .fn = call_from_inside, .out = &told, .out_room = sizeof told };

    (void)arg;
    HOLDS_EQ(weir_offload_process(&call, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(told, 2);
    return WEIR_OK;
}

static void a_call_made_in_a_helper_runs_there(void **state)
{
    (void)state;
    run_real(call_inside, NULL);
}

/* A library that was not there when the fork server was made. */
static weir_status call_library(void *arg)
{
    char              out[8];
    weir_process_call call = { .fn = *(weir_process_fn *)arg, .in = "late", .in_size = 4,
                               .out = out, .out_room = sizeof out };
    weir_error        err = { .status = WEIR_OK };

    HOLDS_EQ(weir_offload_process(&call, weir_in_ms(20000), &err), WEIR_OK);
    HOLDS_EQ(call.out_size, 4);
    HOLDS(memcmp(out, "LATE", 4) == 0);
    return WEIR_OK;
}

static void a_library_loaded_since_is_loaded_there_too(void **state)
{
    void *library = dlopen(LATE_LIBRARY, RTLD_NOW);

    (void)state;
    assert_non_null(library);
    void *fn = dlsym(library, "blocking_upper_case");
    assert_non_null(fn);
    run_real(call_library, &fn);
    dlclose(library);
}

/* ---- ends ------------------------------------------------------------------------------- */

static weir_status end_badly(void *arg)
{
    char       wanted[100];
    weir_error err;

    (void)arg;
    HOLDS_EQ(call(be_ended_by, SIGSEGV, WEIR_FOREVER, &err), WEIR_FAILED);
    HOLDS(strstr(err.message, " was ended by signal 11 (SIGSEGV)") != NULL);
    HOLDS_EQ(err.native, SIGSEGV);
    HOLDS_EQ(call(be_ended_by, SIGABRT, WEIR_FOREVER, &err), WEIR_FAILED);
    HOLDS(strstr(err.message, " was ended by signal 6 (SIGABRT)") != NULL);
    HOLDS_EQ(call(be_ended_by, SIGKILL, WEIR_FOREVER, &err), WEIR_FAILED);
    HOLDS(strstr(err.message, " was ended by signal 9 (SIGKILL)") != NULL);
    HOLDS_EQ(call(be_ended_by, SIGTERM, WEIR_FOREVER, &err), WEIR_FAILED); /* none is blocked */
    HOLDS(strstr(err.message, " was ended by signal 15 (SIGTERM)") != NULL);

    for (int code = 0; code < 8; code += 7) {
        HOLDS_EQ(call(leave_by_exit, code, WEIR_FOREVER, &err), WEIR_FAILED);
        snprintf(wanted, sizeof wanted, " exited with status %d before its function had returned",
                 code);
        HOLDS(strstr(err.message, wanted) != NULL);
        HOLDS_EQ(err.native, code);
    }

    HOLDS_EQ(call(return_it, -ENOENT, WEIR_FOREVER, &err), WEIR_FAILED);
    HOLDS_EQ(err.native, ENOENT);
    HOLDS(strstr(err.message, "the function returned -2 in helper process ") != NULL);
    HOLDS_EQ(call(return_it, 9, WEIR_FOREVER, &err), WEIR_FAILED);
    HOLDS(strcmp(err.message, "the function says it wrote 9 bytes, and had room for 0") == 0);
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, NULL), WEIR_OK); /* the next one is well */
    return WEIR_OK;
}

static void how_a_helper_ended_is_said(void **state)
{
    (void)state;
    run_real(end_badly, NULL);
}

static void what_no_call_can_be_is_refused(void **state)
{
    weir_error err;

    (void)state;
    assert_int_equal(weir_offload_process(&(weir_process_call){ .in_size = 0 }, WEIR_NOW, &err),
                     WEIR_USAGE);
    assert_int_equal(
        weir_offload_process(&(weir_process_call){ .fn = reverse, .in_size = 1 }, WEIR_NOW, &err),
        WEIR_USAGE);
    assert_non_null(strstr(err.message, "in and out"));
    assert_int_equal(weir_offload_process(&(weir_process_call){ .fn = reverse, .in = "", .in_size =
                                                                    (size_t)2 << 30 },
                                          WEIR_NOW, &err),
                     WEIR_USAGE);
    assert_non_null(strstr(err.message, "1 GiB"));
}

/* ---- giving up -------------------------------------------------------------------------- */

static weir_status give_up_late(void *arg)
{
    weir_process_call  slow = { .fn = hang };
    weir_process_stats before, after;
    weir_error         err;

    (void)arg;
    weir_process_stats_read(&before);
    HOLDS_EQ(weir_offload_process(&slow, weir_in_ms(300), &err), WEIR_TIMEOUT);
    HOLDS(strstr(err.message, "(TIMEOUT), and had it killed") != NULL);
    /* It is gone, and reaped; what it had started goes with it. */
    HOLDS_EQ(board->pids[0], slow.pid);
    HOLDS(kill(slow.pid, 0) != 0 && errno == ESRCH);
    HOLDS(WIFSIGNALED(slow.wait_status) && WTERMSIG(slow.wait_status) == SIGKILL);
    await_over(board->pids[1]);
    weir_process_stats_read(&after);
    HOLDS_EQ(after.killed, before.killed + 1);
    HOLDS_EQ(after.running, 0);
    return WEIR_OK;
}

static void a_helper_that_is_too_late_is_killed_and_reaped(void **state)
{
    (void)state;
    run_real(give_up_late, NULL);
}

static weir_status call_hang(void *arg)
{
    weir_error  err;
    weir_status status = weir_offload_process(&(weir_process_call){ .fn = hang }, WEIR_FOREVER,
                                              &err);

    (void)arg;
    HOLDS_EQ(err.status, status);
    return status;
}

static weir_status cancel_a_call(void *arg)
{
    weir_group *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *task = weir_spawn(group, call_hang, NULL);
    for (int i = 0; i < 10000 && !board->pids[0]; i++)
        sleep_ms(1);
    weir_status result = WEIR_OK;
    HOLDS_EQ(weir_stop(task, weir_in_ms(20000), &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_CANCELED);
    HOLDS(kill(board->pids[0], 0) != 0 && errno == ESRCH);
    await_over(board->pids[1]);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_cancel_kills_the_helper(void **state)
{
    (void)state;
    run_real(cancel_a_call, NULL);
}

/* ---- how many --------------------------------------------------------------------------- */

static ssize_t count_me(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in_size, (void)out, (void)out_room;
    int now = atomic_fetch_add(&board->now, 1) + 1, seen = atomic_load(&board->most);
    while (now > seen && !atomic_compare_exchange_weak(&board->most, &seen, now))
        continue;
    atomic_store(&board->order[atomic_fetch_add(&board->begun, 1)], *(const int *)in);
    for (int i = 0; i < 10000 && !atomic_load(&board->gate); i++)
        usleep(1000);
    atomic_fetch_sub(&board->now, 1);
    return 0;
}

static weir_status call_count_me(void *arg)
{
    return call(count_me, *(int *)arg, WEIR_FOREVER, NULL);
}

static weir_status call_many(void *arg)
{
    int                numbers[6] = { 1, 2, 3, 4, 5, 6 };
    weir_group        *group = NULL;
    weir_process_stats stats;
    weir_error         err;
    weir_task         *tasks[6];

    (void)arg;
    weir_process_limit(2);
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < 6; i++)
        tasks[i] = weir_spawn(group, call_count_me, &numbers[i]);
    await(&board->begun, 2);
    weir_process_stats_read(&stats);
    HOLDS_EQ(stats.running, 2);
    HOLDS_EQ(stats.waiting, 4);
    HOLDS_EQ(stats.max_running, 2);
    HOLDS_EQ(call(count_me, 9, weir_in_ms(20), &err), WEIR_TIMEOUT);
    HOLDS(strstr(err.message, "gave up waiting for a place") != NULL);
    weir_cancel(tasks[3]);
    HOLDS_EQ(weir_join(tasks[3], weir_in_ms(10000), NULL), WEIR_OK);
    atomic_store(&board->gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(20000)), WEIR_CANCELED);
    HOLDS_EQ(weir_group_failed(group), 1);
    HOLDS_EQ(board->begun, 5); /* neither the late one nor the cancelled one */
    HOLDS_EQ(board->most, 2);
    for (int i = 0; i < board->begun; i++)
        HOLDS(board->order[i] != 4 && board->order[i] != 9);
    weir_group_free(group);
    return WEIR_OK;
}

static void no_more_helpers_run_than_allowed(void **state)
{
    (void)state;
    run_real(call_many, NULL);
}

static weir_status raise_the_limit(void *arg)
{
    int         numbers[3] = { 1, 2, 3 };
    weir_group *group = NULL;

    (void)arg;
    weir_process_limit(1);
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < 3; i++)
        weir_spawn(group, call_count_me, &numbers[i]);
    await(&board->begun, 1);
    weir_process_limit(3);
    await(&board->begun, 3);
    atomic_store(&board->gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(20000)), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void who_waits_begins_when_the_limit_is_raised(void **state)
{
    (void)state;
    run_real(raise_the_limit, NULL);
}

/* ---- descriptors ------------------------------------------------------------------------ */

/* Which are open, but for the one that is needed to see them; and what 0 is. */
static ssize_t list_descriptors(const void *in, size_t in_size, void *out, size_t out_room)
{
    char *text = out;
    char  path[64];

    (void)in, (void)in_size;
    ssize_t length = readlink("/proc/self/fd/0", path, sizeof path);
    text[0] = '\0';
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            snprintf(text + strlen(text), out_room - strlen(text), "%d ", fd);
    snprintf(text + strlen(text), out_room - strlen(text), "%.*s", (int)length, path);
    return (ssize_t)strlen(text) + 1;
}

static weir_status look_at_descriptors(void *arg)
{
    char text[512] = "";
    int  ends[2], byte;

    (void)arg;
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    weir_process_call call = { .fn = list_descriptors, .out = text, .out_room = sizeof text };
    HOLDS_EQ(weir_offload_process(&call, weir_in_ms(20000), NULL), WEIR_OK);
    if (strcmp(text, "0 1 2 /dev/null") != 0)
        unit_note(WEIR_HERE, text, 0, 0, false);
    /* Ours are as they were: no byte, and not at their end. */
    HOLDS(recv(ends[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    close(ends[0]);
    close(ends[1]);
    return WEIR_OK;
}

static void a_helper_has_no_descriptor_but_the_first_three(void **state)
{
    (void)state;
    run_real(look_at_descriptors, NULL);
}

static ssize_t say_something(const void *in, size_t in_size, void *out, size_t out_room)
{
    (void)in, (void)in_size, (void)out, (void)out_room;
    fprintf(stderr, "something\n");
    return 0;
}

static weir_status hear_something(void *arg)
{
    char text[64] = "";

    (void)arg;
    HOLDS_EQ(call(say_something, 0, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(read(stderr_of_helpers, text, sizeof text - 1), 10);
    HOLDS(strcmp(text, "something\n") == 0);
    return WEIR_OK;
}

static void what_a_helper_says_on_stderr_is_heard(void **state)
{
    (void)state;
    run_real(hear_something, NULL);
}

static weir_status call_without_descriptors(void *arg)
{
    struct rlimit before, tight;
    weir_error    err;

    (void)arg;
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, NULL), WEIR_OK);
    getrlimit(RLIMIT_NOFILE, &before);
    for (unsigned room = 0; room < 3; room++) { /* what is needed: memory, and two ends */
        int last = dup(0);
        close(last);
        tight = before;
        tight.rlim_cur = (rlim_t)last + room;
        HOLDS_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
        HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, &err), WEIR_NOMEM);
        setrlimit(RLIMIT_NOFILE, &before);
        HOLDS_EQ(err.native, EMFILE);
        HOLDS(strstr(err.message, "for a helper process: Too many open files") != NULL);
    }
    weir_process_stats stats;
    weir_process_stats_read(&stats);
    HOLDS_EQ(stats.running, 0);
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, NULL), WEIR_OK);
    return WEIR_OK;
}

static void without_descriptors_it_says_so_and_loses_nothing(void **state)
{
    (void)state;
    if (under_valgrind()) /* it keeps some of them for itself, and says so in its own way */
        skip();
    run_real(call_without_descriptors, NULL);
}

/* ---- the fork server -------------------------------------------------------------------- */

static void call_on_a_thread(void *arg)
{
    *(weir_status *)arg = call(return_it, 0, weir_in_ms(20000), NULL);
}

static weir_status call_from_threads(void *arg)
{
    weir_status status = WEIR_FAILED;

    (void)arg;
    HOLDS_EQ(weir_offload(call_on_a_thread, &status, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(status, WEIR_OK);
    return WEIR_OK;
}

static void it_can_be_called_on_any_thread(void **state)
{
    (void)state;
    run_real(call_from_threads, NULL);
}

static pid_t server_now(void)
{
    weir_process_stats stats;

    weir_process_stats_read(&stats);
    return stats.server;
}

static void *be_a_thread(void *arg)
{
    atomic_int *gate = arg;

    for (int i = 0; i < 20000 && !atomic_load(gate); i++)
        usleep(1000);
    return NULL;
}

static weir_status kill_the_server(void *arg)
{
    weir_error  err;
    pid_t       before = server_now();
    weir_group *group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn(group, call_hang, NULL);
    for (int i = 0; i < 10000 && !board->pids[0]; i++)
        sleep_ms(1);
    kill(before, SIGKILL);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(20000)), WEIR_LOST);
    weir_group_free(group);
    await_over(board->pids[0]);

    /* With a thread of the application's none is made anew but on its demand. */
    atomic_int gate = 0;
    pthread_t  thread;
    HOLDS_EQ(pthread_create(&thread, NULL, be_a_thread, &gate), 0);
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, &err), WEIR_USAGE);
    HOLDS(strstr(err.message, "call weir_process_start() in main()") != NULL);
    atomic_store(&gate, 1);
    pthread_join(thread, NULL);
    HOLDS_EQ(weir_process_start(&err), WEIR_OK);
    HOLDS(server_now() != before);
    pid_t second = server_now();
    HOLDS_EQ(weir_process_start(&err), WEIR_OK); /* once is enough */
    HOLDS_EQ(server_now(), second);
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, NULL), WEIR_OK);
    kill(board->pids[1], SIGKILL); /* nobody was left to kill what the helper had started */
    await_over(board->pids[1]);
    return WEIR_OK;
}

static void a_fork_server_that_is_killed_is_told_and_replaced(void **state)
{
    (void)state;
    run_real(kill_the_server, NULL);
}

static weir_status replace_the_server(void *arg)
{
    pid_t before = server_now();

    (void)arg;
    sleep_ms(1); /* the thread of before is counted until it has ended */
    kill(before, SIGKILL);
    await_over(before);
    /* Nobody has noticed yet. */
    for (int i = 0; i < 5000 && weir_offload_process(&(weir_process_call){ .fn = reverse },
                                                     WEIR_FOREVER, NULL) == WEIR_USAGE; i++)
        sleep_ms(1);
    HOLDS(server_now() > 0 && server_now() != before);
    return WEIR_OK;
}

static void a_process_alone_gets_a_new_fork_server_by_itself(void **state)
{
    (void)state;
    if (WITH_TSAN) /* it has a thread of its own, which may hold anything */
        skip();
    run_real(replace_the_server, NULL);
}

static weir_status fork_and_call(void *arg)
{
    pid_t before = server_now();
    int   status = -1;

    (void)arg;
    pid_t pid = weir_fork();
    if (pid == 0) {
        bool good = server_now() == 0 && weir_process_start(NULL) == WEIR_OK &&
                    server_now() != before && call(return_it, 0, WEIR_FOREVER, NULL) == WEIR_OK;
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < 20000 && waitpid(pid, &status, WNOHANG) == 0; i++)
        sleep_ms(1);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    HOLDS_EQ(server_now(), before);
    HOLDS_EQ(call(return_it, 0, WEIR_FOREVER, NULL), WEIR_OK);
    return WEIR_OK;
}

static void the_child_of_a_fork_has_a_fork_server_of_its_own(void **state)
{
    (void)state;
    if (WITH_TSAN) /* no thread is made in the child of a process that had some */
        skip();
    run_real(fork_and_call, NULL);
}

static weir_status hang_as_a_service(void *arg)
{
    (void)arg;
    return call(hang, 0, WEIR_FOREVER, NULL);
}

static void when_the_service_is_killed_nothing_of_it_is_left(void **state)
{
    (void)state;
    pid_t service = fork();
    if (service == 0) {
        (void)weir_process_start(NULL);
        atomic_store(&board->pids[2], server_now());
        (void)weir_run(hang_as_a_service, NULL);
        _exit(1);
    }
    for (int i = 0; i < 10000 && !board->pids[0]; i++)
        usleep(1000);
    assert_true(board->pids[0] > 0 && board->pids[2] > 0);
    assert_int_not_equal(board->pids[2], server_now());
    kill(service, SIGKILL);
    assert_int_equal(waitpid(service, NULL, 0), service);
    await_over(board->pids[2]);
    await_over(board->pids[0]);
    await_over(board->pids[1]);
    assert_notes();
}

/* With room for two helpers in its table of descriptors, and an order for a third. */
static weir_status call_too_many(void *arg)
{
    int         numbers[2] = { 1, 2 };
    weir_group *group = NULL;
    weir_error  err;

    (void)arg;
    if (weir_group_new(NULL, &group, NULL) != WEIR_OK)
        return WEIR_NOMEM;
    for (int i = 0; i < 2; i++)
        weir_spawn(group, call_count_me, &numbers[i]);
    for (int i = 0; i < 10000 && board->begun < 2; i++)
        sleep_ms(1);
    bool good = call(return_it, 0, weir_in_ms(10000), &err) == WEIR_NOMEM && err.native == EMFILE;
    atomic_store(&board->gate, 1);
    good = good && weir_group_wait(group, weir_in_ms(10000)) == WEIR_OK;
    good = good && call(return_it, 0, weir_in_ms(10000), &err) == WEIR_OK;
    weir_group_free(group);
    return good ? WEIR_OK : WEIR_FAILED;
}

static void a_fork_server_short_of_descriptors_says_so(void **state)
{
    (void)state;
    pid_t service = fork();
    if (service == 0) {
        struct rlimit before, tight;
        signal(SIGCHLD, SIG_IGN); /* as some services have it; the server must not */
        getrlimit(RLIMIT_NOFILE, &before);
        tight = before;
        tight.rlim_cur = 12;
        bool good = setrlimit(RLIMIT_NOFILE, &tight) == 0 && weir_process_start(NULL) == WEIR_OK;
        setrlimit(RLIMIT_NOFILE, &before);
        good = good && weir_run(call_too_many, NULL) == WEIR_OK;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(service, &status, 0), service);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void it_is_no_child_of_ours(void **state)
{
    (void)state;
    assert_true(server_now() > 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

/* ---- before all ------------------------------------------------------------------------- */

static bool prepare(void)
{
    int ends[2], before = dup(STDERR_FILENO);

    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || pipe2(ends, O_CLOEXEC) != 0 || before < 0)
        return false;
    stderr_of_helpers = ends[0];
    dup2(ends[1], STDERR_FILENO);
    bool good = weir_process_start(NULL) == WEIR_OK;
    dup2(before, STDERR_FILENO);
    close(before);
    close(ends[1]);
    return good;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HELPERS(bytes_go_in_and_come_out_while_the_hub_goes_on),
        HELPERS(outside_of_a_coroutine_it_blocks),
        HELPERS(what_a_helper_changes_nobody_else_sees),
        HELPERS(a_call_made_in_a_helper_runs_there),
        HELPERS(a_library_loaded_since_is_loaded_there_too),
        HELPERS(how_a_helper_ended_is_said),
        HELPERS(what_no_call_can_be_is_refused),
        HELPERS(a_helper_that_is_too_late_is_killed_and_reaped),
        HELPERS(a_cancel_kills_the_helper),
        HELPERS(no_more_helpers_run_than_allowed),
        HELPERS(who_waits_begins_when_the_limit_is_raised),
        HELPERS(a_helper_has_no_descriptor_but_the_first_three),
        HELPERS(what_a_helper_says_on_stderr_is_heard),
        HELPERS(without_descriptors_it_says_so_and_loses_nothing),
        HELPERS(it_can_be_called_on_any_thread),
        HELPERS(it_is_no_child_of_ours),
        HELPERS(a_fork_server_short_of_descriptors_says_so),
        HELPERS(the_child_of_a_fork_has_a_fork_server_of_its_own),
        HELPERS(when_the_service_is_killed_nothing_of_it_is_left),
        /* from here on their stderr is that of this program */
        HELPERS(a_fork_server_that_is_killed_is_told_and_replaced),
        HELPERS(a_process_alone_gets_a_new_fork_server_by_itself),
    };

    if (!prepare()) {
        fprintf(stderr, "test_coro_helper: no fork server\n");
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
