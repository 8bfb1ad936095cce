"""The three ways to run a staged operation: at once, nonblocking, and persistent.

Each takes the call that hands the stages to MPI, the stages to fill before it, the stages to empty
after it, and, where it is one message that may be shorter than its stage, tells so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..datatypes.plain import MPI
from .interruption import call_and_settle
from .operation import Operation, bytes_received, settle_unfinished, unfinished
from .requests import Prequest, Request
from .staging import Stage
from .substitute import named_like

_new = Request.__new__
# A `functools.partial` of mpi4py's method (see `call_and_settle`).
Call = Callable[[], Any]
Runner = Callable[..., Any]


def run_at_once(
    call: Call, loads: Sequence[Stage], stores: Sequence[Stage], status: MPI.Status | None = None
) -> None:
    """Run a blocking operation; `status` is the one that the call fills, of a message."""

    def store(_result: Any) -> None:
        received = None if status is None else bytes_received(status)
        for stage in stores:
            stage.store(received)

    try:
        for stage in loads:
            stage.load()
        call_and_settle(call, store)
    finally:
        for stage in (*loads, *stores):
            stage.release()
    if unfinished:
        settle_unfinished()


def run_started(
    call: Call, loads: Sequence[Stage], stores: Sequence[Stage], status: MPI.Status | None = None
) -> MPI.Request:
    """Start a nonblocking operation; its request empties the stages."""
    if unfinished:
        settle_unfinished()
    for stage in loads:
        stage.load()
    operation = Operation(None, loads, stores, status is not None, persistent=False)
    operation.keeps = call
    try:
        request = _new(Request, call_and_settle(call, operation.accept))
        request.operation = operation
    except BaseException:
        if operation.running:
            unfinished.append(operation)
        raise
    return request


def run_prepared(
    call: Call, loads: Sequence[Stage], stores: Sequence[Stage], status: MPI.Status | None = None
) -> MPI.Prequest:
    """Prepare a persistent operation; its request fills the stages whenever it starts."""
    if unfinished:
        settle_unfinished()
    plain = call()
    request = Prequest(plain)
    request.operation = Operation(plain, loads, stores, message=status is not None, persistent=True)
    return request


# mpi4py 4.1 makes the requests of these without their buffers, which could be freed while MPI uses them.
_WITHOUT_BUFFERS = frozenset(
    ("Iallgatherv", "Ireduce", "Iallreduce", "Ireduce_scatter_block", "Ireduce_scatter", "Iscan", "Iexscan")
)


def direct(base: Any, run: Runner) -> Any:
    """What calls mpi4py's method `base` when no stage is needed.

    Persistent requests are of our class, and so are those that must keep their buffers.
    """
    if run is run_at_once or (run is run_started and base.__name__ not in _WITHOUT_BUFFERS):
        return base
    request_class = Request if run is run_started else Prequest

    @named_like(base)
    def start(*arguments: Any, **named: Any) -> MPI.Request:
        request = request_class(base(*arguments, **named))
        request.buffers = arguments, named
        return request

    return start
