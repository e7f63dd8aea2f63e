/*
 * fetch.c - a task that needs two descriptors: fetch something from the network, store it.
 *
 * Knows:   the load on which services run out of descriptors: many tasks at once, each with a
 *          socket of its own for what it fetches, and a database connection for what it stores.
 *          With weir the socket is paid for like a connection, from the same account
 *          (weir_budget_take), so that together they stay below RLIMIT_NOFILE, whatever the
 *          number of tasks. Without (--naive) each task opens what it needs.
 * Ignores: misbehaviour and accidents; here everybody behaves.
 *
 * What is fetched comes from a process of the soak's own, which answers after 20 ms; the relay
 * adds 50 ms to each answer of the database: 8 connections take some 14 s over it, 100 a few.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TASKS = 2000, AT_ONCE = 300, ANSWER_MS = 20, NETWORK_MS = 50, GUESTS = 1024 };

static struct {
    struct database *db;
    pid_t            responder;
    unsigned         port;
    unsigned         connections; /* of the pool, in this round */
    uint64_t         written;
    uint64_t         failed;
    char             first_failure[WEIR_ERROR_TEXT + 40];
    weir_group      *tasks;
    void           **kept; /* of the naive: nobody closes them */
    unsigned         kept_count;
} fetch;

/* ---- who answers: a process, since its descriptors are not ours --------------------- */

static struct pollfd guest[1 + GUESTS];
static int64_t       due_ns[1 + GUESTS]; /* 0: it has not asked yet */

static void serve_guest(nfds_t i, nfds_t *count)
{
    char question[16];
    bool over = false;

    if (!due_ns[i] && guest[i].revents) {
        over = recv(guest[i].fd, question, sizeof question, MSG_DONTWAIT) <= 0;
        due_ns[i] = watch_clock_ns() + INT64_C(1000000) * ANSWER_MS;
        guest[i].events = 0;
    } else if (due_ns[i] && watch_clock_ns() >= due_ns[i]) {
        (void)send(guest[i].fd, "answer\n", 7, MSG_NOSIGNAL | MSG_DONTWAIT);
        over = true;
    }
    if (!over)
        return;
    close(guest[i].fd);
    --*count;
    guest[i] = guest[*count];
    due_ns[i] = due_ns[*count];
}

static void answer_for_ever(int listener)
{
    nfds_t count = 1;

    guest[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
    for (;;) {
        (void)poll(guest, count, 1);
        for (nfds_t i = count - 1; i > 0; i--)
            serve_guest(i, &count);
        while (count <= GUESTS) {
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd < 0)
                break;
            guest[count] = (struct pollfd){ .fd = fd, .events = POLLIN };
            due_ns[count++] = 0;
        }
    }
}

static void be_the_responder(int listener, pid_t parent)
{
    struct rlimit files;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    setpgid(0, 0);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    answer_for_ever(listener);
}

static bool start_responder(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t          size = sizeof a;
    pid_t              parent = getpid();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (listener < 0)
        return false;
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, GUESTS) ||
        getsockname(listener, (struct sockaddr *)&a, &size)) {
        close(listener);
        return false;
    }
    fetch.port = ntohs(a.sin_port);
    fetch.responder = fork();
    if (fetch.responder == 0)
        be_the_responder(listener, parent);
    close(listener);
    return fetch.responder > 0;
}

static void stop_responder(void)
{
    if (fetch.responder <= 0)
        return;
    kill(fetch.responder, SIGKILL);
    waitpid(fetch.responder, NULL, 0);
}

/* ---- a task ------------------------------------------------------------------------- */

static void failed(const char *what, const char *why)
{
    if (!fetch.failed++)
        snprintf(fetch.first_failure, sizeof fetch.first_failure, "%s: %s", what, why);
}

/* On a socket that is open. */
static bool ask_and_hear(int fd)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)fetch.port) };
    char answer[16];
    int  ready;

    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        return false;
    if (weir_wait_fd(fd, WEIR_WRITE, weir_in_ms(10000), &ready) != WEIR_OK ||
        send(fd, "question\n", 9, MSG_NOSIGNAL) != 9)
        return false;
    return weir_wait_fd(fd, WEIR_READ, weir_in_ms(10000), &ready) == WEIR_OK &&
           recv(fd, answer, sizeof answer, 0) == 7;
}

static bool fetch_one(void)
{
    int  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool ok = fd >= 0 && ask_and_hear(fd);

    if (!ok)
        failed("a call over the network", strerror(errno));
    if (fd >= 0)
        weir_close(fd);
    return ok;
}

static weir_status store_one(weir_error *err)
{
    struct life life = { .db = fetch.db };
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(fetch.db, &lease, err);

    return status == WEIR_OK ? fetch.db->dialect->deed(&life, lease, INSERT_ONE, err) : status;
}

static weir_status fetch_and_store(void *unused)
{
    weir_budget_token token;
    weir_error        err;
    bool              ok;

    (void)unused;
    if (weir_budget_take(1, weir_in_ms(30000), &token, &err) != WEIR_OK) {
        failed("a descriptor for a call", err.message);
        return err.status;
    }
    ok = fetch_one();
    weir_budget_give(&token);
    if (!ok)
        return WEIR_FAILED;
    if (store_one(&err) != WEIR_OK) {
        failed("storing", err.message);
        return err.status;
    }
    fetch.written++;
    soak.lives++;
    return WEIR_OK;
}

/* ---- a round ------------------------------------------------------------------------ */

static weir_status run_tasks(weir_fn task)
{
    weir_group_opts opts = { .keep = WEIR_KEEP_COUNTS, .max_running = AT_ONCE };

    if (weir_group_new(&opts, &fetch.tasks, NULL) != WEIR_OK)
        return WEIR_NOMEM;
    watch_start();
    for (unsigned i = 0; i < TASKS && !soak.ended_by[0] && weir_spawn(fetch.tasks, task, NULL); i++)
        soak.started++;
    (void)weir_group_wait(fetch.tasks, WEIR_FOREVER);
    soak.seconds = watch_seconds();
    weir_group_free(fetch.tasks);
    fetch.tasks = NULL;
    return WEIR_OK;
}

static weir_status round_app(void *unused)
{
    struct database *db = fetch.db;
    weir_error       err;
    weir_pool_opts   opts = { .name = db->dialect->name, .max_size = fetch.connections };

    (void)unused;
    if (db->dialect->pool(db, &opts, &err) != WEIR_OK)
        return weir_fail(&err);
    (void)run_tasks(fetch_and_store);
    (void)weir_pool_close(db->pool, weir_in_ms(20000));
    weir_pool_stats_read(db->pool, &db->end);
    watch_stop();
    weir_pool_free(db->pool);
    db->pool = NULL;
    return WEIR_OK;
}

static void check_round(void)
{
    weir_budget_stats budget;
    char              which[80];
    unsigned          most;

    weir_budget_read(&budget);
    most = soak.watch.fds_peak - soak.watch.fds_base;
    snprintf(which, sizeof which, "with %u connections all is written", fetch.connections);
    check(fetch.written == TASKS && !fetch.failed, NULL, which,
          "%llu of %u in %.1f s, %llu failed%s%s", (unsigned long long)fetch.written, TASKS,
          soak.seconds, (unsigned long long)fetch.failed, fetch.failed ? "; first: " : "",
          fetch.first_failure);
    snprintf(which, sizeof which, "with %u the descriptors suffice", fetch.connections);
    check(most <= budget.limit && budget.peak <= budget.limit && !budget.used &&
              !fetch.db->tally.emfile_surfaced && !budget.exhausted, NULL, which,
          "%u at most, of %u to share; %llu requests waited; EMFILE surfaced %llu times", most,
          budget.limit, (unsigned long long)budget.waited,
          (unsigned long long)fetch.db->tally.emfile_surfaced);
}

static void round_with(unsigned connections)
{
    fetch.connections = connections;
    fetch.written = fetch.failed = 0;
    if (weir_run(round_app, NULL) != WEIR_OK)
        failed("the round", "it could not begin");
    check_round();
}

/* ---- the same without care ---------------------------------------------------------- */

static void the_end(const char *what, const char *why)
{
    failed(what, why);
    if (soak.ended_by[0])
        return;
    soak.ended_after = fetch.kept_count;
    fetch.db->tally.emfile_surfaced += naive_is_at_the_limit();
    snprintf(soak.ended_by, sizeof soak.ended_by, "%s: %s", what, why);
    weir_group_cancel(fetch.tasks);
}

/* The call's socket stays open until all is stored, as in many a handler. */
static weir_status fetch_and_keep(void *unused)
{
    int   fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    char  why[256] = "";
    void *connection;

    (void)unused;
    if (fd < 0) {
        the_end("a call over the network", strerror(errno));
        return WEIR_FAILED;
    }
    connection = ask_and_hear(fd) && !soak.ended_by[0]
                     ? fetch.db->dialect->connect(fetch.db, why, sizeof why) : NULL;
    if (connection)
        fetch.kept[fetch.kept_count++] = connection;
    else if (why[0])
        the_end("a connection to store it", why);
    weir_close(fd);
    return connection ? WEIR_OK : WEIR_FAILED;
}

static weir_status naive_app(void *unused)
{
    (void)unused;
    (void)run_tasks(fetch_and_keep);
    watch_stop();
    return WEIR_OK;
}

static int naive_fetch(void)
{
    soak.mode = "naive";
    fetch.kept = calloc(TASKS, sizeof *fetch.kept);
    if (fetch.kept)
        weir_run(naive_app, NULL);
    for (unsigned i = 0; i < fetch.kept_count; i++)
        fetch.db->dialect->hang_up(fetch.kept[i]);
    free(fetch.kept);
    printf("\nFetch and store, %u tasks at once, each with what it needs, %u descriptors allowed, "
           "%u used at most\n%s when %llu tasks had got a connection: %s\n"
           "\nFAIL, as it must be. Without --naive weir-soak shows the same load on an account of "
           "descriptors.\n", AT_ONCE, soak.options.nofile, soak.watch.fds_peak,
           fetch.db->tally.emfile_surfaced ? "EMFILE" : "The end",
           (unsigned long long)soak.ended_after, soak.ended_by[0] ? soak.ended_by : "it did not");
    return 1;
}

/* ---- all of it ---------------------------------------------------------------------- */

int fetch_main(void)
{
    fetch.db = soak.database;
    soak.mode = "fetch";
    if (!start_responder()) {
        fprintf(stderr, "weir-soak: nobody to fetch from: %s\n", strerror(errno));
        return 2;
    }
    relay_delay(fetch.db->relay, NETWORK_MS);
    if (soak.options.naive) {
        int status = naive_fetch();
        stop_responder();
        return status;
    }
    soak.verdict.pass = true;
    round_with(soak.options.cap ? soak.options.cap : 8);
    if (!soak.options.cap)
        round_with(100);
    stop_responder();
    check_rows(fetch.db);
    (void)check_fd_table();
    printf("\nFetch and store: %u tasks, %u at once, %u descriptors allowed\n", TASKS, AT_ONCE,
           soak.options.nofile);
    summary_checks(stdout);
    printf("\n%s\n", soak.verdict.pass ? "PASS" : "FAIL");
    return soak.verdict.pass ? 0 : 1;
}
