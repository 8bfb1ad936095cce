/* Types and constants of MPI as the two families of libraries lay them out in memory.
 *
 * No mpi.h is included: this is all that the interposer needs to know, so it builds on a machine without MPI.
 * Values that are addresses in a library come from mpi4py when the interposer is installed (struct
 * constants).
 */
#ifndef ROUNDELAY_ABI_H
#define ROUNDELAY_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef long MPI_Aint;
typedef long long MPI_Count;

#if defined(ROUNDELAY_MPICH)
/* MPICH, Intel MPI, Cray MPICH, MVAPICH: handles are numbers. */
typedef int MPI_Comm;
typedef int MPI_Datatype;
typedef int MPI_Group;
typedef int MPI_Info;
typedef int MPI_Message;
typedef int MPI_Op;
typedef int MPI_Request;
typedef struct {
    int count_lo, count_hi_and_cancelled, MPI_SOURCE, MPI_TAG, MPI_ERROR;
} MPI_Status;
enum { MPI_PROC_NULL = -1, MPI_ANY_SOURCE = -2, MPI_GRAPH = 1, MPI_CART = 2, MPI_DIST_GRAPH = 3 };
enum { MPI_ERR_OTHER = 15, MPI_ERR_IN_STATUS = 17, MPI_ERR_PENDING = 18, MPI_ERR_NO_MEM = 34 };
#define MPI_IN_PLACE ((void *)-1)
#define MPI_STATUS_IGNORE ((MPI_Status *)1)
#elif defined(ROUNDELAY_OPENMPI)
/* Open MPI: handles are addresses. */
typedef struct comm *MPI_Comm;
typedef struct datatype *MPI_Datatype;
typedef struct group *MPI_Group;
typedef struct info *MPI_Info;
typedef struct message *MPI_Message;
typedef struct op *MPI_Op;
typedef struct request *MPI_Request;
typedef struct {
    int MPI_SOURCE, MPI_TAG, MPI_ERROR, cancelled;
    size_t ucount;
} MPI_Status;
enum { MPI_PROC_NULL = -2, MPI_ANY_SOURCE = -1, MPI_CART = 1, MPI_GRAPH = 2, MPI_DIST_GRAPH = 3 };
enum { MPI_ERR_OTHER = 16, MPI_ERR_IN_STATUS = 18, MPI_ERR_PENDING = 19, MPI_ERR_NO_MEM = 39 };
#define MPI_IN_PLACE ((void *)1)
#define MPI_STATUS_IGNORE ((MPI_Status *)0)
#else
#error "expected ROUNDELAY_MPICH or ROUNDELAY_OPENMPI"
#endif

enum { MPI_SUCCESS = 0, MPI_ERR_BUFFER = 1, MPI_UNDEFINED = -32766 };
#define MPI_STATUSES_IGNORE MPI_STATUS_IGNORE

#endif
