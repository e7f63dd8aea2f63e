/*
 * test_coro_stories.c - what users of gevent tell each other it is good for, told in C: on the
 * real clock, with real threads and processes, in the units of their stories or a tenth of them.
 *
 * On the clock that jumps, exactly to the millisecond, the first two are
 * thirty_calls_of_100_ms_take_100_ms and a_full_group_makes_its_spawner_wait (test_coro_group.c).
 * Two coroutines on one socket, the error that names both: a_second_reader_is_told_who_the_first_
 * one_is (test_coro_fd.c).
 *
 * That things went on side by side is told by counting how many did; times are only compared with
 * what they would be one after the other, for a busy machine stretches all of them.
 */
#define _GNU_SOURCE /* CPU_COUNT */
#include "blocking.h"
#include "coro_unit.h"
#include "under_valgrind.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <weir/offload.h>
#include <weir/process.h>

/* Seen by helper processes too. */
static struct board {
    atomic_int now, most;
} *board;

static void come(void)
{
    int now = atomic_fetch_add(&board->now, 1) + 1, seen = atomic_load(&board->most);

    while (now > seen && !atomic_compare_exchange_weak(&board->most, &seen, now))
        continue;
}

static void go(void)
{
    atomic_fetch_sub(&board->now, 1);
}

static int begin(void **state)
{
    memset(board, 0, sizeof *board);
    return unit_begin(state);
}

static void needs_threads_that_run_at_once(void)
{
    if (!under_valgrind())
        return;
    print_message("skipped: valgrind lets one thread run at a time\n");
    skip();
}

#define STORY(function) cmocka_unit_test_setup_teardown(function, begin, unit_end)

/* ---- tasks side by side ----------------------------------------------------------------- */

static weir_status wait_100_ms(void *arg)
{
    (void)arg;
    come();
    HOLDS_EQ(sleep_ms(100), WEIR_OK);
    go();
    return WEIR_OK;
}

static weir_status thirty_tasks(void *arg)
{
    weir_group_opts opts = { .max_running = *(unsigned *)arg };
    weir_group     *group = NULL;
    int64_t         before = real_ms(), spawned;

    HOLDS_EQ(weir_group_new(&opts, &group, NULL), WEIR_OK);
    for (int i = 0; i < 30; i++)
        HOLDS(weir_spawn(group, wait_100_ms, NULL) != NULL);
    spawned = real_ms() - before;
    HOLDS_EQ(board->most, opts.max_running); /* without a limit nobody has begun: it never waited */
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    int64_t took = real_ms() - before;
    HOLDS_EQ(weir_group_spawned(group), 30);
    HOLDS_EQ(weir_group_failed(group), 0);
    weir_group_free(group);
    if (opts.max_running) {
        HOLDS_EQ(board->most, opts.max_running);
        HOLDS(took >= 300);    /* three rounds of ten */
        HOLDS(spawned >= 200); /* the last ones waited for two of them */
    } else {
        HOLDS_EQ(board->most, 30);
    }
    HOLDS(took < 1500); /* in a row: 3000 */
    return WEIR_OK;
}

static void a_group_of_thirty_tasks_of_a_tenth_of_a_second(void **state)
{
    unsigned no_limit = 0;

    (void)state;
    run_real(thirty_tasks, &no_limit);
}

static void a_pool_of_ten_in_which_spawn_waits(void **state)
{
    unsigned ten = 10;

    (void)state;
    run_real(thirty_tasks, &ten);
}

/* ---- a pool of threads ------------------------------------------------------------------ */

static void block_50_ms(void *arg)
{
    come();
    *(int *)arg = blocking_sleep_ms(50);
    go();
}

static weir_status twenty_jobs(void *arg)
{
    enum { JOBS = 20, THREADS = 4, LINE = 2 };
    weir_offload_opts  opts = { .max_threads = THREADS, .max_queued = LINE };
    weir_offload_pool *pool = NULL;
    weir_job          *jobs[JOBS];
    int                results[JOBS];
    int64_t            before = real_ms();

    (void)arg;
    HOLDS_EQ(weir_offload_pool_new(&opts, &pool, NULL), WEIR_OK);
    for (int i = 0; i < JOBS; i++) {
        HOLDS_EQ(weir_offload_spawn(pool, block_50_ms, &results[i], WEIR_FOREVER, &jobs[i], NULL),
                 WEIR_OK);
        weir_offload_stats stats;
        weir_offload_pool_stats(pool, &stats);
        HOLDS(stats.queued <= LINE && stats.waiting == 0);
    }
    int64_t spawned = real_ms() - before;
    for (int i = 0; i < JOBS; i++) {
        HOLDS_EQ(weir_job_join(jobs[i], WEIR_FOREVER), WEIR_OK);
        HOLDS_EQ(results[i], 51);
        weir_job_free(jobs[i]);
    }
    HOLDS(spawned >= 150); /* the last one waited until fourteen were done, in three rounds */
    HOLDS_EQ(board->most, THREADS);
    HOLDS(real_ms() - before < 1000); /* in a row; by four 250 */
    weir_offload_pool_free(pool);
    return WEIR_OK;
}

static void a_pool_of_threads_in_which_spawn_waits(void **state)
{
    (void)state;
    needs_threads_that_run_at_once();
    run_real(twenty_jobs, NULL);
}

/* ---- a blocking C extension ------------------------------------------------------------- */

enum { CALLERS = 10 };

/* The story's is two seconds. Ten must have begun before the first has ended, under tools too. */
static int unit_ms(void)
{
    return as_many_as(200, 500);
}

static int returned[CALLERS];

static void call_extension(void *arg)
{
    come();
    *(int *)arg = blocking_sleep_ms(unit_ms());
    go();
}

static ssize_t call_extension_there(const void *in, size_t in_size, void *out, size_t out_room)
{
    int result;

    (void)in, (void)in_size, (void)out_room;
    call_extension(&result);
    memcpy(out, &result, sizeof result);
    return sizeof result;
}

static weir_status in_a_row(size_t index, void *arg)
{
    (void)arg;
    call_extension(&returned[index]); /* it knows nothing of coroutines: the hub stands still */
    return WEIR_OK;
}

static weir_status by_thread(size_t index, void *arg)
{
    return weir_offload_in(arg, call_extension, &returned[index], WEIR_FOREVER);
}

static weir_status by_process(size_t index, void *arg)
{
    weir_error        err;
    weir_process_call call = { .fn = call_extension_there, .out = &returned[index],
                               .out_room = sizeof returned[index] };

    (void)arg;
    weir_status status = weir_offload_process(&call, WEIR_FOREVER, &err);
    return status == WEIR_OK ? status : weir_fail(&err);
}

static weir_status ticks(void *arg)
{
    while (sleep_ms(10) == WEIR_OK)
        ++*(int *)arg;
    return WEIR_OK;
}

struct way {
    weir_status (*fn)(size_t index, void *arg);
    void   *arg;
    int64_t took;
    int     most, ticks;
};

static weir_status ten_callers(void *arg)
{
    struct way   *way = arg;
    weir_map_opts opts = { .max_running = CALLERS };

    memset(returned, 0, sizeof returned);
    memset(board, 0, sizeof *board);
    weir_task *ticker = weir_spawn(NULL, ticks, &way->ticks);
    weir_yield();
    int64_t before = real_ms();
    HOLDS_EQ(weir_map(&opts, CALLERS, way->fn, way->arg, WEIR_FOREVER), WEIR_OK);
    way->took = real_ms() - before;
    way->most = board->most;
    weir_cancel(ticker);
    for (int i = 0; i < CALLERS; i++)
        HOLDS_EQ(returned[i], unit_ms() + 1); /* to each its result */
    return WEIR_OK;
}

static void tell(const char *how, const struct way *way)
{
    printf("           ten callers of a function that sleeps %d ms, %s: %.2f times that\n",
           unit_ms(), how, (double)way->took / unit_ms());
}

static void a_blocking_extension_called_as_it_is_takes_ten_times_as_long(void **state)
{
    struct way way = { .fn = in_a_row };

    (void)state;
    run_real(ten_callers, &way);
    tell("in a row", &way);
    assert_int_equal(way.most, 1);
    assert_true(way.took >= CALLERS * unit_ms());
    assert_true(way.ticks <= 1); /* nobody else has run */
}

static void side_by_side(struct way *way, const char *how)
{
    run_real(ten_callers, way);
    tell(how, way);
    assert_int_equal(way->most, CALLERS); /* all at once */
    assert_true(way->took >= unit_ms());
    assert_true(way->took < CALLERS * unit_ms() / 2);
    assert_true(way->ticks >= 5); /* the hub went on */
}

static void a_blocking_extension_by_thread_takes_once_as_long(void **state)
{
    weir_offload_opts  opts = { .max_threads = CALLERS };
    weir_offload_pool *pool = NULL;

    (void)state;
    needs_threads_that_run_at_once();
    assert_int_equal(weir_offload_pool_new(&opts, &pool, NULL), WEIR_OK);
    struct way way = { .fn = by_thread, .arg = pool };
    side_by_side(&way, "by thread");
    weir_offload_pool_free(pool);
}

static void a_blocking_extension_by_process_takes_once_as_long(void **state)
{
    struct way way = { .fn = by_process };

    (void)state;
    needs_threads_that_run_at_once(); /* or processes that begin as fast as others do */
    side_by_side(&way, "by process"); /* ten are what the default allows */
}

/* ---- work for every core ---------------------------------------------------------------- */

enum { JOBS = 10, BURN_MS = 80 };

static int64_t thread_cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* For how long this thread was ready and another had its core; 0 where the kernel does not say. */
static int64_t thread_waited_ns(void)
{
    long long ran = 0, waited = 0;
    FILE     *file = fopen("/proc/thread-self/schedstat", "r");

    if (!file)
        return 0;
    if (fscanf(file, "%lld %lld", &ran, &waited) != 2)
        waited = 0;
    fclose(file);
    return waited;
}

struct burn {
    int64_t cpu_ns, waited_ns;
};

static void burn(void *arg)
{
    struct burn *me = arg;
    int64_t      cpu = thread_cpu_ns(), waited = thread_waited_ns();

    come();
    while (thread_cpu_ns() - cpu < BURN_MS * INT64_C(1000000))
        continue;
    me->cpu_ns = thread_cpu_ns() - cpu;
    me->waited_ns = thread_waited_ns() - waited;
    go();
}

struct ticker {
    int     count;
    int64_t worst_ns;
};

/* The longest time in which it did not come round, less the time the hub's thread was ready
   and somebody else had its core. */
static weir_status tick_and_measure(void *arg)
{
    struct ticker *me = arg;
    int64_t        last = weir_in_ms(0).at_ns, waited = thread_waited_ns();

    while (sleep_ms(5) == WEIR_OK) {
        int64_t now = weir_in_ms(0).at_ns, waited_now = thread_waited_ns();
        int64_t gap = now - last - (waited_now - waited);
        if (gap > me->worst_ns)
            me->worst_ns = gap;
        me->count++;
        last = now;
        waited = waited_now;
    }
    return WEIR_OK;
}

static weir_status burn_there(size_t index, void *arg)
{
    struct burn *burns = arg;

    return weir_offload(burn, &burns[index], WEIR_FOREVER);
}

struct burning {
    int           cores;
    struct burn   burns[JOBS];
    struct ticker ticker;
    int64_t       wall_ns;
};

static weir_status burn_everywhere(void *arg)
{
    struct burning *me = arg;
    weir_map_opts   opts = { .max_running = JOBS };

    weir_offload_limit((unsigned)me->cores);
    weir_task *ticker = weir_spawn(NULL, tick_and_measure, &me->ticker);
    weir_yield();
    int64_t before = weir_in_ms(0).at_ns;
    HOLDS_EQ(weir_map(&opts, JOBS, burn_there, me->burns, WEIR_FOREVER), WEIR_OK);
    me->wall_ns = weir_in_ms(0).at_ns - before;
    weir_cancel(ticker);
    weir_offload_limit(10);
    return WEIR_OK;
}

static void ten_jobs_that_compute_use_every_core_while_the_hub_ticks(void **state)
{
    cpu_set_t      cpus;
    struct burning it = { .cores = 1 };

    (void)state;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        it.cores = CPU_COUNT(&cpus) < JOBS / 2 ? CPU_COUNT(&cpus) : JOBS / 2;
    needs_threads_that_run_at_once();
    if (it.cores < 2) {
        print_message("skipped: there is one core\n");
        skip();
    }
    run_real(burn_everywhere, &it);

    double used = 0, wanted = 0, wall = (double)it.wall_ns;
    for (int i = 0; i < JOBS; i++) {
        used += (double)it.burns[i].cpu_ns;
        wanted += (double)(it.burns[i].cpu_ns + it.burns[i].waited_ns);
    }
    printf("           %d cores: the jobs used %.2f and wanted %.2f of them, %d ticks, the longest "
           "gap %.1f ms\n",
           it.cores, used / wall, wanted / wall, it.ticker.count,
           (double)it.ticker.worst_ns / 1e6);
    assert_int_equal(board->most, it.cores);
    /* What others took of the cores is no fault of ours: ready to run counts. */
    assert_true(wanted / wall > it.cores * 0.8);
    assert_true(it.ticker.count >= 10);
    assert_true(it.ticker.worst_ns < 50 * INT64_C(1000000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORY(a_group_of_thirty_tasks_of_a_tenth_of_a_second),
        STORY(a_pool_of_ten_in_which_spawn_waits),
        STORY(a_pool_of_threads_in_which_spawn_waits),
        STORY(a_blocking_extension_called_as_it_is_takes_ten_times_as_long),
        STORY(a_blocking_extension_by_thread_takes_once_as_long),
        STORY(a_blocking_extension_by_process_takes_once_as_long),
        STORY(ten_jobs_that_compute_use_every_core_while_the_hub_ticks),
    };

    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || weir_process_start(NULL) != WEIR_OK) {
        fprintf(stderr, "test_coro_stories: no fork server\n");
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
