/*
 * resolve.c - names, without blocking the hub.
 *
 * getaddrinfo(3) takes as long as a silent name server likes, and nothing can stop it. So it
 * runs on two threads that do nothing else (slow names must not hold up offloaded work), and
 * those who ask for the same name at the same time share one lookup, which goes on for the others
 * when one of them gives up. One that nobody waits for any more is not begun; if it has begun
 * its answer is kept, like any other.
 *
 * Who asks gets a list of his own, as if it came from getaddrinfo(3), and frees it as such.
 * glibc's freeaddrinfo(3) frees each node and its canonical name, the address being part of the
 * node: so the copies are made like that.
 */
#include "hub.h"
#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <weir/offload.h>

enum { THREADS = 2, KEEP_MS = 30000, KEEP_FAILED_MS = 1000, MAX_NAMES = 256 };

struct crew crew_of_resolvers = CREW_INIT(crew_of_resolvers, "resolver", THREADS);

/* ---- a list of one's own ---------------------------------------------------------------- */

static struct addrinfo *copy_one(const struct addrinfo *of)
{
    struct addrinfo *copy = malloc(sizeof *copy + of->ai_addrlen);

    if (!copy)
        return NULL;
    *copy = *of;
    copy->ai_next = NULL;
    copy->ai_addr = memcpy(copy + 1, of->ai_addr, of->ai_addrlen);
    if (of->ai_canonname) {
        copy->ai_canonname = strdup(of->ai_canonname);
        if (!copy->ai_canonname) {
            free(copy);
            return NULL;
        }
    }
    return copy;
}

static weir_status copy_list(const struct addrinfo *of, struct addrinfo **out)
{
    struct addrinfo **last = out;

    *out = NULL;
    for (; of; of = of->ai_next) {
        *last = copy_one(of);
        if (!*last) {
            if (*out)
                freeaddrinfo(*out);
            *out = NULL;
            return WEIR_NOMEM;
        }
        last = &(*last)->ai_next;
    }
    return WEIR_OK;
}

/* ---- what it says ----------------------------------------------------------------------- */

static weir_status tell(int code, int errnum, const char *host, weir_error *err)
{
    if (code == 0)
        return WEIR_OK;
    weir_error_set(err, WEIR_CONNECT, "cannot look up host '%s': %s", host ? host : "",
                   code == EAI_SYSTEM ? strerror(errnum) : gai_strerror(code));
    if (err)
        err->native = code == EAI_SYSTEM ? errnum : code;
    return WEIR_CONNECT;
}

static weir_status no_memory(weir_error *err)
{
    return weir_error_set(err, WEIR_NOMEM, "no memory to look up a host");
}

static weir_status tell_copy(const struct name *name, struct addrinfo **out, weir_error *err)
{
    const struct answer *answer = &name->answer;
    weir_status status = tell(answer->code, answer->errnum, name->question.host, err);

    if (status == WEIR_OK && copy_list(answer->found, out) != WEIR_OK)
        return no_memory(err);
    return status;
}

static weir_status tell_given_up(const char *host, weir_status status, weir_error *err)
{
    return weir_error_set(err, status, "gave up looking up host '%s': %s", host ? host : "",
                          status == WEIR_TIMEOUT ? "the name server did not answer in time"
                                                 : weir_status_name(status));
}

/* ---- a lookup, on its thread ------------------------------------------------------------ */

/* Without a descriptor libc says that the name does not exist, or that its servers are silent. */
static bool out_of_descriptors(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd < 0 && (errno == EMFILE || errno == ENFILE);
}

static void look_up(void *arg)
{
    struct name           *name = arg;
    const struct question *asked = &name->question;
    struct answer          answer = { 0 };

    answer.code = getaddrinfo(asked->host, asked->service, asked->hinted ? &asked->hints : NULL,
                              &answer.found);
    answer.errnum = errno;
    if (answer.code && answer.code != EAI_SYSTEM && out_of_descriptors()) {
        answer.code = EAI_SYSTEM;
        answer.errnum = errno;
    }
    if (answer.code)
        answer.found = NULL;
    names_lock();
    names_count.asked++;
    name_answer(name, &answer, weir_in_ms(0).at_ns);
    name_unref(name);
    names_unlock();
}

/* ---- asking: under the table's lock ----------------------------------------------------- */

static struct name *ask(const struct question *question)
{
    struct name *name = names_add(question);

    if (!name)
        return NULL;
    name->job = (struct job){ .run = look_up, .arg = name };
    if (crew_post(&crew_of_resolvers, &name->job) == WEIR_OK)
        return name;
    name_unlist(name);
    name_unref(name);
    return NULL;
}

/* Whoever was the last to wait takes a lookup with him that has not begun. */
static void leave(struct name *name)
{
    if (!name->known && list_empty(&name->waiters) &&
        crew_withdraw(&crew_of_resolvers, &name->job)) {
        name_unlist(name);
        name_unref(name); /* the job's */
    }
}

/* The lock is let go meanwhile. */
static weir_status wait_for(struct name *name, weir_deadline deadline)
{
    weir_hub   *hub = hub_here_;
    weir_status status = WEIR_OK;

    while (!name->known && status == WEIR_OK) {
        struct waiter me = { .waker = weir_waker_new() };
        list_append(&name->waiters, &me.link);
        names_unlock();
        hub->abroad++;
        status = weir_park(deadline, "a name to be looked up");
        hub->abroad--;
        names_lock();
        list_unlink(&me.link);
    }
    return name->known ? WEIR_OK : status;
}

static weir_status ask_and_wait(const struct question *question, weir_deadline deadline,
                                struct addrinfo **out, weir_error *err)
{
    struct name *name = names_find(question, weir_in_ms(0).at_ns);

    if (name && name->known) {
        names_count.kept++;
        return tell_copy(name, out, err);
    }
    if (name)
        names_count.shared++;
    else
        name = ask(question);
    if (!name)
        return weir_error_set(err, WEIR_NOMEM, "no memory or thread to look up host '%s'",
                              question->host ? question->host : "");
    name->refs++;
    weir_status status = wait_for(name, deadline);
    if (status == WEIR_OK) {
        status = tell_copy(name, out, err);
    } else {
        leave(name);
        status = tell_given_up(question->host, status, err);
    }
    name_unref(name);
    return status;
}

/* ---- the public face -------------------------------------------------------------------- */

/* A numeric host needs no file and no network: no thread either. */
static bool numeric(const char *host, const char *service, const struct addrinfo *hints,
                    struct addrinfo **out)
{
    struct addrinfo only = { 0 };

    if (hints)
        only = *hints;
    only.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    return host && getaddrinfo(host, service, &only, out) == 0;
}

weir_status weir_resolve(const char *host, const char *service, const struct addrinfo *hints,
                         weir_deadline deadline, struct addrinfo **out, weir_error *err)
{
    struct question question = { .host = host, .service = service, .hinted = hints != NULL };

    *out = NULL;
    if (numeric(host, service, hints, out))
        return WEIR_OK;
    if (!task_here() || crew_is_here()) {
        int code = getaddrinfo(host, service, hints, out);
        return tell(code, errno, host, err);
    }
    if (hints)
        question.hints = *hints;
    names_lock();
    weir_status status = ask_and_wait(&question, deadline, out, err);
    names_unlock();
    weir_spend(WEIR_IO_UNITS); /* who is always told from the table gives way too */
    return status;
}

void weir_resolve_forget(const char *host)
{
    names_lock();
    names_forget(host);
    names_unlock();
}

static weir_status check(const char *option, int64_t ms, weir_error *err)
{
    if (ms >= 0 && ms <= KEEP_MS)
        return WEIR_OK;
    return weir_error_set(err, WEIR_USAGE,
                          "%s is %lld: it can be 1 to %d; names are looked up again after 30 s at "
                          "most, since nothing tells when one moves",
                          option, (long long)ms, KEEP_MS);
}

weir_status weir_resolve_set(const weir_resolve_opts *opts, weir_error *err)
{
    weir_resolve_opts o = opts ? *opts : (weir_resolve_opts){ 0 };

    weir_status status = check("keep_ms", o.keep_ms, err);
    if (status == WEIR_OK)
        status = check("keep_failed_ms", o.keep_failed_ms, err);
    if (status != WEIR_OK)
        return status;
    int64_t keep_ms = o.keep_ms ? o.keep_ms : KEEP_MS;
    int64_t failed_ms = o.keep_failed_ms ? o.keep_failed_ms : KEEP_FAILED_MS;
    names_lock();
    names_limits.keep_ns = o.keep_nothing ? 0 : keep_ms * 1000000;
    names_limits.keep_failed_ns = o.keep_nothing ? 0 : failed_ms * 1000000;
    names_limits.max = o.max_names ? o.max_names : MAX_NAMES;
    names_forget(NULL);
    names_unlock();
    crew_resize(&crew_of_resolvers, o.max_threads ? o.max_threads : THREADS, 0);
    return WEIR_OK;
}

void weir_resolve_stats_read(weir_resolve_stats *out)
{
    names_lock();
    *out = (weir_resolve_stats){ names_count.known, names_count.asking, names_count.asked,
                                 names_count.kept, names_count.shared };
    names_unlock();
}
