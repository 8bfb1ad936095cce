/* Operations under way, by the requests that MPI has made for them. */
#ifndef ROUNDELAY_REQUESTS_H
#define ROUNDELAY_REQUESTS_H

#include "operation.h"
#include <stdatomic.h>

/* How many there are: none, and completing a request costs one look. */
extern atomic_long operations_under_way;

void enroll(struct operation *operation);
/* The operation of a request that nobody else has claimed, claimed; NULL if there is none. */
struct operation *claim(MPI_Request request);
/* Whether MPI has written the request of an operation there, claimed or not. */
bool is_home(const MPI_Request *place);
void unclaim(struct operation *operation);
/* Take a claimed operation off the list, and release it. */
void dismiss(struct operation *operation);

/* Keep what is received into from now on: mpi4py's request is about to let go of it. Needs the GIL. */
void own_borrowed(struct operation *operation);
/* A request that the program has freed: its operation is finished when it can be. */
void orphan(struct operation *operation);
/* Before MPI is finalized: finish what can be, and cancel receives that nothing has come for. */
void end_operations(void);

#endif
