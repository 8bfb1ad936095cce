"""Codes for a given placement: which workers have which partition decides, weights are solved for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .code import Code, Mask, Matrix
from .errors import check_stragglers, require
from .rounding import rounding_gain

# Matrices that are drawn, of which the best is taken.
_DRAWN = 8


class Placed(Code):
    """A code in which each partition is on stragglers + pieces workers, wherever they are.

    There are vectors over the workers, orthonormal and at random. With the first ones, one for each piece, as
    coefficients messages give the sum; with the others, one for each straggler, they give nothing. For each
    partition that determines the weights of the workers that have it.

    Parameters
    ----------
    name : str
    workers, stragglers, pieces : int
    holders : sequence of sequence of int
        Workers that have each partition, stragglers + pieces of them.

    References
    ----------
    Ye and Abbe 2018, "Communication-computation efficient gradient coding", arXiv 1802.03475; with one piece,
    Wang et al. 2019, "Heterogeneity-aware gradient coding", arXiv 1901.09339.
    """

    def __init__(
        self, name: str, workers: int, stragglers: int, pieces: int, holders: Sequence[Sequence[int]]
    ) -> None:
        copies = stragglers + pieces
        for partition, held in enumerate(holders):
            require(
                len(set(held)) == copies,
                f"partition {partition} is on workers {held}: expected {copies} different ones",
            )
        self.holders = holders
        super().__init__(name, (workers, len(holders), pieces), stragglers, self._best)

    @cached_property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        held: list[list[int]] = [[] for _ in range(self.workers)]
        for partition, workers in enumerate(self.holders):
            for worker in workers:
                held[worker].append(partition)
        return tuple(map(tuple, held))

    def allows(self, missing: Mask) -> bool:
        # More are survived by some codes and by chance: to know that takes the matrix, which a simulation
        # does without.
        return bool(missing.sum() <= self.stragglers)

    def _best(self) -> Matrix:
        shape = (self.workers, self.partitions, self.pieces)
        drawn = [self._drawn(seed) for seed in range(_DRAWN)]
        return min(drawn, key=lambda each: rounding_gain(Code("", shape, self.stragglers, lambda: each)))

    def _drawn(self, seed: int) -> Matrix:
        copies = self.stragglers + self.pieces
        rng = np.random.default_rng([self.workers, self.stragglers, self.pieces, seed])
        vectors = np.linalg.qr(rng.standard_normal((self.workers, copies)))[0]
        held = np.asarray(self.holders)
        weights = np.linalg.solve(vectors[held].transpose(0, 2, 1), np.eye(copies, self.pieces))
        matrix: Matrix = np.zeros((self.workers, self.partitions, self.pieces))
        matrix[held, np.arange(self.partitions)[:, np.newaxis]] = weights
        matrix /= np.abs(matrix).max()
        return matrix


def dealt_holders(shares: Sequence[int], partitions: int) -> list[list[int]]:
    """Workers of each partition: one worker after the other takes its share, around the partitions.

    Partitions that the same workers have are as good as one: fewer are to be told apart, and decoding
    amplifies less than if each worker began at the next one.
    """
    turns = np.repeat(np.arange(len(shares)), shares)
    return [turns[partition::partitions].tolist() for partition in range(partitions)]


def communication_efficient(workers: int, stragglers: int, pieces: int) -> Placed:
    """A code whose messages are shorter than a gradient: more is computed for less to be sent.

    Parameters
    ----------
    workers, stragglers : int
    pieces : int
        Messages have the length of a gradient, divided by this; each worker has stragglers + pieces
        partitions.

    Examples
    --------
    >>> code = communication_efficient(5, 1, 2)
    >>> code.load, code.decodable([0, 1, 3, 4])
    (Fraction(3, 5), True)
    """
    require(
        stragglers >= 0 and pieces >= 1 and stragglers + pieces <= workers,
        f"{workers} workers, {stragglers} stragglers, {pieces} pieces: expected as many workers as both",
    )
    holders = dealt_holders([stragglers + pieces] * workers, workers)
    return Placed("communication-efficient", workers, stragglers, pieces, holders)


def heterogeneity_aware(
    throughputs: Sequence[float], stragglers: int, partitions: int | None = None
) -> Placed:
    """A code whose workers have partitions in proportion to their speed, so that they finish together.

    Parameters
    ----------
    throughputs : sequence of float
        Samples that each worker computes in a second, or in any other unit of time.
    stragglers : int
    partitions : int, optional
        Into how many parts the data is divided: more follow the speeds more closely. Four for each worker if
        not given.

    Raises
    ------
    ValueError
        If a throughput is not positive and finite, or the stragglers are not fewer than the workers.

    Examples
    --------
    >>> code = heterogeneity_aware([1.0, 1.0, 2.0, 4.0], stragglers=1, partitions=8)
    >>> [len(held) for held in code.placement]
    [2, 2, 4, 8]
    """
    speeds = np.asarray(throughputs, np.float64)
    require(
        speeds.ndim == 1 and speeds.size > 0 and bool((np.isfinite(speeds) & (speeds > 0)).all()),
        f"throughputs {throughputs}: expected positive numbers",
    )
    workers = speeds.size
    check_stragglers(workers, stragglers)
    count = 4 * workers if partitions is None else partitions
    require(count >= 1, f"{count} partitions: expected at least 1")
    # No share is more than all partitions: nobody comes twice to one of them.
    holders = dealt_holders(_proportional(speeds, (stragglers + 1) * count, count), count)
    return Placed("heterogeneity-aware", workers, stragglers, 1, holders)


def _proportional(speeds: Matrix, total: int, most: int) -> list[int]:
    """Whole numbers near to proportional that add up to a total, none of them above `most`."""
    shares = np.zeros(speeds.size)
    free = np.ones(speeds.size, np.bool_)
    while True:
        left = total - shares[~free].sum()
        shares[free] = left * speeds[free] / speeds[free].sum()
        above = free & (shares > most)
        if not above.any():
            break
        shares[above], free = most, free & ~above
    found = np.floor(shares + 1e-9).astype(int)
    for worker in np.argsort(found - shares, kind="stable")[: total - found.sum()]:
        found[worker] += 1
    return list(map(int, found))
