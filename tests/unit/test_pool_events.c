/*
 * What a pool tells: its events and their order, and its reports.
 */
#include "pool_scene.h"

#include "pool.h"

#include <stdio.h>
#include <string.h>

enum { TOLD = 64, TEXT_ROOM = 65536 };

/* Who listens: to one pool at a time. */
static struct {
    weir_pool_event events[TOLD];
    unsigned        count;
    char            words[128]; /* of the last check-out that failed */
    weir_status     waited;     /* what a wait in the callback said */
    weir_status     paused;     /* ... and a verb of the pool's */
} told;

static void listen(const weir_pool_event *event, void *arg)
{
    (void)arg;
    if (told.count < TOLD)
        told.events[told.count++] = *event;
    if (event->message)
        snprintf(told.words, sizeof told.words, "%s", event->message);
}

static void forget_all(void)
{
    memset(&told, 0, sizeof told);
}

/* The names so far, less "Connection", in order. */
static const char *names(void)
{
    static char text[2048];
    size_t      used = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < told.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? " " : "",
                                 weir_pool_event_name(told.events[i].type) + strlen("Connection"));
    forget_all();
    return text;
}

#define EXPECT_TOLD(wanted)                           \
    do {                                              \
        const char *names_ = names();                 \
        EXPECT_TEXT(names_, wanted);                  \
        EXPECT_INT(strlen(names_), strlen(wanted));   \
    } while (0)

#define LISTENING .on_event = listen

/* ---- order ---------------------------------------------------------------------------- */

SCENE(a_life_is_told_from_the_first_event_to_the_last, .max_size = 1, LISTENING)
{
    EXPECT_TOLD("PoolCreated PoolReady");
    stage->fake.open.ms = 30;
    scene_call(stage, (struct caller){ .hold_ms = 20 });
    scene_wait(stage, 1000);
    EXPECT_INT(told.count, 5);
    EXPECT_INT(told.events[2].conn_id, 1);
    EXPECT_INT(told.events[2].duration_ns, 30 * 1000000);
    EXPECT_INT(told.events[3].duration_ns, 30 * 1000000);
    EXPECT(told.events[3].pool == stage->pool);
    EXPECT_TOLD("CheckOutStarted Created Ready CheckedOut CheckedIn");
    scene_call(stage, (struct caller){ .parting = HAVE_CLOSED });
    world_settle();
    EXPECT_INT(told.events[3].reason, WEIR_CLOSE_REQUESTED);
    EXPECT_TOLD("CheckOutStarted CheckedOut CheckedIn Closed");
    EXPECT_STATUS(weir_pool_close(stage->pool, WEIR_FOREVER), WEIR_OK);
    EXPECT_TOLD("PoolClosed");
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_INT(told.events[1].status, WEIR_CLOSED);
    EXPECT_TEXT(told.words, "is closed");
    EXPECT_TOLD("CheckOutStarted CheckOutFailed");
}

SCENE(a_hand_over_is_told_in_the_order_of_hands, .max_size = 1, LISTENING)
{
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    forget_all();
    world_advance_ms(50);
    EXPECT_INT((told.events[1].duration_ns + 500000) / 1000000, 50); /* he asked 1 ns later */
    EXPECT_TOLD("CheckedIn CheckedOut");
}

SCENE(each_check_out_that_fails_is_told_with_its_reason, .max_size = 1, .max_waiters = 1,
      LISTENING)
{
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    forget_all();
    scene_call(stage, (struct caller){ .patience_ms = 50 });
    world_advance_ms(10);
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_INT(told.events[2].status, WEIR_FULL);
    EXPECT_TOLD("CheckOutStarted CheckOutStarted CheckOutFailed");
    world_advance_ms(40);
    EXPECT_INT(told.events[0].status, WEIR_TIMEOUT);
    EXPECT_INT(told.events[0].duration_ns, 50 * 1000000);
    EXPECT_TOLD("CheckOutFailed");
    struct caller *canceled = scene_call(stage, (struct caller){ 0 });
    world_settle();
    weir_cancel(canceled->task);
    world_settle();
    EXPECT_INT(told.events[1].status, WEIR_CANCELED);
    EXPECT_TOLD("CheckOutStarted CheckOutFailed");
}

SCENE(a_connect_that_fails_is_closed_before_its_caller_is_told, .max_size = 1, LISTENING)
{
    fake_script(&stage->fake, (struct fake_step){ .status = WEIR_CONNECT, .words = "go away" });
    forget_all();
    scene_call(stage, (struct caller){ 0 });
    world_settle();
    EXPECT_TEXT(told.words, "go away");
    EXPECT_INT(told.events[2].reason, WEIR_CLOSE_UNOPENED);
    EXPECT_TOLD("CheckOutStarted Created Closed CheckOutFailed");
}

SCENE(a_clear_is_told_before_what_comes_of_it, .max_size = 2, LISTENING)
{
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    stage->fake.open.ms = FAKE_FOREVER;
    scene_call(stage, (struct caller){ 0 });
    world_advance_ms(10);
    forget_all();
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_OK);
    EXPECT(told.events[0].interrupt);
    EXPECT_TOLD("PoolCleared Closed CheckOutFailed");
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_OK);
    EXPECT_INT(told.count, 0); /* it was paused already */
    EXPECT_INT(scene_stats(stage->pool).generation, 2);
    scene_wait(stage, 100);
    EXPECT_TOLD("CheckedIn Closed");
}

SCENE(one_told_of_is_closed_once_and_one_not_told_of_not_at_all, .max_size = 2)
{
    scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    forget_all();
    weir_pool_on_event(stage->pool, listen, NULL);
    scene_call(stage, (struct caller){ .parting = FORGET });
    world_settle();
    EXPECT_TOLD("CheckOutStarted Created Ready CheckedOut CheckedIn Closed");
    weir_pool_on_event(stage->pool, NULL, NULL);
    scene_wait(stage, 100);
    EXPECT_INT(told.count, 0);
}

/* Whoever is handed a connection in the turn in which he is cancelled passes it on. */
SCENE(each_started_check_out_ends_once_also_where_it_is_cancelled, .max_size = 1, LISTENING)
{
    struct caller *holder = scene_call(stage, (struct caller){ .hold_ms = 50 });
    world_settle();
    struct caller *waits = scene_call(stage, (struct caller){ 0 });
    world_settle();
    forget_all();
    weir_cancel(holder->task); /* its sleep ends, and it gives back: both in one turn */
    weir_cancel(waits->task);
    world_settle();
    unsigned out = 0, in = 0, failed = 0;
    for (unsigned i = 0; i < told.count; i++) {
        out += told.events[i].type == WEIR_EVENT_CHECKED_OUT;
        in += told.events[i].type == WEIR_EVENT_CHECKED_IN;
        failed += told.events[i].type == WEIR_EVENT_CHECK_OUT_FAILED;
    }
    EXPECT_INT(out + failed, 1);
    EXPECT_INT(in, out + 1);
}

/* ---- the callback ---------------------------------------------------------------------- */

static void misbehave(const weir_pool_event *event, void *arg)
{
    (void)arg;
    told.waited = weir_sleep(weir_in_ms(10));
    told.paused = weir_pool_pause(event->pool, NULL);
}

SCENE(a_callback_can_neither_wait_nor_change_the_pool, .max_size = 1)
{
    forget_all();
    weir_pool_on_event(stage->pool, misbehave, NULL);
    struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 5 });
    world_settle();
    EXPECT(told.waited != WEIR_OK);
    EXPECT_STATUS(told.paused, WEIR_USAGE);
    EXPECT(scene_logged("in the callback of one of its events"));
    EXPECT(caller->holding);
    scene_wait(stage, 100);
    EXPECT_STATUS(caller->held, WEIR_OK); /* outside of it he may wait as before */
    EXPECT_INT(caller->served_ms, 0);
    weir_pool_on_event(stage->pool, NULL, NULL);
}

static void names_are_told_in_cmaps_words(void **state)
{
    (void)state;
    assert_string_equal(weir_pool_event_name(WEIR_EVENT_CHECK_OUT_FAILED),
                        "ConnectionCheckOutFailed");
    assert_string_equal(weir_close_reason_cmap(WEIR_CLOSE_AGE), "idle");
    assert_string_equal(weir_close_reason_cmap(WEIR_CLOSE_STALE), "stale");
    assert_string_equal(weir_close_reason_cmap(WEIR_CLOSE_POOL), "poolClosed");
    assert_string_equal(weir_close_reason_cmap(WEIR_CLOSE_LOST), "error");
    assert_string_equal(weir_check_out_reason_cmap(WEIR_CLOSED), "poolClosed");
    assert_string_equal(weir_check_out_reason_cmap(WEIR_CONNECT), "connectionError");
    assert_string_equal(weir_check_out_reason_cmap(WEIR_TIMEOUT), "timeout");
    for (int reason = 0; reason < WEIR_CLOSE_REASONS; reason++)
        assert_non_null(weir_close_reason_name((weir_close_reason)reason));
}

/* ---- reports --------------------------------------------------------------------------- */

static struct {
    char   text[TEXT_ROOM];
    size_t used;
} page;

static void write_page(const char *text, size_t length, void *arg)
{
    (void)arg;
    if (page.used + length >= TEXT_ROOM)
        return;
    memcpy(page.text + page.used, text, length);
    page.used += length;
    page.text[page.used] = '\0';
}

static unsigned count_of(const char *part)
{
    unsigned count = 0;

    for (const char *at = page.text; (at = strstr(at, part)) != NULL; at++)
        count++;
    return count;
}

SCENE(a_dump_names_holders_and_waiters, .max_size = 2, .name = "shop")
{
    char line[512];

    scene_call(stage, (struct caller){ .hold_ms = 500 });
    scene_call(stage, (struct caller){ .hold_ms = 5 });
    world_advance_ms(20);
    scene_call(stage, (struct caller){ .hold_ms = 500 });
    world_settle();
    scene_call(stage, (struct caller){ .patience_ms = 100 });
    world_advance_ms(30);
    page.used = 0;
    weir_pool_dump(stage->pool, write_page, NULL);
    EXPECT_TEXT(page.text, "pool shop: ready, 2 of 2: 2 in use, 0 idle");
    EXPECT_TEXT(page.text, "connection 1: in use for 50 ms by");
    EXPECT_TEXT(page.text, "connection 2: in use for 30 ms by");
    EXPECT_TEXT(page.text, "taken at tests/support/pool_scene.c:");
    EXPECT_TEXT(page.text, "waiter 1: ");
    EXPECT_TEXT(page.text, "for 30 ms at tests/support/pool_scene.c:");
    EXPECT_INT(count_of("\n"), 4);
    EXPECT(weir_pool_summary(stage->pool, line, sizeof line) == (int)strlen(line));
    EXPECT(strstr(line, "\n") == NULL);
    EXPECT_TEXT(line, "1 waiting");
    weir_pool_clear(stage->pool, false, NULL, NULL);
    page.used = 0;
    weir_pool_dump(stage->pool, write_page, NULL);
    EXPECT_TEXT(page.text, "pool shop: paused");
    EXPECT_INT(count_of(", stale\n"), 2);
}

SCENE(metrics_are_what_prometheus_reads, .max_size = 2, .name = "a\"b\\c")
{
    static struct fake other_fake;

    other_fake = (struct fake){ 0 };
    weir_pool *other = scene_pool(&other_fake, (weir_pool_opts){ .name = "other" });
    scene_call(stage, (struct caller){ .hold_ms = 3 });
    scene_call(stage, (struct caller){ .hold_ms = 3, .parting = HAVE_CLOSED });
    scene_wait(stage, 100);
    page.used = 0;
    weir_pools_metrics((weir_pool *[]){ stage->pool, other }, 2, write_page, NULL);
    EXPECT_INT(count_of("# TYPE weir_pool_connections gauge\n"), 1);
    EXPECT_TEXT(page.text, "weir_pool_connections{pool=\"a\\\"b\\\\c\",state=\"idle\"} 1\n");
    EXPECT_TEXT(page.text, "weir_pool_connections{pool=\"other\",state=\"idle\"} 0\n");
    EXPECT_TEXT(page.text, "weir_pool_state{pool=\"other\",state=\"ready\"} 1\n");
    EXPECT_TEXT(page.text, "weir_pool_closed_total{pool=\"a\\\"b\\\\c\",reason=\"requested\"} 1\n");
    EXPECT_TEXT(page.text, "weir_pool_opened_total{pool=\"a\\\"b\\\\c\"} 2\n");
    /* 3 ms are less than 2^12 us, and not less than 2^10. */
    EXPECT_TEXT(page.text,
                "weir_pool_hold_seconds_bucket{pool=\"a\\\"b\\\\c\",le=\"0.001024\"} 0\n");
    EXPECT_TEXT(page.text,
                "weir_pool_hold_seconds_bucket{pool=\"a\\\"b\\\\c\",le=\"0.004096\"} 2\n");
    EXPECT_TEXT(page.text, "weir_pool_hold_seconds_bucket{pool=\"a\\\"b\\\\c\",le=\"+Inf\"} 2\n");
    EXPECT_TEXT(page.text, "weir_pool_hold_seconds_count{pool=\"a\\\"b\\\\c\"} 2\n");
    EXPECT_TEXT(page.text, "weir_pool_hold_seconds_sum{pool=\"a\\\"b\\\\c\"} 0.006\n");
    EXPECT_INT(count_of("# TYPE "), count_of("# HELP "));
    page.used = 0;
    weir_pool_metrics(other, write_page, NULL);
    EXPECT_INT(count_of("a\\\"b"), 0);
    EXPECT_TEXT(page.text, "weir_pool_max_connections{pool=\"other\"} 10\n");
    weir_pool_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_life_is_told_from_the_first_event_to_the_last),
        cmocka_unit_test(a_hand_over_is_told_in_the_order_of_hands),
        cmocka_unit_test(each_check_out_that_fails_is_told_with_its_reason),
        cmocka_unit_test(a_connect_that_fails_is_closed_before_its_caller_is_told),
        cmocka_unit_test(a_clear_is_told_before_what_comes_of_it),
        cmocka_unit_test(one_told_of_is_closed_once_and_one_not_told_of_not_at_all),
        cmocka_unit_test(each_started_check_out_ends_once_also_where_it_is_cancelled),
        cmocka_unit_test(a_callback_can_neither_wait_nor_change_the_pool),
        cmocka_unit_test(names_are_told_in_cmaps_words),
        cmocka_unit_test(a_dump_names_holders_and_waiters),
        cmocka_unit_test(metrics_are_what_prometheus_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
