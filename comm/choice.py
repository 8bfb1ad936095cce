"""Who moves data that is not contiguous: our kernels, or the MPI library's own datatype engine.

The rule is fixed. It says for each MPI library up to how many bytes its own engine was found at least
as good, for layouts made of regular streams and for listed runs: in a ping-pong of two ranks on one node
(`benchmarks/pingpong.py`), and in `Datatype.Pack` (`benchmarks/pack.py`).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..datatypes.plain import MPI

_ALL = 1 << 62


class _Limits(NamedTuple):
    """Bytes up to which the library moves a regular layout, and one of listed runs."""

    regular: int
    listed: int


class _Rule(NamedTuple):
    """_Limits for messages, and for packing at the program's request."""

    messages: _Limits
    packing: _Limits


# MPICH packs small messages well and pipelines large ones badly; its derivatives share the engine.
_MPICH = _Rule(_Limits(8 << 10, 8 << 10), _Limits(16 << 10, 16 << 10))
# Open MPI is slow on listed runs, but packs right into its shared-memory fragments, which saves a copy.
_OPEN_MPI = _Rule(_Limits(_ALL, _ALL), _Limits(_ALL, 8 << 10))


def _is_open_mpi() -> bool:
    return MPI.get_vendor()[0] == "Open MPI"


@cache
def _rule() -> _Rule:
    """The rule for the running MPI library."""
    return _OPEN_MPI if _is_open_mpi() else _MPICH


def library_moves(nbytes: int, regular: bool) -> bool:
    """Whether a message of `nbytes` is left to the MPI library's datatype engine."""
    limits = _rule().messages
    return nbytes <= (limits.regular if regular else limits.listed)


def library_moves_array(array: NDArray[Any]) -> bool:
    """Whether a message of a strided array is left to the MPI library's datatype engine."""
    return library_moves(array.nbytes, regular=True) and not (_is_open_mpi() and _is_misread(array))


def _is_misread(array: NDArray[Any]) -> bool:
    """Whether Open MPI 5.0 may move other bytes than the datatype of an array says.

    It takes a stride of -1 byte for contiguous memory, and is wrong where strides are no multiple of the
    element's size, and for long doubles of messages that it cuts.
    """
    strides = array.strides
    return (
        min(strides, default=0) < 0
        or any(stride % array.itemsize for stride in strides)
        or array.dtype.char in "gG"
    )


def library_packs(nbytes: int, regular: bool) -> bool:
    """Whether packing of `nbytes` is left to the MPI library's datatype engine."""
    limits = _rule().packing
    return nbytes <= (limits.regular if regular else limits.listed)
