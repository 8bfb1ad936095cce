/* Arrays with gaps, which mpi4py refuses: the hook that lets it take them for contiguous. */
#ifndef ROUNDELAY_ARRAYS_H
#define ROUNDELAY_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Formats of elements that NumPy reduces and MPI has no type for. */
extern char lacking_formats[8];

extern int (*next_get_buffer)(PyObject *object, Py_buffer *view, int flags);
/* Takes the place of PyObject_GetBuffer in mpi4py. */
int get_buffer(PyObject *object, Py_buffer *view, int flags);

#endif
