/* Methods in the place of mpi4py's, in which it may be given arrays with gaps. */
#ifndef ROUNDELAY_METHODS_H
#define ROUNDELAY_METHODS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "functions.h"

/* method(class, function, base, keeps, reduces): a method of `class` that calls `base`, which calls a
 * function of MPI; with `keeps`, a nonblocking operation keeps the arguments, which mpi4py's request does
 * not; `reduces` says whether the function reduces elements. */
PyObject *make_method(PyObject *module, PyObject *arguments);

/* engage(method): let the engine decide what runs a method from now on. */
PyObject *engage(PyObject *module, PyObject *object);
/* call(method, wanted, comm, *arguments): call a method with any communicator, and tell the engine what is
 * wanted of it. */
PyObject *call_as_wanted(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* functions(): the names of all functions that are intercepted, by their numbers. */
PyObject *name_functions(PyObject *module, PyObject *nothing);
/* The name of a function of MPI, without MPI_. */
const char *name_of(enum function function);

#endif
