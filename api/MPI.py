"""MPI as mpi4py has it, with roundelay's communicators."""

import os as _os

from . import assembly as _assembly

globals().update(_assembly.assemble(__name__))
if _os.environ.get("ROUNDELAY_INJECT"):
    # Loaded only by who asks for faults.
    from .testing import environment as _environment

    _environment.arm_or_exit()
    del _environment
del _assembly, _os
