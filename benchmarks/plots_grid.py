"""Tables of exchanges of two dimensions beside copies by hand, and of the halos of mpiarray."""

from __future__ import annotations

from typing import Any

from benchmarks.drawing import MISSING, Results, Tables, library_of, values_of

RATIOS = ("ours/hand", "array/hand", "library/hand")
FACES = ("first axis, a single run", "second axis, runs of a row", "last axis, runs of one double")


def grid_table(runs: list[Results]) -> str:
    """Times relative to copies by hand: a line for each problem and call, a column for each size."""
    sizes = sorted(values_of(runs, "size"))
    lines = []
    for run in runs:
        cells = {(row["problem"], row["call"], row["size"]): row for row in run["rows"]}
        for problem, call in dict.fromkeys((problem, call) for problem, call, _ in cells):
            figures = [_ratios(cells.get((problem, call, size), {})) for size in sizes]
            lines.append([library_of(run), problem, call, *figures])
    return _table(["library", "problem", "call", *map(str, sizes)], lines, words=3)


def halos_table(runs: list[Results]) -> str:
    """How many times as fast as without roundelay halos are updated."""
    sizes = sorted(values_of(runs, "size"))
    lines = []
    for run in runs:
        gains = {(row["axis"], row["size"]): f"{row['alone/roundelay']:.2f}" for row in run["rows"]}
        for axis, name in enumerate(FACES):
            lines.append([library_of(run), name, *(gains.get((axis, size), MISSING) for size in sizes)])
    return _table(["library", "faces across the", *map(str, sizes)], lines, words=2)


def _ratios(row: dict[str, Any]) -> str:
    return " / ".join(f"{row[name]:.2f}" if name in row else MISSING for name in RATIOS)


def _table(head: list[str], lines: list[list[str]], words: int) -> str:
    rule = "|---" * words + "|---:" * (len(head) - words) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


TABLES: Tables = {
    "grid": (grid_table, ["grid-2"]),
    "mpiarray-halos": (halos_table, ["mpiarray-halos"]),
}
