"""Buffer arguments of a collective, as the flat arrays that a schedule works on.

Each function returns None where mpi4py shall read the arguments, or say what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from ..comm.elements import elements, flat_blocks, flat_bytes
from ..datatypes.plain import MPI
from .chosen import Division
from .memory import device_array, memory_of
from .reduction import MPI_CODES, Array, Reduction, array_reduction, datatype_reduction, operation_name


@dataclass(frozen=True, slots=True)
class Call:
    """What a schedule is run on.

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
        """What the rank contributes, in other memory than `result`, unless that holds it."""
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


class _Operand(NamedTuple):
    array: Array
    reduction: Reduction
    elements: str


def read_allreduce(sendbuf: Any, recvbuf: Any, op: MPI.Op) -> Call | None:
    """Arguments of an allreduce."""
    pair = _operands(sendbuf, recvbuf, op)
    if pair is None:
        return None
    own, result = pair
    if own is not None and own.array.size != result.array.size:
        return None
    return _reducing("allreduce", own, result.array, result, result.array.size, op)


def read_reduce(sendbuf: Any, recvbuf: Any, op: MPI.Op, root: int, rank: int) -> Call | None:
    """Arguments of a reduction to a root."""
    if rank == root:
        call = read_allreduce(sendbuf, recvbuf, op)
        return None if call is None else replace(call, operation="reduce", root=root)
    own = _operand(sendbuf, False, op)
    if own is None:
        return None
    return replace(_reducing("reduce", own, None, own, own.array.size, op), root=root)


def read_reduce_scatter(
    sendbuf: Any, recvbuf: Any, counts: Sequence[int], op: MPI.Op, rank: int
) -> Call | None:
    """Arguments of a reduction of which each rank gets so many elements."""
    pair = _operands(sendbuf, recvbuf, op)
    if pair is None:
        return None
    bounds = tuple(accumulate(counts, initial=0))
    own, result = pair
    mine = slice(bounds[rank], bounds[rank + 1])
    contributed = result if own is None else own
    needed = bounds[-1] if own is None else counts[rank]
    if contributed.array.size != bounds[-1] or result.array.size != needed:
        return None
    call = _reducing("reduce_scatter", contributed, None, result, bounds, op)
    return replace(call, after=[(result.array[: counts[rank]], mine)])


def read_reduce_scatter_block(sendbuf: Any, recvbuf: Any, op: MPI.Op, rank: int, ranks: int) -> Call | None:
    """Arguments of a reduction of which each rank gets as many elements."""
    in_place = sendbuf is MPI.IN_PLACE or sendbuf is None
    if in_place:
        recvbuf = _all_blocks(recvbuf, ranks)
    else:
        sendbuf = _all_blocks(sendbuf, ranks)
    result = _operand(recvbuf, True, op)
    if result is None or (in_place and result.array.size % ranks):
        return None
    each = result.array.size // ranks if in_place else result.array.size
    return read_reduce_scatter(sendbuf, recvbuf, [each] * ranks, op, rank)


def read_bcast(buf: Any, root: int, rank: int) -> Call | None:
    """Arguments of a broadcast."""
    memory = flat_bytes(buf, rank != root)
    if memory is None:
        return None
    # Some algorithms send the root what it has; it may not be written there.
    own, result = (memory, None) if rank == root else (None, memory)
    return Call("bcast", own, result, memory, memory.size, root=root)


def read_allgather(sendbuf: Any, recvbuf: Any, rank: int, ranks: int) -> Call | None:
    """Arguments of an allgather of equal blocks."""
    memory = flat_bytes(_all_blocks(recvbuf, ranks), True)
    if memory is None or memory.size % ranks:
        return None
    each = memory.size // ranks
    return _gathering(sendbuf, memory, [slice(i * each, (i + 1) * each) for i in range(ranks)], rank)


def read_allgatherv(sendbuf: Any, recvbuf: Any, rank: int, ranks: int) -> Call | None:
    """Arguments of an allgather of blocks of any sizes, at any places."""
    blocks = flat_blocks(recvbuf, ranks)
    return None if blocks is None else _gathering(sendbuf, blocks.memory, blocks.places, rank)


def _gathering(sendbuf: Any, memory: Array, places: Sequence[slice], rank: int) -> Call | None:
    bounds = tuple(accumulate((place.stop - place.start for place in places), initial=0))
    packed = [slice(begin, end) for begin, end in pairwise(bounds)]
    in_place = sendbuf is MPI.IN_PLACE or sendbuf is None
    own = memory[places[rank]] if in_place else flat_bytes(sendbuf, False)
    if own is None or own.size != bounds[rank + 1] - bounds[rank]:
        return None
    if all(place == there or not _length(place) for place, there in zip(places, packed, strict=True)):
        before = () if in_place else [(packed[rank], own)]
        return Call("allgather", None, memory, memory, bounds, before=before)
    after = [(memory[place], there) for place, there in zip(places, packed, strict=True)]
    return Call("allgather", None, None, memory, bounds, before=[(packed[rank], own)], after=after)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _all_blocks(recvbuf: Any, ranks: int) -> Any:
    """The argument that is meant when a list gives the count of one block."""
    if not isinstance(recvbuf, list | tuple) or len(recvbuf) < 2:
        return recvbuf
    count = recvbuf[1]
    if isinstance(count, list | tuple) and len(count) == 2:
        return [recvbuf[0], (_times(count[0], ranks), count[1]), *recvbuf[2:]]
    return [recvbuf[0], _times(count, ranks), *recvbuf[2:]]


def _times(count: Any, ranks: int) -> Any:
    # What else stands there is a datatype.
    return count * ranks if isinstance(count, int | np.integer) else count


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


def _operands(sendbuf: Any, recvbuf: Any, op: MPI.Op) -> tuple[_Operand | None, _Operand] | None:
    """What is contributed, None if it lies in the other one, and what is received."""
    in_place = sendbuf is MPI.IN_PLACE or sendbuf is None
    result = _operand(recvbuf, True, op)
    own = None if in_place else _operand(sendbuf, False, op)
    if result is None or (own is None and not in_place):
        return None
    if own is not None and (
        own.elements != result.elements or memory_of(own.array) is not memory_of(result.array)
    ):
        return None
    return own, result


def _operand(buffer: Any, receiving: bool, op: Any) -> _Operand | None:
    if not isinstance(op, MPI.Op):
        return None
    if buffer.__class__ is np.ndarray and buffer.flags.forc and (buffer.flags.writeable or not receiving):
        # Also of dtypes that MPI need not know.
        reduction = array_reduction(op, buffer.dtype)
        if reduction is not None:
            return _Operand(buffer.reshape(-1, order="A"), reduction, _name(buffer.dtype, str(buffer.dtype)))
    device = device_array(buffer, receiving)
    if device is not None:
        reduction = array_reduction(op, device.dtype, memory_of(device).library)
        return None if reduction is None else _Operand(device, reduction, device.dtype.str)
    part = elements(buffer, receiving)
    if part is None:
        return None
    reduction = datatype_reduction(op, part.datatype)
    array: Array = part.memory.view(reduction.dtype)
    return _Operand(array, reduction, _name(reduction.dtype, part.datatype.name))


def _name(dtype: np.dtype[Any], name: str) -> str:
    """The same for the same numbers, whatever they are called."""
    return name if dtype.kind == "V" else dtype.str
