/*
 * gdb_coroutines.c - a program to be looked at by test_gdb_coroutines.sh: two coroutines wait in a
 * function of a known name, another hub's one sleeps, and the main one aborts.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <weir/coro.h>
#include <weir/sync.h>

static sem_t other_sleeps;

__attribute__((noinline)) static weir_status wait_down_here(weir_event *event, int depth)
{
    weir_status status =
        depth ? wait_down_here(event, depth - 1) : weir_event_wait(event, WEIR_FOREVER);

    __asm__ volatile(""); /* or the call would be a jump, and no frame */
    return status;
}

static weir_status wait_for_nothing(void *arg)
{
    return wait_down_here(arg, 2);
}

static weir_status sleep_long(void *arg)
{
    (void)arg;
    sem_post(&other_sleeps);
    return weir_sleep(weir_in_ms(60000));
}

static void *run_another(void *arg)
{
    (void)weir_run(sleep_long, arg);
    return NULL;
}

__attribute__((noinline)) static void die_here(void)
{
    abort();
}

static weir_status app(void *arg)
{
    static weir_event event;
    pthread_t         thread;

    (void)arg;
    for (int i = 0; i < 2; i++)
        weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "waiter" }, wait_for_nothing, &event);
    weir_task *doomed = weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "doomed" },
                                        wait_for_nothing, &event);
    if (sem_init(&other_sleeps, 0, 0) != 0 || pthread_create(&thread, NULL, run_another, NULL) != 0)
        return WEIR_FAILED;
    sem_wait(&other_sleeps);
    weir_sleep(weir_in_ms(50));
    weir_cancel(doomed);
    die_here();
    return WEIR_FAILED;
}

int main(void)
{
    return weir_run(app, NULL);
}
