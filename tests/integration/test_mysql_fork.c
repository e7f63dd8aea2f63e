/*
 * test_mysql_fork.c - whatever the child of a fork does with the pool it inherited, the parent's
 * connections do not hear of it: each goes on, with the number the server gave it.
 *
 * A COM_QUIT, a byte of TLS or a shutdown(2) by the child would end them.
 */
#define _GNU_SOURCE
#include <detect.h>
#include <lab.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/process.h>

enum { WELL = 40 }; /* how a child ends */

/* In the child, which cannot record. */
#define IN_CHILD(holds)                                                            \
    do {                                                                           \
        if (!(holds)) {                                                            \
            fprintf(stderr, "%s: in the child: not so: %s\n", WEIR_HERE, #holds);  \
            _exit(1);                                                              \
        }                                                                          \
    } while (0)

struct family {
    weir_pool  *pool;
    weir_lease *held;     /* by whoever forks */
    long        held_id;  /* the server's numbers */
    long        idle_id, slow_id;
    bool        answered; /* the one that was asked while we forked */
    unsigned    done;
};

/* ---- children ----------------------------------------------------------------------- */

static void does_nothing(struct family *us)
{
    (void)us;
}

static void frees_the_pool(struct family *us)
{
    IN_CHILD(weir_release(us->held) == WEIR_OK);
    weir_pool_free(us->pool);
}

static void frees_it_and_keeps_the_lease(struct family *us)
{
    weir_pool_free(us->pool); /* says in the log that it is held */
    IN_CHILD(weir_release(us->held) == WEIR_OK);
    weir_sleep(weir_in_ms(20));
}

static void uses_the_lease(struct family *us)
{
    weir_error err;
    MYSQL     *my = weir_mysql(us->held);

    IN_CHILD(my != NULL);
    IN_CHILD(sql_do(my, "SELECT 1") != 0);
    IN_CHILD(weir_lease_error(us->held, &err) == WEIR_LOST);
    IN_CHILD(strstr(err.message, "forked"));
    IN_CHILD(weir_lease_close(us->held) == WEIR_OK);
}

static void makes_its_own_connections(struct family *us)
{
    IN_CHILD(weir_release(us->held) == WEIR_OK);
    for (int i = 0; i < 3; i++) {
        weir_lease *lease = NULL;
        weir_error  err;
        IN_CHILD(weir_acquire(us->pool, lab_patience(5000), &lease, &err) == WEIR_OK);
        long id = sql_number(weir_mysql(lease), "SELECT CONNECTION_ID()");
        IN_CHILD(id > 0 && id != us->held_id && id != us->idle_id && id != us->slow_id);
        IN_CHILD(weir_release(lease) == WEIR_OK);
    }
    IN_CHILD(lab_stats(us->pool).opened == 1);
    weir_pool_free(us->pool);
}

static void exits_with_all_its_handlers(struct family *us)
{
    (void)us;
    if (detect_slowness() > 1)
        _exit(WELL); /* a tool would count what the other coroutines hold for ever */
    exit(WELL);
}

/* ---- the parent --------------------------------------------------------------------- */

static weir_status take(weir_pool *pool, weir_lease **lease, long *id)
{
    weir_error err;

    lab_need_ok(weir_acquire(pool, lab_patience(5000), lease, &err), &err);
    *id = sql_number(weir_mysql(*lease), "SELECT CONNECTION_ID()");
    return WEIR_OK;
}

static weir_status ask_slowly(void *arg)
{
    struct family *us = arg;
    weir_lease    *lease = NULL;

    if (take(us->pool, &lease, &us->slow_id) != WEIR_OK)
        return WEIR_FAILED;
    us->answered = sql_number(weir_mysql(lease), "SELECT 7 + SLEEP(0.3)") == 7;
    us->slow_id -= sql_number(weir_mysql(lease), "SELECT CONNECTION_ID()"); /* 0: the same */
    us->done++;
    return weir_release(lease);
}

static weir_status connect_meanwhile(void *arg)
{
    struct family *us = arg;
    weir_lease    *lease = NULL;
    long           id;

    us->done++;
    return take(us->pool, &lease, &id) == WEIR_OK ? weir_release(lease) : WEIR_FAILED;
}

static weir_status fork_one(struct family *us, void (*child)(struct family *us))
{
    int        status = -1;
    weir_error err;
    pid_t      pid = weir_fork();

    if (pid == 0) {
        child(us);
        _exit(WELL);
    }
    lab_need_ok(weir_waitpid(pid, lab_patience(10000), &status, &err), &err);
    lab_check(WIFEXITED(status));
    lab_equal(WEXITSTATUS(status), WELL);
    return WEIR_OK;
}

struct birth {
    const struct lab_way *way;
    void (*child)(struct family *us);
};

static weir_status have_a_child(void *arg)
{
    const struct birth *birth = arg;
    weir_mysql_opts     opts = lab_opts(birth->way);
    struct family       us = { 0 };
    weir_lease         *spare = NULL;

    opts.pool.max_size = 5;
    if (lab_pool_new(&opts, &us.pool) || take(us.pool, &us.held, &us.held_id) ||
        take(us.pool, &spare, &us.idle_id))
        return WEIR_FAILED;
    lab_equal(weir_release(spare), WEIR_OK);
    weir_task *slow = weir_spawn(NULL, ask_slowly, &us);
    weir_sleep(weir_in_ms(100)); /* it is in the middle of its statement, on the idle one */
    spare = NULL;
    if (take(us.pool, &spare, &us.idle_id))
        return WEIR_FAILED;
    lab_equal(weir_release(spare), WEIR_OK);
    weir_task *first = weir_spawn(NULL, connect_meanwhile, &us);
    weir_task *second = weir_spawn(NULL, connect_meanwhile, &us);
    weir_yield(); /* one of them has the idle one, the other connects */

    weir_status status = fork_one(&us, birth->child);
    lab_equal(weir_join(slow, lab_patience(5000), NULL), WEIR_OK);
    lab_equal(weir_join(first, lab_patience(5000), NULL), WEIR_OK);
    lab_equal(weir_join(second, lab_patience(5000), NULL), WEIR_OK);
    lab_check(us.answered);
    lab_equal(us.slow_id, 0);
    lab_equal(us.done, 3);
    lab_equal(sql_number(weir_mysql(us.held), "SELECT CONNECTION_ID()"), us.held_id);
    lab_equal(weir_release(us.held), WEIR_OK);
    lab_check(lab_settle(us.pool, (unsigned)lab_stats(us.pool).opened, 2000));
    for (int i = 0; i < WEIR_CLOSE_REASONS; i++)
        lab_equal(lab_stats(us.pool).closed[i], 0);
    lab_pool_end(&us.pool);
    return status;
}

/* ---- while the pool does something of its own --------------------------------------- */

static weir_status be_cut(void *arg)
{
    struct family *us = arg;
    weir_lease    *lease = NULL;
    long           id;

    if (take(us->pool, &lease, &id) != WEIR_OK)
        return WEIR_FAILED;
    WEIR_DEADLINE(weir_in_ms(50));
    lab_check(sql_do(weir_mysql(lease), "SELECT SLEEP(5)") != 0);
    return weir_release(lease);
}

/* Of what another coroutine was to do first, the child must not wait for the end. */
static void frees_what_is_held(struct family *us)
{
    alarm(20);
    weir_pool_free(us->pool);
    alarm(0);
}

static weir_status fork_while_it_kills(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    struct family   us = { 0 };

    opts.kill_cut = true;
    if (lab_pool_new(&opts, &us.pool))
        return WEIR_FAILED;
    weir_task *cut = weir_spawn(NULL, be_cut, &us);
    lab_equal(weir_join(cut, lab_patience(5000), NULL), WEIR_OK);
    weir_status status = fork_one(&us, frees_what_is_held); /* the killer is on its way */
    lab_pool_end(&us.pool);
    return status;
}

static void a_child_does_not_wait_for_its_parents_killer(void **state)
{
    lab_run(fork_while_it_kills, *state);
}

static void run(void **state, void (*child)(struct family *us))
{
    struct birth birth = { *state, child };

    lab_run(have_a_child, &birth);
}

static void a_child_that_does_nothing(void **state)
{
    run(state, does_nothing);
}

static void a_child_that_frees_the_pool(void **state)
{
    run(state, frees_the_pool);
}

static void a_child_that_frees_the_pool_before_its_lease(void **state)
{
    run(state, frees_it_and_keeps_the_lease);
}

static void a_child_that_uses_an_inherited_lease_is_told(void **state)
{
    run(state, uses_the_lease);
}

static void a_child_that_goes_on_with_connections_of_its_own(void **state)
{
    run(state, makes_its_own_connections);
}

static void a_child_that_exits(void **state)
{
    run(state, exits_with_all_its_handlers);
}

int main(int argc, char **argv)
{
#ifdef __SANITIZE_THREAD__
    printf("skipped: ThreadSanitizer does not follow fibers into the child of a fork\n");
    return LAB_SKIPPED;
#endif
    const struct CMUnitTest tests[] = {
        LAB_EVERY_WAY(a_child_that_does_nothing),
        LAB_EVERY_WAY(a_child_that_frees_the_pool),
        LAB_EVERY_WAY(a_child_that_frees_the_pool_before_its_lease),
        LAB_EVERY_WAY(a_child_that_uses_an_inherited_lease_is_told),
        LAB_EVERY_WAY(a_child_that_goes_on_with_connections_of_its_own),
        LAB_EVERY_WAY(a_child_that_exits),
        LAB_EVERY_WAY(a_child_does_not_wait_for_its_parents_killer),
    };

    return lab_main(argc, argv, tests);
}
