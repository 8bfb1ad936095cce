"""Buffer arguments as the flat memory that a collective of ours reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from .specification import read_one


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

    memory: NDArray[np.uint8]
    datatype: MPI.Datatype
    count: int


def elements(buffer: Any, receiving: bool) -> Elements | None:
    """Find the elements behind a buffer argument; None where mpi4py shall read or refuse it."""
    if isinstance(buffer, list | tuple):
        return _listed(buffer, receiving)
    try:
        array = buffer if isinstance(buffer, np.ndarray) else np.asarray(memoryview(buffer))
    except (TypeError, ValueError, BufferError):
        return None
    datatype = MPI._typedict.get(array.dtype.char)
    usable = array.flags.forc and array.dtype.isnative and (array.flags.writeable or not receiving)
    if datatype is None or not usable:
        return None
    return Elements(array.reshape(-1, order="A").view(np.uint8), datatype, array.size)


def _listed(buffer: Any, receiving: bool) -> Elements | None:
    found = read_one(buffer, receiving)
    if found is None:
        return None
    datatype, address, count, extent = found
    if not datatype.is_predefined:
        return None
    memory = MPI.buffer.fromaddress(address, count * extent, readonly=not receiving)
    view = memoryview(memory)  # type: ignore[arg-type]
    return Elements(np.asarray(view), datatype, count)
