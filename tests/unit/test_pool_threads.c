/*
 * Pools of two threads that draw from one account of descriptors.
 *
 * Each thread has a hub of its own on the real clock, a pool, callers that never rest, and an
 * acceptor that takes descriptors for himself. There are fewer descriptors than the two could
 * use. How many rounds are made is fixed, not how long they take.
 */
#include "fake_driver.h"
#include "pool_scene.h"
#include "under_valgrind.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <weir/log.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

enum { THREADS = 2, CALLERS = 12, LIMIT = 8, ROUNDS = 60 };

struct side {
    pthread_t    thread;
    unsigned     number, rounds;
    struct fake  fake;
    weir_pool   *pool;
    weir_status  status;
    unsigned     served, tokens, failed;
    unsigned     queued; /* callers that had to wait */
    weir_error   first_failure;
};

static atomic_uint descriptors, descriptors_peak;

static void count_descriptors(unsigned more)
{
    unsigned now = atomic_fetch_add(&descriptors, more) + more;
    unsigned peak = atomic_load(&descriptors_peak);

    while (now > peak && !atomic_compare_exchange_weak(&descriptors_peak, &peak, now))
        continue;
}

static void failed(struct side *side, const weir_error *err)
{
    if (side->failed++ == 0)
        side->first_failure = *err;
}

static weir_status call_again_and_again(void *arg)
{
    struct side *side = arg;

    for (unsigned i = 0; i < side->rounds; i++) {
        weir_lease *lease;
        weir_error  err = { 0 };
        if (weir_acquire(side->pool, weir_in_ms(25000), &lease, &err) != WEIR_OK) {
            failed(side, &err);
            continue;
        }
        (void)weir_sleep(weir_in_ms(1 + i % 3));
        (void)(i % 16 ? weir_release(lease) : weir_lease_close(lease));
        side->served++;
    }
    return WEIR_OK;
}

static weir_status accept_again_and_again(void *arg)
{
    struct side *side = arg;

    for (unsigned i = 0; i < side->rounds; i++) {
        weir_budget_token token;
        weir_error        err = { 0 };
        if (weir_budget_take(1 + i % 2, weir_in_ms(25000), &token, &err) != WEIR_OK) {
            failed(side, &err);
            continue;
        }
        count_descriptors(token.descriptors);
        (void)weir_sleep(weir_in_ms(2));
        count_descriptors(0u - token.descriptors);
        weir_budget_give(&token);
        side->tokens++;
    }
    return WEIR_OK;
}

static weir_status play_side(void *arg)
{
    struct side *side = arg;
    weir_group  *group = NULL;
    weir_error   err;

    fake_init(&side->fake);
    side->fake.open.ms = 1;
    weir_status status = weir_pool_new(
        &fake_driver, &side->fake,
        &(weir_pool_opts){ .max_size = 6, .min_idle = side->number, .idle_timeout_ms = 20 },
        &side->pool, &err);
    if (status == WEIR_OK)
        status = weir_group_new(NULL, &group, &err);
    if (status != WEIR_OK)
        return status;
    for (int i = 0; i < CALLERS; i++)
        weir_spawn(group, call_again_and_again, side);
    weir_spawn(group, accept_again_and_again, side);
    status = weir_group_wait(group, WEIR_FOREVER);
    weir_group_free(group);
    side->queued = (unsigned)scene_stats(side->pool).waiting_peak;
    weir_pool_free(side->pool);
    return status;
}

static void *run_side(void *arg)
{
    struct side *side = arg;

    side->status = weir_run(play_side, side);
    return NULL;
}

static void two_threads_share_one_account_and_both_get_on(void **state)
{
    static struct side sides[THREADS];
    weir_budget_stats  before, after;

    (void)state;
    weir_log_set(NULL, NULL, WEIR_LOG_ERROR);
    assert_int_equal(weir_budget_set(&(weir_budget_opts){ .limit = LIMIT }, NULL), WEIR_OK);
    weir_budget_read(&before);
    for (unsigned i = 0; i < THREADS; i++) {
        memset(&sides[i], 0, sizeof sides[i]);
        sides[i].number = i;
        sides[i].rounds = SLOW || under_valgrind() ? ROUNDS / 4 : ROUNDS;
        assert_int_equal(pthread_create(&sides[i].thread, NULL, run_side, &sides[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(sides[i].thread, NULL), 0);
    weir_budget_read(&after);
    for (unsigned i = 0; i < THREADS; i++) {
        const struct side *side = &sides[i];
        if (side->failed)
            fail_msg("%u failed, the first: %s", side->failed, side->first_failure.message);
        assert_int_equal(side->status, WEIR_OK);
        assert_int_equal(side->served, CALLERS * side->rounds);
        assert_int_equal(side->tokens, side->rounds);
        assert_true(side->queued > 1);
        assert_null(side->fake.fault);
        assert_int_equal(side->fake.handles + side->fake.descriptors, 0);
        assert_int_equal(side->fake.configs_freed, 1);
    }
    assert_int_equal(after.used, 0);
    assert_int_equal(after.floors, 0);
    assert_int_equal(after.waiting, 0);
    assert_true(after.peak <= LIMIT);
    assert_true(after.waited > before.waited); /* or nobody ever was short of any */
    assert_true(atomic_load(&descriptors_peak) <= LIMIT - THREADS);
    weir_log_set(NULL, NULL, WEIR_LOG_WARN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_threads_share_one_account_and_both_get_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
