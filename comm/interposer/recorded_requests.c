#include "recorded_requests.h"

#include "door.h"
#include "hash.h"

/* A request is near its home, or it has no place. */
enum { NEAR = 16 };

static int home_of(uint64_t handle)
{
    return (int)(handle * SPREAD >> 32 & (RECORDED_REQUESTS - 1));
}

/* A null handle of the library's could be any number. */
static uint64_t key_of(MPI_Request handle)
{
    return (uint64_t)(uintptr_t)handle | (uint64_t)1 << 63;
}

static struct recorded_request *find_request(struct record *record, MPI_Request handle)
{
    const uint64_t key = key_of(handle);
    const int home = home_of(key);
    for (int i = 0; i < NEAR; i++) {
        struct recorded_request *request = &record->requests[(home + i) % RECORDED_REQUESTS];
        if (atomic_load_explicit(&request->handle, memory_order_acquire) == key)
            return request;
    }
    return NULL;
}

static void add_request(struct record *record, MPI_Request handle, const struct request_facts *facts)
{
    const uint64_t key = key_of(handle);
    const int home = home_of(key);
    struct recorded_request *place = NULL;
    for (int i = 0; i < NEAR; i++) {
        struct recorded_request *request = &record->requests[(home + i) % RECORDED_REQUESTS];
        uint64_t held = atomic_load_explicit(&request->handle, memory_order_relaxed);
        /* The library uses the handle again: what was there ended unseen. */
        if (held == key || (held == 0 && atomic_compare_exchange_strong(&request->handle, &held, key))) {
            place = request;
            break;
        }
    }
    if (place == NULL) {
        record->lost_requests++;
        return;
    }
    place->facts = *facts;
}

static void remove_request(struct recorded_request *request)
{
    request->facts.active = 0;
    atomic_store_explicit(&request->handle, 0, memory_order_release);
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

/* A request that the program frees may have been cancelled, which nobody could ask about later. */
static void begin_free(struct record *record, MPI_Request handle, const struct request_facts *facts)
{
    int complete = 0;
    MPI_Status status;
    if (!facts->active || facts->sent_class == ANY_CLASS ||
        next.Request_get_status(handle, &complete, &status) != MPI_SUCCESS)
        return;
    if (complete && is_cancelled(&status))
        take_back(record, facts->dest, facts->sent_class, facts->bytes);
}

void begin_requests(struct record *record, struct given_requests *given, struct recorded_call *call,
                    const struct seen *seen)
{
    call->waits_for_all = seen->waits == WAITS_FOR_ALL;
    call->waits_for_any = seen->waits == WAITS_FOR_ANY;
    for (int i = 0; i < seen->count && given->count < RECORDED_REQUESTS; i++) {
        if (seen->requests[i] == constants.null_request || is_shared(seen->requests[i]))
            continue;
        struct recorded_request *request = find_request(record, seen->requests[i]);
        given->mixed |= request == NULL || request->facts.collective;
        if (request == NULL)
            continue;
        given->places[given->count] = i;
        given->requests[given->count++] = request;
        if (call->waits_for_all | call->waits_for_any)
            request->facts.awaited = (uint8_t)(call->lane + 1);
        if (seen->waits == FREES)
            begin_free(record, seen->requests[i], &request->facts);
    }
}

static void start_request(struct record *record, struct request_facts *facts)
{
    facts->active = 1;
    facts->started = read_ticks();
    if (facts->sent_class != ANY_CLASS)
        facts->ordinal = count_sent(record, facts->dest, facts->sent_class, facts->bytes);
}

void enter_request(struct record *record, const struct recorded_call *call, const struct seen *seen)
{
    const struct request_facts facts = {.started = call->entered,
                                        .bytes = call->bytes,
                                        .comm = call->comm,
                                        .sequence = call->sequence,
                                        .dest = call->dest,
                                        .source = call->source,
                                        .tag = call->tag,
                                        .ordinal = call->sent_ordinal,
                                        .function = call->function,
                                        .sent_class = seen->sends ? call->sent_class : ANY_CLASS,
                                        .received_class = call->received_class,
                                        .receives = seen->receives,
                                        .collective = seen->is_collective,
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

/* The communicator of a request that receives; NULL, without the search, where all of the message was said.
 */
static const struct known_comm *comm_of(const struct request_facts *facts)
{
    const bool is_named = facts->source != ANY_RANK && facts->received_class != ANY_CLASS;
    return is_named ? NULL : comm_with_id(facts->comm);
}

/* A persistent request keeps its handle. To ask MPI about it now could find what came only after the call,
 * for which the call has no status. */
static bool is_complete(const struct recorded_request *request, const struct seen *seen, int i)
{
    if (!request->facts.persistent)
        return seen->requests[i] == constants.null_request;
    if (seen->flag != NULL && !*seen->flag)
        return false;
    return seen->indices == NULL || place_among_completed(seen, i) >= 0;
}

/* Those of the requests that are complete now; how many. */
static int complete_requests(struct record *record, const struct given_requests *given,
                             const struct seen *seen, const struct completion *completion)
{
    const uint64_t waited = seen->waits == LOOKS ? 0 : completion->left - completion->entered;
    int completed = 0;
    for (int i = 0; i < given->count; i++) {
        struct request_facts *facts = &given->requests[i]->facts;
        facts->awaited = 0;
        if (!facts->active || !is_complete(given->requests[i], seen, given->places[i]))
            continue;
        completed++;
        const MPI_Status *status = status_of(seen, given->places[i]);
        const bool came = !is_cancelled(status);
        struct recorded_message end = {.ordinal = facts->ordinal,
                                       .started = facts->started,
                                       .bytes = facts->bytes,
                                       .comm = facts->comm,
                                       .tag = facts->tag,
                                       .function = facts->function};
        if (facts->sent_class != ANY_CLASS && !came)
            take_back(record, facts->dest, facts->sent_class, facts->bytes);
        if (facts->sent_class != ANY_CLASS && came) {
            end.peer = facts->dest, end.class = facts->sent_class, end.sent = 1;
            add_end(completion, &end);
        }
        if (facts->receives && came) {
            end.peer = facts->source, end.class = facts->received_class, end.sent = 0;
            end_receive(record, completion, comm_of(facts), end, waited, status);
        }
        if (facts->persistent)
            facts->active = 0;
        else
            remove_request(given->requests[i]);
    }
    return completed;
}

bool end_requests(struct record *record, const struct given_requests *given, const struct seen *seen,
                  const struct completion *completion, int code)
{
    if (seen->waits == STARTS) {
        for (int i = 0; code == MPI_SUCCESS && i < given->count; i++)
            start_request(record, &given->requests[i]->facts);
        return false;
    }
    if (seen->waits == FREES) {
        if (given->count == 1)
            remove_request(given->requests[0]);
        return false;
    }
    return complete_requests(record, given, seen, completion) > 0;
}
