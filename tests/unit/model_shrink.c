/*
 * model_shrink.c - a play that fails made short enough to be read.
 *
 * Knows:   any part of a plan is a plan; how to find out whether one fails.
 * Ignores: what the operations mean.
 *
 * Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
 * 2002): leave out pieces, half of it first and smaller ones as long as that helps, then single
 * operations; then make what is left plainer. What counts is that it still fails at the same
 * line of ours, or still ends in a crash; another failure is another story.
 */
#include "model.h"

#include <string.h>

enum { TRIES = 4000, SECONDS = 2 };

static unsigned tries;

/* The first of its words is a place: "\n    file:line: ...". */
static bool same_place(const char *one, const char *other)
{
    size_t first_line = strcspn(one + 1, "\n");
    size_t place = strcspn(one + 1, ":");

    place += place < first_line ? 1 + strcspn(one + 1 + place + 1, ":") : 0;
    return strncmp(one, other, 1 + (place < first_line ? place : first_line)) == 0;
}

static bool still_fails(const struct plan *plan, struct verdict *out)
{
    struct verdict verdict;

    if (tries++ >= TRIES)
        return false;
    judge(plan, &verdict, SECONDS, true);
    if (!verdict.failed || !same_place(out->words, verdict.words))
        return false;
    *out = verdict;
    return true;
}

static bool leave_out(struct plan *plan, unsigned from, unsigned count, struct verdict *out)
{
    static struct op ops[OPS_OF_A_PLAY];
    struct plan      shorter = *plan;

    memcpy(ops, plan->ops, from * sizeof *ops);
    memcpy(ops + from, plan->ops + from + count, (plan->count - from - count) * sizeof *ops);
    shorter.ops = ops;
    shorter.count = plan->count - count;
    if (!still_fails(&shorter, out))
        return false;
    memcpy(plan->ops, ops, shorter.count * sizeof *ops);
    plan->count = shorter.count;
    return true;
}

static bool leave_out_pieces(struct plan *plan, unsigned length, struct verdict *out)
{
    bool shorter = false;

    for (unsigned end = plan->count; end > 0;) {
        unsigned from = end > length ? end - length : 0;
        if (leave_out(plan, from, end - from, out))
            shorter = true;
        end = from;
    }
    return shorter;
}

static void shorten(struct plan *plan, struct verdict *out)
{
    for (unsigned length = (plan->count + 1) / 2; length > 1; length /= 2)
        leave_out_pieces(plan, length, out);
    while (leave_out_pieces(plan, 1, out))
        continue;
}

/* Is it one that fails with this changed? If so it stays changed. */
static void try_with(struct plan *plan, void *field, const void *value, size_t size,
                     struct verdict *out)
{
    unsigned char before[sizeof(weir_pool_opts)];

    if (memcmp(field, value, size) == 0)
        return;
    memcpy(before, field, size);
    memcpy(field, value, size);
    if (!still_fails(plan, out))
        memcpy(field, before, size);
}

static void make_plainer(struct plan *plan, struct verdict *out)
{
    static const unsigned none = 0, one = 1, plenty = 1000;
    static const bool     no = false;
    static const uint8_t  settle = SETTLE;

    try_with(plan, &plan->listens, &no, sizeof no, out);
    try_with(plan, &plan->budget, &plenty, sizeof plenty, out);
    for (int i = 0; i < POOLS; i++) {
        weir_pool_opts *opts = &plan->opts[i];
        try_with(plan, &opts->min_idle, &none, sizeof none, out);
        try_with(plan, &opts->min_size, &none, sizeof none, out);
        try_with(plan, &opts->max_waiters, &none, sizeof none, out);
        try_with(plan, &opts->max_connecting, &one, sizeof one, out);
        try_with(plan, &opts->max_size, &one, sizeof one, out);
        try_with(plan, &opts->idle_timeout_ms, &(int64_t){ WEIR_NEVER }, sizeof(int64_t), out);
        try_with(plan, &opts->max_age_ms, &(int64_t){ WEIR_NEVER }, sizeof(int64_t), out);
        try_with(plan, &opts->reset, &(weir_reset){ 0 }, sizeof(weir_reset), out);
        try_with(plan, &opts->on_exit, &(weir_on_exit){ 0 }, sizeof(weir_on_exit), out);
        try_with(plan, &opts->start_paused, &no, sizeof no, out);
        try_with(plan, &plan->sockets[i], &one, sizeof one, out);
    }
    for (unsigned i = 0; i < plan->count; i++)
        try_with(plan, &plan->ops[i].then, &settle, sizeof settle, out);
}

void shrink(struct plan *plan, struct verdict *out)
{
    tries = 0;
    if (out->at < plan->count)
        plan->count = out->at + 1; /* what would have come after it does not matter */
    shorten(plan, out);
    make_plainer(plan, out);
    shorten(plan, out);
}
