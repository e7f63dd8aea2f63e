/*
 * names.h - what is known of names, for as long as it may be believed.
 *
 * Knows:   questions (host, service, hints), their answers, who waits for one.
 * Ignores: how a name is looked up, and what a thread is: resolve.c.
 */
#ifndef NAMES_H
#define NAMES_H

#include "offload.h"

#include <netdb.h>

/* What was asked. Its strings are borrowed from the asker, but in a struct name its own. */
struct question {
    const char     *host, *service;
    bool            hinted; /* getaddrinfo(3) takes none for something else than zeroes */
    struct addrinfo hints;
};

/* What came of it, as getaddrinfo(3) says it. */
struct answer {
    int              code;
    int              errnum; /* for EAI_SYSTEM */
    struct addrinfo *found;
};

struct name {
    struct list     link; /* in the table, the latest used first */
    bool            listed;
    bool            known;
    struct question question;
    struct answer   answer;   /* once known, */
    int64_t         until_ns; /* for so long */
    struct list     waiters;
    struct job      job;
    unsigned        refs; /* the table, the job, and who waits */
};

/* All of these under the lock. */
void names_lock(void);
void names_unlock(void);

/* What is asked or known already; NULL: nothing, or nothing any more. */
struct name *names_find(const struct question *question, int64_t now_ns);
/* In the table from now on, with one reference for its job; NULL without memory. */
struct name *names_add(const struct question *question);
/* It is known from now on, and who waits is woken. */
void name_answer(struct name *name, const struct answer *answer, int64_t now_ns);
void name_unref(struct name *name); /* may be freed */
void name_unlist(struct name *name); /* nobody finds it any more; may be freed */
/* All of a host; NULL: all. */
void names_forget(const char *host);

struct names_limits {
    int64_t  keep_ns, keep_failed_ns;
    unsigned max;
};

extern struct names_limits names_limits;

struct names_count {
    unsigned known, asking;
    uint64_t asked, kept, shared; /* looked up; told from the table; told with another asker */
};

extern struct names_count names_count;

/* Around a fork; before the crews' locks. */
void names_hold(void);
void names_let_go(void);
void names_forked(void);

#endif
