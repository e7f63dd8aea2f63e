/*
 * relay.h - a bad network between a test and its server, and listeners that never answer.
 *
 * Knows:   how to forward TCP on loopback late, slowly, partly, or not at all.
 * Ignores: the protocol that passes through (but for one flag, see strip_tls).
 *
 * A relay is a process of its own and is steered through shared memory, so it costs the test
 * no descriptor. It ends with the test's process in any case.
 */
#ifndef RELAY_H
#define RELAY_H

#include <stdbool.h>

/* A chunk is what one recv(2) from the server gave: in a login, one step of it. Zero in a
   field means that this fault does not happen. */
struct relay_faults {
    unsigned delay_ms;       /* each chunk of the server is held this long */
    unsigned stall_after;    /* after so many chunks of the server nothing moves any more */
    unsigned half_after;     /* of the chunk after so many only half is passed, then it cuts */
    unsigned bytes_per_s;    /* of the server's answers, at most */
    bool     reset;          /* cutting sends RST instead of FIN */
    bool     strip_tls;      /* the greeting loses the flag that says "I speak TLS" */
};

struct relay;

/* Start one in front of 127.0.0.1:port. Blocks for a moment; call outside of a hub. */
struct relay *relay_start(unsigned port, const struct relay_faults *faults);
void          relay_stop(struct relay *relay); /* NULL is fine */

unsigned relay_port(const struct relay *relay);

/* These take effect within 2 ms, on connections that exist too. They do not block. */
void relay_set(struct relay *relay, const struct relay_faults *faults);
void relay_cut(struct relay *relay); /* end all connections there are now */

unsigned relay_accepted(const struct relay *relay); /* since it was started */
unsigned relay_chunks(const struct relay *relay);   /* of the server, since it was started */

/* A descriptor that listens and whose queue is full: nobody gets in, and nobody is told.
   `extra` gets the descriptors that fill it. Close all with listener_close(). */
struct listener {
    int      fd;
    unsigned port;    /* of a TCP listener */
    int      extra[4];
    unsigned extras;
};

bool listener_full_tcp(struct listener *out);
bool listener_full_unix(struct listener *out, const char *path);

/* The kernel accepts, and nobody ever says a word. */
bool listener_silent(struct listener *out);
void listener_close(struct listener *listener);

/* A port of 127.0.0.1 where nobody listens. 0: could not be found. */
unsigned port_refused(void);

/* A Unix socket left behind by a server that died. The caller unlinks it. */
bool socket_refused(const char *path);

#endif
