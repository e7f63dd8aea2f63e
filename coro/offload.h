/*
 * offload.h - threads that run what would block.
 *
 * Knows:   a bounded crew of threads with a queue; one crew for offloads, one for lookups.
 * Ignores: what the jobs do.
 */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include "list.h"

#include <pthread.h>
#include <weir/hub.h>

/* Under the crew's lock. */
enum job_state {
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_DONE,
    JOB_ABANDONED /* nobody waits any more: its thread calls `abandon` when it is done */
};

struct job {
    struct list    link;
    enum job_state state;
    void (*run)(void *arg);
    void (*abandon)(void *arg);
    void      *arg;
    weir_waker waker; /* of the coroutine that waits */
};

struct crew {
    pthread_mutex_t lock;
    pthread_cond_t  work;
    struct list     queue;
    unsigned        limit, threads, idle;
    unsigned        queued; /* jobs in the queue */
    int64_t         linger_ms; /* an idle thread ends after this */
};

#define CREW_INIT(name, max)                                                              \
    {                                                                                     \
        .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER,              \
        .queue = { &(name).queue, &(name).queue }, .limit = (max), .linger_ms = 5000      \
    }

/*
 * Have the crew do a job and wait for it. Returns WEIR_OK when it is done; WEIR_NOMEM when
 * no thread could be made; else why the wait ended: then the job never began, or, where it
 * has an `abandon`, is left to its thread.
 */
weir_status crew_do(struct crew *crew, struct job *job, weir_deadline deadline);

/* The two crews. */
extern struct crew crew_of_offloads, crew_of_resolvers;

struct crew_count {
    unsigned threads, idle, queued, limit;
};

struct crew_count crew_count(struct crew *crew);

/* Around a fork: no thread holds a crew's lock meanwhile, and the child has none of them. */
void crews_hold(void);
void crews_let_go(void);
void crews_forked(void);

#endif
