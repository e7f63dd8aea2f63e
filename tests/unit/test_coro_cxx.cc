/*
 * test_coro_cxx.cc - C++ exceptions thrown and caught around switches.
 *
 * What is being caught and how much is unwinding belongs to a thread; with coroutines each
 * must have its own, or one rethrows what another one caught.
 */
extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
}

#include <weir/coro.h>
#include <weir/hub.h>

#include <exception>
#include <stdexcept>
#include <string>

namespace {

/* A coroutine takes notes, the test reads them: see coro_unit.h. */
int         broken;
const char *first_broken;

#define HOLDS(expr)                                                                       \
    do {                                                                                  \
        if (!(expr) && broken++ == 0)                                                     \
            first_broken = WEIR_HERE ": " #expr;                                          \
    } while (0)

void run(weir_fn app)
{
    broken = 0;
    assert_int_equal(weir_run(app, nullptr), WEIR_OK);
    if (broken)
        fail_msg("%d notes, the first: %s", broken, first_broken);
    assert_null(weir_hub_here());
}

enum { COROUTINES = 10, ROUNDS = 20 };

void *number(int i)
{
    return reinterpret_cast<void *>(static_cast<intptr_t>(i));
}

/* ---- caught ------------------------------------------------------------------------- */

std::string caught_here(const std::string &mine)
{
    try {
        weir_yield();
        throw std::runtime_error(mine);
    } catch (const std::runtime_error &outer) {
        (void)weir_yield(); /* others throw and catch meanwhile */
        HOLDS(outer.what() == mine);
        try {
            throw std::logic_error(mine + " inside");
        } catch (const std::logic_error &inner) {
            (void)weir_sleep(weir_in_ms(0));
            (void)weir_yield();
            HOLDS(inner.what() == mine + " inside");
        }
        (void)weir_yield();
        HOLDS(std::current_exception() != nullptr);
        throw; /* the outer one again, and nobody else's */
    }
}

weir_status throw_and_catch(void *arg)
{
    std::string mine = "number " + std::to_string(reinterpret_cast<intptr_t>(arg));

    for (int i = 0; i < ROUNDS; i++) {
        HOLDS(std::current_exception() == nullptr);
        try {
            caught_here(mine);
            HOLDS(!"it was thrown");
        } catch (const std::runtime_error &again) {
            (void)weir_yield();
            HOLDS(again.what() == mine);
        }
        HOLDS(std::uncaught_exceptions() == 0);
    }
    return WEIR_OK;
}

weir_status many_catch(void *)
{
    for (int i = 0; i < COROUTINES; i++)
        HOLDS(weir_spawn(nullptr, throw_and_catch, number(i)) != nullptr);
    return throw_and_catch(number(COROUTINES));
}

void exceptions_caught_around_switches_do_not_mix(void **)
{
    run(many_catch);
}

/* ---- in flight ---------------------------------------------------------------------- */

/* Gives way while an exception passes. */
struct gives_way {
    int before;
    ~gives_way()
    {
        HOLDS(std::uncaught_exceptions() == before + 1);
        (void)weir_yield();
        HOLDS(std::uncaught_exceptions() == before + 1);
        (void)weir_sleep(weir_in_ms(1));
        HOLDS(std::uncaught_exceptions() == before + 1);
    }
};

weir_status throw_through(void *arg)
{
    intptr_t mine = reinterpret_cast<intptr_t>(arg);

    for (int i = 0; i < ROUNDS; i++) {
        try {
            gives_way outer = { 0 };
            gives_way inner = { 0 };
            throw mine;
        } catch (intptr_t seen) {
            HOLDS(seen == mine);
        }
        HOLDS(std::uncaught_exceptions() == 0);
        (void)weir_yield();
    }
    return WEIR_OK;
}

weir_status throw_nothing(void *)
{
    for (int i = 0; i < 10 * ROUNDS; i++) {
        HOLDS(std::uncaught_exceptions() == 0);
        HOLDS(std::current_exception() == nullptr);
        (void)weir_yield();
    }
    return WEIR_OK;
}

weir_status many_unwind(void *)
{
    for (int i = 0; i < COROUTINES; i++)
        HOLDS(weir_spawn(nullptr, i % 3 ? throw_through : throw_nothing, number(i)) != nullptr);
    return throw_nothing(nullptr);
}

void an_exception_in_flight_is_seen_by_its_own_coroutine_only(void **)
{
    run(many_unwind);
}

/* A coroutine that begins while another one unwinds begins with nothing in flight. */
struct spawns {
    ~spawns()
    {
        HOLDS(weir_spawn(nullptr, throw_nothing, nullptr) != nullptr);
        (void)weir_yield();
        HOLDS(std::uncaught_exceptions() == 1);
    }
};

weir_status spawn_while_unwinding(void *)
{
    try {
        spawns here;
        throw 1;
    } catch (int) {
        HOLDS(weir_spawn(nullptr, throw_nothing, nullptr) != nullptr);
        (void)weir_yield();
        HOLDS(std::current_exception() != nullptr);
    }
    return WEIR_OK;
}

void a_coroutine_begins_with_no_exception(void **)
{
    run(spawn_while_unwinding);
}

/* ---- scopes ------------------------------------------------------------------------- */

void fail_within_a_deadline()
{
    WEIR_DEADLINE(WEIR_NOW);
    HOLDS(weir_check() == WEIR_TIMEOUT);
    weir_autoptr(weir_group) group = nullptr;
    HOLDS(weir_group_new(nullptr, &group, nullptr) == WEIR_OK);
    HOLDS(weir_spawn(group, throw_through, number(1)) != nullptr);
    throw std::runtime_error("out");
}

weir_status leave_scopes_by_exceptions(void *)
{
    for (int i = 0; i < 3; i++) {
        try {
            fail_within_a_deadline();
        } catch (const std::exception &) {
            HOLDS(weir_check() == WEIR_OK); /* the deadline ended with its scope */
        }
    }
    return WEIR_OK;
}

void an_exception_leaves_deadlines_and_groups_in_good_order(void **)
{
    run(leave_scopes_by_exceptions);
}

/* ---- the thread that runs it all ---------------------------------------------------- */

void the_threads_own_exceptions_are_as_they_were(void **)
{
    try {
        throw std::runtime_error("mine");
    } catch (const std::runtime_error &mine) {
        run(many_catch);
        assert_true(std::current_exception() != nullptr);
        assert_string_equal(mine.what(), "mine");
    }
    assert_true(std::current_exception() == nullptr);
    assert_int_equal(std::uncaught_exceptions(), 0);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exceptions_caught_around_switches_do_not_mix),
        cmocka_unit_test(an_exception_in_flight_is_seen_by_its_own_coroutine_only),
        cmocka_unit_test(a_coroutine_begins_with_no_exception),
        cmocka_unit_test(an_exception_leaves_deadlines_and_groups_in_good_order),
        cmocka_unit_test(the_threads_own_exceptions_are_as_they_were),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
