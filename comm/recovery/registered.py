"""The arrays that a program registers, and where their elements lie in a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array] | list[Array]

# Each array begins at a boundary that suits any element.
_ALIGNMENT = 64


class ArrayForm(NamedTuple):
    """Data type and shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


class Form(NamedTuple):
    """What a copy of some arrays is made of; other ranks read it by this.

    Attributes
    ----------
    names : tuple of str, optional
        Keys of a dictionary; None for a list.
    arrays : tuple of ArrayForm
    """

    names: tuple[str, ...] | None
    arrays: tuple[ArrayForm, ...]

    @property
    def offsets(self) -> list[int]:
        """Where each array begins, and where the last one ends, in bytes."""
        sizes = (-(-each.nbytes // _ALIGNMENT) * _ALIGNMENT for each in self.arrays)
        return list(accumulate(sizes, initial=0))

    def views(self, memory: Array) -> Arrays:
        """The arrays in the bytes of a copy, in the order of rows (C)."""
        views = [
            memory[begin : begin + each.nbytes].view(each.dtype).reshape(each.shape)
            if each.nbytes
            else np.empty(each.shape, each.dtype)
            for begin, each in zip(self.offsets, self.arrays, strict=False)
        ]
        return views if self.names is None else dict(zip(self.names, views, strict=True))

    def copy(self, memory: Array) -> Arrays:
        """New arrays with what is in the bytes of a copy."""
        views = self.views(memory)
        if isinstance(views, dict):
            return {name: view.copy() for name, view in views.items()}
        return [view.copy() for view in views]


def as_list(arrays: Arrays) -> list[Array]:
    """The arrays, without their names."""
    return list(arrays.values()) if isinstance(arrays, Mapping) else list(arrays)


def form_of(arrays: Mapping[str, Array] | Sequence[Array]) -> Form:
    """The form of arrays that can be copied.

    Raises
    ------
    TypeError
        One is no array of NumPy, or holds Python objects.

    Examples
    --------
    >>> form_of({"field": np.zeros((3, 2), np.float32)}).arrays
    (ArrayForm(dtype=dtype('float32'), shape=(3, 2)),)
    """
    named = arrays.items() if isinstance(arrays, Mapping) else enumerate(arrays)
    for name, array in named:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"array {name!r}: expected a NumPy array, got {type(array).__name__}")
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r}: expected elements without Python objects, got {array.dtype}")
    names = tuple(arrays) if isinstance(arrays, Mapping) else None
    if names is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(f"names of arrays: expected strings, got {names}")
    forms = (ArrayForm(array.dtype, array.shape) for array in as_list(arrays))  # type: ignore[arg-type]
    return Form(names, tuple(forms))


def write(arrays: Arrays, form: Form, memory: Array) -> None:
    """Copy arrays with any strides into the bytes of a copy."""
    for source, target in zip(as_list(arrays), as_list(form.views(memory)), strict=True):
        np.copyto(target, source)
