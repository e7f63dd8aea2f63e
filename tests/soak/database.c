/*
 * database.c - which databases this build can soak, and what all of them together did.
 */
#include "soak.h"

#include <string.h>

extern const struct dialect dialect_mysql, dialect_mongo;

/* MongoDB last: see --fetch in options.c. */
const struct dialect *const dialects[DATABASES_MAX + 1] = {
    &dialect_mysql,
#ifdef SOAK_MONGO
    &dialect_mongo,
#endif
};

static void add(struct tally *sum, const struct tally *t)
{
    sum->well_ended += t->well_ended;
    sum->well_failed += t->well_failed;
    for (unsigned i = 0; i < KINDS; i++) {
        sum->planned[i] += t->planned[i];
        sum->happened[i] += t->happened[i];
    }
    for (unsigned i = 0; i <= WEIR_FAILED; i++) {
        sum->failures[i] += t->failures[i];
        sum->unexpected[i] += t->unexpected[i];
    }
    sum->started += t->started;
    sum->lives += t->lives;
    sum->queries += t->queries;
    sum->retries += t->retries;
    sum->emfile_surfaced += t->emfile_surfaced;
    sum->wrong_answers += t->wrong_answers;
    sum->nested_served += t->nested_served;
    if (!sum->first_emfile[0])
        memcpy(sum->first_emfile, t->first_emfile, sizeof sum->first_emfile);
    spread_join(&sum->wait, &t->wait);
    spread_join(&sum->query, &t->query);
}

const struct tally *tally_sum(void)
{
    static struct tally sum;

    memset(&sum, 0, sizeof sum);
    EACH_DATABASE(db)
        add(&sum, &db->tally);
    return &sum;
}
