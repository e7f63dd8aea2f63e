/*
 * A million random operations on two pools, against a small model of what a pool promises.
 *
 * Each play is a pool pair with options drawn by chance and a thousand operations on it, in a
 * process of its own: so that a crash or an endless loop is a failure like any other, and can be
 * shrunk like any other. What fails is printed as a short list of sentences, and how to play it
 * again. What the parts are: model.h.
 *
 *     test_pool_model [--seed N] [--ops N] [--play N]
 *
 * WEIR_TEST_SEED sets the seed as well. --play plays that one alone.
 */
#include "model.h"

#include "under_valgrind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLENTY = 1000, SECONDS = 10 };

/* Under a checking tool everything takes longer: fewer there. */
static unsigned long usual_ops(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 500000;
#else
    return under_valgrind() ? 20000 : 1000000;
#endif
}

/* ---- chance ------------------------------------------------------------------------------ */

static uint64_t chance;

/* xorshift64 (Marsaglia). */
static unsigned upto(unsigned limit)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (unsigned)(chance >> 33) % limit;
}

/* Small seeds are spread, and neighbouring plays have nothing in common. */
static void begin_chance(uint64_t seed, unsigned number)
{
    chance = (seed * UINT64_C(0x9E3779B97F4A7C15)) ^
             ((number + 1) * UINT64_C(0xD1B54A32D192ED03));
    chance = chance ? chance : 1;
    for (int i = 0; i < 8; i++)
        (void)upto(2);
}

static weir_pool_opts draw_opts(void)
{
    weir_pool_opts opts = { .max_size = 1 + upto(5),
                            .max_connecting = 1 + upto(3),
                            .max_waiters = upto(3) ? 0 : 1 + upto(6),
                            .acquire_timeout_ms = upto(4) ? 5000 : 100,
                            .connect_timeout_ms = 50,
                            .reset_timeout_ms = 40,
                            .close_timeout_ms = 30,
                            .idle_timeout_ms = upto(2) ? WEIR_NEVER : 100,
                            .max_age_ms = upto(2) ? WEIR_NEVER : 500,
                            .on_exit = upto(2) ? WEIR_ON_EXIT_CLOSE : WEIR_ON_EXIT_RECYCLE,
                            .reset = (weir_reset)(upto(2) ? 0 : upto(3)),
                            .start_paused = !upto(10) };

    if (!upto(3))
        opts.min_idle = 1 + upto(opts.max_size);
    if (!upto(3))
        opts.min_size = 1 + upto(opts.max_size);
    return opts;
}

/* ---- operations --------------------------------------------------------------------------- */

/* How often each is drawn, of the sum of them. */
static const struct {
    enum verb verb;
    unsigned  weight;
} often[] = {
    { ASK, 300 },      { ASK_LOCAL, 40 },  { GIVE_BACK_IT, 300 }, { CLOSE_IT, 20 },
    { GIVE_AWAY, 15 }, { GIVE_LOCAL, 40 }, { QUERY, 40 },         { LEAVE, 15 },
    { FORGET_IT, 20 }, { TAKE, 20 },       { GIVE_TOKEN, 20 },    { CANCEL, 50 },
    { PASS_TIME, 150 }, { STIR, 10 },      { DIE, 2 },            { CONNECTS, 40 },
    { RESETS, 8 },     { CLOSES, 8 },      { PAUSE, 3 },          { READY, 60 },
    { CLEAR, 5 },      { RESIZE, 8 },      { DRAIN, 2 },          { BUDGET, 5 },
    { CLOSE_POOL, 1 }, { REPLACE_POOL, 6 },
};

enum { KINDS = sizeof often / sizeof *often };

static enum verb draw_verb(void)
{
    unsigned sum = 0, drawn;

    for (int i = 0; i < KINDS; i++)
        sum += often[i].weight;
    drawn = upto(sum);
    for (int i = 0; i < KINDS; i++) {
        if (drawn < often[i].weight)
            return often[i].verb;
        drawn -= often[i].weight;
    }
    return PASS_TIME;
}

/* Mostly the server is well, or there would be no play. */
static unsigned draw_mood(void)
{
    return upto(8) ? upto(4) == 0 : upto(MOODS);
}

static uint16_t draw_a(const struct plan *plan, enum verb verb)
{
    static const unsigned conditions[] = { 0, 0, 0, 0, 1, 1, 2, 3 };

    switch (verb) {
    case ASK:
    case ASK_LOCAL: return (uint16_t)(upto(8) ? 1 + upto(200) : upto(2) ? 0 : 3000);
    case GIVE_BACK_IT:
    case CLOSE_IT:
    case GIVE_LOCAL: return (uint16_t)conditions[upto(8)];
    case GIVE_AWAY: return (uint16_t)upto(PLAYERS);
    case CANCEL: return (uint16_t)upto(3);
    case TAKE: return (uint16_t)(1 + upto(300));
    case CONNECTS: return (uint16_t)draw_mood();
    case RESETS:
    case CLOSES: return (uint16_t)(draw_mood() % NO_DESCRIPTORS);
    case CLEAR: return (uint16_t)upto(2);
    case RESIZE: return (uint16_t)upto(7);
    case BUDGET: return (uint16_t)(plan->budget < PLENTY ? 3 + upto(8) : PLENTY);
    case PASS_TIME: return (uint16_t)(upto(20) ? 1 + upto(20) : 1 + upto(1000));
    default: return (uint16_t)(1 + upto(30));
    }
}

static struct op draw_op(const struct plan *plan)
{
    enum verb verb = draw_verb();
    unsigned  then = upto(10);

    return (struct op){ .verb = (uint8_t)verb,
                        .who = (uint8_t)upto(PLAYERS),
                        .pool = (uint8_t)(upto(4) == 0),
                        .then = (uint8_t)(then < 6   ? SETTLE
                                          : then < 8 ? YIELD
                                                     : NOTHING_MORE),
                        .a = draw_a(plan, verb),
                        .b = (uint16_t)(1 + upto(3)) };
}

static void draw_plan(struct plan *plan, uint64_t seed, unsigned number, unsigned count)
{
    begin_chance(seed, number);
    plan->seed = seed;
    plan->number = number;
    for (int i = 0; i < POOLS; i++) {
        plan->opts[i] = draw_opts();
        plan->sockets[i] = upto(4) ? 1 : 2;
    }
    plan->budget = upto(3) ? PLENTY : 4 + upto(5);
    plan->listens = upto(2);
    plan->count = count;
    for (unsigned i = 0; i < count; i++)
        plan->ops[i] = draw_op(plan);
}

/* ---- a process of its own ------------------------------------------------------------------ */

static struct verdict *shared;

static void play_here(const struct plan *plan, unsigned seconds, bool quietly)
{
    struct rlimit limit = { seconds, seconds };

    if (under_valgrind())
        limit.rlim_cur = limit.rlim_max = seconds * 30;
    (void)setrlimit(RLIMIT_CPU, &limit);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
    if (quietly) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
    }
    play_plan(plan, shared);
    exit(0); /* with a sanitizer's look for leaks */
}

void judge(const struct plan *plan, struct verdict *out, unsigned seconds, bool quietly)
{
    int status = 0;

    memset(shared, 0, sizeof *shared);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        play_here(plan, seconds, quietly);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("test_pool_model: no process for a play");
        exit(1);
    }
    *out = *shared;
    out->failed = status != 0;
    if (status && !out->words[0])
        snprintf(out->words, sizeof out->words, "\n    its process ended by %s %d",
                 WIFSIGNALED(status) ? "signal" : "exit status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* ---- the run ------------------------------------------------------------------------------ */

static void report(struct plan *plan, struct verdict *verdict, unsigned long ops)
{
    unsigned before = plan->count;

    fprintf(stderr, "play %u failed at operation %u of %u:%s\n", plan->number, verdict->at + 1,
            plan->count, verdict->words);
    shrink(plan, verdict);
    judge(plan, verdict, SECONDS, false);
    fprintf(stderr, "\nIt fails with %u operations of %u too:\n", plan->count, before);
    tell_plan(plan);
    fprintf(stderr, "  then:%s\n\nPlay it again: test_pool_model --seed %llu --ops %lu --play %u\n",
            verdict->words, (unsigned long long)plan->seed, ops, plan->number);
}

struct options {
    uint64_t      seed;
    unsigned long ops;
    long          only; /* -1: all */
};

static bool read_options(int argc, char **argv, struct options *options)
{
    const char *given = getenv("WEIR_TEST_SEED");

    *options = (struct options){ given ? strtoull(given, NULL, 0) : 1, usual_ops(), -1 };
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            options->seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--ops") == 0)
            options->ops = strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--play") == 0)
            options->only = strtol(argv[i + 1], NULL, 0);
        else
            return false;
    }
    return argc % 2 == 1 && options->ops > 0;
}

/* Was it much of a play? A model that is never asked anything is always right. */
static bool was_busy(const struct verdict *sum, unsigned long played)
{
    printf("%lu operations: %llu asked, %llu served, %llu gave up, %llu connections opened\n",
           played, (unsigned long long)sum->asked, (unsigned long long)sum->served,
           (unsigned long long)sum->given_up, (unsigned long long)sum->opened);
    return played < 10000 || (sum->asked > played / 10 && sum->served > played / 25 &&
                              sum->given_up > played / 50 && sum->opened > played / 50);
}

int main(int argc, char **argv)
{
    static struct op ops[OPS_OF_A_PLAY];
    struct plan      plan = { .ops = ops };
    struct options   options;
    struct verdict   sum = { 0 }, verdict;
    unsigned long    played = 0;

    if (!read_options(argc, argv, &options)) {
        fprintf(stderr, "usage: test_pool_model [--seed N] [--ops N] [--play N]\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    printf("test_pool_model --seed %llu --ops %lu\n", (unsigned long long)options.seed,
           options.ops);
    for (unsigned number = 0; played < options.ops; number++) {
        unsigned long left = options.ops - played;
        draw_plan(&plan, options.seed, number,
                  left < OPS_OF_A_PLAY ? (unsigned)left : OPS_OF_A_PLAY);
        played += plan.count;
        if (options.only >= 0 && number != (unsigned long)options.only)
            continue;
        judge(&plan, &verdict, SECONDS, true);
        if (verdict.failed) {
            report(&plan, &verdict, options.ops);
            return 1;
        }
        sum.asked += verdict.asked;
        sum.served += verdict.served;
        sum.given_up += verdict.given_up;
        sum.opened += verdict.opened;
    }
    return options.only >= 0 || was_busy(&sum, played) ? 0 : 1;
}
