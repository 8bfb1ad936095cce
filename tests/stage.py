"""A stage: sessions of tests, one after another until every test has had its turn."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests import launch
from tests.progress import Progress
from tests.record import DONE, Account, read

STARTS = 5
LIMIT = 900.0
# pytest's exit statuses where nothing went wrong: all passed, none collected.
WELL = {0, 5}


class Stage:
    """Tests run by one command, which is started again for those left when a session was cut.

    Parameters
    ----------
    name
        For the reader of the output.
    command
        Returns the command line of a session, given the folder where it keeps its records.
    folder
        An empty folder for the sessions.
    limit
        Seconds for the whole stage.
    shows_failures
        Whether a failure prints the reports of the ranks that have no terminal, or only a cut does.
    done
        Tests to leave out.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Path], list[str]],
        folder: Path,
        limit: float = LIMIT,
        shows_failures: bool = True,
        done: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.command = command
        self.folder = folder
        self.limit = limit
        self.shows_failures = shows_failures
        self.done = list(done)
        self.account = Account()
        self.cut: list[str] = []

    def run(self) -> Account:
        """Run all tests and return what became of them."""
        print(f"==== {self.name} ====", flush=True)
        begin = time.monotonic()
        for start in range(STARTS):
            session = self.folder / f"session{start}"
            session.mkdir(parents=True)
            (session / DONE).write_text(json.dumps([*self.done, *self.account.outcomes]))
            progress = Progress(self.name, session / "record0.jsonl")
            left = begin + self.limit - time.monotonic()
            try:
                status = launch.run(self.command(session), left, line=progress.line, look=progress.look)
            finally:
                progress.close()
            if not self.settle(session, status):
                break
        else:
            print(f"{self.name}: cut {STARTS} times; what comes after the last cut was not run", flush=True)
        print(f"==== {self.name}: {time.monotonic() - begin:.0f} s ====", flush=True)
        return self.account

    def settle(self, session: Path, status: int | None) -> bool:
        """Enter a session into the account; return whether there may be tests left for another one."""
        account = read(session)
        ended = status == 0 and bool(account.status) and None not in account.status
        cut = [test for test, outcome in account.outcomes.items() if outcome == "started"]
        account.outcomes.update(dict.fromkeys(cut, "failed"))
        account.messages.update(dict.fromkeys(cut, "did not end"))
        failed = "failed" in account.outcomes.values()
        explained = failed or set(account.status) <= WELL if ended else bool(cut)
        if not explained:
            itself = f"the session itself (exit status {status}, of pytest {account.status})"
            account.outcomes[itself] = "failed"
            failed = True
        if not ended:
            self.show(session, "alarm*.txt")
            print(f"{self.name}: cut in {', '.join(cut) or 'no test'} (exit status {status})", flush=True)
        if not ended or (failed and self.shows_failures):
            self.show(session, "rank*.txt")
        self.cut += cut
        self.account.outcomes.update(account.outcomes)
        self.account.messages.update(account.messages)
        self.account.unfit = account.unfit or self.account.unfit
        return bool(cut) and status is not None

    def show(self, session: Path, pattern: str) -> None:
        """Print what ranks have left in files: reports of those without a terminal, what each did last."""
        for path in sorted(session.glob(pattern)):
            print(f"---- {self.name}, {path.stem} ----\n{path.read_text(errors='replace')}", flush=True)
