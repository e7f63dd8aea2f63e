/*
 * world.c - the reactor whose clock jumps.
 *
 * Turns follow each other without waiting. When a turn leaves nobody ready, time moves to the
 * next alarm; when there is none either, the world is stuck: that is a failure of the test.
 */
#include "world.h"

#include "reactor.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { FDS = 4096, START_NS = 1000000000 };

struct world {
    struct reactor  base;
    int64_t         now_ns;
    unsigned char   watched[FDS], ready[FDS];
    bool            once[FDS];
    int             fds; /* none from here on was ever watched */
    pthread_mutex_t lock; /* for pokes of other threads */
    pthread_cond_t  poked;
    bool            poke;
};

static __thread struct world *here;

static int64_t read_clock(struct reactor *reactor)
{
    return ((struct world *)reactor)->now_ns;
}

static int watch(struct reactor *reactor, int fd, int events, enum watch_mode mode)
{
    struct world *world = (struct world *)reactor;

    if (fd < 0 || fd >= FDS)
        return EBADF;
    world->watched[fd] = (unsigned char)events;
    world->once[fd] = mode == WATCH_ONCE;
    if (fd >= world->fds)
        world->fds = fd + 1;
    return 0;
}

static void poke(struct reactor *reactor)
{
    struct world *world = (struct world *)reactor;

    pthread_mutex_lock(&world->lock);
    world->poke = true;
    pthread_cond_signal(&world->poked);
    pthread_mutex_unlock(&world->lock);
}

/* Level-triggered, like the real one: ready stays ready until the test takes it back. */
static bool deliver(struct world *world)
{
    bool any = false;

    for (int fd = 0; fd < world->fds; fd++) {
        int events = world->watched[fd] & world->ready[fd];
        if (events) {
            if (world->once[fd])
                world->watched[fd] = 0;
            hub_fd_ready(world->base.hub, fd, events);
            any = true;
        }
    }
    return any;
}

/* Nobody is ready and no alarm is set: only another thread can still change anything. */
static bool wait_for_threads(struct world *world)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&world->lock);
    while (!world->poke && pthread_cond_timedwait(&world->poked, &world->lock, &until) == 0)
        continue;
    bool poked = world->poke;
    world->poke = false;
    pthread_mutex_unlock(&world->lock);
    return poked;
}

static void run(struct reactor *reactor)
{
    struct world *world = (struct world *)reactor;

    for (;;) {
        enum hub_wish wish = hub_turn(reactor->hub);
        if (wish == HUB_DONE)
            return;
        if (deliver(world) || wish == HUB_AGAIN)
            continue;
        int64_t next = hub_next_alarm(reactor->hub);
        if (next != INT64_MAX) {
            if (next > world->now_ns)
                world->now_ns = next;
        } else if (!wait_for_threads(world)) {
            fprintf(stderr, "world: nobody can ever run again\n");
            abort();
        }
    }
}

static void free_world(struct reactor *reactor)
{
    struct world *world = (struct world *)reactor;

    pthread_mutex_destroy(&world->lock);
    pthread_cond_destroy(&world->poked);
    free(world);
    here = NULL;
}

static const struct reactor_ops ops = {
    .clock = read_clock, .watch = watch, .poke = poke, .run = run, .free = free_world,
};

weir_status world_run(weir_fn app, void *arg)
{
    struct world *world = calloc(1, sizeof *world);
    if (!world)
        return WEIR_NOMEM;

    world->base.ops = &ops;
    world->now_ns = START_NS;
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->poked, NULL);
    here = world;
    return hub_run_on(&world->base, NULL, app, arg);
}

bool world_is_here(void)
{
    return here != NULL;
}

int64_t world_now_ns(void)
{
    return here->now_ns - START_NS;
}

int64_t world_now_ms(void)
{
    return world_now_ns() / 1000000;
}

void world_settle(void)
{
    /* The clock jumps only when nobody is ready, so an instant later all has settled. */
    weir_sleep(weir_deadline_at(here->now_ns + 1));
}

void world_advance_ms(int64_t ms)
{
    world_settle();
    weir_sleep(weir_deadline_at(here->now_ns - 1 + ms * 1000000));
    world_settle();
}

void world_fd_ready(int fd, int events)
{
    here->ready[fd] = (unsigned char)events;
}

int world_fd_watched(int fd)
{
    return here->watched[fd];
}
