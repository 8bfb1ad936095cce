"""Tables that are never cut, and bars for those who look on."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table

# Wider than any table. A terminal that is narrower breaks the lines, and a pipe gets them as they are.
_WIDEST = 10_000


def print_table(table: Table) -> None:
    """Print a table as wide as it is."""
    # Open MPI's mpiexec gives a rank a terminal also where its output goes to a file.
    Console(width=_WIDEST, color_system=None).print(table)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar beside the output, which vanishes; none where nobody looks on."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
