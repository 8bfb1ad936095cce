"""How a rank's tokens are cut into chunks for causal linear attention, and how weights decay within one.

Arrays are (B, Hk, G, S, D): G is the query heads of a key head, or 1 for keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..tiles import SCORES, Array, Work

# Tokens. Work on hidden scores grows with it; with less of them, matrices are too small for BLAS to be fast.
CHUNK = 96


class Chunks:
    """How tokens are cut, and what is left of one after some others.

    Parameters
    ----------
    count : int
        Tokens of this rank.
    rates : (Hk, G) float64 array, optional
        By what a logarithm decays per token.
    dtype : numpy dtype
        What is computed in.
    """

    def __init__(self, count: int, rates: Array | None, dtype: np.dtype[Any]) -> None:
        self.parts = [slice(begin, min(begin + CHUNK, count)) for begin in range(0, count, CHUNK)]
        places = np.arange(min(CHUNK, count) + 1)
        distances = places[:-1, None] - places[:-1]
        mask: Array = (distances >= 0).astype(np.float64)
        self._powers: Array | None = None
        if rates is not None:
            powers = np.exp(-rates[..., None] * places)
            self._powers = powers[..., None].astype(dtype)
            mask = mask * powers[..., np.abs(distances)]
        self._mask = mask.astype(dtype)

    @property
    def groups(self) -> int:
        """States of each key head: one for each of its query heads, if these decay, each in its way."""
        return 1 if self._powers is None else int(self._powers.shape[1])

    def of_heads(self, heads: slice) -> Chunks:
        """The same for some of the key heads."""
        if self._powers is None:
            return self
        some: Chunks = object.__new__(Chunks)
        some.parts, some._powers, some._mask = self.parts, self._powers[heads], self._mask[heads]
        return some

    def mask(self, part: slice) -> Array:
        """Decay of each token, along the columns, for each query of a chunk."""
        count = part.stop - part.start
        return self._mask[..., :count, :count]

    def at_end(self, part: slice, reverse: bool) -> Array | None:
        """Decay of each token of a chunk at its end; with `reverse`, at its begin."""
        if self._powers is None:
            return None
        powers = self._powers[..., : part.stop - part.start, :]
        return powers if reverse else powers[..., ::-1, :]

    def since_begin(self, part: slice, reverse: bool) -> Array | None:
        """Decay, at each token of a chunk, of the state that comes in at its begin, or end with `reverse`."""
        if self._powers is None:
            return None
        powers = self._powers[..., 1 : part.stop - part.start + 1, :]
        return powers[..., ::-1, :] if reverse else powers

    def through(self, part: slice) -> Array | None:
        """Decay of a state from one end of a chunk to the other."""
        count = part.stop - part.start
        return None if self._powers is None else self._powers[..., count : count + 1, :]


def heads_together(batch: int, key_heads: int, each: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the batch and key heads whose scores of one chunk are computed at once."""
    step = max(1, SCORES // (each * min(CHUNK, max(count, 1)) ** 2))
    for row in range(batch):
        for head in range(0, key_heads, step):
            yield slice(row, row + 1), slice(head, min(head + step, key_heads))


def multiply(work: Work, left: Array, right: Array, out: Array) -> None:
    """Write a product of matrices; the sum over the query heads of a key head where `out` has one for all."""
    groups = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])[2]
    if groups == out.shape[2]:
        np.matmul(left, right, out=out)
    else:
        np.sum(work.matmul("product", left, right), axis=2, keepdims=True, out=out)
