"""A job that loses ranks: a computation in whole numbers, whose result must be that of an undisturbed one.

    mpiexec --with-ft ulfm -n 4 python -m tests.recovery_job --seed 1 --kill anytime --kill recovery

The first rank that is left prints a line of JSON: what was recovered, how long that took, and what was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import roundelay
from roundelay import MPI

Array = NDArray[np.uint64]

KINDS = ("anytime", "commit", "recovery")
COLUMNS, COMMIT_EVERY = 8, 3
# So late at most does a rank die after the beginning of a commit or a recovery.
LATEST_S = 3e-3


def bounds(rows: int, ranks: int) -> list[int]:
    """Where the rows of each rank begin, and where the last ones end."""
    return [rows * rank // ranks for rank in range(ranks + 1)]


def start(rows: int) -> Array:
    """All rows before the first step."""
    numbers = np.arange(rows * COLUMNS, dtype=np.uint64).reshape(rows, COLUMNS)
    return np.asarray(numbers * np.uint64(0x9E3779B97F4A7C15))


def update(padded: Array, total: int) -> Array:
    """Rows after a step, from rows with one more at either end and the sum over all rows."""
    mixed = padded[:-2] * np.uint64(3) + padded[1:-1] * np.uint64(5) + padded[2:] * np.uint64(7)
    return np.asarray(mixed ^ np.uint64(total))


def serial(rows: int, steps: int) -> Array:
    """All rows after the last step, by this process alone."""
    state = start(rows)
    for _ in range(steps):
        state = update(np.concatenate([state[-1:], state, state[:1]]), checksum(state))
    return state


def checksum(rows: Array) -> int:
    """The sum, modulo 2**64."""
    return int(rows.sum(dtype=np.uint64))


class Death:
    """Lets this rank die at a random moment, which it notes in a file first.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def by_another_process(self, seconds: float) -> None:
        """Be killed, whatever this process does then."""
        file = self.folder / f"{MPI.COMM_WORLD.rank}"
        command = f"sleep {seconds:.4f}; date +%s.%N > {file}; kill -9 {os.getpid()}"
        subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def by_alarm(self, seconds: float) -> None:
        """Be ended by the kernel's alarm, within microseconds of the moment."""
        (self.folder / f"{MPI.COMM_WORLD.rank}").write_text(str(time.time() + seconds))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))

    def moments(self, ranks: tuple[int, ...]) -> list[float]:
        """When ranks died."""
        return [float((self.folder / str(rank)).read_text()) for rank in ranks]


class Job:
    """The computation on one rank.

    Parameters
    ----------
    options : argparse.Namespace
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows, self.steps = options, options.rows, options.steps
        self.random = random.Random(options.seed)
        world = MPI.COMM_WORLD
        self.job = roundelay.resilient(world, self.on_loss, lost_after=options.lost_after)
        self.copies = min(len(options.kill), world.size - 1)
        self.death = Death(Path(options.folder))
        victims = self.random.sample(range(world.size), len(options.kill))
        self.plan = dict(zip(victims, options.kill, strict=True))
        self.kind = self.plan.get(world.rank)
        self.delays = {victim: self.random.random() for victim in victims}
        self.at_commit = self.random.randrange(1, self.steps // COMMIT_EVERY)
        self.recoveries: list[dict[str, Any]] = []
        self.begin(self.job.comm)
        self.commits = 0
        if self.kind == "anytime":
            self.death.by_another_process(self.delays[world.rank] * options.seconds)

    def begin(self, comm: MPI.Intracomm) -> None:
        """Begin with the first step."""
        edges = bounds(self.rows, comm.size)
        self.first = np.array([edges[comm.rank]])
        self.state = start(self.rows)[edges[comm.rank] : edges[comm.rank + 1]].copy()
        self.protected = roundelay.Protected(
            comm, self.arrays(), min(self.copies, comm.size - 1), share=not self.options.send
        )

    def arrays(self) -> dict[str, Any]:
        """What is protected; the rows with strides."""
        self.kept = np.zeros((len(self.state), 2 * COLUMNS), np.uint64)[:, ::2]
        self.ballast = np.zeros(self.options.ballast, np.uint8)
        return {"first": self.first, "rows": self.kept, "ballast": self.ballast}

    def advance(self, comm: MPI.Intracomm, step: int) -> None:
        """Do one step."""
        if step % COMMIT_EVERY == 0:
            if self.kind == "commit" and self.commits == self.at_commit:
                self.death.by_alarm(self.delays[MPI.COMM_WORLD.rank] * LATEST_S)
            self.commits += 1
            self.kept[...] = self.state
            self.ballast[...] = step % 256
            self.protected.commit(step)
        padded = np.empty((len(self.state) + 2, COLUMNS), np.uint64)
        padded[1:-1] = self.state
        up, down = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
        comm.Sendrecv(self.state[-1], down, 0, padded[0], up, 0)
        comm.Sendrecv(self.state[0], up, 1, padded[-1], down, 1)
        total = np.array([checksum(self.state)], np.uint64)
        comm.Allreduce(MPI.IN_PLACE, total)
        self.state = update(padded, int(total[0]))
        time.sleep(self.options.seconds / self.steps)

    def on_loss(self, loss: roundelay.Loss) -> int:
        """Share the rows of those that are lost."""
        comm = loss.comm
        if self.kind == "recovery":
            self.death.by_alarm(self.delays[MPI.COMM_WORLD.rank] * LATEST_S)
        comm.Barrier()
        good = time.time()
        complete = self.protected.step
        try:
            recovered = self.protected.recover(comm)
        except roundelay.DataLost:
            self.note(loss, good, complete, None)
            self.begin(comm)
            return 0
        self.state = share(comm, recovered.pieces, self.rows)
        for piece in recovered.pieces.values():
            assert (piece["ballast"] == recovered.step % 256).all()
        self.first = np.array([bounds(self.rows, comm.size)[comm.rank]])
        self.protected.register(self.arrays())
        self.note(loss, good, complete, recovered.step)
        return recovered.step

    def note(self, loss: roundelay.Loss, good: float, complete: int | None, step: int | None) -> None:
        """Note a recovery, and whether it lost a complete commit."""
        died = max(self.death.moments(loss.newly_lost), default=good)
        self.recoveries.append(
            {
                "lost": loss.newly_lost,
                "seconds": good - died,
                "went_back": -1 if step is None else loss.step - step,
                "lost_commit": complete is not None and (step is None or step < complete),
            }
        )

    def run(self) -> None:
        """Compute all, and compare."""
        self.job.run(self.advance, self.steps)
        comm = self.job.comm
        expected = serial(self.rows, self.steps)
        edges = bounds(self.rows, comm.size)
        is_right = bool((self.state == expected[edges[comm.rank] : edges[comm.rank + 1]]).all())
        told = comm.gather((is_right, self.recoveries))
        if told is not None:
            lost = sum(each["lost_commit"] for _, found in told for each in found)
            lines = {
                "seed": self.options.seed,
                "right": all(is_right for is_right, _ in told),
                "lost": self.job.lost,
                "fresh": any(each["went_back"] < 0 for each in told[0][1]),
                "planned": self.plan,
                "lost_commits": lost,
                "seconds": max((each["seconds"] for _, found in told for each in found), default=0.0),
                "recoveries": told[0][1],
            }
            print("RESULT " + json.dumps(lines), flush=True)


def share(comm: MPI.Intracomm, pieces: dict[int, Any], rows: int) -> Array:
    """Rows of this rank, from the pieces that all ranks have."""
    edges = bounds(rows, comm.size)
    outgoing: list[list[tuple[int, Array]]] = [[] for _ in range(comm.size)]
    for piece in pieces.values():
        first, block = int(piece["first"][0]), piece["rows"]
        for rank in range(comm.size):
            begin, end = max(first, edges[rank]), min(first + len(block), edges[rank + 1])
            if begin < end:
                outgoing[rank].append((begin, block[begin - first : end - first]))
    incoming = [each for found in comm.alltoall(outgoing) for each in found]
    return np.concatenate([block for _, block in sorted(incoming, key=lambda each: each[0])])


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill", action="append", default=[], choices=KINDS, help="once for each that dies")
    parser.add_argument("--folder", required=True, help="for the moments of death")
    parser.add_argument("--rows", type=int, default=97)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.3, help="of all steps")
    parser.add_argument("--ballast", type=int, default=0, help="bytes that are committed as well")
    parser.add_argument(
        "--lost-after", type=float, default=5.0, help="seconds until a rank that hangs is lost"
    )
    parser.add_argument("--send", action="store_true", help="send copies also on a node")
    Job(parser.parse_args()).run()


if __name__ == "__main__":
    main()
