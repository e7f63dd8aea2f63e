/*
 * What the hot path costs, pinned: no memory and no system call.
 *
 * Memory is counted by the linker's --wrap (support/scarce.h). System calls are forbidden: a
 * process of its own allows itself none but its end (seccomp), and is killed where it makes one.
 * That this would be noticed is tried out too.
 */
#include "pool_scene.h"
#include "scarce.h"

#include "pool.h"
#include "under_valgrind.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Fewer than the work after which a coroutine gives way (WEIR_UNITS): then the loop would poll. */
enum { CYCLES = 1000, FAILED = 3, REFUSED = 4 };

/* ---- what is pinned ------------------------------------------------------------------------ */

static struct scene *stage_now;

static void take_and_give_back(void)
{
    for (int i = 0; i < CYCLES; i++) {
        weir_lease *lease;
        EXPECT_STATUS(weir_acquire(stage_now->pool, weir_in_ms(100), &lease, NULL), WEIR_OK);
        EXPECT_STATUS(weir_release(lease), WEIR_OK);
    }
}

static void take_local_ones(void)
{
    for (int i = 0; i < CYCLES / 2; i++) {
        weir_lease *lease, *again;
        EXPECT_STATUS(weir_local_lease(stage_now->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
        EXPECT_STATUS(weir_local_lease(stage_now->pool, WEIR_SCOPE, &again, NULL), WEIR_OK);
        EXPECT_STATUS(weir_release(again), WEIR_OK);
        EXPECT_STATUS(weir_release(lease), WEIR_OK);
    }
}

/* Two who take turns with the only connection: each wait is a switch and a hand-over. */
static int turns_left;

static weir_status take_turns(void *arg)
{
    (void)arg;
    while (turns_left-- > 0) {
        weir_lease *lease;
        EXPECT_STATUS(weir_acquire(stage_now->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
        (void)weir_yield();
        EXPECT_STATUS(weir_release(lease), WEIR_OK);
    }
    return WEIR_OK;
}

static void hand_over(void)
{
    turns_left = CYCLES;
    (void)weir_sleep(weir_in_ms(50));
    EXPECT(turns_left <= 0);
}

/* What is told without words, too. */
static void give_away(void)
{
    weir_lease *lease, *none;

    EXPECT_STATUS(weir_acquire(stage_now->pool, WEIR_SCOPE, &lease, NULL), WEIR_OK);
    EXPECT_STATUS(weir_lease_give(lease, weir_self()), WEIR_OK);
    EXPECT_STATUS(weir_acquire(stage_now->pool, WEIR_NOW, &none, NULL), WEIR_DEADLOCK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
}

static void prepare_nobody(struct scene *stage)
{
    (void)stage;
}

static weir_status start_taking_turns(void *arg)
{
    while (!turns_left)
        (void)weir_sleep(weir_in_ms(1));
    return take_turns(arg);
}

static void prepare_two(struct scene *stage)
{
    turns_left = 0;
    for (int i = 0; i < 2; i++)
        scene_spawn(stage, start_taking_turns, NULL);
    world_settle();
}

static const struct path {
    const char *name;
    void      (*prepare)(struct scene *stage);
    void      (*run)(void);
    bool        switches; /* which glibc's ucontext cannot do without a system call */
} paths[] = {
    { "acquire and release", prepare_nobody, take_and_give_back, false },
    { "local leases", prepare_nobody, take_local_ones, false },
    { "giving away, and a deadlock told", prepare_nobody, give_away, false },
    { "hand-overs", prepare_two, hand_over, true },
};

enum { PATHS = sizeof paths / sizeof *paths };

/* ---- memory -------------------------------------------------------------------------------- */

static const struct path *path;
static bool               spoilt; /* it makes one after all: is that noticed? */

static void warm_up(struct scene *stage)
{
    stage_now = stage;
    take_local_ones();
    path->prepare(stage);
}

static void *volatile kept;

static void count_memory(struct scene *stage)
{
    warm_up(stage);
    scarce_begin(0, NOBODY_FAILS);
    path->run();
    if (spoilt)
        kept = malloc(1);
    unsigned count = scarce_end();
    free(kept);
    kept = NULL;
    EXPECT_INT(count, spoilt ? 1 : 0);
}

static void the_hot_path_asks_for_no_memory(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * PATHS; i++) {
        path = &paths[i / 2];
        spoilt = i % 2;
        scene_play(path->name, count_memory, &(weir_pool_opts){ .max_size = 1 });
    }
}

/* ---- system calls --------------------------------------------------------------------------- */

static void allow_nothing_but_the_end(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        _exit(REFUSED);
}

static void run_without_calls(struct scene *stage)
{
    warm_up(stage);
    allow_nothing_but_the_end();
    path->run();
    if (spoilt)
        (void)syscall(SYS_getppid);
    _exit(expect_failures() ? FAILED : 0);
}

/* What became of a process that runs it: its wait status. */
static int forbid_calls(void)
{
    int   status = -1;
    pid_t pid = fork();

    if (pid == 0) {
        scene_play(path->name, run_without_calls, &(weir_pool_opts){ .max_size = 1 });
        _exit(FAILED);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static bool calls_can_be_forbidden(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#else
    return !under_valgrind();
#endif
}

static void the_hot_path_makes_no_system_call(void **state)
{
    (void)state;
    if (!calls_can_be_forbidden()) {
        print_message("a checking tool makes system calls of its own\n");
        skip();
    }
    for (int i = 0; i < PATHS; i++) {
#ifdef WEIR_CONTEXT_UCONTEXT
        if (paths[i].switches)
            continue;
#endif
        path = &paths[i];
        spoilt = false;
        int status = forbid_calls();
        if (WIFEXITED(status) && WEXITSTATUS(status) == REFUSED) {
            print_message("this machine has no seccomp to forbid them with\n");
            skip();
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            fail_msg("%s: its process ended with %#x", path->name, (unsigned)status);
        spoilt = true;
        status = forbid_calls();
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hot_path_asks_for_no_memory),
        cmocka_unit_test(the_hot_path_makes_no_system_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
