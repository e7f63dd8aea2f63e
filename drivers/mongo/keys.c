/*
 * keys.c - the salted keys of this process.
 *
 * Knows:   which keys are kept, which are being derived, who waits for them.
 * Ignores: what they are for (scram.c, login.c).
 *
 * MongoDB's defaults make a key cost 4 ms of a processor for every connection, and with the
 * client library, which repeats some of the work, 25 ms of the hub. But all connections of a
 * user get the same salt: a key is derived once, then kept. The cache is the process's, as pools
 * and hubs have users in common.
 *
 * Nobody who asks derives the key himself. A coroutine of its own, in the hub of whoever asked
 * first, has it done on a thread, and everybody waits in the key's queue, in which each can
 * give up alone: by a deadline, or cancelled. A derivation that nobody waits for any more when
 * its turn on a thread has come is dropped: a server that sends a new salt each time cannot pile
 * up work. One that has begun is finished and kept: the next try finds it.
 *
 * The lock is held for a few instructions at a time, except around starting that coroutine,
 * which calls nobody back. Results are copied into the waiters, so that nobody holds on to a key
 * outside of the lock, and room can be made at any time.
 *
 * What is kept can log in: ClientKey is as good as the password for this server. So it is wiped
 * when it goes. The password is kept while a derivation needs it, then only as a digest.
 */
#include "keys.h"

#include "list.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <weir/hub.h>

enum { ID_SIZE = 32 };

struct name {
    unsigned char who[ID_SIZE]; /* digest of user and password */
    unsigned char id[ID_SIZE];  /* digest of everything that the keys depend on */
};

/* What a derivation needs of its own, since whoever asked may be gone. */
struct recipe {
    char         *user, *password;
    unsigned char salt[MO_SALT_MAX];
    size_t        salt_size;
    unsigned      rounds;
};

struct key {
    struct list       link; /* in kept or in deriving */
    struct name       name;
    enum mo_mechanism mechanism;
    bool              proven;
    struct mo_keys    keys;    /* of one that is kept */
    struct recipe     recipe;  /* of one being derived */
    struct list       waiters; /* likewise */
};

/* On the stack of a coroutine that waits. */
struct waiter {
    struct list    link; /* on no list: the result is there */
    weir_waker     waker;
    weir_status    status;
    struct mo_keys keys;
    weir_error     error;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t  fork_once = PTHREAD_ONCE_INIT;

/* All under the lock. */
static struct list          kept = { &kept, &kept }; /* the latest use first */
static struct list          deriving = { &deriving, &deriving };
static struct mo_keys_stats stats;

/* ---- names ---------------------------------------------------------------------------- */

struct part {
    const void *data;
    size_t      size;
};

/* Each part after its length, so that no two lists of parts read the same. */
static bool digest(const struct part *parts, size_t count, unsigned char out[ID_SIZE])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool        ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

    for (size_t i = 0; ok && i < count; i++)
        ok = EVP_DigestUpdate(ctx, &parts[i].size, sizeof parts[i].size) == 1 &&
             EVP_DigestUpdate(ctx, parts[i].data, parts[i].size) == 1;
    ok = ok && EVP_DigestFinal_ex(ctx, out, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

static bool name_person(const char *user, const char *password, unsigned char out[ID_SIZE])
{
    const struct part parts[] = { { user, strlen(user) }, { password, strlen(password) } };

    return digest(parts, 2, out);
}

static bool name_key(const struct mo_keys_of *of, struct name *out)
{
    const struct part parts[] = { { out->who, sizeof out->who },
                                  { &of->mechanism, sizeof of->mechanism },
                                  { of->salt, of->salt_size },
                                  { &of->rounds, sizeof of->rounds } };

    return name_person(of->user, of->password, out->who) && digest(parts, 4, out->id);
}

static struct key *find(struct list *keys, const struct name *name)
{
    LIST_EACH(node, keys) {
        struct key *key = LIST_OF(node, struct key, link);
        if (memcmp(key->name.id, name->id, ID_SIZE) == 0)
            return key;
    }
    return NULL;
}

/* ---- keys, under the lock ------------------------------------------------------------- */

static void wipe_text(char *text)
{
    if (text)
        OPENSSL_clear_free(text, strlen(text));
}

static void wipe_recipe(struct recipe *recipe)
{
    wipe_text(recipe->user);
    wipe_text(recipe->password);
    OPENSSL_cleanse(recipe, sizeof *recipe);
}

static void destroy(struct key *key)
{
    list_unlink(&key->link);
    wipe_recipe(&key->recipe);
    OPENSSL_clear_free(key, sizeof *key);
}

static void unkeep(struct key *key)
{
    stats.kept--;
    stats.proven -= key->proven;
    destroy(key);
}

/* An unproven one goes first, so that salts made up by a false server push out at most one key
   that is good for something. `newest` was not looked at yet by those who asked for it. */
static void make_room(const struct key *newest)
{
    struct key *oldest = NULL, *unproven = NULL;

    if (stats.kept <= MO_KEYS_KEPT)
        return;
    LIST_EACH(node, &kept) {
        struct key *key = LIST_OF(node, struct key, link);
        if (key == newest)
            continue;
        oldest = key;
        if (!key->proven)
            unproven = key;
    }
    unkeep(unproven ? unproven : oldest);
}

static struct key *make(const struct mo_keys_of *of, const struct name *name)
{
    struct key *key = OPENSSL_zalloc(sizeof *key);

    if (!key)
        return NULL;
    list_init(&key->link);
    list_init(&key->waiters);
    key->name = *name;
    key->mechanism = of->mechanism;
    return key;
}

static bool write_recipe(struct recipe *recipe, const struct mo_keys_of *of)
{
    recipe->user = OPENSSL_strdup(of->user);
    recipe->password = OPENSSL_strdup(of->password);
    memcpy(recipe->salt, of->salt, of->salt_size);
    recipe->salt_size = of->salt_size;
    recipe->rounds = of->rounds;
    return recipe->user && recipe->password;
}

static void keep(struct key *key, const struct mo_keys *keys)
{
    key->keys = *keys;
    wipe_recipe(&key->recipe);
    list_unlink(&key->link);
    list_prepend(&kept, &key->link);
    stats.kept++;
    make_room(key);
}

/* The derivation is over, and everybody who waited is told. */
static void finish(struct key *key, weir_status status, const struct mo_keys *keys,
                   const weir_error *error)
{
    while (!list_empty(&key->waiters)) {
        struct waiter *waiter = LIST_OF(list_first(&key->waiters), struct waiter, link);
        list_unlink(&waiter->link);
        waiter->status = status;
        if (status == WEIR_OK)
            waiter->keys = *keys;
        else
            waiter->error = *error;
        weir_wake_remote(waiter->waker);
    }
    stats.deriving--;
    if (status == WEIR_OK)
        keep(key, keys);
    else
        destroy(key);
}

/* ---- deriving ------------------------------------------------------------------------- */

/* On a thread. The key is this function's alone but for its queue, until it is finished. */
static void derive(void *arg)
{
    struct key    *key = arg;
    struct mo_keys keys;
    weir_error     error;

    pthread_mutex_lock(&lock);
    bool wanted = !list_empty(&key->waiters);
    if (!wanted) {
        stats.deriving -= !list_empty(&key->link);
        stats.dropped++;
        destroy(key);
    } else {
        stats.at_work++;
    }
    pthread_mutex_unlock(&lock);
    if (!wanted)
        return;

    const struct recipe *recipe = &key->recipe;
    weir_status          status =
        mo_scram_derive(key->mechanism, recipe->user, recipe->password, recipe->salt,
                        recipe->salt_size, recipe->rounds, &keys, &error);

    pthread_mutex_lock(&lock);
    stats.at_work--;
    stats.derived++;
    finish(key, status, &keys, &error);
    pthread_mutex_unlock(&lock);
    OPENSSL_cleanse(&keys, sizeof keys);
}

/* A coroutine. Once derive() has run, the key may be gone. */
static weir_status have_it_derived(void *arg)
{
    weir_error error;

    WEIR_SHIELD(WEIR_FOREVER); /* its callers have deadlines, it has none */
    weir_status status = weir_offload(derive, arg, WEIR_FOREVER);
    if (status != WEIR_OK) {
        weir_error_set(&error, status, "authentication: no thread to derive keys on");
        pthread_mutex_lock(&lock);
        finish(arg, status, NULL, &error);
        pthread_mutex_unlock(&lock);
    }
    return WEIR_OK;
}

/* Under the lock. NULL without memory. */
static struct key *begin(const struct mo_keys_of *of, const struct name *name)
{
    struct key *key = make(of, name);

    if (!key)
        return NULL;
    if (!write_recipe(&key->recipe, of) ||
        !weir_spawn_with(NULL, &(weir_spawn_opts){ .name = "SCRAM keys" }, have_it_derived, key)) {
        destroy(key);
        return NULL;
    }
    list_append(&deriving, &key->link);
    stats.deriving++;
    return key;
}

/* ---- asking --------------------------------------------------------------------------- */

static weir_status no_memory(weir_error *err)
{
    return weir_error_set(err, WEIR_NOMEM, "authentication: no memory to derive keys in");
}

/* Under the lock, which is let go meanwhile. */
static weir_status wait_for(struct key *key, weir_deadline deadline, struct mo_keys *keys,
                            weir_error *err)
{
    struct waiter me = { .waker = weir_waker_new() };

    list_append(&key->waiters, &me.link);
    pthread_mutex_unlock(&lock);
    weir_status waited = weir_park(deadline, "SCRAM keys");
    pthread_mutex_lock(&lock);

    if (!list_empty(&me.link)) {
        list_unlink(&me.link);
        return weir_error_set(err, waited,
                              waited == WEIR_CANCELED ? "authentication: cancelled"
                                                      : "authentication: out of time while keys "
                                                        "were derived");
    }
    /* The result wins over a deadline or a cancel that came with it: the next wait tells those. */
    if (me.status == WEIR_OK)
        *keys = me.keys;
    else if (err)
        *err = me.error;
    OPENSSL_cleanse(&me.keys, sizeof me.keys);
    return me.status;
}

/* Nobody can be waited for outside of a coroutine. */
static weir_status derive_here(const struct mo_keys_of *of, const struct name *name,
                               struct mo_keys *keys, weir_error *err)
{
    weir_status status = mo_scram_derive(of->mechanism, of->user, of->password, of->salt,
                                         of->salt_size, of->rounds, keys, err);

    pthread_mutex_lock(&lock);
    stats.derived++;
    struct key *key = status == WEIR_OK && !find(&kept, name) ? make(of, name) : NULL;
    if (key)
        keep(key, keys);
    pthread_mutex_unlock(&lock);
    return status;
}

/* A key that is kept: false where there is none. */
static bool look_up(const struct name *name, struct mo_keys *keys)
{
    struct key *key = find(&kept, name);

    if (!key)
        return false;
    list_unlink(&key->link);
    list_prepend(&kept, &key->link);
    *keys = key->keys;
    return true;
}

/* ---- fork ----------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

/* The threads that derive, and the coroutines that wait, stayed with the parent. A key is left
   where it is: the copy of a job that was in line names it, and drops it if it ever runs. */
static void after_fork_in_child(void)
{
    while (!list_empty(&deriving)) {
        struct key *key = LIST_OF(list_first(&deriving), struct key, link);
        list_unlink(&key->link);
        list_init(&key->waiters);
        wipe_recipe(&key->recipe);
    }
    stats.deriving = stats.at_work = 0;
    pthread_mutex_unlock(&lock);
}

static void mind_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* ---- the calls ------------------------------------------------------------------------ */

weir_status mo_keys_get(const struct mo_keys_of *of, weir_deadline deadline, struct mo_keys *keys,
                        weir_error *err)
{
    struct name name;

    pthread_once(&fork_once, mind_forks);
    if (!name_key(of, &name))
        return no_memory(err);

    pthread_mutex_lock(&lock);
    if (look_up(&name, keys)) {
        pthread_mutex_unlock(&lock);
        return WEIR_OK;
    }
    if (!weir_self()) {
        pthread_mutex_unlock(&lock);
        return derive_here(of, &name, keys, err);
    }
    struct key *key = find(&deriving, &name);
    if (!key)
        key = begin(of, &name);
    weir_status status = key ? wait_for(key, deadline, keys, err) : no_memory(err);
    pthread_mutex_unlock(&lock);
    return status;
}

void mo_keys_prove(const struct mo_keys_of *of)
{
    struct name name;

    if (!name_key(of, &name))
        return;
    pthread_mutex_lock(&lock);
    struct key *key = find(&kept, &name);
    if (key && !key->proven) {
        key->proven = true;
        stats.proven++;
    }
    pthread_mutex_unlock(&lock);
}

bool mo_keys_proven(enum mo_mechanism mechanism, const char *user, const char *password)
{
    unsigned char who[ID_SIZE];
    bool          found = false;

    if (!name_person(user, password, who))
        return false;
    pthread_mutex_lock(&lock);
    LIST_EACH(node, &kept) {
        const struct key *key = LIST_OF(node, struct key, link);
        if (key->proven && key->mechanism == mechanism &&
            memcmp(key->name.who, who, ID_SIZE) == 0)
            found = true;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void mo_keys_forget(void)
{
    pthread_mutex_lock(&lock);
    while (!list_empty(&kept))
        unkeep(LIST_OF(list_first(&kept), struct key, link));
    pthread_mutex_unlock(&lock);
}

void mo_keys_stats(struct mo_keys_stats *out)
{
    pthread_mutex_lock(&lock);
    *out = stats;
    pthread_mutex_unlock(&lock);
}
