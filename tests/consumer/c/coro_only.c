/* coro_only.c - the coroutines alone, without pools or a client library. */
#include <stdbool.h>

#include <weir/coro.h>

static weir_status nap(void *arg)
{
    bool *woke = arg;

    *woke = weir_sleep(weir_in_ms(1)) == WEIR_OK;
    return WEIR_OK;
}

int main(void)
{
    bool woke = false;

    return weir_run(nap, &woke) == WEIR_OK && woke ? 0 : 1;
}
