"""The end of a job that may have lost ranks.

Open MPI's `MPI_Finalize` waits in a fence for all processes, and on some occasions for ever for one that has
died (open-mpi/ompi issues 9434 and 11404). Survivors meet by an agreement instead, which knows who has died.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL, c_bool
from functools import cache
from typing import Any

import numpy as np

from ...datatypes.plain import MPI

# Whether Open MPI leaves out the fence; its setting `async_mpi_finalize`.
_LEAVES_OUT_FENCE = "ompi_async_mpi_finalize"
# A rank that has not come by then may never come: it may be stopped.
_SECONDS_TO_MEET = 60.0
_SECONDS_BETWEEN_LOOKS = 1e-3
# It must live for as long as MPI may write to it.
_flag = np.ones(1, np.intc)


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
    # They may wait for one that ends by an exception, and be aborted only when it has gone on.
    if MPI.Is_finalized() or getattr(sys, "last_value", None) is not None:
        return
    end = time.monotonic() + _SECONDS_TO_MEET
    for latest in _meetings:
        # The agreement ends for all, whoever dies; that it says so is of no use any more.
        with suppress(MPI.Exception):
            request = MPI.Intracomm(latest()).Iagree(_flag)
            while not request.Test() and time.monotonic() < end:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
