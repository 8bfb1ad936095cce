"""Calls gone wrong: each function gives what runs in the place of a method, as `wrapping.wrap` wants it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..datatypes.plain import MPI
from .announcing import announce, announcing_once
from .arguments import Arguments, with_wrong_count, with_wrong_op, with_wrong_root
from .wrapping import Change

# On a tag of their own, messages that are waited for in vain meet none of the program's.
TAG = 32749


def before(act: Callable[[], object]) -> Change:
    """Do something, and then what the method does."""

    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        act()
        return method(comm, *arguments, **named)

    return change


def left_out() -> Change:
    """Do nothing."""

    def change(_method: Any, _comm: Any, *_arguments: Any, **_named: Any) -> None:
        announce("skip")

    return change


def another(call: str) -> Change:
    """Call a method that takes no arguments."""

    def change(_method: Any, comm: Any, *_arguments: Any, **_named: Any) -> None:
        announce("wrong-call")
        getattr(comm, call)()

    return change


def wrong_count(call: str) -> Change:
    """Leave out the last element of each array."""
    return _replacing("wrong-count", lambda _comm, given: with_wrong_count(call, given))


def wrong_root(call: str) -> Change:
    """Pass the next rank as the root."""
    return _replacing("wrong-root", lambda comm, given: with_wrong_root(call, given, comm.Get_size()))


def wrong_op(call: str) -> Change:
    """Pass another operation."""
    return _replacing("wrong-op", lambda _comm, given: with_wrong_op(call, given))


def _replacing(kind: str, replace: Callable[[Any, Arguments], Arguments]) -> Change:
    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        wrong = replace(comm, Arguments(arguments, named))
        announce(kind)
        return method(comm, *wrong.positional, **wrong.named)

    return change


def waiting_for(peer: int | None) -> Change:
    """Wait for a message that does not come, from a rank or from whichever."""

    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        announce("receive")
        comm.Recv(np.empty(1), MPI.ANY_SOURCE if peer is None else peer, TAG)
        return method(comm, *arguments, **named)

    return change


def late(peer: int, seconds: float) -> Change:
    """Wait before a message to one rank."""
    tell = announcing_once("late")

    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        if Arguments(arguments, named).get(1, "dest", None) == peer:
            tell()
            time.sleep(seconds)
        return method(comm, *arguments, **named)

    return change


def slow(factor: float) -> Change:
    """Take `factor` times as long from the end of the call before to this one."""
    tell = announcing_once("slow")
    returned: float | None = None

    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal returned
        if returned is not None:
            tell()
            time.sleep((time.perf_counter() - returned) * (factor - 1))
        try:
            return method(comm, *arguments, **named)
        finally:
            returned = time.perf_counter()

    return change
