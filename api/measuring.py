"""`roundelay measure`: measures on all ranks, shows how far it is, and writes the file on rank 0."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table as Grid

from . import terminal

if TYPE_CHECKING:
    from .collectives.figures import Table
    from .collectives.measure import Report

# Range between the quartiles, relative to the median, beyond which something else must have run.
DOUBTFUL_SPREAD = 1 / 3
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def measure_and_save(links: bool, budget: str, output: Path | None) -> None:
    """Measure, write the file, and show the figures; what another placement left in the file is kept.

    Raises `click.ClickException` for a budget that is none, and where the file cannot be written.
    """
    seconds = _seconds(budget)
    from .collectives.measure import measure
    from .collectives.table import Table, load, path, save
    from .datatypes.plain import MPI

    comm = MPI.COMM_WORLD
    with _writing():
        file = output or path()
    with _aborting(), _reporting(comm.rank == 0) as report:
        table = measure(comm, seconds, links, report)
    if comm.rank:
        return
    if comm.size == 1:
        click.echo("One rank has no links: only reductions were measured. Start more with mpiexec -n.")
    show(table)
    with _writing():
        save((load(file) or Table()).updated(table), file)
    click.echo(f"written to {file}")
    # No program reads another file by itself.
    if comm.size > 1 and output is None:
        click.echo("To use it, set ROUNDELAY_ALLREDUCE=auto (or _BCAST, ...) for all ranks.")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|min)?\s*", text)
    seconds = float(match[1]) * (60 if match[2] == "min" else 1) if match else 0.0
    if not seconds > 0:
        raise click.BadParameter(f"{text!r}: expected a time such as 30s or 2min", param_hint="'--budget'")
    return seconds


@contextmanager
def _writing() -> Iterator[None]:
    """Make errors of the file errors of the command."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the figures cannot be written: {error}") from error


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
def _reporting(visible: bool) -> Iterator[Report | None]:
    """Show how far it is, on one rank."""
    if not visible:
        yield None
        return
    shown = terminal.meter("measuring")
    try:
        yield lambda text, done: shown.update(round(100 * done), 100, f" % ({text})")
    finally:
        shown.close()


def show(table: Table) -> None:
    """Print the figures, and name those that are not to be trusted."""
    grid = Grid(table.library, "", "spread", show_edge=False)
    doubtful = []
    for classes in table.figures.values():
        for pair_class, figures in classes.items():
            for name in ("latency", "overhead", "gap", "per_byte", "per_byte_crowded"):
                value, spread = getattr(figures, name), figures.spread.get(name, 0.0)
                text = f"{1e-9 / value:.3g} GB/s" if name.startswith("per_byte") else _time(value)
                label = name.replace("per_byte", "bandwidth").replace("_crowded", ", many flows")
                grid.add_row(f"{pair_class}: {label}", text, f"{spread:.0%}")
                if spread > DOUBTFUL_SPREAD:
                    doubtful.append(f"{pair_class}: {label} ({spread:.0%})")
    for curve in table.reduction.values():
        for nbytes, seconds in curve:
            grid.add_row(f"reduction of {_size(nbytes)}", f"{1e-9 / seconds:.3g} GB/s", "")
    for rate in table.attention.values():
        grid.add_row("attention of a rank", f"{1e-9 * rate:.3g} GF/s", "")
    grid.add_row("step without a message", _time(table.step), "")
    terminal.print_table(grid)
    if table.native:
        click.echo()
        terminal.print_table(_collectives(table))
    if doubtful:
        click.echo(
            f"\nSpread of more than {DOUBTFUL_SPREAD:.0%}: {', '.join(doubtful)}.\n"
            "Other work ran at the same time, or there are more ranks than cores: choices made from these "
            "figures may be wrong.\nMeasure again on nodes that are idle."
        )


def _collectives(table: Table) -> Grid:
    """Seconds of the library's own collectives, and what is faster."""
    grid = Grid("collective", "bytes", "the library's own", "faster", show_edge=False)
    for operation, placements in table.native.items():
        for where, curve in placements.items():
            for nbytes, seconds in curve:
                faster = _faster(table, operation, where, nbytes, seconds)
                grid.add_row(operation, _size(nbytes), _time(seconds), faster)
            grid.add_section()
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
