"""Arrays with gaps, brought into contiguous memory for a schedule.

What is found out about an array is kept for all arrays of its shape, strides and dtype.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes.arrays import address, as_numpy, strided_layout
from ..datatypes.layout import overlaps
from ..datatypes.movers import has_mover
from ..datatypes.plain import MPI
from ..datatypes.program import Program
from .refusals import overlap_error
from .staging import HostStage, Stage

# What mpi4py raises for an array that it cannot read.
REFUSALS = (BufferError, KeyError)


@lru_cache(maxsize=4096)
def _program(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[Program, bool]:
    """Copy loops of an array in the order of memory, and whether elements share memory."""
    layout = strided_layout(shape, strides, itemsize, order="K")
    return Program(layout), overlaps(layout)


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
    if not array.dtype.hasobject:
        program, overlapping = _program(array.shape, array.strides, array.itemsize)
        if receiving and not array.flags.writeable:
            return None
        if receiving and overlapping:
            raise overlap_error(array)
        part = (program.address, 1, address(array), 0)
        stage = HostStage((part,), array.nbytes, (array, program), partial=listed)
        dense = stage.memory[: array.nbytes].view(array.dtype)
    elif typed:
        return None
    else:
        # mpi4py refuses objects as it does those of a contiguous array, however few there are.
        stage, dense = HostStage((), 0, array), np.empty(0, array.dtype)
    stage.spec = [dense, *buffer[1:]] if listed else dense
    return stage


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
