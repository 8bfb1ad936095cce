#include "methods.h"

#include "collectives.h"
#include "door.h"
#include "frame.h"

#include <string.h>

enum { MOST_METHODS = 128, FEW_ARGUMENTS = 14 };

struct method {
    PyMethodDef definition;
    PyObject *base;
    enum function function, large;
    bool keeps, reduces;
    /* Whether a program has asked for an algorithm of ours. */
    bool engages;
};

static struct method methods[MOST_METHODS];
static int method_count;

#define NAMED(name) [FUNCTION_##name] = #name,
static const char *const names_of_functions[FUNCTIONS] = {INTERCEPTED(NAMED)};

const char *name_of(enum function function)
{
    return names_of_functions[function];
}

/* Say what is wrong with the arguments where that is not what MPI or mpi4py made of it. */
static void restate(struct frame *frame)
{
    if (frame->error == NULL && frame->refusal == NULL)
        return;
    PyErr_Clear();
    if (frame->error != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(frame->error), frame->error);
    else
        PyErr_SetString(PyExc_BufferError, frame->refusal);
}

/* Let the engine say on all ranks that this one's arguments were refused before the others could know. */
static void tell_others(const struct frame *frame, PyObject *self)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *answer = PyObject_CallMethod(engine, "refused", "sOO", name_of(frame->function), self,
                                           frame->wanted == NULL ? Py_None : frame->wanted);
    if (answer == NULL) {
        Py_XDECREF(kind);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        return;
    }
    Py_DECREF(answer);
    PyErr_Restore(kind, error, traceback);
}

static PyObject *call_base(PyObject *base, PyObject *self, PyObject *const *arguments, Py_ssize_t count,
                           PyObject *names)
{
    const Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    PyObject *few[FEW_ARGUMENTS + 2], **stack = few;
    if (all > FEW_ARGUMENTS) {
        stack = PyMem_Malloc((size_t)(all + 2) * sizeof *stack);
        if (stack == NULL)
            return PyErr_NoMemory();
    }
    stack[1] = self;
    memcpy(stack + 2, arguments, (size_t)all * sizeof *stack);
    PyObject *result =
        PyObject_Vectorcall(base, stack + 1, (size_t)(count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    if (stack != few)
        PyMem_Free(stack);
    return result;
}

/* Call a method of mpi4py's within a frame. */
static PyObject *run_framed(struct frame *frame, PyObject *base, PyObject *self, PyObject *const *arguments,
                            Py_ssize_t count, PyObject *names)
{
    /* A function that MPI calls back may call a method of ours. */
    const struct thread outer = thread;
    thread = (struct thread){.frame = frame, .special = checks_bounds || frame->owner != NULL};
    PyObject *result = call_base(base, self, arguments, count, names);
    thread = outer;
    /* The call may have been refused before MPI. */
    if (UNLIKELY(late != NULL) && asking == 0)
        raise_late();
    if (UNLIKELY(frame->sent.begin != NULL))
        clear_strided(&frame->sent);
    if (UNLIKELY(frame->received.begin != NULL))
        clear_strided(&frame->received);
    if (UNLIKELY(result == NULL)) {
        restate(frame);
        if (frame->engages && !frame->reached)
            tell_others(frame, self);
    }
    Py_XDECREF((PyObject *)frame->error);
    Py_XDECREF((PyObject *)frame->owner);
    if (UNLIKELY(frame->engages)) {
        Py_XDECREF((PyObject *)frame->sent_array);
        Py_XDECREF((PyObject *)frame->received_array);
    }
    return result;
}

static PyObject *run(const struct method *method, PyObject *self, PyObject *const *arguments,
                     Py_ssize_t count, PyObject *names)
{
    struct frame frame = {
        .function = method->function,
        .large = method->large,
        .engages = method->engages,
        .reduces = method->engages && method->reduces,
    };
    if (UNLIKELY(method->keeps)) {
        const Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
        PyObject *owner = PyTuple_New(all);
        for (Py_ssize_t i = 0; owner != NULL && i < all; i++)
            PyTuple_SET_ITEM(owner, i, Py_NewRef(arguments[i]));
        frame.owner = owner;
    }
    return run_framed(&frame, method->base, self, arguments, count, names);
}

/* A method descriptor calls a C function that is not told which method it is: one for each. */
/* clang-format off */
#define TEN(X, i) X(i##0) X(i##1) X(i##2) X(i##3) X(i##4) X(i##5) X(i##6) X(i##7) X(i##8) X(i##9)
#define ALL(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) \
    TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) TEN(X, 6) TEN(X, 7) TEN(X, 8) TEN(X, 9) TEN(X, 10) TEN(X, 11)
/* clang-format on */
#define FUNCTION(i)                                                                             \
    static PyObject *function_##i(PyObject *self, PyObject *const *arguments, Py_ssize_t count, \
                                  PyObject *names)                                              \
    {                                                                                           \
        return run(&methods[i], self, arguments, count, names);                                 \
    }
#define ENTRY(i) function_##i,
ALL(FUNCTION)
static PyObject *(*const functions[])(PyObject *, PyObject *const *, Py_ssize_t, PyObject *) = {ALL(ENTRY)};

/* The function of MPI with a name and a suffix; FUNCTIONS if there is none. */
static enum function function_named(const char *name, const char *suffix)
{
    const size_t length = strlen(name);
    int i = 0;
    while (i < FUNCTIONS && (strncmp(names_of_functions[i], name, length) != 0 ||
                             strcmp(names_of_functions[i] + length, suffix) != 0))
        i++;
    return i;
}

PyObject *make_method(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyTypeObject *type;
    const char *name, *function;
    PyObject *base;
    int keeps, reduces;
    if (!PyArg_ParseTuple(arguments, "O!ssOpp", &PyType_Type, &type, &name, &function, &base, &keeps,
                          &reduces))
        return NULL;
    if (method_count >= (int)(sizeof functions / sizeof *functions)) {
        PyErr_SetString(PyExc_RuntimeError, "methods: too many");
        return NULL;
    }
    const enum function plain = function_named(function, "");
    if (plain == FUNCTIONS)
        return PyErr_Format(PyExc_ValueError, "%s: expected a function of the table", function);
    PyObject *text = PyObject_GetAttrString(base, "__doc__");
    if (text == NULL)
        return NULL;
    struct method *method = &methods[method_count];
    method->base = Py_NewRef(base);
    method->keeps = keeps;
    method->reduces = reduces;
    method->function = plain;
    method->large = function_named(function, "_c");
    /* Method, name and text live as long as the process, as the classes do. */
    method->definition = (PyMethodDef){
        .ml_name = strdup(name),
        .ml_meth = (PyCFunction)(void (*)(void))functions[method_count],
        .ml_flags = METH_FASTCALL | METH_KEYWORDS,
        .ml_doc = PyUnicode_Check(text) ? strdup(PyUnicode_AsUTF8(text)) : NULL,
    };
    Py_DECREF(text);
    method_count++;
    return PyDescr_NewMethod(type, &method->definition);
}

static struct method *method_named(const char *name)
{
    const enum function function = function_named(name, "");
    int i = 0;
    while (i < method_count && methods[i].function != function)
        i++;
    return i < method_count ? &methods[i] : NULL;
}

PyObject *engage(PyObject *module, PyObject *name)
{
    (void)module;
    const char *text = PyUnicode_AsUTF8(name);
    struct method *method = text == NULL ? NULL : method_named(text);
    if (method == NULL)
        return PyErr_Format(PyExc_ValueError, "%R: expected a method of ours", name);
    method->engages = true;
    Py_RETURN_NONE;
}

PyObject *call_as_wanted(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    const char *name = count < 3 ? NULL : PyUnicode_AsUTF8(arguments[0]);
    const struct method *method = name == NULL ? NULL : method_named(name);
    if (method == NULL)
        return PyErr_Format(PyExc_TypeError, "expected a method of ours, what is wanted, and arguments");
    struct frame frame = {
        .function = method->function,
        .large = method->large,
        .engages = true,
        .reduces = method->reduces,
        .wanted = arguments[1],
    };
    return run_framed(&frame, method->base, arguments[2], arguments + 3, count - 3, NULL);
}
