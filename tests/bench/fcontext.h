/*
 * fcontext.h - Boost's context switch as C sees it; no header of Boost declares it so.
 */
#ifndef FCONTEXT_H
#define FCONTEXT_H

#include <stddef.h>

typedef void *fcontext_t;

typedef struct {
    fcontext_t from; /* where the other side left off */
    void      *data; /* what it sent along */
} transfer_t;

transfer_t jump_fcontext(fcontext_t to, void *data);
fcontext_t make_fcontext(void *top, size_t size, void (*entry)(transfer_t));

#endif
