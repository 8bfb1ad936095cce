"""Requests: the completion of an operation that goes through a stage unpacks.

`Request` and `Prequest` take the place of mpi4py's classes, and serve requests of both kinds, also
mixed in one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_
from os import sched_yield
from typing import Any, ClassVar

from ..datatypes.plain import MPI
from .operation import Operation, drop
from .substitute import Handle, named_like


def operation_of(request: Any) -> Operation | None:
    """The staged operation behind a request; None for any other request."""
    return getattr(request, "operation", None)


class Request(Handle, MPI.Request):
    """Request that unpacks what a staged operation received when it completes."""

    plain: ClassVar[type] = MPI.Request
    operation: Operation | None = None  # Also of a subclass whose constructor does not call ours.
    freed = False

    def __init__(self, request: MPI.Request | None = None) -> None:
        self.operation = operation_of(request)

    def Wait(self, status: MPI.Status | None = None) -> Any:
        """Wait for the operation to complete."""
        return _complete_one(MPI.Request.Wait, self, status, waits=True)

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
            # MPI must not forget a request whose data is yet to be unpacked: the program sees a null one.
            self.freed = True
            self.operation = None
            drop(operation)
            return
        Handle.Free(self)
        if operation is not None and operation.persistent:
            operation.release()
            self.operation = None

    def __bool__(self) -> bool:
        return not self.freed and MPI.Request.__bool__(self)

    def __eq__(self, other: object) -> bool:
        return not other if self.freed else MPI.Request.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __del__(self) -> None:
        operation = self.operation
        if operation is not None and not operation.persistent and not MPI.Request.__bool__(self):
            # If it still runs, mpi4py's own method completed it, which knows nothing of stages.
            operation.running = False


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


_PLAIN = frozenset((MPI.Request, MPI.Prequest, MPI.Grequest))


def _all_plain(requests: Sequence[MPI.Request]) -> bool:
    """Whether mpi4py made all of the requests itself, as it does for contiguous buffers."""
    return _PLAIN.issuperset(map(type, requests))


def _live(request: MPI.Request) -> MPI.Request:
    """The request, or a null one in the place of one that was freed."""
    return MPI.Request() if getattr(request, "freed", False) else request


_test = MPI.Request.test


def _unfinished(requests: Sequence[MPI.Request]) -> list[int]:
    """Places of the requests whose operation still has something to do that MPI does not do by itself."""
    operations = map(operation_of, requests)
    return [i for i, operation in enumerate(operations) if operation is not None and not operation.advance()]


def _finish_all(requests: Sequence[MPI.Request]) -> None:
    """Advance all operations, side by side because ranks may wait for them in different orders."""
    while _unfinished(requests):
        # Ranks and threads that share the processor must get on.
        sched_yield()


def _finished(requests: Sequence[MPI.Request]) -> list[MPI.Request]:
    """The requests, with null ones in the place of those that are not finished."""
    hidden = set(_unfinished(requests))
    return [MPI.Request() if i in hidden else request for i, request in enumerate(requests)]


def _complete_one(base: Any, request: Request, status: MPI.Status | None, waits: bool = False) -> Any:
    operation = operation_of(request)
    if operation is None:
        return base(_live(request), status)
    if waits:
        _finish_all([request])
    elif not operation.advance():
        return (False, None) if base is _test else False
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
    if _all_plain(requests):
        return base(requests, statuses)
    statuses = statuses if isinstance(statuses, list) else list(statuses or ())
    requests = [_live(request) for request in requests]
    if base in _WAITS:
        _finish_all(requests)
    elif _unfinished(requests):
        return (False, None) if base == _testall else False
    try:
        result = base(requests, statuses)
    except MPI.Exception:
        _salvage(zip(requests, statuses, strict=False))
        raise
    if result[0] if isinstance(result, tuple) else result is not False:
        _finish(zip(requests, statuses, strict=False))
    return result


def _complete_some(base: Any, requests: Sequence[MPI.Request], statuses: Any = None) -> Any:
    if _all_plain(requests):
        return base(requests, statuses)
    statuses = statuses if isinstance(statuses, list) else list(statuses or ())
    requests = list(map(_live, requests))
    active = [request for request in requests if request]
    try:
        result = base(requests, statuses)
    except MPI.Exception:
        # mpi4py does not say which ones; they are those that are null now, in the order of the statuses.
        _salvage(zip([request for request in active if not request], statuses, strict=False))
        raise
    indices = result[0] if isinstance(result, tuple) else result
    _finish((requests[i], status) for i, status in zip(indices or (), statuses, strict=False))
    return result


def _complete_any(base: Any, requests: Sequence[MPI.Request], status: MPI.Status | None = None) -> Any:
    if _all_plain(requests):
        return base(requests, status)
    status = MPI.Status() if status is None else status
    requests = list(map(_live, requests))
    active = [request for request in requests if request]
    try:
        result = base(requests, status)
    except MPI.Exception:
        _abandon(request for request in active if not request)
        raise
    index = result[0] if isinstance(result, tuple) else result
    if index >= 0:
        _finish([(requests[index], status)])
    return result


def _wait_any(test: Any, requests: Sequence[MPI.Request], status: MPI.Status | None) -> Any:
    """Wait for any by testing, because MPI would not advance those that are not finished."""
    while True:
        index, flag, *message = test(_finished(requests), status)
        if flag and index >= 0:
            return (index, *message) if message else index
        sched_yield()


def _wait_some(test: Any, requests: Sequence[MPI.Request], statuses: Any) -> Any:
    while True:
        result = test(_finished(requests), statuses)
        if result[0] if isinstance(result, tuple) else result:
            return result
        sched_yield()


def _finish(completed: Iterable[tuple[MPI.Request, MPI.Status]]) -> None:
    for request, status in completed:
        operation = operation_of(request)
        if operation is not None:
            operation.finish(status)


def _abandon(failed: Iterable[MPI.Request]) -> None:
    for request in failed:
        operation = operation_of(request)
        if operation is not None:
            operation.abandon()


def _salvage(completed: Iterable[tuple[MPI.Request, MPI.Status]]) -> None:
    """After an error in some requests, finish those that went well."""
    over = [(request, status) for request, status in completed if not request]
    _finish((request, status) for request, status in over if status.Get_error() == MPI.SUCCESS)
    _abandon(request for request, status in over if status.Get_error() != MPI.SUCCESS)


def _patient(base: Any, name: str) -> Any:
    """Mpi4py's function for any or some of the requests, that advances those which are not finished."""
    waits = name.lower().startswith("wait")
    test = getattr(MPI.Request, name.replace("Wait", "Test").replace("wait", "test"))
    wait = _wait_some if name.endswith("some") else _wait_any

    def ask(requests: Sequence[MPI.Request], statuses: Any) -> Any:
        finished = _finished(requests)
        if all(map(is_, finished, requests)):
            return base(requests, statuses)
        return wait(test, requests, statuses) if waits else _still_active(base(finished, statuses))

    return ask


def _still_active(result: Any) -> Any:
    """What MPI says of finished requests, where others go on: it may find none that is active."""
    if isinstance(result, tuple) and not isinstance(result[0], list | None):
        index, flag, *message = result
        return (index, flag and index >= 0, *message)
    if isinstance(result, tuple):
        return result[0] or [], *result[1:]
    return result or []


def _of_class(complete: Any, name: str) -> Any:
    plain = getattr(MPI.Request, name)
    base = plain if complete is _complete_all else _patient(plain, name)

    def of_one(_cls: type, requests: Sequence[MPI.Request], status: Any = None) -> Any:
        return complete(base, requests, status)

    def of_many(_cls: type, requests: Sequence[MPI.Request], statuses: Any = None) -> Any:
        return complete(base, requests, statuses)

    method: Any = named_like(plain)(of_one if complete is _complete_any else of_many)
    return classmethod(method)


_WAITS = (MPI.Request.Waitall, MPI.Request.waitall)
_testall = MPI.Request.testall
for _forms, _complete in (
    (("Waitall", "Testall", "Get_status_all"), _complete_all),
    (("Waitany", "Testany", "Get_status_any"), _complete_any),
    (("Waitsome", "Testsome", "Get_status_some"), _complete_some),
):
    for _name in (*_forms, *map(str.lower, _forms)):
        setattr(Request, _name, _of_class(_complete, _name))
