/*
 * base_mysql.c - point SELECTs without weir: libmariadb's own non-blocking calls under a
 * bare epoll, and one blocking thread for each connection.
 *
 * Knows:   epoll, threads, the _start and _cont calls of libmariadb.
 * Ignores: more work than there are connections, deadlines, broken connections, fairness.
 *
 * Written as somebody would who counts system calls: each descriptor is registered once, for
 * reading, and level-triggered, so that waiting costs one epoll_wait for however many answers
 * have come. A statement this short always fits the socket's buffer, so nobody ever waits to
 * write.
 */
#include "base.h"
#include "server.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* ---- epoll -------------------------------------------------------------------------- */

struct link;

struct links {
    struct lap  *lap;
    int          epoll;
    unsigned     busy;   /* in the middle of a query */
    bool         failed;
    unsigned     ids;
    struct link {
        MYSQL      my;
        bool       open;
        bool       storing; /* asked already, and now reading the rows */
        unsigned   id;
        int        refused; /* what the query returned */
        MYSQL_RES *result;
    } link[CONNECTIONS];
};

/* Returns what the link waits for, as all functions of this part do. */
static int ask(struct links *all, struct link *link)
{
    char text[POINT_SELECT];

    link->id = next_id(&all->ids);
    link->storing = false;
    int length = point_select(text, link->id);
    return mysql_real_query_start(&link->refused, &link->my, text, (unsigned long)length);
}

static int go_on(struct link *link, int came)
{
    return link->storing ? mysql_store_result_cont(&link->result, &link->my, came)
                         : mysql_real_query_cont(&link->refused, &link->my, came);
}

/* A step ended without waiting. Begins the next one, if there is to be one. */
static int next_step(struct links *all, struct link *link)
{
    if (!link->storing) {
        if (link->refused) {
            all->failed = !bench_fail("query: %s", mysql_error(&link->my));
            all->busy--;
            return 0;
        }
        link->storing = true;
        return mysql_store_result_start(&link->result, &link->my);
    }
    if (!link->result || !point_select_fetch(link->result, link->id))
        all->failed = true;
    lap_tick(all->lap);
    if (all->lap->over || all->failed) {
        all->busy--;
        return 0;
    }
    return ask(all, link);
}

static void advance(struct links *all, struct link *link, int waits_for)
{
    unsigned busy = all->busy;

    while (!waits_for && all->busy == busy)
        waits_for = next_step(all, link);
    if (waits_for & MYSQL_WAIT_WRITE)
        all->failed = !bench_fail("a point SELECT did not fit the socket's buffer");
}

static bool open_links(struct links *all, enum way way)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        struct link       *link = &all->link[i];
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = link };

        if (!mysql_init(&link->my))
            return bench_fail("mysql_init: out of memory");
        link->open = true;
        mysql_options(&link->my, MYSQL_OPT_NONBLOCK, NULL);
        if (!server_connect(&link->my, way))
            return false;
        if (epoll_ctl(all->epoll, EPOLL_CTL_ADD, mysql_get_socket(&link->my), &event))
            return bench_fail("epoll_ctl: %s", strerror(errno));
    }
    return true;
}

static void turn(struct links *all)
{
    struct epoll_event events[CONNECTIONS];
    int                count = epoll_wait(all->epoll, events, CONNECTIONS, -1);

    if (count < 0 && errno != EINTR)
        all->failed = !bench_fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct link *link = events[i].data.ptr;
        advance(all, link, go_on(link, MYSQL_WAIT_READ));
    }
}

bool base_mysql_epoll(struct lap *lap, int how)
{
    struct links all = { .lap = lap, .epoll = epoll_create1(EPOLL_CLOEXEC) };

    if (all.epoll < 0)
        return bench_fail("epoll_create1: %s", strerror(errno));
    all.failed = !open_links(&all, (enum way)how);
    for (int i = 0; i < CONNECTIONS && !all.failed; i++) {
        all.busy++;
        advance(&all, &all.link[i], ask(&all, &all.link[i]));
    }
    while (all.busy && !all.failed)
        turn(&all);

    for (int i = 0; i < CONNECTIONS; i++) {
        if (all.link[i].open)
            mysql_close(&all.link[i].my);
    }
    close(all.epoll);
    return !all.failed;
}

/* ---- threads ------------------------------------------------------------------------ */

struct worker {
    pthread_t thread;
    enum way  way;
    long      warm, count;
    unsigned  ids;
    double    cpu_s;
    bool      failed;
};

static bool ask_blocking(MYSQL *my, unsigned id)
{
    char text[POINT_SELECT];
    int  length = point_select(text, id);

    if (mysql_real_query(my, text, (unsigned long)length))
        return bench_fail("query: %s", mysql_error(my));
    MYSQL_RES *result = mysql_store_result(my);
    if (!result)
        return bench_fail("store: %s", mysql_error(my));
    return point_select_fetch(result, id);
}

static void ask_times(struct worker *self, MYSQL *my, long times)
{
    for (long i = 0; i < times && !self->failed; i++)
        self->failed = !ask_blocking(my, next_id(&self->ids));
}

/* Threads need no common start: each measures its own time, and all do equally much. */
static void *work(void *arg)
{
    struct worker *self = arg;
    MYSQL          my;

    self->failed = true;
    if (!mysql_init(&my))
        return NULL;
    self->failed = !server_connect(&my, self->way);
    ask_times(self, &my, self->warm);
    double begun_s = lap_thread_cpu_s();
    ask_times(self, &my, self->count);
    self->cpu_s = lap_thread_cpu_s() - begun_s;
    mysql_close(&my);
    return NULL;
}

bool base_mysql_threads(struct lap *lap, int how)
{
    struct worker workers[CONNECTIONS];
    double        cpu_s = 0;
    int           started = 0;
    bool          failed = false;

    while (started < CONNECTIONS && !failed) {
        struct worker *worker = &workers[started];

        *worker = (struct worker){
            .way = (enum way)how,
            .warm = lap->warm / CONNECTIONS,
            .count = lap->count / CONNECTIONS,
            .ids = (unsigned)started * 7919u,
        };
        failed = pthread_create(&worker->thread, NULL, work, worker) != 0;
        if (!failed)
            started++;
    }
    if (failed)
        bench_fail("pthread_create failed");
    for (int i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        cpu_s += workers[i].cpu_s;
        failed = failed || workers[i].failed;
    }
    lap_end_with(lap, cpu_s);
    return !failed;
}
