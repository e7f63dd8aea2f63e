/*
 * usleep.c - the one place where libmongoc sleeps by itself.
 *
 * While it looks for a server and has asked all of them less than half a second ago, the
 * library sleeps for the rest of that time: in usleep(3) before its version 1.26, in a hook
 * of the client's from then on.
 *
 * A definition of usleep in a program, or in a library it is linked with, comes before libc's for
 * every library of the process. It is a weak one, so that a program, or a test, that has its own
 * can be linked; and whether it is the one that is called is found out by calling it.
 */
#define _GNU_SOURCE
#include "mongo_internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <time.h>

static __thread bool probing, reached;

static int sleep_in_thread(unsigned microseconds)
{
    struct timespec time = { .tv_sec = microseconds / 1000000,
                             .tv_nsec = (long)(microseconds % 1000000) * 1000 };

    return nanosleep(&time, NULL);
}

int weir_mongo_usleep(unsigned microseconds)
{
    const struct hot_task *self = (const struct hot_task *)hot_self();

    if (probing) {
        reached = true;
        return 0;
    }
    if (!self || self->no_yield)
        return sleep_in_thread(microseconds);
    int64_t now = weir_in_ms(0).at_ns;
    if (weir_sleep(weir_deadline_at(now + (int64_t)microseconds * 1000)) == WEIR_OK)
        return 0;
    errno = EINTR;
    return -1;
}

#if MONGOC_CHECK_VERSION(1, 26, 0)

static void sleep_for(int64_t microseconds, void *unused)
{
    (void)unused;
    (void)weir_mongo_usleep((unsigned)microseconds);
}

void mo_sleep_hook(mongoc_client_t *mongoc)
{
    mongoc_client_set_usleep_impl(mongoc, sleep_for, NULL);
}

bool mo_sleep_cooperates(void)
{
    return true;
}

#else

#ifdef WEIR_MONGO_USLEEP
WEIR_API __attribute__((weak)) int usleep(unsigned microseconds);

int usleep(unsigned microseconds)
{
    return weir_mongo_usleep(microseconds);
}
#endif

void mo_sleep_hook(mongoc_client_t *mongoc)
{
    (void)mongoc;
}

/* As the dynamic linker finds it for the library. */
bool mo_sleep_cooperates(void)
{
    int (*bound)(unsigned) = (int (*)(unsigned))dlsym(RTLD_DEFAULT, "usleep");

    probing = true;
    reached = false;
    if (bound)
        bound(0);
    probing = false;
    return reached;
}

#endif
