"""Correct programs that are drawn from a seed each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np

from benchmarks.checked_collectives import COLLECTIVES
from roundelay import MPI

WORLD = MPI.COMM_WORLD
# Messages of different phases have different tags, if they do not part by a barrier.
TAGS_OF_A_PHASE = 64
PHASES_WITH_TAGS = 250
# Long enough for a rendezvous, now and then.
LONG = 20_000
NAP = 1e-4

Requests = list[tuple[Any, Callable[[], None]]]


class Message(NamedTuple):
    """From one rank to another; its number is its first element."""

    number: int
    source: int
    dest: int
    length: int

    def content(self) -> Any:
        """The array that is sent."""
        return np.full(self.length, float(self.number))

    def check(self, received: Any) -> None:
        """Check what has been received."""
        assert (received[: self.length] == self.number).all(), self


class RandomProgram:
    """A correct program, drawn from a seed: phases that the ranks of some communicator go through in turn.

    Attributes
    ----------
    common
        The same on all ranks; drawn anew for each phase.
    own
        Of this rank alone.
    comms
        What this rank has of each communicator; None where it is no member.
    pending
        Nonblocking collectives under way, with what checks their results.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.own = Random(f"{seed} {WORLD.rank}")
        self.comms: list[Any] = [WORLD]
        self.pending: Requests = []
        self.tag = 0

    def run(self) -> None:
        """Run all phases, and free what they have made."""
        phases = Random(self.seed).randint(3, 10)
        for phase in range(phases):
            self.common = Random(f"{self.seed} {phase}")
            self.tag = (self.seed * 10 + phase) % PHASES_WITH_TAGS * TAGS_OF_A_PHASE
            act = self.common.choice(PHASES)
            comm = self.common.choice(self.comms) if act not in MAKERS else self.comms[0]
            if self.own.random() < 0.2:
                time.sleep(self.own.random() * 0.003)
            if comm is not None:
                act(self, comm)
            if self.own.random() < 0.3:
                self.complete()
        self.complete()
        for comm in self.comms[1:]:
            if comm is not None:
                comm.Free()

    def complete(self) -> None:
        """Wait for what is under way."""
        for request, check in self.pending:
            while self.own.random() < 0.5 and not request.Test():
                time.sleep(NAP)
            request.Wait()
            check()
        self.pending.clear()

    def count(self) -> int:
        """Draw how many elements, alike on all ranks."""
        return self.common.choice([0, 1, 2, 10, 100, 1000, LONG])

    def messages(self, size: int) -> list[Message]:
        """Draw messages between ranks of a communicator of that size, none to oneself."""
        pairs = [(a, b) for a in range(size) for b in range(size) if a != b]
        drawn = [self.common.choice(pairs) for _ in range(self.common.randint(1, 3 * size))] if pairs else []
        return [Message(number, *pair, self.count()) for number, pair in enumerate(drawn)]


# Communicators


def split(program: RandomProgram, comm: Any) -> None:
    """Divide a communicator; some ranks may be in no part."""
    colors = [program.common.choice([0, 1, 1, MPI.UNDEFINED]) for _ in range(comm.size)]
    made = comm.Split(colors[comm.rank], program.common.choice([1, -1]) * comm.rank)
    program.comms.append(None if made == MPI.COMM_NULL else made)


def duplicate(program: RandomProgram, comm: Any) -> None:
    """Duplicate a communicator, at once or meanwhile."""
    if program.common.random() < 0.5:
        program.comms.append(comm.Dup())
        return
    made, request = comm.Idup()
    request.Wait()
    program.comms.append(made)


def take_some(program: RandomProgram, comm: Any) -> None:
    """Make a communicator of some ranks, which the others know nothing of."""
    members = program.common.sample(range(comm.size), program.common.randint(1, comm.size))
    if comm.rank not in members:
        program.comms.append(None)
        return
    group = comm.Get_group()
    part = group.Incl(members)
    program.comms.append(comm.Create_group(part, program.tag))
    part.Free()
    group.Free()


def make_grid(program: RandomProgram, comm: Any) -> None:
    """Make a ring, and exchange with the neighbors on it."""
    made = comm.Create_cart([comm.size], periods=[program.common.random() < 0.5])
    out, into = np.ones((2, 5)), np.zeros((2, 5))
    made.Neighbor_alltoall(out, into)
    program.comms.append(made)


# Messages


def post_all(program: RandomProgram, comm: Any) -> None:
    """Post receives and sends in any order, and complete them in one of many ways."""
    own, rank = program.own, comm.rank
    posts: list[Callable[[], tuple[Any, Callable[[], None]]]] = []
    for message in program.messages(comm.size):
        if message.dest == rank:
            posts.append(lambda message=message: _post_receive(program, comm, message))  # type: ignore[misc]
        if message.source == rank:
            posts.append(lambda message=message: _post_send(program, comm, message))  # type: ignore[misc]
    own.shuffle(posts)
    under_way = [post() for post in posts]
    complete_all(own, [request for request, _ in under_way])
    for _, check in under_way:
        check()


def _post_receive(program: RandomProgram, comm: Any, message: Message) -> tuple[Any, Callable[[], None]]:
    buffer = np.empty(message.length + program.own.choice([0, 5]))
    source = MPI.ANY_SOURCE if program.own.random() < 0.3 else message.source
    request = comm.Irecv(buffer, source, program.tag + message.number % TAGS_OF_A_PHASE)
    return request, lambda: message.check(buffer)


def _post_send(program: RandomProgram, comm: Any, message: Message) -> tuple[Any, Callable[[], None]]:
    buffer = message.content()
    send = program.own.choice([comm.Isend, comm.Isend, comm.Issend])
    request = send(buffer, message.dest, program.tag + message.number % TAGS_OF_A_PHASE)
    return request, lambda: message.check(buffer)


def complete_all(own: Random, requests: list[Any]) -> None:
    """Complete requests in a way that is drawn."""
    way = own.randrange(6)
    if way == 0:
        MPI.Request.Waitall(requests)
    elif way == 1:
        own.shuffle(requests)
        for request in requests:
            request.Wait()
    elif way == 2:
        while MPI.Request.Waitany(requests) != MPI.UNDEFINED:
            pass
    elif way == 3:
        while MPI.Request.Waitsome(requests) is not None:
            pass
    elif way == 4:
        while not MPI.Request.Testall(requests):
            time.sleep(NAP)
    else:
        for request in requests:
            while not request.Test():
                time.sleep(NAP)


def in_order(program: RandomProgram, comm: Any) -> None:
    """Send and receive one by one, in an order that is the same on all ranks."""
    for message in program.messages(comm.size):
        if message.source == comm.rank:
            send = program.own.choice([comm.Send, comm.Ssend])
            send(message.content(), message.dest, program.tag)
        elif message.dest == comm.rank:
            buffer = np.empty(message.length)
            receive_one(program, comm, buffer, message.source)
            message.check(buffer)


def receive_one(program: RandomProgram, comm: Any, buffer: Any, source: int) -> None:
    """Receive, with or without looking first."""
    way, status = program.own.randrange(5), MPI.Status()
    if way == 0:
        comm.Probe(source, program.tag, status)
        assert status.Get_count(MPI.DOUBLE) == len(buffer)
    elif way == 1:
        while not comm.Iprobe(source, program.tag):
            time.sleep(NAP)
    elif way == 2:
        comm.Mprobe(source, program.tag).Recv(buffer)
        return
    comm.Recv(buffer, source, program.tag, status)
    assert status.source == source


def from_anyone(program: RandomProgram, comm: Any) -> None:
    """Receive what comes, with any tag from any rank; nobody goes on before all have it."""
    messages = program.messages(comm.size)
    requests = [
        comm.Isend(message.content(), message.dest, message.number)
        for message in messages
        if message.source == comm.rank
    ]
    for _ in range(sum(message.dest == comm.rank for message in messages)):
        buffer, status = np.empty(LONG), MPI.Status()
        comm.Recv(buffer, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        messages[status.tag].check(buffer)
    MPI.Request.Waitall(requests)
    comm.Barrier()


def serve(program: RandomProgram, comm: Any) -> None:
    """One rank answers what the others ask, whoever comes first."""
    asked, server = program.common.randint(1, 4), program.common.randrange(comm.size)
    if comm.rank == server:
        for _ in range(asked * (comm.size - 1)):
            question, status = np.empty(1), MPI.Status()
            comm.Recv(question, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
            comm.Send(question + 1, status.source, status.tag)
    else:
        for number in range(asked):
            answer = np.empty(1)
            comm.Send(np.array([float(number)]), server, number)
            time.sleep(program.own.random() * 0.001)
            comm.Recv(answer, server, number)
            assert answer[0] == number + 1
    comm.Barrier()


def shift(program: RandomProgram, comm: Any) -> None:
    """Exchange along a line that has ends."""
    count, out = program.count(), MPI.PROC_NULL
    out = comm.rank + 1 if comm.rank + 1 < comm.size else out
    source = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    if program.common.random() < 0.5:
        comm.Sendrecv(np.ones(count), out, program.tag, np.empty(count), source, program.tag)
    else:
        comm.Sendrecv_replace(np.ones(count), out, program.tag, source, program.tag)


def persist(program: RandomProgram, comm: Any) -> None:
    """Exchange around a ring by persistent requests."""
    by, count = program.common.randrange(comm.size), program.count()
    out, into = np.full(count, float(comm.rank)), np.empty(count)
    source = (comm.rank - by) % comm.size
    requests = [
        comm.Recv_init(into, source, program.tag),
        comm.Send_init(out, (comm.rank + by) % comm.size, program.tag),
    ]
    for _ in range(program.common.randint(0, 4)):
        MPI.Prequest.Startall(requests)
        complete_all(program.own, list(requests))
        assert (into == source).all()
    for request in requests:
        request.Free()


def pickled(program: RandomProgram, comm: Any) -> None:
    """Objects in place of arrays."""
    root = program.common.randrange(comm.size)
    assert comm.bcast({"a": [1, 2]} if comm.rank == root else None, root) == {"a": [1, 2]}
    assert comm.allreduce(1) == comm.size
    assert len(comm.allgather(comm.rank)) == comm.size
    request = comm.isend(comm.rank, (comm.rank + 1) % comm.size, program.tag)
    assert comm.recv(source=(comm.rank - 1) % comm.size, tag=program.tag) == (comm.rank - 1) % comm.size
    request.wait()


# Collectives


def collective(program: RandomProgram, comm: Any) -> None:
    """One of all collectives: blocking, nonblocking or persistent."""
    name = program.common.choice(list(COLLECTIVES))
    count, root = program.count(), program.common.randrange(comm.size)
    arguments, check = COLLECTIVES[name](comm, count, root)
    form = program.common.choice(["blocking", "blocking", "nonblocking", "persistent"])
    if form == "nonblocking":
        program.pending.append((getattr(comm, "I" + name.lower())(*arguments), check))
    elif form == "persistent":
        request = getattr(comm, f"{name}_init")(*arguments)
        for _ in range(program.common.randint(0, 3)):
            request.Start()
            request.Wait()
            check()
        request.Free()
    else:
        getattr(comm, name)(*arguments)
        check()


MAKERS = [split, duplicate, take_some, make_grid]
MESSAGES = [post_all, post_all, in_order, from_anyone, serve, shift, persist, pickled]
PHASES = [*MAKERS, *MESSAGES, *([collective] * 6)]


def run_random(first: int, programs: int) -> None:
    """Run programs one after another."""
    for seed in range(first, first + programs):
        try:
            RandomProgram(seed).run()
        except BaseException:
            print(f"program {seed} on rank {WORLD.rank} of {WORLD.size}", file=sys.stderr, flush=True)
            raise
