/*
 * tls.h - TLS for a stream that must neither block nor yield inside of it.
 *
 * Two objects: a context, made once a pool from files, and one mo_tls for each connection.
 * Nothing here waits: a call that cannot go on says what it needs, the stream waits for it in
 * its own way and calls again.
 */
#ifndef MO_TLS_H
#define MO_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <weir/coro.h>

struct mo_tls;
struct mo_tls_context;

/* The strings are borrowed for the call that makes the context. An empty one is as good as
   none. Errors name them as MongoDB's connection strings do. */
struct mo_tls_opts {
    const char *ca_file;      /* tlsCAFile: PEM, authorities to believe (the system's) */
    const char *ca_dir;       /* folder of such files, named by hash as "openssl rehash" does */
    const char *cert_key_file; /* tlsCertificateKeyFile: PEM, our certificate, its chain, its key */
    const char *cert_key_password; /* tlsCertificateKeyFilePassword: where that key has one */
    const char *crl_file;     /* PEM, certificates that were revoked; must cover the server's CA */
    bool allow_invalid_certificates; /* believe any certificate that names the host */
    bool allow_invalid_names; /* believe a certificate that names another host */
};

/**
 * Read the files and make a context. Nothing is read later: not by a handshake, not by the
 * hub's thread while connections are made. Where neither ca_file nor ca_dir is given, the
 * authorities are those of the system, in the places that OpenSSL knows (SSL_CERT_FILE and
 * SSL_CERT_DIR move them).
 *
 * Yields:  no. The system's 140 authorities take 20 to 100 ms: on a hub that must not stand
 *          still, have it done by weir_offload().
 * Context: any thread.
 * Owner:   *out is yours, until mo_tls_context_free(); NULL after a failure.
 * Returns: WEIR_OK; WEIR_USAGE, naming the option, the file and what is wrong with it, never a
 *          password; WEIR_NOMEM.
 */
weir_status mo_tls_context_new(const struct mo_tls_opts *opts, struct mo_tls_context **out,
                               weir_error *err) WEIR_MUST_CHECK;

/** Connections that were made from it live on. NULL is fine. */
void mo_tls_context_free(struct mo_tls_context *context);

/**
 * TLS as a client on `fd`, which is connected, or will be before the handshake; TLS 1.2 or
 * newer. `host` is the name or the address (without brackets) that the certificate must have;
 * names are told to the server, too (SNI).
 *
 * Yields:  no; makes no system call.
 * Owner:   yours, until mo_tls_free(); `fd` stays with the caller, who closes it afterwards.
 * Returns: NULL without memory. A host that no certificate can have makes the handshake fail.
 */
struct mo_tls *mo_tls_new(struct mo_tls_context *context, int fd, const char *host);

/** Frees, and sends nothing: no goodbye, so that it can be called for a lost connection, or in
    the child of a fork. NULL is fine. During a step it is left to the step's end; `fd` may be
    closed at once all the same. */
void mo_tls_free(struct mo_tls *tls);

enum mo_tls_want { MO_TLS_DONE, MO_TLS_READ, MO_TLS_WRITE, MO_TLS_FAILED, MO_TLS_STEP };

/**
 * Go on with the handshake as far as it goes without waiting. MO_TLS_READ and MO_TLS_WRITE say
 * what to wait for before the next call; after MO_TLS_FAILED, mo_tls_why() says why, and
 * nothing works any more. One that is done stays done.
 *
 * Done means that the certificate is believed. It does not mean that the server believes ours:
 * with TLS 1.3 it is the first read that fails.
 *
 * Yields:  no. Costs 0.7 to 1.5 ms of processor time in all, most of it in one step.
 */
enum mo_tls_want mo_tls_handshake(struct mo_tls *tls);

/**
 * The same for who has another thread do the work. mo_tls_step_begin() says what to wait for, as
 * mo_tls_handshake() does, or MO_TLS_STEP: then mo_tls_step() is to be called, on any thread, and
 * after it mo_tls_step_end(), on this one, which goes on as mo_tls_step_begin(). Between the two
 * nothing but mo_tls_free() may be called on `tls`; it is gone then when the end returns.
 */
enum mo_tls_want mo_tls_step_begin(struct mo_tls *tls);
void             mo_tls_step(void *tls); /* touches no descriptor */
enum mo_tls_want mo_tls_step_end(struct mo_tls *tls);

/**
 * Read up to `size` bytes, write some of them: what goes without waiting, and one record (16 KiB)
 * at most. After a write that could not go on, the same bytes must come first in the next one,
 * since a part of their record may be gone; they may have moved in memory, and more may follow.
 *
 * Returns: how many; 0 at the end, for a read; -1 with errno: EAGAIN where mo_tls_wants() says
 *          what to wait for, otherwise a failure for good: the socket's (ECONNRESET, EPIPE ...)
 *          or EPROTO, with its words in mo_tls_why().
 */
ssize_t mo_tls_read(struct mo_tls *tls, void *data, size_t size);
ssize_t mo_tls_write(struct mo_tls *tls, const void *data, size_t size);

/** WEIR_READ or WEIR_WRITE: what the call that said EAGAIN waits for. A read may have to wait
    until it can write, and a write until it can read. */
int mo_tls_wants(const struct mo_tls *tls);

/**
 * Is there something to read without waiting that the socket would not tell of? At least how
 * many bytes; also 1 where a read would say that the end has come, or that it failed.
 *
 * May read what the socket has, since a record that came in part says nothing.
 */
size_t mo_tls_pending(struct mo_tls *tls);

/** What went wrong, in OpenSSL's or the system's words, such as "certificate verify failed
    (hostname mismatch)"; "" where nothing did. Lives as long as `tls`. */
const char *mo_tls_why(const struct mo_tls *tls);

#endif
