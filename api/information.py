"""What `roundelay info` shows."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from .collectives.catalogue import OPERATIONS

_NAMED = tuple(f"ROUNDELAY_{operation.upper()}" for operation in OPERATIONS)
SWITCHES = ("ROUNDELAY_DISABLE", "ROUNDELAY_CHECK", *_NAMED, "ROUNDELAY_GPU_DIRECT", "ROUNDELAY_CACHE_DIR")


def information() -> dict[str, str]:
    """Names and values that describe this installation, in the order in which they are shown."""
    from .collectives.table import load, path
    from .datatypes.compiling import describe_cache
    from .datatypes.movers import mover
    from .datatypes.plain import MPI

    # Documented: afterwards the kernel is compiled, and kept.
    mover()
    return {
        "version": version("roundelay"),
        "python": platform.python_version(),
        "mpi4py": version("mpi4py"),
        "MPI library": MPI.Get_library_version().strip().splitlines()[0],
        "MPI standard": ".".join(map(str, MPI.Get_version())),
        "numpy": version("numpy"),
        "kernels": f"host (numba {version('numba')})",
        "kernel cache": describe_cache(),
        "measured figures": str(path()) if load() else "not measured",
        **{name: os.environ.get(name, "not set") for name in SWITCHES},
    }
