"""Every allreduce beside the MPI library's own and the one that is chosen, from 8 B to 16 MiB.

    mpiexec -n 4 python -m benchmarks.allreduce [--rounds 15] [--largest 16777216]

or, on an emulated cluster,

    python -m benchmarks.netlab --hosts 8 -- python -m benchmarks.allreduce --name netlab

All ways are timed in turn within one run, in changing order. A sample is as many calls in a row as take some
300 microseconds, and at least three; its time is that of the last rank to finish since the moment when
all were to start. On one machine, of which an emulated cluster is a part, the ranks' clocks are the same.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import click
import numpy as np
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import roundelay
from benchmarks.measure import library_key
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.collectives.catalogue import Setting, members
from roundelay.collectives.processes import Wanted
from roundelay.collectives.selection import rank_candidates
from roundelay.collectives.service import service_of

WORLD, RANK = PLAIN.COMM_WORLD, PLAIN.COMM_WORLD.rank
SAMPLE_SECONDS, CALLS = 300e-6, 3
Floats = NDArray[np.float64]
Way = Callable[[], Any]


def sizes(largest: int) -> list[int]:
    """From 8 B on, each four times the one before, through 1 KiB and 1 MiB; and 8 MiB."""
    return [
        nbytes
        for nbytes in (8, *(64 << 2 * step for step in range(9)), 8 << 20, 16 << 20)
        if nbytes <= largest
    ]


def ways(own: Floats, result: Floats) -> dict[str, tuple[Way, float | None]]:
    """Ways to be compared, and the time of each by the model of the links or by measurement."""
    service = service_of(MPI.COMM_WORLD)
    native = service.table.native_seconds("allreduce", service.nodes, own.nbytes)
    found: dict[str, tuple[Way, float | None]] = {
        "native": (lambda: WORLD.Allreduce(own, result), native),
        "auto": (lambda: MPI.COMM_WORLD.Allreduce(own, result), None),
    }
    setting = Setting(WORLD.size, nodes=service.nodes)
    available = {each.name for each in members("allreduce", setting)}
    if len(service.nodes) in (1, WORLD.size):
        # There are no two levels.
        available.discard("hierarchical")
    for name in sorted(available):
        best = rank_candidates("allreduce", setting, own.nbytes, service.table, name)[0]
        found[name] = (way(name, own, result), best.seconds)
    return found


def way(name: str, own: Floats, result: Floats) -> Way:
    """Run the member of a family that is predicted to be its fastest."""
    return lambda: roundelay.allreduce(MPI.COMM_WORLD, own, result, algorithm=name)


def chosen_name(nbytes: int) -> str:
    """Name of what is chosen for a size."""
    chosen = service_of(MPI.COMM_WORLD).choose(Wanted("allreduce", nbytes)).current
    return "native" if chosen is None else str(chosen.algorithm)


def check(name: str, run: Way, own: Floats, result: Floats) -> None:
    """Raise `AssertionError` on all ranks if a way gives another sum than the others."""
    result[:] = np.nan
    run()
    expected = WORLD.size * (WORLD.size - 1) / 2 + WORLD.size * own[:1]
    right = bool(np.all(result == expected - WORLD.size * RANK))
    if not WORLD.allreduce(right, PLAIN.LAND):
        raise AssertionError(f"{name}: wrong sum of {own.nbytes} bytes")


def sample(run: Way, count: int) -> float:
    """Seconds a call, on the rank that takes longest, since all were to start."""
    start = WORLD.bcast(perf_counter() + slack())
    while (left := start - perf_counter()) > 0:
        # Ranks that wait leave the processor to those that are still to know; a sleep ends some 60 us late.
        if left > 200e-6:
            sleep(left - 200e-6)
        else:
            os.sched_yield()
    for _ in range(count):
        run()
    spent = perf_counter() - start
    return float(WORLD.allreduce(spent, PLAIN.MAX)) / count


_slack: list[float] = []


def slack() -> float:
    """How long it takes until all ranks know when to start."""
    if not _slack:
        begin = perf_counter()
        for _ in range(5):
            WORLD.bcast(WORLD.allreduce(0.0))
        _slack.append(WORLD.allreduce((perf_counter() - begin) / 5, PLAIN.MAX) + 20e-6)
    return _slack[0]


def measure(nbytes: int, rounds: int) -> dict[str, Any]:
    """Time all ways for one size."""
    own = np.full(nbytes // 8, float(RANK))
    result = np.empty_like(own)
    compared = ways(own, result)
    counts = {}
    for name, (run, _) in compared.items():
        check(name, run, own, result)
        counts[name] = max(CALLS, int(WORLD.bcast(SAMPLE_SECONDS / max(sample(run, 3), 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in compared}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(compared), len(compared)):
            samples[name].append(sample(compared[name][0], counts[name]))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    best = min(medians, key=lambda name: medians[name])
    chosen = chosen_name(nbytes)
    # The cost of the choice, not of the call: where the library's own is chosen, mpi4py alone is timed.
    taken = medians["native" if chosen == "native" else "auto"]
    return {
        "bytes": nbytes,
        "chosen": chosen,
        "seconds": medians,
        "predicted": {name: seconds for name, (_, seconds) in compared.items()},
        "native/auto": statistics.median(
            a / b for a, b in zip(samples["native"], samples["auto"], strict=True)
        ),
        "best": best,
        "regret": taken / medians[best] - 1,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows: microseconds, and what was chosen."""
    names = list(rows[0]["seconds"])
    table = Table("bytes", "chosen", "native/auto", "regret", *names)
    for row in rows:
        times = (f"{1e6 * row['seconds'][name]:.1f}" if name in row["seconds"] else "" for name in names)
        table.add_row(
            str(row["bytes"]),
            row["chosen"],
            f"{row['native/auto']:.2f}",
            f"{100 * row['regret']:.0f} %",
            *times,
        )
    Console(width=220).print(table)


@click.command()
@results_folder
@click.option("--rounds", default=15, show_default=True, help="Samples of each way.")
@click.option("--largest", default=16 << 20, show_default=True, help="Bytes of the largest array.")
@click.option("--name", default="node", show_default=True, help="Of the setting, in the name of the JSON.")
def main(rounds: int, largest: int, name: str, output: Path) -> None:
    """Measure all ways at all sizes."""
    MPI.COMM_WORLD.Set_info(MPI.Info.Create({"roundelay_allreduce": "auto"}))
    rows = []
    for nbytes in sizes(largest):
        rows.append(measure(nbytes, rounds))
        if RANK == 0:
            row = rows[-1]
            print(f"{nbytes} B: {row['chosen']}, {1e6 * row['seconds']['auto']:.1f} us", flush=True)
    if RANK:
        return
    show(rows)
    regret = statistics.mean(row["regret"] for row in rows)
    Console().print(f"regret, mean over all sizes: {100 * regret:.1f} %")
    file = f"allreduce-{name}-{WORLD.size}-{library_key()}.json"
    write_json(output / file, {"ranks": WORLD.size, "regret": regret, "rows": rows})


if __name__ == "__main__":
    main()
