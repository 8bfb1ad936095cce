"""Buffer arguments as the flat memory that a collective of ours reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.arrays import as_numpy, element_datatype
from ..datatypes.known import known_datatype
from ..datatypes.plain import MPI
from .specification import host_memory, read_one, read_vector

Bytes = NDArray[np.uint8]
_NOTHING = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Elements:
    """Contiguous elements of a predefined datatype.

    Attributes
    ----------
    memory : uint8 array
        Their bytes.
    datatype : mpi4py.MPI.Datatype
    count : int
    """

    memory: Bytes
    datatype: MPI.Datatype
    count: int


class Blocks(NamedTuple):
    """Contiguous bytes for each rank, in one memory.

    Attributes
    ----------
    memory : uint8 array
    places : list of slices
        Each rank's bytes in it.
    """

    memory: Bytes
    places: list[slice]


def elements(buffer: Any, receiving: bool) -> Elements | None:
    """Find the elements behind a buffer argument; None where mpi4py shall read or refuse it."""
    if isinstance(buffer, list | tuple):
        found = read_one(_with_datatype(buffer), receiving)
        if found is None or not found[0].is_predefined:
            return None
        datatype, address, count, extent = found
        return Elements(_at(address, count * extent, receiving), datatype, count)
    known = _element_type(buffer)
    memory = None if known is None else _memory(buffer, receiving)
    if known is None or memory is None:
        return None
    return Elements(memory, known, memory.size // known.Get_size())


def flat_bytes(buffer: Any, receiving: bool) -> Bytes | None:
    """Find the bytes behind a buffer argument without gaps; None where mpi4py shall read or refuse it."""
    if not isinstance(buffer, list | tuple):
        return None if _element_type(buffer) is None else _memory(buffer, receiving)
    found = read_one(_with_datatype(buffer), receiving)
    if found is None:
        return None
    datatype, address, count, _ = found
    known = known_datatype(datatype)
    if not count:
        return _NOTHING
    if known is None or known.layout is None or not known.is_run(count):
        return None
    first = known.layout.repeat(count).bounds()[0]
    return _at(address + first, count * known.size, receiving)


def flat_blocks(buffer: Any, ranks: int) -> Blocks | None:
    """Find the bytes that each rank's block is received into; None where mpi4py shall read or refuse them."""
    spec = _with_datatype(buffer if isinstance(buffer, list | tuple) else [buffer, None])
    found = read_vector(spec, True, ranks)
    if found is None:
        return None
    known, address, counts, displacements = found
    if not any(counts):
        return Blocks(_NOTHING, [slice(0, 0)] * ranks)
    if known.layout is None or not known.contiguous:
        return None
    first = known.layout.bounds()[0]
    begins = [first + each * known.extent for each in displacements]
    places = [slice(begin, begin + count * known.size) for begin, count in zip(begins, counts, strict=True)]
    return Blocks(_at(address, max((place.stop for place in places), default=0), True), places)


def _memory(buffer: Any, receiving: bool) -> Bytes | None:
    """The bytes of an object without gaps in the memory of the host."""
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.forc or (receiving and not buffer.flags.writeable):
            return None
        # A matrix has two axes, whatever it is reshaped to.
        return np.asarray(buffer).reshape(-1, order="A").view(np.uint8)
    found = host_memory(buffer, receiving)
    return None if found is None or found.nbytes is None else _at(found.address, found.nbytes, receiving)


def _element_type(buffer: Any) -> MPI.Datatype | None:
    """The datatype of the elements; None for those that mpi4py refuses."""
    try:
        return element_datatype(as_numpy(buffer).dtype)
    except (TypeError, ValueError, BufferError):
        return None


def _viewed(memory: MPI.buffer) -> Bytes:
    return np.asarray(memoryview(memory))  # type: ignore[arg-type]


def _at(address: int, nbytes: int, receiving: bool) -> Bytes:
    if nbytes == 0:
        return _NOTHING
    return _viewed(MPI.buffer.fromaddress(address, nbytes, readonly=not receiving))


def _with_datatype(buffer: Sequence[Any]) -> Sequence[Any]:
    """A list as it is, or with the datatype that mpi4py takes for the array in it."""
    if not buffer or isinstance(buffer[-1], MPI.Datatype | str):
        return buffer
    datatype = _element_type(buffer[0])
    return buffer if datatype is None else [*buffer, datatype]
