/*
 * test_pool_permits.c - the file that permits are shared in, who gets the next one, and what is
 * void; pools of one process on the virtual clock. Other processes: test_permits_workers.c.
 */
#define _GNU_SOURCE
#include "pool_scene.h"

#include "hub.h"
#include "lives.h"
#include "permits.h"
#include "under_valgrind.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int take(weir_permits *permits, int member)
{
    return permits_take(permits, permits_word(permits, member));
}

/* ---- the file ----------------------------------------------------------------------- */

static char folder[] = "/tmp/weir-permits-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/permits", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder); /* nothing else was left in it */
}

static weir_permits *must_open(const char *at, unsigned count)
{
    weir_permits *permits = NULL;
    weir_error    err = { 0 };

    if (weir_permits_open(&(weir_permits_opts){ .path = at, .count = count }, &permits, &err))
        fail_msg("%s", err.message);
    return permits;
}

static void refused(const char *at, unsigned count, const char *words, int errnum)
{
    weir_permits *permits = (weir_permits *)1;
    weir_error    err = { 0 };

    assert_int_equal(
        weir_permits_open(&(weir_permits_opts){ .path = at, .count = count }, &permits, &err),
        WEIR_USAGE);
    assert_null(permits);
    assert_int_equal(err.native, errnum);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void a_count_or_a_file_must_be_given(void **state)
{
    (void)state;
    refused(NULL, 0, "how many permits?", 0);
    refused(NULL, PERMITS_MAX + 1, "too many", 0);
    refused(path, 0, "cannot be opened", ENOENT);
    assert_int_equal(weir_permits_open(NULL, NULL, NULL), WEIR_USAGE);
    weir_permits_free(NULL);
    weir_permits_free(must_open(NULL, PERMITS_MAX));
}

static void the_first_makes_the_file_and_others_share_it(void **state)
{
    weir_permits_stats stats;
    struct stat        about;

    (void)state;
    weir_permits *first = must_open(path, 5);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    weir_permits *second = must_open(path, 5), *third = must_open(path, 0);
    int           member = permits_enter(first, NULL);
    assert_int_not_equal(take(second, member), PERMITS_NOBODY);
    weir_permits_read(third, &stats);
    assert_int_equal(stats.count, 5);
    assert_int_equal(stats.used, 1);
    assert_int_equal(stats.pools, 1);
    weir_permits_free(first);
    weir_permits_free(second);
    weir_permits_free(third);
    unlink(path);
}

static void overwrite(size_t offset, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY);

    assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
    close(fd);
}

static void what_is_no_file_of_ours_is_refused(void **state)
{
    uint32_t number = 77;
    uint64_t space = 1;
    char     beside[80];

    (void)state;
    snprintf(beside, sizeof beside, "%s/no/such/folder", folder);
    refused(beside, 5, "cannot be made", ENOENT);
    refused(folder, 5, "cannot be opened", EISDIR);

    assert_int_equal(mkfifo(path, 0600), 0);
    refused(path, 5, "no regular file", 0);
    unlink(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    refused(path, 5, "cannot be opened", ELOOP);
    unlink(path);

    weir_permits_free(must_open(path, 5));
    refused(path, 6, "has 5, and 6 are asked for", 0);
    overwrite(offsetof(struct permits_table, pid_space), &space, sizeof space);
    refused(path, 5, "another PID namespace", 0);
    assert_int_equal(truncate(path, (off_t)permits_size(5) - 1), 0);
    refused(path, 5, "damaged", 0);
    overwrite(offsetof(struct permits_table, version), &number, sizeof number);
    refused(path, 5, "version 77", 0);
    overwrite(0, "other", 5);
    refused(path, 5, "another kind of file", 0);
    assert_int_equal(truncate(path, 0), 0);
    refused(path, 5, "another kind of file", 0);
    unlink(path);
}

enum { AT_ONCE = 8 };

static void many_that_come_at_once_share_one(void **state)
{
    weir_permits_stats stats;
    pid_t              children[AT_ONCE];
    int                ready[2], go[2];
    char               byte;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    for (int i = 0; i < AT_ONCE; i++) {
        children[i] = fork();
        if (children[i])
            continue;
        weir_permits *permits = NULL;
        close(go[1]);
        (void)!read(go[0], &byte, 1); /* all at once: when it is closed */
        weir_status status = weir_permits_open(
            &(weir_permits_opts){ .path = path, .count = AT_ONCE }, &permits, NULL);
        bool in = status == WEIR_OK && permits_enter(permits, NULL) != PERMITS_NOBODY;
        (void)!write(ready[1], in ? "y" : "n", 1);
        pause();
    }
    close(go[0]);
    close(go[1]);
    for (int i = 0; i < AT_ONCE; i++) {
        assert_int_equal(read(ready[0], &byte, 1), 1);
        assert_int_equal(byte, 'y');
    }
    weir_permits *permits = must_open(path, 0);
    weir_permits_read(permits, &stats);
    assert_int_equal(stats.pools, AT_ONCE);
    for (int i = 0; i < AT_ONCE; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    weir_permits_free(permits);
    close(ready[0]);
    close(ready[1]);
    unlink(path);
}

/* ---- who gets the next one ---------------------------------------------------------- */

static unsigned rung[8]; /* by member */

static void count_ring(const struct permits_member *member, void *arg)
{
    const weir_permits *permits = arg;

    rung[member - permits->table->members]++;
}

static struct permits_bell bell_for(weir_permits *permits)
{
    memset(rung, 0, sizeof rung);
    return (struct permits_bell){ count_ring, permits };
}

static void want(weir_permits *permits, int member, unsigned wants, bool urgent, int64_t since)
{
    struct permits_member *it = &permits->table->members[member];

    atomic_store(&it->wants, wants);
    atomic_store(&it->urgent, urgent);
    atomic_store(&it->since_ns, since);
}

static void have(weir_permits *permits, int member, unsigned used)
{
    atomic_store(&permits->table->members[member].used, used);
}

/* Whose it is; PERMITS_NOBODY: it is free. */
static int holder(const weir_permits *permits, int index)
{
    return (int)(uint32_t)permits->words[index] - 1;
}

static void a_permit_goes_to_whoever_should_have_it_next(void **state)
{
    weir_permits       *permits = must_open(NULL, 8);
    struct permits_bell bell = bell_for(permits);
    int                 m[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        m[i] = permits_enter(permits, &bell);
    assert_int_equal(permits_part(permits), 2);
    int index = take(permits, m[0]);
    want(permits, m[1], 1, false, 1); /* fills up, and came first */
    want(permits, m[2], 2, true, 5);  /* has its part already */
    have(permits, m[2], 2);
    want(permits, m[3], 1, true, 9);  /* has less than its part */

    int wanted[] = { m[3], m[2], m[2], m[1], PERMITS_NOBODY };
    for (int i = 0; i < 5; i++) {
        permits_pass(permits, (unsigned)index, permits->words[index], &bell);
        assert_int_equal(holder(permits, index), wanted[i]);
    }
    assert_int_equal(rung[m[3]], 1);
    assert_int_equal(rung[m[2]], 2);
    assert_int_equal(permits->table->members[m[2]].wants, 0);

    want(permits, m[1], 1, true, 7); /* of equals the one who waits longer */
    want(permits, m[3], 1, true, 6);
    permits_pass(permits, (unsigned)index, 0, &bell);
    assert_int_equal(holder(permits, index), m[3]);
    weir_permits_free(permits);
}

static void only_what_is_beyond_a_part_is_owed_and_only_to_those_below_theirs(void **state)
{
    weir_permits       *permits = must_open(NULL, 9);
    struct permits_bell bell = bell_for(permits);
    int                 m[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        m[i] = permits_enter(permits, &bell);
    have(permits, m[0], 7);
    assert_int_equal(permits_owed(permits, m[0]), 0); /* nobody waits */
    want(permits, m[1], 9, true, 1);
    have(permits, m[1], 1);
    assert_int_equal(permits_owed(permits, m[0]), 2); /* to its part */
    assert_int_equal(permits_owed(permits, m[1]), 0);
    want(permits, m[2], 9, true, 1);
    assert_int_equal(permits_owed(permits, m[0]), 4); /* never more than is beyond ours */
    want(permits, m[2], 1, false, 1);
    assert_int_equal(permits_owed(permits, m[0]), 2); /* nothing to one that only fills up */
    have(permits, m[1], 3);
    assert_int_equal(permits_owed(permits, m[0]), 0);
    weir_permits_free(permits);
}

/* ---- what is void ------------------------------------------------------------------- */

static void with_its_owner_all_permits_are_void_at_once(void **state)
{
    weir_permits       *permits = must_open(NULL, 4);
    struct permits_bell bell = bell_for(permits);
    weir_permits_stats  stats;

    (void)state;
    int gone = permits_enter(permits, &bell), other = permits_enter(permits, &bell);
    for (int i = 0; i < 4; i++)
        assert_int_equal(take(permits, gone), i);
    assert_int_equal(take(permits, other), PERMITS_NOBODY);
    want(permits, other, 3, true, 1);
    uint64_t tag = permits->table->members[gone].tag;
    permits_bury(permits, gone, tag, &bell);
    weir_permits_read(permits, &stats);
    assert_int_equal(stats.used, 3); /* handed to the other, and one is free */
    assert_int_equal(rung[other], 3);
    assert_int_equal(stats.pools, 1);

    /* Were it alive after all, it would get nothing more. */
    uint64_t its_word = (tag >> 32 << 32) | ((unsigned)gone + 1);
    assert_int_equal(permits_take(permits, its_word), PERMITS_NOBODY);

    /* Who comes into its place has nothing of it, and is not buried for it. */
    int next = permits_enter(permits, &bell);
    assert_int_equal(next, gone);
    assert_int_not_equal(take(permits, next), PERMITS_NOBODY);
    permits_bury(permits, gone, tag, &bell);
    weir_permits_read(permits, &stats);
    assert_int_equal(stats.pools, 2);
    assert_int_equal(stats.used, 4);
    weir_permits_free(permits);
}

/* One that a process dropped between its last step and the next. */
static void a_void_permit_can_be_taken_by_anybody(void **state)
{
    weir_permits       *permits = must_open(NULL, 2);
    struct permits_bell bell = bell_for(permits);

    (void)state;
    int member = permits_enter(permits, &bell);
    permits->words[0] = permits_word(permits, member) - (UINT64_C(1) << 32); /* a generation ago */
    permits->words[1] = UINT64_C(7) << 32 | 999;                          /* no member of ours */
    assert_int_equal(take(permits, member), 0);
    assert_int_equal(take(permits, member), 1);
    assert_int_equal(take(permits, member), PERMITS_NOBODY);
    weir_permits_free(permits);
}

static void pretend(weir_permits *permits, int member, pid_t pid, uint32_t birth)
{
    struct permits_member *it = &permits->table->members[member];
    uint64_t               generation = it->tag >> 32 << 32;

    it->tag = generation | (uint32_t)pid;
    it->birth = generation | birth;
}

static void a_number_given_to_another_process_is_not_mistaken_for_the_dead_one(void **state)
{
    weir_permits       *permits = must_open(NULL, 4);
    struct permits_bell bell = bell_for(permits);
    weir_permits_stats  stats;
    pid_t               parent = getppid();

    (void)state;
    for (int i = 0; i < 4; i++)
        permits_enter(permits, &bell);
    pretend(permits, 0, parent, life_birth(parent));     /* lives */
    pretend(permits, 1, parent, life_birth(parent) + 1); /* its number is our parent's by now */
    pretend(permits, 2, getpid(), life_birth(getpid()) + 1); /* ... is ours */
    permits_bury_all(permits, &bell);
    weir_permits_read(permits, &stats);
    assert_int_equal(stats.pools, 2);
    assert_int_equal(permits_pid(permits->table->members[0].tag), parent);
    assert_int_equal(permits_pid(permits->table->members[3].tag), getpid());

    /* When all places are taken, those of the dead are given away. */
    for (int i = 1; i < 3; i++)
        assert_int_equal(permits_enter(permits, &bell), i);
    assert_int_equal(permits_enter(permits, &bell), PERMITS_NOBODY);
    pretend(permits, 1, parent, life_birth(parent) + 1);
    assert_int_equal(permits_enter(permits, &bell), 1);
    weir_permits_free(permits);
}

/* ---- pools -------------------------------------------------------------------------- */

static weir_permits *shared;
static struct fake   others;

static unsigned used(void)
{
    weir_permits_stats stats;

    weir_permits_read(shared, &stats);
    return stats.used;
}

/* The stage's pool is made anew, with permits. */
static void share(struct scene *stage, unsigned count, weir_pool_opts opts)
{
    weir_pool_free(stage->pool);
    stage->fake.configs_freed = 0;
    EXPECT_STATUS(weir_permits_open(&(weir_permits_opts){ .count = count }, &shared, NULL),
                  WEIR_OK);
    opts.permits = shared;
    stage->pool = scene_pool(&stage->fake, opts);
}

SCENE(a_connection_has_a_permit_from_before_it_opens_until_it_is_closed, .max_size = 1)
{
    share(stage, 3, (weir_pool_opts){ .max_size = 10 });
    stage->fake.open.ms = stage->fake.close.ms = 20;
    scene_call(stage, (struct caller){ .hold_ms = 10, .parting = HAVE_CLOSED });
    world_settle();
    EXPECT_INT(used(), 1);
    world_advance_ms(35); /* saying goodbye */
    EXPECT_INT(stage->fake.alive, 0);
    EXPECT_INT(used(), 1);
    world_advance_ms(20);
    EXPECT_INT(used(), 0);
    weir_permits_free(shared);
}

SCENE(all_pools_together_keep_the_count, .max_size = 1)
{
    share(stage, 4, (weir_pool_opts){ .max_size = 10, .max_connecting = 10 });
    others = (struct fake){ .sockets = 1 };
    weir_pool *second = scene_pool(
        &others, (weir_pool_opts){ .max_size = 10, .max_connecting = 10, .permits = shared });
    for (int i = 0; i < 60; i++)
        scene_call(stage, (struct caller){ .pool = i % 2 ? second : stage->pool,
                                           .hold_ms = 5 + i % 7,
                                           .parting = i % 3 ? GIVE_BACK : HAVE_CLOSED });
    while (stage->playing) {
        EXPECT(stage->fake.alive + others.alive <= 4);
        EXPECT(used() <= 4);
        world_advance_ms(1);
    }
    EXPECT_INT(stage->turns, 60);
    weir_pool_free(second);
    EXPECT_INT(others.configs_freed, 1);
    weir_permits_free(shared);
}

SCENE(a_caller_who_waits_in_vain_leaves_no_want_behind, .max_size = 1)
{
    weir_permits_stats stats;

    share(stage, 2, (weir_pool_opts){ .max_size = 10 });
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .hold_ms = 5000 });
    struct caller *late = scene_call(stage, (struct caller){ .patience_ms = 100 });
    world_advance_ms(50);
    weir_permits_read(shared, &stats);
    EXPECT_INT(stats.waiting, 1);
    world_advance_ms(100);
    EXPECT_STATUS(late->status, WEIR_TIMEOUT);
    EXPECT_TEXT(late->err.message, "permits (2 of 2 used by 1 pools)");
    EXPECT_STATUS(weir_pool_pause(stage->pool, NULL), WEIR_OK);
    world_settle();
    weir_permits_read(shared, &stats);
    EXPECT_INT(stats.waiting, 0);
    EXPECT_INT(scene_stats(stage->pool).reserved, 0);
    scene_wait(stage, 10000);
    weir_permits_free(shared);
}

SCENE(more_pools_than_permits_are_refused, .max_size = 1)
{
    weir_pool *pool = (weir_pool *)1;
    weir_error err = { 0 };

    share(stage, 1, (weir_pool_opts){ .max_size = 10 });
    others = (struct fake){ .sockets = 1 };
    unsigned alarms = weir_hub_here()->alarm_reserved;
    EXPECT_STATUS(weir_pool_new(&fake_driver, &others, &(weir_pool_opts){ .permits = shared },
                                &pool, &err),
                  WEIR_FULL);
    EXPECT_INT(weir_hub_here()->alarm_reserved, alarms);
    EXPECT_INT(scene_budget().floors, 1 - scene_budget().used); /* the first pool's */
    EXPECT(pool == NULL);
    EXPECT_TEXT(err.message, "all 1 permits are promised");
    EXPECT_INT(others.configs_freed, 1);
    weir_pool_free(stage->pool);
    stage->fake.configs_freed = 0;
    stage->pool = scene_pool(&stage->fake, (weir_pool_opts){ .permits = shared });
    weir_permits_free(shared);
}

int main(void)
{
    if (under_valgrind()) {
        printf("skipped: valgrind has no pidfd_open(2)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_count_or_a_file_must_be_given),
        cmocka_unit_test(the_first_makes_the_file_and_others_share_it),
        cmocka_unit_test(what_is_no_file_of_ours_is_refused),
        cmocka_unit_test(many_that_come_at_once_share_one),
        cmocka_unit_test(a_permit_goes_to_whoever_should_have_it_next),
        cmocka_unit_test(only_what_is_beyond_a_part_is_owed_and_only_to_those_below_theirs),
        cmocka_unit_test(with_its_owner_all_permits_are_void_at_once),
        cmocka_unit_test(a_void_permit_can_be_taken_by_anybody),
        cmocka_unit_test(a_number_given_to_another_process_is_not_mistaken_for_the_dead_one),
        cmocka_unit_test(a_connection_has_a_permit_from_before_it_opens_until_it_is_closed),
        cmocka_unit_test(all_pools_together_keep_the_count),
        cmocka_unit_test(a_caller_who_waits_in_vain_leaves_no_want_behind),
        cmocka_unit_test(more_pools_than_permits_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
