/*
 * weir-cmap - plays files of MongoDB's "Connection Monitoring and Pooling" tests on our pool.
 *
 * Each file is played in a process of its own, so that one which brings the pool to its knees is
 * one that failed, and the rest are still played.
 */
#include "play.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <weir/log.h>

enum { PASSED = 0, FAILED = 1, ALARM_S = 60 }; /* of real time; a file takes milliseconds */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int play_file(const char *path)
{
    struct spec spec;
    char        why[SPEC_WORDS] = "";

    if (!spec_read(path, &spec, why)) {
        printf("FAIL  %s: %s\n", base_name(path), why);
        return FAILED;
    }
    bool passed = play(&spec, why);
    if (passed)
        printf("ok    %s: %s\n", base_name(path), spec.description);
    else
        printf("FAIL  %s: %s\n", base_name(path), why);
    spec_free(&spec);
    return passed ? PASSED : FAILED;
}

/* Has it passed? */
static bool play_apart(const char *path)
{
    int   status = 0;
    pid_t child = fork();

    if (child == 0) {
        alarm(ALARM_S);
        int result = play_file(path);
        fflush(stdout);
        _exit(result);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        printf("FAIL  %s: no process to play it in\n", base_name(path));
        return false;
    }
    if (WIFSIGNALED(status))
        printf("FAIL  %s: ended by signal %d (%s)\n", base_name(path), WTERMSIG(status),
               strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == PASSED;
}

int main(int argc, char **argv)
{
    int passed = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: weir-cmap FILE.json...\n"
                        "Says of each file whether our pool does what it wants; the last line is "
                        "\"N passed, N failed\".\n");
        return 2;
    }
    weir_log_set(NULL, NULL, WEIR_LOG_ERROR);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++)
        passed += play_apart(argv[i]);
    printf("%d passed, %d failed\n", passed, argc - 1 - passed);
    return passed == argc - 1 ? 0 : 1;
}
