#include "methods.h"

#include "door.h"
#include "frame.h"

#include <string.h>

enum { MOST_METHODS = 128, FEW_ARGUMENTS = 14 };

struct method {
    PyMethodDef definition;
    PyObject *base;
    enum function function, large;
    bool keeps;
};

static struct method methods[MOST_METHODS];
static int method_count;

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

static PyObject *call_base(const struct method *method, PyObject *self, PyObject *const *arguments,
                           Py_ssize_t count, PyObject *names)
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
    PyObject *result = PyObject_Vectorcall(method->base, stack + 1,
                                           (size_t)(count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    if (stack != few)
        PyMem_Free(stack);
    return result;
}

static PyObject *run(const struct method *method, PyObject *self, PyObject *const *arguments,
                     Py_ssize_t count, PyObject *names)
{
    struct frame frame = {.function = method->function, .large = method->large};
    /* A function that MPI calls back may call a method of ours. */
    const struct thread outer = thread;
    thread = (struct thread){.frame = &frame, .special = checks_bounds};
    if (UNLIKELY(method->keeps)) {
        const Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
        PyObject *owner = PyTuple_New(all);
        for (Py_ssize_t i = 0; owner != NULL && i < all; i++)
            PyTuple_SET_ITEM(owner, i, Py_NewRef(arguments[i]));
        frame.owner = owner;
        thread.special = true;
    }
    PyObject *result = call_base(method, self, arguments, count, names);
    thread = outer;
    if (UNLIKELY(frame.sent.begin != NULL))
        clear_strided(&frame.sent);
    if (UNLIKELY(frame.received.begin != NULL))
        clear_strided(&frame.received);
    if (UNLIKELY(result == NULL))
        restate(&frame);
    Py_XDECREF((PyObject *)frame.error);
    Py_XDECREF((PyObject *)frame.owner);
    return result;
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

#define NAMED(name) [FUNCTION_##name] = #name,
static const char *const names_of_functions[FUNCTIONS] = {INTERCEPTED(NAMED)};

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
    int keeps;
    if (!PyArg_ParseTuple(arguments, "O!ssOp", &PyType_Type, &type, &name, &function, &base, &keeps))
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
