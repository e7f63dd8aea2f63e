/*
 * pages.h - what may be done with a page of this process's memory.
 *
 * Knows:   protections: asking for them, changing them for a moment.
 * Ignores: what is on the page.
 */
#ifndef PAGES_H
#define PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <weir/error.h>

struct page {
    uintptr_t at;
    int       protection; /* PROT_*: what it had when it was asked for */
};

/* The address of the page that an address is on. */
uintptr_t page_of(uintptr_t address);

/* Ask for the protections of `count` pages, which must be in ascending order. Takes one
   descriptor for the while. */
weir_status pages_ask(struct page *pages, size_t count, weir_error *err);

/* Make them writable, all or none; and give them back what they had. Pages that are writable
   anyway are not touched. */
weir_status pages_open(const struct page *pages, size_t count, weir_error *err);
weir_status pages_close(const struct page *pages, size_t count, weir_error *err);

#endif
