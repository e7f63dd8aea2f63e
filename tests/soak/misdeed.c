/*
 * misdeed.c - ways to misbehave that are the same for each database.
 *
 * Knows:   how applications go wrong with connections, by intent or because somebody above
 *          them lost patience.
 * Ignores: what weir must make of it; verify.c counts that. What each database adds of its
 *          own is in mysql_misdeed.c and mongo_misdeed.c.
 *
 * A misdeed counts only if it really came to it: a life that should be cancelled in the queue
 * but was served first has not happened, and is tried again.
 *
 * Queries that are abandoned take 0.2 s, for the server works on after its client has gone,
 * and longer ones would pile up there.
 */
#include "soak.h"

static weir_status some_query(struct life *life, weir_lease *lease, weir_error *err)
{
    return life->db->dialect->deed(life, lease, SELECT_ONE, err);
}

static weir_status slow_query(struct database *db, weir_lease *lease, weir_status expected,
                              weir_error *err)
{
    return db->dialect->slow(db, lease, expected, err);
}

static weir_status begin_and_insert(struct database *db, weir_lease *lease, weir_error *err)
{
    return db->dialect->begin(db, lease, err);
}

/* ---- leaving things behind ---------------------------------------------------------- */

/* The lease is only dropped: the coroutine's end is all that is left to end it. */
static weir_status forget(struct life *life, weir_error *err)
{
    weir_lease *lease = NULL;
    weir_status status;
    unsigned    how = life_random(life, 3);

    if (how == 0) {
        status = weir_local_lease(life->db->pool, WEIR_FOREVER, &lease, err);
        if (status != WEIR_OK)
            life_note_failure(life->db, err, WEIR_OK);
    } else {
        status = life_lease(life->db, &lease, err);
    }
    if (status != WEIR_OK)
        return status;
    status = how == 1 && life->db->transactions ? begin_and_insert(life->db, lease, err)
                                                : some_query(life, lease, err);
    if (status != WEIR_OK) {
        weir_release(lease);
        return status;
    }
    life->happened = true;
    return WEIR_OK;
}

static weir_status open_transaction(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(life->db, &lease, err);

    if (status == WEIR_OK)
        status = begin_and_insert(life->db, lease, err);
    life->happened = status == WEIR_OK;
    return status;
}

/* ---- somebody else loses patience --------------------------------------------------- */

struct victim {
    struct database *db;
    bool             provokes; /* makes the pool connect before it waits */
    bool             ready;    /* it is where it is to be cancelled */
    weir_waker       supervisor;
    weir_status      status;   /* of the call that is to be cancelled */
    weir_error       err;
};

static void be_ready(struct victim *v)
{
    v->ready = true;
    weir_wake(v->supervisor);
}

static weir_status waits_for_a_connection(void *arg)
{
    struct victim *v = arg;
    weir_autoptr(weir_lease) lease = NULL;

    if (v->provokes) {
        v->status = life_lease(v->db, &lease, &v->err);
        if (v->status != WEIR_OK)
            return v->status;
        weir_lease_close(lease);
        lease = NULL;
    }
    be_ready(v);
    v->status = life_acquire(v->db, WEIR_FOREVER, &lease, &v->err);
    if (v->status != WEIR_OK)
        life_note_failure(v->db, &v->err, WEIR_CANCELED);
    return v->status;
}

static weir_status waits_for_an_answer(void *arg)
{
    struct victim *v = arg;
    weir_autoptr(weir_lease) lease = NULL;

    v->status = life_lease(v->db, &lease, &v->err);
    if (v->status != WEIR_OK)
        return v->status;
    be_ready(v);
    v->status = slow_query(v->db, lease, WEIR_CANCELED, &v->err);
    return v->status;
}

/* Yields until the pool opens a connection; false if it does not soon. */
static bool pool_connects(weir_pool *pool, weir_task *victim)
{
    weir_pool_stats stats;

    for (unsigned turn = 0; turn < 400 && !weir_task_done(victim); turn++) {
        weir_pool_stats_read(pool, &stats);
        if (stats.connecting)
            return true;
        if (weir_yield() != WEIR_OK)
            break;
    }
    return false;
}

/* One that ends before it was ready wakes nobody, so look now and then. */
static weir_status wait_until_ready(struct victim *v, weir_task *victim)
{
    weir_status status = WEIR_OK;

    while (!v->ready && !weir_task_done(victim) && status != WEIR_CANCELED) {
        v->supervisor = weir_waker_new();
        status = weir_park(weir_in_ms(50), "a victim to be ready");
    }
    return status == WEIR_CANCELED ? status : WEIR_OK;
}

static weir_status cancelled(struct life *life, weir_fn body, int64_t after_ms, weir_error *err)
{
    struct victim v = { .db = life->db, .provokes = life->kind == CANCEL_CONNECT };
    bool          in_time = true;
    weir_autoptr(weir_group) group = NULL; /* joined before v goes */
    weir_status status = weir_group_new(NULL, &group, err);

    if (status != WEIR_OK)
        return status;
    weir_task *victim = weir_spawn(group, body, &v);
    if (!victim)
        return weir_error_set(err, WEIR_NOMEM, "no memory for a coroutine");
    status = wait_until_ready(&v, victim);
    if (life->kind == CANCEL_CONNECT)
        in_time = pool_connects(life->db->pool, victim);
    else if (after_ms)
        (void)weir_sleep(weir_in_ms(after_ms));
    weir_cancel(victim);
    (void)weir_group_wait(group, WEIR_FOREVER);
    life->happened = in_time && v.status == WEIR_CANCELED;
    *err = v.err;
    return v.status == WEIR_CANCELED ? status : v.status;
}

static weir_status timeout_wait(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_acquire(life->db, weir_in_ms(life_random(life, 3)), &lease, err);

    if (status != WEIR_OK)
        life_note_failure(life->db, err, WEIR_TIMEOUT);
    life->happened = status == WEIR_TIMEOUT;
    return status;
}

static weir_status timeout_query(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) lease = NULL;
    weir_status status = life_lease(life->db, &lease, err);

    if (status != WEIR_OK)
        return status;
    WEIR_DEADLINE(weir_in_ms(5 + life_random(life, 20)));
    status = slow_query(life->db, lease, WEIR_TIMEOUT, err);
    life->happened = status == WEIR_TIMEOUT;
    return status;
}

/* ---- wanting too much --------------------------------------------------------------- */

static weir_status nested(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) outer = NULL;
    weir_autoptr(weir_lease) inner = NULL;
    weir_status status = life_lease(life->db, &outer, err);

    if (status == WEIR_OK)
        status = some_query(life, outer, err);
    if (status != WEIR_OK)
        return status;
    /* Mostly too little time for the queue; now and then enough. */
    int64_t patience_ms = life_random(life, 8) ? 10 + life_random(life, 90) : 3000;
    status = life_acquire(life->db, weir_in_ms(patience_ms), &inner, err);
    if (status == WEIR_OK) {
        life->db->tally.nested_served++;
        status = some_query(life, inner, err);
        life->happened = status == WEIR_OK;
        return status;
    }
    /* All connections held by coroutines that wait like us is an answer too. */
    life->happened = status == WEIR_TIMEOUT || status == WEIR_DEADLOCK;
    life_note_failure(life->db, err, life->happened ? status : WEIR_OK);
    return status;
}

static weir_status local_lease(struct life *life, weir_lease **out, weir_error *err)
{
    weir_status status = weir_local_lease(life->db->pool, WEIR_FOREVER, out, err);

    if (status != WEIR_OK)
        life_note_failure(life->db, err, WEIR_OK);
    return status;
}

static weir_status nested_local(struct life *life, weir_error *err)
{
    weir_autoptr(weir_lease) outer = NULL;
    weir_autoptr(weir_lease) inner = NULL;
    weir_status status = local_lease(life, &outer, err);

    if (status == WEIR_OK)
        status = some_query(life, outer, err);
    if (status == WEIR_OK)
        status = local_lease(life, &inner, err);
    if (status == WEIR_OK)
        status = some_query(life, inner, err);
    if (status != WEIR_OK)
        return status;
    life->happened = true;
    if (weir_lease_conn_id(outer) == weir_lease_conn_id(inner))
        return WEIR_OK;
    if (!life->db->tally.wrong_answers++)
        snprintf(life->db->tally.first_wrong, sizeof life->db->tally.first_wrong,
                 "weir_local_lease gave two connections to one coroutine");
    return WEIR_OK;
}

/* ---- all of them -------------------------------------------------------------------- */

weir_status misdeed_do(struct life *life, weir_error *err)
{
    switch (life->kind) {
    case FORGET:
        return forget(life, err);
    case CANCEL_WAIT:
        return cancelled(life, waits_for_a_connection, life_random(life, 5), err);
    case CANCEL_CONNECT:
        return cancelled(life, waits_for_a_connection, 0, err);
    case CANCEL_QUERY:
        return cancelled(life, waits_for_an_answer, 2 + life_random(life, 14), err);
    case TIMEOUT_WAIT:
        return timeout_wait(life, err);
    case TIMEOUT_QUERY:
        return timeout_query(life, err);
    case OPEN_TRANSACTION:
        return open_transaction(life, err);
    case HALF_READ:
    case OUTLIVE:
    case MISUSE:
        return life->db->dialect->misdeed(life, err);
    case NESTED:
        return nested(life, err);
    case NESTED_LOCAL:
        return nested_local(life, err);
    default:
        return weir_error_set(err, WEIR_USAGE, "this kind does not misbehave");
    }
}
