"""The communicator for the messages of schedules: one for all communicators of the same processes.

Each communicator has a range of tags on it, whose number its ranks agree on. MPICH has no more than some two
thousand communicators, and programs make them freely.
"""

from __future__ import annotations

from mmap import mmap
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np

from ..datatypes.plain import MPI

# Operations under way at the same time on one communicator, as many persistent ones, and lanes of each.
_SEQUENCE = 256
_LANES = 64
_TAGS = 2 * _SEQUENCE * _LANES
# Ranges of tags, in words of bits; MPI allows as many tags as one of them has.
_WORDS, _BITS = 16, 64
# Bits of a rank in an agreement: no other thread of it agrees meanwhile, and it has a duplicate.
_ALONE, _HAS_ONE = 1, 2


class Duplicate:
    """A communicator for messages, and which ranges of tags are free on it; collective over `comm`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = MPI.Intracomm(comm).Dup()
        last: Any = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB)
        self.ranges: int = min(_WORDS * _BITS, (last + 1) // _TAGS)
        self.free: int = (1 << self.ranges) - 1
        # Memory that communicators with the first range shared, one after another.
        self.mapped: mmap | None = None

    @property
    def is_used(self) -> bool:
        """Whether any range of tags is taken."""
        return self.free != (1 << self.ranges) - 1

    def words(self) -> Any:
        """The free ranges, as an array of bits."""
        return np.frombuffer(self.free.to_bytes(_WORDS * _BITS // 8, "little"), np.uint64)


class Duplicates:
    """The duplicates of communicators of the same processes, of which there is one, but for rare cases.

    Parameters
    ----------
    lasting : bool
        Whether it is kept when no communicator uses it.
    """

    def __init__(self, lasting: bool) -> None:
        self._lasting = lasting
        self._current: Duplicate | None = None
        # Nobody waits for it: who does not get it says so to the other ranks.
        self._agreeing = Lock()

    def take(self, comm: MPI.Intracomm) -> Tags:
        """Tags for a communicator; collective over it.

        Where another thread of some rank agrees for another communicator at the same time, the ranks might
        agree in different orders; this one then has a duplicate for itself alone.
        """
        is_alone = self._agreeing.acquire(blocking=False)
        try:
            current = self._current if is_alone else None
            if current is not None and current.comm.Is_revoked():
                # Since a rank was lost; those that are left make another one.
                current = None
            offer = np.zeros(1 + _WORDS, np.uint64)
            offer[0] = _ALONE * is_alone | _HAS_ONE * (current is not None)
            if current is not None:
                offer[1:] = current.words()
            comm.Allreduce(MPI.IN_PLACE, offer, MPI.BAND)
            state, free = int(offer[0]), int.from_bytes(offer[1:].tobytes(), "little")
            if not state & _ALONE:
                return self._tags(Duplicate(comm), 0)
            if current is None or not state & _HAS_ONE or not free:
                current, free = Duplicate(comm), 1
                self._current = current
            return self._tags(current, (free & -free).bit_length() - 1)
        finally:
            if is_alone:
                self._agreeing.release()

    def _tags(self, duplicate: Duplicate, number: int) -> Tags:
        duplicate.free &= ~(1 << number)
        return Tags(self, duplicate, number)

    def give_back(self, duplicate: Duplicate, number: int) -> None:
        """Free a range of tags, and the duplicate with its last one."""
        duplicate.free |= 1 << number
        if duplicate.is_used:
            return
        if duplicate is not self._current:
            duplicate.comm.Free()
        elif not self._lasting and self._agreeing.acquire(blocking=False):
            # Else a communicator is about to take it.
            self._current = None
            self._agreeing.release()
            duplicate.comm.Free()


class Tags:
    """A range of tags on a duplicate, given back when nothing refers to it any more.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        The communicator for messages with these tags.
    under_way : dict
        By its first tag, the last nonblocking operation that has begun with it.
    """

    def __init__(self, duplicates: Duplicates, duplicate: Duplicate, number: int) -> None:
        self.comm = duplicate.comm
        self._duplicate, self._number = duplicate, number
        self._begun = self._prepared = 0
        self.under_way: dict[int, Any] = {}
        self._returned = finalize(self, duplicates.give_back, duplicate, number)
        self._returned.atexit = False

    def next(self) -> int:
        """The first of the tags of the next operation, of those that all ranks begin in the same order."""
        self._begun = (self._begun + 1) % _SEQUENCE
        return self._first(self._begun)

    @property
    def has_persistent(self) -> bool:
        """Whether there are tags left for a persistent operation, which may live as long as these."""
        return self._prepared < _SEQUENCE

    def next_persistent(self) -> int:
        """The first of the tags of a persistent operation, which ranks may start in any order."""
        self._prepared += 1
        return self._first(_SEQUENCE + self._prepared - 1)

    def _first(self, operation: int) -> int:
        return self._number * _TAGS + operation * _LANES

    def retire(self) -> None:
        """Never give the range to another communicator: messages may be left that nobody received."""
        self._returned.detach()

    @property
    def mapped(self) -> mmap | None:
        """Memory that an earlier communicator with these tags has shared."""
        return self._duplicate.mapped if self._number == 0 else None

    @mapped.setter
    def mapped(self, mapped: mmap) -> None:
        if self._number == 0:
            self._duplicate.mapped = mapped
