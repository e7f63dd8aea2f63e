/*
 * elf_image.c - reading the dynamic section of loaded objects.
 *
 * Everything is found as the dynamic linker finds it: from the program headers that
 * dl_iterate_phdr(3) tells, by way of PT_DYNAMIC. Sections are for linkers, and a stripped library
 * has none. Sources of names and numbers: the System V gABI, chapter 5, for the tags; the
 * psABIs for x86-64 (table 4.9) and for AArch64 (section 5.7, dynamic relocations) for the types;
 * all of them are in <elf.h>.
 *
 * glibc writes addresses into the dynamic section of what it loads, except where that section
 * is read-only (the vdso): an address below the object's base is an offset still.
 */
#define _GNU_SOURCE
#include "elf_image.h"

#include <string.h>

/* ---- relocations -------------------------------------------------------------------- */

enum elf_use elf_use_of(unsigned machine, unsigned type)
{
    if (machine == EM_X86_64) {
        if (type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT)
            return ELF_CALL;
        return type == R_X86_64_64 ? ELF_POINTER : ELF_STRANGE;
    }
    if (machine == EM_AARCH64) {
        if (type == R_AARCH64_JUMP_SLOT || type == R_AARCH64_GLOB_DAT)
            return ELF_CALL;
        return type == R_AARCH64_ABS64 ? ELF_POINTER : ELF_STRANGE;
    }
    return ELF_STRANGE;
}

unsigned elf_machine(void)
{
#if defined(__x86_64__) && defined(__LP64__)
    return EM_X86_64;
#elif defined(__aarch64__) && defined(__LP64__)
    return EM_AARCH64;
#else
    return 0;
#endif
}

/* ---- the dynamic section ------------------------------------------------------------ */

static const void *address_in(const struct elf_image *image, const ElfW(Dyn) *entry)
{
    uintptr_t address = entry->d_un.d_ptr;

    return (const void *)(address < image->base ? address + image->base : address);
}

/* What was said of the two tables, before it is known whether to believe it. */
struct tables {
    size_t calls_size, data_size, entry_size, rel_size;
    int64_t calls_kind;
    size_t  soname; /* its place among the strings; 0: none */
};

static void read_entry(struct elf_image *image, const ElfW(Dyn) *entry, struct tables *tables)
{
    switch (entry->d_tag) {
    case DT_SYMTAB:
        image->symbols = address_in(image, entry);
        break;
    case DT_STRTAB:
        image->strings = address_in(image, entry);
        break;
    case DT_JMPREL:
        image->calls = address_in(image, entry);
        break;
    case DT_RELA:
        image->data = address_in(image, entry);
        break;
    case DT_PLTRELSZ:
        tables->calls_size = entry->d_un.d_val;
        break;
    case DT_RELASZ:
        tables->data_size = entry->d_un.d_val;
        break;
    case DT_RELAENT:
        tables->entry_size = entry->d_un.d_val;
        break;
    case DT_RELSZ:
        tables->rel_size = entry->d_un.d_val;
        break;
    case DT_PLTREL:
        tables->calls_kind = (int64_t)entry->d_un.d_val;
        break;
    case DT_SONAME:
        tables->soname = entry->d_un.d_val;
        break;
    default: /* DT_RELR too: relative ones only, which name no symbol */
        break;
    }
}

static const char *what_is_strange(const struct elf_image *image, const struct tables *tables)
{
    if (!image->dynamic || !image->symbols || !image->strings)
        return "it has no dynamic symbols";
    if (tables->rel_size || (tables->calls_size && tables->calls_kind != DT_RELA))
        return "its relocations have no addends (DT_REL), which this machine does not use";
    if (tables->data_size && tables->entry_size != sizeof(ElfW(Rela)))
        return "the size of its relocations is not this machine's";
    return NULL;
}

static void read_image(const struct dl_phdr_info *info, struct elf_image *image)
{
    struct tables tables = { 0 };

    *image = (struct elf_image){ .name = info->dlpi_name, .base = info->dlpi_addr, .soname = "",
                                 .phdrs = info->dlpi_phdr, .phdr_count = info->dlpi_phnum };
    for (size_t i = 0; i < image->phdr_count; i++)
        if (image->phdrs[i].p_type == PT_DYNAMIC)
            image->dynamic = (const void *)(image->base + image->phdrs[i].p_vaddr);
    for (const ElfW(Dyn) *entry = image->dynamic; entry && entry->d_tag != DT_NULL; entry++)
        read_entry(image, entry, &tables);

    image->strange = what_is_strange(image, &tables);
    image->call_count = tables.calls_size / sizeof(ElfW(Rela));
    image->data_count = tables.data_size / sizeof(ElfW(Rela));
    if (image->strings && tables.soname)
        image->soname = image->strings + tables.soname;
}

/* ---- finding objects ---------------------------------------------------------------- */

struct search {
    bool (*match)(const struct elf_image *image, void *arg);
    void             *arg;
    struct elf_image *out;
    bool              found;
};

static int look_at(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct search   *search = arg;
    struct elf_image image;

    (void)size;
    read_image(info, &image);
    if (!search->match(&image, search->arg))
        return 0;
    *search->out = image;
    search->found = true;
    return 1;
}

bool elf_find(bool (*match)(const struct elf_image *image, void *arg), void *arg,
              struct elf_image *out)
{
    struct search search = { match, arg, out, false };

    dl_iterate_phdr(look_at, &search);
    return search.found;
}

bool elf_contains(const struct elf_image *image, uintptr_t address)
{
    for (size_t i = 0; i < image->phdr_count; i++) {
        const ElfW(Phdr) *segment = &image->phdrs[i];
        uintptr_t         begin = image->base + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && address >= begin && address - begin < segment->p_memsz)
            return true;
    }
    return false;
}

const char *elf_basename(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

bool elf_name_fits(const char *full, const char *name)
{
    size_t length = strlen(name);

    return strncmp(full, name, length) == 0 && (full[length] == '\0' || full[length] == '.');
}

/* ---- what it refers to -------------------------------------------------------------- */

static bool each_in(const struct elf_image *image, const ElfW(Rela) *table, size_t count,
                    bool (*fn)(const struct elf_ref *ref, void *arg), void *arg)
{
    for (size_t i = 0; i < count; i++) {
        size_t number = ELF64_R_SYM(table[i].r_info);
        if (number == 0)
            continue; /* its own address plus something */
        const ElfW(Sym) *symbol = &image->symbols[number];
        unsigned         type = (unsigned)ELF64_R_TYPE(table[i].r_info);
        struct elf_ref   ref = {
            .symbol = image->strings + symbol->st_name,
            .slot = image->base + table[i].r_offset,
            .type = type,
            .use = elf_use_of(elf_machine(), type),
            .addend = table[i].r_addend,
            .own = symbol->st_shndx != SHN_UNDEF,
        };
        if (!fn(&ref, arg))
            return false;
    }
    return true;
}

void elf_each_ref(const struct elf_image *image,
                  bool (*fn)(const struct elf_ref *ref, void *arg), void *arg)
{
    if (!image->strange && each_in(image, image->calls, image->call_count, fn, arg))
        each_in(image, image->data, image->data_count, fn, arg);
}

void elf_each_needed(const struct elf_image *image,
                     bool (*fn)(const char *soname, void *arg), void *arg)
{
    for (const ElfW(Dyn) *entry = image->strings ? image->dynamic : NULL;
         entry && entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == DT_NEEDED && !fn(image->strings + entry->d_un.d_val, arg))
            return;
}
