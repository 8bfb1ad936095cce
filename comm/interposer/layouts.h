/* Layouts of memory with gaps: programs of copy loops, by datatype and by the shape of an array.
 *
 * Python finds it out, once (roundelay.comm.interposer); the tables here keep the answers.
 */
#ifndef ROUNDELAY_LAYOUTS_H
#define ROUNDELAY_LAYOUTS_H

#include "abi.h"
#include <stdatomic.h>

/* Copy loops (roundelay.datatypes.program), for some number of instances of a datatype. */
struct program {
    atomic_int users;
    int64_t count;
    /* How many instances the kernel runs it for. */
    int64_t instances;
    int64_t nbytes;
    /* Whether a byte is touched twice, so that nothing may be received into it. */
    bool overlaps;
    struct program *next;
    int64_t words[];
};

enum { CONTIGUOUS = 1, ONE_RUN = 2, EASY_TO_SEND = 4, EASY_TO_PACK = 8, MISREAD = 16, PREDEFINED = 32 };

/* A datatype, as far as a call needs to know it. */
struct known {
    int64_t size, extent;
    int flags;
    /* The datatype of the same signature and size without gaps. */
    MPI_Datatype dense;
};

/* Whether a number of instances is one run of bytes, or none. */
static inline bool is_run(const struct known *known, int64_t count)
{
    return count == 0 || (known->flags & CONTIGUOUS) || (count == 1 && (known->flags & ONE_RUN));
}

/* Find what is known of a datatype. False where only the MPI library can read it. */
bool know(MPI_Datatype datatype, struct known *known);
/* The program for `count` instances of a known datatype, which the caller gives back; NULL on any failure,
 * and where it `receives` into bytes that it touches twice. */
struct program *program_of(MPI_Datatype datatype, int64_t count, bool receives);
/* The same, which is there until this thread looks for another one. */
const struct program *borrow_program(MPI_Datatype datatype, int64_t count, bool receives);
void give_back(struct program *program);

/* Behind them, for all threads: what they find, they need not look for again until the generation changes. */
extern atomic_uint generation;
bool learn(MPI_Datatype datatype, struct known *known);
struct program *find_program(MPI_Datatype datatype, int64_t count);
void forget(MPI_Datatype datatype);

/* An array with gaps: the bytes of its elements as one, and where they are. */
struct array {
    atomic_int users;
    struct program *program;
    int64_t nbytes;
    int flags;
    /* The datatype of its elements, and the one that describes it from its first element; made when first
     * asked for. */
    MPI_Datatype element, described;
    struct array *next;
    int ndim;
    int64_t itemsize;
    char format[16];
    int64_t dims[];
};

/* The record of arrays of this shape and these strides; NULL with a Python exception. Needs the GIL. */
struct array *array_of(int ndim, const int64_t *shape, const int64_t *strides, int64_t itemsize,
                       const char *format);
/* Its described datatype; false where there is none. */
bool describe(struct array *array, MPI_Datatype *datatype);
void give_array_back(struct array *array);

/* Numbers of the known datatypes and arrays. */
void count_known(int64_t counts[2]);

/* The kernel as Numba compiles it: where its result and an exception would go come first, and it has neither.
 */
typedef int (*kernel)(void **, void **, int64_t unpack, int64_t packed, int64_t memory, int64_t program,
                      int64_t instances);
extern kernel pack_kernel;
void run_program(bool unpack, char *packed, char *memory, const struct program *program);

#endif
