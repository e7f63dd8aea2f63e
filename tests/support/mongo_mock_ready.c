/*
 * mongo_mock_ready.c - the server for those who measure a client.
 *
 * Knows:   one epoll loop; answers to find and insert that are made beforehand, of which only
 *          the number of the message answered changes.
 * Ignores: rules. Everything but find and insert takes the ordinary way, at once.
 *
 * The client's CPU time is what is measured, so the server must not be what it waits for: a
 * message costs here a recv, a send and the look at one name. An answer that does not fit into
 * the socket at once ends the connection.
 */
#define _GNU_SOURCE
#include "mongo_mock_inside.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN = 256 * 1024, EVENTS = 64, HEADER = 16, NAME_AT = HEADER + 4 + 1 + 4 + 1 };

struct client {
    struct mock_session session;
    int                 fd;
    size_t              size; /* bytes in `in` */
    uint8_t             in[IN];
};

struct answer {
    unsigned name; /* the command's number */
    uint8_t *data;
    size_t   size;
};

static struct answer answers[2];

/* The answer to `asked`, once and for all. */
static void prepare(struct mock_shared *shared, struct answer *a, const char *command,
                    const char *key)
{
    struct mock_session session = { .shared = shared, .logged_in = true };
    struct mock_message m = { .opcode = OP_MSG, .documents = 1 };
    bson_t              reply = BSON_INITIALIZER;

    strcpy(m.name, command);
    bson_init(&m.body);
    BSON_APPEND_UTF8(&m.body, command, "ready");
    BSON_APPEND_INT32(&m.body, key, 1);
    mock_reply(&session, &m, &reply);
    a->name = mock_name(shared, command);
    a->data = mock_pack(&m, &reply, &a->size);
    bson_destroy(&reply);
    bson_destroy(&m.body);
}

/* The first element of a message's first section, if it has one there. */
static struct answer *ready_answer(const uint8_t *data, size_t size)
{
    if (size < NAME_AT + 8 || mock_read_number(data + 12) != OP_MSG || data[HEADER + 4] != 0)
        return NULL;
    if (memcmp(data + NAME_AT, "find", 5) == 0)
        return &answers[0];
    if (memcmp(data + NAME_AT, "insert", 7) == 0)
        return &answers[1];
    return NULL;
}

static bool send_all(struct client *c, const uint8_t *data, size_t size)
{
    return send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

static bool answer_slowly(struct client *c, const uint8_t *data, size_t size)
{
    struct mock_message m;
    bson_t              reply = BSON_INITIALIZER;
    size_t              length;
    bool                ok = true;

    if (!mock_parse(&m, data, size))
        return false;
    mock_count_command(c->session.shared->member, mock_name(c->session.shared, m.name));
    mock_reply(&c->session, &m, &reply);
    uint8_t *out = mock_pack(&m, &reply, &length);
    if (!(m.flags & MORE_TO_COME))
        ok = send_all(c, out, length);
    free(out);
    bson_destroy(&reply);
    return ok;
}

static bool answer_one(struct client *c, const uint8_t *data, size_t size)
{
    struct answer *a = ready_answer(data, size);

    if (!a || (c->session.shared->with_login && !c->session.logged_in))
        return answer_slowly(c, data, size);
    mock_count_command(c->session.shared->member, a->name);
    if (mock_read_number(data + HEADER) & MORE_TO_COME)
        return true;
    memcpy(a->data + 8, data + 4, 4); /* whom it answers */
    return send_all(c, a->data, a->size);
}

/* Every message that is there in full. */
static bool answer_all(struct client *c)
{
    size_t at = 0;

    while (c->size - at >= 4) {
        int32_t size = mock_read_number(c->in + at);
        if (size < HEADER || size > IN)
            return false;
        if ((size_t)size > c->size - at)
            break;
        if (!answer_one(c, c->in + at, (size_t)size))
            return false;
        at += (size_t)size;
    }
    c->size -= at;
    memmove(c->in, c->in + at, c->size);
    return true;
}

static void welcome(struct mock_shared *shared, int epoll, int fd)
{
    struct client *c = fd < 0 ? NULL : malloc(sizeof *c);
    int            one = 1;

    if (!c)
        return;
    memset(&c->session, 0, sizeof c->session);
    c->session.shared = shared;
    c->fd = fd;
    c->size = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on a Unix socket */
    atomic_fetch_add(&shared->member[0].accepted, 1);
    atomic_fetch_add(&shared->member[0].open, 1);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e))
        abort();
}

static void attend(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->size, IN - c->size, MSG_DONTWAIT);

    if (n > 0) {
        c->size += (size_t)n;
        if (answer_all(c))
            return;
        atomic_fetch_add(&c->session.shared->member[0].broken, 1);
    }
    atomic_fetch_sub(&c->session.shared->member[0].open, 1);
    close(c->fd); /* which takes it out of the epoll set */
    free(c);
}

void mock_serve_ready(struct mock_shared *shared, int listener)
{
    struct epoll_event events[EVENTS], e = { .events = EPOLLIN, .data.ptr = NULL };
    int                epoll = epoll_create1(EPOLL_CLOEXEC);

    prepare(shared, &answers[0], "find", "limit");
    prepare(shared, &answers[1], "insert", "ordered");
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e))
        return;
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                attend(events[i].data.ptr);
            else
                welcome(shared, epoll, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        }
    }
}
