"""Which ranks of this node have come to where all ranks meet, and the end of one that never does.

A rank that is stopped, or hangs in C, is not dead: an agreement waits for it for ever. Open MPI leaves one in
an endless loop if another dies between two instructions of a message through shared memory, and no call can
wake it. So those that wait for it kill it, and go on as after any other death.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import NamedTuple

import numpy as np

from .segment import Address, MappedSegment, Segment

# So often is it looked around in the time after which ranks are lost.
_LOOKS = 4


class _Peer(NamedTuple):
    """A rank of this node, and how often it has come to where all meet."""

    world_rank: int
    address: Address
    segment: Segment

    @property
    def arrivals(self) -> int:
        return int(self.segment.slot(0).view(np.int64)[0])

    def kill(self) -> bool:
        """Kill it, if it is there; tell whether it was."""
        with suppress(OSError):
            # Another process may have its number by now.
            MappedSegment(self.address)
            os.kill(self.address.process, signal.SIGKILL)
            return True
        return False


class Presence:
    """Of this rank, and of those of its node.

    Parameters
    ----------
    lost_after : float
        Seconds that ranks wait for one that does not come, once another one is known to be lost.

    Attributes
    ----------
    address : Address or None
        What other ranks need to know; None where the system has no memory to share.
    """

    def __init__(self, lost_after: float) -> None:
        self.lost_after = lost_after
        self._segment = Segment(np.dtype(np.int64).itemsize)
        self._count = self._segment.slot(0).view(np.int64)
        # None until this rank knows the others, who may take any time to begin.
        self._peers: list[_Peer] | None = None

    @property
    def address(self) -> Address | None:
        """What other ranks need to know; None where the system has no memory to share."""
        return self._segment.address

    def meet(self, addresses: Mapping[int, Address | None]) -> None:
        """Get to know the ranks of this node, out of all: they can be mapped."""
        self._peers = []
        for rank, address in addresses.items():
            if address is not None and address != self.address:
                with suppress(OSError):
                    self._peers.append(_Peer(rank, address, MappedSegment(address)))

    @contextmanager
    def waiting(self, is_broken: Callable[[], bool]) -> Iterator[None]:
        """Context of a call of MPI that ends when all ranks have come to it, each as often as the others.

        Parameters
        ----------
        is_broken : callable
            Whether a rank is known to be lost: until then, others are waited for however long they take.
        """
        self._count[0] += 1
        if self._peers is None:
            yield
            return
        done = Event()
        Thread(target=self._watch, args=(int(self._count[0]), done, is_broken), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, count: int, done: Event, is_broken: Callable[[], bool]) -> None:
        since: float | None = None
        while not done.wait(self.lost_after / _LOOKS):
            now = time.monotonic()
            since = (since or now) if is_broken() else None
            if since is None or now - since < self.lost_after:
                continue
            late = [peer.world_rank for peer in self._peers or () if peer.arrivals < count and peer.kill()]
            if late:
                _say(f"ranks {late} have not come to recover within {self.lost_after:g} s: they are killed")
                since = now
            elif now - since > 2 * self.lost_after:
                _say("ranks of other nodes have not come to recover, or hang where all wait: the job ends")
                os.kill(os.getpid(), signal.SIGKILL)


def _say(what: str) -> None:
    print(f"roundelay: {what}", file=sys.stderr, flush=True)
