"""Nonblocking and persistent collectives: the request advances the schedule whenever it is asked."""

from __future__ import annotations

from collections.abc import Callable

from ..comm.execution import attach
from ..datatypes.plain import MPI
from . import progress
from .execute import Execution
from .progress import Running


class _Scheduled:
    """A schedule behind a request, and the buffers that live until it is done."""

    def __init__(self, begin: Callable[[], Execution], buffers: object) -> None:
        self._begin, self._buffers = begin, buffers
        self._under_way: Running | None = None

    def start(self) -> None:
        """Start the schedule."""
        self._under_way = progress.begin(self._begin())

    def advance(self) -> bool:
        """Go on as far as messages have arrived."""
        return self._under_way is None or self._under_way.advance()

    def finish(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._under_way is not None:
            self._under_way.check()


def start(begin: Callable[[], Execution], buffers: object) -> MPI.Request:
    """Start a schedule; `begin` makes its execution, and the program's `buffers` live until it is done."""
    # Of its own: MPI may have one request for all messages to nobody.
    request = MPI.Grequest.Start(None, None, None)
    request.Complete()
    scheduled = _Scheduled(begin, buffers)
    attach(request, scheduled, persistent=False)
    scheduled.start()
    return MPI.Request(request)


def prepare(begin: Callable[[], Execution], buffers: object) -> MPI.Prequest:
    """Prepare a schedule that can be started again and again; `begin` makes each execution."""
    request = MPI.COMM_SELF.Send_init(_NOTHING, MPI.PROC_NULL)
    attach(request, _Scheduled(begin, buffers), persistent=True)
    return request


_NOTHING = [None, 0, MPI.BYTE]
