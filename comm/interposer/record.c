#include "record.h"

#include "door.h"
#include "recorded_comms.h"
#include "recorded_messages.h"
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
    struct given_requests given;
};
static struct open_call open_calls[LANES];
/* Ticks in calls of each lane so far. */
static uint64_t ticks_inside[LANES];
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

static void begin_call(const struct seen *seen)
{
    const uint32_t number = lane->begun + 1;
    struct recorded_call *call = &lane->calls[number % RECORDED_CALLS];
    struct open_call *open = &open_calls[lane - record->lanes];
    *call = (struct recorded_call){.number = number,
                                   .lane = (uint8_t)(lane - record->lanes),
                                   .function = (uint16_t)seen->function,
                                   .bytes = -1,
                                   .dest = NO_RANK,
                                   .source = NO_RANK,
                                   .inside = ticks_inside[lane - record->lanes],
                                   .entered = read_ticks()};
    open->call = call;
    open->seen = *seen;
    open->comm = NULL;
    open->given.count = 0;
    open->given.mixed = false;
    if (seen->requests != NULL)
        begin_requests(record, &open->given, call, seen);
    else if (seen->has_comm && (open->comm = find_comm(seen->comm)) != NULL)
        begin_operation(record, call, seen, open->comm);
    if (UNLIKELY(seen->function == FUNCTION_Finalize))
        record->finalizing = 1;
    if (UNLIKELY(seen->frees_comm))
        remove_comm(seen->comm);
    atomic_store_explicit(&lane->begun, number, memory_order_release);
}

/* A communicator that the call has made. */
static void add_made(const struct seen *seen)
{
    if (*seen->newcomm != constants.null_comm)
        add_comm(*seen->newcomm, seen->form == NONBLOCKING ? seen->comm : *seen->newcomm, seen->comm);
}

/* The messages that the call itself has sent and received; whether one has come. */
static bool end_messages(const struct open_call *open, uint64_t waited)
{
    const struct seen *seen = &open->seen;
    open->call->has_sent = seen->sends && seen->form != PERSISTENT && open->call->dest >= 0;
    /* What is complete as soon as it is begun receives nothing. */
    if (!seen->receives || seen->request != NULL || seen->probes || (seen->flag != NULL && !*seen->flag))
        return false;
    receive(record, open->call, open->comm, waited, seen->status);
    return true;
}

static void end_call(int code)
{
    struct open_call *open = &open_calls[lane - record->lanes];
    struct recorded_call *call = open->call;
    const struct seen *seen = &open->seen;
    const uint64_t now = read_ticks(), waited = now - call->entered;
    const struct completion completion = {lane, call->entered, now, open->given.mixed};
    bool advanced = seen->waits != LOOKS;
    ticks_inside[lane - record->lanes] += waited;
    if (seen->requests != NULL)
        advanced |= end_requests(record, &open->given, seen, &completion, code);
    else if (code == MPI_SUCCESS && seen->request != NULL && !is_shared(*seen->request))
        enter_request(record, call, seen);
    else if (code == MPI_SUCCESS)
        advanced |= end_messages(open, waited);
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

bool is_inside_call(void)
{
    return depth > 0;
}

int start_record(int file, int rank, int ranks, MPI_Comm watched)
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
    open_comms(record, watched);
    record->version = RECORD_VERSION;
    observer = &recorder;
    return 0;
}

void go_on_recording(bool on)
{
    observer = on && record != NULL ? &recorder : NULL;
}
