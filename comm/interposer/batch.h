/* The operations behind the requests of one call. */
#ifndef ROUNDELAY_BATCH_H
#define ROUNDELAY_BATCH_H

#include "door.h"
#include "requests.h"

enum { FEW = 64 };

/* Operations, and statuses where the program wants none. */
struct batch {
    int count;
    /* Whether there are any. */
    bool any;
    struct operation **operations;
    MPI_Status *statuses;
    MPI_Request *hidden;
    struct operation *few[FEW];
    MPI_Status few_statuses[FEW];
    MPI_Request few_hidden[FEW];
    void *memory;
};

/* Whether no request has an operation behind it: then a call costs this look. */
static inline bool is_idle(void)
{
    return atomic_load_explicit(&operations_under_way, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&orphans, memory_order_relaxed) == 0;
}

/* The same as `gather`, where there may be operations. */
int gather_claimed(struct batch *batch, const MPI_Request *requests, MPI_Status **statuses);

/* Claim the operations of all requests; an error where there is no memory, and MPI must not go on alone. */
static inline int gather(struct batch *batch, int count, const MPI_Request *requests, MPI_Status **statuses)
{
    batch->count = count;
    batch->any = false;
    batch->memory = NULL;
    return is_idle() ? MPI_SUCCESS : gather_claimed(batch, requests, statuses);
}

void let_go(struct batch *batch);

/* Advance all operations that Python runs, side by side because ranks may wait for them in different orders;
 * how many have something left to do. */
int unfinished(const struct batch *batch);
/* Requests with null ones in the places of those that have something left to do; how many these are. */
int hide(struct batch *batch, const MPI_Request *requests);

static inline void reveal(const struct batch *batch, MPI_Request *requests, int changed)
{
    requests[changed] = batch->hidden[changed];
}

#endif
