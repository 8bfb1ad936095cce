"""Arrays that parts are added to, of which a first part that is all of it is taken as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tiles import Array


class Sum:
    """A sum of arrays, each over all of it or over a part.

    Parameters
    ----------
    like : array
        Where `like` lies.
    shape : tuple of int
    dtype : numpy dtype
        What is added in.

    Examples
    --------
    >>> found = Sum(np.empty(0), (3,), np.dtype(np.float64))
    >>> found.add(np.ones(3, np.float32))
    >>> found.result
    array([1., 1., 1.], dtype=float32)
    >>> found.add(np.ones(2), np.s_[1:])
    >>> found.result
    array([1., 2., 2.])
    """

    def __init__(self, like: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._like, self._shape, self._dtype = like, shape, dtype
        self._first: Array | None = None
        self._array: Array | None = None

    @classmethod
    def into(cls, array: Array) -> Sum:
        """A sum in memory that is there already, with what is in it."""
        found = cls(array, array.shape, array.dtype)
        found._array = array
        return found

    @property
    def array(self) -> Array:
        """Memory with the sum so far, which may be added to."""
        if self._array is None:
            if self._first is None:
                self._array = np.zeros_like(self._like, self._dtype, order="C", shape=self._shape)
            else:
                self._array, self._first = self._first.astype(self._dtype), None
        return self._array

    @property
    def result(self) -> Array:
        """The sum so far; in the dtype of its only part, if that was all of it."""
        return self.array if self._first is None else self._first

    def add(self, part: Array, where: Any = ...) -> None:
        """Add to some place; a part that is all of it is kept, and must not change."""
        if self._first is None and self._array is None and part.shape == self._shape:
            self._first = part
        else:
            target = self.array[where]
            target += part.astype(self._dtype, copy=False)

    def heads(self, some: slice) -> Sum:
        """The sum of some heads, on the second axis."""
        whole = range(*some.indices(self._shape[1])) == range(self._shape[1])
        return self if whole else Sum.into(self.array[:, some])
