"""Arguments for each collective, and what checks its result; for `benchmarks.random_programs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from roundelay import MPI

Prepared = tuple[tuple[Any, ...], Callable[[], None]]


def _is(array: Any, value: float) -> Callable[[], None]:
    def check() -> None:
        assert (array == value).all()

    return check


def _unchecked() -> None:
    pass


def _barrier(_comm: Any, _count: int, _root: int) -> Prepared:
    return (), _unchecked


def _bcast(comm: Any, count: int, root: int) -> Prepared:
    buffer = np.full(count, 7.0 if comm.rank == root else 0.0)
    return (buffer, root), _is(buffer, 7.0)


def _reduce(comm: Any, count: int, root: int) -> Prepared:
    total = np.zeros(count) if comm.rank == root else None
    return (np.ones(count), total, MPI.SUM, root), _is(total, comm.size) if total is not None else _unchecked


def _allreduce(comm: Any, count: int, _root: int) -> Prepared:
    total = np.zeros(count)
    return (np.ones(count), total), _is(total, comm.size)


def _scan(comm: Any, count: int, _root: int) -> Prepared:
    total = np.zeros(count)
    return (np.ones(count), total), _is(total, comm.rank + 1)


def _exscan(_comm: Any, count: int, _root: int) -> Prepared:
    return (np.ones(count), np.zeros(count)), _unchecked


def _gather(comm: Any, count: int, root: int) -> Prepared:
    into = np.zeros((comm.size, count)) if comm.rank == root else None
    return (np.full(count, 3.0), into, root), _is(into, 3.0) if into is not None else _unchecked


def _scatter(comm: Any, count: int, root: int) -> Prepared:
    into = np.zeros(count)
    return (np.full((comm.size, count), 3.0) if comm.rank == root else None, into, root), _is(into, 3.0)


def _allgather(comm: Any, count: int, _root: int) -> Prepared:
    into = np.zeros((comm.size, count))
    return (np.full(count, 3.0), into), _is(into, 3.0)


def _alltoall(comm: Any, count: int, _root: int) -> Prepared:
    into = np.zeros((comm.size, count))
    return (np.full((comm.size, count), 3.0), into), _is(into, 3.0)


def _reduce_scatter_block(comm: Any, count: int, _root: int) -> Prepared:
    into = np.zeros(count)
    return (np.ones((comm.size, count)), into), _is(into, comm.size)


def _reduce_scatter(comm: Any, count: int, _root: int) -> Prepared:
    counts = [count + rank for rank in range(comm.size)]
    into = np.zeros(counts[comm.rank])
    return (np.ones(sum(counts)), into, counts), _is(into, comm.size)


def _gatherv(comm: Any, count: int, root: int) -> Prepared:
    counts = [count + rank for rank in range(comm.size)]
    into = np.zeros(sum(counts)) if comm.rank == root else None
    received = None if into is None else [into, counts]
    return (np.full(counts[comm.rank], 3.0), received, root), _is(
        into, 3.0
    ) if into is not None else _unchecked


def _scatterv(comm: Any, count: int, root: int) -> Prepared:
    counts = [count + rank for rank in range(comm.size)]
    into = np.zeros(counts[comm.rank])
    sent = [np.full(sum(counts), 3.0), counts] if comm.rank == root else None
    return (sent, into, root), _is(into, 3.0)


def _allgatherv(comm: Any, count: int, _root: int) -> Prepared:
    counts = [count + rank for rank in range(comm.size)]
    into = np.zeros(sum(counts))
    return (np.full(counts[comm.rank], 3.0), [into, counts]), _is(into, 3.0)


def _alltoallv(comm: Any, count: int, _root: int) -> Prepared:
    # Each rank has one number of elements for all, and gets as many as the others have.
    counts = [count + rank for rank in range(comm.size)]
    own, into = counts[comm.rank], np.zeros(sum(counts))
    return ([np.full(own * comm.size, 3.0), [own] * comm.size], [into, counts]), _is(into, 3.0)


COLLECTIVES: dict[str, Callable[[Any, int, int], Prepared]] = {
    "Barrier": _barrier,
    "Bcast": _bcast,
    "Reduce": _reduce,
    "Allreduce": _allreduce,
    "Scan": _scan,
    "Exscan": _exscan,
    "Gather": _gather,
    "Scatter": _scatter,
    "Allgather": _allgather,
    "Alltoall": _alltoall,
    "Reduce_scatter_block": _reduce_scatter_block,
    "Reduce_scatter": _reduce_scatter,
    "Gatherv": _gatherv,
    "Scatterv": _scatterv,
    "Allgatherv": _allgatherv,
    "Alltoallv": _alltoallv,
}
