/*
 * soak.h - what the rooms of weir-soak share.
 *
 * weir-soak lives many short coroutine lives over one weir pool, lets a part of them
 * misbehave and the server fail, and then counts: descriptors, connections, rows, memory.
 *
 *     options.c   the command line             watch.c        what is measured on the way
 *     target.c    the server, seen plainly     accident.c     what is done to the server
 *     relay.c     a network that can fail      verify.c       the verdict
 *     life.c      one life, and its patience   progress.c     the line on the screen
 *     deed.c      good work, answers checked   report_*.c     the files that stay
 *     misdeed.c   ten ways to misbehave        naive.c        the same without weir's care
 *     ledger.c    which rows must be there     main.c         the order of it all
 *
 * A process is one soak, on one thread, so its state is one object: `soak`.
 */
#ifndef SOAK_H
#define SOAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <weir/hub.h>
#include <weir/mysql.h>

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
    KINDS
};

enum { PLAN_BLOCK = 1000 }; /* every so many lives hold exactly the share of each kind */

/* ---- options ------------------------------------------------------------------------ */

enum progress_style { PROGRESS_AUTO, PROGRESS_REDRAW, PROGRESS_PLAIN, PROGRESS_NONE };

struct options {
    char       *uri; /* NULL: the private server of the environment */
    const char *password_file;
    bool        tls;
    unsigned    cap;
    int64_t     idle_timeout_ms;
    uint64_t    coroutines;
    unsigned    duration_s; /* 0: until all lives are lived */
    unsigned    concurrency;
    unsigned    nofile;
    uint64_t    seed;
    unsigned    share[KINDS]; /* lives of each kind in a block of PLAN_BLOCK */
    bool        accidents;
    bool        squeeze;
    bool        naive;
    bool        unbounded;
    bool        insist;
    bool        verbose;
    enum progress_style progress;
    const char *json;
    const char *html;
};

/* Exits by itself for --help and for what makes no sense (status 2). */
void options_read(struct options *out, int argc, char **argv);

/* ---- the server --------------------------------------------------------------------- */

enum { TARGET_TEXT = 256, FIRST_ROWS = 1000 };

struct target {
    bool     is_private; /* ours to kill */
    char     host[TARGET_TEXT];
    char     socket[TARGET_TEXT];
    unsigned port;
    char     user[TARGET_TEXT];
    char     password[TARGET_TEXT];
    char     database[TARGET_TEXT];
    weir_tls tls;
    char     tls_ca[TARGET_TEXT];
    char     tls_cert[TARGET_TEXT];
    char     tls_key[TARGET_TEXT];
    char     tls_name[TARGET_TEXT];
    char     admin_socket[TARGET_TEXT]; /* private: by which it is asked plainly */
    char     pid_file[TARGET_TEXT];     /* private: */
    char     directory[TARGET_TEXT];
    char     script[TARGET_TEXT];
    char     table[40];
    char     version[64];
};

/* Find it in the options or the environment. Exits with status 2 and the reason if it cannot. */
void target_find(struct target *out, const struct options *options);

/* Fill in how a pool reaches it, through the relay if there is one. */
void target_pool(const struct target *target, weir_mysql_opts *out);

/* In the words of a user; without the password. */
void target_words(const struct target *target, char *buf, size_t size);

/*
 * The rest is plain libmariadb, blocking, on a connection of its own past weir and relay:
 * outside of coroutines, or on an offload thread.
 */
MYSQL *target_connect(const struct target *target, char *why, size_t size);
bool   target_prepare(struct target *target, char *why, size_t size); /* makes the table */
void   target_clean(const struct target *target);                     /* drops it */

/* Connections of this soak that the server has now; -1 if it does not answer. */
long target_connections(const struct target *target);

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
bool          relay_knows(const struct relay *relay, uint32_t connection_id);

/* ---- numbers ------------------------------------------------------------------------ */

/* Times in buckets of 6 per cent, from 1 us to half a day. */
enum { SPREAD_BUCKETS = 32 + 31 * 16 };
struct spread {
    uint64_t count;
    uint64_t max_us;
    uint64_t bucket[SPREAD_BUCKETS];
};
void     spread_add(struct spread *spread, int64_t ns);
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
    struct spread wait;  /* from acquire to lease, where it was had */
    struct spread query; /* answered ones */
};

/* ---- the ledger of rows ------------------------------------------------------------- */

void     ledger_make(uint64_t capacity);
uint64_t ledger_new_id(void); /* 0: the ledger is full */
void     ledger_acknowledged(uint64_t id);
void     ledger_denied(uint64_t id); /* the server never did it: it must not be there */
bool     ledger_is_acknowledged(uint64_t id);
bool     ledger_is_denied(uint64_t id);
uint64_t ledger_last_id(void);
uint64_t ledger_acknowledged_count(void);
uint64_t ledger_denied_count(void);

/* ---- accidents ---------------------------------------------------------------------- */

enum accident_kind { SERVER_KILLED, SERVER_STALLED, SERVER_REFUSES, DESCRIPTORS_TAKEN };

struct accident {
    enum accident_kind kind;
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
    struct accident one[ACCIDENTS_MAX];
    char            trouble[400]; /* one that could not be made, or undone */
};

void        accidents_plan(void);
weir_status accidents_run(void *unused); /* a coroutine */
void        accidents_gate(void);        /* whoever starts lives waits here for the next one */
const char *accident_name(enum accident_kind kind);
const char *accident_words(enum accident_kind kind);

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
    weir_pool_stats pool; /* as last read */
    double        queries_per_s;
};

void   watch_open(void); /* takes the descriptors it needs, for good */
void   watch_start(void);
void   watch_stop(void);
void   watch_mark(void); /* a sample now, without the alarm */
void   watch_query_answered(int64_t took_ns);
double watch_seconds(void);
int64_t watch_clock_ns(void);

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
    uint64_t  number;
    uint64_t  random;
    enum kind kind;
    bool      happened; /* it really came to the misdeed of its kind */
};

enum { PATIENCE = 30 }; /* attempts of a life whose calls fail by no fault of its own */

void     life_plan_block(uint64_t first, uint8_t kinds[PLAN_BLOCK]);
weir_status life_run(void *packed); /* a coroutine */
void    *life_pack(uint64_t number, enum kind kind);
uint32_t life_random(struct life *life, uint32_t below);
const char *kind_name(enum kind kind);
const char *kind_words(enum kind kind);

/* Acquire, and time the wait. Weir's messages name the place that called this. */
#define life_acquire(deadline, out, err) life_acquire_at((deadline), (out), (err), WEIR_HERE)
weir_status life_acquire_at(weir_deadline deadline, weir_lease **out, weir_error *err,
                            const char *site);

/* A call on the connection failed: why? Keeps the books. `expected` is what this life asked
   for, or WEIR_OK. */
weir_status life_call_failed(weir_lease *lease, weir_status expected, weir_error *err);
void        life_note_failure(const weir_error *err, weir_status expected);

/* Worth another attempt after this? Sleeps before it says yes. */
bool life_tries_again(struct life *life, unsigned attempt, const weir_error *err);

/* ---- deeds: each says WEIR_OK, or why not in *err ----------------------------------- */

enum deed { SELECT_ONE, INSERT_ONE, TRANSACTION, PREPARED, STREAM, DEEDS };

enum deed   deed_draw(struct life *life);
weir_status deed_do(struct life *life, weir_lease *lease, enum deed deed, weir_error *err);
weir_status deed_query(weir_lease *lease, const char *sql, weir_status expected, weir_error *err);
weir_status deed_insert(weir_lease *lease, uint64_t id, weir_error *err);

/* One attempt at a kind's misdeed; sets life->happened. */
weir_status misdeed_do(struct life *life, weir_error *err);

/* ---- the verdict -------------------------------------------------------------------- */

struct check {
    bool        ok;
    const char *name;
    char        found[240];
};

enum { CHECKS_MAX = 16 };

struct verdict {
    bool         pass;
    bool         interrupted;
    unsigned     count;
    struct check check[CHECKS_MAX];
    long         connections_start;
    long         connections_end;
    double       connections_s; /* how long it took them */
    uint64_t     missing;
    uint64_t     duplicated;
    uint64_t     uncommitted; /* rows there that were never committed */
    uint64_t     unknown_present;
    bool         rows_checked;
    unsigned     fds_start;
    unsigned     fds_end;
};

void verify(void); /* after the hub has ended; blocks */

/* ---- telling ------------------------------------------------------------------------ */

weir_status progress_run(void *unused); /* a coroutine */
void        progress_say(const char *fmt, ...) WEIR_PRINTF(1, 2);
void        progress_clear(void);
bool        progress_is_utf8(void);
const char *grouped(uint64_t number, char buf[28]); /* 12,345,678 */

void summary_print(FILE *out);
bool report_json(const char *path);
bool report_html(const char *path);

/* ---- the accidents this library exists for ------------------------------------------ */

int naive_main(void);
int unbounded_main(void);

/* ---- the one soak ------------------------------------------------------------------- */

struct soak {
    struct options   options;
    struct target    target;
    struct relay    *relay;
    weir_pool       *pool; /* while it is open */
    weir_group      *lives;
    bool             all_started;
    struct tally     tally;
    struct accidents accidents;
    struct watch     watch;
    struct verdict   verdict;
    weir_pool_stats  pool_end;   /* after it was closed */
    unsigned         lives_left; /* when everybody should have ended */
    bool             pool_closed;
    char             trouble[300]; /* why it could not go on */
    struct fd_table  fds_start;
    struct fd_table  fds_end;
    double           seconds;    /* all lives, first to last */
    /* naive and unbounded */
    const char      *mode; /* "soak", "naive", "unbounded" */
    uint64_t         ended_after; /* so many coroutines had got a connection */
    char             ended_by[300];
};

extern struct soak soak;

#endif
