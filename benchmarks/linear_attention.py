"""Linear attention of a sequence that ranks share, beside softmax attention over the same ring of ranks.

    mpiexec -bind-to core -n 2 python -m benchmarks.linear_attention [--rounds 9] [--largest 8192]

Linear attention exchanges states, (heads, D, D) each, where softmax attention exchanges keys and values. All
algorithms are checked against the masked product in float64 up to 2048 tokens, and beside each other for
more. Softmax attention takes its balanced placement where it is causal. All are timed in turn.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
from mpi4py import MPI as PLAIN
from rich.console import Console
from rich.table import Table

import roundelay
from benchmarks.attention import (
    HEADS,
    SIZE,
    Array,
    Row,
    Way,
    check,
    in_turn,
    installed,
    mine,
    way,
    whole_arrays,
)
from benchmarks.measure import library_key
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.terminal import track

WORLD, RANK = PLAIN.COMM_WORLD, PLAIN.COMM_WORLD.rank
TOKENS, SOFTMAX, LASP2 = (256, 1024, 2048, 4096, 8192), "softmax ring", "all-gather"
# How states go: of all tokens, and of those before.
ALGORITHMS = {False: (LASP2, "all-reduce"), True: (LASP2, "chain", "exscan")}


def linear(name: str, row: Row, own: dict[str, Array]) -> Way:
    """Linear attention, its states exchanged by one algorithm."""
    q, k, v, dout = own.values()
    how: dict[str, Any] = {"causal": row.causal, "heads": "BHSD", "algorithm": name}

    def run() -> list[Array]:
        out = roundelay.linear_attention(q, k, v, MPI.COMM_WORLD, **how)
        if not row.backward:
            return [out]
        return [out, *roundelay.linear_attention_backward(dout, q, k, v, MPI.COMM_WORLD, **how)]

    return run


def dense(row: Row, whole: dict[str, Array]) -> list[Array]:
    """Output and gradients of q, k and v for all ranks, in float64: the masked product itself."""
    q, k, v, dout = (array[0].astype(np.float64) for array in whole.values())
    found: list[list[Array]] = []
    for head in range(HEADS):
        weights, slopes = q[head] @ k[head].T, dout[head] @ v[head].T
        if row.causal:
            weights, slopes = np.tril(weights), np.tril(slopes)
        found.append([weights @ v[head], slopes @ k[head], slopes.T @ q[head], weights.T @ dout[head]])
    return [np.stack(each)[np.newaxis] for each in zip(*found, strict=True)]


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """Check and time all algorithms for one problem."""
    whole = whole_arrays(row)
    own = {name: mine(array, row) for name, array in whole.items()}
    compared = {name: linear(name, row, own) for name in ALGORITHMS[row.causal]}
    check(row, whole, compared, dense)
    # Causal softmax attention of contiguous parts would leave the first ranks idle.
    softmax = row._replace(placement="zigzag" if row.causal else "contiguous")
    compared[SOFTMAX] = way("ring", softmax, {name: mine(array, softmax) for name, array in whole.items()})
    times = in_turn(compared, row.samples(rounds))
    return {
        **row._asdict(),
        "seconds": {name: float(np.median(each)) for name, each in times.items()},
        "softmax over": {name: float(np.median(times[SOFTMAX] / each)) for name, each in times.items()},
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print a line for each problem: milliseconds, and how many times as long softmax attention takes."""
    names = list(dict.fromkeys(name for result in results for name in result["seconds"]))
    table = Table("tokens, sizes and mask", *names, "softmax over LASP-2")
    for result in results:
        row = Row(*(result[field] for field in Row._fields))
        seconds = result["seconds"]
        times = (f"{1e3 * seconds[name]:.2f}" if name in seconds else "" for name in names)
        table.add_row(row.label, *times, f"{result['softmax over'][LASP2]:.2f}")
    Console(width=160).print(table)


@click.command()
@results_folder
@click.option("--rounds", default=9, show_default=True, help="Samples of each way.")
@click.option("--largest", default=TOKENS[-1], show_default=True, help="Tokens of a rank.")
def main(rounds: int, largest: int, output: Path) -> None:
    """Measure all problems."""
    load = os.getloadavg()[0]
    problems = [
        Row(tokens, causal, backward=backward)
        for tokens in TOKENS
        for causal in (False, True)
        for backward in (False, True)
        if tokens <= largest
    ]
    found = [measure(row, rounds) for row in track(problems, "problems", visible=RANK == 0)]
    if RANK == 0:
        show(found)
        file = output / f"attention-linear-{SIZE}-{library_key()}.json"
        write_json(file, {"ranks": SIZE, "installed": installed(), "load": load, "rows": found})


if __name__ == "__main__":
    main()
