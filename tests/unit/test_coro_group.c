/*
 * test_coro_group.c - tasks that are waited for together, on a clock that jumps.
 */
#include "coro_unit.h"

#include <stdlib.h>

static weir_group *new_group(const weir_group_opts *opts)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(opts, &group, NULL), WEIR_OK);
    HOLDS(group != NULL);
    return group;
}

static weir_status do_nothing(void *arg)
{
    (void)arg;
    return WEIR_OK;
}

static weir_status sleep_100_ms(void *arg)
{
    (void)arg;
    return sleep_ms(100);
}

static weir_status sleep_for_ever(void *arg)
{
    (void)arg;
    return weir_sleep(WEIR_FOREVER);
}

/* Somebody who sleeps and ends as he is told. */
struct part {
    int64_t     ms;
    weir_status ends;
    bool        done;
    int64_t     at_ms;
};

static weir_status play(void *arg)
{
    struct part *part = arg;

    weir_status status = sleep_ms(part->ms);
    part->done = true;
    part->at_ms = world_now_ms();
    return status == WEIR_OK ? part->ends : status;
}

/* What weir_group_each() tells, as text: name=status, one after the other. */
struct roll {
    char     text[1024];
    unsigned count;
    unsigned done;
};

static void call_name(const weir_member *member, void *arg)
{
    struct roll *roll = arg;
    size_t       length = strlen(roll->text);

    roll->count++;
    roll->done += member->done;
    HOLDS(strstr(member->site, "test_coro_group.c:") != NULL);
    HOLDS_EQ(member->task != NULL, member->id != 0);
    if (member->task)
        HOLDS_EQ(weir_task_id(member->task), member->id);
    if (roll->count <= 20)
        snprintf(roll->text + length, sizeof roll->text - length, "%s=%s ", member->name,
                 member->done ? weir_status_name(member->status) : "running");
}

static struct roll call_roll(weir_group *group)
{
    struct roll roll = { .text = "" };

    weir_group_each(group, call_name, &roll);
    return roll;
}

static weir_task *spawn_part(weir_group *group, const char *name, struct part *part)
{
    return weir_spawn_with(group, &(weir_spawn_opts){ .name = name }, play, part);
}

/* ---- together ----------------------------------------------------------------------- */

static weir_status thirty_at_once(void *arg)
{
    weir_group *group = new_group(NULL);

    (void)arg;
    for (int i = 0; i < 30; i++)
        HOLDS(weir_spawn(group, sleep_100_ms, NULL) != NULL);
    HOLDS_EQ(weir_group_running(group), 30);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(world_now_ns(), 100 * 1000000);
    HOLDS_EQ(weir_group_running(group), 0);
    HOLDS_EQ(weir_group_spawned(group), 30);
    HOLDS_EQ(weir_group_failed(group), 0);
    HOLDS_EQ(weir_group_wait(group, WEIR_NOW), WEIR_OK); /* as often as one likes */
    weir_group_free(group);
    return WEIR_OK;
}

static void thirty_calls_of_100_ms_take_100_ms(void **state)
{
    (void)state;
    run_world(thirty_at_once, NULL);
}

static weir_status count_one(void *arg)
{
    weir_yield();
    ++*(int *)arg;
    return WEIR_OK;
}

static weir_status very_many(void *arg)
{
    int         many = as_many_as(10000, 1000), count = 0;
    weir_group *group = new_group(NULL);

    (void)arg;
    for (int i = 0; i < many; i++)
        HOLDS(weir_spawn(group, count_one, &count) != NULL);
    HOLDS_EQ(count, 0);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(count, many);
    HOLDS_EQ(weir_group_spawned(group), many);
    struct roll roll = call_roll(group);
    HOLDS_EQ(roll.count, many);
    HOLDS_EQ(roll.done, many);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_group_may_have_ten_thousand_members(void **state)
{
    (void)state;
    run_world(very_many, NULL);
}

static weir_status wait_in_vain(void *arg)
{
    struct part slow = { .ms = 100 };
    weir_group *group = new_group(NULL);

    (void)arg;
    HOLDS_EQ(weir_group_wait(group, WEIR_NOW), WEIR_OK); /* an empty one has ended */
    spawn_part(group, "slow", &slow);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(30)), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 30);
    HOLDS_EQ(weir_group_running(group), 1);
    HOLDS_EQ(weir_group_wait(group, WEIR_NOW), WEIR_TIMEOUT);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK); /* the member was left alone */
    HOLDS_EQ(slow.at_ms, 100);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_wait_that_ends_early_leaves_members_running(void **state)
{
    (void)state;
    run_world(wait_in_vain, NULL);
}

static weir_status wait_for_my_own(void *arg)
{
    return weir_group_wait(arg, WEIR_FOREVER);
}

static weir_status have_a_member_wait(void *arg)
{
    weir_group *group = new_group(NULL);

    (void)arg;
    weir_spawn(group, wait_for_my_own, group);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_USAGE);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_member_that_waits_for_its_group_is_refused(void **state)
{
    (void)state;
    run_world(have_a_member_wait, NULL);
}

/* ---- failures ----------------------------------------------------------------------- */

static weir_status fail_in_turns(void *arg)
{
    struct part parts[] = {
        { .ms = 30, .ends = WEIR_SERVER }, { .ms = 10 },
        { .ms = 20, .ends = WEIR_LOST },   { .ms = 20, .ends = WEIR_FAILED },
        { .ms = 40 },
    };
    static const char *const names[] = { "late", "quick", "first", "second", "slow" };
    weir_group *group = new_group(NULL);

    (void)arg;
    for (int i = 0; i < 5; i++)
        spawn_part(group, names[i], &parts[i]);
    sleep_ms(25);
    struct roll roll = call_roll(group);
    HOLDS(strcmp(roll.text, "first=LOST second=FAILED quick=OK late=running slow=running ") == 0);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_LOST); /* the first in time */
    HOLDS_EQ(world_now_ms(), 40);                              /* and nobody was cut short */
    roll = call_roll(group);
    HOLDS(strcmp(roll.text, "first=LOST second=FAILED late=SERVER quick=OK slow=OK ") == 0);
    HOLDS_EQ(weir_group_failed(group), 3);
    weir_group_free(group);
    return WEIR_OK;
}

static void the_first_failure_is_told_and_every_status_kept(void **state)
{
    (void)state;
    run_world(fail_in_turns, NULL);
}

static weir_status keep_less(void *arg)
{
    weir_group *failures = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_FAILURES });
    weir_group *counts = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    struct part parts[] = { { .ms = 1 }, { .ms = 3, .ends = WEIR_LOST },
                            { .ms = 2, .ends = WEIR_FULL } };
    weir_group *nonsense;
    weir_error  err;

    (void)arg;
    for (int i = 0; i < 3; i++) {
        spawn_part(failures, i == 1 ? "lost" : i == 2 ? "full" : "well", &parts[i]);
        spawn_part(counts, "counted", &parts[i]);
    }
    HOLDS_EQ(call_roll(failures).count, 3);
    HOLDS_EQ(weir_group_wait(failures, WEIR_FOREVER), WEIR_FULL);
    HOLDS_EQ(weir_group_wait(counts, WEIR_FOREVER), WEIR_FULL);
    struct roll roll = call_roll(failures);
    HOLDS(strcmp(roll.text, "full=FULL lost=LOST ") == 0);
    HOLDS_EQ(call_roll(counts).count, 0);
    HOLDS_EQ(weir_group_spawned(counts), 3);
    HOLDS_EQ(weir_group_failed(counts), 2);
    weir_group_free(failures);
    weir_group_free(counts);
    HOLDS_EQ(weir_group_new(NULL, NULL, &err), WEIR_USAGE);
    HOLDS_EQ(weir_group_new(&(weir_group_opts){ .keep = 7 }, &nonsense, &err), WEIR_USAGE);
    HOLDS(nonsense == NULL);
    return WEIR_OK;
}

static void a_group_remembers_as_much_as_it_is_asked_to(void **state)
{
    (void)state;
    run_world(keep_less, NULL);
}

static weir_status grow_old(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_FAILURES });
    weir_task  *seen[2] = { NULL, NULL };

    (void)arg;
    for (int i = 0; i < 1000; i++) {
        weir_task *task = weir_spawn(group, do_nothing, NULL);
        if (i < 2)
            seen[i] = task;
        else
            HOLDS(task == seen[0] || task == seen[1]); /* records are used again */
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    }
    weir_group_free(group);
    return WEIR_OK;
}

static void a_group_as_old_as_the_service_does_not_grow(void **state)
{
    (void)state;
    run_world(grow_old, NULL);
}

/* ---- bounds ------------------------------------------------------------------------- */

static weir_status spawn_ten_into_three(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 3 });

    (void)arg;
    for (int i = 0; i < 10; i++) {
        HOLDS(weir_spawn(group, sleep_100_ms, NULL) != NULL);
        HOLDS_EQ(world_now_ms(), i / 3 * 100); /* the caller waited for a place */
        HOLDS(weir_group_running(group) <= 3);
    }
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 400);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_full_group_makes_its_spawner_wait(void **state)
{
    (void)state;
    run_world(spawn_ten_into_three, NULL);
}

struct queue_up {
    weir_group *group;
    char       *order;
    char        name[2];
};

static weir_status sign_in(void *arg)
{
    struct queue_up *me = arg;

    strcat(me->order, me->name);
    return sleep_ms(10);
}

static weir_status queue_up(void *arg)
{
    struct queue_up *me = arg;

    HOLDS(weir_spawn(me->group, sign_in, me) != NULL);
    return WEIR_OK;
}

static weir_status several_spawners(void *arg)
{
    char            order[16] = "";
    weir_group     *group = new_group(&(weir_group_opts){ .max_running = 1 });
    weir_group     *spawners = new_group(NULL);
    struct queue_up queue[6];

    (void)arg;
    for (int i = 0; i < 6; i++) {
        queue[i] = (struct queue_up){ group, order, { (char)('a' + i), 0 } };
        weir_spawn(spawners, queue_up, &queue[i]);
    }
    /* One who comes just when a place falls free does not slip in before those who wait. */
    sleep_ms(10);
    struct queue_up late = { group, order, "z" };
    HOLDS(weir_spawn(group, sign_in, &late) != NULL);
    HOLDS_EQ(weir_group_wait(spawners, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS(strcmp(order, "abcdefz") == 0);
    HOLDS_EQ(world_now_ms(), 70);
    weir_group_free(spawners);
    weir_group_free(group);
    return WEIR_OK;
}

static void places_are_handed_over_in_the_order_of_asking(void **state)
{
    (void)state;
    run_world(several_spawners, NULL);
}

static weir_status give_up_waiting_for_a_place(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 1 });
    struct part slow = { .ms = 100 };

    (void)arg;
    spawn_part(group, "slow", &slow);
    {
        WEIR_DEADLINE(weir_in_ms(30));
        HOLDS(weir_spawn(group, do_nothing, NULL) == NULL);
        HOLDS_EQ(world_now_ms(), 30);
    }
    HOLDS_EQ(weir_group_running(group), 1);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_TIMEOUT); /* as if a member had failed */
    HOLDS_EQ(world_now_ms(), 100);
    struct roll roll = call_roll(group);
    HOLDS(strcmp(roll.text, "coroutine=TIMEOUT slow=OK ") == 0);
    HOLDS_EQ(weir_group_failed(group), 1);
    HOLDS(weir_spawn(group, do_nothing, NULL) != NULL); /* the place was not lost */
    HOLDS_EQ(weir_group_running(group), 1);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_spawn_that_gives_up_is_told_by_the_wait(void **state)
{
    (void)state;
    run_world(give_up_waiting_for_a_place, NULL);
}

struct generation {
    weir_group *group;
    int         left;
    int         spawned, refused;
};

static weir_status spawn_into_my_own(void *arg)
{
    struct generation *g = arg;

    if (g->left-- > 0) {
        if (weir_spawn(g->group, spawn_into_my_own, g))
            g->spawned++;
        else
            g->refused++;
    }
    return WEIR_OK;
}

static weir_status fill_up_from_inside(void *arg)
{
    for (unsigned bound = 1; bound <= 3; bound++) {
        weir_group       *group = new_group(&(weir_group_opts){ .max_running = bound });
        struct generation g = { .group = group, .left = 20 };
        (void)arg;
        for (unsigned i = 0; i < bound; i++)
            weir_spawn(group, spawn_into_my_own, &g);
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_DEADLOCK);
        HOLDS(g.refused >= 1);
        HOLDS_EQ(weir_group_failed(group), g.refused);
        HOLDS_EQ(weir_group_spawned(group), (int)bound + g.spawned);
        HOLDS_EQ(world_now_ms(), 0);
        weir_group_free(group);
    }
    return WEIR_OK;
}

static void a_full_group_that_spawns_into_itself_is_a_deadlock_and_no_hang(void **state)
{
    (void)state;
    run_world(fill_up_from_inside, NULL);
}

/* A member that waits for a helper outside of the group, who spawns into it. */
struct maze {
    weir_group   *group, *extras;
    weir_task    *first;
    weir_deadline patience; /* of the member */
    unsigned      members;
    int           refused, made;
};

static weir_status help_by_spawning(void *arg)
{
    struct maze *maze = arg;

    if (weir_spawn(maze->group, do_nothing, NULL))
        maze->made++;
    else
        maze->refused++;
    return WEIR_OK;
}

static weir_status wait_for_a_helper(void *arg)
{
    struct maze *maze = arg;
    weir_group  *helpers = new_group(NULL);

    weir_spawn(helpers, help_by_spawning, maze);
    (void)weir_group_wait(helpers, maze->patience);
    weir_group_free(helpers);
    return WEIR_OK;
}

static weir_status tick_for_ever(void *arg)
{
    (void)arg;
    while (sleep_ms(10) == WEIR_OK)
        continue;
    return WEIR_OK;
}

static weir_status help_in_vain(void *arg)
{
    struct maze *maze = arg;
    weir_task   *ticker = weir_spawn(NULL, tick_for_ever, NULL); /* so the hub is never idle */

    maze->group = new_group(&(weir_group_opts){ .max_running = maze->members });
    for (unsigned i = 0; i < maze->members; i++)
        weir_spawn(maze->group, wait_for_a_helper, maze);
    weir_status status = weir_group_wait(maze->group, weir_in_ms(1000));
    HOLDS_EQ(status, WEIR_DEADLOCK);
    HOLDS_EQ(world_now_ms(), 0); /* told at once */
    weir_group_free(maze->group);
    weir_cancel(ticker);
    return WEIR_OK;
}

static void so_is_one_whose_members_wait_for_others_that_spawn_into_it(void **state)
{
    (void)state;
    for (unsigned members = 1; members <= 3; members++) {
        struct maze maze = { .members = members, .patience = WEIR_FOREVER };
        run_world(help_in_vain, &maze);
        assert_int_equal(maze.refused, 1);
        assert_int_equal(maze.made, members - 1); /* he gave up, so the others went on */
    }
}

/* Who has a deadline will go on by himself, and makes a place. */
static weir_status wait_for_an_extra(void *arg)
{
    struct maze *maze = arg;

    weir_spawn(maze->extras, help_by_spawning, maze);
    HOLDS_EQ(weir_group_wait(maze->extras, maze->patience), WEIR_TIMEOUT);
    return WEIR_OK;
}

static weir_status help_the_impatient(void *arg)
{
    struct maze *maze = arg;

    maze->patience = weir_in_ms(50);
    maze->group = new_group(&(weir_group_opts){ .max_running = 1 });
    maze->extras = new_group(NULL);
    weir_spawn(maze->group, wait_for_an_extra, maze);
    HOLDS_EQ(weir_group_wait(maze->group, weir_in_ms(1000)), WEIR_OK);
    HOLDS_EQ(weir_group_wait(maze->extras, weir_in_ms(1000)), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 50);
    weir_group_free(maze->group);
    weir_group_free(maze->extras);
    return WEIR_OK;
}

static void one_that_waits_with_a_deadline_may_end_yet(void **state)
{
    struct maze maze = { .members = 1 };

    (void)state;
    run_world(help_the_impatient, &maze);
    assert_int_equal(maze.made, 1);
    assert_int_equal(maze.refused, 0);
}

static weir_status join_the_first(void *arg)
{
    struct maze *maze = arg;

    return weir_join(maze->first, WEIR_FOREVER, NULL);
}

static weir_status yield_and_spawn(void *arg)
{
    weir_yield(); /* until it is joined */
    return help_by_spawning(arg);
}

static weir_status join_in_vain(void *arg)
{
    struct maze *maze = arg;
    weir_task   *ticker = weir_spawn(NULL, tick_for_ever, NULL);

    maze->group = new_group(&(weir_group_opts){ .max_running = 2 });
    maze->first = weir_spawn(maze->group, yield_and_spawn, maze);
    weir_spawn(maze->group, join_the_first, maze);
    HOLDS_EQ(weir_group_wait(maze->group, weir_in_ms(1000)), WEIR_DEADLOCK);
    HOLDS_EQ(maze->refused, 1);
    HOLDS_EQ(world_now_ms(), 0);
    weir_group_free(maze->group);
    weir_cancel(ticker);
    return WEIR_OK;
}

static void and_one_whose_members_join_each_other(void **state)
{
    struct maze maze = { .refused = 0 };

    (void)state;
    run_world(join_in_vain, &maze);
}

static weir_status spawn_one_beside_a_sleeper(void *arg)
{
    HOLDS(weir_spawn(arg, do_nothing, NULL) != NULL);
    return WEIR_OK;
}

static weir_status one_inside_waits_for_another_to_end(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 2 });

    (void)arg;
    weir_spawn(group, sleep_100_ms, NULL);
    weir_spawn(group, spawn_one_beside_a_sleeper, group);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK); /* that is a wait, not a deadlock */
    HOLDS_EQ(world_now_ms(), 100);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_member_may_wait_for_a_place_that_another_will_give(void **state)
{
    (void)state;
    run_world(one_inside_waits_for_another_to_end, NULL);
}

static void refused_outside(weir_alarm *alarm)
{
    (void)alarm;
    HOLDS(weir_self() == NULL);
}

static weir_group *full_group;

static void spawn_into_the_full_group(weir_alarm *alarm)
{
    refused_outside(alarm);
    HOLDS(weir_spawn(full_group, do_nothing, NULL) == NULL);
}

static weir_status spawn_from_the_hub(void *arg)
{
    weir_alarm alarm = { 0 };

    (void)arg;
    full_group = new_group(&(weir_group_opts){ .max_running = 1 });
    weir_spawn(full_group, sleep_100_ms, NULL);
    HOLDS_EQ(weir_alarm_reserve(1), WEIR_OK);
    weir_alarm_set(&alarm, weir_in_ms(10).at_ns, spawn_into_the_full_group);
    HOLDS_EQ(weir_group_wait(full_group, WEIR_FOREVER), WEIR_FULL);
    HOLDS_EQ(weir_alarm_reserve(-1), WEIR_OK);
    weir_group_free(full_group);
    return WEIR_OK;
}

static void outside_a_coroutine_a_full_group_refuses(void **state)
{
    (void)state;
    run_world(spawn_from_the_hub, NULL);
}

/* ---- deadlines ---------------------------------------------------------------------- */

static weir_status limit_a_group(void *arg)
{
    struct part slow = { .ms = 100 }, quick = { .ms = 10 };
    weir_group *group = new_group(&(weir_group_opts){ .deadline = weir_in_ms(30) });

    (void)arg;
    spawn_part(group, "slow", &slow);
    spawn_part(group, "quick", &quick);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 30);
    HOLDS_EQ(quick.at_ms, 10);
    weir_group_free(group);

    WEIR_DEADLINE(weir_in_ms(20)); /* a scope around its making counts as well */
    group = new_group(&(weir_group_opts){ .deadline = weir_in_ms(70) });
    spawn_part(group, "slow", &slow);
    {
        WEIR_SHIELD(WEIR_FOREVER);
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_TIMEOUT);
    }
    HOLDS_EQ(world_now_ms(), 50);
    weir_group_free(group);
    return WEIR_OK;
}

static void members_obey_the_groups_deadline_and_the_scope_it_was_made_in(void **state)
{
    (void)state;
    run_world(limit_a_group, NULL);
}

/* ---- cancelling and freeing --------------------------------------------------------- */

static weir_status cancel_a_group(void *arg)
{
    weir_group *group = new_group(NULL);

    (void)arg;
    for (int i = 0; i < 5; i++)
        weir_spawn(group, sleep_for_ever, NULL);
    sleep_ms(10);
    weir_group_cancel(group);
    HOLDS(weir_spawn(group, do_nothing, NULL) == NULL); /* new ones are refused */
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(world_now_ms(), 10);
    HOLDS_EQ(weir_group_failed(group), 6);
    HOLDS_EQ(weir_group_spawned(group), 5);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_cancelled_group_ends_and_takes_nobody_in(void **state)
{
    (void)state;
    run_world(cancel_a_group, NULL);
}

static weir_status spawn_in_vain(void *arg)
{
    HOLDS(weir_spawn(arg, sleep_for_ever, NULL) == NULL);
    return WEIR_OK;
}

static weir_status cancel_while_spawners_wait(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 1 });
    weir_group *spawners = new_group(NULL);

    (void)arg;
    weir_spawn(group, sleep_for_ever, NULL);
    weir_spawn(spawners, spawn_in_vain, group);
    weir_spawn(spawners, spawn_in_vain, group);
    sleep_ms(10);
    weir_group_cancel(group);
    HOLDS_EQ(weir_group_wait(spawners, weir_in_ms(50)), WEIR_OK);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(weir_group_spawned(group), 1);
    HOLDS_EQ(weir_group_failed(group), 3);
    weir_group_free(spawners);
    weir_group_free(group);
    return WEIR_OK;
}

static void who_waits_for_a_place_in_a_cancelled_group_is_refused(void **state)
{
    (void)state;
    run_world(cancel_while_spawners_wait, NULL);
}

/* The member ends and hands its place over; before the spawner has run, the group is cancelled. */
static weir_status cancel_after_the_hand_over(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 1 });
    weir_group *spawners = new_group(NULL);
    struct part part = { .ms = 10 };

    (void)arg;
    weir_task *member = spawn_part(group, "member", &part);
    weir_spawn(spawners, spawn_in_vain, group);
    weir_yield();
    sleep_ms(10); /* our alarm comes after his: we wake when he has ended, before the spawner */
    HOLDS(weir_task_done(member));
    HOLDS_EQ(weir_group_running(group), 1);
    weir_group_cancel(group);
    HOLDS_EQ(weir_group_wait(spawners, weir_in_ms(50)), WEIR_OK);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(50)), WEIR_CANCELED);
    HOLDS_EQ(weir_group_running(group), 0);
    HOLDS_EQ(weir_group_spawned(group), 1);
    weir_group_free(spawners);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_place_handed_over_just_before_the_cancel_is_refused_too(void **state)
{
    (void)state;
    run_world(cancel_after_the_hand_over, NULL);
}

static weir_status take_time_to_end(void *arg)
{
    (void)weir_sleep(WEIR_FOREVER);
    WEIR_SHIELD(weir_in_ms(1000));
    sleep_ms(50);
    *(bool *)arg = true;
    return WEIR_OK;
}

static weir_status free_a_running_group(void *arg)
{
    bool ended = false;

    (void)arg;
    weir_cancel(weir_self()); /* not even that cuts it short */
    {
        weir_autoptr(weir_group) group = new_group(NULL);
        WEIR_DEADLINE(WEIR_NOW);
        weir_spawn(group, take_time_to_end, &ended);
        WEIR_SHIELD(WEIR_FOREVER);
        sleep_ms(10);
    }
    HOLDS(ended);
    HOLDS_EQ(world_now_ms(), 60);
    weir_group_free(NULL);
    return WEIR_OK;
}

static void freeing_a_group_cancels_and_joins_it(void **state)
{
    (void)state;
    run_world(free_a_running_group, NULL);
}

static void free_the_full_group(weir_exit_hook *hook)
{
    (void)hook;
    weir_group_free(full_group);
}

static weir_status free_in_a_hook(void *arg)
{
    static weir_exit_hook hook = { .fn = free_the_full_group };

    (void)arg;
    weir_exit_hook_add(weir_self(), &hook);
    return WEIR_OK;
}

static weir_status free_my_own(void *arg)
{
    weir_group_free(arg);
    return WEIR_OK;
}

static weir_status free_wrongly(void *arg)
{
    (void)arg;
    full_group = new_group(NULL);
    weir_spawn(full_group, sleep_100_ms, NULL);
    weir_spawn(full_group, free_my_own, full_group); /* it would wait for itself */
    weir_spawn(NULL, free_in_a_hook, NULL);          /* nobody can wait there */
    HOLDS_EQ(weir_group_wait(full_group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 100);
    weir_group_free(full_group);
    return WEIR_OK;
}

static void who_cannot_wait_cannot_free_a_running_group(void **state)
{
    (void)state;
    run_world(free_wrongly, NULL);
    assert_int_equal(log_took("the group is left alone"), 2);
}

static weir_status leave_a_group_behind(void *arg)
{
    weir_group *group = new_group(NULL);

    (void)arg;
    weir_spawn(group, sleep_100_ms, NULL);
    return WEIR_OK;
}

static void a_group_nobody_freed_goes_with_its_hub(void **state)
{
    (void)state;
    run_world(leave_a_group_behind, NULL); /* a leak checker sees the rest */
}

/* ---- joining ------------------------------------------------------------------------ */

static weir_status join_some(void *arg)
{
    weir_group *group = new_group(NULL);
    struct part part = { .ms = 50, .ends = WEIR_SERVER };
    weir_status result = WEIR_OK;

    (void)arg;
    weir_task *task = spawn_part(group, "part", &part);
    HOLDS_EQ(weir_join(task, WEIR_NOW, &result), WEIR_TIMEOUT);
    HOLDS_EQ(weir_join(task, weir_in_ms(20), &result), WEIR_TIMEOUT);
    HOLDS_EQ(result, WEIR_OK); /* untouched */
    HOLDS_EQ(weir_join(task, WEIR_FOREVER, &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_SERVER);
    HOLDS_EQ(world_now_ms(), 50);
    result = WEIR_OK;
    HOLDS_EQ(weir_join(task, WEIR_NOW, &result), WEIR_OK); /* ended: no wait is needed */
    HOLDS_EQ(result, WEIR_SERVER);
    HOLDS_EQ(weir_join(weir_self(), WEIR_FOREVER, NULL), WEIR_USAGE);
    HOLDS_EQ(weir_join(NULL, WEIR_FOREVER, NULL), WEIR_USAGE); /* a spawn that failed */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_join_tells_the_result(void **state)
{
    (void)state;
    run_world(join_some, NULL);
}

static weir_status join_him(void *arg)
{
    weir_status result = WEIR_OK;

    HOLDS_EQ(weir_join(arg, WEIR_FOREVER, &result), WEIR_OK);
    return result;
}

static weir_status join_the_forgotten(void *arg)
{
    weir_group *forgets = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    weir_group *joiners = new_group(NULL);
    struct part part = { .ms = 10, .ends = WEIR_LOST }, other = { .ms = 10, .ends = WEIR_FULL };

    (void)arg;
    weir_task *task = spawn_part(forgets, "part", &part);
    for (int i = 0; i < 10; i++)
        weir_spawn(joiners, join_him, task);
    /* As soon as he has ended, and before those who join him run, his record is another's. */
    weir_yield();
    sleep_ms(10);
    HOLDS_EQ(weir_group_failed(forgets), 1);
    HOLDS_EQ(weir_group_failed(joiners), 0);
    HOLDS(spawn_part(forgets, "other", &other) == task);
    HOLDS_EQ(weir_group_wait(joiners, weir_in_ms(5)), WEIR_LOST);
    HOLDS_EQ(weir_group_failed(joiners), 10);
    HOLDS_EQ(weir_group_wait(forgets, WEIR_FOREVER), WEIR_LOST);
    weir_group_free(joiners);
    weir_group_free(forgets);
    return WEIR_OK;
}

static void a_join_of_one_who_is_forgotten_meanwhile_has_its_result(void **state)
{
    (void)state;
    run_world(join_the_forgotten, NULL);
}

static weir_status be_cancelled_while_joining(void *arg)
{
    HOLDS_EQ(weir_join(arg, WEIR_FOREVER, NULL), WEIR_CANCELED);
    return WEIR_OK;
}

static weir_status cancel_a_joiner(void *arg)
{
    weir_group *group = new_group(NULL);
    struct part part = { .ms = 50 };

    (void)arg;
    weir_task *task = spawn_part(group, "part", &part);
    weir_task *joiner = weir_spawn(group, be_cancelled_while_joining, task);
    sleep_ms(10);
    weir_cancel(joiner);
    HOLDS_EQ(weir_join(joiner, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(world_now_ms(), 10);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(part.at_ms, 50); /* whom he joined was left alone */
    weir_group_free(group);
    return WEIR_OK;
}

static void cancelling_a_joiner_does_not_cancel_whom_it_joins(void **state)
{
    (void)state;
    run_world(cancel_a_joiner, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(thirty_calls_of_100_ms_take_100_ms),
        TEST(a_group_may_have_ten_thousand_members),
        TEST(a_wait_that_ends_early_leaves_members_running),
        TEST(a_member_that_waits_for_its_group_is_refused),
        TEST(the_first_failure_is_told_and_every_status_kept),
        TEST(a_group_remembers_as_much_as_it_is_asked_to),
        TEST(a_group_as_old_as_the_service_does_not_grow),
        TEST(a_full_group_makes_its_spawner_wait),
        TEST(places_are_handed_over_in_the_order_of_asking),
        TEST(a_spawn_that_gives_up_is_told_by_the_wait),
        TEST(a_full_group_that_spawns_into_itself_is_a_deadlock_and_no_hang),
        TEST(so_is_one_whose_members_wait_for_others_that_spawn_into_it),
        TEST(and_one_whose_members_join_each_other),
        TEST(one_that_waits_with_a_deadline_may_end_yet),
        TEST(a_member_may_wait_for_a_place_that_another_will_give),
        TEST(outside_a_coroutine_a_full_group_refuses),
        TEST(members_obey_the_groups_deadline_and_the_scope_it_was_made_in),
        TEST(a_cancelled_group_ends_and_takes_nobody_in),
        TEST(who_waits_for_a_place_in_a_cancelled_group_is_refused),
        TEST(a_place_handed_over_just_before_the_cancel_is_refused_too),
        TEST(freeing_a_group_cancels_and_joins_it),
        TEST(who_cannot_wait_cannot_free_a_running_group),
        TEST(a_group_nobody_freed_goes_with_its_hub),
        TEST(a_join_tells_the_result),
        TEST(a_join_of_one_who_is_forgotten_meanwhile_has_its_result),
        TEST(cancelling_a_joiner_does_not_cancel_whom_it_joins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
