"""mpi4py's own `MPI` module, also where `roundelay run` puts ours in its place."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import mpi4py

from .missing import MissingMPI

if TYPE_CHECKING:
    from mpi4py import MPI
else:
    try:
        MPI = import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise MissingMPI(error) from None
    if any(getattr(finder, "replaces", None) == "mpi4py.MPI" for finder in sys.meta_path):
        # The finder steps aside for this import only: who asks next shall find ours.
        sys.modules.pop("mpi4py.MPI", None)
        vars(mpi4py).pop("MPI", None)

__all__ = ["MPI"]
