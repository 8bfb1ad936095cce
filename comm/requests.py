"""Requests: the completion of an operation that goes through a stage unpacks.

`Request` and `Prequest` take the place of mpi4py's classes, and serve requests of both kinds, also
mixed in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import memmove
from functools import partial
from os import sched_yield
from typing import Any, ClassVar

from ..datatypes.plain import MPI
from .interruption import call_and_settle
from .operation import Operation, settle_unfinished, unfinished
from .substitute import Handle, named_like


def operation_of(request: Any) -> Operation | None:
    """The staged operation behind a request; None for any other request."""
    return getattr(request, "operation", None)


class Request(Handle, MPI.Request):
    """Request that unpacks what a staged operation received when it completes."""

    plain: ClassVar[type] = MPI.Request
    operation: Operation | None = None  # Also of a subclass whose constructor does not call ours.
    buffers: Any = None

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
            # MPI must not forget a request whose data is yet to be unpacked: only the program does.
            self.operation = None
            unfinished.append(operation)
            memmove(MPI._addressof(self), MPI._addressof(MPI.REQUEST_NULL), MPI._sizeof(self))
            return
        Handle.Free(self)
        if operation is not None and operation.persistent:
            operation.release()
            operation.request = self.operation = None

    def free(self) -> None:
        """Call `Free` if not null."""
        if operation_of(self) is None:
            Handle.free(self)
        elif self:
            Request.Free(self)

    def __del__(self) -> None:
        operation = self.operation
        if operation is not None and not self:
            # If it still runs, mpi4py's own method completed it, which knows nothing of stages.
            operation.running = False
            operation.request = None


class Prequest(MPI.Prequest, Request):
    """Persistent request that packs what a staged operation sends whenever it starts."""

    plain: ClassVar[type] = MPI.Prequest

    def Start(self) -> None:
        """Start the operation."""
        Prequest.Startall([self])

    @classmethod
    @named_like(MPI.Prequest.Startall)
    def Startall(cls, requests: Sequence[MPI.Prequest]) -> None:
        requests = list(requests)
        operations = [operation for operation in map(operation_of, requests) if operation is not None]
        for operation in operations:
            operation.start()

        def run(_result: None) -> None:
            for operation in operations:
                operation.running = True

        call_and_settle(partial(MPI.Prequest.Startall, requests), run)


_PLAIN = frozenset((MPI.Request, MPI.Prequest, MPI.Grequest))


def _all_plain(requests: Sequence[MPI.Request]) -> bool:
    """Whether mpi4py made all of the requests itself, as it does for contiguous buffers."""
    return _PLAIN.issuperset(map(type, requests))


def _unfinished(requests: Sequence[MPI.Request]) -> list[int]:
    """Places of the requests whose operation still has something to do that MPI does not do by itself."""
    operations = map(operation_of, requests)
    return [i for i, operation in enumerate(operations) if operation is not None and not operation.advance()]


def _finish_all(requests: Sequence[MPI.Request]) -> None:
    """Advance all operations, side by side because ranks may wait for them in different orders."""
    while _unfinished(requests):
        # Ranks and threads that share the processor must get on.
        sched_yield()


def _finished(requests: Sequence[MPI.Request]) -> Sequence[MPI.Request]:
    """The requests, with null ones in the place of those that are not finished."""
    hidden = set(_unfinished(requests))
    if not hidden:
        return requests
    return [MPI.Request() if i in hidden else request for i, request in enumerate(requests)]


_test = MPI.Request.test


def _complete_one(base: Any, request: Request, status: MPI.Status | None, waits: bool = False) -> Any:
    operation = operation_of(request)
    if operation is None:
        result = base(request, status)
    else:
        result = _complete_staged(base, request, operation, status, waits)
    if unfinished:
        settle_unfinished()
    return result


def _complete_staged(
    base: Any, request: Request, operation: Operation, status: MPI.Status | None, waits: bool
) -> Any:
    if waits:
        _finish_all([request])
    elif not operation.advance():
        return (False, None) if base is _test else False
    status = MPI.Status() if status is None else status

    def settle(result: Any) -> None:
        if waits or (result[0] if isinstance(result, tuple) else result):
            operation.finish(status)

    try:
        return call_and_settle(partial(base, request, status), settle)
    except MPI.Exception:
        operation.abandon()
        raise


def _complete_all(base: Any, _test: Any, requests: Sequence[MPI.Request], statuses: list[MPI.Status]) -> Any:
    if base in _WAITS:
        _finish_all(requests)
    elif _unfinished(requests):
        return (False, None) if base == _testall else False

    def settle(result: Any) -> None:
        if result[0] if isinstance(result, tuple) else result is not False:
            _finish(zip(requests, statuses, strict=False))

    try:
        return call_and_settle(partial(base, requests, statuses), settle)
    except BaseException:
        # Of MPI, or of an object among the messages that cannot be unpickled.
        _salvage(zip(requests, statuses, strict=False))
        raise


def _complete_some(base: Any, test: Any, requests: Sequence[MPI.Request], statuses: list[MPI.Status]) -> Any:
    def settle(result: Any) -> None:
        indices = result[0] if isinstance(result, tuple) else result
        _finish((requests[i], status) for i, status in zip(indices or (), statuses, strict=False))

    active = [request for request in requests if request]
    try:
        return _ask(base, test, requests, statuses, settle)
    except BaseException:
        # mpi4py does not say which ones; they are those that are null now, in the order of the statuses.
        _salvage(zip([request for request in active if not request], statuses, strict=False))
        raise


def _complete_any(base: Any, test: Any, requests: Sequence[MPI.Request], status: MPI.Status) -> Any:
    def settle(result: Any) -> None:
        index = result[0] if isinstance(result, tuple) else result
        if index >= 0:
            _finish([(requests[index], status)])

    active = [request for request in requests if request]
    try:
        return _ask(base, test, requests, status, settle)
    except MPI.Exception:
        _abandon(request for request in active if not request)
        raise


def _ask(
    base: Any, test: Any, requests: Sequence[MPI.Request], statuses: Any, settle: Callable[[Any], None]
) -> Any:
    """Call mpi4py's function for any or some requests.

    Operations that are not finished MPI would not advance: as long as there are any, waiting is testing.
    """
    while (finished := _finished(requests)) is not requests:
        result = call_and_settle(partial(test or base, finished, statuses), settle)
        if test is None:
            return _still_active(result)
        found = _found(result)
        if found is not None:
            return found
        sched_yield()
    return call_and_settle(partial(base, requests, statuses), settle)


def _found(result: Any) -> Any:
    """What waiting returns, from a test's result; None where that has found nothing."""
    if isinstance(result, tuple) and not isinstance(result[0], list | None):
        index, flag, *message = result
        if not flag or index < 0:
            return None
        return (index, *message) if message else index
    return result if (result[0] if isinstance(result, tuple) else result) else None


def _still_active(result: Any) -> Any:
    """What MPI says of finished requests, where others go on: it may find none that is active."""
    if isinstance(result, tuple) and not isinstance(result[0], list | None):
        index, flag, *message = result
        return (index, flag and index >= 0, *message)
    if isinstance(result, tuple):
        return result[0] or [], *result[1:]
    return result or []


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


def _of_class(complete: Any, name: str) -> Any:
    """A class method that completes requests; those that need nothing of ours go straight to mpi4py."""
    base = getattr(MPI.Request, name)
    waits = name.lower().startswith("wait")
    test = getattr(MPI.Request, name.replace("Wait", "Test").replace("wait", "test")) if waits else None

    def of_one(_cls: type, requests: Sequence[MPI.Request], status: Any = None) -> Any:
        if _all_plain(requests):
            result = base(requests, status)
        else:
            result = complete(base, test, requests, MPI.Status() if status is None else status)
        if unfinished:
            settle_unfinished()
        return result

    def of_many(_cls: type, requests: Sequence[MPI.Request], statuses: Any = None) -> Any:
        if _all_plain(requests):
            result = base(requests, statuses)
        else:
            given = statuses if isinstance(statuses, list) else list(statuses or ())
            result = complete(base, test, requests, given)
        if unfinished:
            settle_unfinished()
        return result

    method: Any = named_like(base)(of_one if complete is _complete_any else of_many)
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
