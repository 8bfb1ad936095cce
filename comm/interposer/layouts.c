#include "layouts.h"

#include "ask.h"
#include "door.h"
#include "forks.h"
#include "hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ARRAYS_IN_BUCKET = 4, PROGRAMS_KEPT = 16 };

struct entry {
    MPI_Datatype datatype;
    bool readable;
    struct known known;
    struct program *programs;
    struct entry *next;
};

/* Never held while Python is asked. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *datatypes[BUCKETS];
static struct array *arrays[BUCKETS];
static int64_t datatype_count, array_count;

atomic_uint generation = 1;

__attribute__((constructor)) static void hold_lock_in_forks(void)
{
    hold_in_forks(&lock);
}

kernel pack_kernel;

static struct entry **bucket_of(MPI_Datatype datatype)
{
    return &datatypes[bucket_number((uintptr_t)datatype)];
}

static struct entry *find(MPI_Datatype datatype)
{
    struct entry *entry = *bucket_of(datatype);
    while (entry != NULL && entry->datatype != datatype)
        entry = entry->next;
    return entry;
}

bool learn(MPI_Datatype datatype, struct known *known)
{
    pthread_mutex_lock(&lock);
    struct entry *entry = find(datatype);
    const bool found = entry != NULL;
    bool readable = found && entry->readable;
    if (readable)
        *known = entry->known;
    pthread_mutex_unlock(&lock);
    if (found)
        return readable;
    entry = calloc(1, sizeof *entry);
    if (entry == NULL)
        return false;
    entry->datatype = datatype;
    readable = entry->readable = ask_datatype(datatype, &entry->known);
    *known = entry->known;
    pthread_mutex_lock(&lock);
    if (find(datatype) == NULL) {
        struct entry **bucket = bucket_of(datatype);
        entry->next = *bucket;
        *bucket = entry;
        datatype_count++;
        entry = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(entry);
    return readable;
}

/* The program for a count, in the first place of those kept. */
static struct program *recall(struct entry *entry, int64_t count)
{
    for (struct program **place = &entry->programs; *place != NULL; place = &(*place)->next) {
        struct program *program = *place;
        if (program->count == count) {
            *place = program->next;
            program->next = entry->programs;
            entry->programs = program;
            atomic_fetch_add(&program->users, 1);
            return program;
        }
    }
    return NULL;
}

static void keep(struct entry *entry, struct program *program)
{
    program->next = entry->programs;
    entry->programs = program;
    atomic_fetch_add(&program->users, 1);
    struct program **place = &entry->programs;
    for (int i = 0; i < PROGRAMS_KEPT && *place != NULL; i++)
        place = &(*place)->next;
    while (*place != NULL) {
        struct program *oldest = *place;
        *place = oldest->next;
        give_back(oldest);
    }
}

struct program *find_program(MPI_Datatype datatype, int64_t count)
{
    pthread_mutex_lock(&lock);
    struct entry *entry = find(datatype);
    struct program *program = entry == NULL ? NULL : recall(entry, count);
    pthread_mutex_unlock(&lock);
    if (program != NULL)
        return program;
    program = ask_program(datatype, count);
    if (program == NULL)
        return NULL;
    pthread_mutex_lock(&lock);
    entry = find(datatype);
    if (entry != NULL)
        keep(entry, program);
    pthread_mutex_unlock(&lock);
    return program;
}

void give_back(struct program *program)
{
    if (program != NULL && atomic_fetch_sub(&program->users, 1) == 1)
        free(program);
}

void forget(MPI_Datatype datatype)
{
    pthread_mutex_lock(&lock);
    struct entry **place = bucket_of(datatype);
    while (*place != NULL && (*place)->datatype != datatype)
        place = &(*place)->next;
    struct entry *entry = *place;
    if (entry != NULL) {
        *place = entry->next;
        datatype_count--;
        /* Threads may look it up again from here on, and what they find then is what MPI makes of the handle.
         */
        atomic_fetch_add(&generation, 1);
    }
    pthread_mutex_unlock(&lock);
    if (entry == NULL)
        return;
    for (struct program *program = entry->programs, *following; program != NULL; program = following) {
        following = program->next;
        give_back(program);
    }
    free(entry);
}

static uint64_t hash_numbers(uint64_t hash, const int64_t *numbers, int count)
{
    for (int i = 0; i < count; i++)
        hash = (hash ^ (uint64_t)numbers[i]) * SPREAD;
    return hash;
}

/* Find an array, and move it to the first place of its bucket. */
static struct array *recall_array(struct array **bucket, int ndim, const int64_t *shape,
                                  const int64_t *strides, int64_t itemsize, const char *format)
{
    const size_t width = (size_t)ndim * sizeof *shape;
    for (struct array **place = bucket; *place != NULL; place = &(*place)->next) {
        struct array *array = *place;
        if (array->ndim == ndim && array->itemsize == itemsize && memcmp(array->dims, shape, width) == 0 &&
            memcmp(array->dims + ndim, strides, width) == 0 && strcmp(array->format, format) == 0) {
            *place = array->next;
            array->next = *bucket;
            *bucket = array;
            atomic_fetch_add(&array->users, 1);
            return array;
        }
    }
    return NULL;
}

struct array *array_of(int ndim, const int64_t *shape, const int64_t *strides, int64_t itemsize,
                       const char *format)
{
    /* Records with long formats have no datatype: their bytes alone count. */
    if (strlen(format) >= sizeof((struct array *)0)->format)
        format = "V";
    uint64_t hash = hash_numbers((uint64_t)ndim, shape, ndim);
    hash = hash_numbers(hash, strides, ndim) ^ (uint64_t)itemsize;
    struct array **bucket = &arrays[bucket_number(hash)];
    pthread_mutex_lock(&lock);
    struct array *array = recall_array(bucket, ndim, shape, strides, itemsize, format);
    pthread_mutex_unlock(&lock);
    if (array != NULL)
        return array;
    array = ask_array(ndim, shape, strides, itemsize, format);
    if (array == NULL)
        return NULL;
    atomic_fetch_add(&array->users, 1);
    pthread_mutex_lock(&lock);
    array->next = *bucket;
    *bucket = array;
    array_count++;
    struct array **place = bucket;
    for (int i = 0; i < ARRAYS_IN_BUCKET && *place != NULL; i++)
        place = &(*place)->next;
    struct array *oldest = *place;
    *place = NULL;
    if (oldest != NULL)
        array_count--;
    pthread_mutex_unlock(&lock);
    if (oldest != NULL)
        give_array_back(oldest);
    return array;
}

bool describe(struct array *array, MPI_Datatype *datatype)
{
    if (array->element == 0)
        return false;
    pthread_mutex_lock(&lock);
    MPI_Datatype found = array->described;
    pthread_mutex_unlock(&lock);
    if (found == 0) {
        MPI_Datatype made = found = ask_described(array);
        pthread_mutex_lock(&lock);
        if (array->described == 0)
            array->described = made;
        else
            found = array->described;
        pthread_mutex_unlock(&lock);
        if (found != made && made != 0)
            next.Type_free(&made);
    }
    if (found != 0)
        *datatype = found;
    return found != 0;
}

void give_array_back(struct array *array)
{
    if (array == NULL || atomic_fetch_sub(&array->users, 1) != 1)
        return;
    /* MPI completes what is under way with a datatype that is freed. */
    if (array->described != 0)
        next.Type_free(&array->described);
    give_back(array->program);
    free(array);
}

void count_known(int64_t counts[2])
{
    pthread_mutex_lock(&lock);
    counts[0] = datatype_count;
    counts[1] = array_count;
    pthread_mutex_unlock(&lock);
}

void run_program(bool unpack, char *packed, char *memory, const struct program *program)
{
    void *nothing = NULL, *exception = NULL;
    pack_kernel(&nothing, &exception, unpack, (int64_t)packed, (int64_t)memory, (int64_t)program->words,
                program->instances);
}
