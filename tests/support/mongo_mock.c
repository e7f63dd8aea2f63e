/*
 * mongo_mock.c - see mongo_mock.h: the test's end of it.
 */
#define _GNU_SOURCE
#include "mongo_mock_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <weir/coro.h>

enum { START_MS = 20000, ORDER_MS = 10000 };

struct mongo_mock {
    struct mock_shared *shared;
    pid_t               pid;
};

static void wait_a_moment(void)
{
    struct timespec ms = { .tv_nsec = 1000000 };
    if (!weir_self()) {
        nanosleep(&ms, NULL);
        return;
    }
    WEIR_SHIELD(WEIR_FOREVER); /* orders are also given by coroutines that are cancelled */
    (void)weir_sleep(weir_in_ms(1));
}

/* ---- starting and ending ------------------------------------------------------------ */

static void copy(char *to, size_t size, const char *text)
{
    if (snprintf(to, size, "%s", text ? text : "") >= (int)size) {
        fprintf(stderr, "mongo_mock: too long: %s\n", text);
        abort();
    }
}

static void settle(struct mock_shared *s, const struct mongo_mock_opts *opts)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->lock, &attr);
    pthread_mutexattr_destroy(&attr);

    s->parent = getpid();
    s->members = opts->members ? opts->members : 1;
    s->arbiter = opts->arbiter;
    s->strict = opts->strict;
    s->with_api = opts->with_api;
    s->ready_answers = opts->ready_answers;
    s->no_speculation = opts->no_speculation;
    s->with_login = opts->user != NULL;
    copy(s->set_name, sizeof s->set_name, opts->set_name ? opts->set_name : "weir");
    copy(s->known_as, sizeof s->known_as, opts->known_as ? opts->known_as : "127.0.0.1");
    copy(s->unix_path, sizeof s->unix_path, opts->unix_path);
    copy(s->tls_cert, sizeof s->tls_cert, opts->tls_cert);
    copy(s->tls_key, sizeof s->tls_key, opts->tls_key);
    copy(s->tls_clients, sizeof s->tls_clients, opts->tls_clients);
    copy(s->user, sizeof s->user, opts->user);
    copy(s->password, sizeof s->password, opts->password);
    copy(s->source, sizeof s->source, opts->source);
    s->rounds = opts->rounds ? opts->rounds : 4096;
    s->mechanisms = opts->mechanisms ? opts->mechanisms : MOCK_SHA_1 | MOCK_SHA_256;
    s->trick = opts->trick;
    s->documents = 3;
    s->text_bytes = 40;
    s->term = 1;
}

static const char *wrong_with(const struct mongo_mock_opts *opts)
{
    if (opts->members > MOCK_MEMBERS)
        return "more than three members";
    if (opts->members > 1 && opts->unix_path)
        return "a set on a Unix socket";
    if (opts->arbiter && opts->members < 3)
        return "an arbiter without a set of three";
    if (opts->ready_answers && (opts->members > 1 || opts->tls_cert))
        return "ready answers from a set, or by TLS";
    if (opts->tls_clients && !opts->tls_cert)
        return "clients' certificates without TLS";
    if (!opts->tls_cert != !opts->tls_key ||
        !opts->user != (!opts->password && opts->mechanisms != MOCK_X509))
        return "half of a pair of options";
    return NULL;
}

static pid_t launch(int memory)
{
    char                      *argv[] = { (char *)MONGO_MOCK_PROGRAM, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t          attr;
    sigset_t                   none;
    pid_t                      pid = -1;

    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, memory, MOCK_SHARED_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, MOCK_SHARED_FD + 1);
    int error = posix_spawn(&pid, argv[0], &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    if (error)
        fprintf(stderr, "mongo_mock: %s: %s\n", argv[0], strerror(error));
    return error ? -1 : pid;
}

static bool wait_until_up(const struct mongo_mock *mock)
{
    for (int i = 0; i < START_MS; i++) {
        int state = atomic_load(&mock->shared->state);
        if (state == MOCK_UP)
            return true;
        if (state == MOCK_FAILED || waitpid(mock->pid, NULL, WNOHANG) == mock->pid)
            break;
        wait_a_moment();
    }
    fprintf(stderr, "mongo_mock: it did not come up: %s\n", mock->shared->why);
    return false;
}

struct mongo_mock *mongo_mock_start(const struct mongo_mock_opts *opts)
{
    static const struct mongo_mock_opts defaults;
    const char *wrong = wrong_with(opts ? opts : &defaults);
    int         memory;

    if (wrong) {
        fprintf(stderr, "mongo_mock: it cannot do %s\n", wrong);
        return NULL;
    }
    struct mongo_mock *mock = calloc(1, sizeof *mock);
    if (!mock)
        return NULL;
    mock->pid = -1;
    mock->shared = MAP_FAILED;
    memory = memfd_create("mongo_mock", MFD_CLOEXEC);
    if (memory >= 0 && ftruncate(memory, sizeof *mock->shared) == 0)
        mock->shared = mmap(NULL, sizeof *mock->shared, PROT_READ | PROT_WRITE, MAP_SHARED,
                            memory, 0);
    if (mock->shared != MAP_FAILED) {
        settle(mock->shared, opts ? opts : &defaults);
        mock->pid = launch(memory);
    }
    if (memory >= 0)
        close(memory);
    if (mock->pid < 0 || !wait_until_up(mock)) {
        mongo_mock_stop(mock);
        return NULL;
    }
    return mock;
}

void mongo_mock_stop(struct mongo_mock *mock)
{
    if (!mock)
        return;
    if (mock->pid > 0) {
        kill(mock->pid, SIGKILL);
        while (waitpid(mock->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (mock->shared != MAP_FAILED) {
        if (mock->shared->unix_path[0])
            unlink(mock->shared->unix_path);
        munmap(mock->shared, sizeof *mock->shared);
    }
    free(mock);
}

int mongo_mock_pid(const struct mongo_mock *mock)
{
    return mock->pid;
}

unsigned mongo_mock_port(const struct mongo_mock *mock, int member)
{
    return mock->shared->member[member].port;
}

/* ---- where it is -------------------------------------------------------------------- */

struct text {
    char  *out;
    size_t size, used;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->out + t->used, t->size - t->used, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= t->size - t->used) {
        fprintf(stderr, "mongo_mock: %zu bytes are too few for a URI\n", t->size);
        abort();
    }
    t->used += (size_t)n;
}

static void add_escaped(struct text *t, const char *text)
{
    for (; *text; text++) {
        bool plain = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
                     (*text >= '0' && *text <= '9') || *text == '.' || *text == '-' ||
                     *text == '_';
        add(t, plain ? "%c" : "%%%02X", (unsigned char)*text);
    }
}

char *mongo_mock_uri(const struct mongo_mock *mock, char *out, size_t size, const char *options)
{
    const struct mock_shared *s = mock->shared;
    struct text               t = { .out = out, .size = size };
    char                      separator = '?';

    add(&t, "mongodb://");
    if (s->with_login) {
        add_escaped(&t, s->user);
        add(&t, s->password[0] ? ":" : "");
        add_escaped(&t, s->password);
        add(&t, "@");
    }
    if (s->unix_path[0])
        add_escaped(&t, s->unix_path);
    else
        for (unsigned i = 0; i < s->members; i++)
            add(&t, "%s127.0.0.1:%u", i ? "," : "", s->member[i].port);
    add(&t, "/");
    if (s->members > 1) {
        add(&t, "%creplicaSet=%s", separator, s->set_name);
        separator = '&';
    }
    if (options && *options)
        add(&t, "%c%s", separator, options);
    return out;
}

/* ---- orders ------------------------------------------------------------------------- */

static unsigned first_of(int member)
{
    return member == MOCK_EVERY ? 0 : (unsigned)member;
}

static unsigned end_of(const struct mock_shared *s, int member)
{
    return member == MOCK_EVERY ? s->members : (unsigned)member + 1;
}

/* Until the server says that this and all before has been done. */
static void order(struct mongo_mock *mock)
{
    struct mock_shared *s = mock->shared;
    unsigned            number = atomic_fetch_add(&s->orders, 1) + 1;

    syscall(SYS_futex, &s->orders, FUTEX_WAKE, 1, NULL, NULL, 0);
    for (int i = 0; i < ORDER_MS; i++) {
        if ((int)(atomic_load(&s->done) - number) >= 0)
            return;
        wait_a_moment();
    }
    fprintf(stderr, "mongo_mock: an order was not carried out (%s)\n", s->why);
    abort();
}

void mongo_mock_rule(struct mongo_mock *mock, int member, const struct mock_rule *rule)
{
    struct mock_shared     *s = mock->shared;
    struct mock_shared_rule made = { .deed = rule->deed, .delay_ms = rule->delay_ms,
                                     .skip = rule->skip, .times = rule->times,
                                     .reset = rule->reset, .code = rule->code };

    copy(made.command, sizeof made.command, rule->command);
    copy(made.code_name, sizeof made.code_name, rule->code_name);
    pthread_mutex_lock(&s->lock);
    for (unsigned i = first_of(member); i < end_of(s, member); i++) {
        if (s->member[i].rules == MOCK_RULES) {
            fprintf(stderr, "mongo_mock: more than %d rules\n", MOCK_RULES);
            abort();
        }
        s->member[i].rule[s->member[i].rules++] = made;
    }
    pthread_mutex_unlock(&s->lock);
}

void mongo_mock_forget(struct mongo_mock *mock)
{
    pthread_mutex_lock(&mock->shared->lock);
    for (unsigned i = 0; i < MOCK_MEMBERS; i++)
        mock->shared->member[i].rules = 0;
    pthread_mutex_unlock(&mock->shared->lock);
}

void mongo_mock_data(struct mongo_mock *mock, unsigned documents, unsigned text_bytes)
{
    atomic_store(&mock->shared->documents, documents);
    atomic_store(&mock->shared->text_bytes, text_bytes);
}

void mongo_mock_elect(struct mongo_mock *mock, int primary)
{
    pthread_mutex_lock(&mock->shared->lock);
    mock->shared->primary = primary;
    mock->shared->term++;
    pthread_mutex_unlock(&mock->shared->lock);
}

void mongo_mock_cut(struct mongo_mock *mock, int member)
{
    for (unsigned i = first_of(member); i < end_of(mock->shared, member); i++)
        atomic_fetch_add(&mock->shared->member[i].cuts, 1);
    order(mock);
}

void mongo_mock_door(struct mongo_mock *mock, int member, enum mock_door door)
{
    for (unsigned i = first_of(member); i < end_of(mock->shared, member); i++)
        atomic_store(&mock->shared->member[i].door, (int)door);
    order(mock);
}

/* ---- counts ------------------------------------------------------------------------- */

struct mock_counts mongo_mock_counts(const struct mongo_mock *mock, int member)
{
    struct mock_counts sum = { 0 };

    for (unsigned i = first_of(member); i < end_of(mock->shared, member); i++) {
        struct mock_member *m = &mock->shared->member[i];
        sum.accepted += atomic_load(&m->accepted);
        sum.open += atomic_load(&m->open);
        sum.commands += atomic_load(&m->commands);
        sum.denied += atomic_load(&m->denied);
        sum.proofs += atomic_load(&m->proofs);
        sum.logins += atomic_load(&m->logins);
        sum.metadata_again += atomic_load(&m->metadata_again);
        sum.broken += atomic_load(&m->broken);
        sum.late_bytes += atomic_load(&m->late_bytes);
    }
    return sum;
}

unsigned mongo_mock_seen(const struct mongo_mock *mock, int member, const char *command)
{
    struct mock_shared *s = mock->shared;
    unsigned            name = 0, sum = 0;

    pthread_mutex_lock(&s->lock);
    while (name < s->names && strcmp(s->name[name], command) != 0)
        name++;
    bool known = name < s->names;
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = first_of(member); known && i < end_of(s, member); i++)
        sum += atomic_load(&s->member[i].seen[name]);
    return sum;
}
