"""Eight threads that make every kind of call at once, each on communicators of its own.

More of them: ``[mpiexec -n 2] python -m tests.test_threads --calls 10000 --seed 1``.
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import ExitStack
from itertools import count as count_up
from random import Random

import numpy as np
import pytest

from roundelay import MPI
from roundelay.comm.interposer import interposer
from tests.limit import Alarm
from tests.random_trees import NAMES, NEIGHBORS, draw_trial, walk
from tests.test_random_trees import attempt, attempt_alone, neighbourhood

THREADS = 8
BATCH = 2 * len(NAMES)
"""Calls with datatypes that each thread makes before all meet; as many are made with strided arrays."""

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.usefixtures("engine"),
    pytest.mark.timeout_s(120),
    pytest.mark.skipif(
        MPI.Query_thread() < MPI.THREAD_MULTIPLE, reason="the MPI library was not started for many threads"
    ),
]


class Prepared:
    """A random call with datatypes that are made and freed for it, and what is right after it."""

    def __init__(self, comm: MPI.Intracomm, name: str, seed: int, index: int) -> None:
        self.comm, self.seed = comm, index + comm.rank
        self.trial = draw_trial(name, seed, index, comm)
        self.begin()
        before = [argument.memory.copy() for argument in self.trial.arguments]
        self.expected = attempt_alone(self.trial, comm, 0)
        self.memory = [argument.memory.copy() for argument in self.trial.arguments]
        walked = walk(self.trial, before, comm)
        if self.expected[0] == "returned" and not getattr(self.trial.call, "in_place", False):
            # Open MPI 5.0.11 sends the wrong bytes of some datatypes.
            self.memory = walked
        self.end()

    def begin(self) -> None:
        """Make the datatypes, and fill the memory."""
        for argument in self.trial.arguments:
            argument.build()
            argument.fill(self.seed)

    def end(self) -> None:
        """Free the datatypes."""
        for argument in self.trial.arguments:
            argument.free()

    def run(self, tag: int) -> str | None:
        """Make the call, and say what differs."""
        self.begin()
        found = attempt(self.trial, self.comm, MPI, tag)
        self.end()
        moved = [argument.memory for argument in self.trial.arguments]
        well = found[0] == self.expected[0] and found[1] in (None, self.expected[1])
        return None if well and all(map(np.array_equal, moved, self.memory)) else str(self.trial)


def move_arrays(comm: MPI.Intracomm, seed: int) -> str | None:
    """Send strided arrays around and gather them; say what differs."""
    rng, right, left = Random(seed), (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    rows, columns, step = rng.randint(1, 40), rng.randint(2, 40), rng.choice((1, -1))

    def memory(rank: int) -> np.ndarray:
        return np.arange(float(rows * columns)).reshape(rows, columns) + 1000 * rank + seed

    sent = memory(comm.rank)
    found, gathered = np.zeros((rows, 3)), np.zeros((comm.size, rows, 2))
    requests = [
        comm.Irecv(found[::-1, 1], left, 1),
        comm.Isend(sent[::step, 1], right, 1),
        comm.Iallgather(sent[:, 0], gathered[..., 1]),
    ]
    while not MPI.Request.Testall(requests):
        MPI.Request.Waitany(requests)
    # Forgotten: it goes on alone, and its memory is the program's until it has arrived.
    comm.Isend(sent[:, 0], right, 2)
    comm.Recv(found[:, 2], left, 2)
    comm.Barrier()
    well = (
        np.array_equal(found[::-1, 1], memory(left)[::step, 1])
        and np.array_equal(found[:, 2], memory(left)[:, 0])
        and np.array_equal(gathered[..., 1], [memory(rank)[:, 0] for rank in range(comm.size)])
        and not (found[:, 0].any() or gathered[..., 0].any())
    )
    return None if well else f"arrays of {rows} rows and {columns} columns, step {step}"


class Threads:
    """Threads, each with communicators of its own; what they find wrong is in `wrong`."""

    def __init__(self, comm: MPI.Intracomm, stack: ExitStack) -> None:
        self.comms = [comm.Dup() for _ in range(THREADS)]
        self.graphs = [stack.enter_context(neighbourhood(comm)) for _ in range(THREADS)]
        for mine in self.comms:
            stack.callback(mine.Free)
        self.wrong: list[str] = []

    def run_batch(self, seed: int, start: int) -> None:
        """Let all of them make a batch of calls at once."""
        prepared = [self.prepare(thread, seed, start) for thread in range(THREADS)]
        barrier = threading.Barrier(THREADS)

        def work(thread: int) -> None:
            barrier.wait()
            try:
                for number, call in enumerate(prepared[thread]):
                    found = (call.run(number), move_arrays(self.comms[thread], start + number))
                    self.wrong += [f"--seed {seed}, call {start + number}: {each}" for each in found if each]
            except BaseException as error:
                self.wrong.append(repr(error))

        threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def prepare(self, thread: int, seed: int, start: int) -> list[Prepared]:
        """Draw a thread's calls, while no other thread makes any."""
        names = [(index, NAMES[(index + thread) % len(NAMES)]) for index in range(start, start + BATCH)]
        return [
            Prepared((self.graphs if name in NEIGHBORS else self.comms)[thread], name, seed + thread, index)
            for index, name in names
        ]


def test_threads_make_all_calls_at_once(comm):
    MPI.Attach_buffer(bytearray(1 << 24))
    with ExitStack() as stack:
        threads = Threads(comm, stack)
        threads.run_batch(1, 0)
    MPI.Detach_buffer()
    assert not threads.wrong, "\n".join(threads.wrong)
    assert interposer().counts()["orphans"] == 0


def main(argv: list[str]) -> int:
    """Make batches of calls until each rank has made its number; print what differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.test_threads", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="on each rank (default 10000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    comm = MPI.COMM_WORLD.Dup()
    # The rule would leave small messages to the library.
    interposer().set_limits(-1, -1, -1, -1)
    MPI.Attach_buffer(bytearray(1 << 26))
    alarm, calls = Alarm(f"rank {comm.rank}", None), 0
    with ExitStack() as stack:
        threads = Threads(comm, stack)
        for start in count_up(0, BATCH):
            alarm.set(f"calls from {start}")
            threads.run_batch(options.seed, start)
            calls += 2 * THREADS * BATCH
            if calls >= options.calls:
                break
    alarm.clear()
    print(*threads.wrong, sep="\n", end="\n" if threads.wrong else "")
    wrong = comm.allreduce(len(threads.wrong))
    if comm.rank == 0:
        what = f"{calls} calls of {THREADS} threads on each of {comm.size} ranks, seed {options.seed}"
        print(f"{what}: {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
