"""Ranks that are known to be gone: MPI has lost them, or the monitor has found them dead or stuck."""

from __future__ import annotations

from functools import cache
from threading import current_thread, main_thread

from ...comm.monitor import start
from ...comm.monitor.verdict import Verdict
from ...comm.recovery.resilient import world_ranks
from ...comm.recovery.ulfm import why_unavailable
from ...datatypes.plain import MPI

# Ranks of COMM_WORLD that the monitor has named, and that have not answered since.
_named: set[int] = set()


class Gone:
    """Those of a communicator.

    Attributes
    ----------
    dead : set of int
        Those that MPI has lost, as user-level failure mitigation (ULFM) tells; they never come back.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self.dead: set[int] = set()
        try:
            self._world = world_ranks(comm)
        except ValueError:
            # The monitor knows no processes of other worlds.
            self._world = ()
        if start.is_begun() and current_thread() is main_thread():
            _listen()

    def __contains__(self, rank: int) -> bool:
        return rank in self.dead or (bool(_named) and bool(self._world) and self._world[rank] in _named)

    def ask(self) -> bool:
        """After an error of MPI, find out whether that comes of ranks that are lost."""
        # Who revokes the communicator goes on without this training.
        if why_unavailable() or self._comm.Is_revoked():
            return False
        # From now on messages of any other rank can be looked for again.
        self._comm.Ack_failed()
        failed, everyone = self._comm.Get_failed(), self._comm.Get_group()
        self.dead.update(failed.Translate_ranks(range(failed.size), everyone))
        failed.Free()
        everyone.Free()
        return bool(self.dead)

    def has_answered(self, rank: int) -> None:
        """A rank is there, whatever the monitor has said."""
        if _named and self._world:
            _named.discard(self._world[rank])


def _note(verdict: Verdict) -> None:
    if verdict.kind in ("dead", "stuck"):
        _named.update(verdict.ranks)


@cache
def _listen() -> None:
    start.monitor(on_verdict=_note)
