/* Requests that the program loses: an object of mpi4py's that ends before its operation is complete. */
#ifndef ROUNDELAY_LOST_H
#define ROUNDELAY_LOST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Look at objects of a class of requests of mpi4py's when they begin and end, its base first; their handles
 * lie `offset` bytes from their beginning. */
void watch_class(PyTypeObject *type, Py_ssize_t offset);

#endif
