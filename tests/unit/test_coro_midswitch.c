/*
 * test_coro_midswitch.c - signals that arrive while one coroutine passes the thread to another.
 *
 * A handler runs on whatever stack the thread stands on: in the middle of a switch that is the
 * one's, with the other's name on it already, or with half of the registers put back. It must
 * find a stack it can stand on, must be able to ask who runs and where, and whoever is
 * switched to must find his registers, errno and signal mask as he left them.
 *
 * Two ways to be there at that moment. The processor's single step: a signal after each
 * instruction of many switches, so none is left out. And a timer, while two coroutines switch
 * millions of times.
 *
 * What the handler does is what the watchdog's does (watchdog.c): it asks who runs, his name and
 * where he was spawned, and takes a backtrace, but within the jump itself. weir_self() and errno
 * are one's own wherever it finds a coroutine at work; on the way from one to the other it is
 * one of the two, the main one, or NULL.
 */
#define _GNU_SOURCE /* names of saved registers, timers that signal a thread */

#include "coro_unit.h"
#include "under_valgrind.h"

#include "hub.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <weir/sync.h>

#ifndef sigev_notify_thread_id /* glibc has only its union's name */
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* ---- what the handler looks at ---------------------------------------------------------- */

enum { FRAMES = 64, CHECKED = 16 };

static weir_task *pair[2];        /* the two who switch */
static weir_task *volatile inside; /* who is at his own work; NULL on the way to the other */
static volatile double noise;

static volatile struct {
    unsigned long signals, switching, walked, lost, strangers, wrong_errno, wrong_self, nowhere,
        letters;
} seen;

static const void *place_of(const void *machine)
{
#if defined(__x86_64__)
    return (const void *)((const ucontext_t *)machine)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (const void *)((const ucontext_t *)machine)->uc_mcontext.pc;
#else
    (void)machine;
    return NULL;
#endif
}

static bool is_on_stack_of(const weir_task *task, const void *at)
{
    const char *low = task->stack->low;

    return (const char *)at >= low && (const char *)at < low + task->depot->size;
}

/* The frame that was interrupted must be among those that a walk finds. Not where ThreadSanitizer
   holds a signal back: then it is called from elsewhere. */
static void walk(const void *place)
{
#ifndef CONTEXT_TSAN
    void *frames[FRAMES];
    int   count = backtrace(frames, FRAMES), at = 0;

    while (at < count && frames[at] != place)
        at++;
    seen.walked++;
    seen.lost += at == count;
#else
    (void)place;
#endif
}

static void look(const void *place, bool walks)
{
    weir_task *self = weir_self(), *owner = inside;
    double     squares = 1;
    char       here;

    seen.signals++;
    if (self && self != pair[0] && self != pair[1] && weir_task_id(self) != 1)
        seen.strangers++;
    if (self)
        seen.letters += strlen(weir_task_name(self)) + strlen(weir_task_site(self));
    if (owner && self != owner)
        seen.wrong_self++;
    if (owner && !is_on_stack_of(owner, &here))
        seen.nowhere++;
    if (owner && errno != (owner == pair[0] ? EDOM : ERANGE))
        seen.wrong_errno++;
    for (int i = 1; i < CHECKED; i++)
        squares += (double)i / squares; /* the registers are somebody's */
    noise = squares;
    if (context_is_switching(place))
        seen.switching++;
    else if (walks)
        walk(place);
}

static void on_step(int number, siginfo_t *info, void *machine)
{
    int saved_errno = errno;

    (void)number;
    (void)info;
    look(place_of(machine), true);
    errno = saved_errno;
}

/* Every so often: a walk takes longer than the time between two of the timer's signals. */
static void on_timer(int number, siginfo_t *info, void *machine)
{
    int saved_errno = errno;

    (void)number;
    (void)info;
    look(place_of(machine), seen.signals % 16 == 0);
    errno = saved_errno;
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };
    void            *frame[1];

    (void)backtrace(frame, 1); /* loads libgcc, which no handler may */
    memset((void *)&seen, 0, sizeof seen);
    inside = NULL;
    sigemptyset(&action.sa_mask);
    assert_int_equal(sigaction(number, &action, NULL), 0);
}

static void check_what_was_seen(void)
{
    assert_true(seen.signals > 0 && seen.letters > 0);
    assert_int_equal(seen.strangers, 0);
    assert_int_equal(seen.wrong_self, 0);
    assert_int_equal(seen.wrong_errno, 0);
    assert_int_equal(seen.nowhere, 0);
    assert_int_equal(seen.lost, 0);
}

/* ---- the two ------------------------------------------------------------------------------ */

struct switcher {
    int      number;
    unsigned times;
    bool     hands_over; /* by semaphores; else both give way */
    uint64_t sum;
    double   product;
};

static weir_sem turns[2];

static void go_to_the_other(const struct switcher *me)
{
    inside = NULL;
    if (me->hands_over) {
        weir_sem_give(&turns[!me->number]);
        HOLDS_EQ(weir_sem_take(&turns[me->number], WEIR_FOREVER), WEIR_OK);
    } else {
        HOLDS_EQ(weir_yield(), WEIR_OK);
    }
    inside = pair[me->number];
}

/* Its sums live in registers, as the compiler likes it. */
static weir_status switch_often(void *arg)
{
    struct switcher *me = arg;
    uint64_t         sum = (uint64_t)me->number;
    double           product = 1 + me->number;
    sigset_t         mask;

    errno = me->number ? ERANGE : EDOM;
    for (unsigned i = 0; i < me->times; i++) {
        go_to_the_other(me);
        sum = sum * 6364136223846793005u + i;
        product = product * 1.0000001 + sum % 7;
        if (product > 1e100)
            product = 1;
    }
    inside = NULL;
    if (me->hands_over)
        weir_sem_give(&turns[!me->number]);
    HOLDS_EQ(errno, me->number ? ERANGE : EDOM);
    HOLDS_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
    HOLDS(!sigismember(&mask, SIGTRAP) && !sigismember(&mask, SIGPROF));
    me->sum = sum;
    me->product = product;
    return WEIR_OK;
}

/* What it must come to, computed where nobody interrupts. */
static void check_sums(const struct switcher *me)
{
    uint64_t sum = (uint64_t)me->number;
    double   product = 1 + me->number;

    for (unsigned i = 0; i < me->times; i++) {
        sum = sum * 6364136223846793005u + i;
        product = product * 1.0000001 + sum % 7;
        if (product > 1e100)
            product = 1;
    }
    HOLDS_EQ(me->sum, sum);
    HOLDS(me->product == product);
}

static void spawn_the_two(weir_group *group, struct switcher *two)
{
    for (int i = 0; i < 2; i++) {
        turns[i] = (weir_sem){ 0 };
        pair[i] = weir_spawn(group, switch_often, &two[i]);
    }
}

/* ---- after each instruction ------------------------------------------------------------- */

#if defined(__x86_64__) && !defined(CONTEXT_TSAN)
enum { CAN_STEP = 1 };

/* The flag can only be had by way of the stack, and the handler walks the stack after each of these
   instructions, too: so they are a function that says at each how its frame stands. */
__asm__(".text\n"
        "midswitch_step_on:\n"
        "\t.cfi_startproc\n"
        "\tpushfq\n\t.cfi_adjust_cfa_offset 8\n"
        "\torq $0x100, (%rsp)\n"
        "\tpopfq\n\t.cfi_adjust_cfa_offset -8\n"
        "\tret\n"
        "\t.cfi_endproc\n"
        "midswitch_step_off:\n"
        "\t.cfi_startproc\n"
        "\tpushfq\n\t.cfi_adjust_cfa_offset 8\n"
        "\tandq $-257, (%rsp)\n"
        "\tpopfq\n\t.cfi_adjust_cfa_offset -8\n"
        "\tret\n"
        "\t.cfi_endproc\n");
void step_on(void) __asm__("midswitch_step_on");
void step_off(void) __asm__("midswitch_step_off");

static void step(bool on)
{
    if (on)
        step_on();
    else
        step_off();
}
#else
enum { CAN_STEP = 0 }; /* ThreadSanitizer's runtime is no place for a handler */

static inline void step(bool on)
{
    (void)on;
}
#endif

enum { STEPPED = 20 }; /* switches of each */

static weir_status step_through(void *arg)
{
    for (int hands_over = 0; hands_over < 2; hands_over++) {
        struct switcher two[] = { { 0, STEPPED, hands_over, 0, 0 },
                                  { 1, STEPPED, hands_over, 0, 0 } };
        weir_group     *group = NULL;

        HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
        spawn_the_two(group, two);
        step(true); /* a flag of the thread's: it stays on from one stack to the other */
        weir_status status = weir_group_wait(group, WEIR_FOREVER);
        step(false);
        HOLDS_EQ(status, WEIR_OK);
        weir_group_free(group);
        check_sums(&two[0]);
        check_sums(&two[1]);
    }
    (void)arg;
    return WEIR_OK;
}

static void a_signal_after_each_instruction_of_a_switch_does_no_harm(void **state)
{
    (void)state;
    if (!CAN_STEP || under_valgrind()) {
        print_message("skipped: no single step here\n");
        skip();
    }
    handle(SIGTRAP, on_step);
    run_real(step_through, NULL);
    signal(SIGTRAP, SIG_DFL);
    check_what_was_seen();
    assert_true(seen.walked > 10000);
    assert_true(seen.switching > 1000); /* within the jump itself */
}

/* ---- at random ---------------------------------------------------------------------------- */

static bool start_timer(timer_t *timer, long interval_ns)
{
    struct sigevent   event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };
    struct itimerspec every = { { 0, interval_ns }, { 0, interval_ns } };

    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_MONOTONIC, &event, timer) == 0 &&
           timer_settime(*timer, 0, &every, NULL) == 0;
}

static weir_status switch_under_a_timer(void *arg)
{
    for (int hands_over = 0; hands_over < 2; hands_over++) {
        unsigned        times = (unsigned)as_many_as(2000000, 100000);
        struct switcher two[] = { { 0, times, hands_over, 0, 0 }, { 1, times, hands_over, 0, 0 } };
        weir_group     *group = NULL;
        timer_t         timer;

        HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
        spawn_the_two(group, two);
        HOLDS(start_timer(&timer, *(long *)arg));
        HOLDS_EQ(weir_group_wait(group, WEIR_FOREVER), WEIR_OK);
        HOLDS_EQ(timer_delete(timer), 0);
        weir_group_free(group);
        check_sums(&two[0]);
        check_sums(&two[1]);
    }
    return WEIR_OK;
}

static void a_timer_that_fires_among_millions_of_switches_does_no_harm(void **state)
{
    long interval_ns = as_many_as(50000, 1000000);

    (void)state;
    handle(SIGPROF, on_timer);
    run_real(switch_under_a_timer, &interval_ns);
    signal(SIGPROF, SIG_IGN); /* one may be on its way still */
    check_what_was_seen();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_signal_after_each_instruction_of_a_switch_does_no_harm),
        TEST(a_timer_that_fires_among_millions_of_switches_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
