"""Signals that arrive in what must not stay half done: their handlers run after it has ended.

Python runs the handlers of signals in its main thread, between any two instructions, and an exception that
one raises would leave a schedule half done, while other ranks wait for the rest of it.
"""

from __future__ import annotations

# The functions of `signal` look up the name of each value, which takes ten times as long.
import _signal  # type: ignore[import-not-found]
import signal
from collections.abc import Callable
from threading import get_ident, main_thread
from types import FrameType
from typing import Any, TypeVar

Found = TypeVar("Found")

_SIGNALS = tuple(map(int, sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})))


class SignalsDeferred:
    """Context in which no Python handler of a signal runs; those that arrive are handled at its end.

    Examples
    --------
    >>> before = signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
    >>> with SignalsDeferred():
    ...     signal.raise_signal(signal.SIGUSR1)
    ...     print("done")
    done
    handled
    >>> before = signal.signal(signal.SIGUSR1, before)
    """

    __slots__ = ("_arrived", "_handlers")

    def __enter__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._arrived: list[int] = []
        if get_ident() != main_thread().ident:
            return
        try:
            for number in _SIGNALS:
                handler = _signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    _signal.signal(number, self._arrive)
        except BaseException:
            self._restore()
            raise

    def __exit__(self, *_error: object) -> None:
        self._restore()
        if self._arrived:
            # All of them are delivered, also when the first handler raises.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._arrived)
            for number in self._arrived:
                signal.raise_signal(number)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        if number not in self._arrived:
            self._arrived.append(number)

    def _restore(self) -> None:
        try:
            for number, handler in self._handlers.items():
                _signal.signal(number, handler)
        except BaseException:
            # A handler that is back has raised.
            self._restore()
            raise


def uninterrupted(function: Callable[[], Found], raise_later: Callable[[BaseException], object]) -> Found:
    """Call a function while handlers of signals wait, and hand on what they raise when it has returned."""
    has_returned = False
    found: Any = None
    try:
        with SignalsDeferred():
            found = function()
            has_returned = True
    except BaseException as error:
        if not has_returned:
            raise
        raise_later(error)
    return found  # type: ignore[no-any-return]
