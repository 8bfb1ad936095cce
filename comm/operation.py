"""One nonblocking or persistent operation that goes through stages."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from ..datatypes.plain import MPI
from .staging import Stage


class Operation:
    """The stages of an operation, and whether MPI is using them.

    Parameters
    ----------
    request : mpi4py.MPI.Request
        mpi4py's own request. Any number of ours may share it, and this operation.
    loads, stores : sequence of Stage
        Stages that are filled before the operation, and those emptied after it.
    message : bool
        Whether the status of the request tells how many bytes were received.
    persistent : bool
        Whether the operation can be started again and again.
    """

    __slots__ = ("inner", "loads", "message", "persistent", "request", "running", "stores")

    def __init__(
        self,
        request: MPI.Request,
        loads: Sequence[Stage],
        stores: Sequence[Stage],
        message: bool,
        persistent: bool,
    ) -> None:
        self.request = request
        # Of a collective that is a schedule, there is another one behind the stages.
        self.inner: Operation | None = getattr(request, "operation", None)
        self.loads, self.stores = loads, stores
        self.message = message
        self.persistent = persistent
        self.running = not persistent

    def advance(self) -> bool:
        """Do what MPI does not do by itself; tell whether nothing of that is left."""
        return self.inner is None or self.inner.advance()

    def start(self) -> None:
        """Fill the stages."""
        for stage in self.loads:
            stage.load()
        if self.inner is not None:
            self.inner.start()
        self.running = True

    def finish(self, status: MPI.Status) -> None:
        """Empty the stages after the operation completed; a second call does nothing."""
        if not self.running:
            return
        self.running = False
        if self.inner is not None:
            self.inner.finish(status)
        if self.stores and not status.Is_cancelled():
            received = status.Get_count(MPI.BYTE) if self.message else None
            for stage in self.stores:
                stage.store(received)
        if not self.persistent:
            self.release()

    def abandon(self) -> None:
        """Forget what was received, after an error."""
        if self.running and not self.persistent:
            self.release()
        self.running = False

    def release(self) -> None:
        """Give the stages' memory back."""
        for stage in self.loads:
            stage.release()
        for stage in self.stores:
            if stage not in self.loads:
                stage.release()

    def __del__(self) -> None:
        # No request is left through which it could be completed, and MPI still uses the stages.
        if self.running and _dropped is not None:
            _dropped.append(self)


_dropped: list[Operation] = []


def drop(operation: Operation) -> None:
    """Let an operation go on without a request of the program."""
    _dropped.append(operation)


_reaping = Lock()


def reap() -> None:
    """Finish those operations that their program forgot and that are complete by now."""
    if not _dropped or not _reaping.acquire(blocking=False):
        # There are none, or another thread is at it.
        return
    try:
        for operation in _dropped[:]:
            status = MPI.Status()
            if operation.advance() and operation.request.Test(status):
                _dropped.remove(operation)
                operation.finish(status)
                if operation.persistent:
                    operation.request.Free()
                    operation.release()
    finally:
        _reaping.release()
