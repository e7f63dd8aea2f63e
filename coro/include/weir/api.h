/*
 * weir/api.h - how every public declaration of weir is marked.
 *
 * Knows:   the version, symbol visibility, the attributes our headers use.
 * Ignores: everything else. Needs gcc or clang (cleanup attribute).
 */
#ifndef WEIR_API_H
#define WEIR_API_H

#define WEIR_VERSION_MAJOR 0
#define WEIR_VERSION_MINOR 1
#define WEIR_VERSION_PATCH 0
#define WEIR_VERSION "0.1.0"

#define WEIR_API __attribute__((visibility("default")))
#define WEIR_MUST_CHECK __attribute__((warn_unused_result))
#define WEIR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define WEIR_COLD __attribute__((cold)) /* what leads to it is kept out of the hot path's lines */

#define WEIR_STRING_(x) #x
#define WEIR_STRING(x) WEIR_STRING_(x)
#define WEIR_JOIN_(a, b) a##b
#define WEIR_JOIN(a, b) WEIR_JOIN_(a, b)

/* The place in the caller's source, as one string that lives for ever. */
#define WEIR_HERE __FILE__ ":" WEIR_STRING(__LINE__)

/*
 * A variable that is given back when it goes out of scope, on every path:
 *     weir_autoptr(weir_lease) lease = NULL;
 * Exists for weir_pool and weir_chan (freed), weir_lease (released), weir_group (cancelled
 * and joined), weir_offload_pool (let go), weir_job (not begun, or waited for).
 */
#define weir_autoptr(type) __attribute__((cleanup(type##_cleanup_))) type *

#ifdef __cplusplus
#define WEIR_BEGIN_DECLS extern "C" {
#define WEIR_END_DECLS }
#else
#define WEIR_BEGIN_DECLS
#define WEIR_END_DECLS
#endif

#endif
