/*
 * context.h - a place where execution can be left and taken up again.
 *
 * Knows:   how to switch stacks (fcontext or ucontext), and what the sanitizers and valgrind
 *          must be told about it.
 * Ignores: who runs when, and where stacks come from.
 *
 * The switch itself is inline: the processor predicts returns by a stack of its own, which
 * a switch leaves out of step, so each function that returns after a switch costs a mispredicted
 * jump (about 5 ns). Whoever waits should do so in as few frames as can be.
 */
#ifndef CONTEXT_H
#define CONTEXT_H

#include <stddef.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define CONTEXT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CONTEXT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CONTEXT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CONTEXT_TSAN 1
#endif
#endif

#ifdef CONTEXT_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CONTEXT_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef WEIR_CONTEXT_UCONTEXT
#include <ucontext.h>
#endif

struct context {
#ifdef WEIR_CONTEXT_UCONTEXT
    ucontext_t machine;
#else
    void *machine; /* where its registers are saved: on its own stack */
#endif
    void *low;     /* its stack; NULL for a thread's own until somebody switched away from it */
    size_t size;
    void (*entry)(void *arg);
    void *arg;
    struct context *to; /* whom it switched to last (NULL: it never did); not on its stack, which
                           may be gone */
    void *fake;  /* AddressSanitizer's shadow of its frames, while it is switched out */
    void *fiber; /* ThreadSanitizer's name for it */
};

/* The context of the caller's own thread. */
void context_init_thread(struct context *context);

/* One that will call entry(arg) on the given stack; entry must never return. */
void context_make(struct context *context, void *low, size_t size, void (*entry)(void *),
                  void *arg);

/* What a tool remembers of one that is never used again. */
void context_forget(struct context *context);

/* The stack's memory as the tools see it: a number to give back to context_stack_forget(),
   before the memory becomes something else. */
unsigned context_stack_register(void *low, void *high);
void     context_stack_forget(unsigned number, void *low, size_t size);

/* Reading stale stack memory is an error under some tool. */
int context_is_watched(void);

const char *context_backend(void);

/* How deep its stack is in use, for one that is not running: an address, NULL where unknown. */
const void *context_depth(const struct context *context);

/* What is kept of the registers while it is switched out: those a function must preserve. */
struct context_registers {
    const void *sp, *pc, *rbx, *rbp, *r12, *r13, *r14, *r15; /* walk.c knows the order */
};

/* False for one that has not begun, and where nobody has written down where they are. */
int context_saved(const struct context *context, struct context_registers *out);

/* Is this address within the switch itself, where a stack is neither the one nor the other?
   Async-signal-safe. */
int context_is_switching(const void *pc);

/* ---- the switch --------------------------------------------------------------------- */

/* Before leaving. A NULL save destroys the fake frames of one that is never taken up again. */
static inline void context_announce_(struct context *from, struct context *to, int for_ever)
{
#ifdef CONTEXT_ASAN
    __sanitizer_start_switch_fiber(for_ever ? NULL : &from->fake, to->low, to->size);
#endif
#ifdef CONTEXT_TSAN
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    (void)from;
    (void)to;
    (void)for_ever;
}

/* After arriving. The first time we come from a thread's own stack we hear its bounds. */
static inline void context_arrived_(struct context *self, struct context *from)
{
#ifdef CONTEXT_ASAN
    const void *low = NULL;
    size_t      size = 0;
    __sanitizer_finish_switch_fiber(self->fake, &low, &size);
    if (!from->low) {
        from->low = (void *)(size_t)low;
        from->size = size;
    }
#endif
    (void)self;
    (void)from;
}

/* What passes from one side to the other is who left. */
#ifdef WEIR_CONTEXT_UCONTEXT

extern __thread struct context *context_left_ __attribute__((tls_model("initial-exec")));

static inline void context_jump_(struct context *from, struct context *to)
{
    from->to = to;
    context_left_ = from;
    swapcontext(&from->machine, &to->machine);
    context_arrived_(from, context_left_);
}

#else

/* The C face of Boost.Context, the same since 1.61; no header of Boost declares it for C. */
typedef struct {
    void *machine; /* where the other side left off */
    void *data;
} context_transfer_;
context_transfer_ jump_fcontext(void *to, void *data);

static inline void context_jump_(struct context *from, struct context *to)
{
    from->to = to;
    context_transfer_ came = jump_fcontext(to->machine, from);
    struct context   *left = came.data;

    left->machine = came.machine;
    context_arrived_(from, left);
}

#endif

static inline void context_switch(struct context *from, struct context *to)
{
    context_announce_(from, to, 0);
    context_jump_(from, to);
}

/* The last switch away from `from`: it will only be used again through context_make(). */
__attribute__((noreturn)) static inline void context_leave(struct context *from,
                                                           struct context *to)
{
    context_announce_(from, to, 1);
    context_jump_(from, to);
    abort();
}

#endif
