/* Questions to Python, each asked once: the answers are kept in C. */
#ifndef ROUNDELAY_ASK_H
#define ROUNDELAY_ASK_H

#include "layouts.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The Python object that answers (roundelay.comm.interposer.answers). */
extern PyObject *answers;
/* The one in which Python runs the handlers of signals. */
extern unsigned long main_thread;

/* Whether Python is being asked: what it calls is not where an exception belongs that is raised later. */
extern _Thread_local int asking;

/* These take the GIL. False, or NULL, where Python has no answer. */
bool ask_datatype(MPI_Datatype datatype, struct known *known);
struct program *ask_program(MPI_Datatype datatype, int64_t count);
MPI_Datatype ask_described(const struct array *array);

/* Needs the GIL; NULL with a Python exception. */
struct array *ask_array(int ndim, const int64_t *shape, const int64_t *strides, int64_t itemsize,
                        const char *format);

/* A ValueError where `count` instances leave memory of `nbytes` bytes, of which they begin at `offset`; else
 * NULL. */
void *ask_bounds(MPI_Datatype datatype, int64_t count, int64_t offset, int64_t nbytes);

/* The exception that there is, with its traceback, which is raised no more. Needs the GIL. */
PyObject *take_exception(void);
/* Keep an exception, which Python must not raise yet, until MPI's function has returned. */
PyObject *raise_later(PyObject *module, PyObject *error);

bool ask_load(void *stage);
bool ask_store(void *stage, int64_t received);
/* Whether an operation that Python runs has nothing left to do. */
bool ask_advance(void *behind);
bool ask_start(void *behind);
/* False where it has gone wrong, which is shown. */
bool ask_finish(void *behind);
/* Keep a Python object. */
void keep_object(void *object);
/* Let go of a Python object, with the GIL or without it. */
void drop_object(void *object);

/* A handle as mpi4py numbers it. */
static inline unsigned long long number_of(MPI_Datatype datatype)
{
    return (unsigned long long)(intptr_t)datatype;
}

#endif
