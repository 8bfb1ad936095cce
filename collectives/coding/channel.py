"""Messages of one training, which are told from those of others on the same ranks.

A training may end while a worker is late. Its messages after that must not be taken for something that a
later training waits for: objects carry the number of their training, and arrays go with tags that are named
in an object before and come again only after many others.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from itertools import compress, count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datatypes.plain import MPI
from . import unfinished
from .gone import Gone
from .shown import NodeMemory
from .waiting import Backoff, Waited

Vector = NDArray[Any]

# For objects to workers, who look for a NOTICE while they compute, and for those to the master.
# FAREWELL is the last message to a rank.
CONTROL, NOTICE, REPORT, FAREWELL = 1, 2, 3, 4
# Tags of arrays: of those that the sender names, and of those that the receiver asks for.
_SENT, _ASKED, _TAGS = 1000, 16000, 15000
# How long after the last round the others' farewells are waited for.
_PARTING_SECONDS = 2.0
_MOST_KEPT = 256
_numbers = count()


def next_tag(is_asked: bool) -> int:
    """A tag for an array that this process sends, or asks for."""
    return (_ASKED if is_asked else _SENT) + next(_numbers) % _TAGS


class _Arriving(NamedTuple):
    """An object that is being received."""

    request: MPI.Request
    data: bytearray
    rank: int
    tag: int


class Channel:
    """Sends and receives for one training, and never waits for a rank; made by all ranks together.

    Parameters
    ----------
    comm : Intracomm
        Which only coded gradients use.
    number : int
        Of the training; the same on all ranks.
    lost_after : float
        Seconds after which a rank that does not answer is counted out.

    Attributes
    ----------
    rank, size : int
    memory : NodeMemory
    gone : Gone
        Ranks that are not waited for.
    owing : dict of int to int
        Ranks that have not said farewell to this one as often as this one has to them.
    """

    def __init__(self, comm: MPI.Intracomm, number: int, lost_after: float) -> None:
        self.comm, self._number, self.lost_after = comm, number, lost_after
        # Messages under way, and their memory, which must live until then.
        self._requests: list[MPI.Request] = []
        self._kept: list[Any] = []
        self._arriving: list[_Arriving] = []
        self._receives: list[tuple[MPI.Request, Vector]] = []
        self.rank, self.size = comm.rank, comm.size
        self.owing: dict[int, int] = {}
        self.memory, self.gone = NodeMemory(comm), Gone(comm)
        unfinished.finish(comm)

    def attempt(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call of MPI returns; None if it fails because a rank is lost."""
        try:
            return call(*arguments)
        except MPI.Exception:
            if not self.gone.ask():
                raise
            return None

    def send(self, message: Any, rank: int, tag: int) -> None:
        """Send an object, some time."""
        data = pickle.dumps((self._number, message), pickle.HIGHEST_PROTOCOL)
        self._keep(self._begin(self.comm.Isend, [data, MPI.BYTE], rank, tag), data)

    def _begin(self, call: Callable[..., Any], buffer: Any, rank: int, tag: int) -> MPI.Request:
        """The request of a message, which is null if the other rank is lost."""
        return self.attempt(call, buffer, rank, tag) or MPI.REQUEST_NULL

    def receive(self, source: int, tag: int) -> tuple[Any, int] | None:
        """An object and who sent it, if one is here."""
        if self._arriving:
            self._arriving = [each for each in self._arriving if each.rank not in self.gone.dead]
            for each in [each for each in self._arriving if each.tag == tag]:
                is_here = source in (each.rank, MPI.ANY_SOURCE) and self.attempt(each.request.Test)
                if is_here:
                    self._arriving.remove(each)
                    number, message = pickle.loads(each.data)
                    if number == self._number:
                        return message, each.rank
                elif source == each.rank:
                    # Messages of one rank keep their order; of others there may be some.
                    return None
        status = MPI.Status()
        while (found := self.attempt(self.comm.Improbe, source, tag, status)) is not None:
            data, rank = bytearray(status.Get_elements(MPI.BYTE)), status.source
            request = self.attempt(found.Irecv, [data, MPI.BYTE])
            if request is None:
                continue
            if self.attempt(request.Test):
                number, message = pickle.loads(data)
                if number == self._number:
                    return message, rank
            else:
                self._arriving.append(_Arriving(request, data, rank, tag))
        return None

    def has_sent(self, rank: int, tag: int) -> bool:
        """Whether something of a rank is here."""
        return bool(self._arriving or self.attempt(self.comm.Iprobe, rank, tag))

    def has_left(self, rank: int) -> bool:
        """Whether a rank has come to the end of this training."""
        return self._drain(rank) and bool(self.attempt(self.comm.Iprobe, rank, FAREWELL))

    def send_array(self, array: Vector, rank: int, tag: int) -> MPI.Request:
        """Send the bytes of an array without gaps, some time; it must not change meanwhile."""
        request = self._begin(self.comm.Isend, array.view(np.uint8), rank, tag)
        self._keep(request, array)
        return request

    def receive_array(self, array: Vector, rank: int, tag: int) -> MPI.Request:
        """Receive the bytes of an array; the end of the training ends that, too."""
        request = self._begin(self.comm.Irecv, array.view(np.uint8), rank, tag)
        self._receives.append((request, array))
        return request

    def _keep(self, request: MPI.Request, memory: Any) -> None:
        self._requests.append(request)
        self._kept.append(memory)

    @property
    def is_busy(self) -> bool:
        """Whether anything is still under way."""
        return bool(self._requests)

    def settle(self) -> None:
        """Let go what has been sent and received."""
        if self._receives:
            self._receives = [each for each in self._receives if each[0]]
        if self._requests and self.attempt(MPI.Request.Testsome, self._requests) != []:
            are_left = list(map(bool, self._requests))
            self._requests = list(compress(self._requests, are_left))
            self._kept = list(compress(self._kept, are_left))

    # The end --------------------------------------------------------------------------------------

    def part(self, others: Iterable[int]) -> None:
        """Leave no message behind: receive all that others sent before they, too, came to the end.

        What is left on a communicator may come to one that is made when it is freed. Who does not answer soon
        is waited for when the process ends.
        """
        for rank in others:
            self.owing[rank] = self.owing.get(rank, 0) + 1
            self.send(None, rank, FAREWELL)
        self.finish(_PARTING_SECONDS)
        for request, array in self._receives:
            self.attempt(request.Cancel)
            self._keep(request, array)
        for each in self._arriving:
            self._keep(each.request, each.data)
        self._receives.clear()
        self._arriving.clear()
        if not self.is_over():
            unfinished.add(self)

    def finish(self, seconds: float) -> bool:
        """Wait until nothing is under way any more; tell whether it came to that."""
        waited, backoff = Waited(), Backoff()
        while not (is_over := self.is_over()) and waited.look() < seconds:
            backoff.pause()
        return is_over

    def is_over(self) -> bool:
        """Whether nothing is under way any more, of what this rank has begun and others have for it."""
        self.settle()
        self.come_back()
        return not (self.owing or self._requests)

    def come_back(self) -> list[int]:
        """Ranks that had not come to the end, and now have."""
        return [rank for rank in list(self.owing) if self._drain(rank)]

    def _drain(self, rank: int) -> bool:
        """Receive what a rank sent before its farewells, in its order; tell whether it owes none any more."""
        status, improbe = MPI.Status(), self.comm.Improbe
        if rank in self.gone.dead:
            self.owing.pop(rank, None)
        while rank in self.owing and (found := self.attempt(improbe, rank, MPI.ANY_TAG, status)) is not None:
            data = bytearray(status.Get_elements(MPI.BYTE))
            request = self.attempt(found.Irecv, [data, MPI.BYTE])
            if request is None or status.tag != FAREWELL:
                self._keep(request or MPI.REQUEST_NULL, data)
                continue
            # So few bytes come with what announces them.
            if self.attempt(request.Wait) and pickle.loads(data)[0] == self._number:
                self.owing[rank] -= 1
                if not self.owing[rank]:
                    del self.owing[rank]
        return rank not in self.owing


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
