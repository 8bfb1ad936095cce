/* Methods in the place of mpi4py's, in which it may be given arrays with gaps. */
#ifndef ROUNDELAY_METHODS_H
#define ROUNDELAY_METHODS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "functions.h"

/* method(class, name, function, base, keeps, reduces): a method of `class` that calls `base`, and that calls
 * a function of MPI; with `keeps`, a nonblocking operation keeps the arguments, which mpi4py's request does
 * not; `reduces` says whether the function reduces elements. */
PyObject *make_method(PyObject *module, PyObject *arguments);

/* engage(function): let the engine decide what runs the methods for a function of MPI from now on. */
PyObject *engage(PyObject *module, PyObject *name);
/* call(function, wanted, comm, *arguments): call the method for a function of MPI, of any communicator, and
 * tell the engine what is wanted of it. */
PyObject *call_as_wanted(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* The name of a function of MPI, without MPI_. */
const char *name_of(enum function function);

#endif
