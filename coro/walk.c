/*
 * walk.c - the backtrace of a coroutine that is switched out.
 *
 * backtrace(3) begins with the frame that calls it, and finds each caller by what the compiler
 * has written about the code there: where it saved which register. So we call it from a
 * function of which we write that ourselves. What it says of walk_from_() is: the caller's
 * registers, his stack pointer and place among them, are in a table that rbx points to. In that
 * table are those of the parked coroutine, so for whoever walks, the coroutine is what called us.
 * Nothing is switched and nothing is changed; it costs what any backtrace costs, about a
 * microsecond a frame.
 *
 * It needs no frame pointers and works with either way of switching stacks. Only x86-64 is
 * written down; elsewhere no frames are found.
 */
#define _GNU_SOURCE
#include "walk.h"

#include <execinfo.h>
#include <string.h>

enum { OURS = 4 }; /* backtrace's caller, walk_from_(), and some to spare for tools */

/* What backtrace(3) wrote from the frame after the last one whose place is within `code`. */
static int take_after(void *const *all, int count, const char *code, size_t size, void **frames,
                      int max)
{
    int first = 0;

    for (int i = 0; i < count && i < OURS + 1; i++)
        if ((const char *)all[i] > code && (const char *)all[i] <= code + size)
            first = i + 1;
    if (!first)
        return 0;
    count = count - first < max ? count - first : max;
    memcpy(frames, all + first, (size_t)count * sizeof *frames);
    return count;
}

#if defined(__x86_64__)

void walk_from_(const struct context_registers *saved, void (*fn)(void *arg), void *arg);

/*
 * .cfi_escape 0x0f (DW_CFA_def_cfa_expression): the stack pointer of the caller is the word at
 * rbx + 0. 0x10 (DW_CFA_expression): register n is saved at rbx + its place in the table; 0x73 is
 * "rbx plus", 0x06 "what is there". In the order of struct context_registers.
 */
__asm__(".pushsection .text\n"
        ".globl walk_from_\n"
        ".hidden walk_from_\n"
        ".type walk_from_, @function\n"
        "walk_from_:\n"
        "    .cfi_startproc\n"
        "    push %rbx\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %rbx, 0\n"
        "    mov %rdi, %rbx\n"
        "    mov %rdx, %rdi\n"
        "    .cfi_remember_state\n"
        "    .cfi_escape 0x0f, 3, 0x73, 0, 0x06\n"
        "    .cfi_escape 0x10, 16, 2, 0x73, 8\n" /* rip */
        "    .cfi_escape 0x10, 3, 2, 0x73, 16\n" /* rbx */
        "    .cfi_escape 0x10, 6, 2, 0x73, 24\n" /* rbp */
        "    .cfi_escape 0x10, 12, 2, 0x73, 32\n"
        "    .cfi_escape 0x10, 13, 2, 0x73, 40\n"
        "    .cfi_escape 0x10, 14, 2, 0x73, 48\n"
        "    .cfi_escape 0x10, 15, 2, 0x73, 56\n"
        "    call *%rsi\n"
        "    .cfi_restore_state\n"
        "    pop %rbx\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %rbx\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size walk_from_, . - walk_from_\n"
        ".popsection\n");

enum { CODE_SIZE = 32 }; /* of walk_from_(), at most */

struct walk {
    void *all[WALK_FRAMES + OURS];
    int   count;
};

static void take(void *arg)
{
    struct walk *walk = arg;

    walk->count = backtrace(walk->all, WALK_FRAMES + OURS);
}

int walk_parked(const struct context *context, void **frames, int max)
{
    struct context_registers saved;
    struct walk              walk = { .count = 0 };

    if (!context_saved(context, &saved))
        return 0;
    walk_from_(&saved, take, &walk);
    return take_after(walk.all, walk.count, (const char *)walk_from_, CODE_SIZE, frames, max);
}

#else

int walk_parked(const struct context *context, void **frames, int max)
{
    (void)context;
    (void)frames;
    (void)max;
    return 0;
}

#endif
