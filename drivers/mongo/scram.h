/*
 * scram.h - the messages of SCRAM (RFC 5802, RFC 7677), as MongoDB speaks it.
 *
 * Pure: bytes in, bytes out. Who carries them is login.c's business, how the keys come about
 * is keys.c's. One struct mo_scram is one exchange:
 *
 *     mo_scram_begin()  ->  text, for the server      "n,,n=user,r=ours"
 *     mo_scram_challenge()  <-  its answer            "r=ours+its,s=salt,i=rounds"
 *     mo_scram_answer() ->  text, for the server      "c=biws,r=ours+its,p=proof"
 *     mo_scram_verify() <-  its answer                "v=signature"
 *
 * Every function yields never, may be called on any thread, and returns WEIR_OK, or a status
 * with the reason in *err: WEIR_USAGE where our side is at fault, WEIR_CONNECT where the
 * server is.
 */
#ifndef MO_SCRAM_H
#define MO_SCRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <weir/error.h>

enum mo_mechanism {
    MO_MECHANISM_ANY = 0, /* SHA-256; SHA-1 for a user who has nothing else */
    MO_SCRAM_SHA_1,
    MO_SCRAM_SHA_256
};

enum {
    MO_DIGEST_MAX = 32,      /* bytes of SHA-256 */
    MO_SALT_MAX = 256,       /* bytes; MongoDB's salts have 16 and 28 */
    MO_NONCE_SIZE = 32,      /* letters of our nonce: 24 random bytes */
    MO_USER_MAX = 256,       /* bytes of a user's name */
    MO_ROUNDS_MIN = 4096,    /* RFC 7677, section 4, and MongoDB's specification of drivers */
    MO_ROUNDS_MAX = 1000000, /* 0.3 s of a processor: a false server must not cost us more */
    MO_TEXT_MAX = 1024       /* bytes of a message, a NUL included */
};

/* What the password, the salt and the rounds make. The salted password itself is not kept. */
struct mo_keys {
    unsigned char client[MO_DIGEST_MAX]; /* ClientKey */
    unsigned char stored[MO_DIGEST_MAX]; /* StoredKey, which is H(ClientKey) */
    unsigned char server[MO_DIGEST_MAX]; /* ServerKey */
};

struct mo_scram {
    enum mo_mechanism mechanism; /* never MO_MECHANISM_ANY */
    char              text[MO_TEXT_MAX]; /* what to send */
    size_t            size;
    char              bare[3 * MO_USER_MAX + 64]; /* client-first-message-bare */
    char              nonce[MO_NONCE_SIZE + 1];   /* ours */
    char              theirs[MO_TEXT_MAX];        /* server-first-message */
    char              auth_message[3 * MO_TEXT_MAX];  /* what both sides sign */
    size_t            auth_size;

    /* the challenge: what the keys are made of */
    unsigned char salt[MO_SALT_MAX];
    size_t        salt_size;
    unsigned      rounds;
};

size_t mo_digest_size(enum mo_mechanism mechanism);      /* bytes: 20 or 32 */
const char *mo_mechanism_name(enum mo_mechanism mechanism); /* "SCRAM-SHA-256" */

/** A fresh nonce of MO_NONCE_SIZE letters and a NUL. */
weir_status mo_scram_nonce(char nonce[MO_NONCE_SIZE + 1], weir_error *err) WEIR_MUST_CHECK;

/** Begin an exchange, with the nonce given: text is the first message. */
weir_status mo_scram_begin(struct mo_scram *scram, enum mo_mechanism mechanism, const char *user,
                           const char *nonce, weir_error *err) WEIR_MUST_CHECK;

/** Take the server's challenge: salt and rounds are there then. */
weir_status mo_scram_challenge(struct mo_scram *scram, const char *data, size_t size,
                               weir_error *err) WEIR_MUST_CHECK;

/** Answer the challenge: text is the message with our proof. */
weir_status mo_scram_answer(struct mo_scram *scram, const struct mo_keys *keys,
                            weir_error *err) WEIR_MUST_CHECK;

/** Does the server know our keys, too? Nothing else that it says counts before that. */
weir_status mo_scram_verify(const struct mo_scram *scram, const struct mo_keys *keys,
                            const char *data, size_t size, weir_error *err) WEIR_MUST_CHECK;

/**
 * The keys from a password, a salt and the rounds: slow on purpose (15,000 rounds of SHA-256
 * take 4.4 ms), so keys.h has it done on a thread, once.
 */
weir_status mo_scram_derive(enum mo_mechanism mechanism, const char *user, const char *password,
                            const unsigned char *salt, size_t salt_size, unsigned rounds,
                            struct mo_keys *keys, weir_error *err) WEIR_MUST_CHECK;

/** May the password be used for SHA-256 as it is? True for printable ASCII; any other must be
    prepared by SASLprep (RFC 4013), which is left to libmongoc. */
bool mo_password_is_plain(const char *password);

#endif
