/*
 * mongo_mock_inside.h - what the parts of the scripted MongoDB server share.
 *
 *   mongo_mock.c         in the test's process: starts the server, gives orders, reads counts
 *   mongo_mock_server.c  the process: listeners, connections, going wrong as told
 *   mongo_mock_ready.c   the other way to serve: one thread, answers made beforehand
 *   mongo_mock_reply.c   from a command to its answer
 *   mongo_mock_login.c   logins
 *   mongo_mock_scram.c   those of several steps
 *
 * The two processes have struct mock_shared between them and nothing else. What the server
 * reads now and then is under its lock; counts are atomic; doors and cuts are orders, numbered,
 * of which the server tells the last one carried out.
 */
#ifndef MONGO_MOCK_INSIDE_H
#define MONGO_MOCK_INSIDE_H

#include "mongo_mock.h"

#include <bson/bson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

enum {
    MOCK_SHARED_FD = 3, /* where the server finds the shared memory */
    MOCK_RULES = 16,
    MOCK_NAMES = 40,    /* different commands that are counted by name */
    MOCK_NAME = 32,
    MOCK_TEXT = 200,
    MOCK_MESSAGE_MAX = 48000000, /* a server's maxMessageSizeBytes */
    MOCK_ROUNDS_MAX = 1000000,   /* more is only told */
};

enum { OP_REPLY = 1, OP_QUERY = 2004, OP_MSG = 2013, MORE_TO_COME = 2 };

enum mock_state { MOCK_STARTING, MOCK_UP, MOCK_FAILED };

struct mock_shared_rule {
    char           command[MOCK_NAME]; /* "": every one */
    enum mock_deed deed;
    unsigned       delay_ms, skip, times;
    bool           reset;
    int            code;
    char           code_name[MOCK_NAME];
    unsigned       met; /* how often it has fitted */
};

struct mock_member {
    unsigned    port;
    atomic_uint accepted, open, commands, denied, proofs, logins, metadata_again, broken;
    atomic_uint seen[MOCK_NAMES]; /* by the number of the name */
    atomic_ullong late_bytes;

    struct mock_shared_rule rule[MOCK_RULES]; /* under the lock */
    unsigned                rules;

    atomic_int  door;  /* orders: how it should stand, */
    atomic_uint cuts;  /* and how many cuts there should have been */
};

struct mock_shared {
    /* settled before the server starts */
    pid_t           parent;
    unsigned        members;
    bool            arbiter, strict, ready_answers, no_speculation, with_login;
    char            set_name[MOCK_NAME], known_as[MOCK_NAME];
    char            unix_path[108]; /* as in struct sockaddr_un */
    bool            with_api;
    char            tls_cert[MOCK_TEXT], tls_key[MOCK_TEXT], tls_clients[MOCK_TEXT];
    char            user[MOCK_TEXT], password[MOCK_TEXT], source[MOCK_NAME];
    unsigned        rounds, mechanisms;
    enum mock_trick trick;

    pthread_mutex_t lock; /* rules, names, election */
    char            name[MOCK_NAMES][MOCK_NAME];
    unsigned        names;
    int             primary;
    unsigned        term;

    atomic_uint documents, text_bytes;
    atomic_int  state; /* enum mock_state */
    char        why[MOCK_TEXT];
    atomic_uint orders, done; /* futexes */

    struct mock_member member[MOCK_MEMBERS];
};

/* A command, as it came. */
struct mock_message {
    int32_t  id;
    int32_t  opcode;
    uint32_t flags;     /* of OP_MSG */
    bson_t   body;      /* into the buffer it was parsed from */
    char     name[MOCK_NAME];
    unsigned documents; /* in sections of their own */
};

struct mock_scram {
    enum mock_mechanism mechanism; /* 0: no login is under way */
    bool                proven;    /* what is left is the empty exchange */
    bool                skip_empty;
    char                client_first[512], server_first[512];
};

/* What the server remembers of a connection. */
struct mock_session {
    struct mock_shared *shared;
    int                 member;
    bool                hello_seen;
    bool                logged_in;
    bool                mute; /* the login trick: no answer to this one */
    struct mock_scram   scram;
    char                peer[MOCK_TEXT]; /* whom its certificate names; "": it has shown none */
};

/* mongo_mock_reply.c */
bool mock_parse(struct mock_message *out, const uint8_t *data, size_t size);
void mock_reply(struct mock_session *session, const struct mock_message *message, bson_t *reply);
void mock_fail(bson_t *reply, int code, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The bytes of an answer; the caller frees them. */
uint8_t *mock_pack(const struct mock_message *asked, const bson_t *reply, size_t *size);
void     mock_number(uint8_t *at, int32_t value); /* little-endian, as all of the protocol */
int32_t  mock_read_number(const uint8_t *at);

/* mongo_mock_login.c: a login's first step */
void mock_login(struct mock_session *session, const bson_t *command, bson_t *reply);

/* mongo_mock_scram.c */
void mock_scram_prepare(void);
void mock_scram_start(struct mock_session *session, const bson_t *command, bson_t *reply);
void mock_scram_continue(struct mock_session *session, const bson_t *command, bson_t *reply);

/* mongo_mock_ready.c: serves what `listener` accepts, and returns only when it cannot. */
void mock_serve_ready(struct mock_shared *shared, int listener);

/* mongo_mock_server.c */
unsigned mock_name(struct mock_shared *shared, const char *name); /* its number */
void     mock_count_command(struct mock_member *member, unsigned name);

#endif
