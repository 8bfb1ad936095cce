"""Messages of one training, which are told from those of others on the same ranks.

A training may end while a worker is late. What it then still sends must not be taken for something that a
later training waits for: objects carry the number of their training, and arrays go with tags that are named
in an object before and come again only after many others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import count
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datatypes.plain import MPI
from .shown import NodeMemory

Vector = NDArray[Any]

# For objects to workers, who look at ABANDON while they compute, and for those to the master.
# FAREWELL is the last message to a rank.
CONTROL, ABANDON, REPORT, FAREWELL = 1, 2, 3, 4
# Tags of arrays: of those that the sender names, and of those that the receiver asks for.
_SENT, _ASKED, _TAGS = 1000, 16000, 15000
# How long after the last round messages may still be under way.
PARTING_SECONDS = 2.0
_SPINS, _SHORTEST_SECONDS, _LONGEST_SECONDS = 20, 50e-6, 1e-3
_MOST_KEPT = 256
_numbers = count()


def next_tag(is_asked: bool) -> int:
    """A tag for an array that this process sends, or asks for."""
    return (_ASKED if is_asked else _SENT) + next(_numbers) % _TAGS


class Channel:
    """Sends and receives for one training; made by all ranks together.

    Parameters
    ----------
    comm : Intracomm
        Which only coded gradients use.
    number : int
        Of the training; the same on all ranks.

    Attributes
    ----------
    rank, size : int
    memory : NodeMemory
    """

    def __init__(self, comm: MPI.Intracomm, number: int) -> None:
        self._comm, self._number = comm, number
        self._sends: list[MPI.Request] = []
        # What is being sent, which must live until then.
        self._sent: list[Any] = []
        self.rank, self.size = comm.rank, comm.size
        self.memory = NodeMemory(comm)

    def send(self, message: Any, rank: int, tag: int) -> None:
        """Send an object, some time."""
        self._sends.append(self._comm.isend((self._number, message), rank, tag))
        self._sent.append(message)

    def receive(self, source: int, tag: int) -> tuple[Any, int] | None:
        """An object and who sent it, if one is there."""
        status = MPI.Status()
        while (found := self._comm.improbe(source, tag, status)) is not None:
            number, message = found.recv()
            if number == self._number:
                return message, status.source
        return None

    def send_array(self, array: Vector, rank: int, tag: int) -> None:
        """Send the bytes of an array without gaps, some time; it must not change."""
        self._sends.append(self._comm.Isend(array.view(np.uint8), rank, tag))
        self._sent.append(array)

    def receive_array(self, array: Vector, rank: int, tag: int) -> MPI.Request:
        """Receive the bytes of an array."""
        return self._comm.Irecv(array.view(np.uint8), rank, tag)

    @property
    def is_sending(self) -> bool:
        """Whether anything is still to be sent."""
        return bool(self._sends)

    def settle(self) -> None:
        """Let go what has been sent."""
        if not self._sends:
            return
        for place in sorted(MPI.Request.Testsome(self._sends) or (), reverse=True):
            del self._sends[place], self._sent[place]

    def part(self, others: Iterable[int]) -> None:
        """Leave no message behind: receive all that others sent before they, too, came to the end.

        What is left on a communicator may come to one that is made when it is freed. Who does not answer is
        not waited for.
        """
        end, backoff, waiting = perf_counter() + PARTING_SECONDS, Backoff(), set(others)
        for rank in waiting:
            self.send(None, rank, FAREWELL)
        while (waiting or self._sends) and perf_counter() < end:
            self.settle()
            waiting = {rank for rank in waiting if not self._drain(rank)}
            backoff.pause()

    def _drain(self, rank: int) -> bool:
        """Receive what a rank sent, in its order; tell whether its farewell was among it."""
        status = MPI.Status()
        while (found := self._comm.Improbe(rank, MPI.ANY_TAG, status)) is not None:
            data = bytearray(status.Get_elements(MPI.BYTE))
            found.Recv([data, MPI.BYTE])
            if status.tag == FAREWELL and MPI.pickle.loads(data)[0] == self._number:
                return True
        return False


class Spares:
    """Vectors whose memory is kept for others: new memory is slow where it is first touched.

    Parameters
    ----------
    room : callable
        `room(nbytes)` returns new memory.
    """

    def __init__(self, room: Callable[[int], Vector]) -> None:
        self._room = room
        self._kept: list[Vector] = []

    def keep(self, vector: Vector) -> None:
        """Take back a vector that nobody reads any more."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(vector)

    def take(self, length: int, dtype: np.dtype[Any]) -> Vector:
        """A vector with anything in it; those of another kind are let go."""
        while self._kept:
            vector = self._kept.pop()
            if (vector.size, vector.dtype) == (length, dtype):
                return vector
        return self._room(length * dtype.itemsize).view(dtype)


class Backoff:
    """Waiting that first gives way to others and then sleeps: ranks may be more than processors.

    Who has waited for long sleeps for longer, by a twentieth of the time.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Something came."""
        self._begun, self._spins = perf_counter(), 0

    def pause(self) -> None:
        """Nothing came."""
        self._spins += 1
        if self._spins < _SPINS:
            os.sched_yield()
            return
        waited = perf_counter() - self._begun
        sleep(min(max(waited / 20, _SHORTEST_SECONDS), _LONGEST_SECONDS))
