"""Some ranks of a communicator in an order, the messages between them, and how much was sent.

A member is known by its place in the order. Messages go over the communicator that roundelay has for
itself, if all ranks of the communicator take part or one was made before; else over the program's own, with
tags that a program hardly uses. No communicator is made for a list of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import sched_yield
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ...comm.communicators import Comm
from ...datatypes.plain import MPI
from ..memory import memory_of
from ..service import known_service, service_of

Array = NDArray[Any]

# Tags of different lists of ranks differ, so that what two lists have under way does not mix.
_FIRST_TAG = 20000
_LISTS = 1500
_PURPOSE = "attention"
# Kinds of messages that do not wait for one another, and the one by which members meet: its tag is the same
# for all lists, so that two who call with different ones find out.
LANES = 8
MEETING = -1
# They stage arrays on a GPU where the MPI library cannot read them.
_isend: Callable[..., MPI.Request] = Comm.Isend
_irecv: Callable[..., MPI.Request] = Comm.Irecv


@dataclass
class Traffic:
    """Traffic that this rank sent.

    Attributes
    ----------
    messages : int
    bytes : int
    """

    messages: int = 0
    bytes: int = 0


_counting: list[Traffic] = []


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the messages and bytes that this rank sends for attention.

    What ranks say to each other before the first call with some shapes is not counted.

    Examples
    --------
    >>> with count_traffic() as sent:
    ...     pass
    >>> sent
    Traffic(messages=0, bytes=0)
    """
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


class Group:
    """Members of a communicator in an order.

    Parameters
    ----------
    comm : Intracomm
    ranks : sequence of int, optional
        The members in their order, this rank among them; all ranks of `comm` if not given.

    Raises
    ------
    ValueError
        A rank that is not in the communicator or twice in the list, or this rank is not in it.
    """

    def __init__(self, comm: MPI.Intracomm, ranks: Sequence[int] | None = None) -> None:
        size = comm.Get_size()
        self.ranks = tuple(range(size)) if ranks is None else tuple(int(rank) for rank in ranks)
        if len(set(self.ranks)) < len(self.ranks) or not set(self.ranks) <= set(range(size)):
            raise ValueError(f"ranks {self.ranks}: expected different ranks from 0 to {size - 1}")
        if comm.Get_rank() not in self.ranks:
            raise ValueError(f"ranks {self.ranks}: rank {comm.Get_rank()} calls, and is not among them")
        self.index = self.ranks.index(comm.Get_rank())
        self._tag = _tag(self.ranks)
        self.program, self.everyone = comm, ranks is None
        self.comm = _communicator(comm, ranks is None)

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self.ranks)

    def part(self, places: Sequence[int]) -> Group:
        """The members at some places, this rank among them, as a group of its own."""
        part: Group = object.__new__(Group)
        part.ranks = tuple(self.ranks[place] for place in places)
        part.index = part.ranks.index(self.ranks[self.index])
        part._tag = _tag(part.ranks)
        part.comm, part.program, part.everyone = self.comm, self.program, False
        return part

    def send(self, array: Array, member: int, lane: int = 0, counted: bool = True) -> MPI.Request:
        """Begin to send a contiguous array; nothing is sent of an empty one. A lane keeps its order."""
        if not array.nbytes:
            return MPI.REQUEST_NULL
        for traffic in _counting if counted else ():
            traffic.messages += 1
            traffic.bytes += array.nbytes
        memory_of(array).settle()
        return _isend(self.comm, _as_bytes(array), self.ranks[member], self._tag_of(lane))

    def receive(self, array: Array, member: int, lane: int = 0) -> MPI.Request:
        """Begin to receive into a contiguous array; nothing is received into an empty one."""
        if not array.nbytes:
            return MPI.REQUEST_NULL
        memory_of(array).settle()
        return _irecv(self.comm, _as_bytes(array), self.ranks[member], self._tag_of(lane))

    def _tag_of(self, lane: int) -> int:
        return (_FIRST_TAG if lane == MEETING else self._tag) + lane


def _tag(ranks: tuple[int, ...]) -> int:
    return _FIRST_TAG + LANES * (crc32(repr(ranks).encode()) % _LISTS)


def _communicator(comm: MPI.Intracomm, everyone: bool) -> MPI.Intracomm:
    service = service_of(comm) if everyone else known_service(comm)
    if service is not None and (everyone or service.has_private(_PURPOSE)):
        return service.private(_PURPOSE)
    return MPI.Intracomm(comm)


def _as_bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def progress(requests: Sequence[MPI.Request]) -> bool:
    """Let messages go on; tell whether all are through."""
    return MPI.Request.Testall(requests)


def wait(requests: Sequence[MPI.Request]) -> None:
    """Wait until messages are through, and leave the processor to ranks that share it meanwhile."""
    while not progress(requests):
        sched_yield()
