/*
 * options.c - the command line.
 *
 * Knows:   names, ranges, defaults, and what excludes what.
 * Ignores: what any of it does. The password is read elsewhere; if one came in the URI it is
 *          wiped from the process's arguments here, where others could read it.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char help_text[] =
    "usage: weir-soak [options]\n"
    "\n"
    "Lives many short coroutine lives over bounded pools of database connections, with few file\n"
    "descriptors for all of them, while some lives misbehave and the servers fail, and then\n"
    "counts what is left. Ends with PASS (exit 0) or FAIL and the reasons (exit 1).\n"
    "\n"
    "The servers\n"
    "  --db WHICH            both, mysql or mongo (both, where this build has both); each gets a\n"
    "                        pool, and the pools share one account of descriptors\n"
    "  --mysql URI           mysql://user:password@host:3306/database?tls=verify&tls_ca=FILE\n"
    "                        (?socket=PATH for a Unix socket). One table of its own is made\n"
    "                        there and dropped. Its accidents happen in a relay in between;\n"
    "                        the server itself is left alone.\n"
    "  --mongo URI           mongodb://user:password@host:27017/database?tls=true&tlsCAFile=FILE\n"
    "                        One member, the primary. A collection of its own is made there to\n"
    "                        write to, and a small capped one to read, and both are dropped. The\n"
    "                        relay is no name that a certificate could have: names are not\n"
    "                        verified, authorities are.\n"
    "                        Without a URI: the private servers that WEIR_MYSQL_* and\n"
    "                        WEIR_MONGO_* in the environment describe, which are killed, stalled\n"
    "                        and restarted (script/soak starts them). A URI alone means --db of\n"
    "                        its kind.\n"
    "  --password-file FILE  its first line is the password; or set WEIR_SOAK_PASSWORD\n"
    "  --tls                 speak TLS and verify the server\n"
    "\n"
    "The load\n"
    "  --coroutines N        lives to live at least (200000)\n"
    "  --duration-s S        start lives for this long instead of counting them\n"
    "  --concurrency N       lives at the same time (1000; mongo alone: 5 for a connection); of\n"
    "                        both, so many at most: those with a connection, and as many as are\n"
    "                        served in 150 ms; MongoDB has at most 4 for each of its connections\n"
    "  --cap N               connections of each pool at most (24; both: 40)\n"
    "  --nofile N            descriptors of this process at most, RLIMIT_NOFILE (96)\n"
    "  --idle-timeout-ms N   an unused connection is closed after this long (1000)\n"
    "  --mix M               lives that misbehave: per cent in all (10), shared by all kinds,\n"
    "                        or per kind: forget=2,half_read=0.5 (the others: none)\n"
    "  --seed N              the plan of all lives follows from it (from the clock)\n"
    "  --no-accidents        the server is left in peace\n"
    "  --squeeze             a further accident: for a while other code of the process holds\n"
    "                        every descriptor that is left\n"
    "\n"
    "To compare: the accidents this library is there to prevent (each ends with exit 1)\n"
    "  --naive               a connection for each coroutine, and nobody closes one\n"
    "  --unbounded           a pool without a limit\n"
    "  --insist              allow these two on a server given by its URI\n"
    "\n"
    "Another load: fetch something, then store it\n"
    "  --fetch               2,000 tasks, 300 at once: each a call of 20 ms to a small server of\n"
    "                        the soak's own, then an insert that takes the network 50 ms, within\n"
    "                        256 descriptors; with 8 connections, then with 100 (or --cap). Uses\n"
    "                        MongoDB unless --db says mysql. With --naive: without weir's care\n"
    "\n"
    "What you get\n"
    "  --json FILE           all numbers\n"
    "  --html FILE           a page with plots\n"
    "  --progress HOW        auto, redraw (one line, for terminals), plain, none\n"
    "  --verbose             weir's own warnings too\n"
    "  --check-options       say what is wrong with the other options, if anything is (exit 2),\n"
    "                        and do nothing else\n"
    "  --help\n"
    "\n"
    "Kinds of misbehaviour: forget, cancel_wait, cancel_connect, cancel_query, timeout_wait,\n"
    "timeout_query, open_transaction, half_read, nested, nested_local; with MongoDB also outlive\n"
    "and misuse.\n";

static void die(const char *fmt, ...) WEIR_PRINTF(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fputs("weir-soak: ", stderr);
    vfprintf(stderr, fmt, args);
    fputs(" (--help tells more)\n", stderr);
    va_end(args);
    exit(2);
}

static uint64_t number(const char *option, const char *text, uint64_t min, uint64_t max)
{
    char              *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno || end == text || *end || !isdigit((unsigned char)*text) || value < min ||
        value > max)
        die("--%s is a number from %llu to %llu, not '%s'", option, (unsigned long long)min,
            (unsigned long long)max, text);
    return value;
}

/* ---- the mix ------------------------------------------------------------------------ */

/* Per cent, to lives in a block. */
static unsigned share(const char *text, const char *what)
{
    char  *end;
    double percent = strtod(text, &end);

    if (end == text || *end || !(percent >= 0 && percent <= 90))
        die("--mix: '%s' is no share for %s; give per cent, such as 0.5", text, what);
    return (unsigned)(percent * PLAN_BLOCK / 100 + 0.5);
}

static void read_mix(struct options *o, char *text)
{
    unsigned all = 0;

    o->misbehave = 0;
    memset(o->share, 0, sizeof o->share);
    if (!strchr(text, '=')) {
        o->misbehave = share(text, "all kinds");
    } else {
        for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
            unsigned kind = 1;
            char    *value = strchr(item, '=');
            if (!value)
                die("--mix: '%s' lacks its share, as in forget=1", item);
            *value++ = 0;
            while (kind < KINDS && strcmp(item, kind_name(kind)))
                kind++;
            if (kind == KINDS)
                die("--mix: there is no kind '%s'", item);
            o->share[kind] = share(value, item);
        }
    }
    for (unsigned kind = 1; kind < KINDS; kind++)
        all += o->share[kind];
    if (all > PLAN_BLOCK * 9 / 10)
        die("--mix: at least ten per cent have to behave");
}

/* ---- which option is which ---------------------------------------------------------- */

enum {
    URI_OF = 256, DB = URI_OF + DATABASES_MAX, TLS, CAP, IDLE_TIMEOUT, COROUTINES, DURATION,
    NOFILE, SEED,
    MIX, NAIVE, UNBOUNDED, FETCH, JSON, HTML, HELP, CONCURRENCY, NO_ACCIDENTS, SQUEEZE, PROGRESS,
    PASSWORD_FILE, INSIST, VERBOSE, CHECK_OPTIONS
};

static const struct option names[] = {
    { "mysql", 1, NULL, URI_OF },
    { "mongo", 1, NULL, URI_OF + 1 },
    { "db", 1, NULL, DB },
    { "tls", 0, NULL, TLS },
    { "cap", 1, NULL, CAP },
    { "idle-timeout-ms", 1, NULL, IDLE_TIMEOUT },
    { "coroutines", 1, NULL, COROUTINES },
    { "duration-s", 1, NULL, DURATION },
    { "nofile", 1, NULL, NOFILE },
    { "seed", 1, NULL, SEED },
    { "mix", 1, NULL, MIX },
    { "naive", 0, NULL, NAIVE },
    { "unbounded", 0, NULL, UNBOUNDED },
    { "fetch", 0, NULL, FETCH },
    { "json", 1, NULL, JSON },
    { "html", 1, NULL, HTML },
    { "help", 0, NULL, HELP },
    { "concurrency", 1, NULL, CONCURRENCY },
    { "no-accidents", 0, NULL, NO_ACCIDENTS },
    { "squeeze", 0, NULL, SQUEEZE },
    { "progress", 1, NULL, PROGRESS },
    { "password-file", 1, NULL, PASSWORD_FILE },
    { "insist", 0, NULL, INSIST },
    { "verbose", 0, NULL, VERBOSE },
    { "check-options", 0, NULL, CHECK_OPTIONS },
    { NULL, 0, NULL, 0 },
};

static enum progress_style progress_style(const char *text)
{
    static const char *const styles[] = { "auto", "redraw", "plain", "none" };

    for (unsigned i = 0; i < sizeof styles / sizeof *styles; i++)
        if (!strcmp(text, styles[i]))
            return (enum progress_style)i;
    die("--progress is auto, redraw, plain or none, not '%s'", text);
}

static bool only_check; /* no option of the run's: it ends here */

/* The place of the one that is called so; ends the program where this build has none. */
static unsigned place_of(const char *name)
{
    unsigned place = 0;

    while (dialects[place] && strcmp(dialects[place]->name, name))
        place++;
    if (!dialects[place])
        die("this build has no driver for %s", name);
    return place;
}

static void take_uri(struct options *o, unsigned which, char *arg)
{
    char *copy = strdup(arg);

    memset(arg, '*', strlen(arg));
    if (!copy)
        die("out of memory");
    unsigned place = place_of(names[which].name);
    free(o->uri[place]);
    o->uri[place] = copy;
}

static void take_databases(struct options *o, const char *text)
{
    bool both = !strcmp(text, "both");

    if (!both && strcmp(text, "mysql") && strcmp(text, "mongo"))
        die("--db is mysql, mongo or both, not '%s'", text);
    memset(o->wanted, 0, sizeof o->wanted);
    if (both || !strcmp(text, "mysql"))
        o->wanted[place_of("mysql")] = true;
    if (both || !strcmp(text, "mongo"))
        o->wanted[place_of("mongo")] = true;
}

static void take(struct options *o, int which, char *arg)
{
    switch (which) {
    case URI_OF:
    case URI_OF + 1:
        take_uri(o, (unsigned)which - URI_OF, arg);
        break;
    case DB:
        take_databases(o, arg);
        break;
    case TLS:
        o->tls = true;
        break;
    case CAP:
        o->cap = (unsigned)number("cap", arg, 1, 100000);
        break;
    case IDLE_TIMEOUT:
        o->idle_timeout_ms = (int64_t)number("idle-timeout-ms", arg, 1, 86400000);
        break;
    case COROUTINES:
        o->coroutines = number("coroutines", arg, PLAN_BLOCK, UINT64_C(100000000));
        break;
    case DURATION:
        o->duration_s = (unsigned)number("duration-s", arg, 1, 7 * 86400);
        break;
    case NOFILE:
        o->nofile = (unsigned)number("nofile", arg, 32, 1000000);
        break;
    case SEED:
        o->seed = number("seed", arg, 0, UINT64_MAX);
        break;
    case MIX:
        read_mix(o, arg);
        break;
    case NAIVE:
        o->naive = true;
        break;
    case UNBOUNDED:
        o->unbounded = true;
        break;
    case FETCH:
        o->fetch = true;
        break;
    case JSON:
        o->json = arg;
        break;
    case HTML:
        o->html = arg;
        break;
    case HELP:
        fputs(help_text, stdout);
        exit(0);
    case CONCURRENCY:
        o->concurrency = (unsigned)number("concurrency", arg, 8, 30000);
        break;
    case NO_ACCIDENTS:
        o->accidents = false;
        break;
    case SQUEEZE:
        o->squeeze = true;
        break;
    case PROGRESS:
        o->progress = progress_style(arg);
        break;
    case PASSWORD_FILE:
        o->password_file = arg;
        break;
    case INSIST:
        o->insist = true;
        break;
    case VERBOSE:
        o->verbose = true;
        break;
    case CHECK_OPTIONS:
        only_check = true;
        break;
    default:
        exit(2); /* getopt has said why */
    }
}

/* ---- all of it ---------------------------------------------------------------------- */

/* How many are wanted. Without --db: those with a URI, else all there are. */
static unsigned settle_databases(struct options *o)
{
    unsigned count = 0, given = 0;

    for (unsigned i = 0; dialects[i]; i++)
        count += o->wanted[i];
    for (unsigned i = 0; dialects[i]; i++)
        given += o->uri[i] != NULL;
    for (unsigned i = 0; dialects[i]; i++) {
        if (count && o->uri[i] && !o->wanted[i])
            die("--%s was given, and --db does not want it", dialects[i]->name);
        if (!count)
            o->wanted[i] = given ? o->uri[i] != NULL
                                 : !o->fetch || !dialects[i + 1]; /* the last is MongoDB */
    }
    count = 0;
    for (unsigned i = 0; dialects[i]; i++)
        count += o->wanted[i];
    return count;
}

static void settle_numbers(struct options *o, unsigned databases)
{
    bool     many = databases > 1;
    unsigned crowd = 0;

    for (unsigned i = 0; dialects[i]; i++)
        crowd += o->wanted[i] ? dialects[i]->crowd : 0;
    if (!o->cap && !o->fetch)
        o->cap = many ? 40 : 24;
    if (!o->nofile)
        o->nofile = o->fetch ? 256 : 96;
    if (!o->concurrency)
        o->concurrency = crowd && !many ? 5 * o->cap : 1000;
}

static void check_together(const struct options *o, unsigned databases)
{
    unsigned misbehave = o->misbehave;
    bool     hard = o->naive || o->unbounded;

    for (unsigned kind = 1; kind < KINDS; kind++)
        misbehave += o->share[kind];
    if (o->naive && o->unbounded)
        die("--naive and --unbounded are two runs");
    if (o->fetch && (o->unbounded || databases > 1))
        die("--fetch goes with one database, and with --naive at most");
    for (unsigned i = 0; dialects[i]; i++)
        if (hard && o->uri[i] && !o->insist)
            die("--naive and --unbounded use up what a server has; add --insist to do that to the "
                "one given with --%s", dialects[i]->name);
    if (misbehave && !o->fetch && o->concurrency < 4 * o->cap * databases)
        die("--concurrency %u is too low for --cap %u: nobody would ever wait (at least %u)",
            o->concurrency, o->cap, 4 * o->cap * databases);
}

/* Now, and not when minutes have been spent on what could not be written down then. */
static void check_report(const char *option, const char *path)
{
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;

    if (fd >= 0)
        unlink(path); /* it was not there, and shall not be before it is written */
    else if (path)
        fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (path && fd < 0 && errno != ENXIO) /* a FIFO that nobody reads yet */
        die("--%s: %s cannot be written: %s", option, path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static uint64_t seed_of_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return ((uint64_t)ts.tv_sec ^ (uint64_t)ts.tv_nsec ^ (uint64_t)getpid() << 20) % 1000000;
}

void options_read(struct options *out, int argc, char **argv)
{
    int which;

    *out = (struct options){
        .idle_timeout_ms = 1000,
        .coroutines = 200000,
        .seed = seed_of_now(),
        .accidents = true,
        .misbehave = PLAN_BLOCK / 10,
    };
    which = getopt_long(argc, argv, "", names, NULL);
    while (which != -1) {
        take(out, which, optarg);
        which = getopt_long(argc, argv, "", names, NULL);
    }
    if (optind < argc)
        die("'%s' is no option", argv[optind]);
    /* Whole blocks, so that each kind has exactly its share. */
    out->coroutines = (out->coroutines + PLAN_BLOCK - 1) / PLAN_BLOCK * PLAN_BLOCK;
    unsigned databases = settle_databases(out);
    settle_numbers(out, databases);
    check_together(out, databases);
    check_report("json", out->json);
    check_report("html", out->html);
    if (only_check)
        exit(0);
}
