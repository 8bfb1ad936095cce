/* The Python module: it puts the interposer in, and answers what tests and `roundelay info` ask. */
#include "arrays.h"
#include "ask.h"
#include "collectives.h"
#include "door.h"
#include "last_words.h"
#include "lost.h"
#include "methods.h"
#include "record.h"
#include "recorded_comms.h"
#include "relocations.h"
#include "requests.h"
#include "staging.h"

#include <errno.h>
#include <link.h>
#include <stdio.h>

#if defined(ROUNDELAY_MPICH)
#define MODULE "_mpich"
#define INITIALIZE PyInit__mpich
#else
#define MODULE "_openmpi"
#define INITIALIZE PyInit__openmpi
#endif

#define REPLACED(name) {"MPI_" #name, (void *)roundelay_##name, (void **)&next.name},
#define LOOKED_UP(name) {"MPI_" #name, NULL, (void **)&next.name},
static const struct redirection redirections[] = {INTERCEPTED(REPLACED) CALLED(LOOKED_UP){
    "PyObject_GetBuffer", (void *)get_buffer, (void **)&next_get_buffer}};

#if defined(ROUNDELAY_OPENMPI)
/* The segment of a library that an address lies in. */
static int find_segment(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    const uintptr_t address = *(uintptr_t *)data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        if (info->dlpi_phdr[i].p_type == PT_LOAD && address - begin < info->dlpi_phdr[i].p_memsz) {
            constants.library = begin;
            constants.library_bytes = info->dlpi_phdr[i].p_memsz;
            return 1;
        }
    }
    return 0;
}
#endif

static bool all_found(void)
{
#define FOUND(name) &&next.name != NULL
    return next_get_buffer != NULL CALLED(FOUND);
}

PyDoc_STRVAR(
    install_text,
    "install(file, answers, byte, null_request, world, null_comm, main_thread, lacking)\n--\n\n"
    "Intercept what the extension module in `file` calls; `answers` is asked about datatypes. MPI has "
    "no types for elements of the formats `lacking`.");
static PyObject *install(PyObject *module, PyObject *arguments)
{
    (void)module;
    const char *file, *lacking;
    PyObject *asked;
    unsigned long long byte, null_request, world, null_comm;
    if (!PyArg_ParseTuple(arguments, "sOKKKKks", &file, &asked, &byte, &null_request, &world, &null_comm,
                          &main_thread, &lacking))
        return NULL;
    Py_XSETREF(answers, Py_NewRef(asked));
    snprintf(lacking_formats, sizeof lacking_formats, "%s", lacking);
    constants.byte = (MPI_Datatype)(intptr_t)byte;
    constants.null_request = (MPI_Request)(intptr_t)null_request;
    constants.world = (MPI_Comm)(intptr_t)world;
    constants.null_comm = (MPI_Comm)(intptr_t)null_comm;
#if defined(ROUNDELAY_OPENMPI)
    uintptr_t address = (uintptr_t)byte;
    dl_iterate_phdr(find_segment, &address);
#endif
    const int changed = redirect(file, redirections, sizeof redirections / sizeof *redirections);
    if (changed < 0 || !all_found()) {
        PyErr_Format(PyExc_RuntimeError, "%s: %s", file,
                     changed < 0 ? "is not loaded" : "lacks functions of MPI");
        return NULL;
    }
    return PyLong_FromLong(changed);
}

PyDoc_STRVAR(limits_text, "set_limits(easy_messages, other_messages, easy_packing, other_packing)\n--\n\n"
                          "Bytes up to which the MPI library's own engine moves data.");
static PyObject *set_limits(PyObject *module, PyObject *arguments)
{
    (void)module;
    long long limits[4];
    if (!PyArg_ParseTuple(arguments, "LLLL", &limits[0], &limits[1], &limits[2], &limits[3]))
        return NULL;
    message_limits = (struct limits){limits[0], limits[1]};
    packing_limits = (struct limits){limits[2], limits[3]};
    Py_RETURN_NONE;
}

PyDoc_STRVAR(check_text, "check_bounds()\n--\n\nRefuse datatypes that leave their buffers.");
static PyObject *check(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    checks_bounds = true;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(kernel_text, "set_kernel(address)\n--\n\nMove data with the compiled kernel at that address.");
static PyObject *set_kernel(PyObject *module, PyObject *address)
{
    (void)module;
    pack_kernel = (kernel)(intptr_t)PyLong_AsLongLong(address);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(insert_text, "insert(inserted)\n--\n\n"
                          "Step aside, so that mpi4py calls the MPI library itself, or come back.");
static PyObject *insert(PyObject *module, PyObject *inserted)
{
    (void)module;
    use_replacements(PyObject_IsTrue(inserted) > 0);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(forget_text, "forget(handle)\n--\n\nForget a datatype that is freed.");
static PyObject *forget_handle(PyObject *module, PyObject *handle)
{
    (void)module;
    const unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    if (PyErr_Occurred())
        return NULL;
    forget((MPI_Datatype)(intptr_t)number);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_text,
             "watch(class, offset)\n--\n\n"
             "Look at the requests of a class of mpi4py's when they end, whose handle is at an offset.");
static PyObject *watch(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *type;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(arguments, "O!n", &PyType_Type, &type, &offset))
        return NULL;
    watch_class((PyTypeObject *)type, offset);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_text, "set_engine(engine)\n--\n\nLet the engine decide what runs collectives.");
static PyObject *set_engine(PyObject *module, PyObject *object)
{
    (void)module;
    Py_XSETREF(*(PyObject **)&engine, Py_NewRef(object));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(choices_text, "forget_choices(handle)\n--\n\n"
                           "Ask the engine anew about the collectives of a communicator.");
static PyObject *forget_choices_of(PyObject *module, PyObject *handle)
{
    (void)module;
    const unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    if (PyErr_Occurred())
        return NULL;
    forget_choices((MPI_Comm)(intptr_t)number);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(counts_text,
             "counts()\n--\n\nHow many datatypes and arrays are known, operations under way, and collectives "
             "left to the library.");
static PyObject *counts(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    int64_t known[2];
    count_known(known);
    return Py_BuildValue("{sLsLslslsi}", "datatypes", (long long)known[0], "arrays", (long long)known[1],
                         "operations", (long)operations_under_way, "orphans", (long)orphans, "choices",
                         count_choices());
}

PyDoc_STRVAR(name_comm_text, "name_comm(comm)\n--\n\n"
                             "Record the collectives of a communicator that all its ranks have made in a way "
                             "that is not intercepted.");
static PyObject *name_made(PyObject *module, PyObject *argument)
{
    (void)module;
    const unsigned long long comm = PyLong_AsUnsignedLongLong(argument);
    if (PyErr_Occurred() != NULL)
        return NULL;
    name_comm((MPI_Comm)(intptr_t)comm);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(record_text, "start_record(file, rank, ranks, comm)\n--\n\n"
                          "Record calls in a file, which is made as long as that takes, on all ranks of a "
                          "communicator, of which this is the handle.");
static PyObject *start(PyObject *module, PyObject *arguments)
{
    (void)module;
    int file, rank, ranks;
    unsigned long long comm;
    if (!PyArg_ParseTuple(arguments, "iiiK", &file, &rank, &ranks, &comm))
        return NULL;
    errno = start_record(file, rank, ranks, (MPI_Comm)(intptr_t)comm);
    return errno == 0 ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *go_on(PyObject *module, PyObject *on)
{
    (void)module;
    go_on_recording(PyObject_IsTrue(on) > 0);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(last_words_text,
             "prepare_last_words(signal, connection)\n--\n\n"
             "Raise a signal, and tell the watcher, when the MPI library ends this process.");
static PyObject *last_words(PyObject *module, PyObject *arguments)
{
    (void)module;
    int signal, connection;
    if (!PyArg_ParseTuple(arguments, "ii", &signal, &connection))
        return NULL;
    prepare_last_words(signal, connection);
    Py_RETURN_NONE;
}

static PyObject *is_recording(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    return PyBool_FromLong(observer != NULL);
}

static PyObject *begin_operation(PyObject *module, PyObject *arguments)
{
    (void)module;
    int number;
    unsigned long long comm;
    if (!PyArg_ParseTuple(arguments, "iK", &number, &comm))
        return NULL;
    ENTER(.function = (enum function)number, .has_comm = true, .comm = (MPI_Comm)(intptr_t)comm,
          .is_collective = true);
    Py_RETURN_NONE;
}

static PyObject *end_operation(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    leave(MPI_SUCCESS);
    Py_RETURN_NONE;
}

/* For a test of those who read the record in Python. */
static PyObject *sizes(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    return Py_BuildValue("{snsnsnsnsnsnsn}", "HEAD", (Py_ssize_t)offsetof(struct record, lanes), "LANE",
                         (Py_ssize_t)sizeof(struct lane), "CALL", (Py_ssize_t)sizeof(struct recorded_call),
                         "COMM", (Py_ssize_t)sizeof(struct recorded_comm), "REQUEST",
                         (Py_ssize_t)sizeof(struct recorded_request), "MESSAGE",
                         (Py_ssize_t)sizeof(struct recorded_message), "PEER",
                         (Py_ssize_t)sizeof(struct recorded_peer));
}

static PyObject *ticks(PyObject *module, PyObject *nothing)
{
    (void)module;
    (void)nothing;
    return PyLong_FromUnsignedLongLong(read_ticks());
}

static PyMethodDef functions[] = {
    {"install", install, METH_VARARGS, install_text},
    {"set_limits", set_limits, METH_VARARGS, limits_text},
    {"check_bounds", check, METH_NOARGS, check_text},
    {"set_kernel", set_kernel, METH_O, kernel_text},
    {"insert", insert, METH_O, insert_text},
    {"forget", forget_handle, METH_O, forget_text},
    {"watch", watch, METH_VARARGS, watch_text},
    {"counts", counts, METH_NOARGS, counts_text},
    {"method", make_method, METH_VARARGS, NULL},
    {"set_engine", set_engine, METH_O, engine_text},
    {"raise_later", raise_later, METH_O, NULL},
    {"engage", engage, METH_O, NULL},
    {"forget_choices", forget_choices_of, METH_O, choices_text},
    {"name_comm", name_made, METH_O, name_comm_text},
    {"start_record", start, METH_VARARGS, record_text},
    {"go_on_recording", go_on, METH_O, NULL},
    {"prepare_last_words", last_words, METH_VARARGS, last_words_text},
    {"is_recording", is_recording, METH_NOARGS, NULL},
    {"begin_operation", begin_operation, METH_VARARGS, NULL},
    {"end_operation", end_operation, METH_NOARGS, NULL},
    {"ticks", ticks, METH_NOARGS, NULL},
    {"record_sizes", sizes, METH_NOARGS, NULL},
    {"functions", name_functions, METH_NOARGS, NULL},
    {"call", (PyCFunction)(void (*)(void))call_as_wanted, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "roundelay.comm.interposer." MODULE,
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC INITIALIZE(void)
{
    return PyModule_Create(&definition);
}
