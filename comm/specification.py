"""Buffer arguments with a derived datatype, read as mpi4py reads them.

mpi4py takes `[memory, count, datatype]`, `[memory, (count, displacement), datatype]` and so on; in the
collectives with a count for each rank, lists of them; in the `w` collectives also a list of datatypes
and displacements in bytes. An argument that is not packed here, or that has anything wrong with it,
gives None: mpi4py then takes it as it is, or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import index
from typing import Any, NamedTuple

import numpy as np

from ..datatypes.arrays import DLPACK_CPU
from ..datatypes.known import KnownDatatype, known_datatype
from ..datatypes.movers import has_mover
from ..datatypes.plain import MPI
from .densetype import dense_type
from .device import is_on_gpu, stage_gpu
from .refusals import bounds_error
from .settings import checks_bounds
from .staging import HostStage, Stage
from .strided import stage_array

# What is surely in the memory of the host, and often given.
_ON_HOST = frozenset((np.ndarray, bytearray, bytes, memoryview, MPI.buffer))

Reader = Callable[[Sequence[Any], bool, int], Stage | None]


class Memory(NamedTuple):
    """Contiguous host memory; `nbytes` is None for absolute addresses, which begin at zero."""

    address: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class _Place:
    """`count` instances of a datatype, `offset` bytes from the start of the memory."""

    known: KnownDatatype
    count: int
    offset: int


def find_stage(read: Reader, buffer: Any, receiving: bool, blocks: int = 1) -> Stage | None:
    """Stage for a buffer argument with a datatype that has gaps, or an array that mpi4py cannot read.

    `read` is one of the functions below, for the kind of argument that the operation takes; `blocks` is
    the number of ranks among which a collective divides it.
    """
    listed = buffer.__class__ is list or buffer.__class__ is tuple
    owner = buffer
    if listed:
        owner = buffer[0] if buffer else None
    if is_on_gpu(owner):
        return stage_gpu(buffer, receiving)
    stage = read(buffer, receiving, blocks) if listed else None
    return stage_array(buffer, receiving) if stage is None else stage


def read_one(buffer: Sequence[Any], receiving: bool) -> tuple[MPI.Datatype, int, int, int] | None:
    """Datatype, address, count and extent of one block; None for what mpi4py shall read or refuse."""
    known = _known(buffer)
    memory = None if known is None else host_memory(buffer[0], receiving)
    if known is None or memory is None:
        return None
    datatype = MPI._typedict[buffer[-1]] if isinstance(buffer[-1], str) else buffer[-1]
    count, offset = _count_and_offset(buffer, known, memory, 1)
    return (datatype, memory.address + offset, count, known.extent) if count >= 0 else None


def read_vector(
    buffer: Sequence[Any], receiving: bool, blocks: int
) -> tuple[KnownDatatype, int, list[int], list[int]] | None:
    """Datatype, address, counts and displacements of blocks; None for what mpi4py shall read or refuse."""
    known = _known(buffer)
    memory = None if known is None else host_memory(buffer[0], receiving)
    if known is None or memory is None:
        return None
    found = _counts_and_displacements(buffer, known, memory, blocks)
    return None if found is None else (known, memory.address, *found)


def stage_one(buffer: Sequence[Any], receiving: bool, blocks: int = 1) -> Stage | None:
    """Stage for one count of a datatype, which a collective may make for each of `blocks` ranks."""
    known = _known(buffer)
    memory = None if known is None else host_memory(buffer[0], receiving)
    if known is None or memory is None:
        return None
    count, offset = _count_and_offset(buffer, known, memory, blocks)
    total = count * blocks
    if count <= 0:
        return None
    if checks_bounds():
        _check_bounds(memory, _Place(known, total, offset))
    if known.is_run(total) or not has_mover():
        return None
    datatype = dense_type(known)
    if datatype is None:
        return None
    program, instances = known.program(total)
    part = (program.address, instances, memory.address + offset, 0)
    stage = HostStage((part,), total * known.size, (buffer, program))
    stage.spec = [stage.memory, count, datatype]
    return stage


def stage_vector(buffer: Sequence[Any], receiving: bool, blocks: int) -> Stage | None:
    """Stage for a count and a displacement for each of `blocks` ranks, of one datatype."""
    known = _known(buffer)
    if known is None or (known.contiguous and not checks_bounds()):
        return None
    memory = host_memory(buffer[0], receiving)
    if memory is None:
        return None
    found = _counts_and_displacements(buffer, known, memory, blocks)
    if found is None:
        return None
    counts, displacements = found
    pairs = zip(counts, displacements, strict=True)
    stage = _stage(buffer, memory, [_Place(known, n, displ * known.extent) for n, displ in pairs])
    if stage is not None:
        stage.spec = [stage.memory, counts, _starts(counts), dense_type(known)]
    return stage


def _known(buffer: Sequence[Any]) -> KnownDatatype | None:
    """What is known of the datatype at the end of a buffer argument, if there is one."""
    datatype = buffer[-1] if 2 <= len(buffer) <= 4 else None
    if isinstance(datatype, str):
        datatype = MPI._typedict.get(datatype)
    return known_datatype(datatype) if isinstance(datatype, MPI.Datatype) else None


def host_memory(owner: Any, receiving: bool) -> Memory | None:
    """Where the bytes lie of an object on the host that mpi4py reads as it is; None for any other."""
    if owner is MPI.BOTTOM:
        return Memory(0, None)
    if owner is None:
        return Memory(0, 0)
    try:
        if isinstance(owner, np.ndarray):
            readonly, nbytes = not owner.flags.writeable, np.asarray(owner).nbytes
        elif owner.__class__ not in _ON_HOST and (is_on_gpu(owner) or not _is_on_cpu(owner)):
            return None
        else:
            readonly, nbytes = _readonly_and_nbytes(owner)
        return None if receiving and readonly else Memory(MPI.Get_address(owner), nbytes)
    except (TypeError, ValueError, BufferError):
        return None


def _is_on_cpu(owner: Any) -> bool:
    return not hasattr(owner, "__dlpack__") or owner.__dlpack_device__()[0] == DLPACK_CPU


def _readonly_and_nbytes(owner: Any) -> tuple[bool, int]:
    try:
        # NumPy takes what comes by DLPack for read-only where mpi4py does not.
        memory = MPI.buffer(owner)
    except BufferError:
        # mpi4py sends what lies in the order of Fortran, but makes no such object of it.
        view = memoryview(owner)
        return view.readonly, view.nbytes
    return memory.readonly, memory.nbytes


def _count_and_offset(
    buffer: Sequence[Any], known: KnownDatatype, memory: Memory, blocks: int
) -> tuple[int, int]:
    """Count for each block, and offset in bytes; a count of -1 where mpi4py shall complain."""
    count, displacement = None, None
    if len(buffer) == 4:
        count, displacement = buffer[1:3]
    elif len(buffer) == 3:
        count = buffer[1]
        if count.__class__ is list or count.__class__ is tuple:
            count, displacement = count
    try:
        offset = index(displacement) * known.extent if displacement else 0
        beyond = memory.nbytes is not None and offset > memory.nbytes
        if offset < 0 or beyond or (offset and known.extent <= 0):
            return -1, 0
        count = _infer_count(known, memory, offset, blocks) if count is None else index(count)
        return (-1 if buffer[0] is None and count else count), offset
    except (TypeError, ValueError):
        return -1, 0


def _infer_count(known: KnownDatatype, memory: Memory, offset: int, blocks: int) -> int:
    """Instances that fit into the memory; -1 where mpi4py finds that they do not divide it."""
    length = (memory.nbytes or 0) - offset
    if known.extent <= 0 or length % (known.extent * blocks):
        return -1
    return length // (known.extent * blocks)


def _counts_and_displacements(
    buffer: Sequence[Any], known: KnownDatatype, memory: Memory, blocks: int
) -> tuple[list[int], list[int]] | None:
    counts, displacements = None, None
    if len(buffer) == 4:
        counts, displacements = buffer[1:3]
    elif len(buffer) == 3:
        counts, displacements = buffer[1] if isinstance(buffer[1], tuple) else (buffer[1], None)
    try:
        if counts is None:
            entries = _infer_count(known, memory, 0, 1)
            counts = [entries // blocks + (i < entries % blocks) for i in range(blocks)]
        counts = _per_block(counts, blocks, lambda count, _: count)
        if displacements is None:
            displacements = _starts(counts)
        displacements = _per_block(displacements, blocks, lambda stride, i: stride * i)
    except (TypeError, ValueError):
        return None
    usable = len(counts) == len(displacements) == blocks and min(counts, default=0) >= 0
    nowhere = buffer[0] is None and any(counts)
    return (counts, displacements) if usable and not nowhere else None


def _per_block(values: Any, blocks: int, from_number: Any) -> list[int]:
    if isinstance(values, int | np.integer):
        return [from_number(index(values), i) for i in range(blocks)]
    return [index(value) for value in values]


def _starts(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]


def _stage(buffer: Sequence[Any], memory: Memory, places: list[_Place]) -> Stage | None:
    """Stage for all places together, if there is one that has gaps."""
    full = [place for place in places if place.count]
    if any(place.known.layout is None for place in full):
        return None
    if checks_bounds():
        for place in full:
            _check_bounds(memory, place)
    if all(place.known.contiguous for place in full) or not has_mover():
        return None
    if any(dense_type(place.known) is None for place in full):
        return None
    parts, programs, start = [], [], 0
    for place in full:
        program, instances = place.known.program(place.count)
        programs.append(program)
        parts.append((program.address, instances, memory.address + place.offset, start))
        start += place.count * place.known.size
    return HostStage(parts, sum(place.count * place.known.size for place in full), (buffer, programs))


def _check_bounds(memory: Memory, place: _Place) -> None:
    if memory.nbytes is None:
        return
    error = bounds_error(place.known, place.count, place.offset, memory.nbytes)
    if error is not None:
        raise error
