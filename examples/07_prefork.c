/*
 * 07_prefork - three processes of two hubs each serve one listening socket, with nine database
 * connections between them all. One is killed, and replaced.
 *
 * usage: 07_prefork mysql://user:password@host/database
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <weir/accept.h>
#include <weir/mysql.h>
#include <weir/permits.h>
#include <weir/process.h>

enum { WORKERS = 3, HUBS = 2, PERMITS = 9, REQUESTS = 60 };

static struct {
    weir_mysql_opts    database;
    struct sockaddr_in place;
    int                listener;
    bool               stopping;
    pid_t              workers[WORKERS];
} service = { .listener = -1 };

/* ---- a worker: in each of its threads a hub, and in each hub a pool ----------------- */

struct visit {
    weir_accepted guest;
    weir_pool    *pool;
};

static weir_status answer(void *arg)
{
    struct visit *visit = arg;
    weir_error    err;
    weir_status   status;
    char          line[64] = "";

    {
        weir_autoptr(weir_lease) lease = NULL;
        status = weir_acquire(visit->pool, weir_in_ms(5000), &lease, &err);
        if (status == WEIR_OK && !mysql_query(weir_mysql(lease), "DO SLEEP(0.01)"))
            snprintf(line, sizeof line, "%d", (int)getpid());
    }
    if (line[0])
        (void)!send(visit->guest.fd, line, strlen(line), MSG_NOSIGNAL);
    weir_accepted_close(&visit->guest);
    free(visit);
    return status;
}

static weir_status hub(void *arg)
{
    weir_error err;
    weir_autoptr(weir_pool) pool = NULL;
    weir_autoptr(weir_group) visits = NULL;

    (void)arg;
    if (weir_mysql_pool_new(&service.database, &pool, &err) ||
        weir_group_new(NULL, &visits, &err))
        return weir_fail(&err);
    for (;;) {
        struct visit *visit = calloc(1, sizeof *visit);
        if (!visit)
            return WEIR_NOMEM;
        /* A client's socket is paid for before it is accepted, out of the same account. */
        if (weir_accept(service.listener, WEIR_FOREVER, &visit->guest, &err)) {
            free(visit);
            return weir_fail(&err);
        }
        visit->pool = pool;
        if (!weir_spawn(visits, answer, visit)) {
            weir_accepted_close(&visit->guest);
            free(visit);
        }
    }
}

static void *thread(void *arg)
{
    (void)!weir_run(hub, arg);
    return NULL;
}

/* In the child the coroutine that forked goes on, in a hub of its own: that is one of them. */
static _Noreturn void work(void)
{
    pthread_t other;

    for (int i = 1; i < HUBS; i++)
        if (pthread_create(&other, NULL, thread, NULL) != 0)
            _exit(1);
    (void)!hub(NULL);
    _exit(1);
}

/* ---- the master: keeps each worker's place filled ----------------------------------- */

static weir_status supervise(void *arg)
{
    pid_t *worker = arg;

    while (!service.stopping) {
        weir_error err;
        int        status = 0;
        *worker = weir_fork();
        if (*worker == 0)
            work();
        if (*worker < 0 || weir_waitpid(*worker, WEIR_FOREVER, &status, &err))
            return WEIR_FAILED;
        if (!service.stopping && !WIFSIGNALED(status))
            return WEIR_FAILED; /* it has said why */
        if (!service.stopping)
            printf("a worker was ended by signal %d; the next one comes\n", WTERMSIG(status));
    }
    return WEIR_OK;
}

/* ---- somebody who asks -------------------------------------------------------------- */

/* The process that answered; 0: it was killed meanwhile. */
static int ask(void)
{
    char line[64] = "";
    int  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&service.place, sizeof service.place) == 0 &&
        weir_wait_fd(fd, WEIR_READ, weir_in_ms(10000), NULL) == WEIR_OK)
        (void)!recv(fd, line, sizeof line - 1, 0);
    weir_close(fd);
    return atoi(line);
}

static weir_status ask_until_answered(void *arg)
{
    unsigned *lost = arg;

    for (int tries = 0; tries < 5; tries++) {
        if (ask())
            return WEIR_OK;
        ++*lost;
    }
    return WEIR_FAILED;
}

static weir_status app(void *arg)
{
    weir_error err;
    unsigned   lost = 0;
    weir_autoptr(weir_group) workers = NULL;
    weir_autoptr(weir_group) requests = NULL;

    (void)arg;
    if (weir_group_new(NULL, &workers, &err) ||
        weir_group_new(&(weir_group_opts){ .max_running = 20 }, &requests, &err))
        return weir_fail(&err);
    for (int i = 0; i < WORKERS; i++)
        weir_spawn(workers, supervise, &service.workers[i]);
    for (int i = 0; i < REQUESTS; i++) {
        if (i == REQUESTS / 2)
            kill(service.workers[0], SIGKILL);
        weir_spawn(requests, ask_until_answered, &lost);
    }
    weir_status status = weir_group_wait(requests, weir_in_ms(30000));
    printf("%d requests: %s; asked again after a worker died: %s\n", REQUESTS,
           status == WEIR_OK ? "all answered" : "not all answered", lost ? "some" : "none");

    weir_permits_stats stats;
    weir_permits_read(service.database.pool.permits, &stats);
    printf("%u pools have at most %u connections together\n", stats.pools, stats.count);
    service.stopping = true;
    for (int i = 0; i < WORKERS; i++)
        kill(service.workers[i], SIGTERM);
    weir_status ended = weir_group_wait(workers, weir_in_ms(10000));
    return status == WEIR_OK ? ended : status;
}

int main(int argc, char **argv)
{
    socklen_t  size = sizeof service.place;
    weir_error err;

    service.database = (weir_mysql_opts){ .uri = argc > 1 ? argv[1] : "mysql://root@localhost",
                                          .pool.max_size = 4 };
    if (weir_permits_open(&(weir_permits_opts){ .count = PERMITS }, &service.database.pool.permits,
                          &err))
        return weir_fail(&err);

    service.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    service.place = (struct sockaddr_in){ .sin_family = AF_INET,
                                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(service.listener, (struct sockaddr *)&service.place, size) != 0 ||
        listen(service.listener, 128) != 0 ||
        getsockname(service.listener, (struct sockaddr *)&service.place, &size) != 0) {
        perror("07_prefork");
        return 1;
    }
    weir_status status = weir_run(app, NULL);
    weir_permits_free(service.database.pool.permits);
    return status;
}
