"""One call of attention, as all its members know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .dropout import Dropout
from .forward import Forward
from .group import Group
from .parcel import Parcel
from .placement import positions
from .tiles import Array, Block, computing_dtype
from .visibility import Rule, Stripe, Tokens, tokens_of

T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """Properties that the arrays of all members share.

    Attributes
    ----------
    batch, heads, key_heads, size, value_size : int
    dtype : numpy dtype
    """

    batch: int
    heads: int
    key_heads: int
    size: int
    value_size: int
    dtype: np.dtype[Any]

    @property
    def each(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.key_heads

    @property
    def computing(self) -> np.dtype[Any]:
        """The dtype of the computation."""
        return computing_dtype(self.dtype)

    def keys_and_values(self, count: int, heads: int, dtype: np.dtype[Any]) -> Parcel:
        """Keys and values, or their gradients, of some tokens and key heads."""
        return Parcel(
            ((self.batch, heads, count, self.size), dtype),
            ((self.batch, heads, count, self.value_size), dtype),
        )

    def queries(self, count: int, heads: int, dtype: np.dtype[Any]) -> Parcel:
        """Queries, or their gradients, of some tokens and query heads."""
        return Parcel(((self.batch, heads, count, self.size), dtype))

    def results(self, count: int, heads: int) -> Parcel:
        """Outputs and their log-sum-exp."""
        return Parcel(
            ((self.batch, heads, count, self.value_size), self.computing),
            ((self.batch, heads, count), self.computing),
        )

    def queries_and_slopes(self, count: int, heads: int) -> Parcel:
        """Log-sum-exp, delta, queries and the gradients of their outputs."""
        rows = (self.batch, heads, count)
        return Parcel(
            (rows, self.computing),
            (rows, self.computing),
            ((*rows, self.size), self.dtype),
            ((*rows, self.value_size), self.dtype),
        )


class Geometry:
    """Where the tokens of all members lie, and who sees whom; what was found out is kept.

    Parameters
    ----------
    rule : Rule
    tokens : sequence of Tokens
        Of each member.
    """

    def __init__(self, rule: Rule, tokens: Sequence[Tokens]) -> None:
        self.rule, self.tokens = rule, tuple(tokens)
        self._stripes: dict[tuple[int, int], list[Stripe]] = {}
        self._sees: dict[tuple[int, int], bool] = {}
        self._known: dict[Any, Any] = {}

    def stripes(self, queries: int, keys: int) -> list[Stripe]:
        """The keys of one member that the queries of another one see."""
        pair = (queries, keys)
        if pair not in self._stripes:
            self._stripes[pair] = self.rule.stripes(self.tokens[queries], self.tokens[keys])
        return self._stripes[pair]

    def sees(self, queries: int, keys: int) -> bool:
        """Whether any query of one member may see any key of another one."""
        pair = (queries, keys)
        if pair not in self._sees:
            self._sees[pair] = self.rule.visible(self.tokens[queries], self.tokens[keys])
        return self._sees[pair]

    def recall(self, key: Any, find: Callable[[], T]) -> T:
        """The value that was found before under a key, or is found now."""
        if key not in self._known:
            self._known[key] = find()
        found: T = self._known[key]
        return found


@lru_cache(maxsize=64)
def geometry(
    rule: Rule, counts: tuple[int, ...], placement: str, documents: tuple[int, ...] | None
) -> Geometry:
    """The geometry of members with given numbers of tokens."""
    return Geometry(rule, [tokens_of(each, documents) for each in positions(counts, placement)])


@dataclass(frozen=True)
class Problem:
    """A computation, and its division among the members.

    Attributes
    ----------
    group : Group
    shape : Shape
    geometry : Geometry
    scale : float
    padding : list of (B, S) bool arrays, optional
        Which keys of each member are there.
    dropout : Dropout, optional
    first_head : int
        Number of the first query head among those of all ranks, where members have some of them.
    """

    group: Group
    shape: Shape
    geometry: Geometry
    scale: float
    padding: list[NDArray[np.bool_]] | None = None
    dropout: Dropout | None = None
    first_head: int = 0

    def count(self, member: int) -> int:
        """Tokens of a member."""
        return self.geometry.tokens[member].size

    def sees(self, queries: int, keys: int) -> bool:
        """Whether any query of one member may see any key of another one."""
        return self.geometry.sees(queries, keys)

    def begin(self, q: Array, member: int) -> Forward:
        """Queries of a member, which have attended to nothing yet."""
        shape = self.shape
        how = (shape.key_heads, shape.value_size, self.scale, self.dropout, self.first_head)
        return Forward(q, self.geometry.tokens[member], *how)

    def block(self, k: Array, v: Array, member: int) -> Block:
        """Keys and values of a member."""
        return Block(
            k, v, self.geometry.tokens[member], None if self.padding is None else self.padding[member]
        )
