"""The report of `roundelay info`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from .collectives.catalogue import algorithms
from .comm.settings import OPERATIONS

# Switches that name an algorithm, and the names that they may have.
_NAMED = {f"ROUNDELAY_{operation.upper()}": ("auto", *algorithms(operation)) for operation in OPERATIONS}
# Of no effect once roundelay is installed (cmake/).
_OF_THE_BUILD = "ROUNDELAY_REQUIRE_INTERPOSER"
SWITCHES = (
    "ROUNDELAY_DISABLE",
    "ROUNDELAY_CHECK",
    "ROUNDELAY_MONITOR",
    *_NAMED,
    "ROUNDELAY_GPU_DIRECT",
    "ROUNDELAY_CACHE_DIR",
)


def information() -> dict[str, str]:
    """Names and values that describe this installation, in the order in which they are shown."""
    from .collectives.table import load, path
    from .comm.interposer import why_not
    from .datatypes.compiling import describe_cache
    from .datatypes.movers import mover
    from .datatypes.plain import MPI

    # Documented: afterwards the kernel is compiled, and kept.
    mover()
    return {
        "version": version("roundelay"),
        "python": platform.python_version(),
        "mpi4py": version("mpi4py"),
        "MPI library": " ".join(MPI.Get_library_version().replace("\0", "").splitlines()[0].split()),
        "MPI standard": ".".join(map(str, MPI.Get_version())),
        "numpy": version("numpy"),
        "interposer": f"none: {why_not()}" if why_not() else "in its place",
        "kernels": f"host (numba {version('numba')})",
        "kernel cache": describe_cache(),
        "measured figures": str(path()) if load() else "not measured",
        **{name: _switch(name) for name in SWITCHES},
        **{name: "unknown, has no effect" for name in os.environ if _is_misspelt(name)},
    }


def _switch(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        return "not set"
    known = _NAMED.get(name)
    if known is None or value in known:
        return value
    return f"{value} (unknown: expected one of {', '.join(known)})"


def _is_misspelt(name: str) -> bool:
    return name.startswith("ROUNDELAY_") and name not in (*SWITCHES, _OF_THE_BUILD)
