"""Arrays that travel in one message."""

from __future__ import annotations

from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Parcel:
    """The shapes and dtypes of arrays that lie one after another, those of the widest elements first.

    Parameters
    ----------
    contents : (shape, dtype) pairs
    """

    def __init__(self, *contents: tuple[tuple[int, ...], np.dtype[Any]]) -> None:
        self._contents = contents
        sizes = [prod(shape) * dtype.itemsize for shape, dtype in contents]
        self._bounds = list(accumulate(sizes, initial=0))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._bounds[-1]

    def room(self, like: Array) -> Array:
        """Memory for the arrays, where `like` lies."""
        return np.empty_like(like, np.uint8, shape=(self.nbytes,))

    def packed(self, *arrays: Array) -> Array:
        """A copy of the arrays in new memory."""
        memory = self.room(arrays[0])
        for place, array in zip(self.views(memory), arrays, strict=True):
            place[...] = array
        return memory

    def views(self, memory: Array) -> list[Array]:
        """The arrays in some memory."""
        return [
            memory[begin : begin + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for begin, (shape, dtype) in zip(self._bounds, self._contents, strict=False)
        ]
