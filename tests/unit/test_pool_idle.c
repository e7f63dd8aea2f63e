/*
 * Idle connections and their servers: signs of life, servers that end what says nothing for long,
 * and what they say then.
 */
#include "pool_scene.h"

#include "pool.h"

#include <string.h>

/* So many connections, idle since now. */
static void warm(struct scene *stage, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 1000);
    EXPECT_INT(scene_stats(stage->pool).idle, count);
}

/* ---- keepalive ----------------------------------------------------------------------------- */

SCENE(an_idle_connection_is_pinged_and_stays, .max_size = 2, .keepalive_ms = 1000,
      .idle_timeout_ms = WEIR_NEVER)
{
    warm(stage, 1);
    world_advance_ms(899);
    EXPECT_INT(stage->fake.pings, 0);
    world_advance_ms(101);
    EXPECT_INT(stage->fake.pings, 1);
    world_advance_ms(9000);
    EXPECT(stage->fake.pings >= 9 && stage->fake.pings <= 11);
    EXPECT_INT(scene_stats(stage->pool).pings, stage->fake.pings);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(stage->fake.opened, 1);
}

SCENE(without_keepalive_nothing_is_pinged, .max_size = 2)
{
    warm(stage, 2);
    world_advance_ms(9 * 60 * 1000);
    EXPECT_INT(stage->fake.pings, 0);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
}

SCENE(use_makes_a_ping_needless, .max_size = 1, .keepalive_ms = 1000)
{
    for (int i = 0; i < 20; i++) {
        scene_call(stage, (struct caller){ 0 });
        world_advance_ms(800);
    }
    EXPECT_INT(stage->fake.pings, 0);
}

SCENE(one_that_gives_no_sign_of_life_is_closed_and_said_why, .max_size = 2, .keepalive_ms = 1000,
      .reset_timeout_ms = 200)
{
    warm(stage, 1);
    stage->fake.ping.ms = FAKE_FOREVER; /* a firewall has forgotten it */
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).resetting, 1);
    world_advance_ms(200);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_PING_FAILED), 1);
    EXPECT_INT(stage->fake.abrupt, 1);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    EXPECT(strcmp(weir_close_reason_name(WEIR_CLOSE_PING_FAILED), "ping_failed") == 0);
    EXPECT(strcmp(weir_close_reason_cmap(WEIR_CLOSE_PING_FAILED), "error") == 0);
}

SCENE(a_ping_is_no_use, .max_size = 3, .keepalive_ms = 100, .idle_timeout_ms = 1000)
{
    warm(stage, 3);
    world_advance_ms(989);
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    EXPECT(stage->fake.pings >= 27);
    world_advance_ms(11);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 3);
}

/* The busiest is lent again, the others age out: also where they are pinged meanwhile. */
SCENE(a_pinged_connection_goes_back_to_its_place, .max_size = 4, .keepalive_ms = 300,
      .idle_timeout_ms = 1000)
{
    warm(stage, 4);
    for (int i = 0; i < 15; i++) {
        struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 1 });
        world_advance_ms(100);
        EXPECT_INT(caller->conn, stage->cast[4]->conn);
    }
    EXPECT(stage->fake.pings >= 9);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 3);
}

SCENE(only_a_few_are_pinged_at_a_time_and_all_are, .max_size = 20, .max_connecting = 3,
      .keepalive_ms = 1000, .idle_timeout_ms = WEIR_NEVER)
{
    warm(stage, 20);
    stage->fake.ping.ms = 20;
    for (int i = 0; i < 100; i++) {
        world_advance_ms(10);
        EXPECT(scene_stats(stage->pool).idle >= 17);
    }
    world_advance_ms(200);
    EXPECT(stage->fake.pings >= 20);
    EXPECT_INT(stage->fake.pinging_peak, 3);
    EXPECT_INT(stage->fake.opened, 20);
}

SCENE(one_who_comes_during_a_ping_gets_the_connection_after_it, .max_size = 1,
      .keepalive_ms = 1000)
{
    warm(stage, 1);
    stage->fake.ping.ms = 50;
    while (!stage->fake.pinging)
        world_advance_ms(1);
    int64_t        began = world_now_ms();
    struct caller *caller = scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->served_ms - began, 50);
    EXPECT_INT(stage->fake.opened, 1);
    EXPECT(!stage->pool->pings);
}

SCENE(a_failed_ping_costs_the_caller_who_waits_for_it_no_error, .max_size = 1, .keepalive_ms = 1000)
{
    warm(stage, 1);
    stage->fake.ping = (struct fake_step){ .status = WEIR_LOST, .ms = 30, .words = "gone away" };
    while (!stage->fake.pinging)
        world_advance_ms(1);
    struct caller *caller = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 1000);
    EXPECT_STATUS(caller->status, WEIR_OK);
    EXPECT_INT(caller->conn, 2);
}

SCENE(pings_end_with_the_pool, .max_size = 4, .max_connecting = 4, .keepalive_ms = 1000)
{
    warm(stage, 4);
    stage->fake.ping.ms = FAKE_FOREVER;
    while (stage->fake.pinging < 4)
        world_advance_ms(1);
    EXPECT_STATUS(weir_pool_close(stage->pool, weir_in_ms(10)), WEIR_OK);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_POOL), 4);
}

SCENE(a_clear_ends_them_too, .max_size = 4, .max_connecting = 4, .keepalive_ms = 1000)
{
    warm(stage, 4);
    stage->fake.ping.ms = FAKE_FOREVER;
    while (stage->fake.pinging < 2)
        world_advance_ms(1);
    EXPECT_STATUS(weir_pool_clear(stage->pool, false, NULL, NULL), WEIR_OK);
    world_advance_ms(10);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_STALE), 4);
    EXPECT_INT(scene_stats(stage->pool).resetting, 0);
}

SCENE(a_driver_that_cannot_ping_is_not_asked_to, .max_size = 1)
{
    static struct fake fake;
    weir_driver        mute = fake_driver;
    weir_pool         *pool = NULL;
    weir_error         err;

    mute.ping = NULL;
    fake_init(&fake);
    EXPECT_STATUS(weir_pool_new(&mute, &fake, &(weir_pool_opts){ .keepalive_ms = 5 }, &pool, &err),
                  WEIR_USAGE);
    EXPECT_TEXT(err.message, "keepalive_ms");
    EXPECT(pool == NULL);
}

/* ---- servers that end what says nothing for long ------------------------------------------- */

SCENE(a_connection_ends_before_its_server_would_end_it, .max_size = 3, .min_idle = 1)
{
    stage->fake.rest_ms = 1000;
    warm(stage, 3);
    unsigned opened = stage->fake.opened;
    world_advance_ms(989);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 0);
    world_advance_ms(1);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 3); /* min_idle saves none of them */
    EXPECT_INT(stage->fake.abrupt, 0);
    world_settle();
    EXPECT_INT(stage->fake.opened, opened + 1); /* but is filled up */
}

SCENE(with_keepalive_it_is_pinged_instead, .max_size = 3, .keepalive_ms = 60 * 1000,
      .idle_timeout_ms = 10 * 1000)
{
    stage->fake.rest_ms = 1000;
    warm(stage, 3);
    world_advance_ms(9 * 1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 3);
    EXPECT(stage->fake.pings >= 24 && stage->fake.pings <= 30);
    world_advance_ms(1000);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 3);
}

/* Somebody held it for long without a word, and gives it back in its last moment. */
SCENE(one_about_to_be_ended_is_not_lent, .max_size = 1)
{
    stage->fake.rest_ms = 1000;
    scene_call(stage, (struct caller){ .hold_ms = 1000 });
    struct caller *waits = scene_call(stage, (struct caller){ .hold_ms = 10 });
    scene_wait(stage, 2000);
    EXPECT_INT(waits->conn, 2);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 1);

    struct conn *conn = LIST_OF(list_first(&stage->pool->conns[CONN_IDLE]), struct conn, link);
    conn->driver_side->quiet_until_ns = weir_now(); /* as if the sweep had not come by yet */
    struct caller *next = scene_call(stage, (struct caller){ 0 });
    scene_wait(stage, 100);
    EXPECT_INT(next->conn, 3);
    EXPECT_INT(scene_closed(stage->pool, WEIR_CLOSE_IDLE), 2);
}

SCENE(a_server_that_waits_longer_than_the_pool_changes_nothing, .max_size = 2,
      .idle_timeout_ms = 1000)
{
    stage->fake.rest_ms = 5000;
    warm(stage, 2);
    world_advance_ms(989);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
    world_advance_ms(11);
    EXPECT_INT(scene_stats(stage->pool).idle, 0);
}

/* ---- last words ---------------------------------------------------------------------------- */

struct heard {
    unsigned          closed;
    weir_close_reason reason;
    char              words[128];
};

static void hear(const weir_pool_event *event, void *arg)
{
    struct heard *heard = arg;

    if (event->type != WEIR_EVENT_CONN_CLOSED)
        return;
    heard->closed++;
    heard->reason = event->reason;
    strncpy(heard->words, event->message ? event->message : "(none)", sizeof heard->words - 1);
}

static void collect(const char *text, size_t length, void *arg)
{
    strncat(arg, text, length);
}

SCENE(what_the_server_says_at_the_end_is_told, .name = "orders", .max_size = 2)
{
    struct heard heard = { 0 };
    char         page[4096] = "";

    weir_pool_on_event(stage->pool, hear, &heard);
    warm(stage, 2);
    stage->fake.last_words = "The client was disconnected by the server because of inactivity";
    EXPECT_INT(fake_stir(&stage->fake), 2);
    EXPECT_INT(heard.closed, 2);
    EXPECT_INT(heard.reason, WEIR_CLOSE_LOST);
    EXPECT_TEXT(heard.words, "because of inactivity");
    EXPECT_INT(scene_stats(stage->pool).farewells, 2);
    EXPECT(scene_logged("pool orders: idle connection 2 was ended by its server: The client was"));
    weir_pool_dump(stage->pool, collect, page);
    EXPECT_TEXT(page, "a server's last words on an idle connection: The client was");
    weir_pool_on_event(stage->pool, NULL, NULL);
}

SCENE(one_that_ends_without_a_word_is_closed_as_ever, .max_size = 1)
{
    struct heard heard = { 0 };

    weir_pool_on_event(stage->pool, hear, &heard);
    warm(stage, 1);
    EXPECT_INT(fake_stir(&stage->fake), 1);
    EXPECT_INT(heard.reason, WEIR_CLOSE_LOST);
    EXPECT_TEXT(heard.words, "(none)");
    EXPECT_INT(scene_stats(stage->pool).farewells, 0);
    EXPECT(!scene_logged("was ended by its server"));
    weir_pool_on_event(stage->pool, NULL, NULL);
}

SCENE(the_words_of_a_failed_ping_are_told_too, .max_size = 1, .keepalive_ms = 1000)
{
    struct heard heard = { 0 };

    weir_pool_on_event(stage->pool, hear, &heard);
    warm(stage, 1);
    stage->fake.ping = (struct fake_step){ .status = WEIR_LOST, .words = "Connection was killed" };
    world_advance_ms(1000);
    EXPECT_INT(heard.reason, WEIR_CLOSE_PING_FAILED);
    EXPECT_TEXT(heard.words, "Connection was killed");
    weir_pool_on_event(stage->pool, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_connection_is_pinged_and_stays),
        cmocka_unit_test(without_keepalive_nothing_is_pinged),
        cmocka_unit_test(use_makes_a_ping_needless),
        cmocka_unit_test(one_that_gives_no_sign_of_life_is_closed_and_said_why),
        cmocka_unit_test(a_ping_is_no_use),
        cmocka_unit_test(a_pinged_connection_goes_back_to_its_place),
        cmocka_unit_test(only_a_few_are_pinged_at_a_time_and_all_are),
        cmocka_unit_test(one_who_comes_during_a_ping_gets_the_connection_after_it),
        cmocka_unit_test(a_failed_ping_costs_the_caller_who_waits_for_it_no_error),
        cmocka_unit_test(pings_end_with_the_pool),
        cmocka_unit_test(a_clear_ends_them_too),
        cmocka_unit_test(a_driver_that_cannot_ping_is_not_asked_to),
        cmocka_unit_test(a_connection_ends_before_its_server_would_end_it),
        cmocka_unit_test(with_keepalive_it_is_pinged_instead),
        cmocka_unit_test(one_about_to_be_ended_is_not_lent),
        cmocka_unit_test(a_server_that_waits_longer_than_the_pool_changes_nothing),
        cmocka_unit_test(what_the_server_says_at_the_end_is_told),
        cmocka_unit_test(one_that_ends_without_a_word_is_closed_as_ever),
        cmocka_unit_test(the_words_of_a_failed_ping_are_told_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
