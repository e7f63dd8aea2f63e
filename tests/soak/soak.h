/*
 * soak.h - what the rooms of weir-soak share.
 *
 * weir-soak lives many short coroutine lives over a weir pool for each database, lets a part of
 * them misbehave and the servers fail, and then counts: descriptors, connections, rows, memory.
 *
 *     options.c   the command line             watch.c        what is measured on the way
 *     target.c    where a server is            accident.c     what is done to a server
 *     relay.c     a network that can fail      verify.c       the verdict
 *     life.c      one life, and its patience   progress.c     the line on the screen
 *     crowd.c     how many of them at a time
 *     deed.c      what all good work shares    report_*.c     the files that stay
 *     misdeed.c   ways to misbehave            naive.c        the same without weir's care
 *     ledger.c    which rows must be there     fetch.c        a task that needs two descriptors
 *     mysql_*.c   what is said to MySQL        mongo_*.c      what is said to MongoDB
 *     main.c      the order of it all
 *
 * What differs from database to database is a table of functions, struct dialect. A process is
 * one soak, on one thread, so its state is one object, `soak`, with a struct database for each.
 */
#ifndef SOAK_H
#define SOAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <weir/hub.h>
#include <weir/pool.h>

struct database;
struct life;

/* ---- kinds of lives ----------------------------------------------------------------- */

enum kind {
    WELL_BEHAVED,
    FORGET,           /* ends without giving its lease back */
    CANCEL_WAIT,      /* cancelled while it waits for a connection */
    CANCEL_CONNECT,   /* the same, while the pool is opening one */
    CANCEL_QUERY,     /* cancelled while the server works for it */
    TIMEOUT_WAIT,     /* its deadline passes while it waits for a connection */
    TIMEOUT_QUERY,    /* its deadline passes while the server works for it */
    OPEN_TRANSACTION, /* gives its lease back in the middle of a transaction */
    HALF_READ,        /* gives its lease back in the middle of an answer */
    NESTED,           /* wants a second connection while it holds one, with a deadline */
    NESTED_LOCAL,     /* asks for its coroutine's lease again while it has it */
    OUTLIVE,          /* goes on with an answer after it gave its lease back */
    MISUSE,           /* destroys its client, or lets another coroutine speak on it */
    KINDS
};

enum { PLAN_BLOCK = 1000 }; /* every so many lives hold exactly the share of each kind */

/* ---- options ------------------------------------------------------------------------ */

enum progress_style { PROGRESS_AUTO, PROGRESS_REDRAW, PROGRESS_PLAIN, PROGRESS_NONE };

enum { DATABASES_MAX = 2 };

struct options {
    bool        wanted[DATABASES_MAX]; /* by their place in `dialects` */
    char       *uri[DATABASES_MAX];    /* NULL: the private server of the environment */
    const char *password_file;
    bool        tls;
    unsigned    cap; /* of each pool */
    int64_t     idle_timeout_ms;
    uint64_t    coroutines;
    unsigned    duration_s; /* 0: until all lives are lived */
    unsigned    concurrency;
    unsigned    nofile;
    uint64_t    seed;
    unsigned    misbehave;    /* of a block of PLAN_BLOCK, by all kinds that a database knows */
    unsigned    share[KINDS]; /* or so many of each kind, where they were named */
    bool        accidents;
    bool        squeeze;
    bool        naive;
    bool        unbounded;
    bool        fetch;
    bool        insist;
    bool        verbose;
    enum progress_style progress;
    const char *json;
    const char *html;
};

/* Exits by itself for --help and for what makes no sense (status 2). */
void options_read(struct options *out, int argc, char **argv);

/* ---- where a server is -------------------------------------------------------------- */

enum { TARGET_TEXT = 256, FIRST_ROWS = 1000 };

enum target_tls { TLS_UNSAID, TLS_OFF, TLS_ENCRYPT, TLS_VERIFY };

struct target {
    bool     is_private; /* ours to kill */
    char     host[TARGET_TEXT];
    char     socket[TARGET_TEXT];
    unsigned port;
    char     user[TARGET_TEXT];
    char     password[TARGET_TEXT];
    char     database[TARGET_TEXT];
    char     settings[TARGET_TEXT]; /* mongo: of the URI, behind the '?' */
    enum target_tls tls;
    char     tls_ca[TARGET_TEXT];
    char     tls_cert[TARGET_TEXT];
    char     tls_key[TARGET_TEXT];
    char     tls_name[TARGET_TEXT];
    char     admin_socket[TARGET_TEXT]; /* private: mysql: by which it is asked plainly */
    unsigned admin_port;                /* private: mongo: the same */
    char     pid_file[TARGET_TEXT];     /* private: */
    char     directory[TARGET_TEXT];
    char     script[TARGET_TEXT];
    char     table[40];
    char     version[64];
};

/* What follows exits with status 2 and the reason if it cannot. */
void target_die(const char *fmt, ...) WEIR_PRINTF(1, 2) __attribute__((noreturn));
void target_put(char *out, const char *what, const char *text, size_t length);
bool target_unescape(char *text); /* percent-escapes, in place; false for what is none */
unsigned target_port(const char *option, const char *text); /* ends the program where it is none */
void target_from_environment(char *out, const char *name);
unsigned target_port_from_environment(const char *name);
void target_password(struct target *t); /* from the file or the environment, if it has none */
void target_name_table(struct target *t);
bool target_is_loopback(const char *host);

/* In the words of a user; without the password. */
void target_words(const struct database *db, char *buf, size_t size);

/* The text that belongs to a row, so that an answer to somebody else's question shows. */
void row_note(char *buf, size_t size, uint64_t id);
enum { NOTE_SIZE = 64 };

/* ---- the relay ---------------------------------------------------------------------- */

struct relay;

/* A process in front of the server that forwards TCP; NULL if it cannot be made. */
struct relay *relay_start(const struct target *target, char *why, size_t size);
void          relay_stop(struct relay *relay);
unsigned      relay_port(const struct relay *relay);
void          relay_cut(struct relay *relay);              /* end all connections there are */
void          relay_stall(struct relay *relay, bool on);   /* nothing moves */
void          relay_refuse(struct relay *relay, bool on);  /* nobody gets in */
void          relay_delay(struct relay *relay, unsigned ms); /* of each answer */
unsigned      relay_links(const struct relay *relay);        /* connections through it now */

/* Was this the number of a MySQL connection through it? */
bool relay_knows(const struct relay *relay, uint32_t connection_id);

/* ---- numbers ------------------------------------------------------------------------ */

/* Times in buckets of 6 per cent, from 1 us to half a day. */
enum { SPREAD_BUCKETS = 32 + 31 * 16 };
struct spread {
    uint64_t count;
    uint64_t max_us;
    uint64_t bucket[SPREAD_BUCKETS];
};
void     spread_add(struct spread *spread, int64_t ns);
void     spread_join(struct spread *spread, const struct spread *other);
uint64_t spread_us(const struct spread *spread, double percent);

struct tally {
    uint64_t started;
    uint64_t lives; /* ended */
    uint64_t well_ended;
    uint64_t well_failed;
    uint64_t planned[KINDS];
    uint64_t happened[KINDS];
    uint64_t queries; /* answered */
    uint64_t retries;
    uint64_t failures[WEIR_FAILED + 1]; /* told to callers by weir, expected ones included */
    uint64_t unexpected[WEIR_FAILED + 1]; /* of those, what the caller had no hand in */
    uint64_t emfile_surfaced;
    uint64_t wrong_answers;
    uint64_t nested_served; /* second leases that came before their deadline */
    char     first_emfile[WEIR_ERROR_TEXT];
    char     first_wrong[160];
    char     first_failure[WEIR_ERROR_TEXT + 60]; /* of a well-behaved life that gave up */
    int64_t  last_answer_ns;
    /* without an accident of its own: */
    uint64_t calm_wait_max_us; /* longest wait for a connection, */
    uint32_t calm_wait_behind; /* behind so many others, */
    double   calm_wait_at_s;   /* which ended then */
    uint64_t calm_gap_max_us;  /* longest time in which somebody waited and nobody got one */
    uint32_t calm_held_min;    /* fewest connections it had while somebody waited; 0: never did */
    int64_t  last_lease_ns;    /* given out, or nobody waited */
    int64_t  last_lease_off_ns; /* watch_off_ns() then */
    struct spread wait;  /* from acquire to lease, where it was had */
    struct spread query; /* answered ones */
};

/* ---- the ledger of rows ------------------------------------------------------------- */

struct ledger {
    uint64_t  capacity;
    uint64_t  last_id;
    uint64_t  acknowledged_count;
    uint64_t  denied_count;
    uint64_t *acknowledged; /* a bit for each row */
    uint64_t *denied;
    uint64_t *seen;
};

void     ledger_make(struct ledger *l, uint64_t capacity);
uint64_t ledger_new_id(struct ledger *l); /* 0: the ledger is full */
void     ledger_acknowledged(struct ledger *l, uint64_t id);
void     ledger_denied(struct ledger *l, uint64_t id); /* never done: it must not be there */
bool     ledger_is_acknowledged(const struct ledger *l, uint64_t id);
bool     ledger_is_denied(const struct ledger *l, uint64_t id);
bool     ledger_is_known(const struct ledger *l, uint64_t id); /* it was given out */
bool     ledger_see(struct ledger *l, uint64_t id);            /* false: seen before */

/* ---- a database --------------------------------------------------------------------- */

enum deed { SELECT_ONE, INSERT_ONE, TRANSACTION, PREPARED, STREAM, DEEDS };

/*
 * What is said to one kind of database. Plain calls of its client library, blocking, on a
 * connection past weir and relay (what judges weir does not stand on weir), are for outside of
 * coroutines, or an offload thread. The others are for lives.
 */
struct dialect {
    const char *name;               /* "mysql": in options and in files */
    const char *title;              /* "MySQL": to people */
    const char *server;             /* what script/private-server calls its server */
    bool        by_relay;           /* a private server, too: nothing else makes it refuse */
    unsigned    crowd;              /* lives at a time for a connection at most, beside another
                                       database; 0: all that are left */
    uint8_t     of_twenty[DEEDS];   /* good deeds: how often each */
    bool        knows[KINDS];       /* ways to misbehave that make sense with it */

    /* plainly */
    void (*library)(void);                                         /* set up, once */
    void (*find)(struct database *db);                             /* or exits with status 2 */
    bool (*prepare)(struct database *db, char *why, size_t size);  /* makes its table */
    void (*clean)(struct database *db);                            /* drops it */
    long (*connections)(struct database *db);  /* of this soak, as the server has it; -1 unknown */
    bool (*rows)(struct database *db, char *why, size_t size);     /* verify_row() for each */
    void *(*connect)(struct database *db, char *why, size_t size); /* and ask something */
    void (*hang_up)(void *connection);
    bool (*limit)(struct database *db, char *why, size_t size);    /* refuse all newcomers; NULL: */
    bool (*unlimit)(struct database *db, char *why, size_t size);  /* by the relay */

    /* in coroutines; each says WEIR_OK, or why not in *err, and keeps the books */
    weir_status (*pool)(struct database *db, const weir_pool_opts *opts, weir_error *err);
    weir_status (*deed)(struct life *life, weir_lease *lease, enum deed deed, weir_error *err);
    weir_status (*slow)(struct database *db, weir_lease *lease, weir_status expected,
                        weir_error *err); /* the server takes 0.2 s over it */
    weir_status (*begin)(struct database *db, weir_lease *lease, weir_error *err);
                                          /* a row that nobody will commit */
    weir_status (*misdeed)(struct life *life, weir_error *err); /* the kinds of its own */
    bool (*passes)(int native);           /* a refusal that is over by itself */
};

extern const struct dialect *const dialects[DATABASES_MAX + 1]; /* of this build; NULL ends it */

struct database {
    const struct dialect *dialect;
    unsigned        place;      /* in `dialects` */
    unsigned        share[KINDS];
    unsigned        concurrency; /* lives at a time, at most */
    unsigned        room;        /* for so many of them at present: crowd.c */
    double          leases_per_s;
    uint64_t        numbered;   /* lives planned so far */
    struct target   target;
    struct relay   *relay;
    weir_pool      *pool;       /* while it is open */
    weir_group     *lives;
    unsigned        lives_left; /* when everybody should have ended */
    bool            pool_closed;
    weir_pool_stats now;        /* as last read */
    weir_pool_stats end;        /* after it was closed */
    struct tally    tally;
    struct ledger   ledger;
    int64_t         calm_since_ns; /* no accident of its own; INT64_MAX during one */
    bool            transactions;

    /* of the verdict */
    long     connections_start;
    long     connections_end;
    double   connections_s; /* how long it took them */
    uint64_t rows_seen;     /* of those acknowledged */
    uint64_t missing;
    uint64_t duplicated;
    uint64_t uncommitted; /* rows there that were never committed */
    uint64_t unknown_present;
    bool     rows_checked;
};

#define EACH_DATABASE(db) \
    for (struct database *db = soak.database; db < soak.database + soak.databases; db++)

/* ---- accidents ---------------------------------------------------------------------- */

enum accident_kind { SERVER_KILLED, SERVER_STALLED, SERVER_REFUSES, DESCRIPTORS_TAKEN };

struct accident {
    enum accident_kind kind;
    struct database   *db; /* whose; NULL: everybody's */
    double             at_s;
    double             until_s;
    double             answered_s;      /* when the first query was answered after its end */
    uint64_t           failed_connects; /* of the pool, meanwhile */
    uint64_t           failed_calls;    /* that callers saw, meanwhile */
};

enum { ACCIDENTS_MAX = 96 };

struct accidents {
    unsigned        planned;
    unsigned        begun;
    unsigned        count; /* over */
    bool            awaited; /* one is over but for the first answer: lives go on */
    struct accident one[ACCIDENTS_MAX];
    char            trouble[400]; /* one that could not be made, or undone */
};

void        accidents_plan(void);
weir_status accidents_run(void *unused); /* a coroutine */
bool        accidents_are_over(void);
void        accidents_gate(void);        /* whoever starts lives waits here for the next one */
const char *accident_name(const struct accident *a);
const char *accident_words(const struct accident *a);

/* ---- watching ----------------------------------------------------------------------- */

struct sample {
    float    at_s;
    uint32_t fds;     /* most in this stretch; the next two as well */
    uint32_t in_use;
    uint32_t waiting;
    uint32_t queries; /* answered in this stretch */
    uint32_t p50_us;  /* of queries */
    uint32_t p99_us;
    uint32_t rss_kb;
    uint32_t held[DATABASES_MAX]; /* connections of each, with those that open and close; most */
};

enum { SAMPLES_MAX = 1200 };

struct watch {
    int64_t       began_ns;
    unsigned      count;
    struct sample sample[SAMPLES_MAX]; /* when full, each two become one */
    unsigned      fds;
    unsigned      fds_base; /* before the first connection */
    unsigned      fds_peak;
    double        stall_max_ms;
    double        stall_at_s;
    uint64_t      rss_mid_kb;
    uint64_t      rss_end_kb;
    double        queries_per_s;
};

void   watch_open(void); /* takes the descriptors it needs, for good */
void   watch_start(void);
void   watch_stop(void);
void   watch_mark(void); /* a sample now, without the alarm */
void   watch_query_answered(struct database *db, int64_t took_ns);
double watch_seconds(void);
int64_t watch_clock_ns(void);

/* For how long this thread was ready and the kernel ran somebody else, until the last tick, or
   until now: a span that is judged is shorter by it. */
int64_t watch_off_ns(void);
int64_t watch_off_now_ns(void);

/* 0 at the start, 1 when everything asked for is done. */
double watch_done_part(void);

unsigned fds_open_now(void);

/* ---- the descriptor table ----------------------------------------------------------- */

enum { FD_TABLE_MAX = 1024 };
struct fd_table {
    unsigned count;
    unsigned kept;
    struct {
        int  fd;
        char what[84];
    } entry[FD_TABLE_MAX];
};
void fd_table_read(struct fd_table *out);

/* ---- lives -------------------------------------------------------------------------- */

struct life {
    struct database *db;
    uint64_t  number; /* of its database's lives */
    uint64_t  random;
    enum kind kind;
    bool      happened; /* it really came to the misdeed of its kind */
};

enum { PATIENCE = 30 }; /* attempts of a life whose calls fail by no fault of its own */

void     life_plan_block(const struct database *db, uint64_t first, uint8_t kinds[PLAN_BLOCK]);
weir_status life_run(void *packed); /* a coroutine */
void    *life_pack(const struct database *db, uint64_t number, enum kind kind);
uint32_t life_random(struct life *life, uint32_t below);
const char *kind_name(enum kind kind);
const char *kind_words(enum kind kind);

/* Acquire, and time the wait. Weir's messages name the place that called this. */
#define life_acquire(db, deadline, out, err) \
    life_acquire_at((db), (deadline), (out), (err), WEIR_HERE)
weir_status life_acquire_at(struct database *db, weir_deadline deadline, weir_lease **out,
                            weir_error *err, const char *site);

/* The same for ever, and a failure is in the books. */
#define life_lease(db, out, err) life_lease_at((db), (out), (err), WEIR_HERE)
weir_status life_lease_at(struct database *db, weir_lease **out, weir_error *err,
                          const char *site);

/* `expected` is what this life asked for, or WEIR_OK. */
void life_note_failure(struct database *db, const weir_error *err, weir_status expected);

/* Worth another attempt after this? Sleeps before it says yes. */
bool life_tries_again(struct life *life, unsigned attempt, const weir_error *err);

/* ---- how many of them --------------------------------------------------------------- */

void crowd_share(void);
void crowd_look(struct database *db, uint64_t leases, int64_t ns);
bool crowd_wait(const struct database *db);

/* ---- deeds: each says WEIR_OK, or why not in *err ----------------------------------- */

enum deed   deed_draw(struct life *life);
weir_status deed_wrong(struct database *db, weir_error *err, const char *what, const char *got);

/* What one writes that failed leaves behind: nothing, or nobody knows. */
void deed_write_failed(struct database *db, uint64_t id, bool refused, const weir_error *err);

/* One attempt at a kind's misdeed; sets life->happened. */
weir_status misdeed_do(struct life *life, weir_error *err);

/* ---- the verdict -------------------------------------------------------------------- */

struct check {
    bool ok;
    char name[80];
    char found[320];
};

enum { CHECKS_MAX = 24 };

struct verdict {
    bool         pass;
    bool         interrupted;
    unsigned     count;
    struct check check[CHECKS_MAX];
    unsigned     fds_start;
    unsigned     fds_end;
};

void verify(void); /* after the hub has ended; blocks */
void verify_row(struct database *db, uint64_t id); /* it is there */

/* A line of the verdict; `db` may be NULL. */
void check(bool ok, const struct database *db, const char *name, const char *fmt, ...)
    WEIR_PRINTF(4, 5);
bool check_fd_table(void);             /* as it was at the start? */
void check_rows(struct database *db);  /* all that were acknowledged, once? */

/* ---- telling ------------------------------------------------------------------------ */

weir_status progress_run(void *unused); /* a coroutine */
void        progress_say(const char *fmt, ...) WEIR_PRINTF(1, 2);
void        progress_clear(void);
bool        progress_is_utf8(void);
const char *grouped(uint64_t number, char buf[28]); /* 12,345,678 */

void summary_print(FILE *out);
void summary_checks(FILE *out);
bool report_json(const char *path);
bool report_html(const char *path);

/* ---- the accidents this library exists for ------------------------------------------ */

int naive_main(void);
int unbounded_main(void);
int fetch_main(void);

/* So that no descriptor is left that the naive could open? */
bool naive_is_at_the_limit(void);

/* ---- the one soak ------------------------------------------------------------------- */

struct soak {
    struct options   options;
    struct database  database[DATABASES_MAX];
    unsigned         databases;
    uint64_t         started; /* lives */
    uint64_t         lives;   /* ended */
    uint64_t         queries; /* answered */
    struct accidents accidents;
    struct watch     watch;
    struct verdict   verdict;
    char             trouble[300]; /* why it could not go on */
    struct fd_table  fds_start;
    struct fd_table  fds_end;
    double           seconds;    /* all lives, first to last */
    /* naive, unbounded, fetch */
    const char      *mode; /* "soak", "naive", "unbounded", "fetch" */
    uint64_t         ended_after; /* so many coroutines had got a connection */
    char             ended_by[300];
};

extern struct soak soak;

/* Of all databases together; a big object. */
const struct tally *tally_sum(void);

#endif
