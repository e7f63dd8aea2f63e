/*
 * What the messages on a MongoDB stream tell: whether a reply is owed, by whom, and what became
 * of a command. Bytes by hand; no server, no hub.
 */
#include "mongo_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { OP_REPLY = 1, OP_QUERY = 2004, OP_COMPRESSED = 2012, OP_MSG = 2013, MORE = 2 };

struct bench {
    struct mo_client client;
    struct mo_stream stream;
};

struct message {
    unsigned char bytes[64];
    size_t        size;
};

static void put(struct message *m, size_t at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        m->bytes[at + (size_t)i] = (unsigned char)(value >> (8 * i));
}

static struct message message(uint32_t id, uint32_t answers, uint32_t opcode, uint32_t flags,
                              const char *command)
{
    struct message m = { .size = 60 };

    put(&m, 0, (uint32_t)m.size);
    put(&m, 4, id);
    put(&m, 8, answers);
    put(&m, 12, opcode);
    put(&m, 16, flags);
    strcpy((char *)m.bytes + 26, command);
    return m;
}

/* Sent as the library does, number by number. */
static void sends(struct bench *b, struct message m)
{
    mongoc_iovec_t iov[4] = { { m.bytes, 4 },
                              { m.bytes + 4, 12 },
                              { m.bytes + 16, 10 },
                              { m.bytes + 26, m.size - 26 } };

    mo_message_begin(&b->stream, iov, 4);
    assert_int_equal(b->stream.out_left, m.size);
    assert_true(mo_message_owed(&b->stream)); /* it is not out yet */
    b->stream.out_left = 0;
    b->stream.due = !b->stream.no_reply;
    b->client.unsure = !b->stream.no_reply && !b->stream.hello;
}

static bool hears(struct bench *b, struct message m, size_t at_once)
{
    for (size_t at = 0; at < m.size; at += at_once) {
        size_t n = m.size - at < at_once ? m.size - at : at_once;
        if (!mo_message_read(&b->stream, m.bytes + at, n))
            return false;
    }
    return true;
}

static struct bench bench(void)
{
    return (struct bench){ .stream.port = 27017 };
}

static void a_reply_settles_its_request_however_it_comes(void **state)
{
    (void)state;
    for (size_t at_once = 1; at_once <= 60; at_once++) {
        struct bench b = bench();
        b.stream.client = &b.client;
        sends(&b, message(7, 0, OP_MSG, 0, "insert"));
        assert_true(mo_message_owed(&b.stream));
        assert_true(hears(&b, message(1, 7, OP_MSG, 0, ""), at_once));
        assert_false(mo_message_owed(&b.stream));
        assert_true(b.client.answered);
        assert_false(b.client.unsure);
    }
}

static void half_a_reply_settles_nothing(void **state)
{
    struct bench   b = bench();
    struct message half = message(1, 7, OP_MSG, 0, "");

    (void)state;
    b.stream.client = &b.client;
    sends(&b, message(7, 0, OP_MSG, 0, "insert"));
    half.size = 59; /* of the 60 that its head tells of */
    assert_true(hears(&b, half, 10));
    assert_true(mo_message_owed(&b.stream));
    assert_true(b.client.unsure);
    assert_false(b.client.answered);
}

static void a_reply_to_another_request_is_nonsense(void **state)
{
    struct bench b = bench();

    (void)state;
    b.stream.client = &b.client;
    sends(&b, message(7, 0, OP_MSG, 0, "find"));
    assert_false(hears(&b, message(1, 6, OP_MSG, 0, ""), 60));
    assert_non_null(strstr(b.client.trouble.text, "another request"));
}

static void a_reply_that_nobody_asked_for_is_nonsense(void **state)
{
    struct bench b = bench();

    (void)state;
    b.stream.client = &b.client;
    assert_false(hears(&b, message(1, 0, OP_MSG, 0, ""), 60));
}

static void lengths_that_cannot_be_are_nonsense(void **state)
{
    static const uint32_t sizes[] = { 0, 16, 20, 0x80000000u, 0xffffffffu };

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct bench   b = bench();
        struct message m = message(1, 7, OP_MSG, 0, "");
        b.stream.client = &b.client;
        sends(&b, message(7, 0, OP_MSG, 0, "find"));
        put(&m, 0, sizes[i]);
        assert_false(hears(&b, m, 60));
    }
}

static void a_hello_is_known_in_each_of_its_forms(void **state)
{
    static const struct {
        uint32_t    opcode;
        const char *command;
        bool        hello;
    } requests[] = {
        { OP_QUERY, "", true },         { OP_MSG, "hello", true },  { OP_MSG, "isMaster", true },
        { OP_MSG, "ismaster", true },   { OP_MSG, "find", false },  { OP_MSG, "helloWorld", false },
        { OP_MSG, "saslStart", false }, { OP_COMPRESSED, "hello", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct bench b = bench();
        b.stream.client = &b.client;
        sends(&b, message(7, 0, requests[i].opcode, 0, requests[i].command));
        assert_int_equal(b.stream.hello, requests[i].hello);
        assert_true(hears(&b, message(1, 7, OP_REPLY, 0, ""), 60));
        assert_int_equal(b.client.answered, !requests[i].hello);
    }
}

static void an_unacknowledged_write_owes_nothing(void **state)
{
    struct bench b = bench();

    (void)state;
    b.stream.client = &b.client;
    sends(&b, message(7, 0, OP_MSG, MORE, "insert"));
    assert_false(mo_message_owed(&b.stream));
    assert_false(hears(&b, message(1, 7, OP_MSG, 0, ""), 60));
}

static void an_exhaust_cursor_is_owed_until_its_last_reply(void **state)
{
    struct bench b = bench();

    (void)state;
    b.stream.client = &b.client;
    sends(&b, message(7, 0, OP_MSG, 0, "find"));
    assert_true(hears(&b, message(100, 7, OP_MSG, MORE, ""), 13));
    assert_true(mo_message_owed(&b.stream));
    assert_true(hears(&b, message(101, 100, OP_MSG, MORE, ""), 13));
    assert_true(mo_message_owed(&b.stream));
    assert_true(hears(&b, message(102, 101, OP_MSG, 0, ""), 13));
    assert_false(mo_message_owed(&b.stream));
}

static void what_a_compressed_message_hides_is_not_held_against_it(void **state)
{
    struct bench b = bench();

    (void)state;
    b.stream.client = &b.client;
    sends(&b, message(7, 0, OP_COMPRESSED, 0, "")); /* perhaps an unacknowledged write */
    assert_false(mo_message_owed(&b.stream));
    sends(&b, message(8, 0, OP_COMPRESSED, 0, ""));
    assert_true(hears(&b, message(100, 8, OP_COMPRESSED, 0, ""), 60));
    assert_true(b.client.answered);
    assert_false(mo_message_owed(&b.stream));
    assert_true(hears(&b, message(101, 100, OP_COMPRESSED, 0, ""), 60)); /* perhaps a cursor's */
    sends(&b, message(9, 0, OP_COMPRESSED, 0, ""));
    assert_false(hears(&b, message(102, 8, OP_COMPRESSED, 0, ""), 60)); /* too late, all the same */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_settles_its_request_however_it_comes),
        cmocka_unit_test(half_a_reply_settles_nothing),
        cmocka_unit_test(a_reply_to_another_request_is_nonsense),
        cmocka_unit_test(a_reply_that_nobody_asked_for_is_nonsense),
        cmocka_unit_test(lengths_that_cannot_be_are_nonsense),
        cmocka_unit_test(a_hello_is_known_in_each_of_its_forms),
        cmocka_unit_test(an_unacknowledged_write_owes_nothing),
        cmocka_unit_test(an_exhaust_cursor_is_owed_until_its_last_reply),
        cmocka_unit_test(what_a_compressed_message_hides_is_not_held_against_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
