"""Repetition where equal groups do not use up the workers: those that are left have a code of their own."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction
from functools import cached_property

import numpy as np

from .code import Code, Decoding, Mask, Matrix
from .repetition import fractional_repetition


class Grouped(Code):
    """Groups of stragglers + 1 workers, and another code for the last workers.

    If there are fewer than two groups of the last ones, only they amplify, as little as a code for few
    workers does, and the load is still the least that there is.

    Parameters
    ----------
    workers : int
    last : Code
        Of the last of them, with as many partitions as workers. Its stragglers + 1 divides the number of all
        others.

    Examples
    --------
    >>> from roundelay.collectives.coding.cyclic import cyclic_mds
    >>> code = Grouped(11, cyclic_mds(5, 2))
    >>> code.load, code.decode(range(1, 11)).workers
    (Fraction(3, 11), (1, 3, 6, 7, 8, 9, 10))
    """

    def __init__(self, workers: int, last: Code) -> None:
        self.groups = fractional_repetition(workers - last.workers, last.stragglers)
        self.last = last
        super().__init__("grouped-repetition", (workers, workers, 1), last.stragglers, self._both)

    def _both(self) -> Matrix:
        first = self.groups.workers
        matrix = np.zeros((self.workers, self.workers, 1))
        matrix[:first, :first], matrix[first:, first:] = self.groups.matrix, self.last.matrix
        return matrix

    @cached_property
    def loads(self) -> tuple[Fraction, ...]:
        loads = (*self.groups.loads, *self.last.loads)
        sizes = [self.groups.workers] * self.groups.workers + [self.last.workers] * self.last.workers
        return tuple(load * size / self.workers for load, size in zip(loads, sizes, strict=True))

    def allows(self, missing: Mask) -> bool:
        first = self.groups.workers
        return self.groups.allows(missing[:first]) and self.last.allows(missing[first:])

    def adds(self, worker: int, returned: Collection[int]) -> bool:
        grouped, _ = self._parted(returned)
        return self.groups.adds(worker, grouped) if worker < self.groups.workers else worker not in returned

    def _parted(self, workers: Collection[int]) -> tuple[list[int], list[int]]:
        first = self.groups.workers
        return [each for each in workers if each < first], [each - first for each in workers if each >= first]

    def _solve(self, returned: frozenset[int]) -> Decoding | None:
        grouped, rest = self._parted(returned)
        first, last = self.groups.decode(grouped), self.last.decode(rest)
        if first is None or last is None:
            return None
        workers = (*first.workers, *(self.groups.workers + each for each in last.workers))
        return Decoding(workers, np.hstack([first.coefficients, last.coefficients]), last.error)
