/*
 * selfcheck.c - does this process keep what we rely on?
 *
 * Things that a build cannot know: the libev it really runs with, and whether the kernel
 * guards our stacks. Asked once, before the first hub.
 */
#include "hub.h"

#include <errno.h>
#include <sys/random.h>

/* The kernel refuses to write where we may not either. A call that takes a string would not do:
   valgrind reads that itself, does not know of these guards, and dies. */
static bool guarded(void *at)
{
    return getrandom(at, 1, GRND_NONBLOCK) < 0 && errno == EFAULT;
}

static weir_status check_guards(weir_error *err)
{
    struct depot depot;
    weir_status  status = WEIR_OK;

    depot_init(&depot, stack_round(0));
    struct stack *stack = stack_take(&depot, err);
    if (!stack)
        return WEIR_NOMEM;
    if (!guarded((char *)stack->low - 1))
        status = weir_error_set(err, WEIR_USAGE,
                                "the kernel does not guard coroutine stacks (neither by "
                                "MADV_GUARD_INSTALL nor by mprotect): an overflow would go unseen");
    stack_give(&depot, stack);
    depot_free(&depot);
    return status;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static weir_error     found;

static void check(void)
{
    if (reactor_ev_check(&found) == WEIR_OK)
        check_guards(&found);
}

weir_status weir_selfcheck(weir_error *err)
{
    pthread_once(&once, check);
    if (err)
        *err = found;
    return found.status;
}
