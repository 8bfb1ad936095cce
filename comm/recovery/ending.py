"""The end of a job that may have lost ranks.

Open MPI's `MPI_Finalize` waits in a fence for all processes, and on some occasions for ever for one that has
died (open-mpi/ompi issues 9434 and 11404). Survivors meet by an agreement instead, which knows who has died.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL, c_bool
from functools import cache
from typing import Any

from ...datatypes.plain import MPI

# Whether Open MPI leaves out the fence; its setting `async_mpi_finalize`.
_LEAVES_OUT_FENCE = "ompi_async_mpi_finalize"


def end_without(latest: Callable[[], MPI.Intracomm]) -> None:
    """Let this process end without waiting for dead ones.

    Parameters
    ----------
    latest : callable
        Returns the communicator of those that are left.
    """
    _meetings.append(latest)
    if _leave_out_fence():
        _register()


_meetings: list[Callable[[], MPI.Intracomm]] = []


@cache
def _register() -> None:
    atexit.register(_meet)


@cache
def _leave_out_fence() -> bool:
    for path in (MPI.__file__, None):
        with suppress(OSError, ValueError):
            setting: Any = c_bool.in_dll(CDLL(path), _LEAVES_OUT_FENCE)
            setting.value = True
            return True
    return False


def _meet() -> None:
    """Wait for those that still communicate with this process."""
    if MPI.Is_finalized():
        return
    for latest in _meetings:
        # The agreement ends for all, whoever dies; that it says so is of no use any more.
        with suppress(MPI.Exception):
            MPI.Intracomm(latest()).Agree(1)
