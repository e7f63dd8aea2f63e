/*
 * lab.h - one integration test: a hub, the detectors, and what must be as it was before.
 *
 * Knows:   the ways to the private server; running a body in a hub under both detectors;
 *          findings that coroutines record and the test then asserts; what is left behind.
 * Ignores: what is tested.
 *
 * A coroutine must not assert (cmocka would jump off its stack). It records with lab_check()
 * or gives up with lab_need(); lab_run() fails the test once the hub is gone.
 */
#ifndef LAB_H
#define LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <private_server.h>
#include <weir/mysql.h>

/* A way to the server; each test that takes one is run over several. */
struct lab_way {
    const char *name;
    bool        is_unix;
    bool        tls;
};

extern const struct lab_way lab_unix, lab_tcp, lab_tls;

/* Options of a pool that uses it; TLS verifies the certificate's name. */
weir_mysql_opts lab_opts(const struct lab_way *way);

/* Rows for a table of tests. The way arrives in *state. */
#define LAB_UNIX(test) { #test " (unix)", test, lab_setup, NULL, (void *)&lab_unix }
#define LAB_TCP(test) { #test " (tcp)", test, lab_setup, NULL, (void *)&lab_tcp }
#define LAB_TLS(test) { #test " (tls)", test, lab_setup, NULL, (void *)&lab_tls }
#define LAB_PLAIN_AND_TLS(test) LAB_TCP(test), LAB_TLS(test)
#define LAB_EVERY_WAY(test) LAB_UNIX(test), LAB_TCP(test), LAB_TLS(test)

int lab_setup(void **state);

/*
 * main() of every test program: runs those whose name contains argv[1], or all; skips (77) with
 * a reason where there is no private MySQL server.
 *
 * lab_main_for() is for tests of something else. It calls `prepare` first, which makes sure that
 * what they need is there; anything but 0 becomes the program's status.
 */
enum { LAB_SKIPPED = 77 };
#define lab_main(argc, argv, tests) lab_main_for((argc), (argv), (tests), lab_need_mysql)
#define lab_main_for(argc, argv, tests, prepare) \
    lab_main_((argc), (argv), (tests), sizeof(tests) / sizeof *(tests), (prepare))
int lab_need_mysql(void);
int lab_main_(int argc, char **argv, const struct CMUnitTest *tests, size_t count,
              int (*prepare)(void));

/*
 * Run `body` as the main coroutine of a hub, under both detectors, and fail the test if
 * anything was recorded, the body did not return WEIR_OK, a descriptor is open that was not
 * or the other way round, or a pool has kept something.
 */
void lab_run(weir_fn body, void *arg);

/* In the next run the hub may stand still: a library is asked to compute on it. (It must not
   block all the same.) */
void lab_accept_stillness(void);

/* ---- in coroutines ------------------------------------------------------------------ */

void lab_record(const char *site, const char *fmt, ...) WEIR_PRINTF(2, 3);

#define lab_check(ok) \
    do { \
        if (!(ok)) \
            lab_record(WEIR_HERE, "not so: %s", #ok); \
    } while (0)

/* The same for numbers, told when they differ. */
#define lab_equal(a, b) lab_equal_((long long)(a), (long long)(b), #a, #b, WEIR_HERE)
void lab_equal_(long long a, long long b, const char *a_text, const char *b_text,
                const char *site);
#define lab_between(value, low, high) \
    lab_between_((double)(value), (double)(low), (double)(high), #value, WEIR_HERE)
void lab_between_(double value, double low, double high, const char *text, const char *site);

/* For times: where the build or a tool makes everything slower, the span is that much wider. */
#define lab_took(ms, low, high) \
    do { \
        double lab_ms_ = (ms); \
        if (!lab_in_time(lab_ms_, (low), (high))) \
            lab_between_(lab_ms_, (low), (high), #ms, WEIR_HERE); \
    } while (0)
bool lab_in_time(double ms, double low, double high);

/* `text` must have `part` in it. */
#define lab_says(text, part) lab_says_((text), (part), WEIR_HERE)
void lab_says_(const char *text, const char *part, const char *site);

/* Recorded, and the end of the body: what follows would make no sense. */
#define lab_need(ok) \
    do { \
        if (!(ok)) { \
            lab_record(WEIR_HERE, "not so: %s", #ok); \
            return WEIR_FAILED; \
        } \
    } while (0)

/* As lab_need(), for calls that fill an error: its words are recorded too. */
#define lab_need_ok(call, err) \
    do { \
        weir_status lab_st_ = (call); \
        if (lab_st_ != WEIR_OK) { \
            lab_record(WEIR_HERE, "%s: %s: %s", #call, weir_status_name(lab_st_), \
                       (err)->message); \
            return WEIR_FAILED; \
        } \
    } while (0)

/* A figure for people to read: printed, nothing more. */
void lab_tell(const char *fmt, ...) WEIR_PRINTF(1, 2);

/* So many milliseconds, or more where the build or a tool makes everything slower. */
weir_deadline lab_patience(int64_t ms);

double lab_now_ms(void); /* the real clock, not the turn's */

/* Messages weir has logged since the test began that contain `part`. */
unsigned lab_logged(const char *part);

/* From now on this must appear in no message and no error that a test has looked at. */
void lab_secret(const char *secret);

/* ---- pools -------------------------------------------------------------------------- */

weir_status lab_pool_new(const weir_mysql_opts *opts, weir_pool **out);

/* Close the pool, which must have nothing on lease and close in time, check that its numbers
   add up, free it, and set *pool to NULL. */
void lab_pool_end(weir_pool **pool);

weir_pool_stats lab_stats(const weir_pool *pool);

/* Wait, for at most `ms`, until the pool has `idle` connections idle and none in between. */
bool lab_settle(weir_pool *pool, unsigned idle, int64_t ms);

/* The connections of this pool, opened at once. */
weir_status lab_warm(weir_pool *pool, unsigned connections);

/* ---- SQL, in a coroutine or not ------------------------------------------------------ */

/* Run it and discard all it answers: 0, or mysql_errno(). */
int sql_do(MYSQL *my, const char *fmt, ...) WEIR_PRINTF(2, 3);

/* The first value of the answer; -1 where there is none. */
long sql_number(MYSQL *my, const char *fmt, ...) WEIR_PRINTF(2, 3);

/* The same as text; "" for NULL or on failure. */
const char *sql_text(MYSQL *my, char *buf, size_t size, const char *sql);

/* Lease one connection, run one statement, give it back. */
int pool_do(weir_pool *pool, const char *sql);

#endif
