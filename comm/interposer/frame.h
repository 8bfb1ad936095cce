/* What a method of ours knows of its call: the arrays with gaps that mpi4py was given, and what is wrong with
 * them. */
#ifndef ROUNDELAY_FRAME_H
#define ROUNDELAY_FRAME_H

#include "functions.h"
#include "layouts.h"

/* An array with gaps, as contiguous memory that begins at the same address. */
struct strided {
    char *begin;
    int64_t nbytes;
    /* The Python object whose memory it is, which mpi4py's request keeps. */
    void *object;
    struct array *array;
    /* Instead, an object of Python with `load` and `store`: the memory is a stage already. */
    void *python;
    /* Whether there are no gaps, but elements off their boundaries or on a GPU: a derived datatype applies.
     */
    bool is_dense;
};

/* Memory that mpi4py was given. */
struct extent {
    char *begin;
    int64_t nbytes;
};

struct frame {
    /* The function of MPI that the method is for, and its form with large counts. */
    enum function function, large;
    struct strided sent, received;
    /* All of it, where it is checked that datatypes stay inside. */
    struct extent extents[2];
    int extent_count;
    /* Why the arguments are refused: text for a BufferError, or an exception. */
    const char *refusal;
    void *error;
    /* A Python object that a nonblocking operation keeps until it is complete. */
    void *owner;
};

/* Needs the GIL. */
void clear_strided(struct strided *strided);

#endif
