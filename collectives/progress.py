"""Progress of schedules that are under way while the program does something else.

MPI lets every operation go on while a program waits for any other one; a program that receives a message
before it waits for its collective relies on that. A thread must therefore advance what MPI does not know of.
"""

from __future__ import annotations

import atexit
from collections import deque
from threading import Event, Lock, Thread
from time import sleep

from ..comm.interrupts import SignalsDeferred
from ..datatypes.plain import MPI
from .execute import Execution

# The program's own calls advance a schedule as well; the thread is for when there are none.
_PAUSE_S = 100e-6


class Running:
    """An execution that several threads may advance.

    Parameters
    ----------
    execution : Execution
        Not yet begun.
    before : Running, optional
        What must be done first, because it uses the same tags.
    """

    def __init__(self, execution: Execution, before: Running | None = None) -> None:
        self._execution: Execution | None = execution
        self._before = before
        self._lock = Lock()
        self._done = False
        self._error: BaseException | None = None

    def advance(self) -> bool:
        """Go on as far as messages have arrived, unless another thread is at it; tell whether it is done."""
        if not self._done:
            # The lock is taken inside: an exception between the two would keep it for ever.
            with SignalsDeferred():
                if self._lock.acquire(blocking=False):
                    try:
                        if not self._done:
                            self._advance()
                    except BaseException as error:
                        # Whoever waits is told, and nobody sends a second time what has been sent.
                        self._error, self._done = error, True
                    finally:
                        if self._done:
                            # It keeps its tags, and they this one.
                            self._execution = None
                        self._lock.release()
        return self._done

    def _advance(self) -> None:
        if self._before is not None:
            if not self._before.advance():
                return
            self._before = None
        assert self._execution is not None
        self._done = self._execution.advance()

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._error is not None:
            raise self._error


_running: deque[Running] = deque()
_wanted, _ended = Event(), Event()


def is_possible() -> bool:
    """Whether MPI allows a thread to advance what is under way."""
    return bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def begin(execution: Execution, before: Running | None = None) -> Running:
    """Begin an execution when `before` is done, and keep it going."""
    running = Running(execution, before)
    if not running.advance():
        _running.append(running)
        _start_thread()
        _wanted.set()
    return running


def _keep_going() -> None:
    while _wanted.wait() and not _ended.is_set():
        for _ in range(len(_running)):
            running = _running.popleft()
            if not running.advance():
                _running.append(running)
        if not _running:
            _wanted.clear()
            if _running:  # Another one has begun in between.
                _wanted.set()
        sleep(_PAUSE_S)


_thread: Thread | None = None
_starting = Lock()


def _start_thread() -> None:
    global _thread  # noqa: PLW0603
    with _starting:
        if _thread is None:
            _thread = Thread(target=_keep_going, name="roundelay progress", daemon=True)
            _thread.start()
            atexit.register(_stop)


def _stop() -> None:
    """Let no thread be in MPI when it is finalized."""
    _ended.set()
    _wanted.set()
    if _thread is not None:
        _thread.join()
