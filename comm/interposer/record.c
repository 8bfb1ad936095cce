#include "record.h"

#include "door.h"
#include "recorded_comms.h"
#include "recorded_requests.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

static struct record *record;
static pthread_key_t lane_of_thread;

/* A call under way: what is needed of its arguments when it ends. */
struct open_call {
    struct recorded_call *call;
    struct seen seen;
    const struct known_comm *comm;
    /* Requests that it may complete. */
    struct recorded_request *requests[RECORDED_REQUESTS];
    int places[RECORDED_REQUESTS];
    int request_count;
    /* Of the message that it sends. */
    uint32_t ordinal;
    /* Whether it waits for more than messages. */
    bool mixed;
    /* When it ended. */
    uint64_t left;
    /* Ticks in calls of its lane so far. */
    uint64_t inside;
};
static struct open_call open_calls[LANES];
static QUICK_THREAD_LOCAL struct lane *lane;
/* How many calls lie within one another. Those within are the library's or roundelay's, not the program's. */
static QUICK_THREAD_LOCAL int depth;

uint64_t read_ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

static void give_lane_back(void *given)
{
    struct lane *own = given;
    own->thread = 0;
}

/* A lane that no other thread has; NULL where all are taken. */
static struct lane *take_lane(void)
{
    const uint32_t thread = (uint32_t)syscall(SYS_gettid);
    for (int i = 0; i < LANES; i++) {
        uint32_t none = 0;
        if (atomic_compare_exchange_strong(&record->lanes[i].thread, &none, thread)) {
            pthread_setspecific(lane_of_thread, &record->lanes[i]);
            return &record->lanes[i];
        }
    }
    record->lost_threads++;
    return NULL;
}

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
        call->received_class = class_of(comm, seen->recvtag);
    }
}

/* The message's number among those that are counted together. */
static uint32_t count_sent(int32_t dest, uint8_t class, int64_t bytes)
{
    if (dest < 0)
        return 0;
    struct recorded_peer *peer = &record->peers[dest];
    atomic_fetch_add_explicit(&peer->bytes_sent, (uint64_t)(bytes < 0 ? 0 : bytes), memory_order_relaxed);
    return atomic_fetch_add_explicit(&peer->sent[class % TAG_CLASSES], 1, memory_order_relaxed);
}

static void add_message(const struct open_call *open, const struct recorded_message *end)
{
    if (end->peer < 0)
        return;
    const uint32_t number = atomic_fetch_add_explicit(&record->ends, 1, memory_order_relaxed) + 1;
    struct recorded_message *place = &record->messages[number % RECORDED_MESSAGES];
    atomic_store_explicit(&place->number, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    place->ordinal = end->ordinal;
    place->started = end->started;
    place->entered = open->call->entered;
    place->left = open->left;
    place->bytes = end->bytes;
    place->comm = end->comm;
    place->tag = end->tag;
    place->peer = end->peer;
    place->function = end->function;
    place->class = end->class;
    place->sent = end->sent;
    place->mixed = open->mixed;
    atomic_store_explicit(&place->number, number, memory_order_release);
}

static void count_received(const struct open_call *open, struct recorded_message *end, uint64_t waited)
{
    if (end->peer == ANY_RANK || end->class == ANY_CLASS)
        atomic_fetch_add_explicit(&record->unnamed, 1, memory_order_relaxed);
    if (end->peer < 0)
        return;
    struct recorded_peer *peer = &record->peers[end->peer];
    const int64_t bytes = end->bytes;
    if (end->class != ANY_CLASS) {
        end->ordinal = atomic_fetch_add_explicit(&peer->received[end->class], 1, memory_order_relaxed);
        add_message(open, end);
    }
    atomic_fetch_add_explicit(&peer->bytes_received, (uint64_t)(bytes < 0 ? 0 : bytes), memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->waited, waited, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->waits, 1, memory_order_relaxed);
}

/* Find the requests of a call that completes them. */
static void describe_waiting(struct open_call *open, const struct seen *seen)
{
    open->call->waits_for_all = seen->waits == WAITS_FOR_ALL;
    open->call->waits_for_any = seen->waits == WAITS_FOR_ANY;
    for (int i = 0; i < seen->count && open->request_count < RECORDED_REQUESTS; i++) {
        if (seen->requests[i] == constants.null_request || is_shared(seen->requests[i]))
            continue;
        struct recorded_request *request = find_request(record, seen->requests[i]);
        open->mixed |= request == NULL || request->collective;
        if (request == NULL)
            continue;
        open->places[open->request_count] = i;
        open->requests[open->request_count++] = request;
        if (open->call->waits_for_all | open->call->waits_for_any)
            request->awaited = (uint8_t)(lane - record->lanes + 1);
    }
}

static void begin_call(const struct seen *seen)
{
    const uint32_t number = lane->begun + 1;
    struct recorded_call *call = &lane->calls[number % RECORDED_CALLS];
    struct open_call *open = &open_calls[lane - record->lanes];
    *call = (struct recorded_call){.number = number,
                                   .lane = (uint32_t)(lane - record->lanes),
                                   .function = (uint16_t)seen->function,
                                   .bytes = -1,
                                   .dest = NO_RANK,
                                   .source = NO_RANK,
                                   .inside = open->inside,
                                   .entered = read_ticks()};
    open->call = call;
    open->seen = *seen;
    open->comm = NULL;
    open->request_count = 0;
    open->mixed = false;
    if (seen->requests != NULL)
        describe_waiting(open, seen);
    else if (seen->has_comm && (open->comm = find_comm(seen->comm)) != NULL) {
        call->comm = open->comm->id;
        if (seen->has_bytes)
            call->bytes = bytes_of(seen->count, seen->type);
        if (!seen->is_collective)
            describe_message(call, seen, open->comm);
        else if (!open->comm->is_inter)
            describe_collective(call, seen, open->comm);
        if (seen->sends && seen->form != PERSISTENT)
            open->ordinal = count_sent(call->dest, call->sent_class, call->bytes);
    }
    if (UNLIKELY(seen->function == FUNCTION_Finalize))
        record->finalizing = 1;
    if (UNLIKELY(seen->frees_comm))
        remove_comm(seen->comm);
    atomic_store_explicit(&lane->begun, number, memory_order_release);
}

/* A message that has arrived; MPI's status says from where, if the program did not. */
static void end_receive(const struct open_call *open, const struct known_comm *comm,
                        struct recorded_message end, uint64_t waited, const MPI_Status *status)
{
    if (end.peer == NO_RANK)
        return;
    if (status != MPI_STATUS_IGNORE && (end.peer == ANY_RANK || end.class == ANY_CLASS)) {
        end.peer = comm == NULL ? UNKNOWN_RANK : world_rank(comm, status->MPI_SOURCE);
        end.class = comm == NULL ? 0 : class_of(comm, status->MPI_TAG);
        end.tag = status->MPI_TAG;
    }
    count_received(open, &end, waited);
}

/* The message that the call itself has sent. */
static struct recorded_message sent_by(const struct open_call *open)
{
    const struct recorded_call *call = open->call;
    return (struct recorded_message){.ordinal = open->ordinal,
                                     .started = call->entered,
                                     .bytes = call->bytes,
                                     .comm = call->comm,
                                     .tag = open->seen.sendtag,
                                     .peer = call->dest,
                                     .function = call->function,
                                     .class = call->sent_class,
                                     .sent = 1};
}

static struct recorded_message received_by(const struct open_call *open)
{
    const struct recorded_call *call = open->call;
    return (struct recorded_message){.started = call->entered,
                                     .bytes = call->bytes,
                                     .comm = call->comm,
                                     .tag = open->seen.recvtag,
                                     .peer = call->source,
                                     .function = call->function,
                                     .class = call->received_class};
}

static void start_request(struct recorded_request *request)
{
    request->active = 1;
    request->started = read_ticks();
    if (request->sent_class != ANY_CLASS)
        request->ordinal = count_sent(request->dest, request->sent_class, request->bytes);
}

static void enter_request(const struct open_call *open)
{
    const struct recorded_call *call = open->call;
    const struct seen *seen = &open->seen;
    if (is_shared(*seen->request)) {
        /* Complete, and nothing will come of it. */
        if (seen->sends && seen->form != PERSISTENT) {
            const struct recorded_message end = sent_by(open);
            add_message(open, &end);
        }
        return;
    }
    const struct recorded_request facts = {.started = call->entered,
                                           .bytes = call->bytes,
                                           .comm = call->comm,
                                           .sequence = call->sequence,
                                           .dest = call->dest,
                                           .source = call->source,
                                           .tag = call->tag,
                                           .function = call->function,
                                           .sent_class = seen->sends ? call->sent_class : ANY_CLASS,
                                           .received_class = call->received_class,
                                           .receives = seen->receives,
                                           .collective = seen->is_collective,
                                           .ordinal = open->ordinal,
                                           .persistent = seen->form == PERSISTENT,
                                           .active = seen->form != PERSISTENT};
    add_request(record, *seen->request, &facts);
}

/* Where a request is in the list that the call gives of those that it has completed; -1 where it is not. */
static int place_among_completed(const struct seen *seen, int i)
{
    const int found = seen->found == NULL ? 1 : *seen->found;
    for (int k = 0; k < found; k++)
        if (seen->indices[k] == i)
            return k;
    return -1;
}

/* The status of one of the requests of a call. */
static const MPI_Status *status_of(const struct seen *seen, int i)
{
    if (seen->status == MPI_STATUSES_IGNORE || seen->indices == NULL)
        return seen->status == MPI_STATUSES_IGNORE ? MPI_STATUS_IGNORE : &seen->status[i];
    const int place = place_among_completed(seen, i);
    return place < 0 ? MPI_STATUS_IGNORE : &seen->status[place];
}

/* Only of requests: MPICH leaves what a status says of that as it was where a matched probe finds a message.
 */
static bool is_cancelled(const MPI_Status *status)
{
    int cancelled = 0;
    if (status != MPI_STATUS_IGNORE)
        next.Test_cancelled(status, &cancelled);
    return cancelled;
}

/* The communicator of a request that receives; NULL, without the search, where all of the message was said.
 */
static const struct known_comm *comm_of(const struct recorded_request *request)
{
    const bool is_named = request->source != ANY_RANK && request->received_class != ANY_CLASS;
    return is_named ? NULL : comm_with_id(request->comm);
}

/* A persistent request keeps its handle. To ask MPI about it now could find what came only after the call,
 * for which the call has no status. */
static bool is_complete(const struct recorded_request *request, const struct seen *seen, int i)
{
    if (!request->persistent)
        return seen->requests[i] == constants.null_request;
    if (seen->flag != NULL && !*seen->flag)
        return false;
    return seen->indices == NULL || place_among_completed(seen, i) >= 0;
}

/* Those of the requests that are complete now; how many. */
static int end_requests(struct open_call *open, uint64_t waited)
{
    int completed = 0;
    for (int i = 0; i < open->request_count; i++) {
        struct recorded_request *request = open->requests[i];
        request->awaited = 0;
        if (!request->active || !is_complete(request, &open->seen, open->places[i]))
            continue;
        completed++;
        const MPI_Status *status = status_of(&open->seen, open->places[i]);
        struct recorded_message end = {.ordinal = request->ordinal,
                                       .started = request->started,
                                       .bytes = request->bytes,
                                       .comm = request->comm,
                                       .tag = request->tag,
                                       .function = request->function};
        if (request->sent_class != ANY_CLASS) {
            end.peer = request->dest, end.class = request->sent_class, end.sent = 1;
            add_message(open, &end);
        }
        if (request->receives && !is_cancelled(status)) {
            end.peer = request->source, end.class = request->received_class, end.sent = 0;
            end_receive(open, comm_of(request), end, waited, status);
        }
        if (request->persistent)
            request->active = 0;
        else
            remove_request(request);
    }
    return completed;
}

/* A communicator that the call has made. */
static void add_made(const struct seen *seen)
{
    if (*seen->newcomm != constants.null_comm)
        add_comm(*seen->newcomm, seen->form == NONBLOCKING ? seen->comm : *seen->newcomm);
}

static void end_call(int code)
{
    struct open_call *open = &open_calls[lane - record->lanes];
    struct recorded_call *call = open->call;
    const struct seen *seen = &open->seen;
    const uint64_t now = read_ticks(), waited = now - call->entered;
    open->left = now;
    open->inside += waited;
    bool advanced = seen->waits != LOOKS;
    if (seen->requests != NULL && seen->waits == STARTS) {
        for (int i = 0; code == MPI_SUCCESS && i < open->request_count; i++)
            start_request(open->requests[i]);
    } else if (seen->requests != NULL && seen->waits == FREES) {
        if (open->request_count == 1)
            remove_request(open->requests[0]);
    } else if (seen->requests != NULL) {
        advanced |= end_requests(open, seen->waits == LOOKS ? 0 : waited) > 0;
    } else if (code == MPI_SUCCESS && seen->request != NULL) {
        enter_request(open);
    } else if (code == MPI_SUCCESS) {
        if (seen->sends) {
            const struct recorded_message end = sent_by(open);
            add_message(open, &end);
        }
        if (seen->receives && !seen->probes && (seen->flag == NULL || *seen->flag)) {
            end_receive(open, open->comm, received_by(open), waited, seen->status);
            advanced = true;
        }
    }
    if (code == MPI_SUCCESS && seen->newcomm != NULL)
        add_made(seen);
    if (UNLIKELY(seen->function == FUNCTION_Finalize))
        record->finalizing = 2;
    call->error = (uint16_t)code;
    call->left = now;
    if (advanced)
        atomic_store_explicit(&lane->advanced, lane->advanced + 1, memory_order_relaxed);
    atomic_store_explicit(&lane->ended, call->number, memory_order_release);
}

static void see_enter(const struct seen *seen)
{
    if (depth++ > 0)
        return;
    if (lane == NULL)
        lane = take_lane();
    if (lane != NULL)
        begin_call(seen);
}

static void see_leave(int code)
{
    /* The record may have begun within the call. */
    if (depth > 0 && --depth == 0 && lane != NULL && lane->begun != lane->ended)
        end_call(code);
}

static const struct observer recorder = {see_enter, see_leave};

static size_t record_bytes(int ranks)
{
    const size_t peers = (size_t)ranks * sizeof(struct recorded_peer);
    return sizeof(struct record) + peers + RECORDED_COMMS * (((size_t)ranks + 7) / 8);
}

int start_record(int file, int rank, int ranks)
{
    if (record != NULL)
        return EALREADY;
    if (ftruncate(file, (off_t)record_bytes(ranks)) != 0)
        return errno;
    void *memory = mmap(NULL, record_bytes(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        return errno;
    struct timespec now;
    record = memory;
    pthread_key_create(&lane_of_thread, give_lane_back);
    record->rank = rank;
    record->ranks = ranks;
    record->process = (uint32_t)getpid();
    clock_gettime(CLOCK_MONOTONIC, &now);
    record->ticks = read_ticks();
    record->nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    open_comms(record);
    record->version = RECORD_VERSION;
    observer = &recorder;
    return 0;
}

void go_on_recording(bool on)
{
    observer = on && record != NULL ? &recorder : NULL;
}
