/*
 * forkserver.h - the small process that helper processes are forked from.
 *
 * Knows:   how it is made, what it is asked, what it answers.
 * Ignores: who asks, and how many may ask at once: helper.c.
 */
#ifndef FORKSERVER_H
#define FORKSERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>
#include <weir/process.h>

enum { HELPERS_MAX = 256, HELPER_FILE_MAX = 1024 };

/* A message to the server, with two descriptors: the call's socket, and its memory. */
struct helper_order {
    weir_process_fn fn;
    size_t          in_size, out_room;
    const char     *base;                  /* where the file is mapped there, */
    char            file[HELPER_FILE_MAX]; /* that has fn, as the asker's linker knows it */
};

/* As much of it as is sent: many are in the socket at once when many are called at once. */
static inline size_t helper_order_size(const struct helper_order *order)
{
    return offsetof(struct helper_order, file) + strlen(order->file) + 1;
}

/* The answer, by the call's socket, once the helper has ended and nothing of it is left. Whoever
   closes his end of it, or shuts it down for writing, has the helper killed. */
struct helper_end {
    pid_t pid;
    int   wait_status; /* as from waitpid(2) */
    int   errnum;      /* where there was no helper at all */
};

/* How the memory that both share begins; then what goes in, and room for what comes out. */
struct helper_memory {
    bool    returned; /* the function did, with: */
    ssize_t result;
    bool    not_found; /* it is in no file that the helper can open */
};

size_t helper_in_at(void);
size_t helper_out_at(size_t in_size);
size_t helper_memory_size(size_t in_size, size_t out_room);

/* Fork it. *control gets the socket that takes orders; whoever has the last copy of it, and
   closes it, ends the server and all helpers. Returns an errno. */
int forkserver_start(int *control, pid_t *pid);

/* In a helper, where a call of weir_offload_process() runs at once. */
bool forkserver_is_helper(void);

#endif
