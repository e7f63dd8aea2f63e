/*
 * private_process.c - see private_process.h.
 *
 * A server left stopped would hang whatever comes after, so an exit handler lets it go on.
 */
#define _GNU_SOURCE
#include "private_process.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/coro.h>

enum { SERVERS = 4 };

static pid_t stopped[SERVERS]; /* those we sent SIGSTOP to; 0 is a free place */

const char *private_setting(const char *name, const char *because)
{
    const char *value = getenv(name);
    if (!value || !*value) {
        fprintf(stderr, "private_server: %s is set, but %s is not\n", because, name);
        exit(2);
    }
    return value;
}

void off_the_hub(void (*fn)(void *arg), void *arg)
{
    if (!weir_self()) {
        fn(arg);
        return;
    }
    WEIR_SHIELD(WEIR_FOREVER);
    if (weir_offload(fn, arg, WEIR_FOREVER) != WEIR_OK) {
        fprintf(stderr, "private_server: weir_offload failed\n");
        abort();
    }
}

pid_t private_process_pid(const struct private_process *p)
{
    int   pid = 0;
    FILE *f = fopen(p->pid_file, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%d", &pid) != 1)
        pid = 0;
    fclose(f);
    return pid;
}

/*
 * A process killed with many threads is a zombie as soon as its first one has ended, while the
 * others still hold its sockets open: it is gone when none of them is left.
 */
static bool alive(pid_t pid)
{
    char  path[64], state = 'X';
    int   threads = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (fscanf(f, "%*d (%*[^)]) %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                  "%*d %d", &state, &threads) != 2)
        state = 'X';
    fclose(f);
    return (state != 'Z' && state != 'X') || threads > 1;
}

static void kill_it(void *arg)
{
    const struct private_process *p = arg;
    pid_t                         pid = private_process_pid(p);
    if (pid <= 0 || kill(pid, SIGKILL))
        return;
    for (int i = 0; i < 5000 && alive(pid); i++)
        usleep(1000);
}

void private_process_kill(const struct private_process *p)
{
    off_the_hub(kill_it, (void *)p);
}

/* Also called from a signal handler, and at exit. */
void private_process_go_on(void)
{
    for (int i = 0; i < SERVERS; i++) {
        if (stopped[i] > 0)
            kill(stopped[i], SIGCONT);
        stopped[i] = 0;
    }
}

void private_process_stop(const struct private_process *p)
{
    static bool registered;
    pid_t       pid = private_process_pid(p);
    int         place = 0;

    if (!registered)
        registered = atexit(private_process_go_on) == 0;
    while (place < SERVERS && stopped[place] && stopped[place] != pid)
        place++;
    if (pid > 0 && place < SERVERS && kill(pid, SIGSTOP) == 0)
        stopped[place] = pid;
}

struct revival {
    const struct private_process *process;
    bool                          ok;
};

static void restart_it(void *arg)
{
    struct revival               *r = arg;
    const struct private_process *p = r->process;
    int                           status = 0;
    pid_t                         pid;
    char *argv[] = { (char *)p->script, (char *)p->kind, (char *)"restart", (char *)p->dir, NULL };
    posix_spawn_file_actions_t actions;

    /* A server that inherits our sockets would keep them open for us. */
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    r->ok = posix_spawn(&pid, p->script, &actions, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    if (!r->ok)
        return;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    r->ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool private_process_restart(const struct private_process *p)
{
    struct revival r = { .process = p };
    off_the_hub(restart_it, &r);
    return r.ok;
}

bool private_process_revive(const struct private_process *p)
{
    pid_t pid = private_process_pid(p);

    if (pid > 0 && alive(pid))
        return kill(pid, SIGCONT) == 0;
    return private_process_restart(p);
}
