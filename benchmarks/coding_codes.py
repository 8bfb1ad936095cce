"""Gradient codes: errors and times of decoding up to 256 workers, and the rate of the weighted sum.

    python -m benchmarks.coding_codes [--rounds 21] [--sets 100]

For each code: over runs of neighbouring stragglers and random ones, how far a decoding is from the sum at
worst, its largest coefficient, and the relative error of a gradient whose messages went as float32 and as
float16; and the median time to find the coefficients for stragglers that were not seen before. The weighted
sum of 16 vectors of 16 MiB is timed in turn with a sum that reads as many bytes as it reads and writes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import click
import numpy as np
from numba import njit
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import ratio, time_in_turn
from benchmarks.results import results_folder, write_json
from roundelay.collectives.coding.catalogue import best_code
from roundelay.collectives.coding.code import Code
from roundelay.collectives.coding.cyclic import cyclic_mds, cyclic_repetition
from roundelay.collectives.coding.repetition import fractional_repetition
from roundelay.collectives.coding.rounding import rounding_gain, straggler_sets
from roundelay.collectives.coding.weighted import weighted_sum
from roundelay.terminal import track

# Workers and stragglers: where equal groups are possible, and next to it where nothing divides the workers.
SIZES = (
    (8, 1),
    (8, 2),
    (16, 3),
    (16, 4),
    (32, 3),
    (32, 5),
    (32, 4),
    (64, 7),
    (64, 8),
    (128, 15),
    (128, 12),
    (256, 27),
    (256, 8),
)
LENGTH = 1000
VECTORS, BYTES = 16, 16 << 20


class Row(NamedTuple):
    """Measurements of one code."""

    code: str
    workers: int
    stragglers: int
    residual: float
    coefficient: float
    gain: float
    float32: float
    float16: float
    milliseconds: float


def codes(workers: int, stragglers: int) -> Iterator[Code]:
    """The codes that there are for such numbers."""
    if workers % (stragglers + 1) == 0:
        yield fractional_repetition(workers, stragglers)
    if workers <= 64 and (workers - stragglers) % 2 == 1:
        yield cyclic_mds(workers, stragglers)
    yield cyclic_repetition(workers, stragglers)
    if 2 * (stragglers + 1) <= workers and workers % (stragglers + 1):
        yield best_code(workers, stragglers)


def measured(code: Code, sets: int) -> Row:
    """Errors for the sets of stragglers that are judged by, and times for others."""
    gradients = np.random.default_rng(0).standard_normal((code.partitions, LENGTH))
    whole = gradients.sum(axis=0)
    messages = np.array(
        [code.encode(worker, list(gradients[list(held)])) for worker, held in enumerate(code.placement)]
    )
    residual = coefficient = 0.0
    errors: dict[str, list[float]] = {"float32": [], "float16": []}
    for lost in straggler_sets(code.workers, code.stragglers):
        decoding = code.decode(set(range(code.workers)).difference(lost))
        assert decoding is not None, f"{code} does not do without {lost}"
        residual = max(residual, decoding.error)
        coefficient = max(coefficient, float(np.abs(decoding.coefficients).max()))
        for dtype, found_errors in errors.items():
            found = decoding.coefficients[0] @ messages[list(decoding.workers)].astype(dtype).astype(float)
            found_errors.append(float(np.linalg.norm(found - whole) / np.linalg.norm(whole)))
    return Row(
        code.name,
        code.workers,
        code.stragglers,
        residual,
        coefficient,
        rounding_gain(code),
        max(errors["float32"]),
        max(errors["float16"]),
        1e3 * decode_seconds(code, sets),
    )


def decode_seconds(code: Code, sets: int) -> float:
    """Median time to find the coefficients for stragglers that were not seen before."""
    rng, spent = np.random.default_rng(1), []
    for _ in range(sets):
        returned = rng.permutation(code.workers)[code.stragglers :].tolist()
        start = perf_counter()
        # As `decode` does for what it has not kept.
        code._solve(frozenset(returned))
        spent.append(perf_counter() - start)
    return statistics.median(spent)


@njit(nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def read(vector: Any) -> float:
    """Sum of a vector, with as many additions at once as the processor likes."""
    total = 0.0
    for k in range(vector.size):
        total += vector[k]
    return total


def weighted_sums(rounds: int) -> dict[str, float]:
    """Rates of the weighted sum and of reading, in GB/s, and the first as a share of the second."""
    rng = np.random.default_rng(0)
    whole: NDArray[np.float32] = rng.standard_normal((VECTORS + 1) * BYTES // 4, np.float32)
    out, *vectors = np.split(whole, VECTORS + 1)
    weights = rng.standard_normal(VECTORS).tolist()
    expected = np.tensordot(weights, np.array(vectors)[:, :1000].astype(np.float64), 1)
    calls: dict[str, Callable[[], Any]] = {
        "weighted sum": lambda: weighted_sum(vectors, weights, out),
        "read": lambda: read(whole),
    }
    samples = time_in_turn(calls, rounds)
    np.testing.assert_allclose(out[:1000], expected, rtol=1e-5, atol=1e-6)
    rates = {name: whole.nbytes / statistics.median(each) / 1e9 for name, each in samples.items()}
    return {**rates, "share": ratio(samples, "read", "weighted sum")}


def show(rows: list[Row], sums: dict[str, float]) -> None:
    """Print a table."""
    table = Table(title="Codes: at worst over sets of stragglers")
    for name in ("code", "n", "s", "residual", "max |a|", "gain", "float32", "float16", "decode, ms"):
        table.add_column(name, justify="left" if name == "code" else "right")
    for row in rows:
        figures = (row.residual, row.float32, row.float16)
        residual, single, half = (f"{each:.0e}" for each in figures)
        table.add_row(
            row.code,
            str(row.workers),
            str(row.stragglers),
            residual,
            f"{row.coefficient:.3g}",
            f"{row.gain:.3g}",
            single,
            half,
            f"{row.milliseconds:.3f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print(
        f"Weighted sum of {VECTORS} vectors of {BYTES >> 20} MiB: {sums['weighted sum']:.1f} GB/s, "
        f"{sums['share']:.2f} of {sums['read']:.1f} GB/s, at which memory is read"
    )


@click.command()
@results_folder
@click.option("--rounds", default=21, show_default=True, help="Samples of the weighted sum.")
@click.option("--sets", default=100, show_default=True, help="Sets of stragglers whose decoding is timed.")
def main(rounds: int, sets: int, output: Path) -> None:
    """Measure codes and the weighted sum, print a table and write the figures."""
    every = [code for size in SIZES for code in codes(*size)]
    rows = [measured(code, sets) for code in track(every, "codes")]
    sums = weighted_sums(rounds)
    show(rows, sums)
    results = {"rows": [row._asdict() for row in rows], "weighted_sum": sums}
    write_json(output / "coding-codes.json", results)


if __name__ == "__main__":
    main()
