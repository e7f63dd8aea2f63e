/*
 * test_coro_tasks.c - tasks that begin later, give something back, are told as they end, are
 * stopped, are many: on a clock that jumps.
 */
#include "everywhere.h"

#include <stdlib.h>

static weir_group *new_group(const weir_group_opts *opts)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(opts, &group, NULL), WEIR_OK);
    return group;
}

/* Somebody who sleeps and ends as he is told, with himself as his value. */
struct part {
    int64_t     ms;
    weir_status ends;
    unsigned    runs;
    int64_t     began_ms, ended_ms;
};

static weir_status play_part(void *arg)
{
    struct part *part = arg;

    part->runs++;
    part->began_ms = world_now_ms();
    weir_set_value(part);
    weir_status status = sleep_ms(part->ms);
    part->ended_ms = world_now_ms();
    return status == WEIR_OK ? part->ends : status;
}

static weir_status do_nothing(void *arg)
{
    (void)arg;
    return WEIR_OK;
}

static weir_status sleep_for_ever(void *arg)
{
    (void)arg;
    return weir_sleep(WEIR_FOREVER);
}

/* ---- later -------------------------------------------------------------------------- */

static weir_status begin_some_later(void *arg)
{
    weir_group *group = new_group(NULL);
    struct part parts[4] = { { .ms = 5 }, { .ms = 5 }, { .ms = 5 }, { .ms = 5 } };

    (void)arg;
    weir_task *late = weir_spawn_after(group, weir_in_ms(20), play_part, &parts[0]);
    weir_spawn_after(group, weir_in_ms(10), play_part, &parts[1]);
    weir_spawn_after(group, WEIR_NOW, play_part, &parts[2]);
    weir_spawn_opts clerk = { .name = "clerk", .start = weir_in_ms(10) };
    weir_spawn_with(group, &clerk, play_part, &parts[3]);
    HOLDS(strstr(weir_task_site(late), "test_coro_tasks.c:") != NULL);
    HOLDS_EQ(weir_group_running(group), 4); /* members from the beginning */
    HOLDS(weir_task_value(late) == NULL);
    sleep_ms(19);
    HOLDS(!parts[0].runs);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(parts[0].began_ms, 20);
    HOLDS_EQ(parts[1].began_ms, 10);
    HOLDS_EQ(parts[2].began_ms, 0);
    HOLDS_EQ(parts[3].began_ms, 10);
    for (int i = 0; i < 4; i++) {
        HOLDS_EQ(parts[i].runs, 1);
        HOLDS_EQ(parts[i].ended_ms, parts[i].began_ms + 5);
    }
    weir_group_free(group);
    return WEIR_OK;
}

static void a_task_begins_when_it_is_told_to(void **state)
{
    (void)state;
    run_world(begin_some_later, NULL);
}

static weir_status wake_up_and_cancel(void *arg)
{
    weir_sleep(weir_deadline_at(weir_now() + 20 * 1000000));
    weir_cancel(*(weir_task **)arg);
    return WEIR_OK;
}

static unsigned hooks_ran;

static void count_hook(weir_exit_hook *hook)
{
    (void)hook;
    HOLDS_EQ(weir_task_status(weir_self()), WEIR_CANCELED);
    hooks_ran++;
}

static weir_status cancel_before_they_begin(void *arg)
{
    weir_group    *group = new_group(NULL);
    struct part    parts[4] = { { 0 } };
    weir_task     *tasks[4];
    weir_exit_hook hook = { .fn = count_hook };
    weir_status    result = WEIR_OK;

    (void)arg;
    hooks_ran = 0;
    /* The one who cancels the third runs in the turn in which it would begin, before it does. */
    weir_spawn(NULL, wake_up_and_cancel, &tasks[2]);
    weir_yield();
    for (int i = 0; i < 4; i++)
        tasks[i] = weir_spawn_after(group, i == 1 ? WEIR_FOREVER : weir_in_ms(20), play_part,
                                    &parts[i]);
    weir_exit_hook_add(tasks[0], &hook);
    weir_cancel(tasks[0]); /* at once */
    sleep_ms(5);
    HOLDS(weir_task_done(tasks[0]));
    HOLDS_EQ(hooks_ran, 1);
    weir_cancel(tasks[1]);
    HOLDS_EQ(weir_join(tasks[1], weir_in_ms(1), &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_CANCELED);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(world_now_ms(), 20);
    HOLDS_EQ(parts[0].runs + parts[1].runs + parts[2].runs, 0);
    HOLDS_EQ(parts[3].runs, 1);
    HOLDS_EQ(weir_group_failed(group), 3);
    HOLDS(weir_task_value(tasks[0]) == NULL);

    weir_group *another = new_group(NULL);
    weir_spawn_after(another, WEIR_FOREVER, play_part, &parts[0]);
    weir_group_free(another); /* cancels it: nothing is left waiting */
    HOLDS_EQ(parts[0].runs, 0);
    HOLDS_EQ(world_now_ms(), 20);
    weir_group_free(group);
    return WEIR_OK;
}

static void what_is_cancelled_before_it_began_never_runs(void **state)
{
    (void)state;
    run_world(cancel_before_they_begin, NULL);
}

static weir_status begin_too_late(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .deadline = weir_in_ms(10) });
    struct part in_time = { 0 }, too_late = { 0 };

    (void)arg;
    weir_spawn_after(group, weir_in_ms(9), play_part, &in_time);
    weir_spawn_after(group, weir_in_ms(50), play_part, &too_late);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 10); /* not at 50 */
    HOLDS_EQ(in_time.runs, 1);
    HOLDS_EQ(too_late.runs, 0);
    weir_group_free(group);
    return WEIR_OK;
}

static void what_would_begin_after_its_groups_deadline_never_runs(void **state)
{
    (void)state;
    run_world(begin_too_late, NULL);
}

static weir_status begin_later_in_a_full_group(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .max_running = 1 });
    struct part later = { .ms = 5 }, next = { .ms = 5 };

    (void)arg;
    weir_spawn_after(group, weir_in_ms(20), play_part, &later);
    HOLDS(weir_spawn(group, play_part, &next) != NULL);
    HOLDS_EQ(world_now_ms(), 25); /* it held its place before it began */
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_task_that_begins_later_holds_its_place(void **state)
{
    (void)state;
    run_world(begin_later_in_a_full_group, NULL);
}

static weir_status leave_it_to_itself(void *arg)
{
    weir_spawn_after(NULL, weir_in_ms(30), play_part, arg);
    return WEIR_OK;
}

static void the_hub_waits_for_what_begins_later(void **state)
{
    struct part part = { .ms = 1 };

    (void)state;
    run_world(leave_it_to_itself, &part);
    assert_int_equal(part.began_ms, 30);
    part = (struct part){ .ms = 0 };
    assert_int_equal(weir_run(do_nothing, NULL), WEIR_OK);
}

/* ---- values ------------------------------------------------------------------------- */

static weir_status give_nothing_back(void *arg)
{
    HOLDS(weir_task_value(weir_self()) == NULL); /* not what it was given */
    (void)arg;
    return WEIR_OK;
}

struct hooked {
    weir_exit_hook hook;
    weir_status    status;
    void          *value;
};

static void look_at_the_end(weir_exit_hook *hook)
{
    struct hooked *hooked = (struct hooked *)hook;

    hooked->status = weir_task_status(weir_self());
    hooked->value = weir_task_value(weir_self());
}

static weir_status give_values_back(void *arg)
{
    weir_group   *group = new_group(NULL);
    struct part   part = { .ms = 10, .ends = WEIR_SERVER };
    struct hooked hooked = { .hook = { .fn = look_at_the_end } };
    weir_status   result = WEIR_OK;
    void         *value = group;

    (void)arg;
    weir_task *task = weir_spawn(group, play_part, &part);
    weir_task *none = weir_spawn(group, give_nothing_back, &part);
    weir_exit_hook_add(task, &hooked.hook);
    HOLDS(weir_task_value(task) == NULL);
    sleep_ms(5);
    HOLDS(weir_task_value(task) == NULL); /* it has said one, but it may say another */
    HOLDS_EQ(weir_task_status(task), WEIR_OK);
    HOLDS_EQ(weir_join_value(task, WEIR_NOW, &result, &value), WEIR_TIMEOUT);
    HOLDS(value == group); /* untouched */
    HOLDS_EQ(weir_join_value(task, WEIR_FOREVER, &result, &value), WEIR_OK);
    HOLDS_EQ(result, WEIR_SERVER);
    HOLDS(value == &part);
    HOLDS_EQ(hooked.status, WEIR_SERVER);
    HOLDS(hooked.value == &part);
    for (int i = 0; i < 2; i++) { /* kept, as often as one asks */
        HOLDS_EQ(weir_task_status(task), WEIR_SERVER);
        HOLDS(weir_task_value(task) == &part);
        HOLDS_EQ(weir_join_value(task, WEIR_FOREVER, NULL, &value), WEIR_OK);
        HOLDS(value == &part);
    }
    HOLDS(weir_task_value(none) == NULL);
    weir_group_free(group);
    weir_set_value(&part); /* nobody reads main's */
    return WEIR_OK;
}

static void a_task_gives_a_pointer_back_beside_its_status(void **state)
{
    (void)state;
    weir_set_value(NULL); /* outside of a coroutine nothing happens */
    run_world(give_values_back, NULL);
}

static weir_status join_for_a_value(void *arg)
{
    void *value = NULL;

    HOLDS_EQ(weir_join_value(arg, WEIR_FOREVER, NULL, &value), WEIR_OK);
    HOLDS(value != NULL);
    weir_set_value(value);
    return WEIR_OK;
}

static weir_status join_the_forgotten(void *arg)
{
    weir_group *forgets = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_COUNTS });
    weir_group *joiners = new_group(NULL);
    struct part part = { .ms = 10 }, other = { .ms = 20 };

    (void)arg;
    weir_task *task = weir_spawn(forgets, play_part, &part);
    weir_task *joiner = weir_spawn(joiners, join_for_a_value, task);
    weir_yield();
    sleep_ms(10);
    HOLDS(weir_spawn(forgets, play_part, &other) == task); /* his record is another's by now */
    HOLDS_EQ(weir_group_wait(joiners, WEIR_FOREVER), WEIR_OK);
    HOLDS(weir_task_value(joiner) == &part);
    weir_group_free(joiners);
    weir_group_free(forgets);
    return WEIR_OK;
}

static void a_join_of_one_who_is_forgotten_meanwhile_has_its_value(void **state)
{
    (void)state;
    run_world(join_the_forgotten, NULL);
}

/* ---- the next one ------------------------------------------------------------------- */

static weir_status tell_in_order(void *arg)
{
    static const weir_keep keeps[] = { WEIR_KEEP_ALL, WEIR_KEEP_UNTOLD };

    (void)arg;
    for (int k = 0; k < 2; k++) {
        weir_group *group = new_group(&(weir_group_opts){ .keep = keeps[k] });
        struct part parts[] = { { .ms = 30 }, { .ms = 10, .ends = WEIR_LOST }, { .ms = 40 },
                                { .ms = 20 } };
        static const int order[] = { 1, 3, 0, 2 };
        weir_member      member;
        int64_t          began = world_now_ms();

        for (int i = 0; i < 4; i++)
            weir_spawn_with(group, &(weir_spawn_opts){ .name = "part" }, play_part, &parts[i]);
        for (int i = 0; i < 4; i++) {
            HOLDS_EQ(weir_group_next(group, WEIR_NOW, &member), i == 3 ? WEIR_OK : WEIR_TIMEOUT);
            if (i < 3)
                HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
            struct part *part = &parts[order[i]];
            HOLDS(member.value == part);
            HOLDS(member.done && member.id);
            HOLDS_EQ(member.status, part->ends);
            HOLDS(strcmp(member.name, "part") == 0);
            HOLDS_EQ(member.task != NULL, keeps[k] == WEIR_KEEP_ALL);
            HOLDS_EQ(world_now_ms(), began + (i < 3 ? part->ms : 45));
            if (i == 2)
                sleep_ms(15); /* the last one ends while nobody asks */
        }
        HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_CLOSED); /* each once */
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_LOST);
        weir_group_free(group);
    }
    return WEIR_OK;
}

static void members_are_told_in_the_order_they_end_each_once(void **state)
{
    (void)state;
    run_world(tell_in_order, NULL);
}

static weir_status work_for_the_oldest(void *arg)
{
    return sleep_ms(1 + (int)(intptr_t)arg % 7);
}

static void count_member(const weir_member *member, void *arg)
{
    HOLDS(member != NULL);
    ++*(unsigned *)arg;
}

/* A supervisor that keeps ten at work: nothing grows, each is told, failures among them. */
static weir_status supervise(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_UNTOLD,
                                                      .max_running = 10 });
    weir_member member;
    int         spawned = 0, told = 0, many = as_many_as(3000, 300);

    (void)arg;
    while (spawned < many) {
        weir_spawn(group, work_for_the_oldest, (void *)(intptr_t)spawned++);
        while (weir_group_next(group, WEIR_NOW, &member) == WEIR_OK)
            told++;
    }
    while (weir_group_next(group, WEIR_FOREVER, &member) == WEIR_OK)
        told++;
    HOLDS_EQ(told, many);
    HOLDS_EQ(weir_group_running(group), 0);
    unsigned remembered = 0;
    weir_group_each(group, count_member, &remembered);
    HOLDS_EQ(remembered, 0);
    struct part last = { 0 };
    weir_task  *task = weir_spawn(group, play_part, &last);
    HOLDS(weir_task_id(task) == (uint64_t)many + 2); /* after main and all of those */
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK); /* it goes on as before */
    HOLDS_EQ(member.id, many + 2);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_group_can_be_told_one_by_one_for_as_long_as_the_service_runs(void **state)
{
    (void)state;
    run_world(supervise, NULL);
}

struct asker {
    weir_group *group;
    int64_t     patience_ms;
    weir_status status;
    weir_member member;
    bool        done;
};

static weir_status ask_once(void *arg)
{
    struct asker *me = arg;

    me->status = weir_group_next(me->group, me->patience_ms ? weir_in_ms(me->patience_ms)
                                                            : WEIR_FOREVER, &me->member);
    me->done = true;
    return WEIR_OK;
}

static weir_status ask_together(void *arg)
{
    weir_group  *group = new_group(NULL);
    weir_group  *askers = new_group(NULL);
    struct asker ask[4] = { { .group = group }, { .group = group, .patience_ms = 5 },
                            { .group = group }, { .group = group } };
    struct part  parts[2] = { { .ms = 10 }, { .ms = 20 } };
    weir_member  member;

    (void)arg;
    for (int i = 0; i < 2; i++)
        weir_spawn(group, play_part, &parts[i]);
    for (int i = 0; i < 4; i++)
        weir_spawn(askers, ask_once, &ask[i]);
    HOLDS_EQ(weir_group_wait(askers, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(ask[0].status, WEIR_OK);
    HOLDS(ask[0].member.value == &parts[0]);
    HOLDS_EQ(ask[1].status, WEIR_TIMEOUT);
    HOLDS_EQ(ask[2].status, WEIR_OK);
    HOLDS(ask[2].member.value == &parts[1]);
    HOLDS_EQ(ask[3].status, WEIR_CLOSED); /* there is none for him */
    HOLDS_EQ(world_now_ms(), 20);
    HOLDS_EQ(weir_group_next(group, WEIR_NOW, &member), WEIR_CLOSED); /* told are told */
    weir_group_free(askers);
    weir_group_free(group);
    return WEIR_OK;
}

static void of_several_who_ask_the_first_is_told_first(void **state)
{
    (void)state;
    run_world(ask_together, NULL);
}

static weir_status ask_my_own(void *arg)
{
    weir_member member;

    HOLDS_EQ(weir_group_next(arg, WEIR_FOREVER, &member), WEIR_USAGE);
    return WEIR_OK;
}

static weir_status tell_failed_spawns(void *arg)
{
    weir_group  *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_UNTOLD });
    struct asker ask = { .group = group };
    weir_member  member;

    (void)arg;
    weir_spawn(group, ask_my_own, group);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    weir_task *last = weir_spawn(group, sleep_for_ever, NULL);
    weir_task *asker = weir_spawn(NULL, ask_once, &ask);
    weir_yield();
    weir_group_cancel(group);
    HOLDS(weir_spawn(group, do_nothing, NULL) == NULL); /* told to him who waits */
    HOLDS(weir_spawn(group, do_nothing, NULL) == NULL); /* for whoever asks next */
    HOLDS_EQ(weir_join(asker, WEIR_FOREVER, NULL), WEIR_OK);
    HOLDS_EQ(ask.status, WEIR_OK);
    HOLDS(ask.member.task == NULL && !ask.member.id);
    HOLDS_EQ(ask.member.status, WEIR_CANCELED);
    HOLDS(strstr(ask.member.site, "test_coro_tasks.c:") != NULL);
    (void)last;
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    HOLDS(!member.id);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    HOLDS(member.id && member.status == WEIR_CANCELED);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_CLOSED);
    weir_group_free(group);
    return WEIR_OK;
}

static void spawns_that_failed_are_told_too(void **state)
{
    (void)state;
    run_world(tell_failed_spawns, NULL);
}

static weir_status free_under_an_asker(void *arg)
{
    weir_group  *group = new_group(NULL);
    struct asker ask[2] = { { .group = group }, { .group = group } };

    (void)arg;
    weir_spawn(group, sleep_for_ever, NULL);
    for (int i = 0; i < 2; i++)
        weir_spawn(NULL, ask_once, &ask[i]);
    world_settle();
    weir_group_free(group);
    world_settle();
    HOLDS(ask[0].done && ask[1].done);
    HOLDS_EQ(ask[0].status, WEIR_OK);
    HOLDS_EQ(ask[0].member.status, WEIR_CANCELED);
    HOLDS_EQ(ask[1].status, WEIR_CLOSED);
    return WEIR_OK;
}

static void freeing_a_group_tells_who_asks(void **state)
{
    (void)state;
    run_world(free_under_an_asker, NULL);
}

/* A group that forgets tells those who wait, and what it kept. */
static weir_status ask_the_forgetful(void *arg)
{
    weir_group *group = new_group(&(weir_group_opts){ .keep = WEIR_KEEP_FAILURES });
    struct part parts[3] = { { .ms = 10 }, { .ms = 20 }, { .ms = 20, .ends = WEIR_LOST } };
    weir_member member;

    (void)arg;
    for (int i = 0; i < 3; i++)
        weir_spawn(group, play_part, &parts[i]);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    HOLDS(member.value == &parts[0] && member.task == NULL);
    sleep_ms(50);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_OK);
    HOLDS(member.value == &parts[2] && member.task != NULL);
    HOLDS_EQ(weir_group_next(group, WEIR_FOREVER, &member), WEIR_CLOSED);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_group_that_forgets_tells_what_it_kept(void **state)
{
    (void)state;
    run_world(ask_the_forgetful, NULL);
}

/* ---- stopping ----------------------------------------------------------------------- */

static weir_status stop_slowly(void *arg)
{
    (void)arg;
    weir_status status = weir_sleep(WEIR_FOREVER);
    WEIR_SHIELD(WEIR_FOREVER);
    sleep_ms(20);
    return status;
}

static weir_status stop_some(void *arg)
{
    weir_group *group = new_group(NULL);
    weir_status result = WEIR_OK;

    (void)arg;
    weir_task *one = weir_spawn(group, stop_slowly, NULL);
    weir_spawn(group, stop_slowly, NULL);
    weir_yield();
    WEIR_DEADLINE(WEIR_NOW);
    weir_cancel(weir_self()); /* neither of the two cuts it short */
    HOLDS_EQ(weir_stop(one, weir_in_ms(10), &result), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 10);
    HOLDS_EQ(weir_stop(one, weir_in_ms(50), &result), WEIR_OK);
    HOLDS_EQ(result, WEIR_CANCELED);
    HOLDS_EQ(world_now_ms(), 20);
    HOLDS_EQ(weir_stop(one, WEIR_NOW, &result), WEIR_OK); /* it has ended */
    HOLDS_EQ(weir_group_stop(group, weir_in_ms(10)), WEIR_TIMEOUT);
    HOLDS_EQ(weir_group_running(group), 1);
    HOLDS_EQ(weir_group_stop(group, WEIR_FOREVER), WEIR_CANCELED);
    HOLDS_EQ(weir_group_running(group), 0);
    HOLDS_EQ(world_now_ms(), 40);
    HOLDS_EQ(weir_stop(NULL, WEIR_FOREVER, NULL), WEIR_USAGE);
    HOLDS_EQ(weir_stop(weir_self(), WEIR_FOREVER, NULL), WEIR_USAGE);
    weir_group_free(group);
    return WEIR_OK;
}

static weir_status stop_my_own(void *arg)
{
    HOLDS_EQ(weir_group_stop(arg, WEIR_FOREVER), WEIR_USAGE);
    return weir_check(); /* it cancelled nobody */
}

static weir_status stop_wrongly(void *arg)
{
    weir_group *group = new_group(NULL);

    (void)arg;
    weir_spawn(group, stop_my_own, group);
    HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void stopping_cancels_and_waits_whatever_happens_to_the_caller(void **state)
{
    (void)state;
    run_world(stop_some, NULL);
    run_world(stop_wrongly, NULL);
}

/* ---- maps --------------------------------------------------------------------------- */

enum { ITEMS = 20 };

struct mapped {
    int64_t     takes_ms[ITEMS];
    weir_status ends[ITEMS];
    unsigned    begun[ITEMS], ended[ITEMS];
    unsigned    at_work, most;
    unsigned    told;
    weir_status said[ITEMS];
    int64_t     told_ms[ITEMS];
    bool        slow_to_tell;
};

static weir_status square(size_t index, void *arg)
{
    struct mapped *map = arg;

    HOLDS(strcmp(weir_task_name(weir_self()), "squares") == 0);
    map->begun[index]++;
    if (++map->at_work > map->most)
        map->most = map->at_work;
    point();
    weir_status status = map->takes_ms[index] ? sleep_ms(map->takes_ms[index]) : WEIR_OK;
    point();
    map->at_work--;
    map->ended[index]++;
    return status == WEIR_OK ? map->ends[index] : status;
}

static void tell(size_t index, weir_status status, void *arg)
{
    struct mapped *map = arg;

    HOLDS_EQ(index, map->told); /* in order, each once */
    HOLDS_EQ(map->ended[index], 1);
    map->said[index] = status;
    map->told_ms[index] = world_now_ms();
    point();
    if (map->slow_to_tell)
        (void)sleep_ms(1);
    HOLDS_EQ(index, map->told); /* one after the other */
    map->told++;
}

static weir_map_opts squares(unsigned at_once)
{
    return (weir_map_opts){ .name = "squares", .max_running = at_once };
}

static weir_status map_all(void *arg)
{
    (void)arg;
    for (unsigned at_once = 1; at_once <= 5; at_once++) {
        for (int in_order = 0; in_order < 3; in_order++) {
            struct mapped map = { .slow_to_tell = in_order == 2 };
            weir_map_opts opts = squares(at_once);
            if (in_order)
                opts.each = tell;
            for (int i = 0; i < ITEMS; i++)
                map.takes_ms[i] = (i * 7) % 5;
            HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, WEIR_FOREVER), WEIR_OK);
            HOLDS_EQ(map.most, at_once);
            HOLDS_EQ(map.told, in_order ? ITEMS : 0);
            for (int i = 0; i < ITEMS; i++)
                HOLDS(map.begun[i] == 1 && map.ended[i] == 1);
        }
    }
    return WEIR_OK;
}

static void a_map_does_each_item_once_and_so_many_at_once(void **state)
{
    (void)state;
    run_world(map_all, NULL);
}

static weir_status map_by_default(void *arg)
{
    struct mapped map = { .told = 0 };

    (void)arg;
    map.takes_ms[0] = 100;
    for (int i = 1; i < ITEMS; i++)
        map.takes_ms[i] = 1;
    weir_map_opts opts = squares(0);
    opts.each = tell;
    HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(map.most, 10);
    /* The first holds up the telling of all, and so the beginning of those far behind it. */
    HOLDS_EQ(map.told_ms[0], 100);
    HOLDS_EQ(map.told_ms[9], 100);
    HOLDS_EQ(map.told_ms[10], 101);
    HOLDS_EQ(weir_map(&opts, 0, square, &map, WEIR_FOREVER), WEIR_OK); /* none */
    return WEIR_OK;
}

static void an_item_that_is_slow_holds_up_no_more_than_are_at_work(void **state)
{
    (void)state;
    run_world(map_by_default, NULL);
}

static weir_status map_with_failures(void *arg)
{
    (void)arg;
    for (int keep_going = 0; keep_going < 2; keep_going++) {
        struct mapped map = { .told = 0 };
        weir_map_opts opts = squares(3);
        opts.keep_going = keep_going;
        opts.each = tell;
        for (int i = 0; i < ITEMS; i++)
            map.takes_ms[i] = 10;
        map.ends[4] = WEIR_SERVER; /* ends at 15 ms, before the others of its three */
        map.takes_ms[4] = 5;
        map.ends[8] = WEIR_LOST;
        HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, WEIR_FOREVER), WEIR_SERVER);
        HOLDS_EQ(map.at_work, 0);
        HOLDS_EQ(map.said[4], WEIR_SERVER);
        if (keep_going) {
            HOLDS_EQ(map.told, ITEMS);
            HOLDS_EQ(map.said[8], WEIR_LOST);
            HOLDS_EQ(map.said[ITEMS - 1], WEIR_OK);
        } else {
            HOLDS_EQ(map.told, 6); /* those begun, and no other */
            HOLDS_EQ(map.said[3], WEIR_CANCELED);
            HOLDS_EQ(map.said[5], WEIR_CANCELED);
            HOLDS_EQ(map.said[2], WEIR_OK);
            HOLDS_EQ(map.begun[6], 0);
        }
    }
    return WEIR_OK;
}

static void an_item_that_fails_ends_the_map_unless_it_is_to_go_on(void **state)
{
    (void)state;
    run_world(map_with_failures, NULL);
}

static weir_status be_mapped(void *arg)
{
    weir_map_opts opts = squares(4);

    opts.each = tell;
    return weir_map(&opts, ITEMS, square, arg, WEIR_FOREVER);
}

static weir_status end_maps_early(void *arg)
{
    struct mapped map = { .told = 0 };
    weir_map_opts opts = squares(4);

    (void)arg;
    for (int i = 0; i < ITEMS; i++)
        map.takes_ms[i] = 10;
    HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, weir_in_ms(25)), WEIR_TIMEOUT);
    HOLDS_EQ(world_now_ms(), 25);
    HOLDS_EQ(map.at_work, 0); /* all has ended */
    HOLDS_EQ(map.begun[11], 1);
    HOLDS_EQ(map.begun[12], 0);
    HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, WEIR_NOW), WEIR_TIMEOUT);
    HOLDS_EQ(map.begun[0], 1);

    weir_group   *group = new_group(NULL);
    struct mapped other = { .told = 0 };
    for (int i = 0; i < ITEMS; i++)
        other.takes_ms[i] = i == 1 ? 50 : 10;
    weir_task *task = weir_spawn(group, be_mapped, &other);
    sleep_ms(15);
    HOLDS_EQ(weir_stop(task, weir_in_ms(1), NULL), WEIR_OK);
    HOLDS_EQ(weir_task_status(task), WEIR_CANCELED);
    HOLDS_EQ(other.at_work, 0);
    HOLDS_EQ(other.said[0], WEIR_OK);
    HOLDS_EQ(other.said[1], WEIR_CANCELED);
    HOLDS_EQ(other.said[2], WEIR_OK); /* it had ended, and waited for its turn */
    HOLDS_EQ(other.told, 5);
    weir_group_free(group);

    weir_cancel(weir_self());
    HOLDS_EQ(weir_map(&opts, ITEMS, square, &map, WEIR_FOREVER), WEIR_CANCELED);
    return WEIR_OK;
}

static void a_map_that_ends_early_leaves_nobody_at_work(void **state)
{
    (void)state;
    run_world(end_maps_early, NULL);
    assert_int_equal(weir_map(NULL, 1, square, NULL, WEIR_FOREVER), WEIR_USAGE);
}

static weir_status never_wait(size_t index, void *arg)
{
    (void)index;
    ++*(long *)arg;
    return WEIR_OK;
}

struct stranger {
    long *count;
    long  saw;
};

static weir_status look_once(void *arg)
{
    struct stranger *me = arg;

    weir_yield();
    me->saw = *me->count;
    return WEIR_OK;
}

static weir_status map_without_waiting(void *arg)
{
    long            count = 0;
    struct stranger stranger = { .count = &count };
    weir_map_opts   two = { .max_running = 2 };

    (void)arg;
    weir_spawn(NULL, look_once, &stranger);
    HOLDS_EQ(weir_map(&two, 20000, never_wait, &count, WEIR_FOREVER), WEIR_OK);
    HOLDS_EQ(count, 20000);
    HOLDS(stranger.saw < 20000); /* others ran meanwhile */
    return WEIR_OK;
}

static void a_map_of_items_that_never_wait_gives_way(void **state)
{
    (void)state;
    run_world(map_without_waiting, NULL);
}

/* ---- everywhere --------------------------------------------------------------------- */

static struct {
    struct mapped map;
    weir_group   *group;
    weir_status   mapped;
    unsigned      spawned, told;
} stage;

static weir_status map_on_stage(void *arg)
{
    weir_map_opts opts = squares(3);

    (void)arg;
    PART_OF(0);
    opts.each = tell;
    point();
    stage.mapped = weir_map(&opts, 8, square, &stage.map, WEIR_FOREVER);
    point();
    return WEIR_OK;
}

static void begin_map(void)
{
    memset(&stage, 0, sizeof stage);
    for (int i = 0; i < 8; i++)
        stage.map.takes_ms[i] = (i * 3) % 4;
    stage.map.slow_to_tell = true;
    enter(map_on_stage, NULL);
}

static void end_map(void)
{
    unsigned begun = 0;

    for (int i = 0; i < 8; i++) {
        HOLDS_EQ(stage.map.begun[i], stage.map.ended[i]);
        begun += stage.map.begun[i];
    }
    HOLDS_EQ(stage.map.told, begun); /* whatever was begun is told */
    HOLDS_EQ(stage.mapped == WEIR_OK, begun == 8 && stage.map.said[7] == WEIR_OK &&
                                          stage.mapped == WEIR_OK);
    if (stage.mapped == WEIR_OK)
        HOLDS_EQ(begun, 8);
}

static void a_map_tells_whatever_it_began_wherever_it_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_map, NULL, end_map }, 14);
}

static weir_status serve(void *arg)
{
    struct part part = { .ms = 1 + (int)(intptr_t)arg % 3 };

    point();
    weir_status status = sleep_ms(part.ms);
    point();
    return status;
}

static weir_status spawn_into_it(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;

    PART_OF(me);
    for (int i = 0; i < 3; i++) {
        point();
        stage.spawned++; /* told either way: as a member, or as a spawn that failed */
        if (!weir_spawn_after(stage.group, weir_in_ms(i), serve, (void *)(intptr_t)i))
            break;
    }
    return WEIR_OK;
}

static weir_status ask_for_all(void *arg)
{
    unsigned    me = (unsigned)(uintptr_t)arg;
    weir_member member;

    PART_OF(me);
    for (;;) {
        point();
        weir_status status = weir_group_next(stage.group, WEIR_FOREVER, &member);
        if (status == WEIR_CLOSED && sleep_ms(1) == WEIR_OK && world_now_ms() < 60)
            continue; /* more may come */
        if (status != WEIR_OK)
            return WEIR_OK;
        stage.told++;
    }
}

static void begin_group(void)
{
    memset(&stage, 0, sizeof stage);
    stage.group = new_group(&(weir_group_opts){ .max_running = 2, .keep = WEIR_KEEP_UNTOLD });
    enter(ask_for_all, (void *)0);
    enter(ask_for_all, (void *)1);
    enter(spawn_into_it, (void *)2);
    enter(spawn_into_it, (void *)3);
}

static void end_group(void)
{
    weir_member member;

    while (weir_group_next(stage.group, WEIR_NOW, &member) == WEIR_OK)
        stage.told++;
    HOLDS_EQ(stage.told, stage.spawned); /* each once, whoever heard of it */
    HOLDS_EQ(weir_group_running(stage.group), 0);
    weir_group_free(stage.group);
}

static void every_member_is_told_once_wherever_anybody_is_cut_off(void **state)
{
    (void)state;
    play_everywhere(&(struct scene){ begin_group, NULL, end_group }, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_task_begins_when_it_is_told_to),
        TEST(what_is_cancelled_before_it_began_never_runs),
        TEST(what_would_begin_after_its_groups_deadline_never_runs),
        TEST(a_task_that_begins_later_holds_its_place),
        TEST(the_hub_waits_for_what_begins_later),
        TEST(a_task_gives_a_pointer_back_beside_its_status),
        TEST(a_join_of_one_who_is_forgotten_meanwhile_has_its_value),
        TEST(members_are_told_in_the_order_they_end_each_once),
        TEST(a_group_can_be_told_one_by_one_for_as_long_as_the_service_runs),
        TEST(of_several_who_ask_the_first_is_told_first),
        TEST(spawns_that_failed_are_told_too),
        TEST(freeing_a_group_tells_who_asks),
        TEST(a_group_that_forgets_tells_what_it_kept),
        TEST(stopping_cancels_and_waits_whatever_happens_to_the_caller),
        TEST(a_map_does_each_item_once_and_so_many_at_once),
        TEST(an_item_that_is_slow_holds_up_no_more_than_are_at_work),
        TEST(an_item_that_fails_ends_the_map_unless_it_is_to_go_on),
        TEST(a_map_that_ends_early_leaves_nobody_at_work),
        TEST(a_map_of_items_that_never_wait_gives_way),
        TEST(a_map_tells_whatever_it_began_wherever_it_is_cut_off),
        TEST(every_member_is_told_once_wherever_anybody_is_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
