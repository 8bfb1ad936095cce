/* What the record knows of communicators: an id that is the same on all their ranks, and who they are. */
#ifndef ROUNDELAY_RECORDED_COMMS_H
#define ROUNDELAY_RECORDED_COMMS_H

#include "record.h"

/* How many communicators each group has made of one. All ranks of the group make these in the same order. */
struct children {
    struct children_of_group {
        uint32_t group, made;
    } *each;
    int groups;
};

struct known_comm {
    MPI_Comm handle;
    uint32_t id;
    /* Where it stands in the record; NULL where there was no room, for strays, and for what has no
     * collectives of a group.
     */
    struct recorded_comm *place;
    int size;
    /* Ranks of MPI_COMM_WORLD by ranks of this communicator; NULL where both are the same. */
    int32_t *ranks;
    struct children children;
    bool is_inter;
    /* Made before the record began, or unseen, or of one that was: each rank meets these in an order of its
     * own, so that it is not known which of them on one rank is which on another. */
    bool is_stray;
};

/* Begin with no communicators but MPI_COMM_WORLD, and the one whose ranks all begin now. */
void open_comms(struct record *record, MPI_Comm watched);
void close_comms(void);
/* A communicator, which is looked up in MPI when it is first seen. */
struct known_comm *find_comm(MPI_Comm handle);
/* NULL for one that is known no more. */
struct known_comm *comm_with_id(uint32_t id);
/* One that has just been made of `parent`; its handle may have been another's. MPI is asked about `asked`,
 * which has the same group: one that is still being made cannot be asked itself. */
void add_comm(MPI_Comm handle, MPI_Comm asked, MPI_Comm parent);
/* One that all its ranks have made in a way that is not seen here, if there is a record. */
void name_comm(MPI_Comm handle);
/* One that is about to be freed. */
void remove_comm(MPI_Comm handle);

static inline int32_t world_rank(const struct known_comm *comm, int rank)
{
    if (comm->is_inter || rank < 0 || rank >= comm->size)
        return UNKNOWN_RANK;
    return comm->ranks == NULL ? rank : comm->ranks[rank];
}

#endif
