"""A collective as the interposer hands it over, and the flat arrays that a schedule works on.

The interposer has packed what has gaps. Each function that reads a call returns None where the MPI library
must run it, or say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from ..datatypes.arrays import element_datatype
from ..datatypes.known import known_datatype
from ..datatypes.plain import MPI
from .chosen import Division
from .memory import memory_at, memory_of
from .reduction import MPI_CODES, Array, Reduction, array_reduction, datatype_reduction, operation_name


class Buffer(NamedTuple):
    """A buffer of a call.

    Attributes
    ----------
    address : int or None
        None where the data is in the other buffer.
    instances : int
        Of the datatype: of one block, or of all of them where `counts` says how many each has.
    counts, displacements : tuple of int, or None
        Of each rank's block.
    datatype : int
        Its handle.
    array : array or None
        The array that the memory is of, if it is on a GPU, or of elements that MPI has no type for.
    """

    address: int | None
    instances: int
    counts: tuple[int, ...] | None
    displacements: tuple[int, ...] | None
    datatype: int
    array: Any

    def bytes_at(self, begin: int, nbytes: int) -> Array:
        """The bytes from an offset on."""
        assert self.address is not None
        return memory_at(self.address + begin, nbytes, self.array)


class Given(NamedTuple):
    """A collective as the interposer hands it over: the name of the method and its arguments."""

    method: str
    sent: Buffer
    received: Buffer
    op: MPI.Op
    root: int

    def check_types(self) -> None:
        """Raise `KeyError`, as mpi4py does, for elements that MPI has no type for, and takes for others."""
        for array in (self.sent.array, self.received.array):
            if array is not None and element_datatype(array.dtype) is None:
                raise KeyError(array.dtype.char)


@dataclass(frozen=True, slots=True)
class Call:
    """The data that a schedule runs on.

    Attributes
    ----------
    operation : str
    own : array or None
        What the rank contributes; None where `result` holds it.
    result : array or None
        The whole vector that the schedule ends with; None for memory that nobody else sees.
    like : array
        An array of the vector's dtype.
    division : int or tuple of int
        Elements of the whole vector, or where each rank's block of it begins, and the last one ends.
    reduction : Reduction or None
    elements, op : str
        Names of the type of the elements and of the operation, which all ranks must agree in.
    root : int
    before : sequence of (slice, array)
        What is copied to parts of the vector first.
    after : sequence of (array, slice)
        Where parts of the vector are copied in the end.
    """

    operation: str
    own: Array | None
    result: Array | None
    like: Array
    division: Division
    reduction: Reduction | None = None
    elements: str = "bytes"
    op: str = ""
    root: int = 0
    before: Sequence[tuple[slice, Array]] = ()
    after: Sequence[tuple[Array, slice]] = ()

    @property
    def count(self) -> int:
        """Elements of the whole vector."""
        return self.division if isinstance(self.division, int) else self.division[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole vector."""
        return self.count * self.like.itemsize

    def own_beside(self, result: Array) -> Array:
        """The rank's contribution, in other memory than `result`, unless that holds it."""
        if self.own is None:
            return result
        # A schedule receives into the result before it has sent all of what the rank contributes.
        shares = memory_of(result).library.may_share_memory(self.own, result)
        return self.own.copy() if shares else self.own

    @property
    def commutes(self) -> bool:
        """Whether operands may change places."""
        return self.reduction is None or self.reduction.commutes

    @property
    def is_of_mpi(self) -> bool:
        """Whether the MPI library has the type of the elements."""
        return self.reduction is None or self.like.dtype.char in MPI_CODES + "V"


def read_call(given: Given, rank: int, ranks: int) -> Call | None:
    """Read a call as one of `ranks` ranks."""
    return _READINGS[given.method].read(given, rank, ranks)


def allreduce_in_place(array: Array, op: MPI.Op) -> Call | None:
    """An allreduce of a flat array in its place; None where neither NumPy nor CuPy has the operation."""
    reduction = array_reduction(op, array.dtype, memory_of(array).library)
    if reduction is None:
        return None
    operand = _Operand(array, reduction, _name(array.dtype, str(array.dtype)))
    return _reducing("allreduce", None, array, operand, array.size, op)


# Reductions.


class _Operand(NamedTuple):
    array: Array
    reduction: Reduction
    elements: str


def _read_allreduce(given: Given, _rank: int, _ranks: int) -> Call | None:
    count = given.received.instances
    pair = _operands(given, count, count)
    if pair is None:
        return None
    own, result = pair
    return _reducing("allreduce", own, result.array, result, count, given.op)


def _read_reduce(given: Given, rank: int, ranks: int) -> Call | None:
    if rank == given.root:
        call = _read_allreduce(given, rank, ranks)
        return None if call is None else replace(call, operation="reduce", root=given.root)
    own = _operand(given.sent, given.received.instances, given.op)
    if own is None:
        return None
    return replace(_reducing("reduce", own, None, own, own.array.size, given.op), root=given.root)


def _read_reduce_scatter(given: Given, rank: int, ranks: int) -> Call | None:
    counts = given.received.counts or (given.received.instances,) * ranks
    bounds = tuple(accumulate(counts, initial=0))
    in_place = given.sent.address is None
    pair = _operands(given, bounds[-1], bounds[-1] if in_place else counts[rank])
    if pair is None:
        return None
    own, result = pair
    mine = slice(bounds[rank], bounds[rank + 1])
    contributed = result if own is None else own
    call = _reducing("reduce_scatter", contributed, None, result, bounds, given.op)
    return replace(call, after=[(result.array[: counts[rank]], mine)])


def _reducing(
    operation: str,
    own: _Operand | None,
    result: Array | None,
    known: _Operand,
    division: Division,
    op: MPI.Op,
) -> Call:
    name = operation_name(op)
    contributed = None if own is None else own.array
    return Call(operation, contributed, result, known.array, division, known.reduction, known.elements, name)


def _operands(given: Given, sent: int, received: int) -> tuple[_Operand | None, _Operand] | None:
    """The contribution, None if it lies in the other array, and the array that is received."""
    result = _operand(given.received, received, given.op)
    if result is None:
        return None
    if given.sent.address is None:
        return None, result
    own = _operand(given.sent, sent, given.op)
    if own is None or own.elements != result.elements or memory_of(own.array) is not memory_of(result.array):
        return None
    return own, result


def _operand(buffer: Buffer, count: int, op: MPI.Op) -> _Operand | None:
    if buffer.array is not None:
        dtype = buffer.array.dtype
        reduction = array_reduction(op, dtype, memory_of(buffer.array).library)
        if reduction is None:
            return None
        return _Operand(buffer.bytes_at(0, count * dtype.itemsize).view(dtype), reduction, dtype.str)
    reduction = datatype_reduction(op, buffer.datatype)
    if reduction is None:
        return None
    dtype = reduction.dtype
    name = MPI.Datatype.fromhandle(buffer.datatype).name if dtype.kind == "V" else ""
    return _Operand(buffer.bytes_at(0, count * dtype.itemsize).view(dtype), reduction, _name(dtype, name))


def _name(dtype: np.dtype[Any], name: str) -> str:
    """The same for the same numbers, whatever they are called."""
    return name if dtype.kind == "V" else dtype.str


# Collectives that move bytes.


def _read_bcast(given: Given, rank: int, _ranks: int) -> Call | None:
    memory = _run_of_bytes(given.received, given.received.instances)
    if memory is None:
        return None
    # Some algorithms send the root what it has; it may not be written there.
    own, result = (memory, None) if rank == given.root else (None, memory)
    return Call("bcast", own, result, memory, memory.size, root=given.root)


def _read_allgather(given: Given, rank: int, ranks: int) -> Call | None:
    memory = _run_of_bytes(given.received, given.received.instances * ranks)
    if memory is None:
        return None
    each = memory.size // ranks
    return _gathering(given, memory, [slice(i * each, (i + 1) * each) for i in range(ranks)], rank)


def _read_allgatherv(given: Given, rank: int, ranks: int) -> Call | None:
    received = given.received
    assert received.counts is not None
    assert received.displacements is not None
    known = known_datatype(MPI.Datatype.fromhandle(received.datatype))
    if known is None or known.layout is None:
        return None
    if not all(count == 0 or known.is_run(count) for count in received.counts):
        return None
    first = known.layout.bounds()[0]
    begins = [first + displacement * known.extent for displacement in received.displacements]
    blocks = list(zip(begins, received.counts, strict=True))
    # Where nothing is received, the displacement may be any.
    low = min((begin for begin, count in blocks if count), default=0)
    high = max((begin + count * known.size for begin, count in blocks if count), default=low)
    places = [
        slice(begin - low, begin - low + count * known.size) if count else slice(0, 0)
        for begin, count in blocks
    ]
    return _gathering(given, received.bytes_at(low, high - low), places, rank)


def _gathering(given: Given, memory: Array, places: Sequence[slice], rank: int) -> Call | None:
    bounds = tuple(accumulate((place.stop - place.start for place in places), initial=0))
    packed = [slice(begin, end) for begin, end in pairwise(bounds)]
    in_place = given.sent.address is None
    own = memory[places[rank]] if in_place else _run_of_bytes(given.sent, given.sent.instances)
    if own is None or own.size != bounds[rank + 1] - bounds[rank]:
        return None
    if all(place == there or place.start == place.stop for place, there in zip(places, packed, strict=True)):
        before = () if in_place else [(packed[rank], own)]
        return Call("allgather", None, memory, memory, bounds, before=before)
    after = [(memory[place], there) for place, there in zip(places, packed, strict=True)]
    return Call("allgather", None, None, memory, bounds, before=[(packed[rank], own)], after=after)


_NOTHING: Array = np.zeros(0, np.uint8)


def _run_of_bytes(buffer: Buffer, count: int) -> Array | None:
    """The bytes of instances without gaps; None where there are some that only the library can read."""
    if not count:
        return _NOTHING
    known = known_datatype(MPI.Datatype.fromhandle(buffer.datatype))
    if known is None or known.layout is None or not known.is_run(count):
        return None
    return buffer.bytes_at(known.layout.repeat(count).bounds()[0], count * known.size)


class _Reading(NamedTuple):
    operation: str
    read: Callable[[Given, int, int], Call | None]


# Methods of mpi4py, by the operation that each is one form of.
_READINGS = {
    "Allreduce": _Reading("allreduce", _read_allreduce),
    "Iallreduce": _Reading("allreduce", _read_allreduce),
    "Allreduce_init": _Reading("allreduce", _read_allreduce),
    "Reduce": _Reading("reduce", _read_reduce),
    "Reduce_scatter_block": _Reading("reduce_scatter", _read_reduce_scatter),
    "Reduce_scatter": _Reading("reduce_scatter", _read_reduce_scatter),
    "Allgather": _Reading("allgather", _read_allgather),
    "Allgatherv": _Reading("allgather", _read_allgatherv),
    "Bcast": _Reading("bcast", _read_bcast),
}


def operation_of(method: str) -> str:
    """The operation that a method of mpi4py is one form of."""
    return _READINGS[method].operation


def methods_of(operation: str) -> list[str]:
    """The methods of mpi4py for an operation."""
    return [method for method, reading in _READINGS.items() if reading.operation == operation]
