/*
 * local.c - values that each coroutine has for itself.
 *
 * Keys are the process's, values the coroutine's: an array that exists once it has set one.
 */
#include "hub.h"

#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned        keys;
static void (*destructors[WEIR_LOCAL_MAX])(void *);

weir_status weir_local_new(void (*destroy)(void *value), weir_local *out)
{
    weir_status status = WEIR_FULL;

    pthread_mutex_lock(&lock);
    if (keys < WEIR_LOCAL_MAX) {
        destructors[keys] = destroy;
        out->index = keys++;
        status = WEIR_OK;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void *weir_local_get(weir_local key)
{
    weir_task *task = task_here();

    return task && task->locals && key.index < WEIR_LOCAL_MAX ? task->locals[key.index] : NULL;
}

weir_status weir_local_set(weir_local key, void *value)
{
    weir_task *task = task_here();

    if (!task || key.index >= WEIR_LOCAL_MAX)
        return WEIR_USAGE;
    if (!task->locals) {
        task->locals = calloc(WEIR_LOCAL_MAX, sizeof *task->locals);
        if (!task->locals)
            return WEIR_NOMEM;
    }
    task->locals[key.index] = value;
    return WEIR_OK;
}

/* A destructor may set other values again, so go round until none is left, but not for ever. */
void locals_destroy(weir_task *task)
{
    bool any = true;

    for (int round = 0; any && round < 4; round++) {
        any = false;
        for (unsigned i = 0; i < WEIR_LOCAL_MAX; i++) {
            void *value = task->locals[i];
            task->locals[i] = NULL;
            if (value && destructors[i]) {
                destructors[i](value);
                any = true;
            }
        }
    }
    free(task->locals);
    task->locals = NULL;
}
