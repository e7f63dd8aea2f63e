/*
 * weir_soak(): that it finds what a handler leaves behind, says where that came from, and finds
 * nothing where nothing is left.
 *
 * Handlers work on a fake server in virtual time. Descriptors are real.
 */
#define _GNU_SOURCE
#include "fake_driver.h"
#include "world.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <weir/soak.h>

#include <cmocka.h>

static struct {
    struct fake    fake;
    weir_pool     *pool;
    weir_fn        handler;
    weir_soak_opts opts;
    weir_status    status;
    weir_error     err;
    char           told[4096];
    unsigned       turn; /* handlers run so far */
    int            left[400];
    unsigned       left_count;
    unsigned       seen; /* statuses that came of a handler, as bits */
} t;

static weir_pool *const nothing = NULL;
static bool soak_nothing; /* the pool was forgotten */

static void remember(const char *line, void *arg)
{
    size_t used = strlen(t.told);

    (void)arg;
    snprintf(t.told + used, sizeof t.told - used, "%s\n", line);
}

static weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;

    (void)arg;
    fake_init(&t.fake);
    if (weir_pool_new(&fake_driver, &t.fake, &(weir_pool_opts){ .max_size = 4 }, &pool, &err))
        return weir_fail(&err);
    t.pool = pool;
    t.opts.pools = soak_nothing ? &nothing : &t.pool;
    t.opts.pool_count = 1;
    t.opts.arg = pool;
    t.opts.tell = remember;
    t.opts.lives = t.opts.lives ? t.opts.lives : 1000;
    t.opts.concurrency = t.opts.concurrency ? t.opts.concurrency : 20;
    t.status = weir_soak(t.handler, &t.opts, &t.err);
    return WEIR_OK;
}

static void soak(weir_fn handler, weir_soak_opts opts)
{
    memset(&t, 0, sizeof t);
    t.handler = handler;
    t.opts = opts;
    assert_int_equal(world_run(app, NULL), WEIR_OK);
    for (unsigned i = 0; i < t.left_count; i++)
        close(t.left[i]);
}

static void expect_found(const char *text)
{
    if (!strstr(t.told, text))
        fail_msg("nothing was said of \"%s\", but:\n%s", text, t.told);
    assert_int_equal(t.status, WEIR_FAILED);
}

/* "test_soak_handler.c:LINE" is among what was told. */
static void expect_place(int line)
{
    char place[60];

    snprintf(place, sizeof place, "test_soak_handler.c:%d", line);
    expect_found(place);
}

/* ---- handlers ------------------------------------------------------------------------- */

static weir_status tidy(void *pool)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = weir_acquire(pool, WEIR_SCOPE, &lease, NULL);

    if (status == WEIR_OK)
        status = fake_query(lease, 5);
    t.seen |= 1u << status;
    return status;
}

static int forgetful_line;

/* Gives back, but not when its query fails. */
static weir_status forgetful_when_cut(void *pool)
{
    weir_lease *lease;
    forgetful_line = __LINE__ + 1;
    weir_status status = weir_acquire(pool, WEIR_SCOPE, &lease, NULL);

    if (status != WEIR_OK)
        return status;
    status = fake_query(lease, 5);
    if (status != WEIR_OK)
        return status;
    return weir_release(lease);
}

static weir_status gives_back_twice_when_cut(void *pool)
{
    weir_lease *lease;
    weir_status status = weir_acquire(pool, WEIR_SCOPE, &lease, NULL);

    if (status != WEIR_OK)
        return status;
    status = fake_query(lease, 5);
    (void)weir_release(lease);
    if (status != WEIR_OK)
        (void)weir_release(lease);
    return status;
}

static weir_status soaks_itself(void *pool)
{
    weir_status status = weir_sleep(weir_in_ms(1));

    t.seen |= 1u << weir_soak(soaks_itself, &(weir_soak_opts){ .arg = pool }, NULL);
    return status;
}

static int opened_line;

/* The same with a descriptor. */
static weir_status leaves_descriptors_when_cut_in(void *pool, int64_t ms)
{
    (void)pool;
    int fd = eventfd(0, EFD_CLOEXEC); opened_line = __LINE__;
    weir_status status = weir_sleep(weir_in_ms(ms));

    if (status != WEIR_OK && t.left_count < 400) {
        t.left[t.left_count++] = fd;
        return status;
    }
    close(fd);
    return status;
}

static weir_status leaves_descriptors_when_cut(void *pool)
{
    return leaves_descriptors_when_cut_in(pool, 3);
}

/* The same late in a life of several seconds. */
static weir_status leaves_descriptors_late(void *pool)
{
    weir_status status = weir_sleep(weir_in_ms(4000));

    return status == WEIR_OK ? leaves_descriptors_when_cut_in(pool, 500) : status;
}

static int copied_line, temporary_line;

/* What libc opens by calls that are not named after it. */
static weir_status leaves_copies(void *pool)
{
    (void)pool;
    char        name[] = "/tmp/weir-soak-XXXXXX";
    weir_status status = weir_sleep(weir_in_ms(3));

    if (status == WEIR_OK || t.left_count > 390)
        return status;
    t.left[t.left_count++] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3); copied_line = __LINE__;
    t.left[t.left_count++] = mkstemp(name); temporary_line = __LINE__;
    unlink(name);
    return status;
}

/* The same in a coroutine of its own. */
static weir_status leaves_one_in_a_child(void *pool)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;

    if (weir_group_new(NULL, &group, &err) != WEIR_OK)
        return err.status;
    weir_spawn(group, leaves_descriptors_when_cut, pool);
    return weir_group_wait(group, WEIR_FOREVER);
}

static weir_status leaves_one_for_all(void *pool)
{
    static int kept = -1;

    (void)pool;
    if (!t.turn++) {
        kept = eventfd(0, EFD_CLOEXEC);
        t.left[t.left_count++] = kept;
    }
    return weir_sleep(weir_in_ms(1));
}

static weir_status keeps_budget(void *pool)
{
    weir_budget_token token = { 0 };
    weir_status       status = weir_budget_take(1, WEIR_SCOPE, &token, NULL);

    (void)pool;
    if (status == WEIR_OK)
        status = weir_sleep(weir_in_ms(1));
    if (status == WEIR_OK || t.turn++ >= 5)
        weir_budget_give(&token);
    return status;
}

static weir_status hangs(void *pool)
{
    (void)pool;
    if (t.turn++ == 500)
        return weir_sleep(WEIR_FOREVER);
    return weir_sleep(weir_in_ms(1));
}

static weir_status fails(void *pool)
{
    (void)pool;
    (void)weir_sleep(weir_in_ms(1));
    return t.turn++ == 700 ? WEIR_SERVER : WEIR_OK;
}

static weir_status always_fails(void *pool)
{
    (void)pool;
    return WEIR_SERVER;
}

/* ---- what is found -------------------------------------------------------------------- */

static void a_tidy_handler_passes_and_was_disturbed(void **state)
{
    (void)state;
    soak(tidy, (weir_soak_opts){ .lives = 2000 });
    if (t.status != WEIR_OK)
        fail_msg("%s", t.told);
    assert_non_null(strstr(t.told, "2000 lives: "));
    assert_non_null(strstr(t.told, "nothing was left behind"));
    assert_true(t.seen & 1u << WEIR_CANCELED);
    assert_true(t.seen & 1u << WEIR_TIMEOUT);
    assert_true(t.fake.closed > 20); /* forgotten on purpose, or cut */
}

static void a_lease_forgotten_on_one_path_is_found_where_it_was_taken(void **state)
{
    (void)state;
    soak(forgetful_when_cut, (weir_soak_opts){ .lives = 2000, .forgets = 40 });
    expect_found("a lease is not given back on every path");
    expect_place(forgetful_line);
    assert_null(strstr(t.told, "soak/handler.c")); /* where it is forgotten on purpose */
}

static void leases_that_are_forgotten_on_purpose_are_no_finding(void **state)
{
    (void)state;
    soak(tidy, (weir_soak_opts){ .forgets = 50, .cancels = WEIR_NEVER, .deadlines = WEIR_NEVER });
    if (t.status != WEIR_OK)
        fail_msg("%s", t.told);
    assert_false(t.seen & 1u << WEIR_CANCELED);
    assert_false(t.seen & 1u << WEIR_TIMEOUT);
    assert_true(t.fake.closed > 300);
}

static void a_descriptor_left_open_is_found_where_it_was_opened(void **state)
{
    (void)state;
    soak(leaves_descriptors_when_cut, (weir_soak_opts){ .lives = 300 });
    expect_found("descriptors that were not closed, opened at ");
    expect_found("eventfd");
    if (access("/usr/bin/addr2line", X_OK) != 0)
        skip();
    expect_place(opened_line);
}

static void descriptors_that_were_copied_or_made_temporary_have_places(void **state)
{
    (void)state;
    soak(leaves_copies, (weir_soak_opts){ .lives = 300 });
    if (access("/usr/bin/addr2line", X_OK) != 0)
        skip();
    expect_place(copied_line);
    expect_place(temporary_line);
}

static void one_left_open_late_in_a_long_life_is_found(void **state)
{
    (void)state;
    soak(leaves_descriptors_late, (weir_soak_opts){ .lives = 300, .concurrency = 100 });
    expect_found("descriptors that were not closed, opened at ");
}

static void a_descriptor_left_open_by_a_child_is_found(void **state)
{
    (void)state;
    soak(leaves_one_in_a_child, (weir_soak_opts){ .lives = 300 });
    expect_found("descriptors that were not closed, opened at ");
}

static void what_is_opened_once_for_all_is_no_finding(void **state)
{
    (void)state;
    soak(leaves_one_for_all, (weir_soak_opts){ .lives = 300 });
    if (t.status != WEIR_OK)
        fail_msg("%s", t.told);
}

static void a_part_of_the_budget_that_is_kept_is_found(void **state)
{
    (void)state;
    soak(keeps_budget, (weir_soak_opts){ .lives = 300 });
    expect_found("weir_budget_give() is missing: ");
}

static void a_life_that_hangs_is_found_and_ended(void **state)
{
    (void)state;
    soak(hangs, (weir_soak_opts){ .cancels = WEIR_NEVER, .deadlines = WEIR_NEVER });
    expect_found("lives that did not end within patience_ms (10000): 1;");
}

static void an_undisturbed_life_that_fails_is_found(void **state)
{
    (void)state;
    soak(fails, (weir_soak_opts){ .cancels = WEIR_NEVER, .deadlines = WEIR_NEVER });
    expect_found("lives that failed though nobody disturbed them: 1, the first with SERVER");
    soak(fails, (weir_soak_opts){ .may_fail = true });
    assert_int_equal(t.status, WEIR_OK);
    soak(always_fails, (weir_soak_opts){ .may_fail = true });
    expect_found("not one undisturbed life succeeded");
}

static void a_mistake_that_weir_tells_of_is_a_finding(void **state)
{
    (void)state;
    soak(gives_back_twice_when_cut, (weir_soak_opts){ .lives = 300 });
    expect_found("mistakes that weir has told of: ");
    expect_found("of a lease that is over");
}

static void a_soak_in_a_soak_is_refused(void **state)
{
    (void)state;
    soak(soaks_itself, (weir_soak_opts){ .lives = 100 });
    assert_int_equal(t.status, WEIR_OK);
    assert_int_equal(t.seen, 1u << WEIR_USAGE);
}

static void options_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    soak(tidy, (weir_soak_opts){ .cancels = 60, .deadlines = 60 });
    assert_int_equal(t.status, WEIR_USAGE);
    soak(tidy, (weir_soak_opts){ .cancels = INT_MAX, .deadlines = INT_MAX });
    assert_int_equal(t.status, WEIR_USAGE);
    soak_nothing = true;
    soak(tidy, (weir_soak_opts){ 0 });
    soak_nothing = false;
    assert_int_equal(t.status, WEIR_USAGE);
    assert_non_null(strstr(t.err.message, "pools[0] is NULL"));
    assert_int_equal(weir_soak(tidy, NULL, NULL), WEIR_USAGE); /* outside of a coroutine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tidy_handler_passes_and_was_disturbed),
        cmocka_unit_test(a_lease_forgotten_on_one_path_is_found_where_it_was_taken),
        cmocka_unit_test(leases_that_are_forgotten_on_purpose_are_no_finding),
        cmocka_unit_test(a_descriptor_left_open_is_found_where_it_was_opened),
        cmocka_unit_test(descriptors_that_were_copied_or_made_temporary_have_places),
        cmocka_unit_test(one_left_open_late_in_a_long_life_is_found),
        cmocka_unit_test(a_descriptor_left_open_by_a_child_is_found),
        cmocka_unit_test(what_is_opened_once_for_all_is_no_finding),
        cmocka_unit_test(a_part_of_the_budget_that_is_kept_is_found),
        cmocka_unit_test(a_life_that_hangs_is_found_and_ended),
        cmocka_unit_test(an_undisturbed_life_that_fails_is_found),
        cmocka_unit_test(a_mistake_that_weir_tells_of_is_a_finding),
        cmocka_unit_test(a_soak_in_a_soak_is_refused),
        cmocka_unit_test(options_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
