"""The first Allreduce on a communicator: what it costs to make one, reduce once and free it, beside mpi4py.

    mpiexec -n 2 python -m benchmarks.communicators [--times 10000]

Both take turns of a hundred communicators within one run. With `ROUNDELAY_ALLREDUCE=auto` in the environment
it shows what asking for the choice costs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import click
import numpy as np
from mpi4py import MPI as PLAIN

from benchmarks.measure import library_key
from roundelay import MPI

TURN = 100


def turn(world: Any) -> float:
    """Seconds for each of a number of communicators."""
    send, total = np.ones(4), np.zeros(4)
    world.Barrier()
    start = perf_counter()
    for _ in range(TURN):
        comm = world.Dup()
        comm.Allreduce(send, total)
        comm.Free()
    spent = perf_counter() - start
    if not (total == world.size).all():
        raise AssertionError(f"wrong sum {total}")
    return spent / TURN


@click.command()
@click.option("--times", default=10_000, show_default=True, help="Communicators that each makes.")
def main(times: int) -> None:
    """Time both in turn."""
    ways: dict[str, Callable[[], float]] = {
        "mpi4py": lambda: turn(PLAIN.COMM_WORLD),
        "roundelay": lambda: turn(MPI.COMM_WORLD),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(times // TURN):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            samples[name].append(ways[name]())
    if PLAIN.COMM_WORLD.rank == 0:
        medians = {name: statistics.median(each) for name, each in samples.items()}
        asked = os.environ.get("ROUNDELAY_ALLREDUCE", "nothing")
        print(f"{library_key()}, {PLAIN.COMM_WORLD.size} ranks, asked: {asked}", end="")
        print(*(f", {name} {1e6 * each:.1f} us" for name, each in medians.items()), end="", sep="")
        print(f", {medians['roundelay'] / medians['mpi4py']:.3f} times as long")


if __name__ == "__main__":
    main()
