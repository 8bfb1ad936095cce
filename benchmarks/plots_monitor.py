"""Tables of what the monitor finds, of its false alarms, and of what the record costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.drawing import MISSING, Results, Tables, row_with, table, values_of


def faults_table(runs: list[Results]) -> str:
    """How many of the repeats were named within the limit, and how soon, over all numbers of ranks."""
    rows = {f"`{case}`": _found(case) for case in values_of(runs, "case")}
    ranks = ", ".join(map(str, values_of(runs, "ranks")))
    return table(f"named in time; median and longest ({ranks} ranks)", rows, runs)


def _found(case: str) -> Callable[[Results], str]:
    def figures(run: Results) -> str:
        rows = [row for row in run["rows"] if row["case"] == case]
        if not rows:
            return MISSING
        repeats, in_time = (sum(row[key] for row in rows) for key in ("repeats", "in time"))
        times = [each["seconds"] for row in rows for each in row["runs"] if each["seconds"] is not None]
        if not times:
            return f"0 of {repeats}"
        return f"{in_time} of {repeats}; {statistics.median(times):.2f} s, {max(times):.2f} s"

    return figures


def record_table(runs: list[Results]) -> str:
    """What the record adds to a call of 8 bytes."""
    rows = {mode: _added(mode) for mode in values_of(runs, "mode")}
    return table("added to each call of 8 bytes, 2 ranks", rows, runs)


def _added(mode: str) -> Callable[[Results], str]:
    def figure(run: Results) -> str:
        row = row_with(run, "mode", mode)
        return MISSING if row is None else f"{row['added a call']:.2f} us"

    return figure


TABLES: Tables = {
    "faults": (faults_table, ["faults"]),
    "record": (record_table, ["overhead-monitor"]),
}
