/*
 * patch.c - which libraries are patched, and how they are and are not any more.
 *
 * Knows:   libraries by name, and the slots of each one that is patched.
 * Ignores: what the substitutes do (patch_io.c and its neighbours), which libraries must not be
 *          patched (patch_refuse.c), ELF's details (elf_image.c).
 *
 * To patch is to plan first: every place of the library that names a function we have a
 * substitute for is looked at, and anything that is not understood ends the plan, while nothing
 * has been changed. Then its pages are made writable, all or none, each place gets its new
 * address by one store, and the pages get their protection back: RELRO stays RELRO while
 * the library is patched, too.
 *
 * A place whose symbol is not bound yet (a library without -z now) leads into the library's own
 * table of stubs. That is taken for what it will be bound to, and put back as it was.
 */
#define _GNU_SOURCE
#include "elf_image.h"
#include "log.h"
#include "pages.h"
#include "patch.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
    const char    *symbol;
    void         **slot;
    void          *before, *after;
    const char    *why; /* it was left; else NULL */
    weir_slot_kind kind;
};

struct library {
    char         *path;   /* as the dynamic linker has it */
    const char   *soname; /* in the library's own strings */
    void         *handle; /* keeps it loaded; NULL: this place is free */
    unsigned      count;
    struct place *places;
    size_t        place_count, place_room;
    struct page  *pages; /* those with a place that is changed, in ascending order */
    size_t        page_count;
};

static struct library  libraries[WEIR_PATCH_MAX]; /* each at the index of its seat */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- names -------------------------------------------------------------------------- */

static bool is_same_file(const char *path, const char *other)
{
    char *one = realpath(path, NULL), *two = realpath(other, NULL);
    bool  same = one && two && strcmp(one, two) == 0;

    free(one);
    free(two);
    return same;
}

static bool is_called(const char *path, const char *soname, const char *name)
{
    if (!strchr(name, '/'))
        return elf_name_fits(elf_basename(path), name) || elf_name_fits(soname, name);
    return strcmp(path, name) == 0 || is_same_file(path, name);
}

/* One that is patched. Under the lock. */
static struct library *patched_library(const char *name)
{
    for (size_t i = 0; i < WEIR_PATCH_MAX && name && *name; i++)
        if (libraries[i].handle && is_called(libraries[i].path, libraries[i].soname, name))
            return &libraries[i];
    return NULL;
}

struct search {
    const char      *name;
    struct elf_image found;
    const char      *another;
};

static bool note_match(const struct elf_image *image, void *arg)
{
    struct search *search = arg;

    if (!*image->name || !is_called(image->name, image->soname, search->name))
        return false; /* the program itself has no name */
    if (search->found.name) {
        search->another = image->name;
        return true;
    }
    search->found = *image;
    return false;
}

static weir_status find_loaded(const char *name, struct elf_image *out, weir_error *err)
{
    struct search    search = { .name = name };
    struct elf_image ignored;

    elf_find(note_match, &search, &ignored);
    if (search.another)
        return weir_error_set(err, WEIR_USAGE, "'%.40s' fits %.80s and %.80s: give the path of one",
                              name, search.found.name, search.another);
    if (!search.found.name)
        return weir_error_set(err, WEIR_USAGE, "no library '%.80s' is loaded: link with it or "
                              "dlopen() it first", name);
    *out = search.found;
    return WEIR_OK;
}

/* ---- the plan ----------------------------------------------------------------------- */

struct plan {
    const struct elf_image *image;
    struct library         *library;
    size_t                  seat;
    size_t                  changes;
    weir_error             *err;
    weir_status             status;
};

static bool refuse(struct plan *plan, const struct elf_ref *ref, const char *what)
{
    plan->status = weir_error_set(plan->err, WEIR_USAGE,
                                  "%.60s is not patched: its reference to %.30s (relocation of "
                                  "type %u) %s", elf_basename(plan->image->name), ref->symbol,
                                  ref->type, what);
    return false;
}

static bool add_place(struct plan *plan, const struct place *place)
{
    struct library *library = plan->library;

    if (library->place_count == library->place_room) {
        size_t        room = library->place_room ? 2 * library->place_room : 32;
        struct place *more = realloc(library->places, room * sizeof *more);
        if (!more) {
            plan->status = weir_error_set(plan->err, WEIR_NOMEM, "no memory to patch %.80s",
                                          plan->image->name);
            return false;
        }
        library->places = more;
        library->place_room = room;
    }
    library->places[library->place_count++] = *place;
    plan->changes += !place->why;
    return true;
}

static bool leave(struct plan *plan, struct place *place, const char *why)
{
    place->kind = WEIR_SLOT_LEFT;
    place->why = why;
    return add_place(plan, place);
}

/* Is this what our own call of that name would reach, maybe in another version of the symbol? */
static bool is_the_real_one(const char *symbol, void *bound)
{
    void   *real = dlsym(RTLD_DEFAULT, symbol);
    Dl_info here, there;

    return bound == real ||
           (real && dladdr(bound, &here) && dladdr(real, &there) &&
            here.dli_fbase == there.dli_fbase && here.dli_saddr == bound && here.dli_sname &&
            patch_substitute(here.dli_sname, 0) == patch_substitute(symbol, 0));
}

static bool plan_change(struct plan *plan, const struct elf_ref *ref, struct place *place)
{
    bool inside;

    if (ref->use == ELF_STRANGE)
        return refuse(plan, ref, "is of a kind that weir does not understand");
    if (ref->addend != 0)
        return refuse(plan, ref, "does not mean its beginning, but some bytes beside it");
    if (ref->slot % sizeof(void *) != 0)
        return refuse(plan, ref, "is not aligned, so no single store changes it");
    place->before = __atomic_load_n(place->slot, __ATOMIC_RELAXED);
    if (!place->before)
        return true; /* a weak one that nobody defines */
    inside = elf_contains(plan->image, (uintptr_t)place->before);
    if (inside && ref->own)
        return leave(plan, place, "the library's own function of that name");
    if (is_the_real_one(ref->symbol, place->before) || (inside && ref->use == ELF_CALL))
        return add_place(plan, place);
    if (ref->use == ELF_POINTER)
        return leave(plan, place, "the library has put something else there");
    return refuse(plan, ref, "is bound to something else than what weir would call: another "
                             "library stands in between");
}

static bool plan_place(const struct elf_ref *ref, void *arg)
{
    struct plan *plan = arg;
    void        *after = patch_substitute(ref->symbol, plan->seat);
    struct place place = { .symbol = ref->symbol, .slot = (void **)ref->slot, .after = after,
                           .kind = ref->use == ELF_POINTER ? WEIR_SLOT_POINTER : WEIR_SLOT_CALL };

    if (after)
        return plan_change(plan, ref, &place);
    const char *why = ref->own || ref->use == ELF_STRANGE ? NULL : patch_left_because(ref->symbol);
    if (!why)
        return true;
    place.before = __atomic_load_n(place.slot, __ATOMIC_RELAXED);
    return leave(plan, &place, why);
}

static int by_address(const void *a, const void *b)
{
    const struct page *one = a, *other = b;

    return (one->at > other->at) - (one->at < other->at);
}

static weir_status plan_pages(struct library *library, weir_error *err)
{
    library->pages = calloc(library->place_count, sizeof *library->pages);
    if (!library->pages)
        return weir_error_set(err, WEIR_NOMEM, "no memory to patch %.80s", library->path);

    struct page *pages = library->pages;
    size_t       found = 0, kept = 0;
    for (size_t i = 0; i < library->place_count; i++)
        if (!library->places[i].why)
            pages[found++].at = page_of((uintptr_t)library->places[i].slot);
    qsort(pages, found, sizeof *pages, by_address);
    for (size_t i = 0; i < found; i++)
        if (kept == 0 || pages[kept - 1].at != pages[i].at)
            pages[kept++] = pages[i];
    library->page_count = kept;
    return WEIR_OK;
}

static weir_status make_plan(const struct elf_image *image, struct library *library, size_t seat,
                             weir_error *err)
{
    struct plan plan = { .image = image, .library = library, .seat = seat, .err = err };

    elf_each_ref(image, plan_place, &plan);
    if (plan.status != WEIR_OK)
        return plan.status;
    if (plan.changes == 0)
        return weir_error_set(err, WEIR_USAGE,
                              "%.80s calls nothing that weir has a substitute for: which library "
                              "does its waiting?", image->name);
    return plan_pages(library, err);
}

/* ---- carrying it out ---------------------------------------------------------------- */

enum direction { TO_OURS, BACK };

static void change_places(struct library *library, enum direction way)
{
    for (size_t i = 0; i < library->place_count; i++) {
        struct place *place = &library->places[i];
        void         *from = way == BACK ? place->after : place->before;
        void         *to = way == BACK ? place->before : place->after;
        if (place->why)
            continue;
        if (!__atomic_compare_exchange_n(place->slot, &from, to, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED))
            LOG(WEIR_LOG_WARN, "%s: its reference to %s was changed by somebody else meanwhile, "
                "and is left", library->path, place->symbol);
    }
}

/* Protections are asked for anew each time: they are to be afterwards what they were before. */
static weir_status change(struct library *library, enum direction way, weir_error *err)
{
    weir_status status = pages_ask(library->pages, library->page_count, err);

    if (status == WEIR_OK)
        status = pages_open(library->pages, library->page_count, err);
    if (status != WEIR_OK)
        return status;
    change_places(library, way);
    status = pages_close(library->pages, library->page_count, err);
    if (status != WEIR_OK) /* those that could not be closed are open still */
        change_places(library, way == BACK ? TO_OURS : BACK);
    return status;
}

static void forget(struct library *library)
{
    free(library->path);
    free(library->places);
    free(library->pages);
    *library = (struct library){ 0 };
}

/* ---- patching ----------------------------------------------------------------------- */

/* A late call of the library that had it before may be inside still: then it is not free. */
static size_t free_seat(void)
{
    for (size_t i = 0; i < WEIR_PATCH_MAX; i++)
        if (!libraries[i].handle && atomic_load(&patch_seats[i].inside) == 0)
            return i;
    return WEIR_PATCH_MAX;
}

static weir_status patch_loaded(const struct elf_image *image, void *handle, weir_error *err)
{
    size_t      seat = free_seat();
    weir_status status;

    if (seat == WEIR_PATCH_MAX)
        return weir_error_set(err, WEIR_FULL, "%d libraries are patched already",
                              (int)WEIR_PATCH_MAX);
    struct library *library = &libraries[seat];
    *library = (struct library){ .path = strdup(image->name), .soname = image->soname };
    if (!library->path)
        return weir_error_set(err, WEIR_NOMEM, "no memory to patch %.80s", image->name);
    status = make_plan(image, library, seat, err);
    if (status == WEIR_OK) {
        atomic_store(&patch_seats[seat].taken, true);
        status = change(library, TO_OURS, err);
    }
    if (status != WEIR_OK) {
        atomic_store(&patch_seats[seat].taken, false);
        forget(library);
        return status;
    }
    library->handle = handle;
    library->count = 1;
    return WEIR_OK;
}

static weir_status patch_by_name(const char *name, weir_error *err)
{
    struct library  *known = patched_library(name);
    struct elf_image image;

    if (known) {
        known->count++;
        return WEIR_OK;
    }
    weir_status status = find_loaded(name, &image, err);
    if (status != WEIR_OK)
        return status;
    const char *why = patch_refused_because(&image);
    if (why)
        return weir_error_set(err, WEIR_USAGE, "%.80s cannot be patched: %s",
                              elf_basename(image.name), why);

    /* From here on it stays; and it is looked up again, for it might just have been unloaded. */
    void *handle = dlopen(image.name, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle)
        return weir_error_set(err, WEIR_USAGE, "%.80s cannot be held: it is being unloaded",
                              image.name);
    status = find_loaded(name, &image, err);
    if (status == WEIR_OK)
        status = patch_loaded(&image, handle, err);
    if (status != WEIR_OK)
        dlclose(handle);
    return status;
}

weir_status weir_patch(const char *library, weir_error *err)
{
    if (!library || !*library)
        return weir_error_set(err, WEIR_USAGE, "weir_patch() needs the name of a shared library; "
                              "the program itself cannot be patched");
    fork_mind();
    pthread_mutex_lock(&lock);
    weir_status status = patch_by_name(library, err);
    pthread_mutex_unlock(&lock);
    return status;
}

/* ---- un-patching -------------------------------------------------------------------- */

static weir_status say_not_patched(const char *name, weir_error *err)
{
    return weir_error_set(err, WEIR_USAGE, "no library '%.80s' is patched", name ? name : "");
}

static weir_status say_who_is_inside(const struct library *library, struct seat *seat,
                                     weir_error *err)
{
    char who[160];

    seat_describe(seat, who, sizeof who);
    return weir_error_set(err, WEIR_BUSY, "%.60s stays patched, coroutines are inside: %s",
                          elf_basename(library->path), who);
}

static weir_status unpatch(struct library *library, weir_error *err)
{
    struct seat *seat = &patch_seats[library - libraries];

    if (atomic_load(&seat->inside))
        return say_who_is_inside(library, seat, err);
    atomic_store(&seat->taken, false);
    weir_status status = atomic_load(&seat->inside) ? say_who_is_inside(library, seat, err)
                                                    : change(library, BACK, err);
    if (status != WEIR_OK)
        atomic_store(&seat->taken, true);
    return status;
}

weir_status weir_unpatch(const char *name, weir_error *err)
{
    weir_status status = WEIR_OK;
    void       *handle = NULL;

    pthread_mutex_lock(&lock);
    struct library *library = patched_library(name);
    if (!library) {
        status = say_not_patched(name, err);
    } else if (library->count > 1) {
        library->count--;
    } else {
        status = unpatch(library, err);
        if (status == WEIR_OK) {
            handle = library->handle;
            forget(library);
        }
    }
    pthread_mutex_unlock(&lock);
    if (handle)
        dlclose(handle); /* its destructors may call us */
    return status;
}

/* ---- telling ------------------------------------------------------------------------ */

weir_status weir_patch_each(const char *name, void (*fn)(const weir_slot *slot, void *arg),
                            void *arg, weir_error *err)
{
    weir_status status = WEIR_OK;

    pthread_mutex_lock(&lock);
    const struct library *library = patched_library(name);
    if (!library)
        status = say_not_patched(name, err);
    for (size_t i = 0; library && i < library->place_count; i++) {
        const struct place *place = &library->places[i];
        fn(&(weir_slot){ .library = library->path, .symbol = place->symbol, .kind = place->kind,
                         .address = place->slot, .before = place->before, .why = place->why },
           arg);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

unsigned weir_patch_count(const char *name)
{
    pthread_mutex_lock(&lock);
    const struct library *library = patched_library(name);
    unsigned              count = library ? library->count : 0;
    pthread_mutex_unlock(&lock);
    return count;
}

WEIR_PRINTF(3, 4) static void say(weir_write_fn write, void *arg, const char *fmt, ...)
{
    char    line[512];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (length > 0)
        write(line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1, arg);
}

static void report_library(const struct library *library, weir_write_fn write, void *arg)
{
    char who[400];

    seat_describe(&patch_seats[library - libraries], who, sizeof who);
    say(write, arg, "%.200s: patched %u times; inside: %s\n", library->path, library->count,
        *who ? who : "nobody");
    for (size_t i = 0; i < library->place_count; i++) {
        const struct place *place = &library->places[i];
        say(write, arg, "  %-16.64s %-8s at %p%s%s\n", place->symbol,
            place->kind == WEIR_SLOT_LEFT   ? "left"
            : place->kind == WEIR_SLOT_CALL ? "call"
                                            : "pointer",
            (void *)place->slot, place->why ? ": " : "", place->why ? place->why : "");
    }
}

void weir_patch_report(weir_write_fn write, void *arg)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < WEIR_PATCH_MAX; i++)
        if (libraries[i].handle)
            report_library(&libraries[i], write, arg);
    pthread_mutex_unlock(&lock);
}

/* ---- fork --------------------------------------------------------------------------- */

void patch_hold(void)
{
    pthread_mutex_lock(&lock);
    seats_hold();
}

void patch_let_go(void)
{
    seats_let_go();
    pthread_mutex_unlock(&lock);
}
