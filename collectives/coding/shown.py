"""Memory that the ranks of a node show each other: what lies in it need not be sent.

Each array is a file in memory without a name, of which nothing is left when its process ends. Another rank
finds it by the process and its number there, and makes sure by its inode that it is the same file still.
"""

from __future__ import annotations

import errno
import os
import resource
from mmap import PROT_READ, mmap
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...datatypes.plain import MPI

Bytes = NDArray[np.uint8]

# The part of the files that a process may have open that arrays may take, its own and those that it sees.
_SHARE_OF_FILES = 1 / 4
# A mapping has a descriptor of its own.
_FILES_OF_AN_ARRAY = 2
_MANY_FILES = 1 << 14
# A process may open no more files, the machine may not, or there is no memory for a mapping.
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Shown(NamedTuple):
    """Where an array lies that its rank shows.

    Attributes
    ----------
    process, file, inode : int
    nbytes : int
    """

    process: int
    file: int
    inode: int
    nbytes: int


class NotShown(OSError):
    """An array is not there any more: its rank has freed it, or ended."""


class NodeMemory:
    """Arrays that ranks of a node show each other; made by all ranks of a communicator together.

    Where there is no such memory, or ranks of one node do not see each other's processes, all is as if each
    rank were alone on its node.

    Parameters
    ----------
    comm : Intracomm

    Attributes
    ----------
    seers : frozenset of int
        Ranks that see this one's arrays, and whose arrays this one sees.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._places: dict[int, Shown] = {}
        self._seen: dict[Shown, Bytes] = {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = _MANY_FILES if limit == resource.RLIM_INFINITY else min(limit, _MANY_FILES)
        self._most = int(_SHARE_OF_FILES * files / 2 / _FILES_OF_AN_ARRAY)
        self.seers: frozenset[int] = frozenset(range(comm.size)) - {comm.rank}
        trial = self.room(8) if hasattr(os, "memfd_create") else np.zeros(8, np.uint8)
        trial.view(np.int64)[0] = token = int.from_bytes(os.urandom(7), "little")
        place = self.shown(trial, next(iter(self.seers), -1))
        everyone = comm.allgather((MPI.Get_processor_name(), place, token))
        here = everyone[comm.rank][0]
        seen = {
            rank
            for rank, (node, other, expected) in enumerate(everyone)
            if node == here and self._is_seen(other, expected)
        }
        sees = comm.allgather(seen)
        self.seers = frozenset(rank for rank in seen - {comm.rank} if comm.rank in sees[rank])
        self._seen.clear()

    def _is_seen(self, place: Shown | None, token: int) -> bool:
        try:
            return place is not None and int(self.look(place).view(np.int64)[0]) == token
        except OSError:
            # Also where ranks may not look at each other.
            return False

    def room(self, nbytes: int) -> Bytes:
        """Memory for an array, which is shown if anybody sees it."""
        if not self.seers or not nbytes or len(self._places) >= self._most:
            return np.empty(nbytes, np.uint8)
        try:
            file = os.memfd_create("roundelay")
        except OSError:
            return np.empty(nbytes, np.uint8)
        try:
            # A file with holes would end a rank that writes where no memory is left.
            os.posix_fallocate(file, 0, nbytes)
            array = np.frombuffer(mmap(file, nbytes), np.uint8)
        except OSError:
            os.close(file)
            return np.empty(nbytes, np.uint8)
        address = array.ctypes.data
        self._places[address] = Shown(os.getpid(), file, os.fstat(file).st_ino, nbytes)
        finalize(array, self._forget, address).atexit = False
        return array

    def _forget(self, address: int) -> None:
        os.close(self._places.pop(address).file)

    def shown(self, array: NDArray[Any], rank: int) -> Shown | None:
        """Where an array lies that is all of a `room`, if a rank sees it."""
        return self._places.get(array.ctypes.data) if rank in self.seers else None

    def look(self, place: Shown) -> Bytes:
        """The array that another rank shows, to be read; raises `NotShown` if it is not there any more.

        Raises `OSError` where this process may open no more files.
        """
        found = self._seen.get(place)
        if found is None:
            if len(self._seen) >= self._most:
                self._seen.clear()
            try:
                found = _mapped(place)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._seen.clear()
                found = _mapped(place)
            self._seen[place] = found
        return found


def _mapped(place: Shown) -> Bytes:
    name = f"/proc/{place.process}/fd/{place.file}"
    try:
        file = os.open(name, os.O_RDONLY)
    except (FileNotFoundError, PermissionError) as error:
        # Its process has ended, and another one may have its number.
        raise NotShown(f"{name}: not there any more ({error.strerror})") from None
    try:
        found = os.fstat(file)
        if (found.st_ino, found.st_size) != (place.inode, place.nbytes):
            raise NotShown(f"{name}: another file than inode {place.inode} of {place.nbytes} bytes")
        return np.frombuffer(mmap(file, place.nbytes, prot=PROT_READ), np.uint8)
    finally:
        os.close(file)
