/*
 * list.h - intrusive, circular, doubly linked lists.
 *
 * A node that is on no list is linked to itself, so "am I queued?" and "unlink" are always
 * safe to ask. A list's head is a node too.
 */
#ifndef LIST_H
#define LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define LIST_OF(node, type, member) ((type *)((char *)(node) - offsetof(type, member)))

static inline void list_init(struct list *node)
{
    node->prev = node->next = node;
}

/* For a head: nobody is queued. For a node: it is on no list. */
static inline bool list_empty(const struct list *node)
{
    return node->next == node;
}

static inline void list_insert_(struct list *node, struct list *prev, struct list *next)
{
    node->prev = prev;
    node->next = next;
    prev->next = node;
    next->prev = node;
}

static inline void list_append(struct list *head, struct list *node)
{
    list_insert_(node, head->prev, head);
}

static inline void list_prepend(struct list *head, struct list *node)
{
    list_insert_(node, head, head->next);
}

/* For a node nobody asks about until it is on a list again: it is left with its old links. */
static inline void list_drop(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
}

static inline void list_unlink(struct list *node)
{
    list_drop(node);
    list_init(node);
}

static inline struct list *list_first(const struct list *head)
{
    return list_empty(head) ? NULL : head->next;
}

static inline struct list *list_last(const struct list *head)
{
    return list_empty(head) ? NULL : head->prev;
}

/* Walk a list whose nodes may be unlinked (only the current one) on the way. */
#define LIST_EACH(node, head)                                                             \
    for (struct list *node = (head)->next, *node##_next = node->next; node != (head);     \
         node = node##_next, node##_next = node->next)

#endif
