#include "ask.h"

#include <stdlib.h>
#include <string.h>

PyObject *answers;

static struct program *make_program(const char *words, Py_ssize_t nbytes, int64_t count, int64_t instances,
                                    bool overlaps)
{
    struct program *program = malloc(sizeof *program + (size_t)nbytes);
    if (program == NULL)
        return NULL;
    memcpy(program->words, words, (size_t)nbytes);
    program->count = count;
    program->instances = instances;
    program->overlaps = overlaps;
    program->next = NULL;
    atomic_init(&program->users, 1);
    /* The third word is the bytes of an instance (roundelay.datatypes.program). */
    program->nbytes = program->words[2] * instances;
    return program;
}

/* Python runs the handlers of signals in between, and one may raise an exception: the question is asked
 * again, and the program gets the exception when MPI's function has returned. */
enum { ATTEMPTS = 3 };
unsigned long main_thread;
void *_Atomic late;
_Thread_local int asking;

PyObject *take_exception(void)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(traceback);
    Py_XDECREF(kind);
    return error;
}

static void keep_late(void)
{
    PyObject *error = take_exception();
    if (late == NULL && PyThread_get_thread_ident() == main_thread) {
        late = error;
        return;
    }
    /* Other threads run no handlers. */
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    PyErr_WriteUnraisable(answers);
}

PyObject *raise_later(PyObject *module, PyObject *error)
{
    (void)module;
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    keep_late();
    Py_RETURN_NONE;
}

static int raise_pending(void *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), error);
    Py_DECREF((PyObject *)error);
    return -1;
}

void raise_late(void)
{
    if (asking > 0 || PyThread_get_thread_ident() != main_thread)
        return;
    void *error = late;
    late = NULL;
    Py_AddPendingCall(raise_pending, error);
}

/* Call a method; NULL after an exception that comes each time. Needs the GIL, and takes over the arguments.
 */
static PyObject *ask(PyObject *object, const char *method, PyObject *arguments)
{
    PyObject *function = arguments == NULL ? NULL : PyObject_GetAttrString(object, method), *answer = NULL;
    asking++;
    const int attempts = PyThread_get_thread_ident() == main_thread ? ATTEMPTS : 1;
    for (int i = 0; function != NULL && answer == NULL && i < attempts; i++) {
        answer = PyObject_CallObject(function, arguments);
        if (answer == NULL)
            keep_late();
    }
    asking--;
    Py_XDECREF(function);
    Py_XDECREF(arguments);
    return answer;
}

static void end_question(PyObject *answer, PyGILState_STATE state)
{
    Py_XDECREF(answer);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(answers);
    PyGILState_Release(state);
}

bool ask_datatype(MPI_Datatype datatype, struct known *known)
{
    PyGILState_STATE state = PyGILState_Ensure();
    unsigned long long dense = 0;
    bool found = false;
    PyObject *answer = ask(answers, "datatype", Py_BuildValue("(K)", number_of(datatype)));
    if (answer != NULL && answer != Py_None) {
        long long size, extent;
        found = PyArg_ParseTuple(answer, "LLiK", &size, &extent, &known->flags, &dense);
        known->size = size;
        known->extent = extent;
        known->dense = (MPI_Datatype)(intptr_t)dense;
    }
    end_question(answer, state);
    return found;
}

struct program *ask_program(MPI_Datatype datatype, int64_t count)
{
    PyGILState_STATE state = PyGILState_Ensure();
    struct program *program = NULL;
    PyObject *answer = ask(answers, "program", Py_BuildValue("(KL)", number_of(datatype), (long long)count));
    if (answer != NULL && answer != Py_None) {
        Py_buffer words;
        long long instances;
        int overlaps;
        if (PyArg_ParseTuple(answer, "y*Lp", &words, &instances, &overlaps)) {
            program = make_program(words.buf, words.len, count, instances, overlaps);
            PyBuffer_Release(&words);
        }
    }
    end_question(answer, state);
    return program;
}

static PyObject *tuple_of(int count, const int64_t *numbers)
{
    PyObject *tuple = PyTuple_New(count);
    for (int i = 0; tuple != NULL && i < count; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(numbers[i]));
    return tuple;
}

MPI_Datatype ask_described(const struct array *array)
{
    PyGILState_STATE state = PyGILState_Ensure();
    unsigned long long handle = 0;
    PyObject *answer = ask(answers, "described",
                           Py_BuildValue("(NNLK)", tuple_of(array->ndim, array->dims),
                                         tuple_of(array->ndim, array->dims + array->ndim),
                                         (long long)array->itemsize, number_of(array->element)));
    if (answer != NULL)
        handle = PyLong_AsUnsignedLongLong(answer);
    end_question(answer, state);
    return (MPI_Datatype)(intptr_t)handle;
}

struct array *ask_array(int ndim, const int64_t *shape, const int64_t *strides, int64_t itemsize,
                        const char *format)
{
    PyObject *answer = PyObject_CallMethod(answers, "array", "NNLs", tuple_of(ndim, shape),
                                           tuple_of(ndim, strides), (long long)itemsize, format);
    if (answer == NULL)
        return NULL;
    struct array *array = NULL;
    Py_buffer words;
    unsigned long long element;
    int overlaps, flags;
    if (PyArg_ParseTuple(answer, "y*piK", &words, &overlaps, &flags, &element)) {
        array = calloc(1, sizeof *array + 2 * (size_t)ndim * sizeof(int64_t));
        struct program *program = make_program(words.buf, words.len, 1, 1, overlaps);
        PyBuffer_Release(&words);
        if (array == NULL || program == NULL) {
            free(array);
            free(program);
            array = NULL;
            PyErr_NoMemory();
        } else {
            atomic_init(&array->users, 1);
            array->program = program;
            array->nbytes = program->nbytes;
            array->flags = flags;
            array->element = (MPI_Datatype)(intptr_t)element;
            array->ndim = ndim;
            array->itemsize = itemsize;
            strncpy(array->format, format, sizeof array->format - 1);
            memcpy(array->dims, shape, (size_t)ndim * sizeof *shape);
            memcpy(array->dims + ndim, strides, (size_t)ndim * sizeof *strides);
        }
    }
    Py_DECREF(answer);
    return array;
}

void *ask_bounds(MPI_Datatype datatype, int64_t count, int64_t offset, int64_t nbytes)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *answer = ask(
        answers, "bounds_error",
        Py_BuildValue("(KLLL)", number_of(datatype), (long long)count, (long long)offset, (long long)nbytes));
    void *error = answer != NULL && answer != Py_None ? Py_NewRef(answer) : NULL;
    end_question(answer, state);
    return error;
}

/* Call a method of an object of Python's; false after an exception. */
static bool call(PyObject *object, const char *method, int64_t number, bool *truth)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *answer =
        ask(object, method, number < 0 ? PyTuple_New(0) : Py_BuildValue("(L)", (long long)number));
    const bool well = answer != NULL;
    if (well && truth != NULL)
        *truth = PyObject_IsTrue(answer) > 0;
    end_question(answer, state);
    return well;
}

bool ask_load(void *stage)
{
    return call(stage, "load", -1, NULL);
}

bool ask_store(void *stage, int64_t received)
{
    return call(stage, "store", received, NULL);
}

bool ask_advance(void *behind)
{
    bool done = false;
    /* After an error there is nothing left to wait for. */
    return !call(behind, "advance", -1, &done) || done;
}

bool ask_start(void *behind)
{
    return call(behind, "start", -1, NULL);
}

bool ask_finish(void *behind)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *answer = PyObject_CallMethod(behind, "finish", NULL);
    const bool well = answer != NULL;
    end_question(answer, state);
    return well;
}

void keep_object(void *object)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Py_INCREF((PyObject *)object);
    PyGILState_Release(state);
}

void drop_object(void *object)
{
    if (object == NULL || !Py_IsInitialized())
        return;
    PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF((PyObject *)object);
    PyGILState_Release(state);
}
