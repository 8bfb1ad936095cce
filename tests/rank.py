"""One rank of a session of tests: ``... python -m mpi4py -m tests.rank FOLDER RANKS [pytest arguments]``.

Rank 0 has the terminal and writes the record; the others write what they have to say to FOLDER.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from mpi4py import MPI

from tests.agreement import Agreement
from tests.limit import Alarm, Limit
from tests.record import DONE, Lines, Record
from tests.selection import Selection


def redirect(path: Path) -> None:
    """Send what this process writes, native code included, to `path`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


class Quiet:
    """A pytest plugin: no dot for a test that went well, because `tests.progress` counts it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count the outcome, and print nothing."""
        unusual = report.outcome == "failed" or hasattr(report, "wasxfail")
        if unusual or (report.when != "call" and report.outcome == "passed"):
            return None
        return report.outcome, "", ""


def main(folder: Path, ranks: int, arguments: list[str]) -> None:
    """Run this rank's share of the session."""
    world = MPI.COMM_WORLD
    if world.size != ranks:
        sys.exit(f"COMM_WORLD has {world.size} ranks, mpiexec started {ranks}: it is of another MPI library")
    if world.rank:
        redirect(folder / f"rank{world.rank}.txt")
    end = world.Dup()
    alarm = Alarm(f"rank {world.rank} of {ranks}", folder / f"alarm{world.rank}.txt")
    done = json.loads((folder / DONE).read_text())
    lines = None if world.rank else Lines(folder, 0)
    plugins = [Selection(ranks, done, lines), Limit(alarm), Agreement(world, alarm)]
    if lines:
        plugins.append(Record(lines))
    own = ["-p", "no:cacheprovider", f"--basetemp={folder / f'tmp{world.rank}'}"]
    if not any(argument.startswith("-v") for argument in arguments):
        plugins.append(Quiet())
        own.append("-q")
    pytest.main([*own, *arguments], plugins=plugins)
    # The outcome is in the record; with another status than 0 mpiexec would end ranks that still print.
    sys.stdout.flush()
    end.Barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
