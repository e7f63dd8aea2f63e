/*
 * test_coro_local.c - what belongs to one coroutine and ends with it: locals, exit hooks; and
 * the coroutines that are kept in reserve for clean-up.
 */
#include "coro_unit.h"

#include <stdlib.h>

/* ---- locals ------------------------------------------------------------------------- */

static weir_local name_key, count_key, waiting_key;
static int        destroyed;

static void destroy_name(void *value)
{
    HOLDS(weir_self() != NULL); /* it runs in its coroutine */
    destroyed++;
    free(value);
}

static void wait_in_a_destructor(void *value);

static int make_keys(void **state)
{
    (void)state;
    return weir_local_new(destroy_name, &name_key) || weir_local_new(NULL, &count_key) ||
           weir_local_new(wait_in_a_destructor, &waiting_key);
}

static weir_status keep_my_own(void *arg)
{
    int mine = (int)(intptr_t)arg, count = 0;

    HOLDS(weir_local_get(name_key) == NULL);
    HOLDS(weir_local_get(count_key) == NULL);
    char *name = malloc(16);
    snprintf(name, 16, "number %d", mine);
    HOLDS_EQ(weir_local_set(name_key, name), WEIR_OK);
    HOLDS_EQ(weir_local_set(count_key, &count), WEIR_OK);
    for (int i = 0; i < 5; i++) {
        HOLDS(weir_local_get(name_key) == name);
        ++*(int *)weir_local_get(count_key);
        sleep_ms(mine % 3);
    }
    HOLDS_EQ(count, 5);
    return WEIR_OK;
}

static weir_status keep_apart(void *arg)
{
    for (intptr_t i = 0; i < 20; i++)
        weir_spawn(NULL, keep_my_own, (void *)i);
    return keep_my_own(arg);
}

static void each_coroutine_has_values_of_its_own(void **state)
{
    (void)state;
    destroyed = 0;
    run_world(keep_apart, NULL);
    assert_int_equal(destroyed, 21);
    assert_null(weir_local_get(name_key)); /* none outside */
    assert_int_equal(weir_local_set(name_key, &destroyed), WEIR_USAGE);
}

static weir_status keep_and_wait(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_local_set(name_key, malloc(1)), WEIR_OK);
    return weir_sleep(WEIR_FOREVER);
}

static weir_status cancel_a_keeper(void *arg)
{
    weir_task *task = weir_spawn(NULL, keep_and_wait, NULL);

    (void)arg;
    sleep_ms(10);
    HOLDS_EQ(destroyed, 0);
    weir_cancel(task);
    sleep_ms(10);
    HOLDS_EQ(destroyed, 1);
    return WEIR_OK;
}

static void a_cancelled_coroutines_values_are_destroyed_too(void **state)
{
    (void)state;
    destroyed = 0;
    run_world(cancel_a_keeper, NULL);
    assert_int_equal(destroyed, 1);
    assert_int_equal(log_took("ended with CANCELED"), 1);
}

static weir_status keep_and_end(void *arg)
{
    HOLDS(weir_local_get(name_key) == NULL); /* nothing is inherited with a record */
    return weir_local_set(name_key, malloc(1)) == WEIR_OK ? *(weir_status *)arg : WEIR_NOMEM;
}

static weir_status replace_and_clear(void *arg)
{
    char *first = malloc(1), *second = malloc(1);

    (void)arg;
    HOLDS_EQ(weir_local_set(name_key, first), WEIR_OK);
    HOLDS_EQ(weir_local_set(name_key, second), WEIR_OK);
    HOLDS_EQ(destroyed, 0); /* what is replaced is the caller's again */
    HOLDS_EQ(weir_local_set(name_key, NULL), WEIR_OK);
    HOLDS_EQ(weir_local_set((weir_local){ WEIR_LOCAL_MAX }, first), WEIR_USAGE);
    free(first);
    free(second);
    HOLDS(weir_local_get((weir_local){ WEIR_LOCAL_MAX }) == NULL);
    weir_status well = WEIR_OK;
    for (int i = 0; i < 10; i++) {
        weir_spawn(NULL, keep_and_end, &well);
        sleep_ms(1);
    }
    HOLDS_EQ(destroyed, 10);
    return WEIR_OK;
}

static void what_was_taken_out_is_not_destroyed(void **state)
{
    (void)state;
    destroyed = 0;
    run_world(replace_and_clear, NULL);
    assert_int_equal(destroyed, 10);
}

static weir_local chain_key;
static int        links;

static void set_it_again(void *value)
{
    links++;
    if (value != (void *)1)
        HOLDS_EQ(weir_local_set(chain_key, (char *)value - 1), WEIR_OK);
}

static weir_status hang_a_chain(void *arg)
{
    return weir_local_set(chain_key, arg);
}

static void a_destructor_may_set_a_value_again_but_not_for_ever(void **state)
{
    (void)state;
    assert_int_equal(weir_local_new(set_it_again, &chain_key), WEIR_OK);
    links = 0;
    run_world(hang_a_chain, (void *)3);
    assert_int_equal(links, 3);
    links = 0;
    run_world(hang_a_chain, (void *)1000);
    assert_in_range(links, 4, 100);
}

static void keys_are_limited_and_the_limit_is_told(void **state)
{
    weir_local key;
    int        made = 0;

    (void)state;
    while (weir_local_new(NULL, &key) == WEIR_OK)
        made++;
    assert_int_equal(made, WEIR_LOCAL_MAX - 4);
    assert_int_equal(weir_local_new(NULL, &key), WEIR_FULL);
}

/* ---- exit hooks --------------------------------------------------------------------- */

static char           said[32];
static weir_exit_hook hooks[4];

static void say(weir_exit_hook *hook)
{
    char digit[2] = { (char)('0' + (hook - hooks)), 0 };

    strcat(said, digit);
}

static weir_status leave_hooks(void *arg)
{
    (void)arg;
    said[0] = '\0';
    for (int i = 0; i < 4; i++) {
        hooks[i].fn = say;
        weir_exit_hook_add(weir_self(), &hooks[i]);
    }
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, NULL, NULL), 4);
    weir_exit_hook_remove(&hooks[2]);
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, NULL, NULL), 3);
    return WEIR_OK;
}

static void exit_hooks_run_latest_first_without_those_removed(void **state)
{
    (void)state;
    run_world(leave_hooks, NULL);
    assert_string_equal(said, "310");
}

static void say_nothing(weir_exit_hook *hook)
{
    (void)hook;
}

static bool is_this(const weir_exit_hook *hook, void *arg)
{
    return hook == arg;
}

static weir_status count_hooks(void *arg)
{
    static weir_exit_hook other = { .fn = say_nothing };

    (void)arg;
    leave_hooks(NULL);
    weir_exit_hook_add(weir_self(), &other);
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, NULL, NULL), 3);
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, is_this, &hooks[0]), 1);
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, is_this, &other), 0);
    return WEIR_OK;
}

static void hooks_can_be_counted(void **state)
{
    (void)state;
    run_world(count_hooks, NULL);
}

static int  in_hook, meanwhile;
static bool hook_is_over;

static void try_to_wait(void)
{
    int64_t before = world_now_ns();
    int     others = meanwhile;

    weir_yield();
    HOLDS_EQ(meanwhile, others); /* nobody else ran */
    HOLDS(weir_sleep(weir_in_ms(10)) != WEIR_OK);
    HOLDS(weir_park(WEIR_FOREVER, "nothing") != WEIR_OK);
    HOLDS(weir_wait_fd(STDERR_FILENO, WEIR_READ, weir_in_ms(10), NULL) != WEIR_OK);
    weir_spend(10 * WEIR_UNITS);
    HOLDS_EQ(meanwhile, others);
    HOLDS_EQ(world_now_ns(), before);
    in_hook++;
}

static void wait_in_a_hook(weir_exit_hook *hook)
{
    (void)hook;
    try_to_wait();
}

static void wait_in_a_destructor(void *value)
{
    (void)value;
    try_to_wait();
    hook_is_over = true;
}

static weir_status leave_a_hook_that_waits(void *arg)
{
    static weir_exit_hook hook = { .fn = wait_in_a_hook };

    weir_exit_hook_add(weir_self(), &hook);
    return weir_local_set(waiting_key, arg);
}

static weir_status be_about(void *arg)
{
    (void)arg;
    while (!hook_is_over) {
        meanwhile++;
        weir_yield();
    }
    return WEIR_OK;
}

static weir_status wait_where_nothing_may(void *arg)
{
    weir_spawn(NULL, leave_a_hook_that_waits, arg);
    weir_spawn(NULL, be_about, NULL);
    return WEIR_OK;
}

static void waiting_in_a_hook_or_destructor_is_refused_and_reported(void **state)
{
    (void)state;
    in_hook = meanwhile = 0;
    hook_is_over = false;
    run_world(wait_where_nothing_may, &in_hook);
    assert_int_equal(in_hook, 2);
    assert_int_equal(log_took("nothing may wait: in an exit hook, a destructor or a callback"), 6);
}

/* ---- in reserve --------------------------------------------------------------------- */

static int jobs_done;

static weir_status do_a_job(void *arg)
{
    HOLDS_EQ(weir_sleep(weir_in_ms(*(int *)arg)), WEIR_OK);
    jobs_done++;
    return WEIR_OK;
}

static weir_status use_a_reserve(void *arg)
{
    weir_task *reserve;
    int        ms = 10;

    (void)arg;
    HOLDS_EQ(weir_reserve_new("cleaner", &reserve, NULL), WEIR_OK);
    HOLDS(!weir_reserve_busy(reserve));
    HOLDS(strcmp(weir_task_name(reserve), "cleaner") == 0);
    for (int i = 1; i <= 3; i++) {
        weir_reserve_start(reserve, do_a_job, &ms);
        HOLDS(weir_reserve_busy(reserve));
        sleep_ms(5);
        HOLDS_EQ(jobs_done, i - 1);
        weir_reserve_start(reserve, do_a_job, &ms); /* it works already: refused */
        sleep_ms(10);
        HOLDS_EQ(jobs_done, i);
        HOLDS(!weir_reserve_busy(reserve));
        weir_cancel(reserve); /* nobody is there to be cancelled */
    }
    weir_reserve_free(reserve);
    weir_reserve_free(NULL);
    return WEIR_OK;
}

static void a_coroutine_in_reserve_can_be_started_again_and_again(void **state)
{
    (void)state;
    jobs_done = 0;
    run_world(use_a_reserve, NULL);
    assert_int_equal(jobs_done, 3);
    assert_int_equal(log_took("started while it works"), 3);
}

static weir_task *myself;

static weir_status free_myself(void *arg)
{
    (void)arg;
    weir_reserve_free(myself);
    HOLDS_EQ(sleep_ms(10), WEIR_OK); /* not before the function returns */
    jobs_done++;
    return WEIR_OK;
}

static weir_status let_it_free_itself(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_reserve_new("mayfly", &myself, NULL), WEIR_OK);
    weir_reserve_start(myself, free_myself, NULL);
    return WEIR_OK; /* the run still ends only after it: it is busy */
}

static void a_coroutine_in_reserve_may_free_itself(void **state)
{
    (void)state;
    jobs_done = 0;
    run_world(let_it_free_itself, NULL); /* and the hub does not find one left over */
    assert_int_equal(jobs_done, 1);
}

static weir_status free_one_at_work(void *arg)
{
    weir_task *reserve;
    int        ms = 10;

    (void)arg;
    HOLDS_EQ(weir_reserve_new("busy", &reserve, NULL), WEIR_OK);
    weir_reserve_start(reserve, do_a_job, &ms);
    weir_reserve_free(reserve);
    sleep_ms(20);
    HOLDS_EQ(jobs_done, 1);
    HOLDS(!weir_reserve_busy(reserve));
    return WEIR_OK; /* never freed */
}

static void freeing_one_that_works_is_refused_and_one_never_freed_is_reported(void **state)
{
    (void)state;
    jobs_done = 0;
    run_world(free_one_at_work, NULL);
    assert_int_equal(log_says("freed while it works"), 1);
    assert_int_equal(log_took("1 coroutines were still in reserve"), 1);
}

static weir_status expect_a_clean_slate(void *arg)
{
    HOLDS_EQ(weir_check(), WEIR_OK);
    HOLDS(weir_local_get(name_key) == NULL);
    HOLDS_EQ(weir_exit_hook_count(weir_self(), say, NULL, NULL), 0);
    HOLDS_EQ(weir_local_set(name_key, malloc(1)), WEIR_OK);
    weir_exit_hook_add(weir_self(), &hooks[*(int *)arg]);
    weir_cancel(weir_self());
    return weir_check();
}

static weir_status use_it_twice(void *arg)
{
    weir_task *reserve;
    int        first = 1, second = 2;

    (void)arg;
    said[0] = '\0';
    hooks[1].fn = hooks[2].fn = say;
    HOLDS_EQ(weir_reserve_new(NULL, &reserve, NULL), WEIR_OK);
    weir_reserve_start(reserve, expect_a_clean_slate, &first);
    sleep_ms(1);
    weir_reserve_start(reserve, expect_a_clean_slate, &second);
    sleep_ms(1);
    HOLDS_EQ(destroyed, 2);
    HOLDS(strcmp(said, "12") == 0);
    weir_reserve_free(reserve);
    return WEIR_OK;
}

static void each_start_of_a_reserve_begins_afresh(void **state)
{
    (void)state;
    destroyed = 0;
    run_world(use_it_twice, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_coroutine_has_values_of_its_own),
        TEST(a_cancelled_coroutines_values_are_destroyed_too),
        TEST(what_was_taken_out_is_not_destroyed),
        TEST(exit_hooks_run_latest_first_without_those_removed),
        TEST(hooks_can_be_counted),
        TEST(waiting_in_a_hook_or_destructor_is_refused_and_reported),
        TEST(a_coroutine_in_reserve_can_be_started_again_and_again),
        TEST(a_coroutine_in_reserve_may_free_itself),
        TEST(freeing_one_that_works_is_refused_and_one_never_freed_is_reported),
        TEST(each_start_of_a_reserve_begins_afresh),
        TEST(a_destructor_may_set_a_value_again_but_not_for_ever),
        TEST(keys_are_limited_and_the_limit_is_told), /* the last: it uses them up */
    };
    return cmocka_run_group_tests(tests, make_keys, NULL);
}
