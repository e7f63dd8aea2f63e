/*
 * 05_shutdown - stopping a service without losing an acknowledged request.
 *
 * SIGTERM cancels the main coroutine: its wait returns, it stops taking work, and gives what
 * is under way half a second to finish. Whoever is not done by then is cancelled, and ends
 * through its ordinary error path.
 *
 * usage: 05_shutdown   (it sends itself the SIGTERM)
 */
#include <signal.h>
#include <stdio.h>
#include <weir/coro.h>

static weir_status request(void *arg)
{
    int         ms = *(int *)arg;
    weir_status status = weir_sleep(weir_in_ms(ms)); /* stands for the work */

    printf("a request of %d ms: %s\n", ms, weir_status_name(status));
    return status;
}

static weir_status app(void *arg)
{
    static int durations[] = { 100, 300, 5000 };
    weir_error err;
    weir_autoptr(weir_group) requests = NULL;

    (void)arg;
    if (weir_group_new(&(weir_group_opts){ .name = "requests", .keep = WEIR_KEEP_COUNTS },
                       &requests, &err))
        return weir_fail(&err);
    for (int i = 0; i < 3; i++)
        weir_spawn(requests, request, &durations[i]);

    weir_sleep(weir_in_ms(50));
    raise(SIGTERM);
    if (weir_sleep(WEIR_FOREVER) != WEIR_CANCELED) /* serve, until we are told to stop */
        return WEIR_FAILED;

    WEIR_SHIELD(weir_in_ms(500)); /* we are cancelled already: from here we want to wait again */
    if (weir_group_wait(requests, WEIR_SCOPE) == WEIR_TIMEOUT)
        printf("%u not done in time\n", weir_group_running(requests));
    return WEIR_OK; /* the group is cancelled and joined on the way out */
}

int main(void)
{
    return weir_run_with(&(weir_run_opts){ .cancel_on_signals = true }, app, NULL);
}
