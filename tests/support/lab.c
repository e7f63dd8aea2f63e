/*
 * lab.c - see lab.h.
 *
 * A test that hangs names itself and lets a stopped server go on: an alarm(2) watches over
 * each run. What weir logs is kept, and printed only where a test fails.
 */
#define _GNU_SOURCE
#include "lab.h"

#include <detect.h>
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <weir/log.h>

enum { RECORDS = 16, LOG_LINES = 400, FDS = 1024, TOO_LONG_S = 60 };

const struct lab_way lab_unix = { .name = "unix", .is_unix = true };
const struct lab_way lab_tcp = { .name = "tcp" };
const struct lab_way lab_tls = { .name = "tls", .tls = true };

weir_mysql_opts lab_opts(const struct lab_way *way)
{
    const struct private_server *s = private_server();
    weir_mysql_opts opts = { .user = s->user, .password = s->password, .database = s->database };

    if (way->is_unix) {
        opts.socket = s->socket;
    } else {
        opts.host = way->tls ? s->tls_name : s->host;
        opts.port = s->port;
    }
    if (way->tls) {
        opts.tls = WEIR_TLS_VERIFY;
        opts.tls_ca = s->ca;
    }
    /* Valgrind translates all of OpenSSL at the first handshake: ten seconds on a busy machine. */
    if (detect_slowness() > 1)
        opts.pool.connect_timeout_ms = (int64_t)(10000 * detect_slowness());
    return opts;
}

weir_deadline lab_patience(int64_t ms)
{
    return weir_in_ms(ms * (int64_t)detect_slowness());
}

double lab_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* ---- what weir logs ----------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock; /* messages come from any thread */
    unsigned        count;
    char            line[LOG_LINES][320];
    char            secret[64];
    unsigned        leaked;
} logged = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void keep_line(weir_log_level level, const char *line, void *arg)
{
    (void)level;
    (void)arg;
    pthread_mutex_lock(&logged.lock);
    if (logged.count < LOG_LINES)
        snprintf(logged.line[logged.count++], sizeof logged.line[0], "%s", line);
    if (logged.secret[0] && strstr(line, logged.secret))
        logged.leaked++;
    pthread_mutex_unlock(&logged.lock);
}

unsigned lab_logged(const char *part)
{
    unsigned found = 0;
    pthread_mutex_lock(&logged.lock);
    for (unsigned i = 0; i < logged.count; i++)
        found += strstr(logged.line[i], part) != NULL;
    pthread_mutex_unlock(&logged.lock);
    return found;
}

void lab_secret(const char *secret)
{
    pthread_mutex_lock(&logged.lock);
    snprintf(logged.secret, sizeof logged.secret, "%s", secret);
    pthread_mutex_unlock(&logged.lock);
}

/* ---- what coroutines record --------------------------------------------------------- */

static struct {
    unsigned count;
    char     line[RECORDS][700];
} records;

void lab_record(const char *site, const char *fmt, ...)
{
    va_list args;
    char    text[600];

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (records.count < RECORDS)
        snprintf(records.line[records.count], sizeof records.line[0], "%s: %s", site, text);
    records.count++;
}

void lab_equal_(long long a, long long b, const char *a_text, const char *b_text,
                const char *site)
{
    if (a != b)
        lab_record(site, "%s is %lld, not %s (%lld)", a_text, a, b_text, b);
}

void lab_between_(double value, double low, double high, const char *text, const char *site)
{
    if (!(value >= low && value <= high))
        lab_record(site, "%s is %.3f, not between %.3f and %.3f", text, value, low, high);
}

bool lab_in_time(double ms, double low, double high)
{
    return ms >= low && ms <= low + (high - low) * detect_slowness();
}

void lab_says_(const char *text, const char *part, const char *site)
{
    if (!strstr(text, part))
        lab_record(site, "\"%s\" does not say \"%s\"", text, part);
    if (logged.secret[0] && strstr(text, logged.secret))
        lab_record(site, "a secret shows in \"%s\"", text);
}

void lab_tell(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("             ", stdout);
    vfprintf(stdout, fmt, args);
    fputc('\n', stdout);
    fflush(stdout);
    va_end(args);
}

/* ---- the descriptor table ------------------------------------------------------------ */

struct table {
    unsigned count;
    struct {
        int  fd;
        char what[100];
    } row[FDS];
};

static void table_read(struct table *t)
{
    DIR           *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    t->count = 0;
    while (dir && (entry = readdir(dir)) != NULL && t->count < FDS) {
        int  fd = atoi(entry->d_name);
        char path[64];
        if (entry->d_name[0] == '.' || fd == dirfd(dir))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, t->row[t->count].what, sizeof t->row[0].what - 1);
        t->row[t->count].what[n < 0 ? 0 : n] = 0;
        t->row[t->count++].fd = fd;
    }
    if (dir)
        closedir(dir);
}

static bool table_has(const struct table *t, int fd, const char *what)
{
    for (unsigned i = 0; i < t->count; i++)
        if (t->row[i].fd == fd && strcmp(t->row[i].what, what) == 0)
            return true;
    return false;
}

static void compare_tables(const struct table *before, const struct table *after)
{
    for (unsigned i = 0; i < after->count; i++)
        if (!table_has(before, after->row[i].fd, after->row[i].what))
            lab_record("descriptors", "left open: %d, %s", after->row[i].fd, after->row[i].what);
    for (unsigned i = 0; i < before->count; i++)
        if (!table_has(after, before->row[i].fd, before->row[i].what))
            lab_record("descriptors", "closed, and not ours: %d, %s", before->row[i].fd,
                       before->row[i].what);
}

/* ---- a run -------------------------------------------------------------------------- */

struct run {
    weir_fn                body;
    void                  *arg;
    struct detect_findings found;
};

static const char *running = ""; /* for the alarm */
static bool        stillness_accepted;

void lab_accept_stillness(void)
{
    stillness_accepted = true;
}

static void too_long(int sig)
{
    static const char words[] = " did not end in time\n";
    (void)sig;
    private_server_go_on();
    if (write(STDERR_FILENO, running, strlen(running)) < 0 ||
        write(STDERR_FILENO, words, sizeof words - 1) < 0)
        _exit(3);
    for (unsigned i = 0; i < records.count && i < RECORDS; i++)
        if (write(STDERR_FILENO, records.line[i], strlen(records.line[i])) < 0 ||
            write(STDERR_FILENO, "\n", 1) < 0)
            _exit(3);
    _exit(3);
}

static weir_status under_detectors(void *arg)
{
    struct run *run = arg;
    detect_start();
    weir_status st = run->body(run->arg);
    detect_stop(&run->found);
    return st;
}

static void judge(const struct run *run, weir_status st)
{
    double            limit = detect_gap_limit_ms();
    weir_budget_stats budget;

    if (st != WEIR_OK && !records.count)
        lab_record("body", "returned %s", weir_status_name(st));
    if (limit > 0 && run->found.gap_ms > limit && !stillness_accepted)
        lab_record("hub", "stood still for %.1f ms (limit %.0f), %.0f ms after the start",
                   run->found.gap_ms, limit, run->found.gap_at_ms);
    if (run->found.blocked)
        lab_record("hub", "%u blocking calls in coroutines, first %s", run->found.blocked,
                   run->found.first_call);

    weir_budget_read(&budget);
    if (budget.used || budget.floors || budget.waiting)
        lab_record("budget", "used %u, floors %u, waiting %u at the end", budget.used,
                   budget.floors, budget.waiting);
    if (logged.leaked)
        lab_record("log", "a secret was logged %u times", logged.leaked);
    logged.leaked = 0;
}

static void tell_failures(void)
{
    for (unsigned i = 0; i < records.count && i < RECORDS; i++)
        print_error("%s\n", records.line[i]);
    if (records.count > RECORDS)
        print_error("... and %u more\n", records.count - RECORDS);
    for (unsigned i = 0; i < logged.count && i < 20; i++)
        print_error("logged: %s\n", logged.line[i]);
}

void lab_run(weir_fn body, void *arg)
{
    static struct table before, after;
    struct run          run = { .body = body, .arg = arg };

    table_read(&before);
    weir_status st = weir_run(under_detectors, &run);
    table_read(&after);

    judge(&run, st);
    stillness_accepted = false;
    compare_tables(&before, &after);
    if (getenv("LAB_FIGURES"))
        lab_tell("longest gap of the hub %.1f ms", run.found.gap_ms);
    if (records.count) {
        tell_failures();
        fail_msg("%u findings, listed above", records.count);
    }
}

/* ---- main --------------------------------------------------------------------------- */

static weir_status nothing(void *arg)
{
    struct detect_findings found;
    (void)arg;
    detect_start();
    detect_stop(&found);
    return WEIR_OK;
}

int lab_setup(void **state)
{
    const struct lab_way *way = *state;
    running = way->name;
    records.count = 0;
    pthread_mutex_lock(&logged.lock);
    logged.count = 0;
    pthread_mutex_unlock(&logged.lock);
    alarm((unsigned)(TOO_LONG_S * detect_slowness()));
    return 0;
}

int lab_need_mysql(void)
{
    if (!private_server()) {
        printf("skipped: no private server (WEIR_MYSQL_PORT is not set; script/test sets it)\n");
        return LAB_SKIPPED;
    }
    if (!private_server_revive())
        return 2;
    private_server_tidy();
    return 0;
}

int lab_main_(int argc, char **argv, const struct CMUnitTest *tests, size_t count,
              int (*prepare)(void))
{
    static char filter[200];

    if (argc > 1) {
        snprintf(filter, sizeof filter, "*%s*", argv[1]);
        cmocka_set_test_filter(filter);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    weir_log_set(keep_line, NULL, WEIR_LOG_INFO);
    signal(SIGALRM, too_long);

    int status = prepare();
    if (status)
        return status;
    /* What a process opens once is opened now, before anything is counted. */
    if (weir_run(nothing, NULL) != WEIR_OK)
        return 2;
    /* libmariadb ignores SIGPIPE for the whole process when it is first used; a program may
       want it otherwise, and weir must not depend on it. */
    signal(SIGPIPE, SIG_DFL);
    return _cmocka_run_group_tests(argv[0], tests, count, NULL, NULL);
}

/* ---- pools -------------------------------------------------------------------------- */

weir_status lab_pool_new(const weir_mysql_opts *opts, weir_pool **out)
{
    weir_error  err;
    weir_status st = weir_mysql_pool_new(opts, out, &err);
    if (st != WEIR_OK)
        lab_record("pool", "%s: %s", weir_status_name(st), err.message);
    return st;
}

weir_pool_stats lab_stats(const weir_pool *pool)
{
    weir_pool_stats s;
    weir_pool_stats_read(pool, &s);
    return s;
}

bool lab_settle(weir_pool *pool, unsigned idle, int64_t ms)
{
    double until = lab_now_ms() + (double)ms * detect_slowness();
    for (;;) {
        weir_pool_stats s = lab_stats(pool);
        if (s.idle == idle && !s.reserved && !s.connecting && !s.resetting && !s.closing)
            return true;
        if (lab_now_ms() >= until)
            return false;
        (void)weir_sleep(weir_in_ms(2));
    }
}

void lab_pool_end(weir_pool **pool)
{
    weir_pool_stats s = lab_stats(*pool);
    uint64_t        closed = 0;

    if (s.in_use || s.waiting)
        lab_record("pool", "%u on lease and %u waiting at the end", s.in_use, s.waiting);
    if (s.acquired != s.released)
        lab_record("pool", "%llu leases given out, %llu ended", (unsigned long long)s.acquired,
                   (unsigned long long)s.released);

    WEIR_SHIELD(lab_patience(10000));
    weir_status st = weir_pool_close(*pool, WEIR_SCOPE);
    if (st != WEIR_OK)
        lab_record("pool", "closing: %s", weir_status_name(st));
    s = lab_stats(*pool);
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        closed += s.closed[i];
    if (closed != s.opened || s.idle || s.in_use || s.resetting || s.closing)
        lab_record("pool", "opened %llu, closed %llu; idle %u, in use %u, resetting %u, closing %u",
                   (unsigned long long)s.opened, (unsigned long long)closed, s.idle, s.in_use,
                   s.resetting, s.closing);
    weir_pool_free(*pool);
    *pool = NULL;
}

struct warmth {
    weir_pool *pool;
    unsigned   wanted, have;
};

static weir_status warm_one(void *arg)
{
    struct warmth *w = arg;
    weir_error     err;
    weir_autoptr(weir_lease) lease = NULL;

    lab_need_ok(weir_acquire(w->pool, WEIR_SCOPE, &lease, &err), &err);
    w->have++;
    while (w->have < w->wanted)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            return WEIR_FAILED;
    return WEIR_OK;
}

weir_status lab_warm(weir_pool *pool, unsigned connections)
{
    struct warmth w = { .pool = pool, .wanted = connections };
    weir_error    err;
    weir_autoptr(weir_group) group = NULL;

    lab_need_ok(weir_group_new(NULL, &group, &err), &err);
    for (unsigned i = 0; i < connections; i++)
        weir_spawn(group, warm_one, &w);
    weir_status st = weir_group_wait(group, lab_patience(30000));
    if (st != WEIR_OK) {
        lab_record("pool", "warming up: %s", weir_status_name(st));
        return st;
    }
    lab_check(lab_settle(pool, connections, 5000));
    return WEIR_OK;
}

/* ---- SQL ---------------------------------------------------------------------------- */

static int discard_all(MYSQL *my)
{
    for (;;) {
        MYSQL_RES *res = mysql_store_result(my);
        if (!res && mysql_errno(my))
            return (int)mysql_errno(my);
        mysql_free_result(res);
        int more = mysql_next_result(my);
        if (more > 0)
            return (int)mysql_errno(my);
        if (more < 0)
            return 0;
    }
}

static int vrun(MYSQL *my, const char *fmt, va_list args)
{
    char sql[2000];
    int  n = vsnprintf(sql, sizeof sql, fmt, args);
    if (n < 0 || (size_t)n >= sizeof sql)
        return -1;
    return mysql_real_query(my, sql, (unsigned long)n) ? (int)mysql_errno(my) : 0;
}

int sql_do(MYSQL *my, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int code = vrun(my, fmt, args);
    va_end(args);
    return code ? code : discard_all(my);
}

long sql_number(MYSQL *my, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int code = vrun(my, fmt, args);
    va_end(args);

    MYSQL_RES *res = code ? NULL : mysql_store_result(my);
    MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
    long       value = row && row[0] ? atol(row[0]) : -1;
    mysql_free_result(res);
    return value;
}

const char *sql_text(MYSQL *my, char *buf, size_t size, const char *sql)
{
    MYSQL_RES *res = mysql_query(my, sql) ? NULL : mysql_store_result(my);
    MYSQL_ROW  row = res ? mysql_fetch_row(res) : NULL;
    snprintf(buf, size, "%s", row && row[0] ? row[0] : "");
    mysql_free_result(res);
    return buf;
}

int pool_do(weir_pool *pool, const char *sql)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    weir_status st = weir_acquire(pool, WEIR_SCOPE, &lease, &err);
    if (st != WEIR_OK) {
        lab_record("pool", "acquire: %s: %s", weir_status_name(st), err.message);
        return -1;
    }
    return sql_do(weir_mysql(lease), "%s", sql);
}
