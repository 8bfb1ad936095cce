"""Methods of communicators that do something else for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..comm.communicators import Intercomm, Intracomm

# Gets what the method would do, the communicator and the arguments.
Change = Callable[..., Any]

_CLASSES: tuple[type, ...] = (Intracomm, Intercomm)


def check_call(call: str) -> None:
    """Check that communicators have a method of that name.

    >>> check_call("Alreduce")
    Traceback (most recent call last):
    ValueError: call 'Alreduce': expected a method of a communicator, such as Allreduce or Send
    """
    if not callable(getattr(Intracomm, call, None)) or call.startswith("_"):
        message = f"call {call!r}: expected a method of a communicator, such as Allreduce or Send"
        raise ValueError(message)


def wrap(call: str, change: Change) -> Callable[[], None]:
    """Let `change` run in the place of a method of roundelay's communicators, and return what undoes that.

    It is called as ``change(method, comm, *arguments, **named)``.
    """
    check_call(call)
    undo = [_wrap_in(owner, call, change) for owner in _CLASSES if hasattr(owner, call)]

    def unwrap() -> None:
        for each in undo:
            each()

    return unwrap


def _wrap_in(owner: type, call: str, change: Change) -> Callable[[], None]:
    method = getattr(owner, call)
    own = vars(owner).get(call)

    @functools.wraps(method)
    def changed(comm: Any, *arguments: Any, **named: Any) -> Any:
        return change(method, comm, *arguments, **named)

    setattr(owner, call, changed)

    def undo() -> None:
        if own is None:
            delattr(owner, call)
        else:
            setattr(owner, call, own)

    return undo
