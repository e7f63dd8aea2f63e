/*
 * test_pool_fork.c - a fork in the middle of a pool's life: the child's pool is empty and works,
 * nothing of it reaches the parent's server, and the parent goes on as if nothing had been.
 *
 * The child plays on in its copy of the world and of the fake server. What it found is written
 * where the parent sees it, and then it kills itself: a tool that counts what a process leaves
 * behind must not count what other coroutines held in it.
 */
#include "pool_scene.h"

#include "context.h"
#include "pool.h"
#include "under_valgrind.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/governor.h>
#include <weir/process.h>

enum { UNHEARD_OF, WELL, NOTED };

static int *verdict; /* of the child: in memory of both */

static _Noreturn void end_child(int found)
{
    *verdict = found;
    for (;;)
        kill(getpid(), SIGKILL);
}

/* Fork, have the child play its part, and see that it ended well. */
static void fork_and(struct scene *stage, void (*part)(struct scene *stage))
{
    unsigned before = expect_failures();

    *verdict = UNHEARD_OF;
    pid_t child = weir_fork();

    if (child == 0) {
        part(stage);
        if (expect_failures() == before)
            end_child(WELL);
        fprintf(stderr, "in the child:%s\n", expect_words());
        end_child(NOTED);
    }
    EXPECT(child > 0);
    EXPECT_INT(waitpid(child, NULL, 0), child);
    EXPECT_INT(*verdict, WELL);
}

static weir_lease *lease_one(struct scene *stage)
{
    weir_lease *lease = NULL;
    weir_error  err = { 0 };

    EXPECT_STATUS(weir_acquire(stage->pool, weir_in_ms(1000), &lease, &err), WEIR_OK);
    if (!lease)
        expect_note("%s", err.message);
    return lease;
}

/* One that can be lent is opened, lent and given back. */
static void use_afresh(struct scene *stage)
{
    unsigned    opened = stage->fake.opened;
    weir_lease *lease = lease_one(stage);

    if (!lease)
        return;
    EXPECT_INT(stage->fake.opened, opened + 1);
    EXPECT_STATUS(fake_query(lease, 1), WEIR_OK);
    EXPECT_STATUS(weir_release(lease), WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    scene_recount(stage->pool);
}

/* ---- what there was ----------------------------------------------------------------- */

static weir_lease *held; /* by whoever forks */

static void find_it_empty(struct scene *stage)
{
    weir_pool_stats stats = scene_stats(stage->pool);
    weir_error      err;

    EXPECT_INT(stage->fake.disowned, 4);
    EXPECT_INT(stats.in_use, 1); /* ours */
    EXPECT_INT(stats.idle, 0);
    EXPECT_INT(stats.opened, 0);
    world_settle();
    EXPECT_INT(stage->fake.closed, 2); /* those at rest; the one in mid-statement stays as it is */
    EXPECT_INT(stage->fake.abrupt, 2);
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_STATUS(fake_query(held, 1), WEIR_LOST);
    EXPECT_STATUS(weir_lease_error(held, &err), WEIR_LOST);
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    world_settle();
    EXPECT_INT(stage->fake.abrupt, 3);
    EXPECT_INT(scene_budget().used, 0);
    use_afresh(stage);
    EXPECT_INT(scene_budget().used, 1);
    weir_pool_free(stage->pool);
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 0);
    EXPECT_INT(stage->fake.closed - stage->fake.abrupt, 1); /* its own one, with a farewell */
}


/* One idle, one in mid-statement, one at rest in somebody's hands, one in ours. */
static struct caller *open_four(struct scene *stage)
{
    struct caller *busy = scene_call(stage, (struct caller){ .hold_ms = 500, .queries = true });

    scene_call(stage, (struct caller){ .hold_ms = 500 });
    world_advance_ms(10);
    weir_lease *spare = lease_one(stage);
    held = lease_one(stage);
    (void)weir_release(spare);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(scene_stats(stage->pool).in_use, 3);
    return busy;
}

SCENE(the_childs_pool_is_empty_and_may_be_used, .max_size = 5)
{
    struct caller  *busy = open_four(stage);
    weir_pool_stats before = scene_stats(stage->pool);

    fork_and(stage, find_it_empty);
    weir_pool_stats after = scene_stats(stage->pool);
    EXPECT(memcmp(&before, &after, sizeof before) == 0);
    EXPECT_INT(stage->fake.disowned, 0);
    EXPECT_STATUS(fake_query(held, 1), WEIR_OK);
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    scene_wait(stage, 1000);
    EXPECT_STATUS(busy->held, WEIR_OK);
    EXPECT_INT(stage->fake.closed, 0);
}

static void free_it_at_once(struct scene *stage)
{
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    weir_pool_free(stage->pool);
    EXPECT_INT(stage->fake.closed, 3);
    EXPECT_INT(stage->fake.abrupt, 3);
    EXPECT_INT(stage->fake.configs_freed, 1);
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 0);
}

SCENE(a_child_may_free_what_it_inherited, .max_size = 5)
{
    struct caller *busy = open_four(stage);

    fork_and(stage, free_it_at_once);
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    scene_wait(stage, 1000);
    EXPECT_STATUS(busy->held, WEIR_OK);
    EXPECT_INT(stage->fake.closed, 0);
}

/* Without a word of its own the child has let go all the same. */
static void do_nothing(struct scene *stage)
{
    EXPECT_INT(stage->fake.disowned, 4);
    EXPECT(!scene_logged("was not freed"));
}

SCENE(a_child_need_not_know_of_the_pool, .max_size = 5)
{
    (void)open_four(stage);
    fork_and(stage, do_nothing);
    (void)weir_release(held);
    scene_wait(stage, 1000);
}

/* ---- what was under way ------------------------------------------------------------- */

static void nobody_else_waits(struct scene *stage)
{
    weir_pool_stats stats = scene_stats(stage->pool);

    EXPECT_INT(stats.waiting, 0);
    EXPECT_INT(stats.connecting, 0);
    EXPECT_INT(stats.reserved, 0);
    EXPECT_INT(scene_budget().waiting, 0);
    EXPECT_INT(scene_budget().used, 0);
    scene_recount(stage->pool);
    stage->fake.open.ms = 1;
    use_afresh(stage);
}

SCENE(connections_being_opened_are_forgotten, .max_size = 5, .max_connecting = 3)
{
    stage->fake.open.ms = 300;
    scene_set_budget(2); /* the third waits for a descriptor */
    for (int i = 0; i < 6; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).connecting, 2);
    EXPECT_INT(scene_stats(stage->pool).reserved, 1);
    fork_and(stage, nobody_else_waits);
    EXPECT_INT(scene_stats(stage->pool).connecting, 2);
    scene_wait(stage, 5000);
    EXPECT_INT(stage->turns, 6);
    scene_set_budget(SCENE_DESCRIPTORS);
}

SCENE(resets_and_farewells_are_forgotten, .max_size = 5)
{
    weir_lease *one = lease_one(stage), *other = lease_one(stage);

    stage->fake.reset.ms = stage->fake.close.ms = 300;
    fake_leave(one, WEIR_DIRTY);
    (void)weir_release(one);
    (void)weir_lease_close(other);
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).resetting, 1);
    EXPECT_INT(scene_stats(stage->pool).closing, 1);
    fork_and(stage, nobody_else_waits);
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).idle, 1);
    EXPECT_INT(stage->fake.closed, 1);
}

enum { CONDEMNED = 40 };

static void say_them_once_more(struct scene *stage)
{
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_INT(stage->fake.closed, CONDEMNED);
    EXPECT_INT(stage->fake.abrupt, CONDEMNED);
    EXPECT_INT(stage->fake.handles, 0);
    (void)weir_release(lease_one(stage));
}

SCENE(goodbyes_that_nobody_had_begun_leave_nothing_behind, .max_size = CONDEMNED,
      .max_connecting = CONDEMNED)
{
    weir_lease *leases[CONDEMNED];

    for (int i = 0; i < CONDEMNED; i++)
        leases[i] = lease_one(stage);
    for (int i = 0; i < CONDEMNED; i++)
        (void)weir_release(leases[i]);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, NULL), WEIR_OK);
    EXPECT_INT(scene_stats(stage->pool).closing, CONDEMNED - 1);
    fork_and(stage, say_them_once_more);
    world_advance_ms(1000);
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_INT(stage->fake.abrupt, 0);
}

static void open_nothing_unasked(struct scene *stage)
{
    world_advance_ms(60 * 1000);
    EXPECT_INT(stage->fake.attempts, 2);
    EXPECT_INT(scene_stats(stage->pool).connecting, 0);
    (void)weir_release(lease_one(stage));
    world_advance_ms(60 * 1000);
    EXPECT_INT(stage->fake.attempts, 4);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
}

SCENE(min_idle_waits_for_the_childs_first_caller, .max_size = 5, .min_idle = 2)
{
    world_advance_ms(10);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
    fork_and(stage, open_nothing_unasked);
    EXPECT_INT(scene_stats(stage->pool).idle, 2);
}

static void nobody_pings_nor_is_put_off(struct scene *stage)
{
    EXPECT_INT(stage->pool->pings, 0);
    EXPECT_INT(stage->pool->parked, 0);
    world_settle();
    scene_recount(stage->pool);
    stage->fake.open = (struct fake_step){ 0 };
    stage->fake.ping.ms = 0;
    use_afresh(stage);
    world_advance_ms(5000);
    EXPECT(scene_stats(stage->pool).pings >= 4); /* those of the parent take no turn from it */
}

SCENE(pings_and_what_is_put_off_are_forgotten, .max_size = 5, .max_connecting = 1,
      .keepalive_ms = 1000)
{
    (void)weir_release(lease_one(stage));
    stage->fake.ping.ms = 5000;
    world_advance_ms(1100);
    EXPECT_INT(stage->pool->pings, 1);
    stage->fake.open = (struct fake_step){ WEIR_BUSY, 0, false, "Too many open files", 24 };
    scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_advance_ms(10);
    EXPECT_INT(stage->pool->parked, 0); /* the one that is pinged will do for him */
    scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_advance_ms(10);
    EXPECT_INT(stage->pool->parked, 1);
    fork_and(stage, nobody_pings_nor_is_put_off);
    EXPECT_INT(stage->pool->pings, 1);
    EXPECT_INT(stage->pool->parked, 1);
    stage->fake.open = (struct fake_step){ 0 };
    scene_wait(stage, 10000);
}

/* ---- the governor ------------------------------------------------------------------- */

static void govern(unsigned max_connecting)
{
    const weir_governor_opts opts = { .max_connecting = max_connecting };

    EXPECT_STATUS(weir_governor_set(&opts, NULL), WEIR_OK);
}

static weir_governor_stats governed(void)
{
    weir_governor_stats stats;

    weir_governor_read(&stats);
    return stats;
}

static void connect_as_if_alone(struct scene *stage)
{
    EXPECT_INT(governed().connecting, 0);
    EXPECT_INT(governed().waiting, 0);
    EXPECT_INT(governed().begun, 0);
    EXPECT_INT(stage->pool->line.waiting, 0);
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1000 });
    world_settle();
    EXPECT_INT(governed().connecting, 2); /* the limit is still there */
    EXPECT_INT(governed().waiting, 2);
    world_advance_ms(700);
    EXPECT_INT(governed().connecting, 0);
    EXPECT_INT(scene_stats(stage->pool).in_use, 4);
}

SCENE(the_childs_connects_are_governed_without_its_parents, .max_size = 5, .max_connecting = 5)
{
    govern(2);
    stage->fake.open.ms = 300;
    for (int i = 0; i < 4; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    world_advance_ms(10);
    EXPECT_INT(governed().connecting, 2);
    EXPECT_INT(governed().waiting, 2);
    fork_and(stage, connect_as_if_alone);
    EXPECT_INT(governed().connecting, 2);
    EXPECT_INT(governed().waiting, 2);
    scene_wait(stage, 5000);
    EXPECT_INT(stage->turns, 4);
    world_advance_ms(1000);
    EXPECT_INT(governed().connecting, 0);
    EXPECT_STATUS(weir_governor_set(NULL, NULL), WEIR_OK);
}

static void its_own_is_under_way(struct scene *stage)
{
    (void)stage;
    EXPECT_INT(governed().connecting, 1);
}

static void fork_before_it_opens(const weir_pool_event *event, void *arg)
{
    if (event->type == WEIR_EVENT_CONN_CREATED && event->conn_id == 2)
        fork_and(arg, its_own_is_under_way);
}

SCENE(an_attempt_that_forks_keeps_its_leave, .max_size = 5, .max_connecting = 5)
{
    govern(2);
    stage->fake.open.ms = 10;
    weir_pool_on_event(stage->pool, fork_before_it_opens, stage);
    for (int i = 0; i < 2; i++)
        scene_call(stage, (struct caller){ .hold_ms = 1 });
    scene_wait(stage, 1000);
    EXPECT_INT(governed().connecting, 0);
    EXPECT_STATUS(weir_governor_set(NULL, NULL), WEIR_OK);
}

/* ---- the account -------------------------------------------------------------------- */

static weir_budget_token token;

static weir_status take_much(void *arg)
{
    weir_budget_token mine;

    EXPECT_STATUS(weir_budget_take(8, WEIR_FOREVER, &mine, arg), WEIR_OK);
    weir_budget_give(&mine);
    return WEIR_OK;
}

static void count_afresh(struct scene *stage)
{
    world_settle(); /* what the others held is closed */
    weir_budget_stats budget = scene_budget();

    EXPECT_INT(budget.limit, 10); /* as it was set */
    EXPECT_INT(budget.waiting, 0);
    EXPECT_INT(budget.used, 3 + 1); /* a token's are open here, too; and the lease we hold */
    weir_budget_give(&token);
    EXPECT_INT(scene_budget().used, 1);
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    world_settle();
    EXPECT_INT(scene_budget().used, 0);
    EXPECT_INT(scene_budget().floors, 1);
    use_afresh(stage);
}

SCENE(the_childs_account_is_its_own, .max_size = 5)
{
    scene_set_budget(10);
    for (int i = 0; i < 3; i++)
        scene_call(stage, (struct caller){ .hold_ms = 100 });
    world_settle();
    held = lease_one(stage);
    EXPECT_STATUS(weir_budget_take(3, WEIR_NOW, &token, NULL), WEIR_OK);
    scene_spawn(stage, take_much, NULL);
    world_advance_ms(5);
    EXPECT_INT(scene_budget().waiting, 1);
    fork_and(stage, count_afresh);
    EXPECT_INT(scene_budget().used, 7);
    EXPECT_INT(scene_budget().waiting, 1);
    weir_budget_give(&token);
    (void)weir_release(held);
    scene_wait(stage, 5000);
    scene_set_budget(SCENE_DESCRIPTORS);
}

/* ---- events ------------------------------------------------------------------------- */

static unsigned told;

static void count_event(const weir_pool_event *event, void *arg)
{
    (void)event, (void)arg;
    told++;
}

static void hear_nothing(struct scene *stage)
{
    told = 0;
    world_settle();
    EXPECT_INT(told, 0);
    EXPECT_INT(stage->fake.abrupt, 1);
    use_afresh(stage);
    EXPECT_INT(told, 5); /* of its own one: started, created, ready, checked out, checked in */
}

SCENE(the_parents_connections_end_without_an_event, .on_event = count_event)
{
    (void)weir_release(lease_one(stage));
    fork_and(stage, hear_nothing);
}

static weir_pool_event_type moment;
static pid_t                forked; /* by the listener; -1: not yet */

static void fork_in_it(const weir_pool_event *event, void *arg)
{
    (void)arg;
    if (event->type == moment && forked < 0)
        forked = weir_fork();
}

/* Everything that is told of in the coroutine of who does it. */
static void do_all_there_is(struct scene *stage)
{
    weir_lease *leases[] = { lease_one(stage), lease_one(stage), lease_one(stage) };

    (void)weir_lease_close(leases[0]);
    (void)weir_release(leases[1]);
    (void)weir_release(leases[2]);
    (void)weir_release(lease_one(stage));
    EXPECT_STATUS(weir_pool_resize(stage->pool, 1, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_resize(stage->pool, 3, NULL), WEIR_OK);
    EXPECT_STATUS(weir_pool_clear(stage->pool, true, NULL, NULL), WEIR_OK);
    weir_lease *none = NULL;
    EXPECT_STATUS(weir_acquire(stage->pool, WEIR_NOW, &none, NULL), WEIR_CONNECT);
    EXPECT_STATUS(weir_pool_ready(stage->pool, NULL), WEIR_OK);
    world_advance_ms(10);
    (void)weir_release(lease_one(stage));
    EXPECT_INT(scene_stats(stage->pool).closing, 0);
    EXPECT_INT(scene_stats(stage->pool).in_use, 0);
}

SCENE(a_listener_may_fork_in_the_middle_of_anything, .max_size = 3)
{
    static const weir_pool_event_type moments[] = {
        WEIR_EVENT_POOL_READY,        WEIR_EVENT_POOL_CLEARED, WEIR_EVENT_CHECK_OUT_STARTED,
        WEIR_EVENT_CHECK_OUT_FAILED,  WEIR_EVENT_CHECKED_OUT,  WEIR_EVENT_CHECKED_IN,
        WEIR_EVENT_CONN_CLOSED,
    };

    (void)weir_release(lease_one(stage));
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        unsigned before = expect_failures();
        moment = moments[i];
        forked = -1;
        *verdict = UNHEARD_OF;
        weir_pool_on_event(stage->pool, fork_in_it, NULL);
        do_all_there_is(stage);
        weir_pool_on_event(stage->pool, NULL, NULL);
        if (forked == 0)
            end_child(expect_failures() == before && !stage->fake.fault ? WELL : NOTED);
        EXPECT_INT(waitpid(forked, NULL, 0), forked);
        EXPECT_INT(*verdict, WELL);
    }
}

/* ---- permits ------------------------------------------------------------------------ */

static weir_permits *permits;

static void join_anew(struct scene *stage)
{
    weir_permits_stats stats;

    weir_permits_read(permits, &stats);
    EXPECT_INT(stats.used, 2); /* still the parent's */
    EXPECT_INT(stats.pools, 1);
    EXPECT_STATUS(weir_release(held), WEIR_OK);
    world_settle();
    weir_permits_read(permits, &stats);
    EXPECT_INT(stats.used, 2);
    use_afresh(stage);
    weir_permits_read(permits, &stats);
    EXPECT_INT(stats.used, 3);
    EXPECT_INT(stats.pools, 2);
    weir_pool_free(stage->pool);
    weir_permits_read(permits, &stats);
    EXPECT_INT(stats.used, 2);
    EXPECT_INT(stats.pools, 1);
}

SCENE(a_child_does_not_own_its_parents_permits, .max_size = 5)
{
    weir_error err = { 0 };

    if (under_valgrind())
        return; /* which has no pidfd_open(2) */
    weir_pool_free(stage->pool);
    EXPECT_STATUS(weir_permits_open(&(weir_permits_opts){ .count = 3 }, &permits, &err), WEIR_OK);
    stage->fake.configs_freed = 0;
    stage->pool = scene_pool(&stage->fake, (weir_pool_opts){ .permits = permits });
    held = lease_one(stage);
    (void)weir_release(lease_one(stage));
    fork_and(stage, join_anew);
    weir_permits_stats stats;
    weir_permits_read(permits, &stats);
    EXPECT_INT(stats.used, 2);
    EXPECT_INT(stats.pools, 1);
    (void)weir_release(held);
    weir_permits_free(permits); /* the pool keeps what it needs */
}

int main(void)
{
#ifdef CONTEXT_TSAN
    printf("skipped: ThreadSanitizer does not follow fibers into the child of a fork\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_childs_pool_is_empty_and_may_be_used),
        cmocka_unit_test(a_child_may_free_what_it_inherited),
        cmocka_unit_test(a_child_need_not_know_of_the_pool),
        cmocka_unit_test(connections_being_opened_are_forgotten),
        cmocka_unit_test(resets_and_farewells_are_forgotten),
        cmocka_unit_test(goodbyes_that_nobody_had_begun_leave_nothing_behind),
        cmocka_unit_test(min_idle_waits_for_the_childs_first_caller),
        cmocka_unit_test(pings_and_what_is_put_off_are_forgotten),
        cmocka_unit_test(the_childs_connects_are_governed_without_its_parents),
        cmocka_unit_test(an_attempt_that_forks_keeps_its_leave),
        cmocka_unit_test(the_childs_account_is_its_own),
        cmocka_unit_test(the_parents_connections_end_without_an_event),
        cmocka_unit_test(a_listener_may_fork_in_the_middle_of_anything),
        cmocka_unit_test(a_child_does_not_own_its_parents_permits),
    };

    verdict = mmap(NULL, sizeof *verdict, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                   0);
    return verdict == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
