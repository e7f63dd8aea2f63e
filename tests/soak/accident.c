/*
 * accident.c - what is done to the server while lives go on.
 *
 * Knows:   killing, stalling and filling up the private server; the same through the relay
 *          for a server that is not ours; when each is due, and that it is undone in any case.
 * Ignores: what lives make of it.
 *
 * Whoever starts lives waits at a gate until the accident that is due has begun, so a short
 * soak meets all of them too. Blocking work (a restart takes seconds) is done on an offload
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

enum { STALL_MS = 2500, REFUSE_MS = 2500, CUT_MS = 1500, SQUEEZE_MS = 1500, FEW = 10 };

static const char *const names[] = { "kill", "stall", "refuse", "squeeze" };

const char *accident_name(enum accident_kind kind)
{
    return names[kind];
}

const char *accident_words(enum accident_kind kind)
{
    static const char *const on_private[] = {
        "server killed (SIGKILL) and restarted", "server stopped (SIGSTOP) for a while",
        "server full: new connections refused", "no descriptor left in this process"
    };
    static const char *const by_relay[] = {
        "all connections cut, new ones refused", "network stalled", "new connections refused",
        "no descriptor left in this process"
    };

    return soak.target.is_private ? on_private[kind] : by_relay[kind];
}

static void trouble(const char *what, const char *why)
{
    if (!soak.accidents.trouble[0])
        snprintf(soak.accidents.trouble, sizeof soak.accidents.trouble, "%s: %s", what, why);
}

/* ---- the private server ------------------------------------------------------------- */

static pid_t server_pid(void)
{
    long  pid = 0;
    FILE *f = fopen(soak.target.pid_file, "re");

    if (!f)
        return 0;
    if (fscanf(f, "%ld", &pid) != 1)
        pid = 0;
    fclose(f);
    return (pid_t)pid;
}

static bool signal_server(int signal)
{
    pid_t pid = server_pid();

    if (pid > 1 && kill(pid, signal) == 0)
        return true;
    trouble("the server could not be signalled", pid > 1 ? strerror(errno) : "no pid file");
    return false;
}

/* On an offload thread. */
static void restart_server(void *arg)
{
    char *const argv[] = { soak.target.script, (char[]){ "mariadb" }, (char[]){ "restart" },
                           soak.target.directory, NULL };
    bool *ok = arg;
    pid_t pid;
    int   status = -1;
    posix_spawn_file_actions_t files;

    *ok = false;
    if (posix_spawn_file_actions_init(&files))
        return;
    if (!posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0) &&
        !posix_spawn_file_actions_adddup2(&files, 0, 1) &&
        !posix_spawn_file_actions_adddup2(&files, 0, 2) &&
        !posix_spawn_file_actions_addclosefrom_np(&files, 3) &&
        !posix_spawn(&pid, argv[0], &files, NULL, argv, environ)) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        *ok = status == 0;
    }
    posix_spawn_file_actions_destroy(&files);
}

static void kill_and_restart(void)
{
    bool ok = false;

    if (!signal_server(SIGKILL))
        return;
    (void)weir_sleep(weir_in_ms(300));
    WEIR_SHIELD(weir_in_ms(120000));
    if (weir_offload(restart_server, &ok, WEIR_SCOPE) != WEIR_OK || !ok)
        trouble("the server did not come back", soak.target.script);
}

static void stop_and_continue(void)
{
    if (!signal_server(SIGSTOP))
        return;
    (void)weir_sleep(weir_in_ms(STALL_MS));
    signal_server(SIGCONT);
}

struct filling {
    MYSQL *admin; /* kept: one that could not get in could not undo it */
    long   before;
    char   why[256];
};

static long ask_number(MYSQL *my, const char *sql)
{
    MYSQL_RES *res = mysql_query(my, sql) ? NULL : mysql_store_result(my);
    MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
    long       number = row && row[0] ? atol(row[0]) : -1;

    mysql_free_result(res);
    return number;
}

/* On an offload thread, both. */
static void fill_up(void *arg)
{
    struct filling *f = arg;
    char            sql[64];

    f->admin = target_connect(&soak.target, f->why, sizeof f->why);
    if (!f->admin)
        return;
    f->before = ask_number(f->admin, "SELECT @@GLOBAL.max_connections");
    snprintf(sql, sizeof sql, "SET GLOBAL max_connections = %d", FEW);
    if (f->before < FEW || mysql_query(f->admin, sql))
        snprintf(f->why, sizeof f->why, "%s", mysql_error(f->admin));
}

static void make_room(void *arg)
{
    struct filling *f = arg;
    char            sql[64];

    if (!f->admin)
        return;
    snprintf(sql, sizeof sql, "SET GLOBAL max_connections = %ld", f->before);
    if (f->before >= FEW && mysql_query(f->admin, sql))
        snprintf(f->why, sizeof f->why, "%s", mysql_error(f->admin));
    mysql_close(f->admin);
}

static void fill_and_make_room(void)
{
    struct filling f = { 0 };

    if (weir_offload(fill_up, &f, WEIR_FOREVER) != WEIR_OK)
        return;
    if (!f.why[0])
        (void)weir_sleep(weir_in_ms(REFUSE_MS));
    WEIR_SHIELD(weir_in_ms(30000));
    (void)weir_offload(make_room, &f, WEIR_SCOPE);
    if (f.why[0])
        trouble("max_connections could not be changed", f.why);
}

/* ---- somebody else's server --------------------------------------------------------- */

static void by_relay(enum accident_kind kind)
{
    switch (kind) {
    case SERVER_KILLED:
        relay_refuse(soak.relay, true);
        relay_cut(soak.relay);
        (void)weir_sleep(weir_in_ms(CUT_MS));
        relay_refuse(soak.relay, false);
        break;
    case SERVER_STALLED:
        relay_stall(soak.relay, true);
        (void)weir_sleep(weir_in_ms(STALL_MS));
        relay_stall(soak.relay, false);
        break;
    default:
        relay_refuse(soak.relay, true);
        (void)weir_sleep(weir_in_ms(REFUSE_MS));
        relay_refuse(soak.relay, false);
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

static void make(enum accident_kind kind)
{
    if (kind == DESCRIPTORS_TAKEN)
        take_all_descriptors();
    else if (!soak.target.is_private)
        by_relay(kind);
    else if (kind == SERVER_KILLED)
        kill_and_restart();
    else if (kind == SERVER_STALLED)
        stop_and_continue();
    else
        fill_and_make_room();
}

static uint64_t calls_failed(void)
{
    uint64_t all = 0;

    for (unsigned i = 0; i <= WEIR_FAILED; i++)
        all += soak.tally.unexpected[i];
    return all;
}

static void wait_for_an_answer(struct accident *a)
{
    int64_t over = watch_clock_ns();

    for (unsigned i = 0; i < 8000 && soak.tally.last_answer_ns < over; i++)
        if (weir_sleep(weir_in_ms(5)) != WEIR_OK)
            return;
    if (soak.tally.last_answer_ns >= over)
        a->answered_s = (double)(soak.tally.last_answer_ns - soak.watch.began_ns) / 1e9;
    else
        trouble("nothing was answered for 40 s after an accident", accident_words(a->kind));
}

static void happen(struct accident *a)
{
    uint64_t        connects, calls = calls_failed();
    weir_pool_stats stats;

    weir_pool_stats_read(soak.pool, &stats);
    connects = stats.connect_failures;
    a->at_s = watch_seconds();
    progress_say("%s", accident_words(a->kind));
    make(a->kind);
    a->until_s = watch_seconds();
    wait_for_an_answer(a);
    weir_pool_stats_read(soak.pool, &stats);
    a->failed_connects = stats.connect_failures - connects;
    a->failed_calls = calls_failed() - calls;
    progress_say("... over after %.1f s, answers again %.0f ms later", a->until_s - a->at_s,
                 (a->answered_s - a->until_s) * 1000);
}

static double started_part(void)
{
    double part = (double)soak.tally.started / (double)soak.options.coroutines;

    return soak.options.duration_s ? watch_done_part() : part;
}

static bool is_due(unsigned which)
{
    return started_part() >= (which + 1.0) / (soak.accidents.planned + 1.0);
}

void accidents_plan(void)
{
    unsigned kinds = soak.options.squeeze ? 4 : 3;
    unsigned rounds = 1 + soak.options.duration_s / 120;

    if (!soak.options.accidents)
        return;
    if (kinds * rounds > ACCIDENTS_MAX)
        rounds = ACCIDENTS_MAX / kinds;
    soak.accidents.planned = kinds * rounds;
    for (unsigned i = 0; i < soak.accidents.planned; i++)
        soak.accidents.one[i].kind = (enum accident_kind)(i % kinds);
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

void accidents_gate(void)
{
    while (soak.accidents.begun < soak.accidents.planned && is_due(soak.accidents.begun))
        if (weir_sleep(weir_in_ms(10)) != WEIR_OK)
            return;
}
