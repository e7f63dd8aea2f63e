/*
 * permits.h - permits in memory that several processes share, as the files of pool/ see them.
 *
 *     permits.c       the table: who has which, who wants one, who is no more
 *     permits_file.c  where it comes from: made, opened, looked over
 *     permits_pool.c  a pool's side: waiting for one, giving one up, hearing of the others
 */
#ifndef PERMITS_H
#define PERMITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <weir/permits.h>

enum { PERMITS_MAX = 65536, PERMITS_VERSION = 1, PERMITS_NOBODY = -1 };

/* One pool. Written by its owner, except as said. A cache line. */
struct permits_member {
    _Atomic uint64_t tag;      /* generation << 32 | pid; pid 0: nobody's. Whoever finds its owner
                                  dead may end it */
    _Atomic uint64_t birth;    /* generation << 32 | life_birth(): of another generation: not
                                  known yet */
    _Atomic uint64_t bell;     /* the name of its socket; 0: none yet */
    _Atomic uint32_t wants;    /* permits it would take; less by one with each it is handed */
    _Atomic uint32_t urgent;   /* somebody is waiting for them */
    _Atomic int64_t  since_ns; /* since then: who is handed one first */
    _Atomic uint32_t used;     /* permits it has, by its own count */
    uint32_t         unused[5];
};

_Static_assert(sizeof(struct permits_member) == 64, "it is the same in every process");

struct permits_table {
    char                  magic[8];
    uint32_t              version;
    uint32_t              count;
    uint64_t              pid_space; /* the inode of its PID namespace */
    uint64_t              unused[5];
    struct permits_member members[]; /* `count` of them; then as many words, one a permit */
};

struct weir_permits {
    struct permits_table *table;
    _Atomic uint64_t     *words; /* 0: free; generation << 32 | member + 1 */
    unsigned              count;
    atomic_uint           refs;  /* of this process */
};

static inline size_t permits_size(unsigned count)
{
    return sizeof(struct permits_table) +
           count * (sizeof(struct permits_member) + sizeof(_Atomic uint64_t));
}

/* ---- permits.c ------------------------------------------------------------------------ */

/* Tells a pool that there is something to look at. Must not call back. */
typedef void (*permits_ring_fn)(const struct permits_member *member, void *arg);

struct permits_bell {
    permits_ring_fn ring;
    void           *arg;
};

/* A place for a pool of this process; PERMITS_NOBODY: all are taken by living ones. */
int      permits_enter(weir_permits *permits, const struct permits_bell *bell);
void     permits_leave(weir_permits *permits, int member, const struct permits_bell *bell);
uint64_t permits_word(const weir_permits *permits, int member); /* what it writes on its own */

/* A free one; PERMITS_NOBODY. Nothing for whom the others believe dead. */
int  permits_take(weir_permits *permits, uint64_t mine);
/* To whoever should have it next, or free. `now` is what is written on it. */
void permits_pass(weir_permits *permits, unsigned index, uint64_t now,
                  const struct permits_bell *bell);

unsigned permits_pools(const weir_permits *permits);            /* that are there */
unsigned permits_part(const weir_permits *permits);             /* an equal one of all */
unsigned permits_owed(const weir_permits *permits, int member); /* to those below their part */

/* The next pool of another process, in a ring; PERMITS_NOBODY. And the one before. */
int permits_next(const weir_permits *permits, int member);
int permits_previous(const weir_permits *permits, int member);

pid_t permits_pid(uint64_t tag);
uint32_t permits_birth(const weir_permits *permits, int member, uint64_t tag); /* 0: not known */
/* End the member whose owner is dead. What it had goes to others. */
void permits_bury(weir_permits *permits, int member, uint64_t tag,
                  const struct permits_bell *bell);
void permits_bury_all(weir_permits *permits, const struct permits_bell *bell); /* who is dead */

/* ---- permits_file.c ------------------------------------------------------------------- */

void permits_keep(weir_permits *permits); /* until another weir_permits_free() */

#endif
