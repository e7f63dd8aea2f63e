/*
 * 04_fetch_and_write - three hundred fetch and write at once, with 256 descriptors.
 *
 * Each task fetches something over the network and writes it to MongoDB. Without a common
 * account this is how a service runs out of descriptors: whichever side grows takes what the
 * other one needs. Here the fetches pay for theirs in the budget that the pool pays in, too. When
 * it is spent they wait their turn, the pool keeps what it was promised, and nothing is lost.
 *
 * usage: 04_fetch_and_write mongodb://user:password@host/database
 */
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <weir/mongo.h>

enum { TASKS = 2000, AT_ONCE = 300, DESCRIPTORS = 256, ANSWER = 64 };

static struct sockaddr_in source; /* where there is something to fetch */

/* ---- fetching: any client library could do this ---------------------------------------- */

static weir_status talk(int fd, char answer[ANSWER])
{
    if (connect(fd, (struct sockaddr *)&source, sizeof source) && errno != EINPROGRESS)
        return WEIR_FAILED;
    weir_status status = weir_wait_fd(fd, WEIR_READ, WEIR_SCOPE, NULL);
    if (status != WEIR_OK)
        return status;
    ssize_t n = recv(fd, answer, ANSWER - 1, 0);
    answer[n > 0 ? n : 0] = '\0';
    return n > 0 ? WEIR_OK : WEIR_FAILED;
}

static weir_status fetch(char answer[ANSWER])
{
    weir_error        err;
    weir_budget_token token;

    if (weir_budget_take(1, WEIR_SCOPE, &token, &err)) /* waits while everything is in use */
        return weir_fail(&err);
    weir_status status = WEIR_FAILED;
    int         fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        status = talk(fd, answer);
        weir_close(fd);
    }
    weir_budget_give(&token); /* closed first, given back then */
    return status;
}

/* ---- writing ---------------------------------------------------------------------------- */

static mongoc_collection_t *things(weir_lease *lease)
{
    return mongoc_client_get_collection(weir_mongo(lease), "weir_test", "weir_fetched");
}

static weir_status write_down(weir_pool *pool, size_t index, const char *text)
{
    weir_error   err;
    bson_error_t error;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, WEIR_SCOPE, &lease, &err))
        return weir_fail(&err);
    bson_t              *document = BCON_NEW("_id", BCON_INT64((int64_t)index), "text", text);
    mongoc_collection_t *collection = things(lease);
    bool                 written = mongoc_collection_insert_one(collection, document, NULL, NULL,
                                                                &error);
    mongoc_collection_destroy(collection);
    bson_destroy(document);
    if (written)
        return WEIR_OK;
    weir_mongo_error(lease, &error, &err);
    return weir_fail(&err);
}

static weir_status fetch_and_write(size_t index, void *pool)
{
    char        answer[ANSWER];
    weir_status status;

    WEIR_DEADLINE(weir_in_ms(20000));
    status = fetch(answer);
    return status == WEIR_OK ? write_down(pool, index, answer) : status;
}

/* ---- before and after ------------------------------------------------------------------- */

static weir_status empty(weir_pool *pool)
{
    weir_error err;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, weir_in_ms(5000), &lease, &err))
        return weir_fail(&err);
    mongoc_collection_t *collection = things(lease);
    (void)mongoc_collection_drop(collection, NULL); /* refused where there is none */
    mongoc_collection_destroy(collection);
    return WEIR_OK;
}

static int64_t count(weir_pool *pool)
{
    weir_error   err;
    bson_error_t error;
    bson_t       all = BSON_INITIALIZER;
    weir_autoptr(weir_lease) lease = NULL;

    if (weir_acquire(pool, weir_in_ms(5000), &lease, &err))
        return -1;
    mongoc_collection_t *collection = things(lease);
    int64_t              found = mongoc_collection_count_documents(collection, &all, NULL, NULL,
                                                                   NULL, &error);
    mongoc_collection_destroy(collection);
    bson_destroy(&all);
    return found;
}

static weir_status app(void *arg)
{
    weir_error        err;
    weir_budget_stats budget;
    weir_autoptr(weir_pool) pool = NULL;

    if (weir_mongo_pool_new(arg, &pool, &err))
        return weir_fail(&err);
    weir_status status = empty(pool);
    if (status == WEIR_OK)
        status = weir_map(&(weir_map_opts){ .max_running = AT_ONCE }, TASKS, fetch_and_write, pool,
                          weir_in_ms(50000));
    int64_t written = count(pool);
    weir_budget_read(&budget);
    printf("%lld of %d written; %u of %u descriptors in use at most, %llu waited for one, the "
           "kernel ran out %llu times\n", (long long)written, TASKS, budget.peak, budget.limit,
           (unsigned long long)budget.waited, (unsigned long long)budget.exhausted);
    empty(pool);
    return status == WEIR_OK && written != TASKS ? WEIR_FAILED : status;
}

/* ---- something to fetch from: a process of its own -------------------------------------- */

static weir_status answer(void *arg)
{
    int fd = (int)(intptr_t)arg;

    (void)weir_sleep(weir_in_ms(50)); /* it has to think */
    (void)send(fd, "something", 9, MSG_NOSIGNAL);
    return weir_close(fd) ? WEIR_FAILED : WEIR_OK;
}

static weir_status serve(void *arg)
{
    int listener = (int)(intptr_t)arg;

    while (weir_wait_fd(listener, WEIR_READ, WEIR_FOREVER, NULL) == WEIR_OK) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0)
            weir_spawn(NULL, answer, (void *)(intptr_t)fd);
    }
    return WEIR_OK;
}

static bool start_source(void)
{
    socklen_t size = sizeof source;
    int       listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    source = (struct sockaddr_in){ .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (listener < 0 || bind(listener, (struct sockaddr *)&source, sizeof source) ||
        listen(listener, AT_ONCE) || getsockname(listener, (struct sockaddr *)&source, &size))
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(weir_run(serve, (void *)(intptr_t)listener));
    }
    return !close(listener) && pid > 0;
}

int main(int argc, char **argv)
{
    struct rlimit   few;
    weir_mongo_opts opts = { .uri = argc > 1 ? argv[1] : "mongodb://localhost",
                             .pool.max_size = 20 };

    if (!start_source() || getrlimit(RLIMIT_NOFILE, &few)) {
        perror("nothing to fetch from");
        return 1;
    }
    few.rlim_cur = DESCRIPTORS;
    if (setrlimit(RLIMIT_NOFILE, &few)) {
        perror("setrlimit");
        return 1;
    }
    mongoc_log_set_handler(weir_mongo_log, NULL);
    return weir_run(app, &opts);
}
