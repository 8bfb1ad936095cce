"""Pack and unpack of the DDTBench datatypes: ours, the MPI library's, NumPy's, and a contiguous copy.

    python -m benchmarks.pack [--rounds 21] [--only NAS]

"ours" is what a program gets: `Datatype.Pack` of `roundelay.MPI`. "kernel" is the copy loop alone, as a send
or receive runs it, on a program and addresses that are known by then. Each row checks the bytes against the
library's own before it is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.ddtbench import Case, cases
from benchmarks.measure import by_library, library_key, ratio, time_in_turn
from benchmarks.results import results_folder, write_json
from roundelay import MPI, Layout
from roundelay.datatypes.movers import PACK, UNPACK, mover
from roundelay.datatypes.program import Program
from roundelay.terminal import track

Bytes = NDArray[np.uint8]
LARGE_ROW = 16 << 10


class Setting(NamedTuple):
    """Memory of one row: the datatype's first instance, its packed bytes, and a contiguous copy of them."""

    memory: Bytes
    packed: Bytes
    contiguous: Bytes


@click.command()
@results_folder
@click.option("--rounds", default=21, show_default=True, help="Samples of each alternative.")
@click.option("--only", default="", help="Only tests whose name contains this.")
def main(rounds: int, only: str, output: Path) -> None:
    """Time every DDTBench row and print ours beside the alternatives."""
    chosen = [case for case in cases() if only in case.name]
    rows = [
        measure(case, direction, rounds)
        for case in track(chosen, "measuring")
        for direction in ("pack", "unpack")
    ]
    show(rows)
    write_json(output / f"pack-{library_key()}.json", {"rows": rows, "summary": summarize(rows)})


def measure(case: Case, direction: str, rounds: int) -> dict[str, Any]:
    """Time one row in one direction."""
    packs = direction == "pack"
    build, origin = (case.send, case.send_origin) if packs else (case.recv, case.recv_origin)
    ours, plain = build(MPI), build(PLAIN)
    arena = np.arange(case.arena_bytes // 8 + 1).view(np.uint8)
    extent = plain.Get_extent()[1]
    setting = Setting(
        arena[origin : origin + extent],
        np.zeros(case.packed_bytes, np.uint8),
        np.zeros(case.packed_bytes, np.uint8),
    )
    layout = Layout.from_datatype(plain)
    numpy_copy = _numpy_copy(arena[origin:], layout, setting.packed, packs)
    calls: dict[str, Callable[[], Any]] = {
        "ours": _call(ours, setting, packs),
        "kernel": _kernel_call(layout, setting, packs),
        "library": _call(plain, setting, packs),
        "numpy": numpy_copy,
        "memcpy": lambda: np.copyto(setting.packed, setting.contiguous),
    }
    check(calls, setting, arena, packs, f"{case.name} {case.row} {direction}")
    samples = time_in_turn(calls, rounds, alone=("library",))
    offsets, lengths = layout.runs()
    ours.Free()
    plain.Free()
    return {
        "test": case.name,
        "row": case.row,
        "direction": direction,
        "bytes": case.packed_bytes,
        "runs": len(lengths),
        "run_bytes": float(lengths.mean()),
        "span": int((offsets + lengths).max() - offsets.min()),
        "microseconds": {name: 1e6 * statistics.median(times) for name, times in samples.items()},
        "library/ours": ratio(samples, "library", "ours"),
        "library/kernel": ratio(samples, "library", "kernel"),
        "numpy/ours": ratio(samples, "numpy", "ours"),
        "kernel/memcpy": ratio(samples, "kernel", "memcpy"),
    }


# The kernel is given the address of a program, which must stay.
_programs: list[Program] = []


def _kernel_call(layout: Layout, setting: Setting, packs: bool) -> Callable[[], Any]:
    run, program = mover(), Program(layout)
    _programs.append(program)
    direction, address = PACK if packs else UNPACK, program.address
    packed, memory = PLAIN.Get_address(setting.packed), PLAIN.Get_address(setting.memory)
    return lambda: run(direction, packed, memory, address, 1)


def _call(datatype: Any, setting: Setting, packs: bool) -> Callable[[], Any]:
    memory, packed, comm = setting.memory, setting.packed, PLAIN.COMM_SELF
    if packs:
        return lambda: datatype.Pack(memory, packed, 0, comm)
    return lambda: datatype.Unpack(packed, 0, memory, comm)


def _numpy_copy(memory: Bytes, layout: Layout, packed: Bytes, packs: bool) -> Callable[[], Any]:
    """A copy as one would write it by hand: a strided copy of equal rows, else indexing by elements."""
    offsets, lengths = layout.runs()
    word = gcd(16, *map(int, np.unique(lengths)), *map(int, np.unique(offsets % 16)))
    kind = np.dtype(f"V{word}") if word not in (1, 2, 4, 8) else np.dtype(f"u{word}")
    elements = memory[: len(memory) // word * word].view(kind)
    target = packed.view(kind)
    steps = np.repeat(offsets // word, lengths // word)
    index = (
        steps
        + np.arange(len(steps))
        - np.repeat(np.cumsum(lengths // word) - lengths // word, lengths // word)
    )
    view = _strided(elements, index)
    if packs:
        if view is None:
            return lambda: np.take(elements, index, out=target, mode="clip")
        return lambda: np.copyto(target.reshape(view.shape), view)
    if view is None:
        return lambda: elements.__setitem__(index, target)
    return lambda: np.copyto(view, target.reshape(view.shape))


def _strided(elements: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any] | None:
    """View of `elements` with the regular index as its shape; None for an index that is not regular."""
    shape: list[int] = []
    strides: list[int] = []
    places = index
    while len(places) > 1:
        steps = np.diff(places)
        breaks = np.flatnonzero(steps != steps[0])
        count = int(breaks[0]) + 1 if len(breaks) else len(places)
        if len(places) % count or count == 1:
            return None
        shape.insert(0, count)
        strides.insert(0, int(steps[0]) * elements.itemsize)
        places = places[::count]
    view = np.lib.stride_tricks.as_strided(elements[int(index[0]) :], shape, strides)
    numbers = np.lib.stride_tricks.as_strided(
        np.arange(len(elements))[int(index[0]) :],
        shape,
        [stride // elements.itemsize * 8 for stride in strides],
    )
    return view if np.array_equal(numbers.ravel(), index) else None


def check(calls: dict[str, Callable[[], Any]], setting: Setting, arena: Bytes, packs: bool, row: str) -> None:
    """Compare what ours and NumPy move with what the library moves, byte for byte."""
    moved = {}
    rng = np.random.default_rng(1)
    message = rng.integers(0, 256, len(setting.packed), np.uint8)
    before = arena.copy()
    for name in ("library", "ours", "kernel", "numpy"):
        setting.packed[:] = 0 if packs else message
        arena[:] = before
        with by_library(name == "library"):
            calls[name]()
        moved[name] = setting.packed.copy() if packs else arena.copy()
    arena[:] = before
    for name in ("ours", "kernel", "numpy"):
        if not np.array_equal(moved[name], moved["library"]):
            raise click.ClickException(f"{row}: {name} moves other bytes than the library")


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over the rows of 16 KiB and more, and over long runs that fit the cache."""
    summary: dict[str, Any] = {}
    for direction in ("pack", "unpack"):
        large = [row for row in rows if row["direction"] == direction and row["bytes"] >= LARGE_ROW]
        if not large:
            continue
        gains = [row["library/ours"] for row in large]
        summary[direction] = {
            "rows": len(large),
            "geometric mean of library/ours": statistics.geometric_mean(gains),
            "slowest row": min(gains),
            "slowest row is": min(large, key=lambda row: row["library/ours"])["test"],
            "geometric mean of library/kernel": statistics.geometric_mean(
                row["library/kernel"] for row in large
            ),
        }
        cached = [row for row in large if row["run_bytes"] >= 64 and row["span"] + row["bytes"] <= 512 << 10]
        if cached:
            worst = max(cached, key=lambda row: row["kernel/memcpy"])
            summary[direction]["runs of 64 B and more in cache: worst kernel/memcpy"] = worst["kernel/memcpy"]
            summary[direction]["which is"] = f"{worst['test']} {worst['row']}"
    return summary


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of rows and the summary."""
    headings = (
        "test",
        "row",
        "",
        "bytes",
        "run",
        "ours us",
        "kernel",
        "library",
        "numpy",
        "memcpy",
        "library/ours",
        "library/kernel",
        "kernel/memcpy",
    )
    table = Table(*headings, show_edge=False)
    for row in rows:
        times = row["microseconds"]
        table.add_row(
            row["test"],
            row["row"],
            row["direction"],
            f"{row['bytes']}",
            f"{row['run_bytes']:.0f}",
            *(f"{times[name]:.2f}" for name in ("ours", "kernel", "library", "numpy", "memcpy")),
            f"{row['library/ours']:.2f}",
            f"{row['library/kernel']:.2f}",
            f"{row['kernel/memcpy']:.2f}",
        )
    console = Console(width=160)
    console.print(table)
    for direction, figures in summarize(rows).items():
        console.print(direction, figures)


if __name__ == "__main__":
    main()
