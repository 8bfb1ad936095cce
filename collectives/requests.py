"""Nonblocking and persistent collectives: the request advances the schedule whenever it is asked."""

from __future__ import annotations

from collections.abc import Callable

from ..datatypes.plain import MPI
from . import progress
from .execute import Execution
from .progress import Running


class Scheduled:
    """A schedule behind a request of MPI, which the interposer completes when nothing is left to do here.

    Parameters
    ----------
    begin : callable
        Makes an execution of it.
    """

    def __init__(self, begin: Callable[[], Execution]) -> None:
        self._begin = begin
        self._under_way: Running | None = None

    def start(self, before: Running | None = None) -> Running:
        """Begin, or begin again, when `before` is done."""
        self._under_way = progress.begin(self._begin(), before)
        return self._under_way

    def advance(self) -> bool:
        """Go on as far as messages have arrived; tell whether nothing is left to do."""
        return self._under_way is None or self._under_way.advance()

    def finish(self) -> None:
        """Raise what went wrong, if anything did, which the program gets as an exception of MPI's."""
        if self._under_way is not None:
            self._under_way.check()


def start(begin: Callable[[], Execution], under_way: dict[int, Running], tag: int) -> tuple[int, Scheduled]:
    """Start a schedule; return a request of MPI, which is complete already, and what is behind it.

    What is under way with the same tag is done first.
    """
    # Of its own: MPI may have one request for all messages to nobody.
    request = MPI.Grequest.Start(None, None, None)
    request.Complete()
    scheduled = Scheduled(begin)
    under_way[tag] = scheduled.start(under_way.get(tag))
    return request.handle, scheduled


def prepare(begin: Callable[[], Execution]) -> tuple[int, Scheduled]:
    """Prepare a schedule to be started again and again; return a request, and what is behind it."""
    request = MPI.COMM_SELF.Send_init(_NOTHING, MPI.PROC_NULL)
    return request.handle, Scheduled(begin)


_NOTHING = [None, 0, MPI.BYTE]
