"""One job with the fault monitor: started, looked after, and ended with all that it left behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.launch import ROOT, environment, find_mpiexec

PR_SET_CHILD_SUBREAPER = 36
SECONDS_BETWEEN_LOOKS = 0.05
# After what was expected has been found: for what else may be found.
SECONDS_AFTER_VERDICT = 0.5
# For a watcher that ends with its last rank.
SECONDS_TO_END = 3.0
OUTPUT_LINES = 40

# More ranks than cores: who waits leaves the core to the others.
YIELDING = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}


@dataclass
class Outcome:
    """What became of a job.

    Attributes
    ----------
    verdicts
        Of its report, the first found first.
    injected
        Faults that were announced, with the times.
    seconds
        How long it ran.
    status
        Of mpiexec; None where it had to be ended.
    left
        Command lines of processes that were there a while after mpiexec had ended, and were killed.
    output
        Its last lines.
    has_report
        Whether there was one that could be read.
    watcher_share
        Of a core, that the watcher has used.
    """

    verdicts: list[dict[str, Any]] = field(default_factory=list)
    injected: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    status: int | None = None
    left: list[str] = field(default_factory=list)
    output: str = ""
    has_report: bool = False
    watcher_share: float = 0.0


def monitored(report: Path, program: Sequence[str], on_hang: str = "report") -> list[str]:
    """Command line of a rank that is watched."""
    run = [sys.executable, "-m", "roundelay", "run", "--monitor", "--on-hang", on_hang]
    return [*run, "--report", str(report), *program]


def run_job(
    program: Sequence[str],
    ranks: int,
    folder: Path,
    limit: float,
    is_found: Callable[[list[dict[str, Any]]], bool] = lambda _verdicts: False,
    on_hang: str = "report",
    variables: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a program on a number of ranks under the monitor.

    Parameters
    ----------
    program
        Its file, or "-m" and its module, with arguments.
    ranks, limit
        How many, and for how many seconds at most.
    folder
        An empty one, for the report and the like.
    is_found
        Tells of the verdicts so far whether the job has shown what it was started for; it is then ended.
    on_hang
        What `roundelay run` does at a verdict.
    variables
        Of the environment.
    """
    report, log, output = folder / "report.json", folder / "injected.jsonl", folder / "output.txt"
    adopt_orphans()
    start = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [find_mpiexec(), "-n", str(ranks), *monitored(report, program, on_hang)],
            cwd=ROOT,
            env={**environment(), **YIELDING, "ROUNDELAY_INJECT_LOG": str(log), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        outcome = Outcome()
        with ended_with_all_it_started(process, outcome):
            look_after(process, start + limit, lambda: is_found(read_verdicts(report)[0]))
            end = time.time() if process.poll() is None else float("inf")
    verdicts, outcome.has_report = read_verdicts(report)
    if outcome.has_report:
        job = json.loads(report.read_text())["job"]
        outcome.watcher_share = job["watcher_seconds"] / job["seconds"]
    # That the ranks are dead is right when they have been ended here.
    outcome.verdicts = [verdict for verdict in verdicts if verdict["time"] < end]
    outcome.injected = read_lines(log)
    outcome.seconds = time.monotonic() - start
    outcome.output = "\n".join(output.read_text(errors="replace").splitlines()[-OUTPUT_LINES:])
    return outcome


def look_after(process: subprocess.Popen[Any], end: float, is_found: Callable[[], bool]) -> None:
    """Wait until a job has ended, has shown what it was started for, or has no time left."""
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_LOOKS)
            return
        if is_found():
            end = min(end, time.monotonic() + SECONDS_AFTER_VERDICT)
            is_found = _never


def _never() -> bool:
    return False


def read_verdicts(report: Path) -> tuple[list[dict[str, Any]], bool]:
    """Verdicts in a report by their times, and whether there is a report."""
    try:
        verdicts = json.loads(report.read_text())["verdicts"]
    except (OSError, ValueError, KeyError):
        return [], False
    for verdict in verdicts:
        # The report counts from its own start; the fault has the time of day.
        verdict["time"] = datetime.fromisoformat(verdict["date"]).timestamp()
    return sorted(verdicts, key=lambda verdict: float(verdict["time"])), True


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file with a line of JSON for each entry; empty where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# The processes of a job


def adopt_orphans() -> None:
    """Become the parent of processes whose parents end, so that none of a job's is lost sight of."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def ended_with_all_it_started(process: subprocess.Popen[Any], outcome: Outcome) -> Iterator[None]:
    """At the end of the block, end a job; write down how it ended, and what outlives it."""
    others = set(descendants()) - set(descendants(process.pid)) - {process.pid}
    try:
        yield
    finally:
        outcome.status = process.poll()
        if outcome.status is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
        elif still := _wait_for_end(others, SECONDS_TO_END):
            outcome.left += [line for line in map(_command_line, still) if line]
        for pid in set(descendants()) - others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        _wait_for_end(others, SECONDS_TO_END)


def _wait_for_end(others: set[int], seconds: float) -> set[int]:
    """Wait until there are no descendants but those; give the ones that there still are."""
    end = time.monotonic() + seconds
    while (still := set(descendants()) - others) and time.monotonic() < end:
        for pid in still:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return still


def descendants(ancestor: int | None = None) -> list[int]:
    """Processes that one, by default this one, has started or adopted, and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                # The name, in brackets, may have any character.
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.name))
    found, next_ones = [], [ancestor or os.getpid()]
    while next_ones:
        next_ones = [child for pid in next_ones for child in children.get(pid, [])]
        found += next_ones
    return found


def _command_line(pid: int) -> str:
    """Of a process; empty for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
