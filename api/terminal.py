"""How far the work is: a bar on a terminal, a line now and then elsewhere. And tables that are never cut."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

Item = TypeVar("Item")
# Wider than any table. A terminal that is narrower breaks the lines, and a pipe gets them as they are.
_WIDEST = 10_000


def ends_at_terminal() -> bool:
    """Tell whether standard output arrives at a terminal that may be drawn on.

    ``NO_COLOR`` and ``TERM=dumb`` say that it may not. Open MPI's `mpiexec` gives ranks a pseudo-terminal and
    passes on what they write, so the output of `mpiexec` itself decides. MPICH's gives ranks a pipe.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        return False
    if "PMIX_RANK" not in os.environ:
        return True
    try:
        output = str(Path(f"/proc/{os.getppid()}/fd/1").readlink())
    except OSError:
        return False
    return output.startswith(("/dev/pts/", "/dev/tty"))


class Lines:
    """Prints a line when it is told how far the work is, but none soon after another."""

    def __init__(self, what: str, seconds_between: float = 5.0) -> None:
        self.what, self.seconds_between = what, seconds_between
        self.begin = self.shown = time.monotonic()

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Say that `done` items of `total` are done; `note` follows them."""
        now = time.monotonic()
        if now - self.shown >= self.seconds_between:
            self.shown = now
            self.show(done, total, note)

    def show(self, done: int, total: int | None, note: str) -> None:
        """Print a line."""
        far = f"{done}" if total is None else f"{done} of {total}"
        print(f"{self.what}: {far}{note}, {time.monotonic() - self.begin:.0f} s", flush=True)

    def print(self, text: str) -> None:
        """Print what has nothing to do with the progress."""
        print(text, flush=True)

    def close(self) -> None:
        """Say no more."""


class Bar(Lines):
    """Draws a bar, which is gone when the work is done."""

    def __init__(self, what: str) -> None:
        super().__init__(what, seconds_between=0.2)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        # A thread that draws would take time from what is measured.
        self.progress = Progress(*columns, console=Console(), auto_refresh=False, transient=True)
        self.task = self.progress.add_task(what, total=None)

    def show(self, done: int, total: int | None, note: str) -> None:
        """Draw the bar."""
        self.progress.start()
        text = self.what + note
        self.progress.update(self.task, description=text, completed=done, total=total, refresh=True)

    def print(self, text: str) -> None:
        """Print above the bar."""
        self.progress.console.out(text, highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        self.progress.stop()


def meter(what: str, seconds_between: float = 5.0) -> Lines:
    """Return what shows the progress of some work, named `what`: a bar, or a line not sooner than given."""
    return Bar(what) if ends_at_terminal() else Lines(what, seconds_between)


def track(
    items: Iterable[Item], what: str, *, total: int | None = None, visible: bool = True
) -> Iterator[Item]:
    """Iterate, and show how many items are done.

    Parameters
    ----------
    items : iterable
    what : str
        Names the work.
    total : int, optional
        How many items there are; not needed for what has a length.
    visible : bool
        Pass False on all ranks but one.

    Examples
    --------
    >>> sum(track([1, 2, 3], "adding"))
    6
    """
    if not visible:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    shown = meter(what)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            shown.update(done, total)
    finally:
        shown.close()


def print_table(table: Table) -> None:
    """Print a table as wide as it is."""
    # Open MPI's mpiexec gives a rank a terminal also where its output goes to a file.
    Console(width=_WIDEST, color_system=None).print(table)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar beside the output, which vanishes; none where nobody looks on."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
