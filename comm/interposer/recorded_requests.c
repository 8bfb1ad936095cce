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

struct recorded_request *find_request(struct record *record, MPI_Request handle)
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

void add_request(struct record *record, MPI_Request handle, const struct recorded_request *facts)
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
    place->started = facts->started;
    place->bytes = facts->bytes;
    place->comm = facts->comm;
    place->sequence = facts->sequence;
    place->dest = facts->dest;
    place->source = facts->source;
    place->tag = facts->tag;
    place->function = facts->function;
    place->sent_class = facts->sent_class;
    place->received_class = facts->received_class;
    place->receives = facts->receives;
    place->collective = facts->collective;
    place->persistent = facts->persistent;
    place->ordinal = facts->ordinal;
    place->awaited = 0;
    place->active = facts->active;
}

void remove_request(struct recorded_request *request)
{
    request->active = 0;
    atomic_store_explicit(&request->handle, 0, memory_order_release);
}
