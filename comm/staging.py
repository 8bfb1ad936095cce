"""A stage: contiguous memory that takes the place of a buffer which MPI cannot, or should not, read itself.

A stage is filled from the buffer (`load`), given to MPI in its place (`spec`), and emptied into the
buffer (`store`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes.arrays import address, as_numpy, strided_layout
from ..datatypes.layout import overlaps
from ..datatypes.movers import PACK, UNPACK, has_mover, mover
from ..datatypes.plain import MPI
from ..datatypes.program import Program
from .owned import OwnedType
from .pool import Block, give_back, take

_FACTS_KEPT = 4096


# Address of a program, instances to run it for, their base address, and the byte of the stage from
# which they are packed.
Part = tuple[int, int, int, int]


class Stage:
    """Contiguous memory in place of a buffer.

    Attributes
    ----------
    memory : uint8 array
        The stage's bytes, at least `nbytes` of them.
    owner : object
        What must live as long as the stage is in use: the buffer and its programs.
    spec : list or array
        What MPI is given as its buffer argument.
    nbytes : int
        Bytes of data.
    partial : bool
        Whether MPI may write any part of it: it must then be filled before, even to receive.
    """

    __slots__ = ("_block", "_parts", "memory", "nbytes", "owner", "partial", "spec")

    def __init__(self, parts: Sequence[Part], nbytes: int, owner: Any, partial: bool = False) -> None:
        self._parts = parts
        self._block: Block = take(nbytes)
        self.memory = self._block.array
        self.nbytes = nbytes
        self.owner = owner
        self.partial = partial
        self.spec: Any = None

    def load(self) -> None:
        """Pack the buffer into the stage."""
        self._move(PACK)

    def store(self, received: int | None = None) -> None:
        """Unpack the stage into the buffer; with `received`, only so many bytes of it."""
        if received is not None and received < self.nbytes and not self.partial:
            if received <= 0:
                return
            # A short message ends anywhere in the layout: fill up with what the buffer holds already.
            message = self._block.array[:received].copy()
            self.load()
            self._block.array[:received] = message
        self._move(UNPACK)

    def _move(self, direction: int) -> None:
        run, address = mover(), self._block.address
        for program, instances, memory, start in self._parts:
            run(direction, address + start, memory, program, instances)

    def release(self) -> None:
        """Give the memory back, once MPI no longer reads or writes it."""
        give_back(self._block)


class ArrayFacts:
    """What is known of all arrays of one shape, strides and dtype.

    Attributes
    ----------
    layout, program, nbytes
        Their canonical layout, its copy loops, and the bytes of data.
    overlapping : bool
        Whether elements share memory.
    count, datatype
        What mpi4py would send for a contiguous array; the datatype is None for a dtype that MPI lacks.
    owned : OwnedType or None
        The derived datatype that describes such an array, once it was needed.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.layout = strided_layout(array.shape, array.strides, array.itemsize)
        self.program = Program(self.layout)
        self.nbytes = array.nbytes
        self.overlapping = overlaps(self.layout)
        self.count = array.size
        self.datatype: MPI.Datatype | None = MPI._typedict.get(array.dtype.char)
        self.owned: OwnedType | None = None


_facts: dict[tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]], ArrayFacts] = {}


def array_facts(array: NDArray[Any]) -> ArrayFacts | None:
    """What is known of an array; None for elements that MPI cannot send."""
    key = (array.shape, array.strides, array.dtype)
    found = _facts.get(key)
    if found is None:
        if array.dtype.hasobject or not array.dtype.isnative:
            return None
        if len(_facts) >= _FACTS_KEPT:
            _facts.clear()
        found = _facts[key] = ArrayFacts(array)
    return found


def stage_array(buffer: Any, receiving: bool, counted: bool = True) -> Stage | None:
    """Stage for the non-contiguous array in a buffer argument that mpi4py refused, or would refuse.

    With `counted` the count and datatype of a bare array are given to mpi4py; without, it finds them
    itself, as it must where a collective divides the array.

    None where the refusal must stand: there is no such array in it, it may not be written, or its
    datatype does not take one element after another. Raises `ValueError` for a receive array whose
    elements overlap.
    """
    listed = isinstance(buffer, list | tuple)
    array = _strided_array(buffer, listed)
    if array is None or (receiving and not array.flags.writeable):
        return None
    facts = array_facts(array)
    if facts is None or not has_mover():
        return None
    if receiving and facts.overlapping:
        raise ValueError(
            f"message: receive array of shape {array.shape} and strides {array.strides} has elements that "
            "overlap; a receive buffer needs its own memory for each element"
        )
    part = (facts.program.address, 1, address(array), 0)
    stage = Stage((part,), facts.nbytes, (array, facts), listed)
    if counted and not listed and facts.datatype is not None:
        stage.spec = [stage.memory, facts.count, facts.datatype]
    else:
        dense = stage.memory[: array.nbytes].view(array.dtype)
        stage.spec = [dense, *buffer[1:]] if listed else dense
    return stage


def _strided_array(buffer: Any, listed: bool) -> NDArray[Any] | None:
    """The array with gaps that a buffer argument is, or holds beside a predefined datatype."""
    array = buffer
    if listed:
        # A derived datatype describes memory that a view does not have.
        if not buffer or (isinstance(buffer[-1], MPI.Datatype) and not buffer[-1].is_predefined):
            return None
        array = buffer[0]
    if array.__class__ is not np.ndarray:
        try:
            array = as_numpy(array)
        except (TypeError, ValueError, BufferError):
            return None
    return None if array.flags.forc else array
