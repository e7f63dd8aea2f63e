/*
 * model_words.c - a plan as something to read.
 */
#include "model.h"

#include <stdio.h>

static const char *condition(unsigned number)
{
    static const char *const names[] = { "clean", "dirty", "broken", "gone" };

    return names[number % 4];
}

static const char *mood(unsigned number)
{
    static const char *const names[] = { "works at once", "works slowly", "fails at once",
                                         "fails after a while", "stalls",
                                         "finds no descriptor" };

    return names[number % MOODS];
}

static void tell_player(const struct op *op)
{
    fprintf(stderr, "player %u ", op->who);
    switch ((enum verb)op->verb) {
    case ASK: fprintf(stderr, "asks pool %u for a connection, for %u ms", op->pool, op->a); break;
    case ASK_LOCAL:
        fprintf(stderr, "asks pool %u for his local lease, for %u ms", op->pool, op->a);
        break;
    case GIVE_BACK_IT:
        fprintf(stderr, "gives a connection of pool %u back, %s", op->pool, condition(op->a));
        break;
    case CLOSE_IT:
        fprintf(stderr, "has a connection of pool %u closed, %s", op->pool, condition(op->a));
        break;
    case GIVE_AWAY:
        fprintf(stderr, "gives a connection of pool %u to player %u", op->pool, op->a);
        break;
    case GIVE_LOCAL:
        fprintf(stderr, "releases his local lease of pool %u, %s", op->pool, condition(op->a));
        break;
    case QUERY: fprintf(stderr, "runs a statement of %u ms on pool %u", op->a, op->pool); break;
    case LEAVE: fprintf(stderr, "gives everything back and ends"); break;
    case FORGET_IT: fprintf(stderr, "ends with all that he holds"); break;
    case TAKE: fprintf(stderr, "takes %u descriptors, waiting for %u ms", op->b, op->a); break;
    default: fprintf(stderr, "gives his descriptors back");
    }
}

static void tell_op(const struct op *op)
{
    static const char *const last_words[] = { "gives back what he holds", "forgets what he holds",
                                              "asks once more" };

    switch ((enum verb)op->verb) {
    case CANCEL:
        fprintf(stderr, "player %u is cancelled, and %s", op->who, last_words[op->a % 3]);
        break;
    case PASS_TIME: fprintf(stderr, "%u ms pass", op->a); break;
    case STIR: fprintf(stderr, "pool %u's server ends every idle connection", op->pool); break;
    case DIE: fprintf(stderr, "pool %u's server dies", op->pool); break;
    case CONNECTS: fprintf(stderr, "opening for pool %u %s", op->pool, mood(op->a)); break;
    case RESETS: fprintf(stderr, "resetting for pool %u %s", op->pool, mood(op->a)); break;
    case CLOSES:
        fprintf(stderr, "closing for pool %u %s", op->pool,
                op->a == AT_ONCE ? "works at once" : op->a == NEVER ? "stalls" : "takes its time");
        break;
    case PAUSE: fprintf(stderr, "pool %u is paused", op->pool); break;
    case READY: fprintf(stderr, "pool %u is made ready", op->pool); break;
    case CLEAR:
        fprintf(stderr, "pool %u is cleared%s", op->pool, op->a ? ", interrupting" : "");
        break;
    case RESIZE: fprintf(stderr, "pool %u is resized to %u", op->pool, op->a); break;
    case DRAIN: fprintf(stderr, "pool %u is drained, for %u ms", op->pool, op->a); break;
    case BUDGET: fprintf(stderr, "the budget is set to %u descriptors", op->a); break;
    case CLOSE_POOL: fprintf(stderr, "pool %u is closed, for %u ms", op->pool, op->a); break;
    case REPLACE_POOL: fprintf(stderr, "pool %u is freed, another made", op->pool); break;
    default: tell_player(op);
    }
}

static void tell_ms(const char *name, int64_t ms)
{
    if (ms == WEIR_NEVER)
        fprintf(stderr, ", %s never", name);
    else
        fprintf(stderr, ", %s %lld", name, (long long)ms);
}

static void tell_pool(const struct plan *plan, unsigned place)
{
    const weir_pool_opts *opts = &plan->opts[place];

    fprintf(stderr, "  pool %u: max_size %u, max_connecting %u", place, opts->max_size,
            opts->max_connecting);
    if (opts->max_waiters)
        fprintf(stderr, ", max_waiters %u", opts->max_waiters);
    if (opts->min_idle || opts->min_size)
        fprintf(stderr, ", min_idle %u, min_size %u", opts->min_idle, opts->min_size);
    if (plan->sockets[place] > 1)
        fprintf(stderr, ", %u sockets each", plan->sockets[place]);
    if (opts->on_exit)
        fprintf(stderr, ", forgotten ones are recycled");
    if (opts->reset)
        fprintf(stderr, ", reset %s", opts->reset == WEIR_RESET_FULL ? "full" : "none");
    tell_ms("acquire_timeout_ms", opts->acquire_timeout_ms);
    tell_ms("idle_timeout_ms", opts->idle_timeout_ms);
    tell_ms("max_age_ms", opts->max_age_ms);
    fprintf(stderr, "%s\n", opts->start_paused ? ", starts paused" : "");
}

void tell_plan(const struct plan *plan)
{
    static const char *const then[] = { "", " (others run one turn)", " (in the same turn:)" };

    for (unsigned i = 0; i < POOLS; i++)
        tell_pool(plan, i);
    fprintf(stderr, "  %u descriptors in all%s\n", plan->budget,
            plan->listens ? ", events are told" : "");
    for (unsigned i = 0; i < plan->count; i++) {
        fprintf(stderr, "  %3u. ", i + 1);
        tell_op(&plan->ops[i]);
        fprintf(stderr, "%s\n", then[plan->ops[i].then % 3]);
    }
}
