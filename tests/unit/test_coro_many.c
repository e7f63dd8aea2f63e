/*
 * test_coro_many.c - very many coroutines at once: what each costs, and what they leave behind.
 *
 * What fills the process's mappings does so in a child process.
 */
#include "coro_unit.h"

#include "hub.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <weir/sync.h>

enum {
    GUARD_INSTALL = 102, /* MADV_GUARD_INSTALL, which this libc's headers need not know */
    MANY = 100000,
    MILLION = 1000000,
    ENOUGH_MIB = 8192, /* what a million needs, with their page tables, and room for others */
    KEPT_FREE = 4096   /* stacks, as stack.c has it */
};

/* ---- memory ------------------------------------------------------------------------- */

/* A line of one of the kernel's tables, such as "VmRSS:", in KiB; -1 where there is none. */
static long kib_of(const char *table, const char *line)
{
    char  text[256];
    long  kib = -1;
    FILE *file = fopen(table, "r");

    if (!file)
        return -1;
    while (kib < 0 && fgets(text, sizeof text, file))
        if (strncmp(text, line, strlen(line)) == 0)
            kib = strtol(text + strlen(line), NULL, 10);
    fclose(file);
    return kib;
}

static long resident_kib(void)
{
    return kib_of("/proc/self/status", "VmRSS:");
}

static long tables_kib(void)
{
    return kib_of("/proc/self/status", "VmPTE:");
}

/* Bytes of each: all there are, and those of its records, which stay until the hub ends. With
   glibc's contexts a task's record holds all the registers: a kilobyte more. */
#ifdef WEIR_CONTEXT_UCONTEXT
enum { BYTES_EACH = 5632, RECORDS_EACH = 1500 };
#else
enum { BYTES_EACH = 4608, RECORDS_EACH = 500 };
#endif

static bool has_light_guards(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool  has = madvise(page, 4096, GUARD_INSTALL) == 0;

    munmap(page, 4096);
    return has;
}

/* The kernel says without a signal where we may not write. */
static bool out_of_bounds(char *at)
{
    return getrandom(at, 1, GRND_NONBLOCK) < 0 && errno == EFAULT;
}

/* ---- a crowd ------------------------------------------------------------------------ */

struct crowd {
    int        count, parked, guarded;
    weir_event gate; /* all of them wait for it */
};

static weir_status stand_above_a_guard(void *arg)
{
    struct crowd *crowd = arg;
    char         *low = weir_self()->stack->low;

    crowd->guarded += !out_of_bounds(low) && out_of_bounds(low - 1) && out_of_bounds(low - 4096);
    crowd->parked++;
    return weir_event_wait(&crowd->gate, WEIR_FOREVER);
}

/* Without a look at the lowest page, which would make that resident. */
static weir_status stand(void *arg)
{
    struct crowd *crowd = arg;

    crowd->parked++;
    return weir_event_wait(&crowd->gate, WEIR_FOREVER);
}

static weir_group *gather(struct crowd *crowd, weir_fn fn)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, NULL), 0);
    crowd->parked = crowd->guarded = 0;
    for (int i = 0; i < crowd->count; i++) {
        if (!weir_spawn(group, fn, crowd))
            break;
    }
    world_settle();
    HOLDS_EQ(crowd->parked, crowd->count);
    return group;
}

static void send_home(struct crowd *crowd, weir_group *group)
{
    weir_event_set(&crowd->gate);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_event_clear(&crowd->gate);
    weir_group_free(group);
}

static weir_status stand_guarded(void *arg)
{
    struct crowd *crowd = arg;
    weir_group   *group = gather(crowd, stand_above_a_guard);

    HOLDS_EQ(crowd->guarded, crowd->count);
    send_home(crowd, group);
    return WEIR_OK;
}

static void a_hundred_thousand_stand_each_above_a_guard(void **state)
{
    struct crowd crowd = { .count = as_many_as(MANY, 2000) };

    (void)state;
    if (!has_light_guards() && crowd.count > 20000)
        crowd.count = 20000; /* vm.max_map_count ends it at 32,753 */
    run_world(stand_guarded, &crowd);
}

/* ---- what they cost, and what they leave ---------------------------------------------- */

static void weigh(const struct crowd *crowd, long before, long tables_before)
{
    long resident = resident_kib() - before, tables = tables_kib() - tables_before;

    print_message("%d parked: %.0f bytes resident each, and %.0f of page tables\n", crowd->count,
                  (double)resident * 1024 / crowd->count, (double)tables * 1024 / crowd->count);
    HOLDS(resident * 1024 / crowd->count >= 4096); /* else we measure something else */
    HOLDS(resident * 1024 / crowd->count <= BYTES_EACH);
    HOLDS(tables * 1024 / crowd->count < 640);
}

static weir_status come_twice_and_go(void *arg)
{
    struct crowd *crowd = arg;
    long          before = resident_kib(), tables = tables_kib();
    long          records = (long)crowd->count * RECORDS_EACH / 1024;

    for (int round = 0; round < 2; round++) {
        weir_group *group = gather(crowd, stand);
        weigh(crowd, before, tables);
        send_home(crowd, group);
        world_settle(); /* the slab the last one stood on goes with the next to end */
        print_message("%d gone: %ld MiB stay until the hub ends\n", crowd->count,
                      (resident_kib() - before) / 1024);
        HOLDS(resident_kib() - before < KEPT_FREE * 5 + records);
        HOLDS(tables_kib() - tables < KEPT_FREE * 640 / 1024 + records / 100 + 256);
    }
    return WEIR_OK;
}

static void come_and_go(int count)
{
    struct crowd crowd = { .count = count };
    long         before = resident_kib();

    run_world(come_twice_and_go, &crowd);
    /* Then only the records of slabs are left, and what glibc's heap keeps at its end: twice the
       largest block that was ever mapped apart, at most 64 MiB (mallopt(3)). */
    long left = resident_kib() - before;
    print_message("%d gone, and their hub: %ld MiB stay\n", count, left / 1024);
    assert_true(left < count * 64L / 1024 + 66 * 1024);
}

static void a_hundred_thousand_are_cheap_and_their_memory_is_given_back(void **state)
{
    (void)state;
    if (context_is_watched() || !has_light_guards()) {
        print_message("skipped: under a checking tool memory is its own, and without "
                      "MADV_GUARD_INSTALL (Linux 6.13) there cannot be so many\n");
        skip();
    }
    come_and_go(MANY);
}

static void a_million_are_cheap_and_their_memory_is_given_back(void **state)
{
    long free_mib = kib_of("/proc/meminfo", "MemAvailable:") / 1024;

    (void)state;
    if (context_is_watched() || !has_light_guards() || free_mib < ENOUGH_MIB) {
        print_message("skipped: a million need %d MiB (%ld are free), Linux 6.13, and no "
                      "checking tool\n", ENOUGH_MIB, free_mib);
        skip();
    }
    come_and_go(MILLION);
}

/* ---- one that stays --------------------------------------------------------------------- */

struct pinned {
    struct crowd crowd;
    weir_event   over;
    int          woken;
};

static weir_status remember_something(void *arg)
{
    struct pinned *pinned = arg;
    volatile char  here[256];

    memset((char *)here, 42, sizeof here);
    weir_status status = weir_event_wait(&pinned->over, WEIR_FOREVER);
    for (size_t i = 0; i < sizeof here; i++)
        HOLDS_EQ(here[i], 42); /* it would have faulted, had its stack gone */
    pinned->woken++;
    return status;
}

/* Slabs come and go around those who stay: each keeps his own. */
static weir_status some_stay(void *arg)
{
    struct pinned *pinned = arg;
    weir_group    *staying = NULL;

    HOLDS_EQ(weir_group_new(NULL, &staying, NULL), WEIR_OK);
    for (int round = 0; round < 5; round++) {
        weir_group *half = gather(&pinned->crowd, stand);
        weir_spawn(staying, remember_something, pinned);
        weir_event_clear(&pinned->crowd.gate);
        weir_group *other = gather(&pinned->crowd, stand);
        send_home(&pinned->crowd, half);
        HOLDS_EQ(weir_group_wait(other, WEIR_FOREVER), WEIR_OK); /* the same gate */
        weir_group_free(other);
    }
    weir_event_set(&pinned->over);
    HOLDS_EQ(weir_group_wait(staying, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(pinned->woken, 5);
    weir_group_free(staying);
    return WEIR_OK;
}

static void who_stays_keeps_his_stack_while_the_crowd_comes_and_goes(void **state)
{
    /* More than are kept where that can be; TSan has room for 8,000, valgrind has no time. */
#ifdef CONTEXT_ASAN
    struct pinned pinned = { .crowd.count = 6000 };
#else
    struct pinned pinned = { .crowd.count = as_many_as(6000, 600) };
#endif

    (void)state;
    run_world(some_stay, &pinned);
}

/* ---- without lightweight guards ----------------------------------------------------------- */

/* As an older kernel: EINVAL for an advice it does not know. */
static void forget_light_guards(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GUARD_INSTALL, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof rules / sizeof *rules, rules };

    HOLDS_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    HOLDS_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    HOLDS(!has_light_guards());
}

static weir_status spawn_until_refused(void *arg)
{
    struct crowd *crowd = arg;
    weir_group   *group = NULL;
    int           spawned = 0;

    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, NULL), 0);
    while (spawned < MANY && weir_spawn(group, stand_above_a_guard, crowd))
        spawned++;
    weir_yield();
    HOLDS(spawned > 20000 && spawned < 33000);
    HOLDS_EQ(crowd->guarded, spawned); /* nobody runs without */
    HOLDS_EQ(crowd->parked, spawned);
    weir_event_set(&crowd->gate);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_NOMEM);
    weir_group_free(group);
    return WEIR_OK;
}

/* Runs in the child; what it says on standard error is read by the parent. */
static int fill_the_mappings(void)
{
    struct crowd crowd = { .count = 0 };

    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
    alarm(120);
    forget_light_guards();
    HOLDS_EQ(weir_run(spawn_until_refused, &crowd), WEIR_OK);
    if (unit_notes.broken)
        fprintf(stderr, "noted: %s\n", unit_notes.first);
    return unit_notes.broken ? 1 : 0;
}

static void read_all(int fd, char *text, size_t size)
{
    size_t  length = 0;
    ssize_t n;

    while (length < size - 1 && (n = read(fd, text + length, size - 1 - length)) > 0)
        length += (size_t)n;
    text[length] = '\0';
}

static void where_each_guard_is_a_mapping_the_limit_is_told_with_its_cure(void **state)
{
    char said[8192];
    int  ends[2], status;

    (void)state;
    if (context_is_watched() || kib_of("/proc/sys/vm/max_map_count", "") != 65530) {
        print_message("skipped: this wants the kernel's own vm.max_map_count, 65530, and no "
                      "checking tool\n");
        skip();
    }
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        _exit(fill_the_mappings());
    }
    close(ends[1]);
    read_all(ends[0], said, sizeof said);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("status %d: %s", status, said);
    assert_non_null(strstr(said, "no memory for a coroutine stack of 256 KiB"));
    assert_non_null(strstr(said, "vm.max_map_count limits those: raise it, or bound the group"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_hundred_thousand_stand_each_above_a_guard),
        TEST(a_hundred_thousand_are_cheap_and_their_memory_is_given_back),
        TEST(a_million_are_cheap_and_their_memory_is_given_back),
        TEST(who_stays_keeps_his_stack_while_the_crowd_comes_and_goes),
        TEST(where_each_guard_is_a_mapping_the_limit_is_told_with_its_cure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
