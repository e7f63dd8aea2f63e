/*
 * offload.h - threads that run what would block.
 *
 * Knows:   a bounded crew of threads with a line of jobs; one crew for offloads, one for lookups,
 *          and those that applications make.
 * Ignores: what the jobs do.
 */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include "list.h"

#include <pthread.h>
#include <weir/hub.h>

/* In the order in which a job goes through them. Under the crew's lock. */
enum job_state {
    JOB_OUTSIDE, /* the line is full */
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_DONE,
    JOB_LOST,      /* in the child of a fork: its thread is the parent's */
    JOB_ABANDONED  /* nobody waits any more: its thread calls `abandon` when it is done */
};

struct job {
    struct list    link;
    enum job_state state;
    bool           detached; /* nobody waits, from the first: gone once `run` has begun */
    void (*run)(void *arg);
    void (*abandon)(void *arg);
    void          *arg;
    weir_waker     waker; /* of the coroutine that waits, */
    enum job_state past;  /* for the job to be past this state */
};

struct crew {
    pthread_mutex_t lock;
    pthread_cond_t  work;
    struct list     link;    /* of all crews */
    const char     *name;
    struct list     line;    /* jobs for the next thread; */
    struct list     outside; /* those that came when it was full */
    struct list     running; /* but for detached ones */
    unsigned        queued, waiting; /* jobs in the line, and outside of it */
    unsigned        limit, keep;     /* threads at most; threads that stay though idle */
    unsigned        threads, idle;
    unsigned        room;            /* jobs in the line at most */
    int64_t         linger_ms;       /* an idle thread ends after this; negative: never */
    uint64_t        done, abandoned, made; /* since the crew was */
    unsigned        refs;   /* its owner, its threads, and who is inside with a job; for those
                               that are made: the last one frees it */
    bool            closed; /* its owner has let go */
};

#define CREW_INIT(crew, says, max)                                                        \
    {                                                                                     \
        .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER,              \
        .link = { &(crew).link, &(crew).link }, .name = (says),                           \
        .line = { &(crew).line, &(crew).line },                                           \
        .outside = { &(crew).outside, &(crew).outside },                                  \
        .running = { &(crew).running, &(crew).running }, .limit = (max), .room = CREW_ROOM, \
        .linger_ms = CREW_LINGER_MS, .refs = 1                                            \
    }

enum { CREW_LIMIT = 10, CREW_ROOM = 64, CREW_LINGER_MS = 5000 };

/* The two crews that are always there. */
extern struct crew crew_of_offloads, crew_of_resolvers;

/* A crew of its own; NULL without memory. Its name is copied. Let go of, it does what it was
   handed, and ends. */
struct crew *crew_new(const char *name, unsigned limit, unsigned keep, unsigned room,
                      int64_t linger_ms);
void         crew_let_go(struct crew *crew);
void         crew_resize(struct crew *crew, unsigned limit, unsigned keep);

/* On a crew's thread, where whatever is handed in had better run at once. */
bool crew_is_here(void);

/*
 * Have the crew do a job and wait for it. Returns WEIR_OK when it is done; WEIR_NOMEM when no
 * thread could be made; else why the wait ended: then the job never began.
 */
weir_status crew_do(struct crew *crew, struct job *job, weir_deadline deadline);

/* The same in steps: wait for a place in the line; wait for the job to be done. */
weir_status crew_hand_in(struct crew *crew, struct job *job, weir_deadline deadline);
weir_status crew_wait(struct crew *crew, struct job *job, weir_deadline deadline);

/* After a job was handed in, once: nobody will ask for it any more. Returns the state it was left
   in: OUTSIDE or QUEUED, it never begins; ABANDONED, it is its thread's, and must not be touched;
   DONE, where need be after waiting for it; LOST. */
enum job_state crew_end(struct crew *crew, struct job *job);
enum job_state crew_state_of(struct crew *crew, struct job *job);

/* For a detached job, from any thread. `withdraw` says whether it was still in line. */
weir_status crew_post(struct crew *crew, struct job *job);
bool        crew_withdraw(struct crew *crew, struct job *job);

struct crew_count {
    const char *name;
    unsigned    threads, idle, queued, waiting, limit, keep;
    uint64_t    done, abandoned, made;
};

struct crew_count crew_count(struct crew *crew);
void              crews_each(void (*fn)(const struct crew_count *count, void *arg), void *arg);
unsigned          crews_idle(void); /* threads of all of them */

/* Around a fork: no thread holds a crew's lock meanwhile, and the child has none of them. */
void crews_hold(void);
void crews_let_go(void);
void crews_forked(void);

#endif
