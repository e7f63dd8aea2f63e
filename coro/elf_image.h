/*
 * elf_image.h - what a loaded object says of itself.
 *
 * Knows:   the dynamic section of ELF objects in memory, and the numbers of relocations.
 * Ignores: what anybody does with them; the file on disk, which may be stripped or gone.
 */
#ifndef ELF_IMAGE_H
#define ELF_IMAGE_H

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elf_image {
    const char        *name;    /* its path, as the dynamic linker has it; "": the program */
    const char        *soname;  /* "" where it has none */
    uintptr_t          base;    /* what is added to the addresses in it */
    const ElfW(Phdr)  *phdrs;
    size_t             phdr_count;
    const ElfW(Dyn)   *dynamic;
    const ElfW(Sym)   *symbols;
    const char        *strings;
    const ElfW(Rela)  *calls, *data; /* DT_JMPREL and DT_RELA */
    size_t             call_count, data_count;
    const char        *strange; /* what of it cannot be read; NULL: nothing */
};

/* What a relocation makes of the place it names. */
enum elf_use {
    ELF_CALL,    /* a slot through which calls go */
    ELF_POINTER, /* a pointer in its data */
    ELF_STRANGE  /* none of the two */
};

/* One place that the dynamic linker filled in with a symbol's address. */
struct elf_ref {
    const char  *symbol;
    uintptr_t    slot;
    unsigned     type;   /* the relocation's number */
    enum elf_use use;
    int64_t      addend;
    bool         own;    /* the object defines a symbol of that name itself */
};

/* Relocations of a machine (EM_X86_64, EM_AARCH64). */
enum elf_use elf_use_of(unsigned machine, unsigned type);

/* EM_ of this machine; 0: one that is not known here. */
unsigned elf_machine(void);

/*
 * The first loaded object, in the order of the dynamic linker, for which `match` is true; it is
 * called while the dynamic linker is locked. What *out points to lives as long as the object is
 * loaded. Any thread.
 */
bool elf_find(bool (*match)(const struct elf_image *image, void *arg), void *arg,
              struct elf_image *out);

/* Each place that names a symbol, until fn says false. */
void elf_each_ref(const struct elf_image *image,
                  bool (*fn)(const struct elf_ref *ref, void *arg), void *arg);

/* Each library it needs (DT_NEEDED), until fn says false. */
void elf_each_needed(const struct elf_image *image,
                     bool (*fn)(const char *soname, void *arg), void *arg);

/* Is this address in one of its segments? */
bool elf_contains(const struct elf_image *image, uintptr_t address);

/* The last part of a path. */
const char *elf_basename(const char *path);

/* "libx.so" fits libx.so.1, and "libx" both. */
bool elf_name_fits(const char *full, const char *name);

#endif
