"""Random datatypes in every call that takes a buffer: moved as mpi4py alone moves them.

More of them: ``[mpiexec -n 2] python -m tests.test_random_trees --trees 100000 --seed 1``; and the call of a
failure again, as its line says: ``--seed 1 --only 123 --call Bcast``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray

from roundelay import MPI
from roundelay.comm.interposer import interposer, library_alone
from tests.buffer_calls import Exchange
from tests.random_trees import NAMES, NEIGHBOR_STEPS, NEIGHBORS, Trial, draw_trial, walk
from tests.soak import read_options, soak

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

CALLS = 25
"""How many of each name the tests make; a soak makes more."""

Outcome = tuple[str, Any]


@contextmanager
def neighbourhood(comm: MPI.Intracomm) -> Iterator[MPI.Distgraphcomm]:
    """Give a communicator in which each rank has itself and the two beside it as neighbours."""
    ring = [(comm.rank + step) % comm.size for step in NEIGHBOR_STEPS]
    graph = comm.Create_dist_graph_adjacent(ring[::-1], ring)
    yield graph
    graph.Free()


def attempt(trial: Trial, comm: PLAIN.Intracomm, mpi: Any, tag: int) -> Outcome:
    """Make the call, and give what it returned or how it was refused."""
    out, into = (argument and argument.write() for argument in (trial.out, trial.into))
    try:
        return "returned", trial.call.make(comm, mpi, out, into, tag)
    except Exception as error:
        return type(error).__name__, str(error)


def attempt_alone(trial: Trial, comm: Any, tag: int) -> Outcome:
    """Make the call as mpi4py alone does."""
    if isinstance(trial.call, Exchange) and trial.call.name == "Isendrecv_replace":
        # MPICH 5.0.2's own mistakes datatypes with gaps.
        trial = replace(trial, call=replace(trial.call, name="Sendrecv_replace"))
    with library_alone():
        return attempt(trial, type(comm).plain(comm), PLAIN, tag)


def check(trial: Trial, comm: MPI.Intracomm, seed: int, tag: int, layered: bool) -> str | None:
    """Make a call with mpi4py alone, then with the layer unless this rank has none; say what differs."""
    for argument in trial.arguments:
        argument.build()
        argument.fill(seed + comm.rank)
    before = [argument.memory.copy() for argument in trial.arguments]
    expected = attempt_alone(trial, comm, tag)
    after = [argument.memory.copy() for argument in trial.arguments]
    for argument, memory in zip(trial.arguments, before, strict=True):
        argument.memory[:] = memory
    found = attempt(trial, comm, MPI, tag + 1) if layered else attempt_alone(trial, comm, tag + 1)
    wrong = describe(trial, expected, found, after)
    if comm.allreduce(wrong is not None, MPI.LOR):
        # Open MPI 5.0.11 sends the wrong bytes of some datatypes: then the typemaps say what is right.
        moved = [argument.memory for argument in trial.arguments]
        well = found[0] == "returned" and all(map(np.array_equal, moved, walk(trial, before, comm)))
        wrong = None if well else wrong
    for argument in trial.arguments:
        argument.free()
    return wrong


def describe(trial: Trial, expected: Outcome, found: Outcome, after: list[NDArray[np.uint8]]) -> str | None:
    """Say what differs from what is expected, in the outcome and in memory."""
    differing = [
        int((argument.memory != memory).sum())
        for argument, memory in zip(trial.arguments, after, strict=True)
    ]
    if found[0] != expected[0] or found[1] not in (None, expected[1]):
        return f"{trial}: expected {expected}, got {found}"
    return f"{trial}: {differing} wrong bytes" if any(differing) else None


def examine(
    comm: MPI.Intracomm, graph: MPI.Distgraphcomm, name: str, seed: int, index: int
) -> tuple[int, str | None]:
    """Make one random call; give how many trees were met, and what differs, with what reproduces it."""
    mine = graph if name in NEIGHBORS else comm
    trial = draw_trial(name, seed, index, mine)
    # Ranks with and without the layer understand one another.
    layered = Random(f"{index}").random() < 0.7 or Random(f"{index} {comm.rank}").random() < 0.5
    wrong = check(trial, mine, index, 2 * index % 32000, layered)
    met = sum(len(set(argument.trees)) for argument in trial.arguments)
    return met, f"--seed {seed} --only {index} --call {name}: {wrong}" if wrong else None


@pytest.mark.parametrize("name", NAMES)
def test_as_mpi4py_alone(comm, name):
    MPI.Attach_buffer(bytearray(1 << 22))
    with neighbourhood(comm) as graph:
        found = [examine(comm, graph, name, 1, index)[1] for index in range(CALLS)]
    MPI.Detach_buffer()
    wrong = [message for message in found if message]
    assert not wrong, "\n".join(wrong)


def main(argv: list[str]) -> int:
    """Make calls until a number of trees was met on all ranks together; print what differs."""
    options = read_options(argv, "trees", __doc__, NAMES)
    comm = MPI.COMM_WORLD.Dup()
    # The rule would leave small messages to the library.
    interposer().set_limits(-1, -1, -1, -1)
    MPI.Attach_buffer(bytearray(1 << 24))
    with neighbourhood(comm) as graph:
        return soak(comm, "trees", NAMES, options, partial(examine, comm, graph))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
