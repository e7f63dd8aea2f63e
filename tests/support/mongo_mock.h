/*
 * mongo_mock.h - a MongoDB server that does what a test tells it.
 *
 * Knows:   enough of the protocol for libmongoc 1.23 and later: OP_MSG, and OP_QUERY for the
 *          first hello; a standalone server or a set of three with its primary; logins by
 *          SCRAM, PLAIN and X.509; cursors; and how to go wrong, member by member and command by
 *          command.
 * Ignores: data. It stores nothing; its documents are made up as they are asked for.
 *
 * The server is a process of its own (weir-mongo-mock) and is steered through shared memory: it
 * costs the test no descriptor and no CPU time of its process, runs whatever the hub is doing,
 * and ends with the test's process in any case.
 *
 * What it answers when nothing goes wrong:
 *   find, aggregate   documents { _id: 0.., request, text: "xxx..." }, as many and as large as
 *                     mongo_mock_data() says, no more than `limit`; in batches of `batchSize`,
 *                     by default 101 and then as many as fit into 16 MiB. A filter of
 *                     { _id: N } gives that one document. `request` is the number of the
 *                     message asked, so that a mix-up shows.
 *   getMore           the rest of it
 *   insert, update, delete   { n: as many as were sent }
 *   ping, killCursors, endSessions, commitTransaction, abortTransaction, saslStart,
 *   saslContinue, authenticate, hello, isMaster   as a server of version 6 does
 *   anything else     error 59, CommandNotFound
 *
 * Calls return when the order has taken effect. They take a millisecond, in which a coroutine
 * yields and any other thread sleeps.
 */
#ifndef MONGO_MOCK_H
#define MONGO_MOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOCK_MEMBERS = 3, MOCK_EVERY = -1, MOCK_NOBODY = -1 };

struct mongo_mock;

/* What a false or broken server does in a login; see also `rounds`. */
enum mock_trick {
    MOCK_HONEST,
    MOCK_BAD_SIGNATURE, /* the server's signature is not made of the password */
    MOCK_NO_SIGNATURE,  /* the last message is empty */
    MOCK_OTHER_NONCE,   /* the nonce does not begin with the client's */
    MOCK_DONE_EARLY,    /* done: true in the first answer, without proof or signature */
    MOCK_SASL_ERROR,    /* "e=other-error" for a signature */
    MOCK_EXTENSION,     /* a mandatory extension (m=) that nobody knows */
    MOCK_FALLS_SILENT,  /* nothing comes after the client's proof */
};

enum mock_mechanism { MOCK_SHA_1 = 1, MOCK_SHA_256 = 2, MOCK_PLAIN = 4, MOCK_X509 = 8 };

struct mongo_mock_opts {        /* zero in a field means what is said in brackets */
    unsigned    members;        /* 1, or 3 for a replica set whose primary is member 0 (1) */
    const char *set_name;       /* ("weir") */
    const char *known_as;       /* the host that a set's members say they are on (127.0.0.1) */
    bool        arbiter;        /* the last member is an arbiter: no data and no users */
    const char *unix_path;      /* member 0 listens there (TCP on 127.0.0.1) */
    const char *tls_cert;       /* a PEM file: every connection is TLS (none is) */
    const char *tls_key;
    const char *tls_clients;    /* a PEM file: the authority of the certificates that clients may
                                   show (nobody is asked for one) */
    const char *user;           /* a login is needed, but for hello and ping (none is). With
                                   MOCK_X509 alone: the name in the client's certificate */
    const char *password;
    const char *source;         /* the database that knows the user (whichever is asked) */
    unsigned    rounds;         /* of SCRAM; large ones are only told, never computed (4,096) */
    unsigned    mechanisms;     /* of enum mock_mechanism (both of SCRAM) */
    enum mock_trick trick;
    bool        no_speculation; /* the login inside of hello is ignored */
    bool        with_api;       /* every command must name version 1 of the API, strictly and
                                   with errors for what is deprecated; else error 322 */
    bool        strict;         /* a second hello with `client` is error 186, as of mongod */
    bool        ready_answers;  /* see below */
};

/*
 * Start one. Call outside of a hub: it blocks until the server listens, some 10 ms. NULL, with
 * the reason on standard error, when it could not be started.
 *
 * With `ready_answers` one thread serves all connections and find and insert get answers that
 * were made beforehand ({ _id: 0, text } and { n: 1 }): so cheap that the client's own CPU time
 * can be measured. Rules do not apply then, nor TLS, and a client that does not read its
 * answers is disconnected.
 */
struct mongo_mock *mongo_mock_start(const struct mongo_mock_opts *opts);
void               mongo_mock_stop(struct mongo_mock *mock); /* NULL is fine */

/* The server's process, for those who measure it. */
int      mongo_mock_pid(const struct mongo_mock *mock);
unsigned mongo_mock_port(const struct mongo_mock *mock, int member);

/* A URI for all members, with user and replicaSet; `options` are appended ("a=b&c=d", or NULL).
   Returns `out`. */
char *mongo_mock_uri(const struct mongo_mock *mock, char *out, size_t size, const char *options);

/* ---- what it is told ---------------------------------------------------------------- */

enum mock_deed {
    MOCK_ANSWER, /* as ever; with delay_ms */
    MOCK_SILENT, /* no answer ever; the connection stays */
    MOCK_HALF,   /* half of the answer, then the connection is closed */
    MOCK_CLOSE,  /* the connection is closed instead of an answer */
    MOCK_STRAY,  /* the answer says that it answers another message */
    MOCK_PIECES, /* the answer comes in three pieces, 20 ms apart */
    MOCK_FAIL,   /* { ok: 0, code, codeName, errmsg } */
};

struct mock_rule {
    const char    *command;  /* "find", "hello" (that is isMaster too); NULL for every one */
    enum mock_deed deed;
    unsigned       delay_ms; /* before it */
    unsigned       skip;     /* so many of the command are answered as ever first */
    unsigned       times;    /* then so many are dealt with, and the rule is spent (all) */
    bool           reset;    /* closing sends RST instead of FIN, or cuts a Unix socket short */
    int            code;     /* of MOCK_FAIL */
    const char    *code_name;
};

/* The first rule that fits is followed. Of any one member or MOCK_EVERY; with MOCK_EVERY each
   member counts skip and times for itself. At most 16 for a member. */
void mongo_mock_rule(struct mongo_mock *mock, int member, const struct mock_rule *rule);
void mongo_mock_forget(struct mongo_mock *mock); /* all rules */

/* What find and aggregate answer: so many documents (3) with so many bytes of text each (40). */
void mongo_mock_data(struct mongo_mock *mock, unsigned documents, unsigned text_bytes);

/* Another primary, or MOCK_NOBODY: the set enters its next term. Writes to the others are
   refused with 10107 NotWritablePrimary, reads of the primary with 13435. */
void mongo_mock_elect(struct mongo_mock *mock, int primary);

void mongo_mock_cut(struct mongo_mock *mock, int member); /* closes all there are now */

enum mock_door {
    MOCK_OPEN,
    MOCK_REFUSES,    /* nobody listens; connections that exist stay (see mongo_mock_cut) */
    MOCK_BLACK_HOLE, /* the queue of those who knock is full: nobody gets in or is told */
};
void mongo_mock_door(struct mongo_mock *mock, int member, enum mock_door door);

/* ---- what it saw, since it was started ---------------------------------------------- */

struct mock_counts {
    unsigned accepted;       /* connections */
    unsigned open;           /* of those, not closed by either side yet */
    unsigned commands;       /* all of them */
    unsigned denied;         /* for want of a login: error 13 */
    unsigned proofs;         /* a client's proof of its password was received */
    unsigned logins;         /* and was right, or was believed (MOCK_DONE_EARLY) */
    unsigned metadata_again; /* error 186 */
    unsigned broken;         /* connections ended for a message that was none */
    uint64_t late_bytes;     /* came on a connection after the server had closed its side, or
                                had fallen silent */
};

/* Of a member, or all of them together. */
struct mock_counts mongo_mock_counts(const struct mongo_mock *mock, int member);

/* How often a command was seen; "hello" counts isMaster too. */
unsigned mongo_mock_seen(const struct mongo_mock *mock, int member, const char *command);

#endif
