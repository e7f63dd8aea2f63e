/*
 * test_mysql_detect.c - the detectors and the relay themselves: an instrument that finds
 * nothing is only worth something if it would have found it.
 */
#define _GNU_SOURCE
#include <lab.h>

#include <detect.h>
#include <netdb.h>
#include <poll.h>
#include <relay.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_MS = 600 }; /* above every limit that a build may have */

struct trial {
    void (*deed)(struct trial *me);
    struct relay          *relay;
    struct detect_findings found;
    int                    code;
};

/* Not lab_run(): here it is the finding that is wanted. */
static weir_status try_it(void *arg)
{
    struct trial *me = arg;
    detect_start();
    (void)weir_sleep(weir_in_ms(25));
    me->deed(me);
    (void)weir_sleep(weir_in_ms(25));
    detect_stop(&me->found);
    return WEIR_OK;
}

static struct detect_findings findings_of(void (*deed)(struct trial *), struct relay *relay)
{
    struct trial me = { .deed = deed, .relay = relay };
    assert_int_equal(weir_run(try_it, &me), WEIR_OK);
    lab_tell("gap %.1f ms; %u blocking calls%s%s", me.found.gap_ms, me.found.blocked,
             me.found.blocked ? ", first " : "", me.found.first_call);
    return me.found;
}

static void wait_well(struct trial *me)
{
    (void)me;
    (void)weir_sleep(weir_in_ms(BLOCK_MS));
}

static void doze(struct trial *me)
{
    (void)me;
    usleep(BLOCK_MS * 1000);
}

static void wait_in_poll(struct trial *me)
{
    (void)me;
    poll(NULL, 0, 0); /* asks, and does not wait: no finding */
    poll(NULL, 0, 1);
}

static void compute(struct trial *me)
{
    struct timespec cpu;
    (void)me;
    /* Time of its own: what others have of the CPU meanwhile is not counted as a gap. */
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    double until = (double)cpu.tv_sec * 1e3 + (double)cpu.tv_nsec / 1e6 + BLOCK_MS;
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    while ((double)cpu.tv_sec * 1e3 + (double)cpu.tv_nsec / 1e6 < until);
}

static void look_up(struct trial *me)
{
    struct addrinfo *found = NULL;
    me->code = getaddrinfo("nowhere.test", NULL, NULL, &found);
}

/* The library as it is, without weir around it. */
static void use_plain_libmariadb(struct trial *me)
{
    const struct private_server *s = private_server();
    MYSQL                       *my = mysql_init(NULL);

    if (mysql_real_connect(my, s->host, s->user, s->password, NULL, relay_port(me->relay), NULL,
                           0))
        me->code = mysql_query(my, "DO SLEEP(0.6)");
    mysql_close(my);
}

static void a_hub_that_turns_is_no_finding(void **state)
{
    (void)state;
    struct detect_findings f = findings_of(wait_well, NULL);
    assert_int_equal(f.blocked, 0);
    assert_true(detect_gap_limit_ms() == 0 || f.gap_ms <= detect_gap_limit_ms());
}

static void blocking_calls_are_found(void **state)
{
    (void)state;
    struct detect_findings f = findings_of(doze, NULL);
    assert_true(f.gap_ms > BLOCK_MS * 0.9 && f.gap_ms > detect_gap_limit_ms());
    assert_int_equal(f.blocked, 1);
    assert_non_null(strstr(f.first_call, "usleep"));

    f = findings_of(wait_in_poll, NULL);
    assert_int_equal(f.blocked, 1);
    assert_non_null(strstr(f.first_call, "poll"));

    f = findings_of(look_up, NULL);
    assert_int_equal(f.blocked, 1);
    assert_non_null(strstr(f.first_call, "getaddrinfo"));
}

static void a_coroutine_that_computes_for_long_is_found(void **state)
{
    (void)state;
    struct detect_findings f = findings_of(compute, NULL);
    assert_true(f.gap_ms > detect_gap_limit_ms());
    assert_int_equal(f.blocked, 0);
}

static void libmariadb_alone_is_found_to_block(void **state)
{
    struct relay *relay = relay_start(private_server()->port, NULL);
    (void)state;
    assert_non_null(relay);
    struct detect_findings f = findings_of(use_plain_libmariadb, relay);
    assert_int_equal(relay_accepted(relay), 1);
    assert_true(relay_chunks(relay) >= 3); /* greeting, login, answer */
    relay_stop(relay);
    assert_true(f.blocked >= 1);
    assert_true(f.gap_ms > BLOCK_MS * 0.9);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(a_hub_that_turns_is_no_finding),
        LAB_TCP(blocking_calls_are_found),
        LAB_TCP(a_coroutine_that_computes_for_long_is_found),
        LAB_TCP(libmariadb_alone_is_found_to_block),
    };
    return lab_main(argc, argv, tests);
}
