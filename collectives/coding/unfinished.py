"""Trainings that ended before all of their ranks did.

Messages to a rank that does not answer need their memory as long as they are under way. And MPI ends in all
processes together: with a rank that is gone for good a job would never end. The others wait for it for some
time when they end, and abort the job at last.
"""

from __future__ import annotations

import atexit
import sys
from functools import cache
from time import sleep
from typing import TYPE_CHECKING

from ...datatypes.plain import MPI

if TYPE_CHECKING:
    from .channel import Channel

_SECONDS_TO_PRINT = 0.2

_channels: list[Channel] = []


def add(channel: Channel) -> None:
    """Keep what a training has under way, and wait for its ranks when this process ends."""
    _watch_the_end()
    if channel not in _channels:
        _channels.append(channel)


def finish(comm: MPI.Intracomm) -> None:
    """End what trainings on a communicator have left; all its ranks are here."""
    for channel in [each for each in _channels if each.comm is comm]:
        if channel.finish(channel.lost_after):
            _channels.remove(channel)


@cache
def _watch_the_end() -> None:
    atexit.register(_end)
    # A program may also end MPI itself, which deletes these attributes first.
    key = MPI.Comm.Create_keyval(delete_fn=lambda *_: _end())
    MPI.COMM_SELF.Set_attr(key, None)


def _end() -> None:
    """Wait for ranks that have not come to the end of a training, and abort the job if they never do."""
    if MPI.Is_finalized():
        return
    for channel in _channels:
        if channel.finish(channel.lost_after) or not channel.owing:
            continue
        sys.stdout.flush()
        print(
            f"roundelay: ranks {sorted(channel.owing)} have not come to the end of coded gradients in "
            f"{channel.lost_after:g} s (lost_after), and MPI does not end without them: "
            f"rank {channel.rank} aborts the job",
            file=sys.stderr,
            flush=True,
        )
        # `mpiexec` may end the job before it has passed on what it was given last.
        sleep(_SECONDS_TO_PRINT)
        MPI.COMM_WORLD.Abort(1)
