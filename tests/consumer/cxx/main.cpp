/*
 * main.cpp - a C++ program outside of weir's tree: exceptions are thrown, caught and rethrown
 * around yields in several coroutines at once. The runtime keeps the exceptions being handled
 * in one list a thread; unless each coroutine has a list of its own, `throw;` after a yield
 * throws somebody else's.
 */
#include <cstdio>
#include <stdexcept>
#include <string>

#include <weir/mysql.h>

namespace {

struct juggler {
    int id;
    int right;
};

void throw_and_yield(int id, int round)
{
    try {
        throw std::runtime_error("juggler " + std::to_string(id));
    } catch (const std::exception &) {
        /* Leave the handler suspended; how often differs, so that their ends interleave. */
        for (int i = 0; i <= (id + round) % 3; i++)
            (void)weir_yield();
        throw;
    }
}

weir_status juggle(void *arg)
{
    juggler *me = static_cast<juggler *>(arg);

    for (int round = 0; round < 20; round++) {
        try {
            throw_and_yield(me->id, round);
        } catch (const std::exception &caught) {
            (void)weir_yield();
            if (caught.what() == "juggler " + std::to_string(me->id))
                me->right++;
        }
    }
    return std::uncaught_exceptions() == 0 ? WEIR_OK : WEIR_FAILED;
}

weir_status app(void *arg)
{
    weir_error err;
    weir_autoptr(weir_group) group = nullptr;
    juggler *jugglers = static_cast<juggler *>(arg);

    if (weir_group_new(nullptr, &group, &err) != WEIR_OK)
        return weir_fail(&err);
    for (int i = 0; i < 8; i++)
        weir_spawn(group, juggle, &jugglers[i]);
    return weir_group_wait(group, weir_in_ms(5000));
}

} // namespace

int main()
{
    juggler jugglers[8] = {};
    int right = 0;

    for (int i = 0; i < 8; i++)
        jugglers[i].id = i;
    weir_status status = weir_run(app, jugglers);
    for (const juggler &one : jugglers)
        right += one.right;
    std::printf("weir %s: %d of 160 caught their own\n", weir_status_name(status), right);
    return status == WEIR_OK && right == 160 ? 0 : 1;
}
