/*
 * 08_patch_a_library - a client library that knows nothing of coroutines, made cooperative.
 *
 * hiredis blocks: fifty calls of a tenth of a second take five seconds, since each keeps the
 * thread to itself. weir_patch() leads its reads, writes and connects to weir, and the same fifty
 * calls, unchanged, take a tenth of a second. weir_unpatch() puts everything back.
 *
 * usage: 08_patch_a_library /path/of/redis.sock
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <weir/coro.h>
#include <weir/patch.h>

enum { CALLS = 50 };

/* Plain hiredis: wait a tenth of a second for something that nobody sends. */
static weir_status wait_for_nothing(void *path)
{
    redisContext *redis = redisConnectUnix(path);
    redisReply   *reply = NULL;

    if (redis && !redis->err)
        reply = redisCommand(redis, "BLPOP nothing 0.1");
    weir_status status = reply && reply->type == REDIS_REPLY_NIL ? WEIR_OK : WEIR_FAILED;
    if (status != WEIR_OK)
        fprintf(stderr, "redis: %s\n", redis ? redis->errstr : "no memory");
    freeReplyObject(reply);
    if (redis)
        redisFree(redis);
    return status;
}

static weir_status fifty_calls(void *path, const char *how)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL;
    int64_t began = weir_in_ms(0).at_ns;

    if (weir_group_new(NULL, &group, &err))
        return weir_fail(&err);
    for (int i = 0; i < CALLS; i++)
        weir_spawn(group, wait_for_nothing, path);
    weir_status status = weir_group_wait(group, WEIR_FOREVER);
    printf("%s: %d calls in %.1f s\n", how, CALLS, (double)(weir_in_ms(0).at_ns - began) / 1e9);
    return status;
}

/* What the library may yet block on: look at that once, before you rely on it. */
static void tell_what_is_left(const weir_slot *slot, void *arg)
{
    (void)arg;
    if (slot->kind == WEIR_SLOT_LEFT)
        printf("left as it is: %s: %s\n", slot->symbol, slot->why);
}

static weir_status app(void *path)
{
    weir_error err;

    if (weir_patch("libhiredis.so", &err))
        return weir_fail(&err);
    if (weir_patch_each("libhiredis.so", tell_what_is_left, NULL, &err))
        return weir_fail(&err);
    weir_status status = fifty_calls(path, "patched");

    if (weir_unpatch("libhiredis.so", &err)) /* nobody is inside a call any more */
        return weir_fail(&err);
    return status ? status : fifty_calls(path, "un-patched");
}

int main(int argc, char **argv)
{
    return weir_run(app, argc > 1 ? argv[1] : "/run/redis/redis-server.sock");
}
