/*
 * test_mysql_idle.c - idle connections: the server's wait_timeout is known and respected, pings
 * keep them, and what a server says when it ends one is heard.
 *
 * No MariaDB says anything then, so that part has a server of its own: a process that knows just
 * enough of the protocol for a pool to connect, in plain text and over TLS.
 */
#define _GNU_SOURCE
#include <lab.h>

#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the server's patience ----------------------------------------------------------- */

static void be_impatient(void)
{
    assert_int_equal(admin_do("SET GLOBAL wait_timeout = 1"), 0);
}

static int be_patient(void **state)
{
    (void)state;
    return admin_do("SET GLOBAL wait_timeout = 28800");
}

/* They are closed by us, politely, a moment before the server would. */
static weir_status rest_for_long(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 3))
        return WEIR_FAILED;
    lab_check(lab_settle(pool, 0, 2500));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_IDLE], 3);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 0);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_equal(lab_stats(pool).opened, 4);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void idle_connections_end_before_their_server_ends_them(void **state)
{
    be_impatient();
    lab_run(rest_for_long, *state);
}

/* Whatever is asked of a lease's end, the server's patience is known. */
static weir_status rest_with_every_reset(void *arg)
{
    static const weir_reset resets[] = { WEIR_RESET_DIRTY, WEIR_RESET_FULL, WEIR_RESET_NONE };

    for (unsigned i = 0; i < 3; i++) {
        weir_mysql_opts opts = lab_opts(arg);
        weir_autoptr(weir_pool) pool = NULL;
        opts.pool.reset = resets[i];
        if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
            return WEIR_FAILED;
        lab_check(lab_settle(pool, 0, 2500));
        lab_equal(lab_stats(pool).closed[WEIR_CLOSE_IDLE], 1);
        lab_pool_end(&pool);
    }
    return WEIR_OK;
}

static void it_is_known_whatever_the_reset(void **state)
{
    be_impatient();
    lab_run(rest_with_every_reset, *state);
}

/* Each statement begins the server's time anew, and ours: without a round trip for it. */
static weir_status use_now_and_then(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    for (int i = 0; i < 5; i++) {
        lab_equal(pool_do(pool, "SELECT 1"), 0);
        (void)weir_sleep(weir_in_ms(500));
    }
    lab_equal(lab_stats(pool).opened, 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void use_begins_it_anew(void **state)
{
    be_impatient();
    lab_run(use_now_and_then, *state);
}

/* The holder said nothing for so long that the next one would hardly have time to. */
static weir_status hold_in_silence(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_lease     *lease = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    (void)weir_sleep(weir_in_ms(800)); /* of 1000, and a quarter of them are kept in hand */
    lab_equal(weir_release(lease), WEIR_OK);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_equal(lab_stats(pool).opened, 2);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_IDLE], 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void one_held_in_silence_is_not_lent_in_its_last_moment(void **state)
{
    be_impatient();
    lab_run(hold_in_silence, *state);
}

/* A reset gives the session the server's timeout of now, and so it gives us. */
static weir_status reset_into_impatience(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.max_size = 1;
    lab_equal(admin_do("SET GLOBAL wait_timeout = 28800"), 0);
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    lab_equal(admin_do("SET GLOBAL wait_timeout = 1"), 0);
    (void)weir_sleep(weir_in_ms(1200));
    lab_equal(lab_stats(pool).idle, 1);
    lab_equal(pool_do(pool, "SET @dirt = 1"), 0);
    lab_check(lab_settle(pool, 0, 2500));
    lab_equal(lab_stats(pool).resets, 1);
    lab_equal(lab_stats(pool).opened, 1);
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_IDLE], 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_reset_tells_it_anew(void **state)
{
    be_impatient();
    lab_run(reset_into_impatience, *state);
}

/* ---- signs of life ------------------------------------------------------------------- */

static weir_status keep_alive(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.keepalive_ms = 60 * 1000; /* the server's patience makes it more often */
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 3))
        return WEIR_FAILED;
    (void)weir_sleep(weir_in_ms(3000));
    lab_check(lab_settle(pool, 3, 1000));
    lab_tell("%llu pings", (unsigned long long)lab_stats(pool).pings);
    lab_check(lab_stats(pool).pings >= 6 && lab_stats(pool).pings <= 15);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_equal(lab_stats(pool).opened, 3);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void pings_keep_them_where_the_server_would_end_them(void **state)
{
    be_impatient();
    lab_run(keep_alive, *state);
}

/* What was there before is there after it: prepared statements are freed, but not by a ping. */
static weir_status ping_often(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.keepalive_ms = 20;
    opts.pool.max_size = 2;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 2))
        return WEIR_FAILED;
    for (int i = 0; i < 40; i++) {
        lab_equal(pool_do(pool, i % 3 ? "SELECT 1" : "SET @dirt = 1"), 0);
        (void)weir_sleep(weir_in_ms(7 * (i % 9)));
    }
    lab_tell("%llu pings, %llu resets", (unsigned long long)lab_stats(pool).pings,
             (unsigned long long)lab_stats(pool).resets);
    lab_check(lab_stats(pool).pings >= 20);
    lab_equal(lab_stats(pool).resets, 14); /* those of the dirt: a ping leaves none */
    lab_equal(lab_stats(pool).opened, 2);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void pings_and_users_do_not_meet(void **state)
{
    lab_run(ping_often, *state);
}

/* A server that is stopped answers no ping; nobody but the pool notices. */
static weir_status ping_the_dead(void *arg)
{
    weir_mysql_opts opts = lab_opts(arg);
    weir_autoptr(weir_pool) pool = NULL;

    opts.pool.keepalive_ms = 200;
    opts.pool.reset_timeout_ms = 300;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 2))
        return WEIR_FAILED;
    private_server_stop();
    lab_check(lab_settle(pool, 0, 2000));
    private_server_go_on();
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_PING_FAILED], 2);
    lab_equal(pool_do(pool, "SELECT 1"), 0);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void a_server_that_gives_no_sign_of_life_is_noticed(void **state)
{
    lab_run(ping_the_dead, *state);
    private_server_go_on();
}

/* ---- a server with last words -------------------------------------------------------- */

struct talker {
    pid_t       pid;
    unsigned    port;
    bool        tls;
    const char *words;    /* an error packet's, without its head */
    size_t      size;
    atomic_bool speak;    /* say them, and close */
    atomic_uint asked;    /* questions so far */
};

/* In the child: one connection. */
struct line {
    int  fd;
    SSL *ssl;
};

static bool pull(struct line *line, void *to, size_t size)
{
    for (char *at = to; size;) {
        ssize_t n = line->ssl ? SSL_read(line->ssl, at, (int)size) : read(line->fd, at, size);
        if (n <= 0)
            return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static void push(struct line *line, unsigned char number, const void *data, size_t size)
{
    unsigned char packet[1024] = { (unsigned char)size, (unsigned char)(size >> 8), 0, number };

    memcpy(packet + 4, data, size);
    if (line->ssl)
        (void)SSL_write(line->ssl, packet, (int)size + 4);
    else
        (void)!write(line->fd, packet, size + 4);
}

/* Returns its number, or -1; its first byte goes to *first. */
static int packet(struct line *line, unsigned char *first)
{
    static unsigned char body[4096];
    unsigned char        head[4];

    if (!pull(line, head, 4))
        return -1;
    size_t size = head[0] | (size_t)head[1] << 8;
    if (head[2] || size > sizeof body || !pull(line, body, size))
        return -1;
    *first = size ? body[0] : 0;
    return head[3];
}

static void greet(struct line *line, bool tls)
{
    /* Protocol 10; what it can: 4.1, transactions, logins of 20 bytes by plugin, databases. */
    unsigned      can = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000 | (tls ? 0x800 : 0);
    unsigned char hello[128] = "\x0a" "8.0.36";
    size_t        at = 8;

    memcpy(hello + at, "\1\0\0\0" "saltsalt", 13);
    at += 13;
    hello[at++] = (unsigned char)can;
    hello[at++] = (unsigned char)(can >> 8);
    hello[at++] = 45;
    hello[at++] = 2;
    hello[at++] = 0;
    hello[at++] = (unsigned char)(can >> 16);
    hello[at++] = 0;
    hello[at++] = 21;
    at += 10;
    memcpy(hello + at, "saltsaltsalt\0mysql_native_password", 35);
    push(line, 0, hello, at + 35);
}

static bool let_in(struct talker *me, struct line *line, SSL_CTX *ctx)
{
    static const char ok[] = { 0, 0, 0, 2, 0, 0, 0 };
    unsigned char     first;

    greet(line, me->tls);
    int number = packet(line, &first);
    if (number >= 0 && me->tls) {
        line->ssl = SSL_new(ctx);
        SSL_set_fd(line->ssl, line->fd);
        if (SSL_accept(line->ssl) != 1)
            return false;
        number = packet(line, &first);
    }
    if (number < 0)
        return false;
    push(line, (unsigned char)(number + 1), ok, sizeof ok);
    return true;
}

/* It knows no variable: every question is an error, and nobody minds. */
static void serve(struct talker *me, struct line *line)
{
    static const char unknown[] = "\xff\xa9\x04#HY000Unknown system variable";
    unsigned char     first;

    for (;;) {
        struct pollfd poll_me = { .fd = line->fd, .events = POLLIN };
        if (atomic_load(&me->speak)) {
            push(line, 0, me->words, me->size);
            return;
        }
        if (poll(&poll_me, 1, 2) == 0 && !(line->ssl && SSL_has_pending(line->ssl)))
            continue;
        int number = packet(line, &first);
        if (number < 0 || first == 1)
            return;
        atomic_fetch_add(&me->asked, 1);
        push(line, (unsigned char)(number + 1), unknown, sizeof unknown - 1);
    }
}

static void talk(struct talker *me, int listener)
{
    char     path[300];
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    const char *dir = getenv("WEIR_MYSQL_DIR");

    snprintf(path, sizeof path, "%s/server.pem", dir);
    SSL_CTX_use_certificate_chain_file(ctx, path);
    snprintf(path, sizeof path, "%s/server.key", dir);
    SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM);
    for (;;) {
        struct line line = { .fd = accept(listener, NULL, NULL) };
        if (line.fd < 0)
            _exit(1);
        if (let_in(me, &line, ctx))
            serve(me, &line);
        SSL_free(line.ssl);
        close(line.fd);
    }
}

static struct talker *talker_start(bool tls, const char *words, size_t size)
{
    struct talker *me = mmap(NULL, sizeof *me, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int       listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(me != MAP_FAILED && listener >= 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    me->port = ntohs(address.sin_port);
    me->tls = tls;
    me->words = words;
    me->size = size;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        talk(me, listener);
    }
    assert_true(pid > 0);
    me->pid = pid;
    close(listener);
    return me;
}

static void talker_stop(struct talker *me)
{
    kill(me->pid, SIGKILL);
    waitpid(me->pid, NULL, 0);
    munmap(me, sizeof *me);
}

struct heard {
    unsigned          closed;
    weir_close_reason reason;
    char              words[256];
};

static void hear(const weir_pool_event *event, void *arg)
{
    struct heard *heard = arg;

    if (event->type != WEIR_EVENT_CONN_CLOSED)
        return;
    heard->closed++;
    heard->reason = event->reason;
    snprintf(heard->words, sizeof heard->words, "%s", event->message ? event->message : "(none)");
}

struct parting {
    struct talker *talker;
    struct heard   heard;
};

static weir_status be_told(void *arg)
{
    struct parting              *parting = arg;
    const struct private_server *s = private_server();
    struct talker               *talker = parting->talker;
    weir_mysql_opts opts = { .host = "127.0.0.1", .port = talker->port, .user = "anybody" };
    weir_autoptr(weir_pool) pool = NULL;

    if (talker->tls) {
        opts.tls_ca = s->ca;
        opts.tls_name = s->tls_name;
    }
    opts.pool.max_size = 1;
    opts.pool.on_event = hear;
    opts.pool.on_event_arg = &parting->heard;
    if (lab_pool_new(&opts, &pool) || lab_warm(pool, 1))
        return WEIR_FAILED;
    lab_equal(atomic_load(&talker->asked), 2); /* and it knew nothing of either */
    lab_equal(lab_stats(pool).idle, 1);
    atomic_store(&talker->speak, true);
    lab_check(lab_settle(pool, 0, 3000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 1);
    lab_tell("%s", parting->heard.words);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void part(bool tls, const char *words, size_t size, const char *heard)
{
    struct parting parting = { .talker = talker_start(tls, words, size) };

    lab_run(be_told, &parting);
    talker_stop(parting.talker);
    assert_int_equal(parting.heard.reason, WEIR_CLOSE_LOST);
    assert_string_equal(parting.heard.words, heard);
}

#define PART(tls, words, heard) part((tls), (words), sizeof(words) - 1, (heard))

static const char inactivity[] =
    "\xff\xbf\x0f#HY000The client was disconnected by the server because of inactivity. See "
    "wait_timeout and interactive_timeout for configuring this behavior.";

static void the_last_words_of_a_server_are_heard(void **state)
{
    part(((const struct lab_way *)*state)->tls, inactivity, sizeof inactivity - 1,
         inactivity + 9);
    assert_int_equal(lab_logged("was ended by its server: The client was disconnected"), 1);
}

/* It has not been read when the next statement is sent: that one was never seen by the server. */
static weir_status be_told_in_use(void *arg)
{
    struct talker  *talker = arg;
    weir_mysql_opts opts = { .host = "127.0.0.1", .port = talker->port, .user = "anybody" };
    weir_lease     *lease = NULL;
    weir_error      err;
    weir_autoptr(weir_pool) pool = NULL;

    if (lab_pool_new(&opts, &pool))
        return WEIR_FAILED;
    lab_need_ok(weir_acquire(pool, weir_in_ms(5000), &lease, &err), &err);
    atomic_store(&talker->speak, true);
    (void)weir_sleep(weir_in_ms(50));
    lab_check(sql_do(weir_mysql(lease), "SELECT 1") != 0);
    lab_equal(weir_lease_error(lease, &err), WEIR_LOST);
    lab_equal(err.native, 4031);
    lab_says(err.message, "because of inactivity");
    lab_equal(err.outcome, WEIR_OUTCOME_NOT_SENT);
    lab_equal(weir_release(lease), WEIR_OK);
    lab_check(lab_settle(pool, 0, 1000));
    lab_equal(lab_stats(pool).closed[WEIR_CLOSE_LOST], 1);
    lab_pool_end(&pool);
    return WEIR_OK;
}

static void last_words_in_place_of_an_answer_are_no_answer(void **state)
{
    struct talker *talker = talker_start(false, inactivity, sizeof inactivity - 1);

    (void)state;
    lab_run(be_told_in_use, talker);
    talker_stop(talker);
}

static void what_makes_no_sense_is_no_last_word(void **state)
{
    bool tls = ((const struct lab_way *)*state)->tls;

    PART(tls, "\xff\xbf", "(none)");                     /* cut off in its number */
    PART(tls, "\0\0\0\2\0\0\0", "(none)");               /* an OK that nobody asked for */
    PART(tls, "\xff\x28\x04" "Server goes away", "Server goes away"); /* before 4.1 */
    PART(tls, "\xff\x28\x04#HY000", "");
    PART(tls, "\xff\x28\x04#HY000" "two\nlines\x1b[0m", "two?lines?[0m");
}

int main(int argc, char **argv)
{
#define IMPATIENT(test, way) \
    { #test " (" #way ")", test, lab_setup, be_patient, (void *)&lab_##way }
    const struct CMUnitTest tests[] = {
        IMPATIENT(idle_connections_end_before_their_server_ends_them, unix),
        IMPATIENT(idle_connections_end_before_their_server_ends_them, tls),
        IMPATIENT(it_is_known_whatever_the_reset, unix),
        IMPATIENT(use_begins_it_anew, unix),
        IMPATIENT(use_begins_it_anew, tls),
        IMPATIENT(one_held_in_silence_is_not_lent_in_its_last_moment, unix),
        IMPATIENT(a_reset_tells_it_anew, unix),
        IMPATIENT(pings_keep_them_where_the_server_would_end_them, unix),
        IMPATIENT(pings_keep_them_where_the_server_would_end_them, tls),
        LAB_EVERY_WAY(pings_and_users_do_not_meet),
        LAB_PLAIN_AND_TLS(a_server_that_gives_no_sign_of_life_is_noticed),
        LAB_PLAIN_AND_TLS(the_last_words_of_a_server_are_heard),
        LAB_TCP(last_words_in_place_of_an_answer_are_no_answer),
        LAB_PLAIN_AND_TLS(what_makes_no_sense_is_no_last_word),
    };

    return lab_main(argc, argv, tests);
}
