"""The outcome of each test, written line by line so that a job that dies has said what it was doing."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DONE = "done.json"
# Of a test's phases, and then of its ranks, the last in line decides. A test that never ended is "started".
PHASES = ("passed", "skipped", "failed")
RANKS = ("skipped", "passed", "failed", "started")


class Lines:
    """The record that one rank keeps in the folder of a session."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"record{rank}.jsonl"

    def write(self, **entry: object) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Record:
    """A pytest plugin: puts each start and each outcome down in `lines`."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.outcome = "passed"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is a failed test."""
        if report.failed:
            self.lines.write(test=report.nodeid, outcome="failed")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say how many tests there are."""
        self.lines.write(collected=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say what is running, in case it never ends."""
        self.outcome = "passed"
        self.lines.write(test=nodeid, outcome="started")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome that decides among a test's phases."""
        self.outcome = max(self.outcome, report.outcome, key=PHASES.index)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Say how it ended."""
        self.lines.write(test=nodeid, outcome=self.outcome)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Say that nothing is missing."""
        self.lines.write(status=int(exitstatus))


@dataclass
class Account:
    """Summary of the records of a session.

    Attributes
    ----------
    outcomes
        "passed", "skipped", "failed" or "started" of each test.
    messages
        Of failed tests, where the record has one.
    unfit
        Tests that are not for this number of ranks.
    status
        The exit status of each rank that keeps a record; None where its session did not end.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    status: list[int | None] = field(default_factory=list)


def read(folder: Path) -> Account:
    """Read the records in `folder`; the account is empty when the session did not get so far."""
    account = Account()
    for path in sorted(folder.glob("record*.jsonl")):
        outcomes: dict[str, str] = {}
        account.status.append(None)
        for entry in map(json.loads, path.read_text().splitlines()):
            if "test" in entry:
                outcomes[entry["test"]] = entry["outcome"]
                if "message" in entry:
                    account.messages[entry["test"]] = f"{path.stem}: {entry['message']}"
            account.unfit = entry.get("unfit", account.unfit)
            account.status[-1] = entry.get("status")
        for test, outcome in outcomes.items():
            account.outcomes[test] = max(account.outcomes.get(test, outcome), outcome, key=RANKS.index)
    return account
