/* Methods in the place of mpi4py's, in which it may be given arrays with gaps. */
#ifndef ROUNDELAY_METHODS_H
#define ROUNDELAY_METHODS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* method(class, name, function, base, keeps): a method of `class` that calls `base`, and that calls a
 * function of MPI; with `keeps`, a nonblocking operation keeps the arguments, which mpi4py's request does
 * not. */
PyObject *make_method(PyObject *module, PyObject *arguments);

#endif
