/*
 * test_coro_names.c - names: who asks, who is told, and for how long it is believed. Worth most
 * under a race detector.
 *
 * getaddrinfo(3) is ours here. A name that ends in ".test" has an address; one in ".slow.test"
 * only when the gate is open; ".none.test" is unknown, ".busy.test" cannot be asked for now,
 * ".ill.test" fails by errno, and ".starved.test" has met a process without descriptors.
 */
#include "coro_unit.h"
#include "names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <weir/offload.h>
#include <weir/process.h>

/* ---- a name server of our own ------------------------------------------------------- */

static atomic_int asked, originals, copies_freed, gate, slow_begun, starved;
static char       mark[] = "an original";

static bool ends_in(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);

    return n >= t && strcmp(name + n - t, tail) == 0;
}

static int make_answer(const char *address, struct addrinfo **out)
{
    struct {
        struct addrinfo    info;
        struct sockaddr_in in;
    } *made = calloc(1, sizeof *made);

    if (inet_pton(AF_INET, address, &made->in.sin_addr) != 1) {
        free(made);
        return EAI_NONAME;
    }
    made->in.sin_family = AF_INET;
    made->info.ai_family = AF_INET;
    made->info.ai_addr = (struct sockaddr *)&made->in;
    made->info.ai_addrlen = sizeof made->in;
    made->info.ai_canonname = mark;
    *out = &made->info;
    atomic_fetch_add(&originals, 1);
    return 0;
}

static void wait_at_gate(void)
{
    atomic_fetch_add(&slow_begun, 1);
    for (int i = 0; !atomic_load(&gate) && i < 10000; i++)
        usleep(1000);
}

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict out)
{
    (void)service;
    if (hints && hints->ai_flags & AI_NUMERICHOST)
        return name ? make_answer(name, out) : EAI_NONAME;
    atomic_fetch_add(&asked, 1);
    if (ends_in(name, ".slow.test"))
        wait_at_gate();
    if (ends_in(name, ".none.test"))
        return EAI_NONAME;
    if (ends_in(name, ".busy.test"))
        return EAI_AGAIN;
    if (ends_in(name, ".ill.test")) {
        errno = EIO;
        return EAI_SYSTEM;
    }
    if (ends_in(name, ".starved.test")) {
        atomic_store(&starved, 1);
        return EAI_NONAME; /* as libc says it, which could not open what it looks into */
    }
    return make_answer("192.0.2.7", out);
}

void freeaddrinfo(struct addrinfo *info)
{
    while (info) {
        struct addrinfo *next = info->ai_next;
        if (info->ai_canonname == mark)
            atomic_fetch_sub(&originals, 1);
        else {
            atomic_fetch_add(&copies_freed, 1);
            free(info->ai_canonname);
        }
        free(info);
        info = next;
    }
}

/* The one thing that weir opens: whether there are descriptors. */
int open(const char *path, int flags, ...)
{
    if (atomic_exchange(&starved, 0)) {
        errno = EMFILE;
        return -1;
    }
    return openat(AT_FDCWD, path, flags, 0600);
}

static bool is_answer(const struct addrinfo *info, const char *address)
{
    char text[INET_ADDRSTRLEN] = "";

    if (info && info->ai_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)info->ai_addr)->sin_addr, text, sizeof text);
    return strcmp(text, address) == 0;
}

/* ---- asking ----------------------------------------------------------------------------- */

static weir_status ask(const char *host)
{
    struct addrinfo *info = NULL;
    weir_status      status = weir_resolve(host, NULL, NULL, weir_in_ms(10000), &info, NULL);

    HOLDS_EQ(status == WEIR_OK, info != NULL);
    HOLDS(!info || is_answer(info, "192.0.2.7"));
    freeaddrinfo(info);
    return status;
}

/* How often the name server is asked for it. */
static int times_asked(const char *host)
{
    int before = asked;

    (void)ask(host);
    return asked - before;
}

static weir_status ask_for(void *arg)
{
    return ask(arg);
}

static void await_slow(int wanted)
{
    for (int i = 0; i < 10000 && slow_begun < wanted; i++)
        sleep_ms(1);
    HOLDS_EQ(slow_begun, wanted);
}

static weir_resolve_stats stats(void)
{
    weir_resolve_stats now;

    weir_resolve_stats_read(&now);
    return now;
}

static void await_none_asked(void)
{
    for (int i = 0; i < 10000 && stats().asking; i++)
        sleep_ms(1);
    HOLDS_EQ(stats().asking, 0);
}

static weir_group *new_group(void)
{
    weir_group *group = NULL;

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    return group;
}

static int begin(void **state)
{
    atomic_store(&gate, 0);
    atomic_store(&slow_begun, 0);
    return unit_begin(state);
}

/* What was kept is forgotten, and then nothing is left of any answer. */
static int end(void **state)
{
    (void)weir_resolve_set(NULL, NULL);
    for (int i = 0; i < 10000 && originals; i++)
        usleep(1000);
    int left = originals;
    if (left)
        fprintf(stderr, "%d answers were never freed\n", left);
    return unit_end(state) || left ? -1 : 0;
}

#define NAMES(function) cmocka_unit_test_setup_teardown(function, begin, end)

/* ---- what is told ----------------------------------------------------------------------- */

static weir_status look_up_some(void *arg)
{
    struct addrinfo *info = NULL;
    weir_error       err = { .status = WEIR_FAILED };
    int              before = asked;

    (void)arg;
    HOLDS_EQ(weir_resolve("127.0.0.1", "3306", NULL, WEIR_NOW, &info, &err), WEIR_OK);
    HOLDS(is_answer(info, "127.0.0.1"));
    HOLDS_EQ(asked, before); /* no name server, hence no thread, and no wait */
    freeaddrinfo(info);

    HOLDS_EQ(weir_resolve("db.test", "3306", NULL, WEIR_FOREVER, &info, &err), WEIR_OK);
    HOLDS(is_answer(info, "192.0.2.7"));
    HOLDS_EQ(asked, before + 1);
    freeaddrinfo(info);

    for (int i = 0; i < 2; i++) { /* told by a lookup, and told from what was kept */
        HOLDS_EQ(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, &err),
                 WEIR_CONNECT);
        HOLDS(info == NULL);
        HOLDS_EQ(err.status, WEIR_CONNECT);
        HOLDS_EQ(err.native, EAI_NONAME);
        HOLDS(strstr(err.message, "'db.none.test'") != NULL);
        HOLDS(strstr(err.message, gai_strerror(EAI_NONAME)) != NULL);
    }

    HOLDS_EQ(weir_resolve("db.ill.test", NULL, NULL, WEIR_FOREVER, &info, &err), WEIR_CONNECT);
    HOLDS_EQ(err.native, EIO);
    HOLDS(strstr(err.message, strerror(EIO)) != NULL);
    HOLDS_EQ(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, NULL), WEIR_CONNECT);

    HOLDS_EQ(weir_resolve("db.starved.test", NULL, NULL, WEIR_FOREVER, &info, &err),
             WEIR_CONNECT);
    HOLDS_EQ(err.native, EMFILE);
    HOLDS(strstr(err.message, strerror(EMFILE)) != NULL);
    return WEIR_OK;
}

static void names_are_looked_up_and_failures_told_in_the_resolvers_words(void **state)
{
    struct addrinfo *info;
    weir_error       err;

    (void)state;
    run_real(look_up_some, NULL);

    /* Outside of a coroutine it blocks. */
    assert_int_equal(weir_resolve("db.test", NULL, NULL, WEIR_FOREVER, &info, &err), WEIR_OK);
    assert_true(is_answer(info, "192.0.2.7"));
    freeaddrinfo(info);
    assert_int_equal(weir_resolve("db.none.test", NULL, NULL, WEIR_FOREVER, &info, &err),
                     WEIR_CONNECT);
}

/* ---- one lookup for all ----------------------------------------------------------------- */

static weir_status ask_in_a_crowd(void *arg)
{
    weir_group        *group = new_group();
    int                before = asked, freed = copies_freed;
    weir_resolve_stats then = stats();

    (void)arg;
    for (int i = 0; i < 100; i++)
        weir_spawn(group, ask_for, "crowd.slow.test");
    await_slow(1);
    HOLDS_EQ(stats().asking, 1);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(asked - before, 1);
    HOLDS_EQ(stats().shared - then.shared, 99);
    HOLDS_EQ(copies_freed - freed, 100); /* each got a list of his own */
    weir_group_free(group);
    return WEIR_OK;
}

static void a_crowd_that_asks_at_once_makes_one_lookup(void **state)
{
    (void)state;
    run_real(ask_in_a_crowd, NULL);
}

struct asker {
    weir_deadline deadline;
    weir_status   status;
};

static weir_status ask_slowly(void *arg)
{
    struct asker    *me = arg;
    struct addrinfo *info = (void *)1;
    weir_error       err;

    me->status = weir_resolve("crowd.slow.test", NULL, NULL, me->deadline, &info, &err);
    if (me->status != WEIR_OK) {
        HOLDS(info == NULL);
        HOLDS_EQ(err.status, me->status);
        HOLDS(strstr(err.message, "gave up looking up host 'crowd.slow.test'") != NULL);
        return WEIR_OK;
    }
    HOLDS(is_answer(info, "192.0.2.7"));
    freeaddrinfo(info);
    return WEIR_OK;
}

static weir_status some_give_up(void *arg)
{
    struct asker askers[3] = { { WEIR_FOREVER, WEIR_OK }, { weir_in_ms(50), WEIR_OK },
                               { WEIR_FOREVER, WEIR_FAILED } };
    weir_task   *tasks[3];
    weir_group  *group = new_group();
    int          before = asked;

    (void)arg;
    for (int i = 0; i < 3; i++)
        tasks[i] = weir_spawn(group, ask_slowly, &askers[i]);
    await_slow(1);
    weir_cancel(tasks[0]); /* who asked first */
    HOLDS_EQ(weir_join(tasks[0], weir_in_ms(10000), NULL), WEIR_OK);
    HOLDS_EQ(weir_join(tasks[1], weir_in_ms(10000), NULL), WEIR_OK);
    HOLDS_EQ(askers[0].status, WEIR_CANCELED);
    HOLDS_EQ(askers[1].status, WEIR_TIMEOUT);
    HOLDS(!weir_task_done(tasks[2]));
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(askers[2].status, WEIR_OK);
    HOLDS_EQ(asked - before, 1);
    weir_group_free(group);
    return WEIR_OK;
}

static void who_gives_up_leaves_the_lookup_to_the_others(void **state)
{
    (void)state;
    run_real(some_give_up, NULL);
}

static void nothing(void *arg)
{
    (void)arg;
}

static weir_status all_give_up(void *arg)
{
    static char *const names[] = { "a.slow.test", "b.slow.test", "c.slow.test", "d.slow.test" };
    weir_group        *group = new_group();
    int                before = asked;

    (void)arg;
    /* Two begin, the others wait in line. */
    for (int i = 0; i < 4; i++)
        weir_spawn(group, ask_for, names[i]);
    await_slow(2);
    HOLDS_EQ(weir_offload(nothing, NULL, weir_in_ms(5000)), WEIR_OK); /* not held up by names */
    weir_group_cancel(group);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_CANCELED);
    HOLDS_EQ(stats().asking, 2); /* those in line are not even asked for */
    weir_group_free(group);
    atomic_store(&gate, 1);
    await_none_asked();
    HOLDS_EQ(asked - before, 2);
    /* What was asked for in vain is kept like any other. */
    HOLDS_EQ(times_asked("a.slow.test"), 0);
    HOLDS_EQ(times_asked("d.slow.test"), 1);
    return WEIR_OK;
}

static void a_lookup_nobody_waits_for_is_not_begun_or_kept_for_the_next(void **state)
{
    (void)state;
    run_real(all_give_up, NULL);
}

static void *have_a_hub_that_asks(void *arg)
{
    HOLDS_EQ(weir_run(ask_for, arg), WEIR_OK);
    return NULL;
}

static void hubs_of_several_threads_share_a_lookup(void **state)
{
    pthread_t threads[4];
    int       before = asked;
    uint64_t  shared = stats().shared;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, have_a_hub_that_asks, "hubs.slow.test"), 0);
    for (int i = 0; i < 10000 && stats().shared < shared + 3; i++)
        usleep(1000);
    atomic_store(&gate, 1);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(asked - before, 1);
    assert_notes();
}

/* ---- what is kept ----------------------------------------------------------------------- */

static weir_status ask_again(void *arg)
{
    const struct addrinfo stream = { .ai_socktype = SOCK_STREAM };
    struct addrinfo      *info = NULL;

    (void)arg;
    HOLDS_EQ(times_asked("kept.test"), 1);
    uint64_t kept = stats().kept;
    HOLDS_EQ(times_asked("kept.test"), 0);
    HOLDS_EQ(stats().kept, kept + 1);

    /* Something else is asked each time. */
    int before = asked;
    HOLDS_EQ(weir_resolve("kept.test", "1", NULL, WEIR_FOREVER, &info, NULL), WEIR_OK);
    freeaddrinfo(info);
    HOLDS_EQ(weir_resolve("kept.test", NULL, &stream, WEIR_FOREVER, &info, NULL), WEIR_OK);
    freeaddrinfo(info);
    HOLDS_EQ(asked - before, 2);

    HOLDS_EQ(times_asked("kept.none.test"), 1); /* that it does not exist is kept, */
    HOLDS_EQ(times_asked("kept.none.test"), 0);
    HOLDS_EQ(times_asked("kept.busy.test"), 1); /* that it cannot be known now is not */
    HOLDS_EQ(times_asked("kept.busy.test"), 1);
    HOLDS_EQ(times_asked("kept.ill.test"), 1);
    HOLDS_EQ(times_asked("kept.ill.test"), 1);
    HOLDS_EQ(times_asked("kept.starved.test"), 1);
    HOLDS_EQ(times_asked("kept.starved.test"), 1);
    return WEIR_OK;
}

static void what_was_told_is_kept_and_trouble_is_not(void **state)
{
    (void)state;
    run_real(ask_again, NULL);
}

/* By the table itself, whose clock is whatever it is told. */
static bool known_at(const struct question *question, int64_t ms)
{
    names_lock();
    bool known = names_find(question, ms * 1000000) != NULL;
    names_unlock();
    return known;
}

static void put(const struct question *question, int code, int64_t ms)
{
    struct answer answer = { .code = code };

    names_lock();
    struct name *name = names_add(question);
    name_answer(name, &answer, ms * 1000000);
    name_unref(name);
    names_unlock();
}

static void nothing_is_believed_for_longer_than_thirty_seconds(void **state)
{
    struct question good = { .host = "good.test" }, bad = { .host = "bad.none.test" };

    (void)state;
    put(&good, 0, 1000);
    put(&bad, EAI_NONAME, 1000);
    assert_true(known_at(&bad, 1999));
    assert_false(known_at(&bad, 2000));
    assert_true(known_at(&good, 30999)); /* being asked for does not prolong it */
    assert_false(known_at(&good, 31000));
    assert_false(known_at(&good, 1000)); /* it is gone, not hidden */
}

static weir_status ask_after_a_while(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_resolve_set(&(weir_resolve_opts){ .keep_ms = 30 }, NULL), WEIR_OK);
    HOLDS_EQ(times_asked("moved.test"), 1);
    sleep_ms(40);
    HOLDS_EQ(times_asked("moved.test"), 1);

    HOLDS_EQ(weir_resolve_set(&(weir_resolve_opts){ .keep_nothing = true }, NULL), WEIR_OK);
    HOLDS_EQ(times_asked("moved.test"), 1);
    HOLDS_EQ(times_asked("moved.test"), 1);
    HOLDS_EQ(stats().known, 0);
    return WEIR_OK;
}

static void what_was_kept_for_long_enough_is_asked_for_anew(void **state)
{
    (void)state;
    run_real(ask_after_a_while, NULL);
}

static weir_status ask_for_many(void *arg)
{
    (void)arg;
    HOLDS_EQ(weir_resolve_set(&(weir_resolve_opts){ .max_names = 3 }, NULL), WEIR_OK);
    HOLDS_EQ(times_asked("a.test"), 1);
    HOLDS_EQ(times_asked("b.test"), 1);
    HOLDS_EQ(times_asked("c.test"), 1);
    HOLDS_EQ(times_asked("a.test"), 0); /* so it is b that nobody has asked for lately */
    HOLDS_EQ(times_asked("d.test"), 1);
    HOLDS_EQ(stats().known, 3);
    HOLDS_EQ(times_asked("a.test"), 0);
    HOLDS_EQ(times_asked("b.test"), 1);
    HOLDS_EQ(stats().known, 3);
    return WEIR_OK;
}

static void no_more_names_are_kept_than_allowed(void **state)
{
    (void)state;
    run_real(ask_for_many, NULL);
}

static weir_status forget_names(void *arg)
{
    weir_group *group = new_group();

    (void)arg;
    HOLDS_EQ(times_asked("a.test"), 1);
    HOLDS_EQ(times_asked("b.test"), 1);
    weir_resolve_forget("a.test");
    HOLDS_EQ(times_asked("b.test"), 0);
    HOLDS_EQ(times_asked("a.test"), 1);
    weir_resolve_forget(NULL);
    HOLDS_EQ(stats().known, 0);
    HOLDS_EQ(times_asked("b.test"), 1);

    /* One under way is told to who waits, and to nobody else. */
    weir_spawn(group, ask_for, "a.slow.test");
    await_slow(1);
    weir_resolve_forget("a.slow.test");
    weir_spawn(group, ask_for, "a.slow.test");
    await_slow(2);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    HOLDS_EQ(times_asked("a.slow.test"), 0);
    weir_group_free(group);
    return WEIR_OK;
}

static void a_name_forgotten_is_asked_for_anew(void **state)
{
    (void)state;
    run_real(forget_names, NULL);
}

static void names_cannot_be_kept_for_ever(void **state)
{
    weir_error err;

    (void)state;
    assert_int_equal(weir_resolve_set(&(weir_resolve_opts){ .keep_ms = 30001 }, &err), WEIR_USAGE);
    assert_non_null(strstr(err.message, "keep_ms is 30001"));
    assert_non_null(strstr(err.message, "30 s at most"));
    assert_int_equal(weir_resolve_set(&(weir_resolve_opts){ .keep_ms = WEIR_NEVER }, &err),
                     WEIR_USAGE);
    assert_int_equal(weir_resolve_set(&(weir_resolve_opts){ .keep_failed_ms = -7 }, &err),
                     WEIR_USAGE);
    assert_non_null(strstr(err.message, "keep_failed_ms is -7"));
}

/* ---- fork ------------------------------------------------------------------------------- */

static weir_status fork_while_asking(void *arg)
{
    weir_group *group = new_group();
    int         status = -1;

    (void)arg;
    HOLDS_EQ(times_asked("a.test"), 1);
    weir_spawn(group, ask_for, "a.slow.test");
    await_slow(1);
    pid_t pid = weir_fork();
    if (pid == 0) {
        bool good = times_asked("a.test") == 0 && stats().asking == 0;
        atomic_store(&gate, 1);
        if (!context_is_watched()) /* TSan allows no thread in the child of a threaded process */
            good = good && times_asked("a.slow.test") == 1;
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < 20000 && waitpid(pid, &status, WNOHANG) == 0; i++)
        sleep_ms(1);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    atomic_store(&gate, 1);
    HOLDS_EQ(weir_group_wait(group, weir_in_ms(10000)), WEIR_OK);
    weir_group_free(group);
    return WEIR_OK;
}

static void in_the_child_of_a_fork_names_are_known_and_asked_for_anew(void **state)
{
    (void)state;
    run_real(fork_while_asking, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAMES(names_are_looked_up_and_failures_told_in_the_resolvers_words),
        NAMES(a_crowd_that_asks_at_once_makes_one_lookup),
        NAMES(who_gives_up_leaves_the_lookup_to_the_others),
        NAMES(a_lookup_nobody_waits_for_is_not_begun_or_kept_for_the_next),
        NAMES(hubs_of_several_threads_share_a_lookup),
        NAMES(what_was_told_is_kept_and_trouble_is_not),
        NAMES(nothing_is_believed_for_longer_than_thirty_seconds),
        NAMES(what_was_kept_for_long_enough_is_asked_for_anew),
        NAMES(no_more_names_are_kept_than_allowed),
        NAMES(a_name_forgotten_is_asked_for_anew),
        NAMES(names_cannot_be_kept_for_ever),
        NAMES(in_the_child_of_a_fork_names_are_known_and_asked_for_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
