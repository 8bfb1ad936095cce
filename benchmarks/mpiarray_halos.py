"""Halos of mpiarray, an unmodified package over mpi4py, with roundelay in its process and without.

    pip install mpiarray==0.2.1
    mpiexec -n 2 python -m benchmarks.mpiarray_halos [--rounds 101]

Only this benchmark needs mpiarray, and no extra of roundelay installs it. Each rank has a cube of doubles
with a frame of one cell, and the cubes lie side by side along one axis, in a ring. `update_halos` exchanges
the two faces across that axis, as subarray types: a single run across the first axis, runs of a row across
the second, and runs of one double across the last. Each row checks both faces before it is timed.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
from mpi4py import MPI as PLAIN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import by_library, library_key, ratio
from benchmarks.packages import require
from benchmarks.pingpong import PEER, RANK, WORLD, require_two_ranks, time_in_step
from benchmarks.problems import filled
from benchmarks.results import results_folder, write_json
from roundelay.comm.interposer import interposer
from roundelay.terminal import track

SIZES = (32, 64, 96, 128, 192)
AXES = (0, 1, 2)
# How many times as fast as without roundelay an update shall be at least.
TARGET = 0.98


def measure(package: ModuleType, axis: int, size: int, rounds: int) -> dict[str, Any]:
    """Time updates of cubes of one size that lie side by side along an axis."""
    shape = [size] * 3
    shape[axis] *= WORLD.size
    cube = package.zeros(shape, split=axis, halo=1, periodic=tuple(each == axis for each in AXES))
    check(cube, axis)

    def run(count: int) -> None:
        for _ in range(count):
            cube.update_halos()

    samples = time_in_step({"roundelay": run, "alone": run}, rounds, alone=("alone",))
    return {
        "axis": axis,
        "size": size,
        "microseconds": {name: 1e6 * statistics.median(times) for name, times in samples.items()},
        "alone/roundelay": ratio(samples, "alone", "roundelay"),
    }


def check(cube: Any, axis: int) -> None:
    """Compare what each way receives with the faces of the other rank's cube."""
    shape = cube.local.shape
    theirs = np.moveaxis(filled(PEER, shape, "f8"), axis, 0)
    inside = np.moveaxis(cube.local_with_halos, axis, 0)[:, 1:-1, 1:-1]
    cube.local[...] = filled(RANK, shape, "f8")
    for alone in (False, True):
        inside[[0, -1]] = 0
        with by_library(alone):
            cube.update_halos()
        good = np.array_equal(inside[[0, -1]], theirs[[-1, 0]])
        if not WORLD.allreduce(good, PLAIN.LAND):
            raise click.ClickException(f"{shape}, axis {axis}: other cells than the neighbour's arrive")


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all rows."""
    gains = [row["alone/roundelay"] for row in rows]
    return {
        "geometric mean of alone/roundelay": statistics.geometric_mean(gains),
        "smallest alone/roundelay": min(gains),
        "target": TARGET,
        "rows below the target": sum(gain < TARGET for gain in gains),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of rows and the summary."""
    table = Table("axis", "cube", "roundelay us", "alone us", "alone/roundelay", show_edge=False)
    for row in rows:
        times = row["microseconds"]
        table.add_row(
            f"{row['axis']}",
            f"{row['size']}",
            f"{times['roundelay']:.1f}",
            f"{times['alone']:.1f}",
            f"{row['alone/roundelay']:.2f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print(summarize(rows))


@click.command()
@results_folder
@click.option("--rounds", default=101, show_default=True, help="Samples of each way.")
@click.option("--largest", default=SIZES[-1], show_default=True, help="Length of the largest cubes.")
def main(rounds: int, largest: int, output: Path) -> None:
    """Time mpiarray's halos with roundelay and without."""
    package = require("mpiarray", "pip install mpiarray==0.2.1")
    require_two_ranks()
    interposer()
    rows = [
        measure(package, axis, size, rounds)
        for axis, size in track(
            [(axis, size) for axis in AXES for size in SIZES if size <= largest],
            "measuring",
            visible=RANK == 0,
        )
    ]
    if RANK == 0:
        show(rows)
        results = {"mpiarray": package.__version__, "rows": rows, "summary": summarize(rows)}
        write_json(output / f"mpiarray-halos-{library_key()}.json", results)


if __name__ == "__main__":
    main()
