"""Rings: every rank sends to the next one only (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009).

They move the fewest bytes that any algorithm can, and need as many steps as there are ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..schedule import Fold, Schedule, Step, wave


def ring_reduce_scatter(ranks: int) -> Schedule:
    """Each chunk goes round once and ends, reduced, on the rank of its number."""
    everyone = np.arange(ranks)

    def generate() -> Iterator[Step]:
        for step in range(ranks - 1):
            chunk = (everyone - step - 1) % ranks
            yield Step((wave(everyone, (everyone + 1) % ranks, chunk, fold=Fold.BEFORE),))

    return Schedule(ranks, ranks, generate)


def ring_allgather(ranks: int) -> Schedule:
    """Each rank's chunk goes round once."""
    everyone = np.arange(ranks)

    def generate() -> Iterator[Step]:
        for step in range(ranks - 1):
            yield Step((wave(everyone, (everyone + 1) % ranks, (everyone - step) % ranks),))

    return Schedule(ranks, ranks, generate)


def ring_allreduce(ranks: int, segments: int = 1) -> Schedule:
    """Reduce-scatter and allgather on a ring, on several parts of the data at a time."""
    return ring_reduce_scatter(ranks).then(ring_allgather(ranks)).segmented(segments)


def bidirectional_ring_allgather(ranks: int) -> Schedule:
    """Each rank's chunk goes half way round in both directions."""
    everyone = np.arange(ranks)

    def generate() -> Iterator[Step]:
        for step in range(ranks // 2):
            yield Step((wave(everyone, (everyone + 1) % ranks, (everyone - step) % ranks),), lane=0)
            if step < (ranks - 1) // 2:
                yield Step((wave(everyone, (everyone - 1) % ranks, (everyone + step) % ranks),), lane=1)

    return Schedule(ranks, ranks, generate, lanes=2)


def bidirectional_ring_allreduce(ranks: int, segments: int = 1) -> Schedule:
    """One half of the data on a ring, the other half on the same ring in the opposite direction."""
    forth = ring_allreduce(ranks)
    return forth.beside(forth.on(range(ranks - 1, -1, -1), ranks)).segmented(segments)
