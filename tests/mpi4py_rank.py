"""One rank of mpi4py's own suite: ``... -m tests.mpi4py_rank [--layer] FOLDER SUITE [arguments]``.

Runs main.py with these arguments as it is, with a result that puts each outcome down in FOLDER and a limit on
each test.
"""

import contextlib
import json
import os
import runpy
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any

from mpi4py import MPI

from tests.launch import ROOT
from tests.limit import Alarm
from tests.rank import redirect
from tests.record import DONE, PHASES, Lines


def recorder(lines: Lines, alarm: Alarm) -> type[unittest.TextTestResult]:
    """Return a class of results that writes `lines` and sets `alarm`."""

    class Recorder(unittest.TextTestResult):
        outcome = ""

        def note(self, outcome: str) -> None:
            self.outcome = max(self.outcome or outcome, outcome, key=PHASES.index)

        def fail(self, test: unittest.TestCase, error: Any) -> None:
            message = "".join(traceback.format_exception(*error))
            alarm.note(f"{test.id()} failed: {message}")
            lines.write(test=test.id(), outcome="failed", message=message)
            self.note("failed")

        def startTestRun(self) -> None:
            super().startTestRun()
            # The suite forbids its own tests to import numba; what is under test may need it.
            if sys.modules.get("numba", sys) is None:
                del sys.modules["numba"]

        def startTest(self, test: unittest.TestCase) -> None:
            super().startTest(test)
            self.outcome = ""
            lines.write(test=test.id(), outcome="started")
            alarm.set(test.id())

        def stopTest(self, test: unittest.TestCase) -> None:
            super().stopTest(test)
            lines.write(test=test.id(), outcome=self.outcome or "failed")

        def printErrors(self) -> None:
            """Leave it to the comparison to say which failures matter."""

        def addSuccess(self, test: unittest.TestCase) -> None:
            super().addSuccess(test)
            self.note("passed")

        def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addExpectedFailure(test, err)
            self.note("passed")

        def addSkip(self, test: unittest.TestCase, reason: str) -> None:
            super().addSkip(test, reason)
            self.note("skipped")

        def addFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addFailure(test, err)
            self.fail(test, err)

        def addError(self, test: unittest.TestCase, err: Any) -> None:
            super().addError(test, err)
            self.fail(test, err)

        def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                self.fail(subtest, err)

    return Recorder


def leave_out(done: frozenset[str]) -> None:
    """Make unittest load only tests that an earlier session has not started."""
    names_of = unittest.TestLoader.getTestCaseNames

    def remaining(loader: unittest.TestLoader, case: type[unittest.TestCase]) -> list[str]:
        prefix = f"{case.__module__}.{case.__qualname__}."
        return [name for name in names_of(loader, case) if prefix + name not in done]

    unittest.TestLoader.getTestCaseNames = remaining  # type: ignore[assignment,method-assign]


def main(folder: Path, suite: Path, arguments: list[str]) -> None:
    """Run this rank's share of the suite."""
    world = MPI.COMM_WORLD
    end = world.Dup()
    if world.rank:
        redirect(folder / f"rank{world.rank}.txt")
    lines = Lines(folder, world.rank)
    alarm = Alarm(f"rank {world.rank} of {world.size}", folder / f"alarm{world.rank}.txt")
    alarm.set("loading the suite")
    unittest.TextTestRunner.resultclass = recorder(lines, alarm)
    leave_out(frozenset(json.loads((folder / DONE).read_text())))
    sys.argv = [str(suite / "main.py"), *arguments]
    # The folders of this repository have names that a program may use for its own modules.
    sys.path[:] = [str(suite), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.chdir(suite)
    with contextlib.suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    alarm.set("ending the session")
    lines.write(status=0)
    sys.stdout.flush()
    end.Barrier()


if __name__ == "__main__":
    if sys.argv[1] == "--layer":
        import roundelay.MPI

        assert roundelay.MPI.Comm is not MPI.Comm
        del sys.argv[1]
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
