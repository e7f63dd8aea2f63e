/*
 * names.c - the table of names.
 *
 * It is the process's: all hubs and both drivers ask for the same few names. getaddrinfo(3) does
 * not tell how long an answer holds, so none is believed for longer than 30 s: a database that
 * moves is found again by then. That a name does not exist is believed for a second only, which
 * is enough for a crowd that asks at once; other failures (no answer, no descriptor) not at all.
 *
 * A few hundred names at most, asked for when a connection is opened: a list that is walked is
 * quick enough, and keeps the order of their use.
 */
#include "names.h"

#include "hub.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 256 };

struct names_limits names_limits = { INT64_C(30000000000), INT64_C(1000000000), MAX_NAMES };
struct names_count  names_count;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list     table = { &table, &table };

void names_lock(void)
{
    pthread_mutex_lock(&lock);
}

void names_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* ---- one name --------------------------------------------------------------------------- */

static void name_free(struct name *name)
{
    if (name->answer.found)
        freeaddrinfo(name->answer.found);
    free((char *)name->question.host);
    free((char *)name->question.service);
    free(name);
}

void name_unref(struct name *name)
{
    if (--name->refs == 0)
        name_free(name);
}

static unsigned *counter_of(const struct name *name)
{
    return name->known ? &names_count.known : &names_count.asking;
}

void name_unlist(struct name *name)
{
    if (!name->listed)
        return;
    name->listed = false;
    list_unlink(&name->link);
    --*counter_of(name);
    name_unref(name);
}

/* What the name servers said of the name itself, not of their own troubles. */
static bool is_about_the_name(int code)
{
#ifdef EAI_NODATA /* glibc's, where the name has other kinds of addresses */
    if (code == EAI_NODATA || code == EAI_ADDRFAMILY)
        return true;
#endif
    return code == EAI_NONAME;
}

static int64_t believed_for(int code)
{
    if (code == 0)
        return names_limits.keep_ns;
    return is_about_the_name(code) ? names_limits.keep_failed_ns : 0;
}

void name_answer(struct name *name, const struct answer *answer, int64_t now_ns)
{
    int64_t believed_ns = believed_for(answer->code);

    names_count.asking -= name->listed;
    names_count.known += name->listed;
    name->known = true;
    name->answer = *answer;
    name->until_ns = now_ns + believed_ns;
    LIST_EACH(node, &name->waiters) {
        list_unlink(node);
        weir_wake_remote(LIST_OF(node, struct waiter, link)->waker);
    }
    if (believed_ns == 0)
        name_unlist(name); /* last: its job holds it still, but gcc -O3 does not see that */
}

/* ---- all of them ------------------------------------------------------------------------ */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same(const struct question *a, const struct question *b)
{
    return same_text(a->host, b->host) && same_text(a->service, b->service) &&
           a->hinted == b->hinted && a->hints.ai_flags == b->hints.ai_flags &&
           a->hints.ai_family == b->hints.ai_family &&
           a->hints.ai_socktype == b->hints.ai_socktype &&
           a->hints.ai_protocol == b->hints.ai_protocol;
}

struct name *names_find(const struct question *question, int64_t now_ns)
{
    LIST_EACH(node, &table) {
        struct name *name = LIST_OF(node, struct name, link);
        if (!same(&name->question, question))
            continue;
        if (name->known && now_ns >= name->until_ns) {
            name_unlist(name);
            return NULL;
        }
        list_unlink(&name->link);
        list_prepend(&table, &name->link);
        return name;
    }
    return NULL;
}

/* The one whose use is longest ago, of those that nobody waits for. */
static void make_room(void)
{
    for (struct list *node = table.prev;
         node != &table && names_count.known + names_count.asking >= names_limits.max;) {
        struct name *name = LIST_OF(node, struct name, link);
        node = node->prev;
        if (name->known)
            name_unlist(name);
    }
}

struct name *names_add(const struct question *question)
{
    struct name *name = calloc(1, sizeof *name);

    if (!name)
        return NULL;
    name->question = *question;
    name->question.host = question->host ? strdup(question->host) : NULL;
    name->question.service = question->service ? strdup(question->service) : NULL;
    if ((question->host && !name->question.host) ||
        (question->service && !name->question.service)) {
        name_free(name);
        return NULL;
    }
    list_init(&name->waiters);
    make_room();
    name->refs = 2;
    name->listed = true;
    list_prepend(&table, &name->link);
    names_count.asking++;
    return name;
}

void names_forget(const char *host)
{
    LIST_EACH(node, &table) {
        struct name *name = LIST_OF(node, struct name, link);
        if (!host || same_text(name->question.host, host))
            name_unlist(name);
    }
}

/* ---- around a fork ------------------------------------------------------------------ */

void names_hold(void)
{
    names_lock();
}

void names_let_go(void)
{
    names_unlock();
}

/* What is known stays known. Who asked, or was asked, is not here: what they share stays as it
   is, since a thread may have been in the middle of it. */
void names_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    LIST_EACH(node, &table) {
        struct name *name = LIST_OF(node, struct name, link);
        if (!name->known)
            name_unlist(name);
    }
}
