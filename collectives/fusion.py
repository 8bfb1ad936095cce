"""Many small arrays reduced as few large ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..comm.recorded import recorded
from ..datatypes.plain import MPI
from .array_views import is_array, mark_written, writable_array
from .consent import agree_on
from .functions import allreduce
from .memory import Memory, memory_of
from .processes import AUTO
from .reduction import check_reducible, operation_name

Array = NDArray[Any]
# Bytes reduced at once: enough for the bandwidth, and few enough to stay near the processor.
_FUSED_BYTES = 8 << 20


# NumPy composes the name of a dtype anew each time, which takes longer than to copy a small array.
_name = lru_cache(str)


class _Given(NamedTuple):
    """The program's arguments, and the same as arrays, in groups that are reduced together."""

    owners: list[Any]
    groups: list[list[Array]]


@recorded
def allreduce_many(
    comm: MPI.Intracomm, arrays: Iterable[Any], op: MPI.Op = MPI.SUM, algorithm: str = AUTO
) -> None:
    """Reduce each of many arrays in place, with as few messages as if they were one.

    The fusion of Horovod (Sergeev and Del Balso 2018, section 4), of arrays that are there already.

    Parameters
    ----------
    comm : Intracomm
        Communicator; all its ranks pass arrays of the same shapes and dtypes, in the same order.
    arrays : iterable of arrays
        Whatever `Allreduce` takes as an array, of any shapes and strides, and of the dtypes of
        `roundelay.allreduce`: of NumPy or CuPy, tensors of PyTorch, memoryviews.
    op : MPI.Op
        Operation, element by element.
    algorithm : str
        As in `roundelay.allreduce`.

    Raises
    ------
    ValueError
        On all ranks, before anything is reduced: what is no array on one of them, None for instance, or
        cannot be written; a tensor that requires a gradient, but under `torch.no_grad()`; arrays that differ
        between ranks. Or as `roundelay.allreduce`.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> gradients = [np.ones((2, 3)), np.ones(4, np.float32), np.ones((5, 5))[:, 1]]
    >>> allreduce_many(MPI.COMM_WORLD, gradients)
    >>> all((each == MPI.COMM_WORLD.size).all() for each in gradients)
    True
    """
    given = agree_on(comm, "allreduce_many", lambda: _read(arrays, op, algorithm))
    for group in given.groups:
        _reduce_together(comm, group, op, algorithm)
    mark_written(*given.owners)


def _read(arrays: Iterable[Any], op: MPI.Op, algorithm: str) -> tuple[_Given, dict[str, Any]]:
    if is_array(arrays):
        raise ValueError(f"a single {type(arrays).__name__}: expected a list of arrays")
    owners = list(arrays)
    views = [_reducible(place, each, op) for place, each in enumerate(owners)]
    groups = list(_groups(views))
    same = {
        "arrays": len(views),
        **{f"array {place}": (_name(each.dtype), each.shape) for place, each in enumerate(views)},
        "arrays that lie together": groups,
        "operation": operation_name(op),
        "algorithm": algorithm,
    }
    return _Given(owners, [[views[place] for place in group] for group in groups]), same


def _reducible(place: int, value: Any, op: MPI.Op) -> Array:
    name = f"array {place}"
    if value is None:
        raise ValueError(f"{name} is None: expected an array; zeros, where there is no gradient")
    array: Array = writable_array(name, value)
    check_reducible(name, array.dtype, op, memory_of(array).library)
    return array


def _groups(arrays: Sequence[Array]) -> Iterator[list[int]]:
    """Places of arrays of one dtype, in one memory, of at most `_FUSED_BYTES` or one larger array."""
    alike: dict[tuple[Memory, np.dtype[Any]], list[int]] = defaultdict(list)
    for place, array in enumerate(arrays):
        alike[memory_of(array), array.dtype].append(place)
    for same in alike.values():
        group: list[int] = []
        nbytes = 0
        for place in same:
            if group and nbytes + arrays[place].nbytes > _FUSED_BYTES:
                yield group
                group, nbytes = [], 0
            group.append(place)
            nbytes += arrays[place].nbytes
        yield group


def _reduce_together(comm: MPI.Intracomm, group: Sequence[Array], op: MPI.Op, algorithm: str) -> None:
    # In another order an array would be sent in that of its memory, which may differ between ranks.
    if len(group) == 1 and group[0].flags.c_contiguous:
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
