"""One nonblocking or persistent operation that goes through stages, and those that no request stands for."""

from __future__ import annotations

import atexit
import ctypes
import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from threading import Lock, get_ident

from ..datatypes.plain import MPI
from .interruption import call_and_settle
from .staging import Stage


class Operation:
    """The stages of an operation, and whether MPI is using them.

    Parameters
    ----------
    request : mpi4py.MPI.Request or None
        mpi4py's own request, where MPI has the operation already. Any number of ours may share it, and this
        operation.
    loads, stores : sequence of Stage
        Stages that are filled before the operation, and those emptied after it.
    message : bool
        Whether the status of the request tells how many bytes were received.
    persistent : bool
        Whether the operation can be started again and again.
    """

    __slots__ = ("inner", "keeps", "loads", "message", "persistent", "request", "running", "stores")

    def __init__(
        self,
        request: MPI.Request | None,
        loads: Sequence[Stage],
        stores: Sequence[Stage],
        message: bool,
        persistent: bool,
    ) -> None:
        _look_at_the_end()
        self.loads, self.stores = loads, stores
        self.message = message
        self.persistent = persistent
        self.running = False
        self.request: MPI.Request | None = None
        # Buffers that are not staged; mpi4py does not keep those of every operation.
        self.keeps: object = None
        # Of a collective that is a schedule, there is another one behind the stages.
        self.inner: Operation | None = None
        if request is not None:
            self.accept(request)

    def accept(self, request: MPI.Request) -> None:
        """Take the request that MPI has made for the operation."""
        self.request = request
        self.inner = getattr(request, "operation", None)
        if self.inner is not None:
            # Both have the same request of MPI, which is freed once.
            self.inner.request = None
        self.running = not self.persistent

    def advance(self) -> bool:
        """Do what MPI does not do by itself; tell whether nothing of that is left."""
        return self.inner is None or self.inner.advance()

    def start(self) -> None:
        """Fill the stages."""
        for stage in self.loads:
            stage.load()
        if self.inner is not None:
            self.inner.start()
            self.inner.running = True

    def finish(self, status: MPI.Status) -> None:
        """Empty the stages after the operation completed; a second call does nothing."""
        if not self.running:
            return
        if self.inner is not None:
            self.inner.finish(status)
        if self.stores and not status.Is_cancelled():
            received = bytes_received(status) if self.message else None
            for stage in self.stores:
                stage.store(received)
        # Not before: a call that was interrupted is made again.
        self.running = False
        if not self.persistent:
            self.release()

    def abandon(self) -> None:
        """Forget what was received, after an error."""
        if self.running and not self.persistent:
            self.release()
        self.running = False

    def release(self) -> None:
        """Give the stages' memory back, and let go of the buffers."""
        self.keeps = None
        for stage in (*self.loads, *self.stores):
            stage.release()

    def settle_alone(self) -> bool:
        """Finish without a request of the program; tell whether nothing is left to do."""
        assert self.request is not None
        if self.running:
            if not self.advance():
                return False
            status = MPI.Status()
            try:
                call_and_settle(
                    partial(self.request.Test, status), lambda done: self.finish(status) if done else None
                )
            except MPI.Exception:
                # As with a request that MPI has freed, there is nobody to tell.
                self.abandon()
            if self.running:
                return False
        if self.persistent and self.request:
            self.request.Free()
            self.release()
        return True

    def __del__(self) -> None:
        # No request is left through which it could be completed, and MPI still has the operation.
        # A signal may have interrupted the constructor.
        if getattr(self, "request", None) and (self.running or self.persistent) and unfinished is not None:
            unfinished.append(self)


def bytes_received(status: MPI.Status) -> int:
    """The length of a message."""
    # `Get_count` is MPI.UNDEFINED from 2 GiB on, with a library of MPI 3.
    return status.Get_elements(MPI.BYTE)


# Operations that no request of the program stands for any more. Whoever has called MPI looks whether there is
# any, and then calls `settle_unfinished`: what they received is in its place as soon as the program can know.
unfinished: list[Operation] = []
_settling = Lock()
_settler = 0


def settle_unfinished() -> None:
    """Finish those operations that no request stands for and that are complete by now."""
    global _settler  # noqa: PLW0603
    me = get_ident()
    if _settler == me:
        # Called in between, out of the handler of a signal or for an operation behind the stages.
        return
    with _settling:
        _settler = me
        try:
            for operation in unfinished[:]:
                if operation.settle_alone():
                    unfinished.remove(operation)
        finally:
            _settler = 0


# What MPI needs to notice that a receive is cancelled, and may still need for a collective.
_SECONDS_TO_END = 1.0


def end_unfinished() -> None:
    """Finish all such operations before MPI is finalized: receives that are not complete are cancelled."""
    if not MPI.Is_initialized() or MPI.Is_finalized():
        return
    # Requests in a cycle of references are dropped by the collector only.
    gc.collect()
    settle_unfinished()
    for operation in unfinished:
        if operation.message and operation.request:
            # Not everything that receives can be cancelled.
            with suppress(MPI.Exception):
                operation.request.Cancel()
    limit = time.monotonic() + _SECONDS_TO_END
    while unfinished and time.monotonic() < limit:
        settle_unfinished()
    for operation in unfinished:
        # MPI completes a send that nobody has received yet while it is finalized: the memory outlives Python.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(operation))
        if operation.request:
            with suppress(MPI.Exception):
                operation.request.Free()
    unfinished.clear()


@cache
def _look_at_the_end() -> None:
    """Let `end_unfinished` run before MPI is finalized, by the program or by mpi4py at the end of Python."""
    atexit.register(end_unfinished)
    if not MPI.Is_initialized():
        return
    keyval = MPI.Comm.Create_keyval(delete_fn=lambda *_: end_unfinished())
    MPI.COMM_SELF.Set_attr(keyval, None)
