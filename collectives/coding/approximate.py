"""Approximate codes: a round need not wait for the whole sum, and says how far off it is."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction
from functools import cached_property

import numpy as np

from .code import Code, Decoding, Mask, Matrix
from .errors import check_stragglers, require
from .repetition import Repetition, fractional_repetition


class ErasureHead(Repetition):
    """Repetition that waits for one worker of each group, or for a given number of workers in all.

    More weight of the rest makes up for the missing ones, which is right on average if all workers straggle
    alike and the groups are equal.

    Parameters
    ----------
    workers, stragglers : int
        Of the fractional repetition.
    collected : int
        Workers after whom it waits for nobody else.

    References
    ----------
    Wang, Charles, Papailiopoulos 2019, "ErasureHead", arXiv 1901.09671.

    Examples
    --------
    >>> code = ErasureHead(6, 1, collected=3)
    >>> code.decode([0, 1]), code.decode([0, 1, 2])
    (None, Decoding(workers=(0, 2), coefficients=array([[1.5, 1.5]]), error=1.0))
    """

    def __init__(self, workers: int, stragglers: int, collected: int) -> None:
        require(
            1 <= collected <= workers,
            f"{collected} collected of {workers} workers: expected 1 to {workers}",
        )
        whole = fractional_repetition(workers, stragglers)
        super().__init__(
            "erasure-head", [np.flatnonzero(whole.group_of == each) for each in range(whole.groups)]
        )
        self.collected, self.stragglers = collected, workers - collected

    def allows(self, missing: Mask) -> bool:
        return bool(np.count_nonzero(~missing) >= self.collected) or super().allows(missing)

    def adds(self, worker: int, returned: Collection[int]) -> bool:
        # One whose group has answered counts, too, among those that are collected.
        return worker not in returned

    def _solve(self, returned: frozenset[int]) -> Decoding | None:
        found = super()._solve(returned)
        if found is not None or len(returned) < self.collected:
            return found
        first = {int(self.group_of[worker]): worker for worker in sorted(returned, reverse=True)}
        weight = self.groups / len(first)
        used = tuple(sorted(first.values()))
        return Decoding(used, np.full((1, len(used)), weight), max(1.0, weight - 1.0))


def ignore_stragglers(workers: int, stragglers: int) -> ErasureHead:
    """Uncoded, without the slowest: biased where it is always the same workers that straggle.

    Examples
    --------
    >>> ignore_stragglers(4, 1).decode([0, 2, 3]).coefficients.round(3)
    array([[1.333, 1.333, 1.333]])
    """
    check_stragglers(workers, stragglers)
    code = ErasureHead(workers, 0, workers - stragglers)
    code.name = "ignore-stragglers"
    return code


class OptimalDecoding(Code):
    """Partitions on a few workers each, and the weights of those that return by least squares.

    The worker that has a partition sends its gradient divided by the copies. Less load than an exact code for
    as many stragglers: the error grows gradually with them.

    Parameters
    ----------
    workers, stragglers : int
        A round waits for workers - stragglers of them.
    copies : int
        Workers that have a partition, and partitions that a worker has; they are placed at random.

    References
    ----------
    Raviv et al. 2018, arXiv 1707.03858, section 6; Glasgow and Wootters 2021, "Approximate gradient coding
    with optimal decoding", arXiv 2006.09638.

    Examples
    --------
    >>> code = OptimalDecoding(12, 3, copies=2)
    >>> code.load, code.decode(range(12)).error < 1e-9, 0 < code.decode(range(9)).error <= 1
    (Fraction(1, 6), True, True)
    """

    tolerance = np.inf

    def __init__(self, workers: int, stragglers: int, copies: int) -> None:
        check_stragglers(workers, stragglers)
        require(1 <= copies <= workers, f"{copies} copies on {workers} workers: expected 1 to {workers}")
        self.copies = copies
        super().__init__("optimal-decoding", (workers, workers, 1), stragglers, self._random_regular)

    @cached_property
    def loads(self) -> tuple[Fraction, ...]:
        return (Fraction(self.copies, self.workers),) * self.workers

    def allows(self, missing: Mask) -> bool:
        return bool(missing.sum() <= self.stragglers)

    def decodable(self, returned: Collection[int]) -> bool:
        return len(set(returned)) >= self.workers - self.stragglers

    def _random_regular(self) -> Matrix:
        """A cyclic placement, workers and partitions in random order: neighbours may straggle together."""
        rng = np.random.default_rng([self.workers, self.copies])
        held = np.zeros((self.workers, self.workers))
        strides = rng.permutation(self.workers)[: self.copies]
        for stride in strides:
            held[np.arange(self.workers), (np.arange(self.workers) + stride) % self.workers] = 1 / self.copies
        return held[rng.permutation(self.workers)][:, :, np.newaxis]

    def _solve(self, returned: frozenset[int]) -> Decoding | None:
        return self.approximate(returned) if self.decodable(returned) else None
