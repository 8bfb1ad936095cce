#include "requests.h"

#include "ask.h"
#include "door.h"
#include "forks.h"
#include "hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

atomic_long operations_under_way, orphans;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct operation *buckets[BUCKETS];
static struct operation *orphaned;

__attribute__((constructor)) static void hold_lock_in_forks(void)
{
    hold_in_forks(&lock);
}

static struct operation **bucket_of(MPI_Request request)
{
    return &buckets[bucket_number((uintptr_t)request)];
}

static void put_on(struct operation **list, struct operation *operation)
{
    operation->next = *list;
    *list = operation;
}

static void take_off(struct operation **place, const struct operation *operation)
{
    while (*place != operation)
        place = &(*place)->next;
    *place = operation->next;
}

void enroll(struct operation *operation)
{
    pthread_mutex_lock(&lock);
    operation->claimed = false;
    put_on(bucket_of(operation->request), operation);
    pthread_mutex_unlock(&lock);
    atomic_fetch_add(&operations_under_way, 1);
}

/* Take back an operation whose request the program has lost, if another object of mpi4py's has it, too. */
static struct operation *adopt(MPI_Request request)
{
    struct operation *operation = orphaned;
    while (operation != NULL && operation->request != request)
        operation = operation->next;
    if (operation == NULL)
        return NULL;
    take_off(&orphaned, operation);
    put_on(bucket_of(request), operation);
    atomic_fetch_add(&operations_under_way, 1);
    atomic_fetch_sub(&orphans, 1);
    return operation;
}

/* MPICH has one handle for all sends that are complete when they start, and a handle is used again as soon as
 * MPI has completed its request: the newest operation of a handle is its own, unless another thread has
 * claimed that. */
struct operation *claim(MPI_Request request)
{
    if (request == constants.null_request)
        return NULL;
    pthread_mutex_lock(&lock);
    struct operation *operation = *bucket_of(request);
    while (operation != NULL && (operation->request != request || operation->claimed))
        operation = operation->next;
    if (operation == NULL)
        operation = adopt(request);
    if (operation != NULL)
        operation->claimed = true;
    pthread_mutex_unlock(&lock);
    return operation;
}

bool is_home(const MPI_Request *place)
{
    if (atomic_load_explicit(&operations_under_way, memory_order_relaxed) == 0)
        return false;
    pthread_mutex_lock(&lock);
    const struct operation *operation = *bucket_of(*place);
    while (operation != NULL && operation->home != place)
        operation = operation->next;
    pthread_mutex_unlock(&lock);
    return operation != NULL;
}

void unclaim(struct operation *operation)
{
    pthread_mutex_lock(&lock);
    operation->claimed = false;
    pthread_mutex_unlock(&lock);
}

void dismiss(struct operation *operation)
{
    pthread_mutex_lock(&lock);
    take_off(bucket_of(operation->request), operation);
    pthread_mutex_unlock(&lock);
    atomic_fetch_sub(&operations_under_way, 1);
    release(operation);
    free(operation);
}

void own_borrowed(struct operation *operation)
{
    if (operation->borrowed == NULL || operation->owner != NULL)
        return;
    keep_object(operation->borrowed);
    operation->owner = operation->borrowed;
}

void orphan(struct operation *operation)
{
    own_borrowed(operation);
    pthread_mutex_lock(&lock);
    take_off(bucket_of(operation->request), operation);
    put_on(&orphaned, operation);
    pthread_mutex_unlock(&lock);
    atomic_fetch_sub(&operations_under_way, 1);
    atomic_fetch_add(&orphans, 1);
}

/* Finish an operation that nobody waits for, if it is complete. */
static bool settle_alone(struct operation *operation)
{
    MPI_Status status;
    /* At the end nothing is waited for that Python runs. */
    if (!operation->stored && !advance(operation))
        return false;
    int done = !operation->active;
    const int code = done ? MPI_SUCCESS : next.Test(&operation->request, &done, &status);
    if (code == MPI_SUCCESS && !done)
        return false;
    /* As with a request that MPI has freed, there is nobody to tell of an error. */
    if (code == MPI_SUCCESS)
        unpack(operation, &status);
    if (operation->form == PERSISTENT)
        next.Request_free(&operation->request);
    release(operation);
    free(operation);
    return true;
}

void settle_orphans(void)
{
    /* A store may call MPI, and so come here again. */
    static _Thread_local bool settling;
    if (settling)
        return;
    settling = true;
    pthread_mutex_lock(&lock);
    struct operation *all = orphaned;
    orphaned = NULL;
    pthread_mutex_unlock(&lock);
    for (struct operation *operation = all, *following; operation != NULL; operation = following) {
        following = operation->next;
        if (settle_alone(operation)) {
            atomic_fetch_sub(&orphans, 1);
            continue;
        }
        pthread_mutex_lock(&lock);
        put_on(&orphaned, operation);
        pthread_mutex_unlock(&lock);
    }
    settling = false;
}

/* The time in which MPI notices that a receive is cancelled, and may complete a collective; one second, at
 * least. */
static const time_t SECONDS_TO_END = 2;

void end_operations(void)
{
    /* Also those that the program has not completed. */
    for (int i = 0; i < BUCKETS; i++)
        while (buckets[i] != NULL) {
            buckets[i]->borrowed = NULL;
            orphan(buckets[i]);
        }
    for (struct operation *operation = orphaned; operation != NULL; operation = operation->next) {
        /* The arrays may be gone: the program has no more to do with them. */
        operation->stored = true;
        if (operation->message && operation->active)
            next.Cancel(&operation->request);
    }
    const time_t limit = time(NULL) + SECONDS_TO_END;
    while (orphaned != NULL && time(NULL) < limit)
        settle_orphans();
    /* MPI completes a send that nobody has received yet while it is finalized: the memory stays. */
    for (struct operation *operation = orphaned; operation != NULL; operation = operation->next)
        next.Request_free(&operation->request);
    orphaned = NULL;
}
