"""Arrays of any library as layouts: the elements in C order, seen from the first of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import Dense, Layout, Node, Stream
from .plain import MPI

DLPACK_CPU = 1


def strided_layout(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Layout:
    """Folded layout of a strided array.

    Examples
    --------
    >>> strided_layout((3, 2), (16, 4), 4).node
    Stream(count=3, stride=16, child=Dense(nbytes=8))
    """
    from .canonical import fold

    node: Node = Dense(itemsize)
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        node = Stream(count, stride, node)
    return fold(Layout(node))


def array_layout(array: Any) -> Layout:
    """Canonical layout of an array on the host or on a device.

    Raises `TypeError` when the object has no array interface.
    """
    from .canonical import canonicalize

    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        host = as_numpy(array)
        return canonicalize(strided_layout(host.shape, host.strides, host.itemsize))
    shape, itemsize = tuple(interface["shape"]), np.dtype(interface["typestr"]).itemsize
    strides = interface.get("strides")
    strides = tuple(strides) if strides else _dense_strides(shape, itemsize)
    return canonicalize(strided_layout(shape, strides, itemsize))


def as_numpy(array: Any) -> NDArray[Any]:
    """View host memory as a NumPy array, without a copy.

    Raises `TypeError` when the object has no array interface, or its memory is not on the host.
    """
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__array_interface__"):
        return np.asarray(array)
    try:
        return np.asarray(memoryview(array))
    except TypeError:
        pass
    if hasattr(array, "__dlpack__") and array.__dlpack_device__()[0] == DLPACK_CPU:
        try:
            return np.from_dlpack(array)
        except (RuntimeError, SystemError) as error:
            # Of a dtype that NumPy lacks, such as bfloat16, and of a capsule that it cannot read.
            raise TypeError(f"{type(array).__name__}: NumPy cannot read its DLPack capsule") from error
    kind = type(array).__name__
    raise TypeError(
        f"array: {kind} has no host memory with an array interface, the buffer protocol or DLPack"
    )


def address(array: NDArray[Any]) -> int:
    """Address of the first element of any array; an empty slice begins there and is contiguous."""
    return int(MPI.Get_address(array[:0] if array.ndim else array))


def _dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for length in reversed(shape):
        strides.append(itemsize)
        itemsize *= length
    return tuple(reversed(strides))
