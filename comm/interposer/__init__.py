"""The interposer: the functions of MPI that mpi4py calls, with data that has gaps moved by our kernels.

It is a module in C, one for each family of MPI libraries. It takes the place of MPI's functions in mpi4py's
extension module, and of `PyObject_GetBuffer`, so that mpi4py takes arrays with gaps. It asks Python once
about each datatype or array (`answers`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from ...datatypes.plain import MPI
from ..choice import limits
from ..settings import checks_bounds, is_disabled
from .answers import Answers

_HANDLE_BYTES = {4: "_mpich", 8: "_openmpi"}


def _family() -> str | None:
    """The module for the running library, by what its handles are; None for one of neither family."""
    name = _HANDLE_BYTES.get(MPI._sizeof(MPI.Comm), "")
    if name == "_openmpi" and MPI.get_vendor()[0] != "Open MPI":
        return None
    return name or None


@cache
def interposer() -> Any:
    """The module in C, in its place since the first call; None where `why_not` says why."""
    return None if why_not() else _install()


@cache
def why_not() -> str:
    """Why there is no interposer; empty where there is one."""
    if is_disabled():
        return "ROUNDELAY_DISABLE is set"
    family = _family()
    if family is None:
        return f"it knows neither the handles of {MPI.get_vendor()[0]} nor those of MPICH"
    try:
        import_module(f"{__name__}.{family}")
    except ImportError as error:
        return f"it was not built ({error})"
    return ""


@contextmanager
def library_alone() -> Iterator[None]:
    """Let mpi4py call the MPI library itself: what plain mpi4py does, in a process that has roundelay.

    For comparisons; no operation of roundelay's may be under way.
    """
    module = interposer()
    if module is None:
        yield
        return
    module.insert(False)
    try:
        yield
    finally:
        module.insert(True)


def _install() -> Any:
    module = import_module(f"{__name__}.{_family()}")
    thread = threading.main_thread().ident
    # Not every library has the numbers of half precision.
    lacking = "" if MPI._typedict.get("e") else "e"
    constants = MPI.BYTE, MPI.REQUEST_NULL, MPI.COMM_WORLD, MPI.COMM_NULL
    handles = [each.handle for each in constants]
    module.install(MPI.__file__, Answers(module), *handles, thread, lacking)
    module.set_limits(*limits())
    if checks_bounds():
        module.check_bounds()
    for plain in (MPI.Request, MPI.Prequest, MPI.Grequest):
        module.watch(plain, MPI._addressof(MPI.REQUEST_NULL) - id(MPI.REQUEST_NULL))
    return module
