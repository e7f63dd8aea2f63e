/*
 * watchdog.c - a thread that notices a hub which does not turn.
 *
 * A hub counts the beginnings and ends of its turns, and that is all it does for us. Four times
 * in each limit the watchdog looks at the counts: one that is odd, and was the same before, is
 * a turn that goes on.
 *
 * Time in which the thread would have run, had there been a processor, is nobody's fault. The
 * kernel tells how long a thread ran and how long it stood in line, but adds to the latter
 * only when the line has ended. So for one that is runnable only what it ran counts, and for
 * one that sleeps all but what it stood in line. Nor does a pause count in which we did
 * not look ourselves: a stopped process, a starved machine.
 *
 * The backtrace is taken by the thread itself, in a signal. backtrace(3) may be called there once
 * it was called before (that loads libgcc), and glibc finds frames without a lock since 2.35.
 * In the middle of a switch a stack cannot be walked; such a place is recognised and left out. By
 * the time the signal comes the hub may have turned after all: then nothing is said.
 */
#define _GNU_SOURCE /* names of saved registers */

#include "hub.h"
#include "log.h"
#include "settings.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    LIMIT_MS = 100,
    LOOKS = 4,        /* in each limit */
    ANSWER_MS = 50,   /* for the thread to take its backtrace */
    FRAMES = 48,
    NAME = 64,
    SITE = 128
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  stop_now;
    pthread_t       thread;
    bool            running, stop;
    bool            by_environment; /* not by the program, which goes before that */
    weir_watch_opts opts;
    struct sigaction before;
} dog = { .lock = PTHREAD_MUTEX_INITIALIZER };

static atomic_uint  dog_alive;
static atomic_ullong blocked_ever;

/* ---- what the blocked thread tells -------------------------------------------------- */

enum { NOBODY_ASKS, ASKED, TAKING, TAKEN };

static struct {
    atomic_int         state;
    weir_hub          *hub;
    unsigned long long beat;
    bool               still; /* it was in that turn when it answered */
    uint64_t           id;
    char               name[NAME], site[SITE];
    void              *frames[FRAMES];
    int                count;
} answer;

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

static void copy_words(char *to, const char *from, size_t room)
{
    size_t length = strnlen(from, room - 1);

    memcpy(to, from, length);
    to[length] = '\0';
}

/* From the frame that was interrupted: those of the handler are of no interest. */
static int take_frames(const void *place)
{
    if (!place || context_is_switching(place))
        return 0;
    int count = backtrace(answer.frames, FRAMES), first = 0;
    while (first < count && answer.frames[first] != place)
        first++;
    if (first == count)
        return count;
    memmove(answer.frames, answer.frames + first, (size_t)(count - first) * sizeof(void *));
    return count - first;
}

static void take_answer(const void *machine)
{
    weir_hub  *hub = hub_here_;
    weir_task *task = hub ? hub->running : NULL;

    answer.still = hub == answer.hub && atomic_load(&hub->beat) == answer.beat;
    answer.id = 0;
    answer.name[0] = answer.site[0] = '\0';
    answer.count = 0;
    if (!answer.still)
        return;
    answer.count = take_frames(place_of(machine));
    if (!task)
        return;
    answer.id = task->id;
    copy_words(answer.name, weir_task_name(task), NAME);
    copy_words(answer.site, task->site, SITE);
}

static void on_signal(int number, siginfo_t *info, void *machine)
{
    int saved_errno = errno, expected = ASKED;

    if (atomic_compare_exchange_strong(&answer.state, &expected, TAKING)) {
        take_answer(machine);
        atomic_store(&answer.state, TAKEN);
    } else if (dog.before.sa_flags & SA_SIGINFO) {
        dog.before.sa_sigaction(number, info, machine);
    } else if (dog.before.sa_handler != SIG_DFL && dog.before.sa_handler != SIG_IGN) {
        dog.before.sa_handler(number);
    }
    errno = saved_errno;
}

static void pause_ms(int ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

    nanosleep(&time, NULL);
}

/* Under the hubs' lock. False when the hub has turned meanwhile. */
static bool ask(weir_hub *hub, unsigned long long beat)
{
    int expected = ASKED;

    answer.hub = hub;
    answer.beat = beat;
    answer.still = true; /* as far as we know, should it not answer */
    answer.id = 0;
    answer.name[0] = answer.site[0] = '\0';
    answer.count = 0;
    if (dog.opts.signal < 0)
        return true;
    atomic_store(&answer.state, ASKED);
    if (syscall(SYS_tgkill, getpid(), hub->tid, dog.opts.signal) != 0)
        return atomic_exchange(&answer.state, NOBODY_ASKS), true;
    for (int ms = 0; ms < ANSWER_MS && atomic_load(&answer.state) != TAKEN; ms++)
        pause_ms(1);
    if (!atomic_compare_exchange_strong(&answer.state, &expected, NOBODY_ASKS)) {
        while (atomic_load(&answer.state) != TAKEN) /* it has begun */
            sched_yield();
        atomic_store(&answer.state, NOBODY_ASKS);
    }
    return answer.still && atomic_load(&hub->beat) == beat;
}

/* ---- looking ------------------------------------------------------------------------ */

static bool read_proc(pid_t tid, const char *file, char *text, size_t room)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)tid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, room - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* How long it ran and stood in line, so far; and what it does now (see proc(5)). */
static char ask_kernel(pid_t tid, int64_t *ran_ns, int64_t *waited_ns)
{
    char      text[512];
    long long ran = 0, waited = 0;

    if (!read_proc(tid, "schedstat", text, sizeof text) ||
        sscanf(text, "%lld %lld", &ran, &waited) != 2)
        ran = waited = 0; /* a kernel without: nothing to leave out */
    *ran_ns = ran;
    *waited_ns = waited;
    const char *end = read_proc(tid, "stat", text, sizeof text) ? strrchr(text, ')') : NULL;
    return end && end[1] ? end[2] : 'S';
}

/* How much of the time since we last looked the hub's thread had, or slept away. */
static int64_t own_time(weir_hub *hub, int64_t step_ns)
{
    struct hub_seen *seen = &hub->seen;
    int64_t          ran, waited, own = 0;
    char             state = ask_kernel(hub->tid, &ran, &waited);

    if (state == 'R')
        own = ran ? ran - seen->ran_ns : step_ns;
    else if (state != 'T' && state != 't')
        own = step_ns - (waited - seen->waited_ns);
    seen->ran_ns = ran;
    seen->waited_ns = waited;
    return own < 0 ? 0 : own > step_ns ? step_ns : own;
}

/* Under the hubs' lock. True when its turn is too long, for the first time. */
static bool look_at(weir_hub *hub, int64_t step_ns)
{
    struct hub_seen   *seen = &hub->seen;
    unsigned long long beat = atomic_load(&hub->beat);

    if (beat % 2 == 0 || beat != seen->beat) {
        seen->beat = beat;
        seen->blocked_ns = 0;
        seen->told = false;
        if (beat % 2)
            (void)own_time(hub, 0); /* to count from */
        return false;
    }
    if (seen->told)
        return false;
    seen->blocked_ns += own_time(hub, step_ns);
    seen->told = seen->blocked_ns >= dog.opts.limit_ms * INT64_C(1000000);
    return seen->told;
}

static void say_blocked(const weir_blocked *blocked)
{
    struct log_site site = { 0 };
    char          **words = backtrace_symbols(blocked->frames, blocked->frame_count);

    weir_log_say(&site, WEIR_LOG_WARN,
                 "hub %u has not turned for %lld ms: %s%s%llu%s%s does not give way",
                 blocked->hub, (long long)(blocked->blocked_ns / 1000000),
                 blocked->id ? blocked->name : "coroutine ", blocked->id ? " " : "",
                 (unsigned long long)blocked->id, blocked->id ? ", spawned at " : " (not known)",
                 blocked->id ? blocked->site : "");
    for (int i = 0; words && i < blocked->frame_count && site.said < 10; i++)
        weir_log_say(&site, WEIR_LOG_WARN, "  in %s", words[i]);
    free(words);
}

static void tell(unsigned number, int64_t blocked_ns)
{
    weir_blocked blocked = { .hub = number, .blocked_ns = blocked_ns, .id = answer.id,
                             .name = answer.name, .site = answer.site, .frames = answer.frames,
                             .frame_count = answer.count };

    if (dog.opts.fn)
        dog.opts.fn(&blocked, dog.opts.arg);
    else
        say_blocked(&blocked);
}

/* One at a time: the next is told when we look again. */
static void look_around(int64_t step_ns)
{
    unsigned number = 0;
    int64_t  blocked_ns = 0;

    hubs_lock();
    for (weir_hub *hub = hubs_first(); hub && !number; hub = atomic_load(&hub->next_hub)) {
        if (!look_at(hub, step_ns) || !ask(hub, hub->seen.beat))
            continue;
        atomic_fetch_add(&hub->blocked, 1);
        atomic_fetch_add(&blocked_ever, 1);
        number = hub->number;
        blocked_ns = hub->seen.blocked_ns;
    }
    hubs_unlock();
    if (number)
        tell(number, blocked_ns);
}

static int64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- the thread --------------------------------------------------------------------- */

static bool wait_until(int64_t at_ns)
{
    struct timespec at = { at_ns / 1000000000, at_ns % 1000000000 };

    pthread_mutex_lock(&dog.lock);
    while (!dog.stop && pthread_cond_timedwait(&dog.stop_now, &dog.lock, &at) == 0)
        continue;
    bool stop = dog.stop;
    pthread_mutex_unlock(&dog.lock);
    return !stop;
}

static void *watch(void *arg)
{
    int64_t interval = dog.opts.limit_ms * INT64_C(1000000) / LOOKS, last = clock_ns();

    (void)arg;
    while (wait_until(last + interval)) {
        int64_t now = clock_ns(), step = now - last;
        look_around(step < 2 * interval ? step : 2 * interval);
        last = now;
    }
    return NULL;
}

unsigned watchdog_threads(void)
{
    return atomic_load(&dog_alive);
}

/* In the child it is not running, and nobody waits for its answer. */
void watchdog_forked(void)
{
    pthread_mutex_init(&dog.lock, NULL);
    atomic_store(&answer.state, NOBODY_ASKS);
    if (dog.running && dog.opts.signal > 0)
        sigaction(dog.opts.signal, &dog.before, NULL);
    dog.running = false;
    atomic_store(&dog_alive, 0);
}

/* ---- the public face ---------------------------------------------------------------- */

static weir_status fill_in(const weir_watch_opts *opts, weir_error *err)
{
    dog.opts = opts ? *opts : (weir_watch_opts){ 0 };
    if (!dog.opts.limit_ms)
        dog.opts.limit_ms = LIMIT_MS;
    if (!dog.opts.signal)
        dog.opts.signal = SIGURG;
    if (dog.opts.limit_ms < 0)
        return weir_error_set(err, WEIR_USAGE, "weir_watch_opts.limit_ms is %d; it can be 1 or "
                                               "more, or 0 for %d", dog.opts.limit_ms, LIMIT_MS);
    return WEIR_OK;
}

static weir_status take_signal(weir_error *err)
{
    struct sigaction ours = { .sa_sigaction = on_signal,
                              .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
    void            *frame[1];

    if (dog.opts.signal < 0)
        return WEIR_OK;
    (void)backtrace(frame, 1); /* loads libgcc, which no handler may */
    sigemptyset(&ours.sa_mask);
    if (sigaction(dog.opts.signal, &ours, &dog.before) == 0)
        return WEIR_OK;
    return weir_error_set(err, WEIR_USAGE, "weir_watch_opts.signal %d cannot be caught: choose "
                                           "another, or WEIR_NEVER", dog.opts.signal);
}

static bool make_thread(void)
{
    sigset_t           all, before;
    pthread_condattr_t attr;

    dog.stop = false;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&dog.stop_now, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the application's threads */
    dog.running = pthread_create(&dog.thread, NULL, watch, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return dog.running;
}

static weir_status start(const weir_watch_opts *opts, bool by_environment, weir_error *err)
{
    weir_status status = WEIR_OK;

    pthread_mutex_lock(&dog.lock);
    if (dog.running)
        status = weir_error_set(err, WEIR_BUSY,
                                "the watchdog runs already: weir_watch_stop() first");
    if (status == WEIR_OK)
        status = fill_in(opts, err);
    if (status == WEIR_OK)
        status = take_signal(err);
    if (status == WEIR_OK && !make_thread()) {
        if (dog.opts.signal > 0)
            sigaction(dog.opts.signal, &dog.before, NULL);
        status = weir_error_set(err, WEIR_NOMEM, "no thread for the watchdog");
    }
    if (status == WEIR_OK) {
        atomic_store(&dog_alive, 1);
        dog.by_environment = by_environment;
    }
    pthread_mutex_unlock(&dog.lock);
    return status;
}

weir_status watchdog_start_by_environment(int limit_ms, weir_error *err)
{
    return start(&(weir_watch_opts){ .limit_ms = limit_ms }, true, err);
}

/* 0: it does not run, or the program itself started it. */
static int limit_by_environment(void)
{
    pthread_mutex_lock(&dog.lock);
    int limit_ms = dog.running && dog.by_environment ? dog.opts.limit_ms : 0;
    pthread_mutex_unlock(&dog.lock);
    return limit_ms;
}

weir_status weir_watch_start(const weir_watch_opts *opts, weir_error *err)
{
    settings_apply(); /* now, so that what the environment says does not come after us */
    int given_ms = limit_by_environment();
    if (!given_ms)
        return start(opts, false, err);

    weir_watch_stop();
    weir_status status = start(opts, false, err);
    if (status != WEIR_OK)
        (void)watchdog_start_by_environment(given_ms, NULL); /* as if nothing had been said */
    return status;
}

void weir_watch_stop(void)
{
    pthread_mutex_lock(&dog.lock);
    bool running = dog.running && !dog.stop; /* of two who stop it one does */
    dog.stop = true;
    if (running)
        pthread_cond_signal(&dog.stop_now);
    pthread_mutex_unlock(&dog.lock);
    if (!running)
        return;

    pthread_join(dog.thread, NULL);
    atomic_store(&dog_alive, 0);
    pthread_mutex_lock(&dog.lock);
    if (dog.opts.signal > 0)
        sigaction(dog.opts.signal, &dog.before, NULL);
    pthread_cond_destroy(&dog.stop_now);
    dog.running = false;
    pthread_mutex_unlock(&dog.lock);
}

uint64_t weir_watch_blocked(void)
{
    return atomic_load(&blocked_ever);
}
