"""What a rank does in a case of `benchmarks.faults`: correct steps, and then a fault at a random moment.

    mpiexec -n 4 python -m roundelay run --monitor -m benchmarks.fault_programs stopped 7

All ranks draw the same from the seed.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from random import Random

import numpy as np

from roundelay import MPI
from roundelay.testing import inject

# A step of a program that computes: long enough that ranks which share cores do not hold one another up.
COMPUTE_SECONDS = 0.015
SECONDS_TO_BE_FOUND = 15.0


class Program:
    """A rank of a program.

    Attributes
    ----------
    comm
        COMM_WORLD, or a duplicate of it.
    random
        The same on all ranks.
    victim
        The rank that has the fault, in `comm` as in COMM_WORLD.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.comm = MPI.COMM_WORLD if self.random.random() < 0.5 else MPI.COMM_WORLD.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.victim = self.random.randrange(self.size)

    def work(self, least: int, most: int) -> None:
        """Do a random number of correct steps."""
        for _ in range(self.random.randint(least, most)):
            self.step()

    def go_on(self) -> None:
        """Do correct steps until the job is ended."""
        end = time.monotonic() + SECONDS_TO_BE_FOUND
        while time.monotonic() < end:
            self.step()

    def step(self) -> None:
        """Compute, or pretend to, and communicate."""
        time.sleep(self.random.random() * 0.004)
        self.random.choice([self.reduce, self.broadcast, self.shift, self.transpose, self.meet])()

    def reduce(self) -> None:
        """Sum over all ranks."""
        total = np.empty(self.random.randint(2, 1000))
        self.comm.Allreduce(np.ones(total.size), total)

    def broadcast(self) -> None:
        """Send to all ranks."""
        self.comm.Bcast(np.ones(self.random.randint(2, 1000)), self.random.randrange(self.size))

    def shift(self) -> None:
        """Send to one rank, and receive from another."""
        by, out = self.random.randint(1, self.size - 1), np.ones(self.random.randint(2, 1000))
        into = np.empty_like(out)
        self.comm.Sendrecv(out, (self.rank + by) % self.size, 1, into, (self.rank - by) % self.size, 1)

    def transpose(self) -> None:
        """Exchange with all ranks."""
        out = np.ones((self.size, self.random.randint(1, 100)))
        self.comm.Alltoall(out, np.empty_like(out))

    def meet(self) -> None:
        """Wait for all ranks."""
        self.comm.Barrier()

    def on_victim(self, fault: Callable[[], None]) -> None:
        """Let the fault come to the victim at a random moment, be it within a call or not."""
        seconds = self.random.random() * 0.2
        if self.rank == self.victim:
            threading.Timer(seconds, fault).start()
        self.go_on()


def killed(program: Program) -> None:
    """SIGKILL."""
    program.on_victim(inject.kill)


def stopped(program: Program) -> None:
    """SIGSTOP."""
    program.on_victim(inject.stop)


def hanging(program: Program) -> None:
    """A loop in Python that sleeps."""
    if program.rank == program.victim:
        inject.hang()
    program.go_on()


def hanging_in_c(program: Program) -> None:
    """A call in C that keeps the GIL."""
    if program.rank == program.victim:
        inject.hang_in_c()
    program.go_on()


def skipped(program: Program) -> None:
    """One rank leaves out a collective, and is in another one when the others are in that."""
    with inject.skip("Allreduce", rank=program.victim):
        program.reduce()
    program.broadcast()
    program.go_on()


def wrong_function(program: Program) -> None:
    """One rank calls Barrier where the others call something else."""
    call = program.random.choice(["Allreduce", "Bcast", "Alltoall"])
    with inject.wrong_call(call, rank=program.victim):
        {"Allreduce": program.reduce, "Bcast": program.broadcast, "Alltoall": program.transpose}[call]()
    program.go_on()


def wrong_count(program: Program) -> None:
    """One rank gives an element less."""
    call = program.random.choice(["Allreduce", "Bcast"])
    with inject.wrong_count(call, rank=program.victim):
        (program.reduce if call == "Allreduce" else program.broadcast)()
    program.go_on()


def wrong_root(program: Program) -> None:
    """One rank takes another for the root."""
    with inject.wrong_root("Bcast", rank=program.victim):
        program.broadcast()
    program.go_on()


def wrong_op(program: Program) -> None:
    """One rank reduces by another op."""
    with inject.wrong_op("Allreduce", rank=program.victim):
        program.reduce()
    program.go_on()


def cycle(program: Program) -> None:
    """Some ranks wait for each other's messages in a cycle."""
    ranks = program.random.sample(range(program.size), program.random.randint(2, program.size))
    inject.receive_cycle(program.comm, ranks)
    program.go_on()


def knot(program: Program) -> None:
    """Some ranks, or all, wait for messages from whichever rank."""
    ranks = program.random.sample(range(program.size), program.random.randint(2, program.size))
    inject.any_source_knot(program.comm, ranks)
    program.go_on()


def slow_2(program: Program) -> None:
    """One rank computes twice as long."""
    _slow(program, 2.0)


def slow_1_3(program: Program) -> None:
    """One rank computes 1.3 times as long."""
    _slow(program, 1.3)


def _slow(program: Program, factor: float) -> None:
    own = Random(program.rank)
    slowed = inject.slow(factor, rank=program.victim)
    total = np.empty(100)
    healthy, end = program.random.randint(40, 120), None
    for step in itertools.count():
        seconds = COMPUTE_SECONDS * own.uniform(0.95, 1.05)
        if step < healthy:
            time.sleep(seconds)
        else:
            end = end or time.monotonic() + SECONDS_TO_BE_FOUND
            with slowed:
                time.sleep(seconds)
        program.comm.Allreduce(np.ones(100), total)
        if end is not None and program.comm.bcast(time.monotonic() > end):
            return


def links_by_halos(program: Program) -> None:
    """Exchange messages with two ranks at a time, completed together, while somebody slows a link down."""
    comm, size, own = program.comm, program.size, program.rank
    out, into = np.ones(100), np.empty((2, 100))

    def exchange(by: int) -> None:
        one, other = (own - by) % size, (own + by) % size
        requests = [comm.Irecv(into[0], one, 1), comm.Irecv(into[1], other, 2)]
        requests += [comm.Isend(out, other, 1), comm.Isend(out, one, 2)]
        MPI.Request.Waitall(requests)

    _over_links(program, exchange)


def links_by_shifts(program: Program) -> None:
    """The same with one blocking call for each message."""
    comm, size, own = program.comm, program.size, program.rank
    out, into = np.ones(100), np.empty(100)

    def exchange(by: int) -> None:
        comm.Sendrecv(out, (own + by) % size, 0, into, (own - by) % size, 0)

    _over_links(program, exchange)


def _over_links(program: Program, exchange: Callable[[int], None]) -> None:
    comm, total = program.comm, np.empty(1)
    end = time.monotonic() + 2 * SECONDS_TO_BE_FOUND
    for step in itertools.count():
        if step == 20 and program.rank == 0:
            print("ready", flush=True)
        exchange(1 + step % (program.size - 1))
        comm.Allreduce(np.ones(1), total)
        if step % 20 == 0 and comm.bcast(time.monotonic() > end):
            return


PROGRAMS: dict[str, Callable[[Program], None]] = {
    "killed": killed,
    "stopped": stopped,
    "hanging": hanging,
    "hanging-in-c": hanging_in_c,
    "skipped": skipped,
    "wrong-function": wrong_function,
    "wrong-count": wrong_count,
    "wrong-root": wrong_root,
    "wrong-op": wrong_op,
    "cycle": cycle,
    "knot": knot,
    "slow-2": slow_2,
    "slow-1.3": slow_1_3,
    "slow-link": links_by_halos,
    "netlab": links_by_shifts,
}


def main(case: str, seed: int) -> None:
    """Be a rank of a case."""
    program = Program(seed)
    program.work(5, 40)
    PROGRAMS[case](program)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
