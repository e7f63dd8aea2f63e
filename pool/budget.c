/*
 * budget.c - one account of descriptors for the whole process.
 *
 * Each pool is promised a floor, one connection's descriptors, when it is made (and more where
 * its connections turn out to need more), also where others have grown so far that they must
 * shrink first: a request for what was promised goes before all others. Above the floors
 * everybody competes in one queue, in order; only what is beyond a pool's part, an equal one of
 * all there is, comes after what is not. What only a minimum asks for (min_idle, min_size) comes
 * last and takes nothing from anybody: two minimums that do not fit together would have each
 * other's connections closed for ever.
 * Whoever else must queue has idle connections of other pools closed, no more than are missing: at
 * once for what was promised, else those unused for 100 ms (a shorter rest is a pause between
 * two requests). A pool that has more than its part gives up connections while somebody who
 * is older than its own waiters queues here.
 *
 * The account is behind a lock, because hubs of several threads draw from it; who waits is
 * woken by a wake that may come from another thread. Pools of other threads are not asked to
 * close idle connections: their own idle timeouts give those back.
 */
#include "pool.h"

#include "log.h"

#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    EVICT_AFTER_MS = 100,   /* an idle connection is fair game after this */
    KERNEL_PAUSE_MS = 100,  /* longest wait before the kernel is asked again */
    RESERVE_MIN = 8,
    RESERVE_MAX = 64,
    LIMIT_MAX = INT_MAX     /* so that two numbers up to it can be added */
};

/* Who goes before whom, whenever he came. */
enum rank { PROMISED, WITHIN_PART, BEYOND_PART, SPARE };

/* Somebody who waits for descriptors, on his own stack. */
struct request {
    struct list          link;
    struct budget_share *share; /* NULL: a token's */
    unsigned             count;
    const unsigned      *wanted; /* by so many callers, now; NULL: always. Its own thread's */
    enum rank            rank;
    int64_t              since_ns;
    bool                 granted;
    weir_waker           waker;
    weir_hub            *hub;
};

static struct {
    pthread_mutex_t lock;
    pid_t           pid;      /* whose account it is; 0: nobody has asked for it yet */
    bool            known;    /* the limit has been worked out */
    bool            told;     /* ... or rather said, by weir_budget_set() */
    unsigned        limit;
    unsigned        promised;  /* sum of the floors */
    unsigned        committed; /* sum over shares of the larger of floor and used, and tokens;
                                  above the limit while a new pool's floor is owed to it */
    unsigned        tokens;
    unsigned        used;
    struct list     shares;
    unsigned        share_count;
    struct list     queue;
    struct list     parked;   /* those whom the kernel refused: struct request */
    weir_budget_stats stats;
} account = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .shares = { &account.shares, &account.shares },
    .queue = { &account.queue, &account.queue },
    .parked = { &account.parked, &account.parked },
};

atomic_uint budget_waiting;

/* ---- how much there is ---------------------------------------------------------------- */

static unsigned open_now(void)
{
    DIR     *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    if (!dir)
        return 16; /* a guess, where there is no /proc */
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 3; /* ".", "..", and the folder itself */
}

static unsigned usual_reserve(unsigned nofile)
{
    unsigned reserve = nofile / 10;

    return reserve < RESERVE_MIN ? RESERVE_MIN : reserve > RESERVE_MAX ? RESERVE_MAX : reserve;
}

static unsigned nofile_now(void)
{
    struct rlimit rlimit = { 0 };

    getrlimit(RLIMIT_NOFILE, &rlimit);
    return rlimit.rlim_cur < LIMIT_MAX ? (unsigned)rlimit.rlim_cur : LIMIT_MAX;
}

static weir_status raise_nofile(weir_error *err)
{
    struct rlimit rlimit;

    if (getrlimit(RLIMIT_NOFILE, &rlimit) == 0 && rlimit.rlim_cur == rlimit.rlim_max)
        return WEIR_OK;
    rlimit.rlim_cur = rlimit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &rlimit) == 0)
        return WEIR_OK;
    return weir_error_set(err, WEIR_FAILED, "RLIMIT_NOFILE cannot be raised to its hard limit: %m");
}

/* Under the lock. */
static unsigned work_out(unsigned reserve)
{
    unsigned nofile = nofile_now();
    uint64_t taken = (uint64_t)open_now() + (reserve ? reserve : usual_reserve(nofile));
    taken -= account.used < taken ? account.used : taken; /* ours are open too, and counted here */
    return nofile > taken ? nofile - (unsigned)taken : 0;
}

static void hold(void)
{
    pthread_mutex_lock(&account.lock);
}

static void let_go(void)
{
    pthread_mutex_unlock(&account.lock);
}

/* Whoever forks must not do so while another thread is in the middle of the account. */
static void begin_account(void)
{
    if (!account.pid)
        pthread_atfork(hold, let_go, budget_forked);
    account.pid = getpid();
}

static void know_limit(void)
{
    if (!account.pid)
        begin_account();
    if (!account.known)
        account.limit = work_out(0);
    account.known = true;
}

static void grant_what_fits(void);

static unsigned larger(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

weir_status weir_budget_set(const weir_budget_opts *opts, weir_error *err)
{
    weir_status status = WEIR_OK;

    if (opts && opts->raise && raise_nofile(err) != WEIR_OK)
        return WEIR_FAILED;
    pthread_mutex_lock(&account.lock);
    if (!account.pid)
        begin_account();
    unsigned limit = opts && opts->limit ? opts->limit : work_out(opts ? opts->reserve : 0);
    limit = limit < LIMIT_MAX ? limit : LIMIT_MAX;
    unsigned least = larger(account.used, account.promised + account.tokens);
    if (limit < least) {
        status = weir_error_set(err, WEIR_USAGE,
                                "a budget of %u descriptors does not cover the %u in use or "
                                "promised to pools",
                                limit, least);
    } else {
        account.limit = limit;
        account.known = account.told = true;
        grant_what_fits();
    }
    pthread_mutex_unlock(&account.lock);
    return status;
}

/* ---- the arithmetic, under the lock ---------------------------------------------------- */

/* Is it what was promised to that share? */
static bool is_promised(const struct budget_share *share, unsigned count)
{
    return share && share->used + count <= share->floor;
}

static unsigned part_of_each(void)
{
    return account.limit / (account.share_count ? account.share_count : 1);
}

/* Nobody waits for it: it is for a minimum. To be asked by its own thread. */
static bool is_spare(const struct request *request)
{
    return request->wanted && !*request->wanted;
}

static enum rank rank_of(const struct request *request)
{
    const struct budget_share *share = request->share;

    if (is_spare(request))
        return SPARE;
    if (is_promised(share, request->count))
        return PROMISED;
    return share && share->used + request->count > part_of_each() ? BEYOND_PART : WITHIN_PART;
}

/* What taking `count` more would add to what is committed. */
static unsigned cost(const struct budget_share *share, unsigned count)
{
    if (!share)
        return count;
    return larger(share->floor, share->used + count) - larger(share->floor, share->used);
}

static void book(struct budget_share *share, unsigned count)
{
    account.committed += cost(share, count);
    account.used += count;
    if (share)
        share->used += count;
    else
        account.tokens += count;
    if (account.used > account.stats.peak)
        account.stats.peak = account.used;
}

static void unbook(struct budget_share *share, unsigned count)
{
    account.used -= count;
    if (share) {
        unsigned before = larger(share->floor, share->used);
        share->used -= count;
        account.committed -= before - larger(share->floor, share->used);
    } else {
        account.tokens -= count;
        account.committed -= count;
    }
}

static bool fits(const struct budget_share *share, unsigned count)
{
    if (is_promised(share, count))
        return account.used + count <= account.limit;
    return account.committed + cost(share, count) <= account.limit;
}

static void wake(struct request *request)
{
    if (request->hub == weir_hub_here())
        weir_wake(request->waker);
    else
        weir_wake_remote(request->waker);
}

static void grant_what_fits(void)
{
    struct list *first;

    while ((first = list_first(&account.queue)) != NULL) {
        struct request *request = LIST_OF(first, struct request, link);
        if (!fits(request->share, request->count))
            return; /* in order: who comes later does not slip past */
        list_unlink(&request->link);
        atomic_fetch_sub(&budget_waiting, 1);
        book(request->share, request->count);
        request->granted = true;
        wake(request);
    }
}

static void wake_parked(void)
{
    struct list *first = list_first(&account.parked);

    if (first) {
        list_unlink(first);
        wake(LIST_OF(first, struct request, link));
    }
}

/* ---- shares ----------------------------------------------------------------------------- */

/* Under the lock. */
static weir_status promise(struct budget_share *share, unsigned floor, weir_error *err)
{
    unsigned taken = account.promised + account.tokens - share->floor;

    if (taken + floor > account.limit)
        return weir_error_set(err, WEIR_FULL,
                              "no descriptors left to promise this pool %u: %u of %u are taken "
                              "or promised. Raise RLIMIT_NOFILE (weir_budget_set() with .raise), "
                              "or make fewer pools",
                              floor, taken, account.limit);
    account.promised += floor - share->floor;
    account.committed += larger(floor, share->used) - larger(share->floor, share->used);
    share->floor = floor;
    return WEIR_OK;
}

weir_status budget_join(struct budget_share *share, unsigned floor, weir_error *err)
{
    pthread_mutex_lock(&account.lock);
    know_limit();
    share->floor = share->used = share->leaving = 0;
    weir_status status = promise(share, floor, err);
    if (status == WEIR_OK) {
        share->hub = weir_hub_here();
        list_append(&account.shares, &share->link);
        account.share_count++;
    }
    pthread_mutex_unlock(&account.lock);
    return status;
}

weir_status budget_promise(struct budget_share *share, unsigned floor, weir_error *err)
{
    pthread_mutex_lock(&account.lock);
    weir_status status = promise(share, floor, err);
    pthread_mutex_unlock(&account.lock);
    return status;
}

void budget_leave(struct budget_share *share)
{
    pthread_mutex_lock(&account.lock);
    list_unlink(&share->link);
    account.share_count--;
    account.promised -= share->floor;
    account.committed -= share->floor;
    grant_what_fits();
    pthread_mutex_unlock(&account.lock);
}

bool budget_is_all_ours(const struct budget_share *share, unsigned count)
{
    pthread_mutex_lock(&account.lock);
    bool ours = account.known && account.used == share->used && !fits(share, count);
    pthread_mutex_unlock(&account.lock);
    return ours;
}

bool budget_claims_of(const struct budget_share *share, int64_t since_ns)
{
    pthread_mutex_lock(&account.lock);
    struct list *first = list_first(&account.queue);
    bool         claims = false;
    if (first) {
        const struct request *request = LIST_OF(first, struct request, link);
        unsigned part = part_of_each();
        if (is_promised(request->share, request->count))
            part = 0; /* what is above the floors is lent until the floors are asked for */
        claims = request->rank != SPARE && request->share != share &&
                 request->since_ns < since_ns && share->used > larger(share->floor, part);
        account.stats.evictions += claims; /* the asker closes one for it */
    }
    pthread_mutex_unlock(&account.lock);
    return claims;
}

/* ---- making room -------------------------------------------------------------------------- */

/* What is being closed already: is it enough for `request`, and those before it? Pools of
   other threads are left out. */
static bool room_is_coming(const struct request *request)
{
    bool      promised = is_promised(request->share, request->count);
    weir_hub *hub = weir_hub_here();
    long      room = (long)account.limit - (promised ? account.used : account.committed);

    LIST_EACH(node, &account.shares) {
        const struct budget_share *share = LIST_OF(node, struct budget_share, link);
        if (share->hub == hub)
            room += promised ? share->leaving
                             : larger(share->floor, share->used) -
                                   larger(share->floor, share->used - share->leaving);
    }
    LIST_EACH(node, &account.queue) {
        const struct request *before = LIST_OF(node, struct request, link);
        if (is_promised(before->share, before->count) == promised)
            room -= promised ? before->count : cost(before->share, before->count);
        if (before == request)
            break;
    }
    return room >= 0;
}

/* Who is to close an idle connection: some other pool of this thread, in turn; NULL: none can. */
static struct budget_share *next_to_evict(const struct request *asker)
{
    weir_hub *hub = weir_hub_here();
    int64_t   rest =
        is_promised(asker->share, asker->count) ? 0 : (int64_t)EVICT_AFTER_MS * 1000000;

    LIST_EACH(node, &account.shares) {
        struct budget_share *share = LIST_OF(node, struct budget_share, link);
        if (share == asker->share || share->hub != hub ||
            share->used - share->leaving <= share->floor || !share->has_rested(share, rest))
            continue;
        account.stats.evictions++;
        list_unlink(node);
        list_append(&account.shares, node);
        return share;
    }
    return NULL;
}

/* Evicting is told to who listens to that pool's events, and he may ask how the account stands:
   so it happens outside of the lock. It does not yield. */
static void make_room(const struct request *request)
{
    struct budget_share *share;

    pthread_mutex_lock(&account.lock);
    while (!request->granted && !room_is_coming(request) &&
           (share = next_to_evict(request)) != NULL) {
        pthread_mutex_unlock(&account.lock);
        share->evict(share);
        pthread_mutex_lock(&account.lock);
    }
    pthread_mutex_unlock(&account.lock);
}

/* ---- paying ------------------------------------------------------------------------------- */

/* From the end, so that those who come in order find their place at once. */
static void stand_in_line(struct request *request)
{
    struct list *before_me = account.queue.prev;

    request->rank = rank_of(request);
    while (before_me != &account.queue &&
           LIST_OF(before_me, struct request, link)->rank > request->rank)
        before_me = before_me->prev;
    list_prepend(before_me, &request->link);
}

static void enqueue(struct request *request)
{
    stand_in_line(request);
    account.stats.waited++;
    atomic_fetch_add(&budget_waiting, 1);
}

/* True when it was granted in the meantime. */
static bool withdraw(struct request *request)
{
    pthread_mutex_lock(&account.lock);
    bool granted = request->granted;
    if (!granted && !list_empty(&request->link)) {
        list_unlink(&request->link);
        atomic_fetch_sub(&budget_waiting, 1);
        grant_what_fits(); /* it may have stood in the way of a smaller one */
    }
    pthread_mutex_unlock(&account.lock);
    return granted;
}

static bool granted_yet(struct request *request)
{
    pthread_mutex_lock(&account.lock);
    if (!request->granted && request->rank != rank_of(request)) {
        list_unlink(&request->link); /* its pool has shrunk or grown, or is asked now */
        stand_in_line(request);
        grant_what_fits();
    }
    bool granted = request->granted;
    if (!granted)
        request->waker = weir_waker_new();
    pthread_mutex_unlock(&account.lock);
    return granted;
}

void budget_wanted(const struct budget_share *share)
{
    pthread_mutex_lock(&account.lock);
    LIST_EACH(node, &account.queue) {
        struct request *request = LIST_OF(node, struct request, link);
        if (request->share == share && request->rank == SPARE)
            wake(request);
    }
    pthread_mutex_unlock(&account.lock);
}

static weir_deadline earlier_of(weir_deadline deadline, int64_t ms)
{
    int64_t at = ns_after(hot_now(), ms);

    return weir_deadline_at(deadline.at_ns < at ? deadline.at_ns : at);
}

weir_status budget_pay(struct budget_share *share, unsigned count, const unsigned *wanted,
                       weir_deadline deadline)
{
    struct request request = { .share = share,
                               .count = count,
                               .wanted = wanted,
                               .since_ns = hot_now(),
                               .waker = weir_waker_new(), /* another thread may grant it at once */
                               .hub = weir_hub_here() };

    list_init(&request.link);
    pthread_mutex_lock(&account.lock);
    know_limit();
    bool first = list_empty(&account.queue) ||
                 (is_promised(share, count) && !is_spare(&request));
    if (first && fits(share, count)) {
        book(share, count);
        request.granted = true;
    } else {
        enqueue(&request);
        grant_what_fits(); /* he may go before those who wait */
    }
    pthread_mutex_unlock(&account.lock);

    while (!granted_yet(&request)) {
        if (!is_spare(&request) && weir_pending(deadline) == WEIR_OK)
            make_room(&request);
        weir_status status =
            weir_park(earlier_of(deadline, EVICT_AFTER_MS), "descriptors of the budget");
        if (status != WEIR_OK && (status != WEIR_TIMEOUT || weir_pending(deadline))) {
            if (!withdraw(&request))
                return status;
            if (status == WEIR_CANCELED) {
                budget_refund(share, count);
                return status;
            }
            return WEIR_OK; /* granted in the very turn of the deadline */
        }
    }
    return WEIR_OK;
}

void budget_refund(struct budget_share *share, unsigned count)
{
    if (!count)
        return;
    pthread_mutex_lock(&account.lock);
    unbook(share, count);
    grant_what_fits();
    wake_parked();
    pthread_mutex_unlock(&account.lock);
}

weir_status budget_wait_for_kernel(void)
{
    struct request request = { .waker = weir_waker_new(), .hub = weir_hub_here() };

    pthread_mutex_lock(&account.lock);
    account.stats.exhausted++;
    list_append(&account.parked, &request.link);
    pthread_mutex_unlock(&account.lock);

    weir_status status =
        weir_park(earlier_of(WEIR_FOREVER, KERNEL_PAUSE_MS), "a file descriptor of the kernel's");

    pthread_mutex_lock(&account.lock);
    list_unlink(&request.link);
    pthread_mutex_unlock(&account.lock);
    return status == WEIR_TIMEOUT ? hot_pending() : status;
}

/* ---- after a fork ------------------------------------------------------------------------- */

/*
 * Called by the first pool's fork hook, or by the C library's fork() where no hub is left. The
 * lock is made anew: it is held, by hold(), or by a thread that is not here. Pools of other
 * threads are gone. Descriptors of tokens are open here too, and stay counted.
 */
void budget_forked(void)
{
    if (account.pid == getpid())
        return;
    pthread_mutex_init(&account.lock, NULL);
    account.pid = getpid();
    account.known = account.told;
    list_init(&account.queue);
    list_init(&account.parked);
    atomic_store(&budget_waiting, 0);
    account.stats = (weir_budget_stats){ 0 };
    account.used = account.committed = account.tokens;
    account.promised = account.share_count = 0;
    LIST_EACH(node, &account.shares) {
        struct budget_share *share = LIST_OF(node, struct budget_share, link);
        share->used = share->leaving = 0;
        if (share->hub != weir_hub_here()) {
            list_unlink(node);
            continue;
        }
        account.share_count++;
        account.promised += share->floor;
        account.committed += share->floor;
    }
}

void budget_inherit(struct budget_share *share, unsigned count)
{
    pthread_mutex_lock(&account.lock);
    book(share, count);
    pthread_mutex_unlock(&account.lock);
}

/* ---- tokens ------------------------------------------------------------------------------- */

weir_status weir_budget_take(unsigned descriptors, weir_deadline deadline,
                             weir_budget_token *out, weir_error *err)
{
    if (!out)
        return weir_error_set(err, WEIR_USAGE, "weir_budget_take() without a place for the token");
    out->descriptors = 0;
    if (!hot_self())
        return weir_error_set(err, WEIR_USAGE, "weir_budget_take() outside of a coroutine");

    pthread_mutex_lock(&account.lock);
    know_limit();
    unsigned most = account.limit - account.promised;
    pthread_mutex_unlock(&account.lock);
    if (descriptors > most)
        return weir_error_set(err, WEIR_USAGE,
                              "%u descriptors could never be had: the budget leaves %u besides "
                              "what is promised to pools",
                              descriptors, most);

    weir_status status = budget_pay(NULL, descriptors, NULL, deadline);
    if (status != WEIR_OK)
        return weir_error_set(err, status, "no %u descriptors in time: %s", descriptors,
                              "see weir_budget_read()");
    out->descriptors = descriptors;
    return WEIR_OK;
}

void weir_budget_give(weir_budget_token *token)
{
    if (!token)
        return;
    budget_refund(NULL, token->descriptors);
    token->descriptors = 0;
}

void weir_budget_read(weir_budget_stats *out)
{
    pthread_mutex_lock(&account.lock);
    know_limit();
    *out = account.stats;
    out->limit = account.limit;
    out->used = account.used;
    out->floors = account.committed - account.used;
    out->waiting = atomic_load(&budget_waiting);
    pthread_mutex_unlock(&account.lock);
}
