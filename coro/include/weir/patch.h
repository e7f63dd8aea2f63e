/*
 * weir/patch.h - making a blocking library cooperate, without changing it.
 *
 * Knows:   which places of a loaded shared library lead to blocking calls of libc, and how to
 *          lead them to weir and back.
 * Ignores: what the library does with what it reads.
 * Threads: any thread; the calls take turns with each other.
 *
 * A client library that knows nothing of coroutines reads from its sockets, sleeps, polls and looks
 * up names through a table of addresses that the dynamic linker filled in. weir_patch() puts
 * other functions into that table, of this one library. Called in a coroutine they let the
 * others run where the call would block; called anywhere else (other threads, outside of a
 * coroutine, exit hooks) they are the calls they stand for.
 *
 * Replaced are, with the names that _FORTIFY_SOURCE gives them:
 *     read readv write writev  recv recvfrom recvmsg  send sendto sendmsg
 *     connect accept accept4 close  poll ppoll select pselect
 *     sleep usleep nanosleep clock_nanosleep  getaddrinfo
 *
 * In a coroutine they mean what they always mean, with these words on the finer points:
 *
 *   - A descriptor with O_NONBLOCK, and MSG_DONTWAIT, return EAGAIN as ever. The flag is asked
 *     for (F_GETFL) when a call is about to wait, and never remembered: a number may be another
 *     file by then. No call changes it, but for connect() and accept(), which have no flag of
 *     their own: these set it for the length of one system call, before they wait.
 *   - SO_RCVTIMEO and SO_SNDTIMEO end a wait as they end a blocking call: EAGAIN (EINPROGRESS
 *     for connect). Of recvmsg's and sendmsg's they count from the first wait.
 *   - A coroutine that was cancelled gets ECANCELED, one whose WEIR_DEADLINE has passed
 *     ETIMEDOUT; each later call fails in the same way at once, so that the library unwinds.
 *     close() does its work in any case. getaddrinfo() returns EAI_SYSTEM and sets errno.
 *     sleep() cannot fail: it returns 0 too early, and sets errno. What was sent or received
 *     before is told as a short count.
 *   - EBUSY: another coroutine waits for the same descriptor already (both are logged). EBADF:
 *     another one has closed it meanwhile.
 *   - EINTR is not returned, but by ppoll() and pselect() with a mask: signals are handled while
 *     the hub waits.
 *   - Of several descriptors poll() and select() wait for reading and writing. Where POLLPRI,
 *     POLLRDHUP or nothing but errors is asked for, or a signal mask is given, they look every
 *     20 ms.
 *   - Files on disk are read and written in place. Pipes and terminals are waited for, and written
 *     to in pieces of PIPE_BUF bytes, since they have no MSG_DONTWAIT; an error between two pieces
 *     is told as a short count.
 *
 * What weir cannot reach: functions that the library got from dlsym(3) or made a copy of the
 * address of, before (they block) or while it was patched (they cooperate in coroutines, for ever);
 * blocking calls inside libc itself (stdio, gethostbyname) or in other libraries it uses; system
 * calls of its own. Blocking functions that it imports and weir has no substitute for are told
 * by weir_patch_each(): look at that once before you rely on it.
 *
 * Which libraries it is not for: one that holds a lock while it waits (a second coroutine that
 * takes it stops the thread, pthread mutexes are among what weir_patch_each() tells); one that
 * keeps what it works on in static or thread-local variables, where another coroutine comes
 * in between; one that makes these calls in a signal handler, where nothing of weir may be called.
 */
#ifndef WEIR_PATCH_H
#define WEIR_PATCH_H

#include <weir/coro.h>
#include <weir/watch.h>

WEIR_BEGIN_DECLS

enum { WEIR_PATCH_MAX = 16 }; /* libraries patched at the same time */

/**
 * Make a loaded shared library cooperative: "libhiredis.so" names libhiredis.so.0.14 too,
 * a name with a slash is a path. Done again, it is counted, and so many weir_unpatch() undo it.
 * The library stays loaded meanwhile.
 *
 * All of its places are changed or none: each by one atomic store, so other threads may be
 * in its calls. One that is just being bound lazily on another thread may escape: where a library
 * is not linked with -z now, patch it before threads use it. Read-only pages (RELRO) are made
 * writable for the while of that store only.
 *
 * Refused are: libc and its kin, the vdso, weir itself, libraries of sanitizers, what the
 * drivers steer themselves (libmariadb, libmongoc) and, where one of those is loaded, every
 * library it needs; places with relocations that weir does not understand, and calls that are
 * bound to something else than what weir would call in their stead.
 *
 * Yields:  no.  Context: any thread; takes one descriptor for the while.
 * Returns: WEIR_OK; WEIR_USAGE with the reason where it is refused, not loaded, or the name fits
 *          several; WEIR_FULL for the 17th library; WEIR_NOMEM; WEIR_FAILED where the kernel
 *          would not let us (native: errno).
 */
WEIR_API weir_status weir_patch(const char *library, weir_error *err) WEIR_MUST_CHECK;

/**
 * Undo weir_patch(): every place gets back what it had, and every page its protection. A pointer
 * in the library's data that it has changed itself since is left as it is, and logged.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK, also where it was patched more than once and stays so; WEIR_BUSY, naming the
 *          coroutines, while any is inside a patched call of the library: nothing is changed;
 *          WEIR_USAGE where it is not patched; WEIR_NOMEM, WEIR_FAILED as above.
 */
WEIR_API weir_status weir_unpatch(const char *library, weir_error *err) WEIR_MUST_CHECK;

typedef enum weir_slot_kind {
    WEIR_SLOT_CALL,    /* a slot of the GOT or PLT: changed */
    WEIR_SLOT_POINTER, /* a function's address in the library's data: changed */
    WEIR_SLOT_LEFT     /* led to something that may block, and left as it is */
} weir_slot_kind;

/* One place in a patched library. Borrowed until the callback returns. */
typedef struct weir_slot {
    const char    *library; /* its path */
    const char    *symbol;  /* what it led to */
    weir_slot_kind kind;
    void         **address;
    void          *before;  /* what was in it */
    const char    *why;     /* of WEIR_SLOT_LEFT, in words; else NULL */
} weir_slot;

/**
 * Call fn for each place of a patched library, in the dynamic linker's order. fn must neither
 * patch nor yield.
 *
 * Yields:  no.  Context: any thread.
 * Returns: WEIR_OK; WEIR_USAGE where it is not patched.
 */
WEIR_API weir_status weir_patch_each(const char *library,
                                     void (*fn)(const weir_slot *slot, void *arg), void *arg,
                                     weir_error *err) WEIR_MUST_CHECK;

/** How often a library is patched just now; 0: not at all. Any thread. */
WEIR_API unsigned weir_patch_count(const char *library);

/**
 * Write what is patched as text: the libraries, their places, what was left, and which coroutines
 * are inside.
 *
 * Yields:  no.  Context: any thread.
 */
WEIR_API void weir_patch_report(weir_write_fn write, void *arg);

WEIR_END_DECLS

#endif
