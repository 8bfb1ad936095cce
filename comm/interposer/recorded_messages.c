#include "recorded_messages.h"

#include "door.h"

/* By what the messages of a pair of ranks are told apart. */
static uint8_t class_of(const struct known_comm *comm, int tag)
{
    return tag < 0 ? ANY_CLASS : (uint8_t)((comm->id * 31u + (uint32_t)tag) * 2654435761u >> 29);
}

static int32_t peer_of(const struct known_comm *comm, int rank)
{
    if (rank == MPI_PROC_NULL)
        return NO_RANK;
    return rank == MPI_ANY_SOURCE ? ANY_RANK : world_rank(comm, rank);
}

static int64_t bytes_of(MPI_Count count, MPI_Datatype type)
{
    MPI_Count size = -1;
    if (count < 0 || next.Type_size_x(type, &size) != MPI_SUCCESS || size < 0)
        return -1;
    return (int64_t)(count * size);
}

static uint32_t mix(uint32_t hash, uint64_t number)
{
    return (hash ^ (uint32_t)number ^ (uint32_t)(number >> 32)) * 16777619u;
}

/* Handles of predefined operations are the same on all ranks of MPICH; Open MPI's lie at the same place in
 * the library. The program's own may differ. */
static uint64_t name_of_op(MPI_Op op)
{
#if defined(ROUNDELAY_MPICH)
    return (unsigned)op >> 30 == 1 ? (uint64_t)op : 0;
#else
    const uintptr_t at = (uintptr_t)op - constants.library;
    return at < constants.library_bytes ? at : 0;
#endif
}

static void describe_collective(struct recorded_call *call, const struct seen *seen,
                                const struct known_comm *comm)
{
    call->dest = seen->is_rooted ? world_rank(comm, seen->dest) : NO_RANK;
    uint32_t signature = mix(2166136261u, seen->function);
    signature = mix(signature, (uint64_t)(int64_t)call->dest);
    signature = mix(signature, (uint64_t)call->bytes);
    call->signature = mix(signature, seen->has_op ? name_of_op(seen->op) : 0);
    if (comm->place != NULL) {
        call->sequence = comm->place->begun + 1;
        atomic_store_explicit(&comm->place->begun, call->sequence, memory_order_relaxed);
    }
}

static void describe_message(struct recorded_call *call, const struct seen *seen,
                             const struct known_comm *comm)
{
    if (seen->sends) {
        call->dest = peer_of(comm, seen->dest);
        call->tag = seen->sendtag;
        call->sent_class = class_of(comm, seen->sendtag);
    }
    if (seen->receives) {
        call->source = peer_of(comm, seen->source);
        if (!seen->sends)
            call->tag = seen->recvtag;
        call->received_tag = seen->recvtag;
        call->received_class = class_of(comm, seen->recvtag);
    }
}

uint32_t count_sent(struct record *record, int32_t dest, uint8_t class, int64_t bytes)
{
    if (dest < 0)
        return 0;
    struct recorded_peer *peer = &record->peers[dest];
    atomic_fetch_add_explicit(&peer->bytes_sent, (uint64_t)(bytes < 0 ? 0 : bytes), memory_order_relaxed);
    return atomic_fetch_add_explicit(&peer->sent[class % TAG_CLASSES], 1, memory_order_relaxed);
}

void take_back(struct record *record, int32_t dest, uint8_t class, int64_t bytes)
{
    if (dest < 0)
        return;
    struct recorded_peer *peer = &record->peers[dest];
    atomic_fetch_sub_explicit(&peer->bytes_sent, (uint64_t)(bytes < 0 ? 0 : bytes), memory_order_relaxed);
    atomic_fetch_sub_explicit(&peer->sent[class % TAG_CLASSES], 1, memory_order_relaxed);
}

void add_end(const struct completion *completion, const struct recorded_message *end)
{
    if (end->peer < 0)
        return;
    struct lane *lane = completion->lane;
    const uint32_t number = lane->ends + 1;
    struct recorded_message *place = &lane->messages[number % RECORDED_MESSAGES];
    *place = *end;
    place->number = number;
    place->entered = completion->entered;
    place->left = completion->left;
    place->mixed = completion->mixed;
    atomic_store_explicit(&lane->ends, number, memory_order_release);
}

/* The message's number among those that are counted together. */
static uint32_t count_received(struct record *record, int32_t source, uint8_t class, int64_t bytes,
                               uint64_t waited)
{
    uint32_t ordinal = 0;
    if (source == ANY_RANK || class == ANY_CLASS)
        atomic_fetch_add_explicit(&record->unnamed, 1, memory_order_relaxed);
    if (source < 0)
        return ordinal;
    struct recorded_peer *peer = &record->peers[source];
    if (class != ANY_CLASS)
        ordinal = atomic_fetch_add_explicit(&peer->received[class], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->bytes_received, (uint64_t)(bytes < 0 ? 0 : bytes), memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->waited, waited, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->waits, 1, memory_order_relaxed);
    return ordinal;
}

/* Take over from MPI's status where a message is from, if the program has not said it. */
static void name_origin(const struct known_comm *comm, const MPI_Status *status, int32_t *source,
                        int32_t *tag, uint8_t *class)
{
    if (status == MPI_STATUS_IGNORE || (*source != ANY_RANK && *class != ANY_CLASS))
        return;
    *source = comm == NULL ? UNKNOWN_RANK : world_rank(comm, status->MPI_SOURCE);
    *class = comm == NULL ? 0 : class_of(comm, status->MPI_TAG);
    *tag = status->MPI_TAG;
}

void end_receive(struct record *record, const struct completion *completion, const struct known_comm *comm,
                 struct recorded_message end, uint64_t waited, const MPI_Status *status)
{
    if (end.peer == NO_RANK)
        return;
    name_origin(comm, status, &end.peer, &end.tag, &end.class);
    end.ordinal = count_received(record, end.peer, end.class, end.bytes, waited);
    if (end.class != ANY_CLASS)
        add_end(completion, &end);
}

void receive(struct record *record, struct recorded_call *call, const struct known_comm *comm,
             uint64_t waited, const MPI_Status *status)
{
    if (call->source == NO_RANK)
        return;
    name_origin(comm, status, &call->source, &call->received_tag, &call->received_class);
    call->received_ordinal = count_received(record, call->source, call->received_class, call->bytes, waited);
    call->has_received = call->source >= 0 && call->received_class != ANY_CLASS;
}

void begin_operation(struct record *record, struct recorded_call *call, const struct seen *seen,
                     const struct known_comm *comm)
{
    call->comm = comm->id;
    if (seen->has_bytes)
        call->bytes = bytes_of(seen->count, seen->type);
    if (!seen->is_collective)
        describe_message(call, seen, comm);
    else if (!comm->is_inter)
        describe_collective(call, seen, comm);
    if (seen->sends && seen->form != PERSISTENT)
        call->sent_ordinal = count_sent(record, call->dest, call->sent_class, call->bytes);
}
