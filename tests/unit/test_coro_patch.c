/*
 * test_coro_patch.c - patching shared libraries and un-patching them: which slots, which pages,
 * what is refused. What the patched calls do is in test_coro_patch_calls.c.
 */
#define _GNU_SOURCE
#include "patch/patch_unit.h"

#include "elf_image.h"
#include "pages.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <weir/process.h>

static const char *const files[] = { LIBRARY("client_now"), LIBRARY("client_lazy"),
                                     LIBRARY("client_no_plt") };
enum { FILES = sizeof files / sizeof *files };

/* ---- the story ---------------------------------------------------------------------- */

enum { CALLERS = 10 };

static struct story {
    const struct client *client;
    unsigned             ms;
    int                  begun, begun_at_first_end, ended;
    int                  results[CALLERS];
} story;

static weir_status call_it(void *arg)
{
    int number = (int)(intptr_t)arg;

    story.begun++;
    story.results[number] = story.client->slow_square(number, story.ms);
    if (story.ended++ == 0)
        story.begun_at_first_end = story.begun;
    return WEIR_OK;
}

static weir_status ten_callers(void *arg)
{
    weir_autoptr(weir_group) group = NULL;

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (intptr_t i = 0; i < CALLERS; i++)
        weir_spawn(group, call_it, (void *)i);
    return weir_group_wait(group, WEIR_FOREVER);
}

static weir_status ten_callers_in_a_world(void *arg)
{
    weir_status status = ten_callers(arg);

    HOLDS_EQ(world_now_ms(), story.ms); /* all of them in the time of one */
    return status;
}

static void tell_story(const struct client *client, unsigned ms)
{
    story = (struct story){ .client = client, .ms = ms };
}

static void assert_squares(void)
{
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(story.results[i], i * i);
}

static void patched_library(void **state)
{
    (void)state;
    for (int i = 0; i < FILES; i++) {
        tell_story(client_of(files[i]), 2000);
        assert_patched(files[i]);
        run_world(ten_callers_in_a_world, NULL);
        assert_squares();
        assert_int_equal(story.begun_at_first_end, CALLERS);
        assert_unpatched(files[i]);
    }
}

static void unpatched_it_blocks_one_caller_after_the_other(void **state)
{
    (void)state;
    tell_story(client_of(files[0]), 20);
    int64_t began = real_ms();
    run_real(ten_callers, NULL);
    assert_squares();
    assert_int_equal(story.begun_at_first_end, 1);
    assert_in_range(real_ms() - began, 20 * CALLERS, 60000);
}

/* ---- un-patching -------------------------------------------------------------------- */

struct slots {
    int   calls, pointers, left;
    void *before[64], *now[64];
    void **address[64];
};

static void note_slot(const weir_slot *slot, void *arg)
{
    struct slots *slots = arg;
    int           n = slots->calls + slots->pointers;

    if (slot->kind == WEIR_SLOT_LEFT) {
        assert_non_null(slot->why);
        slots->left++;
        return;
    }
    assert_null(slot->why);
    assert_true(n < 64);
    slots->before[n] = slot->before;
    slots->now[n] = *slot->address;
    slots->address[n] = slot->address;
    if (slot->kind == WEIR_SLOT_CALL)
        slots->calls++;
    else
        slots->pointers++;
}

/* The lines of /proc/self/maps about a library. */
static void read_maps(const char *file, char *out, size_t size)
{
    FILE  *maps = fopen("/proc/self/maps", "r");
    char   line[512];
    size_t length = 0;

    assert_non_null(maps);
    out[0] = '\0';
    while (fgets(line, sizeof line, maps))
        if (strstr(line, file))
            length += (size_t)snprintf(out + length, size - length, "%s", line);
    fclose(maps);
    assert_in_range(length, 1, size - 1);
}

/* A copy of all of a library's writable or relocated data, by way of its segments. */
static bool is_file(const struct elf_image *image, void *file)
{
    return strcmp(image->name, file) == 0;
}

/* AddressSanitizer keeps what lies between variables from being read, memcpy(3) included. */
__attribute__((no_sanitize("address"))) static void copy_bytes(unsigned char *out, uintptr_t from,
                                                               size_t size)
{
    const volatile unsigned char *bytes = (const unsigned char *)from;

    for (size_t i = 0; i < size; i++)
        out[i] = bytes[i];
}

static size_t copy_data(const char *file, unsigned char *out, size_t size)
{
    struct elf_image image;
    size_t           length = 0;

    assert_true(elf_find(is_file, (void *)file, &image));
    for (size_t i = 0; i < image.phdr_count; i++) {
        const ElfW(Phdr) *segment = &image.phdrs[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W))
            continue;
        assert_true(length + segment->p_memsz <= size);
        copy_bytes(out + length, image.base + segment->p_vaddr, segment->p_memsz);
        length += segment->p_memsz;
    }
    return length;
}

static void un_patching(void **state)
{
    static char          maps[3][8192];
    static unsigned char data[3][65536];

    (void)state;
    for (int i = 0; i < FILES; i++) {
        struct slots slots = { 0 };
        client_of(files[i]);
        read_maps(files[i], maps[0], sizeof maps[0]);
        size_t size = copy_data(files[i], data[0], sizeof data[0]);

        assert_patched(files[i]);
        read_maps(files[i], maps[1], sizeof maps[1]);
        assert_int_equal(copy_data(files[i], data[1], sizeof data[1]), size);
        assert_int_equal(weir_patch_each(files[i], note_slot, &slots, NULL), WEIR_OK);
        assert_unpatched(files[i]);
        read_maps(files[i], maps[2], sizeof maps[2]);
        assert_int_equal(copy_data(files[i], data[2], sizeof data[2]), size);

        assert_in_range(slots.calls, 20, 60);
        assert_int_equal(slots.pointers, 1);
        assert_in_range(slots.left, 1, 9); /* its mutex */
        for (int n = 0; n < slots.calls + slots.pointers; n++) {
            assert_ptr_not_equal(slots.now[n], slots.before[n]);
            assert_ptr_equal(*slots.address[n], slots.before[n]);
        }
        assert_string_equal(maps[1], maps[0]); /* RELRO stays read-only meanwhile */
        assert_string_equal(maps[2], maps[0]);
        assert_memory_not_equal(data[1], data[0], size);
        assert_memory_equal(data[2], data[0], size);
    }
}

static void relro_is_there_and_is_put_back(void **state)
{
    static char maps[8192];

    (void)state;
    client_of(files[0]);
    assert_patched(files[0]);
    assert_unpatched(files[0]);
    read_maps(files[0], maps, sizeof maps);
    struct slots slots = { 0 };
    assert_patched(files[0]);
    assert_int_equal(weir_patch_each(files[0], note_slot, &slots, NULL), WEIR_OK);
    assert_unpatched(files[0]);

    bool found = false;
    for (char *line = strtok(maps, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long begin, end;
        char          mode[5];
        assert_int_equal(sscanf(line, "%lx-%lx %4s", &begin, &end, mode), 3);
        unsigned long slot = (unsigned long)slots.address[0];
        if (slot < begin || slot >= end)
            continue;
        found = true;
        assert_string_equal(mode, "r--p");
    }
    assert_true(found);
}

static struct {
    const struct client *client;
    int                  result, second;
    weir_status          refused, allowed;
    weir_error           err;
} inside;

static weir_status sleep_inside(void *arg)
{
    (void)arg;
    inside.result = inside.client->slow_square(5, 100);
    return WEIR_OK;
}

static weir_status unpatch_meanwhile(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    struct slots before = { 0 }, after = { 0 };

    (void)arg;
    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    weir_spawn_with(group, &(weir_spawn_opts){ .name = "sleeper" }, sleep_inside, NULL);
    (void)weir_yield();
    HOLDS_EQ(weir_patch_each(files[0], note_slot, &before, NULL), WEIR_OK);
    inside.refused = weir_unpatch(files[0], &inside.err);
    HOLDS_EQ(weir_patch_each(files[0], note_slot, &after, NULL), WEIR_OK);
    HOLDS(memcmp(&before, &after, sizeof before) == 0); /* nothing was changed */
    HOLDS_EQ(weir_patch_count(files[0]), 1);
    (void)weir_group_wait(group, WEIR_FOREVER);
    HOLDS_EQ(world_now_ms(), 100);
    inside.allowed = weir_unpatch(files[0], NULL);
    return WEIR_OK;
}

static void un_patching_waits_for_nobody_and_names_who_is_inside(void **state)
{
    (void)state;
    memset(&inside, 0, sizeof inside);
    inside.client = client_of(files[0]);
    assert_patched(files[0]);
    run_world(unpatch_meanwhile, NULL);
    assert_int_equal(inside.refused, WEIR_BUSY);
    assert_non_null(strstr(inside.err.message, "sleeper 2"));
    assert_non_null(strstr(inside.err.message, "test_coro_patch.c:"));
    assert_non_null(strstr(inside.err.message, "in nanosleep"));
    assert_int_equal(inside.allowed, WEIR_OK);
    assert_int_equal(inside.result, 25);
    assert_int_equal(weir_patch_count(files[0]), 0);
}

static void patching_is_counted(void **state)
{
    weir_error err;

    (void)state;
    tell_story(client_of(files[0]), 300);
    assert_int_equal(weir_patch_count(files[0]), 0);
    assert_patched(files[0]);
    assert_patched("libclient_now.so"); /* the same by another name */
    assert_int_equal(weir_patch_count("libclient_now"), 2);
    assert_unpatched(files[0]);
    run_world(ten_callers_in_a_world, NULL); /* patched still */
    assert_unpatched(files[0]);
    assert_int_equal(weir_patch_count(files[0]), 0);
    assert_int_equal(weir_unpatch(files[0], &err), WEIR_USAGE);
    assert_non_null(strstr(err.message, "libclient_now.so"));
    assert_int_equal(weir_unpatch(NULL, &err), WEIR_USAGE);
}

static void a_patched_library_stays_loaded(void **state)
{
    void *handle = library_at(LIBRARY("odd_own"), RTLD_NOW);

    (void)state;
    assert_patched("libodd_own.so");
    assert_int_equal(dlclose(handle), 0);
    void *again = dlopen(LIBRARY("odd_own"), RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(again);
    assert_int_equal(dlclose(again), 0);
    assert_unpatched("libodd_own.so");
    assert_null(dlopen(LIBRARY("odd_own"), RTLD_NOW | RTLD_NOLOAD));
}

/* ---- what is told ------------------------------------------------------------------- */

static char report[16384];

static void take_report(const char *text, size_t size, void *arg)
{
    size_t *length = arg;

    assert_true(*length + size < sizeof report);
    memcpy(report + *length, text, size);
    report[*length += size] = '\0';
}

static void the_report_lists_slots_and_what_was_left(void **state)
{
    size_t length = 0;

    (void)state;
    client_of(files[0]);
    assert_patched(files[0]);
    weir_patch_report(take_report, &length);
    assert_unpatched(files[0]);
    assert_non_null(strstr(report, files[0]));
    assert_non_null(strstr(report, "patched 1 times; inside: nobody"));
    assert_non_null(strstr(report, "nanosleep        call"));
    assert_non_null(strstr(report, "read             pointer"));
    assert_non_null(strstr(report, "pthread_mutex_lock left"));

    length = 0;
    report[0] = '\0';
    weir_patch_report(take_report, &length);
    assert_int_equal(length, 0);
    assert_int_equal(weir_patch_each(files[0], note_slot, NULL, NULL), WEIR_USAGE);
}

/* ---- pointers in the library's data ------------------------------------------------- */

static ssize_t reads_nothing(int fd, void *buf, size_t size)
{
    (void)fd;
    (void)buf;
    return -(ssize_t)size;
}

static void a_pointer_that_the_library_changes_is_its_own(void **state)
{
    const struct client *client = client_of(files[0]);

    (void)state;
    assert_patched(files[0]);
    client->set_pointer(reads_nothing);
    assert_unpatched(files[0]);
    assert_int_equal(client->read_by_pointer(-1, NULL, 7), -7);
    assert_int_equal(log_took("reference to read was changed by somebody else"), 1);

    struct slots slots = { 0 };
    assert_patched(files[0]); /* changed before: it is left, and that is told */
    assert_int_equal(weir_patch_each(files[0], note_slot, &slots, NULL), WEIR_OK);
    assert_int_equal(slots.pointers, 0);
    assert_int_equal(client->read_by_pointer(-1, NULL, 7), -7);
    assert_unpatched(files[0]);

    /* Something of libc's, but not what the relocation says. */
    void *other = dlsym(RTLD_DEFAULT, "write");
    client->set_pointer((ssize_t(*)(int, void *, size_t))other);
    slots = (struct slots){ 0 };
    assert_patched(files[0]);
    assert_int_equal(weir_patch_each(files[0], note_slot, &slots, NULL), WEIR_OK);
    assert_int_equal(slots.pointers, 0);
    assert_unpatched(files[0]);
    client->set_pointer((ssize_t(*)(int, void *, size_t))dlsym(RTLD_DEFAULT, "read"));
}

/* ---- what is refused ---------------------------------------------------------------- */

static void assert_refused(const char *name, const char *why)
{
    weir_error err = { 0 };

    if (weir_patch(name, &err) != WEIR_USAGE)
        fail_msg("%s was not refused", name ? name : "NULL");
    if (!strstr(err.message, why))
        fail_msg("%s was refused so: %s", name ? name : "NULL", err.message);
    assert_int_equal(weir_patch_count(name), 0);
}

static void what_weir_stands_on_is_refused(void **state)
{
    (void)state;
    assert_refused("libc.so.6", "part of libc");
    assert_refused("libc.so", "part of libc");
    assert_refused(elf_machine() == EM_AARCH64 ? "ld-linux-aarch64.so.1" : "ld-linux-x86-64.so.2",
                   "part of libc");
    struct elf_image vdso;
    if (elf_find(is_file, "linux-vdso.so.1", &vdso)) /* valgrind hides it */
        assert_refused("linux-vdso.so.1", "kernel");
    assert_refused("libev.so.4", "hubs");
    void *handle = library_at("libm.so.6", RTLD_LAZY);
    assert_refused("libm.so.6", "part of libc");
    dlclose(handle);
}

/* A plug-in that has weir inside would call itself for ever. */
static void a_library_with_weir_in_it_is_refused(void **state)
{
    void *handle = library_at(LIBRARY("odd_weir"), RTLD_NOW);
    weir_status (*patch_from_inside)(const char *library, weir_error *err) =
        (weir_status(*)(const char *, weir_error *))dlsym(handle, "weir_patch");
    weir_error err = { 0 };

    (void)state;
    assert_non_null(patch_from_inside);
    assert_int_equal(patch_from_inside(PATCH_WEIR_IS_IN, &err), WEIR_USAGE);
    assert_true(strstr(err.message, "weir is linked into it") ||
                strstr(err.message, "it is weir itself"));
}

/* It may be there already, linked with this program; else it is loaded, where there is one. */
static bool have(const char *file)
{
    return dlopen(file, RTLD_LAZY) != NULL;
}

static void what_the_drivers_steer_is_refused(void **state)
{
    (void)state;
    bool mariadb = have("libmariadb.so.3"), mongoc = have("libmongoc-1.0.so.0");

    if (!mariadb && !mongoc)
        skip();
    if (mariadb)
        assert_refused("libmariadb.so.3", "drivers");
    if (mongoc) {
        assert_refused("libmongoc-1.0.so.0", "drivers");
        assert_refused("libbson-1.0.so.0", "drivers");
    }
    assert_refused("libcrypto.so.3", "need it"); /* which either of them needs */
    assert_refused("libssl.so.3", "need it");
}

static void what_is_not_there_is_refused(void **state)
{
    (void)state;
    assert_refused("libnowhere.so", "no library 'libnowhere.so' is loaded");
    assert_refused("libclient", "is loaded"); /* the beginning of a name is no name */
    assert_refused("", "the program itself");
    assert_refused(NULL, "the program itself");
    library_at(LIBRARY("odd_quiet"), RTLD_NOW);
    assert_refused("libodd_quiet.so", "nothing that weir has a substitute for");
}

static void copy_file(const char *from, const char *to)
{
    FILE  *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char   block[65536];
    size_t size;

    assert_non_null(in);
    assert_non_null(out);
    while ((size = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
    fclose(in);
}

static void a_name_that_fits_two_is_refused(void **state)
{
    char  dir[] = "/tmp/weir_patch_XXXXXX", path[64];
    void *handle;

    (void)state;
    client_of(files[0]);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libclient_now.so", dir);
    copy_file(files[0], path);
    handle = library_at(path, RTLD_NOW);
    assert_refused("libclient_now.so", "give the path of one");
    assert_patched(path);
    assert_int_equal(weir_patch_count(files[0]), 0);
    assert_unpatched(path);
    assert_int_equal(dlclose(handle), 0);
    unlink(path);
    rmdir(dir);
}

static void relocations_that_are_not_understood_are_refused(void **state)
{
    static unsigned char data[2][65536];
    static const char   *const odd[][2] = {
        { LIBRARY("odd_beside"), "some bytes beside it" },
        { LIBRARY("odd_kind"), "of a kind that weir does not understand" },
    };

    (void)state;
    for (int i = 0; i < 2; i++) {
        void *handle = dlopen(odd[i][0], RTLD_NOW);
        if (!handle && elf_machine() != EM_X86_64)
            continue; /* it is made of x86-64's relocations */
        assert_non_null(handle);
        size_t size = copy_data(odd[i][0], data[0], sizeof data[0]);
        assert_refused(odd[i][0], odd[i][1]);
        assert_refused(odd[i][0], "reference to read (relocation of type");
        copy_data(odd[i][0], data[1], sizeof data[1]);
        assert_memory_equal(data[0], data[1], size); /* its usleep neither */
        dlclose(handle);
    }
}

static void calls_that_go_elsewhere_are_not_touched(void **state)
{
    struct slots slots = { 0 };

    (void)state;
    if (context_is_watched())
        skip(); /* AddressSanitizer refuses RTLD_DEEPBIND */
    void *between = library_at(LIBRARY("odd_between"), RTLD_NOW | RTLD_DEEPBIND);
    assert_refused("libodd_between.so", "another library stands in between");
    void *own = library_at(LIBRARY("odd_own"), RTLD_NOW | RTLD_DEEPBIND);
    assert_patched("libodd_own.so");
    assert_int_equal(weir_patch_each("libodd_own.so", note_slot, &slots, NULL), WEIR_OK);
    assert_int_equal(slots.calls, 1); /* usleep */
    assert_int_equal(slots.left, 1);  /* its own read */
    assert_unpatched("libodd_own.so");
    dlclose(own);
    dlclose(between);
}

static void relocations_of_both_machines_are_known(void **state)
{
    (void)state;
    /* By number, as the psABIs have them, and not by the names that elf_image.c uses. */
    assert_int_equal(elf_use_of(62, 7), ELF_CALL);
    assert_int_equal(elf_use_of(62, 6), ELF_CALL);
    assert_int_equal(elf_use_of(62, 1), ELF_POINTER);
    assert_int_equal(elf_use_of(62, 2), ELF_STRANGE);
    assert_int_equal(elf_use_of(62, 5), ELF_STRANGE);
    assert_int_equal(elf_use_of(183, 1026), ELF_CALL);
    assert_int_equal(elf_use_of(183, 1025), ELF_CALL);
    assert_int_equal(elf_use_of(183, 257), ELF_POINTER);
    assert_int_equal(elf_use_of(183, 1024), ELF_STRANGE);
    assert_int_equal(elf_use_of(40, 22), ELF_STRANGE);
}

/* ---- all or nothing ----------------------------------------------------------------- */

/* No descriptor can be had until it is given back. */
static struct rlimit no_descriptors(void)
{
    struct rlimit before, none;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    return before;
}

static void without_a_descriptor_nothing_is_changed(void **state)
{
    static unsigned char data[2][65536];
    weir_error           err = { 0 };

    (void)state;
    tell_story(client_of(files[0]), 100);
    size_t        size = copy_data(files[0], data[0], sizeof data[0]);
    struct rlimit before = no_descriptors();
    weir_status   patched = weir_patch(files[0], &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(patched, WEIR_FAILED);
    assert_int_equal(err.native, EMFILE);
    assert_non_null(strstr(err.message, "/proc/self/maps"));
    copy_data(files[0], data[1], sizeof data[1]);
    assert_memory_equal(data[0], data[1], size);
    assert_int_equal(weir_patch_count(files[0]), 0);

    assert_patched(files[0]);
    before = no_descriptors();
    weir_status unpatched = weir_unpatch(files[0], &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(unpatched, WEIR_FAILED);
    assert_int_equal(weir_patch_count(files[0]), 1);
    run_world(ten_callers_in_a_world, NULL); /* patched still */
    assert_unpatched(files[0]);
}

static void pages_are_opened_all_or_none(void **state)
{
    size_t      size = (size_t)sysconf(_SC_PAGESIZE);
    char       *memory = mmap(NULL, 3 * size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct page pages[3], asked[1];
    weir_error  err = { 0 };

    (void)state;
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(mprotect(memory + size, size, PROT_READ | PROT_WRITE), 0);
    for (size_t i = 0; i < 3; i++)
        pages[i].at = page_of((uintptr_t)memory + i * size + 7);
    assert_int_equal(pages_ask(pages, 3, &err), WEIR_OK);
    assert_int_equal(pages[0].protection, PROT_READ);
    assert_int_equal(pages[1].protection, PROT_READ | PROT_WRITE);

    assert_int_equal(munmap(memory + 2 * size, size), 0); /* the last one cannot be opened */
    assert_int_equal(pages_open(pages, 3, &err), WEIR_FAILED);
    asked[0] = pages[0];
    assert_int_equal(pages_ask(asked, 1, &err), WEIR_OK);
    assert_int_equal(asked[0].protection, PROT_READ);
    assert_int_equal(pages_ask(&pages[2], 1, &err), WEIR_FAILED);

    assert_int_equal(pages_open(pages, 2, &err), WEIR_OK);
    memory[0] = 1;
    assert_int_equal(pages_close(pages, 2, &err), WEIR_OK);
    assert_int_equal(pages_ask(pages, 2, &err), WEIR_OK);
    assert_int_equal(pages[0].protection, PROT_READ);
    assert_int_equal(pages[1].protection, PROT_READ | PROT_WRITE);
    assert_int_equal(munmap(memory, 2 * size), 0);
}

/* ---- threads, forks ----------------------------------------------------------------- */

static struct {
    atomic_int turns;
    atomic_bool stop;
} hammering;

static void *call_all_the_time(void *arg)
{
    const struct client *client = arg;

    while (!atomic_load(&hammering.stop)) {
        struct pollfd nobody = { .fd = -1 };
        HOLDS_EQ(client->poll(&nobody, 1, 0), 0);
        atomic_fetch_add(&hammering.turns, 1);
    }
    return NULL;
}

static void other_threads_may_be_in_its_calls_meanwhile(void **state)
{
    const struct client *client = client_of(files[0]);
    pthread_t            thread;

    (void)state;
    atomic_store(&hammering.stop, false);
    assert_int_equal(pthread_create(&thread, NULL, call_all_the_time, (void *)client), 0);
    for (int i = 0; i < 100; i++) {
        assert_patched(files[0]);
        assert_unpatched(files[0]);
    }
    while (atomic_load(&hammering.turns) == 0)
        sched_yield();
    atomic_store(&hammering.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_notes();
}

struct crowd {
    const struct client *client;
    int                  results[CALLERS];
    int                  begun, begun_at_first_end, ended;
};

struct member {
    struct crowd *crowd;
    int           number;
};

static weir_status call_in_crowd(void *arg)
{
    struct member *me = arg;
    struct crowd  *crowd = me->crowd;

    crowd->begun++;
    crowd->results[me->number] = crowd->client->slow_square(me->number, 30);
    if (crowd->ended++ == 0)
        crowd->begun_at_first_end = crowd->begun;
    return WEIR_OK;
}

static weir_status crowd_app(void *arg)
{
    weir_autoptr(weir_group) group = NULL;
    struct member members[CALLERS];

    HOLDS_EQ(weir_group_new(NULL, &group, NULL), WEIR_OK);
    for (int i = 0; i < CALLERS; i++) {
        members[i] = (struct member){ arg, i };
        weir_spawn(group, call_in_crowd, &members[i]);
    }
    return weir_group_wait(group, WEIR_FOREVER);
}

static void *run_crowd(void *arg)
{
    HOLDS_EQ(weir_run(crowd_app, arg), WEIR_OK);
    return NULL;
}

static void hubs_of_several_threads_use_it_at_once(void **state)
{
    enum { THREADS = 3 };
    struct crowd crowds[THREADS] = { 0 };
    pthread_t    threads[THREADS];

    (void)state;
    assert_patched(files[0]);
    for (int i = 0; i < THREADS; i++) {
        crowds[i].client = client_of(files[0]);
        assert_int_equal(pthread_create(&threads[i], NULL, run_crowd, &crowds[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_unpatched(files[0]);
    assert_notes();
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(crowds[i].begun_at_first_end, CALLERS);
        for (int n = 0; n < CALLERS; n++)
            assert_int_equal(crowds[i].results[n], n * n);
    }
}

static weir_status sleep_a_minute(void *arg)
{
    (void)arg;
    HOLDS_EQ(inside.client->slow_square(5, 60000), -1); /* cancelled */
    return WEIR_OK;
}

static weir_status fork_with_one_inside(void *arg)
{
    int status = 0;

    (void)arg;
    weir_task *task = weir_spawn(NULL, sleep_a_minute, NULL);
    (void)weir_yield();
    HOLDS_EQ(weir_unpatch(files[0], NULL), WEIR_BUSY);
    pid_t pid = weir_fork();
    if (pid == 0)
        _exit(weir_unpatch(files[0], NULL) == WEIR_OK ? 0 : 1); /* nobody is inside here */
    HOLDS(pid > 0);
    HOLDS_EQ(waitpid(pid, &status, 0), pid);
    HOLDS(WIFEXITED(status));
    HOLDS_EQ(WEXITSTATUS(status), 0);
    HOLDS_EQ(weir_unpatch(files[0], NULL), WEIR_BUSY); /* the parent's is */
    return weir_stop(task, WEIR_FOREVER, NULL);
}

static void in_the_child_of_a_fork_nobody_is_inside(void **state)
{
    (void)state;
    inside.client = client_of(files[0]);
    assert_patched(files[0]);
    run_real(fork_with_one_inside, NULL);
    assert_unpatched(files[0]);
}

static void seats_are_given_back(void **state)
{
    weir_error err;
    char       dir[] = "/tmp/weir_patch_XXXXXX", path[WEIR_PATCH_MAX + 1][64];
    void      *handles[WEIR_PATCH_MAX + 1];

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i <= WEIR_PATCH_MAX; i++) {
        snprintf(path[i], sizeof path[i], "%s/lib%d.so", dir, i);
        copy_file(files[1], path[i]);
        handles[i] = library_at(path[i], RTLD_NOW);
    }
    for (int i = 0; i < WEIR_PATCH_MAX; i++) {
        assert_patched(path[i]);
        tell_story(dlsym(handles[i], "client"), 100);
        run_world(ten_callers_in_a_world, NULL);
    }
    assert_int_equal(weir_patch(path[WEIR_PATCH_MAX], &err), WEIR_FULL);
    assert_unpatched(path[3]);
    assert_patched(path[WEIR_PATCH_MAX]);
    assert_unpatched(path[WEIR_PATCH_MAX]);
    for (int i = 0; i <= WEIR_PATCH_MAX; i++) {
        if (i != 3 && i != WEIR_PATCH_MAX)
            assert_unpatched(path[i]);
        assert_int_equal(dlclose(handles[i]), 0);
        unlink(path[i]);
    }
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(patched_library),
        TEST(unpatched_it_blocks_one_caller_after_the_other),
        TEST(un_patching),
        TEST(relro_is_there_and_is_put_back),
        TEST(un_patching_waits_for_nobody_and_names_who_is_inside),
        TEST(patching_is_counted),
        TEST(a_patched_library_stays_loaded),
        TEST(the_report_lists_slots_and_what_was_left),
        TEST(a_pointer_that_the_library_changes_is_its_own),
        TEST(what_weir_stands_on_is_refused),
        TEST(a_library_with_weir_in_it_is_refused),
        TEST(what_the_drivers_steer_is_refused),
        TEST(what_is_not_there_is_refused),
        TEST(a_name_that_fits_two_is_refused),
        TEST(relocations_that_are_not_understood_are_refused),
        TEST(calls_that_go_elsewhere_are_not_touched),
        TEST(relocations_of_both_machines_are_known),
        TEST(without_a_descriptor_nothing_is_changed),
        TEST(pages_are_opened_all_or_none),
        TEST(other_threads_may_be_in_its_calls_meanwhile),
        TEST(hubs_of_several_threads_use_it_at_once),
        TEST(in_the_child_of_a_fork_nobody_is_inside),
        TEST(seats_are_given_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
