/*
 * accident.c - what is done to the server while lives go on.
 *
 * Knows:   killing, stalling and filling up a private server; the same through the relay
 *          for a server that is not ours; when each is due, and that it is undone in any case.
 * Ignores: what lives make of it.
 *
 * Whoever starts lives waits at a gate until the accident that is due has begun, so a short
 * soak meets all of them too; and goes on for as long as one is not over, so that there is
 * somebody to be answered after it. Blocking work (a restart takes seconds) is done on an offload
 * thread, and what undoes an accident is shielded from a cancel.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { STALL_MS = 2500, REFUSE_MS = 2500, CUT_MS = 1500, SQUEEZE_MS = 1500 };

/* Until the last of the connections that an accident has cost is open again. */
enum { RECOVERY_MS = 3000 };

static const char *const names[] = { "kill", "stall", "refuse", "squeeze" };

const char *accident_name(const struct accident *a)
{
    return names[a->kind];
}

static bool is_done_by_relay(const struct accident *a)
{
    return !a->db->target.is_private || (a->kind == SERVER_REFUSES && !a->db->dialect->limit);
}

const char *accident_words(const struct accident *a)
{
    static const char *const on_private[] = { "server killed (SIGKILL) and restarted",
                                              "server stopped (SIGSTOP) for a while",
                                              "server full: new connections refused" };
    static const char *const by_relay[] = { "all connections cut, new ones refused",
                                            "network stalled", "new connections refused" };
    static char words[80];

    if (a->kind == DESCRIPTORS_TAKEN)
        return "no descriptor left in this process";
    snprintf(words, sizeof words, "%s%s%s", soak.databases > 1 ? a->db->dialect->title : "",
             soak.databases > 1 ? ": " : "",
             is_done_by_relay(a) ? by_relay[a->kind] : on_private[a->kind]);
    return words;
}

static void trouble(const char *what, const char *why)
{
    if (!soak.accidents.trouble[0])
        snprintf(soak.accidents.trouble, sizeof soak.accidents.trouble, "%s: %s", what, why);
}

/* ---- the private server ------------------------------------------------------------- */

static pid_t server_pid(const struct database *db)
{
    long  pid = 0;
    FILE *f = fopen(db->target.pid_file, "re");

    if (!f)
        return 0;
    if (fscanf(f, "%ld", &pid) != 1)
        pid = 0;
    fclose(f);
    return (pid_t)pid;
}

static bool signal_server(const struct database *db, int signal)
{
    pid_t pid = server_pid(db);

    if (pid > 1 && kill(pid, signal) == 0)
        return true;
    trouble("the server could not be signalled", pid > 1 ? strerror(errno) : "no pid file");
    return false;
}

struct errand { /* of an offload thread */
    struct database *db;
    bool             ok;
    char             why[256];
};

static void restart_server(void *arg)
{
    struct errand *e = arg;
    char *const    argv[] = { e->db->target.script, (char *)e->db->dialect->server,
                              (char[]){ "restart" }, e->db->target.directory, NULL };
    pid_t          pid;
    int            status = -1;
    posix_spawn_file_actions_t files;

    if (posix_spawn_file_actions_init(&files))
        return;
    if (!posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0) &&
        !posix_spawn_file_actions_adddup2(&files, 0, 1) &&
        !posix_spawn_file_actions_adddup2(&files, 0, 2) &&
        !posix_spawn_file_actions_addclosefrom_np(&files, 3) &&
        !posix_spawn(&pid, argv[0], &files, NULL, argv, environ)) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        e->ok = status == 0;
    }
    posix_spawn_file_actions_destroy(&files);
}

static void kill_and_restart(struct database *db)
{
    struct errand e = { .db = db };

    if (!signal_server(db, SIGKILL))
        return;
    (void)weir_sleep(weir_in_ms(300));
    WEIR_SHIELD(weir_in_ms(120000));
    if (weir_offload(restart_server, &e, WEIR_SCOPE) != WEIR_OK || !e.ok)
        trouble("the server did not come back", db->target.script);
}

static void stop_and_continue(struct database *db)
{
    if (!signal_server(db, SIGSTOP))
        return;
    (void)weir_sleep(weir_in_ms(STALL_MS));
    signal_server(db, SIGCONT);
}

static void limit(void *arg)
{
    struct errand *e = arg;
    e->ok = e->db->dialect->limit(e->db, e->why, sizeof e->why);
}

static void unlimit(void *arg)
{
    struct errand *e = arg;
    e->ok = e->db->dialect->unlimit(e->db, e->why, sizeof e->why) && e->ok;
}

static void fill_and_make_room(struct database *db)
{
    struct errand e = { .db = db };

    if (weir_offload(limit, &e, WEIR_FOREVER) != WEIR_OK)
        return;
    if (e.ok)
        (void)weir_sleep(weir_in_ms(REFUSE_MS));
    WEIR_SHIELD(weir_in_ms(30000));
    (void)weir_offload(unlimit, &e, WEIR_SCOPE);
    if (!e.ok)
        trouble("the server's limit of connections could not be changed", e.why);
}

/* ---- somebody else's server --------------------------------------------------------- */

static void by_relay(struct relay *relay, enum accident_kind kind)
{
    switch (kind) {
    case SERVER_KILLED:
        relay_refuse(relay, true);
        relay_cut(relay);
        (void)weir_sleep(weir_in_ms(CUT_MS));
        relay_refuse(relay, false);
        break;
    case SERVER_STALLED:
        relay_stall(relay, true);
        (void)weir_sleep(weir_in_ms(STALL_MS));
        relay_stall(relay, false);
        break;
    default:
        relay_refuse(relay, true);
        (void)weir_sleep(weir_in_ms(REFUSE_MS));
        relay_refuse(relay, false);
        break;
    }
}

/* ---- descriptors -------------------------------------------------------------------- */

/*
 * As a library would that knows nothing of our budget. Whatever is closed meanwhile is taken
 * too, so the pool loses one connection after the other and can open none.
 */
static void take_all_descriptors(void)
{
    int     *taken = calloc(soak.options.nofile, sizeof *taken);
    unsigned count = 0;
    int64_t  until = watch_clock_ns() + (int64_t)SQUEEZE_MS * 1000000;

    while (taken && watch_clock_ns() < until) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && count < soak.options.nofile) {
            taken[count++] = fd;
            continue;
        }
        if (fd >= 0)
            close(fd);
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            break;
    }
    while (count > 0)
        close(taken[--count]);
    free(taken);
}

/* ---- one after the other ------------------------------------------------------------ */

static void make(struct accident *a)
{
    if (a->kind == DESCRIPTORS_TAKEN)
        take_all_descriptors();
    else if (is_done_by_relay(a))
        by_relay(a->db->relay, a->kind);
    else if (a->kind == SERVER_KILLED)
        kill_and_restart(a->db);
    else if (a->kind == SERVER_STALLED)
        stop_and_continue(a->db);
    else
        fill_and_make_room(a->db);
}

static bool concerns(const struct accident *a, const struct database *db)
{
    return !a->db || a->db == db;
}

static uint64_t calls_failed(const struct accident *a)
{
    uint64_t all = 0;

    EACH_DATABASE(db)
        for (unsigned i = 0; i <= WEIR_FAILED && concerns(a, db); i++)
            all += db->tally.unexpected[i];
    return all;
}

static uint64_t connects_failed(const struct accident *a)
{
    uint64_t all = 0;

    EACH_DATABASE(db)
        if (concerns(a, db) && db->pool) {
            weir_pool_stats_read(db->pool, &db->now);
            all += db->now.connect_failures;
        }
    return all;
}

/* Of several that are concerned, the one that waits the longest. */
static int64_t last_answer_ns(const struct accident *a)
{
    int64_t at = INT64_MAX;

    EACH_DATABASE(db)
        if (concerns(a, db) && db->tally.last_answer_ns < at)
            at = db->tally.last_answer_ns;
    return at;
}

static void calm_since(const struct accident *a, int64_t ns)
{
    EACH_DATABASE(db)
        if (concerns(a, db))
            db->calm_since_ns = ns;
}

static void wait_for_an_answer(struct accident *a)
{
    int64_t over = watch_clock_ns();

    soak.accidents.awaited = true;
    for (unsigned i = 0; i < 8000 && last_answer_ns(a) < over; i++)
        if (weir_sleep(weir_in_ms(5)) != WEIR_OK)
            break;
    soak.accidents.awaited = false;
    if (last_answer_ns(a) >= over)
        a->answered_s = (double)(last_answer_ns(a) - soak.watch.began_ns) / 1e9;
    else if (weir_check() == WEIR_OK)
        trouble("nothing was answered for 40 s after an accident", accident_words(a));
}

static void happen(struct accident *a)
{
    uint64_t connects = connects_failed(a), calls = calls_failed(a);

    calm_since(a, INT64_MAX);
    a->at_s = watch_seconds();
    progress_say("%s", accident_words(a));
    make(a);
    a->until_s = watch_seconds();
    wait_for_an_answer(a);
    a->failed_connects = connects_failed(a) - connects;
    a->failed_calls = calls_failed(a) - calls;
    calm_since(a, watch_clock_ns() + INT64_C(1000000) * RECOVERY_MS);
    progress_say("... over after %.1f s, answers again %.0f ms later", a->until_s - a->at_s,
                 (a->answered_s - a->until_s) * 1000);
}

static double started_part(void)
{
    double part = (double)soak.started / (double)soak.options.coroutines;

    return soak.options.duration_s ? watch_done_part() : part;
}

static bool is_due(unsigned which)
{
    return started_part() >= (which + 1.0) / (soak.accidents.planned + 1.0);
}

/* One kind after the other, and each to every database. */
static void plan_round(void)
{
    struct accidents *all = &soak.accidents;

    for (unsigned kind = SERVER_KILLED; kind < DESCRIPTORS_TAKEN; kind++)
        EACH_DATABASE(db)
            all->one[all->planned++] = (struct accident){ .kind = (enum accident_kind)kind,
                                                          .db = db };
    if (soak.options.squeeze)
        all->one[all->planned++] = (struct accident){ .kind = DESCRIPTORS_TAKEN };
}

void accidents_plan(void)
{
    unsigned rounds = 1 + soak.options.duration_s / 120;
    unsigned of_a_round = 3 * soak.databases + soak.options.squeeze;

    if (!soak.options.accidents)
        return;
    while (rounds-- && soak.accidents.planned + of_a_round <= ACCIDENTS_MAX)
        plan_round();
}

weir_status accidents_run(void *unused)
{
    struct accidents *all = &soak.accidents;

    (void)unused;
    while (all->count < all->planned && !all->trouble[0]) {
        if (!is_due(all->count)) {
            if (weir_sleep(weir_in_ms(10)) != WEIR_OK)
                break;
            continue;
        }
        all->begun++;
        happen(&all->one[all->count]);
        all->count++;
        if (weir_check() != WEIR_OK)
            break;
    }
    all->begun = all->planned; /* the gate stays open */
    return WEIR_OK;
}

/* Until then somebody must be there to be answered. */
bool accidents_are_over(void)
{
    return soak.accidents.count == soak.accidents.planned || soak.accidents.trouble[0];
}

void accidents_gate(void)
{
    const struct accidents *all = &soak.accidents;

    while (all->begun < all->planned && is_due(all->begun) && !all->awaited)
        if (weir_sleep(weir_in_ms(10)) != WEIR_OK)
            return;
}
