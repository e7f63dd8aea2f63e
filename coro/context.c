/*
 * context.c - making contexts, and what tools must be told about their stacks.
 *
 * Two back ends: Boost's fcontext (from its static archive: since Boost 1.87 the shared one
 * hides these symbols), and glibc's ucontext, which costs a sigprocmask call a switch but is
 * there on every architecture. Both are built and tested.
 *
 * With fcontext the one who is switched to learns from the jump where the other one left off,
 * and must write it down for him.
 */
#define _GNU_SOURCE /* names of saved registers */

#include "context.h"

#ifdef CONTEXT_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef WEIR_HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

void context_init_thread(struct context *context)
{
    *context = (struct context){ 0 };
#ifdef CONTEXT_TSAN
    context->fiber = __tsan_get_current_fiber();
#endif
}

/* The frames of whoever ended here never returned, so their red zones still stand. */
static void clear_red_zones(void *low, size_t size)
{
#ifdef CONTEXT_ASAN
    __asan_unpoison_memory_region(low, size);
#else
    (void)low;
    (void)size;
#endif
}

static void prepare(struct context *context, void *low, size_t size, void (*entry)(void *),
                    void *arg)
{
    context->low = low;
    context->size = size;
    context->entry = entry;
    context->arg = arg;
    context->to = NULL;
    context->fake = NULL;
    clear_red_zones(low, size);
#ifdef CONTEXT_TSAN
    context_forget(context);
    context->fiber = __tsan_create_fiber(0);
#endif
}

/* Both back ends' functions are shorter than this; what stands behind them is theirs, or merely
   not looked into. */
static int is_within(const void *pc, const void *function)
{
    return (size_t)pc - (size_t)function < 512;
}

#ifdef WEIR_CONTEXT_UCONTEXT

__thread struct context *context_left_ __attribute__((tls_model("initial-exec")));

static void begin(void)
{
    struct context *self = context_left_->to;

    context_arrived_(self, context_left_);
    self->entry(self->arg);
    abort();
}

void context_make(struct context *context, void *low, size_t size, void (*entry)(void *),
                  void *arg)
{
    prepare(context, low, size, entry, arg);
    getcontext(&context->machine);
    context->machine.uc_stack.ss_sp = low;
    context->machine.uc_stack.ss_size = size;
    context->machine.uc_link = NULL;
    makecontext(&context->machine, begin, 0);
}

const char *context_backend(void)
{
    return "ucontext";
}

const void *context_depth(const struct context *context)
{
#if defined(__x86_64__)
    return (const void *)context->machine.uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    return (const void *)context->machine.uc_mcontext.sp;
#else
    (void)context;
    return NULL;
#endif
}

int context_saved(const struct context *context, struct context_registers *out)
{
#if defined(__x86_64__)
    const greg_t *at = context->machine.uc_mcontext.gregs;

    if (!context->to)
        return 0;
    *out = (struct context_registers){
        .sp = (const void *)at[REG_RSP],  .pc = (const void *)at[REG_RIP],
        .rbx = (const void *)at[REG_RBX], .rbp = (const void *)at[REG_RBP],
        .r12 = (const void *)at[REG_R12], .r13 = (const void *)at[REG_R13],
        .r14 = (const void *)at[REG_R14], .r15 = (const void *)at[REG_R15],
    };
    return 1;
#else
    (void)context;
    (void)out;
    return 0;
#endif
}

int context_is_switching(const void *pc)
{
    return is_within(pc, (const void *)swapcontext) || is_within(pc, (const void *)setcontext);
}

#else

void *make_fcontext(void *high, size_t size, void (*fn)(context_transfer_));

static void begin(context_transfer_ came)
{
    struct context *left = came.data, *self = left->to;

    left->machine = came.machine;
    context_arrived_(self, left);
    self->entry(self->arg);
    abort();
}

void context_make(struct context *context, void *low, size_t size, void (*entry)(void *),
                  void *arg)
{
    prepare(context, low, size, entry, arg);
    context->machine = make_fcontext((char *)low + size, size, begin);
}

const char *context_backend(void)
{
    return "fcontext";
}

const void *context_depth(const struct context *context)
{
    return context->machine;
}

/* It knows no red zones: where jump_fcontext saves, a deeper frame may have been. */
__attribute__((no_sanitize("address"))) int context_saved(const struct context     *context,
                                                          struct context_registers *out)
{
#if defined(__x86_64__)
    const void *const *at = context->machine; /* the same since 1.61: see weir-gdb.py, too */

    if (!context->to)
        return 0;
    out->sp = at + 8;
    out->pc = at[7];
    out->rbp = at[6];
    out->rbx = at[5];
    out->r15 = at[4];
    out->r14 = at[3];
    out->r13 = at[2];
    out->r12 = at[1];
    return 1;
#else
    (void)context;
    (void)out;
    return 0;
#endif
}

int context_is_switching(const void *pc)
{
    return is_within(pc, (const void *)jump_fcontext) || is_within(pc, (const void *)make_fcontext);
}

#endif

void context_forget(struct context *context)
{
#ifdef CONTEXT_TSAN
    if (context->fiber) /* it has room for some 8,000 */
        __tsan_destroy_fiber(context->fiber);
#endif
    context->fiber = NULL;
}

unsigned context_stack_register(void *low, void *high)
{
#ifdef WEIR_HAVE_VALGRIND
    return VALGRIND_STACK_REGISTER(low, high);
#else
    (void)low;
    (void)high;
    return 0;
#endif
}

void context_stack_forget(unsigned number, void *low, size_t size)
{
    clear_red_zones(low, size);
#ifdef WEIR_HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(number);
#else
    (void)number;
#endif
}

int context_is_watched(void)
{
#if defined(CONTEXT_ASAN) || defined(CONTEXT_TSAN)
    return 1;
#elif defined(WEIR_HAVE_VALGRIND)
    return RUNNING_ON_VALGRIND != 0;
#else
    return 0;
#endif
}
