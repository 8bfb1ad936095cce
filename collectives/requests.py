"""Nonblocking and persistent collectives: the request advances the schedule whenever it is asked."""

from __future__ import annotations

from collections.abc import Callable

from ..comm.operation import Operation
from ..comm.requests import Prequest, Request
from ..datatypes.plain import MPI
from . import progress
from .execute import Execution
from .progress import Running


class ScheduleOperation(Operation):
    """A schedule under way behind a request.

    MPI has a request too, of a message to nobody: it is complete when it starts, and is looked at only after
    the schedule is done.
    """

    __slots__ = ("_begin", "_buffers", "_under_way")

    def __init__(
        self, begin: Callable[[], Execution], buffers: object, request: MPI.Request, persistent: bool
    ) -> None:
        super().__init__(request, (), (), message=False, persistent=persistent)
        self._begin, self._buffers = begin, buffers
        self._under_way: Running | None = None

    def advance(self) -> bool:
        """Go on as far as messages have arrived."""
        return not self.running or self._under_way is None or self._under_way.advance()

    def start(self) -> None:
        """Start the schedule."""
        self._under_way = progress.begin(self._begin())
        super().start()


def start(begin: Callable[[], Execution], buffers: object) -> Request:
    """Start a schedule; `begin` makes its execution, and the program's `buffers` live until it is done."""
    plain = MPI.COMM_SELF.Isend(_NOTHING, MPI.PROC_NULL)
    request = Request(plain)
    request.operation = ScheduleOperation(begin, buffers, plain, persistent=False)
    request.operation.start()
    return request


def prepare(begin: Callable[[], Execution], buffers: object) -> Prequest:
    """Prepare a schedule that can be started again and again; `begin` makes each execution."""
    plain = MPI.COMM_SELF.Send_init(_NOTHING, MPI.PROC_NULL)
    request = Prequest(plain)
    request.operation = ScheduleOperation(begin, buffers, plain, persistent=True)
    return request


_NOTHING = [None, 0, MPI.BYTE]
