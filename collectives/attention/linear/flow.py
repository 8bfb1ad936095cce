"""States that flow from chunk to chunk in causal linear attention (Yang et al. 2023, arXiv 2312.06635).

Within a chunk, scores are computed as in softmax attention. The chunks before it contribute by a state,
the sum of the products of their keys and values; so work grows with the tokens, and not with their square.
The states of all chunks are made first, since other ranks wait for their sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..tiles import Array, Work
from .chunks import Chunks, multiply


class Flow:
    """The states of the chunks, and what other tokens read from them.

    Parameters
    ----------
    keys, values : (B, Hk, G, S, D) arrays
    chunks : Chunks
    work : Work
    reverse : bool
        Whether a token is read by those before it.
    """

    def __init__(self, keys: Array, values: Array, chunks: Chunks, work: Work, reverse: bool = False) -> None:
        self._chunks, self._work, self._reverse = chunks, work, reverse
        shape = *keys.shape[:2], chunks.groups, keys.shape[-1], values.shape[-1]
        self._states = list(np.empty_like(values, shape=(len(chunks.parts), *shape)))
        for part, state in zip(chunks.parts, self._states, strict=True):
            some, weight = keys[..., part, :], chunks.at_end(part, reverse)
            if weight is not None:
                some = self._scaled(some, weight)
            multiply(work, some.swapaxes(-1, -2), values[..., part, :], state)

    def total(self, out: Array) -> None:
        """Write the state behind the last chunk, if there was none before the first one."""
        out[...] = 0
        for index in self._order():
            through = self._chunks.through(self._chunks.parts[index])
            if through is not None:
                out *= through
            out += self._states[index]

    def enter(self, state: Array) -> None:
        """Let a state come in: each chunk gets the one that is there before it."""
        for index in self._order():
            behind, through = self._states[index], self._chunks.through(self._chunks.parts[index])
            behind += state if through is None else self._scaled(state, through)
            self._states[index], state = state, behind

    def add(self, queries: Array, out: Array, transposed: bool = False) -> None:
        """Add what queries read from the states that came in; from their transposes, for gradients."""
        for part, state in zip(self._chunks.parts, self._states, strict=True):
            matrix = state.swapaxes(-1, -2) if transposed else state
            product = self._work.matmul("product", queries[..., part, :], matrix)
            weight = self._chunks.since_begin(part, self._reverse)
            if weight is not None:
                product *= weight
            some = out[..., part, :]
            some += product if product.shape[2] == some.shape[2] else product.sum(axis=2, keepdims=True)

    def _order(self) -> Iterator[int]:
        indices = range(len(self._states))
        return reversed(indices) if self._reverse else iter(indices)

    def _scaled(self, array: Array, weight: Array) -> Array:
        out = self._work.take("scaled", np.broadcast_shapes(array.shape, weight.shape))
        return np.multiply(array, weight, out=out)
