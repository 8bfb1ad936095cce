"""A limit on each test that needs nothing from the program it cuts: no interpreter lock and no other rank.

At the limit `faulthandler` writes the tracebacks of all threads, from a thread of its own in C. A few seconds
later, when every rank has had the time to do so, the kernel's alarm ends the process, and with it ``mpiexec``
ends the job.
"""

import faulthandler
import os
import signal
from pathlib import Path

import pytest

SECONDS = 60.0
SECONDS_TO_DUMP = 3.0


class Alarm:
    """Ends this process a given time after it was last set, with the tracebacks of its threads.

    Parameters
    ----------
    label
        What the tracebacks are headed with: the rank.
    path
        The file for the tracebacks, which also says what was running; None for the terminal.
    """

    def __init__(self, label: str, path: Path | None) -> None:
        self.label = label
        self.named = path is not None
        # pytest puts a file in place of descriptor 2 later on: keep the one there is now.
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) if path else os.dup(2)

    def set(self, what: str, seconds: float = SECONDS) -> None:
        """Give this process `seconds` from now for `what`."""
        self.clear()
        if self.named:
            os.ftruncate(self.file, 0)
            self.note(f"{self.label}, {what}, limit {seconds:g} s")
        faulthandler.dump_traceback_later(seconds, file=self.file)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + SECONDS_TO_DUMP)

    def note(self, line: str) -> None:
        """Add `line` to what is known if this process is cut."""
        os.write(self.file, f"{line}\n".encode())

    def clear(self) -> None:
        """Let this process run as long as it likes."""
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)


class Limit:
    """A pytest plugin: each phase of a test, and what pytest does between tests, has its limit.

    ``@pytest.mark.timeout_s(120)`` gives a test another one.
    """

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm

    def set_for(self, item: pytest.Item, phase: str) -> None:
        """Start the time of one phase of `item`."""
        if item.config.getoption("usepdb"):
            return
        marker = item.get_closest_marker("timeout_s")
        self.alarm.set(f"{item.nodeid} ({phase})", marker.args[0] if marker else SECONDS)

    def pytest_sessionstart(self) -> None:
        """Limit the collection, and let the tracebacks of a crash go where those of a hang go."""
        if self.alarm.named:
            faulthandler.enable(self.alarm.file)
        self.alarm.set("collecting the tests")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Limit what stands before the test."""
        self.set_for(item, "setup")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Limit the test."""
        self.set_for(item, "call")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Limit what stands after the test."""
        self.set_for(item, "teardown")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Limit the end of the session and of the process, where MPI waits for all ranks once more."""
        self.alarm.set("ending the session")

    def pytest_enter_pdb(self) -> None:
        """Leave time to think."""
        self.alarm.clear()
