/* Collectives that algorithms of roundelay's may run: which of them are left to the library, and the question
 * to the engine, which is in Python (roundelay.collectives.engine). */
#ifndef ROUNDELAY_COLLECTIVES_H
#define ROUNDELAY_COLLECTIVES_H

#include "door.h"
#include "operation.h"

/* Numbers of a call, one for each rank, of some width. */
struct numbers {
    const void *numbers;
    int width;
};

/* A collective. */
struct collective {
    enum function function;
    enum form form;
    MPI_Comm comm;
    MPI_Op op;
    int root;
    /* Of what is received, or of both buffers. */
    int64_t count;
    MPI_Datatype type;
    struct numbers counts, displs;
    /* When they are packed. */
    const void *sent;
    void *received;
    int64_t sent_count;
    MPI_Datatype sent_type, received_type;
    struct frame *frame;
    /* Of Python: called when the library has run it. */
    void *after;
};

/* Returned by `run_ours`, in the place of an error of MPI, for a call that is left to the library. */
enum { LEFT = -1 };

/* Whether the engine is asked. It says for how many calls of a kind it need not be asked again. */
bool is_ours(struct frame *frame, struct collective *collective);
int run_ours(struct operation *operation, struct collective *collective, MPI_Request *request);

/* Call what follows a call that the library has run. */
int end_library(struct collective *collective, int code);

/* The object of Python that runs collectives, with the GIL: it says what it did with one, and hears of those
 * that were refused. */
extern void *engine;
/* How many kinds of calls are left to the library. */
int count_choices(void);
/* Forget what is left to the library on a communicator. */
void forget_choices(MPI_Comm comm);

#endif
