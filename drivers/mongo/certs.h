/*
 * certs.h - certificates, keys and revocation lists, from files into an SSL_CTX.
 */
#ifndef MO_CERTS_H
#define MO_CERTS_H

#include "tls.h"

#include <openssl/ssl.h>

/**
 * Read what *opts names. The caller empties OpenSSL's queue of errors before and after.
 *
 * Returns: as mo_tls_context_new().
 */
weir_status mo_certs_load(SSL_CTX *ctx, const struct mo_tls_opts *opts,
                          weir_error *err) WEIR_MUST_CHECK;

#endif
