/*
 * fake_driver.c - a driver without a server.
 */
#include "fake_driver.h"

#include "world.h"

#include <stdlib.h>
#include <string.h>

struct fake_conn {
    weir_conn      base;
    struct list    link; /* in the server's, while it is open */
    struct fake   *fake;
    void          *handle; /* allocated by open(), freed by close() */
    bool           begun;  /* by open(), not yet closed */
    bool           open;
    bool           busy;   /* a call is under way */
    bool           disowned;
    weir_waker     caller; /* who is in it */
    unsigned       descriptors; /* of the server's, when it was opened */
    weir_condition condition;
};

/* ---- what happened ---------------------------------------------------------------------- */

static void blame(struct fake *fake, bool holds, const char *fault)
{
    if (!holds && !fake->fault)
        fake->fault = fault;
}

/* It works on real hubs too, in several threads. */
static int64_t now_ms(void)
{
    return world_is_here() ? world_now_ms() : weir_now() / 1000000;
}

static void note(struct fake *fake, enum fake_verb verb, const struct fake_conn *conn,
                 weir_farewell how)
{
    if (fake->event_count < FAKE_EVENTS)
        fake->events[fake->event_count++] = (struct fake_event){
            .verb = verb, .at_ms = now_ms(), .conn = weir_conn_id(&conn->base), .how = how
        };
}

int64_t fake_when(const struct fake *fake, enum fake_verb verb, unsigned nth)
{
    for (unsigned i = 0; i < fake->event_count; i++)
        if (fake->events[i].verb == verb && --nth == 0)
            return fake->events[i].at_ms;
    return -1;
}

static void raise_peak(unsigned value, unsigned *peak)
{
    if (value > *peak)
        *peak = value;
}

/* ---- commands --------------------------------------------------------------------------- */

void fake_init(struct fake *fake)
{
    if (!fake->sockets)
        fake->sockets = 1;
    list_init(&fake->conns);
}

void fake_script(struct fake *fake, struct fake_step step)
{
    if (fake->scripted < FAKE_SCRIPT)
        fake->script[fake->scripted++] = step;
}

static weir_status sleep_through(weir_deadline until)
{
    WEIR_SHIELD(WEIR_FOREVER);
    return weir_sleep(until);
}

/* Zero milliseconds are no wait at all: what is there at once must not cost a yield. */
static weir_status take_time(const struct fake_step *step, weir_deadline deadline)
{
    if (!step->ms)
        return WEIR_OK;

    weir_deadline until = step->ms == FAKE_FOREVER ? WEIR_FOREVER : weir_in_ms(step->ms);
    if (step->deaf)
        return sleep_through(until);
    bool        late = deadline.at_ns < until.at_ns;
    weir_status status = weir_sleep(late ? deadline : until);
    return status == WEIR_OK && late ? WEIR_TIMEOUT : status;
}

/* It was spoken to: its idle timeout begins anew. */
static void heard_of(struct fake_conn *conn)
{
    const struct fake *fake = conn->fake;

    conn->base.quiet_until_ns = fake->rest_ms ? weir_now() + fake->rest_ms * 1000000 : INT64_MAX;
}

/* ---- the driver ------------------------------------------------------------------------- */

static unsigned sockets(const void *config)
{
    return ((const struct fake *)config)->sockets;
}

static void take_descriptors(struct fake_conn *conn)
{
    struct fake *fake = conn->fake;

    conn->descriptors = fake->sockets;
    fake->descriptors += conn->descriptors;
    raise_peak(fake->descriptors, &fake->descriptors_peak);
}

static weir_status attempt(struct fake_conn *conn, const struct fake_step *step,
                           weir_deadline deadline, weir_error *err)
{
    struct fake *fake = conn->fake;

    blame(fake, conn->base.user == weir_self(), "open() by a coroutine that may not use it");
    if (step->status != WEIR_BUSY)
        take_descriptors(conn);
    raise_peak(++fake->opening, &fake->opening_peak);
    weir_status status = take_time(step, deadline);
    fake->opening--;
    if (status != WEIR_OK)
        return weir_error_set(err, status, "no answer from the fake server: %s",
                              weir_status_name(status));
    if (step->status != WEIR_OK) {
        weir_error_set(err, step->status, "%s", step->words ? step->words : "refused");
        err->native = step->native;
    }
    return step->status;
}

static weir_status open_conn(weir_conn *base, const void *config, weir_deadline deadline,
                             weir_error *err)
{
    struct fake_conn *conn = (struct fake_conn *)base;
    struct fake      *fake = (struct fake *)config;
    unsigned          nth = fake->attempts++;
    struct fake_step  step = nth < fake->scripted ? fake->script[nth] : fake->open;

    blame(fake, !conn->fake && !conn->begun && !conn->open, "open() of what is not zeroed");
    conn->fake = fake;
    list_init(&conn->link);
    conn->begun = true;
    conn->handle = malloc(16);
    fake->handles++;
    note(fake, FAKE_OPENING, conn, WEIR_POLITE);
    if (!conn->handle)
        return weir_error_set(err, WEIR_CONNECT, "no memory for a fake connection");
    weir_status status = attempt(conn, &step, deadline, err);
    note(fake, status == WEIR_OK ? FAKE_OPENED : FAKE_FAILED, conn, WEIR_POLITE);
    if (status != WEIR_OK)
        return status;

    conn->open = true;
    conn->condition = fake->condition;
    heard_of(conn);
    list_append(&fake->conns, &conn->link);
    fake->opened++;
    raise_peak(++fake->alive, &fake->alive_peak);
    return WEIR_OK;
}

static void close_conn(weir_conn *base, weir_farewell how, weir_deadline deadline)
{
    struct fake_conn *conn = (struct fake_conn *)base;
    struct fake      *fake = conn->fake;

    blame(fake, conn->begun, "close() of what was never opened, or twice");
    blame(fake, !conn->busy, "close() in the middle of another call");
    blame(fake, !conn->disowned || how == WEIR_ABRUPT, "a farewell to a parent's server");
    blame(fake, base->user == weir_self(), "close() by a coroutine that may not use it");
    note(fake, FAKE_CLOSING, conn, how);
    list_unlink(&conn->link);
    conn->begun = false;
    fake->alive -= conn->open;
    fake->closed += conn->open;
    fake->abrupt += conn->open && how == WEIR_ABRUPT;
    conn->open = false;
    if (how == WEIR_POLITE || fake->close.deaf)
        (void)take_time(&fake->close, deadline);
    free(conn->handle);
    conn->handle = NULL;
    fake->handles--;
    fake->descriptors -= conn->descriptors;
    conn->descriptors = 0;
    note(fake, FAKE_CLOSED, conn, how);
}

static weir_condition check_conn(weir_conn *base, weir_reset how)
{
    struct fake_conn *conn = (struct fake_conn *)base;

    blame(conn->fake, conn->open, "check() of a connection that is not open");
    conn->fake->checks++;
    return conn->condition == WEIR_CLEAN && how == WEIR_RESET_FULL ? WEIR_DIRTY : conn->condition;
}

static weir_status reset_conn(weir_conn *base, weir_reset how, weir_deadline deadline,
                              weir_error *err)
{
    struct fake_conn *conn = (struct fake_conn *)base;
    struct fake      *fake = conn->fake;

    (void)how;
    blame(fake, conn->open && !conn->busy, "reset() of a connection that is not open and at rest");
    blame(fake, base->user == weir_self(), "reset() by a coroutine that may not use it");
    fake->resets++;
    note(fake, FAKE_RESET, conn, WEIR_POLITE);
    conn->busy = true;
    weir_status status = take_time(&fake->reset, deadline);
    conn->busy = false;
    if (status == WEIR_OK)
        status = fake->reset.status;
    fake->resets_failed += status != WEIR_OK;
    heard_of(conn);
    if (status == WEIR_OK)
        conn->condition = WEIR_CLEAN;
    else
        weir_error_set(err, status, "not reset: %s", weir_status_name(status));
    return status;
}

static weir_status ping_conn(weir_conn *base, weir_deadline deadline, weir_error *err)
{
    struct fake_conn *conn = (struct fake_conn *)base;
    struct fake      *fake = conn->fake;

    blame(fake, conn->open && !conn->busy, "ping() of a connection that is not open and at rest");
    blame(fake, base->user == weir_self(), "ping() by a coroutine that may not use it");
    fake->pings++;
    raise_peak(++fake->pinging, &fake->pinging_peak);
    note(fake, FAKE_PING, conn, WEIR_POLITE);
    conn->busy = true;
    weir_status status = take_time(&fake->ping, deadline);
    conn->busy = false;
    fake->pinging--;
    if (status == WEIR_OK)
        status = fake->ping.status;
    heard_of(conn);
    if (status != WEIR_OK)
        weir_error_set(err, status, "%s", fake->ping.words ? fake->ping.words : "no answer");
    return status;
}

static bool last_words(weir_conn *base, weir_error *err)
{
    struct fake *fake = ((struct fake_conn *)base)->fake;

    blame(fake, !base->user, "last_words() of a connection in use");
    if (!fake->last_words)
        return false;
    weir_error_set(err, WEIR_LOST, "%s", fake->last_words);
    return true;
}

static weir_status describe(weir_conn *base, weir_error *err)
{
    const struct fake_conn *conn = (struct fake_conn *)base;

    if (conn->condition == WEIR_BROKEN || conn->condition == WEIR_GONE)
        return weir_error_set(err, WEIR_LOST, "the fake connection is lost");
    return weir_error_set(err, WEIR_OK, "%s", "");
}

static void interrupt(weir_conn *base)
{
    struct fake_conn *conn = (struct fake_conn *)base;

    blame(conn->fake, conn->open && base->user, "interrupt() of a connection that nobody uses");
    conn->fake->interrupts++;
    conn->condition = WEIR_GONE;
    if (conn->busy)
        weir_wake(conn->caller);
}

static bool disown(weir_conn *base)
{
    struct fake_conn *conn = (struct fake_conn *)base;

    blame(conn->fake, !conn->disowned, "disown() twice");
    conn->disowned = true;
    conn->condition = WEIR_GONE;
    conn->fake->disowned++;
    return conn->open && !conn->busy;
}

static void free_config(void *config)
{
    ((struct fake *)config)->configs_freed++;
}

const weir_driver fake_driver = {
    .name = "fake",
    .conn_size = sizeof(struct fake_conn),
    .sockets = sockets,
    .open = open_conn,
    .close = close_conn,
    .check = check_conn,
    .reset = reset_conn,
    .describe = describe,
    .ping = ping_conn,
    .last_words = last_words,
    .interrupt = interrupt,
    .disown = disown,
    .free_config = free_config,
};

/* ---- a user's side ---------------------------------------------------------------------- */

weir_status fake_query(weir_lease *lease, int64_t ms)
{
    struct fake_conn *conn = (struct fake_conn *)weir_lease_conn(lease, &fake_driver);

    blame(conn->fake, conn->open, "a query on a connection that is not open");
    blame(conn->fake, !conn->busy, "a query in the middle of another call");
    blame(conn->fake, conn->base.user == weir_self(), "a query by somebody who may not use it");
    if (conn->condition == WEIR_GONE)
        return WEIR_LOST;
    conn->busy = true;
    conn->caller = weir_waker_new();
    weir_status status = weir_park(weir_in_ms(ms), "a fake server's answer");
    conn->busy = false;
    heard_of(conn);
    if (status == WEIR_OK)
        return WEIR_LOST; /* somebody cut it */
    if (status == WEIR_TIMEOUT)
        status = weir_pending(WEIR_FOREVER); /* the answer, unless a scope ended first */
    if (status != WEIR_OK)
        conn->condition = WEIR_BROKEN;
    return status;
}

void fake_leave(weir_lease *lease, weir_condition condition)
{
    ((struct fake_conn *)weir_lease_conn(lease, &fake_driver))->condition = condition;
}

weir_condition fake_condition(weir_lease *lease)
{
    return ((struct fake_conn *)weir_lease_conn(lease, &fake_driver))->condition;
}

unsigned fake_stir(struct fake *fake)
{
    unsigned stirred = 0;

    LIST_EACH(node, &fake->conns) {
        struct fake_conn *conn = LIST_OF(node, struct fake_conn, link);
        if (conn->base.user)
            continue; /* whoever uses it will read what the server said */
        weir_conn_stirred(&conn->base);
        stirred++;
    }
    return stirred;
}
