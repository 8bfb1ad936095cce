/* The state of a call of one of our methods: the arrays with gaps that mpi4py was given, and the error in
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
    /* Whether a look at the datatypes of the call does not tell that it goes on as it is. */
    bool special;
    /* An array with gaps that is sent, and one that is received into; `begin` is NULL where there is none. */
    struct strided sent, received;
    /* All of it, where it is checked that datatypes stay inside. */
    struct extent extents[2];
    int extent_count;
    /* Why the arguments are refused: text for a BufferError, or an exception. */
    const char *refusal;
    void *error;
    /* A Python object that a nonblocking operation keeps until it is complete. */
    void *owner;
    /* Whether an algorithm of ours may run the call, and whether it reduces elements. */
    bool engages, reduces;
    /* The algorithm that the program asks for, as Python knows it; NULL for that of the communicator. */
    void *wanted;
    /* Whether the call has come as far as MPI. */
    bool reached;
    /* The arrays of Python that are sent and received into, where an address and a datatype of MPI do not say
     * what they are: on a GPU, or of elements that MPI has no type for, of which mpi4py was told that they
     * are integers as wide. */
    void *sent_array, *received_array;
};

/* Needs the GIL. */
void release_strided(struct strided *strided);

static inline void clear_strided(struct strided *strided)
{
    if (strided->begin != NULL)
        release_strided(strided);
}

#endif
