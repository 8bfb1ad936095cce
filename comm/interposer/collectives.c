#include "collectives.h"

#include "ask.h"
#include "forks.h"
#include "hash.h"
#include "methods.h"
#include "staging.h"

#include <pthread.h>
#include <string.h>

/* A handle as mpi4py numbers it. */
#define NUMBER(handle) (unsigned long long)(intptr_t)(handle)

/* A call that is left to the library; `left` counts down in memory of Python's, which all calls share that
 * are decided together, so that all ranks ask again at the same one. */
struct choice {
    MPI_Comm comm;
    MPI_Datatype type;
    MPI_Op op;
    enum function function;
    int root;
    int64_t count;
    int64_t *left;
};

void *engine;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* The last used ones of each bucket come first. */
enum { CHOICES_IN_BUCKET = 4 };
static struct choice choices[BUCKETS][CHOICES_IN_BUCKET];

__attribute__((constructor)) static void hold_lock_in_forks(void)
{
    hold_in_forks(&lock);
}

static int64_t total(const struct collective *collective)
{
    if (collective->counts.numbers == NULL)
        return collective->count;
    int64_t sum = 0;
    for (int i = ranks_of(collective->comm); i-- > 0;)
        sum += number_at(collective->counts.numbers, collective->counts.width, i);
    return sum;
}

static struct choice *bucket_of(const struct collective *collective)
{
    uint64_t hash = (uintptr_t)collective->comm;
    const int64_t parts[] = {collective->function, collective->root, collective->count,
                             (int64_t)(intptr_t)collective->type, (int64_t)(intptr_t)collective->op};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        hash = (hash ^ (uint64_t)parts[i]) * SPREAD;
    return choices[bucket_number(hash)];
}

static bool is_for(const struct choice *choice, const struct collective *collective)
{
    return choice->left != NULL && choice->comm == collective->comm &&
           choice->function == collective->function && choice->count == collective->count &&
           choice->type == collective->type && choice->op == collective->op &&
           choice->root == collective->root;
}

/* Put a choice first; those before the place `last` move on, and the one there goes. */
static void put_first(struct choice *bucket, int last, struct choice choice)
{
    memmove(bucket + 1, bucket, (size_t)last * sizeof *bucket);
    bucket[0] = choice;
}

/* How often a call is left to the library without asking; NULL where the engine has not said so. */
static int64_t *recall(const struct collective *collective)
{
    struct choice *bucket = bucket_of(collective);
    for (int i = 0; i < CHOICES_IN_BUCKET; i++)
        if (is_for(&bucket[i], collective)) {
            put_first(bucket, i, bucket[i]);
            return bucket[0].left;
        }
    return NULL;
}

bool is_ours(struct frame *frame, struct collective *collective)
{
    frame->reached = true;
    collective->frame = frame;
    collective->count = total(collective);
    if (frame->wanted != NULL || frame->sent_array != NULL || frame->received_array != NULL)
        return true;
    pthread_mutex_lock(&lock);
    int64_t *left = recall(collective);
    const bool is_left = left != NULL && *left > 0;
    if (is_left)
        --*left;
    pthread_mutex_unlock(&lock);
    return !is_left;
}

static void remember(const struct collective *collective, int64_t *left)
{
    const struct choice choice = {
        collective->comm, collective->type,  collective->op, collective->function,
        collective->root, collective->count, left,
    };
    pthread_mutex_lock(&lock);
    if (recall(collective) != NULL)
        *bucket_of(collective) = choice;
    else
        put_first(bucket_of(collective), CHOICES_IN_BUCKET - 1, choice);
    pthread_mutex_unlock(&lock);
}

void forget_choices(MPI_Comm comm)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < BUCKETS; i++)
        for (int j = 0; j < CHOICES_IN_BUCKET; j++)
            if (choices[i][j].comm == comm)
                choices[i][j].left = NULL;
    pthread_mutex_unlock(&lock);
}

int count_choices(void)
{
    int count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < BUCKETS; i++)
        for (int j = 0; j < CHOICES_IN_BUCKET; j++)
            count += choices[i][j].left != NULL;
    pthread_mutex_unlock(&lock);
    return count;
}

/* Let the method raise the exception that there is. */
static int fail(const struct collective *collective)
{
    Py_XSETREF(*(PyObject **)&collective->frame->error, take_exception());
    return MPI_ERR_OTHER;
}

static PyObject *numbers_of(const struct numbers *numbers, int count)
{
    if (numbers->numbers == NULL)
        return Py_NewRef(Py_None);
    PyObject *tuple = PyTuple_New(count);
    for (int i = 0; tuple != NULL && i < count; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(number_at(numbers->numbers, numbers->width, i)));
    return tuple;
}

static PyObject *place_in_memory(const void *buffer)
{
    return buffer == MPI_IN_PLACE ? Py_NewRef(Py_None) : PyLong_FromVoidPtr((void *)buffer);
}

static PyObject *or_none(void *object)
{
    return object == NULL ? Py_None : object;
}

static PyObject *description_of(const struct collective *collective)
{
    const struct frame *frame = collective->frame;
    const int ranks = ranks_of(collective->comm);
    return Py_BuildValue(
        "(siK(NLOOKO)(NLNNKO)KiO)", name_of(collective->function), collective->form, NUMBER(collective->comm),
        place_in_memory(collective->sent), (long long)collective->sent_count, Py_None, Py_None,
        NUMBER(collective->sent_type), or_none(frame->sent_array), place_in_memory(collective->received),
        (long long)collective->count, numbers_of(&collective->counts, ranks),
        numbers_of(&collective->displs, ranks), NUMBER(collective->received_type),
        or_none(frame->received_array), NUMBER(collective->op), collective->root, or_none(frame->wanted));
}

/* Take over what Python has begun: a request, and what advances it. */
static int take_request(struct operation *operation, PyObject *begun, MPI_Request *request)
{
    unsigned long long handle;
    PyObject *behind;
    if (!PyArg_ParseTuple(begun, "KO", &handle, &behind))
        return -1;
    *request = (MPI_Request)(uintptr_t)handle;
    operation->behind = Py_NewRef(behind);
    return MPI_SUCCESS;
}

/* Read the engine's answer: None if it has run the collective; a request, and the object behind it, if it has
 * begun one; and if the library is to run it, the address of a counter of such calls, or a function to be
 * called afterwards. */
static int understand(struct operation *operation, struct collective *collective, PyObject *answer,
                      MPI_Request *request)
{
    if (answer == Py_None)
        return MPI_SUCCESS;
    if (PyTuple_Check(answer))
        return take_request(operation, answer, request);
    if (PyCallable_Check(answer)) {
        collective->after = Py_NewRef(answer);
        return LEFT;
    }
    int64_t *left = PyLong_AsVoidPtr(answer);
    /* The handles of derived datatypes come again when they are freed, in another order on each rank. */
    if (left != NULL && passes(collective->type))
        remember(collective, left);
    return LEFT;
}

int run_ours(struct operation *operation, struct collective *collective, MPI_Request *request)
{
    PyGILState_STATE state = PyGILState_Ensure();
    asking++;
    PyObject *description = description_of(collective), *answer = NULL;
    PyObject *function = description == NULL ? NULL : PyObject_GetAttrString(engine, "run");
    if (function != NULL)
        answer = PyObject_CallObject(function, description);
    int code = answer == NULL ? LEFT : understand(operation, collective, answer, request);
    if (PyErr_Occurred())
        code = fail(collective);
    Py_XDECREF(answer);
    Py_XDECREF(function);
    Py_XDECREF(description);
    asking--;
    PyGILState_Release(state);
    return code;
}

int end_library(struct collective *collective, int code)
{
    PyGILState_STATE state = PyGILState_Ensure();
    asking++;
    PyObject *answer = PyObject_CallNoArgs(collective->after);
    if (answer == NULL)
        code = fail(collective);
    Py_XDECREF(answer);
    Py_CLEAR(*(PyObject **)&collective->after);
    asking--;
    PyGILState_Release(state);
    return code;
}
