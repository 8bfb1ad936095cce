"""Random programs that are correct MPI: whatever rank is looked at whenever, nothing is wrong with them.

All is drawn in one order, and each rank does its parts in that order: so nobody waits for what cannot come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from roundelay.comm.monitor.judge import Judge
from roundelay.comm.monitor.snapshot import Snapshot
from roundelay.comm.monitor.verdict import Verdict
from tests.simulated_job import Job
from tests.simulated_ranks import ANY, EAGER, FUNCTIONS, WORLD, Program

HANGS = ("dead", "stuck", "deadlock", "mismatch", "leak")
SIZES = (8, EAGER, 8 * EAGER, 64 * EAGER)


class Draw:
    """Draws the parts of all ranks.

    Parameters
    ----------
    generator : numpy.random.Generator
    size : int
        Ranks.
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        self.random, self.size = generator, size
        self.parts: list[list[tuple[Any, ...]]] = [[] for _ in range(size)]
        self.comms: dict[int, tuple[int, ...]] = {}
        half = max(2, size // 2)
        for comm, members in (
            (2, range(size)),
            (3, range(half)),
            (4, range(half, size)),
            (5, range(0, size, 2)),
        ):
            if len(members) > 1:
                self.comms[comm] = tuple(members)
        self._tag = 0

    def draw(self, parts: int) -> None:
        """Draw some parts for everybody."""
        kinds = (
            self.message, self.message, self.message, self.late, self.collective, self.collective, self.shift,
            self.gather, self.any_of, self.serve, self.halo, self.poll, self.nonblocking, self.compute,
            self.compute, self.any_tag,
        )  # fmt: skip
        for _ in range(parts):
            kinds[self.random.integers(len(kinds))]()

    def fresh_tag(self) -> int:
        """A tag that no other part has."""
        self._tag += 1
        return 100 + self._tag

    def pair(self) -> tuple[int, int]:
        """Two ranks."""
        one, other = self.random.choice(self.size, 2, replace=False)
        return int(one), int(other)

    def bytes(self) -> int:
        """The size of a message."""
        return int(self.random.choice(SIZES))

    def compute(self) -> None:
        """Some ranks compute, or sleep a little, or wait for a disk, or stand in a debugger."""
        for rank in range(self.size):
            if self.random.random() < 0.5:
                kind = self.random.random()
                if kind < 0.6:
                    self.parts[rank].append(("compute", float(self.random.exponential(0.02))))
                elif kind < 0.8:
                    self.parts[rank].append(("sleep", float(self.random.uniform(0, 0.8))))
                elif kind < 0.97:
                    self.parts[rank].append(("compute", float(self.random.uniform(0.5, 6))))
                else:
                    self.parts[rank].append(("sleep", float(self.random.uniform(0.5, 6)), "traced"))

    def message(self) -> None:
        """One message, in a random manner on each side."""
        source, dest = self.pair()
        tag, size = int(self.random.integers(4)), self.bytes()
        if self.random.random() < 0.7:
            how = "Ssend" if self.random.random() < 0.2 else "Send"
            self.parts[source].append(("send", dest, tag, size, WORLD, how))
        else:
            self.parts[source].append(("isend_wait", dest, tag, size, int(self.random.integers(3))))
        if self.random.random() < 0.2:
            self.parts[dest].append(("recv", source, tag, WORLD, "Probe"))
        if self.random.random() < 0.7:
            self.parts[dest].append(("recv", source, tag))
        else:
            self.parts[dest].append(("irecv_wait", source, tag, int(self.random.integers(3))))

    def late(self) -> None:
        """Two messages that are received in the other order: the first must not need its receiver."""
        source, dest = self.pair()
        first, second = self.fresh_tag(), self.fresh_tag()
        self.parts[source] += [
            ("isend_wait", dest, first, self.bytes(), 2),
            ("send", dest, second, self.bytes()),
        ]
        self.parts[dest] += [("recv", source, second), ("recv", source, first)]

    def any_tag(self) -> None:
        """A message with any tag, on a communicator where nothing else is."""
        source, dest = self.pair()
        self.parts[source].append(("send", dest, int(self.random.integers(50)), self.bytes(), 2))
        self.parts[dest].append(("recv", source, ANY, 2))

    def group(self) -> tuple[int, tuple[int, ...]]:
        """A communicator and its members."""
        comm = int(self.random.choice([WORLD, *self.comms]))
        return comm, self.comms.get(comm, tuple(range(self.size)))

    def collective(self) -> None:
        """A collective on some communicator."""
        comm, members = self.group()
        function = str(
            self.random.choice(["Bcast", "Reduce", "Allreduce", "Barrier", "Allgather", "Comm_dup"])
        )
        size = -1 if function in ("Barrier", "Comm_dup") else self.bytes()
        root = int(self.random.choice(members)) if function in ("Bcast", "Reduce") else -1
        for rank in members:
            self.parts[rank].append(("collective", function, comm, size, root))

    def nonblocking(self) -> None:
        """A collective that ranks complete later, some of them after other messages."""
        comm, members = self.group()
        function = str(self.random.choice(["Ibarrier", "Iallreduce"]))
        size = -1 if function == "Ibarrier" else self.bytes()
        for rank in members:
            self.parts[rank].append(("begin_collective", function, comm, size))

    def shift(self) -> None:
        """Sendrecv around a ring."""
        comm, members = self.group()
        tag, size = int(self.random.integers(4)), self.bytes()
        for place, rank in enumerate(members):
            dest, source = members[(place + 1) % len(members)], members[place - 1]
            self.parts[rank].append(("sendrecv", dest, source, tag, size, comm))

    def halo(self) -> None:
        """Messages to both neighbours, completed together."""
        tag, size = self.fresh_tag(), self.bytes()
        for rank in range(self.size):
            self.parts[rank].append(("exchange", (rank - 1) % self.size, (rank + 1) % self.size, tag, size))

    def gather(self) -> None:
        """Everyone sends to one, who takes them as they come."""
        root, tag = int(self.random.integers(self.size)), self.fresh_tag()
        for rank in range(self.size):
            if rank != root:
                self.parts[rank].append(("send", root, tag, self.bytes()))
                self.parts[root].append(("recv", -2, tag))

    def any_of(self) -> None:
        """The same with Waitany."""
        root, tag = int(self.random.integers(self.size)), self.fresh_tag()
        others = [rank for rank in range(self.size) if rank != root]
        for rank in others:
            self.parts[rank].append(("send", root, tag, self.bytes()))
        self.parts[root].append(("waitany_all", others, tag))

    def poll(self) -> None:
        """A receiver that looks for its message again and again."""
        source, dest = self.pair()
        tag = self.fresh_tag()
        self.parts[source].append(("send", dest, tag, self.bytes()))
        self.parts[dest] += [("poll", source, tag), ("recv", source, tag)]

    def serve(self) -> None:
        """A server that answers whoever asks; the clients compute in between."""
        server, tag = int(self.random.integers(self.size)), self.fresh_tag()
        clients = [rank for rank in range(self.size) if rank != server]
        requests = int(self.random.integers(1, 3))
        for client in clients:
            for _ in range(requests):
                seconds = float(self.random.exponential(0.3))
                self.parts[client] += [
                    ("compute", seconds),
                    ("send", server, tag, 8),
                    ("recv", server, tag + 100000),
                ]
        self.parts[server].append(("server", len(clients) * requests, tag))

    def program(self, rank: int) -> Program:
        """The parts of a rank as a generator."""
        pending: list[tuple[int, Any]] = []
        for part in self.parts[rank]:
            # Completed some parts later.
            pending = [(left - 1, request) for left, request in pending]
            due = [request for left, request in pending if left < 0]
            if due:
                pending = [(left, request) for left, request in pending if left >= 0]
                yield "waitall", due
            name, *facts = part
            if name == "isend_wait":
                dest, tag, size, left = facts
                pending.append((left, (yield "isend", dest, tag, size)))
            elif name == "irecv_wait":
                source, tag, left = facts
                pending.append((left, (yield "irecv", source, tag)))
            elif name == "begin_collective":
                pending.append((2, (yield "collective", *facts)))
            elif name in _TOGETHER:
                yield from _TOGETHER[name](*facts)
            else:
                yield part
        if pending:
            yield "waitall", [request for _, request in pending]


def _exchange(left: int, right: int, tag: int, size: int) -> Program:
    requests = []
    for peer in (left, right):
        requests.append((yield "irecv", peer, tag))
    for peer in (left, right):
        requests.append((yield "isend", peer, tag, size))
    yield "waitall", requests


def _waitany_all(sources: list[int], tag: int) -> Program:
    requests = []
    for source in sources:
        requests.append((yield "irecv", source, tag))
    while requests:
        requests.remove((yield "waitany", requests))


def _server(requests: int, tag: int) -> Program:
    for _ in range(requests):
        client = yield "recv", -2, tag
        yield "send", client, tag + 100000, 8


_TOGETHER: dict[str, Callable[..., Program]] = {
    "exchange": _exchange,
    "waitany_all": _waitany_all,
    "server": _server,
}


def random_job(seed: int) -> tuple[Job, np.random.Generator]:
    """A random correct program, and what random numbers go on with."""
    generator = np.random.default_rng(seed)
    draw = Draw(generator, int(generator.integers(2, 7)))
    draw.draw(int(generator.integers(3, 40)))
    scale = float(generator.choice([1e-5, 1e-3, 0.03]))
    # A rank that has no core for a while, or a message that was lost once and is sent again.
    late = float(generator.choice([0.0, 0.02]))

    def delay() -> float:
        if generator.random() < late:
            return float(generator.uniform(0, 0.4))
        return float(generator.exponential(scale))

    return Job([draw.program(rank) for rank in range(draw.size)], draw.comms, delay), generator


def snapshots(job: Job, generator: np.random.Generator, limit: float = 5000.0) -> Iterator[Snapshot]:
    """Look at a job until it is over, at random moments; it may be paused as a whole meanwhile."""
    pauses = generator.random() < 0.1
    spread = iter(lambda: float(generator.exponential(1e-3)), None)
    while not job.is_over and job.now < limit:
        job.run(job.now + float(generator.uniform(0.08, 0.2)))
        if pauses and generator.random() < 0.05:
            job.freeze(str(generator.choice(["stopped", "traced"])))
            for _ in range(int(generator.integers(1, 40))):
                job.now += 0.15
                yield job.snapshot()
            job.freeze("")
        elif pauses and generator.random() < 0.05:
            # A machine that was suspended.
            job.freeze("running")
            job.now += float(generator.uniform(2.5, 100))
            job.freeze("")
        yield job.snapshot(spread)
    yield job.snapshot()


def wrong_verdicts(seed: int) -> tuple[list[Verdict], int]:
    """Verdicts on a correct program that say that it hangs, and how many looks there were."""
    job, generator = random_job(seed)
    judge, found, looks = Judge(job.size, FUNCTIONS), [], 0
    for snapshot in snapshots(job, generator):
        found += [verdict for verdict in judge.look(snapshot) if verdict.kind in HANGS]
        looks += 1
    if not job.is_over:
        raise AssertionError(f"program {seed} does not end: the simulator or its generator is wrong")
    return found, looks
