"""Exchanges in groups, one factor of the number of ranks after another.

Two families hold most of the algorithms that MPI libraries have. **Recursive multiplying** exchanges
everything in groups of k ranks: with k = 2 it is recursive doubling, with k = all ranks the direct
exchange. **Reduce-scatter and allgather by factors** exchanges ever smaller parts, and puts them
together again: with factors of 2 it is halving and doubling (Thakur, Rabenseifner and Gropp, Int. J. High
Perform. Comput. Appl. 19, 2005), with one factor the direct exchange of parts.

Groups are of neighbours first, then of groups of neighbours, so that all operands stay in the order of
the ranks. If the factors do not multiply up to all ranks, neighbours send to one of them before, and get the
result from it after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod

import numpy as np

from ..schedule import Fold, Ranks, Schedule, Step, Wave, wave


def recursive_multiplying(ranks: int, factors: Sequence[int]) -> Schedule:
    """Allreduce that exchanges everything in groups of as many ranks as each factor says."""

    def core(members: int) -> Schedule:
        everyone = np.arange(members)

        def generate() -> Iterator[Step]:
            stride = 1
            for factor in factors:
                digit = everyone // stride % factor
                waves = []
                for shift in range(1, factor):
                    other = (digit - shift) % factor
                    fold = np.where(digit < other, Fold.BEFORE, Fold.AFTER)
                    waves.append(wave(everyone, everyone + (other - digit) * stride, 0, fold=fold))
                yield Step(tuple(waves))
                stride *= factor

        return Schedule(members, 1, generate)

    return _with_remainder(ranks, factors, core)


def reduce_scatter_allgather(ranks: int, factors: Sequence[int]) -> Schedule:
    """Allreduce that reduces parts in groups and gathers them again."""

    def core(members: int) -> Schedule:
        parts = list(_parts(members, factors))
        return _reduce_parts(members, parts).then(_gather_parts(members, parts))

    return _with_remainder(ranks, factors, core)


def reduce_scatter(ranks: int, factors: Sequence[int]) -> Schedule:
    """Reduce-scatter in groups, the farthest ranks first; each ends with the chunk of its number.

    The factors must multiply up to all ranks. Operands are in the order of the ranks with one factor only.
    """
    return _reduce_parts(ranks, list(_parts(ranks, factors, farthest_first=True)))


def allgather(ranks: int, factors: Sequence[int]) -> Schedule:
    """Allgather in groups; the nearest ranks exchange first. The factors must multiply up to all ranks."""
    return _gather_parts(ranks, list(_parts(ranks, factors, farthest_first=True)))


class _Part:
    """One factor's exchange: in groups of `factor` ranks `stride` apart, over parts of `length` chunks.

    Rank r holds the chunks from `first[r]` on, `factor` parts of them, and answers for its `digit[r]`th.
    """

    def __init__(self, digit: Ranks, first: Ranks, factor: int, stride: int, length: int) -> None:
        self.digit, self.first = digit, first
        self.factor, self.stride, self.length = factor, stride, length


def _parts(members: int, factors: Sequence[int], farthest_first: bool = False) -> Iterator[_Part]:
    everyone = np.arange(members)
    first = np.zeros(members, np.int64)
    length, stride = members, 1
    for factor in factors:
        length //= factor
        step = length if farthest_first else stride
        digit = everyone // step % factor
        yield _Part(digit, first, factor, step, length)
        first = first + digit * length
        stride *= factor


def _reduce_parts(members: int, parts: Sequence[_Part]) -> Schedule:
    everyone = np.arange(members)

    def generate() -> Iterator[Step]:
        for part in parts:
            waves = []
            for shift in range(1, part.factor):
                other = (part.digit - shift) % part.factor
                fold = np.where(part.digit < other, Fold.BEFORE, Fold.AFTER)
                peer = everyone + (other - part.digit) * part.stride
                waves.append(wave(everyone, peer, part.first + other * part.length, part.length, fold))
            yield Step(tuple(waves))

    return Schedule(members, members, generate)


def _gather_parts(members: int, parts: Sequence[_Part]) -> Schedule:
    everyone = np.arange(members)

    def generate() -> Iterator[Step]:
        for part in reversed(parts):
            waves = []
            for shift in range(1, part.factor):
                other = (part.digit - shift) % part.factor
                peer = everyone + (other - part.digit) * part.stride
                waves.append(wave(everyone, peer, part.first + part.digit * part.length, part.length))
            yield Step(tuple(waves))

    return Schedule(members, members, generate)


def _with_remainder(ranks: int, factors: Sequence[int], core: Callable[[int], Schedule]) -> Schedule:
    """The core's schedule among the first ranks of as many groups of neighbours as the core has members."""
    members = prod(factors)
    schedule = core(members)
    if members == ranks:
        return schedule
    leaders = np.arange(members) * ranks // members
    sizes = np.diff(np.append(leaders, ranks))
    chunks = schedule.chunks

    def between(to_leader: bool) -> Iterator[Step]:
        places = range(1, int(max(sizes)))
        yield Step(tuple(_within(leaders, sizes, place, chunks, to_leader) for place in places))

    return (
        Schedule(ranks, chunks, partial(between, to_leader=True))
        .then(schedule.on(leaders, ranks))
        .then(Schedule(ranks, chunks, partial(between, to_leader=False)))
    )


def _within(leaders: Ranks, sizes: Ranks, place: int, chunks: int, to_leader: bool) -> Wave:
    """Messages between the leaders and the members in some place of their groups."""
    first = leaders[sizes > place]
    if to_leader:
        return wave(first + place, first, 0, chunks, Fold.AFTER)
    return wave(first, first + place, 0, chunks)
