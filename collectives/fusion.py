"""Many small arrays reduced as few large ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from .functions import allreduce
from .memory import Memory, is_writable, memory_of
from .processes import AUTO

Array = NDArray[Any]
# What is reduced at once: enough for the bandwidth, and little enough to stay near the processor.
_FUSED_BYTES = 8 << 20


def allreduce_many(
    comm: MPI.Intracomm, arrays: Sequence[Array], op: MPI.Op = MPI.SUM, algorithm: str = AUTO
) -> None:
    """Reduce each of many arrays in place, with as few messages as if they were one.

    The fusion of Horovod (Sergeev and Del Balso 2018, section 4), of arrays that are there already.

    Parameters
    ----------
    comm : Intracomm
        Communicator; all its ranks pass arrays of the same shapes and dtypes, in the same order.
    arrays : sequence of arrays
        Of NumPy or CuPy, of any shapes, strides and dtypes.
    op : MPI.Op
        Operation, element by element.
    algorithm : str
        As in `roundelay.allreduce`.

    Raises
    ------
    ValueError
        As `roundelay.allreduce`; or an array that cannot be written, before anything is sent.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> gradients = [np.ones((2, 3)), np.ones(4, np.float32), np.ones((5, 5))[:, 1]]
    >>> allreduce_many(MPI.COMM_WORLD, gradients)
    >>> all((each == MPI.COMM_WORLD.size).all() for each in gradients)
    True
    """
    for place, array in enumerate(arrays):
        if not is_writable(array):
            raise ValueError(f"allreduce_many: array {place} of shape {array.shape} cannot be written")
    for group in _groups(arrays):
        _reduce_together(comm, group, op, algorithm)


def _groups(arrays: Sequence[Array]) -> Iterator[list[Array]]:
    """Arrays of one dtype, in one memory, that together have so many bytes."""
    alike: dict[tuple[Memory, np.dtype[Any]], list[Array]] = defaultdict(list)
    for array in arrays:
        alike[memory_of(array), array.dtype].append(array)
    for same in alike.values():
        group: list[Array] = []
        nbytes = 0
        for array in same:
            if group and nbytes + array.nbytes > _FUSED_BYTES:
                yield group
                group, nbytes = [], 0
            group.append(array)
            nbytes += array.nbytes
        yield group


def _reduce_together(comm: MPI.Intracomm, group: Sequence[Array], op: MPI.Op, algorithm: str) -> None:
    if len(group) == 1:
        allreduce(comm, MPI.IN_PLACE, group[0], op, algorithm)
        return
    memory = memory_of(group[0])
    block = memory.take(sum(array.nbytes for array in group))
    try:
        fused = block.array[: sum(array.nbytes for array in group)].view(group[0].dtype)
        parts = memory.library.split(fused, np.cumsum([array.size for array in group])[:-1].tolist())
        for array, part in zip(group, parts, strict=True):
            part.reshape(array.shape)[...] = array
        memory.settle()
        allreduce(comm, MPI.IN_PLACE, fused, op, algorithm)
        for array, part in zip(group, parts, strict=True):
            array[...] = part.reshape(array.shape)
        memory.settle()
    finally:
        memory.give_back(block)
