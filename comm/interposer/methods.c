#include "methods.h"

#include "collectives.h"
#include "door.h"
#include "frame.h"

#include <string.h>

/* A method in the place of one of mpi4py's, which it looks like. */
struct method {
    PyObject ob_base;
    vectorcallfunc run;
    /* mpi4py's own, how it is called, and the class that it is of. */
    PyObject *base;
    vectorcallfunc call;
    PyTypeObject *type;
    enum function function, large;
    bool keeps, reduces;
    /* Whether a program has asked for an algorithm of ours. */
    bool engages;
};

#define NAMED(name) [FUNCTION_##name] = #name,
static const char *const names_of_functions[FUNCTIONS] = {INTERCEPTED(NAMED) PERFORMED(NAMED)};

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

/* Call mpi4py's method; an algorithm of ours may run it where it `engages`, as is `wanted`. */
static inline PyObject *run_framed(const struct method *method, PyObject *const *arguments, size_t flagged,
                                   PyObject *names, bool engages, PyObject *wanted)
{
    if (UNLIKELY(PyVectorcall_NARGS(flagged) == 0 || !PyObject_TypeCheck(arguments[0], method->type)))
        return PyErr_Format(PyExc_TypeError, "%R: expected an object of %s first", method->base,
                            method->type->tp_name);
    /* To clear all of it takes as long as all the rest. */
    struct frame frame;
    frame.function = method->function;
    frame.large = method->large;
    frame.special = checks_bounds;
    frame.sent.begin = frame.received.begin = NULL;
    frame.extent_count = 0;
    frame.refusal = NULL;
    frame.error = frame.owner = NULL;
    frame.engages = engages;
    frame.reduces = engages && method->reduces;
    frame.reached = false;
    frame.wanted = wanted;
    frame.sent_array = frame.received_array = NULL;
    /* A function that MPI calls back may call a method of ours. */
    struct frame *outer = current;
    current = &frame;
    if (UNLIKELY(method->keeps)) {
        const Py_ssize_t count = PyVectorcall_NARGS(flagged);
        const Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
        PyObject *owner = PyTuple_New(all);
        for (Py_ssize_t i = 0; owner != NULL && i < all; i++)
            PyTuple_SET_ITEM(owner, i, Py_NewRef(arguments[i]));
        frame.owner = owner;
        frame.special = true;
    }
    PyObject *result = method->call(method->base, arguments, flagged, names);
    current = outer;
    /* The call may have been refused before MPI. */
    if (UNLIKELY(atomic_load_explicit(&late, memory_order_relaxed) != NULL))
        raise_late();
    clear_strided(&frame.sent);
    clear_strided(&frame.received);
    if (UNLIKELY(result == NULL)) {
        restate(&frame);
        if (frame.engages && !frame.reached)
            tell_others(&frame, arguments[0]);
    }
    Py_XDECREF((PyObject *)frame.error);
    Py_XDECREF((PyObject *)frame.owner);
    Py_XDECREF((PyObject *)frame.sent_array);
    Py_XDECREF((PyObject *)frame.received_array);
    return result;
}

static PyObject *run(PyObject *object, PyObject *const *arguments, size_t flagged, PyObject *names)
{
    const struct method *method = (struct method *)object;
    return run_framed(method, arguments, flagged, names, method->engages, NULL);
}

static PyObject *bind(PyObject *method, PyObject *object, PyObject *type)
{
    (void)type;
    return object == NULL ? Py_NewRef(method) : PyMethod_New(method, object);
}

static PyObject *look_like_base(PyObject *method, PyObject *name)
{
    PyObject *own = PyObject_GenericGetAttr(method, name);
    if (own != NULL && own != Py_None)
        return own;
    Py_XDECREF(own);
    PyErr_Clear();
    return PyObject_GetAttr(((struct method *)method)->base, name);
}

static PyObject *show(PyObject *method)
{
    return PyObject_Repr(((struct method *)method)->base);
}

static void end_method(PyObject *method)
{
    Py_DECREF(((struct method *)method)->base);
    Py_DECREF(((struct method *)method)->type);
    PyObject_Free(method);
}

static PyTypeObject method_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "roundelay.comm.interposer.method",
    .tp_basicsize = sizeof(struct method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_vectorcall_offset = offsetof(struct method, run),
    .tp_call = PyVectorcall_Call,
    .tp_descr_get = bind,
    .tp_getattro = look_like_base,
    .tp_repr = show,
    .tp_dealloc = end_method,
};

PyObject *name_functions(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    PyObject *names = PyTuple_New(FUNCTIONS);
    for (Py_ssize_t i = 0; names != NULL && i < FUNCTIONS; i++)
        PyTuple_SET_ITEM(names, i, PyUnicode_FromString(names_of_functions[i]));
    return names;
}

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
    const char *function;
    PyObject *base;
    int keeps, reduces;
    if (!PyArg_ParseTuple(arguments, "O!sOpp", &PyType_Type, &type, &function, &base, &keeps, &reduces) ||
        PyType_Ready(&method_type) < 0)
        return NULL;
    const enum function plain = function_named(function, "");
    if (plain == FUNCTIONS)
        return PyErr_Format(PyExc_ValueError, "%s: expected a function of the table", function);
    struct method *method = PyObject_New(struct method, &method_type);
    if (method == NULL)
        return NULL;
    const vectorcallfunc call = PyVectorcall_Function(base);
    method->run = run;
    method->base = Py_NewRef(base);
    method->call = call == NULL ? PyObject_Vectorcall : call;
    method->type = (PyTypeObject *)Py_NewRef((PyObject *)type);
    method->function = plain;
    method->large = function_named(function, "_c");
    method->keeps = keeps;
    method->reduces = reduces;
    method->engages = false;
    return (PyObject *)method;
}

PyObject *engage(PyObject *module, PyObject *object)
{
    (void)module;
    if (!PyObject_TypeCheck(object, &method_type))
        return PyErr_Format(PyExc_TypeError, "%R: expected a method of ours", object);
    ((struct method *)object)->engages = true;
    return Py_NewRef(Py_None);
}

PyObject *call_as_wanted(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count < 3 || !PyObject_TypeCheck(arguments[0], &method_type))
        return PyErr_Format(PyExc_TypeError, "expected a method of ours, what is wanted, and its arguments");
    return run_framed((struct method *)arguments[0], arguments + 2, (size_t)(count - 2), NULL, true,
                      arguments[1]);
}
