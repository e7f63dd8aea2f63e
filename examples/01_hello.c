/*
 * 01_hello - thirty waits that take as long as one.
 *
 * Each greeter waits a tenth of a second, as a network call would. They wait side by side on
 * one thread, so all thirty are done after a tenth of a second, not after three.
 */
#include <stdio.h>
#include <weir/coro.h>

static weir_status greet(void *arg)
{
    weir_status status = weir_sleep(weir_in_ms(100)); /* yields: the others go on meanwhile */

    if (status == WEIR_OK)
        printf("hello from %s\n", (const char *)arg);
    return status;
}

static weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_group) group = NULL; /* cancelled and joined when we return early */

    (void)arg;
    if (weir_group_new(NULL, &group, &err))
        return weir_fail(&err);
    for (int i = 0; i < 30; i++)
        weir_spawn(group, greet, i % 2 ? "an odd one" : "an even one");
    return weir_group_wait(group, weir_in_ms(1000));
}

int main(void)
{
    return weir_run(app, NULL);
}
