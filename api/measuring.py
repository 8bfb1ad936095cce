"""`roundelay measure`: measures on all ranks, shows how far it is, and writes the file on rank 0."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor, log10
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

if TYPE_CHECKING:
    from .collectives.figures import Table
    from .collectives.measure import Report

LINE_SECONDS = 5.0
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def measure_and_save(links: bool, budget: str, output: str | None) -> None:
    """Measure, write the file, and show the figures; what another placement left in the file is kept.

    Raises `click.ClickException` for a budget that is none, and where the file cannot be written.
    """
    seconds = _seconds(budget)
    from .collectives.measure import measure
    from .collectives.table import Table, load, path, save
    from .datatypes.plain import MPI

    try:
        file = Path(output) if output else path()
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    comm = MPI.COMM_WORLD
    console = Console(soft_wrap=True, highlight=False, markup=False)
    with _aborting(), _reporting(console if comm.rank == 0 else None) as report:
        table = measure(comm, seconds, links, report)
    if comm.rank:
        return
    if comm.size == 1:
        console.print("One rank has no links: only reductions were measured. Start more with mpiexec -n.")
    show(console, table)
    try:
        save((load(file) or Table()).updated(table), file)
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be written: {error.strerror or error}") from error
    console.print(f"written to {file}")
    console.print("To use it, set ROUNDELAY_ALLREDUCE=auto (or _BCAST, ...) in the environment of all ranks.")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|min)?\s*", text)
    seconds = float(match[1]) * (60 if match[2] == "min" else 1) if match else 0.0
    if not seconds > 0:
        raise click.BadParameter(f"{text!r}: expected a time such as 30s or 2min", param_hint="--budget")
    return seconds


@contextmanager
def _aborting() -> Iterator[None]:
    """End all ranks when one of them fails: the others would wait for its messages."""
    from mpi4py.run import set_abort_status

    try:
        yield
    except BaseException:
        set_abort_status(1)
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


@contextmanager
def _reporting(console: Console | None) -> Iterator[Report | None]:
    """A bar where there is a terminal, and a line now and then where there is none."""
    if console is None:
        yield None
        return
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # A thread that draws would take time from what is measured.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("", total=1.0)

        def report(text: str, done: float) -> None:
            progress.update(bar, description=text, completed=done, refresh=True)

        yield report


def _lines(console: Console) -> Report:
    last = perf_counter() - LINE_SECONDS

    def report(text: str, done: float) -> None:
        nonlocal last
        if perf_counter() - last >= LINE_SECONDS:
            console.print(f"measuring: {text} ({done:.0%} done)")
            sys.stdout.flush()
            last = perf_counter()

    return report


def show(console: Console, table: Table) -> None:
    """Print the figures."""
    grid = Grid(table.library, "", "spread", show_edge=False)
    for classes in table.figures.values():
        for pair_class, figures in classes.items():
            for name in ("latency", "overhead", "gap", "per_byte", "per_byte_crowded"):
                value = getattr(figures, name)
                text = f"{1e-9 / value:.3g} GB/s" if name.startswith("per_byte") else _time(value)
                label = name.replace("per_byte", "bandwidth").replace("_crowded", ", many flows")
                grid.add_row(f"{pair_class}: {label}", text, f"{figures.spread.get(name, 0.0):.0%}")
    for curve in table.reduction.values():
        for nbytes, seconds in curve:
            grid.add_row(f"reduction of {_size(nbytes)}", f"{1e-9 / seconds:.3g} GB/s", "")
    for rate in table.attention.values():
        grid.add_row("attention of a rank", f"{1e-9 * rate:.3g} GF/s", "")
    grid.add_row("step without a message", _time(table.step), "")
    console.print(grid)
    if table.native:
        console.print(_collectives(table))


def _collectives(table: Table) -> Grid:
    """Seconds of the library's own collectives, and below them what is faster."""
    columns = [
        {
            _size(nbytes): f"{_time(seconds)}\n{_faster(table, operation, where, nbytes, seconds)}"
            for nbytes, seconds in curve
        }
        for operation, placements in table.native.items()
        for where, curve in placements.items()
    ]
    grid = Grid("the library's own, and what is faster", *table.native, show_edge=False)
    for size in columns[0]:
        grid.add_row(size, *(column.get(size, "") for column in columns))
    return grid


def _faster(table: Table, operation: str, where: str, nbytes: float, native: float) -> str:
    """The fastest algorithm of ours for a size, if it is taken in the place of the library's own."""
    from .collectives.selection import MARGIN

    curves = table.trials.get(operation, {}).get(where, {})
    tried = [(seconds, text) for text, curve in curves.items() for size, seconds in curve if size == nbytes]
    seconds, text = min(tried, default=(native, ""))
    return f"{text}: {native / seconds:.1f} times" if native > MARGIN * seconds else ""


def _size(nbytes: float) -> str:
    for scale, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes:g} B"


def _time(seconds: float) -> str:
    scale, unit = next((each for each in _SCALES if seconds >= each[0]), _SCALES[-1])
    value = seconds / scale
    return f"{value:.{max(0, 2 - floor(log10(value)))}f} {unit}" if value > 0 else f"0 {unit}"
