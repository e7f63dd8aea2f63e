/*
 * test_patch_hiredis.c - a real client library that knows nothing of weir, made cooperative:
 * hiredis, as Debian has it, against a redis-server of this program's own.
 *
 * BLPOP on an empty list is a call of the length one likes, by which the server answers nothing
 * for that time. What proves that calls overlap is a count, how many had begun when the first
 * one ended, and not the clock; and the detectors, that no coroutine made a call that blocks.
 */
#ifndef WITH_HIREDIS
#include <stdio.h>

int main(void)
{
    printf("skipped: built without hiredis (Debian: libhiredis-dev)\n");
    return 77;
}
#else
#define _GNU_SOURCE
#include "../unit/coro_unit.h"
#include "detect.h"
#include "private_redis.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <weir/patch.h>

#define LIBRARY "libhiredis.so"

enum { CALLS = 50, CALL_MS = 100 };

static struct private_redis server;

static redisContext *connect_here(void)
{
    redisContext *redis = redisConnectUnix(server.socket);

    HOLDS(redis && !redis->err);
    return redis;
}

static void patch(void)
{
    weir_error err;

    if (weir_patch(LIBRARY, &err) != WEIR_OK)
        fail_msg("%s", err.message);
}

static void unpatch(void)
{
    weir_error err;

    if (weir_unpatch(LIBRARY, &err) != WEIR_OK)
        fail_msg("%s", err.message);
}

/* ---- fifty calls of a tenth of a second --------------------------------------------- */

static struct {
    int     begun, begun_at_first_end, ended, right;
    int64_t ms;
    struct detect_findings found;
} fifty;

/* The call, and then one whose answer must be this caller's own. */
static weir_status call(void *arg)
{
    int           number = (int)(intptr_t)arg;
    redisContext *redis = connect_here();
    char          mine[32];

    fifty.begun++;
    redisReply *none = redisCommand(redis, "BLPOP nothing:%d 0.1", number);
    if (fifty.ended++ == 0)
        fifty.begun_at_first_end = fifty.begun;
    snprintf(mine, sizeof mine, "number %d", number);
    redisReply *echo = redisCommand(redis, "ECHO %s", mine);
    fifty.right += none && none->type == REDIS_REPLY_NIL && echo &&
                   echo->type == REDIS_REPLY_STRING && strcmp(echo->str, mine) == 0;
    freeReplyObject(none);
    freeReplyObject(echo);
    redisFree(redis);
    return WEIR_OK;
}

static weir_status fifty_calls(void *arg)
{
    weir_autoptr(weir_group) group = NULL;

    (void)arg;
    memset(&fifty, 0, sizeof fifty);
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    detect_start();
    int64_t began = real_ms();
    for (intptr_t i = 0; i < CALLS; i++)
        weir_spawn(group, call, (void *)i);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    fifty.ms = real_ms() - began;
    detect_stop(&fifty.found);
    printf("%d calls of %d ms: %lld ms\n", CALLS, CALL_MS, (long long)fifty.ms);
    return status;
}

static void assert_one_after_the_other(void)
{
    run_real(fifty_calls, NULL);
    assert_int_equal(fifty.right, CALLS);
    assert_int_equal(fifty.begun_at_first_end, 1);
    assert_true(fifty.found.blocked > CALLS); /* the detectors see what weir does not do */
    assert_in_range(fifty.ms, CALLS * (CALL_MS - 5), 600000);
}

static void fifty_calls_take_as_long_as_one(void **state)
{
    (void)state;
    patch();
    run_real(fifty_calls, NULL);
    unpatch();
    assert_int_equal(fifty.right, CALLS);
    assert_int_equal(fifty.begun_at_first_end, CALLS);
    if (fifty.found.blocked)
        fail_msg("a patched call blocked: %s", fifty.found.first_call);
    if (detect_gap_limit_ms() > 0)
        assert_true(fifty.found.gap_ms < detect_gap_limit_ms());
    assert_in_range(fifty.ms, CALL_MS - 5, CALLS * CALL_MS / 2); /* 0.1 s, or what load makes it */
}

static void maps_of_the_library(char *out, size_t size)
{
    FILE  *maps = fopen("/proc/self/maps", "r");
    char   line[512];
    size_t length = 0;

    assert_non_null(maps);
    out[0] = '\0';
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "libhiredis"))
            length += (size_t)snprintf(out + length, size - length, "%s", line);
    fclose(maps);
    assert_in_range(length, 1, size - 1);
}

static void un_patched_they_are_right_again(void **state)
{
    static char before[8192], after[8192];

    (void)state;
    maps_of_the_library(before, sizeof before);
    patch();
    unpatch();
    maps_of_the_library(after, sizeof after);
    assert_string_equal(after, before);
    assert_one_after_the_other();
}

/* ---- what else a client does -------------------------------------------------------- */

static weir_status push(void *arg)
{
    redisContext *redis = redisConnect("127.0.0.1", server.port);

    (void)arg;
    HOLDS(redis && !redis->err);
    freeReplyObject(redisCommand(redis, "RPUSH letters %b", "a\0b", (size_t)3));
    redisFree(redis);
    return WEIR_OK;
}

/* Un-patched this would wait for ever: nobody else runs to push. */
static weir_status pop_what_another_pushes(void *arg)
{
    redisContext *redis = redisConnect("localhost", server.port);

    (void)arg;
    HOLDS(redis && !redis->err);
    weir_autoptr(weir_group) group = NULL;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn(group, push, NULL);
    redisReply *reply = redisCommand(redis, "BLPOP letters 0");
    HOLDS(reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2);
    HOLDS(reply->element[1]->len == 3 && memcmp(reply->element[1]->str, "a\0b", 3) == 0);
    freeReplyObject(reply);
    redisFree(redis);
    return weir_group_wait(group, WEIR_FOREVER);
}

static void callers_can_wait_for_each_other(void **state)
{
    (void)state;
    patch();
    run_real(pop_what_another_pushes, NULL);
    unpatch();
}

static void expect_failure(redisContext *redis, int errnum)
{
    errno = 0;
    redisReply *reply = redisCommand(redis, "BLPOP nothing 0");
    HOLDS(reply == NULL);
    HOLDS_EQ(redis->err, REDIS_ERR_IO);
    HOLDS(strcmp(redis->errstr, strerror(errnum)) == 0);
    redisFree(redis);
}

static weir_status wait_too_long(void *arg)
{
    redisContext *redis = connect_here();

    (void)arg;
    HOLDS_EQ(redisSetTimeout(redis, (struct timeval){ 0, 50000 }), REDIS_OK); /* SO_RCVTIMEO */
    int64_t began = real_ms();
    expect_failure(redis, EAGAIN);
    HOLDS(real_ms() - began >= 49);

    redis = redisConnectUnixWithTimeout(server.socket, (struct timeval){ 1, 0 }); /* polls */
    HOLDS(redis && !redis->err);
    WEIR_DEADLINE(weir_in_ms(30));
    expect_failure(redis, ETIMEDOUT);
    return WEIR_OK;
}

static void its_own_timeouts_and_deadlines_count(void **state)
{
    (void)state;
    patch();
    run_real(wait_too_long, NULL);
    unpatch();
}

static weir_status wait_for_ever(void *arg)
{
    (void)arg;
    expect_failure(connect_here(), ECANCELED);
    return WEIR_OK;
}

static weir_status refuse_and_cancel(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    weir_error err = { 0 };

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_task *task =
        weir_spawn_with(group, &(weir_spawn_opts){ .name = "popper" }, wait_for_ever, NULL);
    HOLDS_EQ(weir_sleep(weir_in_ms(50)), WEIR_OK);
    HOLDS_EQ(weir_unpatch(LIBRARY, &err), WEIR_BUSY);
    HOLDS(strstr(err.message, "popper") != NULL);
    weir_cancel(task);
    return weir_group_wait(group, WEIR_FOREVER);
}

static void un_patching_is_refused_while_one_waits(void **state)
{
    (void)state;
    patch();
    run_real(refuse_and_cancel, NULL);
    unpatch();
}

static void count_left(const weir_slot *slot, void *arg)
{
    if (slot->kind == WEIR_SLOT_LEFT)
        printf("left: %s (%s)\n", slot->symbol, slot->why);
    *(int *)arg += slot->kind == WEIR_SLOT_LEFT;
}

static void nothing_it_needs_is_left(void **state)
{
    int left = 0;

    (void)state;
    patch();
    assert_int_equal(weir_patch_each(LIBRARY, count_left, &left, NULL), WEIR_OK);
    unpatch();
    assert_int_equal(left, 0);
}

/* The detectors keep a descriptor, from their first use on. */
static weir_status use_the_detectors(void *arg)
{
    struct detect_findings found;

    (void)arg;
    detect_start();
    detect_stop(&found);
    return WEIR_OK;
}

int main(void)
{
    char why[128];

    if (!private_redis_start(&server, why, sizeof why)) {
        printf("skipped: %s\n", why);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        TEST(fifty_calls_take_as_long_as_one),
        TEST(un_patched_they_are_right_again),
        TEST(callers_can_wait_for_each_other),
        TEST(its_own_timeouts_and_deadlines_count),
        TEST(un_patching_is_refused_while_one_waits),
        TEST(nothing_it_needs_is_left),
    };
    if (weir_run(use_the_detectors, NULL) != WEIR_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    private_redis_stop(&server);
    return failed;
}
#endif
