"""A wave on a square that loses a rank in mid-run, and ends with the same bits as if it had not.

Each rank has some rows of the grid. Every ten steps it commits them, which puts a copy in the memory of
another rank. With Open MPI, started with its fault tolerance, rank 1 kills itself here, and the others go on:

    mpiexec --with-ft ulfm -n 4 python examples/wave_survives.py --kill-rank 1 --kill-step 123

The survivors go back to the last commit, share the rows of the dead rank among them, and go on from there.
At the end the grid is compared with that of a run on one rank, bit by bit.

Other MPI libraries end the job when a rank dies. With `--folder` each commit is also written to disk, and
the same command, given again on any number of ranks, goes on from there:

    mpiexec -n 4 python examples/wave_survives.py --folder saved --kill-rank 1 --kill-step 123
    mpiexec -n 3 python examples/wave_survives.py --folder saved
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import roundelay
from roundelay import MPI

Array = NDArray[np.float64]

# Squared ratio of the way of the wave in a step to the distance of the points.
COURANT = 0.25


def bounds(points: int, ranks: int) -> list[int]:
    """The first row of each rank, and the end of the last one's."""
    return [points * rank // ranks for rank in range(ranks + 1)]


def start(points: int, begin: int, end: int) -> Array:
    """Rows before the first step, (2, rows, points): the wave now and a step ago, a hill at rest."""
    across = np.linspace(-1.0, 1.0, points)
    hill = np.exp(-40.0 * ((across[begin:end, None] - 0.3) ** 2 + (across - 0.1) ** 2))
    return np.stack([hill, hill])


def advance(state: Array, above: Array, below: Array) -> None:
    """Do a step, in place, with the rows of the neighbours; the edges of the square do not move."""
    now, before = state
    padded = np.pad(np.vstack([above, now, below]), ((0, 0), (1, 1)))
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    state[1], state[0] = now, 2.0 * now - before + COURANT * (around - 4.0 * now)


def on_one_rank(points: int, steps: int) -> Array:
    """The grid after the last step."""
    state, edge = start(points, 0, points), np.zeros((1, points))
    for _ in range(steps):
        advance(state, edge, edge)
    return np.asarray(state[0])


def share(comm: MPI.Intracomm, pieces: dict[int, Any], points: int) -> Array:
    """The rows of this rank, out of the pieces that all ranks have."""
    edges = bounds(points, comm.size)
    outgoing: list[list[tuple[int, Array]]] = [[] for _ in range(comm.size)]
    for piece in pieces.values():
        first, state = int(piece["first"]), piece["state"]
        for rank in range(comm.size):
            begin, end = max(first, edges[rank]), min(first + state.shape[1], edges[rank + 1])
            if begin < end:
                outgoing[rank].append((begin, state[:, begin - first : end - first]))
    incoming = [each for found in comm.alltoall(outgoing) for each in found]
    return np.concatenate([rows for _, rows in sorted(incoming, key=lambda found: found[0])], axis=1)


class Wave:
    """The rows of this rank, and what happens to them."""

    def __init__(self, points: int, every: int, folder: Path | None) -> None:
        self.points, self.every, self.folder = points, every, folder
        # Where ranks cannot survive, an error ends the job, as it does without roundelay.
        self.job = roundelay.resilient(MPI.COMM_WORLD, self.recover, required=False)
        comm = self.job.comm
        self.protected = roundelay.Protected(comm, {}, copies=min(1, comm.size - 1), folder=folder)
        self.step = 0
        if folder is not None and folder.exists():
            restored = roundelay.Protected.load(folder, comm)
            self.step = restored.step
            self.take(comm, share(comm, restored.pieces, points))
        else:
            self.begin(comm)

    def begin(self, comm: MPI.Intracomm) -> None:
        """Take the rows before the first step."""
        edges = bounds(self.points, comm.size)
        self.take(comm, start(self.points, edges[comm.rank], edges[comm.rank + 1]))

    def take(self, comm: MPI.Intracomm, state: Array) -> None:
        """Go on with these rows, and protect them."""
        self.state = state
        first = np.array(bounds(self.points, comm.size)[comm.rank])
        self.protected.register({"first": first, "state": state})

    def advance(self, comm: MPI.Intracomm, step: int) -> None:
        """Do a step on all ranks."""
        if step % self.every == 0:
            self.protected.commit(step)
            if self.folder is not None:
                self.protected.save(self.folder)
        above, below = np.zeros((2, 1, self.points))
        up = comm.rank - 1 if comm.rank else MPI.PROC_NULL
        down = comm.rank + 1 if comm.rank + 1 < comm.size else MPI.PROC_NULL
        comm.Sendrecv(self.state[0, -1], down, 0, above, up, 0)
        comm.Sendrecv(self.state[0, 0], up, 1, below, down, 1)
        advance(self.state, above, below)

    def recover(self, loss: roundelay.Loss) -> int:
        """Go back to the last commit, and share the rows of those that are lost."""
        try:
            recovered = self.protected.recover(loss.comm)
        except roundelay.DataLost:
            # Before the first commit was complete, or two neighbours at once.
            self.begin(loss.comm)
            return 0
        self.take(loss.comm, share(loss.comm, recovered.pieces, self.points))
        if loss.comm.rank == 0:
            lost = ", ".join(map(str, loss.lost))
            print(f"lost rank {lost}; {loss.comm.size} ranks go on from step {recovered.step}", flush=True)
        return recovered.step


@click.command()
@click.option("--points", default=200, show_default=True, type=click.IntRange(min=8), help="In a row.")
@click.option("--steps", default=300, show_default=True, type=click.IntRange(min=1))
@click.option("--every", default=10, show_default=True, type=click.IntRange(min=1), help="Steps to a commit.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Also commit to disk here.")
@click.option("--kill-rank", default=-1, help="Let this rank kill itself,")
@click.option("--kill-step", default=-1, help="in the midst of this step.")
def main(points: int, steps: int, every: int, folder: Path | None, kill_rank: int, kill_step: int) -> None:
    """Compute, and compare."""
    if points < MPI.COMM_WORLD.size:
        raise click.ClickException(f"{points} rows for {MPI.COMM_WORLD.size} ranks: expected one for each")
    wave = Wave(points, every, folder)

    def step_of_all(comm: MPI.Intracomm, step: int) -> None:
        if (MPI.COMM_WORLD.rank, step) == (kill_rank, kill_step):
            os.kill(os.getpid(), signal.SIGKILL)
        wave.advance(comm, step)

    wave.job.run(step_of_all, steps, start=wave.step)
    found = wave.job.comm.gather(wave.state[0])
    if found is None:
        return
    is_same = np.concatenate(found).tobytes() == on_one_rank(points, steps).tobytes()
    ranks = f"{wave.job.comm.size} of {MPI.COMM_WORLD.size} ranks"
    print(f"{points}^2 points, {steps} steps, {ranks} at the end: the result is", end=" ")
    print("that of the one-rank run, bit for bit" if is_same else "NOT that of the one-rank run", flush=True)
    if not is_same:
        sys.exit(1)


if __name__ == "__main__":
    main()
