"""Coded gradients over MPI: what a round costs, and how long trainings with stragglers take.

    mpiexec -n 9 python -m benchmarks.coding_mpi --overhead
    mpiexec -n 17 python -m benchmarks.coding_mpi [--jobs 60] [--seed 0]

The first times rounds without stragglers and with a gradient that is there already, beside a plain `Reduce`
and `Bcast` of the same bytes, in turn. The second trains by each scheme while workers sleep as a trace says,
so that a machine needs no processor for each; the parameters are those that `recommend` finds on other rounds
of the same kind of trace, and what the simulation predicts is printed beside. Gradients are checked before
they are timed.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import click
import numpy as np
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import library_key
from benchmarks.results import results_folder, write_json
from roundelay import MPI, coding
from roundelay.collectives.coding.recommend import Candidate, best_of_each, recommend
from roundelay.terminal import track

WORLD, RANK, SIZE = PLAIN.COMM_WORLD, PLAIN.COMM_WORLD.rank, PLAIN.COMM_WORLD.size
WORKERS = SIZE - 1
SIZES = tuple(1 << power for power in range(16, 25, 2))
ROUNDS, TURNS = 20, 7
# A round's seconds without the data, and all of the data's on one worker.
BASE_SECONDS, SLOPE_SECONDS = 150e-3, 500e-3
TRACE: dict[str, Any] = {"share": 0.05, "stay": 0.09, "factors": (2.0, 3.5), "base": BASE_SECONDS}
PROBED = 80
Array = NDArray[np.float32]


# Cost of a round ----------------------------------------------------------------------------------


def overhead(nbytes: int) -> dict[str, Any]:
    """Seconds of rounds of ours and of the library's own, in turn."""
    parameters, result = np.zeros(nbytes // 4, np.float32), np.ones(nbytes // 4, np.float32)
    coded = coding.CodedGradients(
        MPI.COMM_WORLD, coding.scheme("uncoded", WORKERS), lambda p, d: result, lambda p: None, parameters
    )
    ours, plain = [], []
    for _ in range(TURNS):
        ours.append(coded_rounds(coded))
        plain.append(plain_rounds(parameters, result))
    return {
        "bytes": nbytes,
        "ours": statistics.median(ours),
        "reduce and bcast": statistics.median(plain),
        "ratio": statistics.median(a / b for a, b in zip(ours, plain, strict=True)),
    }


def coded_rounds(coded: coding.CodedGradients) -> float:
    """Seconds of a round by coded gradients; the first, which begins the workers' loops, is not timed."""
    WORLD.Barrier()
    start = 0.0
    for total, info in coded.rounds(ROUNDS + 1):
        assert (total[0], total[-1]) == (WORKERS, WORKERS)
        if info.job == 0:
            start = perf_counter()
    return WORLD.bcast((perf_counter() - start) / ROUNDS)


def plain_rounds(parameters: Array, result: Array) -> float:
    """Seconds of a broadcast of parameters and a reduction of gradients."""
    total = np.empty_like(result)
    WORLD.Barrier()
    start = perf_counter()
    for _ in range(ROUNDS):
        WORLD.Bcast(parameters)
        WORLD.Reduce(result, total)
    return WORLD.bcast((perf_counter() - start) / ROUNDS)


# Trainings ----------------------------------------------------------------------------------------


def candidates(seed: int) -> list[Candidate]:
    """The best parameters of each scheme on a trace other than the one that is run, the best scheme first."""
    probed = coding.markov_trace(WORKERS, PROBED, slope=SLOPE_SECONDS, seed=seed + 1000, **TRACE)
    return best_of_each(recommend(probed))


def train(scheme: coding.Scheme, trace: coding.Trace, jobs: int, patience: float = 0.0) -> float:
    """Seconds of a training; each gradient is checked on the master."""
    models = tuple(np.zeros(1000) for _ in range(scheme.delay + 1))
    injection = None
    if RANK:
        # The time that a worker sleeps beside its share of the data, by the gradient function.
        injection = coding.Injection(trace.at(0.0)[:, RANK - 1])

    def gradient(model: NDArray[np.float64], partition: coding.Partition) -> Iterator[NDArray[np.float64]]:
        share = float(partition.stop - partition.start)
        sleep(SLOPE_SECONDS * share)
        yield model * share + share

    coded = coding.CodedGradients(
        MPI.COMM_WORLD,
        scheme,
        gradient,
        lambda each: each,
        models,
        patience=patience,
        injection=injection,
    )
    WORLD.Barrier()
    start = perf_counter()
    for totals, info in coded.rounds(jobs):
        if info.error < coding.EXACT:
            np.testing.assert_allclose(totals[0], models[info.stream] + 1, rtol=1e-6)
        models[info.stream][...] = totals[0] / 2
    return WORLD.bcast(perf_counter() - start)


def compare(jobs: int, seed: int) -> list[dict[str, Any]]:
    """Measured and predicted seconds of each scheme."""
    trace = coding.markov_trace(WORKERS, jobs + 8, slope=SLOPE_SECONDS, seed=seed, **TRACE)
    results = []
    # Decoding is compiled when it is first used.
    train(coding.scheme("uncoded", WORKERS), trace, 2)
    found = [
        (each.name, each.parameters, coding.scheme(each.name, WORKERS, **each.parameters), each.patience)
        for each in candidates(seed)
    ]
    few = max(1, WORKERS // 8)
    found.append(
        ("ignore", {"stragglers": few}, coding.GradientCoding(coding.ignore_stragglers(WORKERS, few)), 0)
    )
    for name, parameters, scheme, patience in track(found, "schemes", visible=RANK == 0):
        predicted = coding.simulate(scheme, trace, jobs, patience=patience).seconds
        results.append(
            {
                "scheme": name,
                "parameters": parameters,
                "patience": patience,
                "load": float(scheme.load),
                "seconds": train(scheme, trace, jobs, patience),
                "predicted": predicted,
            }
        )
    return results


def show(results: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print a table."""
    table = Table(*columns)
    for result in results:
        values = (result[column] for column in columns)
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values))
    Console(width=120).print(table)


@click.command()
@results_folder
@click.option("--overhead", "is_overhead", is_flag=True, help="Time rounds without stragglers.")
@click.option("--jobs", default=60, show_default=True, help="Gradients of a training.")
@click.option("--seed", default=0, show_default=True, help="Of the stragglers.")
def main(is_overhead: bool, jobs: int, seed: int, output: Path) -> None:
    """Measure rounds, or trainings."""
    load = os.getloadavg()[0]
    if is_overhead:
        name, columns = "overhead", ("bytes", "ours", "reduce and bcast", "ratio")
        results = [overhead(nbytes) for nbytes in track(SIZES, "sizes", visible=RANK == 0)]
    else:
        name, columns = "training", ("scheme", "parameters", "patience", "load", "seconds", "predicted")
        results = compare(jobs, seed)
    if RANK == 0:
        show(results, columns)
        about = {"workers": WORKERS, "load": load, "jobs": jobs}
        write_json(output / f"coding-{name}-{WORKERS}-{library_key()}.json", {**about, "rows": results})


if __name__ == "__main__":
    main()
