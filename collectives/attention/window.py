"""Memory of a node in which each rank publishes what the others read in place, without a message."""

from __future__ import annotations

from mmap import mmap

import numpy as np

from ...datatypes.plain import MPI
from ..service import Service
from ..shared import share
from .tiles import Array


class Window:
    """Room for the bytes of each rank, twice: while some still read, others publish anew.

    Parameters
    ----------
    comm : Intracomm
        Its ranks share a node.
    nbytes : int
    mapped : mmap
        What they all map, twice as many bytes for each of them.
    """

    def __init__(self, comm: MPI.Intracomm, nbytes: int, mapped: mmap) -> None:
        self.nbytes = nbytes
        self._comm = comm
        memory = np.frombuffer(mapped, np.uint8)
        self._halves = memory[: 2 * nbytes * comm.size].reshape(2, comm.size, nbytes)
        self._turn = 0

    def mine(self, nbytes: int) -> Array:
        """Where this rank publishes next.

        Who has met the others once more knows that all have read what they met for the time before.
        """
        self._turn ^= 1
        return self.of(self._comm.rank, nbytes)

    def of(self, rank: int, nbytes: int) -> Array:
        """The bytes that a rank has published, once all have met."""
        part: Array = self._halves[self._turn, rank, :nbytes]
        return part

    def meet(self) -> MPI.Request:
        """Begin to wait until all have published."""
        return self._comm.Ibarrier()


def window_of(service: Service, comm: MPI.Intracomm, nbytes: int) -> Window | None:
    """The window of a communicator, with room for `nbytes` of each rank; called by all ranks alike.

    Its ranks meet on `comm`. None, with a warning, where there is no room.
    """
    found: Window | None = service.kept.get("window")
    if found is None or found.nbytes < nbytes:
        mapped = share(comm, max(1, 2 * nbytes * comm.size))
        if mapped is None:
            return None
        found = service.kept["window"] = Window(comm, nbytes, mapped)
    return found
