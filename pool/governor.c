/*
 * governor.c - leave to connect, for the pools of the whole process.
 *
 * Knows:   how many attempts are under way, when the next one may begin, which pools want one.
 * Ignores: what an attempt is, and how it ends.
 *
 * Pools stand in a ring; the first is asked for its oldest request, and goes to the end. So a pool
 * that wants a hundred connections does not keep one that wants a single one waiting.
 *
 * The rate is kept by one number, the time at which the next attempt is due if all were evenly
 * spaced (GCRA, ITU-T I.371): a burst may run ahead of it. Only the first in the ring watches the
 * clock: whoever becomes the first is woken, to set himself an alarm.
 *
 * It is the last thing an attempt waits for (see conn.c), so that nobody waits for a place or for
 * descriptors while he keeps others from connecting. One exception is made by drivers that find out
 * while they open that they need more descriptors, and these give up after a while; an attempt
 * that the kernel has no descriptor for gives its leave back meanwhile.
 *
 * In the child of a fork the limits still hold, and nothing else: those who waited, and those whose
 * attempts were under way, are not here.
 */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>
#include <weir/governor.h>

enum { MOST_PER_SECOND = 1000000 };

/* An attempt that waits for leave, on its keeper's stack. */
struct request {
    struct list           link;
    struct governor_line *line;
    bool                  granted;
    weir_waker            waker;
    weir_hub             *hub;
};

static struct {
    pthread_mutex_t     lock;
    pid_t               pid; /* whose it is; 0: nobody has set it yet */
    atomic_bool         on;
    unsigned            max_connecting; /* 0: no limit */
    int64_t             interval_ns;    /* between two attempts; 0: no limit */
    int64_t             ahead_ns;       /* so far a burst may run ahead */
    int64_t             due_ns;         /* the next attempt, evenly spaced */
    struct list         lines;
    struct request     *first; /* who was told that he is */
    weir_governor_stats stats;
} governor = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .lines = { &governor.lines, &governor.lines },
};

/* ---- under the lock -------------------------------------------------------------------- */

static bool has_room(void)
{
    return !governor.max_connecting || governor.stats.connecting < governor.max_connecting;
}

static int64_t earliest(void)
{
    return governor.interval_ns ? governor.due_ns - governor.ahead_ns : INT64_MIN;
}

static struct request *first_request(void)
{
    struct list *line = list_first(&governor.lines);

    return line ? LIST_OF(list_first(&LIST_OF(line, struct governor_line, link)->requests),
                          struct request, link)
                : NULL;
}

static void wake(struct request *request)
{
    if (request->hub == weir_hub_here())
        weir_wake(request->waker);
    else
        weir_wake_remote(request->waker);
}

static void stand_in_line(struct request *request)
{
    struct governor_line *line = request->line;

    if (!line->waiting++)
        list_append(&governor.lines, &line->link);
    list_append(&line->requests, &request->link);
    governor.stats.waiting++;
}

static void leave_line(struct request *request)
{
    struct governor_line *line = request->line;

    list_unlink(&request->link);
    list_unlink(&line->link);
    if (--line->waiting)
        list_append(&governor.lines, &line->link);
    governor.stats.waiting--;
    if (governor.first == request)
        governor.first = NULL;
}

static void grant(struct request *request, int64_t now_ns)
{
    leave_line(request); /* its pool is last now */
    request->granted = true;
    governor.stats.connecting++;
    governor.stats.begun++;
    if (governor.due_ns < now_ns)
        governor.due_ns = now_ns;
    governor.due_ns += governor.interval_ns;
}

static void grant_what_fits(void)
{
    int64_t         now = hot_now();
    struct request *request;

    while ((request = first_request()) != NULL && has_room() && earliest() <= now) {
        grant(request, now);
        wake(request);
    }
    if (request && request != governor.first) {
        governor.first = request;
        wake(request);
    }
}

/* ---- waiting ----------------------------------------------------------------------------- */

void governor_line_init(struct governor_line *line)
{
    list_init(&line->link);
    list_init(&line->requests);
    line->waiting = 0;
}

/* Another thread may be letting one of them through. */
unsigned governor_waiting(const struct governor_line *line)
{
    pthread_mutex_lock(&governor.lock);
    unsigned waiting = line->waiting;
    pthread_mutex_unlock(&governor.lock);
    return waiting;
}

/* If not, until when is there nothing to look for? */
static bool granted_yet(struct request *request, int64_t *until_ns)
{
    pthread_mutex_lock(&governor.lock);
    grant_what_fits();
    bool granted = request->granted;
    if (!granted) {
        request->waker = weir_waker_new();
        bool by_the_clock = request == governor.first && earliest() > hot_now();
        *until_ns = by_the_clock ? earliest() : INT64_MAX; /* else for want of room, or of a turn */
    }
    pthread_mutex_unlock(&governor.lock);
    return granted;
}

/* True when it was granted in the meantime. */
static bool withdraw(struct request *request)
{
    pthread_mutex_lock(&governor.lock);
    bool granted = request->granted;
    if (!granted) {
        /* Not to the end of the ring: its pool has had no turn. */
        struct governor_line *line = request->line;
        struct list          *before = line->link.prev;
        leave_line(request);
        if (line->waiting) {
            list_unlink(&line->link);
            list_prepend(before, &line->link);
        }
        grant_what_fits();
    }
    pthread_mutex_unlock(&governor.lock);
    return granted;
}

weir_status governor_enter(struct governor_line *line, bool *permit)
{
    struct request request = { .line = line,
                               .waker = weir_waker_new(), /* another thread may grant it at once */
                               .hub = weir_hub_here() };
    int64_t        until;

    *permit = false;
    if (!atomic_load_explicit(&governor.on, memory_order_relaxed))
        return WEIR_OK;
    pthread_mutex_lock(&governor.lock);
    stand_in_line(&request);
    grant_what_fits();
    governor.stats.held_back += !request.granted;
    pthread_mutex_unlock(&governor.lock);

    while (!granted_yet(&request, &until)) {
        weir_status status = weir_park(weir_deadline_at(until), "leave to connect");
        if (status == WEIR_TIMEOUT)
            status = hot_pending(); /* it was only the time to look again */
        if (status == WEIR_OK)
            continue;
        *permit = withdraw(&request);
        governor_decline(permit);
        return status;
    }
    *permit = true;
    return WEIR_OK;
}

void governor_leave(bool *permit)
{
    if (!*permit)
        return;
    *permit = false;
    pthread_mutex_lock(&governor.lock);
    governor.stats.connecting--;
    grant_what_fits();
    pthread_mutex_unlock(&governor.lock);
}

/* So that demand that has vanished costs nobody his turn. */
void governor_decline(bool *permit)
{
    if (!*permit)
        return;
    pthread_mutex_lock(&governor.lock);
    governor.due_ns -= governor.interval_ns;
    governor.stats.begun--;
    pthread_mutex_unlock(&governor.lock);
    governor_leave(permit);
}

/* ---- around a fork ------------------------------------------------------------------------ */

static void hold(void)
{
    pthread_mutex_lock(&governor.lock);
}

static void let_go(void)
{
    pthread_mutex_unlock(&governor.lock);
}

/*
 * Called by the first pool's fork hook, or by the C library's fork() where no hub is left. The
 * lock is made anew, for the reason given at budget_forked(). The schedule stays as it is: the
 * server counts the parent's connects too.
 */
void governor_forked(void)
{
    if (!governor.pid || governor.pid == getpid())
        return;
    pthread_mutex_init(&governor.lock, NULL);
    governor.pid = getpid();
    list_init(&governor.lines);
    governor.first = NULL;
    governor.stats = (weir_governor_stats){ 0 };
}

void governor_inherit(bool permit)
{
    pthread_mutex_lock(&governor.lock);
    governor.stats.connecting += permit;
    pthread_mutex_unlock(&governor.lock);
}

/* Whoever forks must not do so while another thread is inside. */
static void mind_forks(void)
{
    if (!governor.pid)
        pthread_atfork(hold, let_go, governor_forked);
    governor.pid = getpid();
}

/* ---- settings ---------------------------------------------------------------------------- */

weir_status weir_governor_set(const weir_governor_opts *opts, weir_error *err)
{
    static const weir_governor_opts none;

    if (!opts)
        opts = &none;
    if (opts->burst && !opts->per_second)
        return weir_error_set(err, WEIR_USAGE,
                              "burst is %u, but per_second is not set: a burst is by how many "
                              "connects that may be exceeded", opts->burst);
    if (opts->per_second > MOST_PER_SECOND)
        return weir_error_set(err, WEIR_USAGE, "per_second is %u: give %d at most, or 0 for no "
                                               "limit", opts->per_second, MOST_PER_SECOND);
    pthread_mutex_lock(&governor.lock);
    mind_forks();
    governor.max_connecting = opts->max_connecting;
    governor.interval_ns = opts->per_second ? 1000000000 / opts->per_second : 0;
    governor.ahead_ns = opts->burst ? (opts->burst - 1) * governor.interval_ns : 0;
    governor.due_ns = 0; /* as after a long rest */
    governor.first = NULL; /* whoever it is looks at the clock anew */
    atomic_store(&governor.on, opts->max_connecting || opts->per_second);
    grant_what_fits();
    pthread_mutex_unlock(&governor.lock);
    return WEIR_OK;
}

void weir_governor_read(weir_governor_stats *out)
{
    pthread_mutex_lock(&governor.lock);
    *out = governor.stats;
    pthread_mutex_unlock(&governor.lock);
}
