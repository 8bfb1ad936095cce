"""Calls of MPI that an exception out of a signal handler may follow, but whose outcome it cannot take away.

CPython runs the handlers of signals in the main thread, between two steps of the interpreter. It handles a
signal that comes while MPI waits when mpi4py's method has returned, and an exception that the handler raises
takes the place of the method's result.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from typing import Any

_NO_ARGUMENTS = ((),)


def call_and_settle(call: Callable[[], Any], settle: Callable[[Any], None]) -> Any:
    """Call MPI, and `settle` with the result, also when an exception interrupts either; return the result.

    Parameters
    ----------
    call : callable
        A method of mpi4py, or a `functools.partial` of one: a function in Python could be interrupted
        before it returns the result.
    settle : callable
        Does what must follow the call. It can be interrupted, and is then called again.

    Raises
    ------
    BaseException
        The interruption, after `settle` has done its work; or what `call` or `settle` raise themselves.
    """
    results: list[Any] = []
    try:
        # In C from the call to the list: the interpreter does not look for signals in between.
        results.extend(starmap(call, _NO_ARGUMENTS))
        settle(results[0])
    except BaseException:
        if results:
            settle(results[0])
        raise
    return results[0]
