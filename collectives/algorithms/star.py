"""Stars: one rank, the hub, exchanges with all others (TPI-LLM, Li et al. 2024, section 3.3).

Two steps whatever the number of ranks, all of whose bytes go through the hub. Right where only the hub can
reach the others, or where all share one medium.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Fold, Schedule, Step, wave


def star_reduce(ranks: int, hub: int = 0) -> Schedule:
    """All ranks send to the hub, which reduces in the order of the ranks."""

    def generate() -> Iterator[Step]:
        spokes = [rank for rank in range(ranks) if rank != hub]
        folds = (Fold.BEFORE if rank < hub else Fold.AFTER for rank in spokes)
        yield Step(tuple(wave(rank, hub, 0, fold=fold) for rank, fold in zip(spokes, folds, strict=True)))

    return Schedule(ranks, 1, generate)


def star_bcast(ranks: int, hub: int = 0, chunks: int = 1) -> Schedule:
    """The hub sends all chunks to all ranks."""

    def generate() -> Iterator[Step]:
        yield Step(tuple(wave(hub, rank, 0, chunks) for rank in range(ranks) if rank != hub))

    return Schedule(ranks, chunks, generate)


def star_allreduce(ranks: int, hub: int = 0) -> Schedule:
    """To the hub and back."""
    return star_reduce(ranks, hub).then(star_bcast(ranks, hub))


def star_gather(ranks: int, hub: int = 0) -> Schedule:
    """Each rank sends the chunk of its number to the hub."""

    def generate() -> Iterator[Step]:
        yield Step(tuple(wave(rank, hub, rank) for rank in range(ranks) if rank != hub))

    return Schedule(ranks, ranks, generate)


def star_scatter(ranks: int, hub: int = 0) -> Schedule:
    """The hub sends each rank the chunk of its number."""

    def generate() -> Iterator[Step]:
        yield Step(tuple(wave(hub, rank, rank) for rank in range(ranks) if rank != hub))

    return Schedule(ranks, ranks, generate)


def star_allgather(ranks: int, hub: int = 0) -> Schedule:
    """Gather to the hub, which sends all chunks to all ranks."""
    return star_gather(ranks, hub).then(star_bcast(ranks, hub, ranks))


def star_reduce_scatter(ranks: int, hub: int = 0) -> Schedule:
    """The hub reduces all chunks and gives each rank its own."""
    return star_reduce(ranks, hub).refined(ranks).then(star_scatter(ranks, hub))
