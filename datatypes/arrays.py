"""Arrays of any library as layouts of their elements, seen from the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import Dense, Layout, Node, Order, Stream
from .plain import MPI

DLPACK_CPU = 1


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Axes of an array from the slowest to the fastest in memory, as NumPy's order "K" walks them.

    Signs of strides do not matter. Axes of one stride, and those without a stride or with one element, stay
    in the order of the indices.

    Examples
    --------
    >>> memory_order((3, 4, 5), (8, -24, 96))
    (2, 1, 0)
    """
    steps = [0 if count == 1 else abs(stride) for count, stride in zip(shape, strides, strict=True)]
    # From the fastest: each axis goes in front of those that it is faster than.
    order: list[int] = []
    for axis in reversed(range(len(steps))):
        place = len(order)
        for other in reversed(range(len(order))):
            if steps[axis] and steps[order[other]]:
                if steps[order[other]] <= steps[axis]:
                    break
                place = other
        order.insert(place, axis)
    return tuple(reversed(order))


def strided_layout(shape: Sequence[int], strides: Sequence[int], itemsize: int, order: Order = "C") -> Layout:
    """Folded layout of a strided array, whose elements come in some order.

    Raises `ValueError` for an unknown order.

    Examples
    --------
    >>> strided_layout((3, 2), (16, 4), 4).node
    Stream(count=3, stride=16, child=Dense(nbytes=8))
    >>> strided_layout((2, 3), (4, 16), 4, order="K").node
    Stream(count=3, stride=16, child=Dense(nbytes=8))
    """
    from .canonical import fold

    if order not in ("C", "F", "K"):
        raise ValueError(f"order: expected 'C', 'F' or 'K', got {order!r}")
    axes: Sequence[int] = range(len(shape))
    if order != "C":
        axes = memory_order(shape, strides) if order == "K" else axes[::-1]
    node: Node = Dense(itemsize)
    for axis in reversed(axes):
        node = Stream(shape[axis], strides[axis], node)
    return fold(Layout(node))


def array_layout(array: Any, order: Order = "C") -> Layout:
    """Canonical layout of an array on the host or on a device.

    Raises `TypeError` when the object has no array interface, and `ValueError` for an unknown order.
    """
    from .canonical import canonicalize

    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        host = as_numpy(array)
        return canonicalize(strided_layout(host.shape, host.strides, host.itemsize, order))
    shape, itemsize = tuple(interface["shape"]), np.dtype(interface["typestr"]).itemsize
    strides = interface.get("strides")
    strides = tuple(strides) if strides else _dense_strides(shape, itemsize)
    return canonicalize(strided_layout(shape, strides, itemsize, order))


def element_datatype(dtype: np.dtype[Any]) -> MPI.Datatype | None:
    """The MPI datatype that mpi4py sends an element of a dtype as; None where it refuses such an array."""
    found = MPI._typedict.get(dtype.char)
    # Strings have the datatype of one character, and NumPy has no buffer format for times.
    usable = found is not None and found.Get_size() == dtype.itemsize and dtype.kind not in "mM"
    return found if usable and dtype.isnative else None


def as_numpy(array: Any) -> NDArray[Any]:
    """View host memory as a NumPy array, without a copy.

    Raises `TypeError` when the object has no array interface, or its memory is not on the host.
    """
    if isinstance(array, np.ndarray):
        # A subclass may make anything of an index.
        return np.asarray(array)
    if hasattr(array, "__array_interface__"):
        return np.asarray(array)
    try:
        found = np.asarray(memoryview(array))
        # The format of elements off their boundaries tells long from long long by nothing but the name.
        return found if found.flags.aligned else found.view(found.dtype.str)
    except (TypeError, RuntimeError):
        # NumPy cannot read the format of every record that it writes.
        pass
    if hasattr(array, "__dlpack__") and array.__dlpack_device__()[0] == DLPACK_CPU:
        if getattr(array, "is_neg", bool)():
            # PyTorch's flag that all signs are the other way round, of which DLPack knows nothing.
            raise TypeError(f"{type(array).__name__}: has lazily negated memory; call resolve_neg() first")
        try:
            return np.asarray(_Capsule(array))
        except (RuntimeError, SystemError) as error:
            # Of a dtype that NumPy lacks, such as bfloat16, and of a capsule that it cannot read.
            raise TypeError(f"{type(array).__name__}: NumPy cannot read its DLPack capsule") from error
    kind = type(array).__name__
    raise TypeError(
        f"array: {kind} has no host memory with an array interface, the buffer protocol or DLPack"
    )


class _Capsule:
    """The array in a DLPack capsule, with the capsule: some libraries free its description with that."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        array = np.from_dlpack(self)
        self.__array_interface__ = array.__array_interface__
        self._array: NDArray[Any] | None = array

    def __dlpack__(self, **options: Any) -> Any:
        self._capsule = self._owner.__dlpack__(**options)
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CPU, 0

    def __del__(self) -> None:
        # Its end looks at the description, so it must come before that of the capsule.
        self._array = None


def address(array: NDArray[Any]) -> int:
    """Address of the first element of any array; an empty slice begins there and is contiguous."""
    return int(MPI.Get_address(array[:0] if array.ndim else array))


def _dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for length in reversed(shape):
        strides.append(itemsize)
        itemsize *= length
    return tuple(reversed(strides))
