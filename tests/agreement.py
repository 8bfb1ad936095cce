"""One verdict on every rank: what fails on one rank fails on all, and no rank runs ahead of the others."""

from collections.abc import Generator

import pytest
from mpi4py import MPI

from tests.limit import Alarm

FAILED = pytest.StashKey[bool]()
Verdict = tuple[str, str]


def judge(excinfo: pytest.ExceptionInfo[BaseException] | None) -> Verdict:
    """Return the outcome of one phase on this rank, and its message."""
    if excinfo is None:
        return "passed", ""
    if isinstance(excinfo.value, pytest.skip.Exception):
        return "skipped", str(excinfo.value)
    return "failed", excinfo.exconly()


def describe(verdicts: list[Verdict]) -> str:
    """Say which ranks failed and how, or, when none did, which ranks skipped what others ran."""
    kinds = [kind for kind, _ in verdicts]
    worst = "failed" if "failed" in kinds else "skipped"
    return "\n".join(
        f"{worst} on rank {rank}: {message}" for rank, (kind, message) in enumerate(verdicts) if kind == worst
    )


class Agreement:
    """A pytest plugin: the ranks of `world` collect the same tests and agree on each phase of each.

    A test that is expected to fail (``xfail``) is judged after the agreement. With ``raises=`` it is expected
    to fail with that exception on every rank.
    """

    def __init__(self, world: MPI.Intracomm, alarm: Alarm) -> None:
        self.comm = world.Dup()
        self.alarm = alarm

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Refuse to run tests where the ranks have collected different ones."""
        everyone = self.comm.allgather(([item.nodeid for item in session.items], session.testsfailed))
        if any(other != everyone[0] for other in everyone):
            collected = [set(names) for names, _ in everyone]
            missing = sorted(set.union(*collected) - set.intersection(*collected))
            errors = [count for _, count in everyone]
            message = f"the ranks collected different tests: errors {errors}, not on every rank {missing}"
            pytest.exit(message, returncode=pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Give a phase that went well here the failure it had elsewhere."""
        mine = judge(call.excinfo)
        if call.excinfo and mine[0] == "failed":
            # Should another rank never come to the agreement, this is what went before.
            report = call.excinfo.getrepr(style="short")
            self.alarm.note(f"failed on rank {self.comm.rank}: {mine[1]}\n{report}")
        verdicts = self.comm.allgather(mine)
        kinds = {kind for kind, _ in verdicts}
        if "failed" in kinds:
            item.stash[FAILED] = True
        if len(kinds) > 1 and mine[0] != "failed":
            call.excinfo = failure(describe(verdicts))
        return (yield)


def failure(message: str) -> pytest.ExceptionInfo[BaseException]:
    """Return a failure that has a message and no traceback."""
    try:
        pytest.fail(message, pytrace=False)
    except pytest.fail.Exception as raised:
        return pytest.ExceptionInfo.from_exception(raised)
