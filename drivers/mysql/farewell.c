/*
 * farewell.c - what a server says when it ends a connection that nobody uses.
 *
 * Knows:   the one packet that may come unasked: an error.
 * Ignores: what becomes of the connection.
 *
 * MySQL since 8.0.24 says so before it closes a connection that was idle for wait_timeout (its
 * release notes; error 4031), and proxies say why they close theirs. MariaDB 10.11 says nothing
 * (tried: KILL, wait_timeout, SHUTDOWN).
 *
 * The packet is read here and not by the library, since nobody is in a call who could be told, and
 * nothing may wait: it is asked on the hub's own stack. What has not arrived is not waited for.
 */
#include "mysql_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum {
    HEAD = 4,        /* three bytes of length, a number that nobody needs here */
    ERROR_PACKET = 0xff,
    MARKED_STATE = 6 /* '#' and five letters */
};

/* As in the protocol of 4.1 and later, which is the only one a pool's connections speak. */
static bool parse(const unsigned char *bytes, size_t size, weir_error *err)
{
    if (size < HEAD + 3 || bytes[HEAD] != ERROR_PACKET)
        return false;
    size_t length = bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16;
    if (length > size - HEAD)
        length = size - HEAD; /* cut off: better some words than none */

    const char *text = (const char *)bytes + HEAD + 3;
    size_t      left = length < 3 ? 0 : length - 3;
    bool        stated = left >= MARKED_STATE && text[0] == '#';
    const char *words = stated ? text + MARKED_STATE : text;
    weir_error_set(err, WEIR_LOST, "%.*s", (int)(left - (stated ? MARKED_STATE : 0)), words);
    err->native = bytes[HEAD + 1] | bytes[HEAD + 2] << 8;
    if (stated)
        memcpy(err->sqlstate, text + 1, 5);
    for (char *c = err->message; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = '?'; /* it goes into logs */
    return true;
}

bool my_last_words(weir_conn *base, weir_error *err)
{
    struct my_conn *conn = (struct my_conn *)base;
    unsigned char   bytes[600]; /* a server's message has 512 at most */

    if (!conn->own_io || conn->fd < 0)
        return false;
    ssize_t size = conn->tls ? my_tls_read_rest(conn, bytes, sizeof bytes)
                             : recv(conn->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return size > 0 && parse(bytes, (size_t)size, err);
}
