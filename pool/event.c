/*
 * event.c - telling who listens what happens in a pool.
 *
 * The events and their order are CMAP's. Each is told in the step in which it happens, so the
 * order told is the order in which things were. The listener runs in the middle of that step:
 * for as long as it does, its coroutine may not wait and the pool's verbs refuse.
 */
#include "pool.h"

static void tell(weir_pool *pool, weir_pool_event *event)
{
    struct hot_task *task = (struct hot_task *)hot_self();
    bool             could_not_yield = task && task->no_yield;
    bool             was_telling = pool->telling;

    event->pool = pool;
    if (task)
        task->no_yield = true;
    pool->telling = true;
    pool->on_event(event, pool->on_event_arg);
    pool->telling = was_telling;
    if (task)
        task->no_yield = could_not_yield;
}

WEIR_COLD void tell_pool(weir_pool *pool, weir_pool_event_type type, bool interrupt)
{
    tell(pool, &(weir_pool_event){ .type = type, .interrupt = interrupt });
}

WEIR_COLD void tell_conn(struct conn *conn, weir_pool_event_type type, int64_t duration_ns)
{
    tell(conn->pool, &(weir_pool_event){
                         .type = type, .conn_id = conn->id, .duration_ns = duration_ns });
}

/* Once, and only of one that was told of before. */
WEIR_COLD void tell_conn_closed(struct conn *conn, const char *message)
{
    if (!conn->announced)
        return;
    conn->announced = false;
    tell(conn->pool, &(weir_pool_event){ .type = WEIR_EVENT_CONN_CLOSED,
                                         .conn_id = conn->id,
                                         .reason = conn->reason,
                                         .message = message });
}

WEIR_COLD void tell_check_out_failed(weir_pool *pool, weir_status status, const weir_error *err,
                                     int64_t since_ns)
{
    tell(pool, &(weir_pool_event){ .type = WEIR_EVENT_CHECK_OUT_FAILED,
                                   .status = status,
                                   .message = err ? err->message : NULL,
                                   .duration_ns = hot_now() - since_ns });
}

void weir_pool_on_event(weir_pool *pool, weir_pool_event_fn fn, void *arg)
{
    if (pool_check_verb(pool, "weir_pool_on_event", NULL) != WEIR_OK)
        return;
    pool->on_event = fn;
    pool->on_event_arg = arg;
}

/* ---- names --------------------------------------------------------------------------- */

const char *weir_pool_event_name(weir_pool_event_type type)
{
    static const char *const names[] = {
        [WEIR_EVENT_POOL_CREATED] = "ConnectionPoolCreated",
        [WEIR_EVENT_POOL_READY] = "ConnectionPoolReady",
        [WEIR_EVENT_POOL_CLEARED] = "ConnectionPoolCleared",
        [WEIR_EVENT_POOL_CLOSED] = "ConnectionPoolClosed",
        [WEIR_EVENT_CONN_CREATED] = "ConnectionCreated",
        [WEIR_EVENT_CONN_READY] = "ConnectionReady",
        [WEIR_EVENT_CONN_CLOSED] = "ConnectionClosed",
        [WEIR_EVENT_CHECK_OUT_STARTED] = "ConnectionCheckOutStarted",
        [WEIR_EVENT_CHECK_OUT_FAILED] = "ConnectionCheckOutFailed",
        [WEIR_EVENT_CHECKED_OUT] = "ConnectionCheckedOut",
        [WEIR_EVENT_CHECKED_IN] = "ConnectionCheckedIn",
    };

    return (unsigned)type < WEIR_EVENTS ? names[type] : "(no weir_pool_event_type)";
}

const char *weir_close_reason_cmap(weir_close_reason reason)
{
    switch (reason) {
    case WEIR_CLOSE_STALE:
        return "stale";
    case WEIR_CLOSE_POOL:
        return "poolClosed";
    case WEIR_CLOSE_IDLE:
    case WEIR_CLOSE_AGE:
    case WEIR_CLOSE_EVICTED:
    case WEIR_CLOSE_RESIZED:
        return "idle";
    default:
        return "error";
    }
}

const char *weir_check_out_reason_cmap(weir_status status)
{
    switch (status) {
    case WEIR_CLOSED:
        return "poolClosed";
    case WEIR_CONNECT:
    case WEIR_NOMEM:
        return "connectionError";
    default:
        return "timeout";
    }
}
