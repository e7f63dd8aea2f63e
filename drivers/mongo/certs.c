/*
 * certs.c - the files that TLS believes in, and those it shows.
 *
 * Knows:   files and folders of certificates, keys and revocation lists.
 * Ignores: connections (tls.c).
 *
 * Everything is read here, by whoever makes the pool: a folder of authorities too, into which
 * OpenSSL would look in the middle of a handshake, on the hub's thread. What is wrong with a
 * file is said with its option and its path, in the system's words where it cannot be read.
 */
#define _GNU_SOURCE
#include "certs.h"

#include <dirent.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ---------------------------------------------------------------------------- */

static bool given(const char *text)
{
    return text && *text;
}

/* OpenSSL's words for what it complained of last. */
static const char *complaint(void)
{
    const char *words = ERR_reason_error_string(ERR_peek_last_error());

    return words ? words : "OpenSSL does not say why";
}

/* What OpenSSL says of a file that cannot be read tells less than the system does. A pipe would
   block whoever opens it. */
static weir_status check_file(const char *path, const char *option, weir_error *err)
{
    struct stat is;

    if (stat(path, &is) != 0 || (S_ISREG(is.st_mode) && access(path, R_OK) != 0))
        return weir_error_set(err, WEIR_USAGE, "%s: cannot read '%.120s': %m", option, path);
    if (!S_ISREG(is.st_mode))
        return weir_error_set(err, WEIR_USAGE, "%s: '%.120s' is not a file", option, path);
    return WEIR_OK;
}

/* The names by which OpenSSL finds authorities in a folder: eight hex digits, ".", a number. */
static bool is_hashed_name(const char *name)
{
    size_t hex = strspn(name, "0123456789abcdef");

    return hex == 8 && name[8] == '.' && name[9] &&
           name[9 + strspn(name + 9, "0123456789")] == '\0';
}

/* How many files of authorities the folder has. A link that leads nowhere is left out, as
   OpenSSL would. */
static int load_folder(X509_LOOKUP *lookup, const char *path)
{
    DIR *dir = opendir(path);
    int  loaded = 0;

    if (!dir)
        return 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char file[4096];
        int  size = snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (is_hashed_name(entry->d_name) && (size_t)size < sizeof file &&
            check_file(file, "", NULL) == WEIR_OK &&
            X509_load_cert_file(lookup, file, X509_FILETYPE_PEM) > 0)
            loaded++;
    }
    closedir(dir);
    return loaded;
}

static const char *from_environment(const char *name, const char *otherwise)
{
    const char *value = secure_getenv(name);

    return given(value) ? value : otherwise;
}

static int load_folders(X509_LOOKUP *lookup, const char *paths)
{
    char *copy = strdup(paths), *rest = copy;
    int   loaded = 0;

    for (char *path = strsep(&rest, ":"); path; path = strsep(&rest, ":"))
        loaded += load_folder(lookup, path);
    free(copy);
    return loaded;
}

static weir_status load_system(X509_LOOKUP *lookup, const struct mo_tls_opts *opts,
                               weir_error *err)
{
    const char *file =
        from_environment(X509_get_default_cert_file_env(), X509_get_default_cert_file());
    const char *dirs =
        from_environment(X509_get_default_cert_dir_env(), X509_get_default_cert_dir());
    int loaded = load_folders(lookup, dirs);

    if (check_file(file, "", NULL) == WEIR_OK &&
        X509_load_cert_file(lookup, file, X509_FILETYPE_PEM) > 0)
        loaded++;
    if (loaded || opts->allow_invalid_certificates)
        return WEIR_OK;
    return weir_error_set(err, WEIR_USAGE,
                          "the system has no certificate authorities in %.70s: install the package "
                          "ca-certificates, or name a file in tlsCAFile", dirs);
}

static weir_status load_authorities(X509_LOOKUP *lookup, const struct mo_tls_opts *opts,
                                    weir_error *err)
{
    if (!given(opts->ca_file) && !given(opts->ca_dir))
        return load_system(lookup, opts, err);
    if (given(opts->ca_file)) {
        weir_status status = check_file(opts->ca_file, "tlsCAFile", err);
        if (status != WEIR_OK)
            return status;
        if (X509_load_cert_file(lookup, opts->ca_file, X509_FILETYPE_PEM) <= 0)
            return weir_error_set(err, WEIR_USAGE, "tlsCAFile: no certificate in '%.100s' (%s)",
                                  opts->ca_file, complaint());
    }
    if (given(opts->ca_dir) && load_folder(lookup, opts->ca_dir) == 0)
        return weir_error_set(err, WEIR_USAGE,
                              "the folder of authorities '%.100s' has no certificate by its hash: "
                              "run \"openssl rehash\" on it, or name a file in tlsCAFile",
                              opts->ca_dir);
    return WEIR_OK;
}

static weir_status load_revoked(X509_LOOKUP *lookup, X509_STORE *store, const char *path,
                                weir_error *err)
{
    if (!given(path))
        return WEIR_OK;
    weir_status status = check_file(path, "tlsCRLFile", err);
    if (status != WEIR_OK)
        return status;
    if (X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) <= 0)
        return weir_error_set(err, WEIR_USAGE, "tlsCRLFile: no revocation list in '%.100s' (%s)",
                              path, complaint());
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return WEIR_OK;
}

/* ---- our own certificate -------------------------------------------------------------- */

struct password {
    const char *text;
    bool        asked;
};

/* Without one of ours OpenSSL would ask for it on the terminal. */
static int give_password(char *buffer, int size, int writing, void *arg)
{
    struct password *password = arg;
    size_t           length = given(password->text) ? strlen(password->text) : 0;

    (void)writing;
    password->asked = true;
    if (!length || length > (size_t)size)
        return -1;
    memcpy(buffer, password->text, length);
    return (int)length;
}

static weir_status load_key(SSL_CTX *ctx, const char *path, const char *text, weir_error *err)
{
    struct password password = { .text = text };

    SSL_CTX_set_default_passwd_cb(ctx, give_password);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, &password);
    int loaded = SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
    if (loaded == 1)
        return WEIR_OK;
    if (password.asked)
        return weir_error_set(err, WEIR_USAGE,
                              given(text) ? "tlsCertificateKeyFilePassword does not open the "
                                            "private key in '%.120s'"
                                          : "the private key in '%.120s' is encrypted: give "
                                            "tlsCertificateKeyFilePassword",
                              path);
    return weir_error_set(err, WEIR_USAGE,
                          "tlsCertificateKeyFile: no private key of its certificate in '%.100s' "
                          "(%s)", path, complaint());
}

static weir_status load_own(SSL_CTX *ctx, const struct mo_tls_opts *opts, weir_error *err)
{
    const char *path = opts->cert_key_file;

    if (!given(path))
        return given(opts->cert_key_password)
                   ? weir_error_set(err, WEIR_USAGE, "tlsCertificateKeyFilePassword is given, and "
                                                     "tlsCertificateKeyFile is not")
                   : WEIR_OK;
    weir_status status = check_file(path, "tlsCertificateKeyFile", err);
    if (status != WEIR_OK)
        return status;
    if (SSL_CTX_use_certificate_chain_file(ctx, path) != 1)
        return weir_error_set(err, WEIR_USAGE,
                              "tlsCertificateKeyFile: no certificate in '%.100s' (%s)", path,
                              complaint());
    return load_key(ctx, path, opts->cert_key_password, err);
}

/* ---- all of it ------------------------------------------------------------------------ */

weir_status mo_certs_load(SSL_CTX *ctx, const struct mo_tls_opts *opts, weir_error *err)
{
    X509_STORE  *store = SSL_CTX_get_cert_store(ctx);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());

    if (!lookup)
        return weir_error_set(err, WEIR_NOMEM, "no memory for certificates");
    weir_status status = load_authorities(lookup, opts, err);
    if (status == WEIR_OK)
        status = load_revoked(lookup, store, opts->crl_file, err);
    return status == WEIR_OK ? load_own(ctx, opts, err) : status;
}
