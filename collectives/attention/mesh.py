"""All tokens of some heads: heads are exchanged for tokens within some ranks, a ring goes over the others.

DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509) exchanges over all ranks, and needs as many heads;
the mesh of USP (Fang and Zhao 2024, arXiv 2405.07719) exchanges over neighbours, and goes around over the
rest. Any numbers of heads are shared out; where there are fewer key heads than ranks, several have the same
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import exchange
from .backward import Gradients, Queries
from .group import Group, wait
from .parcel import Parcel
from .problem import Geometry, Problem
from .routes import ring
from .tiles import Array
from .visibility import Tokens

Places = NDArray[np.int64]
_THERE, _BACK = 4, 5


class Share(NamedTuple):
    """Heads of a rank: those of the keys, and of the queries that go with them."""

    keys: slice
    queries: slice

    @property
    def key_heads(self) -> int:
        """How many key heads it has."""
        return int(self.keys.stop - self.keys.start) if self.query_heads else 0

    @property
    def query_heads(self) -> int:
        """How many query heads it has."""
        return int(self.queries.stop - self.queries.start)


def shares(ranks: int, key_heads: int, each: int) -> list[Share]:
    """Heads of each rank: whole groups that share key heads, or, where there are too few, parts of a group.

    Examples
    --------
    >>> [(share.keys, share.queries) for share in shares(2, 3, 1)]
    [(slice(0, 1, None), slice(0, 1, None)), (slice(1, 3, None), slice(1, 3, None))]
    >>> [share.queries for share in shares(4, 2, 4)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None), slice(6, 8, None)]
    """
    if key_heads >= ranks:
        bounds = [key_heads * rank // ranks for rank in range(ranks + 1)]
        return [Share(slice(a, b), slice(a * each, b * each)) for a, b in pairwise(bounds)]
    found = []
    for head in range(key_heads):
        some = ranks * (head + 1) // key_heads - ranks * head // key_heads
        for place in range(some):
            begin, end = (head * each + each * (place + more) // some for more in (0, 1))
            found.append(Share(slice(head, head + 1), slice(begin, end)))
    return found


class _Mesh:
    """Ranks in rows, within which heads are exchanged for tokens; columns are rings."""

    def __init__(self, problem: Problem, width: int) -> None:
        self.problem = problem
        me, size = problem.group.index, problem.group.size
        rows = [range(first, first + width) for first in range(0, size, width)]
        self.row = rows[me // width]
        self.group: Group = problem.group.part(self.row)
        self.shares = shares(width, problem.shape.key_heads, problem.shape.each)
        self.mine = self.shares[self.group.index]
        geometry, places = problem.geometry.recall(
            ("rows", width), lambda: _geometry_of_rows(problem.geometry, rows)
        )
        self.places = places[me // width]
        padding = problem.padding
        if padding is not None:
            padding = [
                _joined([padding[member] for member in row], of_row, 1)
                for row, of_row in zip(rows, places, strict=True)
            ]
        self.inner = Problem(
            problem.group.part([row[me % width] for row in rows]),
            replace(problem.shape, heads=self.mine.query_heads, key_heads=self.mine.key_heads),
            geometry,
            problem.scale,
            padding,
            problem.dropout,
            problem.first_head + self.mine.queries.start,
        )

    def count(self, member: int) -> int:
        """Tokens of a member of the row."""
        return self.problem.count(self.row[member])

    def swap(self, own: Sequence[tuple[str, Array]], dtypes: Sequence[np.dtype[np.generic]]) -> list[Array]:
        """Give up other heads' tokens for own heads of all tokens of the row; names say whose heads."""
        group, me = self.group, self.group.index
        there = [self._parcel(own, dtypes, self.mine, self.count(member)) for member in range(group.size)]
        memory = [parcel.room(own[0][1]) for parcel in there]
        parcels = [self._parcel(own, dtypes, share, self.count(me)) for share in self.shares]
        parts = ([array[:, getattr(share, name)] for name, array in own] for share in self.shares)
        self._exchange(parcels, parts, memory, _THERE)
        columns = zip(*(parcel.views(each) for parcel, each in zip(there, memory, strict=True)), strict=True)
        return [_joined(column, self.places, 2) for column in columns]

    def _exchange(
        self,
        parcels: Sequence[Parcel],
        parts: Iterable[Sequence[Array]],
        memory: Sequence[Array],
        lane: int,
    ) -> None:
        """Send each member of the row its parts, and receive from each into its memory."""
        group, me = self.group, self.group.index
        requests, sent = [], []
        for member, (parcel, arrays) in enumerate(zip(parcels, parts, strict=True)):
            if member == me:
                for view, array in zip(parcel.views(memory[me]), arrays, strict=True):
                    view[...] = array
                continue
            sent.append(parcel.packed(*arrays))
            requests.append(group.receive(memory[member], member, lane))
            requests.append(group.send(sent[-1], member, lane))
        wait(requests)

    def _parcel(
        self,
        own: Sequence[tuple[str, Array]],
        dtypes: Sequence[np.dtype[np.generic]],
        share: Share,
        count: int,
    ) -> Parcel:
        heads = {"keys": share.key_heads, "queries": share.query_heads}
        return Parcel(
            *(
                ((array.shape[0], heads[name], count, *array.shape[3:]), dtype)
                for (name, array), dtype in zip(own, dtypes, strict=True)
            )
        )

    def swap_back(
        self, own: Sequence[tuple[str, Array]], dtypes: Sequence[np.dtype[np.generic]]
    ) -> list[Array]:
        """Give each member of the row the own heads of its tokens; add where several have the same heads."""
        group, me, shape = self.group, self.group.index, self.problem.shape
        there = [self._parcel(own, dtypes, share, self.count(me)) for share in self.shares]
        memory = [parcel.room(own[0][1]) for parcel in there]
        members = range(group.size)
        parcels = [self._parcel(own, dtypes, self.mine, self.count(member)) for member in members]
        parts = ([array[:, :, self.places[member]] for _, array in own] for member in members)
        self._exchange(parcels, parts, memory, _BACK)
        heads = {"keys": shape.key_heads, "queries": shape.heads}
        whole = [
            np.zeros_like(array, dtype, shape=(shape.batch, heads[name], self.count(me), *array.shape[3:]))
            for (name, array), dtype in zip(own, dtypes, strict=True)
        ]
        for share, parcel, each in zip(self.shares, there, memory, strict=True):
            for (name, _), target, part in zip(own, whole, parcel.views(each), strict=True):
                if share.query_heads:
                    target[:, getattr(share, name)] += part
        return whole


def _geometry_of_rows(geometry: Geometry, rows: Sequence[range]) -> tuple[Geometry, list[list[Places]]]:
    """The geometry of rows whose members have all tokens, and where in their row those of each member are."""
    joined = [_join([geometry.tokens[member] for member in row]) for row in rows]
    return Geometry(geometry.rule, [tokens for tokens, _ in joined]), [places for _, places in joined]


def _join(tokens: Sequence[Tokens]) -> tuple[Tokens, list[Places]]:
    """Tokens of several ranks in the order of the sequence, and where in it those of each are."""
    positions = np.concatenate([each.positions for each in tokens])
    order = np.argsort(positions, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    documents = None
    if tokens[0].documents is not None:
        documents = np.concatenate([each.documents for each in tokens if each.documents is not None])[order]
    bounds = np.cumsum([each.size for each in tokens])[:-1]
    return Tokens(positions[order], documents), np.split(place, bounds)


def _joined(parts: Sequence[Array], places: Sequence[Places], axis: int) -> Array:
    """Arrays of several ranks in the order of the sequence."""
    shape = list(parts[0].shape)
    shape[axis] = sum(map(len, places))
    whole = np.empty_like(parts[0], shape=tuple(shape))
    for part, place in zip(parts, places, strict=True):
        whole[(slice(None),) * axis + (place,)] = part
    return whole


def largest_ring(problem: Problem, width: int) -> Problem:
    """The problem that the members with most heads compute in rings, of a mesh with rows of some width."""
    inner, shape = _Mesh(problem, width).inner, problem.shape
    most = max(shares(width, shape.key_heads, shape.each), key=lambda share: share.query_heads)
    return replace(inner, shape=replace(shape, heads=most.query_heads, key_heads=most.key_heads))


def width_of_mesh(problem: Problem) -> int:
    """How many ranks exchange heads in a mesh: most that divide all and have a key head each, but not all."""
    size, most = problem.group.size, min(problem.group.size - 1, problem.shape.key_heads)
    return next((width for width in range(most, 1, -1) if size % width == 0), 1)


def forward(problem: Problem, width: int, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """Output (B, Hq, S, Dv) and log-sum-exp (B, Hq, S) of this member's queries, with rows of some width."""
    mesh, dtype = _Mesh(problem, width), problem.shape.dtype
    q, k, v = mesh.swap([("queries", q), ("keys", k), ("keys", v)], [dtype] * 3)
    rows = q.shape[:3]
    out, lse = (np.empty_like(q, shape=(*rows, *last)) for last in ((problem.shape.value_size,), ()))
    if mesh.mine.query_heads:
        out, lse = exchange.forward(mesh.inner, ring(mesh.inner), q, k, v)
    lse, out = mesh.swap_back([("queries", lse), ("queries", out)], [problem.shape.computing, dtype])
    return out, lse


def backward(problem: Problem, width: int, queries: Queries, k: Array, v: Array) -> Gradients:
    """Gradients of this member's queries, keys and values, with rows of some width."""
    mesh, dtype, computing = _Mesh(problem, width), problem.shape.dtype, problem.shape.computing
    own = [("queries", queries.lse), ("queries", queries.delta), ("queries", queries.q)]
    own += [("queries", queries.dout), ("keys", k), ("keys", v)]
    lse, delta, q, dout, k, v = mesh.swap(own, [computing] * 2 + [dtype] * 4)
    gradients = Gradients(*(each.astype(computing, copy=False) for each in (q, k, v)))
    if mesh.mine.query_heads:
        inner = mesh.inner
        tokens = inner.geometry.tokens[inner.group.index]
        here = Queries(q, dout, lse, tokens, inner.first_head, delta=delta)
        gradients = exchange.backward(inner, ring(inner), here, k, v)
    kinds = ("queries", "keys", "keys")
    return Gradients(*mesh.swap_back(list(zip(kinds, gradients, strict=True)), [computing] * 3))
