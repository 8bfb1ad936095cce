"""Python stacks of ranks, also of those that hang in C: `faulthandler` writes them from a signal handler."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import re
import select
import signal
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from threading import current_thread, main_thread

# Ranks that hang or compute answer within milliseconds, those that share a core with many others far later.
SECONDS_TO_ANSWER = 0.7
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')


class StackPipe:
    """In a rank: the pipe into which the stacks of its threads are written when a signal arrives.

    Attributes
    ----------
    signal : int
        A real-time signal that nothing else in this process handles: the highest that is free, mostly 64.
    """

    def __init__(self) -> None:
        self.signal = free_signal()
        self.read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if current_thread() is main_thread():
            # `faulthandler` puts this back when Python ends, and a rank in MPI_Finalize outlives the signal.
            signal.signal(self.signal, signal.SIG_IGN)
        try:
            # Of all threads, without the interpreter's lock. A full pipe loses the rest, and stops nobody.
            faulthandler.register(self.signal, file=self._write_end, all_threads=True, chain=False)
        except BaseException:
            self.close_read_end()
            os.close(self._write_end)
            raise

    def close_read_end(self) -> None:
        """Leave the other end to whoever got it."""
        os.close(self.read_end)


def free_signal() -> int:
    """A real-time signal that has no handler in this process.

    Raises
    ------
    OSError
        All of them have one.
    """
    handled = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(("SigCgt:", "SigIgn:", "SigBlk:")):
            handled |= int(line.split()[1], 16)
    for number in range(signal.SIGRTMAX, signal.SIGRTMIN - 1, -1):
        if not handled >> (number - 1) & 1:
            return number
    raise OSError("all real-time signals have handlers")


def unasked_stack(pipe: int) -> str:
    """Read what a rank has written by itself: an answer that came late, or where it ended inside a call."""
    found = b""
    with suppress(BlockingIOError):
        while part := os.read(pipe, 65536):
            found += part
    return found.decode(errors="replace").rstrip()


def read_stack(pipe: int, end: float) -> str:
    """Read what a rank writes that has got the signal; nothing if it has not begun by `end`."""
    found = b""
    while True:
        # Once it has begun, it goes on without a pause.
        left = 0.03 if found else max(end - time.monotonic(), 0.0)
        if not select.select([pipe], [], [], left)[0]:
            break
        try:
            part = os.read(pipe, 65536)
        except BlockingIOError:
            continue
        if not part:
            break
        found += part
    return found.decode(errors="replace").rstrip()


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    return str(Path(spec.origin).parent) + os.sep if spec and spec.origin else "\0"


class CallSites:
    """Finds where a program is, in a stack that has frames of roundelay, mpi4py and Python itself."""

    def __init__(self) -> None:
        # A program is at no line any more when only what runs it is left: roundelay's command, by click.
        self._packages = tuple(_folder_of(each) for each in ("roundelay", "mpi4py", "click"))
        paths = sysconfig.get_paths()
        self._library = tuple({paths["stdlib"] + os.sep, paths["platstdlib"] + os.sep})

    def find(self, stack: str) -> str:
        """The innermost frame of the program's own, as ``solve.py:88``; nothing if there is none."""
        found = [match for line in _thread_of(stack) if (match := _FRAME.match(line))]
        frames = [frame for frame in found if not self._is_beneath(frame["file"])]
        own = [frame for frame in frames if self._is_own(frame["file"])]
        for frame in (own or frames)[:1]:
            return f"{Path(frame['file']).name}:{frame['line']}"
        return ""

    def _is_beneath(self, file: str) -> bool:
        return file.startswith(("<frozen", *self._packages)) or "mpi4py/MPI" in file

    def _is_own(self, file: str) -> bool:
        installed = "/site-packages/" in file or "/dist-packages/" in file
        return installed or not file.startswith(self._library)


def _thread_of(stack: str) -> list[str]:
    """Lines of the thread that got the signal, which is the main one unless it blocks it."""
    parts = re.split(r"^(?=(?:Current thread|Thread) 0x)", stack, flags=re.MULTILINE)
    # One that answers late has written more than one stack, and the last is the newest.
    own = [part for part in parts if part.startswith("Current thread")] or parts
    return own[-1].splitlines() if own else []
