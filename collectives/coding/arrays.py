"""Parameters and gradients: arrays of NumPy, CuPy or PyTorch, and the same as one run of host memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..array_views import as_array, is_array, results_like, writable_array
from ..memory import memory_of

Array = Any
Flat = NDArray[Any]


class Signature(NamedTuple):
    """Shapes and dtypes of the arrays of a gradient, and whether it is one that is not in a list."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    single: bool

    def __str__(self) -> str:
        texts = [f"{dtype}{list(shape)}" for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]
        return texts[0] if self.single else f"[{', '.join(texts)}]"

    @property
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(prod(shape) for shape in self.shapes)

    def sent_as(self, wire: np.dtype[Any] | None) -> np.dtype[Any]:
        """The dtype of vectors: `wire`, or that of the gradient if there is none."""
        return np.dtype(self.dtypes[0]) if wire is None else wire

    def length(self, pieces: int) -> int:
        """Elements of each of some equal pieces; the last may have fewer."""
        return -(-self.size // pieces)


def listed(arrays: Any) -> list[Any]:
    """Arrays of a list or generator, or the only one, as those of NumPy or CuPy over the same memory.

    Raises `TypeError` for what is none, and `ValueError` for a tensor that none can be made of.
    """
    if is_array(arrays):
        return [as_array(arrays, detached=True)]
    if not isinstance(arrays, Iterable):
        raise TypeError(f"{type(arrays).__name__}: expected an array, or a list of arrays")
    return [_item(place, each) for place, each in enumerate(arrays)]


def _item(place: int, value: Any) -> Array:
    try:
        return as_array(value, detached=True)
    except (TypeError, ValueError) as error:
        raise type(error)(f"array {place}: {error}") from error


def signature_of(arrays: Sequence[Array], single: bool) -> Signature:
    """Shapes and dtypes of arrays as `listed` returns them, and whether it is one that is not in a list."""
    return Signature(
        tuple(tuple(each.shape) for each in arrays), tuple(str(each.dtype) for each in arrays), single
    )


class Packing:
    """How arrays lie in a run of bytes, one after the other.

    Parameters
    ----------
    arrays : array or iterable of arrays
        NumPy's, CuPy's or PyTorch's, with any strides.

    Raises
    ------
    TypeError
        No array.
    """

    def __init__(self, arrays: Any) -> None:
        single = is_array(arrays)
        if not single and isinstance(arrays, Iterable) and not isinstance(arrays, list | tuple):
            # An iterator, such as a model's parameters, can be read but once.
            arrays = list(arrays)
        self.given, self.arrays = arrays, listed(arrays)
        self.signature = signature_of(self.arrays, single)
        sizes = [int(each.size) * each.dtype.itemsize for each in self.arrays]
        self._ends = np.cumsum([0, *sizes]).tolist()
        self.nbytes: int = self._ends[-1]

    def check_writable(self) -> None:
        """Raise `ValueError` for an array that cannot be written."""
        for place, array in enumerate(self.arrays):
            writable_array(f"parameters: array {place}", array)

    @property
    def memory(self) -> Flat | None:
        """The bytes of the arrays, if they are a single one of the host without gaps."""
        array = self.arrays[0] if len(self.arrays) == 1 else None
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or not array.flags.writeable:
            return None
        return array.reshape(-1).view(np.uint8)

    def _parts(self, memory: Flat) -> Iterable[tuple[Array, Flat]]:
        for array, (start, stop) in zip(self.arrays, pairwise(self._ends), strict=True):
            yield array, memory[start:stop].view(array.dtype).reshape(array.shape)

    def pack(self, memory: Flat) -> None:
        """Copy the arrays to bytes."""
        for array, part in self._parts(memory):
            memory_of(array).publish(array, part)

    def unpack(self, memory: Flat) -> None:
        """Copy bytes to the arrays, in place."""
        for array, part in self._parts(memory):
            array[...] = memory_of(array).adopt(part)


def gradient_like(signature: Signature, vector: Flat, parameters: Any) -> Any:
    """The arrays of a gradient over the memory of a vector, of the same kind as the parameters."""
    like = list(parameters) if isinstance(parameters, (list, tuple)) else [parameters]
    arrays, start = [], 0
    for place, (shape, dtype) in enumerate(zip(signature.shapes, signature.dtypes, strict=True)):
        stop = start + prod(shape)
        part = vector[start:stop].astype(np.dtype(dtype), copy=False).reshape(shape)
        example = like[min(place, len(like) - 1)]
        array = memory_of(as_array(example, detached=True)).adopt(part)
        arrays.append(results_like(example, array)[0])
        start = stop
    return arrays[0] if signature.single else arrays
