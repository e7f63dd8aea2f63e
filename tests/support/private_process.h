/*
 * private_process.h - the process of a server that a test run started for itself.
 *
 * Knows:   killing it, stopping it, and having script/private-server start it again.
 * Ignores: which database it is, and how one talks to it.
 *
 * In a coroutine the calls that take time yield: blocking work goes to weir's offload threads.
 */
#ifndef PRIVATE_PROCESS_H
#define PRIVATE_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

struct private_process {
    const char *kind;     /* as script/private-server calls it */
    const char *pid_file;
    const char *dir;
    const char *script;
};

/* The environment's word for `name`; without one the program ends, since `because` is set and
   half an environment is a mistake. */
const char *private_setting(const char *name, const char *because);

pid_t private_process_pid(const struct private_process *p); /* 0: no pid file */
void  private_process_kill(const struct private_process *p);
void  private_process_stop(const struct private_process *p); /* until go_on(), or our exit */
void  private_process_go_on(void);                           /* whichever we have stopped */
bool  private_process_revive(const struct private_process *p);
bool  private_process_restart(const struct private_process *p);

/* Blocking work of ours, off the hub where there is one; nothing cuts it short. */
void off_the_hub(void (*fn)(void *arg), void *arg);

#endif
