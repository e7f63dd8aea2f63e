/*
 * model.h - what the model test of the pool is made of.
 *
 *     test_pool_model.c   chance: plays from a seed, each in a process of its own
 *     model_play.c        the players who do what an operation says, in a world
 *     model_book.c        the reference model: what a pool owes them, and whether they got it
 *     model_shrink.c      a play that fails made short enough to be read
 *     model_words.c       operations as sentences
 *
 * A play is a list of operations. Each can be done in any state, where it may be nothing to do:
 * so any part of a list is a play too, which is what makes shrinking simple.
 */
#ifndef MODEL_H
#define MODEL_H

#include "fake_driver.h"

enum { POOLS = 2, PLAYERS = 12, SLOTS = 3, OPS_OF_A_PLAY = 1000 };

enum verb {
    ASK,          /* a player: weir_acquire(), for `a` ms at most */
    ASK_LOCAL,    /* weir_local_lease(), likewise */
    GIVE_BACK_IT, /* weir_release(), of a connection that is in condition `a` */
    CLOSE_IT,     /* weir_lease_close(), likewise */
    GIVE_AWAY,    /* weir_lease_give(), to player `a` */
    GIVE_LOCAL,   /* weir_release() of a local lease, in condition `a` */
    QUERY,        /* a statement of `a` ms */
    LEAVE,        /* ends, having given back everything */
    FORGET_IT,    /* ends with all that he holds */
    TAKE,         /* weir_budget_take(): `b` descriptors, for `a` ms at most */
    GIVE_TOKEN,
    PLAYERS_DO,   /* how many of these there are */

    CANCEL = PLAYERS_DO, /* a player; `a`: he gives back what he holds, or not, or asks again */
    PASS_TIME,    /* `a` ms */
    STIR,         /* the server says something on each idle connection */
    DIE,          /* the server ends every connection, and refuses new ones */
    CONNECTS,     /* from now on opening goes as `a` says */
    RESETS,
    CLOSES,
    PAUSE,
    READY,
    CLEAR,        /* `a`: interrupting too */
    RESIZE,       /* to `a` */
    DRAIN,        /* for `a` ms at most */
    BUDGET,       /* of `a` descriptors */
    CLOSE_POOL,   /* weir_pool_close(), which waits `a` ms at most */
    REPLACE_POOL, /* weir_pool_free(), and a new one in its place */
    VERBS
};

/* How a call to the server goes. */
enum mood { AT_ONCE, SLOWLY, BADLY, SLOWLY_BADLY, NEVER, NO_DESCRIPTORS, MOODS };

/* What is done before the next operation. */
enum then { SETTLE, YIELD, NOTHING_MORE };

struct op {
    uint8_t  verb, who, pool, then;
    uint16_t a, b;
};

struct plan {
    uint64_t        seed;
    unsigned        number;       /* of the play */
    weir_pool_opts  opts[POOLS];
    unsigned        sockets[POOLS];
    unsigned        budget;
    bool            listens;      /* events are looked at as well */
    struct op      *ops;
    unsigned        count;
    void          (*failed)(void); /* called before the process ends of a failure; may be NULL */
};

/* How a play went: told while it is played, to whoever looks on from another process. */
struct verdict {
    bool     failed;
    unsigned at;         /* during which operation; as many as there are: at the end */
    uint64_t asked, served, given_up, opened; /* what there was to see */
    char     words[4096];
};

/* ---- a play ------------------------------------------------------------------------------ */

/* Plays it in this process, which ends where an expectation fails. */
void play_plan(const struct plan *plan, struct verdict *out);

/* The same in a world that is there already, by its main coroutine. */
void play_plan_here(const struct plan *plan, struct verdict *out);

/* ---- the reference model ------------------------------------------------------------------ */

/* Somebody in a queue, as the model sees him. */
struct asker {
    struct list  link;
    unsigned     player;
    weir_task   *task;
    int64_t      asked_ns, until_ns;
    unsigned     held;      /* connections of this pool that he holds */
    unsigned     queued;    /* how many were before him */
    uint64_t     quiet;     /* of the book, when he asked */
    uint64_t     failures;  /* of the pool, likewise */
    bool         doomed;    /* he was cancelled before he asked */
    bool         canceled;
};

/* What the listener knows of a connection. */
enum life { UNKNOWN, CREATED, RESTS, LENT, GONE };

enum { LIVES = 2048 };

/* One pool, its server, and what the model says of it. */
struct book {
    struct list     link;
    struct fake     fake;
    weir_pool      *pool;        /* NULL: it could not be made, or is freed */
    weir_pool_opts  opts;
    weir_pool_state state;
    unsigned        size;
    uint64_t        generation;
    uint64_t        quiet;       /* how often it stopped lending */
    struct list     queue;       /* struct asker, in order */
    unsigned        waiting, held;
    uint64_t        asked, acquired, timeouts, canceled, refused, forgotten;
    uint64_t        closed[WEIR_CLOSE_REASONS]; /* exact for some, at most for others */
    bool            hard_up;     /* descriptors may be short */
    int64_t         short_ns;    /* somebody waits for some, and none has come, since then; 0 */
    uint64_t        short_opened;
    uint64_t        started, ended; /* check-outs, as told by events */
    struct {
        enum life life;
        int64_t   since_ns, born_ns;
        uint64_t  generation;
    } lives[LIVES];
};

void book_open(struct book *book, const weir_pool_opts *opts);
void book_listen(const weir_pool_event *event, void *arg);

/* A player is about to ask; what he was told; a lease of his has ended. */
void book_asks(struct book *book, struct asker *asker);
void book_told(struct book *book, struct asker *asker, weir_status status, weir_lease *lease,
               const weir_error *err);
void book_lease_ends(struct book *book, weir_lease *lease, bool forgotten, bool close);

/* A verb was called. */
void book_pauses(struct book *book);
void book_readies(struct book *book);
void book_clears(struct book *book);
void book_closes(struct book *book);
void book_resizes(struct book *book, unsigned size);
void book_loses_idle(struct book *book);

/* Is everything as the model says, now that nobody has anything to do? */
void book_compare(struct book *book);
void book_compare_budget(const struct list *books, unsigned tokens, unsigned asked_for);

/* Nobody starves: not whose waiters wait for descriptors, nor who has asked for some himself since
   `token_ns` (0: nobody has), while others have connections that do nothing. */
void book_compare_idleness(const struct list *books, int64_t token_ns);

/* ---- failures ------------------------------------------------------------------------------ */

/* Plays it in a process of its own, which may take so many seconds of the processor's. */
void judge(const struct plan *plan, struct verdict *out, unsigned seconds, bool quietly);

/* Leave out of the plan whatever is not needed for it to fail; `out` is about what is left. */
void shrink(struct plan *plan, struct verdict *out);

/* The plan in words on stderr. */
void tell_plan(const struct plan *plan);

#endif
