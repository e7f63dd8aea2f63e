/*
 * Memory that runs out wherever coroutines, groups and what they wait for are made.
 *
 * Each deed is done once for each allocation in it, which then fails: alone, and with all after
 * it. It must say WEIR_NOMEM or succeed, and the same must succeed when there is memory again.
 */
#include "coro_unit.h"

#include "scarce.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <weir/sync.h>
#include <weir/watch.h>

enum { CROWD = 300 };

/* ---- deeds ------------------------------------------------------------------------------- */

static unsigned ran;

static weir_status run_once(void *arg)
{
    (void)arg;
    ran++;
    return weir_yield();
}

static weir_status make_a_group(void)
{
    weir_group *group;
    weir_error  err = { 0 };
    weir_status status = weir_group_new(NULL, &group, &err);

    HOLDS((status == WEIR_OK) == (group != NULL));
    HOLDS(status == WEIR_OK || strstr(err.message, "memory"));
    weir_group_free(group);
    return status;
}

/* Those that could be made run; that one could not is told by the group's wait. */
static weir_status spawn_into(const weir_group_opts *opts, const weir_spawn_opts *how, int count)
{
    weir_group *group;
    unsigned    spawned = 0;

    if (weir_group_new(opts, &group, NULL) != WEIR_OK)
        return WEIR_NOMEM;
    ran = 0;
    for (int i = 0; i < count; i++)
        spawned += weir_spawn_with(group, how, run_once, NULL) != NULL;
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    HOLDS_EQ(ran, spawned);
    HOLDS_EQ(status == WEIR_OK, spawned == (unsigned)count);
    HOLDS_EQ(weir_group_failed(group), (unsigned)count - spawned);
    weir_group_free(group);
    return status;
}

static weir_status spawn_one(void)
{
    return spawn_into(NULL, NULL, 1);
}

static weir_status spawn_a_crowd(void)
{
    return spawn_into(NULL, NULL, CROWD);
}

static weir_status spawn_few_at_a_time(void)
{
    return spawn_into(&(weir_group_opts){ .max_running = 3 }, NULL, 10);
}

static weir_status spawn_one_on_a_large_stack(void)
{
    return spawn_into(NULL, &(weir_spawn_opts){ .stack_size = 1 << 20 }, 1);
}

static weir_status spawn_later(void)
{
    return spawn_into(NULL, &(weir_spawn_opts){ .start = weir_in_ms(5) }, 3);
}

static weir_status spawn_detached(void)
{
    ran = 0;
    weir_task *task = weir_spawn(NULL, run_once, NULL);
    (void)weir_sleep(weir_in_ms(1));
    HOLDS_EQ(ran, task != NULL);
    return task ? WEIR_OK : WEIR_NOMEM;
}

static weir_status keep_one_in_reserve(void)
{
    weir_task  *task;
    weir_error  err = { 0 };
    weir_status status = weir_reserve_new("test", &task, &err);

    if (status == WEIR_OK)
        weir_reserve_free(task);
    return status;
}

static weir_status reserve_alarms(void)
{
    weir_status status = weir_alarm_reserve(1000);

    if (status == WEIR_OK)
        (void)weir_alarm_reserve(-1000);
    return status;
}

static weir_status make_a_channel(void)
{
    weir_chan  *chan;
    weir_error  err = { 0 };
    weir_status status = weir_chan_new(8, 16, &chan, &err);

    HOLDS((status == WEIR_OK) == (chan != NULL));
    weir_chan_free(chan);
    return status;
}

static weir_status count_up(size_t index, void *arg)
{
    ((unsigned char *)arg)[index]++;
    return weir_yield();
}

static weir_status map_them(void)
{
    unsigned char seen[100] = { 0 };
    weir_status   status = weir_map(NULL, 100, count_up, seen, WEIR_FOREVER);

    for (int i = 0; i < 100; i++)
        HOLDS(seen[i] <= 1 && (seen[i] == 1 || status != WEIR_OK));
    return status;
}

static weir_local key;

static weir_status set_a_local(void)
{
    static int  value;
    weir_status status = weir_local_set(key, &value);

    HOLDS(weir_local_get(key) == (status == WEIR_OK ? &value : NULL));
    return status == WEIR_OK ? weir_local_set(key, NULL) : status;
}

/* None of this takes memory, so none of it can fail. */
static weir_status wait_in_all_ways(void)
{
    weir_sem   sem = WEIR_SEM_INIT(1);
    weir_mutex mutex = { 0 };
    weir_event event = { 0 };
    weir_task *self = weir_self();

    HOLDS_EQ(weir_sem_take(&sem, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_sem_take(&sem, weir_in_ms(1)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_mutex_lock(&mutex, WEIR_NOW), WEIR_OK);
    HOLDS_EQ(weir_event_wait(&event, weir_in_ms(1)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_mutex_unlock(&mutex), WEIR_OK);
    HOLDS_EQ(weir_sleep(weir_in_ms(3)), WEIR_OK);
    HOLDS(weir_self() == self);
    return WEIR_OK;
}

static const struct deed {
    const char   *name;
    weir_status (*done)(void);
    bool          none; /* it needs no memory */
} deeds[] = {
    { "a group", make_a_group, false },
    { "a spawn", spawn_one, false },
    { "a crowd of them", spawn_a_crowd, false },
    { "a few at a time", spawn_few_at_a_time, false },
    { "one on a large stack", spawn_one_on_a_large_stack, false },
    { "some that begin later", spawn_later, false },
    { "a detached one", spawn_detached, true },
    { "one in reserve", keep_one_in_reserve, true },
    { "alarms", reserve_alarms, false },
    { "a channel", make_a_channel, false },
    { "a map", map_them, false },
    { "a local", set_a_local, false },
    { "waits", wait_in_all_ways, true },
};

enum { DEEDS = sizeof deeds / sizeof *deeds };

/* ---- one time ---------------------------------------------------------------------------- */

static struct {
    const struct deed *deed;
    unsigned           nth, allocations;
    enum scarcity      how;
    bool               struck;
} now;

static weir_status do_it(void *arg)
{
    (void)arg;
    scarce_begin(now.nth, now.how);
    weir_status status = now.deed->done();
    now.allocations = scarce_end();
    now.struck = scarce_struck();
    HOLDS(status == WEIR_OK || (now.struck && status == WEIR_NOMEM));
    HOLDS_EQ(now.deed->done(), WEIR_OK);
    return WEIR_OK;
}

static void each_allocation_may_fail_and_the_next_try_succeeds(void **state)
{
    (void)state;
    assert_int_equal(weir_local_new(NULL, &key), WEIR_OK);
    for (int i = 0; i < 2 * DEEDS; i++) {
        now.deed = &deeds[i / 2];
        now.how = i % 2 ? ALL_FAIL : ONE_FAILS;
        now.struck = true;
        for (now.nth = 1; now.struck; now.nth++) {
            assert_int_equal(world_run(do_it, NULL), WEIR_OK);
            if (unit_notes.broken || (now.deed->none && now.allocations))
                fail_msg("%s, allocation %u of %u: %s", now.deed->name, now.nth, now.allocations,
                         unit_notes.first);
        }
        if (!now.deed->none && !now.allocations)
            fail_msg("%s: there is no allocation in it", now.deed->name);
    }
    log_forget();
}

/* ---- a hub ------------------------------------------------------------------------------- */

static weir_status end_at_once(void *arg)
{
    ++*(int *)arg;
    return WEIR_OK;
}

static void a_hub_that_cannot_be_made_leaves_nothing(void **state)
{
    bool struck = true;

    (void)state;
    for (unsigned nth = 1; struck; nth++) {
        int count = 0;
        scarce_begin(nth, ONE_FAILS);
        weir_status status = weir_run(end_at_once, &count);
        unsigned allocations = scarce_end();
        struck = scarce_struck();
        assert_true(struck || allocations >= 3);
        assert_int_equal(status, struck && !count ? WEIR_NOMEM : WEIR_OK);
        assert_int_equal(count, status == WEIR_OK);
        assert_null(weir_hub_here());
    }
    log_forget();
}

/* ---- what a service does all the time ---------------------------------------------------- */

/* These are what coro/ of script/bench measures: the other one of two gives back whatever it gets,
   in each way at once. */
enum { TIMES = 1000 };

static struct pair {
    weir_sem   there, back;
    weir_chan *out, *home;
    int        near, far;
    bool       over;
} pair;

static weir_status give_permits_back(void *arg)
{
    (void)arg;
    while (weir_sem_take(&pair.there, WEIR_FOREVER) == WEIR_OK)
        weir_sem_give(&pair.back);
    return WEIR_OK;
}

static weir_status send_elements_back(void *arg)
{
    while (weir_chan_recv(pair.out, &arg, WEIR_FOREVER) == WEIR_OK)
        HOLDS_EQ(weir_chan_send(pair.home, &arg, WEIR_FOREVER), WEIR_OK);
    return WEIR_OK;
}

static bool pass_byte(int from, int to)
{
    char byte;

    return weir_wait_fd(from, WEIR_READ, WEIR_FOREVER, NULL) == WEIR_OK &&
           read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1;
}

static weir_status send_bytes_back(void *arg)
{
    (void)arg;
    while (pass_byte(pair.far, pair.far))
        continue;
    return WEIR_OK;
}

static weir_status yield_back(void *arg)
{
    (void)arg;
    while (!pair.over)
        HOLDS_EQ(weir_yield(), WEIR_OK);
    return WEIR_OK;
}

static void yields(weir_group *group)
{
    (void)group;
    HOLDS_EQ(weir_yield(), WEIR_OK);
}

static void spawns_and_joins(weir_group *group)
{
    HOLDS_EQ(weir_join(weir_spawn(group, run_once, NULL), WEIR_FOREVER, NULL), WEIR_OK);
}

static void hands_a_permit_over(weir_group *group)
{
    (void)group;
    weir_sem_give(&pair.there);
    HOLDS_EQ(weir_sem_take(&pair.back, WEIR_FOREVER), WEIR_OK);
}

static void hands_an_element_over(weir_group *group)
{
    void *element = group;

    HOLDS_EQ(weir_chan_send(pair.out, &element, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(weir_chan_recv(pair.home, &element, WEIR_FOREVER), WEIR_OK);
}

static void sends_a_byte_over(weir_group *group)
{
    char byte = 'w';

    (void)group;
    HOLDS_EQ(write(pair.near, &byte, 1), 1);
    HOLDS_EQ(weir_wait_fd(pair.near, WEIR_READ, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(read(pair.near, &byte, 1), 1);
}

/* The first times may make room: a slab of stacks, records, a chunk of descriptors. */
static unsigned memory_of(void (*deed)(weir_group *group), weir_group *group)
{
    for (int i = 0; i < TIMES; i++)
        deed(group);
    scarce_begin(0, NOBODY_FAILS);
    for (int i = 0; i < TIMES; i++)
        deed(group);
    return scarce_end();
}

static weir_status do_all_of_it(void *arg)
{
    weir_group *group = NULL, *others = NULL;
    int         ends[2] = { -1, -1 };

    (void)arg;
    pair = (struct pair){ .over = false };
    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS }, &group, NULL), WEIR_OK);
    HOLDS_EQ(weir_group_new(NULL, &others, NULL), WEIR_OK);
    HOLDS_EQ(weir_chan_new(sizeof(void *), 1, &pair.out, NULL), WEIR_OK);
    HOLDS_EQ(weir_chan_new(sizeof(void *), 1, &pair.home, NULL), WEIR_OK);
    HOLDS_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pair.near = ends[0];
    pair.far = ends[1];
    weir_spawn(others, give_permits_back, NULL);
    weir_spawn(others, send_elements_back, NULL);
    weir_spawn(others, send_bytes_back, NULL);
    HOLDS_EQ(memory_of(spawns_and_joins, group), 0);
    HOLDS_EQ(memory_of(hands_a_permit_over, group), 0);
    HOLDS_EQ(memory_of(hands_an_element_over, group), 0);
    HOLDS_EQ(memory_of(sends_a_byte_over, group), 0);
    weir_spawn(others, yield_back, NULL); /* last: it never waits */
    HOLDS_EQ(memory_of(yields, group), 0);
    pair.over = true;
    weir_sem_finish(&pair.there);
    weir_chan_close(pair.out);
    weir_close(pair.near); /* the far end reads no byte then */
    HOLDS_EQ(weir_group_wait(others, WEIR_FOREVER), WEIR_OK);
    weir_close(pair.far);
    weir_chan_free(pair.out);
    weir_chan_free(pair.home);
    weir_group_free(others);
    weir_group_free(group);
    return WEIR_OK;
}

static void switches_hand_overs_spawns_and_waits_take_no_memory(void **state)
{
    (void)state;
    run_real(do_all_of_it, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_allocation_may_fail_and_the_next_try_succeeds),
        TEST(a_hub_that_cannot_be_made_leaves_nothing),
        TEST(switches_hand_overs_spawns_and_waits_take_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
