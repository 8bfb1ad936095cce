"""Repetition within groups of workers: any worker of a group answers for all of it."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction
from functools import cached_property

import numpy as np

from .code import Code, Decoding, Mask, Matrix
from .errors import check_stragglers


class Repetition(Code):
    """Workers of a group have the same partitions and send the same sum; groups share no partition.

    One message of each group is added up, with weights that are 1: exact in any dtype. Of more stragglers
    than asked for, those are survived that leave a worker in each group.

    Parameters
    ----------
    name : str
    groups : sequence of sequence of int
        Workers of each group, which has as many partitions as workers.

    References
    ----------
    Tandon et al. 2017, arXiv 1612.03301, section 3.1 (fractional repetition).
    """

    def __init__(self, name: str, groups: Collection[Collection[int]]) -> None:
        workers = sum(map(len, groups))
        self.group_of = np.empty(workers, np.intp)
        for group, members in enumerate(groups):
            self.group_of[list(members)] = group
        self.groups = len(groups)
        super().__init__(name, (workers, workers, 1), min(map(len, groups)) - 1, self._same_group)

    def _same_group(self) -> Matrix:
        same = self.group_of[:, np.newaxis] == self.group_of
        return np.asarray(same[:, :, np.newaxis], np.float64)

    @cached_property
    def loads(self) -> tuple[Fraction, ...]:
        sizes = np.bincount(self.group_of)[self.group_of].tolist()
        return tuple(Fraction(size, self.workers) for size in sizes)

    def allows(self, missing: Mask) -> bool:
        return bool(np.bincount(self.group_of[~missing], minlength=self.groups).all())

    def adds(self, worker: int, returned: Collection[int]) -> bool:
        return all(self.group_of[other] != self.group_of[worker] for other in returned)

    def _solve(self, returned: frozenset[int]) -> Decoding | None:
        first: dict[int, int] = {}
        for worker in sorted(returned):
            first.setdefault(int(self.group_of[worker]), worker)
        if len(first) < self.groups:
            return None
        return Decoding(tuple(sorted(first.values())), np.ones((1, self.groups)), 0.0)


def fractional_repetition(workers: int, stragglers: int) -> Repetition:
    """Groups of stragglers + 1 workers; of more, as equal as can be, where that does not divide them all.

    Examples
    --------
    >>> code = fractional_repetition(4, 1)
    >>> code.placement
    ((0, 1), (0, 1), (2, 3), (2, 3))
    >>> code.decode([1, 2, 3]).workers
    (1, 2)
    """
    check_stragglers(workers, stragglers)
    groups = np.array_split(np.arange(workers), workers // (stragglers + 1))
    return Repetition("fractional-repetition", [group.tolist() for group in groups])


def uncoded(workers: int) -> Repetition:
    """Each worker has its own partition: nobody may be missing."""
    check_stragglers(workers, 0)
    return Repetition("uncoded", [[worker] for worker in range(workers)])
