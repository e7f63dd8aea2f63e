/*
 * deed.c - what good work shares, whatever the database: which deed comes next, answers that
 * are somebody else's, and the books of what was written.
 *
 * A row's note follows from its id, so an answer that belongs to somebody else's question is
 * noticed: that is what a connection lent on in the middle of a reply would give.
 */
#include "soak.h"

enum deed deed_draw(struct life *life)
{
    const uint8_t *of_twenty = life->db->dialect->of_twenty;
    uint32_t       draw = life_random(life, 20);
    unsigned       deed = 0;

    while (draw >= of_twenty[deed])
        draw -= of_twenty[deed++];
    return (enum deed)deed;
}

weir_status deed_wrong(struct database *db, weir_error *err, const char *what, const char *got)
{
    struct tally *t = &db->tally;

    if (!t->wrong_answers++)
        snprintf(t->first_wrong, sizeof t->first_wrong, "%s; the answer was '%.80s'", what, got);
    return weir_error_set(err, WEIR_FAILED, "%s; the answer was '%.80s'", what, got);
}

void deed_write_failed(struct database *db, uint64_t id, bool refused, const weir_error *err)
{
    if (err->outcome == WEIR_OUTCOME_NOT_SENT || refused)
        ledger_denied(&db->ledger, id);
}
