#define _GNU_SOURCE
#include "relocations.h"

#include <elf.h>
#include <limits.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { FUNCTION_SLOT = R_X86_64_JUMP_SLOT, DATA_SLOT = R_X86_64_GLOB_DAT, POINTER = R_X86_64_64 };
#elif defined(__aarch64__)
enum { FUNCTION_SLOT = R_AARCH64_JUMP_SLOT, DATA_SLOT = R_AARCH64_GLOB_DAT, POINTER = R_AARCH64_ABS64 };
#else
#error "expected x86-64 or AArch64"
#endif

/* The replaced addresses, and for each file the pages that are read-only otherwise. */
enum { MOST_SLOTS = 1024, MOST_FILES = 2 };
static struct {
    void **place, *original, *replacement;
} slots[MOST_SLOTS];
static int slot_count;
static struct {
    uintptr_t begin, bytes;
} guarded[MOST_FILES];
static int file_count;

struct search {
    const char *file;
    const struct redirection *redirections;
    size_t count;
    /* With which letters their names begin: a file has thousands of others. */
    bool initials[UCHAR_MAX + 1];
    int changed;
};

static ElfW(Addr) absolute(ElfW(Addr) base, ElfW(Addr) address)
{
    /* glibc has added the base already, musl has not. */
    return address < base ? base + address : address;
}

static const struct redirection *find(const struct search *search, const char *name)
{
    for (size_t i = 0; i < search->count; i++)
        if (strcmp(search->redirections[i].name, name) == 0)
            return &search->redirections[i];
    return NULL;
}

static void redirect_table(struct search *search, ElfW(Addr) base, const ElfW(Rela) * table, size_t nbytes,
                           const ElfW(Sym) * symbols, const char *strings)
{
    for (size_t i = 0; i < nbytes / sizeof *table; i++) {
        const unsigned kind = ELF64_R_TYPE(table[i].r_info);
        if (kind != FUNCTION_SLOT && kind != DATA_SLOT && kind != POINTER)
            continue;
        const char *name = strings + symbols[ELF64_R_SYM(table[i].r_info)].st_name;
        if (!search->initials[(unsigned char)name[0]])
            continue;
        const struct redirection *found = find(search, name);
        void **slot = (void **)(base + table[i].r_offset);
        /* A weak symbol that the library lacks stays what it is: mpi4py looks whether it is there. */
        if (found == NULL || *slot == NULL || *slot == found->replacement)
            continue;
        *found->original = *slot;
        if (found->replacement == NULL || slot_count == MOST_SLOTS)
            continue;
        slots[slot_count].place = slot;
        slots[slot_count].original = *slot;
        slots[slot_count++].replacement = found->replacement;
        *slot = found->replacement;
        search->changed++;
    }
}

/* Note what is read-only after relocation; whether there was room for that. */
static bool find_guarded(const struct dl_phdr_info *info)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_GNU_RELRO)
            continue;
        const uintptr_t begin = (info->dlpi_addr + header->p_vaddr) & ~(page - 1);
        const uintptr_t end = (info->dlpi_addr + header->p_vaddr + header->p_memsz) & ~(page - 1);
        int k = 0;
        while (k < MOST_FILES && k < file_count && guarded[k].begin != begin)
            k++;
        if (k == MOST_FILES)
            return false;
        guarded[k].begin = begin;
        guarded[k].bytes = end - begin;
        file_count = k < file_count ? file_count : k + 1;
    }
    return true;
}

static void guard(int protection)
{
    for (int i = 0; i < file_count; i++)
        if (guarded[i].bytes > 0)
            mprotect((void *)guarded[i].begin, guarded[i].bytes, protection);
}

void use_replacements(bool replaced)
{
    guard(PROT_READ | PROT_WRITE);
    for (int i = 0; i < slot_count; i++)
        *slots[i].place = replaced ? slots[i].replacement : slots[i].original;
    guard(PROT_READ);
}

static int look(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    struct search *search = data;
    if (strcmp(info->dlpi_name, search->file) != 0)
        return 0;
    const ElfW(Dyn) *dynamic = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    if (dynamic == NULL)
        return 0;
    const ElfW(Sym) *symbols = NULL;
    const char *strings = NULL;
    const ElfW(Rela) * tables[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        const ElfW(Addr) address = absolute(info->dlpi_addr, dynamic->d_un.d_ptr);
        switch (dynamic->d_tag) {
        case DT_SYMTAB:
            symbols = (const ElfW(Sym) *)address;
            break;
        case DT_STRTAB:
            strings = (const char *)address;
            break;
        case DT_JMPREL:
            tables[0] = (const ElfW(Rela) *)address;
            break;
        case DT_PLTRELSZ:
            sizes[0] = dynamic->d_un.d_val;
            break;
        case DT_RELA:
            tables[1] = (const ElfW(Rela) *)address;
            break;
        case DT_RELASZ:
            sizes[1] = dynamic->d_un.d_val;
            break;
        default:
            break;
        }
    }
    if (!find_guarded(info))
        return 0;
    guard(PROT_READ | PROT_WRITE);
    search->changed = 0;
    for (int i = 0; i < 2; i++)
        if (tables[i] != NULL)
            redirect_table(search, info->dlpi_addr, tables[i], sizes[i], symbols, strings);
    guard(PROT_READ);
    return 1;
}

int redirect(const char *file, const struct redirection *redirections, size_t count)
{
    struct search search = {.file = file, .redirections = redirections, .count = count, .changed = -1};
    for (size_t i = 0; i < count; i++)
        search.initials[(unsigned char)redirections[i].name[0]] = true;
    dl_iterate_phdr(look, &search);
    return search.changed;
}
