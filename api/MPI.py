"""MPI as mpi4py has it, with roundelay's communicators."""

from . import assembly as _assembly

globals().update(_assembly.assemble(__name__))
del _assembly
