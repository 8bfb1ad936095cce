/* The door: what every intercepted call passes, and what decides whether it goes on as it is. */
#ifndef ROUNDELAY_DOOR_H
#define ROUNDELAY_DOOR_H

#include "abi.h"
#include "frame.h"
#include "functions.h"
#include "seen.h"

#include <stdatomic.h>

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Handles of the running library, as mpi4py gives them. */
struct constants {
    MPI_Datatype byte;
    MPI_Request null_request;
    MPI_Comm world, null_comm;
    /* Open MPI's predefined datatypes lie within the library. */
    uintptr_t library, library_bytes;
};
extern struct constants constants;

/* Sees every intercepted call begin and end. What `enter` is given stays as it is until the call ends, and
 * what its pointers lead to has the results then. */
struct observer {
    void (*enter)(const struct seen *seen);
    void (*leave)(int code);
};
extern const struct observer *observer;

/* ROUNDELAY_CHECK: whether a datatype that leaves its buffer is refused. */
extern bool checks_bounds;

/* The arguments that an observer sees, as members of `struct seen`. */
#define ENTER(...)                                              \
    do {                                                        \
        if (UNLIKELY(observer != NULL))                         \
            observer->enter(&(const struct seen){__VA_ARGS__}); \
    } while (0)
/* An observer is told the status of what is received, also where the program does not ask for it. */
#define SEE_STATUS(status, own)                                          \
    do {                                                                 \
        if (UNLIKELY(observer != NULL) && (status) == MPI_STATUS_IGNORE) \
            (status) = (own);                                            \
    } while (0)

/* How many operations go on whose requests the program has freed (requests.h). */
extern atomic_long orphans;
void settle_orphans(void);

/* An exception that came while Python was asked, and is raised when MPI's function has returned (ask.h). Only
 * the main thread has any; not being its own, they cost others no more than a look. */
extern void *_Atomic late;
void raise_late(void);

static inline int leave(int code)
{
    /* Received data is in its place as soon as the program can know of it. */
    if (UNLIKELY(atomic_load_explicit(&orphans, memory_order_relaxed) > 0))
        settle_orphans();
    if (UNLIKELY(atomic_load_explicit(&late, memory_order_relaxed) != NULL))
        raise_late();
    if (UNLIKELY(observer != NULL))
        observer->leave(code);
    return code;
}

/* Whether a datatype is predefined, or none at all, by its handle alone. */
static inline bool passes(MPI_Datatype datatype)
{
#if defined(ROUNDELAY_MPICH)
    /* The two highest bits say what a handle is: derived datatypes have the highest one. */
    return datatype >= 0;
#else
    return (uintptr_t)datatype - constants.library < constants.library_bytes || datatype == NULL;
#endif
}

/* Whether a request is the library's own one for operations that are complete when they start: all of them
 * have the same handle. */
static inline bool is_shared(MPI_Request request)
{
#if defined(ROUNDELAY_MPICH)
    return request >= 0;
#else
    return (uintptr_t)request - constants.library < constants.library_bytes;
#endif
}

/* Variables of a thread that every call looks at. A module that is loaded late finds its own by a call; glibc
 * keeps room for a few that need none, and musl does not. */
#if defined(__GLIBC__)
#define QUICK_THREAD_LOCAL __attribute__((tls_model("initial-exec"))) _Thread_local
#else
#define QUICK_THREAD_LOCAL _Thread_local
#endif

/* The method of ours that is under way, while mpi4py may be given arrays with gaps. */
extern QUICK_THREAD_LOCAL struct frame *current;

/* Whether the frame of this thread is for a function. */
static inline bool is_framed(enum function function)
{
    const struct frame *frame = current;
    return frame != NULL && (frame->function == function || frame->large == function);
}

/* The frame of a call that an algorithm of ours may run; NULL for others. */
static inline struct frame *engaged_frame(enum function function)
{
    return is_framed(function) && UNLIKELY(current->engages) ? current : NULL;
}

/* Whether a method of ours has given the call more than its arguments. mpi4py may make other calls before it;
 * and what MPI calls back is no part of the method, so that mpi4py refuses arrays with gaps there as it
 * always does. */
static inline bool is_special(enum function function)
{
    struct frame *frame = current;
    if (!is_framed(function))
        return false;
    if (!frame->special)
        current = NULL;
    return frame->special;
}

/* Questions to MPI about a communicator. */
int rank_of(MPI_Comm comm);
int ranks_of(MPI_Comm comm);
int sources_of(MPI_Comm comm);
int destinations_of(MPI_Comm comm);
/* Whether this rank is at a border where it has no neighbour. */
bool lacks_sources(MPI_Comm comm);
bool is_inter(MPI_Comm comm);

bool all_pass(int blocks, const void *buffer, const MPI_Datatype *types);

#endif
