"""Requests of operations that go through a stage: completion unpacks.

`Request` and `Prequest` take the place of mpi4py's classes, and serve requests of both kinds, also
mixed in one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ..datatypes.plain import MPI
from .staging import Stage
from .substitute import Handle, named_like


class Operation:
    """The stages of one nonblocking or persistent operation.

    Parameters
    ----------
    loads, stores : sequence of Stage
        Stages that are filled before the operation, and those emptied after it.
    message : bool
        Whether the status of the request tells how many bytes were received.
    """

    __slots__ = ("loads", "message", "persistent", "running", "stores")

    def __init__(
        self, loads: Sequence[Stage], stores: Sequence[Stage], message: bool, persistent: bool
    ) -> None:
        self.loads, self.stores = loads, stores
        self.message = message
        self.persistent = persistent
        self.running = not persistent

    def start(self) -> None:
        """Fill the stages."""
        for stage in self.loads:
            stage.load()
        self.running = True

    def finish(self, status: MPI.Status) -> None:
        """Empty the stages after the operation completed; a second call does nothing."""
        if not self.running:
            return
        self.running = False
        if not status.Is_cancelled():
            received = status.Get_count(MPI.BYTE) if self.message else None
            for stage in self.stores:
                stage.store(received)
        if not self.persistent:
            self.release()

    def release(self) -> None:
        """Give the stages' memory back."""
        for stage in {*self.loads, *self.stores}:
            stage.release()

    def abandon(self) -> None:
        """Forget what was received, after an error."""
        self.running = False
        if not self.persistent:
            self.release()


def operation_of(request: MPI.Request) -> Operation | None:
    """The staged operation behind a request; None for any other request."""
    return getattr(request, "operation", None)


# Requests that their program forgot while MPI was still using their stages.
_dropped: list[tuple[MPI.Request, Operation]] = []


class Request(Handle, MPI.Request):
    """Request that unpacks what a staged operation received when it completes."""

    plain: ClassVar[type] = MPI.Request
    operation: Operation | None = None

    def Wait(self, status: MPI.Status | None = None) -> Any:
        """Wait for the operation to complete."""
        return _complete_one(MPI.Request.Wait, self, status)

    def Test(self, status: MPI.Status | None = None) -> Any:
        """Tell whether the operation is complete."""
        return _complete_one(MPI.Request.Test, self, status)

    def Get_status(self, status: MPI.Status | None = None) -> Any:
        """Tell whether the operation is complete, and keep the request."""
        return _complete_one(MPI.Request.Get_status, self, status)

    def wait(self, status: MPI.Status | None = None) -> Any:
        """Wait for the operation to complete; return the object received."""
        return _complete_one(MPI.Request.wait, self, status, waits=True)

    def test(self, status: MPI.Status | None = None) -> Any:
        """Tell whether the operation is complete; return the object received."""
        return _complete_one(MPI.Request.test, self, status)

    def get_status(self, status: MPI.Status | None = None) -> Any:
        """Tell whether the operation is complete, and keep the request."""
        return _complete_one(MPI.Request.get_status, self, status)

    def Free(self) -> None:
        """Free the request; one that still uses its stages goes on, and is finished when it can be."""
        operation = operation_of(self)
        if operation is not None and operation.running:
            return
        Handle.Free(self)
        if operation is not None and operation.persistent:
            operation.release()
            self.operation = None

    def __del__(self, dropped: list[tuple[MPI.Request, Operation]] = _dropped) -> None:
        if self.operation is not None and self.operation.running:
            dropped.append((MPI.Request(self), self.operation))


class Prequest(MPI.Prequest, Request):
    """Persistent request that packs what a staged operation sends whenever it starts."""

    plain: ClassVar[type] = MPI.Prequest

    def Start(self) -> None:
        """Start the operation."""
        Prequest.Startall([self])

    @classmethod
    @named_like(MPI.Prequest.Startall)
    def Startall(cls, requests: Sequence[MPI.Prequest]) -> None:
        for request in requests:
            operation = operation_of(request)
            if operation is not None:
                operation.start()
        MPI.Prequest.Startall(list(requests))


def _complete_one(base: Any, request: Request, status: MPI.Status | None, waits: bool = False) -> Any:
    operation = operation_of(request)
    if operation is None:
        return base(request, status)
    status = MPI.Status() if status is None else status
    try:
        result = base(request, status)
    except MPI.Exception:
        operation.abandon()
        raise
    if waits or (result[0] if isinstance(result, tuple) else result):
        operation.finish(status)
    return result


def _complete_all(base: Any, requests: Sequence[MPI.Request], statuses: Any = None) -> Any:
    if not any(map(operation_of, requests)):
        return base(requests, statuses)
    statuses = statuses if isinstance(statuses, list) else list(statuses or ())
    try:
        result = base(requests, statuses)
    except MPI.Exception:
        _salvage(requests, statuses)
        raise
    if result[0] if isinstance(result, tuple) else result is not False:
        _finish(zip(requests, statuses, strict=False))
    return result


def _complete_some(base: Any, requests: Sequence[MPI.Request], statuses: Any = None) -> Any:
    if not any(map(operation_of, requests)):
        return base(requests, statuses)
    statuses = statuses if isinstance(statuses, list) else list(statuses or ())
    result = base(requests, statuses)
    indices = result[0] if isinstance(result, tuple) else result
    _finish((requests[i], status) for i, status in zip(indices or (), statuses, strict=False))
    return result


def _complete_any(base: Any, requests: Sequence[MPI.Request], status: MPI.Status | None = None) -> Any:
    if not any(map(operation_of, requests)):
        return base(requests, status)
    status = MPI.Status() if status is None else status
    result = base(requests, status)
    index = result[0] if isinstance(result, tuple) else result
    if index >= 0:
        _finish([(requests[index], status)])
    return result


def _finish(completed: Iterable[tuple[MPI.Request, MPI.Status]]) -> None:
    for request, status in completed:
        operation = operation_of(request)
        if operation is not None:
            operation.finish(status)


def _salvage(requests: Sequence[MPI.Request], statuses: Sequence[MPI.Status]) -> None:
    """After an error in some requests, finish those that went well."""
    for request, status in zip(requests, statuses, strict=False):
        operation = operation_of(request)
        if operation is None or request:
            continue
        if status.Get_error() == MPI.SUCCESS:
            operation.finish(status)
        else:
            operation.abandon()


def _of_class(complete: Any, name: str) -> Any:
    base = getattr(MPI.Request, name)

    @named_like(base)
    def method(_cls: type, *arguments: Any, **keywords: Any) -> Any:
        return complete(base, *arguments, **keywords)

    return classmethod(method)


for _forms, _complete in (
    (("Waitall", "Testall", "Get_status_all"), _complete_all),
    (("Waitany", "Testany", "Get_status_any"), _complete_any),
    (("Waitsome", "Testsome", "Get_status_some"), _complete_some),
):
    for _name in (*_forms, *map(str.lower, _forms)):
        setattr(Request, _name, _of_class(_complete, _name))


def reap() -> None:
    """Finish those dropped requests that are complete."""
    for dropped in _dropped[:]:
        request, operation = dropped
        status = MPI.Status()
        if request.Test(status):
            _dropped.remove(dropped)
            operation.finish(status)
            if operation.persistent:
                request.Free()
                operation.release()
