/*
 * test_mongo_srv.c - mongodb+srv://: one name from which the hosts follow, and a few options.
 *
 * libmongoc asks for the SRV and TXT records through res_nsearch(3), which waits for the network.
 * It is defined here, in the program, so that the dynamic linker binds the library's call to it: a
 * name server that needs no network, is slow, and knows who asks. (getaddrinfo() of the names it
 * gives is answered by support/detect.c: those in weir.test are 127.0.0.1.)
 */
#define _GNU_SOURCE
#include "mongo_lab.h"

#include <arpa/nameser.h>
#include <detect.h>
#include <netdb.h>
#include <resolv.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <weir/hub.h>

#define PASSWORD "pencil-in-a-zone"

enum { SLOWLY_MS = 120, CLIENTS = 6 };

/* ---- the name server --------------------------------------------------------------- */

static struct {
    const char *target;   /* of the SRV records; NULL: the name does not exist */
    unsigned    port[3], ports;
    const char *text;     /* of the TXT record; NULL: there is none */
    bool        hangs;
    atomic_uint asked, asked_on_hub;
} zone;

static unsigned char *put16(unsigned char *at, unsigned value)
{
    NS_PUT16(value, at);
    return at;
}

/* Name (the root: nobody looks), type, class, a minute to live, and how many bytes follow. */
static unsigned char *begin_record(unsigned char *at, unsigned type, unsigned size)
{
    *at++ = 0;
    at = put16(put16(at, type), ns_c_in);
    at = put16(put16(at, 0), 60);
    return put16(at, size);
}

static unsigned char *put_name(unsigned char *at, const char *name)
{
    for (; *name; name += strspn(name, ".")) {
        size_t length = strcspn(name, ".");
        *at++ = (unsigned char)length;
        memcpy(at, name, length);
        at += length;
        name += length;
    }
    *at++ = 0;
    return at;
}

static unsigned char *put_servers(unsigned char *at)
{
    for (unsigned i = 0; i < zone.ports; i++) {
        at = begin_record(at, ns_t_srv, 6 + (unsigned)strlen(zone.target) + 2);
        at = put16(put16(at, 0), 0); /* priority and weight */
        at = put_name(put16(at, zone.port[i]), zone.target);
    }
    return at;
}

static unsigned char *put_text(unsigned char *at)
{
    size_t length = strlen(zone.text);

    at = begin_record(at, ns_t_txt, (unsigned)length + 1);
    *at++ = (unsigned char)length;
    memcpy(at, zone.text, length);
    return at + length;
}

int res_nsearch(res_state state, const char *name, int class, int type, unsigned char *answer,
                int size)
{
    unsigned char  packet[1000] = { 0, 0, 0x81, 0x80 };
    unsigned char *end = packet + NS_HFIXEDSZ;
    bool           knows = type == ns_t_srv ? zone.target : zone.text;

    (void)state;
    (void)class;
    atomic_fetch_add(&zone.asked, 1);
    if (weir_self())
        atomic_fetch_add(&zone.asked_on_hub, 1);
    else
        usleep((zone.hangs ? 10 : 1) * SLOWLY_MS * 1000);
    if (!knows || strstr(name, "cluster.weir.test") == NULL) {
        h_errno = HOST_NOT_FOUND;
        return -1;
    }
    put16(packet + 6, type == ns_t_srv ? zone.ports : 1); /* answers */
    end = type == ns_t_srv ? put_servers(end) : put_text(end);
    if (sizeof packet > (size_t)size)
        return -1;
    memcpy(answer, packet, sizeof packet); /* libmongoc looks a byte beyond a text */
    return (int)(end - packet);
}

/* ---- scenes ------------------------------------------------------------------------ */

/* The URI has the name alone; the zone, by its first server, where the scripted one is. */
static void run(struct mongo_scene *me, const char *target, const char *text, const char *options)
{
    memset(&zone, 0, sizeof zone);
    zone.target = target;
    zone.text = text;
    mongo_scene_start(me);
    zone.ports = me->server.members ? me->server.members : 1;
    for (unsigned i = 0; i < zone.ports; i++)
        zone.port[i] = mongo_mock_port(me->mock, (int)i);
    snprintf(me->uri, sizeof me->uri, "mongodb+srv://%scluster.weir.test/?connectTimeoutMS=%d%s",
             me->server.user ? "weir:" PASSWORD "@" : "", (int)(2000 * detect_slowness()), options);
    lab_secret(PASSWORD);
    mongo_scene_play(me);
    lab_secret("");
    assert_int_equal(zone.asked_on_hub, 0);
}

static weir_status use_many(struct mongo_scene *me)
{
    weir_lease  *leases[CLIENTS] = { NULL };
    bson_error_t error = { 0 };
    weir_error   err;

    for (int i = 0; i < CLIENTS; i++)
        lab_need_ok(weir_acquire(me->pool, lab_patience(5000), &leases[i], &err), &err);
    for (int i = 0; i < CLIENTS; i++) {
        need_mongo(mongo_find(weir_mongo(leases[i]), "db", 0, &error) == 3, error);
        lab_equal(weir_release(leases[i]), WEIR_OK);
    }
    lab_equal(mongo_mock_counts(me->mock, 0).logins, me->server.user ? CLIENTS : 0);
    return WEIR_OK;
}

/* ---- tests ------------------------------------------------------------------------- */

/* Several connections are opened at once and may each ask, but no more of them than that. */
static void the_records_are_looked_up_off_the_hub_and_kept(void **state)
{
    struct mongo_scene me = { .body = use_many, .opts.pool.max_size = CLIENTS,
                              .opts.pool.max_connecting = 2 };

    (void)state;
    run(&me, "db.weir.test", NULL, "&tls=false");
    assert_in_range(zone.asked, 2, 4);
}

static weir_status one_client(struct mongo_scene *me)
{
    bson_error_t      error = { 0 };
    weir_budget_stats budget;

    if (mongo_lease(me) != WEIR_OK)
        return WEIR_FAILED;
    need_mongo(mongo_insert(weir_mongo(me->lease), "db", 1, &error), error);
    weir_budget_read(&budget);
    lab_equal(budget.used, 3);
    double until = lab_now_ms() + 2000; /* the seed has another name than the member it is */
    while (mongo_mock_counts(me->mock, MOCK_EVERY).open > 3 && lab_now_ms() < until)
        (void)weir_sleep(weir_in_ms(2));
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).open, 3);
    return WEIR_OK;
}

/* Each host is a member, and each is paid for. */
static void a_set_by_its_records_is_a_set(void **state)
{
    struct mongo_scene me = { .server.members = 3, .body = one_client };

    (void)state;
    run(&me, "db.weir.test", "replicaSet=weir", "&tls=false");
}

/* Other machines are encrypted unless the URI says otherwise, and the name that is verified is the
   one in the record. */
static void by_a_record_tls_is_on(void **state)
{
    const struct mongo_certs *certs = mongo_certs(0);
    struct mongo_scene        me = { .server = { .tls_cert = certs->cert, .tls_key = certs->key },
                                     .opts = { .tls_ca = certs->ca, .pool.max_size = CLIENTS },
                                     .body = use_many };

    (void)state;
    run(&me, "db.weir.test", NULL, "");
}

static void the_text_record_says_which_database_knows_the_user(void **state)
{
    struct mongo_scene me = { .server = { .user = "weir", .password = PASSWORD, .strict = true,
                                          .source = "people" },
                              .opts.pool.max_size = CLIENTS,
                              .body = use_many };

    (void)state;
    run(&me, "db.weir.test", "authSource=people", "&tls=false");
}

struct refusal {
    const char *words;
    weir_status status;
    int64_t     patience_ms;
};

static weir_status is_refused(struct mongo_scene *me)
{
    const struct refusal *r = me->arg;
    weir_lease           *lease = NULL;
    weir_error            err = { 0 };

    double start = lab_now_ms();
    lab_equal(weir_acquire(me->pool, weir_in_ms(r->patience_ms), &lease, &err), r->status);
    lab_took(lab_now_ms() - start, 0, (double)r->patience_ms + 200);
    lab_tell("%s", err.message);
    lab_says(err.message, r->words);
    lab_equal(mongo_mock_counts(me->mock, MOCK_EVERY).accepted, 0);
    return WEIR_OK;
}

static void refused(const char *target, const char *words)
{
    struct mongo_scene me = { .body = is_refused,
                              .arg = &(struct refusal){ words, WEIR_CONNECT, 10000 } };

    run(&me, target, NULL, "&tls=false");
}

static void a_name_without_records_is_told_by_its_name(void **state)
{
    (void)state;
    refused(NULL, "cluster.weir.test");
}

/* Else whoever answers for the name could send the password where he likes. */
static void a_host_of_another_domain_is_refused(void **state)
{
    (void)state;
    refused("db.elsewhere.test", "elsewhere.test");
}

static weir_status waits_in_vain(struct mongo_scene *me)
{
    zone.hangs = true;
    return is_refused(me);
}

static void a_lookup_that_hangs_is_left_in_time(void **state)
{
    struct mongo_scene me = { .body = waits_in_vain,
                              .arg = &(struct refusal){ "", WEIR_TIMEOUT, 300 } };

    (void)state;
    run(&me, "db.weir.test", NULL, "&tls=false");
}

/* ---- main -------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        LAB_TCP(the_records_are_looked_up_off_the_hub_and_kept),
        LAB_TCP(a_set_by_its_records_is_a_set),
        LAB_TCP(by_a_record_tls_is_on),
        LAB_TCP(the_text_record_says_which_database_knows_the_user),
        LAB_TCP(a_name_without_records_is_told_by_its_name),
        LAB_TCP(a_host_of_another_domain_is_refused),
        LAB_TCP(a_lookup_that_hangs_is_left_in_time),
    };
    return mongo_main(argc, argv, tests);
}
