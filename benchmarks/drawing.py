"""Shared by the pictures and tables of the benchmarks: the JSON files, colours and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

LIBRARIES = ("mpich", "openmpi")

# Colours that people who do not see all colours can tell apart.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
LINES = (BLUE, ORANGE, GREEN, PINK)
MARKS = "os^D"
# Stands in a table for a row that was not measured, such as one that `--only` left out.
MISSING = "-"

Results = dict[str, Any]
# The function that makes a picture or a table from results, and the benchmarks that have them.
Plots = dict[str, tuple[Callable[[list[Results]], Figure], list[str]]]
Tables = dict[str, tuple[Callable[[list[Results]], str], list[str]]]


def read(benchmarks: list[str], folder: Path) -> list[Results]:
    """Results of benchmarks, one for each MPI library that they were run with, or one if they use none.

    Results without any row, of a run whose `--only` matched nothing, are left out.
    """
    names = [
        name
        for benchmark in benchmarks
        for name in (benchmark, *(f"{benchmark}-{library}" for library in LIBRARIES))
    ]
    paths = [folder / f"{name}.json" for name in names]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    return [results for results in found if results.get("rows") != []]


def values_of(runs: list[Results], field: str) -> list[Any]:
    """All values of a field of rows, because one run may lack rows that another has."""
    return list(dict.fromkeys(row[field] for run in runs for row in run["rows"]))


def row_with(run: Results, field: str, value: Any) -> dict[str, Any] | None:
    """The first row whose field has that value, if there is one."""
    return next((row for row in run["rows"] if row[field] == value), None)


def library_of(results: Results) -> str:
    """Name and version of the MPI library."""
    return re.sub(r"\s+(?:Version:\s*|v)(?=\d)", " ", results["environment"]["library"])


def title_of(results: Results) -> str:
    """Title of a panel: the software and the processor."""
    environment = results["environment"]
    return f"{library_of(results)}, mpi4py {environment['mpi4py']}, {environment['processor']}"


def label_bytes(axes: Axes, sizes: list[float]) -> None:
    """Mark sizes in bytes along a logarithmic axis."""
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_bytes(value)))


def in_bytes(value: float) -> str:
    """Write a number of bytes; below one byte stands for none."""
    size = round(value) if value >= 1 else 0
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


def label_seconds(axes: Axes) -> None:
    """Mark times in seconds along a logarithmic axis."""
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(EngFormatter("s"))


def label_ratios(axes: Axes, which: str) -> None:
    """Mark ratios along a logarithmic axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    between = (0.75, 1.5, 3) if high < 8 * low else ()
    ticks = [
        tick
        for tick in sorted((0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, *between))
        if low / 1.5 <= tick <= high * 1.5
    ]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def table(head: str, rows: dict[str, Callable[[Results], str]], runs: list[Results]) -> str:
    """Markdown table with a column for each library."""
    lines = [f"| {head} | {' | '.join(map(library_of, runs))} |", "|---" + "|---:" * len(runs) + "|"]
    lines += [f"| {name} | {' | '.join(map(figure, runs))} |" for name, figure in rows.items()]
    return "\n".join(lines) + "\n"
