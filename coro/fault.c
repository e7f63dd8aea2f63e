/*
 * fault.c - what a stack overflow looks like.
 *
 * A coroutine that runs off its stack touches the guard below it and the kernel sends
 * SIGSEGV. On a stack of its own, our handler says which coroutine it was and then lets the
 * fault take its course, to whoever handled SIGSEGV before us or to the default. Any other
 * fault is passed on unseen.
 */
#include "hub.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALTERNATE = 32768 }; /* bytes; MINSIGSTKSZ with AVX-512 state is about 3,500 */

static struct sigaction before;

/* Only what may be called in a handler: no stdio. */
static void say(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

static void say_number(uint64_t number)
{
    char digits[21], *at = digits + sizeof digits - 1;

    *at = '\0';
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    say(at);
}

/* Its name tells the story in a backtrace. */
__attribute__((noinline)) static void coroutine_stack_overflow(const weir_task *task,
                                                               size_t size)
{
    say("weir: a coroutine ran off its stack of ");
    say_number(size / 1024);
    say(" KiB");
    if (task) {
        say(": ");
        say(weir_task_name(task));
        say(" ");
        say_number(task->id);
        say(", spawned at ");
        say(task->site);
    }
    say(". Give it more by weir_spawn_opts.stack_size, or all of them by "
        "weir_run_opts.stack_size.\n");
}

static void on_fault(int number, siginfo_t *info, void *machine)
{
    size_t size;

    if (stack_guard_hit((uintptr_t)info->si_addr, &size))
        coroutine_stack_overflow(hub_here_ ? hub_here_->running : NULL, size);

    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, machine);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else {
        signal(number, SIG_DFL); /* returning repeats the fault, and that ends the process */
    }
}

static void install(void)
{
    struct sigaction action = { 0 };

    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &before);
}

/* The alternate stack goes with its thread. */
static pthread_key_t alternates;

static void alternate_free(void *memory)
{
    stack_t off = { .ss_flags = SS_DISABLE };

    sigaltstack(&off, NULL);
    free(memory);
}

static void prepare(void)
{
    pthread_key_create(&alternates, alternate_free);
    install();
}

void fault_watch_thread(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    stack_t               now;

    pthread_once(&once, prepare);
    if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE))
        return; /* the application's own will do */
    void *memory = malloc(ALTERNATE);
    if (!memory)
        return; /* an overflow will end the process without its name */
    stack_t ours = { .ss_sp = memory, .ss_size = ALTERNATE };
    sigaltstack(&ours, NULL);
    pthread_setspecific(alternates, memory);
}
