"""Runs to be timed: messages between pairs, bursts, many flows, additions, and the library's own collectives.

Each function returns a `Run`, which does its work a number of times and returns the seconds of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from time import perf_counter

import numpy as np

from ..datatypes.plain import MPI
from .attention.forward import Forward
from .attention.tiles import Block
from .attention.visibility import Rule, tokens_of
from .catalogue import Algorithm
from .chosen import Chosen, Division
from .execute import Execution, even_bounds
from .sampling import Run
from .shared import SharedMemory, run_shared

SMALL_BYTES = 8
BURST = 16
# Calls of a collective of so few bytes are mostly waiting; that many are timed together.
SHORT_BYTES, TOGETHER = 32 << 10, 4
# The most others with which a rank of a large job exchanges at a time: enough to fill its link.
MOST_FLOWS = 32
ATTENTION_TOKENS, ATTENTION_SIZE = 1024, 64
ATTENTION_FLOPS = 4 * ATTENTION_TOKENS**2 * ATTENTION_SIZE


def tournament(members: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Rounds of disjoint pairs in which everyone meets everyone, by the circle method.

    Examples
    --------
    >>> tournament([0, 1, 2, 3])
    [[(0, 3), (1, 2)], [(0, 2), (1, 3)], [(0, 1), (2, 3)]]
    >>> tournament([5, 7, 9])
    [[(7, 9)], [(5, 9)], [(5, 7)]]
    """
    circle: list[int | None] = [*members, *([None] if len(members) % 2 else [])]
    half = len(circle) // 2
    rounds = []
    for _ in range(len(circle) - 1):
        facing = zip(circle[:half], reversed(circle[half:]), strict=True)
        rounds.append(sorted((min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None))
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def partner_of(rank: int, pairs: Sequence[tuple[int, int]]) -> int | None:
    """The rank that meets `rank` in a round, or None."""
    return next((a + b - rank for a, b in pairs if rank in (a, b)), None)


def pingpong(comm: MPI.Intracomm, partner: int | None, nbytes: int) -> Run:
    """Half a round trip of a message, on the lower rank of each pair."""
    buffer = np.zeros(nbytes, np.uint8)

    def run(count: int) -> float:
        if partner is None:
            return nan
        start = perf_counter()
        for _ in range(count):
            if comm.rank < partner:
                comm.Send(buffer, partner)
                comm.Recv(buffer, partner)
            else:
                comm.Recv(buffer, partner)
                comm.Send(buffer, partner)
        return (perf_counter() - start) / (2 * count) if comm.rank < partner else nan

    return run


def burst(comm: MPI.Intracomm, partner: int | None, injection: bool) -> Run:
    """A burst of small messages and one back, on the lower rank of each pair.

    With `injection`, only the sender's time for one of them, while nothing holds it up.
    """
    buffer = np.zeros(SMALL_BYTES, np.uint8)

    def run(count: int) -> float:
        if partner is None:
            return nan
        sends, start = 0.0, perf_counter()
        for _ in range(count):
            if comm.rank < partner:
                begun = perf_counter()
                for _ in range(BURST):
                    comm.Send(buffer, partner)
                sends += perf_counter() - begun
                comm.Recv(buffer, partner)
            else:
                for _ in range(BURST):
                    comm.Recv(buffer, partner)
                comm.Send(buffer, partner)
        total = perf_counter() - start
        if comm.rank > partner:
            return nan
        return sends / (BURST * count) if injection else total / count

    return run


def exchange(comm: MPI.Intracomm, destinations: Sequence[int], sources: Sequence[int], nbytes: int) -> Run:
    """Messages to and from many ranks, all under way together."""
    outgoing = np.zeros(nbytes, np.uint8)
    incoming = np.zeros((len(sources), nbytes), np.uint8)

    def run(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            requests = [comm.Irecv(row, source) for row, source in zip(incoming, sources, strict=True)]
            requests += [comm.Isend(outgoing, destination) for destination in destinations]
            MPI.Request.Waitall(requests)
        return (perf_counter() - start) / count if sources else nan

    return run


def flows(rank: int, members: Sequence[int]) -> tuple[list[int], list[int]]:
    """Destinations and sources of a rank that exchanges with the other members, or evenly chosen ones.

    Examples
    --------
    >>> flows(1, [0, 1, 2])
    ([2, 0], [0, 2])
    """
    here, size = members.index(rank), len(members)
    distances = sorted({int(each) for each in np.linspace(1, size - 1, min(size - 1, MOST_FLOWS))})
    return [members[(here + each) % size] for each in distances], [
        members[(here - each) % size] for each in distances
    ]


def addition(nbytes: int) -> Run:
    """`numpy.add` on float64 arrays, on every rank at the same time."""
    values, result = np.ones(nbytes // 8), np.zeros(nbytes // 8)

    def run(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            np.add(result, values, out=result)
        return (perf_counter() - start) / count

    return run


def attention() -> Run:
    """Attention of a block of float32 queries to a block of keys, on every rank at the same time."""
    q, k, v = np.ones((3, 1, 1, ATTENTION_TOKENS, ATTENTION_SIZE), np.float32)
    tokens = tokens_of(np.arange(ATTENTION_TOKENS))
    block, stripes = Block(k, v, tokens), Rule().stripes(tokens, tokens)

    def run(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            Forward(q, tokens, 1, ATTENTION_SIZE, 1.0).add(block, stripes)
        return (perf_counter() - start) / count

    # The first call compiles.
    run(1)
    return run


def empty_step(comm: MPI.Intracomm) -> Run:
    """A step without a message: the calls that send and receive nothing, and add two elements."""
    # NumPy takes longer for one element than for two.
    values, result = np.ones(2), np.zeros(2)

    def run(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            comm.Sendrecv(values, MPI.PROC_NULL, 0, result, MPI.PROC_NULL, 0)
            np.add(result, values, out=result)
        return (perf_counter() - start) / count

    return run


def collective(comm: MPI.Intracomm, operation: str, nbytes: int) -> Run:
    """The library's own collective on float64, for a vector of a multiple of 8 bytes times the ranks."""
    whole, part = np.ones(nbytes // 8), np.ones(max(1, nbytes // 8 // comm.size))
    result = np.zeros_like(whole)
    calls: dict[str, Callable[[], None]] = {
        "allreduce": lambda: comm.Allreduce(whole, result),
        "reduce_scatter": lambda: comm.Reduce_scatter_block(whole, part),
        "allgather": lambda: comm.Allgather(part, result),
        "bcast": lambda: comm.Bcast(whole),
        "reduce": lambda: comm.Reduce(whole, result),
    }
    return _repeated(comm, operation, nbytes, calls[operation])


def schedule(
    comm: MPI.Intracomm, operation: str, algorithm: Algorithm, memory: SharedMemory | None, nbytes: int
) -> Run:
    """A collective on float64 by an algorithm of roundelay's; rank 0 is the root."""
    whole = np.ones(nbytes // 8)
    in_place = operation in ("allgather", "bcast")
    result = whole if in_place else np.zeros_like(whole)
    division: Division = whole.size
    if operation in ("allgather", "reduce_scatter"):
        division = even_bounds(whole.size, comm.size)
    chosen = Chosen(algorithm, comm.rank, operation, 0)

    def call() -> None:
        if memory is not None and chosen.shares_memory:
            run_shared(partial(chosen.bind_shared, in_place), memory, whole, result, np.add)
        else:
            Execution(chosen.bind(division, in_place), comm, whole, result, np.add).run()

    return _repeated(comm, operation, nbytes, call)


def _repeated(comm: MPI.Intracomm, operation: str, nbytes: int, call: Callable[[], None]) -> Run:
    """Ranks of an allreduce and its like cannot run ahead of one another; those with a root begin together.

    The barrier or call before is not timed. Ranks leave a barrier as far apart as a message takes, which
    would count as if the call took it: they begin as a call leaves them. Who comes last leaves first where
    all hear from all, so that single calls take a rank by turns less and more; short ones are timed several
    together.
    """
    apart = operation in ("bcast", "reduce")
    together = 1 if apart or nbytes > SHORT_BYTES else TOGETHER

    def run(count: int) -> float:
        count *= together
        if not apart:
            call()
        total, start = 0.0, perf_counter()
        for _ in range(count):
            if apart:
                comm.Barrier()
                start = perf_counter()
            call()
            if apart:
                total += perf_counter() - start
        return (total if apart else perf_counter() - start) / count

    return run
