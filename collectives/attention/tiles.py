"""Blocks of keys, tiles of several heads, and their scores, for forward and backward kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dropout import Dropout
from .placement import Positions
from .visibility import Stripe, Tile, Tokens

Array = NDArray[Any]
Poll = Callable[[], object]

# Scores that are computed at once: of one tile of one head, or of many small tiles.
SCORES = 1024 * 256


class Block(NamedTuple):
    """Keys and values of some tokens.

    Attributes
    ----------
    k : (B, Hk, S, D) array
    v : (B, Hk, S, Dv) array
    tokens : Tokens
    padding : (B, S) bool array, optional
        Which of the keys are there at all.
    """

    k: Array
    v: Array
    tokens: Tokens
    padding: NDArray[np.bool_] | None = None


class Heads(NamedTuple):
    """Some heads of one row of the batch that are computed together.

    Attributes
    ----------
    row : int
        Of the batch.
    keys : slice
        Heads of the keys.
    each : slice
        Which of the query heads of each of these.
    """

    row: int
    keys: slice
    each: slice

    def after(self, first: int) -> Heads:
        """The same heads where `first` key heads come before them."""
        return self._replace(keys=slice(first + self.keys.start, first + self.keys.stop))

    def query_heads(self, each: int, first: int) -> list[list[int]]:
        """Numbers of the query heads, `each` of a key head, counted from `first`."""
        some = range(self.each.start, self.each.stop)
        heads = range(self.keys.start, self.keys.stop)
        return [[first + head * each + place for place in some] for head in heads]


def heads_together(batch: int, key_heads: int, each: int, stripes: Sequence[Stripe]) -> Iterator[Heads]:
    """Cut the heads so that the tiles of some together have about `SCORES` scores."""
    largest = max((tile.scores for stripe in stripes for tile in stripe.tiles), default=0)
    together = max(1, SCORES // max(largest, 1))
    step = min(key_heads, max(1, together // each))
    some = min(each, together)
    for row in range(batch):
        for first in range(0, key_heads, step):
            for begin in range(0, each, some):
                keys = slice(first, min(first + step, key_heads))
                yield Heads(row, keys, slice(begin, min(begin + some, each)))


def by_key_head(array: Array, key_heads: int) -> Array:
    """See (B, Hq, ...) as (B, Hk, Hq / Hk, ...)."""
    batch, heads = array.shape[:2]
    return array.reshape(batch, key_heads, heads // key_heads, *array.shape[2:])


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the computation: float32, or float64 for itself."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def contiguous(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """The array, or a copy, without gaps; NumPy's own function takes no arrays of other libraries."""
    return array.astype(array.dtype if dtype is None else dtype, order="C", copy=False)


def hide(scores: Array, tile: Tile, padding: NDArray[np.bool_] | None, row: int) -> None:
    """Let no weight fall on what is hidden."""
    for rows, hidden in tile.hidden:
        cover(scores[..., rows, :], hidden)
    if padding is not None:
        cover(scores, ~padding[row, tile.keys])


def cover(scores: Array, hidden: NDArray[np.bool_]) -> None:
    """Let no weight fall where the host's array says so, wherever the scores are."""
    np.copyto(scores, -np.inf, where=np.asarray(hidden, like=scores))


def kept(
    dropout: Dropout, heads: list[list[int]], row: int, queries: Positions, keys: Positions, like: Array
) -> Array:
    """The factor of each weight, for each of the heads: 0, or a little more than 1; where `like` is."""
    keep = [[dropout.keep(row, head, queries, keys) for head in some] for some in heads]
    return np.asarray(np.asarray(keep) * np.float32(dropout.scale), like=like)


def passes(array: Array) -> Any:
    """The module with what lies between the matrix products: compiled for float32 on the host."""
    if isinstance(array, np.ndarray) and array.dtype == np.float32:
        from . import passes

        return passes
    from . import library_passes

    return library_passes


class Work:
    """Memory for the arrays of one tile, used again for the next one; `work_for` has one for each thread."""

    def __init__(self, like: Array) -> None:
        self._like = like
        self._flat: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of a name, in some shape; what was in it is lost."""
        needed = int(np.prod(shape))
        found = self._flat.get(name)
        if found is None or found.size < needed:
            found = self._flat[name] = np.empty_like(self._like, shape=needed)
        return found[:needed].reshape(shape)

    def matmul(self, name: str, left: Array, right: Array) -> Array:
        """The product of two stacks of matrices, in the array of a name."""
        stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        out = self.take(name, (*stack, left.shape[-2], right.shape[-1]))
        return np.matmul(left, right, out=out)


_threads = threading.local()


def work_for(like: Any) -> Work:
    """Memory for tiles of arrays like this one, which the thread keeps: new memory is slow at first touch."""
    if not isinstance(like, np.ndarray):
        # The library of a device keeps blocks of its own.
        return Work(like)
    kept: dict[str, Work] = _threads.__dict__
    if like.dtype.name not in kept:
        kept[like.dtype.name] = Work(np.empty(0, like.dtype))
    return kept[like.dtype.name]
