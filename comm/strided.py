"""Strided arrays, as MPI is given them: described by a datatype, or staged.

What is found out about an array is kept for all arrays of its shape, strides and dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes.arrays import address, as_numpy, element_datatype, strided_layout
from ..datatypes.layout import Dense, Layout, Node, Stream, overlaps
from ..datatypes.movers import has_mover
from ..datatypes.plain import MPI
from ..datatypes.program import Program
from .choice import library_moves_array
from .owned import OwnedType
from .staging import HostStage, Stage

_FACTS_KEPT = 4096
# What mpi4py raises for an array with gaps, and for one whose elements do not lie on their boundaries.
REFUSALS = (BufferError, KeyError)


class _ArrayFacts:
    """What is known of all arrays of one shape, strides and dtype.

    Attributes
    ----------
    layout, program, nbytes
        Their layout in the order of memory, its copy loops, and the bytes of data.
    overlapping : bool
        Whether elements share memory.
    count, datatype
        What mpi4py would send for a contiguous array; the datatype is None for a dtype that it refuses.
    left : bool
        Whether the MPI library's own engine moves them.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.layout = strided_layout(array.shape, array.strides, array.itemsize, order="K")
        self.program = Program(self.layout)
        self.nbytes = array.nbytes
        self.overlapping = overlaps(self.layout)
        self.count = array.size
        self.datatype = element_datatype(array.dtype)
        self.left = self.datatype is not None and library_moves_array(array)
        self._owned: OwnedType | None = None

    def described(self) -> MPI.Datatype:
        """The derived datatype that describes such an array from its first element."""
        if self._owned is None:
            assert self.datatype is not None
            self._owned = OwnedType(_datatype(self.layout, self.datatype))
        return self._owned.datatype


_facts: dict[tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]], _ArrayFacts] = {}


def _array_facts(array: NDArray[Any]) -> _ArrayFacts | None:
    """What is known of an array; None for references to objects, which are not to be copied as bytes."""
    key = (array.shape, array.strides, array.dtype)
    found = _facts.get(key)
    if found is None:
        if array.dtype.hasobject:
            return None
        if len(_facts) >= _FACTS_KEPT:
            _facts.clear()
        found = _facts[key] = _ArrayFacts(array)
    return found


def arrange_array(array: NDArray[Any], receiving: bool, forced: bool = False) -> tuple[Any, Stage | None]:
    """What MPI is given for the whole of a NumPy array with gaps, and the stage that it is, if it is one.

    With `forced`, it is not left to the MPI library.
    """
    facts = _array_facts(array)
    if facts is None or facts.datatype is None or (receiving and not _is_receivable(array, facts)):
        stage = stage_array(array, receiving)
        return (array, None) if stage is None else (stage.spec, stage)
    if facts.left and not forced:
        # An empty slice has the address of the first element, and mpi4py takes it for contiguous.
        return [array[:0], 1, facts.described()], None
    if not has_mover():
        return array, None
    stage = _stage(array, facts)
    stage.spec = [stage.memory, facts.count, facts.datatype]
    return stage.spec, stage


def stage_array(buffer: Any, receiving: bool) -> Stage | None:
    """Stage for an array that mpi4py cannot read where it lies; it finds the count and datatype itself.

    The array has gaps, or its elements do not lie on their boundaries. None where mpi4py's refusal must
    stand: there is no such array in the buffer argument, it may not be written, or its datatype does not take
    one element after another. Raises `ValueError` for a receive array whose elements overlap.
    """
    listed = isinstance(buffer, list | tuple)
    typed = listed and bool(buffer) and isinstance(buffer[-1], MPI.Datatype | str)
    array = _strided_array(buffer, listed)
    if array is None or not has_mover():
        return None
    facts = _array_facts(array)
    if facts is not None:
        if receiving and not _is_receivable(array, facts):
            return None
        stage = _stage(array, facts, partial=listed)
        dense = stage.memory[: array.nbytes].view(array.dtype)
    elif typed:
        return None
    else:
        # mpi4py refuses objects as it does those of a contiguous array, however few there are.
        stage, dense = HostStage((), 0, array), np.empty(0, array.dtype)
    stage.spec = [dense, *buffer[1:]] if listed else dense
    return stage


def _stage(array: NDArray[Any], facts: _ArrayFacts, partial: bool = False) -> Stage:
    part = (facts.program.address, 1, address(array), 0)
    return HostStage((part,), facts.nbytes, (array, facts), partial)


def _is_receivable(array: NDArray[Any], facts: _ArrayFacts) -> bool:
    if facts.overlapping and array.flags.writeable:
        raise overlap_error(array)
    return bool(array.flags.writeable)


def overlap_error(array: Any) -> ValueError:
    """What is wrong with a receive array whose elements share memory, on the host or on a GPU."""
    return ValueError(
        f"message: receive array of shape {array.shape} and strides {array.strides} has elements that "
        "overlap; a receive buffer needs its own memory for each element"
    )


def has_derived_datatype(buffer: Any) -> bool:
    """Whether a list ends with a derived datatype, which describes memory that a view does not have."""
    return isinstance(buffer[-1], MPI.Datatype) and not buffer[-1].is_predefined


def _strided_array(buffer: Any, listed: bool) -> NDArray[Any] | None:
    """The array that a buffer argument is, or holds beside a predefined datatype, if mpi4py refuses it."""
    owner = buffer
    if listed:
        if not buffer or has_derived_datatype(buffer):
            return None
        owner = buffer[0]
    if owner is MPI.IN_PLACE or owner is MPI.BOTTOM:
        # They have the buffer protocol, and nothing in them.
        return None
    try:
        array = as_numpy(owner)
    except (TypeError, ValueError, BufferError):
        return None
    # mpi4py looks at the strides of an empty tensor, of which NumPy says that it has no gaps.
    readable = array.flags.aligned and (array.size or owner.__class__ is np.ndarray)
    return None if array.flags.forc and readable else array


def _datatype(layout: Layout, element: MPI.Datatype) -> MPI.Datatype:
    """Datatype of the streams of an array's layout, which begins with its first element."""

    def build(node: Node) -> MPI.Datatype:
        match node:
            case Dense(nbytes):
                return element.Create_contiguous(nbytes // element.Get_size())
            case Stream(count, stride, child):
                inner = build(child)
                try:
                    return inner.Create_hvector(count, 1, stride)
                finally:
                    inner.Free()
        raise TypeError(f"layout of an array: expected streams over dense runs, got {node!r}")

    return build(layout.node)
