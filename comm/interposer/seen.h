/* What an observer is told of a call. */
#ifndef ROUNDELAY_SEEN_H
#define ROUNDELAY_SEEN_H

#include "functions.h"
#include "operation.h"

/* What a call does with requests that it is given. */
enum waiting { HAS_NO_REQUESTS, LOOKS, WAITS_FOR_ALL, WAITS_FOR_ANY, STARTS, FREES };

/* Members that a call has no arguments for are zero. */
struct seen {
    /* Without the suffix of large counts. */
    enum function function;
    enum form form;
    bool has_comm, has_bytes, has_op;
    bool is_collective, is_rooted, sends, receives, frees_comm;
    /* Whether the message stays where it is. */
    bool probes;
    MPI_Comm comm;
    MPI_Comm *newcomm;
    /* Of the block that each rank gives, or of requests. */
    MPI_Count count;
    MPI_Datatype type;
    MPI_Op op;
    /* `dest` is the root of a collective. */
    int dest, source, sendtag, recvtag;
    /* The request that the call makes. */
    const MPI_Request *request;
    /* Those that it is given, and what for. */
    const MPI_Request *requests;
    enum waiting waits;
    /* Of what is received, or of `requests`. */
    const MPI_Status *status;
    /* To which requests the statuses belong, and how many; NULL where there is one of each, or only one. */
    const int *indices, *found;
    /* Whether anything was received, or all requests are complete; NULL where that is sure. */
    const int *flag;
};

#endif
