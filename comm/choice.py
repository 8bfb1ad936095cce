"""Who moves data that is not contiguous: our kernels, or the MPI library's own datatype engine.

The rule is fixed. It says for each MPI library up to how many bytes its own engine was found at least
as good, for layouts that it walks with ease and for others: between two ranks on one node, in a ping-pong
(`benchmarks/pingpong.py`) and with four messages under way in each direction, and in `Datatype.Pack`
(`benchmarks/pack.py`). Where processors disagree, it leaves the layout to the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..datatypes.layout import Layout, is_regular, is_transposed, run_count
from ..datatypes.plain import MPI

_ALL = 1 << 62


class _Limits(NamedTuple):
    """Bytes up to which the library moves an easy layout, and any other, and the mean run of an easy one."""

    easy: int
    other: int
    long_run: int


class _Rule(NamedTuple):
    """What the library moves of messages, and what it packs at the program's request."""

    messages: _Limits
    packing: _Limits


# MPICH packs small messages well and pipelines large ones badly; its derivatives share the engine.
# Where messages are long enough that it reads them out of the other process, run by run, it is far worse.
_MPICH = _Rule(_Limits(128 << 10, (8 << 10) - 1, 4 << 10), _Limits(0, 0, 4 << 10))
# Open MPI packs right into its shared-memory fragments, which saves a copy. What has no gaps is read out of
# the other process, at half the rate on some processors: there we gain with the shortest runs only.
_OPEN_MPI = _Rule(_Limits(_ALL, 8 << 10, 24), _Limits(16 << 10, 1 << 10, 1 << 10))


def _is_open_mpi() -> bool:
    return MPI.get_vendor()[0] == "Open MPI"


def _rule() -> _Rule:
    return _OPEN_MPI if _is_open_mpi() else _MPICH


def limits() -> tuple[int, int, int, int]:
    """Bytes up to which the library's engine moves messages and packs: easy layouts, and others."""
    messages, packing = _rule()
    return messages.easy, messages.other, packing.easy, packing.other


def is_easy_to_send(layout: Layout) -> bool:
    """Whether the library's engine moves messages of a layout with ease."""
    return _is_easy(layout, _rule().messages.long_run)


def is_easy_to_pack(layout: Layout) -> bool:
    """Whether the library's engine packs a layout with ease."""
    return _is_easy(layout, _rule().packing.long_run)


def _is_easy(layout: Layout, long_run: int) -> bool:
    """All find long runs easy, and Open MPI regular streams, unless the order is not that of the memory."""
    if layout.size >= long_run * run_count(layout.node):
        return True
    return _is_open_mpi() and is_regular(layout.node) and not is_transposed(layout.node)


def is_misread(strides: Sequence[int], itemsize: int, code: str) -> bool:
    """Whether the library may move other bytes than the datatype of an array says.

    Open MPI 5.0 takes a stride of -1 byte for contiguous memory, and is wrong where strides are no multiple
    of the element's size, and for long doubles of messages that it cuts.
    """
    return _is_open_mpi() and (
        min(strides, default=0) < 0
        or any(stride % itemsize for stride in strides)
        or code.endswith(("g", "G"))
    )
