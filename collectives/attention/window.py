"""Memory of a node in which each rank publishes what the others read in place, without a message."""

from __future__ import annotations

import numpy as np

from ...datatypes.plain import MPI
from ..service import Service
from ..shared import map_together
from .tiles import Array


class Window:
    """Room for so many bytes of each rank, twice: while some still read, others publish anew.

    Parameters
    ----------
    comm : Intracomm
        Its ranks share a node, and make the window together.
    nbytes : int

    Raises
    ------
    OSError
        There is no room for it; on all ranks.
    """

    def __init__(self, comm: MPI.Intracomm, nbytes: int) -> None:
        self.nbytes = nbytes
        self._comm = comm
        memory = np.frombuffer(map_together(comm, max(1, 2 * nbytes * comm.size)), np.uint8)
        self._halves = memory[: 2 * nbytes * comm.size].reshape(2, comm.size, nbytes)
        self._turn = 0

    def mine(self, nbytes: int) -> Array:
        """Where this rank publishes next.

        Who has met the others once more knows that all have read what they met for the time before.
        """
        self._turn ^= 1
        return self.of(self._comm.rank, nbytes)

    def of(self, rank: int, nbytes: int) -> Array:
        """What a rank has published, once all have met."""
        part: Array = self._halves[self._turn, rank, :nbytes]
        return part

    def meet(self) -> MPI.Request:
        """Begin to wait until all have published."""
        return self._comm.Ibarrier()


def window_of(service: Service, nbytes: int) -> Window:
    """The window of a communicator, with room for so many bytes of each rank; called by all ranks alike."""
    found: Window | None = service.kept.get("window")
    if found is None or found.nbytes < nbytes:
        found = service.kept["window"] = Window(service.comm, nbytes)
    return found
