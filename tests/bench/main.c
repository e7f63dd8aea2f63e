/*
 * main.c - weir-bench [NAME...] [--rounds N] [--json FILE] [--list]
 *
 * Knows:   the command line.
 * Ignores: how anything is measured.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRIES = 128, MAX_ROUNDS = 1000 };

struct request {
    char      **names; /* whole names or prefixes; none: everything */
    int         name_count;
    int         rounds;
    const char *json;
    bool        list;
};

static int usage(FILE *to)
{
    fputs("usage: weir-bench [NAME...] [--rounds N] [--json FILE] [--list]\n"
          "Measures weir beside baselines. A NAME may be the beginning of one: coro/, mysql/.\n"
          "mysql/ needs a server: see script/private-server. mongo/ brings its own.\n",
          to);
    return to == stdout ? 0 : 2;
}

/* Returns -1 to go on, else the exit code. */
static int read_arguments(int argc, char **argv, struct request *request)
{
    *request = (struct request){ .names = argv, .rounds = 9 };
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;

        if (strcmp(argv[i], "--help") == 0) {
            return usage(stdout);
        } else if (strcmp(argv[i], "--list") == 0) {
            request->list = true;
        } else if (strcmp(argv[i], "--json") == 0 && more) {
            request->json = argv[++i];
        } else if (strcmp(argv[i], "--rounds") == 0 && more) {
            request->rounds = atoi(argv[++i]);
            if (request->rounds < 1 || request->rounds > MAX_ROUNDS)
                return usage(stderr);
        } else if (argv[i][0] == '-') {
            return usage(stderr);
        } else {
            argv[request->name_count++] = argv[i];
        }
    }
    return -1;
}

static const struct entry *const tables[] = {
    coro_entries, pool_entries, pool_crowd_entries, mysql_entries,
#if WEIR_BENCH_MONGO
    mongo_entries,
#endif
};

enum { TABLES = sizeof tables / sizeof *tables };

static bool is_whole_name(const char *name)
{
    for (int t = 0; t < TABLES; t++) {
        for (const struct entry *entry = tables[t]; entry->name; entry++) {
            if (strcmp(entry->name, name) == 0)
                return true;
        }
    }
    return false;
}

/* A whole name means that entry alone, though others may begin with it. */
static bool wanted(const struct request *request, const struct entry *entry)
{
    for (int i = 0; i < request->name_count; i++) {
        const char *name = request->names[i];

        if (is_whole_name(name) ? strcmp(entry->name, name) == 0
                                : strncmp(entry->name, name, strlen(name)) == 0)
            return true;
    }
    return request->name_count == 0;
}

static size_t choose(const struct request *request, const struct entry **chosen)
{
    size_t count = 0;

    for (int t = 0; t < TABLES; t++) {
        for (const struct entry *entry = tables[t]; entry->name; entry++) {
            if (wanted(request, entry) && count < MAX_ENTRIES)
                chosen[count++] = entry;
        }
    }
    return count;
}

static void list(const struct entry **entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        printf("%s, %s for each of: %s\n    beside: %s\n", entries[i]->name,
               bench_unit(entries[i]->measure), entries[i]->operation,
               entries[i]->baseline.label);
}

static int measure_all(const struct request *request, const struct entry **entries,
                       size_t count)
{
    static struct result results[MAX_ENTRIES];
    int                  cpu = bench_pin();
    int                  code = 0;
    size_t               done = 0;

    if (cpu < 0) {
        bench_fail("cannot pin this process to one CPU");
        return 1;
    }
    bench_catch_signals();
    printf("CPU %d, %d rounds of each side in turn; ratio = median / baseline's median\n", cpu,
           request->rounds);
    bench_print_head();
    while (done < count && code == 0) {
        struct result *result = &results[done];

        bench_measure(entries[done++], request->rounds, result);
        bench_print(result);
        if (result->outcome == FAILED || result->outcome == INTERRUPTED)
            code = result->outcome == FAILED ? 1 : 130;
    }
    if (request->json && !bench_write_json(request->json, results, done))
        code = 1;
    return code;
}

int main(int argc, char **argv)
{
    const struct entry *entries[MAX_ENTRIES];
    struct request      request;
    int                 code = read_arguments(argc, argv, &request);

    if (code >= 0)
        return code;

    size_t count = choose(&request, entries);
    if (count == 0) {
        bench_fail("no entry has such a name; --list shows them");
        return 2;
    }
    if (request.list) {
        list(entries, count);
        return 0;
    }
    return measure_all(&request, entries, count);
}
