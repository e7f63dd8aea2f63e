/*
 * crowd.c - how many lives each database has at a time.
 *
 * Knows:   how many there may be, and how fast a pool gives out leases.
 * Ignores: what lives do with them.
 *
 * With one database the crowd is what was asked for. With two, one server is mostly slower than
 * the other, and so is everything while the other one is being restarted. A crowd of a fixed size
 * would then wait for as long as its number over the server's speed, which says nothing about
 * whether one pool lives at the other's expense. So each database has a life for each of its
 * connections, and beside them as many as it lately served in QUEUE_MS: each pool is always at
 * its limit, somebody always waits, and whoever waits for much longer than that was passed over,
 * or his server has become several times slower at once.
 */
#include "soak.h"

enum {
    QUEUE_MS = 150,
    QUEUE_MIN = 16,       /* so that there are always some who wait */
    RATE_NS = 300000000,  /* the rate is one of about the last so many ns */
};

/* Of two, the one that has a number of its own gets that at most, the other all that are left. */
void crowd_share(void)
{
    unsigned left = soak.options.concurrency;

    EACH_DATABASE(db) {
        db->concurrency = soak.databases > 1 ? db->dialect->crowd * soak.options.cap : 0;
        left -= db->concurrency;
    }
    EACH_DATABASE(db) {
        if (!db->concurrency)
            db->concurrency = left;
        db->room = soak.databases > 1 ? soak.options.cap + QUEUE_MIN : db->concurrency;
    }
}

/* So many leases were given out within the last so many ns. */
void crowd_look(struct database *db, uint64_t leases, int64_t ns)
{
    double part = ns < RATE_NS ? (double)ns / RATE_NS : 1;
    double waiting;

    if (soak.databases == 1 || ns <= 0)
        return;
    db->leases_per_s += ((double)leases * 1e9 / (double)ns - db->leases_per_s) * part;
    waiting = db->leases_per_s * QUEUE_MS / 1000;
    db->room = soak.options.cap + (waiting > QUEUE_MIN ? (unsigned)waiting : QUEUE_MIN);
    if (db->room > db->concurrency)
        db->room = db->concurrency;
}

/* Whoever starts lives waits here until one more has room. False: he is to stop. */
bool crowd_wait(const struct database *db)
{
    while (weir_group_running(db->lives) >= db->room)
        if (weir_sleep(weir_in_ms(1)) != WEIR_OK)
            return false;
    return true;
}
